/*
 * Fault tolerance: page records (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The encoder chooses the smallest kind that says what the page holds; the
 * decoder believes nothing.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "encode.h"

/* Where the parts of a record's header are. */
enum {
    REC_KIND = 0,
    REC_PAD = 1,
    REC_BLOCK = 2,
    REC_OFFSET = 4,
    REC_LENGTH = 12,
    REC_DATA = 16,
};

QEMU_BUILD_BUG_ON(REC_DATA != FT_RECORD_HEADER);

size_t ft_encode_page(uint8_t *buf, size_t room, uint16_t block,
                      uint64_t offset, const uint8_t *page,
                      FtEncodeStats *stats)
{
    bool zero = buffer_is_zero(page, FT_PAGE_SIZE);
    FtPageKind kind = zero ? FT_PAGE_ZERO : FT_PAGE_RAW;
    uint32_t length = zero ? 0 : FT_PAGE_SIZE;

    if (room < FT_RECORD_HEADER + length) {
        return 0;
    }

    stb_p(buf + REC_KIND, kind);
    stb_p(buf + REC_PAD, 0);
    stw_be_p(buf + REC_BLOCK, block);
    stq_be_p(buf + REC_OFFSET, offset);
    stl_be_p(buf + REC_LENGTH, length);
    if (length) {
        memcpy(buf + REC_DATA, page, length);
    }

    if (stats) {
        stats->pages[kind]++;
        stats->bytes[kind] += FT_RECORD_HEADER + length;
    }
    return FT_RECORD_HEADER + length;
}

/*
 * Check the record at @buf, of which @len bytes are there, and fill @rec in.
 * The caller adds to the message which record it is.
 */
static bool decode_one(const uint8_t *buf, size_t len,
                       const FtBlockTable *table, FtPageRecord *rec,
                       Error **errp)
{
    uint32_t want;
    uint8_t kind;

    if (len < FT_RECORD_HEADER) {
        error_setg(errp, "torn: %zu bytes are left, a header has %u", len,
                   FT_RECORD_HEADER);
        return false;
    }

    kind = buf[REC_KIND];
    switch (kind) {
    case FT_PAGE_ZERO:
        want = 0;
        break;
    case FT_PAGE_RAW:
        want = FT_PAGE_SIZE;
        break;
    default:
        error_setg(errp, "%s kind %u",
                   kind < FT_PAGE__MAX ? "reserved" : "unknown", kind);
        return false;
    }
    if (buf[REC_PAD]) {
        error_setg(errp, "the unused byte is not zero but 0x%02x",
                   buf[REC_PAD]);
        return false;
    }

    *rec = (FtPageRecord) {
        .kind = kind,
        .block = lduw_be_p(buf + REC_BLOCK),
        .offset = ldq_be_p(buf + REC_OFFSET),
        .length = ldl_be_p(buf + REC_LENGTH),
        .data = want ? buf + REC_DATA : NULL,
    };

    if (rec->block >= table->count) {
        error_setg(errp, "RAM block %u, there are %u", rec->block,
                   table->count);
        return false;
    }
    if (rec->offset & (FT_PAGE_SIZE - 1)) {
        error_setg(errp, "offset 0x%" PRIx64 " is not a multiple of %u",
                   rec->offset, FT_PAGE_SIZE);
        return false;
    }
    /* Differences only: offset plus a page may be more than 64 bits hold. */
    if (rec->offset > table->length[rec->block] ||
        table->length[rec->block] - rec->offset < FT_PAGE_SIZE) {
        error_setg(errp, "the page at offset 0x%" PRIx64 " is not inside "
                   "RAM block %u of 0x%" PRIx64 " bytes", rec->offset,
                   rec->block, table->length[rec->block]);
        return false;
    }
    if (rec->length != want) {
        error_setg(errp, "kind %u with length %" PRIu32 ", it must have %"
                   PRIu32, kind, rec->length, want);
        return false;
    }
    if (len - FT_RECORD_HEADER < want) {
        error_setg(errp, "torn: %zu bytes are left after the header, the "
                   "data has %" PRIu32, len - FT_RECORD_HEADER, want);
        return false;
    }
    return true;
}

bool ft_decode_pages(const uint8_t *buf, size_t len,
                     const FtBlockTable *table, FtPageFn *fn, void *opaque,
                     uint64_t *count, Error **errp)
{
    ERRP_GUARD();
    uint64_t n = 0;
    size_t at = 0;
    bool ok = true;

    while (at < len) {
        FtPageRecord rec;

        if (!decode_one(buf + at, len - at, table, &rec, errp)) {
            error_prepend(errp, "page record %" PRIu64 " at byte %zu of %zu: ",
                          n, at, len);
            ok = false;
            break;
        }
        if (fn && !fn(opaque, &rec, errp)) {
            ok = false;
            break;
        }
        at += FT_RECORD_HEADER + rec.length;
        n++;
    }

    if (count) {
        *count = n;
    }
    return ok;
}
