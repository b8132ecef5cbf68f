/*
 * Fault tolerance: the parameters
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All that ft-set-parameters is given is checked before anything is changed.
 * Ids of objects are kept as they are and looked up when a session starts, so
 * that a password that was renewed by then is the one that is used.
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "crypto/secret.h"
#include "crypto/tlscredsx509.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/qapi-commands-ft.h"
#include "qapi/qapi-visit-ft.h"
#include "qemu/sockets.h"
#include "qemu/units.h"
#include "qom/object.h"
#include "primary-fsm.h"
#include "reprotect.h"
#include "script.h"
#include "session.h"

#define EPOCH_US_MIN 1000
#define EPOCH_US_MAX 1000000
#define HEARTBEATS_MIN 4        /* in a timeout */
#define HEARTBEATS_MAX 200

static FtParams params = {
    .epoch_us = 10000,
    .depth = 2,
    .ack_timeout_ms = 5000,
    .heartbeat_ms = 50,
    .timeout_ms = 500,
    .stuck_ms = 10000,
    .hash_every = 0,
    .hold_packets = 4096,
    .hold_bytes = 16 * MiB,
    .disks.journal_size = 256 * MiB,
};

FtParams *ft_params(void)
{
    return &params;
}

/* --------------------------------------------------------- for a session */

static bool find_password(FtArbiterParams *a, Error **errp)
{
    if (!params.arbiter_secret) {
        return true;
    }
    a->password = qcrypto_secret_lookup_as_utf8(params.arbiter_secret, errp);
    if (!a->password) {
        error_prepend(errp, "ft-arbiter-secret: ");
        return false;
    }
    return true;
}

static bool find_tls_dir(FtArbiterParams *a, Error **errp)
{
    const char *id = params.arbiter_tls_creds;
    Object *obj;

    if (!id) {
        return true;
    }
    obj = object_resolve_path_component(object_get_objects_root(), id);
    if (!obj || !object_dynamic_cast(obj, TYPE_QCRYPTO_TLS_CREDS_X509)) {
        error_setg(errp, "ft-arbiter-tls-creds: there is no object "
                   "tls-creds-x509 with the id '%s'", id);
        return false;
    }
    if (!qcrypto_tls_creds_check_endpoint(QCRYPTO_TLS_CREDS(obj),
                                          QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT,
                                          errp)) {
        error_prepend(errp, "ft-arbiter-tls-creds '%s': ", id);
        return false;
    }
    a->tls_dir = object_property_get_str(obj, "dir", errp);
    return a->tls_dir;
}

static bool find_secrets(FtArbiterParams *a, Error **errp)
{
    g_clear_pointer(&a->password, g_free);
    g_clear_pointer(&a->tls_dir, g_free);
    return find_password(a, errp) && find_tls_dir(a, errp);
}

bool ft_params_secrets(FtArbiterParams *a, Error **errp)
{
    return a->kind != FT_ARBITER_ETCD || find_secrets(a, errp);
}

bool ft_params_arbiter(FtArbiterParams *out, bool *set, Error **errp)
{
    memset(out, 0, sizeof(*out));
    ft_arbiter_params_copy(out, &params.arbiter);
    *set = params.arbiter_set;
    /* Whoever chooses the arbiter instead may choose etcd. */
    if (*set ? ft_params_secrets(out, errp) : find_secrets(out, errp)) {
        return true;
    }
    ft_arbiter_params_clear(out);
    return false;
}

void ft_params_options(FtProtectOptions *out)
{
    memset(out, 0, sizeof(*out));
    out->disks = params.disks;
    out->disks.drives = QAPI_CLONE(FtDriveOptionsList, params.disks.drives);
    ft_arbiter_params_copy(&out->arbiter, &params.arbiter);
    out->arbiter_set = params.arbiter_set;
}

/* ---------------------------------------------------------------- checks */

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

