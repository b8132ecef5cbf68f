/*
 * Unit tests of a journal's records and of the budget
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "migration/ft/journal.h"

/*
 * What is decoded lies at the very end of an area that is followed by a page
 * without access: a single byte read too many is a SIGSEGV.
 */
#define AREA (256 * KiB)

static uint8_t *area_end;

static void area_init(void)
{
    size_t host_page = qemu_real_host_page_size();
    uint8_t *p = mmap(NULL, AREA + host_page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert(p != MAP_FAILED);
    area_end = p + AREA;
    g_assert(mprotect(area_end, host_page, PROT_NONE) == 0);
}

static uint8_t *area_put(const uint8_t *buf, size_t len)
{
    g_assert_cmpuint(len, <=, AREA);
    if (len) {
        memcpy(area_end - len, buf, len);
    }
    return area_end - len;
}

static const uint64_t lengths[] = { 1 * MiB, 0, 700, UINT64_MAX, 1ull << 40 };

#define DRIVES G_N_ELEMENTS(lengths)

static uint8_t *random_data(size_t len)
{
    uint8_t *p = g_malloc(len);

    for (size_t i = 0; i < len; i++) {
        p[i] = g_test_rand_int();
    }
    return p;
}

/* --------------------------------------------------------------- records */

static void test_refs(void)
{
    FtRecord *r = ft_record_new(FT_REC_WRITE, 0, 3, 7, 10, random_data(10));
    FtRecords l;

    g_assert_cmpuint(r->epoch, ==, 0);
    g_assert_cmpuint(r->drive, ==, 3);
    g_assert_cmpuint(r->kind, ==, FT_REC_WRITE);
    g_assert_cmpuint(ft_record_cost(r), ==, FT_RECORD_COST + 10);

    ft_records_init(&l);
    ft_records_add(&l, r);
    ft_record_unref(r);
    r = ft_record_new(FT_REC_ZERO, FT_REC_UNMAP, 0, 7, 1000, NULL);
    g_assert_cmpuint(r->flags, ==, FT_REC_UNMAP);
    g_assert_cmpuint(ft_record_cost(r), ==, FT_RECORD_COST);
    ft_records_add(&l, r);
    g_assert_true(ft_record_ref(r) == r);
    ft_record_unref(r);
    g_assert_cmpuint(l.rec->len, ==, 2);
    g_assert_cmpuint(l.bytes, ==, 2 * FT_RECORD_COST + 10);

    ft_records_clear(&l);
    g_assert_cmpuint(l.rec->len, ==, 0);
    g_assert_cmpuint(l.bytes, ==, 0);
    g_assert_cmpuint(r->bytes, ==, 1000);
    ft_records_add(&l, r);
    ft_record_unref(r);
    ft_records_destroy(&l);
    ft_records_destroy(&l);
    ft_record_unref(NULL);
}

/* ---------------------------------------------------------------- encode */

/* What a record is on the wire, byte for byte: both hosts must agree. */
static void test_layout(void)
{
    static const uint8_t want[] = {
        0x12, 0x34, 1, 0, 0, 0, 0, 0,
        0, 0, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06,
        0, 0, 0, 0, 0, 0, 0, 3,
        0xaa, 0xbb, 0xcc,
    };
    static const uint8_t zero[] = {
        0, 0, 2, 1, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 2, 0,
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
    };
    static const uint8_t flush[24] = { 0, 1, 4 };
    uint8_t buf[FT_REC_HEADER + 512];
    FtRecord *r;
    uint64_t done = 0;
    bool last;

    r = ft_record_new(FT_REC_WRITE, 0, 0x1234, 0x010203040506, 3,
                      g_memdup2(want + 24, 3));
    memset(buf, 0xee, sizeof(buf));
    g_assert_cmpuint(ft_record_put(r, &done, buf, sizeof(buf), &last), ==, 27);
    g_assert_cmpmem(buf, 27, want, 27);
    g_assert_cmphex(buf[27], ==, 0xee);
    g_assert_true(last);
    g_assert_cmpuint(done, ==, 3);
    ft_record_unref(r);

    r = ft_record_new(FT_REC_ZERO, FT_REC_UNMAP, 0, 512, 0x0123456789abcdef,
                      NULL);
    done = 0;
    last = false;
    g_assert_cmpuint(ft_record_put(r, &done, buf, sizeof(buf), &last), ==, 24);
    g_assert_cmpmem(buf, 24, zero, 24);
    g_assert_true(last);
    g_assert_cmpuint(done, ==, r->bytes);

    /* a byte less than it asks for */
    done = 0;
    last = true;
    memset(buf, 0xee, sizeof(buf));
    g_assert_cmpuint(ft_record_put(r, &done, buf, sizeof(buf) - 1, &last),
                     ==, 0);
    g_assert_false(last);
    g_assert_cmpuint(done, ==, 0);
    g_assert_cmphex(buf[0], ==, 0xee);
    ft_record_unref(r);

    r = ft_record_new(FT_REC_FLUSH, 0, 1, 0, 0, NULL);
    done = 0;
    last = false;
    g_assert_cmpuint(ft_record_put(r, &done, buf, sizeof(buf), &last), ==, 24);
    g_assert_cmpmem(buf, 24, flush, 24);
    g_assert_true(last);
    ft_record_unref(r);
}

static bool take(void *opaque, FtRecord *r, Error **errp)
{
    g_assert_cmpint(r->refs, ==, 1);
    g_assert_cmpuint(r->epoch, ==, 0);
    g_ptr_array_add(opaque, r);
    return true;
}

static GPtrArray *taken_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)ft_record_unref);
}

