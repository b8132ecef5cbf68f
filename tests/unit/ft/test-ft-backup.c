/*
 * Unit tests of migration/ft/backup-fsm.c: the backup's state machine
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
#define ASK     "x >claiming F C"       /* and the primary, too */

/* Wherever frames still count. */
#define LIVE    SYNC ... CONTROL_LOST
/* Wherever the arbiter has not answered. */
#define WAITS   ASKED ... CLAIM_UNKNOWN

/* The table of the header, by event; what is not here asks for nothing. */
static const struct {
    const char *event;
    const char *want[FROM__MAX];
} table[] = {
    { "connected",    { [WAITING] = ">sync" } },
    /* frames of the epoch that is open */
    { "sync pages",   { [SYNC ... SYNC_HEART] = "P",
                        [STANDBY ... CONTROL_LOST] = BAD } },
    { "pages",        { [LIVE] = "p" } },
    { "devices",      { [LIVE] = "v" } },
    { "journal",      { [LIVE] = "j" } },
    { "samples",      { [SYNC ... SYNC_HEART] = "s",
                        [STANDBY ... CONTROL_LOST] = BAD } },
    /* nothing has come in those that are not open: no device state */
    { "end",          { [SYNC] = BAD, [SYNC_OPEN] = "a1 A1 >standby",
                        [SYNC_ENDED] = BAD, [SYNC_HEART] = "a1 A1 >standby",
                        [STANDBY] = BAD,
                        [STANDBY_OPEN ... CONTROL_LOST] = "a2 A2" } },
    { "torn end",     { [LIVE] = BAD } },
    { "torn journal", { [LIVE] = BAD } },
    { "ahead of disk", { [LIVE] = BAD } },
    { "past end",     { [LIVE] = BAD } },
    { "future pages", { [LIVE] = BAD } },
    { "sync pages 1", { [LIVE] = BAD } },
    { "journal 0",    { [LIVE] = BAD } },
    { "past journal", { [LIVE] = BAD } },
    { "samples 0",    { [LIVE] = BAD } },
    { "future journal", { [LIVE] = BAD } },
    { "wrong type",   { [LIVE] = BAD } },
    { "bad frame",    { [LIVE] = BAD } },
    { "apply fails",  { [SYNC] = BAD, [SYNC_OPEN] = "a1 A1! " BAD,
                        [SYNC_ENDED] = BAD, [SYNC_HEART] = "a1 A1! " BAD,
                        [STANDBY] = BAD,
                        [STANDBY_OPEN ... CONTROL_LOST] = "a2 A2! " BAD } },
    { "data lost",    { [SYNC ... SYNC_OPEN] = "x", [SYNC_HEART] = "x",
                        [STANDBY ... HEART_LOST] = "x " ASK,
                        [CONTROL_LOST] = "x " CLAIM } },
    { "control lost", { [SYNC ... SYNC_HEART] = BAD,
                        [WON ... FORCED] = "" } },
    { "heart lost",   { } },
    { "silent",       { [SYNC ... SYNC_HEART] = BAD,
                        [STANDBY ... CONTROL_LOST] = CLAIM,
                        [WON ... FORCED] = TAKE } },
    { "disarm",       { [LIVE] = ORDERLY } },
    { "fenced",       { [ASKED ... FORCED] = TAKE } },
    { "claim won",    { [ASKED ... CLAIM_DATA] = "F!",
                        [CLAIM_SILENT] = "F! " TAKE,
                        [CLAIM_UNKNOWN] = "F!" } },
    { "claim lost",   { [WAITS] = "x >discarded L" } },
    { "claim unknown", { [WAITS] = ">claiming" } },
    { "failover",     { [WAITING ... SYNC_HEART] = "!",
                        [STANDBY ... HEART_LOST] = ASK,
                        [CONTROL_LOST] = CLAIM,
                        [ASKED ... DISCARDED] = "!" } },
    { "failover force", { [WAITING ... SYNC_HEART] = "!",
                          [STANDBY ... HEART_LOST] = "x >claiming F!",
                          [CONTROL_LOST] = "x >claiming",
                          [ASKED ... CLAIM_DATA] = "F!",
                          [CLAIM_SILENT] = "F! " TAKE,
                          [CLAIM_UNKNOWN] = "F!",
                          [TAKEOVER ... DISCARDED] = "!" } },
    { "running",      { [TAKEOVER] = ">unprotected" } },
    { "failed",       { [TAKEOVER] = BAD } },
    { "poll",         { } },
    { "poll late",    { [SYNC_ENDED ... SYNC_HEART] = BAD, [HEART_LOST] = ASK,
                        [CONTROL_LOST] = CLAIM, [WON ... FORCED] = "H" } },
};

