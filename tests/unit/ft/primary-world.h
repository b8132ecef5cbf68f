/*
 * For test-ft-primary*.c: a primary's state machine and what it asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_PRIMARY_WORLD_H
#define TEST_FT_PRIMARY_WORLD_H

#include "migration/ft/primary-fsm.h"

#define EPOCH   10000
#define MIN_RUN 1000
#define ACK     500000
#define SETUP   2000000
#define DISARM  300000          /* more than the grace */
#define T0      1000000

/* What the machine asked for, in order, as text:
 * t1 take epoch 1 (t1! refused), c1 commit, C ask the arbiter, R release all,
 * D drop all, d disarm, f fenced, e end, s+ s- stall, >name new state */
typedef struct World {
    FtPri p;
    GString *log;
    char *reason;
    char *disarm;               /* what the backup was told */
    int64_t now;
    bool refuse_take;
    int leases;                 /* so often there is one, < 0: always */
    const FtClaim *at_once;     /* the arbiter's answer */
} World;

static void G_GNUC_PRINTF(2, 3) say(World *w, const char *fmt, ...)
{
    va_list ap;

    if (w->log->len) {
        g_string_append_c(w->log, ' ');
    }
    va_start(ap, fmt);
    g_string_append_vprintf(w->log, fmt, ap);
    va_end(ap);
}

static void on_state(void *opaque, FtPriState state, const char *reason)
{
    World *w = opaque;

    g_assert_nonnull(reason);
    g_assert_cmpint(w->p.state, ==, state);
    g_free(w->reason);
    w->reason = g_strdup(reason);
    say(w, ">%s", ft_pri_state_name(state));
}

static bool on_take(void *opaque, uint64_t epoch)
{
    World *w = opaque;

    say(w, "t%" PRIu64 "%s", epoch, w->refuse_take ? "!" : "");
    return !w->refuse_take;
}

static void on_stall(void *opaque, bool on)
{
    say(opaque, "s%c", on ? '+' : '-');
}

static void on_commit(void *opaque, uint64_t epoch)
{
    say(opaque, "c%" PRIu64, epoch);
}

static bool on_leased(void *opaque)
{
    World *w = opaque;

    if (w->leases > 0) {
        w->leases--;
        return true;
    }
    return w->leases;
}

static void on_claim(void *opaque)
{
    World *w = opaque;

    g_assert_true(w->p.claim_asked);
    say(w, "C");
    if (w->at_once) {
        ft_pri_claimed(&w->p, *w->at_once, "at once");
    }
}

static void on_release(void *opaque)
{
    say(opaque, "R");
}

static void on_drop(void *opaque)
{
    say(opaque, "D");
}

static void on_disarm(void *opaque, const char *reason)
{
    World *w = opaque;

    g_assert_nonnull(reason);
    g_free(w->disarm);
    w->disarm = g_strdup(reason);
    say(w, "d");
}

static void on_fenced(void *opaque)
{
    say(opaque, "f");
}

static void on_end(void *opaque)
{
    say(opaque, "e");
}

static const FtPriOps ops = {
    .state = on_state,
    .take_epoch = on_take,
    .stall = on_stall,
    .commit = on_commit,
    .leased = on_leased,
    .claim = on_claim,
    .release_all = on_release,
    .drop_all = on_drop,
    .send_disarm = on_disarm,
    .send_fenced = on_fenced,
    .end = on_end,
};

static World *world_new(unsigned depth)
{
    World *w = g_new0(World, 1);
    FtPriParams params = {
        .epoch_us = EPOCH, .min_run_us = MIN_RUN, .ack_timeout_us = ACK,
        .setup_timeout_us = SETUP, .disarm_wait_us = DISARM, .depth = depth,
    };

    w->log = g_string_new(NULL);
    w->now = T0;
    w->leases = -1;
    ft_pri_init(&w->p, &ops, w, &params);
    return w;
}

