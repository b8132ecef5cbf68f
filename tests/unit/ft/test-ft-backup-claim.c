/*
 * Unit tests of migration/ft/backup-fsm.c: losses, claims, takeover
 *
 * What it asks for is written down by the operations in backup-world.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "backup-world.h"

#define BAD     "x >discarded E"
#define ORDERLY "d x >discarded O"
#define TAKE    ">takeover T1"
#define CLAIM   "x >claiming C"
#define ASK     "x >claiming F C"

/* Until a poll asks for nothing more; checks that it asks often enough. */
static void wait_for(World *w, int64_t until)
{
    for (;;) {
        int64_t next = ft_bak_poll(&w->b, w->now);

        if (next == INT64_MAX) {
            break;
        }
        g_assert_cmpint(next, >, w->now);
        g_assert_cmpint(next, <=, w->now + FT_BAK_GRACE_US);
        if (next > until) {
            break;
        }
        w->now = next;
    }
}

static void answer(World *w, FtClaim claim)
{
    ft_bak_claimed(&w->b, claim, "host a pid 7", w->now);
}

static void failover(World *w, bool force)
{
    g_assert_true(ft_bak_failover(&w->b, force, w->now, &error_abort));
}

/* --------------------------------------------------------------- claims */

/* Won, and the primary may still hear this side: it has its time to stop. */
static void test_fence_wait(void)
{
    for (int how = 0; how < 6; how++) {
        g_autoptr(World) w = world_at(how == 5 ? FORCED : WON);
        int64_t from = w->now;

        g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                        w->now + FT_BAK_GRACE_US);
        wait_for(w, from + FENCE / 2);
        expect(w, "");
        switch (how) {
        case 0:
        case 5:
            /* No answer: the bound is kept exactly. */
            w->now = from + FENCE - 1;
            g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==, from + FENCE);
            expect(w, "");
            g_assert_cmpint(ft_bak_poll(&w->b, from + FENCE), ==, INT64_MAX);
            break;
        case 1:
            ft_bak_peer_fenced(&w->b);
            break;
        case 2:
            ft_bak_control_lost(&w->b, w->now);
            break;
        case 3:
            ft_bak_silent(&w->b, "silent", w->now);
            break;
        case 4:
            /* These do not say that it has stopped, nor do they put it off:
             * nor is it asked for again. */
            ft_bak_data_lost(&w->b, w->now);
            ft_bak_heart_lost(&w->b, w->now);
            ft_bak_peer_disarm(&w->b, "the primary goes on");
            failover(w, true);
            expect(w, "");
            g_assert_cmpint(w->b.fence_deadline, ==, from + FENCE);
            wait_for(w, from + FENCE);
            break;
        }
        if (how == 0 || how == 2 || how == 5) {
            /* It may be alive: not before its lease is over. */
            lease_ends(w, TAKE);
        }
        expect(w, how == 1 || how == 3 || how == 4 ? TAKE : "");
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + FENCE), ==, INT64_MAX);
        ft_bak_running(&w->b);
        expect(w, ">unprotected");
    }
}

/* A primary that may be alive has a lease: when is it over for certain?
 * w won, d data lost, c control lost, h heartbeats' connection lost, s silent,
 * f fenced, t the time is over */
