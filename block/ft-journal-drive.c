/*
 * Fault tolerance: what a session does with a drive's journal
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All in the main loop, with the BQL; see include/block/ft-journal.h.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "ft-journal-private.h"

/* Does the device keep requests that are to be retried, in its state? */
static bool device_can_park(BlockBackend *blk)
{
    Object *dev = (Object *)blk_get_attached_dev(blk);

    return dev && (object_dynamic_cast(dev, "virtio-blk-device") ||
                   object_dynamic_cast(dev, "scsi-disk-base") ||
                   object_dynamic_cast(dev, "ide-hd"));
}

static char *drive_describe(BlockBackend *blk)
{
    g_autofree char *dev = NULL;

    if (*blk_name(blk)) {
        return g_strdup(blk_name(blk));
    }
    dev = blk_get_attached_dev_id(blk);
    return dev && *dev ? g_steal_pointer(&dev) :
                         g_strdup(bdrv_get_node_name(blk_bs(blk)));
}

/* The size of an image can be changed at each node below, by its name. */
static void drive_block_resize(FtDrive *d)
{
    BlockDriverState *bs;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    for (bs = d->blocked; bs->file; bs = bs->file->bs) {
        bdrv_ref(bs->file->bs);
        bdrv_op_block(bs->file->bs, BLOCK_OP_TYPE_RESIZE, d->blocker);
        d->below = g_slist_prepend(d->below, bs->file->bs);
    }
}

FtDrive *ft_drive_attach(BlockBackend *blk, uint16_t index,
                         FtBudget *budget, const FtDriveOps *ops,
                         void *opaque, const char *reason, Error **errp)
{
    BlockDriverState *node = blk_bs(blk);
    BlockDriverState *bs = node;
    FtDrive *d;

    if (node->drv == &bdrv_ft_journal) {        /* of the last session */
        d = node->opaque;
        assert(!d->ops);
        ft_budget_unref(d->budget);
        ft_journal_set_drive(d->journal, index);
    } else {
        QDict *opts = qdict_new();
        int64_t length = bdrv_getlength(node);

        if (length < 0) {
            qobject_unref(opts);
            error_setg_errno(errp, -length, "the size of drive '%s' cannot be "
                             "told", blk_name(blk));
            return NULL;
        }
        qdict_put_str(opts, "driver", "ft-journal");
        qdict_put_str(opts, "file", bdrv_get_node_name(node));
        /* whether discards get any further is for the node below to say */
        bs = bdrv_insert_node(node, opts, BDRV_O_RDWR | BDRV_O_UNMAP, errp);
        if (!bs) {
            error_prepend(errp, "cannot put a journal above drive '%s': ",
                          blk_name(blk));
            return NULL;
        }
        d = bs->opaque;
        d->journal = ft_journal_new(index, length);
        d->name = drive_describe(blk);
        d->blocked = node;
        bdrv_ref(node);
        /* The device's BlockBackend has one; it goes with that. */
        bdrv_unref(bs);
    }
    ft_drive_unblock(d);
    error_setg(&d->blocker, "drive '%s' %s", d->name, reason);
    bdrv_op_block_all(bs, d->blocker);
    bdrv_op_block_all(d->blocked, d->blocker);
    drive_block_resize(d);
    d->blk_empty.notify = ft_drive_blk_empty;
    blk_add_remove_bs_notifier(blk, &d->blk_empty);
    d->blk = blk;
    d->can_park = device_can_park(blk);
    d->can_park_zeroes = d->can_park && !object_dynamic_cast(
        (Object *)blk_get_attached_dev(blk), "scsi-disk-base");
    d->budget = ft_budget_ref(budget);
    d->ops = ops;
    d->opaque = opaque;
    d->leaving = false;
    return d;
}

void ft_drive_release(FtDrive *d)
{
    /* From HOLD first: only there do requests call back. */
    ft_drive_drain(d);
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        d->ops = NULL;
    }
    qatomic_set(&d->leaving, true);
    ft_drive_kick(d);
}

