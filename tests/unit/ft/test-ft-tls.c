/*
 * Unit tests of tls.c and what it is for: both sides are who they should be
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The credentials, as objects with ids "NAME-server" and "NAME-client":
 *
 *   x509      of one CA; the backup's certificate is for backup.test and
 *             127.0.0.1, the primary's name is CN=primary
 *   stranger  trusts that CA, but its own certificates are another's
 *   trustful  the other way
 *   nameless  a client without a certificate
 *   psk, psk2 two secrets
 */

#include "qemu/osdep.h"
#include "../crypto-tls-x509-helpers.h"
#include "authz/list.h"
#include "crypto/tlscredsanon.h"
#include "crypto/tlscredsx509.h"
#include "tls-world.h"

static char *root;              /* the directory with all of it */

/* ----------------------------------------------------------- credentials */

static void put(const char *name, const char *file, const char *as)
{
    g_autofree char *from = g_build_filename(root, file, NULL);
    g_autofree char *to = g_build_filename(root, name, as, NULL);

    g_assert_cmpint(link(from, to), ==, 0);
}

static void x509_dir(const char *name, const char *ca, const char *server,
                     const char *client)
{
    g_autofree char *path = g_build_filename(root, name, NULL);

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    put(name, ca, QCRYPTO_TLS_CREDS_X509_CA_CERT);
    if (server) {
        put(name, server, QCRYPTO_TLS_CREDS_X509_SERVER_CERT);
        put(name, "key.pem", QCRYPTO_TLS_CREDS_X509_SERVER_KEY);
        write_dh(path);
    }
    if (client) {
        put(name, client, QCRYPTO_TLS_CREDS_X509_CLIENT_CERT);
        put(name, "key.pem", QCRYPTO_TLS_CREDS_X509_CLIENT_KEY);
    }
}

static Object *x509_object(const char *name, const char *id, bool server,
                           bool verify)
{
    g_autofree char *path = g_build_filename(root, name, NULL);

    return object_new_with_props(TYPE_QCRYPTO_TLS_CREDS_X509,
                                 object_get_objects_root(), id, &error_abort,
                                 "endpoint", server ? "server" : "client",
                                 "dir", path,
                                 "verify-peer", verify ? "yes" : "no",
                                 "sanity-check", "no", NULL);
}

static QCryptoTLSTestCertReq ca, ca2;

static void make_ca(QCryptoTLSTestCertReq *req, const char *file,
                    const char *name)
{
    *req = (QCryptoTLSTestCertReq) {
        .filename = g_build_filename(root, file, NULL),
        .cn = name,
        .basicConstraintsEnable = true,
        .basicConstraintsCritical = true,
        .basicConstraintsIsCA = true,
        .keyUsageEnable = true,
        .keyUsageCritical = true,
        .keyUsageValue = GNUTLS_KEY_KEY_CERT_SIGN,
    };
    test_tls_generate_cert(req, NULL);
}

static void make_cert(QCryptoTLSTestCertReq *by, const char *file,
                      const char *name, bool server)
{
    g_autofree char *path = g_build_filename(root, file, NULL);
    QCryptoTLSTestCertReq req = {
        .filename = path,
        .cn = name,
        .altname1 = server ? name : NULL,
        .ipaddr1 = server ? "127.0.0.1" : NULL,
        .basicConstraintsEnable = true,
        .basicConstraintsCritical = true,
        .keyUsageEnable = true,
        .keyUsageCritical = true,
        .keyUsageValue = GNUTLS_KEY_DIGITAL_SIGNATURE,
        .keyPurposeEnable = true,
        .keyPurposeCritical = true,
        .keyPurposeOID1 = server ? GNUTLS_KP_TLS_WWW_SERVER :
                                   GNUTLS_KP_TLS_WWW_CLIENT,
    };

    test_tls_generate_cert(&req, by->crt);
    test_tls_deinit_cert(&req);
}

