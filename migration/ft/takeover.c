/*
 * Fault tolerance: from the claim to a running guest, phase by phase
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   detect    the last sign of life ... the primary is found to be lost
 *   claim     ... the arbiter, or the primary itself, has said yes
 *   script    ... ft-takeover-script has ended well
 *   disks     ... what is committed is in the journals of images that can be
 *             written: locks, storage that is away
 *   devices   ... their state is loaded: once, as twice aborts in QEMU's q35
 *             chipset
 *   run       ... addresses are announced, the guest runs
 *
 * Guest RAM already holds the committed epoch; what is left is what an
 * ordinary incoming migration does last.  Script and disks are tried again
 * for as long as it takes: nobody else goes on any more.
 *
 * Locking: BQL, main loop.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "migration/global_state.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "net/announce.h"
#include "system/runstate.h"
#include "backup-private.h"
#include "status.h"
#include "trace.h"

/* A script that failed is run again after so long. */
#define SCRIPT_RETRY_MS     1000
/* When to say that an image is still locked, and how often to look before
 * and after that. */
#define LOCK_TELL_MS        1000
#define LOCK_LOOK_MS        1
#define LOCK_LOOK_LATER_MS  50

static void takeover_step(void *opaque);

static void takeover_again(FtTakeoverRun *run, int ms)
{
    timer_mod_ns(run->timer, (ft_now_us() + ms * 1000ll) * SCALE_US);
}

/* The phase is over: the next one.  @ms is where its time goes. */
static void takeover_next(FtTakeoverRun *run, FtTakeoverPhase next, double *ms)
{
    int64_t now = ft_now_us();

    *ms = ft_status_ms(run->phase_began, now);
    run->phase_began = now;
    run->phase = next;
}

static void takeover_failed(FtBackup *b, Error *err)
{
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ft_bak_takeover_failed(&b->fsm, error_get_pretty(err));
    }
    error_free(err);
}

/* --------------------------------------------------------------- script */

static void script_retry(FtBackup *b, const char *why)
{
    g_autofree char *msg = g_strdup_printf("waits: ft-takeover-script: %s; it "
                                           "is run again each second", why);

    warn_report("ft: takeover %s", msg);
    ft_session_state(FT_ROLE_BACKUP, FT_STATE_TAKEOVER, msg);
    takeover_again(&b->run, SCRIPT_RETRY_MS);
}

static void script_ended(void *opaque, bool ok, const char *text)
{
    FtBackup *b = opaque;
    FtTakeoverRun *run = &b->run;

    run->script = NULL;
    if (!ok) {
        script_retry(b, text);
        return;
    }
    takeover_next(run, FT_TAKEOVER_DISKS, &run->status->script);
    takeover_step(b);
}

/* True: there is none, or it is no more. */
static bool takeover_script(FtBackup *b)
{
    FtTakeoverRun *run = &b->run;
    const char *path = ft_params()->takeover_script;
    g_autofree char *uuid = qemu_uuid_unparse_strdup(&b->session->uuid);
    g_autofree char *generation =
        g_strdup_printf("%" PRIu64, run->status->generation);
    const char *args[] = { uuid, generation, run->status->reason, NULL };
    Error *err = NULL;

    if (!path) {
        takeover_next(run, FT_TAKEOVER_DISKS, &run->status->script);
        return true;
    }
    run->script = ft_script_run(path, args, FT_SCRIPT_TIMEOUT_MS,
                                script_ended, b, &err);
    if (!run->script) {
        script_retry(b, error_get_pretty(err));
        error_free(err);
    }
    return false;
}

/* ---------------------------------------------------------------- disks */

/*
 * The lock of an image is still held, by a primary that dies just now, or
 * hangs.  Nobody may write beside it, so this goes on for as long as it
 * takes.
 */
static void wait_for_lock(FtBackup *b, const char *who)
{
    FtTakeoverRun *run = &b->run;

    if (ft_now_us() - run->phase_began > LOCK_TELL_MS * 1000 &&
        !run->lock_told) {
        g_autofree char *msg =
            g_strdup_printf("waits for %s; end what keeps it from being "
                            "opened, to go on", who);

        run->lock_told = true;
        warn_report("ft: takeover %s", msg);
        ft_session_state(FT_ROLE_BACKUP, FT_STATE_TAKEOVER, msg);
    }
    if (run->lock_told && !strcmp(b->session->arbiter_spec, "none")) {
        /*
         * Each time, as one that is away now can be looked at later.  With an
         * arbiter the primary cannot have gone on alone: what it still writes
         * was under way when it hung, and is in this side's records.
         */
        ft_disks_watch(b->disks);
    }
    takeover_again(run, run->lock_told ? LOCK_LOOK_LATER_MS : LOCK_LOOK_MS);
}

