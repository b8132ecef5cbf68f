"""Two hosts, a bad cable, and one guest that outlives whatever happens.

SPDX-License-Identifier: GPL-2.0-or-later

A World keeps one guest alive over many faults: it is protected, something
goes wrong, somebody goes on or nobody noticed, everything is looked at, and a
new backup is started on the host that is free.

    world = BareWorld(setup, directory)
    world.begin()
    world.ready('protected')
    world.fault_begins()
    ...                                 # faults.py
    outcome = world.resolve()           # who goes on?
    world.audit(outcome)
    world.finish()

What does not depend on the guest is here; see bare.py and linuxguest.py.
Whatever is wrong is a Wrong, with one word for the table.
"""

import contextlib
import errno
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections import namedtuple

import audit
from cable import PROGRAMS, PairCable
from etcdhost import EtcdHost
from harness import PATIENCE, Broken, Machine
from linux import HOSTS, PORT, Lab, namespace
from watch import Watch

# What a world is like. `storage`: none, shared or replicated; `arbiter`: file,
# image (the shared image's directory, by default), etcd, or none, with which
# two live sides are possible; `auto`: protects again by itself (ft-reprotect).
Setup = namedtuple('Setup', 'name guest seed storage arbiter auto werror nic '
                            'load timeout_ms params')
# Longest time until it is clear who goes on, in seconds.
PATIENCE_RESOLVE = 20.0
# A fault that was ridden out has been, when all is well for so much longer
# than the other side's silence may last.
CALM = 0.15
# States that say nothing against protection that is there now.
QUIET = {'setup', 'sync', 'protected'}
# So often a first copy may be in vain.
TRIES = 3
# So many open files and threads more than at first are no leak.
SLACK = 6


class Wrong(Broken):
    """The pair has done what it must not: (verdict, text)."""

    def __init__(self, verdict, text):
        super().__init__(f'{verdict}: {text}')
        self.verdict = verdict


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1] if lines else ''


class Side:
    """One QEMU of the pair."""

    def __init__(self, machine, host, role):
        self.machine = machine
        self.name = machine.name
        self.host = host
        self.role = role                # primary or backup, of the session
        self.stopped = False
        self.killed = False
        self.since = 0                  # states that are older do not count
        self.files = None               # open files and threads, at first

    @property
    def pid(self):
        return self.machine.process.pid

    def alive(self):
        return self.machine.alive()

    def pull(self, timeout=0.0005):
        """Take the events that have come."""
        if self.alive() and not self.stopped:
            self.machine._pull(timeout)

    def states(self):
        """Names of the states since the fault began."""
        return [name for name, _ in self.machine.states[self.since:]]

    def went_on(self):
        """Has it taken over since? (By now it may be protecting again.)"""
        return 'unprotected' in self.states()

    def state(self):
        states = self.machine.states
        return states[-1][0] if states else 'inactive'

    def reason(self):
        states = self.machine.states
        return states[-1][1] if states else ''

    def mark(self):
        self.pull()
        self.since = len(self.machine.states)

    def qmp(self, command, **arguments):
        return self.machine.qmp(command, **arguments)

    def try_qmp(self, command, **arguments):
        """None if it is refused, or the process ends meanwhile."""
        if not self.alive() or self.stopped:
            return None
        try:
            return self.machine.qmp(command, **arguments)
        except Exception:   # whatever QEMU's own package makes of its end
            return None

    def query(self):
        return self.try_qmp('query-ft') or {}

    def running(self):
        return (self.try_qmp('query-status') or {}).get('status') == 'running'


