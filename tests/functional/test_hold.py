"""What the guest has sent, and may leave, leaves: all of it, in order.

SPDX-License-Identifier: GPL-2.0-or-later

At the orderly ends, when the VM does not run any more, and while the netdev
takes nothing. The guest numbers its frames, so none can be missing unseen.
"""

import os
import signal
import threading

import pytest

import ftguest
from harness import TIMEOUT_MS, Cable, Pair, wait_until
from test_claims import Away

# Nobody is lost before the test has said so.
SLOW = {'ft-heartbeat-ms': 100, 'ft-timeout-ms': 5000, 'ft-hash': 1000}
LIMIT = 4096
# It may send more until it is made to stand still: how much is a matter of
# speed, but it does not go on.
MOST = 8 * LIMIT


class SlowCable(Cable):
    """Takes nothing while the gate is shut: the guest's netdev is blocked
    as soon as the socket between them is full."""

    def _start(self):
        self.gate = threading.Event()
        self.gate.set()
        super()._start()

    def _take(self, sender, data):
        self.gate.wait()
        super()._take(sender, data)

    def close(self):
        self.gate.set()
        super().close()


class SlowPair(Pair):
    def make_cable(self):
        return SlowCable(os.path.join(self.directory, 'cable'))


def flood(make_pair, kind=Pair, **params):
    """A protected guest that sends as fast as it can."""
    pair = make_pair(kind, mode='count', options='rate=0',
                     params={**SLOW, **params})
    pair.protected(hashed=False)
    return pair


def last(pair, machine=None):
    return pair.cable.frames(machine or pair.primary)[-1].counter


def held(pair, count):
    """Wait until so many frames are held; until which one that is."""
    def enough():
        seen = last(pair)           # first: more may leave meanwhile
        now = pair.primary.query()['held-packets']
        return seen + now if now >= count else None
    return wait_until(f'{count} frames are held', enough)


def blocked(pair):
    """Shut the gate, and wait for the guest to stand still for it."""
    pair.cable.gate.clear()
    wait_until('the netdev is blocked', lambda:
               pair.primary.query()['held-packets'] >= LIMIT)


@pytest.mark.parametrize('how', ('quit', 'guest', 'SIGTERM'))
def test_end(make_pair, how):
    """Would catch output that the backup has acknowledged when the guest
    was stopped for good, and that ends in a queue of the netdev."""
    pair = flood(make_pair, **{'ft-epoch-us': 500000})
    pair.backup.hang()
    until = held(pair, 300)
    if how == 'quit':
        pair.primary.begin('quit')
    elif how == 'guest':
        pair.cable.send(pair.primary, ftguest.KIND_POWER_OFF)
    else:
        pair.primary.kill(getattr(signal, how))
    pair.primary.wait_event('SHUTDOWN')
    pair.backup.wake()
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    pair.cable.wait(f'frame {until}', lambda: last(pair) >= until, 5)
    pair.cable.check()
    assert 'dropped' not in pair.primary.text()


def test_stop(make_pair):
    """Would catch a last epoch that leaves only when the guest runs."""
    pair = flood(make_pair)
    pair.primary.qmp('stop')

    def committed():
        status = pair.primary.query()
        return not status['in-flight'] and not status['held-packets']
    wait_until('all is committed', committed)
    pair.primary.kill()
    pair.backup.wait_state('unprotected')
    end = last(pair)
    pair.backup.qmp('cont')
    pair.cable.wait_more(20, pair.backup)
    pair.cable.check(takeovers=1)
    assert pair.cable.frames(pair.backup)[0].counter == end + 1


def test_backup_lost(make_pair):
    """Would catch all at once being more than a net queue takes, whose
    bound is 10,000 packets."""
    pair = flood(make_pair, **{'ft-hold-packets': 200000, 'ft-depth': 8,
                               'ft-epoch-us': 500000})
    pair.backup.hang()
    until = held(pair, 20000)
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.cable.wait(f'frame {until}', lambda: last(pair) >= until)
    pair.goes_on()
    pair.cable.check()


def test_blocked(make_pair):
    """Would catch frames that are dropped when the netdev takes nothing,
    as QEMU without protection does not, and a queue without a bound."""
    pair = flood(make_pair, SlowPair)
    for _ in range(2):
        blocked(pair)
        pair.primary._pull(0.5)
        status = pair.primary.query()
        assert status['state'] == 'protected'
        assert status['held-packets'] <= MOST
        pair.primary._pull(0.3)
        assert pair.primary.query()['held-packets'] == status['held-packets']
        until = last(pair) + status['held-packets']
        pair.cable.gate.set()
        pair.cable.wait(f'frame {until}', lambda: last(pair) >= until)
        pair.goes_on()
        pair.cable.check()


@pytest.mark.parametrize('how', ('cancel', 'lost', 'stop'))
def test_blocked_then(make_pair, how):
    """Would catch frames that wait for the netdev and are thrown away when
    protection ends, or when the VM stops, or are overtaken then."""
    pair = flood(make_pair, SlowPair)
    blocked(pair)
    until = last(pair) + pair.primary.query()['held-packets']
    if how == 'cancel':
        since = len(pair.primary.states)
        pair.primary.qmp('cuju-migrate-cancel')
        pair.primary.wait_state('inactive', since=since)
    elif how == 'lost':
        pair.backup.kill()
        pair.primary.wait_state('unprotected')
    else:
        pair.primary.qmp('stop')
    pair.primary._pull(0.3)
    pair.cable.gate.set()
    # At a stop, too: it may leave although the guest does not run.
    pair.cable.wait(f'frame {until}', lambda: last(pair) >= until)
    if how == 'stop':
        pair.primary.qmp('cont')
    pair.goes_on()
    pair.cable.check()


@pytest.mark.parametrize('opens', (True, False))
def test_blocked_at_end(make_pair, opens):
    """Would catch an end that waits for ever for a netdev, or not at all,
    and frames that are dropped without a word."""
    pair = flood(make_pair, SlowPair)
    blocked(pair)
    until = last(pair) + pair.primary.query()['held-packets']
    pair.primary.begin('quit')
    pair.primary.wait_event('SHUTDOWN')
    if opens:
        pair.backup.wait_exit()
        pair.cable.gate.set()
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    if opens:
        pair.cable.wait(f'frame {until}', lambda: last(pair) >= until, 5)
    else:
        assert 'packets that the guest sent are dropped' in \
            pair.primary.text()
        pair.cable.gate.set()
    pair.cable.check()


def test_blocked_claiming(make_pair):
    """Would catch frames that wait for the netdev and leave when there is
    room again, although this side may have been given up meanwhile."""
    pair = flood(make_pair, SlowPair)
    blocked(pair)
    until = last(pair) + pair.primary.query()['held-packets']
    away = Away(pair)
    pair.backup.kill()
    was = pair.claiming(pair.primary)['released-packets']
    pair.cable.gate.set()
    # What comes now is what the kernel had.
    pair.primary._pull(0.5)
    pair.cable.stays_quiet(pair.primary)
    assert pair.primary.query()['released-packets'] == was
    away.back()
    pair.primary.wait_state('unprotected')
    pair.cable.wait(f'frame {until}', lambda: last(pair) >= until)
    pair.goes_on()
    pair.cable.check()


def test_blocked_fenced(make_pair):
    """The same, of a side that finds the guest taken over."""
    pair = flood(make_pair, SlowPair, **{'ft-timeout-ms': TIMEOUT_MS})
    blocked(pair)
    pair.primary.hang()
    pair.cable.gate.set()
    pair.taken_over()
    pair.wakes_fenced()
