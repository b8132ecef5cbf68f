/*
 * Driver of virtio-net by the legacy interface for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No features but the MAC: a 10-byte header before each frame, in a
 * descriptor of its own as the legacy rules demand.
 */

#include "ftguest.h"

#define HOST_FEATURES   0x00
#define GUEST_FEATURES  0x04
#define QUEUE_ADDRESS   0x08
#define QUEUE_SIZE      0x0c
#define QUEUE_SELECT    0x0e
#define QUEUE_NOTIFY    0x10
#define STATUS          0x12
#define ISR             0x13
#define MAC             0x14

#define FEATURE_MAC     (1u << 5)
#define DRIVER_OK       7               /* acknowledged, driver, ok */
#define DESC_NEXT       1
#define DESC_WRITE      2
#define NO_INTERRUPT    1
#define NO_NOTIFY       1

#define SIZE_MAX_QUEUE  1024u
#define SLOTS           64u
#define HEADER          10u
#define FRAME_SPACE     2048u

typedef struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
} Descriptor;

typedef struct Used {
    uint16_t flags;
    uint16_t index;
    struct {
        uint32_t id;
        uint32_t length;
    } ring[];
} Used;

typedef struct Available {
    uint16_t flags;
    uint16_t index;
    uint16_t ring[];
} Available;

typedef struct Queue {
    unsigned size;
    unsigned slots;
    Descriptor *desc;
    volatile Available *avail;
    volatile Used *used;
    uint16_t used_seen;
} Queue;

static uint16_t port;
static Queue rx, tx;
static uint8_t ring_memory[2][SIZE_MAX_QUEUE * 28 + 3 * PAGE_SIZE]
    __attribute__((aligned(4096)));
static uint8_t headers[2][SLOTS][16];
static uint8_t frames[2][SLOTS][FRAME_SPACE];

static bool virtio_acknowledge(void *opaque)
{
    return inb(port + ISR) & 1;
}

static bool queue_init(Queue *q, unsigned n)
{
    size_t at;

    outw(port + QUEUE_SELECT, n);
    q->size = inw(port + QUEUE_SIZE);
    if (q->size < 2 || q->size > SIZE_MAX_QUEUE) {
        return false;
    }
    q->slots = q->size / 2 < SLOTS ? q->size / 2 : SLOTS;
    at = q->size * sizeof(Descriptor);
    q->desc = (Descriptor *)ring_memory[n];
    q->avail = (Available *)(ring_memory[n] + at);
    at = (at + 6 + 2 * q->size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1ul);
    q->used = (Used *)(ring_memory[n] + at);

    /* Slot i is the descriptors 2i (header) and 2i + 1 (frame). */
    for (unsigned i = 0; i < q->slots; i++) {
        uint16_t write = n == 0 ? DESC_WRITE : 0;

        q->desc[2 * i] = (Descriptor) {
            .address = (uintptr_t)headers[n][i],
            .length = HEADER,
            .flags = DESC_NEXT | write,
            .next = 2 * i + 1,
        };
        q->desc[2 * i + 1] = (Descriptor) {
            .address = (uintptr_t)frames[n][i],
            .length = FRAME_SPACE,
            .flags = write,
        };
    }
    outl(port + QUEUE_ADDRESS, (uintptr_t)ring_memory[n] / PAGE_SIZE);
    return true;
}

static void queue_give(Queue *q, unsigned n, unsigned slot)
{
    q->avail->ring[q->avail->index % q->size] = 2 * slot;
    dma_barrier();
    q->avail->index++;
    dma_barrier();
    if (!(q->used->flags & NO_NOTIFY)) {
        outw(port + QUEUE_NOTIFY, n);
    }
}

static bool virtio_probe(const PciDevice *d, uint8_t mac[6])
{
    if (d->vendor_id != 0x1af4 || d->device_id != 0x1000) {
        return false;
    }
    pci_enable(d);
    port = pci_bar(d, 0);
    outb(port + STATUS, 0);
    outb(port + STATUS, 1);
    outb(port + STATUS, 3);
    outl(port + GUEST_FEATURES, inl(port + HOST_FEATURES) & FEATURE_MAC);
    for (unsigned i = 0; i < 6; i++) {
        mac[i] = inb(port + MAC + i);
    }
    if (!queue_init(&rx, 0) || !queue_init(&tx, 1)) {
        print("ftguest: ERROR virtio queue size %u %u\n",
              (uint64_t)rx.size, (uint64_t)tx.size);
        return false;
    }
    tx.avail->flags = NO_INTERRUPT;
    irq_route(&nic_line, pci_irq(d), virtio_acknowledge, NULL);
    outb(port + STATUS, DRIVER_OK);
    for (unsigned i = 0; i < rx.slots; i++) {
        queue_give(&rx, 0, i);
    }
    return true;
}

/* Slots are used in turn: one is free when the device is a round behind. */
static bool virtio_send(const void *frame, size_t length)
{
    unsigned slot = tx.avail->index % tx.slots;

    if ((uint16_t)(tx.avail->index - tx.used->index) >= tx.slots) {
        return false;
    }
    memcpy(frames[1][slot], frame, length);
    tx.desc[2 * slot + 1].length = length;
    queue_give(&tx, 1, slot);
    return true;
}

static bool virtio_pending(void)
{
    return rx.used_seen != rx.used->index;
}

static size_t virtio_receive(void *frame)
{
    while (virtio_pending()) {
        unsigned at = rx.used_seen % rx.size;
        size_t n;
        unsigned slot;

        dma_barrier();
        slot = rx.used->ring[at].id / 2;
        n = rx.used->ring[at].length - HEADER;
        rx.used_seen++;
        if (slot >= rx.slots) {
            errors++;
            print("ftguest: ERROR virtio used id=%u\n", (uint64_t)slot * 2);
            continue;
        }
        if (n <= FRAME_MAX) {
            memcpy(frame, frames[0][slot], n);
        }
        queue_give(&rx, 0, slot);
        if (n <= FRAME_MAX) {
            return n;
        }
    }
    return 0;
}

const Nic nic_virtio = {
    .name = "virtio-net",
    .probe = virtio_probe,
    .send = virtio_send,
    .receive = virtio_receive,
    .pending = virtio_pending,
};
