/*
 * For test-ft-line.c: hosts, cables, connections and the arbiter
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A line of sessions: process 0 runs the guest at first, session N protects
 * whoever has it then by the fresh process N + 1.  Time is in microseconds.
 *
 * A connection is TCP as a program sees it: what is sent arrives in order,
 * after a while; a cut cable holds it back until the cable is whole again or
 * the sender's kernel gives up; the end of a process may lose what it sent
 * last.  A process that is stopped (SIGSTOP) does nothing, but its kernel
 * goes on; one whose main loop is stuck has its threads.
 */

#ifndef TEST_FT_LINE_WORLD_H
#define TEST_FT_LINE_WORLD_H

#include "migration/ft/primary-fsm.h"
#include "migration/ft/backup-fsm.h"
#include "migration/ft/heart.h"

#define SESSIONS    3
#define PROCS       (SESSIONS + 1)
#define FAULTS      14              /* of a history */

#define EPOCH       25000
#define ACK         400000
#define SETUP       500000
#define FENCE       300000          /* more than twice the grace, and a trip */
#define HEART       40000
#define TIMEOUT     200000
#define DISARM      TIMEOUT
#define STUCK       400000
#define DELAY       4000            /* of a message, mostly at most */
#define RETRY       50000           /* of the arbiter's thread */
#define ASKING      150000          /* it waits for an answer */
#define NEVER       INT64_MAX

typedef enum Side { PRI, BAK } Side;
typedef enum ConnKind { DATA, CONTROL, HEARTS, CONNS } ConnKind;

typedef enum MsgKind {
    M_BEGIN,            /* an epoch's device state */
    M_END,              /* and its end */
    M_BEAT,
    M_ACK, M_DISARM, M_FAILOVER, M_CLAIMED, M_FENCED, M_ERROR,
    M_FIN, M_RST,       /* the connection has ended */
} MsgKind;

typedef struct Msg {
    int64_t at;
    MsgKind kind;
    uint64_t value, echo;
} Msg;

#define RING 128

/* What is on its way to one side. */
typedef struct Ring {
    Msg msg[RING];
    unsigned head, len;
    int64_t last;
    bool over;                  /* nothing more is taken from it */
} Ring;

typedef struct Conn {
    Ring to[2];
    bool closed[2];             /* by this side: its program, or its kernel */
    int64_t unheard[2];         /* sent and not confirmed since, or NEVER */
} Conn;

/* An arbiter's thread: it asks until it knows. */
typedef struct Claimer {
    bool asked, quiet;
    bool waits;                 /* for an answer */
    int64_t thread_at;          /* sends the question, or gives it up */
    int64_t apply_at;           /* it arrives */
    int64_t answer_at;          /* and the answer does */
    FtClaim answer, told;
    int64_t tell_at;            /* the main loop is told of it */
} Claimer;

typedef struct Proc {
    bool alive, killed, off;    /* off: its host is, too */
    int64_t stopped, stuck;     /* until */
    int64_t stuck_since;
    bool arbiter_out;
    int64_t arbiter_back;       /* when it is in reach again */
    bool lose_answer;           /* the next one */
    bool on;                    /* goes on, without anybody else */
    bool fenced, quit;
} Proc;

typedef struct Sess Sess;

/* Why nobody may be left.  Each needs somebody to be killed, or to leave. */
typedef enum Fate {
    F_BUG,
    F_SHUTDOWN,         /* the guest has shut itself down */
    F_BOTH_KILLED,
    F_TAKEOVER_FAILED,
    F_GOING_ON_KILLED,  /* one had gone on */
    F_WINNER_KILLED,    /* one had the arbiter's word, and had not heard it */
    F_BEFORE_FIRST,     /* the primary was killed before epoch 1 was whole */
    F_LEFT,             /* ... or when the backup had left, or given up */
    F_ASKED_KILLED,     /* the backup, having asked the primary to stop */
    FATES
} Fate;

/* Of all histories: that things happen at all. */
typedef struct Totals {
    uint64_t histories, sessions, events, commits, no_lease;
    uint64_t takeovers, alone, orderly, forced, fenced, lost, unknown;
    uint64_t nobody[FATES];     /* is left, by the reason for that */
} Totals;