static FtRecord *random_record(void)
{
    static const unsigned drives[] = { 0, 2, 3, 4 };
    unsigned drive = drives[g_test_rand_int_range(0, 4)];
    FtRecKind kind = g_test_rand_int_range(FT_REC_WRITE, FT_REC_FLUSH + 1);
    uint64_t max = MIN(lengths[drive], 20000);
    uint64_t bytes = g_test_rand_bit() ? g_test_rand_int_range(1, max + 1) :
                     g_test_rand_int_range(1, 700);
    uint64_t offset = g_test_rand_int() %
                      MIN(lengths[drive] - bytes + 1, UINT32_MAX);
    uint8_t flags = 0;

    if (g_test_rand_int_range(0, 8) == 0) {
        offset = lengths[drive] - bytes;
    }
    switch (kind) {
    case FT_REC_WRITE:
        return ft_record_new(kind, 0, drive, offset, bytes,
                             random_data(bytes));
    case FT_REC_ZERO:
        flags = g_test_rand_bit() ? FT_REC_UNMAP : 0;
        break;
    case FT_REC_DISCARD:
        break;
    case FT_REC_FLUSH:
        offset = bytes = 0;
        break;
    }
    return ft_record_new(kind, flags, drive, offset, bytes, NULL);
}

/* Are the @n records from @got on what @r is, in pieces? */
static unsigned expect_pieces(const FtRecord *r, GPtrArray *got, unsigned i)
{
    uint64_t at = r->offset;

    do {
        FtRecord *p;

        g_assert_cmpuint(i, <, got->len);
        p = got->pdata[i++];
        g_assert_cmpuint(p->drive, ==, r->drive);
        g_assert_cmpuint(p->kind, ==, r->kind);
        g_assert_cmpuint(p->flags, ==, r->flags);
        g_assert_cmpuint(p->offset, ==, at);
        g_assert_cmpuint(p->bytes, <=, r->bytes - (at - r->offset));
        if (r->kind == FT_REC_WRITE) {
            g_assert_cmpmem(p->data, p->bytes, r->data + (at - r->offset),
                            p->bytes);
        } else {
            g_assert_null(p->data);
            g_assert_cmpuint(p->bytes, ==, r->bytes);
        }
        at += p->bytes;
        /* cut where a disk likes it */
        if (at != r->offset + r->bytes) {
            g_assert_cmpuint(at % 512, ==, 0);
            if (p->bytes >= 4096 + 512) {
                g_assert_cmpuint(at % 4096, ==, 0);
            }
        }
    } while (at != r->offset + r->bytes);
    return i;
}

