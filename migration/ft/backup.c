/*
 * Fault tolerance: the backup: threads, events, handshake, start and end
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * backup-private.h has the threads and their rules.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "backup-private.h"
#include "offer.h"
#include "status.h"

#define BACKUP_FENCE_MS         500
#define BACKUP_DEVICE_MAX       (64 * MiB)
/* The primary opens a connection for each drive before it begins to send
 * heartbeats. */
#define BACKUP_FIRST_MS         30000

void ft_backup_post(FtBackup *b, FtBackupEvent ev)
{
    FtBackupEvent *copy = g_memdup2(&ev, sizeof(ev));

    copy->text = g_strdup(ev.text);
    WITH_QEMU_LOCK_GUARD(&b->events_lock) {
        QSIMPLEQ_INSERT_TAIL(&b->events, copy, next);
    }
    qemu_bh_schedule(b->bh);
}

/* --------------------------------------------------------------- threads */

static void *data_thread(void *opaque)
{
    FtBackup *b = opaque;
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Error *err = NULL;
    bool bad = false;
    bool ok = true;
    FtFrame f;
    int ret;

    rcu_register_thread();
    while (ok && (ret = ft_link_recv(b->links.data, &f, buf, &bad, &err)) > 0) {
        WITH_QEMU_LOCK_GUARD(&b->lock) {
            if (f.type == FT_FRAME_DISARM) {
                g_autofree char *text = ft_link_text(buf);

                ft_bak_peer_disarm(&b->fsm, text);
                ok = false;
            } else {
                ok = ft_bak_frame(&b->fsm, &f, buf->data, NULL);
            }
        }
    }
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        if (bad) {
            /*
             * Nonsense from a live primary: it is told and goes on alone;
             * a takeover beside it would be the worse end.
             */
            ft_bak_frame_bad(&b->fsm, error_get_pretty(err));
        } else if (ok) {
            ft_bak_data_lost(&b->fsm, ft_now_us());
        }
    }
    /*
     * This side writes nothing there, so that the end that was read is an
     * end: of a reset, whoever comes first has the error, and the next one
     * reads an end, too.
     */
    if (ft_link_closed_by_peer(b->links.data)) {
        ft_pulse_peer_closed(b->pulse);
    }
    error_free(err);
    qemu_bh_schedule(b->bh);
    rcu_unregister_thread();
    return NULL;
}

static void *control_thread(void *opaque)
{
    FtBackup *b = opaque;
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtFrame f;
    bool bad = false;

    rcu_register_thread();
    while (ft_link_recv(b->links.control, &f, buf, &bad, NULL) > 0) {
        g_autofree char *text = ft_link_text(buf);

        QEMU_LOCK_GUARD(&b->lock);
        if (f.type == FT_FRAME_DISARM) {
            ft_bak_peer_disarm(&b->fsm, text);
        } else if (f.type == FT_FRAME_FENCED) {
            ft_bak_peer_fenced(&b->fsm);
        } else {
            bad = true;
            break;
        }
    }
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        if (bad) {
            ft_bak_frame_bad(&b->fsm, "the primary sent nonsense on the "
                             "control connection");
        } else {
            ft_bak_control_lost(&b->fsm, ft_now_us());
        }
    }
    qemu_bh_schedule(b->bh);
    rcu_unregister_thread();
    return NULL;
}

static void pulse_silent(void *opaque, const char *reason)
{
    FtBackup *b = opaque;
    g_autofree char *msg = g_strdup_printf("the primary was lost: %s", reason);

    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ft_bak_silent(&b->fsm, msg, ft_now_us());
    }
    qemu_bh_schedule(b->bh);
}

static void pulse_lost(void *opaque, const char *reason)
{
    FtBackup *b = opaque;

    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ft_bak_heart_lost(&b->fsm, ft_now_us());
    }
    qemu_bh_schedule(b->bh);
}

static const FtPulseOps pulse_ops = {
    .silent = pulse_silent,
    .lost = pulse_lost,
};

/* ------------------------------------------------------------- main loop */

void ft_backup_stop_threads(FtBackup *b)
{
    if (b->threads) {
        b->threads = false;
        ft_links_shutdown(&b->links);
        qemu_thread_join(&b->data_thread);
        qemu_thread_join(&b->control_thread);
        ft_pulse_free(g_steal_pointer(&b->pulse));
    }
}

