/*
 * Tests of migration/ft/arbiter-etcd.c with a real etcd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Skipped unless CUJU_TEST_ETCD names one (http://127.0.0.1:2379), which
 * tests/functional/test_arbiter_etcd.py does.  With its pid in
 * CUJU_TEST_ETCD_PID it is stopped and continued, too; the TLS directory, user
 * and password are in .._TLS, .._USER, .._PASSWORD.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/thread.h"
#include "migration/ft/arbiter.h"

#define PROOF   "00ff"
#define OURS    "here pid 1 0011"
#define THEIRS  "there pid 2 2233"

static const FtArbiterOps *const ops = &ft_arbiter_etcd_ops;
static FtArbiterParams real;
static QemuUUID real_uuid;

/*
 * A busy machine may take longer than they wait: not so the tests, other than
 * the one that wants it.
 */
static bool busy(Error **err)
{
    if (*err && strstr(error_get_pretty(*err), "no answer in time")) {
        error_free(*err);
        *err = NULL;
        return true;
    }
    return false;
}

static void publish(void *be, const char *proof)
{
    Error *err = NULL;

    do {
        ops->publish(be, proof, &err);
    } while (busy(&err));
    g_assert_null(err);
}

/* @says: NULL, or a part of why not. */
static void check_proof(void *be, const char *want, const char *says)
{
    g_autofree char *proof = NULL;
    Error *err = NULL;

    do {
        proof = ops->proof(be, &err);
    } while (busy(&err));
    g_assert_cmpstr(proof, ==, want);
    g_assert_true(says ? !!strstr(error_get_pretty(err), says) : !err);
    error_free(err);
}

static void check_probe(void *be, const char *says)
{
    Error *err = NULL;
    bool ok;

    do {
        ok = ops->probe(be, &err);
    } while (busy(&err));
    g_assert_true(ok == !says);
    g_assert_true(says ? !!strstr(error_get_pretty(err), says) : !err);
    error_free(err);
}

static FtClaim claim(void *be, uint64_t generation, const char *mark,
                     char **owner, Error **err)
{
    FtClaim got;

    do {
        got = ops->claim(be, generation, mark, owner, err);
    } while (busy(err));
    return got;
}

/* @says: for LOST who, for UNKNOWN a part of why. */
static void check_claim(void *be, const char *mark, FtClaim want,
                        const char *says)
{
    g_autofree char *owner = NULL;
    Error *err = NULL;
    FtClaim got = claim(be, 5, mark, &owner, &err);

    if (err) {
        g_test_message("%s", error_get_pretty(err));
        g_assert_null(strstr(error_get_pretty(err), "hunter"));
    }
    g_assert_cmpint(got, ==, want);
    g_assert_true((got == FT_CLAIM_UNKNOWN) == (err != NULL));
    if (got == FT_CLAIM_LOST) {
        g_assert_cmpstr(owner, ==, says);
    } else if (err) {
        g_assert_nonnull(strstr(error_get_pretty(err), says));
        error_free(err);
    }
}

static void *real_be(void)
{
    return ops->open(&real, &real_uuid, &error_abort);
}

#define RACERS 16
#define ROUNDS 10

typedef struct Racer {
    int number;
    void *be;
    FtClaim got[ROUNDS];
    char *owner[ROUNDS];
    QemuThread thread;
} Racer;

static int at_start[ROUNDS];

static void *racer_thread(void *opaque)
{
    Racer *r = opaque;
    g_autofree char *mark = g_strdup_printf("racer %d", r->number);
    Error *err = NULL;

    for (int i = 0; i < ROUNDS; i++) {
        qatomic_inc(&at_start[i]);
        while (qatomic_read(&at_start[i]) < RACERS) {
            g_usleep(100);
        }
        r->got[i] = claim(r->be, i, mark, &r->owner[i], &err);
        g_assert_null(err);
    }
    ops->close(r->be);
    return NULL;
}

