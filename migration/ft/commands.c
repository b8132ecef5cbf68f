/*
 * Fault tolerance: QMP and HMP, and the hooks in QEMU's own commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ft.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-visit-ft.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "system/runstate.h"
#include "../migration.h"
#include "../options.h"
#include "primary-fsm.h"
#include "session.h"

#define FT_MODE_SUFFIX ",ft_mode"
#define EPOCH_US_MIN 1000
#define EPOCH_US_MAX 1000000

/* ------------------------------------------------------------------ QMP */

FtStatus *qmp_query_ft(Error **errp)
{
    FtStatus *st = g_new0(FtStatus, 1);
    FtSession *s = ft_session();
    const char *reason = NULL;

    st->role = ft_session_role();
    st->state = ft_session_last(&reason);
    st->reason = g_strdup(reason ? reason : "");
    st->epoch_us = ft_params()->epoch_us;
    ft_session_query_last(st);
    if (s) {
        st->session = qemu_uuid_unparse_strdup(&s->uuid);
        if (s->primary) {
            ft_primary_query(s->primary, st);
        } else if (s->backup) {
            ft_backup_query(s->backup, st);
        }
    }
    return st;
}

static bool check_range(const char *name, bool has, uint64_t value,
                        uint64_t min, uint64_t max, Error **errp)
{
    if (has && (value < min || value > max)) {
        error_setg(errp, "%s must be from %" PRIu64 " to %" PRIu64 ", not %"
                   PRIu64, name, min, max, value);
        return false;
    }
    return true;
}

static void params_changed(void)
{
    FtSession *s = ft_session();

    if (s && s->primary) {
        ft_primary_params_changed(s->primary);
    }
}

static void set_disks(FtDisksParams *d, FtParameters *a)
{
    d->journal_size = a->has_ft_journal_size ? a->ft_journal_size
                                             : d->journal_size;
    d->all.storage = a->has_ft_storage ? a->ft_storage : d->all.storage;
    if (a->has_ft_storage) {
        d->shared_is_sure = a->ft_storage == FT_STORAGE_SHARED;
    }
    d->all.copy = a->has_ft_copy ? a->ft_copy : d->all.copy;
    d->all.flush = a->has_ft_flush ? a->ft_flush : d->all.flush;
    if (a->has_ft_drives) {
        qapi_free_FtDriveOptionsList(d->drives);
        d->drives = QAPI_CLONE(FtDriveOptionsList, a->ft_drives);
    }
    d->drain_reads = a->has_x_ft_drain_reads ? a->x_ft_drain_reads
                                             : d->drain_reads;
}

void qmp_ft_set_parameters(FtParameters *a, Error **errp)
{
    FtParams *p = ft_params();

    if (!check_range("ft-epoch-us", a->has_ft_epoch_us, a->ft_epoch_us,
                     EPOCH_US_MIN, EPOCH_US_MAX, errp) ||
        !check_range("ft-depth", a->has_ft_depth, a->ft_depth,
                     1, FT_PRI_DEPTH_MAX, errp) ||
        !check_range("ft-ack-timeout-ms", a->has_ft_ack_timeout_ms,
                     a->ft_ack_timeout_ms, 100, 60000, errp) ||
        !check_range("ft-hold-packets", a->has_ft_hold_packets,
                     a->ft_hold_packets, 1, 1000000, errp) ||
        !check_range("ft-hold-bytes", a->has_ft_hold_bytes,
                     a->ft_hold_bytes, 65536, 1073741824, errp) ||
        !check_range("ft-journal-size", a->has_ft_journal_size,
                     a->ft_journal_size, 16 * MiB, 64 * GiB, errp)) {
        return;
    }

    p->epoch_us = a->has_ft_epoch_us ? a->ft_epoch_us : p->epoch_us;
    p->depth = a->has_ft_depth ? a->ft_depth : p->depth;
    p->ack_timeout_ms = a->has_ft_ack_timeout_ms ? a->ft_ack_timeout_ms
                                                 : p->ack_timeout_ms;
    p->hash_every = a->has_ft_hash ? a->ft_hash : p->hash_every;
    p->hold_packets = a->has_ft_hold_packets ? a->ft_hold_packets
                                             : p->hold_packets;
    p->hold_bytes = a->has_ft_hold_bytes ? a->ft_hold_bytes : p->hold_bytes;
    set_disks(&p->disks, a);
    params_changed();
}

