"""Disks: which images belong together, and who may touch them.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import shutil
import signal
import subprocess

import pytest

from disks import SIZE, DiskPair, make_image
from test_disks import takeover

# Until the operator has spoken.
UNNOTICED = {'ft-timeout-ms': 5000}


def refused(pair, *words):
    """The backup turns the primary down, and says why."""
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    for word in words:
        assert word in text, text
    pair.goes_on()
    pair.wait_settled(pair.primary)     # the journals are gone again
    pair.cable.check()


class Mixed(DiskPair):
    """Each host has an image of its own, whatever `storage` says."""

    size = None

    def image(self, host, n):
        return f'{self.directory}/{host}.{n}.{self.form}'

    def launch(self, name, **kwargs):
        if self.size and name != 'primary':
            make_image(self.image(name, 0), self.form, self.size)
        return super().launch(name, **kwargs)


def test_shared_but_two_files(make_pair):
    """Would catch a takeover with an image that nobody wrote to."""
    pair = make_pair(Mixed, storage='shared')
    pair.start()
    refused(pair, 'drive0', 'not the same file', 'replicated')


def test_replicated_but_one_file(make_pair):
    """Would catch two sides that both write to one image."""
    pair = make_pair(DiskPair, storage='shared',
                     params={'ft-storage': 'replicated'})
    pair.start()
    refused(pair, 'drive0', 'lock', 'shared')


def test_other_size(make_pair):
    pair = make_pair(Mixed, storage='replicated')
    pair.size = 16 << 20
    pair.start()
    refused(pair, 'drive0', str(16 << 20), 'size')


def test_no_such_drive(make_pair):
    """Would catch a drive that is protected in another way than asked."""
    pair = make_pair(DiskPair, params={'ft-drives': [
        {'drive': 'drive7', 'storage': 'replicated'}]})
    pair.start()
    text = pair.primary.refused('migrate', uri=pair.uri) \
        if pair.primary.qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'cuju-ft', 'state': True}]) == {} else ''
    assert 'ft-drives' in text


def test_mixed(make_pair):
    """One drive shared, the other one replicated."""
    class One(DiskPair):
        def image(self, host, n):
            name = 'shared' if n == 0 else host
            return f'{self.directory}/{name}.{n}.{self.form}'

    pair = make_pair(One, kinds=['virtio', 'virtio'], storage='shared',
                     params={'ft-drives': [{'drive': 'drive1',
                                            'storage': 'replicated'}]})
    pair.protected()
    pair.wait_writes(pair.primary, 100)
    takeover(pair)


def test_monitor(make_pair):
    """The options behind the address, as an operator gives them."""
    pair = make_pair(DiskPair, storage='replicated',
                     params={'ft-storage': 'shared'})
    pair.start()
    pair.primary.qmp('human-monitor-command', **{
        'command-line':
        f'migrate -d -c {pair.uri},replicated=drive0,flush=disk'})
    pair.primary.wait_state('protected')
    drive = pair.drives_of(pair.primary)[0]
    assert (drive['storage'], drive['flush']) == ('replicated', 'disk')
    text = pair.primary.qmp('human-monitor-command',
                            **{'command-line': 'info ft'})
    assert 'drive drive0: replicated, flush=disk' in text
    takeover(pair)


@pytest.mark.parametrize('command', [
    {'execute': 'block_resize', 'device': 'drive0', 'size': 1 << 24},
    {'execute': 'blockdev-snapshot-sync', 'device': 'drive0',
     'snapshot-file': 'snap.qcow2'},
    {'execute': 'drive-mirror', 'device': 'drive0', 'target': 'x.raw',
     'sync': 'full'},
    {'execute': 'drive-backup', 'device': 'drive0', 'target': 'x.raw',
     'sync': 'full'},
    {'execute': 'block-commit', 'device': 'drive0'},
    {'execute': 'eject', 'device': 'drive0', 'force': True},
], ids=lambda c: c['execute'])
def test_blocked(make_pair, command):
    """What would change a protected drive is refused by name."""
    pair = make_pair(DiskPair)
    pair.protected()
    arguments = dict(command)
    text = pair.primary.refused(arguments.pop('execute'), **{
        k: f'{pair.directory}/{v}' if v in ('x.raw', 'snap.qcow2') else v
        for k, v in arguments.items()})
    assert 'drive0' in text or command['execute'] == 'eject'
    assert 'cuju-migrate-cancel' in text
    pair.goes_on()
    takeover(pair)


def test_copy_none(make_pair):
    """Images that are equal already are not copied, only compared."""
    pair = make_pair(DiskPair, storage='replicated', copy='none')
    pair.start_primary()
    pair.wait_disks('filled', lambda d: d.rounds >= 1, pair.primary)
    pair.quiesce(pair.primary)
    shutil.copyfile(pair.image('primary', 0), pair.image('backup', 0))
    pair.start_backup()
    pair.protect()
    pair.go_on(pair.primary)
    pair.wait_writes(pair.primary, 100)
    takeover(pair)


def test_copy_none_but_different(make_pair):
    """Would catch an operator's error that costs the data."""
    pair = make_pair(DiskPair, storage='replicated', copy='none')
    pair.start_primary()
    pair.wait_disks('filled', lambda d: d.rounds >= 1, pair.primary)
    pair.start_backup()
    pair.protect(wait=False)
    assert pair.backup.wait_exit() == 1
    assert 'differ' in pair.backup.text()
    assert 'copy=full' in pair.primary.wait_state('unprotected')
    pair.goes_on()


