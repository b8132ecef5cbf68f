"""What goes wrong, and who has to go on then.

SPDX-License-Identifier: GPL-2.0-or-later

Each fault is a function of a World and a random.Random of its own. It lets
something happen and comes back when that lasts no longer, or has been noticed;
healing, finding out who goes on and looking at everything is done for it.

The table says for each who may go on:

    RIDE       nobody notices: the guest stays protected
    PRIMARY    the primary goes on alone
    BACKUP     the backup takes over
    EITHER     one of the two, whoever was first at the arbiter
    ANY        it depends: a wire that loses frames may be good enough

What ends otherwise, but with one whole guest, has survived; it is listed as
unexpected. Nothing here kills both sides: that nobody can survive.
"""

import errno
import time
from collections import namedtuple

import audit

RIDE, PRIMARY, BACKUP = {'protected'}, {'primary'}, {'backup'}
EITHER = PRIMARY | BACKUP
ANY = RIDE | EITHER

Fault = namedtuple('Fault', 'name weight expect begins needs guests run')
TABLE = {}

# Where a primary and a backup can be killed (x-ft-inject).
PRIMARY_POINTS = ('pause-begin', 'captured', 'before-send', 'mid-frame',
                  'after-send', 'ack-received', 'released')
BACKUP_POINTS = ('before-ack', 'after-ack', 'mid-apply')


def fault(name, weight, expect, begins='protected', needs=(),
          guests=('bare', 'linux')):
    """Enter a function in the table."""
    def enter(run):
        TABLE[name] = Fault(name, weight, expect, begins, needs, guests, run)
        return run
    return enter


NEEDS = {
    'disk': lambda s: s.storage != 'none',
    'replicated': lambda s: s.storage == 'replicated',
    'arbiter': lambda s: s.arbiter in ('file', 'etcd'),
}


def choose(setup, rng):
    """A fault that a world of that kind can have."""
    fitting = [f for f in TABLE.values() if setup.guest in f.guests and
               all(NEEDS[need](setup) for need in f.needs)]
    return rng.choices(fitting, [f.weight for f in fitting])[0]


def decided(w, what):
    """Somebody must have noticed."""
    w.expect(w.wait_decided(), 'stuck', lambda: f'{what}, and nobody noticed: '
             f'{w.primary.query()}')


def dies_at(w, side, point, after):
    """It kills itself at a point of the protocol; if it does not get there,
    it is killed."""
    w.note(f'{side.name} will die at {point}, number {after}')
    side.killed = True
    side.try_qmp('x-ft-inject', point=point, after=after)
    if not w.until(lambda: not side.alive(), 3):
        w.note('it has not come there')
        w.kill(side)


# ----------------------------------------------------------- dead processes

@fault('kill primary', 10, BACKUP)
def kill_primary(w, rng):
    w.kill(w.primary)


@fault('kill primary at a point', 8, BACKUP)
def kill_primary_at(w, rng):
    points = list(PRIMARY_POINTS)
    if w.setup.storage != 'none':
        points += ['disk-apply', 'disk-flush']
    dies_at(w, w.primary, rng.choice(points), rng.randrange(1, 12))


@fault('kill backup', 8, PRIMARY)
def kill_backup(w, rng):
    w.kill(w.backup)


@fault('kill backup at a point', 5, PRIMARY)
def kill_backup_at(w, rng):
    points = list(BACKUP_POINTS)
    if w.setup.storage == 'replicated':
        points += ['disk-apply', 'disk-flush']
    dies_at(w, w.backup, rng.choice(points), rng.randrange(1, 12))


@fault('kill during sync', 6, PRIMARY, begins='alone')
def kill_in_sync(w, rng):
    delay = rng.uniform(0, 0.25 if w.setup.guest == 'bare' else 3.0)
    w.start_backup()
    w.fault_begins()
    w.migrate()
    w.nap(delay)
    w.kill(w.backup)


@fault('kill during takeover', 8, BACKUP)
def kill_in_takeover(w, rng):
    delay, operator = rng.uniform(0, 0.012), rng.random() < 0.5
    if operator:
        w.note('cuju-failover')
        w.may_not_claim()
        w.backup.try_qmp('cuju-failover')
    else:
        w.stop(w.primary)
        w.expect(w.until(lambda: w.backup.state() != 'standby', 8), 'stuck',
                 'the primary stands still, and nobody noticed')
    w.nap(delay)
    w.kill(w.primary)
    w.primary.stopped = False


@fault('kill backup before its claim', 4, PRIMARY)
def kill_at_claim(w, rng):
    """It dies when it is about to ask the arbiter; the primary, which stood
    still, must find that nobody has taken over."""
    w.backup.killed = True
    w.backup.try_qmp('x-ft-inject', point='claim', after=1)
    w.stop(w.primary)
    w.expect(w.until(lambda: not w.backup.alive(), 8), 'stuck',
             'the primary stands still, and nobody noticed')
    w.nap(rng.uniform(0, 0.1))
    w.cont(w.primary)