static void tell_state(FtBackup *b, FtBackupEvent *ev)
{
    static const FtState map[] = {
        [FT_BAK_WAITING] = FT_STATE_WAITING,
        [FT_BAK_SYNC] = FT_STATE_SYNC,
        [FT_BAK_STANDBY] = FT_STATE_STANDBY,
        [FT_BAK_CLAIMING] = FT_STATE_CLAIMING,
        [FT_BAK_TAKEOVER] = FT_STATE_TAKEOVER,
        [FT_BAK_UNPROTECTED] = FT_STATE_UNPROTECTED,
        [FT_BAK_DISCARDED] = FT_STATE_DISCARDED,
    };

    ft_session_state(FT_ROLE_BACKUP, map[ev->state], ev->text);
    if (ev->state == FT_BAK_UNPROTECTED) {
        ft_session_end();
    }
}

static void backup_timer_set(FtBackup *b)
{
    int64_t next;

    WITH_QEMU_LOCK_GUARD(&b->lock) {
        next = ft_bak_poll(&b->fsm, ft_now_us());
    }
    if (next == INT64_MAX) {
        timer_del(b->timer);
    } else {
        timer_mod_ns(b->timer, next * SCALE_US);
    }
}

static void backup_timer(void *opaque)
{
    backup_timer_set(opaque);
}

static FtBackupEvent *next_event(FtBackup *b)
{
    FtBackupEvent *ev;

    QEMU_LOCK_GUARD(&b->events_lock);
    ev = QSIMPLEQ_FIRST(&b->events);
    if (ev) {
        QSIMPLEQ_REMOVE_HEAD(&b->events, next);
    }
    return ev;
}

/*
 * A backup without a session has nothing to run, but its own images get what
 * it holds of them.
 */
static void backup_finish(FtBackup *b)
{
    if (!b->disks || ft_disks_finished(b->disks)) {
        exit(EXIT_SUCCESS);
    }
}

static void backup_discarded(FtBackup *b, FtBackupEvent *ev)
{
    switch (ev->end) {
    case FT_BAK_END_ORDERLY:
        info_report("ft: protection has ended: %s", ev->text);
        b->finishing = true;
        backup_finish(b);
        break;
    case FT_BAK_END_LOST:
        error_report("ft: %s; this backup does not, and exits", ev->text);
        exit(FT_EXIT_FENCED);
    case FT_BAK_END_ERROR:
        error_report("ft: this backup gives up: %s", ev->text);
        exit(EXIT_FAILURE);
    }
}

static void backup_bh(void *opaque)
{
    FtBackup *b = opaque;
    FtBackupEvent *ev;

    backup_timer_set(b);
    while ((ev = next_event(b))) {
        switch (ev->kind) {
        case FT_BACKUP_STATE:
            tell_state(b, ev);
            break;
        case FT_BACKUP_CLAIM:
            WITH_QEMU_LOCK_GUARD(&b->lock) {
                ft_bak_claimed(&b->fsm, ev->claim, ev->text, ft_now_us());
            }
            backup_timer_set(b);
            break;
        case FT_BACKUP_TAKEOVER:
            ft_takeover_begin(b);
            break;
        case FT_BACKUP_DISCARD:
            backup_discarded(b, ev);
            break;
        }
        g_free(ev->text);
        g_free(ev);
    }
}

/* Cut @text at the line @mark; what follows it is *@rest, to its end. */
static bool split_at(const char *text, size_t *len, const char *mark,
                     const char **rest, size_t *rest_len)
{
    g_autofree char *line = g_strconcat("\n", mark, NULL);
    const char *at = memmem(text, *len, line, strlen(line));

    if (!at) {
        return false;
    }
    *rest = at + strlen(line);
    *rest_len = text + *len - *rest;
    *len = at + 1 - text;
    return true;
}

/* The arbiter: this side's own parameter, else what the primary says. */
static bool adopt_arbiter(FtBackup *b, const FtOffer *offer,
                          FtArbiter **arbiter, Error **errp)
{
    FtArbiterParams params = { 0 };
    int64_t index = offer->image;
    FtArbiterKind kind = index < 0 ? offer->arbiter.kind : FT_ARBITER_FILE;
    bool set, ok = true;

    if (!ft_params_arbiter(&params, &set, errp)) {
        return false;
    }
    if (set && params.kind != kind) {
        g_autofree char *mine = ft_arbiter_spec(&params);
        g_autofree char *theirs = index < 0 ?
            ft_arbiter_spec(&offer->arbiter) :
            g_strdup("the directory of a shared image");

        error_setg(errp, "the primary has the arbiter '%s', this backup '%s':"
                   " set ft-arbiter to the same on both sides", theirs, mine);
        ok = false;
    } else if (!set && index >= 0) {
        params.kind = FT_ARBITER_FILE;
        params.where = ft_disks_directory(b->disks, index, &index, errp);
        ok = params.where;
    } else if (!set) {
        params.kind = offer->arbiter.kind;
        params.where = g_strdup(offer->arbiter.where);
    }
    if (ok) {
        ft_session_set_arbiter(b->session, &params);
        *arbiter = ft_arbiter_ref(b->session->arbiter);
    }
    ft_arbiter_params_clear(&params);
    return ok;
}

