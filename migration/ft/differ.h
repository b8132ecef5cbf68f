/*
 * Fault tolerance: what is not alike on the two sides, as one text
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_DIFFER_H
#define MIGRATION_FT_DIFFER_H

/* What to do about a difference. */
typedef enum FtRemedy {
    FT_REMEDY_SAME = 1,         /* the same QEMU and command line */
    FT_REMEDY_CPU = 2,          /* another -cpu */
    FT_REMEDY_TOLD = 4,         /* its text says so itself */
} FtRemedy;

/*
 * The first differences in words, the others counted.  Start with @text an
 * empty GString and all else 0.
 */
typedef struct FtDiffs {
    GString *text;
    unsigned shown, hidden;
    unsigned remedies;          /* FtRemedy, all of them */
} FtDiffs;

/* @remedies: FtRemedy, one or several. */
void ft_differ(FtDiffs *d, unsigned remedies, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* The end of the text: how many more there are, and what to do. */
void ft_differ_close(FtDiffs *d);

#endif
