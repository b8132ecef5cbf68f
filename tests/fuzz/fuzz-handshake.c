/*
 * Fuzz target: the backup's listener, called by anybody
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a run of steps of up to CLIENTS callers, who connect to a real
 * listener (a unix socket without a file), send frames that fit, frames that
 * do not, and bytes, read what they are told, and hang up; and of the backup:
 * turns of its main loop, disks that it expects, its end.
 *
 * What is sent back always decodes.  A session is paired once at most, of
 * three connections that have shown its token, and with a machine that was
 * adopted; disks only after that.  In the end no thread, descriptor or byte is
 * left.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "qemu/cutils.h"
#include "qemu/thread.h"
#include "qemu/error-report.h"

static int fuzz_poll(struct pollfd *pfd, nfds_t n, int ms);
static void fuzz_wait(QemuCond *cond, QemuMutex *lock, int ms);
static void fuzz_broadcast(QemuCond *cond);
static void fuzz_thread_create(QemuThread *thread, const char *name,
                               void *(*fn)(void *), void *arg, int mode);
static void G_GNUC_PRINTF(1, 2) fuzz_warn(const char *fmt, ...);

/* It is known which threads wait, they are joined, and nothing is printed. */
#define poll fuzz_poll
#include "migration/ft/link.c"
#undef qemu_cond_timedwait
#define qemu_cond_timedwait fuzz_wait
#define qemu_cond_broadcast fuzz_broadcast
#define qemu_thread_create fuzz_thread_create
#define warn_report fuzz_warn
#include "migration/ft/listener.c"
#undef poll
#undef qemu_cond_timedwait
#undef qemu_cond_broadcast
#undef qemu_thread_create
#undef warn_report

#include "qemu/module.h"
#include "migration/options.h"
#include "fuzz.h"

#define CLIENTS     6
#define DRIVES      3
#define STEPS_MAX   64
#define THREADS_MAX (STEPS_MAX + 1)
/* In place of the time after which a caller's thread looks up. */
#define LOOK_MS     2
#define QUIET_US    (5 * G_USEC_PER_SEC)

typedef struct Client {
    int fd;                     /* -1: not connected */
    unsigned said;              /* things, since it is connected */
    bool ready;                 /* it has a session, for all it knows */
    bool hello_is_first;
    FtHello hello;
    GByteArray *in;             /* of what came: less than a frame */
} Client;

/* A caller's thread, as seen from outside. */
typedef struct Thread {
    QemuThread thread;
    void *(*fn)(void *);
    void *arg;
    bool quiet;                 /* it can do nothing until something comes */
    struct pollfd waits;        /* quiet: for that, or fd -1 */
} Thread;

typedef struct World {
    FtListener *listener;
    Client client[CLIENTS];
    Thread thread[THREADS_MAX];
    unsigned threads;
    uint8_t token[16];          /* the last that was in a WELCOME */

    bool free_in_pair;
    unsigned adopted;           /* machines that were good */
    FtHello hello[THREADS_MAX]; /* [adopted], of these */
    unsigned pairs;
    FtLinks links;
    unsigned disks;             /* that are expected, 0: none */
    bool disk_seen[DRIVES];
} World;

static World w;
static QemuMutex threads_lock;  /* for the threads' quiet and waits */
static __thread Thread *self;
static SocketAddress *address;
static struct sockaddr_un sockaddr = { .sun_family = AF_UNIX };
static socklen_t sockaddr_len;

/* ------------------------------------------------- what the emulator has */

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

const char *migrate_tls_creds(void)
{
    return NULL;
}

const char *migrate_tls_hostname(void)
{
    return NULL;
}

const char *migrate_tls_authz(void)
{
    return NULL;
}

struct FtArbiter {
    bool there;
};

bool ft_arbiter_verify(FtArbiter *a, const char *proof, int timeout_ms,
                       Error **errp)
{
    g_assert_false(bql_locked());
    g_assert_cmpint(timeout_ms, >, 0);
    g_assert_cmpstr(proof, ==, "proof");
    if (!a->there) {
        error_setg(errp, "another directory");
    }
    return a->there;
}

void ft_arbiter_unref(FtArbiter *a)
{
    g_free(a);
}

/* ---------------------------------------------------- the callers' threads */

static void set_quiet(bool quiet, int fd, short events)
{
    if (self) {
        QEMU_LOCK_GUARD(&threads_lock);
        self->quiet = quiet;
        self->waits = (struct pollfd) { .fd = fd, .events = events };
    }
}

