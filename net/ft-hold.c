/*
 * Fault tolerance: a netfilter that holds what the guest sends
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   NIC ---> [ft-hold: rx queue of the netdev] ---> other filters ---> netdev
 *
 * The session puts one in front of every netdev (or hub port) that a NIC is
 * connected to.  It is the first to see what the guest sends, so that no
 * other filter sees it too early.  What ft_output_hold() says must be held
 * is copied, so that nothing is in flight in the NIC when an epoch ends.
 *
 * A packet is held -> released -> gone; or, when the netdev has no room
 * (the tap's queue or the socket is full), held -> released -> waiting ->
 * gone.  It waits in the netdev's own queue, which QEMU empties as soon as
 * there is room, in order with all that comes later:
 * - With a sent_cb, for which that queue has no bound.  The bound is
 *   ours: what waits is in FtOutput's books until ft_hold_sent().
 * - The guest has long sent it.  So it leaves although the VM does not run
 *   (ft_releasing_to(); but not to a NIC: a stopped guest's memory does not
 *   change), and as its sender is not the NIC, it stays when the VM stops or
 *   the NIC is reset.
 * - It stays, too, while this side may have been given up (ft_hold_stays()).
 *   A side that is fenced throws it away.
 * - Protection may end before it has left: the guest's next packets queue
 *   up behind it.  When QEMU ends, it gets HOLD_LAST_MS.
 *
 * Everything here is called with the BQL held.
 */

#include "qemu/osdep.h"
#include "migration/ft.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/queue.h"
#include "net/vhost_net.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "../migration/ft/primary-private.h"
#include "../migration/ft/session.h"

/* An end of QEMU waits at most so long for what the netdevs cannot take. */
#define HOLD_LAST_MS    2000
/*
 * How often what waits is tried again.  Mostly the netdev does it when it has
 * room; but not what stayed for want of the lease, or when its peer has gone.
 */
#define HOLD_RETRY_MS   10

#define TYPE_FT_HOLD "ft-hold"
OBJECT_DECLARE_SIMPLE_TYPE(FtHold, FT_HOLD)

typedef struct FtHoldPacket {
    QSIMPLEQ_ENTRY(FtHoldPacket) next;
    uint64_t epoch;
    unsigned flags;
    size_t size;
    uint8_t data[];
} FtHoldPacket;

struct FtHold {
    NetFilterState parent_obj;

    FtOutput *out;
    FtOutputProvider *provider;
    QSIMPLEQ_HEAD(, FtHoldPacket) queue;
    GQueue waiting;             /* sizes of those in the netdev's queue ... */
    NetClientState sender;      /* ... whose sender is this; each has a ref */
    QEMUTimer *retry;
    bool releasing;
    QTAILQ_ENTRY(FtHold) link;
};

/*
 * The filters that are attached; empty while there is no session.  Their
 * parent has no path, so that nobody can delete them, switch them off or turn
 * them round.
 */
static QTAILQ_HEAD(, FtHold) attached = QTAILQ_HEAD_INITIALIZER(attached);
static Object *home;

/* Inside the loop of one of them that lets packets out. */
static unsigned releasing;

bool ft_releasing_to(const NetClientState *nc)
{
    return releasing && nc && nc->info->type != NET_CLIENT_DRIVER_NIC;
}

static FtHold *ft_hold_at(const NetClientState *nc)
{
    FtHold *h;

    QTAILQ_FOREACH(h, &attached, link) {
        if (nc && NETFILTER(h)->netdev == nc) {
            return h;
        }
    }
    return NULL;
}

bool ft_hold_stays(const NetClientState *nc)
{
    FtHold *h = ft_hold_at(nc);
    FtSession *s = ft_session();

    return h && !g_queue_is_empty(&h->waiting) &&
           ft_output_mode(h->out) != FT_OUTPUT_PASS && s && s->primary &&
           !ft_primary_leased(s->primary);
}

static void ft_hold_wait(FtHold *h)
{
    if (!g_queue_is_empty(&h->waiting)) {
        timer_mod(h->retry, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                            HOLD_RETRY_MS);
    }
}

static void ft_hold_retry(void *opaque)
{
    FtHold *h = opaque;

    if (!g_queue_is_empty(&h->waiting)) {
        releasing++;
        qemu_flush_queued_packets(NETFILTER(h)->netdev);
        releasing--;
        ft_hold_wait(h);
    }
}

/* One that waited has left (or, @ret 0, was thrown away). */
static void ft_hold_sent(NetClientState *sender, ssize_t ret)
{
    FtHold *h = container_of(sender, FtHold, sender);
    size_t size;

    if (!g_queue_is_empty(&h->waiting)) {
        size = GPOINTER_TO_SIZE(g_queue_pop_head(&h->waiting));
        if (h->provider) {
            ft_output_left(h->out, h->provider, size, !ret);
        }
    }
    object_unref(OBJECT(h));
}

