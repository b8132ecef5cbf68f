"""Does tests/kvm/run say the truth, and leave nothing behind?

SPDX-License-Identifier: GPL-2.0-or-later

On this machine, not in the outer guest; a few seconds each.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, 'run')
OUT = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'build', 'kvm')
PATIENCE = float(os.environ.get('CUJU_TIMEOUT', '1'))
BOUND = 90 * PATIENCE
# Another run may be on: its waiting for a turn is bounded, too.
TURN = 1800


def children(pid):
    """Processes below one."""
    found = []
    for task in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{task}/children',
                  encoding='ascii') as file:
            found += [int(word) for word in file.read().split()]
    return found


def gone(pid):
    """Has a process ended? A zombie has."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as file:
            return file.read().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError:
        return True


def is_outer(pid):
    """Is this process the outer guest? Others make its images."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            return b'\0-name\0outer\0' in file.read()
    except OSError:
        return False


def rig(*words, seconds=BOUND):
    """One run: status, output, and what the rig itself said."""
    done = subprocess.run([RUN, '--turn', str(TURN), '--seconds',
                           str(seconds), *words], capture_output=True,
                          text=True, check=False,
                          timeout=TURN + seconds + 60)
    return done.returncode, done.stdout, done.stderr


def test_status_output_and_files(tmp_path):
    """All that a command leaves comes back."""
    status, out, err = rig(
        '--out', str(tmp_path / 'out'), '--env', "WORD=it's one", '--', 'sh',
        '-c', 'echo "$WORD"; echo two >&2; seq 100000 > /out/three; '
        'sleep 1000 & seq 100000; kill -9 $$')
    numbers = ''.join(f'{i}\n' for i in range(1, 100001))
    assert status == 128 + signal.SIGKILL, err
    assert out == "it's one\ntwo\n" + numbers
    assert (tmp_path / 'out' / 'three').read_text() == numbers


def test_command_is_not_there():
    status, _, err = rig('--', '/no/such/command')
    assert status == 127, err


@contextlib.contextmanager
def another_run():
    """Nobody else has a turn meanwhile."""
    with contextlib.ExitStack() as stack:
        for number in range(os.cpu_count()):
            file = stack.enter_context(open(f'{OUT}/turn.{number}', 'wb'))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_bound():
    """Too long: 124, and the emulator is gone. Its time begins when it has
    its turn: not before it is let go here. Whether the job has begun by
    then is a question of this machine's speed."""
    limit, waits = 12 * PATIENCE, 4
    emulators = []
    process = None
    try:
        with another_run():
            process = subprocess.Popen(
                [RUN, '--turn', str(TURN), '--seconds', str(limit), '--',
                 'sh', '-c', 'echo begun; sleep 1000'], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            # The images are made before that.
            while 'waits for another run' not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(waits)   # the time itself is what is tried
            begin = time.monotonic()
        while not emulators:    # others may be before it
            assert process.poll() is None
            assert time.monotonic() < begin + TURN
            emulators = [pid for pid in children(process.pid)
                         if is_outer(pid)]
            time.sleep(0.05)
        # Far less than the job would take
        out, err = process.communicate(timeout=limit + 60 * PATIENCE)
        took = time.monotonic() - begin
    finally:
        if process:
            process.kill()
    assert process.returncode == 124 and '--seconds' in err
    assert out in ('', 'begun\n'), err
    assert took >= limit
    assert all(gone(pid) for pid in emulators)


def test_turn():
    """Would catch a run that waits for another one for ever."""
    with another_run():
        begin = time.monotonic()
        status, _, err = rig('--turn', '2', '--', 'true')
    assert time.monotonic() - begin >= 2
    assert status == 125 and '--turn' in err


@pytest.mark.parametrize('details', [0, 2], ids=['brief', 'memory'])
def test_panic(details):
    """Ends at once, with the kernel's words: the first ones, too, however
    long the rest is."""
    status, _, err = rig(
        '--', 'sh', '-c', f'echo {details} > /proc/sys/kernel/panic_print; '
        'echo c > /proc/sysrq-trigger; sleep 1000')
    assert status == 125
    assert 'Kernel panic' in err and 'sysrq_handle_crash' in err, err
    assert ('Mem-Info' in err) == (details > 0), err


def test_no_kvm():
    status, out, err = rig('--cpu', 'EPYC,-svm', '--', 'echo', 'here')
    assert (status, out) == (125, '') and 'no /dev/kvm' in err


def test_parameters_of_modules():
    status, out, err = rig(
        '--kvm-amd', 'npt=0', '--kvm', 'halt_poll_ns=12345', '--', 'sh',
        '-c', 'cat /sys/module/kvm_amd/parameters/npt '
        '/sys/module/kvm/parameters/halt_poll_ns')
    assert (status, out) == (0, 'N\n12345\n'), err


@pytest.mark.parametrize('number', [
    signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_ended_from_outside(number):
    """The emulator ends with us, and no file is left."""
    with subprocess.Popen(
            [RUN, '--seconds', str(BOUND), '--', 'sh', '-c',
             'echo begun; sleep 1000'], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout.readline() == 'begun\n'
            emulators = children(process.pid)
            assert emulators
            files = [name for name in os.listdir(OUT)
                     if name.startswith(f'run.{process.pid}.')]
            process.send_signal(number)
            status = process.wait(20 * PATIENCE)
        finally:
            process.kill()
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert not files
    end = time.monotonic() + 10 * PATIENCE
    while not all(gone(pid) for pid in emulators):
        assert time.monotonic() < end
        time.sleep(0.05)
