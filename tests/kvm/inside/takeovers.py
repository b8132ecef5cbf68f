#!/usr/bin/python3
"""Takeovers, one after the other, each at a random moment.

SPDX-License-Identifier: GPL-2.0-or-later

    takeovers.py [--linux] [--first K] [--seconds S] N SEED

The bare guest, or Linux with redis. A guest lives for up to LIVES takeovers,
its survivor being protected again by a new process; guests with dirty rings
and with bitmaps take turns. Each takeover prints a line, "ok" or "LOST" with
the reason; a guest with something lost is not used again. Exit status 1 if
anything was lost. tests/kvm/takeovers runs it.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(os.path.dirname(HERE))
for _name in 'functional', 'chaos':
    sys.path.insert(0, os.path.join(TESTS, _name))
from harness import Pair  # noqa: E402
from linux import end_in_order  # noqa: E402
from redispair import RedisPair  # noqa: E402

POINTS = ('pause-begin', 'captured', 'before-send', 'mid-frame',
          'after-send', 'ack-received', 'released')
FAULTS = ('kill', 'hang', 'point', 'point')
ACCELS = {'ring': 'kvm,dirty-ring-size=4096', 'bitmap': 'kvm'}
NICS = ('virtio-net-pci', 'rtl8139', 'e1000')
LIVES = {'bare': 3, 'linux': 4}


class Plan:
    """One guest; and of each takeover the fault. All from the seed and the
    number of the guest."""

    def __init__(self, seed, number, linux):
        rng = self.rng = random.Random(f'{seed} {number} {linux}')
        self.how = tuple(ACCELS)[number % 2]
        self.accel = ACCELS[self.how]
        self.cpus = 1 + number // 2 % 2
        self.load = rng.choice(('touch', 'fill'))
        self.nic = rng.choice(NICS)
        self.lives = LIVES['linux' if linux else 'bare']

    def fault(self):
        """(name, point, after)"""
        fault = self.rng.choice(FAULTS)
        if fault != 'point':
            return fault, None, 0
        return fault, self.rng.choice(POINTS), self.rng.randrange(1, 40)


class Bare:
    """The bare guest's life."""

    def __init__(self, directory, plan):
        self.plan = plan
        self.takeovers = 0
        self.pair = Pair(
            directory, accel=plan.accel, nic=plan.nic, memory='32M',
            mode=f'count,{plan.load}', pages=plan.rng.choice((64, 512)),
            options=f'rate={plan.rng.choice((1, 2, 5))}',
            extra=['-smp', str(plan.cpus)],
            # See test_soak.py.
            params={'ft-hash': 8, 'ft-epoch-us': 30000})

    def protect(self):
        if not self.takeovers:
            self.pair.protected()
            return
        self.pair.start_backup(f'backup{self.takeovers}')
        self.pair.protect()
        self.pair.wait_hash()

    def play(self, fault, point, after):
        """One takeover; words for the line."""
        pair = self.pair
        pair.cable.wait_more(self.plan.rng.randrange(1, 40), pair.primary)
        time.sleep(self.plan.rng.uniform(0, 0.03))  # the random moment
        primary = pair.primary
        if point:
            primary.inject(point, after)
            assert primary.wait_exit() == -signal.SIGKILL
        elif fault == 'hang':
            primary.hang()
        else:
            primary.kill()
        status = pair.taken_over()
        assert status['hashes-checked'] > 0
        if fault == 'hang':
            pair.wakes_fenced(primary)
            pair.cable.wait_more(10, pair.backup)
        self.takeovers += 1
        pair.cable.check(takeovers=self.takeovers)
        pair.primary = pair.backup
        return f'takeover {status["takeover-us"] / 1000:.1f} ms'

    def end(self):
        self.pair.close()
        self.pair.check_arbiter()

    def close(self):
        self.pair.close()


class Linux:
    """The Linux guest's life."""

    def __init__(self, directory, plan):
        self.plan = plan
        self.pair = RedisPair(directory, accel=plan.accel, cpus=plan.cpus,
                              rng=plan.rng)
        self.fresh = True

    def protect(self):
        if self.fresh:
            self.pair.boot()
        else:
            self.pair.again()
        self.fresh = False

    def play(self, fault, point, after):
        """One takeover; words for the line."""
        self.pair.more(self.plan.rng.randrange(1, 20))
        time.sleep(self.plan.rng.uniform(0, 0.05))  # the random moment
        outage = self.pair.failover(fault, point, after)
        acked, disk = self.pair.look()
        return f'outage {outage:.0f} ms, {acked} + {disk} writes'

    def end(self):
        self.pair.finish()
        self.pair.close()
        self.pair.check_arbiter()

    def close(self):
        self.pair.close()


def say(*words):
    print(*words, flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--linux', action='store_true')
    parser.add_argument('--first', type=int, default=0, metavar='K',
                        help='begin with this guest')
    parser.add_argument('--seconds', type=float, default=1e9,
                        help='begin no takeover after so many')
    parser.add_argument('number', type=int)
    parser.add_argument('seed', type=int)
    return parser.parse_args()


def main():
    args = arguments()
    end_in_order()
    over = time.monotonic() + args.seconds
    kind = 'linux' if args.linux else 'bare'
    done = lost = 0
    guest = args.first
    while done + lost < args.number and time.monotonic() < over:
        plan = Plan(args.seed, guest, args.linux)
        with tempfile.TemporaryDirectory() as directory:
            life = (Linux if args.linux else Bare)(directory, plan)
            try:
                for turn in range(plan.lives):
                    if done >= args.number or time.monotonic() >= over:
                        break
                    fault = ('protecting', None, 0)
                    begin = time.monotonic()
                    life.protect()
                    fault = plan.fault()
                    words = life.play(*fault)
                    done += 1
                    say(f'ok   {kind} {guest}.{turn} {plan.how:6} '
                        f'{plan.cpus} vCPU {fault[1] or fault[0]:12} {words}, '
                        f'{time.monotonic() - begin:.1f} s in all')
                fault = ('the end', None, 0)
                life.end()
            except Exception as error:  # whatever it is: it is counted
                lost += 1
                say(f'LOST {kind} {guest} {plan.how:6} {plan.cpus} vCPU '
                    f'{fault[1] or fault[0]} {fault[2]}: {error}')
                traceback.print_exc()
                for title, text in life.pair.report():
                    say(f'--- {title}\n{text}')
            finally:
                life.close()
        guest += 1
    say(f'takeovers: {kind} {done} ok, {lost} lost, next guest {guest}')
    return 1 if lost else 0


if __name__ == '__main__':
    sys.exit(main())
