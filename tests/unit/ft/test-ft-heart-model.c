/*
 * Unit tests of migration/ft/heart.c: two of them in a world that goes wrong
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two sides, each with a clock of its own that goes up to a tenth wrong, and
 * a connection that delays, stalls, or stops to carry anything, one way or
 * both.  Each side goes round as the thread in pulse.c does, and can stand
 * still between any two steps.  All that happens is drawn from a seed.
 *
 * What the safety of output rests on, at every moment of every world: when a
 * side has given the other one up, that one's lease, as it sees it itself, is
 * over.
 *
 * "-m slow" tries many more worlds.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/ft/heart.h"

#define MS          1000ll
#define NEVER       (INT64_MAX / 4)

typedef enum Step {
    WAIT,           /* for its time, or for something to come */
    READ,
    TAKE,           /* what was read */
    POLL,
    SEND,
    LOST,           /* the connection is broken, for this side */
    OVER,
} Step;

typedef struct Message {
    int64_t arrives;
    FtHeartbeat hb;
} Message;

typedef struct Side {
    FtHeart heart;
    /* its clock shows offset + rate * t */
    double rate;
    int64_t offset;
    int64_t starts;
    Step step;
    int64_t free_at;            /* the next step is not before that */
    int64_t deadline;           /* of WAIT; all times but now0 are t */
    int64_t now0;
    FtHeartbeat out;
    Message in;
    int64_t muted_from, muted_to;
    int64_t breaks_at;          /* finds the connection broken */
    bool given_up;              /* the other side */
    int64_t given_up_at;
    int64_t leased;             /* rounds with the lease */
    int64_t rounds;
} Side;

/* From one side to the other. */
typedef struct Way {
    GArray *messages;           /* Message */
    unsigned first;             /* that has not been read */
    int64_t delay, jitter;
    double stall;               /* how often it stalls, after a message */
    int64_t stall_max;
    int64_t last_arrives;
    int64_t cut_at;
} Way;

typedef enum Kind {
    CALM,                       /* nothing goes wrong */
    CUT,                        /* both ways, and nothing else */
    ONE_WAY,                    /* the way from side 1 to side 0 */
    WILD,
} Kind;

typedef struct World {
    uint32_t seed;
    Kind kind;
    GRand *rand;
    FtHeartParams params;
    Side side[2];
    Way way[2];                 /* [i]: from side i */
    double stands_still;        /* how often a step takes long */
    int64_t stands_still_max;
    int64_t t, end;
} World;

/* What all worlds together have seen: else they would prove nothing. */
static struct {
    unsigned unheard, unechoed, broken, leases, muted, close;
    double closest;             /* after the end of a lease, in timeouts */
} seen;

static int64_t draw(World *w, int64_t from, int64_t to)
{
    return from + (int64_t)(g_rand_double(w->rand) * (to - from + 1));
}

static bool chance(World *w, double p)
{
    return g_rand_double(w->rand) < p;
}

static int64_t clock_of(const Side *s, int64_t t)
{
    return s->offset + (int64_t)(s->rate * t);
}

/* The first t at which the clock shows @now. */
static int64_t time_of(const Side *s, int64_t now)
{
    int64_t t;

    if (now >= NEVER) {
        return NEVER;
    }
    t = (now - s->offset) / s->rate - 2;
    while (clock_of(s, t) < now) {
        t++;
    }
    return t;
}

/* How long the next step takes to come. */
static int64_t lag(World *w)
{
    if (chance(w, w->stands_still)) {
        return draw(w, 0, w->stands_still_max);
    }
    return draw(w, 0, 30);
}

static void way_send(World *w, Way *way, const FtHeartbeat *hb)
{
    Message m = { .hb = *hb };

    m.arrives = w->t + way->delay + draw(w, 0, way->jitter);
    if (chance(w, way->stall)) {
        m.arrives += draw(w, 0, way->stall_max);
    }
    /* One after the other; what comes after a gap has to wait for it. */
    m.arrives = MAX(m.arrives, way->last_arrives);
    way->last_arrives = m.arrives;
    if (m.arrives < way->cut_at) {
        g_array_append_val(way->messages, m);
    }
}

static Message *way_next(Way *way)
{
    return way->first < way->messages->len ?
           &g_array_index(way->messages, Message, way->first) : NULL;
}

/* When the next step of side @i is due. */
static int64_t side_due(World *w, int i)
{
    Side *s = &w->side[i];
    Message *m = way_next(&w->way[!i]);
    int64_t due = s->deadline;

    if (s->step == OVER) {
        return NEVER;
    }
    if (s->step == WAIT) {
        if (m) {
            due = MIN(due, m->arrives);
        }
        due = MIN(due, s->breaks_at);
        return MAX(due + s->free_at, w->t);
    }
    return s->free_at;
}

static void side_goto(World *w, Side *s, Step step)
{
    s->step = step;
    /* In WAIT it is how late it is woken up. */
    s->free_at = lag(w) + (step == WAIT ? 0 : w->t);
}

