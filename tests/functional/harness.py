"""A protected pair of QEMUs with the bare test guest in it.

SPDX-License-Identifier: GPL-2.0-or-later

    pair = Pair(directory, nic='virtio-net-pci')
    pair.start()                    # both sides; the guest's frames come
    pair.protect()
    pair.primary.kill()
    pair.backup.wait_state('unprotected')
    pair.cable.wait_more(20, pair.backup)
    pair.cable.check()

The arbiter is a directory beside the sockets, unless `params` say otherwise.
Nothing here waits without a bound, and nothing sleeps for luck: waits are
for an event on QMP, for frames of the guest, or for the end of a process.

Environment: CUJU_QEMU, the binary; CUJU_QEMU_OPTIONS, more options for it;
CUJU_ACCEL, what follows -accel (tcg,thread=multi); CUJU_CPU, the CPU model;
CUJU_GUEST, the bare guest's ELF file; CUJU_QEMU_PYTHON, the directory with
QEMU's Python package "qemu"; CUJU_TIMEOUT, a factor on all time limits.
"""

import asyncio
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

import ftguest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
QEMU = os.environ.get('CUJU_QEMU', os.path.join(
    ROOT, 'x86_64-softmmu', 'qemu-system-x86_64'))
QEMU_OPTIONS = shlex.split(os.environ.get('CUJU_QEMU_OPTIONS', ''))
GUEST = os.environ.get('CUJU_GUEST', os.path.join(
    ROOT, 'build', 'guest', 'bare', 'ftguest.elf'))
# "kvm,dirty-ring-size=4096": with what options a guest runs
ACCEL = os.environ.get('CUJU_ACCEL', 'tcg,thread=multi')
# "host": another CPU model than the machine's default
CPU = os.environ.get('CUJU_CPU', '')
PATIENCE = float(os.environ.get('CUJU_TIMEOUT', '1'))


def accelerator(accel=ACCEL):
    """Options for one, and for the CPU.

    KVM's PIT gives every tick that was late, one after another. The bare
    guest has a thousand of them a second, and where it cannot keep up it
    would do nothing else.
    """
    options = ['-accel', accel] + (['-cpu', CPU] if CPU else [])
    if accel.startswith('kvm') and 'split' not in accel:
        options += ['-global', 'kvm-pit.lost_tick_policy=discard']
    return options


ACCELERATOR = accelerator()


def _find_qmp():
    """Where the package "qemu" of QEMU's own source is."""
    build = os.path.dirname(os.path.realpath(QEMU))
    for path in (os.environ.get('CUJU_QEMU_PYTHON'),
                 os.path.join(ROOT, 'build', 'qemu', 'python'),
                 os.path.join(os.path.dirname(build), 'qemu', 'python')):
        if path and os.path.isdir(os.path.join(path, 'qemu', 'qmp')):
            return path
    return None


if _find_qmp():
    sys.path.insert(0, _find_qmp())
from qemu.qmp import ExecInterruptedError, QMPError  # noqa: E402
from qemu.qmp.legacy import QEMUMonitorProtocol  # noqa: E402

# What a takeover may lose of a committed epoch's output (see Cable.check).
GAP_MAX = 64
# The other side may be silent for so long.
TIMEOUT_MS = min(int(500 * PATIENCE), 5000)
# What may be left at an arbiter that is a directory.
CLAIM = re.compile(r'cuju-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
                   r'\.claim-([1-9][0-9]*)')
PROOF = re.compile(r'cuju-[0-9a-f-]{36}\.session')
# States in which a side has a session, or none any more.
LIVE = {'setup', 'sync', 'protected', 'claiming', 'standby', 'takeover'}


class Broken(AssertionError):
    """The pair does not do what it should."""