static bool backup_adopt(void *opaque, const FtHello *hello, const char *text,
                         size_t len, FtArbiter **arbiter, char **proof,
                         Error **errp)
{
    FtBackup *b = opaque;
    const char *offer_text, *drives;
    size_t offer_len, drives_len;
    FtOffer offer;
    bool ok;

    if (!split_at(text, &len, FT_OFFER_MARK, &offer_text, &offer_len) ||
        !split_at(offer_text, &offer_len, FT_DISKS_MARK, &drives,
                  &drives_len)) {
        error_setg(errp, "the primary does not describe the session, or its "
                   "drives");
        return false;
    }
    if (hello->generation >= INT64_MAX) {
        error_setg(errp, "the primary has generation %" PRIu64 ", which makes "
                   "no sense", hello->generation);
        return false;
    }
    if (!ft_machine_adopt(b->machine, text, len, errp) ||
        !ft_offer_parse(offer_text, offer_len, &offer, errp)) {
        return false;
    }
    memcpy(&b->session->uuid, hello->session, sizeof(hello->session));
    b->session->generation = hello->generation;
    b->heart = (FtHeartParams) {
        .interval_us = offer.heartbeat_ms * 1000ll,
        .timeout_us = offer.timeout_ms * 1000ll,
        .first_us = BACKUP_FIRST_MS * 1000ll,
    };
    ft_disks_free(b->disks);
    b->disks = ft_disks_adopt(drives, drives_len, errp);
    ok = b->disks && adopt_arbiter(b, &offer, arbiter, errp);
    if (ok) {
        *proof = g_strdup(offer.proof);
    }
    ft_offer_clear(&offer);
    return ok;
}

static void disks_failed(void *opaque, const char *reason)
{
    FtBackup *b = opaque;

    if (b->finishing) {
        error_report("ft: the images are not complete: %s", reason);
        exit(EXIT_FAILURE);
    }
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ft_bak_frame_bad(&b->fsm, reason);
    }
}

static void disks_ready(void *opaque)
{
    FtBackup *b = opaque;

    if (b->finishing) {
        backup_finish(b);
    }
}

static const FtDisksOps disks_ops = {
    .ready = disks_ready,
    .failed = disks_failed,
};

static void backup_disk(void *opaque, uint32_t drive, QIOChannelSocket *sioc)
{
    FtBackup *b = opaque;

    ft_disks_copy_accept(b->disks, drive, sioc);
}

static void backup_pair(void *opaque, FtLinks *links, const FtHello *hello)
{
    FtBackup *b = opaque;
    Error *err = NULL;
    unsigned drives;

    b->links = *links;
    *links = (FtLinks) { 0 };
    b->began_at = ft_clock_now();
    ft_link_set_user_timeout(b->links.data, b->user_timeout_ms);
    ft_link_set_user_timeout(b->links.control, b->user_timeout_ms);
    ft_link_set_user_timeout(b->links.heart, b->heart.timeout_us / 1000);
    b->table = (FtBlockTable) { b->machine->count, b->machine->length };
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        b->fsm.params.max_journal_bytes = ft_disks_journal_max(b->disks);
        ft_bak_connected(&b->fsm);
        if (!ft_disks_start(b->disks, &disks_ops, b, &err)) {
            ft_bak_frame_bad(&b->fsm, error_get_pretty(err));
            error_free(err);
            return;
        }
    }
    ft_disks_lengths(b->disks, &drives);
    ft_listener_expect_disks(b->listener, drives, backup_disk, b);
    b->threads = true;
    b->pulse = ft_pulse_new(b->links.heart, &b->heart,
                            ft_params()->stuck_ms * 1000ll, &pulse_ops, b);
    qemu_thread_create(&b->data_thread, "ft-data", data_thread, b,
                       QEMU_THREAD_JOINABLE);
    qemu_thread_create(&b->control_thread, "ft-control", control_thread, b,
                       QEMU_THREAD_JOINABLE);
}

