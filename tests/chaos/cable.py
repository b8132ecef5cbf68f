"""The pair's own cable, and the hosts' links, as something that goes bad.

SPDX-License-Identifier: GPL-2.0-or-later

    cable = PairCable(lab, seed=7)      # in place of the lab's own
    cable.set('pri', drop=50000)        # 5 % of what pri sends is lost
    cable.link('bak', False)            # the interface is down
    cable.uplink('pri', False)          # that host is off the guest's network
    cable.clear()                       # all is well again

What goes wrong on the way is done by relay.c, which see for the words.
"""

import os
import select
import subprocess

from harness import PATIENCE, ROOT, Broken
from linux import HOSTS

PROGRAMS = os.environ.get('CUJU_CHAOS_PROGRAMS',
                          os.path.join(ROOT, 'build', 'chaos'))
INTERFACE = 'pair'
# Who is at which end of the relay; "ab" is what comes from the first.
ENDS = ('pri', 'bak')


def ip(namespace, *words):
    """An `ip` command in a namespace."""
    done = subprocess.run(['ip', '-n', namespace, *words],
                          capture_output=True, text=True, check=False,
                          timeout=20 * PATIENCE)
    if done.returncode:
        raise Broken(f'ip -n {namespace} {" ".join(words)}: {done.stderr}')


class PairCable:
    """A relay between the hosts, and what it is told."""

    def __init__(self, lab, seed=1):
        self.lab = lab
        self.down = set()               # (host, interface)
        self.relay = None
        ip(lab.pri, 'link', 'del', INTERFACE)
        # pylint: disable=consider-using-with
        self.relay = subprocess.Popen(
            [os.path.join(PROGRAMS, 'relay'), lab.pri, lab.bak, INTERFACE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            bufsize=1)
        self._answer('start')
        for host in ENDS:
            ns = getattr(lab, host)
            ip(ns, 'addr', 'add', HOSTS[host][1] + '/24', 'dev', INTERFACE)
            ip(ns, 'link', 'set', INTERFACE, 'up')
        self.command(f'seed {seed}')

    def _answer(self, command):
        ready = select.select([self.relay.stdout], [], [], 10 * PATIENCE)[0]
        line = self.relay.stdout.readline() if ready else ''
        if not line.startswith('ok'):
            raise Broken(f'relay: {command}: {line or "no answer"}')
        return line[2:].strip()

    def command(self, line):
        self.relay.stdin.write(line + '\n')
        return self._answer(line)

    @staticmethod
    def way(sender):
        """The relay's word for what a host sends, or for all."""
        return 'both' if sender is None else 'ab' if sender == ENDS[0] \
            else 'ba'

    def set(self, sender=None, **what):
        """What happens to frames that `sender` sends; None: to all."""
        words = ' '.join(f'{key}={int(value)}' for key, value in what.items())
        self.command(f'set {self.way(sender)} {words}')

    def small(self, on):
        """Packets as on a wire, so that single ones can be lost."""
        self.command(f'small {int(on)}')

    def link(self, host, up):
        """The pair's interface of a host."""
        self._interface(host, INTERFACE, up)

    def uplink(self, host, up):
        """A host's link to the guest's network."""
        self._interface(host, 'uplink', up)

    def _interface(self, host, name, up):
        ip(getattr(self.lab, host), 'link', 'set', name,
           'up' if up else 'down')
        (self.down.discard if up else self.down.add)((host, name))

    def clear(self):
        """Everything as it should be."""
        for host, name in list(self.down):
            self._interface(host, name, True)
        self.command('clear')
        self.small(False)

    def stats(self):
        """Way -> (carried, dropped, late, damaged)."""
        words = self.command('stats').split()
        return {words[i]: tuple(int(w) for w in words[i + 1:i + 5])
                for i in (0, 5)}

    def close(self):
        if self.relay:
            self.relay.stdin.close()
            try:
                self.relay.wait(10)
            except subprocess.TimeoutExpired:
                self.relay.kill()
                self.relay.wait()
            self.relay.stdout.close()
