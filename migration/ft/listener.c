/*
 * Fault tolerance: the backup's side of the handshake: the callers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * FtListener hears each caller in a thread.  What they share:
 *
 *   EMPTY -> CHECKING -> ADOPTED -> TAKEN
 *     ^ refused  |  gone,   |
 *     +----------+  late    |
 *     +---------------------+
 *
 * The data channel's thread does CHECKING (first with the BQL, then the
 * arbiter without) and waits in ADOPTED.  There the control and the heartbeat
 * channel come, each once and in a thread of its own, which leaves its link
 * behind; the second of them makes it TAKEN.  Once TAKEN, only disk
 * connections that show the session's token are let in, one for each expected
 * drive.
 *
 * Locks: BQL, then FtListener.lock; a caller's thread holds none of its own
 * when it takes the BQL.  Nobody waits for these threads: each has a reference
 * to the listener, and `closing`, which only changes with both locks held,
 * tells them that the callbacks are gone.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "crypto/random.h"
#include "io/net-listener.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/rcu.h"
#include "link-private.h"
#include "relay.h"

#define CALLERS_MAX         8
#define CALLER_DEADLINE_US  (10 * G_USEC_PER_SEC)
#define ARBITER_MS          5000
#define LINGER_US           G_USEC_PER_SEC
#define LINGER_BYTES        (4u << 20)

typedef enum PairState {
    PAIR_EMPTY,
    PAIR_CHECKING,      /* somebody's machine is being looked at */
    PAIR_ADOPTED,       /* it fits; its other connections are waited for */
    PAIR_TAKEN,         /* for good */
} PairState;

typedef struct Caller {
    FtListener *ls;
    FtLink *link;
    bool keep;          /* it belongs to a session: do not shut it down */
    bool mute;          /* there is no way to tell it anything */
    QTAILQ_ENTRY(Caller) next;
} Caller;

struct FtListener {
    int refs;
    QIONetListener *net;
    FtTls *tls;                 /* NULL: without */
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
    bool joined[FT_CHANNEL_HEART + 1];  /* [channel], has come */
    FtLinks links;              /* ADOPTED: those that have been told so;
                                 * TAKEN: on their way to pair() */

    /* Changed with the BQL, too. */
    unsigned disk_round;        /* calls of expect_disks(), 0: none yet */
    unsigned disks;             /* how many are expected */
    unsigned long *disk_seen;   /* [disks], which have come */
    FtDiskFn *disk_fn;
    void *disk_opaque;
};

/* A disk connection on its way to the main loop. */
typedef struct Disk {
    FtListener *ls;
    unsigned round;
    uint32_t drive;
    QIOChannelSocket *sioc;
} Disk;

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
    assert(QTAILQ_EMPTY(&ls->callers));
    assert(!ls->links.data && !ls->links.control && !ls->links.heart);
    ft_tls_free(ls->tls);
    g_free(ls->disk_seen);
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

/* In a time that says nothing about where they differ. */
static bool token_equal(const uint8_t *a, const uint8_t *b)
{
    uint8_t diff = 0;

    for (size_t i = 0; i < sizeof_field(FtHello, token); i++) {
        diff |= a[i] ^ b[i];
    }
    return diff == 0;
}

/* Does @hello belong to the data connection?  Called with the lock held. */
static bool listener_knows(FtListener *ls, const FtHello *hello)
{
    return (ls->state == PAIR_ADOPTED || ls->state == PAIR_TAKEN) &&
           token_equal(hello->token, ls->hello.token) &&
           !memcmp(hello->session, ls->hello.session, sizeof(hello->session));
}

/* Main loop: the session's connections are complete. */
static void listener_pair_bh(void *opaque)
{
    FtListener *ls = opaque;
    FtLinks links;
    bool closing;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        links = ls->links;
        ls->links = (FtLinks) { NULL };
        closing = ls->closing;
    }
    if (closing) {
        ft_links_clear(&links);
    } else {
        ls->pair(ls->opaque, &links, &ls->hello);
    }
    listener_unref(ls);
}

