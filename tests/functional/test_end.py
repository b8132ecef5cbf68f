"""Protection ends in order: nobody takes it for a failure.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import pytest


def test_cancel(make_pair):
    """Would catch a backup that takes over although the operator ended
    protection, held output that does not come out, and a session that
    cannot be followed by another."""
    pair = make_pair().protected()
    since = len(pair.primary.states)
    pair.primary.qmp('cuju-migrate-cancel')
    pair.primary.wait_state('inactive', since=since)
    assert pair.backup.wait_exit() == 0
    pair.goes_on()
    pair.cable.check()

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


@pytest.mark.parametrize('how', ('quit', 'guest', 'powerdown', 'SIGTERM'))
def test_primary_ends(make_pair, how):
    """Would catch a backup that starts the guest again after it has been
    shut down."""
    pair = make_pair().protected()
    if how == 'quit':
        pair.primary.quit()
    elif how == 'guest':
        pair.cable.send(pair.primary, 4)
    elif how == 'powerdown':
        pair.primary.qmp('system_powerdown')
    else:
        pair.primary.kill(15)
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    pair.cable.check()


def test_backup_quits(make_pair):
    """Would catch a primary that takes an orderly end for a loss, or does
    not notice it."""
    pair = make_pair().protected()
    pair.backup.quit()
    assert pair.backup.wait_exit() == 0
    assert 'order' in pair.primary.wait_state('unprotected')
    pair.goes_on()
    pair.cable.check()
