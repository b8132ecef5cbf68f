/*
 * Unit test of primary-fsm.c, backup-fsm.c and heart.c: histories
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Several faults hit a line of up to three sessions, each with two machines,
 * their heartbeats, three connections and an arbiter, in one simulated world
 * (line-world.h).  What must hold is checked at each step (line-sides.h):
 *
 *   - at most one side goes on, of all sessions of the line
 *   - what a primary lets out is held by the backup, or that never takes over
 *   - nothing is let out after a takeover
 *   - who has left, or was fenced, never goes on
 *   - a claim is only ever lost to the other side of the same session
 *   - with the arbiter in reach nobody asks it for ever
 *   - somebody is left while a process lives, but for the cases in fate()
 *
 * A history is drawn from a number.  One that fails is made as short as it
 * can be, and told; FT_LINE="SEED [LUCK [MASK]]" in the environment repeats
 * it (choose the test by -p), and FT_LINE_RUNS sets how many are tried.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "line-faults.h"

/* --------------------------------------------------------------- sessions */

/* Protects @who, which goes on in @generation. */
static void begin(History *h, int who, uint64_t generation)
{
    World *w = &h->w;
    int n = w->sessions;
    Sess *s = &h->room[n];
    FtPriParams pp = {
        .epoch_us = EPOCH, .min_run_us = 1000, .ack_timeout_us = ACK,
        .setup_timeout_us = SETUP, .disarm_wait_us = DISARM,
        .depth = 1 + rnd(w, 4),
    };
    FtBakParams bp = {
        .fence_timeout_us = FENCE, .max_device_bytes = 100,
    };
    FtHeartParams hp = { .interval_us = HEART, .timeout_us = TIMEOUT };

    memset(s, 0, sizeof(*s));
    s->w = w;
    s->index = n;
    s->proc[PRI] = who;
    s->proc[BAK] = n + 1;
    s->generation = generation;
    s->repair_at = NEVER;
    for (ConnKind k = DATA; k < CONNS; k++) {
        s->conn[k].unheard[PRI] = s->conn[k].unheard[BAK] = NEVER;
    }
    for (Side side = PRI; side <= BAK; side++) {
        Claimer *c = &s->claim[side];

        c->thread_at = c->apply_at = c->answer_at = c->tell_at = NEVER;
        s->exit_at[side] = s->pulse_lost_at[side] = NEVER;
        s->pulse_at[side] = w->now + rnd(w, DELAY);
        s->poll_at[side] = w->now;
        ft_heart_init(&s->heart[side], &hp, s->pulse_at[side]);
    }
    s->silent_at = s->lost_at = s->renewed_at = NEVER;
    s->begin_at = s->running_at = s->sent_at = NEVER;
    s->sync_at = w->now + rnd(w, 4 * EPOCH);
    w->proc[n + 1] = (Proc) { .alive = true };
    w->sess[n] = s;
    w->sessions++;
    say(w, "%d: session of %d and %d, generation %" PRIu64, n, who, n + 1,
        generation);
    must(w, w->owner[generation + 1] < 0,
         "a session whose next generation is claimed already");
    for (int i = 0; i < n; i++) {
        Sess *o = w->sess[i];

        must(w, o->generation != generation ||
             (o->claim[PRI].apply_at == NEVER &&
              o->claim[BAK].apply_at == NEVER),
             "an old claim of its next generation is under way");
        must(w, o->generation != generation || !proc_of(w, o, BAK)->alive ||
             !o->b.committed || o->b.state == FT_BAK_DISCARDED,
             "an old backup may still claim its next generation");
    }
    ft_pri_init(&s->p, &p_ops, s, &pp);
    ft_bak_init(&s->b, &b_ops, s, &bp);
    ft_pri_start(&s->p, w->now);
    ft_bak_connected(&s->b);
    ft_pri_connected(&s->p, w->now);
    h->rest_at = w->now + REST;
    h->end_at = h->rest_at + 300000;
    h->next_at = NEVER;
    w->totals->sessions++;
    for (int i = 0; i < h->faults; i++) {
        if (h->fault[i].sess == n && (w->mask & (1u << i))) {
            h->fault[i].at = w->now + h->fault[i].after;
        }
    }
}

