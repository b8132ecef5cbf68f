/*
 * Fault tolerance: the backup's side of the writable drives
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *                      shared                      replicated
 *   adopt              the primary's image?        opened for writing
 *   start              -                           journal attached (HOLD)
 *   commit             kept until on the           handed to the journal by
 *                      primary's disk              the main loop, applied
 *   takeover           opened, journal attached,
 *                      what is kept goes into it
 *                                    mode DRAIN; the guest runs
 *
 * Commits come in the data thread; images and journals are the main loop's.
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "hw/qdev-core.h"
#include "qapi/error.h"
#include "qapi/util.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "system/block-backend.h"
#include "disks-private.h"
#include "trace.h"

#define BACKUP_REASON "is a backup's"
/* What a guest may write in one request that is larger than the journal. */
#define REQUEST_MAX     (1 * GiB)

/* ------------------------------------------------------------------ adopt */

static BlockBackend *find_drive(const char *path)
{
    BlockBackend *blk = NULL;

    while ((blk = blk_all_next(blk))) {
        g_autofree char *mine = NULL;

        if (!blk_get_attached_dev(blk)) {
            continue;
        }
        mine = object_get_canonical_path(OBJECT(blk_get_attached_dev(blk)));
        if (!strcmp(mine, path)) {
            return blk;
        }
    }
    return NULL;
}

static bool has_replicated(FtDisks *ds)
{
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].params.storage == FT_STORAGE_REPLICATED) {
            return true;
        }
    }
    return false;
}

/* Is the image the one that the primary has open? */
static bool check_shared(FtDisk *disk, bool locked, Error **errp)
{
    g_autofree char *file = NULL;

    if (!(bdrv_get_flags(blk_bs(disk->blk)) & BDRV_O_INACTIVE)) {
        error_setg(errp, "drive '%s' is open for writing on the backup "
                   "already; start the backup anew", disk->name);
        return false;
    }
    if (locked && ft_disk_lock_seen(disk, &file, NULL) == 0) {
        error_setg(errp, "drive '%s': the primary has locked its image, but "
                   "the backup's image '%s' is not locked, so they are not "
                   "the same file; if each host has an image of its own, "
                   "protect it as replicated (migrate -c URI,replicated)",
                   disk->name, file);
        return false;
    }
    return true;
}

/* "drive INDEX STORAGE COPY LOCKED LENGTH PATH NAME" */
static bool adopt_drive(FtDisks *ds, FtDisk *disk, const char *line,
                        Error **errp)
{
    g_auto(GStrv) w = g_strsplit(line, " ", 8);
    unsigned index = disk - ds->disk;
    unsigned i;
    BlockBackend *blk;
    uint64_t n, length;
    int storage, copy;

    if (g_strv_length(w) != 8 || strcmp(w[0], "drive") ||
        qemu_strtou64(w[1], NULL, 10, &n) || n != index ||
        qemu_strtou64(w[5], NULL, 10, &length)) {
        error_setg(errp, "the primary's description of drive %u makes no "
                   "sense", index);
        return false;
    }
    storage = qapi_enum_parse(&FtStorage_lookup, w[2], -1, errp);
    if (storage < 0) {
        return false;
    }
    copy = qapi_enum_parse(&FtCopyMode_lookup, w[3], -1, errp);
    if (copy < 0) {
        return false;
    }
    blk = find_drive(w[6]);
    if (!blk || !blk_bs(blk)) {
        error_setg(errp, "the primary's writable drive '%s' (device %s) is "
                   "not there on the backup: start both sides with the same "
                   "-drive and -device options", w[7], w[6]);
        return false;
    }
    if (!ft_disk_is_writable(blk)) {
        error_setg(errp, "drive '%s' is writable on the primary and read-only "
                   "on the backup: start both sides with the same options",
                   w[7]);
        return false;
    }
    for (i = 0; i < index; i++) {
        if (ds->disk[i].blk == blk) {
            error_setg(errp, "the primary describes drive '%s' twice", w[7]);
            return false;
        }
    }
    disk->index = index;
    disk->params.storage = storage;
    disk->params.copy = copy;
    if (!ft_disk_init(ds, disk, blk, errp)) {
        return false;
    }
    if (disk->length != length) {
        error_setg(errp, "drive '%s' has %" PRIu64 " bytes on the primary and "
                   "%" PRIu64 " on the backup: give both images one size",
                   disk->name, length, disk->length);
        return false;
    }
    ds->length[index] = length;
    if (storage == FT_STORAGE_SHARED) {
        return check_shared(disk, !strcmp(w[4], "locked"), errp);
    }
    if (bdrv_activate(blk_bs(blk), errp) < 0) {
        error_prepend(errp, "drive '%s' is replicated, but the backup's image "
                      "cannot be opened for writing (is it the primary's "
                      "own? then it is shared): ", disk->name);
        return false;
    }
    disk->activated = true;
    return true;
}

