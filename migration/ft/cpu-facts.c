/*
 * Fault tolerance: the CPUs that the guest sees, and whether two are alike
 * (no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "cpu-facts.h"

#define NAME_BYTES      64
#define VCPU_INDEX_MAX  65535
/* In one difference; the others are counted. */
#define NAMES_MAX       12
/* Of CPUID leaves, which people cannot read anyway. */
#define RAW_MAX         2
/* What KVM, and NTP, take for the same frequency. */
#define TSC_PPM         250

/* Facts with names, in the order in which they came. */
typedef struct Named {
    GPtrArray *names;
    GHashTable *text;           /* name -> text; owns both */
} Named;

/* CPUs that the guest cannot tell apart. */
typedef struct Kind {
    unsigned first;             /* index of the first of them */
    Named features, values, raw;
} Kind;

typedef struct Vcpu {
    unsigned index, kind;
} Vcpu;

struct FtCpuFacts {
    GArray *vcpus;              /* Vcpu, by index */
    GPtrArray *kinds;           /* Kind */
    bool has_tsc, tsc_fixed;
    uint64_t tsc_khz;
    Named kvm;
};

/* How two values of a "kvm" line must relate. */
typedef enum KvmRule {
    KVM_EQUAL,
    KVM_AT_LEAST,       /* the backup's must not be less; not there: 0 */
    KVM_OWN,            /* not compared by itself */
} KvmRule;

/*
 * What decides whether the state of a vCPU can be loaded by the backup's KVM,
 * and is not in the features already.
 */
static const struct {
    const char *key;
    KvmRule rule;
    const char *what, *remedy;
} kvm_names[] = {
    /*
     * APIC, IOAPIC, PIC and PIT have one format of state for both, but what
     * is pending between them is in the kernel or in QEMU.
     */
    { "irqchip", KVM_EQUAL, "KVM's irqchip",
      "use -machine kernel-irqchip= on both" },
    /* State of a vCPU in SMM is refused by a KVM without it. */
    { "smm", KVM_EQUAL, "SMM", "use -machine smm= on both" },
    /* A larger state of a nested guest does not load. */
    { "nested-state", KVM_AT_LEAST, "KVM's state of nested guests", NULL },
    /* An exception that waits for a nested guest would be delivered to it. */
    { "exception-payload", KVM_AT_LEAST, "KVM's exception payload", NULL },
    /* A triple fault that is pending would not reset the guest. */
    { "triple-fault", KVM_AT_LEAST, "KVM's pending triple fault", NULL },
    /* Page-directory pointers of a PAE guest would be read from RAM again. */
    { "sregs2", KVM_AT_LEAST, "KVM's page-directory pointers", NULL },
    /* MSRs that no feature stands for: QEMU would leave them out. */
    { "msr-misc-enable", KVM_AT_LEAST, "KVM's MSR MISC_ENABLE", NULL },
    { "msr-smi-count", KVM_AT_LEAST, "KVM's MSR SMI_COUNT", NULL },
    { "msr-hwcr", KVM_AT_LEAST, "KVM's MSR HWCR", NULL },
    /* Whether KVM can give the guest another frequency than the host's. */
    { "tsc-scaling", KVM_OWN, "TSC scaling", NULL },
};

/* ---------------------------------------------------------------- reading */

static void named_init(Named *n)
{
    n->names = g_ptr_array_new();
    n->text = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
}

static void named_clear(Named *n)
{
    g_ptr_array_unref(n->names);
    g_hash_table_unref(n->text);
}

static bool named_add(Named *n, const char *name, const char *text)
{
    char *own;

    if (g_hash_table_contains(n->text, name)) {
        return false;
    }
    own = g_strdup(name);
    g_hash_table_insert(n->text, own, g_strdup(text));
    g_ptr_array_add(n->names, own);
    return true;
}

static const char *named_get(const Named *n, const char *name)
{
    return g_hash_table_lookup(n->text, name);
}

static void kind_free(void *opaque)
{
    Kind *k = opaque;

    named_clear(&k->features);
    named_clear(&k->values);
    named_clear(&k->raw);
    g_free(k);
}

FtCpuFacts *ft_cpu_facts_new(void)
{
    FtCpuFacts *f = g_new0(FtCpuFacts, 1);

    f->vcpus = g_array_new(false, false, sizeof(Vcpu));
    f->kinds = g_ptr_array_new_with_free_func(kind_free);
    named_init(&f->kvm);
    return f;
}