static void fire(World *w, const char *event)
{
    FtBak *b = &w->b;
    uint64_t open = b->committed + 1;
    FtEpochEnd end = fitting(w);
    bool live = b->state == FT_BAK_SYNC || b->state == FT_BAK_STANDBY;
    bool claiming = b->state == FT_BAK_CLAIMING;
    g_autofree char *err = NULL;

    if (g_str_equal(event, "connected")) {
        ft_bak_connected(b);
    } else if (g_str_equal(event, "sync pages")) {
        err = frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, 0, 10, NULL);
    } else if (g_str_equal(event, "pages")) {
        err = frame(w, FT_FRAME_PAGES, 0, open, 10, NULL);
    } else if (g_str_equal(event, "devices")) {
        err = frame(w, FT_FRAME_DEVICES, 0, open, 10, NULL);
    } else if (g_str_equal(event, "journal")) {
        err = frame(w, FT_FRAME_JOURNAL, 0, open, 10, NULL);
    } else if (g_str_equal(event, "samples")) {
        err = frame(w, FT_FRAME_SAMPLES, 0, open, 10, NULL);
    } else if (g_str_equal(event, "end")) {
        err = good_end(w);
    } else if (g_str_equal(event, "torn end")) {
        end.pages++;
        err = epoch_end(w, open, &end);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "torn journal")) {
        end.journal_records++;
        err = epoch_end(w, open, &end);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "ahead of disk")) {
        end.on_disk = open;
        err = epoch_end(w, open, &end);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "past end")) {
        err = epoch_end(w, b->committed, &end);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "future pages")) {
        err = frame(w, FT_FRAME_PAGES, 0, open + 1, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "sync pages 1")) {
        err = frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, open, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "journal 0")) {
        /* The first copy has no journal: its epoch is not open. */
        err = frame(w, FT_FRAME_JOURNAL, 0, 0, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "samples 0")) {
        err = frame(w, FT_FRAME_SAMPLES, 0, 0, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "past journal")) {
        err = frame(w, FT_FRAME_JOURNAL, 0, b->committed, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "future journal")) {
        err = frame(w, FT_FRAME_JOURNAL, 0, open + 1, 10, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "wrong type")) {
        err = frame(w, FT_FRAME_ACK, 0, open, 0, NULL);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "bad frame")) {
        ft_bak_frame_bad(b, "the header's CRC is wrong");
    } else if (g_str_equal(event, "apply fails")) {
        w->fail_apply = true;
        err = good_end(w);
        g_assert_true(err || claiming);
    } else if (g_str_equal(event, "data lost")) {
        ft_bak_data_lost(b, w->now);
    } else if (g_str_equal(event, "control lost")) {
        ft_bak_control_lost(b, w->now);
    } else if (g_str_equal(event, "heart lost")) {
        ft_bak_heart_lost(b, w->now);
    } else if (g_str_equal(event, "silent")) {
        ft_bak_silent(b, "the primary is silent", w->now);
    } else if (g_str_equal(event, "disarm")) {
        ft_bak_peer_disarm(b, "the operator cancelled");
    } else if (g_str_equal(event, "fenced")) {
        ft_bak_peer_fenced(b);
    } else if (g_str_equal(event, "claim won")) {
        ft_bak_claimed(b, FT_CLAIM_WON, "", w->now);
    } else if (g_str_equal(event, "claim lost")) {
        ft_bak_claimed(b, FT_CLAIM_LOST, "host a pid 7", w->now);
    } else if (g_str_equal(event, "claim unknown")) {
        ft_bak_claimed(b, FT_CLAIM_UNKNOWN, "no route to it", w->now);
    } else if (g_str_equal(event, "failover") ||
               g_str_equal(event, "failover force")) {
        bool force = !g_str_equal(event, "failover");
        Error *e = NULL;

        if (!ft_bak_failover(b, force, w->now, &e)) {
            const char *text = error_get_pretty(e);

            g_assert_nonnull(strstr(text, ft_bak_state_name(b->state)));
            /* What may help is named where it does. */
            g_assert_true(!strstr(text, "force") ==
                          (b->state != FT_BAK_CLAIMING));
            error_free(e);
            say(w, "!");
        }
    } else if (g_str_equal(event, "running")) {
        ft_bak_running(b);
    } else if (g_str_equal(event, "failed")) {
        ft_bak_takeover_failed(b, "the device state does not load");
    } else if (g_str_equal(event, "poll")) {
        ft_bak_poll(b, w->now);
    } else if (g_str_equal(event, "poll late")) {
        while (ft_bak_poll(b, w->now) < INT64_MAX) {
            w->now = ft_bak_poll(b, w->now);
        }
    } else {
        g_assert_not_reached();
    }
    /* Too late, but no error that the primary would have to hear of. */
    g_assert_true(!err || !claiming);
    if (err && live) {
        /* Whatever is wrong with a frame, it does not end in a takeover. */
        g_assert_cmpint(b->state, ==, FT_BAK_DISCARDED);
    }
}

