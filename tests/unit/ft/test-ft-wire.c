/*
 * Unit tests of migration/ft/wire.c: frames on the wire
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The source is included, not linked: both ways to compute the checksum are
 * static there, and a host only ever takes one of them.
 */

#include "qemu/osdep.h"
#include "migration/ft/wire.c"

/* Every type and what may come with it, written down a second time. */
static const struct {
    FtFrameType type;
    const char *name;
    uint32_t min, max;
    uint16_t flags;
} rules[] = {
    { FT_FRAME_HELLO, "HELLO", 64, 64, 0 },
    { FT_FRAME_WELCOME, "WELCOME", 64, 64, 0 },
    { FT_FRAME_MACHINE, "MACHINE", 0, 1048576, 0 },
    { FT_FRAME_READY, "READY", 0, 1024, 0 },
    { FT_FRAME_PAGES, "PAGES", 0, 1048576, 1 },
    { FT_FRAME_DEVICES, "DEVICES", 0, 1048576, 1 },
    { FT_FRAME_EPOCH_END, "EPOCH_END", 72, 72, 7 },
    { FT_FRAME_JOURNAL, "JOURNAL", 0, 1048576, 0 },
    { FT_FRAME_SAMPLES, "SAMPLES", 0, 1048576, 0 },
    { FT_FRAME_ACK, "ACK", 0, 8, 0 },
    { FT_FRAME_DISARM, "DISARM", 0, 1024, 0 },
    { FT_FRAME_FAILOVER, "FAILOVER", 0, 1024, 8 },
    { FT_FRAME_FENCED, "FENCED", 0, 1024, 0 },
    { FT_FRAME_HEARTBEAT, "HEARTBEAT", 16, 16, 0 },
    { FT_FRAME_ERROR, "ERROR", 0, 1048576, 0 },
};

static void fill_random(void *buf, size_t len)
{
    uint8_t *p = buf;

    for (size_t i = 0; i < len; i++) {
        p[i] = g_test_rand_int();
    }
}

static uint64_t rand64(void)
{
    return (uint64_t)(uint32_t)g_test_rand_int() << 32 |
           (uint32_t)g_test_rand_int();
}

/* The definition: bit by bit, reflected polynomial 0x82f63b78. */
static uint32_t crc_by_bits(uint32_t crc, const uint8_t *p, size_t len)
{
    crc = ~crc;
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++) {
            crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
        }
    }
    return ~crc;
}

/* The header's fields by hand, so that any value can be put there. */
static void raw_header(uint8_t *buf, uint32_t magic, uint8_t version,
                       uint8_t type, uint16_t flags, uint64_t epoch,
                       uint32_t length, uint32_t payload_crc)
{
    uint32_t words[7] = {
        cpu_to_be32(magic),
        cpu_to_be32((uint32_t)version << 24 | (uint32_t)type << 16 | flags),
        cpu_to_be32(epoch >> 32), cpu_to_be32(epoch),
        cpu_to_be32(length), cpu_to_be32(payload_crc), 0
    };

    QEMU_BUILD_BUG_ON(sizeof(words) != FT_WIRE_HEADER);
    words[6] = cpu_to_be32(crc_by_bits(0, (uint8_t *)words, 24));
    memcpy(buf, words, sizeof(words));
}

static void expect_ok(const uint8_t *buf, FtFrame *f)
{
    g_autoptr(Error) err = NULL;

    if (!ft_wire_get_header(buf, f, &err)) {
        g_error("refused: %s", error_get_pretty(err));
    }
    g_assert_null(err);
}

/* Refused, and the message has each of the (NULL-terminated) words in it. */
static void expect_bad(const uint8_t *buf, ...)
{
    g_autoptr(Error) err = NULL;
    FtFrame f, before;
    const char *word;
    va_list ap;

    memset(&f, 0x5a, sizeof(f));
    before = f;
    g_assert_false(ft_wire_get_header(buf, &f, &err));
    g_assert_nonnull(err);
    /* a caller that forgets to look must not find half a frame */
    g_assert_cmpmem(&f, sizeof(f), &before, sizeof(before));

    va_start(ap, buf);
    while ((word = va_arg(ap, const char *))) {
        if (!strstr(error_get_pretty(err), word)) {
            g_error("no '%s' in: %s", word, error_get_pretty(err));
        }
    }
    va_end(ap);
}

