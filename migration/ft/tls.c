/*
 * Fault tolerance: connections that are encrypted, both sides authenticated
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Migration's parameters tls-creds, tls-hostname and tls-authz hold for
 * protection, too.  Each connection of a session does a handshake of its own
 * before the first frame.
 *
 * QEMU's TLS session is used as it is, without a channel above it: so that the
 * handshake waits as all else does in link.c, under a deadline and without a
 * main loop, and the credentials can be checked under the BQL, which the
 * access control list of tls-authz needs.
 *
 * Locks: reading may change what is written next in TLS 1.3 (new keys), so one
 * thread at a time is in the session: tls_lock.  It is held for no longer than
 * a record takes to be worked on.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include "qapi/error.h"
#include "authz/base.h"
#include "crypto/tlscredsanon.h"
#include "crypto/tlscredspsk.h"
#include "crypto/tlscredsx509.h"
#include "qapi/qapi-types-migration.h"      /* for the next one */
#include "migration/options.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qom/object.h"
#include "link-private.h"

/* ----------------------------------------------------------- credentials */

static bool tls_is(QCryptoTLSCreds *creds, const char *type)
{
    return object_dynamic_cast(OBJECT(creds), type) != NULL;
}

/* A parameter that may be empty, as a string to be freed, or NULL. */
static char *tls_parameter(const char *value)
{
    return value && *value ? g_strdup(value) : NULL;
}

static bool tls_check_creds(QCryptoTLSCreds *creds, const char *id,
                            QCryptoTLSCredsEndpoint endpoint, Error **errp)
{
    if (tls_is(creds, TYPE_QCRYPTO_TLS_CREDS_ANON)) {
        error_setg(errp, "tls-creds: '%s' is anonymous, so neither side would "
                   "know who the other one is; use an object of type %s or %s",
                   id, TYPE_QCRYPTO_TLS_CREDS_X509, TYPE_QCRYPTO_TLS_CREDS_PSK);
        return false;
    }
    if (!tls_is(creds, TYPE_QCRYPTO_TLS_CREDS_X509) &&
        !tls_is(creds, TYPE_QCRYPTO_TLS_CREDS_PSK)) {
        error_setg(errp, "tls-creds: '%s' is of type %s; use an object of type "
                   "%s or %s", id, object_get_typename(OBJECT(creds)),
                   TYPE_QCRYPTO_TLS_CREDS_X509, TYPE_QCRYPTO_TLS_CREDS_PSK);
        return false;
    }
    if (!qcrypto_tls_creds_check_endpoint(creds, endpoint, NULL)) {
        error_setg(errp, "tls-creds: '%s' is for the other end of a "
                   "connection; the %s needs an object with endpoint=%s", id,
                   endpoint == QCRYPTO_TLS_CREDS_ENDPOINT_SERVER ?
                   "backup" : "primary", QCryptoTLSCredsEndpoint_str(endpoint));
        return false;
    }
    if (tls_is(creds, TYPE_QCRYPTO_TLS_CREDS_X509) &&
        !object_property_get_bool(OBJECT(creds), "verify-peer", NULL)) {
        error_setg(errp, "tls-creds: '%s' has verify-peer=off, so anybody "
                   "could be the other side; create it with verify-peer=on",
                   id);
        return false;
    }
    return true;
}

static bool tls_check_authz(QCryptoTLSCreds *creds, const char *id,
                            const char *authz, Error **errp)
{
    Object *obj = object_resolve_path_component(object_get_objects_root(),
                                                authz);

    if (!obj || !object_dynamic_cast(obj, TYPE_QAUTHZ)) {
        error_setg(errp, "tls-authz: there is no authorization object with "
                   "id '%s'; create one (of type authz-list, say), or clear "
                   "the parameter", authz);
        return false;
    }
    if (!tls_is(creds, TYPE_QCRYPTO_TLS_CREDS_X509)) {
        error_setg(errp, "tls-authz: it is about the names in certificates, "
                   "and tls-creds '%s' have none; use an object of type %s, "
                   "or clear the parameter", id, TYPE_QCRYPTO_TLS_CREDS_X509);
        return false;
    }
    return true;
}

