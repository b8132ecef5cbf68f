/*
 * Fuzz target: the primary, which calls anybody
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: which of the primary's calls is made, then for each connection that
 * it opens what it is answered: frames that fit or nearly, and bytes.  All of
 * that is sent at once, and then the end of the stream, so nobody waits.
 *
 * The call says yes only with all of its connections, or no with a reason, and
 * leaves none.  What a person gets to see of a reason is printable.  Whatever
 * comes after the handshake is frames, a bad one, or the end.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qemu/module.h"
#include "qemu/thread.h"
#include "migration/ft/link-private.h"
#include "migration/options.h"
#include "fuzz.h"

#define CONNECTIONS 4
#define ANSWERS_MAX 8
#define FIT         0       /* of the bits of an answer */
#define GENERATION  7
#define TIMEOUT_MS  5000

static const QemuUUID session = { .data = { 1, 2, 3 } };
static const uint8_t token[16] = "the token is it";

typedef struct World {
    FuzzInput *in;
    bool disk;                  /* a disk connection */
    unsigned count;             /* connections that have come */
    int fd[CONNECTIONS];
    int done[2];                /* a pipe: the call has returned */
    bool wrong;                 /* an answer was not what was asked for */

    FtLinks links;
    QIOChannelSocket *sioc;
    Error *err;
    bool ok;
} World;

static SocketAddress *address;
static int listening;

/* ------------------------------------------------- what the emulator has */

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

/* ------------------------------------------------------------ the answers */

static void add_frame(GByteArray *out, FtFrameType type, const void *payload,
                      size_t len)
{
    FtFrame f = { .type = type, .length = len,
                  .payload_crc = ft_wire_crc32c(0, payload, len) };
    uint8_t header[FT_WIRE_HEADER];

    ft_wire_put_header(header, &f);
    g_byte_array_append(out, header, sizeof(header));
    g_byte_array_append(out, payload ?: header, len);
}

/* A WELCOME; the bits of @odd make it one that is not as it should be. */
static void add_welcome(World *w, GByteArray *out, uint8_t odd)
{
    static const FtChannelKind kinds[CONNECTIONS] = {
        FT_CHANNEL_DATA, FT_CHANNEL_CONTROL, FT_CHANNEL_HEART,
        FT_CHANNEL_DATA,
    };
    uint8_t buf[FT_HELLO_SIZE], fit[FT_HELLO_SIZE];
    FtHello h = {
        .channel = w->disk ? FT_CHANNEL_DISK : kinds[w->count],
        .page_size = FT_PAGE_SIZE,
        .generation = w->disk ? 0 : GENERATION,
        .drive = w->disk ? 2 : 0,
    };

    memcpy(h.session, session.data, sizeof(h.session));
    memcpy(h.token, token, sizeof(h.token));
    ft_wire_put_hello(fit, &h);
    h.page_size = odd & 1 ? fuzz_u16(w->in) : h.page_size;
    h.generation = odd & 2 ? fuzz_u8(w->in) : h.generation;
    h.features = odd & 4 ? fuzz_u8(w->in) : h.features;
    ft_wire_put_hello(buf, &h);
    if (odd & 8) {
        /* anything, anywhere */
        buf[fuzz_u8(w->in) % sizeof(buf)] ^= fuzz_u8(w->in);
    }
    /* the token may be any */
    w->wrong |= !out->len &&
                (memcmp(buf, fit, 16) ||
                 memcmp(buf + 32, fit + 32, sizeof(buf) - 32));
    add_frame(out, FT_FRAME_WELCOME, buf, sizeof(buf));
}

static void add_answer(World *w, GByteArray *out, uint8_t what)
{
    g_autofree uint8_t *bytes = NULL;
    size_t n;

    switch (what % 8) {
    case 1:
        add_welcome(w, out, FIT);
        break;
    case 2:
        add_welcome(w, out, what >> 3);
        break;
    case 3:
        add_frame(out, FT_FRAME_READY, NULL, 0);
        break;
    case 4:
    case 5:
        bytes = fuzz_block(w->in, fuzz_u8(w->in), &n);
        add_frame(out, what % 8 == 4 ? FT_FRAME_ERROR : what >> 3, bytes, n);
        break;
    default:
        bytes = fuzz_block(w->in, fuzz_u8(w->in), &n);
        g_byte_array_append(out, bytes ?: &what, n);
        break;
    }
}

static GByteArray *make_answer(World *w)
{
    GByteArray *out = g_byte_array_new();
    unsigned i, frames = 0;

    for (i = 0; i < ANSWERS_MAX; i++) {
        uint8_t what = fuzz_u8(w->in);
        unsigned len = out->len;
        FtFrameType type = what % 8 < 3 ? FT_FRAME_WELCOME :
                           what % 8 == 3 ? FT_FRAME_READY :
                           what % 8 == 5 ? what >> 3 : FT_FRAME_ERROR;

        if (what % 8 == 0) {
            break;
        }
        add_answer(w, out, what);
        if (out->len == len) {
            continue;
        }
        /* what is asked for: a WELCOME, and then READY on data */
        w->wrong |= (frames == 0 && type != FT_FRAME_WELCOME) ||
                    (frames == 1 && type != FT_FRAME_READY && !w->disk &&
                     w->count == 0);
        frames++;
    }
    w->wrong |= frames < (w->disk || w->count ? 1 : 2);
    return out;
}