/* All that the guest writes here must be written there. */
static bool check_others(FtDisks *ds, Error **errp)
{
    BlockBackend *blk = NULL;
    unsigned i;

    while ((blk = blk_all_next(blk))) {
        g_autofree char *id = NULL;

        if (!ft_disk_is_writable(blk)) {
            continue;
        }
        for (i = 0; i < ds->count && ds->disk[i].blk != blk; i++) {
            /* look on */
        }
        if (i == ds->count) {
            id = blk_get_attached_dev_id(blk);
            error_setg(errp, "drive '%s' of device '%s' is writable on the "
                       "backup only: start both sides with the same options",
                       blk_name(blk), id);
            return false;
        }
    }
    return true;
}

FtDisks *ft_disks_adopt(const char *text, size_t len, Error **errp)
{
    g_autofree char *copy = g_strndup(text, len);
    g_auto(GStrv) line = g_strsplit(copy, "\n", FT_DISKS_MAX + 3);
    unsigned count = g_strv_length(line);
    FtDisks *ds;
    const char *rest;
    unsigned i;

    /* the last line has an end, too */
    if (count < 2 || *line[count - 1] || count - 2 > FT_DISKS_MAX) {
        error_setg(errp, "the primary's description of its drives makes no "
                   "sense");
        return NULL;
    }
    ds = ft_disks_alloc(FT_ROLE_BACKUP, count - 2);
    if (!strstart(line[0], "journal ", &rest) ||
        qemu_strtou64(rest, NULL, 10, &ds->journal_size)) {
        error_setg(errp, "the primary does not say how large its journal is");
        goto fail;
    }
    for (i = 0; i < ds->count; i++) {
        if (!adopt_drive(ds, &ds->disk[i], line[i + 1], errp)) {
            goto fail;
        }
    }
    if (!check_others(ds, errp)) {
        goto fail;
    }
    return ds;

fail:
    ft_disks_free(ds);
    return NULL;
}

/* ---------------------------------------------------------------- session */

bool ft_disks_start(FtDisks *ds, const FtDisksOps *ops, void *opaque,
                    Error **errp)
{
    unsigned i;

    ds->budget = ft_budget_new(0);
    if (has_replicated(ds)) {
        ds->settled = 0;
    }
    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        if (disk->params.storage != FT_STORAGE_REPLICATED) {
            continue;
        }
        disk->drive = ft_drive_attach(disk->blk, i, ds->budget,
                                      &ft_disks_drive_ops, disk,
                                      BACKUP_REASON, errp);
        if (!disk->drive) {
            return false;
        }
        ft_drive_hold(disk->drive, true);
    }
    ds->ops = ops;
    ds->opaque = opaque;
    ds->started = true;
    return ft_disks_serve(ds, errp);
}

const uint64_t *ft_disks_lengths(const FtDisks *ds, unsigned *count)
{
    *count = ds->count;
    return ds->length;
}

