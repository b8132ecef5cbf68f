"""One world's life: which it is, and its faults one after the other.

SPDX-License-Identifier: GPL-2.0-or-later

Rounds have names: B1, B2, ... on the bare guest, L1, ... on Linux. A world
has a fixed number of them, so B57 is always in the third bare world. All that
is chosen depends on the seed and on the name of the world or the round alone,
so a round can be played again: from its world's first one, as what was before
matters.
"""

import ctypes
import json
import os
import random
import re
import shutil
import sys
import time
import traceback

import faults
from bare import BareWorld
from linuxguest import LinuxWorld
from world import Setup, Wrong

PR_SET_CHILD_SUBREAPER = 36
# Rounds of a world, by the first letter of its name.
ROUNDS = {'B': 25, 'L': 10}
WORLDS = {'B': BareWorld, 'L': LinuxWorld}


def parse(name):
    """('B', 57) of B57."""
    match = re.fullmatch(r'([BL])([1-9]\d*)', name)
    if not match:
        raise ValueError(f'{name}: a round or world is B1, B2, ... or L1, ...')
    return match[1], int(match[2])


def world_of(round_name):
    """The world that a round is in."""
    kind, number = parse(round_name)
    return f'{kind}{(number - 1) // ROUNDS[kind] + 1}'


def rounds_of(world_name, limit=None):
    """Its first and last round, as numbers; `limit`: there are no more."""
    kind, number = parse(world_name)
    first = (number - 1) * ROUNDS[kind] + 1
    last = first + ROUNDS[kind] - 1
    return first, min(last, limit) if limit else last


def have_etcd():
    """Can a world have etcd as its arbiter?"""
    return bool(shutil.which('etcd'))


def make_setup(seed, name, only=None):
    """What the world of that name is like; `only`: it must be able to have
    that fault."""
    rng = random.Random(f'{seed}:{name}')
    kind, number = parse(name)
    bare = kind == 'B'
    storages = ('shared', 'replicated', 'none') if bare else \
        ('shared', 'replicated')
    storage = storages[(number - 1) % len(storages)]
    arbiter = rng.choices(
        ('file', 'etcd', 'image'),
        (6, 2 * have_etcd(), 3 * (storage == 'shared')))[0]
    needs = faults.TABLE[only].needs if only else ()
    if 'replicated' in needs:
        storage = 'replicated'
    elif 'disk' in needs and storage == 'none':
        storage = 'shared'
    if arbiter == 'image' and ('arbiter' in needs or storage != 'shared'):
        arbiter = 'file'
    load = rng.choice(('count,touch', 'count,touch', 'count,fill'))
    if storage != 'none':
        load += ',disk'
    params = {'ft-epoch-us': rng.choice((5000, 10000, 10000, 20000)),
              'ft-depth': rng.choice((1, 2, 2, 4)),
              'ft-hash': 24 if bare else 100}
    return Setup(
        name=name, guest='bare' if bare else 'linux', seed=seed,
        storage=storage, arbiter=arbiter, auto=rng.random() < 0.15,
        werror=rng.choice(('enospc', 'stop', 'report')),
        nic=rng.choice(('virtio-net-pci', 'virtio-net-pci', 'rtl8139',
                        'e1000')) if bare else 'virtio-net-pci',
        load=load, timeout_ms=rng.choice((400, 500, 500, 600)),
        params=params)


