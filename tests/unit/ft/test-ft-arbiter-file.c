/*
 * Unit tests of migration/ft/arbiter-file.c: claims in a directory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The source is included, not linked: some system calls can be made to fail,
 * before or after they have done their work, as they do over NFS.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include <sys/statvfs.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/thread.h"
#include "migration/ft/arbiter.h"

/* What the next call is to do; errno, 0: nothing special. */
static int link_before, link_after, write_fails, close_fails;
static int sync_fails, dir_sync_fails;

static int t_linkat(int a, const char *from, int b, const char *to, int flags)
{
    int rc;

    if (link_before) {
        errno = link_before;
        return -1;
    }
    rc = linkat(a, from, b, to, flags);
    if (link_after) {
        errno = link_after;
        return -1;
    }
    return rc;
}

static ssize_t t_write(int fd, const void *buf, size_t len)
{
    /* half of it, then no more */
    if (write_fails && lseek(fd, 0, SEEK_CUR) > 0) {
        errno = write_fails;
        return -1;
    }
    return write(fd, buf, write_fails ? len / 2 : MIN(len, 7));
}

static int t_fsync(int fd)
{
    struct stat st;
    int fails;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    fails = S_ISDIR(st.st_mode) ? dir_sync_fails : sync_fails;
    errno = fails;
    return fails ? -1 : fsync(fd);
}

static int t_close(int fd)
{
    int rc = close(fd);

    errno = close_fails ?: errno;
    return close_fails ? -1 : rc;
}

#define linkat(...) t_linkat(__VA_ARGS__)
#define write(...)  t_write(__VA_ARGS__)
#define fsync(...)  t_fsync(__VA_ARGS__)
#define close(...)  t_close(__VA_ARGS__)
#include "migration/ft/arbiter-file.c"
#undef linkat
#undef write
#undef fsync
#undef close

#define NAME    "cuju-01020300-0000-0000-0000-000000000000"
#define SESSION NAME ".session"
#define CLAIM   NAME ".claim-5"
#define PROOF   "00ff"
#define OURS    "here pid 1 0011"
#define THEIRS  "there pid 2 2233"

static const FtArbiterOps *const ops = &ft_arbiter_file_ops;
static const QemuUUID uuid = { .data = { 1, 2, 3 } };
static char *dir;

static char *path_of(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static void *be_at(const char *where)
{
    FtArbiterParams p = { .kind = FT_ARBITER_FILE, .where = (char *)where };

    return ops->open(&p, &uuid, &error_abort);
}

static void put(const char *name, const char *content, size_t len)
{
    g_autofree char *path = path_of(name);

    g_assert_true(g_file_set_contents(path, content, len, NULL));
}

static void check_content(const char *name, const char *content)
{
    g_autofree char *path = path_of(name);
    g_autofree char *has = NULL;

    g_assert_true(g_file_get_contents(path, &has, NULL, NULL));
    g_assert_cmpstr(has, ==, content);
}

static bool exists(const char *name)
{
    g_autofree char *path = path_of(name);
    struct stat st;

    return lstat(path, &st) == 0;
}

/* So many files are there, and none on its way. */
static void check_files(int number)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_assert_null(strstr(name, ".tmp-"));
        number--;
    }
    g_dir_close(d);
    g_assert_cmpint(number, ==, 0);
}

static void begin(void)
{
    link_before = link_after = write_fails = close_fails = 0;
    sync_fails = dir_sync_fails = 0;
    dir = g_dir_make_tmp("ft-arbiter-XXXXXX", NULL);
    g_assert_nonnull(dir);
}

static void end(void)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = path_of(name);

        g_assert_cmpint(remove(path), ==, 0);
    }
    g_dir_close(d);
    g_assert_cmpint(rmdir(dir), ==, 0);
    g_clear_pointer(&dir, g_free);
}

/* @says: for LOST who, for UNKNOWN a part of why. */
static void check_claim(void *be, uint64_t generation, const char *mark,
                        FtClaim want, const char *says)
{
    g_autofree char *owner = NULL;
    Error *err = NULL;
    FtClaim got = ops->claim(be, generation, mark, &owner, &err);

    g_assert_cmpint(got, ==, want);
    g_assert_true((got == FT_CLAIM_UNKNOWN) == (err != NULL));
    g_assert_true((got == FT_CLAIM_LOST) == (owner != NULL));
    if (owner) {
        g_assert_cmpstr(owner, ==, says);
    }
    if (err) {
        g_test_message("%s", error_get_pretty(err));
        g_assert_nonnull(strstr(error_get_pretty(err), says));
        error_free(err);
    }
}

