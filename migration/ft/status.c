/*
 * Fault tolerance: parts of query-ft that both sides have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "status.h"

FtArbiterStatus *ft_status_arbiter(const FtSession *s)
{
    FtArbiterStatus *st;
    FtArbiterState now = { 0 };

    if (!s || !s->arbiter) {
        return NULL;
    }
    st = g_new0(FtArbiterStatus, 1);
    st->arbiter = g_strdup(s->arbiter_spec);
    st->two_live_sides_possible = !strcmp(st->arbiter, "none");
    ft_arbiter_state(s->arbiter, &now);
    if (now.tried && !st->two_live_sides_possible) {
        st->has_reachable = st->has_age_ms = true;
        st->reachable = now.reachable;
        st->age_ms = now.age_ms;
    }
    st->reason = g_steal_pointer(&now.reason);
    return st;
}

FtHeartStatus *ft_status_heart(FtPulse *p)
{
    FtHeartStatus *st;
    FtPulseStats now;

    if (!p) {
        return NULL;
    }
    ft_pulse_stats(p, &now);
    st = g_new0(FtHeartStatus, 1);
    st->sent = now.sent;
    st->heard = now.heard;
    st->age_ms = now.heard_age_us / 1000;
    st->rtt_us = now.rtt_us;
    st->gap_max_ms = now.gap_max_us / 1000;
    st->muted = now.muted;
    return st;
}

double ft_status_ms(int64_t from, int64_t to)
{
    return to > from ? (to - from) / 1000.0 : 0;
}