static void world_free(World *w)
{
    g_string_free(w->log, true);
    g_free(w->reason);
    g_free(w->disarm);
    g_free(w);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

/* What was asked for since the last look. */
static void expect(World *w, const char *want)
{
    g_assert_cmpstr(w->log->str, ==, want);
    g_string_truncate(w->log, 0);
}

static int64_t poll_in(World *w, int64_t us)
{
    w->now += us;
    return ft_pri_poll(&w->p, w->now);
}

/* Where a table row begins. */
typedef enum From {
    INACTIVE,
    SETTING_UP,
    SYNC,           /* nothing taken */
    WITHHELD,       /* epoch 1 is taken, but not sent */
    SYNC_1,         /* epoch 1 is under way */
    PROTECTED,      /* 1 is acknowledged */
    PROTECTED_1,    /* 2 is under way */
    STALLED,        /* 2 and 3 are under way, the guest stands */
    NO_LEASE,       /* 2 is acknowledged and not let out, 3 is under way */
    CONN_LOST,      /* as PROTECTED_1, a connection has ended */
    CLAIM_SYNC,     /* the link was lost in SYNC_1 */
    CLAIM,          /* ... in PROTECTED_1 */
    CLAIM_STALLED,  /* ... in STALLED */
    CLAIM_UNKNOWN,  /* as CLAIM, the arbiter is out of reach */
    CANCELLING,     /* as PROTECTED_1, the arbiter is not asked yet */
    CANCEL_ASKED,   /* ... it is */
    UNPROTECTED,
    FENCED,
    CANCELLED,
    FROM__MAX
} From;

static const char *const from_name[] = {
    "inactive", "setup", "sync", "1 withheld", "sync, 1 taken", "protected",
    "protected, 2 taken", "stalled", "no lease", "connection lost",
    "claiming in sync", "claiming", "claiming, stalled", "claim unknown",
    "cancelling", "cancelling, asked", "unprotected", "fenced", "cancelled",
};

static World *world_at(From from)
{
    World *w = world_new(2);
    FtPri *p = &w->p;

    if (from >= SETTING_UP) {
        ft_pri_start(p, w->now);
    }
    if (from >= SYNC) {
        ft_pri_connected(p, w->now);
    }
    if (from >= WITHHELD) {
        ft_pri_sync_done(p, w->now);
        /* as take_epoch(1) does, which knows of the disks */
        p->withheld = from == WITHHELD;
    }
    if (from >= PROTECTED && from != CLAIM_SYNC) {
        ft_pri_ack(p, 1, w->now);
        g_assert_cmpint(p->state, ==, FT_PRI_PROTECTED);
    }
    if (from >= PROTECTED_1 && from != CLAIM_SYNC) {
        poll_in(w, EPOCH);
        g_assert_cmpuint(p->taken, ==, 2);
    }
    if (from == NO_LEASE) {
        w->leases = 0;
        ft_pri_ack(p, 2, w->now);
        poll_in(w, EPOCH);
        g_assert_cmpuint(p->taken, ==, 3);
    }
    if (from == STALLED || from == CLAIM_STALLED) {
        poll_in(w, EPOCH);
        poll_in(w, EPOCH);
        g_assert_cmpuint(p->taken, ==, 3);
        g_assert_true(p->stalled);
    }
    if (from == CONN_LOST) {
        ft_pri_conn_lost(p, "the data connection was lost", w->now);
    }
    if (from >= CLAIM_SYNC && from <= CLAIM_UNKNOWN) {
        ft_pri_lost(p, "the link is lost");
        g_assert_true(p->claim_asked);
    }
    if (from == CLAIM_UNKNOWN) {
        ft_pri_claimed(p, FT_CLAIM_UNKNOWN, "no route to it");
    }
    if (from == CANCELLING || from == CANCEL_ASKED || from == CANCELLED) {
        g_assert_true(ft_pri_cancel(p, "cancelled", false, w->now));
        g_assert_false(p->claim_asked);
    }
    if (from == CANCEL_ASKED) {
        poll_in(w, DISARM);
        g_assert_true(p->claim_asked);
    }
    if (from >= CLAIM_SYNC && from <= CANCEL_ASKED) {
        g_assert_cmpint(p->state, ==, FT_PRI_CLAIMING);
    }
    if (from == UNPROTECTED) {
        ft_pri_lost(p, "lost");
        ft_pri_claimed(p, FT_CLAIM_WON, "");
        g_assert_cmpint(p->state, ==, FT_PRI_UNPROTECTED);
    }
    if (from == FENCED) {
        ft_pri_peer_failover(p, false);
        g_assert_cmpint(p->state, ==, FT_PRI_FENCED);
    }
    if (from == CANCELLED) {
        ft_pri_peer_gone(p, "the backup left");
        g_assert_cmpint(p->state, ==, FT_PRI_INACTIVE);
    }
    g_string_truncate(w->log, 0);
    return w;
}

#endif
