/*
 * Fault tolerance: die at a chosen moment, for tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A point that is not armed costs one relaxed load.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "session.h"

/* Dies when a point is reached for the so-many-th time; 0: not armed. */
static uint64_t armed[FT_FAULT_POINT__MAX];

void ft_inject(FtFaultPoint point)
{
    uint64_t left = qatomic_read(&armed[point]);

    while (left) {
        uint64_t seen = qatomic_cmpxchg(&armed[point], left, left - 1);

        if (seen == left) {
            break;
        }
        left = seen;
    }
    if (left == 1) {
        kill(getpid(), SIGKILL);
        /* Nothing may be done after the point, not even by this thread. */
        for (;;) {
            pause();
        }
    }
}

bool ft_inject_is_armed(FtFaultPoint point)
{
    return qatomic_read(&armed[point]) != 0;
}

void ft_inject_arm(FtFaultPoint point, uint64_t after)
{
    qatomic_set(&armed[point], after);
}
