/*
 * Unit tests of migration/ft/params.c: what can be set, and what comes of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "crypto/init.h"
#include "crypto/secret.h"
#include "crypto/tlscredsx509.h"
#include "qapi/qapi-commands-ft.h"
#include "qapi/util.h"
#include "qemu/module.h"
#include "qom/object.h"
#include "migration/ft/reprotect.h"
#include "migration/ft/script.h"
#include "migration/ft/session.h"

static int reprotect_changes;
static bool sandboxed;

/* What the tests have instead of the rest of the engine. */
FtSession *ft_session(void)
{
    return NULL;
}

void ft_primary_params_changed(FtPrimary *p)
{
    g_assert_not_reached();
}

void ft_reprotect_changed(void)
{
    reprotect_changes++;
}

bool ft_script_allowed(Error **errp)
{
    if (sandboxed) {
        error_setg(errp, "sandboxed");
    }
    return !sandboxed;
}

static void set(FtParameters *a)
{
    qmp_ft_set_parameters(a, &error_abort);
}

/* Nothing is changed, and the error says @why. */
static void refused(FtParameters *a, const char *why)
{
    Error *err = NULL;
    int before = reprotect_changes;

    /* last in the order of checks, first in that of changes, or so */
    a->has_ft_hash = true;
    a->ft_hash = 4711;
    qmp_ft_set_parameters(a, &err);
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), why)) {
        g_error("'%s', not '%s'", error_get_pretty(err), why);
    }
    error_free(err);
    g_assert_cmpuint(ft_params()->hash_every, !=, 4711);
    g_assert_cmpint(reprotect_changes, ==, before);
}

#define SET(...) set(&(FtParameters) { __VA_ARGS__ })
#define REFUSED(why, ...) refused(&(FtParameters) { __VA_ARGS__ }, why)
#define TIME(name, value) .has_ft_##name = true, .ft_##name = (value)

static void test_defaults(void)
{
    g_autoptr(FtParameters) a = qmp_query_ft_parameters(&error_abort);

    g_assert_cmpuint(a->ft_epoch_us, ==, 10000);
    g_assert_cmpuint(a->ft_heartbeat_ms, ==, 50);
    g_assert_cmpuint(a->ft_timeout_ms, ==, 500);
    g_assert_cmpuint(a->ft_stuck_ms, ==, 10000);
    g_assert_cmpstr(a->ft_arbiter, ==, "");
    g_assert_cmpstr(a->ft_arbiter_user, ==, "");
    g_assert_cmpstr(a->ft_arbiter_secret, ==, "");
    g_assert_cmpstr(a->ft_arbiter_tls_creds, ==, "");
    g_assert_cmpstr(a->ft_takeover_script, ==, "");
    g_assert_true(a->has_ft_reprotect);
    g_assert_null(a->ft_reprotect);
    /* what is told can be set */
    set(a);
}

static void test_times(void)
{
    const FtParams *p = ft_params();

    REFUSED("ft-heartbeat-ms", TIME(heartbeat_ms, 9));
    REFUSED("ft-heartbeat-ms", TIME(heartbeat_ms, 10001),
            TIME(timeout_ms, 60000));
    REFUSED("ft-timeout-ms", TIME(timeout_ms, 99), TIME(heartbeat_ms, 10));
    REFUSED("ft-timeout-ms", TIME(timeout_ms, 60001),
            TIME(heartbeat_ms, 10000));
    /* each on its own, with the other one as it is */
    REFUSED("set both", TIME(timeout_ms, 199));
    REFUSED("set both", TIME(timeout_ms, 10001));
    REFUSED("set both", TIME(heartbeat_ms, 126));
    SET(TIME(timeout_ms, 200));
    SET(TIME(timeout_ms, 10000));
    SET(TIME(timeout_ms, 500), TIME(heartbeat_ms, 125));
    SET(TIME(timeout_ms, 60000), TIME(heartbeat_ms, 10000));
    SET(TIME(timeout_ms, 2000), TIME(heartbeat_ms, 10));
    g_assert_cmpuint(p->timeout_ms, ==, 2000);
    g_assert_cmpuint(p->heartbeat_ms, ==, 10);
    REFUSED("set both", TIME(timeout_ms, 2001));

    REFUSED("ft-stuck-ms", TIME(stuck_ms, 999));
    REFUSED("ft-stuck-ms", TIME(stuck_ms, 600001));
    SET(TIME(stuck_ms, 0));
    g_assert_cmpuint(p->stuck_ms, ==, 0);
    SET(TIME(stuck_ms, 600000));
    SET(TIME(stuck_ms, 1000));
    g_assert_cmpuint(p->stuck_ms, ==, 1000);

    REFUSED("ft-ack-timeout-ms", TIME(ack_timeout_ms, 99));
    REFUSED("ft-epoch-us", TIME(epoch_us, 999));
    REFUSED("ft-depth", TIME(depth, 0));
}

