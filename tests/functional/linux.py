"""Pairs whose guest is Linux, with PostgreSQL on a disk, on real taps.

SPDX-License-Identifier: GPL-2.0-or-later

    with LinuxPair(directory, storage='shared') as pair:
        pair.start()                    # two hosts, the guest has booted
        client = pair.client()
        client.start(patience=10)
        pair.protect()
        outage = pair.failover(client)  # SIGKILL; the other host goes on
        pair.start_backup()             # on the host that was killed
        pair.protect()
        ...
        pair.power_off()                # in order, both QEMUs end
        pair.check_images()

    pair = LinuxPair(directory, append=JOBS)
    ...
    print(pair.run('uname -r'))         # a script in the guest, by redis

The two hosts are network namespaces (scripts/netns-lab), each with a tap, a
bridge and an end of the pair's own cable. They take turns: whoever is killed
comes back as the backup. On shared storage both open one image; on replicated
storage each host has its own.

Environment: what harness.py says, and CUJU_GUEST_LINUX, the directory with
the Linux guest's files.
"""

import contextlib
import ctypes
import itertools
import os
import random
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse

from harness import (ACCEL, PATIENCE, ROOT, TIMEOUT_MS, Broken, Machine,
                     accelerator, check_arbiter, close_all, make_arbiter,
                     wait_arbiter, wait_until)

SCRIPTS = os.path.join(ROOT, 'scripts')
sys.path.insert(0, SCRIPTS)
from pgclient import CLONE_NEWNET, PgClient, open_socket  # noqa: E402

FILES = os.environ.get('CUJU_GUEST_LINUX',
                       os.path.join(ROOT, 'build', 'guest', 'linux'))
TOOLS = {**os.environ, 'PATH': os.environ['PATH'] + ':/sbin:/usr/sbin'}
GUEST = '10.77.0.2'
MAC = 'ae:ae:00:00:00:25'
PORT = 4441
# Its two sides: host -> (tap, address on the pair's own cable)
HOSTS = {'pri': ('tap0', '192.168.111.1'), 'bak': ('tap1', '192.168.111.2')}
# What a guest that is well does not say; the console has errors only.
BAD_WORDS = re.compile(
    r'I/O error|EXT4-fs (error|warning)|JBD2|Buffer I/O|Kernel panic|Oops|'
    r'BUG:|WARNING:|Call Trace|blocked for more|stall|does not answer|'
    r'did not end|/data is in use|corrupt', re.IGNORECASE)
# For LinuxPair's `append`: the guest runs what comes on a list of its redis.
JOBS = 'ftguest.run=' + urllib.parse.quote(
    'while :; do redis-cli --raw BLPOP job 0 > /run/job || sleep 1; '
    'sed -i 1d /run/job; '
    'sh /run/job 2>&1 | redis-cli -x LPUSH done > /dev/null; done', safe='')
_labs = itertools.count()


@contextlib.contextmanager
def namespace(name):
    """This thread is in a network namespace for a while."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd):
        if libc.setns(fd, CLONE_NEWNET):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), name)

    with open('/proc/thread-self/ns/net', 'rb') as home, \
         open(f'/run/netns/{name}', 'rb') as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


def percentile(values, part):
    """The value that so much of all are not above; `values` not empty."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


def tcp_figures(client):
    """How many segments the client's TCP has sent again, and how many ms
    without an answer make it do so."""
    info = client.connection.sock.getsockopt(
        socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    words = struct.unpack_from('24I', info, 8)
    return words[23], words[0] / 1000


def end_in_order():
    """For programs: a signal ends them by their own cleaning up."""
    for number in signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda n, _: sys.exit(128 + n))


