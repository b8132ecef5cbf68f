"""Load from outside, whose acknowledgements are promises.

SPDX-License-Identifier: GPL-2.0-or-later

EchoLoad asks the bare guest for echoes; RedisClient appends numbers to a list
over one TCP connection that it never makes again. The client of PostgreSQL is
scripts/pgclient.py.
"""

import select
import socket
import threading
import time

import ftguest
from linux import namespace
from pgclient import NoAnswer, PgFailure, Reset, ServerError, open_socket


class EchoLoad:
    """Requests to the bare guest, each with a number of its own.

    They go to the guest's own address, so that the switch delivers them to
    one host only. Answers are for the watch to see.
    """

    def __init__(self, netns, mac, interface='eth0', interval=0.02):
        self.mac = bytes(int(part, 16) for part in mac.split(':'))
        self.interval = interval
        self.sent = 0
        with namespace(netns):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((interface, ftguest.ETHERTYPE))
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def send(self, kind, payload=b''):
        """One request; like a cable, it may lead nowhere."""
        try:
            self.socket.send(ftguest.encode_request(kind, payload, self.mac))
        except OSError:
            pass

    def _run(self):
        while not self.stopping.wait(self.interval):
            self.sent += 1
            self.send(ftguest.KIND_ECHO, b'n%d' % self.sent)

    def close(self):
        self.stopping.set()
        self.thread.join()
        self.socket.close()


class RedisClient:
    """A writer of numbers in a thread of its own.

    RPUSH answers with the length of the list, which must be the number that
    was pushed: one that is lost or there twice is noticed with the next
    answer.
    """

    def __init__(self, host, port=6379, netns=None, rate=0, timeout=30):
        self.address = (host, port)
        self.netns = netns
        self.timeout = timeout
        self.rate = rate
        self.key = b'chaos:%d' % time.time_ns()
        self.begun = self.acked = 0
        self.ack_times = []
        self.failure = None
        self.sock = None
        self.buf = b''
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = None

    def start(self, patience=0):
        """Connect, trying for so many seconds, and begin to write."""
        end = time.monotonic() + patience
        while True:
            try:
                self.sock = open_socket(self.address, 5, self.netns)
                break
            except OSError as error:
                if time.monotonic() >= end:
                    raise Reset(f'cannot connect: {error}') from error
                time.sleep(0.1)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _send(self, *words):
        data = b'*%d\r\n' % len(words) + b''.join(
            b'$%d\r\n%s\r\n' % (len(word), word) for word in words)
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                self._wait(False)
            except OSError as error:
                raise Reset(f'send: {error}') from error

    def _wait(self, reading):
        socks = [self.sock]
        if not any(select.select(socks if reading else [],
                                 [] if reading else socks, [],
                                 self.timeout)):
            raise NoAnswer(f'nothing came for {self.timeout} s')

    def _line(self):
        while b'\r\n' not in self.buf:
            self._more()
        line, self.buf = self.buf.split(b'\r\n', 1)
        return line

    def _more(self):
        self._wait(True)
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise Reset(f'receive: {error}') from error
        if not data:
            raise Reset('the server has closed the connection')
        self.buf += data

    def _answer(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b':':
            return int(rest)
        if kind == b'*':
            return [self._answer() for _ in range(int(rest))]
        if kind == b'$':
            while len(self.buf) < int(rest) + 2:
                self._more()
            value, self.buf = self.buf[:int(rest)], self.buf[int(rest) + 2:]
            return value
        raise ServerError(line.decode(errors='replace'))

    def _write(self):
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                self.begun += 1
                self._send(b'RPUSH', self.key, b'%d' % self.begun)
                length = self._answer()
                if length != self.begun:
                    raise ServerError(f'number {self.begun} is entry '
                                      f'{length} of the list')
                now = time.monotonic()
                with self._changed:
                    self.acked = self.begun
                    self.ack_times.append(now)
                    self._changed.notify_all()
                if self.rate:
                    due = max(due + 1 / self.rate, now - 1)
                    self._stop.wait(max(due - now, 0))
        except PgFailure as failure:
            with self._changed:
                self.failure = failure
                self._changed.notify_all()

    def wait_acked(self, number, timeout):
        """Wait until number N is acknowledged."""
        end = time.monotonic() + timeout
        with self._changed:
            while self.acked < number:
                if self.failure:
                    raise self.failure
                left = end - time.monotonic()
                if left <= 0:
                    raise NoAnswer(f'redis: {self.acked} of {number} '
                                   f'acknowledged')
                self._changed.wait(left)

    def verify(self):
        """Stop, and read all back: (lost, duplicates)."""
        self._stop.set()
        self._thread.join()
        if self.failure:
            raise self.failure
        self._send(b'LRANGE', self.key, b'0', b'-1')
        numbers = [int(value) for value in self._answer()]
        wanted = set(range(1, self.acked + 1))
        return (len(wanted - set(numbers)),
                len(numbers) - len(set(numbers)))

    def close(self):
        self._stop.set()
        if self._thread:
            self._thread.join(self.timeout + 5)
        if self.sock:
            self.sock.close()
