"""A reset while requests are parked, to be submitted again.

SPDX-License-Identifier: GPL-2.0-or-later

A write that has to wait for the disk is kept in its device and submitted again
after each pause. When the driver stops or resets the device meanwhile, it must
be forgotten, on the primary and in what the backup has. The test is the
driver; its disk is slow, so that each write lives through many epochs.
"""

import re
import struct

import pytest

import qtest
from disks import DiskPair
from harness import wait_until
from qtest import Qtest, epochs_pass
from test_devices import ACTIVE, Drive, sector, start, take_over
from test_disks_classes import extra_image

LIST, RECEIVED, TABLES, BUFFERS = 0x3000000, 0x3000400, 0x3000800, 0x3002000
SLOTS = 2
FIS_BASE, COMMAND, STATE, CONTROL, SACT, ISSUE = 8, 0x18, 0x20, 0x2c, 0x34, \
    0x38
START, RECEIVE = 1, 0x10


def boot(pair, options):
    """Protected, with a qtest on both sides, as start() does.  The firmware
    would wait half a minute for an answer to IDENTIFY PACKET, which QEMU's
    AHCI owes it; a reset is one."""
    pair.extra = [*options, *qtest.options(pair.directory, 'primary')]
    pair.start_primary(wait=False)
    with Qtest(pair.directory) as q:
        def waits():
            bar = re.search(r'BAR5: 32 bit memory at (0xfe\w+)',
                            pair.primary.hmp('info pci'))
            q.base = int(bar[1], 0) + 0x100 if bar else 0
            return bar and q.number('readl', q.base + ISSUE)

        wait_until('the firmware at the drive', waits)
        q.writel(q.base + CONTROL, 1)
        q.writel(q.base + CONTROL, 0)
    pair.cable.wait_more(5, pair.primary)
    pair.extra = [*options, *qtest.options(pair.directory, 'backup')]
    pair.start_backup()
    pair.protect()


class Port:
    """The first port of the AHCI in slot 9, at work by its driver."""

    def __init__(self, q):
        self.q = q
        q.config(9, 0, 4, q.config(9, 0, 4) | 6)
        self.base = (q.config(9, 0, 0x24) & ~0xf) + 0x100

    def get(self, register):
        return self.q.number('readl', self.base + register)

    def put(self, register, value):
        self.q.writel(self.base + register, value)

    def set_up(self):
        """From what the firmware has left."""
        self.put(COMMAND, 0)
        for register, value in (0, LIST), (FIS_BASE, RECEIVED):
            self.put(register, value)
            self.put(register + 4, 0)
        self.reset()

    def stop(self):
        self.put(COMMAND, RECEIVE)

    def reset(self):
        """COMRESET, and on again."""
        self.put(CONTROL, 1)
        self.put(CONTROL, 0)
        self.put(COMMAND, START | RECEIVE)
        wait_until('the drive is there', lambda: not self.get(STATE) & 0x88)

    def issue(self, ncq, write, slot, number):
        """A command for one sector."""
        command = (0x61 if write else 0x60) if ncq else \
            (0x35 if write else 0x25)
        table, buffer = TABLES + slot * 0x100, BUFFERS + slot * 512
        fis = struct.pack('<BBBBIIHH', 0x27, 0x80, command,
                          1 if ncq else 0, number | 0x40 << 24, 0,
                          slot << 3 if ncq else 1, 0)
        header = struct.pack('<IIII', 5 | write << 6 | 1 << 16, 0, table, 0)
        for at, data in (
                (LIST + slot * 32, header),
                (table, fis.ljust(0x80, b'\0')),
                (table + 0x80, struct.pack('<IIII', buffer, 0, 0, 511)),
                (buffer, bytes([0xee]) * 512)):
            self.q.command('write', at, len(data), '0x' + data.hex())
        if ncq:
            self.put(SACT, 1 << slot)
        self.put(ISSUE, 1 << slot)

    def busy(self):
        return self.get(SACT) | self.get(ISSUE)

    def first_write(self, ncq):
        """The disk takes one at once; what comes next has to wait."""
        self.issue(ncq, True, 0, 90)
        wait_until('the end of the write', lambda: not self.busy())

    def check_read(self, ncq, number):
        """A read as ever."""
        self.issue(ncq, False, 0, number)
        wait_until('the end of the read', lambda: not self.busy())
        assert not self.get(STATE) & 0x81
        assert self.q.read(BUFFERS, 512) == sector(number)