/* Random records through frames of random size. */
static void test_round_trip(void)
{
    unsigned cut = 0;

    for (int round = 0; round < 400; round++) {
        size_t size = FT_REC_HEADER + 512 +
                      (round % 3 ? g_test_rand_int_range(0, 3000) :
                       g_test_rand_int_range(0, 60000));
        unsigned n = g_test_rand_int_range(1, 15), i, at = 0;
        g_autofree uint8_t *buf = g_malloc(size);
        GPtrArray *in = taken_new(), *out = taken_new();
        uint64_t records = 0;
        size_t used = 0;

        for (i = 0; i < n; i++) {
            FtRecord *r = random_record();
            uint64_t done = 0;
            bool last = false;

            g_ptr_array_add(in, r);
            while (!last) {
                size_t room = size - used;
                size_t put = ft_record_put(r, &done, buf + used, room, &last);

                if (room < FT_REC_HEADER + 512) {
                    g_assert_cmpuint(put, ==, 0);
                } else {
                    g_assert_cmpuint(put, >=, FT_REC_HEADER);
                    g_assert_cmpuint(put, <=, room);
                    cut += !last;
                }
                used += put;
                if (!put) {
                    /* the frame is full */
                    g_assert_true(ft_record_decode(area_put(buf, used), used,
                                                   lengths, DRIVES, take, out,
                                                   &records, &error_abort));
                    used = 0;
                }
            }
            g_assert_cmpuint(done, ==, r->bytes);
        }
        g_assert_true(ft_record_decode(area_put(buf, used), used, lengths,
                                       DRIVES, take, out, &records,
                                       &error_abort));
        g_assert_cmpuint(records, ==, out->len);
        for (i = 0; i < n; i++) {
            at = expect_pieces(in->pdata[i], out, at);
        }
        g_assert_cmpuint(at, ==, out->len);
        g_ptr_array_free(in, true);
        g_ptr_array_free(out, true);
    }
    g_assert_cmpuint(cut, >, 100);
}

/* ---------------------------------------------------------------- decode */

static size_t put_header(uint8_t *buf, unsigned drive, unsigned kind,
                         unsigned flags, uint32_t zero, uint64_t offset,
                         uint64_t bytes)
{
    stw_be_p(buf, drive);
    stb_p(buf + 2, kind);
    stb_p(buf + 3, flags);
    stl_be_p(buf + 4, zero);
    stq_be_p(buf + 8, offset);
    stq_be_p(buf + 16, bytes);
    return FT_REC_HEADER;
}

static void test_refused(void)
{
    static const struct {
        unsigned drive, kind, flags;
        uint32_t zero;
        uint64_t offset, bytes;
        const char *says;       /* NULL: good */
    } t[] = {
        { 0, 0, 0, 0, 0, 1, "unknown kind 0" },
        { 0, 5, 0, 0, 0, 1, "unknown kind 5" },
        { 0, 255, 0, 0, 0, 1, "unknown kind 255" },
        { 0, 1, 1, 0, 0, 1, "WRITE with flags 0x01" },
        { 0, 2, 3, 0, 0, 1, "of which 0x02" },
        { 0, 3, 1, 0, 0, 1, "DISCARD with flags 0x01" },
        { 0, 4, 1, 0, 0, 0, "FLUSH with flags 0x01" },
        { 0, 2, 0, 1, 0, 1, "unused bytes are not zero but 0x00000001" },
        { 5, 2, 0, 0, 0, 1, "drive 5, there are 5" },
        { 5, 4, 0, 0, 0, 0, "drive 5, there are 5" },
        { 65535, 2, 0, 0, 0, 1, "drive 65535" },
        { 0, 4, 0, 0, 1, 0, "FLUSH with offset 0x1" },
        { 0, 4, 0, 0, 0, 1, "and 1 bytes" },
        { 0, 2, 0, 0, 9, 0, "ZERO of no bytes at offset 0x9" },
        { 0, 3, 0, 0, 9, 0, "DISCARD of no bytes" },
        { 0, 1, 0, 0, 9, 0, "WRITE of no bytes" },
        { 1, 2, 0, 0, 0, 1, "is not inside drive 1 of 0 bytes" },
        { 2, 2, 0, 0, 0, 701, "not inside drive 2" },
        { 2, 2, 0, 0, 700, 1, "not inside drive 2" },
        { 2, 2, 0, 0, 701, UINT64_MAX, "not inside drive 2" },
        { 2, 3, 0, 0, 1, UINT64_MAX, "not inside drive 2" },
        { 3, 3, 0, 0, 1, UINT64_MAX, "not inside drive 3" },
        { 2, 1, 0, 0, 1, UINT64_MAX, "not inside drive 2" },
        { 4, 1, 0, 0, 0, 4, "3 bytes are left after the header" },
        { 3, 1, 0, 0, 0, UINT64_MAX, "3 bytes are left after the header" },
        { 3, 1, 0, 0, 0, UINT64_MAX - 23, "3 bytes are left after" },
        { 4, 1, 0, 0, 0, 3, NULL },
        { 2, 2, 1, 0, 0, 700, NULL },
        { 2, 3, 0, 0, 699, 1, NULL },
        { 3, 2, 0, 0, 0, UINT64_MAX, NULL },
        { 2, 4, 0, 0, 0, 0, NULL },
        { 1, 4, 0, 0, 0, 0, NULL },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(t); i++) {
        uint8_t buf[200] = { };
        size_t len = 0, at;
        GPtrArray *out = taken_new();
        uint64_t records = 10;
        Error *err = NULL;
        bool ok;

        /* two good ones before it, 5 bytes of data in the second */
        len += put_header(buf, 0, FT_REC_FLUSH, 0, 0, 0, 0);
        len += put_header(buf + len, 0, FT_REC_WRITE, 0, 0, 1000, 5) + 5;
        at = len;
        len += put_header(buf + len, t[i].drive, t[i].kind, t[i].flags,
                          t[i].zero, t[i].offset, t[i].bytes);
        if (t[i].kind == FT_REC_WRITE) {
            len += 3;
        }
        ok = ft_record_decode(area_put(buf, len), len, lengths, DRIVES, take,
                              out, &records, &err);
        g_assert_cmpint(ok, ==, !t[i].says);
        g_assert_cmpint(!err, ==, ok);
        g_assert_cmpuint(out->len, ==, 2 + ok);
        g_assert_cmpuint(records, ==, 12 + ok);
        if (!ok) {
            g_autofree char *where =
                g_strdup_printf("record 12 at byte %zu of %zu: ", at, len);

            if (!strstr(error_get_pretty(err), where) ||
                !strstr(error_get_pretty(err), t[i].says)) {
                g_error("row %u: \"%s\"", i, error_get_pretty(err));
            }
            error_free(err);
        }
        g_ptr_array_free(out, true);
    }
}

