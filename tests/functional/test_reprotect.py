"""Protected again: by hand and by itself, and how that is told.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import signal

import pytest

from disks import DiskPair
from harness import PATIENCE, free_port, wait_until
from test_garbage import Eavesdropper

FAILOVERS = 3


def no_reprotect(machine):
    return 'reprotect' not in machine.query()


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_by_hand(make_pair, side):
    """A second session in the same process: of one that has taken over, and
    of one that has lost its backup. The guest's line of sessions stays the
    same, and the generation tells how often somebody went on alone."""
    pair = make_pair().protected()
    line = pair.primary.query()
    assert line['generation'] == 0
    for n in range(1, 3):
        getattr(pair, side).kill()
        if side == 'primary':
            pair.taken_over()
            pair.primary = pair.backup
        else:
            pair.primary.wait_state('unprotected')
            pair.primary.states.clear()
        status = pair.primary.query()
        assert status['protection'].startswith('Not protected: ')
        assert (status['session'], status['generation']) == \
            (line['session'], n)
        assert pair.claims() == list(range(1, n + 1))
        pair.start_backup(f'backup{n}')
        pair.protect()
        for machine in pair.primary, pair.backup:
            status = machine.query()
            assert (status['session'], status['generation']) == \
                (line['session'], n)
        pair.cable.wait_more(10, pair.primary)
        pair.wait_hash()
        pair.backup.states.clear()
    pair.cable.check(takeovers=2 if side == 'primary' else 0)


def test_protection_in_words(make_pair):
    """What people look at first, on each side and in each state."""
    pair = make_pair(pages=8192, memory='96M', mode='count,fill')
    pair.start()
    assert pair.primary.query()['protection'] == \
        'Not protected: never protected'
    assert pair.backup.query()['protection'] == \
        'Backup: waiting for a primary'
    since = pair.protect(wait=False)
    pair.primary.wait_state('sync', since=since)
    said = pair.primary.query()
    if said['state'] == 'sync':
        assert said['protection'] == f'Syncing {said["sync-percent"]} %'
    pair.primary.wait_state('protected', since=since)
    pair.backup.wait_state('standby')
    assert pair.primary.query()['protection'] == 'Protected'
    assert 'protection: Protected' in pair.primary.hmp('info ft')
    assert pair.backup.query()['protection'] == 'Backup: can take over'
    pair.primary.kill()
    pair.taken_over()
    assert pair.backup.query()['protection'] == \
        f'Not protected: {pair.backup.query()["reason"]}'


@pytest.mark.parametrize('storage', [None, 'replicated'])
def test_again_and_again(make_pair, storage):
    """Failover after failover, back and forth, and only processes are
    started by hand: the survivor finds the new backup by itself. To the
    outside it is one guest all the time."""
    kwargs = {'kinds': ['virtio'], 'storage': storage} if storage else {
        'kinds': [], 'mode': 'count,touch'}
    pair = make_pair(DiskPair, **kwargs)
    homes = [f'unix:{pair.directory}/home{n}.ft' for n in range(2)]
    # Each side would have the other one's host.
    pair.params['ft-reprotect'] = [homes[1]]
    pair.start_primary()
    pair.uri = homes[1]
    pair.params['ft-reprotect'] = [homes[0]]
    pair.backup = pair.launch('backup', incoming=homes[1])
    pair.protect()
    count = FAILOVERS if not storage else 2
    for n in range(count):
        pair.cable.wait_more(20, pair.primary)
        if storage:
            pair.wait_writes(pair.primary, 20)
        pair.primary.kill()
        status = pair.taken_over()
        assert status['generation'] == n + 1
        pair.primary = pair.backup
        # The host that died comes back, with an image that is old.
        pair.params['ft-reprotect'] = [homes[1 - n % 2]]
        pair.backup = pair.launch(f'again{n}', incoming=homes[n % 2], **(
            {'host': ('primary', 'backup')[n % 2]} if storage else {}))
        pair.primary.wait_state('protected')
        pair.backup.wait_state('standby')
        wait_until('the end of trying', lambda: no_reprotect(pair.primary))
    pair.wait_hash()
    pair.cable.echo(pair.primary, b'still the same?')
    pair.cable.check(takeovers=count)
    if storage:
        pair.disk_check(pair.primary)


def test_dead_addresses(make_pair):
    """Would catch a survivor that tries one address for ever, or all of them
    without a rest. They are tried in turn; it is told what it waits for."""
    pair = make_pair()
    dead = [f'unix:{pair.directory}/nobody.ft', pair.address('late')]
    pair.params['ft-reprotect'] = dead
    pair.protected()
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    first = wait_until('a round in vain', lambda: next((
        r for r in [pair.primary.query().get('reprotect')]
        if r and r['tries'] >= 2 and r['next-ms']), None))
    assert first['uri'] == dead[0]
    assert 0 < first['next-ms'] <= 1000
    assert 'No such file' in first['error']
    assert 'protecting again: by' in pair.primary.hmp('info ft')
    # The second rest is longer.
    second = wait_until('another one', lambda: next((
        r for r in [pair.primary.query().get('reprotect')]
        if r and r['tries'] >= 4 and r['next-ms']), None))
    assert 1000 < second['next-ms'] <= 2000
    pair.goes_on()
    pair.backup = pair.launch('late', incoming=dead[1])
    pair.primary.states.clear()
    pair.primary.wait_state('protected')
    pair.backup.wait_state('standby')
    assert no_reprotect(pair.primary)
    pair.cable.wait_more(10, pair.primary)
    pair.wait_hash()
    pair.cable.check()


def test_lost_again_at_once(make_pair):
    """The new backup dies during the first copy: it is no protection that
    was lost, and the next address is tried."""
    pair = make_pair(pages=8192, memory='96M', mode='count,fill')
    homes = [f'tcp:127.0.0.1:{free_port()}', f'unix:{pair.directory}/good']
    pair.start()
    pair.protect()
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.primary.states.clear()
    bad = pair.launch('bad', incoming=homes[0])
    pair.backup = pair.launch('good', incoming=homes[1])
    ear = Eavesdropper(homes[0], limit=1 << 20)
    try:
        pair.primary.qmp('ft-set-parameters', **{
            'ft-reprotect': [ear.uri, homes[1]]})
        bad.wait_state('sync')
        assert ear.stuck.wait(20 * PATIENCE)
        bad.kill()
        pair.primary.wait_state('inactive')
    finally:
        ear.close()
    pair.primary.wait_state('protected')
    pair.backup.wait_state('standby')
    assert pair.claims() == [1]
    pair.cable.wait_more(10, pair.primary)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('how', ['cuju-migrate-cancel', 'ft-reprotect=[]'])
def test_stopped(make_pair, how):
    """Would catch a guest that is protected again against its operator's
    will."""
    pair = make_pair()
    late = pair.address('late')
    pair.params['ft-reprotect'] = [late]
    pair.protected()
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    wait_until('a try', lambda: pair.primary.query().get(
        'reprotect', {}).get('tries'))
    if how.startswith('ft-'):
        pair.primary.qmp('ft-set-parameters', **{'ft-reprotect': []})
    else:
        pair.primary.qmp(how)
    # A try that is under way may come to its end.
    wait_until('the end of trying', lambda: no_reprotect(pair.primary))
    pair.primary._pull(0.1)
    pair.primary.states.clear()
    pair.backup = pair.launch('late', incoming=late)
    with pair.cable.cond:       # longer than the next try was away
        pair.cable.cond.wait_for(lambda: False, 1.5)
    assert pair.backup.query()['state'] == 'waiting'
    pair.primary._pull(0.1)
    assert not pair.primary.states
    pair.goes_on()


def test_not_after_an_orderly_end(make_pair):
    """Who ends protection does not want it back; by hand it can be had."""
    pair = make_pair()
    late = pair.address('late')
    pair.params['ft-reprotect'] = [late]
    pair.protected()
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    assert no_reprotect(pair.primary)
    pair.backup = pair.launch('late', incoming=late)
    with pair.cable.cond:
        pair.cable.cond.wait_for(lambda: False, 1.0)
    assert pair.backup.query()['state'] == 'waiting'
    pair.protect(uri=late)
    pair.goes_on()
    pair.cable.check()


def test_by_another_one_by_hand(make_pair):
    """`migrate` by hand while it is tried: that one counts."""
    pair = make_pair()
    pair.params['ft-reprotect'] = [f'unix:{pair.directory}/nobody.ft']
    pair.protected()
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    wait_until('a try in vain', lambda: pair.primary.query().get(
        'reprotect', {}).get('error'))
    pair.primary._pull(0.1)
    pair.primary.states.clear()
    pair.start_backup('backup2')
    pair.protect()
    assert no_reprotect(pair.primary)
    pair.cable.wait_more(10, pair.primary)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('uri', ['exec:cat', 'tcp:nonsense', 'unix:',
                                 'tcp:h:1,replicate', 'tcp:h:1,arbiter=nfs:x'])
def test_bad_address(make_pair, uri):
    """Would catch an address that can never be, found out when it is
    needed."""
    pair = make_pair(nic=None)
    primary = pair.start_primary()
    before = primary.qmp('query-ft-parameters')
    assert 'ft-reprotect' in primary.refused(
        'ft-set-parameters', **{'ft-reprotect': ['unix:/x', uri]})
    assert primary.qmp('query-ft-parameters') == before


def test_guest_ends_meanwhile(make_pair):
    """Trying does not keep the process from ending."""
    pair = make_pair()
    pair.params['ft-reprotect'] = [f'unix:{pair.directory}/nobody.ft']
    pair.protected()
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    wait_until('a try', lambda: pair.primary.query().get(
        'reprotect', {}).get('tries'))
    pair.primary.kill(signal.SIGTERM)
    assert pair.primary.wait_exit() == 0
    pair.check_arbiter = lambda: None   # a try may have been under way
