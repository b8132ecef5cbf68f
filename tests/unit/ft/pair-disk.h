/*
 * For test-ft-pair.c: a drive that both sides write to, and its journals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A record is a number: the first that the guest writes is 1.  The primary
 * puts those of committed epochs on the drive, in order, some time after; the
 * backup keeps those that may not be there yet.  After a takeover the drive
 * must have all records of the committed epochs, and no others.
 */

#ifndef TEST_FT_PAIR_DISK_H
#define TEST_FT_PAIR_DISK_H

#define RECORD  24              /* bytes of one on the wire */

typedef struct Sealed {
    uint64_t last;              /* record */
    uint64_t on_disk;           /* what the epoch says of it */
} Sealed;

typedef struct Disk {
    /* the primary */
    uint64_t written;           /* last record that its guest made */
    GArray *sealed;             /* of Sealed, by epoch */
    uint64_t committed;         /* epoch */
    bool all;                   /* the other side is gone */
    bool dropped;
    bool slow;
    uint64_t applied, flushed;  /* last records on the drive */
    /* the backup: records, in the order in which they came */
    GArray *staged;             /* of the open epoch */
    GArray *journal;            /* of committed ones, to be replayed */
} Disk;

static void disk_init(Disk *d)
{
    *d = (Disk) {
        .sealed = g_array_new(false, true, sizeof(Sealed)),
        .slow = g_test_rand_int_range(0, 4) == 0,
        .staged = g_array_new(false, false, sizeof(uint64_t)),
        .journal = g_array_new(false, false, sizeof(uint64_t)),
    };
    g_array_set_size(d->sealed, 1);
}

static void disk_free(Disk *d)
{
    g_array_free(d->sealed, true);
    g_array_free(d->staged, true);
    g_array_free(d->journal, true);
}

static const Sealed *disk_sealed(const Disk *d, uint64_t epoch)
{
    g_assert_cmpuint(epoch, <, d->sealed->len);
    return &g_array_index(d->sealed, Sealed, epoch);
}

/* ----------------------------------------------------------- the primary */

static void disk_write(Disk *d)
{
    d->written += g_test_rand_int_range(0, 4);
}

/* The last epoch all of which is on the drive, whatever happens to a host. */
static uint64_t disk_settled(const Disk *d)
{
    uint64_t epoch = d->committed;

    while (disk_sealed(d, epoch)->last > d->flushed) {
        epoch--;
    }
    return epoch;
}

static void disk_seal(Disk *d, uint64_t epoch)
{
    Sealed s = { .last = d->written, .on_disk = disk_settled(d) };

    g_assert_cmpuint(epoch, ==, d->sealed->len);
    g_array_append_val(d->sealed, s);
}

/* It writes in its own time; what is not flushed may be lost with it. */
static void disk_work(Disk *d)
{
    uint64_t last = d->all ? d->written : disk_sealed(d, d->committed)->last;

    if (d->dropped || g_test_rand_int_range(0, d->slow ? 20 : 2)) {
        return;
    }
    if (d->applied < last) {
        d->applied += g_test_rand_int_range(1, last - d->applied + 1);
    }
    if (g_test_rand_bit()) {
        d->flushed = d->applied;
    }
}

/* ------------------------------------------------------------ the backup */

static void disk_stage(Disk *d, uint64_t first, uint64_t records)
{
    for (uint64_t r = first; r < first + records; r++) {
        g_array_append_val(d->staged, r);
    }
}

/* Is this first + 1, first + 2, ... last? */
static bool disk_is(const GArray *a, uint64_t first, uint64_t last)
{
    if (a->len != last - first) {
        return false;
    }
    for (guint i = 0; i < a->len; i++) {
        if (g_array_index(a, uint64_t, i) != first + i + 1) {
            return false;
        }
    }
    return true;
}

/* What is staged is the epoch. */
static bool disk_whole(const Disk *d, uint64_t epoch)
{
    return disk_is(d->staged, disk_sealed(d, epoch - 1)->last,
                   disk_sealed(d, epoch)->last);
}

/* What is staged is committed; epochs up to @on_disk may be forgotten. */
static void disk_keep(Disk *d, uint64_t on_disk)
{
    uint64_t last = disk_sealed(d, on_disk)->last;
    guint n = 0;

    g_array_append_vals(d->journal, d->staged->data, d->staged->len);
    g_array_set_size(d->staged, 0);
    while (n < d->journal->len &&
           g_array_index(d->journal, uint64_t, n) <= last) {
        n++;
    }
    g_array_remove_range(d->journal, 0, n);
}

/* The journal has all up to @epoch that the drive may not have. */
static bool disk_complete(const Disk *d, uint64_t epoch, uint64_t on_disk)
{
    uint64_t first = disk_sealed(d, on_disk)->last;

    return first <= d->flushed &&
           disk_is(d->journal, first, disk_sealed(d, epoch)->last);
}

#endif
