/*
 * Fault tolerance: what is said of one session, behind the backup's address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   tcp:HOST:PORT[,to=N][,ipv4][,ipv6][,keep-alive][,mptcp]   the address
 *       ,replicated[=DRIVE:DRIVE...] | ,shared                its disks
 *       ,copy=MODE ,flush=MODE
 *       ,arbiter=file:DIR | ,arbiter=etcd:URL[,URL...]        its arbiter
 *       ,arbiter=none | ,arbiter=
 *
 * "migrate -c", the list ft-reprotect and (for the address) -incoming have
 * this form.  What is not said is as the parameters have it.
 */

#ifndef MIGRATION_FT_URI_H
#define MIGRATION_FT_URI_H

#include "arbiter.h"
#include "disks.h"
#include "qapi/error.h"

typedef struct FtProtectOptions {
    FtDisksParams disks;        /* with a list of drives of its own */
    FtArbiterParams arbiter;
    bool arbiter_set;           /* else: by the shared images */
} FtProtectOptions;

/*
 * ft_options_parse: change @o by what is said in @uri.  Returns the address,
 * to be freed.  A word that is neither ours nor of the address is an error
 * with tcp (QEMU would not look at it, and it may be a misspelt arbiter); a
 * unix socket's path may have commas.  After an error @o is still to be
 * cleared.
 */
char *ft_options_parse(const char *uri, FtProtectOptions *o, Error **errp);
void ft_options_clear(FtProtectOptions *o);

/* Is @plain tcp: or unix:, with nothing behind it that we do not know? */
bool ft_options_check_address(const char *plain, Error **errp);

#endif
