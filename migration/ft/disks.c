/*
 * Fault tolerance: the primary's writable drives
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * disks.h has the picture; disks-backup.c is the other side's half.
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qapi/qapi-events-ft.h"
#include "qapi/util.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "system/block-backend.h"
#include "system/runstate.h"
#include "disks-private.h"

#define PROTECTED_REASON "is protected; end protection with " \
                         "cuju-migrate-cancel first"

/* The byte of an image that QEMU locks to be allowed to write to it. */
#define LOCK_BYTE_WRITE     101

/* ---------------------------------------------------------------- drives */

bool ft_disk_is_writable(BlockBackend *blk)
{
    return blk_get_attached_dev(blk) && blk_bs(blk) && blk_is_writable(blk);
}

/* Devices whose requests can be put off, and pflash, which has none. */
static bool check_device(BlockBackend *blk, const char *name, Error **errp)
{
    Object *dev = OBJECT(blk_get_attached_dev(blk));
    BusState *bus = qdev_get_parent_bus(DEVICE(dev));

    if (object_dynamic_cast(dev, "virtio-blk-device") ||
        object_dynamic_cast(dev, "ide-hd") ||
        object_dynamic_cast(dev, "cfi.pflash01") ||
        object_dynamic_cast(dev, "cfi.pflash02")) {
        return true;
    }
    if (object_dynamic_cast(dev, "scsi-hd") &&
        object_dynamic_cast(OBJECT(bus->parent), "virtio-scsi-device")) {
        return true;
    }
    error_setg(errp, "drive '%s' is written by device '%s', whose requests "
               "cannot be part of an epoch; use virtio-blk, virtio-scsi with "
               "scsi-hd, ide-hd, or make the drive read-only (readonly=on)",
               name, bus && bus->parent ?
               object_get_typename(OBJECT(bus->parent)) :
               object_get_typename(dev));
    return false;
}

/* Nobody but the device may use what is to be protected. */
static bool check_users(BlockBackend *blk, const char *name, Error **errp)
{
    BlockDriverState *bs = blk_bs(blk);
    BdrvChild *c;

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    if (bs->copy_on_read) {
        error_setg(errp, "drive '%s' has copy-on-read=on, which writes to the "
                   "image behind the guest's back; switch it off", name);
        return false;
    }
    QLIST_FOREACH(c, &bs->parents, next_parent) {
        if (c->opaque != blk) {
            g_autofree char *user = c->klass->get_parent_desc(c);

            error_setg(errp, "drive '%s' is also used by %s; end that first",
                       name, user);
            return false;
        }
    }
    return true;
}

bool ft_disk_init(FtDisks *ds, FtDisk *disk, BlockBackend *blk, Error **errp)
{
    int64_t length;

    disk->ds = ds;
    disk->blk = blk;
    disk->path = object_get_canonical_path(OBJECT(blk_get_attached_dev(blk)));
    disk->name = *blk_name(blk) ? g_strdup(blk_name(blk)) :
                                  blk_get_attached_dev_id(blk);
    length = bdrv_getlength(blk_bs(blk));
    if (length < 0) {
        error_setg_errno(errp, -length, "the size of drive '%s' cannot be "
                         "told", disk->name);
        return false;
    }
    disk->length = length;
    if (bdrv_get_flags(blk_bs(blk)) & BDRV_O_NO_FLUSH) {
        error_setg(errp, "drive '%s' has cache=unsafe, so that nobody can "
                   "tell what is on the disk; use cache=none", disk->name);
        return false;
    }
    return check_device(blk, disk->name, errp) &&
           check_users(blk, disk->name, errp);
}

/* The file that a drive's image is, or NULL.  To be freed. */
static char *disk_file(FtDisk *disk)
{
    BlockDriverState *bs = blk_bs(disk->blk);

    GRAPH_RDLOCK_GUARD_MAINLOOP();
    while (bs && bs->drv && !bs->drv->protocol_name) {
        bs = bdrv_primary_bs(bs);
    }
    if (!bs || !bs->drv || strcmp(bs->drv->format_name, "file")) {
        return NULL;
    }
    return g_strdup(bs->filename);
}

