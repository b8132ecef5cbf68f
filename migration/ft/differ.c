/*
 * Fault tolerance: what is not alike on the two sides, as one text
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "differ.h"

#define DIFFS_MAX   8
/* The whole error, with both remedies, has to fit in the text of a frame. */
#define DIFFS_BYTES 740

void ft_differ(FtDiffs *d, unsigned remedies, const char *fmt, ...)
{
    g_autofree char *s = NULL;
    va_list ap;

    va_start(ap, fmt);
    s = g_strdup_vprintf(fmt, ap);
    va_end(ap);

    d->remedies |= remedies;
    if (d->shown == DIFFS_MAX ||
        (d->shown && d->text->len + strlen(s) > DIFFS_BYTES)) {
        d->hidden++;
        return;
    }
    g_string_append_printf(d->text, "%s%s", d->shown ? "; " : "", s);
    d->shown++;
}

void ft_differ_close(FtDiffs *d)
{
    if (d->hidden) {
        g_string_append_printf(d->text, "; and %u more", d->hidden);
    }
    if (d->remedies & FT_REMEDY_SAME) {
        g_string_append(d->text, ".  Start the backup with the same QEMU and "
                        "the same command line as the primary");
    }
    if (d->remedies & FT_REMEDY_CPU) {
        g_string_append(d->text, ".  Give both the same -cpu: a named model "
                        "that both hosts have, or 'host' on hosts of the "
                        "same kind");
    }
}
