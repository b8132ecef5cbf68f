"""What comes over the network while there are two of the guest.

SPDX-License-Identifier: GPL-2.0-or-later

A broadcast, or a frame to an address that no switch knows, reaches both
hosts. The guest on the primary has long done what it says when the backup
takes over: it must not come again.
"""

import fcntl
import os
import socket
import struct
import termios

import pytest

import ftguest
from harness import Pair, wait_until


def tell(path, kind, payload=b''):
    """Send a request, and wait until QEMU has read it from its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(ftguest.encode_request(kind, payload), path)

        def unread():
            word = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
            return struct.unpack('i', word)[0]
        wait_until('QEMU reads what it is sent', lambda: not unread(), 5)


def answers(pair, machine):
    """The payloads of all answers so far."""
    return [f.payload for f in
            pair.cable.frames(machine, ftguest.KIND_ECHO)]


class HubPair(Pair):
    """Its NIC is at a hub, and the network at another port of it."""

    def netdev(self, name, i):
        return f'hubport,id=n{i},hubid={i}'

    def spawn(self, name, options):
        return super().spawn(name, [
            '-netdev', super().netdev(name, 0).replace('id=n0', 'id=w0'),
            '-netdev', 'hubport,id=h0,hubid=0,netdev=w0', *options])


@pytest.mark.parametrize('nic', ['virtio-net-pci', 'e1000'])
def test_obeyed_once(make_pair, nic):
    """A command that both sides hear, and the guest obeys once."""
    pair = make_pair(nic=nic, mode='count').protected(hashed=False)
    boot = pair.cable.frames(pair.primary)[-1].boot
    for machine in pair.primary, pair.backup:
        tell(machine.net, ftguest.KIND_RESET)
    pair.cable.wait('the reboot', lambda: any(
        f.boot > boot for f in pair.cable.frames(pair.primary)))
    pair.cable.wait_more(50, pair.primary)
    pair.primary.kill()
    pair.backup.wait_state('unprotected')
    pair.cable.wait_more(50, pair.backup)
    # What had been kept for it would be first in the line.
    pair.cable.echo(pair.backup, b'after it')
    pair.cable.check(takeovers=1, resets=1)


@pytest.mark.parametrize('kind', [Pair, HubPair])
def test_not_answered_late(make_pair, kind):
    """... of many, too, and with a hub; the next backup is as deaf as the
    first one, and a guest that has been taken over is not."""
    pair = make_pair(kind=kind).protected()
    for name in b'first', b'second':
        backup = pair.backup
        tell(backup.net, ftguest.KIND_ECHO, name)
        pair.cable.echo(pair.primary, name + b', to the primary')
        pair.primary.kill()
        pair.taken_over()
        assert answers(pair, backup) == [b'are you there?']
        pair.primary = backup
        if name == b'first':
            pair.start_backup('backup2')
            pair.protect()
            pair.cable.wait_more(10, pair.primary)
    pair.cable.check(takeovers=2)


def test_nothing_piles_up(make_pair):
    """Would catch one that stops to read: then its socket, or tap, keeps
    what comes. With two NICs, and a netdev that nobody is connected to."""
    pair = make_pair(nics=2, extra=['-netdev', 'hubport,id=spare,hubid=9'])
    pair.protected()
    for i in range(300):
        tell(pair.backup.net, ftguest.KIND_ECHO, b'%d' % i)
        tell(pair.backup.net + '1', ftguest.KIND_ECHO, b'%d' % i)
    assert pair.backup.query()['state'] == 'standby'
    pair.primary.kill()
    pair.taken_over()
    assert answers(pair, pair.backup) == [b'are you there?']
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('buffered', [False, True])
def test_before_it_listens(make_pair, buffered):
    """A backup that is started and waits to be told where to listen has
    heard things, too; or a filter of the user's has, and lets them go."""
    pair = make_pair()
    pair.start_primary()
    pair.uri = pair.address('backup')
    extra = ['-object', 'filter-buffer,id=slow,netdev=n0,queue=tx,'
             'interval=1000000000'] if buffered else []
    pair.backup = pair.launch('backup', extra=['-incoming', 'defer', *extra])
    for i in range(3):
        pair.cable.send(pair.backup, ftguest.KIND_ECHO, b'early %d' % i)
    if buffered:
        tell(pair.backup.net, ftguest.KIND_ECHO, b'the last of them')
    pair.backup.qmp('migrate-incoming', uri=pair.uri + ',ft_mode')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    if buffered:
        pair.backup.qmp('object-del', id='slow')
    pair.primary.kill()
    pair.taken_over()
    assert answers(pair, pair.backup) == [b'are you there?']
    pair.cable.check(takeovers=1)


def test_kept_during_a_takeover(make_pair, tmp_path):
    """From the claim on the guest is here, and what comes is for it."""
    gate = tmp_path / 'gate'
    os.mkfifo(gate)
    script = tmp_path / 'script'
    script.write_text(f'#!/bin/sh\n: > "{tmp_path}/began"\nread -r _ < '
                      f'"{gate}"\n', encoding='ascii')
    script.chmod(0o755)
    pair = make_pair(params={'ft-takeover-script': str(script)}).protected()
    tell(pair.backup.net, ftguest.KIND_ECHO, b'too early')
    pair.primary.kill()
    wait_until('the script', lambda: (tmp_path / 'began').exists())
    kept = [b'kept %d' % i for i in range(3)]
    for payload in kept:
        pair.cable.send(pair.backup, ftguest.KIND_ECHO, payload)
    pair.cable.stays_quiet(pair.backup, 0.3)
    gate.write_text('go\n')
    pair.taken_over()
    assert answers(pair, pair.backup) == kept + [b'are you there?']
    pair.cable.check(takeovers=1)


def test_cannot_be_undone(make_pair):
    """Nobody at the monitor makes it hear: the filters are not in reach."""
    pair = make_pair(nics=2).protected()
    backup = pair.backup
    names = [line.split(',')[0].strip(' -')
             for line in backup.hmp('info network').splitlines()
             if 'type=ft-deaf' in line]
    assert len(names) == 2
    for name in names:
        backup.refused('object-del', id=name.split(':')[0])
        for path in name, '/objects/' + name:
            for what, value in ('status', 'off'), ('queue', 'rx'):
                backup.refused('qom-set', path=path, property=what,
                               value=value)
    backup.refused('object-add', **{'qom-type': 'ft-deaf', 'id': 'x',
                                    'netdev': 'n0'})
    tell(backup.net, ftguest.KIND_ECHO, b'still deaf?')
    pair.primary.kill()
    pair.taken_over()
    assert answers(pair, backup) == [b'are you there?']
    assert 'ft-deaf' not in backup.hmp('info network')
    pair.cable.check(takeovers=1)
