"""Pairs whose bare guest has disks, and checks of their images.

SPDX-License-Identifier: GPL-2.0-or-later

    pair = DiskPair(directory, kinds=['virtio', 'scsi'], storage='shared')
    pair.protected()
    pair.primary.kill()
    pair.taken_over()
    pair.disk_check()       # all sectors read back, nothing wrong
"""

import os
import shutil
import struct
import subprocess
import time

import ftguest
from harness import PATIENCE, ROOT, Broken, Pair

QEMU_IMG = os.environ.get('CUJU_QEMU_IMG', os.path.join(ROOT, 'qemu-img'))
SECTORS = 16384                 # what the guest uses, its default
SIZE = SECTORS * 512

CONTROLLERS = {
    'virtio': [],
    'scsi': ['-device', 'virtio-scsi-pci,id=scsi0'],
    'ide': [],
    'ahci': ['-device', 'ich9-ahci,id=ahci0'],
}
DEVICES = {
    'virtio': 'virtio-blk-pci,drive=drive{n}{rest}',
    'scsi': 'scsi-hd,bus=scsi0.0,scsi-id={n},drive=drive{n}{rest}',
    'ide': 'ide-hd,drive=drive{n}{rest}',
    'ahci': 'ide-hd,bus=ahci0.{n},drive=drive{n}{rest}',
}


def make_image(path, form='raw', size=SIZE):
    """A new image, empty."""
    subprocess.run([QEMU_IMG, 'create', '-q', '-f', form, path, str(size)],
                   check=True)
    return path


def as_raw(path, form):
    """The content of an image as a raw file."""
    if form == 'raw':
        return path
    subprocess.run([QEMU_IMG, 'convert', '-U', '-f', form, '-O', 'raw', path,
                    path + '.raw'], check=True)
    return path + '.raw'


