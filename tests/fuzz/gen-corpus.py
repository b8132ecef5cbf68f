#!/usr/bin/python3
"""Write the seeds of the fuzz targets to tests/fuzz/corpus.

SPDX-License-Identifier: GPL-2.0-or-later

One small input for each thing that a peer may say, so that the fuzzer begins
behind the first checks.  Files whose name begins with "crash-" are inputs that
were found; they are not made here and not touched.  The input formats are in
the head of fuzz-TARGET.c.
"""

import base64
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))

HELLO, WELCOME, MACHINE, READY = 1, 2, 3, 4
PAGES, DEVICES, EPOCH_END, JOURNAL, SAMPLES = 8, 9, 10, 11, 12
ACK, DISARM, FAILOVER, FENCED, HEARTBEAT, ERROR = 16, 17, 18, 19, 20, 24
SYNC, RUNNING, HASH, CLAIMED = 1, 2, 4, 8
DATA, CONTROL, DISK, HEART = 1, 2, 3, 4

SESSION = bytes(range(16))
TOKEN = bytes(16)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def header(kind, payload, flags=0, epoch=0, version=1):
    head = struct.pack('>4sBBHQII', b'CUJU', version, kind, flags, epoch,
                       len(payload), crc32c(payload))
    return head + struct.pack('>I', crc32c(head))


def frame(kind, payload=b'', flags=0, epoch=0):
    return header(kind, payload, flags, epoch) + payload


def hello(channel, token=TOKEN, drive=0, features=0, page=4096, generation=1):
    return struct.pack('>16s16sIIQQII', SESSION, token, channel, page,
                       features, generation, drive, 0)


def epoch_end(pages=0, page_bytes=0, device_bytes=0, journal_bytes=0,
              journal_records=0, on_disk=0, age_us=0):
    return struct.pack('>9Q', pages, page_bytes, device_bytes, 0, 0,
                       journal_bytes, journal_records, on_disk, age_us)


def page(kind, block, offset, length):
    return struct.pack('>BBHQI', kind, 0, block, offset, length)


def record(kind, drive=0, offset=0, length=0, data=b'', flags=0):
    return struct.pack('>HBBIQQ', drive, kind, flags, 0, offset,
                       length or len(data)) + data


WRITE, ZERO, DISCARD, FLUSH = 1, 2, 3, 4


def wire():
    every = {
        'hello-data': frame(HELLO, hello(DATA)),
        'hello-control': frame(HELLO, hello(CONTROL, token=SESSION)),
        'hello-disk': frame(HELLO, hello(DISK, drive=3)),
        'hello-heart': frame(HELLO, hello(HEART, features=1)),
        'welcome': frame(WELCOME, hello(DATA, token=SESSION)),
        'machine': frame(MACHINE, b'qemu 10.0\nmachine pc\n'),
        'ready': frame(READY),
        'pages': frame(PAGES, page(0, 0, 4096, 0), SYNC),
        'devices': frame(DEVICES, b'state', 0, 7),
        'epoch-end': frame(EPOCH_END, epoch_end(1, 16, 5), RUNNING | HASH, 7),
        'journal': frame(JOURNAL, record(FLUSH), 0, 7),
        'samples': frame(SAMPLES, bytes(16)),
        'ack': frame(ACK, b'', 0, 7),
        'ack-disk': frame(ACK, struct.pack('>Q', 6), 0, 7),
        'disarm': frame(DISARM, b'cancelled'),
        'failover': frame(FAILOVER, b'lost', CLAIMED),
        'fenced': frame(FENCED),
        'heartbeat': frame(HEARTBEAT, struct.pack('>QQ', 9, 8)),
        'error': frame(ERROR, b'no \x1b[31m such thing'),
        'short': frame(READY)[:20],
        'only-hello': hello(DATA),
    }
    # with the checksums put right, and byte for byte as on the wire
    seeds = {name: b'\x07' + data for name, data in every.items()}
    seeds['as-it-is'] = b'\0' + every['epoch-end']
    seeds['as-it-is-hello'] = b'\0' + every['hello-disk']
    seeds['length'] = b'\x0f' + every['heartbeat']
    return seeds


