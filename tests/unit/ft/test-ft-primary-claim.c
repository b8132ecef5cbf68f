/*
 * Unit tests of migration/ft/primary-fsm.c: losses, claims, lease, cancel
 *
 * What it asks for is written down by the operations in primary-world.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "primary-world.h"

#define ALONE_U "d R e >unprotected"
#define ALONE_I "d R e >inactive"
#define ASK     ">claiming C"
#define FENCE   "D f e >fenced"

/* The next epoch is taken, two at most are under way. */
static void take(World *w)
{
    g_autofree char *t = g_strdup_printf("t%" PRIu64, w->p.taken + 1);

    poll_in(w, EPOCH);
    expect(w, t);
}

/* ----------------------------------------------------------------- lease */

/* Without a lease nothing leaves; with it, all that is due, in order. */
static void test_lease_order(void)
{
    g_autoptr(World) w = world_at(PROTECTED);
    FtPri *p = &w->p;

    w->leases = 0;
    for (uint64_t e = 2; e <= 6; e++) {
        take(w);
        ft_pri_ack(p, e, w->now);
        expect(w, "");
    }
    g_assert_cmpuint(p->acked, ==, 6);
    g_assert_cmpuint(p->released, ==, 1);
    /* It is over again in the middle. */
    w->leases = 2;
    ft_pri_lease_renewed(p);
    expect(w, "c2 c3");
    ft_pri_lease_renewed(p);
    expect(w, "");
    /* What comes next does not overtake what waits. */
    take(w);
    w->leases = 1;
    ft_pri_ack(p, 7, w->now);
    expect(w, "c4");
    w->leases = -1;
    ft_pri_lease_renewed(p);
    expect(w, "c5 c6 c7");
    ft_pri_lease_renewed(p);
    expect(w, "");
    take(w);
    ft_pri_ack(p, 8, w->now);
    expect(w, "c8");
}

/* The first epoch is no exception. */
static void test_lease_first(void)
{
    g_autoptr(World) w = world_at(SYNC_1);

    w->leases = 0;
    ft_pri_ack(&w->p, 1, w->now);
    expect(w, ">protected");
    ft_pri_lease_renewed(&w->p);
    expect(w, "");
    w->leases = -1;
    ft_pri_lease_renewed(&w->p);
    expect(w, "c1");
}

/* The acknowledgement makes room even if its output has to wait. */
static void test_lease_stall(void)
{
    g_autoptr(World) w = world_at(STALLED);

    w->leases = 0;
    ft_pri_ack(&w->p, 2, w->now);
    expect(w, "s-");
    poll_in(w, 0);
    expect(w, "t4");
    w->leases = -1;
    ft_pri_ack(&w->p, 3, w->now);
    expect(w, "c2 c3");
}

/* Before a lease there is nothing to let out. */
static void test_lease_early(void)
{
    for (From from = INACTIVE; from <= SYNC_1; from++) {
        g_autoptr(World) w = world_at(from);

        ft_pri_lease_renewed(&w->p);
        expect(w, "");
    }
}

/* What was not let out before a loss is let out all at once, or never. */
static void test_lease_after_loss(void)
{
    for (int how = 0; how < 4; how++) {
        g_autoptr(World) w = world_at(NO_LEASE);
        FtPri *p = &w->p;

        if (how == 3) {
            g_assert_true(ft_pri_cancel(p, "cancelled", false, w->now));
            expect(w, "d >claiming");
        } else {
            ft_pri_lost(p, "the backup is silent");
            expect(w, ASK);
        }
        w->leases = -1;
        ft_pri_lease_renewed(p);
        ft_pri_ack(p, 3, w->now);
        ft_pri_lease_renewed(p);
        ft_pri_claimed(p, FT_CLAIM_UNKNOWN, "no route to it");
        ft_pri_lease_renewed(p);
        expect(w, ">claiming");
        if (how == 0) {
            ft_pri_claimed(p, FT_CLAIM_WON, "");
            expect(w, ALONE_U);
        } else if (how == 1) {
            ft_pri_claimed(p, FT_CLAIM_LOST, "host b");
            expect(w, FENCE);
        } else if (how == 2) {
            ft_pri_peer_failover(p, true);
            expect(w, FENCE);
        } else {
            ft_pri_peer_gone(p, "the backup has left");
            expect(w, ALONE_I);
        }
        ft_pri_lease_renewed(p);
        ft_pri_ack(p, 3, w->now);
        expect(w, "");
    }
    /* Or it was stopped before it could. */
    {
        g_autoptr(World) w = world_at(NO_LEASE);

        ft_pri_peer_failover(&w->p, false);
        expect(w, FENCE);
        w->leases = -1;
        ft_pri_lease_renewed(&w->p);
        expect(w, "");
    }
}

