/*
 * Unit tests of migration/ft/copy.c and copy-serve.c: a drive and its copy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both sides are in this process, with a socket pair between them.  A filter
 * of QEMU's (copy-on-read) stands for the journal above the node.
 *
 * All that waits has a limit: wait_until() what it waits for itself, watch()
 * what waits inside of what is tested.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "block/block_int.h"
#include "block/export.h"
#include "block/nbd.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "../iothread.h"
#include "migration/ft/copy.h"
#include "migration/ft/session.h"

#define SIZE    (12 * MiB + 64 * KiB + 512)     /* no multiple of a piece */
#define WAIT_US (15 * G_USEC_PER_SEC)   /* for one thing */
#define STEP_US (30 * G_USEC_PER_SEC)   /* for what is between two watch() */

static char *here, *there;              /* the images' files */
static BlockBackend *guest, *image;     /* above them */
static BlockDriverState *node;          /* below the filter */
static IOThread *iothread;

static QIOChannelSocket *client, *server;
static int server_fd;                   /* while NBD's server has it */
static FtCopy *copy;
static bool cancel_inside;              /* from ready() and done() */
static int ready, done, ended;
static int result;
static char *message;

/* What the tests have instead of session.c ... */
void ft_main_loop(QEMUBHFunc *fn, void *opaque)
{
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), fn, opaque);
}

/* ... and of the rest of libblockdev. */
#ifdef CONFIG_VHOST_USER_BLK_SERVER
const BlockExportDriver blk_exp_vhost_user_blk = {
    .type = BLOCK_EXPORT_TYPE_VHOST_USER_BLK,
};
#endif
#ifdef CONFIG_FUSE
const BlockExportDriver blk_exp_fuse = { .type = BLOCK_EXPORT_TYPE_FUSE };
#endif
#ifdef CONFIG_VDUSE_BLK_EXPORT
const BlockExportDriver blk_exp_vduse_blk = {
    .type = BLOCK_EXPORT_TYPE_VDUSE_BLK,
};
#endif

IOThread *iothread_by_id(const char *id);
IOThread *iothread_by_id(const char *id)
{
    return NULL;
}

static void forget(void)
{
    if (cancel_inside) {
        ft_copy_cancel(copy);
        copy = NULL;
    }
}

static void on_ready(void *opaque)
{
    ready++;
    g_assert_cmpint(done, ==, 0);
    forget();
}

static void on_done(void *opaque, int ret, const char *msg)
{
    done++;
    result = ret;
    message = g_strdup(msg);
    forget();
}

static void on_ended(void *opaque)
{
    ended++;
}

static const FtCopyOps ops = { .ready = on_ready, .done = on_done };

/* ----------------------------------------------------------------- waits */

static struct {
    QemuMutex lock;
    QemuThread thread;
    bool quit;
    char step[80];
    int64_t end;
} watchdog;

static void *watchdog_run(void *opaque)
{
    for (bool quit = false; !quit; g_usleep(20 * 1000)) {
        WITH_QEMU_LOCK_GUARD(&watchdog.lock) {
            quit = watchdog.quit;
            if (g_get_monotonic_time() > watchdog.end) {
                fprintf(stderr, "'%s' has not come to its end within %d s\n",
                        watchdog.step, (int)(STEP_US / G_USEC_PER_SEC));
                abort();
            }
        }
    }
    return NULL;
}

/* What is done next, and is not to take for ever. */
static void G_GNUC_PRINTF(1, 2) watch(const char *format, ...)
{
    va_list ap;

    QEMU_LOCK_GUARD(&watchdog.lock);
    va_start(ap, format);
    vsnprintf(watchdog.step, sizeof(watchdog.step), format, ap);
    va_end(ap);
    watchdog.end = g_get_monotonic_time() + STEP_US;
}

