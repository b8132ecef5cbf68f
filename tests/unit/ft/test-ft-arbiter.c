/*
 * Unit tests of migration/ft/arbiter.c: the thread, claims, deadlines
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The place is a fake one, which answers as it is told to, or not at all: a
 * call that is to hang waits until the test opens a gate.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "migration/ft/arbiter.h"

#define PATIENCE_MS 20000
#define PROOF       "0123456789abcdef"

static const QemuUUID uuid = { .data = { 1, 2, 3 } };

/* ------------------------------------------------------------- the fake */

static struct {
    QemuMutex lock;
    QemuCond cond;
    bool hang;                  /* whoever comes in waits */
    const char *hang_on;        /* or who publishes this */
    int inside;                 /* waiting or at work */
    bool open_fails;
    const char *why;            /* not NULL: what is asked fails */
    char *proof;
    int publishes, proofs, probes, claims, retires, opens, closes;
    FtClaim answers[8];         /* to claims */
    const char *owner;
    uint64_t generation;
    char *mark;
    int64_t claimed_at[8];
    int retires_before;         /* the last claim */
} fake;

static int64_t now_ms(void)
{
    return g_get_monotonic_time() / 1000;
}

static void fake_enter(int *count, const char *proof)
{
    QEMU_LOCK_GUARD(&fake.lock);
    fake.inside++;
    if (count) {
        ++*count;
    }
    qemu_cond_broadcast(&fake.cond);
    while (fake.hang || (proof && !g_strcmp0(proof, fake.hang_on))) {
        qemu_cond_wait(&fake.cond, &fake.lock);
    }
    fake.inside--;
}

static void *fake_open(const FtArbiterParams *p, const QemuUUID *u,
                       Error **errp)
{
    QEMU_LOCK_GUARD(&fake.lock);
    fake.opens++;
    if (fake.open_fails) {
        error_setg(errp, "cannot even begin");
        return NULL;
    }
    g_assert(qemu_uuid_is_equal(u, &uuid));
    g_assert_true(g_str_has_prefix(p->where, "/fake"));
    return &fake;
}

static void fake_close(void *be)
{
    g_assert(be == &fake);
    QEMU_LOCK_GUARD(&fake.lock);
    fake.closes++;
    qemu_cond_broadcast(&fake.cond);
}

static bool fake_fails(Error **errp)
{
    if (fake.why) {
        error_setg(errp, "%s", fake.why);
        return true;
    }
    return false;
}

static bool fake_publish(void *be, const char *proof, Error **errp)
{
    fake_enter(&fake.publishes, proof);
    QEMU_LOCK_GUARD(&fake.lock);
    if (fake_fails(errp)) {
        return false;
    }
    g_free(fake.proof);
    fake.proof = g_strdup(proof);
    return true;
}

static char *fake_proof(void *be, Error **errp)
{
    fake_enter(&fake.proofs, NULL);
    QEMU_LOCK_GUARD(&fake.lock);
    return fake_fails(errp) ? NULL : g_strdup(fake.proof ?: "nothing");
}

static bool fake_probe(void *be, Error **errp)
{
    fake_enter(&fake.probes, NULL);
    QEMU_LOCK_GUARD(&fake.lock);
    return !fake_fails(errp);
}

static FtClaim fake_claim(void *be, uint64_t generation, const char *mark,
                          char **owner, Error **errp)
{
    FtClaim answer;

    fake_enter(NULL, NULL);
    QEMU_LOCK_GUARD(&fake.lock);
    g_assert_cmpint(fake.claims, <, ARRAY_SIZE(fake.answers));
    fake.claimed_at[fake.claims] = now_ms();
    answer = fake.answers[fake.claims++];
    fake.generation = generation;
    fake.retires_before = fake.retires;
    g_free(fake.mark);
    fake.mark = g_strdup(mark);
    if (answer == FT_CLAIM_UNKNOWN) {
        error_setg(errp, "no\tidea");
    } else if (answer == FT_CLAIM_LOST) {
        *owner = g_strdup(fake.owner);
    }
    qemu_cond_broadcast(&fake.cond);
    return answer;
}

static void fake_retire(void *be)
{
    fake_enter(&fake.retires, NULL);
}

static const FtArbiterOps fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .publish = fake_publish,
    .proof = fake_proof,
    .probe = fake_probe,
    .claim = fake_claim,
    .retire = fake_retire,
};

