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
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/atomic.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "link-private.h"

FtLink *ft_link_new(QIOChannel *ioc)
{
    FtLink *l = g_new0(FtLink, 1);

    l->refs = 1;
    l->sioc = QIO_CHANNEL_SOCKET(ioc);
    object_ref(OBJECT(ioc));
    /* No effect on a unix socket. */
    qio_channel_set_delay(ioc, false);
    qemu_mutex_init(&l->send_lock);
    stat64_init(&l->sent, 0);
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
    object_unref(OBJECT(l->sioc));      /* closes it */
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

void ft_link_set_timeout(FtLink *l, int ms)
{
    qatomic_set(&l->timeout_ms, ms);
}

uint64_t ft_link_bytes_sent(FtLink *l)
{
    return stat64_get(&l->sent);
}

/* When a read or write that begins now must be over. */
static int64_t link_deadline(FtLink *l)
{
    int64_t deadline = l->deadline ? l->deadline : FT_LINK_FOREVER;
    int ms = qatomic_read(&l->timeout_ms);

    if (ms > 0) {
        deadline = MIN(deadline, g_get_monotonic_time() + ms * 1000ll);
    }
    return deadline;
}

/* Wait for @events on the socket.  Returns 0 or a negative errno. */
static int link_wait(FtLink *l, short events, int64_t deadline)
{
    struct pollfd pfd = { .fd = l->sioc->fd, .events = events };

    for (;;) {
        int ms = -1;
        int ret;

        if (deadline != FT_LINK_FOREVER) {
            int64_t left = deadline - g_get_monotonic_time();

            if (left <= 0) {
                return -ETIMEDOUT;
            }
            ms = MIN(DIV_ROUND_UP(left, 1000), INT_MAX);
        }
        ret = poll(&pfd, 1, ms);
        if (ret > 0) {
            return 0;
        }
        if (ret < 0 && errno != EINTR) {
            return -errno;
        }
    }
}

ssize_t ft_link_read_some(FtLink *l, void *buf, size_t len, int64_t deadline)
{
    for (;;) {
        ssize_t n = recv(l->sioc->fd, buf, len, MSG_DONTWAIT);
        int ret;

        if (n >= 0) {
            return n;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return -errno;
        }
        ret = link_wait(l, POLLIN, deadline);
        if (ret < 0) {
            return ret;
        }
    }
}

int ft_link_wait_readable(FtLink *l, int64_t deadline)
{
    return link_wait(l, POLLIN, deadline);
}

static void link_read_error(FtLink *l, int err, Error **errp)
{
    if (qatomic_read(&l->down)) {
        error_setg(errp, "this side has closed the connection");
    } else if (err == ETIMEDOUT) {
        error_setg(errp, "timeout: the peer sends nothing, or too slowly");
    } else {
        error_setg_errno(errp, err, "cannot read from the peer");
    }
}

/* Exactly @len bytes. */
static bool link_read(FtLink *l, uint8_t *buf, size_t len, int64_t deadline,
                      Error **errp)
{
    while (len) {
        ssize_t n = ft_link_read_some(l, buf, len, deadline);

        if (n < 0) {
            link_read_error(l, -n, errp);
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

static bool link_write(FtLink *l, struct iovec *iov, unsigned niov,
                       int64_t deadline, Error **errp)
{
    size_t left = iov_size(iov, niov);

    while (left) {
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = niov };
        ssize_t n = sendmsg(l->sioc->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        int err = n < 0 ? errno : 0;

        if (n >= 0) {
            iov_discard_front(&iov, &niov, n);
            left -= n;
            stat64_add(&l->sent, n);
            continue;
        }
        if (err == EINTR) {
            continue;
        }
        if (err == EAGAIN || err == EWOULDBLOCK) {
            err = -link_wait(l, POLLOUT, deadline);
            if (!err) {
                continue;
            }
        }
        if (qatomic_read(&l->down)) {
            error_setg(errp, "this side has closed the connection");
        } else if (err == ETIMEDOUT) {
            error_setg(errp, "timeout: the peer does not take what is sent");
        } else {
            error_setg_errno(errp, err, "cannot write to the peer");
        }
        return false;
    }
    return true;
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
        ok = link_write_halves(l, iov, niov, link_deadline(l), errp);
    } else {
        ok = link_write(l, iov, niov, link_deadline(l), errp);
    }
    if (!ok) {
        ft_link_shutdown(l);
    }
    return ok;
}

bool ft_link_try_send(FtLink *l, FtFrameType type, uint64_t epoch,
                      const char *text)
{
    uint8_t buf[FT_WIRE_HEADER + FT_WIRE_TEXT_MAX];
    FtFrame f = { .type = type, .epoch = epoch };
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
    do {
        n = send(l->sioc->fd, buf, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        stat64_add(&l->sent, n);
    }
    /* Part of a frame, or an error: nothing may follow. */
    if (n != size && !(n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) {
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
    n = ft_link_read_some(l, header, sizeof(header), link_deadline(l));
    if (n < 0) {
        link_read_error(l, -n, errp);
        return -1;
    }
    if (n == 0) {
        if (qatomic_read(&l->down)) {
            link_read_error(l, ESHUTDOWN, errp);
            return -1;
        }
        return 0;
    }

    /* The time in which nothing came does not count for the rest. */
    deadline = link_deadline(l);
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

static void *connecting_thread(void *opaque)
{
    Connecting *c = opaque;
    Error *err = NULL;
    FtLink *link = ft_link_connect(c->addr, &err);

    qemu_mutex_lock(&c->lock);
    c->link = link;
    c->err = err;
    c->done = true;
    qemu_cond_signal(&c->cond);
    connecting_unref(c);
    return NULL;
}

FtLink *ft_link_connect(const SocketAddress *addr, Error **errp)
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

FtLink *ft_link_connect_until(const SocketAddress *addr, int64_t deadline,
                              Error **errp)
{
    Connecting *c;
    QemuThread thread;
    FtLink *l = NULL;

    if (deadline == FT_LINK_FOREVER) {
        return ft_link_connect(addr, errp);
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
