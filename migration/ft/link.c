/*
 * Fault tolerance: moving frames over a socket, and connecting one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * FtLink moves whole frames over a stream socket, in plain threads.  Every
 * system call is non-blocking (MSG_DONTWAIT, the socket itself may be either)
 * and waits in poll(), so that a deadline holds for a frame as a whole: a peer
 * that sends a byte a second does not hold us.  ft_link_shutdown() wakes up
 * whoever waits.  After a failed write nothing more can be written: half a
 * frame is never followed by another.
 *
 * With TLS (tls.c) one thread may read while another one writes, as without.
 *
 * Locks: send_lock is held while a frame waits to be sent; links_lock and
 * tls_lock are innermost and nothing waits under them.
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include <poll.h>
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/atomic.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "link-private.h"

/* All that there are: what ft_link_yank_all() ends. */
static QemuMutex links_lock;
static QLIST_HEAD(, FtLink) links = QLIST_HEAD_INITIALIZER(links);

static void __attribute__((constructor)) links_init(void)
{
    qemu_mutex_init(&links_lock);
}

FtLink *ft_link_new(QIOChannel *ioc)
{
    FtLink *l = g_new0(FtLink, 1);

    l->refs = 1;
    l->sioc = QIO_CHANNEL_SOCKET(ioc);
    object_ref(OBJECT(ioc));
    l->ahead = -1;
    /* No effect on a unix socket. */
    qio_channel_set_delay(ioc, false);
    qemu_mutex_init(&l->send_lock);
    qemu_mutex_init(&l->tls_lock);
    stat64_init(&l->sent, 0);
    WITH_QEMU_LOCK_GUARD(&links_lock) {
        QLIST_INSERT_HEAD(&links, l, next);
    }
    return l;
}

FtLink *ft_link_ref(FtLink *l)
{
    qatomic_inc(&l->refs);
    return l;
}

void ft_link_unref(FtLink *l)
{
    if (!l || qatomic_fetch_dec(&l->refs) != 1) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&links_lock) {
        QLIST_REMOVE(l, next);
    }
    qcrypto_tls_session_free(l->tls);
    g_free(l->record);
    object_unref(OBJECT(l->sioc));      /* closes it */
    qemu_mutex_destroy(&l->tls_lock);
    qemu_mutex_destroy(&l->send_lock);
    g_free(l);
}

void ft_link_shutdown(FtLink *l)
{
    if (!qatomic_xchg(&l->down, true)) {
        qio_channel_shutdown(QIO_CHANNEL(l->sioc), QIO_CHANNEL_SHUTDOWN_BOTH,
                             NULL);
    }
}

void ft_link_yank_all(void *opaque)
{
    FtLink *l;

    QEMU_LOCK_GUARD(&links_lock);
    QLIST_FOREACH(l, &links, next) {
        ft_link_shutdown(l);
    }
}

void ft_links_shutdown(FtLinks *ls)
{
    FtLink *all[] = { ls->data, ls->control, ls->heart };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i]) {
            ft_link_shutdown(all[i]);
        }
    }
}

void ft_links_clear(FtLinks *ls)
{
    ft_links_shutdown(ls);
    g_clear_pointer(&ls->data, ft_link_unref);
    g_clear_pointer(&ls->control, ft_link_unref);
    g_clear_pointer(&ls->heart, ft_link_unref);
}

void ft_link_set_timeout(FtLink *l, int ms)
{
    qatomic_set(&l->timeout_ms, ms);
}

void ft_link_set_user_timeout(FtLink *l, int ms)
{
    /*
     * Probes begin after a third of the time, and the rest is for three of
     * them; these clocks know whole seconds only.
     */
    struct {
        int level, name, value;
    } option[] = {
        { IPPROTO_TCP, TCP_USER_TIMEOUT, MAX(ms, 0) },
        { SOL_SOCKET, SO_KEEPALIVE, ms > 0 },
        { IPPROTO_TCP, TCP_KEEPIDLE, MAX(ms / 3000, 1) },
        { IPPROTO_TCP, TCP_KEEPINTVL, MAX(ms * 2ll / 9000, 1) },
        { IPPROTO_TCP, TCP_KEEPCNT, 3 },
    };

    if (l->sioc->remoteAddr.ss_family != AF_INET &&
        l->sioc->remoteAddr.ss_family != AF_INET6) {
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(option); i++) {
        setsockopt(l->sioc->fd, option[i].level, option[i].name,
                   &option[i].value, sizeof(option[i].value));
    }
}