#define wait_until(condition)                                           \
    do {                                                                \
        int64_t end_ = g_get_monotonic_time() + WAIT_US;                \
                                                                        \
        while (!(condition)) {                                          \
            if (g_get_monotonic_time() > end_) {                        \
                g_error("%s: waited in vain for: %s (ready %d, done %d, " \
                        "ended %d)", watchdog.step, #condition, ready,  \
                        done, ended);                                   \
            }                                                           \
            main_loop_wait(true);                                       \
            g_usleep(100);                                              \
        }                                                               \
    } while (0)

/* ---------------------------------------------------------------- images */

static void file_write(const char *name, uint64_t offset, const void *data,
                       size_t len)
{
    int fd = open(name, O_WRONLY | O_CREAT, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pwrite(fd, data, len, offset), ==, len);
    close(fd);
}

/* Noise, with zeroes in the middle. */
static void file_fill(const char *name, uint32_t seed, uint64_t size)
{
    g_autofree uint32_t *buf = g_malloc(ROUND_UP(size, 4));

    for (uint64_t i = 0; i < DIV_ROUND_UP(size, 4); i++) {
        seed = seed * 1103515245u + 12345;
        buf[i] = seed ^ seed >> 16;
    }
    memset((char *)buf + 4 * MiB, 0, 3 * MiB);
    file_write(name, 0, buf, size);
}

static bool files_equal(void)
{
    g_autofree char *a = NULL, *b = NULL;
    gsize na, nb;

    g_assert_cmpint(blk_flush(guest), ==, 0);
    g_assert_true(g_file_get_contents(here, &a, &na, NULL));
    g_assert_true(g_file_get_contents(there, &b, &nb, NULL));
    return na == nb && !memcmp(a, b, na);
}

static BlockBackend *open_image(const char *name, bool filter)
{
    QDict *o = qdict_new();

    qdict_put_str(o, "driver", filter ? "copy-on-read" : "raw");
    qdict_put_str(o, "file.driver", filter ? "raw" : "file");
    if (filter) {
        qdict_put_str(o, "file.file.driver", "file");
        qdict_put_str(o, "file.file.filename", name);
    } else {
        qdict_put_str(o, "file.filename", name);
    }
    /* We do not test the host's disk, and others may keep it busy. */
    qdict_put_str(o, BDRV_OPT_CACHE_NO_FLUSH, "on");
    return blk_new_open(NULL, NULL, o, BDRV_O_RDWR, &error_abort);
}

static void guest_write(uint64_t offset, int value)
{
    g_autofree uint8_t *buf = g_malloc(100 * KiB);

    memset(buf, value, 100 * KiB);
    g_assert_cmpint(blk_pwrite(guest, offset, 100 * KiB, buf, 0), ==, 0);
}

static void connect_sides(void)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    client = qio_channel_socket_new_fd(fds[0], &error_abort);
    server = qio_channel_socket_new_fd(fds[1], &error_abort);
}

/* As the session does it, only NBD has it from then on. */
static void accept_server(void)
{
    ft_copy_accept(server);
    server_fd = server->fd;
    object_unref(OBJECT(server));
    server = NULL;
}

static void disconnect_sides(void)
{
    object_unref(OBJECT(client));
    object_unref(OBJECT(server));
    client = server = NULL;
}

/* ----------------------------------------------- a backup that can hang */

static struct {
    QemuThread thread;
    int fds[2];         /* towards the client, towards the server */
    bool hangs, quit;   /* atomic */
} relay;

static bool relay_piece(int from, int to)
{
    uint8_t buf[16 * KiB];
    ssize_t n = recv(from, buf, sizeof(buf), MSG_DONTWAIT);

    if (n < 0 && errno == EAGAIN) {
        return true;
    }
    return n > 0 && qemu_write_full(to, buf, n) == n;
}

/* What hangs neither reads nor closes, as if it had got a SIGSTOP. */
static void *relay_run(void *opaque)
{
    while (!qatomic_read(&relay.quit)) {
        struct pollfd p[2] = {
            { .fd = relay.fds[0], .events = POLLIN },
            { .fd = relay.fds[1], .events = POLLIN },
        };

        if (qatomic_read(&relay.hangs)) {
            g_usleep(1000);
            continue;
        }
        poll(p, 2, 10);
        if (!relay_piece(relay.fds[0], relay.fds[1]) ||
            !relay_piece(relay.fds[1], relay.fds[0])) {
            break;
        }
    }
    shutdown(relay.fds[0], SHUT_RDWR);
    shutdown(relay.fds[1], SHUT_RDWR);
    return NULL;
}

