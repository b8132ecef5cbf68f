#!/usr/bin/python3
"""What an epoch costs in KVM: calls, exits, faults, counted by the kernel.

SPDX-License-Identifier: GPL-2.0-or-later

    tests/kvm/inside/counting.py [--seconds N] [NAME...] > counts

Runs in the rig, as root; tests/kvm/count makes a table of what it prints,
one JSON object a line. Each counter is one that counts by itself all the
time: histograms of tracefs over trace points, and KVM's own figures in
debugfs. Nothing is switched on or off between two readings, and what QEMU
says of its epochs is read before and after them, so how many epochs a count
is of is known to the few that end while the counters are read. What others
are compared with, exits and faults, is read before and after those, too: a
reading takes a second where the machine is busy.

How long calls take is another measurement after that, for a second: both
ends of each call are recorded, which makes the pause longer. So these times
are good for their ratio to the pauses of that second only.
"""

import argparse
import collections
import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [HERE, os.path.join(ROOT, 'tests', 'functional'),
                os.path.join(ROOT, 'tests', 'chaos')]
import harness  # noqa: E402
import linux  # noqa: E402
import redispair  # noqa: E402

TRACING = '/sys/kernel/tracing'
DEBUG = '/sys/kernel/debug/kvm'
KVM_RUN, KVM_GET_MSRS = 0xae80, 0xae88
PARTS = 'stop', 'harvest', 'copy', 'devices', 'resume'

# linux/kvm.h: what the number of a call means, by what it is called on.
SYSTEM = {0x00: 'GET_API_VERSION', 0x03: 'CHECK_EXTENSION'}
VM = {
    0x03: 'CHECK_EXTENSION', 0x42: 'GET_DIRTY_LOG',
    0x46: 'SET_USER_MEMORY_REGION', 0x49: 'SET_USER_MEMORY_REGION2',
    0x61: 'IRQ_LINE', 0x62: 'GET_IRQCHIP', 0x63: 'SET_IRQCHIP',
    0x67: 'IRQ_LINE_STATUS', 0x6a: 'SET_GSI_ROUTING', 0x76: 'IRQFD',
    0x79: 'IOEVENTFD', 0x7b: 'SET_CLOCK', 0x7c: 'GET_CLOCK',
    0x9f: 'GET_PIT2', 0xa0: 'SET_PIT2', 0xa5: 'SIGNAL_MSI',
    0xc0: 'CLEAR_DIRTY_LOG', 0xc7: 'RESET_DIRTY_RINGS'}
VCPU = {
    0x80: 'RUN', 0x81: 'GET_REGS', 0x82: 'SET_REGS', 0x83: 'GET_SREGS',
    0x84: 'SET_SREGS', 0x86: 'INTERRUPT', 0x88: 'GET_MSRS',
    0x89: 'SET_MSRS', 0x8c: 'GET_FPU', 0x8d: 'SET_FPU', 0x8e: 'GET_LAPIC',
    0x8f: 'SET_LAPIC', 0x98: 'GET_MP_STATE', 0x99: 'SET_MP_STATE',
    0x9a: 'NMI', 0x9f: 'GET_VCPU_EVENTS', 0xa0: 'SET_VCPU_EVENTS',
    0xa1: 'GET_DEBUGREGS', 0xa2: 'SET_DEBUGREGS', 0xa4: 'GET_XSAVE',
    0xa5: 'SET_XSAVE', 0xa6: 'GET_XCRS', 0xa7: 'SET_XCRS',
    0xad: 'KVMCLOCK_CTRL', 0xb7: 'SMI', 0xbe: 'GET_NESTED_STATE',
    0xbf: 'SET_NESTED_STATE', 0xcc: 'GET_SREGS2', 0xcd: 'SET_SREGS2',
    0xcf: 'GET_XSAVE2', 0xe1: 'SET_DEVICE_ATTR', 0xe2: 'GET_DEVICE_ATTR'}
NAMES = {'kvm': SYSTEM, 'vm': VM, 'vcpu': VCPU}