@fault('second failure', 10, EITHER)
def second_failure(w, rng):
    """The primary dies; while the survivor is being protected again, the
    next thing happens."""
    what = rng.choice(['kill', 'cut', 'hang', 'corrupt'])
    delay = rng.uniform(0, 0.25 if w.setup.guest == 'bare' else 3.0)
    if what == 'corrupt' and w.setup.storage == 'replicated':
        what = 'cut'        # what NBD carries has no checksum but TCP's
    w.kill(w.primary)
    w.heal()
    first = w.fault_at
    w.expect(w.resolve() == 'backup', 'lost', 'the backup did not take over')
    w.start_backup()
    w.migrate()
    w.expect(w.until(lambda: 'sync' in w.primary.states(), 10), 'stuck',
             lambda: f'no first copy: {w.primary.machine.states}')
    w.nap(delay)
    w.note(f'second failure: {what}, the first copy '
           f'{"is done" if w.backup.state() == "standby" else "is on"}')
    w.fault_begins()
    w.fault_at = first
    if what == 'kill':
        w.kill(w.backup)
    elif what == 'cut':
        w.cut()
        decided(w, 'the cable is cut')
    elif what == 'hang':
        w.stop(w.backup)
        decided(w, 'the backup hangs')
    else:
        corrupted(w, rng)


# ------------------------------------------------- processes that stand still

@fault('stop primary, short', 5, RIDE)
def stop_primary(w, rng):
    w.stop(w.primary)
    w.nap(rng.uniform(0.01, 0.35) * w.setup.timeout_ms / 1000)
    w.cont(w.primary)


@fault('stop backup, short', 4, RIDE)
def stop_backup(w, rng):
    w.stop(w.backup)
    w.nap(rng.uniform(0.01, 0.35) * w.setup.timeout_ms / 1000)
    w.cont(w.backup)


def waits_for_lock(w):
    """A shared image is locked by the primary as long as that exists."""
    return w.setup.storage == 'shared' and w.backup.state() == 'takeover' \
        and 'lock' in w.backup.reason()


@fault('hang primary', 9, BACKUP)
def hang_primary(w, rng):
    """It stands still until the backup has gone on, wakes up, and must end
    without a word."""
    delay, dies = rng.uniform(0, 0.3), rng.random() < 0.2
    w.stop(w.primary)
    w.expect(w.until(lambda: w.backup.went_on() or
                     waits_for_lock(w), 8), 'stuck',
             lambda: f'the primary hangs, the backup is in state '
             f'{w.backup.machine.states}')
    w.nap(delay)
    if dies:
        w.kill(w.primary)
        w.primary.stopped = False
        return
    w.silent_from(w.primary, time.time_ns() + audit.LATE_NS)
    w.cont(w.primary)


@fault('hang backup', 6, PRIMARY)
def hang_backup(w, rng):
    w.stop(w.backup)
    decided(w, 'the backup hangs')
    w.nap(rng.uniform(0, 0.3))
    w.silent_from(w.backup, time.time_ns())


# -------------------------------------------------------------------- links

@fault('link down, short', 4, RIDE)
def link_blip(w, rng):
    """Shorter than TCP's first retransmission."""
    w.cut()
    w.nap(rng.uniform(0.01, 0.08))


@fault('link down', 9, EITHER)
def link_down(w, rng):
    host, by_relay = rng.choice(('pri', 'bak')), rng.random() < 0.4
    if by_relay:
        w.cut()
    else:
        w.note(f'the pair\'s interface of {host} is down')
        w.cable.link(host, False)
    decided(w, 'the link is down')
    w.nap(rng.uniform(0, 0.3))


@fault('one-way loss', 8, EITHER)
def one_way(w, rng):
    w.cut(rng.choice(('pri', 'bak')))
    decided(w, 'the cable is cut one way')
    w.nap(rng.uniform(0, 0.3))


@fault('both links cut', 6, EITHER)
def both_links(w, rng):
    """The pair's cable, and one host's link to the guest's network."""
    host = rng.choice(('pri', 'bak'))
    w.note(f'the uplink of {host} is down')
    w.cable.uplink(host, False)
    w.cut()
    decided(w, 'the link is down')
    w.nap(rng.uniform(0, 0.3))


@fault('uplink down', 2, RIDE)
def uplink(w, rng):
    """The guest's network only; the pair does not feel it."""
    w.note(f'the uplink of {w.primary.host} is down')
    w.cable.uplink(w.primary.host, False)
    w.nap(rng.uniform(0.1, 0.4))


@fault('delay', 5, RIDE)
def delay_frames(w, rng):
    most = w.setup.timeout_ms * 1000 / 8
    w.cable.set(rng.choice((None, 'pri', 'bak')),
                delay=rng.uniform(1000, most), jitter=rng.uniform(0, 5000))
    w.nap(rng.uniform(0.3, 0.8))


@fault('delay, long', 3, ANY)
def delay_long(w, rng):
    """Longer than a side may be silent."""
    w.cable.set(rng.choice((None, 'pri', 'bak')),
                delay=w.setup.timeout_ms * 1000 * rng.uniform(1.0, 2.0))
    decided(w, 'everything comes too late')


