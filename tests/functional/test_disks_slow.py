"""Disks that are slow, full or broken, and what the guest gets to feel.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import contextlib
import os
import subprocess

import pytest

import ftguest
from disks import DiskPair
from harness import wait_until
from test_disks import takeover


def throttled(reads=None, writes=None):
    """A -drive behind a throttle node, as a function for DiskPair."""
    limits = ''.join(f',x-iops-{name}={n}' for name, n in
                     (('read', reads), ('write', writes)) if n)

    def drive(host, n, path):
        return ['-object', f'throttle-group,id=slow{n}{limits}',
                '-blockdev', f'driver=file,node-name=file{n},filename={path},'
                'cache.direct=on,discard=unmap',
                '-blockdev', f'driver=throttle,node-name=thr{n},'
                f'throttle-group=slow{n},file=file{n}',
                '-blockdev', f'driver=raw,node-name=drive{n},file=thr{n},'
                'discard=unmap']
    return drive


class Full(DiskPair):
    """The image of one host is in a file system that gets full."""

    small = 'primary'

    def image(self, host, n):
        where = 'fs/' if host == self.small or self.storage == 'shared' else ''
        return f'{self.directory}/{where}{host}.{n}.{self.form}' \
            if self.storage != 'shared' else \
            f'{self.directory}/{where}shared.{n}.{self.form}'

    def mount(self):
        path = f'{self.directory}/fs'
        os.mkdir(path)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=10m', 'tmpfs',
                        path], check=True)
        return self

    def fill(self):
        """No more space, but for what is allocated already."""
        with open(f'{self.directory}/fs/filler', 'ab', 0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))

    def empty(self):
        os.unlink(f'{self.directory}/fs/filler')

    def close(self):
        super().close()
        subprocess.run(['umount', f'{self.directory}/fs'], check=True)


@pytest.mark.parametrize('park', [True, False])
def test_slow_reads(make_pair, park):
    """100 reads a second: with parking, the pause does not feel it."""
    pair = make_pair(DiskPair, drives=throttled(reads=100),
                     load='disk-gap=0 disk-sectors=2048',
                     params={'x-ft-drain-reads': not park, 'ft-hash': 0})
    pair.start_primary()
    pair.wait_disks('the disk is filled', lambda d: d.rounds >= 1,
                    pair.primary)
    pair.disk_mode(ftguest.KIND_DISK_READ_ONLY, pair.primary)
    pair.start_backup()
    pair.protect()
    start = pair.last_disks()[0].reads
    pair.wait_disks('reads', lambda d: d.reads >= start + 200, pair.primary,
                    90)
    pause = pair.primary.query()['pause']
    drive = pair.drives_of(pair.primary)[0]
    print(f'park={park}: reads parked {drive["parked-reads"]}; pause, us:')
    for name, h in pause.items():
        print(f'  {name}: mean {h["mean"]}, p50 {h["p50"]}, p99 {h["p99"]}, '
              f'max {h["max"]}')
    assert (drive['parked-reads'] > 0) == park
    pair.cable.check()
    if park:
        pair.primary.kill()
        pair.taken_over()
        pair.disk_check()
        pair.cable.check(takeovers=1)


@pytest.mark.parametrize('kind', ['virtio', 'scsi', 'ide', 'iothread'])
def test_reads_survive(make_pair, kind):
    """Reads that are under way at the takeover are done on the backup."""
    thread = kind == 'iothread'
    pair = make_pair(
        DiskPair, kinds=['virtio' if thread else kind],
        drives=throttled(reads=50), load='disk-gap=0 disk-sectors=1024',
        rest=',iothread=io0' if thread else '',
        objects=['-object', 'iothread,id=io0'] if thread else [])
    pair.start_primary()
    pair.wait_disks('the disk is filled', lambda d: d.rounds >= 1,
                    pair.primary)
    pair.disk_mode(ftguest.KIND_DISK_READ_ONLY, pair.primary)
    pair.start_backup()
    pair.protect()
    start = pair.last_disks()[0].reads
    pair.wait_disks('reads', lambda d: d.reads >= start + 20, pair.primary,
                    90)
    pause = pair.primary.query()['pause']['total']
    print(f'{kind}: pause mean {pause["mean"]} us, p50 {pause["p50"]}, p99 '
          f'{pause["p99"]}, parked '
          f'{pair.drives_of(pair.primary)[0]["parked-reads"]}')
    assert pair.drives_of(pair.primary)[0]['parked-reads']
    pair.primary.kill()
    pair.taken_over()
    start = pair.last_disks()[0].reads
    pair.wait_disks('reads', lambda d: d.reads >= start + 20, pair.backup, 90)
    pair.cable.check(takeovers=1)


def test_again_at_once(make_pair):
    """Ended and protected again while the journal is still worked off."""
    pair = make_pair(DiskPair, drives=throttled(writes=100),
                     load='disk-gap=1000', params={'ft-hash': 0})
    pair.protected(hashed=False)
    wait_until('a journal', lambda:
               pair.drives_of(pair.primary)[0]['journal-records'] > 100)
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.primary.wait_state('inactive')
    pair.start_backup('again')
    pair.protect(wait=False)
    pair.primary.wait_state('protected', 90, since=3)
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_slow_writes(make_pair):
    """The journal fills up: the guest waits, nothing is lost."""
    pair = make_pair(DiskPair, drives=throttled(writes=100),
                     load='disk-gap=0',
                     params={'ft-journal-size': 16 << 20})
    pair.protected(hashed=False)
    wait_until('writes stalled', lambda:
               pair.primary.query()['stalled-writes'] > 0, 90)
    status = pair.primary.query()
    assert status['slowed-writes'] > 0
    # one record may come on top, as the last one that was let in
    assert status['journal-peak'] <= status['journal-size'] + (1 << 20)
    pair.wait_writes(pair.primary, 50)
    pair.primary.kill()
    pair.taken_over()
    pair.wait_writes(pair.backup, 20)
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('kind, storage', [
    ('virtio', 'shared'), ('virtio', 'replicated'), ('scsi', 'shared'),
    ('ide', 'shared')])
def test_flush_disk(make_pair, kind, storage):
    """flush=disk: the guest's flushes, and writes with FUA, wait, and still
    come to an end."""
    pair = make_pair(DiskPair, kinds=[kind], flush='disk', storage=storage)
    pair.protected()
    start = pair.last_disks()[0].flushes
    pair.wait_disks('flushes', lambda d: d.flushes >= start + 5, pair.primary,
                    60)
    pair.wait_writes(pair.primary, 300)     # each sort of request is met
    assert pair.drives_of(pair.primary)[0]['flush'] == 'disk'
    takeover(pair)


def test_write_through_in_pieces(make_pair):
    """The same on a disk that takes at most 4096 bytes at a time: would catch
    a request whose pieces are recognised, and forgotten, one by one."""
    def small(host, n, path):
        return ['-drive', f'if=none,id=drive{n},format=raw,cache=none,'
                'discard=unmap,file.driver=blkdebug,file.image.driver=file,'
                f'file.image.filename={path},file.max-transfer=4096']

    pair = make_pair(DiskPair, flush='disk', storage='replicated',
                     drives=small, load='disk-wce=0 disk-gap=5000')
    pair.protected()
    pair.wait_writes(pair.primary, 40)
    takeover(pair)


def test_write_through(make_pair):
    """flush=disk, no write cache: each write waits, zeroes too."""
    pair = make_pair(DiskPair, flush='disk', load='disk-wce=0 disk-gap=5000')
    pair.protected()
    start = pair.last_disks()[0].zeroes
    pair.wait_disks('zeroes', lambda d: d.zeroes >= start + 5, pair.primary,
                    60)
    takeover(pair)


FULL = {'cache': 'writeback'}


def fill_up(pair, happened):
    """Take the space that discards give back, until a write misses it."""
    wait_until('a disk that is full', lambda: pair.fill() or happened(), 60)


def disk_error(machine):
    """The data of the event, if it has come."""
    machine._pull(0.001)
    return next((e['data'] for e in machine.events
                 if e['event'] == 'FT_DISK_ERROR'), None)


@pytest.mark.parametrize('werror', ['stop', 'report'])
def test_primary_full(make_pair, werror):
    """No space on the primary: paused or tried again, never lost."""
    pair = make_pair(Full, rest=f',werror={werror}', **FULL).mount()
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    fill_up(pair, lambda: disk_error(pair.primary))
    said = disk_error(pair.primary)
    assert said['drive'] == 'drive0' and 'space' in said['error']
    assert said['action'] == ('stop' if werror == 'stop' else 'retry')
    if werror == 'stop':
        wait_until('guest paused', lambda: pair.primary.qmp(
            'query-status')['status'] == 'io-error')
        pair.empty()
        pair.primary.qmp('cont')
    else:
        pair.goes_on()
        pair.empty()
    pair.wait_writes(pair.primary, 50)
    wait_until('no error any more', lambda: 'error' not in
               pair.drives_of(pair.primary)[0])
    takeover(pair)


def test_backup_full(make_pair):
    """No space on the backup: it gives up, the primary goes on."""
    pair = make_pair(Full, storage='replicated', **FULL)
    pair.small = 'backup'
    pair.mount().protected()
    pair.wait_writes(pair.primary, 50)
    fill_up(pair, lambda: not pair.backup.alive())
    assert pair.backup.wait_exit() == 1
    reason = pair.primary.wait_state('unprotected')
    assert 'drive0' in reason and 'space' in reason
    pair.goes_on()
    pair.disk_check(pair.primary)
    pair.wait_settled(pair.primary)
    pair.quiesce(pair.primary)
    pair.check_images('primary')


def broken(on):
    """A -drive that fails one write, with EIO, on the host of that name."""
    def drive(host, n, path):
        rule = ('file.inject-error.0.event=none,'
                'file.inject-error.0.iotype=write,'
                'file.inject-error.0.sector=5000,'
                'file.inject-error.0.errno=5,'
                'file.inject-error.0.once=on') if host == on else ''
        return ['-drive', f'if=none,id=drive{n},format=raw,cache=none,'
                f'discard=unmap,file.driver=blkdebug,file.image.driver=file,'
                f'file.image.filename={path},{rule}'.rstrip(',')]
    return drive


def protected_before_it_runs(pair):
    """So that each write of the guest goes by the journal."""
    pair.extra = ['-S']
    pair.start_primary(wait=False)
    pair.extra = []
    pair.start_backup()
    pair.protect()
    pair.primary.qmp('cont')


def test_primary_fails_once(make_pair):
    """The guest was told that the write is done: it is made in the end."""
    pair = make_pair(DiskPair, drives=broken('primary'))
    protected_before_it_runs(pair)
    said = pair.primary.wait_event('FT_DISK_ERROR', 60)['data']
    assert (said['role'], said['drive'], said['action']) == (
        'primary', 'drive0', 'retry')
    assert 'Input/output error' in said['error']
    wait_until('no error any more', lambda: 'error' not in
               pair.drives_of(pair.primary)[0])
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_backup_fails_once(make_pair):
    """A backup whose image is not what it should be is none."""
    pair = make_pair(DiskPair, storage='replicated', copy='none',
                     drives=broken('backup'))
    protected_before_it_runs(pair)
    assert pair.backup.wait_exit(60) == 1
    reason = pair.primary.wait_state('unprotected')
    assert 'drive0' in reason and 'Input/output error' in reason
    pair.goes_on()
    pair.disk_check(pair.primary)
    pair.wait_settled(pair.primary)
    pair.quiesce(pair.primary)
    pair.check_images('primary')
