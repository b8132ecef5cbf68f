/*
 * Unit tests of migration/ft/primary-fsm.c: the primary's state machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft/primary-fsm.h"

#define EPOCH   10000
#define MIN_RUN 1000
#define ACK     500000
#define SETUP   2000000
#define T0      1000000

/* What the machine asked for, in order, as text:
 * t1 take epoch 1 (t1! refused), c1 commit, R release all, D drop all,
 * d disarm, f fenced, e end, s+ s- stall, >name new state */
typedef struct World {
    FtPri p;
    GString *log;
    char *reason;
    int64_t now;
    bool refuse_take;
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
    g_assert_nonnull(reason);
    say(opaque, "d");
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
        .setup_timeout_us = SETUP, .depth = depth,
    };

    w->log = g_string_new(NULL);
    w->now = T0;
    ft_pri_init(&w->p, &ops, w, &params);
    return w;
}

static void world_free(World *w)
{
    g_string_free(w->log, true);
    g_free(w->reason);
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
    SYNC_1,         /* epoch 1 is under way */
    PROTECTED,      /* 1 is acknowledged */
    PROTECTED_1,    /* 2 is under way */
    STALLED,        /* 2 and 3 are under way, the guest stands */
    UNPROTECTED,
    FENCED,
    CANCELLED,
    FROM__MAX
} From;

static const char *const from_name[] = {
    "inactive", "setup", "sync", "sync, 1 taken", "protected",
    "protected, 2 taken", "stalled", "unprotected", "fenced", "cancelled",
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
    if (from >= SYNC_1) {
        ft_pri_sync_done(p, w->now);
    }
    if (from >= PROTECTED) {
        ft_pri_ack(p, 1, w->now);
    }
    if (from == PROTECTED_1 || from == STALLED) {
        poll_in(w, EPOCH);
        g_assert_cmpuint(p->taken, ==, 2);
    }
    if (from == STALLED) {
        poll_in(w, EPOCH);
        poll_in(w, EPOCH);
        g_assert_cmpuint(p->taken, ==, 3);
        g_assert_true(p->stalled);
    }
    if (from == UNPROTECTED) {
        ft_pri_link_lost(p, "lost");
        g_assert_cmpint(p->state, ==, FT_PRI_UNPROTECTED);
    }
    if (from == FENCED) {
        ft_pri_peer_failover(p);
        g_assert_cmpint(p->state, ==, FT_PRI_FENCED);
    }
    if (from == CANCELLED) {
        ft_pri_cancel(p, "cancelled");
        g_assert_cmpint(p->state, ==, FT_PRI_INACTIVE);
    }
    g_string_truncate(w->log, 0);
    return w;
}

#define ALONE_U "d R e >unprotected"
#define ALONE_I "d R e >inactive"
#define QUIET_I "d e >inactive"

