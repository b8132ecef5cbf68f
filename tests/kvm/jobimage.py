"""The image of one run in the outer guest: a tree like the checkout.

SPDX-License-Identifier: GPL-2.0-or-later

It is laid over the base image, so it also carries what that has not: the
libraries of QEMU, where --qemu names one that is linked otherwise, and the
firmware. Large files are linked, not copied, while the image is made.
"""

import glob
import os
import shlex
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(ROOT, 'build', 'kvm')
TOOLS = {**os.environ, 'PATH': '/usr/bin:/bin:/usr/sbin:/sbin',
         'LC_ALL': 'C.UTF-8'}
# What guests on "pc" and "q35" need of QEMU's firmware.
FIRMWARE = ('bios-256k.bin', 'multiboot.bin', 'multiboot_dma.bin',
            'kvmvapic.bin', 'linuxboot.bin', 'linuxboot_dma.bin', 'pvh.bin',
            'efi-virtio.rom', 'efi-e1000.rom', 'efi-e1000e.rom',
            'efi-rtl8139.rom', 'vgabios-stdvga.bin', 'keymaps/en-us',
            'keymaps/common')
# Of the checkout, besides binaries
TREES = ('tests', 'scripts', 'docs')
GUESTS = ('bare/ftguest.elf', 'linux/vmlinux', 'linux/initrd.img',
          'linux/cmdline', 'linux/stamp')


class Trouble(Exception):
    """The rig cannot do it; the words say why."""


def tool(*command, timeout=120, **kwargs):
    """A program that must succeed; what it prints."""
    try:
        done = subprocess.run(command, env=TOOLS, check=False, text=True,
                              timeout=timeout, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              **kwargs)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Trouble(f'{command[0]}: {error}') from None
    if done.returncode:
        raise Trouble(f'{" ".join(command[:3])} ... failed with '
                      f'{done.returncode}: '
                      f'{(done.stdout + done.stderr).strip()[-500:]}')
    return done.stdout


def firmware_places(qemu):
    """Directories where firmware for a QEMU may be."""
    places = [line for line in tool(qemu, '-L', 'help').split()
              if os.path.isdir(line)]
    bundle = os.path.join(ROOT, 'build', 'obj', 'qemu-bundle')
    places += [path for path in
               glob.glob(f'{bundle}/usr/share/*') +
               glob.glob(f'{bundle}/usr/lib/ipxe/*') +
               ['/usr/share/qemu', '/usr/share/seabios', '/usr/lib/ipxe/qemu']
               if os.path.isdir(path) and path not in places]
    return places


