/*
 * Fault tolerance: what people type on the monitor, and what it says
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything here is made of the QMP commands.
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "migration/ft.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ft.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "session.h"

/* ------------------------------------------------------------- commands */

typedef struct FtHmpWait {
    Monitor *mon;
    QEMUTimer *timer;
} FtHmpWait;

static void ft_hmp_wait_cb(void *opaque)
{
    FtHmpWait *w = opaque;
    const char *reason = NULL;
    FtState state = ft_session_last(&reason);

    switch (state) {
    case FT_STATE_SETUP:
        timer_mod(w->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + 50);
        return;
    case FT_STATE_SYNC:
    case FT_STATE_PROTECTED:
        monitor_printf(w->mon, "ft: connected, the first copy is under way "
                       "(see 'info ft')\n");
        break;
    default:
        monitor_printf(w->mon, "Error: %s\n",
                       reason && *reason ? reason : FtState_str(state));
        break;
    }
    monitor_resume(w->mon);
    timer_free(w->timer);
    g_free(w);
}

bool ft_hmp_migrate(Monitor *mon, const QDict *qdict)
{
    bool cuju = qdict_get_try_bool(qdict, "cuju", false);
    bool detach = qdict_get_try_bool(qdict, "detach", false);
    Error *err = NULL;
    FtHmpWait *w;

    if (!cuju && !ft_capability()) {
        return false;
    }
    if (qdict_get_try_bool(qdict, "resume", false)) {
        error_setg(&err, "-r has no meaning for fault tolerance");
    } else {
        ft_protect_uri(qdict_get_str(qdict, "uri"), &err);
    }
    if (hmp_handle_error(mon, err)) {
        return true;
    }

    if (!detach && monitor_suspend(mon) == 0) {
        w = g_new0(FtHmpWait, 1);
        w->mon = mon;
        w->timer = timer_new_ms(QEMU_CLOCK_REALTIME, ft_hmp_wait_cb, w);
        timer_mod(w->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME));
    }
    return true;
}

void hmp_cuju_failover(Monitor *mon, const QDict *qdict)
{
    bool force = qdict_get_try_bool(qdict, "force", false);
    Error *err = NULL;

    qmp_cuju_failover(true, force, &err);
    hmp_handle_error(mon, err);
}

void hmp_cuju_adjust_epoch(Monitor *mon, const QDict *qdict)
{
    int64_t epoch = qdict_get_int(qdict, "epoch");
    Error *err = NULL;

    qmp_cuju_adjust_epoch(MAX(epoch, 0), &err);
    hmp_handle_error(mon, err);
}

void hmp_cuju_get_ft_started(Monitor *mon, const QDict *qdict)
{
    FtState state = ft_session_last(NULL);

    monitor_printf(mon, "%d\n", state == FT_STATE_PROTECTED ||
                                state == FT_STATE_STANDBY);
}

void hmp_cuju_get_ft_mode(Monitor *mon, const QDict *qdict)
{
    FtState state = ft_session_last(NULL);

    monitor_printf(mon, "%d %s\n", state, FtState_str(state));
}

void hmp_cuju_migrate_cancel(Monitor *mon, const QDict *qdict)
{
    bool force = qdict_get_try_bool(qdict, "force", false);
    Error *err = NULL;

    qmp_cuju_migrate_cancel(true, force, &err);
    hmp_handle_error(mon, err);
}

/* -------------------------------------------------------------- info ft */

/* Microseconds as milliseconds */
static void print_histogram(Monitor *mon, const char *name,
                            const FtHistogram *h)
{
    monitor_printf(mon, "%s: mean %.2f ms, p50 %.2f, p99 %.2f, max %.2f\n",
                   name, h->mean / 1e3, h->p50 / 1e3, h->p99 / 1e3,
                   h->max / 1e3);
}

