/*
 * A virtio queue by the legacy interface, for the disks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Completions may come in any order: each group of descriptors is free or
 * in the device's hands on its own.
 */

#include "virtio.h"

#define QUEUE_ADDRESS   0x08
#define QUEUE_SIZE      0x0c
#define QUEUE_SELECT    0x0e
#define QUEUE_NOTIFY    0x10

#define DESC_NEXT       1
#define DESC_WRITE      2
#define NO_NOTIFY       1
#define QUEUE_SIZE_MAX  1024u

struct VirtioDescriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct VirtioAvailable {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
};

struct VirtioUsed {
    uint16_t flags;
    uint16_t index;
    struct {
        uint32_t id;
        uint32_t length;
    } ring[];
};

bool virtio_queue_init(VirtioQueue *q, uint16_t port, unsigned number)
{
    uint8_t *memory;
    size_t at;

    q->port = port;
    q->number = number;
    outw(port + QUEUE_SELECT, number);
    q->size = inw(port + QUEUE_SIZE);
    if (q->size < VIRTIO_GROUP || q->size > QUEUE_SIZE_MAX) {
        print("ftguest: ERROR virtio queue %u has size %u\n",
              (uint64_t)number, (uint64_t)q->size);
        errors++;
        return false;
    }
    memory = arena_alloc(q->size * 26 + 2 * PAGE_SIZE, PAGE_SIZE);
    q->desc = (VirtioDescriptor *)memory;
    at = q->size * sizeof(VirtioDescriptor);
    q->avail = (VirtioAvailable *)(memory + at);
    at = (at + 6 + 2 * q->size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1ul);
    q->used = (VirtioUsed *)(memory + at);

    q->groups = q->size / VIRTIO_GROUP;
    if (q->groups > VIRTIO_GROUPS_MAX) {
        q->groups = VIRTIO_GROUPS_MAX;
    }
    for (unsigned i = 0; i < q->groups; i++) {
        q->free[q->free_count++] = q->groups - 1 - i;
    }
    outl(port + QUEUE_ADDRESS, (uintptr_t)memory / PAGE_SIZE);
    return true;
}

/* Give a request to the device; false if there is no room for it. */
bool virtio_queue_put(VirtioQueue *q, const VirtioPart *parts, unsigned n,
                      void *owner)
{
    unsigned group, first;

    if (!q->free_count || n > VIRTIO_GROUP) {
        return false;
    }
    group = q->free[--q->free_count];
    first = group * VIRTIO_GROUP;
    for (unsigned i = 0; i < n; i++) {
        q->desc[first + i] = (VirtioDescriptor) {
            .address = (uintptr_t)parts[i].at,
            .length = parts[i].length,
            .flags = (parts[i].from_device ? DESC_WRITE : 0) |
                     (i + 1 < n ? DESC_NEXT : 0),
            .next = i + 1 < n ? first + i + 1 : 0,
        };
    }
    q->owner[group] = owner;
    q->avail->ring[q->avail->index % q->size] = first;
    dma_barrier();
    q->avail->index++;
    dma_barrier();
    if (!(q->used->flags & NO_NOTIFY)) {
        outw(q->port + QUEUE_NOTIFY, q->number);
    }
    return true;
}

bool virtio_queue_pending(const VirtioQueue *q)
{
    return q->used_seen != q->used->index;
}

/* The owner of a request that is complete, or NULL. */
void *virtio_queue_take(VirtioQueue *q)
{
    while (virtio_queue_pending(q)) {
        uint32_t id, group;
        void *owner;

        dma_barrier();
        id = q->used->ring[q->used_seen % q->size].id;
        q->used_seen++;
        group = id / VIRTIO_GROUP;
        if (id % VIRTIO_GROUP || group >= q->groups || !q->owner[group]) {
            errors++;
            print("ftguest: ERROR virtio used id=%u is not in use\n",
                  (uint64_t)id);
            continue;
        }
        owner = q->owner[group];
        q->owner[group] = NULL;
        q->free[q->free_count++] = group;
        return owner;
    }
    return NULL;
}
