/*
 * Fault tolerance: in place of arbiter-etcd.c where there is no libcurl
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Nothing but open is ever called.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "arbiter.h"

static void *no_etcd_open(const FtArbiterParams *p, const QemuUUID *uuid,
                          Error **errp)
{
    error_setg(errp, "this QEMU was built without libcurl, which etcd: needs "
               "(on Debian: install libcurl4-gnutls-dev, configure and build "
               "again)");
    return NULL;
}

const FtArbiterOps ft_arbiter_etcd_ops = {
    .open = no_etcd_open,
};
