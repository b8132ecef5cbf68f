"""The backup is lost: nothing that was held may get lost with it.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import signal

import pytest

from harness import wait_until


def _again(pair):
    """Protect with a fresh backup, and see that it is one."""
    pair.start_backup('backup2')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('point', ('before-ack', 'after-ack', 'mid-apply'))
def test_killed_at(make_pair, point):
    """Would catch output that is dropped, kept or reordered when the
    backup dies, and a session that cannot be followed by another."""
    pair = make_pair(mode='count,fill').protected()
    pair.backup.inject(point, 20)
    assert pair.backup.wait_exit() == -signal.SIGKILL
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    pair.cable.check()
    _again(pair)


@pytest.mark.parametrize('transport', ('unix', 'tcp'))
def test_killed_any_time(make_pair, transport):
    """The same from outside."""
    pair = make_pair(transport=transport, options='rate=1').protected()
    pair.cable.wait_more(50)
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    pair.cable.check()
    _again(pair)


def test_does_not_acknowledge(make_pair):
    """Would catch a primary that waits for ever for a backup that does not
    take epochs any more: before its heartbeats are missed, too."""
    pair = make_pair(params={
        'ft-timeout-ms': 10000, 'ft-ack-timeout-ms': 2000}).protected()
    pair.backup.hang()
    reason = pair.primary.wait_state('unprotected')
    assert 'in time' in reason
    pair.goes_on()
    pair.backup.wake()
    assert pair.backup.wait_exit() in (0, 3)
    pair.cable.wait_more(50, pair.primary)
    pair.cable.check()


def test_many_backups(make_pair):
    """Would catch what a session leaves behind: five, one after another,
    and the files and threads of the primary do not grow."""
    pair = make_pair(nic='e1000')
    pair.start_primary()
    used = None
    for i in range(5):
        pair.start_backup(f'backup{i}')
        since = pair.protect()
        pair.cable.wait_more(10, pair.primary)
        pair.backup.kill()
        pair.primary.wait_state('unprotected', since=since)
        pair.goes_on()
        used = used or len(pair.open_files(pair.primary))
        # The session's threads end on their own.
        wait_until(f'no more than {used} files open', lambda: len(
            pair.open_files(pair.primary)) <= used)
    pair.cable.check()
