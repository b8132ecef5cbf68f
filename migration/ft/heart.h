/*
 * Fault tolerance: heartbeats: is the other side there, does it hear us
 * (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each side sends a heartbeat per interval: its number, and the highest number
 * that it has heard of the other's (the echo).
 *
 *   sent 7 at t ------------------------->  heard 7, after t
 *                                           is silent for us from
 *                                           "heard 7" + timeout on
 *   echo 7 comes  <-----------------------  sent with echo 7
 *   so until t + timeout it cannot have
 *   found us silent: the lease
 *
 * The lease is a fifth shorter than that, as the two clocks need not run
 * equally fast: the kernel lets NTP slew each of them by a tenth.  There is
 * none before the first echo: the other side may have begun to wait earlier.
 *
 * The verdict is SILENT when
 *
 * - nothing was heard for `timeout`, or
 * - one that was sent `timeout` ago was not echoed: the cable is cut one way.
 *   But the peer may have heard some of ours that it could not echo, and they
 *   made its lease longer.  So this side sends nothing from then on and waits
 *   until the lease is over for certain (ft_heart_peer_lease()), at most
 *   another `timeout`.  If the echo comes meanwhile all is well again.
 *
 * A side that stood still itself (ft_heart_poll() was called much later than
 * asked for) cannot say any of that about the other one at once: it listens
 * for FT_HEART_GRACE_US, or two intervals if that is longer, first.  The lease
 * is not stretched by that: a side that stood still has lost it.
 *
 * So while this side has a lease the other one has no verdict, however long
 * messages take or either side stands still; test-ft-heart tries to break it.
 *
 * Locking: the caller's.  Times in microseconds of one monotonic clock, which
 * must not stand still while the other side's runs: a host that is suspended,
 * or a virtual machine that is paused, should not be one of the two.
 */

#ifndef MIGRATION_FT_HEART_H
#define MIGRATION_FT_HEART_H

#include "qapi/error.h"
#include "wire.h"

#define FT_HEART_GRACE_US   100000
/* Heartbeats whose time of sending is remembered. */
#define FT_HEART_RING       256
/* So often in one silence: a side that stands still all the time comes to a
 * verdict, too. */
#define FT_HEART_GRACES     5

typedef struct FtHeartParams {
    int64_t interval_us;
    int64_t timeout_us;         /* the same on both sides; at least four
                                 * intervals, at most FT_HEART_RING of them */
    int64_t first_us;           /* the other side may be so late to begin; 0:
                                 * no later than usual */
} FtHeartParams;

typedef enum FtHeartVerdict {
    FT_HEART_BEATS,
    FT_HEART_SILENT,            /* for good: it does not come back */
} FtHeartVerdict;

typedef struct FtHeart {
    FtHeartParams params;
    uint64_t sent;              /* number of the last one, 0: none */
    uint64_t heard;             /* highest that came */
    uint64_t echoed;            /* highest that the peer has echoed */
    int64_t sent_at[FT_HEART_RING];
    int64_t heard_at;
    int64_t echoed_sent_at;     /* when `echoed` was sent, or earlier */
    int64_t waits_since;        /* when the first one after it was sent */
    int64_t told_at;            /* `heard_at` of the last one we echoed */
    int64_t next_send;
    int64_t asked;              /* when poll should be called again */
    int64_t grace;              /* no verdict before that */
    unsigned graces;            /* since one of ours was echoed */
    FtHeartVerdict verdict;
    char why[96];               /* of SILENT, for people */
} FtHeart;

/* At @now both sides are known to be there. */
void ft_heart_init(FtHeart *h, const FtHeartParams *params, int64_t now);

/*
 * ft_heart_poll: what is due at @now.  Sets *@send when @hb is to be sent
 * (then it counts as sent).  @mute: send nothing: this process is stuck, the
 * other side shall find out.  Take @now first, then read what has come, so
 * that it counts, then call this, then send.
 * Returns when to call again at the latest.
 */
int64_t ft_heart_poll(FtHeart *h, int64_t now, bool mute, bool *send,
                      FtHeartbeat *hb);

/*
 * ft_heart_received: one has come.  Take @now after it was read.  An error,
 * and nothing has changed, if its numbers cannot be: they come one after the
 * other, echoes never go back, and only what was sent is echoed.
 */
bool ft_heart_received(FtHeart *h, const FtHeartbeat *hb, int64_t now,
                       Error **errp);

/* Until when the other side cannot have found this one silent. */
int64_t ft_heart_lease(const FtHeart *h);

/*
 * ft_heart_peer_lease: from when on the other side cannot have a lease that
 * this one has given it, if nothing more is sent.  Who gives the other side
 * up on other grounds than the verdict waits until then.
 */
int64_t ft_heart_peer_lease(const FtHeart *h);

#endif
