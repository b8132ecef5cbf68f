/*
 * Fault tolerance: what link.c, tls.c, relay.c, handshake.c, listener.c share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_LINK_PRIVATE_H
#define MIGRATION_FT_LINK_PRIVATE_H

#include "crypto/tlssession.h"
#include "io/channel-socket.h"
#include "qemu/queue.h"
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
    bool dead;                  /* atomic: what ft_link_is_dead() said before
                                 * a failure to send shut it down */
    bool closed;                /* atomic: the stream came to its end, and
                                 * ft_link_shutdown() had not been called */
    QemuMutex send_lock;        /* one frame at a time */
    Stat64 sent;                /* as they go to the socket */
    QLIST_ENTRY(FtLink) next;   /* of all links */

    /* With TLS: the session is set at the end of the handshake. */
    bool heard;                 /* the peer does not begin with a frame */
    QCryptoTLSSession *tls;
    QemuMutex tls_lock;         /* one call into it at a time; none waits */
    uint8_t *record;            /* FT_TLS_RECORD bytes; send_lock */
    int ahead;                  /* a byte that has been read before somebody
                                 * wanted it, or -1.  The reader's */
};

/* ---------------------------------------------------------------- link.c */

/* When a read or write that begins now must be over. */
int64_t ft_link_deadline(FtLink *l);

/* Something has failed because of @err (which is consumed), unless it was
 * ft_link_shutdown() that ended it. */
void ft_link_failed(FtLink *l, Error *err, Error **errp);

/*
 * Without waiting: up to @len bytes, 0 at the end of the stream, -EAGAIN
 * (without @errp), or -EIO.
 */
ssize_t ft_link_read_now(FtLink *l, void *buf, size_t len, Error **errp);
/* The same; after -EAGAIN it must be called with the same bytes again. */
ssize_t ft_link_write_now(FtLink *l, const void *buf, size_t len,
                          Error **errp);
/*
 * Nothing more will be written.  0, -EAGAIN, or -EIO.  Unlike after
 * ft_link_shutdown() the peer gets all that has been written, and it can be
 * read on.
 */
int ft_link_end_now(FtLink *l);

/* Up to @len bytes, at least one, 0 at the end of the stream, or -EIO. */
ssize_t ft_link_read_some(FtLink *l, void *buf, size_t len, int64_t deadline,
                          Error **errp);

/*
 * Has the connection ended in both directions, and not by this side: it was
 * reset, or what was sent was not acknowledged for too long?
 */
bool ft_link_is_dead(FtLink *l);

/* Wait for poll()'s @events, or for an end. */
bool ft_link_wait(FtLink *l, short events, int64_t deadline, Error **errp);

/* Wait until there is something to read, or the end. */
bool ft_link_wait_readable(FtLink *l, int64_t deadline, Error **errp);

/*
 * What the peer says first, which stays where it is: 1 with *@byte, 0 at the
 * end of the stream, -EIO.  Within the handshake's deadline; not after TLS's
 * handshake.
 */
int ft_link_peek(FtLink *l, uint8_t *byte, Error **errp);

/*
 * Connect until @deadline, which then holds for the handshake, too.  With @tls
 * its handshake has been done.
 */
FtLink *ft_link_connect_until(const SocketAddress *addr, const FtTls *tls,
                              int64_t deadline, Error **errp);

/* ----------------------------------------------------------------- tls.c */

#define FT_TLS_RECORD       16384       /* what TLS has in one at most */

/* First bytes of what comes: a frame of ours; a TLS handshake. */
#define FT_BYTE_FRAME       ((uint8_t)(FT_WIRE_MAGIC >> 24))
#define FT_BYTE_TLS         0x16

/* Is there a name at @addr that the backup's certificate could be for? */
bool ft_tls_check_address(const FtTls *tls, const SocketAddress *addr,
                          Error **errp);
/*
 * The handshake, in a plain thread without BQL, within l->deadline; also ended
 * by ft_link_shutdown().  The other side is authenticated then.
 * *@mute: it has failed so that no frame can be sent to tell the caller.
 */
bool ft_tls_client(FtLink *l, const FtTls *tls, const SocketAddress *addr,
                   Error **errp);
bool ft_tls_server(FtLink *l, const FtTls *tls, bool *mute, Error **errp);

/* As ft_link_read_now() and so on, of a link that has TLS. */
ssize_t ft_tls_read(FtLink *l, void *buf, size_t len, Error **errp);
ssize_t ft_tls_write(FtLink *l, const void *buf, size_t len, Error **errp);
int ft_tls_bye(FtLink *l);

/* ----------------------------------------------------------- handshake.c */

/*
 * Receive a frame of type @want.  @peer is "primary" or "backup".
 * *@silent (may be NULL): the peer left without a word.
 */
bool ft_hello_recv(FtLink *l, const char *peer, FtFrameType want,
                   GByteArray *buf, bool *silent, Error **errp);

#endif
