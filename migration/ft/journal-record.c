/*
 * Fault tolerance: the records of a journal, in memory and on the wire
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Makes, counts references to, encodes and decodes records.  What is decoded
 * comes from a peer that may send anything.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "journal.h"

/* Where the parts of a record's header are. */
enum {
    REC_DRIVE = 0,
    REC_KIND = 2,
    REC_FLAGS = 3,
    REC_ZERO = 4,
    REC_OFFSET = 8,
    REC_BYTES = 16,
    REC_DATA = 24,
};

QEMU_BUILD_BUG_ON(REC_DATA != FT_REC_HEADER);

/* A long WRITE is cut where a disk likes it. */
#define CUT_PAGE    4096
#define CUT_SECTOR  512

/* What a record of each kind may look like; a kind without a name is none. */
static const struct {
    const char *name;
    uint8_t flags;
    bool has_range;
    bool has_data;
} kind_rules[] = {
    [FT_REC_WRITE] = { "WRITE", 0, true, true },
    [FT_REC_ZERO] = { "ZERO", FT_REC_UNMAP, true, false },
    [FT_REC_DISCARD] = { "DISCARD", 0, true, false },
    [FT_REC_FLUSH] = { "FLUSH", 0, false, false },
};

FtRecord *ft_record_new(FtRecKind kind, uint8_t flags, uint16_t drive,
                        uint64_t offset, uint64_t bytes, uint8_t *data)
{
    FtRecord *r = g_new(FtRecord, 1);

    *r = (FtRecord) {
        .drive = drive,
        .kind = kind,
        .flags = flags,
        .offset = offset,
        .bytes = bytes,
        .data = data,
        .refs = 1,
    };
    return r;
}

FtRecord *ft_record_ref(FtRecord *r)
{
    qatomic_inc(&r->refs);
    return r;
}

void ft_record_unref(FtRecord *r)
{
    if (r && qatomic_fetch_dec(&r->refs) == 1) {
        g_free(r->data);
        g_free(r);
    }
}

uint64_t ft_record_cost(const FtRecord *r)
{
    return FT_RECORD_COST + (r->kind == FT_REC_WRITE ? r->bytes : 0);
}

/* How many of @left bytes from @offset on go into a record with @room. */
static uint64_t cut_bytes(uint64_t offset, uint64_t left, uint64_t room)
{
    uint64_t end;

    if (left <= room) {
        return left;
    }
    end = QEMU_ALIGN_DOWN(offset + room, CUT_PAGE);
    if (end <= offset) {
        end = QEMU_ALIGN_DOWN(offset + room, CUT_SECTOR);
    }
    return end - offset;
}

size_t ft_record_put(const FtRecord *r, uint64_t *done, uint8_t *buf,
                     size_t size, bool *last)
{
    bool data = r->kind == FT_REC_WRITE;
    uint64_t n = r->bytes;

    *last = false;
    if (size < FT_REC_HEADER + CUT_SECTOR) {
        return 0;
    }
    if (data) {
        n = cut_bytes(r->offset + *done, r->bytes - *done,
                      size - FT_REC_HEADER);
    }

    stw_be_p(buf + REC_DRIVE, r->drive);
    stb_p(buf + REC_KIND, r->kind);
    stb_p(buf + REC_FLAGS, r->flags);
    stl_be_p(buf + REC_ZERO, 0);
    stq_be_p(buf + REC_OFFSET, r->offset + *done);
    stq_be_p(buf + REC_BYTES, n);
    if (data) {
        memcpy(buf + REC_DATA, r->data + *done, n);
    }

    *done += n;
    *last = *done == r->bytes;
    return FT_REC_HEADER + (data ? n : 0);
}

/*
 * Check the record at @buf, of which @len bytes are there, and make it. The
 * caller adds to the message which record it is.
 */
