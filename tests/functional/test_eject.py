"""The guest ejects a device while it is protected.

SPDX-License-Identifier: GPL-2.0-or-later

device_del is refused; the guest's own registers cannot refuse anything, so
what it ejects stays. The test is the guest's driver.
"""

import pytest

from disks import make_image
from harness import wait_until
from qtest import Qtest, epochs_pass, options

DEVICE = 'dev7'
RNG = ['-object', 'rng-builtin,id=rng7', '-device',
       f'virtio-rng-pci,rng=rng7,id={DEVICE},']


def acpi_pci(q):
    """_EJ0 of slot 6 on bus 0, as the firmware's tables do it."""
    q.outl(0xae10, 0)
    q.outl(0xae08, 1 << 6)


def acpi_dimm(q):
    q.outl(0xa00, 0)
    q.outb(0xa14, 8)


def acpi_cpu(q):
    q.outl(0xaf00, 0)           # the first write makes it the new interface
    q.outl(0xaf00, 1)
    q.outb(0xaf04, 8)


def native_pcie(q):
    """The slot's power goes off, as does its indicator."""
    place = q.config(6, 0, 0x34) & 0xff
    while q.config(6, 0, place) & 0xff != 0x10:
        place = q.config(6, 0, place) >> 8 & 0xff
    control = q.config(6, 0, place + 0x18) & 0xf8ff
    q.config(6, 0, place + 0x18, control | 0x100)
    q.config(6, 0, place + 0x18, control | 0x700)


def native_shpc(q):
    """Its first slot is enabled, then disabled."""
    q.config(6, 0, 4, q.config(6, 0, 4) & 0xffff | 2)
    base = q.config(6, 0, 0x14) << 32 | q.config(6, 0, 0x10) & ~0xf
    for command in 0x06, 0x0f:
        q.writel(base + 0x14, 1 << 8 | command)


def disk(pair):
    return ['-drive', 'if=none,id=drive7,format=raw,file=' +
            make_image(f'{pair.directory}/image7', size=1 << 20),
            '-device', f'virtio-blk-pci,drive=drive7,id={DEVICE},addr=6']


def nic(_):
    return ['-netdev', 'hubport,id=net7,hubid=7', '-device',
            f'virtio-net-pci,netdev=net7,id={DEVICE},addr=6,romfile=']


def rng(_):
    return RNG[:-1] + [RNG[-1] + 'addr=6']


def dimm(_):
    return ['-object', 'memory-backend-ram,id=mem7,size=128M', '-device',
            f'pc-dimm,memdev=mem7,id={DEVICE}']


def cpu(_):
    return ['-smp', '1,sockets=2,maxcpus=2', '-device', 'qemu64-x86_64-cpu,'
            f'socket-id=1,core-id=0,thread-id=0,id={DEVICE}']


def pcie(_):
    return ['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off',
            '-device', 'pcie-root-port,id=port7,chassis=1,slot=1,addr=6',
            *RNG[:-1], RNG[-1] + 'bus=port7']


def shpc(_):
    return ['-global', 'PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off',
            '-device', 'pci-bridge,id=port7,chassis_nr=1,shpc=on,addr=6',
            *RNG[:-1], RNG[-1] + 'bus=port7,addr=1']


CASES = pytest.mark.parametrize('kind, eject', (
    (disk, acpi_pci), (nic, acpi_pci), (rng, acpi_pci), (dimm, acpi_dimm),
    (cpu, acpi_cpu), (pcie, native_pcie), (shpc, native_shpc)))


def start(make_pair, kind):
    """Protected, with a qtest on both sides."""
    pair = make_pair(machine='q35' if kind is pcie else 'pc', memory='64M' +
                     (',slots=2,maxmem=256M' if kind is dimm else ''))
    extra = kind(pair)
    pair.extra = extra + options(pair.directory, 'primary')
    pair.start_primary()
    pair.extra = extra + options(pair.directory, 'backup')
    pair.start_backup()
    pair.protect()
    return pair


def there(machine):
    return any(child['name'] == DEVICE for child in
               machine.qmp('qom-list', path='/machine/peripheral'))


def ejected(machine):
    wait_until('it is gone', lambda: not there(machine))


def stays(pair, eject):
    """It ejects in vain, and somebody is told what to do."""
    with Qtest(pair.directory) as q:
        eject(q)
    epochs_pass(pair)
    assert there(pair.primary)
    assert pair.primary.query()['state'] == 'protected'
    assert not any(event['event'] == 'DEVICE_DELETED'
                   for event in pair.primary.events)
    text = pair.primary.text()
    assert text.count(f"warning: device '{DEVICE}'") == 1, text
    assert 'cuju-migrate-cancel' in text, text
    pair.wait_hash()


@CASES
def test_takeover(make_pair, kind, eject):
    """Would catch a primary that ends as its disk is gone, and a device that
    is there again after a takeover, for a guest that knows it gone. After it
    the guest can eject."""
    pair = start(make_pair, kind)
    stays(pair, eject)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)
    assert there(pair.backup)
    with Qtest(pair.directory, 'backup') as q:
        eject(q)
    ejected(pair.backup)
    pair.goes_on(pair.backup)


@CASES
def test_cancel(make_pair, kind, eject):
    """Would catch a remedy that is none."""
    pair = start(make_pair, kind)
    stays(pair, eject)
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    with Qtest(pair.directory) as q:
        eject(q)
    ejected(pair.primary)
    pair.goes_on()
    pair.cable.check()


def test_pending(make_pair):
    """Would catch a device_del that the guest has not answered yet: it could
    do so at any moment. When it has, all is well."""
    pair = make_pair()
    pair.extra = rng(pair) + options(pair.directory)
    pair.start_primary()
    pair.primary.qmp('device_del', id=DEVICE)
    pair.start_backup(extra=[])
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=pair.uri)
    assert DEVICE in text and 'system_reset' in text, text
    with Qtest(pair.directory) as q:
        acpi_pci(q)
    ejected(pair.primary)
    pair.protect()
    pair.goes_on()
    pair.cable.check()
