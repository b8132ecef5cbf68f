/*
 * Fuzz target: a backup that is fed by any primary: frames and losses
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a run of events: frames of the data channel, words of the control
 * channel, losses, the arbiter's answers, the operator, time.  Frames go
 * through header, state machine and the decoders of their payloads, and are
 * staged and applied as backup-ops.c does it, to a small RAM.
 *
 * Whatever comes: what is kept stays below the limits, epochs are acknowledged
 * one after the other and only whole, the arbiter is asked once, and this side
 * never takes over unless it has been let, from a whole epoch, and without
 * having said before that it will not.  And it always comes to an end.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/bitops.h"
#include "migration/ft/backup-fsm.h"
#include "migration/ft/encode.h"
#include "migration/ft/journal.h"
#include "fuzz.h"

#define EVENTS_MAX  300
#define BLOCKS      2
#define FENCE_US    300000
#define STAGE_MAX   20000
#define DEVICE_MAX  500
#define JOURNAL_MAX 2000

static const uint64_t block_length[BLOCKS] = { 4 * 4096, 2 * 4096 };
static const uint64_t drive_length[] = { 65536, 512 };

typedef struct World {
    FtBak b;
    FuzzInput *in;
    FtBlockTable table;
    int64_t now;
    uint8_t *ram[BLOCKS];
    FtBakState state;           /* as it was told */

    /* staged */
    GByteArray *frames;         /* payloads of PAGES */
    GArray *frame_len;
    uint64_t pages, devices, journal_bytes;
    FtRecords journal;

    uint64_t acked;
    unsigned claims;
    bool answered;
    bool fail_apply;
    bool torn;                  /* RAM holds a mixture */
    bool let;                   /* to take over: won, fenced, or forced */
    bool stands_still;          /* the primary: fenced, or without a lease */
    bool ends_heart;            /* the end of the heartbeats was asked for */
    bool promised;              /* never to take over */
    bool taken, discarded;
} World;

static bool live(const World *w)
{
    return w->b.state == FT_BAK_SYNC || w->b.state == FT_BAK_STANDBY;
}

static void check_empty(const World *w)
{
    g_assert_cmpuint(w->frames->len + w->devices + w->journal_bytes, ==, 0);
    g_assert_cmpuint(w->journal.rec->len, ==, 0);
}

/* ------------------------------------------------- what the machine asks */

static void on_state(void *opaque, FtBakState state, const char *reason)
{
    static const unsigned next[] = {
        [FT_BAK_WAITING] = BIT(FT_BAK_SYNC),
        [FT_BAK_SYNC] = BIT(FT_BAK_STANDBY) | BIT(FT_BAK_DISCARDED),
        [FT_BAK_STANDBY] = BIT(FT_BAK_CLAIMING) | BIT(FT_BAK_DISCARDED),
        [FT_BAK_CLAIMING] = BIT(FT_BAK_CLAIMING) | BIT(FT_BAK_TAKEOVER) |
                            BIT(FT_BAK_DISCARDED),
        [FT_BAK_TAKEOVER] = BIT(FT_BAK_UNPROTECTED) | BIT(FT_BAK_DISCARDED),
        [FT_BAK_UNPROTECTED] = 0,
        [FT_BAK_DISCARDED] = 0,
    };
    World *w = opaque;

    g_assert_true(reason && *reason);
    g_assert_cmpint(w->b.state, ==, state);
    g_assert_true(next[w->state] & BIT(state));
    w->state = state;
}

static bool on_pages(void *opaque, const void *payload, uint32_t len,
                     uint64_t *records, Error **errp)
{
    World *w = opaque;

    g_assert_true(live(w));
    if (!ft_decode_pages(payload, len, &w->table, NULL, NULL, records,
                         errp)) {
        return false;
    }
    g_byte_array_append(w->frames, payload, len);
    g_array_append_val(w->frame_len, len);
    g_assert_cmpuint(w->frames->len, <=, STAGE_MAX);
    w->pages += *records;
    return true;
}

