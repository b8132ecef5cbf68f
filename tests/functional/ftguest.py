"""The bare test guest as seen from its network: frames in and out.

SPDX-License-Identifier: GPL-2.0-or-later

The guest and its frames are described in tests/guest/bare/README.md. The
wire is QEMU's -netdev dgram over unix sockets: a datagram is a frame.
"""

import os
import socket
import struct
import time
import zlib
from collections import namedtuple

ETHERTYPE = 0x88b5
MAGIC_OUT = b'FTG1'
MAGIC_REQUEST = b'FTQ1'
# Frames that come; requests to send (an echo is both).
KIND_COUNTER, KIND_ECHO, KIND_DISK = 1, 2, 3
KIND_RESET, KIND_POWER_OFF = 3, 4
KIND_DISK_QUIESCE, KIND_DISK_RESUME, KIND_DISK_READ_ONLY = 5, 6, 7
PAYLOAD_MAX = 64
RESET_BLOCK = 0x800000

BROADCAST = b'\xff' * 6
HOST_MAC = b'\x02\x46\x54\x00\x00\x01'
ETHERNET = struct.Struct('>6s6sH')
OUT = struct.Struct('>4sIQQQIIQQII')
REQUEST = struct.Struct('>4sII')

Frame = namedtuple('Frame', 'mac kind counter generation ticks errors boot '
                            'loops clock_us irqs_lost payload')

DISK = struct.Struct('>BBBBIIIQQIIIIIIHHI')
DISK_KINDS = {1: 'virtio', 2: 'scsi', 3: 'ide', 4: 'ahci'}
(DISK_QUIESCED, DISK_READ_ONLY, DISK_FILLED, DISK_DISCARDS,
 DISK_ZEROES) = 1, 2, 4, 8, 16

Disk = namedtuple('Disk', 'index disks kind flags mismatches io_errors late '
                          'writes reads flushes discards zeroes version '
                          'rounds sectors in_flight irqs_lost token')

SECTOR_SIZE = 512
SECTOR = struct.Struct('<IIQQ480xII')
SECTOR_MAGIC = 0x4b445446
SECTOR_END = 0x62bdab39
Image = namedtuple('Image', 'valid torn highest blank runs')


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


def decode_disk(frame):
    """The Disk that a frame of kind 3 tells of, or None."""
    if frame.kind != KIND_DISK or len(frame.payload) != DISK.size:
        return None
    disk = Disk(*DISK.unpack(frame.payload))
    return disk._replace(kind=DISK_KINDS.get(disk.kind, disk.kind))


def disk_trouble(disk):
    """What is wrong by a disk's own report, or None."""
    for name in 'mismatches', 'io_errors', 'late', 'irqs_lost':
        if getattr(disk, name):
            return f'disk {disk.index}: {getattr(disk, name)} {name}'
    return None


def check_image(path, sectors, offset=0):
    """What a raw image holds of a region that the guest has written.

    Counts the sectors that are whole (`valid`), neither whole nor empty or
    in a wrong place (`torn`), and all zero (`blank`); `highest` is the
    highest version, `runs` how many boots of the guest have left something.
    """
    valid = torn = highest = blank = 0
    runs = set()
    with open(path, 'rb') as file:
        file.seek(offset)
        for number in range(sectors):
            data = file.read(SECTOR_SIZE)
            if not data.strip(b'\0'):
                blank += 1
                continue
            if len(data) < SECTOR_SIZE:
                torn += 1
                continue
            magic, run, sector, version, crc, end = SECTOR.unpack(data)
            if (magic != SECTOR_MAGIC or end != SECTOR_END or
                    sector != number or crc != zlib.crc32(data[:-8])):
                torn += 1
                continue
            valid += 1
            runs.add(run)
            highest = max(highest, version)
    return Image(valid, torn, highest, blank, len(runs))


def differing_sectors(path, other, sectors, limit=16):
    """The first sectors that two raw images do not have in common."""
    found = []
    with open(path, 'rb') as a, open(other, 'rb') as b:
        for number in range(sectors):
            if (a.read(SECTOR_SIZE).ljust(SECTOR_SIZE, b'\0') !=
                    b.read(SECTOR_SIZE).ljust(SECTOR_SIZE, b'\0')):
                found.append(number)
                if len(found) == limit:
                    break
    return found


class DiskWatch:
    """Checks the disk reports of one guest, in order of arrival.

    Totals must never go back but at a reset, and nothing may be wrong.
    `last` has the latest Disk by index.
    """

    TOTALS = ('mismatches', 'io_errors', 'late', 'writes', 'reads',
              'flushes', 'discards', 'zeroes', 'version', 'rounds',
              'irqs_lost')

    def __init__(self):
        self.last = {}
        self.boot = None
        self.count = 0
        self.problems = []

    def __call__(self, when, frame):
        disk = decode_disk(frame)
        if not disk:
            return
        if frame.boot != self.boot:
            self.boot = frame.boot
            self.last = {}
        last = self.last.get(disk.index, disk)
        self.last[disk.index] = disk
        self.count += 1
        for name in self.TOTALS:
            if getattr(disk, name) < getattr(last, name):
                self.problems.append(
                    f'disk {disk.index}: {name} went back from '
                    f'{getattr(last, name)} to {getattr(disk, name)}')
        trouble = disk_trouble(disk)
        if trouble and trouble != disk_trouble(last):
            self.problems.append(trouble)

    def all_have(self, condition):
        """Have all disks reported, and is it true of each one's latest?"""
        return (len(self.last) > 0 and
                len(self.last) == next(iter(self.last.values())).disks and
                all(condition(disk) for disk in self.last.values()))


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

    def disks(self, what, condition, watch, timeout=10.0, seen=None):
        """Receive until `condition(disk)` is true of every disk's report.

        All frames go to `watch`, a DiskWatch, and to the callable `seen`.
        """
        end = time.monotonic() + timeout
        while not watch.all_have(condition):
            got = self.receive(max(end - time.monotonic(), 0.001))
            if not got and time.monotonic() > end:
                raise AssertionError(f'not within {timeout:.0f} s: {what}; '
                                     f'{list(watch.last.values())}')
            if got:
                watch(*got)
                if seen:
                    seen(*got)

    def disk_mode(self, kind, watch, timeout=10.0, seen=None):
        """Quiesce, resume or read only, until all disks say so."""
        self.token = getattr(self, 'token', 0) + 1
        token = self.token
        self.send(kind, struct.pack('>I', token))
        self.disks(f'disk request {kind}', lambda d: d.token == token and
                   (kind != KIND_DISK_QUIESCE or d.flags & DISK_QUIESCED),
                   watch, timeout, seen)


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
