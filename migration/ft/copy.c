/*
 * Fault tolerance: copying a drive to the backup, the primary's side
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   ft-journal --> mirror_top --> bs            mirror's job
 *                       \__ dirty bitmap           |
 *                                                  v
 *                              target: nbd over a dup() of our socket
 *
 *   RUNNING --> READY --> finishing --> ended (done() is called)
 *      \__________\____________\__________^ an error, or ft_copy_cancel()
 *
 * The job is QEMU's, with JOB_INTERNAL: no user sees it or can stop it.  It
 * ends by a soft cancel, which copies what is left and flushes, and puts
 * nothing in the place of anything.
 *
 * Four things that are not obvious:
 *  - mirror's bitmap is disabled for the block layer (mirror_top sets it), so
 *    bdrv_set_dirty() does not reach it.  It is written directly, while the
 *    drain around the start keeps the job from its first step; which is also
 *    why the job's notifiers are there in time.
 *  - NBD's client has the *number* of a file descriptor as its address, and
 *    when the connection breaks it tries that number again and again, until
 *    the node is closed.  By then it may be somebody else's: see copy_dup().
 *  - NBD has no deadlines.  Before a hard cancel the socket is shut down, or
 *    we would wait for a backup that hangs.
 *  - On a unix socket that is not enough for a writer, see copy_room().
 *
 * Locking: BQL; the notifiers come with job_mutex held, ready's in any thread.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/resource.h>
#include "block/block_int.h"
#include "block/blockjob.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qemu/atomic.h"
#include "qemu/job.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "copy.h"
#include "session.h"

#define COPY_OPEN_MS    1000
/*
 * On its way at once.  A drain of the drive, as there is one in each pause,
 * waits for that much, so it is less than mirror's default of 16 MiB.
 */
#define COPY_BUFFER     (4 * MiB)

struct FtCopy {
    int refs;               /* atomic: owner, job, calls on their way */
    char *drive;
    const FtCopyOps *ops;   /* NULL: nobody listens any more */
    void *opaque;
    QIOChannelSocket *sioc; /* only to shut it down */
    BlockDriverState *target;   /* NULL: closed */

    Job *job;               /* NULL: ended; what follows is its result */
    Notifier on_ready, on_cancelled, on_completed;
    bool ready;             /* atomic */
    bool finishing;
    int ret;
    char *msg;
    uint64_t done, total;   /* bytes */
};

static void copy_unref(FtCopy *c)
{
    if (qatomic_fetch_dec(&c->refs) != 1) {
        return;
    }
    assert(!c->job && !c->target);
    object_unref(OBJECT(c->sioc));
    g_free(c->drive);
    g_free(c->msg);
    g_free(c);
}

/*
 * NBD's client waits for room in the socket, that is for POLLOUT; QEMU's event
 * loops do not wake a writer for POLLHUP.  A TCP socket that is shut down has
 * POLLOUT.  A unix socket has it only with three quarters of its buffer free,
 * shut down or not: with a peer that neither reads nor closes, the writer
 * sleeps for ever (and its thread spins).
 *
 * So a unix socket has an eighth of the buffer that it may have, and gets all
 * of it when it is shut down: what can be in it is less than a quarter then,
 * and the writer wakes and finds that the socket is shut down.
 */
