/*
 * Fault tolerance: the primary: events, first copy, main loop
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * primary-private.h has the threads and their rules.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "crypto/random.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "system/cpus.h"
#include "system/reset.h"
#include "migration/ft.h"
#include "offer.h"
#include "primary-private.h"
#include "trace.h"

/* The guest runs at least so long between two pauses. */
#define PRIMARY_MIN_RUN_US      2000
/* How often a guest that must stand still is looked at. */
#define PRIMARY_STALL_US        20000
/* The setup thread has its own deadlines; this is for all of it. */
#define PRIMARY_SETUP_MS        30000
/* The first copy ends when so few pages are left: about 2 ms to copy. */
#define PRIMARY_SYNC_PAGES      2048
/* ... or when a pass leaves no less than the one before, so often. */
#define PRIMARY_SYNC_STUCK      3
/* An orderly end of the process waits for the arbiter at most so long. */
#define PRIMARY_LEAVE_MS        3000
#define PRIMARY_PROOF_BYTES     16

/* ---------------------------------------------------------------- events */

static void primary_post_event(FtPrimary *p, FtPrimaryEvent *ev)
{
    WITH_QEMU_LOCK_GUARD(&p->lock) {
        QSIMPLEQ_INSERT_TAIL(&p->events, ev, next);
        qemu_cond_signal(&p->posted);
    }
    qemu_bh_schedule(p->bh);
}

void ft_primary_post(FtPrimary *p, FtPrimaryEventKind kind, uint64_t value,
                     const char *text)
{
    FtPrimaryEvent *ev = g_new0(FtPrimaryEvent, 1);

    ev->kind = kind;
    ev->value = value;
    ev->text = g_strdup(text);
    primary_post_event(p, ev);
}

static void primary_post_ack(FtPrimary *p, uint64_t epoch,
                             const GByteArray *payload)
{
    FtPrimaryEvent *ev = g_new0(FtPrimaryEvent, 1);

    ev->kind = FT_PRIMARY_ACK;
    ev->value = epoch;
    if (payload->len == FT_ACK_SIZE) {
        ev->settled = ldq_be_p(payload->data);
    }
    primary_post_event(p, ev);
}

static void primary_kick(FtPrimary *p);

/* ---------------------------------------------------------------- sender */

static void sender_pass_done(void *opaque)
{
    ft_primary_post(opaque, FT_PRIMARY_SYNC_PASS, 0, NULL);
}

static void sender_failed(void *opaque, const char *reason)
{
    g_autofree char *msg =
        g_strdup_printf("the data connection was lost: %s", reason);

    ft_primary_post(opaque, FT_PRIMARY_CONN_LOST, 0, msg);
}

static const FtSenderOps sender_ops = {
    .pass_done = sender_pass_done,
    .failed = sender_failed,
};

/* ------------------------------------------------------------ heartbeats */

static void pulse_silent(void *opaque, const char *reason)
{
    FtPrimary *p = opaque;
    g_autofree char *msg = g_strdup_printf("the backup was lost: %s", reason);

    /* The main loop may be waiting for the backup to take its first copy. */
    ft_disks_break(p->disks);
    ft_primary_post(p, FT_PRIMARY_LOST, 0, msg);
}

static void pulse_lost(void *opaque, const char *reason)
{
    FtPrimary *p = opaque;
    g_autofree char *msg =
        g_strdup_printf("the connection for heartbeats was lost: %s", reason);

    ft_disks_break(p->disks);
    ft_primary_post(p, FT_PRIMARY_CONN_LOST, 0, msg);
}

static void pulse_renewed(void *opaque)
{
    ft_primary_post(opaque, FT_PRIMARY_LEASED, 0, NULL);
}

static const FtPulseOps pulse_ops = {
    .silent = pulse_silent,
    .lost = pulse_lost,
    .renewed = pulse_renewed,
};

/* -------------------------------------------------- control connection */

/* False with @errp: the backup sends nonsense. */
static bool control_frame(FtPrimary *p, const FtFrame *f,
                          const GByteArray *buf, Error **errp)
{
    g_autofree char *text = ft_link_text(buf);
    g_autofree char *msg = NULL;

    switch (f->type) {
    case FT_FRAME_ACK:
        if (buf->len && buf->len != FT_ACK_SIZE) {
            error_setg(errp, "the backup's acknowledgement has %u bytes",
                       buf->len);
            return false;
        }
        primary_post_ack(p, f->epoch, buf);
        return true;
    case FT_FRAME_DISARM:
        msg = g_strdup_printf("the backup has left in order: %s", text);
        ft_primary_post(p, FT_PRIMARY_GONE, 0, msg);
        return true;
    case FT_FRAME_ERROR:
        msg = g_strdup_printf("the backup reports: %s", text);
        ft_primary_post(p, FT_PRIMARY_GONE, 0, msg);
        return true;
    case FT_FRAME_FAILOVER:
        ft_primary_post(p, FT_PRIMARY_FAILOVER, f->flags & FT_FLAG_CLAIMED,
                        NULL);
        return true;
    default:
        error_setg(errp, "the backup sent a %s frame on the control "
                   "connection", ft_wire_type_name(f->type));
        return false;
    }
}

