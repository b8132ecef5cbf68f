/*
 * Unit tests of migration/ft/uri.c: an address and the options behind it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft/uri.h"

static FtProtectOptions opt;

static void parsed(const char *uri, const char *address)
{
    Error *err = NULL;
    g_autofree char *plain = NULL;

    ft_options_clear(&opt);
    memset(&opt, 0, sizeof(opt));
    plain = ft_options_parse(uri, &opt, &err);
    if (err) {
        g_error("%s: %s", uri, error_get_pretty(err));
    }
    g_assert_cmpstr(plain, ==, address);
}

static void refused(const char *uri, const char *why)
{
    Error *err = NULL;
    char *plain;

    ft_options_clear(&opt);
    memset(&opt, 0, sizeof(opt));
    plain = ft_options_parse(uri, &opt, &err);
    g_assert_null(plain);
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), why)) {
        g_error("%s: %s", uri, error_get_pretty(err));
    }
    error_free(err);
}

static void arbiter_is(const char *spec)
{
    g_autofree char *have = ft_arbiter_spec(&opt.arbiter);

    g_assert_true(opt.arbiter_set);
    g_assert_cmpstr(have, ==, spec);
}

static void test_address(void)
{
    parsed("tcp:192.168.111.2:4441", "tcp:192.168.111.2:4441");
    g_assert_false(opt.arbiter_set);
    g_assert_null(opt.disks.drives);
    parsed("tcp:[::1]:4441,ipv4=off,ipv6", "tcp:[::1]:4441,ipv4=off,ipv6");
    parsed("tcp:a:1,to=4,copy=none,keep-alive=on,mptcp",
           "tcp:a:1,to=4,keep-alive=on,mptcp");
    g_assert_cmpint(opt.disks.all.copy, ==, FT_COPY_MODE_NONE);
    /* a path may have commas */
    parsed("unix:/a,b,flush=disk,c", "unix:/a,b,c");
    g_assert_cmpint(opt.disks.all.flush, ==, FT_FLUSH_MODE_DISK);

    refused("", "tcp:HOST:PORT");
    refused("exec:cat", "exec:cat");
    refused("fd:3", "tcp:HOST:PORT");
    refused("file:/x,arbiter=none", "tcp:HOST:PORT");
    refused("192.168.111.2:4441", "tcp:HOST:PORT");
    refused("tcp:a:1,arbitre=none", "'arbitre=none'");
    refused("tcp:a:1,ipv", "'ipv'");
    refused("tcp:a:1,ipv4x", "'ipv4x'");
    refused("tcp:a:1,to", "'to'");
    refused("tcp:a:1,", "''");
}

static void test_disks(void)
{
    FtDriveOptionsList *d;

    parsed("tcp:a:1,shared", "tcp:a:1");
    g_assert_true(opt.disks.shared_is_sure);
    g_assert_cmpint(opt.disks.all.storage, ==, FT_STORAGE_SHARED);
    parsed("tcp:a:1,replicated,copy=changed", "tcp:a:1");
    g_assert_false(opt.disks.shared_is_sure);
    g_assert_cmpint(opt.disks.all.storage, ==, FT_STORAGE_REPLICATED);
    g_assert_cmpint(opt.disks.all.copy, ==, FT_COPY_MODE_CHANGED);
    parsed("tcp:a:1,replicated=x:y", "tcp:a:1");
    g_assert_cmpint(opt.disks.all.storage, ==, FT_STORAGE_SHARED);
    d = opt.disks.drives;
    g_assert_cmpstr(d->value->drive, ==, "y");
    g_assert_cmpint(d->value->storage, ==, FT_STORAGE_REPLICATED);
    g_assert_cmpstr(d->next->value->drive, ==, "x");
    g_assert_null(d->next->next);
    refused("tcp:a:1,copy=all", "full, changed, none");
    refused("tcp:a:1,flush=", "'flush=': the value can be one of: commit");
    refused("tcp:a:1,replicate", "'replicate'");
}

static void test_arbiter(void)
{
    parsed("tcp:a:1,arbiter=none", "tcp:a:1");
    arbiter_is("none");
    parsed("tcp:a:1,arbiter=file:/srv/x,replicated", "tcp:a:1");
    arbiter_is("file:/srv/x");
    g_assert_cmpint(opt.disks.all.storage, ==, FT_STORAGE_REPLICATED);
    parsed("tcp:a:1,arbiter=etcd:http://e:2379,ipv4", "tcp:a:1,ipv4");
    arbiter_is("etcd:http://e:2379");
    parsed("tcp:a:1,arbiter=etcd:https://e:1,https://f:2,http://g:3,copy=none",
           "tcp:a:1");
    arbiter_is("etcd:https://e:1,https://f:2,http://g:3");
    g_assert_cmpint(opt.disks.all.copy, ==, FT_COPY_MODE_NONE);
    parsed("unix:/s,arbiter=etcd:http://e:1,http://f:2", "unix:/s");
    arbiter_is("etcd:http://e:1,http://f:2");
    /* the last one counts; none is that of the images */
    parsed("tcp:a:1,arbiter=none,arbiter=file:/b", "tcp:a:1");
    arbiter_is("file:/b");
    parsed("tcp:a:1,arbiter=file:/b,arbiter=", "tcp:a:1");
    g_assert_false(opt.arbiter_set);

    refused("tcp:a:1,arbiter=nobody", "file:DIR");
    refused("tcp:a:1,arbiter=file:b", "absolute");
    refused("tcp:a:1,arbiter=file:/b,http://e:1", "'http://e:1'");
    refused("tcp:a:1,arbiter=etcd:http://e:1,copy=none,http://f:1",
            "'http://f:1'");
    refused("tcp:a:1,arbiter=etcd:", "URL");
}

/* What the parameters have, and is not said, stays. */
static void test_on_top(void)
{
    g_autofree char *plain = NULL;

    ft_options_clear(&opt);
    memset(&opt, 0, sizeof(opt));
    g_assert_true(ft_arbiter_parse(&opt.arbiter, "file:/p", &error_abort));
    opt.arbiter_set = true;
    opt.arbiter.user = g_strdup("me");
    opt.disks.all.storage = FT_STORAGE_REPLICATED;
    opt.disks.journal_size = 17;
    plain = ft_options_parse("tcp:a:1,flush=disk", &opt, &error_abort);
    arbiter_is("file:/p");
    g_assert_cmpint(opt.disks.all.storage, ==, FT_STORAGE_REPLICATED);
    g_assert_cmpint(opt.disks.all.flush, ==, FT_FLUSH_MODE_DISK);
    g_assert_cmpuint(opt.disks.journal_size, ==, 17);
    g_free(plain);
    plain = ft_options_parse("tcp:a:1,arbiter=etcd:http://e:1", &opt,
                             &error_abort);
    arbiter_is("etcd:http://e:1");
    g_assert_cmpstr(opt.arbiter.user, ==, "me");
    ft_options_clear(&opt);
    g_assert_null(opt.arbiter.user);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/uri/address", test_address);
    g_test_add_func("/ft/uri/disks", test_disks);
    g_test_add_func("/ft/uri/arbiter", test_arbiter);
    g_test_add_func("/ft/uri/on-top", test_on_top);
    return g_test_run();
}