uint64_t ft_disks_journal_max(const FtDisks *ds)
{
    /* what the primary lets in, and one that is larger than all of it */
    return MIN(ds->journal_size, 64 * GiB) + REQUEST_MAX;
}

bool ft_disks_room(FtDisks *ds, uint64_t bytes, Error **errp)
{
    uint64_t max = ft_disks_journal_max(ds);
    FtDriveStats st;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].drive) {
            ft_drive_stats(ds->disk[i].drive, &st);
            bytes += st.bytes;
        }
    }
    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        bytes += ds->kept_bytes;
    }
    if (bytes > max) {
        error_setg(errp, "the primary has %" PRIu64 " bytes of disk writes "
                   "outstanding, %" PRIu64 " were agreed on", bytes, max);
        return false;
    }
    return true;
}

/* The primary has them on its disk.  Lock held. */
static void forget_kept(FtDisks *ds)
{
    FtRecord *r;

    while ((r = g_queue_peek_head(&ds->kept)) && r->epoch <= ds->on_disk) {
        g_queue_pop_head(&ds->kept);
        ds->kept_bytes -= ft_record_cost(r);
        ft_record_unref(r);
    }
}

void ft_disks_commit(FtDisks *ds, uint64_t epoch, FtRecords *records,
                     uint64_t on_disk)
{
    unsigned i;

    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        for (i = 0; i < records->rec->len; i++) {
            FtRecord *r = g_ptr_array_index(records->rec, i);
            bool shared = ds->disk[r->drive].params.storage ==
                          FT_STORAGE_SHARED;

            r->epoch = epoch;
            ds->kept_bytes += ft_record_cost(r);
            g_queue_push_tail(shared ? &ds->kept : &ds->todo,
                              ft_record_ref(r));
        }
        ds->committed = epoch;
        ds->on_disk = on_disk;
        forget_kept(ds);
    }
    ft_records_clear(records);
    if (has_replicated(ds)) {
        qemu_bh_schedule(ds->bh);
    }
}

uint64_t ft_disks_settled(FtDisks *ds)
{
    QEMU_LOCK_GUARD(&ds->lock);
    return ds->settled;
}

void ft_disks_samples(FtDisks *ds, const void *buf, size_t len)
{
    QEMU_LOCK_GUARD(&ds->lock);
    if (!ds->samples) {
        ds->samples = g_byte_array_new();
    }
    g_byte_array_set_size(ds->samples, 0);
    g_byte_array_append(ds->samples, buf, len);
}

/* The first copy is over: nothing has been applied yet. */
static bool end_copy(FtDisks *ds, Error **errp)
{
    g_autoptr(GByteArray) samples = NULL;

    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        samples = g_steal_pointer(&ds->samples);
    }
    if (samples && !ft_disks_compare(ds, samples->data, samples->len, errp)) {
        return false;
    }
    ft_disks_changed_start(ds);
    ds->equal = true;
    return true;
}

bool ft_disks_apply(FtDisks *ds, Error **errp)
{
    GQueue todo = G_QUEUE_INIT;
    uint64_t committed, on_disk;
    FtRecord *r;
    unsigned i;

    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        committed = ds->committed;
        on_disk = ds->on_disk;
    }
    if (!committed || !has_replicated(ds) || !ft_disks_serve_end(ds)) {
        return true;
    }
    if (!ds->equal && !end_copy(ds, errp)) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&ds->lock) {
        todo = ds->todo;
        g_queue_init(&ds->todo);
        for (GList *l = todo.head; l; l = l->next) {
            ds->kept_bytes -= ft_record_cost(l->data);
        }
        /* with what came in the meantime */
        committed = ds->committed;
    }
    ft_disks_changed_turn(ds, on_disk);
    ds->applying = committed;
    while ((r = g_queue_pop_head(&todo))) {
        ft_drive_add(ds->disk[r->drive].drive, r);
    }
    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].drive) {
            ft_drive_commit(ds->disk[i].drive, committed);
        }
    }
    return true;
}