static bool side_over(World *w, const Sess *s, Side side)
{
    if (!w->proc[s->proc[side]].alive) {
        return true;
    }
    return side == PRI ? s->p.dead : s->b.state == FT_BAK_UNPROTECTED;
}

static const char *const fate_name[FATES] = {
    [F_SHUTDOWN] = "the guest had shut down",
    [F_BOTH_KILLED] = "both were killed",
    [F_TAKEOVER_FAILED] = "the takeover failed",
    [F_GOING_ON_KILLED] = "who went on was killed",
    [F_WINNER_KILLED] = "who won the claim was killed",
    [F_BEFORE_FIRST] = "the primary was killed before the first epoch",
    [F_LEFT] = "the backup had left, and the primary was killed",
    [F_ASKED_KILLED] = "the backup asked the primary to stop, and was killed",
};

/* Nobody is left after the last session: why? */
static Fate fate(World *w, Sess *s)
{
    Proc *p = proc_of(w, s, PRI), *b = proc_of(w, s, BAK);
    int owner = w->owner[s->generation + 1];

    if (p->quit) {
        return F_SHUTDOWN;
    }
    if (s->b_failed) {
        return F_TAKEOVER_FAILED;
    }
    if ((p->killed && s->p_alone) || (b->killed && s->b_took)) {
        return F_GOING_ON_KILLED;
    }
    if (p->killed && b->killed) {
        return F_BOTH_KILLED;
    }
    if ((p->killed && owner == s->proc[PRI]) ||
        (b->killed && owner == s->proc[BAK])) {
        return F_WINNER_KILLED;
    }
    if (p->killed && !s->b.committed) {
        return F_BEFORE_FIRST;
    }
    if (p->killed && s->b_bye) {
        return F_LEFT;
    }
    if (b->killed && p->fenced && s->asked) {
        return F_ASKED_KILLED;
    }
    return F_BUG;
}

/* Who goes on and could be protected again, or -1. */
static int survivor(World *w, Sess *s)
{
    const Proc *p = proc_of(w, s, PRI), *b = proc_of(w, s, BAK);

    if (p->alive && s->p.dead && p->on && !p->quit) {
        return PRI;
    }
    return b->alive && s->b.state == FT_BAK_UNPROTECTED ? BAK : -1;
}

static void next_session(History *h)
{
    World *w = &h->w;
    Sess *s = w->sess[w->sessions - 1];
    int who = survivor(w, s);

    h->next_at = NEVER;
    if (who >= 0) {
        begin(h, s->proc[who],
              s->generation + (who == BAK || s->p.claim_asked));
    }
}

/* The last session's troubles are over. */
static void rest(History *h)
{
    World *w = &h->w;
    Sess *s = w->sess[w->sessions - 1];

    say(w, "--- rest");
    h->rest_at = NEVER;
    for (int i = 0; i < h->faults; i++) {
        h->fault[i].at = NEVER;
    }
    if (!cable_whole(s)) {
        cable_repair(w, s);
    }
    s->slow[PRI] = s->slow[BAK] = s->take_fails = 0;
    for (Side side = PRI; side <= BAK; side++) {
        Proc *p = proc_of(w, s, side);

        p->stopped = MIN(p->stopped, w->now);
        p->stuck = MIN(p->stuck, w->now);
        p->arbiter_back = MIN(p->arbiter_back, w->now);
    }
}

/* ... and if it still lives it is ended, in one of the usual ways. */
static void end(History *h)
{
    static const FaultKind way[] = {
        CANCEL, FAILOVER, KILL, POWER_OFF, STOP, QUIT_BACKUP,
    };
    World *w = &h->w;
    Fault f = {
        .kind = way[rnd(w, ARRAY_SIZE(way))], .sess = w->sessions - 1,
        .side = rnd(w, 2), .time = 3 * TIMEOUT,
    };

    h->end_at = NEVER;
    if (w->sess[f.sess]->p.state == FT_PRI_PROTECTED &&
        w->sess[f.sess]->b.state == FT_BAK_STANDBY) {
        hit(h, &f);
    }
}

/* ------------------------------------------------------------------- time */

/* What comes first; of what is there already, luck decides. */
typedef struct Next {
    World *w;
    int64_t at;
    int what, ties;
} Next;

