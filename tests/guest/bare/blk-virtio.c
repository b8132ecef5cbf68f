/*
 * Driver of virtio-blk by the legacy interface for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each host has one disk. With disk-wce=0 flushes are not negotiated, so
 * the device must write through; the checker's flushes are then complete
 * at once.
 */

#include "blk.h"
#include "virtio.h"

#define FEATURE_FLUSH       (1u << 9)
#define FEATURE_DISCARD     (1u << 13)
#define FEATURE_ZEROES      (1u << 14)

#define MAX_DISCARD         0x38        /* from the start of BAR 0 */
#define MAX_ZEROES          0x44
#define MAY_UNMAP           0x4c

enum { TYPE_READ = 0, TYPE_WRITE = 1, TYPE_FLUSH = 4, TYPE_DISCARD = 11,
       TYPE_ZEROES = 13 };

#define STATUS_NONE         0xff

typedef struct Slot {
    BlkDisk *disk;
    unsigned number;
    struct {
        uint32_t type;
        uint32_t reserved;
        uint64_t sector;
    } header;
    struct {
        uint64_t sector;
        uint32_t count;
        uint32_t flags;                 /* 1: unmap */
    } range;
    volatile uint8_t status;
} Slot;

typedef struct VirtioBlk {
    BlkHost host;
    VirtioQueue queue;
    Slot *slots;
    bool flush, unmap;
} VirtioBlk;

static bool blk_virtio_submit(BlkDisk *d, unsigned n)
{
    static const uint32_t types[] = {
        [BLK_READ] = TYPE_READ, [BLK_WRITE] = TYPE_WRITE,
        [BLK_FLUSH] = TYPE_FLUSH, [BLK_DISCARD] = TYPE_DISCARD,
        [BLK_ZERO] = TYPE_ZEROES,
    };
    VirtioBlk *v = (VirtioBlk *)d->host;
    BlkRequest *r = &d->requests[n];
    Slot *s = &v->slots[n];
    VirtioPart parts[VIRTIO_GROUP];
    unsigned count = 0;

    if (r->op == BLK_FLUSH && !v->flush) {
        blk_done(d, n, true);
        return true;
    }
    s->header.type = types[r->op];
    s->header.sector = r->op <= BLK_WRITE ? r->sector : 0;
    s->status = STATUS_NONE;
    parts[count++] = (VirtioPart) { &s->header, sizeof(s->header), false };
    if (r->op <= BLK_WRITE) {
        BlkPart data[BLK_PARTS_MAX];
        unsigned pieces = blk_parts(r, data);

        for (unsigned i = 0; i < pieces; i++) {
            parts[count++] = (VirtioPart) {
                data[i].at, data[i].length, r->op == BLK_READ
            };
        }
    } else if (r->op != BLK_FLUSH) {
        s->range.sector = r->sector;
        s->range.count = r->count;
        s->range.flags = r->op == BLK_ZERO && v->unmap && (r->random & 1);
        parts[count++] = (VirtioPart) { &s->range, sizeof(s->range), false };
    }
    parts[count++] = (VirtioPart) { (void *)&s->status, 1, true };
    return virtio_queue_put(&v->queue, parts, count, s);
}

static void blk_virtio_poll(BlkHost *h)
{
    VirtioBlk *v = (VirtioBlk *)h;
    Slot *s;

    while ((s = virtio_queue_take(&v->queue)) != NULL) {
        blk_done(s->disk, s->number, s->status == 0);
    }
}

static bool blk_virtio_pending(BlkHost *h)
{
    return virtio_queue_pending(&((VirtioBlk *)h)->queue);
}

static bool blk_virtio_acknowledge(void *opaque)
{
    VirtioBlk *v = opaque;

    return inb(v->queue.port + VIRTIO_ISR) & 1;
}

void blk_virtio_probe(const PciDevice *d)
{
    VirtioBlk *v;
    BlkDisk *disk;
    uint64_t capacity;
    uint32_t features;
    uint16_t port;
    unsigned can = 0;

    if (d->vendor_id != 0x1af4 || d->device_id != 0x1001) {
        return;
    }
    pci_enable(d);
    port = pci_bar(d, 0);
    outb(port + VIRTIO_STATUS, 0);
    outb(port + VIRTIO_STATUS, 1);
    outb(port + VIRTIO_STATUS, VIRTIO_DRIVER);
    features = inl(port + VIRTIO_HOST_FEATURES) &
               (FEATURE_FLUSH | FEATURE_DISCARD | FEATURE_ZEROES);
    if (!blk_write_cache()) {
        features &= ~FEATURE_FLUSH;
    }
    outl(port + VIRTIO_GUEST_FEATURES, features);
    capacity = inl(port + VIRTIO_CONFIG) |
               (uint64_t)inl(port + VIRTIO_CONFIG + 4) << 32;
    if ((features & FEATURE_DISCARD) &&
        inl(port + MAX_DISCARD) >= BLK_COUNT_MAX) {
        can |= BLK_CAN_DISCARD;
    }
    if ((features & FEATURE_ZEROES) &&
        inl(port + MAX_ZEROES) >= BLK_COUNT_MAX) {
        can |= BLK_CAN_ZERO;
    }

    v = arena_alloc(sizeof(*v), 16);
    v->host.name = "virtio-blk";
    v->host.kind = BLK_KIND_VIRTIO;
    v->host.submit = blk_virtio_submit;
    v->host.poll = blk_virtio_poll;
    v->host.pending = blk_virtio_pending;
    v->flush = features & FEATURE_FLUSH;
    v->unmap = inb(port + MAY_UNMAP);
    if (!virtio_queue_init(&v->queue, port, 0)) {
        return;
    }
    disk = blk_add(&v->host, 0, capacity, v->queue.groups, can);
    if (!disk) {
        return;
    }
    v->slots = arena_alloc(disk->depth * sizeof(Slot), 16);
    for (unsigned i = 0; i < disk->depth; i++) {
        v->slots[i].disk = disk;
        v->slots[i].number = i;
    }
    blk_host_add(&v->host, pci_irq(d), blk_virtio_acknowledge);
    outb(port + VIRTIO_STATUS, VIRTIO_DRIVER_OK);
}