/* A process that hung wakes up: acknowledgements, then the verdict. */
static void test_lease_hung(void)
{
    g_autoptr(World) w = world_at(PROTECTED_1);
    FtPri *p = &w->p;

    ft_pri_poll(p, w->now);
    w->now += 20 * ACK;
    w->leases = 0;
    ft_pri_ack(p, 2, w->now);
    expect(w, "");
    ft_pri_poll(p, w->now);
    expect(w, "t3");
    ft_pri_lost(p, "the backup closed the connection");
    expect(w, ASK);
    ft_pri_claimed(p, FT_CLAIM_LOST, "host b");
    expect(w, FENCE);
}

/* ---------------------------------------------------------------- claims */

/* What people are told. */
static void test_reasons(void)
{
    g_autoptr(World) won = world_at(PROTECTED_1);
    g_autoptr(World) lost = world_at(PROTECTED_1);
    g_autoptr(World) gone = world_at(PROTECTED_1);
    g_autofree char *text = g_strnfill(10 * FT_PRI_WHY_MAX, 'y');
    g_autofree char *cable = g_strdup("the cable was cut");

    ft_pri_lost(&won->p, cable);
    memset(cable, 'x', strlen(cable));
    g_assert_cmpstr(won->reason, ==, "the cable was cut");
    /* Out of reach: why the backup is lost, and why nothing happens. */
    for (int i = 0; i < 3; i++) {
        ft_pri_claimed(&won->p, FT_CLAIM_UNKNOWN, "no route to it");
        g_assert_nonnull(strstr(won->reason, "the cable was cut; output is "
                                "held"));
        g_assert_nonnull(strstr(won->reason, "no route to it"));
    }
    ft_pri_claimed(&won->p, FT_CLAIM_UNKNOWN, text);
    g_assert_cmpuint(strlen(won->reason), <, FT_PRI_WHY_MAX);
    expect(won, ASK " >claiming >claiming >claiming >claiming");
    ft_pri_claimed(&won->p, FT_CLAIM_WON, "");
    g_assert_cmpstr(won->reason, ==, "the cable was cut");
    g_assert_cmpstr(won->disarm, ==, "the cable was cut");

    ft_pri_lost(&lost->p, text);
    g_assert_cmpuint(strlen(lost->reason), ==, FT_PRI_WHY_MAX - 1);
    ft_pri_claimed(&lost->p, FT_CLAIM_LOST, "host b");
    g_assert_nonnull(strstr(lost->reason, "taken over"));

    /* The later word explains more, but a cancel stays one. */
    ft_pri_lost(&gone->p, "the data connection was lost");
    ft_pri_peer_gone(&gone->p, "the backup left: quit");
    g_assert_cmpstr(gone->reason, ==, "the backup left: quit");
    {
        g_autoptr(World) w = world_at(CANCELLING);

        g_assert_cmpstr(w->disarm, ==, "cancelled");
        ft_pri_peer_gone(&w->p, "the backup left: cancelled");
        g_assert_cmpstr(w->reason, ==, "cancelled");
        g_assert_cmpstr(w->disarm, ==, "cancelled");
    }
}

/* Out of reach, and in reach at last: nothing leaves before. */
static void test_unknown(void)
{
    for (int won = 0; won < 2; won++) {
        for (From from = CLAIM_SYNC; from <= CANCEL_ASKED; from++) {
            g_autoptr(World) w = world_at(from);
            bool stalled = from == CLAIM_STALLED;
            bool inactive = from == CLAIM_SYNC || from >= CANCELLING;

            for (int i = 0; i < 50; i++) {
                ft_pri_claimed(&w->p, FT_CLAIM_UNKNOWN, "no route to it");
                expect(w, ">claiming");
                /* Once is enough: the arbiter tries again by itself. */
                if (from != CANCELLING || i) {
                    g_assert_cmpint(poll_in(w, 10 * ACK), ==, INT64_MAX);
                    expect(w, "");
                } else {
                    poll_in(w, DISARM);
                    expect(w, "C");
                }
                g_assert_true(w->p.output_held);
            }
            ft_pri_claimed(&w->p, won ? FT_CLAIM_WON : FT_CLAIM_LOST, "");
            expect(w, !won ? FENCE : inactive ? ALONE_I :
                   stalled ? "d R s- e >unprotected" : ALONE_U);
            /* It is told once, but who knows. */
            ft_pri_claimed(&w->p, won ? FT_CLAIM_LOST : FT_CLAIM_WON, "");
            ft_pri_claimed(&w->p, FT_CLAIM_UNKNOWN, "");
            expect(w, "");
        }
    }
}