def pages():
    # one block of 2 pages, one of 4, one that has nearly 64 bits
    blocks = bytes([3, 4, 8, 0xff])
    zero, raw = page(0, 0, 4096, 0), page(1, 1, 12288, 4096)
    seeds = {
        'zero': blocks + b'\0' + zero + b'\0',
        'raw': blocks + b'\0' + raw + b'\x03',
        'both': blocks + b'\0' + zero + b'\0' + raw + b'\x05',
        'high': blocks + b'\0' + page(0, 2, (1 << 64) - 8192, 0) + b'\0',
        'beyond': blocks + b'\0' + page(0, 0, 8192, 0) + b'\0',
        'torn': blocks + b'\0' + raw + b'\x03' + b'\x01\x00',
        'callback': blocks + b'\2' + (zero + b'\0') * 3,
        'no-blocks': b'\0\0' + zero + b'\0',
        'empty': blocks,
    }
    for kind in range(2, 6):
        seeds[f'kind-{kind}'] = blocks + b'\0' + page(kind, 0, 0, 0) + b'\0'
    seeds['as-they-are'] = bytes([0x83]) + blocks[1:] + b'\0' + zero * 20
    return seeds


def drives(*sizes, fail=0, room=0):
    """Sectors and a shift for each."""
    return bytes([len(sizes)]) + b''.join(
        struct.pack('>HB', *s) for s in sizes) + \
        struct.pack('>BH', fail, room)


def journal():
    two = drives((128, 0), (65535, 38))
    write = record(WRITE, 0, 512, data=b'abcd' * 128)
    seeds = {
        'write': two + write,
        'write-odd': two + record(WRITE, 0, 513, data=b'xyz'),
        'write-cut': two + record(WRITE, 0, 500, data=bytes(range(256)) * 9),
        'zero': two + record(ZERO, 1, 1 << 40, 1 << 60),
        'zero-unmap': two + record(ZERO, 0, 0, 65536, flags=1),
        'discard': two + record(DISCARD, 0, 4096, 8192),
        'flush': two + record(FLUSH, 1),
        'all': two + write + record(FLUSH) + record(ZERO, 0, 0, 1) +
               record(DISCARD, 1, 5, 5) + record(FLUSH, 1),
        'callback': drives((128, 0), fail=2) + write + write + write,
        'beyond': two + record(ZERO, 0, 65535, 2),
        'over-64-bits': two + record(ZERO, 1, (1 << 64) - 1, 2),
        'torn-header': two + write[:20],
        'torn-data': two + write[:-1],
        'no-drive': drives() + record(FLUSH),
        'room': drives((128, 0), room=4096) + write * 3,
        'flush-with-range': two + record(FLUSH, 0, 1, 1),
        'empty': two,
    }
    for bad in (0, 5):
        seeds[f'kind-{bad}'] = two + record(bad)
    return seeds


def replay():
    def add(kind, offset=0, length=1, flags=0):
        return struct.pack('>BBHH', 0, kind - 1 | flags, offset, length - 1)

    end, commit, sync, read = b'\3', b'\4', b'\x87', b'\x07\0\0\x20\0'
    apply, half = b'\5\xff\xff', b'\6\xff\xff\1'
    some = add(WRITE, 0, 512) + add(ZERO, 256, 512, 0x80) + \
        add(WRITE, 300, 10)
    seeds = {
        'write': some + commit + apply,
        'overwrite': some + commit + half + some + commit + apply,
        'discard': some + add(DISCARD, 100, 300) + read + commit + apply +
                   read + apply + some + commit + apply + read,
        'flush': some + add(FLUSH) + add(FLUSH) + some + commit + apply +
                 sync + apply + some + commit + apply + sync,
        'epochs': some + end + some + end + commit + some + read + apply,
        'batches': some + some + commit + b'\5\0\1' * 6,
        'read': some + read + commit + read + apply + read,
        'open': some + commit + some + apply + read,
    }
    # The length says how it ends: odd, applied; 2 more than 4s, dropped.
    return {f'{name}-{left}': data + read[:1] * ((left - len(data)) % 4)
            for name, data in seeds.items() for left in (1, 2)}