def wait_until(what, condition, timeout=15.0, interval=0.02):
    """Ask again and again, for what no event tells."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Broken(f'not within {timeout * PATIENCE:.0f} s: {what}')
        time.sleep(interval)


class Cable:
    """The outside end of the guest's network, for both sides at once.

    A thread takes every frame as it comes, so that no QEMU ever waits for
    us. Each frame is kept as (time, sender, Frame); the sender is known by
    the socket that it came from.
    """

    def __init__(self, path):
        self.wire = ftguest.Wire(path, path + '.nobody')
        self.path = path
        self._start()

    def _start(self):
        self.seen = []
        self.senders = {}           # path of a QEMU's socket -> its Machine
        self.cond = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()

    def _receive(self):
        self.wire.socket.settimeout(0.2)
        while not self.stopping:
            try:
                data, sender = self.wire.socket.recvfrom(65536)
            except (TimeoutError, BlockingIOError):
                continue
            except OSError:
                return
            self._take(sender, data)

    def _take(self, sender, data):
        """A frame has come."""
        frame = ftguest.decode(data)
        if frame:
            with self.cond:
                self.seen.append((time.monotonic(), sender, frame))
                self.cond.notify_all()

    def close(self):
        self.stopping = True
        self.thread.join()
        self.wire.close()

    def frames(self, machine=None, kind=ftguest.KIND_COUNTER, since=0):
        """Frames so far, of one machine or of all."""
        with self.cond:
            return [f for _, sender, f in self.seen[since:]
                    if f.kind == kind and
                    (machine is None or sender == machine.net)]

    def mark(self):
        """Now, as a number for `since`."""
        with self.cond:
            return len(self.seen)

    def wait(self, what, condition, timeout=20.0, machine=None):
        """Wait until `condition()` is true; asked again at each frame.

        `machine`, if given, is whose end would make it pointless.
        """
        end = time.monotonic() + timeout * PATIENCE
        with self.cond:
            while not self.cond.wait_for(condition, 0.25):
                if machine and not machine.alive():
                    raise Broken(f'{machine.name} ended with '
                                 f'{machine.process.returncode} before: '
                                 f'{what}')
                if time.monotonic() > end:
                    raise Broken(f'not within {timeout * PATIENCE:.0f} s: '
                                 f'{what}')

    def wait_more(self, count, machine=None, timeout=20.0):
        """Wait for so many counter frames more."""
        since = self.mark()
        self.wait(f'{count} frames from '
                  f'{machine.name if machine else "the guest"}',
                  lambda: len(self.frames(machine, since=since)) >= count,
                  timeout, machine)

    def late(self, machine, since):
        """See wakes_fenced(): one frame of a machine may come late."""
        with self.cond:
            late = self.frames(machine, since=since)
            if not late:
                return
            last = max((i for i, s in enumerate(self.seen[:since])
                        if s[1] == machine.net), default=-1)
            new = [s for s in self.seen[last + 1:] if s[1] != machine.net and
                   s[2].kind == ftguest.KIND_COUNTER]
            if len(late) > 1 or new and late[0].counter >= new[0][2].counter:
                raise Broken(f'{machine.name} has sent {len(late)} frames '
                             f'after it woke up: {late[0]}')
            # For check(): where it would have been.
            item, = (s for s in self.seen if s[2] is late[0])
            self.seen.remove(item)
            self.seen.insert(last + 1, item)

    def stays_quiet(self, machine, seconds=0.5):
        """Nothing may come from a machine for so long. What it had sent
        before may still be on its way to us, for a moment."""
        with self.cond:
            self.cond.wait_for(lambda: False, 0.1)
            since = len(self.seen)
            if self.cond.wait_for(lambda: self.frames(machine, since=since),
                                  seconds):
                raise Broken(f'{machine.name} speaks: '
                             f'{self.frames(machine, since=since)[0]}')

    def send(self, machine, kind, payload=b''):
        """Send a request to the guest in one of the machines."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.sendto(ftguest.encode_request(kind, payload), machine.net)

    def echo(self, machine, payload, timeout=20.0):
        """An echo request; waits for the answer."""
        since = self.mark()
        self.send(machine, ftguest.KIND_ECHO, payload)
        self.wait('answer to an echo request', lambda: any(
            f.payload == payload for f in
            self.frames(machine, ftguest.KIND_ECHO, since)), timeout,
                  machine)

    def check(self, takeovers=0, resets=0):
        """Is what the outside saw the story of one single guest?

        The counter never repeats and never goes back; it leaves no gap
        but at a takeover, where output of a committed epoch can be lost
        with the primary as a packet can be on a network; who has once
        been taken over from never speaks again; and the guest has found
        nothing wrong with its memory.
        """
        with self.cond:
            seen = list(self.seen)
        turns = [seen[0][1]] if seen else []
        was_resets = 0
        last = None
        for _, sender, f in seen:
            if f.errors:
                raise Broken(f'the guest found {f.errors} errors: {f}')
            if f.irqs_lost:
                raise Broken(f'the guest lost interrupts of its NIC: {f}')
            if f.kind != ftguest.KIND_COUNTER:
                continue
            turn = sender != turns[-1]
            if turn:
                if sender in turns:
                    raise Broken(f'{self._name(sender)} speaks again after '
                                 f'{self._name(turns[-1])}: {f}')
                turns.append(sender)
            if last:
                self._compare(last, f, turn)
                was_resets += f.boot != last.boot
            last = f
        if len(turns) - 1 != takeovers:
            raise Broken(f'spoken have {[self._name(t) for t in turns]}')
        if was_resets != resets:
            raise Broken(f'{was_resets} resets were seen, not {resets}')

    def _name(self, sender):
        machine = self.senders.get(sender)
        return machine.name if machine else str(sender)

    @staticmethod
    def _compare(a, b, turn):
        if b.boot != a.boot:
            if b.boot != a.boot + 1:
                raise Broken(f'boot {a.boot} followed by {b.boot}')
            if b.counter != 1 and not (turn and b.counter <= GAP_MAX):
                raise Broken(f'first frame after a reset: {b}')
            return
        if b.counter <= a.counter:
            raise Broken(f'counter {b.counter} after {a.counter}'
                         f'{", at a takeover" if turn else ""}')
        if b.counter - a.counter - 1 > (GAP_MAX if turn else 0):
            raise Broken(f'{b.counter - a.counter - 1} frames missing after '
                         f'{a.counter}{", at a takeover" if turn else ""}')
        for name in ('ticks', 'generation', 'loops', 'clock_us'):
            if getattr(b, name) < getattr(a, name):
                raise Broken(f'{name} went back from {getattr(a, name)} to '
                             f'{getattr(b, name)}')


