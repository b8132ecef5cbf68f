"""A test plays the guest's driver: ports and memory, by QEMU's qtest protocol.

SPDX-License-Identifier: GPL-2.0-or-later

    pair.extra = qtest.options(pair.directory)
    pair.start_primary()
    with qtest.Qtest(pair.directory) as q:
        q.outb(0x70, 0x0a)

The guest runs on as ever: what it does not use itself is ours. So a moment
between two accesses, which a driver leaves again after a microsecond, lasts
for as many epochs as one likes.
"""

import os
import socket

from harness import PATIENCE, Broken, wait_until

CONFIG, DATA = 0xcf8, 0xcfc


def options(directory, name='primary'):
    """For the command line of one QEMU."""
    return ['-qtest', f'unix:{directory}/{name}.qtest,server=on,wait=off',
            '-qtest-log', '/dev/null']


class Qtest:
    """Everything is an access at once; numbers are integers."""

    def __init__(self, directory, name='primary'):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20 * PATIENCE)
        self.sock.connect(os.path.join(directory, f'{name}.qtest'))
        self.answers = self.sock.makefile('r', encoding='ascii')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.close()
        self.sock.close()

    def command(self, *words):
        """What it answers after OK."""
        self.sock.sendall((' '.join(
            hex(w) if isinstance(w, int) else w for w in words) + '\n')
                          .encode('ascii'))
        answer = self.answers.readline().split()
        if not answer or answer[0] != 'OK':
            raise Broken(f'{words}: {answer}')
        return answer[1:]

    def number(self, *words):
        return int(self.command(*words)[0], 0)

    def outb(self, port, value):
        self.command('outb', port, value)

    def inb(self, port):
        return self.number('inb', port)

    def outl(self, port, value):
        self.command('outl', port, value)

    def writeb(self, address, value):
        self.command('writeb', address, value)

    def writel(self, address, value):
        self.command('writel', address, value)

    def readb(self, address):
        return self.number('readb', address)

    def read(self, address, size):
        return bytes.fromhex(self.command('read', address, size)[0][2:])

    def config(self, slot, function, register, value=None):
        """A PCI device's, on bus 0: read 32 bits, or write them."""
        self.outl(CONFIG, 1 << 31 | slot << 11 | function << 8 | register)
        if value is None:
            return self.number('inl', DATA)
        self.outl(DATA, value)
        return value


def epochs_pass(pair, count=3):
    """What was done before is committed, and as many epochs more."""
    since = pair.primary.query()['epoch']
    wait_until(f'{count} epochs', lambda:
               pair.primary.query()['committed'] >= since + count)