static void test_lease(void)
{
    static const struct {
        From from;
        const char *events, *want;
    } way[] = {
        /* it was killed: all ends at once, and nothing is waited for */
        { STANDBY, "dchw", "x " ASK " " TAKE },
        { STANDBY, "cdhw", "x " CLAIM " " TAKE },
        { STANDBY, "hdcw", "x " ASK " " TAKE },
        { STANDBY, "dwch", "x " ASK " F! " TAKE },
        { STANDBY, "dwhc", "x " ASK " F! " TAKE },
        { STANDBY, "cdwh", "x " CLAIM " " TAKE },
        /* its heartbeats are not over yet */
        { WON, "ct", "H" },
        { WON, "cth", "H " TAKE },
        { WON, "cts", "H " TAKE },
        { WON, "ctf", "H " TAKE },
        { WON, "t", "H" },
        { WON, "th", "H " TAKE },
        { WON, "ts", "H " TAKE },
        { WON, "tf", "H " TAKE },
        { WON, "tc", "H" },
        { WON, "tch", "H " TAKE },
        { FORCED, "th", "H " TAKE },
        { CLAIM_BOTH, "w", "" },
        { CLAIM_BOTH, "wt", "H" },
        { CLAIM_BOTH, "wth", "H " TAKE },
        { CLAIM_BOTH, "hw", TAKE },
        { CLAIM_BOTH, "sw", TAKE },
        /* they are, but it may still answer */
        { WON, "h", "" },
        { WON, "ht", TAKE },
        { WON, "hc", TAKE },
        { WON, "hf", TAKE },
        { WON, "hs", TAKE },
        { CLAIM_DATA, "hw", "F!" },
        { CLAIM_DATA, "hwt", "F! " TAKE },
        /* the data connection says nothing about that */
        { WON, "dc", "" },
        { WON, "dh", "" },
        { WON, "dt", "H" },
        /* nothing of it before the arbiter has answered */
        { CLAIM_BOTH, "h", "" },
        { ASKED, "cht", "" },
        { ASKED, "s", "" },
    };

    for (int i = 0; i < ARRAY_SIZE(way); i++) {
        g_autoptr(World) w = world_at(way[i].from);

        for (const char *e = way[i].events; *e; e++) {
            w->now += 10;
            switch (*e) {
            case 'w':
                answer(w, FT_CLAIM_WON);
                break;
            case 'd':
                ft_bak_data_lost(&w->b, w->now);
                break;
            case 'c':
                ft_bak_control_lost(&w->b, w->now);
                break;
            case 'h':
                ft_bak_heart_lost(&w->b, w->now);
                break;
            case 's':
                ft_bak_silent(&w->b, "silent", w->now);
                break;
            case 'f':
                ft_bak_peer_fenced(&w->b);
                break;
            case 't':
                wait_for(w, INT64_MAX);
                break;
            }
        }
        if (!g_str_equal(w->log->str, way[i].want)) {
            g_test_message("%s in %s: '%s', not '%s'", way[i].events,
                           from_name[way[i].from], w->log->str, way[i].want);
            g_test_fail();
        }
    }
    /* Without control it need not answer: less time then. */
    {
        g_autoptr(World) w = world_at(WON);

        w->now += FENCE / 3;
        ft_bak_control_lost(&w->b, w->now);
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + FT_BAK_GRACE_US - 1), ==,
                        w->now + FT_BAK_GRACE_US);
        expect(w, "");
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + FT_BAK_GRACE_US), ==,
                        INT64_MAX);
        expect(w, "H");
    }
}

/* Only what is known when the answer comes counts. */
static void test_loss_then_claim(void)
{
    static const struct {
        From from;
        bool silent, control;
        const char *want;
    } way[] = {
        { ASKED, false, false, "F!" },
        { ASKED, true, false, "F! " TAKE },
        { ASKED, false, true, TAKE },
        { ASKED, true, true, TAKE },
        { CLAIM_DATA, false, false, "F!" },
        { CLAIM_DATA, true, false, "F! " TAKE },
        { CLAIM_DATA, false, true, TAKE },
        { CLAIM_SILENT, false, true, TAKE },
        { CLAIM_BOTH, true, false, TAKE },
        { CLAIM_UNKNOWN, true, false, "F! " TAKE },
    };

    for (int i = 0; i < ARRAY_SIZE(way); i++) {
        g_autoptr(World) w = world_at(way[i].from);

        if (way[i].silent) {
            ft_bak_silent(&w->b, "silent", w->now);
        }
        if (way[i].control) {
            ft_bak_control_lost(&w->b, w->now);
        }
        ft_bak_heart_lost(&w->b, w->now);
        ft_bak_data_lost(&w->b, w->now);
        /* It asks once and waits as long as it takes. */
        expect(w, "");
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + 100 * FENCE), ==,
                        INT64_MAX);
        answer(w, FT_CLAIM_WON);
        expect(w, way[i].want);
    }
}

static void test_unknown(void)
{
    for (int won = 0; won < 2; won++) {
        for (From from = ASKED; from <= CLAIM_UNKNOWN; from++) {
            g_autoptr(World) w = world_at(from);
            bool control = from != CLAIM_BOTH;
            bool waits = control && from != CLAIM_SILENT;

            for (int i = 0; i < 50; i++) {
                answer(w, FT_CLAIM_UNKNOWN);
                expect(w, ">claiming");
                w->now += FENCE;
                g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==, INT64_MAX);
                expect(w, "");
            }
            answer(w, won ? FT_CLAIM_WON : FT_CLAIM_LOST);
            if (!won) {
                expect(w, "x >discarded L");
                answer(w, FT_CLAIM_WON);
                expect(w, "");
            } else {
                if (control) {
                    expect(w, waits ? "F!" : "F! " TAKE);
                } else {
                    lease_ends(w, TAKE);
                }
                answer(w, FT_CLAIM_LOST);
                answer(w, FT_CLAIM_UNKNOWN);
                expect(w, "");
            }
        }
    }
}

