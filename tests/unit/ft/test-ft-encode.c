/*
 * Unit tests of migration/ft/encode.c: page records
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "migration/ft/encode.h"

/*
 * Records to decode lie at the very end of an area that is followed by a
 * page without access: a single byte read too many is a SIGSEGV, with or
 * without a sanitizer.
 */
#define AREA (64 * KiB)

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

static const uint64_t lengths[] = {
    16 * MiB, FT_PAGE_SIZE, 0, 5 * FT_PAGE_SIZE + 100, FT_PAGE_SIZE - 1,
    1ull << 40, UINT64_MAX,
};

static const FtBlockTable table = {
    .count = G_N_ELEMENTS(lengths), .length = lengths,
};

static void fill_random(uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        p[i] = g_test_rand_int();
    }
}

static size_t put_record(uint8_t *buf, int kind, int pad, unsigned block,
                         uint64_t offset, uint32_t length)
{
    buf[0] = kind;
    buf[1] = pad;
    stw_be_p(buf + 2, block);
    stq_be_p(buf + 4, offset);
    stl_be_p(buf + 12, length);
    return FT_RECORD_HEADER;
}

static void expect_good(const uint8_t *buf, size_t len, uint64_t want)
{
    g_autoptr(Error) err = NULL;
    uint64_t count = 12345;

    if (!ft_decode_pages(area_put(buf, len), len, &table, NULL, NULL, &count,
                         &err)) {
        g_error("refused: %s", error_get_pretty(err));
    }
    g_assert_null(err);
    g_assert_cmpuint(count, ==, want);
}

static void expect_bad(const uint8_t *buf, size_t len, ...)
{
    g_autoptr(Error) err = NULL;
    const char *word;
    va_list ap;

    g_assert_false(ft_decode_pages(area_put(buf, len), len, &table, NULL,
                                   NULL, NULL, &err));
    g_assert_nonnull(err);
    va_start(ap, len);
    while ((word = va_arg(ap, const char *))) {
        if (!strstr(error_get_pretty(err), word)) {
            g_error("no '%s' in: %s", word, error_get_pretty(err));
        }
    }
    va_end(ap);
}

static void test_encode_layout(void)
{
    uint8_t page[FT_PAGE_SIZE] = { 0 };
    uint8_t buf[FT_RECORD_MAX + 1];
    static const uint8_t zero[FT_RECORD_HEADER] = {
        0, 0, 0x12, 0x34, 0, 0, 0x05, 0x06, 0x07, 0x08, 0x90, 0, 0, 0, 0, 0,
    };
    static const uint8_t raw[FT_RECORD_HEADER] = {
        1, 0, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0,
    };

    memset(buf, 0xee, sizeof(buf));
    g_assert_cmpuint(ft_encode_page(buf, sizeof(buf), 0x1234,
                                    0x050607089000ull, page, NULL),
                     ==, FT_RECORD_HEADER);
    g_assert_cmpmem(buf, FT_RECORD_HEADER, zero, sizeof(zero));
    g_assert_cmphex(buf[FT_RECORD_HEADER], ==, 0xee);

    /* one bit anywhere makes it a page that must travel */
    for (int i = 0; i < FT_PAGE_SIZE; i++) {
        page[i] = 1 << (i % 8);
        memset(buf, 0xee, sizeof(buf));
        g_assert_cmpuint(ft_encode_page(buf, sizeof(buf), 0xfffe, 0, page,
                                        NULL), ==, FT_RECORD_MAX);
        g_assert_cmpmem(buf, FT_RECORD_HEADER, raw, sizeof(raw));
        g_assert_cmpmem(buf + FT_RECORD_HEADER, FT_PAGE_SIZE, page,
                        FT_PAGE_SIZE);
        g_assert_cmphex(buf[FT_RECORD_MAX], ==, 0xee);
        page[i] = 0;
    }
}

