#!/usr/bin/env python3
"""Boot the bare test guest in many ways and see that it does as it says.

SPDX-License-Identifier: GPL-2.0-or-later

  selftest.py QEMU ftguest.elf [-k WORD] [-- QEMU OPTION...]

One line per case. Uses plain QEMU only: no part of the fault tolerance.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                '..', '..', 'functional'))
import ftguest  # noqa: E402

NICS = {
    'virtio': 'virtio-net-pci,romfile=',
    'rtl8139': 'rtl8139,romfile=',
    'e1000': 'e1000,romfile=',
    'e1000e': 'e1000e,romfile=',
}


class Guest:
    """A QEMU with the bare guest in it."""

    def __init__(self, directory, name, wire, options, nic='virtio',
                 machine='pc', extra=()):
        self.path = os.path.join(directory, name)
        command = [QEMU, *QEMU_OPTIONS, '-accel', 'tcg', '-machine', machine,
                   '-m', '64M', '-display', 'none', '-vga', 'none',
                   '-nodefaults', '-serial', f'file:{self.path}.serial',
                   '-qmp', f'unix:{self.path}.qmp,server=on,wait=off',
                   '-kernel', ELF, '-append', options,
                   '-netdev', wire.netdev(),
                   '-device', NICS[nic] + ',netdev=n0', *extra]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.qmp = None

    def connect(self):
        for _ in range(200):
            try:
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(self.path + '.qmp')
                break
            except OSError:
                sock.close()
                time.sleep(0.02)
        sock.settimeout(30)
        self.qmp = sock.makefile('rw')
        self.qmp.readline()
        self.command('qmp_capabilities')

    def command(self, name, **arguments):
        if not self.qmp:
            self.connect()
        self.qmp.write(json.dumps({'execute': name,
                                   'arguments': arguments}) + '\n')
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if 'return' in answer or 'error' in answer:
                return answer.get('return')

    def serial(self):
        with open(self.path + '.serial', encoding='ascii') as f:
            return f.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def need(what, condition):
    if not condition:
        raise AssertionError(what)


def clean(watch):
    need(f'{watch.problems[:3]}', not watch.problems)
    need('no frames', watch.count > 0)
    need(f'{watch.back} went back, {watch.repeats} repeats',
         not watch.back and not watch.repeats)


def echoes(wire, watch, count=20):
    took = []
    for i in range(count):
        payload = bytes([i]) * (i * 3 % 65)
        t = wire.echo(payload, seen=watch)
        need(f'echo {i} not answered', t is not None)
        took.append(t)
    return sorted(took)[count // 2] * 1000


def case_nic(directory, nic, machine):
    """Frames, echo, reset, power off, for each NIC."""
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, 'mode=count,touch pages=1024',
                      nic, machine)
        try:
            watch = ftguest.Watch()
            first = wire.receive(10)
            need('no frame in 10 s', first)
            up = first[0] - guest.started
            watch(*first)
            for when, frame in wire.frames(1.5):
                watch(when, frame)
            rate = watch.count / 1.5
            generation = watch.last.generation
            median = echoes(wire, watch)
            need('memory writer does not run', generation > 10)
            wire.send(ftguest.KIND_RESET)
            for when, frame in wire.frames(3):
                watch(when, frame)
                if watch.resets and frame.counter > 20:
                    break
            need('no reset seen', watch.resets == 1)
            median = echoes(wire, watch)
            clean(watch)
            need('lost interrupts', not watch.last.irqs_lost)
            wire.send(ftguest.KIND_POWER_OFF)
            guest.process.wait(5)
            return (f'up {up:.2f} s, {rate:.0f} frames/s, '
                    f'generation {generation}, echo {median:.2f} ms')
        finally:
            guest.stop()


def case_modes(directory, options, seconds=2.5, extra=(), machine='pc'):
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, options, machine=machine,
                      extra=extra)
        try:
            watch = ftguest.Watch()
            for when, frame in wire.frames(seconds):
                watch(when, frame)
            clean(watch)
            median = echoes(wire, watch, 10)
            last = watch.last
            if not options.startswith('rate=0'):
                guest.command('system_powerdown')
                guest.process.wait(5)
            return (f'count {last.counter}, generation {last.generation}, '
                    f'loops {last.loops}, {last.ticks} ms by ticks, '
                    f'{last.clock_us // 1000} by clock, echo {median:.2f} ms')
        finally:
            guest.stop()


def case_quiet(directory):
    """Without mode=count only requests are answered."""
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, 'mode=echo,idle')
        try:
            need('a counter frame came', not wire.receive(1.5))
            return f'echo {echoes(wire, ftguest.Watch()):.2f} ms'
        finally:
            guest.stop()


def case_migrate(directory, nic, machine, mode):
    """An ordinary live migration: what the writer must survive."""
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        options = f'mode=count,{mode} pages=256 gap=20'
        one = Guest(directory, 'a', wire, options, nic, machine)
        two = None
        try:
            watch = ftguest.Watch()
            for when, frame in wire.frames(1.5):
                watch(when, frame)
            wire.guest = directory + '/guest2'
            two = Guest(directory, 'b', wire, options, nic, machine,
                        ('-incoming', f'unix:{directory}/migrate'))
            two.connect()
            one.command('migrate-set-parameters',
                        **{'max-bandwidth': 1 << 30,
                           'downtime-limit': 100})
            one.command('migrate', uri=f'unix:{directory}/migrate')
            status = None
            for _ in range(200):
                for when, frame in wire.frames(0.05):
                    watch(when, frame)
                status = one.command('query-migrate')['status']
                if status in ('completed', 'failed'):
                    break
            need(f'migration {status}', status == 'completed')
            before = watch.last
            for when, frame in wire.frames(2):
                watch(when, frame)
            need('frames do not go on', watch.last.counter >
                 before.counter + 100)
            need('writer does not go on', watch.last.generation >
                 before.generation)
            echoes(wire, watch)
            clean(watch)
            return (f'outage {watch.outage * 1000:.0f} ms, generation '
                    f'{watch.last.generation}, lost interrupts '
                    f'{watch.last.irqs_lost}')
        finally:
            one.stop()
            if two:
                two.stop()


def case_torn(directory, mode):
    """A page put back by hand to an older content must be noticed."""
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire,
                      f'mode=count,{mode} pages=64 gap=50')
        try:
            need('no frame', wire.receive(10))
            page = 0x1000000 + 9 * 4096
            old = directory + '/old'
            guest.command('stop')
            guest.command('pmemsave', val=page, size=4096, filename=old)
            guest.command('cont')
            for _ in wire.frames(0.5):
                pass
            guest.command('stop')
            guest.command('pmemsave', val=page, size=4096,
                          filename=directory + '/new')
            with open(old, 'rb') as a, open(directory + '/new', 'rb') as b:
                need('page does not change', a.read() != b.read())
            sock = directory + '/gdb'
            guest.command('human-monitor-command',
                          **{'command-line':
                             f'gdbserver unix:{sock},server,nowait'})
            with open(old, 'rb') as f:
                gdb_write(sock, page + 64, f.read()[64:])
            guest.command('cont')
            last = None
            for _, frame in wire.frames(1):
                last = frame
            need('torn page not noticed', last and last.errors)
            need('nothing on the serial line', 'ERROR page=9' in
                 guest.serial())
            return f'{last.errors} errors told'
        finally:
            guest.stop()


def gdb_write(path, address, data):
    """Write guest memory through QEMU's gdb stub."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)

        def command(text):
            body = text.encode()
            sock.sendall(b'$' + body + b'#%02x' % (sum(body) % 256))
            answer = b''
            while b'#' not in answer or len(answer.split(b'#')[1]) < 2:
                answer += sock.recv(4096)
            sock.sendall(b'+')
            return answer
        command('Qqemu.PhyMemMode:1')
        for i in range(0, len(data), 512):
            part = data[i:i + 512]
            need('gdb stub refuses', b'OK' in
                 command(f'M{address + i:x},{len(part):x}:{part.hex()}'))
        command('D')


