/*
 * Unit tests of migration/ft/heart.c: heartbeats, on a clock of its own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/ft/heart.h"

#define MS          1000ll
#define INTERVAL    (50 * MS)
#define TIMEOUT     (500 * MS)
#define LEASE       (400 * MS)
#define GRACE       FT_HEART_GRACE_US
#define START       (7777777 * MS)

static const FtHeartParams usual = {
    .interval_us = INTERVAL, .timeout_us = TIMEOUT,
};

static void begin(FtHeart *h)
{
    memset(h, 0xa5, sizeof(*h));
    ft_heart_init(h, &usual, START);
}

/* What comes from the peer; must be all right. */
static void hear(FtHeart *h, uint64_t number, uint64_t echo, int64_t now)
{
    FtHeartbeat hb = { .number = number, .echo = echo };

    g_assert_true(ft_heart_received(h, &hb, now, &error_abort));
}

/* Poll, and what it must do: send @number with @echo, or nothing (0). */
static int64_t poll_mute(FtHeart *h, int64_t now, bool mute, uint64_t number,
                         uint64_t echo)
{
    FtHeartbeat hb = { .number = UINT64_MAX };
    bool send;
    int64_t next = ft_heart_poll(h, now, mute, &send, &hb);

    g_assert_cmpint(send, ==, number != 0);
    if (number) {
        g_assert_cmpuint(hb.number, ==, number);
        g_assert_cmpuint(hb.echo, ==, echo);
    }
    if (h->verdict == FT_HEART_BEATS) {
        g_assert_cmpint(next, >, now);
    } else {
        g_assert_cmpint(next, ==, INT64_MAX);
    }
    return next;
}

static int64_t poll_at(FtHeart *h, int64_t now, uint64_t number,
                       uint64_t echo)
{
    return poll_mute(h, now, false, number, echo);
}

/*
 * @rounds intervals from @now on in which all is well: each side sends one,
 * and the peer has heard all.  Returns when the next one is due.
 */
static int64_t well(FtHeart *h, int64_t now, int rounds)
{
    while (rounds--) {
        poll_at(h, now, h->sent + 1, h->heard);
        hear(h, h->heard + 1, h->sent, now + MS);
        now += INTERVAL;
    }
    return now;
}

/* From @now on poll as asked for, until the verdict; when was it? */
static int64_t verdict_at(FtHeart *h, int64_t now, const char *word)
{
    FtHeartbeat hb;
    bool send;

    for (int i = 0; i < 1000; i++) {
        int64_t next = ft_heart_poll(h, now, false, &send, &hb);

        if (h->verdict == FT_HEART_SILENT) {
            if (!strstr(h->why, word)) {
                g_error("no '%s' in: %s", word, h->why);
            }
            return now;
        }
        now = next;
    }
    g_assert_not_reached();
}

static void test_first(void)
{
    FtHeart h;

    begin(&h);
    /* Nobody has said yet that he hears us, and we gave nobody a lease. */
    g_assert_cmpint(ft_heart_lease(&h), <=, START);
    g_assert_cmpint(ft_heart_peer_lease(&h), <=, START);
    g_assert_cmpint(poll_at(&h, START, 1, 0), ==, START + INTERVAL);
    g_assert_cmpuint(h.graces, ==, 0);
    g_assert_cmpint(ft_heart_lease(&h), <=, START);
    g_assert_cmpint(ft_heart_peer_lease(&h), <=, START);
    /* An echo of nothing is no echo. */
    hear(&h, 1, 0, START + MS);
    g_assert_cmpint(ft_heart_lease(&h), <=, START);
    /* What was heard is no promise before it is echoed. */
    g_assert_cmpint(ft_heart_peer_lease(&h), <=, START);
    poll_at(&h, START + INTERVAL, 2, 1);
    g_assert_cmpint(ft_heart_peer_lease(&h), ==, START + MS + TIMEOUT);
}