static void test_encode_room(void)
{
    uint8_t page[FT_PAGE_SIZE] = { 0 };
    FtEncodeStats stats = { 0 };

    for (int raw = 0; raw < 2; raw++) {
        size_t need = raw ? FT_RECORD_MAX : FT_RECORD_HEADER;

        page[FT_PAGE_SIZE - 1] = raw;
        for (size_t room = 0; room <= FT_RECORD_MAX + 1; room++) {
            g_autofree uint8_t *buf = g_malloc(room + 1);
            size_t n;

            memset(buf, 0xee, room + 1);
            n = ft_encode_page(buf, room, 1, 0, page, &stats);
            g_assert_cmpuint(n, ==, room >= need ? need : 0);
            /* what did not fit has left no trace */
            g_assert_cmphex(buf[n], ==, 0xee);
            g_assert_cmphex(buf[room], ==, 0xee);
        }
    }
    g_assert_cmpuint(stats.pages[FT_PAGE_ZERO], ==,
                     FT_RECORD_MAX + 1 - FT_RECORD_HEADER + 1);
    g_assert_cmpuint(stats.bytes[FT_PAGE_ZERO], ==,
                     stats.pages[FT_PAGE_ZERO] * FT_RECORD_HEADER);
    g_assert_cmpuint(stats.pages[FT_PAGE_RAW], ==, 2);
    g_assert_cmpuint(stats.bytes[FT_PAGE_RAW], ==, 2 * FT_RECORD_MAX);
    for (int kind = FT_PAGE_RAW + 1; kind < FT_PAGE__MAX; kind++) {
        g_assert_cmpuint(stats.pages[kind], ==, 0);
        g_assert_cmpuint(stats.bytes[kind], ==, 0);
    }
}

typedef struct Trip {
    uint8_t *pages;
    uint16_t block[12];
    uint64_t offset[12];
    bool zero[12];
    unsigned n, seen;
    const uint8_t *lo, *hi;
} Trip;

static bool trip_fn(void *opaque, const FtPageRecord *rec, Error **errp)
{
    Trip *t = opaque;
    unsigned i = t->seen++;

    g_assert_cmpuint(i, <, t->n);
    g_assert_cmpuint(rec->block, ==, t->block[i]);
    g_assert_cmphex(rec->offset, ==, t->offset[i]);
    if (t->zero[i]) {
        g_assert_cmpint(rec->kind, ==, FT_PAGE_ZERO);
        g_assert_null(rec->data);
        g_assert_cmpuint(rec->length, ==, 0);
    } else {
        g_assert_cmpint(rec->kind, ==, FT_PAGE_RAW);
        g_assert_cmpmem(rec->data, rec->length, t->pages + i * FT_PAGE_SIZE,
                        FT_PAGE_SIZE);
        /* in the caller's buffer, not a copy */
        g_assert_true(rec->data >= t->lo && rec->data < t->hi);
    }
    return true;
}

static void test_round_trip(void)
{
    g_autofree uint8_t *pages = g_malloc(12 * FT_PAGE_SIZE);
    g_autofree uint8_t *buf = g_malloc(AREA);

    for (int round = 0; round < 200; round++) {
        FtEncodeStats stats = { 0 };
        Trip t = { .pages = pages };
        uint64_t count = 12345, zeroes = 0;
        size_t len = 0;

        t.n = g_test_rand_int_range(0, 13);
        for (unsigned i = 0; i < t.n; i++) {
            static const uint16_t blocks[] = { 0, 1, 3, 5, 6 };
            uint8_t *page = pages + i * FT_PAGE_SIZE;
            size_t n;

            memset(page, 0, FT_PAGE_SIZE);
            t.zero[i] = g_test_rand_bit();
            if (!t.zero[i] && g_test_rand_bit()) {
                fill_random(page, FT_PAGE_SIZE);
            } else if (!t.zero[i]) {
                page[g_test_rand_int_range(0, FT_PAGE_SIZE)] = 1;
            }
            t.block[i] = blocks[g_test_rand_int_range(0, 5)];
            t.offset[i] = (((uint64_t)(uint32_t)g_test_rand_int() << 32) |
                           (uint32_t)g_test_rand_int()) %
                          (lengths[t.block[i]] / FT_PAGE_SIZE) * FT_PAGE_SIZE;
            n = ft_encode_page(buf + len, AREA - len, t.block[i],
                               t.offset[i], page, &stats);
            g_assert_cmpuint(n, ==, t.zero[i] ? 16 : 16 + 4096);
            len += n;
            zeroes += t.zero[i];
        }
        g_assert_cmpuint(stats.pages[FT_PAGE_ZERO], ==, zeroes);
        g_assert_cmpuint(stats.pages[FT_PAGE_RAW], ==, t.n - zeroes);
        g_assert_cmpuint(stats.bytes[FT_PAGE_ZERO] + stats.bytes[FT_PAGE_RAW],
                         ==, len);

        t.lo = area_put(buf, len);
        t.hi = area_end;
        g_assert_true(ft_decode_pages(t.lo, len, &table, trip_fn, &t, &count,
                                      &error_abort));
        g_assert_cmpuint(t.seen, ==, t.n);
        g_assert_cmpuint(count, ==, t.n);
    }
}

