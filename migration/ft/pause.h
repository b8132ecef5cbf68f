/*
 * Fault tolerance: stopping the guest for the end of an epoch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_PAUSE_H
#define MIGRATION_FT_PAUSE_H

#include "disks.h"

typedef struct FtPauseState {
    int64_t stopped_at;         /* ft_now_us(), when QEMU's clocks stood */
    bool was_running;           /* else the guest stood still anyway */
    int64_t ticks, clock;       /* the guest's clocks before the pause */
} FtPauseState;

/*
 * Both: main loop, BQL. Requests to @disks (NULL is fine) that are not done
 * are parked; all other drives' are waited for.
 */
void ft_pause_begin(FtPauseState *ps, FtDisks *disks);
void ft_pause_end(FtPauseState *ps, FtDisks *disks);

#endif