def link(source, target):
    """A file without copying it, where that can be."""
    source = os.path.realpath(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


class Tree:
    """What goes into the image; `directory` is empty at first."""

    def __init__(self, directory):
        self.root = directory
        self.cuju = f'{directory}/cuju'
        os.makedirs(self.cuju)
        os.mkdir(f'{directory}/rig')
        with open(f'{OUT}/base.files', encoding='utf-8') as file:
            self.base = set(file.read().splitlines())

    def libraries(self, program):
        """What a program is linked with and the base image has not."""
        for line in tool('ldd', program).splitlines():
            if 'not found' in line:
                raise Trouble(f'{program}: {line.strip()}')
            path = next((word for word in line.split()
                         if word.startswith('/')), None)
            if not path:
                continue
            path = os.path.join(os.path.realpath(os.path.dirname(path)),
                                os.path.basename(path))
            target = self.root + path
            if path not in self.base and not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(path, target)

    def program(self, source, target):
        """A program without its symbols, and its libraries."""
        if not os.path.exists(source):
            raise Trouble(f'{source} is not there: run make first')
        path = f'{self.cuju}/{target}'
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            tool('strip', '-o', path, os.path.realpath(source))
        except Trouble as trouble:
            raise Trouble(f'{trouble} (is it just being linked?)') from None
        self.libraries(source)

    def firmware(self, qemu):
        """The files of FIRMWARE that are there, where QEMU looks."""
        places = firmware_places(qemu)
        to = f'{self.root}/usr/share/qemu'
        os.makedirs(f'{to}/keymaps', exist_ok=True)
        for name in FIRMWARE:
            for place in places:
                if os.path.exists(f'{place}/{name}'):
                    shutil.copy(f'{place}/{name}', f'{to}/{name}')
                    break

    def checkout(self):
        """Tests, scripts, guests, and QEMU's Python package."""
        ignore = shutil.ignore_patterns('__pycache__', '*.o', '.pytest_cache',
                                        'corpus')
        for name in TREES:
            shutil.copytree(f'{ROOT}/{name}', f'{self.cuju}/{name}',
                            symlinks=True, ignore=ignore)
        for name in 'README.md', 'Makefile':
            shutil.copy(f'{ROOT}/{name}', self.cuju)
        shutil.copytree(f'{ROOT}/build/qemu/python/qemu',
                        f'{self.cuju}/build/qemu/python/qemu', ignore=ignore)
        for name in GUESTS:
            source = f'{ROOT}/build/guest/{name}'
            if not os.path.exists(source):
                raise Trouble(f'build/guest/{name} is not there: run '
                              f'make guest')
            link(source, f'{self.cuju}/build/guest/{name}')
        # The guest would compile them at each run. What tests import is
        # pytest's to compile.
        tool('/usr/bin/python3', '-m', 'compileall', '-q', '-s', self.root,
             '-p', '/', '--invalidation-mode', 'unchecked-hash',
             f'{self.cuju}/build/qemu/python', f'{self.cuju}/tests')

    def extra(self, words):
        """FILE or FILE:PLACE; a place is below /cuju unless it is absolute.
        A file of the checkout lies where it lies there."""
        source, _, place = words.partition(':')
        if not os.path.exists(source):
            raise Trouble(f'--with: {source} is not there')
        source = os.path.abspath(source)
        if not place:
            place = os.path.relpath(source, ROOT)
            if place.startswith('..'):
                place = os.path.basename(source)
        target = (f'{self.root}{place}' if place.startswith('/') else
                  f'{self.cuju}/{place}')
        if os.path.isdir(source):
            shutil.copytree(source, target, symlinks=True,
                            dirs_exist_ok=True)
        else:
            if os.path.lexists(target):
                os.unlink(target)
            link(source, target)

    def job(self, command, environment, settings):
        """What runs there, and what /rig/init wants to know."""
        lines = ['#!/bin/sh', 'cd /cuju || exit 125']
        lines += [f'export {name}={shlex.quote(value)}'
                  for name, value in environment.items()]
        lines += [f'exec {shlex.join(command)}' if command else 'exec true']
        for name, text in {
                'job': '\n'.join(lines) + '\n',
                'environment': '\n'.join(lines[2:-1]) + '\n',
                'settings': ''.join(f'rig_{name}={value}\n' for name, value
                                    in settings.items())}.items():
            with open(f'{self.root}/rig/{name}', 'w',
                      encoding='utf-8') as file:
                file.write(text)
        os.chmod(f'{self.root}/rig/job', 0o755)


def make_ext4(root, image):
    """An ext4 of a directory, that needs no root."""
    size = 16 << 20
    for directory, names, files in os.walk(root):
        for name in names + files:
            status = os.lstat(os.path.join(directory, name))
            size += (status.st_size // 4096 + 2) * 4096
    with open(image, 'wb') as file:
        file.truncate(size * 21 // 20)
    command = ['mkfs.ext4', '-q', '-F', '-O', '^has_journal,^metadata_csum',
               '-m', '0', '-E', 'root_owner=0:0', '-d', root, image]
    if os.geteuid():
        command[:0] = ['unshare', '--user', '--map-root-user']
    tool(*command)


def make_scratch(image, mib):
    """An empty ext4; a sparse file."""
    with open(image, 'wb') as file:
        file.truncate(mib << 20)
    tool('mkfs.ext4', '-q', '-F', '-O', '^has_journal', '-m', '0',
         '-E', 'root_owner=0:0,lazy_itable_init=1', image)