# Why a guest exits, by AMD's manual.
EXITS = {0x60: 'interrupt', 0x61: 'nmi', 0x64: 'interrupt window',
         0x65: 'cr0 selective write', 0x72: 'cpuid', 0x77: 'pause',
         0x78: 'hlt', 0x7b: 'port', 0x7c: 'msr', 0x81: 'vmmcall',
         0x400: 'page fault'}
# Of a nested page fault's error code.
PRESENT, WRITE, RESERVED = 1, 2, 8


def put(path, words):
    with open(path, 'w', encoding='ascii') as file:
        file.write(words)


class Histograms:
    """Counts of trace points by keys, from now until close()."""

    # name -> (trace point, keys)
    WANTED = {
        'ioctl': ('syscalls/sys_enter_ioctl', 'common_pid,fd,cmd'),
        'exit': ('kvm/kvm_exit', 'common_pid,exit_reason'),
        'user': ('kvm/kvm_userspace_exit', 'common_pid,reason,errno'),
        'fault': ('kvm/kvm_page_fault', 'common_pid,error_code'),
        'push': ('kvm/kvm_dirty_ring_push', 'common_pid'),
        'spte': ('kvmmmu/kvm_tdp_mmu_spte_changed', 'common_pid'),
        'fast': ('kvmmmu/fast_page_fault', 'common_pid')}
    LINE = re.compile(r'^\{ (.*) \} hitcount: +(\d+)', re.MULTILINE)

    def __init__(self):
        self.on = {}
        for name, (point, keys) in self.WANTED.items():
            place = f'{TRACING}/events/{point}'
            if os.path.isdir(place):
                words = f'hist:keys={keys}:size=8192'
                put(f'{place}/trigger', words)
                self.on[name] = place, words

    def close(self):
        for place, words in self.on.values():
            put(f'{place}/trigger', '!' + words)

    def read(self, name):
        """{(key, ...): count}, keys as numbers."""
        if name not in self.on:
            return {}
        with open(f'{self.on[name][0]}/hist', encoding='ascii') as file:
            text = file.read()
        dropped = re.search(r'Dropped: (\d+)', text)
        if dropped and int(dropped[1]):
            raise harness.Broken(f'histogram {name} is full')
        return {tuple(int(item.split(':')[1].strip(), 0)
                      for item in keys.split(',')): int(count)
                for keys, count in self.LINE.findall(text)}


class Process:
    """A QEMU, as the kernel sees it."""

    def __init__(self, pid):
        self.pid = pid
        self.kinds = {}             # file descriptor -> what it is

    def threads(self):
        return {int(name) for name in os.listdir(f'/proc/{self.pid}/task')}

    def kind(self, fd):
        """'vm', 'vcpu', 'kvm', or something else."""
        if fd not in self.kinds:
            try:
                path = os.readlink(f'/proc/{self.pid}/fd/{fd}')
            except OSError:
                path = 'closed'
            match = re.match(r'anon_inode:kvm-(vm$|vcpu)|/dev/(kvm)$', path)
            self.kinds[fd] = match[1] or match[2] if match else \
                os.path.basename(path)
        return self.kinds[fd]

    def name(self, fd, command):
        kind = self.kind(fd)
        if kind in NAMES and command >> 8 & 0xff == 0xae:
            number = command & 0xff
            return f'{kind} {NAMES[kind].get(number, hex(command))}'
        return f'other {kind} {command:#x}'

    def figures(self):
        """KVM's own, of the machine with its vCPUs."""
        out = collections.Counter()
        for name in os.listdir(DEBUG):
            if not name.startswith(f'{self.pid}-'):
                continue
            for entry in os.scandir(f'{DEBUG}/{name}'):
                if entry.is_file():
                    with open(entry.path, encoding='ascii') as file:
                        text = file.read().strip()
                    if text.isdigit():          # some are tables
                        out[entry.name] += int(text)
        return dict(out)


