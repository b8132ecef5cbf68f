/*
 * Fault tolerance: one protection session: start, stop, refusals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * At most one session lives in a process.  It is made by "migrate" with the
 * cuju-ft capability (primary) or by -incoming with ft_mode (backup), and
 * freed from a bottom half after its side has said that it is over; a second
 * one then starts clean.  What outlives it is only what people ask for
 * afterwards: the last state with its reason, and the parameters.
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-events-ft.h"
#include "qapi/qapi-visit-ft.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/timer.h"
#include "qemu/yank.h"
#include "system/runstate-action.h"
#include "system/runstate.h"
#include "system/system.h"
#include "reprotect.h"
#include "session.h"
#include "trace.h"

/* The arbiter is looked at so often, to tell when it is out of reach. */
#define ARBITER_LOOK_MS     1000
/* A process that ends waits so long for it to be left tidy. */
#define ARBITER_FINISH_MS   1000

/* What can still be told when the session is over. */
static struct {
    FtRole role;
    FtState state;
    char *reason;
    FtTakeover *takeover;
    uint64_t hashes;
} last;

/*
 * The guest that runs here: its line of sessions, and how often a side has
 * gone on without the other in it.  It stays the same from host to host, so
 * that no side of an earlier session can ever claim what a later one needs.
 */
static struct {
    bool known;
    QemuUUID uuid;
    uint64_t generation;
} line;

static FtSession *session;
static QEMUBH *end_bh;
static QEMUTimer *arbiter_timer;
static bool arbiter_away;           /* and that was told */
static bool leaving;                /* the process ends, in order */
static FtArbiter *retiring;         /* may still take its proof away */

static void session_watch_arbiter(void);

FtSession *ft_session(void)
{
    return session;
}

int64_t ft_now_us(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME) / SCALE_US;
}

void ft_main_loop(QEMUBHFunc *fn, void *opaque)
{
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), fn, opaque);
}

void ft_session_state(FtRole role, FtState state, const char *reason)
{
    if (role == last.role && state == last.state &&
        !g_strcmp0(reason, last.reason)) {
        return;
    }
    last.role = role;
    last.state = state;
    g_free(last.reason);
    last.reason = g_strdup(reason);
    trace_ft_state(FtRole_str(role), FtState_str(state), reason);
    qapi_event_send_ft_state_change(role, state, reason);
    if (state == FT_STATE_PROTECTED || state == FT_STATE_STANDBY) {
        session_watch_arbiter();
    }
    ft_reprotect_state(state);
}

FtState ft_session_last(const char **reason)
{
    if (reason) {
        *reason = last.reason ? last.reason : "never protected";
    }
    return last.state;
}

FtRole ft_session_role(void)
{
    return last.role;
}

void ft_session_took_over(FtTakeover *t)
{
    FtStatus st = { 0 };

    qapi_event_send_ft_takeover(t);
    qapi_free_FtTakeover(last.takeover);
    last.takeover = t;
    ft_backup_query(session->backup, &st);
    last.hashes = st.hashes_checked;
    qapi_free_FtArbiterStatus(st.arbiter);
    qapi_free_FtHeartStatus(st.heart);
    qapi_free_FtDriveStatusList(st.drives);
    line.known = true;
    line.uuid = session->uuid;
    line.generation = session->generation;
}

void ft_session_query_last(FtStatus *st)
{
    if (last.takeover) {
        st->has_takeover_us = st->has_hashes_checked = true;
        st->takeover_us = last.takeover->total * 1000;
        st->takeover = QAPI_CLONE(FtTakeover, last.takeover);
        st->hashes_checked = last.hashes;
    }
    if (line.known) {
        st->session = qemu_uuid_unparse_strdup(&line.uuid);
        st->has_generation = true;
        st->generation = line.generation;
    }
}

/* -------------------------------------------------------------- arbiter */

static void arbiter_look(void *opaque)
{
    FtArbiterState st = { 0 };

    ft_arbiter_state(session->arbiter, &st);
    if (st.tried && st.reachable == arbiter_away) {
        arbiter_away = !st.reachable;
        if (arbiter_away) {
            warn_report("ft: the arbiter %s is out of reach: %s; until it is "
                        "back, a loss of either side stops the guest",
                        session->arbiter_spec, st.reason);
        } else {
            info_report("ft: the arbiter %s is in reach again",
                        session->arbiter_spec);
        }
        qapi_event_send_ft_arbiter(session->arbiter_spec, st.reachable,
                                   st.reason);
    }
    g_free(st.reason);
    timer_mod(arbiter_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                             ARBITER_LOOK_MS);
}

static void session_drop_arbiter(FtSession *s)
{
    timer_free(arbiter_timer);
    arbiter_timer = NULL;
    arbiter_away = false;
    if (s->arbiter) {
        ft_arbiter_retire(s->arbiter);
        ft_arbiter_quiet(s->arbiter);
        ft_arbiter_unref(retiring);
        retiring = g_steal_pointer(&s->arbiter);
        if (leaving) {
            ft_arbiter_finish(retiring, ARBITER_FINISH_MS);
        }
    }
    g_clear_pointer(&s->arbiter_spec, g_free);
}

void ft_session_set_arbiter(FtSession *s, const FtArbiterParams *params)
{
    g_autofree char *who = g_strdup_printf("%s pid %d", g_get_host_name(),
                                           (int)getpid());

    session_drop_arbiter(s);
    s->arbiter = ft_arbiter_new(params, &s->uuid, who);
    s->arbiter_spec = ft_arbiter_spec(params);
}