static void make_all(void)
{
    g_autofree char *key = g_build_filename(root, "key.pem", NULL);

    test_tls_init(key);
    make_ca(&ca, "ca.pem", "the CA");
    make_ca(&ca2, "ca2.pem", "another CA");
    make_cert(&ca, "server.pem", "backup.test", true);
    make_cert(&ca2, "server2.pem", "backup.test", true);
    make_cert(&ca, "client.pem", "primary", false);
    make_cert(&ca2, "client2.pem", "primary", false);

    x509_dir("x509", "ca.pem", "server.pem", "client.pem");
    x509_dir("stranger", "ca.pem", "server2.pem", "client2.pem");
    x509_dir("trustful", "ca2.pem", "server.pem", "client.pem");
    x509_dir("nameless", "ca.pem", NULL, NULL);
    psk_dir(root, "psk", "009d5638c40fde0c");
    psk_dir(root, "psk2", "10ffa6a2c42f0388");

    x509_object("x509", "x509-server", true, true);
    x509_object("x509", "x509-client", false, true);
    x509_object("x509", "lax-server", true, false);
    x509_object("x509", "lax-client", false, false);
    x509_object("stranger", "stranger-server", true, true);
    x509_object("stranger", "stranger-client", false, true);
    x509_object("trustful", "trustful-server", true, true);
    x509_object("trustful", "trustful-client", false, true);
    x509_object("nameless", "nameless-client", false, true);
    for (int server = 0; server < 2; server++) {
        psk_object(root, "psk", server);
        psk_object(root, "psk2", server);
    }
}

static void remove_all(void)
{
    static const char *const id[] = {
        "x509-server", "x509-client", "lax-server", "lax-client",
        "stranger-server", "stranger-client", "trustful-server",
        "trustful-client", "nameless-client", "psk-server", "psk-client",
        "psk2-server", "psk2-client",
    };
    static const char *const dir[] = {
        "x509", "stranger", "trustful", "nameless", "psk", "psk2",
    };
    g_autofree char *key = g_build_filename(root, "key.pem", NULL);

    for (size_t i = 0; i < G_N_ELEMENTS(id); i++) {
        object_unparent(object_resolve_path_component(
                            object_get_objects_root(), id[i]));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(dir); i++) {
        g_autofree char *path = g_build_filename(root, dir[i], NULL);

        remove_dir(path);
    }
    test_tls_deinit_cert(&ca);
    test_tls_deinit_cert(&ca2);
    g_free((char *)ca.filename);
    g_free((char *)ca2.filename);
    test_tls_cleanup(key);
}

/* The parameters are no good. */
static void not_new(const char *id, bool server, const char *word)
{
    FtTls *tls = (FtTls *)1;
    Error *err = NULL;

    tls_creds = id;
    g_assert_false(ft_tls_new(server ? QCRYPTO_TLS_CREDS_ENDPOINT_SERVER :
                              QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT, &tls, &err));
    g_assert_null(tls);
    g_assert_nonnull(strstr(error_get_pretty(err), "tls-"));
    error_has(&err, word);
    tls_creds = NULL;
}

