/*
 * Fault tolerance: making the images of replicated drives equal
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *  primary                                  backup
 *  SYNC: a copy job for each drive   ---->  the image is exported
 *  all are ready: epoch 1 is taken,
 *    from now on the images stand still
 *    copies finish, connections close
 *    the images are flushed
 *    only now: remember what changes
 *    samples of those that were not
 *    copied whole are taken
 *  SAMPLES, epoch 1                  ---->  export ends, samples are compared
 *                                           epochs are applied from now on
 *
 * copy.c and copy-serve.c do the copying, this file says when.
 *
 * Locking: BQL, main loop.
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "disks-private.h"
#include "trace.h"

#define SAMPLES         64
#define TURN_MS         1000
/* u32 drive, u32 crc, u64 seed */
#define SAMPLE_SIZE     16

static char *export_name(unsigned index)
{
    return g_strdup_printf("ft-%u", index);
}

static bool is_replicated(const FtDisk *disk)
{
    return disk->params.storage == FT_STORAGE_REPLICATED;
}

/* Is there anything to copy, and so a connection for it? */
static bool is_copied(const FtDisk *disk)
{
    return is_replicated(disk) && disk->params.copy != FT_COPY_MODE_NONE;
}

/* --------------------------------------------------------------- primary */

unsigned ft_disks_copy_count(const FtDisks *ds)
{
    return ds->count;
}

bool ft_disks_is_copied(const FtDisks *ds, unsigned index)
{
    return is_copied(&ds->disk[index]);
}

/*
 * All copies have ended without an error, and nothing has been applied since
 * the pause of epoch 1: the images are equal. A flush that failed leaves
 * nobody knows what; the session will not live to see that.
 */
static void all_done(FtDisks *ds)
{
    bool flushed = true;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        flushed &= ds->disk[i].flush_ret >= 0;
    }
    if (flushed) {
        ft_disks_changed_start(ds);
        ds->equal = true;
    }
    ds->copied = true;
    qemu_bh_schedule(ds->bh);
}

static void one_done(FtDisks *ds)
{
    /* 0: the session has ended, and the images do not stand still */
    if (ds->copies && --ds->copies == 0) {
        all_done(ds);
    }
}

static void copy_ready(void *opaque)
{
    FtDisk *disk = opaque;

    disk->copy_ready = true;
    trace_ft_copy_ready(disk->name);
    qemu_bh_schedule(disk->ds->bh);
}

FtCopy *ft_disk_take_copy(FtDisk *disk)
{
    QEMU_LOCK_GUARD(&disk->ds->lock);
    return g_steal_pointer(&disk->copy);
}

static void copy_done(void *opaque, int ret, const char *msg)
{
    FtDisk *disk = opaque;
    FtDisks *ds = disk->ds;

    ft_copy_progress(disk->copy, &disk->copied, &disk->to_copy);
    ft_copy_cancel(ft_disk_take_copy(disk));
    if (ret < 0) {
        if (ds->ops) {
            ds->ops->failed(ds->opaque, msg);
        }
        return;
    }
    one_done(ds);
}

static const FtCopyOps copy_ops = {
    .ready = copy_ready,
    .done = copy_done,
};

bool ft_disks_copy_start(FtDisks *ds, unsigned index, QIOChannelSocket *sioc,
                         Error **errp)
{
    FtDisk *disk = &ds->disk[index];
    g_autofree char *name = export_name(index);
    BdrvDirtyBitmap *changed = NULL;
    FtCopy *copy;

    if (disk->params.copy == FT_COPY_MODE_CHANGED) {
        changed = ft_changed_get(ft_drive_node(disk->drive));
        if (!changed) {
            error_setg(errp, "drive '%s': it is not known what has changed "
                       "since the backup's image was equal (copy=changed); "
                       "protect with copy=full", disk->name);
            return false;
        }
    }
    copy = ft_copy_start(ft_drive_node(disk->drive), disk->name, sioc, name,
                         disk->params.copy, changed, &copy_ops, disk, errp);
    if (copy && disk->params.copy == FT_COPY_MODE_FULL) {
        /* It may be any image, and is neither old nor new until the end. */
        ft_changed_forget(ft_drive_node(disk->drive));
    }
    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        disk->copy = copy;
    }
    return copy;
}

void ft_disks_changed_start(FtDisks *ds)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        if (is_replicated(&ds->disk[i])) {
            ft_changed_start(ft_drive_node(ds->disk[i].drive));
        }
    }
}

void ft_disks_changed_turn(FtDisks *ds, uint64_t settled)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    unsigned i;

    /* Emptying a bitmap costs in proportion to the disk: not too often. */
    if (settled < ds->turn || now - ds->turned_at < TURN_MS) {
        return;
    }
    for (i = 0; i < ds->count; i++) {
        if (is_replicated(&ds->disk[i])) {
            ft_changed_turn(ft_drive_node(ds->disk[i].drive));
        }
    }
    ds->turn = ds->applying;
    ds->turned_at = now;
}

static bool needs_sample(const FtDisk *disk)
{
    return is_replicated(disk) && disk->params.copy != FT_COPY_MODE_FULL;
}

