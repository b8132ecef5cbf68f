/*
 * Fault tolerance: the primary: epoch loop, first copy, acknowledgements
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Threads and who may touch what:
 *
 *   main loop (BQL)   the state machine, capture, output; all that changes
 *                     the guest.  Being the main loop, it cannot be in the
 *                     middle of a reset or a monitor command at a pause.
 *   setup thread      connects and shakes hands; owns its FtSetup only
 *   sender thread     encodes and sends (sender.c)
 *   ack thread        reads the control connection
 *
 * Threads never take the BQL: they post events, which the main loop works
 * off in a bottom half of the iohandler context (that one does not run in
 * bdrv_drain(), so never inside a pause).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "migration/global_state.h"
#include "session.h"
#include "pause.h"
#include "primary-fsm.h"
#include "sender.h"
#include "trace.h"

/* The guest runs at least so long between two pauses. */
#define PRIMARY_MIN_RUN_US      2000
/* Connecting and the handshake. */
#define PRIMARY_SETUP_MS        10000
/* The first copy ends when so few pages are left: about 2 ms to copy. */
#define PRIMARY_SYNC_PAGES      2048
/* ... or when a pass leaves no less than the one before, so often. */
#define PRIMARY_SYNC_STUCK      3
/* Exit status of a primary whose backup has taken over. */
#define PRIMARY_EXIT_FENCED     3

typedef enum EventKind {
    EV_SYNC_PASS,
    EV_ACK,
    EV_LOST,
    EV_DATA_LOST,
    EV_DISARM,
    EV_FAILOVER,
} EventKind;

typedef struct Event {
    EventKind kind;
    uint64_t epoch;
    uint64_t settled;           /* of an acknowledgement */
    char *text;
    QSIMPLEQ_ENTRY(Event) next;
} Event;

/* What the setup thread owns; outlives the session if that ends first. */
typedef struct FtSetup {
    FtPrimary *primary;         /* BQL; NULL: nobody waits any more */
    SocketAddress *addr;
    QemuUUID uuid;
    char *fingerprint;
    FtLink *data, *control;
    uint8_t token[16];          /* for further connections */
    unsigned drives;
    bool *copied;               /* [drives]: is copied by a connection */
    QIOChannelSocket **disk;    /* [drives]: of its own, or NULL */
    Error *err;
} FtSetup;

struct FtPrimary {
    FtSession *session;
    FtPri fsm;
    FtParams params;
    FtMachine *machine;
    FtCapture *capture;
    FtOutput *output;
    FtDisks *disks;
    FtSetup *setup;
    FtLink *data, *control;
    QEMUTimer *timer;
    QEMUBH *bh;
    bool held;                  /* filters are attached */
    bool flush_waits;           /* atomic: a flush is parked */
    bool sync_waits;            /* the first copy waits for the disks */
    bool last_running;          /* the last image was of a running guest */
    bool ended;
    Error *broken;              /* an epoch could not be taken */
    FtStats stats;
    int64_t protected_at;
    /* first copy */
    uint64_t sync_left;
    unsigned sync_stuck;
    int64_t sync_began;
    uint64_t sync_total;
    /* between the threads, under lock */
    QemuMutex lock;
    QemuCond posted;            /* an event */
    QSIMPLEQ_HEAD(, Event) events;
    FtSender *sender;
    QemuThread acker;           /* there is one when there is a sender */
};

/* ---------------------------------------------------------------- events */

static void primary_post_event(FtPrimary *p, Event *ev)
{
    WITH_QEMU_LOCK_GUARD(&p->lock) {
        QSIMPLEQ_INSERT_TAIL(&p->events, ev, next);
        qemu_cond_signal(&p->posted);
    }
    qemu_bh_schedule(p->bh);
}

static void primary_post(FtPrimary *p, EventKind kind, uint64_t epoch,
                         const char *text)
{
    Event *ev = g_new0(Event, 1);

    ev->kind = kind;
    ev->epoch = epoch;
    ev->text = g_strdup(text);
    primary_post_event(p, ev);
}

static void primary_post_ack(FtPrimary *p, uint64_t epoch,
                             const GByteArray *payload)
{
    Event *ev = g_new0(Event, 1);

    ev->kind = EV_ACK;
    ev->epoch = epoch;
    if (payload->len == FT_ACK_SIZE) {
        ev->settled = ldq_be_p(payload->data);
    }
    primary_post_event(p, ev);
}

