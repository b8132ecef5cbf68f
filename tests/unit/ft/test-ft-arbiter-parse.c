/*
 * Unit tests of migration/ft/arbiter.c: naming an arbiter
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/ft/arbiter.h"

static void test_parse_good(void)
{
    static const struct {
        const char *spec, *where, *again;
        FtArbiterKind kind;
    } good[] = {
        { "none", NULL, "none", FT_ARBITER_NONE },
        { "file:/", "/", "file:/", FT_ARBITER_FILE },
        { "file:/a b,c:d", "/a b,c:d", "file:/a b,c:d", FT_ARBITER_FILE },
        { "file:/a/b///", "/a/b", "file:/a/b", FT_ARBITER_FILE },
        { "etcd:http://h:2379", "http://h:2379", "etcd:http://h:2379",
          FT_ARBITER_ETCD },
        { "etcd:https://[::1]:1/,http://10.0.0.1:2",
          "https://[::1]:1,http://10.0.0.1:2",
          "etcd:https://[::1]:1,http://10.0.0.1:2", FT_ARBITER_ETCD },
        { "etcd:http://1,http://2,http://3,http://4,http://5,http://6,"
          "http://7,http://8",
          "http://1,http://2,http://3,http://4,http://5,http://6,"
          "http://7,http://8",
          "etcd:http://1,http://2,http://3,http://4,http://5,http://6,"
          "http://7,http://8", FT_ARBITER_ETCD },
    };
    FtArbiterParams p = { .password = g_strdup("s") };

    for (int i = 0; i < ARRAY_SIZE(good); i++) {
        g_autofree char *again = NULL;

        g_assert_true(ft_arbiter_parse(&p, good[i].spec, &error_abort));
        g_assert_cmpint(p.kind, ==, good[i].kind);
        g_assert_cmpstr(p.where, ==, good[i].where);
        g_assert_cmpstr(p.password, ==, "s");
        again = ft_arbiter_spec(&p);
        g_assert_cmpstr(again, ==, good[i].again);
    }
    ft_arbiter_params_clear(&p);
}

static void test_parse_bad(void)
{
    static const struct {
        const char *spec, *says;
    } bad[] = {
        { "", "file:DIR" },
        { "None", "none" },
        { "none ", "none" },
        { "none:", "none" },
        { "nfs:/x", "etcd:URL" },
        { "file:", "absolute" },
        { "file:x/y", "absolute" },
        { "file:./x", "absolute" },
        { "file:/x\ny", "control" },
        { "file:/x\x7f", "control" },
        { "file:/\xff\xfe", "UTF-8" },
        { "etcd:", "1 to 8" },
        { "etcd:,", "URL 1" },
        { "etcd:h:2379", "URL 1" },
        { "etcd:ftp://h:2379", "URL 1" },
        { "etcd:http://", "URL 1" },
        { "etcd:http:///x", "URL 1" },
        { "etcd:http://h:99999", "URL 1" },
        { "etcd:http://h:1,", "URL 2" },
        { "etcd:http://h:1,http://h:1/v3", "URL 2" },
        { "etcd:http://h:1?x", "URL 1" },
        { "etcd:http://h:1#x", "URL 1" },
        { "etcd:http://me:hunter2@h:1", "ft-arbiter-secret" },
        { "etcd:http://me:hunter2@h:1:1", "URL 1" },
        { "etc:http://me:hunter2@h:1", "etcd:URL" },
        { "etcd:http://1,http://2,http://3,http://4,http://5,http://6,"
          "http://7,http://8,http://9", "1 to 8" },
    };
    g_autofree char *dir = g_strnfill(3000, 'x');
    g_autofree char *huge = g_strconcat("file:/", dir, NULL);
    FtArbiterParams p = { };
    Error *err = NULL;

    g_assert_true(ft_arbiter_parse(&p, "file:/old", &error_abort));
    for (int i = 0; i < ARRAY_SIZE(bad); i++) {
        g_test_message("case %d", i);
        g_assert_false(ft_arbiter_parse(&p, bad[i].spec, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), bad[i].says));
        g_assert_null(strstr(error_get_pretty(err), "hunter2"));
        error_free(err);
        err = NULL;
    }
    g_assert_false(ft_arbiter_parse(&p, huge, &err));
    g_assert_cmpint(strlen(error_get_pretty(err)), <, 200);
    error_free(err);
    g_assert_cmpint(p.kind, ==, FT_ARBITER_FILE);
    g_assert_cmpstr(p.where, ==, "/old");
    ft_arbiter_params_clear(&p);
}

static void test_copy(void)
{
    FtArbiterParams from = {
        .kind = FT_ARBITER_ETCD, .where = (char *)"w", .user = (char *)"u",
        .password = (char *)"p", .tls_dir = (char *)"t",
    };
    FtArbiterParams to;

    ft_arbiter_params_copy(&to, &from);
    g_assert_cmpint(to.kind, ==, FT_ARBITER_ETCD);
    g_assert_cmpstr(to.where, ==, "w");
    g_assert(to.where != from.where);
    g_assert_cmpstr(to.user, ==, "u");
    g_assert_cmpstr(to.password, ==, "p");
    g_assert_cmpstr(to.tls_dir, ==, "t");
    ft_arbiter_params_clear(&to);
    g_assert_cmpint(to.kind, ==, FT_ARBITER_NONE);
    g_assert_null(to.where);
    g_assert_null(to.password);
}

static void test_clean(void)
{
    g_autofree char *huge = g_strnfill(5000, 'x');
    g_autofree char *odd = ft_arbiter_clean("a\x1b[2J\n\xc3\xa4~\x7f");
    g_autofree char *cut = ft_arbiter_clean(huge);

    g_assert_cmpstr(odd, ==, "a?[2J???~?");
    g_assert_cmpint(strlen(cut), ==, FT_ARBITER_TEXT_MAX);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/arbiter/parse/good", test_parse_good);
    g_test_add_func("/ft/arbiter/parse/bad", test_parse_bad);
    g_test_add_func("/ft/arbiter/parse/copy", test_copy);
    g_test_add_func("/ft/arbiter/parse/clean", test_clean);
    return g_test_run();
}