bool ft_tls_new(QCryptoTLSCredsEndpoint endpoint, FtTls **tls, Error **errp)
{
    bool server = endpoint == QCRYPTO_TLS_CREDS_ENDPOINT_SERVER;
    g_autofree char *id = tls_parameter(migrate_tls_creds());
    g_autofree char *authz = NULL;
    QCryptoTLSCreds *creds;
    Object *obj;

    *tls = NULL;
    if (!id) {
        return true;
    }
    if (server) {
        authz = tls_parameter(migrate_tls_authz());
    }

    obj = object_resolve_path_component(object_get_objects_root(), id);
    if (!obj) {
        error_setg(errp, "tls-creds: there is no object with id '%s'; create "
                   "it by -object or object-add, or clear the parameter", id);
        return false;
    }
    creds = (QCryptoTLSCreds *)object_dynamic_cast(obj,
                                                   TYPE_QCRYPTO_TLS_CREDS);
    if (!creds) {
        error_setg(errp, "tls-creds: '%s' is of type %s; use an object of type "
                   "%s or %s", id, object_get_typename(obj),
                   TYPE_QCRYPTO_TLS_CREDS_X509, TYPE_QCRYPTO_TLS_CREDS_PSK);
        return false;
    }
    if (!tls_check_creds(creds, id, endpoint, errp) ||
        (authz && !tls_check_authz(creds, id, authz, errp))) {
        return false;
    }

    *tls = g_new0(FtTls, 1);
    object_ref(obj);
    (*tls)->creds = creds;
    (*tls)->authz = g_steal_pointer(&authz);
    if (!server) {
        (*tls)->hostname = tls_parameter(migrate_tls_hostname());
    }
    return true;
}

void ft_tls_free(FtTls *tls)
{
    if (!tls) {
        return;
    }
    object_unref(OBJECT(tls->creds));
    g_free(tls->hostname);
    g_free(tls->authz);
    g_free(tls);
}

/* The name that the backup's certificate must be for, or NULL. */
static const char *tls_hostname(const FtTls *tls, const SocketAddress *addr)
{
    if (tls->hostname) {
        return tls->hostname;
    }
    if (addr->type == SOCKET_ADDRESS_TYPE_INET && *addr->u.inet.host) {
        return addr->u.inet.host;
    }
    return NULL;
}

bool ft_tls_check_address(const FtTls *tls, const SocketAddress *addr,
                          Error **errp)
{
    if (tls_is(tls->creds, TYPE_QCRYPTO_TLS_CREDS_X509) &&
        !tls_hostname(tls, addr)) {
        error_setg(errp, "TLS: an address of type %s has no host name that "
                   "the backup's certificate could be checked for; set the "
                   "migration parameter tls-hostname to the one that is in it",
                   SocketAddressType_str(addr->type));
        return false;
    }
    return true;
}

/* ----------------------------------------------------- below the session */

