"""The guest's clock while it is protected, and over a takeover.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import time

import pytest

from harness import Broken, wait_until


def ahead(pair, machine, count=60):
    """By how much the guest's clock is ahead of the host's: as the frame
    tells that took the shortest way (seconds, from an unknown zero)."""
    since = pair.cable.mark()
    pair.cable.wait_more(count, machine)
    with pair.cable.cond:
        return max(frame.clock_us / 1e6 - when
                   for when, sender, frame in pair.cable.seen[since:]
                   if sender == machine.net)


def drift(pair, machine, seconds):
    """(guest time - host time) / host time, over so many seconds."""
    begin = time.monotonic()
    first = ahead(pair, machine)
    pair.cable.wait(f'{seconds} s of frames', lambda: (
        pair.cable.seen[-1][0] - begin >= seconds), timeout=60)
    return (ahead(pair, machine) - first) / (time.monotonic() - begin)


@pytest.mark.slow
@pytest.mark.parametrize('epoch_us', [2000, 10000])
def test_keeps_time(make_pair, epoch_us):
    """Would catch a pause whose time is not given back (the clock lost 16
    to 41 per cent in a trial without), or given back twice.  The bound is
    what a frame may come late on a busy machine, over the time measured."""
    pair = make_pair(pages=2048, params={'ft-epoch-us': epoch_us,
                                         'ft-hash': 0})
    pair.protected(hashed=False)
    assert abs(drift(pair, pair.primary, 5)) < 0.04
    pair.primary.kill()
    pair.taken_over()
    assert abs(drift(pair, pair.backup, 3)) < 0.04
    pair.cable.check(takeovers=1)


def test_age_of_the_epoch(make_pair):
    """Would catch clocks that are late by the time that the last epoch took to
    get across: it is larger than what fits into a socket, and the backup takes
    nothing for a while."""
    pair = make_pair(mode='count,fill', pages=4096, memory='96M',
                     options='rate=100', params={
                         'ft-hash': 0, 'ft-depth': 1, 'ft-epoch-us': 1000000,
                         'ft-heartbeat-ms': 100, 'ft-timeout-ms': 20000,
                         'ft-ack-timeout-ms': 60000}).protected(hashed=False)
    primary = pair.primary.query
    for _ in range(50):
        wait_until('no epoch on its way', lambda: not primary()['in-flight'],
                   interval=0.001)
        pair.backup.hang()
        if not primary()['in-flight']:
            break
        pair.backup.wake()      # it may have all of that one
    else:
        raise Broken('there is always an epoch on its way')
    wait_until('an epoch on its way', lambda: primary()['in-flight'])
    since = time.monotonic()
    with pair.cable.cond:
        pair.cable.cond.wait_for(lambda: False, 2)
    pair.primary.inject('ack-received')
    age = time.monotonic() - since
    pair.backup.wake()
    takeover = pair.taken_over()['takeover']
    assert takeover['clock-advance'] >= age * 1000
    pair.cable.check(takeovers=1)


def test_outage_passes_for_the_guest(make_pair):
    """Would catch a guest whose clock stood still while nobody ran it, or is
    set by more than that."""
    pair = make_pair(params={'ft-hash': 0}).protected(hashed=False)
    before = ahead(pair, pair.primary)
    pair.primary.hang()
    pair.taken_over()
    with pair.cable.cond:
        first = next(i for i, s in enumerate(pair.cable.seen)
                     if s[1] == pair.backup.net)
        outage = pair.cable.seen[first][0] - pair.cable.seen[first - 1][0]
    moved = ahead(pair, pair.backup) - before
    assert outage > 0.3
    assert abs(moved) < outage / 3, (moved, outage)
    pair.wakes_fenced()
    pair.cable.check(takeovers=1)