static void ft_hold_pass(FtHold *h, FtHoldPacket *pkt)
{
    NetFilterState *nf = NETFILTER(h), *other;
    struct iovec iov = { .iov_base = pkt->data, .iov_len = pkt->size };
    /*
     * The sender is the NIC that is connected now, if any: the one that sent
     * this may be gone.
     */
    NetClientState *sender = nf->netdev ? nf->netdev->peer : NULL;

    if (!sender) {
        return;
    }
    for (other = QTAILQ_PREV(nf, next); other;
         other = QTAILQ_PREV(other, next)) {
        if (qemu_netfilter_receive(other, NET_FILTER_DIRECTION_RX, sender,
                                   pkt->flags, &iov, 1, NULL)) {
            return;
        }
    }
    /* Not qemu_netfilter_pass_to_next(), which gives no sent_cb. */
    h->sender.peer = nf->netdev;
    if (!qemu_net_queue_send_iov(nf->netdev->incoming_queue, &h->sender,
                                 pkt->flags, &iov, 1, ft_hold_sent)) {
        object_ref(OBJECT(h));
        g_queue_push_tail(&h->waiting, GSIZE_TO_POINTER(pkt->size));
        ft_output_wait(h->out, h->provider, pkt->size);
    }
}

static void ft_hold_release(void *opaque, uint64_t epoch)
{
    FtHold *h = opaque;
    FtHoldPacket *pkt;

    if (h->releasing) {
        /* The loop below, further up the stack, goes on. */
        return;
    }
    h->releasing = true;
    releasing++;
    object_ref(OBJECT(h));
    while ((pkt = QSIMPLEQ_FIRST(&h->queue)) && pkt->epoch <= epoch) {
        QSIMPLEQ_REMOVE_HEAD(&h->queue, next);
        /* The NIC may send more from in there. */
        ft_hold_pass(h, pkt);
        g_free(pkt);
    }
    releasing--;
    h->releasing = false;
    ft_hold_wait(h);
    object_unref(OBJECT(h));
}

static void ft_hold_clear(FtHold *h)
{
    FtHoldPacket *pkt;

    while ((pkt = QSIMPLEQ_FIRST(&h->queue))) {
        QSIMPLEQ_REMOVE_HEAD(&h->queue, next);
        g_free(pkt);
    }
}

static void ft_hold_drop(void *opaque)
{
    FtHold *h = opaque;
    NetClientState *nc = NETFILTER(h)->netdev;

    ft_hold_clear(h);
    /* First: what is purged is off the books already. */
    g_queue_clear(&h->waiting);
    if (nc) {
        object_ref(OBJECT(h));
        qemu_net_queue_purge(nc->incoming_queue, &h->sender);
        object_unref(OBJECT(h));
    }
}

static const FtOutputOps ft_hold_ops = {
    .release = ft_hold_release,
    .drop = ft_hold_drop,
};

static ssize_t ft_hold_receive_iov(NetFilterState *nf,
                                   NetClientState *sender,
                                   unsigned flags,
                                   const struct iovec *iov,
                                   int iovcnt,
                                   NetPacketSent *sent_cb)
{
    FtHold *h = FT_HOLD(nf);
    size_t size = iov_size(iov, iovcnt);
    FtHoldPacket *pkt;
    uint64_t epoch;

    if (!h->provider) {
        return 0;
    }
    epoch = ft_output_hold(h->out, h->provider, size);
    if (epoch == UINT64_MAX) {
        return size;
    }
    if (!epoch && !h->releasing && QSIMPLEQ_EMPTY(&h->queue)) {
        return 0;
    }
    /*
     * Tagged 0, it was sent while the queue is being let out for good: it
     * takes its place behind the others and leaves with them.
     */
    pkt = g_malloc(sizeof(*pkt) + size);
    pkt->epoch = epoch;
    pkt->flags = flags;
    pkt->size = size;
    iov_to_buf(iov, iovcnt, 0, pkt->data, size);
    QSIMPLEQ_INSERT_TAIL(&h->queue, pkt, next);
    return size;
}

/* The filter goes away, alone or with its netdev. */
static void ft_hold_cleanup(NetFilterState *nf)
{
    FtHold *h = FT_HOLD(nf);

    if (h->provider) {
        ft_output_remove(h->out, h->provider);
        h->provider = NULL;
        QTAILQ_REMOVE(&attached, h, link);
        timer_free(h->retry);
    }
    ft_hold_clear(h);
}

static void ft_hold_init(Object *obj)
{
    FtHold *h = FT_HOLD(obj);

    QSIMPLEQ_INIT(&h->queue);
    g_queue_init(&h->waiting);
}

static void ft_hold_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    nfc->cleanup = ft_hold_cleanup;
    nfc->receive_iov = ft_hold_receive_iov;
}

