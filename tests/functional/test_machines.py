"""Kinds of machines.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import pytest

import harness


def _survives(pair):
    pair.protected()
    pair.primary.kill()
    assert pair.taken_over()['hashes-checked'] > 0
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('nic', ('virtio-net-pci', 'e1000e'))
@pytest.mark.parametrize('machine', ('pc', 'q35'))
def test_machine(make_pair, machine, nic):
    """Would catch device state of a board that does not load."""
    _survives(make_pair(machine=machine, nic=nic))


@pytest.mark.parametrize('machine', ('pc', 'q35'))
def test_two_cpus(make_pair, machine):
    """Would catch a vCPU that runs on while the epoch is taken."""
    _survives(make_pair(machine=machine, extra=['-smp', '2']))


def test_two_nics(make_pair):
    """Would catch output of a second NIC that nobody holds."""
    _survives(make_pair(nics=2))


def test_high_memory(make_pair):
    """Would catch RAM above 4 GiB that is not copied."""
    _survives(make_pair(memory='4352M', pages=256, options='base=4096'))


def test_depth_one(make_pair):
    """Would catch a pipeline that needs more than one place."""
    _survives(make_pair(params={'ft-depth': 1}))


def test_depth_sixteen(make_pair):
    """... and one that mixes up its places."""
    _survives(make_pair(params={'ft-depth': 16, 'ft-epoch-us': 1000}))


def test_small_hold(make_pair):
    """Would catch packets that are dropped when the queue is full."""
    _survives(make_pair(params={'ft-hold-packets': 1},
                        options='rate=1'))


def test_no_nic(make_pair):
    """Would catch a session that needs a network."""
    pair = make_pair(nic=None)
    pair.start()
    pair.protect()
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    lines = pair.backup.text('serial').count('ftguest: t=')
    harness.wait_until('lines of the guest on its serial port', lambda: (
        pair.backup.text('serial', 100000).count('ftguest: t=') >= lines + 2))
    assert 'ERROR' not in pair.backup.text('serial')
    assert 'PANIC' not in pair.backup.text('serial')