static bool check_times(FtParameters *a, Error **errp)
{
    uint32_t beat = a->has_ft_heartbeat_ms ? a->ft_heartbeat_ms
                                           : params.heartbeat_ms;
    uint32_t timeout = a->has_ft_timeout_ms ? a->ft_timeout_ms
                                            : params.timeout_ms;

    if (!check_range("ft-ack-timeout-ms", a->has_ft_ack_timeout_ms,
                     a->ft_ack_timeout_ms, 100, 60000, errp) ||
        !check_range("ft-heartbeat-ms", a->has_ft_heartbeat_ms, beat,
                     10, 10000, errp) ||
        !check_range("ft-timeout-ms", a->has_ft_timeout_ms, timeout,
                     100, 60000, errp)) {
        return false;
    }
    if (timeout < beat * HEARTBEATS_MIN || timeout > beat * HEARTBEATS_MAX) {
        error_setg(errp, "ft-timeout-ms (%u) must be from %d to %d times "
                   "ft-heartbeat-ms (%u): set both", timeout, HEARTBEATS_MIN,
                   HEARTBEATS_MAX, beat);
        return false;
    }
    if (a->has_ft_stuck_ms && a->ft_stuck_ms &&
        (a->ft_stuck_ms < 1000 || a->ft_stuck_ms > 600000)) {
        error_setg(errp, "ft-stuck-ms must be from 1000 to 600000, or 0 for "
                   "never, not %u", a->ft_stuck_ms);
        return false;
    }
    return true;
}

static bool check_arbiter(const char *spec, Error **errp)
{
    FtArbiterParams p = { 0 };
    bool ok;

    if (!spec || !*spec) {
        return true;
    }
    ok = ft_arbiter_parse(&p, spec, errp);
    if (!ok) {
        error_prepend(errp, "ft-arbiter: ");
    }
    ft_arbiter_params_clear(&p);
    return ok;
}

static bool check_script(const char *path, Error **errp)
{
    struct stat st;

    if (!path || !*path) {
        return true;
    }
    if (!g_path_is_absolute(path)) {
        error_setg(errp, "ft-takeover-script: '%s' is not an absolute path",
                   path);
        return false;
    }
    if (stat(path, &st)) {
        error_setg_errno(errp, errno, "ft-takeover-script: '%s'", path);
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "ft-takeover-script: '%s' is not a file", path);
        return false;
    }
    if (access(path, X_OK)) {
        error_setg(errp, "ft-takeover-script: '%s' cannot be executed by "
                   "this user: chmod +x", path);
        return false;
    }
    if (!ft_script_allowed(errp)) {
        error_prepend(errp, "ft-takeover-script: ");
        return false;
    }
    return true;
}

static bool check_reprotect(strList *uri, Error **errp)
{
    for (; uri; uri = uri->next) {
        FtProtectOptions opt;
        g_autofree char *plain = NULL;
        g_autoptr(SocketAddress) addr = NULL;

        ft_params_options(&opt);
        plain = ft_options_parse(uri->value, &opt, errp);
        ft_options_clear(&opt);
        addr = plain ? socket_parse(plain, errp) : NULL;
        if (!addr) {
            error_prepend(errp, "ft-reprotect: ");
            return false;
        }
    }
    return true;
}

static bool check_all(FtParameters *a, Error **errp)
{
    return check_range("ft-epoch-us", a->has_ft_epoch_us, a->ft_epoch_us,
                       EPOCH_US_MIN, EPOCH_US_MAX, errp) &&
           check_range("ft-depth", a->has_ft_depth, a->ft_depth,
                       1, FT_PRI_DEPTH_MAX, errp) &&
           check_range("ft-hold-packets", a->has_ft_hold_packets,
                       a->ft_hold_packets, 1, 1000000, errp) &&
           check_range("ft-hold-bytes", a->has_ft_hold_bytes,
                       a->ft_hold_bytes, 65536, 1073741824, errp) &&
           check_range("ft-journal-size", a->has_ft_journal_size,
                       a->ft_journal_size, 16 * MiB, 64 * GiB, errp) &&
           check_times(a, errp) &&
           check_arbiter(a->ft_arbiter, errp) &&
           check_script(a->ft_takeover_script, errp) &&
           check_reprotect(a->has_ft_reprotect ? a->ft_reprotect : NULL, errp);
}