static void test_empty(void)
{
    expect_good(NULL, 0, 0);
}

static void test_bad_kind(void)
{
    uint8_t buf[FT_RECORD_MAX] = { 0 };

    for (int kind = 0; kind < 256; kind++) {
        for (int full = 0; full < 2; full++) {
            size_t len = put_record(buf, kind, 0, 0, 0,
                                    full ? FT_PAGE_SIZE : 0);
            g_autofree char *num = g_strdup_printf("kind %d", kind);

            len += full ? FT_PAGE_SIZE : 0;
            if (kind == (full ? FT_PAGE_RAW : FT_PAGE_ZERO)) {
                expect_good(buf, len, 1);
            } else if (kind > FT_PAGE_RAW) {
                expect_bad(buf, len, num, NULL);
            } else {
                expect_bad(buf, len, "length", NULL);
            }
        }
    }
}

static void test_bad_pad(void)
{
    uint8_t buf[FT_RECORD_HEADER];

    for (int pad = 1; pad < 256; pad++) {
        expect_bad(buf, put_record(buf, FT_PAGE_ZERO, pad, 0, 0, 0),
                   "not zero", NULL);
    }
}

static void test_bad_block(void)
{
    uint8_t buf[FT_RECORD_HEADER];
    static const FtBlockTable none = { 0 };
    Error *err = NULL;

    expect_good(buf, put_record(buf, FT_PAGE_ZERO, 0, 6, 0, 0), 1);
    for (unsigned block = G_N_ELEMENTS(lengths); block <= UINT16_MAX; block++) {
        g_autofree char *num = g_strdup_printf("block %u", block);

        expect_bad(buf, put_record(buf, FT_PAGE_ZERO, 0, block, 0, 0),
                   num, NULL);
    }

    put_record(buf, FT_PAGE_ZERO, 0, 0, 0, 0);
    g_assert_false(ft_decode_pages(buf, sizeof(buf), &none, NULL, NULL, NULL,
                                   &err));
    error_free_or_abort(&err);
}

static void test_bad_offset(void)
{
    static const struct {
        unsigned block;
        uint64_t offset;
        bool ok;
    } cases[] = {
        { 0, 0, true },
        { 0, 1, false },
        { 0, 2048, false },
        { 0, 4095, false },
        { 0, 4097, false },
        { 0, 16 * MiB - 4096, true },
        { 0, 16 * MiB, false },
        { 0, 16 * MiB + 4096, false },
        { 1, 0, true },
        { 1, 4096, false },
        { 2, 0, false },            /* a block of no bytes */
        { 3, 4 * 4096, true },
        { 3, 5 * 4096, false },     /* begins inside, ends outside */
        { 4, 0, false },            /* the same, at the beginning */
        { 5, (1ull << 40) - 4096, true },
        { 5, 1ull << 40, false },
        { 6, UINT64_MAX - 8191, true },
        { 6, UINT64_MAX - 4095, false },
        { 0, 1ull << 63, false },
        { 0, (1ull << 63) + 4096, false },
        { 0, 1ull << 32, false },
    };
    uint8_t buf[FT_RECORD_HEADER];

    for (int i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t len = put_record(buf, FT_PAGE_ZERO, 0, cases[i].block,
                                cases[i].offset, 0);

        if (cases[i].ok) {
            expect_good(buf, len, 1);
        } else {
            expect_bad(buf, len, "offset", NULL);
        }
    }
    /* offset + page size wraps to something small: the classic */
    for (uint64_t x = 0; x < 3 * 4096; x++) {
        for (int block = 0; block < 6; block++) {
            expect_bad(buf, put_record(buf, FT_PAGE_ZERO, 0, block,
                                       UINT64_MAX - x, 0), "offset", NULL);
        }
    }
}

