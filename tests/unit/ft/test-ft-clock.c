/*
 * Unit test of the record of the guest's clocks
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "migration/ft/clock.h"

/* Exactly as long as it says, so that a sanitizer sees what is beyond. */
static size_t load(FtClock *c, const uint8_t *data, size_t len)
{
    g_autofree uint8_t *own = g_memdup2(data, len);
    Error *err = NULL;
    size_t used = ft_clock_load(c, own, len, &err);

    g_assert_cmpint(used == 0, ==, err != NULL);
    error_free(err);
    return used;
}

static void test_round_trip(void)
{
    for (unsigned n = 0; n < 5; n++) {
        g_autoptr(GByteArray) buf = g_byte_array_new();
        int64_t apart[] = { 0, -1, INT64_MIN, INT64_MAX };
        FtClock in = { n > 0, 0x0102030405060708, UINT64_MAX - 1, n, apart };
        FtClock out;
        size_t whole;

        ft_clock_write(&in, buf);
        whole = buf->len;
        g_assert_cmpuint(whole, ==, n ? 20 + 8 * n : 4);
        /* the device state, of which nothing is taken */
        g_byte_array_append(buf, (const uint8_t *)"QEVM", 4);

        g_assert_cmpuint(load(&out, buf->data, buf->len), ==, whole);
        g_assert_cmpint(out.valid, ==, n > 0);
        g_assert_cmpuint(out.vcpus, ==, n);
        if (n) {
            g_assert_cmpuint(out.kvmclock, ==, in.kvmclock);
            g_assert_cmpuint(out.tsc, ==, in.tsc);
            g_assert_cmpmem(out.apart, 8 * n, apart, 8 * n);
        }
        ft_clock_clear(&out);

        for (size_t cut = 0; cut < whole; cut++) {
            g_assert_cmpuint(load(&out, buf->data, cut), ==, 0);
            g_assert_null(out.apart);
        }
    }
}

static void test_lengths(void)
{
    size_t size = 4 + 16 + 8 * 65536 + 16;
    g_autofree uint8_t *data = g_malloc0(size);
    const uint32_t bad[] = { 1, 8, 16, 20, 23, 25, 31, 16 + 8 * 65537,
                             0x80000000, UINT32_MAX - 7, UINT32_MAX };
    FtClock c;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        stl_be_p(data, bad[i]);
        g_assert_cmpuint(load(&c, data, size), ==, 0);
    }
    stl_be_p(data, 16 + 8 * 65536);
    g_assert_cmpuint(load(&c, data, size), ==, 4 + 16 + 8 * 65536);
    g_assert_cmpuint(c.vcpus, ==, 65536);
    ft_clock_clear(&c);
}

/* A moment before another one, by the rate between that and a third. */
static void test_back(void)
{
    const FtMoment since = { 5000000000, -7 };
    FtMoment m;

    for (int rate = 1; rate < 6; rate += 2) {
        m = (FtMoment) { since.ns + 400000000, since.ticks + 4e8 * rate };
        ft_clock_back(&m, &since, 0);
        g_assert_cmpint(m.ns, ==, since.ns + 400000000);
        ft_clock_back(&m, &since, 100000000);
        g_assert_cmpint(m.ns, ==, since.ns + 300000000);
        g_assert_cmpint(m.ticks, ==, since.ticks + 300000000ll * rate);
        /* before the session, and for a month */
        ft_clock_back(&m, &since, 2592000000000000);
        g_assert_cmpint(m.ns, ==, since.ns + 300000000 - 2592000000000000);
        g_assert_cmpint(m.ticks - since.ticks, ==,
                        (300000000 - 2592000000000000) * rate);
    }
    m = (FtMoment) { since.ns + 9999999, 12345 };
    ft_clock_back(&m, &since, 1000);
    g_assert_cmpint(m.ns, ==, since.ns + 9999999);
    g_assert_cmpint(m.ticks, ==, 12345);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/clock/round-trip", test_round_trip);
    g_test_add_func("/ft/clock/lengths", test_lengths);
    g_test_add_func("/ft/clock/back", test_back);
    return g_test_run();
}