static bool take_some(void *opaque, FtRecord *r, Error **errp)
{
    unsigned *left = opaque;

    ft_record_unref(r);
    if (!*left) {
        error_setg(errp, "enough");
        return false;
    }
    --*left;
    return true;
}

static void test_taker_fails(void)
{
    uint8_t buf[5 * FT_REC_HEADER];
    uint64_t records = 0;
    unsigned left = 3;
    Error *err = NULL;

    for (int i = 0; i < 5; i++) {
        put_header(buf + i * FT_REC_HEADER, 0, FT_REC_ZERO, 0, 0, i, 1);
    }
    g_assert_false(ft_record_decode(buf, sizeof(buf), lengths, DRIVES,
                                    take_some, &left, &records, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "enough");
    g_assert_cmpuint(records, ==, 3);
    error_free(err);
    records = 0;
    g_assert_true(ft_record_decode(area_end, 0, lengths, DRIVES, take_some,
                                   &left, &records, &error_abort));
    g_assert_cmpuint(records, ==, 0);
}

static bool check_taken(void *opaque, FtRecord *r, Error **errp)
{
    bool data = r->kind == FT_REC_WRITE;

    g_assert_cmpuint(r->kind, >=, FT_REC_WRITE);
    g_assert_cmpuint(r->kind, <=, FT_REC_FLUSH);
    g_assert_cmpuint(r->flags, <=, r->kind == FT_REC_ZERO);
    g_assert_cmpuint(r->drive, <, DRIVES);
    g_assert_cmpuint(r->offset, <=, lengths[r->drive]);
    g_assert_cmpuint(r->bytes, <=, lengths[r->drive] - r->offset);
    g_assert_cmpint(r->bytes == 0, ==, r->kind == FT_REC_FLUSH);
    g_assert_cmpint(!r->data, ==, !data);
    *(uint64_t *)opaque += FT_REC_HEADER + (data ? r->bytes : 0);
    ft_record_unref(r);
    return true;
}

/* Whatever it is: no crash, only good records, and the byte is named. */
static void decode_anything(const uint8_t *buf, size_t len)
{
    uint64_t records = 0, good = 0;
    Error *err = NULL;

    if (ft_record_decode(area_put(buf, len), len, lengths, DRIVES,
                         check_taken, &good, &records, &err)) {
        g_assert_null(err);
        g_assert_cmpuint(good, ==, len);
    } else {
        g_autofree char *where =
            g_strdup_printf("journal record %" PRIu64 " at byte %" PRIu64
                            " of %zu: ", records, good, len);

        g_assert_cmpuint(good, <, len);
        g_assert_true(g_str_has_prefix(error_get_pretty(err), where));
        error_free(err);
    }
}

static void test_anything(void)
{
    for (int round = 0; round < 200; round++) {
        uint8_t buf[8192];
        size_t len = 0;
        int i;

        for (i = 0; i < 6; i++) {
            FtRecord *r = random_record();
            uint64_t done = 0;
            bool last;

            len += ft_record_put(r, &done, buf + len,
                                 MIN(sizeof(buf) - len, 1000), &last);
            ft_record_unref(r);
        }
        decode_anything(buf, len);
        for (i = 0; i < 60; i++) {
            decode_anything(buf, g_test_rand_int_range(0, len));
        }
        for (i = 0; i < 200; i++) {
            size_t at = g_test_rand_int_range(0, len);
            uint8_t bit = 1 << g_test_rand_int_range(0, 8);

            buf[at] ^= bit;
            decode_anything(buf, len);
            buf[at] ^= bit;
        }
        for (i = 0; i < 20; i++) {
            len = g_test_rand_int_range(0, 200);
            for (size_t k = 0; k < len; k++) {
                buf[k] = g_test_rand_int_range(0, 4) ? 0 : g_test_rand_int();
            }
            decode_anything(buf, len);
        }
    }
}

/* ---------------------------------------------------------------- budget */

static void expect(FtBudget *b, uint64_t used, uint64_t slowed,
                   uint64_t stalled)
{
    FtBudgetStats st;

    ft_budget_stats(b, &st);
    g_assert_cmpuint(st.used, ==, used);
    g_assert_cmpuint(st.slowed, ==, slowed);
    g_assert_cmpuint(st.stalled, ==, stalled);
    g_assert_cmpuint(st.peak, >=, used);
}

static void test_budget(void)
{
    FtBudget *b = ft_budget_new(8 * MiB);
    FtBudgetStats st;

    expect(b, 0, 0, 0);
    /* below half: yes, also when it goes beyond */
    g_assert_true(ft_budget_admit(b, 4 * MiB - 1, false));
    g_assert_true(ft_budget_admit(b, 1, false));
    expect(b, 4 * MiB, 0, 0);
    /* the open epoch began with 8 MiB left, and has used more than 2 */
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 4 * MiB, 1, 0);
    ft_budget_seal(b, 1);

    /* a quarter of 4 MiB */
    g_assert_false(ft_budget_admit(b, MiB + 1, false));
    g_assert_true(ft_budget_admit(b, MiB - 1, false));
    g_assert_false(ft_budget_admit(b, 2, false));
    g_assert_true(ft_budget_admit(b, 1, false));
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 5 * MiB, 4, 0);
    g_assert_false(ft_budget_admit(b, 3 * MiB + 1, false));
    expect(b, 5 * MiB, 4, 1);
    ft_budget_seal(b, 2);

    /* a quarter of 3 MiB; more is used by force */
    g_assert_true(ft_budget_admit(b, 3 * MiB - 1, true));
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 8 * MiB - 1, 5, 1);
    g_assert_true(ft_budget_admit(b, 2, true));
    g_assert_false(ft_budget_admit(b, 1, false));
    g_assert_false(ft_budget_admit(b, 0, false));
    expect(b, 8 * MiB + 1, 5, 3);
    ft_budget_seal(b, 3);

    /* nothing is left, and still the epoch's least is not beyond the limit */
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 8 * MiB + 1, 5, 4);
    ft_budget_credit(b, 0);
    expect(b, 8 * MiB + 1, 5, 4);
    ft_budget_credit(b, 1);
    expect(b, 4 * MiB + 1, 5, 4);
    g_assert_true(ft_budget_admit(b, FT_BUDGET_MIN, false));
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 4 * MiB + 1 + FT_BUDGET_MIN, 6, 4);

    /* several at once; an epoch without records; twice the same */
    ft_budget_seal(b, 4);
    ft_budget_seal(b, 5);
    ft_budget_credit(b, 3);
    expect(b, FT_BUDGET_MIN, 6, 4);
    ft_budget_credit(b, 3);
    expect(b, FT_BUDGET_MIN, 6, 4);
    g_assert_true(ft_budget_admit(b, 10, false));
    ft_budget_credit(b, 5);
    expect(b, 10, 6, 4);            /* the open epoch cannot be credited */
    ft_budget_credit(b, 100);
    expect(b, 10, 6, 4);
    ft_budget_seal(b, 6);
    ft_budget_credit(b, 6);
    expect(b, 0, 6, 4);
    ft_budget_stats(b, &st);
    g_assert_cmpuint(st.peak, ==, 8 * MiB + 1);
    g_assert_cmpuint(st.limit, ==, 8 * MiB);
    ft_budget_unref(b);
    ft_budget_unref(NULL);
}