static void *acker_thread(void *opaque)
{
    FtPrimary *p = opaque;
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Error *err = NULL;
    FtFrame f;
    bool bad;
    int ret;

    rcu_register_thread();
    while ((ret = ft_link_recv(p->links.control, &f, buf, &bad, &err)) > 0 &&
           control_frame(p, &f, buf, &err)) {
        /* the next one */
    }
    ft_primary_post(p, FT_PRIMARY_LOST, 0, ret ? error_get_pretty(err) :
                    "the backup closed the connection");
    error_free(err);
    rcu_unregister_thread();
    return NULL;
}

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
        if (p->fsm.taken || p->sync_waits || p->broken || p->ended) {
            return;
        }
        /* The guest has asked for a reset: after that, and another pass. */
    }
    p->sync_left = left;
    if (!p->sync_total) {
        p->sync_total = left;
    }
    ft_sender_pass(p->sender);
}

/* --------------------------------------------------------------- set-up */

/* The connections are there. */
static void setup_connected(FtPrimary *p, FtSetup *su)
{
    FtHeartParams heart = {
        .interval_us = p->params.heartbeat_ms * 1000ll,
        .timeout_us = p->params.timeout_ms * 1000ll,
    };

    p->links = su->links;
    su->links = (FtLinks) { 0 };
    /* In the first copy no acknowledgement is due that could be late. */
    ft_link_set_timeout(p->links.data, p->params.ack_timeout_ms);

    p->sender = ft_sender_new(p->links.data, p->capture, &sender_ops, p);
    p->pulse = ft_pulse_new(p->links.heart, &heart,
                            p->params.stuck_ms * 1000ll, &pulse_ops, p);
    qemu_thread_create(&p->acker, "ft-ack", acker_thread, p,
                       QEMU_THREAD_JOINABLE);
    p->sync_began = ft_now_us();
    ft_pri_connected(&p->fsm, p->sync_began);
    sync_pass(p);
    primary_kick(p);
}

void ft_primary_setup_done(FtPrimary *p, FtSetup *su)
{
    unsigned i;

    p->setup = NULL;
    if (p->ended) {
        return;
    }
    for (i = 0; i < su->drives && !su->err; i++) {
        if (su->disk[i]) {
            ft_disks_copy_start(p->disks, i, su->disk[i], &su->err);
        }
    }
    if (su->err) {
        ft_pri_lost(&p->fsm, error_get_pretty(su->err));
    } else {
        setup_connected(p, su);
    }
}

static char *random_hex(void)
{
    uint8_t bytes[PRIMARY_PROOF_BYTES];
    GString *s = g_string_new(NULL);
    unsigned i;

    qcrypto_random_bytes(bytes, sizeof(bytes), &error_fatal);
    for (i = 0; i < sizeof(bytes); i++) {
        g_string_append_printf(s, "%02x", bytes[i]);
    }
    return g_string_free(s, false);
}

/* Which arbiter: what was asked for, or by the shared images. */
static bool primary_arbiter(FtPrimary *p, const FtProtectOptions *opt,
                            FtOffer *offer, Error **errp)
{
    FtArbiterParams params = { 0 };
    bool ok;

    if (opt->arbiter_set) {
        ft_arbiter_params_copy(&params, &opt->arbiter);
        ok = ft_params_secrets(&params, errp);
    } else {
        params.kind = FT_ARBITER_FILE;
        params.where = ft_disks_directory(p->disks, -1, &offer->image, errp);
        ok = params.where;
    }
    if (ok) {
        offer->arbiter.kind = params.kind;
        offer->arbiter.where = g_strdup(params.where);
        ft_session_set_arbiter(p->session, &params);
    }
    ft_arbiter_params_clear(&params);
    return ok;
}