static void test_pace(void)
{
    FtHeart h;
    int64_t now;

    begin(&h);
    /* Early calls send nothing and ask for the same moment. */
    poll_at(&h, START, 1, 0);
    for (now = START + 1; now < START + INTERVAL; now += 7 * MS) {
        g_assert_cmpint(poll_at(&h, now, 0, 0), ==, START + INTERVAL);
    }
    /* A late one keeps the step. */
    g_assert_cmpint(poll_at(&h, START + INTERVAL + 20 * MS, 2, 0), ==,
                    START + 2 * INTERVAL);
    hear(&h, 1, 2, START + 90 * MS);
    hear(&h, 2, 2, START + 90 * MS);
    /* One that is later still sends one, not three. */
    g_assert_cmpint(poll_at(&h, START + 4 * INTERVAL + 20 * MS, 3, 2), ==,
                    START + 5 * INTERVAL + 20 * MS);
    /* Exactly late by one. */
    g_assert_cmpint(poll_at(&h, START + 6 * INTERVAL + 20 * MS, 4, 2), ==,
                    START + 7 * INTERVAL + 20 * MS);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);

    begin(&h);
    now = well(&h, START, 10000);
    g_assert_cmpuint(h.sent, ==, 10000);
    g_assert_cmpuint(h.echoed, ==, 10000);
    g_assert_cmpint(now, ==, START + 10000 * INTERVAL);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    /* It was never late. */
    g_assert_cmpuint(h.graces, ==, 0);
}

static void test_lease(void)
{
    FtHeart h;
    int64_t now;

    begin(&h);
    poll_at(&h, START, 1, 0);
    poll_at(&h, START + 50 * MS, 2, 0);
    poll_at(&h, START + 100 * MS, 3, 0);
    /* It is from the sending of what is echoed, not of the last one ... */
    hear(&h, 1, 2, START + 120 * MS);
    g_assert_cmpint(ft_heart_lease(&h), ==, START + 50 * MS + LEASE);
    /* ... and not from the hearing. */
    hear(&h, 2, 2, START + 140 * MS);
    g_assert_cmpint(ft_heart_lease(&h), ==, START + 50 * MS + LEASE);
    hear(&h, 3, 3, START + 145 * MS);
    g_assert_cmpint(ft_heart_lease(&h), ==, START + 100 * MS + LEASE);

    /* Who stood still has lost it, whatever is in the socket, ... */
    now = START + 60000 * MS;
    g_assert_cmpint(ft_heart_lease(&h), <, now);
    hear(&h, 4, 3, now);
    poll_at(&h, now, 4, 4);
    g_assert_cmpint(ft_heart_lease(&h), <, now);
    /* ... and has it again when the peer has heard him since. */
    hear(&h, 5, 4, now + 9 * MS);
    g_assert_cmpint(ft_heart_lease(&h), ==, now + LEASE);
}

static void test_silent(void)
{
    FtHeart h;
    int64_t now, heard;

    /* Never anything. */
    begin(&h);
    g_assert_cmpint(verdict_at(&h, START, "nothing was heard"), ==,
                    START + TIMEOUT);
    g_assert_nonnull(strstr(h.why, " 500 ms"));

    /* Nothing any more. */
    begin(&h);
    now = well(&h, START, 20);
    heard = now - INTERVAL + MS;
    g_assert_cmpint(verdict_at(&h, now, "nothing was heard"), ==,
                    heard + TIMEOUT);

    /* To the microsecond. */
    begin(&h);
    now = well(&h, START, 20);
    for (; now < heard + TIMEOUT - 1; now += INTERVAL) {
        poll_at(&h, now, h.sent + 1, h.heard);
    }
    poll_at(&h, heard + TIMEOUT - 1, 0, 0);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    poll_at(&h, heard + TIMEOUT, 0, 0);
    g_assert_cmpint(h.verdict, ==, FT_HEART_SILENT);

    /* For good. */
    hear(&h, h.heard + 1, h.sent, heard + TIMEOUT + 1);
    for (now = heard + TIMEOUT + 2; now < heard + 10 * TIMEOUT; now += 999) {
        poll_at(&h, now, 0, 0);
        g_assert_cmpint(h.verdict, ==, FT_HEART_SILENT);
    }
}

