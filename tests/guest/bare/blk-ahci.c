/*
 * Driver of the ICH9 AHCI controller for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads and writes go as native queued commands, and in turn for a while as
 * plain DMA commands, of which several may be given at once too. The two
 * kinds must not be outstanding together, so one waits for the other.
 */

#include "ata.h"

#define PORTS               6u
#define TURN                64          /* commands until the kind changes */

#define GLOBAL_CONTROL      0x04
#define GLOBAL_STATUS       0x08
#define PORTS_THERE         0x0c
#define CONTROL_ENABLE      0x80000000u
#define CONTROL_INTERRUPTS  2u

/* From a port's first register. */
#define LIST_BASE           0x00
#define LIST_BASE_HIGH      0x04
#define FIS_BASE            0x08
#define FIS_BASE_HIGH       0x0c
#define PORT_INTERRUPTS     0x10
#define PORT_ENABLE         0x14
#define PORT_COMMAND        0x18
#define TASK_FILE           0x20
#define SIGNATURE           0x24
#define SATA_STATUS         0x28
#define SATA_CONTROL        0x2c
#define SATA_ERROR          0x30
#define SATA_ACTIVE         0x34
#define COMMAND_ISSUE       0x38

#define COMMAND_START       0x0001u
#define COMMAND_RECEIVE     0x0010u
#define COMMAND_RECEIVING   0x4000u
#define COMMAND_RUNNING     0x8000u
#define INT_FAILED          0x78000000u /* task file, bus, interface */
#define INT_ALL             (INT_FAILED | 0x0fu)
#define SIGNATURE_DISK      0x101

#define FIS_TO_DEVICE       0x27
#define FIS_COMMAND         0x80
#define HEADER_WRITE        0x40
#define HEADER_FIS_WORDS    5
#define FUA                 0x80

typedef struct Header {
    uint16_t flags;
    uint16_t parts;
    uint32_t done;                      /* bytes */
    uint64_t table;
    uint32_t reserved[4];
} Header;

typedef struct Table {
    uint8_t fis[64];
    uint8_t packet[64];
    struct {
        uint64_t at;
        uint32_t reserved;
        uint32_t length;                /* less 1 */
    } parts[BLK_PARTS_MAX + 4];         /* 256 bytes in all */
} Table;

typedef struct Ahci Ahci;

typedef struct Port {
    uintptr_t regs;
    BlkDisk *disk;
    Header *headers;
    Table *tables;
    uint8_t *blocks;                    /* a discard's list, a slot each */
    uint32_t queued, plain;             /* slots that the device has */
    unsigned turn;
    bool can_queue;
    volatile bool failed;
} Port;

struct Ahci {
    BlkHost host;
    uintptr_t regs;
    Port ports[PORTS];
};

static uint32_t reg_read(uintptr_t base, unsigned r)
{
    return *(volatile uint32_t *)(base + r);
}

static void reg_write(uintptr_t base, unsigned r, uint32_t v)
{
    *(volatile uint32_t *)(base + r) = v;
}

static bool port_stopped(void *opaque)
{
    Port *p = opaque;

    return !(reg_read(p->regs, PORT_COMMAND) &
             (COMMAND_RUNNING | COMMAND_RECEIVING));
}

static bool port_ready(void *opaque)
{
    Port *p = opaque;

    return (reg_read(p->regs, SATA_STATUS) & 15) == 3 &&
           !(reg_read(p->regs, TASK_FILE) & (ATA_BUSY | ATA_DATA));
}

static bool port_idle(void *opaque)
{
    Port *p = opaque;

    return !reg_read(p->regs, COMMAND_ISSUE);
}

static bool port_stop(Port *p)
{
    uint32_t v = reg_read(p->regs, PORT_COMMAND);

    reg_write(p->regs, PORT_COMMAND, v & ~COMMAND_START);
    reg_write(p->regs, PORT_COMMAND, v & ~(COMMAND_START | COMMAND_RECEIVE));
    return blk_wait(port_stopped, p);
}

static void port_start(Port *p)
{
    uint32_t v = reg_read(p->regs, PORT_COMMAND);

    reg_write(p->regs, SATA_ERROR, 0xffffffff);
    reg_write(p->regs, PORT_INTERRUPTS, 0xffffffff);
    reg_write(p->regs, PORT_COMMAND, v | COMMAND_RECEIVE);
    reg_write(p->regs, PORT_COMMAND, v | COMMAND_RECEIVE | COMMAND_START);
    reg_write(p->regs, PORT_ENABLE, INT_ALL);
}

