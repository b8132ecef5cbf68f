/*
 * Fault tolerance: what is said of one session, behind the backup's address
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No VM, no lock.  The words between the commas are taken one by one; what is
 * not ours is left in the address, in its order.
 */

#include "qemu/osdep.h"
#include "qapi/qapi-types-ft.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "uri.h"

/* "drive0:drive1" */
static void add_replicated(FtDisksParams *d, const char *names)
{
    g_auto(GStrv) name = g_strsplit(names, ":", -1);
    unsigned i;

    for (i = 0; name[i]; i++) {
        FtDriveOptions *o = g_new0(FtDriveOptions, 1);

        o->drive = g_strdup(name[i]);
        o->has_storage = true;
        o->storage = FT_STORAGE_REPLICATED;
        QAPI_LIST_PREPEND(d->drives, o);
    }
}

/* What @word says with @value, or -1. */
static int enum_option(const QEnumLookup *lookup, const char *word,
                       const char *value, Error **errp)
{
    int n = qapi_enum_parse(lookup, value, -1, NULL);
    g_autoptr(GString) all = NULL;
    int i;

    if (n < 0) {
        all = g_string_new("");
        for (i = 0; i < lookup->size; i++) {
            g_string_append_printf(all, "%s%s", i ? ", " : "",
                                   qapi_enum_lookup(lookup, i));
        }
        error_setg(errp, "'%s': the value can be one of: %s", word, all->str);
    }
    return n;
}

/* False, without an error: it is not of the disks. */
static bool disk_option(FtDisksParams *d, const char *word, Error **errp)
{
    const char *value;
    int n;

    if (!strcmp(word, "shared") || !strcmp(word, "replicated")) {
        d->all.storage = qapi_enum_parse(&FtStorage_lookup, word, 0, NULL);
        d->shared_is_sure = d->all.storage == FT_STORAGE_SHARED;
        return true;
    }
    if (strstart(word, "replicated=", &value)) {
        add_replicated(d, value);
        return true;
    }
    if (strstart(word, "copy=", &value)) {
        n = enum_option(&FtCopyMode_lookup, word, value, errp);
        d->all.copy = n;
        return n >= 0;
    }
    if (strstart(word, "flush=", &value)) {
        n = enum_option(&FtFlushMode_lookup, word, value, errp);
        d->all.flush = n;
        return n >= 0;
    }
    return false;
}

static bool is_url(const char *word)
{
    return strstart(word, "http://", NULL) || strstart(word, "https://", NULL);
}

/*
 * The arbiter's @value, and the words behind it at @rest that belong to it.
 * Returns how many these are, or -1.
 */
static int arbiter_option(FtProtectOptions *o, const char *value, char **rest,
                          Error **errp)
{
    g_autoptr(GString) spec = g_string_new(value);
    int taken = 0;

    if (strstart(value, "etcd:", NULL)) {
        while (rest[taken] && is_url(rest[taken])) {
            g_string_append_printf(spec, ",%s", rest[taken]);
            taken++;
        }
    }
    if (!*value) {
        o->arbiter_set = false;
        return 0;
    }
    if (!ft_arbiter_parse(&o->arbiter, spec->str, errp)) {
        return -1;
    }
    o->arbiter_set = true;
    return taken;
}

/* What inet_parse() looks for. */
static bool is_of_tcp(const char *word)
{
    static const char *const flag[] = {
        "ipv4", "ipv6", "keep-alive", "mptcp",
    };
    const char *value;
    unsigned i;

    if (strstart(word, "to=", NULL)) {
        return true;
    }
    for (i = 0; i < ARRAY_SIZE(flag); i++) {
        if (strstart(word, flag[i], &value) && (!*value || *value == '=')) {
            return true;
        }
    }
    return false;
}

bool ft_options_check_address(const char *plain, Error **errp)
{
    g_auto(GStrv) word = NULL;
    unsigned i;

    if (strstart(plain, "unix:", NULL)) {
        return true;
    }
    if (!strstart(plain, "tcp:", NULL)) {
        error_setg(errp, "fault tolerance supports the addresses "
                   "tcp:HOST:PORT and unix:PATH only, not '%s'", plain);
        return false;
    }
    word = g_strsplit(plain, ",", -1);
    for (i = 1; word[i]; i++) {
        if (!is_of_tcp(word[i])) {
            error_setg(errp, "unknown option '%s' behind the address '%s'",
                       word[i], word[0]);
            return false;
        }
    }
    return true;
}

char *ft_options_parse(const char *uri, FtProtectOptions *o, Error **errp)
{
    ERRP_GUARD();
    g_auto(GStrv) word = g_strsplit(uri, ",", -1);
    g_autoptr(GString) plain = g_string_new(word[0]);
    const char *value;
    unsigned i;
    int n;

    for (i = 1; word[0] && word[i]; i++) {
        if (strstart(word[i], "arbiter=", &value)) {
            n = arbiter_option(o, value, &word[i + 1], errp);
            if (n < 0) {
                return NULL;
            }
            i += n;
        } else if (!disk_option(&o->disks, word[i], errp)) {
            if (*errp) {
                return NULL;
            }
            g_string_append_printf(plain, ",%s", word[i]);
        }
    }
    if (!ft_options_check_address(plain->str, errp)) {
        return NULL;
    }
    return g_strdup(plain->str);
}

void ft_options_clear(FtProtectOptions *o)
{
    qapi_free_FtDriveOptionsList(o->disks.drives);
    o->disks.drives = NULL;
    ft_arbiter_params_clear(&o->arbiter);
    o->arbiter_set = false;
}
