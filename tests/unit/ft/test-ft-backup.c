/*
 * Unit tests of migration/ft/backup-fsm.c: the backup's state machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/ft/backup-fsm.h"

#define FENCE   300000
#define STAGE   1000
#define DEVICE  500
#define T0      1000000

/* What the machine asked for, in order, as text:
 * p stage pages, P apply now, v stage devices, a1 ack, A1 apply (A1! failed),
 * x drop the open epoch, F failover, T1 take over from 1, O / E discard in
 * order / by an error, >name new state */
typedef struct World {
    FtBak b;
    GString *log;
    char *reason;
    int64_t now;
    bool fail_stage, fail_now, fail_devices, fail_apply;
    uint64_t records;           /* that stage_pages finds */
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
    if (w->fail_apply) {
        error_setg(errp, "RAM differs");
        return false;
    }
    return true;
}

static void on_drop(void *opaque)
{
    say(opaque, "x");
}

static void on_failover(void *opaque)
{
    say(opaque, "F");
}

static void on_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    World *w = opaque;

    g_assert_cmpuint(epoch, >, 0);
    g_assert_cmpuint(epoch, ==, w->b.committed);
    g_assert_nonnull(reason);
    say(w, "T%" PRIu64, epoch);
}

static void on_discard(void *opaque, bool orderly, const char *reason)
{
    g_assert_nonnull(reason);
    say(opaque, orderly ? "O" : "E");
}

static const FtBakOps ops = {
    .state = on_state,
    .stage_pages = on_pages,
    .apply_now = on_now,
    .stage_devices = on_devices,
    .ack = on_ack,
    .apply = on_apply,
    .drop_open = on_drop,
    .send_failover = on_failover,
    .takeover = on_takeover,
    .discard = on_discard,
};

static World *world_new(void)
{
    World *w = g_new0(World, 1);
    FtBakParams params = {
        .fence_timeout_us = FENCE, .max_stage_bytes = STAGE,
        .max_device_bytes = DEVICE,
    };

    w->log = g_string_new(NULL);
    w->now = T0;
    w->records = 3;
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

static char *epoch_end(World *w, uint64_t epoch, uint64_t pages,
                       uint64_t page_bytes, uint64_t device_bytes)
{
    uint8_t buf[FT_EPOCH_END_SIZE];
    FtEpochEnd end = { .pages = pages, .page_bytes = page_bytes,
                       .device_bytes = device_bytes };

    ft_wire_put_epoch_end(buf, &end);
    return frame(w, FT_FRAME_EPOCH_END, FT_FLAG_RUNNING, epoch, sizeof(buf),
                 buf);
}

/* The end that fits what has come. */
static char *good_end(World *w)
{
    return epoch_end(w, w->b.committed + 1, w->b.open_pages,
                     w->b.open_page_bytes, w->b.open_device_bytes);
}

static void whole_epoch(World *w)
{
    uint64_t epoch = w->b.committed + 1;

    g_assert_null(frame(w, FT_FRAME_PAGES, 0, epoch, 100, NULL));
    g_assert_null(frame(w, FT_FRAME_DEVICES, 0, epoch, 50, NULL));
    g_assert_null(good_end(w));
}

typedef enum From {
    WAITING,
    SYNC,
    SYNC_OPEN,      /* epoch 1 has begun */
    STANDBY,        /* 1 is committed */
    STANDBY_OPEN,   /* 2 has begun */
    ASKED,          /* the operator wants it, the primary has not answered */
    DATA_LOST,
    CONTROL_LOST,
    TAKEOVER,
    UNPROTECTED,
    DISCARDED,
    FROM__MAX
} From;

static const char *const from_name[] = {
    "waiting", "sync", "sync, 1 open", "standby", "standby, 2 open", "asked",
    "data lost", "control lost", "takeover", "unprotected", "discarded",
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
    }
    if (from >= STANDBY) {
        g_assert_null(good_end(w));
        g_assert_cmpint(b->state, ==, FT_BAK_STANDBY);
    }
    if (from >= STANDBY_OPEN) {
        g_assert_null(frame(w, FT_FRAME_PAGES, 0, 2, 100, NULL));
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 50, NULL));
    }
    if (from == ASKED) {
        g_assert_true(ft_bak_failover(b, w->now, &error_abort));
    }
    if (from == DATA_LOST) {
        ft_bak_data_lost(b, w->now);
    }
    if (from == CONTROL_LOST) {
        ft_bak_control_lost(b, w->now);
    }
    if (from == TAKEOVER || from == UNPROTECTED) {
        ft_bak_data_lost(b, w->now);
        ft_bak_control_lost(b, w->now);
        g_assert_cmpint(b->state, ==, FT_BAK_TAKEOVER);
    }
    if (from == UNPROTECTED) {
        ft_bak_running(b);
    }
    if (from == DISCARDED) {
        ft_bak_peer_disarm(b, "cancelled");
    }
    g_string_truncate(w->log, 0);
    return w;
}

