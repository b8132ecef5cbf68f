"""The commands as people type them, and what they tell.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import harness


def test_hmp(make_pair):
    """Would catch a change of what scripts of users rely on."""
    pair = make_pair(transport='tcp').start()
    primary, backup = pair.primary, pair.backup
    assert not primary.hmp('migrate_set_capability cuju-ft on').strip()
    answer = primary.hmp(f'migrate -c {pair.uri}')
    assert 'Error' not in answer
    primary.wait_state('protected')
    backup.wait_state('standby')
    assert 'protected' in primary.hmp('info ft')
    assert 'standby' in backup.hmp('info ft')
    assert primary.hmp('info migrate')
    assert primary.hmp('cuju-get-ft-started').strip()
    assert primary.hmp('cuju-get-ft-mode').strip()
    assert not primary.hmp('cuju-adjust-epoch 20000').strip()
    assert primary.query()['epoch-us'] == 20000
    assert primary.hmp('cuju-adjust-epoch 1').strip()
    pair.cable.wait_more(10, primary)
    assert not backup.hmp('cuju-failover').strip()
    pair.taken_over()
    assert primary.wait_exit() == 3
    pair.cable.check(takeovers=1)


def test_hmp_cancel(make_pair):
    """... and of the way to end protection."""
    pair = make_pair().protected(hashed=False)
    assert not pair.primary.hmp('cuju-migrate-cancel').strip()
    assert pair.backup.wait_exit() == 0
    pair.goes_on()
    assert pair.primary.hmp('cuju-migrate-cancel').strip()
    pair.cable.check()


def test_states(make_pair):
    """Would catch events that are missing, twice, or out of order."""
    pair = make_pair().protected()
    pair.primary._pull(0.001)
    assert [s for s, _ in pair.primary.states] == [
        'setup', 'sync', 'protected']
    pair.primary.kill()
    pair.taken_over()
    states = [s for s, _ in pair.backup.states]
    assert states[-5:] == ['sync', 'standby', 'claiming', 'takeover',
                           'unprotected']
    assert states[:-5] in ([], ['waiting'])
    assert all(reason for _, reason in pair.backup.states)


def test_status(make_pair):
    """Would catch statistics that stand still or make no sense."""
    pair = make_pair(params={'ft-epoch-us': 5000}).protected()
    one = pair.primary.query()
    pair.cable.wait_more(50, pair.primary)
    two = pair.primary.query()
    assert one['role'] == 'primary' and one['state'] == 'protected'
    assert one['session'] == pair.backup.query()['session']
    assert two['epoch'] > one['epoch']
    assert 0 <= two['epoch'] - two['committed'] == two['in-flight'] <= 2
    assert two['released-packets'] >= one['released-packets'] + 40
    assert two['wire-bytes'] > one['wire-bytes']
    assert two['pause']['total']['count'] > one['pause']['total']['count']
    for part in two['pause'].values():
        assert part['p50'] <= part['max'] * 17 // 16 + 1
    assert two['commit']['count'] > 0 and two['commit']['mean'] > 0
    assert two['dirty-mean'] > 0
    assert two['device-bytes'] > 1000
    assert two['sync-percent'] == 100
    assert two['epochs-per-second'] > 1
    assert pair.backup.query()['committed'] > one['committed']
    pair.primary.qmp('cuju-adjust-epoch', epoch=100000)
    assert pair.primary.query()['epoch-us'] == 100000
    pair.cable.wait_more(20, pair.primary)
    pair.cable.check()


def test_idle_guest(make_pair):
    """Would catch an epoch that is never taken when nothing happens, and a
    guest that makes no output and dirties nothing."""
    pair = make_pair(mode='idle').start()
    pair.protect()
    start = pair.primary.query()['committed']
    harness.wait_until('30 epochs', lambda:
                       pair.primary.query()['committed'] > start + 30)
    pair.primary.kill()
    pair.backup.wait_state('unprotected')
    pair.cable.echo(pair.backup, b'awake?')
