"""No root, and in QEMU's sandbox: what a pair needs to be allowed to.

SPDX-License-Identifier: GPL-2.0-or-later

An ordinary user without any capability, in a seccomp sandbox that denies all
that can be denied. It needs: its images and the arbiter's directory to write
to, and for taps one each that was made for this user. (/dev/kvm, where there
is one, has a group.)
"""

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile

import pytest

import harness
from disks import DiskPair
from harness import PATIENCE, Pair, wait_until
from lab import LabPair, ip
from linux import HOSTS

USER = 65534                    # nobody's
TUN = '/dev/net/tun'
SANDBOX = ('on,obsolete=deny,elevateprivileges=deny,spawn={spawn},'
           'resourcecontrol=deny')
WRAP = ['setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups',
        '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs']
# What the guest needs of QEMU's firmware.
FIRMWARE = ('bios-256k.bin', 'multiboot.bin', 'multiboot_dma.bin',
            'kvmvapic.bin', 'linuxboot_dma.bin')


@pytest.fixture(scope='module')
def programs():
    """QEMU and the guest where everybody can read them."""
    place = tempfile.mkdtemp(prefix='cuju-rights-')
    os.chmod(place, 0o755)
    for path in harness.QEMU, harness.GUEST:
        shutil.copy(path, place)
    where = subprocess.run([harness.QEMU, '-L', 'help'], check=True,
                           capture_output=True, text=True,
                           timeout=20 * PATIENCE).stdout.split()
    for name in FIRMWARE:
        for directory in where:
            if os.path.exists(f'{directory}/{name}'):
                shutil.copy(f'{directory}/{name}', place)
                break
    yield place
    shutil.rmtree(place)


@pytest.fixture
def homes():
    """Makes directories of the user's own; gone when all has ended."""
    with contextlib.ExitStack() as stack:
        def make():
            home = stack.enter_context(
                tempfile.TemporaryDirectory(prefix='cuju-user-'))
            os.chown(home, USER, USER)
            return home

        yield make


@pytest.fixture
def make_user_pair(homes, make_pair, programs, monkeypatch):
    """As make_pair, for the ordinary user, in a place that is his own."""
    monkeypatch.setattr(harness, 'QEMU', os.path.join(
        programs, os.path.basename(harness.QEMU)))
    monkeypatch.setattr(harness, 'GUEST', os.path.join(
        programs, os.path.basename(harness.GUEST)))
    monkeypatch.setattr(harness, 'QEMU_OPTIONS',
                        [*harness.QEMU_OPTIONS, '-L', programs])

    def make(kind=Pair, spawn='deny', **kwargs):
        pair = make_pair(lambda _, **more: kind(homes(), **more), wrap=WRAP,
                         **kwargs)
        pair.extra += ['-sandbox', SANDBOX.format(spawn=spawn)]
        os.chown(pair.arbiter, USER, USER)
        if hasattr(pair.cable, 'path'):
            os.chmod(pair.cable.path, 0o666)
        return pair

    return make


class UserDisks(DiskPair):
    """The images are the user's."""

    def disk_options(self, host):
        options = super().disk_options(host)
        for n in range(len(self.kinds)):
            os.chown(self.image(host, n), USER, USER)
        return options


class UserTaps(UserDisks, LabPair):
    """So are the taps, made beforehand by root."""

    def make_cable(self):
        for host, (tap, _) in HOSTS.items():
            place = getattr(self.lab, host)
            ip(place, 'tuntap', 'del', 'dev', tap, 'mode', 'tap')
            ip(place, 'tuntap', 'add', 'dev', tap, 'mode', 'tap',
               'user', str(USER))
            ip(place, 'link', 'set', 'dev', tap, 'master', 'br0', 'up')
        return super().make_cable()

    def spawn(self, name, options):
        """udev lets everybody use /dev/net/tun; without it, as in some
        containers, QEMU sees a node that is like that."""
        if os.stat(TUN).st_mode & 0o006 != 0o006:
            node = os.path.join(self.directory, 'tun')
            if not os.path.exists(node):
                os.mknod(node, stat.S_IFCHR, os.makedev(10, 200))
                os.chmod(node, 0o666)
            self.wrap = ['unshare', '-m', 'sh', '-c', 'mount --bind '
                         f'{node} {TUN} && exec "$@"', 'sh', *WRAP]
        return super().spawn(name, options)