/* The peer stalls, but not for long enough. */
static void test_stall(void)
{
    FtHeart h;
    int64_t now;

    begin(&h);
    now = well(&h, START, 20);
    for (int i = 0; i < 20; i++) {
        int64_t heard = now - INTERVAL + MS;

        for (; now < heard + TIMEOUT - MS; now += INTERVAL) {
            poll_at(&h, now, h.sent + 1, h.heard);
        }
        /* What it sends first does not know of our last ones. */
        hear(&h, h.heard + 1, h.sent - 3, heard + TIMEOUT - MS);
        poll_at(&h, heard + TIMEOUT, h.sent + 1, h.heard);
        g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
        now = well(&h, h.next_send, 2);
    }
}

static void test_stood_still(void)
{
    const FtHeartParams slow = {
        .interval_us = 1000 * MS, .timeout_us = 4000 * MS,
    };
    FtHeart h;
    int64_t now;

    /* A minute: no verdict before it has listened. */
    begin(&h);
    now = well(&h, START, 20) + 60000 * MS;
    poll_at(&h, now, h.sent + 1, h.heard);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    poll_at(&h, now + INTERVAL, h.sent + 1, h.heard);
    g_assert_cmpint(poll_at(&h, now + GRACE - 1, 0, 0), ==, now + GRACE);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    g_assert_cmpint(verdict_at(&h, now + GRACE, "nothing was heard"), ==,
                    now + GRACE);

    /* Something comes while it listens, or had come already. */
    for (int i = 0; i < 2; i++) {
        begin(&h);
        now = well(&h, START, 20) + 60000 * MS;
        if (i) {
            hear(&h, h.heard + 1, h.sent, now);
        }
        poll_at(&h, now, h.sent + 1, h.heard);
        now += GRACE - MS;
        poll_at(&h, now, h.sent + 1, h.heard);
        if (!i) {
            hear(&h, h.heard + 1, h.sent, now);
        }
        now = well(&h, now + INTERVAL, 100);
        g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    }

    /* A little late is not standing still. */
    begin(&h);
    now = well(&h, START, 20);
    while (now < START + 19 * INTERVAL + MS + TIMEOUT - INTERVAL) {
        poll_at(&h, now, h.sent + 1, h.heard);
        now += INTERVAL;
    }
    g_assert_cmpint(h.asked - now, <=, 0);
    now = h.asked + TIMEOUT / 4;
    g_assert_cmpint(now, >=, h.heard_at + TIMEOUT);
    poll_at(&h, now, 0, 0);
    g_assert_cmpint(h.verdict, ==, FT_HEART_SILENT);

    /* When the peer speaks seldom it is listened to for longer. */
    ft_heart_init(&h, &slow, START);
    poll_at(&h, START, 1, 0);
    hear(&h, 1, 1, START + MS);
    now = START + 5001 * MS;
    g_assert_cmpint(verdict_at(&h, now, "nothing"), ==, now + 2000 * MS);

    /* Who stands still all the time comes to a verdict, too. */
    begin(&h);
    now = well(&h, START, 20) + TIMEOUT;
    for (int i = 0; i < FT_HEART_GRACES; i++) {
        poll_at(&h, now, h.sent + 1, h.heard);
        g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
        now = h.asked + TIMEOUT / 4 + 1;
    }
    poll_at(&h, now, 0, 0);
    g_assert_cmpint(h.verdict, ==, FT_HEART_SILENT);
    /* That is: all the time in one silence. */
    begin(&h);
    now = well(&h, START, 20);
    for (int i = 0; i < 3 * FT_HEART_GRACES; i++) {
        now += 60000 * MS;
        poll_at(&h, now, h.sent + 1, h.heard);
        hear(&h, h.heard + 1, h.sent, now + MS);
    }
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    /* To be heard is not enough to be given time again and again ... */
    begin(&h);
    now = well(&h, START, 20);
    for (int i = 0; h.verdict == FT_HEART_BEATS; i++) {
        FtHeartbeat hb;
        bool send;

        g_assert_cmpint(i, <, 20);
        now = h.asked + TIMEOUT / 4 + 1;
        hear(&h, h.heard + 1, h.echoed, now);
        ft_heart_poll(&h, now, false, &send, &hb);
    }
    /* ... if there is something that it could have echoed. */
    begin(&h);
    now = well(&h, START, 20);
    for (int i = 0; i < 3 * FT_HEART_GRACES; i++) {
        hear(&h, h.heard + 1, h.sent, now);
        now += 60000 * MS;
        poll_mute(&h, now, true, 0, 0);
    }
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
}