class World:
    """What all worlds have in common."""

    strict = False
    sync_timeout = 20.0

    def __init__(self, setup, directory, say=print):
        self.setup = setup
        self.directory = str(directory)
        self.say = say
        self.began = time.monotonic()
        self.rng = random.Random(f'{setup.seed}:{setup.name}:events')
        self.primary = self.backup = None
        self.sides = []
        self.mounts = []
        self.mounted_ro = False
        self.etcd = None
        self.load = None
        self.lab = self.cable = self.watch = None
        self.story = audit.Story(strict=self.strict)
        self.arrived = []               # at the client, ns
        self.fault_at = None            # ns
        self.healed_at = None           # monotonic
        self.losers = []                # how those who lost have ended
        self.unclaimed = set()          # generations that need no claim
        self.retries = []               # protections that were in vain
        self.silences = []              # (Side, since, until): see audit()
        self.notes = []
        self.bad_disks = {}             # Side -> mmap of badio's file

    # --------------------------------------------------------------- the place

    def note(self, text):
        """A line of the world's diary."""
        self.notes.append(f'{time.monotonic() - self.began:9.3f} {text}')
        self.say(self.notes[-1])

    def path(self, *words):
        return os.path.join(self.directory, *words)

    def tmpfs(self, name, size):
        """A small file system of its own, to be filled or taken away."""
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}',
                        'cuju-chaos', path], check=True,
                       timeout=20 * PATIENCE)
        self.mounts.append(path)
        return path

    @property
    def arbiter_dir(self):
        """The directory that claims are in, if they are in one."""
        if self.setup.arbiter == 'image':
            return os.path.dirname(self.image('pri'))
        return self.path('arbiter') if self.setup.arbiter == 'file' else None

    def arbiter_spec(self):
        if self.setup.arbiter == 'image':
            return None
        if self.setup.arbiter == 'etcd':
            return self.etcd.spec()
        if self.setup.arbiter == 'none':
            return 'none'
        return f'file:{self.arbiter_dir}'

    def arbiter_away(self, away):
        """Out of reach for both: the directory read-only, or etcd hung."""
        if self.setup.arbiter == 'etcd':
            self.etcd.hang(away)
        else:
            subprocess.run(['mount', '-o', 'remount,' +
                            ('ro' if away else 'rw'), self.path('arbiter')],
                           check=True, timeout=20 * PATIENCE)
        self.mounted_ro = away
        self.note(f'arbiter {"away" if away else "back"}')

    def image(self, host):
        """Path of the image as a host has it."""
        where = 'shared' if self.setup.storage == 'shared' else host
        return self.path(f'disk-{where}', 'image.raw')

    # ------------------------------------------------------------- the processes

    def params(self, host):
        """For ft-set-parameters."""
        params = dict(self.setup.params)
        params['ft-timeout-ms'] = self.setup.timeout_ms
        params['ft-heartbeat-ms'] = max(10, self.setup.timeout_ms // 10)
        if self.setup.storage != 'none':
            params['ft-storage'] = self.setup.storage
        spec = self.arbiter_spec()
        if spec:
            params['ft-arbiter'] = spec
        if self.setup.auto:
            other, = set(HOSTS) - {host}
            params['ft-reprotect'] = [self.address(other)]
        return params

    @staticmethod
    def address(host):
        return f'tcp:{HOSTS[host][1]}:{PORT}'

    @contextlib.contextmanager
    def environment(self, host, number):
        """What is in QEMU's environment: a disk that can be told to fail."""
        if self.setup.storage == 'none':
            yield None
            return
        path = self.path(f'{number}-{host}.badio')
        with open(path, 'wb+') as file:
            file.truncate(mmap.PAGESIZE)
            control = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        added = {'LD_PRELOAD': os.path.join(PROGRAMS, 'badio.so'),
                 'CUJU_BADIO': path, 'CUJU_BADIO_PATH': self.image(host)}
        os.environ.update(added)
        try:
            yield control
        finally:
            for name in added:
                del os.environ[name]

    def launch(self, host, incoming=False):
        """Start a QEMU on a host."""
        number = len(self.sides)
        options = self.options(host)
        if incoming:
            options += ['-incoming', self.address(host) + ',ft_mode']
        self.story.begins(host, f'{number}-{host}', time.time_ns())
        with self.environment(host, number) as control, \
                namespace(getattr(self.lab, host)):
            machine = Machine(self.directory, f'{number}-{host}', options)
        side = Side(machine, host, 'backup' if incoming else 'primary')
        self.sides.append(side)
        if control:
            self.bad_disks[side] = control
        machine.connect()
        machine.qmp('ft-set-parameters', **self.params(host))
        self.note(f'{side.name} is started as {side.role}, pid {side.pid}')
        return side

    def fail_writes(self, side, count, number=errno.EIO):
        """The next `count` writes of this side to its image fail."""
        control = self.bad_disks[side]
        control[0:8] = struct.pack('Ii', count, number)
        self.note(f'{count} writes of {side.name} will fail with '
                  f'{errno.errorcode[number]}')

    def failed_writes(self, side):
        """So many have failed; so many are still to."""
        left, _, done = struct.unpack('IiI', self.bad_disks[side][0:12])
        return done, left

    def free_host(self):
        host, = set(HOSTS) - {self.primary.host}
        return host

    def begin(self):
        """The hosts, the arbiter, the guest; nothing is protected yet."""
        os.makedirs(self.directory, exist_ok=True)
        self.lab = Lab()
        self.cable = PairCable(self.lab,
                               random.Random(self.setup.seed).getrandbits(32))
        if self.setup.arbiter == 'file':
            self.tmpfs('arbiter', '1m')
        elif self.setup.arbiter == 'etcd':
            self.etcd = EtcdHost(self.lab, self.directory)
        self.watch = Watch(self.decode)
        self.watch.add('pri', self.lab.pri, 'tap0')
        self.watch.add('bak', self.lab.bak, 'tap1')
        self.watch.add('cli', self.lab.cli, 'eth0')
        self.prepare_disks()
        self.primary = self.launch('pri')
        self.booted()
        self.start_load()
        self.baseline(self.primary)

    def start_backup(self):
        """A new process on the host that the guest is not on."""
        self.fresh_image(self.free_host())
        self.primary.mark()
        self.backup = self.launch(self.free_host(), incoming=True)
        return self.backup

    def migrate(self):
        """Begin to protect, unless it is done by itself."""
        self.primary.role = 'primary'
        if self.setup.auto and self.until(
                lambda: set(self.primary.states()) & {'sync', 'protected'},
                3.0):
            return
        if 'protected' in self.primary.states():
            return
        self.primary.try_qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'cuju-ft', 'state': True}])
        try:
            self.primary.qmp('migrate', uri=self.address(self.backup.host))
        except Exception as error:  # by itself at the same moment
            if not self.setup.auto:
                raise Wrong('stuck', f'migrate: {error}') from None

    def ready(self, what):
        """Before a fault: `protected`, or `alone`, with no backup."""
        if what == 'alone':
            if self.backup:
                self.note('the backup is ended, to begin without one')
                self.kill(self.backup)
                self.expect(self.until(lambda: {'unprotected', 'inactive'} &
                                       set(self.primary.states()), 15),
                            'stuck', 'not unprotected after its backup was '
                            'killed')
                self.backup = None
            return
        for _ in range(TRIES):
            if not self.backup:
                self.start_backup()
                self.migrate()
            if self.wait_protected():
                return
            # On a machine that is busy enough a side may seem silent.
            self.healed_at = time.monotonic()
            self.retries.append('; '.join(
                f'{s.name} {s.machine.states[s.since:][-3:]} '
                f'{last_line(s.machine.text())}'
                for s in (self.primary, self.backup)))
            self.note(f'no fault, and yet: {self.retries[-1]}')
            self.resolve()
        raise Wrong('stuck', f'not protected in {TRIES} tries: '
                    f'{self.primary.machine.states}')

    def wait_protected(self):
        """False if one of the two has given up in order."""
        primary, backup = self.primary, self.backup

        def over():
            return not (primary.alive() and backup.alive()) or \
                backup.state() not in ('inactive', 'waiting', 'sync',
                                       'standby')

        def done():
            return over() or (primary.state() == 'protected' and
                              backup.state() == 'standby')

        begin = time.monotonic()
        self.expect(self.until(done, self.sync_timeout), 'stuck',
                    lambda: f'not protected in {self.sync_timeout} s: '
                    f'{primary.machine.states[primary.since:]}, '
                    f'{backup.machine.states}, {primary.query()}')
        # Equal, by the hash of all RAM.
        if not over() and self.setup.params.get('ft-hash'):
            self.expect(self.until(
                lambda: over() or backup.query().get('hashes-checked'),
                self.sync_timeout), 'stuck', lambda: 'no hash was compared: '
                        f'{primary.machine.states}, {backup.machine.states}')
        if over():
            return False
        self.note(f'protected, {primary.name} by {backup.name}, equal after '
                  f'{time.monotonic() - begin:.3f} s')
        return True

    # -------------------------------------------------------------- time passes

    def pull(self):
        for side in (self.primary, self.backup):
            if side:
                side.pull()

    def until(self, condition, timeout):
        """Wait for a condition, events being taken meanwhile."""
        end = time.monotonic() + timeout * PATIENCE
        while True:
            self.pull()
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                return value
            time.sleep(0.002)

    def nap(self, seconds):
        """Let time pass: a random moment is wanted, or a fault lasts."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 1)

    @staticmethod
    def expect(true, verdict, text):
        if not true:
            raise Wrong(verdict, text() if callable(text) else text)

    # ------------------------------------------------------------------- faults

    def fault_begins(self):
        for side in (self.primary, self.backup):
            if side:
                side.mark()
        self.fault_at = time.time_ns()

    def kill(self, side, sig=signal.SIGKILL):
        self.note(f'{signal.Signals(sig).name} for {side.name}')
        if not side.alive():
            return
        if sig == signal.SIGKILL:
            side.killed = True
        side.machine.kill(sig)

    def stop(self, side):
        side.pull()
        self.note(f'{side.name} is stopped')
        side.stopped = True
        os.kill(side.pid, signal.SIGSTOP)

    def cont(self, side):
        self.note(f'{side.name} is continued')
        if side.alive():
            self.story.wakes(side.name, time.time_ns())
            os.kill(side.pid, signal.SIGCONT)
        side.stopped = False

    def cut(self, sender=None):
        self.note(f'the cable carries nothing from {sender or "anybody"}')
        self.cable.set(sender, cut=1)

    def silent_from(self, side, since, until=None):
        """From a moment (ns) on, or for a time, nothing may come out of it."""
        self.silences.append((side, since, until))

    def may_not_claim(self):
        """A primary that agrees to be taken over from can be quicker than
        the arbiter: the claim is for nothing then."""
        self.unclaimed.add(self.primary.query().get('generation', 0) + 1)

    def undecided(self):
        """Do both live, and has neither said that the other is lost?"""
        over = {'unprotected', 'inactive', 'fenced', 'discarded', 'takeover'}
        return all(side.alive() and not over & set(side.states())
                   for side in (self.primary, self.backup))

    def wait_decided(self, timeout=8.0):
        """Until one of the two is not what it was; False if both are."""
        return self.until(lambda: not self.undecided(), timeout)

    def heal(self):
        """All links, the arbiter, and stopped processes, as they should be."""
        self.cable.clear()
        if self.mounted_ro:
            self.arbiter_away(False)
        for side in (self.primary, self.backup):
            if side and side.stopped:
                self.cont(side)
        self.resume_paused(self.primary)
        self.healed_at = time.monotonic()

    # ------------------------------------------------------------- the outcome

    def _outcome(self):
        """protected, primary, backup, none; or None: not clear yet."""
        primary, backup = self.primary, self.backup
        here = primary.alive()
        there = bool(backup and backup.alive())
        if here and there:
            if primary.state() == 'protected' and \
                    backup.state() == 'standby' and \
                    not set(primary.states()) - QUIET and \
                    time.monotonic() - self.healed_at > \
                    self.setup.timeout_ms / 1000 + CALM:
                return 'protected'
            if primary.went_on() and backup.went_on():
                self.listen()           # which should have heard both
                raise Wrong('double-live', 'both sides go on: '
                            f'{primary.reason()}; {backup.reason()}')
        elif here:
            if {'unprotected', 'inactive'} & set(primary.states()):
                return 'primary'
        elif there:
            if backup.went_on():
                return 'backup'
            if backup.state() in ('waiting', 'sync', 'discarded'):
                return 'none'
        else:
            return 'none'
        return None

    def resolve(self):
        """All is healed: who goes on?"""
        outcome = self.until(self._outcome, PATIENCE_RESOLVE)
        for side in (self.primary, self.backup):
            if side and not side.alive():
                problem = audit.end_problem(
                    side.name, side.role, side.machine.process.returncode,
                    side.killed)
                if problem:
                    raise Wrong('crash', f'{problem}: '
                                f'{side.machine.text(size=800)}')
                self.expect('a bug in the engine' not in
                            side.machine.text(size=2000), 'lost',
                            f'{side.name}: {side.machine.text(size=800)}')
                self.losers.append(f'{side.role} '
                                   f'{side.machine.process.returncode}'
                                   f'{" killed" if side.killed else ""}: '
                                   f'{last_line(side.machine.text())}')
        if outcome is None:
            self.listen()               # it may know of something worse
            raise Wrong('stuck', 'nobody knows who goes on: ' + '; '.join(
                f'{s.name} ({"alive" if s.alive() else "gone"}): '
                f'{s.machine.states[s.since:]}'
                for s in (self.primary, self.backup) if s))
        self.note(f'outcome: {outcome}')
        if outcome == 'none':
            raise Wrong('lost', 'the guest is gone')
        if outcome == 'primary':
            self.backup = None
        elif outcome == 'backup':
            self.primary, self.backup = self.backup, None
            self.primary.role = 'primary'
        return outcome

    def resume_paused(self, side):
        """A guest that an I/O error has paused goes on by the operator."""
        status = (side.try_qmp('query-status') or {}).get('status')
        if status == 'io-error':
            self.note('cont, after an I/O error')
            side.try_qmp('cont')

    # ------------------------------------------------------------------ the audit

    def listen(self):
        """Let the story have what was heard meanwhile."""
        for seen in self.watch.take():
            if seen.where == 'cli':
                if self.counts(seen.what):
                    self.arrived.append(seen.when)
            else:
                self.story.hear(seen.when, seen.where,
                                self.content(seen.what))
        for verdict, text in self.story.problems:
            raise Wrong(verdict, text)

    def check_silences(self):
        """Those who must have been silent, were they?"""
        for side, since, until in self.silences:
            said = self.story.spoke(side.name, since, until or time.time_ns())
            self.expect(not said, 'double-live', lambda side=side, said=said,
                        since=since: f'{side.name} should have been silent, '
                        f'and sent {len(said)} frames, the first after '
                        f'{(said[0] - since) / 1e6:.3f} ms')
        self.silences = []

    def outage(self):
        """The client's longest wait since the fault, in ms."""
        last = [t for t in self.arrived if t <= self.fault_at]
        since = last[-1] if last else self.fault_at
        gap = audit.longest_gap(self.arrived, since,
                                self.arrived[-1] if self.arrived else since)
        self.arrived = self.arrived[-50:]
        return gap

    def arbiter_names(self):
        """What the arbiter has; None without one."""
        if self.setup.arbiter == 'etcd':
            return self.etcd.names()
        return os.listdir(self.arbiter_dir) if self.arbiter_dir else None

    def uuid(self):
        return self.primary.query().get('session')

    def leftovers(self):
        """Processes, files: whatever is there and should not be."""
        expected = {s.pid for s in self.sides if s.alive()}
        expected |= self.own_children()
        strays = audit.stray_children(os.getpid(), expected)
        allowed = [r'\d+-(pri|bak)\.(log|serial|qmp|badio)', 'arbiter',
                   r'disk-(pri|bak|shared)', 'diary', 'etcd.*']
        strays += audit.stray_files(os.listdir(self.directory), allowed, 0)
        for where in ('pri', 'bak', 'shared'):
            path = self.path(f'disk-{where}')
            if os.path.isdir(path):
                strays += audit.stray_files(
                    os.listdir(path), ['image.raw'],
                    int(self.setup.arbiter == 'image'))
        if self.setup.arbiter in ('file', 'etcd'):
            killed = sum(side.machine.process.poll() == -signal.SIGKILL
                         for side in self.sides)
            strays += audit.stray_files(self.arbiter_names(), [], 1, killed)
        return strays

    def baseline(self, side):
        """What an unprotected primary has open, at first and later."""
        base = f'/proc/{side.pid}'
        count = len(os.listdir(base + '/fd'))
        if side.files is None:
            side.files = count
        return count - side.files

    def changed(self):
        """Protected, it was said: is it still?"""
        self.pull()
        return not (self.primary.alive() and self.backup.alive()) or \
            bool(set(self.primary.states()) - QUIET) or \
            self.backup.went_on()

    def audit(self, outcome):
        """After a fault: everything that must be so. Returns the outcome,
        which is another one if somebody has changed his mind."""
        self.goes_on()
        if outcome == 'protected' and self.changed():
            outcome = self.resolve()
            self.goes_on()
        self.listen()
        self.check_silences()
        self.expect(self.until(self.primary.running, 3), 'stuck', lambda:
                    'the guest does not run: '
                    f'{self.primary.try_qmp("query-status")}')
        if self.backup:
            self.expect(not self.backup.running(), 'double-live',
                        'the backup runs, too')
        names = self.arbiter_names()
        if names is not None:
            problems = audit.claim_problems(
                names, self.uuid(),
                self.primary.query().get('generation', 0), self.unclaimed)
            self.expect(not problems, 'claims', '; '.join(problems))
        if outcome == 'primary':
            more = self.baseline(self.primary)
            self.expect(more <= SLACK, 'left-over',
                        f'{more} open files more than at first')
        strays = self.leftovers()
        if strays:                      # a process may just be ending
            self.nap(0.3)
            strays = self.leftovers()
        self.expect(not strays, 'left-over', '; '.join(strays))
        return outcome

    def autopsy(self):
        """What those who live are doing, for who reads the diary."""
        for side in (self.primary, self.backup):
            if not side or not side.alive():
                continue
            self.note(f'{side.name}: the last frame of its host: '
                      f'{self.watch.last.get(side.host)}')
            gdb = shutil.which('gdb')
            if gdb:
                with open(self.path(f'{side.name}.threads'), 'wb') as file:
                    subprocess.run(
                        [gdb, '-q', '-batch', '-p', str(side.pid), '-ex',
                         'thread apply all bt 12'], stdout=file,
                        stderr=subprocess.STDOUT, timeout=60, check=False)
            if not side.stopped:
                self.note(f'{side.name}: {side.query()}')
                self.note(f'{side.name}: {side.machine.states}')

    # ---------------------------------------------------------------- the end

    def finish(self):
        """The world's last look: what takes too long for each fault."""
        self.listen()

    def close(self):
        """Everything away; what cannot be is told as a list of words."""
        left = []
        with contextlib.suppress(Exception):
            if self.load:
                self.stop_load()
        for side in self.sides:
            side.machine.close()
        for what in (self.watch, self.cable, self.etcd):
            try:
                if what:
                    what.close()
            except Exception as error:
                left.append(f'{what}: {error}')
        for path in reversed(self.mounts):
            done = subprocess.run(['umount', path], capture_output=True,
                                  text=True, check=False)
            if done.returncode:
                left.append(done.stderr.strip())
        if self.lab:
            self.lab.close()
            names = os.listdir('/run/netns')
            left += [f'namespace {n}' for n in names
                     if n.startswith(self.lab.name + '-')]
        left += audit.stray_children(os.getpid(), set())
        return left

    def remove(self):
        shutil.rmtree(self.directory)

    # -------------------------------------- what depends on the guest (or not)

    def options(self, host):
        raise NotImplementedError

    def prepare_disks(self):
        raise NotImplementedError

    def fresh_image(self, host):
        """What a new backup begins with."""

    def booted(self):
        raise NotImplementedError

    def start_load(self):
        raise NotImplementedError

    def stop_load(self):
        raise NotImplementedError

    def goes_on(self):
        raise NotImplementedError

    def decode(self, data):
        raise NotImplementedError

    def content(self, what):
        raise NotImplementedError

    def counts(self, what):
        raise NotImplementedError

    def own_children(self):
        """Our own processes, beside the QEMUs."""
        pids = {self.cable.relay.pid}
        if self.etcd:
            pids |= self.etcd.pids()
        return pids