static void print_drive(Monitor *mon, const FtDriveStatus *d)
{
    monitor_printf(mon, "drive %s: %s, flush=%s, on disk up to epoch %" PRIu64
                   ", %" PRIu64 " writes (%" PRIu64 " bytes) in the journal\n",
                   d->drive, FtStorage_str(d->storage),
                   FtFlushMode_str(d->flush), d->settled, d->journal_records,
                   d->journal_bytes);
    if (d->has_copied && d->to_copy) {
        monitor_printf(mon, "  first copy: %" PRIu64 " %% of %" PRIu64
                       " MiB\n", d->copied * 100 / d->to_copy,
                       (uint64_t)(d->to_copy / MiB));
    }
    if (d->error) {
        monitor_printf(mon, "  cannot be written: %s; tried again each "
                       "second\n", d->error);
    }
}

static void print_arbiter(Monitor *mon, const FtArbiterStatus *a)
{
    monitor_printf(mon, "arbiter: %s", a->arbiter);
    if (a->two_live_sides_possible) {
        monitor_printf(mon, ": two live sides are possible\n");
    } else if (!a->has_reachable) {
        monitor_printf(mon, ", not asked yet\n");
    } else if (a->reachable) {
        monitor_printf(mon, ", in reach\n");
    } else {
        monitor_printf(mon, ", not in reach");
        if (a->has_age_ms) {
            monitor_printf(mon, " for %" PRId64 " s", a->age_ms / 1000);
        }
        monitor_printf(mon, ": %s\n", a->reason ? a->reason : "no answer");
    }
}

static void print_heart(Monitor *mon, const FtHeartStatus *h)
{
    monitor_printf(mon, "heartbeats: %" PRIu64 " sent, %" PRIu64 " heard, the "
                   "last one %" PRId64 " ms ago, longest gap %" PRId64 " ms, "
                   "round trip %" PRId64 " us\n", h->sent, h->heard, h->age_ms,
                   h->gap_max_ms, h->rtt_us);
    if (h->muted) {
        monitor_printf(mon, "  kept silent as the main loop was stuck: %" PRIu64
                       " times\n", h->muted);
    }
}

static void print_takeover(Monitor *mon, const FtTakeover *t)
{
    monitor_printf(mon, "takeover: %.1f ms, of epoch %" PRIu64 " with "
                   "generation %" PRIu64 ": %s\n", t->total, t->epoch,
                   t->generation, t->reason);
    monitor_printf(mon, "  detect %.1f ms, claim %.1f, script %.1f, disks "
                   "%.1f, devices %.1f, run %.1f; guest's clocks forward by "
                   "%.1f ms\n", t->detect, t->claim, t->script, t->disks,
                   t->devices, t->run, t->clock_advance);
}

static void print_reprotect(Monitor *mon, const FtReprotectStatus *r)
{
    if (r->next_ms) {
        monitor_printf(mon, "protecting again: by %s in %.1f s, after %" PRIu64
                       " tries", r->uri, r->next_ms / 1e3, r->tries);
    } else {
        monitor_printf(mon, "protecting again: by %s now, try %" PRIu64,
                       r->uri, r->tries);
    }
    monitor_printf(mon, "%s%s\n", r->error ? "; the last one failed: " : "",
                   r->error ? r->error : "");
}

/* Who and what, and what keeps the two sides apart. */
static void print_session(Monitor *mon, const FtStatus *st)
{
    monitor_printf(mon, "protection: %s\n", st->protection);
    monitor_printf(mon, "role: %s\n", FtRole_str(st->role));
    monitor_printf(mon, "state: %s\n", FtState_str(st->state));
    monitor_printf(mon, "reason: %s\n", st->reason);
    if (st->session) {
        monitor_printf(mon, "session: %s", st->session);
        if (st->has_generation) {
            monitor_printf(mon, ", generation %" PRIu64, st->generation);
        }
        monitor_printf(mon, "\n");
    }
    if (st->arbiter) {
        print_arbiter(mon, st->arbiter);
    }
    if (st->heart) {
        print_heart(mon, st->heart);
    }
    if (st->reprotect) {
        print_reprotect(mon, st->reprotect);
    }
    if (st->takeover) {
        print_takeover(mon, st->takeover);
    } else if (st->has_takeover_us) {
        monitor_printf(mon, "takeover: %.1f ms\n", st->takeover_us / 1e3);
    }
}

