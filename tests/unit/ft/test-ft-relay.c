/*
 * Unit tests of relay.c: a disk connection's bytes through TLS
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   near[0] <-> relay <-> link[0] ==TLS== link[1] <-> relay <-> near[1]
 *
 * or, where one end is to misbehave, link[1] without a relay.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "tls-world.h"
#include "migration/ft/relay.h"

#define BYTES   (20u << 20)

static FtLink *link_[2];
static QIOChannelSocket *near_[2];
static int files;

static int count(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    int n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

/* Relays on the first @n ends; the references to these links go. */
static void begin(int n)
{
    files = count("/proc/self/fd");
    tls_pair(link_, "psk-server", "psk-client");
    for (int i = 0; i < n; i++) {
        near_[i] = ft_relay_socket(link_[i], &error_abort);
        g_assert_true(near_[i] != link_[i]->sioc);
        ft_link_unref(link_[i]);
        link_[i] = NULL;
    }
}

/* All relays have ended, and left nothing. */
static void end(void)
{
    int64_t until = g_get_monotonic_time() + WAIT_US;

    for (int i = 0; i < 2; i++) {
        g_clear_pointer(&near_[i], object_unref);
        g_clear_pointer(&link_[i], ft_link_unref);
    }
    while (count("/proc/self/fd") != files) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(2000);
    }
}

/* To see that nothing runs in circles. */
static int64_t cpu_us(void)
{
    struct timespec ts;

    g_assert_cmpint(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), ==, 0);
    return ts.tv_sec * G_USEC_PER_SEC + ts.tv_nsec / 1000;
}

static uint8_t pattern(size_t at, int way)
{
    return (at * 2654435761u >> 13) + way;
}

typedef struct Mover {
    QemuThread thread;
    int fd;
    int way;
    size_t bytes;       /* how many there are, or have been */
} Mover;

static void *write_thread(void *opaque)
{
    Mover *m = opaque;
    g_autofree uint8_t *buf = g_malloc(100000);
    size_t at = 0;

    while (at < m->bytes) {
        size_t len = MIN(m->bytes - at, 1 + at % 99991), done = 0;

        for (size_t i = 0; i < len; i++) {
            buf[i] = pattern(at + i, m->way);
        }
        while (done < len) {
            ssize_t n = send(m->fd, buf + done, len - done, MSG_NOSIGNAL);

            g_assert_cmpint(n, >, 0);
            done += n;
        }
        at += len;
    }
    g_assert_cmpint(shutdown(m->fd, SHUT_WR), ==, 0);
    return NULL;
}

static void *read_thread(void *opaque)
{
    Mover *m = opaque;
    g_autofree uint8_t *buf = g_malloc(100000);
    ssize_t n;

    m->bytes = 0;
    while ((n = recv(m->fd, buf, 100000, 0)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] != pattern(m->bytes + i, m->way)) {
                g_error("byte %zu of way %d", m->bytes + i, m->way);
            }
        }
        m->bytes += n;
    }
    g_assert_cmpint(n, ==, 0);
    return NULL;
}

static void mover_begin(Mover *m, int fd, int way, size_t bytes)
{
    *m = (Mover) { .fd = fd, .way = way, .bytes = bytes };
    qemu_thread_create(&m->thread, "mover",
                       bytes ? write_thread : read_thread, m,
                       QEMU_THREAD_JOINABLE);
}

/* Without TLS there is none. */
static void test_plain(void)
{
    FtLink *l[2];
    QIOChannelSocket *sioc;

    link_pair(l);
    sioc = ft_relay_socket(l[0], &error_abort);
    g_assert_true(sioc == l[0]->sioc);
    object_unref(OBJECT(sioc));
    ft_link_unref(l[0]);
    ft_link_unref(l[1]);
}

static void test_both_ways(void)
{
    Mover m[4];

    begin(2);
    mover_begin(&m[0], near_[0]->fd, 1, BYTES);
    mover_begin(&m[1], near_[1]->fd, 1, 0);
    mover_begin(&m[2], near_[1]->fd, 2, BYTES);
    mover_begin(&m[3], near_[0]->fd, 2, 0);
    for (int i = 0; i < 4; i++) {
        qemu_thread_join(&m[i].thread);
    }
    g_assert_cmpuint(m[1].bytes, ==, BYTES);
    g_assert_cmpuint(m[3].bytes, ==, BYTES);
    /* Both have said their end: the relays have nothing to do any more. */
    end();
}

