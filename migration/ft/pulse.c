/*
 * Fault tolerance: the thread that sends and hears heartbeats
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The thread is the only one that reads and writes the connection:
 *
 *   take the time -> read all that has come -> heart.c: verdict? send?
 *        ^                                         |
 *        +---- wait for more, or for the time <----+
 *
 * in that order, so that heart.c never judges by the clock alone what lies
 * unread in the socket.
 *
 * "Stuck": a timer of the main loop writes down the time at least every
 * TICK_MAX_US.  A main loop that has not done so for `stuck_us` handles
 * neither the guest's devices nor the monitor, and so the thread sends
 * nothing until it does.  A pause of an epoch, a drain or a monitor command
 * also keeps the main loop, but for less than that bound.  A process that was
 * stopped as a whole has an old time, too, when it wakes up; so the main loop
 * gets another TICK_MAX_US then, in which the thread goes on sending.
 *
 * After the end of the connection lost() is called at once only when the
 * other side's kernel says that the connection was closed there: then it has
 * ended, or ends the session itself and knows.  A reset says that, too, if
 * another connection was closed there: it comes instead where heartbeats lay
 * unread in the socket of a process that was killed, and they do if freeing
 * its memory takes longer than an interval.  On whatever else (a wrong frame,
 * a reset alone, this side has shut it down) the other side may be well and
 * believe that it has its lease: lost() comes when that is over.
 *
 * Locking: `lock` is held for moments only, never while reading, writing or
 * in an op.
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "link-private.h"
#include "pulse.h"
#include "trace.h"

#define TICK_MAX_US     100000
/* Frames that are read before it is looked whether one is to be sent. */
#define READ_MAX        1000

#define FRAME_SIZE      (FT_WIRE_HEADER + FT_HEARTBEAT_SIZE)

struct FtPulse {
    FtLink *link;
    int64_t stuck_us;
    const FtPulseOps *ops;
    void *opaque;
    QemuThread thread;

    QEMUTimer *ticker;
    int64_t tick_us;
    int64_t tick;               /* atomic: when the main loop came round */

    QemuMutex lock;
    QemuCond cond;              /* quit, peer_closed */
    FtHeart heart;
    int64_t rtt_us, gap_max_us;
    uint64_t muted;
    bool quit;
    bool peer_closed;           /* another connection */
    bool wanted;                /* somebody asked for the lease in vain */

    /* The thread's own. */
    uint8_t frame[FRAME_SIZE];
    unsigned have;              /* bytes of it */
    int64_t old_since;          /* the tick was found old, 0: it is not */
    bool stuck;
};

static void pulse_tick(void *opaque)
{
    FtPulse *p = opaque;

    qatomic_set_i64(&p->tick, g_get_monotonic_time());
    timer_mod(p->ticker, qemu_clock_get_us(QEMU_CLOCK_REALTIME) + p->tick_us);
}

static bool pulse_stuck(FtPulse *p, int64_t now)
{
    bool stuck = false;

    if (!p->stuck_us || now - qatomic_read_i64(&p->tick) <= p->stuck_us) {
        p->old_since = 0;
    } else if (!p->old_since) {
        p->old_since = now;
    } else {
        stuck = now - p->old_since >= TICK_MAX_US;
    }
    if (stuck != p->stuck) {
        p->stuck = stuck;
        trace_ft_pulse_stuck(stuck);
        if (stuck) {
            QEMU_LOCK_GUARD(&p->lock);
            p->muted++;
        }
    }
    return stuck;
}

/* The frame is whole. */
static bool pulse_received(FtPulse *p, const FtFrame *f, Error **errp)
{
    const uint8_t *payload = p->frame + FT_WIRE_HEADER;
    FtHeart *h = &p->heart;
    FtHeartbeat hb;
    int64_t now, gap;
    uint64_t echoed;

    if (!ft_wire_check_payload(f, payload, errp) ||
        !ft_wire_get_heartbeat(payload, f->length, &hb, errp)) {
        return false;
    }

    QEMU_LOCK_GUARD(&p->lock);
    now = g_get_monotonic_time();
    gap = h->heard ? now - h->heard_at : 0;
    echoed = h->echoed;
    if (!ft_heart_received(h, &hb, now, errp)) {
        return false;
    }
    p->gap_max_us = MAX(p->gap_max_us, gap);
    if (h->echoed != echoed) {
        p->rtt_us = now - h->echoed_sent_at;
    }
    return true;
}

