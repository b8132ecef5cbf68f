/*
 * Fault tolerance: a program that is run before a takeover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * posix_spawn() does not copy the page tables of a process with gigabytes of
 * memory, as fork() would, but its caller stands still until the program has
 * been loaded.  So it is called in a thread, which also waits for the end: no
 * handler of SIGCHLD is needed, and a program that cannot be loaded or killed
 * keeps this thread alone.
 *
 * Locking: script.lock is for pid and doomed: nobody is killed by a number
 * that may belong to another one by now.  The rest is the main loop's, or
 * written by the thread before it hands over to it.
 */

#include "qemu/osdep.h"
#include <spawn.h>
#include <sys/wait.h>
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/option.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "script.h"
#include "trace.h"

/* For the thread to come back after SIGKILL. */
#define SCRIPT_KILL_MS 5000

struct FtScript {
    char **argv, **envp;
    bool grouped;               /* it may have a process group of its own */
    int timeout_ms;
    QEMUTimer *timer;
    FtScriptFn *fn;             /* NULL: has been told, or nobody asks */
    void *opaque;
    bool timed_out;

    QemuMutex lock;
    pid_t pid;                  /* 0: not started yet, or ended */
    bool doomed;                /* to be killed as soon as it is there */

    int error;                  /* of posix_spawn() */
    bool status_known;
    int status;                 /* of waitpid() */
};

/* The one whose thread has not come back. */
static FtScript *current;

/* ----------------------------------------------------------- the process */

static const char *sandbox(const char *name)
{
    QemuOptsList *list = qemu_find_opts_err("sandbox", NULL);
    QemuOpts *opts = list ? QTAILQ_FIRST(&list->head) : NULL;
    const char *value = NULL;

    if (opts && qemu_opt_get_bool(opts, "enable", false)) {
        value = qemu_opt_get(opts, name);
    }
    return value ? value : "allow";
}

bool ft_script_allowed(Error **errp)
{
    if (!strcmp(sandbox("spawn"), "deny")) {
        error_setg(errp, "-sandbox spawn=deny keeps QEMU from running a "
                   "program: start it with spawn=allow");
        return false;
    }
    return true;
}

/* The sandbox kills whoever asks for a group when it denies privileges. */
static bool may_group(void)
{
    return !strcmp(sandbox("elevateprivileges"), "allow");
}

static char **environment(const char *const *args)
{
    static const char *const name[] = {
        "CUJU_UUID", "CUJU_GENERATION", "CUJU_REASON",
    };
    char **envp = g_get_environ();
    unsigned i;

    for (i = 0; i < ARRAY_SIZE(name) && args[i]; i++) {
        envp = g_environ_setenv(envp, name[i], args[i], true);
    }
    return envp;
}

/* Returns an errno. */
static int script_spawn(FtScript *s, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    short flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
    posix_spawnattr_t attr;
    sigset_t set;
    int err;

    posix_spawnattr_init(&attr);
    sigemptyset(&set);
    posix_spawnattr_setsigmask(&attr, &set);
    sigfillset(&set);
    posix_spawnattr_setsigdefault(&attr, &set);
    if (s->grouped) {
        posix_spawnattr_setpgroup(&attr, 0);
        flags |= POSIX_SPAWN_SETPGROUP;
    }
    posix_spawnattr_setflags(&attr, flags);

    posix_spawn_file_actions_init(&files);
    err = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null",
                                           O_RDONLY, 0);
    err = err ? err : posix_spawn_file_actions_adddup2(&files, STDERR_FILENO,
                                                       STDOUT_FILENO);
    err = err ? err : posix_spawn_file_actions_addclosefrom_np(
                          &files, STDERR_FILENO + 1);
    err = err ? err : posix_spawn(pid, s->argv[0], &files, &attr, s->argv,
                                  s->envp);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return err;
}

/* With the lock. */
static void script_kill(FtScript *s)
{
    s->doomed = true;
    if (s->pid) {
        kill(s->grouped ? -s->pid : s->pid, SIGKILL);
    }
}

static void script_gone(void *opaque);