/* We hear the peer, but it does not hear us. */
static void test_one_way(void)
{
    FtHeart h;
    int64_t now, cut, told;
    uint64_t last;

    for (int back = 0; back < 2; back++) {
        begin(&h);
        cut = now = well(&h, START, 20);
        last = h.sent;
        /* Sends on, as it may be a stall only; then it stops. */
        for (; now < cut + TIMEOUT; now += INTERVAL) {
            poll_at(&h, now, h.sent + 1, h.heard);
            hear(&h, h.heard + 1, last, now + MS);
        }
        told = now - 2 * INTERVAL + MS;
        g_assert_cmpint(poll_at(&h, now, 0, 0), ==, told + TIMEOUT);
        g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
        g_assert_cmpint(ft_heart_peer_lease(&h), ==, told + TIMEOUT);
        for (; now < told + TIMEOUT; now += INTERVAL) {
            poll_at(&h, now, 0, 0);
            g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
            hear(&h, h.heard + 1, last, now + MS);
            if (back && now >= told + TIMEOUT / 2) {
                break;
            }
        }
        g_assert_cmpint(ft_heart_peer_lease(&h), ==, told + TIMEOUT);
        if (back) {
            /* It was a stall.  What waits is still from that time. */
            hear(&h, h.heard + 1, h.sent, now + 2 * MS);
            poll_at(&h, now + 3 * MS, h.sent + 1, h.heard);
            well(&h, h.next_send, 100);
            g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
        } else {
            g_assert_cmpint(ft_heart_poll(&h, told + TIMEOUT - 1, false,
                                          &(bool) { 0 }, NULL), ==,
                            told + TIMEOUT);
            g_assert_cmpint(verdict_at(&h, told + TIMEOUT, "not heard this"),
                            ==, told + TIMEOUT);
        }
    }

    /* Some are echoed, but all too late. */
    begin(&h);
    now = well(&h, START, 20);
    for (int i = 0; h.verdict == FT_HEART_BEATS; i++) {
        FtHeartbeat hb;
        bool send;

        g_assert_cmpint(i, <, 60);
        ft_heart_poll(&h, now, false, &send, &hb);
        hear(&h, h.heard + 1, i < 11 ? h.echoed : h.echoed + (i & 1), now);
        now += INTERVAL;
    }
    g_assert_nonnull(strstr(h.why, "not heard this"));
}

/* After a stall of our own, what waits for an echo gets its time, too. */
static void test_one_way_stood_still(void)
{
    FtHeart h;
    int64_t now;

    begin(&h);
    now = well(&h, START, 20);
    poll_at(&h, now, h.sent + 1, h.heard);
    now += 60000 * MS;
    hear(&h, h.heard + 1, h.echoed, now);
    /* It does not hold its tongue, or the peer would never hear it. */
    poll_at(&h, now, h.sent + 1, h.heard);
    hear(&h, h.heard + 1, h.echoed, now + 60 * MS);
    poll_at(&h, now + GRACE - 1, h.sent + 1, h.heard);
    hear(&h, h.heard + 1, h.sent - 1, now + GRACE);
    poll_at(&h, now + GRACE, h.sent + 1, h.heard);
    well(&h, h.next_send, 50);
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
}

