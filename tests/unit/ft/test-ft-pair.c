/*
 * Unit tests of primary-fsm.c and backup-fsm.c against each other
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both machines run in one simulated world: a clock, two connections of
 * ordered messages with delays, a guest that counts and says its count to
 * the outside.  In every run one fault hits at one step of the protocol (and
 * sometimes a second one later).  What must hold is checked as it happens:
 *
 *   - the outside sees nothing that the backup does not know of
 *   - once the backup goes on, nothing that it does not know of comes from
 *     the primary, unless the control connection was cut between two living
 *     sides
 *   - the backup goes on only from a whole epoch, and from that exactly
 *   - nothing is released after output was dropped
 *   - what the guest wrote to its drive is on it, or in the backup's journal,
 *     as of the epoch that the backup goes on from: not less and not more
 *   - every run ends, and as long as one host is left, so does the guest
 *
 * Runs are drawn from glib's random numbers: --seed repeats them.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "pair-world.h"

/* ------------------------------------------------------------- the world */

static void outside(World *w, uint64_t count, const char *who)
{
    must(w, count > w->seen);
    w->seen = count;
}

static void primary_out(World *w, uint64_t count)
{
    must(w, !w->p_dropped);
    /*
     * A primary that hung may find the acknowledgement of an epoch before
     * the request to stop: that output is late, but the backup knows of it.
     */
    must(w, !w->resumed || w->control_cut || count <= w->resumed_count);
    if (!w->resumed) {
        outside(w, count, "primary");
    }
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
    w->disk.committed = epoch;
    release(w, epoch);
    step(w);
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
    must(w, !w->p_dropped);
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
    chan_close(w, DATA_PB, false);
    chan_close(w, CTL_PB, false);
}

