/*
 * Unit tests of link.c, handshake.c, listener.c: who is let in
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <netinet/tcp.h>
#include "link-world.h"
#include "tcp-pair.h"

static void call_accepted(Call *c)
{
    call_begin(c, call_disk);
    g_assert_true(call_end(c));
    disk_works(c);
    object_unref(OBJECT(c->sioc));
    c->sioc = NULL;
}

static void test_session(void)
{
    Call c = { 0 }, other = { 0 };
    uint8_t zero[16] = { 0 };

    setup();
    refuse_machine = true;
    call_refused(&c, call_open, "another machine");
    g_assert_cmpint(pairs, ==, 0);

    refuse_machine = false;
    open_session(&c);
    g_assert_cmpint(adoptions, ==, 2);
    g_assert_cmpint(memcmp(c.token, zero, 16), !=, 0);
    session_works(&c.links, &b_links);

    call_refused(&other, call_open, "already");
    session_works(&c.links, &b_links);
    g_assert_cmpint(pairs, ==, 1);
    teardown(&c.links);
}

/* Who does not mean the same arbiter is refused, and the next one is not. */
static void test_arbiter(void)
{
    Call c = { 0 };

    setup();
    with_arbiter = true;
    arbiter = (FtArbiter) { .wrong = true };
    call_refused(&c, call_open, "another directory");
    g_assert_cmpint(arbiter.asked, ==, 1);
    g_assert_cmpint(arbiter.refs, ==, 0);
    g_assert_cmpint(pairs, ==, 0);

    /* The machine is looked at first. */
    refuse_machine = true;
    call_refused(&c, call_open, "another machine");
    g_assert_cmpint(arbiter.asked, ==, 1);
    g_assert_cmpint(arbiter.refs, ==, 0);

    refuse_machine = false;
    arbiter.wrong = false;
    open_session(&c);
    g_assert_cmpint(arbiter.asked, ==, 2);
    g_assert_cmpint(arbiter.refs, ==, 0);
    g_assert_cmpint(arbiter.timeout_ms, >, 4000);
    g_assert_cmpint(arbiter.timeout_ms, <=, 5000);
    teardown(&c.links);
}

/* ------------------------------------------- a primary that errs, by hand */

static FtLink *by_hand(FtChannelKind channel, const uint8_t *token,
                       uint64_t generation, FtHello *welcome, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtHello hello = {
        .channel = channel,
        .generation = generation,
        .page_size = FT_PAGE_SIZE,
    };
    uint8_t out[FT_HELLO_SIZE];
    FtLink *l;

    l = ft_link_connect_until(address, NULL,
                              g_get_monotonic_time() + WAIT_US, &error_abort);
    memcpy(hello.session, session.data, 16);
    if (token) {
        memcpy(hello.token, token, 16);
    }
    ft_wire_put_hello(out, &hello);
    ft_link_send(l, FT_FRAME_HELLO, 0, 0, out, sizeof(out), &error_abort);
    if (!ft_hello_recv(l, "backup", FT_FRAME_WELCOME, buf, NULL, errp)) {
        ft_link_unref(l);
        return NULL;
    }
    g_assert_true(ft_wire_get_hello(buf->data, buf->len, welcome,
                                    &error_abort));
    g_assert_cmpuint(welcome->generation, ==, generation);
    return l;
}

static void by_hand_refused(FtChannelKind channel, const uint8_t *token,
                            uint64_t generation, const char *word)
{
    FtHello welcome;
    Error *err = NULL;

    g_assert_null(by_hand(channel, token, generation, &welcome, &err));
    error_has(&err, word);
}

static FtLink *by_hand_data(uint8_t *token)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtHello welcome;
    FtLink *l = by_hand(FT_CHANNEL_DATA, NULL, 7, &welcome, &error_abort);

    memcpy(token, welcome.token, 16);
    ft_link_send(l, FT_FRAME_MACHINE, 0, 0, "machine", 7, &error_abort);
    g_assert_true(ft_hello_recv(l, "backup", FT_FRAME_READY, buf, NULL,
                                &error_abort));
    return l;
}

/* The other side has closed it, in time. */
static void ended(FtLink *l)
{
    uint8_t byte;
    int64_t until = g_get_monotonic_time() + 5 * G_USEC_PER_SEC;

    g_assert_cmpint(ft_link_read_some(l, &byte, 1, until, &error_abort), ==,
                    0);
}

