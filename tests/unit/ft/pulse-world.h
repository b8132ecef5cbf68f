/*
 * Unit tests: a pulse, and a peer that is the test itself, byte by byte
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_FT_PULSE_WORLD_H
#define TESTS_UNIT_FT_PULSE_WORLD_H

#include <poll.h>
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/lockable.h"
#include "migration/ft/link-private.h"
#include "migration/ft/pulse.h"

#define WAIT_US         (30 * G_USEC_PER_SEC)
#define MS              1000ll
#define FRAME_SIZE      (FT_WIRE_HEADER + FT_HEARTBEAT_SIZE)

#define QUICK_BEAT_MS   40
#define QUICK_MS        1000
#define QUICK_US        (QUICK_MS * MS)

/* No TLS here. */
ssize_t ft_tls_read(FtLink *l, void *buf, size_t len, Error **errp)
{
    g_assert_not_reached();
}

ssize_t ft_tls_write(FtLink *l, const void *buf, size_t len, Error **errp)
{
    g_assert_not_reached();
}

int ft_tls_bye(FtLink *l)
{
    g_assert_not_reached();
}

bool ft_tls_client(FtLink *l, const FtTls *tls, const SocketAddress *addr,
                   Error **errp)
{
    g_assert_not_reached();
}

bool ft_tls_check_address(const FtTls *tls, const SocketAddress *addr,
                          Error **errp)
{
    g_assert_not_reached();
}

/* ----------------------------------------------------- what is called back */

typedef struct Watch {
    QemuMutex lock;
    QemuCond cond;
    int silent, lost, renewed;
    char *reason;
    int64_t at;
} Watch;

static void watch_end(Watch *w, int *what, const char *reason)
{
    QEMU_LOCK_GUARD(&w->lock);
    /* Either of them, once. */
    g_assert_cmpint(w->silent + w->lost, ==, 0);
    w->at = g_get_monotonic_time();
    w->reason = g_strdup(reason);
    (*what)++;
    qemu_cond_signal(&w->cond);
}

static void on_silent(void *opaque, const char *reason)
{
    Watch *w = opaque;

    watch_end(w, &w->silent, reason);
}

static void on_lost(void *opaque, const char *reason)
{
    Watch *w = opaque;

    watch_end(w, &w->lost, reason);
}

static void on_renewed(void *opaque)
{
    Watch *w = opaque;

    QEMU_LOCK_GUARD(&w->lock);
    g_assert_cmpint(w->silent + w->lost, ==, 0);
    w->renewed++;
    qemu_cond_signal(&w->cond);
}

static const FtPulseOps ops = {
    .silent = on_silent, .lost = on_lost, .renewed = on_renewed,
};

static void watch_wait(Watch *w, int *what, int count)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;

    QEMU_LOCK_GUARD(&w->lock);
    while (*what < count) {
        int64_t left = end - g_get_monotonic_time();

        if (left <= 0 || (what == &w->silent && w->lost) ||
            (what == &w->lost && w->silent)) {
            g_error("not called (%d times of %d): %s", *what, count,
                    w->reason ?: "-");
        }
        qemu_cond_timedwait(&w->cond, &w->lock, DIV_ROUND_UP(left, 1000));
    }
    g_assert_cmpint(*what, ==, count);
}

static int watch_get(Watch *w, const int *what)
{
    QEMU_LOCK_GUARD(&w->lock);
    return *what;
}

static void watch_reason(Watch *w, const char *word)
{
    if (!strstr(w->reason, word)) {
        g_error("no '%s' in: %s", word, w->reason);
    }
}

/* ------------------------------------------------- a pulse, and its peer */

typedef struct World {
    Watch watch;
    FtLink *link;
    FtPulse *pulse;
    int64_t begun;
    int fd;                     /* the peer's end */
    uint64_t number;            /* the last one of the peer's */
    FtHeartbeat heard;          /* the last one that it heard */
} World;

static FtLink *link_of(int fd)
{
    QIOChannelSocket *sioc = qio_channel_socket_new_fd(fd, &error_abort);
    FtLink *l = ft_link_new(QIO_CHANNEL(sioc));

    object_unref(OBJECT(sioc));
    return l;
}

static void watch_begin(Watch *w)
{
    qemu_mutex_init(&w->lock);
    qemu_cond_init(&w->cond);
}

static void watch_clear(Watch *w)
{
    qemu_mutex_destroy(&w->lock);
    qemu_cond_destroy(&w->cond);
    g_free(w->reason);
}

