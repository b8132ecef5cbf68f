"""At most one side goes on, whatever is cut and whoever is out of reach.

SPDX-License-Identifier: GPL-2.0-or-later

Both hosts live on while their cable is cut; what each lets out is captured on
its tap. The one that the arbiter has let goes on, the other one ends with 3.
"""

import pytest

from harness import wait_until
from lab import LabEtcd, LabPair

CUTS = {'both': None, 'primary-to-backup': 'pri', 'backup-to-primary': 'bak'}


def only_one(pair):
    """... and it is the whole guest, also when the cable is mended."""
    winner, loser = pair.one_goes_on()
    pair.goes_on(winner)
    pair.mend()
    pair.goes_on(winner, frames=100)
    assert winner.query()['generation'] == 1
    pair.cable.check(takeovers=int(winner is pair.backup))
    return winner, loser


@pytest.mark.parametrize('cut, storage', [
    ('both', 'replicated'), ('both', None), ('primary-to-backup', None),
    ('backup-to-primary', None)])
def test_cut(make_pair, cut, storage):
    """Would catch two live guests: each side sees the other one fall silent,
    or is not heard any more, in the same moment."""
    pair = make_pair(LabPair, kinds=['virtio'] if storage else (),
                     **({'storage': storage} if storage else {}))
    pair.protected()
    pair.cut(CUTS[cut])
    winner, loser = only_one(pair)
    assert pair.claims() == [1]
    assert 'exits' in loser.text() or loser.process.returncode == 0
    if storage:
        pair.disk_check(winner)
        return
    # The survivor is protected again, by a new one on the other host.
    if winner is pair.backup:
        pair.primary = winner
    pair.start_backup('again')
    pair.protect()
    pair.cable.wait_more(20, winner)


@pytest.fixture
def etcd_pair(make_pair, request):
    """A pair whose arbiter is an etcd: (pair, etcd)."""
    how = getattr(request, 'param', 'plain')
    pair = make_pair(LabPair)
    with LabEtcd(pair, tls=how == 'tls', **(
            {'user': 'pair', 'password': 'not told'} if how == 'password'
            else {})) as etcd:
        pair.params['ft-arbiter'] = f'etcd:{etcd.url}'
        if how == 'tls':
            pair.extra = ['-object', 'tls-creds-x509,id=etcd0,endpoint='
                          f'client,dir={etcd.tls_dir}']
            pair.params['ft-arbiter-tls-creds'] = 'etcd0'
        elif how == 'password':
            pair.extra = ['-object', 'secret,id=etcd0,data=not told']
            pair.params['ft-arbiter-user'] = 'pair'
            pair.params['ft-arbiter-secret'] = 'etcd0'
        yield pair.protected(), etcd
        pair.close()


@pytest.mark.parametrize('etcd_pair', ['plain', 'tls', 'password'],
                         indirect=True)
def test_cut_with_etcd(etcd_pair):
    """The same, and what is in etcd is what it should be."""
    pair, etcd = etcd_pair
    uuid = pair.primary.query()['session']
    for machine in pair.primary, pair.backup:
        arbiter = machine.query()['arbiter']
        assert arbiter['arbiter'] == f'etcd:{etcd.url}'
        assert arbiter['reachable']
        assert not arbiter['two-live-sides-possible']
    assert etcd.keys() == [f'/cuju/{uuid}/session']
    pair.cut()
    only_one(pair)
    wait_until('the session is over in etcd, too', lambda:
               etcd.keys() == [f'/cuju/{uuid}/claim-1'])


def test_primary_is_cut_off(etcd_pair):
    """The primary's host loses all its cables: it must wait, and when they
    are back it has lost."""
    pair, _ = etcd_pair
    pair.uplink('pri', False)
    pair.cut()
    pair.taken_over()
    pair.claiming(pair.primary)
    pair.cable.stays_quiet(pair.primary)
    pair.mend()
    assert pair.primary.wait_exit() == 3
    pair.goes_on(pair.backup)
    pair.cable.check(takeovers=1)


def test_etcd_hangs(etcd_pair):
    """Would catch a session that waits for etcd with QEMU's big lock, and a
    primary that does not wait for it at all."""
    pair, etcd = etcd_pair
    etcd.freeze()
    event = pair.primary.wait_event('FT_ARBITER', reachable=False)
    assert event['data']['reason']
    pair.backup.kill()
    pair.primary.wait_state('claiming')
    pair.cable.stays_quiet(pair.primary)
    assert pair.primary.query()['state'] == 'claiming'
    etcd.thaw()
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    pair.cable.check()


def test_none(make_pair):
    """What "none" means: both go on. Whoever asks for it is told so."""
    pair = make_pair(LabPair)
    pair.start()
    pair.backup.qmp('ft-set-parameters', **{'ft-arbiter': ''})
    answer = pair.primary.hmp('migrate_set_capability cuju-ft on') + \
        pair.primary.hmp(f'migrate -d -c {pair.uri},arbiter=none')
    assert not answer.strip()
    pair.primary.wait_state('protected')
    pair.backup.wait_state('standby')
    for machine in pair.primary, pair.backup:
        arbiter = machine.query()['arbiter']
        assert arbiter == {'arbiter': 'none', 'two-live-sides-possible': True}
    assert 'two live sides are possible' in pair.primary.hmp('info ft')
    pair.cable.wait_more(10, pair.primary)
    pair.cut()
    for machine in pair.primary, pair.backup:
        machine.wait_state('unprotected')
        pair.goes_on(machine)
    assert pair.claims() == []


def test_loser_lives_on_without_none(make_pair):
    """Would catch a claim that is not asked for after an orderly failover:
    the primary that gives way does it before it exits."""
    pair = make_pair(LabPair).protected()
    pair.backup.qmp('cuju-failover')
    pair.taken_over(reason='operator')
    assert pair.primary.wait_exit() == 3
    assert pair.claims() == [1]
    pair.cable.check(takeovers=1)
