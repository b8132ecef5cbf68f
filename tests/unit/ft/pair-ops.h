/*
 * For test-ft-pair.c: what the two machines ask for, and what must hold then
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_PAIR_OPS_H
#define TEST_FT_PAIR_OPS_H

#include "pair-world.h"

/* ------------------------------------------------------------- the world */

static void outside(World *w, uint64_t count, const char *who)
{
    must(w, count > w->seen);
    w->seen = count;
}

static void primary_out(World *w, uint64_t count)
{
    /*
     * A primary that hung may find the acknowledgement of an epoch before
     * the request to stop; but then it has no lease.
     */
    must(w, !w->p_dropped && !w->resumed);
    outside(w, count, "primary");
}

static bool leased(World *w)
{
    return !w->heart_over[PRI] && w->now < ft_heart_lease(&w->heart[PRI]);
}

static void release(World *w, uint64_t epoch)
{
    guint n = 0;

    while (n < w->held->len) {
        Held *h = &g_array_index(w->held, Held, n);

        if (h->epoch > epoch) {
            break;
        }
        primary_out(w, h->count);
        n++;
    }
    g_array_remove_range(w->held, 0, n);
}

/* --------------------------------------------------------- primary's ops */

static void p_state(void *opaque, FtPriState state, const char *reason)
{
    World *w = opaque;

    if (!w->p_alive) {
        return;
    }
    say(w, "primary %s: %s", ft_pri_state_name(state), reason);
    if (state == FT_PRI_FENCED) {
        must(w, w->p_dropped);
        w->p_fenced = true;
    }
    step(w);
}

static bool p_take(void *opaque, uint64_t epoch)
{
    World *w = opaque;
    unsigned pages = g_test_rand_int_range(0, 4);
    FtEpochEnd end = { .pages = pages, .page_bytes = pages * 8,
                       .device_bytes = 8 };
    uint64_t record, last;
    Msg *m;

    if (!w->p_alive) {
        return true;
    }
    must(w, !w->p_ended);
    step(w);
    if (w->now < w->take_fails || !w->p_alive) {
        return !w->p_alive;
    }
    g_hash_table_insert(w->image, GUINT_TO_POINTER(epoch),
                        GUINT_TO_POINTER(w->count + 1));
    disk_seal(&w->disk, epoch);
    record = disk_sealed(&w->disk, epoch - 1)->last + 1;
    last = disk_sealed(&w->disk, epoch)->last;
    end.ram_hash = w->count;
    end.journal_records = last + 1 - record;
    end.journal_bytes = end.journal_records * RECORD;
    end.on_disk = disk_sealed(&w->disk, epoch)->on_disk;
    say(w, "epoch %" PRIu64 " taken at %" PRIu64 ", record %" PRIu64
        ", on disk: %" PRIu64, epoch, w->count, last, end.on_disk);
    for (unsigned i = 0; i < pages; i++) {
        p_frame(w, FT_FRAME_PAGES, epoch, 8, w->count);
    }
    p_frame(w, FT_FRAME_DEVICES, epoch, 8, w->count);
    while (record <= last) {
        unsigned n = g_test_rand_int_range(1, last - record + 2);

        p_frame(w, FT_FRAME_JOURNAL, epoch, n * RECORD, record);
        record += n;
    }
    m = p_frame(w, FT_FRAME_EPOCH_END, epoch, FT_EPOCH_END_SIZE, 0);
    if (m) {
        m->frame.flags = FT_FLAG_RUNNING;
        ft_wire_put_epoch_end(m->end, &end);
    }
    return true;
}

static void p_stall(void *opaque, bool on)
{
    World *w = opaque;

    must(w, w->p_stalled != on);
    w->p_stalled = on;
}

static void p_commit(void *opaque, uint64_t epoch)
{
    World *w = opaque;

    if (!w->p_alive) {
        return;
    }
    step(w);
    if (!w->p_alive) {
        return;
    }
    /* The heart of it. */
    must(w, w->b.committed >= epoch);
    must(w, !w->p_dropped);
    must(w, !w->resumed);
    w->disk.committed = epoch;
    release(w, epoch);
    step(w);
}

static bool p_leased(void *opaque)
{
    World *w = opaque;

    w->lease_wanted |= !leased(w);
    return leased(w);
}

static void p_claim(void *opaque)
{
    World *w = opaque;

    if (w->p_alive) {
        step(w);
    }
    if (w->p_alive) {
        claim(w, PRI);
        step(w);
    }
}

static void p_release(void *opaque)
{
    World *w = opaque;

    if (!w->p_alive) {
        return;
    }
    step(w);
    if (!w->p_alive) {
        return;
    }
    say(w, "primary releases all");
    must(w, !w->p_dropped && !w->resumed);
    w->disk.all = true;
    release(w, UINT64_MAX);
}