static void world_begin_on(World *w, int fd, int interval_ms, int timeout_ms,
                           int stuck_ms)
{
    FtHeartParams params = {
        .interval_us = interval_ms * MS, .timeout_us = timeout_ms * MS,
    };

    watch_begin(&w->watch);
    w->link = link_of(fd);
    w->begun = g_get_monotonic_time();
    w->pulse = ft_pulse_new(w->link, &params, stuck_ms * MS, &ops, &w->watch);
}

static void world_begin(World *w, int interval_ms, int timeout_ms,
                        int stuck_ms)
{
    int fds[2];

    memset(w, 0, sizeof(*w));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    w->fd = fds[1];
    world_begin_on(w, fds[0], interval_ms, timeout_ms, stuck_ms);
}

/* Whatever is not at once comes never, as far as a test can wait. */
static void begin_slow(World *w)
{
    world_begin(w, 300, 75000, 0);
}

/* Its timeout can be waited for. */
static void begin_quick(World *w)
{
    world_begin(w, QUICK_BEAT_MS, QUICK_MS, 0);
}

/* Nothing else may have been called than what the test says. */
static void world_end(World *w, int silent, int lost)
{
    ft_pulse_free(w->pulse);
    g_assert_cmpint(qatomic_read(&w->link->refs), ==, 1);
    g_assert_cmpint(w->watch.silent, ==, silent);
    g_assert_cmpint(w->watch.lost, ==, lost);
    ft_link_unref(w->link);
    watch_clear(&w->watch);
    if (w->fd >= 0) {
        close(w->fd);
    }
}

static void peer_write(World *w, const void *buf, size_t len)
{
    g_assert_cmpint(send(w->fd, buf, len, MSG_NOSIGNAL), ==, len);
}

static void make_frame(uint8_t *buf, FtFrameType type, const void *payload,
                       uint32_t len)
{
    FtFrame f = {
        .type = type, .length = len,
        .payload_crc = ft_wire_crc32c(0, payload, len),
    };

    ft_wire_put_header(buf, &f);
    memcpy(buf + FT_WIRE_HEADER, payload, len);
}

static void make_beat(uint8_t *buf, uint64_t number, uint64_t echo)
{
    FtHeartbeat hb = { .number = number, .echo = echo };
    uint8_t payload[FT_HEARTBEAT_SIZE];

    ft_wire_put_heartbeat(payload, &hb);
    make_frame(buf, FT_FRAME_HEARTBEAT, payload, sizeof(payload));
}

static void peer_beat(World *w, uint64_t echo)
{
    uint8_t buf[FRAME_SIZE];

    make_beat(buf, ++w->number, echo);
    peer_write(w, buf, sizeof(buf));
}

static bool peer_readable(World *w, int ms)
{
    struct pollfd pfd = { .fd = w->fd, .events = POLLIN };
    int ret = poll(&pfd, 1, ms);

    g_assert_cmpint(ret, >=, 0);
    return ret > 0;
}

/* The next one that the pulse sends.  False: the connection has ended. */
static bool peer_hear(World *w)
{
    uint8_t buf[FRAME_SIZE];
    uint64_t number = w->heard.number;
    size_t have = 0;
    FtFrame f;

    while (have < sizeof(buf)) {
        ssize_t n;

        g_assert_true(peer_readable(w, WAIT_US / 1000));
        n = read(w->fd, buf + have, sizeof(buf) - have);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            g_assert_cmpuint(have, ==, 0);
            return false;
        }
        g_assert_cmpint(n, >, 0);
        have += n;
    }
    g_assert_true(ft_wire_get_header(buf, &f, &error_abort));
    g_assert_cmpint(f.type, ==, FT_FRAME_HEARTBEAT);
    g_assert_true(ft_wire_check_payload(&f, buf + FT_WIRE_HEADER,
                                        &error_abort));
    g_assert_true(ft_wire_get_heartbeat(buf + FT_WIRE_HEADER, f.length,
                                        &w->heard, &error_abort));
    g_assert_cmpuint(w->heard.number, ==, number + 1);
    g_assert_cmpuint(w->heard.echo, <=, w->number);
    return true;
}

/* All is well for so many of the pulse's heartbeats. */
static void peer_well(World *w, int rounds)
{
    while (rounds--) {
        g_assert_true(peer_hear(w));
        peer_beat(w, w->heard.number);
    }
}

/* Until the pulse has sent an echo of the peer's last one. */
static void peer_echoed(World *w)
{
    do {
        g_assert_true(peer_hear(w));
    } while (w->heard.echo < w->number);
}

static FtPulseStats stats_of(World *w)
{
    FtPulseStats st;

    ft_pulse_stats(w->pulse, &st);
    return st;
}

#endif