FtParameters *qmp_query_ft_parameters(Error **errp)
{
    FtParameters *a = g_new0(FtParameters, 1);
    const FtParams *p = ft_params();

    a->has_ft_epoch_us = true;
    a->ft_epoch_us = p->epoch_us;
    a->has_ft_depth = true;
    a->ft_depth = p->depth;
    a->has_ft_ack_timeout_ms = true;
    a->ft_ack_timeout_ms = p->ack_timeout_ms;
    a->has_ft_hash = true;
    a->ft_hash = p->hash_every;
    a->has_ft_hold_packets = true;
    a->ft_hold_packets = p->hold_packets;
    a->has_ft_hold_bytes = true;
    a->ft_hold_bytes = p->hold_bytes;
    a->has_ft_journal_size = true;
    a->ft_journal_size = p->disks.journal_size;
    a->has_ft_storage = a->has_ft_copy = a->has_ft_flush = true;
    a->ft_storage = p->disks.all.storage;
    a->ft_copy = p->disks.all.copy;
    a->ft_flush = p->disks.all.flush;
    a->has_ft_drives = true;
    a->ft_drives = QAPI_CLONE(FtDriveOptionsList, p->disks.drives);
    a->has_x_ft_drain_reads = true;
    a->x_ft_drain_reads = p->disks.drain_reads;
    return a;
}

void qmp_cuju_adjust_epoch(uint64_t epoch, Error **errp)
{
    if (check_range("epoch", true, epoch, EPOCH_US_MIN, EPOCH_US_MAX, errp)) {
        ft_params()->epoch_us = epoch;
        params_changed();
    }
}

void qmp_cuju_failover(Error **errp)
{
    ft_session_failover(errp);
}

void qmp_cuju_migrate_cancel(Error **errp)
{
    ft_session_cancel(errp);
}

void qmp_x_ft_inject(FtFaultPoint point, bool has_after, uint64_t after,
                     Error **errp)
{
    if (has_after && !after) {
        error_setg(errp, "after must be 1 or more");
        return;
    }
    ft_inject_arm(point, has_after ? after : 1);
}

/* ---------------------------------------------------------------- hooks */

static bool capability_on(void)
{
    return migrate_get_current()->capabilities[MIGRATION_CAPABILITY_CUJU_FT];
}

static bool check_socket(const SocketAddress *sa, Error **errp)
{
    if (sa->type != SOCKET_ADDRESS_TYPE_INET &&
        sa->type != SOCKET_ADDRESS_TYPE_UNIX) {
        error_setg(errp, "fault tolerance supports the addresses "
                   "tcp:HOST:PORT and unix:PATH only");
        return false;
    }
    return true;
}

/* "drive0:drive1" */
static void add_replicated(FtDisksParams *d, const char *names)
{
    g_auto(GStrv) name = g_strsplit(names, ":", -1);
    unsigned i;

    for (i = 0; name[i]; i++) {
        FtDriveOptions *o = g_new0(FtDriveOptions, 1);

        o->drive = g_strdup(name[i]);
        o->has_storage = true;
        o->storage = FT_STORAGE_REPLICATED;
        QAPI_LIST_PREPEND(d->drives, o);
    }
}

/* One option behind the address; false, without an error: it is not ours. */
static bool uri_option(FtDisksParams *d, const char *option, Error **errp)
{
    ERRP_GUARD();
    const char *value;
    int n;

    if (!strcmp(option, "shared") || !strcmp(option, "replicated")) {
        d->all.storage = qapi_enum_parse(&FtStorage_lookup, option, 0, NULL);
        d->shared_is_sure = d->all.storage == FT_STORAGE_SHARED;
        return true;
    }
    if (strstart(option, "replicated=", &value)) {
        add_replicated(d, value);
        return true;
    }
    if (strstart(option, "copy=", &value)) {
        n = qapi_enum_parse(&FtCopyMode_lookup, value, -1, errp);
        d->all.copy = n >= 0 ? n : d->all.copy;
        return !*errp;
    }
    if (strstart(option, "flush=", &value)) {
        n = qapi_enum_parse(&FtFlushMode_lookup, value, -1, errp);
        d->all.flush = n >= 0 ? n : d->all.flush;
        return !*errp;
    }
    return false;
}

/*
 * Split "tcp:HOST:PORT,replicated,flush=disk" in the address, to be freed,
 * and what is ours, in @d.
 */
static char *split_uri(const char *uri, FtDisksParams *d, Error **errp)
{
    ERRP_GUARD();
    g_auto(GStrv) part = g_strsplit(uri, ",", -1);
    GString *plain = g_string_new(part[0]);
    unsigned i;

    for (i = 1; part[0] && part[i]; i++) {
        if (!uri_option(d, part[i], errp)) {
            if (*errp) {
                g_string_free(plain, true);
                return NULL;
            }
            g_string_append_printf(plain, ",%s", part[i]);
        }
    }
    return g_string_free(plain, false);
}

static bool protect(MigrationAddress *addr, const FtDisksParams *disks,
                    Error **errp)
{
    if (addr->transport != MIGRATION_ADDRESS_TYPE_SOCKET) {
        error_setg(errp, "fault tolerance supports the addresses "
                   "tcp:HOST:PORT and unix:PATH only");
        return false;
    }
    return check_socket(&addr->u.socket, errp) &&
           ft_session_protect(&addr->u.socket, disks, errp);
}