char *ft_disks_directory(FtDisks *ds, int64_t index, int64_t *found,
                         Error **errp)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];
        g_autofree char *file = disk_file(disk);
        g_autofree char *full = file ? realpath(file, NULL) : NULL;
        struct stat st;

        if ((index >= 0 ? index == i :
             disk->params.storage == FT_STORAGE_SHARED) &&
            full && stat(full, &st) == 0 && S_ISREG(st.st_mode)) {
            *found = i;
            return g_path_get_dirname(full);
        }
    }
    if (index >= 0) {
        error_setg(errp, "the arbiter is to be the directory of the image of "
                   "drive %" PRId64 ", which is not there or no file; say the "
                   "same ft-arbiter on both sides", index);
    } else {
        error_setg(errp, "there is no arbiter, and no shared image whose "
                   "directory could be it; set ft-arbiter, or say arbiter= "
                   "behind the address: file:DIR (a directory that both hosts "
                   "have), etcd:URL, or none (then a cut cable leaves two "
                   "live guests)");
    }
    return NULL;
}

int ft_disk_lock_seen(FtDisk *disk, char **filename, struct stat *st)
{
    g_autofree char *file = disk_file(disk);
    int fd, ret;

    if (!file) {
        return -ENOTSUP;
    }
    if (filename) {
        *filename = g_strdup(file);
    }
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (st && fstat(fd, st) < 0) {
        ret = -errno;
    } else {
        ret = qemu_lock_fd_test(fd, LOCK_BYTE_WRITE, 1, true);
    }
    close(fd);
    return ret == -EAGAIN ? 1 : ret;
}

/* ---------------------------------------------------------------- session */

static void disks_bh(void *opaque)
{
    FtDisks *ds = opaque;

    ft_disks_handle_errors(ds);
    if (ds->role == FT_ROLE_BACKUP) {
        Error *err = NULL;

        if (ds->ops && !ft_disks_apply(ds, &err)) {
            ds->ops->failed(ds->opaque, error_get_pretty(err));
            error_free(err);
        } else if (ds->ops && ds->finishing) {
            ds->ops->ready(ds->opaque);
        }
        return;
    }
    if (ds->ops) {
        ds->ops->ready(ds->opaque);
    }
    if (ds->ops && ds->copied) {
        ds->copied = false;
        ds->ops->copied(ds->opaque);
    }
}

/* Both may be called in a coroutine. */
static void drive_error(void *opaque, FtDrive *d, int error)
{
    qemu_bh_schedule(((FtDisk *)opaque)->ds->bh);
}

static void drive_progress(void *opaque, FtDrive *d)
{
    FtDisks *ds = ((FtDisk *)opaque)->ds;
    uint64_t settled = UINT64_MAX;
    unsigned i;

    if (ds->role == FT_ROLE_BACKUP) {
        for (i = 0; i < ds->count; i++) {
            if (ds->disk[i].params.storage == FT_STORAGE_REPLICATED) {
                settled = MIN(settled, ft_drive_settled(ds->disk[i].drive));
            }
        }
        WITH_QEMU_LOCK_GUARD(&ds->lock) {
            ds->settled = settled;
        }
    }
    qemu_bh_schedule(ds->bh);
}

static bool drive_leased(void *opaque, FtDrive *d)
{
    FtDisks *ds = ((FtDisk *)opaque)->ds;

    return !ds->ops || !ds->ops->leased || ds->ops->leased(ds->opaque);
}

static void drive_parked(void *opaque, FtDrive *d)
{
    FtDisks *ds = ((FtDisk *)opaque)->ds;

    if (ds->ops && ds->ops->parked) {
        ds->ops->parked(ds->opaque);
    }
}

const FtDriveOps ft_disks_drive_ops = {
    .error = drive_error,
    .progress = drive_progress,
    .parked = drive_parked,
    .leased = drive_leased,
};

FtDisks *ft_disks_alloc(FtRole role, unsigned count)
{
    FtDisks *ds = g_new0(FtDisks, 1);

    ds->role = role;
    ds->count = count;
    ds->disk = g_new0(FtDisk, count);
    ds->length = g_new0(uint64_t, count);
    ds->backup_settled = UINT64_MAX;
    ds->settled = UINT64_MAX;
    g_queue_init(&ds->kept);
    g_queue_init(&ds->todo);
    qemu_mutex_init(&ds->lock);
    ds->bh = aio_bh_new(iohandler_get_aio_context(), disks_bh, ds);
    return ds;
}

/*
 * Primary, all copies were done: images that were not copied whole are equal
 * only if the backup has found the samples so. It applies nothing before it
 * has looked at them; did it not get as far, what is remembered is worthless.
 */
