/*
 * Unit tests of migration/ft/retry.c: when and where protection is tried again
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft/retry.h"

#define T0 1000000

static FtRetry lost_with(unsigned places)
{
    FtRetry r = { };

    ft_retry_places(&r, places, T0 - 5);
    ft_retry_lost(&r, T0);
    return r;
}

/* Tries at @now and is refused at once. */
static void refused(FtRetry *r, int place, int64_t now)
{
    g_assert_cmpint(ft_retry_poll(r, false, now), ==, place);
    ft_retry_failed(r, now);
}

static void test_idle(void)
{
    FtRetry r = { };

    ft_retry_places(&r, 2, T0);
    g_assert_false(ft_retry_active(&r));
    g_assert_cmpint(ft_retry_due(&r), ==, INT64_MAX);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 1), ==, -1);
    /* states of a session that nobody of us has started */
    ft_retry_state(&r, FT_STATE_SETUP, T0);
    ft_retry_state(&r, FT_STATE_INACTIVE, T0);
    ft_retry_state(&r, FT_STATE_PROTECTED, T0);
    ft_retry_state(&r, FT_STATE_UNPROTECTED, T0);
    g_assert_false(ft_retry_active(&r));
    g_assert_false(ft_retry_stop(&r));
}

/* All places at once, then 1, 2, 4 .. 60 seconds of rest. */
static void test_rounds(void)
{
    static const int rest[] = { 1, 2, 4, 8, 16, 32, 60, 60 };
    FtRetry r = lost_with(3);
    int64_t now = T0;

    g_assert_true(ft_retry_active(&r));
    for (unsigned i = 0; i < ARRAY_SIZE(rest); i++) {
        for (int place = 0; place < 3; place++) {
            g_assert_cmpint(ft_retry_due(&r), ==, now);
            refused(&r, place, now);
            g_assert_cmpuint(r.tries, ==, 3 * i + place + 1);
        }
        g_assert_cmpint(ft_retry_due(&r), ==, now + rest[i] * 1000);
        now += rest[i] * 1000;
        g_assert_cmpint(ft_retry_poll(&r, false, now - 1), ==, -1);
    }
    /* and on and on */
    for (int i = 0; i < 1000; i++) {
        for (int place = 0; place < 3; place++) {
            refused(&r, place, now);
        }
        g_assert_cmpint(ft_retry_due(&r), ==, now + 60000);
        now += 60000;
    }
}

/* A try takes its time, and is only over when its session says so. */
static void test_under_way(void)
{
    FtRetry r = lost_with(2);

    g_assert_cmpint(ft_retry_poll(&r, false, T0), ==, 0);
    g_assert_cmpint(ft_retry_due(&r), ==, INT64_MAX);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 100000), ==, -1);
    ft_retry_state(&r, FT_STATE_SETUP, T0 + 1);
    ft_retry_state(&r, FT_STATE_SYNC, T0 + 2);
    ft_retry_state(&r, FT_STATE_CLAIMING, T0 + 3);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 100000), ==, -1);
    ft_retry_state(&r, FT_STATE_INACTIVE, T0 + 100);
    g_assert_cmpint(ft_retry_due(&r), ==, T0 + 100);
    /* told in two ways, it is one try in vain */
    ft_retry_lost(&r, T0 + 101);
    ft_retry_failed(&r, T0 + 102);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 200), ==, 1);
    ft_retry_state(&r, FT_STATE_PROTECTED, T0 + 300);
    g_assert_false(ft_retry_active(&r));
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 100000), ==, -1);
}

/* The other order: the end of a lost session, then its state. */
static void test_lost_while_trying(void)
{
    FtRetry r = lost_with(2);

    g_assert_cmpint(ft_retry_poll(&r, false, T0), ==, 0);
    ft_retry_lost(&r, T0 + 10);
    ft_retry_state(&r, FT_STATE_UNPROTECTED, T0 + 11);
    g_assert_cmpint(ft_retry_due(&r), ==, T0 + 10);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 10), ==, 1);
}

static void test_busy(void)
{
    FtRetry r = lost_with(1);

    g_assert_cmpint(ft_retry_poll(&r, true, T0), ==, -1);
    g_assert_cmpuint(r.tries, ==, 0);
    g_assert_cmpint(ft_retry_due(&r), ==, T0 + FT_RETRY_BUSY_MS);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + FT_RETRY_BUSY_MS), ==, 0);
}

/* Somebody else's session: waited for, and its success is ours, too. */
static void test_by_hand(void)
{
    FtRetry r = lost_with(1);

    ft_retry_state(&r, FT_STATE_SETUP, T0);
    g_assert_cmpint(ft_retry_poll(&r, true, T0), ==, -1);
    ft_retry_state(&r, FT_STATE_INACTIVE, T0 + 1);
    g_assert_true(ft_retry_active(&r));
    g_assert_cmpuint(r.rounds, ==, 0);
    ft_retry_state(&r, FT_STATE_PROTECTED, T0 + 2);
    g_assert_false(ft_retry_active(&r));
    /* lost soon, but it was not got by a try: begin from the start */
    ft_retry_lost(&r, T0 + 3);
    g_assert_cmpint(ft_retry_due(&r), ==, T0 + 3);
    g_assert_cmpuint(r.rounds, ==, 0);
}

