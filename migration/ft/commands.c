/*
 * Fault tolerance: QMP, and the hooks in QEMU's own commands
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The parameters are in params.c, what people type in hmp.c.
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "hw/qdev-core.h"
#include "migration/ft.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-ft.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/util.h"
#include "qemu/error-report.h"
#include "qemu/sockets.h"
#include "system/runstate.h"
#include "../migration.h"
#include "../options.h"
#include "reprotect.h"
#include "session.h"
#include "uri.h"

#define FT_MODE_SUFFIX ",ft_mode"

/* ------------------------------------------------------------------ QMP */

/* In a few words, for people; to be freed. */
static char *protection(const FtStatus *st)
{
    const char *side = st->role == FT_ROLE_BACKUP ? "Backup" : "Not protected";
    const char *lost = ft_reprotect_reason();

    switch (st->state) {
    case FT_STATE_SETUP:
        if (lost) {
            break;
        }
        return g_strdup("Not protected: connecting to the backup");
    case FT_STATE_SYNC:
        if (st->role == FT_ROLE_PRIMARY) {
            return g_strdup_printf("Syncing %" PRIu32 " %%",
                                   st->has_sync_percent ? st->sync_percent
                                                        : 0);
        }
        return g_strdup("Backup: the first copy is under way");
    case FT_STATE_PROTECTED:
        return g_strdup("Protected");
    case FT_STATE_CLAIMING:
        return g_strdup_printf("%s: waiting for the arbiter: %s", side,
                               st->reason);
    case FT_STATE_WAITING:
        return g_strdup("Backup: waiting for a primary");
    case FT_STATE_STANDBY:
        return g_strdup("Backup: can take over");
    case FT_STATE_TAKEOVER:
        return g_strdup_printf("Backup: taking over: %s", st->reason);
    case FT_STATE_DISCARDED:
        return g_strdup_printf("Backup: will not run: %s", st->reason);
    case FT_STATE_INACTIVE:
    case FT_STATE_UNPROTECTED:
    case FT_STATE_FENCED:
    default:
        break;
    }
    /* Why a try to protect it again has failed is told beside it. */
    return g_strdup_printf("Not protected: %s", lost ? lost : st->reason);
}

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
        g_free(st->session);
        st->session = qemu_uuid_unparse_strdup(&s->uuid);
        if (s->primary) {
            ft_primary_query(s->primary, st);
        } else if (s->backup) {
            ft_backup_query(s->backup, st);
        }
    }
    ft_reprotect_query(st);
    st->protection = protection(st);
    return st;
}

void qmp_cuju_failover(bool has_force, bool force, Error **errp)
{
    ft_session_failover(has_force && force, errp);
}

void qmp_cuju_migrate_cancel(bool has_force, bool force, Error **errp)
{
    ft_session_cancel(has_force && force, errp);
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

bool ft_capability(void)
{
    return migrate_get_current()->capabilities[MIGRATION_CAPABILITY_CUJU_FT];
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

static bool protect(const SocketAddress *sa, FtProtectOptions *opt,
                    Error **errp)
{
    return check_socket(sa, errp) && ft_session_protect(sa, opt, errp);
}

bool ft_protect_uri(const char *uri, Error **errp)
{
    g_autoptr(SocketAddress) sa = NULL;
    g_autofree char *plain = NULL;
    FtProtectOptions opt;
    bool ok;

    ft_params_options(&opt);
    plain = ft_options_parse(uri, &opt, errp);
    sa = plain ? socket_parse(plain, errp) : NULL;
    ok = sa && (ft_capability() || set_capability(errp)) &&
         protect(sa, &opt, errp);
    ft_options_clear(&opt);
    return ok;
}

static void protect_by_parameters(MigrationAddress *addr, Error **errp)
{
    FtProtectOptions opt;

    if (addr->transport != MIGRATION_ADDRESS_TYPE_SOCKET) {
        error_setg(errp, "fault tolerance supports the addresses "
                   "tcp:HOST:PORT and unix:PATH only");
        return;
    }
    ft_params_options(&opt);
    protect(&addr->u.socket, &opt, errp);
    ft_options_clear(&opt);
}

bool ft_migrate(MigrationAddress *addr, Error **errp)
{
    if (ft_capability()) {
        protect_by_parameters(addr, errp);
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
    if (!ft_options_check_address(plain, errp)) {
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

bool ft_blocks_eject(DeviceState *dev)
{
    static int64_t told;
    int64_t now = g_get_monotonic_time();

    if (!dev || !ft_blocks("", NULL)) {
        return false;
    }
    if (!told || now - told >= G_USEC_PER_SEC) {
        /* A guest may try without end. */
        told = now;
        warn_report("device '%s' (%s) stays although the guest ejects it, as "
                    "this machine is protected; end protection with "
                    "cuju-migrate-cancel, then let the guest eject it again",
                    dev->id ? dev->id : dev->canonical_path,
                    object_get_typename(OBJECT(dev)));
    }
    return true;
}
