/*
 * Fault tolerance: the backup's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *  WAITING --connected--> SYNC --epoch 1 whole--> STANDBY --> TAKEOVER
 *                           |                        |            |
 *                           +------> DISCARDED <-----+        UNPROTECTED
 *
 *  event            SYNC                 STANDBY
 *  PAGES, sync      apply at once        protocol error
 *  PAGES, DEVICES   stage                stage
 *  JOURNAL          stage                stage
 *  SAMPLES          keep                 protocol error
 *  EPOCH_END        check, ack, apply    check, ack, apply
 *  bad frame        DISCARDED            takeover of the committed epoch is
 *                                        NOT done: DISCARDED (see below)
 *  disarm           DISCARDED, orderly   DISCARDED, orderly
 *  data link lost   DISCARDED, when a    drop the open epoch; then by the
 *                   disarm had time      control link:
 *                   to come
 *     control: disarm seen, or comes        -> DISCARDED, orderly
 *     control: lost too                     -> TAKEOVER
 *     control: still up                     -> ask the primary to stop
 *                                              (FAILOVER), and on FENCED or
 *                                              after fence_timeout: TAKEOVER
 *  failover command refused              ask, FENCED or timeout: TAKEOVER
 *
 * A bad frame from a live primary means that one of the two is broken, not
 * that the primary is dead: it is told (ERROR) and goes on unprotected,
 * while this side gives up.  Only the loss of the link, or the operator,
 * makes a backup go on.
 *
 * Epochs are numbered from 1 without gaps.  epoch 0 is the first copy.
 *
 * Locking: the caller's, around every call.  Times in microseconds.
 */

#ifndef MIGRATION_FT_BACKUP_FSM_H
#define MIGRATION_FT_BACKUP_FSM_H

#include "qapi/error.h"
#include "wire.h"

typedef enum FtBakState {
    FT_BAK_WAITING,
    FT_BAK_SYNC,
    FT_BAK_STANDBY,
    FT_BAK_TAKEOVER,
    FT_BAK_UNPROTECTED,
    FT_BAK_DISCARDED,
} FtBakState;

/*
 * A poll that comes so late was not waited for, this process stood still.
 * The control connection gets as long again, as it may hold a disarm.
 */
#define FT_BAK_GRACE_US 100000

typedef struct FtBakParams {
    int64_t fence_timeout_us;   /* how long FENCED is waited for; more than
                                 * twice FT_PRI_GRACE_US and a round trip */
    uint64_t max_stage_bytes;   /* PAGES payload of one epoch */
    uint64_t max_device_bytes;  /* DEVICES payload of one epoch */
    uint64_t max_journal_bytes; /* JOURNAL payload of one epoch */
} FtBakParams;

typedef struct FtBakOps {
    void (*state)(void *opaque, FtBakState state, const char *reason);
    /* Keep the payload of a PAGES frame for the open epoch.  @records is
     * set to the number of records in it; bad records are an error. */
    bool (*stage_pages)(void *opaque, const void *payload, uint32_t len,
                        uint64_t *records, Error **errp);
    /* Write the pages of a sync PAGES frame to guest RAM now. */
    bool (*apply_now)(void *opaque, const void *payload, uint32_t len,
                      Error **errp);
    bool (*stage_devices)(void *opaque, const void *payload, uint32_t len,
                          Error **errp);
    /* Keep the disk records for the open epoch, as with pages. */
    bool (*stage_journal)(void *opaque, const void *payload, uint32_t len,
                          uint64_t *records, Error **errp);
    /* Samples of the primary's images, to be compared with one's own before
     * epoch 1 is applied. */
    bool (*samples)(void *opaque, const void *payload, uint32_t len,
                    Error **errp);
    /* The epoch is whole and checked: say so to the primary.  A failed send
     * is no error here, the link's loss will tell. */
    void (*ack)(void *opaque, uint64_t epoch);
    /* Write the staged pages to RAM, make the staged devices the current
     * ones.  With @end->ram_hash wanted (flags), compare. */
    bool (*apply)(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                  uint16_t flags, Error **errp);
    /* Throw away what is staged. */
    void (*drop_open)(void *opaque);
    /* Ask the primary to stop for good. */
    void (*send_failover)(void *opaque);
    /* Go on from @epoch. */
    void (*takeover)(void *opaque, uint64_t epoch, const char *reason);
    /* The session is over without takeover; @orderly: no fault. */
    void (*discard)(void *opaque, bool orderly, const char *reason);
} FtBakOps;

typedef struct FtBak {
    const FtBakOps *ops;
    void *opaque;
    FtBakParams params;
    FtBakState state;
    uint64_t committed;         /* last epoch received whole, 0: none */
    bool guest_running;         /* as of the committed epoch */
    /* the open epoch */
    uint64_t open_pages;
    uint64_t open_page_bytes;
    uint64_t open_device_bytes;
    uint64_t open_journal_bytes;
    uint64_t open_records;
    uint64_t on_disk;           /* last epoch on the primary's disks */
    bool data_lost;
    bool control_lost;
    bool fencing;               /* the control connection's word is waited
                                 * for, mostly because FAILOVER was sent */
    bool bad_image;             /* what is in RAM is not a whole epoch */
    int64_t fence_deadline;
    int64_t asked;              /* when the next poll should be */
    bool grace_given;
    const char *takeover_reason;
} FtBak;

void ft_bak_init(FtBak *b, const FtBakOps *ops, void *opaque,
                 const FtBakParams *params);
const char *ft_bak_state_name(FtBakState state);

void ft_bak_connected(FtBak *b);

/*
 * ft_bak_frame: a frame came on the data channel, its CRC is checked.
 * Returns false with @errp set when it is not acceptable; the state is
 * DISCARDED then and the caller sends the error to the primary.
 */
bool ft_bak_frame(FtBak *b, const FtFrame *f, const void *payload,
                  Error **errp);

/* A frame that did not even decode: gives up, tells the primary why. */
void ft_bak_frame_bad(FtBak *b, const char *reason);

void ft_bak_data_lost(FtBak *b, int64_t now);
void ft_bak_control_lost(FtBak *b, int64_t now);
void ft_bak_peer_disarm(FtBak *b, const char *reason);
void ft_bak_peer_fenced(FtBak *b);

/* The operator wants this side to take over.  An error outside STANDBY. */
bool ft_bak_failover(FtBak *b, int64_t now, Error **errp);

/* The guest runs here. */
void ft_bak_running(FtBak *b);
/* Takeover could not be finished. */
void ft_bak_takeover_failed(FtBak *b, const char *reason);

/* As ft_pri_poll(). */
int64_t ft_bak_poll(FtBak *b, int64_t now);

#endif