/* An answer that nobody waits for any more, or has never asked for. */
static void test_not_asked(void)
{
    for (From from = INACTIVE; from <= CONN_LOST; from++) {
        for (FtClaim c = FT_CLAIM_WON; c <= FT_CLAIM_UNKNOWN; c++) {
            g_autoptr(World) w = world_at(from);
            FtPriState before = w->p.state;

            ft_pri_claimed(&w->p, c, "");
            expect(w, "");
            g_assert_cmpint(w->p.state, ==, before);
        }
    }
}

/* The arbiter "none" answers from within the question. */
static void test_at_once(void)
{
    static const FtClaim won = FT_CLAIM_WON, lost = FT_CLAIM_LOST;

    for (int how = 0; how < 5; how++) {
        for (int i = 0; i < 2; i++) {
            g_autoptr(World) w = world_at(PROTECTED_1);
            FtPri *p = &w->p;

            w->at_once = i ? &lost : &won;
            if (how == 0) {
                ft_pri_lost(p, "the backup is silent");
            } else if (how == 1) {
                ft_pri_ack(p, 77, w->now);
            } else if (how == 2) {
                ft_pri_conn_lost(p, "data", w->now);
                g_assert_cmpint(poll_in(w, FT_PRI_GRACE_US), ==, INT64_MAX);
            } else if (how == 3) {
                ft_pri_poll(p, w->now);
                while (w->now < INT64_MAX) {
                    w->now = ft_pri_poll(p, w->now);
                }
                g_string_erase(w->log, 0, strlen("t3 s+ "));
            } else {
                g_assert_true(ft_pri_cancel(p, "cancelled", false, w->now));
                expect(w, "d >claiming");
                g_assert_cmpint(poll_in(w, DISARM), ==, INT64_MAX);
                expect(w, i ? "C " FENCE : "C " ALONE_I);
                continue;
            }
            expect(w, i ? ASK " " FENCE :
                   how == 3 ? ASK " d R s- e >unprotected" : ASK " " ALONE_U);
        }
    }
}

/*
 * The generation that this side goes on with: the next one if it was asked
 * for or might have been, or the operator has vouched for it, or else the
 * same: then the backup has never asked for it either.
 */
static void test_generation(void)
{
    static const struct {
        const char *how;
        bool asked[CANCEL_ASKED + 1];
    } way[] = {
        { "gone",  { [CLAIM_SYNC ... CLAIM_UNKNOWN] = true,
                     [CANCEL_ASKED] = true } },
        { "force", { [SYNC_1 ... CANCEL_ASKED] = true } },
        { "won",   { [SYNC_1 ... CANCEL_ASKED] = true } },
    };

    for (int i = 0; i < ARRAY_SIZE(way); i++) {
        for (From from = SETTING_UP; from <= CANCEL_ASKED; from++) {
            g_autoptr(World) w = world_at(from);
            FtPri *p = &w->p;

            if (i == 0) {
                ft_pri_peer_gone(p, "the backup left");
            } else if (i == 1) {
                g_assert_true(ft_pri_cancel(p, "cancelled", true, w->now));
            } else {
                ft_pri_lost(p, "lost");
                if (from == CANCELLING) {
                    poll_in(w, DISARM);
                }
                ft_pri_claimed(p, FT_CLAIM_WON, "");
            }
            g_assert_true(p->dead);
            g_assert_cmpint(p->state, !=, FT_PRI_FENCED);
            if (p->claim_asked != way[i].asked[from]) {
                g_test_message("%s in %s: %d", way[i].how, from_name[from],
                               p->claim_asked);
                g_test_fail();
            }
        }
    }
}

/* ----------------------------------------------- the guest while claiming */