class Reading:
    """All counters of a primary at one moment, nearly."""

    TWICE = 'exit', 'fault'

    def __init__(self, machine, histograms):
        process = Process(machine.process.pid)
        self.time = time.monotonic()
        self.status = machine.query()
        first = {name: histograms.read(name) for name in self.TWICE}
        self.calls = histograms.read('ioctl')
        self.figures = process.figures()
        self.hist = {name: histograms.read(name) for name in histograms.on
                     if name != 'ioctl' and name not in self.TWICE}
        last = {name: histograms.read(name) for name in self.TWICE}
        self.hist.update(last)
        self.twice = first, last
        self.threads = process.threads()
        # The main loop answers, so no epoch is cut in half.
        self.after = machine.query()
        self.epochs = (self.status.get('epoch', 0),
                       self.after.get('epoch', 0))
        self.end = time.monotonic()

    def pause(self):
        """Sums of microseconds."""
        parts = self.status.get('pause', {})
        return {name: part['mean'] * part['count']
                for name, part in parts.items()}


def less(after, before, threads=None):
    """What has been added; of these threads only, if given."""
    out = {}
    for key, count in after.items():
        count -= before.get(key, 0)
        if count and (threads is None or key[0] in threads):
            out[key] = count
    return out


def summed(counts, name):
    """By the name of what is behind the thread in each key."""
    out = collections.Counter()
    for key, count in counts.items():
        out[name(*key[1:])] += count
    return dict(out)


def fault_name(code):
    if code & RESERVED:
        return 'no memory'
    return ('write, ' if code & WRITE else 'read, ') + \
        ('present' if code & PRESENT else 'not present')


def user_name(reason, error):
    if error:
        return 'signal'
    return {2: 'port', 6: 'mmio', 31: 'dirty ring full'}.get(reason,
                                                             str(reason))


def pages(status):
    """That have been sent."""
    return status.get('pages-zero', 0) + status.get('pages-raw', 0)


def window(machine, histograms, seconds, epochs=0):
    """Count for so long, and for so many epochs; all as sums, see `epochs`
    (a count is of so many at least, and at most) and `seconds`. What ends in
    `_both` is a pair: of less than the time between the two readings of
    other counters, and of more."""
    a = Reading(machine, histograms)
    # What is counted while it is read must be the smaller part.
    time.sleep(max(seconds, 4 * (a.end - a.time)))
    if epochs:
        harness.wait_until('epochs', lambda: machine.query()['epoch'] >
                           a.epochs[1] + epochs, interval=0.2)
    b = Reading(machine, histograms)
    threads = a.threads | b.threads
    process = Process(machine.process.pid)
    hist = {name: less(b.hist[name], a.hist[name], threads)
            for name in b.hist}

    def grown(name):
        return b.status.get(name, 0) - a.status.get(name, 0)

    def both(name, names):
        return [summed(less(b.twice[i][name], a.twice[1 - i][name],
                            threads), names) for i in (0, 1)]

    def exit_name(reason):
        return EXITS.get(reason, hex(reason))

    main = {key: n for key, n in hist.get('spte', {}).items()
            if key[0] == machine.process.pid}
    return {
        'seconds': b.time - a.time, 'longest': b.end - a.time,
        'epochs': grown('epoch'),
        'least': b.epochs[0] - a.epochs[1],
        'most': b.epochs[1] - a.epochs[0],
        'calls': summed(less(b.calls, a.calls, threads), process.name),
        'exits': summed(hist.get('exit', {}), exit_name),
        'exits_both': both('exit', exit_name),
        'user': summed(hist.get('user', {}), user_name),
        'faults': summed(hist.get('fault', {}), fault_name),
        'faults_both': both('fault', fault_name),
        'pushed': sum(hist.get('push', {}).values()),
        'fast': sum(hist.get('fast', {}).values()),
        # Changed by the main thread: made read-only again.
        'protected': sum(main.values()),
        'spte': sum(hist.get('spte', {}).values()),
        'pages': pages(b.status) - pages(a.status),
        'pages_both': (pages(b.status) - pages(a.after),
                       pages(b.after) - pages(a.status)),
        'figures': less(b.figures, a.figures),
        'pause': {name: us - a.pause().get(name, 0)
                  for name, us in b.pause().items()},
        'early': grown('early-epochs'), 'stalls': grown('stalls'),
        'device_bytes': b.status.get('device-bytes', 0)}


