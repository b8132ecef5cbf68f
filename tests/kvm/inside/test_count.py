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


def of(window, *names):
    return sum(window['calls'].get(name, 0) for name in names)


def test_counters_count(counts):
    """Otherwise all the rest says nothing."""
    plain, now = counts['plain'], counts['protected']
    assert now['epochs'] > 20
    for window in plain, now:
        assert of(window, 'vcpu RUN') > 20
        assert sum(window['exits'].values()) >= of(window, 'vcpu RUN') / 2
        # The same thing, counted by KVM itself.
        assert sum(window['exits'].values()) == pytest.approx(
            window['figures']['exits'], rel=0.2)
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
        # None for an epoch in which no vCPU came to write anything.
        # QEMU's own thread resets them, too: once a second, and full ones.
        own = now['seconds'] + 1 + now['user'].get('dirty ring full', 0)
        assert now['least'] / 2 <= resets <= now['most'] + own
        assert now['pushed'] > now['epochs']
    else:
        assert not resets
        assert of(now, 'vm CLEAR_DIRTY_LOG') >= now['least'] / 2
        assert not now['pushed']


def test_pages_fault_once_an_epoch(counts):
    """What the guest writes faults once, and is what is sent, but for pages
    that QEMU itself writes, and what is on its way: they are read one after
    the other, and a machine that is busy does a lot between."""
    now = counts['protected']
    faults = now['faults'].get('write, present', 0)
    assert faults > 10 * now['epochs']
    assert 0.6 * now['pages'] < faults < 1.2 * now['pages']
    assert now['protected'] == pytest.approx(faults, rel=0.15)
