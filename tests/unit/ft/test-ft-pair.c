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
 *   - every run ends, and as long as one host is left, so does the guest
 *
 * Runs are drawn from glib's random numbers: --seed repeats them.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/ft/primary-fsm.h"
#include "migration/ft/backup-fsm.h"

#define EPOCH   10000
#define ACK     200000
#define FENCE   300000          /* more than twice the grace */
#define SETUP   500000
#define DELAY   4000            /* of a message, at most */
#define RUN     30000000        /* a run is over by then */

typedef enum Fault {
    NONE,
    CUT_DATA,
    CUT_CONTROL,
    CUT_BOTH,
    KILL_PRIMARY,
    KILL_BACKUP,
    CANCEL,                     /* at the primary */
    DISARM,                     /* the backup quits */
    FAILOVER,                   /* the operator's */
    LATE_ACK,                   /* the control connection is slow */
    HANG_PRIMARY,
    HANG_BACKUP,
    HANG_FAILOVER,              /* primary hangs, the operator sees it */
    TORN,                       /* a frame of the data connection is gone */
    APPLY_FAILS,
    TAKE_FAILS,                 /* the guest cannot be paused for a while */
    FAULT__MAX
} Fault;

static const char *const fault_name[] = {
    "none", "cut-data", "cut-control", "cut-both", "kill-primary",
    "kill-backup", "cancel", "disarm", "failover", "late-ack",
    "hang-primary", "hang-backup", "hang-failover", "torn", "apply-fails",
    "take-fails",
};

typedef enum MsgKind {
    M_FRAME, M_ACK, M_DISARM, M_FAILOVER, M_FENCED, M_ERROR, M_EOF,
} MsgKind;

typedef struct Msg {
    MsgKind kind;
    int64_t at;                 /* arrives */
    FtFrame frame;
    uint64_t value;             /* ACK: epoch; PAGES, DEVICES: the count */
    uint8_t end[FT_EPOCH_END_SIZE];
} Msg;

enum { CTL_BP, CTL_PB, DATA_BP, DATA_PB, CHANNELS };

typedef struct World {
    FtPri p;
    FtBak b;
    int64_t now;
    GQueue ch[CHANNELS];
    int64_t last_at[CHANNELS];
    bool closed[CHANNELS];      /* nothing that is sent now arrives */
    bool p_alive, b_alive;
    int64_t p_hangs, b_hangs;   /* until */
    int64_t p_poll, b_poll;     /* next calls */
    int64_t guest_at, sync_at, running_at, failover_at;
    bool p_stalled, p_fenced, p_ended, b_runs, b_over, b_orderly;
    bool p_dropped, p_committing;
    bool control_cut;           /* while both lived */
    bool do_cancel, do_disarm, do_failover;
    bool fail_apply;
    int64_t take_fails;         /* until */
    /* the guest */
    uint64_t count;             /* of the one at the primary */
    GArray *held;               /* {epoch, count} */
    uint64_t seen;              /* outside: last count */
    GHashTable *image;          /* epoch -> count, as captured */
    uint64_t ram;               /* of the backup */
    uint64_t staged_ram, staged_dev;
    uint64_t resumed;           /* epoch that the backup goes on from */
    uint64_t resumed_count;
    /* the fault */
    Fault fault;
    uint64_t steps, fault_step;
    bool fault_done;
    bool backup_could;          /* the backup held an epoch at the fault */
    GString *log;
} World;

typedef struct Held {
    uint64_t epoch, count;
} Held;

static void inject(World *w);

static void G_GNUC_PRINTF(2, 3) say(World *w, const char *fmt, ...)
{
    va_list ap;

    g_string_append_printf(w->log, "%" PRId64 " ", w->now);
    va_start(ap, fmt);
    g_string_append_vprintf(w->log, fmt, ap);
    va_end(ap);
    g_string_append_c(w->log, '\n');
}