def really_without(machine):
    """Its user, its capabilities, and that the sandbox is there."""
    status = {}
    with open(f'/proc/{machine.process.pid}/status',
              encoding='ascii') as file:
        for line in file:
            key, _, value = line.partition(':')
            status[key] = value.split()
    assert status['Uid'] == [str(USER)] * 4
    assert status['Groups'] == []
    assert int(status['CapEff'][0], 16) == int(status['CapPrm'][0], 16) == 0
    assert status['Seccomp'] == ['2']


def works(pair):
    """All of its life: protected, failed over, again, and cancelled."""
    pair.protected()
    for machine in pair.primary, pair.backup:
        really_without(machine)
    if getattr(pair, 'kinds', None):
        pair.wait_writes(pair.primary, 50)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)
    pair.primary = pair.backup
    pair.start_backup('backup2')
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.backup.hang()
    pair.primary.states.clear()
    pair.primary.wait_state('unprotected')
    pair.goes_on()
    assert pair.claims() == [1, 2]
    if getattr(pair, 'kinds', None):
        pair.disk_check(pair.primary)
    pair.cable.check(takeovers=1)


@pytest.mark.parametrize('transport', ['unix', 'tcp'])
def test_ordinary_user(make_user_pair, transport):
    """Would catch a system call that the sandbox kills QEMU for, and a right
    that only root has."""
    works(make_user_pair(transport=transport))


@pytest.mark.parametrize('storage', ['shared', 'replicated'])
def test_disks(make_user_pair, storage):
    works(make_user_pair(UserDisks, storage=storage, transport='tcp'))


def test_taps(make_user_pair):
    """Two hosts, real taps, replicated images."""
    works(make_user_pair(UserTaps, storage='replicated', kinds=['virtio']))


def test_arbiter_is_not_his(make_user_pair):
    """Would catch a session that finds out too late that it cannot claim."""
    pair = make_user_pair()
    os.chown(pair.arbiter, 0, 0)
    os.chmod(pair.arbiter, 0o755)
    pair.start()
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    assert pair.arbiter in text and 'Permission denied' in text
    pair.goes_on()
    # ... and one who loses it later says so.
    os.chown(pair.arbiter, USER, USER)
    pair.protect()
    os.chown(pair.arbiter, 0, 0)
    reason = pair.primary.wait_event('FT_ARBITER', reachable=False)
    assert 'ermission denied' in reason['data']['reason']
    os.chown(pair.arbiter, USER, USER)
    pair.primary.wait_event('FT_ARBITER', reachable=True)


def test_script_in_sandbox(make_user_pair, tmp_path):
    """A takeover script is refused where no program may be started, and runs
    where that alone is allowed."""
    script = tmp_path / 'script'
    script.write_text('#!/bin/sh\necho "$@"\n', encoding='ascii')
    script.chmod(0o755)
    pair = make_user_pair(spawn='allow')
    place = shutil.copy(script, pair.directory)
    pair.start()
    pair.backup.qmp('ft-set-parameters', **{'ft-takeover-script': place})
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    session = pair.primary.query()['session']
    pair.primary.kill()
    pair.taken_over()
    wait_until('the script', lambda: f'{session} 1 ' in pair.backup.text())
    pair.cable.check(takeovers=1)

    pair.extra[-1] = SANDBOX.format(spawn='deny')
    pair.primary = pair.backup
    pair.start_backup('strict')
    text = pair.backup.refused('ft-set-parameters',
                               **{'ft-takeover-script': place})
    assert 'ft-takeover-script' in text and 'spawn=allow' in text