/* A call that fails, and says so. */
static void check_fails(bool ok, Error *err, const char *says)
{
    g_assert_false(ok);
    g_assert_nonnull(err);
    g_test_message("%s", error_get_pretty(err));
    g_assert_nonnull(strstr(error_get_pretty(err), says));
    error_free(err);
}

static void check_publish_fails(void *be, const char *says)
{
    Error *err = NULL;
    bool ok = ops->publish(be, PROOF, &err);

    check_fails(ok, err, says);
}

static void check_proof_fails(void *be, const char *says)
{
    Error *err = NULL;
    bool ok = ops->proof(be, &err) != NULL;

    check_fails(ok, err, says);
}

static void check_probe_fails(void *be, const char *says)
{
    Error *err = NULL;
    bool ok = ops->probe(be, &err);

    check_fails(ok, err, says);
}

/* ---------------------------------------------------------------- claims */

static void test_claim(void)
{
    void *be, *other;
    struct stat st;
    g_autofree char *path = NULL;

    begin();
    be = be_at(dir);
    other = be_at(dir);
    check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);
    check_content(CLAIM, OURS "\n");
    path = path_of(CLAIM);
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode, ==, S_IFREG | 0600);
    g_assert_cmpint(st.st_nlink, ==, 1);
    check_claim(other, 5, THEIRS, FT_CLAIM_LOST, OURS);
    check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);
    check_claim(other, 6, THEIRS, FT_CLAIM_WON, NULL);
    check_claim(be, 6, OURS, FT_CLAIM_LOST, THEIRS);
    check_claim(be, UINT64_MAX, OURS, FT_CLAIM_WON, NULL);
    check_content(NAME ".claim-18446744073709551615", OURS "\n");
    /* a part of a mark is another mark */
    check_claim(be, 5, OURS "4", FT_CLAIM_LOST, OURS);
    check_claim(be, 5, "here", FT_CLAIM_LOST, OURS);
    check_files(3);
    ops->close(be);
    ops->close(other);
    end();
}

/* What was left by a crash goes with the next session, and nothing else. */
static void test_tidy(void)
{
    static const char *const names[] = {
        NAME ".tmp-0123456789abcdef", NAME ".tmp-0000000000000001",
        "other.tmp-0123456789abcdef", NAME ".claim-3",
    };
    void *be;

    begin();
    be = be_at(dir);
    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *path = path_of(names[i]);
        struct timespec old[2] = { { .tv_sec = time(NULL) - 3600 },
                                   { .tv_sec = time(NULL) - 3600 } };

        g_assert_true(g_file_set_contents(path, "x", 1, NULL));
        if (i != 1) {
            g_assert_cmpint(utimensat(AT_FDCWD, path, old, 0), ==, 0);
        }
    }
    g_assert_true(ops->publish(be, "00ff", &error_abort));
    /* the young one, the stranger's and the claim stay */
    for (int i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *path = path_of(names[i]);

        g_assert_true(!g_file_test(path, G_FILE_TEST_EXISTS) == !i);
    }
    ops->close(be);
    end();
}

typedef struct Racer {
    int number;
    void *be;
    uint64_t generation;
    FtClaim got;
    char *owner;
    QemuThread thread;
} Racer;

#define RACERS 16
static int at_start;

static void *racer_thread(void *opaque)
{
    Racer *r = opaque;
    g_autofree char *mark = g_strdup_printf("racer %d", r->number);

    qatomic_inc(&at_start);
    while (qatomic_read(&at_start) < RACERS) {
        sched_yield();
    }
    r->got = ops->claim(r->be, r->generation, mark, &r->owner, &error_abort);
    return NULL;
}

