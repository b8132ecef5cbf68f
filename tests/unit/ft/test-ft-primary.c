/*
 * Unit tests of migration/ft/primary-fsm.c: the primary's state machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "primary-world.h"

#define ALONE_U "d R e >unprotected"
#define ALONE_I "d R e >inactive"
#define ALONE_S "d R s- e >unprotected"
#define QUIET_I "d e >inactive"
#define ASK     ">claiming C"
#define FENCE   "D f e >fenced"

/*
 * The backup is lost: before it has epoch 1, this side just goes on; then the
 * arbiter is asked.
 */
#define LOST_EARLY [SETTING_UP ... SYNC] = QUIET_I, [WITHHELD] = ALONE_I
#define LOST       LOST_EARLY, [SYNC_1 ... CONN_LOST] = ASK

/* It will never take over.  Nothing is asked. */
#define GONE LOST_EARLY, [SYNC_1] = ALONE_I, \
             [PROTECTED ... PROTECTED_1] = ALONE_U, [STALLED] = ALONE_S, \
             [NO_LEASE ... CONN_LOST] = ALONE_U

/* What comes when this side may go on, in each kind of CLAIMING. */
#define GO_ON [CLAIM_SYNC] = ALONE_I, [CLAIM] = ALONE_U, \
              [CLAIM_STALLED] = ALONE_S, [CLAIM_UNKNOWN] = ALONE_U, \
              [CANCELLING ... CANCEL_ASKED] = ALONE_I