static void test_bad_length(void)
{
    g_autofree uint8_t *buf = g_malloc0(3 * FT_RECORD_MAX);
    static const uint32_t bad[] = {
        1, 15, 16, 17, 4095, 4097, 4112, 8192, 65536, INT32_MAX,
        0x80000000u, UINT32_MAX - 16, UINT32_MAX - 15, UINT32_MAX
    };

    for (int i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *num = g_strdup_printf("length %u", bad[i]);

        put_record(buf, FT_PAGE_ZERO, 0, 0, 0, bad[i]);
        expect_bad(buf, 3 * FT_RECORD_MAX, num, NULL);
        put_record(buf, FT_PAGE_RAW, 0, 0, 0, bad[i]);
        expect_bad(buf, 3 * FT_RECORD_MAX, num, NULL);
    }
    put_record(buf, FT_PAGE_RAW, 0, 0, 0, 0);
    expect_bad(buf, 3 * FT_RECORD_MAX, "length 0", NULL);
    put_record(buf, FT_PAGE_ZERO, 0, 0, 0, FT_PAGE_SIZE);
    expect_bad(buf, 3 * FT_RECORD_MAX, "length 4096", NULL);
}

static bool count_fn(void *opaque, const FtPageRecord *rec, Error **errp)
{
    ++*(unsigned *)opaque;
    return true;
}

static void test_truncated(void)
{
    uint8_t buf[2 * FT_RECORD_HEADER + FT_RECORD_MAX];
    const size_t ends[] = {
        0, FT_RECORD_HEADER, FT_RECORD_HEADER + FT_RECORD_MAX, sizeof(buf)
    };
    size_t len = 0;

    len += put_record(buf, FT_PAGE_ZERO, 0, 0, 0, 0);
    len += put_record(buf + len, FT_PAGE_RAW, 0, 0, 4096, FT_PAGE_SIZE);
    fill_random(buf + len, FT_PAGE_SIZE);
    len += FT_PAGE_SIZE;
    len += put_record(buf + len, FT_PAGE_ZERO, 0, 1, 0, 0);
    g_assert_cmpuint(len, ==, sizeof(buf));

    for (size_t cut = 0; cut <= len; cut++) {
        unsigned whole = 0, seen = 0;
        uint64_t count = 12345;
        Error *err = NULL;
        bool ok;

        while (whole + 1 < G_N_ELEMENTS(ends) && ends[whole + 1] <= cut) {
            whole++;
        }
        ok = ft_decode_pages(area_put(buf, cut), cut, &table, count_fn, &seen,
                             &count, &err);
        g_assert_cmpint(ok, ==, ends[whole] == cut);
        g_assert_cmpuint(seen, ==, whole);
        g_assert_cmpuint(count, ==, whole);
        if (!ok) {
            error_free_or_abort(&err);
        }
    }
}

static bool fail_third(void *opaque, const FtPageRecord *rec, Error **errp)
{
    if (++*(unsigned *)opaque == 3) {
        error_setg(errp, "no third");
        return false;
    }
    return true;
}