/* 16 threads, one winner, whose name all the others are told. */
static void test_race_threads(void)
{
    Racer racer[RACERS] = { };
    void *be;
    int round, i;

    begin();
    be = be_at(dir);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    for (i = 0; i < RACERS; i++) {
        racer[i].number = i;
        racer[i].be = be_at(dir);
        g_free(ops->proof(racer[i].be, &error_abort));
    }
    for (round = 0; round < 100; round++) {
        int winner = -1;

        at_start = 0;
        for (i = 0; i < RACERS; i++) {
            racer[i].generation = round;
            qemu_thread_create(&racer[i].thread, "racer", racer_thread,
                               &racer[i], QEMU_THREAD_JOINABLE);
        }
        for (i = 0; i < RACERS; i++) {
            qemu_thread_join(&racer[i].thread);
            if (racer[i].got == FT_CLAIM_WON) {
                g_assert_cmpint(winner, ==, -1);
                winner = i;
            }
        }
        g_assert_cmpint(winner, >=, 0);
        for (i = 0; i < RACERS; i++) {
            g_autofree char *owner = g_steal_pointer(&racer[i].owner);

            if (i != winner) {
                g_assert_cmpint(racer[i].got, ==, FT_CLAIM_LOST);
                g_assert_cmpint(atoi(owner + 6), ==, winner);
            }
        }
    }
    check_files(101);
    for (i = 0; i < RACERS; i++) {
        ops->close(racer[i].be);
    }
    ops->close(be);
    end();
}

/* And processes, which all draw the same "random" names. */
static void test_race_processes(void)
{
    int round, i;

    begin();
    for (round = 0; round < 20; round++) {
        int go[2], won = 0, lost = 0;
        pid_t pid[RACERS];

        g_assert_cmpint(pipe(go), ==, 0);
        for (i = 0; i < RACERS; i++) {
            pid[i] = fork();
            g_assert_cmpint(pid[i], >=, 0);
            if (!pid[i]) {
                g_autofree char *mark = g_strdup_printf("racer %d", i);
                void *be = be_at(dir);
                char *owner = NULL;
                char c;

                close(go[1]);
                if (read(go[0], &c, 1) != 0) {
                    _exit(9);
                }
                _exit(ops->claim(be, round, mark, &owner, NULL));
            }
        }
        close(go[0]);
        close(go[1]);               /* the start */
        for (i = 0; i < RACERS; i++) {
            int status;

            g_assert_cmpint(waitpid(pid[i], &status, 0), ==, pid[i]);
            g_assert_true(WIFEXITED(status));
            won += WEXITSTATUS(status) == FT_CLAIM_WON;
            lost += WEXITSTATUS(status) == FT_CLAIM_LOST;
        }
        g_assert_cmpint(won, ==, 1);
        g_assert_cmpint(lost, ==, RACERS - 1);
    }
    check_files(20);
    end();
}

/* The link was made, but nobody said so. */
static void test_lost_reply(void)
{
    static const int errors[] = { EIO, EEXIST, ETIMEDOUT, ESTALE };

    for (int i = 0; i < ARRAY_SIZE(errors); i++) {
        void *be;

        begin();
        be = be_at(dir);
        link_after = errors[i];
        check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);
        check_claim(be, 5, THEIRS, FT_CLAIM_LOST, OURS);
        check_files(1);
        ops->close(be);
        end();
    }
}

/* It was not, and is tried again. */
static void test_failures(void)
{
    struct {
        int *fails;
        int err;
    } cases[] = {
        { &link_before, EIO }, { &link_before, EPERM },
        { &link_before, EEXIST }, { &write_fails, ENOSPC },
        { &sync_fails, EDQUOT }, { &close_fails, EIO },
    };
    void *be;

    begin();
    be = be_at(dir);
    for (int i = 0; i < ARRAY_SIZE(cases); i++) {
        *cases[i].fails = cases[i].err;
        check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN,
                    g_strerror(cases[i].err));
        *cases[i].fails = 0;
        check_files(0);
    }
    check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);

    /* A full disk is no reason not to tell whose it is. */
    write_fails = ENOSPC;
    check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);
    check_claim(be, 5, THEIRS, FT_CLAIM_LOST, OURS);
    ops->close(be);
    end();
}