/* The table of the header, by event; what is not here asks for nothing. */
static const struct {
    const char *event;
    const char *want[FROM__MAX];
} table[] = {
    { "start",      { [INACTIVE] = ">setup" } },
    { "connected",  { [SETTING_UP] = ">sync" } },
    { "sync_done",  { [SYNC] = "t1" } },
    { "first sent", { } },
    { "take now",   { [PROTECTED] = "t2", [PROTECTED_1] = "t3",
                      [NO_LEASE] = "t4" } },
    /* of the epoch that is due */
    { "ack",        { LOST_EARLY, [SYNC_1] = "c1 >protected",
                      [PROTECTED] = ASK, [PROTECTED_1] = "c2",
                      [STALLED] = "c2 s-", [CONN_LOST] = "c2" } },
    /* of 0, the last one again, the one after the due one, one far away */
    { "ack 0",      { LOST } },
    { "ack again",  { LOST } },
    { "ack next",   { LOST } },
    { "ack max",    { LOST } },
    { "lease",      { [NO_LEASE] = "c2" } },
    { "conn lost",  { LOST_EARLY } },
    { "conn lost late", { LOST } },
    { "lost",       { LOST } },
    { "gone",       { GONE, GO_ON } },
    /* Who has asked the arbiter abides by that. */
    { "failover",   { LOST_EARLY, [SYNC_1] = FENCE,
                      [PROTECTED ... CONN_LOST] = FENCE,
                      [CANCELLING] = FENCE } },
    { "failover claimed", { LOST_EARLY, [SYNC_1] = FENCE,
                            [PROTECTED ... CONN_LOST] = FENCE,
                            [CLAIM_SYNC ... CANCEL_ASKED] = FENCE } },
    { "claim won",  { GO_ON } },
    { "claim lost", { [CLAIM_SYNC ... CANCEL_ASKED] = FENCE } },
    { "claim unknown", { [CLAIM_SYNC ... CANCEL_ASKED] = ">claiming" } },
    { "cancel",     { LOST_EARLY, [SYNC_1 ... CONN_LOST] = "d >claiming",
                      [CLAIM_SYNC ... CANCEL_ASKED] = "!" } },
    { "cancel force", { LOST_EARLY, [SYNC_1 ... PROTECTED_1] = ALONE_I,
                        [STALLED] = "d R s- e >inactive",
                        [NO_LEASE ... CONN_LOST] = ALONE_I, GO_ON } },
    /* nothing is due yet */
    { "poll",       { } },
    { "poll epoch", { [PROTECTED] = "t2", [PROTECTED_1] = "t3",
                      [NO_LEASE] = "t4" } },
    { "full",       { [WITHHELD ... SYNC_1] = "s+", [PROTECTED] = "t2", [PROTECTED_1] = "t3",
                      [NO_LEASE] = "t4", [CLAIM_SYNC ... CLAIM] = "s+",
                      [CLAIM_UNKNOWN ... CANCEL_ASKED] = "s+" } },
    /* every deadline is over */
    { "poll late",  { [SETTING_UP] = QUIET_I, [SYNC_1] = ASK,
                      [PROTECTED] = "t2 t3", [PROTECTED_1] = "t3 " ASK,
                      [STALLED] = ASK, [NO_LEASE] = "t4 " ASK,
                      [CONN_LOST] = ASK, [CANCELLING] = "C" } },
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
    } else if (g_str_equal(event, "first sent")) {
        ft_pri_first_sent(p, w->now);
    } else if (g_str_equal(event, "take now")) {
        ft_pri_take_now(p, w->now);
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
    } else if (g_str_equal(event, "lease")) {
        w->leases = -1;
        ft_pri_lease_renewed(p);
    } else if (g_str_equal(event, "conn lost")) {
        ft_pri_conn_lost(p, "the data connection was lost", w->now);
    } else if (g_str_equal(event, "conn lost late")) {
        ft_pri_conn_lost(p, "the data connection was lost", w->now);
        poll_in(w, FT_PRI_GRACE_US);
    } else if (g_str_equal(event, "lost")) {
        ft_pri_lost(p, "the backup is silent");
    } else if (g_str_equal(event, "gone")) {
        ft_pri_peer_gone(p, "the backup quits");
    } else if (g_str_equal(event, "failover")) {
        ft_pri_peer_failover(p, false);
    } else if (g_str_equal(event, "failover claimed")) {
        ft_pri_peer_failover(p, true);
    } else if (g_str_equal(event, "claim won")) {
        ft_pri_claimed(p, FT_CLAIM_WON, "");
    } else if (g_str_equal(event, "claim lost")) {
        ft_pri_claimed(p, FT_CLAIM_LOST, "host b pid 7");
    } else if (g_str_equal(event, "claim unknown")) {
        ft_pri_claimed(p, FT_CLAIM_UNKNOWN, "no route to it");
    } else if (g_str_equal(event, "cancel")) {
        if (!ft_pri_cancel(p, "cancelled", false, w->now)) {
            say(w, "!");
        }
    } else if (g_str_equal(event, "cancel force")) {
        g_assert_true(ft_pri_cancel(p, "cancelled", true, w->now));
    } else if (g_str_equal(event, "poll")) {
        ft_pri_poll(p, w->now);
    } else if (g_str_equal(event, "poll epoch")) {
        poll_in(w, EPOCH);
    } else if (g_str_equal(event, "full")) {
        ft_pri_output_full(p);
        poll_in(w, MIN_RUN);
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
            const char *want = table[i].want[from] ?: "";

            g_assert_true(was_dead == (from >= UNPROTECTED));
            fire(w, table[i].event);
            if (!g_str_equal(w->log->str, want)) {
                g_test_message("%s in %s: '%s', not '%s'", table[i].event,
                               from_name[from], w->log->str, want);
                g_test_fail();
            }
            if (was_dead) {
                /* Nothing brings a session back, whatever comes. */
                g_assert_cmpint(w->p.state, ==, before);
                g_assert_cmpint(ft_pri_poll(&w->p, w->now + SETUP), ==,
                                INT64_MAX);
            }
            if (w->p.dead) {
                g_assert_false(w->p.output_held);
                g_string_truncate(w->log, 0);
                for (int j = 0; j < ARRAY_SIZE(table); j++) {
                    fire(w, table[j].event);
                }
                expect(w, "");
            }
        }
    }
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
    expect(w, ASK);
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
    expect(w, ASK);
    ft_pri_claimed(&w->p, FT_CLAIM_WON, "");
    expect(w, ALONE_I);
}

/* What was not sent cannot be there: such a backup is out of its mind. */
static void test_withheld_ack(void)
{
    for (int sent = 0; sent < 2; sent++) {
        g_autoptr(World) w = world_at(WITHHELD);

        if (sent) {
            ft_pri_first_sent(&w->p, w->now);
        }
        ft_pri_ack(&w->p, 1, w->now);
        expect(w, sent ? "c1 >protected" : ALONE_I);
    }
}

