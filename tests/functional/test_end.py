"""Protection ends in order: nobody takes it for a failure.

SPDX-License-Identifier: GPL-2.0-or-later

Each end is told by a disarm that the other side answers; only when it does
not is the arbiter asked.
"""

import os
import signal
import time

import pytest

from harness import QMPError, wait_until

# Nobody is lost before the test has said what it has to say.
SLOW = {'ft-heartbeat-ms': 100, 'ft-timeout-ms': 5000}


def names(machine, since=0):
    """The states that a side has gone through."""
    machine._pull(0.05)
    return [name for name, _ in machine.states[since:]]


def test_cancel(make_pair):
    """Would catch a backup that takes over although the operator ended
    protection, held output that does not come out, and a session that
    cannot be followed by another."""
    pair = make_pair().protected()
    since = len(pair.primary.states)
    pair.primary.qmp('cuju-migrate-cancel')
    assert 'operator' in pair.primary.wait_state('inactive', since=since)
    assert pair.backup.wait_exit() == 0
    assert 'protection has ended' in pair.backup.text()
    pair.goes_on()
    pair.cable.check()
    assert names(pair.primary, since) == ['claiming', 'inactive']
    assert pair.claims() == []
    assert pair.primary.query()['generation'] == 0

    pair.start_backup('backup2')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('how', ('cuju-migrate-cancel', 'cuju-failover'))
def test_on_wrong_side(make_pair, how):
    """Would catch a command that acts on the side where it has no place."""
    pair = make_pair().protected()
    side = pair.primary if how == 'cuju-failover' else pair.backup
    assert side.refused(how)
    pair.cable.wait_more(10, pair.primary)
    assert pair.primary.query()['state'] == 'protected'
    assert pair.backup.query()['state'] == 'standby'
    pair.cable.check()


def test_without_session(make_pair):
    """Would catch a crash of commands that come when there is nothing."""
    pair = make_pair()
    primary = pair.start_primary()
    assert primary.query()['role'] == 'none'
    assert primary.query()['state'] == 'inactive'
    assert primary.refused('cuju-migrate-cancel')
    assert primary.refused('cuju-failover')
    pair.start_backup()
    assert pair.backup.query()['state'] == 'waiting'
    assert 'waiting' in pair.backup.refused('cuju-failover')
    pair.goes_on()
    pair.cable.check()


@pytest.mark.parametrize('how', ('quit', 'guest', 'powerdown', 'SIGTERM',
                                 'SIGINT', 'SIGHUP'))
def test_primary_ends(make_pair, how):
    """Would catch a backup that starts the guest again after it has been
    shut down, and an end that leaves a claim behind."""
    pair = make_pair().protected()
    if how == 'quit':
        pair.primary.quit()
    elif how == 'guest':
        pair.cable.send(pair.primary, 4)
    elif how == 'powerdown':
        pair.primary.qmp('system_powerdown')
    else:
        pair.primary.kill(getattr(signal, how))
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    assert 'protection has ended' in pair.backup.text()
    assert 'takeover' not in names(pair.backup)
    assert pair.claims() == []
    assert not pair.cable.frames(pair.backup)
    pair.cable.check()


@pytest.mark.parametrize('how', ('quit', 'SIGTERM', 'SIGINT', 'SIGHUP'))
def test_backup_ends(make_pair, how):
    """Would catch a primary that takes an orderly end for a loss, or does
    not notice it."""
    pair = make_pair(options='rate=1').protected()
    since = len(pair.primary.states)
    if how == 'quit':
        pair.backup.quit()
    else:
        pair.backup.kill(getattr(signal, how))
    assert pair.backup.wait_exit() == 0
    assert 'order' in pair.primary.wait_state('unprotected')
    assert names(pair.primary, since) == ['unprotected']
    event = pair.primary.wait_event('FT_BACKUP_LOST')['data']
    assert event['generation'] == 0
    pair.goes_on()
    assert pair.claims() == []
    pair.cable.check()


