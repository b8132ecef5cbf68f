/*
 * Fault tolerance: the primary: what query-ft tells
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "primary-private.h"
#include "status.h"

static FtHistogram *primary_hist(const FtHist *h)
{
    FtHistogram *q = g_new0(FtHistogram, 1);

    q->count = h->count;
    q->mean = ft_hist_mean(h);
    q->p50 = ft_hist_quantile(h, 500);
    q->p99 = ft_hist_quantile(h, 990);
    q->max = h->max;
    return q;
}

void ft_primary_query(FtPrimary *p, FtStatus *st)
{
    const FtStats *s = &p->stats;
    int64_t now = ft_now_us();
    FtOutputStats out;

    ft_output_stats(p->output, &out);
    st->has_epoch = st->has_committed = st->has_in_flight = true;
    st->epoch = p->fsm.taken;
    st->committed = p->fsm.acked;
    st->in_flight = ft_pri_in_flight(&p->fsm);
    st->epoch_us = p->params.epoch_us;
    if (p->sync_total) {
        uint64_t sent = ft_sender_sync_pages(p->sender);
        bool over = p->fsm.state != FT_PRI_SYNC;
        int64_t us = (over ? p->protected_at : now) - p->sync_began;

        st->has_sync_percent = st->has_sync_rate = true;
        st->sync_percent = over ? 100 : MIN(99, sent * 100 / p->sync_total);
        st->sync_rate = us > 0 ? sent * FT_PAGE_SIZE * 1000000 / us : 0;
    }
    if (p->fsm.state == FT_PRI_PROTECTED) {
        st->has_epochs_per_second = true;
        st->epochs_per_second = s->epochs * 1e6 /
                                MAX(now - p->protected_at, 1);
        st->has_dirty_tracking = true;
        st->dirty_tracking = ft_capture_how();
        st->has_dirty_mean = st->has_dirty_p99 = true;
        st->dirty_mean = ft_hist_mean(&s->dirty);
        st->dirty_p99 = ft_hist_quantile(&s->dirty, 990);
        st->has_device_bytes = true;
        st->device_bytes = s->device_bytes;
        st->pause = g_new0(FtPause, 1);
        st->pause->total = primary_hist(&s->pause);
        st->pause->stop = primary_hist(&s->pause_stop);
        st->pause->harvest = primary_hist(&s->pause_harvest);
        st->pause->copy = primary_hist(&s->pause_copy);
        st->pause->devices = primary_hist(&s->pause_devices);
        st->pause->resume = primary_hist(&s->pause_resume);
        st->commit = primary_hist(&s->commit);
    }
    ft_disks_query(p->disks, st);
    st->has_held_packets = st->has_held_bytes = true;
    st->held_packets = out.held_items;
    st->held_bytes = out.held_bytes;
    st->has_released_packets = true;
    st->released_packets = out.released_items;
    st->has_early_epochs = st->has_stalls = st->has_stall_us = true;
    st->early_epochs = p->fsm.early_epochs;
    st->stalls = p->fsm.stalls;
    st->stall_us = p->fsm.stall_us;
    st->has_generation = true;
    st->generation = p->session->generation;
    st->arbiter = ft_status_arbiter(p->session);
    st->heart = ft_status_heart(p->pulse);
    if (p->sender) {
        const FtEncodeStats *encoded = ft_sender_encoded(p->sender);

        st->has_pages_zero = st->has_pages_raw = true;
        st->pages_zero = encoded->pages[FT_PAGE_ZERO];
        st->pages_raw = encoded->pages[FT_PAGE_RAW];
        st->has_wire_bytes = true;
        st->wire_bytes = ft_link_bytes_sent(p->links.data);
    }
}