static void fake_reset(void)
{
    g_free(fake.proof);
    g_free(fake.mark);
    memset((char *)&fake + offsetof(typeof(fake), hang), 0,
           sizeof(fake) - offsetof(typeof(fake), hang));
}

static FtArbiter *fake_at(const char *where)
{
    FtArbiterParams p = { .kind = FT_ARBITER_FILE, .where = (char *)where };

    return ft_arbiter_new_ops(&fake_ops, &p, &uuid, "here\npid 1");
}

static FtArbiter *fake_new(void)
{
    fake_reset();
    return fake_at("/fake");
}

/* Wait until *@n, which is the fake's, is at least @least. */
static void fake_wait(const int *n, int least)
{
    int64_t end = now_ms() + PATIENCE_MS;

    QEMU_LOCK_GUARD(&fake.lock);
    while (*n < least) {
        g_assert_cmpint(now_ms(), <, end);
        qemu_cond_timedwait(&fake.cond, &fake.lock, 1000);
    }
}

static void fake_set_hang(bool hang)
{
    QEMU_LOCK_GUARD(&fake.lock);
    fake.hang = hang;
    qemu_cond_broadcast(&fake.cond);
}

static bool fake_hangs_on(const char *proof)
{
    QEMU_LOCK_GUARD(&fake.lock);
    fake.hang_on = proof;
    qemu_cond_broadcast(&fake.cond);
    return fake.inside;
}

static void fake_set_why(const char *why)
{
    QEMU_LOCK_GUARD(&fake.lock);
    fake.why = why;
}

/* The end of @a, and of its thread. */
static void fake_end(FtArbiter *a)
{
    ft_arbiter_unref(a);
    fake_wait(&fake.closes, 1);
}

/* -------------------------------------------------- who is told of claims */

typedef struct Told {
    QemuMutex lock;
    QemuCond cond;
    bool block;                 /* the callback does not come back */
    int inside;
    int calls;
    FtClaim claim[100];
    char *text[100];
} Told;

static void told_fn(void *opaque, FtClaim claim, const char *text)
{
    Told *t = opaque;

    QEMU_LOCK_GUARD(&t->lock);
    g_assert_cmpint(t->calls, <, ARRAY_SIZE(t->claim));
    t->claim[t->calls] = claim;
    t->text[t->calls++] = g_strdup(text);
    t->inside++;
    qemu_cond_broadcast(&t->cond);
    while (t->block) {
        qemu_cond_wait(&t->cond, &t->lock);
    }
    t->inside--;
    qemu_cond_broadcast(&t->cond);
}

static void told_init(Told *t)
{
    *t = (Told) { };
    qemu_mutex_init(&t->lock);
    qemu_cond_init(&t->cond);
}

static void told_clear(Told *t)
{
    for (int i = 0; i < t->calls; i++) {
        g_free(t->text[i]);
    }
    qemu_cond_destroy(&t->cond);
    qemu_mutex_destroy(&t->lock);
}

static void told_wait(Told *t, int calls)
{
    int64_t end = now_ms() + PATIENCE_MS;

    QEMU_LOCK_GUARD(&t->lock);
    while (t->calls < calls || (t->inside && !t->block)) {
        g_assert_cmpint(now_ms(), <, end);
        qemu_cond_timedwait(&t->cond, &t->lock, 1000);
    }
}

/* ---------------------------------------------------------------- claims */

static void test_none(void)
{
    FtArbiterParams p = { .kind = FT_ARBITER_NONE };
    FtArbiter *a = ft_arbiter_new(&p, &uuid, "here");
    FtArbiterState st;
    Told t;

    told_init(&t);
    g_assert_true(ft_arbiter_publish(a, PROOF, 0, &error_abort));
    g_assert_true(ft_arbiter_verify(a, "another", 0, &error_abort));
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried && st.reachable);
    g_assert_null(st.reason);
    ft_arbiter_claim(a, 2, told_fn, &t);
    g_assert_cmpint(t.calls, ==, 1);    /* already */
    g_assert_cmpint(t.claim[0], ==, FT_CLAIM_WON);
    ft_arbiter_quiet(a);
    ft_arbiter_retire(a);
    ft_arbiter_unref(ft_arbiter_ref(a));
    ft_arbiter_unref(a);
    ft_arbiter_unref(NULL);
    told_clear(&t);
}

