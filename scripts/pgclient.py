#!/usr/bin/env python3
"""A client that numbers its transactions and tells which of them are lost.

SPDX-License-Identifier: GPL-2.0-or-later

It writes to a PostgreSQL server over one TCP connection, which it never makes
again: a connection that breaks is a failure. Transaction N inserts one row
into each of two tables; N is acknowledged once the server has said COMMIT and
"ready". At the end it reads all back: what was acknowledged must be there,
exactly once in both tables and unharmed, and nothing else but the one that was
in flight. It speaks PostgreSQL's protocol, version 3, itself.

  pgclient.py HOST[:PORT] [--seconds S | --transactions N] [--progress]

The last line of its output is one of JSON; the exit status is 0 if all is
well. In a test:

    client = PgClient('10.77.0.2', netns='ft-cli')
    client.start()
    client.wait_acked(100)
    ...                             # kill a host
    client.wait_acked(client.acked + 100)
    client.stop()
    report = client.verify()
    assert report['ok'], report
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import math
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

PROTOCOL = 3 << 16
CLONE_NEWNET = 0x40000000
LONGEST_MESSAGE = 64 << 20
TABLES = ('ft_left', 'ft_right')


class PgFailure(Exception):
    """What the client has to report."""


class Reset(PgFailure):
    """The connection is gone."""


class NoAnswer(PgFailure):
    """The connection stands, but nothing came for too long."""


class ServerError(PgFailure):
    """The server answered with an error, or with nonsense."""


def open_socket(address, timeout, netns=None):
    """A TCP connection, made in a network namespace if one is named. The
    namespace is the thread's that enters it, so that is one of its own."""
    result = []

    def connect():
        try:
            if netns:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f'/run/netns/{netns}', 'rb') as f:
                    if libc.setns(f.fileno(), CLONE_NEWNET):
                        error = ctypes.get_errno()
                        raise OSError(error, os.strerror(error))
            result.append(socket.create_connection(address, timeout))
        except OSError as e:
            result.append(e)

    if netns:
        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
    else:
        connect()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


class Connection:
    """One session of PostgreSQL's protocol: simple queries only."""

    def __init__(self, sock, user, database, timeout=30):
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.timeout = timeout
        self.buf = bytearray()
        words = ['user', user, 'database', database,
                 'application_name', 'pgclient', '']
        body = struct.pack('>I', PROTOCOL) + b''.join(
            word.encode() + b'\0' for word in words)
        self._send(struct.pack('>I', len(body) + 4) + body)
        self._until_ready()

    def close(self):
        with contextlib.suppress(PgFailure):
            self._send(b'X\0\0\0\4')
        self.sock.close()

    def query(self, sql):
        """Run statements; their rows and their tags ("INSERT 0 1")."""
        body = sql.encode() + b'\0'
        self._send(b'Q' + struct.pack('>I', len(body) + 4) + body)
        return self._until_ready()

    def _wait(self, end, reading):
        left = end - time.monotonic()
        socks = [self.sock]
        if left <= 0 or not any(select.select(socks if reading else [],
                                              [] if reading else socks,
                                              [], left)):
            raise NoAnswer(f'nothing came for {self.timeout} s')

    def _send(self, data):
        end = time.monotonic() + self.timeout
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                self._wait(end, reading=False)
            except OSError as e:
                raise Reset(f'send: {e}') from e

    def _message(self, end):
        """The next message of the server: its type and its body."""
        while True:
            if len(self.buf) >= 5:
                size = struct.unpack_from('>I', self.buf, 1)[0]
                if not 4 <= size <= LONGEST_MESSAGE:
                    raise ServerError(f'a message of {size} bytes')
                if len(self.buf) > size:
                    kind = bytes(self.buf[:1])
                    body = bytes(self.buf[5:size + 1])
                    del self.buf[:size + 1]
                    return kind, body
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                self._wait(end, reading=True)
                continue
            except OSError as e:
                raise Reset(f'receive: {e}') from e
            if not data:
                raise Reset('the server has closed the connection')
            self.buf += data

    def _until_ready(self):
        rows, tags, error = [], [], None
        end = time.monotonic() + self.timeout
        while True:
            kind, body = self._message(end)
            if kind == b'Z':
                break
            if kind == b'D':
                rows.append(self._row(body))
            elif kind == b'C':
                tags.append(body.rstrip(b'\0').decode())
            elif kind == b'E':
                fields = dict((f[:1], f[1:].decode(errors='replace'))
                              for f in body.split(b'\0') if f)
                said = f'{fields.get(b"S")}: {fields.get(b"M")}'
                if fields.get(b'S') in ('FATAL', 'PANIC'):
                    raise Reset(said)
                error = ServerError(said)
            elif kind == b'R':
                if body != b'\0\0\0\0':
                    raise ServerError('it wants a password')
            elif kind not in b'SKTNI':
                raise ServerError(f'unexpected message {kind!r}')
        if error:
            raise error
        return rows, tags

    @staticmethod
    def _row(body):
        columns, at = [], 2
        for _ in range(struct.unpack_from('>H', body)[0]):
            size = struct.unpack_from('>i', body, at)[0]
            at += 4
            if size < 0:
                columns.append(None)
                continue
            columns.append(body[at:at + size].decode())
            at += size
        return columns


