/*
 * Fault tolerance: the backup: receive, commit, apply
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Threads and who may touch what:
 *
 *   data thread       reads the data connection, stages, acknowledges and
 *                     applies: guest RAM is written by it alone, in order,
 *                     so that the end of the connection is seen after the
 *                     last whole epoch has been applied
 *   control thread    reads the control connection
 *   main loop (BQL)   handshake results, events, commands, takeover
 *
 * The state machine is under "lock".  Its ops are called with the lock and
 * without the BQL (but for commands); what needs the BQL is posted to the
 * main loop.
 *
 *   staged[] --apply--> guest RAM        open epoch, committed epoch
 *   devices_open --apply--> devices      kept as bytes until the takeover
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "session.h"
#include "backup-fsm.h"
#include "trace.h"

#define BACKUP_FENCE_MS         500
/* Frames' payloads (1 MiB each) that are kept between epochs. */
#define BACKUP_STAGE_KEEP       64
#define BACKUP_DEVICE_MAX       (64 * MiB)
/* When to say that an image is still locked. */
#define BACKUP_LOCK_TELL_MS     1000

typedef struct Event {
    enum { EV_STATE, EV_TAKEOVER, EV_DISCARD } kind;
    FtBakState state;
    bool orderly;
    char *text;
    QSIMPLEQ_ENTRY(Event) next;
} Event;

struct FtBackup {
    FtSession *session;
    FtListener *listener;
    FtMachine *machine;
    FtBlockTable table;
    FtLink *data, *control;
    FtDisks *disks;
    QEMUBH *bh;
    QEMUTimer *timer;
    QemuThread data_thread, control_thread;
    bool threads;
    int64_t takeover_began;
    QEMUTimer *lock_timer;      /* to look for the lock of an image again */
    bool lock_told;
    bool finishing;             /* ended in order, but for the images */

    QemuMutex lock;             /* all below */
    FtBak fsm;
    QSIMPLEQ_HEAD(, Event) events;
    GPtrArray *staged;          /* GByteArray: payloads of PAGES frames */
    unsigned staged_count;      /* so many are in use, the rest is spare */
    GByteArray *devices_open;
    GByteArray *devices;
    FtRecords journal;          /* of the open epoch */
    uint64_t hashes;
    uint64_t applied_pages;     /* of the epoch that is being applied */
    uint64_t apply_half;
};

static void backup_post(FtBackup *b, Event ev)
{
    Event *copy = g_memdup2(&ev, sizeof(ev));

    copy->text = g_strdup(ev.text);
    QSIMPLEQ_INSERT_TAIL(&b->events, copy, next);
    qemu_bh_schedule(b->bh);
}

/* ------------------------------------------- what the state machine asks */

static void op_state(void *opaque, FtBakState state, const char *reason)
{
    backup_post(opaque, (Event) { .kind = EV_STATE, .state = state,
                                  .text = (char *)reason });
}

static bool op_stage_pages(void *opaque, const void *payload, uint32_t len,
                           uint64_t *records, Error **errp)
{
    FtBackup *b = opaque;
    GByteArray *copy;

    if (!ft_decode_pages(payload, len, &b->table, NULL, NULL, records,
                         errp)) {
        return false;
    }
    if (b->staged_count == b->staged->len) {
        g_ptr_array_add(b->staged, g_byte_array_sized_new(len));
    }
    copy = g_ptr_array_index(b->staged, b->staged_count++);
    g_byte_array_set_size(copy, 0);
    g_byte_array_append(copy, payload, len);
    return true;
}

/* Forget what is staged; the memory stays for the next epoch, in bounds. */
static void stage_reset(FtBackup *b)
{
    b->staged_count = 0;
    if (b->staged->len > BACKUP_STAGE_KEEP) {
        g_ptr_array_set_size(b->staged, BACKUP_STAGE_KEEP);
    }
}