static void primary_post_error(FtPrimary *p, Error *err)
{
    primary_post(p, EV_LOST, 0, error_get_pretty(err));
    error_free(err);
}

static void primary_kick(FtPrimary *p);

/* ---------------------------------------------------------------- sender */

static void sender_pass_done(void *opaque)
{
    primary_post(opaque, EV_SYNC_PASS, 0, NULL);
}

static void sender_failed(void *opaque, const char *reason)
{
    primary_post(opaque, EV_DATA_LOST, 0, reason);
}

static const FtSenderOps sender_ops = {
    .pass_done = sender_pass_done,
    .failed = sender_failed,
};

/* -------------------------------------------------- control connection */

static void *acker_thread(void *opaque)
{
    FtPrimary *p = opaque;
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Error *err = NULL;
    FtFrame f;
    bool bad;
    int ret;

    rcu_register_thread();
    while ((ret = ft_link_recv(p->control, &f, buf, &bad, &err)) > 0) {
        g_autofree char *text = ft_link_text(buf);

        if (f.type == FT_FRAME_ACK && buf->len && buf->len != FT_ACK_SIZE) {
            error_setg(&err, "the backup's acknowledgement has %u bytes",
                       buf->len);
            ret = -1;
            break;
        } else if (f.type == FT_FRAME_ACK) {
            primary_post_ack(p, f.epoch, buf);
        } else if (f.type == FT_FRAME_DISARM) {
            g_autofree char *msg =
                g_strdup_printf("the backup has left in order: %s", text);

            primary_post(p, EV_DISARM, 0, msg);
        } else if (f.type == FT_FRAME_FAILOVER) {
            primary_post(p, EV_FAILOVER, 0, NULL);
        } else if (f.type == FT_FRAME_ERROR) {
            g_autofree char *msg =
                g_strdup_printf("the backup reports: %s", text);

            primary_post(p, EV_LOST, 0, msg);
        } else {
            error_setg(&err, "the backup sent a %s frame on the control "
                       "connection", ft_wire_type_name(f.type));
            ret = -1;
            break;
        }
    }
    if (ret < 0) {
        primary_post_error(p, err);
    } else {
        primary_post(p, EV_LOST, 0, "the backup closed the connection");
    }
    rcu_unregister_thread();
    return NULL;
}

/* ------------------------------------------------- the machine's actions */

static bool op_take_epoch(void *opaque, uint64_t epoch)
{
    FtPrimary *p = opaque;
    FtStats *st = &p->stats;
    int64_t t[6];
    uint64_t dirty;
    FtImage *img;
    FtPauseState ps;
    bool ok;

    if (!runstate_is_running() && epoch > 1 && !p->last_running) {
        /* It stands still and the backup has it so: nothing to send. */
        return false;
    }
    img = ft_sender_image(p->sender);
    img->epoch = epoch;
    t[0] = ft_now_us();
    ft_pause_begin(&ps, p->disks);
    t[1] = ft_now_us();
    ft_inject(FT_FAULT_POINT_PAUSE_BEGIN);
    dirty = ft_capture_harvest(p->capture);
    t[2] = ft_now_us();
    ft_capture_copy(p->capture, img->stage);
    t[3] = ft_now_us();
    if (ps.was_running) {
        global_state_store_running();
    } else {
        global_state_store();
    }
    ok = ft_capture_check(p->capture, &p->broken) &&
         ft_devstate_save(img->devices, &p->broken);
    img->flags = ps.was_running ? FT_FLAG_RUNNING : 0;
    if (p->params.hash_every && epoch % p->params.hash_every == 0) {
        img->flags |= FT_FLAG_HASH;
        img->ram_hash = ft_machine_hash(p->machine);
    } else {
        img->ram_hash = 0;
    }
    if (ok) {
        if (epoch == 1) {
            ok = ft_output_start(p->output, 2, &p->broken);
            if (ok) {
                ft_disks_hold(p->disks);
            }
            img->on_disk = 0;
        } else {
            img->on_disk = ft_disks_seal(p->disks, epoch, &img->journal);
            ft_output_close(p->output);
        }
    }
    t[4] = ft_now_us();
    ft_inject(FT_FAULT_POINT_CAPTURED);
    ft_pause_end(&ps, p->disks);
    t[5] = ft_now_us();

    if (!ok) {
        ft_sender_give_back(p->sender, img);
        return false;
    }
    p->last_running = ps.was_running;
    if (epoch > 1) {
        /* the first one ends the copy of all RAM and tells nothing */
        st->epochs++;
        ft_hist_add(&st->pause, t[5] - t[0]);
        ft_hist_add(&st->pause_stop, t[1] - t[0]);
        ft_hist_add(&st->pause_harvest, t[2] - t[1]);
        ft_hist_add(&st->pause_copy, t[3] - t[2]);
        ft_hist_add(&st->pause_devices, t[4] - t[3]);
        ft_hist_add(&st->pause_resume, t[5] - t[4]);
        ft_hist_add(&st->dirty, dirty);
    }
    st->device_bytes = img->devices->len;
    trace_ft_epoch(epoch, dirty, img->devices->len, t[5] - t[0]);
    if (epoch == 1) {
        p->fsm.withheld = ft_disks_finish_copies(p->disks);
        ft_sender_hold(p->sender, p->fsm.withheld);
    }
    ft_sender_queue(p->sender, img);
    return true;
}