/* The primary has stopped for good: nobody else has to be asked. */
static void test_fenced_unasked(void)
{
    for (From from = ASKED; from <= CLAIM_UNKNOWN; from++) {
        g_autoptr(World) w = world_at(from);

        ft_bak_peer_fenced(&w->b);
        expect(w, TAKE);
        /* The answer that comes late changes nothing. */
        answer(w, FT_CLAIM_LOST);
        answer(w, FT_CLAIM_WON);
        answer(w, FT_CLAIM_UNKNOWN);
        ft_bak_control_lost(&w->b, w->now);
        ft_bak_silent(&w->b, "silent", w->now);
        expect(w, "");
        ft_bak_running(&w->b);
        expect(w, ">unprotected");
        answer(w, FT_CLAIM_LOST);
        expect(w, "");
    }
}

/* An answer that nobody has asked for. */
static void test_not_asked(void)
{
    for (From from = WAITING; from <= CONTROL_LOST; from++) {
        for (FtClaim c = FT_CLAIM_WON; c <= FT_CLAIM_UNKNOWN; c++) {
            g_autoptr(World) w = world_at(from);
            FtBakState before = w->b.state;

            answer(w, c);
            expect(w, "");
            g_assert_cmpint(w->b.state, ==, before);
        }
    }
}

/* The arbiter "none" answers from within the question. */
static void test_at_once(void)
{
    static const FtClaim won = FT_CLAIM_WON, lost = FT_CLAIM_LOST;

    for (int how = 0; how < 4; how++) {
        for (int i = 0; i < 2; i++) {
            g_autoptr(World) w = world_at(STANDBY);
            bool heard = false;

            w->at_once = i ? &lost : &won;
            if (how == 0) {
                ft_bak_silent(&w->b, "silent", w->now);
                expect(w, i ? CLAIM " x >discarded L" : CLAIM " F! " TAKE);
            } else if (how == 1) {
                failover(w, false);
                heard = true;
            } else if (how == 2) {
                ft_bak_heart_lost(&w->b, w->now);
                w->now += FT_BAK_GRACE_US;
                g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                                i ? INT64_MAX : w->now + FT_BAK_GRACE_US);
                heard = true;
            } else {
                ft_bak_control_lost(&w->b, w->now);
                wait_for(w, INT64_MAX);
                expect(w, i ? CLAIM " x >discarded L" : CLAIM " H");
            }
            if (heard) {
                expect(w, i ? ASK " x >discarded L" : ASK " F!");
                g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                                i ? INT64_MAX : w->now + FT_BAK_GRACE_US);
            }
        }
    }
}

/* What people are told, and that the first loss is the one that counts. */
static void test_reasons(void)
{
    g_autoptr(World) asked = world_at(STANDBY);
    g_autoptr(World) silent = world_at(STANDBY);
    g_autoptr(World) lost = world_at(STANDBY);
    g_autofree char *why = g_strdup("nothing heard for 500 ms");
    g_autofree char *text = g_strnfill(10 * FT_BAK_WHY_MAX, 'y');

    failover(asked, false);
    g_assert_nonnull(strstr(asked->reason, "operator"));
    ft_bak_control_lost(&asked->b, asked->now);
    ft_bak_data_lost(&asked->b, asked->now);
    ft_bak_silent(&asked->b, "silent", asked->now);
    answer(asked, FT_CLAIM_WON);
    ft_bak_running(&asked->b);
    expect(asked, ASK " " TAKE " >unprotected");
    g_assert_nonnull(strstr(asked->reason, "operator"));

    ft_bak_silent(&silent->b, why, silent->now);
    memset(why, 'x', strlen(why));
    for (int i = 0; i < 3; i++) {
        answer(silent, FT_CLAIM_UNKNOWN);
        g_assert_nonnull(strstr(silent->reason,
                                "nothing heard for 500 ms; waits"));
        g_assert_nonnull(strstr(silent->reason, "host a pid 7"));
    }
    ft_bak_claimed(&silent->b, FT_CLAIM_UNKNOWN, text, silent->now);
    g_assert_cmpuint(strlen(silent->reason), <, FT_BAK_WHY_MAX);
    answer(silent, FT_CLAIM_WON);
    g_assert_cmpstr(silent->reason, ==, "nothing heard for 500 ms");

    ft_bak_silent(&lost->b, text, lost->now);
    g_assert_cmpuint(strlen(lost->reason), ==, FT_BAK_WHY_MAX - 1);
    answer(lost, FT_CLAIM_LOST);
    g_assert_nonnull(strstr(lost->reason, "the primary goes on"));
}