static void test_callback_fails(void)
{
    uint8_t buf[5 * FT_RECORD_HEADER];
    unsigned calls = 0;
    uint64_t count = 12345;
    Error *err = NULL;

    for (int i = 0; i < 5; i++) {
        put_record(buf + i * FT_RECORD_HEADER, FT_PAGE_ZERO, 0, 0,
                   i * FT_PAGE_SIZE, 0);
    }
    g_assert_false(ft_decode_pages(buf, sizeof(buf), &table, fail_third,
                                   &calls, &count, &err));
    g_assert_cmpstr(error_get_pretty(err), ==, "no third");
    error_free_or_abort(&err);
    g_assert_cmpuint(calls, ==, 3);
    g_assert_cmpuint(count, ==, 2);
}

/* The rules once more, in other words: how many good records, all good? */
static bool reference(const uint8_t *p, size_t len, uint64_t *count)
{
    *count = 0;
    for (size_t at = 0; at < len; ++*count) {
        __uint128_t end;
        uint32_t want;

        if (len - at < 16 || p[at] > 1 || p[at + 1] != 0 ||
            lduw_be_p(p + at + 2) >= G_N_ELEMENTS(lengths)) {
            return false;
        }
        end = (__uint128_t)ldq_be_p(p + at + 4) + 4096;
        want = p[at] ? 4096 : 0;
        if ((p[at + 11] || p[at + 10] & 15) ||
            end > lengths[lduw_be_p(p + at + 2)] ||
            ldl_be_p(p + at + 12) != want || len - at - 16 < want) {
            return false;
        }
        at += 16 + want;
    }
    return true;
}

typedef struct Fuzz {
    const uint8_t *lo;
    uint64_t calls;
    unsigned sum;
} Fuzz;

static bool fuzz_fn(void *opaque, const FtPageRecord *rec, Error **errp)
{
    Fuzz *f = opaque;

    g_assert(rec->block < table.count);
    g_assert(rec->offset % FT_PAGE_SIZE == 0);
    g_assert((__uint128_t)rec->offset + FT_PAGE_SIZE <= lengths[rec->block]);
    if (rec->kind == FT_PAGE_RAW) {
        g_assert(rec->length == FT_PAGE_SIZE);
        g_assert(rec->data >= f->lo + FT_RECORD_HEADER &&
                 rec->data + FT_PAGE_SIZE <= area_end);
        f->sum += rec->data[0] + rec->data[FT_PAGE_SIZE - 1];
    } else {
        g_assert(rec->kind == FT_PAGE_ZERO);
        g_assert(rec->length == 0 && !rec->data);
    }
    f->calls++;
    return true;
}

static uint32_t xorshift(uint32_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 17;
    *s ^= *s << 5;
    return *s;
}

/*
 * A million mutations of a good buffer (fewer on a slow host: it ends after
 * 2.5 s), against the reference.  The buffer is at the area's end and each
 * mutation is undone, so that most rounds are a step away from good.
 */
