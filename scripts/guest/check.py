#!/usr/bin/env python3
"""Boot the Linux test guest and see that it does what it is for.

SPDX-License-Identifier: GPL-2.0-or-later

  check.py TOP DIR [all|database]

Called by `build --check` (one boot) and `build --check-all` (machines,
NICs, disks, kernels, the database) and `disk --check` (the database).
Environment: QEMU, QEMU_OPTIONS, CHECK_TIMEOUT.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TOP, OUT = sys.argv[1:3]
sys.path.insert(0, os.path.join(TOP, 'scripts'))
from pgclient import PgClient, PgFailure  # noqa: E402

ENV = {**os.environ, 'PATH': os.environ['PATH'] + ':/sbin:/usr/sbin'}
TIMEOUT = float(os.environ.get('CHECK_TIMEOUT', '90'))


def find_qemu():
    own = os.path.join(TOP, 'x86_64-softmmu', 'qemu-system-x86_64')
    for name in (os.environ.get('QEMU'), own, 'qemu-system-x86_64'):
        if name and shutil.which(name):
            return name
    sys.exit('check: no QEMU; set QEMU')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def redis(port, *words):
    """One command to redis, inline; the first line of the answer."""
    with socket.create_connection(('127.0.0.1', port), 5) as s:
        s.settimeout(5)
        s.sendall(' '.join(words).encode() + b'\r\n')
        answers = s.makefile('rb')
        answer = answers.readline()
        if answer.startswith(b'$'):
            answer = answers.readline()
        return answer.strip().decode()


class Guest:
    def __init__(self, directory, nic='virtio-net-pci', machine='pc',
                 kernel='vmlinux', append='', extra=()):
        self.redis, self.web, self.postgres = (
            free_port(), free_port(), free_port())
        self.log = os.path.join(directory, 'serial')
        self.qmp = os.path.join(directory, 'qmp')
        with open(os.path.join(OUT, 'cmdline'), encoding='ascii') as f:
            cmdline = f.read().strip()
        netdev = (f'user,id=n0,hostfwd=tcp:127.0.0.1:{self.redis}-:6379,'
                  f'hostfwd=tcp:127.0.0.1:{self.web}-:80,'
                  f'hostfwd=tcp:127.0.0.1:{self.postgres}-:5432')
        self.serial_path = os.path.join(directory, 'tty')
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [find_qemu(), *os.environ.get('QEMU_OPTIONS', '').split(),
             '-accel', 'tcg', '-machine', machine, '-m', '256M',
             '-display', 'none', '-nodefaults', '-no-reboot',
             '-chardev', f'socket,id=tty,path={self.serial_path},server=on,'
                         f'wait=off,logfile={self.log}',
             '-serial', 'chardev:tty',
             '-qmp', f'unix:{self.qmp},server=on,wait=off',
             '-kernel', os.path.join(OUT, kernel),
             '-initrd', os.path.join(OUT, 'initrd.img'),
             '-append', f'{cmdline} {append}',
             '-netdev', netdev, '-device', nic + ',netdev=n0,romfile=',
             *extra],
            stdin=subprocess.DEVNULL)

    def text(self):
        try:
            with open(self.log, encoding='utf-8', errors='replace') as f:
                return f.read()
        except FileNotFoundError:
            return ''

    def wait_for(self, words, timeout=TIMEOUT):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in self.text().splitlines():
                if words in line:
                    return line.strip()
            if self.process.poll() is not None:
                raise RuntimeError('QEMU has ended:\n' + self.text()[-2000:])
            time.sleep(0.05)
        raise RuntimeError(f'no "{words}" in {timeout} s:\n' +
                           self.text()[-2000:])

    def type(self, line):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.serial_path)
            s.sendall(line.encode() + b'\n')
            time.sleep(0.3)

    def powerdown(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.qmp)
            f = s.makefile('rw')
            for name in 'qmp_capabilities', 'system_powerdown':
                f.write(json.dumps({'execute': name}) + '\n')
                f.flush()
                time.sleep(0.2)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def need(what, condition):
    if not condition:
        raise RuntimeError(what)


def services(guest):
    line = guest.wait_for('ftguest: ready')
    took = time.monotonic() - guest.started
    need('redis does not answer', redis(guest.redis, 'PING') == '+PONG')
    need('redis SET', redis(guest.redis, 'SET', 'a', 'b') == '+OK')
    need('redis GET', redis(guest.redis, 'GET', 'a') == 'b')
    url = f'http://127.0.0.1:{guest.web}/'
    with urllib.request.urlopen(url + 'data.bin', timeout=60) as f:
        got = hashlib.sha256(f.read()).hexdigest()
    with urllib.request.urlopen(url + 'data.sha256', timeout=10) as f:
        need('web server sends garbage', f.read().decode().split()[0] == got)
    return f'{line}; {took:.1f} s from the start of QEMU'


def run(name, how=None, end='button', **arguments):
    with tempfile.TemporaryDirectory(prefix='ftguest-') as directory:
        guest = Guest(directory, **arguments)
        try:
            said = services(guest)
            if how:
                how(guest)
            if end == 'button':
                guest.powerdown()
            else:
                guest.type(end)
            guest.process.wait(20)
            print(f'ok   {name}: {said}', flush=True)
            return True
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
            print(f'FAIL {name}: {e}', flush=True)
            return False
        finally:
            guest.stop()


def run_database():
    """A database whose machine is killed while it is written to: what it
    acknowledged is on the disk."""
    with tempfile.TemporaryDirectory(prefix='ftguest-') as directory:
        guest = None
        image = os.path.join(directory, 'disk')
        extra = ('-drive', f'if=none,id=d0,format=raw,file={image}',
                 '-device', 'virtio-blk-pci,drive=d0')
        try:
            subprocess.run([os.path.join(TOP, 'scripts/guest/disk'), image],
                           check=True)
            guest = Guest(directory, extra=extra)
            guest.wait_for('ftguest: ready')
            client = PgClient('127.0.0.1', guest.postgres)
            client.start()
            client.wait_acked(500)
            guest.stop()
            client.stop()
            os.unlink(guest.log)
            guest = Guest(directory, extra=extra)
            guest.wait_for('ftguest: ready')
            again = PgClient('127.0.0.1', guest.postgres, run=client.run,
                             acked=client.acked)
            report = again.verify()
            again.close()
            need(f'the database: {report}', report['ok'])
            guest.powerdown()
            guest.process.wait(20)
            subprocess.run(['e2fsck', '-fn', image], check=True, env=ENV,
                           capture_output=True)
            print(f'ok   PostgreSQL, killed: {report["acked"]} transactions '
                  'acknowledged, none lost', flush=True)
            return True
        except (PgFailure, RuntimeError, OSError,
                subprocess.SubprocessError) as e:
            print(f'FAIL PostgreSQL, killed: {e}', flush=True)
            return False
        finally:
            if guest:
                guest.stop()


def disk_image(path):
    with open(path, 'wb') as f:
        f.truncate(32 << 20)
    subprocess.run(['mkfs.ext4', '-q', '-L', 'ftdata', path], check=True,
                   env=ENV)


def run_all():
    good = run('vmlinuz, poweroff', kernel='vmlinuz', end='poweroff')
    good &= run('poweroff -f', end='poweroff -f')
    good &= run('reboot', end='reboot')
    good &= run('memwriter', append='ftguest.run=memwriter,32,rand',
                how=lambda g: g.wait_for('errors=0', 15))
    good &= run('2 vCPUs, VGA', extra=('-smp', '2', '-vga', 'std'))
    for machine in 'pc', 'q35':
        for nic in ('virtio-net-pci', 'virtio-net-pci,disable-legacy=on',
                    'rtl8139', 'e1000', 'e1000e'):
            if (machine, nic) != ('pc', 'e1000e'):
                good &= run(f'{machine} {nic}', nic=nic, machine=machine)
    with tempfile.TemporaryDirectory(prefix='ftguest-') as directory:
        image = os.path.join(directory, 'disk')
        disk_image(image)
        drive = ('-drive', f'if=none,id=d0,format=raw,file={image}')
        for machine, devices in (
                ('pc', ('-device', 'virtio-blk-pci,drive=d0')),
                ('pc', ('-device', 'virtio-scsi-pci', '-device',
                        'scsi-hd,drive=d0')),
                ('pc', ('-device', 'ide-hd,drive=d0')),
                ('q35', ('-device', 'ide-hd,drive=d0'))):
            good &= run(f'{machine} {devices[-1]}', machine=machine,
                        extra=drive + devices,
                        how=lambda g: g.wait_for('on /data', 5))
    good &= run_database()
    return good


if __name__ == '__main__':
    if 'database' in sys.argv[3:]:
        sys.exit(0 if run_database() else 1)
    if 'all' in sys.argv[3:]:
        sys.exit(0 if run_all() else 1)
    sys.exit(0 if run('pc virtio-net-pci') else 1)
