"""Who is lost, and who only stood still for a moment.

SPDX-License-Identifier: GPL-2.0-or-later

A process that stands still says nothing, as a host does that is dead; only
the time tells them apart.
"""

import contextlib
import os

import pytest

from harness import PATIENCE, TIMEOUT_MS, Broken, wait_until

STALL = 0.2                     # seconds, well below the time of a loss


@contextlib.contextmanager
def busy_main_loop(pair, machine):
    """The main loop waits in a monitor command, with QEMU's big lock held:
    for somebody to read what it writes into a pipe."""
    fifo = os.path.join(pair.directory, f'{machine.name}.fifo')
    os.mkfifo(fifo)
    task = machine.begin('pmemsave', val=0, size=4096, filename=fifo)
    if task.done():
        raise Broken(f'{machine.name} was not kept: {task.result()}')
    reader = None
    try:
        yield task
    finally:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    if machine.alive():
        with contextlib.suppress(Exception):    # it may end at once
            machine.finish(task)
    os.close(reader)


# The timeout is longer than anything that is not it.
UNREAD_PARAMS = {'ft-heartbeat-ms': 100, 'ft-timeout-ms': 20000,
                 'ft-ack-timeout-ms': 30000}


def killed_unread(pair):
    """The primary is killed while heartbeats lie in its socket, as they do
    when its kernel has much memory to free first: then that resets this
    connection, and closes others. The backup goes on at once."""
    sent = pair.backup.query()['heart']['sent']
    pair.primary.hang()
    wait_until('heartbeats that it has not read', lambda:
               pair.backup.query()['heart']['sent'] > sent + 10)
    pair.primary.kill()
    takeover = pair.taken_over(reason='lost')['takeover']
    assert takeover['claim'] < UNREAD_PARAMS['ft-timeout-ms'] / 2, takeover
    pair.cable.wait_more(50, pair.backup)
    pair.cable.check(takeovers=1)


def let_pass(pair, seconds):
    """Time, while frames are taken."""
    with pair.cable.cond:
        pair.cable.cond.wait_for(lambda: False, seconds)


def still_protected(pair, states):
    """Nobody has noticed anything."""
    pair.cable.wait_more(20, pair.primary)
    pair.wait_hash()
    for machine in pair.primary, pair.backup:
        machine._pull(0.05)
    assert [len(m.states) for m in (pair.primary, pair.backup)] == states
    assert pair.primary.query()['state'] == 'protected'
    assert pair.backup.query()['state'] == 'standby'
    assert pair.claims() == []
    pair.cable.check()


def test_status(make_pair):
    """Would catch heartbeats that are sent by nobody, or heard by nobody,
    while epochs alone keep the pair together."""
    pair = make_pair(mode='idle', nic=None).start()
    pair.protect()
    for machine in pair.primary, pair.backup:
        first = machine.query()['heart']
        wait_until('ten heartbeats more', lambda m=machine, f=first:
                   m.query()['heart']['heard'] >= f['heard'] + 10)
        heart = machine.query()['heart']
        assert heart['sent'] >= first['sent'] + 8
        assert 0 <= heart['age-ms'] < TIMEOUT_MS
        assert 0 < heart['rtt-us'] < TIMEOUT_MS * 1000
        assert heart['gap-max-ms'] < TIMEOUT_MS
        assert heart['muted'] == 0
    assert 'heartbeats: ' in pair.primary.hmp('info ft')


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_short_stall(make_pair, side):
    """Would catch a guest that changes its host because one was busy for a
    moment."""
    pair = make_pair(params={'ft-timeout-ms': 5000}).protected()
    states = [len(m.states) for m in (pair.primary, pair.backup)]
    machine = getattr(pair, side)
    other = pair.backup if side == 'primary' else pair.primary
    for _ in range(2):
        machine.stall(STALL)
        pair.cable.wait_more(20, pair.primary)
    still_protected(pair, states)
    # ... and it was a stall.
    assert other.query()['heart']['gap-max-ms'] >= STALL * 900
    pair.primary.kill()
    pair.taken_over()


@pytest.mark.parametrize('transport', ['unix', 'tcp'])
def test_primary_hung(make_pair, transport):
    """Would catch a primary that hung, was replaced, and wakes up beside
    its guest."""
    pair = make_pair(transport=transport, options='rate=1').protected()
    pair.primary.hang()
    status = pair.taken_over(reason='lost')
    detect = status['takeover']['detect']
    assert TIMEOUT_MS * 0.9 <= detect <= TIMEOUT_MS * 2 + 300 * PATIENCE
    assert (status['generation'], pair.claims()) == (1, [1])
    pair.wakes_fenced()
    assert 'taken over' in pair.primary.text()
    pair.cable.wait_more(50, pair.backup)
    pair.cable.check(takeovers=1)