typedef struct World {
    uint32_t mask;              /* of the faults that do hit */
    uint64_t rng;
    int64_t now;
    Proc proc[PROCS];
    int sessions;
    Sess *sess[SESSIONS];
    int owner[PROCS + 2];       /* of the claim of a generation, or -1 */
    const char *broken;         /* the first that was */
    bool force;                 /* the operator does, if he knows */
    GString *log;               /* or NULL */
    Totals *totals;
} World;

/* ------------------------------------------------------------------- luck */

static uint64_t rnd_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static int64_t rnd(World *w, int64_t below)
{
    return (rnd_next(&w->rng) >> 11) % below;
}

static bool one_in(World *w, int n)
{
    return rnd(w, n) == 0;
}

static void G_GNUC_PRINTF(2, 3) say(World *w, const char *fmt, ...)
{
    va_list ap;

    if (!w->log) {
        return;
    }
    g_string_append_printf(w->log, "%8.1f ", w->now / 1000.0);
    va_start(ap, fmt);
    g_string_append_vprintf(w->log, fmt, ap);
    va_end(ap);
    g_string_append_c(w->log, '\n');
}

static void broken(World *w, const char *what)
{
    if (!w->broken) {
        say(w, "BROKEN: %s", what);
        w->broken = what;
    }
}

#define must(w, cond, what) \
    do { if (!(cond)) { broken(w, what); } } while (0)

/* -------------------------------------------------------------- processes */

/* When a thread, or the main loop, of @p gets to run. */
static int64_t thread_ready(const Proc *p)
{
    return p->alive ? p->stopped : NEVER;
}

static int64_t loop_ready(const Proc *p)
{
    return p->alive ? MAX(p->stopped, p->stuck) : NEVER;
}

/* --------------------------------------------------------------- sessions */

struct Sess {
    World *w;
    int index;
    int proc[2];
    uint64_t generation;
    FtPri p;
    FtBak b;
    Conn conn[CONNS];
    /* the cable, by the side that something is on its way to */
    bool cut[2];
    int64_t cut_at[2], repair_at;
    int64_t slow[2];            /* until */
    /* a pulse thread on each side */
    FtHeart heart[2];
    bool pulse_over[2];
    int64_t pulse_at[2];        /* poll */
    int64_t pulse_lost_at[2];   /* its connection has ended: told then */
    bool wanted;                /* the lease */
    /* what threads have told the primary's main loop, from when on */
    int64_t silent_at, lost_at, renewed_at;
    Claimer claim[2];
    int64_t poll_at[2];
    int64_t sync_at, sent_at;   /* epoch 1: taken, and if withheld sent */
    int64_t begin_at, running_at;   /* the takeover */
    int64_t exit_at[2];         /* of the process */
    int64_t take_fails;
    bool apply_fails, takeover_fails, torn;
    bool data_over;             /* the backup's data thread has ended */
    /* what was seen */
    bool p_alone, p_dropped, asked, b_took, b_bye;
    bool b_failed, forced;
    bool over;                  /* nothing more can happen in it */
};

static Proc *proc_of(World *w, Sess *s, Side side)
{
    return &w->proc[s->proc[side]];
}

static const char *const side_name[] = { "P", "B" };

/* ------------------------------------------------------------ connections */

static Msg *ring_push(World *w, Ring *r, MsgKind kind, int64_t at)
{
    Msg *m;

    g_assert_cmpuint(r->len, <, RING);
    m = &r->msg[(r->head + r->len++) % RING];
    *m = (Msg) { .kind = kind, .at = MAX(at, r->last) };
    r->last = m->at;
    return m;
}

static Msg *ring_head(Ring *r)
{
    return r->len ? &r->msg[r->head] : NULL;
}

static void ring_pop(Ring *r)
{
    r->head = (r->head + 1) % RING;
    r->len--;
}

/* When the head can be read, as far as the network goes. */
static int64_t head_at(const Sess *s, const Ring *r, Side to)
{
    const Msg *m = &r->msg[r->head];

    if (r->over || !r->len) {
        return NEVER;
    }
    if (s->cut[to] && m->at > s->cut_at[to] && m->kind != M_RST) {
        return NEVER;
    }
    return m->at;
}

/* What has not arrived at @to yet, or with luck not all of it, is lost. */
static void lose(World *w, Sess *s, Ring *r, Side to, bool luck)
{
    while (r->len) {
        Msg *m = &r->msg[(r->head + r->len - 1) % RING];
        int64_t here = s->cut[to] ? s->cut_at[to] : w->now;

        if (m->at <= here || (luck && one_in(w, 3))) {
            break;
        }
        r->len--;
    }
    r->last = r->len ? r->msg[(r->head + r->len - 1) % RING].at : 0;
}