static void test_crc_known(void)
{
    static const uint8_t read_pdu[48] = {
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
        0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    };
    uint8_t buf[32];

    g_assert_cmphex(ft_wire_crc32c(0, "", 0), ==, 0);
    g_assert_cmphex(ft_wire_crc32c(0, NULL, 0), ==, 0);
    g_assert_cmphex(ft_wire_crc32c(0xdeadbeef, NULL, 0), ==, 0xdeadbeef);
    g_assert_cmphex(ft_wire_crc32c(0, "123456789", 9), ==, 0xe3069283);

    /* RFC 3720 B.4; the RFC prints the bytes as sent, lowest first */
    memset(buf, 0, sizeof(buf));
    g_assert_cmphex(ft_wire_crc32c(0, buf, 32), ==, 0x8a9136aa);
    memset(buf, 0xff, sizeof(buf));
    g_assert_cmphex(ft_wire_crc32c(0, buf, 32), ==, 0x62a8ab43);
    for (int i = 0; i < 32; i++) {
        buf[i] = i;
    }
    g_assert_cmphex(ft_wire_crc32c(0, buf, 32), ==, 0x46dd794e);
    for (int i = 0; i < 32; i++) {
        buf[i] = 31 - i;
    }
    g_assert_cmphex(ft_wire_crc32c(0, buf, 32), ==, 0x113fdb5c);
    g_assert_cmphex(ft_wire_crc32c(0, read_pdu, 48), ==, 0xd9963a56);
}

static void check_crc(uint32_t start, const uint8_t *p, size_t len)
{
    uint32_t want = crc_by_bits(start, p, len);
    size_t cut = len ? g_test_rand_int_range(0, len + 1) : 0;

    g_assert_cmphex(ft_wire_crc32c(start, p, len), ==, want);
    g_assert_cmphex(crc32c_soft(start, p, len), ==, want);
#ifdef FT_CRC32C_HARD
    if (crc32c_hard_usable()) {
        g_assert_cmphex(crc32c_hard(start, p, len), ==, want);
        /* chaining, across the two ways as well */
        g_assert_cmphex(crc32c_hard(crc32c_soft(start, p, cut),
                                    p + cut, len - cut), ==, want);
        g_assert_cmphex(crc32c_soft(crc32c_hard(start, p, cut),
                                    p + cut, len - cut), ==, want);
    }
#endif
    g_assert_cmphex(ft_wire_crc32c(ft_wire_crc32c(start, p, cut),
                                   p + cut, len - cut), ==, want);
}

static void test_crc_ways(void)
{
    g_autofree uint8_t *buf = g_malloc(8192 + 64);
    bool hard = false;

#ifdef FT_CRC32C_HARD
    hard = crc32c_hard_usable();
#endif
    g_test_message("the CPU's instruction is %s", hard ? "tested" : "absent");
    fill_random(buf, 8192 + 64);

    for (size_t align = 0; align < 16; align++) {
        for (size_t len = 0; len <= 64; len++) {
            check_crc(0, buf + align, len);
        }
    }
    for (int i = 0; i < 2000; i++) {
        check_crc(g_test_rand_int(), buf + g_test_rand_int_range(0, 64),
                  g_test_rand_int_range(0, i % 20 ? 300 : 8192));
    }
}

static void test_header_layout(void)
{
    static const uint8_t want[24] = {
        'C', 'U', 'J', 'U', 1, 10, 0x00, 0x05,
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
        0, 0, 0, FT_EPOCH_END_SIZE, 0xca, 0xfe, 0xba, 0xbe,
    };
    FtFrame f = {
        .type = FT_FRAME_EPOCH_END,
        .flags = FT_FLAG_SYNC | FT_FLAG_HASH,
        .epoch = 0x0102030405060708ull,
        .length = FT_EPOCH_END_SIZE,
        .payload_crc = 0xcafebabe,
    };
    uint8_t buf[FT_WIRE_HEADER + 2];

    memset(buf, 0xee, sizeof(buf));
    ft_wire_put_header(buf + 1, &f);
    g_assert_cmpmem(buf + 1, 24, want, 24);
    g_assert_cmphex((uint32_t)ldl_be_p(buf + 25), ==,
                    crc_by_bits(0, want, 24));
    g_assert_cmphex(buf[0], ==, 0xee);
    g_assert_cmphex(buf[FT_WIRE_HEADER + 1], ==, 0xee);
}