static void test_claim_won(void)
{
    FtArbiter *a = fake_new();
    FtArbiterState st;
    Told t;

    told_init(&t);
    fake.answers[0] = FT_CLAIM_UNKNOWN;
    fake.answers[1] = FT_CLAIM_UNKNOWN;
    fake.answers[2] = FT_CLAIM_WON;
    fake.answers[3] = FT_CLAIM_LOST;
    ft_arbiter_claim(a, 77, told_fn, &t);
    told_wait(&t, 1);
    ft_arbiter_state(a, &st);
    if (!st.reachable) {        /* else it is on the way to be again */
        g_assert_cmpstr(st.reason, ==, "no?idea");
    }
    g_free(st.reason);
    told_wait(&t, 3);
    g_assert_cmpint(t.claim[0], ==, FT_CLAIM_UNKNOWN);
    g_assert_cmpstr(t.text[0], ==, "no?idea");
    g_assert_cmpint(t.claim[1], ==, FT_CLAIM_UNKNOWN);
    g_assert_cmpint(t.claim[2], ==, FT_CLAIM_WON);
    g_assert_cmpstr(t.text[2], ==, "");
    g_assert_cmpint(fake.generation, ==, 77);
    /* 200 ms, less what a clock in ms can be off */
    g_assert_cmpint(fake.claimed_at[1] - fake.claimed_at[0], >=, 199);
    g_assert_cmpint(fake.claimed_at[2] - fake.claimed_at[1], >=, 199);
    g_assert_true(g_regex_match_simple("^here\\?pid 1 [0-9a-f]{32}$",
                                       fake.mark, 0, 0));
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried && st.reachable);
    g_assert_null(st.reason);

    /* That was all: the thread has time for other things. */
    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    fake_wait(&fake.probes, 1);
    g_assert_cmpint(fake.claims, ==, 3);
    g_assert_cmpint(t.calls, ==, 3);
    fake_end(a);
    told_clear(&t);
}

static void test_claim_lost(void)
{
    static const struct {
        const char *owner, *text;
    } cases[] = {
        { "there pid 2 00112233445566778899aabbccddeeff", "there pid 2" },
        { "there\x1b 00112233445566778899aabbccddeefg",
          "there? 00112233445566778899aabbccddeefg" },
        { "x", "x" },
    };

    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        FtArbiter *a = fake_new();
        Told t;

        told_init(&t);
        fake.answers[0] = FT_CLAIM_LOST;
        fake.owner = cases[i].owner;
        ft_arbiter_claim(a, 1, told_fn, &t);
        told_wait(&t, 1);
        g_assert_cmpint(t.claim[0], ==, FT_CLAIM_LOST);
        g_assert_cmpstr(t.text[0], ==, cases[i].text);
        fake_end(a);
        g_assert_cmpint(t.calls, ==, 1);
        told_clear(&t);
    }
}

static void test_marks_differ(void)
{
    g_autofree char *first = NULL;

    for (int i = 0; i < 2; i++) {
        FtArbiter *a = fake_new();
        Told t;

        told_init(&t);
        fake.answers[0] = FT_CLAIM_WON;
        ft_arbiter_claim(a, 1, told_fn, &t);
        told_wait(&t, 1);
        g_assert_cmpstr(fake.mark, !=, first);
        g_free(first);
        first = g_strdup(fake.mark);
        fake_end(a);
        told_clear(&t);
    }
}

/* What cannot work is tried again: it may be a matter of files. */
static void test_open_fails(void)
{
    FtArbiter *a = fake_new();
    Error *err = NULL;
    FtArbiterState st;
    Told t;

    told_init(&t);
    fake.open_fails = true;
    g_assert_false(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "cannot even begin");
    error_free(err);
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried && !st.reachable);
    g_assert_cmpstr(st.reason, ==, "cannot even begin");
    g_assert_cmpint(st.age_ms, ==, -1);
    g_free(st.reason);

    fake.answers[0] = FT_CLAIM_WON;
    ft_arbiter_claim(a, 1, told_fn, &t);
    told_wait(&t, 2);
    g_assert_cmpstr(t.text[1], ==, "cannot even begin");
    WITH_QEMU_LOCK_GUARD(&fake.lock) {
        fake.open_fails = false;
    }
    fake_wait(&fake.claims, 1);
    /* the thread has told before it does anything else */
    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    fake_end(a);
    g_assert_cmpint(t.claim[t.calls - 1], ==, FT_CLAIM_WON);
    told_clear(&t);
}

/* ------------------------------------------------------ proof and probing */

