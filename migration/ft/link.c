/*
 * Fault tolerance: connections between primary and backup
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
 * The handshake, each step under one deadline:
 *
 *   data      primary: HELLO               backup: WELCOME with a token
 *             primary: MACHINE             backup: READY
 *   control   primary: HELLO with it       backup: WELCOME
 *
 * An ERROR frame with a text can stand for each answer.
 *
 * FtListener hears each caller in a thread.  What they share:
 *
 *   EMPTY -> CHECKING -> ADOPTED -> PAIRING -> TAKEN
 *     ^ refused  |  gone,   | ^ its WELCOME |
 *     +----------+  late    | +---  failed -+
 *     +---------------------+
 *
 * The data channel's thread does CHECKING and waits in ADOPTED; the control
 * channel's does the rest.  Locks: BQL, then FtListener.lock; a caller's
 * thread holds none of its own when it takes the BQL.  Nobody waits for these
 * threads: each has a reference to the listener, and `closing`, which only
 * changes with both locks held, tells them that the callbacks are gone.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "crypto/random.h"
#include "io/channel-socket.h"
#include "io/net-listener.h"
#include "qemu/atomic.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/rcu.h"
#include "qemu/stats64.h"
#include "session.h"

#define CALLERS_MAX         8
#define CALLER_DEADLINE_US  (10 * G_USEC_PER_SEC)
#define LINGER_US           G_USEC_PER_SEC
#define LINGER_BYTES        (4u << 20)

#define FOREVER             INT64_MAX

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

/* ---------------------------------------------------------------- FtLink */

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
    int64_t deadline = l->deadline ? l->deadline : FOREVER;
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

        if (deadline != FOREVER) {
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

/*
 * Up to @len bytes, at least one.  Returns 0 at the end of the stream, or a
 * negative errno.
 */
static ssize_t link_read_some(FtLink *l, void *buf, size_t len,
                              int64_t deadline)
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
        ssize_t n = link_read_some(l, buf, len, deadline);

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
    n = link_read_some(l, header, sizeof(header), link_deadline(l));
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

static FtLink *link_connect_until(const SocketAddress *addr, int64_t deadline,
                                  Error **errp)
{
    Connecting *c;
    QemuThread thread;
    FtLink *l = NULL;

    if (deadline == FOREVER) {
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

/* ------------------------------------------------------------- handshake */

/* What the peer says, safe to print. */
static char *peer_text(const GByteArray *buf)
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

/*
 * Receive a frame of type @want.  @peer is "primary" or "backup".
 * *@silent (may be NULL): the peer left without a word.
 */
static bool hello_recv(FtLink *l, const char *peer, FtFrameType want,
                       GByteArray *buf, bool *silent, Error **errp)
{
    ERRP_GUARD();
    FtFrame f;
    bool bad;
    int ret = ft_link_recv(l, &f, buf, &bad, errp);

    if (silent) {
        *silent = ret == 0;
    }
    if (ret < 0) {
        error_prepend(errp, "handshake with the %s failed: ", peer);
        return false;
    }
    if (ret == 0) {
        error_setg(errp, "handshake failed: the %s has closed the connection",
                   peer);
        return false;
    }
    if (f.type == FT_FRAME_ERROR) {
        g_autofree char *text = peer_text(buf);

        error_setg(errp, "the %s refused: %s", peer, text);
        return false;
    }
    if (f.type != want) {
        error_setg(errp, "handshake failed: the %s sent %s instead of %s",
                   peer, ft_wire_type_name(f.type), ft_wire_type_name(want));
        return false;
    }
    return true;
}

/* The primary's side: if writing fails, the reason may be there to be read. */
static bool hello_send(FtLink *l, FtFrameType type, const void *payload,
                       size_t len, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Error *err = NULL;
    FtFrame f;
    bool bad;

    if (ft_link_send(l, type, 0, 0, payload, len, &err)) {
        return true;
    }
    if (ft_link_recv(l, &f, buf, &bad, NULL) == 1 &&
        f.type == FT_FRAME_ERROR) {
        g_autofree char *text = peer_text(buf);

        error_setg(errp, "the backup refused: %s", text);
        error_free(err);
    } else {
        error_propagate_prepend(errp, err,
                                "handshake with the backup failed: ");
    }
    return false;
}

/* The primary's HELLO and the backup's answer to it, which goes to @welcome */
static bool hello_exchange(FtLink *l, const FtHello *hello, FtHello *welcome,
                           Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    uint8_t out[FT_HELLO_SIZE];

    ft_wire_put_hello(out, hello);
    if (!hello_send(l, FT_FRAME_HELLO, out, sizeof(out), errp) ||
        !hello_recv(l, "backup", FT_FRAME_WELCOME, buf, NULL, errp) ||
        !ft_wire_get_hello(buf->data, buf->len, welcome, errp)) {
        return false;
    }
    if (memcmp(welcome->session, hello->session, sizeof(hello->session))) {
        error_setg(errp, "the backup answers for another session");
        return false;
    }
    if (welcome->channel != hello->channel) {
        error_setg(errp, "the backup answers for channel %d instead of %d",
                   welcome->channel, hello->channel);
        return false;
    }
    if (welcome->features & ~hello->features) {
        error_setg(errp, "the backup wants features 0x%" PRIx64 ", of which "
                   "0x%" PRIx64 " were not offered", welcome->features,
                   welcome->features & ~hello->features);
        return false;
    }
    if (welcome->page_size != FT_PAGE_SIZE) {
        error_setg(errp, "the backup has pages of %" PRIu32 " bytes, this "
                   "side of %u", welcome->page_size, FT_PAGE_SIZE);
        return false;
    }
    return true;
}

bool ft_link_open_pair(const SocketAddress *addr, const QemuUUID *session,
                       uint64_t features, const char *fingerprint,
                       int timeout_ms, FtLink **data, FtLink **control,
                       Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    size_t len = strlen(fingerprint);
    int64_t deadline = FOREVER;
    FtHello hello = {
        .channel = FT_CHANNEL_DATA,
        .features = features,
        .page_size = FT_PAGE_SIZE,
    };
    FtHello welcome, second;
    FtLink *d = NULL, *c = NULL;

    QEMU_BUILD_BUG_ON(sizeof(hello.session) != sizeof(session->data));
    memcpy(hello.session, session->data, sizeof(hello.session));
    if (timeout_ms > 0) {
        deadline = g_get_monotonic_time() + timeout_ms * 1000ll;
    }
    if (len > FT_WIRE_PAYLOAD_MAX) {
        error_setg(errp, "the machine has too many devices: their "
                   "description has %zu bytes, limit is %u", len,
                   FT_WIRE_PAYLOAD_MAX);
        return false;
    }

    d = link_connect_until(addr, deadline, errp);
    if (!d ||
        !hello_exchange(d, &hello, &welcome, errp) ||
        !hello_send(d, FT_FRAME_MACHINE, fingerprint, len, errp) ||
        !hello_recv(d, "backup", FT_FRAME_READY, buf, NULL, errp)) {
        goto fail;
    }

    hello.channel = FT_CHANNEL_CONTROL;
    memcpy(hello.token, welcome.token, sizeof(hello.token));
    c = link_connect_until(addr, deadline, errp);
    if (!c || !hello_exchange(c, &hello, &second, errp)) {
        goto fail;
    }

    d->deadline = 0;
    c->deadline = 0;
    *data = d;
    *control = c;
    return true;

fail:
    if (d) {
        ft_link_shutdown(d);
    }
    if (c) {
        ft_link_shutdown(c);
    }
    ft_link_unref(d);
    ft_link_unref(c);
    return false;
}

/* ------------------------------------------------------------ FtListener */

typedef enum PairState {
    PAIR_EMPTY,
    PAIR_CHECKING,      /* somebody's machine is being looked at */
    PAIR_ADOPTED,       /* it fits; its control connection is waited for */
    PAIR_PAIRING,       /* that has come and is being told so */
    PAIR_TAKEN,         /* for good */
} PairState;

typedef struct Caller {
    FtListener *ls;
    FtLink *link;
    bool keep;          /* it belongs to a pair: do not shut it down */
    QTAILQ_ENTRY(Caller) next;
} Caller;

struct FtListener {
    int refs;
    QIONetListener *net;
    /* not to be called once `closing` */
    FtAdoptFn *adopt;
    FtPairFn *pair;
    void *opaque;

    QemuMutex lock;             /* for what follows */
    QemuCond cond;              /* of state and closing */
    bool closing;               /* written with the BQL, too */
    QTAILQ_HEAD(, Caller) callers;
    unsigned ncallers;
    int64_t warned;             /* when a caller was last complained about */

    PairState state;
    Caller *data_caller;        /* whose thread waits, until TAKEN */
    FtHello hello;              /* of its data connection, with the token */
    FtLink *data;               /* TAKEN: on their way to pair() */
    FtLink *control;
};

static FtListener *listener_ref(FtListener *ls)
{
    qatomic_inc(&ls->refs);
    return ls;
}

static void listener_unref(FtListener *ls)
{
    if (qatomic_fetch_dec(&ls->refs) != 1) {
        return;
    }
    assert(QTAILQ_EMPTY(&ls->callers) && !ls->data && !ls->control);
    qemu_cond_destroy(&ls->cond);
    qemu_mutex_destroy(&ls->lock);
    g_free(ls);
}

/* Is there a reason not to hear anybody now?  Called with the lock held. */
static bool listener_busy(FtListener *ls, Error **errp)
{
    if (ls->closing) {
        error_setg(errp, "this backup does not listen any more");
        return true;
    }
    if (ls->state == PAIR_TAKEN) {
        error_setg(errp, "this backup serves a session already");
        return true;
    }
    return false;
}

/* Main loop: the pair is complete. */
static void listener_pair_bh(void *opaque)
{
    FtListener *ls = opaque;
    FtLink *data, *control;
    bool closing;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        data = g_steal_pointer(&ls->data);
        control = g_steal_pointer(&ls->control);
        closing = ls->closing;
    }
    if (closing) {
        ft_link_shutdown(data);
        ft_link_shutdown(control);
        ft_link_unref(data);
        ft_link_unref(control);
    } else {
        ls->pair(ls->opaque, data, control, &ls->hello);
    }
    listener_unref(ls);
}

/* Has the peer hung up?  What it may have sent stays where it is. */
static bool link_dead(FtLink *l)
{
    char c;
    ssize_t n = recv(l->sioc->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK &&
                      errno != EINTR);
}

static bool caller_adopt(FtListener *ls, const GByteArray *text, Error **errp)
{
    bool closing, ok = false;

    bql_lock();
    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        closing = ls->closing;
    }
    /* It stays so while we have the BQL. */
    if (closing) {
        error_setg(errp, "this backup does not listen any more");
    } else {
        ok = ls->adopt(ls->opaque, (const char *)text->data, text->len, errp);
    }
    bql_unlock();
    return ok;
}

static bool caller_welcome(Caller *c, const FtHello *hello, Error **errp)
{
    uint8_t out[FT_HELLO_SIZE];

    ft_wire_put_hello(out, hello);
    return ft_link_send(c->link, FT_FRAME_WELCOME, 0, 0, out, sizeof(out),
                        errp);
}

static bool caller_data(Caller *c, FtHello *hello, Error **errp)
{
    FtListener *ls = c->ls;
    g_autoptr(GByteArray) buf = g_byte_array_new();
    bool paired = false;

    if (qcrypto_random_bytes(hello->token, sizeof(hello->token), errp) < 0 ||
        !caller_welcome(c, hello, errp) ||
        !hello_recv(c->link, "primary", FT_FRAME_MACHINE, buf, NULL, errp)) {
        return false;
    }

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (listener_busy(ls, errp)) {
            return false;
        }
        if (ls->state != PAIR_EMPTY) {
            error_setg(errp, "this backup is talking to another primary");
            return false;
        }
        ls->state = PAIR_CHECKING;
    }

    if (!caller_adopt(ls, buf, errp)) {
        QEMU_LOCK_GUARD(&ls->lock);
        ls->state = PAIR_EMPTY;
        return false;
    }

    /* First this, as the control connection comes right after READY. */
    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        ls->state = PAIR_ADOPTED;
        ls->hello = *hello;
        ls->data_caller = c;
    }
    if (!ft_link_send(c->link, FT_FRAME_READY, 0, 0, NULL, 0, errp)) {
        /* It is down: found out below. */
        errp = NULL;
    }

    qemu_mutex_lock(&ls->lock);
    for (;;) {
        if (ls->state == PAIR_TAKEN) {
            paired = true;
            break;
        }
        /* While PAIRING, the other thread decides, within its deadline. */
        if (ls->state == PAIR_ADOPTED) {
            if (ls->closing) {
                error_setg(errp, "this backup does not listen any more");
                break;
            }
            if (qatomic_read(&c->link->down) || link_dead(c->link)) {
                error_setg(errp, "the primary has closed the connection");
                break;
            }
            if (g_get_monotonic_time() >= c->link->deadline) {
                error_setg(errp, "timeout: the primary's control connection "
                           "has not come");
                break;
            }
        }
        qemu_cond_timedwait(&ls->cond, &ls->lock, 50);
    }
    if (!paired) {
        ls->state = PAIR_EMPTY;
        ls->data_caller = NULL;
    }
    qemu_mutex_unlock(&ls->lock);
    return paired;
}

