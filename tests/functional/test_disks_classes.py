"""Block devices that are no plain disks, each with its answer.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import shutil
import subprocess

import pytest

from disks import DiskPair, make_image
from harness import QEMU, Broken
from test_disks import takeover


def firmware():
    """SeaBIOS' image, from where this QEMU looks for firmware."""
    out = subprocess.run([QEMU, '-L', 'help'], capture_output=True, text=True,
                         check=True).stdout
    for path in out.split():
        if os.path.exists(f'{path}/bios-256k.bin'):
            return f'{path}/bios-256k.bin'
    raise Broken(f'no bios-256k.bin in {out}')


def extra_image(pair, name, size=1 << 20):
    return make_image(f'{pair.directory}/{name}.img', 'raw', size)


@pytest.mark.parametrize('device', [
    'ide-cd,drive=cd0', 'scsi-cd,bus=s.0,drive=cd0'])
@pytest.mark.parametrize('medium', [True, False])
def test_cdrom(make_pair, device, medium):
    """A CD-ROM, or an empty tray, beside a disk."""
    pair = make_pair(DiskPair)
    options = 'if=none,id=cd0,media=cdrom'
    if medium:
        options += f',file={extra_image(pair, "cd")},format=raw'
    pair.extra = ['-drive', options, '-device', 'virtio-scsi-pci,id=s',
                  '-device', device]
    pair.protected()
    assert [d['drive'] for d in pair.drives_of(pair.primary)] == ['drive0']
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_pflash(make_pair):
    """UEFI's variables: a flash that the guest can write."""
    pair = make_pair(DiskPair)
    code = f'{pair.directory}/code.fd'
    shutil.copyfile(firmware(), code)
    variables = extra_image(pair, 'vars', 64 << 10)
    pair.extra = ['-drive', f'if=pflash,unit=0,format=raw,readonly=on,'
                  f'file={code}',
                  '-drive', f'if=pflash,unit=1,format=raw,file={variables}']
    pair.protected()
    assert sorted(d['drive'] for d in pair.drives_of(pair.primary)) == [
        'drive0', 'pflash1']
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_readonly(make_pair):
    """A disk that the guest cannot write needs no journal."""
    pair = make_pair(DiskPair)
    pair.extra = ['-drive', 'if=none,id=ro0,format=raw,readonly=on,'
                  f'file={extra_image(pair, "ro")}',
                  '-device', 'virtio-blk-pci,drive=ro0,disable-legacy=on']
    pair.protected()
    assert [d['drive'] for d in pair.drives_of(pair.primary)] == ['drive0']
    pair.wait_writes(pair.primary, 50)
    takeover(pair)


def test_user_beside_the_guest(make_pair):
    """Would catch a writer whose writes go round the journal."""
    pair = make_pair(DiskPair, rest=',share-rw=on')
    pair.start()
    pair.primary.qmp('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': f'{pair.directory}/nbd'}})
    node = pair.primary.qmp('query-block')[0]['inserted']['node-name']
    pair.primary.qmp('block-export-add', type='nbd', id='e0', writable=True,
                     **{'node-name': node})
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=pair.uri)
    assert 'drive0' in text and 'also used' in text
    pair.goes_on()


def test_copy_on_read(make_pair):
    pair = make_pair(DiskPair, drive=',copy-on-read=on')
    pair.start()
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=pair.uri)
    assert 'drive0' in text and 'copy-on-read' in text