static inline void consider(Next *n, int64_t at, int64_t ready, int what)
{
    if (at == NEVER || ready == NEVER) {
        return;
    }
    at = MAX(at, MAX(ready, n->w->now));
    if (at < n->at) {
        n->at = at;
        n->what = what;
        n->ties = 1;
    } else if (at == n->at && one_in(n->w, ++n->ties)) {
        n->what = what;
    }
}

enum {
    E_P_POLL, E_P_DATA, E_P_CONTROL, E_P_SILENT, E_P_LOST, E_P_RENEWED,
    E_P_SYNC, E_P_SENT, E_P_CLAIM, E_P_PULSE, E_P_BEAT, E_P_PULSE_LOST,
    E_P_EXIT,
    E_B_POLL, E_B_DATA, E_B_CONTROL, E_B_CLAIM, E_B_BEGIN, E_B_RUNNING,
    E_B_PULSE, E_B_BEAT, E_B_PULSE_LOST, E_B_EXIT,
    E_REPAIR, E_GIVE_UP,
    E_APPLY = E_GIVE_UP + CONNS, E_CLAIMER = E_APPLY + 2,
    E__SESS = E_CLAIMER + 2,
    E_FAULT = SESSIONS * E__SESS, E_REST = E_FAULT + FAULTS, E_END,
    E_ARBITER, E_NEXT = E_ARBITER + PROCS,
};

static void consider_session(Next *n, Sess *s, int base)
{
    World *w = n->w;
    int64_t loop[2], thread[2];

    for (Side side = PRI; side <= BAK; side++) {
        const Claimer *c = &s->claim[side];
        const Proc *p = proc_of(w, s, side);

        loop[side] = loop_ready(p);
        thread[side] = thread_ready(p);
        consider(n, c->apply_at, 0, base + E_APPLY + side);
        consider(n, MIN(c->thread_at, c->answer_at), thread[side],
                 base + E_CLAIMER + side);
        consider(n, s->exit_at[side], thread[side],
                 base + (side ? E_B_EXIT : E_P_EXIT));
        if (!s->pulse_over[side]) {
            consider(n, s->pulse_at[side], thread[side],
                     base + (side ? E_B_PULSE : E_P_PULSE));
            consider(n, head_at(s, &s->conn[HEARTS].to[side], side),
                     thread[side], base + (side ? E_B_BEAT : E_P_BEAT));
        }
        consider(n, s->pulse_lost_at[side], thread[side],
                 base + (side ? E_B_PULSE_LOST : E_P_PULSE_LOST));
    }
    if (!s->p.dead) {
        consider(n, s->poll_at[PRI], loop[PRI], base + E_P_POLL);
        consider(n, head_at(s, &s->conn[DATA].to[PRI], PRI), loop[PRI],
                 base + E_P_DATA);
        consider(n, head_at(s, &s->conn[CONTROL].to[PRI], PRI), loop[PRI],
                 base + E_P_CONTROL);
        consider(n, s->silent_at, loop[PRI], base + E_P_SILENT);
        consider(n, s->lost_at, loop[PRI], base + E_P_LOST);
        consider(n, s->renewed_at, loop[PRI], base + E_P_RENEWED);
        consider(n, s->sync_at, loop[PRI], base + E_P_SYNC);
        consider(n, s->sent_at, loop[PRI], base + E_P_SENT);
        consider(n, s->claim[PRI].tell_at, loop[PRI], base + E_P_CLAIM);
    }
    if (s->b.state != FT_BAK_UNPROTECTED) {
        consider(n, s->poll_at[BAK], loop[BAK], base + E_B_POLL);
        consider(n, head_at(s, &s->conn[DATA].to[BAK], BAK), thread[BAK],
                 base + E_B_DATA);
        consider(n, head_at(s, &s->conn[CONTROL].to[BAK], BAK), thread[BAK],
                 base + E_B_CONTROL);
        consider(n, s->claim[BAK].tell_at, loop[BAK], base + E_B_CLAIM);
        consider(n, s->begin_at, loop[BAK], base + E_B_BEGIN);
        consider(n, s->running_at, loop[BAK], base + E_B_RUNNING);
    }
    consider(n, s->repair_at, 0, base + E_REPAIR);
    for (ConnKind k = DATA; k < CONNS; k++) {
        consider(n, conn_due(s, k), 0, base + E_GIVE_UP + k);
    }
}