void ft_cpu_facts_free(FtCpuFacts *f)
{
    if (!f) {
        return;
    }
    g_array_unref(f->vcpus);
    g_ptr_array_unref(f->kinds);
    named_clear(&f->kvm);
    g_free(f);
}

/* Cut the first word off *@s; NULL if it is empty. */
static char *cut_word(char **s)
{
    char *word = *s;

    *s += strcspn(word, " ");
    if (*s == word) {
        return NULL;
    }
    if (**s) {
        *(*s)++ = 0;
    }
    return word;
}

/* Digits only: no sign, no blanks. */
static bool get_number(const char *s, uint64_t max, uint64_t *v)
{
    return s && g_ascii_isdigit(*s) && !qemu_strtou64(s, NULL, 10, v) &&
           *v <= max;
}

/* One word, and not a long one. */
static bool is_name(const char *s)
{
    return s && *s && strlen(s) <= NAME_BYTES && !strchr(s, ' ');
}

/* @count words of @digits lower-case hex digits, one blank between them. */
static bool is_hex(const char *s, unsigned count, unsigned digits)
{
    if (strlen(s) != count * (digits + 1) - 1) {
        return false;
    }
    for (unsigned i = 0; s[i]; i++) {
        bool blank = i % (digits + 1) == digits;

        if (blank ? s[i] != ' ' : !strchr("0123456789abcdef", s[i])) {
            return false;
        }
    }
    return true;
}

static bool read_vcpu(FtCpuFacts *f, char *rest)
{
    char *index_text = cut_word(&rest);
    uint64_t index, kind;
    Vcpu v;

    if (!get_number(index_text, VCPU_INDEX_MAX, &index) ||
        !get_number(rest, f->kinds->len, &kind) ||
        (f->vcpus->len &&
         index <= g_array_index(f->vcpus, Vcpu, f->vcpus->len - 1).index)) {
        return false;
    }
    v = (Vcpu) { .index = index, .kind = kind };
    g_array_append_val(f->vcpus, v);
    if (kind == f->kinds->len) {
        Kind *k = g_new0(Kind, 1);

        k->first = index;
        named_init(&k->features);
        named_init(&k->values);
        named_init(&k->raw);
        g_ptr_array_add(f->kinds, k);
    }
    return true;
}

/* The kind that a line begins with; NULL if there is no such. */
static Kind *read_kind(FtCpuFacts *f, char **rest)
{
    uint64_t kind;

    if (!get_number(cut_word(rest), UINT64_MAX, &kind) ||
        kind >= f->kinds->len) {
        return NULL;
    }
    return g_ptr_array_index(f->kinds, kind);
}

static bool read_feature(FtCpuFacts *f, char *rest)
{
    Kind *k = read_kind(f, &rest);

    return k && is_name(rest) && named_add(&k->features, rest, "");
}

static bool read_value(FtCpuFacts *f, char *rest)
{
    Kind *k = read_kind(f, &rest);
    char *name = cut_word(&rest);

    return k && is_name(name) && *rest && named_add(&k->values, name, rest);
}

static bool read_cpuid(FtCpuFacts *f, char *rest)
{
    Kind *k = read_kind(f, &rest);
    g_autofree char *name = NULL;

    if (!k || !is_hex(rest, 6, 8)) {
        return false;
    }
    /* leaf and subleaf are the name */
    name = g_strdup_printf("CPUID %.8s.%.8s", rest, rest + 9);
    return named_add(&k->raw, name, rest + 18);
}

static bool read_word(FtCpuFacts *f, char *rest)
{
    Kind *k = read_kind(f, &rest);
    g_autofree char *name = NULL;
    uint64_t index;

    if (!k || !get_number(cut_word(&rest), 255, &index) ||
        !is_hex(rest, 1, 16)) {
        return false;
    }
    name = g_strdup_printf("CPU feature word %" PRIu64, index);
    return named_add(&k->raw, name, rest);
}

static bool read_tsc(FtCpuFacts *f, char *rest)
{
    if (f->has_tsc || !get_number(cut_word(&rest), INT64_MAX, &f->tsc_khz)) {
        return false;
    }
    f->has_tsc = true;
    f->tsc_fixed = g_str_equal(rest, "fixed");
    return f->tsc_fixed || g_str_equal(rest, "free");
}

