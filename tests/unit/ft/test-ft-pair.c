/*
 * Unit tests of primary-fsm.c and backup-fsm.c against each other
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both machines run in one simulated world: a clock, three connections of
 * ordered messages with delays, heartbeats, an arbiter, a guest that counts
 * and says its count to the outside.  In every run one fault hits at one step
 * of the protocol (test-ft-line.c has several).  What must hold is checked as
 * it happens:
 *
 *   - the outside sees nothing that the backup does not know of
 *   - once the backup goes on, nothing comes from the primary
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
#include "pair-ops.h"

/* ---------------------------------------------------------------- faults */

/* Called from inside the machines: may change the world, not call them. */
static void inject(World *w)
{
    int64_t hang = w->now + g_test_rand_int_range(0, 3 * FENCE);

    say(w, "*** %s", fault_name[w->fault]);
    w->backup_could = w->b.committed && w->p.state == FT_PRI_PROTECTED;
    switch (w->fault) {
    case CUT_DATA:
        cut(w, true, false, false);
        break;
    case CUT_CONTROL:
        cut(w, false, true, false);
        break;
    case CUT_HEART:
        cut(w, false, false, true);
        break;
    case CUT_BOTH:
        cut(w, true, true, false);
        break;
    case CUT_ALL:
        cut(w, true, true, true);
        break;
    case NO_ARBITER:
        w->arbiter_back = w->now + g_test_rand_int_range(0, 5 * FENCE);
        /* fall through */
    case CUT_CABLE:
        cut_cable(w, PRI);
        cut_cable(w, BAK);
        break;
    case CUT_ONE_WAY:
        cut_cable(w, g_test_rand_bit() ? PRI : BAK);
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
    case QUIT:
        w->do_quit = true;
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

static void to_primary(World *w, int c, Msg *m)
{
    if (!w->p_alive || w->p.dead) {
        /* nobody hears it */
    } else if (m->kind == M_ACK) {
        ft_pri_ack(&w->p, m->value, w->now);
    } else if (m->kind == M_FAILOVER || m->kind == M_CLAIMED) {
        ft_pri_peer_failover(&w->p, m->kind == M_CLAIMED);
    } else if (m->kind == M_DISARM) {
        ft_pri_peer_gone(&w->p, "the backup left");
    } else if (m->kind == M_ERROR) {
        ft_pri_peer_gone(&w->p, "the backup reports an error");
    } else if (c == DATA_BP) {
        ft_pri_conn_lost(&w->p, "data", w->now);
    } else {
        ft_pri_lost(&w->p, "control");
    }
    w->p_poll = w->now;
}

static void to_backup(World *w, int c, Msg *m)
{
    Error *err = NULL;

    if (!w->b_alive || w->b_over) {
        /* nobody hears it */
    } else if (m->kind == M_DISARM) {
        ft_bak_peer_disarm(&w->b, "the primary left");
    } else if (m->kind == M_FENCED) {
        ft_bak_peer_fenced(&w->b);
    } else if (m->kind == M_EOF && c == CTL_PB) {
        ft_bak_control_lost(&w->b, w->now);
    } else if (m->kind == M_EOF) {
        ft_bak_data_lost(&w->b, w->now);
    } else if (w->b.state < FT_BAK_TAKEOVER &&
               !ft_bak_frame(&w->b, &m->frame,
                             m->frame.type == FT_FRAME_EPOCH_END ?
                             (void *)m->end : (void *)m, &err)) {
        must(w, w->b.state == FT_BAK_DISCARDED);
        must(w, w->fault == TORN || w->fault == APPLY_FAILS);
        error_free(err);
    }
    w->b_poll = w->now;
}

static void deliver(World *w, int c)
{
    Msg *m;

    if (c == HEART_BP || c == HEART_PB) {
        heart_read(w, reader(c));
        return;
    }
    m = g_queue_pop_head(&w->ch[c]);
    if (reader(c) == PRI) {
        to_primary(w, c, m);
    } else {
        to_backup(w, c, m);
    }
    g_free(m);
}

static void guest_runs(World *w)
{
    bool holds;

    w->guest_at = w->now + g_test_rand_int_range(100, EPOCH);
    if (w->b_runs && w->b_alive) {
        w->ram++;
        /* It may have said this before, but then nobody heard it. */
        must(w, w->ram > w->seen);
        outside(w, w->ram, "backup");
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
    if (!w->disk.all && !leased(w)) {
        return;
    }
    /* As with output. */
    must(w, !w->resumed);
    disk_work(&w->disk);
    must(w, w->disk.all ||
         w->disk.applied <= disk_sealed(&w->disk, w->b.committed)->last);
}

static void commands(World *w)
{
    if (w->do_cancel && w->p_alive && w->p_hangs <= w->now) {
        w->do_cancel = false;
        ft_pri_cancel(&w->p, "cancelled", false, w->now);
        w->p_poll = w->now;
    }
    if (w->do_quit && w->b_alive && w->b_hangs <= w->now) {
        w->do_quit = false;
        if (ft_bak_may_disarm(&w->b)) {
            /* It quits: says so, and its process ends. */
            b_bye(w, M_DISARM);
            b_closes(w);
            w->b_alive = false;
            say(w, "backup quits");
        }
    }
    if (w->do_failover && w->b_alive && w->b_hangs <= w->now) {
        Error *err = NULL;

        w->do_failover = false;
        w->b_poll = w->now;
        if (!ft_bak_failover(&w->b, false, w->now, &err)) {
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

static void world_init(World *w, unsigned depth)
{
    FtPriParams pp = {
        .epoch_us = EPOCH, .min_run_us = 1000, .ack_timeout_us = ACK,
        .setup_timeout_us = SETUP, .disarm_wait_us = DISARM, .depth = depth,
    };
    FtBakParams bp = {
        .fence_timeout_us = FENCE, .max_stage_bytes = 1000,
        .max_device_bytes = 1000, .max_journal_bytes = 10000 * RECORD,
    };
    FtHeartParams hp = { .interval_us = BEAT, .timeout_us = TIMEOUT };

    w->log = g_string_new(NULL);
    w->held = g_array_new(false, false, sizeof(Held));
    w->image = g_hash_table_new(NULL, NULL);
    disk_init(&w->disk);
    ft_pri_init(&w->p, &p_ops, w, &pp);
    ft_bak_init(&w->b, &b_ops, w, &bp);
    for (int side = PRI; side <= BAK; side++) {
        w->heart_at[side] = w->now + g_test_rand_int_range(0, DELAY);
        ft_heart_init(&w->heart[side], &hp, w->heart_at[side]);
        w->claim_at[side] = w->answer_at[side] = INT64_MAX;
        w->heart_lost_at[side] = INT64_MAX;
    }
    ft_pri_start(&w->p, w->now);
    ft_bak_connected(&w->b);
    ft_pri_connected(&w->p, w->now);
    w->sync_at = w->now + g_test_rand_int_range(0, 3 * EPOCH);
    w->guest_at = w->now;
}

static void world_clear(World *w)
{
    for (int c = 0; c < CHANNELS; c++) {
        g_queue_clear_full(&w->ch[c], g_free);
    }
    g_array_free(w->held, true);
    g_hash_table_destroy(w->image);
    disk_free(&w->disk);
    g_string_free(w->log, true);
}

enum {
    E_POLL = CHANNELS, E_HEART = E_POLL + 2, E_HEART_LOST = E_HEART + 2,
    E_CLAIM = E_HEART_LOST + 2, E_ANSWER = E_CLAIM + 2,
    E_SYNC = E_ANSWER + 2, E_GUEST, E_FAILOVER, E_RUNNING, E_STOP,
};

/*
 * What comes first.  Of what is there already, the worst first: the clock,
 * then what the data connection says, then the control.
 */
static int next_event(World *w, int64_t stop)
{
    int64_t best = INT64_MAX;
    int what = -1;

#define CONSIDER(when, ready, id) \
    do { \
        int64_t at = MAX(MAX(when, ready), w->now); \
        if ((when) != INT64_MAX && at < best) { \
            best = at; \
            what = id; \
        } \
    } while (0)
    for (int side = PRI; side <= BAK; side++) {
        int64_t ready = side == PRI ? w->p_hangs : w->b_hangs;

        CONSIDER(side == PRI ? w->p_poll : w->b_poll, ready, E_POLL + side);
        if (!w->heart_over[side]) {
            CONSIDER(w->heart_at[side], ready, E_HEART + side);
        }
        CONSIDER(w->heart_lost_at[side], ready, E_HEART_LOST + side);
        CONSIDER(w->claim_at[side], 0, E_CLAIM + side);
        CONSIDER(w->answer_at[side], ready, E_ANSWER + side);
    }
    for (int c = CHANNELS - 1; c >= 0; c--) {
        Msg *m = g_queue_peek_head(&w->ch[c]);

        if (m && (c < HEART_BP || !w->heart_over[reader(c)])) {
            CONSIDER(m->at, reader(c) == PRI ? w->p_hangs : w->b_hangs, c);
        }
    }
    CONSIDER(w->sync_at, w->p_hangs, E_SYNC);
    CONSIDER(w->guest_at, 0, E_GUEST);
    CONSIDER(w->failover_at, w->b_hangs, E_FAILOVER);
    CONSIDER(w->running_at, w->b_hangs, E_RUNNING);
    CONSIDER(stop, w->p_hangs, E_STOP);
#undef CONSIDER
    w->now = best;
    return what;
}

/* Of one side. */
static void side_event(World *w, int what, int side)
{
    bool alive = side == PRI ? w->p_alive : w->b_alive;

    if (what == E_CLAIM) {
        claim_arrives(w, side);
    } else if (!alive) {
        /* Nothing of it comes again. */
        w->heart_over[side] = true;
        w->heart_lost_at[side] = w->answer_at[side] = INT64_MAX;
        *(side == PRI ? &w->p_poll : &w->b_poll) = INT64_MAX;
    } else if (what == E_HEART) {
        heart_runs(w, side);
    } else if (what == E_HEART_LOST) {
        w->heart_lost_at[side] = INT64_MAX;
        heart_told(w, side, false);
    } else if (what == E_ANSWER) {
        w->answer_at[side] = INT64_MAX;
        if (side == PRI) {
            ft_pri_claimed(&w->p, w->answer[side], "");
            w->p_poll = w->now;
        } else {
            ft_bak_claimed(&w->b, w->answer[side], "", w->now);
            w->b_poll = w->now;
        }
    } else if (side == PRI) {
        w->p_poll = ft_pri_poll(&w->p, w->now);
        must(w, w->p_poll > w->now || w->now < w->take_fails);
    } else {
        w->b_poll = ft_bak_poll(&w->b, w->now);
        must(w, w->b_poll > w->now);
    }
}

static void event(World *w, int what, int64_t *stop)
{
    if (what < CHANNELS) {
        deliver(w, what);
    } else if (what < E_SYNC) {
        what -= E_POLL;
        side_event(w, E_POLL + (what & ~1), what & 1);
    } else if (what == E_SYNC) {
        /* The engine tries again when epoch 1 could not be taken. */
        w->sync_at = INT64_MAX;
        if (w->p_alive) {
            ft_pri_sync_done(&w->p, w->now);
            if (w->p.state == FT_PRI_SYNC && !w->p.taken) {
                w->sync_at = w->now + EPOCH;
            }
            w->p_poll = w->now;
        }
    } else if (what == E_GUEST) {
        if (w->p_hangs <= w->now || w->b_runs) {
            guest_runs(w);
        } else {
            w->guest_at = w->p_hangs;
        }
        disk_runs(w);
    } else if (what == E_FAILOVER) {
        w->failover_at = INT64_MAX;
        w->do_failover = true;
    } else if (what == E_RUNNING) {
        w->running_at = INT64_MAX;
        if (w->b_alive) {
            ft_bak_running(&w->b);
            w->b_runs = true;
        }
    } else {
        /* Nothing has ended it so far: the operator does. */
        *stop = INT64_MAX;
        w->do_cancel = true;
    }
}

static void run(Fault fault, uint64_t fault_step, unsigned depth,
                uint64_t *steps)
{
    World world = {
        .p_alive = true, .b_alive = true, .now = 1000000, .fault = fault,
        .fault_step = fault_step, .failover_at = INT64_MAX,
        .running_at = INT64_MAX, .owner = -1,
    };
    World *w = &world;
    int64_t end = w->now + RUN, stop = w->now + 30 * EPOCH;

    world_init(w, depth);
    while (!(p_over(w) && b_over(w))) {
        int what = next_event(w, stop);

        must(w, w->now < end);
        event(w, what, &stop);
        commands(w);
    }

    /* Exactly one is left, if anybody can be. */
    if (w->p_alive && w->p_fenced) {
        must(w, w->b_runs || !w->b_alive);
        must(w, w->resumed || !w->b_alive);
    }
    if (w->p_alive && !w->p_fenced) {
        must(w, !w->held->len);
        must(w, w->disk.all || !w->p.taken);
        must(w, !w->p_stalled);
        must(w, !w->b_runs && !w->resumed);
    }
    if (fault == NONE || fault == CANCEL) {
        must(w, w->b_orderly);
        must(w, w->owner < 0);
    }
    if (fault == NONE && !w->disk.slow) {
        must(w, w->b.on_disk > 0);
    }
    if (fault == KILL_PRIMARY && w->fault_done && w->backup_could) {
        must(w, w->b_runs || w->b_orderly);
    }
    if (fault == KILL_BACKUP) {
        /* Until then there was no reason to ask this side to stop. */
        must(w, !w->p_fenced);
    }
    if (steps) {
        *steps = w->steps;
    }
    world_clear(w);
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