static int64_t take(int64_t *at)
{
    int64_t was = *at;

    *at = NEVER;
    return was;
}

static void told_claim(World *w, Sess *s, Side side)
{
    Claimer *c = &s->claim[side];
    FtClaim claim = c->told;
    Totals *t = w->totals;

    c->tell_at = NEVER;
    t->unknown += claim == FT_CLAIM_UNKNOWN;
    t->lost += claim == FT_CLAIM_LOST;
    if (claim == FT_CLAIM_LOST) {
        must(w, w->owner[s->generation + 1] == s->proc[!side],
             "a claim was lost to somebody of another session");
    }
    if (side == PRI) {
        ft_pri_claimed(&s->p, claim, "text");
    } else {
        ft_bak_claimed(&s->b, claim, "text", w->now);
    }
    s->poll_at[side] = w->now;
}

static void session_event(World *w, Sess *s, int what)
{
    switch (what) {
    case E_P_POLL:
        s->poll_at[PRI] = ft_pri_poll(&s->p, w->now);
        must(w, s->poll_at[PRI] > w->now || w->now < s->take_fails,
             "a poll that wants to be called again at once");
        break;
    case E_P_DATA:
        to_primary(w, s, DATA);
        break;
    case E_P_CONTROL:
        if (one_in(w, 2)) {
            hurry_failover(w, s);
        }
        if (!s->p.dead) {
            to_primary(w, s, CONTROL);
        }
        break;
    case E_P_SILENT:
        take(&s->silent_at);
        ft_pri_lost(&s->p, "the backup is silent");
        s->poll_at[PRI] = w->now;
        break;
    case E_P_LOST:
        take(&s->lost_at);
        ft_pri_conn_lost(&s->p, "the heartbeats were lost", w->now);
        s->poll_at[PRI] = w->now;
        break;
    case E_P_RENEWED:
        take(&s->renewed_at);
        ft_pri_lease_renewed(&s->p);
        s->poll_at[PRI] = w->now;
        break;
    case E_P_SYNC:
        /* Tried again when epoch 1 could not be taken. */
        take(&s->sync_at);
        ft_pri_sync_done(&s->p, w->now);
        s->poll_at[PRI] = w->now;
        if (s->p.state == FT_PRI_SYNC && !s->p.taken) {
            s->sync_at = w->now + EPOCH;
        }
        break;
    case E_P_SENT:
        take(&s->sent_at);
        ft_pri_first_sent(&s->p, w->now);
        send_epoch(s, 1);
        s->poll_at[PRI] = w->now;
        break;
    case E_P_CLAIM:
        told_claim(w, s, PRI);
        break;
    case E_P_PULSE:
        pulse_run(w, s, PRI);
        break;
    case E_P_BEAT:
        pulse_read(w, s, PRI);
        break;
    case E_P_PULSE_LOST:
        take(&s->pulse_lost_at[PRI]);
        pulse_told(w, s, PRI, false);
        break;
    case E_P_EXIT:
        take(&s->exit_at[PRI]);
        say(w, "%d: P exits", s->index);
        proc_ends(w, s, PRI);
        break;
    case E_B_POLL:
        s->poll_at[BAK] = ft_bak_poll(&s->b, w->now);
        must(w, s->poll_at[BAK] > w->now,
             "a poll that wants to be called again at once");
        break;
    case E_B_DATA:
        to_backup(w, s, DATA);
        break;
    case E_B_CONTROL:
        to_backup(w, s, CONTROL);
        break;
    case E_B_CLAIM:
        told_claim(w, s, BAK);
        break;
    case E_B_BEGIN:
        take(&s->begin_at);
        conns_close(w, s, BAK);
        s->pulse_over[BAK] = true;
        s->pulse_lost_at[BAK] = NEVER;
        s->running_at = w->now + rnd(w, 5000);
        break;
    case E_B_RUNNING:
        take(&s->running_at);
        if (s->takeover_fails) {
            s->b_failed = true;
            ft_bak_takeover_failed(&s->b, "a device");
        } else {
            ft_bak_running(&s->b);
        }
        break;
    case E_B_PULSE:
        pulse_run(w, s, BAK);
        break;
    case E_B_BEAT:
        pulse_read(w, s, BAK);
        break;
    case E_B_PULSE_LOST:
        take(&s->pulse_lost_at[BAK]);
        pulse_told(w, s, BAK, false);
        break;
    case E_B_EXIT:
        take(&s->exit_at[BAK]);
        proc_ends(w, s, BAK);
        break;
    case E_REPAIR:
        cable_repair(w, s);
        break;
    default:
        if (what >= E_CLAIMER) {
            claimer_run(w, s, what - E_CLAIMER);
        } else if (what >= E_APPLY) {
            claimer_apply(w, s, what - E_APPLY);
        } else {
            conn_give_up(w, s, what - E_GIVE_UP);
        }
        break;
    }
}

