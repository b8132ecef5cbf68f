/*
 * Unit tests of migration/ft/cpu-facts.c and differ.c: what of the CPUs is
 * understood, and what of it must be alike
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "migration/ft/cpu-facts.h"

#define GOOD \
    "vcpu 0 0\nvcpu 1 0\n" \
    "feature 0 sse2\nfeature 0 avx\nvalue 0 family 6\n" \
    "value 0 model-id A CPU of ours\n" \
    "cpuid 0 00000001 00000000 00000661 00800800 80000001 078bfbfd\n" \
    "cpuid 0 0000000d 00000001 00000001 00000000 00000000 00000000\n" \
    "word 0 0 00000000078bfbfd\n" \
    "tsc 2000000 free\nkvm irqchip split\nkvm nested-state 4224\n" \
    "kvm msr-hwcr 1\nkvm tsc-scaling 0\n"

/* One line, without its end. */
static bool line(FtCpuFacts *f, const char *text)
{
    g_autofree char *copy = g_strdup(text);
    char *rest = strchr(copy, ' ');

    g_assert_nonnull(rest);
    *rest++ = 0;
    g_assert_true(ft_cpu_facts_key(copy));
    return ft_cpu_facts_line(f, copy, rest);
}

static FtCpuFacts *facts(const char *text)
{
    g_auto(GStrv) all = g_strsplit(text, "\n", -1);
    FtCpuFacts *f = ft_cpu_facts_new();

    for (unsigned i = 0; all[i]; i++) {
        if (*all[i] && !line(f, all[i])) {
            g_test_message("not understood: %s", all[i]);
            g_assert_not_reached();
        }
    }
    return f;
}

/* @text with the one place where it says @from changed to @to. */
static char *changed(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);

    g_assert_nonnull(at);
    return g_strdup_printf("%.*s%s%s", (int)(at - text), text, to,
                           at + strlen(from));
}

static char *compare(const char *primary, const char *backup)
{
    g_autoptr(FtCpuFacts) p = facts(primary);
    g_autoptr(FtCpuFacts) b = facts(backup);
    FtDiffs d = { .text = g_string_new(NULL) };

    ft_cpu_facts_compare(&d, p, b);
    g_assert_cmpint(d.shown == 0, ==, d.text->len == 0);
    g_assert_cmpint(d.shown == 0, ==, d.remedies == 0);
    ft_differ_close(&d);
    g_assert_cmpuint(d.text->len, <, 1000);
    return g_string_free(d.text, false);
}

/* The differences, if the backup has @to where the primary has @from. */
static char *unlike(const char *from, const char *to)
{
    g_autofree char *backup = changed(GOOD, from, to);

    return compare(GOOD, backup);
}

static void assert_has(char *text, const char *words)
{
    if (!strstr(text, words)) {
        g_test_message("not in it: %s: %s", words, text);
        g_assert_not_reached();
    }
    g_free(text);
}

#define assert_unlike(from, to, words) assert_has(unlike(from, to), words)
#define assert_same(primary, backup) do {               \
        g_autofree char *text_ = compare(primary, backup); \
        g_assert_cmpstr(text_, ==, "");                 \
    } while (0)
#define assert_alike(from, to) do {                     \
        g_autofree char *text_ = unlike(from, to);      \
        g_assert_cmpstr(text_, ==, "");                 \
    } while (0)

/* --------------------------------------------------------------- reading */

static void test_keys(void)
{
    g_assert_false(ft_cpu_facts_key("cpu"));
    g_assert_false(ft_cpu_facts_key(""));
    g_assert_false(ft_cpu_facts_key("vcpus"));
    g_assert_true(ft_cpu_facts_key("kvm"));
}

