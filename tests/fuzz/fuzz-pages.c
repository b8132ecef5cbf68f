/*
 * Fuzz target: page records, ft_decode_pages()
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a byte how many RAM blocks there are (its top bit: the records as
 * they are), their lengths, a byte when the callback fails, then
 *  - as they are: what the decoder gets;
 *  - otherwise headers, each followed by a byte that says how much data comes
 *    after it, so that a small input makes whole pages; and at the end how
 *    many bytes are torn off.
 *
 * The callback's record must be inside block and buffer, and there is only one
 * way to say it.  What was accepted and is encoded again means the same.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "migration/ft/encode.h"
#include "fuzz.h"

#define BLOCKS_MAX  5
#define RECORDS_MAX 16
#define AS_THEY_ARE 0x80

/* What a page may be filled with; the first one is a zero page. */
static const uint8_t fills[] = { 0, 1, 0x80, 0xff };

typedef struct Seen {
    const uint8_t *buf;
    size_t len;
    const FtBlockTable *table;
    unsigned fail_at;           /* 0: never */
    size_t at;                  /* where in buf the next record is */
    GArray *rec;                /* of FtPageRecord: what came */
    GByteArray *again;          /* the same, encoded by us */
} Seen;

static const uint8_t zeroes[FT_PAGE_SIZE];

static void check_bounds(const Seen *s, const FtPageRecord *rec)
{
    uint64_t length;

    g_assert_cmpuint(rec->block, <, s->table->count);
    length = s->table->length[rec->block];
    g_assert_cmpuint(rec->offset % FT_PAGE_SIZE, ==, 0);
    g_assert_cmpuint(length, >=, FT_PAGE_SIZE);
    g_assert_cmpuint(rec->offset, <=, length - FT_PAGE_SIZE);
    if (rec->kind == FT_PAGE_ZERO) {
        g_assert_null(rec->data);
        g_assert_cmpuint(rec->length, ==, 0);
    } else {
        g_assert_cmpint(rec->kind, ==, FT_PAGE_RAW);
        g_assert_cmpuint(rec->length, ==, FT_PAGE_SIZE);
        g_assert_true(rec->data == s->buf + s->at + FT_RECORD_HEADER);
    }
    g_assert_cmpuint(s->len - s->at, >=, FT_RECORD_HEADER + rec->length);
}

/* No bytes but these mean this record. */
static void check_header(const Seen *s, const FtPageRecord *rec)
{
    uint8_t want[FT_RECORD_HEADER];

    stb_p(want, rec->kind);
    stb_p(want + 1, 0);
    stw_be_p(want + 2, rec->block);
    stq_be_p(want + 4, rec->offset);
    stl_be_p(want + 12, rec->length);
    g_assert_cmpmem(s->buf + s->at, sizeof(want), want, sizeof(want));
}

static bool on_page(void *opaque, const FtPageRecord *rec, Error **errp)
{
    Seen *s = opaque;
    const uint8_t *page = rec->data ?: zeroes;
    FtEncodeStats st = { 0 };
    uint8_t out[FT_RECORD_MAX];
    g_autofree uint8_t *tight = NULL;
    size_t n;

    check_bounds(s, rec);
    check_header(s, rec);
    s->at += FT_RECORD_HEADER + rec->length;
    if (s->rec->len + 1 == s->fail_at) {
        error_setg(errp, "enough");
        return false;
    }
    g_array_append_val(s->rec, *rec);

    n = ft_encode_page(out, sizeof(out), rec->block, rec->offset, page, &st);
    g_assert_cmpuint(st.pages[FT_PAGE_ZERO] + st.pages[FT_PAGE_RAW], ==, 1);
    g_assert_cmpuint(st.bytes[FT_PAGE_ZERO] + st.bytes[FT_PAGE_RAW], ==, n);
    g_byte_array_append(s->again, out, n);
    /* it needs all of that */
    tight = g_malloc(n - 1);
    g_assert_cmpuint(ft_encode_page(tight, n - 1, rec->block, rec->offset,
                                    page, NULL), ==, 0);
    return true;
}