bool ft_migrate(MigrationAddress *addr, Error **errp)
{
    if (capability_on()) {
        protect(addr, &ft_params()->disks, errp);
        return true;
    }
    if (ft_session()) {
        error_setg(errp, "migrate is not possible while fault tolerance is "
                   "active; end it with cuju-migrate-cancel");
        return true;
    }
    return false;
}

bool ft_incoming_uri(const char *uri)
{
    return g_str_has_suffix(uri, FT_MODE_SUFFIX);
}

bool ft_incoming(const char *uri, Error **errp)
{
    g_autofree char *plain = g_strndup(uri,
                                       strlen(uri) - strlen(FT_MODE_SUFFIX));
    g_autoptr(SocketAddress) sa = NULL;

    if (!runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "a backup must be started with -incoming");
        return false;
    }
    if (!strstart(plain, "tcp:", NULL) && !strstart(plain, "unix:", NULL)) {
        error_setg(errp, "fault tolerance supports the addresses "
                   "tcp:HOST:PORT and unix:PATH only");
        return false;
    }
    sa = socket_parse(plain, errp);
    return sa && check_socket(sa, errp) && ft_session_listen(sa, errp);
}

bool ft_blocks(const char *what, Error **errp)
{
    FtSession *s = ft_session();

    if (s && s->primary && ft_primary_blocks(s->primary)) {
        error_setg(errp, "%s is not possible while this machine is "
                   "protected; end protection with cuju-migrate-cancel",
                   what);
        return true;
    }
    if (s && s->backup && runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "%s is not possible while this machine is a backup",
                   what);
        return true;
    }
    return false;
}

bool ft_pausing(void)
{
    FtSession *s = ft_session();

    /* savevm, the other user of this runstate, is refused in a session */
    return s && s->primary && runstate_check(RUN_STATE_SAVE_VM);
}

/* ------------------------------------------------------------------ HMP */

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

static bool set_capability(Error **errp)
{
    ERRP_GUARD();
    MigrationCapabilityStatusList *caps = NULL;
    MigrationCapabilityStatus *c = g_new0(MigrationCapabilityStatus, 1);

    c->capability = MIGRATION_CAPABILITY_CUJU_FT;
    c->state = true;
    QAPI_LIST_PREPEND(caps, c);
    qmp_migrate_set_capabilities(caps, errp);
    qapi_free_MigrationCapabilityStatusList(caps);
    return !*errp;
}

bool ft_hmp_migrate(Monitor *mon, const QDict *qdict)
{
    bool cuju = qdict_get_try_bool(qdict, "cuju", false);
    bool detach = qdict_get_try_bool(qdict, "detach", false);
    const char *uri = qdict_get_str(qdict, "uri");
    g_autoptr(MigrationChannel) channel = NULL;
    FtDisksParams disks = ft_params()->disks;
    g_autofree char *plain = NULL;
    Error *err = NULL;
    FtHmpWait *w;

    if (!cuju && !capability_on()) {
        return false;
    }
    disks.drives = QAPI_CLONE(FtDriveOptionsList, disks.drives);
    if (qdict_get_try_bool(qdict, "resume", false)) {
        error_setg(&err, "-r has no meaning for fault tolerance");
    } else if (!(plain = split_uri(uri, &disks, &err))) {
        /* err says why */
    } else if (!migrate_uri_parse(plain, &channel, &err)) {
        /* err says why */
    } else if (!capability_on() && !set_capability(&err)) {
        /* so does it here */
    } else {
        protect(channel->addr, &disks, &err);
    }
    qapi_free_FtDriveOptionsList(disks.drives);
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
    Error *err = NULL;

    qmp_cuju_failover(&err);
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
    Error *err = NULL;

    qmp_cuju_migrate_cancel(&err);
    hmp_handle_error(mon, err);
}

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

void hmp_info_ft(Monitor *mon, const QDict *qdict)
{
    g_autoptr(FtStatus) st = qmp_query_ft(&error_abort);
    FtDriveStatusList *d;

    monitor_printf(mon, "role: %s\n", FtRole_str(st->role));
    monitor_printf(mon, "state: %s\n", FtState_str(st->state));
    monitor_printf(mon, "reason: %s\n", st->reason);
    if (st->session) {
        monitor_printf(mon, "session: %s\n", st->session);
    }
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
    if (st->has_hashes_checked) {
        monitor_printf(mon, "hashes checked: %" PRIu64 "\n",
                       st->hashes_checked);
    }
    if (st->has_takeover_us) {
        monitor_printf(mon, "takeover: %.1f ms\n", st->takeover_us / 1e3);
    }
}
