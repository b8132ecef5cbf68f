"""A real etcd, on 127.0.0.1, with its data in a directory of the test.

SPDX-License-Identifier: GPL-2.0-or-later

    with Etcd(tmp_path) as etcd:                # started, and answers
        ... f'ft-arbiter=etcd:{etcd.url}' ...
        etcd.freeze()                           # hangs, as in SIGSTOP
        etcd.thaw()
        etcd.stop()                             # connections are refused
        etcd.start()                            # same data, same address
        assert etcd.get(f'/cuju/{uuid}/claim-1')

With tls=True only clients with a certificate are let in; etcd.tls_dir has
ca-cert.pem, client-cert.pem and client-key.pem, named as tls-creds-x509 wants
them.  With a user and a password that user may do what it likes below /cuju/,
and nobody else anything.

Needs the programs etcd and, for TLS, openssl.
"""

import base64
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = float(os.environ.get('CUJU_TIMEOUT', '1'))
ROOT_PASSWORD = 'root of the test'


class EtcdError(AssertionError):
    """etcd does not do what the test needs."""


def _free_ports(number):
    socks = [socket.socket() for _ in range(number)]
    try:
        for sock in socks:
            sock.bind(('127.0.0.1', 0))
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()


def _b64(text):
    return base64.b64encode(text.encode()).decode()


