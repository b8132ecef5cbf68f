/*
 * Fault tolerance: device-state snapshots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An epoch's device state is QEMU's own stream of savevm sections, with one
 * difference: arrays of 64 or more elements carry a count and only as many
 * elements as are in use, and those of bytes and words are written as a whole.
 * A virtio-pci device has 1024 queue slots in three such arrays of which three
 * or so are used; an IDE drive a buffer of 128 KiB, an e1000 as much for its
 * registers, which QEMU writes one by one.  That was 70 to 80 per cent of a
 * light epoch's pause.  Both ends are the same binary (the fingerprint says
 * so), and ordinary migration never sees the cut form.
 *
 * With KVM the vCPUs' registers are in the kernel.  Saving them marks them as
 * changed, so that all are written back when the guest goes on: nobody has
 * changed them, so that is undone.
 *
 * Locking: BQL; the hook is set only while one of the calls here runs.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "io/channel-buffer.h"
#include "migration/vmstate.h"
#include "migration/qemu-file-types.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "migration/global_state.h"
#include "system/cpus.h"
#include "system/kvm.h"
#include "hw/core/cpu.h"
#include "hw/virtio/virtio.h"
#include "cpu.h"
#include "clock.h"
#include "session.h"

/* Queue slots up to the last that the device has. */
static int virtio_slots(VirtIODevice *vdev, int n_elems)
{
    while (n_elems && !virtio_queue_get_num(vdev, n_elems - 1)) {
        n_elems--;
    }
    return n_elems;
}

static bool is_virtqueue_array(const VMStateDescription *vmsd)
{
    return !strcmp(vmsd->name, "virtio/virtqueues") ||
           !strcmp(vmsd->name, "virtio/packed_virtqueues") ||
           !strcmp(vmsd->name, "virtio/ringsize");
}

static bool is_plain(const VMStateField *field)
{
    return !(field->flags & (VMS_ARRAY_OF_POINTER | VMS_VBUFFER |
                             VMS_MULTIPLY)) && field->size;
}

/* Elements up to the last that is not all zero. */
static int elements_in_use(const void *first_elem, int n_elems, size_t size)
{
    const uint8_t *first = first_elem;
    int chunk = MAX(4096 / size, 1);
    int n = n_elems;

    while (n >= chunk &&
           buffer_is_zero(first + (n - chunk) * size, chunk * size)) {
        n -= chunk;
    }
    while (n && buffer_is_zero(first + (n - 1) * size, size)) {
        n--;
    }
    return n;
}

/* Bytes and words of 32 bits, which QEMU keeps as they are in the stream but
 * for their order. */
static bool is_of_numbers(const VMStateField *field)
{
    return is_plain(field) && !(field->flags & VMS_STRUCT) &&
           ((field->info == &vmstate_info_uint8 && field->size == 1) ||
            (field->info == &vmstate_info_uint32 && field->size == 4));
}

static void put_words(QEMUFile *f, const uint32_t *word, int n)
{
    uint32_t buf[256];
    int count, i;

    for (; n > 0; n -= count, word += count) {
        count = MIN(n, ARRAY_SIZE(buf));
        for (i = 0; i < count; i++) {
            buf[i] = cpu_to_be32(word[i]);
        }
        qemu_put_buffer(f, (uint8_t *)buf, count * sizeof(*buf));
    }
}

static int get_numbers(QEMUFile *f, uint8_t *first, int n_elems, size_t size)
{
    uint32_t n = qemu_get_be32(f);
    uint32_t *word = (uint32_t *)first;

    if (n > (uint32_t)n_elems ||
        qemu_get_buffer(f, first, n * size) != n * size) {
        return -EINVAL;
    }
    memset(first + n * size, 0, (n_elems - n) * size);
    for (uint32_t i = 0; size == 4 && i < n; i++) {
        word[i] = be32_to_cpu(word[i]);
    }
    return 0;
}

/* All of them, so that none follows. */
static int devstate_numbers(QEMUFile *f, const VMStateField *field,
                            void *first, int n_elems, bool load)
{
    int n;

    if (load) {
        return get_numbers(f, first, n_elems, field->size);
    }
    n = elements_in_use(first, n_elems, field->size);
    qemu_put_be32(f, n);
    if (field->size == 1) {
        qemu_put_buffer(f, first, n);
    } else {
        put_words(f, first, n);
    }
    return 0;
}