static void copy_room(FtCopy *c, bool all)
{
    int size = INT_MAX;     /* the system's maximum */
    socklen_t len = sizeof(size);

    if (c->sioc->localAddr.ss_family != AF_UNIX) {
        return;
    }
    setsockopt(c->sioc->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (!all &&
        getsockopt(c->sioc->fd, SOL_SOCKET, SO_SNDBUF, &size, &len) == 0) {
        size /= 2 * 8;      /* it tells twice of what it takes */
        setsockopt(c->sioc->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
}

void ft_copy_break(FtCopy *c)
{
    qio_channel_shutdown(QIO_CHANNEL(c->sioc), QIO_CHANNEL_SHUTDOWN_BOTH,
                         NULL);
    /* After that: nobody can fill it any more. */
    copy_room(c, true);
}

/* ---------------------------------------------------------------- target */

/*
 * A duplicate of @fd under a number that nobody else gets: the system gives
 * out the lowest that is free, and this one is far from there, and not given
 * out again by ourselves before a few hundred others.
 */
static int copy_dup(int fd, Error **errp)
{
    static unsigned turn;
    struct rlimit rl;
    int limit = 1024, ret = -1;

    if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
        limit = MIN(rl.rlim_cur, 8192);
    }
    for (int i = 0; ret < 0 && i < 2; i++) {
        ret = fcntl(fd, F_DUPFD_CLOEXEC,
                    limit - limit / 4 + (int)(turn++ % (limit / 4)));
        turn = ret < 0 ? 0 : turn;  /* from the beginning, should it be full */
    }
    if (ret < 0) {
        error_setg_errno(errp, errno, "no file descriptor for the copy (the "
                         "limit is %d)", limit);
    }
    return ret;
}

static void copy_open_late(void *opaque)
{
    FtCopy *c = opaque;

    ft_copy_break(c);
}

static BlockDriverState *copy_open_nbd(FtCopy *c, const char *export_name,
                                       Error **errp)
{
    ERRP_GUARD();
    g_autofree char *number = NULL;
    BlockDriverState *target;
    QDict *options;
    QEMUTimer *timer;
    Monitor *mon;
    int fd = copy_dup(c->sioc->fd, errp);

    if (fd < 0) {
        return NULL;
    }
    copy_room(c, false);
    number = g_strdup_printf("%d", fd);
    options = qdict_new();
    qdict_put_str(options, "driver", "nbd");
    qdict_put_str(options, "server.type", "fd");
    qdict_put_str(options, "server.str", number);
    qdict_put_str(options, "export", export_name);
    qdict_put_str(options, BDRV_OPT_READ_ONLY, "off");
    qdict_put_str(options, BDRV_OPT_CACHE_DIRECT, "off");
    qdict_put_str(options, BDRV_OPT_CACHE_NO_FLUSH, "off");
    /* What is a hole here may be one there, if the image's options say so. */
    qdict_put_str(options, BDRV_OPT_DISCARD, "unmap");

    timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                          SCALE_MS, copy_open_late, c);
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + COPY_OPEN_MS);
    /* With a monitor the address would be the name of one of its fds. */
    mon = monitor_set_cur(qemu_coroutine_self(), NULL);
    target = bdrv_open(NULL, NULL, options, BDRV_O_RDWR, errp);
    monitor_set_cur(qemu_coroutine_self(), mon);
    if (!target) {
        error_prepend(errp, "drive '%s': the backup's image cannot be "
                      "opened%s: ", c->drive,
                      timer_pending(timer) ? "" : " in time");
    }
    timer_free(timer);
    return target;
}

/* An NBD node in the context of @bs, and as long as that. */
static bool copy_open(FtCopy *c, BlockDriverState *bs,
                      const char *export_name, Error **errp)
{
    int64_t here, there;

    c->target = copy_open_nbd(c, export_name, errp);
    if (!c->target ||
        bdrv_try_change_aio_context(c->target, bdrv_get_aio_context(bs), NULL,
                                    errp) < 0) {
        return false;
    }
    here = bdrv_getlength(bs);
    there = bdrv_getlength(c->target);
    if (here < 0 || there < 0) {
        error_setg_errno(errp, here < 0 ? -here : -there, "drive '%s': its "
                         "length cannot be found out", c->drive);
        return false;
    }
    if (here != there) {
        error_setg(errp, "drive '%s' has %" PRId64 " bytes, but %" PRId64
                   " on the backup", c->drive, here, there);
        return false;
    }
    return true;
}

static void copy_close(FtCopy *c)
{
    if (!c->target) {
        return;
    }
    if (c->job || c->ret) {
        /* Do not even say goodbye: it would wait for a backup that hangs. */
        ft_copy_break(c);
    }
    bdrv_unref(c->target);
    c->target = NULL;
}