static void arbiter_is(const char *spec)
{
    g_autoptr(FtParameters) a = qmp_query_ft_parameters(&error_abort);

    g_assert_cmpstr(a->ft_arbiter, ==, spec);
}

static void test_arbiter(void)
{
    FtArbiterParams out;
    bool is_set;

    REFUSED("ft-arbiter: ", .ft_arbiter = (char *)"somebody");
    REFUSED("ft-arbiter: ", .ft_arbiter = (char *)"file:relative");
    arbiter_is("");
    SET(.ft_arbiter = (char *)"file:/srv/vm");
    arbiter_is("file:/srv/vm");
    /* not mentioned: as it was */
    SET(TIME(epoch_us, 5000));
    arbiter_is("file:/srv/vm");
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_true(is_set);
    g_assert_cmpint(out.kind, ==, FT_ARBITER_FILE);
    g_assert_cmpstr(out.where, ==, "/srv/vm");
    /* a copy */
    SET(.ft_arbiter = (char *)"none");
    g_assert_cmpstr(out.where, ==, "/srv/vm");
    ft_arbiter_params_clear(&out);
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_true(is_set);
    g_assert_cmpint(out.kind, ==, FT_ARBITER_NONE);
    ft_arbiter_params_clear(&out);
    SET(.ft_arbiter = (char *)"");
    arbiter_is("");
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_false(is_set);
    ft_arbiter_params_clear(&out);
}

static void secrets_refused(const char *why)
{
    FtArbiterParams out;
    Error *err = NULL;
    bool is_set;

    g_assert_false(ft_params_arbiter(&out, &is_set, &err));
    if (!strstr(error_get_pretty(err), why)) {
        g_error("'%s', not '%s'", error_get_pretty(err), why);
    }
    error_free(err);
    g_assert_null(out.password);
    g_assert_null(out.where);
}

static void test_password(void)
{
    FtArbiterParams out;
    FtProtectOptions opt;
    bool is_set;

    SET(.ft_arbiter = (char *)"etcd:http://e:2379",
        .ft_arbiter_user = (char *)"cuju",
        .ft_arbiter_secret = (char *)"sec0");
    secrets_refused("ft-arbiter-secret");
    object_new_with_props(TYPE_QCRYPTO_SECRET, object_get_objects_root(),
                          "sec0", &error_abort, "data", "123456", NULL);
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_cmpstr(out.user, ==, "cuju");
    g_assert_cmpstr(out.password, ==, "123456");
    g_assert_cmpint(out.kind, ==, FT_ARBITER_ETCD);
    ft_arbiter_params_clear(&out);

    /* for the one that somebody else chooses */
    SET(.ft_arbiter = (char *)"");
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_false(is_set);
    g_assert_cmpstr(out.user, ==, "cuju");
    g_assert_cmpstr(out.password, ==, "123456");
    ft_arbiter_params_clear(&out);

    /* not looked for where it is not needed */
    object_unparent(object_resolve_path_component(object_get_objects_root(),
                                                  "sec0"));
    secrets_refused("ft-arbiter-secret");
    SET(.ft_arbiter = (char *)"file:/srv/vm");
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_null(out.password);
    ft_arbiter_params_clear(&out);
    ft_params_options(&opt);
    g_assert_true(ft_params_secrets(&opt.arbiter, &error_abort));
    ft_options_clear(&opt);

    SET(.ft_arbiter_secret = (char *)"", .ft_arbiter_user = (char *)"",
        .ft_arbiter = (char *)"");
    g_assert_null(ft_params()->arbiter_secret);
    g_assert_null(ft_params()->arbiter.user);
}

static void test_tls(void)
{
    Object *obj = object_new(TYPE_QCRYPTO_TLS_CREDS_X509);
    FtArbiterParams out;
    bool is_set;

    SET(.ft_arbiter = (char *)"etcd:https://e:2379",
        .ft_arbiter_tls_creds = (char *)"tls0");
    secrets_refused("'tls0'");
    object_property_set_str(obj, "dir", "/etc/pki/cuju", &error_abort);
    object_property_add_child(object_get_objects_root(), "tls0", obj);
    object_unref(obj);
    /* as a server, which is the default */
    object_property_set_str(obj, "endpoint", "server", &error_abort);
    secrets_refused("client");
    object_property_set_str(obj, "endpoint", "client", &error_abort);
    g_assert_true(ft_params_arbiter(&out, &is_set, &error_abort));
    g_assert_cmpstr(out.tls_dir, ==, "/etc/pki/cuju");
    ft_arbiter_params_clear(&out);
    object_unparent(obj);

    /* an object of another kind */
    object_new_with_props(TYPE_QCRYPTO_SECRET, object_get_objects_root(),
                          "tls0", &error_abort, "data", "x", NULL);
    secrets_refused("tls-creds-x509");
    object_unparent(object_resolve_path_component(object_get_objects_root(),
                                                  "tls0"));
    SET(.ft_arbiter = (char *)"", .ft_arbiter_tls_creds = (char *)"");
}

