/*
 * A virtio queue by the legacy interface, for the disks.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A request is a group of descriptors, which has an owner: what
 * virtio_queue_take() gives back when the device is done with it.
 */

#ifndef VIRTIO_H
#define VIRTIO_H

#include "ftguest.h"

/* Registers, from the start of BAR 0. */
#define VIRTIO_HOST_FEATURES    0x00
#define VIRTIO_GUEST_FEATURES   0x04
#define VIRTIO_STATUS           0x12
#define VIRTIO_ISR              0x13
#define VIRTIO_CONFIG           0x14

#define VIRTIO_DRIVER           3       /* acknowledged, driver */
#define VIRTIO_DRIVER_OK        7

#define VIRTIO_GROUP            6u      /* descriptors in a request */
#define VIRTIO_GROUPS_MAX       64u

typedef struct VirtioDescriptor VirtioDescriptor;
typedef struct VirtioAvailable VirtioAvailable;
typedef struct VirtioUsed VirtioUsed;

typedef struct VirtioPart {
    const void *at;
    uint32_t length;
    bool from_device;
} VirtioPart;

typedef struct VirtioQueue {
    uint16_t port;
    unsigned number;
    unsigned size;
    unsigned groups;
    VirtioDescriptor *desc;
    volatile VirtioAvailable *avail;
    volatile VirtioUsed *used;
    uint16_t used_seen;
    unsigned free_count;
    uint8_t free[VIRTIO_GROUPS_MAX];
    void *owner[VIRTIO_GROUPS_MAX];     /* NULL: with the driver */
} VirtioQueue;

bool virtio_queue_init(VirtioQueue *q, uint16_t port, unsigned number);
bool virtio_queue_put(VirtioQueue *q, const VirtioPart *parts, unsigned n,
                      void *owner);
bool virtio_queue_pending(const VirtioQueue *q);
void *virtio_queue_take(VirtioQueue *q);

#endif