static void test_new(void)
{
    QAuthZList *list = qauthz_list_new("list", QAUTHZ_LIST_POLICY_DENY,
                                       &error_abort);
    Object *anon = object_new_with_props(TYPE_QCRYPTO_TLS_CREDS_ANON,
                                         object_get_objects_root(), "anon",
                                         &error_abort, "endpoint", "client",
                                         NULL);
    FtTls *tls = (FtTls *)1;
    Object *obj;

    /* None. */
    for (int empty = 0; empty < 2; empty++) {
        tls_creds = empty ? "" : NULL;
        g_assert_true(ft_tls_new(QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT, &tls,
                                 &error_abort));
        g_assert_null(tls);
    }
    ft_tls_free(NULL);

    not_new("nobody", true, "no object with id 'nobody'");
    not_new("list", true, "type authz-list");
    not_new("anon", false, "anonymous");
    not_new("x509-client", true, "endpoint=server");
    not_new("x509-server", false, "endpoint=client");
    not_new("psk-client", true, "endpoint=server");
    not_new("lax-server", true, "verify-peer=on");
    not_new("lax-client", false, "verify-peer=on");

    tls_authz = "nobody";
    not_new("x509-server", true, "authorization object with id 'nobody'");
    tls_authz = "anon";
    not_new("x509-server", true, "authorization object");
    tls_authz = "list";
    not_new("psk-server", true, "tls-creds 'psk-server' have none");

    tls_hostname = "somebody";
    tls = tls_new("x509-server", true);
    g_assert_cmpstr(tls->authz, ==, "list");
    g_assert_null(tls->hostname);
    ft_tls_free(tls);
    /* It is the backup that asks the list. */
    tls = tls_new("psk-client", false);
    g_assert_null(tls->authz);
    g_assert_cmpstr(tls->hostname, ==, "somebody");
    ft_tls_free(tls);
    tls_authz = tls_hostname = "";
    tls = tls_new("x509-server", true);
    g_assert_null(tls->authz);
    ft_tls_free(tls);
    tls = tls_new("x509-client", false);
    g_assert_null(tls->hostname);
    ft_tls_free(tls);
    tls_authz = tls_hostname = NULL;

    /* What is deleted is there as long as somebody has it. */
    obj = x509_object("x509", "deleted", false, true);
    tls = tls_new("deleted", false);
    object_unparent(obj);
    g_assert_true(qcrypto_tls_creds_check_endpoint(
                      tls->creds, QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT,
                      &error_abort));
    ft_tls_free(tls);

    object_unparent(anon);
    object_unparent(OBJECT(list));
}

/* --------------------------------------------------------- who is let in */

/* Calls with @id (NULL: without TLS), which must go wrong with @word. */
static void refused(const char *id, const char *word)
{
    Call c = { .tls = id ? tls_new(id, false) : NULL };
    int before = adoptions;

    call_refused(&c, call_open, word);
    g_assert_cmpint(adoptions, ==, before);
    g_assert_cmpint(pairs, ==, 0);
    ft_tls_free(c.tls);
}

static void accepted(Call *c, const char *id)
{
    *c = (Call) { .tls = tls_new(id, false) };
    open_session(c);
    session_works(&c->links, &b_links);
}

static void over(Call *c)
{
    teardown(&c->links);
    ft_tls_free(c->tls);
    tls_hostname = tls_authz = NULL;
}

static void test_x509(void)
{
    Call c, d;

    tls_hostname = "backup.test";
    setup_tls(tls_new("x509-server", true));
    refused(NULL, "set its migration parameter tls-creds");
    refused("psk-client", "do the tls-creds of both sides belong together?");
    refused("trustful-client", "hasn't got a known issuer");
    refused("stranger-client", "the backup refused: TLS with the primary "
            "failed");
    refused("nameless-client", "the backup refused: TLS with the primary "
            "failed");
    tls_hostname = "primary.test";
    refused("x509-client", "does not match the hostname primary.test");
    /* This is a unix socket. */
    tls_hostname = NULL;
    refused("x509-client", "set the migration parameter tls-hostname");
    tls_hostname = "backup.test";

    accepted(&c, "x509-client");
    g_assert_nonnull(c.links.data->tls);
    g_assert_nonnull(b_links.heart->tls);
    g_assert_cmpuint(ft_link_bytes_sent(c.links.data), >,
                     3 * FT_WIRE_HEADER + FT_HELLO_SIZE + 100);

    /* A second one does no harm. */
    d = (Call) { .tls = c.tls };
    call_refused(&d, call_open, "already");
    d.tls = NULL;
    call_refused(&d, call_open, "set its migration parameter tls-creds");
    session_works(&c.links, &b_links);

    /* The disks. */
    ft_listener_expect_disks(listener, 2, on_disk, NULL);
    for (c.drive = 0; c.drive < 2; c.drive++) {
        call_begin(&c, call_disk);
        g_assert_true(call_end(&c));
        disk_works(&c);
        g_assert_cmpint(c.sioc->localAddr.ss_family, ==, AF_UNIX);
        g_clear_pointer(&c.sioc, object_unref);
    }
    call_refused(&c, call_disk, "drive 2");
    over(&c);
}

