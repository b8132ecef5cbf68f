"""The scripts that users know, and the demo as a test.

SPDX-License-Identifier: GPL-2.0-or-later

The demo is the Linux guest with redis and PostgreSQL, real taps and bridges,
and what runvm.sh, recv.sh and ftmode.sh make of the documented commands.
"""

import os
import re
import subprocess

import pytest

from harness import PATIENCE, ROOT

LAST = re.compile(r'failover: client saw (\d+) ms without an answer; '
                  r'connections reset: (\d+); '
                  r'acknowledged writes lost: (\d+) of (\d+)')
DATABASE = re.compile(r'database: transactions acknowledged: (\d+); '
                      r'found after the failover: (\d+); lost: (\d+); '
                      r'torn: (\d+); longest time without an answer: '
                      r'[\d.]+ ms')
# As the design and README.md have it; IMG is the image's path.
DOCUMENTED = '''
  -drive if=none,id=drive0,cache=none,format=raw,file=IMG
  -device virtio-blk,drive=drive0 -m 1G -enable-kvm -net tap,ifname=tap0
  -net nic,model=virtio,vlan=0,macaddr=ae:ae:00:00:00:25 -cpu host -vga std
  -chardev socket,id=mon,path=vm1.monitor,server,nowait
  -mon chardev=mon,id=monitor,mode=readline'''


def namespaces():
    """Names of all network namespaces."""
    done = subprocess.run(['ip', 'netns', 'list'], check=True,
                          capture_output=True, text=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line}


def words_of(script, directory, **env):
    """The command line that a script makes, in words."""
    stub = directory / 'qemu'
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    image = directory / 'image'
    image.touch()
    clean = {k: v for k, v in os.environ.items()
             if not k.startswith('CUJU_')}
    done = subprocess.run(
        [os.path.join(ROOT, 'scripts', script)], check=True, text=True,
        capture_output=True, timeout=30, env={
            **clean, 'CUJU_QEMU': str(stub), 'CUJU_IMG': str(image),
            'CUJU_ACCEL': 'kvm', 'CUJU_TAP_SCRIPT': 'yes', **env})
    return done.stdout.replace(str(image), 'IMG').split()


@pytest.mark.parametrize('script', ['runvm.sh', 'recv.sh'])
def test_documented_command(tmp_path, script):
    """Would catch scripts that run another command than the documented
    one, or a drive that is not writable."""
    want = DOCUMENTED
    display, incoming = 'localhost:0', []
    if script == 'recv.sh':
        want = want.replace('tap0', 'tap1').replace('vm1.', 'vm1r.')
        display, incoming = 'localhost:1', ['-incoming', 'tcp:0:4441,ft_mode']
    assert words_of(script, tmp_path) == [*want.split(), '-vnc', display,
                                          *incoming]
    readonly = words_of(script, tmp_path, CUJU_READONLY='on')
    assert readonly[1].endswith('file=IMG,readonly=on')


@pytest.mark.slow
def test_demo():
    """Would catch what only a real kernel, virtio drivers and a real TCP
    client show: a connection that breaks, an acknowledged write that is
    gone, half a transaction; and a demo that leaves something behind."""
    assert os.geteuid() == 0, 'namespaces and taps need root'
    before = namespaces()
    done = subprocess.run([os.path.join(ROOT, 'scripts', 'demo')],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=240 * PATIENCE)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    lines = done.stdout.rstrip().splitlines()
    assert lines[-1] == 'demo: PASS'
    _, resets, lost, writes = (int(n) for n in
                               LAST.fullmatch(lines[-2]).groups())
    assert (resets, lost) == (0, 0)
    assert writes > 1000
    acked, found, lost, torn = (int(n) for n in
                                DATABASE.fullmatch(lines[-3]).groups())
    assert (lost, torn) == (0, 0)
    assert found in (acked, acked + 1)
    assert acked > 200
    assert namespaces() == before