static void test_budget_oversized(void)
{
    FtBudget *b = ft_budget_new(1 * MiB);

    /* when nothing else is there, also in a sealed epoch */
    g_assert_true(ft_budget_admit(b, 1, false));
    g_assert_false(ft_budget_admit(b, 3 * MiB, false));
    ft_budget_seal(b, 1);
    g_assert_false(ft_budget_admit(b, 3 * MiB, false));
    ft_budget_credit(b, 1);
    g_assert_true(ft_budget_admit(b, 3 * MiB, false));
    expect(b, 3 * MiB, 0, 2);
    g_assert_false(ft_budget_admit(b, 1, false));
    expect(b, 3 * MiB, 0, 3);

    /* fits exactly, from below half */
    ft_budget_seal(b, 2);
    ft_budget_credit(b, 2);
    g_assert_true(ft_budget_admit(b, 1000, false));
    g_assert_false(ft_budget_admit(b, MiB - 999, false));
    g_assert_true(ft_budget_admit(b, MiB - 1000, false));
    expect(b, MiB, 0, 4);
    ft_budget_unref(b);
}

static void test_budget_no_limit(void)
{
    FtBudget *b = ft_budget_new(0);

    for (int i = 0; i < 10; i++) {
        g_assert_true(ft_budget_admit(ft_budget_ref(b), 1ull << 50, false));
    }
    expect(b, 10ull << 50, 0, 0);
    for (int i = 0; i < 11; i++) {
        ft_budget_unref(b);
    }
}

