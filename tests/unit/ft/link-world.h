/*
 * Unit tests: a backup that listens in this process's main loop, and callers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The primary's calls, which block, are made in threads (Call).  The main
 * thread has the BQL, a real one, as in the emulator, but when it sleeps.
 */

#ifndef TESTS_UNIT_FT_LINK_WORLD_H
#define TESTS_UNIT_FT_LINK_WORLD_H

#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/rcu.h"
#include "qemu/sockets.h"
#include "migration/ft/link-private.h"
#include "qapi/qapi-types-migration.h"
#include "migration/options.h"

#define WAIT_US     (30 * G_USEC_PER_SEC)
#define GREETING    "NBDMAGIC"

/* ------------------------------------------------ what the emulator has */

static QemuMutex bql;
static __thread bool bql_mine;

bool bql_locked(void)
{
    return bql_mine;
}

void bql_lock_impl(const char *file, int line)
{
    g_assert_false(bql_mine);
    qemu_mutex_lock(&bql);
    bql_mine = true;
}

void bql_unlock(void)
{
    g_assert_true(bql_mine);
    bql_mine = false;
    qemu_mutex_unlock(&bql);
}

void bql_block_unlock(bool increase)
{
}

void rust_bql_mock_lock(void)
{
}

void ft_main_loop(QEMUBHFunc *fn, void *opaque)
{
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), fn, opaque);
}

static const char *tls_creds, *tls_hostname, *tls_authz;

const char *migrate_tls_creds(void)
{
    return tls_creds;
}

const char *migrate_tls_hostname(void)
{
    return tls_hostname;
}

const char *migrate_tls_authz(void)
{
    return tls_authz;
}

struct FtArbiter {
    int refs;
    int asked;              /* atomic */
    int timeout_ms;
    bool wrong;             /* the proof is not there */
};

static FtArbiter arbiter;

bool ft_arbiter_verify(FtArbiter *a, const char *proof, int timeout_ms,
                       Error **errp)
{
    /* It may take long. */
    g_assert_false(bql_locked());
    g_assert_true(a == &arbiter && a->refs == 1);
    g_assert_cmpstr(proof, ==, "c0ffee");
    a->timeout_ms = timeout_ms;
    qatomic_inc(&a->asked);
    if (a->wrong) {
        error_setg(errp, "another directory");
    }
    return !a->wrong;
}

void ft_arbiter_unref(FtArbiter *a)
{
    g_assert_cmpint(a->refs--, ==, 1);
}

/* ------------------------------------------------------------ the backup */

static SocketAddress *address;
static QemuUUID session = { .data = { 1, 2, 3 } };

static FtListener *listener;
static FtLinks b_links;
static int adoptions, pairs, disks;
static uint32_t last_drive;
static QIOChannelSocket *last_sioc;
static bool refuse_machine, with_arbiter;

static bool on_adopt(void *opaque, const FtHello *hello, const char *text,
                     size_t len, FtArbiter **a, char **proof, Error **errp)
{
    g_assert_true(bql_locked());
    g_assert_cmpuint(hello->generation, ==, 7);
    g_assert_cmpint(hello->channel, ==, FT_CHANNEL_DATA);
    g_assert_false(memcmp(hello->session, session.data, 16));
    adoptions++;
    if (with_arbiter) {
        arbiter.refs++;
        *a = &arbiter;
        *proof = g_strdup("c0ffee");
    }
    if (refuse_machine) {
        error_setg(errp, "another machine");
        return false;
    }
    g_assert_true(len == 7 && !memcmp(text, "machine", 7));
    return true;
}

static void on_pair(void *opaque, FtLinks *links, const FtHello *hello)
{
    g_assert_true(bql_locked());
    g_assert_cmpuint(hello->generation, ==, 7);
    pairs++;
    b_links = *links;
}

G_GNUC_UNUSED
static void on_disk(void *opaque, uint32_t drive, QIOChannelSocket *sioc)
{
    g_assert_true(bql_locked());
    disks++;
    last_drive = drive;
    g_clear_pointer(&last_sioc, object_unref);
    last_sioc = sioc;
    object_ref(OBJECT(sioc));
    /* as NBD's server does */
    g_assert_cmpint(qio_channel_write_all(QIO_CHANNEL(sioc), GREETING, 8,
                                          NULL), ==, 0);
}

static void setup_tls(FtTls *tls)
{
    adoptions = pairs = disks = 0;
    refuse_machine = with_arbiter = false;
    listener = ft_listener_new(address, tls, on_adopt, on_pair, NULL,
                               &error_abort);
}

G_GNUC_UNUSED
static void setup(void)
{
    setup_tls(NULL);
}