/* The backup is not who it should be. */
static void test_x509_server(void)
{
    Call c;

    tls_hostname = "backup.test";
    setup_tls(tls_new("stranger-server", true));
    refused("x509-client", "hasn't got a known issuer");
    over(&(Call) { 0 });

    tls_hostname = "backup.test";
    setup_tls(tls_new("trustful-server", true));
    refused("x509-client", "the backup refused: TLS with the primary failed");
    /* It trusts the other CA, and these trust its own. */
    accepted(&c, "stranger-client");
    over(&c);
}

static void test_psk(void)
{
    Call c;

    setup_tls(tls_new("psk-server", true));
    refused(NULL, "set its migration parameter tls-creds");
    refused("psk2-client", "do the tls-creds of both sides belong together?");
    tls_hostname = "backup.test";
    refused("x509-client", "do the tls-creds of both sides belong together?");
    tls_hostname = NULL;
    accepted(&c, "psk-client");
    over(&c);
}

/* The backup has no credentials at all. */
static void test_plain_server(void)
{
    Call c = { 0 };

    setup();
    refused("psk-client", "answers without TLS: the primary speaks TLS and "
            "this backup has no tls-creds");
    open_session(&c);
    over(&c);
}

/* A kind of list that is only asked under the BQL. */
#define TYPE_LOCKED "authz-ft-test"

static int asked;

static bool locked_is_allowed(QAuthZ *authz, const char *identity,
                              Error **errp)
{
    g_assert_true(bql_locked());
    g_assert_cmpstr(identity, ==, "CN=primary");
    asked++;
    return true;
}

static void locked_class_init(ObjectClass *oc, void *data)
{
    QAUTHZ_CLASS(oc)->is_allowed = locked_is_allowed;
}

static void test_authz_locked(void)
{
    static const TypeInfo info = {
        .parent = TYPE_QAUTHZ,
        .name = TYPE_LOCKED,
        .instance_size = sizeof(QAuthZ),
        .class_size = sizeof(QAuthZClass),
        .class_init = locked_class_init,
    };
    Object *obj;
    Call c;

    type_register_static(&info);
    obj = object_new(TYPE_LOCKED);
    object_property_add_child(object_get_objects_root(), "locked", obj);
    tls_hostname = "backup.test";
    tls_authz = "locked";
    setup_tls(tls_new("x509-server", true));
    accepted(&c, "x509-client");
    g_assert_cmpint(asked, ==, 3);
    over(&c);
    object_unparent(obj);
    object_unref(obj);
}

static void test_authz(void)
{
    QAuthZList *list = qauthz_list_new("list", QAUTHZ_LIST_POLICY_DENY,
                                       &error_abort);
    Call c;

    tls_hostname = "backup.test";
    tls_authz = "list";
    setup_tls(tls_new("x509-server", true));
    refused("x509-client", "CN=primary is denied");
    qauthz_list_append_rule(list, "CN=prim*", QAUTHZ_LIST_POLICY_ALLOW,
                            QAUTHZ_LIST_FORMAT_GLOB, &error_abort);
    accepted(&c, "x509-client");
    over(&c);

    /* It is looked for each time. */
    tls_hostname = "backup.test";
    tls_authz = "list";
    setup_tls(tls_new("x509-server", true));
    object_unparent(OBJECT(list));
    refused("x509-client", "Cannot find QAuthZ");
    over(&(Call) { 0 });
}

