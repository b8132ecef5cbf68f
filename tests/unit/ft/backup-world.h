/*
 * For test-ft-backup*.c: a backup's state machine and what it asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_BACKUP_WORLD_H
#define TEST_FT_BACKUP_WORLD_H

#include "qapi/error.h"
#include "migration/ft/backup-fsm.h"

#define FENCE   300000
#define STAGE   1000
#define DEVICE  500
#define JOURNAL 700
#define T0      1000000

/* What the machine asked for, in order, as text:
 * p stage pages, P apply now, v stage devices, j stage disk records, s keep
 * samples, a1 ack, A1 apply (A1! failed), x drop the open epoch, d disarm,
 * F failover, F! and it is claimed, C ask the arbiter, T1 take over from 1,
 * O / E / L discard in order / by an error / as the claim is lost, >name new
 * state */
typedef struct World {
    FtBak b;
    GString *log;
    char *reason;
    int64_t now;
    bool fail_stage, fail_now, fail_devices, fail_journal, fail_samples;
    bool fail_apply;
    uint64_t records;           /* that stage_pages finds */
    uint64_t journal_records;   /* that stage_journal finds */
    uint64_t kept;              /* of these, for the open epoch */
    uint64_t on_disk;           /* what the next EPOCH_END says */
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

static void on_state(void *opaque, FtBakState state, const char *reason)
{
    World *w = opaque;

    g_assert_nonnull(reason);
    g_assert_cmpint(w->b.state, ==, state);
    g_free(w->reason);
    w->reason = g_strdup(reason);
    say(w, ">%s", ft_bak_state_name(state));
}

static bool on_pages(void *opaque, const void *payload, uint32_t len,
                     uint64_t *records, Error **errp)
{
    World *w = opaque;

    say(w, "p");
    if (w->fail_stage) {
        error_setg(errp, "bad record");
        return false;
    }
    *records = w->records;
    return true;
}

static bool on_now(void *opaque, const void *payload, uint32_t len,
                   Error **errp)
{
    World *w = opaque;

    say(w, "P");
    if (w->fail_now) {
        error_setg(errp, "bad record");
        return false;
    }
    return true;
}

static bool on_devices(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    World *w = opaque;

    say(w, "v");
    if (w->fail_devices) {
        error_setg(errp, "no memory");
        return false;
    }
    return true;
}

static bool on_journal(void *opaque, const void *payload, uint32_t len,
                       uint64_t *records, Error **errp)
{
    World *w = opaque;

    say(w, "j");
    g_assert_cmpuint(*records, ==, 0);
    *records = w->journal_records;
    w->kept += w->journal_records;
    if (w->fail_journal) {
        error_setg(errp, "record beyond the end");
        return false;
    }
    return true;
}

static bool on_samples(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    World *w = opaque;

    say(w, "s");
    if (w->fail_samples) {
        error_setg(errp, "no such samples");
        return false;
    }
    return true;
}

static void on_ack(void *opaque, uint64_t epoch)
{
    World *w = opaque;

    g_assert_cmpuint(w->b.committed, ==, epoch);
    say(w, "a%" PRIu64, epoch);
}

static bool on_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                     uint16_t flags, Error **errp)
{
    World *w = opaque;

    say(w, "A%" PRIu64 "%s", epoch, w->fail_apply ? "!" : "");
    g_assert_cmpuint(end->journal_records, ==, w->kept);
    g_assert_cmpuint(end->on_disk, ==, w->on_disk);
    g_assert_cmpuint(w->b.on_disk, ==, w->on_disk);
    if (w->fail_apply) {
        error_setg(errp, "RAM differs");
        return false;
    }
    w->kept = 0;
    return true;
}

static void on_drop(void *opaque)
{
    World *w = opaque;

    say(w, "x");
    w->kept = 0;
}

static void on_disarm(void *opaque)
{
    World *w = opaque;

    /* The primary goes on when it hears this. */
    g_assert_true(ft_bak_may_disarm(&w->b));
    say(w, "d");
}

static void on_failover(void *opaque, bool claimed)
{
    World *w = opaque;

    g_assert_false(ft_bak_may_disarm(&w->b));
    g_assert_false(w->b.control_lost);
    say(w, claimed ? "F!" : "F");
}

static void on_claim(void *opaque)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_CLAIMING);
    g_assert_cmpuint(w->kept, ==, 0);
    say(w, "C");
    if (w->at_once) {
        ft_bak_claimed(&w->b, *w->at_once, "at once", w->now);
    }
}

static void on_end_heart(void *opaque)
{
    say(opaque, "H");
}