/* Each of the three once, and only with what the data connection said. */
static bool call_order(Call *c)
{
    FtHello w;

    c->links.data = by_hand_data(c->token);
    by_hand_refused(FT_CHANNEL_HEART, NULL, 7, "no data connection");
    by_hand_refused(FT_CHANNEL_HEART, c->token, 8, "generation 8");
    c->links.heart = by_hand(FT_CHANNEL_HEART, c->token, 7, &w, &error_abort);
    by_hand_refused(FT_CHANNEL_HEART, c->token, 7, "already");
    by_hand_refused(FT_CHANNEL_CONTROL, c->token, 6, "generation 6");
    g_assert_cmpint(qatomic_read(&pairs), ==, 0);
    c->links.control = by_hand(FT_CHANNEL_CONTROL, c->token, 7, &w,
                               &error_abort);
    by_hand_refused(FT_CHANNEL_CONTROL, c->token, 7, "already");
    by_hand_refused(FT_CHANNEL_HEART, c->token, 7, "already");
    return true;
}

/* A second primary; and the first one goes when it is half there. */
static bool call_second(Call *c)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtLink *first, *second;
    FtHello w;
    Error *err = NULL;
    uint8_t token[16];

    first = by_hand_data(token);
    second = by_hand(FT_CHANNEL_DATA, NULL, 7, &w, &error_abort);
    g_assert_cmpint(memcmp(token, w.token, 16), !=, 0);
    ft_link_send(second, FT_FRAME_MACHINE, 0, 0, "machine", 7, &error_abort);
    g_assert_false(ft_hello_recv(second, "backup", FT_FRAME_READY, buf, NULL,
                                 &err));
    error_has(&err, "another primary");
    ft_link_unref(second);

    /* The control connection has come; then the data connection goes. */
    c->links.control = by_hand(FT_CHANNEL_CONTROL, token, 7, &w, &error_abort);
    ft_link_unref(first);
    ended(c->links.control);
    by_hand_refused(FT_CHANNEL_HEART, token, 7, "no data connection");
    ft_links_clear(&c->links);
    return true;
}

static void test_order(void)
{
    Call c = { 0 };

    setup();
    call_begin(&c, call_order);
    g_assert_true(call_end(&c));
    wait_for(&pairs);
    session_works(&c.links, &b_links);
    teardown(&c.links);

    setup();
    call_begin(&c, call_second);
    g_assert_true(call_end(&c));
    g_assert_cmpint(pairs, ==, 0);
    open_session(&c);
    g_assert_cmpint(adoptions, ==, 2);
    session_works(&c.links, &b_links);
    teardown(&c.links);
}

static bool call_half(Call *c)
{
    FtHello w;

    c->links.data = by_hand_data(c->token);
    c->links.heart = by_hand(FT_CHANNEL_HEART, c->token, 7, &w, &error_abort);
    return true;
}

/* The listener goes when two of three are there. */
static void test_half(void)
{
    Call c = { 0 };
    FtLinks links;

    setup();
    call_begin(&c, call_half);
    g_assert_true(call_end(&c));
    links = c.links;
    ft_listener_free(listener);
    listener = NULL;
    ended(links.heart);
    ft_links_clear(&links);
    g_assert_cmpint(pairs, ==, 0);
}

/* ------------------------------------------------- a backup that errs */

typedef enum Lie {
    LIE_NONE, LIE_SESSION, LIE_CHANNEL, LIE_DRIVE, LIE_GENERATION,
    LIE_FEATURES, LIE_PAGE, LIE__MAX
} Lie;

static QIOChannelSocket *liar;
static Lie lie;

static void *liar_thread(void *opaque)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    QIOChannelSocket *sioc = qio_channel_socket_accept(liar, &error_abort);
    FtLink *l = ft_link_new(QIO_CHANNEL(sioc));
    uint8_t out[FT_HELLO_SIZE];
    FtHello h;
    FtFrame f;
    bool bad;

    g_assert_cmpint(ft_link_recv(l, &f, buf, &bad, &error_abort), ==, 1);
    g_assert_true(ft_wire_get_hello(buf->data, buf->len, &h, &error_abort));
    h.session[3] ^= lie == LIE_SESSION;
    h.channel = lie == LIE_CHANNEL ? FT_CHANNEL_HEART : h.channel;
    h.drive += lie == LIE_DRIVE;
    h.generation += lie == LIE_GENERATION;
    h.features |= lie == LIE_FEATURES ? 2 : 0;
    h.page_size <<= lie == LIE_PAGE;
    ft_wire_put_hello(out, &h);
    ft_link_send(l, FT_FRAME_WELCOME, 0, 0, out, sizeof(out), &error_abort);
    /* until it has understood */
    ft_link_recv(l, &f, buf, &bad, NULL);
    ft_link_unref(l);
    object_unref(OBJECT(sioc));
    return NULL;
}