static void test_script(void)
{
    g_autofree char *dir = g_dir_make_tmp("ft-params-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "script", NULL);

    REFUSED("absolute", .ft_takeover_script = (char *)"script");
    REFUSED("No such file", .ft_takeover_script = path);
    REFUSED("not a file", .ft_takeover_script = dir);
    g_assert_true(g_file_set_contents(path, "#!/bin/sh\n", -1, NULL));
    chmod(path, 0644);
    REFUSED("chmod", .ft_takeover_script = path);
    chmod(path, 0755);
    sandboxed = true;
    REFUSED("sandboxed", .ft_takeover_script = path);
    sandboxed = false;
    SET(.ft_takeover_script = path);
    g_assert_cmpstr(ft_params()->takeover_script, ==, path);
    g_unlink(path);
    g_rmdir(dir);
    /* that it is gone by now is found out later */
    SET(TIME(epoch_us, 6000));
    sandboxed = true;
    SET(.ft_takeover_script = (char *)"");
    sandboxed = false;
    g_assert_null(ft_params()->takeover_script);
}

static void test_reprotect(void)
{
    strList bad = { .value = (char *)"tcp:b:1,arbiter=who" };
    strList list = { .next = &bad, .value = (char *)"tcp:a:1,replicated" };
    int before = reprotect_changes;

    REFUSED("ft-reprotect: ", TIME(reprotect, &list));
    bad.value = (char *)"exec:x";
    REFUSED("exec:x", TIME(reprotect, &list));
    bad.value = (char *)"tcp:nonsense";
    REFUSED("ft-reprotect: ", TIME(reprotect, &list));
    bad.value = (char *)"unix:";
    REFUSED("ft-reprotect: ", TIME(reprotect, &list));
    bad.value = (char *)"unix:/b,arbiter=none";
    SET(TIME(reprotect, &list));
    g_assert_cmpint(reprotect_changes, ==, before + 1);
    g_assert_cmpstr(ft_params()->reprotect->next->value, ==, bad.value);
    SET(TIME(epoch_us, 7000));
    g_assert_cmpint(reprotect_changes, ==, before + 1);
    SET(TIME(reprotect, NULL));
    g_assert_cmpint(reprotect_changes, ==, before + 2);
    g_assert_null(ft_params()->reprotect);
}

/* The options are one's own copy, and nothing of them comes back. */
static void test_options(void)
{
    FtDriveOptions drive = { .drive = (char *)"d0" };
    FtDriveOptionsList drives = { .value = &drive };
    FtProtectOptions opt;
    g_autofree char *plain = NULL;

    SET(TIME(drives, &drives), TIME(storage, FT_STORAGE_SHARED),
        .ft_arbiter = (char *)"file:/p");
    ft_params_options(&opt);
    g_assert_true(opt.disks.shared_is_sure);
    g_assert_cmpstr(opt.arbiter.where, ==, "/p");
    g_assert_true(opt.arbiter_set);
    plain = ft_options_parse("tcp:a:1,replicated,replicated=d1,arbiter=none",
                             &opt, &error_abort);
    g_assert_cmpstr(opt.disks.drives->value->drive, ==, "d1");
    g_assert_cmpstr(opt.disks.drives->next->value->drive, ==, "d0");
    ft_options_clear(&opt);
    arbiter_is("file:/p");
    g_assert_cmpstr(ft_params()->disks.drives->value->drive, ==, "d0");
    g_assert_null(ft_params()->disks.drives->next);
    SET(TIME(drives, NULL), .ft_arbiter = (char *)"");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_assert_cmpint(qcrypto_init(NULL), ==, 0);
    module_call_init(MODULE_INIT_QOM);
    g_test_add_func("/ft/params/defaults", test_defaults);
    g_test_add_func("/ft/params/times", test_times);
    g_test_add_func("/ft/params/arbiter", test_arbiter);
    g_test_add_func("/ft/params/password", test_password);
    g_test_add_func("/ft/params/tls", test_tls);
    g_test_add_func("/ft/params/script", test_script);
    g_test_add_func("/ft/params/reprotect", test_reprotect);
    g_test_add_func("/ft/params/options", test_options);
    return g_test_run();
}
