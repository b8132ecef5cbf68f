/*
 * Unit tests of link.c, handshake.c, listener.c: who is let in
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The backup's listener runs in the main loop, the primary's calls, which
 * block, in a thread.
 */

#include "qemu/osdep.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "migration/ft/session.h"

#define WAIT_US     (30 * G_USEC_PER_SEC)
#define GREETING    "NBDMAGIC"

static SocketAddress *address;
static QemuUUID session = { .data = { 1, 2, 3 } };

static FtListener *listener;
static FtLink *b_data, *b_control;
static int pairs, disks;
static uint32_t last_drive;
static QIOChannelSocket *last_sioc;
static bool refuse_machine;

/* What the tests have instead of session.c. */
void ft_main_loop(QEMUBHFunc *fn, void *opaque)
{
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), fn, opaque);
}

static bool on_adopt(void *opaque, const char *text, size_t len, Error **errp)
{
    if (refuse_machine) {
        error_setg(errp, "another machine");
        return false;
    }
    return len == 7 && !memcmp(text, "machine", 7);
}

static void on_pair(void *opaque, FtLink *data, FtLink *control,
                    const FtHello *hello)
{
    pairs++;
    b_data = data;
    b_control = control;
}

static void on_disk(void *opaque, uint32_t drive, QIOChannelSocket *sioc)
{
    disks++;
    last_drive = drive;
    g_clear_pointer(&last_sioc, object_unref);
    last_sioc = sioc;
    object_ref(OBJECT(sioc));
    /* as NBD's server does */
    g_assert_cmpint(qio_channel_write_all(QIO_CHANNEL(sioc), GREETING, 8,
                                          NULL), ==, 0);
}

/* The primary's side, in a thread. */
typedef struct Call {
    bool (*fn)(struct Call *c);
    uint8_t token[16];
    uint32_t drive;
    FtLink *data, *control;
    QIOChannelSocket *sioc;
    Error *err;
    bool ok;
    int finished;       /* atomic */
    QemuThread thread;
} Call;

static bool call_pair(Call *c)
{
    return ft_link_open_pair(address, &session, 0, "machine", 5000, &c->data,
                             &c->control, c->token, &c->err);
}

static bool call_disk(Call *c)
{
    c->sioc = ft_link_open_disk(address, &session, c->token, c->drive, 5000,
                                &c->err);
    return c->sioc != NULL;
}

static void *call_thread(void *opaque)
{
    Call *c = opaque;

    c->ok = c->fn(c);
    qatomic_set(&c->finished, 1);
    return NULL;
}

static void call_begin(Call *c, bool (*fn)(Call *c))
{
    c->fn = fn;
    c->finished = 0;
    qemu_thread_create(&c->thread, "primary", call_thread, c,
                       QEMU_THREAD_JOINABLE);
}

static void wait_for(const int *what)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;

    while (!qatomic_read(what)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        main_loop_wait(true);
        g_usleep(200);
    }
}

static bool call_end(Call *c)
{
    wait_for(&c->finished);
    qemu_thread_join(&c->thread);
    g_assert_cmpint(c->ok, ==, !c->err);
    return c->ok;
}

static void call_refused(Call *c, const char *word)
{
    call_begin(c, call_disk);
    g_assert_false(call_end(c));
    if (!strstr(error_get_pretty(c->err), word)) {
        g_error("no '%s' in: %s", word, error_get_pretty(c->err));
    }
    error_free_or_abort(&c->err);
}

static void call_accepted(Call *c)
{
    char text[9] = "";

    call_begin(c, call_disk);
    g_assert_true(call_end(c));
    g_assert_cmpuint(last_drive, ==, c->drive);
    /* The greeting was waited for, but is still there. */
    g_assert_cmpint(qio_channel_read_all(QIO_CHANNEL(c->sioc), text, 8,
                                         NULL), ==, 0);
    g_assert_cmpstr(text, ==, GREETING);
    /* And nothing stands between the two sides. */
    g_assert_cmpint(qio_channel_write_all(QIO_CHANNEL(c->sioc), "hello", 5,
                                          NULL), ==, 0);
    memset(text, 0, sizeof(text));
    g_assert_cmpint(qio_channel_read_all(QIO_CHANNEL(last_sioc), text, 5,
                                         NULL), ==, 0);
    g_assert_cmpstr(text, ==, "hello");
    object_unref(OBJECT(c->sioc));
    c->sioc = NULL;
}

static void setup(void)
{
    pairs = disks = 0;
    refuse_machine = false;
    listener = ft_listener_new(address, on_adopt, on_pair, NULL,
                               &error_abort);
}

