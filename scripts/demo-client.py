#!/usr/bin/env python3
"""The demo's client: writes numbered keys to redis over one TCP connection.

SPDX-License-Identifier: GPL-2.0-or-later

It sends SET k<n> v<n>, waits for the answer, and goes on with n+1: no
pipelining. What was acknowledged is remembered, and at the end read back over
the same connection. If the connection breaks, that is counted and a new one is
made, so that what is lost can still be told.

It is led by lines on standard input:

    phase NAME   what follows belongs to NAME: unprotected, sync, protected,
                 failover (from just before the primary is killed)
    killed       the primary is dead; answers are counted from here
    pause        send nothing for a while
    resume
    stop         stop writing, verify, report, end

The end of the input is a stop too. The state is kept in the status file as one
line: PHASE ACKNOWLEDGED ANSWERS-SINCE-KILLED LONGEST-GAP-IN-PHASE-MS. The report
goes to standard output; its last line is the failover's. The exit status is 0
if the failover was seen, no connection was reset and no write was lost.
"""

import argparse
import os
import select
import socket
import struct
import sys
import time

BATCH = 200


class Reset(Exception):
    """The connection is gone."""


class NoAnswer(Exception):
    """The connection stands, but nothing came for too long."""


class BadReply(Exception):
    """Redis answered with something that makes no sense here."""