def test_guest_reboots(make_pair):
    """A reboot is no end: the pair stays what it is, however often."""
    pair = make_pair().protected()
    states = [len(m.states) for m in (pair.primary, pair.backup)]
    for n in range(1, 4):
        pair.cable.send(pair.primary, 3)
        pair.cable.wait('reset', lambda n=n:
                        pair.cable.frames()[-1].boot == n)
    pair.wait_hash()
    for machine in pair.primary, pair.backup:
        machine._pull(0.05)
    assert [len(m.states) for m in (pair.primary, pair.backup)] == states
    assert pair.primary.query()['state'] == 'protected'
    assert pair.claims() == []
    pair.cable.check(resets=3)


def test_after_backup_has_left(make_pair):
    """Would catch a backup that claims although it has said that it leaves:
    its claim would be in the way of the next one, and nobody would go on."""
    pair = make_pair().protected()
    for i in range(5):
        pair.backup.quit()
        assert pair.backup.wait_exit() == 0
        pair.primary.wait_state('unprotected')
        pair.primary.states.clear()
        pair.start_backup(f'backup{i}')
        pair.protect()
    assert pair.claims() == []
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('how', ('cuju-migrate-cancel', 'quit'))
def test_backup_does_not_answer(make_pair, how):
    """Would catch an end that waits for ever for a backup that hangs, and a
    backup that takes the guest's end for a failure when it wakes up: the
    arbiter says that it may not go on."""
    pair = make_pair(options='rate=1', params=SLOW).protected()
    pair.backup.hang()
    since = len(pair.primary.states)
    if how == 'quit':
        pair.primary.quit()
        assert pair.primary.wait_exit() == 0
    else:
        pair.primary.qmp(how)
        pair.primary.wait_state('inactive', since=since)
        pair.goes_on()
        assert pair.primary.query()['generation'] == 1
    assert pair.claims() == [1]
    pair.backup.wake()
    assert pair.backup.wait_exit() in (0, 3)
    assert not pair.cable.frames(pair.backup)
    pair.cable.check()


def test_nobody_answers(make_pair):
    """No backup and no arbiter: a process ends all the same, and says what
    that means. Nothing that was held leaves."""
    pair = make_pair(options='rate=1').protected()
    os.rename(pair.arbiter, pair.arbiter + '.away')
    pair.backup.kill()
    pair.claiming(pair.primary)
    mark = pair.cable.mark()
    pair.primary.quit()
    assert pair.primary.wait_exit() == 0
    assert 'dropped' in pair.primary.text()
    assert not pair.cable.frames(pair.primary, since=mark)
    pair.cable.check()
    os.rename(pair.arbiter + '.away', pair.arbiter)
    pair.check_arbiter = lambda: None   # the proof could not be taken away


def test_cancel_without_waiting(make_pair):
    """With force the backup's answer is not waited for, and a backup that
    lives for all that, whatever the operator vouched for, finds the claim
    taken."""
    pair = make_pair(options='rate=1', params=SLOW).protected()
    pair.backup.hang()
    since = len(pair.primary.states)
    begin = time.monotonic()
    pair.primary.qmp('cuju-migrate-cancel', force=True)
    pair.primary.wait_state('inactive', since=since)
    assert time.monotonic() - begin < SLOW['ft-timeout-ms'] / 2000
    pair.goes_on()
    wait_until('the claim', lambda: pair.claims() == [1])
    pair.backup.wake()
    assert pair.backup.wait_exit() in (0, 3)
    pair.cable.check()


def test_both_end(make_pair):
    """Would catch a takeover between the two halves of a host's shutdown."""
    pair = make_pair().protected()
    for machine in pair.backup, pair.primary:
        machine.kill(signal.SIGTERM)
    for machine in pair.backup, pair.primary:
        assert machine.wait_exit() == 0
    assert not pair.cable.frames(pair.backup)
    assert pair.claims() == []
    pair.cable.check()


def test_cancel_twice(make_pair):
    """The second one is told that there is nothing any more."""
    pair = make_pair().protected()
    pair.primary.qmp('cuju-migrate-cancel')
    try:
        pair.primary.qmp('cuju-migrate-cancel')
    except QMPError as error:
        assert 'protection' in str(error)
    pair.primary.wait_state('inactive', since=3)
    assert pair.primary.refused('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.goes_on()
    pair.cable.check()