static bool takeover_disks(FtBackup *b)
{
    FtTakeoverRun *run = &b->run;
    g_autofree char *who = NULL;
    Error *err = NULL;

    if (ft_disks_take_over(b->disks, &who, &err)) {
        takeover_next(run, FT_TAKEOVER_DEVICES, &run->status->disks);
        return true;
    }
    if (err) {
        takeover_failed(b, err);
    } else {
        wait_for_lock(b, who);
    }
    return false;
}

/* ------------------------------------------------------ devices and run */

/* Of a guest that did not run; as an incoming migration does it. */
static RunState takeover_stands(RunState was)
{
    switch (was) {
    case RUN_STATE_GUEST_PANICKED:
    case RUN_STATE_INTERNAL_ERROR:
    case RUN_STATE_IO_ERROR:
    case RUN_STATE_PRELAUNCH:
    case RUN_STATE_SHUTDOWN:
    case RUN_STATE_WATCHDOG:
        return was;
    default:
        return RUN_STATE_PAUSED;
    }
}

static bool takeover_devices(FtBackup *b, Error **errp)
{
    FtTakeoverRun *run = &b->run;
    MigrationIncomingState *mis = migration_incoming_get_current();
    RunState was;

    if (!ft_devstate_load(b->devices->data, b->devices->len, &run->clock,
                          errp)) {
        return false;
    }
    ft_inject(FT_FAULT_POINT_TAKEOVER);
    if (!migration_block_activate(errp)) {
        error_prepend(errp, "the disks could not be taken over: ");
        return false;
    }
    takeover_next(run, FT_TAKEOVER_DEVICES, &run->status->devices);
    qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    was = global_state_get_runstate();
    if (b->fsm.guest_running || was == RUN_STATE_SUSPENDED) {
        run->status->clock_advance =
            ft_clock_start(&run->clock, &b->committed_at) / (double)SCALE_MS;
    } else {
        runstate_set(takeover_stands(was));
    }
    takeover_next(run, FT_TAKEOVER_DEVICES, &run->status->run);
    return true;
}

static void takeover_run(FtBackup *b)
{
    FtTakeoverRun *run = &b->run;
    Error *err = NULL;

    if (!takeover_devices(b, &err)) {
        takeover_failed(b, err);
        return;
    }
    run->status->total = ft_status_ms(run->began, ft_now_us());
    trace_ft_takeover(run->status->generation, run->status->claim * 1000,
                      run->status->disks * 1000, run->status->devices * 1000,
                      run->status->total * 1000);
    b->session->generation = run->status->generation;
    ft_session_took_over(g_steal_pointer(&run->status));
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ft_bak_running(&b->fsm);
    }
}

static void takeover_step(void *opaque)
{
    FtBackup *b = opaque;

    switch (b->run.phase) {
    case FT_TAKEOVER_SCRIPT:
        if (!takeover_script(b)) {
            return;
        }
        /* fall through */
    case FT_TAKEOVER_DISKS:
        if (!takeover_disks(b)) {
            return;
        }
        /* fall through */
    case FT_TAKEOVER_DEVICES:
        takeover_run(b);
        break;
    }
}

void ft_takeover_begin(FtBackup *b)
{
    FtTakeoverRun *run = &b->run;
    FtTakeover *st = g_new0(FtTakeover, 1);

    ft_backup_stop_threads(b);
    ft_listener_free(b->listener);
    b->listener = NULL;
    /* The guest is here now, and what comes is for it. */
    ft_deaf_detach();

    run->status = st;
    run->timer = timer_new_ns(QEMU_CLOCK_REALTIME, takeover_step, b);
    run->phase_began = ft_now_us();
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        run->began = b->lost_at;
        st->reason = g_strdup(b->fsm.why);
        st->epoch = b->fsm.committed;
        st->detect = ft_status_ms(b->heard_at, b->lost_at);
        st->claim = ft_status_ms(b->lost_at, run->phase_began);
    }
    st->generation = b->session->generation + 1;
    takeover_step(b);
}

void ft_takeover_free(FtTakeoverRun *run)
{
    if (run->script) {
        ft_script_cancel(run->script);
    }
    timer_free(run->timer);
    ft_clock_clear(&run->clock);
    qapi_free_FtTakeover(run->status);
}