class PgClient:
    """A writer in a thread of its own.

    round_trips: 1 sends a transaction as one request, 2 the COMMIT apart, 4
    each statement. rate limits it to so many transactions in a second.
    To look for an earlier client's transactions, give its run and acked,
    leave out start() and call verify().
    """

    def __init__(self, host, port=5432, *, database='ft', user='postgres',
                 netns=None, timeout=30, payload=200, round_trips=2, rate=0,
                 run=None, acked=0):
        if round_trips not in (1, 2, 4):
            raise ValueError('round_trips is 1, 2 or 4')
        self.address = (host, port)
        self.session = (user, database)
        self.netns = netns
        self.timeout = timeout
        self.repeat = max(1, math.ceil(payload / 32))
        self.round_trips = round_trips
        self.rate = rate
        self.run = int(run or time.time_ns() // 1000)
        self.begun = acked
        self.acked = acked
        self.failure = None             # what ended it, a PgFailure
        self.started = self.ended = None
        self.ack_times = []             # time.monotonic() of each
        self.latencies = []             # in seconds
        self.connection = None
        self._thread = None
        self._stop = threading.Event()
        self._changed = threading.Condition()

    # What a test calls

    def start(self, patience=0):
        """Connect, trying for so many seconds, and begin to write."""
        self.connection = self._connect(patience)
        for table in TABLES:
            self.connection.query(
                f'CREATE TABLE IF NOT EXISTS {table} (run bigint NOT NULL, '
                f'n bigint NOT NULL, payload text NOT NULL)')
        self.started = time.monotonic()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def wait_acked(self, number, timeout=60):
        """Wait until transaction number N is acknowledged."""
        end = time.monotonic() + timeout
        with self._changed:
            while self.acked < number:
                if self.failure:
                    raise self.failure
                left = end - time.monotonic()
                if self.ended or left <= 0:
                    raise NoAnswer(f'{self.acked} of {number} acknowledged')
                self._changed.wait(left)
        return self.acked

    def alive(self):
        """Is it writing?"""
        return bool(self._thread and self._thread.is_alive())

    def stop(self):
        """Begin no other transaction; wait for the answer to the last."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def longest_gap(self, since=None, until=None):
        """The longest time without an acknowledgement, in ms, between two
        moments of time.monotonic(): its start and its end, if not given."""
        since = since or self.started
        until = until or self.ended or time.monotonic()
        if since is None:
            return 0.0
        with self._changed:
            times = [t for t in self.ack_times if since <= t <= until]
        times = [since, *times, until]
        return 1000 * max(b - a for a, b in zip(times, times[1:]))

    def verify(self, patience=0):
        """Read back what was written; the report. It goes over the same
        connection; only if that is gone already over another, to be made
        within so many seconds."""
        self.stop()
        report = self._report()
        try:
            if self.connection is None or self.failure:
                if self.connection:
                    self.connection.sock.close()
                self.connection = self._connect(patience)
            report.update(self._look())
        except PgFailure as e:
            if not self.failure:
                self._fail(e)
            report.update(self._report())
            report['errors'].append(f'verify: {e}')
        bad = [report[key] for key in
               ('lost', 'torn', 'duplicates', 'corrupt', 'beyond')]
        report['intact'] = bad == [0] * len(bad)
        report['ok'] = report['intact'] and not report['errors']
        return report

    def close(self):
        self.stop()
        if self.connection:
            self.connection.close()
            self.connection = None

    # The rest

    def _connect(self, patience):
        end = time.monotonic() + patience
        while True:
            left = max(end - time.monotonic(), 0)
            try:
                sock = open_socket(self.address, min(self.timeout, left + 5),
                                   self.netns)
                try:
                    return Connection(sock, *self.session, self.timeout)
                except PgFailure:
                    sock.close()
                    raise
            except (PgFailure, OSError) as e:
                if time.monotonic() >= end:
                    if isinstance(e, PgFailure):
                        raise
                    raise Reset(f'cannot connect: {e}') from e
            time.sleep(0.2)

    def _fail(self, failure):
        with self._changed:
            self.failure = failure
            self._changed.notify_all()

    def _payload(self, table, n):
        word = hashlib.md5(f'{table} {self.run} {n}'.encode()).hexdigest()
        return word * self.repeat

    def _requests(self, n):
        statements = ['BEGIN']
        for table in TABLES:
            statements.append(
                f'INSERT INTO {table} VALUES '
                f"({self.run}, {n}, '{self._payload(table, n)}')")
        statements.append('COMMIT')
        if self.round_trips == 4:
            return statements
        if self.round_trips == 2:
            return ['; '.join(statements[:-1]), statements[-1]]
        return ['; '.join(statements)]

    def _transaction(self, n):
        tags = []
        for request in self._requests(n):
            tags += self.connection.query(request)[1]
        if tags != ['BEGIN', 'INSERT 0 1', 'INSERT 0 1', 'COMMIT']:
            raise ServerError(f'transaction {n} was answered by {tags}')

    def _write(self):
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                begin = time.monotonic()
                self.begun += 1
                self._transaction(self.begun)
                now = time.monotonic()
                with self._changed:
                    self.acked = self.begun
                    self.ack_times.append(now)
                    self.latencies.append(now - begin)
                    self._changed.notify_all()
                if self.rate:
                    due = max(due + 1 / self.rate, begin)
                    self._stop.wait(max(due - now, 0))
        except PgFailure as e:
            self._fail(e)
        finally:
            with self._changed:
                self.ended = time.monotonic()
                self._changed.notify_all()

    def _look(self):
        """Compare what is there with what should be."""
        sides = [f'(SELECT n, count(*) AS c, bool_and(payload = '
                 f"repeat(md5('{table} {self.run} ' || n), {self.repeat})) "
                 f'AS good FROM {table} WHERE run = {self.run} GROUP BY n) '
                 f'AS {table}' for table in TABLES]
        one, two = TABLES
        rows, _ = self.connection.query(
            f'SELECT n, coalesce({one}.c, 0), coalesce({two}.c, 0), '
            f'coalesce({one}.good, true) AND coalesce({two}.good, true) '
            f'FROM {sides[0]} FULL JOIN {sides[1]} USING (n)')
        counts = dict.fromkeys(
            ('torn', 'duplicates', 'corrupt', 'beyond'), 0)
        whole = set()
        for n, left, right, good in rows:
            n, left, right = int(n), int(left), int(right)
            if left and right:
                whole.add(n)
            else:
                counts['torn'] += 1
            if left > 1 or right > 1:
                counts['duplicates'] += 1
            if good != 't':
                counts['corrupt'] += 1
            if not 1 <= n <= self.acked + 1:
                counts['beyond'] += 1
        counts['found'] = len(rows)
        counts['lost'] = sum(n not in whole
                             for n in range(1, self.acked + 1))
        return counts

    def _report(self):
        def percentile(part):
            if not ordered:
                return None
            at = max(0, math.ceil(part * len(ordered)) - 1)
            return round(1000 * ordered[at], 2)

        ordered = sorted(self.latencies)
        seconds = (self.ended - self.started) if self.ended else 0
        failure = self.failure
        return {
            'run': self.run,
            'count': self.begun,
            'acked': self.acked,
            'found': None,
            'lost': None,
            'torn': None,
            'duplicates': None,
            'corrupt': None,
            'beyond': None,
            'resets': int(isinstance(failure, Reset)),
            'timeouts': int(isinstance(failure, NoAnswer)),
            'errors': [str(failure)] if failure else [],
            'gap_ms': round(self.longest_gap(), 1),
            'p50_ms': percentile(0.50),
            'p99_ms': percentile(0.99),
            'seconds': round(seconds, 2),
            'rate': round(len(ordered) / seconds, 1) if seconds else 0,
        }


def watch(client, options):
    """Wait for the end; a line each second if that is wanted."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    last, then = 0, client.started
    while client.alive() and not stop.wait(0.02):
        now = time.monotonic()
        if options.seconds and now - client.started >= options.seconds:
            break
        if options.transactions and client.acked >= options.transactions:
            break
        if options.progress and now - then >= 1:
            acked = client.acked
            print(f'{now - client.started:6.1f} s: {acked} acknowledged, '
                  f'{(acked - last) / (now - then):.0f}/s, longest gap '
                  f'{client.longest_gap(since=then):.0f} ms', flush=True)
            last, then = acked, now


def arguments():
    parser = argparse.ArgumentParser(
        description='Number transactions, and tell which are lost.')
    add = parser.add_argument
    add('server', metavar='HOST[:PORT]')
    add('--database', default='ft')
    add('--user', default='postgres')
    add('--netns', help='connect from this network namespace')
    add('--seconds', type=float, help='end after so long')
    add('--transactions', type=int, help='end after so many')
    add('--rate', type=float, default=0, help='at most so many in a second')
    add('--round-trips', type=int, default=2, choices=(1, 2, 4),
        help='requests that make a transaction (2: the COMMIT apart)')
    add('--payload', type=int, default=200, help='bytes in a row')
    add('--timeout', type=float, default=30,
        help='an answer that takes longer is a failure')
    add('--patience', type=float, default=0,
        help='seconds to try to connect, at the start, and at the end if the '
             'connection is gone')
    add('--progress', action='store_true', help='a line each second')
    add('--crash', action='store_true',
        help='the server is to be killed: a broken connection is no failure')
    add('--verify-only', action='store_true',
        help='write nothing; look for what --run and --acked say')
    add('--run', type=int, help="the client's number in the tables")
    add('--acked', type=int, default=0, help='what was acknowledged')
    options = parser.parse_args()
    if options.verify_only and not options.run:
        parser.error('--verify-only needs --run')
    if options.acked and not options.verify_only:
        parser.error('--acked goes with --verify-only')
    return options


def main():
    options = arguments()
    host, _, port = options.server.partition(':')
    client = PgClient(
        host, int(port or 5432), database=options.database,
        user=options.user, netns=options.netns, timeout=options.timeout,
        payload=options.payload, round_trips=options.round_trips,
        rate=options.rate, run=options.run, acked=options.acked)
    if not options.verify_only:
        try:
            client.start(options.patience)
        except PgFailure as e:
            sys.exit(f'pgclient: {e}')
        watch(client, options)
        client.stop()
    report = client.verify(options.patience)
    client.close()
    print(json.dumps(report), flush=True)
    good = report['intact'] if options.crash else report['ok']
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
