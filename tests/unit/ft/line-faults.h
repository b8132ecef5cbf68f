/*
 * For test-ft-line.c: histories, and the faults that they are made of
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_LINE_FAULTS_H
#define TEST_FT_LINE_FAULTS_H

#include "line-sides.h"

typedef enum FaultKind {
    KILL, POWER_OFF, STOP, HANG, CUT, CUT_ONE_WAY, RESET, ARBITER_OUT,
    LOSE_ANSWER, CANCEL, FAILOVER, QUIT_PRIMARY, QUIT_BACKUP, SLOW, TORN,
    APPLY_FAILS, TAKEOVER_FAILS, TAKE_FAILS, FULL, FORCE, FAULT__MAX
} FaultKind;

static const char *const fault_name[] = {
    "kill", "power-off", "stop", "hang", "cut", "cut-one-way", "reset",
    "arbiter-out", "lose-answer", "cancel", "failover", "quit-primary",
    "quit-backup", "slow", "torn", "apply-fails", "takeover-fails",
    "take-fails", "full", "force",
};

typedef struct Fault {
    FaultKind kind;
    int sess;
    int64_t after, at;          /* the session's beginning; NEVER: done */
    Side side;
    int64_t time;
    ConnKind conn;
} Fault;

/* The faults of a session come in its first so many microseconds. */
#define TROUBLE     700000
/* After so long it is whole again, and ended if it still can be. */
#define REST        1500000
/* And all is over by then. */
#define THE_END     30000000

typedef struct History {
    World w;
    Sess room[SESSIONS];
    Fault fault[FAULTS];
    int faults;
    int64_t rest_at, end_at, next_at;
} History;

static void draw(History *h, uint64_t seed)
{
    unsigned char weight[FAULT__MAX] = {
        [KILL] = 12, [POWER_OFF] = 5, [STOP] = 16, [HANG] = 6, [CUT] = 10,
        [CUT_ONE_WAY] = 8, [RESET] = 12, [ARBITER_OUT] = 14,
        [LOSE_ANSWER] = 4, [CANCEL] = 6, [FAILOVER] = 8, [QUIT_PRIMARY] = 2,
        [QUIT_BACKUP] = 4, [SLOW] = 4, [TORN] = 1, [APPLY_FAILS] = 1,
        [TAKEOVER_FAILS] = 1, [TAKE_FAILS] = 2, [FULL] = 4,
        [FORCE] = h->w.force ? 40 : 0,
    };
    uint64_t state = seed * 0x2545f4914f6cdd1dull + 7;
    int all = 0;

    for (int i = 0; i < FAULT__MAX; i++) {
        all += weight[i];
    }
    h->faults = 0;
    for (int sess = 0; sess < SESSIONS; sess++) {
        int n = 1 + rnd_next(&state) % 4;
        /* Often all at once: that is where it gets narrow. */
        int64_t centre = rnd_next(&state) % TROUBLE;
        bool narrow = rnd_next(&state) % 2;

        while (n-- > 0 && h->faults < FAULTS) {
            Fault *f = &h->fault[h->faults++];
            int pick = rnd_next(&state) % all;

            *f = (Fault) { .sess = sess, .at = NEVER };
            while (pick >= weight[f->kind]) {
                pick -= weight[f->kind++];
            }
            f->after = narrow ? MAX(0, centre + (int64_t)
                                    (rnd_next(&state) % 160000) - 80000)
                              : rnd_next(&state) % TROUBLE;
            f->side = rnd_next(&state) % 2;
            f->conn = rnd_next(&state) % CONNS;
            switch (rnd_next(&state) % 3) {
            case 0:
                f->time = rnd_next(&state) % 30000;
                break;
            case 1:
                f->time = rnd_next(&state) % (3 * TIMEOUT);
                break;
            case 2:
                f->time = rnd_next(&state) % (4 * REST);
                break;
            }
        }
    }
}

static void kill_proc(World *w, int proc, bool off)
{
    Proc *p = &w->proc[proc];

    if (!p->alive) {
        return;
    }
    say(w, "process %d is killed", proc);
    p->killed = true;
    p->off = off;
    for (int i = 0; i < w->sessions; i++) {
        Sess *s = w->sess[i];

        for (Side side = PRI; side <= BAK; side++) {
            if (s->proc[side] != proc) {
                continue;
            }
            if (off) {
                conns_off(w, s, side);
            }
            /* What its kernel sent may be lost with it. */
            for (ConnKind k = DATA; k < CONNS; k++) {
                conn_close(w, s, k, side, true);
            }
            proc_ends(w, s, side);
        }
    }
}

