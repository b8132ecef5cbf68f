/*
 * Unit tests of link.c with TLS: frames through it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tls-world.h"

#define FRAME_MAX   300000

typedef struct Mover {
    QemuThread thread;
    FtLink *link;
    unsigned frames;
    int way;
} Mover;

static size_t frame_length(unsigned i)
{
    return i * 7919u % FRAME_MAX;
}

static void *write_thread(void *opaque)
{
    Mover *m = opaque;
    g_autofree uint8_t *buf = g_malloc(FRAME_MAX);

    for (unsigned i = 0; i < FRAME_MAX; i++) {
        buf[i] = (i * 2654435761u >> 13) + m->way;
    }
    for (unsigned i = 0; i < m->frames; i++) {
        g_assert_true(ft_link_send(m->link, FT_FRAME_JOURNAL, 0, i, buf,
                                   frame_length(i), &error_abort));
    }
    return NULL;
}

static void *read_thread(void *opaque)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Mover *m = opaque;
    FtFrame f;
    bool bad;

    for (unsigned i = 0; i < m->frames; i++) {
        g_assert_cmpint(ft_link_recv(m->link, &f, buf, &bad, &error_abort),
                        ==, 1);
        g_assert_cmpuint(f.epoch, ==, i);
        g_assert_cmpuint(buf->len, ==, frame_length(i));
        for (unsigned j = 0; j < buf->len; j++) {
            if (buf->data[j] != (uint8_t)((j * 2654435761u >> 13) + m->way)) {
                g_error("frame %u byte %u way %d", i, j, m->way);
            }
        }
    }
    return NULL;
}

static void move_all(FtLink *l[2], unsigned frames)
{
    Mover m[4] = {
        { .link = l[0], .way = 0 }, { .link = l[1], .way = 0 },
        { .link = l[1], .way = 1 }, { .link = l[0], .way = 1 },
    };

    for (int i = 0; i < 4; i++) {
        m[i].frames = frames;
        qemu_thread_create(&m[i].thread, "mover",
                           i % 2 ? read_thread : write_thread, &m[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < 4; i++) {
        qemu_thread_join(&m[i].thread);
    }
}

static void unref_pair(FtLink *l[2])
{
    ft_link_unref(l[0]);
    ft_link_unref(l[1]);
}

/* Two threads on each side, in both directions at once. */
static void test_transfer(void)
{
    FtLink *l[2];

    tls_pair(l, "psk-server", "psk-client");
    move_all(l, 300);
    unref_pair(l);
}

static void *tiny_thread(void *opaque)
{
    Mover *m = opaque;

    for (unsigned i = 0; i < m->frames; i++) {
        g_assert_true(ft_link_send(m->link, FT_FRAME_ACK, 0, i, NULL, 0,
                                   &error_abort));
    }
    return NULL;
}

static void *tiny_read_thread(void *opaque)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Mover *m = opaque;
    FtFrame f;
    bool bad;

    for (unsigned i = 0; i < m->frames; i++) {
        g_assert_cmpint(ft_link_recv(m->link, &f, buf, &bad, &error_abort),
                        ==, 1);
        g_assert_cmpuint(f.epoch, ==, i);
    }
    return NULL;
}

/* More records than GnuTLS sends with one key of AES; some minutes. */
static void test_rekey(void)
{
    FtLink *l[2];
    Mover m[4];

    tls_pair(l, "psk-server", "psk-client");
    for (int i = 0; i < 4; i++) {
        m[i] = (Mover) {
            .link = l[(i + 1) / 2 % 2],
            .frames = (1u << 24) + 100000,
        };
        qemu_thread_create(&m[i].thread, "mover",
                           i % 2 ? tiny_read_thread : tiny_thread, &m[i],
                           QEMU_THREAD_JOINABLE);
    }
    for (int i = 0; i < 4; i++) {
        qemu_thread_join(&m[i].thread);
    }
    unref_pair(l);
}

static void *wait_thread(void *opaque)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Call *c = opaque;
    FtFrame f;
    bool bad = true;

    c->ok = ft_link_recv(c->opaque, &f, buf, &bad, &c->err) == 1;
    g_assert_false(bad);
    return NULL;
}

static void *fill_thread(void *opaque)
{
    g_autofree uint8_t *buf = g_malloc0(FRAME_MAX);
    Call *c = opaque;

    while (ft_link_send(c->opaque, FT_FRAME_JOURNAL, 0, 0, buf, FRAME_MAX,
                        &c->err)) {
        /* until it fails */
    }
    return NULL;
}

/* ft_link_shutdown() ends one that reads and one that writes. */
static void test_shutdown(void)
{
    void *(*fn[])(void *) = { wait_thread, fill_thread };

    for (int i = 0; i < 2; i++) {
        FtLink *l[2];
        Call c = { 0 };

        tls_pair(l, "psk-server", "psk-client");
        c.opaque = l[0];
        qemu_thread_create(&c.thread, "waits", fn[i], &c,
                           QEMU_THREAD_JOINABLE);
        g_usleep(50000);
        ft_link_shutdown(l[0]);
        qemu_thread_join(&c.thread);
        error_has(&c.err, "this side has closed");
        unref_pair(l);
    }
}

