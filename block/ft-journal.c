/*
 * Fault tolerance: the filter that journals what a drive is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * include/block/ft-journal.h describes modes and parking. In here:
 *
 *   requests (any thread)          applier (a coroutine in the main loop)
 *   write --> record, done         plan: a batch of committed records
 *   read  --> pieces of records    up to APPLY_DEPTH operations at a time
 *             + read job           then a flush, if the batch ends with one
 *
 * A read job reads the whole range from the disk into a buffer of its own and
 * lays the records' pieces over it as they were when it began. What is
 * written meanwhile is concurrent with the read, which may return either. A
 * job that a parked request left behind is used by the next read of the same
 * range, unless the range was written since.
 *
 * The applier stops between two operations while the filter is drained, but
 * not when requests wait for it (mode DRAIN): the drain waits for them.
 */

#include "qemu/osdep.h"
#include "block/aio_task.h"
#include "block/block_int.h"
#include "block/ft-journal.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "../migration/ft/journal.h"
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
/* What is taken in while the journal is worked off: more would never end. */
#define DRAIN_MAX           (4 * MiB)
/* A finished read that nobody asked for again is kept for so many epochs. */
#define JOB_AGE_MAX         16

typedef enum FtDriveMode {
    FT_DRIVE_PASS,
    FT_DRIVE_HOLD,
    FT_DRIVE_DRAIN,
    FT_DRIVE_DEAD,
} FtDriveMode;

typedef struct FtReadJob {
    FtDrive *d;
    int64_t offset, bytes;
    uint8_t *buf;
    FtPieces pieces;
    int ret;
    bool done;
    bool parked;                /* nobody waits for it now */
    bool stale;                 /* the range was written since */
    unsigned age;
    Coroutine *waiter;
    QLIST_ENTRY(FtReadJob) next;
} FtReadJob;

/* With flush=disk: a FUA write that is parked until it is on the disk. */
typedef struct FtFua {
    FtRecord *rec;
    QLIST_ENTRY(FtFua) next;
} FtFua;

struct FtDrive {
    BlockDriverState *bs;       /* this filter */
    BlockBackend *blk;
    char *name;
    bool can_park;              /* the device has a list for that */
    bool flush_disk;
    const FtDriveOps *ops;      /* NULL: released */
    void *opaque;
    bool leaving;               /* the filter goes when it is idle */
    Error *blocker;
    BlockDriverState *blocked;  /* the node below; a reference */
    Notifier blk_empty;         /* the BlockBackend lets go of this node */
    QEMUBH *bh;
    QEMUBH *remove_bh;          /* outside of all drains */
    QEMUTimer *timer;
    unsigned quiesced;          /* atomic; nested drains */

    /* the applier; main loop */
    Coroutine *applier;
    CoQueue resume;             /* waits for the end of a drain */
    bool failed;                /* waits for the timer to try again */
    int64_t unflushed_since;    /* ms; 0: nothing to flush */

    QemuMutex lock;             /* all below */
    FtDriveMode mode;
    FtJournal *journal;
    FtBudget *budget;
    bool parking;
    bool replica;               /* a backup's: no guest writes it */
    bool flush_gate;            /* a flush is parked: no writes until idle,
                                 * and the flush has been told so */
    bool gate_idle;             /* it was idle already one epoch ago */
    uint64_t drain_taken;       /* bytes taken in in mode DRAIN */
    CoQueue waiters;            /* in mode DRAIN */
    unsigned nwaiters;
    int error;                  /* of the applier, errno */
    uint64_t failures;
    QLIST_HEAD(, FtReadJob) jobs;
    unsigned njobs;             /* that are running; atomic for readers */
    QLIST_HEAD(, FtFua) fuas;
    uint64_t parked_reads, parked_writes;
};

static void drive_kick(FtDrive *d)
{
    qemu_bh_schedule(d->bh);
}

