/*
 * Fault tolerance: what QEMU's own files may call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Without CONFIG_CUJU everything here is a no-op that leaves QEMU as it is.
 * All functions are called with the BQL held.
 */

#ifndef MIGRATION_FT_H
#define MIGRATION_FT_H

#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qapi/qapi-types-migration.h"
#include "qobject/qdict.h"

#ifdef CONFIG_CUJU

/*
 * ft_block_parked: is @error (an errno) that of a request which its device
 * is to keep and submit again, whatever the drive's error policy, and without
 * a word to anybody?  See block/ft-journal.h.  Any thread.
 */
static inline bool ft_block_parked(int error)
{
    return error == ERESTART;
}

/*
 * ft_hmp_migrate: take an HMP "migrate" that is meant for fault tolerance:
 * with -c, or with the capability cuju-ft on.
 * Returns true when it was; whatever there is to say has been printed.
 */
bool ft_hmp_migrate(Monitor *mon, const QDict *qdict);

/*
 * ft_migrate: take a "migrate" that is meant for fault tolerance.  While a
 * session is alive it takes (and refuses) every one.
 * Returns true when it was, with @errp set if it failed.
 */
bool ft_migrate(MigrationAddress *addr, Error **errp);

/* Is this -incoming URI one of a backup ("tcp:0:4441,ft_mode")? */
bool ft_incoming_uri(const char *uri);

/*
 * ft_incoming: become a backup and listen at @uri, with the suffix.
 */
bool ft_incoming(const char *uri, Error **errp);

/*
 * ft_blocks: must @what (a command that changes the machine) wait until
 * protection has ended?  True with @errp set if so.
 */
bool ft_blocks(const char *what, Error **errp);

/*
 * ft_blocks_eject: must @dev stay although the guest ejects it?  As
 * ft_blocks(), and warns, as there is nobody else to be told.  @dev may be
 * NULL: an empty slot.
 */
bool ft_blocks_eject(DeviceState *dev);

/*
 * ft_pausing: is the guest stopped, or started, only for the end of an epoch?
 */
bool ft_pausing(void);

/*
 * ft_drain_devices: wait for what devices have under way on their drives, but
 * not for what the drives' journals have on the disks.
 */
void ft_drain_devices(void);

/*
 * ft_dirty_full: a vCPU of KVM has stopped as its dirty ring is full; QEMU
 * will empty it.  Ends the epoch as soon as one may end.
 */
void ft_dirty_full(void);

/*
 * ft_dirty_mapped: @len bytes at @host have been written, or are about to be
 * before anybody else has the BQL, by a device that keeps this part of guest
 * RAM mapped, so that no unmapping says so.
 */
void ft_dirty_mapped(void *host, size_t len);

/*
 * ft_releasing_to: is what is being sent to @nc output whose time has come, and
 * @nc no NIC?  Then it leaves although the VM does not run.
 */
bool ft_releasing_to(const NetClientState *nc);

void hmp_cuju_failover(Monitor *mon, const QDict *qdict);
void hmp_cuju_adjust_epoch(Monitor *mon, const QDict *qdict);
void hmp_cuju_get_ft_started(Monitor *mon, const QDict *qdict);
void hmp_cuju_get_ft_mode(Monitor *mon, const QDict *qdict);
void hmp_cuju_migrate_cancel(Monitor *mon, const QDict *qdict);
void hmp_info_ft(Monitor *mon, const QDict *qdict);

#else

static inline bool ft_block_parked(int error)
{
    return false;
}

static inline bool ft_hmp_migrate(Monitor *mon, const QDict *qdict)
{
    if (qdict_get_try_bool(qdict, "cuju", false)) {
        monitor_printf(mon, "Error: this QEMU was built without Cuju\n");
        return true;
    }
    return false;
}

static inline bool ft_migrate(MigrationAddress *addr, Error **errp)
{
    return false;
}

static inline bool ft_incoming_uri(const char *uri)
{
    return false;
}

static inline bool ft_incoming(const char *uri, Error **errp)
{
    error_setg(errp, "this QEMU was built without Cuju");
    return false;
}

static inline bool ft_pausing(void)
{
    return false;
}

static inline void ft_drain_devices(void)
{
}

static inline bool ft_releasing_to(const NetClientState *nc)
{
    return false;
}

static inline void ft_dirty_full(void)
{
}

static inline void ft_dirty_mapped(void *host, size_t len)
{
}

static inline bool ft_blocks(const char *what, Error **errp)
{
    return false;
}

static inline bool ft_blocks_eject(DeviceState *dev)
{
    return false;
}

#endif

#endif
