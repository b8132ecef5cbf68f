"""Claims in a real etcd: plain, with TLS, with users, and with both.

SPDX-License-Identifier: GPL-2.0-or-later

What is tried is in tests/unit/ft/test-ft-arbiter-real.c: claims of 16 at once,
proofs that are missing or another session's, an etcd that hangs, a wrong
password, a certificate that is not the server's.
"""

import os
import subprocess

import pytest

import harness
from etcd import Etcd

TEST = os.environ.get('CUJU_ETCD_TEST', os.path.join(
    harness.ROOT, 'build', 'obj', 'tests', 'unit', 'ft',
    'test-ft-arbiter-real'))


@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
@pytest.mark.parametrize('user', [None, 'cuju'], ids=['open', 'user'])
def test_real_etcd(tmp_path, tls, user):
    if not os.path.exists(TEST):
        pytest.skip(f'no {TEST}: made by "make check-unit"')
    # A password that JSON has to quote.
    password = 'pass"w\\örd' if user else None
    with Etcd(tmp_path, tls=tls, user=user, password=password) as etcd:
        env = dict(os.environ, CUJU_TEST_ETCD=etcd.url,
                   CUJU_TEST_ETCD_PID=str(etcd.pid))
        if tls:
            env['CUJU_TEST_ETCD_TLS'] = etcd.tls_dir
        if user:
            env['CUJU_TEST_ETCD_USER'] = user
            env['CUJU_TEST_ETCD_PASSWORD'] = password
        done = subprocess.run(
            [TEST, '--tap', '-p', '/ft/arbiter/real'], env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=120 * harness.PATIENCE)
        etcd.thaw()
        print(done.stdout)
        assert done.returncode == 0
        assert 'ok 1 /ft/arbiter/real/session' in done.stdout
        skipped = done.stdout.count('# SKIP')
        assert skipped == (not tls) + (not user)
        # What it has left behind: claims, which stay, and no attempts.
        names = {key.rsplit('/', 1)[1] for key in etcd.keys()}
        assert 'claim-5' in names
        assert 'try' not in names
        # And they are still there when etcd comes back.
        keys = etcd.keys()
        etcd.stop()
        etcd.start()
        assert etcd.keys() == keys