uint64_t ft_link_bytes_sent(FtLink *l)
{
    return stat64_get(&l->sent);
}

int64_t ft_link_deadline(FtLink *l)
{
    int64_t deadline = l->deadline ? l->deadline : FT_LINK_FOREVER;
    int ms = qatomic_read(&l->timeout_ms);

    if (ms > 0) {
        deadline = MIN(deadline, g_get_monotonic_time() + ms * 1000ll);
    }
    return deadline;
}

void ft_link_failed(FtLink *l, Error *err, Error **errp)
{
    if (qatomic_read(&l->down)) {
        error_free(err);
        error_setg(errp, "this side has closed the connection");
    } else {
        error_propagate(errp, err);
    }
}

bool ft_link_wait(FtLink *l, short events, int64_t deadline, Error **errp)
{
    struct pollfd pfd = { .fd = l->sioc->fd, .events = events };
    Error *err = NULL;

    for (;;) {
        int ms = -1;
        int ret;

        if (deadline != FT_LINK_FOREVER) {
            int64_t left = deadline - g_get_monotonic_time();

            if (left <= 0) {
                error_setg(&err, events == POLLOUT ?
                           "timeout: the peer does not take what is sent" :
                           "timeout: the peer sends nothing, or too slowly");
                break;
            }
            ms = MIN(DIV_ROUND_UP(left, 1000), INT_MAX);
        }
        ret = poll(&pfd, 1, ms);
        if (ret > 0) {
            return true;
        }
        if (ret < 0 && errno != EINTR) {
            error_setg_errno(&err, errno, "cannot wait for the peer");
            break;
        }
    }
    ft_link_failed(l, err, errp);
    return false;
}