def test_primary_killed_unread(make_pair):
    """Would catch a backup that takes the death of a process for a fault of
    the network, and waits for the timeout."""
    pair = make_pair(transport='tcp', params=UNREAD_PARAMS).protected()
    killed_unread(pair)


def test_backup_hung(make_pair):
    """Would catch a primary that waits for a backup which is there but says
    nothing, and a backup that runs the guest when it wakes up."""
    pair = make_pair(options='rate=1').protected()
    pair.backup.hang()
    reason = pair.primary.wait_state('unprotected')
    event = pair.primary.wait_event('FT_BACKUP_LOST')
    assert event['data'] == {'reason': reason, 'generation': 1}
    pair.goes_on()
    pair.backup.wake()
    assert pair.backup.wait_exit() in (0, 3)    # it was told, or has asked
    pair.goes_on()
    assert not pair.cable.frames(pair.backup)
    assert pair.claims() == [1]
    pair.cable.check()


def test_main_loop_stuck(make_pair):
    """Would catch a process that looks alive, with a guest that nobody
    serves any more."""
    pair = make_pair(params={'ft-stuck-ms': 1000}).protected()
    with busy_main_loop(pair, pair.primary):
        pair.taken_over(reason='lost')
        assert pair.primary.alive()
        mark = pair.cable.mark()
    assert pair.primary.wait_exit() == 3
    assert not pair.cable.frames(pair.primary, since=mark)
    pair.cable.wait_more(50, pair.backup)
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_main_loop_busy(make_pair, side):
    """Would catch heartbeats that wait for QEMU's big lock: a slow monitor
    command is no loss, however much longer than one it takes."""
    pair = make_pair().protected()
    states = [len(m.states) for m in (pair.primary, pair.backup)]
    with busy_main_loop(pair, getattr(pair, side)):
        let_pass(pair, max(1.0, 2 * TIMEOUT_MS / 1000))
    still_protected(pair, states)
    assert getattr(pair, side).query()['heart']['muted'] == 0
    pair.primary.kill()
    pair.taken_over()


@pytest.mark.parametrize('transport', ['unix', 'tcp'])
@pytest.mark.parametrize('side', ['primary', 'backup'])
def test_killed_is_told_at_once(make_pair, side, transport):
    """Would catch an end that is noticed only by silence: the sockets of a
    process that died are closed at once."""
    pair = make_pair(transport=transport, params={
        'ft-heartbeat-ms': 300, 'ft-timeout-ms': 60000,
        'ft-ack-timeout-ms': 60000}).protected()
    if side == 'primary':
        pair.primary.kill()
        status = pair.taken_over()
        assert status['takeover']['total'] < 1000 * PATIENCE
        pair.cable.check(takeovers=1)
    else:
        pair.backup.kill()
        pair.primary.wait_state('unprotected', timeout=5)
        pair.goes_on()
        pair.cable.check()


def test_cruel_values(make_pair):
    """The shortest times that are allowed, and a backup that does not know
    them: the primary's hold for both."""
    pair = make_pair(params={'ft-heartbeat-ms': 10, 'ft-timeout-ms': 2000})
    pair.start_primary()
    pair.start_backup(params=False)
    pair.protect()
    pair.cable.wait_more(20, pair.primary)
    status = pair.backup.query()['heart']
    wait_until('heartbeats each 10 ms', lambda:
               pair.backup.query()['heart']['heard'] > status['heard'] + 50,
               timeout=3)


@pytest.mark.parametrize('wrong', [
    {'ft-heartbeat-ms': 9}, {'ft-heartbeat-ms': 10001},
    {'ft-timeout-ms': 99}, {'ft-timeout-ms': 60001},
    {'ft-timeout-ms': 199}, {'ft-heartbeat-ms': 200, 'ft-timeout-ms': 700},
    {'ft-heartbeat-ms': 10, 'ft-timeout-ms': 10000}, {'ft-stuck-ms': 999},
    {'ft-stuck-ms': 600001}], ids=str)
def test_bad_times(make_pair, wrong):
    """Would catch times by which everybody is lost, or nobody ever."""
    pair = make_pair(nic=None)
    primary = pair.start_primary()
    before = primary.qmp('query-ft-parameters')
    text = primary.refused('ft-set-parameters', **wrong)
    assert next(reversed(wrong)) in text
    assert primary.qmp('query-ft-parameters') == before