static bool write_page(void *opaque, const FtPageRecord *rec, Error **errp)
{
    World *w = opaque;

    if (rec->kind == FT_PAGE_RAW) {
        memcpy(w->ram[rec->block] + rec->offset, rec->data, FT_PAGE_SIZE);
    } else {
        memset(w->ram[rec->block] + rec->offset, 0, FT_PAGE_SIZE);
    }
    return true;
}

static bool on_now(void *opaque, const void *payload, uint32_t len,
                   Error **errp)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_SYNC);
    return ft_decode_pages(payload, len, &w->table, write_page, w, NULL,
                           errp);
}

static bool on_devices(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    World *w = opaque;

    g_assert_true(live(w));
    w->devices += len;
    g_assert_cmpuint(w->devices, <=, DEVICE_MAX);
    return true;
}

static bool on_record(void *opaque, FtRecord *r, Error **errp)
{
    World *w = opaque;

    ft_records_add(&w->journal, r);
    ft_record_unref(r);
    return true;
}

static bool on_journal(void *opaque, const void *payload, uint32_t len,
                       uint64_t *records, Error **errp)
{
    World *w = opaque;

    g_assert_true(live(w));
    if (!ft_record_decode(payload, len, drive_length,
                          ARRAY_SIZE(drive_length), on_record, w, records,
                          errp)) {
        return false;
    }
    w->journal_bytes += len;
    g_assert_cmpuint(w->journal_bytes, <=, JOURNAL_MAX);
    return true;
}

static bool on_samples(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_SYNC);
    return true;
}

static void on_ack(void *opaque, uint64_t epoch)
{
    World *w = opaque;

    g_assert_true(live(w));
    g_assert_cmpuint(epoch, ==, ++w->acked);
}

static bool on_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                     uint16_t flags, Error **errp)
{
    World *w = opaque;
    const uint8_t *p = w->frames->data;
    unsigned i;

    g_assert_cmpuint(epoch, ==, w->acked);
    g_assert_cmpuint(end->pages, ==, w->pages);
    g_assert_cmpuint(end->page_bytes, ==, w->frames->len);
    g_assert_cmpuint(end->device_bytes, ==, w->devices);
    g_assert_cmpuint(end->journal_bytes, ==, w->journal_bytes);
    g_assert_cmpuint(end->journal_records, ==, w->journal.rec->len);
    g_assert_cmpuint(end->on_disk, <, epoch);
    g_assert_cmpuint(end->device_bytes, >, 0);
    if (w->fail_apply) {
        w->torn = true;
        error_setg(errp, "this side's RAM differs");
        return false;
    }
    for (i = 0; i < w->frame_len->len; i++) {
        uint32_t len = g_array_index(w->frame_len, uint32_t, i);

        /* it was good when it came */
        g_assert_true(ft_decode_pages(p, len, &w->table, write_page, w, NULL,
                                      &error_abort));
        p += len;
    }
    g_byte_array_set_size(w->frames, 0);
    g_array_set_size(w->frame_len, 0);
    w->pages = w->devices = w->journal_bytes = 0;
    ft_records_clear(&w->journal);
    return true;
}

static void on_drop(void *opaque)
{
    World *w = opaque;

    g_byte_array_set_size(w->frames, 0);
    g_array_set_size(w->frame_len, 0);
    w->pages = w->devices = w->journal_bytes = 0;
    ft_records_clear(&w->journal);
}

static void on_send_disarm(void *opaque)
{
    World *w = opaque;

    g_assert_true(live(w));
    w->promised = true;
}

static void on_send_failover(void *opaque, bool claimed)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_CLAIMING);
    g_assert_false(w->b.control_lost);
    g_assert_true(w->let || !claimed);
}