/* The guest ends: one epoch more, where there is room and a backup. */
static void test_take_now(void)
{
    int from;

    for (from = 0; from < FROM__MAX; from++) {
        g_autoptr(World) w = world_at(from);
        bool can = from == PROTECTED || from == PROTECTED_1 ||
                   from == NO_LEASE;
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
            ft_pri_conn_lost(&w->p, "data", w->now);
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
    g_autoptr(World) again = world_at(PROTECTED_1);

    g_assert_cmpint(ft_pri_poll(&hung->p, hung->now), ==, hung->now + EPOCH);
    poll_in(hung, 2 * ACK);
    expect(hung, "t3");
    ft_pri_peer_failover(&hung->p, false);
    expect(hung, FENCE);

    /* The data connection ends first, the word that explains it comes. */
    ft_pri_conn_lost(&lost->p, "data", lost->now);
    g_assert_cmpint(ft_pri_poll(&lost->p, lost->now), ==,
                    lost->now + FT_PRI_GRACE_US);
    ft_pri_ack(&lost->p, 2, lost->now);
    g_assert_cmpint(poll_in(lost, FT_PRI_GRACE_US - 1), ==, lost->now + 1);
    /* No epoch is taken meanwhile: it would not arrive. */
    expect(lost, "c2");
    ft_pri_peer_failover(&lost->p, false);
    expect(lost, FENCE);

    /* Silence after the grace is silence, and it is given only once. */
    ft_pri_poll(&silent->p, silent->now);
    poll_in(silent, 2 * ACK);
    expect(silent, "t3");
    for (int64_t at = silent->now; at < INT64_MAX;
         at = ft_pri_poll(&silent->p, at)) {
        g_assert_cmpint(at, <=, silent->now + FT_PRI_GRACE_US);
    }
    expect(silent, "s+ " ASK);

    /* On a host that is always late it ends, too. */
    for (int i = 0; i < 10; i++) {
        poll_in(late, 3 * FT_PRI_GRACE_US);
    }
    expect(late, "t3 " ASK);

    /* Who was heard in between has his grace the next time. */
    for (uint64_t e = 2; e < 5; e++) {
        g_autofree char *want = g_strdup_printf("t%" PRIu64 " c%" PRIu64,
                                                e + 1, e);

        ft_pri_poll(&again->p, again->now);
        poll_in(again, 2 * ACK);
        ft_pri_ack(&again->p, e, again->now);
        expect(again, want);
    }
}

/* Two connections end: the first tells when and why, and time is up. */
static void test_conn_lost(void)
{
    g_autoptr(World) w = world_at(PROTECTED_1);

    ft_pri_conn_lost(&w->p, "the first", w->now);
    ft_pri_conn_lost(&w->p, "the second", w->now + FT_PRI_GRACE_US / 2);
    g_assert_cmpint(poll_in(w, FT_PRI_GRACE_US - 1), ==, w->now + 1);
    expect(w, "");
    g_assert_cmpint(poll_in(w, 1), ==, INT64_MAX);
    expect(w, ASK);
    g_assert_cmpstr(w->reason, ==, "the first");
}

static void test_setup_deadline(void)
{
    g_autoptr(World) w = world_at(SETTING_UP);

    g_assert_cmpint(ft_pri_poll(&w->p, T0 + SETUP - 1), ==, T0 + SETUP);
    expect(w, "");
    g_assert_cmpint(ft_pri_poll(&w->p, T0 + SETUP), ==, INT64_MAX);
    expect(w, QUIET_I);
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
        ft_pri_lost(&w2->p, "lost");
        expect(w2, "t1! " QUIET_I);
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
    g_test_add_func("/ft/primary/pipeline", test_pipeline);
    g_test_add_func("/ft/primary/depth-bounds", test_depth_bounds);
    g_test_add_func("/ft/primary/ack-deadline", test_ack_deadline);
    g_test_add_func("/ft/primary/setup-deadline", test_setup_deadline);
    g_test_add_func("/ft/primary/grace", test_grace);
    g_test_add_func("/ft/primary/conn-lost", test_conn_lost);
    g_test_add_func("/ft/primary/withheld", test_withheld);
    g_test_add_func("/ft/primary/withheld-ack", test_withheld_ack);
    g_test_add_func("/ft/primary/take-now", test_take_now);
    g_test_add_func("/ft/primary/clock", test_clock);
    g_test_add_func("/ft/primary/early", test_early);
    g_test_add_func("/ft/primary/full", test_full);
    g_test_add_func("/ft/primary/take-refused", test_take_refused);
    g_test_add_func("/ft/primary/names", test_names);
    return g_test_run();
}