static void test_header_round_trip(void)
{
    uint8_t buf[FT_WIRE_HEADER];

    for (int i = 0; i < 20000; i++) {
        unsigned r = g_test_rand_int_range(0, G_N_ELEMENTS(rules));
        FtFrame got, f = {
            .type = rules[r].type,
            .flags = g_test_rand_int() & rules[r].flags,
            .epoch = i & 1 ? rand64() : UINT64_MAX - (i >> 1),
            .length = g_test_rand_int_range(rules[r].min, rules[r].max + 1),
            .payload_crc = g_test_rand_int(),
        };

        ft_wire_put_header(buf, &f);
        expect_ok(buf, &got);
        g_assert_cmpint(got.type, ==, f.type);
        g_assert_cmphex(got.flags, ==, f.flags);
        g_assert_cmphex(got.epoch, ==, f.epoch);
        g_assert_cmpuint(got.length, ==, f.length);
        g_assert_cmphex(got.payload_crc, ==, f.payload_crc);
    }
}

static void test_header_bit_flips(void)
{
    uint8_t buf[FT_WIRE_HEADER];

    for (unsigned r = 0; r < G_N_ELEMENTS(rules); r++) {
        FtFrame f = {
            .type = rules[r].type,
            .epoch = rand64(),
            .length = rules[r].max,
            .payload_crc = g_test_rand_int(),
        };

        ft_wire_put_header(buf, &f);
        expect_ok(buf, &f);
        for (int bit = 0; bit < FT_WIRE_HEADER * 8; bit++) {
            buf[bit / 8] ^= 1 << (bit % 8);
            expect_bad(buf, NULL);
            buf[bit / 8] ^= 1 << (bit % 8);
        }
        expect_ok(buf, &f);
    }
}

static void test_header_fields(void)
{
    uint8_t buf[FT_WIRE_HEADER];
    FtFrame f;

    raw_header(buf, 0x43554a55, 1, FT_FRAME_ACK, 0, 9, 0, 0);
    expect_ok(buf, &f);
    raw_header(buf, 0x47455420, 1, FT_FRAME_ACK, 0, 9, 0, 0);
    expect_bad(buf, "magic", "47455420", NULL);
    for (int bit = 0; bit < 32; bit++) {
        raw_header(buf, FT_WIRE_MAGIC ^ 1u << bit, 1, FT_FRAME_ACK, 0, 9, 0,
                   0);
        expect_bad(buf, "magic", NULL);
    }

    for (int version = 0; version < 256; version++) {
        if (version != 1) {
            g_autofree char *num = g_strdup_printf("version %d", version);

            raw_header(buf, FT_WIRE_MAGIC, version, FT_FRAME_ACK, 0, 9, 0, 0);
            expect_bad(buf, num, NULL);
        }
    }

    raw_header(buf, FT_WIRE_MAGIC, 1, FT_FRAME_ACK, 0, 9, 0, 0);
    buf[27] ^= 0x10;
    expect_bad(buf, "checksum", NULL);
}

static void test_header_types(void)
{
    uint8_t buf[FT_WIRE_HEADER];
    FtFrame f;

    for (int type = 0; type < 256; type++) {
        unsigned r = 0;

        while (r < G_N_ELEMENTS(rules) && rules[r].type != type) {
            r++;
        }
        if (r < G_N_ELEMENTS(rules)) {
            raw_header(buf, FT_WIRE_MAGIC, 1, type, 0, 1, rules[r].min, 0);
            expect_ok(buf, &f);
            g_assert_cmpint(f.type, ==, type);
            g_assert_cmpstr(ft_wire_type_name(type), ==, rules[r].name);
        } else {
            g_autofree char *num = g_strdup_printf("type %d", type);

            raw_header(buf, FT_WIRE_MAGIC, 1, type, 0, 1, 0, 0);
            expect_bad(buf, num, NULL);
            g_assert_cmpstr(ft_wire_type_name(type), ==, "unknown");
        }
    }
    g_assert_cmpstr(ft_wire_type_name(256), ==, "unknown");
    g_assert_cmpstr(ft_wire_type_name(-1), ==, "unknown");
}

