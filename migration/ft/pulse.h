/*
 * Fault tolerance: the thread that sends and hears heartbeats
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One connection and one thread for it, which takes no lock that others hold
 * for long and never the BQL: a long pause, a monitor command or a slow disk
 * does not make this side look dead.  But a process whose main loop does not
 * come round for `stuck_us` is of no use to its guest's clients, so the
 * thread falls silent then (and speaks again when the main loop does).
 *
 * Locking: any thread, but new and free: BQL, main loop.
 */

#ifndef MIGRATION_FT_PULSE_H
#define MIGRATION_FT_PULSE_H

#include "heart.h"
#include "session.h"

/*
 * All in the pulse's thread, and not after ft_pulse_free(); must not wait.
 * Either silent() or lost() is called, once, and nothing after it.  From then
 * on the other side has no lease that it could have from this one: it has
 * closed the connection, or has died, or the lease is over.  So whoever gives
 * it up on other grounds, and cannot know that it lets nothing out any more,
 * shuts the link down and waits for lost().
 */
typedef struct FtPulseOps {
    /* Nothing is heard, or we are not. */
    void (*silent)(void *opaque, const char *reason);
    /* The connection has ended: at once when the other side has closed it or
     * has died (ft_pulse_peer_closed()), else (what came is wrong, an error,
     * ft_link_shutdown() by this side) when its lease is over: within the
     * timeout. */
    void (*lost)(void *opaque, const char *reason);
    /* The lease was over when somebody asked, and is there again. */
    void (*renewed)(void *opaque);
} FtPulseOps;

typedef struct FtPulse FtPulse;

/* Starts.  @link is the session's third connection, which the pulse alone
 * reads and writes from now on; the caller keeps his reference.  Freeing shuts
 * it down. */
FtPulse *ft_pulse_new(FtLink *link, const FtHeartParams *params,
                      int64_t stuck_us, const FtPulseOps *ops, void *opaque);
void ft_pulse_free(FtPulse *p);

/*
 * ft_pulse_peer_closed: the other side's kernel says that another connection
 * of this session was closed there.  A process that closes one has no lease
 * any more (op leased of primary-ops.c); one that dies closes all at once,
 * this one by a reset if there were heartbeats that it had not read.
 */
void ft_pulse_peer_closed(FtPulse *p);

/*
 * ft_pulse_leased: can the other side not have given this one up yet?  When
 * the answer is no, op renewed() is called once it is yes again.
 */
bool ft_pulse_leased(FtPulse *p);

typedef struct FtPulseStats {
    uint64_t sent, heard;
    int64_t heard_age_us;       /* since the last one came */
    int64_t rtt_us;             /* of the last one that was echoed */
    int64_t gap_max_us;         /* longest time between two */
    uint64_t muted;             /* how often this side was stuck */
} FtPulseStats;

void ft_pulse_stats(FtPulse *p, FtPulseStats *st);

#endif
