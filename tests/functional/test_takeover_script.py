"""What a site does at a takeover, and what a takeover tells of itself.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os

import pytest

import ftguest
from disks import DiskPair
from harness import wait_until

PHASES = ('claim', 'script', 'disks', 'devices', 'run')
# Says what it was called with; fails as often as a file says.
SCRIPT = r'''#!/bin/sh
set -eu
cd "$(dirname "$0")"
{
    printf '%s\n' "$#" "$@" "$CUJU_UUID" "$CUJU_GENERATION" "$CUJU_REASON"
    # What it has open, and whether its input is empty.
    ls /proc/self/fd | wc -l
    wc -c
} >> said
n=$(cat fail 2>/dev/null || echo 0)
[ "$n" -eq 0 ] || {
    echo $((n - 1)) > fail
    echo "not today" >&2
    exit 7
}
[ ! -p gate ] || read -r _ < gate
'''


@pytest.fixture
def script(tmp_path):
    """The script, in a place of its own."""
    place = tmp_path / 'script'
    place.mkdir()
    path = place / "take over's $HOME.sh"       # no shell shall see that
    path.write_text(SCRIPT, encoding='ascii')
    path.chmod(0o755)
    return path


def with_script(make_pair, script, kind=None, **kwargs):
    pair = make_pair(**({'kind': kind} if kind else {}), **kwargs)
    pair.params['ft-takeover-script'] = str(script)
    return pair.protected()


def said(script):
    """What it was told, for each run."""
    lines = (script.parent / 'said').read_text().splitlines()
    return [lines[i:i + 9] for i in range(0, len(lines), 9)]


def check_times(takeover):
    """The phases must be all of it."""
    assert all(takeover[name] >= 0 for name in (*PHASES, 'detect', 'total'))
    spent = sum(takeover[name] for name in PHASES)
    assert abs(takeover['total'] - spent) <= 1 + takeover['total'] / 100
    # It stood still at least from the decision on.
    assert takeover['clock-advance'] >= spent - takeover['run'] - 1


def test_told(make_pair, script):
    """What it gets, and that the takeover is told by event and status
    alike."""
    pair = with_script(make_pair, script)
    line = pair.primary.query()['session']
    epoch = pair.backup.query()['committed']
    pair.primary.kill()
    status = pair.taken_over()
    event = pair.backup.wait_event('FT_TAKEOVER')['data']['takeover']
    assert event == status['takeover']
    assert event['generation'] == status['generation'] == 1
    assert event['epoch'] >= epoch
    assert event['reason'] == status['reason']
    assert event['script'] > 0
    assert abs(status['takeover-us'] - event['total'] * 1000) <= 1
    check_times(event)
    run, = said(script)
    assert run[:4] == ['3', line, '1', event['reason']]
    assert run[4:7] == [line, '1', event['reason']]
    assert int(run[7]) <= 4 and run[8] == '0'   # 0, 1, 2 and ls's own
    text = pair.backup.hmp('info ft')
    assert f'takeover: {event["total"]:.1f} ms, of epoch {event["epoch"]}' \
        in text
    assert 'detect' in text
    pair.cable.check(takeovers=1)


def test_without(make_pair):
    """No script, no time for it; and the next takeover has its own times."""
    pair = make_pair().protected()
    for generation in 1, 2:
        pair.primary.kill()
        takeover = pair.taken_over()['takeover']
        assert takeover['generation'] == generation
        assert takeover['script'] < 5
        check_times(takeover)
        pair.primary = pair.backup
        if generation == 1:
            pair.start_backup('backup2')
            pair.protect()
            pair.cable.wait_more(10, pair.primary)
    pair.cable.check(takeovers=2)


def test_fails_at_first(make_pair, script):
    """The guest does not run before the script has ended well: two failures
    are two seconds; it is told what is waited for."""
    (script.parent / 'fail').write_text('2')
    pair = with_script(make_pair, script)
    pair.primary.kill()
    pair.backup.wait_word('ft-takeover-script', 'status 7')
    assert not pair.backup.running()
    assert 'taking over' in pair.backup.query()['protection']
    takeover = pair.taken_over()['takeover']
    assert takeover['script'] >= 2000
    check_times(takeover)
    assert len(said(script)) == 3
    assert 'not today' in pair.backup.text()
    pair.cable.check(takeovers=1)


def test_vanished(make_pair, script):
    """... also when it cannot even be started."""
    pair = with_script(make_pair, script)
    away = script.with_suffix('.away')
    script.rename(away)
    pair.primary.kill()
    pair.backup.wait_word('cannot be started')
    away.rename(script)
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_takes_its_time(make_pair, script):
    """Would catch a monitor that stands still while the script runs, and a
    disk or a NIC that is touched before it has ended."""
    os.mkfifo(script.parent / 'gate')
    pair = with_script(make_pair, script, kind=DiskPair)
    pair.wait_writes(pair.primary, 50)
    pair.primary.kill()
    pair.backup.wait_state('takeover')
    wait_until('the script', lambda: (script.parent / 'said').exists())
    with open(pair.image('primary', 0), 'rb') as file:
        was = file.read()
    pair.cable.stays_quiet(pair.backup, 0.5)
    assert pair.backup.query()['state'] == 'takeover'
    assert 'take over' in pair.backup.refused('cuju-failover')
    with open(pair.image('primary', 0), 'rb') as file:
        assert file.read() == was
    (script.parent / 'gate').write_text('go\n')
    takeover = pair.taken_over()['takeover']
    assert takeover['script'] >= 500 > takeover['disks']
    pair.disk_check()
    pair.cable.check(takeovers=1)


def test_operator_and_force(make_pair, script):
    """It runs for a takeover that was asked for, too, and is told so."""
    pair = with_script(make_pair, script)
    pair.backup.qmp('cuju-failover')
    pair.taken_over(reason='operator')
    run, = said(script)
    assert 'operator' in run[3]
    assert pair.primary.wait_exit() == 3
    pair.cable.check(takeovers=1)


def test_not_for_other_ends(make_pair, script):
    """It must not fence anybody when nobody is taken over from."""
    pair = make_pair(params={'ft-takeover-script': str(script)})
    pair.protected()
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.start_backup('backup2')
    pair.protect()
    since = len(pair.primary.states)
    pair.backup.kill()
    pair.primary.wait_state('unprotected', since=since)
    pair.goes_on()
    assert not (script.parent / 'said').exists()
    pair.cable.check()


def test_quit_while_it_runs(make_pair, script):
    """The operator ends the backup: the script, too."""
    # Nobody lives to take the session's proof away.
    os.mkfifo(script.parent / 'gate')
    pair = with_script(make_pair, script)
    pair.primary.kill()
    wait_until('the script', lambda: (script.parent / 'said').exists())
    pair.backup.quit()
    assert pair.backup.wait_exit() == 0

    def gone():
        """Nobody reads the gate any more."""
        try:
            os.close(os.open(script.parent / 'gate',
                             os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return True
        return False
    wait_until('the end of the script', gone)
    pair.check_arbiter = lambda: None


def test_announced(make_pair):
    """The new host says where the guest is now, again and again, as
    announce-self does: RARP for the guest's MAC."""
    rarp = b'\x80\x35'
    pair = make_pair(params={}).start()
    raw = []
    take = pair.cable._take

    def keep(sender, data):
        raw.append((sender, data))
        take(sender, data)

    pair.cable._take = keep
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    mac = pair.cable.frames()[0].mac
    assert not any(data[12:14] == rarp for _, data in raw)
    pair.primary.kill()
    pair.taken_over()
    wait_until('announcements', lambda: sum(
        sender == pair.backup.net and data[12:14] == rarp and
        data[6:12] == mac and data[:6] == ftguest.BROADCAST
        for sender, data in list(raw)) >= 4)
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('wrong, words', [
    ('relative.sh', 'absolute'), ('/nowhere/at/all', 'No such file'),
    ('/etc', 'not a file'), ('plain', 'executed')])
def test_refused(make_pair, tmp_path, wrong, words):
    """Would catch a script that fails when it is needed."""
    if wrong == 'plain':
        path = tmp_path / 'plain'
        path.write_text('#!/bin/sh\n')
        path.chmod(0o644)
        wrong = str(path)
    pair = make_pair(nic=None)
    primary = pair.start_primary()
    before = primary.qmp('query-ft-parameters')
    text = primary.refused('ft-set-parameters',
                           **{'ft-takeover-script': wrong})
    assert 'ft-takeover-script' in text and words in text
    assert primary.qmp('query-ft-parameters') == before