/* Wake all that wait now, not those that find that they must wait again. */
static void wake_all(CoQueue *queue, QemuMutex *lock)
{
    CoQueue now;

    qemu_co_queue_init(&now);
    if (lock) {
        qemu_mutex_lock(lock);
    }
    QSIMPLEQ_CONCAT(&now.entries, &queue->entries);
    if (lock) {
        qemu_mutex_unlock(lock);
    }
    qemu_co_enter_all(&now, NULL);
}

/* ------------------------------------------------------------ read jobs */

static void job_free(FtReadJob *job)
{
    QLIST_REMOVE(job, next);
    ft_pieces_clear(&job->pieces);
    qemu_vfree(job->buf);
    g_free(job);
}

static void coroutine_fn job_run(void *opaque)
{
    FtReadJob *job = opaque;
    FtDrive *d = job->d;
    Coroutine *waiter;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_pread(d->bs->file, job->offset, job->bytes, job->buf, 0);
    }
    if (ret >= 0) {
        ft_pieces_copy(&job->pieces, job->offset, job->bytes, job->buf);
    }
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        ft_pieces_clear(&job->pieces);
        job->ret = MIN(ret, 0);
        job->done = true;
        waiter = g_steal_pointer(&job->waiter);
    }
    if (waiter) {
        aio_co_wake(waiter);
    }
    qatomic_dec(&d->njobs);
    aio_wait_kick();
    if (qatomic_read(&d->leaving)) {
        drive_kick(d);
    }
}

/* A job of a parked request that asked for just this.  Lock held. */
static FtReadJob *job_find(FtDrive *d, int64_t offset, int64_t bytes)
{
    FtReadJob *job;

    QLIST_FOREACH(job, &d->jobs, next) {
        if (job->parked && !job->stale && job->offset == offset &&
            job->bytes == bytes) {
            return job;
        }
    }
    return NULL;
}

/* The range is written: what was read of it is history.  Lock held. */
static void jobs_outdate(FtDrive *d, int64_t offset, int64_t bytes)
{
    FtReadJob *job;

    QLIST_FOREACH(job, &d->jobs, next) {
        if (offset < job->offset + job->bytes &&
            job->offset < offset + bytes) {
            job->stale = true;
        }
    }
}

/* Drop what nobody came back for (a reset device).  Lock held. */
static void jobs_expire(FtDrive *d, bool all)
{
    FtReadJob *job, *next;

    QLIST_FOREACH_SAFE(job, &d->jobs, next, next) {
        if (job->parked && job->done &&
            (all || job->stale || ++job->age > JOB_AGE_MAX)) {
            job_free(job);
        }
    }
}

static void pieces_to_qiov(const FtPieces *p, int64_t offset,
                           QEMUIOVector *qiov)
{
    unsigned i;

    for (i = 0; i < p->piece->len; i++) {
        const FtPiece *pc = &g_array_index(p->piece, FtPiece, i);

        if (pc->rec->data) {
            qemu_iovec_from_buf(qiov, pc->offset - offset, pc->rec->data +
                                (pc->offset - pc->rec->offset), pc->bytes);
        } else {
            qemu_iovec_memset(qiov, pc->offset - offset, 0, pc->bytes);
        }
    }
}

