"""Linux on KVM: redis under load, a disk, and its primary is lost.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib

import pytest

import counting
from redispair import RedisPair

RING, BITMAP = 'kvm,dirty-ring-size=4096', 'kvm'
slow = pytest.mark.slow


def check_calls(pair):
    """Would catch what is taken from KVM in each pause and given back: each
    of these calls waits for a grace period, and a disk's twelve were a third
    of the pause."""
    with contextlib.closing(counting.Histograms()) as histograms:
        now = counting.window(pair.primary, histograms, 1.0)
    calls = now['calls']
    assert now['epochs'] and calls.get('vm GET_CLOCK'), now
    assert not [name for name in calls if name in (
        'vm IRQFD', 'vm IOEVENTFD', 'vm SET_GSI_ROUTING')], calls


@pytest.mark.parametrize('accel, cpus, fault', [
    (RING, 2, 'kill'), (BITMAP, 1, 'hang'),
    pytest.param(BITMAP, 2, 'kill', marks=slow),
    pytest.param(BITMAP, 2, 'hang', marks=slow),
    pytest.param(RING, 1, 'kill', marks=slow),
    pytest.param(RING, 2, 'hang', marks=slow)])
def test_takeover(make_pair, accel, cpus, fault):
    """Would catch an answer that leaves before its epoch is committed, a
    connection that dies with a host, a write that is lost or torn, and what
    KVM has of a guest and the backup has not got: a kernel tells when its
    clock, its interrupts or its memory are wrong."""
    pair = make_pair(RedisPair, accel=accel, cpus=cpus).boot()
    assert pair.run('nproc').strip() == str(cpus)
    check_calls(pair)
    outage = pair.failover(fault)
    acked, disk = pair.look()
    print(f'{accel}, {cpus} vCPU, {fault}: outage {outage:.0f} ms, {acked} '
          f'writes acknowledged, {disk} on the disk')
    pair.finish()


@slow
@pytest.mark.parametrize('accel', [RING, BITMAP])
def test_there_and_back(make_pair, accel):
    """Would catch what a session leaves behind in KVM: the survivor is
    protected again, three times, and at the end both disks are equal."""
    pair = make_pair(RedisPair, accel=accel, cpus=2).boot()
    for fault in 'kill', 'hang', 'kill':
        pair.failover(fault)
        pair.again()
    pair.look()
    pair.finish()