static void test_welcome(void)
{
    static const char *const word[LIE__MAX] = {
        [LIE_NONE] = "closed", [LIE_SESSION] = "another session",
        [LIE_CHANNEL] = "channel 4", [LIE_DRIVE] = "unused",
        [LIE_GENERATION] = "generation 8 instead of 7",
        [LIE_FEATURES] = "features", [LIE_PAGE] = "pages",
    };

    liar = qio_channel_socket_new();
    g_assert_cmpint(qio_channel_socket_listen_sync(liar, address, 1,
                                                   &error_abort), ==, 0);
    for (lie = 0; lie < LIE__MAX; lie++) {
        FtLinks links = { NULL };
        uint8_t token[16];
        QemuThread thread;
        Error *err = NULL;

        qemu_thread_create(&thread, "liar", liar_thread, NULL,
                           QEMU_THREAD_JOINABLE);
        g_assert_false(ft_link_open(address, NULL, &session, 7, 1, "machine",
                                    5000, &links, token, &err));
        error_has(&err, word[lie]);
        qemu_thread_join(&thread);
    }
    object_unref(OBJECT(liar));
}

/* A TLS client at a listener that has no credentials. */
static bool call_tls_bytes(Call *c)
{
    static const uint8_t client_hello[] = { 0x16, 3, 1, 0, 200, 1, 0, 0, 196 };
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtLink *l = ft_link_connect_until(address, NULL,
                                      g_get_monotonic_time() + WAIT_US,
                                      &error_abort);

    g_assert_cmpint(ft_link_write_now(l, client_hello, sizeof(client_hello),
                                      &error_abort), ==, 9);
    c->ok = ft_hello_recv(l, "backup", FT_FRAME_WELCOME, buf, NULL, &c->err);
    ft_link_unref(l);
    return c->ok;
}

static void test_tls_bytes(void)
{
    Call c = { 0 };

    setup();
    call_refused(&c, call_tls_bytes, "speaks TLS");
    open_session(&c);
    teardown(&c.links);
}

/* ------------------------------------------------------------- the links */

static void *reader_thread(void *opaque)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtFrame f;
    bool bad;

    g_assert_cmpint(ft_link_recv(opaque, &f, buf, &bad, NULL), !=, 1);
    return NULL;
}

static void test_yank(void)
{
    FtLinks ls = { NULL };
    FtLink *l[4];
    QemuThread thread[4];
    Error *err = NULL;

    link_pair(l);
    link_pair(l + 2);
    for (int i = 0; i < 4; i++) {
        qemu_thread_create(&thread[i], "reader", reader_thread, l[i],
                           QEMU_THREAD_JOINABLE);
    }
    g_usleep(20000);
    ft_link_yank_all(NULL);
    for (int i = 0; i < 4; i++) {
        qemu_thread_join(&thread[i]);
        g_assert_false(ft_link_send(l[i], FT_FRAME_ACK, 0, 0, NULL, 0, &err));
        error_has(&err, "this side has closed");
    }

    ft_links_shutdown(&ls);
    ft_links_clear(&ls);
    ls = (FtLinks) { l[0], NULL, l[1] };
    ft_links_clear(&ls);
    g_assert_true(!ls.data && !ls.heart);
    ft_link_unref(l[2]);
    ft_link_unref(l[3]);
    ft_link_yank_all(NULL);     /* there are none */
}

/* Who has closed it: the peer, also within a frame, or this side. */
static void test_closed(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    uint8_t header[FT_WIRE_HEADER];
    FtFrame f = { .type = FT_FRAME_DISARM, .length = 9 };
    FtLink *l[2];
    bool bad;

    for (int part = 0; part < 3; part++) {
        link_pair(l);
        g_assert_false(ft_link_closed_by_peer(l[1]));
        g_assert_false(ft_link_is_dead(l[1]));
        if (part == 1) {
            ft_wire_put_header(header, &f);
            g_assert_cmpint(send(l[0]->sioc->fd, header, sizeof(header), 0),
                            ==, sizeof(header));
        } else if (part == 2) {
            ft_link_shutdown(l[1]);
        }
        ft_link_unref(l[0]);
        g_assert_cmpint(ft_link_recv(l[1], &f, buf, &bad, NULL), <, 1);
        g_assert_true(ft_link_closed_by_peer(l[1]) == (part < 2));
        g_assert_true(ft_link_is_dead(l[1]) == (part < 2));
        ft_link_unref(l[1]);
    }
}