static void on_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    World *w = opaque;

    g_assert_cmpuint(epoch, >, 0);
    g_assert_cmpuint(epoch, ==, w->b.committed);
    g_assert_nonnull(reason);
    g_assert_cmpuint(w->kept, ==, 0);
    say(w, "T%" PRIu64, epoch);
}

static void on_discard(void *opaque, FtBakEnd end, const char *reason)
{
    g_assert_nonnull(reason);
    say(opaque, end == FT_BAK_END_ORDERLY ? "O" :
        end == FT_BAK_END_LOST ? "L" : "E");
}

static const FtBakOps ops = {
    .state = on_state,
    .stage_pages = on_pages,
    .apply_now = on_now,
    .stage_devices = on_devices,
    .stage_journal = on_journal,
    .samples = on_samples,
    .ack = on_ack,
    .apply = on_apply,
    .drop_open = on_drop,
    .send_disarm = on_disarm,
    .send_failover = on_failover,
    .claim = on_claim,
    .end_heart = on_end_heart,
    .takeover = on_takeover,
    .discard = on_discard,
};

/* The connection for heartbeats is shut down, and so the primary's lease is
 * over after a while: that is what the takeover has waited for. */
static void lease_ends(World *w, const char *want)
{
    for (int i = 0; i < 20 && !w->log->len; i++) {
        w->now = MIN(ft_bak_poll(&w->b, w->now), w->now + FENCE);
    }
    g_assert_cmpstr(w->log->str, ==, "H");
    g_string_truncate(w->log, 0);
    g_assert_cmpint(w->b.state, ==, FT_BAK_CLAIMING);
    g_assert_cmpint(ft_bak_poll(&w->b, w->now + 100 * FENCE), ==, INT64_MAX);
    ft_bak_heart_lost(&w->b, w->now);
    g_assert_cmpstr(w->log->str, ==, want);
    g_string_truncate(w->log, 0);
}

static World *world_new(void)
{
    World *w = g_new0(World, 1);
    FtBakParams params = {
        .fence_timeout_us = FENCE, .max_stage_bytes = STAGE,
        .max_device_bytes = DEVICE, .max_journal_bytes = JOURNAL,
    };

    w->log = g_string_new(NULL);
    w->now = T0;
    w->records = 3;
    w->journal_records = 2;
    ft_bak_init(&w->b, &ops, w, &params);
    return w;
}

static void world_free(World *w)
{
    g_string_free(w->log, true);
    g_free(w->reason);
    g_free(w);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

static void expect(World *w, const char *want)
{
    g_assert_cmpstr(w->log->str, ==, want);
    g_string_truncate(w->log, 0);
}

static void expect_error(const char *err, const char *word)
{
    g_assert_nonnull(err);
    if (!strstr(err, word)) {
        g_error("no '%s' in: %s", word, err);
    }
}

/* A frame; NULL if it was taken, or what was wrong with it. */
static char *frame(World *w, FtFrameType type, uint16_t flags,
                   uint64_t epoch, uint32_t len, const void *payload)
{
    g_autofree uint8_t *zero = g_malloc0(MAX(len, 1));
    FtFrame f = { .type = type, .flags = flags, .epoch = epoch,
                  .length = len };
    Error *err = NULL;
    bool ok = ft_bak_frame(&w->b, &f, payload ? payload : zero, &err);
    char *text = NULL;

    g_assert_true(ok == !err);
    if (err) {
        text = g_strdup(error_get_pretty(err));
        error_free(err);
    }
    return text;
}

static char *epoch_end(World *w, uint64_t epoch, const FtEpochEnd *end)
{
    uint8_t buf[FT_EPOCH_END_SIZE];

    ft_wire_put_epoch_end(buf, end);
    return frame(w, FT_FRAME_EPOCH_END, FT_FLAG_RUNNING, epoch, sizeof(buf),
                 buf);
}

/* What fits all that has come. */
static FtEpochEnd fitting(World *w)
{
    return (FtEpochEnd) {
        .pages = w->b.open_pages,
        .page_bytes = w->b.open_page_bytes,
        .device_bytes = w->b.open_device_bytes,
        .journal_bytes = w->b.open_journal_bytes,
        .journal_records = w->b.open_records,
        .on_disk = w->on_disk,
    };
}

static char *good_end(World *w)
{
    FtEpochEnd end = fitting(w);

    return epoch_end(w, w->b.committed + 1, &end);
}

static void whole_epoch(World *w)
{
    uint64_t epoch = w->b.committed + 1;

    g_assert_null(frame(w, FT_FRAME_PAGES, 0, epoch, 100, NULL));
    g_assert_null(frame(w, FT_FRAME_DEVICES, 0, epoch, 50, NULL));
    g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, epoch, 60, NULL));
    g_assert_null(good_end(w));
}

