"""copy=changed: what is known of the other side's image, and when not.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import struct
import threading

import ftguest
from disks import SIZE, DiskPair, make_image
from harness import PATIENCE, wait_until
from test_disks import takeover
from test_disks_pairing import refused
from test_garbage import DISK, HEADER, HELLO_SIZE, Eavesdropper, _read

MIB = 1 << 20
BIG = 32 * MIB


class Gates(Eavesdropper):
    """Lets as much pass on the connection of each drive as it has leave
    for; the other connections are free."""

    def __init__(self, target, allowed):
        self.cond = threading.Condition()
        self.allowed = dict(allowed)    # of drives; those not listed: all
        self.shut = {}                  # drive -> bytes that wait
        super().__init__(target)

    def allow(self, drive, more=None):
        """So many bytes more; None: all that comes."""
        with self.cond:
            self.shut.pop(drive, None)
            if more is None:
                del self.allowed[drive]
            else:
                self.allowed[drive] += more
            self.cond.notify_all()

    def wait_shut(self, drive):
        """Until something waits at the gate that may not pass."""
        with self.cond:
            assert self.cond.wait_for(lambda: drive in self.shut,
                                      30 * PATIENCE)

    def _relay(self, source, sink, listens):
        if not listens:
            try:
                hello = _read(source, HEADER + HELLO_SIZE)
                sink.sendall(hello)
            except (EOFError, OSError):
                return
            channel, = struct.unpack('>I', hello[HEADER + 32:HEADER + 36])
            if channel == DISK:
                drive, = struct.unpack('>I', hello[HEADER + 56:HEADER + 60])
                self._gate(source, sink, drive)
                return
        super()._relay(source, sink, listens)

    def _gate(self, source, sink, drive):
        try:
            while data := source.recv(65536):
                with self.cond:
                    while self.allowed.get(drive, SIZE) < len(data):
                        self.shut[drive] = len(data)
                        self.cond.notify_all()
                        self.cond.wait()
                        if self.closing.is_set():
                            return
                    if drive in self.allowed:
                        self.allowed[drive] -= len(data)
                sink.sendall(data)
        except OSError:
            pass

    def close(self):
        super().close()
        with self.cond:
            self.cond.notify_all()


def filled(pair, size=SIZE):
    """Images that are no holes: each part of them takes a while to copy."""
    for n in range(len(pair.kinds)):
        with open(pair.image('primary', n), 'xb') as image:
            image.write(os.urandom(size))
        make_image(pair.image('backup', n), size=size)
    return pair


def left(pair, n):
    """Bytes of drive `n` that its copy has to begin on yet."""
    return sum(bitmap['count']
               for node in pair.primary.qmp('query-named-block-nodes')
               if node['drv'] == 'mirror_top' and
               node['file'] == pair.image('primary', n)
               for bitmap in node.get('dirty-bitmaps', []))


def silent(pair, seconds):
    """Nothing comes from the guest for so long."""
    with pair.cable.cond:
        since = len(pair.cable.seen)
        return not pair.cable.cond.wait_for(
            lambda: len(pair.cable.seen) > since, seconds)


def again(pair, name, host='backup', copy='changed'):
    """A backup on the images of that host, as they were left."""
    pair.primary.qmp('ft-set-parameters', **{'ft-copy': copy})
    pair.uri = pair.address(name)
    pair.backup = pair.launch(name, host=host, incoming=pair.uri)


def end_equal(pair, other='backup', here='primary'):
    """End protection in order; the images must be the same."""
    pair.quiesce(pair.primary)
    committed = pair.primary.query()['epoch'] + 1
    wait_until('all on both disks', lambda: all(
        d['settled'] >= committed for m in (pair.primary, pair.backup)
        for d in pair.drives_of(m)))
    pair.primary.qmp('cuju-migrate-cancel')
    assert pair.backup.wait_exit() == 0
    pair.wait_settled(pair.primary)
    pair.images_equal(here, other)


def protected_and_left(pair):
    """Protected, the backup is lost, and the guest writes on."""
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    pair.backup.kill()
    pair.primary.wait_state('unprotected')
    pair.primary.states.clear()
    pair.wait_writes(pair.primary, 50)
    pair.wait_settled(pair.primary)


def unknown(pair, name):
    """copy=changed is refused, a copy of all makes good."""
    again(pair, name)
    refused(pair, 'drive0', 'not known', 'copy=full')
    pair.backup.close()
    again(pair, f'{name}-full', copy='full')
    pair.protect()
    pair.go_on(pair.primary)
    pair.wait_writes(pair.primary, 50)
    end_equal(pair)


def test_lost_before_the_copies_end(make_pair):
    """Would catch a first copy that breaks after the pause of epoch 1, with
    a part of the image never copied, and is taken for a whole one."""
    pair = filled(make_pair(DiskPair, kinds=['virtio', 'virtio'],
                            storage='replicated', transport='tcp',
                            load='disk-gap=100 disk-sectors=65536',
                            extra=['-trace', 'ft_copy_ready']), BIG)
    pair.start_primary()
    pair.quiesce(pair.primary)
    pair.start_backup()
    gates = Gates(pair.uri, {0: 2 * BIG, 1: MIB})
    try:
        since = pair.protect(uri=gates.uri, wait=False)
        gates.wait_shut(1)
        wait_until('all of drive 0 copied', lambda:
                   'ft_copy_ready drive0' in pair.primary.text())
        assert not left(pair, 0)
        gates.allow(0, -gates.allowed[0])
        pair.go_on(pair.primary)
        wait_until('much to copy', lambda: left(pair, 0) > 20 * MIB, 30)
        pair.quiesce(pair.primary)
        gates.wait_shut(0)
        # Then drive 1 is ready, too, and the pause of epoch 1 waits for what
        # is on its way of drive 0. Not more than that passes.
        gates.allow(1)
        wait_until('the pause', lambda: silent(pair, 0.3))
        answer = threading.Thread(target=pair.primary.query)
        answer.start()
        while answer.is_alive():
            gates.allow(0, MIB // 8)
            gates.wait_shut(0)
            answer.join(0.02)
        assert pair.primary.query()['epoch'] == 1
        # What the guest writes now is in the journal until it is alone.
        pair.cable.send(pair.primary, ftguest.KIND_DISK_RESUME,
                        struct.pack('>I', pair.token))
        wait_until('writes', lambda: all(d['journal-records'] > 10 for d in
                                         pair.drives_of(pair.primary)))
        assert pair.primary.query()['state'] == 'sync'
        pair.backup.kill()
    finally:
        gates.close()
    pair.primary.wait_state('inactive', since=since)
    pair.wait_settled(pair.primary)
    unknown(pair, 'again')


def test_all_broken_after_a_session(make_pair):
    """Would catch what is known of one image being told of another one, of
    which nobody knows how much was copied."""
    pair = filled(make_pair(DiskPair, storage='replicated',
                            load='disk-gap=1000', transport='tcp'))
    protected_and_left(pair)
    again(pair, 'other', copy='full')
    gates = Gates(pair.uri, {0: 3 * MIB})
    try:
        since = pair.protect(uri=gates.uri, wait=False)
        gates.wait_shut(0)
        pair.backup.kill()
    finally:
        gates.close()
    pair.primary.wait_state('inactive', since=since)
    pair.wait_settled(pair.primary)
    unknown(pair, 'again')


def test_changed_broken(make_pair):
    """A copy of what has changed breaks, and is begun again: would catch one
    that forgets what was left to be copied."""
    pair = filled(make_pair(DiskPair, storage='replicated',
                            load='disk-gap=1000', transport='tcp'))
    protected_and_left(pair)
    again(pair, 'again')
    gates = Gates(pair.uri, {0: MIB})
    try:
        since = pair.protect(uri=gates.uri, wait=False)
        gates.wait_shut(0)
        pair.wait_writes(pair.primary, 50)
        pair.backup.kill()
    finally:
        gates.close()
    pair.primary.wait_state('inactive', since=since)
    pair.wait_settled(pair.primary)
    again(pair, 'third')
    pair.protect()
    pair.wait_writes(pair.primary, 50)
    end_equal(pair)


def test_found_different(make_pair):
    """Would catch a primary that has copied what it knew of, hears that the
    images differ, and takes them for equal the next time."""
    pair = make_pair(DiskPair, storage='replicated',
                     load='disk-gap=2000 disk-sectors=4096')
    protected_and_left(pair)
    with open(pair.image('backup', 0), 'r+b') as image:
        image.seek(SIZE - 512)      # the last piece is always looked at
        image.write(b'written by somebody else')
    again(pair, 'again')
    pair.protect(wait=False)
    assert pair.backup.wait_exit() == 1
    assert 'differ' in pair.backup.text()
    pair.primary.wait_state('unprotected')
    pair.wait_settled(pair.primary)
    unknown(pair, 'third')


def test_survivor(make_pair):
    """The one that has taken over knows what the lost primary's image
    lacks."""
    pair = make_pair(DiskPair, storage='replicated',
                     load='disk-gap=5000 disk-sectors=4096')
    pair.protected()
    pair.wait_writes(pair.primary, 50)
    takeover(pair)
    pair.go_on()
    pair.wait_writes(pair.backup, 20)
    pair.primary = pair.backup
    again(pair, 'again', host='primary')
    pair.protect()
    assert 0 < pair.drives_of(pair.primary)[0]['copied'] < SIZE
    pair.wait_writes(pair.primary, 50)
    end_equal(pair)
