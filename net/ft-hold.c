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
 * What is released leaves although the VM may not run any more: the guest has
 * sent it long ago (ft_releasing_to()).
 *
 * Everything here is called with the BQL held.
 */

#include "qemu/osdep.h"
#include "migration/ft.h"
#include "net/filter.h"
#include "net/net.h"
#include "net/vhost_net.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/queue.h"
#include "system/runstate.h"
#include "../migration/ft/session.h"

/* An end of QEMU waits at most so long for a netdev that is full. */
#define HOLD_LAST_MS    2000

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
    /* The memory of a stopped guest does not change. */
    return releasing && nc && nc->info->type != NET_CLIENT_DRIVER_NIC;
}

/*
 * QEMU ends, and its main loop does not run any more: nobody else empties a
 * netdev's queue, and what is in it then is lost.
 */
static void ft_hold_make_room(FtHold *h, int64_t until)
{
    NetClientState *nc = NETFILTER(h)->netdev;

    while (nc && nc->receive_disabled &&
           runstate_check(RUN_STATE_SHUTDOWN) &&
           g_get_monotonic_time() < until) {
        g_usleep(1000);
        qemu_flush_queued_packets(nc);
    }
}

static void ft_hold_release(void *opaque, uint64_t epoch)
{
    FtHold *h = opaque;
    NetFilterState *nf = NETFILTER(h);
    int64_t until = g_get_monotonic_time() + HOLD_LAST_MS * 1000ll;
    FtHoldPacket *pkt;

    if (h->releasing) {
        /* The loop below, further up the stack, goes on. */
        return;
    }
    h->releasing = true;
    releasing++;
    object_ref(OBJECT(h));
    while ((pkt = QSIMPLEQ_FIRST(&h->queue)) && pkt->epoch <= epoch) {
        struct iovec iov = { .iov_base = pkt->data, .iov_len = pkt->size };

        if (!ft_primary_may_send(ft_session()->primary)) {
            /*
             * This process has stood still in this loop, and the backup may
             * have taken over.  What is left goes with the next epoch.
             */
            break;
        }
        QSIMPLEQ_REMOVE_HEAD(&h->queue, next);
        /*
         * The sender is the NIC that is connected now, if any: the one that
         * sent this may be gone.  It may send more from in there.
         */
        if (nf->netdev) {
            qemu_netfilter_pass_to_next(nf->netdev->peer, pkt->flags, &iov, 1,
                                        nf);
            ft_hold_make_room(h, until);
        }
        g_free(pkt);
    }
    releasing--;
    h->releasing = false;
    object_unref(OBJECT(h));
}

static void ft_hold_drop(void *opaque)
{
    FtHold *h = opaque;
    FtHoldPacket *pkt;

    while ((pkt = QSIMPLEQ_FIRST(&h->queue))) {
        QSIMPLEQ_REMOVE_HEAD(&h->queue, next);
        g_free(pkt);
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
    }
    ft_hold_drop(h);
}

static void ft_hold_init(Object *obj)
{
    QSIMPLEQ_INIT(&FT_HOLD(obj)->queue);
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

void ft_hold_detach(void)
{
    FtHold *h;

    while ((h = QTAILQ_FIRST(&attached))) {
        /* Here and not in its finalizer, which may come later. */
        ft_hold_cleanup(NETFILTER(h));
        object_unparent(OBJECT(h));
    }
    g_clear_pointer(&home, object_unref);
}
