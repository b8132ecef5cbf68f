/*
 * What the disk checker and the disk drivers know of each other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A *disk* has a region whose content the guest keeps a model of. It hangs
 * on a *host*: what shares an interrupt and is polled as one, such as a
 * virtio-scsi controller with several disks. A request has a slot, and the
 * slot's number comes back with its completion.
 */

#ifndef BLK_H
#define BLK_H

#include "ftguest.h"

#define BLK_SECTOR      512u
#define BLK_COUNT_MAX   128u            /* sectors in a request */
#define BLK_DEPTH_MAX   32u             /* requests in flight on a disk */
#define BLK_DISKS_MAX   4u
#define BLK_PARTS_MAX   4u              /* pieces of a request's memory */
#define BLK_REPORT      64u             /* bytes in a report */

typedef enum BlkOp {
    BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO
} BlkOp;

typedef enum BlkMode { BLK_RUN, BLK_QUIET, BLK_READ_ONLY } BlkMode;

enum { BLK_KIND_VIRTIO = 1, BLK_KIND_SCSI, BLK_KIND_IDE, BLK_KIND_AHCI };

/* What a disk can do beyond reading and writing. */
enum { BLK_CAN_DISCARD = 1, BLK_CAN_ZERO = 2, BLK_CAN_FUA = 4 };

typedef struct BlkRequest {
    uint8_t op;
    bool active;                        /* the driver has it */
    bool late;                          /* and has had it too long */
    bool fua;
    bool fill;                          /* the region's first writing */
    uint32_t count;                     /* sectors; none in a flush */
    uint64_t sector;
    uint32_t version;                   /* of what is written */
    uint32_t random;                    /* for choices of the driver */
    uint64_t since;                     /* when it was given, in ticks */
    uint8_t *data;                      /* aligned to its greatest size */
} BlkRequest;

typedef struct BlkPart {
    uint8_t *at;
    uint32_t length;
} BlkPart;

typedef struct BlkDisk BlkDisk;

typedef struct BlkHost BlkHost;
struct BlkHost {
    const char *name;
    uint8_t kind;
    /* Give a request to the device; false: not now, try later. */
    bool (*submit)(BlkDisk *d, unsigned slot);
    /* Call blk_done() for all that is complete. */
    void (*poll)(BlkHost *h);
    /* Is there something complete? Changes nothing. */
    bool (*pending)(BlkHost *h);
    IrqLine line;
    /* The checker's own: */
    uint32_t seen;                      /* interrupts */
    uint32_t lost;
    uint64_t watch_since, watch_last;
    bool watching;
    BlkHost *next;
};

typedef struct BlkExtent {
    uint64_t sector;
    uint32_t count;
} BlkExtent;

#define BLK_RECENT      16u

struct BlkDisk {
    BlkHost *host;
    unsigned index;                     /* among all disks */
    unsigned unit;                      /* the host's own number */
    unsigned can;
    unsigned depth;
    uint64_t capacity;                  /* in sectors */
    void *driver;
    BlkRequest requests[BLK_DEPTH_MAX];

    /* The checker's own: */
    uint32_t sectors;                   /* in the region */
    uint32_t *model;                    /* what each one must hold */
    uint32_t run;                       /* tells this boot from others */
    uint64_t random;
    uint32_t version;                   /* the last one made */
    uint32_t in_flight;
    int parked;                         /* slot that the driver refused */
    uint32_t fill_at, check_at;
    uint32_t fill_left;                 /* not complete yet */
    uint64_t due_us;                    /* next request, by the ticks */
    uint32_t burst;
    BlkExtent recent[BLK_RECENT];
    uint32_t recent_count;
    bool closing, quiesced;
    uint64_t writes, reads;
    uint32_t flushes, discards, zeroes;
    uint32_t mismatches, io_errors, late, rounds;
    uint64_t report_at;
    bool urgent;
    uint32_t valid, torn, blank, foreign, highest;     /* disk-verify */
};

/* blk.c */
void blk_init(uint32_t boot);
bool blk_step(void);                    /* true: call again at once */
void blk_set_mode(BlkMode mode, uint32_t token);
bool blk_report(uint8_t *report);       /* false: nothing to report now */
void blk_reported(void);
void blk_print(void);

/* For the drivers. */
void blk_host_add(BlkHost *h, unsigned irq, bool (*acknowledge)(void *));
BlkDisk *blk_add(BlkHost *h, unsigned unit, uint64_t capacity,
                 unsigned depth, unsigned can);
void blk_done(BlkDisk *d, unsigned slot, bool good);
unsigned blk_parts(const BlkRequest *r, BlkPart *parts);
bool blk_write_cache(void);             /* or is it to be off? */
bool blk_wait(bool (*condition)(void *), void *opaque);

/* The drivers: take what is theirs of a PCI function. */
void blk_virtio_probe(const PciDevice *d);
void blk_scsi_probe(const PciDevice *d);
void blk_ide_probe(const PciDevice *d);
void blk_ahci_probe(const PciDevice *d);

/* blk-sector.c */
#define MODEL_ANY       0xffffffffu     /* not known: anything */
#define MODEL_DISCARDED 0x80000000u     /* the rest, or zero */
#define VERSION_MAX     0x7ffffff0u

typedef enum SectorState { SECTOR_VALID, SECTOR_TORN, SECTOR_BLANK }
    SectorState;

typedef struct SectorLook {
    SectorState state;
    uint32_t run;
    uint64_t sector, version;
} SectorLook;

void sector_init(void);
void sector_make(uint8_t *p, uint32_t run, uint64_t sector,
                 uint32_t version);
SectorLook sector_look(const uint8_t *p);
bool sector_check(const uint8_t *p, uint32_t run, uint64_t sector,
                  uint32_t model);
void sector_spoil(uint8_t *p);

#endif