static void side_give_up(World *w, Side *s)
{
    Side *other = &w->side[s == w->side];

    if (other->heart.echoed) {
        double since = clock_of(other, w->t) - ft_heart_lease(&other->heart);

        since /= w->params.timeout_us;
        seen.closest = MIN(seen.closest, since);
        seen.close += since < 0.05;
    }
    s->given_up = true;
    s->given_up_at = w->t;
    s->step = OVER;
}

static void side_poll(World *w, Side *s)
{
    bool mute = w->t >= s->muted_from && w->t < s->muted_to;
    bool send;
    int64_t next = ft_heart_poll(&s->heart, s->now0, mute, &send, &s->out);

    s->rounds++;
    s->leased += clock_of(s, w->t) < ft_heart_lease(&s->heart);
    seen.muted += mute;
    if (s->heart.verdict == FT_HEART_SILENT) {
        g_assert_false(send);
        if (strstr(s->heart.why, "nothing was heard")) {
            seen.unheard++;
        } else {
            g_assert_nonnull(strstr(s->heart.why, "has not heard this one"));
            seen.unechoed++;
        }
        side_give_up(w, s);
        return;
    }
    g_assert_cmpint(next, >, s->now0);
    s->deadline = time_of(s, next);
    side_goto(w, s, send ? SEND : WAIT);
}

static void side_step(World *w, int i)
{
    Side *s = &w->side[i];
    Way *in = &w->way[!i];
    Message *m = way_next(in);

    if (s->step != LOST && w->t >= s->breaks_at) {
        /* As pulse.c does it; nothing is sent or read from here on. */
        s->step = LOST;
        s->free_at = MAX(w->t, time_of(s, ft_heart_peer_lease(&s->heart)));
        return;
    }
    switch (s->step) {
    case WAIT:
        s->now0 = clock_of(s, w->t);
        side_goto(w, s, READ);
        break;
    case READ:
        if (m && m->arrives <= w->t) {
            s->in = *m;
            in->first++;
            side_goto(w, s, TAKE);
        } else {
            side_goto(w, s, POLL);
        }
        break;
    case TAKE:
        ft_heart_received(&s->heart, &s->in.hb, clock_of(s, w->t),
                          &error_abort);
        side_goto(w, s, READ);
        break;
    case POLL:
        side_poll(w, s);
        break;
    case SEND:
        way_send(w, &w->way[i], &s->out);
        side_goto(w, s, WAIT);
        break;
    case LOST:
        seen.broken++;
        side_give_up(w, s);
        break;
    case OVER:
        g_assert_not_reached();
    }
}

static void world_check(World *w)
{
    for (int i = 0; i < 2; i++) {
        Side *s = &w->side[i];
        int64_t now = clock_of(s, w->t);

        if (w->side[!i].given_up && w->t >= s->starts &&
            now < ft_heart_lease(&s->heart)) {
            g_error("seed %u kind %d at %" PRId64 ": side %d has a lease for "
                    "another %" PRId64 " us, but was given up %" PRId64 " us "
                    "ago (%s)", w->seed, w->kind, w->t, i,
                    ft_heart_lease(&s->heart) - now,
                    w->t - w->side[!i].given_up_at, w->side[!i].heart.why);
        }
    }
}

static void world_begin(World *w, Kind kind, uint32_t seed)
{
    int64_t timeout, cut;

    *w = (World) {
        .seed = seed, .kind = kind, .rand = g_rand_new_with_seed(seed),
    };
    w->params.interval_us = draw(w, 10, 100) * MS;
    timeout = w->params.interval_us * draw(w, kind == WILD ? 4 : 6, 20);
    w->params.timeout_us = timeout;
    cut = draw(w, timeout / 2, 8 * timeout);
    w->end = 60 * timeout;
    if (kind == WILD) {
        w->stands_still = chance(w, 0.3) ? 0 : 0.02 * g_rand_double(w->rand);
        w->stands_still_max = draw(w, 1, chance(w, 0.5) ? timeout / 2 :
                                                          3 * timeout);
    }
    for (int i = 0; i < 2; i++) {
        Side *s = &w->side[i];
        Way *way = &w->way[i];

        s->rate = 0.9 + 0.2 * g_rand_double(w->rand);
        if (chance(w, 0.3)) {
            s->rate = chance(w, 0.5) ? 0.9 : 1.1;
        }
        s->offset = draw(w, 0, 1000000000) * MS;
        s->muted_from = s->muted_to = s->breaks_at = NEVER;
        way->messages = g_array_new(false, false, sizeof(Message));
        way->cut_at = NEVER;
        way->delay = draw(w, 10, w->params.interval_us / 2);
        way->jitter = draw(w, 0, w->params.interval_us / 4);
        if (kind == CUT || (kind == ONE_WAY && i == 1)) {
            way->cut_at = cut;
        } else if (kind == WILD) {
            static const int parts[] = { 100, 20, 5, 2, 1 };

            way->delay = draw(w, 10, timeout / parts[draw(w, 0, 4)]);
            way->jitter = draw(w, 0, timeout / parts[draw(w, 0, 4)]);
            way->stall = chance(w, 0.5) ? 0 : 0.05;
            way->stall_max = timeout;
            /* Sooner or later all is dark. */
            way->cut_at = chance(w, 0.5) ? cut :
                          draw(w, 0, chance(w, 0.5) ? 2 * timeout :
                                                      12 * timeout);
            if (chance(w, 0.2)) {
                s->breaks_at = draw(w, 0, 8 * timeout);
            }
            if (chance(w, 0.3)) {
                s->muted_from = draw(w, 0, 8 * timeout);
                s->muted_to = s->muted_from + draw(w, 0, 2 * timeout);
            }
            /* They need not have begun together. */
            s->starts = draw(w, 0, chance(w, 0.5) ? timeout : timeout / 10);
        }
        ft_heart_init(&s->heart, &w->params, clock_of(s, s->starts));
        s->deadline = s->starts;
        s->step = WAIT;
    }
}