static void tcp_pair(int fds[2])
{
    struct sockaddr_in sin = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(sin);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int size = 64 * KiB;

    g_assert_cmpint(bind(listener, (void *)&sin, len), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (void *)&sin, &len), ==, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(connect(fds[0], (void *)&sin, len), ==, 0);
    fds[1] = accept(listener, NULL, NULL);
    g_assert_cmpint(fds[1], >=, 0);
    close(listener);
    /* It gets full, as it would with a larger copy. */
    g_assert_cmpint(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size,
                               sizeof(size)), ==, 0);
    g_assert_cmpint(setsockopt(fds[1], SOL_SOCKET, SO_RCVBUF, &size,
                               sizeof(size)), ==, 0);
}

static void connect_by_relay(bool tcp)
{
    int near[2], far[2];

    if (tcp) {
        tcp_pair(near);
    } else {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, near), ==, 0);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, far), ==, 0);
    client = qio_channel_socket_new_fd(near[0], &error_abort);
    server = qio_channel_socket_new_fd(far[1], &error_abort);
    relay.fds[0] = near[1];
    relay.fds[1] = far[0];
    relay.hangs = relay.quit = false;
    qemu_thread_create(&relay.thread, "relay", relay_run, NULL,
                       QEMU_THREAD_JOINABLE);
}

static void relay_end(void)
{
    qatomic_set(&relay.quit, true);
    shutdown(relay.fds[0], SHUT_RDWR);
    shutdown(relay.fds[1], SHUT_RDWR);
    qemu_thread_join(&relay.thread);
    close(relay.fds[0]);
    close(relay.fds[1]);
}

static bool client_is_stuck(void)
{
    struct pollfd p = { .fd = client->fd, .events = POLLOUT };

    return poll(&p, 1, 0) == 0;
}

/* ----------------------------------------------------------------- tests */

static void images_open(bool in_iothread, uint64_t size_there)
{
    file_fill(here, 1, SIZE);
    file_fill(there, 2, size_there);
    guest = open_image(here, true);
    /* as a device does, here and on a backup */
    blk_set_perm(guest, BLK_PERM_WRITE | BLK_PERM_CONSISTENT_READ,
                 BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED,
                 &error_abort);
    image = open_image(there, false);
    blk_set_perm(image, 0, BLK_PERM_ALL, &error_abort);
    if (in_iothread) {
        blk_set_aio_context(guest, iothread_get_aio_context(iothread),
                            &error_abort);
    }
    node = blk_bs(guest)->file->bs;
    ready = done = ended = 0;
    result = 1;
    g_clear_pointer(&message, g_free);
}

static void images_close(void)
{
    blk_set_aio_context(guest, qemu_get_aio_context(), &error_abort);
    blk_unref(guest);
    blk_unref(image);
    unlink(here);
    unlink(there);
}

static void setup(bool in_iothread)
{
    images_open(in_iothread, SIZE);
    g_assert_true(ft_copy_serve(blk_bs(image), "ft-0", &error_abort));
    g_assert_false(nbd_server_is_running());
    connect_sides();
    accept_server();
}

static void start(FtCopyMode mode, BdrvDirtyBitmap *changed)
{
    copy = ft_copy_start(node, "drive0", client, "ft-0", mode, changed, &ops,
                         NULL, &error_abort);
    g_assert_cmpint(ready + done, ==, 0);
    /* mirror's filter has come between */
    g_assert_true(blk_bs(guest)->file->bs != node);
}