static void teardown(Call *c)
{
    FtLink *links[] = { c->data, c->control, b_data, b_control };

    ft_listener_free(listener);
    for (int i = 0; i < G_N_ELEMENTS(links); i++) {
        if (links[i]) {
            ft_link_shutdown(links[i]);
            ft_link_unref(links[i]);
        }
    }
    b_data = b_control = NULL;
    g_clear_pointer(&last_sioc, object_unref);
}

static void open_pair(Call *c)
{
    call_begin(c, call_pair);
    g_assert_true(call_end(c));
    wait_for(&pairs);
}

static void test_pair(void)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Call c = { 0 }, other = { 0 };
    uint8_t zero[16] = { 0 };
    FtFrame f;
    bool bad;

    setup();
    refuse_machine = true;
    call_begin(&c, call_pair);
    g_assert_false(call_end(&c));
    g_assert_nonnull(strstr(error_get_pretty(c.err), "another machine"));
    error_free_or_abort(&c.err);
    g_assert_cmpint(pairs, ==, 0);

    refuse_machine = false;
    open_pair(&c);
    g_assert_cmpint(memcmp(c.token, zero, 16), !=, 0);
    g_assert_true(ft_link_send(c.data, FT_FRAME_DISARM, 0, 7, "x", 1,
                               &error_abort));
    g_assert_cmpint(ft_link_recv(b_data, &f, buf, &bad, &error_abort), ==, 1);
    g_assert_cmpuint(f.epoch, ==, 7);

    call_begin(&other, call_pair);
    g_assert_false(call_end(&other));
    g_assert_nonnull(strstr(error_get_pretty(other.err), "already"));
    error_free_or_abort(&other.err);
    g_assert_cmpint(pairs, ==, 1);
    teardown(&c);
}

static void test_disk(void)
{
    Call c = { 0 }, stranger = { 0 };

    setup();
    call_refused(&c, "no session");     /* before there is a pair */
    open_pair(&c);
    call_refused(&stranger, "no session");
    for (int byte = 0; byte < 16; byte++) {
        memcpy(stranger.token, c.token, 16);
        stranger.token[byte] ^= 0x80;
        call_refused(&stranger, "no session");
    }
    session.data[5] ^= 1;
    call_refused(&c, "no session");
    session.data[5] ^= 1;
    g_assert_cmpint(disks, ==, 0);

    ft_listener_expect_disks(listener, 3, on_disk, NULL);
    call_refused(&stranger, "no session");
    c.drive = 3;
    call_refused(&c, "drive 3");
    c.drive = UINT32_MAX;
    call_refused(&c, "drive 4294967295");
    g_assert_cmpint(disks, ==, 0);
    for (int i = 2; i >= 0; i--) {
        c.drive = i;
        call_accepted(&c);
        call_refused(&c, "already");
    }
    g_assert_cmpint(disks, ==, 3);

    /* once more, from the beginning */
    ft_listener_expect_disks(listener, 1, on_disk, NULL);
    call_accepted(&c);
    c.drive = 1;
    call_refused(&c, "drive 1");
    ft_listener_expect_disks(listener, 0, NULL, NULL);
    c.drive = 0;
    call_refused(&c, "drive 0");
    g_assert_cmpint(disks, ==, 4);
    teardown(&c);
}

/* The primary is faster than the backup's main loop. */
static void test_disk_waits(void)
{
    Call c = { 0 }, d = { .drive = 1 };
    int64_t end;

    setup();
    open_pair(&c);
    memcpy(d.token, c.token, 16);
    call_begin(&d, call_disk);
    end = g_get_monotonic_time() + G_USEC_PER_SEC / 2;
    while (g_get_monotonic_time() < end) {
        main_loop_wait(true);
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
        main_loop_wait(true);
    }
    g_assert_false(call_end(&d));
    error_free_or_abort(&d.err);
    g_assert_cmpint(disks, ==, 1);

    /* and one that waits when the listener goes */
    teardown(&c);
    memset(&c, 0, sizeof(c));
    setup();
    open_pair(&c);
    memcpy(d.token, c.token, 16);
    call_begin(&d, call_disk);
    end = g_get_monotonic_time() + G_USEC_PER_SEC / 5;
    while (g_get_monotonic_time() < end) {
        main_loop_wait(true);
    }
    teardown(&c);
    g_assert_false(call_end(&d));
    error_free_or_abort(&d.err);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("ft-link-XXXXXX", NULL);
    g_autofree char *path = NULL;
    int ret;

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_assert_nonnull(dir);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    path = g_strdup_printf("unix:%s/socket", dir);
    address = socket_parse(path, &error_abort);

    g_test_add_func("/ft/link/pair", test_pair);
    g_test_add_func("/ft/link/disk", test_disk);
    g_test_add_func("/ft/link/disk-waits", test_disk_waits);
    ret = g_test_run();

    qapi_free_SocketAddress(address);
    unlink(path + strlen("unix:"));
    rmdir(dir);
    return ret;
}
