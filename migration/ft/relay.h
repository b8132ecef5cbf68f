/*
 * Fault tolerance: a TLS connection for code that wants a socket
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * NBD gets the session's disk connections after the handshake and wants a
 * QIOChannelSocket.  With TLS that is one end of a socket pair, and a thread
 * carries the bytes:
 *
 *   NBD <--> socket pair <--> thread <--> FtLink (TLS) <--> the other host
 */

#ifndef MIGRATION_FT_RELAY_H
#define MIGRATION_FT_RELAY_H

#include "io/channel-socket.h"
#include "session.h"

/*
 * ft_relay_socket: what the peer of @l says from here on, and what it is told.
 * Without TLS that is the socket of @l.  With TLS a thread is started, which
 * has a reference to @l and ends when both ends are closed, when this one has
 * been closed for FT_RELAY_LINGER_MS without the peer taking the rest, or
 * after ft_link_shutdown().  An end that is only closed for writing is passed
 * on as that.  The caller gets a reference, and must not read or write @l any
 * more.  Any thread.
 */
#define FT_RELAY_LINGER_MS  5000
QIOChannelSocket *ft_relay_socket(FtLink *l, Error **errp);

#endif