/* --------------------------------------------------------------- the whole */

/* False: nothing can happen any more. */
static bool step(History *h)
{
    World *w = &h->w;
    Next n = { .w = w, .at = NEVER };
    bool over = true;

    for (int i = 0; i < w->sessions; i++) {
        Sess *s = w->sess[i];

        if (!s->over) {
            s->over = side_over(w, s, PRI) && side_over(w, s, BAK) &&
                      s->claim[PRI].apply_at == NEVER &&
                      s->claim[BAK].apply_at == NEVER;
            consider_session(&n, s, i * E__SESS);
            over &= s->over;
        }
    }
    if (w->sessions < SESSIONS &&
        survivor(w, w->sess[w->sessions - 1]) >= 0) {
        over = false;
        if (h->next_at == NEVER) {
            h->next_at = w->now + rnd(w, 200000);
        }
    }
    if (over) {
        return false;
    }
    for (int i = 0; i < h->faults; i++) {
        consider(&n, h->fault[i].at, 0, E_FAULT + i);
    }
    for (int i = 0; i < PROCS; i++) {
        if (w->proc[i].arbiter_out) {
            consider(&n, w->proc[i].arbiter_back, 0, E_ARBITER + i);
        }
    }
    consider(&n, h->rest_at, 0, E_REST);
    consider(&n, h->end_at, 0, E_END);
    consider(&n, h->next_at, 0, E_NEXT);
    if (n.at > THE_END) {
        broken(w, "it does not come to an end");
        return false;
    }
    w->now = n.at;
    w->totals->events++;
    if (n.what < E_FAULT) {
        session_event(w, w->sess[n.what / E__SESS], n.what % E__SESS);
    } else if (n.what < E_REST) {
        Fault *f = &h->fault[n.what - E_FAULT];

        f->at = NEVER;
        hit(h, f);
    } else if (n.what == E_REST) {
        rest(h);
    } else if (n.what == E_END) {
        end(h);
    } else if (n.what == E_NEXT) {
        next_session(h);
    } else {
        w->proc[n.what - E_ARBITER].arbiter_out = false;
    }
    return !w->broken;
}

static void tally(World *w, Sess *s)
{
    Totals *t = w->totals;

    t->takeovers += s->b_took;
    t->alone += s->p_alone;
    t->fenced += proc_of(w, s, PRI)->fenced;
    t->orderly += s->p_alone && !s->p.claim_asked;
    t->forced += s->forced && (s->p_alone || s->b_took);
}

/* What a history is made of. */
typedef struct Number {
    uint64_t seed;              /* which faults */
    uint64_t luck;
    uint32_t mask;              /* some of the faults */
    bool force;
} Number;

/* What was wrong, or NULL. */
static const char *run(const Number *n, Totals *totals, GString *log)
{
    static History history;
    History *h = &history;
    World *w = &h->w;
    bool left = false;

    *w = (World) {
        .mask = n->mask, .rng = n->luck, .force = n->force, .now = 1000000,
        .log = log, .totals = totals,
    };
    memset(w->owner, 0xff, sizeof(w->owner));
    draw(h, n->seed);
    w->proc[0] = (Proc) { .alive = true, .on = true };
    begin(h, 0, 0);
    while (step(h)) {
        continue;
    }
    if (w->broken) {
        return w->broken;
    }
    for (int i = 0; i < PROCS; i++) {
        left |= w->proc[i].alive && w->proc[i].on;
    }
    if (!left) {
        Fate why = fate(w, w->sess[w->sessions - 1]);

        must(w, why != F_BUG, "nobody is left");
        totals->nobody[why]++;
    }
    totals->histories++;
    for (int i = 0; i < w->sessions; i++) {
        tally(w, w->sess[i]);
    }
    return w->broken;
}