static void test_bad_lines(void)
{
    static const char *const bad[] = {
        "vcpu ", "vcpu 0", "vcpu 2 ", "vcpu x 0", "vcpu 2 2", "vcpu 2 -1",
        "vcpu 1 0", "vcpu 0 0", "vcpu 65536 0", "vcpu 2 0 ", "vcpu 2 0 0",
        "vcpu 2  0", "vcpu 99999999999999999999 0",
        "feature 0", "feature 0 ", "feature  sse3", "feature 1 sse3",
        "feature 0 sse2", "feature 0 a b", "feature 0 sse3 ",
        "feature -1 sse3", "feature x sse3",
        "value 0 model", "value 0 model ", "value 1 model 6",
        "value 0 family 6", "value 0  6",
        "cpuid 0 00000001 00000000 00000661 00800800 80000001 078bfbfd",
        "cpuid 1 00000002 00000000 00000661 00800800 80000001 078bfbfd",
        "cpuid 0 00000002 00000000 00000661 00800800 80000001 078bfbf",
        "cpuid 0 00000002 00000000 00000661 00800800 80000001 078bfbfd ",
        "cpuid 0 00000002 00000000 00000661 00800800 80000001 078BFBFD",
        "cpuid 0 00000002 00000000 00000661 00800800 8000000 1078bfbfd",
        "cpuid 0 00000002 00000000 00000661 00800800 80000001",
        "cpuid 0 00000002 00000000 00000661 00800800 80000001 078bfbfg",
        "cpuid 0 ",
        "word 0 0 0000000000000000", "word 0 256 0000000000000000",
        "word 0 1 000000000000000", "word 0 1 000000000000000x", "word 0 1",
        "word 1 1 0000000000000000",
        "tsc 2000000 free", "kvm irqchip on", "kvm nested-state 1",
        "kvm unheard-of 1", "kvm ", "kvm smm", "kvm smm ", "kvm smm a b",
        "kvm sregs2 yes", "kvm sregs2 -1", "kvm sregs2 1 ",
    };
    g_autofree char *name = g_strnfill(65, 'x');
    g_autofree char *feature = g_strdup_printf("feature 0 %s", name);
    g_autofree char *value = g_strdup_printf("value 0 %s 1", name);
    g_autofree char *smm = g_strdup_printf("kvm smm %s", name);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(FtCpuFacts) f = facts(GOOD);

        if (line(f, bad[i])) {
            g_test_message("understood: '%s'", bad[i]);
            g_assert_not_reached();
        }
    }
    {
        g_autoptr(FtCpuFacts) f = facts(GOOD);

        g_assert_false(line(f, feature));
        g_assert_false(line(f, value));
        g_assert_false(line(f, smm));
        feature[strlen(feature) - 1] = 0;
        g_assert_true(line(f, feature));
        g_assert_true(line(f, "vcpu 65535 1"));
        g_assert_true(line(f, "feature 1 sse2"));
    }
}

static void test_bad_tsc(void)
{
    static const char *const bad[] = {
        "tsc 1", "tsc 1 ", "tsc x free", "tsc 1 loose", "tsc -1 free",
        "tsc 1 free ", "tsc  free", "tsc 9223372036854775808 free",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autoptr(FtCpuFacts) f = ft_cpu_facts_new();

        g_assert_false(line(f, bad[i]));
    }
}

/* ------------------------------------------------------------- comparing */

static void test_alike(void)
{
    assert_same(GOOD, GOOD);
    assert_same("", "");
    /* in another order */
    assert_alike("feature 0 sse2\nfeature 0 avx\n",
                 "feature 0 avx\nfeature 0 sse2\n");
}

static void test_features(void)
{
    g_autoptr(GString) many = g_string_new(GOOD);
    g_autofree char *text = NULL;

    assert_unlike("feature 0 avx\n", "", "CPU feature avx: the guest has it, "
                  "the backup's CPU has not.  Give both");
    assert_unlike("feature 0 avx\n", "feature 0 avx\nfeature 0 avx2\n",
                  "CPU feature avx2: the backup's CPU has it, the guest has "
                  "not");
    assert_unlike("feature 0 avx\n", "feature 0 avx2\n",
                  "the backup's CPU has not; CPU feature avx2: the backup");
    assert_unlike("feature 0 sse2\nfeature 0 avx\n", "",
                  "CPU features sse2, avx: the guest has them, the backup's "
                  "CPU has not");

    for (unsigned i = 0; i < 40; i++) {
        if (i == 12) {
            assert_has(compare(many->str, GOOD), "a-long-name-11: the guest");
        }
        g_string_append_printf(many, "feature 0 a-long-name-%02u\n", i);
    }
    text = compare(many->str, GOOD);
    g_assert_nonnull(strstr(text, "a-long-name-11 and 28 more: the guest"));
    g_assert_null(strstr(text, "a-long-name-12"));
}

