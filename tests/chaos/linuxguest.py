"""A world whose guest is Linux, with a database, and clients that count.

SPDX-License-Identifier: GPL-2.0-or-later

One client of PostgreSQL and one of redis write over one TCP connection each,
which they never make again, through all faults of the world. Frames have no
numbers here: whoever speaks after somebody else has begun to is double-live.
"""

import os
import shutil
import struct
import subprocess
import time

from clients import RedisClient
from harness import ACCELERATOR, PATIENCE, ROOT
from linux import BAD_WORDS, FILES, GUEST, HOSTS, MAC, TOOLS
from pgclient import NoAnswer, PgClient, PgFailure, Reset
from world import World, Wrong

MAC_BYTES = bytes(int(part, 16) for part in MAC.split(':'))
IMAGE_MIB = 256
DISK = os.path.join(ROOT, 'scripts', 'guest', 'disk')


class LinuxWorld(World):
    """See world.py."""

    strict = True
    memory = '256M'
    sync_timeout = 60.0

    def options(self, host):
        with open(os.path.join(FILES, 'cmdline'), encoding='ascii') as file:
            words = file.read().strip()
        return [
            *ACCELERATOR, '-machine', 'pc',
            '-m', self.memory, '-kernel', os.path.join(FILES, 'vmlinux'),
            '-initrd', os.path.join(FILES, 'initrd.img'), '-append',
            f'{words} ftguest.ip={GUEST}/24 ftguest.gw=10.77.0.1',
            '-netdev', f'tap,id=n0,ifname={HOSTS[host][0]},script=no,'
            'downscript=no',
            '-device', f'virtio-net-pci,netdev=n0,mac={MAC},romfile=',
            '-drive', 'if=none,id=drive0,cache=writeback,format=raw,'
            f'file={self.image(host)}',
            '-device', f'virtio-blk-pci,drive=drive0,'
            f'werror={self.setup.werror}']

    # ----------------------------------------------------------------- disks

    def prepare_disks(self):
        for name in (['shared'] if self.setup.storage == 'shared'
                     else HOSTS):
            os.makedirs(self.path(f'disk-{name}'))
        subprocess.run([DISK, '--size', str(IMAGE_MIB), self.image('pri')],
                       check=True, stdout=subprocess.DEVNULL,
                       timeout=180 * PATIENCE)

    def fresh_image(self, host):
        """The image as its host has left it, or one with nothing in it."""
        if self.setup.storage == 'replicated' and (
                not os.path.exists(self.image(host)) or
                self.rng.random() < 0.3):
            with open(self.image(host), 'wb') as file:
                file.truncate(IMAGE_MIB << 20)

    # ------------------------------------------------------------- the guest

    def decode(self, data):
        """The type of a frame that the guest sends, and of which kind."""
        if data[6:12] != MAC_BYTES:
            return None
        return struct.unpack_from('>H', data, 12)[0]

    def content(self, what):
        return None

    def counts(self, what):
        return False                    # acknowledgements are what counts

    def booted(self):
        machine = self.primary.machine
        if not self.until(lambda: 'ftguest: ready' in
                          machine.text('serial', 1 << 20), 90):
            raise Wrong('stuck', 'the guest does not come up: ' +
                        machine.text('serial'))

    def start_load(self):
        self.load = [
            PgClient(GUEST, netns=self.lab.cli, rate=100),
            RedisClient(GUEST, netns=self.lab.cli, rate=200)]
        for client in self.load:
            client.start(patience=20)

    def stop_load(self):
        for client in self.load:
            if isinstance(client, PgClient) and client.connection:
                client.connection.sock.close()
            elif isinstance(client, RedisClient):
                client.close()

    def failed(self, failure):
        """A client's PgFailure as what it means."""
        verdict = 'reset' if isinstance(failure, Reset) else \
            'stuck' if isinstance(failure, NoAnswer) else 'lost'
        return Wrong(verdict, f'a client: {failure!r}')

    def goes_on(self):
        """Both clients get on, over the connections that they have; and
        what is acknowledged is there."""
        postgres, redis = self.load
        try:
            postgres.wait_acked(postgres.acked + 10, 30 * PATIENCE)
            redis.wait_acked(redis.acked + 10, 30 * PATIENCE)
            reader = PgClient(GUEST, netns=self.lab.cli, run=postgres.run,
                              acked=postgres.acked)
            report = reader.verify(patience=10)
            reader.close()
        except PgFailure as failure:
            raise self.failed(failure) from None
        report['beyond'] = 0            # the writer has gone on meanwhile
        self.judge(report)

    @staticmethod
    def judge(report):
        bad = {key: report[key] for key in ('lost', 'torn', 'corrupt',
                                            'beyond', 'duplicates')
               if report[key] != 0}
        if bad:
            verdict = 'duplicate' if set(bad) == {'duplicates'} else 'lost'
            raise Wrong(verdict, f'the database: {report}')

    def outage(self):
        """The longest wait of either client since the fault, in ms."""
        begin = self.fault_at / 1e9 - time.time() + time.monotonic()
        worst = 0.0
        for client in self.load:
            times = list(client.ack_times)
            before = [t for t in times[-4000:] if t <= begin]
            inside = [t for t in times[-4000:] if t > begin]
            points = [before[-1] if before else begin, *inside]
            worst = max([worst, *(1000 * (b - a) for a, b in
                                  zip(points, points[1:]))])
        return worst

    # --------------------------------------------------------------- the end

    def check_consoles(self):
        """The guest's kernel must not have complained, on any host."""
        for side in self.sides:
            for line in side.machine.text('serial', 1 << 20).splitlines():
                if BAD_WORDS.search(line):
                    raise Wrong('guest', f'{side.name}: {line}')

    def finish(self):
        """The guest's own end, by its power button; then the images."""
        super().finish()
        postgres, redis = self.load
        try:
            report = postgres.verify()
            lost, twice = redis.verify()
        except PgFailure as failure:
            raise self.failed(failure) from None
        self.judge(report)
        self.expect(not lost, 'lost', f'redis: {lost} numbers')
        self.expect(not twice, 'duplicate', f'redis: {twice} numbers')
        self.expect(report['ok'], 'reset', f'the database: {report}')
        postgres.close()
        self.check_consoles()
        self.primary.qmp('system_powerdown')
        for side in (self.primary, self.backup):
            if side:
                status = side.machine.wait_exit(60)
                self.expect(not status, 'stuck', f'{side.name} ended with '
                            f'{status} after the guest was switched off')
        self.fsck(self.primary.host)
        if self.backup and self.setup.storage == 'replicated':
            same = subprocess.run(
                ['cmp', self.image('pri'), self.image('bak')],
                capture_output=True, text=True, check=False)
            self.expect(not same.returncode, 'lost',
                        f'the images differ: {same.stdout}')

    def fsck(self, host):
        """The file system must need no repair."""
        e2fsck = shutil.which('e2fsck', path=TOOLS['PATH'])
        done = subprocess.run([e2fsck, '-fn', self.image(host)],
                              capture_output=True, text=True, check=False,
                              timeout=60 * PATIENCE)
        self.expect(not done.returncode, 'lost', f'e2fsck: {done.stdout}'
                    f'{done.stderr}')