static void test_header_flags(void)
{
    uint8_t buf[FT_WIRE_HEADER];
    FtFrame f;

    for (unsigned r = 0; r < G_N_ELEMENTS(rules); r++) {
        for (uint32_t flags = 0; flags <= UINT16_MAX; flags++) {
            if (flags > 64 && (flags & (flags - 1))) {
                continue;       /* all below 64, and each bit alone */
            }
            raw_header(buf, FT_WIRE_MAGIC, 1, rules[r].type, flags, 1,
                       rules[r].min, 0);
            if (flags & ~rules[r].flags) {
                expect_bad(buf, "flags", rules[r].name, NULL);
            } else {
                expect_ok(buf, &f);
                g_assert_cmphex(f.flags, ==, flags);
            }
        }
    }
}

static void test_header_lengths(void)
{
    uint8_t buf[FT_WIRE_HEADER];
    FtFrame f;

    for (unsigned r = 0; r < G_N_ELEMENTS(rules); r++) {
        uint32_t lengths[] = {
            0, 1, 7, 8, 9, 15, 16, 17, 48, 63, 64, 65, 1023, 1024, 1025,
            1048575, 1048576, 1048577, 9999999, INT32_MAX,
            (uint32_t)INT32_MAX + 1, UINT32_MAX
        };

        for (int i = 0; i < G_N_ELEMENTS(lengths); i++) {
            uint32_t len = lengths[i];
            g_autofree char *claim = g_strdup_printf("%u bytes", len);
            g_autofree char *limit = g_strdup_printf("%u", rules[r].max);

            raw_header(buf, FT_WIRE_MAGIC, 1, rules[r].type, 0, 1, len, 0);
            if (len >= rules[r].min && len <= rules[r].max) {
                expect_ok(buf, &f);
                g_assert_cmpuint(f.length, ==, len);
            } else {
                expect_bad(buf, rules[r].name, claim, limit, NULL);
            }
        }
    }
}

static bool header_ok_by_rules(const uint8_t *buf)
{
    if (ldl_be_p(buf) != FT_WIRE_MAGIC || buf[4] != 1 ||
        ldl_be_p(buf + 24) != crc_by_bits(0, buf, 24)) {
        return false;
    }
    for (unsigned r = 0; r < G_N_ELEMENTS(rules); r++) {
        if (rules[r].type == buf[5]) {
            uint32_t len = ldl_be_p(buf + 16);

            return !(lduw_be_p(buf + 6) & ~rules[r].flags) &&
                   len >= rules[r].min && len <= rules[r].max;
        }
    }
    return false;
}

static void test_header_fuzz(void)
{
    uint8_t buf[FT_WIRE_HEADER];
    unsigned good = 0;

    for (int i = 0; i < 200000; i++) {
        g_autoptr(Error) err = NULL;
        FtFrame f;
        bool ok;

        fill_random(buf, sizeof(buf));
        /* random bytes alone would never get past the magic */
        if (i % 8) {
            stl_be_p(buf, FT_WIRE_MAGIC);
            buf[4] = i % 8 == 1 ? buf[4] : 1;
            buf[5] %= 28;
            stw_be_p(buf + 6, lduw_be_p(buf + 6) >> (buf[9] % 20));
            stl_be_p(buf + 16, (uint32_t)ldl_be_p(buf + 16) >> (buf[8] % 32));
            if (i % 8 > 2) {
                stl_be_p(buf + 24, crc_by_bits(0, buf, 24));
            }
        }
        ok = ft_wire_get_header(buf, &f, &err);
        g_assert_cmpint(ok, ==, header_ok_by_rules(buf));
        g_assert_cmpint(ok, ==, !err);
        if (ok) {
            uint8_t again[FT_WIRE_HEADER];

            ft_wire_put_header(again, &f);
            g_assert_cmpmem(again, sizeof(again), buf, sizeof(buf));
            good++;
        }
    }
    g_test_message("%u of 200000 headers were good", good);
    g_assert_cmpuint(good, >, 1000);
}

