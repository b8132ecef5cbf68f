/*
 * What IDE and AHCI have in common: ATA commands and identification.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef ATA_H
#define ATA_H

#include "blk.h"

enum {
    ATA_DATA_SET_MANAGEMENT = 0x06, ATA_READ_SECTORS_EXT = 0x24,
    ATA_READ_DMA_EXT = 0x25, ATA_WRITE_SECTORS_EXT = 0x34,
    ATA_WRITE_DMA_EXT = 0x35, ATA_READ_QUEUED = 0x60,
    ATA_WRITE_QUEUED = 0x61, ATA_FLUSH_CACHE_EXT = 0xea,
    ATA_IDENTIFY = 0xec, ATA_SET_FEATURES = 0xef
};

#define ATA_BUSY            0x80
#define ATA_FAULT           0x20
#define ATA_DATA            0x08
#define ATA_ERROR           0x01

#define ATA_LBA             0x40
#define ATA_TRIM            1
#define ATA_CACHE_OFF       0x82

/* From the 256 words of IDENTIFY. */
static inline uint64_t ata_capacity(const uint16_t *id)
{
    if (id[83] & 1u << 10) {            /* 48-bit addresses */
        return id[100] | (uint64_t)id[101] << 16 | (uint64_t)id[102] << 32;
    }
    return 0;
}

static inline unsigned ata_can(const uint16_t *id)
{
    return id[169] & 1 ? BLK_CAN_DISCARD : 0;
}

/* 1 if commands cannot be queued. */
static inline unsigned ata_queue_depth(const uint16_t *id)
{
    return id[76] & 1u << 8 ? (id[75] & 31) + 1 : 1;
}

/* The range that a discard names, as the one entry of its list. */
static inline void ata_range(uint8_t *block, const BlkRequest *r)
{
    uint64_t entry = r->sector | (uint64_t)r->count << 48;

    memset(block, 0, BLK_SECTOR);
    memcpy(block, &entry, sizeof(entry));
}

#endif