static void on_claim(void *opaque)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_CLAIMING);
    g_assert_cmpuint(++w->claims, ==, 1);
    g_assert_cmpuint(w->acked, >, 0);
    g_assert_false(w->torn || w->promised);
    check_empty(w);
}

static void on_end_heart(void *opaque)
{
    World *w = opaque;

    g_assert_cmpint(w->b.state, ==, FT_BAK_CLAIMING);
    g_assert_true(w->let);
    w->ends_heart = true;
}

static void on_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    World *w = opaque;

    g_assert_true(reason && *reason);
    g_assert_cmpuint(epoch, >, 0);
    g_assert_cmpuint(epoch, ==, w->acked);
    g_assert_true(w->let && w->stands_still);
    g_assert_false(w->taken || w->discarded || w->torn || w->promised);
    check_empty(w);
    w->taken = true;
}

static void on_discard(void *opaque, FtBakEnd end, const char *reason)
{
    World *w = opaque;

    g_assert_true(reason && *reason);
    g_assert_false(w->discarded);
    g_assert_true(end == FT_BAK_END_ORDERLY ? w->promised : true);
    check_empty(w);
    w->discarded = true;
    /* an ERROR frame goes out, or the process ends: no way back */
    w->promised = true;
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
    .send_disarm = on_send_disarm,
    .send_failover = on_send_failover,
    .claim = on_claim,
    .end_heart = on_end_heart,
    .takeover = on_takeover,
    .discard = on_discard,
};

/* --------------------------------------------------------------- payloads */

static void put_pages(World *w, GByteArray *out)
{
    unsigned n = fuzz_u8(w->in) % 6;

    while (n--) {
        uint8_t record[FT_RECORD_MAX];
        uint8_t page[FT_PAGE_SIZE];
        uint8_t where = fuzz_u8(w->in);
        size_t len;

        memset(page, fuzz_u8(w->in) % 4, sizeof(page));
        /* mostly inside */
        len = ft_encode_page(record, sizeof(record), where % 16 / 5,
                             (where >> 4) % 5 * FT_PAGE_SIZE, page, NULL);
        g_byte_array_append(out, record, len);
    }
}

static void put_journal(World *w, GByteArray *out)
{
    unsigned n = fuzz_u8(w->in) % 6;

    while (n--) {
        uint8_t kind = fuzz_u8(w->in);
        uint64_t bytes = kind % 5 == FT_REC_FLUSH ? 0 : fuzz_u8(w->in);
        uint8_t record[FT_REC_HEADER + 512];
        FtRecord *r = ft_record_new(kind % 5, 0, kind >> 7,
                                    bytes ? fuzz_u16(w->in) : 0, bytes,
                                    g_malloc0(bytes + 1));
        uint64_t done = 0;
        bool last;
        size_t len = ft_record_put(r, &done, record, sizeof(record), &last);

        g_byte_array_append(out, record, len);
        ft_record_unref(r);
    }
}

/* What has come, but for a number that the input changes. */
static void put_epoch_end(World *w, GByteArray *out)
{
    uint8_t buf[FT_EPOCH_END_SIZE];
    uint8_t change = fuzz_u8(w->in);
    FtEpochEnd end = {
        .pages = w->b.open_pages,
        .page_bytes = w->b.open_page_bytes,
        .device_bytes = w->b.open_device_bytes,
        .journal_bytes = w->b.open_journal_bytes,
        .journal_records = w->b.open_records,
        .on_disk = w->b.on_disk,
    };

    ft_wire_put_epoch_end(buf, &end);
    if (change & 0x80) {
        uint8_t *field = buf + change % (FT_EPOCH_END_SIZE / 8) * 8;

        stq_be_p(field, ldq_be_p(field) + (int8_t)fuzz_u8(w->in));
    }
    w->fail_apply = (change & 0x70) == 0x70;
    g_byte_array_append(out, buf, sizeof(buf));
}

