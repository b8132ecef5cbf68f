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
HELLO, MACHINE, PAGES = 1, 3, 8


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


def _hello():
    payload = struct.pack('>16s16s', b's' * 16, b'') + bytes(32)
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