def cases():
    for machine in 'pc', 'q35':
        for nic in NICS:
            if (machine, nic) != ('pc', 'e1000e'):
                yield f'{machine} {nic}', case_nic, (nic, machine)
    yield 'fill', case_modes, ('mode=count,fill pages=1024',)
    yield 'cpu', case_modes, ('mode=count,cpu',)
    yield 'idle', case_modes, ('mode=count,idle rate=10',)
    yield 'flood', case_modes, ('rate=0 mode=count', 1.5)
    yield 'smp', case_modes, ('mode=count,touch', 2.5, ('-smp', '2'))
    yield 'quiet', case_quiet, ()
    for machine in 'pc', 'q35':
        yield (f'above 4 GiB {machine}', case_modes,
               ('mode=count,touch pages=512 base=4096', 2.5,
                ('-m', '6G'), machine))
    for mode in 'touch', 'fill':
        yield f'torn {mode}', case_torn, (mode,)
    for machine, nic in (('pc', 'virtio'), ('pc', 'rtl8139'),
                         ('pc', 'e1000'), ('q35', 'virtio'),
                         ('q35', 'e1000e')):
        for mode in 'touch', 'fill':
            yield (f'migrate {machine} {nic} {mode}', case_migrate,
                   (nic, machine, mode))


def main():
    failed = 0
    for name, run, arguments in cases():
        if WORD not in name:
            continue
        with tempfile.TemporaryDirectory(prefix='ftguest-') as directory:
            try:
                print(f'ok   {name}: {run(directory, *arguments)}',
                      flush=True)
            except (AssertionError, OSError, ValueError,
                    subprocess.TimeoutExpired) as e:
                failed += 1
                print(f'FAIL {name}: {e!r}', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    ARGUMENTS = sys.argv[1:]
    QEMU_OPTIONS = []
    if '--' in ARGUMENTS:
        QEMU_OPTIONS = ARGUMENTS[ARGUMENTS.index('--') + 1:]
        ARGUMENTS = ARGUMENTS[:ARGUMENTS.index('--')]
    WORD = ''
    if '-k' in ARGUMENTS:
        at = ARGUMENTS.index('-k')
        WORD = ARGUMENTS[at + 1]
        del ARGUMENTS[at:at + 2]
    if len(ARGUMENTS) != 2:
        sys.exit(__doc__)
    QEMU, ELF = ARGUMENTS
    sys.exit(main())