def make_certificates(directory, name='127.0.0.1'):
    """A CA, a server of that IP address and a client, in PEM files.

    The client has no CN: together with users, etcd's gateway turns away who
    has one.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)

    def openssl(*args):
        done = subprocess.run(['openssl', *args], cwd=directory, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=60 * PATIENCE)
        if done.returncode:
            raise EtcdError(f'openssl {" ".join(args)}: {done.stderr}')

    def key(which):
        openssl('ecparam', '-name', 'prime256v1', '-genkey', '-noout',
                '-out', f'{which}-key.pem')

    with open(os.path.join(directory, 'openssl.cnf'), 'w',
              encoding='ascii') as conf:
        # etcd's gateway is a client of etcd itself, with its certificate.
        conf.write('[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=test\n'
                   '[ca]\nbasicConstraints=critical,CA:TRUE\n'
                   'keyUsage=critical,keyCertSign\n'
                   '[server]\nbasicConstraints=critical,CA:FALSE\n'
                   f'subjectAltName=IP:{name}\n'
                   'keyUsage=critical,digitalSignature\n'
                   'extendedKeyUsage=serverAuth,clientAuth\n'
                   '[client]\nbasicConstraints=critical,CA:FALSE\n'
                   'keyUsage=critical,digitalSignature\n'
                   'extendedKeyUsage=clientAuth\n')
    key('ca')
    openssl('req', '-config', 'openssl.cnf', '-x509', '-new', '-sha256',
            '-days', '2', '-subj', '/CN=Cuju test CA', '-extensions', 'ca',
            '-key', 'ca-key.pem', '-out', 'ca-cert.pem')
    for serial, which in enumerate(('server', 'client'), start=2):
        key(which)
        openssl('req', '-config', 'openssl.cnf', '-new', '-sha256',
                '-subj', f'/O=Cuju test {which}',
                '-key', f'{which}-key.pem', '-out', f'{which}.csr')
        openssl('x509', '-req', '-sha256', '-days', '2',
                '-set_serial', str(serial), '-in', f'{which}.csr',
                '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem',
                '-extfile', 'openssl.cnf', '-extensions', which,
                '-out', f'{which}-cert.pem')


class Etcd:
    """One member, which is the whole cluster."""

    def __init__(self, directory, tls=False, user=None, password=None):
        self.directory = os.path.join(str(directory), 'etcd')
        self.user, self.password = user, password
        self.process = None
        self.tls_dir = None
        self._context = None
        self._ports = None
        self._token = None
        os.makedirs(self.directory, mode=0o700)
        if tls:
            self.tls_dir = os.path.join(self.directory, 'tls')
            make_certificates(self.tls_dir)
            self._context = ssl.create_default_context(
                cafile=self._pem('ca-cert'))
            self._context.load_cert_chain(self._pem('client-cert'),
                                          self._pem('client-key'))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_exc):
        self.close()

    @property
    def url(self):
        """Where it is, after the first start()."""
        scheme = 'https' if self.tls_dir else 'http'
        return f'{scheme}://127.0.0.1:{self._ports[0]}'

    @property
    def pid(self):
        return self.process.pid

    def _pem(self, name):
        return os.path.join(self.tls_dir, f'{name}.pem')

    def log(self):
        """What it has said."""
        path = os.path.join(self.directory, 'log')
        if not os.path.exists(path):
            return ''
        with open(path, encoding='utf-8', errors='replace') as text:
            return text.read()

    # -- running and not running

    def start(self):
        """Returns when it answers.  Again after stop(): with its data."""
        if self.process:
            raise EtcdError('etcd runs already')
        if self._ports:
            self._launch()
            return
        # Somebody else may be faster in taking a free port.
        for attempt in range(5):
            self._ports = _free_ports(2)
            try:
                self._launch()
                break
            except EtcdError:
                if attempt == 4 or 'address already in use' not in self.log():
                    raise
                shutil.rmtree(os.path.join(self.directory, 'data'),
                              ignore_errors=True)
        if self.user:
            self._add_user()

    def _launch(self):
        peer = f'http://127.0.0.1:{self._ports[1]}'
        argv = ['etcd', '--name', 'test', '--log-level', 'warn',
                '--data-dir', os.path.join(self.directory, 'data'),
                '--listen-client-urls', self.url,
                '--advertise-client-urls', self.url,
                '--listen-peer-urls', peer,
                '--initial-advertise-peer-urls', peer,
                '--initial-cluster', f'test={peer}']
        if self.tls_dir:
            argv += ['--cert-file', self._pem('server-cert'),
                     '--key-file', self._pem('server-key'),
                     '--trusted-ca-file', self._pem('ca-cert'),
                     '--client-cert-auth']
        env = {name: value for name, value in os.environ.items()
               if not name.startswith('ETCD_')}
        with open(os.path.join(self.directory, 'log'), 'ab') as log:
            self.process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd=self.directory)
        end = time.monotonic() + 30 * PATIENCE
        while not self._healthy():
            if self.process.poll() is not None:
                self.process = None
                raise EtcdError(f'etcd has ended:\n{self.log()}')
            if time.monotonic() > end:
                self.stop()
                raise EtcdError(f'etcd does not answer:\n{self.log()}')
            time.sleep(0.02)

    def stop(self):
        """Kill it, as when its host is lost.  The data stays."""
        if self.process:
            self.process.kill()         # a stopped one as well
            self.process.wait(timeout=30 * PATIENCE)
            self.process = None
        self._token = None

    def close(self):
        """The end of it, and of its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def freeze(self):
        """It hangs: connections are made, but there is no answer."""
        self.process.send_signal(signal.SIGSTOP)
        end = time.monotonic() + 10 * PATIENCE
        while not self._frozen():
            if time.monotonic() > end:
                raise EtcdError('etcd cannot be stopped')
            time.sleep(0.001)

    def _frozen(self):
        tasks = f'/proc/{self.pid}/task'
        for task in os.listdir(tasks):
            with open(f'{tasks}/{task}/stat', encoding='ascii') as stat:
                if stat.read().rsplit(')', 1)[1].split()[0] != 'T':
                    return False
        return True

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    # -- talking to it

    def _request(self, path, body=None, timeout=5.0):
        request = urllib.request.Request(self.url + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header('Content-Type', 'application/json')
            if self._token:
                request.add_header('Authorization', self._token)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self._context))
        with opener.open(request, timeout=timeout * PATIENCE) as answer:
            return json.load(answer)

    def _healthy(self):
        try:
            return self._request('/health', timeout=1.0)['health'] == 'true'
        except (OSError, ValueError, KeyError):
            return False

    def call(self, path, **body):
        """POST to the gateway; as root where there are users."""
        try:
            if self.user and not self._token and 'auth/' not in path:
                self._token = self._request('/v3/auth/authenticate', {
                    'name': 'root', 'password': ROOT_PASSWORD})['token']
            return self._request(path, body)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors='replace')
            raise EtcdError(f'{path}: {error.code} {text}') from None

    def _add_user(self):
        for name, password in (('root', ROOT_PASSWORD),
                               (self.user, self.password)):
            self.call('/v3/auth/user/add', name=name, password=password)
        self.call('/v3/auth/user/grant', user='root', role='root')
        self.call('/v3/auth/role/add', name='cuju')
        # "0" is what comes after "/": all that begins with /cuju/
        self.call('/v3/auth/role/grant', name='cuju', perm={
            'permType': 'READWRITE', 'key': _b64('/cuju/'),
            'range_end': _b64('/cuju0')})
        self.call('/v3/auth/user/grant', user=self.user, role='cuju')
        self.call('/v3/auth/enable')

    def get(self, key):
        """Its value, or None."""
        kvs = self.call('/v3/kv/range', key=_b64(key)).get('kvs')
        return base64.b64decode(kvs[0]['value']).decode() if kvs else None

    def keys(self, prefix='/cuju/'):
        """The names of all keys that begin with @prefix, sorted."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        kvs = self.call('/v3/kv/range', key=_b64(prefix), range_end=_b64(end),
                        keys_only=True).get('kvs', [])
        return sorted(base64.b64decode(kv['key']).decode() for kv in kvs)

    def put(self, key, value):
        self.call('/v3/kv/put', key=_b64(key), value=_b64(value))

    def delete(self, key):
        self.call('/v3/kv/deleterange', key=_b64(key))