static void fis(Port *p, unsigned slot, uint8_t command, uint16_t features,
                uint64_t sector, uint16_t count, uint8_t device)
{
    uint8_t *f = p->tables[slot].fis;

    memset(f, 0, sizeof(p->tables[slot].fis));
    f[0] = FIS_TO_DEVICE;
    f[1] = FIS_COMMAND;
    f[2] = command;
    f[3] = features;
    f[4] = sector;
    f[5] = sector >> 8;
    f[6] = sector >> 16;
    f[7] = ATA_LBA | device;
    f[8] = sector >> 24;
    f[9] = sector >> 32;
    f[10] = sector >> 40;
    f[11] = features >> 8;
    f[12] = count;
    f[13] = count >> 8;
}

static void issue(Port *p, unsigned slot, const BlkPart *parts, unsigned n,
                  bool write, bool queued)
{
    Table *t = &p->tables[slot];

    for (unsigned i = 0; i < n; i++) {
        t->parts[i].at = (uintptr_t)parts[i].at;
        t->parts[i].length = parts[i].length - 1;
    }
    p->headers[slot] = (Header) {
        .flags = HEADER_FIS_WORDS | (write ? HEADER_WRITE : 0),
        .parts = n,
        .table = (uintptr_t)t,
    };
    dma_barrier();
    if (queued) {
        p->queued |= 1u << slot;
        reg_write(p->regs, SATA_ACTIVE, 1u << slot);
    } else {
        p->plain |= 1u << slot;
    }
    reg_write(p->regs, COMMAND_ISSUE, 1u << slot);
}

static bool ahci_submit(BlkDisk *d, unsigned n)
{
    Port *p = d->driver;
    const BlkRequest *r = &d->requests[n];
    bool write = r->op != BLK_READ;
    bool queue = r->op <= BLK_WRITE && p->can_queue && p->turn < TURN;
    BlkPart parts[BLK_PARTS_MAX];
    unsigned pieces = 1;

    if (p->failed || (queue ? p->plain : p->queued)) {
        return false;
    }
    if (r->op == BLK_FLUSH) {
        pieces = 0;
        fis(p, n, ATA_FLUSH_CACHE_EXT, 0, 0, 0, 0);
    } else if (r->op == BLK_DISCARD) {
        parts[0] = (BlkPart) { p->blocks + n * BLK_SECTOR, BLK_SECTOR };
        ata_range(parts[0].at, r);
        fis(p, n, ATA_DATA_SET_MANAGEMENT, ATA_TRIM, 0, 1, 0);
    } else {
        p->turn = (p->turn + 1) % (2 * TURN);
        pieces = blk_parts(r, parts);
        if (queue) {
            fis(p, n, write ? ATA_WRITE_QUEUED : ATA_READ_QUEUED, r->count,
                r->sector, n << 3, r->fua ? FUA : 0);
        } else {
            fis(p, n, write ? ATA_WRITE_DMA_EXT : ATA_READ_DMA_EXT, 0,
                r->sector, r->count, 0);
        }
    }
    issue(p, n, parts, pieces, write, queue);
    return true;
}

static uint32_t finished(const Port *p)
{
    return (p->queued | p->plain) & ~(reg_read(p->regs, COMMAND_ISSUE) |
                                      reg_read(p->regs, SATA_ACTIVE));
}

static void complete(Port *p, uint32_t slots, bool good)
{
    p->queued &= ~slots;
    p->plain &= ~slots;
    for (unsigned i = 0; slots; i++, slots >>= 1) {
        if (slots & 1) {
            blk_done(p->disk, i, good);
        }
    }
}

/*
 * A command has failed, and with it all that the device still had. A reset
 * of the link takes them back.
 */
static void recover(Port *p)
{
    bool queued = p->queued;
    uint32_t good = queued ? finished(p) : 0;

    print("ftguest: AHCI command failed, task file %x\n",
          (uint64_t)reg_read(p->regs, TASK_FILE));
    port_stop(p);
    reg_write(p->regs, SATA_CONTROL, 1);
    reg_write(p->regs, SATA_CONTROL, 0);
    blk_wait(port_ready, p);
    complete(p, good, true);
    complete(p, p->queued | p->plain, false);
    p->failed = false;
    port_start(p);
}

static void ahci_poll(BlkHost *h)
{
    Ahci *a = (Ahci *)h;

    for (unsigned i = 0; i < PORTS; i++) {
        Port *p = &a->ports[i];

        if (p->disk && p->failed) {
            recover(p);
        } else if (p->disk) {
            complete(p, finished(p), true);
        }
    }
}

