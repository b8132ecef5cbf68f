/*
 * Unit tests of migration/ft/script.c: a program is run before a takeover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Real programs (/bin/sh), in QEMU's main loop.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/timer.h"
#include "migration/ft/script.h"

#define WAIT_MS 30000
#define ODD_FD  57              /* not closed by exec() */

static const char *const no_args[] = { "u", "1", "r", NULL };

static char *dir;
static int told;
static bool was_ok;
static char *text;

static QemuOptsList sandbox_opts = {
    .name = "sandbox",
    .head = QTAILQ_HEAD_INITIALIZER(sandbox_opts.head),
    .desc = {
        { .name = "enable", .type = QEMU_OPT_BOOL },
        { .name = "elevateprivileges", .type = QEMU_OPT_STRING },
        { .name = "spawn", .type = QEMU_OPT_STRING },
        { /* end of list */ }
    },
};

static void fn(void *opaque, bool ok, const char *why)
{
    g_assert_true(opaque == &told);
    told++;
    was_ok = ok;
    g_free(text);
    text = g_strdup(why);
}

/* Runs the main loop until @done, or too long. */
static void loop_until(bool (*done)(void))
{
    int64_t until = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + WAIT_MS;

    while (!done()) {
        g_assert_cmpint(qemu_clock_get_ms(QEMU_CLOCK_REALTIME), <, until);
        main_loop_wait(true);
        g_usleep(1000);
    }
}

static bool is_told(void)
{
    return told;
}

static char *in_dir(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static char *script(const char *body)
{
    g_autofree char *all = g_strdup_printf("#!/bin/sh\n%s\n", body);
    char *path = in_dir("script");

    g_assert_true(g_file_set_contents(path, all, -1, NULL));
    g_assert_cmpint(chmod(path, 0755), ==, 0);
    return path;
}

static FtScript *start(const char *path, const char *const *args, int ms)
{
    FtScript *s;

    told = 0;
    s = ft_script_run(path, args, ms, fn, &told, &error_abort);
    /* never before it returns */
    g_assert_cmpint(told, ==, 0);
    return s;
}

static void run(const char *body, const char *const *args, int ms)
{
    g_autofree char *path = script(body);

    start(path, args, ms);
    loop_until(is_told);
    g_assert_cmpint(told, ==, 1);
}

static void run_failing(const char *body, int ms, const char *why)
{
    run(body, no_args, ms);
    g_assert_false(was_ok);
    if (!strstr(text, why)) {
        g_error("'%s', not '%s'", text, why);
    }
}

static char *output(void)
{
    g_autofree char *path = in_dir("out");
    char *out = NULL;

    g_assert_true(g_file_get_contents(path, &out, NULL, NULL));
    unlink(path);
    return out;
}

static pid_t pid_in_output(void)
{
    g_autofree char *out = output();

    return atoi(out);
}

/* Gone, or a zombie that waits for init. */
static bool is_dead(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid);
    g_autofree char *stat = NULL;

    return !g_file_get_contents(path, &stat, NULL, NULL) ||
           strstr(stat, ") Z ");
}

static void wait_dead(pid_t pid)
{
    int64_t until = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + WAIT_MS;

    g_assert_cmpint(pid, >, 1);
    while (!is_dead(pid)) {
        g_assert_cmpint(qemu_clock_get_ms(QEMU_CLOCK_REALTIME), <, until);
        g_usleep(1000);
    }
}

static int open_files(void)
{
    GDir *d = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(d)) {
        n++;
    }
    g_dir_close(d);
    return n;
}

static void test_status(void)
{
    run("exit 0", no_args, WAIT_MS);
    g_assert_true(was_ok);
    run_failing("exit 3", WAIT_MS, "status 3");
    run_failing("kill -SEGV $$", WAIT_MS, "signal 11");
}

static void test_not_started(void)
{
    g_autofree char *path = NULL;

    start("/nowhere/at-all", no_args, WAIT_MS);
    loop_until(is_told);
    g_assert_false(was_ok);
    g_assert_nonnull(strstr(text, "No such file"));

    path = script("exit 0");
    g_assert_cmpint(chmod(path, 0644), ==, 0);
    start(path, no_args, WAIT_MS);
    loop_until(is_told);
    g_assert_false(was_ok);
    g_assert_nonnull(strstr(text, "Permission denied"));

    g_assert_true(g_file_set_contents(path, "exit 0\n", -1, NULL));
    g_assert_cmpint(chmod(path, 0755), ==, 0);
    start(path, no_args, WAIT_MS);
    loop_until(is_told);
    g_assert_false(was_ok);
    g_assert_nonnull(strstr(text, "interpreter"));
}

