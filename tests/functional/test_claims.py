"""Whoever goes on alone asks first: who is asked, and when nobody answers.

SPDX-License-Identifier: GPL-2.0-or-later

See test_cuts.py for two sides that live and do not reach each other.
"""

import os

import pytest

from disks import DiskPair
from harness import make_arbiter


class Away:
    """The arbiter is out of reach, until back()."""

    def __init__(self, pair):
        self.path = pair.arbiter
        os.rename(self.path, self.path + '.away')

    def back(self):
        os.rename(self.path + '.away', self.path)


def test_out_of_reach_is_told(make_pair):
    """Would catch an operator who learns of it when it is too late."""
    pair = make_pair().protected()
    for machine in pair.primary, pair.backup:
        status = machine.query()['arbiter']
        assert status['arbiter'] == f'file:{pair.arbiter}'
        assert status['reachable'] and not status['two-live-sides-possible']
    away = Away(pair)
    for machine in pair.primary, pair.backup:
        event = machine.wait_event('FT_ARBITER', reachable=False)['data']
        assert event['arbiter'] == f'file:{pair.arbiter}'
        assert event['reason']
        status = machine.query()['arbiter']
        assert not status['reachable']
        assert status['age-ms'] > 0 and status['reason']
        assert 'not in reach' in machine.hmp('info ft')
    away.back()
    for machine in pair.primary, pair.backup:
        machine.wait_event('FT_ARBITER', reachable=True)
        assert machine.query()['arbiter']['reachable']
    assert pair.primary.query()['state'] == 'protected'
    pair.cable.wait_more(10, pair.primary)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_primary_waits(make_pair):
    """Would catch output that leaves before anybody has allowed it, and
    output that is lost meanwhile: the guest's frames go on where they
    ended, and a request from before is answered."""
    pair = make_pair(options='rate=1').protected()
    away = Away(pair)
    pair.backup.kill()
    status = pair.claiming(pair.primary)
    assert status['arbiter']['reachable'] is False
    mark = pair.cable.mark()
    pair.cable.send(pair.primary, 2, b'patience')
    pair.cable.stays_quiet(pair.primary, 1.0)
    text = pair.primary.refused('cuju-migrate-cancel')
    assert 'force' in text
    away.back()
    pair.primary.wait_state('unprotected')
    pair.goes_on(frames=50)
    assert any(f.payload == b'patience'
               for f in pair.cable.frames(pair.primary, 2, mark))
    assert pair.claims() == [1]
    pair.cable.check()


def test_backup_waits(make_pair):
    """Would catch a backup that takes over on its own word."""
    pair = make_pair().protected()
    away = Away(pair)
    pair.primary.kill()
    pair.claiming(pair.backup)
    pair.cable.stays_quiet(pair.backup, 0.5)
    assert not pair.backup.running()
    away.back()
    status = pair.taken_over()
    assert status['takeover']['claim'] >= 500
    assert pair.claims() == [1]
    pair.cable.check(takeovers=1)


def test_force_on_primary(make_pair):
    """The operator vouches for the backup's end; what was held comes out,
    and the guest can be protected again."""
    pair = make_pair(options='rate=1').protected()
    away = Away(pair)
    pair.backup.kill()
    pair.claiming(pair.primary)
    assert not pair.primary.hmp('cuju-migrate-cancel -f').strip()
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    away.back()
    assert pair.primary.query()['generation'] == 1
    pair.start_backup('backup2')
    since = pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.backup.kill()
    pair.primary.wait_state('unprotected', since=since)
    # What was being asked when the operator spoke may be answered later.
    assert pair.claims() in ([2], [1, 2])
    pair.goes_on()
    pair.cable.check()


def test_force_on_backup(make_pair):
    pair = make_pair().protected()
    away = Away(pair)
    pair.primary.kill()
    pair.claiming(pair.backup)
    assert 'force' in pair.backup.hmp('cuju-failover')
    assert not pair.backup.hmp('cuju-failover -f').strip()
    pair.taken_over()
    away.back()
    pair.cable.check(takeovers=1)
    # ... and takes the session's proof away when it is protected again.
    pair.primary = pair.backup
    pair.start_backup('backup2')
    pair.protect()


def test_force_beats_a_live_primary(make_pair):
    """With force the arbiter is not asked at all; the primary, which is
    told, gives way."""
    pair = make_pair().protected()
    pair.backup.qmp('cuju-failover', force=True)
    pair.taken_over(reason='operator')
    assert pair.primary.wait_exit() == 3
    pair.cable.check(takeovers=1)