/* Nobody has won before it is there to stay. */
static void test_dir_sync(void)
{
    void *be;

    begin();
    be = be_at(dir);
    dir_sync_fails = EIO;
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(EIO));
    g_assert_true(exists(CLAIM));
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(EIO));
    check_claim(be, 5, THEIRS, FT_CLAIM_LOST, OURS);
    dir_sync_fails = 0;
    check_claim(be, 5, OURS, FT_CLAIM_WON, NULL);
    /* nothing to sync there */
    dir_sync_fails = EINVAL;
    check_claim(be, 6, OURS, FT_CLAIM_WON, NULL);
    check_files(2);
    ops->close(be);
    end();
}

/* What is there is not a claim: nobody can tell whose it is. */
static void test_unreadable(void)
{
    g_autofree char *huge = g_strnfill(CONTENT_MAX + 1, 'x');
    g_autofree char *path = NULL;
    g_autofree char *target = NULL;
    void *be;

    begin();
    be = be_at(dir);
    path = path_of(CLAIM);
    target = path_of("target");

    put(CLAIM, "", 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    put(CLAIM, "\n", 1);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    put(CLAIM, huge, CONTENT_MAX + 1);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    put(CLAIM, OURS "\0x", sizeof(OURS) + 1);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    g_assert_cmpint(remove(path), ==, 0);

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    g_assert_cmpint(remove(path), ==, 0);

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, "not a file of Cuju's");
    g_assert_cmpint(remove(path), ==, 0);

    /* Not even one that leads to our own mark. */
    put("target", OURS "\n", strlen(OURS) + 1);
    g_assert_cmpint(symlink("target", path), ==, 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(ELOOP));
    g_assert_cmpint(remove(path), ==, 0);
    g_assert_cmpint(symlink("nowhere", path), ==, 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(ELOOP));
    g_assert_false(exists("nowhere"));
    g_assert_cmpint(remove(path), ==, 0);
    g_assert_cmpint(remove(target), ==, 0);

    /* The longest that is one, and without a newline. */
    huge[CONTENT_MAX] = 0;
    put(CLAIM, huge, CONTENT_MAX);
    check_claim(be, 5, OURS, FT_CLAIM_LOST, huge);
    check_files(1);
    ops->close(be);
    end();
}

/* ------------------------------------------------------ proof and probing */

static void test_publish(void)
{
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    void *primary, *backup;

    begin();
    primary = be_at(dir);
    backup = be_at(dir);
    check_proof_fails(backup, "not mounted");
    g_assert_true(ops->publish(primary, PROOF, &error_abort));
    check_content(SESSION, PROOF "\n");
    first = ops->proof(backup, &error_abort);
    g_assert_cmpstr(first, ==, PROOF);
    g_assert_true(ops->probe(primary, &error_abort));
    g_assert_true(ops->probe(backup, &error_abort));

    /* The next session. */
    g_assert_true(ops->publish(primary, "beef", &error_abort));
    check_probe_fails(backup, "another session");
    second = ops->proof(backup, &error_abort);
    g_assert_cmpstr(second, ==, "beef");
    g_assert_true(ops->probe(backup, &error_abort));
    check_files(1);

    /* Who has not the last proof leaves it alone. */
    g_assert_true(ops->publish(primary, PROOF, &error_abort));
    ops->retire(backup);
    g_assert_true(exists(SESSION));
    check_claim(primary, 5, OURS, FT_CLAIM_WON, NULL);
    ops->retire(primary);
    g_assert_false(exists(SESSION));
    g_assert_true(exists(CLAIM));
    ops->retire(primary);
    check_probe_fails(primary, "not mounted");
    ops->close(primary);
    ops->close(backup);
    end();
}

