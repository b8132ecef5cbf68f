"""A world whose guest is the bare test guest.

SPDX-License-Identifier: GPL-2.0-or-later

The guest counts in frames, finds torn memory and wrong disk content by itself
and answers requests; all of that is acknowledged state, and Story looks for
what is missing of it. It is up in a tenth of a second and copied in as much,
so a fault takes a second or two.
"""

import os
import struct
import time

import ftguest
from clients import EchoLoad
from harness import ACCELERATOR, GUEST
from linux import HOSTS, MAC
from world import World, Wrong

SECTORS = 2048                  # 1 MiB
DISK_SPACE = '3m'               # the file system that it is on
MAC_BYTES = bytes(int(part, 16) for part in MAC.split(':'))


class BareWorld(World):
    """See world.py."""

    memory = '32M'

    def options(self, host):
        append = f'mode={self.setup.load} pages=96 gap=7'
        options = [*ACCELERATOR, '-machine', 'pc',
                   '-m', self.memory, '-kernel', GUEST]
        if self.setup.storage != 'none':
            append += f' disk-sectors={SECTORS} disk-gap=2500 disk-discard=1'
            options += [
                '-drive', f'if=none,id=drive0,file={self.image(host)},'
                'format=raw,cache=writeback,discard=unmap',
                '-device', 'virtio-blk-pci,drive=drive0,'
                f'werror={self.setup.werror}']
        return options + [
            '-append', append,
            '-netdev', f'tap,id=n0,ifname={HOSTS[host][0]},script=no,'
            'downscript=no',
            '-device', f'{self.setup.nic},netdev=n0,mac={MAC},romfile=']

    # ----------------------------------------------------------------- disks

    def prepare_disks(self):
        where = {'none': [], 'shared': ['shared'],
                 'replicated': list(HOSTS)}[self.setup.storage]
        for name in where:
            self.tmpfs(f'disk-{name}', DISK_SPACE)
        if where:
            self.empty_image('pri')

    def empty_image(self, host):
        with open(self.image(host), 'wb') as file:
            file.truncate(SECTORS * 512)

    def fresh_image(self, host):
        """The image as its host has left it, or one with nothing in it."""
        if self.setup.storage == 'replicated' and (
                not os.path.exists(self.image(host)) or
                self.rng.random() < 0.3):
            self.empty_image(host)

    def fill(self, host):
        """No more space, but for what is allocated already."""
        path = os.path.join(os.path.dirname(self.image(host)), 'filler')
        with open(path, 'ab', 0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def empty(self, host):
        path = os.path.join(os.path.dirname(self.image(host)), 'filler')
        if os.path.exists(path):
            os.unlink(path)
            self.note(f'the disk of {host} has space again')

    # ------------------------------------------------------------- the guest

    def decode(self, data):
        """A Frame, or the type of another frame that the guest sends."""
        if data[6:12] != MAC_BYTES:
            return None
        frame = ftguest.decode(data)
        return frame or struct.unpack_from('>H', data, 12)[0]

    def content(self, what):
        return what if isinstance(what, ftguest.Frame) else None

    def counts(self, what):
        return isinstance(what, ftguest.Frame) and \
            what.kind == ftguest.KIND_COUNTER

    def at_client(self):
        """So many counter frames have come to the client so far."""
        return self.watch.count['cli']

    def booted(self):
        if not self.watch.wait(lambda: self.at_client() > 20, 20):
            raise Wrong('stuck', 'the guest does not come up: '
                        f'{self.primary.machine.text()}')

    def start_load(self):
        self.load = EchoLoad(self.lab.cli, MAC)

    def stop_load(self):
        self.load.close()

    def goes_on(self):
        """Frames reach the client, and requests reach the guest."""
        start, since = self.at_client(), time.monotonic()
        answers = len(self.story.answered)
        ok = self.watch.wait(lambda: self.at_client() >= start + 12, 10)
        self.listen()
        while ok and len(self.story.answered) <= answers:
            self.nap(0.01)
            self.listen()
            ok = time.monotonic() - since < 10
        if not ok:
            raise Wrong('stuck', f'the guest on {self.primary.host} does not '
                        f'speak: {self.primary.machine.states}, '
                        f'{self.primary.query()}')

    # --------------------------------------------------------------- the end

    def disk_mode(self, kind, flags):
        """Ask the disk to be quiet, to read, or to go on."""
        token = self.rng.getrandbits(31) + 1
        end = time.monotonic() + 20
        while True:
            self.load.send(kind, struct.pack('>I', token))
            self.nap(0.05)
            self.listen()
            last = self.story.disks.last.get(0)
            if last and last.token == token and \
                    last.flags & flags == flags:
                return last
            if time.monotonic() > end:
                raise Wrong('stuck', f'no answer to disk request {kind}: '
                            f'{last}, {self.primary.try_qmp("query-status")}')

    def finish(self):
        """All of the disk is read back, and the image is whole."""
        super().finish()
        if self.setup.storage == 'none':
            return
        rounds = self.disk_mode(ftguest.KIND_DISK_READ_ONLY, 0).rounds
        end = time.monotonic() + 30
        while self.story.disks.last[0].rounds < rounds + 1:
            self.nap(0.05)
            self.listen()
            if time.monotonic() > end:
                raise Wrong('stuck', 'the disk cannot be read to its end')
        if self.backup:
            self.kill(self.backup)
            self.until(lambda: 'unprotected' in self.primary.states(), 15)
            self.backup = None
        self.disk_mode(ftguest.KIND_DISK_QUIESCE, ftguest.DISK_QUIESCED)
        settled = self.until(lambda: not any(
            n['drv'] == 'ft-journal' for n in
            self.primary.try_qmp('query-named-block-nodes') or []), 20)
        self.expect(settled, 'stuck', 'the journal does not get empty')
        found = ftguest.check_image(self.image(self.primary.host), SECTORS)
        self.expect(not found.torn and found.valid, 'lost',
                    f'the image on {self.primary.host}: {found}')