class Machine:
    """One QEMU process; `wrap` is a command that starts it, if any."""

    def __init__(self, directory, name, options, wrap=()):
        self.name = name
        self.base = os.path.join(directory, name)
        self.net = self.base + '.net'
        self.states = []            # (state, reason) of FT_STATE_CHANGE
        self.events = []            # all others
        self.closed_alive = False   # until close()
        self.log = open(self.base + '.log', 'ab')
        path = self.base + '.qmp'
        self.monitor = QEMUMonitorProtocol(path, server=True, nickname=name)
        self.monitor.settimeout(30 * PATIENCE)
        if wrap:
            os.chmod(path, 0o666)       # it may be another user's
        self.command = [
            *wrap, QEMU, *QEMU_OPTIONS, '-nodefaults', '-display', 'none',
            '-vga', 'none', '-serial', f'file:{self.base}.serial',
            '-qmp', f'unix:{path}', *options]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log)

    def connect(self):
        """Wait for QEMU to be there."""
        end = time.monotonic() + 30 * PATIENCE
        accept = self.monitor._aloop.create_task(
            self.monitor._qmp.accept())
        while not accept.done():
            if self.process.poll() is not None:
                accept.cancel()
                raise Broken(f'{self.name} ended with '
                             f'{self.process.returncode}: {self.text()}')
            if time.monotonic() > end:
                accept.cancel()
                raise Broken(f'{self.name} does not come up')
            self.monitor._sync(asyncio.wait([accept], timeout=0.2))
        try:
            accept.result()
        except QMPError as error:
            raise Broken(f'{self.name} did not come up: {error}: '
                         f'{self.text()}') from None

    def qmp(self, command, **arguments):
        """A QMP command; QMPError with QEMU's words if it fails."""
        return self.monitor.cmd(command, **arguments)

    def begin(self, command, **arguments):
        """A QMP command whose answer is not waited for: see finish()."""
        task = self.monitor._aloop.create_task(
            self.monitor._qmp.execute(command, arguments))
        self.monitor._sync(asyncio.wait([task], timeout=0.05))
        return task

    def finish(self, task, timeout=20.0):
        """Wait for the answer to begin(); QMPError if it failed."""
        self.monitor._sync(asyncio.wait([task], timeout=timeout * PATIENCE))
        if not task.done():
            task.cancel()
            raise Broken(f'{self.name} does not answer')
        return task.result()

    def quit(self):
        """QMP's `quit`, whose answer may not make it."""
        try:
            self.qmp('quit')
        except QMPError:
            pass

    def hmp(self, line):
        """An HMP command; what it says."""
        return self.monitor.cmd('human-monitor-command',
                                **{'command-line': line})

    def refused(self, command, **arguments):
        """A QMP command that must fail: what QEMU says."""
        try:
            answer = self.qmp(command, **arguments)
        except QMPError as error:
            return str(error)
        raise Broken(f'{command} was not refused: {answer}')

    def query(self):
        return self.qmp('query-ft')

    def running(self):
        return self.qmp('query-status')['status'] == 'running'

    def _pull(self, timeout):
        """Take the events that are there, or one that comes in time."""
        try:
            event = self.monitor.pull_event(wait=timeout)
        except (asyncio.TimeoutError, QMPError):
            return False
        while event:
            if event['event'] == 'FT_STATE_CHANGE':
                self.states.append((event['data']['state'],
                                    event['data']['reason']))
            else:
                self.events.append(event)
            event = self.monitor.pull_event()
        return True

    def wait_state(self, state, timeout=30.0, since=0):
        """Wait for FT_STATE_CHANGE to a state; returns the reason.

        States that were waited for before do not count again, unless
        `since` says from which of self.states on.
        """
        end = time.monotonic() + timeout * PATIENCE
        while True:
            for name, reason in self.states[since:]:
                if name == state:
                    return reason
            if self.process.poll() is not None:
                raise Broken(f'{self.name} ended with '
                             f'{self.process.returncode}, not in state '
                             f'{state}: {self.states[since:]}, {self.text()}')
            if time.monotonic() > end:
                raise Broken(f'{self.name} is not in state {state}: '
                             f'{self.states[since:]}')
            self._pull(0.25)

    def wait_word(self, *words, timeout=15.0):
        """Wait for a state whose reason says so; it may have come."""
        def said():
            self._pull(0.1)
            return any(all(word in reason for word in words)
                       for _, reason in self.states)
        wait_until(f'{self.name} says {words}', said, timeout)

    def wait_event(self, name, timeout=15.0, **data):
        """Wait for another event, with that data; returns it."""
        end = time.monotonic() + timeout * PATIENCE
        while True:
            for event in self.events:
                if event['event'] == name and data.items() <= \
                        event.get('data', {}).items():
                    self.events.remove(event)
                    return event
            if time.monotonic() > end or self.process.poll() is not None:
                raise Broken(f'{self.name}: no event {name}')
            self._pull(0.25)

    def inject(self, point, after=1):
        """Let it kill itself at a point of the protocol. It may come to
        that before its answer comes to us."""
        try:
            self.qmp('x-ft-inject', point=point, after=after)
        except ExecInterruptedError:
            if self.wait_exit() != -signal.SIGKILL:
                raise

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.process.pid, sig)
        if sig == signal.SIGKILL:
            self.process.wait()

    def hang(self):
        """SIGSTOP; returns when no thread does anything any more."""
        self.kill(signal.SIGSTOP)
        base = f'/proc/{self.process.pid}/task'

        def stopped():
            for task in os.listdir(base):
                with open(f'{base}/{task}/stat', encoding='ascii',
                          errors='replace') as file:
                    if file.read().rsplit(')', 1)[1].split()[0] not in 'Tt':
                        return False
            return True
        wait_until(f'{self.name} stands still', stopped, interval=0.001)

    def wake(self):
        """The end of hang()."""
        self.kill(signal.SIGCONT)

    def stall(self, seconds):
        """Stand still for a while."""
        self.hang()
        time.sleep(seconds)     # the time itself is what is tried
        self.wake()

    def alive(self):
        return self.process.poll() is None

    def wait_exit(self, timeout=20.0):
        """Wait for its end; returns the exit status."""
        try:
            return self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Broken(f'{self.name} does not end') from None

    def text(self, suffix='log', size=4000):
        """The end of one of its logs."""
        try:
            with open(f'{self.base}.{suffix}', 'rb') as file:
                return file.read()[-size:].decode(errors='replace')
        except OSError:
            return ''

    def close(self):
        if self.alive():
            self.closed_alive = True
            self._pull(0.001)           # how far it has come
            self.kill()
        try:
            self.monitor.close()
        except Exception:  # whatever: its process is gone
            pass
        self.log.close()