static void print_epochs(Monitor *mon, const FtStatus *st)
{
    if (st->has_epoch) {
        monitor_printf(mon, "epoch: %" PRIu64 " (committed %" PRIu64
                       "), length %" PRIu64 " us\n", st->epoch,
                       st->has_committed ? st->committed : 0, st->epoch_us);
    } else {
        monitor_printf(mon, "epoch length: %" PRIu64 " us\n", st->epoch_us);
    }
    if (st->has_sync_percent) {
        monitor_printf(mon, "sync: %" PRIu32 " %%", st->sync_percent);
        if (st->has_sync_rate) {
            monitor_printf(mon, " (%.1f MiB/s)", st->sync_rate / 1048576.0);
        }
        monitor_printf(mon, "\n");
    }
    if (st->has_epochs_per_second) {
        monitor_printf(mon, "epochs per second: %.1f\n",
                       st->epochs_per_second);
    }
    if (st->pause) {
        print_histogram(mon, "pause", st->pause->total);
        print_histogram(mon, "  stop", st->pause->stop);
        print_histogram(mon, "  harvest", st->pause->harvest);
        print_histogram(mon, "  copy", st->pause->copy);
        print_histogram(mon, "  devices", st->pause->devices);
        print_histogram(mon, "  resume", st->pause->resume);
    }
    if (st->has_dirty_mean) {
        monitor_printf(mon, "dirty pages: mean %" PRIu64, st->dirty_mean);
        if (st->has_dirty_p99) {
            monitor_printf(mon, ", p99 %" PRIu64, st->dirty_p99);
        }
        if (st->has_dirty_tracking) {
            monitor_printf(mon, " (%s)",
                           FtDirtyTracking_str(st->dirty_tracking));
        }
        monitor_printf(mon, "\n");
    }
    if (st->has_device_bytes) {
        monitor_printf(mon, "device state: %" PRIu64 " bytes\n",
                       st->device_bytes);
    }
    if (st->commit) {
        print_histogram(mon, "commit", st->commit);
    }
    if (st->has_in_flight) {
        monitor_printf(mon, "in flight: %" PRIu32 " epochs\n", st->in_flight);
    }
}

static void print_output(Monitor *mon, const FtStatus *st)
{
    if (st->has_held_packets) {
        monitor_printf(mon, "held: %" PRIu64 " packets, %" PRIu64 " bytes\n",
                       st->held_packets,
                       st->has_held_bytes ? st->held_bytes : 0);
    }
    if (st->has_released_packets) {
        monitor_printf(mon, "released: %" PRIu64 " packets\n",
                       st->released_packets);
    }
    if (st->has_early_epochs) {
        monitor_printf(mon, "early epochs: %" PRIu64 "\n", st->early_epochs);
    }
    if (st->has_stalls) {
        monitor_printf(mon, "stalls: %" PRIu64 ", %.1f ms in all\n",
                       st->stalls,
                       st->has_stall_us ? st->stall_us / 1e3 : 0.0);
    }
    if (st->has_pages_raw) {
        monitor_printf(mon, "pages: %" PRIu64 " raw, %" PRIu64 " zero\n",
                       st->pages_raw,
                       st->has_pages_zero ? st->pages_zero : 0);
    }
    if (st->has_wire_bytes) {
        monitor_printf(mon, "wire: %" PRIu64 " bytes\n", st->wire_bytes);
    }
}

static void print_disks(Monitor *mon, const FtStatus *st)
{
    FtDriveStatusList *d;

    if (st->has_journal_bytes) {
        monitor_printf(mon, "journal: %" PRIu64 " of %" PRIu64 " bytes, peak %"
                       PRIu64 ", writes slowed %" PRIu64 ", stalled %" PRIu64
                       "\n", st->journal_bytes, st->journal_size,
                       st->journal_peak, st->slowed_writes,
                       st->stalled_writes);
    }
    for (d = st->drives; d; d = d->next) {
        print_drive(mon, d->value);
    }
}

void hmp_info_ft(Monitor *mon, const QDict *qdict)
{
    g_autoptr(FtStatus) st = qmp_query_ft(&error_abort);

    print_session(mon, st);
    print_epochs(mon, st);
    print_output(mon, st);
    print_disks(mon, st);
    if (st->has_hashes_checked) {
        monitor_printf(mon, "hashes checked: %" PRIu64 "\n",
                       st->hashes_checked);
    }
}