static void test_table(void)
{
    for (int i = 0; i < ARRAY_SIZE(table); i++) {
        for (From from = 0; from < FROM__MAX; from++) {
            g_autoptr(World) w = world_at(from);
            const char *want = table[i].want[from] ?: "";

            fire(w, table[i].event);
            if (!g_str_equal(w->log->str, want)) {
                g_test_message("%s in %s: '%s', not '%s'", table[i].event,
                               from_name[from], w->log->str, want);
                g_test_fail();
            }
            if (w->b.state == FT_BAK_DISCARDED) {
                /* Nothing brings it back, and nothing makes it run. */
                g_string_truncate(w->log, 0);
                for (int j = 0; j < ARRAY_SIZE(table); j++) {
                    if (!g_str_has_prefix(table[j].event, "failover")) {
                        fire(w, table[j].event);
                    }
                }
                expect(w, "");
                g_assert_cmpint(ft_bak_poll(&w->b, w->now), ==, INT64_MAX);
            }
        }
    }
}

/* Every number in EPOCH_END counts. */
static void test_torn(void)
{
    for (int i = 0; i <= 10; i++) {
        g_autoptr(World) w = world_at(STANDBY_OPEN);
        FtEpochEnd end = {
            .pages = 3, .page_bytes = 100, .device_bytes = 50,
            .journal_bytes = 60, .journal_records = 2,
        };
        uint64_t *number[] = {
            &end.pages, &end.page_bytes, &end.device_bytes,
            &end.journal_bytes, &end.journal_records,
        };
        g_autofree char *err = NULL;

        if (i < 10) {
            *number[i / 2] += i & 1 ? 1 : -1;
        }
        err = epoch_end(w, 2, &end);
        if (i == 10) {
            g_assert_null(err);
            expect(w, "a2 A2");
        } else {
            expect_error(err, "torn");
            expect(w, BAD);
        }
    }
    /* Each frame counts, and nothing of the epoch before in the next one. */
    {
        g_autoptr(World) w = world_at(STANDBY);
        FtEpochEnd end = { .device_bytes = 7, .journal_bytes = 30,
                           .journal_records = 5 };

        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 7, NULL));
        g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 2, 10, NULL));
        w->journal_records = 3;
        g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 2, 20, NULL));
        g_assert_null(epoch_end(w, 2, &end));
        end = (FtEpochEnd) { .device_bytes = 8 };
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 3, 8, NULL));
        g_assert_null(epoch_end(w, 3, &end));
        expect(w, "v j j a2 A2 v a3 A3");
    }
}