static const TypeInfo ft_hold_info = {
    .name = TYPE_FT_HOLD,
    .parent = TYPE_NETFILTER,
    .class_init = ft_hold_class_init,
    .instance_init = ft_hold_init,
    .instance_size = sizeof(FtHold),
};

static void ft_hold_register_types(void)
{
    type_register_static(&ft_hold_info);
}

type_init(ft_hold_register_types);

/* Can what @nic sends be held at @peer? */
static bool ft_hold_check(NICState *nic, NetClientState *peer, Error **errp)
{
    const char *name = nic->ncs[0].name;

    if (nic->conf->peers.queues > 1) {
        error_setg(errp, "NIC '%s' has %d queues at netdev '%s', only one "
                   "can be protected: set queues=1 there", name,
                   nic->conf->peers.queues, peer->name);
        return false;
    }
    switch (peer->info->type) {
    case NET_CLIENT_DRIVER_VHOST_USER:
    case NET_CLIENT_DRIVER_VHOST_VDPA:
        error_setg(errp, "netdev '%s' of NIC '%s' is of type %s, which goes "
                   "round QEMU: use tap,vhost=off", peer->name, name,
                   NetClientDriver_str(peer->info->type));
        return false;
    default:
        break;
    }
    if (get_vhost_net(peer)) {
        error_setg(errp, "netdev '%s' of NIC '%s' uses vhost, which goes "
                   "round QEMU: set vhost=off", peer->name, name);
        return false;
    }
    return true;
}

typedef struct FtHoldAttach {
    FtOutput *out;
    unsigned count;
    Error **errp;
    bool failed;
} FtHoldAttach;

static void ft_hold_attach_one(NICState *nic, void *opaque)
{
    FtHoldAttach *a = opaque;
    NetClientState *peer = nic->ncs[0].peer;
    g_autofree char *id = NULL;
    Object *obj;
    FtHold *h;

    if (a->failed || !peer) {
        return;
    }
    a->failed = true;
    if (!ft_hold_check(nic, peer, a->errp)) {
        return;
    }
    id = g_strdup_printf("ft-hold%u", a->count++);
    obj = object_new_with_props(TYPE_FT_HOLD, home, id, a->errp,
                                "netdev", peer->name,
                                "queue", "rx",
                                "position", "tail",
                                NULL);
    if (!obj) {
        error_prepend(a->errp, "NIC '%s': ", nic->ncs[0].name);
        return;
    }
    h = FT_HOLD(obj);
    h->out = a->out;
    h->provider = ft_output_add(a->out, peer->name, &ft_hold_ops, h);
    h->retry = timer_new_ms(QEMU_CLOCK_REALTIME, ft_hold_retry, h);
    QTAILQ_INSERT_TAIL(&attached, h, link);
    a->failed = false;
}

bool ft_hold_attach(FtOutput *out, Error **errp)
{
    ERRP_GUARD();
    FtHoldAttach a = { .out = out, .errp = errp };

    assert(QTAILQ_EMPTY(&attached));
    home = object_new(TYPE_CONTAINER);
    qemu_foreach_nic(ft_hold_attach_one, &a);
    if (a.failed) {
        ft_hold_detach();
        return false;
    }
    return true;
}

/*
 * QEMU ends, and its main loop does not run any more: nobody else empties the
 * queues of the netdevs, and what is in them then is lost.
 */
static void ft_hold_last(void)
{
    int64_t end = g_get_monotonic_time() + HOLD_LAST_MS * 1000ll;
    uint64_t lost = 0;
    FtHold *h;

    releasing++;
    QTAILQ_FOREACH(h, &attached, link) {
        while (!g_queue_is_empty(&h->waiting)) {
            qemu_flush_queued_packets(NETFILTER(h)->netdev);
            if (g_get_monotonic_time() >= end) {
                break;
            }
            if (!g_queue_is_empty(&h->waiting)) {
                g_usleep(1000);
            }
        }
        lost += g_queue_get_length(&h->waiting);
    }
    releasing--;
    if (lost) {
        warn_report("ft: %" PRIu64 " packets that the guest sent are dropped: "
                    "their netdev has not taken them for %d s", lost,
                    HOLD_LAST_MS / 1000);
    }
}

void ft_hold_detach(void)
{
    FtHold *h;

    if (runstate_check(RUN_STATE_SHUTDOWN)) {
        ft_hold_last();
    }
    while ((h = QTAILQ_FIRST(&attached))) {
        /*
         * Here and not in its finalizer, which may come later: what waits
         * leaves all the same, and if it stayed nobody else may try again.
         */
        ft_hold_cleanup(NETFILTER(h));
        if (!g_queue_is_empty(&h->waiting)) {
            qemu_flush_queued_packets(NETFILTER(h)->netdev);
        }
        object_unparent(OBJECT(h));
    }
    g_clear_pointer(&home, object_unref);
}
