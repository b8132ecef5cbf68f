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
#include "qapi/qapi-events-ft.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/runstate.h"
#include "system/system.h"
#include "session.h"
#include "trace.h"

/* What a backup that took over can still tell about itself. */
static struct {
    FtRole role;
    FtState state;
    char *reason;
    uint64_t takeover_us;
    uint64_t hashes;
} last;

static FtParams params = {
    .epoch_us = 10000,
    .depth = 2,
    .ack_timeout_ms = 5000,
    .hash_every = 0,
    .hold_packets = 4096,
    .hold_bytes = 16 * MiB,
    .disks.journal_size = 256 * MiB,
};

static FtSession *session;
static QEMUBH *end_bh;

FtParams *ft_params(void)
{
    return &params;
}

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
    last.role = role;
    last.state = state;
    g_free(last.reason);
    last.reason = g_strdup(reason);
    trace_ft_state(FtRole_str(role), FtState_str(state), reason);
    qapi_event_send_ft_state_change(role, state, reason);
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

void ft_session_takeover_us(uint64_t us)
{
    FtStatus st = { 0 };

    last.takeover_us = us;
    ft_backup_query(session->backup, &st);
    last.hashes = st.hashes_checked;
}

void ft_session_query_last(FtStatus *st)
{
    if (last.takeover_us) {
        st->has_takeover_us = st->has_hashes_checked = true;
        st->takeover_us = last.takeover_us;
        st->hashes_checked = last.hashes;
    }
}

static void session_free(FtSession *s)
{
    ft_primary_free(s->primary);
    ft_backup_free(s->backup);
    g_free(s);
}

static void session_end_bh(void *opaque)
{
    FtSession *s = session;

    qemu_bh_delete(end_bh);
    end_bh = NULL;
    session = NULL;
    session_free(s);
}

void ft_session_end(void)
{
    if (!end_bh) {
        end_bh = aio_bh_new(iohandler_get_aio_context(), session_end_bh,
                            NULL);
        qemu_bh_schedule(end_bh);
    }
}

/* The process, or its guest, goes in order: say so to the other side. */
static void session_goodbye(const char *reason)
{
    if (!session) {
        return;
    }
    if (session->primary) {
        ft_primary_cancel(session->primary, reason);
    } else if (session->backup) {
        ft_backup_disarm(session->backup, reason);
    }
}

static void session_shutdown(Notifier *n, void *data)
{
    if (session && session->primary) {
        /* The guest's last words, and what it wrote to its disks. */
        vm_shutdown();
        ft_primary_finish(session->primary);
    }
    session_goodbye("the guest was shut down");
    if (end_bh) {
        /* The main loop does not come back, and the drives will be closed. */
        session_end_bh(NULL);
    }
}

static void session_exit(Notifier *n, void *data)
{
    session_goodbye("QEMU was ended");
}

static Notifier shutdown_notifier = { .notify = session_shutdown };
static Notifier exit_notifier = { .notify = session_exit };

static FtSession *session_new(void)
{
    static bool registered;

    if (!registered) {
        registered = true;
        qemu_register_shutdown_notifier(&shutdown_notifier);
        qemu_add_exit_notifier(&exit_notifier);
    }
    return g_new0(FtSession, 1);
}

bool ft_session_protect(const SocketAddress *addr, const FtDisksParams *disks,
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
    s = session_new();
    qemu_uuid_generate(&s->uuid);
    s->primary = ft_primary_new(s, addr, disks, errp);
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
    s = session_new();
    s->backup = ft_backup_new(s, addr, errp);
    if (!s->backup) {
        session_free(s);
        return false;
    }
    session = s;
    return true;
}

bool ft_session_cancel(Error **errp)
{
    if (!session || !session->primary) {
        error_setg(errp, "there is no protection to end on this side%s",
                   session ? ": this is the backup, end it on the primary" :
                   "");
        return false;
    }
    ft_primary_cancel(session->primary, "the operator ended protection");
    return true;
}

bool ft_session_failover(Error **errp)
{
    if (!session || !session->backup) {
        error_setg(errp, "only a backup can take over: run cuju-failover on "
                   "its monitor");
        return false;
    }
    return ft_backup_failover(session->backup, errp);
}