static int coroutine_fn GRAPH_RDLOCK
drive_read(FtDrive *d, int64_t offset, int64_t bytes, QEMUIOVector *qiov)
{
    FtReadJob *job;
    FtPieces pieces;
    uint8_t *buf;
    int ret;

    qemu_mutex_lock(&d->lock);
    job = job_find(d, offset, bytes);
    if (!job) {
        ft_journal_lookup(d->journal, offset, bytes, &pieces);
        if (pieces.bytes == bytes) {
            qemu_mutex_unlock(&d->lock);
            pieces_to_qiov(&pieces, offset, qiov);
            ft_pieces_clear(&pieces);
            return 0;
        }
        /*
         * In the list before the lock is let go: a write in between must
         * find it there.
         */
        job = g_new0(FtReadJob, 1);
        job->d = d;
        job->offset = offset;
        job->bytes = bytes;
        job->pieces = pieces;
        QLIST_INSERT_HEAD(&d->jobs, job, next);
        buf = qemu_try_blockalign(d->bs->file->bs, bytes);
        if (!buf) {
            job_free(job);
            qemu_mutex_unlock(&d->lock);
            return -ENOMEM;
        }
        job->buf = buf;
        qatomic_inc(&d->njobs);
        qemu_mutex_unlock(&d->lock);
        qemu_coroutine_enter(qemu_coroutine_create(job_run, job));
        qemu_mutex_lock(&d->lock);
    }
    job->parked = false;
    job->age = 0;
    while (!job->done && !(d->parking && d->can_park)) {
        job->waiter = qemu_coroutine_self();
        qemu_mutex_unlock(&d->lock);
        qemu_coroutine_yield();
        qemu_mutex_lock(&d->lock);
    }
    if (!job->done) {
        job->parked = true;
        d->parked_reads++;
        qemu_mutex_unlock(&d->lock);
        return -FT_EPARKED;
    }
    ret = job->ret;
    if (!ret) {
        qemu_iovec_from_buf(qiov, 0, job->buf, bytes);
    }
    job_free(job);
    qemu_mutex_unlock(&d->lock);
    return ret;
}

/* -------------------------------------------------------------- recording */

/* Wait in mode DRAIN until something has changed.  Lock held. */
static int coroutine_fn drain_wait(FtDrive *d)
{
    d->nwaiters++;
    drive_kick(d);
    qemu_co_queue_wait(&d->waiters, &d->lock);
    d->nwaiters--;
    return -d->error;
}

/* A flush must wait for the disk: no writes until then.  Lock held. */
static int flush_parked(FtDrive *d)
{
    if (!d->flush_gate && d->ops) {
        d->ops->parked(d->opaque, d);
    }
    d->flush_gate = true;
    d->gate_idle = false;
    d->parked_writes++;
    return -FT_EPARKED;
}

/* Is this what a parked FUA write has put on the disk?  Lock held. */
static bool fua_is_done(FtDrive *d, const FtRecord *r)
{
    FtFua *f;

    QLIST_FOREACH(f, &d->fuas, next) {
        if (f->rec->kind == r->kind && f->rec->offset == r->offset &&
            f->rec->bytes == r->bytes &&
            (!r->data || !memcmp(f->rec->data, r->data, r->bytes))) {
            return true;
        }
    }
    return false;
}

/* The range is written again (or its requests are over).  Lock held. */
static void fuas_forget(FtDrive *d, uint64_t offset, uint64_t bytes)
{
    FtFua *f, *next;

    QLIST_FOREACH_SAFE(f, &d->fuas, next, next) {
        if (offset < f->rec->offset + f->rec->bytes &&
            f->rec->offset < offset + bytes) {
            QLIST_REMOVE(f, next);
            ft_record_unref(f->rec);
            g_free(f);
        }
    }
}

/*
 * Make a record. Returns 0, a negative errno, or 1 if the drive does not
 * journal and the request must go to the disk. Takes @r over.
 */