static void test_proof(void)
{
    FtArbiter *a = fake_new();
    int64_t began = now_ms();
    Error *err = NULL;

    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    g_assert_cmpstr(fake.proof, ==, PROOF);
    g_assert_true(ft_arbiter_verify(a, PROOF, PATIENCE_MS, &error_abort));
    g_assert_cmpint(now_ms() - began, <, PATIENCE_MS / 2);
    g_assert_false(ft_arbiter_verify(a, "0000", PATIENCE_MS, &err));
    g_assert_nonnull(strstr(error_get_pretty(err),
                            "file:/fake is not the primary's"));
    error_free(err);
    err = NULL;

    fake_set_why("away");
    g_assert_false(ft_arbiter_verify(a, PROOF, PATIENCE_MS, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "away");
    error_free(err);
    g_assert_false(ft_arbiter_publish(a, PROOF, PATIENCE_MS, NULL));
    fake_end(a);
}

static void test_state(void)
{
    FtArbiter *a = fake_new();
    FtArbiterState st;
    int64_t began;

    ft_arbiter_state(a, &st);
    g_assert_false(st.tried);
    g_assert_null(st.reason);
    g_assert_cmpint(st.age_ms, ==, -1);

    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    began = now_ms();
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried && st.reachable);
    g_assert_cmpint(st.age_ms, <=, now_ms() - began + 1000);

    fake_set_why("away\x01");
    fake_wait(&fake.probes, 1);
    g_assert_cmpint(now_ms() - began, >=, 900);
    fake_wait(&fake.probes, 2);         /* the first has been seen */
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried);
    g_assert_false(st.reachable);
    g_assert_cmpstr(st.reason, ==, "away?");
    g_assert_cmpint(st.age_ms, >=, 1500);
    g_free(st.reason);

    fake_set_why(NULL);
    fake_wait(&fake.probes, 4);
    ft_arbiter_state(a, &st);
    g_assert_true(st.reachable);
    g_assert_null(st.reason);

    /* When the session is over, its place is left alone. */
    ft_arbiter_retire(a);
    fake_wait(&fake.retires, 1);
    g_usleep(2200 * 1000);
    g_assert_cmpint(fake.probes, ==, 4);
    ft_arbiter_state(a, &st);           /* nothing asked, nothing late */
    g_assert_true(st.reachable);
    fake_end(a);
}

/* The session's end and the arbiter's are one after the other. */
static void test_retire_unref(void)
{
    FtArbiter *a = fake_new();

    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    fake_set_hang(true);
    fake_wait(&fake.probes, 1);
    ft_arbiter_retire(a);
    ft_arbiter_unref(a);
    fake_set_hang(false);
    fake_wait(&fake.closes, 1);
    g_assert_cmpint(fake.retires, ==, 1);
}

/* ------------------------------------------------------ a place that hangs */