static void op_stall(void *opaque, bool on)
{
    /* The runstate stays: this is no stop that anyone asked for. */
    if (on) {
        pause_all_vcpus();
    } else {
        resume_all_vcpus();
    }
}

static void op_commit(void *opaque, uint64_t epoch)
{
    FtPrimary *p = opaque;
    int64_t us = ft_now_us() - p->fsm.taken_at[epoch % FT_PRI_DEPTH_MAX];
    Error *err = NULL;

    ft_inject(FT_FAULT_POINT_ACK_RECEIVED);
    trace_ft_ack(epoch, us);
    if (epoch > 1) {
        ft_hist_add(&p->stats.commit, us);
        if (!ft_output_commit(p->output, epoch, &err)) {
            error_reportf_err(err, "ft: ");
        }
    }
    ft_inject(FT_FAULT_POINT_RELEASED);
}

static void op_release_all(void *opaque)
{
    FtPrimary *p = opaque;
    FtPauseState ps;

    /*
     * A pause, as requests that were parked are submitted again at its end;
     * there will be no other.
     */
    ft_pause_begin(&ps, p->disks);
    ft_output_release_all(p->output);
    ft_disks_drain(p->disks);
    ft_pause_end(&ps, p->disks);
}

static void op_drop_all(void *opaque)
{
    FtPrimary *p = opaque;

    pause_all_vcpus();
    ft_output_drop_all(p->output);
}

static void op_send_disarm(void *opaque, const char *reason)
{
    FtPrimary *p = opaque;

    if (p->control) {
        ft_link_try_send(p->control, FT_FRAME_DISARM, 0, reason);
        /* On both: one of them may be what was lost. */
        ft_link_try_send(p->data, FT_FRAME_DISARM, 0, reason);
    }
}

static void op_send_fenced(void *opaque)
{
    FtPrimary *p = opaque;

    ft_link_try_send(p->control, FT_FRAME_FENCED, 0, "");
}

static void op_end(void *opaque)
{
    FtPrimary *p = opaque;

    p->ended = true;
    timer_del(p->timer);
    if (p->data) {
        ft_link_shutdown(p->data);
        ft_link_shutdown(p->control);
    }
}

static void op_state(void *opaque, FtPriState state, const char *reason)
{
    static const FtState map[] = {
        [FT_PRI_INACTIVE] = FT_STATE_INACTIVE,
        [FT_PRI_SETUP] = FT_STATE_SETUP,
        [FT_PRI_SYNC] = FT_STATE_SYNC,
        [FT_PRI_PROTECTED] = FT_STATE_PROTECTED,
        [FT_PRI_UNPROTECTED] = FT_STATE_UNPROTECTED,
        [FT_PRI_FENCED] = FT_STATE_FENCED,
    };
    FtPrimary *p = opaque;

    if (state == FT_PRI_PROTECTED) {
        p->protected_at = ft_now_us();
    }
    ft_session_state(FT_ROLE_PRIMARY, map[state], reason);
    if (state == FT_PRI_FENCED) {
        /*
         * For good: no monitor command may bring this guest back to life
         * beside the one on the backup.
         */
        error_report("ft: the backup has taken over; this side has stopped "
                     "its guest and exits");
        exit(PRIMARY_EXIT_FENCED);
    }
    if (p->ended) {
        ft_session_end();
    }
}