/* One side has said all, the other one goes on. */
static void test_half(void)
{
    Mover m[2];
    char c;

    for (int way = 0; way < 2; way++) {
        QIOChannelSocket *a, *b;

        begin(2);
        a = near_[way];
        b = near_[!way];
        g_assert_cmpint(send(a->fd, "ab", 2, 0), ==, 2);
        g_assert_cmpint(shutdown(a->fd, SHUT_WR), ==, 0);
        g_assert_cmpint(recv(b->fd, &c, 1, 0), ==, 1);
        g_assert_cmpint(c, ==, 'a');
        g_assert_cmpint(recv(b->fd, &c, 1, 0), ==, 1);
        g_assert_cmpint(recv(b->fd, &c, 1, 0), ==, 0);

        mover_begin(&m[0], b->fd, 3, BYTES / 4);
        mover_begin(&m[1], a->fd, 3, 0);
        for (int i = 0; i < 2; i++) {
            qemu_thread_join(&m[i].thread);
        }
        g_assert_cmpuint(m[1].bytes, ==, BYTES / 4);
        end();
    }
}

/* Nobody reads: the writer is stopped, and the relays sleep. */
static void test_backpressure(void)
{
    uint8_t buf[65536] = { 0 };
    size_t sent = 0, got = 0;
    ssize_t n;
    int idle = 0;
    int64_t us;

    begin(2);
    while (idle < 50) {
        n = send(near_[0]->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0) {
            sent += n;
            idle = 0;
            g_assert_cmpuint(sent, <, 64u << 20);
        } else {
            idle++;
            g_usleep(2000);
        }
    }
    us = cpu_us();
    g_usleep(300000);
    g_assert_cmpint(cpu_us() - us, <, 50000);

    /* The other way is free. */
    g_assert_cmpint(send(near_[1]->fd, "x", 1, 0), ==, 1);
    g_assert_cmpint(recv(near_[0]->fd, buf, 1, 0), ==, 1);

    shutdown(near_[0]->fd, SHUT_WR);
    while ((n = recv(near_[1]->fd, buf, sizeof(buf), 0)) > 0) {
        got += n;
    }
    g_assert_cmpuint(got, ==, sent);
    end();
}

/* What was said before the end gets there when the end is a close(). */
static void test_close(void)
{
    Mover m;
    uint8_t *buf = g_malloc0(BYTES / 8);

    begin(2);
    for (size_t i = 0; i < BYTES / 8; i++) {
        buf[i] = pattern(i, 5);
    }
    mover_begin(&m, near_[1]->fd, 5, 0);
    g_assert_cmpint(qio_channel_write_all(QIO_CHANNEL(near_[0]), (char *)buf,
                                          BYTES / 8, &error_abort), ==, 0);
    g_clear_pointer(&near_[0], object_unref);
    qemu_thread_join(&m.thread);
    g_assert_cmpuint(m.bytes, ==, BYTES / 8);
    g_free(buf);
    end();
}

static void hung_up(int fd)
{
    struct pollfd pfd = { .fd = fd };

    /* only POLLHUP and POLLERR are waited for */
    g_assert_cmpint(poll(&pfd, 1, 10000), ==, 1);
}