static ssize_t tls_push(const char *buf, size_t len, void *opaque,
                        Error **errp)
{
    FtLink *l = opaque;
    ssize_t n;

    do {
        n = send(l->sioc->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        stat64_add(&l->sent, n);
        return n;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return QCRYPTO_TLS_SESSION_ERR_BLOCK;
    }
    error_setg(errp, "%s", strerror(errno));
    return -1;
}

/* Does the peer begin with a frame?  It stays where it is. */
static bool tls_is_plain(FtLink *l)
{
    uint8_t byte;

    return recv(l->sioc->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1 &&
           byte == FT_BYTE_FRAME;
}

static ssize_t tls_pull(char *buf, size_t len, void *opaque, Error **errp)
{
    FtLink *l = opaque;
    ssize_t n;

    if (!l->heard && tls_is_plain(l)) {
        error_setg(errp, "no TLS");
        return -1;
    }
    do {
        n = recv(l->sioc->fd, buf, len, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        l->heard = true;
        return n;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return QCRYPTO_TLS_SESSION_ERR_BLOCK;
    }
    error_setg(errp, "%s", strerror(errno));
    return -1;
}

/* ------------------------------------------------------------- handshake */

/* The backup has answered a TLS client with a frame in the clear. */
static void tls_plain_answer(FtLink *l, Error **errp)
{
    g_autoptr(GByteArray) buf = g_byte_array_new();
    FtFrame f;
    bool bad;

    if (ft_link_recv(l, &f, buf, &bad, NULL) == 1 &&
        f.type == FT_FRAME_ERROR) {
        g_autofree char *text = ft_link_text(buf);

        error_setg(errp, "it answers without TLS: %s", text);
    } else {
        error_setg(errp, "it answers without TLS");
    }
}

static bool tls_handshake(FtLink *l, QCryptoTLSSession *session,
                          Error **errp)
{
    int64_t deadline = ft_link_deadline(l);

    for (;;) {
        Error *err = NULL, *asked = NULL;
        int status = qcrypto_tls_session_handshake(session, &err);

        if (status < 0 && !l->heard && tls_is_plain(l)) {
            error_free(err);
            tls_plain_answer(l, errp);
            return false;
        }
        if (status < 0) {
            error_setg(&asked, "%s (do the tls-creds of both sides belong "
                       "together?)", error_get_pretty(err));
            error_free(err);
            ft_link_failed(l, asked, errp);
            return false;
        }
        if (status == QCRYPTO_TLS_HANDSHAKE_COMPLETE) {
            return true;
        }
        if (!ft_link_wait(l, status == QCRYPTO_TLS_HANDSHAKE_SENDING ?
                          POLLOUT : POLLIN, deadline, errp)) {
            return false;
        }
    }
}

/*
 * @session becomes the link's once it can be spoken over, so that a peer whose
 * credentials are not good can be told so.
 */
static bool tls_start(FtLink *l, QCryptoTLSSession *session, bool authz,
                      Error **errp)
{
    int ret;

    qcrypto_tls_session_set_callbacks(session, tls_push, tls_pull, l);
    if (!tls_handshake(l, session, errp)) {
        qcrypto_tls_session_free(session);
        return false;
    }
    l->record = g_malloc(FT_TLS_RECORD);
    l->tls = session;

    /* The list and what it is made of are objects that commands change. */
    if (authz) {
        bql_lock();
    }
    ret = qcrypto_tls_session_check_credentials(session, errp);
    if (authz) {
        bql_unlock();
    }
    return ret == 0;
}

bool ft_tls_client(FtLink *l, const FtTls *tls, const SocketAddress *addr,
                   Error **errp)
{
    ERRP_GUARD();
    QCryptoTLSSession *session;

    session = qcrypto_tls_session_new(tls->creds, tls_hostname(tls, addr),
                                      NULL, QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT,
                                      errp);
    if (!session || !tls_start(l, session, false, errp)) {
        error_prepend(errp, "TLS with the backup failed: ");
        return false;
    }
    return true;
}

bool ft_tls_server(FtLink *l, const FtTls *tls, bool *mute, Error **errp)
{
    ERRP_GUARD();
    QCryptoTLSSession *session;
    bool ok;

    session = qcrypto_tls_session_new(tls->creds, NULL, tls->authz,
                                      QCRYPTO_TLS_CREDS_ENDPOINT_SERVER, errp);
    ok = session && tls_start(l, session, tls->authz != NULL, errp);
    if (!ok) {
        error_prepend(errp, "TLS with the primary failed: ");
    }
    *mute = !l->tls;
    return ok;
}

/* --------------------------------------------------------- moving bytes */

ssize_t ft_tls_read(FtLink *l, void *buf, size_t len, Error **errp)
{
    ERRP_GUARD();
    ssize_t n;

    /*
     * An end without TLS's goodbye is an end, too, as it is without TLS: what
     * an end means is said by frames.
     */
    WITH_QEMU_LOCK_GUARD(&l->tls_lock) {
        n = qcrypto_tls_session_read(l->tls, buf, len, true, errp);
    }
    if (n >= 0) {
        return n;
    }
    if (n == QCRYPTO_TLS_SESSION_ERR_BLOCK) {
        return -EAGAIN;
    }
    error_prepend(errp, "cannot read from the peer: ");
    return -EIO;
}

ssize_t ft_tls_write(FtLink *l, const void *buf, size_t len, Error **errp)
{
    ERRP_GUARD();
    ssize_t n;

    WITH_QEMU_LOCK_GUARD(&l->tls_lock) {
        n = qcrypto_tls_session_write(l->tls, buf, len, errp);
    }
    if (n >= 0) {
        return n;
    }
    if (n == QCRYPTO_TLS_SESSION_ERR_BLOCK) {
        return -EAGAIN;
    }
    error_prepend(errp, "cannot write to the peer: ");
    return -EIO;
}

int ft_tls_bye(FtLink *l)
{
    int ret;

    WITH_QEMU_LOCK_GUARD(&l->tls_lock) {
        ret = qcrypto_tls_session_bye(l->tls, NULL);
    }
    if (ret < 0) {
        return -EIO;
    }
    return ret == QCRYPTO_TLS_BYE_COMPLETE ? 0 : -EAGAIN;
}