static void test_payload(void)
{
    g_autofree uint8_t *buf = g_malloc(FT_WIRE_PAYLOAD_MAX);
    FtFrame f = { .type = FT_FRAME_PAGES, .epoch = 77 };
    Error *err = NULL;

    g_assert_true(ft_wire_check_payload(&f, NULL, &error_abort));

    fill_random(buf, FT_WIRE_PAYLOAD_MAX);
    f.length = FT_WIRE_PAYLOAD_MAX;
    f.payload_crc = crc_by_bits(0, buf, f.length);
    g_assert_true(ft_wire_check_payload(&f, buf, &error_abort));

    for (int i = 0; i < 200; i++) {
        uint32_t bit = g_test_rand_int_range(0, FT_WIRE_PAYLOAD_MAX * 8);

        /* and the very first and last */
        bit = i == 0 ? 0 : i == 1 ? FT_WIRE_PAYLOAD_MAX * 8 - 1 : bit;
        buf[bit / 8] ^= 1 << (bit % 8);
        g_assert_false(ft_wire_check_payload(&f, buf, &err));
        g_assert_nonnull(strstr(error_get_pretty(err), "PAGES"));
        g_assert_nonnull(strstr(error_get_pretty(err), "77"));
        g_assert_nonnull(strstr(error_get_pretty(err), "1048576"));
        error_free_or_abort(&err);
        buf[bit / 8] ^= 1 << (bit % 8);
    }

    /* no byte is left out, whatever the length */
    for (f.length = 1; f.length <= 40; f.length++) {
        f.payload_crc = crc_by_bits(0, buf, f.length);
        for (unsigned i = 0; i <= f.length; i++) {
            buf[i] ^= 0x40;
            g_assert_cmpint(ft_wire_check_payload(&f, buf, NULL), ==,
                            i == f.length);
            buf[i] ^= 0x40;
        }
    }

    f.payload_crc ^= 1;
    g_assert_false(ft_wire_check_payload(&f, buf, &err));
    error_free_or_abort(&err);

    f.length = 0;
    f.payload_crc = 1;
    g_assert_false(ft_wire_check_payload(&f, NULL, &err));
    error_free_or_abort(&err);
}

static void random_hello(FtHello *h)
{
    memset(h, 0, sizeof(*h));
    fill_random(h->session, sizeof(h->session));
    fill_random(h->token, sizeof(h->token));
    h->channel = g_test_rand_int_range(FT_CHANNEL_DATA, FT_CHANNEL_HEART + 1);
    h->drive = h->channel == FT_CHANNEL_DISK ? g_test_rand_int() : 0;
    h->features = rand64();
    h->page_size = g_test_rand_int();
    h->generation = rand64();
}

static void test_hello_round_trip(void)
{
    uint8_t buf[FT_HELLO_SIZE + 2];

    for (int i = 0; i < 1000; i++) {
        FtHello h, got;

        random_hello(&h);
        memset(buf, 0xee, sizeof(buf));
        ft_wire_put_hello(buf + 1, &h);
        g_assert_cmphex(buf[0], ==, 0xee);
        g_assert_cmphex(buf[FT_HELLO_SIZE + 1], ==, 0xee);
        g_assert_true(ft_wire_get_hello(buf + 1, FT_HELLO_SIZE, &got,
                                        &error_abort));
        g_assert_cmpmem(got.session, 16, h.session, 16);
        g_assert_cmpmem(got.token, 16, h.token, 16);
        g_assert_cmpint(got.channel, ==, h.channel);
        g_assert_cmphex(got.features, ==, h.features);
        g_assert_cmpuint(got.page_size, ==, h.page_size);
        g_assert_cmphex(got.generation, ==, h.generation);
        g_assert_cmpuint(got.drive, ==, h.drive);
    }
}

static void test_hello_layout(void)
{
    uint8_t want[FT_HELLO_SIZE] = {
        [32] = 0, 0, 0, 2, 0, 0, 0x10, 0,
        [40] = 0, 0, 0, 0, 0, 0, 0, 1,
        [48] = 1, 2, 3, 4, 5, 6, 7, 8,
    };
    uint8_t buf[FT_HELLO_SIZE];
    FtHello h = {
        .channel = FT_CHANNEL_CONTROL,
        .features = FT_FEATURE_HASH,
        .page_size = 4096,
        .generation = 0x0102030405060708ull,
    };

    memset(h.session, 0xa1, 16);
    memset(h.token, 0xb2, 16);
    memset(want, 0xa1, 16);
    memset(want + 16, 0xb2, 16);
    ft_wire_put_hello(buf, &h);
    g_assert_cmpmem(buf, sizeof(buf), want, sizeof(want));

    h.channel = FT_CHANNEL_HEART;
    want[35] = 4;
    ft_wire_put_hello(buf, &h);
    g_assert_cmpmem(buf, sizeof(buf), want, sizeof(want));

    h.channel = FT_CHANNEL_DISK;
    h.drive = 0x01020304;
    want[35] = 3;
    memcpy(want + 56, "\1\2\3\4", 4);
    ft_wire_put_hello(buf, &h);
    g_assert_cmpmem(buf, sizeof(buf), want, sizeof(want));
}