static bool caller_control(Caller *c, FtHello *hello, Error **errp)
{
    FtListener *ls = c->ls;
    bool ok;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (listener_busy(ls, errp)) {
            return false;
        }
        if (ls->state != PAIR_ADOPTED ||
            memcmp(hello->session, ls->hello.session,
                   sizeof(hello->session)) ||
            memcmp(hello->token, ls->hello.token, sizeof(hello->token))) {
            error_setg(errp, "there is no data connection that this control "
                       "connection belongs to");
            return false;
        }
        ls->state = PAIR_PAIRING;
    }

    ok = caller_welcome(c, hello, errp);

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (ok && ls->closing) {
            error_setg(errp, "this backup does not listen any more");
            ok = false;
        }
        if (ok) {
            ls->state = PAIR_TAKEN;
            ls->data_caller->keep = true;
            ls->data = ft_link_ref(ls->data_caller->link);
            ls->data_caller = NULL;
            ls->data->deadline = 0;
            c->keep = true;
            ls->control = ft_link_ref(c->link);
            ls->control->deadline = 0;
        } else {
            ls->state = PAIR_ADOPTED;
        }
        qemu_cond_broadcast(&ls->cond);
    }
    if (ok) {
        ft_main_loop(listener_pair_bh, listener_ref(ls));
    }
    return ok;
}

