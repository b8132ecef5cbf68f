/*
 * Driver of the PIIX IDE controller for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Bus-master DMA with 48-bit commands; some of the short reads and writes
 * go by PIO, sector by sector. A channel with its two disks does one command
 * at a time.
 */

#include "ata.h"

#define PIO_COUNT_MAX   8               /* sectors in a request by PIO */

/* From the channel's first port. */
#define DATA            0
#define ERROR           1
#define FEATURES        1
#define COUNT           2
#define LBA_LOW         3
#define LBA_MID         4
#define LBA_HIGH        5
#define DEVICE          6
#define STATUS          7
#define COMMAND         7
#define CONTROL         0x206           /* reads as the other status */

/* From the channel's first bus-master port. */
#define BM_COMMAND      0
#define BM_STATUS       2
#define BM_TABLE        4

#define BM_START        1
#define BM_TO_MEMORY    8
#define BM_FAILED       2
#define BM_INTERRUPT    4
#define BM_CAPABLE      0x60
#define LAST_PART       0x8000

typedef enum Phase { PHASE_IDLE, PHASE_PLAIN, PHASE_DMA, PHASE_PIO_IN,
                     PHASE_PIO_OUT } Phase;

typedef struct Region {
    uint32_t at;
    uint16_t length;                    /* 0: 64 KiB */
    uint16_t flags;
} Region;

typedef struct Channel {
    BlkHost host;
    uint16_t port, master;
    Phase phase;
    BlkDisk *disk;                      /* whose command it does */
    unsigned slot;
    uint8_t *at;                        /* PIO */
    unsigned left;                      /* sectors */
    volatile bool fired;
    volatile uint8_t status, master_status;
    Region *regions;
    uint8_t *block;
} Channel;

static void sector_in(Channel *c, void *to)
{
    unsigned long words = BLK_SECTOR / 2;

    asm volatile("rep insw" : "+D"(to), "+c"(words) : "d"(c->port + DATA)
                 : "memory");
}

static void sector_out(Channel *c, const void *from)
{
    unsigned long words = BLK_SECTOR / 2;

    asm volatile("rep outsw" : "+S"(from), "+c"(words)
                 : "d"(c->port + DATA) : "memory");
}

static bool not_busy(void *opaque)
{
    Channel *c = opaque;

    return !(inb(c->port + CONTROL) & ATA_BUSY);
}

static bool wants_data(void *opaque)
{
    Channel *c = opaque;
    uint8_t status = inb(c->port + CONTROL);

    return !(status & ATA_BUSY) && (status & (ATA_DATA | ATA_ERROR));
}

static void select_disk(Channel *c, unsigned unit)
{
    outb(c->port + DEVICE, ATA_LBA | unit << 4);
    for (unsigned i = 0; i < 4; i++) {
        inb(c->port + CONTROL);         /* 400 ns */
    }
}

static void command(Channel *c, uint8_t code, uint8_t features,
                    uint64_t sector, uint32_t count)
{
    outb(c->port + FEATURES, 0);
    outb(c->port + COUNT, count >> 8);
    outb(c->port + LBA_LOW, sector >> 24);
    outb(c->port + LBA_MID, sector >> 32);
    outb(c->port + LBA_HIGH, sector >> 40);
    outb(c->port + FEATURES, features);
    outb(c->port + COUNT, count);
    outb(c->port + LBA_LOW, sector);
    outb(c->port + LBA_MID, sector >> 8);
    outb(c->port + LBA_HIGH, sector >> 16);
    dma_barrier();
    outb(c->port + COMMAND, code);
}

static void dma_prepare(Channel *c, const BlkPart *parts, unsigned n,
                        bool to_memory)
{
    for (unsigned i = 0; i < n; i++) {
        c->regions[i] = (Region) {
            .at = (uintptr_t)parts[i].at,
            .length = parts[i].length,
            .flags = i + 1 == n ? LAST_PART : 0,
        };
    }
    outl(c->master + BM_TABLE, (uintptr_t)c->regions);
    outb(c->master + BM_COMMAND, to_memory ? BM_TO_MEMORY : 0);
    outb(c->master + BM_STATUS, BM_INTERRUPT | BM_FAILED |
         (inb(c->master + BM_STATUS) & BM_CAPABLE));
}

static bool ide_submit(BlkDisk *d, unsigned n)
{
    Channel *c = (Channel *)d->host;
    const BlkRequest *r = &d->requests[n];
    bool reads = r->op == BLK_READ;
    BlkPart parts[BLK_PARTS_MAX];

    if (c->phase != PHASE_IDLE) {
        return false;
    }
    c->disk = d;
    c->slot = n;
    c->fired = false;
    select_disk(c, d->unit);
    if (r->op == BLK_FLUSH) {
        c->phase = PHASE_PLAIN;
        command(c, ATA_FLUSH_CACHE_EXT, 0, 0, 0);
    } else if (r->op == BLK_DISCARD) {
        c->phase = PHASE_DMA;
        ata_range(c->block, r);
        parts[0] = (BlkPart) { c->block, BLK_SECTOR };
        dma_prepare(c, parts, 1, false);
        command(c, ATA_DATA_SET_MANAGEMENT, ATA_TRIM, 0, 1);
        outb(c->master + BM_COMMAND, BM_START);
    } else if (r->count <= PIO_COUNT_MAX && r->random % 3 == 0) {
        c->phase = reads ? PHASE_PIO_IN : PHASE_PIO_OUT;
        c->at = r->data;
        c->left = r->count;
        command(c, reads ? ATA_READ_SECTORS_EXT : ATA_WRITE_SECTORS_EXT, 0,
                r->sector, r->count);
        /* The first sector is asked for without an interrupt. */
        if (!reads && blk_wait(wants_data, c)) {
            sector_out(c, c->at);
        }
    } else {
        c->phase = PHASE_DMA;
        dma_prepare(c, parts, blk_parts(r, parts), reads);
        command(c, reads ? ATA_READ_DMA_EXT : ATA_WRITE_DMA_EXT, 0,
                r->sector, r->count);
        outb(c->master + BM_COMMAND,
             BM_START | (reads ? BM_TO_MEMORY : 0));
    }
    return true;
}