/*
 * Read all that is there.  False: the connection has ended, with the reason in
 * @errp; *@closed: by the other side.
 */
static bool pulse_read(FtPulse *p, bool *closed, Error **errp)
{
    unsigned frames = 0;
    FtFrame f;

    *closed = false;
    while (frames < READ_MAX) {
        unsigned want = p->have < FT_WIRE_HEADER ? FT_WIRE_HEADER : FRAME_SIZE;
        ssize_t n = ft_link_read_now(p->link, p->frame + p->have,
                                     want - p->have, errp);

        if (n == -EAGAIN) {
            return true;
        }
        if (n < 0) {
            return false;
        }
        if (n == 0) {
            /* Also when this side has done it. */
            *closed = !qatomic_read(&p->link->down);
            error_setg(errp, *closed ? "the other side has closed the "
                       "connection for heartbeats" :
                       "this side has closed the connection for heartbeats");
            return false;
        }
        p->have += n;
        if (p->have < want) {
            continue;
        }
        /* Its length is checked with it: what follows fits. */
        if (!ft_wire_get_header(p->frame, &f, errp)) {
            return false;
        }
        if (f.type != FT_FRAME_HEARTBEAT) {
            error_setg(errp, "frame of type %s on the connection for "
                       "heartbeats", ft_wire_type_name(f.type));
            return false;
        }
        if (want == FRAME_SIZE) {
            p->have = 0;
            frames++;
            if (!pulse_received(p, &f, errp)) {
                return false;
            }
        }
    }
    return true;
}

static bool pulse_send(FtPulse *p, const FtHeartbeat *hb, Error **errp)
{
    uint8_t payload[FT_HEARTBEAT_SIZE];

    ft_wire_put_heartbeat(payload, hb);
    return ft_link_send(p->link, FT_FRAME_HEARTBEAT, 0, 0, payload,
                        sizeof(payload), errp);
}

/*
 * Lock held.  Not when the connection has been shut down: that is known here
 * before the other side hears of it and goes on.
 */
static bool pulse_leased_locked(FtPulse *p)
{
    return !qatomic_read(&p->link->down) &&
           g_get_monotonic_time() < ft_heart_lease(&p->heart);
}

static void pulse_renewed(FtPulse *p)
{
    WITH_QEMU_LOCK_GUARD(&p->lock) {
        if (!p->wanted || !pulse_leased_locked(p)) {
            return;
        }
        p->wanted = false;
    }
    p->ops->renewed(p->opaque);
}

static void pulse_silent(FtPulse *p)
{
    char why[sizeof(p->heart.why)];

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        pstrcpy(why, sizeof(why), p->heart.why);
    }
    trace_ft_pulse_silent(why);
    p->ops->silent(p->opaque, why);
}

static void pulse_lost(FtPulse *p, bool closed, const char *reason)
{
    bool dead = ft_link_is_dead(p->link);

    trace_ft_pulse_lost(closed, dead, reason);
    /* It shall know as soon as it can. */
    ft_link_shutdown(p->link);

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        while (!closed && !p->quit && !(dead && p->peer_closed)) {
            int64_t left = ft_heart_peer_lease(&p->heart) -
                           g_get_monotonic_time();

            if (left <= 0) {
                break;
            }
            qemu_cond_timedwait(&p->cond, &p->lock, DIV_ROUND_UP(left, 1000));
        }
        if (p->quit) {
            return;
        }
    }
    p->ops->lost(p->opaque, reason);
}

/*
 * A host with more to do than it can must not make this side look dead.  Not
 * allowed for everybody, nor in QEMU's sandbox (which says EPERM).
 */
