/*
 * For test-ft-pair.c: the world that both machines run in, its connections,
 * heartbeats and arbiter
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_PAIR_WORLD_H
#define TEST_FT_PAIR_WORLD_H

#include "migration/ft/primary-fsm.h"
#include "migration/ft/backup-fsm.h"
#include "migration/ft/heart.h"
#include "pair-disk.h"

#define EPOCH   10000
#define ACK     200000
#define FENCE   300000          /* more than twice the grace */
#define SETUP   500000
#define BEAT    20000
#define TIMEOUT 100000          /* of heartbeats */
#define DISARM  100000          /* a disarm's answer is waited for */
#define DELAY   4000            /* of a message, at most */
#define RUN     30000000        /* a run is over by then */

typedef enum Fault {
    NONE,
    CUT_DATA,
    CUT_CONTROL,
    CUT_HEART,
    CUT_BOTH,
    CUT_ALL,
    CUT_CABLE,                  /* nothing arrives, nobody is told */
    CUT_ONE_WAY,                /* the same, but only one way */
    KILL_PRIMARY,
    KILL_BACKUP,
    CANCEL,                     /* at the primary */
    QUIT,                       /* the backup does */
    FAILOVER,                   /* the operator's */
    NO_ARBITER,                 /* at first, and the cable is cut */
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
    "none", "cut-data", "cut-control", "cut-heart", "cut-both", "cut-all",
    "cut-cable", "cut-one-way", "kill-primary", "kill-backup", "cancel",
    "quit", "failover", "no-arbiter", "late-ack",
    "hang-primary", "hang-backup", "hang-failover", "torn", "apply-fails",
    "take-fails",
};

typedef enum MsgKind {
    M_FRAME, M_ACK, M_DISARM, M_FAILOVER, M_CLAIMED, M_FENCED, M_ERROR,
    M_BEAT, M_EOF,
} MsgKind;

typedef struct Msg {
    MsgKind kind;
    int64_t at;                 /* arrives */
    FtFrame frame;
    uint64_t value;             /* ACK: epoch; PAGES, DEVICES: the count;
                                 * JOURNAL: the first record; BEAT: number */
    uint64_t echo;
    uint8_t end[FT_EPOCH_END_SIZE];
} Msg;

enum { CTL_BP, CTL_PB, DATA_BP, DATA_PB, HEART_BP, HEART_PB, CHANNELS };

/* Who something is for. */
enum { PRI, BAK };

static inline int reader(int channel)
{
    return channel & 1 ? BAK : PRI;
}

typedef struct World {
    FtPri p;
    FtBak b;
    int64_t now;
    GQueue ch[CHANNELS];
    int64_t last_at[CHANNELS];
    bool closed[CHANNELS];      /* nothing that is sent now arrives */
    bool cable_cut[2];          /* nor does it, but that is not known */
    /* heartbeats, and the arbiter's only generation */
    FtHeart heart[2];
    bool heart_over[2], lease_wanted;
    int64_t heart_at[2], heart_lost_at[2];
    int owner;                  /* -1: nobody's */
    int64_t arbiter_back;       /* in reach from then on */
    int64_t claim_at[2], answer_at[2];
    FtClaim answer[2];
    bool p_alive, b_alive;
    int64_t p_hangs, b_hangs;   /* until */
    int64_t p_poll, b_poll;     /* next calls */
    int64_t guest_at, sync_at, running_at, failover_at;
    bool p_stalled, p_fenced, p_ended, b_runs, b_over, b_orderly;
    bool p_dropped, p_committing;
    bool b_bye;                 /* the backup has said that it leaves */
    bool do_cancel, do_quit, do_failover;
    bool fail_apply;
    int64_t take_fails;         /* until */
    /* the guest */
    uint64_t count;             /* of the one at the primary */
    GArray *held;               /* {epoch, count} */
    uint64_t seen;              /* outside: last count */
    GHashTable *image;          /* epoch -> count, as captured */
    uint64_t ram;               /* of the backup */
    uint64_t staged_ram, staged_dev;
    Disk disk;
    uint64_t resumed;           /* epoch that the backup goes on from */
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

    if (w->closed[c] || w->cable_cut[reader(c)]) {
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

/* Each frame may be the last that leaves the primary. */
static Msg *p_frame(World *w, FtFrameType type, uint64_t epoch,
                    uint32_t length, uint64_t value)
{
    Msg *m;

    step(w);
    m = w->p_alive ? chan_send(w, DATA_PB, M_FRAME) : NULL;
    if (m) {
        m->frame = (FtFrame) { .type = type, .epoch = epoch,
                               .length = length };
        m->value = value;
    }
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

static void cut(World *w, bool data, bool control, bool heart)
{
    for (int c = 0; c < CHANNELS; c++) {
        if (c <= CTL_PB ? control : c <= DATA_PB ? data : heart) {
            chan_close(w, c, true);
        }
    }
}

/* What is under way does not arrive either, but for some of it. */
static void cut_cable(World *w, int to)
{
    w->cable_cut[to] = true;
    for (int c = 0; c < CHANNELS; c++) {
        guint lost = reader(c) != to ? 0 :
                     g_test_rand_int_range(0, w->ch[c].length + 1);

        while (lost--) {
            g_free(g_queue_pop_tail(&w->ch[c]));
        }
    }
}

/* A process goes: what it has sent may or may not arrive. */
static void kill_primary(World *w)
{
    say(w, "primary killed");
    w->p_alive = false;
    cut(w, true, true, true);
}

static void kill_backup(World *w)
{
    say(w, "backup killed");
    w->b_alive = false;
    cut(w, true, true, true);
}

/* ---------------------------------------------------------------- claims */

static void claim(World *w, int side)
{
    g_assert_cmpint(w->claim_at[side], ==, INT64_MAX);
    w->claim_at[side] = MAX(w->now, w->arbiter_back) +
                        g_test_rand_int_range(0, DELAY);
}

/* It arrives there; the answer comes later. */
static void claim_arrives(World *w, int side)
{
    w->claim_at[side] = INT64_MAX;
    if (w->owner < 0) {
        w->owner = side;
        say(w, "the %s has the claim", side == PRI ? "primary" : "backup");
    }
    w->answer[side] = w->owner == side ? FT_CLAIM_WON : FT_CLAIM_LOST;
    w->answer_at[side] = w->now + g_test_rand_int_range(0, DELAY);
}

#endif
