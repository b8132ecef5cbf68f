/*
 * Fault tolerance: the handshake, from the primary's side
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each step under one deadline:
 *
 *   data      primary: HELLO               backup: WELCOME with a token
 *             primary: MACHINE             backup: READY
 *   control   primary: HELLO with it       backup: WELCOME
 *   heart     primary: HELLO with it       backup: WELCOME
 *   disk      primary: HELLO with it       backup: WELCOME, then NBD
 *
 * An ERROR frame with a text can stand for each answer.  There is a disk
 * connection for each drive that is copied, at any time in the session.  With
 * TLS each of them begins with TLS's own handshake (tls.c).
 *
 * The backup's side is in listener.c.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "link-private.h"
#include "relay.h"

bool ft_hello_recv(FtLink *l, const char *peer, FtFrameType want,
                   GByteArray *buf, bool *silent, Error **errp)
{
    ERRP_GUARD();
    FtFrame f;
    bool bad;
    int ret = ft_link_recv(l, &f, buf, &bad, errp);

    if (silent) {
        *silent = ret == 0;
    }
    if (ret < 0) {
        error_prepend(errp, "handshake with the %s failed: ", peer);
        return false;
    }
    if (ret == 0) {
        error_setg(errp, "handshake failed: the %s has closed the connection",
                   peer);
        return false;
    }
    if (f.type == FT_FRAME_ERROR) {
        g_autofree char *text = ft_link_text(buf);

        error_setg(errp, "the %s refused: %s", peer, text);
        return false;
    }
    if (f.type != want) {
        error_setg(errp, "handshake failed: the %s sent %s instead of %s",
                   peer, ft_wire_type_name(f.type), ft_wire_type_name(want));
        return false;
    }
    return true;
}

/* The primary's side: if writing fails, the reason may be there to be read. */
static bool hello_send(FtLink *l, FtFrameType type, const void *payload,
                       size_t len, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    Error *err = NULL;
    FtFrame f;
    bool bad;

    if (ft_link_send(l, type, 0, 0, payload, len, &err)) {
        return true;
    }
    if (ft_link_recv(l, &f, buf, &bad, NULL) == 1 &&
        f.type == FT_FRAME_ERROR) {
        g_autofree char *text = ft_link_text(buf);

        error_setg(errp, "the backup refused: %s", text);
        error_free(err);
    } else {
        error_propagate_prepend(errp, err,
                                "handshake with the backup failed: ");
    }
    return false;
}

/* The primary's HELLO and the backup's answer to it, which goes to @welcome */
static bool hello_exchange(FtLink *l, const FtHello *hello, FtHello *welcome,
                           Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    uint8_t out[FT_HELLO_SIZE];

    ft_wire_put_hello(out, hello);
    if (!hello_send(l, FT_FRAME_HELLO, out, sizeof(out), errp) ||
        !ft_hello_recv(l, "backup", FT_FRAME_WELCOME, buf, NULL, errp) ||
        !ft_wire_get_hello(buf->data, buf->len, welcome, errp)) {
        return false;
    }
    if (memcmp(welcome->session, hello->session, sizeof(hello->session))) {
        error_setg(errp, "the backup answers for another session");
        return false;
    }
    if (welcome->channel != hello->channel ||
        welcome->drive != hello->drive) {
        error_setg(errp, "the backup answers for channel %d, drive %" PRIu32
                   " instead of channel %d, drive %" PRIu32, welcome->channel,
                   welcome->drive, hello->channel, hello->drive);
        return false;
    }
    if (welcome->generation != hello->generation) {
        error_setg(errp, "the backup answers for generation %" PRIu64
                   " instead of %" PRIu64, welcome->generation,
                   hello->generation);
        return false;
    }
    if (welcome->features & ~hello->features) {
        error_setg(errp, "the backup wants features 0x%" PRIx64 ", of which "
                   "0x%" PRIx64 " were not offered", welcome->features,
                   welcome->features & ~hello->features);
        return false;
    }
    if (welcome->page_size != FT_PAGE_SIZE) {
        error_setg(errp, "the backup has pages of %" PRIu32 " bytes, this "
                   "side of %u", welcome->page_size, FT_PAGE_SIZE);
        return false;
    }
    return true;
}

