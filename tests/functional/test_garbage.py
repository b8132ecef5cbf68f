"""Somebody else on the line: nobody dies of it.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import random
import socket
import struct
import threading

import pytest

import harness

MAGIC = 0x43554a55
HELLO, WELCOME, MACHINE, PAGES, ERROR = 1, 2, 3, 8, 24
DATA, CONTROL, DISK = 1, 2, 3
HEADER, HELLO_SIZE = 28, 64


def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def header(kind, length, payload=b'', flags=0, epoch=0, version=1):
    """A header with a right checksum, whatever else is wrong with it."""
    head = struct.pack('>IBBHQII', MAGIC, version, kind, flags, epoch,
                       length, crc32c(payload))
    return head + struct.pack('>I', crc32c(head))


def _hello(channel=0, session=b's' * 16, token=b'', drive=0):
    payload = struct.pack('>16s16sIIQQII', session, token, channel,
                          4096 if channel else 0, 0, 0, drive, 0)
    return header(HELLO, len(payload), payload) + payload


RNG = random.Random(7)
GARBAGE = {
    'random': RNG.randbytes(4096),
    'text': b'GET / HTTP/1.0\r\n\r\n',
    'huge': header(MACHINE, 0xffffffff),
    'pages': header(PAGES, 1 << 20) + bytes(1 << 20),
    'version': header(HELLO, 64, version=77),
    'type': header(99, 0),
    'half': _hello()[:40],
    'zeroes': bytes(100000),
    'hello': _hello(),
    'data-for-a-drive': _hello(DATA, drive=1),
    'control': _hello(CONTROL),
    'disk': _hello(DISK),
    'disk-and-more': _hello(DISK, drive=1) + bytes(100000),
    'huge-disk': header(HELLO, 1 << 20) + bytes(1 << 20),
    'channel': _hello(4),
    'bad-crc': header(HELLO, 64)[:-1] + b'x',
    'nothing': b'',
}


def _send(uri, data):
    """Send all that the other side takes, and hang up."""
    with harness.connect(uri) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        except OSError:
            pass    # it hung up first: so it should


@pytest.mark.parametrize('transport', ('unix', 'tcp'))
def test_backup_hears_nonsense(make_pair, transport):
    """Would catch a backup that crashes, hangs or lets itself be taken by
    a stranger: after all that a primary must find it as new."""
    pair = make_pair(transport=transport).start()
    for data in GARBAGE.values():
        _send(pair.uri, data)
        assert pair.backup.query()['state'] == 'waiting'
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_backup_hears_nothing(make_pair):
    """Would catch a backup that one silent or slow caller keeps busy."""
    pair = make_pair().start()
    callers = [harness.connect(pair.uri) for _ in range(4)]
    try:
        for byte in _hello()[:20]:
            callers[0].sendall(bytes([byte]))
        pair.protect()
        pair.cable.wait_more(10, pair.primary)
    finally:
        for caller in callers:
            caller.close()
    assert pair.primary.query()['state'] == 'protected'
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_stranger_during_protection(make_pair):
    """Would catch a caller who disturbs a session that is there."""
    pair = make_pair().protected(hashed=False)
    for data in GARBAGE.values():
        try:
            _send(pair.uri, data)
        except OSError:
            pass    # it no longer listens: as well
    other = pair.launch('other')
    other.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    other.qmp('migrate', uri=pair.uri)
    other.wait_state('inactive')
    other.close()
    pair.wait_hash()
    assert pair.primary.query()['state'] == 'protected'
    pair.primary.kill()
    pair.taken_over()


def _read(sock, size):
    data = b''
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError(f'end after {data!r}')
        data += piece
    return data


def _ask(uri, hello):
    """The text with which a caller is turned away."""
    with harness.connect(uri, timeout=20) as sock:
        sock.sendall(hello)
        head = _read(sock, HEADER)
        assert head[5] == ERROR
        return _read(sock, struct.unpack('>I', head[16:20])[0]).decode()


class Eavesdropper:
    """Stands between the two and hears what a stranger must not know: the
    session and its token, which the backup's WELCOME has."""

    def __init__(self, target, limit=None):
        self.target = target
        self.limit = limit          # of bytes to the backup, per connection
        self.stuck = threading.Event()
        self.closing = threading.Event()
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.uri = 'tcp:127.0.0.1:%d' % self.listener.getsockname()[1]
        self.session = self.token = None
        self.open = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = harness.connect(self.target)
            for sock in near, far:
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.open += near, far
            for pair in (near, far), (far, near):
                threading.Thread(target=self._relay, daemon=True,
                                 args=pair + (pair[0] is far,)).start()

    def _relay(self, source, sink, listens):
        heard = b''
        passed = 0
        try:
            while True:
                if self.limit and not listens and passed > self.limit:
                    self.stuck.set()
                    self.closing.wait()
                data = source.recv(65536)
                passed += len(data)
                if listens and len(heard) < HEADER + HELLO_SIZE:
                    heard += data
                    if len(heard) >= HEADER + HELLO_SIZE and \
                            heard[5] == WELCOME:
                        self.session = heard[HEADER:HEADER + 16]
                        self.token = heard[HEADER + 16:HEADER + 32]
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
        except OSError:
            pass

    def close(self):
        self.listener.close()
        self.closing.set()
        for sock in self.open:
            sock.close()


