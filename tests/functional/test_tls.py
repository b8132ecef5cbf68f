"""Whole pairs over TLS: both sides must show who they are.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os

import pytest

from disks import DiskPair
from etcd import make_certificates
from harness import Broken, Pair
from test_heart import UNREAD_PARAMS, killed_unread

PSK = '5f3d0b8c2a7e4916'


@pytest.fixture(scope='module')
def keys(tmp_path_factory):
    """Certificates of two authorities, and shared keys: name -> place."""
    top = tmp_path_factory.mktemp('keys')
    places = {name: str(top / name) for name in
              ('good', 'evil', 'elsewhere', 'psk', 'other-psk')}
    make_certificates(places['good'])
    make_certificates(places['evil'])
    make_certificates(places['elsewhere'], '127.0.0.9')
    for name, key in ('psk', PSK * 4), ('other-psk', PSK[::-1] * 4):
        os.mkdir(places[name])
        with open(os.path.join(places[name], 'keys.psk'), 'w',
                  encoding='ascii') as file:
            file.write(f'pair:{key}\n')
    return places


def creds(place, end, kind='x509', name='tls0', more=''):
    """An object with credentials for one end of the connections."""
    if kind == 'psk' and end == 'client':
        more += ',username=pair'
    return ['-object', f'tls-creds-{kind},id={name},dir={place},'
            f'endpoint={end}{more}']


USED = ['-global', 'migration.tls-creds=tls0']


def tls_pair(make_pair, keys, backup='good', primary='good', kind='x509',
             make=Pair, **kwargs):
    """A pair that is started; None: a side without TLS."""
    kwargs.setdefault('transport', 'tcp')
    pair = make_pair(make, **kwargs)
    pair.extra = creds(keys[primary], 'client', kind) + USED \
        if primary else []
    pair.start_primary()
    pair.extra = creds(keys[backup], 'server', kind) + USED \
        if backup else []
    pair.start_backup()
    return pair


def refused(pair, *words):
    """The two do not come together; both go on as they were."""
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    for word in words:
        assert word in text, text
    pair.goes_on()
    assert pair.backup.query()['state'] == 'waiting'
    pair.cable.check()


def fails_over(pair):
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_x509(make_pair, keys):
    """Failover with certificates, and protected again: the one that was a
    server is a client then, with credentials for that."""
    pair = tls_pair(make_pair, keys, primary='good')
    assert 'neither encrypted' not in pair.backup.text()
    fails_over(pair)
    pair.primary = pair.backup
    pair.primary.qmp('object-add', **{
        'qom-type': 'tls-creds-x509', 'id': 'tls1', 'dir': keys['good'],
        'endpoint': 'client'})
    pair.primary.qmp('migrate-set-parameters', **{'tls-creds': 'tls1'})
    pair.start_backup('backup2')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('transport', ['tcp', 'unix'])
def test_psk(make_pair, keys, transport):
    pair = tls_pair(make_pair, keys, 'psk', 'psk', 'psk',
                    transport=transport)
    fails_over(pair)


def test_disk(make_pair, keys):
    """The first copy of an image, and what is written after it."""
    pair = tls_pair(make_pair, keys, make=DiskPair, storage='replicated',
                    kinds=['virtio', 'scsi'])
    pair.protect()
    pair.wait_writes(pair.primary, 100)
    pair.primary.kill()
    pair.taken_over()
    pair.disk_check()
    pair.wait_settled(pair.backup)
    pair.cable.check(takeovers=1)
    pair.quiesce()
    pair.check_images()


def test_hung_primary(make_pair, keys):
    """Silence, and the word of the claim, come through TLS as well."""
    pair = tls_pair(make_pair, keys)
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.primary.hang()
    pair.taken_over(reason='lost')
    pair.wakes_fenced()
    pair.cable.check(takeovers=1)


def test_primary_killed_unread(make_pair, keys):
    """TLS leaves nothing of its own unread that would look like a reset."""
    pair = tls_pair(make_pair, keys, params=UNREAD_PARAMS)
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    killed_unread(pair)


def test_end_in_order(make_pair, keys):
    """... and so do ends that are no loss."""
    pair = tls_pair(make_pair, keys)
    since = pair.protect()
    pair.backup.quit()
    assert 'order' in pair.primary.wait_state('unprotected', since=since)
    pair.start_backup('backup2')
    pair.protect()
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.goes_on()
    assert pair.claims() == []
    pair.cable.check()


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_wrong_authority(make_pair, keys, side):
    """Would catch a side that lets anybody be the other one."""
    pair = tls_pair(make_pair, keys, **{side: 'evil'})
    refused(pair, 'TLS')


def test_wrong_key(make_pair, keys):
    pair = tls_pair(make_pair, keys, 'psk', 'other-psk', 'psk')
    refused(pair, 'TLS')


def test_wrong_host(make_pair, keys):
    """The backup's certificate is for another host: a stolen one, or a
    wrong address. By name it can be allowed."""
    pair = tls_pair(make_pair, keys, backup='elsewhere')
    pair.primary.qmp('object-add', **{
        'qom-type': 'tls-creds-x509', 'id': 'tls1', 'endpoint': 'client',
        'dir': keys['elsewhere']})
    pair.primary.qmp('migrate-set-parameters', **{'tls-creds': 'tls1'})
    refused(pair, 'TLS')
    pair.primary.qmp('migrate-set-parameters',
                     **{'tls-hostname': '127.0.0.9'})
    fails_over(pair)


@pytest.mark.parametrize('plain', ['primary', 'backup'])
def test_one_side_without(make_pair, keys, plain):
    """Would catch a side that goes without encryption when it is told so by
    the other; each says what is wrong."""
    pair = tls_pair(make_pair, keys, **{plain: None})
    refused(pair, 'TLS')


def test_deferred(make_pair, keys):
    """A backup that is told all by its monitor."""
    pair = tls_pair(make_pair, keys)
    pair.backup.quit()
    pair.backup.wait_exit()
    pair.extra = creds(keys['good'], 'server') + ['-incoming', 'defer']
    pair.backup = pair.launch('deferred')
    pair.backup.qmp('migrate-set-parameters', **{'tls-creds': 'tls0'})
    pair.uri = pair.address('deferred')
    pair.backup.qmp('migrate-incoming', uri=pair.uri + ',ft_mode')
    fails_over(pair)


def test_who_may_be_primary(make_pair, keys):
    """tls-authz: a list of those who may."""
    pair = tls_pair(make_pair, keys)
    pair.backup.quit()
    pair.backup.wait_exit()
    pair.extra = creds(keys['good'], 'server') + USED + [
        '-object', 'authz-list,id=auth0,policy=deny',
        '-global', 'migration.tls-authz=auth0']
    pair.start_backup('strict')
    refused(pair, 'TLS')
    pair.backup.qmp('qom-set', path='/objects/auth0', property='policy',
                    value='allow')
    fails_over(pair)


@pytest.mark.parametrize('side', ['primary', 'backup'])
@pytest.mark.parametrize('how', ['verify-peer', 'anon', 'endpoint', 'none'])
def test_weak_credentials(make_pair, keys, side, how):
    """Would catch TLS that proves nothing."""
    end = 'client' if side == 'primary' else 'server'
    weak = {
        'verify-peer': creds(keys['good'], end, more=',verify-peer=off'),
        'anon': ['-object', f'tls-creds-anon,id=tls0,endpoint={end}'],
        'endpoint': creds(keys['good'],
                          'server' if end == 'client' else 'client'),
        'none': [],
    }[how]
    words = {'verify-peer': 'verify-peer=on', 'anon': 'anonymous',
             'endpoint': f'endpoint={end}', 'none': 'no object'}[how]
    pair = make_pair(transport='tcp')
    pair.extra = weak + USED
    if side == 'backup':
        with pytest.raises(Broken, match=words):
            pair.start_backup()
        return
    pair.start_primary()
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=pair.address('nobody'))
    assert 'tls-creds' in text and words in text
    pair.goes_on()
    pair.cable.check()