/* The name is that of the address; here it is in the certificate. */
static void test_inet(void)
{
    SocketAddress *unix_address = address;
    QIOChannelSocket *probe = qio_channel_socket_new();
    SocketAddress *any = socket_parse("127.0.0.1:0", &error_abort);
    Call c;

    g_assert_cmpint(qio_channel_socket_listen_sync(probe, any, 1,
                                                   &error_abort), ==, 0);
    address = qio_channel_socket_get_local_address(probe, &error_abort);
    object_unref(OBJECT(probe));
    setup_tls(tls_new("x509-server", true));
    accepted(&c, "x509-client");
    over(&c);

    g_free(address->u.inet.host);
    address->u.inet.host = g_strdup("127.0.0.2");
    setup_tls(tls_new("x509-server", true));
    refused("x509-client", "does not match the hostname 127.0.0.2");
    over(&(Call) { 0 });

    qapi_free_SocketAddress(address);
    qapi_free_SocketAddress(any);
    address = unix_address;
}

/* ------------------------------------------------------- those who dawdle */

#define DAWDLERS    5           /* of the 8 who are heard at once */

static int dawdler(void)
{
    int fd = socket_connect(address, &error_abort);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void test_slow(void)
{
    /* What a TLS client says first, as far as it gets. */
    static const uint8_t hello[] = {
        0x16, 3, 1, 0x02, 0, 1, 0, 0x01, 0xfc, 3, 3,
    };
    int64_t began = g_get_monotonic_time(), us;
    int fd[DAWDLERS];
    int n = 0, left = DAWDLERS;
    bool called = false;
    Call c;
    char byte = 0;

    setup_tls(tls_new("psk-server", true));
    for (int i = 0; i < DAWDLERS; i++) {
        fd[i] = dawdler();
    }
    while (left) {
        us = g_get_monotonic_time() - began;
        g_assert_cmpint(us, <, 13 * G_USEC_PER_SEC);
        /* A byte each 200 ms; the last of them says nothing. */
        if (us > n * 200000) {
            for (int i = 0; i < DAWDLERS - 1; i++) {
                if (fd[i] >= 0) {
                    send(fd[i], n < sizeof(hello) ? &hello[n] : hello, 1,
                         MSG_NOSIGNAL);
                }
            }
            n++;
        }
        for (int i = 0; i < DAWDLERS; i++) {
            if (fd[i] >= 0 && recv(fd[i], &byte, 1, MSG_DONTWAIT) == 0) {
                g_assert_cmpint(us, >, 9 * G_USEC_PER_SEC);
                close(fd[i]);
                fd[i] = -1;
                left--;
            }
        }
        turn();
        if (!called && us > G_USEC_PER_SEC) {
            int extra[3] = { dawdler(), dawdler(), dawdler() };

            /* They do not keep others away, but too many do... */
            for (int i = 0; i < 50; i++) {
                turn();
            }
            refused("psk-client", "answers without TLS: too many callers");
            for (int i = 0; i < G_N_ELEMENTS(extra); i++) {
                close(extra[i]);
            }
            for (int i = 0; i < 50; i++) {
                turn();
            }
            accepted(&c, "psk-client");
            called = true;
        }
    }
    g_assert_true(called);
    session_works(&c.links, &b_links);
    over(&c);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    root = world_begin("ft-tls-XXXXXX");
    qcrypto_init(&error_abort);
    make_all();

    g_test_add_func("/ft/tls/new", test_new);
    g_test_add_func("/ft/tls/x509", test_x509);
    g_test_add_func("/ft/tls/x509-server", test_x509_server);
    g_test_add_func("/ft/tls/psk", test_psk);
    g_test_add_func("/ft/tls/plain-server", test_plain_server);
    g_test_add_func("/ft/tls/authz", test_authz);
    g_test_add_func("/ft/tls/authz-locked", test_authz_locked);
    g_test_add_func("/ft/tls/inet", test_inet);
    g_test_add_func("/ft/tls/slow", test_slow);
    ret = g_test_run();

    remove_all();
    unlink(address->u.q_unix.path);
    remove_dir(root);
    g_assert_cmpint(mkdir(root, 0700), ==, 0);
    world_end(root);
    return ret;
}