/* ---------------------------------------------------------------- change */

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

/* @value: NULL: as it was; empty: none. */
static void set_string(char **p, const char *value)
{
    if (value) {
        g_free(*p);
        *p = *value ? g_strdup(value) : NULL;
    }
}

static void set_loss(FtParams *p, FtParameters *a)
{
    p->heartbeat_ms = a->has_ft_heartbeat_ms ? a->ft_heartbeat_ms
                                             : p->heartbeat_ms;
    p->timeout_ms = a->has_ft_timeout_ms ? a->ft_timeout_ms : p->timeout_ms;
    p->stuck_ms = a->has_ft_stuck_ms ? a->ft_stuck_ms : p->stuck_ms;
    if (a->ft_arbiter) {
        p->arbiter_set = *a->ft_arbiter;
        ft_arbiter_parse(&p->arbiter, *a->ft_arbiter ? a->ft_arbiter : "none",
                         &error_abort);
    }
    set_string(&p->arbiter.user, a->ft_arbiter_user);
    set_string(&p->arbiter_secret, a->ft_arbiter_secret);
    set_string(&p->arbiter_tls_creds, a->ft_arbiter_tls_creds);
    set_string(&p->takeover_script, a->ft_takeover_script);
    if (a->has_ft_reprotect) {
        qapi_free_strList(p->reprotect);
        p->reprotect = QAPI_CLONE(strList, a->ft_reprotect);
        ft_reprotect_changed();
    }
}

static void params_changed(void)
{
    FtSession *s = ft_session();

    if (s && s->primary) {
        ft_primary_params_changed(s->primary);
    }
}

void qmp_ft_set_parameters(FtParameters *a, Error **errp)
{
    FtParams *p = &params;

    if (!check_all(a, errp)) {
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
    set_loss(p, a);
    params_changed();
}

void qmp_cuju_adjust_epoch(uint64_t epoch, Error **errp)
{
    if (check_range("epoch", true, epoch, EPOCH_US_MIN, EPOCH_US_MAX, errp)) {
        params.epoch_us = epoch;
        params_changed();
    }
}

/* ----------------------------------------------------------------- query */

static void query_disks(FtParameters *a, const FtDisksParams *d)
{
    a->has_ft_journal_size = true;
    a->ft_journal_size = d->journal_size;
    a->has_ft_storage = a->has_ft_copy = a->has_ft_flush = true;
    a->ft_storage = d->all.storage;
    a->ft_copy = d->all.copy;
    a->ft_flush = d->all.flush;
    a->has_ft_drives = true;
    a->ft_drives = QAPI_CLONE(FtDriveOptionsList, d->drives);
    a->has_x_ft_drain_reads = true;
    a->x_ft_drain_reads = d->drain_reads;
}

static char *or_empty(const char *value)
{
    return g_strdup(value ? value : "");
}

static void query_loss(FtParameters *a, const FtParams *p)
{
    a->has_ft_heartbeat_ms = a->has_ft_timeout_ms = a->has_ft_stuck_ms = true;
    a->ft_heartbeat_ms = p->heartbeat_ms;
    a->ft_timeout_ms = p->timeout_ms;
    a->ft_stuck_ms = p->stuck_ms;
    a->ft_arbiter = p->arbiter_set ? ft_arbiter_spec(&p->arbiter)
                                   : g_strdup("");
    a->ft_arbiter_user = or_empty(p->arbiter.user);
    a->ft_arbiter_secret = or_empty(p->arbiter_secret);
    a->ft_arbiter_tls_creds = or_empty(p->arbiter_tls_creds);
    a->ft_takeover_script = or_empty(p->takeover_script);
    a->has_ft_reprotect = true;
    a->ft_reprotect = QAPI_CLONE(strList, p->reprotect);
}

FtParameters *qmp_query_ft_parameters(Error **errp)
{
    FtParameters *a = g_new0(FtParameters, 1);
    const FtParams *p = &params;

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
    query_disks(a, &p->disks);
    query_loss(a, p);
    return a;
}
