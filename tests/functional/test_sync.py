"""Faults during the first copy: no epoch is there to go on from.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import signal

from harness import PATIENCE, TIMEOUT_MS
from test_garbage import Eavesdropper

# Enough to copy that the first copy is still under way when we look.
BIG = {'pages': 8192, 'memory': '96M', 'mode': 'count,fill'}


def test_primary_killed(make_pair):
    """Would catch a backup that runs a guest of which it has a part."""
    pair = make_pair(**BIG).start()
    pair.primary.inject('sync', 5000)
    pair.protect(wait=False)
    assert pair.primary.wait_exit() == -signal.SIGKILL
    assert pair.backup.wait_exit() > 0
    assert not pair.cable.frames(pair.backup)
    pair.cable.check()


def test_backup_killed(make_pair):
    """Would catch a primary that stops, or holds its output for ever."""
    pair = make_pair(transport='tcp', **BIG).start()
    ear = Eavesdropper(pair.uri, limit=1 << 20)
    try:
        since = pair.protect(uri=ear.uri, wait=False)
        pair.backup.wait_state('sync')
        assert ear.stuck.wait(20 * PATIENCE)
        pair.backup.kill()
        pair.primary.wait_state('inactive', since=since + 1)
    finally:
        ear.close()
    pair.goes_on()
    pair.cable.check()
    pair.start_backup('backup2')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.cable.check()


def test_first_epoch_not_acknowledged(make_pair):
    """Would catch output that is held since the first epoch and not let go
    when that is never acknowledged."""
    pair = make_pair().start()
    pair.backup.inject('before-ack')
    since = pair.protect(wait=False)
    assert pair.backup.wait_exit() == -signal.SIGKILL
    pair.primary.wait_state('inactive', since=since + 1)
    pair.goes_on()
    pair.cable.check()


def test_cancel(make_pair):
    """Would catch a first copy that cannot be ended."""
    pair = make_pair(**BIG).start()
    since = pair.protect(wait=False)
    pair.primary.wait_state('sync', since=since)
    pair.primary.qmp('cuju-migrate-cancel')
    pair.primary.wait_state('inactive', since=since + 1)
    assert pair.backup.wait_exit() == 0
    pair.goes_on()
    pair.cable.check()


def test_guest_keeps_running(make_pair):
    """Would catch a first copy that stops the guest: frames must come all
    the time, the longest silence stays far below the time of a copy."""
    pair = make_pair(**BIG).start()
    pair.protect()
    pair.cable.wait_more(20, pair.primary)
    times = [when for when, _, _ in pair.cable.seen]
    assert max(b - a for a, b in zip(times, times[1:])) < 2.0
    pair.cable.check()


def test_backup_hangs(make_pair):
    """Would catch a first copy that waits for ever for a backup that does
    not read any more: no epoch is in flight yet, so that no acknowledgement
    is late. Nothing of the memory's end gets there."""
    pair = make_pair(transport='tcp',
                     params={'ft-ack-timeout-ms': TIMEOUT_MS})
    pair.start()
    ear = Eavesdropper(pair.uri, limit=64 << 10)
    try:
        since = pair.protect(uri=ear.uri, wait=False)
        pair.primary.wait_state('sync', since=since)
        assert ear.stuck.wait(20 * PATIENCE)
        pair.backup.kill(signal.SIGSTOP)
        pair.primary.wait_state('inactive', since=since, timeout=10)
        assert 'protected' not in dict(pair.primary.states[since:])
        pair.goes_on()
    finally:
        ear.close()
    pair.backup.kill(signal.SIGKILL)
    pair.cable.check()