static ssize_t link_read_plain(FtLink *l, void *buf, size_t len, Error **errp)
{
    ssize_t n;

    do {
        n = recv(l->sioc->fd, buf, len, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return -EAGAIN;
    }
    if (n < 0) {
        error_setg_errno(errp, errno, "cannot read from the peer");
        return -EIO;
    }
    return n;
}

/* TLS has failed: because the stream ended within a record? */
static bool link_has_ended(FtLink *l)
{
    struct pollfd pfd = { .fd = l->sioc->fd, .events = POLLIN };
    uint8_t byte;

    return poll(&pfd, 1, 0) == 1 && !(pfd.revents & POLLHUP) &&
           recv(pfd.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

ssize_t ft_link_read_now(FtLink *l, void *buf, size_t len, Error **errp)
{
    ssize_t n;

    if (l->ahead >= 0) {
        *(uint8_t *)buf = l->ahead;
        l->ahead = -1;
        return 1;
    }
    n = l->tls ? ft_tls_read(l, buf, len, errp) :
                 link_read_plain(l, buf, len, errp);
    if ((n == 0 || (n == -EIO && l->tls && link_has_ended(l))) &&
        !qatomic_read(&l->down)) {
        qatomic_set(&l->closed, true);
    }
    return n;
}

bool ft_link_closed_by_peer(FtLink *l)
{
    return qatomic_read(&l->closed);
}

bool ft_link_is_dead(FtLink *l)
{
    struct pollfd pfd = { .fd = l->sioc->fd };

    /* In this order: shutting it down here has the same effect. */
    return qatomic_read(&l->dead) ||
           (poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLHUP) &&
            !qatomic_read(&l->down));
}

bool ft_link_is_down(FtLink *l)
{
    return qatomic_read(&l->down);
}

ssize_t ft_link_write_now(FtLink *l, const void *buf, size_t len,
                          Error **errp)
{
    ssize_t n;

    if (l->tls) {
        return ft_tls_write(l, buf, len, errp);
    }
    do {
        n = send(l->sioc->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return -EAGAIN;
    }
    if (n < 0) {
        error_setg_errno(errp, errno, "cannot write to the peer");
        return -EIO;
    }
    stat64_add(&l->sent, n);
    return n;
}

int ft_link_end_now(FtLink *l)
{
    int ret = l->tls ? ft_tls_bye(l) : 0;

    if (ret != -EAGAIN) {
        qio_channel_shutdown(QIO_CHANNEL(l->sioc), QIO_CHANNEL_SHUTDOWN_WRITE,
                             NULL);
    }
    return ret;
}

ssize_t ft_link_read_some(FtLink *l, void *buf, size_t len, int64_t deadline,
                          Error **errp)
{
    for (;;) {
        Error *err = NULL;
        ssize_t n = ft_link_read_now(l, buf, len, &err);

        if (n >= 0) {
            return n;
        }
        if (n != -EAGAIN) {
            ft_link_failed(l, err, errp);
            return -EIO;
        }
        if (!ft_link_wait(l, POLLIN, deadline, errp)) {
            return -EIO;
        }
    }
}

bool ft_link_wait_readable(FtLink *l, int64_t deadline, Error **errp)
{
    ssize_t n;
    uint8_t byte;

    if (!l->tls) {
        return ft_link_wait(l, POLLIN, deadline, errp);
    }
    /* What is in the socket may be TLS's own. */
    if (l->ahead < 0) {
        n = ft_link_read_some(l, &byte, 1, deadline, errp);
        if (n < 0) {
            return false;
        }
        if (n == 1) {
            l->ahead = byte;
        }
    }
    return true;
}

int ft_link_peek(FtLink *l, uint8_t *byte, Error **errp)
{
    for (;;) {
        ssize_t n = recv(l->sioc->fd, byte, 1, MSG_PEEK | MSG_DONTWAIT);
        Error *err = NULL;

        if (n >= 0) {
            return n;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!ft_link_wait(l, POLLIN, ft_link_deadline(l), errp)) {
                return -EIO;
            }
        } else if (errno != EINTR) {
            error_setg_errno(&err, errno, "cannot read from the peer");
            ft_link_failed(l, err, errp);
            return -EIO;
        }
    }
}

/* Exactly @len bytes. */
static bool link_read(FtLink *l, uint8_t *buf, size_t len, int64_t deadline,
                      Error **errp)
{
    while (len) {
        ssize_t n = ft_link_read_some(l, buf, len, deadline, errp);

        if (n < 0) {
            return false;
        }
        if (n == 0) {
            error_setg(errp, qatomic_read(&l->down) ?
                       "this side has closed the connection" :
                       "the connection ends in the middle of a frame");
            return false;
        }
        buf += n;
        len -= n;
    }
    return true;
}

static bool link_write_plain(FtLink *l, struct iovec *iov, unsigned niov,
                             int64_t deadline, Error **errp)
{
    size_t left = iov_size(iov, niov);

    while (left) {
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov };
        ssize_t n = sendmsg(l->sioc->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        Error *err = NULL;

        if (n >= 0) {
            iov_discard_front(&iov, &niov, n);
            left -= n;
            stat64_add(&l->sent, n);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!ft_link_wait(l, POLLOUT, deadline, errp)) {
                return false;
            }
        } else if (errno != EINTR) {
            error_setg_errno(&err, errno, "cannot write to the peer");
            ft_link_failed(l, err, errp);
            return false;
        }
    }
    return true;
}

/*
 * Header and payload in one record where they fit.  What is being sent is in
 * l->record, as it has to be the same when it is tried again.
 */
static bool link_write_tls(FtLink *l, const struct iovec *iov, unsigned niov,
                           int64_t deadline, Error **errp)
{
    size_t size = iov_size(iov, niov);
    size_t done = 0;

    while (done < size) {
        size_t len = iov_to_buf(iov, niov, done, l->record, FT_TLS_RECORD);
        size_t at = 0;

        while (at < len) {
            Error *err = NULL;
            ssize_t n = ft_link_write_now(l, l->record + at, len - at, &err);

            if (n >= 0) {
                at += n;
            } else if (n != -EAGAIN) {
                ft_link_failed(l, err, errp);
                return false;
            } else if (!ft_link_wait(l, POLLOUT, deadline, errp)) {
                return false;
            }
        }
        done += len;
    }
    return true;
}

static bool link_write(FtLink *l, struct iovec *iov, unsigned niov,
                       int64_t deadline, Error **errp)
{
    return l->tls ? link_write_tls(l, iov, niov, deadline, errp) :
                    link_write_plain(l, iov, niov, deadline, errp);
}

/* For tests: a fault when about half of the frame is on its way. */
static bool link_write_halves(FtLink *l, const struct iovec *iov,
                              unsigned niov, int64_t deadline, Error **errp)
{
    size_t size = iov_size(iov, niov);
    struct iovec half[2];
    unsigned n;

    assert(niov <= ARRAY_SIZE(half));
    n = iov_copy(half, ARRAY_SIZE(half), iov, niov, 0, size / 2);
    if (!link_write(l, half, n, deadline, errp)) {
        return false;
    }
    ft_inject(FT_FAULT_POINT_MID_FRAME);
    n = iov_copy(half, ARRAY_SIZE(half), iov, niov, size / 2,
                 size - size / 2);
    return link_write(l, half, n, deadline, errp);
}

bool ft_link_send(FtLink *l, FtFrameType type, uint16_t flags,
                  uint64_t epoch, const void *payload, uint32_t len,
                  Error **errp)
{
    FtFrame f = { .type = type, .flags = flags, .epoch = epoch,
                  .length = len };
    uint8_t header[FT_WIRE_HEADER];
    struct iovec iov[2] = {
        { .iov_base = header, .iov_len = sizeof(header) },
        { .iov_base = (void *)payload, .iov_len = len },
    };
    unsigned niov = len ? 2 : 1;
    bool ok;

    if (len > FT_WIRE_PAYLOAD_MAX) {
        error_setg(errp, "frame of type %s would have %" PRIu32 " bytes, "
                   "limit is %u", ft_wire_type_name(type), len,
                   FT_WIRE_PAYLOAD_MAX);
        return false;
    }
    f.payload_crc = ft_wire_crc32c(0, payload, len);
    ft_wire_put_header(header, &f);

    QEMU_LOCK_GUARD(&l->send_lock);
    if ((type == FT_FRAME_PAGES || type == FT_FRAME_DEVICES ||
         type == FT_FRAME_EPOCH_END) &&
        ft_inject_is_armed(FT_FAULT_POINT_MID_FRAME)) {
        ok = link_write_halves(l, iov, niov, ft_link_deadline(l), errp);
    } else {
        ok = link_write(l, iov, niov, ft_link_deadline(l), errp);
    }
    if (!ok) {
        qatomic_set(&l->dead, ft_link_is_dead(l));
        ft_link_shutdown(l);
    }
    return ok;
}

bool ft_link_try_send(FtLink *l, FtFrameType type, uint16_t flags,
                      uint64_t epoch, const char *text)
{
    uint8_t buf[FT_WIRE_HEADER + FT_WIRE_TEXT_MAX];
    FtFrame f = { .type = type, .flags = flags, .epoch = epoch };
    size_t size;
    ssize_t n;

    f.length = text ? MIN(strlen(text), FT_WIRE_TEXT_MAX) : 0;
    if (f.length) {
        memcpy(buf + FT_WIRE_HEADER, text, f.length);
    }
    f.payload_crc = ft_wire_crc32c(0, buf + FT_WIRE_HEADER, f.length);
    ft_wire_put_header(buf, &f);
    size = FT_WIRE_HEADER + f.length;

    if (qemu_mutex_trylock(&l->send_lock)) {
        return false;
    }
    n = ft_link_write_now(l, buf, size, NULL);
    /*
     * Part of a frame, or an error: nothing may follow.  With TLS "again" may
     * be part of one, too.
     */
    if (n != size && (n != -EAGAIN || l->tls)) {
        ft_link_shutdown(l);
    }
    qemu_mutex_unlock(&l->send_lock);
    return n == size;
}

int ft_link_recv(FtLink *l, FtFrame *f, GByteArray *buf, bool *bad,
                 Error **errp)
{
    uint8_t header[FT_WIRE_HEADER];
    int64_t deadline;
    ssize_t n;

    *bad = false;
    n = ft_link_read_some(l, header, sizeof(header), ft_link_deadline(l),
                          errp);
    if (n < 0) {
        return -1;
    }
    if (n == 0) {
        if (qatomic_read(&l->down)) {
            error_setg(errp, "this side has closed the connection");
            return -1;
        }
        return 0;
    }

    /* The time in which nothing came does not count for the rest. */
    deadline = ft_link_deadline(l);
    if (!link_read(l, header + n, sizeof(header) - n, deadline, errp)) {
        return -1;
    }
    if (!ft_wire_get_header(header, f, errp)) {
        *bad = true;
        return -1;
    }
    if (f->length > FT_WIRE_PAYLOAD_MAX) {
        error_setg(errp, "frame claims %" PRIu32 " bytes", f->length);
        *bad = true;
        return -1;
    }
    g_byte_array_set_size(buf, f->length);
    if (!link_read(l, buf->data, f->length, deadline, errp)) {
        return -1;
    }
    if (!ft_wire_check_payload(f, buf->data, errp)) {
        *bad = true;
        return -1;
    }
    return 1;
}

/*
 * The name service and connect() wait as long as they like, so a thread does
 * that, which is left alone when it is late.
 */
typedef struct Connecting {
    QemuMutex lock;
    QemuCond cond;
    int refs;
    bool done;
    SocketAddress *addr;
    FtLink *link;
    Error *err;
} Connecting;

/* Called with c->lock held, which it gives up. */
static void connecting_unref(Connecting *c)
{
    bool last = --c->refs == 0;

    qemu_mutex_unlock(&c->lock);
    if (!last) {
        return;
    }
    ft_link_unref(c->link);
    error_free(c->err);
    qapi_free_SocketAddress(c->addr);
    qemu_cond_destroy(&c->cond);
    qemu_mutex_destroy(&c->lock);
    g_free(c);
}

static FtLink *link_connect(const SocketAddress *addr, Error **errp)
{
    QIOChannelSocket *sioc = qio_channel_socket_new();
    FtLink *l = NULL;

    qio_channel_set_name(QIO_CHANNEL(sioc), "ft-link");
    if (qio_channel_socket_connect_sync(sioc, (SocketAddress *)addr,
                                        errp) == 0) {
        l = ft_link_new(QIO_CHANNEL(sioc));
    }
    object_unref(OBJECT(sioc));
    return l;
}

static void *connecting_thread(void *opaque)
{
    Connecting *c = opaque;
    Error *err = NULL;
    FtLink *link = link_connect(c->addr, &err);

    qemu_mutex_lock(&c->lock);
    c->link = link;
    c->err = err;
    c->done = true;
    qemu_cond_signal(&c->cond);
    connecting_unref(c);
    return NULL;
}

static FtLink *link_connect_until(const SocketAddress *addr, int64_t deadline,
                                  Error **errp)
{
    Connecting *c;
    QemuThread thread;
    FtLink *l = NULL;

    if (deadline == FT_LINK_FOREVER) {
        return link_connect(addr, errp);
    }

    c = g_new0(Connecting, 1);
    qemu_mutex_init(&c->lock);
    qemu_cond_init(&c->cond);
    c->refs = 2;
    c->addr = QAPI_CLONE(SocketAddress, (SocketAddress *)addr);
    qemu_thread_create(&thread, "ft-connect", connecting_thread, c,
                       QEMU_THREAD_DETACHED);

    qemu_mutex_lock(&c->lock);
    while (!c->done) {
        int64_t left = deadline - g_get_monotonic_time();

        if (left <= 0) {
            break;
        }
        qemu_cond_timedwait(&c->cond, &c->lock,
                            MIN(DIV_ROUND_UP(left, 1000), INT_MAX));
    }
    if (!c->done) {
        error_setg(errp, "timeout: cannot connect to the backup");
    } else if (c->err) {
        error_propagate(errp, g_steal_pointer(&c->err));
    } else {
        l = g_steal_pointer(&c->link);
        l->deadline = deadline;
    }
    connecting_unref(c);
    return l;
}

FtLink *ft_link_connect_until(const SocketAddress *addr, const FtTls *tls,
                              int64_t deadline, Error **errp)
{
    FtLink *l;

    if (tls && !ft_tls_check_address(tls, addr, errp)) {
        return NULL;
    }
    l = link_connect_until(addr, deadline, errp);
    if (l && tls && !ft_tls_client(l, tls, addr, errp)) {
        ft_link_shutdown(l);
        g_clear_pointer(&l, ft_link_unref);
    }
    return l;
}

char *ft_link_text(const GByteArray *buf)
{
    size_t len = MIN(buf->len, FT_WIRE_TEXT_MAX);
    char *text = g_malloc(len + 1);

    for (size_t i = 0; i < len; i++) {
        text[i] = buf->data[i];
        if (text[i] < 0x20 || text[i] > 0x7e) {
            text[i] = '?';
        }
    }
    text[len] = 0;
    return text;
}