# ------------------------------------------------------------- which one

def refused(pair, *words):
    """The backup turns the primary down, and says why."""
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    for word in words:
        assert word in text, text
    pair.goes_on()
    assert pair.backup.query()['state'] == 'waiting'
    pair.cable.check()


def test_two_directories(make_pair):
    """Would catch two sides that both win, each at an arbiter of its own."""
    pair = make_pair()
    pair.start_primary()
    other, spec = make_arbiter(os.path.join(pair.directory, 'other'))
    pair.params['ft-arbiter'] = spec
    pair.start_backup()
    refused(pair, other, 'not the directory')
    assert not os.listdir(other)
    # It was only that.
    pair.backup.qmp('ft-set-parameters',
                    **{'ft-arbiter': f'file:{pair.arbiter}'})
    pair.protect()


def test_two_kinds(make_pair):
    pair = make_pair()
    pair.start_primary()
    pair.params['ft-arbiter'] = 'none'
    pair.start_backup()
    refused(pair, f'file:{pair.arbiter}', "'none'", 'ft-arbiter')


def test_backup_takes_the_primary_s(make_pair):
    """A backup that was not told uses what the primary uses."""
    pair = make_pair()
    pair.start_primary()
    pair.start_backup(params=False)
    pair.protect()
    assert pair.backup.query()['arbiter']['arbiter'] == f'file:{pair.arbiter}'
    pair.cable.wait_more(10, pair.primary)
    pair.primary.kill()
    pair.taken_over()
    assert pair.claims() == [1]
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('kind, storage', [
    (None, None), ('virtio', 'replicated')])
def test_there_is_none(make_pair, kind, storage):
    """Would catch a pair that is protected and has nobody to ask."""
    pair = make_pair(DiskPair, kinds=[kind] if kind else [],
                     storage=storage or 'shared',
                     mode='count,disk' if kind else 'count',
                     params={'ft-arbiter': ''})
    pair.start()
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=pair.uri)
    for word in 'ft-arbiter', 'file:DIR', 'etcd:URL', 'none':
        assert word in text, text
    pair.goes_on()
    assert pair.primary.query()['role'] == 'none'


def test_directory_of_shared_image(make_pair):
    """Where two hosts share an image they share its directory."""
    pair = make_pair(DiskPair, params={'ft-arbiter': ''})
    pair.arbiter = pair.directory
    pair.check_arbiter = lambda: None       # images and sockets are there
    pair.protected()
    for machine in pair.primary, pair.backup:
        assert machine.query()['arbiter']['arbiter'] == \
            f'file:{os.path.realpath(pair.directory)}'
    pair.primary.kill()
    pair.taken_over()
    assert pair.claims() == [1]
    pair.disk_check()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_claim_is_there_already(make_pair, side):
    """A claim is believed, whoever has made it: nobody goes on by himself
    who cannot know that nobody else does."""
    pair = make_pair().protected()
    uuid = pair.primary.query()['session']
    claim = os.path.join(pair.arbiter, f'cuju-{uuid}.claim-1')
    with open(claim, 'x', encoding='ascii') as file:
        file.write('another host pid 1 00112233445566778899aabbccddeeff\n')
    loser, dead = ((pair.primary, pair.backup) if side == 'primary' else
                   (pair.backup, pair.primary))
    dead.kill()
    mark = pair.cable.mark()
    assert loser.wait_exit() == 3
    if side == 'backup':
        assert not pair.cable.frames(loser, since=mark)
    assert 'arbiter' in loser.text()


@pytest.mark.parametrize('spec', [
    'file:', 'file:relative/path', 'nfs:/srv', 'etcd:', 'etcd:host:2379',
    'etcd:ftp://host:2379', 'etcd:http://host:99999', 'none:x', 'file'])
def test_bad_arbiter(make_pair, spec):
    pair = make_pair(nic=None)
    primary = pair.start_primary()
    before = primary.qmp('query-ft-parameters')
    assert 'ft-arbiter' in primary.refused('ft-set-parameters',
                                           **{'ft-arbiter': spec})
    assert primary.qmp('query-ft-parameters') == before


def test_directory_is_missing(make_pair):
    """Would catch a session that begins although no claim is possible."""
    pair = make_pair()
    pair.params['ft-arbiter'] = f'file:{pair.directory}/nowhere'
    pair.start()
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    assert 'nowhere' in text
    pair.goes_on()
    pair.cable.check()