/* --------------------------------------------------------------- the call */

static void *call_thread(void *opaque)
{
    World *w = opaque;
    uint8_t got[16];

    if (w->disk) {
        w->sioc = ft_link_open_disk(address, NULL, &session, token, 2,
                                    TIMEOUT_MS, &w->err);
        w->ok = w->sioc != NULL;
    } else {
        w->ok = ft_link_open(address, NULL, &session, GENERATION, 0,
                             "machine", TIMEOUT_MS, &w->links, got, &w->err);
    }
    close(w->done[1]);
    return NULL;
}

/* Answer whoever connects until the call has returned. */
static void serve(World *w)
{
    for (;;) {
        struct pollfd pfd[] = {
            { .fd = w->done[0], .events = POLLIN },
            { .fd = listening, .events = POLLIN },
        };
        g_autoptr(GByteArray) answer = NULL;
        int fd, n;

        /* the fuzzer has a timer */
        n = RETRY_ON_EINTR(poll(pfd, 2, 2 * TIMEOUT_MS));
        g_assert_cmpint(n, >, 0);
        if (!pfd[1].revents) {
            return;
        }
        fd = RETRY_ON_EINTR(accept(listening, NULL, NULL));
        g_assert_cmpint(fd, >=, 0);
        /* three for a session; one that fails is not tried again */
        g_assert_cmpuint(w->count, <, CONNECTIONS - 1);
        answer = make_answer(w);
        send(fd, answer->data ?: (uint8_t *)"", answer->len,
             MSG_NOSIGNAL | MSG_DONTWAIT);
        shutdown(fd, SHUT_WR);
        w->fd[w->count++] = fd;
    }
}

/* What follows the handshake is whatever was sent behind it. */
static void read_on(FtLink *l)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtFrame f;
    bool bad;
    int ret;

    do {
        Error *err = NULL;
        g_autofree char *text = NULL;
        const char *c;

        ret = ft_link_recv(l, &f, buf, &bad, &err);
        g_assert_true((ret < 0) == !!err);
        g_assert_false(bad && ret >= 0);
        error_free(err);
        if (ret > 0) {
            g_assert_cmpuint(buf->len, ==, f.length);
            text = ft_link_text(buf);
            for (c = text; *c; c++) {
                g_assert_true(g_ascii_isprint(*c));
            }
        }
    } while (ret > 0);
}

static void check_links(World *w)
{
    const char *c;

    g_assert_true(w->ok == !w->err);
    if (!w->ok) {
        g_assert_true(!w->links.data && !w->links.control &&
                      !w->links.heart && !w->sioc);
        for (c = error_get_pretty(w->err); *c; c++) {
            g_assert_true(g_ascii_isprint(*c));
        }
        error_free(w->err);
        return;
    }
    g_assert_false(w->wrong);
    if (w->disk) {
        g_assert_cmpuint(w->count, ==, 1);
        object_unref(OBJECT(w->sioc));
    } else {
        g_assert_cmpuint(w->count, ==, 3);
        read_on(w->links.data);
        read_on(w->links.control);
        read_on(w->links.heart);
        ft_links_clear(&w->links);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    unsigned fds = fuzz_fds(), threads = fuzz_threads();
    World w = { .in = &in };
    QemuThread thread;
    unsigned i;

    w.disk = fuzz_u8(&in) & 1;
    g_assert_true(g_unix_open_pipe(w.done, FD_CLOEXEC, NULL));
    qemu_thread_create(&thread, "primary", call_thread, &w,
                       QEMU_THREAD_JOINABLE);
    serve(&w);
    qemu_thread_join(&thread);
    check_links(&w);
    for (i = 0; i < w.count; i++) {
        close(w.fd[i]);
    }
    close(w.done[0]);
    fuzz_wait_threads(threads);
    g_assert_cmpuint(fuzz_fds(), ==, fds);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    g_autofree char *name = g_strdup_printf("ft-fuzz-%d", getpid());
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);

    /* of the abstract kind: no file is left */
    address = g_new0(SocketAddress, 1);
    address->type = SOCKET_ADDRESS_TYPE_UNIX;
    address->u.q_unix.path = g_strdup(name);
    address->u.q_unix.has_abstract = true;
    address->u.q_unix.abstract = true;
    address->u.q_unix.has_tight = true;
    address->u.q_unix.tight = true;
    pstrcpy(sa.sun_path + 1, sizeof(sa.sun_path) - 1, name);
    listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listening, (struct sockaddr *)&sa,
                         offsetof(struct sockaddr_un, sun_path) + 1 +
                         strlen(name)), ==, 0);
    g_assert_cmpint(listen(listening, CONNECTIONS), ==, 0);
    return 0;
}