static FtRecord *decode_one(const uint8_t *buf, size_t len,
                            const uint64_t *length, unsigned drives,
                            Error **errp)
{
    uint64_t offset, bytes;
    uint16_t drive;
    uint8_t kind, flags;
    const char *name;

    if (len < FT_REC_HEADER) {
        error_setg(errp, "torn: %zu bytes are left, a header has %u", len,
                   FT_REC_HEADER);
        return NULL;
    }

    drive = lduw_be_p(buf + REC_DRIVE);
    kind = buf[REC_KIND];
    flags = buf[REC_FLAGS];
    offset = ldq_be_p(buf + REC_OFFSET);
    bytes = ldq_be_p(buf + REC_BYTES);

    if (kind >= ARRAY_SIZE(kind_rules) || !kind_rules[kind].name) {
        error_setg(errp, "unknown kind %u", kind);
        return NULL;
    }
    name = kind_rules[kind].name;
    if (flags & ~kind_rules[kind].flags) {
        error_setg(errp, "%s with flags 0x%02x, of which 0x%02x are unknown "
                   "or not for this kind", name, flags,
                   flags & ~kind_rules[kind].flags);
        return NULL;
    }
    if (ldl_be_p(buf + REC_ZERO)) {
        error_setg(errp, "the unused bytes are not zero but 0x%08" PRIx32,
                   (uint32_t)ldl_be_p(buf + REC_ZERO));
        return NULL;
    }
    if (drive >= drives) {
        error_setg(errp, "%s for drive %u, there are %u", name, drive, drives);
        return NULL;
    }
    if (!kind_rules[kind].has_range) {
        if (offset || bytes) {
            error_setg(errp, "%s with offset 0x%" PRIx64 " and %" PRIu64
                       " bytes, it must have none", name, offset, bytes);
            return NULL;
        }
        return ft_record_new(kind, flags, drive, 0, 0, NULL);
    }
    if (!bytes) {
        error_setg(errp, "%s of no bytes at offset 0x%" PRIx64, name, offset);
        return NULL;
    }
    /* Differences only: offset plus bytes may be more than 64 bits hold. */
    if (offset > length[drive] || length[drive] - offset < bytes) {
        error_setg(errp, "%s of %" PRIu64 " bytes at offset 0x%" PRIx64
                   " is not inside drive %u of %" PRIu64 " bytes", name, bytes,
                   offset, drive, length[drive]);
        return NULL;
    }
    if (!kind_rules[kind].has_data) {
        return ft_record_new(kind, flags, drive, offset, bytes, NULL);
    }
    if (len - FT_REC_HEADER < bytes) {
        error_setg(errp, "torn: %zu bytes are left after the header, the "
                   "data has %" PRIu64, len - FT_REC_HEADER, bytes);
        return NULL;
    }
    return ft_record_new(kind, flags, drive, offset, bytes,
                         g_memdup2(buf + REC_DATA, bytes));
}

bool ft_record_decode(const uint8_t *buf, size_t len,
                      const uint64_t *length, unsigned drives,
                      FtRecordFn *fn, void *opaque, uint64_t *records,
                      Error **errp)
{
    ERRP_GUARD();
    size_t at = 0;

    while (at < len) {
        FtRecord *r = decode_one(buf + at, len - at, length, drives, errp);
        size_t n;

        if (!r) {
            error_prepend(errp, "journal record %" PRIu64 " at byte %zu of "
                          "%zu: ", *records, at, len);
            return false;
        }
        n = FT_REC_HEADER + (r->data ? r->bytes : 0);
        /* It may be gone afterwards. */
        if (!fn(opaque, r, errp)) {
            return false;
        }
        at += n;
        ++*records;
    }
    return true;
}

void ft_records_init(FtRecords *l)
{
    l->rec = g_ptr_array_new_with_free_func((GDestroyNotify)ft_record_unref);
    l->bytes = 0;
}

void ft_records_add(FtRecords *l, FtRecord *r)
{
    g_ptr_array_add(l->rec, ft_record_ref(r));
    l->bytes += ft_record_cost(r);
}

void ft_records_clear(FtRecords *l)
{
    g_ptr_array_set_size(l->rec, 0);
    l->bytes = 0;
}

void ft_records_destroy(FtRecords *l)
{
    if (l->rec) {
        g_ptr_array_free(l->rec, true);
        l->rec = NULL;
    }
    l->bytes = 0;
}
