/*
 * Fault tolerance: from a committed epoch to a running guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Guest RAM already holds the committed epoch; what is left is what an
 * ordinary incoming migration does last.  Device state is loaded here and
 * nowhere else: loading it twice aborts in QEMU's q35 chipset.
 *
 * Locking: BQL, main loop.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/misc.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "net/announce.h"
#include "system/runstate.h"
#include "session.h"
#include "trace.h"

bool ft_takeover_run(const uint8_t *devices, size_t len, bool running,
                     Error **errp)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    int64_t t0 = ft_now_us();

    if (!ft_devstate_load(devices, len, errp)) {
        return false;
    }
    trace_ft_takeover("devices", ft_now_us() - t0);
    ft_inject(FT_FAULT_POINT_TAKEOVER);
    if (!migration_block_activate(errp)) {
        error_prepend(errp, "the disks could not be taken over: ");
        return false;
    }
    trace_ft_takeover("disks", ft_now_us() - t0);
    qemu_announce_self(&mis->announce_timer, migrate_announce_params());
    if (running) {
        vm_start();
    } else {
        runstate_set(RUN_STATE_PAUSED);
    }
    trace_ft_takeover("running", ft_now_us() - t0);
    return true;
}
