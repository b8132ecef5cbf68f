/*
 * Fault tolerance: the backup's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *  WAITING --connected--> SYNC --epoch 1 whole--> STANDBY --> CLAIMING
 *                           |                        |         |     |
 *                           +------> DISCARDED <-----+---------+     v
 *                                                                TAKEOVER
 *                                                                    |
 *                                                                    v
 *                                                              UNPROTECTED
 *
 *  event            SYNC                 STANDBY
 *  PAGES, sync      apply at once        protocol error
 *  PAGES, DEVICES   stage                stage
 *  JOURNAL          stage                stage
 *  SAMPLES          keep                 protocol error
 *  EPOCH_END        check, ack, apply    check, ack, apply
 *  bad frame        DISCARDED            takeover of the committed epoch is
 *                                        NOT done: DISCARDED (see below)
 *  disarm           answer, DISCARDED    answer, DISCARDED
 *  silent           DISCARDED            CLAIMING
 *  data lost        DISCARDED, when a    CLAIMING; if control is up, FAILOVER
 *                   disarm had time
 *                   to come
 *  heart lost       the same             listens for FT_BAK_GRACE_US, then as
 *                                        data lost
 *  control lost     DISCARDED            data lost: CLAIMING; else waits for
 *                                        that, at most fence_timeout
 *  failover command refused              CLAIMING, FAILOVER
 *
 * The open epoch is dropped before CLAIMING, and nothing is acknowledged any
 * more:
 *
 *  event            CLAIMING
 *  FENCED           TAKEOVER: the primary has stopped for good
 *  claim won        the primary has no lease (1): TAKEOVER.  Else FAILOVER if
 *                   control is up; TAKEOVER on FENCED, or (1).  After
 *                   fence_timeout, or FT_BAK_GRACE_US without control: ends
 *                   the heartbeats, so that (1) comes
 *  claim lost       DISCARDED: the primary goes on
 *  claim unknown    stays, told
 *  disarm           stays: the primary goes on only if the arbiter lets it
 *                   or if this side had answered, which it does not now
 *  forced           as claim won
 *  frames           ignored
 *
 * (1) It is silent; or its heartbeats' connection has ended, and control is
 * lost, too, or was given up.  That connection's end is only told here when
 * the primary has died or its lease is over (pulse.h), so it lets nothing out
 * any more.
 *
 * A bad frame from a live primary means that one of the two is broken, not
 * that the primary is dead: it is told (ERROR) and goes on unprotected,
 * while this side gives up.  Only a loss, or the operator, makes a backup go
 * on.  After DISARM or ERROR it never does: the primary relies on that.
 *
 * Epochs are numbered from 1 without gaps.  epoch 0 is the first copy.
 *
 * Locking: the caller's, around every call.  Times in microseconds.
 */

#ifndef MIGRATION_FT_BACKUP_FSM_H
#define MIGRATION_FT_BACKUP_FSM_H

#include "arbiter.h"
#include "qapi/error.h"
#include "wire.h"

typedef enum FtBakState {
    FT_BAK_WAITING,
    FT_BAK_SYNC,
    FT_BAK_STANDBY,
    FT_BAK_CLAIMING,
    FT_BAK_TAKEOVER,
    FT_BAK_UNPROTECTED,
    FT_BAK_DISCARDED,
} FtBakState;

typedef enum FtBakEnd {
    FT_BAK_END_ORDERLY,         /* no fault */
    FT_BAK_END_ERROR,
    FT_BAK_END_LOST,            /* the claim: the primary goes on */
} FtBakEnd;

#define FT_BAK_WHY_MAX  512

/* The first epoch waits until the disks have been copied. */
#define FT_BAK_AGE_MAX_US   (30ll * 24 * 3600 * 1000000)

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
    /* Answer a disarm: this side will never take over. */
    void (*send_disarm)(void *opaque);
    /* Ask the primary to stop for good; @claimed: it has to. */
    void (*send_failover)(void *opaque, bool claimed);
    /* Ask the arbiter; the answers come by ft_bak_claimed(). */
    void (*claim)(void *opaque);
    /* Shut down the connection for heartbeats: ft_bak_heart_lost() comes when
     * the primary's lease is over, at once if it was called before. */
    void (*end_heart)(void *opaque);
    /* Go on from @epoch. */
    void (*takeover)(void *opaque, uint64_t epoch, const char *reason);
    /* The session is over without takeover. */
    void (*discard)(void *opaque, FtBakEnd end, const char *reason);
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
    bool silent;                /* no heartbeats */
    bool heart_lost;            /* their connection has ended */
    bool claim_won;
    bool given_up;              /* control's word is not waited for any more */
    bool fencing;               /* the control connection's word is waited
                                 * for, until fence_deadline */
    bool bad_image;             /* what is in RAM is not a whole epoch */
    int64_t fence_deadline;
    int64_t asked;              /* when the next poll should be */
    bool grace_given;
    char why[FT_BAK_WHY_MAX];   /* it wants to take over */
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
void ft_bak_heart_lost(FtBak *b, int64_t now);
void ft_bak_silent(FtBak *b, const char *reason, int64_t now);
void ft_bak_peer_disarm(FtBak *b, const char *reason);
void ft_bak_peer_fenced(FtBak *b);
/* What the arbiter says; @text as in FtClaimFn. */
void ft_bak_claimed(FtBak *b, FtClaim claim, const char *text, int64_t now);

/*
 * The operator wants this side to take over.  An error outside STANDBY, and
 * with @force (he vouches for what the arbiter would) outside CLAIMING, too.
 */
bool ft_bak_failover(FtBak *b, bool force, int64_t now, Error **errp);

/* May this side still say that it will never take over? */
bool ft_bak_may_disarm(const FtBak *b);

/* The guest runs here. */
void ft_bak_running(FtBak *b);
/* Takeover could not be finished. */
void ft_bak_takeover_failed(FtBak *b, const char *reason);

/* As ft_pri_poll(). */
int64_t ft_bak_poll(FtBak *b, int64_t now);

#endif
