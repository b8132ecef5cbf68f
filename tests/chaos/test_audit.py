"""The audit must be able to fail: forged evidence, and real.

SPDX-License-Identifier: GPL-2.0-or-later

A harness that finds nothing is worth what it would find. Here it gets captures
with a double-live side, a lost write, a duplicate and so on, files and
processes that should not be there, and a cable that must do what it is told.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), 'functional')]
import audit  # noqa: E402
import faults  # noqa: E402
import ftguest  # noqa: E402
import play  # noqa: E402
import table  # noqa: E402
from cable import PROGRAMS, PairCable  # noqa: E402
from clients import RedisClient  # noqa: E402
from linux import HOSTS, Lab, namespace  # noqa: E402
from pgclient import ServerError  # noqa: E402
from watch import Watch  # noqa: E402

UUID = '11111111-2222-3333-4444-555555555555'
MS = 1000000


def frame(counter, kind=ftguest.KIND_COUNTER, payload=b'', **other):
    fields = {'generation': counter, 'ticks': counter, 'errors': 0, 'boot': 0,
              'loops': 0, 'clock_us': 1000 * counter, 'irqs_lost': 0, **other}
    return ftguest.Frame(b'\0' * 6, kind, counter, fields['generation'],
                         fields['ticks'], fields['errors'], fields['boot'],
                         fields['loops'], fields['clock_us'],
                         fields['irqs_lost'], payload)


class Tale:
    """A story with two processes, told line by line."""

    def __init__(self, strict=False):
        self.story = audit.Story(strict=strict)
        self.story.begins('pri', '0-pri', 0)
        self.story.begins('bak', '1-bak', 0)
        self.now = 0

    def says(self, host, *frames):
        for one in frames:
            self.now += MS
            self.story.hear(self.now, host, one)
        return self

    def counts(self, host, first, last):
        return self.says(host, *map(frame, range(first, last + 1)))

    def verdicts(self):
        return [verdict for verdict, _ in self.story.problems]


def test_good_story():
    tale = Tale().counts('pri', 1, 50).counts('bak', 51, 90)
    assert tale.verdicts() == []
    assert [(str(a), str(b)) for _, a, b in tale.story.turns] == [
        ('0-pri', '1-bak')]
    # the host that died is used again, by a new process
    tale.story.begins('pri', '2-pri', tale.now)
    tale.counts('pri', 91, 120)
    assert tale.verdicts() == []
    assert len(tale.story.turns) == 2


def test_gap_at_takeover_only():
    assert Tale().counts('pri', 1, 9).counts('bak', 30, 40).verdicts() == []
    assert Tale().counts('pri', 1, 9).counts('bak', 99, 99).verdicts() == [
        'lost']
    assert Tale().counts('pri', 1, 9).counts('pri', 11, 12).verdicts() == [
        'lost']


def test_double_live():
    """Both go on: each frame of the old side is one too many."""
    tale = Tale().counts('pri', 1, 20).counts('bak', 21, 21)
    tale.counts('pri', 21, 23)
    assert tale.verdicts() == ['double-live'] * 3


def test_double_live_before_the_first_counter():
    """The new side has only announced itself when the old one speaks."""
    tale = Tale().counts('pri', 1, 20).says('bak', None)
    tale.counts('pri', 21, 22)
    assert tale.verdicts() == []            # not known yet whether it is new
    tale.counts('bak', 21, 25)
    assert tale.verdicts() == ['double-live'] * 2


def test_late_is_not_double():
    """What the new side knew may come late; it is counted."""
    tale = Tale().counts('pri', 1, 20).counts('bak', 23, 25)
    tale.counts('pri', 21, 22)
    assert tale.verdicts() == []
    assert tale.story.late == 2
    tale.counts('pri', 23, 23)
    assert tale.verdicts() == ['double-live']


def test_late_is_double_where_frames_have_no_number():
    tale = Tale(strict=True).says('pri', None, None).says('bak', None)
    tale.says('pri', None)                  # 1 ms later: the rest of an epoch
    assert tale.verdicts() == []
    tale.now += audit.LATE_NS
    assert tale.says('pri', None).verdicts() == ['double-live']


def test_late_after_waking():
    tale = Tale(strict=True).says('pri', None).says('bak', None)
    tale.now += 1000 * MS
    tale.story.wakes('0-pri', tale.now)
    assert tale.says('pri', None).verdicts() == []
    tale.now += audit.LATE_NS
    assert tale.says('pri', None).verdicts() == ['double-live']


def test_too_much_is_late():
    tale = Tale(strict=True).says('pri', None).says('bak', None)
    for _ in range(audit.LATE_MAX + 1):
        tale.now -= MS
        tale.says('pri', None)
    assert tale.verdicts() == ['double-live']


def test_lost_write():
    """The backup goes on from before what was acknowledged."""
    tale = Tale().counts('pri', 1, 20).counts('bak', 20, 22)
    assert tale.verdicts() == ['lost']
    tale = Tale().counts('pri', 1, 20)
    assert tale.says('pri', frame(19, ftguest.KIND_ECHO)).verdicts() == [
        'lost']


@pytest.mark.parametrize('name', ['ticks', 'generation', 'clock_us'])
def test_state_goes_back(name):
    tale = Tale().counts('pri', 1, 20)
    assert tale.says('bak', frame(21, **{name: 3})).verdicts() == ['lost']


def test_reset():
    tale = Tale().counts('pri', 1, 20)
    assert tale.says('bak', frame(1, boot=1)).verdicts() == ['lost']
    tale = Tale().counts('pri', 1, 20)
    assert tale.says('bak', frame(21, boot=1)).verdicts() == ['lost']


def test_duplicate():
    tale = Tale().counts('pri', 1, 20)
    tale.says('pri', frame(20, ftguest.KIND_ECHO, b'n7'))
    tale.says('bak', frame(20, ftguest.KIND_ECHO, b'n8'))
    assert tale.verdicts() == []
    tale.says('bak', frame(20, ftguest.KIND_ECHO, b'n7'))
    assert tale.verdicts() == ['duplicate']


def test_guest_finds_errors():
    assert Tale().says('pri', frame(1, errors=2)).verdicts() == ['guest']
    assert Tale().says('pri', frame(1, irqs_lost=1)).verdicts() == ['guest']


def disk_frame(counter, writes, mismatches=0):
    payload = ftguest.DISK.pack(0, 1, 1, 0, mismatches, 0, 0, writes, 0, 0, 0,
                                0, writes, 0, 64, 0, 0, 0)
    return frame(counter, ftguest.KIND_DISK, payload)


def test_disk_reports():
    """A sector that is not what was acknowledged; totals that go back."""
    tale = Tale().says('pri', frame(1), disk_frame(1, 5), disk_frame(1, 9))
    assert tale.verdicts() == []
    assert tale.says('bak', disk_frame(1, 8)).verdicts() == ['lost'] * 2
    tale = Tale().says('pri', disk_frame(1, 5), disk_frame(1, 6, 1))
    assert tale.verdicts() == ['lost']


def test_unknown_process():
    story = audit.Story()
    story.begins('pri', '0-pri', 100)
    story.hear(50, 'pri', frame(1))
    assert story.problems[0][0] == 'double-live'


def test_spoke():
    tale = Tale().counts('pri', 1, 9)
    assert len(tale.story.spoke('0-pri', 3 * MS, 5 * MS)) == 3
    assert tale.story.spoke('1-bak', 0, 99 * MS) == []


def test_longest_gap():
    assert audit.longest_gap([5 * MS, 9 * MS], 0, 10 * MS) == 5
    assert audit.longest_gap([], 0, 10 * MS) == 10


@pytest.mark.parametrize('role, status, killed, bad', [
    ('primary', 3, False, False), ('primary', 0, False, True),
    ('primary', 1, False, True), ('primary', -6, False, True),
    ('primary', -9, True, False), ('primary', 3, True, False),
    ('primary', 0, True, True), ('primary', -9, False, True),
    ('backup', 0, False, False), ('backup', 1, False, False),
    ('backup', 3, False, False), ('backup', -11, False, True),
    ('backup', -9, False, True), ('backup', 2, False, True)])
def test_ends(role, status, killed, bad):
    assert bool(audit.end_problem('x', role, status, killed)) == bad


def test_claims():
    def check(names, generation, optional=()):
        return bool(audit.claim_problems(names, UUID, generation, optional))

    one, two = (f'cuju-{UUID}.claim-{n}' for n in (1, 2))
    assert not check([one, two, f'cuju-{UUID}.session'], 2)
    assert not check([], 0)
    assert check([one], 2)                  # nobody asked for the second
    assert not check([one], 2, {2})         # nobody had to
    assert check([two], 2, {2})
    assert check([one, two], 1)             # won by somebody, who does not say
    assert check([one, f'cuju-{UUID[::-1]}.claim-1'], 1)


def test_stray_files():
    names = ['0-pri.log', f'cuju-{UUID}.claim-1', f'cuju-{UUID}.session']
    assert audit.stray_files(names, [r'\d-pri\.log'], 1) == []
    assert audit.stray_files(names, [r'\d-pri\.log'], 0) != []
    assert audit.stray_files(names, [], 1) == ['0-pri.log']
    assert audit.stray_files([f'cuju-{UUID}.tmp-12345678'], [], 1) != []
    left = [f'cuju-{UUID}.tmp-{n:016x}' for n in range(2)]
    assert audit.stray_files(left, [], 1) == left
    assert audit.stray_files(left, [], 1, killed=1) == left[1:]


def test_stray_processes():
    with subprocess.Popen(['sleep', '60']) as child:
        try:
            assert audit.stray_children(os.getpid(), {child.pid}) == []
            assert str(child.pid) in audit.stray_children(os.getpid(), set()
                                                          )[0]
        finally:
            child.send_signal(signal.SIGKILL)
    assert audit.stray_children(os.getpid(), set()) == []


# ------------------------------------------------------------------- clients

class Server(threading.Thread):
    """Speaks just enough redis; lies with the answer to number `liar`."""

    def __init__(self, liar):
        super().__init__(daemon=True)
        self.liar = liar
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        sock, _ = self.listener.accept()
        with sock, sock.makefile('rb') as lines:
            number = 0
            while lines.readline():
                for _ in range(6):
                    lines.readline()
                number += 1
                if number == self.liar == 5:
                    return                  # the connection breaks
                sock.sendall(b':%d\r\n' % (number + (number == self.liar)))


@pytest.mark.parametrize('liar, failure', [(3, ServerError), (5, Exception)])
def test_redis_client(liar, failure):
    server = Server(liar)
    client = RedisClient('127.0.0.1', server.port)
    client.start(5)
    try:
        with pytest.raises(failure):
            client.wait_acked(10, 10)
        assert client.acked == liar - 1
    finally:
        client.close()
        server.listener.close()


# -------------------------------------------------------- the table, the plan

def told(verdict, **other):
    return {'round': 'B1', 'fault': 'x', 'guest': 'bare', 'verdict': verdict,
            'expected': True, 'outage_ms': 10.0, 'cause': '', **other}


def test_table():
    rounds = [told(None), told('lost'), told('duplicate'), told('reset'),
              told('double-live'), told('left-over'), told('stuck')]
    assert table.row('x', rounds)[1:] == (
        '7', '1', '10 ms', '10 ms', '3', '1', '1', '1')
    line = table.total(7, rounds, rounds[1:], 3.2)
    assert ('seed 7: 7 faults, 1 survived, lost 3, double-live 1, left over '
            '1, other 1') in line


def test_rounds():
    assert play.world_of('B25') == 'B1' and play.world_of('B26') == 'B2'
    assert play.rounds_of('B2') == (26, 50)
    assert play.rounds_of('B2', 30) == (26, 30)
    assert play.rounds_of(play.world_of('L10')) == (1, 10)
    with pytest.raises(ValueError):
        play.parse('X1')


def test_same_seed_same_world():
    for name in ('B1', 'B2', 'B3', 'L1', 'L2'):
        assert play.make_setup(7, name) == play.make_setup(7, name)
    assert len({play.make_setup(seed, 'B1').params['ft-epoch-us']
                for seed in range(20)}) > 1


def test_each_fault_has_a_world():
    """With an expectation that somebody can meet."""
    setups = [play.make_setup(1, f'{kind}{n}') for kind in 'BL'
              for n in range(1, 40)]
    for fault in faults.TABLE.values():
        assert fault.expect and fault.expect <= faults.ANY
        for guest in fault.guests:
            assert any(s.guest == guest and
                       all(faults.NEEDS[n](s) for n in fault.needs)
                       for s in setups), fault.name


# ----------------------------------------------------- the cable and the watch

def usable():
    return os.geteuid() == 0 and os.path.exists('/dev/net/tun') and \
        os.path.exists(os.path.join(PROGRAMS, 'relay'))


@pytest.fixture
def lab():
    if not usable():
        pytest.skip('needs root, /dev/net/tun, and relay: make chaos-programs')
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def cable(lab):
    cable = PairCable(lab)
    yield cable
    cable.close()


def endpoint(lab, host, kind=socket.SOCK_DGRAM):
    with namespace(getattr(lab, host)):
        sock = socket.socket(socket.AF_INET, kind)
    sock.bind((HOSTS[host][1], 7000))
    sock.settimeout(5)
    return sock


def arrive(lab, cable, count=200):
    """Send numbered datagrams from pri to bak: [(number, seconds)]."""
    with endpoint(lab, 'pri') as sender, endpoint(lab, 'bak') as receiver:
        sent, got = {}, []
        for number in range(count):
            sent[number] = time.monotonic()
            sender.sendto(b'%d' % number, (HOSTS['bak'][1], 7000))
            time.sleep(0.0005)
        receiver.settimeout(0.5)
        try:
            while True:
                number = int(receiver.recv(100))
                got.append((number, time.monotonic() - sent[number]))
        except TimeoutError:
            return got


def test_cable(lab, cable):
    """It does what it is told, and nothing else."""
    plain = arrive(lab, cable)
    assert [n for n, _ in plain] == list(range(200))
    cable.set('pri', drop=200000)
    assert 120 < len(arrive(lab, cable)) < 195
    cable.clear()
    cable.set('pri', reorder=300000, hold=9000)
    numbers = [n for n, _ in arrive(lab, cable)]
    assert len(numbers) == 200 and numbers != sorted(numbers)
    cable.clear()
    cable.set('bak', cut=1)                 # the other way
    assert len(arrive(lab, cable, 20)) in (0, 20)   # ARP may be needed
    cable.set('pri', cut=1)
    assert arrive(lab, cable, 20) == []
    cable.clear()
    cable.link('bak', False)
    assert arrive(lab, cable, 20) == []
    cable.clear()
    assert len(arrive(lab, cable, 20)) == 20
    cable.set('pri', delay=150000)
    with endpoint(lab, 'pri') as sender, endpoint(lab, 'bak') as receiver:
        begin = time.monotonic()
        sender.sendto(b'x', (HOSTS['bak'][1], 7000))
        receiver.recv(10)
        assert 0.14 < time.monotonic() - begin < 2


@pytest.mark.parametrize('small', [False, True])
def test_cable_corrupts(lab, cable, small):
    """TCP's payload changes, in as many bytes as asked for, and TCP does
    not notice."""
    cable.small(small)
    with endpoint(lab, 'bak', socket.SOCK_STREAM) as listener, \
            endpoint(lab, 'pri', socket.SOCK_STREAM) as sender:
        listener.listen()
        sender.connect((HOSTS['bak'][1], 7000))
        receiver, _ = listener.accept()
        cable.set('pri', corrupt=1000000, damage=3)
        data = bytes(1 << 20)
        threading.Thread(target=lambda: (sender.sendall(data),
                                         sender.shutdown(socket.SHUT_WR)),
                         daemon=True).start()
        with receiver:
            receiver.settimeout(10)
            got = bytearray()
            while part := receiver.recv(1 << 20):
                got += part
    assert len(got) == len(data)
    assert sum(byte != 0 for byte in got) == 3
    assert cable.stats()['ab'][3] == 3


def test_cable_refuses_nonsense(cable):
    for line in ('set', 'set up cut=1', 'set ab cut', 'set ab what=1',
                 'set ab drop=x', 'small 2', 'jump', ''):
        with pytest.raises(AssertionError):
            cable.command(line)
    cable.command('set both drop=0')


def test_watch(lab):
    """Frames of both sides, by the kernel's time, and none is missed."""
    def decode(data):
        return int(data[14:22]) if data[12:14] == b'\x88\xb5' and \
            data[14:22].strip().isdigit() else None

    watch = Watch(decode)
    try:
        watch.add('sw-pri', lab.sw, 'pri')
        watch.add('sw-bak', lab.sw, 'bak')
        senders = []
        for host in ('pri', 'bak'):
            with namespace(getattr(lab, host)):
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind(('uplink', 0x88b5))
            senders.append(sock)
        for number in range(2000):
            senders[number % 2].send(b'\xff' * 6 + b'\2\0\0\0\0\1\x88\xb5' +
                                     b'%08d' % number + bytes(40))
        seen = watch.take()
        assert [s.what for s in seen] == list(range(2000))
        assert all(s.where == ('sw-bak' if s.what % 2 else 'sw-pri')
                   for s in seen)
        assert watch.take() == []
        for sock in senders:
            sock.close()
    finally:
        watch.close()