static void cut(World *w, Sess *s, Side to, int64_t time)
{
    cable_cut(w, s, to);
    s->repair_at = MAX(s->repair_at == NEVER ? 0 : s->repair_at,
                       w->now + time);
}

static void hit(History *h, Fault *f)
{
    World *w = &h->w;
    Sess *s = w->sess[f->sess];
    Proc *p = proc_of(w, s, f->side);
    bool live = p->alive && w->now >= loop_ready(p);

    say(w, "*** %s %s%s for %.1f", fault_name[f->kind], side_name[f->side],
        f->kind != RESET ? "" : f->conn == DATA ? ", data" :
        f->conn == CONTROL ? ", control" : ", heart", f->time / 1000.0);
    switch (f->kind) {
    case KILL:
    case POWER_OFF:
        kill_proc(w, s->proc[f->side], f->kind == POWER_OFF);
        break;
    case STOP:
        p->stopped = MAX(p->stopped, w->now + f->time);
        break;
    case HANG:
        if (p->stuck <= w->now) {
            p->stuck_since = w->now;
        }
        p->stuck = MAX(p->stuck, w->now + f->time);
        break;
    case CUT:
        cut(w, s, PRI, f->time);
        cut(w, s, BAK, f->time);
        break;
    case CUT_ONE_WAY:
        cut(w, s, f->side, f->time);
        break;
    case RESET:
        conn_reset(w, s, f->conn, f->side);
        break;
    case ARBITER_OUT:
        for (Side side = PRI; side <= BAK; side++) {
            if (side == f->side || f->conn == DATA) {
                Proc *o = proc_of(w, s, side);

                o->arbiter_out = true;
                o->arbiter_back = MAX(o->arbiter_back, w->now + f->time);
            }
        }
        break;
    case LOSE_ANSWER:
        p->lose_answer = true;
        break;
    case CANCEL:
    case QUIT_PRIMARY:
        p = proc_of(w, s, PRI);
        if (p->alive && w->now >= loop_ready(p) && !s->p.dead) {
            ft_pri_cancel(&s->p, "cancelled", false, w->now);
            s->poll_at[PRI] = w->now;
            if (f->kind == QUIT_PRIMARY) {
                p->quit = true;
                s->exit_at[PRI] = w->now + 2 * TIMEOUT;
            }
        }
        break;
    case FAILOVER:
        p = proc_of(w, s, BAK);
        if (p->alive && w->now >= loop_ready(p)) {
            ft_bak_failover(&s->b, false, w->now, NULL);
            s->poll_at[BAK] = w->now;
        }
        break;
    case QUIT_BACKUP:
        p = proc_of(w, s, BAK);
        if (p->alive && w->now >= loop_ready(p) &&
            ft_bak_may_disarm(&s->b)) {
            ft_bak_peer_disarm(&s->b, "quit");
        }
        break;
    case SLOW:
        s->slow[f->side] = w->now + f->time;
        break;
    case TORN:
        s->torn = true;
        break;
    case APPLY_FAILS:
        s->apply_fails = true;
        break;
    case TAKEOVER_FAILS:
        s->takeover_fails = true;
        break;
    case TAKE_FAILS:
        s->take_fails = w->now + f->time;
        break;
    case FULL:
        p = proc_of(w, s, PRI);
        if (p->alive && w->now >= loop_ready(p)) {
            ft_pri_output_full(&s->p);
            s->poll_at[PRI] = w->now;
        }
        break;
    case FORCE:
        /* It is dead, and was not the one to go on before that. */
        if (!live || proc_of(w, s, !f->side)->alive || s->b_took ||
            s->p_alone) {
            break;
        }
        s->forced = true;
        if (f->side == BAK) {
            ft_bak_failover(&s->b, true, w->now, NULL);
        } else if (!s->p.dead) {
            ft_pri_cancel(&s->p, "the backup is dead", true, w->now);
        }
        s->poll_at[f->side] = w->now;
        break;
    default:
        g_assert_not_reached();
    }
}

#endif
