/*
 * Fault tolerance: counters and histograms (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Values below FT_HIST_SUB have a bucket each.  From there on every power of
 * two is cut into FT_HIST_SUB buckets: the number of the power chooses the
 * group, the bits after the leading one choose the bucket in it.  No locks:
 * one thread writes, and whoever reads meanwhile is a sample off at most.
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "stats.h"

#define SUB_BITS 4

QEMU_BUILD_BUG_ON(FT_HIST_SUB != 1 << SUB_BITS);

/* The last bucket has no top: values of 2^36 and more are in it too. */
#define LAST_POWER (FT_HIST_BUCKETS / FT_HIST_SUB - 2 + SUB_BITS)

static unsigned bucket_of(uint64_t v)
{
    unsigned power;

    if (v < FT_HIST_SUB) {
        return v;
    }
    power = 63 - clz64(v);
    if (power > LAST_POWER) {
        return FT_HIST_BUCKETS - 1;
    }
    return (power - SUB_BITS + 1) * FT_HIST_SUB +
           ((v >> (power - SUB_BITS)) & (FT_HIST_SUB - 1));
}

/* The largest value of a bucket. */
static uint64_t bucket_top(unsigned i)
{
    unsigned shift;
    uint64_t low;

    if (i < FT_HIST_SUB) {
        return i;
    }
    if (i == FT_HIST_BUCKETS - 1) {
        return UINT64_MAX;
    }
    shift = i / FT_HIST_SUB - 1;
    low = (uint64_t)(FT_HIST_SUB + i % FT_HIST_SUB) << shift;
    return low + (1ull << shift) - 1;
}

void ft_hist_add(FtHist *h, int64_t us)
{
    uint64_t v = MAX(us, 0);

    h->bucket[bucket_of(v)]++;
    h->count++;
    h->sum += v;
    h->max = MAX(h->max, v);
}

uint64_t ft_hist_quantile(const FtHist *h, unsigned permille)
{
    uint64_t seen = 0;
    uint64_t rank;

    if (!h->count) {
        return 0;
    }
    permille = MIN(permille, 1000);
    /* Rounded up, without the overflow of count * permille. */
    rank = h->count / 1000 * permille +
           DIV_ROUND_UP(h->count % 1000 * permille, 1000);
    rank = MAX(rank, 1);

    for (unsigned i = 0; i < FT_HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank) {
            return MIN(bucket_top(i), h->max);
        }
    }
    return h->max;
}

uint64_t ft_hist_mean(const FtHist *h)
{
    return h->count ? h->sum / h->count : 0;
}