static bool ide_acknowledge(void *opaque)
{
    Channel *c = opaque;
    uint8_t master = inb(c->master + BM_STATUS);

    if (!(master & BM_INTERRUPT)) {
        return false;
    }
    outb(c->master + BM_STATUS, BM_INTERRUPT | (master & BM_CAPABLE));
    c->master_status = master;
    c->status = inb(c->port + STATUS);
    c->fired = true;
    return true;
}

static bool ide_pending(BlkHost *h)
{
    Channel *c = (Channel *)h;

    return c->fired || (inb(c->master + BM_STATUS) & BM_INTERRUPT);
}

static void finish(Channel *c, bool good)
{
    if (c->phase == PHASE_DMA) {
        outb(c->master + BM_COMMAND, 0);
    }
    c->phase = PHASE_IDLE;
    blk_done(c->disk, c->slot, good);
}

/* One interrupt: for PIO one sector, else the end of the command. */
static void step(Channel *c)
{
    bool good = !(c->status & (ATA_ERROR | ATA_FAULT));

    switch (c->phase) {
    case PHASE_IDLE:
        break;
    case PHASE_PLAIN:
        finish(c, good);
        break;
    case PHASE_DMA:
        finish(c, good && !(c->master_status & BM_FAILED));
        break;
    case PHASE_PIO_IN:
        if (!good || !(c->status & ATA_DATA)) {
            finish(c, false);
            break;
        }
        /* The device may ask for the next one before this is counted. */
        c->left--;
        c->at += BLK_SECTOR;
        sector_in(c, c->at - BLK_SECTOR);
        if (c->left == 0) {
            finish(c, true);
        }
        break;
    case PHASE_PIO_OUT:
        c->left--;
        c->at += BLK_SECTOR;
        if (!good || c->left == 0) {
            finish(c, good);
        } else if (c->status & ATA_DATA) {
            sector_out(c, c->at);
        } else {
            finish(c, false);
        }
        break;
    }
}

static void ide_poll(BlkHost *h)
{
    Channel *c = (Channel *)h;

    irq_off();
    if (!c->fired) {
        ide_acknowledge(c);
    }
    if (!c->fired) {
        irq_on();
        return;
    }
    c->fired = false;
    irq_on();
    step(c);
}

static bool set_cache_off(Channel *c)
{
    command(c, ATA_SET_FEATURES, ATA_CACHE_OFF, 0, 0);
    return blk_wait(not_busy, c) &&
           !(inb(c->port + STATUS) & (ATA_ERROR | ATA_FAULT));
}

static void probe_disk(Channel *c, unsigned unit)
{
    static uint16_t id[256];

    select_disk(c, unit);
    if (inb(c->port + CONTROL) == 0 || inb(c->port + CONTROL) == 0xff) {
        return;
    }
    command(c, ATA_IDENTIFY, 0, 0, 0);
    if (!blk_wait(wants_data, c) ||
        !(inb(c->port + STATUS) & ATA_DATA)) {
        return;                         /* none, or not a disk */
    }
    sector_in(c, id);
    inb(c->port + STATUS);
    if (!blk_write_cache() && !set_cache_off(c)) {
        print("ftguest: IDE disk %u keeps its write cache\n",
              (uint64_t)unit);
    }
    blk_add(&c->host, unit, ata_capacity(id), 1, ata_can(id));
}

void blk_ide_probe(const PciDevice *d)
{
    static const uint16_t ports[2] = { 0x1f0, 0x170 };

    if (d->vendor_id != 0x8086 ||
        (d->device_id != 0x7010 && d->device_id != 0x7111)) {
        return;
    }
    pci_enable(d);
    for (unsigned i = 0; i < 2; i++) {
        Channel *c = arena_alloc(sizeof(*c), 16);

        c->host.name = "ide";
        c->host.kind = BLK_KIND_IDE;
        c->host.submit = ide_submit;
        c->host.poll = ide_poll;
        c->host.pending = ide_pending;
        c->port = ports[i];
        c->master = pci_bar(d, 4) + 8 * i;
        c->regions = arena_alloc(BLK_PARTS_MAX * sizeof(Region), 64);
        c->block = arena_alloc(BLK_SECTOR, BLK_SECTOR);
        outb(c->port + CONTROL, 0);
        probe_disk(c, 0);
        probe_disk(c, 1);
        outb(c->master + BM_STATUS, BM_INTERRUPT | BM_FAILED | BM_CAPABLE);
        blk_host_add(&c->host, 14 + i, ide_acknowledge);
    }
}