static void teardown(void)
{
    ended = 0;
    ft_copy_serve_end("ft-0", on_ended, NULL);
    g_assert_cmpint(ended, ==, 0);
    wait_until(ended);
    g_assert_null(blk_exp_find("ft-0"));
    /* there is nothing to end any more */
    ended = 0;
    ft_copy_serve_end("ft-0", on_ended, NULL);
    wait_until(ended);
    g_assert_cmpint(ended, ==, 1);
    disconnect_sides();
    images_close();
}

static const char *where(bool in_iothread)
{
    return in_iothread ? " in an iothread" : "";
}

static void check_sample(unsigned samples, bool equal)
{
    uint32_t a, b;

    g_assert_true(ft_copy_sample(node, 5, samples, &a, &error_abort));
    g_assert_true(ft_copy_sample(blk_bs(image), 5, samples, &b,
                                 &error_abort));
    g_assert_cmpint(a == b, ==, equal);
}

/* Make the other image so that the mode is right, and mark it. */
static BdrvDirtyBitmap *prepare(FtCopyMode mode)
{
    g_autofree char *buf = NULL;
    BdrvDirtyBitmap *changed;
    gsize len;

    if (mode == FT_COPY_MODE_FULL) {
        return NULL;
    }
    g_assert_true(g_file_get_contents(here, &buf, &len, NULL));
    if (mode == FT_COPY_MODE_CHANGED) {
        memset(buf + 5 * MiB, 9, MiB);
        memset(buf + len - 512, 7, 512);
    }
    file_write(there, 0, buf, len);
    if (mode == FT_COPY_MODE_NONE) {
        return NULL;
    }
    changed = bdrv_create_dirty_bitmap(node, 65536, NULL, &error_abort);
    bdrv_set_dirty_bitmap(changed, 5 * MiB, MiB);
    bdrv_set_dirty_bitmap(changed, len - 512, 512);
    return changed;
}

/* Also while the guest writes, before and after it is ready. */
static void test_copy(bool in_iothread, FtCopyMode mode)
{
    BdrvDirtyBitmap *changed;
    uint64_t got, total;

    watch("copy %s%s", FtCopyMode_str(mode), where(in_iothread));
    setup(in_iothread);
    changed = prepare(mode);
    start(mode, changed);
    ft_copy_progress(copy, &got, &total);
    g_assert_cmpuint(got, ==, 0);
    g_assert_cmpuint(total, >=, mode == FT_COPY_MODE_FULL ? SIZE :
                     mode == FT_COPY_MODE_CHANGED ? MiB + 512 : 0);
    g_assert_cmpuint(total, <=, mode == FT_COPY_MODE_FULL ? SIZE + 65536 :
                     mode == FT_COPY_MODE_CHANGED ? MiB + 65536 : 0);
    guest_write(MiB + 5, 1);
    guest_write(10 * MiB, 2);
    wait_until(ready);
    g_assert_cmpint(ready, ==, 1);
    g_assert_cmpint(done, ==, 0);
    g_assert_cmpuint(ft_copy_clients("ft-0"), ==, 1);
    guest_write(3 * MiB, 3);
    guest_write(SIZE - 100 * KiB, 4);
    ft_copy_finish(copy);
    wait_until(done);
    g_assert_cmpint(result, ==, 0);
    g_assert_null(message);
    ft_copy_progress(copy, &got, &total);
    g_assert_cmpuint(got, ==, total);
    g_assert_cmpuint(got, >=, 100 * KiB);
    /* the graph is as it was, and nobody is connected */
    g_assert_true(blk_bs(guest)->file->bs == node);
    ft_copy_cancel(copy);
    wait_until(ft_copy_clients("ft-0") == 0);
    g_assert_true(files_equal());

    check_sample(16, true);
    check_sample(0, true);
    guest_write(8 * MiB, 5);
    g_assert_false(files_equal());
    check_sample(0, false);
    guest_write(0, 6);
    check_sample(2, false);
    if (changed) {
        bdrv_release_dirty_bitmap(changed);
    }
    teardown();
}