#define THREADS 4
#define TURNS   200000

typedef struct Hammer {
    FtBudget *b;
    uint64_t admitted, refused;
} Hammer;

static int running;             /* threads that have begun, not ended */
static bool go;

static void *hammer(void *opaque)
{
    Hammer *h = opaque;

    qatomic_inc(&running);
    while (!qatomic_read(&go)) {
        g_thread_yield();
    }
    for (int i = 0; i < TURNS; i++) {
        if (ft_budget_admit(h->b, 100, false)) {
            h->admitted++;
        } else {
            h->refused++;
        }
    }
    ft_budget_unref(h->b);
    qatomic_dec(&running);
    return NULL;
}

/* Drives in several threads, sealed and credited by another. */
static void test_budget_threads(void)
{
    FtBudget *b = ft_budget_new(10000);
    Hammer h[THREADS] = { };
    QemuThread thread[THREADS];
    uint64_t admitted = 0, refused = 0, epoch = 0;
    FtBudgetStats st;
    int i;

    for (i = 0; i < THREADS; i++) {
        h[i].b = ft_budget_ref(b);
        qemu_thread_create(&thread[i], "hammer", hammer, &h[i],
                           QEMU_THREAD_JOINABLE);
    }
    while (qatomic_read(&running) < THREADS) {
        g_thread_yield();
    }
    qatomic_set(&go, true);
    while (qatomic_read(&running)) {
        ft_budget_seal(b, ++epoch);
        ft_budget_credit(b, epoch > 2 ? epoch - 2 : 0);
        ft_budget_stats(b, &st);
        g_assert_cmpuint(st.used, <=, 10000);
    }
    for (i = 0; i < THREADS; i++) {
        qemu_thread_join(&thread[i]);
        admitted += h[i].admitted;
        refused += h[i].refused;
    }
    ft_budget_stats(b, &st);
    g_assert_cmpuint(st.peak, <=, 10000);
    g_assert_cmpuint(st.slowed + st.stalled, ==, refused);
    g_assert_cmpuint(admitted + refused, ==, THREADS * TURNS);
    ft_budget_seal(b, ++epoch);
    ft_budget_credit(b, epoch);
    ft_budget_stats(b, &st);
    g_assert_cmpuint(st.used, ==, 0);
    ft_budget_unref(b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    area_init();

    g_test_add_func("/ft/record/refs", test_refs);
    g_test_add_func("/ft/record/layout", test_layout);
    g_test_add_func("/ft/record/round-trip", test_round_trip);
    g_test_add_func("/ft/record/refused", test_refused);
    g_test_add_func("/ft/record/taker-fails", test_taker_fails);
    g_test_add_func("/ft/record/anything", test_anything);
    g_test_add_func("/ft/budget/steps", test_budget);
    g_test_add_func("/ft/budget/oversized", test_budget_oversized);
    g_test_add_func("/ft/budget/no-limit", test_budget_no_limit);
    g_test_add_func("/ft/budget/threads", test_budget_threads);

    return g_test_run();
}
