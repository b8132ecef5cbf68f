"""The guest has the same CPU after a takeover, or is not protected.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import pytest

import harness

KVM = harness.ACCEL.startswith('kvm')
on_kvm = pytest.mark.skipif(not KVM, reason='KVM only')
# KVM lets nobody choose a frequency where the host cannot scale it.
on_tcg = pytest.mark.skipif(KVM, reason='TCG only')


def _start(pair, primary, backup):
    """Both sides with options of their own."""
    pair.extra = list(primary)
    pair.start_primary()
    pair.start_backup(extra=list(backup))


def _survives(pair):
    pair.protect()
    pair.wait_hash()
    pair.primary.kill()
    pair.taken_over()
    pair.cable.check(takeovers=1)


def _refused(pair, primary, backup):
    """The words with which the backup refuses; the guest runs on."""
    _start(pair, primary, backup)
    since = pair.protect(wait=False)
    text = pair.primary.wait_state('inactive', since=since)
    assert 'the machines differ' in text
    pair.goes_on()
    pair.cable.check()
    assert pair.backup.query()['state'] == 'waiting'
    return text


@pytest.mark.parametrize('cpu', (
    'qemu64', 'max', 'EPYC', 'Skylake-Server', 'qemu64,+avx512f'))
def test_named(make_pair, cpu):
    """Would catch a refusal for what this host, and the other, lack: it is
    not in the guest. And one for what the guest itself has changed."""
    pair = make_pair()
    _start(pair, ['-cpu', cpu], ['-cpu', cpu])
    _survives(pair)


@pytest.mark.parametrize('primary, backup', (
    ('qemu64', 'qemu64,check=off'), ('qemu64,enforce', 'qemu64'),
    ('qemu64,+avx512f', 'qemu64'), ('qemu64,-sse3', 'qemu64,pni=off')))
def test_same_for_the_guest(make_pair, primary, backup):
    """Would catch a comparison of what the guest does not see."""
    pair = make_pair()
    _start(pair, ['-cpu', primary], ['-cpu', backup])
    _survives(pair)


def test_feature_missing(make_pair):
    """Would catch a takeover to a CPU without what the guest uses; then a
    backup that no longer can be used."""
    pair = make_pair()
    text = _refused(pair, ['-cpu', 'qemu64'], ['-cpu', 'qemu64,-sse3'])
    assert ('CPU feature pni: the guest has it, the backup\'s CPU has not'
            in text)
    assert 'named model' in text and 'command line' not in text
    pair.backup.kill()
    pair.start_backup('other')
    _survives(pair)


def test_feature_added(make_pair):
    """Would catch a CPUID that grows at a takeover."""
    text = _refused(make_pair(), ['-cpu', 'qemu64'],
                    ['-cpu', 'qemu64,+avx2,+bmi1,+avx512f'])
    assert ('CPU features avx2, bmi1: the backup\'s CPU has them, the guest '
            'has not' in text)
    assert 'avx512f' not in text


def test_many(make_pair):
    """Would catch an endless list, or one without an end."""
    names = ('avx', 'avx2', 'f16c', 'fma', 'bmi1', 'bmi2', 'movbe', 'popcnt',
             'rdrand', 'rdseed', 'sha-ni', 'smap', 'smep', 'adx')
    less = ','.join(f'-{name}' for name in names)
    text = _refused(make_pair(), ['-cpu', 'max'], ['-cpu', f'max,{less}'])
    assert 'CPU features adx, avx, avx2, bmi1, bmi2, f16c, fma,' in text
    assert ' and 2 more: the guest has them' in text


def test_model(make_pair):
    """Would catch a list of features where the name says it all."""
    text = _refused(make_pair(), ['-cpu', 'qemu64'], ['-cpu', 'EPYC'])
    assert 'qemu64-x86_64-cpu' in text and 'EPYC-x86_64-cpu' in text
    assert 'feature' not in text and 'command line' in text


@pytest.mark.parametrize('option, words', (
    ('phys-bits=36', "CPU's phys-bits: primary 40, backup 36"),
    ('stepping=7', "CPU's stepping: primary 1, backup 7"),
    ('vendor=GenuineIntel',
     "CPU's vendor: primary AuthenticAMD, backup GenuineIntel"),
    ('model-id=another', "CPU's model-id: primary QEMU Virtual CPU"),
    ('xlevel=0x80000004', "CPU's xlevel: primary 2147483658")))
def test_values(make_pair, option, words):
    """Would catch what differs and is no feature."""
    assert words in _refused(make_pair(), ['-cpu', 'qemu64'],
                             ['-cpu', f'qemu64,{option}'])


def test_topology(make_pair):
    """Would catch what has no name, and is in CPUID only."""
    text = _refused(make_pair(), ['-smp', '2,cores=2,threads=1'],
                    ['-smp', '2,cores=1,threads=2'])
    assert 'CPUID 0000000b.00000000: primary 00000000 00000001 ' in text
    assert 'command line' in text


@on_tcg
@pytest.mark.parametrize('primary, backup, words', (
    ('2000000000', '2100000000', 'primary 2000000 kHz'),
    ('2000000000', None, 'backup none'),
    (None, '2000000000', 'primary none')))
def test_tsc(make_pair, primary, backup, words):
    """Would catch a state that does not load at the takeover: QEMU insists
    on a frequency that it was given."""
    def cpu(frequency):
        return ['-cpu', 'qemu64' + (f',tsc-frequency={frequency}'
                                    if frequency else '')]
    text = _refused(make_pair(), cpu(primary), cpu(backup))
    assert 'TSC frequency: ' in text and words in text
    assert 'tsc-frequency=' in text


@on_tcg
def test_same_tsc(make_pair):
    """... and nothing else."""
    pair = make_pair()
    cpu = ['-cpu', 'qemu64,tsc-frequency=2000000000']
    _start(pair, cpu, cpu)
    _survives(pair)


def test_unlike_cpus(make_pair):
    """Would catch a machine whose first CPU speaks for the others."""
    def second(feature):
        return ['-smp', '1,maxcpus=2,sockets=2', '-cpu', 'qemu64', '-device',
                'qemu64-x86_64-cpu,socket-id=1,core-id=0,thread-id=0,'
                f'{feature}=on']
    text = _refused(make_pair(), second('avx2'), second('bmi1'))
    assert 'CPU 1: CPU feature avx2: the guest has it' in text
    assert 'CPU 1: CPU feature bmi1: the backup' in text
    assert 'CPU 0' not in text


def test_unlike_but_the_same(make_pair):
    """... and one that is refused for its unlike CPUs."""
    pair = make_pair()
    both = ['-smp', '1,maxcpus=2,sockets=2', '-cpu', 'qemu64', '-device',
            'qemu64-x86_64-cpu,socket-id=1,core-id=0,thread-id=0,avx2=on']
    _start(pair, both, both)
    _survives(pair)


@on_kvm
@pytest.mark.parametrize('cpu', ('host', 'host,-svm', 'qemu64,-svm'))
def test_kvm(make_pair, cpu):
    """Would catch a host that finds itself unlike itself."""
    pair = make_pair()
    _start(pair, ['-cpu', cpu], ['-cpu', cpu])
    _survives(pair)


@on_kvm
def test_host_lacks(make_pair):
    """Would catch a guest of one host on another that has less."""
    text = _refused(make_pair(), ['-cpu', 'host'],
                    ['-cpu', 'host,-avx2,-kvm-pv-eoi,-kvm-steal-time'])
    assert ('CPU features avx2, kvm-pv-eoi, kvm-steal-time: the guest has '
            'them, the backup\'s CPU has not' in text)


@on_kvm
@pytest.mark.parametrize('primary, backup', (
    ('on', 'split'), ('split', 'on')))
def test_irqchip(make_pair, primary, backup):
    """Would catch interrupts that stay behind in the other's kernel."""
    text = _refused(make_pair(),
                    ['-machine', f'kernel-irqchip={primary}'],
                    ['-machine', f'kernel-irqchip={backup}'])
    assert (f"KVM's irqchip: primary {primary}, backup {backup} (use "
            '-machine kernel-irqchip= on both)' in text)


@on_kvm
def test_two_kvm_cpus(make_pair):
    """Would catch what a vCPU has of its own and counts as a difference."""
    pair = make_pair()
    both = ['-smp', '2', '-cpu', 'host']
    _start(pair, both, both)
    _survives(pair)