static void forget_unproven(FtDisks *ds)
{
    unsigned i;

    if (ds->role != FT_ROLE_PRIMARY || !ds->equal || ds->backup_settled) {
        return;
    }
    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        if (disk->params.storage == FT_STORAGE_REPLICATED &&
            disk->params.copy != FT_COPY_MODE_FULL) {
            ft_changed_forget(ft_drive_node(disk->drive));
        }
    }
}

void ft_disks_free(FtDisks *ds)
{
    unsigned i;

    if (!ds) {
        return;
    }
    ds->ops = NULL;
    forget_unproven(ds);
    if (ds->provider) {
        ft_output_remove(ds->output, ds->provider);
    }
    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        if (disk->copy) {
            ft_copy_cancel(ft_disk_take_copy(disk));
        }
        ft_disk_forget_flush(disk);
        if (disk->drive) {
            ft_drive_release(disk->drive);
        } else if (disk->activated) {
            /* as it was, for the next primary to be looked at */
            bdrv_inactivate(blk_bs(disk->blk), NULL);
        }
        g_free(disk->name);
        g_free(disk->path);
    }
    g_queue_clear_full(&ds->kept, (GDestroyNotify)ft_record_unref);
    g_queue_clear_full(&ds->todo, (GDestroyNotify)ft_record_unref);
    if (ds->samples) {
        g_byte_array_unref(ds->samples);
    }
    qemu_bh_delete(ds->bh);
    qemu_mutex_destroy(&ds->lock);
    ft_budget_unref(ds->budget);
    g_free(ds->length);
    g_free(ds->disk);
    g_free(ds);
}

/*
 * By the lock the backup will see that it has the same image, and that this
 * side has let go of it. Where there is none, the operator must vouch for it.
 */
static bool check_lock(FtDisk *disk, Error **errp)
{
    if (ft_disk_lock_seen(disk, NULL, NULL) > 0) {
        return true;
    }
    error_setg(errp, "drive '%s': its image is not locked (it is no file, or "
               "the file system has no locks, or file.locking=off), so that "
               "the backup cannot tell whether it has the same one; if it "
               "has, and only one side can ever write to it, say so "
               "(migrate -c URI,shared; ft-storage); else use replicated",
               disk->name);
    return false;
}

/* What holds for this drive: the first entry that names it or its device. */
static FtDriveParams params_of(const FtDisksParams *params, FtDisk *disk,
                               unsigned *used, bool *shared_is_sure)
{
    g_autofree char *id = blk_get_attached_dev_id(disk->blk);
    FtDriveParams p = params->all;
    FtDriveOptionsList *l;

    for (l = params->drives; l; l = l->next) {
        FtDriveOptions *o = l->value;

        if (!strcmp(o->drive, disk->name) || !strcmp(o->drive, id)) {
            p.storage = o->has_storage ? o->storage : p.storage;
            *shared_is_sure |= o->has_storage;
            p.copy = o->has_copy ? o->copy : p.copy;
            p.flush = o->has_flush ? o->flush : p.flush;
            (*used)++;
            break;
        }
    }
    return p;
}

static unsigned count_options(const FtDisksParams *params)
{
    FtDriveOptionsList *l;
    unsigned n = 0;

    for (l = params->drives; l; l = l->next) {
        n++;
    }
    return n;
}

FtDisks *ft_disks_new(const FtDisksParams *params, const FtDisksOps *ops,
                      void *opaque, Error **errp)
{
    BlockBackend *blk = NULL;
    unsigned count = 0, used = 0, i = 0;
    FtDisks *ds;
    bool sure;

    while ((blk = blk_all_next(blk))) {
        count += ft_disk_is_writable(blk);
    }
    if (count > FT_DISKS_MAX) {
        error_setg(errp, "%u writable drives are more than %u", count,
                   FT_DISKS_MAX);
        return NULL;
    }
    ds = ft_disks_alloc(FT_ROLE_PRIMARY, count);
    ds->journal_size = params->journal_size;
    ds->drain_reads = params->drain_reads;
    ds->budget = ft_budget_new(params->journal_size);
    while ((blk = blk_all_next(blk))) {
        FtDisk *disk = &ds->disk[i];

        if (!ft_disk_is_writable(blk)) {
            continue;
        }
        disk->index = i;
        if (!ft_disk_init(ds, disk, blk, errp)) {
            goto fail;
        }
        sure = params->shared_is_sure;
        disk->params = params_of(params, disk, &used, &sure);
        if (disk->params.storage == FT_STORAGE_REPLICATED) {
            ds->backup_settled = 0;
        } else if (!sure && !check_lock(disk, errp)) {
            goto fail;
        }
        disk->drive = ft_drive_attach(blk, i, ds->budget, &ft_disks_drive_ops,
                                      disk, PROTECTED_REASON, errp);
        if (!disk->drive) {
            goto fail;
        }
        ft_drive_set_flush_disk(disk->drive,
                                disk->params.flush == FT_FLUSH_MODE_DISK);
        i++;
    }
    if (used < count_options(params)) {
        error_setg(errp, "ft-drives names %u drives, but only %u of them are "
                   "writable drives of this machine: see 'info block'",
                   count_options(params), used);
        goto fail;
    }
    ds->ops = ops;
    ds->opaque = opaque;
    return ds;

fail:
    ft_disks_free(ds);
    return NULL;
}