/* One more connection of the session that @hello tells about. */
static FtLink *open_channel(const SocketAddress *addr, const FtTls *tls,
                            int64_t deadline, FtHello *hello,
                            FtChannelKind channel, Error **errp)
{
    FtLink *l = ft_link_connect_until(addr, tls, deadline, errp);
    FtHello welcome;

    hello->channel = channel;
    if (l && !hello_exchange(l, hello, &welcome, errp)) {
        ft_link_shutdown(l);
        g_clear_pointer(&l, ft_link_unref);
    }
    if (l && channel == FT_CHANNEL_DATA) {
        memcpy(hello->token, welcome.token, sizeof(hello->token));
    }
    return l;
}

bool ft_link_open(const SocketAddress *addr, const FtTls *tls,
                  const QemuUUID *session, uint64_t generation,
                  uint64_t features, const char *fingerprint, int timeout_ms,
                  FtLinks *links, uint8_t token[16], Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    size_t len = strlen(fingerprint);
    int64_t deadline = FT_LINK_FOREVER;
    FtHello hello = {
        .features = features,
        .page_size = FT_PAGE_SIZE,
        .generation = generation,
    };
    FtLinks ls = { NULL };

    QEMU_BUILD_BUG_ON(sizeof(hello.session) != sizeof(session->data));
    memcpy(hello.session, session->data, sizeof(hello.session));
    if (timeout_ms > 0) {
        deadline = g_get_monotonic_time() + timeout_ms * 1000ll;
    }
    if (len > FT_WIRE_PAYLOAD_MAX) {
        error_setg(errp, "the machine has too many devices: their "
                   "description has %zu bytes, limit is %u", len,
                   FT_WIRE_PAYLOAD_MAX);
        return false;
    }

    ls.data = open_channel(addr, tls, deadline, &hello, FT_CHANNEL_DATA, errp);
    if (!ls.data ||
        !hello_send(ls.data, FT_FRAME_MACHINE, fingerprint, len, errp) ||
        !ft_hello_recv(ls.data, "backup", FT_FRAME_READY, buf, NULL, errp)) {
        goto fail;
    }
    ls.control = open_channel(addr, tls, deadline, &hello, FT_CHANNEL_CONTROL,
                              errp);
    if (!ls.control) {
        goto fail;
    }
    ls.heart = open_channel(addr, tls, deadline, &hello, FT_CHANNEL_HEART,
                            errp);
    if (!ls.heart) {
        goto fail;
    }

    ls.data->deadline = 0;
    ls.control->deadline = 0;
    ls.heart->deadline = 0;
    *links = ls;
    memcpy(token, hello.token, sizeof(hello.token));
    return true;

fail:
    ft_links_clear(&ls);
    return false;
}

QIOChannelSocket *ft_link_open_disk(const SocketAddress *addr,
                                    const FtTls *tls,
                                    const QemuUUID *session,
                                    const uint8_t token[16], uint32_t drive,
                                    int timeout_ms, Error **errp)
{
    ERRP_GUARD();
    int64_t deadline = FT_LINK_FOREVER;
    QIOChannelSocket *sioc = NULL;
    FtHello hello = {
        .page_size = FT_PAGE_SIZE,
        .drive = drive,
    };
    FtLink *l;

    memcpy(hello.session, session->data, sizeof(hello.session));
    memcpy(hello.token, token, sizeof(hello.token));
    if (timeout_ms > 0) {
        deadline = g_get_monotonic_time() + timeout_ms * 1000ll;
    }

    l = open_channel(addr, tls, deadline, &hello, FT_CHANNEL_DISK, errp);
    /*
     * NBD's server speaks first.  With its greeting here, the backup's main
     * loop has taken the connection over, and what follows is quick.
     */
    if (l && !ft_link_wait_readable(l, deadline, errp)) {
        error_prepend(errp, "the backup does not serve the drive: ");
    } else if (l) {
        sioc = ft_relay_socket(l, errp);
    }
    if (sioc) {
        qio_channel_set_name(QIO_CHANNEL(sioc), "ft-disk");
    } else {
        error_prepend(errp, "connection for drive %" PRIu32 ": ", drive);
        if (l) {
            ft_link_shutdown(l);
        }
    }
    ft_link_unref(l);
    return sioc;
}