/* Main loop: a disk connection has been let in. */
static void listener_disk_bh(void *opaque)
{
    Disk *disk = opaque;
    FtListener *ls = disk->ls;
    bool wanted;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        wanted = !ls->closing && disk->round == ls->disk_round;
    }
    if (wanted) {
        ls->disk_fn(ls->disk_opaque, disk->drive, disk->sioc);
    }
    object_unref(OBJECT(disk->sioc));
    g_free(disk);
    listener_unref(ls);
}

void ft_listener_expect_disks(FtListener *ls, unsigned drives, FtDiskFn *fn,
                              void *opaque)
{
    GLOBAL_STATE_CODE();
    QEMU_LOCK_GUARD(&ls->lock);
    ls->disk_round++;
    ls->disks = drives;
    ls->disk_fn = fn;
    ls->disk_opaque = opaque;
    g_free(ls->disk_seen);
    ls->disk_seen = drives ? bitmap_new(drives) : NULL;
    qemu_cond_broadcast(&ls->cond);
}

/* Has the peer hung up?  What it may have sent stays where it is. */
static bool link_dead(FtLink *l)
{
    struct pollfd pfd = { .fd = l->sioc->fd, .events = POLLRDHUP };

    return poll(&pfd, 1, 0) > 0;
}

/* Do both sides mean the same arbiter?  Takes the reference and the proof. */
static bool caller_verify(Caller *c, FtArbiter *arbiter, char *proof,
                          Error **errp)
{
    int64_t left = c->link->deadline - g_get_monotonic_time();
    bool ok = true;

    if (!arbiter) {
        /* nothing to ask */
    } else if (left <= 0) {
        error_setg(errp, "timeout: no time is left to ask the arbiter");
        ok = false;
    } else {
        ok = ft_arbiter_verify(arbiter, proof,
                               MIN(DIV_ROUND_UP(left, 1000), ARBITER_MS),
                               errp);
    }
    if (arbiter) {
        ft_arbiter_unref(arbiter);
    }
    g_free(proof);
    return ok;
}

static bool caller_adopt(Caller *c, const FtHello *hello,
                         const GByteArray *text, Error **errp)
{
    FtListener *ls = c->ls;
    FtArbiter *arbiter = NULL;
    char *proof = NULL;
    bool closing, ok = false;

    bql_lock();
    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        closing = ls->closing;
    }
    /* It stays so while we have the BQL. */
    if (closing) {
        error_setg(errp, "this backup does not listen any more");
    } else {
        ok = ls->adopt(ls->opaque, hello, (const char *)text->data, text->len,
                       &arbiter, &proof, errp);
    }
    bql_unlock();
    if (!ok) {
        if (arbiter) {
            ft_arbiter_unref(arbiter);
        }
        g_free(proof);
        return false;
    }
    return caller_verify(c, arbiter, proof, errp);
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
        !ft_hello_recv(c->link, "primary", FT_FRAME_MACHINE, buf, NULL, errp)) {
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

    if (!caller_adopt(c, hello, buf, errp)) {
        QEMU_LOCK_GUARD(&ls->lock);
        ls->state = PAIR_EMPTY;
        return false;
    }

    /* First this, as the control connection comes right after READY. */
    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        ls->state = PAIR_ADOPTED;
        ls->hello = *hello;
        ls->data_caller = c;
        memset(ls->joined, 0, sizeof(ls->joined));
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
        if (ls->closing) {
            error_setg(errp, "this backup does not listen any more");
            break;
        }
        if (qatomic_read(&c->link->down) || link_dead(c->link)) {
            error_setg(errp, "the primary has closed the connection");
            break;
        }
        if (g_get_monotonic_time() >= c->link->deadline) {
            error_setg(errp, "timeout: the primary's %s connection has not "
                       "come", ls->links.control ? "heartbeat" : "control");
            break;
        }
        qemu_cond_timedwait(&ls->cond, &ls->lock, 50);
    }
    if (!paired) {
        ls->state = PAIR_EMPTY;
        ls->data_caller = NULL;
        ft_links_clear(&ls->links);
    }
    qemu_mutex_unlock(&ls->lock);
    return paired;
}