/* The guest's clocks are put forward by it, in nanoseconds. */
static void test_age(void)
{
    const struct {
        uint64_t us;
        bool ok;
    } ages[] = {
        { 0, true }, { FT_BAK_AGE_MAX_US, true },
        { FT_BAK_AGE_MAX_US + 1, false }, { INT64_MAX, false },
        { UINT64_MAX, false },
    };

    for (int i = 0; i < ARRAY_SIZE(ages); i++) {
        g_autoptr(World) w = world_at(STANDBY);
        FtEpochEnd end = { .device_bytes = 7, .age_us = ages[i].us };
        g_autofree char *err = NULL;

        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 7, NULL));
        err = epoch_end(w, 2, &end);
        if (ages[i].ok) {
            g_assert_null(err);
        } else {
            expect_error(err, "more than a month");
        }
    }
}

/*
 * What is on the primary's disks need not be replayed: it is lower than the
 * epoch that says so, and does not go back.
 */
static void test_on_disk(void)
{
    static const uint64_t going[] = { 0, 0, 2, 2, 3, 6 };
    static const struct {
        uint64_t says;
        bool ok;
    } eighth[] = {      /* after the epochs above, the first of which is 2 */
        { 0, false }, { 5, false }, { 6, true }, { 7, true }, { 8, false },
        { 9, false }, { UINT64_MAX, false },
    };

    for (int i = 0; i < ARRAY_SIZE(eighth); i++) {
        g_autoptr(World) w = world_at(STANDBY);
        g_autofree char *err = NULL;

        for (int j = 0; j < ARRAY_SIZE(going); j++) {
            w->on_disk = going[j];
            whole_epoch(w);
            g_assert_cmpuint(w->b.on_disk, ==, going[j]);
        }
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 8, 50, NULL));
        w->on_disk = eighth[i].says;
        g_string_truncate(w->log, 0);
        err = good_end(w);
        if (eighth[i].ok) {
            g_assert_null(err);
            expect(w, "a8 A8");
            g_assert_cmpuint(w->b.on_disk, ==, eighth[i].says);
        } else {
            g_autofree char *num = g_strdup_printf("%" PRIu64 " is on",
                                                   eighth[i].says);

            expect_error(err, num);
            expect_error(err, "disks");
            expect(w, BAD);
            g_assert_cmpuint(w->b.committed, ==, 7);
            g_assert_cmpuint(w->b.on_disk, ==, 6);
        }
    }
    /* The first epoch: nothing can be there yet. */
    for (uint64_t says = 0; says < 2; says++) {
        g_autoptr(World) w = world_at(SYNC_OPEN);
        g_autofree char *err = NULL;

        w->on_disk = says;
        err = good_end(w);
        expect(w, says ? BAD : "a1 A1 >standby");
    }
    /* An epoch that is not taken says nothing, and a takeover forgets
     * nothing. */
    for (int i = 0; i < 2; i++) {
        g_autoptr(World) w = world_at(STANDBY);
        g_autofree char *err = NULL;

        w->on_disk = 1;
        whole_epoch(w);
        if (i) {
            w->on_disk = 2;
            err = good_end(w);
            expect_error(err, "device");
        } else {
            g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 3, 60, NULL));
            ft_bak_silent(&w->b, "silent", w->now);
            ft_bak_claimed(&w->b, FT_CLAIM_WON, "", w->now);
            g_assert_cmpint(w->b.state, ==, FT_BAK_TAKEOVER);
        }
        g_assert_cmpuint(w->b.on_disk, ==, 1);
    }
}

