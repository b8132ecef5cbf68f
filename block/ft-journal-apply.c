/*
 * Fault tolerance: from a drive's journal to its disk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   ft_drive_bh()  -->  applier, a coroutine in the main loop:
 *                         plan: a batch of committed records
 *                         up to APPLY_DEPTH operations at a time
 *                         a flush, if the batch ends with one
 *
 * The applier stops between two operations while the filter is drained, but
 * not when requests wait for it (mode DRAIN): the drain waits for them.  It
 * also stops while the session is not sure that this side may still write.
 */

#include "qemu/osdep.h"
#include "block/aio_task.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "ft-journal-private.h"
#include "../migration/ft/session.h"

/* Operations on their way to the disk at a time, for each drive. */
#define APPLY_DEPTH         16
/* Data that a batch has at most. */
#define APPLY_BATCH         (8 * MiB)
/* What has been applied is flushed after so long even if the guest does not
 * ask for it, so that the backup need not keep it for ever. */
#define APPLY_FLUSH_MS      100
/* A write that failed is tried again so often. */
#define APPLY_RETRY_MS      1000

typedef struct FtApplyTask {
    AioTask task;
    FtDrive *d;
    FtPlanOp op;
} FtApplyTask;

static bool drive_has_lease(FtDrive *d)
{
    QEMU_LOCK_GUARD(&d->lock);
    return d->mode != FT_DRIVE_HOLD || !d->ops || !d->ops->leased ||
           d->ops->leased(d->opaque, d);
}

static bool drive_must_rest(FtDrive *d)
{
    if (qatomic_read(&d->mode) == FT_DRIVE_DEAD) {
        return false;
    }
    return (qatomic_read(&d->quiesced) && !qatomic_read(&d->nwaiters)) ||
           !drive_has_lease(d);
}

/*
 * Take the graph's lock at a moment when the filter is not drained. False,
 * and it is not taken: nothing may be written any more.
 */
static bool coroutine_fn drive_enter(FtDrive *d)
{
    for (;;) {
        while (drive_must_rest(d)) {
            qemu_co_queue_wait(&d->resume, NULL);
        }
        bdrv_graph_co_rdlock();
        if (qatomic_read(&d->mode) == FT_DRIVE_DEAD) {
            bdrv_graph_co_rdunlock();
            return false;
        }
        if (!drive_must_rest(d)) {
            return true;
        }
        bdrv_graph_co_rdunlock();
    }
}

static int coroutine_fn apply_task(AioTask *task)
{
    FtApplyTask *t = container_of(task, FtApplyTask, task);
    const FtPlanOp *op = &t->op;
    FtDrive *d = t->d;
    QEMUIOVector qiov;
    int ret = 0;

    if (!drive_enter(d)) {
        return -ECANCELED;
    }
    switch (op->kind) {
    case FT_REC_WRITE:
        qemu_iovec_init_external(&qiov, op->iov, op->niov);
        ret = bdrv_co_pwritev(d->bs->file, op->offset, op->bytes, &qiov, 0);
        break;
    case FT_REC_ZERO:
        ret = bdrv_co_pwrite_zeroes(d->bs->file, op->offset, op->bytes,
                                    op->flags & FT_REC_UNMAP ?
                                    BDRV_REQ_MAY_UNMAP : 0);
        break;
    case FT_REC_DISCARD:
        ret = bdrv_co_pdiscard(d->bs->file, op->offset, op->bytes);
        if (ret == -ENOTSUP || ret == -EINVAL) {
            /* as the guest's would have been: a discard is a hint */
            ret = 0;
        }
        break;
    case FT_REC_FLUSH:
        break;
    }
    bdrv_graph_co_rdunlock();
    ft_inject(FT_FAULT_POINT_DISK_APPLY);
    return ret;
}

static int coroutine_fn apply_flush(FtDrive *d)
{
    uint64_t mark;
    int ret;

    if (!drive_enter(d)) {
        return -ECANCELED;
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        mark = ft_journal_flush_begin(d->journal);
    }
    ret = bdrv_co_flush(d->bs->file->bs);
    bdrv_graph_co_rdunlock();
    if (ret >= 0) {
        WITH_QEMU_LOCK_GUARD(&d->lock) {
            ft_journal_flush_done(d->journal, mark);
        }
        d->unflushed_since = 0;
    }
    return ret;
}

static int coroutine_fn apply_plan(FtDrive *d, FtPlan *plan)
{
    AioTaskPool *pool = aio_task_pool_new(APPLY_DEPTH);
    unsigned i;
    int ret;

    for (i = 0; i < plan->op->len; i++) {
        FtApplyTask *t;

        aio_task_pool_wait_slot(pool);
        if (aio_task_pool_status(pool) < 0 ||
            qatomic_read(&d->mode) == FT_DRIVE_DEAD) {
            break;
        }
        t = g_new0(FtApplyTask, 1);
        t->task.func = apply_task;
        t->d = d;
        t->op = g_array_index(plan->op, FtPlanOp, i);
        aio_task_pool_start_task(pool, &t->task);
    }
    aio_task_pool_wait_all(pool);
    ret = aio_task_pool_status(pool);
    aio_task_pool_free(pool);
    if (qatomic_read(&d->mode) == FT_DRIVE_DEAD) {
        return -ECANCELED;
    }
    if (!ret && plan->flush) {
        if (!drive_enter(d)) {
            return -ECANCELED;
        }
        ret = bdrv_co_flush(d->bs->file->bs);
        bdrv_graph_co_rdunlock();
        ft_inject(FT_FAULT_POINT_DISK_FLUSH);
    }
    return ret;
}

