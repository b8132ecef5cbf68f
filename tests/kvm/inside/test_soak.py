"""Is the backup the same machine, epoch after epoch, under load?

SPDX-License-Identifier: GPL-2.0-or-later

The backup compares the hash of all RAM and of the devices every few epochs,
and gives up where they differ. At the end it must be able to go on.

Environment: CUJU_EPOCHS, how many for each (120).
"""

import os
import time

import pytest

from harness import PATIENCE

EPOCHS = int(os.environ.get('CUJU_EPOCHS', '120'))
HASH = 4                        # each so many epochs
# To end and to begin an epoch takes 10 ms in the rig: with the default the
# guest would hardly run.
EPOCH_US = 30000
# How dirty pages are found; the small ring, of KVM's least size, gets full.
ACCELS = {'ring': 'kvm,dirty-ring-size=4096',
          'small': 'kvm,dirty-ring-size=256', 'bitmap': 'kvm'}
FULL = 'kvm_dirty_ring_full'
# In the rig a page that is written for the first time in an epoch costs
# about half a millisecond, so there are not many of them in each.
LOADS = {'touch': 800, 'fill': 400}
# The share of CI
FEW = ('small', 1, 'fill'), ('bitmap', 2, 'fill')


def play(pair, epochs, accel):
    """Until so many epochs are committed and the guest has done enough in
    them, which is not much in each where the machine is busy; how often it
    has written all its pages, how often a ring was full, and what both sides
    say then."""
    end = time.monotonic() + (40 + 0.2 * epochs) * PATIENCE
    begin = pair.cable.frames()[-1].generation
    while True:
        status = pair.primary.query()
        assert status['state'] == 'protected', status['reason']
        rounds = pair.cable.frames()[-1].generation - begin
        full = pair.primary.text(size=1 << 24).count(FULL)
        if status['committed'] >= epochs and rounds >= 2 and \
                (full or accel != 'small'):
            return rounds, full, status, pair.backup.query()
        assert time.monotonic() < end, \
            f'no more than {status["committed"]} epochs, {rounds} times ' \
            f'all pages, ring full {full} times'
        pair.cable.wait_more(5, pair.primary)


@pytest.mark.parametrize('accel, cpus, load', [
    pytest.param(accel, cpus, load, marks=[] if (accel, cpus, load) in FEW
                 else pytest.mark.slow)
    for accel in ACCELS for cpus in (1, 2) for load in LOADS])
def test_soak(make_pair, accel, cpus, load):
    """Would catch a page that is written and not sent: one that a ring had
    and nobody took, one that was taken and dropped with an epoch, one that
    QEMU's own harvest has put elsewhere; and a vCPU's or a device's state
    that is not what runs."""
    pair = make_pair(accel=ACCELS[accel], mode=f'count,{load}',
                     pages=LOADS[load], memory='32M',
                     params={'ft-hash': HASH, 'ft-epoch-us': EPOCH_US},
                     extra=['-smp', str(cpus), '-trace', f'enable={FULL}'])
    pair.start()
    pair.protect()
    rounds, full, status, backup = play(pair, EPOCHS, accel)
    print(f'{accel}, {cpus} vCPU, {load}: {status["committed"]} epochs, '
          f'{backup["hashes-checked"]} hashes, {status["dirty-mean"]} pages '
          f'each, p99 {status["dirty-p99"]}; {rounds} times all {LOADS[load]} '
          f'pages, ring full {full} times')
    assert status['dirty-tracking'] == \
        ('kvm-bitmap' if accel == 'bitmap' else 'kvm-ring')
    # Fewer of them are no comparison.
    assert backup['hashes-checked'] >= EPOCHS // HASH - 3
    # Never for the others
    assert (full > 0) == (accel == 'small')
    pair.primary.kill()
    pair.taken_over(frames=50)
    pair.cable.check(takeovers=1)
