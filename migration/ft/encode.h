/*
 * Fault tolerance: page records (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The payload of a PAGES frame is a run of records, network byte order:
 *
 *   0    1    2       4          12        16
 *   +----+----+-------+----------+---------+------------------+
 *   |kind| 0  | block |  offset  | length  | length bytes ... |
 *   +----+----+-------+----------+---------+------------------+
 *
 * block is the index of the RAM block in the fingerprint's table, offset a
 * multiple of FT_PAGE_SIZE inside it.  A record never crosses a frame.
 */

#ifndef MIGRATION_FT_ENCODE_H
#define MIGRATION_FT_ENCODE_H

#include "qapi/error.h"

#define FT_PAGE_BITS     12
#define FT_PAGE_SIZE     (1u << FT_PAGE_BITS)
#define FT_RECORD_HEADER 16
#define FT_RECORD_MAX    (FT_RECORD_HEADER + FT_PAGE_SIZE)

typedef enum FtPageKind {
    FT_PAGE_ZERO = 0,       /* length 0: the page is all zeroes */
    FT_PAGE_RAW = 1,        /* length FT_PAGE_SIZE: the page itself */
    /* kinds that are reserved and refused until they are implemented */
    FT_PAGE_SAME = 2,       /* dirty, but equal to what the backup has */
    FT_PAGE_DELTA = 3,      /* difference against what the backup has */
    FT_PAGE_ZSTD = 4,       /* compressed */
    FT_PAGE__MAX
} FtPageKind;

typedef struct FtEncodeStats {
    uint64_t pages[FT_PAGE__MAX];   /* records by kind */
    uint64_t bytes[FT_PAGE__MAX];   /* with their headers */
} FtEncodeStats;

/*
 * ft_encode_page: append the record for one page to @buf, of which @room
 * bytes are free.
 *
 * @page: FT_PAGE_SIZE bytes; @stats may be NULL.
 * Returns the bytes written, or 0 when the record does not fit in @room
 * (FT_RECORD_MAX always suffices).
 */
size_t ft_encode_page(uint8_t *buf, size_t room, uint16_t block,
                      uint64_t offset, const uint8_t *page,
                      FtEncodeStats *stats);

/* What the decoder checks addresses against. */
typedef struct FtBlockTable {
    unsigned count;
    const uint64_t *length;     /* bytes, by block index */
} FtBlockTable;

typedef struct FtPageRecord {
    FtPageKind kind;
    uint16_t block;
    uint64_t offset;
    const uint8_t *data;        /* in the caller's buffer; NULL for ZERO */
    uint32_t length;
} FtPageRecord;

typedef bool FtPageFn(void *opaque, const FtPageRecord *rec, Error **errp);

/*
 * ft_decode_pages: walk the records in @len bytes at @buf and call @fn for
 * each; with @fn NULL only check them.  Everything in @buf is untrusted:
 * unknown or reserved kinds, blocks not in @table, offsets that are not
 * page-aligned or whose page does not end inside the block, lengths wrong
 * for the kind and torn records are errors; nothing is read past @len.
 *
 * @count is set to the number of good records (may be NULL); after a failure
 * to those before it.
 * Returns false, with @errp set, at the first bad record or failing @fn.
 */
bool ft_decode_pages(const uint8_t *buf, size_t len,
                     const FtBlockTable *table, FtPageFn *fn, void *opaque,
                     uint64_t *count, Error **errp);

#endif