static void expect_bad_hello(const uint8_t *buf, size_t len, const char *word)
{
    /* an exact copy, so that a sanitizer sees a byte read too many */
    g_autofree uint8_t *copy = g_memdup2(buf, len);
    g_autoptr(Error) err = NULL;
    FtHello h;

    g_assert_false(ft_wire_get_hello(copy, len, &h, &err));
    g_assert_nonnull(err);
    if (!strstr(error_get_pretty(err), word)) {
        g_error("no '%s' in: %s", word, error_get_pretty(err));
    }
}

static void test_hello_bad(void)
{
    uint8_t buf[FT_HELLO_SIZE + 1] = { 0 };
    FtHello h;

    random_hello(&h);
    ft_wire_put_hello(buf, &h);
    for (size_t len = 0; len <= FT_HELLO_SIZE + 1; len++) {
        if (len != FT_HELLO_SIZE) {
            g_autofree char *num = g_strdup_printf("%zu bytes", len);

            expect_bad_hello(buf, len, num);
        }
    }
    /* only a disk's hello is for a drive; the last four bytes are nobody's */
    for (h.channel = FT_CHANNEL_DATA; h.channel <= FT_CHANNEL_HEART;
         h.channel++) {
        bool disk = h.channel == FT_CHANNEL_DISK;

        h.drive = disk ? g_test_rand_int() : 0;
        ft_wire_put_hello(buf, &h);
        for (int bit = (disk ? 60 : 56) * 8; bit < 64 * 8; bit++) {
            buf[bit / 8] ^= 1 << (bit % 8);
            expect_bad_hello(buf, FT_HELLO_SIZE, "not zero");
            buf[bit / 8] ^= 1 << (bit % 8);
        }
    }
    for (int i = 0; i < 32; i++) {
        uint32_t channels[] = { 0, 5, 1u << i | 5, UINT32_MAX - i };

        for (int c = 0; c < G_N_ELEMENTS(channels); c++) {
            g_autofree char *num = g_strdup_printf("channel %u", channels[c]);

            stl_be_p(buf + 32, channels[c]);
            expect_bad_hello(buf, FT_HELLO_SIZE, num);
        }
    }
}

static void test_epoch_end(void)
{
    uint8_t buf[FT_EPOCH_END_SIZE + 2];
    FtEpochEnd e, got;
    Error *err = NULL;

    for (int i = 0; i < 1000; i++) {
        e = (FtEpochEnd) {
            .pages = rand64(), .page_bytes = rand64(),
            .device_bytes = rand64(), .ram_hash = rand64(),
            .dev_hash = rand64(), .journal_bytes = rand64(),
            .journal_records = rand64(), .on_disk = rand64(),
            .age_us = rand64(),
        };
        memset(buf, 0xee, sizeof(buf));
        ft_wire_put_epoch_end(buf + 1, &e);
        g_assert_cmphex(buf[0], ==, 0xee);
        g_assert_cmphex(buf[FT_EPOCH_END_SIZE + 1], ==, 0xee);
        g_assert_cmphex(ldq_be_p(buf + 1), ==, e.pages);
        g_assert_cmphex(ldq_be_p(buf + 9), ==, e.page_bytes);
        g_assert_cmphex(ldq_be_p(buf + 17), ==, e.device_bytes);
        g_assert_cmphex(ldq_be_p(buf + 25), ==, e.ram_hash);
        g_assert_cmphex(ldq_be_p(buf + 33), ==, e.dev_hash);
        g_assert_cmphex(ldq_be_p(buf + 41), ==, e.journal_bytes);
        g_assert_cmphex(ldq_be_p(buf + 49), ==, e.journal_records);
        g_assert_cmphex(ldq_be_p(buf + 57), ==, e.on_disk);
        g_assert_cmphex(ldq_be_p(buf + 65), ==, e.age_us);
        memset(&got, 0x5a, sizeof(got));
        g_assert_true(ft_wire_get_epoch_end(buf + 1, FT_EPOCH_END_SIZE, &got,
                                            &error_abort));
        g_assert_cmpmem(&got, sizeof(got), &e, sizeof(e));
    }

    ft_wire_put_epoch_end(buf, &e);
    for (size_t len = 0; len <= FT_EPOCH_END_SIZE + 1; len++) {
        g_autofree uint8_t *copy = g_memdup2(buf, len);

        if (len != FT_EPOCH_END_SIZE) {
            g_assert_false(ft_wire_get_epoch_end(copy, len, &got, &err));
            error_free_or_abort(&err);
        }
    }
    /* no byte is left out, and none is anybody's but its own field's */
    for (int i = 0; i < FT_EPOCH_END_SIZE; i++) {
        uint8_t again[FT_EPOCH_END_SIZE];

        buf[i] ^= 0x40;
        g_assert_true(ft_wire_get_epoch_end(buf, FT_EPOCH_END_SIZE, &got,
                                            &error_abort));
        ft_wire_put_epoch_end(again, &got);
        g_assert_cmpmem(again, sizeof(again), buf, FT_EPOCH_END_SIZE);
        buf[i] ^= 0x40;
    }
}