static void test_values(void)
{
    assert_unlike("family 6", "family 15",
                  "CPU's family: primary 6, backup 15");
    assert_unlike("A CPU of ours", "Another",
                  "CPU's model-id: primary A CPU of ours, backup Another");
    assert_unlike("value 0 family 6\n", "",
                  "CPU's family: primary 6, backup none");
    assert_unlike("value 0 family 6\n", "value 0 family 6\nvalue 0 x y\n",
                  "CPU's x: primary none, backup y");
}

/* Where the names find nothing; and only there. */
static void test_raw(void)
{
    g_autofree char *both = NULL;

    assert_unlike("078bfbfd\ncpuid", "078bfbff\ncpuid",
                  "CPUID 00000001.00000000: primary 00000661 00800800 "
                  "80000001 078bfbfd, backup 00000661 00800800 80000001 "
                  "078bfbff");
    assert_unlike("word 0 0 0000000007", "word 0 0 8000000007",
                  "CPU feature word 0: primary 00000000078bfbfd, backup "
                  "80000000078bfbfd");
    assert_unlike("cpuid 0 0000000d 00000001 ", "cpuid 0 0000000d 00000002 ",
                  "CPUID 0000000d.00000002: primary none, backup 00000001");
    both = unlike("feature 0 avx\nvalue 0 family 6\n"
                  "value 0 model-id A CPU of ours\n"
                  "cpuid 0 00000001 00000000 00000661",
                  "value 0 family 6\nvalue 0 model-id A CPU of ours\n"
                  "cpuid 0 00000001 00000000 00000662");
    g_assert_nonnull(strstr(both, "avx"));
    g_assert_null(strstr(both, "CPUID"));
    /* the first two, and how many more */
    assert_has(compare("vcpu 0 0\nword 0 1 0000000000000000\n"
                       "word 0 2 0000000000000000\n"
                       "word 0 3 0000000000000000\n"
                       "word 0 4 0000000000000000\n", "vcpu 0 0\n"),
               "CPU feature word 2: primary 0000000000000000, backup none; "
               "and 2 more");
}

static void test_vcpus(void)
{
    assert_unlike("vcpu 1 0\n", "", "primary 2, backup 1");
    assert_unlike("vcpu 1 0\n", "vcpu 2 0\n", "CPU 1 is on the primary only");
    assert_unlike("vcpu 1 0\n", "vcpu 1 1\n", "CPU 1 is as another CPU on "
                  "one side only");
    assert_has(compare("vcpu 0 0\nvcpu 3 1\nfeature 0 a\nfeature 1 b\n",
                       "vcpu 0 0\nvcpu 3 1\nfeature 0 a\nfeature 1 c\n"),
               "CPU 3: CPU feature b: the guest has it");
}

static void test_tsc(void)
{
    /* a fixed one is the same to the kHz */
    assert_unlike("2000000 free", "2000000 fixed",
                  "TSC frequency: primary 2000000 kHz, backup 2000000 kHz "
                  "(tsc-frequency=)");
    assert_has(compare("tsc 2000000 fixed\n",
                       "tsc 2000001 fixed\nkvm tsc-scaling 1\n"), "TSC");
    assert_has(compare("tsc 2000000 fixed\n", "tsc 0 free\n"),
               "backup none");
    assert_has(compare("tsc 0 free\n", "tsc 2000000 fixed\n"),
               "primary none");
    assert_same("tsc 2000000 fixed\n", "tsc 2000000 fixed\n");
    /* 250 ppm of the backup's, both ways */
    assert_alike("2000000 free", "2000500 free");
    assert_alike("2000000 free", "1999501 free");
    assert_unlike("2000000 free", "2000501 free", "TSC frequency: primary "
                  "2000000 kHz, backup 2000501 kHz");
    assert_unlike("2000000 free", "1999499 free", "TSC frequency");
    /* who can scale, can have any; who does not know, says nothing */
    assert_same("tsc 2000000 free\n",
                "tsc 3000000 free\nkvm tsc-scaling 1\n");
    assert_has(compare("tsc 2000000 free\nkvm tsc-scaling 1\n",
                       "tsc 3000000 free\nkvm tsc-scaling 0\n"), "TSC");
    assert_alike("2000000 free", "0 free");
}