class Connection:
    """One raw TCP connection that speaks RESP."""

    def __init__(self, host, port, timeout):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.buf = b""
        self.pos = 0

    def close(self):
        self.sock.close()

    def send(self, *words):
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(w), w) for w in words]
        data = b"".join(parts)
        end = time.monotonic() + 10
        while data:
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                if time.monotonic() > end:
                    raise NoAnswer("cannot send for 10 s") from None
                select.select([], [self.sock], [], 1)
            except OSError as err:
                raise Reset(str(err)) from err

    def read(self):
        """Take what has arrived."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as err:
            raise Reset(str(err)) from err
        if not data:
            raise Reset("closed by the peer")
        self.buf += data

    def reply(self):
        """A whole reply as (True, value), or (False, None) if there is none."""
        self.pos = 0
        try:
            value = self._parse()
        except IndexError:
            return False, None
        self.buf = self.buf[self.pos:]
        return True, value

    def _line(self):
        end = self.buf.find(b"\r\n", self.pos)
        if end < 0:
            raise IndexError
        line = self.buf[self.pos:end]
        self.pos = end + 2
        return line

    def _parse(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return BadReply(rest.decode(errors="replace"))
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            if len(self.buf) < self.pos + size + 2:
                raise IndexError
            value = self.buf[self.pos:self.pos + size]
            self.pos += size + 2
            return value
        if kind == b"*":
            return [self._parse() for _ in range(int(rest))]
        raise BadReply("not RESP: %r" % line[:40])

    def ask(self, timeout, *words):
        """Send a command and wait for its reply."""
        self.send(*words)
        end = time.monotonic() + timeout
        while True:
            done, value = self.reply()
            if done:
                return value
            left = end - time.monotonic()
            if left <= 0:
                raise NoAnswer("no answer for %d s" % timeout)
            if select.select([self.sock], [], [], left)[0]:
                self.read()

    def retransmits(self):
        """How often TCP sent again on this connection, and its timer in ms."""
        try:
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            words = struct.unpack("24I", info[8:104])
        except (OSError, struct.error):
            return None
        return words[23], words[0] / 1000


class Phase:
    """What was measured while one phase lasted."""

    def __init__(self, name):
        self.name = name
        self.latencies = []
        self.time = 0.0
        self.gap = 0.0


class Client:
    def __init__(self, opts):
        self.opts = opts
        self.phase = Phase("start")
        self.phases = {"start": self.phase}
        self.since = time.monotonic()
        self.acked = []
        self.killed = None
        self.next = 0
        self.resets = 0
        self.reason = ""
        self.paused = False
        self.stopping = False
        self.control = b""
        self.last = None
        self.shown = 0.0
        self.conn = None
        self.tcp = None

    def fail(self, reason):
        self.reason = self.reason or reason

    def enter(self, name):
        now = time.monotonic()
        self.phase.time += now - self.since
        self.since = now
        self.phase = self.phases.setdefault(name, Phase(name))
        self.status(now)

    def since_killed(self):
        return 0 if self.killed is None else len(self.acked) - self.killed

    def status(self, now):
        self.shown = now
        tmp = self.opts.status + ".new"
        with open(tmp, "w", encoding="ascii") as out:
            out.write("%s %d %d %.0f\n" % (
                self.phase.name, len(self.acked), self.since_killed(),
                self.phase.gap * 1000))
        os.replace(tmp, self.opts.status)

    def order(self):
        """Read and obey the orders on standard input."""
        data = os.read(0, 4096)
        if not data:
            self.stopping = True
            return
        self.control += data
        *lines, self.control = self.control.split(b"\n")
        for line in lines:
            words = line.decode().split()
            if words[:1] == ["phase"] and len(words) == 2:
                self.enter(words[1])
            elif words == ["killed"]:
                self.killed = len(self.acked)
            elif words == ["pause"]:
                self.paused = True
            elif words == ["resume"]:
                self.paused = False
                self.last = None
            elif words == ["stop"]:
                self.stopping = True
            elif words:
                self.fail("unknown order: %s" % " ".join(words))

    def connect(self):
        """A connection on which redis answers; patient at first."""
        end = time.monotonic() + self.opts.patience
        while True:
            conn = None
            try:
                conn = Connection(self.opts.host, self.opts.port, 2)
                if conn.ask(2, b"PING") == b"PONG":
                    return conn
                err = "no PONG"
            except (OSError, Reset, NoAnswer, BadReply) as exc:
                err = str(exc)
            if conn:
                conn.close()
            if time.monotonic() > end:
                raise NoAnswer("cannot connect to %s port %d: %s" % (
                    self.opts.host, self.opts.port, err))
            time.sleep(0.05)

    def reconnect(self, why):
        self.resets += 1
        self.fail("the connection broke: %s" % why)
        self.conn.close()
        self.conn = self.connect()

    def write(self):
        """One SET, and its answer."""
        n = self.next
        self.next += 1
        sent = time.monotonic()
        self.conn.send(b"SET", b"k%d" % n, b"v%d" % n)
        while True:
            ready = select.select([self.conn.sock, 0], [], [], 0.2)[0]
            now = time.monotonic()
            if self.conn.sock in ready:
                self.conn.read()
                done, value = self.conn.reply()
                if done:
                    break
            if 0 in ready:
                self.order()
            if now - sent > self.opts.patience:
                raise NoAnswer("no answer for %.0f s" % (now - sent))
            if now - self.shown > 0.2:
                self.status(now)
        if value != b"OK":
            raise BadReply("SET was answered with %s" % value)
        self.acked.append(n)
        phase = self.phase
        phase.latencies.append(now - sent)
        phase.gap = max(phase.gap, now - (self.last or sent))
        self.last = now
        if now - self.shown > 0.2:
            self.status(now)

    def run(self):
        self.conn = self.connect()
        self.enter("unprotected")
        try:
            self.write_all()
        except NoAnswer:
            if self.last:
                gap = time.monotonic() - self.last
                self.phase.gap = max(self.phase.gap, gap)
            raise
        finally:
            self.enter("end")
        self.tcp = self.conn.retransmits()

    def write_all(self):
        while not self.stopping:
            if select.select([0], [], [], 0.2 if self.paused else 0)[0]:
                self.order()
                continue
            if self.paused:
                continue
            try:
                self.write()
            except Reset as exc:
                self.reconnect(exc)

    def verify(self):
        """Read back all acknowledged keys; the number of those that are wrong."""
        lost = 0
        done = 0
        while done < len(self.acked):
            part = self.acked[done:done + BATCH]
            try:
                values = self.conn.ask(self.opts.patience, b"MGET",
                                       *[b"k%d" % n for n in part])
            except Reset as exc:
                if self.resets > 5:
                    raise
                self.reconnect(exc)
                continue
            if not isinstance(values, list) or len(values) != len(part):
                raise BadReply("MGET was answered with %s" % values)
            wrong = [n for n, value in zip(part, values) if value != b"v%d" % n]
            if wrong:
                self.fail("acknowledged keys are lost, the first is k%d" % wrong[0])
            lost += len(wrong)
            done += len(part)
        return lost

    def report(self, lost):
        for name in ("unprotected", "sync", "protected", "failover"):
            phase = self.phases.get(name)
            if not phase or not phase.latencies:
                continue
            ordered = sorted(phase.latencies)
            print("latency, %-12s p50 %.2f ms, p99 %.2f ms, longest gap %.0f ms "
                  "(%d writes, %.0f/s)" % (
                      name + ":", ordered[len(ordered) // 2] * 1000,
                      ordered[len(ordered) * 99 // 100] * 1000,
                      phase.gap * 1000, len(ordered),
                      len(ordered) / max(phase.time, 0.001)))
        if self.tcp:
            print("client's TCP: %d segments sent again, its timer at the end %.0f ms"
                  % self.tcp)
        after = self.phases.get("failover")
        if self.killed is None:
            self.fail("the primary was not killed")
        elif not self.since_killed():
            self.fail("no answer after the primary was killed")
        if self.reason:
            print("reason: %s" % self.reason)
        gap = "%.0f" % (after.gap * 1000) if after else "-"
        print("failover: client saw %s ms without an answer; connections reset: %d; "
              "acknowledged writes lost: %s of %d" % (
                  gap, self.resets, "unknown" if lost is None else lost,
                  len(self.acked)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--status", required=True, help="file for the state")
    parser.add_argument("--patience", type=float, default=15,
                        help="seconds to wait for an answer (15)")
    client = Client(parser.parse_args())
    lost = None
    try:
        client.run()
        lost = client.verify()
    except (Reset, NoAnswer, BadReply) as exc:
        client.fail(str(exc))
    client.report(lost)
    return 0 if lost == 0 and not client.resets and not client.reason else 1


if __name__ == "__main__":
    sys.exit(main())