def test_disk_connection(make_pair):
    """Would catch a backup that lets a caller write to its images who does
    not know the token, or comes before there is a session, or for a drive
    that nobody copies."""
    pair = make_pair(transport='tcp').start()
    assert 'no session' in _ask(pair.uri, _hello(DISK))
    ear = Eavesdropper(pair.uri)
    try:
        pair.protect(uri=ear.uri)
        pair.cable.wait_more(5, pair.primary)
        session, token = ear.session, ear.token
        assert token and token != bytes(16)
        wrong = token[:15] + bytes([token[15] ^ 1])
        for hello in (_hello(DISK), _hello(DISK, session=session),
                      _hello(DISK, token=token),
                      _hello(DISK, session=session, token=wrong)):
            assert 'no session' in _ask(pair.uri, hello)
        for drive in (0, 7, 0xffffffff):    # there is none to be copied
            text = _ask(pair.uri, _hello(DISK, session, token, drive))
            assert f'drive {drive} is not' in text or 'expects no' in text
        # the token is good for nothing else
        for channel in (DATA, CONTROL):
            assert 'already' in _ask(pair.uri, _hello(channel, session,
                                                      token))
        pair.cable.wait_more(5, pair.primary)
        pair.wait_hash()
        assert pair.primary.query()['state'] == 'protected'
    finally:
        ear.close()


class Impostor:
    """Listens where a backup should, and answers with `data`."""

    def __init__(self, data, hold=False):
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.listener.settimeout(0.2)
        self.uri = 'tcp:127.0.0.1:%d' % self.listener.getsockname()[1]
        self.data = data
        self.hold = hold
        self.open = []
        self.stopping = False
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except (TimeoutError, BlockingIOError):
                continue
            try:
                sock.sendall(self.data)
            except OSError:
                pass
            if self.hold:
                self.open.append(sock)
            else:
                sock.close()

    def close(self):
        self.stopping = True
        self.thread.join()
        self.listener.close()
        for sock in self.open:
            sock.close()


def _impostor(pair, data, hold, timeout=30):
    impostor = Impostor(data, hold)
    try:
        since = pair.protect(uri=impostor.uri, wait=False)
        reason = pair.primary.wait_state('inactive', timeout, since)
        assert reason
        pair.goes_on()
        pair.cable.check()
    finally:
        impostor.close()


@pytest.mark.parametrize('hold', (False, True))
def test_no_backup_but(make_pair, hold):
    """Would catch a primary that crashes, hangs or stops its guest when
    something else answers where the backup should."""
    pair = make_pair()
    pair.start_primary()
    for name in ('random', 'huge', 'version', 'type', 'hello', 'zeroes'):
        _impostor(pair, GARBAGE[name], hold)
    if not hold:
        _impostor(pair, b'', hold)
    pair.start_backup()
    pair.protect()
    pair.cable.wait_more(10, pair.primary)
    pair.cable.check()


@pytest.mark.slow
def test_backup_says_nothing(make_pair):
    """Would catch a handshake without a deadline."""
    pair = make_pair()
    pair.start_primary()
    _impostor(pair, b'', True, timeout=40)
    pair.start_backup()
    pair.protect()
    pair.cable.check()
