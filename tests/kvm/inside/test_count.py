"""What an epoch may call in KVM, and what it must not.

SPDX-License-Identifier: GPL-2.0-or-later

A call too many costs a part of each pause, which somebody might live with.
A call that writes registers, clocks or timers back is worse: each makes
them late by the time from its reading to its writing, a hundred times a
second.
"""

import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import counting  # noqa: E402

# What each vCPU is asked for, once an epoch.
STATE = ('GET_REGS', 'GET_MP_STATE', 'GET_VCPU_EVENTS', 'GET_XCRS',
         'GET_LAPIC', 'GET_DEBUGREGS')


@pytest.fixture(name='counts', scope='module', params=[
    'ring4k-loaded', 'bitmap-loaded'])
def count_calls(request):
    return counting.measure(request.param, 2.0)


# Of the bare guest
CPUS = 1


def of(window, *names):
    return sum(window['calls'].get(name, 0) for name in names)


def test_counters_count(counts):
    """Otherwise all the rest says nothing."""
    plain, now = counts['plain'], counts['protected']
    assert now['least'] >= 20
    for window in plain, now:
        low, high = (sum(exits.values()) for exits in window['exits_both'])
        assert of(window, 'vcpu RUN') > 0
        assert high >= of(window, 'vcpu RUN') / 2
        # The same thing, counted by KVM itself a moment before: each vCPU
        # may be on its way from the one to the other.
        assert 0 < low <= window['figures']['exits'] + CPUS
        assert window['figures']['exits'] - CPUS <= high
    # Nobody asks for anything while nothing is protected.
    assert not of(plain, 'vcpu GET_REGS', 'vm GET_IRQCHIP')


def test_each_vcpu_is_read_once(counts):
    now = counts['protected']
    for name in STATE:
        assert now['least'] <= of(now, f'vcpu {name}') <= now['most'], name


def test_nothing_is_written_back(counts):
    wrong = {name: n for name, n in counts['protected']['calls'].items()
             if name.split()[0] in ('vm', 'vcpu') and
             (' SET_' in name or name.endswith('KVMCLOCK_CTRL'))}
    assert not wrong


def test_doorbells_stay(counts):
    """Taking them off and putting them back was a third of a pause."""
    assert not of(counts['protected'], 'vm IOEVENTFD')


def test_dirty_log(counts):
    """Rings are freed once, and bitmaps are left alone then."""
    now = counts['protected']
    logs = of(now, 'vm GET_DIRTY_LOG', 'vm CLEAR_DIRTY_LOG')
    resets = of(now, 'vm RESET_DIRTY_RINGS')
    if counts['name'].startswith('ring'):
        assert not logs
        # None for an epoch in which no vCPU came to write anything, but
        # that cannot be most of them.
        # QEMU's own thread resets them, too: once a second, and full ones.
        own = now['longest'] + 1 + now['user'].get('dirty ring full', 0)
        assert own + now['least'] / 8 <= resets <= now['most'] + own
        assert now['pushed'] > now['epochs']
    else:
        assert not resets
        assert of(now, 'vm CLEAR_DIRTY_LOG') >= now['least'] / 8
        assert not now['pushed']


def test_pages_fault_once_an_epoch(counts):
    """What the guest writes faults once, and is what is sent, but for pages
    that QEMU itself writes, and what is on its way. How many an epoch is a
    question of this machine's speed."""
    now = counts['protected']
    faults = now['faults'].get('write, present', 0)
    low, high = (kinds.get('write, present', 0)
                 for kinds in now['faults_both'])
    fewest, most = now['pages_both']
    assert faults > now['epochs']
    assert 0.6 * fewest < faults < 1.2 * most
    assert 0.85 * low <= now['protected'] <= 1.15 * high
