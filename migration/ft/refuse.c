/*
 * Fault tolerance: what cannot be protected, and what to do about it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/qdev-core.h"
#include "migration/misc.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "system/cpu-timers.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "../migration.h"
#include "../options.h"
#include "session.h"

typedef struct FtRefused {
    const char *type;           /* QOM type, or a prefix of its name ("x*") */
    const char *why;
    const char *remedy;
} FtRefused;

static const FtRefused refused[] = {
    { "vhost-user-fs*", "its files are changed outside of the machine",
      "remove it, or use a network file system" },
    { "vhost-*", "its work is done outside of QEMU, where nothing can be held",
      "use the device's emulated counterpart" },
    { "virtio-9p*", "its files are changed outside of the machine",
      "remove it, or use a network file system" },
    { "vfio-*", "a device of the host cannot be copied to the backup",
      "use an emulated device" },
    { "ivshmem*", "its memory is shared with others on the host",
      "remove it" },
    { "virtio-mem*", "the size of the memory must not change",
      "use -m with the full size" },
    { "virtio-pmem*", "its memory is a file that is written at once",
      "use a disk" },
    { "nvdimm", "its memory is a file that is written at once",
      "use a disk" },
    { "acpi-erst", "its records are a file that is written at once",
      "remove it" },
    { "sgx-epc", "its memory cannot be copied to the backup", "remove it" },
    { "cxl-*", "its memory and state cannot be copied to the backup",
      "remove it" },
    { "hv-balloon", "its state cannot be copied to the backup",
      "use virtio-balloon" },
    { "megasas-base", "not all of its state can be copied to the backup",
      "use virtio-scsi" },
    { "lsi53c895a", "its state cannot be saved at any moment",
      "use virtio-scsi" },
    { "pvscsi", "its state cannot be saved at any moment",
      "use virtio-scsi" },
    { "am53c974", "not all of its state can be copied to the backup",
      "use virtio-scsi" },
    { "tpm-*", "its state cannot be saved at any moment", "remove it" },
    { "qxl*", "its client would slow each epoch down", "use VGA" },
    { "vmware-svga", "it writes to its memory without a trace", "use VGA" },
    { "ati-vga", "its state cannot be copied to the backup", "use VGA" },
    { "igbvf", "its state cannot be copied to the backup",
      "use igb without virtual functions" },
    { "edu", "its state cannot be copied to the backup", "remove it" },
    { "pci-testdev", "its state cannot be copied to the backup",
      "remove it" },
    { "isa-applesmc", "its state cannot be copied to the backup",
      "remove it" },
    { "adlib", "its state cannot be copied to the backup", "use AC97" },
    { "canokey", "its state cannot be copied to the backup", "remove it" },
    { "ccid-card-emulated", "its state cannot be copied to the backup",
      "remove it" },
    { "nvme", "its state cannot be copied to the backup",
      "use virtio-blk" },
    { "pci-ehci-usb", "saving its state changes it",
      "use qemu-xhci" },
    { "sysbus-ehci-usb", "saving its state changes it",
      "use qemu-xhci" },
    { "scsi-block", "its commands go to the host's device, where nothing can "
      "be held", "use scsi-hd" },
    { "scsi-generic", "its commands go to the host's device, where nothing "
      "can be held", "use scsi-hd" },
    { "usb-host", "a device of the host cannot be copied to the backup",
      "remove it" },
    { "usb-redir", "what it sends cannot be held", "remove it" },
    { "usb-mtp", "its files are changed outside of the machine",
      "remove it" },
    { "kvaser_pci", "what it sends cannot be held", "remove it" },
    { "ctucan_pci", "what it sends cannot be held", "remove it" },
    { "pcm3680_pci", "what it sends cannot be held", "remove it" },
    { "mioe3680_pci", "what it sends cannot be held", "remove it" },
    { "ipmi-bmc-extern", "what it sends cannot be held",
      "use ipmi-bmc-sim" },
    { "uefi-vars-*", "its variables are a file that is written at once",
      "use a flash (-drive if=pflash)" },
};

static bool matches(const FtRefused *r, Object *obj)
{
    size_t len = strlen(r->type);

    if (r->type[len - 1] == '*') {
        return !strncmp(object_get_typename(obj), r->type, len - 1);
    }
    return object_dynamic_cast(obj, r->type) != NULL;
}

static int check_object(Object *obj, void *opaque)
{
    Error **errp = opaque;
    DeviceState *dev = (DeviceState *)object_dynamic_cast(obj, TYPE_DEVICE);
    int i;

    if (!dev) {
        return 0;
    }
    for (i = 0; i < ARRAY_SIZE(refused); i++) {
        if (matches(&refused[i], obj)) {
            error_setg(errp, "device '%s' (%s) cannot be protected: %s; %s",
                       dev->id ? dev->id : object_get_typename(obj),
                       object_get_typename(obj), refused[i].why,
                       refused[i].remedy);
            return 1;
        }
    }
    /* The guest may eject it at any moment, and cannot be told to wait. */
    if (dev->realized && dev->pending_deleted_event) {
        error_setg(errp, "device '%s' (%s) cannot be protected: device_del "
                   "waits for the guest to eject it; let the guest do so, or "
                   "reset it (system_reset)",
                   dev->id ? dev->id : dev->canonical_path,
                   object_get_typename(obj));
        return 1;
    }
    return 0;
}

bool ft_refuse_check(Error **errp)
{
    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "this machine waits for an incoming migration or is "
                   "a backup; it has nothing to protect");
        return false;
    }
    if (!runstate_is_running() && !runstate_check(RUN_STATE_PAUSED) &&
        !runstate_check(RUN_STATE_PRELAUNCH)) {
        error_setg(errp, "the guest must be running or paused, it is in "
                   "state '%s'", RunState_str(runstate_get()));
        return false;
    }
    if (migration_is_running()) {
        error_setg(errp, "a migration is under way; wait for its end or use "
                   "migrate_cancel");
        return false;
    }
    /* In others, many blockers do not count. */
    if (migrate_mode() != MIG_MODE_NORMAL) {
        error_setg(errp, "the migration parameter 'mode' is '%s'; set it to "
                   "'normal'", MigMode_str(migrate_mode()));
        return false;
    }
    if (icount_enabled()) {
        error_setg(errp, "a machine with -icount cannot be protected; "
                   "remove it");
        return false;
    }
    if (replay_mode != REPLAY_MODE_NONE) {
        error_setg(errp, "record/replay and protection exclude each other");
        return false;
    }
    /* First what a remedy is known for. */
    if (object_child_foreach_recursive(OBJECT(qdev_get_machine()),
                                       check_object, errp)) {
        return false;
    }
    return !migration_is_blocked(errp);
}
