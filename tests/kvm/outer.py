"""The outer guest: one emulated machine whose Linux has a /dev/kvm.

SPDX-License-Identifier: GPL-2.0-or-later

Three channels lead out of it: the kernel's console, the job's output, and
words of /rig/init ("started 9.87", "exit 0", "broken ..."). They are socket
pairs and the images are files without a name, so a run leaves nothing behind
even if it is killed; the emulator ends with us (setpriv --pdeathsig).
"""

import collections
import os
import re
import selectors
import signal
import socket
import subprocess
import time

from jobimage import Trouble, firmware_places

# The kernel's command line. tsc=reliable: with TCG all vCPUs read one clock,
# but a kernel on AMD would not believe it.
APPEND = ('console=ttyS0 quiet loglevel=5 panic=-1 oops=panic mitigations=off '
          'random.trust_cpu=on tsc=reliable clocksource=tsc nowatchdog '
          'no_timer_check audit=0 apparmor=0 rcupdate.rcu_expedited=1 '
          'cryptomgr.notests')
# What a kernel that is well does not say.
BAD_WORDS = re.compile(
    r'Kernel panic|Oops|BUG:|WARNING:|Call Trace|blocked for more|'
    r'Out of memory|I/O error|EXT4-fs (error|warning)|'
    r'svm: .*unhandled|kvm \[\d+\]: .*(fail|unhandled)|^rig:')
# A CPU model of a real machine has more than TCG can do.
HARMLESS = re.compile(r"terminating on signal|TCG doesn't support requested")
# Where a crash begins; its trace may be longer than what is shown of the end.
CRASH_WORDS = re.compile(r'Kernel panic|Oops|BUG:')
CONSOLE_TAIL = 40
CONSOLE_CRASH = 120