def frames():
    begin, frame = b'\1', b'\0'
    # what there is a byte for in fuzz-frames.c
    first = frame + b'\0' + b'\2\x00\1\x11\0'
    pages = frame + b'\1' + b'\2\x00\1\x15\0'
    devices = frame + b'\2' + b'\x20'
    disk = frame + b'\3' + b'\2' + b'\1\x10\0\0\4'
    samples = frame + b'\5'
    end = frame + b'\4\0'
    epoch = pages + devices + disk + end
    sync = begin + first + samples + epoch
    data, control, heart, silent = b'\x09', b'\x0a', b'\x0b', b'\x0c'

    def word(n, bit=False):
        return bytes([n << 4 | (13 if bit else 14)])

    disarm, fenced, won, lost, unknown, failover = map(word, range(6))
    runs, fails, force = word(6), word(7), word(5, True)
    later = b'\xff\xff'
    return {
        'sync-lost': begin + first + data + control,
        'sync-disarm': begin + first + disarm,
        'sync-data': begin + first + data + later * 40,
        'two-epochs': sync + epoch,
        'lost-won': sync + pages + data + control + won + runs,
        'lost-lost': sync + pages + data + control + lost,
        'lost-fails': sync + data + control + won + fails,
        'silent': sync + epoch + pages + silent + unknown + won + runs,
        'fenced': sync + pages + data + fenced + runs,
        'asks': sync + data + won + later * 40,
        'asks-control': sync + data + won + control,
        'operator': sync + failover + epoch + won + fenced,
        'operator-force': sync + force + later * 40,
        'claiming-force': sync + failover + unknown + force + silent,
        'heart': sync + heart + later * 20 + won,
        'control': sync + control + epoch + later * 40,
        'control-data': sync + control + epoch + data + won,
        'disarm': sync + epoch + pages + disarm + data + control,
        'disarm-late': sync + silent + disarm + won,
        'apply-fails': sync + pages + devices + frame + b'\4\x70' + data,
        'torn': sync + pages + devices + frame + b'\4\x81\1',
        'on-disk': sync + pages + devices + frame + b'\4\x87\1' + epoch,
        'no-devices': sync + pages + end,
        'sync-late': sync + first,
        'epoch-odd': sync + frame + b'\x81\0\1' + b'\0',
        'flags-odd': sync + frame + b'\x84\7\0' + b'\0',
        'raw': sync + frame + b'\x41' + b'\x10' + bytes(16),
        'undecodable': sync + frame + b'\7\x63' + data + control,
        'waiting': b'\0' + first + data,
    }


def heart():
    # 50 ms, timeout ten of them
    params = bytes([40, 6, 0])
    beat, late = b'\x21', b'\x02\x40'

    def heard(number=0, echo=0):
        return b'\0' + struct.pack('bB', number, echo)

    talk = beat + heard()
    return {
        'talk': params + talk * 20,
        'deaf': params + talk * 3 + (beat + heard(0, 5)) * 12,
        'silent': params + talk * 3 + beat * 15,
        'late': params + talk * 3 + late + heard() + talk,
        'gap': params + talk + heard(1),
        'again': params + talk + heard(-1),
        'back': params + beat * 4 + heard() + heard(0, 2),
        'future': params + talk + heard(0, 255),
        'late-to-begin': bytes([40, 6, 3]) + beat * 8 + late + heard() + talk,
        'mute': params + talk + b'\x83' * 30,
        'fast': b'\0\xff\0' + talk * 100,
        'ring': b'\0\xff\0' + beat * 190 + heard(0, 100) + heard(),
    }


