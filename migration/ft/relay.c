/*
 * Fault tolerance: a TLS connection for code that wants a socket
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One thread carries both directions; nothing that it calls blocks but poll().
 * Each direction has a buffer that is filled when it is empty: whoever does
 * not read stops the one who writes to him, and nobody else.
 *
 *   out:  local --read--> buffer --write--> link      to the other host
 *   in:   link  --read--> buffer --write--> local     from there
 *
 * A direction is over when its end has come and has been passed on, or when
 * nobody takes what comes.  poll() reports a hang-up again and again; so an
 * end that has hung up is only asked for what can still happen there.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/sockets.h"
#include "link-private.h"
#include "relay.h"

#define RELAY_BUFFER    65536

typedef struct Direction {
    uint8_t *buf;
    size_t at, len;             /* what is in it */
    bool end;                   /* nothing more is to be read */
    bool over;                  /* and that has been passed on */
} Direction;

typedef struct Relay {
    FtLink *link;
    int fd;                     /* the local end */
    Direction out, in;
    bool link_gone;             /* hung up: nobody takes what goes out */
    bool local_gone;            /* closed; what comes in is thrown away */
    int64_t deadline;           /* local_gone: for the peer to take the rest */
} Relay;

static void relay_linger(Relay *r)
{
    r->deadline = g_get_monotonic_time() + FT_RELAY_LINGER_MS * 1000ll;
}

static void relay_local_gone(Relay *r)
{
    if (!r->local_gone) {
        r->local_gone = true;
        r->in.len = 0;
        relay_linger(r);
    }
}

/* Whatever it was: what has come from the other host is passed on still. */
static void relay_out_failed(Relay *r)
{
    r->out.len = 0;
    r->out.end = r->out.over = true;
    shutdown(r->fd, SHUT_RD);
}

/* One step.  Returns false when it would have to wait, or is over. */
static bool relay_out(Relay *r)
{
    Direction *d = &r->out;
    ssize_t n;

    if (d->over) {
        return false;
    }
    if (d->len) {
        n = ft_link_write_now(r->link, d->buf + d->at, d->len, NULL);
        if (n == -EAGAIN) {
            return false;
        }
        if (n < 0) {
            relay_out_failed(r);
            return true;
        }
        d->at += n;
        d->len -= n;
        if (r->local_gone) {
            relay_linger(r);
        }
        return true;
    }
    if (d->end) {
        d->over = ft_link_end_now(r->link) != -EAGAIN;
        return d->over;
    }
    n = recv(r->fd, d->buf, RELAY_BUFFER, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return false;
    }
    if (n > 0) {
        d->at = 0;
        d->len = n;
    } else if (n == 0 || errno != EINTR) {
        d->end = true;
    }
    return true;
}

static bool relay_in(Relay *r)
{
    Direction *d = &r->in;
    ssize_t n;

    if (d->over) {
        return false;
    }
    if (d->len) {
        n = send(r->fd, d->buf + d->at, d->len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            d->at += n;
            d->len -= n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return false;
        } else if (errno != EINTR) {
            relay_local_gone(r);
        }
        return true;
    }
    n = ft_link_read_now(r->link, d->buf, RELAY_BUFFER, NULL);
    if (n == -EAGAIN) {
        return false;
    }
    if (n <= 0) {
        d->end = d->over = true;
        shutdown(r->fd, SHUT_WR);
    } else if (!r->local_gone) {
        d->at = 0;
        d->len = n;
    }
    return true;
}

/* Wait at most @ms. */
static void relay_wait(Relay *r, int ms)
{
    struct pollfd fds[2] = {
        { .fd = r->fd },
        { .fd = r->link->sioc->fd },
    };

    if (!r->out.over) {
        if (!r->out.len && !r->out.end) {
            fds[0].events |= POLLIN;
        } else {
            fds[1].events |= POLLOUT;
        }
    }
    if (!r->in.over) {
        if (r->in.len) {
            fds[0].events |= POLLOUT;
        } else {
            fds[1].events |= POLLIN;
        }
    }
    if (r->local_gone && !fds[0].events) {
        fds[0].fd = -1;
    }
    if (r->link_gone && !fds[1].events) {
        fds[1].fd = -1;
    }

    if (poll(fds, 2, ms) <= 0) {
        return;
    }
    if (fds[0].revents & (POLLHUP | POLLERR)) {
        relay_local_gone(r);
    }
    if (!r->link_gone && fds[1].revents & (POLLHUP | POLLERR)) {
        r->link_gone = true;
        relay_out_failed(r);
    }
}

static void *relay_thread(void *opaque)
{
    Relay *r = opaque;

    while (!(r->out.over && r->in.over) && !qatomic_read(&r->link->down)) {
        /* By turns: none shall keep the other one waiting. */
        bool out = relay_out(r);
        bool in = relay_in(r);
        int64_t left = INT64_MAX;

        if (r->local_gone) {
            left = r->deadline - g_get_monotonic_time();
            if (left <= 0) {
                break;
            }
        }
        if (!out && !in && !(r->out.over && r->in.over)) {
            relay_wait(r, r->local_gone ? DIV_ROUND_UP(left, 1000) : -1);
        }
    }

    close(r->fd);
    ft_link_shutdown(r->link);
    ft_link_unref(r->link);
    g_free(r->out.buf);
    g_free(r->in.buf);
    g_free(r);
    return NULL;
}

QIOChannelSocket *ft_relay_socket(FtLink *l, Error **errp)
{
    QIOChannelSocket *sioc;
    QemuThread thread;
    Relay *r;
    int fds[2];

    if (!l->tls) {
        object_ref(OBJECT(l->sioc));
        return l->sioc;
    }
    if (qemu_socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0) {
        error_setg_errno(errp, errno, "cannot make a pair of sockets");
        return NULL;
    }
    sioc = qio_channel_socket_new_fd(fds[0], errp);
    if (!sioc) {
        close(fds[0]);
        close(fds[1]);
        return NULL;
    }

    r = g_new0(Relay, 1);
    r->link = ft_link_ref(l);
    r->fd = fds[1];
    r->out.buf = g_malloc(RELAY_BUFFER);
    r->in.buf = g_malloc(RELAY_BUFFER);
    qemu_thread_create(&thread, "ft-relay", relay_thread, r,
                       QEMU_THREAD_DETACHED);
    return sioc;
}