def one_round(world, name, only=None):
    """A fault from begin to end; what is told of it, as a dict."""
    setup = world.setup
    rng = random.Random(f'{setup.seed}:{name}')
    fault = faults.choose(setup, rng)
    if only:
        fault = faults.TABLE[only]
    world.note(f'=== {name}: {fault.name}')
    began = time.monotonic()
    told = {'round': name, 'world': setup.name, 'fault': fault.name,
            'guest': setup.guest, 'storage': setup.storage,
            'arbiter': setup.arbiter, 'outcome': None, 'verdict': None,
            'cause': '', 'expected': True, 'outage_ms': None}
    try:
        world.losers = []
        world.ready(fault.begins)
        world.nap(rng.uniform(0, 0.12))
        world.listen()
        world.fault_begins()
        fault.run(world, rng)
        world.heal()
        outcome = world.audit(world.resolve())
        told['outcome'] = outcome
        told['losers'] = world.losers
        told['expected'] = outcome in fault.expect
        told['outage_ms'] = round(world.outage(), 1)
        if not told['expected']:
            told['cause'] = f'went on as {outcome}: ' + '; '.join(
                f'{side.name} {side.machine.states[side.since:]}'
                for side in world.sides[-2:]) + \
                f'; ended: {world.losers}'
    except Wrong as wrong:
        told.update(verdict=wrong.verdict, cause=str(wrong))
        if wrong.verdict == 'stuck':
            autopsy(world)
    except Exception as error:  # told; it may well be the pair's fault
        told.update(verdict='harness', cause=f'{type(error).__name__}: '
                    f'{error}')
        world.note(traceback.format_exc())
    told['seconds'] = round(time.monotonic() - began, 2)
    world.note(f'{name}: {told["verdict"] or "survived"}, '
               f'{told["outcome"]}, outage {told["outage_ms"]} ms, '
               f'{told["seconds"]} s {told["cause"]}')
    return told


def autopsy(world):
    """For what hangs; it may hang itself."""
    try:
        world.autopsy()
    except Exception as error:
        world.note(f'no autopsy: {error}')


def finish(world, last):
    """The world's last look; a dict if it finds something."""
    try:
        world.finish()
    except Wrong as wrong:
        verdict, cause = wrong.verdict, str(wrong)
    except Exception as error:
        world.note(traceback.format_exc())
        verdict, cause = 'harness', f'{type(error).__name__}: {error}'
    else:
        return None
    world.note(f'at the end: {verdict}: {cause}')
    return {'round': last, 'end': True, 'verdict': verdict,
            'cause': f'at the end of {world.setup.name}: {cause}'}


def play(name, seed, first, last, directory, only=None, until=None,
         arbiter=None):
    """A world's rounds from `first` to `last`: prints each as JSON.

    It ends with the first one that is lost: what comes after would say
    nothing. `until`: a time.time() after which no more are begun; `arbiter`:
    in place of the world's own."""
    def say(told):
        print(json.dumps(told), flush=True)

    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    setup = make_setup(seed, name, only)
    if arbiter:
        setup = setup._replace(arbiter=arbiter)
    if arbiter == 'none':
        # no lock of an image shall keep the second side from going on
        setup = setup._replace(storage='none', auto=False, load='count,touch')
    kind, _ = parse(name)
    os.makedirs(directory)
    with open(os.path.join(directory, 'diary'), 'w', buffering=1,
              encoding='utf-8') as diary:
        print(setup, file=diary)
        world = WORLDS[kind](setup, directory,
                             lambda text: print(text, file=diary))
        good = odd = False
        try:
            world.begin()
            good = True
            for number in range(first, last + 1):
                if until and time.time() > until:
                    break
                told = one_round(world, f'{kind}{number}', only)
                say(told)
                good = not told['verdict']
                odd = odd or not told['expected']
                if not good:
                    break
            if good:
                told = finish(world, f'{kind}{number}')
                if told:
                    say(told)
                    good = False
        except Exception as error:
            good = False
            world.note(traceback.format_exc())
            say({'round': f'{kind}{first}', 'end': True, 'verdict': 'harness',
                 'cause': f'the world does not begin: {error}'})
        finally:
            left = world.close()
        if left:
            good = False
            say({'round': f'{kind}{last}', 'end': True,
                 'verdict': 'left-over', 'cause': '; '.join(left)})
        world.note('closed')
    if good and not odd:
        world.remove()
    say({'closed': True, 'late': world.story.late,
         'heard': world.story.heard, 'retries': world.retries})
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit('this is run by tests/chaos/run')