def offer():
    proof = b'proof ' + b'0123456789abcdef' * 2 + b'\n'

    def text(arbiter, beats=b'heart 50 500\n', end=proof):
        return b'\0' + beats + b'arbiter ' + arbiter + b'\n' + end

    return {
        'file': text(b'file:/srv/ft'),
        'etcd': text(b'etcd:http://10.0.0.1:2379,https://[fd00::1]:2379/'),
        'image': text(b'image 3'),
        'none': text(b'none', end=b'proof -\n'),
        'heart-low': text(b'none', b'heart 1 100\n'),
        'heart-negative': text(b'none', b'heart 50 -500\n'),
        'proof-long': text(b'none', end=b'proof ' + b'0' * 65 + b'\n'),
        'no-end': text(b'none')[:-1],
        'more': text(b'none') + b'more\n',
        'zero': text(b'file:/a\0b'),
        'spec-file': b'\1file:/srv//',
        'spec-relative': b'\1file:srv',
        'spec-user': b'\1etcd:http://me:word@host:2379',
        'spec-query': b'\1etcd:http://host:2379/?a=b',
        'spec-utf8': b'\1file:/\xc3\xa4',
        'spec-bad-utf8': b'\1file:/\xff',
        'spec-many': b'\1etcd:' + b','.join([b'http://h:1'] * 9),
        'spec-long': b'\1file:/' + b'x' * 2048,
    }


def etcd():
    key, mark = '/cuju/01020300-0000-0000-0000-000000000000/', \
        '0123456789abcdef host pid 1'

    def b64(text):
        return base64.b64encode(text.encode()).decode()

    def answer(body, how=0, status=b''):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return struct.pack('>BH', how, len(body)) + status + body

    def txn(ok, **response):
        head = {'header': {'revision': '7'}, 'responses': [response]}
        return answer(dict(head, succeeded=True) if ok else head)

    def found(name, value):
        return txn(False, response_range={'kvs': [
            {'key': b64(key + name), 'value': b64(value)}]})

    publish, proof, probe, retire, claim = 0, 1, 2, 3, 0x84
    put = txn(True, response_put={})
    away, user = b'\3\0\0', 0x40
    login = answer({'token': 'abc.def'})

    def run(how, *answers):
        return bytes([how]) + b''.join(answers)

    return {
        'publish': run(publish, put),
        'proof': run(proof, found('session', 'fedcba9876543210')),
        'proof-gone': run(proof, txn(False, response_range={'count': '0'})),
        'probe': run(probe, found('session', 'fedcba9876543210')),
        'retire': run(retire | 0x80,
                      txn(True, response_delete_range={'deleted': '1'})),
        'won': run(claim, put),
        'won-before': run(claim, found('claim-7', mark)),
        'lost': run(claim, found('claim-7', 'ff other pid 2')),
        'other-key': run(claim, found('claim-8', mark)),
        'no-proof': run(claim, txn(False, response_range={'count': '0'})),
        'away': run(claim, away, put),
        'all-away': run(claim, away, away),
        'refused': run(claim, answer({'error': 'no space', 'code': 8}, 2,
                                     b'\x01\xf7'), away),
        'login': run(claim | user, login, put),
        'login-again': run(claim | user, login, answer({}, 1), login, put),
        'login-refused': run(claim | user, answer({'message': 'x'}, 1), away),
        'login-again-and-again': run(
            claim | user, *[login, answer({}, 1)] * 6),
        'lost-alike': run(claim, found('claim-7', mark[:5])),
        'value-empty': run(claim, found('claim-7', ''), away),
        'value-zero': run(claim, found('claim-7', '\0' + mark), away),
        'password': run(claim | user, login, answer(
            {'message': 'secret word'}, 2, b'\1\xf7'), away),
        'token-odd': run(claim | user, answer({'token': 'a\nb'}), away),
        'long': run(claim, b'\x80\0\0', away),
        'pieces': run(claim, b'\x04' + put[1:]),
        'not-json': run(claim, answer(b'<html>'), away),
        'deep': run(claim, answer(b'[' * 900), away),
        'zero': run(claim, answer(b'{}\0'), away),
        'half-base64': run(claim, txn(False, response_range={'kvs': [
            {'key': b64(key + 'claim-7'), 'value': b64(mark)[:-2]}]}), away),
        'no-header': run(claim, answer({'succeeded': True, 'responses': [
            {'response_put': {}}]}), away),
    }