static void test_fuzz(void)
{
    static const uint64_t nasty[] = {
        0, 1, 2, 255, 4095, 4096, 4097, 16 * MiB - 4096, 16 * MiB,
        INT32_MAX, UINT32_MAX, UINT32_MAX - 15, 1ull << 40, 1ull << 63,
        UINT64_MAX, UINT64_MAX - 4095, UINT64_MAX - 8191,
    };
    g_autofree uint8_t *orig = g_malloc0(AREA);
    int64_t until = g_get_monotonic_time() + 2500 * 1000;
    uint32_t rng = g_test_rand_int() | 1;
    uint64_t good = 0, records = 0;
    size_t starts[10];
    size_t len = 0;
    uint8_t *base;
    Fuzz f = { 0 };
    int i;

    for (i = 0; i < G_N_ELEMENTS(starts); i++) {
        bool raw = i == 3 || i == 8;

        starts[i] = len;
        len += put_record(orig + len, raw, 0, i % 4 == 2 ? 0 : i % 4,
                          i % 4 == 1 ? 0 : i % 3 * FT_PAGE_SIZE,
                          raw ? FT_PAGE_SIZE : 0);
        if (raw) {
            fill_random(orig + len, FT_PAGE_SIZE);
            len += FT_PAGE_SIZE;
        }
    }
    base = area_put(orig, len);

    for (i = 0; i < 1000000; i++) {
        unsigned muts = 1 + xorshift(&rng) % 3;
        struct { size_t at, n; } undo[3];
        Error *err = NULL;
        uint64_t count, want_count;
        size_t from;
        bool ok, want;

        if (i % 1024 == 0 && g_get_monotonic_time() > until) {
            break;
        }
        for (unsigned m = 0; m < muts; m++) {
            static const uint8_t field_at[] = { 0, 1, 2, 4, 12 };
            static const uint8_t field_n[] = { 1, 1, 2, 8, 4 };
            uint32_t r = xorshift(&rng);
            unsigned field = r % 5;
            size_t rec = starts[(r >> 8) % G_N_ELEMENTS(starts)];
            uint64_t v = nasty[(r >> 16) % G_N_ELEMENTS(nasty)];

            switch ((r >> 24) % 4) {
            case 0:     /* any bit of any byte */
                undo[m].at = xorshift(&rng) % len;
                undo[m].n = 1;
                base[undo[m].at] ^= 1 << (r % 8);
                continue;
            case 1:     /* one byte of a record's header */
                undo[m].at = rec + (r >> 4) % FT_RECORD_HEADER;
                undo[m].n = 1;
                base[undo[m].at] = v;
                continue;
            case 2:     /* a small legal-looking value in a field */
                v = (uint64_t)(r >> 16) % 8 * (field >= 3 ? FT_PAGE_SIZE : 1);
                break;
            default:    /* a nasty one */
                break;
            }
            undo[m].at = rec + field_at[field];
            undo[m].n = field_n[field];
            for (unsigned b = 0; b < undo[m].n; b++) {
                base[undo[m].at + b] = v >> (8 * (undo[m].n - 1 - b));
            }
        }
        /* mostly all of it, else from a record or a byte of it onwards */
        from = xorshift(&rng) % 8 ? 0 :
               rng & 8 ? starts[(rng >> 8) % 10] : (rng >> 8) % (len + 1);

        f.lo = base + from;
        f.calls = 0;
        count = 12345;
        ok = ft_decode_pages(base + from, len - from, &table, fuzz_fn, &f,
                             &count, &err);
        want = reference(base + from, len - from, &want_count);
        g_assert(ok == want);
        g_assert(ok == !err);
        g_assert(count == want_count);
        g_assert(f.calls == want_count);
        error_free(err);
        good += ok;
        records += count;

        for (unsigned m = 0; m < muts; m++) {
            memcpy(base + undo[m].at, orig + undo[m].at, undo[m].n);
        }
    }
    g_assert_cmpmem(base, len, orig, len);
    g_test_message("%d mutations, %" PRIu64 " of them good, %" PRIu64
                   " records passed on (%u)", i, good, records, f.sum);
    g_assert_cmpuint(good, >, i / 100);
    g_assert_cmpuint(good, <, i / 2);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    area_init();

    g_test_add_func("/ft/encode/layout", test_encode_layout);
    g_test_add_func("/ft/encode/room", test_encode_room);
    g_test_add_func("/ft/encode/round-trip", test_round_trip);
    g_test_add_func("/ft/decode/empty", test_empty);
    g_test_add_func("/ft/decode/bad-kind", test_bad_kind);
    g_test_add_func("/ft/decode/bad-pad", test_bad_pad);
    g_test_add_func("/ft/decode/bad-block", test_bad_block);
    g_test_add_func("/ft/decode/bad-offset", test_bad_offset);
    g_test_add_func("/ft/decode/bad-length", test_bad_length);
    g_test_add_func("/ft/decode/truncated", test_truncated);
    g_test_add_func("/ft/decode/callback-fails", test_callback_fails);
    g_test_add_func("/ft/decode/fuzz", test_fuzz);

    return g_test_run();
}