@contextlib.contextmanager
def recording(threads):
    """Both ends of all calls of these threads; yields where they are."""
    place = f'{TRACING}/instances/cost'
    os.mkdir(place)
    try:
        put(f'{place}/buffer_size_kb', '8192')
        put(f'{place}/trace_clock', 'mono')
        put(f'{place}/set_event_pid', ' '.join(map(str, sorted(threads))))
        for end in 'enter', 'exit':
            put(f'{place}/events/syscalls/sys_{end}_ioctl/enable', '1')
        yield place
    finally:
        put(f'{place}/tracing_on', '0')
        put(f'{place}/events/enable', '0')
        os.rmdir(place)


LINE = re.compile(r'-(\d+) +\[\d+\] \S+ +([\d.]+): sys_ioctl'
                  r'(?:\(fd: (\w+), cmd: (\w+), arg: (\w+)| -> )')


def registers(process, addresses):
    """What QEMU has got for MSRs, one pair after another: (MSR, value).

    The buffers are still in its memory. It clears them before it asks, so
    zero says nothing.
    """
    with open(f'/proc/{process.pid}/mem', 'rb', buffering=0) as memory:
        for address in addresses:
            try:
                count, _ = struct.unpack('II', os.pread(memory.fileno(), 8,
                                                        address))
                data = os.pread(memory.fileno(), 16 * min(count, 1000),
                                address + 8)
            except OSError:
                continue
            data = data[:len(data) // 16 * 16]
            found = list(struct.iter_unpack('IIQ', data))
            # Else it was on the stack, and is something else by now.
            if len(found) > 20 and not any(pad for _, pad, _ in found):
                yield from ((index, value) for index, _, value in found)


def timed(machine, seconds):
    """Calls but KVM_RUN, each with its time, and the pauses they are in."""
    process = Process(machine.process.pid)
    with recording(process.threads()) as place:
        a = machine.query()
        time.sleep(seconds)
        b = machine.query()
        put(f'{place}/tracing_on', '0')
        with open(f'{place}/trace', encoding='ascii',
                  errors='replace') as file:
            text = file.read()
    entered, calls, order, asked = {}, {}, [], set()
    for thread, stamp, fd, command, argument in LINE.findall(text):
        if fd:
            entered[thread] = float(stamp), int(fd, 16), int(command, 16)
            if entered[thread][2] & 0xffff == KVM_GET_MSRS:
                asked.add(int(argument, 16))
            continue
        if thread not in entered:
            continue
        began, fd, command = entered.pop(thread)
        if command == KVM_RUN:
            continue
        name = process.name(fd, command)
        us = (float(stamp) - began) * 1e6
        count, total = calls.get(name, (0, 0))
        calls[name] = count + 1, total + us
        order.append((began, int(thread), name, us))

    def grown(name):
        return sum(sign * s['pause'][name]['mean'] * s['pause'][name]['count']
                   for sign, s in ((1, b), (-1, a)))

    # Some epochs on: which of them change?
    values = collections.defaultdict(set)
    for _ in range(15):
        for index, value in registers(process, asked):
            values[index].add(value)
        time.sleep(0.05)
    changed = {index for index, seen in values.items() if len(seen - {0}) > 1}
    order.sort()
    hops = [1e6 * (b[0] - a[0]) - a[3] for a, b in zip(order, order[1:])
            if a[1] != b[1] and (b[2] == 'vcpu GET_VCPU_EVENTS' or
                                 a[1] != process.pid and
                                 a[2].startswith('vcpu GET_'))]
    return {'epochs': b['epoch'] - a['epoch'], 'calls': calls,
            'pause': {name: grown(name) for name in ('total', *PARTS)},
            'msrs': len(values), 'msrs_changed': sorted(map(hex, changed)),
            'hops': sum(hop for hop in hops if hop < 10000),
            'order': order[:300]}


# ------------------------------------------------------------- the guests

# No hash: nothing but epochs. The epochs are long, as all is slow there: in
# one of 10 ms, most of it pause, a guest would do nothing.
PARAMS = {'ft-hash': 0, 'ft-epoch-us': 40000}


@contextlib.contextmanager
def bare(accel, mode, options):
    """The bare guest; yields the pair."""
    with tempfile.TemporaryDirectory() as directory:
        pair = harness.Pair(directory, mode=mode, pages=2048,
                            options=options, params=PARAMS, accel=accel)
        try:
            pair.start()
            yield pair
            pair.cable.check()
        finally:
            pair.close()


class Diskless(linux.LinuxPair):
    """The Linux guest with redis, and no disk."""

    def options(self, host, incoming):
        options = super().options(host, incoming)
        at = options.index('-drive')
        del options[at:at + 4]
        return options

    def start_primary(self, host='pri'):
        self.primary = self.launch(host)
        self.wait_serial(self.primary, 'ftguest: ready', 60)
        return self.primary


@contextlib.contextmanager
def linux_guest(accel, loaded, kind=Diskless):
    """With two vCPUs."""
    with tempfile.TemporaryDirectory() as directory, \
         kind(directory, params=PARAMS, accel=accel, cpus=2) as pair:
        pair.start()
        load = None
        if loaded:
            load = subprocess.Popen(
                ['ip', 'netns', 'exec', pair.lab.cli, 'redis-benchmark',
                 '-h', linux.GUEST, '-t', 'set', '-n', '100000000', '-r',
                 '100000', '-d', '256', '-c', '8', '-q'],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            yield pair
            if load and load.poll() is not None:
                raise harness.Broken('redis-benchmark has ended')
        finally:
            if load:
                load.kill()
                load.wait()


LOGS = {'bitmap': 'kvm', 'ring4k': 'kvm,dirty-ring-size=4096',
        'ring64k': 'kvm,dirty-ring-size=65536',
        'split': 'kvm,kernel-irqchip=split,dirty-ring-size=4096'}
GUESTS = {'idle': (bare, 'count', 'rate=50'),
          'loaded': (bare, 'count,touch', 'rate=5'),
          'linux': (linux_guest, False), 'redis': (linux_guest, True),
          'disk': (linux_guest, False, redispair.RedisPair)}
ALL = [f'{log}-{guest}' for guest in ('idle', 'loaded')
       for log in ('bitmap', 'ring4k', 'ring64k')] + \
      ['split-idle', 'split-loaded']


def measure(name, seconds=4.0):
    """All figures of one configuration."""
    log, guest = name.split('-')
    make, *rest = GUESTS[guest]
    histograms = Histograms()
    try:
        with make(LOGS[log], *rest) as pair:
            plain = window(pair.primary, histograms, seconds / 2)
            pair.protect()
            # A steady state: the first copy's pages are protected again.
            harness.wait_until('epochs', lambda:
                               pair.primary.query()['epoch'] > 20)
            out = window(pair.primary, histograms, seconds, 20)
            times = timed(pair.primary, seconds / 2)
            pair.primary._pull(0.001)
            if pair.primary.states[-1][0] != 'protected':
                raise harness.Broken(f'{name}: {pair.primary.states}')
    finally:
        histograms.close()
    return {'name': name, 'plain': plain, 'protected': out, 'timed': times,
            'epoch_us': PARAMS['ft-epoch-us']}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0])
    parser.add_argument('--seconds', type=float, default=4.0, metavar='N',
                        help='how long to count (%(default)s)')
    parser.add_argument('name', nargs='*', default=ALL,
                        help=f'of: {", ".join(LOGS)}; then "-" and of: '
                        f'{", ".join(GUESTS)}')
    args = parser.parse_args()
    status = 0
    for name in args.name:
        try:
            print(json.dumps(measure(name, args.seconds)), flush=True)
        except harness.Broken as trouble:
            print(f'{name}: {trouble}', file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == '__main__':
    sys.exit(main())