static bool primary_setup(FtPrimary *p, const SocketAddress *addr,
                          const FtProtectOptions *opt, Error **errp)
{
    FtOffer offer = {
        .image = -1,
        .heartbeat_ms = p->params.heartbeat_ms,
        .timeout_ms = p->params.timeout_ms,
    };
    g_autofree char *drives = ft_disks_describe(p->disks);
    g_autofree char *text = NULL;
    g_autofree char *proof = random_hex();
    FtTls *tls;
    FtSetup *su;
    unsigned i;

    if (!ft_tls_new(QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT, &tls, errp)) {
        return false;
    }
    if (!primary_arbiter(p, opt, &offer, errp)) {
        ft_tls_free(tls);
        return false;
    }
    pstrcpy(offer.proof, sizeof(offer.proof), proof);
    text = ft_offer_write(&offer);
    ft_offer_clear(&offer);

    su = g_new0(FtSetup, 1);
    su->primary = p;
    su->addr = QAPI_CLONE(SocketAddress, addr);
    su->tls = tls;
    su->uuid = p->session->uuid;
    su->generation = p->session->generation;
    su->arbiter = ft_arbiter_ref(p->session->arbiter);
    su->proof = g_steal_pointer(&proof);
    su->user_timeout_ms = p->params.ack_timeout_ms;
    su->heart_timeout_ms = p->params.timeout_ms;
    su->fingerprint = g_strconcat(p->machine->fingerprint, FT_OFFER_MARK,
                                  text, FT_DISKS_MARK, drives, NULL);
    su->drives = ft_disks_copy_count(p->disks);
    su->copied = g_new0(bool, su->drives);
    su->disk = g_new0(QIOChannelSocket *, su->drives);
    for (i = 0; i < su->drives; i++) {
        su->copied[i] = ft_disks_is_copied(p->disks, i);
    }
    p->setup = su;
    ft_pri_start(&p->fsm, ft_now_us());
    ft_setup_start(su);
    return true;
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

        ft_pri_lost(&p->fsm, msg);
    }
    if (p->ended) {
        return;
    }
    if (p->fsm.stalled) {
        /* "cont" and a reset let the vCPUs run again. */
        pause_all_vcpus();
        next = MIN(next, ft_now_us() + PRIMARY_STALL_US);
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

static void primary_event(FtPrimary *p, const FtPrimaryEvent *ev)
{
    int64_t now = ft_now_us();

    switch (ev->kind) {
    case FT_PRIMARY_SYNC_PASS:
        if (p->fsm.state == FT_PRI_SYNC) {
            sync_pass(p);
        }
        break;
    case FT_PRIMARY_ACK:
        ft_disks_backup_settled(p->disks, ev->settled);
        ft_pri_ack(&p->fsm, ev->value, now);
        break;
    case FT_PRIMARY_LOST:
        ft_pri_lost(&p->fsm, ev->text);
        break;
    case FT_PRIMARY_CONN_LOST:
        ft_pri_conn_lost(&p->fsm, ev->text, now);
        break;
    case FT_PRIMARY_GONE:
        ft_pri_peer_gone(&p->fsm, ev->text);
        break;
    case FT_PRIMARY_FAILOVER:
        ft_pri_peer_failover(&p->fsm, ev->value);
        break;
    case FT_PRIMARY_LEASED:
        ft_pri_lease_renewed(&p->fsm);
        ft_disks_kick(p->disks);
        break;
    case FT_PRIMARY_CLAIM:
        ft_pri_claimed(&p->fsm, ev->value, ev->text);
        break;
    }
}

static void primary_bh(void *opaque)
{
    FtPrimary *p = opaque;
    QSIMPLEQ_HEAD(, FtPrimaryEvent) todo = QSIMPLEQ_HEAD_INITIALIZER(todo);
    FtPrimaryEvent *ev;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        QSIMPLEQ_CONCAT(&todo, &p->events);
    }
    if (qatomic_xchg(&p->flush_waits, false) && !p->ended &&
        p->fsm.state == FT_PRI_PROTECTED) {
        ft_pri_output_full(&p->fsm);
    }
    QSIMPLEQ_FOREACH(ev, &todo, next) {
        if (ev->kind == FT_PRIMARY_FAILOVER && !p->ended) {
            /*
             * The backup takes over: acknowledgements from before that are
             * in this batch too if this process hung, and what they would
             * release is history by now.
             */
            primary_event(p, ev);
        }
    }
    while ((ev = QSIMPLEQ_FIRST(&todo))) {
        QSIMPLEQ_REMOVE_HEAD(&todo, next);
        if (!p->ended && ev->kind != FT_PRIMARY_FAILOVER) {
            primary_event(p, ev);
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

/*
 * A vCPU's thread, which goes on to empty the rings, so that the guest runs
 * on: it is not to be kept from writing, but its epoch gets no longer.
 */
void ft_dirty_full(void)
{
    FtSession *s = ft_session();

    trace_ft_ring_full();
    if (s && s->primary && s->primary->fsm.state == FT_PRI_PROTECTED) {
        primary_output_full(s->primary);
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
        ft_pri_lost(&p->fsm, error_get_pretty(err));
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
        ft_pri_lost(&p->fsm, reason);
        primary_kick(p);
    }
}

static bool disks_leased(void *opaque)
{
    FtPrimary *p = opaque;

    return !p->pulse || ft_primary_leased(p);
}

static const FtDisksOps disks_ops = {
    .parked = disks_flush_waits,
    .leased = disks_leased,
    .ready = disks_ready,
    .copied = disks_copied,
    .failed = disks_failed,
};

/* A guest that stands still is another one then. */
static void primary_reset(void *opaque)
{
    FtPrimary *p = opaque;

    p->stands = false;
}

FtPrimary *ft_primary_new(FtSession *s, const SocketAddress *addr,
                          const FtProtectOptions *opt, Error **errp)
{
    FtPriParams params;
    FtPrimary *p = g_new0(FtPrimary, 1);

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
        .setup_timeout_us = PRIMARY_SETUP_MS * 1000ll,
        .disarm_wait_us = p->params.timeout_ms * 1000ll,
        .depth = p->params.depth,
    };
    ft_pri_init(&p->fsm, &ft_primary_ops, p, &params);
    qemu_register_reset(primary_reset, p);

    p->held = ft_hold_attach(p->output, errp);
    if (!p->held) {
        goto fail;
    }
    p->disks = ft_disks_new(&opt->disks, &disks_ops, p, errp);
    if (!p->disks) {
        goto fail;
    }
    ft_disks_provide(p->disks, p->output);
    p->capture = ft_capture_new(p->machine, errp);
    if (!p->capture || !primary_setup(p, addr, opt, errp)) {
        goto fail;
    }
    primary_kick(p);
    return p;

fail:
    ft_primary_free(p);
    return NULL;
}

void ft_primary_free(FtPrimary *p)
{
    FtPrimaryEvent *ev, *next;

    if (!p) {
        return;
    }
    p->ended = true;
    qemu_unregister_reset(primary_reset, p);
    if (p->setup) {
        p->setup->primary = NULL;
    }
    if (p->session->arbiter) {
        ft_arbiter_quiet(p->session->arbiter);
    }
    if (p->sender) {
        /* They never take the BQL, and the shutdown ends their I/O. */
        ft_links_shutdown(&p->links);
        ft_sender_free(p->sender);
        qemu_thread_join(&p->acker);
        /* The drives may still ask for the lease: they need it no more. */
        ft_pulse_free(g_steal_pointer(&p->pulse));
    }
    ft_links_clear(&p->links);
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

bool ft_primary_cancel(FtPrimary *p, const char *reason, bool force)
{
    bool ok;

    if (force && ft_pri_sent(&p->fsm) && !p->ended) {
        /* A backup that lives for all that shall find it taken. */
        ft_arbiter_insist(p->session->arbiter, p->session->generation + 1);
    }
    ok = ft_pri_cancel(&p->fsm, reason, force, ft_now_us());
    primary_kick(p);
    return ok;
}

/* Wait for an event, at most until @until, and work it off: the main loop
 * does not run any more. */
static void primary_await(FtPrimary *p, int64_t until)
{
    int64_t next = MIN(until, ft_pri_poll(&p->fsm, ft_now_us()));
    int64_t ms = (next - ft_now_us()) / 1000 + 1;

    WITH_QEMU_LOCK_GUARD(&p->lock) {
        if (QSIMPLEQ_EMPTY(&p->events) && ms > 0) {
            qemu_cond_timedwait(&p->posted, &p->lock, ms);
        }
    }
    primary_bh(p);
}

/* Until no epoch is in flight; false if it does not come to that. */
static bool primary_await_acks(FtPrimary *p, int64_t until)
{
    while (!p->ended && p->fsm.state == FT_PRI_PROTECTED &&
           ft_pri_in_flight(&p->fsm)) {
        if (ft_now_us() >= until) {
            return false;
        }
        primary_await(p, until);
    }
    return !p->ended && p->fsm.state == FT_PRI_PROTECTED;
}

void ft_primary_leave(FtPrimary *p, const char *reason)
{
    int64_t until = ft_now_us() + p->params.ack_timeout_ms * 1000ll;

    if (primary_await_acks(p, until) &&
        ft_pri_take_now(&p->fsm, ft_now_us())) {
        primary_await_acks(p, until);
    }
    if (!p->ended) {
        ft_pri_cancel(&p->fsm, reason, false, ft_now_us());
    }
    until = ft_now_us() + (p->params.timeout_ms + PRIMARY_LEAVE_MS) * 1000ll;
    while (!p->ended && ft_now_us() < until) {
        primary_await(p, until);
    }
    if (!p->ended) {
        warn_report("ft: neither the backup nor the arbiter has answered: "
                    "what the guest sent and wrote last is dropped, and the "
                    "backup may go on from before");
        /* One that is won now would keep the backup from it. */
        ft_arbiter_quiet(p->session->arbiter);
        ft_output_drop_all(p->output);
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