def slow(pair, device):
    """Options for a drive of two writes a second, without a cache."""
    image = extra_image(pair, 'slow')
    with open(image, 'r+b') as file:
        for number in range(100):
            file.write(sector(number))
    return ['-object', 'throttle-group,id=two,x-iops-write=2', '-blockdev',
            f'driver=file,node-name=file9,filename={image}', '-blockdev',
            'driver=throttle,node-name=slow9,throttle-group=two,file=file9',
            '-device', 'ich9-ahci,id=ahci9,addr=9', '-device',
            f'ide-hd,bus={device},drive=slow9,write-cache=off']


def parked(pair):
    """How many there were so far."""
    return DiskPair.drives_of(pair.primary)[0]['parked-writes']


def wait_parked(pair, stop=True):
    """One is: perhaps submitted again already, but not where all stops."""
    before = parked(pair)
    wait_until('a write is parked', lambda: parked(pair) > before)
    if stop:
        pair.primary.qmp('stop')


@pytest.mark.parametrize('reset', [False, True], ids=['off', 'reset'])
@pytest.mark.parametrize('kept', [False, True], ids=['again', 'kept'])
@pytest.mark.parametrize('ncq', [False, True], ids=['dma', 'ncq'])
def test_ahci(make_pair, ncq, kept, reset):
    """Would catch a write that is submitted again without its command list: on
    the primary, or on the backup, which does not even start with it."""
    pair = make_pair(params={'ft-storage': 'shared', 'ft-flush': 'disk'})
    boot(pair, slow(pair, 'ahci9.0'))
    with Qtest(pair.directory) as q:
        port = Port(q)
        port.set_up()
        port.check_read(ncq, 1)
        port.first_write(ncq)
        for slot in range(SLOTS if ncq else 1):
            port.issue(ncq, True, slot, 50 + slot)
        wait_parked(pair, kept)
        assert port.busy()
        port.stop()
        assert not port.busy()
        if reset:
            port.reset()
        if kept:
            pair.primary.qmp('cont')
        epochs_pass(pair, 10)
        assert not port.busy()
        if reset:
            port.check_read(ncq, 2)
    with take_over(pair) as q:
        port.q = q
        assert not port.busy()
        if not reset:
            port.reset()
        for number in 3, 4:
            port.check_read(ncq, number)


def test_ahci_on_again(make_pair):
    """The same where the driver does without the reset."""
    pair = make_pair(params={'ft-storage': 'shared', 'ft-flush': 'disk'})
    boot(pair, slow(pair, 'ahci9.0'))
    with Qtest(pair.directory) as q:
        port = Port(q)
        port.set_up()
        port.check_read(False, 1)
        port.first_write(False)
        port.issue(False, True, 0, 50)
        wait_parked(pair)
        assert port.busy()
        port.stop()
        port.put(COMMAND, START | RECEIVE)
        pair.primary.qmp('cont')
        epochs_pass(pair, 10)
        port.check_read(False, 2)
    with take_over(pair) as q:
        port.q = q
        port.check_read(True, 3)


def write(drive, number):
    """What was read is written there."""
    q = drive.q
    q.outb(drive.master, 0)
    q.outb(0x172, 1)
    q.outb(0x173, number)
    q.outb(0x177, 0xca)
    q.outb(drive.master, 1)


def test_ide(make_pair):
    """Would catch a write that comes again after the reset, and changes what
    the driver has put into the registers."""
    pair = make_pair(params={'ft-storage': 'shared', 'ft-flush': 'disk'})
    start(pair, slow(pair, 'ide.1'))
    fresh = [1, 1, 0, 0]

    def registers():
        return [q.inb(r) for r in (0x172, 0x173, 0x174, 0x175)]

    with Qtest(pair.directory) as q:
        drive = Drive(q)
        drive.prepare(1)
        assert drive.finish() == sector(1)
        write(drive, 90)                        # the disk takes one at once
        wait_until('the end of the write', lambda:
                   not q.inb(drive.master + 2) & ACTIVE)
        write(drive, 77)
        wait_parked(pair)
        assert q.inb(0x376) & 0x80
        q.outb(drive.master, 8)
        q.outb(0x376, 6)
        q.outb(0x376, 2)
        wait_until('the end of the reset', lambda: not q.inb(0x376) & 0x80)
        assert registers() == fresh
        pair.primary.qmp('cont')
        epochs_pass(pair, 10)
        assert registers() == fresh
        assert not q.inb(drive.master + 2) & ACTIVE
    with take_over(pair) as q:
        drive.q = q
        assert registers() == fresh
        drive.prepare(2)
        assert drive.finish() == sector(2)
