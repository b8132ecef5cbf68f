#!/usr/bin/python3
"""A database, killed again and again under a client that counts.

SPDX-License-Identifier: GPL-2.0-or-later

A Linux guest with PostgreSQL on a virtio disk, a client outside with one TCP
connection over all failovers. In a loop: the guest is protected, its primary
is killed at a random moment, the survivor is protected again by a new process
on the host that died.

In `make check` it is CUJU_FAILOVERS times (3) for each kind of storage.
CUJU_SEED repeats a run's moments. By hand, for as long as one likes, with a
line for each failover:

    tests/functional/test_postgres.py --failovers 50 [--storage shared]
                                      [--seed N] [--run COMMAND] [--keep]
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import urllib.parse

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Broken  # noqa: E402
from linux import LinuxPair, end_in_order, percentile  # noqa: E402

FAILOVERS = int(os.environ.get('CUJU_FAILOVERS', '3'))
SEED = int(os.environ.get('CUJU_SEED', '0')) or random.randrange(1, 1 << 32)

HEAD = (f'{"storage":10} {"no":>3} {"image":>6} {"outage":>8} '
        f'{"takeover":>8} {"resent":>6} {"timer":>8} {"protect":>8} '
        f'{"acked":>7} {"lost":>4} '
        f'{"torn":>4} {"resets":>6}')


def say(*words):
    print(*words, flush=True)


def random_wait(client, rng):
    """Let the client work for a while, then end at any moment."""
    client.wait_acked(client.acked + 20)
    time.sleep(rng.uniform(0, 1.0))     # the random moment; no event


def one_failover(pair, client, number, image, protected):
    """Kill, see what the client saw, print the line."""
    seen = pair.failover(client)
    look = pair.look(client)
    seen.update(image=image, protect_s=protected, acked=look['acked'],
                lost=look['lost'], torn=look['torn'],
                bad=look['duplicates'] + look['corrupt'])
    say(f'{pair.storage:10} {number:3} {image:>6} '
        f'{seen["outage_ms"]:5.0f} ms {seen["takeover_ms"]:5.1f} ms '
        f'{seen["resent"]:6} {seen["timer_ms"]:5.0f} ms '
        f'{protected:6.2f} s {seen["acked"]:7} {seen["lost"]:4} '
        f'{seen["torn"]:4} {int(client.failure is not None):6}')
    if seen['lost'] or seen['torn'] or seen['bad']:
        raise Broken(f'after failover {number}: {look}')
    return seen


def summary(storage, rows, report):
    outages = [row['outage_ms'] for row in rows]
    takeovers = [row['takeover_ms'] for row in rows]
    say(f'{storage}: {len(rows)} failovers; outage p50 '
        f'{percentile(outages, 50):.0f} ms, p99 '
        f'{percentile(outages, 99):.0f} ms, most {max(outages):.0f} ms; '
        f'takeover p50 {percentile(takeovers, 50):.1f} ms, p99 '
        f'{percentile(takeovers, 99):.1f} ms; transactions '
        f'{report["acked"]}, p50 {report["p50_ms"]} ms, p99 '
        f'{report["p99_ms"]} ms, lost {report["lost"]}, torn '
        f'{report["torn"]}, duplicates {report["duplicates"]}, resets '
        f'{report["resets"]}')


def play(pair, failovers, seed):
    """The whole life of one guest; the client's last report."""
    say(f'{pair.storage}: seed {seed}\n{HEAD}')
    rng = pair.rng
    rows = []
    pair.start_primary()
    client = pair.client(rate=200)
    client.start(patience=20)
    for number in range(1, failovers + 1):
        pair.start_backup()
        protected = pair.protect()
        random_wait(client, rng)
        rows.append(one_failover(pair, client, number, pair.began_with,
                                 protected))
    # The last life ends in order, protected.
    pair.start_backup()
    pair.protect()
    client.wait_acked(client.acked + 50)
    if pair.storage == 'replicated':
        pair.compare_stopped()
        client.wait_acked(client.acked + 50)
    report = client.verify()
    summary(pair.storage, rows, report)
    if not report['ok']:
        raise Broken(f'the client says: {report}')
    client.close()
    pair.power_off()
    pair.check_images()
    pair.check_consoles()
    return report


@pytest.mark.slow
@pytest.mark.parametrize('storage', ['shared', 'replicated'])
def test_killed_again_and_again(make_pair, storage):
    """Would catch what one takeover of a small guest does not: what is left
    over from one session for the next, a file system that is not whole, a
    commit that was acknowledged too early."""
    pair = make_pair(LinuxPair, storage=storage, rng=random.Random(SEED))
    play(pair, FAILOVERS, SEED)


@pytest.mark.slow
def test_equal_after_power_off(make_pair):
    """What the guest wrote last before its end, unmounting its disk among
    it, is on the backup's image, too. With long epochs all of that is in
    the one which is open when the guest ends."""
    pair = make_pair(LinuxPair, storage='replicated',
                     append='ftguest.postgres=no',
                     params={'ft-epoch-us': 500000})
    pair.start()
    pair.protect()
    pair.power_off()
    pair.check_images()


def main():
    parser = argparse.ArgumentParser(
        description='Kill the host of a database again and again.')
    parser.add_argument('--failovers', type=int, default=50)
    parser.add_argument('--storage', action='append',
                        choices=['shared', 'replicated'])
    parser.add_argument('--seed', type=int, default=SEED)
    parser.add_argument('--run', default='', metavar='COMMAND',
                        help='a load in the guest beside the database, as '
                        '"fio --name=a --filename=/data/fio --size=32m '
                        '--bs=4k --rw=randwrite --fsync=4 --time_based '
                        '--runtime=999"')
    parser.add_argument('--keep', action='store_true',
                        help='leave logs and images there in any case')
    options = parser.parse_args()
    end_in_order()
    append = ''
    if options.run:
        append = 'ftguest.run=' + urllib.parse.quote(options.run, safe='')
    failed = []
    for storage in options.storage or ['shared', 'replicated']:
        directory = tempfile.mkdtemp(prefix=f'cuju-pg-{storage}-')
        try:
            with LinuxPair(directory, storage=storage, append=append,
                           rng=random.Random(options.seed)) as pair:
                try:
                    play(pair, options.failovers, options.seed)
                except Exception:  # whatever it is: the other storage, too
                    failed.append(storage)
                    traceback.print_exc()
                    for title, text in pair.report():
                        say(f'--- {title}\n{text}')
        finally:
            if storage in failed or options.keep:
                say(f'logs and images: {directory}')
            else:
                shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