/* May @hello's channel be one of the session that is being opened?  Called
 * with the lock held. */
static bool listener_lacks(FtListener *ls, const FtHello *hello,
                           const char *name, Error **errp)
{
    if (listener_busy(ls, errp)) {
        return false;
    }
    if (!listener_knows(ls, hello)) {
        error_setg(errp, "there is no data connection that this %s "
                   "connection belongs to", name);
        return false;
    }
    if (hello->generation != ls->hello.generation) {
        error_setg(errp, "this %s connection is of generation %" PRIu64 ", "
                   "the data connection of %" PRIu64, name, hello->generation,
                   ls->hello.generation);
        return false;
    }
    return true;
}

/* The control or the heartbeat connection. */
static bool caller_join(Caller *c, FtHello *hello, Error **errp)
{
    FtListener *ls = c->ls;
    bool control = hello->channel == FT_CHANNEL_CONTROL;
    const char *name = control ? "control" : "heartbeat";
    FtLink **place = control ? &ls->links.control : &ls->links.heart;
    bool ok, complete = false;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (!listener_lacks(ls, hello, name, errp)) {
            return false;
        }
        if (ls->joined[hello->channel]) {
            error_setg(errp, "the data connection has its %s connection "
                       "already", name);
            return false;
        }
        ls->joined[hello->channel] = true;
    }

    ok = caller_welcome(c, hello, errp);

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        /* The data connection may have gone, and another one be there. */
        if (ok) {
            ok = listener_lacks(ls, hello, name, errp);
        } else if (listener_knows(ls, hello)) {
            ls->joined[hello->channel] = false;
        }
        if (ok) {
            c->keep = true;
            c->link->deadline = 0;
            *place = ft_link_ref(c->link);
            complete = ls->links.control && ls->links.heart;
        }
        if (complete) {
            ls->state = PAIR_TAKEN;
            ls->data_caller->keep = true;
            ls->data_caller->link->deadline = 0;
            ls->links.data = ft_link_ref(ls->data_caller->link);
            ls->data_caller = NULL;
            qemu_cond_broadcast(&ls->cond);
        }
    }
    if (complete) {
        ft_main_loop(listener_pair_bh, listener_ref(ls));
    }
    return ok;
}

/*
 * Wait until it is known which disks are expected: the primary may be faster
 * than our main loop.  Called with the lock held.
 */
static bool caller_wait_disks(Caller *c, const FtHello *hello, Error **errp)
{
    FtListener *ls = c->ls;

    for (;;) {
        if (ls->closing) {
            error_setg(errp, "this backup does not listen any more");
            return false;
        }
        if (!listener_knows(ls, hello)) {
            error_setg(errp, "there is no session that this disk connection "
                       "belongs to");
            return false;
        }
        if (ls->state == PAIR_TAKEN && ls->disk_round) {
            return true;
        }
        if (link_dead(c->link)) {
            error_setg(errp, "the primary has closed the connection");
            return false;
        }
        if (g_get_monotonic_time() >= c->link->deadline) {
            error_setg(errp, "timeout: this backup expects no disk "
                       "connection");
            return false;
        }
        qemu_cond_timedwait(&ls->cond, &ls->lock, 50);
    }
}

static bool caller_disk(Caller *c, FtHello *hello, Error **errp)
{
    FtListener *ls = c->ls;
    QIOChannelSocket *sioc = NULL;
    Disk *disk = NULL;
    unsigned round;
    bool ok;

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (!caller_wait_disks(c, hello, errp)) {
            return false;
        }
        if (hello->drive >= ls->disks) {
            error_setg(errp, "drive %" PRIu32 " is not one of the %u that "
                       "this backup lets be copied now", hello->drive,
                       ls->disks);
            return false;
        }
        if (test_and_set_bit(hello->drive, ls->disk_seen)) {
            error_setg(errp, "drive %" PRIu32 " has its connection already",
                       hello->drive);
            return false;
        }
        round = ls->disk_round;
    }

    ok = caller_welcome(c, hello, errp);

    WITH_QEMU_LOCK_GUARD(&ls->lock) {
        if (ok && (ls->closing || round != ls->disk_round)) {
            error_setg(errp, "this backup does not let drive %" PRIu32
                       " be copied any more", hello->drive);
            ok = false;
        } else if (ok) {
            sioc = ft_relay_socket(c->link, errp);
            ok = sioc != NULL;
        }
        if (ok) {
            c->keep = true;
            disk = g_new(Disk, 1);
            *disk = (Disk) {
                .ls = listener_ref(ls),
                .round = round,
                .drive = hello->drive,
                .sioc = sioc,
            };
        } else if (round == ls->disk_round) {
            clear_bit(hello->drive, ls->disk_seen);
        }
    }
    if (ok) {
        ft_main_loop(listener_disk_bh, disk);
    }
    return ok;
}