static bool read_kvm(FtCpuFacts *f, char *rest)
{
    char *key = cut_word(&rest);
    uint64_t v;

    for (size_t i = 0; key && i < ARRAY_SIZE(kvm_names); i++) {
        if (g_str_equal(key, kvm_names[i].key)) {
            return is_name(rest) &&
                   (kvm_names[i].rule == KVM_EQUAL ||
                    get_number(rest, INT64_MAX, &v)) &&
                   named_add(&f->kvm, key, rest);
        }
    }
    return false;
}

static const struct {
    const char *key;
    bool (*read)(FtCpuFacts *f, char *rest);
} lines[] = {
    { "vcpu", read_vcpu },
    { "feature", read_feature },
    { "value", read_value },
    { "cpuid", read_cpuid },
    { "word", read_word },
    { "tsc", read_tsc },
    { "kvm", read_kvm },
};

bool ft_cpu_facts_key(const char *key)
{
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (g_str_equal(key, lines[i].key)) {
            return true;
        }
    }
    return false;
}

bool ft_cpu_facts_line(FtCpuFacts *f, const char *key, char *rest)
{
    for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
        if (g_str_equal(key, lines[i].key)) {
            return lines[i].read(f, rest);
        }
    }
    return false;
}

/* -------------------------------------------------------------- comparing */

static uint64_t kvm_number(const FtCpuFacts *f, const char *key)
{
    const char *s = named_get(&f->kvm, key);
    uint64_t v = 0;

    return s && get_number(s, INT64_MAX, &v) ? v : 0;
}

static void compare_kvm(FtDiffs *d, const FtCpuFacts *primary,
                        const FtCpuFacts *backup)
{
    for (size_t i = 0; i < ARRAY_SIZE(kvm_names); i++) {
        const char *key = kvm_names[i].key, *what = kvm_names[i].what;
        const char *p = named_get(&primary->kvm, key) ?: "none";
        const char *b = named_get(&backup->kvm, key) ?: "none";
        uint64_t need, have;

        switch (kvm_names[i].rule) {
        case KVM_EQUAL:
            if (!g_str_equal(p, b)) {
                ft_differ(d, FT_REMEDY_TOLD, "%s: primary %s, backup %s (%s)",
                          what, p, b, kvm_names[i].remedy);
            }
            break;
        case KVM_AT_LEAST:
            need = kvm_number(primary, key);
            have = kvm_number(backup, key);
            if (have >= need) {
                break;
            }
            if (have) {
                ft_differ(d, FT_REMEDY_TOLD, "%s: primary %" PRIu64 ", backup "
                          "only %" PRIu64 " (its host needs a newer kernel)",
                          what, need, have);
            } else {
                ft_differ(d, FT_REMEDY_TOLD, "%s: the primary's kernel has "
                          "it, the backup's has not (it needs a newer one)",
                          what);
            }
            break;
        case KVM_OWN:
            break;
        }
    }
}

static char *tsc_text(const FtCpuFacts *f)
{
    if (!f->tsc_khz) {
        return g_strdup("none");
    }
    return g_strdup_printf("%" PRIu64 " kHz%s", f->tsc_khz,
                           f->tsc_fixed ? " (tsc-frequency=)" : "");
}

static bool tsc_alike(const FtCpuFacts *primary, const FtCpuFacts *backup)
{
    uint64_t p = primary->tsc_khz, b = backup->tsc_khz;
    uint64_t apart = MAX(p, b) - MIN(p, b);

    /*
     * A frequency that was asked for is in the guest's CPUID, and a state
     * with another one does not load.
     */
    if (primary->tsc_fixed || backup->tsc_fixed) {
        return primary->tsc_fixed == backup->tsc_fixed && p == b;
    }
    /* Where one side does not know, there is nothing to say. */
    return !p || !b || apart <= b / (1000000 / TSC_PPM) ||
           kvm_number(backup, "tsc-scaling");
}

static void compare_tsc(FtDiffs *d, const FtCpuFacts *primary,
                        const FtCpuFacts *backup)
{
    if (!tsc_alike(primary, backup)) {
        g_autofree char *p = tsc_text(primary);
        g_autofree char *b = tsc_text(backup);

        ft_differ(d, FT_REMEDY_TOLD, "TSC frequency: primary %s, backup %s "
                  "(start both with the same tsc-frequency= of -cpu, on "
                  "hosts that can scale it)", p, b);
    }
}