/* No epoch is taken, and nothing of what it does may leave. */
static void test_runs_on(void)
{
    for (From from = CLAIM_SYNC; from <= CANCEL_ASKED; from++) {
        g_autoptr(World) w = world_at(from);
        FtPri *p = &w->p;
        uint64_t taken = p->taken;

        ft_pri_output_waiting(p);
        if (from == CANCELLING) {
            g_assert_cmpint(poll_in(w, EPOCH), ==, w->now - EPOCH + DISARM);
        } else {
            g_assert_cmpint(poll_in(w, 10 * EPOCH), ==, INT64_MAX);
        }
        g_assert_cmpuint(ft_pri_take_now(p, w->now), ==, 0);
        ft_pri_ack(p, p->acked + 1, w->now);
        ft_pri_ack(p, 77, w->now);
        ft_pri_conn_lost(p, "data", w->now);
        ft_pri_lost(p, "control");
        ft_pri_sync_done(p, w->now);
        expect(w, "");
        g_assert_cmpuint(p->taken, ==, taken);
        g_assert_true(p->output_held);
    }
}

/* Until there is no more room for it; then it stands until it may go on. */
static void test_full(void)
{
    for (From from = CLAIM_SYNC; from <= CANCEL_ASKED; from++) {
        for (int won = 0; won < 2; won++) {
            g_autoptr(World) w = world_at(from);
            FtPri *p = &w->p;
            bool inactive = from == CLAIM_SYNC || from >= CANCELLING;
            uint64_t stalls = p->stalls;

            ft_pri_output_full(p);
            expect(w, "");
            poll_in(w, 1);
            expect(w, from == CLAIM_STALLED ? "" : "s+");
            g_assert_cmpuint(p->stalls, ==,
                             stalls + (from != CLAIM_STALLED));
            ft_pri_ack(p, p->acked + 1, w->now);
            ft_pri_output_full(p);
            poll_in(w, 1);
            ft_pri_claimed(p, FT_CLAIM_UNKNOWN, "no route to it");
            expect(w, ">claiming");
            g_assert_true(p->stalled);
            ft_pri_claimed(p, won ? FT_CLAIM_WON : FT_CLAIM_LOST, "");
            expect(w, !won ? FENCE : inactive ? "d R s- e >inactive" :
                   "d R s- e >unprotected");
            g_assert_true(p->stalled == !won);
        }
    }
    /* It was full already when the backup was lost. */
    {
        g_autoptr(World) w = world_at(CONN_LOST);

        ft_pri_output_full(&w->p);
        poll_in(w, FT_PRI_GRACE_US);
        expect(w, ASK);
        poll_in(w, 0);
        expect(w, "s+");
    }
}

/* ---------------------------------------------------------------- cancel */

/* The backup's answer comes: nobody else is asked. */
static void test_cancel_echo(void)
{
    g_autoptr(World) w = world_at(PROTECTED_1);
    FtPri *p = &w->p;
    int64_t at = w->now + DISARM;

    g_assert_true(ft_pri_cancel(p, "by the operator", false, w->now));
    expect(w, "d >claiming");
    g_assert_cmpstr(w->reason, ==, "by the operator");
    g_assert_cmpstr(w->disarm, ==, "by the operator");
    g_assert_cmpint(ft_pri_poll(p, w->now), ==, at);
    g_assert_cmpint(poll_in(w, DISARM - 1), ==, at);
    expect(w, "");
    ft_pri_peer_gone(p, "it left");
    expect(w, ALONE_I);
    g_assert_false(p->claim_asked);
    g_assert_cmpint(poll_in(w, DISARM), ==, INT64_MAX);
    expect(w, "");
}

/* It does not come: the arbiter is asked, once; it may still come then. */
static void test_cancel_silent(void)
{
    for (int how = 0; how < 3; how++) {
        g_autoptr(World) w = world_at(PROTECTED_1);
        FtPri *p = &w->p;

        g_assert_true(ft_pri_cancel(p, "by the operator", false, w->now));
        expect(w, "d >claiming");
        if (how == 1) {
            /* The connections end: that says nothing more. */
            ft_pri_conn_lost(p, "data", w->now);
            ft_pri_lost(p, "control");
            expect(w, "");
        }
        g_assert_cmpint(poll_in(w, DISARM), ==, INT64_MAX);
        expect(w, "C");
        g_assert_cmpint(poll_in(w, 10 * DISARM), ==, INT64_MAX);
        expect(w, "");
        if (how == 2) {
            ft_pri_peer_gone(p, "it left");
        } else {
            ft_pri_claimed(p, FT_CLAIM_WON, "");
        }
        expect(w, ALONE_I);
        g_assert_true(p->claim_asked);
        g_assert_cmpstr(w->reason, ==, "by the operator");
    }
}