class Lab:
    """Two hosts, a switch and a client, made of network namespaces."""

    def __init__(self):
        self.name = f'ft{os.getpid()}-{next(_labs)}'
        self._run('up')

    def _run(self, what):
        done = subprocess.run([os.path.join(SCRIPTS, 'netns-lab'), what,
                               self.name], capture_output=True, text=True,
                              timeout=30 * PATIENCE, check=False)
        if done.returncode:
            raise Broken(f'netns-lab {what}: {done.stderr}')

    def __getattr__(self, part):
        """lab.pri, lab.bak, lab.cli: the namespaces' names."""
        if part in ('pri', 'bak', 'sw', 'cli'):
            return f'{self.name}-{part}'
        raise AttributeError(part)

    def close(self):
        self._run('down')


class LinuxPair:
    """A protected Linux guest that goes from host to host."""

    def __init__(self, directory, storage='shared', memory='256M',
                 image_size=256, params=None, append='', drive='',
                 disk='virtio-blk-pci', rng=None, accel=ACCEL, cpus=1):
        self.directory = str(directory)
        self.storage = storage
        self.memory = memory
        self.image_size = image_size
        self.arbiter, spec = make_arbiter(self.directory)
        self.params = {'ft-storage': storage, 'ft-arbiter': spec,
                       'ft-timeout-ms': TIMEOUT_MS, **(params or {})}
        self.append = append
        self.drive = drive              # more options of -drive
        self.disk = disk
        self.accel = accel
        self.cpus = cpus
        self.rng = rng or random.Random()
        self.machines = []
        self.clients = []
        self.primary = self.backup = None
        self.began_with = '-'           # the last backup's image
        self.where = {}                 # Machine -> host
        self.lab = Lab()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if not kind:
            self.check_arbiter()

    def close(self):
        close_all(self.machines)
        for client in self.clients:
            if client.connection:       # its server is gone
                client.connection.sock.close()
        self.lab.close()

    def wait_arbiter(self):
        """Before close(): see there."""
        if any(m.alive() for m in self.machines):
            wait_arbiter(self.arbiter, self.machines)

    def check_arbiter(self):
        """After close(): nothing is left at the arbiter but claims."""
        check_arbiter(self.arbiter, self.machines)

    # ------------------------------------------------------------ the images

    def image(self, host):
        name = 'shared' if self.storage == 'shared' else host
        return os.path.join(self.directory, f'{name}.raw')

    def make_image(self, host):
        """The data disk, with an empty database."""
        subprocess.run([os.path.join(SCRIPTS, 'guest', 'disk'), '--size',
                        str(self.image_size), self.image(host)], check=True,
                       stdout=subprocess.DEVNULL, timeout=120 * PATIENCE)

    def fresh_image(self, host):
        """What a new backup begins with on replicated storage: the image
        as the host died with it, or one with nothing in it."""
        path = self.image(host)
        size = os.path.getsize(self.image(self.where[self.primary]))
        if os.path.exists(path) and self.rng.random() < 0.7:
            return 'stale'
        with open(path, 'wb') as file:
            file.truncate(size)
        return 'empty'

    def fsck(self, host):
        """The file system must need no repair."""
        done = subprocess.run(['e2fsck', '-fn', self.image(host)], env=TOOLS,
                              capture_output=True, text=True, check=False,
                              timeout=60 * PATIENCE)
        if done.returncode:
            raise Broken(f'e2fsck of {self.image(host)}: {done.stdout}'
                         f'{done.stderr}')
        # With -n it looks past a journal that was not played back.
        if 'skipping journal recovery' in done.stdout + done.stderr:
            raise Broken(f'{self.image(host)}: unmounting it is not on it')

    def images_equal(self):
        """The hosts' images must be the same, byte for byte."""
        paths = [self.image(host) for host in HOSTS]
        done = subprocess.run(['cmp', '-l', *paths], capture_output=True,
                              text=True, check=False, timeout=60 * PATIENCE)
        if done.returncode:
            at = [int(line.split()[0]) - 1
                  for line in done.stdout.splitlines()]
            blocks = sorted({byte // 4096 for byte in at})
            raise Broken(f'{len(at)} bytes differ in {len(blocks)} blocks of '
                         f'4 KiB: {blocks[:20]} {done.stderr}')

    def compare_stopped(self):
        """While protected: stop the guest, let both sides write what they
        have, compare, and let it go on."""
        self.primary.qmp('stop')
        last = [None]

        def stands():
            """The epoch in which it stopped is committed, none comes."""
            before, status = last[0], self.primary.query()
            last[0] = status['epoch']
            return before == last[0] and not status['in-flight']

        wait_until('the last epoch', stands, interval=0.2)
        wait_until('all on both disks', lambda: all(
            drive['settled'] >= last[0]
            for machine in (self.primary, self.backup)
            for drive in machine.query()['drives']))
        self.images_equal()
        self.primary.qmp('cont')

    def check_images(self, both=True):
        """After the guest's end: the primary's image, or all and that they
        are equal."""
        self.fsck(self.where[self.primary])
        if both and self.storage == 'replicated':
            self.fsck(self.where[self.backup])
            self.images_equal()

    # ---------------------------------------------------------- the machines

    def options(self, host, incoming):
        tap, _ = HOSTS[host]
        with open(os.path.join(FILES, 'cmdline'), encoding='ascii') as file:
            words = file.read().strip()
        options = [
            *accelerator(self.accel), '-machine', 'pc',
            '-smp', str(self.cpus), '-m', self.memory,
            '-kernel', os.path.join(FILES, 'vmlinux'), '-initrd',
            os.path.join(FILES, 'initrd.img'), '-append',
            f'{words} ftguest.ip={GUEST}/24 ftguest.gw=10.77.0.1 '
            f'{self.append}',
            '-netdev', f'tap,id=n0,ifname={tap},script=no,downscript=no',
            '-device', f'virtio-net-pci,netdev=n0,mac={MAC},romfile=',
            '-drive', f'if=none,id=drive0,cache=none,format=raw,'
                      f'file={self.image(host)}{self.drive}',
            '-device', f'{self.disk},drive=drive0']
        if incoming:
            options += ['-incoming', incoming + ',ft_mode']
        return options

    def launch(self, host, incoming=None):
        """Start a QEMU on a host; `incoming` makes it a backup."""
        number = len(self.machines)
        with namespace(getattr(self.lab, host)):
            machine = Machine(self.directory, f'{number}-{host}',
                              self.options(host, incoming))
        self.machines.append(machine)
        self.where[machine] = host
        machine.connect()
        machine.qmp('ft-set-parameters', **self.params)
        return machine

    def start_primary(self, host='pri'):
        """Boot the guest; waits until it says that all services answer."""
        self.make_image(host)
        self.primary = self.launch(host)
        self.wait_serial(self.primary, 'ftguest: ready', 60)
        said = self.primary.text('serial')
        if 'on /data' not in said or 'does not answer' in said:
            raise Broken(said)
        return self.primary

    def start_backup(self):
        """A new process on the host that the primary is not on."""
        host, = set(HOSTS) - {self.where[self.primary]}
        self.began_with = '-'
        if self.storage == 'replicated':
            self.began_with = self.fresh_image(host)
        self.uri = f'tcp:{HOSTS[host][1]}:{PORT}'
        self.backup = self.launch(host, self.uri)
        return self.backup

    def start(self):
        self.start_primary()
        self.start_backup()
        return self

    def protect(self, timeout=60.0):
        """Protect the guest; seconds until it was."""
        begin = time.monotonic()
        primary = self.primary
        primary._pull(0.001)
        since = len(primary.states)
        primary.qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'cuju-ft', 'state': True}])
        primary.qmp('migrate', uri=self.uri)
        # Whatever ends it is told, rather than waited out.
        end = begin + timeout * PATIENCE
        while True:
            said = dict(primary.states[since:])
            if 'protected' in said:
                break
            for state in ('inactive', 'unprotected', 'fenced'):
                if state in said:
                    raise Broken(f'not protected: {state}: {said[state]}')
            if not primary.alive() or not self.backup.alive():
                raise Broken('a QEMU has ended before the guest was '
                             'protected')
            if time.monotonic() > end:
                raise Broken(f'not protected in {timeout} s: '
                             f'{primary.query()}')
            primary._pull(0.25)
        self.backup.wait_state('standby')
        return time.monotonic() - begin

    def wait_serial(self, machine, words, timeout=30.0):
        """Wait for words of the guest on its console."""
        def said():
            if words in machine.text('serial', 1 << 20):
                return True
            if not machine.alive():
                raise Broken(f'{machine.name} ended with '
                             f'{machine.process.returncode} before "{words}"')
            return False
        wait_until(f'"{words}" of {machine.name}', said, timeout, 0.1)

    # ------------------------------------------------------------- the world

    def client(self, **kwargs):
        """A client outside; it is to be started by the caller."""
        client = PgClient(GUEST, netns=self.lab.cli, **kwargs)
        self.clients.append(client)
        return client

    def look(self, client):
        """Read back what is acknowledged so far, while the client goes on:
        over another connection, which is new."""
        reader = PgClient(GUEST, netns=self.lab.cli, run=client.run,
                          acked=client.acked)
        report = reader.verify(patience=10)
        reader.close()
        if report['lost'] is None:
            raise Broken(f'cannot look: {report}')
        return report

    def failover(self, client, answers=30, timeout=40.0):
        """Kill the primary; the backup must go on and the client with it.

        Returns what the client and the new primary say of it."""
        resent, timer = tcp_figures(client)
        killed = time.monotonic()
        self.primary.kill()
        acked = client.acked
        survivor = self.backup
        reason = survivor.wait_state('unprotected')
        client.wait_acked(acked + answers, timeout * PATIENCE)
        until = time.monotonic()
        before = [t for t in client.ack_times if t <= killed]
        since = before[-1] if before else killed
        status = survivor.query()
        if not survivor.running():
            raise Broken('the guest does not run after the takeover')
        self.primary, self.backup = survivor, None
        return {'outage_ms': client.longest_gap(since, until),
                'takeover_ms': status['takeover-us'] / 1000,
                'resent': tcp_figures(client)[0] - resent,
                'timer_ms': timer,
                'reason': reason}

    def run(self, script, timeout=60.0):
        """Run a shell script in the guest (see JOBS); what it prints."""
        def resp(*words):
            return b'*%d\r\n' % len(words) + b''.join(
                b'$%d\r\n%s\r\n' % (len(w), w)
                for w in (str(word).encode() for word in words))

        with open_socket((GUEST, 6379), timeout * PATIENCE,
                         self.lab.cli) as sock, sock.makefile('rb') as answer:
            sock.sendall(resp('RPUSH', 'job', script))
            if not answer.readline().startswith(b':'):
                raise Broken('redis does not take the job')
            sock.sendall(resp('BLPOP', 'done', int(timeout * PATIENCE)))
            if answer.readline() != b'*2\r\n':
                raise Broken(f'not done in {timeout} s: {script}')
            for _ in range(2):          # the list's name, and the value
                size = int(answer.readline()[1:])
                value = answer.read(size + 2)[:-2]
            return value.decode(errors='replace')

    def power_off(self, timeout=60.0):
        """The guest's own end, by its power button; both QEMUs end well."""
        self.primary.qmp('system_powerdown')
        status = self.primary.wait_exit(timeout)
        if status:
            raise Broken(f'{self.primary.name} ended with {status}')
        if self.backup:
            status = self.backup.wait_exit()
            if status:
                raise Broken(f'{self.backup.name} ended with {status}, not '
                             f'by the primary\'s word: '
                             f'{self.backup.text()}')

    def check_consoles(self):
        """The guest's kernel must not have complained, on any host."""
        for machine in self.machines:
            for line in machine.text('serial', 1 << 20).splitlines():
                if BAD_WORDS.search(line):
                    raise Broken(f'{machine.name}: {line}')

    def report(self):
        """What happened, for a failed test."""
        out = []
        for machine in self.machines[-4:]:
            out.append((f'{machine.name}: command and log',
                        f'{shlex.join(machine.command)}\n'
                        f'status {machine.process.poll()}, states '
                        f'{machine.states}\n{machine.text()}'))
            out.append((f'{machine.name}: serial',
                        machine.text('serial', 1500)))
        return out
