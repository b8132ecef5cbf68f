"""The bare test guest as seen from its network: frames in and out.

SPDX-License-Identifier: GPL-2.0-or-later

The guest and its frames are described in tests/guest/bare/README.md. The
wire is QEMU's -netdev dgram over unix sockets: a datagram is a frame.
"""

import os
import socket
import struct
import time
from collections import namedtuple

ETHERTYPE = 0x88b5
MAGIC_OUT = b'FTG1'
MAGIC_REQUEST = b'FTQ1'
KIND_COUNTER, KIND_ECHO, KIND_RESET, KIND_POWER_OFF = 1, 2, 3, 4
PAYLOAD_MAX = 64
RESET_BLOCK = 0x800000

BROADCAST = b'\xff' * 6
HOST_MAC = b'\x02\x46\x54\x00\x00\x01'
ETHERNET = struct.Struct('>6s6sH')
OUT = struct.Struct('>4sIQQQIIQQII')
REQUEST = struct.Struct('>4sII')

Frame = namedtuple('Frame', 'mac kind counter generation ticks errors boot '
                            'loops clock_us irqs_lost payload')


def decode(data):
    """A frame of the guest, or None for any other traffic."""
    if len(data) < ETHERNET.size + OUT.size:
        return None
    _, mac, ethertype = ETHERNET.unpack_from(data)
    magic, *fields, length = OUT.unpack_from(data, ETHERNET.size)
    start = ETHERNET.size + OUT.size
    if (ethertype != ETHERTYPE or magic != MAGIC_OUT or
            length > PAYLOAD_MAX or start + length > len(data)):
        return None
    return Frame(mac, *fields, data[start:start + length])


def encode(frame):
    """The bytes of a Frame, as the guest would send it."""
    return (ETHERNET.pack(BROADCAST, frame.mac, ETHERTYPE) +
            OUT.pack(MAGIC_OUT, *frame[1:-1], len(frame.payload)) +
            frame.payload)


def encode_request(kind, payload=b'', to=BROADCAST, source=HOST_MAC):
    """The bytes of a request to the guest."""
    if len(payload) > PAYLOAD_MAX:
        raise ValueError('payload of a request too long')
    data = (ETHERNET.pack(to, source, ETHERTYPE) +
            REQUEST.pack(MAGIC_REQUEST, kind, len(payload)) + payload)
    return data.ljust(60, b'\0')


def decode_request(data):
    """(kind, payload) of a request, or None."""
    if len(data) < ETHERNET.size + REQUEST.size:
        return None
    magic, kind, length = REQUEST.unpack_from(data, ETHERNET.size)
    start = ETHERNET.size + REQUEST.size
    if (ETHERNET.unpack_from(data)[2] != ETHERTYPE or
            magic != MAGIC_REQUEST or length > PAYLOAD_MAX or
            start + length > len(data)):
        return None
    return kind, data[start:start + length]


class Wire:
    """Our end of a guest's cable.

    `path` is our socket, `guest` QEMU's; both are made and removed by
    their owners. After a takeover the same MAC speaks from another QEMU:
    set `guest` to its socket.
    """

    def __init__(self, path, guest):
        self.path = path
        self.guest = guest
        if os.path.exists(path):
            os.unlink(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind(path)

    def close(self):
        self.socket.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def netdev(self, name='n0'):
        """The value for QEMU's -netdev."""
        return (f'dgram,id={name},local.type=unix,local.path={self.guest},'
                f'remote.type=unix,remote.path={self.path}')

    def receive(self, timeout=1.0):
        """(arrival time, Frame) of the next frame of a guest, or None."""
        end = time.monotonic() + timeout
        while True:
            self.socket.settimeout(max(end - time.monotonic(), 0.0001))
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                return None
            frame = decode(data)
            if frame:
                return time.monotonic(), frame
            if time.monotonic() > end:
                return None

    def frames(self, seconds):
        """All that comes within a time, as (arrival time, Frame)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            got = self.receive(end - time.monotonic())
            if got:
                yield got

    def send(self, kind, payload=b''):
        """Send a request; like a cable, it may lead nowhere."""
        self.socket.settimeout(1.0)
        try:
            self.socket.sendto(encode_request(kind, payload), self.guest)
            return True
        except OSError:
            return False

    def echo(self, payload, timeout=1.0, seen=None):
        """Seconds until the answer to an echo request, or None.

        Other frames that come meanwhile go to the callable `seen`.
        """
        start = time.monotonic()
        self.send(KIND_ECHO, payload)
        while time.monotonic() - start < timeout:
            got = self.receive(start + timeout - time.monotonic())
            if not got:
                return None
            if got[1].kind == KIND_ECHO and got[1].payload == payload:
                return got[0] - start
            if seen:
                seen(*got)
        return None


class Watch:
    """Checks the counter frames of one guest, in order of arrival.

    What output commit promises is that the counter goes on where it was:
    frames may come twice after a takeover (`repeats`), if the guest's last
    epoch is run again, but none may be missing (`gaps`) or go back further
    than what was seen of it (`back`). `outage` is the longest silence, in
    seconds.
    """

    def __init__(self):
        self.last = None
        self.when = None
        self.count = self.gaps = self.repeats = self.back = self.resets = 0
        self.outage = 0.0
        self.problems = []

    def __call__(self, when, frame):
        if frame.errors and (not self.last or
                             frame.errors != self.last.errors):
            self.problems.append(f'guest has found {frame.errors} errors')
        if frame.kind != KIND_COUNTER:
            return
        last, self.last = self.last, frame
        self.count += 1
        if self.when is not None:
            self.outage = max(self.outage, when - self.when)
        self.when = when
        if last is None:
            return
        if frame.boot != last.boot:
            self.resets += 1
            if frame.boot != last.boot + 1:
                self.problems.append(
                    f'boot {last.boot} followed by {frame.boot}')
            if frame.counter != 1:
                self.problems.append(
                    f'first counter after a reset is {frame.counter}')
        elif frame.counter > last.counter + 1:
            self.gaps += frame.counter - last.counter - 1
            self.problems.append(
                f'counter {last.counter} followed by {frame.counter}')
        elif frame.counter == last.counter:
            self.repeats += 1
        elif frame.counter < last.counter:
            self.back += 1
        for name in ('ticks', 'generation', 'loops', 'clock_us'):
            if (frame.boot == last.boot and frame.counter > last.counter and
                    getattr(frame, name) < getattr(last, name)):
                self.problems.append(f'{name} went back from '
                                     f'{getattr(last, name)} to '
                                     f'{getattr(frame, name)}')