static bool write_page(void *opaque, const FtPageRecord *rec, Error **errp)
{
    FtBackup *b = opaque;
    uint8_t *to = b->machine->block[rec->block].host + rec->offset;

    if (rec->kind == FT_PAGE_RAW) {
        memcpy(to, rec->data, FT_PAGE_SIZE);
    } else if (!buffer_is_zero(to, FT_PAGE_SIZE)) {
        /* looked at first, so that untouched memory stays unallocated */
        memset(to, 0, FT_PAGE_SIZE);
    }
    if (++b->applied_pages == b->apply_half) {
        ft_inject(FT_FAULT_POINT_MID_APPLY);
    }
    return true;
}

static bool op_apply_now(void *opaque, const void *payload, uint32_t len,
                         Error **errp)
{
    FtBackup *b = opaque;

    b->apply_half = 0;
    return ft_decode_pages(payload, len, &b->table, write_page, b, NULL,
                           errp);
}

static bool op_stage_devices(void *opaque, const void *payload, uint32_t len,
                             Error **errp)
{
    FtBackup *b = opaque;

    g_byte_array_append(b->devices_open, payload, len);
    return true;
}

static bool add_record(void *opaque, FtRecord *r, Error **errp)
{
    FtBackup *b = opaque;

    ft_records_add(&b->journal, r);
    ft_record_unref(r);
    return true;
}

static bool op_stage_journal(void *opaque, const void *payload, uint32_t len,
                             uint64_t *records, Error **errp)
{
    FtBackup *b = opaque;
    const uint64_t *length;
    unsigned count;

    length = ft_disks_lengths(b->disks, &count);
    return ft_record_decode(payload, len, length, count, add_record, b,
                            records, errp) &&
           ft_disks_room(b->disks, b->journal.bytes, errp);
}

static bool op_samples(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    FtBackup *b = opaque;

    ft_disks_samples(b->disks, payload, len);
    return true;
}

static void op_ack(void *opaque, uint64_t epoch)
{
    FtBackup *b = opaque;
    uint8_t settled[FT_ACK_SIZE];
    uint64_t own = ft_disks_settled(b->disks);

    ft_inject(FT_FAULT_POINT_BEFORE_ACK);
    stq_be_p(settled, own);
    ft_link_send(b->control, FT_FRAME_ACK, 0, epoch, settled,
                 own == UINT64_MAX ? 0 : sizeof(settled), NULL);
    ft_inject(FT_FAULT_POINT_AFTER_ACK);
}

static bool check_hash(FtBackup *b, uint64_t epoch, const FtEpochEnd *end,
                       Error **errp)
{
    uint64_t ram = ft_machine_hash(b->machine);
    uint64_t dev = ft_wire_crc32c(0, b->devices->data, b->devices->len);

    if (ram != end->ram_hash || dev != end->dev_hash) {
        error_setg(errp, "after epoch %" PRIu64 " this side's %s differs from "
                   "the primary's: this is a bug in the engine, please report"
                   " it", epoch, ram != end->ram_hash ? "RAM" :
                   "device state");
        return false;
    }
    b->hashes++;
    return true;
}

static bool op_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                     uint16_t flags, Error **errp)
{
    FtBackup *b = opaque;
    GByteArray *was = b->devices;
    unsigned i;

    b->applied_pages = 0;
    b->apply_half = end->pages / 2;
    for (i = 0; i < b->staged_count; i++) {
        GByteArray *part = g_ptr_array_index(b->staged, i);

        if (!ft_decode_pages(part->data, part->len, &b->table, write_page, b,
                             NULL, errp)) {
            return false;
        }
    }
    stage_reset(b);
    ft_disks_commit(b->disks, epoch, &b->journal, end->on_disk);
    b->devices = b->devices_open;
    b->devices_open = was;
    g_byte_array_set_size(b->devices_open, 0);
    return !(flags & FT_FLAG_HASH) || check_hash(b, epoch, end, errp);
}

static void op_drop_open(void *opaque)
{
    FtBackup *b = opaque;

    stage_reset(b);
    g_byte_array_set_size(b->devices_open, 0);
    ft_records_clear(&b->journal);
}