static void broken(World *w, const char *what)
{
    g_test_message("fault %s at step %" PRIu64 ": %s\n%s",
                   fault_name[w->fault], w->fault_step, what, w->log->str);
    g_error("fault %s at step %" PRIu64 ": %s", fault_name[w->fault],
            w->fault_step, what);
}

#define must(w, what) do { if (!(what)) { broken(w, #what); } } while (0)

/* A moment at which the fault may hit. */
static void step(World *w)
{
    if (w->steps++ == w->fault_step && !w->fault_done) {
        w->fault_done = true;
        inject(w);
    }
}

/* -------------------------------------------------------------- channels */

static Msg *chan_send(World *w, int c, MsgKind kind)
{
    Msg *m;
    int64_t delay = g_test_rand_int_range(50, DELAY);

    if (w->closed[c]) {
        return NULL;
    }
    if (w->fault == LATE_ACK && w->fault_done && c == CTL_BP &&
        kind == M_ACK) {
        delay += g_test_rand_int_range(0, 2 * ACK);
    }
    m = g_new0(Msg, 1);
    m->kind = kind;
    m->at = w->last_at[c] = MAX(w->last_at[c], w->now + delay);
    g_queue_push_tail(&w->ch[c], m);
    return m;
}

/* No more after what is under way; with @lossy, the last of it is lost. */
static void chan_close(World *w, int c, bool lossy)
{
    if (w->closed[c]) {
        return;
    }
    if (lossy) {
        guint lost = g_test_rand_int_range(0, w->ch[c].length + 1);

        while (lost--) {
            g_free(g_queue_pop_tail(&w->ch[c]));
        }
    }
    chan_send(w, c, M_EOF);
    w->closed[c] = true;
}

static void cut(World *w, bool data, bool control)
{
    if (data) {
        chan_close(w, DATA_PB, true);
        chan_close(w, DATA_BP, true);
    }
    if (control) {
        w->control_cut = w->control_cut || (w->p_alive && w->b_alive);
        chan_close(w, CTL_PB, true);
        chan_close(w, CTL_BP, true);
    }
}

/* A process goes: what it has sent may or may not arrive. */
static void kill_primary(World *w)
{
    say(w, "primary killed");
    w->p_alive = false;
    cut(w, true, true);
}

static void kill_backup(World *w)
{
    say(w, "backup killed");
    w->b_alive = false;
    cut(w, true, true);
}

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
    say(w, "epoch %" PRIu64 " taken at %" PRIu64, epoch, w->count);
    for (unsigned i = 0; i <= pages + 1; i++) {
        /* Each frame may be the last that leaves. */
        step(w);
        m = w->p_alive ? chan_send(w, DATA_PB, M_FRAME) : NULL;
        if (!m) {
            continue;
        }
        m->frame.epoch = epoch;
        m->value = w->count;
        if (i < pages) {
            m->frame.type = FT_FRAME_PAGES;
            m->frame.length = 8;
        } else if (i == pages) {
            m->frame.type = FT_FRAME_DEVICES;
            m->frame.length = 8;
        } else {
            m->frame.type = FT_FRAME_EPOCH_END;
            m->frame.flags = FT_FLAG_RUNNING;
            m->frame.length = FT_EPOCH_END_SIZE;
            end.ram_hash = w->count;
            ft_wire_put_epoch_end(m->end, &end);
        }
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
    step(w);
    if (w->fail_apply) {
        error_setg(errp, "RAM differs");
        return false;
    }
    w->ram = end->ram_hash;
    return true;
}

static void b_drop(void *opaque)
{
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
        .max_device_bytes = 1000,
    };
    int64_t end = w->now + RUN, stop = w->now + 30 * EPOCH;

    w->log = g_string_new(NULL);
    w->held = g_array_new(false, false, sizeof(Held));
    w->image = g_hash_table_new(NULL, NULL);
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
        must(w, !w->p_stalled);
        must(w, !w->b_runs || w->control_cut);
    }
    if (fault == NONE || fault == CANCEL) {
        must(w, w->b_orderly);
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
