"""The command `yank`: an end to all connections, whoever waits for them.

SPDX-License-Identifier: GPL-2.0-or-later

The times of the session are so long here that nothing else ends it.
"""

import contextlib
import socket

import pytest

from disks import DiskPair
from harness import PATIENCE, ExecInterruptedError, Pair
from test_garbage import Eavesdropper

YANK = {'instances': [{'type': 'migration'}]}
# Nothing but the command ends anything.
LONG = {'ft-heartbeat-ms': 300, 'ft-timeout-ms': 60000,
        'ft-ack-timeout-ms': 60000}
# A backup goes on only when the primary's lease is over.
SHORT = {'ft-heartbeat-ms': 300, 'ft-timeout-ms': 5000,
         'ft-ack-timeout-ms': 60000}


def is_offered(machine):
    return YANK['instances'][0] in machine.qmp('query-yank')


def test_primary(make_pair):
    """The backup hangs; the primary's operator does not want to wait."""
    pair = make_pair(params=LONG, options='rate=1').protected()
    pair.backup.hang()
    pair.cable.stays_quiet(pair.primary)
    assert is_offered(pair.primary)
    pair.primary.qmp('yank', **YANK)
    pair.primary.wait_state('unprotected', timeout=5)
    pair.goes_on()
    pair.backup.wake()
    assert pair.backup.wait_exit() == 3
    assert not is_offered(pair.primary)
    assert pair.claims() == [1]
    pair.cable.check()


def test_backup(make_pair):
    """The primary hangs."""
    pair = make_pair(params=SHORT, options='rate=1').protected()
    pair.primary.hang()
    assert is_offered(pair.backup)
    pair.backup.qmp('yank', **YANK)
    pair.taken_over()
    pair.wakes_fenced()
    assert pair.claims() == [1]
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_both_live(make_pair, side):
    """It is a cut cable: one goes on, the arbiter says who."""
    pair = make_pair(params=SHORT).protected()
    # Who loses may be gone before it has answered.
    with contextlib.suppress(ExecInterruptedError):
        getattr(pair, side).qmp('yank', **YANK)
    winner, _ = pair.one_goes_on()
    pair.goes_on(winner)
    assert pair.claims() == [1]
    pair.cable.check(takeovers=int(winner is pair.backup))


def test_connecting(make_pair):
    """Somebody listens who never says a word."""
    pair = make_pair(transport='tcp', params=LONG)
    pair.start_primary()
    with socket.create_server(('127.0.0.1', 0)) as server:
        uri = f'tcp:127.0.0.1:{server.getsockname()[1]}'
        since = pair.protect(uri=uri, wait=False)
        caller, _ = server.accept()
        with caller:
            caller.settimeout(10)
            assert caller.recv(1)               # its HELLO
            pair.primary.qmp('yank', **YANK)
            pair.primary.wait_state('inactive', since=since, timeout=5)
    pair.goes_on()
    assert not is_offered(pair.primary)
    pair.start_backup()
    pair.protect()
    pair.cable.check()


@pytest.mark.parametrize('kind', [Pair, DiskPair])
def test_first_copy(make_pair, kind):
    """The backup does not take what it is sent: memory, or an image."""
    pair = make_pair(kind, params=LONG, transport='tcp', **(
        {'storage': 'replicated'} if kind is DiskPair else {}))
    pair.start()
    # So that it lasts, however fast the two are.
    ear = Eavesdropper(pair.uri, limit=64 << 10)
    try:
        since = pair.protect(uri=ear.uri, wait=False)
        pair.primary.wait_state('sync', since=since)
        pair.backup.wait_state('sync')
        assert ear.stuck.wait(20 * PATIENCE)
        pair.backup.hang()
        pair.primary.qmp('yank', **YANK)
        pair.primary.wait_state('inactive', since=since, timeout=5)
        pair.goes_on()
    finally:
        ear.close()
    pair.backup.wake()
    assert pair.backup.wait_exit() > 0
    assert not pair.cable.frames(pair.backup)
    pair.cable.check()


def test_there_is_nothing(make_pair):
    """Without a session there is no such instance."""
    pair = make_pair()
    primary = pair.start_primary()
    assert not is_offered(primary)
    assert primary.refused('yank', **YANK)
    pair.start_backup()
    pair.protect()
    primary.qmp('cuju-migrate-cancel')
    primary.wait_state('inactive', since=3)
    assert pair.backup.wait_exit() == 0
    assert primary.refused('yank', **YANK)