def close_all(machines):
    """The end of all of them at once: nobody goes on without another."""
    for machine in machines:
        if machine.alive():
            machine.kill(signal.SIGSTOP)
    for machine in machines:
        machine.close()


def make_arbiter(directory):
    """A directory for claims; what ft-arbiter calls it."""
    path = os.path.join(directory, 'arbiter')
    os.makedirs(path, exist_ok=True)
    return path, f'file:{path}'


def claims(path):
    """The generations that somebody has claimed in a directory."""
    found = (CLAIM.fullmatch(name) for name in os.listdir(path))
    return sorted(int(match[2]) for match in found if match)


def proof_may_be(machines):
    """Is somebody in a session, or has nobody lived to see its end?"""
    last = {m.states[-1][0] for m in machines
            if (m.alive() or m.closed_alive) and m.states}
    seen = any(m.process.poll() == 0 for m in machines) or last - {'waiting'}
    return last & LIVE or not seen


def wait_arbiter(path, machines):
    """Before the end: a thread takes the proof of a session away."""
    def clean():
        for machine in machines:
            if machine.alive():
                machine._pull(0.001)
        return proof_may_be(machines) or not any(
            PROOF.fullmatch(name) for name in os.listdir(path))
    wait_until('the proof is taken away', clean)


def check_arbiter(path, machines):
    """After the end: nothing is left but claims, and the proof of a session
    whose end nobody has lived to see."""
    may_be = proof_may_be(machines)
    for name in os.listdir(path):
        if not (CLAIM.fullmatch(name) or may_be and PROOF.fullmatch(name)):
            raise Broken(f'left at the arbiter: {name}')


