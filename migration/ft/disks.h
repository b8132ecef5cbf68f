/*
 * Fault tolerance: the writable drives of a session
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both sides number the drives of the guest in the same order and put a
 * journal (block/ft-journal.c) above each. How the two images relate:
 *
 *  shared      one image that both sides can open. The primary alone writes
 *              it; the backup keeps the records of committed epochs until
 *              the primary says that they are on the disk, and applies what
 *              is left at takeover. Only then does it open the image for
 *              writing, and so take its lock.
 *  replicated  an image on each side. The backup writes its own, epoch by
 *              epoch. They are made equal during the first copy (copy.c).
 *
 *                       primary                          backup
 *   first copy   journals attached, mode PASS     images found, checked
 *   epoch 1      mode HOLD from its pause on      replicated: HOLD
 *   epoch N      seal, send, commit, apply        keep or commit, apply
 *   end          DRAIN, the filters go            -
 *   takeover     -                                DRAIN, the filters go
 *
 * Locking: BQL in the main loop, but where it says otherwise.
 */

#ifndef MIGRATION_FT_DISKS_H
#define MIGRATION_FT_DISKS_H

#include "io/channel-socket.h"
#include "journal.h"
#include "output.h"
#include "qapi/error.h"
#include "qapi/qapi-types-ft.h"

typedef struct FtDisks FtDisks;

/* How a drive is to be protected; the names are those of QAPI. */
typedef struct FtDriveParams {
    FtStorage storage;
    FtCopyMode copy;
    FtFlushMode flush;
} FtDriveParams;

typedef struct FtDisksParams {
    uint64_t journal_size;      /* bytes */
    FtDriveParams all;          /* for the drives that are not listed */
    FtDriveOptionsList *drives; /* by name; not owned */
    bool shared_is_sure;        /* the operator said "shared": no lock needed */
    bool drain_reads;           /* do not park them (to compare) */
} FtDisksParams;

typedef struct FtDisksOps {
    /* A flush waits for the disk: the epoch should end soon.  Any thread. */
    void (*parked)(void *opaque);
    /* ft_disks_ready() may have become true.  Main loop. */
    void (*ready)(void *opaque);
    /* Primary: the images are equal.  Main loop. */
    void (*copied)(void *opaque);
    /* Primary: may what is committed be written?  NULL: always.  When not,
     * ft_disks_kick() is called as soon as it may.  Any thread. */
    bool (*leased)(void *opaque);
    /* The drives cannot go on with the session.  Main loop. */
    void (*failed)(void *opaque, const char *reason);
} FtDisksOps;

/* ------------------------------------------------------------ both sides */

/* Forget the session: what is in the journals is worked off (but on a
 * standby backup, where it is dropped), then the filters go. */
void ft_disks_free(FtDisks *ds);
/* Fill in what is known of drives and journals. */
void ft_disks_query(FtDisks *ds, FtStatus *st);

/*
 * ft_disks_directory: the directory of the image of drive @index, or (-1) of
 * the first shared one that is a regular file; *@found is its number then.
 * NULL with an error: there is no such image.  To be freed.
 */
char *ft_disks_directory(FtDisks *ds, int64_t index, int64_t *found,
                         Error **errp);

/* In the handshake's MACHINE frame: the line before ft_disks_describe(). */
#define FT_DISKS_MARK "--drives--\n"

/* --------------------------------------------------------------- primary */

/*
 * ft_disks_new: find the writable drives of the guest's devices, refuse what
 * cannot be protected, and put a journal above each: all or none.
 */
FtDisks *ft_disks_new(const FtDisksParams *params, const FtDisksOps *ops,
                      void *opaque, Error **errp);

/* What the backup must know of them, for ft_disks_adopt(). To be freed. */
char *ft_disks_describe(const FtDisks *ds);

/* Nothing keeps the first epoch from being taken. */
bool ft_disks_ready(FtDisks *ds);

/*
 * The first copy of a replicated drive: how many drives there are, whether
 * one of them needs a connection (any thread), and to begin on it.
 */
unsigned ft_disks_copy_count(const FtDisks *ds);
bool ft_disks_is_copied(const FtDisks *ds, unsigned index);
bool ft_disks_copy_start(FtDisks *ds, unsigned index, QIOChannelSocket *sioc,
                         Error **errp);