static int coroutine_fn drive_record(FtDrive *d, FtRecord *r, bool fua)
{
    /*
     * What has no data is small, and is not put off: scsi-disk cannot save
     * an UNMAP or WRITE SAME that is to be submitted again.
     */
    bool force = !d->can_park || !r->data;
    uint64_t cost = ft_record_cost(r);
    int ret = 0;

    QEMU_LOCK_GUARD(&d->lock);
    fua = fua && d->mode == FT_DRIVE_HOLD && d->flush_disk && d->can_park &&
          !d->replica;
    if (fua && ft_journal_idle(d->journal) && fua_is_done(d, r)) {
        d->flush_gate = false;
        fuas_forget(d, r->offset, r->bytes);
        ft_record_unref(r);
        return 0;
    }
    while (d->mode == FT_DRIVE_DRAIN && d->drain_taken + cost > DRAIN_MAX &&
           !ft_journal_idle(d->journal) && !ret) {
        ret = drain_wait(d);
    }
    if (!ret) {
        switch (d->mode) {
        case FT_DRIVE_PASS:
            ret = 1;
            break;
        case FT_DRIVE_HOLD:
            if (d->replica) {
                /* the primary alone says what is written here */
                ret = -EBUSY;
            } else if ((d->flush_gate && !force) ||
                       !ft_budget_admit(d->budget, cost, force)) {
                d->parked_writes++;
                ret = -FT_EPARKED;
            }
            break;
        case FT_DRIVE_DRAIN:
            d->drain_taken += cost;
            drive_kick(d);
            break;
        case FT_DRIVE_DEAD:
            ret = -FT_EPARKED;
            break;
        }
    }
    if (ret) {
        ft_record_unref(r);
        return ret;
    }
    jobs_outdate(d, r->offset, r->bytes);
    fuas_forget(d, r->offset, r->bytes);
    if (fua) {
        FtFua *f = g_new(FtFua, 1);

        /* It is about to be parked, and made again when it is done. */
        f->rec = ft_record_ref(r);
        QLIST_INSERT_HEAD(&d->fuas, f, next);
    }
    ft_journal_add(d->journal, r);
    if (fua) {
        ft_journal_add(d->journal,
                       ft_record_new(FT_REC_FLUSH, 0, 0, 0, 0, NULL));
        return flush_parked(d);
    }
    return 0;
}

static bool drive_passes(FtDrive *d)
{
    /* It cannot change while a request is under way but from DRAIN to PASS */
    return qatomic_read(&d->mode) == FT_DRIVE_PASS;
}

/* Wait until all that was written is on the disk. */
static int coroutine_fn drive_flush(FtDrive *d)
{
    int ret = 0;

    QEMU_LOCK_GUARD(&d->lock);
    if (d->mode == FT_DRIVE_PASS) {
        return 1;
    }
    if (d->mode == FT_DRIVE_DEAD || (d->mode == FT_DRIVE_HOLD && d->replica)) {
        return 0;
    }
    ft_journal_add(d->journal, ft_record_new(FT_REC_FLUSH, 0, 0, 0, 0, NULL));
    if (d->mode == FT_DRIVE_HOLD) {
        if (!d->flush_disk || !d->can_park) {
            return 0;
        }
        if (ft_journal_idle(d->journal)) {
            d->flush_gate = false;
            return 0;
        }
        return flush_parked(d);
    }
    /* Enough is enough: later writes wait too, or this would never end. */
    d->drain_taken = DRAIN_MAX;
    while (d->mode == FT_DRIVE_DRAIN && !ft_journal_idle(d->journal) &&
           !ret) {
        ret = drain_wait(d);
    }
    return ret;
}

/* --------------------------------------------------------- driver's calls */

static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                     QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    FtDrive *d = bs->opaque;

    if (drive_passes(d)) {
        return bdrv_co_preadv(bs->file, offset, bytes, qiov, flags);
    }
    return drive_read(d, offset, bytes, qiov);
}

/* With FUA: the write and what makes it last. With flush=disk, in mode HOLD,
 * drive_record() has seen to that. */
