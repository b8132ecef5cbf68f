#!/usr/bin/env python3
"""Boot the bare test guest in many ways and see that it does as it says.

SPDX-License-Identifier: GPL-2.0-or-later

  selftest.py QEMU ftguest.elf [-k WORD] [-- QEMU OPTION...]

One line per case. Uses plain QEMU only: no part of the fault tolerance.
"""

import json
import os
import shutil
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

# The controller, then one disk on it, with its number and drive.
DISKS = {
    'virtio': ((), 'virtio-blk-pci,drive={drive}'),
    'scsi': (('-device', 'virtio-scsi-pci,id=scsi'),
             'scsi-hd,bus=scsi.0,scsi-id={n},drive={drive}'),
    'ide': ((), 'ide-hd,bus=ide.{n},drive={drive}'),
    'ahci': (('-device', 'ich9-ahci,id=ahci'),
             'ide-hd,bus=ahci.{n},drive={drive}'),
}
REGION = 16384                          # sectors
# The firmware may take half a minute for each AHCI disk.
BOOT_SECONDS = {'ahci': 100}
ahci_is_fast = False


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


def qemu_img(*arguments):
    beside = os.path.dirname(os.path.realpath(QEMU))
    tool = shutil.which('qemu-img', path=beside) or 'qemu-img'
    subprocess.run([tool, *arguments], check=True,
                   stdout=subprocess.DEVNULL)


def make_image(directory, name, form='raw'):
    path = os.path.join(directory, name)
    qemu_img('create', '-q', '-f', form, path, '10M')
    return path


def disk_options(kind, images, rules='', n=0):
    """QEMU's options for images, (path, format) each, on a controller."""
    controller, device = DISKS[kind]
    options = list(controller)
    for path, form in images:
        drive = f'{kind}{n}'
        options += ['-drive', f'if=none,id={drive},file.filename={path},'
                    f'format={form},discard=unmap{rules}',
                    '-device', device.format(n=n, drive=drive)]
        n += 1
    return options


def as_raw(path, form):
    """The path of a raw image with the same content."""
    if form == 'raw':
        return path
    qemu_img('convert', '-U', '-f', form, '-O', 'raw', path, path + '.raw')
    return path + '.raw'


class Both:
    """Checks counter frames and disk reports together."""

    def __init__(self):
        self.watch = ftguest.Watch()
        self.disks = ftguest.DiskWatch()

    def __call__(self, when, frame):
        self.watch(when, frame)
        self.disks(when, frame)

    def run(self, wire, seconds):
        for when, frame in wire.frames(seconds):
            self(when, frame)

    def wait(self, wire, what, condition, timeout=10):
        wire.disks(what, condition, self.disks, timeout, self.watch)

    def mode(self, wire, kind):
        wire.disk_mode(kind, self.disks, seen=self.watch)

    def clean(self):
        clean(self.watch)
        need(f'{self.disks.problems[:3]}', not self.disks.problems)
        need('no disk reports', self.disks.count)


