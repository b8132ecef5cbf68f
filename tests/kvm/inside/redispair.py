"""A protected Linux guest with a small disk, and redis under load.

SPDX-License-Identifier: GPL-2.0-or-later

    with RedisPair(directory, accel='kvm', cpus=2) as pair:
        pair.boot()                 # protected, a client writes
        pair.failover('kill')
        pair.look()                 # what was acknowledged is there
        pair.again()                # protected by a new process
        ...
        pair.finish()

Two things are promised: what redis has answered to the client outside, over
one TCP connection that is never made again, and what a process in the guest
has written to the disk, with fsync, before it said so. The disk is an ext4
with nothing on it: a database would take its time, in a machine in a machine
that is emulated.
"""

import contextlib
import signal
import socket
import subprocess
import urllib.parse

from clients import RedisClient
from harness import PATIENCE, Broken
from linux import GUEST, JOBS, TOOLS, LinuxPair

DISK = '24M'
# Each number is on the disk before it is in the list.
WRITER = ('n=0; while :; do n=$((n+1)); echo $n | dd of=/data/log '
          'oflag=append conv=notrunc,fsync 2> /dev/null && '
          'redis-cli RPUSH written $n > /dev/null; usleep 20000; done &\n')
FAULTS = ('kill', 'hang')


class RedisPair(LinuxPair):
    """See above; `rate` is how many writes a second the client tries."""

    def __init__(self, directory, memory='192M', rate=300, **kwargs):
        run = urllib.parse.quote(WRITER, safe='')
        # See test_soak.py; an answer takes a few epochs.
        kwargs['params'] = {'ft-epoch-us': 40000, **kwargs.get('params', {})}
        super().__init__(directory, storage='replicated', memory=memory,
                         append=JOBS.replace('=', f'={run}', 1), **kwargs)
        self.rate = rate
        self.redis = None

    def make_image(self, host):
        subprocess.run(['mkfs.ext4', '-q', '-F', '-L', 'ftdata',
                        self.image(host), DISK], env=TOOLS, check=True,
                       stdout=subprocess.DEVNULL,
                       timeout=60 * PATIENCE)

    def boot(self):
        """A protected guest under load."""
        self.start()
        self.redis = RedisClient(GUEST, netns=self.lab.cli, rate=self.rate,
                                 timeout=30 * PATIENCE)
        self.redis.start(10 * PATIENCE)
        self.protect()
        self.more(20)
        return self

    def close(self):
        super().close()
        if self.redis and self.redis.sock:
            with contextlib.suppress(OSError):  # whoever waits need not
                self.redis.sock.shutdown(socket.SHUT_RDWR)
            self.redis.close()

    def more(self, count, seconds=30):
        """So many acknowledgements more."""
        self.redis.wait_acked(self.redis.acked + count, seconds * PATIENCE)

    def failover(self, fault='kill', point=None, after=1):
        """Lose the primary; the backup must go on and the connection with
        it. Milliseconds that nothing was acknowledged for."""
        primary, survivor = self.primary, self.backup
        if point:
            primary.inject(point, after)
            if primary.wait_exit() != -signal.SIGKILL:
                raise Broken(f'{primary.name}: {primary.process.returncode}')
        elif fault == 'hang':
            primary.hang()
        else:
            primary.kill()
        last = self.redis.ack_times[-1]
        survivor.wait_state('unprotected')
        if not survivor.running():
            raise Broken('the guest does not run after the takeover')
        self.primary, self.backup = survivor, None
        self.more(20)
        if fault == 'hang' and not point:
            primary.wake()
            if primary.wait_exit() != 3:
                raise Broken(f'{primary.name} woke up, and ended with '
                             f'{primary.process.returncode}')
            self.more(20)
        return 1000 * (next(when for when in self.redis.ack_times
                            if when > last) - last)

    def look(self):
        """What is acknowledged must be there, in memory and on the disk;
        (numbers in redis, numbers on the disk)."""
        said = self.run('redis-cli LRANGE written 0 -1; echo ==; '
                        'echo 3 > /proc/sys/vm/drop_caches; cat /data/log')
        written, disk = ([int(word) for word in part.split()]
                         for part in said.split('=='))
        for numbers in written, disk:
            if not numbers or numbers != list(range(1, len(numbers) + 1)):
                raise Broken(f'numbers are missing: {numbers}')
        if len(disk) < len(written):    # it goes on while we look
            raise Broken(f'{len(written)} were acknowledged, only '
                         f'{len(disk)} are on the disk')
        if self.redis.failure:
            raise self.redis.failure
        self.check_consoles()
        return self.redis.acked, len(disk)

    def again(self):
        """A new process on the host that is free."""
        self.start_backup()
        self.protect()
        self.more(20)

    def finish(self):
        """All that the client was told is read back over its connection;
        then the guest ends, and its disk is whole."""
        lost, twice = self.redis.verify()
        if lost or twice:
            raise Broken(f'redis: {lost} of {self.redis.acked} lost, '
                         f'{twice} twice')
        self.power_off()
        self.check_images(both=self.backup is not None)
        self.check_consoles()
        return self.redis.acked