static int fuzz_poll(struct pollfd *pfd, nfds_t n, int ms)
{
    int ret;

    if (ms) {
        set_quiet(true, pfd->fd, pfd->events);
    }
    ret = poll(pfd, n, ms);
    if (ms) {
        set_quiet(false, -1, 0);
    }
    return ret;
}

static void fuzz_wait(QemuCond *cond, QemuMutex *lock, int ms)
{
    set_quiet(true, -1, 0);
    qemu_cond_timedwait(cond, lock, LOOK_MS);
    set_quiet(false, -1, 0);
}

static void fuzz_broadcast(QemuCond *cond)
{
    unsigned i;

    WITH_QEMU_LOCK_GUARD(&threads_lock) {
        /* those that wait for it, which have no descriptor */
        for (i = 0; i < w.threads; i++) {
            if (w.thread[i].fn && w.thread[i].waits.fd < 0) {
                w.thread[i].quiet = false;
            }
        }
    }
    qemu_cond_broadcast(cond);
}

static void *fuzz_thread(void *opaque)
{
    self = opaque;
    self->fn(self->arg);
    QEMU_LOCK_GUARD(&threads_lock);
    self->fn = NULL;
    self->quiet = true;
    return NULL;
}

static void fuzz_thread_create(QemuThread *thread, const char *name,
                               void *(*fn)(void *), void *arg, int mode)
{
    Thread *t = &w.thread[w.threads];

    g_assert_cmpuint(w.threads, <, THREADS_MAX);
    WITH_QEMU_LOCK_GUARD(&threads_lock) {
        *t = (Thread) { .fn = fn, .arg = arg, .waits.fd = -1 };
        w.threads++;
    }
    qemu_thread_create(&t->thread, name, fuzz_thread, t,
                       QEMU_THREAD_JOINABLE);
}

static bool all_quiet(void)
{
    unsigned i;

    QEMU_LOCK_GUARD(&threads_lock);
    for (i = 0; i < w.threads; i++) {
        Thread *t = &w.thread[i];

        if (!t->quiet || (t->waits.fd >= 0 && poll(&t->waits, 1, 0) > 0)) {
            return false;
        }
    }
    return true;
}

/* Until nothing happens unless somebody says something. */
static void wait_quiet(void)
{
    int64_t end = g_get_monotonic_time() + QUIET_US;

    bql_unlock();
    while (!all_quiet()) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(20);
    }
    bql_lock();
}

static void fuzz_warn(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_assert_true(*text);
}

/* ------------------------------------------------------------- the backup */

/* Machines that begin with "m" are good; "ma" has an arbiter, "mA" one that
 * is not there. */
static bool on_adopt(void *opaque, const FtHello *hello, const char *text,
                     size_t len, FtArbiter **a, char **proof, Error **errp)
{
    g_assert_true(bql_locked());
    g_assert_cmpint(hello->channel, ==, FT_CHANNEL_DATA);
    g_assert_cmpuint(hello->page_size, ==, FT_PAGE_SIZE);
    g_assert_cmphex(hello->features & ~FT_FEATURES, ==, 0);
    if (len > 1 && (text[1] == 'a' || text[1] == 'A')) {
        *a = g_new0(FtArbiter, 1);
        (*a)->there = text[1] == 'a';
        *proof = g_strdup("proof");
    }
    if (!len || text[0] != 'm') {
        /* longer than a frame may have it */
        error_setg(errp, "another machine: %02000zu", len);
        return false;
    }
    w.hello[w.adopted++] = *hello;
    return true;
}

/* Is there a machine that was adopted for that session and token? */
static bool was_adopted(const FtHello *hello)
{
    unsigned i;

    for (i = 0; i < w.adopted; i++) {
        const FtHello *h = &w.hello[i];

        if (!memcmp(h->token, hello->token, sizeof(h->token)) &&
            !memcmp(h->session, hello->session, sizeof(h->session)) &&
            (h->generation == hello->generation ||
             hello->channel == FT_CHANNEL_DISK)) {
            return true;
        }
    }
    return false;
}

static void on_pair(void *opaque, FtLinks *links, const FtHello *hello)
{
    g_assert_true(bql_locked());
    g_assert_cmpuint(++w.pairs, ==, 1);
    g_assert_cmpuint(w.adopted, >, 0);
    g_assert_true(links->data && links->control && links->heart);
    g_assert_true(links->data != links->control &&
                  links->data != links->heart &&
                  links->control != links->heart);
    g_assert_true(was_adopted(hello));
    w.links = *links;
    if (w.free_in_pair) {
        ft_listener_free(g_steal_pointer(&w.listener));
    }
}