FtBackup *ft_backup_new(FtSession *s, const SocketAddress *addr,
                        Error **errp)
{
    FtBackup *b = g_new0(FtBackup, 1);
    FtBakParams params;
    FtTls *tls;

    b->session = s;
    b->user_timeout_ms = ft_params()->ack_timeout_ms;
    qemu_mutex_init(&b->lock);
    qemu_mutex_init(&b->events_lock);
    QSIMPLEQ_INIT(&b->events);
    b->bh = aio_bh_new(iohandler_get_aio_context(), backup_bh, b);
    b->timer = timer_new_ns(QEMU_CLOCK_REALTIME, backup_timer, b);
    b->machine = ft_machine_new();
    b->staged = g_ptr_array_new_with_free_func(
        (GDestroyNotify)g_byte_array_unref);
    b->devices = g_byte_array_new();
    b->devices_open = g_byte_array_new();
    ft_records_init(&b->journal);
    params = (FtBakParams) {
        .fence_timeout_us = BACKUP_FENCE_MS * 1000,
        /* every page once, raw, and the slack at the frames' ends */
        .max_stage_bytes = b->machine->ram_bytes / FT_PAGE_SIZE *
                           FT_RECORD_MAX + FT_WIRE_PAYLOAD_MAX,
        .max_device_bytes = BACKUP_DEVICE_MAX,
    };
    ft_bak_init(&b->fsm, &ft_backup_ops, b, &params);
    if (!ft_tls_new(QCRYPTO_TLS_CREDS_ENDPOINT_SERVER, &tls, errp)) {
        ft_backup_free(b);
        return NULL;
    }
    b->listener = ft_listener_new(addr, tls, backup_adopt, backup_pair, b,
                                  errp);
    if (!b->listener) {
        ft_backup_free(b);
        return NULL;
    }
    ft_deaf_attach();
    ft_session_state(FT_ROLE_BACKUP, FT_STATE_WAITING,
                     "waiting for a primary");
    return b;
}

void ft_backup_free(FtBackup *b)
{
    FtBackupEvent *ev, *next;

    if (!b) {
        return;
    }
    if (b->session->arbiter) {
        ft_arbiter_quiet(b->session->arbiter);
    }
    ft_backup_stop_threads(b);
    ft_takeover_free(&b->run);
    ft_listener_free(b->listener);
    ft_deaf_detach();
    qemu_bh_delete(b->bh);
    timer_free(b->timer);
    ft_links_clear(&b->links);
    ft_machine_free(b->machine);
    g_ptr_array_free(b->staged, true);
    g_byte_array_free(b->devices, true);
    g_byte_array_free(b->devices_open, true);
    ft_records_destroy(&b->journal);
    ft_disks_free(b->disks);
    QSIMPLEQ_FOREACH_SAFE(ev, &b->events, next, next) {
        g_free(ev->text);
        g_free(ev);
    }
    qemu_mutex_destroy(&b->events_lock);
    qemu_mutex_destroy(&b->lock);
    g_free(b);
}

bool ft_backup_failover(FtBackup *b, bool force, Error **errp)
{
    bool ok;

    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ok = ft_bak_failover(&b->fsm, force, ft_now_us(), errp);
    }
    if (ok && force) {
        /* A primary that lives for all that shall find it taken. */
        ft_arbiter_insist(b->session->arbiter, b->session->generation + 1);
    }
    backup_timer_set(b);
    return ok;
}

void ft_backup_disarm(FtBackup *b, const char *reason)
{
    /*
     * Not only said: from here on nothing makes this side claim, as the
     * primary goes on with the same generation.
     */
    QEMU_LOCK_GUARD(&b->lock);
    if (ft_bak_may_disarm(&b->fsm)) {
        ft_bak_peer_disarm(&b->fsm, reason);
    }
}

void ft_backup_query(FtBackup *b, FtStatus *st)
{
    if (b->disks) {
        ft_disks_query(b->disks, st);
    }
    st->arbiter = ft_status_arbiter(b->session);
    st->heart = ft_status_heart(b->pulse);
    QEMU_LOCK_GUARD(&b->lock);
    st->has_generation = b->fsm.state != FT_BAK_WAITING;
    st->generation = b->session->generation;
    st->has_epoch = st->has_committed = true;
    st->epoch = b->fsm.committed;
    st->committed = b->fsm.committed;
    st->has_hashes_checked = true;
    st->hashes_checked = b->hashes;
}