static void test_hang_publish(void)
{
    FtArbiter *a = fake_new();
    Error *err = NULL;
    FtArbiterState st;
    int64_t began = now_ms();

    fake_set_hang(true);
    g_assert_false(ft_arbiter_publish(a, PROOF, 300, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "no answer from file:/fake within 0.3 s");
    error_free(err);
    err = NULL;
    g_assert_cmpint(now_ms() - began, >=, 300);
    g_assert_cmpint(now_ms() - began, <, 1900);

    /* Late is what is late by 2 s. */
    ft_arbiter_state(a, &st);
    g_assert_false(st.tried);

    /* Nobody waits for the second one when the first comes back. */
    g_assert_false(ft_arbiter_verify(a, PROOF, 2000, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "no answer from file:/fake within 2 s");
    error_free(err);
    ft_arbiter_state(a, &st);
    g_assert_true(st.tried);
    g_assert_false(st.reachable);
    g_assert_cmpstr(st.reason, ==, "no answer for 2 s");
    g_free(st.reason);

    fake_set_hang(false);
    fake_wait(&fake.probes, 1);         /* the publish was good after all */
    g_assert_cmpint(fake.proofs, ==, 0);
    fake_end(a);
}

/* What a session has left behind does not come after what the next one did. */
static void test_turns(void)
{
    FtArbiter *old = fake_new();
    FtArbiter *next = fake_at("/fake");
    FtArbiter *other = fake_at("/fake/other");
    Error *err = NULL;
    Told t;

    told_init(&t);
    fake_hangs_on(PROOF);
    do {
        g_assert_false(ft_arbiter_publish(old, PROOF, 100, NULL));
    } while (!fake_hangs_on(PROOF));
    ft_arbiter_retire(old);
    ft_arbiter_unref(old);
    g_assert_false(ft_arbiter_publish(next, "early", 100, &err));
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "no answer from file:/fake within 0.1 s");
    error_free(err);

    /* Neither a claim nor another place waits for that. */
    fake.answers[0] = FT_CLAIM_WON;
    ft_arbiter_retire(next);
    ft_arbiter_claim(next, 1, told_fn, &t);
    told_wait(&t, 1);
    g_assert_true(ft_arbiter_publish(other, "o", PATIENCE_MS, &error_abort));
    g_assert_cmpint(fake.retires, ==, 0);
    g_assert_true(fake_hangs_on(NULL));

    g_assert_true(ft_arbiter_publish(next, "next", PATIENCE_MS, &error_abort));
    ft_arbiter_unref(next);
    ft_arbiter_unref(other);
    fake_wait(&fake.closes, 3);
    g_assert_cmpstr(fake.proof, ==, "next");
    g_assert_cmpint(fake.publishes, ==, 3);     /* not the early one */
    g_assert_cmpint(fake.retires, ==, 2);
    told_clear(&t);
}

/* Neither the end nor quiet wait for the place; nobody is told any more. */
static void test_hang_claim(void)
{
    FtArbiter *a = fake_new();
    FtArbiterState st;
    int64_t began;
    Told t;

    told_init(&t);
    fake.answers[0] = FT_CLAIM_WON;
    fake_set_hang(true);
    ft_arbiter_claim(a, 1, told_fn, &t);
    fake_wait(&fake.inside, 1);
    began = now_ms();
    ft_arbiter_state(a, &st);
    g_assert_false(st.tried);
    ft_arbiter_quiet(a);
    ft_arbiter_unref(a);
    g_assert_cmpint(now_ms() - began, <, 1000);
    fake_set_hang(false);
    fake_wait(&fake.closes, 1);
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(t.calls, ==, 0);
    told_clear(&t);

    /* And nothing is tried any more. */
    a = fake_new();
    told_init(&t);
    fake.answers[0] = FT_CLAIM_UNKNOWN;
    fake_set_hang(true);
    ft_arbiter_claim(a, 1, told_fn, &t);
    fake_wait(&fake.inside, 1);
    ft_arbiter_quiet(a);
    fake_set_hang(false);
    fake_wait(&fake.claims, 1);
    g_usleep(300 * 1000);
    fake_end(a);
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(t.calls, ==, 0);
    told_clear(&t);
}

/* The last reference is enough. */
static void test_unref_claim(void)
{
    FtArbiter *a = fake_new();
    Told t;

    told_init(&t);
    fake.answers[0] = FT_CLAIM_UNKNOWN;
    fake_set_hang(true);
    ft_arbiter_claim(a, 1, told_fn, &t);
    fake_wait(&fake.inside, 1);
    ft_arbiter_unref(ft_arbiter_ref(a));
    ft_arbiter_unref(a);
    fake_set_hang(false);
    fake_wait(&fake.closes, 1);
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(t.calls, ==, 0);
    told_clear(&t);
}

static int quiet_is_over;

static void *quiet_thread(void *opaque)
{
    ft_arbiter_quiet(opaque);
    qatomic_set(&quiet_is_over, 1);
    return NULL;
}

/* A callback that is running is waited for, and it is the last one. */
static void test_quiet(void)
{
    FtArbiter *a = fake_new();
    QemuThread thread;
    Told t;

    told_init(&t);
    t.block = true;
    fake.answers[0] = FT_CLAIM_UNKNOWN;
    fake.answers[1] = FT_CLAIM_WON;
    ft_arbiter_claim(a, 1, told_fn, &t);
    told_wait(&t, 1);
    quiet_is_over = 0;
    qemu_thread_create(&thread, "quiet", quiet_thread, a,
                       QEMU_THREAD_JOINABLE);
    g_usleep(300 * 1000);
    g_assert_cmpint(qatomic_read(&quiet_is_over), ==, 0);
    WITH_QEMU_LOCK_GUARD(&t.lock) {
        t.block = false;
        qemu_cond_broadcast(&t.cond);
    }
    qemu_thread_join(&thread);
    g_usleep(300 * 1000);               /* longer than until another try */
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(t.calls, ==, 1);
    fake_end(a);
    told_clear(&t);
}

/* A claim comes before whatever else there is to do. */
static void test_claim_first(void)
{
    FtArbiter *a = fake_new();
    Told t;

    told_init(&t);
    fake.answers[0] = FT_CLAIM_WON;
    fake_set_hang(true);
    ft_arbiter_retire(a);
    fake_wait(&fake.inside, 1);
    ft_arbiter_retire(a);
    ft_arbiter_claim(a, 1, told_fn, &t);
    fake_set_hang(false);
    told_wait(&t, 1);
    fake_wait(&fake.retires, 2);
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(fake.retires_before, ==, 1);
    fake_end(a);
    told_clear(&t);
}

/* By the operator's word: for as long as it takes, whoever else has gone. */
static void test_insist(void)
{
    FtArbiter *a = fake_new();
    Told t;

    told_init(&t);
    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    fake.answers[0] = FT_CLAIM_UNKNOWN;
    fake.answers[1] = FT_CLAIM_UNKNOWN;
    fake.answers[2] = FT_CLAIM_LOST;
    fake.owner = "x";
    ft_arbiter_claim(a, 7, told_fn, &t);
    told_wait(&t, 1);
    fake_set_hang(true);
    ft_arbiter_insist(a, 7);
    ft_arbiter_quiet(a);
    ft_arbiter_retire(a);
    ft_arbiter_unref(a);
    fake_set_hang(false);
    fake_wait(&fake.closes, 1);
    g_assert_cmpint(fake.claims, ==, 3);
    g_assert_cmpint(fake.generation, ==, 7);
    g_assert_cmpint(fake.retires, ==, 1);
    g_assert_cmpint(fake.retires_before, ==, 0);
    g_assert_cmpint(t.calls, ==, 1);
    told_clear(&t);

    /* Also when nothing was asked for before. */
    a = fake_new();
    fake.answers[0] = FT_CLAIM_WON;
    ft_arbiter_insist(a, 8);
    ft_arbiter_insist(a, 8);
    fake_wait(&fake.claims, 1);
    g_assert_true(ft_arbiter_publish(a, PROOF, PATIENCE_MS, &error_abort));
    fake_end(a);
    g_assert_cmpint(fake.claims, ==, 1);
    g_assert_cmpint(fake.generation, ==, 8);
}

/* What is left to do is done, if the place lets it in time. */
static void test_finish(void)
{
    FtArbiterParams none = { .kind = FT_ARBITER_NONE };
    FtArbiter *a = ft_arbiter_new(&none, &uuid, "here");
    int64_t began;

    ft_arbiter_retire(a);
    ft_arbiter_finish(a, PATIENCE_MS);
    ft_arbiter_unref(a);

    a = fake_new();
    ft_arbiter_retire(a);
    ft_arbiter_finish(a, PATIENCE_MS);
    g_assert_cmpint(fake.retires, ==, 1);
    g_assert_cmpint(fake.inside, ==, 0);

    fake_set_hang(true);
    ft_arbiter_retire(a);
    fake_wait(&fake.inside, 1);
    began = now_ms();
    ft_arbiter_finish(a, 200);
    g_assert_cmpint(now_ms() - began, >=, 200);
    g_assert_cmpint(now_ms() - began, <, PATIENCE_MS / 2);
    fake_set_hang(false);
    fake_end(a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_mutex_init(&fake.lock);
    qemu_cond_init(&fake.cond);
    g_test_add_func("/ft/arbiter/none", test_none);
    g_test_add_func("/ft/arbiter/claim-won", test_claim_won);
    g_test_add_func("/ft/arbiter/claim-lost", test_claim_lost);
    g_test_add_func("/ft/arbiter/marks-differ", test_marks_differ);
    g_test_add_func("/ft/arbiter/open-fails", test_open_fails);
    g_test_add_func("/ft/arbiter/proof", test_proof);
    g_test_add_func("/ft/arbiter/state", test_state);
    g_test_add_func("/ft/arbiter/retire-unref", test_retire_unref);
    g_test_add_func("/ft/arbiter/hang-publish", test_hang_publish);
    g_test_add_func("/ft/arbiter/turns", test_turns);
    g_test_add_func("/ft/arbiter/hang-claim", test_hang_claim);
    g_test_add_func("/ft/arbiter/unref-claim", test_unref_claim);
    g_test_add_func("/ft/arbiter/quiet", test_quiet);
    g_test_add_func("/ft/arbiter/claim-first", test_claim_first);
    g_test_add_func("/ft/arbiter/insist", test_insist);
    g_test_add_func("/ft/arbiter/finish", test_finish);
    return g_test_run();
}