char *ft_disks_describe(const FtDisks *ds)
{
    GString *s = g_string_new(NULL);
    unsigned i;

    g_string_append_printf(s, "journal %" PRIu64 "\n", ds->journal_size);
    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        g_string_append_printf(s, "drive %u %s %s %s %" PRIu64 " %s %s\n", i,
                               FtStorage_str(disk->params.storage),
                               FtCopyMode_str(disk->params.copy),
                               ft_disk_lock_seen(disk, NULL, NULL) > 0 ?
                               "locked" : "unlocked",
                               disk->length, disk->path, disk->name);
    }
    return g_string_free(s, false);
}

bool ft_disks_ready(FtDisks *ds)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        if (!ft_drive_idle(ds->disk[i].drive) ||
            (ds->disk[i].copy && !ds->disk[i].copy_ready)) {
            return false;
        }
    }
    return true;
}

void ft_disks_park(FtDisks *ds, bool on)
{
    unsigned i;

    if (ds && !ds->drain_reads) {
        for (i = 0; i < ds->count; i++) {
            ft_drive_park(ds->disk[i].drive, on);
        }
    }
}

void ft_disks_hold(FtDisks *ds)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        ft_drive_hold(ds->disk[i].drive, false);
    }
}

static void disks_credit(FtDisks *ds)
{
    ft_budget_credit(ds->budget, MIN(ds->told_on_disk, ds->backup_settled));
}

uint64_t ft_disks_seal(FtDisks *ds, uint64_t epoch, FtRecords *out)
{
    uint64_t settled = epoch - 1;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        settled = MIN(settled, ft_drive_settled(ds->disk[i].drive));
        ft_drive_seal(ds->disk[i].drive, epoch, out);
    }
    ft_budget_seal(ds->budget, epoch);
    ds->told_on_disk = settled;
    disks_credit(ds);
    return settled;
}

void ft_disks_backup_settled(FtDisks *ds, uint64_t epoch)
{
    if (ds->backup_settled != UINT64_MAX && epoch > ds->backup_settled) {
        ds->backup_settled = epoch;
        disks_credit(ds);
        ft_disks_changed_turn(ds, epoch);
    }
}

static void provider_release(void *opaque, uint64_t epoch)
{
    FtDisks *ds = opaque;
    unsigned i;

    ds->applying = epoch;

    for (i = 0; i < ds->count; i++) {
        ft_drive_commit(ds->disk[i].drive, epoch);
    }
}

static void provider_drop(void *opaque)
{
    FtDisks *ds = opaque;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        ft_drive_kill(ds->disk[i].drive);
    }
}

static const FtOutputOps disks_output_ops = {
    .release = provider_release,
    .drop = provider_drop,
};

void ft_disks_provide(FtDisks *ds, FtOutput *out)
{
    ds->output = out;
    ds->provider = ft_output_add(out, "disks", &disks_output_ops, ds);
}

void ft_disks_kick(FtDisks *ds)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].drive) {
            ft_drive_retry(ds->disk[i].drive);
        }
    }
}

void ft_disks_break(FtDisks *ds)
{
    unsigned i;

    QEMU_LOCK_GUARD(&ds->lock);
    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].copy) {
            ft_copy_break(ds->disk[i].copy);
        }
    }
}

void ft_disks_drain(FtDisks *ds)
{
    unsigned i;

    /* A copy that ends from now on does not make the images equal. */
    ds->copies = 0;
    for (i = 0; i < ds->count; i++) {
        ft_drive_drain(ds->disk[i].drive);
    }
}

/* ----------------------------------------------------------------- errors */