static void op_send_failover(void *opaque)
{
    FtBackup *b = opaque;

    ft_link_try_send(b->control, FT_FRAME_FAILOVER, 0, "");
}

static void op_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    FtBackup *b = opaque;

    b->takeover_began = ft_now_us();
    backup_post(b, (Event) { .kind = EV_TAKEOVER, .text = (char *)reason });
}

static void op_discard(void *opaque, bool orderly, const char *reason)
{
    FtBackup *b = opaque;

    if (!orderly) {
        ft_link_try_send(b->control, FT_FRAME_ERROR, 0, reason);
    }
    backup_post(b, (Event) { .kind = EV_DISCARD, .orderly = orderly,
                             .text = (char *)reason });
}

static const FtBakOps backup_ops = {
    .state = op_state,
    .stage_pages = op_stage_pages,
    .apply_now = op_apply_now,
    .stage_devices = op_stage_devices,
    .stage_journal = op_stage_journal,
    .samples = op_samples,
    .ack = op_ack,
    .apply = op_apply,
    .drop_open = op_drop_open,
    .send_failover = op_send_failover,
    .takeover = op_takeover,
    .discard = op_discard,
};

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
    while (ok && (ret = ft_link_recv(b->data, &f, buf, &bad, &err)) > 0) {
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
    while (ft_link_recv(b->control, &f, buf, &bad, NULL) > 0) {
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

/* ------------------------------------------------------------- main loop */

/* Ends the threads' I/O and waits for them; they never take the BQL. */
static void stop_threads(FtBackup *b)
{
    if (b->threads) {
        b->threads = false;
        ft_link_shutdown(b->data);
        ft_link_shutdown(b->control);
        qemu_thread_join(&b->data_thread);
        qemu_thread_join(&b->control_thread);
    }
}

/*
 * The lock of an image is still held, by a primary that dies just now, or
 * hangs. Nobody may write beside it, so this goes on for as long as it takes.
 */
static void wait_for_lock(FtBackup *b, const char *who)
{
    int64_t waited = ft_now_us() - b->takeover_began;

    if (waited > BACKUP_LOCK_TELL_MS * 1000 && !b->lock_told) {
        g_autofree char *msg =
            g_strdup_printf("waits for %s; end what keeps it from being "
                            "opened, to go on", who);

        b->lock_told = true;
        warn_report("ft: takeover %s", msg);
        ft_session_state(FT_ROLE_BACKUP, FT_STATE_TAKEOVER, msg);
    }
    if (b->lock_told) {
        /* Each time, as one that is away now can be looked at later. */
        ft_disks_watch(b->disks);
    }
    timer_mod_ns(b->lock_timer, (ft_now_us() + (b->lock_told ? 50000 : 1000)) *
                                SCALE_US);
}

static void go_on(FtBackup *b)
{
    g_autofree char *who = NULL;
    Error *err = NULL;
    bool ok;

    stop_threads(b);
    ft_listener_free(b->listener);
    b->listener = NULL;
    ok = ft_disks_take_over(b->disks, &who, &err);
    if (!ok && !err) {
        wait_for_lock(b, who);
        return;
    }
    ok = ok && ft_takeover_run(b->devices->data, b->devices->len,
                         b->fsm.guest_running, &err);
    if (ok) {
        ft_session_takeover_us(ft_now_us() - b->takeover_began);
    }
    WITH_QEMU_LOCK_GUARD(&b->lock) {
        if (ok) {
            ft_bak_running(&b->fsm);
        } else {
            ft_bak_takeover_failed(&b->fsm, error_get_pretty(err));
        }
    }
    error_free(err);
}

static void tell_state(FtBackup *b, Event *ev)
{
    static const FtState map[] = {
        [FT_BAK_WAITING] = FT_STATE_WAITING,
        [FT_BAK_SYNC] = FT_STATE_SYNC,
        [FT_BAK_STANDBY] = FT_STATE_STANDBY,
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

static void lock_timer(void *opaque)
{
    go_on(opaque);
}

static Event *next_event(FtBackup *b)
{
    Event *ev;

    QEMU_LOCK_GUARD(&b->lock);
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

static void backup_bh(void *opaque)
{
    FtBackup *b = opaque;
    Event *ev;

    backup_timer_set(b);
    while ((ev = next_event(b))) {
        if (ev->kind == EV_STATE) {
            tell_state(b, ev);
        } else if (ev->kind == EV_TAKEOVER) {
            go_on(b);
        } else if (ev->orderly) {
            info_report("ft: protection has ended: %s", ev->text);
            b->finishing = true;
            backup_finish(b);
        } else {
            error_report("ft: this backup gives up: %s", ev->text);
            exit(EXIT_FAILURE);
        }
        g_free(ev->text);
        g_free(ev);
    }
}

static bool backup_adopt(void *opaque, const char *text, size_t len,
                         Error **errp)
{
    FtBackup *b = opaque;
    const char *drives = memmem(text, len, "\n" FT_DISKS_MARK,
                                strlen("\n" FT_DISKS_MARK));

    if (!drives) {
        error_setg(errp, "the primary does not describe its drives");
        return false;
    }
    drives++;
    if (!ft_machine_adopt(b->machine, text, drives - text, errp)) {
        return false;
    }
    drives += strlen(FT_DISKS_MARK);
    ft_disks_free(b->disks);
    b->disks = ft_disks_adopt(drives, text + len - drives, errp);
    return b->disks;
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

static void backup_pair(void *opaque, FtLink *data, FtLink *control,
                        const FtHello *hello)
{
    FtBackup *b = opaque;
    Error *err = NULL;
    unsigned drives;

    memcpy(&b->session->uuid, hello->session, sizeof(hello->session));
    b->data = data;
    b->control = control;
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

    b->session = s;
    qemu_mutex_init(&b->lock);
    QSIMPLEQ_INIT(&b->events);
    b->bh = aio_bh_new(iohandler_get_aio_context(), backup_bh, b);
    b->timer = timer_new_ns(QEMU_CLOCK_REALTIME, backup_timer, b);
    b->lock_timer = timer_new_ns(QEMU_CLOCK_REALTIME, lock_timer, b);
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
    ft_bak_init(&b->fsm, &backup_ops, b, &params);
    b->listener = ft_listener_new(addr, backup_adopt, backup_pair, b, errp);
    if (!b->listener) {
        ft_backup_free(b);
        return NULL;
    }
    ft_session_state(FT_ROLE_BACKUP, FT_STATE_WAITING,
                     "waiting for a primary");
    return b;
}

void ft_backup_free(FtBackup *b)
{
    Event *ev, *next;

    if (!b) {
        return;
    }
    stop_threads(b);
    ft_listener_free(b->listener);
    qemu_bh_delete(b->bh);
    timer_free(b->timer);
    timer_free(b->lock_timer);
    if (b->data) {
        ft_link_unref(b->data);
        ft_link_unref(b->control);
    }
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
    qemu_mutex_destroy(&b->lock);
    g_free(b);
}

bool ft_backup_failover(FtBackup *b, Error **errp)
{
    bool ok;

    WITH_QEMU_LOCK_GUARD(&b->lock) {
        ok = ft_bak_failover(&b->fsm, ft_now_us(), errp);
    }
    backup_timer_set(b);
    return ok;
}

void ft_backup_disarm(FtBackup *b, const char *reason)
{
    /* not beside an acknowledgement: try_send would give way to it */
    QEMU_LOCK_GUARD(&b->lock);
    if (b->control) {
        ft_link_try_send(b->control, FT_FRAME_DISARM, 0, reason);
    }
}

void ft_backup_query(FtBackup *b, FtStatus *st)
{
    if (b->disks) {
        ft_disks_query(b->disks, st);
    }
    QEMU_LOCK_GUARD(&b->lock);
    st->has_epoch = st->has_committed = true;
    st->epoch = b->fsm.committed;
    st->committed = b->fsm.committed;
    st->has_hashes_checked = true;
    st->hashes_checked = b->hashes;
}
