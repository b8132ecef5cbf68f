"""A primary that hung and wakes up: nothing of its own may leave it.

SPDX-License-Identifier: GPL-2.0-or-later

It stood still with output in its queues, acknowledgements unread in its
sockets and writes on their way to its disk, and the guest goes on elsewhere.
All frames are captured on the tap that it sends to, and its image is compared
with what it was before it woke up.
"""

import hashlib
import os

import pytest

from disks import SIZE
from harness import Broken, wait_until
from lab import LabPair

HUNG = float(os.environ.get('CUJU_HUNG', '3'))
# What the guest does: nothing but talk, a bit of all, all it can.
LOADS = {
    'frames': {'kinds': (), 'options': 'rate=1'},
    'some': {'kinds': ['virtio'], 'load': 'disk-gap=2000'},
    'much': {'kinds': ['virtio', 'virtio'], 'load': 'disk-gap=0 rate=1'},
}


def images(pair, host='primary'):
    """What is in the images of a host."""
    found = []
    for n in range(len(pair.kinds)):
        with open(pair.image(host, n), 'rb') as file:
            found.append(hashlib.sha256(file.read()).hexdigest())
    return found


def at_rest(pair, host='primary'):
    """The same, when what a stopped process had told the kernel to write is
    written."""
    last = [None]

    def same():
        before, last[0] = last[0], images(pair, host)
        return before == last[0]

    wait_until('an image that nobody writes to', same, interval=0.05)
    return last[0]


def make(make_pair, load, **kwargs):
    pair = make_pair(LabPair, **{**LOADS[load], **kwargs})
    pair.protected()
    if pair.kinds:
        pair.wait_writes(pair.primary, 100)
    return pair


def wakes_and_ends(pair, was, finish=lambda: None):
    """Not a frame, not a byte: of whatever kind, from wake-up to the end."""
    assert images(pair) == was
    sent = pair.cable.count(pair.primary)
    pair.wakes_fenced()
    assert images(pair) == was
    assert 'taken over' in pair.primary.text()
    finish()
    # What it had sent in its last moment is here when newer frames are.
    pair.goes_on(pair.backup)
    if pair.cable.count(pair.primary) != sent:
        raise Broken(f'{pair.cable.count(pair.primary) - sent} frames left '
                     f'the primary after it woke up')
    if pair.kinds:
        pair.disk_check()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('load', LOADS)
def test_replicated(make_pair, load):
    """The backup takes over beside it, at once; the primary hangs for a
    while longer."""
    pair = make(make_pair, load, storage='replicated')
    pair.primary.hang()
    was = at_rest(pair)
    status = pair.taken_over(reason='lost')
    assert status['generation'] == 1
    pair.cable.wait_more(100, pair.backup)
    wakes_and_ends(pair, was)


@pytest.mark.parametrize('load', ['some', 'much'])
def test_shared(make_pair, load):
    """The hung primary has the lock of the image, so that the backup waits,
    and the two never write at the same time: it has the claim, but the image
    is left alone from the moment that the primary wakes up until it is gone
    (the backup is made to stand still for as long, to see that)."""
    pair = make(make_pair, load, storage='shared')
    pair.primary.hang()
    was = at_rest(pair)
    pair.backup.wait_state('takeover')
    wait_until('word of the lock', lambda: pair.backup._pull(0.1) and any(
        'lock' in reason for _, reason in pair.backup.states))
    assert not pair.backup.running()
    assert images(pair) == was
    pair.backup.hang()
    wakes_and_ends(pair, was, pair.backup.wake)
    pair.wait_settled(pair.backup)
    pair.quiesce()
    pair.check_images()


@pytest.mark.slow
@pytest.mark.parametrize('storage', ['shared', 'replicated'])
def test_hung_for_long(make_pair, storage):
    """CUJU_HUNG seconds, so that all that waits for it has given up."""
    pair = make(make_pair, 'much', storage=storage, params={
        'ft-ack-timeout-ms': 1000})
    pair.primary.hang()
    was = at_rest(pair)
    pair.backup.wait_state('takeover')
    with pair.cable.cond:
        pair.cable.cond.wait_for(lambda: False, HUNG)
    if storage == 'replicated':
        pair.taken_over()
        wakes_and_ends(pair, was)
    else:
        assert not pair.backup.running()
        pair.backup.hang()
        wakes_and_ends(pair, was, pair.backup.wake)


def test_image_is_used(make_pair):
    """The comparison above sees a write: without a loss there are some."""
    pair = make(make_pair, 'much', storage='replicated')
    pair.primary.hang()
    was = at_rest(pair)
    assert len(set(was)) == 2
    sent = pair.cable.count(pair.primary)
    pair.primary.wake()
    pair.cable.wait_more(20, pair.primary)
    wait_until('a byte that was written', lambda: images(pair) != was)
    assert pair.cable.count(pair.primary) > sent
    with open(pair.image('primary', 0), 'rb') as file:
        assert len(file.read()) == SIZE