static bool cable_whole(const Sess *s)
{
    return !s->cut[PRI] && !s->cut[BAK];
}

static Msg *conn_send(World *w, Sess *s, ConnKind k, Side from, MsgKind kind)
{
    Conn *c = &s->conn[k];
    Side to = !from;
    int64_t delay = 50 + rnd(w, one_in(w, 40) ? 10 * DELAY : DELAY);

    if (c->closed[from]) {
        return NULL;
    }
    if ((!cable_whole(s) || proc_of(w, s, to)->off) &&
        c->unheard[from] == NEVER) {
        c->unheard[from] = w->now;
    }
    if (c->closed[to]) {
        /* Nobody takes it. */
        return NULL;
    }
    if (w->now < s->slow[to]) {
        delay += rnd(w, ACK);
    }
    return ring_push(w, &c->to[to], kind, w->now + delay);
}

/*
 * A word that is sent without waiting, and not if somebody is sending just
 * now, or nothing more fits in.
 */
static void conn_try_send(World *w, Sess *s, ConnKind k, Side from,
                          MsgKind kind)
{
    if (!one_in(w, 30)) {
        conn_send(w, s, k, from, kind);
    }
}

/* @from's end is gone; its program hears nothing of it. */
static void conn_close(World *w, Sess *s, ConnKind k, Side from, bool lossy)
{
    Conn *c = &s->conn[k];

    c->to[from].over = true;
    if (c->closed[from]) {
        return;
    }
    if (lossy) {
        lose(w, s, &c->to[!from], !from, true);
    }
    conn_send(w, s, k, from, M_FIN);
    c->closed[from] = true;
    c->unheard[from] = NEVER;
}

static void conns_close(World *w, Sess *s, Side from)
{
    for (ConnKind k = DATA; k < CONNS; k++) {
        /* What nobody has read when a socket is closed makes it an RST. */
        conn_close(w, s, k, from, one_in(w, 4));
    }
}

/* Power is off at @from: nobody is told. */
static void conns_off(World *w, Sess *s, Side from)
{
    for (ConnKind k = DATA; k < CONNS; k++) {
        Conn *c = &s->conn[k];

        lose(w, s, &c->to[!from], !from, true);
        if (!c->closed[!from] && c->unheard[!from] == NEVER) {
            c->unheard[!from] = w->now;
        }
        c->closed[from] = true;
        c->unheard[from] = NEVER;
        c->to[from].over = true;
    }
}

/* @side's kernel gives the connection up: what is under way is lost. */
static void conn_reset(World *w, Sess *s, ConnKind k, Side side)
{
    Conn *c = &s->conn[k];
    Side to = !side;

    if (c->closed[side]) {
        return;
    }
    c->closed[side] = true;
    c->unheard[side] = NEVER;
    lose(w, s, &c->to[side], side, false);
    ring_push(w, &c->to[side], M_RST, w->now);
    if (c->closed[to]) {
        return;
    }
    lose(w, s, &c->to[to], to, true);
    if (!s->cut[to]) {
        ring_push(w, &c->to[to], M_RST, w->now + rnd(w, DELAY));
        c->closed[to] = true;
        c->unheard[to] = NEVER;
    } else if (c->unheard[to] == NEVER) {
        /* It finds out by itself. */
        c->unheard[to] = w->now;
    }
}

static const int64_t user_timeout[CONNS] = {
    [DATA] = ACK, [CONTROL] = ACK, [HEARTS] = TIMEOUT,
};

/* When a kernel gives up on it next. */
static int64_t conn_due(const Sess *s, ConnKind k)
{
    int64_t due = NEVER;

    for (Side side = PRI; side <= BAK; side++) {
        int64_t since = s->conn[k].unheard[side];

        if (since != NEVER) {
            due = MIN(due, since + user_timeout[k]);
        }
    }
    return due;
}

static void conn_give_up(World *w, Sess *s, ConnKind k)
{
    for (Side side = PRI; side <= BAK; side++) {
        int64_t since = s->conn[k].unheard[side];

        if (since != NEVER && since + user_timeout[k] <= w->now) {
            say(w, "%d: %s's kernel gives connection %d up", s->index,
                side_name[side], k);
            conn_reset(w, s, k, side);
        }
    }
}

