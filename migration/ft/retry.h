/*
 * Fault tolerance: protecting again by itself: where and when to try
 * (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *            lost                     due, and no session is there
 *   IDLE ------------> WANTED, waits <--------------------------> trying
 *     ^                   |            inactive, unprotected, lost   |
 *     +-------------------+------------------------------------------+
 *        protected (by whomever), told to stop, no places any more
 *
 * To stop while a session lives, on its way to an end that was asked for,
 * counts for what comes of it, too.
 *
 * The places are tried in turn, one after the other; a round that was in vain
 * is followed by a rest of 1, 2, 4 .. 60 seconds.  A protection that was got
 * in this way and lasted less than FT_RETRY_CALM_MS counts as a try in vain,
 * or a backup that dies of what it is sent would get the whole of the guest
 * again and again.
 *
 * Locking: the caller's.  Times in milliseconds of one monotonic clock.
 */

#ifndef MIGRATION_FT_RETRY_H
#define MIGRATION_FT_RETRY_H

#include "qapi/qapi-types-ft.h"

#define FT_RETRY_REST_MS      1000
#define FT_RETRY_REST_MAX_MS  60000
/* The old session is being freed, or there is somebody else's. */
#define FT_RETRY_BUSY_MS      250
#define FT_RETRY_CALM_MS      60000

typedef struct FtRetry {
    unsigned count;             /* places */
    bool wanted;                /* it was lost, and nobody has said stop */
    bool stopped;               /* somebody has, for this session */
    bool trying;
    bool ours;                  /* the last protection was got by a try */
    unsigned next;              /* the place that is tried next, or now */
    unsigned rounds;            /* in vain, one after the other */
    uint64_t tries;             /* since the guest lost its protection */
    int64_t due;                /* when to try next */
    int64_t protected_at;
} FtRetry;

/* There are @count places from now on, all of them new. */
void ft_retry_places(FtRetry *r, unsigned count, int64_t now);

/* The guest goes on without the other side, which was lost. */
void ft_retry_lost(FtRetry *r, int64_t now);

/* A session, ours or not, came to @state. */
void ft_retry_state(FtRetry *r, FtState state, int64_t now);

/* The try that is under way was in vain. */
void ft_retry_failed(FtRetry *r, int64_t now);

/* True if there was something to stop. */
bool ft_retry_stop(FtRetry *r);

/* Something is to be done, now or later. */
bool ft_retry_active(const FtRetry *r);

/* When ft_retry_poll() should be called; INT64_MAX: no need to. */
int64_t ft_retry_due(const FtRetry *r);

/*
 * ft_retry_poll: returns the place to try now (it counts as being tried until
 * ft_retry_state() or ft_retry_failed() say what came of it), or -1.  @busy:
 * there is a session, so that none can be started.
 */
int ft_retry_poll(FtRetry *r, bool busy, int64_t now);

#endif
