/*
 * Unit tests: TLS credentials that are a secret which both sides have, and
 * links that use them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_FT_TLS_WORLD_H
#define TESTS_UNIT_FT_TLS_WORLD_H

#include <gnutls/gnutls.h>
#include "crypto/init.h"
#include "crypto/tlscreds.h"
#include "crypto/tlscredspsk.h"
#include "qom/object_interfaces.h"
#include "link-world.h"

/* So that none have to be searched for, which takes long. */
static void write_dh(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, QCRYPTO_TLS_CREDS_DH_PARAMS,
                                             NULL);
    unsigned char pem[4096];
    size_t size = sizeof(pem);
    gnutls_dh_params_t dh;

    g_assert_cmpint(gnutls_dh_params_init(&dh), ==, 0);
    g_assert_cmpint(gnutls_dh_params_import_raw2(
                        dh, &gnutls_ffdhe_2048_group_prime,
                        &gnutls_ffdhe_2048_group_generator, 256), ==, 0);
    g_assert_cmpint(gnutls_dh_params_export_pkcs3(dh, GNUTLS_X509_FMT_PEM,
                                                  pem, &size), ==, 0);
    gnutls_dh_params_deinit(dh);
    g_assert_true(g_file_set_contents(path, (char *)pem, size, NULL));
}

/* Remove a directory with all files in it. */
static void remove_dir(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        unlink(file);
    }
    g_dir_close(dir);
    g_assert_cmpint(rmdir(path), ==, 0);
}

/* @dir/@name with what both sides need for a secret. */
static void psk_dir(const char *dir, const char *name, const char *key)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autofree char *file = g_build_filename(path, "keys.psk", NULL);
    g_autofree char *line = g_strdup_printf("qemu:%s\n", key);

    g_assert_cmpint(mkdir(path, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, line, -1, NULL));
    write_dh(path);
}

/* An object with @id = "@name-server" or "@name-client".  With AES, as that is
 * what certificates give. */
static Object *psk_object(const char *dir, const char *name, bool server)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    const char *end = server ? "server" : "client";
    g_autofree char *id = g_strdup_printf("%s-%s", name, end);

    return object_new_with_props(TYPE_QCRYPTO_TLS_CREDS_PSK,
                                 object_get_objects_root(), id, &error_abort,
                                 "endpoint", end, "dir", path, "priority",
                                 "NORMAL:-CHACHA20-POLY1305", NULL);
}

static FtTls *tls_new(const char *id, bool server)
{
    FtTls *tls;

    tls_creds = id;
    g_assert_true(ft_tls_new(server ? QCRYPTO_TLS_CREDS_ENDPOINT_SERVER :
                             QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT, &tls,
                             &error_abort));
    tls_creds = NULL;
    g_assert_nonnull(tls);
    return tls;
}

typedef struct Handshake {
    FtLink *link;
    const char *id;
} Handshake;

static void *client_thread(void *opaque)
{
    Handshake *h = opaque;
    FtTls *tls = tls_new(h->id, false);

    g_assert_true(ft_tls_client(h->link, tls, address, &error_abort));
    ft_tls_free(tls);
    return NULL;
}

/* Two links with TLS between them, no listener. */
G_GNUC_UNUSED
static void tls_pair(FtLink *link[2], const char *server, const char *client)
{
    FtTls *tls = tls_new(server, true);
    Handshake h;
    QemuThread thread;
    bool mute = false;

    link_pair(link);
    h = (Handshake) { link[0], client };
    for (int i = 0; i < 2; i++) {
        link[i]->deadline = g_get_monotonic_time() + WAIT_US;
    }
    qemu_thread_create(&thread, "client", client_thread, &h,
                       QEMU_THREAD_JOINABLE);
    g_assert_true(ft_tls_server(link[1], tls, &mute, &error_abort));
    g_assert_false(mute);
    qemu_thread_join(&thread);
    ft_tls_free(tls);
    for (int i = 0; i < 2; i++) {
        link[i]->deadline = 0;
    }
}

#endif