G_GNUC_UNUSED
static void teardown(FtLinks *links)
{
    ft_listener_free(listener);
    listener = NULL;
    ft_links_clear(links);
    ft_links_clear(&b_links);
    g_clear_pointer(&last_sioc, object_unref);
}

/* --------------------------------------------- the primary, in a thread */

typedef struct Call {
    bool (*fn)(struct Call *c);
    void *opaque;
    FtTls *tls;
    uint8_t token[16];
    uint32_t drive;
    FtLinks links;
    QIOChannelSocket *sioc;
    Error *err;
    bool ok;
    int finished;       /* atomic */
    QemuThread thread;
} Call;

static bool call_open(Call *c)
{
    return ft_link_open(address, c->tls, &session, 7, 0, "machine", 5000,
                        &c->links, c->token, &c->err);
}

G_GNUC_UNUSED
static bool call_disk(Call *c)
{
    c->sioc = ft_link_open_disk(address, c->tls, &session, c->token, c->drive,
                                5000, &c->err);
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

/* Some turns of the main loop. */
static void turn(void)
{
    main_loop_wait(true);
    bql_unlock();
    g_usleep(200);
    bql_lock();
}

static void wait_for(const int *what)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;

    while (!qatomic_read(what)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        turn();
    }
}

static bool call_end(Call *c)
{
    wait_for(&c->finished);
    qemu_thread_join(&c->thread);
    g_assert_cmpint(c->ok, ==, !c->err);
    return c->ok;
}

static void error_has(Error **err, const char *word)
{
    if (!*err || !strstr(error_get_pretty(*err), word)) {
        g_error("no '%s' in: %s", word,
                *err ? error_get_pretty(*err) : "no error");
    }
    error_free(*err);
    *err = NULL;
}

G_GNUC_UNUSED
static void call_refused(Call *c, bool (*fn)(Call *c), const char *word)
{
    call_begin(c, fn);
    g_assert_false(call_end(c));
    error_has(&c->err, word);
}

G_GNUC_UNUSED
static void open_session(Call *c)
{
    int before = pairs;

    call_begin(c, call_open);
    if (!call_end(c)) {
        g_error("not let in: %s", error_get_pretty(c->err));
    }
    wait_for(&pairs);
    g_assert_cmpint(pairs, ==, before + 1);
    /* The handshake's time does not count for what follows. */
    g_assert_true(!c->links.data->deadline && !b_links.data->deadline &&
                  !c->links.control->deadline && !b_links.control->deadline &&
                  !c->links.heart->deadline && !b_links.heart->deadline);
}

/* A frame from @from, which must be what @to gets next. */
static void frame_passes(FtLink *from, FtLink *to, uint64_t epoch)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtFrame f;
    bool bad;

    g_assert_true(ft_link_send(from, FT_FRAME_DISARM, 0, epoch, "x", 1,
                               &error_abort));
    g_assert_cmpint(ft_link_recv(to, &f, buf, &bad, &error_abort), ==, 1);
    g_assert_cmpuint(f.epoch, ==, epoch);
    g_assert_cmpuint(buf->len, ==, 1);
}

G_GNUC_UNUSED
static void session_works(FtLinks *a, FtLinks *b)
{
    frame_passes(a->data, b->data, 1);
    frame_passes(a->control, b->control, 2);
    frame_passes(a->heart, b->heart, 3);
    frame_passes(b->data, a->data, 4);
    frame_passes(b->control, a->control, 5);
    frame_passes(b->heart, a->heart, 6);
}

/* The NBD of a disk connection: both ends are where they should be. */
G_GNUC_UNUSED
static void disk_works(Call *c)
{
    char text[9] = "";

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
}

/* A plain pair of links. */
G_GNUC_UNUSED
static FtLink *link_of(int fd)
{
    QIOChannelSocket *sioc = qio_channel_socket_new_fd(fd, &error_abort);
    FtLink *link = ft_link_new(QIO_CHANNEL(sioc));

    object_unref(OBJECT(sioc));
    return link;
}

static void link_pair(FtLink *link[2])
{
    int fds[2];

    g_assert_cmpint(qemu_socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    for (int i = 0; i < 2; i++) {
        link[i] = link_of(fds[i]);
    }
}

/* Before all else.  The directory is to be removed by world_end(). */
static char *world_begin(const char *template)
{
    g_autofree char *path = NULL;
    char *dir = g_dir_make_tmp(template, NULL);

    g_assert_nonnull(dir);
    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    qemu_mutex_init(&bql);
    bql_lock();
    qemu_init_main_loop(&error_abort);
    path = g_strdup_printf("unix:%s/socket", dir);
    address = socket_parse(path, &error_abort);
    return dir;
}

static void world_end(char *dir)
{
    unlink(address->u.q_unix.path);
    qapi_free_SocketAddress(address);
    rmdir(dir);
    g_free(dir);
    bql_unlock();
}

#endif