/* Where a table row begins. */
typedef enum From {
    WAITING,
    SYNC,
    SYNC_OPEN,      /* epoch 1 has begun */
    SYNC_ENDED,     /* ... and the data connection has ended */
    SYNC_HEART,     /* as SYNC_OPEN, the heartbeats' connection has */
    STANDBY,        /* 1 is committed */
    STANDBY_OPEN,   /* 2 has begun */
    HEART_LOST,     /* ... and one of these has ended */
    CONTROL_LOST,
    ASKED,          /* the operator wants it, the arbiter has not answered */
    CLAIM_DATA,     /* the data connection was lost */
    CLAIM_BOTH,     /* the control connection, too */
    CLAIM_SILENT,   /* the heartbeats were */
    CLAIM_UNKNOWN,  /* as ASKED, the arbiter is out of reach */
    WON,            /* as ASKED, the primary has not answered yet */
    FORCED,         /* ... and nobody has asked the arbiter */
    TAKEOVER,
    UNPROTECTED,
    DISCARDED,
    FROM__MAX
} From;

static const char *const from_name[] = {
    "waiting", "sync", "sync, 1 open", "sync, data lost", "sync, heart lost",
    "standby", "standby, 2 open", "heart lost", "control lost", "asked",
    "claim: data", "claim: both", "claim: silent", "claim unknown", "won",
    "forced", "takeover", "unprotected", "discarded",
};

static World *world_at(From from)
{
    World *w = world_new();
    FtBak *b = &w->b;

    if (from >= SYNC) {
        ft_bak_connected(b);
        g_assert_null(frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, 0, 10, NULL));
    }
    if (from >= SYNC_OPEN) {
        g_assert_null(frame(w, FT_FRAME_PAGES, 0, 1, 100, NULL));
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 1, 50, NULL));
        g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 1, 60, NULL));
    }
    if (from == SYNC_ENDED) {
        ft_bak_data_lost(b, w->now);
    }
    if (from == SYNC_HEART) {
        ft_bak_heart_lost(b, w->now);
    }
    if (from >= STANDBY) {
        g_assert_null(good_end(w));
        g_assert_cmpint(b->state, ==, FT_BAK_STANDBY);
    }
    if (from >= STANDBY_OPEN) {
        g_assert_null(frame(w, FT_FRAME_PAGES, 0, 2, 100, NULL));
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 50, NULL));
        g_assert_null(frame(w, FT_FRAME_JOURNAL, 0, 2, 60, NULL));
    }
    if (from == HEART_LOST) {
        ft_bak_heart_lost(b, w->now);
    }
    if (from == CONTROL_LOST || from == CLAIM_BOTH) {
        ft_bak_control_lost(b, w->now);
    }
    if (from == ASKED || from == CLAIM_UNKNOWN || from == WON) {
        g_assert_true(ft_bak_failover(b, false, w->now, &error_abort));
    }
    if (from == CLAIM_DATA || from == CLAIM_BOTH) {
        ft_bak_data_lost(b, w->now);
    }
    if (from == CLAIM_SILENT) {
        ft_bak_silent(b, "the primary is silent", w->now);
    }
    if (from == CLAIM_UNKNOWN) {
        ft_bak_claimed(b, FT_CLAIM_UNKNOWN, "no route to it", w->now);
    }
    if (from == WON) {
        ft_bak_claimed(b, FT_CLAIM_WON, "", w->now);
    }
    if (from == FORCED) {
        g_assert_true(ft_bak_failover(b, true, w->now, &error_abort));
    }
    if (from >= ASKED && from <= FORCED) {
        g_assert_cmpint(b->state, ==, FT_BAK_CLAIMING);
    }
    if (from == TAKEOVER || from == UNPROTECTED) {
        ft_bak_silent(b, "the primary is silent", w->now);
        ft_bak_claimed(b, FT_CLAIM_WON, "", w->now);
        g_assert_cmpint(b->state, ==, FT_BAK_TAKEOVER);
    }
    if (from == UNPROTECTED) {
        ft_bak_running(b);
    }
    if (from == DISCARDED) {
        ft_bak_peer_disarm(b, "cancelled");
        g_assert_cmpint(b->state, ==, FT_BAK_DISCARDED);
    }
    g_string_truncate(w->log, 0);
    return w;
}

#endif
