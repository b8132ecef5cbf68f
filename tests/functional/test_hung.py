"""A primary that hung and wakes up: nothing of its own may leave it.

SPDX-License-Identifier: GPL-2.0-or-later

It stood still with output in its queues, acknowledgements unread in its
sockets and writes in its journals, and the guest goes on elsewhere. All
frames are captured on the tap that it sends to, and its image is compared
with what it was before it woke up.

CUJU_HUNG: so many seconds longer than needed it stands still (0).
"""

import hashlib
import os

import pytest

from harness import TIMEOUT_MS, Broken, wait_until
from lab import LabPair

HUNG = float(os.environ.get('CUJU_HUNG', '0'))
# What the guest does, on what storage.
LOADS = {
    'frames': {'kinds': (), 'options': 'rate=1'},
    'replicated': {'kinds': ['virtio', 'virtio'], 'load': 'disk-gap=0 rate=1',
                   'storage': 'replicated'},
    'shared': {'kinds': ['virtio', 'virtio'], 'load': 'disk-gap=0 rate=1',
               'storage': 'shared'},
}


def images(pair, host='primary'):
    """What is in the images of a host."""
    found = []
    for n in range(len(pair.kinds)):
        with open(pair.image(host, n), 'rb') as file:
            found.append(file.read())
    return found


def at_rest(pair, host='primary'):
    """The same, when nobody writes to them any more: not even the kernel
    what it was told to."""
    last = [None]

    def same():
        before, last[0] = last[0], images(pair, host)
        return before == last[0]

    wait_until('an image that nobody writes to', same, interval=0.05)
    return last[0]


def changed(was, now):
    """For each image that differs: the first sector that does, and how many
    there are from it to the last one."""
    found = []
    for before, after in zip(was, now, strict=True):
        if hashlib.sha256(before).digest() != hashlib.sha256(after).digest():
            differ = [i for i in range(0, len(before), 512)
                      if before[i:i + 512] != after[i:i + 512]]
            found.append((differ[0] // 512,
                          (differ[-1] - differ[0]) // 512 + 1))
    return found


def make(make_pair, load):
    pair = make_pair(LabPair, **LOADS[load], params={
        'ft-timeout-ms': max(TIMEOUT_MS, 3000)})
    pair.protected()
    if pair.kinds:
        pair.wait_writes(pair.primary, 100)
    return pair


def hang_with_all_in_flight(pair):
    """The primary stands still at the worst moment: as many epochs as there
    may be are at the backup, and nothing of them has left; then their
    acknowledgements come. Returns what is in its images."""
    pair.backup.hang()
    wait_until('epochs in flight', lambda:
               pair.primary.query()['in-flight'] == 2)
    # Nothing is about to leave: there is nobody to allow it.
    at_rest(pair)
    pair.primary.hang()
    pair.backup.wake()
    return at_rest(pair)


def wait_lock(pair):
    """The hung primary has the lock of the image, so the backup waits."""
    pair.backup.wait_word('lock')
    assert not pair.backup.running()


@pytest.mark.parametrize('load', LOADS)
def test_in_flight(make_pair, load):
    """Not a frame of whatever kind, and not a byte, from the primary's
    wake-up to its end."""
    pair = make(make_pair, load)
    was = hang_with_all_in_flight(pair)
    pair.backup.wait_state('takeover')
    with pair.cable.cond:
        pair.cable.cond.wait_for(lambda: False, HUNG)
    if load == 'shared':
        # It could write as soon as the primary is gone: one after the other.
        wait_lock(pair)
        pair.backup.hang()
    else:
        status = pair.taken_over(reason='lost')
        assert status['generation'] == 1
    assert not changed(was, images(pair))
    sent = pair.cable.count(pair.primary)
    pair.primary.wake()
    assert pair.primary.wait_exit() == 3
    assert not changed(was, images(pair))
    assert 'taken over' in pair.primary.text()
    if load == 'shared':
        pair.backup.wake()
        pair.taken_over()
    # What it had sent in its last moment is here when newer frames are.
    pair.goes_on(pair.backup)
    if pair.cable.count(pair.primary) != sent:
        raise Broken(f'{pair.cable.count(pair.primary) - sent} frames left '
                     f'the primary after it woke up')
    if pair.kinds:
        pair.disk_check()
    pair.cable.check(takeovers=1)


def test_it_was_in_flight(make_pair):
    """The test above has something to find: a primary that is not lost lets
    it all out when it wakes up."""
    pair = make(make_pair, 'replicated')
    was = hang_with_all_in_flight(pair)
    sent = pair.cable.count(pair.primary)
    pair.primary.wake()
    wait_until('frames and writes', lambda: changed(was, images(pair)) and
               pair.cable.count(pair.primary) > sent)
    assert pair.primary.query()['state'] == 'protected'
    pair.cable.check()


@pytest.mark.parametrize('storage', ['replicated', 'shared'])
def test_any_moment(make_pair, storage):
    """Hung in the middle of whatever it did: what it was about to hand to
    the kernel may come to the image, which is its own or still locked, and
    one frame may leave it; the guest that goes on knows of both."""
    pair = make(make_pair, storage)
    pair.primary.hang()
    at_rest(pair)
    pair.backup.wait_state('takeover')
    if storage == 'shared':
        wait_lock(pair)
    else:
        pair.taken_over()
    pair.wakes_fenced()
    if storage == 'shared':
        pair.taken_over()
    pair.goes_on(pair.backup)
    pair.disk_check()
    pair.wait_settled(pair.backup)
    pair.cable.check(takeovers=1)
    pair.quiesce()
    pair.check_images()