/* What is unread on the other side makes its kernel reset the connection. */
static void test_reset(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    int64_t end = g_get_monotonic_time() + WAIT_US;
    FtLink *l;
    FtFrame f;
    bool bad;
    int fds[2];

    for (int unread = 0; unread < 3; unread++) {
        tcp_pair(fds);
        l = link_of(fds[0]);
        if (unread) {
            g_assert_true(ft_link_send(l, FT_FRAME_ACK, 0, 0, NULL, 0,
                                       &error_abort));
        }
        close(fds[1]);
        while (unread && !ft_link_is_dead(l)) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            g_usleep(1000);
        }
        if (unread == 2) {
            /* Who sends has the error, and leaves an end to who reads. */
            g_assert_false(ft_link_send(l, FT_FRAME_ACK, 0, 0, NULL, 0,
                                        NULL));
            g_assert_true(ft_link_is_dead(l));
        }
        g_assert_cmpint(ft_link_recv(l, &f, buf, &bad, NULL), ==,
                        unread ? -1 : 0);
        g_assert_true(ft_link_closed_by_peer(l) == !unread);
        g_assert_true(ft_link_is_dead(l) == !!unread);
        ft_link_unref(l);
    }
}

static int sockopt(FtLink *l, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof(value);

    g_assert_cmpint(getsockopt(l->sioc->fd, level, name, &value, &len), ==, 0);
    return value;
}

static void test_user_timeout(void)
{
    static const int ms[] = { 500, 3000, 9000, 60000 };
    QIOChannelSocket *server = qio_channel_socket_new();
    SocketAddress *addr = socket_parse("127.0.0.1:0", &error_abort);
    SocketAddress *real;
    FtLink *pair[2], *l;

    g_assert_cmpint(qio_channel_socket_listen_sync(server, addr, 1,
                                                   &error_abort), ==, 0);
    real = qio_channel_socket_get_local_address(server, &error_abort);
    l = ft_link_connect_until(real, NULL, FT_LINK_FOREVER, &error_abort);
    for (int i = 0; i < G_N_ELEMENTS(ms); i++) {
        int seconds;

        ft_link_set_user_timeout(l, ms[i]);
        g_assert_cmpint(sockopt(l, IPPROTO_TCP, TCP_USER_TIMEOUT), ==, ms[i]);
        g_assert_cmpint(sockopt(l, SOL_SOCKET, SO_KEEPALIVE), ==, 1);
        seconds = sockopt(l, IPPROTO_TCP, TCP_KEEPIDLE) +
                  sockopt(l, IPPROTO_TCP, TCP_KEEPINTVL) *
                  sockopt(l, IPPROTO_TCP, TCP_KEEPCNT);
        g_assert_cmpint(seconds, <=, MAX(ms[i] / 1000, 4));
        g_assert_cmpint(seconds, >=, ms[i] / 2000);
    }
    ft_link_set_user_timeout(l, 0);
    g_assert_cmpint(sockopt(l, IPPROTO_TCP, TCP_USER_TIMEOUT), ==, 0);
    g_assert_cmpint(sockopt(l, SOL_SOCKET, SO_KEEPALIVE), ==, 0);
    ft_link_unref(l);
    object_unref(OBJECT(server));
    qapi_free_SocketAddress(addr);
    qapi_free_SocketAddress(real);

    link_pair(pair);
    ft_link_set_user_timeout(pair[0], 500);
    g_assert_cmpint(sockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE), ==, 0);
    frame_passes(pair[0], pair[1], 1);
    ft_link_unref(pair[0]);
    ft_link_unref(pair[1]);
}

static void test_try_send(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtLink *l[2];
    FtFrame f;
    bool bad;
    int n = 0;

    link_pair(l);
    while (ft_link_try_send(l[0], FT_FRAME_FAILOVER, FT_FLAG_CLAIMED, n,
                            "text")) {
        n++;
        g_assert_cmpint(n, <, 1000000);
    }
    for (int i = 0; i < n; i++) {
        g_assert_cmpint(ft_link_recv(l[1], &f, buf, &bad, &error_abort), ==,
                        1);
        g_assert_cmpuint(f.epoch, ==, i);
        g_assert_cmpint(f.flags, ==, FT_FLAG_CLAIMED);
        g_assert_cmpuint(buf->len, ==, 4);
    }
    /* Nothing of the last one was out: there is room again. */
    g_assert_true(ft_link_try_send(l[0], FT_FRAME_DISARM, 0, n, NULL));
    g_assert_cmpint(ft_link_recv(l[1], &f, buf, &bad, &error_abort), ==, 1);
    ft_link_unref(l[0]);
    ft_link_unref(l[1]);
}