static int devstate_cut(QEMUFile *f, const VMStateDescription *vmsd,
                        const VMStateField *field, void *opaque,
                        void *first_elem, int n_elems, bool load)
{
    bool queues = is_virtqueue_array(vmsd);
    bool plain = is_plain(field) && (field->flags & VMS_STRUCT);
    int n = n_elems;

    if (is_of_numbers(field)) {
        return devstate_numbers(f, field, first_elem, n_elems, load);
    }
    if (load) {
        uint32_t got = qemu_get_be32(f);

        if (got > (uint32_t)n_elems) {
            return -EINVAL;
        }
        n = got;
        if (!queues && plain && n < n_elems) {
            /* what is not sent was all zero on the primary */
            memset((uint8_t *)first_elem + (size_t)n * field->size, 0,
                   (size_t)(n_elems - n) * field->size);
        }
        return n;
    }
    if (queues) {
        n = virtio_slots(opaque, n_elems);
    } else if (plain) {
        n = elements_in_use(first_elem, n_elems, field->size);
    }
    qemu_put_be32(f, n);
    return n;
}

/*
 * Which vCPUs, in the order of CPU_FOREACH, have their registers in the
 * kernel, and nowhere else that is newer.  NULL without KVM.
 */
static unsigned long *vcpus_clean(void)
{
    unsigned long *clean;
    unsigned long n = 0;
    CPUState *cpu;

    if (!kvm_enabled()) {
        return NULL;
    }
    CPU_FOREACH(cpu) {
        n++;
    }
    clean = bitmap_new(n);
    n = 0;
    CPU_FOREACH(cpu) {
        if (!cpu->vcpu_dirty) {
            set_bit(n, clean);
        }
        n++;
    }
    return clean;
}

/*
 * INIT and SMI are taken out of the kernel by reading them: those must go
 * back.
 */
static void vcpus_keep_clean(const unsigned long *clean)
{
    unsigned n = 0;
    CPUState *cpu;

    if (!clean) {
        return;
    }
    CPU_FOREACH(cpu) {
        if (test_bit(n, clean) && !(cpu->interrupt_request &
                                    (CPU_INTERRUPT_INIT |
                                     CPU_INTERRUPT_SMI))) {
            cpu->vcpu_dirty = false;
        }
        n++;
    }
}

bool ft_devstate_save(GByteArray *buf, Error **errp)
{
    QIOChannelBuffer *bioc = qio_channel_buffer_new(64 * KiB);
    g_autofree unsigned long *clean = vcpus_clean();
    QEMUFile *f;
    int ret;

    qio_channel_set_name(QIO_CHANNEL(bioc), "ft-devstate-save");
    f = qemu_file_new_output(QIO_CHANNEL(bioc));
    vmstate_cut_hook = devstate_cut;
    ret = qemu_save_device_state(f);
    vmstate_cut_hook = NULL;
    vcpus_keep_clean(clean);
    if (!ret) {
        ret = qemu_fflush(f);
    }
    if (!ret) {
        g_byte_array_set_size(buf, 0);
        ft_clock_save(buf);
        g_byte_array_append(buf, bioc->data, bioc->usage);
    } else {
        error_setg(errp, "device state could not be saved (%s): see the "
                   "message of the device above", strerror(-ret));
    }
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    return !ret;
}

/*
 * On the primary an interrupt may have been on its way, in an eventfd or in
 * the kernel, when the interrupt controllers were read.  One too many is
 * what any driver bears.
 */
static int notify_queues(Object *obj, void *opaque)
{
    VirtIODevice *vdev = (VirtIODevice *)
        object_dynamic_cast(obj, TYPE_VIRTIO_DEVICE);

    if (!vdev || vdev->broken || !(vdev->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        return 0;
    }
    for (int n = 0; n < VIRTIO_QUEUE_MAX; n++) {
        if (virtio_queue_get_desc_addr(vdev, n)) {
            virtio_notify(vdev, virtio_get_queue(vdev, n));
        }
    }
    return 0;
}

bool ft_devstate_load(const uint8_t *data, size_t len, FtClock *clock,
                      Error **errp)
{
    size_t used = ft_clock_load(clock, data, len, errp);
    QIOChannelBuffer *bioc;
    QEMUFile *f;
    int ret = -EINVAL;

    if (!used) {
        return false;
    }
    data += used;
    len -= used;
    bioc = qio_channel_buffer_new(len);

    qio_channel_set_name(QIO_CHANNEL(bioc), "ft-devstate-load");
    memcpy(bioc->data, data, len);
    bioc->usage = len;
    f = qemu_file_new_input(QIO_CHANNEL(bioc));
    if (qemu_get_be32(f) == QEMU_VM_FILE_MAGIC &&
        qemu_get_be32(f) == QEMU_VM_FILE_VERSION) {
        cpu_synchronize_all_pre_loadvm();
        vmstate_cut_hook = devstate_cut;
        ret = qemu_load_device_state(f);
        vmstate_cut_hook = NULL;
    }
    if (ret < 0) {
        error_setg(errp, "device state of the committed epoch could not be "
                   "loaded (%s): see the message of the device above",
                   strerror(-ret));
    } else {
        object_child_foreach_recursive(object_get_root(), notify_queues, NULL);
    }
    qemu_fclose(f);
    object_unref(OBJECT(bioc));
    return ret >= 0;
}