/* *@silent: there is nothing worth a message to anybody. */
static bool caller_hear(Caller *c, bool *silent, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtHello hello;

    if (!hello_recv(c->link, "primary", FT_FRAME_HELLO, buf, silent, errp) ||
        !ft_wire_get_hello(buf->data, buf->len, &hello, errp)) {
        return false;
    }
    if (hello.page_size != FT_PAGE_SIZE) {
        error_setg(errp, "the primary has pages of %" PRIu32 " bytes, this "
                   "backup of %u", hello.page_size, FT_PAGE_SIZE);
        return false;
    }
    if (hello.features & ~FT_FEATURES) {
        error_setg(errp, "the primary wants features 0x%" PRIx64 " that this "
                   "backup does not know",
                   (uint64_t)(hello.features & ~FT_FEATURES));
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&c->ls->lock) {
        if (listener_busy(c->ls, errp)) {
            return false;
        }
    }
    return hello.channel == FT_CHANNEL_DATA ? caller_data(c, &hello, errp) :
                                              caller_control(c, &hello, errp);
}

/*
 * Tell the caller why.  What it still sends is read for a while: closing a
 * TCP socket with unread data would take our text with it.
 */
static void caller_refuse(Caller *c, const Error *err)
{
    const char *text = error_get_pretty(err);
    uint8_t waste[4096];
    size_t total = 0;
    ssize_t n;

    c->link->deadline = g_get_monotonic_time() + LINGER_US;
    if (!ft_link_send(c->link, FT_FRAME_ERROR, 0, 0, text,
                      MIN(strlen(text), FT_WIRE_TEXT_MAX), NULL)) {
        return;
    }
    qio_channel_shutdown(QIO_CHANNEL(c->link->sioc),
                         QIO_CHANNEL_SHUTDOWN_WRITE, NULL);
    do {
        n = link_read_some(c->link, waste, sizeof(waste), c->link->deadline);
        total += MAX(n, 0);
    } while (n > 0 && total < LINGER_BYTES &&
             g_get_monotonic_time() < c->link->deadline);
}