/* --------------------------------------------------------------- losses */

/* The heartbeats' connection has ended: a disarm has its time to come. */
static void test_heart_lost(void)
{
    g_autoptr(World) w = world_at(STANDBY_OPEN);
    g_autoptr(World) told = world_at(STANDBY_OPEN);
    g_autoptr(World) sync = world_at(SYNC_OPEN);
    g_autoptr(World) first = world_at(SYNC_OPEN);
    int64_t from = w->now;

    ft_bak_heart_lost(&w->b, w->now);
    /* Said again, it is not put off. */
    ft_bak_heart_lost(&w->b, w->now + 10);
    g_assert_cmpint(ft_bak_poll(&w->b, from + FT_BAK_GRACE_US - 1), ==,
                    from + FT_BAK_GRACE_US);
    /* Epochs still count. */
    g_assert_null(good_end(w));
    whole_epoch(w);
    expect(w, "a2 A2 p v j a3 A3");
    w->now = from + FT_BAK_GRACE_US;
    g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==, INT64_MAX);
    expect(w, ASK);
    g_assert_nonnull(strstr(w->reason, "heartbeats"));
    answer(w, FT_CLAIM_WON);
    expect(w, "F!");
    wait_for(w, INT64_MAX);
    expect(w, ">takeover T3");

    ft_bak_heart_lost(&told->b, told->now);
    ft_bak_poll(&told->b, told->now);
    ft_bak_peer_disarm(&told->b, "the operator cancelled");
    expect(told, ORDERLY);

    ft_bak_heart_lost(&sync->b, sync->now);
    wait_for(sync, INT64_MAX);
    g_assert_cmpint(sync->now, ==, T0 + FT_BAK_GRACE_US);
    expect(sync, BAD);

    /* The first epoch comes in that time. */
    ft_bak_heart_lost(&first->b, first->now);
    g_assert_null(good_end(first));
    expect(first, "a1 A1 >standby");
    wait_for(first, INT64_MAX);
    expect(first, ASK);
}

/* Losses while one is waited for: which end cuts the wait short. */
static void test_more_lost(void)
{
    g_autoptr(World) data = world_at(HEART_LOST);
    g_autoptr(World) control = world_at(HEART_LOST);
    g_autoptr(World) heart = world_at(CONTROL_LOST);
    g_autoptr(World) silent = world_at(CONTROL_LOST);
    int64_t from = heart->now;

    ft_bak_data_lost(&data->b, data->now);
    expect(data, "x " ASK);
    g_assert_cmpint(ft_bak_poll(&data->b, data->now + FENCE), ==, INT64_MAX);
    expect(data, "");

    /* Whole epochs may still be on their way. */
    ft_bak_control_lost(&control->b, control->now);
    wait_for(control, INT64_MAX);
    g_assert_cmpint(control->now, ==, T0 + FENCE);
    expect(control, CLAIM);

    ft_bak_heart_lost(&heart->b, heart->now + FENCE / 2);
    ft_bak_control_lost(&heart->b, heart->now + FENCE / 2);
    g_assert_null(good_end(heart));
    expect(heart, "a2 A2");
    wait_for(heart, INT64_MAX);
    g_assert_cmpint(heart->now, ==, from + FENCE);
    expect(heart, CLAIM);
    answer(heart, FT_CLAIM_WON);
    expect(heart, ">takeover T2");

    ft_bak_silent(&silent->b, "silent", silent->now);
    ft_bak_data_lost(&silent->b, silent->now);
    expect(silent, CLAIM);
}

