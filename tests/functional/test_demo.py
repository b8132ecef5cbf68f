"""The Linux guest with redis, real taps and bridges: the demo as a test.

SPDX-License-Identifier: GPL-2.0-or-later
"""

import os
import re
import subprocess

import pytest

from harness import PATIENCE, ROOT

LAST = re.compile(r'failover: client saw (\d+) ms without an answer; '
                  r'connections reset: (\d+); '
                  r'acknowledged writes lost: (\d+) of (\d+)')


def namespaces():
    """Names of all network namespaces."""
    done = subprocess.run(['ip', 'netns', 'list'], check=True,
                          capture_output=True, text=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line}


@pytest.mark.slow
def test_demo():
    """Would catch what only a real kernel, virtio drivers and a real TCP
    client show: a connection that breaks, an acknowledged write that is
    gone; and a demo that leaves something behind."""
    assert os.geteuid() == 0, 'namespaces and taps need root'
    before = namespaces()
    done = subprocess.run([os.path.join(ROOT, 'scripts', 'demo')],
                          stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=240 * PATIENCE)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    lines = done.stdout.rstrip().splitlines()
    assert lines[-1] == 'demo: PASS'
    _, resets, lost, writes = (int(n) for n in
                               LAST.fullmatch(lines[-2]).groups())
    assert (resets, lost) == (0, 0)
    assert writes > 1000
    assert namespaces() == before