static void *caller_thread(void *opaque)
{
    Caller *c = opaque;
    FtListener *ls = c->ls;
    Error *err = NULL;
    bool silent = false;

    rcu_register_thread();
    if (!caller_hear(c, &silent, &err)) {
        bool warn;

        WITH_QEMU_LOCK_GUARD(&ls->lock) {
            int64_t now = g_get_monotonic_time();

            /* Whoever can connect must not be able to fill the log. */
            warn = !silent && !ls->closing &&
                   (!ls->warned || now - ls->warned >= G_USEC_PER_SEC);
            if (warn) {
                ls->warned = now;
            }
        }
        if (err && warn) {
            warn_report("fault tolerance: a caller was turned away: %s",
                        error_get_pretty(err));
        }
        if (err && !silent) {
            caller_refuse(c, err);
        }
        error_free(err);
        ft_link_shutdown(c->link);
    }

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        QTAILQ_REMOVE(&ls->callers, c, next);
        ls->ncallers--;
    }
    ft_link_unref(c->link);
    g_free(c);
    listener_unref(ls);
    rcu_unregister_thread();
    return NULL;
}

/* Main loop: somebody has connected. */
static void listener_accept(QIONetListener *net, QIOChannelSocket *sioc,
                            gpointer opaque)
{
    FtListener *ls = opaque;
    FtLink *link = ft_link_new(QIO_CHANNEL(sioc));
    QemuThread thread;
    Caller *c = NULL;

    qio_channel_set_name(QIO_CHANNEL(sioc), "ft-caller");
    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (ls->ncallers < CALLERS_MAX) {
            c = g_new0(Caller, 1);
            c->ls = listener_ref(ls);
            c->link = link;
            link->deadline = g_get_monotonic_time() + CALLER_DEADLINE_US;
            QTAILQ_INSERT_TAIL(&ls->callers, c, next);
            ls->ncallers++;
        }
    }
    if (!c) {
        ft_link_try_send(link, FT_FRAME_ERROR, 0,
                         "too many callers at once, try again");
        ft_link_shutdown(link);
        ft_link_unref(link);
        return;
    }
    qemu_thread_create(&thread, "ft-caller", caller_thread, c,
                       QEMU_THREAD_DETACHED);
}