static const FtPriOps primary_ops = {
    .state = op_state,
    .take_epoch = op_take_epoch,
    .stall = op_stall,
    .commit = op_commit,
    .release_all = op_release_all,
    .drop_all = op_drop_all,
    .send_disarm = op_send_disarm,
    .send_fenced = op_send_fenced,
    .end = op_end,
};

/* ------------------------------------------------------- the first copy */

/* Collect what is dirty with the vCPUs held for the moment. */
static uint64_t sync_harvest(FtPrimary *p)
{
    uint64_t n;

    pause_all_vcpus();
    n = ft_capture_harvest(p->capture);
    resume_all_vcpus();
    return n;
}

static void sync_pass(FtPrimary *p)
{
    uint64_t left = sync_harvest(p);

    if (p->sync_left && left >= p->sync_left / 2) {
        p->sync_stuck++;
    }
    if (p->sync_left && (left <= PRIMARY_SYNC_PAGES ||
                         p->sync_stuck >= PRIMARY_SYNC_STUCK)) {
        if (ft_disks_ready(p->disks)) {
            ft_pri_sync_done(&p->fsm, ft_now_us());
        } else {
            p->sync_waits = true;
        }
        return;
    }
    p->sync_left = left;
    if (!p->sync_total) {
        p->sync_total = left;
    }
    ft_sender_pass(p->sender);
}

/* --------------------------------------------------------------- set-up */

static void setup_free(FtSetup *su)
{
    unsigned i;

    for (i = 0; i < su->drives; i++) {
        object_unref(OBJECT(su->disk[i]));
    }
    g_free(su->copied);
    g_free(su->disk);
    if (su->data) {
        ft_link_shutdown(su->data);
        ft_link_unref(su->data);
    }
    if (su->control) {
        ft_link_shutdown(su->control);
        ft_link_unref(su->control);
    }
    qapi_free_SocketAddress(su->addr);
    g_free(su->fingerprint);
    error_free(su->err);
    g_free(su);
}

static void setup_done(void *opaque)
{
    FtSetup *su = opaque;
    FtPrimary *p = su->primary;
    unsigned i;

    if (!p) {
        setup_free(su);
        return;
    }
    p->setup = NULL;
    if (su->err) {
        ft_pri_link_lost(&p->fsm, error_get_pretty(su->err));
        setup_free(su);
        return;
    }
    for (i = 0; i < su->drives && !su->err; i++) {
        if (su->disk[i]) {
            ft_disks_copy_start(p->disks, i, su->disk[i], &su->err);
        }
    }
    if (su->err) {
        ft_pri_link_lost(&p->fsm, error_get_pretty(su->err));
        setup_free(su);
        return;
    }
    p->data = g_steal_pointer(&su->data);
    p->control = g_steal_pointer(&su->control);
    setup_free(su);
    /* In the first copy no acknowledgement is due that could be late. */
    ft_link_set_timeout(p->data, p->params.ack_timeout_ms);

    p->sender = ft_sender_new(p->data, p->capture, &sender_ops, p);
    qemu_thread_create(&p->acker, "ft-ack", acker_thread, p,
                       QEMU_THREAD_JOINABLE);
    p->sync_began = ft_now_us();
    ft_pri_connected(&p->fsm, p->sync_began);
    sync_pass(p);
    primary_kick(p);
}

static void *setup_thread(void *opaque)
{
    FtSetup *su = opaque;
    unsigned i;

    ft_link_open_pair(su->addr, &su->uuid, FT_FEATURE_HASH, su->fingerprint,
                      PRIMARY_SETUP_MS, &su->data, &su->control, su->token,
                      &su->err);
    for (i = 0; i < su->drives && !su->err; i++) {
        if (su->copied[i]) {
            su->disk[i] = ft_link_open_disk(su->addr, &su->uuid, su->token, i,
                                            PRIMARY_SETUP_MS, &su->err);
        }
    }
    ft_main_loop(setup_done, su);
    return NULL;
}

/* ------------------------------------------------------------- main loop */

/* Do what is due and set the timer for the rest. */
static void primary_kick(FtPrimary *p)
{
    int64_t next;

    if (p->ended) {
        return;
    }
    next = ft_pri_poll(&p->fsm, ft_now_us());
    if (p->broken && !p->ended) {
        g_autofree char *msg = g_strdup(error_get_pretty(p->broken));

        ft_pri_link_lost(&p->fsm, msg);
    }
    if (p->ended) {
        return;
    }
    if (next == INT64_MAX) {
        timer_del(p->timer);
    } else {
        timer_mod_ns(p->timer, next * SCALE_US);
    }
}

