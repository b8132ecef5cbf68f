"""Judging what was seen: is it the story of one guest, with nothing lost?

SPDX-License-Identifier: GPL-2.0-or-later

Story reads the frames that came out of both hosts' taps, in the order of the
kernel's time, and knows which process had which tap when. Its verdicts:

    double-live   who was taken over from says something new
    lost          the guest went on from before what it had said already, or
                  what it had said between is missing
    duplicate     one request was answered twice
    guest         the guest itself has found something wrong

A frame of the old side that comes later, but tells only what the new side
knew, is not wrong: a network may be slow, and a process that is stopped
between two frames of an epoch that it may let out sends the rest when it wakes
up. It is counted (`late`). Where frames have no numbers (strict), a few right
after the turn or the waking are let pass as such, and all others are
double-live.

The rest are checks of what a side leaves behind, of claims, and of the ends
of processes. Nothing here starts, stops or waits for anything.
"""

import collections
import itertools
import os
import re

import ftguest
from harness import GAP_MAX

# What is let pass of a late side whose frames have no numbers.
LATE_NS = 20000000
LATE_MAX = 64
# How a process may end that nobody has killed.
LOSER_STATUS = {'primary': (3,), 'backup': (0, 1, 3)}
CLAIM = re.compile(r'^cuju-(?P<uuid>[0-9a-f-]{36})\.claim-(?P<number>\d+)$')
PROOF = re.compile(r'^cuju-[0-9a-f-]{36}\.(proof|session)[^/]*$')
TEMPORARY = re.compile(r'cuju-[0-9a-f-]{36}\.tmp-[0-9a-f]{16}(-link)?$')


class Process:
    """One QEMU, as the one that a tap belongs to."""

    def __init__(self, name, host, since):
        self.name = name
        self.host = host
        self.since = since              # time.time_ns()
        self.over_since = None          # somebody else has gone on
        self.woke = 0                   # SIGCONT, after SIGSTOP
        self.successor = None
        self.first = None               # its first counter frame
        self.late = []                  # (when, Frame or None)

    def __repr__(self):
        return self.name


class Story:
    """What a guest says, and by whom."""

    def __init__(self, strict=False):
        self.strict = strict
        self.processes = {}             # host -> [Process], oldest first
        self.speaker = None
        self.turns = []                 # (when, Process, Process)
        self.last = None                # the guest's last counter frame
        self.answered = set()           # payloads of echo requests
        self.disks = ftguest.DiskWatch()
        self.disk_problems = 0
        self.errors = 0
        self.heard = 0
        self.recent = collections.deque(maxlen=8000)    # (when, Process)
        self.late = 0
        self.problems = []              # (verdict, text)

    def begins(self, host, name, when):
        """From `when` on what comes out of a host's tap is that process's."""
        process = Process(name, host, when)
        self.processes.setdefault(host, []).append(process)
        return process

    def wakes(self, name, when):
        """A process that stood still does not any more."""
        for process in itertools.chain(*self.processes.values()):
            if process.name == name:
                process.woke = when

    def _wrong(self, verdict, text):
        self.problems.append((verdict, text))

    def _who(self, host, when):
        for process in reversed(self.processes.get(host, ())):
            if process.since <= when:
                return process
        self._wrong('double-live', f'a frame from {host} before anybody was '
                    f'started there')
        return None

    def hear(self, when, host, frame):
        """One frame; `frame` is None for one without content to judge."""
        process = self._who(host, when)
        if process is None:
            return
        self.heard += 1
        self.recent.append((when, process))
        if self.speaker is None:
            self.speaker = process
        elif process.over_since is not None:
            self._late(process, when, frame)
            return
        elif process is not self.speaker:
            self._turn(process, when)
        if frame is not None:
            self._content(process, when, frame)

    def _turn(self, process, when):
        """Somebody else speaks for the guest: a takeover."""
        old = self.speaker
        old.over_since = when
        old.successor = process
        self.turns.append((when, old, process))
        self.speaker = process

    def _late(self, process, when, frame):
        self.late += 1
        process.late.append((when, frame))
        if frame is None:
            since = max(process.over_since, process.woke)
            if self.strict and (len(process.late) > LATE_MAX or
                                when - since > LATE_NS):
                self._wrong('double-live', f'{process} still speaks '
                            f'{(when - process.over_since) / 1e6:.3f} ms '
                            f'after {process.successor} has begun to')
        elif process.successor.first is not None:
            self._judge_late(process, when, frame)

    def _judge_late(self, process, when, frame):
        first = process.successor.first
        if (frame.boot, frame.counter) >= (first.boot, first.counter):
            self._wrong('double-live', f'{process} says something new '
                        f'{(when - process.over_since) / 1e6:.3f} ms after '
                        f'{process.successor} has begun at counter '
                        f'{first.counter}: {frame}')

    def _content(self, process, when, frame):
        if frame.errors > self.errors:
            self._wrong('guest', f'it has found {frame.errors} errors: '
                        f'{frame}')
        self.errors = frame.errors
        if frame.irqs_lost:
            self._wrong('guest', f'it has lost interrupts: {frame}')
        if frame.kind == ftguest.KIND_COUNTER:
            self._counter(process, frame)
            return
        if self.last and frame.boot == self.last.boot and \
                frame.counter < self.last.counter:
            self._wrong('lost', f'counter {frame.counter} in a frame of kind '
                        f'{frame.kind} after {self.last.counter}')
        if frame.kind == ftguest.KIND_ECHO:
            if frame.payload in self.answered:
                self._wrong('duplicate', f'{process} answers {frame.payload} '
                            f'again')
            self.answered.add(frame.payload)
        elif frame.kind == ftguest.KIND_DISK:
            self.disks(when, frame)
            for text in self.disks.problems[self.disk_problems:]:
                self._wrong('lost', text)
            self.disk_problems = len(self.disks.problems)

    def _counter(self, process, frame):
        last, self.last = self.last, frame
        first = process.first is None
        if first:
            process.first = frame
            for _, old, new in self.turns:
                if new is process:
                    for when, late in old.late:
                        if late is not None:
                            self._judge_late(old, when, late)
        if last is None:
            return
        at = ', at a takeover' if first else ''
        if frame.boot != last.boot:
            self._wrong('lost', f'boot {last.boot} followed by {frame.boot}'
                        f'{at}')
        elif frame.counter <= last.counter:
            self._wrong('lost', f'counter {frame.counter} after '
                        f'{last.counter}{at}')
        elif frame.counter - last.counter - 1 > (GAP_MAX if first else 0):
            self._wrong('lost', f'{frame.counter - last.counter - 1} frames '
                        f'missing after {last.counter}{at}')
        else:
            for name in ('ticks', 'generation', 'loops', 'clock_us'):
                if getattr(frame, name) < getattr(last, name):
                    self._wrong('lost', f'{name} went back from '
                                f'{getattr(last, name)} to '
                                f'{getattr(frame, name)}{at}')

    def spoke(self, name, since, until):
        """Times of the latest frames of a process between two moments."""
        return [when for when, process in self.recent
                if process.name == name and since <= when <= until]