/* What is in the reason comes from a peer. */
static void test_arguments(void)
{
    const char *args[] = {
        "6e6b6e1c", "12", "it's \"gone\" $(touch x); `id` *\n&", NULL
    };
    g_autofree char *want = NULL;
    g_autofree char *out = NULL;

    run("for a in \"$#\" \"$@\" \"$CUJU_UUID\" \"$CUJU_GENERATION\" "
        "\"$CUJU_REASON\" \"$FT_TEST_KEPT\"; do printf '[%s]' \"$a\"; done "
        "> \"$FT_TEST_DIR/out\"", args, WAIT_MS);
    g_assert_true(was_ok);
    want = g_strdup_printf("[3][%s][12][%s][%s][12][%s][kept]", args[0],
                           args[2], args[0], args[2]);
    out = output();
    g_assert_cmpstr(out, ==, want);
}

/* What goes to stderr is in output() until stderr_back(). */
static int stderr_away(void)
{
    g_autofree char *path = in_dir("out");
    int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    g_assert_cmpint(dup2(fd, STDERR_FILENO), ==, STDERR_FILENO);
    close(fd);
    return saved;
}

static void stderr_back(int saved)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
}

static void test_files(void)
{
    g_autofree char *out = NULL;

    g_assert_cmpint(dup2(STDERR_FILENO, ODD_FD), ==, ODD_FD);
    run("exec > \"$FT_TEST_DIR/out\"\n"
        "readlink /proc/$$/fd/0\n"
        "[ -e /proc/$$/fd/57 ] && echo odd\n"
        "true", no_args, WAIT_MS);
    close(ODD_FD);
    g_assert_true(was_ok);
    out = output();
    g_assert_cmpstr(out, ==, "/dev/null\n");
}

/* As after a login. Not asked of a shell, which makes them so itself. */
static void test_signals(void)
{
    static const char *const args[] = { "/proc/self/status", NULL };
    /* 32 and 33 are glibc's own, which posix_spawn() ignores */
    const uint64_t own = 3ull << 31;
    g_autofree char *out = NULL;
    uint64_t blocked, ignored;
    int saved = stderr_away();
    sigset_t set, old;
    char *at;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &old);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    start("/bin/cat", args, WAIT_MS);
    loop_until(is_told);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    stderr_back(saved);
    g_assert_true(was_ok);
    out = output();
    at = strstr(out, "SigBlk:");
    g_assert_nonnull(at);
    g_assert_cmpint(sscanf(at, "SigBlk: %" SCNx64 " SigIgn: %" SCNx64,
                           &blocked, &ignored), ==, 2);
    g_assert_cmphex(blocked, ==, 0);
    g_assert_cmphex(ignored & ~own, ==, 0);
}

static void test_output(void)
{
    g_autofree char *out = NULL;
    int saved = stderr_away();

    run("echo to the one; echo to the other >&2", no_args, WAIT_MS);
    stderr_back(saved);
    out = output();
    g_assert_cmpstr(out, ==, "to the one\nto the other\n");
}

static void test_timeout(void)
{
    pid_t leader, child;
    g_autofree char *out = NULL;

    run_failing("trap '' TERM INT HUP\nsleep 1000 &\n"
                "echo $$ $! > \"$FT_TEST_DIR/out\"\nwait", 2000, "within 2 s");
    out = output();
    g_assert_cmpint(sscanf(out, "%d %d", &leader, &child), ==, 2);
    wait_dead(leader);
    wait_dead(child);
}

/* What it leaves behind when it ends in time is its own business. */
static void test_daemon(void)
{
    pid_t child;

    run("sleep 1000 &\necho $! > \"$FT_TEST_DIR/out\"", no_args, WAIT_MS);
    g_assert_true(was_ok);
    child = pid_in_output();
    g_assert_false(is_dead(child));
    kill(child, SIGKILL);
    wait_dead(child);
}

static bool has_output(void)
{
    g_autofree char *path = in_dir("out");
    struct stat st;

    return !stat(path, &st) && st.st_size;
}

static bool can_run_again(void)
{
    g_autofree char *path = script("exit 0");
    FtScript *s = ft_script_run(path, no_args, WAIT_MS, fn, &told, NULL);

    return s;
}

static void test_cancel(void)
{
    g_autofree char *path = script("echo $$ > \"$FT_TEST_DIR/out\"\n"
                                   "exec sleep 1000");
    Error *err = NULL;
    FtScript *s = start(path, no_args, WAIT_MS);

    loop_until(has_output);
    /* one at a time */
    g_assert_null(ft_script_run(path, no_args, WAIT_MS, fn, &told, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), path));
    error_free(err);

    ft_script_cancel(s);
    wait_dead(pid_in_output());
    loop_until(can_run_again);
    g_assert_cmpint(told, ==, 0);       /* by the one that was cancelled */
    loop_until(is_told);
    g_assert_cmpint(told, ==, 1);
    g_assert_true(was_ok);
    ft_script_cancel(NULL);

    /* at once, most likely before it has been started */
    g_free(path);
    path = script("echo $$ > \"$FT_TEST_DIR/out\"\nexec sleep 1000");
    s = start(path, no_args, WAIT_MS);
    ft_script_cancel(s);
    loop_until(can_run_again);
    g_assert_cmpint(told, ==, 0);
    loop_until(is_told);
    if (has_output()) {
        wait_dead(pid_in_output());
    }
}