static void pulse_raise_priority(void)
{
#ifdef CONFIG_LINUX
    /* Linux takes a thread's id for that. */
    (void)setpriority(PRIO_PROCESS, qemu_get_thread_id(), -10);
#endif
}

static void *pulse_thread(void *opaque)
{
    g_autoptr(Error) err = NULL;
    FtPulse *p = opaque;
    bool closed = false;

    pulse_raise_priority();
    for (;;) {
        int64_t now = g_get_monotonic_time();
        int64_t next;
        FtHeartbeat hb;
        bool send, stuck, silent;

        if (!pulse_read(p, &closed, &err)) {
            break;
        }
        pulse_renewed(p);

        stuck = pulse_stuck(p, now);
        WITH_QEMU_LOCK_GUARD(&p->lock) {
            next = ft_heart_poll(&p->heart, now, stuck, &send, &hb);
            silent = p->heart.verdict == FT_HEART_SILENT;
        }
        if (silent) {
            pulse_silent(p);
            return NULL;
        }
        if (send && !pulse_send(p, &hb, &err)) {
            break;
        }

        if (p->old_since) {
            next = MIN(next, now + TICK_MAX_US);
        }
        if (!ft_link_wait_readable(p->link, next, &err)) {
            if (g_get_monotonic_time() < next) {
                break;
            }
            /* It is time, that is all. */
            g_clear_pointer(&err, error_free);
        }
    }
    pulse_lost(p, closed, error_get_pretty(err));
    return NULL;
}

FtPulse *ft_pulse_new(FtLink *link, const FtHeartParams *params,
                      int64_t stuck_us, const FtPulseOps *ops, void *opaque)
{
    FtPulse *p = g_new0(FtPulse, 1);

    p->link = ft_link_ref(link);
    p->stuck_us = stuck_us;
    p->ops = ops;
    p->opaque = opaque;
    qemu_mutex_init(&p->lock);
    qemu_cond_init(&p->cond);
    /* A connection that does not take one for so long is lost. */
    ft_link_set_timeout(link, DIV_ROUND_UP(params->timeout_us, 1000));
    ft_heart_init(&p->heart, params, g_get_monotonic_time());
    if (stuck_us) {
        p->tick_us = MIN(params->interval_us, TICK_MAX_US);
        p->ticker = timer_new_us(QEMU_CLOCK_REALTIME, pulse_tick, p);
        pulse_tick(p);
    }
    qemu_thread_create(&p->thread, "ft-pulse", pulse_thread, p,
                       QEMU_THREAD_JOINABLE);
    return p;
}

void ft_pulse_free(FtPulse *p)
{
    if (!p) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&p->lock) {
        p->quit = true;
        qemu_cond_signal(&p->cond);
    }
    ft_link_shutdown(p->link);
    qemu_thread_join(&p->thread);
    timer_free(p->ticker);
    ft_link_unref(p->link);
    qemu_cond_destroy(&p->cond);
    qemu_mutex_destroy(&p->lock);
    g_free(p);
}

void ft_pulse_peer_closed(FtPulse *p)
{
    QEMU_LOCK_GUARD(&p->lock);
    p->peer_closed = true;
    qemu_cond_signal(&p->cond);
}

bool ft_pulse_leased(FtPulse *p)
{
    bool leased;

    QEMU_LOCK_GUARD(&p->lock);
    leased = pulse_leased_locked(p);
    if (!leased) {
        p->wanted = true;
    }
    return leased;
}

void ft_pulse_stats(FtPulse *p, FtPulseStats *st)
{
    QEMU_LOCK_GUARD(&p->lock);
    *st = (FtPulseStats) {
        .sent = p->heart.sent,
        .heard = p->heart.heard,
        .heard_age_us = g_get_monotonic_time() - p->heart.heard_at,
        .rtt_us = p->rtt_us,
        .gap_max_us = p->gap_max_us,
        .muted = p->muted,
    };
}