/* Each is told once. */
static void test_told_once(void)
{
    g_autoptr(World) w = world_at(SYNC_ENDED);
    g_autoptr(World) c = world_at(CONTROL_LOST);
    g_autoptr(World) s = world_at(CLAIM_SILENT);

    ft_bak_data_lost(&w->b, w->now + FENCE / 2);
    g_assert_cmpint(w->b.fence_deadline, ==, T0 + FENCE);
    expect(w, "");
    ft_bak_control_lost(&c->b, c->now + FENCE / 2);
    g_assert_cmpint(c->b.fence_deadline, ==, T0 + FENCE);
    ft_bak_silent(&s->b, "again", s->now);
    answer(s, FT_CLAIM_WON);
    ft_bak_silent(&s->b, "again", s->now);
    ft_bak_control_lost(&s->b, s->now);
    expect(s, "F! " TAKE);
}

/* A backup that stood still itself hears first what has come meanwhile. */
static void test_grace(void)
{
    static const From from[] = {
        SYNC_ENDED, SYNC_HEART, HEART_LOST, CONTROL_LOST, WON, FORCED,
    };

    for (int i = 0; i < ARRAY_SIZE(from); i++) {
        for (int told = 0; told < 2; told++) {
            g_autoptr(World) w = world_at(from[i]);
            int64_t woke;

            ft_bak_poll(&w->b, w->now);
            w->now += 10 * FENCE;
            woke = w->now;
            g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                            woke + FT_BAK_GRACE_US);
            expect(w, "");
            if (!told) {
                /* But only once. */
                w->now += 10 * FENCE;
                g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==, INT64_MAX);
                expect(w, from[i] <= SYNC_HEART ? BAD :
                       from[i] == HEART_LOST ? ASK :
                       from[i] == CONTROL_LOST ? CLAIM : "H");
            } else if (from[i] <= CONTROL_LOST) {
                ft_bak_peer_disarm(&w->b, "the operator cancelled");
                expect(w, ORDERLY);
            } else {
                ft_bak_peer_fenced(&w->b);
                expect(w, TAKE);
            }
        }
    }
    /* No more than is due: one that came a little late is no standstill. */
    {
        g_autoptr(World) w = world_at(WON);

        ft_bak_poll(&w->b, w->now);
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + 2 * FT_BAK_GRACE_US), ==,
                        T0 + FENCE);
        g_assert_cmpint(ft_bak_poll(&w->b, T0 + FENCE), ==, INT64_MAX);
        expect(w, "H");
    }
    /* Nor does a standstill make the wait shorter. */
    {
        g_autoptr(World) w = world_at(WON);
        int64_t late = w->now + FENCE / 2;

        g_assert_cmpint(ft_bak_poll(&w->b, late), ==,
                        late + FT_BAK_GRACE_US);
        g_assert_cmpint(w->b.fence_deadline, ==, T0 + FENCE);
    }
    /* A second wait has a grace of its own. */
    {
        g_autoptr(World) w = world_at(HEART_LOST);

        ft_bak_poll(&w->b, w->now);
        w->now += 10 * FENCE;
        w->now = ft_bak_poll(&w->b, w->now);
        ft_bak_poll(&w->b, w->now);
        expect(w, ASK);
        w->now += 10 * FENCE;
        answer(w, FT_CLAIM_WON);
        expect(w, "F!");
        g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                        w->now + FT_BAK_GRACE_US);
        w->now += 10 * FENCE;
        g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==,
                        w->now + FT_BAK_GRACE_US);
        expect(w, "");
    }
}

/* --------------------------------------------------------------- promises */

/* Once it has asked for the guest it does not say that it leaves, and once
 * it has said so it never asks. */
static void test_disarm(void)
{
    for (From from = WAITING; from < FROM__MAX; from++) {
        g_autoptr(World) w = world_at(from);
        bool may = from <= CONTROL_LOST;

        g_assert_true(ft_bak_may_disarm(&w->b) == may);
        ft_bak_peer_disarm(&w->b, "the primary leaves");
        if (from == WAITING || !may) {
            expect(w, "");
            continue;
        }
        expect(w, ORDERLY);
        g_assert_cmpstr(w->reason, ==, "the primary leaves");
        g_assert_false(ft_bak_may_disarm(&w->b));
        ft_bak_data_lost(&w->b, w->now);
        ft_bak_control_lost(&w->b, w->now);
        ft_bak_heart_lost(&w->b, w->now);
        ft_bak_silent(&w->b, "silent", w->now);
        ft_bak_peer_fenced(&w->b);
        answer(w, FT_CLAIM_WON);
        g_assert_false(ft_bak_failover(&w->b, true, w->now, NULL));
        g_assert_cmpint(ft_bak_poll(&w->b, w->now + FENCE), ==, INT64_MAX);
        ft_bak_running(&w->b);
        expect(w, "");
    }
}

