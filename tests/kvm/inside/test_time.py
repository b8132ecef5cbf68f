"""Time and interrupts on KVM: while protected, and over takeovers.

SPDX-License-Identifier: GPL-2.0-or-later

One guest lives through all of it: it is protected, unprotected, protected
again, its primary is killed, then the next one hangs. Its clock is compared
with ours all the while, and must be right to what can be seen from outside
(clock.py). At a takeover it may be late by the time that the end of the last
epoch took to get across, and by no more than what it was not put forward by,
which is in query-ft.

Environment: CUJU_CLOCK_SECONDS, how long it is watched while protected (10);
CUJU_CLOCK_ALL=1, with all clocks, interrupt controllers and numbers of vCPUs.
"""

import itertools
import os
import time

import pytest

from clock import RATE, Clock, ClockPair
from harness import ACCEL, Machine

SECONDS = float(os.environ.get('CUJU_CLOCK_SECONDS', '10'))
CASES = [('tsc', 'on', 2), ('kvm-clock', 'split', 1)]
if os.environ.get('CUJU_CLOCK_ALL'):
    CASES = list(itertools.product(['kvm-clock', 'tsc'], ['on', 'split'],
                                   [1, 2]))
# A fault for each page and epoch is dear in the rig: short epochs would
# leave the guest little time of its own.
EPOCH_US = 50000


def start(make_pair, source, irqchip, cpus):
    """A guest that runs, with a backup that waits."""
    pair = make_pair(ClockPair, accel=f'{ACCEL},kernel-irqchip={irqchip}',
                     cpus=cpus, append='tsc=reliable',
                     params={'ft-epoch-us': EPOCH_US})
    pair.start()
    assert pair.clocksource(source) == source
    if cpus > 1:
        pair.processors_agree()
    pair.start_naps()
    return pair


def is_well(pair, before):
    """On every processor timers have come since `before`, and still do."""
    now = pair.naps()
    assert all(b > a for a, b in zip(before, now)), (before, now)
    pair.timers_go_on()
    if pair.cpus > 1:
        pair.processors_agree()


def take_over(pair, clock, base, how):
    """The other host goes on: how late is the clock then?  Returns a new
    watch to compare with.

    The guest stood still from some moment after it was asked for the last
    answer until some moment before the next one came; what its clocks were
    put forward by is missing from that, and they are late by the rest.
    """
    crossing = pair.primary.query()['commit']['max'] / 1e6
    last = clock.read()
    reason = pair.takeover(how)
    still = clock.read().came - last.asked
    forward = pair.primary.query()['takeover']['clock-advance'] / 1e3
    after = clock.watch(2).consistent()
    least, most = after.late(base)
    print(f'{reason}: stood for {still:.3f} s at most, clock forward by '
          f'{forward:.3f} s; late by {least * 1e3:+.2f} to '
          f'{most * 1e3:+.2f} ms; epochs took at most {crossing * 1e3:.1f} ms')
    slack = (after.end - base.begin) * RATE
    assert most >= -slack, 'it is early'
    assert least <= min(still - forward, crossing) + slack, 'it is late'
    return after, still, least


@pytest.mark.parametrize('source, irqchip, cpus', CASES)
def test_time(make_pair, source, irqchip, cpus):
    """Would catch a pause whose time is lost or given twice, a clock that
    stands still over a takeover or jumps, TSCs that come apart, a timer or
    an interrupt that is lost with a takeover (no later one would come)."""
    pair = start(make_pair, source, irqchip, cpus)
    with Clock(pair) as clock:
        base = clock.watch(2).consistent()
        naps, stolen, begun = pair.naps(), pair.stolen(), time.monotonic()

        pair.protect()
        print(f'{SECONDS:g} s protected: {base} before, '
              f'{clock.watch(SECONDS).check(base)} meanwhile')
        pair.unprotect()
        print(f'{clock.watch(2).check(base)} after it')
        is_well(pair, naps)

        pair.start_backup()
        pair.protect()
        clock.watch(2).check(base)
        naps = pair.naps()
        base, _, _ = take_over(pair, clock, base, Machine.kill)
        is_well(pair, naps)

        pair.start_backup()
        pair.protect()
        clock.watch(2).check(base)
        after, still, late = take_over(pair, clock, base, Machine.hang)
        # Had its clock stood still, too, it would be late by all of that.
        assert late < still / 5
        is_well(pair, naps)
        clock.watch(3).check(after)

        assert pair.clocksource() == source
        assert 0 <= pair.stolen() - stolen < cpus * (time.monotonic() - begun)
        pair.check_consoles()
        assert not pair.complaints()