/* May others than this host's processes call? */
static bool address_is_remote(const QIOChannelSocket *sioc)
{
    const struct sockaddr *sa = (const void *)&sioc->localAddr;

    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)sa;

        return ntohl(in->sin_addr.s_addr) >> 24 != 127;
    }
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)sa;

        return !IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    }
    return false;
}

FtListener *ft_listener_new(const SocketAddress *addr, FtAdoptFn *adopt,
                            FtPairFn *pair, void *opaque, Error **errp)
{
    QIONetListener *net = qio_net_listener_new();
    FtListener *ls;

    qio_net_listener_set_name(net, "ft-listener");
    if (qio_net_listener_open_sync(net, (SocketAddress *)addr, CALLERS_MAX,
                                   errp) < 0) {
        object_unref(OBJECT(net));
        return NULL;
    }
    for (size_t i = 0; i < net->nsioc; i++) {
        if (address_is_remote(net->sioc[i])) {
            warn_report("fault tolerance: the connection is neither "
                        "encrypted nor authenticated; who reaches this port "
                        "can read and replace the guest, so let it be on a "
                        "network that is trusted");
            break;
        }
    }

    ls = g_new0(FtListener, 1);
    ls->refs = 1;
    ls->net = net;
    ls->adopt = adopt;
    ls->pair = pair;
    ls->opaque = opaque;
    qemu_mutex_init(&ls->lock);
    qemu_cond_init(&ls->cond);
    QTAILQ_INIT(&ls->callers);
    qio_net_listener_set_client_func(net, listener_accept, ls, NULL);
    return ls;
}

void ft_listener_free(FtListener *ls)
{
    Caller *c;

    if (!ls) {
        return;
    }
    qio_net_listener_set_client_func(ls->net, NULL, NULL, NULL);
    qio_net_listener_disconnect(ls->net);
    object_unref(OBJECT(ls->net));
    ls->net = NULL;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        ls->closing = true;
        QTAILQ_FOREACH(c, &ls->callers, next) {
            if (!c->keep) {
                ft_link_shutdown(c->link);
            }
        }
        qemu_cond_broadcast(&ls->cond);
    }
    listener_unref(ls);
}