static void on_disk(void *opaque, uint32_t drive, QIOChannelSocket *sioc)
{
    g_assert_true(bql_locked());
    g_assert_nonnull(w.listener);
    g_assert_cmpuint(w.pairs, ==, 1);
    g_assert_cmpuint(drive, <, w.disks);
    g_assert_false(w.disk_seen[drive]);
    w.disk_seen[drive] = true;
    /* NBD's server speaks first; nobody here listens */
    qio_channel_write(QIO_CHANNEL(sioc), "NBDMAGIC", 8, NULL);
}

/* ------------------------------------------------------------ the callers */

static void client_close(Client *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    c->said = 0;
    c->ready = false;
    c->hello_is_first = false;
    g_byte_array_set_size(c->in, 0);
}

static void client_connect(Client *c)
{
    unsigned i, threads = w.threads;

    client_close(c);
    if (!w.listener || w.threads == STEPS_MAX) {
        return;
    }
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    g_assert_cmpint(c->fd, >=, 0);
    if (connect(c->fd, (struct sockaddr *)&sockaddr, sockaddr_len) < 0) {
        client_close(c);
        return;
    }
    /* the ninth at once gets no thread */
    for (i = 0; i < 8 && w.threads == threads; i++) {
        main_loop_wait(true);
    }
}

static void client_send(Client *c, const void *data, size_t len)
{
    if (c->fd >= 0 && len) {
        send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        c->said++;
    }
}

static void client_frame(Client *c, const FtFrame *frame, const void *payload)
{
    uint8_t header[FT_WIRE_HEADER];
    FtFrame f = *frame;

    f.payload_crc = ft_wire_crc32c(0, payload, f.length);
    ft_wire_put_header(header, &f);
    client_send(c, header, sizeof(header));
    client_send(c, payload, f.length);
}

/* A HELLO; the bits of @odd make it one that is not as it should be. */
static void client_hello(Client *c, FuzzInput *in)
{
    uint8_t channel = fuzz_u8(in), odd = fuzz_u8(in);
    uint8_t buf[FT_HELLO_SIZE];
    FtHello h = {
        .session = { odd & 1 },
        .channel = channel >> 6 ? channel : channel % 5,
        .features = odd & 2 ? fuzz_u8(in) : 0,
        .page_size = odd & 4 ? fuzz_u16(in) : FT_PAGE_SIZE,
        .generation = odd & 8 ? fuzz_u8(in) : 7,
        .drive = channel % 5 == FT_CHANNEL_DISK ? channel / 5 % 5 : 0,
    };

    memcpy(h.token, w.token, sizeof(h.token));
    if (odd & 16) {
        h.token[odd >> 5] ^= 1;
    }
    ft_wire_put_hello(buf, &h);
    if (!c->said) {
        c->hello_is_first = true;
        c->hello = h;
    }
    client_frame(c, &(FtFrame) { .type = FT_FRAME_HELLO,
                                 .length = sizeof(buf) }, buf);
}

/* What the backup has sent is always good. */
static void client_got(Client *c)
{
    Error *err = NULL;
    FtHello h;
    FtFrame f;
    unsigned i;

    while (c->in->len >= FT_WIRE_HEADER) {
        const uint8_t *payload = c->in->data + FT_WIRE_HEADER;

        if (!memcmp(c->in->data, "NBDM", 4)) {
            g_byte_array_set_size(c->in, 0);
            return;
        }
        g_assert_true(fuzz_result(ft_wire_get_header(c->in->data, &f, &err),
                                  err));
        if (c->in->len < FT_WIRE_HEADER + f.length) {
            return;
        }
        g_assert_true(ft_wire_check_payload(&f, payload, &error_abort));
        switch (f.type) {
        case FT_FRAME_WELCOME:
            g_assert_true(ft_wire_get_hello(payload, f.length, &h,
                                            &error_abort));
            if (h.channel == FT_CHANNEL_DATA) {
                memcpy(w.token, h.token, sizeof(h.token));
            } else {
                g_assert_true(!c->hello_is_first || was_adopted(&c->hello));
            }
            break;
        case FT_FRAME_READY:
            g_assert_cmpuint(w.adopted, >, 0);
            for (i = 0; i < CLIENTS; i++) {
                g_assert_false(w.client[i].ready);
            }
            c->ready = true;
            break;
        case FT_FRAME_ERROR:
            g_assert_cmpuint(f.length, >, 0);
            g_assert_cmpuint(f.length, <=, FT_WIRE_TEXT_MAX);
            break;
        default:
            g_assert_not_reached();
        }
        g_byte_array_remove_range(c->in, 0, FT_WIRE_HEADER + f.length);
    }
}