/* The table of the header, by event; columns as in From. */
static const struct {
    const char *event;
    const char *want[FROM__MAX];
} table[] = {
    { "start",     { ">setup", "", "", "", "", "", "", "", "", "" } },
    { "connected", { "", ">sync", "", "", "", "", "", "", "", "" } },
    { "sync_done", { "", "", "t1", "", "", "", "", "", "", "" } },
    /* of the epoch that is due */
    { "ack",       { "", QUIET_I, QUIET_I, "c1 >protected", ALONE_U, "c2",
                     "c2 s-", "", "", "" } },
    /* of 0, the last one again, the one after the due one, one far away */
    { "ack 0",     { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "ack again", { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "ack next",  { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "ack max",   { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "data lost", { "", QUIET_I, QUIET_I, "", "", "", "", "", "", "" } },
    { "data lost late", { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "link lost", { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "disarm",    { "", QUIET_I, QUIET_I, ALONE_I, ALONE_U, ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
    { "failover",  { "", QUIET_I, QUIET_I, ALONE_I, "D f e >fenced",
                     "D f e >fenced", "D f e >fenced", "", "", "" } },
    { "cancel",    { "", QUIET_I, QUIET_I, ALONE_I, ALONE_I, ALONE_I,
                     "d R s- e >inactive", "", "", "" } },
    /* nothing is due yet */
    { "poll",      { "", "", "", "", "", "", "", "", "", "" } },
    /* the epoch is over */
    { "poll epoch", { "", "", "", "", "t2", "t3", "", "", "", "" } },
    /* every deadline is over */
    { "poll late", { "", QUIET_I, "", ALONE_I, "t2 t3", "t3 " ALONE_U,
                     "d R s- e >unprotected", "", "", "" } },
};

static void fire(World *w, const char *event)
{
    FtPri *p = &w->p;

    if (g_str_equal(event, "start")) {
        ft_pri_start(p, w->now);
    } else if (g_str_equal(event, "connected")) {
        ft_pri_connected(p, w->now);
    } else if (g_str_equal(event, "sync_done")) {
        ft_pri_sync_done(p, w->now);
    } else if (g_str_equal(event, "ack")) {
        ft_pri_ack(p, p->acked + 1, w->now);
    } else if (g_str_equal(event, "ack 0")) {
        ft_pri_ack(p, 0, w->now);
    } else if (g_str_equal(event, "ack again")) {
        ft_pri_ack(p, p->acked, w->now);
    } else if (g_str_equal(event, "ack next")) {
        ft_pri_ack(p, p->acked + 2, w->now);
    } else if (g_str_equal(event, "ack max")) {
        ft_pri_ack(p, UINT64_MAX, w->now);
    } else if (g_str_equal(event, "data lost")) {
        ft_pri_data_lost(p, w->now);
    } else if (g_str_equal(event, "data lost late")) {
        ft_pri_data_lost(p, w->now);
        poll_in(w, FT_PRI_GRACE_US);
    } else if (g_str_equal(event, "link lost")) {
        ft_pri_link_lost(p, "the link is lost");
    } else if (g_str_equal(event, "disarm")) {
        ft_pri_peer_disarm(p, "the backup quits");
    } else if (g_str_equal(event, "failover")) {
        ft_pri_peer_failover(p);
    } else if (g_str_equal(event, "cancel")) {
        ft_pri_cancel(p, "cancelled");
    } else if (g_str_equal(event, "poll")) {
        ft_pri_poll(p, w->now);
    } else if (g_str_equal(event, "poll epoch")) {
        poll_in(w, EPOCH);
    } else if (g_str_equal(event, "poll late")) {
        poll_in(w, SETUP + ACK);
        poll_in(w, FT_PRI_GRACE_US);
    } else {
        g_assert_not_reached();
    }
}

static void test_table(void)
{
    for (int i = 0; i < ARRAY_SIZE(table); i++) {
        for (From from = 0; from < FROM__MAX; from++) {
            g_autoptr(World) w = world_at(from);
            FtPriState before = w->p.state;
            bool was_dead = w->p.dead;

            fire(w, table[i].event);
            if (!g_str_equal(w->log->str, table[i].want[from])) {
                g_test_message("%s in %s: '%s', not '%s'", table[i].event,
                               from_name[from], w->log->str,
                               table[i].want[from]);
                g_test_fail();
            }
            if (was_dead) {
                /* Nothing brings a session back, whatever comes. */
                g_assert_cmpint(w->p.state, ==, before);
                g_assert_cmpint(ft_pri_poll(&w->p, w->now + SETUP), ==,
                                INT64_MAX);
            }
            if (w->p.dead) {
                g_string_truncate(w->log, 0);
                for (int j = 0; j < ARRAY_SIZE(table); j++) {
                    fire(w, table[j].event);
                }
                expect(w, "");
            }
        }
    }
}

/* The order at the end of a session: nothing leaves before the disarm. */
static void test_reasons(void)
{
    g_autoptr(World) w = world_at(PROTECTED_1);

    ft_pri_link_lost(&w->p, "the cable was cut");
    g_assert_cmpstr(w->reason, ==, "the cable was cut");
    g_assert_true(strchr(w->log->str, 'd') < strchr(w->log->str, 'R'));
}

static void test_pipeline(void)
{
    for (unsigned depth = 1; depth <= FT_PRI_DEPTH_MAX; depth++) {
        g_autoptr(World) w = world_new(depth);
        FtPri *p = &w->p;

        ft_pri_start(p, w->now);
        ft_pri_connected(p, w->now);
        ft_pri_sync_done(p, w->now);
        ft_pri_ack(p, 1, w->now);
        g_string_truncate(w->log, 0);

        /* Three times round the ring of times. */
        for (int round = 0; round < 3; round++) {
            uint64_t first = p->taken + 1;

            for (unsigned i = 0; i < depth; i++) {
                g_autofree char *t = g_strdup_printf("t%" PRIu64, first + i);

                poll_in(w, EPOCH);
                expect(w, t);
                g_assert_cmpuint(ft_pri_in_flight(p), ==, i + 1);
            }
            /* Full: one stall, told once, until the oldest is there. */
            poll_in(w, EPOCH);
            expect(w, "s+");
            /* It waits for no longer than the oldest may take. */
            g_assert_cmpint(poll_in(w, EPOCH), ==,
                            w->now + MIN(ACK - (depth + 1) * EPOCH,
                                         FT_PRI_GRACE_US));
            expect(w, "");
            g_assert_cmpuint(p->stalls, ==, round + 1);
            ft_pri_ack(p, first, w->now);
            g_assert_false(p->stalled);
            g_assert_cmpint(p->stall_us, ==, (round + 1) * EPOCH);
            g_string_truncate(w->log, 0);
            for (unsigned i = 1; i < depth; i++) {
                g_autofree char *c = g_strdup_printf("c%" PRIu64, first + i);

                ft_pri_ack(p, first + i, w->now);
                expect(w, c);
            }
            /* The epoch that stood is over already: next at once. */
            ft_pri_poll(p, w->now);
            g_string_truncate(w->log, 0);
            ft_pri_ack(p, p->taken, w->now);
            g_string_truncate(w->log, 0);
        }
    }
}

static void test_depth_bounds(void)
{
    g_autoptr(World) none = world_new(0);
    g_autoptr(World) many = world_new(UINT_MAX);

    g_assert_cmpuint(none->p.params.depth, ==, 1);
    g_assert_cmpuint(many->p.params.depth, ==, FT_PRI_DEPTH_MAX);
}

/* Each epoch has a deadline of its own, from when it was taken. */
static void test_ack_deadline(void)
{
    g_autoptr(World) w = world_at(PROTECTED);
    int64_t t2, t3;

    poll_in(w, EPOCH);
    t2 = w->now;
    poll_in(w, EPOCH);
    t3 = w->now;
    expect(w, "t2 t3");
    poll_in(w, EPOCH);
    expect(w, "s+");
    while (w->now < t2 + ACK - 1) {
        w->now = MIN(ft_pri_poll(&w->p, w->now), t2 + ACK - 1);
    }
    g_assert_cmpint(ft_pri_poll(&w->p, t2 + ACK - 1), ==, t2 + ACK);
    expect(w, "");
    /* The last moment is in time, and the next one's clock ran all along. */
    ft_pri_ack(&w->p, 2, t2 + ACK - 1);
    expect(w, "c2 s-");
    ft_pri_poll(&w->p, t2 + ACK);
    expect(w, "t4");
    ft_pri_poll(&w->p, t3 + ACK);
    expect(w, "d R e >unprotected");
    g_assert_nonnull(strstr(w->reason, "in time"));
}

/* The first epoch waits for disks: its deadline begins when it is sent. */
static void test_withheld(void)
{
    g_autoptr(World) w = world_at(SYNC);
    int64_t sent;

    /* as take_epoch(1) would, which knows of the disks */
    ft_pri_sync_done(&w->p, w->now);
    w->p.withheld = true;
    g_string_truncate(w->log, 0);
    g_assert_cmpint(poll_in(w, 10 * ACK), ==, INT64_MAX);
    expect(w, "");
    ft_pri_first_sent(&w->p, w->now);
    sent = w->now;
    while (w->now < sent + ACK - 1) {
        w->now = MIN(ft_pri_poll(&w->p, w->now), sent + ACK - 1);
    }
    expect(w, "");
    /* said again, it does not begin again */
    ft_pri_first_sent(&w->p, w->now);
    ft_pri_poll(&w->p, sent + ACK);
    expect(w, "d R e >inactive");
}

/* The guest ends: one epoch more, where there is room and a backup. */
static void test_take_now(void)
{
    int from;

    for (from = 0; from < FROM__MAX; from++) {
        g_autoptr(World) w = world_at(from);
        bool can = from == PROTECTED || from == PROTECTED_1;
        uint64_t taken = w->p.taken;

        g_string_truncate(w->log, 0);
        g_assert_cmpuint(ft_pri_take_now(&w->p, w->now), ==,
                         can ? taken + 1 : 0);
        g_assert_cmpuint(w->p.taken, ==, can ? taken + 1 : taken);
    }
    for (from = 0; from < 2; from++) {
        g_autoptr(World) w = world_at(PROTECTED);

        if (from) {
            w->refuse_take = true;
        } else {
            ft_pri_data_lost(&w->p, w->now);
        }
        g_assert_cmpuint(ft_pri_take_now(&w->p, w->now), ==, 0);
    }
}

/* A primary that stood still itself hears first what has come meanwhile. */
static void test_grace(void)
{
    g_autoptr(World) hung = world_at(PROTECTED_1);
    g_autoptr(World) lost = world_at(PROTECTED_1);
    g_autoptr(World) silent = world_at(PROTECTED_1);
    g_autoptr(World) late = world_at(PROTECTED_1);

    g_assert_cmpint(ft_pri_poll(&hung->p, hung->now), ==, hung->now + EPOCH);
    poll_in(hung, 2 * ACK);
    expect(hung, "t3");
    ft_pri_peer_failover(&hung->p);
    expect(hung, "D f e >fenced");

    /* The data connection ends first, the word that explains it comes. */
    ft_pri_data_lost(&lost->p, lost->now);
    g_assert_cmpint(ft_pri_poll(&lost->p, lost->now), ==,
                    lost->now + FT_PRI_GRACE_US);
    ft_pri_ack(&lost->p, 2, lost->now);
    g_assert_cmpint(poll_in(lost, FT_PRI_GRACE_US - 1), ==, lost->now + 1);
    /* No epoch is taken meanwhile: it would not arrive. */
    expect(lost, "c2");
    ft_pri_peer_failover(&lost->p);
    expect(lost, "D f e >fenced");

    /* Silence after the grace is silence, and it is given only once. */
    ft_pri_poll(&silent->p, silent->now);
    poll_in(silent, 2 * ACK);
    expect(silent, "t3");
    for (int64_t at = silent->now; at < INT64_MAX;
         at = ft_pri_poll(&silent->p, at)) {
        g_assert_cmpint(at, <=, silent->now + FT_PRI_GRACE_US);
    }
    expect(silent, "s+ d R s- e >unprotected");

    /* On a host that is always late it ends, too. */
    for (int i = 0; i < 10; i++) {
        poll_in(late, 3 * FT_PRI_GRACE_US);
    }
    expect(late, "t3 d R e >unprotected");
}

static void test_setup_deadline(void)
{
    g_autoptr(World) w = world_at(SETTING_UP);

    g_assert_cmpint(ft_pri_poll(&w->p, T0 + SETUP - 1), ==, T0 + SETUP);
    expect(w, "");
    g_assert_cmpint(ft_pri_poll(&w->p, T0 + SETUP), ==, INT64_MAX);
    expect(w, "d e >inactive");
}

/* Epochs by the clock: not too soon, and the deadline says when. */
static void test_clock(void)
{
    g_autoptr(World) w = world_at(PROTECTED);
    int64_t next = ft_pri_poll(&w->p, w->now);

    g_assert_cmpint(next, ==, w->now + EPOCH);
    g_assert_cmpint(ft_pri_poll(&w->p, next - 1), ==, next);
    expect(w, "");
    w->now = next;
    g_assert_cmpint(ft_pri_poll(&w->p, next), ==, next + EPOCH);
    expect(w, "t2");
    /* A late poll takes one epoch, not the missed ones. */
    ft_pri_ack(&w->p, 2, w->now);
    expect(w, "c2");
    next = poll_in(w, 20 * EPOCH);
    expect(w, "t3");
    g_assert_cmpint(next, ==, w->now + EPOCH);
    /* Shorter epochs from now on. */
    w->p.params.epoch_us = 2000;
    g_assert_cmpint(ft_pri_poll(&w->p, w->now), ==, w->now + 2000);
}

/* Output that waits ends the epoch early, but only when the link is idle. */
static void test_early(void)
{
    g_autoptr(World) w = world_at(PROTECTED);
    FtPri *p = &w->p;

    ft_pri_output_waiting(p);
    g_assert_cmpint(ft_pri_poll(p, w->now), ==, w->now + MIN_RUN);
    expect(w, "");
    poll_in(w, MIN_RUN);
    expect(w, "t2");
    g_assert_cmpuint(p->early_epochs, ==, 1);
    /* 2 is under way: the output of 3 waits for it ... */
    ft_pri_output_waiting(p);
    g_assert_cmpint(poll_in(w, MIN_RUN), ==, w->now - MIN_RUN + EPOCH);
    expect(w, "");
    /* ... and no longer. */
    poll_in(w, MIN_RUN);
    ft_pri_ack(p, 2, w->now);
    ft_pri_poll(p, w->now);
    expect(w, "c2 t3");
    g_assert_cmpuint(p->early_epochs, ==, 2);
    /* Nothing has been held in 4: by the clock again. */
    ft_pri_ack(p, 3, w->now);
    g_assert_cmpint(ft_pri_poll(p, w->now), ==, w->now + EPOCH);
    expect(w, "c3");
}

/* A limit ends the epoch although the link is busy; the stall comes early
 * as well, so that what is held does not grow. */
static void test_full(void)
{
    g_autoptr(World) w = world_at(PROTECTED_1);
    FtPri *p = &w->p;

    ft_pri_output_full(p);
    poll_in(w, MIN_RUN);
    expect(w, "t3");
    ft_pri_output_full(p);
    g_assert_cmpint(ft_pri_poll(p, w->now), ==, w->now + MIN_RUN);
    poll_in(w, MIN_RUN);
    expect(w, "s+");
    ft_pri_ack(p, 2, w->now);
    ft_pri_poll(p, w->now);
    expect(w, "c2 s- t4");
    /* An epoch shorter than the least run. */
    ft_pri_ack(p, 3, w->now);
    p->params.epoch_us = MIN_RUN / 2;
    ft_pri_output_full(p);
    g_assert_cmpint(ft_pri_poll(p, w->now), ==, w->now + MIN_RUN / 2);
}

/* An epoch that cannot be taken (guest stopped by the user) is tried again
 * at the next epoch's end, under the same number. */
static void test_take_refused(void)
{
    g_autoptr(World) w = world_at(SYNC);
    FtPri *p = &w->p;

    w->refuse_take = true;
    ft_pri_sync_done(p, w->now);
    expect(w, "t1!");
    g_assert_cmpint(p->state, ==, FT_PRI_SYNC);
    g_assert_false(p->output_held);
    w->refuse_take = false;
    ft_pri_sync_done(p, w->now);
    expect(w, "t1");
    ft_pri_ack(p, 1, w->now);
    expect(w, "c1 >protected");

    w->refuse_take = true;
    g_assert_cmpint(poll_in(w, EPOCH), ==, w->now + EPOCH);
    expect(w, "t2!");
    g_assert_cmpint(poll_in(w, EPOCH), ==, w->now + EPOCH);
    expect(w, "t2!");
    g_assert_cmpuint(ft_pri_in_flight(p), ==, 0);
    w->refuse_take = false;
    poll_in(w, EPOCH);
    expect(w, "t2");

    /* A failed first epoch holds nothing, so nothing is released. */
    {
        g_autoptr(World) w2 = world_at(SYNC);

        w2->refuse_take = true;
        ft_pri_sync_done(&w2->p, w2->now);
        ft_pri_link_lost(&w2->p, "lost");
        expect(w2, "t1! d e >inactive");
    }
}

static void test_names(void)
{
    for (FtPriState s = FT_PRI_INACTIVE; s <= FT_PRI_FENCED; s++) {
        g_assert_nonnull(ft_pri_state_name(s));
    }
    g_assert_cmpstr(ft_pri_state_name(FT_PRI_FENCED), ==, "fenced");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/primary/table", test_table);
    g_test_add_func("/ft/primary/reasons", test_reasons);
    g_test_add_func("/ft/primary/pipeline", test_pipeline);
    g_test_add_func("/ft/primary/depth-bounds", test_depth_bounds);
    g_test_add_func("/ft/primary/ack-deadline", test_ack_deadline);
    g_test_add_func("/ft/primary/setup-deadline", test_setup_deadline);
    g_test_add_func("/ft/primary/grace", test_grace);
    g_test_add_func("/ft/primary/withheld", test_withheld);
    g_test_add_func("/ft/primary/take-now", test_take_now);
    g_test_add_func("/ft/primary/clock", test_clock);
    g_test_add_func("/ft/primary/early", test_early);
    g_test_add_func("/ft/primary/full", test_full);
    g_test_add_func("/ft/primary/take-refused", test_take_refused);
    g_test_add_func("/ft/primary/names", test_names);
    return g_test_run();
}