/* Is it time to flush without being asked?  Else when, in ms. */
static bool flush_is_due(FtDrive *d)
{
    int64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    FtBudgetStats st;

    WITH_QEMU_LOCK_GUARD(&d->lock) {
        if (!ft_journal_unflushed(d->journal)) {
            d->unflushed_since = 0;
            return false;
        }
        if (d->mode == FT_DRIVE_DRAIN || d->flush_gate) {
            return true;
        }
        ft_budget_stats(d->budget, &st);
    }
    if (!d->unflushed_since) {
        d->unflushed_since = now;
    }
    if (now - d->unflushed_since >= APPLY_FLUSH_MS ||
        (st.limit && st.used > st.limit / 4)) {
        return true;
    }
    timer_mod(d->timer, d->unflushed_since + APPLY_FLUSH_MS);
    return false;
}

static void ft_drive_tell_progress(FtDrive *d)
{
    if (d->ops) {
        d->ops->progress(d->opaque, d);
    }
}

static void coroutine_fn drive_apply(void *opaque)
{
    FtDrive *d = opaque;
    FtPlan plan;
    int ret = 0;
    bool more;

    while (ret >= 0 && qatomic_read(&d->mode) != FT_DRIVE_DEAD) {
        WITH_QEMU_LOCK_GUARD(&d->lock) {
            more = ft_journal_plan(d->journal, APPLY_BATCH, &plan);
        }
        if (!more) {
            break;
        }
        ret = apply_plan(d, &plan);
        WITH_QEMU_LOCK_GUARD(&d->lock) {
            if (ret < 0) {
                ft_journal_abandon(d->journal, &plan);
            } else {
                ft_journal_applied(d->journal, &plan);
            }
        }
        ft_drive_tell_progress(d);
    }
    if (ret >= 0 && qatomic_read(&d->mode) != FT_DRIVE_DEAD &&
        flush_is_due(d)) {
        ret = apply_flush(d);
        ft_drive_tell_progress(d);
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        d->error = ret < 0 && d->mode != FT_DRIVE_DEAD ? -ret : 0;
        d->failed = d->error;
        d->failures += d->failed;
    }
    if (d->failed) {
        timer_mod(d->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                  APPLY_RETRY_MS);
        if (d->ops) {
            d->ops->error(d->opaque, d, d->error);
        } else {
            error_report("ft: drive '%s' cannot be written: %s; what is left "
                         "in the journal will be tried again", d->name,
                         strerror(d->error));
        }
    }
    d->applier = NULL;
    aio_wait_kick();
    ft_drive_kick(d);
}

/* ------------------------------------------------------- in the main loop */

void ft_drive_blk_empty(Notifier *n, void *data)
{
    ft_drive_unblock(container_of(n, FtDrive, blk_empty));
}

/* The caller holds a reference. */
static void drive_remove(FtDrive *d)
{
    BlockDriverState *bs = d->bs;

    ft_drive_unblock(d);
    bdrv_drop_filter(bs, &error_abort);
}

void ft_drive_remove_bh(void *opaque)
{
    FtDrive *d = opaque;
    BlockDriverState *bs = d->bs;

    bdrv_ref(bs);
    /* Unless a new session has taken it meanwhile. */
    if (d->leaving && ft_drive_passes(d) && !d->applier &&
        !qatomic_read(&d->njobs)) {
        d->leaving = false;
        drive_remove(d);
    }
    bdrv_unref(bs);
}

void ft_drive_bh(void *opaque)
{
    FtDrive *d = opaque;
    bool idle, pending, wake, left = false;

    if (!d->journal) {
        return;
    }
    ft_drive_wake(&d->resume, NULL);
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        idle = ft_journal_idle(d->journal);
        pending = ft_journal_pending(d->journal);
        if (d->mode == FT_DRIVE_DRAIN && idle) {
            qatomic_set(&d->mode, FT_DRIVE_PASS);
            left = true;
        }
        wake = d->nwaiters && (idle || d->error);
        if (idle && d->mode == FT_DRIVE_HOLD && d->flush_gate && d->ops) {
            /* the flush is submitted again when the epoch ends: now, then */
            d->ops->parked(d->opaque, d);
        }
    }
    if (wake) {
        ft_drive_wake(&d->waiters, &d->lock);
    }
    if (left) {
        ft_drive_tell_progress(d);
    }
    if (d->leaving && ft_drive_passes(d)) {
        if (!d->applier) {
            /* not from here: it polls, and this may be in such a poll */
            qemu_bh_schedule(d->remove_bh);
        }
        return;
    }
    if (!d->applier && !d->failed && !drive_must_rest(d) &&
        qatomic_read(&d->mode) != FT_DRIVE_DEAD &&
        (pending || flush_is_due(d))) {
        d->applier = qemu_coroutine_create(drive_apply, d);
        qemu_coroutine_enter(d->applier);
    }
}

void ft_drive_timer(void *opaque)
{
    FtDrive *d = opaque;

    d->failed = false;
    ft_drive_kick(d);
}