static void primary_timer(void *opaque)
{
    primary_kick(opaque);
}

static void primary_bh(void *opaque)
{
    FtPrimary *p = opaque;
    QSIMPLEQ_HEAD(, Event) todo = QSIMPLEQ_HEAD_INITIALIZER(todo);
    Event *ev;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        QSIMPLEQ_CONCAT(&todo, &p->events);
    }
    if (qatomic_xchg(&p->flush_waits, false) && !p->ended) {
        ft_pri_output_full(&p->fsm);
    }
    QSIMPLEQ_FOREACH(ev, &todo, next) {
        if (ev->kind == EV_FAILOVER && !p->ended) {
            /*
             * The backup takes over: acknowledgements from before that are
             * in this batch too if this process hung, and what they would
             * release is history by now.
             */
            ft_pri_peer_failover(&p->fsm);
        }
    }
    while ((ev = QSIMPLEQ_FIRST(&todo))) {
        QSIMPLEQ_REMOVE_HEAD(&todo, next);
        if (p->ended) {
            /* what comes after the end is no news */
        } else if (ev->kind == EV_SYNC_PASS) {
            sync_pass(p);
        } else if (ev->kind == EV_ACK) {
            ft_disks_backup_settled(p->disks, ev->settled);
            ft_pri_ack(&p->fsm, ev->epoch, ft_now_us());
        } else if (ev->kind == EV_LOST) {
            ft_pri_link_lost(&p->fsm, ev->text);
        } else if (ev->kind == EV_DATA_LOST) {
            ft_pri_data_lost(&p->fsm, ft_now_us());
        } else if (ev->kind == EV_DISARM) {
            ft_pri_peer_disarm(&p->fsm, ev->text);
        }
        g_free(ev->text);
        g_free(ev);
    }
    primary_kick(p);
}

static void primary_output_waiting(void *opaque)
{
    FtPrimary *p = opaque;

    ft_pri_output_waiting(&p->fsm);
    if (!p->ended && !ft_pri_in_flight(&p->fsm)) {
        timer_mod_anticipate_ns(p->timer, (p->fsm.epoch_began +
                                           p->fsm.params.min_run_us) *
                                          SCALE_US);
    }
}

static void primary_output_full(void *opaque)
{
    FtPrimary *p = opaque;

    ft_pri_output_full(&p->fsm);
    if (!p->ended) {
        timer_mod_anticipate_ns(p->timer, (p->fsm.epoch_began +
                                           p->fsm.params.min_run_us) *
                                          SCALE_US);
    }
}

static void disks_flush_waits(void *opaque)
{
    FtPrimary *p = opaque;

    qatomic_set(&p->flush_waits, true);
    qemu_bh_schedule(p->bh);
}

static void disks_ready(void *opaque)
{
    FtPrimary *p = opaque;

    if (p->sync_waits && !p->ended && ft_disks_ready(p->disks)) {
        p->sync_waits = false;
        p->sync_stuck = 0;
        sync_pass(p);
        primary_kick(p);
    }
}

/* The images are equal and stand still: the first epoch may go. */
static void disks_copied(void *opaque)
{
    FtPrimary *p = opaque;
    GByteArray *samples = g_byte_array_new();
    Error *err = NULL;

    if (p->ended) {
        g_byte_array_unref(samples);
        return;
    }
    if (!ft_disks_sample(p->disks, samples, &err)) {
        g_byte_array_unref(samples);
        ft_pri_link_lost(&p->fsm, error_get_pretty(err));
        error_free(err);
        primary_kick(p);
        return;
    }
    if (samples->len) {
        ft_sender_samples(p->sender, samples);
    } else {
        g_byte_array_unref(samples);
    }
    ft_sender_hold(p->sender, false);
    ft_pri_first_sent(&p->fsm, ft_now_us());
    primary_kick(p);
}

static void disks_failed(void *opaque, const char *reason)
{
    FtPrimary *p = opaque;

    if (!p->ended) {
        ft_pri_link_lost(&p->fsm, reason);
        primary_kick(p);
    }
}

static const FtDisksOps disks_ops = {
    .parked = disks_flush_waits,
    .ready = disks_ready,
    .copied = disks_copied,
    .failed = disks_failed,
};

