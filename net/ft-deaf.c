/*
 * Fault tolerance: a netfilter that drops what a backup hears
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   NIC <--- other filters <--- [ft-deaf: tx queue of the netdev] <--- netdev
 *
 * What reaches the host of a backup is for the guest that runs on the other
 * one, and that has obeyed or answered it.  QEMU would keep a packet while no
 * guest runs, and the tap some hundred more: they would all come again after
 * a takeover, however old.  So they are taken and dropped.
 *
 * Every net client gets one that is not a NIC, so that it does not matter
 * what is between the NIC and the world, or whether a NIC is there yet; and
 * each of its queues, and a vhost one, which "object_add" would not do.  The
 * filters hang below an object of their own that has no path, so that nobody
 * can delete them, switch them off or turn them round.
 *
 * Everything here is called with the BQL held.
 */

#include "qemu/osdep.h"
#include "net/filter.h"
#include "net/net.h"
#include "qemu/iov.h"
#include "qemu/module.h"
#include "qemu/queue.h"
#include "qom/object.h"
#include "../migration/ft/session.h"

#define TYPE_FT_DEAF "ft-deaf"
OBJECT_DECLARE_SIMPLE_TYPE(FtDeaf, FT_DEAF)

struct FtDeaf {
    NetFilterState parent_obj;

    QTAILQ_ENTRY(FtDeaf) link;
};

/* The filters that are attached, and their parent. */
static QTAILQ_HEAD(, FtDeaf) attached = QTAILQ_HEAD_INITIALIZER(attached);
static Object *home;

static ssize_t ft_deaf_receive_iov(NetFilterState *nf,
                                   NetClientState *sender,
                                   unsigned flags,
                                   const struct iovec *iov,
                                   int iovcnt,
                                   NetPacketSent *sent_cb)
{
    return iov_size(iov, iovcnt);
}

/*
 * The filter goes away, alone or with its netdev.  QEMU takes the filters off
 * a netdev's first queue only, as no other filter can be at the next ones.
 */
static void ft_deaf_cleanup(NetFilterState *nf)
{
    FtDeaf *d = FT_DEAF(nf);
    FtDeaf *other;

    QTAILQ_REMOVE(&attached, d, link);
    do {
        QTAILQ_FOREACH(other, &attached, link) {
            if (!strcmp(NETFILTER(other)->netdev_id, nf->netdev_id)) {
                /* It comes here, too, and takes the rest along. */
                object_unparent(OBJECT(other));
                break;
            }
        }
    } while (other);
}

static void ft_deaf_class_init(ObjectClass *oc, void *data)
{
    NetFilterClass *nfc = NETFILTER_CLASS(oc);

    nfc->cleanup = ft_deaf_cleanup;
    nfc->receive_iov = ft_deaf_receive_iov;
}

static const TypeInfo ft_deaf_info = {
    .name = TYPE_FT_DEAF,
    .parent = TYPE_NETFILTER,
    .class_init = ft_deaf_class_init,
    .instance_size = sizeof(FtDeaf),
};

static void ft_deaf_register_types(void)
{
    type_register_static(&ft_deaf_info);
}

type_init(ft_deaf_register_types);

/* What is on its way already, before the filters or behind them. */
static void ft_deaf_purge(void)
{
    NetClientState *nc;

    QTAILQ_FOREACH(nc, &net_clients, next) {
        if (nc->info->type != NET_CLIENT_DRIVER_NIC) {
            qemu_purge_queued_packets(nc);
        }
    }
}

static void ft_deaf_attach_one(NetClientState *nc, unsigned number)
{
    g_autofree char *id = g_strdup_printf("ft-deaf%u", number);
    Object *obj = object_new(TYPE_FT_DEAF);
    NetFilterState *nf = NETFILTER(obj);

    nf->netdev_id = g_strdup(nc->name);
    nf->netdev = nc;
    nf->direction = NET_FILTER_DIRECTION_TX;
    /* First in line: another filter could keep what it sees. */
    QTAILQ_INSERT_HEAD(&nc->filters, nf, next);
    QTAILQ_INSERT_TAIL(&attached, FT_DEAF(obj), link);
    object_property_add_child(home, id, obj);
    object_unref(obj);
}

void ft_deaf_attach(void)
{
    NetClientState *nc;
    unsigned count = 0;

    assert(!home);
    home = object_new(TYPE_CONTAINER);
    QTAILQ_FOREACH(nc, &net_clients, next) {
        if (nc->info->type != NET_CLIENT_DRIVER_NIC) {
            ft_deaf_attach_one(nc, count++);
        }
    }
    ft_deaf_purge();
}

void ft_deaf_detach(void)
{
    FtDeaf *d;

    if (!home) {
        return;
    }
    while ((d = QTAILQ_FIRST(&attached))) {
        object_unparent(OBJECT(d));
    }
    g_clear_pointer(&home, object_unref);
    ft_deaf_purge();
}
