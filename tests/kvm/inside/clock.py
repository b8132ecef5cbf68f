"""The guest's clock against ours, and what its timers do meanwhile.

SPDX-License-Identifier: GPL-2.0-or-later

    with Clock(pair) as clock:
        base = clock.watch(2)               # the guest is not protected
        ...
        clock.watch(60).check(base)         # it neither drifts nor jumps
        late = clock.watch(2).late(base)    # by at most so many seconds

A reading is the guest's time at some moment between a question and its
answer, so each proves something about (guest - ours) and no more: it lies
between (guest - when the answer came) and (guest - when it was asked). All
that is asserted follows from these bounds: a busy machine makes them wide,
not wrong. While the guest is protected its answers wait for their epoch's
commit, so a clock that is late shows at once, one that is early does if it is
by more than a commit takes; a watch after the end of protection shows both.
"""

import re
import time
from collections import namedtuple

from harness import PATIENCE, Broken, wait_until
from linux import GUEST, JOBS, LinuxPair
from pgclient import open_socket

# What the clocks may differ in speed: two crystals do by less.
RATE = 1e-4
# Moments: ours in seconds; the guest's since the first reading.
Reading = namedtuple('Reading', 'asked came guest')
COMPLAINTS = re.compile(
    r'soft lockup|rcu.*stall|blocked for more|unstable|skew|backwards|'
    r'WARNING:|BUG:|Call Trace|not responding', re.IGNORECASE)


class Watch:
    """Readings of one stretch of time, in which the guest did not jump."""

    def __init__(self, readings):
        self.readings = readings
        self.low = max(r.guest - r.came for r in readings)
        self.high = min(r.guest - r.asked for r in readings)
        self.begin, self.end = readings[0].asked, readings[-1].came
        self.width = self.high - self.low

    def __str__(self):
        return f'{self.low * 1e3:+.2f} to {self.high * 1e3:+.2f} ms'

    def consistent(self):
        """One difference between the clocks fits all the readings."""
        slack = RATE * (self.end - self.begin)
        if self.low > self.high + slack:
            raise Broken(f'the clock moves against ours: by {self.low:.6f} s '
                         f'at least, and by {self.high:.6f} s at most')
        return self

    def check(self, base):
        """The same difference as in another watch, neither late nor early:
        would raise Broken. Returns the watch itself."""
        self.consistent()
        slack = RATE * (self.end - base.begin)
        late, early = base.low - self.high, self.low - base.high
        if max(late, early) > slack:
            raise Broken(f'the clock is {"late" if late > 0 else "early"} by '
                         f'at least {max(late, early) * 1e3:.2f} ms after '
                         f'{self.end - base.begin:.1f} s (before: {base}, '
                         f'now: {self}, {slack * 1e3:.2f} ms may be)')
        return self

    def late(self, base):
        """Seconds that the clock is late against another watch: (at least,
        at most)."""
        return base.low - self.high, base.high - self.low


class Clock:
    """Reads the guest's CLOCK_REALTIME by its redis, over one connection."""

    def __init__(self, pair):
        self.readings = []
        self.zero = 0
        self.sock = open_socket((GUEST, 6379), 60 * PATIENCE, pair.lab.cli)
        self.answer = self.sock.makefile('rb')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answer.close()
        self.sock.close()

    def read(self):
        """One reading; the guest's clock must not go back."""
        asked = time.monotonic()
        self.sock.sendall(b'*1\r\n$4\r\nTIME\r\n')
        words = [self.answer.readline() for _ in range(5)]
        came = time.monotonic()
        us = int(words[2]) * 1000000 + int(words[4])
        # Small numbers, for the sake of their digits.
        self.zero = self.zero or us - int(came * 1e6)
        reading = Reading(asked, came, (us - self.zero) / 1e6)
        if self.readings and reading.guest < self.readings[-1].guest:
            raise Broken(f'the guest\'s clock went back: '
                         f'{self.readings[-1]}, {reading}')
        self.readings.append(reading)
        return reading

    def watch(self, seconds, pause=0.05):
        """Read for so long."""
        since = len(self.readings)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(self.readings) - since < 10:
            self.read()
            time.sleep(pause)
        return Watch(self.readings[since:])