/* A peer can never make this side hold more than the limits. */
static void test_limits(void)
{
    g_autoptr(World) pages = world_at(STANDBY);
    g_autoptr(World) devices = world_at(STANDBY);
    g_autoptr(World) journal = world_at(STANDBY);
    g_autoptr(World) diskless = world_at(STANDBY);
    g_autoptr(World) again = world_at(STANDBY);
    g_autofree char *err = NULL, *err2 = NULL, *err3 = NULL, *err4 = NULL;

    g_assert_null(frame(pages, FT_FRAME_PAGES, 0, 2, STAGE - 1, NULL));
    g_assert_null(frame(pages, FT_FRAME_PAGES, 0, 2, 1, NULL));
    err = frame(pages, FT_FRAME_PAGES, 0, 2, 1, NULL);
    expect_error(err, "1000");
    expect(pages, "p p " BAD);

    g_assert_null(frame(devices, FT_FRAME_DEVICES, 0, 2, DEVICE, NULL));
    err2 = frame(devices, FT_FRAME_DEVICES, 0, 2, 1, NULL);
    expect_error(err2, "500");
    expect(devices, "v " BAD);

    g_assert_null(frame(journal, FT_FRAME_JOURNAL, 0, 2, JOURNAL - 1, NULL));
    g_assert_null(frame(journal, FT_FRAME_JOURNAL, 0, 2, 1, NULL));
    err3 = frame(journal, FT_FRAME_JOURNAL, 0, 2, 1, NULL);
    expect_error(err3, "700");
    expect(journal, "j j " BAD);

    diskless->b.params.max_journal_bytes = 0;
    err4 = frame(diskless, FT_FRAME_JOURNAL, 0, 2, 1, NULL);
    expect_error(err4, "disk writes");
    expect(diskless, BAD);

    for (int i = 0; i < 5; i++) {
        g_assert_null(frame(again, FT_FRAME_PAGES, 0, i + 2, STAGE, NULL));
        g_assert_null(frame(again, FT_FRAME_DEVICES, 0, i + 2, DEVICE, NULL));
        g_assert_null(frame(again, FT_FRAME_JOURNAL, 0, i + 2, JOURNAL,
                            NULL));
        g_assert_null(good_end(again));
    }
    g_assert_cmpuint(again->b.committed, ==, 6);
}

static void test_op_errors(void)
{
    static const struct {
        FtFrameType type;
        uint16_t flags;
        uint64_t epoch;
        const char *want;
    } op[] = {
        { FT_FRAME_PAGES, 0, 1, "bad record" },
        { FT_FRAME_PAGES, FT_FLAG_SYNC, 0, "bad record" },
        { FT_FRAME_DEVICES, 0, 1, "no memory" },
        { FT_FRAME_JOURNAL, 0, 1, "record beyond the end" },
        { FT_FRAME_SAMPLES, 0, 1, "no such samples" },
    };

    for (int i = 0; i < ARRAY_SIZE(op); i++) {
        g_autoptr(World) w = world_at(SYNC_OPEN);
        g_autofree char *err = NULL;

        w->fail_stage = w->fail_now = w->fail_devices = true;
        w->fail_journal = w->fail_samples = true;
        err = frame(w, op[i].type, op[i].flags, op[i].epoch, 10, NULL);
        g_assert_cmpstr(err, ==, op[i].want);
        g_assert_cmpstr(w->reason, ==, err);
        g_assert_nonnull(strstr(w->log->str, BAD));
        /* half of the frame was kept before it failed */
        g_assert_cmpuint(w->kept, ==, 0);
    }
}

/* Which epoch it goes on from: the last whole one, whatever came after. */
static void test_takeover_epoch(void)
{
    for (int i = 0; i < 8; i++) {
        g_autoptr(World) w = world_at(STANDBY);
        uint64_t last = 5;
        g_autofree char *want = NULL;

        while (w->b.committed < last) {
            whole_epoch(w);
        }
        if (i & 1) {
            g_assert_null(frame(w, FT_FRAME_PAGES, 0, 6, 100, NULL));
        }
        if (i & 2) {
            g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 6, 50, NULL));
        }
        if (i & 4) {
            g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 6, 60, NULL));
        }
        g_string_truncate(w->log, 0);
        ft_bak_data_lost(&w->b, w->now);
        expect(w, "x " ASK);
        ft_bak_control_lost(&w->b, w->now);
        ft_bak_claimed(&w->b, FT_CLAIM_WON, "", w->now);
        want = g_strdup_printf(">takeover T%" PRIu64, last);
        lease_ends(w, want);
        g_assert_cmpuint(w->b.open_page_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_device_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_journal_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_records, ==, 0);
        g_assert_true(w->b.guest_running);
        ft_bak_running(&w->b);
        expect(w, ">unprotected");
    }
}

