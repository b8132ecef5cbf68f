"""What is on the wires, all the time, with the kernel's time of each frame.

SPDX-License-Identifier: GPL-2.0-or-later

    watch = Watch(decode)
    watch.add('pri', namespace, 'tap0')     # frames that come out of a guest
    watch.add('cli', namespace, 'eth0')     # what reaches the client
    ...
    for seen in watch.take():               # all since the last time, in order
        print(seen.when, seen.where, seen.what)

`decode(data, length)` makes of a frame what shall be kept, or None. `when` is
time.time_ns() of the kernel's first look at the frame. A thread reads the
sockets; take() gives only what is certainly complete: no frame with an
earlier time can still be unread on any of them.
"""

import selectors
import socket
import struct
import threading
import time
from collections import namedtuple

from linux import namespace

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SOL_PACKET = 263
PACKET_STATISTICS = 6
BUFFER = 8 << 20
ANCILLARY = socket.CMSG_SPACE(16)
# Between a frame's time and its place in a socket's queue, at the most.
MARGIN = 3000000

Seen = namedtuple('Seen', 'when where what')


class Blind(AssertionError):
    """The watch has missed frames: its word is worth nothing."""


def stamping():
    """Have the kernel stamp frames as they come in; returns the socket that
    keeps it at that.

    With nobody there who wants them, the kernel begins with its time stamps
    some milliseconds after the option is set (it patches its own code for
    it), and until then gives a frame the time at which it is *read*: frames
    of two interfaces are out of order then.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(('127.0.0.1', 0))
    sock.settimeout(5)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        sock.sendto(b'?', sock.getsockname())
        there = time.time_ns()
        _, ancillary, _, _ = sock.recvmsg(1, ANCILLARY)
        if stamp(ancillary) <= there:
            return sock
    raise Blind('the kernel does not stamp frames as they come in')


def stamp(ancillary):
    """The kernel's time (ns) of a message, 0 without one."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, rest = struct.unpack('qq', value[:16])
            return seconds * 1000000000 + rest
    return 0


class Watch:
    """Sockets on interfaces in several namespaces, and their reader."""

    def __init__(self, decode, keep=256):
        self.decode = decode
        self.keep = keep
        self.cond = threading.Condition()
        self.pending = []
        self.last = {}                  # where -> the latest Seen
        self.count = {}                 # where -> frames that were kept
        self.complete = 0               # all before that is in `pending`
        self.sockets = {}
        self.selector = selectors.DefaultSelector()
        self.wake, self.waker = socket.socketpair()
        self.selector.register(self.wake, selectors.EVENT_READ)
        self.stopping = False
        self.error = None
        self.stamping = stamping()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def add(self, where, ns, interface):
        """Watch what comes into the kernel by this interface."""
        with namespace(ns):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with self.cond:
            self.sockets[sock] = where
            self.count[where] = 0
            self.selector.register(sock, selectors.EVENT_READ)
        sock.bind((interface, ETH_P_ALL))

    def close(self):
        self.stopping = True
        self.waker.send(b'x')
        self.thread.join()
        for sock in [*self.sockets, self.wake, self.waker, self.stamping]:
            sock.close()
        self.selector.close()

    # ---------------------------------------------------------- the reader

    def _run(self):
        try:
            while not self.stopping:
                self.selector.select(0.02)
                self._pass()
        except Exception as error:  # told to whoever asks next
            self.error = error

    def _pass(self):
        begin = time.time_ns()
        new = []
        for sock, where in list(self.sockets.items()):
            self._drain(sock, where, new)
        with self.cond:
            for seen in new:
                self.last[seen.where] = seen
                self.count[seen.where] += 1
            self.pending += new
            self.complete = begin
            self.cond.notify_all()

    def _drain(self, sock, where, new):
        while True:
            try:
                data, ancillary, _, address = sock.recvmsg(
                    self.keep, ANCILLARY, socket.MSG_TRUNC)
            except BlockingIOError:
                return
            except OSError:             # the interface is down: no frames
                return
            if address[2] == socket.PACKET_OUTGOING:
                continue
            when = stamp(ancillary)
            what = self.decode(data)
            if what is not None and when:
                new.append(Seen(when, where, what))

    # -------------------------------------------------------------- for tests

    def _check(self):
        if self.error:
            raise Blind(f'the watch has ended: {self.error!r}')
        for sock, where in self.sockets.items():
            _, dropped = struct.unpack('II', sock.getsockopt(
                SOL_PACKET, PACKET_STATISTICS, 8))
            if dropped:
                raise Blind(f'{dropped} frames were missed at {where}')

    def wait(self, condition, timeout):
        """Until `condition()`; asked whenever frames have come."""
        end = time.monotonic() + timeout
        with self.cond:
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or self.error:
                    return False
                self.cond.wait(min(left, 0.1))
        return True

    def take(self, timeout=10.0):
        """All frames of before this call that were not taken yet."""
        until = time.time_ns() + MARGIN
        if not self.wait(lambda: self.complete >= until, timeout):
            raise Blind(f'the watch does not come to it: {self.error!r}')
        self._check()
        with self.cond:
            bound = self.complete - MARGIN
            taken = [s for s in self.pending if s.when <= bound]
            self.pending = [s for s in self.pending if s.when > bound]
        taken.sort(key=lambda s: s.when)
        return taken
