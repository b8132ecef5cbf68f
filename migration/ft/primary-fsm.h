/*
 * Fault tolerance: the primary's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *  INACTIVE --start--> SETUP --connected--> SYNC --ack(1)--> PROTECTED
 *     ^                  |                   |                |  |  |
 *     |                  +--lost, cancel-----+---> INACTIVE   |  |  |
 *     +--------------------------------cancel-----------------+  |  |
 *                UNPROTECTED <--backup lost, or left in order----+  |
 *                     FENCED <--the backup has taken over-----------+
 *
 *  event            SETUP       SYNC                 PROTECTED
 *  connected        -> SYNC     error                error
 *  sync_done        error       epoch 1 is taken     error
 *  poll, time up    lost        lost (ack late, but  epoch taken | stall
 *                               not while epoch 1
 *                               is withheld)
 *  guest has ended  -           -                    one epoch more, if
 *                                                    there is room
 *  ack(e)           lost        e=1: -> PROTECTED    commit e, in order only
 *  ack(other)       lost        lost                 lost
 *  data lost        INACTIVE    INACTIVE             as link lost, but after
 *                                                    the control connection
 *                                                    had time to say more
 *  link lost        INACTIVE    INACTIVE             release -> UNPROTECTED
 *  peer's disarm    INACTIVE    INACTIVE             release -> UNPROTECTED
 *  peer's failover  INACTIVE    INACTIVE             drop    -> FENCED
 *  cancel, guest    INACTIVE    INACTIVE             disarm, release
 *  shut down                                         -> INACTIVE
 *
 * Output is held from the moment epoch 1 is taken (still in SYNC), so a loss
 * in SYNC releases it as well.  The disarm message always goes out before
 * the output, so that the backup cannot take over once something that it
 * does not know of has left.
 *
 * Locking: the caller's (the BQL in QEMU) around every call.  All times are
 * in microseconds of one monotonic clock that the caller passes in.
 */

#ifndef MIGRATION_FT_PRIMARY_FSM_H
#define MIGRATION_FT_PRIMARY_FSM_H

#include "qapi/error.h"

typedef enum FtPriState {
    FT_PRI_INACTIVE,
    FT_PRI_SETUP,
    FT_PRI_SYNC,
    FT_PRI_PROTECTED,
    FT_PRI_UNPROTECTED,
    FT_PRI_FENCED,
} FtPriState;

typedef struct FtPriParams {
    int64_t epoch_us;           /* length of an epoch */
    int64_t min_run_us;         /* the guest runs at least this long */
    int64_t ack_timeout_us;     /* oldest epoch unacknowledged: lost */
    int64_t setup_timeout_us;   /* connect and handshake */
    unsigned depth;             /* epochs in flight, 1..FT_PRI_DEPTH_MAX */
} FtPriParams;

#define FT_PRI_DEPTH_MAX 16

/*
 * How long the control connection is listened to before silence, or the end
 * of the data connection, is taken for the loss of the backup.  It may hold
 * the backup's request to stop: a process that was itself stopped for a
 * while must hear that first.
 */
#define FT_PRI_GRACE_US 100000

typedef struct FtPriOps {
    /* The state has changed; @reason is for people. */
    void (*state)(void *opaque, FtPriState state, const char *reason);
    /* Pause, capture, resume, queue.  false: could not (guest not running
     * in a way that allows it); it is tried again at the next epoch. */
    bool (*take_epoch)(void *opaque, uint64_t epoch);
    /* The guest must stand still until the pipeline has room. */
    void (*stall)(void *opaque, bool on);
    /* The backup holds @epoch: its output may leave. */
    void (*commit)(void *opaque, uint64_t epoch);
    void (*release_all)(void *opaque);
    void (*drop_all)(void *opaque);
    /* Tell the peer, as far as the link still goes; never waits long. */
    void (*send_disarm)(void *opaque, const char *reason);
    void (*send_fenced)(void *opaque);
    /* The session is over: close the links. */
    void (*end)(void *opaque);
} FtPriOps;

typedef struct FtPri {
    const FtPriOps *ops;
    void *opaque;
    FtPriParams params;
    FtPriState state;
    bool dead;                  /* ended, waits to be freed */
    bool output_held;           /* since epoch 1 was taken */
    bool withheld;              /* set in take_epoch(1): it is not sent yet */
    bool stalled;
    bool early;                 /* output waits: end the epoch soon */
    bool full;                  /* a limit was reached: end it now */
    uint64_t taken;             /* last epoch taken, 0: none */
    uint64_t acked;             /* last epoch acknowledged */
    int64_t taken_at[FT_PRI_DEPTH_MAX];
    int64_t epoch_began;        /* the guest runs in it since */
    int64_t setup_began;
    int64_t stall_began;
    int64_t asked;              /* when the next poll should be, 0: none */
    int64_t grace;              /* the peer is not silent before that */
    bool grace_given;           /* once until the next acknowledgement */
    int64_t data_lost;          /* when that counts as a loss, 0: it is up */
    uint64_t stalls;
    int64_t stall_us;
    uint64_t early_epochs;
} FtPri;

void ft_pri_init(FtPri *p, const FtPriOps *ops, void *opaque,
                 const FtPriParams *params);

/* Epochs taken and not acknowledged. */
unsigned ft_pri_in_flight(const FtPri *p);

/* A name for people and for QMP: "inactive", "setup", ... */
const char *ft_pri_state_name(FtPriState state);

void ft_pri_start(FtPri *p, int64_t now);
void ft_pri_connected(FtPri *p, int64_t now);
/* Little enough is left of the first copy: take epoch 1 now. */
void ft_pri_sync_done(FtPri *p, int64_t now);
/* Epoch 1, which was withheld, is sent now: its deadline begins. */
void ft_pri_first_sent(FtPri *p, int64_t now);
/* Take an epoch now, if there is room for it; returns its number or 0. */
uint64_t ft_pri_take_now(FtPri *p, int64_t now);
/* The first item of output was held in the open epoch. */
void ft_pri_output_waiting(FtPri *p);
/* The dirty set or the held output has reached its limit. */
void ft_pri_output_full(FtPri *p);
void ft_pri_ack(FtPri *p, uint64_t epoch, int64_t now);
/* The control connection has ended: nothing more can come from the backup. */
void ft_pri_link_lost(FtPri *p, const char *reason);
/* The data connection has ended; poll() draws the conclusion. */
void ft_pri_data_lost(FtPri *p, int64_t now);
void ft_pri_peer_disarm(FtPri *p, const char *reason);
void ft_pri_peer_failover(FtPri *p);
void ft_pri_cancel(FtPri *p, const char *reason);

/*
 * ft_pri_poll: do what time demands at @now.
 * Returns when it must be called again at the latest (INT64_MAX: never).
 * Call it also after any other event: it recomputes the deadline.
 */
int64_t ft_pri_poll(FtPri *p, int64_t now);

#endif