static void p_drop(void *opaque)
{
    World *w = opaque;

    if (!w->p_alive) {
        return;
    }
    say(w, "primary drops all");
    w->p_dropped = true;
    w->disk.dropped = true;
    g_array_set_size(w->held, 0);
    step(w);
}

static void p_disarm(void *opaque, const char *reason)
{
    World *w = opaque;

    if (w->p_alive) {
        step(w);
    }
    if (w->p_alive) {
        chan_send(w, CTL_PB, M_DISARM);
        step(w);
    }
    if (w->p_alive) {
        chan_send(w, DATA_PB, M_DISARM);
        step(w);
    }
}

static void p_send_fenced(void *opaque)
{
    World *w = opaque;

    if (w->p_alive) {
        chan_send(w, CTL_PB, M_FENCED);
        step(w);
    }
}

static void p_end(void *opaque)
{
    World *w = opaque;

    must(w, !w->p_ended);
    w->p_ended = true;
    for (int c = CTL_PB; c < CHANNELS; c += 2) {
        chan_close(w, c, false);
    }
    w->answer_at[PRI] = w->heart_at[PRI] = w->heart_lost_at[PRI] = INT64_MAX;
    w->heart_over[PRI] = true;
}

static const FtPriOps p_ops = {
    .state = p_state,
    .take_epoch = p_take,
    .stall = p_stall,
    .commit = p_commit,
    .leased = p_leased,
    .claim = p_claim,
    .release_all = p_release,
    .drop_all = p_drop,
    .send_disarm = p_disarm,
    .send_fenced = p_send_fenced,
    .end = p_end,
};

/* ---------------------------------------------------------- backup's ops */

static void b_state(void *opaque, FtBakState state, const char *reason)
{
    World *w = opaque;

    if (w->b_alive) {
        say(w, "backup %s: %s", ft_bak_state_name(state), reason);
        step(w);
    }
}

static bool b_pages(void *opaque, const void *payload, uint32_t len,
                    uint64_t *records, Error **errp)
{
    World *w = opaque;
    const Msg *m = payload;

    *records = 1;
    w->staged_ram = m->value;
    step(w);
    return true;
}

static bool b_now(void *opaque, const void *payload, uint32_t len,
                  Error **errp)
{
    return true;
}

static bool b_devices(void *opaque, const void *payload, uint32_t len,
                      Error **errp)
{
    World *w = opaque;
    const Msg *m = payload;

    w->staged_dev = m->value;
    step(w);
    return true;
}

static bool b_journal(void *opaque, const void *payload, uint32_t len,
                      uint64_t *records, Error **errp)
{
    World *w = opaque;
    const Msg *m = payload;

    *records = len / RECORD;
    disk_stage(&w->disk, m->value, *records);
    step(w);
    return true;
}

static void b_ack(void *opaque, uint64_t epoch)
{
    World *w = opaque;
    Msg *m;

    step(w);
    m = w->b_alive ? chan_send(w, CTL_BP, M_ACK) : NULL;
    if (m) {
        m->value = epoch;
    }
    step(w);
}

static bool b_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                    uint16_t flags, Error **errp)
{
    World *w = opaque;

    must(w, w->staged_dev == end->ram_hash);
    must(w, !end->pages || w->staged_ram == end->ram_hash);
    must(w, disk_whole(&w->disk, epoch));
    must(w, end->on_disk == disk_sealed(&w->disk, epoch)->on_disk);
    must(w, w->b.on_disk == end->on_disk);
    step(w);
    if (w->fail_apply) {
        error_setg(errp, "RAM differs");
        return false;
    }
    w->ram = end->ram_hash;
    disk_keep(&w->disk, w->b.on_disk);
    return true;
}

static void b_drop(void *opaque)
{
    World *w = opaque;

    g_array_set_size(w->disk.staged, 0);
}

static void b_bye(World *w, MsgKind kind)
{
    /* Each other counts on that. */
    must(w, !w->resumed && w->owner != BAK);
    w->b_bye = true;
    chan_send(w, CTL_BP, kind);
}

static void b_disarm(void *opaque)
{
    World *w = opaque;

    if (w->b_alive) {
        step(w);
    }
    if (w->b_alive) {
        b_bye(w, M_DISARM);
        step(w);
    }
}

static void b_failover(void *opaque, bool claimed)
{
    World *w = opaque;

    must(w, !claimed || w->owner == BAK);
    if (w->b_alive) {
        say(w, "backup asks the primary to stop");
        step(w);
    }
    if (w->b_alive) {
        chan_send(w, CTL_BP, claimed ? M_CLAIMED : M_FAILOVER);
        step(w);
    }
}

static void b_claim(void *opaque)
{
    World *w = opaque;

    must(w, !w->b_bye);
    if (w->b_alive) {
        step(w);
    }
    if (w->b_alive) {
        claim(w, BAK);
        step(w);
    }
}

