"""What the guest has sent, and may leave, leaves: all of it, in order.

SPDX-License-Identifier: GPL-2.0-or-later

At the orderly ends, when the VM does not run any more. The guest numbers its
frames, so none can be missing unseen.
"""

import signal

import pytest

import ftguest
from harness import Pair, wait_until

# Nobody is lost before the test has said so.
SLOW = {'ft-heartbeat-ms': 100, 'ft-timeout-ms': 5000, 'ft-hash': 1000}


def flood(make_pair, kind=Pair, **params):
    """A protected guest that sends a frame a millisecond."""
    pair = make_pair(kind, mode='count', options='rate=1',
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


@pytest.mark.parametrize('how', ('quit', 'guest', 'SIGTERM'))
def test_end(make_pair, how):
    """Would catch output that the backup has acknowledged when the guest
    was stopped for good, and that ends in a queue of the netdev."""
    pair = flood(make_pair, **{'ft-epoch-us': 500000})
    pair.backup.hang()
    until = held(pair, 100)
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