/* Without the proof it is another place: nothing is won there. */
static void test_other_place(void)
{
    g_autofree char *session = NULL;
    void *primary, *backup, *late;

    begin();
    primary = be_at(dir);
    backup = be_at(dir);
    late = be_at(dir);
    session = path_of(SESSION);
    g_assert_true(ops->publish(primary, PROOF, &error_abort));
    g_free(ops->proof(backup, &error_abort));
    g_free(ops->proof(late, &error_abort));
    g_assert_cmpint(remove(session), ==, 0);
    check_claim(primary, 5, OURS, FT_CLAIM_UNKNOWN, "not mounted");
    check_claim(backup, 5, THEIRS, FT_CLAIM_UNKNOWN, "not mounted");
    check_files(0);
    g_assert_cmpint(mkfifo(session, 0600), ==, 0);
    check_claim(backup, 5, THEIRS, FT_CLAIM_UNKNOWN, SESSION);
    g_assert_cmpint(remove(session), ==, 0);

    /* The directory is mounted again. */
    g_assert_true(ops->publish(primary, PROOF, &error_abort));
    check_claim(backup, 5, THEIRS, FT_CLAIM_WON, NULL);

    /* The next session: who was in the last one finds its claim, or none. */
    g_assert_true(ops->publish(backup, "beef", &error_abort));
    check_claim(late, 5, OURS, FT_CLAIM_LOST, THEIRS);
    check_claim(late, 6, OURS, FT_CLAIM_UNKNOWN, "another session");
    check_claim(backup, 6, THEIRS, FT_CLAIM_WON, NULL);
    ops->retire(backup);
    check_claim(late, 6, OURS, FT_CLAIM_LOST, THEIRS);
    ops->close(primary);
    ops->close(backup);
    ops->close(late);
    end();
}

/* What would not hold a claim is refused at the start, on both sides. */
static void test_no_links(void)
{
    static const int errors[] = { EPERM, EOPNOTSUPP, ENOSYS };
    void *primary, *backup;

    begin();
    primary = be_at(dir);
    backup = be_at(dir);
    for (int i = 0; i < ARRAY_SIZE(errors); i++) {
        link_before = errors[i];
        check_publish_fails(primary, "hard links do not work");
        check_files(0);
        link_before = 0;
    }
    write_fails = ENOSPC;
    check_publish_fails(primary, g_strerror(ENOSPC));
    write_fails = 0;
    dir_sync_fails = EIO;
    check_publish_fails(primary, g_strerror(EIO));
    dir_sync_fails = 0;
    link_after = EIO;
    check_publish_fails(primary, g_strerror(EIO));
    link_after = 0;
    check_files(0);

    g_assert_true(ops->publish(primary, PROOF, &error_abort));
    link_before = EPERM;
    check_proof_fails(backup, "hard links do not work");
    link_before = 0;
    write_fails = EDQUOT;
    check_proof_fails(backup, g_strerror(EDQUOT));
    write_fails = 0;
    check_files(1);
    ops->close(primary);
    ops->close(backup);
    end();
}

/* A name that leads elsewhere is replaced, and not followed. */
static void test_session_symlink(void)
{
    g_autofree char *session = NULL;
    struct stat st;
    void *be;

    begin();
    be = be_at(dir);
    session = path_of(SESSION);
    put("target", "precious", 8);
    g_assert_cmpint(symlink("target", session), ==, 0);
    check_proof_fails(be, g_strerror(ELOOP));
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    check_content("target", "precious");
    check_content(SESSION, PROOF "\n");
    g_assert_cmpint(lstat(session, &st), ==, 0);
    g_assert_true(S_ISREG(st.st_mode));

    /* Put there meanwhile, to the right proof. */
    put("target", PROOF, strlen(PROOF));
    g_assert_cmpint(remove(session), ==, 0);
    g_assert_cmpint(symlink("target", session), ==, 0);
    check_probe_fails(be, g_strerror(ELOOP));
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(ELOOP));
    ops->close(be);
    end();
}

static void check_nothing_works(void *be, const char *says)
{
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, says);
    check_publish_fails(be, says);
    check_proof_fails(be, says);
    check_probe_fails(be, says);
    ops->retire(be);
}

static void test_no_directory(void)
{
    g_autofree char *missing = NULL;
    void *be;

    begin();
    missing = path_of("not/there");
    be = be_at(missing);
    check_nothing_works(be, missing);
    ops->close(be);

    g_free(missing);
    missing = path_of("file");
    put("file", "x", 1);
    be = be_at(missing);
    check_nothing_works(be, g_strerror(ENOTDIR));
    ops->close(be);
    end();
}

