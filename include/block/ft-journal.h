/*
 * Fault tolerance: the filter that journals what a drive is written
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   device --> BlockBackend --> [ft-journal] --> format --> protocol
 *
 * The session puts one above each writable drive and takes it away when
 * nothing is left in it. migration/ft/journal.h has the life of a record; the
 * filter moves data between it, the guest and the disk.
 *
 *  mode    writes                        reads             who
 *  PASS    to the disk                   from the disk     before, after
 *  HOLD    to the journal, done at once; journal and disk  protected; backup
 *          applied when committed                          with own image
 *  DRAIN   to the journal, at most so    journal and disk  the other side is
 *          much, flushes wait for it                       gone: work it off,
 *                                                          then PASS
 *  DEAD    nowhere                       journal and disk  fenced
 *
 * Parking: a request that cannot be finished at the end of an epoch (a read
 * from a slow disk; a write when the journal is full) fails with FT_EPARKED.
 * Two hooks in QEMU's error policies make the device put it on its list of
 * requests to be retried, as with rerror=stop, but silently. That list is
 * part of the device's state, so the request is part of the epoch; and it is
 * submitted again when the guest runs on, here or on the backup. A read goes
 * on meanwhile and is found again by the one that asks for the same.
 *
 * Locking: functions with the BQL in the main loop, but the requests' own
 * come in any thread. "lock" covers the journal, the mode and the read jobs.
 */

#ifndef BLOCK_FT_JOURNAL_H
#define BLOCK_FT_JOURNAL_H

#include "block/block.h"
#include "qapi/error.h"

#define FT_EPARKED ERESTART     /* no block driver returns this */

typedef struct FtDrive FtDrive;
struct FtBudget;
struct FtRecord;
struct FtRecords;
struct FtJournalStats;

typedef struct FtDriveOps {
    /*
     * A write, zero-write, discard or flush failed on the disk with @error
     * (an errno, positive). It stays in the journal and is tried again each
     * second until it works.
     */
    void (*error)(void *opaque, FtDrive *d, int error);
    /* The settled epoch may have changed, or the drive has become idle. */
    void (*progress)(void *opaque, FtDrive *d);
    /* A flush waits for the disk, so the epoch should end soon.  Any
     * thread; must not call back. */
    void (*parked)(void *opaque, FtDrive *d);
    /*
     * Mode HOLD: may what is committed be written now?  When not, it rests
     * until ft_drive_retry().  A side that hung must not write before it
     * knows that nobody has taken over.  NULL: always.
     */
    bool (*leased)(void *opaque, FtDrive *d);
} FtDriveOps;

/*
 * ft_drive_attach: put a filter above the node of @blk, in mode PASS. When
 * there is one already that works off the last session's journal (DRAIN), it
 * becomes this session's; see ft_drive_idle(). @index is the drive's number
 * in the session. @reason: why others may not touch the node ("drive is
 * protected...").
 */
FtDrive *ft_drive_attach(BlockBackend *blk, uint16_t index,
                         struct FtBudget *budget, const FtDriveOps *ops,
                         void *opaque, const char *reason, Error **errp);

/*
 * ft_drive_release: the session does not need @d any more and no op is called
 * after this. What is in the journal is worked off (mode DRAIN), then the
 * filter goes away by itself.
 */
void ft_drive_release(FtDrive *d);

BlockDriverState *ft_drive_node(FtDrive *d);    /* below the filter */

/* With @disk a flush waits for the disk, not only for the commit. */
void ft_drive_set_flush_disk(FtDrive *d, bool disk);

/*
 * From PASS to HOLD. Guest paused and its requests drained. @replica: no
 * guest runs, only ft_drive_add() makes records (until DRAIN).
 */
void ft_drive_hold(FtDrive *d, bool replica);
/* All that is in the journal may go to the disk: DRAIN. */
void ft_drive_drain(FtDrive *d);
/* Nothing may go to the disk any more: DEAD. Waits for what is on its way. */
void ft_drive_kill(FtDrive *d);

/*
 * ft_drive_park: from now on (@on) requests that are not done are parked;
 * those that wait already, at once. Off again before the guest runs on.
 */
void ft_drive_park(FtDrive *d, bool on);

/*
 * ft_drive_seal: what was recorded in the open epoch is @epoch's; references
 * go to @out. Guest paused, its requests drained.
 */
void ft_drive_seal(FtDrive *d, uint64_t epoch, struct FtRecords *out);

/* The backup holds @epoch: its records may go to the disk. */
void ft_drive_commit(FtDrive *d, uint64_t epoch);

/* A record that came from the primary, of a committed epoch. Takes it over. */
void ft_drive_add(FtDrive *d, struct FtRecord *r);

/* Op leased() may say yes again. */
void ft_drive_retry(FtDrive *d);

/* The last epoch that is on the disk whole, and flushed. */
uint64_t ft_drive_settled(FtDrive *d);
/* Mode PASS: nothing is in the journal, and nothing will be. */
bool ft_drive_idle(FtDrive *d);

typedef struct FtDriveStats {
    uint64_t records, bytes;        /* in the journal now */
    uint64_t writes, flushes, written_bytes;    /* by the guest */
    uint64_t disk_ops, disk_bytes;  /* to the disk */
    uint64_t parked_reads, parked_writes;
    int error;                      /* errno while a write fails, or 0 */
    uint64_t failures;              /* attempts that failed, in all */
} FtDriveStats;

void ft_drive_stats(FtDrive *d, FtDriveStats *st);

#endif