/*
 * After the pause of epoch 1: let the copies finish, and flush the images.
 * True: no epoch may be sent before op copied().
 */
bool ft_disks_finish_copies(FtDisks *ds);

/* Samples of the images that were not copied whole, for the backup to
 * compare. Reads a few MiB of each. */
bool ft_disks_sample(FtDisks *ds, GByteArray *out, Error **errp);

/* In a pause: park what is not done (@on), until it ends. NULL is fine. */
void ft_disks_park(FtDisks *ds, bool on);

/* In the pause of epoch 1: journal from now on. */
void ft_disks_hold(FtDisks *ds);

/*
 * ft_disks_seal: in the pause of @epoch: append its records to @out. Returns
 * the last epoch that is on the disks whole, which the backup is to be told
 * with this epoch.
 */
uint64_t ft_disks_seal(FtDisks *ds, uint64_t epoch, FtRecords *out);

/* As a provider of output: it is released with the packets. */
void ft_disks_provide(FtDisks *ds, FtOutput *out);

/* Look again whether committed records may be written. */
void ft_disks_kick(FtDisks *ds);

/* The backup is lost: what of the first copy waits for it fails.  Any
 * thread, also while the main loop waits for just that. */
void ft_disks_break(FtDisks *ds);

/* All may go to the disks: protection has ended, this side goes on. */
void ft_disks_drain(FtDisks *ds);

/* The backup's images hold all epochs up to @epoch. */
void ft_disks_backup_settled(FtDisks *ds, uint64_t epoch);

/* ---------------------------------------------------------------- backup */

/* The session has ended in order: write the rest to this side's own images.
 * True once nothing is left; op ready() tells when to ask again. */
bool ft_disks_finished(FtDisks *ds);

/*
 * ft_disks_adopt: find the drives that the primary describes in @text
 * (untrusted, @len bytes). Each must be there, of the same length; a shared
 * image must be the one that the primary has open; replicated ones are opened
 * for writing. NULL with an error that names the drive and the remedy.
 */
FtDisks *ft_disks_adopt(const char *text, size_t len, Error **errp);

/* The session with that primary begins. */
bool ft_disks_start(FtDisks *ds, const FtDisksOps *ops, void *opaque,
                    Error **errp);

/* A connection for the first copy of drive @index. */
void ft_disks_copy_accept(FtDisks *ds, unsigned index,
                          QIOChannelSocket *sioc);

/* Lengths of the drives, and how many bytes of records the primary may have
 * outstanding.  Any thread after start. */
const uint64_t *ft_disks_lengths(const FtDisks *ds, unsigned *count);
uint64_t ft_disks_journal_max(const FtDisks *ds);

/* May the primary have @bytes of records in the open epoch, beside all that
 * is kept or not written yet?  Any thread. */
bool ft_disks_room(FtDisks *ds, uint64_t bytes, Error **errp);

/* Keep the primary's samples, to be compared before anything is applied. Any
 * thread. */
void ft_disks_samples(FtDisks *ds, const void *buf, size_t len);

/*
 * ft_disks_commit: the records of @epoch, which is committed; emptied. The
 * primary has all epochs up to @on_disk on its disks. Any thread.
 */
void ft_disks_commit(FtDisks *ds, uint64_t epoch, FtRecords *records,
                     uint64_t on_disk);

/* The last epoch that the backup's own images hold whole; UINT64_MAX: it has
 * none.  Any thread. */
uint64_t ft_disks_settled(FtDisks *ds);

/*
 * ft_disks_take_over: open the images, put what is committed into journals
 * above them, and work it off from now on. False without an error: an image
 * is locked by another process, most likely the primary; *@who names the
 * drive and the image (to be freed); try again.
 */
bool ft_disks_take_over(FtDisks *ds, char **who, Error **errp);

/*
 * The takeover waits: whoever holds the images may be alive. May be called
 * again; what counts is the first time that an image could be looked at.
 * If it still writes to one of them from now on, it has gone on alone, and
 * ft_disks_take_over() fails for good.
 */
void ft_disks_watch(FtDisks *ds);

#endif
