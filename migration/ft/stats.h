/*
 * Fault tolerance: counters and histograms (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A histogram has 16 buckets per power of two of microseconds: an error of
 * at most 1/16, whatever the range.  Written by one thread (main loop).
 */

#ifndef MIGRATION_FT_STATS_H
#define MIGRATION_FT_STATS_H

#define FT_HIST_SUB     16
#define FT_HIST_BUCKETS (FT_HIST_SUB * 33)

typedef struct FtHist {
    uint64_t bucket[FT_HIST_BUCKETS];
    uint64_t count;
    uint64_t sum;
    uint64_t max;
} FtHist;

void ft_hist_add(FtHist *h, int64_t us);
/* The value at or below which @permille of 1000 samples lie; 0 if empty. */
uint64_t ft_hist_quantile(const FtHist *h, unsigned permille);
uint64_t ft_hist_mean(const FtHist *h);

typedef struct FtStats {
    uint64_t epochs;
    FtHist pause;               /* whole pause */
    FtHist pause_stop, pause_harvest, pause_copy, pause_devices, pause_resume;
    FtHist commit;              /* end of epoch to acknowledgement */
    FtHist dirty;               /* pages per epoch (not microseconds) */
    uint64_t device_bytes;      /* last epoch */
    uint64_t wire_bytes;
} FtStats;

#endif