static void test_kvm(void)
{
    static const char *const at_least[] = {
        "nested-state", "exception-payload", "triple-fault", "sregs2",
        "msr-misc-enable", "msr-smi-count", "msr-hwcr",
    };

    assert_unlike("irqchip split", "irqchip on", "KVM's irqchip: primary "
                  "split, backup on (use -machine kernel-irqchip= on both)");
    assert_unlike("kvm irqchip split\n", "", "primary split, backup none");
    assert_has(compare("kvm smm on\n", "kvm smm off\n"), "SMM: primary on");
    for (size_t i = 0; i < ARRAY_SIZE(at_least); i++) {
        g_autofree char *none = g_strdup_printf("kvm %s 0\n", at_least[i]);
        g_autofree char *some = g_strdup_printf("kvm %s 2\n", at_least[i]);
        g_autofree char *more = g_strdup_printf("kvm %s 3\n", at_least[i]);

        assert_has(compare(some, ""), "backup's has not");
        assert_has(compare(some, none), "backup's has not");
        assert_has(compare(more, some), "primary 3, backup only 2");
        assert_same(some, more);
        assert_same(none, "");
        assert_same("", some);
    }
    assert_same("kvm tsc-scaling 1\n", "");
}

/* The text of a frame has 1024 bytes, with what is said before it. */
static void test_length(void)
{
    g_autofree char *word = g_strnfill(200, 'w');
    FtDiffs d = { .text = g_string_new(NULL) };

    for (unsigned i = 0; i < 12; i++) {
        ft_differ(&d, i & 1 ? FT_REMEDY_CPU : FT_REMEDY_SAME, "%u %s", i,
                  i < 3 ? word : "x");
    }
    g_assert_cmpuint(d.shown, ==, 8);
    g_assert_cmpuint(d.hidden, ==, 4);
    for (unsigned i = 0; i < 10; i++) {
        ft_differ(&d, FT_REMEDY_TOLD, "%s", word);
    }
    g_assert_cmpuint(d.hidden, ==, 14);
    ft_differ_close(&d);
    g_assert_nonnull(strstr(d.text->str, "7 x; and 14 more.  Start"));
    g_assert_nonnull(strstr(d.text->str, ".  Give both the same -cpu"));
    g_assert_cmpuint(d.text->len, <, 1000);
    g_string_free(d.text, true);

    d = (FtDiffs) { .text = g_string_new(NULL) };
    for (unsigned i = 0; i < 8; i++) {
        ft_differ(&d, FT_REMEDY_CPU | FT_REMEDY_SAME, "%s", word);
    }
    g_assert_cmpuint(d.shown, ==, 3);
    ft_differ_close(&d);
    g_assert_cmpuint(d.text->len, <, 1000);
    g_string_free(d.text, true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/cpu-facts/keys", test_keys);
    g_test_add_func("/ft/cpu-facts/bad-lines", test_bad_lines);
    g_test_add_func("/ft/cpu-facts/bad-tsc", test_bad_tsc);
    g_test_add_func("/ft/cpu-facts/alike", test_alike);
    g_test_add_func("/ft/cpu-facts/features", test_features);
    g_test_add_func("/ft/cpu-facts/values", test_values);
    g_test_add_func("/ft/cpu-facts/raw", test_raw);
    g_test_add_func("/ft/cpu-facts/vcpus", test_vcpus);
    g_test_add_func("/ft/cpu-facts/tsc", test_tsc);
    g_test_add_func("/ft/cpu-facts/kvm", test_kvm);
    g_test_add_func("/ft/cpu-facts/length", test_length);
    return g_test_run();
}