BlockDriverState *ft_drive_node(FtDrive *d)
{
    return d->blocked;
}

void ft_drive_set_flush_disk(FtDrive *d, bool disk)
{
    d->flush_disk = disk;
}

void ft_drive_hold(FtDrive *d, bool replica)
{
    QEMU_LOCK_GUARD(&d->lock);
    assert(d->mode == FT_DRIVE_PASS);
    ft_journal_start(d->journal);
    d->replica = replica;
    qatomic_set(&d->mode, FT_DRIVE_HOLD);
}

void ft_drive_drain(FtDrive *d)
{
    FtReadJob *job;

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        if (d->mode == FT_DRIVE_HOLD) {
            ft_journal_commit_all(d->journal);
            d->flush_gate = false;
            d->replica = false;
            d->drain_taken = 0;
            ft_drive_forget_fuas(d, 0, UINT64_MAX);
            /* In mode PASS nobody would tell them that they are outdated. */
            QLIST_FOREACH(job, &d->jobs, next) {
                job->stale = true;
            }
            qatomic_set(&d->mode, FT_DRIVE_DRAIN);
        }
    }
    ft_drive_kick(d);
}

void ft_drive_kill(FtDrive *d)
{
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        qatomic_set(&d->mode, FT_DRIVE_DEAD);
        ft_journal_drop(d->journal);
    }
    ft_drive_wake(&d->resume, NULL);
    AIO_WAIT_WHILE(NULL, d->applier);
}

static Coroutine *next_waiter(FtDrive *d)
{
    FtReadJob *job;

    QEMU_LOCK_GUARD(&d->lock);
    QLIST_FOREACH(job, &d->jobs, next) {
        if (job->waiter) {
            return g_steal_pointer(&job->waiter);
        }
    }
    return NULL;
}

void ft_drive_park(FtDrive *d, bool on)
{
    Coroutine *co;

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        d->parking = on && d->mode == FT_DRIVE_HOLD;
        if (!on && d->flush_gate && ft_journal_idle(d->journal)) {
            /*
             * The flush is submitted again now, and opens the gate. If it is
             * still closed by the next time, the device was reset.
             */
            d->flush_gate = !d->gate_idle;
            d->gate_idle = true;
        }
    }
    if (!d->parking || !d->can_park) {
        return;
    }
    while ((co = next_waiter(d))) {
        aio_co_wake(co);
    }
}

void ft_drive_seal(FtDrive *d, uint64_t epoch, FtRecords *out)
{
    QEMU_LOCK_GUARD(&d->lock);
    ft_journal_seal(d->journal, epoch, out);
    ft_drive_expire_jobs(d, false);
}

void ft_drive_commit(FtDrive *d, uint64_t epoch)
{
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        ft_journal_commit(d->journal, epoch);
    }
    ft_drive_kick(d);
}

void ft_drive_add(FtDrive *d, FtRecord *r)
{
    QEMU_LOCK_GUARD(&d->lock);
    ft_journal_add(d->journal, r);
}

void ft_drive_retry(FtDrive *d)
{
    ft_drive_kick(d);
}

uint64_t ft_drive_settled(FtDrive *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return ft_journal_settled(d->journal);
}

bool ft_drive_idle(FtDrive *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->mode == FT_DRIVE_PASS && ft_journal_idle(d->journal);
}

void ft_drive_stats(FtDrive *d, FtDriveStats *st)
{
    FtJournalStats js;

    QEMU_LOCK_GUARD(&d->lock);
    ft_journal_stats(d->journal, &js);
    *st = (FtDriveStats) {
        .records = js.records,
        .bytes = js.bytes,
        .writes = js.writes + js.zeroes + js.discards,
        .flushes = js.flushes,
        .written_bytes = js.written_bytes,
        .disk_ops = js.ops,
        .disk_bytes = js.op_bytes,
        .parked_reads = d->parked_reads,
        .parked_writes = d->parked_writes,
        .error = d->error,
        .failures = d->failures,
    };
}
