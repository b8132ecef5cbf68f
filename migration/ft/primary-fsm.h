/*
 * Fault tolerance: the primary's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *  INACTIVE --start--> SETUP --connected--> SYNC --ack(1)--> PROTECTED
 *     ^                  |                   |                   |
 *     |                  |                   | lost, and epoch 1 | lost, cancel
 *     +------------------+--lost, cancel-----+ was sent          |
 *     |                                      v                   |
 *     |                                    CLAIMING <------------+
 *     +---after a cancel or in SYNC-----------+|
 *          UNPROTECTED <--claim won, backup----+|
 *                         left in order         |
 *               FENCED <--claim lost, backup----+
 *                         has taken over
 *
 *  event            SETUP     SYNC       PROTECTED             CLAIMING
 *  connected        -> SYNC   error      error                 -
 *  sync_done        error     epoch 1    error                 -
 *  poll, time up    lost      lost (ack  epoch taken | stall   asks the arbiter
 *                             late) (1)                        after a cancel
 *  poll, no room    -         stall      epoch taken | stall   stall
 *  for more output            (epoch 1
 *                             is taken)
 *  ack(e)           lost      e=1: ->    commit e, in order    -
 *                             PROTECTED  only, with the lease
 *  ack(other)       lost      lost       lost                  -
 *  data or heart-   lost      lost (2)   as link lost, but     -
 *  beats' connection                     after the control
 *  has ended                             connection had time
 *                                        to say more
 *  silent, link     INACTIVE  INACTIVE   -> CLAIMING           -
 *  lost (control)             or (2)
 *  peer's disarm,   INACTIVE  INACTIVE   release               release, go on
 *  peer's error                          -> UNPROTECTED
 *  peer's failover  INACTIVE  INACTIVE   drop -> FENCED        - | FENCED (3)
 *                             or FENCED
 *                             (2)
 *  claim won        -         -          -                     release, go on
 *  claim lost       -         -          -                     drop -> FENCED
 *  claim unknown    -         -          -                     stays, output
 *                                                              held, told
 *  cancel, guest    INACTIVE  INACTIVE   disarm -> CLAIMING,   refused, unless
 *  shut down                  or (2)     asks the arbiter if   forced: goes on
 *                                        no answer comes
 *
 * (1) but not while epoch 1 is withheld; (2) CLAIMING (FENCED) if epoch 1 was
 * sent: the backup may hold it; (3) FENCED if the backup has the claim, or this
 * side has not asked for it yet.
 *
 * Output is held from the moment epoch 1 is taken (still in SYNC) and is
 * released to nobody but by a commit, or by one of these: the claim is won,
 * the backup has said that it will never take over (disarm, error), or the
 * operator vouches for it.
 *
 * A commit releases only with the heartbeats' lease: an acknowledgement that
 * a hung process finds when it wakes up is history by then.
 *
 * Locking: the caller's (the BQL in QEMU) around every call.  All times are
 * in microseconds of one monotonic clock that the caller passes in.
 */

#ifndef MIGRATION_FT_PRIMARY_FSM_H
#define MIGRATION_FT_PRIMARY_FSM_H

#include "arbiter.h"

typedef enum FtPriState {
    FT_PRI_INACTIVE,
    FT_PRI_SETUP,
    FT_PRI_SYNC,
    FT_PRI_PROTECTED,
    FT_PRI_CLAIMING,
    FT_PRI_UNPROTECTED,
    FT_PRI_FENCED,
} FtPriState;

typedef struct FtPriParams {
    int64_t epoch_us;           /* length of an epoch */
    int64_t min_run_us;         /* the guest runs at least this long */
    int64_t ack_timeout_us;     /* oldest epoch unacknowledged: lost */
    int64_t setup_timeout_us;   /* connect and handshake */
    int64_t disarm_wait_us;     /* for the backup's answer to a disarm, then
                                 * the arbiter is asked */
    unsigned depth;             /* epochs in flight, 1..FT_PRI_DEPTH_MAX */
} FtPriParams;

#define FT_PRI_DEPTH_MAX 16
#define FT_PRI_WHY_MAX  512

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
    /* Can the backup not have given this side up?  When not, it is said by
     * ft_pri_lease_renewed() that it is so again. */
    bool (*leased)(void *opaque);
    /* Ask the arbiter; the answers come by ft_pri_claimed(). */
    void (*claim)(void *opaque);
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
    uint64_t released;          /* last epoch whose output was let out */
    int64_t taken_at[FT_PRI_DEPTH_MAX];
    int64_t epoch_began;        /* the guest runs in it since */
    int64_t setup_began;
    int64_t stall_began;
    int64_t asked;              /* when the next poll should be, 0: none */
    int64_t grace;              /* the peer is not silent before that */
    bool grace_given;           /* once until the next acknowledgement */
    int64_t conn_lost;          /* when one that has ended counts as a loss,
                                 * 0: they are up */
    FtPriState after;           /* CLAIMING: what comes if this side goes on */
    bool claim_asked;           /* the arbiter was */
    int64_t claim_at;           /* CLAIMING, not asked yet: when it will be */
    char why[FT_PRI_WHY_MAX];   /* the session ends */
    uint64_t stalls;
    int64_t stall_us;
    uint64_t early_epochs;
} FtPri;

void ft_pri_init(FtPri *p, const FtPriOps *ops, void *opaque,
                 const FtPriParams *params);

/* Epochs taken and not acknowledged. */
unsigned ft_pri_in_flight(const FtPri *p);

/* May the backup have something to take over from? */
bool ft_pri_sent(const FtPri *p);

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
void ft_pri_lease_renewed(FtPri *p);
/* The backup is lost: silent, or the control connection has ended. */
void ft_pri_lost(FtPri *p, const char *reason);
/* Another connection has ended; poll() draws the conclusion. */
void ft_pri_conn_lost(FtPri *p, const char *reason, int64_t now);
/* The backup will never take over: it said so (disarm, error). */
void ft_pri_peer_gone(FtPri *p, const char *reason);
/* @claimed: the arbiter has given it the next generation. */
void ft_pri_peer_failover(FtPri *p, bool claimed);
/* What the arbiter says; @text as in FtClaimFn. */
void ft_pri_claimed(FtPri *p, FtClaim claim, const char *text);
/*
 * End in order: tell the backup and wait for its answer or the arbiter's.
 * @force: wait for neither.  False: the session is ending already, and only
 * the arbiter's word is missing.
 */
bool ft_pri_cancel(FtPri *p, const char *reason, bool force, int64_t now);

/*
 * ft_pri_poll: do what time demands at @now.
 * Returns when it must be called again at the latest (INT64_MAX: never).
 * Call it also after any other event: it recomputes the deadline.
 */
int64_t ft_pri_poll(FtPri *p, int64_t now);

#endif
