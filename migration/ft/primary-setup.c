/*
 * Fault tolerance: the primary: connecting to the backup
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   ft_setup_start() --> thread: the arbiter, the connections, those of the
 *                        drives that are copied --> ft_primary_setup_done()
 *
 * All that can wait for a network is in the thread, which owns its FtSetup;
 * a session that ends meanwhile leaves it alone (su->primary is NULL then).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/main-loop.h"
#include "primary-private.h"

/* Connecting and the handshake, each. */
#define SETUP_MS        10000
#define SETUP_ARBITER_MS 5000

void ft_setup_free(FtSetup *su)
{
    unsigned i;

    for (i = 0; i < su->drives; i++) {
        object_unref(OBJECT(su->disk[i]));
    }
    g_free(su->copied);
    g_free(su->disk);
    ft_links_shutdown(&su->links);
    ft_links_clear(&su->links);
    qapi_free_SocketAddress(su->addr);
    ft_tls_free(su->tls);
    ft_arbiter_unref(su->arbiter);
    g_free(su->proof);
    g_free(su->fingerprint);
    error_free(su->err);
    g_free(su);
}

static void setup_done(void *opaque)
{
    FtSetup *su = opaque;

    if (su->primary) {
        ft_primary_setup_done(su->primary, su);
    }
    ft_setup_free(su);
}

static bool setup_connect(FtSetup *su)
{
    unsigned i;

    if (!ft_arbiter_publish(su->arbiter, su->proof, SETUP_ARBITER_MS,
                            &su->err) ||
        !ft_link_open(su->addr, su->tls, &su->uuid, su->generation,
                      FT_FEATURE_HASH, su->fingerprint, SETUP_MS, &su->links,
                      su->token, &su->err)) {
        return false;
    }
    ft_link_set_user_timeout(su->links.data, su->user_timeout_ms);
    ft_link_set_user_timeout(su->links.control, su->user_timeout_ms);
    ft_link_set_user_timeout(su->links.heart, su->heart_timeout_ms);
    for (i = 0; i < su->drives; i++) {
        if (su->copied[i]) {
            su->disk[i] = ft_link_open_disk(su->addr, su->tls, &su->uuid,
                                            su->token, i, SETUP_MS, &su->err);
            if (!su->disk[i]) {
                return false;
            }
        }
    }
    return true;
}

static void *setup_thread(void *opaque)
{
    setup_connect(opaque);
    ft_main_loop(setup_done, opaque);
    return NULL;
}

void ft_setup_start(FtSetup *su)
{
    QemuThread thread;

    qemu_thread_create(&thread, "ft-setup", setup_thread, su,
                       QEMU_THREAD_DETACHED);
}