/* Nothing of an epoch that comes too late is kept, and none is acknowledged. */
static void test_too_late(void)
{
    for (From from = ASKED; from <= FORCED; from++) {
        g_autoptr(World) w = world_at(from);
        FtEpochEnd end = {
            .pages = 3, .page_bytes = 100, .device_bytes = 50,
            .journal_bytes = 60, .journal_records = 2,
        };

        /* the rest of the epoch that was open, and the next one */
        for (uint64_t e = 2; e <= 3; e++) {
            g_assert_null(epoch_end(w, e, &end));
            g_assert_null(frame(w, FT_FRAME_PAGES, 0, e + 1, 100, NULL));
            g_assert_null(frame(w, FT_FRAME_DEVICES, 0, e + 1, 50, NULL));
            g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, e + 1, 60, NULL));
        }
        g_assert_null(frame(w, FT_FRAME_ACK, 0, 9, 0, NULL));
        ft_bak_frame_bad(&w->b, "nonsense");
        expect(w, "");
        g_assert_cmpuint(w->b.committed, ==, 1);
        g_assert_cmpuint(w->b.open_page_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_device_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_journal_bytes, ==, 0);
        ft_bak_peer_fenced(&w->b);
        expect(w, TAKE);
    }
}

/* The operator's word, with and without force. */
static void test_failover(void)
{
    g_autoptr(World) w = world_at(CLAIM_UNKNOWN);
    g_autoptr(World) force = world_at(STANDBY_OPEN);
    g_autoptr(World) alone = world_at(CONTROL_LOST);
    g_autoptr(World) ended = world_at(SYNC_ENDED);
    Error *err = NULL;

    g_assert_false(ft_bak_failover(&w->b, false, w->now, &err));
    expect_error(error_get_pretty(err), "claiming");
    expect_error(error_get_pretty(err), "-f");
    error_free(err);
    expect(w, "");
    /* The arbiter's word is not waited for, but the primary's is. */
    failover(w, true);
    expect(w, "F!");
    failover(w, true);
    answer(w, FT_CLAIM_LOST);
    expect(w, "");
    wait_for(w, INT64_MAX);
    g_assert_cmpint(w->now, ==, T0 + FENCE);
    lease_ends(w, TAKE);

    failover(force, true);
    expect(force, "x >claiming F!");
    g_assert_nonnull(strstr(force->reason, "operator"));
    ft_bak_peer_fenced(&force->b);
    expect(force, TAKE);
    g_assert_nonnull(strstr(force->reason, "operator"));

    failover(alone, true);
    expect(alone, "x >claiming");
    lease_ends(alone, TAKE);
    g_assert_nonnull(strstr(alone->reason, "operator"));
    g_assert_cmpint(ft_bak_poll(&alone->b, alone->now + FENCE), ==,
                    INT64_MAX);
    expect(alone, "");

    /* Nothing to go on from: whoever vouches for what. */
    err = NULL;
    g_assert_false(ft_bak_failover(&ended->b, true, ended->now, &err));
    expect_error(error_get_pretty(err), "standby");
    error_free(err);
    expect(ended, "");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/backup/claim/fence-wait", test_fence_wait);
    g_test_add_func("/ft/backup/claim/lease", test_lease);
    g_test_add_func("/ft/backup/claim/loss-then", test_loss_then_claim);
    g_test_add_func("/ft/backup/claim/unknown", test_unknown);
    g_test_add_func("/ft/backup/claim/fenced-unasked", test_fenced_unasked);
    g_test_add_func("/ft/backup/claim/not-asked", test_not_asked);
    g_test_add_func("/ft/backup/claim/at-once", test_at_once);
    g_test_add_func("/ft/backup/claim/reasons", test_reasons);
    g_test_add_func("/ft/backup/loss/heart", test_heart_lost);
    g_test_add_func("/ft/backup/loss/more", test_more_lost);
    g_test_add_func("/ft/backup/loss/told-once", test_told_once);
    g_test_add_func("/ft/backup/loss/grace", test_grace);
    g_test_add_func("/ft/backup/disarm", test_disarm);
    g_test_add_func("/ft/backup/too-late", test_too_late);
    g_test_add_func("/ft/backup/failover", test_failover);
    return g_test_run();
}