/* From when a loss would need it. */
static void session_watch_arbiter(void)
{
    if (!arbiter_timer && session && session->arbiter) {
        arbiter_timer = timer_new_ms(QEMU_CLOCK_REALTIME, arbiter_look, NULL);
        arbiter_look(NULL);
    }
}

/* -------------------------------------------------------- start and end */

static void session_free(FtSession *s)
{
    ft_primary_free(s->primary);
    ft_backup_free(s->backup);
    session_drop_arbiter(s);
    yank_unregister_function(MIGRATION_YANK_INSTANCE, ft_link_yank_all, NULL);
    yank_unregister_instance(MIGRATION_YANK_INSTANCE);
    g_free(s);
}

static void session_end_bh(void *opaque)
{
    FtSession *s = session;

    qemu_bh_delete(end_bh);
    end_bh = NULL;
    if (s->primary) {
        line.generation = s->generation;
    }
    session = NULL;
    session_free(s);
    if (last.state == FT_STATE_UNPROTECTED) {
        ft_reprotect_lost(last.reason);
    }
}

void ft_session_end(void)
{
    if (!end_bh) {
        end_bh = aio_bh_new(iohandler_get_aio_context(), session_end_bh,
                            NULL);
        qemu_bh_schedule(end_bh);
    }
}

static void session_shutdown(Notifier *n, void *data)
{
    if (shutdown_action == SHUTDOWN_ACTION_PAUSE) {
        /* -no-shutdown: the process stays, and so does protection. */
        return;
    }
    leaving = true;
    if (session && session->primary) {
        /* The guest's last words, and what it wrote to its disks. */
        vm_shutdown();
        ft_primary_leave(session->primary, "the guest was shut down");
    } else if (session && session->backup) {
        ft_backup_disarm(session->backup, "QEMU was ended");
    }
    if (end_bh) {
        /* The main loop does not come back, and the drives will be closed. */
        session_end_bh(NULL);
    }
    if (retiring) {
        /* Of a session that ended just before. */
        ft_arbiter_finish(retiring, ARBITER_FINISH_MS);
    }
}

/*
 * Without a shutdown before it this is a failure: of a primary it is for the
 * backup to go on, and a backup will not.
 */
static void session_exit(Notifier *n, void *data)
{
    if (session && session->backup) {
        ft_backup_disarm(session->backup, "QEMU was ended");
    }
}

static Notifier shutdown_notifier = { .notify = session_shutdown };
static Notifier exit_notifier = { .notify = session_exit };

static FtSession *session_new(Error **errp)
{
    static bool registered;

    if (!registered) {
        registered = true;
        qemu_register_shutdown_notifier(&shutdown_notifier);
        qemu_add_exit_notifier(&exit_notifier);
    }
    /* No migration runs beside a session, so its name is free. */
    if (!yank_register_instance(MIGRATION_YANK_INSTANCE, errp)) {
        return NULL;
    }
    yank_register_function(MIGRATION_YANK_INSTANCE, ft_link_yank_all, NULL);
    return g_new0(FtSession, 1);
}

bool ft_session_protect(const SocketAddress *addr, const FtProtectOptions *opt,
                        Error **errp)
{
    const char *reason;
    FtState state;
    FtSession *s;

    if (session) {
        state = ft_session_last(&reason);
        error_setg(errp, "a protection session is there already (state '%s':"
                   " %s): end it with cuju-migrate-cancel first",
                   FtState_str(state), reason);
        return false;
    }
    if (!ft_refuse_check(errp)) {
        return false;
    }
    s = session_new(errp);
    if (!s) {
        return false;
    }
    if (!line.known) {
        line.known = true;
        qemu_uuid_generate(&line.uuid);
    }
    s->uuid = line.uuid;
    s->generation = line.generation;
    s->primary = ft_primary_new(s, addr, opt, errp);
    if (!s->primary) {
        session_free(s);
        return false;
    }
    session = s;
    return true;
}

bool ft_session_listen(const SocketAddress *addr, Error **errp)
{
    FtSession *s;

    if (session) {
        error_setg(errp, "this backup is listening already");
        return false;
    }
    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "a backup must be started with -incoming");
        return false;
    }
    s = session_new(errp);
    if (!s) {
        return false;
    }
    s->backup = ft_backup_new(s, addr, errp);
    if (!s->backup) {
        session_free(s);
        return false;
    }
    session = s;
    return true;
}

bool ft_session_cancel(bool force, Error **errp)
{
    bool trying = ft_reprotect_stop();

    if (!session || !session->primary) {
        if (trying) {
            return true;
        }
        error_setg(errp, "there is no protection to end on this side%s",
                   session ? ": this is the backup, end it on the primary" :
                   "");
        return false;
    }
    if (!ft_primary_cancel(session->primary, "the operator ended protection",
                           force)) {
        error_setg(errp, "protection is ending already, and the arbiter's "
                   "word is missing (see query-ft); if you know that the "
                   "backup is dead, say it with force (-f)");
        return false;
    }
    return true;
}

bool ft_session_failover(bool force, Error **errp)
{
    if (!session || !session->backup) {
        error_setg(errp, "only a backup can take over: run cuju-failover on "
                   "its monitor");
        return false;
    }
    return ft_backup_failover(session->backup, force, errp);
}
