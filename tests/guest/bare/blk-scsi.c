/*
 * Driver of virtio-scsi by the legacy interface for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The disks of one controller, LUN 0 and 1 of each target, share its first
 * request queue. A unit attention is answered as an operating system would:
 * the command is given again.
 */

#include "blk.h"
#include "virtio.h"

#define REQUEST_QUEUE       2           /* after control and events */
#define TARGETS             8u
#define LUNS                2u
#define RETRIES             5
#define CDB_SIZE            32
#define SENSE_SIZE          96
#define RESPONSE_NONE       0xff

enum { TEST_UNIT_READY = 0x00, INQUIRY = 0x12, READ_10 = 0x28,
       WRITE_10 = 0x2a, SYNCHRONIZE_CACHE = 0x35, UNMAP = 0x42,
       READ_16 = 0x88, WRITE_16 = 0x8a, WRITE_SAME_16 = 0x93,
       READ_CAPACITY_16 = 0x9e };

#define CHECK_CONDITION     2
#define UNIT_ATTENTION      6
#define FUA                 8

typedef struct Command {
    struct {
        uint8_t lun[8];
        uint64_t tag;
        uint8_t task, priority, crn;
        uint8_t cdb[CDB_SIZE];
    } __attribute__((packed)) header;
    struct {
        uint32_t sense_length, residual;
        uint16_t qualifier;
        uint8_t status, response;
        uint8_t sense[SENSE_SIZE];
    } __attribute__((packed)) result;
    BlkDisk *disk;
    unsigned slot;
    unsigned retries;
    bool done;
} Command;

typedef struct Scsi {
    BlkHost host;
    VirtioQueue queue;
    Command probe;
} Scsi;

/* Parameters of UNMAP, or the sector of WRITE SAME, for each slot. */
typedef struct SlotData {
    Command command;
    uint8_t block[BLK_SECTOR];
} SlotData;

/* Send a command; @in says which way its data goes. */
static bool command_put(Scsi *s, Command *c, const BlkPart *data,
                        unsigned pieces, bool in)
{
    VirtioPart parts[VIRTIO_GROUP];
    unsigned n = 0;

    memset(&c->result, 0, sizeof(c->result));
    c->result.response = RESPONSE_NONE;
    c->done = false;
    parts[n++] = (VirtioPart) { &c->header, sizeof(c->header), false };
    for (unsigned i = 0; i < pieces && !in; i++) {
        parts[n++] = (VirtioPart) { data[i].at, data[i].length, false };
    }
    parts[n++] = (VirtioPart) { &c->result, sizeof(c->result), true };
    for (unsigned i = 0; i < pieces && in; i++) {
        parts[n++] = (VirtioPart) { data[i].at, data[i].length, true };
    }
    return virtio_queue_put(&s->queue, parts, n, c);
}

static void command_init(Command *c, unsigned unit)
{
    memset(&c->header, 0, sizeof(c->header));
    c->header.lun[0] = 1;
    c->header.lun[1] = unit / LUNS;
    c->header.lun[2] = 0x40;
    c->header.lun[3] = unit % LUNS;
    c->header.tag = (uintptr_t)c;
}

static bool wants_retry(const Command *c)
{
    return c->result.response == 0 &&
           c->result.status == CHECK_CONDITION &&
           (c->result.sense[2] & 15) == UNIT_ATTENTION;
}

static bool scsi_submit(BlkDisk *d, unsigned n)
{
    Scsi *s = (Scsi *)d->host;
    BlkRequest *r = &d->requests[n];
    SlotData *slot = &((SlotData *)d->driver)[n];
    Command *c = &slot->command;
    uint8_t *cdb = c->header.cdb;
    BlkPart data[BLK_PARTS_MAX];
    unsigned pieces = 0;

    command_init(c, d->unit);
    switch (r->op) {
    case BLK_READ:
    case BLK_WRITE:
        pieces = blk_parts(r, data);
        cdb[1] = r->fua ? FUA : 0;
        if (r->random & 1) {
            cdb[0] = r->op == BLK_READ ? READ_16 : WRITE_16;
            put_be64(cdb + 2, r->sector);
            put_be32(cdb + 10, r->count);
        } else {
            cdb[0] = r->op == BLK_READ ? READ_10 : WRITE_10;
            put_be32(cdb + 2, r->sector);
            put_be16(cdb + 7, r->count);
        }
        break;
    case BLK_FLUSH:
        cdb[0] = SYNCHRONIZE_CACHE;
        break;
    case BLK_DISCARD:
        cdb[0] = UNMAP;
        put_be16(cdb + 7, 24);
        memset(slot->block, 0, 24);
        put_be16(slot->block, 22);
        put_be16(slot->block + 2, 16);
        put_be64(slot->block + 8, r->sector);
        put_be32(slot->block + 16, r->count);
        data[pieces++] = (BlkPart) { slot->block, 24 };
        break;
    case BLK_ZERO:
        cdb[0] = WRITE_SAME_16;
        cdb[1] = r->random & 2 ? 8 : 0;         /* may unmap */
        put_be64(cdb + 2, r->sector);
        put_be32(cdb + 10, r->count);
        memset(slot->block, 0, BLK_SECTOR);
        data[pieces++] = (BlkPart) { slot->block, BLK_SECTOR };
        break;
    }
    c->disk = d;
    c->slot = n;
    c->retries = 0;
    return command_put(s, c, data, pieces, r->op == BLK_READ);
}