static void test_muted(void)
{
    FtHeart h;
    int64_t now;

    for (int waits = 0; waits < 2; waits++) {
        uint64_t sent;

        begin(&h);
        now = well(&h, START, 20);
        if (waits) {
            /* Its echo comes while we keep silent. */
            poll_at(&h, now, h.sent + 1, h.heard);
        }
        sent = h.sent;
        for (int i = 0; i < 1000; i++) {
            hear(&h, h.heard + 1, h.sent, now + MS);
            now += INTERVAL;
            g_assert_cmpint(poll_mute(&h, now, true, 0, 0), <=,
                            now + INTERVAL);
            g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
        }
        g_assert_cmpint(ft_heart_lease(&h), <, now);
        /* It goes on at once, with the next number. */
        now += 3 * MS;
        poll_at(&h, now, sent + 1, h.heard);
        hear(&h, h.heard + 1, sent + 1, now + MS);
        g_assert_cmpint(ft_heart_lease(&h), ==, now + LEASE);
        well(&h, now + INTERVAL, 50);
        g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    }

    /* Who keeps silent can still find the peer silent. */
    begin(&h);
    now = well(&h, START, 20);
    while (now < START + 19 * INTERVAL + MS + TIMEOUT) {
        now = poll_mute(&h, now, true, 0, 0);
    }
    g_assert_cmpint(now, ==, START + 19 * INTERVAL + MS + TIMEOUT);
    poll_mute(&h, now, true, 0, 0);
    g_assert_cmpint(h.verdict, ==, FT_HEART_SILENT);

    /* And that it did not hear the last one before that: in time. */
    begin(&h);
    now = well(&h, START, 20);
    poll_at(&h, now, 21, 20);
    for (int i = 0; h.verdict == FT_HEART_BEATS; i++) {
        g_assert_cmpint(i, <, 20);
        hear(&h, h.heard + 1, 20, now + 7 * MS);
        now = poll_mute(&h, now + 7 * MS, true, 0, 0);
        g_assert_cmpint(now, <=, START + 20 * INTERVAL + TIMEOUT);
        poll_mute(&h, now, true, 0, 0);
    }
    g_assert_cmpint(now, ==, START + 20 * INTERVAL + TIMEOUT);

    /* To keep silent from the start on is all right, too. */
    begin(&h);
    poll_mute(&h, START, true, 0, 0);
    for (int i = 1; i < 100; i++) {
        hear(&h, i, 0, START + i * INTERVAL);
        poll_mute(&h, START + i * INTERVAL, true, 0, 0);
    }
    g_assert_cmpint(h.verdict, ==, FT_HEART_BEATS);
    poll_at(&h, START + 5000 * MS, 1, 99);
}