def mutate(wire, both, image, index=0):
    """Garbage, an old sector, one from elsewhere: each must be noticed."""
    wanted = {}
    with open(image, 'r+b') as file:
        content = file.read(REGION * 512)

        def put(sector, data):
            file.seek(sector * 512)
            file.write(data)
            wanted[sector] = data
        written = [n for n in range(REGION)
                   if content[n * 512:(n + 1) * 512].strip(b'\0')]
        one, two, three, four = written[3::len(written) // 4][:4]
        put(one, bytes(512))
        put(two, b'garbage' + content[two * 512 + 7:(two + 1) * 512])
        put(three, content[one * 512:(one + 1) * 512])
        data = bytearray(content[four * 512:(four + 1) * 512])
        data[300] ^= 4
        put(four, bytes(data))
    report = ftguest.check_image(image, REGION)
    need(f'check_image: {report}', report.torn >= 3)
    before = both.disks.last[index].mismatches
    both.mode(wire, ftguest.KIND_DISK_READ_ONLY)
    rounds = both.disks.last[index].rounds
    both.wait(wire, 'two rounds of reading', lambda d: d.index != index or
              d.rounds >= rounds + 2, 30)
    found = both.disks.last[index].mismatches - before
    need(f'{found} of 4 changed sectors noticed', found == 4)
    return found


def case_disk(directory, kind, machine, options='', images=('raw', 'qcow2'),
              rules=''):
    """The load on disks of a kind; the image checked; the checker too."""
    images = [(make_image(directory, f'd{i}', form), form)
              for i, form in enumerate(images)]
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire,
                      f'mode=count,touch,disk disk-discard=1 pages=64 gap=9 '
                      f'disk-gap=2000 {options}', machine=machine,
                      extra=disk_options(kind, images, rules))
        try:
            both = Both()
            first = wire.receive(BOOT_SECONDS.get(kind, 10))
            need('no frame', first)
            up = first[0] - guest.started
            if kind == 'ahci' and up < 5:
                global ahci_is_fast
                ahci_is_fast = True
            both.wait(wire, 'disk reports', lambda d: True)
            need('not all disks found', len(both.disks.last) == len(images))
            need('wrong kind', both.disks.last[0].kind == kind)
            both.wait(wire, 'region read all around',
                      lambda d: d.rounds >= 2, 30)
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            end = dict(both.disks.last)
            both.clean()
            for disk in end.values():
                path = as_raw(*images[disk.index])
                report = ftguest.check_image(path, REGION)
                need(f'{report} after {disk}', not report.torn and
                     report.valid > REGION // 2 and report.runs == 1 and
                     disk.version - 200 < report.highest <= disk.version)
                need(f'too little done: {disk}', disk.writes > 200 and
                     disk.reads > 100 and disk.flushes and disk.discards)
            both.run(wire, 0.3)
            need('not quiet', all(
                both.disks.last[i].writes == end[i].writes and
                both.disks.last[i].reads == end[i].reads for i in end))
            both.mode(wire, ftguest.KIND_DISK_RESUME)
            both.wait(wire, 'writes after the pause', lambda d:
                      d.writes > end[d.index].writes + 20)
            wire.send(ftguest.KIND_RESET)
            end = time.monotonic() + BOOT_SECONDS.get(kind, 10)
            while both.disks.boot != 1 and time.monotonic() < end:
                both.run(wire, 0.1)
            both.wait(wire, 'region read all around after the reset',
                      lambda d: d.rounds >= 1 and both.disks.boot == 1, 30)
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            both.clean()
            need('no reset seen', both.watch.resets == 1)
            report = ftguest.check_image(as_raw(*images[0]), REGION)
            need(f'{report} after a reset', not report.torn and
                 report.runs == 1)
            found = mutate(wire, both, images[0][0])
            last = both.disks.last[0]
            need('errors in the counter frames',
                 both.watch.last.errors == found)
            need('nothing on the serial line', 'ERROR disk=0 sector=' in
                 guest.serial())
            wire.send(ftguest.KIND_POWER_OFF)
            guest.process.wait(5)
            return (f'up {up:.2f} s, {last.writes} writes, {last.reads} '
                    f'reads, {found} mismatches found of 4 made')
        finally:
            guest.stop()


def case_disk_all(directory, options):
    """A disk of each kind (but AHCI, for its firmware) at full speed."""
    extra = []
    for kind in 'virtio', 'scsi', 'ide':
        extra += disk_options(kind, [(make_image(directory, kind), 'raw')])
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, f'mode=count,disk disk-gap=0 '
                      f'disk-discard=1 {options}', extra=extra)
        try:
            both = Both()
            both.run(wire, 4)
            need('not all kinds found', sorted(
                d.kind for d in both.disks.last.values()) ==
                ['ide', 'scsi', 'virtio'])
            echoes(wire, both, 10)
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            both.clean()
            return ', '.join(f'{d.kind} {(d.writes + d.reads) // 4}/s'
                             for d in both.disks.last.values())
        finally:
            guest.stop()