static void put_raw(World *w, GByteArray *out)
{
    size_t n;
    g_autofree uint8_t *raw = fuzz_block(w->in, fuzz_u8(w->in), &n);

    g_byte_array_append(out, raw, n);
}

/* ----------------------------------------------------------------- events */

static void event_frame(World *w)
{
    static const uint8_t types[] = {
        FT_FRAME_PAGES, FT_FRAME_PAGES, FT_FRAME_DEVICES, FT_FRAME_JOURNAL,
        FT_FRAME_EPOCH_END, FT_FRAME_SAMPLES, FT_FRAME_DISARM, 0,
    };
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autofree uint8_t *exact = NULL;
    uint8_t header[FT_WIRE_HEADER];
    uint8_t what = fuzz_u8(w->in);
    bool first = what % 8 == 0, was_live = live(w);
    FtFrame f = { .type = types[what % 8] };
    bool claiming = w->b.state == FT_BAK_CLAIMING;
    Error *err = NULL;

    f.type = f.type ?: fuzz_u8(w->in);
    f.epoch = first ? 0 : w->b.committed + 1;
    f.flags = first ? FT_FLAG_SYNC : 0;
    if (what & 0x80) {
        f.flags = fuzz_u8(w->in);
        f.epoch += (int8_t)fuzz_u8(w->in);
    }
    if (what & 0x40) {
        put_raw(w, payload);
    } else if (f.type == FT_FRAME_PAGES) {
        put_pages(w, payload);
    } else if (f.type == FT_FRAME_DEVICES) {
        uint8_t state[UINT8_MAX] = { 0 };

        g_byte_array_append(payload, state, fuzz_u8(w->in));
    } else if (f.type == FT_FRAME_JOURNAL) {
        put_journal(w, payload);
    } else if (f.type == FT_FRAME_EPOCH_END) {
        put_epoch_end(w, payload);
    }

    f.length = payload->len;
    ft_wire_put_header(header, &f);
    if (!fuzz_result(ft_wire_get_header(header, &f, &err), err)) {
        ft_bak_frame_bad(&w->b, "it did not decode");
        return;
    }
    exact = g_memdup2(payload->data, payload->len);
    err = NULL;
    if (!fuzz_result(ft_bak_frame(&w->b, &f, exact, &err), err)) {
        g_assert_true(!was_live || w->b.state == FT_BAK_DISCARDED);
        g_assert_false(claiming);
    } else {
        g_assert_true(claiming || live(w));
    }
}

/* The arbiter answers once for good, if it was asked. */
static void event_claim(World *w, FtClaim claim)
{
    bool waits = w->b.state == FT_BAK_CLAIMING && !w->b.claim_won;

    if (!w->claims || w->answered) {
        return;
    }
    w->answered = claim != FT_CLAIM_UNKNOWN;
    w->let |= claim == FT_CLAIM_WON;
    ft_bak_claimed(&w->b, claim, "somebody", w->now);
    if (waits && claim == FT_CLAIM_LOST) {
        g_assert_cmpint(w->b.state, ==, FT_BAK_DISCARDED);
    }
}

/* The control channel, and what the arbiter and the operator say. */
static void event_word(World *w, uint8_t word)
{
    Error *err = NULL;
    bool force;

    switch (word % 8) {
    case 0:
        ft_bak_peer_disarm(&w->b, "cancelled");
        break;
    case 1:
        w->let |= w->b.state == FT_BAK_CLAIMING;
        w->stands_still = true;
        ft_bak_peer_fenced(&w->b);
        break;
    case 2:
    case 3:
    case 4:
        event_claim(w, word % 8 == 2 ? FT_CLAIM_WON :
                       word % 8 == 3 ? FT_CLAIM_LOST : FT_CLAIM_UNKNOWN);
        break;
    case 5:
        force = word & 0x80;
        w->let |= force && (w->b.state == FT_BAK_STANDBY ||
                            w->b.state == FT_BAK_CLAIMING);
        fuzz_result(ft_bak_failover(&w->b, force, w->now, &err), err);
        break;
    case 6:
        ft_bak_running(&w->b);
        break;
    case 7:
        ft_bak_takeover_failed(&w->b, "the disk is away");
        break;
    }
}