# ------------------------------------------------------------------- silence

def longest_gap(times, since, until):
    """The longest time without a frame between two moments, in ms."""
    inside = sorted(t for t in times if since <= t <= until)
    points = [since, *inside, until]
    return max(b - a for a, b in zip(points, points[1:])) / 1e6


# ------------------------------------------------------- ends of processes

def end_problem(name, role, status, killed):
    """What is wrong with how a process has ended, or None."""
    if killed and status == -9:
        return None
    if status is not None and status < 0:
        return f'{name} ({role}) has crashed, by signal {-status}'
    if status not in LOSER_STATUS[role]:
        return f'{name} ({role}) ended with {status}, not with ' \
               f'{" or ".join(map(str, LOSER_STATUS[role]))}'
    return None


# ----------------------------------------------------------- what is left

def claims(names):
    """uuid -> numbers of the claims among a directory's names."""
    found = {}
    for name in names:
        match = CLAIM.match(name)
        if match:
            found.setdefault(match['uuid'], []).append(int(match['number']))
    return {uuid: sorted(numbers) for uuid, numbers in found.items()}


def claim_problems(names, uuid, generation, optional=()):
    """The claims in an arbiter's directory must be those that were won:
    one for each generation of the guest's line, and no other. Those of
    `optional` need not be there."""
    problems = []
    found = claims(names)
    numbers = found.pop(uuid, [])
    if found:
        problems.append(f'claims of strangers: {found}')
    wanted = range(1, generation + 1)
    if set(numbers) - set(wanted) or \
            set(wanted) - set(numbers) - set(optional):
        problems.append(f'generation {generation}, but the claims are '
                        f'{numbers}')
    return problems


def stray_files(names, allowed, proofs, killed=0):
    """Names that should not be there; `proofs`: so many sessions are on;
    `killed`: so many processes could not tidy up, and the next sessions do
    it a minute later."""
    strays, seen = [], 0
    for name in names:
        if CLAIM.match(name) or any(re.fullmatch(a, name) for a in allowed):
            continue
        if PROOF.match(name):
            seen += 1
            continue
        if killed and TEMPORARY.match(name):
            killed -= 1
            continue
        strays.append(name)
    if seen > proofs:
        strays.append(f'{seen} proofs for {proofs} sessions')
    return strays


def children(pid):
    """Processes whose parent this is: pid -> command."""
    found = {}
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        try:
            with open(f'/proc/{entry}/stat', encoding='ascii',
                      errors='replace') as file:
                text = file.read()
        except OSError:
            continue
        # The command is in parentheses and may hold any character.
        rest = text[text.rindex(')') + 2:].split()
        if int(rest[1]) == pid:
            found[int(entry)] = \
                f'{text[text.index("(") + 1:text.rindex(")")]} ({rest[0]})'
    return found


def stray_children(pid, expected):
    """Children that nobody knows of."""
    return [f'process {child} {command}'
            for child, command in children(pid).items()
            if child not in expected]
