/*
 * Fault tolerance: protecting again by itself: where and when to try
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * States and rules: see retry.h.
 */

#include "qemu/osdep.h"
#include "retry.h"

static int64_t rest(unsigned rounds)
{
    unsigned shift = MIN(rounds - 1, 16);

    return MIN((int64_t)FT_RETRY_REST_MS << shift, FT_RETRY_REST_MAX_MS);
}

/* On to the next place. */
static void in_vain(FtRetry *r, int64_t now)
{
    r->trying = false;
    r->due = now;
    if (!r->count) {
        return;
    }
    r->next = (r->next + 1) % r->count;
    if (!r->next) {
        r->rounds++;
        r->due = now + rest(r->rounds);
    }
}

void ft_retry_places(FtRetry *r, unsigned count, int64_t now)
{
    r->count = count;
    r->next = 0;
    r->rounds = 0;
    r->due = now;
    /*
     * A try that is under way goes on; should it be in vain, the first of the
     * new places is next.
     */
    if (r->trying && count) {
        r->next = count - 1;
    }
}

void ft_retry_lost(FtRetry *r, int64_t now)
{
    if (r->stopped) {
        return;
    }
    if (r->wanted) {
        ft_retry_failed(r, now);
        return;
    }
    r->wanted = true;
    if (r->ours && now - r->protected_at < FT_RETRY_CALM_MS) {
        in_vain(r, now);
    } else {
        r->next = 0;
        r->rounds = 0;
        r->tries = 0;
        r->due = now;
    }
    r->ours = false;
}

void ft_retry_state(FtRetry *r, FtState state, int64_t now)
{
    switch (state) {
    case FT_STATE_SETUP:
    case FT_STATE_TAKEOVER:
        r->stopped = false;
        break;
    case FT_STATE_PROTECTED:
        r->ours = r->trying;
        r->wanted = false;
        r->trying = false;
        r->protected_at = now;
        break;
    case FT_STATE_INACTIVE:
    case FT_STATE_UNPROTECTED:
        ft_retry_failed(r, now);
        break;
    case FT_STATE_FENCED:
    case FT_STATE_DISCARDED:
        ft_retry_stop(r);
        break;
    default:
        break;
    }
}

void ft_retry_failed(FtRetry *r, int64_t now)
{
    if (r->trying) {
        in_vain(r, now);
    }
}

bool ft_retry_stop(FtRetry *r)
{
    bool was = ft_retry_active(r);

    r->wanted = false;
    r->trying = false;
    r->ours = false;
    r->stopped = true;
    return was;
}

bool ft_retry_active(const FtRetry *r)
{
    return r->wanted && (r->count || r->trying);
}

int64_t ft_retry_due(const FtRetry *r)
{
    return r->wanted && r->count && !r->trying ? r->due : INT64_MAX;
}

int ft_retry_poll(FtRetry *r, bool busy, int64_t now)
{
    if (now < ft_retry_due(r)) {
        return -1;
    }
    if (busy) {
        r->due = now + FT_RETRY_BUSY_MS;
        return -1;
    }
    r->trying = true;
    r->tries++;
    return r->next;
}
