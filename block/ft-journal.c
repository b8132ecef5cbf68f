/*
 * Fault tolerance: the filter that journals what a drive is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * include/block/ft-journal.h describes modes and parking. In here is what
 * becomes of requests, in any thread:
 *
 *   write --> record, done
 *   read  --> pieces of records + read job --> done, or parked
 *
 * A read job reads the whole range from the disk into a buffer of its own and
 * lays the records' pieces over it as they were when it began. What is
 * written meanwhile is concurrent with the read, which may return either. A
 * job that a parked request left behind is used by the next read of the same
 * range, unless the range was written since.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/memalign.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "ft-journal-private.h"

/* What is taken in while the journal is worked off: more would never end. */
#define DRAIN_MAX           (4 * MiB)
/* A finished read that nobody asked for again is kept for so many epochs. */
#define JOB_AGE_MAX         16

void ft_drive_wake(CoQueue *queue, QemuMutex *lock)
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
        ft_drive_kick(d);
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

void ft_drive_expire_jobs(FtDrive *d, bool all)
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
    ft_drive_kick(d);
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

/* Is this what a parked FUA write has put into the journal?  Lock held. */
static bool fua_is_recorded(FtDrive *d, const FtRecord *r)
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

void ft_drive_forget_fuas(FtDrive *d, uint64_t offset, uint64_t bytes)
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
     * an UNMAP or WRITE SAME that is to be submitted again.  Not even until
     * it is on the disk, with flush=disk and no write cache.
     */
    bool force = !d->can_park || !r->data;
    bool waits = fua && (r->data || d->can_park_zeroes);
    uint64_t cost = ft_record_cost(r);
    int ret = 0;

    QEMU_LOCK_GUARD(&d->lock);
    fua = fua && d->mode == FT_DRIVE_HOLD && d->flush_disk && d->can_park &&
          !d->replica;
    waits = waits && fua;
    if (waits && fua_is_recorded(d, r)) {
        if (!ft_journal_idle(d->journal)) {
            /* Submitted again before it is on the disk: no second record. */
            ft_record_unref(r);
            return flush_parked(d);
        }
        d->flush_gate = false;
        ft_drive_forget_fuas(d, r->offset, r->bytes);
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
            ft_drive_kick(d);
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
    ft_drive_forget_fuas(d, r->offset, r->bytes);
    if (waits) {
        FtFua *f = g_new(FtFua, 1);

        /* It is about to be parked, and made again when it is done. */
        f->rec = ft_record_ref(r);
        QLIST_INSERT_HEAD(&d->fuas, f, next);
    }
    ft_journal_add(d->journal, r);
    if (fua) {
        ft_journal_add(d->journal,
                       ft_record_new(FT_REC_FLUSH, 0, 0, 0, 0, NULL));
        return waits ? flush_parked(d) : 0;
    }
    return 0;
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

    if (ft_drive_passes(d)) {
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

    if (bytes && !ft_drive_passes(d)) {
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

    if (bytes && !ft_drive_passes(d)) {
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

    if (bytes && !ft_drive_passes(d)) {
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

/*
 * Nothing is split above this: a request with FUA that is parked, and
 * submitted again, must come in the same pieces, of which one alone would be
 * recognised at a time.  What is below splits by itself.
 */
static void ft_journal_refresh_limits(BlockDriverState *bs, Error **errp)
{
    bs->bl.max_transfer = 0;
    bs->bl.max_pdiscard = 0;
    bs->bl.max_pwrite_zeroes = 0;
    bs->bl.pdiscard_alignment = 0;
    bs->bl.pwrite_zeroes_alignment = 0;
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
    d->bh = aio_bh_new(qemu_get_aio_context(), ft_drive_bh, d);
    d->remove_bh = aio_bh_new(iohandler_get_aio_context(), ft_drive_remove_bh,
                              d);
    d->timer = timer_new_ms(QEMU_CLOCK_REALTIME, ft_drive_timer, d);
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

static void ft_journal_drain_begin(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    qatomic_inc(&d->quiesced);
}

static void ft_journal_drain_end(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    if (qatomic_fetch_dec(&d->quiesced) == 1) {
        ft_drive_kick(d);
    }
}

void ft_drive_unblock(FtDrive *d)
{
    if (d->blocker) {
        notifier_remove(&d->blk_empty);
        bdrv_op_unblock_all(d->bs, d->blocker);
        bdrv_op_unblock_all(d->blocked, d->blocker);
        while (d->below) {
            bdrv_op_unblock(d->below->data, BLOCK_OP_TYPE_RESIZE, d->blocker);
            bdrv_unref(d->below->data);
            d->below = g_slist_delete_link(d->below, d->below);
        }
        error_free(d->blocker);
        d->blocker = NULL;
    }
}

static void ft_journal_close(BlockDriverState *bs)
{
    FtDrive *d = bs->opaque;

    qatomic_set(&d->mode, FT_DRIVE_DEAD);
    ft_drive_wake(&d->resume, NULL);
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
        ft_drive_expire_jobs(d, true);
        ft_drive_forget_fuas(d, 0, UINT64_MAX);
        ft_journal_free(d->journal);
        ft_budget_unref(d->budget);
    }
    ft_drive_unblock(d);
    bdrv_unref(d->blocked);
    qemu_mutex_destroy(&d->lock);
    g_free(d->name);
}

/*
 * To load a snapshot that is in the image below; not while the filter has
 * what that has not got yet.  Without this QEMU would close the filter and
 * open it again.
 */
static int GRAPH_UNLOCKED
ft_journal_snapshot_goto(BlockDriverState *bs, const char *id)
{
    Error *err = NULL;
    int ret;

    if (!ft_drive_idle(bs->opaque)) {
        return -EBUSY;
    }
    ret = bdrv_snapshot_goto(bs->file->bs, id, &err);
    if (err) {
        error_report_err(err);
    }
    return ret;
}

BlockDriver bdrv_ft_journal = {
    .format_name            = "ft-journal",
    .instance_size          = sizeof(FtDrive),

    .bdrv_open              = ft_journal_open,
    .bdrv_close             = ft_journal_close,
    .bdrv_child_perm        = ft_journal_child_perm,
    .bdrv_refresh_limits    = ft_journal_refresh_limits,

    .bdrv_co_preadv         = ft_journal_co_preadv,
    .bdrv_co_pwritev        = ft_journal_co_pwritev,
    .bdrv_co_pwrite_zeroes  = ft_journal_co_pwrite_zeroes,
    .bdrv_co_pdiscard       = ft_journal_co_pdiscard,
    .bdrv_co_flush          = ft_journal_co_flush,
    .bdrv_co_getlength      = ft_journal_co_getlength,
    .bdrv_co_truncate       = ft_journal_co_truncate,
    .bdrv_co_block_status   = ft_journal_co_block_status,

    .bdrv_snapshot_goto     = ft_journal_snapshot_goto,

    .bdrv_drain_begin       = ft_journal_drain_begin,
    .bdrv_drain_end         = ft_journal_drain_end,

    .is_filter              = true,
};

static void ft_journal_register(void)
{
    bdrv_register(&bdrv_ft_journal);
}

block_init(ft_journal_register);
