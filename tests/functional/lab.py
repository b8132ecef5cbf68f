"""Pairs on two hosts with real cables, which a test cuts.

SPDX-License-Identifier: GPL-2.0-or-later

    pair = LabPair(directory, kinds=['virtio'], storage='replicated')
    pair.protected()
    pair.cut()                      # the pair's own cable
    pair.cut('pri')                 # only what this host sends is lost
    pair.uplink('pri', False)       # it is off the guest's network
    pair.mend()

The bare guest, with or without disks; the hosts are network namespaces of
scripts/netns-lab. What leaves them is captured on their taps: on the outer
side of QEMU, so that nothing that it lets out is missed.
"""

import os
import select
import socket
import ssl
import struct
import subprocess

import ftguest
from disks import DiskPair
from etcd import Etcd, make_certificates
from harness import PATIENCE, Broken, Cable, Machine
from linux import HOSTS, Lab, namespace

ETH_P_ALL = 3
PACKET_OUTGOING = 4             # into the tap: to QEMU
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct('qq')
PORT = 4441
# On the guest's network: for what both hosts and the client have to reach.
UPLINK = {'pri': '10.77.0.11', 'bak': '10.77.0.12', 'cli': '10.77.0.1'}


def ip(namespace_name, *words):
    """An `ip` command in a namespace."""
    done = subprocess.run(['ip', '-n', namespace_name, *words],
                          capture_output=True, text=True, check=False,
                          timeout=20 * PATIENCE)
    if done.returncode:
        raise Broken(f'ip -n {namespace_name} {" ".join(words)}: '
                     f'{done.stderr}')


class TapCable(Cable):
    """What comes out of the taps of both hosts, in the order of time.

    `other` has what is no frame of the bare guest: (time, sender, bytes).
    """

    def __init__(self, lab):
        self.taps = {}              # socket -> name of a host
        self.at = {}                # name of a host -> its Machine's net
        self.other = []
        for host, (tap, _) in HOSTS.items():
            with namespace(getattr(lab, host)):
                tap_socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            tap_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                                  8 << 20)
            tap_socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            tap_socket.bind((tap, ETH_P_ALL))
            tap_socket.setblocking(False)
            self.taps[tap_socket] = host
        self._start()

    def _batch(self, tap):
        """What has come on one of them: (when, host, data)."""
        while True:
            try:
                data, extra, _, sender = tap.recvmsg(65536, 64)
            except BlockingIOError:
                return
            if sender[2] != PACKET_OUTGOING:
                yield TIMESPEC.unpack_from(extra[0][2]), self.taps[tap], data

    def _receive(self):
        while not self.stopping:
            ready = select.select(list(self.taps), [], [], 0.2)[0]
            batch = [item for tap in ready for item in self._batch(tap)]
            for when, host, data in sorted(batch, key=lambda i: i[0]):
                self._take(self.at.get(host, host), data)
                if not ftguest.decode(data):
                    with self.cond:
                        self.other.append((when, self.at.get(host), data))

    def close(self):
        self.stopping = True
        self.thread.join()
        for tap in self.taps:
            tap.close()

    def send(self, machine, kind, payload=b''):
        for tap, host in self.taps.items():
            if self.at.get(host) == machine.net:
                tap.send(ftguest.encode_request(kind, payload))

    def count(self, machine):
        """All that has left a machine, of whatever kind."""
        with self.cond:
            return (sum(sender == machine.net for _, sender, _ in self.seen) +
                    sum(sender == machine.net for _, sender, _ in self.other))


class LabPair(DiskPair):
    """The bare guest on two hosts; the primary is on `pri` at first."""

    def __init__(self, directory, kinds=(), mode=None, **kwargs):
        self.lab = Lab()
        self.where = {}                 # Machine -> host
        self.port = PORT
        try:
            for host in HOSTS:
                ip(getattr(self.lab, host), 'addr', 'add',
                   f'{UPLINK[host]}/24', 'dev', 'br0')
            super().__init__(directory, kinds=kinds, mode=mode or (
                'count,touch,disk' if kinds else 'count,touch'), **kwargs)
        except Exception:
            self.lab.close()
            raise

    def make_cable(self):
        return TapCable(self.lab)

    def close(self):
        try:
            super().close()
        finally:
            self.lab.close()

    # ---------------------------------------------------------- the machines

    def free_host(self):
        """Where no primary is."""
        here = self.where.get(self.primary, 'bak')
        return next(host for host in HOSTS if host != here)

    def address(self, name):
        self.port += 1
        return f'tcp:{HOSTS[self.free_host()][1]}:{self.port}'

    def netdev(self, name, i):
        tap, _ = HOSTS[self.free_host()]
        return f'tap,id=n{i},ifname={tap},script=no,downscript=no'

    def spawn(self, name, options):
        host = self.free_host()
        with namespace(getattr(self.lab, host)):
            machine = Machine(self.directory, name, options, self.wrap)
        self.where[machine] = host
        self.cable.at[host] = machine.net
        return machine

    # ------------------------------------------------------------ the cables

    def cut(self, sender=None):
        """Cut the pair's own cable: for what one host sends, or all."""
        if not sender:
            ip(self.lab.pri, 'link', 'set', 'pair', 'down')
            return
        # To a card that is not there: the sender does not notice.
        _, other = next(HOSTS[host] for host in HOSTS if host != sender)
        ip(getattr(self.lab, sender), 'neigh', 'replace', other, 'lladdr',
           '02:00:00:00:00:99', 'dev', 'pair', 'nud', 'permanent')

    def uplink(self, host, up):
        """A host's link to the guest's network."""
        ip(getattr(self.lab, host), 'link', 'set', 'uplink',
           'up' if up else 'down')

    def mend(self):
        """All cables are whole again."""
        ip(self.lab.pri, 'link', 'set', 'pair', 'up')
        for host in HOSTS:
            self.uplink(host, True)
            ip(getattr(self.lab, host), 'neigh', 'flush', 'dev', 'pair',
               'nud', 'permanent')


class LabEtcd(Etcd):
    """etcd on a third host, which is on the guest's network."""

    def __init__(self, pair, tls=False, **kwargs):
        super().__init__(pair.directory, **kwargs)
        self.place = pair.lab.cli
        if tls:
            self.tls_dir = os.path.join(self.directory, 'tls')
            make_certificates(self.tls_dir, UPLINK['cli'])
            self._context = ssl.create_default_context(
                cafile=self._pem('ca-cert'))
            self._context.load_cert_chain(self._pem('client-cert'),
                                          self._pem('client-key'))

    @property
    def url(self):
        return super().url.replace('127.0.0.1', UPLINK['cli'])

    def _launch(self):
        with namespace(self.place):
            super()._launch()

    def _request(self, *args, **kwargs):
        with namespace(self.place):
            return super()._request(*args, **kwargs)
