"""The rig itself: is what the other tests need there?

SPDX-License-Identifier: GPL-2.0-or-later
"""

import ctypes
import fcntl
import os
import re
import subprocess
import sys
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'functional'))
import ftguest  # noqa: E402

QEMU = f'{ROOT}/x86_64-softmmu/qemu-system-x86_64'
GUEST = f'{ROOT}/build/guest/bare/ftguest.elf'
# KVM's API; the numbers are those of linux/kvm.h.
KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION = \
    0xae00, 0xae01, 0xae03
KVM_GET_TSC_KHZ = 0xaea3
CAPABILITIES = {
    'IRQCHIP': (0, 1), 'USER_MEMORY': (3, 1), 'SYNC_REGS': (74, 1),
    'SPLIT_IRQCHIP': (121, 1), 'IMMEDIATE_EXIT': (136, 1),
    'MANUAL_DIRTY_LOG_PROTECT2': (168, 1), 'DIRTY_LOG_RING': (192, 1 << 16),
    'XSAVE2': (208, 1), 'XCRS': (56, 1), 'VCPU_EVENTS': (41, 1)}


@pytest.fixture(name='kvm')
def open_kvm():
    with open('/dev/kvm', 'r+b', buffering=0) as file:
        yield file


def test_api(kvm):
    assert fcntl.ioctl(kvm, KVM_GET_API_VERSION) == 12


@pytest.mark.parametrize('name', CAPABILITIES)
def test_capability(kvm, name):
    number, least = CAPABILITIES[name]
    assert fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, number) >= least


def parameter(name):
    with open(f'/sys/module/kvm_amd/parameters/{name}',
              encoding='ascii') as file:
        return file.read().strip()


def test_nested_paging():
    assert parameter('npt') in ('Y', '1')


def test_clock():
    """Cheap to read, and the kernel of the outer guest believes in it."""
    with open('/sys/devices/system/clocksource/clocksource0/'
              'current_clocksource', encoding='ascii') as file:
        assert file.read().strip() == 'tsc'
    begin = time.monotonic()
    for _ in range(20000):
        time.monotonic()
    assert (time.monotonic() - begin) / 20000 < 100e-6


def test_kvm_has_the_same_frequency(kvm):
    """Guests' clocks run at the speed that KVM believes the TSC to have; what
    the kernel went by until it had measured it is another one. It keeps that
    only where its measurement is more than 1 % off, and says nothing then."""
    done = subprocess.run(['dmesg'], capture_output=True, text=True,
                          check=True)
    said = re.findall(
        r'tsc: (?:Detected|Refined TSC clocksource calibration:) ([\d.]+) MHz',
        done.stdout)
    assert said, 'the kernel does not say how fast the TSC is'
    mhz = float(said[-1])
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    try:
        assert fcntl.ioctl(vm, KVM_GET_TSC_KHZ, 0) == round(mhz * 1000)
    finally:
        os.close(vm)


def test_processors_agree_on_time():
    """One clock for all processors: it never goes back between them."""
    last = time.monotonic_ns()
    mine = os.sched_getaffinity(0)
    try:
        for turn in range(400):
            os.sched_setaffinity(0, {sorted(mine)[turn % len(mine)]})
            now = time.monotonic_ns()
            assert now >= last
            last = now
    finally:
        os.sched_setaffinity(0, mine)


def test_tmp_takes_direct_io(tmp_path):
    """cache=none needs it."""
    fd = os.open(tmp_path / 'f', os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.close(fd)


def test_tracepoints():
    done = subprocess.run(
        ['perf', 'stat', '-e', 'kvm:kvm_exit', '-a', 'true'],
        capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and 'kvm:kvm_exit' in done.stderr, \
        done.stderr


def test_namespaces_and_taps():
    """What the hosts of tests/functional are made of."""
    for command in (['ip', 'netns', 'add', 'rig'],
                    ['ip', '-n', 'rig', 'link', 'add', 'br0', 'type',
                     'bridge'],
                    ['ip', '-n', 'rig', 'link', 'add', 'v0', 'type', 'veth',
                     'peer', 'name', 'v1'],
                    ['ip', '-n', 'rig', 'tuntap', 'add', 'tap0', 'mode',
                     'tap'],
                    ['ip', 'netns', 'del', 'rig']):
        done = subprocess.run(command, capture_output=True, text=True,
                              check=False, timeout=60)
        assert done.returncode == 0, f'{command}: {done.stderr}'


def mapped_by(pid):
    """Has this process made a virtual machine?"""
    return any(os.readlink(entry.path) == 'anon_inode:kvm-vm'
               for entry in os.scandir(f'/proc/{pid}/fd'))


def prepare():
    """The child of subprocess: it must not outlive us."""
    ctypes.CDLL(None).prctl(1, 9)


@pytest.mark.parametrize('accel', [
    'kvm,kernel-irqchip=on', 'kvm,kernel-irqchip=split',
    'kvm,kernel-irqchip=on,dirty-ring-size=4096'])
@pytest.mark.parametrize('cpus', [1, 2])
def test_bare_guest(tmp_path, accel, cpus):
    """It boots, sends frames without a gap, and answers."""
    with ftguest.Wire(f'{tmp_path}/wire', f'{tmp_path}/net') as wire, \
         open(tmp_path / 'log', 'w+b') as log:
        qemu = subprocess.Popen(
            [QEMU, '-accel', accel, '-cpu', 'host', '-smp', str(cpus),
             '-m', '64M', '-nodefaults', '-display', 'none', '-vga', 'none',
             '-serial', f'file:{tmp_path}/serial', '-kernel', GUEST,
             '-append', 'mode=count,touch pages=256', '-netdev',
             wire.netdev(), '-device', 'virtio-net-pci,netdev=n0,romfile='],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=prepare)
        try:
            watch = ftguest.Watch()
            end = time.monotonic() + 60
            while watch.count < 200 and time.monotonic() < end:
                got = wire.receive(1)
                if got:
                    watch(*got)
                if qemu.poll() is not None:
                    log.seek(0)
                    pytest.fail(f'QEMU ended: {log.read().decode()}')
            assert watch.count >= 200
            assert not watch.problems and not watch.gaps
            assert mapped_by(qemu.pid)
            assert wire.echo(b'are you there?', 10, watch) is not None
            wire.send(ftguest.KIND_POWER_OFF)
            assert qemu.wait(20) == 0
        finally:
            qemu.kill()
            qemu.wait()
