/*
 * Fuzz target: heartbeats from a peer that sends any numbers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a run of events: time passes and what is due is done; a heartbeat
 * comes, next to what it should be.  A refused one changes nothing; there is
 * no lease beyond what was sent and echoed in truth; silence is for good, and
 * comes when nothing does.
 */

#include "qemu/osdep.h"
#include "migration/ft/heart.h"
#include "fuzz.h"

#define EVENTS_MAX  1000
#define START       1000000

typedef struct World {
    FtHeart h;
    int64_t now;
    int64_t sent_at[EVENTS_MAX + 2];    /* [number] */
    uint64_t heard;
    uint64_t echoed;
    bool silent;
} World;

static void event_poll(World *w, bool mute)
{
    uint64_t before = w->h.sent;
    FtHeartbeat hb = { };
    bool send = true;
    int64_t next = ft_heart_poll(&w->h, w->now, mute, &send, &hb);

    g_assert_cmpint(next, >, w->now);
    g_assert_false(send && (mute || w->silent));
    g_assert_cmpuint(w->h.sent, ==, before + send);
    if (send) {
        g_assert_cmpuint(hb.number, ==, w->h.sent);
        g_assert_cmpuint(hb.echo, ==, w->heard);
        w->sent_at[hb.number] = w->now;
    }
    if (w->h.verdict == FT_HEART_SILENT) {
        g_assert_true(*w->h.why);
        /* not while the other side could still have a lease of ours */
        g_assert_cmpint(w->now, >=, ft_heart_peer_lease(&w->h));
        w->silent = true;
    } else {
        g_assert_false(w->silent);
    }
}

static void event_heard(World *w, FuzzInput *in)
{
    FtHeartbeat hb = {
        .number = w->heard + 1 + (int8_t)fuzz_u8(in),
        .echo = w->h.sent - fuzz_u8(in),
    };
    FtHeart old = w->h;
    Error *err = NULL;

    bool good = hb.number == w->heard + 1 && hb.echo >= w->echoed &&
                hb.echo <= w->h.sent;

    g_assert_true(good == fuzz_result(ft_heart_received(&w->h, &hb, w->now,
                                                        &err), err));
    if (!good) {
        g_assert_cmpmem(&w->h, sizeof(w->h), &old, sizeof(old));
        return;
    }
    w->heard = hb.number;
    w->echoed = hb.echo;
}

static void check_lease(const World *w)
{
    int64_t lease = ft_heart_lease(&w->h);

    if (w->echoed) {
        g_assert_cmpint(lease, <, w->sent_at[w->echoed] +
                                  w->h.params.timeout_us);
    } else {
        g_assert_cmpint(lease, <=, START);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    static World w;
    FtHeartParams params;
    unsigned i;

    /* as ft_offer_check_heart() lets them be */
    params.interval_us = (10 + fuzz_u8(&in)) * 1000;
    params.timeout_us = MAX(params.interval_us * (4 + fuzz_u8(&in) % 197),
                            100000);
    params.first_us = fuzz_u8(&in) % 4 * params.timeout_us;
    w = (World) { .now = START };
    ft_heart_init(&w.h, &params, w.now);
    for (i = 0; i < EVENTS_MAX && in.left; i++) {
        uint8_t what = fuzz_u8(&in);

        switch (what % 4) {
        case 0:
            event_heard(&w, &in);
            break;
        case 1:
            w.now += (what >> 2) * params.interval_us / 8;
            event_poll(&w, false);
            break;
        case 2:
            w.now += fuzz_u8(&in) * params.timeout_us / 64;
            event_poll(&w, what & 0x80);
            break;
        case 3:
            event_poll(&w, what & 0x80);
            break;
        }
        check_lease(&w);
    }
    /* Nothing more comes. */
    for (i = 0; i < 40; i++) {
        w.now += params.timeout_us / 5;
        event_poll(&w, true);
    }
    g_assert_true(w.silent);
    return 0;
}