static void test_disk(void)
{
    Call c = { 0 }, stranger = { 0 };

    setup();
    call_refused(&c, call_disk, "no session");     /* before there is a pair */
    open_session(&c);
    call_refused(&stranger, call_disk, "no session");
    for (int byte = 0; byte < 16; byte++) {
        memcpy(stranger.token, c.token, 16);
        stranger.token[byte] ^= 0x80;
        call_refused(&stranger, call_disk, "no session");
    }
    session.data[5] ^= 1;
    call_refused(&c, call_disk, "no session");
    session.data[5] ^= 1;
    g_assert_cmpint(disks, ==, 0);

    ft_listener_expect_disks(listener, 3, on_disk, NULL);
    call_refused(&stranger, call_disk, "no session");
    c.drive = 3;
    call_refused(&c, call_disk, "drive 3");
    c.drive = UINT32_MAX;
    call_refused(&c, call_disk, "drive 4294967295");
    g_assert_cmpint(disks, ==, 0);
    for (int i = 2; i >= 0; i--) {
        c.drive = i;
        call_accepted(&c);
        call_refused(&c, call_disk, "already");
    }
    g_assert_cmpint(disks, ==, 3);

    /* once more, from the beginning */
    ft_listener_expect_disks(listener, 1, on_disk, NULL);
    call_accepted(&c);
    c.drive = 1;
    call_refused(&c, call_disk, "drive 1");
    ft_listener_expect_disks(listener, 0, NULL, NULL);
    c.drive = 0;
    call_refused(&c, call_disk, "drive 0");
    g_assert_cmpint(disks, ==, 4);
    teardown(&c.links);
}

/* The primary is faster than the backup's main loop. */
static void test_disk_waits(void)
{
    Call c = { 0 }, d = { .drive = 1 };
    int64_t end;

    setup();
    open_session(&c);
    memcpy(d.token, c.token, 16);
    call_begin(&d, call_disk);
    end = g_get_monotonic_time() + G_USEC_PER_SEC / 2;
    while (g_get_monotonic_time() < end) {
        turn();
        g_assert_cmpint(qatomic_read(&d.finished), ==, 0);
    }
    ft_listener_expect_disks(listener, 2, on_disk, NULL);
    g_assert_true(call_end(&d));
    g_assert_cmpint(disks, ==, 1);
    g_assert_cmpuint(last_drive, ==, 1);
    object_unref(OBJECT(d.sioc));
    d.sioc = NULL;

    /* let in, but not handed over: the session has changed its mind */
    d.drive = 0;
    call_begin(&d, call_disk);
    while (!qatomic_read(&d.finished)) {
        ft_listener_expect_disks(listener, 0, NULL, NULL);
        turn();
    }
    g_assert_false(call_end(&d));
    error_free_or_abort(&d.err);
    g_assert_cmpint(disks, ==, 1);

    /* and one that waits when the listener goes */
    teardown(&c.links);
    memset(&c, 0, sizeof(c));
    setup();
    open_session(&c);
    memcpy(d.token, c.token, 16);
    call_begin(&d, call_disk);
    end = g_get_monotonic_time() + G_USEC_PER_SEC / 5;
    while (g_get_monotonic_time() < end) {
        turn();
    }
    teardown(&c.links);
    g_assert_false(call_end(&d));
    error_free_or_abort(&d.err);
}

int main(int argc, char **argv)
{
    char *dir;
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = world_begin("ft-link-XXXXXX");

    g_test_add_func("/ft/link/session", test_session);
    g_test_add_func("/ft/link/arbiter", test_arbiter);
    g_test_add_func("/ft/link/order", test_order);
    g_test_add_func("/ft/link/half", test_half);
    g_test_add_func("/ft/link/welcome", test_welcome);
    g_test_add_func("/ft/link/tls-bytes", test_tls_bytes);
    g_test_add_func("/ft/link/disk", test_disk);
    g_test_add_func("/ft/link/disk-waits", test_disk_waits);
    g_test_add_func("/ft/link/yank", test_yank);
    g_test_add_func("/ft/link/closed", test_closed);
    g_test_add_func("/ft/link/reset", test_reset);
    g_test_add_func("/ft/link/user-timeout", test_user_timeout);
    g_test_add_func("/ft/link/try-send", test_try_send);
    ret = g_test_run();

    world_end(dir);
    return ret;
}