FtPrimary *ft_primary_new(FtSession *s, const SocketAddress *addr,
                          const FtDisksParams *disks, Error **errp)
{
    FtPriParams params;
    FtPrimary *p = g_new0(FtPrimary, 1);
    g_autofree char *drives = NULL;
    QemuThread thread;
    FtSetup *su;
    unsigned i;

    p->session = s;
    p->params = *ft_params();
    p->params.disks.drives = NULL;      /* not ours to keep */
    qemu_mutex_init(&p->lock);
    qemu_cond_init(&p->posted);
    QSIMPLEQ_INIT(&p->events);
    p->timer = timer_new_ns(QEMU_CLOCK_REALTIME, primary_timer, p);
    p->bh = aio_bh_new(iohandler_get_aio_context(), primary_bh, p);
    p->machine = ft_machine_new();
    p->output = ft_output_new(p->params.hold_packets, p->params.hold_bytes,
                              primary_output_waiting, primary_output_full, p);
    params = (FtPriParams) {
        .epoch_us = p->params.epoch_us,
        .min_run_us = PRIMARY_MIN_RUN_US,
        .ack_timeout_us = p->params.ack_timeout_ms * 1000ll,
        .setup_timeout_us = (PRIMARY_SETUP_MS + 2000) * 1000ll,
        .depth = p->params.depth,
    };
    ft_pri_init(&p->fsm, &primary_ops, p, &params);

    p->held = ft_hold_attach(p->output, errp);
    if (!p->held) {
        ft_primary_free(p);
        return NULL;
    }
    p->disks = ft_disks_new(disks, &disks_ops, p, errp);
    if (!p->disks) {
        ft_primary_free(p);
        return NULL;
    }
    ft_disks_provide(p->disks, p->output);
    p->capture = ft_capture_new(p->machine, errp);
    if (!p->capture) {
        ft_primary_free(p);
        return NULL;
    }
    su = g_new0(FtSetup, 1);
    su->primary = p;
    su->addr = QAPI_CLONE(SocketAddress, addr);
    su->uuid = s->uuid;
    drives = ft_disks_describe(p->disks);
    su->fingerprint = g_strconcat(p->machine->fingerprint, FT_DISKS_MARK,
                                  drives, NULL);
    su->drives = ft_disks_copy_count(p->disks);
    su->copied = g_new0(bool, su->drives);
    su->disk = g_new0(QIOChannelSocket *, su->drives);
    for (i = 0; i < su->drives; i++) {
        su->copied[i] = ft_disks_is_copied(p->disks, i);
    }
    p->setup = su;
    ft_pri_start(&p->fsm, ft_now_us());
    qemu_thread_create(&thread, "ft-setup", setup_thread, su,
                       QEMU_THREAD_DETACHED);
    primary_kick(p);
    return p;
}

void ft_primary_free(FtPrimary *p)
{
    Event *ev, *next;

    if (!p) {
        return;
    }
    p->ended = true;
    if (p->setup) {
        p->setup->primary = NULL;
    }
    if (p->sender) {
        /* They never take the BQL, and the shutdown ends their I/O. */
        ft_link_shutdown(p->data);
        ft_link_shutdown(p->control);
        ft_sender_free(p->sender);
        qemu_thread_join(&p->acker);
    }
    if (p->data) {
        ft_link_unref(p->data);
        ft_link_unref(p->control);
    }
    qemu_bh_delete(p->bh);
    timer_free(p->timer);
    if (p->held) {
        ft_hold_detach();
    }
    ft_disks_free(p->disks);
    ft_output_free(p->output);
    ft_capture_free(p->capture);
    ft_machine_free(p->machine);
    QSIMPLEQ_FOREACH_SAFE(ev, &p->events, next, next) {
        g_free(ev->text);
        g_free(ev);
    }
    error_free(p->broken);
    qemu_cond_destroy(&p->posted);
    qemu_mutex_destroy(&p->lock);
    g_free(p);
}

void ft_primary_cancel(FtPrimary *p, const char *reason)
{
    ft_pri_cancel(&p->fsm, reason);
}

