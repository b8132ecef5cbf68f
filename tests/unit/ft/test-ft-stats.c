/*
 * Unit tests of migration/ft/stats.c: histograms
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft/stats.h"

static void test_empty(void)
{
    FtHist h = { };

    g_assert_cmpuint(ft_hist_quantile(&h, 0), ==, 0);
    g_assert_cmpuint(ft_hist_quantile(&h, 500), ==, 0);
    g_assert_cmpuint(ft_hist_quantile(&h, 1000), ==, 0);
    g_assert_cmpuint(ft_hist_mean(&h), ==, 0);
}

/* Every sample is in one bucket, and small values are exact. */
static void test_exact(void)
{
    FtHist h = { };

    for (int v = 0; v < FT_HIST_SUB; v++) {
        ft_hist_add(&h, v);
        g_assert_cmpuint(h.bucket[v], ==, 1);
    }
    g_assert_cmpuint(h.count, ==, FT_HIST_SUB);
    g_assert_cmpuint(ft_hist_quantile(&h, 0), ==, 0);
    g_assert_cmpuint(ft_hist_quantile(&h, 500), ==, 7);
    g_assert_cmpuint(ft_hist_quantile(&h, 501), ==, 8);
    g_assert_cmpuint(ft_hist_quantile(&h, 1000), ==, 15);
    g_assert_cmpuint(ft_hist_mean(&h), ==, 7);
}

static void check_one(uint64_t v)
{
    g_autofree FtHist *h = g_new0(FtHist, 1);
    uint64_t q;

    ft_hist_add(h, v);
    g_assert_cmpuint(ft_hist_quantile(h, 500), ==, v);
    g_assert_cmpuint(ft_hist_mean(h), ==, v);
    g_assert_cmpuint(h->max, ==, v);

    /* With a larger one around, the bucket's top shows. */
    ft_hist_add(h, INT64_MAX);
    q = ft_hist_quantile(h, 500);
    g_assert_cmpuint(q, >=, v);
    if (v < 31ull << 31) {
        g_assert_cmpuint(q - v, <=, v / 16);
    } else {
        g_assert_cmpuint(q, ==, INT64_MAX); /* the last one is open */
    }
}

static void test_error(void)
{
    for (uint64_t v = 0; v < 5000; v++) {
        check_one(v);
    }
    for (int bit = 12; bit < 63; bit++) {
        check_one((1ull << bit) - 1);
        check_one(1ull << bit);
        check_one((1ull << bit) + 1);
        check_one((1ull << bit) + (1ull << (bit - 5)));
    }
    check_one(INT64_MAX);
}

/* Buckets are in the order of their values, without gaps. */
static void test_order(void)
{
    g_autofree FtHist *h = g_new0(FtHist, 1);
    unsigned last = 0;

    for (uint64_t v = 0; v < 1ull << 36; v += 1 + v / 32) {
        unsigned i;

        memset(h, 0, sizeof(*h));
        ft_hist_add(h, v);
        for (i = 0; !h->bucket[i]; i++) {
            g_assert_cmpuint(i, <, FT_HIST_BUCKETS - 1);
        }
        g_assert_cmpuint(i, >=, last);
        g_assert_cmpuint(i, <=, last + 1);
        last = i;
    }
    g_assert_cmpuint(last, ==, FT_HIST_BUCKETS - 1);
}

static void test_negative(void)
{
    FtHist h = { };

    ft_hist_add(&h, -5);
    ft_hist_add(&h, INT64_MIN);
    g_assert_cmpuint(h.count, ==, 2);
    g_assert_cmpuint(h.bucket[0], ==, 2);
    g_assert_cmpuint(h.max, ==, 0);
    g_assert_cmpuint(ft_hist_quantile(&h, 1000), ==, 0);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Against a sorted list of random samples. */
static void test_random(void)
{
    enum { N = 4321 };
    g_autofree uint64_t *sample = g_new(uint64_t, N);
    g_autofree FtHist *h = g_new0(FtHist, 1);
    uint64_t sum = 0;

    for (int i = 0; i < N; i++) {
        sample[i] = (uint32_t)g_test_rand_int() >>
                    g_test_rand_int_range(0, 32);
        sum += sample[i];
        ft_hist_add(h, sample[i]);
    }
    qsort(sample, N, sizeof(*sample), compare);

    for (unsigned permille = 1; permille <= 1000; permille++) {
        uint64_t exact = sample[DIV_ROUND_UP(N * permille, 1000) - 1];
        uint64_t q = ft_hist_quantile(h, permille);

        g_assert_cmpuint(q, >=, exact);
        g_assert_cmpuint(q, <=, exact + exact / 16);
    }
    g_assert_cmpuint(ft_hist_quantile(h, 5000), ==, sample[N - 1]);
    g_assert_cmpuint(ft_hist_mean(h), ==, sum / N);
}

/* A count that times 1000 does not fit. */
static void test_huge_count(void)
{
    FtHist h = { };

    h.count = UINT64_MAX;
    h.bucket[3] = UINT64_MAX / 2;
    h.bucket[9] = UINT64_MAX - UINT64_MAX / 2;
    h.max = 9;
    g_assert_cmpuint(ft_hist_quantile(&h, 400), ==, 3);
    g_assert_cmpuint(ft_hist_quantile(&h, 600), ==, 9);
    g_assert_cmpuint(ft_hist_quantile(&h, 1000), ==, 9);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/stats/empty", test_empty);
    g_test_add_func("/ft/stats/exact", test_exact);
    g_test_add_func("/ft/stats/error", test_error);
    g_test_add_func("/ft/stats/order", test_order);
    g_test_add_func("/ft/stats/negative", test_negative);
    g_test_add_func("/ft/stats/random", test_random);
    g_test_add_func("/ft/stats/huge-count", test_huge_count);
    return g_test_run();
}
