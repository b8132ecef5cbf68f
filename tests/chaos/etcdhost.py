"""etcd on a third host, which both hosts reach by the guest's network.

SPDX-License-Identifier: GPL-2.0-or-later

    etcd = EtcdHost(lab, directory)
    etcd.spec()             # for ft-arbiter
    etcd.hang(True)         # it does not answer any more

The hosts get an address on their bridges, so a host whose uplink is cut does
not reach it.
"""

import base64
import json
import os
import re
import signal
import subprocess
import time

from cable import ip
from harness import PATIENCE, Broken
from linux import namespace
from pgclient import open_socket

ADDRESS = '10.77.0.1'
PORT = 2379
HOSTS = {'pri': '10.77.0.11', 'bak': '10.77.0.12'}


class EtcdHost:
    """One etcd, of one member, in the client's namespace."""

    def __init__(self, lab, directory):
        self.lab = lab
        self.process = None
        for host, address in HOSTS.items():
            ip(getattr(lab, host), 'addr', 'add', f'{address}/24', 'dev',
               'br0')
        url = f'http://{ADDRESS}:{PORT}'
        peer = 'http://127.0.0.1:2380'
        with namespace(lab.cli), \
                open(os.path.join(directory, 'etcd.log'), 'wb') as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(
                ['etcd', '--name', 'chaos', '--data-dir',
                 os.path.join(directory, 'etcd.data'),
                 '--listen-client-urls', url, '--advertise-client-urls', url,
                 '--listen-peer-urls', peer, '--initial-advertise-peer-urls',
                 peer, '--initial-cluster', f'chaos={peer}',
                 '--unsafe-no-fsync'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._wait(os.path.join(directory, 'etcd.log'))

    def _wait(self, log):
        end = time.monotonic() + 30 * PATIENCE
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > end:
                with open(log, encoding='utf-8', errors='replace') as file:
                    raise Broken(f'etcd: {file.read()[-1500:]}')
            time.sleep(0.05)

    def _ask(self, request, body=b''):
        """An answer by HTTP, without its head."""
        with open_socket((ADDRESS, PORT), 5, self.lab.cli) as sock:
            sock.sendall(request + b' HTTP/1.0\r\nContent-Length: %d\r\n\r\n'
                         % len(body) + body)
            answer = b''
            while data := sock.recv(65536):
                answer += data
        return answer.split(b'\r\n\r\n', 1)[-1]

    def _healthy(self):
        try:
            return json.loads(self._ask(b'GET /health'))['health'] == 'true'
        except (OSError, ValueError, KeyError):
            return False

    def names(self):
        """All keys, as the files in an arbiter's directory are named."""
        def coded(text):
            return base64.b64encode(text).decode()

        answer = json.loads(self._ask(b'POST /v3/kv/range', json.dumps({
            'key': coded(b'/'), 'range_end': coded(b'0'),
            'keys_only': True}).encode()))
        keys = [base64.b64decode(pair['key']).decode()
                for pair in answer.get('kvs', ())]
        return [re.sub('^/cuju/([^/]*)/', r'cuju-\1.', key) for key in keys]

    @staticmethod
    def spec():
        return f'etcd:http://{ADDRESS}:{PORT}'

    def hang(self, hung):
        os.kill(self.process.pid, signal.SIGSTOP if hung else signal.SIGCONT)

    def pids(self):
        return {self.process.pid}

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
