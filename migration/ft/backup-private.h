/*
 * Fault tolerance: what the files of the backup share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   backup.c       threads, events, handshake, start and end
 *   backup-ops.c   what the state machine asks for: stage, apply, claim
 *   takeover.c     from the claim to a running guest
 *
 * Threads and who may touch what:
 *
 *   data thread       reads the data connection, stages, acknowledges and
 *                     applies: guest RAM is written by it alone, in order,
 *                     so that the end of the connection is seen after the
 *                     last whole epoch has been applied
 *   control thread    reads the control connection
 *   pulse thread      heartbeats (pulse.c)
 *   arbiter's thread  (arbiter.c)
 *   main loop (BQL)   handshake results, events, commands, takeover
 *
 * The state machine is under "lock".  Its ops are called with the lock and
 * without the BQL (but for commands); what needs the BQL is posted to the
 * main loop.  The arbiter's answers are posted, too: with "none" they come
 * from within the question, with the lock held.
 *
 *   staged[] --apply--> guest RAM        open epoch, committed epoch
 *   devices_open --apply--> devices      kept as bytes until the takeover
 */

#ifndef MIGRATION_FT_BACKUP_PRIVATE_H
#define MIGRATION_FT_BACKUP_PRIVATE_H

#include "backup-fsm.h"
#include "clock.h"
#include "pulse.h"
#include "script.h"
#include "session.h"

/* Exit status of a side that has lost the claim. */
#define FT_EXIT_FENCED          3

typedef struct FtBackupEvent {
    enum {
        FT_BACKUP_STATE,
        FT_BACKUP_CLAIM,
        FT_BACKUP_TAKEOVER,
        FT_BACKUP_DISCARD,
    } kind;
    FtBakState state;
    FtBakEnd end;
    FtClaim claim;
    char *text;
    QSIMPLEQ_ENTRY(FtBackupEvent) next;
} FtBackupEvent;

/* Phases of a takeover, takeover.c's: what has to be done next. */
typedef enum FtTakeoverPhase {
    FT_TAKEOVER_SCRIPT,
    FT_TAKEOVER_DISKS,
    FT_TAKEOVER_DEVICES,
} FtTakeoverPhase;

typedef struct FtTakeoverRun {
    FtTakeoverPhase phase;
    FtTakeover *status;         /* for query-ft; filled in as it goes */
    int64_t began;              /* the decision, us */
    int64_t phase_began;
    FtScript *script;
    QEMUTimer *timer;           /* to try again */
    bool lock_told;             /* that an image is locked */
    FtClock clock;              /* of the epoch that is taken over */
} FtTakeoverRun;

struct FtBackup {
    FtSession *session;
    FtListener *listener;
    FtMachine *machine;
    FtBlockTable table;
    FtLinks links;
    FtPulse *pulse;
    FtHeartParams heart;
    int user_timeout_ms;
    FtDisks *disks;
    QEMUBH *bh;
    QEMUTimer *timer;
    QemuThread data_thread, control_thread;
    bool threads;
    bool finishing;             /* ended in order, but for the images */
    FtTakeoverRun run;

    QemuMutex events_lock;      /* taken last */
    QSIMPLEQ_HEAD(, FtBackupEvent) events;

    QemuMutex lock;             /* all below */
    FtBak fsm;
    int64_t lost_at;            /* when the primary was found to be lost */
    int64_t heard_at;           /* and when it was last heard of */
    FtMoment began_at;          /* the session, for the rate of ticks */
    FtMoment committed_at;      /* when the last epoch's clocks were read, as
                                 * far as that is known here */
    GPtrArray *staged;          /* GByteArray: payloads of PAGES frames */
    unsigned staged_count;      /* so many are in use, the rest is spare */
    GByteArray *devices_open;
    GByteArray *devices;
    FtRecords journal;          /* of the open epoch */
    uint64_t hashes;
    uint64_t applied_pages;     /* of the epoch that is being applied */
    uint64_t apply_half;
};

/* backup.c: for the main loop; the text is copied.  Any thread. */
void ft_backup_post(FtBackup *b, FtBackupEvent ev);
/* backup.c: ends the threads' I/O and waits for them; they never take the
 * BQL.  Main loop. */
void ft_backup_stop_threads(FtBackup *b);

extern const FtBakOps ft_backup_ops;

/*
 * ft_takeover_begin: the state machine has said so: script, disks, devices,
 * run; what cannot be done yet is tried again from timers.  Ends with
 * ft_bak_running(), or ft_bak_takeover_failed().  BQL held, main loop.
 */
void ft_takeover_begin(FtBackup *b);
void ft_takeover_free(FtTakeoverRun *run);

#endif
