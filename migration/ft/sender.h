/*
 * Fault tolerance: the thread that sends the first copy and the epochs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   main loop                          sender thread
 *   ft_sender_image() -> fill in
 *   ft_sender_queue()  ----------->    encode, PAGES* DEVICES* JOURNAL*
 *          ^                                |    EPOCH_END
 *          ^                                |
 *          +----------- idle images --------+
 *   ft_sender_pass()   ----------->    drain the capture, PAGES* with SYNC
 *
 * An image belongs to one side at a time; what the main loop fills in, the
 * thread only reads.  The thread never takes the BQL.
 */

#ifndef MIGRATION_FT_SENDER_H
#define MIGRATION_FT_SENDER_H

#include "journal.h"
#include "session.h"

/* An epoch on its way to the backup. */
typedef struct FtImage {
    uint64_t epoch;
    uint16_t flags;             /* FT_FLAG_RUNNING, FT_FLAG_HASH */
    uint64_t ram_hash;
    int64_t clocks_at;          /* ft_now_us() when its clocks were read */
    FtStage *stage;
    GByteArray *devices;
    FtRecords journal;          /* what the guest wrote to its disks */
    uint64_t on_disk;           /* last epoch that is on them whole */
    QSIMPLEQ_ENTRY(FtImage) next;
} FtImage;

typedef struct FtSenderOps {
    /* Both are called in the sender's thread, without the BQL. */
    void (*pass_done)(void *opaque);
    void (*failed)(void *opaque, const char *reason);
} FtSenderOps;

typedef struct FtSender FtSender;

/* Starts the thread.  @link and @capture must outlive the sender. */
FtSender *ft_sender_new(FtLink *link, FtCapture *capture,
                        const FtSenderOps *ops, void *opaque);

/* Ends the thread, which must not be stuck in @link: shut that down before.
 * May be called with the BQL held. */
void ft_sender_free(FtSender *s);

/* An empty image, to be queued or given back. */
FtImage *ft_sender_image(FtSender *s);
void ft_sender_give_back(FtSender *s, FtImage *img);
void ft_sender_queue(FtSender *s, FtImage *img);
/* While it is on, images wait in the queue. */
void ft_sender_hold(FtSender *s, bool on);
/* Samples of images, to go before the next image. Takes @samples over. */
void ft_sender_samples(FtSender *s, GByteArray *samples);

/* Make a pass of the first copy over what has been harvested. */
void ft_sender_pass(FtSender *s);

/* Pages sent in the first copy so far.  Any thread. */
uint64_t ft_sender_sync_pages(FtSender *s);
/* Page records by kind.  Read while it is written: good enough to look at. */
const FtEncodeStats *ft_sender_encoded(FtSender *s);

#endif