static void test_heartbeat(void)
{
    static const uint8_t want[FT_HEARTBEAT_SIZE] = {
        1, 2, 3, 4, 5, 6, 7, 8, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    };
    uint8_t buf[FT_HEARTBEAT_SIZE + 2];
    FtHeartbeat got, hb = {
        .number = 0x0102030405060708ull, .echo = 0xf1f2f3f4f5f6f7f8ull,
    };

    memset(buf, 0xee, sizeof(buf));
    ft_wire_put_heartbeat(buf + 1, &hb);
    g_assert_cmpmem(buf + 1, FT_HEARTBEAT_SIZE, want, sizeof(want));
    g_assert_cmphex(buf[0], ==, 0xee);
    g_assert_cmphex(buf[FT_HEARTBEAT_SIZE + 1], ==, 0xee);

    for (int i = 0; i < 1000; i++) {
        hb = (FtHeartbeat) { .number = rand64(), .echo = rand64() };
        ft_wire_put_heartbeat(buf, &hb);
        g_assert_true(ft_wire_get_heartbeat(buf, FT_HEARTBEAT_SIZE, &got,
                                            &error_abort));
        g_assert_cmphex(got.number, ==, hb.number);
        g_assert_cmphex(got.echo, ==, hb.echo);
    }

    for (size_t len = 0; len <= FT_HEARTBEAT_SIZE + 1; len++) {
        g_autofree uint8_t *copy = g_memdup2(buf, len);
        g_autofree char *num = g_strdup_printf("%zu bytes", len);
        g_autoptr(Error) err = NULL;
        FtHeartbeat before = got;

        if (len != FT_HEARTBEAT_SIZE) {
            g_assert_false(ft_wire_get_heartbeat(copy, len, &got, &err));
            g_assert_nonnull(strstr(error_get_pretty(err), num));
            g_assert_cmpmem(&got, sizeof(got), &before, sizeof(before));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/wire/crc/known", test_crc_known);
    g_test_add_func("/ft/wire/crc/ways", test_crc_ways);
    g_test_add_func("/ft/wire/header/layout", test_header_layout);
    g_test_add_func("/ft/wire/header/round-trip", test_header_round_trip);
    g_test_add_func("/ft/wire/header/bit-flips", test_header_bit_flips);
    g_test_add_func("/ft/wire/header/fields", test_header_fields);
    g_test_add_func("/ft/wire/header/types", test_header_types);
    g_test_add_func("/ft/wire/header/flags", test_header_flags);
    g_test_add_func("/ft/wire/header/lengths", test_header_lengths);
    g_test_add_func("/ft/wire/header/fuzz", test_header_fuzz);
    g_test_add_func("/ft/wire/payload", test_payload);
    g_test_add_func("/ft/wire/hello/round-trip", test_hello_round_trip);
    g_test_add_func("/ft/wire/hello/layout", test_hello_layout);
    g_test_add_func("/ft/wire/hello/bad", test_hello_bad);
    g_test_add_func("/ft/wire/epoch-end", test_epoch_end);
    g_test_add_func("/ft/wire/heartbeat", test_heartbeat);

    return g_test_run();
}