def test_copy_changed(make_pair):
    """A backup that was away gets what has changed, not all."""
    pair = make_pair(DiskPair, storage='replicated',
                     load='disk-gap=5000 disk-sectors=4096')
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.wait_writes(pair.primary, 20)
    pair.wait_settled(pair.primary)
    # the same host again, with the image as it was left
    pair.primary.qmp('ft-set-parameters', **{'ft-copy': 'changed'})
    pair.uri = pair.address('again')
    pair.backup = pair.launch('again', host='backup', incoming=pair.uri)
    pair.protect()
    drive = pair.drives_of(pair.primary)[0]
    print(f'{drive["copied"]} of {SIZE} bytes copied')
    assert 0 < drive['copied'] < SIZE
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_copy_changed_unknown(make_pair):
    pair = make_pair(DiskPair, storage='replicated', copy='changed')
    pair.start()
    refused(pair, 'drive0', 'copy=full')


def test_primary_went_on_alone(make_pair):
    """Would catch an old state that is replayed over a newer image: where
    there is no arbiter to say that the primary must not go on."""
    pair = make_pair(DiskPair, params={'ft-arbiter': 'none', **UNNOTICED})
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    pair.primary.kill(signal.SIGSTOP)
    pair.backup.qmp('cuju-failover')
    pair.backup.wait_word('lock')
    # as if it had been cut off: it knows nothing of the backup's wish
    with open(pair.image('primary', 0), 'r+b') as image:
        image.seek(SIZE - 512)
        image.write(b'written by a guest that lives on')
    pair.primary.kill()
    assert pair.backup.wait_exit() == 1
    assert 'gone on alone' in pair.backup.text()


def test_storage_away_during_takeover(make_pair):
    """Would catch a backup that takes an image that it cannot look at for
    one that somebody has written to, and gives up."""
    pair = make_pair(DiskPair, params=UNNOTICED)
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    pair.primary.kill(signal.SIGSTOP)
    pair.backup.qmp('cuju-failover')
    pair.backup.wait_word('lock')
    path = pair.image('primary', 0)
    os.rename(path, path + '.away')
    pair.primary.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        pair.backup.process.wait(0.5)           # it looks 20 times a second
    assert not pair.backup.running()
    os.rename(path + '.away', path)
    takeover(pair, dead=False)


def test_locked_by_a_living_primary(make_pair):
    """A primary that only seems dead keeps its image; the backup waits."""
    pair = make_pair(DiskPair, params=UNNOTICED)
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    pair.primary.kill(signal.SIGSTOP)
    pair.backup.qmp('cuju-failover')
    pair.backup.wait_state('takeover')
    pair.backup.wait_word('lock')
    assert not pair.backup.running()
    pair.primary.kill()
    takeover(pair, dead=False)