/* The peer's end, and what is not TLS; each to one that waits for it. */
static void test_peer(void)
{
    for (int i = 0; i < 3; i++) {
        FtLink *l[2];
        Call c = { 0 };

        tls_pair(l, "psk-server", "psk-client");
        c.opaque = l[0];
        qemu_thread_create(&c.thread, "waits", wait_thread, &c,
                           QEMU_THREAD_JOINABLE);
        g_usleep(20000);
        if (i == 0) {
            g_assert_cmpint(ft_link_end_now(l[1]), ==, 0);
        } else if (i == 1) {
            ft_link_shutdown(l[1]);     /* no goodbye */
        } else {
            g_assert_cmpint(send(l[1]->sioc->fd, "garbage", 7, 0), ==, 7);
        }
        qemu_thread_join(&c.thread);
        g_assert_false(c.ok);
        if (i == 2) {
            error_has(&c.err, "cannot read from the peer");
        }
        g_assert_null(c.err);
        unref_pair(l);
    }
}

static void test_timeout(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    g_autofree uint8_t *big = g_malloc0(FT_WIRE_PAYLOAD_MAX);
    Error *err = NULL;
    FtLink *l[2];
    FtFrame f;
    bool bad;

    tls_pair(l, "psk-server", "psk-client");
    ft_link_set_timeout(l[0], 100);
    g_assert_cmpint(ft_link_recv(l[0], &f, buf, &bad, &err), ==, -1);
    error_has(&err, "timeout: the peer sends nothing");
    g_assert_false(ft_link_send(l[0], FT_FRAME_JOURNAL, 0, 0, big,
                                FT_WIRE_PAYLOAD_MAX, &err));
    error_has(&err, "timeout: the peer does not take");
    g_assert_false(ft_link_send(l[0], FT_FRAME_ACK, 0, 1, NULL, 0, &err));
    error_has(&err, "this side has closed");
    unref_pair(l);
}

/* One that does not get all of it out ends the link. */
static void test_try_send(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtLink *l[2];
    FtFrame f;
    bool bad;
    int n = 0, got = 0;

    tls_pair(l, "psk-server", "psk-client");
    while (ft_link_try_send(l[0], FT_FRAME_DISARM, 0, n, "text")) {
        n++;
        g_assert_cmpint(n, <, 1000000);
    }
    g_assert_false(ft_link_send(l[0], FT_FRAME_ACK, 0, 0, NULL, 0, NULL));
    while (ft_link_recv(l[1], &f, buf, &bad, NULL) == 1) {
        g_assert_cmpuint(f.epoch, ==, got);
        got++;
    }
    g_assert_false(bad);
    g_assert_cmpint(got, ==, n);
    unref_pair(l);
}

/* A part of what has come stays inside TLS, where poll() does not see it. */
static void test_readable(void)
{
    uint8_t buf[16];
    int64_t until = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;
    int64_t soon;
    FtLink *l[2];
    Error *err = NULL;

    tls_pair(l, "psk-server", "psk-client");
    soon = g_get_monotonic_time() + G_USEC_PER_SEC / 10;
    g_assert_false(ft_link_wait_readable(l[0], soon, &err));
    error_has(&err, "timeout");
    g_assert_cmpint(ft_link_read_now(l[0], buf, 1, &error_abort), ==,
                    -EAGAIN);

    g_assert_cmpint(ft_link_write_now(l[1], "greeting", 8, &error_abort), ==,
                    8);
    for (int i = 0; i < 8; i++) {
        g_assert_true(ft_link_wait_readable(l[0], until, &error_abort));
        g_assert_true(ft_link_wait_readable(l[0], until, &error_abort));
        g_assert_cmpint(ft_link_read_now(l[0], buf, i % 3 + 1, &error_abort),
                        ==, 1);
        g_assert_cmpint(buf[0], ==, "greeting"[i]);
    }
    g_assert_cmpint(ft_link_read_now(l[0], buf, 1, &error_abort), ==,
                    -EAGAIN);

    /* The end can be read, too. */
    g_assert_cmpint(ft_link_end_now(l[1]), ==, 0);
    g_assert_true(ft_link_wait_readable(l[0], until, &error_abort));
    g_assert_cmpint(ft_link_read_now(l[0], buf, 1, &error_abort), ==, 0);
    unref_pair(l);
}

int main(int argc, char **argv)
{
    g_autofree char *psk = NULL;
    Object *server, *client;
    char *dir;
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = world_begin("ft-tls-link-XXXXXX");
    qcrypto_init(&error_abort);
    psk = g_build_filename(dir, "psk", NULL);
    psk_dir(dir, "psk", "009d5638c40fde0c");
    server = psk_object(dir, "psk", true);
    client = psk_object(dir, "psk", false);

    g_test_add_func("/ft/tls-link/transfer", test_transfer);
    g_test_add_func("/ft/tls-link/shutdown", test_shutdown);
    g_test_add_func("/ft/tls-link/peer", test_peer);
    g_test_add_func("/ft/tls-link/timeout", test_timeout);
    g_test_add_func("/ft/tls-link/try-send", test_try_send);
    g_test_add_func("/ft/tls-link/readable", test_readable);
    if (g_test_slow()) {
        g_test_add_func("/ft/tls-link/rekey", test_rekey);
    }
    ret = g_test_run();

    object_unparent(server);
    object_unparent(client);
    remove_dir(psk);
    world_end(dir);
    return ret;
}