static void b_end_heart(void *opaque)
{
    World *w = opaque;

    chan_close(w, HEART_BP, false);
    if (!w->heart_over[BAK]) {
        w->heart_over[BAK] = true;
        w->heart_at[BAK] = INT64_MAX;
        w->heart_lost_at[BAK] = MAX(w->now,
                                    ft_heart_peer_lease(&w->heart[BAK]));
    }
}

static void b_closes(World *w)
{
    for (int c = CTL_BP; c < CHANNELS; c += 2) {
        chan_close(w, c, false);
    }
    w->answer_at[BAK] = w->heart_at[BAK] = w->heart_lost_at[BAK] = INT64_MAX;
    w->heart_over[BAK] = true;
}

static void b_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    World *w = opaque;
    uint64_t image;

    if (!w->b_alive) {
        return;
    }
    image = GPOINTER_TO_UINT(g_hash_table_lookup(w->image,
                                                 GUINT_TO_POINTER(epoch)));
    say(w, "takeover from epoch %" PRIu64 " at %" PRIu64, epoch, w->ram);
    must(w, epoch > 0 && image > 0);
    must(w, w->ram == image - 1);
    must(w, !w->b.bad_image);
    must(w, disk_complete(&w->disk, epoch, w->b.on_disk));
    must(w, !w->disk.staged->len);
    must(w, w->disk.applied <= disk_sealed(&w->disk, epoch)->last);
    /* What the world saw, the backup knows. */
    must(w, w->seen <= w->ram);
    must(w, w->p_dropped || w->owner == BAK);
    must(w, !w->b_bye && !w->disk.all);
    w->resumed = epoch;
    b_closes(w);
    w->running_at = w->now + 5000;
    step(w);
}

static void b_discard(void *opaque, FtBakEnd end, const char *reason)
{
    World *w = opaque;

    if (!w->b_alive) {
        return;
    }
    must(w, !w->b_over && !w->resumed);
    w->b_over = true;
    w->b_orderly = end == FT_BAK_END_ORDERLY;
    if (end == FT_BAK_END_ERROR) {
        b_bye(w, M_ERROR);
    } else if (end == FT_BAK_END_LOST) {
        must(w, w->owner == PRI);
    }
    b_closes(w);
    step(w);
}

static const FtBakOps b_ops = {
    .state = b_state,
    .stage_pages = b_pages,
    .apply_now = b_now,
    .stage_devices = b_devices,
    .stage_journal = b_journal,
    .ack = b_ack,
    .apply = b_apply,
    .drop_open = b_drop,
    .send_disarm = b_disarm,
    .send_failover = b_failover,
    .claim = b_claim,
    .end_heart = b_end_heart,
    .takeover = b_takeover,
    .discard = b_discard,
};

/* ------------------------------------------------------------ heartbeats */

static void heart_told(World *w, int side, bool silent)
{
    say(w, "%s: heartbeats %s", side == PRI ? "primary" : "backup",
        silent ? w->heart[side].why : "lost");
    if (side == PRI) {
        if (silent) {
            ft_pri_lost(&w->p, "the backup is silent");
        } else {
            ft_pri_conn_lost(&w->p, "heartbeats", w->now);
        }
        w->p_poll = w->now;
    } else {
        if (silent) {
            ft_bak_silent(&w->b, "the primary is silent", w->now);
        } else {
            ft_bak_heart_lost(&w->b, w->now);
        }
        w->b_poll = w->now;
    }
}

static void heart_read(World *w, int side)
{
    GQueue *q = &w->ch[side == PRI ? HEART_BP : HEART_PB];
    FtHeart *h = &w->heart[side];
    Msg *m;

    while (!w->heart_over[side] && (m = g_queue_peek_head(q)) &&
           m->at <= w->now) {
        FtHeartbeat hb = { .number = m->value, .echo = m->echo };

        if (m->kind == M_EOF) {
            w->heart_over[side] = true;
            w->heart_at[side] = INT64_MAX;
            w->heart_lost_at[side] = MAX(w->now, ft_heart_peer_lease(h));
        } else {
            must(w, ft_heart_received(h, &hb, w->now, NULL));
        }
        g_free(g_queue_pop_head(q));
    }
    if (side == PRI && w->lease_wanted && leased(w)) {
        w->lease_wanted = false;
        ft_pri_lease_renewed(&w->p);
        w->p_poll = w->now;
    }
}

static void heart_runs(World *w, int side)
{
    FtHeart *h = &w->heart[side];
    FtHeartbeat hb;
    bool send;

    heart_read(w, side);
    if (w->heart_over[side]) {
        return;
    }
    w->heart_at[side] = ft_heart_poll(h, w->now, false, &send, &hb);
    if (h->verdict == FT_HEART_SILENT) {
        w->heart_over[side] = true;
        heart_told(w, side, true);
    } else if (send) {
        Msg *m = chan_send(w, side == PRI ? HEART_PB : HEART_BP, M_BEAT);

        if (m) {
            m->value = hb.number;
            m->echo = hb.echo;
        }
    }
}

#endif