static void real_race(void)
{
    Racer racer[RACERS] = { };
    void *be;
    int i, round;

    qemu_uuid_generate(&real_uuid);
    be = real_be();
    publish(be, PROOF);
    for (i = 0; i < RACERS; i++) {
        racer[i].number = i;
        racer[i].be = real_be();
        check_proof(racer[i].be, PROOF, NULL);
    }
    for (i = 0; i < RACERS; i++) {
        qemu_thread_create(&racer[i].thread, "racer", racer_thread, &racer[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (i = 0; i < RACERS; i++) {
        qemu_thread_join(&racer[i].thread);
    }
    for (round = 0; round < ROUNDS; round++) {
        int winner = -1;

        for (i = 0; i < RACERS; i++) {
            if (racer[i].got[round] == FT_CLAIM_WON) {
                g_assert_cmpint(winner, ==, -1);
                winner = i;
            }
        }
        g_assert_cmpint(winner, >=, 0);
        for (i = 0; i < RACERS; i++) {
            if (i != winner) {
                g_assert_cmpint(racer[i].got[round], ==, FT_CLAIM_LOST);
                g_assert_cmpint(atoi(racer[i].owner[round] + 6), ==, winner);
                g_free(racer[i].owner[round]);
            }
        }
    }
    ops->close(be);
}

static void real_session(void)
{
    void *primary, *backup, *late;

    qemu_uuid_generate(&real_uuid);
    primary = real_be();
    backup = real_be();
    late = real_be();
    check_proof(backup, NULL, "lost its data");
    publish(primary, PROOF);
    check_proof(backup, PROOF, NULL);
    check_proof(late, PROOF, NULL);
    check_probe(primary, NULL);
    check_probe(backup, NULL);

    check_claim(backup, THEIRS, FT_CLAIM_WON, NULL);
    check_claim(backup, THEIRS, FT_CLAIM_WON, NULL);
    check_claim(primary, OURS, FT_CLAIM_LOST, THEIRS);

    /* The next session is no place for those of the last one. */
    publish(backup, "beef");
    check_probe(late, "another session");
    check_claim(late, OURS, FT_CLAIM_LOST, THEIRS);
    ops->retire(late);
    check_probe(backup, NULL);
    ops->retire(backup);
    check_probe(backup, "lost its data");
    check_claim(late, OURS, FT_CLAIM_LOST, THEIRS);
    ops->close(primary);
    ops->close(backup);
    ops->close(late);

    /* Nor is an etcd without the proof. */
    primary = real_be();
    qemu_uuid_generate(&real_uuid);
    late = real_be();
    publish(late, PROOF);
    ops->retire(late);
    check_claim(late, OURS, FT_CLAIM_UNKNOWN, "another session");
    ops->close(primary);
    ops->close(late);
}

/* Is each of its threads stopped? */
static bool stopped(const char *pid)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%s/task", pid);
    GDir *d = g_dir_open(tasks, 0, NULL);
    const char *task;
    bool all = true;

    g_assert_nonnull(d);
    while ((task = g_dir_read_name(d))) {
        g_autofree char *path = g_strdup_printf("%s/%s/stat", tasks, task);
        g_autofree char *stat = NULL;

        g_assert_true(g_file_get_contents(path, &stat, NULL, NULL));
        all &= strrchr(stat, ')')[2] == 'T';
    }
    g_dir_close(d);
    return all;
}

/* It hangs, and comes back. */
static void real_stop(void)
{
    const char *pid = g_getenv("CUJU_TEST_ETCD_PID");
    Error *err = NULL;
    int64_t took;
    void *be;

    if (!pid) {
        g_test_skip("no CUJU_TEST_ETCD_PID");
        return;
    }
    qemu_uuid_generate(&real_uuid);
    be = real_be();
    publish(be, PROOF);
    g_assert_cmpint(kill(atoi(pid), SIGSTOP), ==, 0);
    for (int i = 0; !stopped(pid); i++) {
        g_assert_cmpint(i, <, 10000);
        g_usleep(1000);
    }
    took = -g_get_monotonic_time();
    g_assert_cmpint(ops->claim(be, 5, OURS, NULL, &err), ==,
                    FT_CLAIM_UNKNOWN);
    g_assert_true(busy(&err));
    g_assert_false(ops->probe(be, &err));
    g_assert_true(busy(&err));
    took += g_get_monotonic_time();
    g_assert_cmpint(kill(atoi(pid), SIGCONT), ==, 0);
    g_assert_cmpint(took, <, 6000000);
    /* Whether the first one came through or not. */
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    check_claim(be, THEIRS, FT_CLAIM_LOST, OURS);
    ops->close(be);
}

static void real_password(void)
{
    FtArbiterParams p = real;
    void *be;

    if (!real.user) {
        g_test_skip("no CUJU_TEST_ETCD_USER");
        return;
    }
    p.password = (char *)"hunter2";
    be = ops->open(&p, &real_uuid, &error_abort);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "authentication failed");
    ops->close(be);
    p.user = NULL;
    be = ops->open(&p, &real_uuid, &error_abort);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "user name is empty");
    ops->close(be);
}

static void real_tls(void)
{
    FtArbiterParams p = real;
    g_autofree char *port = NULL;
    g_autofree char *other = NULL;
    void *be;

    if (!real.tls_dir) {
        g_test_skip("no CUJU_TEST_ETCD_TLS");
        return;
    }
    /* Not signed by one of the system's. */
    p.tls_dir = NULL;
    be = ops->open(&p, &real_uuid, &error_abort);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "certificate");
    ops->close(be);
    /* Another name for the same address. */
    p.tls_dir = real.tls_dir;
    port = g_strdup(strrchr(real.where, ':'));
    other = g_strconcat("https://127.0.0.2", port, NULL);
    p.where = other;
    be = ops->open(&p, &real_uuid, &error_abort);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "https://127.0.0.2");
    ops->close(be);
}

int main(int argc, char **argv)
{
    const char *url = g_getenv("CUJU_TEST_ETCD");
    g_autofree char *spec = g_strconcat("etcd:", url ?: "", NULL);
    int rc;

    g_test_init(&argc, &argv, NULL);
    if (!url) {
        g_print("1..0 # SKIP no CUJU_TEST_ETCD\n");
        return 0;
    }
    g_assert_true(ft_arbiter_parse(&real, spec, &error_abort));
    real.tls_dir = g_strdup(g_getenv("CUJU_TEST_ETCD_TLS"));
    real.user = g_strdup(g_getenv("CUJU_TEST_ETCD_USER"));
    real.password = g_strdup(g_getenv("CUJU_TEST_ETCD_PASSWORD"));
    g_test_add_func("/ft/arbiter/real/session", real_session);
    g_test_add_func("/ft/arbiter/real/race", real_race);
    g_test_add_func("/ft/arbiter/real/stop", real_stop);
    g_test_add_func("/ft/arbiter/real/password", real_password);
    g_test_add_func("/ft/arbiter/real/tls", real_tls);
    rc = g_test_run();
    ft_arbiter_params_clear(&real);
    return rc;
}