/* A backup that dies of what it gets. */
static void test_flapping(void)
{
    FtRetry r = lost_with(1);
    int64_t now = T0;

    for (int rest = 1; rest <= 4; rest *= 2) {
        g_assert_cmpint(ft_retry_poll(&r, false, now), ==, 0);
        ft_retry_state(&r, FT_STATE_PROTECTED, now + 10);
        now += 10 + FT_RETRY_CALM_MS - 1;
        ft_retry_state(&r, FT_STATE_UNPROTECTED, now);
        ft_retry_lost(&r, now);
        g_assert_cmpint(ft_retry_due(&r), ==, now + rest * 1000);
        now += rest * 1000;
    }
    g_assert_cmpuint(r.tries, ==, 3);
    /* one that lived long enough */
    g_assert_cmpint(ft_retry_poll(&r, false, now), ==, 0);
    ft_retry_state(&r, FT_STATE_PROTECTED, now);
    now += FT_RETRY_CALM_MS;
    ft_retry_lost(&r, now);
    g_assert_cmpint(ft_retry_due(&r), ==, now);
    g_assert_cmpuint(r.tries, ==, 0);
    refused(&r, 0, now);
    g_assert_cmpint(ft_retry_due(&r), ==, now + 1000);
}

static void test_stop(void)
{
    FtRetry r = lost_with(2);

    g_assert_true(ft_retry_stop(&r));
    g_assert_false(ft_retry_active(&r));
    g_assert_false(ft_retry_stop(&r));
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 1), ==, -1);

    /* the session that is being ended has to ask the arbiter */
    ft_retry_state(&r, FT_STATE_CLAIMING, T0 + 2);
    ft_retry_state(&r, FT_STATE_UNPROTECTED, T0 + 3);
    ft_retry_lost(&r, T0 + 4);
    g_assert_false(ft_retry_active(&r));

    /* with a try under way, whose end is no news then */
    ft_retry_state(&r, FT_STATE_SETUP, T0 + 5);
    ft_retry_state(&r, FT_STATE_PROTECTED, T0 + 5);
    ft_retry_lost(&r, T0 + 10);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 10), ==, 0);
    g_assert_true(ft_retry_stop(&r));
    g_assert_false(r.trying);
    ft_retry_state(&r, FT_STATE_INACTIVE, T0 + 20);
    g_assert_cmpint(ft_retry_due(&r), ==, INT64_MAX);
    /* what is set later does not begin it */
    ft_retry_places(&r, 3, T0 + 30);
    g_assert_false(ft_retry_active(&r));

    /* a backup on which somebody said it by mistake */
    ft_retry_state(&r, FT_STATE_STANDBY, T0 + 40);
    ft_retry_stop(&r);
    ft_retry_state(&r, FT_STATE_TAKEOVER, T0 + 41);
    ft_retry_state(&r, FT_STATE_UNPROTECTED, T0 + 42);
    ft_retry_lost(&r, T0 + 43);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 43), ==, 0);

    r = lost_with(1);
    g_assert_cmpint(ft_retry_poll(&r, false, T0), ==, 0);
    ft_retry_state(&r, FT_STATE_FENCED, T0 + 1);
    g_assert_false(ft_retry_active(&r));
}

static void test_places(void)
{
    FtRetry r = lost_with(0);

    /* nothing to try, until there is */
    g_assert_false(ft_retry_active(&r));
    g_assert_cmpint(ft_retry_poll(&r, false, T0), ==, -1);
    ft_retry_places(&r, 2, T0 + 1000);
    g_assert_true(ft_retry_active(&r));
    g_assert_cmpint(ft_retry_due(&r), ==, T0 + 1000);
    for (int i = 0; i < 4; i++) {
        refused(&r, i % 2, ft_retry_due(&r));
    }
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 500000), ==, 0);

    /* new ones in the middle of a round: from the first one on */
    ft_retry_failed(&r, T0 + 500000);
    g_assert_cmpuint(r.next, ==, 1);
    ft_retry_places(&r, 2, T0 + 500000);
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 500000), ==, 0);

    /* new ones during a try: it goes on, they are next */
    ft_retry_places(&r, 3, T0 + 500001);
    g_assert_true(r.trying);
    ft_retry_failed(&r, T0 + 500002);
    g_assert_cmpint(ft_retry_due(&r), <=, T0 + 500002 + FT_RETRY_REST_MS);
    g_assert_cmpint(ft_retry_poll(&r, false, ft_retry_due(&r)), ==, 0);

    /* none any more: the try that is under way is the last one */
    ft_retry_places(&r, 0, T0 + 600000);
    g_assert_true(ft_retry_active(&r));
    ft_retry_state(&r, FT_STATE_INACTIVE, T0 + 600001);
    g_assert_false(ft_retry_active(&r));
    g_assert_cmpint(ft_retry_poll(&r, false, T0 + 700000), ==, -1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/retry/idle", test_idle);
    g_test_add_func("/ft/retry/rounds", test_rounds);
    g_test_add_func("/ft/retry/under-way", test_under_way);
    g_test_add_func("/ft/retry/lost-while-trying", test_lost_while_trying);
    g_test_add_func("/ft/retry/busy", test_busy);
    g_test_add_func("/ft/retry/by-hand", test_by_hand);
    g_test_add_func("/ft/retry/flapping", test_flapping);
    g_test_add_func("/ft/retry/stop", test_stop);
    g_test_add_func("/ft/retry/places", test_places);
    return g_test_run();
}
