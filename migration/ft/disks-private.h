/*
 * Fault tolerance: what disks.c and disks-backup.c share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_DISKS_PRIVATE_H
#define MIGRATION_FT_DISKS_PRIVATE_H

#include "block/ft-journal.h"
#include "changed.h"
#include "copy.h"
#include "disks.h"
#include "session.h"

#define FT_DISKS_MAX    256

typedef struct FtFirstFlush FtFirstFlush;

typedef struct FtDisk {
    FtDisks *ds;
    uint16_t index;
    BlockBackend *blk;
    char *name;                 /* as people call it */
    char *path;                 /* of the device in the machine */
    FtDriveParams params;
    uint64_t length;            /* bytes */
    FtDrive *drive;             /* NULL: not attached (yet) */
    FtCopy *copy;               /* first copy under way; changed with ds->lock
                                 * held, too */
    bool copy_ready;            /* primary: as good as equal */
    uint64_t copied, to_copy;   /* primary: bytes, in the end */
    FtFirstFlush *flush;        /* primary: before epoch 1 is sent */
    int flush_ret;
    bool watched;               /* takeover: written_at is valid */
    struct timespec written_at; /* the image, when the wait began */
    bool activated;             /* backup: by us, before a session began */
    bool serving;               /* backup: the image is still exported */
    bool ending;                /* backup: but not for long */
    int told_error;             /* the last one that an event told of */
    bool stopped;               /* the guest was paused for it */
    uint64_t failures;          /* as far as they have been looked at */
} FtDisk;

struct FtDisks {
    FtRole role;
    const FtDisksOps *ops;
    void *opaque;
    FtBudget *budget;
    uint64_t journal_size;
    bool drain_reads;
    unsigned count;
    FtDisk *disk;               /* [count] */
    uint64_t *length;           /* [count], for ft_record_decode() */
    QEMUBH *bh;

    /* primary */
    FtOutput *output;
    FtOutputProvider *provider;
    uint64_t backup_settled;    /* UINT64_MAX: it has no images of its own */
    uint64_t told_on_disk;      /* the backup has been told of */
    unsigned copies;            /* that are waited for */
    bool copied;                /* all are, which is still to be told */

    /* both */
    bool equal;                 /* replicated images are (primary: all copies
                                 * have ended); the backup's are applied to */
    /* what the other side's images lack, see changed.h */
    uint64_t turn;              /* epoch of the last one */
    int64_t turned_at;          /* ms */
    uint64_t applying;          /* the last epoch handed to the journals */

    /* backup */
    bool started;
    bool finishing;             /* the session has ended in order */
    QemuMutex lock;             /* all below */
    uint64_t committed;
    uint64_t on_disk;           /* the primary has all up to it */
    GQueue kept;                /* of FtRecord of shared drives */
    GQueue todo;                /* of FtRecord, to be written here */
    uint64_t kept_bytes;        /* what both take */
    uint64_t settled;           /* of this side's own images */
    GByteArray *samples;        /* of the primary's images, or NULL */
};

/* How drives are told apart in messages, and found by the other side. */
bool ft_disk_init(FtDisks *ds, FtDisk *disk, BlockBackend *blk, Error **errp);
/* Is @blk a drive that the guest can write? */
bool ft_disk_is_writable(BlockBackend *blk);

/*
 * ft_disk_lock_seen: does some process, this one included, hold QEMU's lock
 * for writing on the image of @disk?  1 yes, 0 no, negative: it cannot be
 * told, as the image is no file or the file system has no locks.  @st, if
 * not NULL, is the file's state, unless the result is negative.
 */
int ft_disk_lock_seen(FtDisk *disk, char **filename, struct stat *st);

/* What an FtDriveOps.error leads to. */
void ft_disks_handle_errors(FtDisks *ds);

/* Backup: hand what is committed to this side's own images; false: they are
 * not what they should be. */
bool ft_disks_apply(FtDisks *ds, Error **errp);

/* disks-copy.c, primary: it has ended, or is to: nobody breaks it any more. */
FtCopy *ft_disk_take_copy(FtDisk *disk);
/* disks-copy.c, primary: do not tell of the first flush any more. */
void ft_disk_forget_flush(FtDisk *disk);
/* disks-copy.c, backup: export the images; end that (true: it has ended);
 * compare samples. */
bool ft_disks_serve(FtDisks *ds, Error **errp);
bool ft_disks_serve_end(FtDisks *ds);
bool ft_disks_compare(FtDisks *ds, const uint8_t *buf, size_t len,
                      Error **errp);
/* The images are equal now: remember what changes. */
void ft_disks_changed_start(FtDisks *ds);
/* The other side's images have all epochs up to @settled. */
void ft_disks_changed_turn(FtDisks *ds, uint64_t settled);

extern const FtDriveOps ft_disks_drive_ops;

FtDisks *ft_disks_alloc(FtRole role, unsigned count);

#endif
