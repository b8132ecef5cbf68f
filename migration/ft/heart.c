/*
 * Fault tolerance: heartbeats: is the other side there, does it hear us
 * (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Why the lease holds (t: time at which things happen, whatever the clocks
 * say): this side sends n at s or later, the peer hears it at h > s, echoes it
 * and comes to no verdict before h + timeout, be it for silence or for want
 * of an echo (`told_at` is h, and only a heartbeat that is sent moves it).
 * The lease that the echo of n gives ends at s + 4/5 timeout by our clock,
 * which even if that is slow by a tenth and the peer's fast by a tenth is
 * before h + timeout.  Each time is taken on the safe side: s before it is
 * sent, h after it was read.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "heart.h"

void ft_heart_init(FtHeart *h, const FtHeartParams *params, int64_t now)
{
    *h = (FtHeart) {
        .params = *params,
        .heard_at = now,
        /* No lease, for neither side. */
        .echoed_sent_at = now - params->timeout_us,
        .told_at = now - params->timeout_us,
        .next_send = now,
        .asked = now,
        .grace = now,
        .verdict = FT_HEART_BEATS,
    };
}

static int64_t heart_silent(FtHeart *h, int64_t now)
{
    int64_t quiet = now - h->heard_at;

    h->verdict = FT_HEART_SILENT;
    if (quiet >= h->params.timeout_us) {
        snprintf(h->why, sizeof(h->why),
                 "nothing was heard from the other side for %" PRId64 " ms",
                 quiet / 1000);
    } else {
        snprintf(h->why, sizeof(h->why),
                 "the other side has not heard this one for %" PRId64 " ms",
                 (now - h->waits_since) / 1000);
    }
    return INT64_MAX;
}

static void heart_send(FtHeart *h, int64_t now, FtHeartbeat *hb)
{
    if (h->sent == h->echoed) {
        h->waits_since = now;
    }
    h->sent++;
    h->sent_at[h->sent % FT_HEART_RING] = now;
    h->next_send += h->params.interval_us;
    if (h->next_send <= now) {
        /* What was missed is not made up for. */
        h->next_send = now + h->params.interval_us;
    }
    if (h->heard) {
        h->told_at = h->heard_at;
    }
    *hb = (FtHeartbeat) { .number = h->sent, .echo = h->heard };
}

int64_t ft_heart_poll(FtHeart *h, int64_t now, bool mute, bool *send,
                      FtHeartbeat *hb)
{
    const FtHeartParams *p = &h->params;
    int64_t timeout = h->heard ? p->timeout_us :
                                 MAX(p->timeout_us, p->first_us);
    int64_t next, unheard;

    *send = false;
    if (h->verdict == FT_HEART_SILENT) {
        return INT64_MAX;
    }

    if (now - h->asked > p->timeout_us / 4 && h->graces < FT_HEART_GRACES) {
        h->graces++;
        h->grace = now + MAX(FT_HEART_GRACE_US, 2 * p->interval_us);
    }

    /* From when on the peer does not seem to hear us. */
    unheard = h->sent == h->echoed ? INT64_MAX :
              MAX(h->waits_since + timeout, h->grace);
    next = MAX(h->heard_at + timeout, h->grace);
    if (now >= unheard) {
        /* Never later than for silence: only what was heard is echoed. */
        next = ft_heart_peer_lease(h);
    }
    if (now >= next) {
        return heart_silent(h, now);
    }

    if (now >= unheard) {
        /* Nothing that would make its lease longer. */
    } else if (mute) {
        /* Nobody says when that is over. */
        next = MIN(next, now + p->interval_us);
    } else {
        if (now >= h->next_send) {
            heart_send(h, now, hb);
            *send = true;
        }
        next = MIN(next, h->next_send);
    }
    if (now < unheard) {
        next = MIN(next, unheard);
    }
    h->asked = next;
    return next;
}

bool ft_heart_received(FtHeart *h, const FtHeartbeat *hb, int64_t now,
                       Error **errp)
{
    /* Nothing is lost on the way, so no number can be left out. */
    if (hb->number != h->heard + 1) {
        error_setg(errp, "heartbeat %" PRIu64 " came where %" PRIu64
                   " was due", hb->number, h->heard + 1);
        return false;
    }
    if (hb->echo > h->sent) {
        error_setg(errp, "heartbeat %" PRIu64 " echoes %" PRIu64 ", but only "
                   "%" PRIu64 " have been sent", hb->number, hb->echo,
                   h->sent);
        return false;
    }
    if (hb->echo < h->echoed) {
        error_setg(errp, "heartbeat %" PRIu64 " echoes %" PRIu64 " after "
                   "%" PRIu64, hb->number, hb->echo, h->echoed);
        return false;
    }

    if (hb->echo > h->echoed || h->sent == h->echoed) {
        h->graces = 0;
    }
    if (!h->heard && h->params.first_us) {
        /* It has begun just now, and could not echo anything before. */
        h->waits_since = now;
    }
    h->heard = hb->number;
    h->heard_at = now;
    if (hb->echo > h->echoed) {
        uint64_t waits = hb->echo + 1;

        if (h->sent - hb->echo < FT_HEART_RING) {
            h->echoed_sent_at = h->sent_at[hb->echo % FT_HEART_RING];
        } else {
            /* It is not known any more; the old time is earlier. */
            waits = h->sent - FT_HEART_RING + 1;
        }
        if (hb->echo < h->sent) {
            h->waits_since = h->sent_at[waits % FT_HEART_RING];
        }
        h->echoed = hb->echo;
    }
    return true;
}

int64_t ft_heart_lease(const FtHeart *h)
{
    return h->echoed_sent_at + h->params.timeout_us -
           h->params.timeout_us / 5;
}

int64_t ft_heart_peer_lease(const FtHeart *h)
{
    return h->told_at + h->params.timeout_us;
}
