/*
 * Fault tolerance: stopping the guest for the end of an epoch
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As vm_stop() and vm_start() do, but without their events and without a
 * flush of the disks: nobody asked for a stop, and it comes a hundred times
 * a second.
 */

#include "qemu/osdep.h"
#include "qemu/seqlock.h"
#include "block/block.h"
#include "exec/cpu-common.h"
#include "migration/ft.h"
#include "system/block-backend.h"
#include "system/cpus.h"
#include "system/cpu-timers.h"
#include "system/cpu-timers-internal.h"
#include "system/runstate.h"
#include "pause.h"
#include "session.h"

static bool pausing;

bool ft_pausing(void)
{
    return pausing;
}

/* Not bdrv_drain_all(), which would also stop jobs. */
void ft_drain_devices(void)
{
    BlockBackend *blk = NULL;

    while ((blk = blk_all_next(blk))) {
        if (blk_get_attached_dev(blk) && blk_bs(blk)) {
            blk_drain(blk);
        }
    }
}

void ft_pause_begin(FtPauseState *ps, FtDisks *disks)
{
    ps->was_running = runstate_check(RUN_STATE_RUNNING);
    if (!ps->was_running) {
        return;
    }
    pausing = true;
    ps->ticks = timers_state.cpu_ticks_offset;
    ps->clock = timers_state.cpu_clock_offset;
    /*
     * The order is what device models rely on: runstate, ticks, vCPUs,
     * notifiers, then the drain, which completes DMA and so dirties RAM.
     * What can be parked is so before the notifiers, as they may drain, too.
     */
    runstate_set(RUN_STATE_SAVE_VM);
    cpu_disable_ticks();
    ps->stopped_at = ft_now_us();
    pause_all_vcpus();
    /* What the guest wrote to devices, and KVM has kept back. */
    qemu_flush_coalesced_mmio_buffer();
    ft_disks_park(disks, true);
    vm_state_notify(false, RUN_STATE_SAVE_VM);
    ft_drain_devices();
}

void ft_pause_end(FtPauseState *ps, FtDisks *disks)
{
    if (!ps->was_running) {
        return;
    }
    /*
     * Give the guest the time of the pause back: with the offsets of before
     * its clocks go on as if the pause were a moment in which the host did
     * not schedule it.  The image has them as they stood in the pause.
     */
    ft_disks_park(disks, false);
    cpu_enable_ticks();
    seqlock_write_lock(&timers_state.vm_clock_seqlock,
                       &timers_state.vm_clock_lock);
    timers_state.cpu_ticks_offset = ps->ticks;
    timers_state.cpu_clock_offset = ps->clock;
    seqlock_write_unlock(&timers_state.vm_clock_seqlock,
                         &timers_state.vm_clock_lock);
    runstate_set(RUN_STATE_RUNNING);
    vm_state_notify(true, RUN_STATE_RUNNING);
    pausing = false;
    resume_all_vcpus();
}