def handshake():
    def step(op, client, mask=0, value=0):
        """The byte for that step of that caller, with these bits in it."""
        return bytes([next(n for n in range(256) if n % 8 == op and
                           n // 8 % 6 == client and n & mask == value)])

    def connect(c):
        return step(0, c)

    def hello(c, channel, odd=b'\0', drive=0):
        return step(1, c) + bytes([channel + 5 * drive]) + odd

    def machine(c, value=0x40):
        return step(2, c, 0xc0, value)

    def raw(c, data):
        return step(3, c, 0x80, 0) + bytes([len(data)]) + data

    def framed(c, kind, data=b'', flags=0):
        return step(3, c, 0x80, 0x80) + bytes([kind, flags, len(data)]) + data

    def read(c):
        return step(4, c)

    def drives(n):
        return bytes([n * 8 + 7])

    turn, end, close, begin = b'\x67', b'\xf7', step(6, 0), b'\0'
    data = connect(0) + hello(0, DATA) + read(0) + machine(0) + read(0)
    control = connect(1) + hello(1, CONTROL) + read(1)
    heart = connect(2) + hello(2, HEART) + read(2)
    pair = data + control + heart + turn + turn

    def disk(c, drive, odd=b'\0'):
        return connect(c) + hello(c, DISK, odd, drive) + read(c)

    wrong = b'\x10'
    return {
        'pair': begin + pair,
        'pair-free': b'\1' + pair + turn,
        'disks': begin + pair + drives(2) + disk(3, 0) + disk(4, 1) + turn,
        'disk-twice': begin + pair + drives(1) + disk(3, 0) + disk(4, 0),
        'disk-beyond': begin + pair + drives(1) + disk(3, 1),
        'disk-early': begin + data + control + disk(3, 0) + heart + turn +
                      drives(1) + read(3) + turn,
        'disk-stranger': begin + pair + drives(1) + disk(3, 0, wrong),
        'again': begin + data + control + control,
        'stranger': begin + data + connect(1) + hello(1, CONTROL, wrong) +
                    read(1) + control + heart,
        'other-session': begin + data + connect(1) +
                         hello(1, HEART, b'\1') + read(1),
        'generation': begin + data + connect(1) +
                      hello(1, CONTROL, b'\x08\5') + read(1),
        'second': begin + data + connect(3) + hello(3, DATA) + read(3) +
                  machine(3) + read(3) + control + heart,
        'taken': begin + pair + connect(3) + hello(3, DATA) + read(3),
        'refused': begin + connect(0) + hello(0, DATA) + read(0) +
                   machine(0, 0) + read(0) + data,
        'bad-machine': begin + connect(0) + hello(0, DATA) + read(0) +
                       framed(0, MACHINE, b'other') + read(0),
        'bad-machine-arbiter': begin + connect(0) + hello(0, DATA) + read(0) +
                               framed(0, MACHINE, b'xa') + read(0),
        'arbiter': begin + connect(0) + hello(0, DATA) + read(0) +
                   machine(0, 0x80) + read(0),
        'hangs-up': begin + data + control + close + turn + heart,
        'page-size': begin + connect(0) + hello(0, DATA, b'\4\x20\0') +
                     read(0),
        'features': begin + connect(0) + hello(0, DATA, b'\2\2') + read(0),
        'channel': begin + connect(0) + step(1, 0) + b'\xff\0' + read(0),
        'tls': begin + connect(0) + raw(0, b'\x16\3\1\2\0') + read(0),
        'http': begin + connect(0) + raw(0, b'GET / HTTP/1.0\r\n') +
                read(0),
        'error': begin + connect(0) + framed(0, ERROR, b'no\x1b[2J') +
                 read(0),
        'ready': begin + connect(0) + framed(0, READY) + read(0),
        'silent': begin + connect(0) + close + connect(0) + turn,
        'end': begin + data + control + end + turn,
        'end-taken': begin + data + control + connect(2) + hello(2, HEART) +
                     step(5, 2) + end,
        'many': begin + b''.join(connect(c) for c in range(6)) * 2 + turn,
        'torn': begin + connect(0) + raw(0, b'CUJU\1') + step(6, 0, 0x80,
                                                             0x80) + read(0),
    }


def call():
    end, welcome, ready, begin, disk = b'\0', b'\1', b'\3', b'\0', b'\1'

    def odd(bits, data):
        return bytes([bits << 3 | 2]) + data

    def error(text):
        return b'\4' + bytes([len(text)]) + text

    def framed(kind, data):
        return bytes([kind << 3 | 5, len(data)]) + data

    def raw(data):
        return b'\6' + bytes([len(data)]) + data

    data, one = welcome + ready, welcome + end
    good = begin + data + end + one + one
    beats = framed(HEARTBEAT, struct.pack('>QQ', 1, 0)) * 2
    return {
        'good': good,
        'frames': begin + data + framed(ACK, b'') + end + welcome +
                  framed(FAILOVER, b'lost') + end + welcome + beats + end,
        'frame-bad': begin + data + raw(b'CUJU' + bytes(24)) + end + one +
                     one,
        'frame-torn': begin + data + end + one + welcome + raw(b'CUJU') + end,
        'disk': disk + welcome + raw(b'NBDMAGIC') + end,
        'disk-silent': disk + one,
        'disk-refused': disk + error(b'not now') + end,
        'refused': begin + error(b'a backup\x1b[2J serves\xff') + end,
        'long': begin + data + framed(DEVICES, bytes(255)) + end + one + one,
        'refused-long': begin + error(b'no ' * 80) + end,
        'hello-back': begin + framed(HELLO, hello(DATA)) + ready + end +
                      one + one,
        'machine-refused': begin + welcome + error(b'the machines differ') +
                           end,
        'no-control': begin + data + end + error(b'taken') + end,
        'page-size': begin + odd(1, b'\x20\0') + end,
        'generation': begin + odd(2, b'\6') + end,
        'features': begin + odd(4, b'\1') + end,
        'session': begin + odd(8, b'\5\1') + end,
        'channel': begin + data + end + odd(8, b'\x23\6') + end,
        'not-welcome': begin + ready + end,
        'nothing': begin + end,
        'http': begin + raw(b'HTTP/1.1 400 Bad Request\r\n\r\n') + end,
        'tls': begin + raw(b'\x15\3\3\0\2\2\x28') + end,
        'heart-gone': begin + data + end + one + end,
    }


def name_of(target):
    # open() is Python's
    return {'call': 'open'}.get(target.__name__, target.__name__)


def main():
    for target in (wire, pages, journal, frames, replay, heart, offer, etcd,
                   handshake, call):
        where = f'{HERE}/corpus/{name_of(target)}'
        os.makedirs(where, exist_ok=True)
        for name in os.listdir(where):
            if not name.startswith('crash-'):
                os.remove(f'{where}/{name}')
        seeds = target()
        for name, data in seeds.items():
            assert 0 < len(data) <= 4096, (target, name)
            with open(f'{where}/{name}', 'wb') as f:
                f.write(data)
        print(f'{name_of(target)}: {len(seeds)}')


main()