static void *script_thread(void *opaque)
{
    FtScript *s = opaque;
    siginfo_t info;
    pid_t pid = 0;

    s->error = script_spawn(s, &pid);
    if (!s->error) {
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            s->pid = pid;
            if (s->doomed) {
                script_kill(s);
            }
        }
        /* It stays a zombie, and nobody else gets its number, until ... */
        RETRY_ON_EINTR(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            s->pid = 0;
        }
        /* ... here. */
        s->status_known = RETRY_ON_EINTR(waitpid(pid, &s->status, 0)) == pid;
    }
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), script_gone, s);
    return NULL;
}

/* ------------------------------------------------------------- main loop */

/* For people, to be freed; *@ok: it did what it should. */
static char *outcome(const FtScript *s, bool *ok)
{
    *ok = false;
    if (s->error) {
        return g_strdup_printf("it cannot be started: %s%s",
                               g_strerror(s->error), s->error == ENOEXEC ?
                               ": does it begin with #! and an interpreter?" :
                               "");
    }
    if (!s->status_known) {
        return g_strdup("its exit status is not known");
    }
    if (WIFEXITED(s->status)) {
        *ok = WEXITSTATUS(s->status) == 0;
        return g_strdup_printf("it ended with status %d",
                               WEXITSTATUS(s->status));
    }
    if (s->timed_out) {
        return g_strdup_printf("it did not end within %g s, and was killed",
                               s->timeout_ms / 1e3);
    }
    return g_strdup_printf("it was killed by signal %d", WTERMSIG(s->status));
}

static void tell(FtScript *s, bool ok, const char *text)
{
    FtScriptFn *fn = s->fn;

    s->fn = NULL;
    if (fn) {
        trace_ft_script(s->argv[0], ok, text);
        fn(s->opaque, ok, text);
    }
}

static void script_gone(void *opaque)
{
    FtScript *s = opaque;
    g_autofree char *text = NULL;
    bool ok;

    /* The next one may be run from within @fn. */
    current = NULL;
    timer_del(s->timer);
    text = outcome(s, &ok);
    tell(s, ok, text);
    timer_free(s->timer);
    g_strfreev(s->argv);
    g_strfreev(s->envp);
    qemu_mutex_destroy(&s->lock);
    g_free(s);
}

static void script_timer(void *opaque)
{
    FtScript *s = opaque;

    if (s->timed_out) {
        tell(s, false, "not even SIGKILL ends it: does it wait for a disk, or "
             "a server?");
        return;
    }
    s->timed_out = true;
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        script_kill(s);
    }
    timer_mod(s->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                        SCRIPT_KILL_MS);
}

/* With SIGCHLD ignored, as some start us, the kernel forgets the status. */
static void want_status(void)
{
    struct sigaction sa;

    if (!sigaction(SIGCHLD, NULL, &sa) &&
        (sa.sa_handler == SIG_IGN || (sa.sa_flags & SA_NOCLDWAIT))) {
        signal(SIGCHLD, SIG_DFL);
    }
}

FtScript *ft_script_run(const char *path, const char *const *args,
                        int timeout_ms, FtScriptFn *fn, void *opaque,
                        Error **errp)
{
    unsigned i, count = g_strv_length((char **)args);
    QemuThread thread;
    FtScript *s;

    if (!ft_script_allowed(errp)) {
        return NULL;
    }
    if (current) {
        error_setg(errp, "the last run of %s is not gone yet",
                   current->argv[0]);
        return NULL;
    }
    want_status();
    s = current = g_new0(FtScript, 1);
    qemu_mutex_init(&s->lock);
    s->argv = g_new0(char *, count + 2);
    s->argv[0] = g_strdup(path);
    for (i = 0; i < count; i++) {
        s->argv[i + 1] = g_strdup(args[i]);
    }
    s->envp = environment(args);
    s->grouped = may_group();
    s->timeout_ms = timeout_ms;
    s->fn = fn;
    s->opaque = opaque;
    s->timer = timer_new_ms(QEMU_CLOCK_REALTIME, script_timer, s);
    timer_mod(s->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + timeout_ms);
    qemu_thread_create(&thread, "ft-script", script_thread, s,
                       QEMU_THREAD_DETACHED);
    return s;
}

void ft_script_cancel(FtScript *s)
{
    if (s) {
        s->fn = NULL;
        timer_del(s->timer);
        WITH_QEMU_LOCK_GUARD(&s->lock) {
            script_kill(s);
        }
    }
}