class Pair:
    """A primary, its backups, and the network that the guest is on."""

    def __init__(self, directory, nic='virtio-net-pci', machine='pc',
                 mode='count,touch', pages=512, options='', memory='64M',
                 transport='unix', extra=(), nics=1, params=None, wrap=(),
                 accel=ACCEL):
        self.directory = str(directory)
        self.nic = nic
        self.nics = nics if nic else 0
        self.machine = machine
        self.append = f'mode={mode} pages={pages} {options}'
        self.memory = memory
        self.transport = transport
        self.extra = list(extra)
        self.wrap = list(wrap)
        self.accel = accel
        self.arbiter, spec = make_arbiter(self.directory)
        self.params = {'ft-hash': 16, 'ft-arbiter': spec,
                       'ft-timeout-ms': TIMEOUT_MS, **(params or {})}
        self.machines = []
        self.primary = self.backup = None
        self.cable = self.make_cable()

    def make_cable(self):
        return Cable(os.path.join(self.directory, 'cable'))

    def close(self):
        close_all(self.machines)
        self.cable.close()

    def wait_arbiter(self):
        """Before close(); see there."""
        if any(m.alive() for m in self.machines):
            wait_arbiter(self.arbiter, self.machines)

    def check_arbiter(self):
        """After close(); see there."""
        check_arbiter(self.arbiter, self.machines)

    def claims(self):
        """The generations that somebody has claimed so far."""
        return claims(self.arbiter)

    def launch(self, name, memory=None, extra=None, incoming=None,
               params=True):
        """Start a QEMU; `incoming` makes it a backup."""
        options = [*accelerator(self.accel), '-machine', self.machine,
                   '-m', memory or self.memory, '-kernel', GUEST,
                   '-append', self.append]
        for i in range(self.nics):
            options += ['-netdev', self.netdev(name, i),
                        '-device', f'{self.nic},netdev=n{i},romfile=']
        options += self.extra if extra is None else extra
        if incoming:
            options += ['-incoming', incoming + ',ft_mode']
        machine = self.spawn(name, options)
        self.machines.append(machine)
        self.cable.senders[machine.net] = machine
        machine.connect()
        if params:
            self.set_params(machine)
        return machine

    def netdev(self, name, i):
        """What NIC `i` of a machine is connected to."""
        net = os.path.join(self.directory, name + '.net')
        own, far = ((net, self.cable.path) if i == 0 else
                    (f'{net}{i}', f'{self.cable.path}{i}'))
        return (f'dgram,id=n{i},local.type=unix,local.path={own},'
                f'remote.type=unix,remote.path={far}')

    def spawn(self, name, options):
        return Machine(self.directory, name, options, self.wrap)

    def set_params(self, machine):
        machine.qmp('ft-set-parameters', **self.params)

    def start_primary(self, wait=True):
        self.primary = self.launch('primary')
        if wait and self.nic and 'count' in self.append:
            self.cable.wait_more(5, self.primary)
        return self.primary

    def address(self, name):
        """A fresh address for a backup."""
        if self.transport == 'unix':
            return f'unix:{self.directory}/{name}.ft'
        return f'tcp:127.0.0.1:{free_port()}'

    def start_backup(self, name='backup', **kwargs):
        self.uri = self.address(name)
        self.backup = self.launch(name, incoming=self.uri, **kwargs)
        return self.backup

    def start(self):
        self.start_primary()
        self.start_backup()
        return self

    def protect(self, primary=None, uri=None, wait=True):
        """Protect the guest; waits until it is."""
        primary = primary or self.primary
        primary._pull(0.001)
        since = len(primary.states)
        primary.qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'cuju-ft', 'state': True}])
        primary.qmp('migrate', uri=uri or self.uri)
        if wait:
            primary.wait_state('protected', since=since)
            self.backup.wait_state('standby')
        return since

    def protected(self, hashed=True):
        """From nothing to a protected guest, RAM compared at least once."""
        self.start()
        self.protect()
        if self.nic:
            self.cable.wait_more(10, self.primary)
        if hashed:
            self.wait_hash()
        return self

    def wait_hash(self, count=1):
        """Wait until the backup has compared the hash of all RAM."""
        start = self.backup.query()['hashes-checked']
        wait_until('RAM hash compared by the backup', lambda:
                   self.backup.query()['hashes-checked'] >= start + count)

    def taken_over(self, machine=None, frames=20, reason=None):
        """The backup must go on, and be the whole guest."""
        machine = machine or self.backup
        said = machine.wait_state('unprotected')
        if reason and reason not in said:
            raise Broken(f'the reason is "{said}", not "{reason}"')
        if not machine.running():
            raise Broken('the guest does not run after the takeover')
        if self.nic:
            self.cable.wait_more(frames, machine)
            self.cable.echo(machine, b'are you there?')
        status = machine.query()
        if status['takeover-us'] <= 0:
            raise Broken(f'takeover in no time: {status}')
        return status

    def one_goes_on(self):
        """Waits for the verdict of the arbiter; returns (winner, loser)."""
        sides = self.primary, self.backup

        def decided():
            for machine in sides:
                if machine.alive():
                    machine._pull(0.02)
            return [m for m in sides if m.states[-1][0] == 'unprotected'] \
                and not all(m.alive() for m in sides)

        wait_until('the verdict', decided)
        winner, = (m for m in sides if m.states[-1][0] == 'unprotected')
        loser, = set(sides) - {winner}
        # A backup may have heard the word of the primary that goes on.
        if loser.wait_exit() not in ((0, 3) if loser is self.backup else
                                     (3,)):
            raise Broken(f'{loser.name} ended with '
                         f'{loser.process.returncode}: {loser.text()}')
        return winner, loser

    def claiming(self, machine):
        """A side must ask the arbiter, in vain, and say so."""
        machine.wait_state('claiming')
        machine.wait_word('cannot be asked')
        status = machine.query()
        if (status['state'] != 'claiming' or machine.running() and
                machine is self.backup or
                'arbiter' not in status['protection']):
            raise Broken(f'it asks, and says: {status}')
        return status

    def wakes_fenced(self, machine=None):
        """A side that hung, and was given up, wakes up: it must find that
        out before anything of its own leaves it.

        But for one frame, which a thread was just about to hand to the
        kernel; the guest on the other side knows that one.
        """
        machine = machine or self.primary
        mark = self.cable.mark()
        machine.wake()
        if machine.wait_exit() != 3:
            raise Broken(f'{machine.name} ended with '
                         f'{machine.process.returncode}: {machine.text()}')
        self.cable.late(machine, mark)

    def goes_on(self, machine=None, frames=20):
        """The guest runs here, and speaks."""
        machine = machine or self.primary
        if self.nic:
            self.cable.wait_more(frames, machine)
            self.cable.echo(machine, b'still there?')
        if not machine.running():
            raise Broken(f'the guest on {machine.name} does not run')

    @staticmethod
    def open_files(machine):
        """What a QEMU has open, and its threads."""
        base = f'/proc/{machine.process.pid}'
        return os.listdir(base + '/fd') + os.listdir(base + '/task')

    def report(self):
        """What happened, for a failed test."""
        out = []
        for machine in self.machines:
            out.append((f'{machine.name}: command and log',
                        f'{shlex.join(machine.command)}\n'
                        f'status {machine.process.poll()}, states '
                        f'{machine.states}\n{machine.text()}'))
            out.append((f'{machine.name}: serial',
                        machine.text('serial', 1500)))
        with self.cable.cond:
            last = self.cable.seen[-12:]
        out.append(('last frames', '\n'.join(
            f'{when:.4f} {self.cable._name(sender)} {frame}'
            for when, sender, frame in last)))
        return out


def free_port():
    """A TCP port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def connect(uri, timeout=10.0):
    """A plain socket to where a backup listens."""
    if uri.startswith('unix:'):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout * PATIENCE)
        sock.connect(uri[5:])
    else:
        host, port = uri[4:].rsplit(':', 1)
        sock = socket.create_connection((host, int(port)),
                                        timeout * PATIENCE)
    return sock