/* To be asked to end before it is ready is to be asked for then. */
static void test_finish_early(bool in_iothread)
{
    watch("finish early%s", where(in_iothread));
    setup(in_iothread);
    start(FT_COPY_MODE_FULL, NULL);
    ft_copy_finish(copy);
    wait_until(done);
    g_assert_cmpint(result, ==, 0);
    g_assert_cmpint(ready, <=, 1);
    g_assert_true(files_equal());
    ft_copy_cancel(copy);
    teardown();
}

static void test_cancel(bool in_iothread)
{
    for (int i = 0; i < 7; i++) {
        watch("cancel %d%s", i, where(in_iothread));
        setup(in_iothread);
        start(FT_COPY_MODE_FULL, NULL);
        for (int turn = 0; turn < i; turn++) {
            main_loop_wait(true);
        }
        cancel_inside = i == 6;
        if (i >= 5) {
            wait_until(ready);
        }
        ready = 0;
        ft_copy_cancel(copy);
        g_assert_true(blk_bs(guest)->file->bs == node);
        guest_write(2 * MiB, 5);
        wait_until(ft_copy_clients("ft-0") == 0);
        g_assert_cmpint(ready + done, ==, 0);
        teardown();
        cancel_inside = false;
    }
}

/* The session has ended it, the peer has gone, the export has gone. */
static void test_broken(bool in_iothread)
{
    for (int i = 0; i < 6; i++) {
        watch("broken %d%s", i, where(in_iothread));
        setup(in_iothread);
        start(FT_COPY_MODE_FULL, NULL);
        if (i >= 3) {
            wait_until(ready);
        }
        cancel_inside = i % 2;
        switch (i % 3) {
        case 0:
            ft_copy_break(copy);
            break;
        case 1:
            shutdown(server_fd, SHUT_RDWR);
            break;
        default:
            ft_copy_serve_end("ft-0", on_ended, NULL);
            wait_until(ended);
            g_assert_null(blk_exp_find("ft-0"));
            break;
        }
        guest_write(9 * MiB, 1);
        wait_until(done);
        g_assert_cmpint(result, <, 0);
        g_assert_nonnull(strstr(message, "'drive0'"));
        g_assert_nonnull(strstr(message, "connection"));
        g_assert_true(blk_bs(guest)->file->bs == node);
        ft_copy_cancel(copy);
        teardown();
        cancel_inside = false;
    }
}

static void *break_later(void *opaque)
{
    g_usleep(G_USEC_PER_SEC / 10);
    ft_copy_break(opaque);
    return NULL;
}

static void check_broken(void)
{
    wait_until(done);
    g_assert_cmpint(result, <, 0);
    g_assert_nonnull(strstr(message, "connection"));
}

/*
 * The backup hangs with requests on their way, and no room for more.  The
 * guest does not see it; each way to end it must have an end.
 */
static void test_hangs(bool in_iothread, bool tcp)
{
    QemuThread thread;

    for (int i = 0; i < 5; i++) {
        watch("backup hangs %d%s%s", i, tcp ? ", tcp" : "",
              where(in_iothread));
        images_open(in_iothread, SIZE);
        g_assert_true(ft_copy_serve(blk_bs(image), "ft-0", &error_abort));
        connect_by_relay(tcp);
        accept_server();
        start(FT_COPY_MODE_FULL, NULL);
        qatomic_set(&relay.hangs, true);
        wait_until(client_is_stuck());
        guest_write(9 * MiB, 1);
        g_assert_cmpint(ready + done, ==, 0);
        switch (i) {
        case 0:
            ft_copy_cancel(copy);
            break;
        case 1:
            ft_copy_finish(copy);
            ft_copy_cancel(copy);
            break;
        case 2:
            ft_copy_break(copy);
            check_broken();
            ft_copy_cancel(copy);
            break;
        case 3:
            /* a pause of the session, and its watch over the backup */
            qemu_thread_create(&thread, "break", break_later, copy,
                               QEMU_THREAD_JOINABLE);
            bdrv_drained_begin(node);
            bdrv_drained_end(node);
            qemu_thread_join(&thread);
            check_broken();
            ft_copy_cancel(copy);
            break;
        default:
            /* it dies after all, and nobody has to tell us */
            relay_end();
            check_broken();
            ft_copy_cancel(copy);
            break;
        }
        g_assert_cmpint(ready, ==, 0);
        g_assert_cmpint(done, ==, i >= 2);
        g_assert_true(blk_bs(guest)->file->bs == node);
        guest_write(2 * MiB, 5);
        if (i != 4) {
            relay_end();
        }
        wait_until(ft_copy_clients("ft-0") == 0);
        teardown();
    }
}

