/*
 * Fault tolerance: what link.c, handshake.c and listener.c share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_LINK_PRIVATE_H
#define MIGRATION_FT_LINK_PRIVATE_H

#include "io/channel-socket.h"
#include "qemu/stats64.h"
#include "session.h"

#define FT_LINK_FOREVER     INT64_MAX   /* as a deadline: there is none */

struct FtLink {
    int refs;
    QIOChannelSocket *sioc;
    int timeout_ms;             /* atomic */
    int64_t deadline;           /* of the handshake; 0: none.  Only used by
                                 * the thread that does the handshake */
    bool down;                  /* atomic: ft_link_shutdown() was called */
    QemuMutex send_lock;        /* one frame at a time */
    Stat64 sent;
};

/*
 * Up to @len bytes, at least one.  Returns 0 at the end of the stream, or a
 * negative errno.
 */
ssize_t ft_link_read_some(FtLink *l, void *buf, size_t len, int64_t deadline);

/* Wait until there is something to read, or the end.  0, negative errno. */
int ft_link_wait_readable(FtLink *l, int64_t deadline);

/* Connect until @deadline, which then holds for the handshake, too. */
FtLink *ft_link_connect_until(const SocketAddress *addr, int64_t deadline,
                              Error **errp);

/*
 * Receive a frame of type @want.  @peer is "primary" or "backup".
 * *@silent (may be NULL): the peer left without a word.
 */
bool ft_hello_recv(FtLink *l, const char *peer, FtFrameType want,
                   GByteArray *buf, bool *silent, Error **errp);

#endif
