/*
 * Fault tolerance: making the backup's image of a drive equal to ours
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A replicated drive has an image on each host.  QEMU's own mirror job copies
 * the primary's to the backup's NBD server, over a connection of the session
 * (FT_CHANNEL_DISK).  No port is opened for it.
 *
 *   primary                                       backup
 *   ft_link_open_disk()      -- HELLO, WELCOME -- listener: FtDiskFn
 *   ft_copy_start()          ------- NBD -------- ft_copy_accept()
 *     mirror: ready()                               ft_copy_serve() was before
 *   ft_copy_finish()
 *     mirror: done()         ------- end --------
 *                                                 ft_copy_serve_end()
 *
 * Locking: the main loop with the BQL, but where it says otherwise.  All
 * callbacks come from the main loop and never inside a drain.
 */

#ifndef MIGRATION_FT_COPY_H
#define MIGRATION_FT_COPY_H

#include "block/block-common.h"
#include "block/dirty-bitmap.h"
#include "io/channel-socket.h"
#include "qapi/qapi-types-ft.h"

/* ------------------------------------------------------- copy.c: primary */

typedef struct FtCopy FtCopy;

typedef struct FtCopyOps {
    /* Equal but for what is being written right now.  Once at most. */
    void (*ready)(void *opaque);
    /*
     * It has ended, and the connection is closed.  @ret is 0 after
     * ft_copy_finish(): both images are equal, and flushed; else a negative
     * errno with @msg, which names the drive.  Once at most, the last call.
     */
    void (*done)(void *opaque, int ret, const char *msg);
} FtCopyOps;

/*
 * ft_copy_start: copy @bs, a node below the drive's journal, to the export
 * @export_name at the other end of @sioc (which ft_link_open_disk() made; it
 * gets a reference of its own).  Then copy what is written to @bs, until the
 * end.  With FT_COPY_MODE_FULL all of it is copied, with CHANGED what is
 * dirty in @changed, with NONE nothing of what is there.  @drive: for
 * messages, as a person would call it.
 *
 * @bs is drained for a moment.  Waits for the backup for a few round trips
 * (at most a second).
 */
FtCopy *ft_copy_start(BlockDriverState *bs, const char *drive,
                      QIOChannelSocket *sioc, const char *export_name,
                      FtCopyMode mode, BdrvDirtyBitmap *changed,
                      const FtCopyOps *ops, void *opaque, Error **errp);

/*
 * ft_copy_finish: copy what is left and end.  Nothing of the guest may write
 * to the node any more, or it does not come to an end.  Before ready() it
 * begins then.
 */
void ft_copy_finish(FtCopy *c);

/* How many bytes are copied, and how many there are in all. */
void ft_copy_progress(FtCopy *c, uint64_t *done, uint64_t *total);

/*
 * ft_copy_break: the backup is lost: what waits for it fails.  Any thread
 * that knows @c to be there, also while the main loop is stuck in a drain
 * because of it.
 */
void ft_copy_break(FtCopy *c);

/* End at once, if it has not ended, and forget: nothing is called any more. */
void ft_copy_cancel(FtCopy *c);

/* -------------------------------------------------- copy-serve.c: backup */

/*
 * ft_copy_serve: let those who come by ft_copy_accept() write to @bs, which
 * becomes active if it was not.  @export_name: as ids are ("ft-0").  A
 * user's own NBD server, if there is one, has the export, too, and stopping
 * it ends this one.  The guest must not run: its device does not share the
 * drive with a writer.
 */
bool ft_copy_serve(BlockDriverState *bs, const char *export_name,
                   Error **errp);

/*
 * A connection for NBD.  Takes a reference.  Drop yours: for the primary it
 * ends when nobody has it any more, and it is the export's to end it.
 */
void ft_copy_accept(QIOChannelSocket *sioc);

/* How many connections the export has; 0 when there is no such export. */
unsigned ft_copy_clients(const char *export_name);

/*
 * ft_copy_serve_end: the export goes, its connections are closed, and @ended
 * (may be NULL) is called when none of their requests can reach the node any
 * more; also if that had come to pass before, or there is no such export.
 * A second call replaces the first one's @ended.
 */
typedef void FtCopyEndedFn(void *opaque);
void ft_copy_serve_end(const char *export_name, FtCopyEndedFn *ended,
                       void *opaque);

/* ------------------------------------------------------------ both sides */

/*
 * ft_copy_sample: a checksum of @samples pieces of 64 KiB, chosen by @seed,
 * the first and the last among them; 0: of all of it.  Equal on both sides
 * if they are equal there.  Waits for the disk; for the whole of it that is
 * long, the main loop does nothing else meanwhile.
 */
bool ft_copy_sample(BlockDriverState *bs, uint64_t seed, unsigned samples,
                    uint32_t *crc, Error **errp);

#endif