/*
 * What was written before there was a journal must be on the disk before the
 * first epoch counts: the backup has nothing of it to replay. That goes for
 * qcow2's tables, which are written at a flush, too.
 */
struct FtFirstFlush {
    FtDisk *disk;               /* NULL: nobody waits any more */
    BlockDriverState *bs;       /* a reference */
    int ret;
};

static void flush_done(void *opaque)
{
    FtFirstFlush *f = opaque;

    if (f->disk) {
        f->disk->flush = NULL;
        f->disk->flush_ret = f->ret;
        one_done(f->disk->ds);
    }
    bdrv_unref(f->bs);
    g_free(f);
}

static void coroutine_fn flush_run(void *opaque)
{
    FtFirstFlush *f = opaque;

    WITH_GRAPH_RDLOCK_GUARD() {
        f->ret = bdrv_co_flush(f->bs);
    }
    aio_bh_schedule_oneshot(iohandler_get_aio_context(), flush_done, f);
}

static void flush_begin(FtDisk *disk)
{
    disk->flush = g_new0(FtFirstFlush, 1);
    disk->flush->disk = disk;
    disk->flush->bs = ft_drive_node(disk->drive);
    bdrv_ref(disk->flush->bs);
    qemu_coroutine_enter(qemu_coroutine_create(flush_run, disk->flush));
}

void ft_disk_forget_flush(FtDisk *disk)
{
    /* It may take as long as it likes. */
    if (disk->flush) {
        disk->flush->disk = NULL;
        disk->flush = NULL;
    }
}

bool ft_disks_finish_copies(FtDisks *ds)
{
    unsigned i;

    /* first count, then begin, as each may be done at once */
    for (i = 0; i < ds->count; i++) {
        ds->copies += 1 + !!ds->disk[i].copy;
    }
    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].copy) {
            ft_copy_finish(ds->disk[i].copy);
        }
        flush_begin(&ds->disk[i]);
    }
    return ds->count;
}

bool ft_disks_sample(FtDisks *ds, GByteArray *out, Error **errp)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];
        uint8_t buf[SAMPLE_SIZE];
        uint64_t seed;
        uint32_t crc;

        if (disk->flush_ret < 0) {
            error_setg_errno(errp, -disk->flush_ret, "drive '%s' cannot be "
                             "flushed", disk->name);
            return false;
        }
        if (!needs_sample(disk)) {
            continue;
        }
        qemu_guest_getrandom_nofail(&seed, sizeof(seed));
        if (!ft_copy_sample(ft_drive_node(disk->drive), seed, SAMPLES, &crc,
                            errp)) {
            error_prepend(errp, "drive '%s': ", disk->name);
            return false;
        }
        stl_be_p(buf, i);
        stl_be_p(buf + 4, crc);
        stq_be_p(buf + 8, seed);
        g_byte_array_append(out, buf, sizeof(buf));
    }
    return true;
}

/* ---------------------------------------------------------------- backup */

void ft_disks_copy_accept(FtDisks *ds, unsigned index,
                          QIOChannelSocket *sioc)
{
    if (index < ds->count && ds->disk[index].serving) {
        ft_copy_accept(sioc);
    }
}

bool ft_disks_serve(FtDisks *ds, Error **errp)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];
        g_autofree char *name = export_name(i);

        if (!is_copied(disk)) {
            continue;
        }
        if (!ft_copy_serve(ft_drive_node(disk->drive), name, errp)) {
            error_prepend(errp, "drive '%s': ", disk->name);
            return false;
        }
        disk->serving = true;
    }
    return true;
}

static void serve_ended(void *opaque)
{
    FtDisk *disk = opaque;

    disk->serving = false;
    qemu_bh_schedule(disk->ds->bh);
}

bool ft_disks_serve_end(FtDisks *ds)
{
    bool busy = false;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        if (disk->serving && !disk->ending) {
            g_autofree char *name = export_name(i);

            disk->ending = true;
            ft_copy_serve_end(name, serve_ended, disk);
        }
        busy |= disk->serving;
    }
    return !busy;
}

bool ft_disks_compare(FtDisks *ds, const uint8_t *buf, size_t len,
                      Error **errp)
{
    if (len % SAMPLE_SIZE || len / SAMPLE_SIZE > ds->count) {
        error_setg(errp, "the primary sent %zu bytes of samples of %u drives",
                   len, ds->count);
        return false;
    }
    for (; len; buf += SAMPLE_SIZE, len -= SAMPLE_SIZE) {
        uint32_t index = ldl_be_p(buf);
        uint32_t crc;
        FtDisk *disk;

        if (index >= ds->count || !needs_sample(&ds->disk[index])) {
            error_setg(errp, "the primary sent a sample of drive %" PRIu32
                       ", which has none", index);
            return false;
        }
        disk = &ds->disk[index];
        if (!ft_copy_sample(ft_drive_node(disk->drive), ldq_be_p(buf + 8),
                            SAMPLES, &crc, errp)) {
            error_prepend(errp, "drive '%s': ", disk->name);
            return false;
        }
        if (crc != ldl_be_p(buf + 4)) {
            error_setg(errp, "drive '%s': the images of primary and backup "
                       "differ; protect with copy=full", disk->name);
            return false;
        }
    }
    return true;
}