static void expect_refusal(const char *export_name, const char *word)
{
    Error *err = NULL;

    g_assert_null(ft_copy_start(node, "drive0", client, export_name,
                                FT_COPY_MODE_FULL, NULL, &ops, NULL, &err));
    if (!strstr(error_get_pretty(err), word) ||
        !strstr(error_get_pretty(err), "drive0")) {
        g_error("no '%s' in: %s", word, error_get_pretty(err));
    }
    error_free_or_abort(&err);
    g_assert_true(blk_bs(guest)->file->bs == node);
}

static void test_refused(void)
{
    Error *err = NULL;
    int64_t began;

    watch("refused");
    setup(false);
    g_assert_false(ft_copy_serve(blk_bs(image), "ft-0", &err));
    error_free_or_abort(&err);
    expect_refusal("ft-9", "not available");
    disconnect_sides();

    /* somebody who does not say a word */
    connect_sides();
    began = g_get_monotonic_time();
    expect_refusal("ft-0", "in time");
    g_assert_cmpint(g_get_monotonic_time() - began, <, 5 * G_USEC_PER_SEC);
    disconnect_sides();

    /* somebody who has gone */
    connect_sides();
    qio_channel_shutdown(QIO_CHANNEL(server), QIO_CHANNEL_SHUTDOWN_BOTH,
                         NULL);
    expect_refusal("ft-0", "cannot be opened");
    g_assert_cmpint(ready + done, ==, 0);
    teardown();

    images_open(false, SIZE + 65536);
    g_assert_true(ft_copy_serve(blk_bs(image), "ft-0", &error_abort));
    connect_sides();
    accept_server();
    expect_refusal("ft-0", "bytes");
    teardown();
}

static int count_fds(void)
{
    GDir *dir = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    g_dir_close(dir);
    return n;
}

static void test_all(gconstpointer data)
{
    bool in_iothread = GPOINTER_TO_INT(data);
    int fds;

    test_copy(in_iothread, FT_COPY_MODE_FULL);  /* makes threads and such */
    fds = count_fds();
    test_copy(in_iothread, FT_COPY_MODE_FULL);
    test_copy(in_iothread, FT_COPY_MODE_CHANGED);
    test_copy(in_iothread, FT_COPY_MODE_NONE);
    test_finish_early(in_iothread);
    test_cancel(in_iothread);
    test_broken(in_iothread);
    test_hangs(in_iothread, false);
    test_hangs(in_iothread, true);
    watch("file descriptors%s", where(in_iothread));
    wait_until(count_fds() == fds);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("ft-copy-XXXXXX", NULL);
    int ret;

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_assert_nonnull(dir);
    here = g_build_filename(dir, "here", NULL);
    there = g_build_filename(dir, "there", NULL);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    bdrv_init();
    iothread = iothread_new();
    qemu_mutex_init(&watchdog.lock);
    watch("start");
    qemu_thread_create(&watchdog.thread, "watchdog", watchdog_run, NULL,
                       QEMU_THREAD_JOINABLE);

    g_test_add_data_func("/ft/copy/main", GINT_TO_POINTER(false), test_all);
    g_test_add_data_func("/ft/copy/iothread", GINT_TO_POINTER(true),
                         test_all);
    g_test_add_func("/ft/copy/refused", test_refused);
    ret = g_test_run();

    watch("end");
    iothread_join(iothread);
    WITH_QEMU_LOCK_GUARD(&watchdog.lock) {
        watchdog.quit = true;
    }
    qemu_thread_join(&watchdog.thread);
    rmdir(dir);
    return ret;
}