/* ------------------------------------------------------------------- job */

/*
 * The connection is broken, by the backup or by the client's own verdict; also
 * if there are replies that nobody has read.
 */
static bool copy_is_cut(FtCopy *c)
{
    struct pollfd p = { .fd = c->sioc->fd, .events = POLLRDHUP };

    return poll(&p, 1, 0) > 0;
}

/* Main loop. */
static void copy_ready_bh(void *opaque)
{
    FtCopy *c = opaque;

    if (c->ops && c->job) {
        if (c->finishing) {
            ft_copy_finish(c);
        }
        c->ops->ready(c->opaque);
    }
    copy_unref(c);
}

/* Any thread, with job_mutex held. */
static void copy_ready_locked(Notifier *n, void *data)
{
    FtCopy *c = container_of(n, FtCopy, on_ready);

    qatomic_set(&c->ready, true);
    qatomic_inc(&c->refs);
    ft_main_loop(copy_ready_bh, c);
}

/* Main loop. */
static void copy_ended_bh(void *opaque)
{
    FtCopy *c = opaque;

    copy_close(c);
    if (c->ops) {
        c->ops->done(c->opaque, c->ret, c->msg);
    }
    copy_unref(c);
}

/* Main loop, with job_mutex held; the graph is as it was before. */
static void copy_ended_locked(FtCopy *c, Job *job)
{
    c->job = NULL;
    c->ret = job->ret;
    progress_get_snapshot(&job->progress, &c->done, &c->total);
    if (c->ret) {
        c->msg = g_strdup_printf("drive '%s': the %s: %s", c->drive,
                                 copy_is_cut(c) ?
                                 "connection for its copy is broken" :
                                 "copy to the backup has failed",
                                 job->err ? error_get_pretty(job->err) :
                                            strerror(-c->ret));
    }
    ft_main_loop(copy_ended_bh, c);     /* with the job's reference */
}

static void copy_cancelled_locked(Notifier *n, void *data)
{
    copy_ended_locked(container_of(n, FtCopy, on_cancelled), data);
}

static void copy_completed_locked(Notifier *n, void *data)
{
    copy_ended_locked(container_of(n, FtCopy, on_completed), data);
}

/* mirror_start() does not tell: the job that has our target. */
static BlockJob *copy_find_job(FtCopy *c)
{
    BlockJob *bjob;

    JOB_LOCK_GUARD();
    for (bjob = block_job_next_locked(NULL); bjob;
         bjob = block_job_next_locked(bjob)) {
        if (block_job_has_bdrv(bjob, c->target)) {
            return bjob;
        }
    }
    return NULL;
}

/* The bitmap of what mirror has to copy; it is all that its filter has. */
static BdrvDirtyBitmap *copy_find_bitmap(FtCopy *c, BlockJob *bjob,
                                         BlockDriverState *bs)
{
    for (GSList *l = bjob->nodes; l; l = l->next) {
        BdrvChild *child = l->data;

        if (child->bs != bs && child->bs != c->target) {
            return bdrv_dirty_bitmap_first(child->bs);
        }
    }
    return NULL;
}

static void copy_mark(BdrvDirtyBitmap *bitmap, int64_t length,
                      FtCopyMode mode, BdrvDirtyBitmap *changed)
{
    int64_t offset = 0, count;

    switch (mode) {
    case FT_COPY_MODE_FULL:
        if (length) {
            bdrv_set_dirty_bitmap(bitmap, 0, length);
        }
        break;
    case FT_COPY_MODE_CHANGED:
        while (bdrv_dirty_bitmap_next_dirty_area(changed, offset, length,
                                                 INT64_MAX, &offset,
                                                 &count)) {
            bdrv_set_dirty_bitmap(bitmap, offset, count);
            offset += count;
        }
        break;
    case FT_COPY_MODE_NONE:
        break;
    default:
        g_assert_not_reached();
    }
}