/* The other host dies, with and without something on its way. */
static void test_peer_dies(void)
{
    char buf[1000] = "";

    for (int full = 0; full < 2; full++) {
        begin(1);
        while (full && send(near_[0]->fd, buf, sizeof(buf),
                            MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
            /* until it would block */
        }
        g_clear_pointer(&link_[1], ft_link_unref);
        hung_up(near_[0]->fd);
        end();
    }

    /* What it said before gets there. */
    begin(1);
    g_assert_cmpint(ft_link_write_now(link_[1], "last", 4, &error_abort), ==,
                    4);
    g_clear_pointer(&link_[1], ft_link_unref);
    g_assert_cmpint(recv(near_[0]->fd, buf, sizeof(buf), MSG_WAITALL), ==, 4);
    g_assert_cmpmem(buf, 4, "last", 4);
    hung_up(near_[0]->fd);
    end();
}

/* The other host dies, and nobody has read yet what it said. */
static void test_unread(void)
{
    static uint8_t buf[16384];
    size_t sent = 0, got = 0;
    int64_t us;
    ssize_t n;
    int idle = 0;

    begin(1);
    while (idle < 50) {
        n = ft_link_write_now(link_[1], buf, sizeof(buf), &error_abort);
        if (n > 0) {
            sent += n;
            idle = 0;
        } else {
            idle++;
            g_usleep(2000);
        }
    }
    g_clear_pointer(&link_[1], ft_link_unref);
    us = cpu_us();
    g_usleep(300000);
    g_assert_cmpint(cpu_us() - us, <, 50000);

    /* To write has no point any more. */
    g_assert_cmpint(send(near_[0]->fd, buf, 1, MSG_NOSIGNAL), ==, -1);
    while ((n = recv(near_[0]->fd, buf, sizeof(buf), 0)) > 0) {
        got += n;
    }
    g_assert_cmpuint(got, ==, sent);
    end();
}

/* What the other host sends is not TLS. */
static void test_peer_garbage(void)
{
    char buf[5000] = "garbage";

    begin(1);
    g_assert_cmpint(send(link_[1]->sioc->fd, buf, sizeof(buf), 0), ==,
                    sizeof(buf));
    g_assert_cmpint(recv(near_[0]->fd, buf, 1, 0), ==, 0);
    end();
}

/* Closed here, and the other host does not take the rest: not for ever. */
static void test_linger(void)
{
    char buf[1000] = "";
    int64_t began, us, cpu;

    begin(1);
    while (send(near_[0]->fd, buf, sizeof(buf),
                MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        /* until it would block */
    }
    g_usleep(50000);
    began = g_get_monotonic_time();
    cpu = cpu_us();
    g_clear_pointer(&near_[0], object_unref);
    files += 1;     /* link_[1] stays: it is what does not read */
    while (count("/proc/self/fd") != files) {
        g_usleep(20000);
        g_assert_cmpint(g_get_monotonic_time() - began, <, WAIT_US);
    }
    g_assert_cmpint(cpu_us() - cpu, <, 500000);
    us = g_get_monotonic_time() - began;
    g_assert_cmpint(us, >, (FT_RELAY_LINGER_MS - 500) * 1000);
    g_assert_cmpint(us, <, (FT_RELAY_LINGER_MS + 2000) * 1000);
    files -= 1;
    end();
}

/* Closed here while the other host talks on and on. */
static void test_linger_flood(void)
{
    static char buf[16384];
    int64_t began;
    int n = 0;

    begin(1);
    began = g_get_monotonic_time();
    g_clear_pointer(&near_[0], object_unref);
    while (ft_link_send(link_[1], FT_FRAME_PAGES, 0, 0, buf, sizeof(buf),
                        NULL)) {
        g_assert_cmpint(g_get_monotonic_time() - began, <,
                        (FT_RELAY_LINGER_MS + 2000) * 1000);
        if (++n > 100) {
            g_usleep(1000);
        }
    }
    g_assert_cmpint(n, >, 100);
    end();
}

static void test_yank(void)
{
    begin(2);
    ft_link_yank_all(NULL);
    hung_up(near_[0]->fd);
    hung_up(near_[1]->fd);
    end();
}

int main(int argc, char **argv)
{
    g_autofree char *psk = NULL;
    Object *server, *client;
    char *dir;
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = world_begin("ft-relay-XXXXXX");
    qcrypto_init(&error_abort);
    psk = g_build_filename(dir, "psk", NULL);
    psk_dir(dir, "psk", "009d5638c40fde0c");
    server = psk_object(dir, "psk", true);
    client = psk_object(dir, "psk", false);

    g_test_add_func("/ft/relay/plain", test_plain);
    g_test_add_func("/ft/relay/both-ways", test_both_ways);
    g_test_add_func("/ft/relay/half", test_half);
    g_test_add_func("/ft/relay/backpressure", test_backpressure);
    g_test_add_func("/ft/relay/close", test_close);
    g_test_add_func("/ft/relay/peer-dies", test_peer_dies);
    g_test_add_func("/ft/relay/unread", test_unread);
    g_test_add_func("/ft/relay/peer-garbage", test_peer_garbage);
    g_test_add_func("/ft/relay/linger", test_linger);
    g_test_add_func("/ft/relay/linger-flood", test_linger_flood);
    g_test_add_func("/ft/relay/yank", test_yank);
    ret = g_test_run();

    object_unparent(server);
    object_unparent(client);
    remove_dir(psk);
    world_end(dir);
    return ret;
}