static GByteArray *make_records(FuzzInput *in)
{
    GByteArray *buf = g_byte_array_new();
    unsigned i;

    for (i = 0; i < RECORDS_MAX && in->left > FT_RECORD_HEADER; i++) {
        size_t n;
        g_autofree uint8_t *header = fuzz_block(in, FT_RECORD_HEADER, &n);
        uint8_t how = fuzz_u8(in);
        uint8_t page[FT_PAGE_SIZE];

        /* a length of the kind is not easily guessed either */
        if (how & 0x80) {
            stl_be_p(header + 12, how & 1 ? FT_PAGE_SIZE : 0);
        }
        g_byte_array_append(buf, header, n);
        if (how & 1) {
            memset(page, fills[how >> 1 & 3], sizeof(page));
            page[how << 4] = how >> 3 & 3;
            g_byte_array_append(buf, page, how & 0x40 ? how : sizeof(page));
        }
    }
    g_byte_array_set_size(buf, buf->len - MIN(buf->len, fuzz_u16(in)));
    return buf;
}

static bool decode(Seen *s, FtPageFn *fn, uint64_t *count)
{
    Error *err = NULL;

    *count = UINT64_MAX;
    return fuzz_result(ft_decode_pages(s->buf, s->len, s->table, fn, s,
                                       count, &err), err);
}

/* What was encoded by us decodes to the same pages. */
static void check_again(Seen *s)
{
    g_autoptr(GByteArray) again = g_byte_array_new();
    g_autoptr(GArray) rec = g_array_new(false, false, sizeof(FtPageRecord));
    Seen t = { .buf = s->again->data, .len = s->again->len,
               .table = s->table, .again = again, .rec = rec };
    uint64_t count;
    unsigned i;

    g_assert_true(decode(&t, on_page, &count));
    g_assert_cmpuint(count, ==, s->rec->len);
    g_assert_cmpmem(again->data, again->len, t.buf, t.len);
    for (i = 0; i < rec->len; i++) {
        FtPageRecord *a = &g_array_index(s->rec, FtPageRecord, i);
        FtPageRecord *b = &g_array_index(rec, FtPageRecord, i);

        g_assert_cmpuint(a->block, ==, b->block);
        g_assert_cmpuint(a->offset, ==, b->offset);
        g_assert_cmpmem(a->data ?: zeroes, FT_PAGE_SIZE,
                        b->data ?: zeroes, FT_PAGE_SIZE);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t first = fuzz_u8(&in);
    unsigned blocks = (first & 0x7f) % (BLOCKS_MAX + 1);
    g_autofree uint64_t *length = g_new(uint64_t, blocks);
    FtBlockTable table = { .count = blocks, .length = length };
    g_autofree uint8_t *buf = NULL;
    g_autoptr(GByteArray) made = NULL;
    g_autoptr(GByteArray) again = g_byte_array_new();
    g_autoptr(GArray) rec = g_array_new(false, false, sizeof(FtPageRecord));
    Seen s = { .table = &table, .again = again, .rec = rec };
    uint64_t count, checked;
    bool ok, good;
    unsigned i;

    for (i = 0; i < blocks; i++) {
        /* small, and as large as can be; not always whole pages */
        length[i] = (uint64_t)(int8_t)fuzz_u8(&in) * (FT_PAGE_SIZE / 2);
    }
    s.fail_at = fuzz_u8(&in);
    if (first & AS_THEY_ARE) {
        buf = fuzz_block(&in, in.left, &s.len);
    } else {
        made = make_records(&in);
        s.len = made->len;
        buf = g_memdup2(made->data, made->len);
    }
    s.buf = buf;

    good = decode(&s, NULL, &checked);
    ok = decode(&s, on_page, &count);
    g_assert_cmpuint(count, ==, rec->len);
    if (s.fail_at && checked >= s.fail_at) {
        g_assert_false(ok);
        g_assert_cmpuint(count, ==, s.fail_at - 1);
    } else {
        g_assert_true(ok == good);
        g_assert_cmpuint(count, ==, checked);
    }

    check_again(&s);
    return 0;
}
