"""Devices between two accesses of their driver, when an epoch ends.

SPDX-License-Identifier: GPL-2.0-or-later

Saving a device for an ordinary migration may leave it changed, as nobody goes
on with it; and what a device does to memory must be known to be dirty. The
test is the driver, so that an epoch ends wherever it wants one to.
"""

import os

import pytest

import qtest
from disks import DiskPair
from harness import wait_until
from qtest import Qtest, epochs_pass
from test_disks_classes import extra_image, firmware


def start(pair, extra=()):
    """Protected, with a qtest on both sides."""
    pair.extra = [*extra, *qtest.options(pair.directory, 'primary')]
    pair.start_primary()
    pair.extra = [*extra, *qtest.options(pair.directory, 'backup')]
    pair.start_backup()
    pair.protect()
    return pair


def take_over(pair):
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)
    return Qtest(pair.directory, 'backup')


# ------------------------------------------------------------------- flash

def test_flash(make_pair):
    """Would catch UEFI variables that are on the primary's disk and not in the
    backup's memory, from where a takeover writes them over the disk's."""
    pair = make_pair(DiskPair)
    code, size, place = firmware(), 64 << 10, 5000
    variables = extra_image(pair, 'vars', size)
    start(pair, ['-drive', f'if=pflash,unit=0,format=raw,readonly=on,'
                 f'file={code}', '-drive',
                 f'if=pflash,unit=1,format=raw,file={variables}'])
    base = (1 << 32) - os.path.getsize(code) - size
    with Qtest(pair.directory) as q:
        for i, byte in enumerate(b'cuju'):
            q.writeb(base + place + i, 0x40)    # program a byte
            q.writeb(base + place + i, byte)
        q.writeb(base, 0xff)                    # it is memory again
        assert q.read(base + place, 4) == b'cuju'
    epochs_pass(pair)
    pair.wait_hash()
    with take_over(pair) as q:
        assert q.read(base + place, 4) == b'cuju'
    pair.backup.quit()
    pair.backup.wait_exit()
    with open(variables, 'rb') as file:
        file.seek(place)
        assert file.read(4) == b'cuju'


# --------------------------------------------------------------------- RTC

def test_clock_is_set(make_pair):
    """Would catch a date that the guest sets and that is undone meanwhile:
    as Linux does it, with an epoch at each step."""
    pair = start(make_pair())

    def put(q, register, value):
        q.outb(0x70, register)
        q.outb(0x71, value)

    def get(q, register):
        q.outb(0x70, register)
        return q.inb(0x71)

    with Qtest(pair.directory) as q:
        control, divider = get(q, 0x0b), get(q, 0x0a)
        put(q, 0x0b, control | 0x80)
        put(q, 0x0a, divider | 0x70)
        epochs_pass(pair)
        put(q, 9, 0x42)                         # the year
        epochs_pass(pair)
        put(q, 0x0b, control)
        epochs_pass(pair)
        put(q, 0x0a, divider)
        assert get(q, 9) == 0x42
    epochs_pass(pair)
    with take_over(pair) as q:
        assert get(q, 9) == 0x42


# ------------------------------------------------------------------ virtio

def test_interrupt_under_way(make_pair):
    """Would catch a guest that waits for an interrupt for ever which was in
    an eventfd, or on its way in KVM, when the interrupt controllers were
    saved: after a takeover each queue has one."""
    pair = start(make_pair(), ['-device', 'virtio-rng-pci,addr=9,'
                               'disable-modern=on,vectors=0'])
    queue_pfn, status, isr = 8, 18, 19
    with Qtest(pair.directory) as q:
        base = q.config(9, 0, 0x10) & ~3
        q.outl(base + queue_pfn, 0x3000)
        q.outb(base + status, 7)                # its driver is there
        assert q.inb(base + isr) == 0
        epochs_pass(pair)
        assert q.inb(base + isr) == 0
    with take_over(pair) as q:
        assert q.config(9, 0, 0x10) & ~3 == base
        assert q.inb(base + status) == 7
        assert q.inb(base + isr) == 1
        assert q.inb(base + isr) == 0           # reading it ends it


# --------------------------------------------------------------------- IDE

PRD, BUFFER = 0x3000000, 0x3001000
COMMAND, STATUS, ACTIVE = 0x177, 0x376, 1


class Drive:
    """The first drive at the PIIX3's second channel, read by its driver."""

    def __init__(self, q):
        self.q = q
        slot, function = 1, 1
        q.config(slot, function, 4, q.config(slot, function, 4) | 5)
        self.master = (q.config(slot, function, 0x20) & 0xfff0) + 8

    def prepare(self, sector):
        """The command is given; the bus master stands."""
        q = self.q
        q.writel(PRD, BUFFER)
        q.writel(PRD + 4, 1 << 31 | 512)
        q.writel(BUFFER, 0xdeadbeef)
        q.outb(STATUS, 2)                       # no interrupts
        q.outl(self.master + 4, PRD)
        q.outb(self.master, 8)                  # to memory
        q.outb(self.master + 2, 6)
        q.outb(0x176, 0xe0)
        for register, value in (0x172, 1), (0x173, sector), (0x174, 0), \
                (0x175, 0):
            q.outb(register, value)
        q.outb(COMMAND, 0xc8)

    def finish(self):
        """Start the bus master; what it has read."""
        q = self.q
        q.outb(self.master, 9)
        wait_until('the end of the transfer', lambda:
                   not q.inb(self.master + 2) & ACTIVE)
        q.outb(self.master, 8)
        assert not q.inb(COMMAND) & 0x81        # not busy, no error
        return q.read(BUFFER, 512)


def sector(number):
    return bytes([number]) * 512


def test_ide_command_waits(make_pair):
    """Would catch a request that is submitted behind the driver's back, as
    saving its bus has made it one to be submitted again."""
    pair = make_pair()
    image = extra_image(pair, 'ide')
    with open(image, 'r+b') as file:
        for number in range(100):
            file.write(sector(number))
    start(pair, ['-drive', f'if=none,id=ide9,format=raw,file={image}',
                 '-device', 'ide-hd,bus=ide.1,drive=ide9'])
    with Qtest(pair.directory) as q:
        drive = Drive(q)
        for number in range(1, 60):
            drive.prepare(number)
            if number % 4 == 0:
                epochs_pass(pair, 1)
            assert drive.finish() == sector(number)
        pair.wait_hash()
        drive.prepare(77)
        epochs_pass(pair)
    with take_over(pair) as q:
        drive.q = q
        assert drive.finish() == sector(77)


# ------------------------------------------------------ sound and consoles

@pytest.mark.parametrize('options', [
    ['-device', 'AC97,audiodev=a', '-audiodev', 'none,id=a'],
    ['-device', 'virtio-serial-pci', '-chardev', 'null,mux=on,id=m', '-device',
     'virtconsole,chardev=m', '-mon', 'chardev=m']])
def test_pause_is_no_stop(make_pair, options):
    """They live through epochs and a takeover."""
    pair = start(make_pair(), options)
    epochs_pass(pair, 20)
    pair.wait_hash()
    take_over(pair).__exit__()