static void scsi_complete(Scsi *s, Command *c)
{
    BlkDisk *d = c->disk;
    unsigned retries = c->retries;

    if (!d) {
        c->done = true;
        return;
    }
    if (wants_retry(c) && retries < RETRIES && scsi_submit(d, c->slot)) {
        c->retries = retries + 1;
        return;
    }
    if (c->result.response || c->result.status) {
        print("ftguest: virtio-scsi response=%u status=%u sense=%b/%b/%b\n",
              (uint64_t)c->result.response, (uint64_t)c->result.status,
              (uint64_t)(c->result.sense[2] & 15),
              (uint64_t)c->result.sense[12], (uint64_t)c->result.sense[13]);
    }
    blk_done(d, c->slot, !c->result.response && !c->result.status &&
                         !c->result.residual);
}

static void scsi_poll(BlkHost *h)
{
    Scsi *s = (Scsi *)h;
    Command *c;

    while ((c = virtio_queue_take(&s->queue)) != NULL) {
        scsi_complete(s, c);
    }
}

static bool scsi_pending(BlkHost *h)
{
    return virtio_queue_pending(&((Scsi *)h)->queue);
}

static bool scsi_acknowledge(void *opaque)
{
    Scsi *s = opaque;

    return inb(s->queue.port + VIRTIO_ISR) & 1;
}

static bool probe_is_done(void *opaque)
{
    Scsi *s = opaque;

    scsi_poll(&s->host);
    return s->probe.done;
}

/* A command at start, waited for. @cdb has 16 bytes. */
static bool probe_command(Scsi *s, unsigned unit, const uint8_t *cdb,
                          uint8_t *in, unsigned length)
{
    BlkPart data = { in, length };
    Command *c = &s->probe;

    for (unsigned i = 0; i < RETRIES; i++) {
        command_init(c, unit);
        memcpy(c->header.cdb, cdb, 16);
        if (!command_put(s, c, &data, length ? 1 : 0, true) ||
            !blk_wait(probe_is_done, s)) {
            print("ftguest: ERROR virtio-scsi does not answer\n");
            errors++;
            return false;
        }
        if (!wants_retry(c)) {
            return !c->result.response && !c->result.status;
        }
    }
    return false;
}

static void probe_unit(Scsi *s, unsigned unit)
{
    static const uint8_t ready[16] = { TEST_UNIT_READY };
    static const uint8_t inquiry[16] = { INQUIRY, 0, 0, 0, 36 };
    static const uint8_t capacity[16] = {
        READ_CAPACITY_16, 0x10, [13] = 32
    };
    static uint8_t answer[64];
    unsigned can = BLK_CAN_ZERO | BLK_CAN_FUA;
    uint64_t last;
    BlkDisk *d;

    /* A target that is not there answers "bad target". */
    if (!probe_command(s, unit, inquiry, answer, 36) || answer[0] != 0) {
        return;
    }
    if (!probe_command(s, unit, ready, NULL, 0) ||
        !probe_command(s, unit, capacity, answer, 32)) {
        return;
    }
    last = (uint64_t)get_be32(answer) << 32 | get_be32(answer + 4);
    if (get_be32(answer + 8) != BLK_SECTOR) {
        print("ftguest: SCSI disk %u has no sectors of 512 bytes\n",
              (uint64_t)unit);
        return;
    }
    if (answer[14] & 0x80) {            /* thin: it knows UNMAP */
        can |= BLK_CAN_DISCARD;
    }
    d = blk_add(&s->host, unit, last + 1, s->queue.groups, can);
    if (d) {
        d->driver = arena_alloc(d->depth * sizeof(SlotData), 16);
    }
}

void blk_scsi_probe(const PciDevice *d)
{
    uint16_t port;
    Scsi *s;

    if (d->vendor_id != 0x1af4 || d->device_id != 0x1004) {
        return;
    }
    pci_enable(d);
    port = pci_bar(d, 0);
    outb(port + VIRTIO_STATUS, 0);
    outb(port + VIRTIO_STATUS, 1);
    outb(port + VIRTIO_STATUS, VIRTIO_DRIVER);
    outl(port + VIRTIO_GUEST_FEATURES, 0);
    s = arena_alloc(sizeof(*s), 16);
    s->host.name = "virtio-scsi";
    s->host.kind = BLK_KIND_SCSI;
    s->host.submit = scsi_submit;
    s->host.poll = scsi_poll;
    s->host.pending = scsi_pending;
    if (!virtio_queue_init(&s->queue, port, REQUEST_QUEUE)) {
        return;
    }
    outb(port + VIRTIO_STATUS, VIRTIO_DRIVER_OK);
    for (unsigned i = 0; i < TARGETS * LUNS; i++) {
        probe_unit(s, i);
    }
    blk_host_add(&s->host, pci_irq(d), scsi_acknowledge);
}