/* While the first copy is under way nothing is waited for. */
static void test_cancel_early(void)
{
    for (From from = SETTING_UP; from <= WITHHELD; from++) {
        for (int force = 0; force < 2; force++) {
            g_autoptr(World) w = world_at(from);

            g_assert_true(ft_pri_cancel(&w->p, "cancelled", force, w->now));
            expect(w, from == WITHHELD ? ALONE_I : "d e >inactive");
            g_assert_false(w->p.claim_asked);
        }
    }
}

/* The backup is asked to leave and asks this side to stop: who was first
 * does not matter, it does not leave any more. */
static void test_cancel_failover(void)
{
    for (int claimed = 0; claimed < 2; claimed++) {
        g_autoptr(World) before = world_at(CANCELLING);
        g_autoptr(World) after = world_at(CANCEL_ASKED);

        ft_pri_peer_failover(&before->p, claimed);
        expect(before, FENCE);
        ft_pri_peer_failover(&after->p, claimed);
        expect(after, claimed ? FENCE : "");
    }
}

/* A second cancel, and the operator who vouches for the backup's death. */
static void test_cancel_again(void)
{
    for (From from = CLAIM_SYNC; from <= CANCEL_ASKED; from++) {
        g_autoptr(World) w = world_at(from);
        bool stalled = from == CLAIM_STALLED;
        bool inactive = from == CLAIM_SYNC || from >= CANCELLING;
        int64_t at = w->now;

        poll_in(w, DISARM / 2);
        g_assert_false(ft_pri_cancel(&w->p, "again", false, w->now));
        expect(w, "");
        /* That did not put anything off. */
        if (from == CANCELLING) {
            g_assert_cmpint(ft_pri_poll(&w->p, w->now), ==, at + DISARM);
        }
        g_assert_true(ft_pri_cancel(&w->p, "again", true, w->now));
        expect(w, inactive ? ALONE_I :
               stalled ? "d R s- e >unprotected" : ALONE_U);
        g_assert_true(w->p.claim_asked);
    }
    /* At once. */
    {
        g_autoptr(World) w = world_at(STALLED);

        g_assert_true(ft_pri_cancel(&w->p, "cancelled", true, w->now));
        expect(w, "d R s- e >inactive");
        g_assert_true(w->p.claim_asked);
    }
}

/* A process that stood still meanwhile asks when it wakes up. */
static void test_cancel_hung(void)
{
    g_autoptr(World) w = world_at(CANCELLING);

    g_assert_cmpint(poll_in(w, 100 * DISARM), ==, INT64_MAX);
    expect(w, "C");
    ft_pri_peer_gone(&w->p, "it left long ago");
    expect(w, ALONE_I);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/primary/lease/order", test_lease_order);
    g_test_add_func("/ft/primary/lease/first", test_lease_first);
    g_test_add_func("/ft/primary/lease/stall", test_lease_stall);
    g_test_add_func("/ft/primary/lease/early", test_lease_early);
    g_test_add_func("/ft/primary/lease/after-loss", test_lease_after_loss);
    g_test_add_func("/ft/primary/lease/hung", test_lease_hung);
    g_test_add_func("/ft/primary/claim/reasons", test_reasons);
    g_test_add_func("/ft/primary/claim/unknown", test_unknown);
    g_test_add_func("/ft/primary/claim/not-asked", test_not_asked);
    g_test_add_func("/ft/primary/claim/at-once", test_at_once);
    g_test_add_func("/ft/primary/claim/generation", test_generation);
    g_test_add_func("/ft/primary/claim/runs-on", test_runs_on);
    g_test_add_func("/ft/primary/claim/full", test_full);
    g_test_add_func("/ft/primary/cancel/echo", test_cancel_echo);
    g_test_add_func("/ft/primary/cancel/silent", test_cancel_silent);
    g_test_add_func("/ft/primary/cancel/early", test_cancel_early);
    g_test_add_func("/ft/primary/cancel/failover", test_cancel_failover);
    g_test_add_func("/ft/primary/cancel/again", test_cancel_again);
    g_test_add_func("/ft/primary/cancel/hung", test_cancel_hung);
    return g_test_run();
}
