/*
 * Fault tolerance: what the files of the primary share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   primary.c          events from the threads, main loop, start and end
 *   primary-ops.c      what the state machine asks for: pause, release, fence
 *   primary-setup.c    connecting, in a thread of its own
 *   primary-status.c   what query-ft tells
 *
 * Threads and who may touch what:
 *
 *   main loop (BQL)   the state machine, capture, output; all that changes
 *                     the guest.  Being the main loop, it cannot be in the
 *                     middle of a reset or a monitor command at a pause.
 *   setup thread      connects, shakes hands, asks the arbiter; owns its
 *                     FtSetup only
 *   sender thread     encodes and sends (sender.c)
 *   ack thread        reads the control connection
 *   pulse thread      heartbeats (pulse.c)
 *   arbiter's thread  (arbiter.c)
 *   vCPU threads      say that a dirty ring is full (ft_dirty_full, BQL)
 *
 * Threads never take the BQL: they post events, which the main loop works
 * off in a bottom half of the iohandler context (that one does not run in
 * bdrv_drain(), so never inside a pause).
 */

#ifndef MIGRATION_FT_PRIMARY_PRIVATE_H
#define MIGRATION_FT_PRIMARY_PRIVATE_H

#include "primary-fsm.h"
#include "pulse.h"
#include "sender.h"
#include "session.h"

/* Exit status of a side that has lost the claim. */
#define FT_EXIT_FENCED          3

typedef enum FtPrimaryEventKind {
    FT_PRIMARY_SYNC_PASS,
    FT_PRIMARY_ACK,
    FT_PRIMARY_LOST,            /* silent, or the control connection ended */
    FT_PRIMARY_CONN_LOST,       /* another one */
    FT_PRIMARY_GONE,            /* the backup will never take over */
    FT_PRIMARY_FAILOVER,        /* value: it has the claim */
    FT_PRIMARY_LEASED,
    FT_PRIMARY_CLAIM,           /* value: FtClaim */
} FtPrimaryEventKind;

typedef struct FtPrimaryEvent {
    FtPrimaryEventKind kind;
    uint64_t value;             /* ACK: the epoch */
    uint64_t settled;           /* ACK */
    char *text;
    QSIMPLEQ_ENTRY(FtPrimaryEvent) next;
} FtPrimaryEvent;

/* What the setup thread owns; outlives the session if that ends first. */
typedef struct FtSetup {
    FtPrimary *primary;         /* BQL; NULL: nobody waits any more */
    SocketAddress *addr;
    FtTls *tls;
    QemuUUID uuid;
    uint64_t generation;
    char *fingerprint;
    FtArbiter *arbiter;         /* a reference */
    char *proof;                /* to be published there */
    int user_timeout_ms;        /* of data and control */
    int heart_timeout_ms;
    FtLinks links;
    uint8_t token[16];          /* for further connections */
    unsigned drives;
    bool *copied;               /* [drives]: is copied by a connection */
    QIOChannelSocket **disk;    /* [drives]: of its own, or NULL */
    Error *err;
} FtSetup;

struct FtPrimary {
    FtSession *session;
    FtPri fsm;
    FtParams params;
    FtMachine *machine;
    FtCapture *capture;
    FtOutput *output;
    FtDisks *disks;
    FtSetup *setup;
    FtLinks links;
    QEMUTimer *timer;
    QEMUBH *bh;
    bool held;                  /* filters are attached */
    bool flush_waits;           /* atomic: a flush is parked */
    bool sync_waits;            /* the first copy waits for the disks */
    bool stands;                /* the backup has it as it stands still */
    bool ended;
    Error *broken;              /* an epoch could not be taken */
    FtStats stats;
    int64_t protected_at;
    /* first copy */
    uint64_t sync_left;
    unsigned sync_stuck;
    int64_t sync_began;
    uint64_t sync_total;
    /* between the threads, under lock */
    QemuMutex lock;
    QemuCond posted;            /* an event */
    QSIMPLEQ_HEAD(, FtPrimaryEvent) events;
    FtSender *sender;
    FtPulse *pulse;             /* there is one when there is a sender */
    QemuThread acker;           /* as well */
};

/* primary-ops.c: can the backup not have given this side up?  Any thread, with
 * a pulse. */
bool ft_primary_leased(FtPrimary *p);

/* primary.c: any thread; @text is copied. */
void ft_primary_post(FtPrimary *p, FtPrimaryEventKind kind, uint64_t value,
                     const char *text);
/* primary.c: set-up is over; the main loop. */
void ft_primary_setup_done(FtPrimary *p, FtSetup *su);

extern const FtPriOps ft_primary_ops;

/* Starts the thread, which hands @su to ft_primary_setup_done() if there is
 * still somebody, and frees it. */
void ft_setup_start(FtSetup *su);
void ft_setup_free(FtSetup *su);

#endif