static const FtPriOps p_ops = {
    .state = p_state,
    .take_epoch = p_take,
    .stall = p_stall,
    .commit = p_commit,
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

static void b_failover(void *opaque)
{
    World *w = opaque;

    if (w->b_alive) {
        say(w, "backup asks the primary to stop");
        step(w);
    }
    if (w->b_alive) {
        chan_send(w, CTL_BP, M_FAILOVER);
        step(w);
    }
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
    must(w, w->disk.applied <= disk_sealed(&w->disk, epoch)->last ||
         w->control_cut);
    /* What the world saw, the backup knows. */
    must(w, w->seen <= w->ram || w->control_cut);
    must(w, !w->p_alive || w->p_fenced || w->control_cut ||
         w->p_hangs > w->now);
    w->resumed = epoch;
    w->resumed_count = w->ram;
    chan_close(w, CTL_BP, false);
    chan_close(w, DATA_BP, false);
    w->running_at = w->now + 5000;
    step(w);
}

static void b_discard(void *opaque, bool orderly, const char *reason)
{
    World *w = opaque;

    if (!w->b_alive) {
        return;
    }
    must(w, !w->b_over && !w->resumed);
    w->b_over = true;
    w->b_orderly = orderly;
    if (!orderly) {
        chan_send(w, CTL_BP, M_ERROR);
    }
    chan_close(w, CTL_BP, false);
    chan_close(w, DATA_BP, false);
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
    .send_failover = b_failover,
    .takeover = b_takeover,
    .discard = b_discard,
};

/* ---------------------------------------------------------------- faults */

/* Called from inside the machines: may change the world, not call them. */
static void inject(World *w)
{
    int64_t hang = w->now + g_test_rand_int_range(0, 3 * FENCE);

    say(w, "*** %s", fault_name[w->fault]);
    w->backup_could = w->b.committed && w->p.state == FT_PRI_PROTECTED;
    switch (w->fault) {
    case CUT_DATA:
        cut(w, true, false);
        break;
    case CUT_CONTROL:
        cut(w, false, true);
        break;
    case CUT_BOTH:
        cut(w, true, true);
        break;
    case KILL_PRIMARY:
        kill_primary(w);
        break;
    case KILL_BACKUP:
        kill_backup(w);
        break;
    case CANCEL:
        w->do_cancel = true;
        break;
    case DISARM:
        w->do_disarm = true;
        break;
    case FAILOVER:
        w->do_failover = true;
        break;
    case HANG_PRIMARY:
        w->p_hangs = hang;
        break;
    case HANG_BACKUP:
        w->b_hangs = hang;
        break;
    case HANG_FAILOVER:
        w->p_hangs = hang;
        w->failover_at = w->now + g_test_rand_int_range(0, ACK);
        break;
    case TORN:
        if (w->ch[DATA_PB].length) {
            guint n = g_test_rand_int_range(0, w->ch[DATA_PB].length);

            g_free(g_queue_pop_nth(&w->ch[DATA_PB], n));
        }
        break;
    case APPLY_FAILS:
        w->fail_apply = true;
        break;
    case TAKE_FAILS:
        w->take_fails = w->now + g_test_rand_int_range(0, 20 * EPOCH);
        break;
    case NONE:
    case LATE_ACK:
        break;
    default:
        g_assert_not_reached();
    }
}

/* ------------------------------------------------------------------- run */

static void deliver(World *w, int c)
{
    Msg *m = g_queue_pop_head(&w->ch[c]);
    Error *err = NULL;

    if (c == CTL_BP || c == DATA_BP) {
        if (!w->p_alive) {
            /* nobody hears it */
        } else if (m->kind == M_ACK) {
            ft_pri_ack(&w->p, m->value, w->now);
        } else if (m->kind == M_FAILOVER) {
            ft_pri_peer_failover(&w->p);
        } else if (m->kind == M_DISARM) {
            ft_pri_peer_disarm(&w->p, "the backup left");
        } else if (m->kind == M_ERROR) {
            ft_pri_link_lost(&w->p, "the backup reports an error");
        } else {
            if (c == DATA_BP) {
                ft_pri_data_lost(&w->p, w->now);
            } else {
                ft_pri_link_lost(&w->p, "control");
            }
        }
        w->p_poll = w->now;
    } else if (w->b_alive) {
        if (m->kind == M_DISARM) {
            ft_bak_peer_disarm(&w->b, "the primary left");
        } else if (m->kind == M_FENCED) {
            ft_bak_peer_fenced(&w->b);
        } else if (m->kind == M_EOF && c == CTL_PB) {
            ft_bak_control_lost(&w->b, w->now);
        } else if (m->kind == M_EOF) {
            ft_bak_data_lost(&w->b, w->now);
        } else if (w->b.state == FT_BAK_SYNC ||
                   w->b.state == FT_BAK_STANDBY) {
            if (!ft_bak_frame(&w->b, &m->frame,
                              m->frame.type == FT_FRAME_EPOCH_END ?
                              (void *)m->end : (void *)m, &err)) {
                must(w, w->b.state == FT_BAK_DISCARDED);
                must(w, w->fault == TORN || w->fault == APPLY_FAILS);
                error_free(err);
            }
        }
        w->b_poll = w->now;
    }
    g_free(m);
}

static void guest_runs(World *w)
{
    bool holds;

    w->guest_at = w->now + g_test_rand_int_range(100, EPOCH);
    if (w->b_runs && w->b_alive) {
        w->ram++;
        if (!w->control_cut) {
            /* It may have said this before, but then nobody heard it. */
            must(w, w->ram > w->seen);
            outside(w, w->ram, "backup");
        }
    }
    if (!w->p_alive || w->p_stalled || w->p_fenced) {
        return;
    }
    holds = w->p.output_held;
    must(w, holds || !w->held->len);
    w->count++;
    disk_write(&w->disk);
    if (holds) {
        Held h = { .epoch = w->p.taken + 1, .count = w->count };

        if (!w->held->len ||
            g_array_index(w->held, Held, w->held->len - 1).epoch < h.epoch) {
            ft_pri_output_waiting(&w->p);
        }
        if (g_test_rand_int_range(0, 20) == 0) {
            ft_pri_output_full(&w->p);
        }
        g_array_append_val(w->held, h);
        w->p_poll = w->now;
    } else {
        primary_out(w, w->count);
    }
}

/* The primary puts on the drive what it may. */
static void disk_runs(World *w)
{
    if (!w->p_alive || w->p_hangs > w->now) {
        return;
    }
    disk_work(&w->disk);
    /* As with output: if it is late, the backup knows of it. */
    must(w, w->disk.all ||
         w->disk.applied <= disk_sealed(&w->disk, w->b.committed)->last);
    must(w, !w->resumed || w->control_cut ||
         w->disk.applied <= disk_sealed(&w->disk, w->resumed)->last);
}

static void commands(World *w)
{
    if (w->do_cancel && w->p_alive && w->p_hangs <= w->now) {
        w->do_cancel = false;
        ft_pri_cancel(&w->p, "cancelled");
    }
    if (w->do_disarm && w->b_alive && w->b_hangs <= w->now) {
        w->do_disarm = false;
        if (w->b.state < FT_BAK_TAKEOVER) {
            /* It quits: says so, and its process ends. */
            chan_send(w, CTL_BP, M_DISARM);
            chan_close(w, CTL_BP, false);
            chan_close(w, DATA_BP, false);
            w->b_alive = false;
            say(w, "backup quits");
        }
    }
    if (w->do_failover && w->b_alive && w->b_hangs <= w->now) {
        Error *err = NULL;

        w->do_failover = false;
        w->b_poll = w->now;
        if (!ft_bak_failover(&w->b, w->now, &err)) {
            error_free(err);
        }
    }
}

static bool p_over(World *w)
{
    return !w->p_alive || w->p.state == FT_PRI_UNPROTECTED ||
           w->p.state == FT_PRI_FENCED ||
           (w->p.state == FT_PRI_INACTIVE && w->p.dead);
}

static bool b_over(World *w)
{
    return !w->b_alive || w->b.state == FT_BAK_UNPROTECTED ||
           w->b.state == FT_BAK_DISCARDED;
}

static void run(Fault fault, uint64_t fault_step, unsigned depth,
                uint64_t *steps)
{
    World world = {
        .p_alive = true, .b_alive = true, .now = 1000000, .fault = fault,
        .fault_step = fault_step, .failover_at = INT64_MAX,
        .running_at = INT64_MAX,
    };
    World *w = &world;
    FtPriParams pp = {
        .epoch_us = EPOCH, .min_run_us = 1000, .ack_timeout_us = ACK,
        .setup_timeout_us = SETUP, .depth = depth,
    };
    FtBakParams bp = {
        .fence_timeout_us = FENCE, .max_stage_bytes = 1000,
        .max_device_bytes = 1000, .max_journal_bytes = 10000 * RECORD,
    };
    int64_t end = w->now + RUN, stop = w->now + 30 * EPOCH;

    w->log = g_string_new(NULL);
    w->held = g_array_new(false, false, sizeof(Held));
    w->image = g_hash_table_new(NULL, NULL);
    disk_init(&w->disk);
    ft_pri_init(&w->p, &p_ops, w, &pp);
    ft_bak_init(&w->b, &b_ops, w, &bp);
    ft_pri_start(&w->p, w->now);
    ft_bak_connected(&w->b);
    ft_pri_connected(&w->p, w->now);
    w->sync_at = w->now + g_test_rand_int_range(0, 3 * EPOCH);
    w->guest_at = w->now;

    while (!(p_over(w) && b_over(w))) {
        int64_t p_ready = w->p_hangs, b_ready = w->b_hangs;
        int64_t best = INT64_MAX, at;
        int what = -1;

        /*
         * What comes first.  Of what is there already, the worst first: the
         * clock, then what the data connection says, then the control.
         */
#define CONSIDER(when, ready, id) \
        do { \
            at = MAX(MAX(when, ready), w->now); \
            if (at < best) { \
                best = at; \
                what = id; \
            } \
        } while (0)
        CONSIDER(w->p_poll, p_ready, CHANNELS);
        CONSIDER(w->b_poll, b_ready, CHANNELS + 1);
        for (int c = CHANNELS - 1; c >= 0; c--) {
            Msg *m = g_queue_peek_head(&w->ch[c]);

            if (m) {
                CONSIDER(m->at, c == CTL_BP || c == DATA_BP ? p_ready
                                                            : b_ready, c);
            }
        }
        CONSIDER(w->sync_at, p_ready, CHANNELS + 2);
        CONSIDER(w->guest_at, 0, CHANNELS + 3);
        CONSIDER(w->failover_at, b_ready, CHANNELS + 4);
        CONSIDER(w->running_at, b_ready, CHANNELS + 5);
        CONSIDER(stop, p_ready, CHANNELS + 6);
#undef CONSIDER
        w->now = best;
        must(w, w->now < end);
        if (what < CHANNELS) {
            deliver(w, what);
        } else if (what == CHANNELS) {
            w->p_poll = w->p_alive ? ft_pri_poll(&w->p, w->now) : INT64_MAX;
            must(w, w->p_poll > w->now || w->now < w->take_fails);
        } else if (what == CHANNELS + 1) {
            w->b_poll = w->b_alive ? ft_bak_poll(&w->b, w->now) : INT64_MAX;
            must(w, w->b_poll > w->now);
        } else if (what == CHANNELS + 2) {
            /* The engine tries again when epoch 1 could not be taken. */
            w->sync_at = INT64_MAX;
            if (w->p_alive) {
                ft_pri_sync_done(&w->p, w->now);
                if (w->p.state == FT_PRI_SYNC && !w->p.taken) {
                    w->sync_at = w->now + EPOCH;
                }
                w->p_poll = w->now;
            }
        } else if (what == CHANNELS + 3) {
            if (w->p_hangs <= w->now || w->b_runs) {
                guest_runs(w);
            } else {
                w->guest_at = w->p_hangs;
            }
            disk_runs(w);
        } else if (what == CHANNELS + 4) {
            w->failover_at = INT64_MAX;
            w->do_failover = true;
        } else if (what == CHANNELS + 5) {
            w->running_at = INT64_MAX;
            if (w->b_alive) {
                ft_bak_running(&w->b);
                w->b_runs = true;
            }
        } else {
            /* Nothing has ended it so far: the operator does. */
            stop = INT64_MAX;
            w->do_cancel = true;
        }
        commands(w);
    }

    /* Somebody is left, if anybody can be. */
    if (w->p_alive && w->p_fenced) {
        must(w, w->b_runs || !w->b_alive || w->fail_apply);
        must(w, w->resumed || !w->b_alive || w->fail_apply);
    }
    if (w->p_alive && !w->p_fenced) {
        must(w, !w->held->len);
        must(w, w->disk.all || !w->p.taken);
        must(w, !w->p_stalled);
        must(w, !w->b_runs || w->control_cut);
    }
    if (fault == NONE || fault == CANCEL) {
        must(w, w->b_orderly);
    }
    if (fault == NONE && !w->disk.slow) {
        must(w, w->b.on_disk > 0);
    }
    if (fault == KILL_PRIMARY && w->fault_done && w->backup_could) {
        must(w, w->b_runs || w->b_orderly);
    }
    if (steps) {
        *steps = w->steps;
    }
    for (int c = 0; c < CHANNELS; c++) {
        g_queue_clear_full(&w->ch[c], g_free);
    }
    g_array_free(w->held, true);
    g_hash_table_destroy(w->image);
    disk_free(&w->disk);
    g_string_free(w->log, true);
}

/* Each fault at each step of the first epochs, and at later ones by luck. */
static void test_pair(gconstpointer data)
{
    Fault fault = GPOINTER_TO_INT(data);
    int rounds = g_test_slow() ? 40 : 4;

    for (int i = 0; i < rounds; i++) {
        for (uint64_t at = 0; at < 150; at++) {
            run(fault, at, 1 + g_test_rand_int_range(0, 4), NULL);
        }
        for (int j = 0; j < 50; j++) {
            run(fault, g_test_rand_int_range(150, 600),
                1 + g_test_rand_int_range(0, 16), NULL);
        }
    }
}

/* Without a fault a run is long enough for the steps above to be reached. */
static void test_steps(void)
{
    uint64_t steps;

    for (unsigned depth = 1; depth <= 4; depth++) {
        run(NONE, UINT64_MAX, depth, &steps);
        g_assert_cmpuint(steps, >, 150);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/pair/steps", test_steps);
    for (Fault f = NONE; f < FAULT__MAX; f++) {
        g_autofree char *path = g_strdup_printf("/ft/pair/%s", fault_name[f]);

        g_test_add_data_func(path, GINT_TO_POINTER(f), test_pair);
    }
    return g_test_run();
}