@fault('5 % loss', 5, ANY)
def loss(w, rng):
    w.cable.small(True)
    w.cable.set(rng.choice((None, 'pri', 'bak')), drop=50000)
    w.nap(rng.uniform(0.4, 1.2))


@fault('reorder', 4, RIDE)
def reorder(w, rng):
    w.cable.small(True)
    w.cable.set(rng.choice((None, 'pri', 'bak')),
                reorder=rng.randrange(20000, 300000),
                hold=rng.randrange(500, 8000))
    w.nap(rng.uniform(0.3, 0.8))


def corrupted(w, rng):
    """One byte of what TCP carries is not what was sent, and TCP does not
    find out."""
    w.cable.small(True)
    sender = rng.choice(('pri', 'bak'))
    w.may_not_claim()       # the end of one connection: the other asks
    before = w.cable.stats()
    w.cable.set(sender, corrupt=rng.choice((1000000, 300000, 50000)),
                damage=1)
    w.wait_decided(3.0)
    after = w.cable.stats()
    way = w.cable.way(sender)
    w.note(f'{after[way][3] - before[way][3]} bytes of {sender} changed')


@fault('corrupt bytes', 8, ANY)
def corrupt(w, rng):
    corrupted(w, rng)


# ------------------------------------------------------------------ arbiter

@fault('arbiter away', 3, RIDE, needs=['arbiter'])
def arbiter_away(w, rng):
    w.arbiter_away(True)
    w.nap(rng.uniform(0.2, 1.0))


def held_until_back(w, sides, rng):
    """Without the arbiter nobody goes on, and nothing leaves."""
    w.expect(w.until(lambda: all(s.state() == 'claiming' for s in sides), 8),
             'stuck', lambda: 'not claiming: ' + '; '.join(
                 f'{s.name} {s.machine.states[s.since:]}' for s in sides))
    w.nap(0.02)
    since = time.time_ns()
    w.nap(rng.uniform(0.1, 0.8))
    for side in sides:
        w.silent_from(side, since, time.time_ns())
        w.expect(side.alive() and side.state() == 'claiming', 'double-live',
                 lambda side=side: f'{side.name} without the arbiter: '
                 f'{side.machine.states[side.since:]}')


@fault('arbiter away, kill backup', 5, PRIMARY, needs=['arbiter'])
def away_kill_backup(w, rng):
    w.arbiter_away(True)
    w.kill(w.backup)
    held_until_back(w, [w.primary], rng)


@fault('arbiter away, kill primary', 5, BACKUP, needs=['arbiter'])
def away_kill_primary(w, rng):
    w.arbiter_away(True)
    w.kill(w.primary)
    held_until_back(w, [w.backup], rng)


@fault('arbiter away, link down', 5, EITHER, needs=['arbiter'])
def away_link_down(w, rng):
    w.arbiter_away(True)
    w.cut()
    held_until_back(w, [w.primary, w.backup], rng)


# -------------------------------------------------------------------- disks

def disk_error(side):
    """Has it told of one since the fault began?"""
    return any(event['event'] == 'FT_DISK_ERROR'
               for event in side.machine.events)


def mended(w):
    """The journal has got rid of what it could not write: it tries again a
    second later. Until then the loss of the backup would show the guest the
    error, as without protection."""
    w.expect(w.until(lambda: w.resume_paused(w.primary) or not any(
        'error' in drive for drive in w.primary.query().get('drives', ())),
                     8), 'stuck', lambda: f'the disk works, but: '
             f'{w.primary.query().get("drives")}')


@fault('disk full on primary', 5, RIDE, needs=['disk'], guests=['bare'])
def full_primary(w, rng):
    host = w.primary.host
    w.primary.machine.events.clear()
    w.note(f'the disk of {host} gets full')
    # discards give space back, so once is not enough
    w.until(lambda: w.fill(host) or disk_error(w.primary), 4)
    w.nap(rng.uniform(0, 0.2))
    w.empty(host)
    mended(w)


@fault('disk full on backup', 5, PRIMARY, needs=['replicated'],
       guests=['bare'])
def full_backup(w, rng):
    host = w.backup.host
    w.note(f'the disk of {host} gets full')
    w.until(lambda: w.fill(host) or not w.backup.alive(), 6)
    w.empty(host)


@fault('disk error on primary', 5, RIDE, needs=['disk'])
def error_primary(w, rng):
    w.fail_writes(w.primary, rng.randrange(1, 6),
                  rng.choice((errno.EIO, errno.ENOSPC)))
    w.until(lambda: w.resume_paused(w.primary) or
            not w.failed_writes(w.primary)[1], 4)
    done, left = w.failed_writes(w.primary)
    if left:
        w.note(f'{done} have, {left} were not made')
        w.fail_writes(w.primary, 0)
    mended(w)


@fault('disk error on backup', 5, PRIMARY, needs=['replicated'])
def error_backup(w, rng):
    w.fail_writes(w.backup, 1)
    w.until(lambda: not w.backup.alive(), 6)