/* Work off events until none is in flight; the main loop does not run. */
static bool primary_await_acks(FtPrimary *p, int64_t until)
{
    while (!p->ended && p->fsm.state == FT_PRI_PROTECTED &&
           ft_pri_in_flight(&p->fsm)) {
        int64_t left = (until - ft_now_us()) / 1000;

        if (left <= 0) {
            return false;
        }
        WITH_QEMU_LOCK_GUARD(&p->lock) {
            if (QSIMPLEQ_EMPTY(&p->events)) {
                qemu_cond_timedwait(&p->posted, &p->lock, left);
            }
        }
        primary_bh(p);
    }
    return !p->ended && p->fsm.state == FT_PRI_PROTECTED;
}

void ft_primary_finish(FtPrimary *p)
{
    int64_t until = ft_now_us() + p->params.ack_timeout_ms * 1000ll;

    if (primary_await_acks(p, until) &&
        ft_pri_take_now(&p->fsm, ft_now_us())) {
        primary_await_acks(p, until);
    }
}

void ft_primary_params_changed(FtPrimary *p)
{
    p->params.epoch_us = ft_params()->epoch_us;
    p->fsm.params.epoch_us = p->params.epoch_us;
    primary_kick(p);
}

bool ft_primary_blocks(FtPrimary *p)
{
    return !p->ended;
}

/* ---------------------------------------------------------------- status */

static FtHistogram *primary_hist(const FtHist *h)
{
    FtHistogram *q = g_new0(FtHistogram, 1);

    q->count = h->count;
    q->mean = ft_hist_mean(h);
    q->p50 = ft_hist_quantile(h, 500);
    q->p99 = ft_hist_quantile(h, 990);
    q->max = h->max;
    return q;
}

void ft_primary_query(FtPrimary *p, FtStatus *st)
{
    const FtStats *s = &p->stats;
    int64_t now = ft_now_us();
    FtOutputStats out;

    ft_output_stats(p->output, &out);
    st->has_epoch = st->has_committed = st->has_in_flight = true;
    st->epoch = p->fsm.taken;
    st->committed = p->fsm.acked;
    st->in_flight = ft_pri_in_flight(&p->fsm);
    st->epoch_us = p->params.epoch_us;
    if (p->sync_total) {
        uint64_t sent = ft_sender_sync_pages(p->sender);
        bool over = p->fsm.state != FT_PRI_SYNC;
        int64_t us = (over ? p->protected_at : now) - p->sync_began;

        st->has_sync_percent = st->has_sync_rate = true;
        st->sync_percent = over ? 100 : MIN(99, sent * 100 / p->sync_total);
        st->sync_rate = us > 0 ? sent * FT_PAGE_SIZE * 1000000 / us : 0;
    }
    if (p->fsm.state == FT_PRI_PROTECTED) {
        st->has_epochs_per_second = true;
        st->epochs_per_second = s->epochs * 1e6 /
                                MAX(now - p->protected_at, 1);
        st->has_dirty_mean = st->has_dirty_p99 = true;
        st->dirty_mean = ft_hist_mean(&s->dirty);
        st->dirty_p99 = ft_hist_quantile(&s->dirty, 990);
        st->has_device_bytes = true;
        st->device_bytes = s->device_bytes;
        st->pause = g_new0(FtPause, 1);
        st->pause->total = primary_hist(&s->pause);
        st->pause->stop = primary_hist(&s->pause_stop);
        st->pause->harvest = primary_hist(&s->pause_harvest);
        st->pause->copy = primary_hist(&s->pause_copy);
        st->pause->devices = primary_hist(&s->pause_devices);
        st->pause->resume = primary_hist(&s->pause_resume);
        st->commit = primary_hist(&s->commit);
    }
    ft_disks_query(p->disks, st);
    st->has_held_packets = st->has_held_bytes = true;
    st->held_packets = out.held_items;
    st->held_bytes = out.held_bytes;
    st->has_released_packets = true;
    st->released_packets = out.released_items;
    st->has_early_epochs = st->has_stalls = st->has_stall_us = true;
    st->early_epochs = p->fsm.early_epochs;
    st->stalls = p->fsm.stalls;
    st->stall_us = p->fsm.stall_us;
    if (p->sender) {
        const FtEncodeStats *encoded = ft_sender_encoded(p->sender);

        st->has_pages_zero = st->has_pages_raw = true;
        st->pages_zero = encoded->pages[FT_PAGE_ZERO];
        st->pages_raw = encoded->pages[FT_PAGE_RAW];
        st->has_wire_bytes = true;
        st->wire_bytes = ft_link_bytes_sent(p->data);
    }
}