static int coroutine_fn drive_fua(FtDrive *d, int ret, BdrvRequestFlags flags)
{
    if (!ret && (flags & BDRV_REQ_FUA) &&
        !(d->flush_disk && d->can_park &&
          qatomic_read(&d->mode) == FT_DRIVE_HOLD)) {
        ret = drive_flush(d);
        /* 1: the drive has become idle meanwhile, which includes a flush */
        return MIN(ret, 0);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      QEMUIOVector *qiov, BdrvRequestFlags flags)
{
    FtDrive *d = bs->opaque;
    int ret = 1;

    if (!drive_passes(d)) {
        uint8_t *data = g_try_malloc(bytes);

        if (!data) {
            return -ENOMEM;
        }
        qemu_iovec_to_buf(qiov, 0, data, bytes);
        ret = drive_record(d, ft_record_new(FT_REC_WRITE, 0, 0, offset, bytes,
                                            data), flags & BDRV_REQ_FUA);
        ret = drive_fua(d, ret, flags);
    }
    if (ret == 1) {
        ret = bdrv_co_pwritev(bs->file, offset, bytes, qiov, flags);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                            int64_t bytes, BdrvRequestFlags flags)
{
    FtDrive *d = bs->opaque;
    int ret = 1;

    if (!drive_passes(d)) {
        ret = drive_record(d, ft_record_new(
            FT_REC_ZERO, flags & BDRV_REQ_MAY_UNMAP ? FT_REC_UNMAP : 0, 0,
            offset, bytes, NULL), flags & BDRV_REQ_FUA);
        ret = drive_fua(d, ret, flags);
    }
    if (ret == 1) {
        ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    FtDrive *d = bs->opaque;
    int ret = 1;

    if (!drive_passes(d)) {
        ret = drive_record(d, ft_record_new(FT_REC_DISCARD, 0, 0, offset,
                                            bytes, NULL), false);
    }
    if (ret == 1) {
        ret = bdrv_co_pdiscard(bs->file, offset, bytes);
    }
    return ret;
}

static int coroutine_fn GRAPH_RDLOCK ft_journal_co_flush(BlockDriverState *bs)
{
    int ret = drive_flush(bs->opaque);

    return ret == 1 ? bdrv_co_flush(bs->file->bs) : ret;
}

static int64_t coroutine_fn GRAPH_RDLOCK
ft_journal_co_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bs->file->bs);
}

static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_truncate(BlockDriverState *bs, int64_t offset, bool exact,
                       PreallocMode prealloc, BdrvRequestFlags flags,
                       Error **errp)
{
    FtDrive *d = bs->opaque;

    error_setg(errp, "drive '%s' is protected, its size cannot change; end "
               "protection with cuju-migrate-cancel", d->name);
    return -EBUSY;
}

/* The disk below does not know what is in the journal. */
static int coroutine_fn GRAPH_RDLOCK
ft_journal_co_block_status(BlockDriverState *bs, bool want_zero,
                           int64_t offset, int64_t bytes, int64_t *pnum,
                           int64_t *map, BlockDriverState **file)
{
    *pnum = bytes;
    return BDRV_BLOCK_DATA;
}

static void GRAPH_RDLOCK
ft_journal_child_perm(BlockDriverState *bs, BdrvChild *c, BdrvChildRole role,
                      BlockReopenQueue *reopen_queue,
                      uint64_t perm, uint64_t shared,
                      uint64_t *nperm, uint64_t *nshared)
{
    bdrv_default_perms(bs, c, role, reopen_queue, perm, shared, nperm,
                       nshared);
    /*
     * The applier writes, whether a device may at the moment or not; but not
     * before the filter is where it belongs.
     */
    if (!QLIST_EMPTY(&bs->parents)) {
        *nperm |= BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE;
    }
}

static int ft_journal_open(BlockDriverState *bs, QDict *options, int flags,
                           Error **errp);

static void ft_journal_drain_begin(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    qatomic_inc(&d->quiesced);
}

static void ft_journal_drain_end(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    if (qatomic_fetch_dec(&d->quiesced) == 1) {
        drive_kick(d);
    }
}

static void drive_unblock(FtDrive *d)
{
    if (d->blocker) {
        notifier_remove(&d->blk_empty);
        bdrv_op_unblock_all(d->bs, d->blocker);
        bdrv_op_unblock_all(d->blocked, d->blocker);
        error_free(d->blocker);
        d->blocker = NULL;
    }
}

static void ft_journal_close(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    qatomic_set(&d->mode, FT_DRIVE_DEAD);
    wake_all(&d->resume, NULL);
    AIO_WAIT_WHILE(NULL, qatomic_read(&d->njobs) || d->applier);
    qemu_bh_delete(d->bh);
    qemu_bh_delete(d->remove_bh);
    timer_free(d->timer);
    if (d->journal) {
        FtJournalStats st;

        ft_journal_stats(d->journal, &st);
        if (st.records && d->error) {
            error_report("ft: drive '%s': the last %" PRIu64 " writes could "
                         "not be made: %s", d->name, st.records,
                         strerror(d->error));
        }
        jobs_expire(d, true);
        fuas_forget(d, 0, UINT64_MAX);
        ft_journal_free(d->journal);
        ft_budget_unref(d->budget);
    }
    drive_unblock(d);
    bdrv_unref(d->blocked);
    qemu_mutex_destroy(&d->lock);
    g_free(d->name);
}

static BlockDriver bdrv_ft_journal = {
    .format_name            = "ft-journal",
    .instance_size          = sizeof(FtDrive),

    .bdrv_open              = ft_journal_open,
    .bdrv_close             = ft_journal_close,
    .bdrv_child_perm        = ft_journal_child_perm,

    .bdrv_co_preadv         = ft_journal_co_preadv,
    .bdrv_co_pwritev        = ft_journal_co_pwritev,
    .bdrv_co_pwrite_zeroes  = ft_journal_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = ft_journal_co_pdiscard,
    .bdrv_co_flush          = ft_journal_co_flush,
    .bdrv_co_getlength      = ft_journal_co_getlength,
    .bdrv_co_truncate       = ft_journal_co_truncate,
    .bdrv_co_block_status   = ft_journal_co_block_status,

    .bdrv_drain_begin       = ft_journal_drain_begin,
    .bdrv_drain_end         = ft_journal_drain_end,

    .is_filter              = true,
};

/* --------------------------------------------------------------- applying */

typedef struct FtApplyTask {
    AioTask task;
    FtDrive *d;
    FtPlanOp op;
} FtApplyTask;

static bool drive_must_rest(FtDrive *d)
{
    return qatomic_read(&d->quiesced) && !qatomic_read(&d->nwaiters) &&
           qatomic_read(&d->mode) != FT_DRIVE_DEAD;
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

static void drive_tell_progress(FtDrive *d)
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
        drive_tell_progress(d);
    }
    if (ret >= 0 && qatomic_read(&d->mode) != FT_DRIVE_DEAD &&
        flush_is_due(d)) {
        ret = apply_flush(d);
        drive_tell_progress(d);
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
    drive_kick(d);
}

/* ------------------------------------------------------- in the main loop */

/* QEMU ends: a node that is to be deleted must not be blocked any more. */
static void drive_blk_empty(Notifier *n, void *data)
{
    drive_unblock(container_of(n, FtDrive, blk_empty));
}

/* The caller holds a reference. */
static void drive_remove(FtDrive *d)
{
    BlockDriverState *bs = d->bs;

    drive_unblock(d);
    bdrv_drop_filter(bs, &error_abort);
}

static void drive_remove_bh(void *opaque)
{
    FtDrive *d = opaque;
    BlockDriverState *bs = d->bs;

    bdrv_ref(bs);
    /* Unless a new session has taken it meanwhile. */
    if (d->leaving && drive_passes(d) && !d->applier &&
        !qatomic_read(&d->njobs)) {
        d->leaving = false;
        drive_remove(d);
    }
    bdrv_unref(bs);
}

static void drive_bh(void *opaque)
{
    FtDrive *d = opaque;
    bool idle, pending, wake, left = false;

    if (!d->journal) {
        return;
    }
    wake_all(&d->resume, NULL);
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        idle = ft_journal_idle(d->journal);
        pending = ft_journal_pending(d->journal);
        if (d->mode == FT_DRIVE_DRAIN && idle) {
            qatomic_set(&d->mode, FT_DRIVE_PASS);
            left = true;
        }
        wake = d->nwaiters && (idle || d->error);
    }
    if (wake) {
        wake_all(&d->waiters, &d->lock);
    }
    if (left) {
        drive_tell_progress(d);
    }
    if (d->leaving && drive_passes(d)) {
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

static void drive_timer(void *opaque)
{
    FtDrive *d = opaque;

    d->failed = false;
    drive_kick(d);
}

static int ft_journal_open(BlockDriverState *bs, QDict *options, int flags,
                           Error **errp)
{
    FtDrive *d = bs->opaque;
    int ret;

    bs->supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED |
                               BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    d->bs = bs;
    d->mode = FT_DRIVE_PASS;
    qemu_mutex_init(&d->lock);
    qemu_co_queue_init(&d->resume);
    qemu_co_queue_init(&d->waiters);
    QLIST_INIT(&d->jobs);
    QLIST_INIT(&d->fuas);
    d->bh = aio_bh_new(qemu_get_aio_context(), drive_bh, d);
    d->remove_bh = aio_bh_new(iohandler_get_aio_context(), drive_remove_bh,
                              d);
    d->timer = timer_new_ms(QEMU_CLOCK_REALTIME, drive_timer, d);
    /* Last, as it drains this node, too. */
    ret = bdrv_open_file_child(NULL, options, "file", bs, errp);
    if (ret < 0) {
        qemu_bh_delete(d->bh);
        qemu_bh_delete(d->remove_bh);
        timer_free(d->timer);
        qemu_mutex_destroy(&d->lock);
    }
    return ret;
}

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
    drive_unblock(d);
    error_setg(&d->blocker, "drive '%s' %s", d->name, reason);
    bdrv_op_block_all(bs, d->blocker);
    bdrv_op_block_all(d->blocked, d->blocker);
    d->blk_empty.notify = drive_blk_empty;
    blk_add_remove_bs_notifier(blk, &d->blk_empty);
    d->blk = blk;
    d->can_park = device_can_park(blk);
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
    drive_kick(d);
}

BlockDriverState *ft_drive_node(FtDrive *d)
{
    return d->blocked;
}

BlockBackend *ft_drive_blk(FtDrive *d)
{
    return d->blk;
}

const char *ft_drive_name(FtDrive *d)
{
    return d->name;
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
            fuas_forget(d, 0, UINT64_MAX);
            /* In mode PASS nobody would tell them that they are outdated. */
            QLIST_FOREACH(job, &d->jobs, next) {
                job->stale = true;
            }
            qatomic_set(&d->mode, FT_DRIVE_DRAIN);
        }
    }
    drive_kick(d);
}

void ft_drive_kill(FtDrive *d)
{
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        qatomic_set(&d->mode, FT_DRIVE_DEAD);
        ft_journal_drop(d->journal);
    }
    wake_all(&d->resume, NULL);
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
    jobs_expire(d, false);
}

void ft_drive_commit(FtDrive *d, uint64_t epoch)
{
    WITH_QEMU_LOCK_GUARD(&d->lock) {
        ft_journal_commit(d->journal, epoch);
    }
    drive_kick(d);
}

void ft_drive_add(FtDrive *d, FtRecord *r)
{
    QEMU_LOCK_GUARD(&d->lock);
    ft_journal_add(d->journal, r);
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

void ft_drive_retry(FtDrive *d)
{
    d->failed = false;
    drive_kick(d);
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

static void ft_journal_register(void)
{
    bdrv_register(&bdrv_ft_journal);
}

block_init(ft_journal_register);