bool ft_disks_finished(FtDisks *ds)
{
    bool busy = false;
    unsigned i;

    if (!ds->finishing) {
        /* an error is that of images that were never equal */
        ft_disks_apply(ds, NULL);
    }
    for (i = 0; i < ds->count && ds->equal; i++) {
        FtDrive *d = ds->disk[i].drive;

        if (d) {
            if (!ds->finishing) {
                ft_drive_drain(d);
            }
            busy |= !ft_drive_idle(d);
        }
    }
    ds->finishing = true;
    return !busy;
}

/* --------------------------------------------------------------- takeover */

static bool open_shared(FtDisks *ds, FtDisk *disk, char **who, Error **errp)
{
    g_autofree char *file = NULL;
    Error *err = NULL;
    struct stat st;
    int64_t length;
    int seen;

    seen = ft_disk_lock_seen(disk, &file, &st);
    if (seen > 0) {
        *who = g_strdup_printf("drive '%s' (%s is locked by another process, "
                               "most likely the primary)", disk->name, file);
        return false;
    }
    if (disk->watched && seen < 0) {
        *who = g_strdup_printf("drive '%s' (%s: %s)", disk->name, file,
                               strerror(-seen));
        return false;
    }
    if (disk->watched &&
        (st.st_mtim.tv_sec != disk->written_at.tv_sec ||
         st.st_mtim.tv_nsec != disk->written_at.tv_nsec)) {
        error_setg(errp, "the image '%s' of drive '%s' has been written since "
                   "the primary was lost: it was not dead and has gone on "
                   "alone, so this side's state is out of date; start the "
                   "guest from the image", file, disk->name);
        return false;
    }
    if (bdrv_activate(blk_bs(disk->blk), &err) < 0) {
        /* Another lock, or a storage that is away: neither is for ever. */
        *who = g_strdup_printf("drive '%s' (%s)", disk->name,
                               error_get_pretty(err));
        error_free(err);
        return false;
    }
    length = bdrv_getlength(blk_bs(disk->blk));
    if (length != disk->length) {
        error_setg(errp, "drive '%s' has %" PRId64 " bytes now, it had %"
                   PRIu64, disk->name, length, disk->length);
        return false;
    }
    disk->drive = ft_drive_attach(disk->blk, disk->index, ds->budget,
                                  &ft_disks_drive_ops, disk, "still writes "
                                  "what the lost primary has left", errp);
    if (!disk->drive) {
        return false;
    }
    ft_drive_hold(disk->drive, true);
    return true;
}

void ft_disks_watch(FtDisks *ds)
{
    g_autofree char *file = NULL;
    struct stat st;
    unsigned i;

    for (i = 0; i < ds->count; i++) {
        FtDisk *disk = &ds->disk[i];

        g_clear_pointer(&file, g_free);
        if (!disk->drive && !disk->watched &&
            ft_disk_lock_seen(disk, &file, &st) >= 0) {
            disk->written_at = st.st_mtim;
            disk->watched = true;
        }
    }
}

bool ft_disks_take_over(FtDisks *ds, char **who, Error **errp)
{
    FtRecord *r;
    unsigned i;

    if (!ft_disks_apply(ds, errp)) {
        return false;
    }
    for (i = 0; i < ds->count; i++) {
        if (ds->disk[i].serving) {
            *who = g_strdup_printf("drive '%s' (the first copy's end)",
                                   ds->disk[i].name);
            return false;
        }
        if (!ds->disk[i].drive &&
            !open_shared(ds, &ds->disk[i], who, errp)) {
            return false;
        }
    }
    trace_ft_disks_replay(g_queue_get_length(&ds->kept), ds->on_disk,
                          ds->committed);
    while ((r = g_queue_pop_head(&ds->kept))) {
        ft_drive_add(ds->disk[r->drive].drive, r);
    }
    for (i = 0; i < ds->count; i++) {
        ft_drive_drain(ds->disk[i].drive);
    }
    return true;
}