/* Do both sides speak TLS, or neither?  If so, that is done. */
static bool caller_secure(Caller *c, bool *silent, Error **errp)
{
    FtTls *tls = c->ls->tls;
    uint8_t byte;
    int ret = ft_link_peek(c->link, &byte, errp);

    if (ret < 0) {
        return false;
    }
    if (ret == 0) {
        *silent = true;
        error_setg(errp, "the primary has closed the connection");
        return false;
    }
    if (tls && byte == FT_BYTE_FRAME) {
        error_setg(errp, "this backup has tls-creds and the primary does not "
                   "speak TLS: set its migration parameter tls-creds, too");
        return false;
    }
    if (!tls && byte == FT_BYTE_TLS) {
        error_setg(errp, "the primary speaks TLS and this backup has no "
                   "tls-creds: set its migration parameter tls-creds, too");
        return false;
    }
    return !tls || ft_tls_server(c->link, tls, &c->mute, errp);
}

/* *@silent: there is nothing worth a message to anybody. */
static bool caller_hear(Caller *c, bool *silent, Error **errp)
{
    ERRP_GUARD();
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtHello hello;

    if (!caller_secure(c, silent, errp)) {
        return false;
    }
    if (!ft_hello_recv(c->link, "primary", FT_FRAME_HELLO, buf, silent,
                       errp)) {
        if (*silent && c->link->tls) {
            *silent = false;
            error_prepend(errp, "right after TLS's handshake, as if it did "
                          "not trust this backup's certificate: ");
        }
        return false;
    }
    if (!ft_wire_get_hello(buf->data, buf->len, &hello, errp)) {
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
    if (hello.channel == FT_CHANNEL_DISK) {
        return caller_disk(c, &hello, errp);
    }
    WITH_QEMU_LOCK_GUARD(&c->ls->lock) {
        if (listener_busy(c->ls, errp)) {
            return false;
        }
    }
    return hello.channel == FT_CHANNEL_DATA ? caller_data(c, &hello, errp) :
                                              caller_join(c, &hello, errp);
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
    ft_link_end_now(c->link);
    do {
        n = ft_link_read_some(c->link, waste, sizeof(waste),
                              c->link->deadline, NULL);
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
        if (err && !silent && !c->mute) {
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
        ft_link_try_send(link, FT_FRAME_ERROR, 0, 0,
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

FtListener *ft_listener_new(const SocketAddress *addr, FtTls *tls,
                            FtAdoptFn *adopt, FtPairFn *pair, void *opaque,
                            Error **errp)
{
    QIONetListener *net = qio_net_listener_new();
    FtListener *ls;

    qio_net_listener_set_name(net, "ft-listener");
    if (qio_net_listener_open_sync(net, (SocketAddress *)addr, CALLERS_MAX,
                                   errp) < 0) {
        object_unref(OBJECT(net));
        ft_tls_free(tls);
        return NULL;
    }
    for (size_t i = 0; !tls && i < net->nsioc; i++) {
        if (address_is_remote(net->sioc[i])) {
            warn_report("fault tolerance: the connection is neither "
                        "encrypted nor authenticated; who reaches this port "
                        "can read and replace the guest, so set the migration "
                        "parameter tls-creds, or let it be on a network that "
                        "is trusted");
            break;
        }
    }

    ls = g_new0(FtListener, 1);
    ls->refs = 1;
    ls->net = net;
    ls->tls = tls;
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