static void client_read(Client *c)
{
    uint8_t buf[4096];
    ssize_t n;

    wait_quiet();
    if (c->fd >= 0) {
        n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n > 0) {
            g_byte_array_append(c->in, buf, n);
            client_got(c);
        }
    }
}

/* ------------------------------------------------------------------ steps */

static void step_raw(Client *c, FuzzInput *in, bool framed)
{
    FtFrame f = { .type = FT_FRAME_MACHINE };
    g_autofree uint8_t *data = NULL;
    size_t n;

    if (framed) {
        f.type = fuzz_u8(in);
        f.flags = fuzz_u8(in);
    }
    data = fuzz_block(in, fuzz_u8(in), &n);
    f.length = n;
    if (framed) {
        client_frame(c, &f, data);
    } else {
        client_send(c, data, n);
    }
}

static void step_backup(uint8_t what)
{
    if (what < 0x60 && w.pairs && w.listener) {
        w.disks = what / 8 % (DRIVES + 1);
        memset(w.disk_seen, 0, sizeof(w.disk_seen));
        ft_listener_expect_disks(w.listener, w.disks, on_disk, NULL);
    } else if (what >= 0xf0) {
        ft_listener_free(g_steal_pointer(&w.listener));
    }
    main_loop_wait(true);
}

static void step(FuzzInput *in)
{
    uint8_t what = fuzz_u8(in);
    Client *c = &w.client[what / 8 % CLIENTS];

    switch (what % 8) {
    case 0:
        client_connect(c);
        break;
    case 1:
        client_hello(c, in);
        break;
    case 2:
        client_frame(c, &(FtFrame) { .type = FT_FRAME_MACHINE, .length = 7 },
                     what & 0x80 ? "mAchine" : what & 0x40 ? "machine" :
                                                             "michine");
        break;
    case 3:
        step_raw(c, in, what & 0x80);
        break;
    case 4:
        client_read(c);
        main_loop_wait(true);
        break;
    case 5:
        client_read(c);
        break;
    case 6:
        if (c->fd >= 0 && what & 0x80) {
            shutdown(c->fd, SHUT_WR);
            c->ready = false;
        } else {
            client_close(c);
        }
        break;
    case 7:
        step_backup(what);
        break;
    }
}

static void finish(void)
{
    unsigned i;

    for (i = 0; i < CLIENTS; i++) {
        client_read(&w.client[i]);
        client_close(&w.client[i]);
        g_byte_array_unref(w.client[i].in);
    }
    ft_listener_free(g_steal_pointer(&w.listener));
    bql_unlock();
    for (i = 0; i < w.threads; i++) {
        qemu_thread_join(&w.thread[i].thread);
    }
    bql_lock();
    for (i = 0; i < 3; i++) {
        main_loop_wait(true);
    }
    ft_links_clear(&w.links);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    unsigned fds = fuzz_fds();
    unsigned i;

    w = (World) { .free_in_pair = fuzz_u8(&in) & 1 };
    for (i = 0; i < CLIENTS; i++) {
        w.client[i] = (Client) { .fd = -1, .in = g_byte_array_new() };
    }
    w.listener = ft_listener_new(address, NULL, on_adopt, on_pair, NULL,
                                 &error_abort);
    for (i = 0; i < STEPS_MAX && in.left; i++) {
        step(&in);
    }
    finish();
    g_assert_cmpuint(fuzz_fds(), ==, fds);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    g_autofree char *name = g_strdup_printf("ft-fuzz-%d", getpid());

    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    qemu_mutex_init(&threads_lock);
    qemu_mutex_init(&bql);
    bql_lock();
    qemu_init_main_loop(&error_abort);

    address = g_new0(SocketAddress, 1);
    address->type = SOCKET_ADDRESS_TYPE_UNIX;
    address->u.q_unix.path = g_strdup(name);
    address->u.q_unix.has_abstract = true;
    address->u.q_unix.abstract = true;
    address->u.q_unix.has_tight = true;
    address->u.q_unix.tight = true;
    pstrcpy(sockaddr.sun_path + 1, sizeof(sockaddr.sun_path) - 1, name);
    sockaddr_len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    return 0;
}
