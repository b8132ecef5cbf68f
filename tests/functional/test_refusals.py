"""What cannot be protected is refused, by name, and the guest runs on.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import pytest

import harness
from disks import DiskPair
from harness import wait_until


def _refused_here(pair, *words):
    """`migrate` on the primary fails at once and says why."""
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    text = pair.primary.refused('migrate', uri=f'unix:{pair.directory}/none')
    for word in words:
        assert word in text
    pair.goes_on()
    pair.cable.check()


def _refused_there(pair, *words, uri=None):
    """`migrate` begins and fails; the reason says why."""
    since = pair.protect(uri=uri, wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    for word in words:
        assert word in text
    pair.goes_on()
    pair.cable.check()


def _disk(pair):
    path = f'{pair.directory}/disk.img'
    with open(path, 'wb') as file:
        file.truncate(1 << 20)
    return path


@pytest.mark.parametrize('device', (
    ['usb-storage,drive=data7'], ['floppy,drive=data7'],
    ['mptsas1068,id=sas', 'scsi-hd,bus=sas.0,drive=data7']))
def test_writable_drive(make_pair, device):
    """Would catch a disk whose requests cannot be part of an epoch."""
    pair = make_pair()
    pair.extra = ['-drive', f'if=none,id=data7,format=raw,file={_disk(pair)}',
                  '-device', 'piix3-usb-uhci']
    for one in device:
        pair.extra += ['-device', one]
    pair.start_primary()
    _refused_here(pair, 'data7', 'readonly')


@pytest.mark.parametrize('device', (
    'lsi53c895a', 'lsi53c810', 'megasas', 'megasas-gen2', 'pvscsi', 'am53c974',
    'dc390', 'vmware-svga', 'ati-vga', 'edu', 'pci-testdev'))
def test_device(make_pair, device):
    """Would catch a device of which a part is lost, or that cannot be saved
    at any moment."""
    pair = make_pair()
    pair.extra = ['-device', f'{device},id=dev7,romfile=']
    pair.start_primary()
    _refused_here(pair, 'dev7', device, 'cannot be protected')


CAN = ['-object', 'can-bus,id=can7', '-device']


@pytest.mark.parametrize('device, options', (
    ('kvaser_pci', CAN + ['kvaser_pci,canbus=can7,id=dev7']),
    *((name, CAN + [f'{name},canbus0=can7,canbus1=can7,id=dev7'])
      for name in ('ctucan_pci', 'pcm3680_pci', 'mioe3680_pci')),
    ('ipmi-bmc-extern', ['-chardev', 'null,id=chr7', '-device',
                         'ipmi-bmc-extern,chardev=chr7,id=dev7']),
    ('uefi-vars-x64', ['-device', 'uefi-vars-x64,id=dev7'])))
def test_device_that_acts(make_pair, device, options):
    """Would catch one whose output, or whose file, is ahead of the epochs."""
    pair = make_pair(machine='q35')
    pair.extra = options
    pair.start_primary()
    _refused_here(pair, 'dev7', device, 'cannot be protected')


def test_mode(make_pair):
    """Would catch a mode of migration in which blockers do not count."""
    pair = make_pair()
    pair.start_primary()
    pair.primary.qmp('migrate-set-parameters', mode='cpr-reboot')
    _refused_here(pair, 'cpr-reboot', "'normal'")


def test_readonly_drive(make_pair):
    """Would catch a refusal of more than must be refused."""
    pair = make_pair()
    pair.extra = ['-drive', 'if=none,id=data7,format=raw,readonly=on,'
                  f'file={_disk(pair)}', '-device',
                  'virtio-blk-pci,drive=data7']
    pair.protected()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_second_session(make_pair):
    """Would catch a second `migrate` that tears down the first session."""
    pair = make_pair().protected()
    text = pair.primary.refused('migrate', uri=pair.uri)
    assert 'cuju-migrate-cancel' in text
    # without the capability, too
    text = None
    try:
        pair.primary.qmp('migrate-set-capabilities', capabilities=[
            {'capability': 'cuju-ft', 'state': False}])
    except harness.QMPError as error:
        text = str(error)
    if text is None:
        assert 'cuju-migrate-cancel' in pair.primary.refused(
            'migrate', uri=f'unix:{pair.directory}/elsewhere')
    pair.cable.wait_more(10, pair.primary)
    assert pair.primary.query()['state'] == 'protected'
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_other_ram_size(make_pair):
    """Would catch a backup into whose memory the guest does not fit; the
    message must let the reader see which side has what."""
    pair = make_pair()
    pair.start_primary()
    pair.start_backup(memory='96M')
    _refused_there(pair, '64 MiB', '96 MiB')
    assert pair.backup.query()['state'] == 'waiting'


def test_other_devices(make_pair):
    """Would catch a backup that could not load the guest's device state,
    which would show only when it is too late."""
    pair = make_pair()
    pair.start_primary()
    pair.start_backup(extra=['-device', 'virtio-rng-pci'])
    _refused_there(pair, 'virtio-rng')
    assert pair.backup.query()['state'] == 'waiting'


def test_other_machine(make_pair):
    """The same for the kind of the machine."""
    pair = make_pair()
    pair.start_primary()
    pair.machine = 'q35'
    pair.start_backup()
    _refused_there(pair, 'q35')


def test_bad_parameters(make_pair):
    """Would catch values that the epoch loop cannot work with."""
    pair = make_pair()
    primary = pair.start_primary()
    before = primary.qmp('query-ft-parameters')
    for name, value in (('ft-epoch-us', 999), ('ft-epoch-us', 1000001),
                        ('ft-depth', 0), ('ft-depth', 17),
                        ('ft-ack-timeout-ms', 99),
                        ('ft-ack-timeout-ms', 60001),
                        ('ft-hold-packets', 0), ('ft-hold-bytes', 65535)):
        text = primary.refused('ft-set-parameters',
                               **{'ft-hash': 1, name: value})
        assert name in text and str(value) in text
    assert primary.qmp('query-ft-parameters') == before
    assert primary.refused('cuju-adjust-epoch', epoch=1)


@pytest.mark.parametrize('command, arguments', (
    ('device_add', {'driver': 'virtio-rng-pci', 'id': 'new'}),
    ('netdev_add', {'type': 'user', 'id': 'new'}),
    ('netdev_del', {'id': 'n0'}),
    ('object-add', {'qom-type': 'filter-dump', 'id': 'new', 'netdev': 'n0',
                    'file': '/dev/null'}),
    ('dump-guest-memory', {'paging': False, 'protocol': 'file:/dev/null'}),
    ('device_del', {'id': 'nic'})))
def test_changes(make_pair, command, arguments):
    """Would catch a machine that no longer is what the backup has, output
    that is seen before it is committed, and a guest that is stopped by
    something that the backup knows nothing of."""
    pair = make_pair(nic='virtio-net-pci,id=nic').protected(hashed=False)
    assert 'cuju-migrate-cancel' in pair.primary.refused(command, **arguments)
    pair.cable.wait_more(10, pair.primary)
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def test_savevm(make_pair):
    """Would catch a snapshot that runs into the middle of an epoch."""
    pair = make_pair().protected(hashed=False)
    text = pair.primary.hmp('savevm one')
    assert 'cuju-migrate-cancel' in text or 'protected' in text, text
    pair.goes_on()
    assert pair.primary.query()['state'] == 'protected'
    pair.cable.check()


def test_resize(make_pair):
    """Would catch an image that the backup does not take, as it has another
    size: by the name of any node of it."""
    pair = make_pair(DiskPair, storage='replicated').protected()
    nodes = [node['node-name'] for node in
             pair.primary.qmp('query-named-block-nodes')]
    assert len(nodes) >= 3              # the filter, raw, the file
    for node in nodes:
        assert 'cuju-migrate-cancel' in pair.primary.refused(
            'block_resize', **{'node-name': node, 'size': 16 << 20})
    # Nothing is written, and that is no error.
    pair.primary.hmp('qemu-io drive0 "write 4194304 0"')
    assert 'wrote 0/0 bytes' in pair.primary.text('log')
    pair.primary.kill()
    pair.taken_over()
    pair.disk_check()


def test_loadvm(make_pair):
    """Would catch a disk that is rolled back under the journal: the primary
    died of it, and the backup went on with the wrong disk."""
    pair = make_pair(DiskPair, form='qcow2', params={'ft-hash': 0})
    pair.start_primary()
    pair.wait_writes(pair.primary, 20)
    assert not pair.primary.hmp('savevm one').strip()
    pair.start_backup()
    pair.protect()
    text = pair.primary.hmp('loadvm one')
    assert 'cuju-migrate-cancel' in text, text
    assert 'a backup' in pair.backup.hmp('loadvm one')
    assert 'cuju-migrate-cancel' in pair.primary.hmp('delvm one')
    node = next(device['inserted']['node-name']
                for device in pair.primary.qmp('query-block')
                if device.get('inserted'))
    pair.primary.qmp('snapshot-load', tag='one', devices=[node],
                     vmstate=node, **{'job-id': 'load'})
    wait_until('the job ends', lambda: pair.primary.qmp(
        'query-jobs')[0]['status'] == 'concluded')
    assert 'cuju-migrate-cancel' in pair.primary.qmp('query-jobs')[0]['error']
    pair.primary.qmp('job-dismiss', id='load')
    pair.wait_writes(pair.primary, 20)
    pair.primary.kill()
    pair.taken_over()
    pair.disk_check()
    # Ordinary again
    assert not pair.backup.hmp('loadvm one').strip()
    assert pair.backup.running()


def test_nobody_listens(make_pair):
    """Would catch an error that nobody is told."""
    pair = make_pair(transport='tcp')
    pair.start_primary()
    _refused_there(pair, 'refused', uri=pair.address('nobody'))


def test_no_such_path(make_pair):
    """The same for a unix socket that is not there."""
    pair = make_pair()
    pair.start_primary()
    _refused_there(pair, 'No such file', uri=pair.address('nobody'))


def test_unknown_host(make_pair):
    """Would catch a guest that stands still while a name is looked up."""
    pair = make_pair()
    pair.start_primary()
    _refused_there(pair, 'no-such-host.invalid',
                   uri='tcp:no-such-host.invalid:4441')


@pytest.mark.parametrize('uri', ('exec:cat', 'fd:3', 'tcp:nonsense', ''))
def test_bad_uri(make_pair, uri):
    """Would catch addresses that the session cannot use."""
    pair = make_pair()
    pair.start_primary()
    pair.primary.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    assert pair.primary.refused('migrate', uri=uri)
    pair.goes_on()
    assert pair.primary.query()['role'] == 'none'


def test_backup_is_no_primary(make_pair):
    """Would catch a backup that is protected before it has a guest."""
    pair = make_pair().protected(hashed=False)
    pair.backup.qmp('migrate-set-capabilities', capabilities=[
        {'capability': 'cuju-ft', 'state': True}])
    assert pair.backup.refused('migrate', uri=pair.address('next'))
    # QEMU takes `cont` for a wish for later: nothing may run now
    pair.backup.qmp('cont')
    pair.goes_on()
    assert not pair.backup.running()
    assert pair.backup.query()['state'] == 'standby'
    pair.cable.check()