class Outer:
    """One run. `write` takes the bytes that the job prints."""

    def __init__(self, options, write):
        self.options = options
        self.write = write
        self.words = []                 # of /rig/init
        self.partial = b''
        self.console = collections.deque(maxlen=2000)
        self.line = b''
        self.emulator = b''             # what QEMU itself says
        self.ended = False              # the emulator's end was our doing
        self.began = time.monotonic()
        self.started = None             # seconds until the job began
        self.uptime = None              # the same by the guest's clock
        self.process = None
        self.channels = {}

    def command(self, files, fds):
        """QEMU and its options; `files` are the images, open."""
        o = self.options
        command = ['setpriv', '--pdeathsig', 'KILL', o.outer]
        for place in firmware_places(o.outer):
            command += ['-L', place]
        command += [
            '-nodefaults', '-no-user-config', '-display', 'none',
            '-vga', 'none', '-no-reboot', '-name', 'outer',
            '-machine', 'pc', '-accel', 'tcg,thread=multi', '-cpu', o.cpu,
            '-smp', str(o.cpus), '-m', o.memory,
            '-kernel', f'{o.kernel}/vmlinux',
            '-initrd', f'/proc/self/fd/{files["initrd"].fileno()}',
            '-append', ' '.join([APPEND, *o.append]),
            '-device', 'virtio-serial-pci']
        if o.shell:
            command += ['-chardev', 'stdio,id=console,mux=on,signal=off',
                        '-mon', 'chardev=console']
        else:
            command += ['-chardev', f'socket,id=console,fd={fds["console"]}']
        command += ['-serial', 'chardev:console']
        for number, name in (1, 'output'), (2, 'words'):
            command += [
                '-chardev', f'socket,id={name},fd={fds[name]}', '-device',
                f'virtserialport,chardev={name},name={name},nr={number}']
        # vda, vdb, vdc
        for name in 'base', 'job', 'scratch':
            read_only = 'off' if name == 'scratch' else 'on'
            command += [
                '-drive', f'if=none,id={name},format=raw,cache=unsafe,'
                f'discard=unmap,file.locking=off,read-only={read_only},'
                f'file=/proc/self/fd/{files[name].fileno()}',
                '-device', f'virtio-blk-pci,drive={name}']
        if o.out:
            command += ['-virtfs', f'local,path={o.out.replace(",", ",,")},'
                        'mount_tag=out,security_model=none,multidevs=remap']
        return command + o.qemu_option

    def start(self, files):
        """Start the emulator."""
        theirs = {}
        for name in 'console', 'output', 'words':
            if name == 'console' and self.options.shell:
                continue
            self.channels[name], theirs[name] = socket.socketpair()
        fds = {name: sock.fileno() for name, sock in theirs.items()}
        passed = [*fds.values(), *(f.fileno() for f in files.values())]
        try:
            self.process = subprocess.Popen(
                self.command(files, fds), pass_fds=passed,
                stdin=None if self.options.shell else subprocess.DEVNULL,
                stdout=None if self.options.shell else subprocess.PIPE,
                stderr=None if self.options.shell else subprocess.STDOUT)
        except OSError as error:
            raise Trouble(f'cannot start the outer guest: {error}') from None
        for sock in theirs.values():
            sock.close()

    def _take(self, name, data):
        """Something has come on a channel."""
        if name == 'output':
            self.write(data)
        elif name == 'words':
            *lines, self.partial = (self.partial + data).split(b'\n')
            for line in lines:
                self._word(line.decode(errors='replace').strip())
        elif name == 'emulator':
            self.emulator = (self.emulator + data)[-4000:]
        else:
            *lines, self.line = (self.line + data).split(b'\n')
            for line in lines:
                self.console.append(line.decode(errors='replace').rstrip())
            if self.options.console_file:
                self.options.console_file.write(data)
                self.options.console_file.flush()

    def _word(self, line):
        if line.startswith('started '):
            self.started = time.monotonic() - self.began
            self.uptime = float(line.split()[1])
        self.words.append(line)

    def status(self):
        """The job's exit status, if it has ended."""
        for line in self.words:
            if line.startswith('exit '):
                return int(line.split()[1])
        return None

    def broken(self):
        """What /rig/init has found wrong."""
        return [line[7:] for line in self.words if line.startswith('broken ')]

    def wait(self, seconds):
        """Until the job ends, or the machine does, or the time is over.

        The job's exit status; TimeoutError; Trouble.
        """
        end = self.began + seconds
        with selectors.DefaultSelector() as selector:
            for name, sock in self.channels.items():
                selector.register(sock, selectors.EVENT_READ, name)
            if self.process.stdout:
                selector.register(self.process.stdout, selectors.EVENT_READ,
                                  'emulator')
            while selector.get_map():
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in selector.select(min(left, 1)):
                    data = os.read(key.fd, 65536)
                    if data:
                        self._take(key.data, data)
                    else:
                        selector.unregister(key.fileobj)
                if self.broken():
                    raise Trouble(f'the outer guest is not usable: '
                                  f'{"; ".join(self.broken())}')
                if self.status() is not None:
                    self._drain()
                    return self.status()
                if self.process.poll() is not None and not any(
                        key.data != 'emulator' for key in
                        selector.get_map().values()):
                    break
        code = self.process.wait(10)
        raise Trouble(
            f'the emulator ended with {code}' if code else
            'the outer guest has ended or crashed before its job was done'
            if self.started else 'the outer guest did not come up')

    def _drain(self):
        """The job's last output, which came on a channel of its own."""
        sock = self.channels['output']
        sock.setblocking(False)
        try:
            while True:
                data = sock.recv(65536)
                if not data:
                    return
                self._take('output', data)
        except OSError:
            return

    def complaints(self):
        """What the outer kernel, or QEMU, should not have said."""
        return [line for line in self.console if BAD_WORDS.search(line)] + \
            self._emulator_words()

    def _emulator_words(self):
        return [line for line in
                self.emulator.decode(errors='replace').splitlines()
                if not HARMLESS.search(line)]

    def tail(self):
        """The console's last lines, and from the first word of a crash on."""
        lines = list(self.console)
        if self.line:
            lines.append(self.line.decode(errors='replace'))
        end = max(len(lines) - CONSOLE_TAIL, 0)
        crash = next((i for i, line in enumerate(lines[:end])
                      if CRASH_WORDS.search(line)), end)
        shown = lines[crash:min(crash + CONSOLE_CRASH, end)]
        if crash + CONSOLE_CRASH < end:
            shown.append(f'({end - crash - CONSOLE_CRASH} lines left out)')
        return shown + lines[end:] + self._emulator_words()

    def close(self):
        """End it, whatever it does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process and self.process.stdout:
            self.process.stdout.close()
        for sock in self.channels.values():
            sock.close()