class DiskPair(Pair):
    """A pair with one disk for each of `kinds`."""

    def __init__(self, directory, kinds=('virtio',), form='raw',
                 storage='shared', copy='full', flush='commit', cache='none',
                 load='disk-gap=2000', drive='', rest='', objects=(),
                 mode='count,touch,disk', drives=None, options='', **kwargs):
        self.kinds = list(kinds)
        self.form = form
        self.storage = storage
        self.cache = cache
        self.drive = drive              # more options of each -drive
        self.rest = rest                # more of each virtio -device
        self.objects = list(objects)
        self.drives = drives            # a function (host, n) -> -drive ...
        self.watch_from = 0
        self.disk_watch = ftguest.DiskWatch()
        self.token = 0
        params = {'ft-storage': storage, 'ft-copy': copy, 'ft-flush': flush,
                  **kwargs.pop('params', {})}
        super().__init__(directory, mode=mode, params=params, pages=64,
                         options=f'gap=9 disk-discard=1 {load} {options}',
                         **kwargs)

    def image(self, host, n):
        """Path of disk `n` as the host of that name has it."""
        name = 'shared' if self.storage == 'shared' else host
        return os.path.join(self.directory, f'{name}.{n}.{self.form}')

    def disk_options(self, host):
        """The options for QEMU, images made where there are none."""
        options = list(self.objects)
        for kind in dict.fromkeys(self.kinds):
            options += CONTROLLERS[kind]
        for n, kind in enumerate(self.kinds):
            path = self.image(host, n)
            if not os.path.exists(path):
                make_image(path, self.form)
            rest = self.rest if kind == 'virtio' else ''
            if self.drives:
                options += self.drives(host, n, path)
            else:
                options += ['-drive', f'if=none,id=drive{n},file={path},'
                            f'format={self.form},cache={self.cache},'
                            f'discard=unmap{self.drive}']
            options += ['-device', DEVICES[kind].format(n=n, rest=rest)]
        return options

    def launch(self, name, extra=None, host=None, **kwargs):
        extra = self.extra if extra is None else extra
        return super().launch(name, extra=self.disk_options(host or name) +
                              list(extra), **kwargs)

    # ------------------------------------------------------ the guest's word

    def _disks(self):
        """Read the reports that have come; the cable's lock is held."""
        for when, _, frame in self.cable.seen[self.watch_from:]:
            self.disk_watch(when, frame)
        self.watch_from = len(self.cable.seen)
        if self.disk_watch.problems:
            raise Broken(f'the guest says: {self.disk_watch.problems[:5]}')
        return self.disk_watch

    def wait_disks(self, what, condition, machine, timeout=30.0):
        """Wait until `condition(disk)` is true of every disk's report."""
        self.cable.wait(what, lambda: self._disks().all_have(condition),
                        timeout, machine)

    def last_disks(self):
        with self.cable.cond:
            return dict(self._disks().last)

    def wait_writes(self, machine, count, timeout=60.0):
        """Wait for so many writes more, on each disk."""
        self.wait_disks('disk reports', lambda d: True, machine)
        start = {i: d.writes for i, d in self.last_disks().items()}
        self.wait_disks(f'{count} writes', lambda d:
                        d.writes >= start.get(d.index, 0) + count, machine,
                        timeout)

    def disk_mode(self, kind, machine, timeout=60.0):
        """Ask all disks to be quiet, to read only, or to go on."""
        self.token += 1
        token = self.token
        self.cable.send(machine, kind, struct.pack('>I', token))
        self.wait_disks(f'answer to disk request {kind}', lambda d:
                        d.token == token and
                        (kind != ftguest.KIND_DISK_QUIESCE or
                         d.flags & ftguest.DISK_QUIESCED), machine, timeout)

    def disk_check(self, machine=None, rounds=1, timeout=90.0):
        """All sectors must be read back as they should be."""
        machine = machine or self.backup
        self.disk_mode(ftguest.KIND_DISK_READ_ONLY, machine)
        start = {i: d.rounds for i, d in self.last_disks().items()}
        self.wait_disks('all sectors read', lambda d:
                        d.rounds >= start[d.index] + rounds, machine, timeout)
        self.disk_mode(ftguest.KIND_DISK_RESUME, machine)

    def quiesce(self, machine=None):
        self.disk_mode(ftguest.KIND_DISK_QUIESCE, machine or self.backup)

    def go_on(self, machine=None):
        self.disk_mode(ftguest.KIND_DISK_RESUME, machine or self.backup)

    # ---------------------------------------------------------- the journals

    @staticmethod
    def drives_of(machine):
        return machine.query().get('drives', [])

    def wait_settled(self, machine, timeout=30.0):
        """Wait until what the guest wrote is on the disk, filters gone."""
        end = time.monotonic() + timeout * PATIENCE
        while True:
            nodes = machine.qmp('query-named-block-nodes')
            if not any(n['drv'] == 'ft-journal' for n in nodes):
                return
            if time.monotonic() > end:
                raise Broken(f'{machine.name} still has a journal')
            machine._pull(0.05)

    # ------------------------------------------------------------ the images

    def check_images(self, host='backup'):
        """No sector of the images may be torn."""
        for n in range(len(self.kinds)):
            path = as_raw(self.image(host, n), self.form)
            found = ftguest.check_image(path, SECTORS)
            if found.torn or not found.valid:
                raise Broken(f'{path}: {found}')
            if self.form != 'raw':
                check = subprocess.run(
                    [QEMU_IMG, 'check', '-f', self.form, '-U',
                     self.image(host, n)], capture_output=True, text=True,
                    check=False)
                # 3: leaked clusters, which a killed QEMU leaves
                if check.returncode not in (0, 3):
                    raise Broken(f'{path}: {check.stdout}{check.stderr}')

    def images_equal(self, a='primary', b='backup'):
        """Both hosts' images must have the same content."""
        for n in range(len(self.kinds)):
            compare = subprocess.run(
                [QEMU_IMG, 'compare', '-U', '-f', self.form, '-F', self.form,
                 self.image(a, n), self.image(b, n)], capture_output=True,
                text=True, check=False)
            if compare.returncode:
                raise Broken(f'disk {n}: {compare.stdout}{compare.stderr}')

    def copy_images(self, source='primary', to='backup'):
        for n in range(len(self.kinds)):
            shutil.copyfile(self.image(source, n), self.image(to, n))