/* What @a has and @b has not, with the words for one and for many. */
static void compare_features(FtDiffs *d, const char *which, const Named *a,
                             const Named *b, const char *one,
                             const char *many)
{
    g_autoptr(GString) list = g_string_new(NULL);
    unsigned count = 0;

    for (unsigned i = 0; i < a->names->len; i++) {
        const char *name = g_ptr_array_index(a->names, i);

        if (named_get(b, name)) {
            continue;
        }
        if (count++ < NAMES_MAX) {
            g_string_append_printf(list, "%s%s", count > 1 ? ", " : "", name);
        }
    }
    if (count == 1) {
        ft_differ(d, FT_REMEDY_CPU, "%sCPU feature %s: %s", which, list->str,
                  one);
    } else if (count) {
        if (count > NAMES_MAX) {
            g_string_append_printf(list, " and %u more", count - NAMES_MAX);
        }
        ft_differ(d, FT_REMEDY_CPU, "%sCPU features %s: %s", which,
                  list->str, many);
    }
}

/* Facts whose text must be the same; @prefix comes before their names. */
static void compare_named(FtDiffs *d, unsigned remedies, unsigned max,
                          const char *which, const char *prefix,
                          const Named *primary, const Named *backup)
{
    unsigned count = 0;

    for (int side = 0; side < 2; side++) {
        const Named *a = side ? backup : primary;

        for (unsigned i = 0; i < a->names->len; i++) {
            const char *name = g_ptr_array_index(a->names, i);
            const char *p = named_get(primary, name);
            const char *q = named_get(backup, name);

            /* What both have was seen from the primary's side. */
            if (p && q && (side || g_str_equal(p, q))) {
                continue;
            }
            if (count++ < max) {
                ft_differ(d, remedies, "%s%s%s: primary %s, backup %s",
                          which, prefix, name, p ?: "none", q ?: "none");
            }
        }
    }
    if (count > max) {
        d->hidden += count - max;
    }
}

/* Are the same CPUs there, and of the same kind as each other? */
static bool same_vcpus(FtDiffs *d, const FtCpuFacts *primary,
                       const FtCpuFacts *backup)
{
    unsigned n = primary->vcpus->len;

    if (n != backup->vcpus->len) {
        ft_differ(d, FT_REMEDY_SAME, "CPUs that are plugged in: primary %u, "
                  "backup %u", n, backup->vcpus->len);
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        Vcpu p = g_array_index(primary->vcpus, Vcpu, i);
        Vcpu b = g_array_index(backup->vcpus, Vcpu, i);

        if (p.index != b.index) {
            ft_differ(d, FT_REMEDY_SAME, "CPU %u is on the %s only",
                      MIN(p.index, b.index),
                      p.index < b.index ? "primary" : "backup");
            return false;
        }
        if (p.kind != b.kind) {
            ft_differ(d, FT_REMEDY_CPU, "CPU %u is as another CPU on one "
                      "side only", p.index);
            return false;
        }
    }
    return true;
}

void ft_cpu_facts_compare(FtDiffs *d, const FtCpuFacts *primary,
                          const FtCpuFacts *backup)
{
    compare_kvm(d, primary, backup);
    compare_tsc(d, primary, backup);
    if (!same_vcpus(d, primary, backup)) {
        return;
    }
    for (unsigned i = 0; i < primary->kinds->len; i++) {
        const Kind *p = g_ptr_array_index(primary->kinds, i);
        const Kind *b = g_ptr_array_index(backup->kinds, i);
        g_autofree char *which = primary->kinds->len == 1 ? g_strdup("") :
                                 g_strdup_printf("CPU %u: ", p->first);
        unsigned before = d->shown + d->hidden;

        compare_features(d, which, &p->features, &b->features,
                         "the guest has it, the backup's CPU has not",
                         "the guest has them, the backup's CPU has not");
        compare_features(d, which, &b->features, &p->features,
                         "the backup's CPU has it, the guest has not",
                         "the backup's CPU has them, the guest has not");
        compare_named(d, FT_REMEDY_CPU, UINT_MAX, which, "CPU's ",
                      &p->values, &b->values);
        if (d->shown + d->hidden == before) {
            /* The topology is in there, too: -smp. */
            compare_named(d, FT_REMEDY_CPU | FT_REMEDY_SAME, RAW_MAX, which,
                          "", &p->raw, &b->raw);
        }
    }
}