static FtDiskErrorAction error_action(FtDisks *ds, FtDisk *disk, int error)
{
    BlockdevOnError policy = blk_get_on_error(disk->blk, false);

    if (ds->role == FT_ROLE_BACKUP) {
        return FT_DISK_ERROR_ACTION_END;
    }
    if (policy == BLOCKDEV_ON_ERROR_STOP ||
        (policy == BLOCKDEV_ON_ERROR_ENOSPC && error == ENOSPC)) {
        return FT_DISK_ERROR_ACTION_STOP;
    }
    return FT_DISK_ERROR_ACTION_RETRY;
}

/* The guest was told that the write is done: it cannot be told otherwise. */
static void handle_error(FtDisks *ds, FtDisk *disk, int error)
{
    FtDiskErrorAction action = error_action(ds, disk, error);

    error_report("ft: drive '%s' cannot be written: %s; nothing is lost, %s",
                 disk->name, strerror(error),
                 action == FT_DISK_ERROR_ACTION_END ?
                 "the primary goes on without this backup" :
                 action == FT_DISK_ERROR_ACTION_STOP ?
                 "the guest is paused: make the disk work, then say 'cont'" :
                 "it is tried again each second");
    qapi_event_send_ft_disk_error(ds->role, disk->name, strerror(error),
                                  action);
    if (action == FT_DISK_ERROR_ACTION_STOP) {
        disk->stopped = true;
        qemu_system_vmstop_request_prepare();
        qemu_system_vmstop_request(RUN_STATE_IO_ERROR);
    } else if (action == FT_DISK_ERROR_ACTION_END && ds->ops) {
        g_autofree char *msg =
            g_strdup_printf("the backup's drive '%s' cannot be written: %s",
                            disk->name, strerror(error));

        ds->ops->failed(ds->opaque, msg);
    }
}

void ft_disks_handle_errors(FtDisks *ds)
{
    FtDriveStats st;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        if (!disk->drive) {
            continue;
        }
        ft_drive_stats(disk->drive, &st);
        if (st.error && st.failures != disk->failures) {
            /* each is told once; but a guest that goes on is paused again */
            disk->failures = st.failures;
            if (st.error != disk->told_error ||
                (disk->stopped && runstate_is_running())) {
                disk->told_error = st.error;
                handle_error(ds, disk, st.error);
            }
        } else if (!st.error) {
            disk->told_error = 0;
            disk->stopped = false;
        }
    }
}

/* ---------------------------------------------------------------- status */

void ft_disks_query(FtDisks *ds, FtStatus *st)
{
    FtDriveStatusList **tail = &st->drives;
    unsigned i;

    if (!ds->count) {
        return;
    }
    st->has_drives = true;
    st->has_journal_size = true;
    st->journal_size = ds->journal_size;
    if (ds->role == FT_ROLE_PRIMARY) {
        FtBudgetStats budget;

        ft_budget_stats(ds->budget, &budget);
        st->has_journal_bytes = st->has_journal_peak = true;
        st->has_slowed_writes = st->has_stalled_writes = true;
        st->journal_bytes = budget.used;
        st->journal_peak = budget.peak;
        st->slowed_writes = budget.slowed;
        st->stalled_writes = budget.stalled;
    }
    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];
        FtDriveStatus *q = g_new0(FtDriveStatus, 1);
        FtDriveStats drv = { 0 };

        if (disk->drive) {
            ft_drive_stats(disk->drive, &drv);
            q->settled = ft_drive_settled(disk->drive);
        } else if (ds->role == FT_ROLE_BACKUP) {
            QEMU_LOCK_GUARD(&ds->lock);
            q->settled = ds->on_disk;
        }
        q->drive = g_strdup(disk->name);
        q->storage = disk->params.storage;
        q->flush = disk->params.flush;
        q->journal_records = drv.records;
        q->journal_bytes = drv.bytes;
        q->writes = drv.writes;
        q->written_bytes = drv.written_bytes;
        q->flushes = drv.flushes;
        q->disk_ops = drv.disk_ops;
        q->disk_bytes = drv.disk_bytes;
        q->parked_reads = drv.parked_reads;
        q->parked_writes = drv.parked_writes;
        if (disk->copy) {
            ft_copy_progress(disk->copy, &disk->copied, &disk->to_copy);
        }
        if (disk->to_copy) {
            q->has_copied = q->has_to_copy = true;
            q->copied = disk->copied;
            q->to_copy = disk->to_copy;
        }
        q->error = drv.error ? g_strdup(strerror(drv.error)) : NULL;
        QAPI_LIST_APPEND(tail, q);
    }
}