static void fn_again(void *opaque, bool ok, const char *why)
{
    g_autofree char *path = in_dir("script");

    g_assert_true(ok);
    ft_script_run(path, no_args, WAIT_MS, fn, &told, &error_abort);
}

static void test_again_from_fn(void)
{
    g_autofree char *path = script("exit 0");

    told = 0;
    ft_script_run(path, no_args, WAIT_MS, fn_again, NULL, &error_abort);
    loop_until(is_told);
    g_assert_true(was_ok);
}

static void test_nothing_left(void)
{
    int before;

    run("exit 0", no_args, WAIT_MS);
    before = open_files();
    for (int i = 0; i < 20; i++) {
        run("exit 0", no_args, WAIT_MS);
        run_failing("sleep 1000", 20, "within");
    }
    g_assert_cmpint(open_files(), ==, before);
    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
}

/* Some are started in this way. */
static void test_sigchld_ignored(void)
{
    signal(SIGCHLD, SIG_IGN);
    run_failing("exit 7", WAIT_MS, "status 7");
    signal(SIGCHLD, SIG_DFL);
}

static int group_of(const char *out)
{
    int group;

    /* pid (name) state parent group */
    g_assert_cmpint(sscanf(strrchr(out, ')'), ") %*c %*d %d", &group), ==, 1);
    return group;
}

static void test_sandbox(void)
{
    static const char group[] = "cat /proc/$$/stat > \"$FT_TEST_DIR/out\"";
    QemuOpts *opts = qemu_opts_parse(&sandbox_opts,
                                     "enable=on,elevateprivileges=children",
                                     false, &error_abort);
    Error *err = NULL;
    char *out;

    /* setpgid() is death there */
    run(group, no_args, WAIT_MS);
    g_assert_true(was_ok);
    out = output();
    g_assert_cmpint(group_of(out), ==, getpgrp());
    g_free(out);
    run_failing("exec sleep 1000", 500, "within 0.5 s");

    qemu_opt_set(opts, "spawn", "deny", &error_abort);
    g_assert_false(ft_script_allowed(&err));
    g_assert_nonnull(strstr(error_get_pretty(err), "spawn=allow"));
    g_clear_pointer(&err, error_free);
    g_assert_null(ft_script_run("/bin/true", no_args, WAIT_MS, fn, &told,
                                &err));
    g_clear_pointer(&err, error_free);

    qemu_opts_del(opts);
    run(group, no_args, WAIT_MS);
    out = output();
    g_assert_cmpint(group_of(out), !=, getpgrp());
    g_assert_cmpint(group_of(out), ==, atoi(out));
    g_free(out);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    qemu_init_main_loop(&error_abort);
    qemu_add_opts(&sandbox_opts);
    dir = g_dir_make_tmp("ft-script-XXXXXX", NULL);
    g_assert_nonnull(dir);
    g_setenv("FT_TEST_DIR", dir, true);
    g_setenv("FT_TEST_KEPT", "kept", true);
    g_setenv("CUJU_REASON", "of another time", true);
    /* a test that hangs is not to hang for ever */
    alarm(100);

    g_test_add_func("/ft/script/status", test_status);
    g_test_add_func("/ft/script/not-started", test_not_started);
    g_test_add_func("/ft/script/arguments", test_arguments);
    g_test_add_func("/ft/script/files", test_files);
    g_test_add_func("/ft/script/signals", test_signals);
    g_test_add_func("/ft/script/output", test_output);
    g_test_add_func("/ft/script/timeout", test_timeout);
    g_test_add_func("/ft/script/daemon", test_daemon);
    g_test_add_func("/ft/script/cancel", test_cancel);
    g_test_add_func("/ft/script/again-from-fn", test_again_from_fn);
    g_test_add_func("/ft/script/nothing-left", test_nothing_left);
    g_test_add_func("/ft/script/sigchld-ignored", test_sigchld_ignored);
    g_test_add_func("/ft/script/sandbox", test_sandbox);
    ret = g_test_run();
    {
        g_autofree char *path = in_dir("script");
        g_autofree char *out = in_dir("out");

        unlink(path);
        unlink(out);
        rmdir(dir);
    }
    g_free(dir);
    g_free(text);
    return ret;
}
