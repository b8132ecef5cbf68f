"""What a person sees, over a takeover.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import socket

from harness import wait_until


def screen(machine, directory, name):
    """The screen as a PPM file's bytes."""
    path = os.path.join(directory, name)
    machine.qmp('screendump', filename=path)
    with open(path, 'rb') as file:
        return file.read()


def test_screen_and_vnc(make_pair, tmp_path):
    """Would catch video memory or a display adapter's state that does not
    come over, and a VNC server that does not serve after the takeover."""
    pair = make_pair(extra=['-vga', 'std', '-vnc', f'unix:{tmp_path}/vnc'])
    pair.start_primary()
    os.rename(f'{tmp_path}/vnc', f'{tmp_path}/vnc.primary')
    pair.start_backup()
    pair.protect()
    before = screen(pair.primary, tmp_path, 'primary.ppm')
    assert len(set(before[20:])) > 1, 'nothing on the screen'
    pair.primary.kill()
    pair.taken_over()
    after = wait_until('the same screen', lambda: screen(
        pair.backup, tmp_path, 'backup.ppm'))
    assert after == before
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(f'{tmp_path}/vnc')
        assert sock.recv(12).startswith(b'RFB ')
    pair.cable.check(takeovers=1)