static bool ahci_pending(BlkHost *h)
{
    Ahci *a = (Ahci *)h;

    for (unsigned i = 0; i < PORTS; i++) {
        if (a->ports[i].disk &&
            (a->ports[i].failed || finished(&a->ports[i]))) {
            return true;
        }
    }
    return false;
}

static bool ahci_acknowledge(void *opaque)
{
    Ahci *a = opaque;
    uint32_t global = reg_read(a->regs, GLOBAL_STATUS);

    for (unsigned i = 0; i < PORTS; i++) {
        Port *p = &a->ports[i];

        if (p->disk && (global & 1u << i)) {
            uint32_t cause = reg_read(p->regs, PORT_INTERRUPTS);

            reg_write(p->regs, PORT_INTERRUPTS, cause);
            if (cause & INT_FAILED) {
                p->failed = true;
            }
        }
    }
    reg_write(a->regs, GLOBAL_STATUS, global);
    return global;
}

static void probe_port(Ahci *a, unsigned n)
{
    static uint16_t id[256];
    Port *p = &a->ports[n];
    BlkPart data = { (uint8_t *)id, sizeof(id) };
    uint8_t *fis_area;
    unsigned depth;

    p->regs = a->regs + 0x100 + 0x80 * n;
    if (!(reg_read(a->regs, PORTS_THERE) & 1u << n) ||
        (reg_read(p->regs, SATA_STATUS) & 15) != 3 || !port_stop(p)) {
        return;
    }
    p->headers = arena_alloc(32 * sizeof(Header), 1024);
    fis_area = arena_alloc(256, 256);
    p->tables = arena_alloc(32 * sizeof(Table), 128);
    reg_write(p->regs, PORT_ENABLE, 0);
    reg_write(p->regs, LIST_BASE, (uintptr_t)p->headers);
    reg_write(p->regs, LIST_BASE_HIGH, 0);
    reg_write(p->regs, FIS_BASE, (uintptr_t)fis_area);
    reg_write(p->regs, FIS_BASE_HIGH, 0);
    port_start(p);
    if (!blk_wait(port_ready, p) ||
        reg_read(p->regs, SIGNATURE) != SIGNATURE_DISK) {
        return;
    }
    fis(p, 0, ATA_IDENTIFY, 0, 0, 0, 0);
    issue(p, 0, &data, 1, false, false);
    if (!blk_wait(port_idle, p) ||
        (reg_read(p->regs, TASK_FILE) & ATA_ERROR)) {
        print("ftguest: ERROR AHCI port %u does not identify itself\n",
              (uint64_t)n);
        errors++;
        return;
    }
    if (!blk_write_cache()) {
        fis(p, 0, ATA_SET_FEATURES, ATA_CACHE_OFF, 0, 0, 0);
        issue(p, 0, NULL, 0, false, false);
        if (!blk_wait(port_idle, p) ||
            (reg_read(p->regs, TASK_FILE) & ATA_ERROR)) {
            print("ftguest: AHCI port %u keeps its write cache\n",
                  (uint64_t)n);
        }
    }
    p->plain = 0;
    depth = ata_queue_depth(id);
    p->can_queue = depth > 1;
    p->disk = blk_add(&a->host, n, ata_capacity(id),
                      depth > 1 ? depth : BLK_DEPTH_MAX,
                      ata_can(id) | (depth > 1 ? BLK_CAN_FUA : 0));
    if (p->disk) {
        p->disk->driver = p;
        p->blocks = arena_alloc(p->disk->depth * BLK_SECTOR, BLK_SECTOR);
    }
}

void blk_ahci_probe(const PciDevice *d)
{
    Ahci *a;

    if (d->vendor_id != 0x8086 || d->device_id != 0x2922) {
        return;
    }
    pci_enable(d);
    a = arena_alloc(sizeof(*a), 16);
    a->host.name = "ahci";
    a->host.kind = BLK_KIND_AHCI;
    a->host.submit = ahci_submit;
    a->host.poll = ahci_poll;
    a->host.pending = ahci_pending;
    a->regs = pci_bar(d, 5);
    reg_write(a->regs, GLOBAL_CONTROL, CONTROL_ENABLE);
    for (unsigned i = 0; i < PORTS; i++) {
        probe_port(a, i);
    }
    for (unsigned i = 0; i < PORTS; i++) {
        if (a->ports[i].disk) {
            reg_write(a->ports[i].regs, PORT_INTERRUPTS, 0xffffffff);
        }
    }
    reg_write(a->regs, GLOBAL_STATUS, 0xffffffff);
    reg_write(a->regs, GLOBAL_CONTROL, CONTROL_ENABLE | CONTROL_INTERRUPTS);
    blk_host_add(&a->host, pci_irq(d), ahci_acknowledge);
}