static void cable_cut(World *w, Sess *s, Side to)
{
    if (s->cut[to]) {
        return;
    }
    s->cut[to] = true;
    s->cut_at[to] = w->now;
    for (ConnKind k = DATA; k < CONNS; k++) {
        Conn *c = &s->conn[k];

        for (Side side = PRI; side <= BAK; side++) {
            if (c->to[side].len && c->to[side].last > w->now &&
                !c->closed[!side] && c->unheard[!side] == NEVER) {
                c->unheard[!side] = w->now;
            }
        }
    }
}

static void cable_repair(World *w, Sess *s)
{
    for (ConnKind k = DATA; k < CONNS; k++) {
        Conn *c = &s->conn[k];

        for (Side to = PRI; to <= BAK; to++) {
            Ring *r = &c->to[to];
            /* until the kernel tries again */
            int64_t again = w->now + rnd(w, 100000);

            for (unsigned i = 0; s->cut[to] && i < r->len; i++) {
                Msg *m = &r->msg[(r->head + i) % RING];

                if (m->at > s->cut_at[to] && m->kind != M_RST) {
                    m->at = MAX(m->at, again);
                }
                again = MAX(again, m->at);
                r->last = again;
            }
            if (proc_of(w, s, !to)->off) {
                continue;
            }
            c->unheard[to] = NEVER;
            if (c->closed[!to] && !c->closed[to] &&
                !(r->len &&
                  r->msg[(r->head + r->len - 1) % RING].kind >= M_FIN)) {
                /* It hears now that there is no such connection. */
                ring_push(w, r, M_RST, again);
            }
        }
    }
    s->cut[PRI] = s->cut[BAK] = false;
    s->repair_at = NEVER;
}

/* --------------------------------------------------------------- arbiter */

static void claimer_ask(World *w, Sess *s, Side side)
{
    Claimer *c = &s->claim[side];

    must(w, !c->asked, "the arbiter was asked twice");
    c->asked = true;
    c->thread_at = w->now + rnd(w, 1000);
}

/* Nobody waits for it any more; what is under way may still be done. */
static void claimer_quiet(Sess *s, Side side)
{
    Claimer *c = &s->claim[side];

    c->quiet = true;
    c->thread_at = c->answer_at = c->tell_at = NEVER;
}

static void claimer_tell(World *w, Claimer *c, FtClaim claim)
{
    c->waits = false;
    c->told = claim;
    c->tell_at = w->now + rnd(w, 300);
    c->thread_at = claim == FT_CLAIM_UNKNOWN ? w->now + RETRY : NEVER;
    c->answer_at = NEVER;
}

/* What arrives there. */
static void claimer_apply(World *w, Sess *s, Side side)
{
    Claimer *c = &s->claim[side];
    Proc *p = proc_of(w, s, side);
    uint64_t generation = s->generation + 1;

    c->apply_at = NEVER;
    if (p->arbiter_out || p->off) {
        return;
    }
    if (w->owner[generation] < 0) {
        w->owner[generation] = s->proc[side];
        say(w, "%d: generation %" PRIu64 " is %s's", s->index, generation,
            side_name[side]);
    }
    c->answer = w->owner[generation] == s->proc[side] ? FT_CLAIM_WON
                                                      : FT_CLAIM_LOST;
    if (!c->quiet && !p->lose_answer && !one_in(w, 20)) {
        c->answer_at = w->now + rnd(w, one_in(w, 10) ? ASKING : 3000);
    }
    p->lose_answer = false;
}

/* The thread has got to run. */
static void claimer_run(World *w, Sess *s, Side side)
{
    Claimer *c = &s->claim[side];

    if (c->answer_at <= w->now) {
        if (!proc_of(w, s, side)->arbiter_out) {
            claimer_tell(w, c, c->answer);
            return;
        }
        c->answer_at = NEVER;
    }
    if (c->thread_at <= w->now) {
        if (c->waits) {
            claimer_tell(w, c, FT_CLAIM_UNKNOWN);
        } else {
            c->waits = true;
            c->apply_at = w->now + rnd(w, one_in(w, 10) ? ASKING : 3000);
            c->thread_at = w->now + ASKING;
        }
    }
}

#endif