/* May be looked at, but not be written. */
static void test_read_only(void)
{
    bool root = geteuid() == 0;
    void *be, *late;

    begin();
    be = be_at(dir);
    late = be_at(dir);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    check_claim(be, 6, THEIRS, FT_CLAIM_WON, NULL);
    /* also where those of root can read all */
    if (root) {
        g_autofree char *session = path_of(SESSION);
        g_autofree char *claim = path_of(NAME ".claim-6");

        g_assert_cmpint(chmod(session, 0644), ==, 0);
        g_assert_cmpint(chmod(claim, 0644), ==, 0);
    }
    g_assert_cmpint(chmod(dir, 0555), ==, 0);
    g_assert_cmpint(root ? seteuid(65534) : 0, ==, 0);
    check_claim(be, 5, OURS, FT_CLAIM_UNKNOWN, g_strerror(EACCES));
    check_claim(be, 6, OURS, FT_CLAIM_LOST, THEIRS);
    check_probe_fails(be, g_strerror(EACCES));
    check_publish_fails(be, g_strerror(EACCES));
    check_proof_fails(late, g_strerror(EACCES));
    ops->retire(be);
    g_assert_cmpint(root ? seteuid(0) : 0, ==, 0);
    g_assert_cmpint(chmod(dir, 0700), ==, 0);
    g_assert_true(exists(SESSION));
    check_files(2);
    ops->close(be);
    ops->close(late);
    end();
}

/* ------------------------------------------------------- all of it at once */

static void told(void *opaque, FtClaim claim, const char *text)
{
    g_async_queue_push(opaque, g_strdup_printf("%d %s", claim, text));
}

static void test_whole(void)
{
    g_autofree char *first = NULL;
    g_autofree char *second = NULL;
    g_autofree char *parsed = NULL;
    GAsyncQueue *queue = g_async_queue_new();
    FtArbiterParams p = { };
    FtArbiter *primary, *backup;

    begin();
    parsed = g_strconcat("file:", dir, NULL);
    g_assert_true(ft_arbiter_parse(&p, parsed, &error_abort));
    primary = ft_arbiter_new(&p, &uuid, "A pid 1");
    backup = ft_arbiter_new(&p, &uuid, "B pid 2");
    g_assert_true(ft_arbiter_publish(primary, PROOF, 20000, &error_abort));
    g_assert_false(ft_arbiter_verify(backup, "1234", 20000, NULL));
    g_assert_true(ft_arbiter_verify(backup, PROOF, 20000, &error_abort));
    ft_arbiter_claim(backup, 1, told, queue);
    first = g_async_queue_timeout_pop(queue, 20 * G_USEC_PER_SEC);
    g_assert_cmpstr(first, ==, "0 ");
    ft_arbiter_claim(primary, 1, told, queue);
    second = g_async_queue_timeout_pop(queue, 20 * G_USEC_PER_SEC);
    g_assert_cmpstr(second, ==, "1 B pid 2");
    ft_arbiter_retire(backup);
    ft_arbiter_unref(primary);
    ft_arbiter_unref(backup);
    for (int i = 0; exists(SESSION); i++) {
        g_assert_cmpint(i, <, 20000);
        g_usleep(1000);
    }
    check_files(1);
    g_async_queue_unref(queue);
    ft_arbiter_params_clear(&p);
    end();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/arbiter/file/claim", test_claim);
    g_test_add_func("/ft/arbiter/file/tidy", test_tidy);
    g_test_add_func("/ft/arbiter/file/race-threads", test_race_threads);
    g_test_add_func("/ft/arbiter/file/race-processes", test_race_processes);
    g_test_add_func("/ft/arbiter/file/lost-reply", test_lost_reply);
    g_test_add_func("/ft/arbiter/file/failures", test_failures);
    g_test_add_func("/ft/arbiter/file/dir-sync", test_dir_sync);
    g_test_add_func("/ft/arbiter/file/unreadable", test_unreadable);
    g_test_add_func("/ft/arbiter/file/publish", test_publish);
    g_test_add_func("/ft/arbiter/file/other-place", test_other_place);
    g_test_add_func("/ft/arbiter/file/no-links", test_no_links);
    g_test_add_func("/ft/arbiter/file/session-symlink", test_session_symlink);
    g_test_add_func("/ft/arbiter/file/no-directory", test_no_directory);
    g_test_add_func("/ft/arbiter/file/read-only", test_read_only);
    g_test_add_func("/ft/arbiter/file/whole", test_whole);
    return g_test_run();
}