def case_disk_verify(directory, kind):
    """The cold check, of what an earlier guest has written."""
    image = make_image(directory, 'd')
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, 'mode=count,disk disk-zero=0 '
                      'disk-sectors=4000',
                      extra=disk_options(kind, [(image, 'raw')]))
        try:
            both = Both()
            both.run(wire, 2)
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            wire.send(ftguest.KIND_POWER_OFF)
            guest.process.wait(5)
        finally:
            guest.stop()
        with open(image, 'r+b') as file:
            file.seek(77 * 512)
            file.write(b'garbage')
        host = ftguest.check_image(image, 4000)
        guest = Guest(directory, 'b', wire, 'disk-verify=1 '
                      'disk-sectors=4000',
                      extra=disk_options(kind, [(image, 'raw')]))
        try:
            guest.process.wait(10)
            told = [line for line in guest.serial().splitlines()
                    if 'verify' in line]
            need(f'{told} is not {host}', len(told) == 1 and
                 f' valid={host.valid} torn={host.torn} blank={host.blank} '
                 f'foreign=0 highest={host.highest} ' in told[0])
            need(f'{host}', host.valid == 3999 and host.torn == 1)
            return told[0][len('ftguest: '):]
        finally:
            guest.stop()


def case_disk_errors(directory, kind, okay):
    """A request that fails is an error, and taken as one; or it is not."""
    image = make_image(directory, 'd')
    rules = directory + '/rules'
    with open(rules, 'w', encoding='ascii') as file:
        file.write('[inject-error]\nevent = "pwritev"\nsector = "3000"\n'
                   'errno = "5"\n')
    controller, device = DISKS[kind]
    extra = [*controller, '-drive', f'if=none,id=x,format=raw,werror=report,'
             f'file.driver=blkdebug,file.config={rules},'
             f'file.image.driver=file,file.image.filename={image}',
             '-device', device.format(n=0, drive='x')]
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire, 'mode=count,disk ' +
                      ('disk-ioerr=ok' if okay else ''), extra=extra)
        try:
            both = Both()
            both.wait(wire, 'failed requests', lambda d: d.io_errors >= 2 and
                      d.rounds >= 1, BOOT_SECONDS.get(kind, 20))
            disk = both.disks.last[0]
            need(f'{disk}', not disk.mismatches and not disk.late)
            both.run(wire, 0.3)
            errors = both.watch.last.errors
            need(f'{errors} errors', (errors == 0) == okay)
            need(f'{disk}', both.disks.last[0].writes > disk.writes)
            return f'{disk.io_errors} failed of {disk.writes} writes'
        finally:
            guest.stop()


def case_disk_late(directory, kind):
    """A request that never completes is told of; one that is late, too."""
    image = make_image(directory, 'd')
    controller, device = DISKS[kind]
    extra = [*controller, '-drive', f'if=none,id=x,format=raw,'
             f'file.driver=blkdebug,file.image.driver=file,'
             f'file.image.filename={image}',
             '-device', device.format(n=0, drive='x')]
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        guest = Guest(directory, 'a', wire,
                      'mode=count,disk disk-timeout=1', extra=extra)
        try:
            both = Both()
            both.wait(wire, 'first round', lambda d: d.rounds >= 1, 20)
            both.clean()

            def qemu_io(line):
                guest.command('human-monitor-command',
                              **{'command-line': f'qemu-io x "{line}"'})
            qemu_io('break pwritev here')
            both.wait(wire, 'late request', lambda d: d.late, 10)
            qemu_io('resume here')
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            disk = both.disks.last[0]
            need(f'{disk}', disk.late and not disk.mismatches and
                 not disk.io_errors and not disk.in_flight)
            need('errors', both.watch.last.errors == disk.late)
            need('nothing on the serial line', 'LOST request disk=0' in
                 guest.serial())
            return f'{disk.late} late'
        finally:
            guest.stop()