# Sleeps of 10 ms on one processor: how many there were, the longest of the
# last turn, and all that took long, with their end, by the guest's clock.
# A timer that is lost would make one that does not end.
NAPS = r'''
mkfifo /run/nap.$1
exec 3<>/run/nap.$1
taskset -p $((1 << $1)) $$
n=0
b=${EPOCHREALTIME}
b=${b%.*}${b#*.}
while :; do
    a=$b
    read -t 0.01 x <&3
    b=${EPOCHREALTIME}
    b=${b%.*}${b#*.}
    [ $((b - a)) -lt 150000 ] || echo $b $((b - a)) >> /run/long.$1
    n=$((n + 1))
    [ $((n % 8)) != 0 ] || echo $n > /run/naps.$1
done
'''


class ClockPair(LinuxPair):
    """A Linux guest without a disk, which sleeps in small steps on each
    processor, and whose watchdog looks for processors that are stuck."""

    def __init__(self, directory, append='', **kwargs):
        super().__init__(directory, append=f'{JOBS} {append}', **kwargs)

    def make_image(self, host):
        """There is no disk."""

    def options(self, host, incoming):
        options = super().options(host, incoming)
        at = options.index('-drive')
        return options[:at] + options[at + 4:]

    def start_primary(self, host='pri'):
        self.primary = self.launch(host)
        self.wait_serial(self.primary, 'ftguest: ready', 60)
        return self.primary

    def start_naps(self):
        self.run('cd /proc/sys/kernel; echo 1 > soft_watchdog; '
                 'echo 5 > watchdog_thresh; echo 1 > watchdog\n'
                 f"cat > /run/nap <<'END'\n{NAPS}\nEND\n"
                 f'for i in $(seq 0 {self.cpus - 1}); do '
                 'sh /run/nap $i > /dev/null 2>&1 3>&- & done')

    def numbers(self, script):
        """What a script prints: a list of numbers per line."""
        return [[int(word) for word in line.split()]
                for line in self.run(script).splitlines()]

    def naps(self):
        """How many there were on each processor."""
        return [row[0] for row in self.numbers(
            f'cd /run; for i in $(seq 0 {self.cpus - 1}); do '
            'cat naps.$i; done')]

    def long_naps(self):
        """(begin, end) by the guest's clock, in us."""
        return [(end - took, end) for end, took in
                self.numbers('cat /run/long.* 2> /dev/null')]

    def local_timers(self):
        """The interrupts of each processor's own timer."""
        line, = self.run('grep LOC: /proc/interrupts').splitlines()
        return [int(word) for word in line.split()[1:self.cpus + 1]]

    def stolen(self):
        """Seconds that the host has taken from the guest, by its count."""
        return int(self.run("grep '^cpu ' /proc/stat").split()[8]) / 100

    def timers_go_on(self):
        """On every processor: its timer's interrupts, and the sleeps."""
        for what in self.local_timers, self.naps:
            first = what()
            wait_until(f'{what.__name__} of all processors, after {first}',
                       lambda: all(b > a for a, b in zip(first, what())),
                       interval=0.5)

    def clocksource(self, name=None):
        """The one in use; sets it, if one is named."""
        path = '/sys/devices/system/clocksource/clocksource0/'
        put = f'echo {name} > {path}current_clocksource; ' if name else ''
        return self.run(f'{put}cat {path}current_clocksource').strip()

    def processors_agree(self):
        """fio looks whether one processor's TSC is ever behind another's."""
        said = self.run('fio --cpuclock-test')
        if 'cs: Pass!' not in said:
            raise Broken(said)

    def complaints(self):
        """Of the guest's kernel, about time."""
        return [line for line in self.run('dmesg').splitlines()
                if COMPLAINTS.search(line)]

    def takeover(self, how):
        """End the primary, or let it hang; the backup goes on."""
        old = self.primary
        how(old)
        said = self.backup.wait_state('unprotected')
        self.primary, self.backup = self.backup, None
        if old.alive():                 # nothing of it is needed any more
            old.kill()
        return said

    def unprotect(self):
        """The end of protection, in order; the guest runs on."""
        self.primary.qmp('cuju-migrate-cancel')
        self.backup.wait_exit()
        self.backup = None