/* It is told when the lease that we gave is over. */
static void heart_lost(World *w)
{
    w->stands_still = true;
    ft_bak_heart_lost(&w->b, w->now);
}

static void event(World *w)
{
    uint8_t what = fuzz_u8(w->in);
    int64_t next;

    switch (what % 16) {
    default:
        /* one thread reads the frames and says that there are no more */
        if (!w->b.data_lost) {
            event_frame(w);
        }
        break;
    case 9:
        ft_bak_data_lost(&w->b, w->now);
        break;
    case 10:
        ft_bak_control_lost(&w->b, w->now);
        break;
    case 11:
        heart_lost(w);
        break;
    case 12:
        w->stands_still = true;
        ft_bak_silent(&w->b, "the primary is silent", w->now);
        break;
    case 13:
    case 14:
        event_word(w, what >> 4 | (what & 1) << 7);
        break;
    case 15:
        w->now += (int64_t)fuzz_u8(w->in) << (what >> 4);
        next = ft_bak_poll(&w->b, w->now);
        g_assert_cmpint(next, >, w->now);
        break;
    }
    /* an ERROR or a DISARM of this side is final */
    if (w->promised) {
        g_assert_cmpint(w->b.state, ==, FT_BAK_DISCARDED);
    }
    if (!live(w)) {
        check_empty(w);
    }
}

/*
 * No more frames, and the arbiter says yes: no state but the last ones.  Also
 * if the primary goes on to send heartbeats and says nothing else (@hung).
 */
static void finish(World *w, bool hung)
{
    unsigned i;

    ft_bak_data_lost(&w->b, w->now);
    if (!hung) {
        ft_bak_control_lost(&w->b, w->now);
        w->stands_still = true;
        ft_bak_silent(&w->b, "the primary is silent", w->now);
    }
    for (i = 0; i < 6; i++) {
        if (w->b.state == FT_BAK_CLAIMING && !w->b.claim_won) {
            g_assert_cmpuint(w->claims, ==, 1);
            event_claim(w, FT_CLAIM_WON);
        }
        w->now += FENCE_US;
        ft_bak_poll(&w->b, w->now);
        if (w->ends_heart) {
            heart_lost(w);
        }
    }
    ft_bak_running(&w->b);
    g_assert_true(w->b.state == FT_BAK_UNPROTECTED ||
                  w->b.state == FT_BAK_DISCARDED ||
                  w->b.state == FT_BAK_WAITING);
    check_empty(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    static const FtBakParams params = {
        .fence_timeout_us = FENCE_US, .max_stage_bytes = STAGE_MAX,
        .max_device_bytes = DEVICE_MAX, .max_journal_bytes = JOURNAL_MAX,
    };
    World w = {
        .in = &in, .now = 1000000,
        .table = { .count = BLOCKS, .length = block_length },
        .frames = g_byte_array_new(),
        .frame_len = g_array_new(false, false, sizeof(uint32_t)),
    };
    unsigned i;

    for (i = 0; i < BLOCKS; i++) {
        w.ram[i] = g_malloc0(block_length[i]);
    }
    ft_records_init(&w.journal);
    ft_bak_init(&w.b, &ops, &w, &params);
    if (fuzz_u8(&in)) {
        ft_bak_connected(&w.b);
    }
    for (i = 0; i < EVENTS_MAX && in.left; i++) {
        event(&w);
    }
    finish(&w, size & 1);

    for (i = 0; i < BLOCKS; i++) {
        g_free(w.ram[i]);
    }
    ft_records_destroy(&w.journal);
    g_byte_array_unref(w.frames);
    g_array_unref(w.frame_len);
    return 0;
}