/* Called with @bs drained. */
static bool copy_run(FtCopy *c, BlockDriverState *bs, FtCopyMode mode,
                     BdrvDirtyBitmap *changed, Error **errp)
{
    ERRP_GUARD();
    BdrvDirtyBitmap *bitmap;
    BlockJob *bjob;

    mirror_start(NULL, bs, c->target, NULL, JOB_INTERNAL, 0, 0, COPY_BUFFER,
                 MIRROR_SYNC_MODE_NONE, MIRROR_LEAVE_BACKING_CHAIN, false,
                 BLOCKDEV_ON_ERROR_REPORT, BLOCKDEV_ON_ERROR_REPORT, true,
                 NULL, MIRROR_COPY_MODE_BACKGROUND, errp);
    if (*errp) {
        error_prepend(errp, "drive '%s' cannot be copied to the backup: ",
                      c->drive);
        return false;
    }

    bjob = copy_find_job(c);
    assert(bjob);
    bitmap = copy_find_bitmap(c, bjob, bs);
    assert(bitmap);
    copy_mark(bitmap, bdrv_getlength(bs), mode, changed);
    job_progress_set_remaining(&bjob->job, bdrv_get_dirty_count(bitmap));

    c->on_ready.notify = copy_ready_locked;
    c->on_cancelled.notify = copy_cancelled_locked;
    c->on_completed.notify = copy_completed_locked;
    WITH_JOB_LOCK_GUARD() {
        assert(bjob->job.pause_count);  /* nothing has been missed */
        notifier_list_add(&bjob->job.on_ready, &c->on_ready);
        notifier_list_add(&bjob->job.on_finalize_cancelled, &c->on_cancelled);
        notifier_list_add(&bjob->job.on_finalize_completed, &c->on_completed);
    }
    c->job = &bjob->job;
    qatomic_inc(&c->refs);
    return true;
}

/* ---------------------------------------------------------------- public */

FtCopy *ft_copy_start(BlockDriverState *bs, const char *drive,
                      QIOChannelSocket *sioc, const char *export_name,
                      FtCopyMode mode, BdrvDirtyBitmap *changed,
                      const FtCopyOps *ops, void *opaque, Error **errp)
{
    FtCopy *c = g_new0(FtCopy, 1);
    bool ok;

    GLOBAL_STATE_CODE();
    assert((mode == FT_COPY_MODE_CHANGED) == !!changed);
    c->refs = 1;
    c->drive = g_strdup(drive);
    c->ops = ops;
    c->opaque = opaque;
    c->sioc = sioc;
    object_ref(OBJECT(sioc));

    ok = copy_open(c, bs, export_name, errp);
    if (ok) {
        bdrv_drained_begin(bs);
        ok = copy_run(c, bs, mode, changed, errp);
        bdrv_drained_end(bs);
    }
    if (!ok) {
        c->ret = -EINVAL;
        copy_close(c);
        copy_unref(c);
        return NULL;
    }
    return c;
}

void ft_copy_finish(FtCopy *c)
{
    c->finishing = true;
    /* Before it is ready, a soft cancel would be a hard one. */
    if (c->job && qatomic_read(&c->ready)) {
        JOB_LOCK_GUARD();
        job_cancel_locked(c->job, false);
    }
}

void ft_copy_progress(FtCopy *c, uint64_t *done, uint64_t *total)
{
    if (c->job) {
        progress_get_snapshot(&c->job->progress, done, total);
    } else {
        *done = c->done;
        *total = c->total;
    }
}

void ft_copy_cancel(FtCopy *c)
{
    if (!c) {
        return;
    }
    GLOBAL_STATE_CODE();
    c->ops = NULL;
    if (c->job) {
        ft_copy_break(c);
        job_cancel_sync(c->job, true);
    }
    if (!c->job) {
        copy_close(c);
    }   /* else somebody up the stack is just ending it */
    copy_unref(c);
}