/* ---------------------------------------------------- when one has failed */

/* Leave out what it fails without, with another luck if need be. */
static void shorten(Number *n)
{
    Totals t = { 0 };
    bool again = true;

    while (again) {
        again = false;
        for (int i = 0; i < FAULTS; i++) {
            Number less = *n;

            less.mask &= ~(1u << i);
            for (int j = 0; less.mask != n->mask && j < 2000; j++) {
                less.luck = j ? (uint64_t)j : n->luck;
                if (run(&less, &t, NULL)) {
                    *n = less;
                    again = true;
                }
            }
        }
    }
}

static void tell(const Number *n)
{
    g_autoptr(GString) log = g_string_new(NULL);
    Totals t = { 0 };
    const char *what = run(n, &t, log);
    g_auto(GStrv) lines = g_strsplit(log->str, "\n", -1);

    for (char **l = lines; *l; l++) {
        g_test_message("%s", *l);
    }
    g_test_message("FT_LINE=\"%" PRIu64 " %" PRIu64 " 0x%x\": %s", n->seed,
                   n->luck, n->mask, what ?: "all is well");
}

static void tell_totals(const Totals *t)
{
    g_test_message("%" PRIu64 " histories of %" PRIu64 " sessions, %" PRIu64
                   " events", t->histories, t->sessions, t->events);
    g_test_message("%" PRIu64 " commits, %" PRIu64 " times no lease",
                   t->commits, t->no_lease);
    g_test_message("%" PRIu64 " takeovers, %" PRIu64 " primaries fenced, %"
                   PRIu64 " went on, of these %" PRIu64 " unasked; %" PRIu64
                   " by force", t->takeovers, t->fenced, t->alone, t->orderly,
                   t->forced);
    g_test_message("%" PRIu64 " claims were lost, %" PRIu64 " times the "
                   "arbiter was out of reach", t->lost, t->unknown);
    for (Fate f = F_SHUTDOWN; f < FATES; f++) {
        g_test_message("nobody was left in %" PRIu64 ": %s", t->nobody[f],
                       fate_name[f]);
    }
}

static void histories(bool force, uint64_t count)
{
    const char *replay = getenv("FT_LINE");
    uint64_t base = (uint64_t)g_test_rand_int() << 32;
    Totals t = { 0 };

    if (replay) {
        Number n = { .mask = UINT32_MAX, .force = force };
        int got = sscanf(replay, "%" SCNu64 " %" SCNu64 " %x", &n.seed,
                         &n.luck, &n.mask);

        g_assert_cmpint(got, >, 0);
        n.luck = got > 1 ? n.luck : n.seed;
        tell(&n);
        g_assert_null(run(&n, &t, NULL));
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        Number n = { .seed = base + i, .luck = base + i, .mask = UINT32_MAX,
                     .force = force };

        if (run(&n, &t, NULL)) {
            shorten(&n);
            tell(&n);
            g_test_fail();
            return;
        }
    }
    tell_totals(&t);
    /* All of it does happen. */
    g_assert_cmpuint(t.sessions, >, 2 * count);
    g_assert_cmpuint(t.takeovers, >, count / 2);
    g_assert_cmpuint(t.fenced, >, count / 2);
    g_assert_cmpuint(t.alone - t.orderly, >, count / 2);
    g_assert_cmpuint(t.orderly, >, count / 5);
    g_assert_cmpuint(t.lost, >, count / 10);
    g_assert_cmpuint(t.unknown, >, count / 10);
    g_assert_cmpuint(t.no_lease, >, count / 10);
    g_assert_true(!t.forced == !force);
}

static uint64_t runs(uint64_t usual)
{
    const char *set = getenv("FT_LINE_RUNS");
    uint64_t n = g_test_slow() ? 20 * usual : usual;

    if (set) {
        g_assert_cmpint(sscanf(set, "%" SCNu64, &n), ==, 1);
    }
    return n;
}

static void test_histories(void)
{
    histories(false, runs(100000));
}

/* The operator goes beside the arbiter, and is right: the other is dead. */
static void test_force(void)
{
    histories(true, runs(10000));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/line/histories", test_histories);
    g_test_add_func("/ft/line/force", test_force);
    return g_test_run();
}