#define BAD     "x >discarded E"
#define ORDERLY "x >discarded O"
#define TAKE    "x >takeover T1"

/* The table of the header, by event; columns as in From. */
static const struct {
    const char *event;
    const char *want[FROM__MAX];
} table[] = {
    { "connected",    { ">sync", "", "", "", "", "", "", "", "", "", "" } },
    /* frames of the epoch that is open */
    { "sync pages",   { "", "P", "P", BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "pages",        { "", "p", "p", "p", "p", "p", "p", "p", "", "", "" } },
    { "devices",      { "", "v", "v", "v", "v", "v", "v", "v", "", "", "" } },
    /* nothing has come in those that are not open: no device state */
    { "end",          { "", BAD, "a1 A1 >standby", BAD, "a2 A2", "a2 A2",
                        BAD, "a2 A2", "", "", "" } },
    { "torn end",     { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "past end",     { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "future pages", { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "sync pages 1", { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "wrong type",   { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "bad frame",    { "", BAD, BAD, BAD, BAD, BAD, BAD, BAD, "", "", "" } },
    { "apply fails",  { "", BAD, "a1 A1! " BAD, BAD, "a2 A2! " BAD,
                        "a2 A2! " BAD, BAD, "a2 A2! " BAD, "", "", "" } },
    { "data lost",    { "", "x", "x", "x F", "x F", "x", "",
                        "x " TAKE, "", "", "" } },
    { "control lost", { "", BAD, BAD, "", "", "", TAKE, "", "", "", "" } },
    { "disarm",       { "", ORDERLY, ORDERLY, ORDERLY, ORDERLY, ORDERLY,
                        ORDERLY, ORDERLY, "", "", "" } },
    { "fenced",       { "", "", "", "", "", TAKE, TAKE, TAKE, "", "", "" } },
    { "failover",     { "!", "!", "!", "F", "F", "", "", "", "!", "!",
                        "!" } },
    { "running",      { "", "", "", "", "", "", "", "", ">unprotected", "",
                        "" } },
    { "failed",       { "", "", "", "", "", "", "", "", BAD, "", "" } },
    { "poll",         { "", "", "", "", "", "", "", "", "", "", "" } },
    { "poll late",    { "", "", "", "", "", TAKE, TAKE, TAKE, "", "", "" } },
};

static void fire(World *w, const char *event)
{
    FtBak *b = &w->b;
    uint64_t open = b->committed + 1;
    bool live = b->state == FT_BAK_SYNC || b->state == FT_BAK_STANDBY;
    g_autofree char *err = NULL;

    if (g_str_equal(event, "connected")) {
        ft_bak_connected(b);
    } else if (g_str_equal(event, "sync pages")) {
        err = frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, 0, 10, NULL);
    } else if (g_str_equal(event, "pages")) {
        err = frame(w, FT_FRAME_PAGES, 0, open, 10, NULL);
    } else if (g_str_equal(event, "devices")) {
        err = frame(w, FT_FRAME_DEVICES, 0, open, 10, NULL);
    } else if (g_str_equal(event, "end")) {
        err = good_end(w);
    } else if (g_str_equal(event, "torn end")) {
        err = epoch_end(w, open, b->open_pages + 1, b->open_page_bytes,
                        b->open_device_bytes);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "past end")) {
        err = epoch_end(w, b->committed, b->open_pages, b->open_page_bytes,
                        b->open_device_bytes);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "future pages")) {
        err = frame(w, FT_FRAME_PAGES, 0, open + 1, 10, NULL);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "sync pages 1")) {
        err = frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, open, 10, NULL);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "wrong type")) {
        err = frame(w, FT_FRAME_ACK, 0, open, 0, NULL);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "bad frame")) {
        ft_bak_frame_bad(b, "the header's CRC is wrong");
    } else if (g_str_equal(event, "apply fails")) {
        w->fail_apply = true;
        err = good_end(w);
        g_assert_nonnull(err);
    } else if (g_str_equal(event, "data lost")) {
        ft_bak_data_lost(b, w->now);
    } else if (g_str_equal(event, "control lost")) {
        ft_bak_control_lost(b, w->now);
    } else if (g_str_equal(event, "disarm")) {
        ft_bak_peer_disarm(b, "the operator cancelled");
    } else if (g_str_equal(event, "fenced")) {
        ft_bak_peer_fenced(b);
    } else if (g_str_equal(event, "failover")) {
        Error *e = NULL;

        if (!ft_bak_failover(b, w->now, &e)) {
            g_assert_nonnull(strstr(error_get_pretty(e),
                                    ft_bak_state_name(b->state)));
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

            fire(w, table[i].event);
            if (!g_str_equal(w->log->str, table[i].want[from])) {
                g_test_message("%s in %s: '%s', not '%s'", table[i].event,
                               from_name[from], w->log->str,
                               table[i].want[from]);
                g_test_fail();
            }
            if (w->b.state == FT_BAK_DISCARDED) {
                /* Nothing brings it back, and nothing makes it run. */
                g_string_truncate(w->log, 0);
                for (int j = 0; j < ARRAY_SIZE(table); j++) {
                    if (!g_str_equal(table[j].event, "failover")) {
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
    for (int i = 0; i < 8; i++) {
        g_autoptr(World) w = world_at(STANDBY_OPEN);
        int off = i & 1 ? 1 : -1;
        g_autofree char *err = NULL;

        err = epoch_end(w, 2, 3 + (i / 2 == 0 ? off : 0),
                        100 + (i / 2 == 1 ? off : 0),
                        50 + (i / 2 == 2 ? off : 0));
        if (i / 2 == 3) {
            g_assert_null(err);
            expect(w, "a2 A2");
        } else {
            g_assert_nonnull(strstr(err, "torn"));
            expect(w, BAD);
        }
    }
    /* Nothing of the epoch before counts in the next one. */
    {
        g_autoptr(World) w = world_at(STANDBY);

        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 2, 7, NULL));
        g_assert_null(epoch_end(w, 2, 0, 0, 7));
        g_assert_null(frame(w, FT_FRAME_DEVICES, 0, 3, 8, NULL));
        g_assert_null(epoch_end(w, 3, 0, 0, 8));
        expect(w, "v a2 A2 v a3 A3");
    }
}

/* A peer can never make this side hold more than the limits. */
static void test_limits(void)
{
    g_autoptr(World) pages = world_at(STANDBY);
    g_autoptr(World) devices = world_at(STANDBY);
    g_autoptr(World) again = world_at(STANDBY);
    g_autofree char *err = NULL, *err2 = NULL;

    g_assert_null(frame(pages, FT_FRAME_PAGES, 0, 2, STAGE - 1, NULL));
    g_assert_null(frame(pages, FT_FRAME_PAGES, 0, 2, 1, NULL));
    err = frame(pages, FT_FRAME_PAGES, 0, 2, 1, NULL);
    g_assert_nonnull(strstr(err, "1000"));
    expect(pages, "p p " BAD);

    g_assert_null(frame(devices, FT_FRAME_DEVICES, 0, 2, DEVICE, NULL));
    err2 = frame(devices, FT_FRAME_DEVICES, 0, 2, 1, NULL);
    g_assert_nonnull(strstr(err2, "500"));
    expect(devices, "v " BAD);

    for (int i = 0; i < 5; i++) {
        g_assert_null(frame(again, FT_FRAME_PAGES, 0, i + 2, STAGE, NULL));
        g_assert_null(frame(again, FT_FRAME_DEVICES, 0, i + 2, DEVICE, NULL));
        g_assert_null(good_end(again));
    }
    g_assert_cmpuint(again->b.committed, ==, 6);
}

static void test_op_errors(void)
{
    for (int i = 0; i < 3; i++) {
        g_autoptr(World) w = world_at(SYNC_OPEN);
        g_autofree char *err = NULL;

        w->fail_stage = w->fail_now = w->fail_devices = true;
        err = i == 0 ? frame(w, FT_FRAME_PAGES, 0, 1, 10, NULL)
            : i == 1 ? frame(w, FT_FRAME_PAGES, FT_FLAG_SYNC, 0, 10, NULL)
                     : frame(w, FT_FRAME_DEVICES, 0, 1, 10, NULL);
        g_assert_cmpstr(err, ==, i == 2 ? "no memory" : "bad record");
        g_assert_cmpstr(w->reason, ==, err);
        g_assert_nonnull(strstr(w->log->str, BAD));
    }
}

/* Which epoch it goes on from: the last whole one, whatever came after. */
static void test_takeover_epoch(void)
{
    for (int i = 0; i < 4; i++) {
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
        g_string_truncate(w->log, 0);
        ft_bak_data_lost(&w->b, w->now);
        ft_bak_control_lost(&w->b, w->now);
        want = g_strdup_printf("x F x >takeover T%" PRIu64, last);
        expect(w, want);
        g_assert_cmpuint(w->b.open_page_bytes, ==, 0);
        g_assert_cmpuint(w->b.open_device_bytes, ==, 0);
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
    expect(w, "p v a2 A2 p v a3 A3");
    ft_bak_data_lost(&w->b, w->now + 10);
    expect(w, "x x >takeover T3");
}

/* The primary ends the first copy in order: data ends first, and then comes
 * the word that explains it; or it does not. */
static void test_sync_end(void)
{
    for (int i = 0; i < 5; i++) {
        g_autoptr(World) w = world_at(SYNC_OPEN);

        ft_bak_data_lost(&w->b, w->now);
        expect(w, "x");
        ft_bak_poll(&w->b, w->now);
        if (i == 0) {
            ft_bak_peer_disarm(&w->b, "cancelled");
        } else if (i == 1) {
            ft_bak_control_lost(&w->b, w->now);
        } else if (i == 2) {
            ft_bak_peer_fenced(&w->b);
        } else if (i == 3) {
            fire(w, "poll late");
        } else {
            fire(w, "failover");
            expect(w, "!");
            fire(w, "poll late");
        }
        expect(w, i ? BAD : ORDERLY);
    }
}

static void test_deadline(void)
{
    g_autoptr(World) w = world_at(STANDBY);

    g_assert_cmpint(ft_bak_poll(&w->b, w->now + 100 * FENCE), ==, INT64_MAX);
    g_assert_true(ft_bak_failover(&w->b, w->now, &error_abort));
    for (int64_t at = w->now; at < w->now + FENCE;) {
        int64_t next = ft_bak_poll(&w->b, at);

        g_assert_cmpint(next, >, at);
        g_assert_cmpint(next, <=, w->now + FENCE);
        at = next;
    }
    expect(w, "F");
    g_assert_cmpint(ft_bak_poll(&w->b, w->now + FENCE), ==, INT64_MAX);
    expect(w, TAKE);
}

/* A backup that stood still itself hears first what has come meanwhile. */
static void test_grace(void)
{
    g_autoptr(World) told = world_at(STANDBY);
    g_autoptr(World) silent = world_at(STANDBY);

    ft_bak_data_lost(&told->b, told->now);
    ft_bak_poll(&told->b, told->now);
    told->now += 10 * FENCE;
    g_assert_cmpint(ft_bak_poll(&told->b, told->now), ==,
                    told->now + FT_BAK_GRACE_US);
    ft_bak_peer_disarm(&told->b, "the operator cancelled");
    expect(told, "x F x >discarded O");

    ft_bak_data_lost(&silent->b, silent->now);
    ft_bak_poll(&silent->b, silent->now);
    silent->now = ft_bak_poll(&silent->b, silent->now + 10 * FENCE);
    expect(silent, "x F");
    g_assert_cmpint(ft_bak_poll(&silent->b, silent->now), ==, INT64_MAX);
    expect(silent, "x >takeover T1");
}

/* What is told of the takeover, and that a second fault while the answer is
 * waited for neither asks twice nor puts it off. */
static void test_fence_again(void)
{
    g_autoptr(World) w = world_at(STANDBY);

    g_assert_true(ft_bak_failover(&w->b, w->now, &error_abort));
    expect(w, "F");
    ft_bak_control_lost(&w->b, w->now + FENCE / 2);
    g_assert_cmpint(ft_bak_poll(&w->b, w->now + FENCE / 2), ==,
                    w->now + FENCE / 2 + FT_BAK_GRACE_US);
    g_assert_cmpint(w->b.fence_deadline, ==, w->now + FENCE);
    ft_bak_data_lost(&w->b, w->now + FENCE / 2);
    expect(w, "x x >takeover T1");
    ft_bak_running(&w->b);
    expect(w, ">unprotected");
    g_assert_nonnull(strstr(w->reason, "operator"));
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
    g_test_add_func("/ft/backup/limits", test_limits);
    g_test_add_func("/ft/backup/op-errors", test_op_errors);
    g_test_add_func("/ft/backup/takeover-epoch", test_takeover_epoch);
    g_test_add_func("/ft/backup/control-first", test_control_first);
    g_test_add_func("/ft/backup/sync-end", test_sync_end);
    g_test_add_func("/ft/backup/deadline", test_deadline);
    g_test_add_func("/ft/backup/grace", test_grace);
    g_test_add_func("/ft/backup/fence-again", test_fence_again);
    g_test_add_func("/ft/backup/bad-image", test_bad_image);
    g_test_add_func("/ft/backup/stopped-guest", test_stopped_guest);
    return g_test_run();
}