/* Whole epochs that are still in the data connection when the control
 * connection ends are not lost: the world may have seen their output. */
static void test_control_first(void)
{
    g_autoptr(World) w = world_at(STANDBY);

    ft_bak_control_lost(&w->b, w->now);
    expect(w, "");
    whole_epoch(w);
    whole_epoch(w);
    expect(w, "p v j a2 A2 p v j a3 A3");
    ft_bak_data_lost(&w->b, w->now + 10);
    expect(w, "x " CLAIM);
    ft_bak_claimed(&w->b, FT_CLAIM_WON, "", w->now + 20);
    lease_ends(w, ">takeover T3");
}

/* The primary ends the first copy in order: data ends first, and then comes
 * the word that explains it; or it does not. */
static void test_sync_end(void)
{
    for (int i = 0; i < 6; i++) {
        g_autoptr(World) w = world_at(SYNC_OPEN);

        ft_bak_data_lost(&w->b, w->now);
        expect(w, "x");
        ft_bak_poll(&w->b, w->now);
        if (i == 0) {
            ft_bak_peer_disarm(&w->b, "cancelled");
        } else if (i == 1) {
            ft_bak_control_lost(&w->b, w->now);
        } else if (i == 2) {
            /* It has nothing to take over, whatever the primary says. */
            ft_bak_peer_fenced(&w->b);
            expect(w, "");
            fire(w, "poll late");
        } else if (i == 3) {
            fire(w, "poll late");
        } else if (i == 4) {
            ft_bak_silent(&w->b, "silent", w->now);
        } else {
            fire(w, "failover");
            expect(w, "!");
            fire(w, "poll late");
        }
        expect(w, i ? BAD : ORDERLY);
    }
}

/* Half an epoch was written to RAM: there is nothing to go on from. */
static void test_bad_image(void)
{
    g_autoptr(World) w = world_at(STANDBY_OPEN);
    g_autofree char *err = NULL;

    w->fail_apply = true;
    err = good_end(w);
    g_assert_cmpstr(err, ==, "RAM differs");
    expect(w, "a2 A2! " BAD);
    ft_bak_data_lost(&w->b, w->now);
    ft_bak_control_lost(&w->b, w->now);
    ft_bak_silent(&w->b, "silent", w->now);
    ft_bak_claimed(&w->b, FT_CLAIM_WON, "", w->now);
    ft_bak_poll(&w->b, w->now + FENCE);
    expect(w, "");
}

static void test_stopped_guest(void)
{
    g_autoptr(World) w = world_at(STANDBY);
    uint8_t buf[FT_EPOCH_END_SIZE];
    FtEpochEnd end = { .device_bytes = 50 };

    g_assert_true(w->b.guest_running);
    g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 50, NULL));
    ft_wire_put_epoch_end(buf, &end);
    g_assert_null(frame(w, FT_FRAME_EPOCH_END, 0, 2, sizeof(buf), buf));
    g_assert_false(w->b.guest_running);
    whole_epoch(w);
    g_assert_true(w->b.guest_running);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/backup/table", test_table);
    g_test_add_func("/ft/backup/torn", test_torn);
    g_test_add_func("/ft/backup/age", test_age);
    g_test_add_func("/ft/backup/on-disk", test_on_disk);
    g_test_add_func("/ft/backup/limits", test_limits);
    g_test_add_func("/ft/backup/op-errors", test_op_errors);
    g_test_add_func("/ft/backup/takeover-epoch", test_takeover_epoch);
    g_test_add_func("/ft/backup/control-first", test_control_first);
    g_test_add_func("/ft/backup/sync-end", test_sync_end);
    g_test_add_func("/ft/backup/bad-image", test_bad_image);
    g_test_add_func("/ft/backup/stopped-guest", test_stopped_guest);
    return g_test_run();
}