def case_disk_migrate(directory, kind, machine):
    """An ordinary migration with the image shared, requests in flight."""
    images = [(make_image(directory, 'd0'), 'raw'),
              (make_image(directory, 'd1', 'qcow2'), 'qcow2')]
    extra = disk_options(kind, images, ',cache.direct=on')
    options = ('mode=count,disk,touch pages=256 gap=20 disk-gap=500 '
               'disk-discard=1')
    with ftguest.Wire(directory + '/us', directory + '/guest') as wire:
        one = Guest(directory, 'a', wire, options, machine=machine,
                    extra=extra)
        two = None
        try:
            both = Both()
            need('no frame', wire.receive(BOOT_SECONDS.get(kind, 10)))
            both.wait(wire, 'first round', lambda d: d.rounds >= 1, 20)
            both.clean()
            wire.guest = directory + '/guest2'
            two = Guest(directory, 'b', wire, options, machine=machine,
                        extra=(*extra, '-incoming',
                               f'unix:{directory}/migrate'))
            two.connect()
            one.command('migrate-set-parameters',
                        **{'max-bandwidth': 1 << 30, 'downtime-limit': 100})
            one.command('migrate', uri=f'unix:{directory}/migrate')
            for _ in range(200):
                both.run(wire, 0.05)
                status = one.command('query-migrate')['status']
                if status in ('completed', 'failed'):
                    break
            need(f'migration {status}', status == 'completed')
            before = dict(both.disks.last)
            both.wait(wire, 'two rounds more', lambda d: d.rounds >=
                      before[d.index].rounds + 2, 20)
            both.mode(wire, ftguest.KIND_DISK_QUIESCE)
            both.clean()
            for image in images:
                report = ftguest.check_image(as_raw(*image), REGION)
                need(f'{report}', not report.torn and report.runs == 1)
            disk = both.disks.last[0]
            return (f'outage {both.watch.outage * 1000:.0f} ms, '
                    f'{disk.writes} writes, {disk.reads} reads, lost '
                    f'interrupts {both.watch.last.irqs_lost}')
        finally:
            one.stop()
            if two:
                two.stop()


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
    for kind, machine in (('virtio', 'pc'), ('virtio', 'q35'),
                          ('scsi', 'pc'), ('scsi', 'q35'), ('ide', 'pc')):
        yield f'disk {machine} {kind}', case_disk, (kind, machine)
    yield ('disk pc ahci', case_disk,
           ('ahci', 'pc', 'disk-gap=1000', ('raw',)))
    yield ('disk direct', case_disk,
           ('virtio', 'pc', 'disk-queue=32 disk-gap=500', ('raw', 'qcow2'),
            ',cache.direct=on'))
    yield ('disk write-through', case_disk,
           ('virtio', 'pc', 'disk-wce=0'))
    yield 'disk all', case_disk_all, ('',)
    yield 'disk all deep', case_disk_all, ('disk-queue=32',)
    kinds = ['virtio', 'scsi', 'ide']
    if ahci_is_fast:
        kinds.append('ahci')
        yield 'disk q35 ahci', case_disk, ('ahci', 'q35')
        yield 'disk migrate pc ahci', case_disk_migrate, ('ahci', 'pc')
    for kind in kinds:
        yield f'disk verify {kind}', case_disk_verify, (kind,)
        yield f'disk errors {kind}', case_disk_errors, (kind, False)
        yield f'disk errors ok {kind}', case_disk_errors, (kind, True)
        yield f'disk late {kind}', case_disk_late, (kind,)
    for kind, machine in (('virtio', 'pc'), ('virtio', 'q35'),
                          ('scsi', 'pc'), ('ide', 'pc')):
        yield (f'disk migrate {machine} {kind}', case_disk_migrate,
               (kind, machine))


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