static void world_run(World *w)
{
    for (;;) {
        int64_t due[2] = { side_due(w, 0), side_due(w, 1) };
        int next = due[1] < due[0];

        if (due[next] >= w->end) {
            return;
        }
        g_assert_cmpint(due[next], >=, w->t);
        w->t = due[next];
        side_step(w, next);
        world_check(w);
    }
}

/* How long the other side was given, by the clock of @s. */
static int64_t patience(const World *w, const Side *s)
{
    return clock_of(s, s->given_up_at) - s->heart.heard_at;
}

static void world_judge(World *w)
{
    const int64_t timeout = w->params.timeout_us;
    const int64_t interval = w->params.interval_us;

    for (int i = 0; i < 2; i++) {
        Side *s = &w->side[i];
        g_autofree char *what = g_strdup_printf("seed %u kind %d side %d",
                                                w->seed, w->kind, i);

        seen.leases += s->leased > 0;
        if (w->kind == CALM) {
            if (s->given_up) {
                g_error("%s: given up: %s", what, s->heart.why);
            }
            if (s->leased * 100 < s->rounds * 95) {
                g_error("%s: leased in %" PRId64 " of %" PRId64 " rounds",
                        what, s->leased, s->rounds);
            }
            continue;
        }
        if (!s->given_up) {
            g_error("%s: nothing was found wrong", what);
        }
        if (w->kind == CUT || (w->kind == ONE_WAY && i == 0)) {
            g_assert_nonnull(strstr(s->heart.why, "nothing was heard"));
            g_assert_cmpint(patience(w, s), >=, timeout);
            g_assert_cmpint(patience(w, s), <, timeout + MS);
        } else if (w->kind == ONE_WAY) {
            /*
             * The other side has fallen silent by then, or else it says
             * itself that it hears nothing.
             */
            int64_t after = clock_of(s, s->given_up_at) -
                            clock_of(s, w->way[1].cut_at);

            g_assert_cmpint(after, <, 2 * timeout + 2 * interval);
        }
    }
}

static void world_end(World *w)
{
    for (int i = 0; i < 2; i++) {
        g_array_free(w->way[i].messages, true);
    }
    g_rand_free(w->rand);
}

static void try_worlds(Kind kind, unsigned count)
{
    memset(&seen, 0, sizeof(seen));
    seen.closest = 1000;
    if (g_test_slow()) {
        count *= 50;
    }
    for (unsigned i = 0; i < count; i++) {
        World w;

        world_begin(&w, kind, g_test_rand_int());
        world_run(&w);
        world_judge(&w);
        world_end(&w);
    }
    g_test_message("%u worlds: %u leases, given up: %u not heard, %u not "
                   "echoed, %u broken; %u soon after a lease (%.4f timeouts); "
                   "%u rounds muted", count, seen.leases,
                   seen.unheard, seen.unechoed, seen.broken, seen.close,
                   seen.closest, seen.muted);
}

static void test_calm(void)
{
    try_worlds(CALM, 200);
    g_assert_cmpuint(seen.leases, >=, 400);
}

static void test_cut(void)
{
    try_worlds(CUT, 2000);
    g_assert_cmpuint(seen.unheard, >=, 4000);
}

static void test_one_way(void)
{
    try_worlds(ONE_WAY, 2000);
    g_assert_cmpuint(seen.unheard, >=, 2000);
}

static void test_wild(void)
{
    try_worlds(WILD, 40000);
    /* It is not safe just because nobody has a lease or a verdict. */
    g_assert_cmpuint(seen.leases, >, 20000);
    g_assert_cmpuint(seen.unheard, >, 20000);
    g_assert_cmpuint(seen.unechoed, >, 4000);
    g_assert_cmpuint(seen.broken, >, 2000);
    g_assert_cmpuint(seen.muted, >, 20000);
    g_assert_cmpuint(seen.close, >, 50);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/heart-model/calm", test_calm);
    g_test_add_func("/ft/heart-model/cut", test_cut);
    g_test_add_func("/ft/heart-model/one-way", test_one_way);
    g_test_add_func("/ft/heart-model/wild", test_wild);

    return g_test_run();
}
