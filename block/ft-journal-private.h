/*
 * Fault tolerance: what the files of the journal filter share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   ft-journal.c         requests: read jobs, recording; the block driver
 *   ft-journal-apply.c   the applier: from the journal to the disk
 *   ft-journal-drive.c   what the session calls
 */

#ifndef BLOCK_FT_JOURNAL_PRIVATE_H
#define BLOCK_FT_JOURNAL_PRIVATE_H

#include "block/block_int.h"
#include "block/ft-journal.h"
#include "qemu/coroutine.h"
#include "qemu/main-loop.h"
#include "qemu/notify.h"
#include "qemu/queue.h"
#include "qemu/thread.h"
#include "../migration/ft/journal.h"

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
    bool can_park_zeroes;       /* ... and for what has no data with it */
    bool flush_disk;
    const FtDriveOps *ops;      /* NULL: released */
    void *opaque;
    bool leaving;               /* the filter goes when it is idle */
    Error *blocker;
    BlockDriverState *blocked;  /* the node below; a reference */
    GSList *below;              /* of more nodes; references */
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

extern BlockDriver bdrv_ft_journal;

/* Look whether there is something to do.  Any thread. */
static inline void ft_drive_kick(FtDrive *d)
{
    qemu_bh_schedule(d->bh);
}

static inline bool ft_drive_passes(FtDrive *d)
{
    /* It cannot change while a request is under way but from DRAIN to PASS */
    return qatomic_read(&d->mode) == FT_DRIVE_PASS;
}

/* Wake all that wait now, not those that find that they must wait again. */
void ft_drive_wake(CoQueue *queue, QemuMutex *lock);

/* Drop reads that nobody came back for (a reset device).  Lock held. */
void ft_drive_expire_jobs(FtDrive *d, bool all);

/* The range is written again (or its requests are over).  Lock held. */
void ft_drive_forget_fuas(FtDrive *d, uint64_t offset, uint64_t bytes);

/* The node below may be touched by others again. */
void ft_drive_unblock(FtDrive *d);

/* QEMU ends: a node that is to be deleted must not be blocked any more. */
void ft_drive_blk_empty(Notifier *n, void *data);

/* Main loop: do what is to be done; try again; go away. */
void ft_drive_bh(void *opaque);
void ft_drive_timer(void *opaque);
void ft_drive_remove_bh(void *opaque);

#endif
