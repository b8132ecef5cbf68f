"""Writable disks: no write is lost, whatever dies and when.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import signal

import pytest

import ftguest
from disks import DiskPair
from harness import wait_until


def takeover(pair, frames=20, dead=True):
    """Kill the primary; all must be there on the backup."""
    if dead and pair.primary.alive():
        pair.primary.kill()
    pair.taken_over(frames=frames)
    pair.disk_check()
    pair.wait_settled(pair.backup)
    pair.cable.check(takeovers=1)
    pair.quiesce()
    pair.check_images()


@pytest.mark.parametrize('storage', ['shared', 'replicated'])
@pytest.mark.parametrize('form', ['raw', 'qcow2'])
@pytest.mark.parametrize('kind', ['virtio', 'scsi', 'ide'])
def test_killed(make_pair, kind, form, storage):
    """Each controller and format; the primary is killed under load."""
    pair = make_pair(DiskPair, kinds=[kind], form=form, storage=storage)
    pair.protected()
    pair.wait_writes(pair.primary, 100)
    takeover(pair)


def test_ahci(make_pair):
    """q35's own controller would wait in the firmware; one more does not."""
    pair = make_pair(DiskPair, kinds=['ahci'], extra=['-boot', 'order=n'])
    pair.start_primary(wait=False)
    pair.cable.wait_more(5, pair.primary, timeout=100)
    pair.start_backup()
    pair.protect()
    pair.wait_writes(pair.primary, 100)
    takeover(pair)


@pytest.mark.parametrize('point', [
    'pause-begin', 'captured', 'before-send', 'mid-frame', 'after-send',
    'ack-received', 'released', 'disk-apply', 'disk-flush'])
@pytest.mark.parametrize('storage', ['shared', 'replicated'])
def test_killed_at(make_pair, storage, point):
    """The primary dies at a point of the protocol."""
    pair = make_pair(DiskPair, kinds=['virtio', 'scsi'], storage=storage,
                     load='disk-gap=0')
    pair.protected()
    pair.wait_writes(pair.primary, 100)
    pair.primary.inject(point, 40)
    pair.primary.wait_exit()
    takeover(pair)


def test_all_kinds_with_iothread(make_pair):
    """Four drives, one of them in a thread of its own."""
    pair = make_pair(DiskPair, kinds=['virtio', 'virtio', 'scsi', 'ide'],
                     rest=',iothread=io0',
                     objects=['-object', 'iothread,id=io0'])
    pair.protected()
    pair.wait_writes(pair.primary, 100)
    assert len(pair.drives_of(pair.primary)) == 4
    takeover(pair)


def test_second_session(make_pair):
    """The survivor is protected again, and again survives."""
    pair = make_pair(DiskPair)
    pair.protected()
    for n in range(3):
        pair.wait_writes(pair.primary, 50)
        pair.primary.kill()
        pair.taken_over()
        pair.disk_check()
        pair.primary = pair.backup
        pair.start_backup(f'backup{n}')
        pair.protect()
    pair.wait_writes(pair.primary, 50)
    pair.cable.check(takeovers=3)


@pytest.mark.parametrize('storage', ['shared', 'replicated'])
def test_backup_lost(make_pair, storage):
    """The primary goes on, and what it wrote comes to its disk."""
    pair = make_pair(DiskPair, storage=storage)
    pair.protected()
    pair.wait_writes(pair.primary, 100)
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    pair.wait_writes(pair.primary, 50)
    pair.disk_check(pair.primary)
    pair.wait_settled(pair.primary)
    pair.quiesce(pair.primary)
    pair.check_images('primary')


@pytest.mark.parametrize('form', ['raw', 'qcow2'])
def test_equal_after_orderly_end(make_pair, form):
    """Images of a replicated pair are the same after it has ended."""
    pair = make_pair(DiskPair, storage='replicated', form=form,
                     kinds=['virtio', 'scsi'])
    pair.protected()
    pair.wait_writes(pair.primary, 200)
    pair.quiesce(pair.primary)
    committed = pair.primary.query()['epoch'] + 1
    wait_until('all on both disks', lambda: all(
        d['settled'] >= committed for m in (pair.primary, pair.backup)
        for d in pair.drives_of(m)))
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.wait_settled(pair.primary)
    pair.images_equal()
    pair.check_images('primary')


@pytest.mark.parametrize('how', ['quit', 'guest', 'SIGTERM'])
def test_equal_after_shutdown(make_pair, how):
    """Under load to the end: the backup gets the very last write."""
    pair = make_pair(DiskPair, storage='replicated', load='disk-gap=0')
    pair.protected()
    pair.wait_writes(pair.primary, 200)
    if how == 'quit':
        pair.primary.qmp('quit')
    elif how == 'guest':
        pair.cable.send(pair.primary, ftguest.KIND_POWER_OFF)
    else:
        pair.primary.kill(signal.SIGTERM)
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    pair.images_equal()
    pair.check_images('primary')


def test_ended_in_order(make_pair):
    """quit: what is in the journal comes to the disk before the end."""
    pair = make_pair(DiskPair, load='disk-gap=0')
    pair.protected()
    pair.wait_writes(pair.primary, 200)
    highest = max(d.version for d in pair.last_disks().values())
    pair.primary.qmp('quit')
    assert pair.primary.wait_exit() == 0
    assert pair.backup.wait_exit() == 0
    pair.check_images()
    found = ftguest.check_image(pair.image('primary', 0), 16384)
    assert found.highest >= highest - 50