static void test_numbers(void)
{
    static const struct {
        uint64_t number, echo;
        const char *words[3];
    } bad[] = {
        /* 20 were heard, 22 sent, of which 20 were echoed */
        { 0, 20, { "heartbeat 0 ", "21 was due" } },
        { 1, 20, { "heartbeat 1 ", "21 was due" } },
        { 19, 20, { "heartbeat 19 ", "21 was due" } },
        { 20, 20, { "heartbeat 20 ", "21 was due" } },
        { 22, 20, { "heartbeat 22 ", "21 was due" } },
        { 1ull << 40, 20, { "heartbeat 1099511627776 ", "21 was due" } },
        { UINT64_MAX, 20, { "heartbeat 18446744073709551615 " } },
        { 21, 23, { "echoes 23", "only 22 have been sent" } },
        { 21, UINT64_MAX, { "echoes 18446744073709551615", "only 22" } },
        { 21, 19, { "echoes 19 after 20" } },
        { 21, 0, { "echoes 0 after 20" } },
    };
    FtHeart h, before;
    int64_t now;

    begin(&h);
    now = well(&h, START, 20);
    poll_at(&h, now, 21, 20);
    poll_at(&h, now + INTERVAL, 22, 20);
    before = h;
    for (int i = 0; i < G_N_ELEMENTS(bad); i++) {
        FtHeartbeat hb = { .number = bad[i].number, .echo = bad[i].echo };
        g_autoptr(Error) err = NULL;

        g_assert_false(ft_heart_received(&h, &hb, now + INTERVAL, &err));
        for (int w = 0; w < 3 && bad[i].words[w]; w++) {
            if (!strstr(error_get_pretty(err), bad[i].words[w])) {
                g_error("no '%s' in: %s", bad[i].words[w],
                        error_get_pretty(err));
            }
        }
        g_assert_cmpmem(&h, sizeof(h), &before, sizeof(before));
    }
    hear(&h, 21, 20, now + INTERVAL);
    hear(&h, 22, 22, now + INTERVAL);
    /* The first one is number 1. */
    begin(&h);
    g_assert_false(ft_heart_received(&h, &(FtHeartbeat) { .number = 2 },
                                     START, NULL));
    g_assert_false(ft_heart_received(&h, &(FtHeartbeat) { .number = 1,
                                                          .echo = 1 },
                                     START, NULL));
    hear(&h, 1, 0, START);
}

/* More on the way than is remembered; the parameters are checked elsewhere. */
static void test_ring(void)
{
    const FtHeartParams many = {
        .interval_us = 10 * MS, .timeout_us = 60000 * MS,
    };
    const int64_t lease = 48000 * MS;
    FtHeart h;
    int64_t now = START;

    ft_heart_init(&h, &many, START);
    /* number n is sent at START + (n - 1) * 10 ms */
    for (int i = 1; i <= 1000; i++) {
        now = poll_at(&h, now, i, i - 1);
        hear(&h, i, i < 3 ? 0 : 1, now);
    }
    g_assert_cmpint(ft_heart_lease(&h), ==, START + lease);
    /* Forgotten: the lease must not be longer than it is. */
    hear(&h, 1001, 2, now);
    g_assert_cmpint(ft_heart_lease(&h), <=, START + 10 * MS + lease);
    g_assert_cmpint(h.waits_since, ==, START + 744 * 10 * MS);
    hear(&h, 1002, 744, now);
    g_assert_cmpint(ft_heart_lease(&h), <=, START + 743 * 10 * MS + lease);
    /* The oldest that is known. */
    hear(&h, 1003, 745, now);
    g_assert_cmpint(ft_heart_lease(&h), ==, START + 744 * 10 * MS + lease);
    hear(&h, 1004, 1000, now);
    g_assert_cmpint(ft_heart_lease(&h), ==, START + 999 * 10 * MS + lease);

    /* And who is never echoed is noticed all the same. */
    for (int i = 0; h.verdict == FT_HEART_BEATS; i++) {
        FtHeartbeat hb;
        bool send;

        g_assert_cmpint(i, <, 20000);
        now = MIN(now + 10 * MS,
                  ft_heart_poll(&h, now, false, &send, &hb));
        hear(&h, h.heard + 1, i == 3000 ? 1001 : h.echoed, now);
    }
    g_assert_nonnull(strstr(h.why, "not heard this"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/heart/first", test_first);
    g_test_add_func("/ft/heart/pace", test_pace);
    g_test_add_func("/ft/heart/lease", test_lease);
    g_test_add_func("/ft/heart/silent", test_silent);
    g_test_add_func("/ft/heart/stall", test_stall);
    g_test_add_func("/ft/heart/stood-still", test_stood_still);
    g_test_add_func("/ft/heart/one-way", test_one_way);
    g_test_add_func("/ft/heart/one-way/stood-still", test_one_way_stood_still);
    g_test_add_func("/ft/heart/muted", test_muted);
    g_test_add_func("/ft/heart/numbers", test_numbers);
    g_test_add_func("/ft/heart/ring", test_ring);

    return g_test_run();
}
