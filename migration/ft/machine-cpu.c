/*
 * Fault tolerance: the CPUs that the guest sees, described (x86)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The lines are in cpu-facts.h.  All comes from what QEMU has worked out when
 * it made the CPUs; no vCPU is asked, as the primary's run.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/boards.h"
#include "hw/i386/x86.h"
#include "qom/object.h"
#include "system/kvm.h"
#include "cpu-facts.h"
#ifdef CONFIG_KVM
#include <linux/kvm.h>
#endif

/* Beyond that a checksum must do: the text has to fit in a frame. */
#define KINDS_MAX   16
#define LEAVES_MAX  64

/* ------------------------------------------------------- by QEMU's names */

/* What QEMU is told about a CPU and the guest does not see by itself. */
static const char *const hidden[] = {
    "check", "enforce", "full-cpuid-auto-level", "host-phys-bits",
    "hotpluggable", "hotplugged", "migratable", "realized",
    "start-powered-off", "x-force-features", "x-migrate-smi-count",
};

static bool is_hidden(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++) {
        if (g_str_equal(name, hidden[i])) {
            return true;
        }
    }
    return false;
}

static int compare_strings(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/*
 * Every yes-or-no property of the CPU is a feature that CPUID or an MSR
 * shows, or decides about some.  Those of the class: aliases are elsewhere.
 */
static void add_features(GString *text, Object *obj, unsigned kind)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    ObjectPropertyIterator iter;
    ObjectProperty *p;

    object_class_property_iter_init(&iter, object_get_class(obj));
    while ((p = object_property_iter_next(&iter))) {
        if (g_str_equal(p->type, "bool") && !is_hidden(p->name) &&
            object_property_get_bool(obj, p->name, NULL)) {
            g_ptr_array_add(names, p->name);
        }
    }
    g_ptr_array_sort(names, compare_strings);
    for (unsigned i = 0; i < names->len; i++) {
        g_string_append_printf(text, "feature %u %s\n", kind,
                               (char *)g_ptr_array_index(names, i));
    }
}

/* Only what prints may be in the text, and something must be. */
static void add_text(GString *text, unsigned kind, const char *name,
                     const char *value)
{
    g_autofree char *clean = g_strdup(value && *value ? value : "-");

    for (char *p = clean; *p; p++) {
        if (*p < 0x20 || *p > 0x7e) {
            *p = '?';
        }
    }
    g_string_append_printf(text, "value %u %s %.200s\n", kind, name, clean);
}

static void add_values(GString *text, Object *obj, unsigned kind)
{
    static const char *const numbers[] = {
        "family", "model", "stepping", "level", "level-func7", "xlevel",
        "xlevel2", "phys-bits", "lbr-fmt", "avx10-version", "hv-spinlocks",
        "hv-version-id-build", "hv-version-id-major", "hv-version-id-minor",
        "hv-version-id-spack", "hv-version-id-sbranch",
        "hv-version-id-snumber",
    };
    static const char *const strings[] = {
        "vendor", "model-id", "hv-vendor-id",
    };

    for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
        g_autofree char *s = object_property_get_str(obj, strings[i], NULL);

        add_text(text, kind, strings[i], s);
    }
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        g_autofree char *s =
            g_strdup_printf("%" PRId64, object_property_get_int(
                                obj, numbers[i], NULL));

        add_text(text, kind, numbers[i], s);
    }
}

/* -------------------------------------------------------------- the whole */

/* Leaves with subleaves, and of how many something can be said. */
static unsigned subleaves(uint32_t leaf)
{
    switch (leaf) {
    case 0xd:
        return 32;
    case 0x4:
    case 0x7:
    case 0xb:
    case 0x12:
    case 0x14:
    case 0x1d:
    case 0x1e:
    case 0x1f:
    case 0x24:
    case 0x8000001d:
        return 8;
    default:
        return 1;
    }
}

/*
 * Out with what the guest changes itself (by CR4, XCR0 and long mode) and
 * with what is every CPU's own (its number: that the topology gives).
 */
static void mask_leaf(uint32_t leaf, uint32_t sub, uint32_t *r)
{
    switch (leaf) {
    case 1:
        r[1] &= 0x00ffffff;
        r[2] &= ~CPUID_EXT_OSXSAVE;
        break;
    case 7:
        if (sub == 0) {
            r[2] &= ~CPUID_7_0_ECX_OSPKE;
        }
        break;
    case 0xb:
    case 0x1f:
        r[3] = 0;
        break;
    case 0xd:
        if (sub == 0) {
            r[1] = 0;
        }
        break;
    case 0x80000001:
        r[3] &= ~CPUID_EXT2_SYSCALL;
        break;
    case 0x8000001e:
        r[0] = 0;
        r[1] &= ~0xff;
        r[2] &= ~0xff;
        break;
    }
}

static void add_leaves(GString *text, CPUX86State *env, unsigned kind,
                       uint32_t first, uint32_t last)
{
    if (last < first) {
        return;
    }
    last = MIN(last, first + LEAVES_MAX - 1);
    for (uint32_t leaf = first; leaf <= last; leaf++) {
        for (uint32_t sub = 0; sub < subleaves(leaf); sub++) {
            uint32_t r[4];

            cpu_x86_cpuid(env, leaf, sub, &r[0], &r[1], &r[2], &r[3]);
            mask_leaf(leaf, sub, r);
            if (r[0] | r[1] | r[2] | r[3]) {
                g_string_append_printf(text, "cpuid %u %08x %08x %08x %08x "
                                       "%08x %08x\n", kind, leaf, sub,
                                       r[0], r[1], r[2], r[3]);
            }
        }
    }
}

static void add_raw(GString *text, X86CPU *cpu, unsigned kind)
{
    CPUX86State *env = &cpu->env;
    g_autofree char *mcg = g_strdup_printf("0x%" PRIx64, env->mcg_cap);

    /* Banks of machine checks: in the state as well as in an MSR. */
    add_text(text, kind, "mcg-cap", mcg);
    add_leaves(text, env, kind, 0, env->cpuid_level);
    add_leaves(text, env, kind, 0x40000000, 0x40000001);
    add_leaves(text, env, kind, 0x80000000, env->cpuid_xlevel);
    add_leaves(text, env, kind, 0xc0000000, env->cpuid_xlevel2);
    for (unsigned i = 0; i < FEATURE_WORDS; i++) {
        g_string_append_printf(text, "word %u %u %016" PRIx64 "\n", kind, i,
                               (uint64_t)env->features[i]);
    }
}

static char *describe(X86CPU *cpu, unsigned kind)
{
    GString *text = g_string_new(NULL);

    add_features(text, OBJECT(cpu), kind);
    add_values(text, OBJECT(cpu), kind);
    add_raw(text, cpu, kind);
    return g_string_free(text, false);
}

/* -------------------------------------------------------------------- KVM */

#ifdef CONFIG_KVM
/* The MSRs that KVM lets QEMU save; NULL if it does not say. */
static struct kvm_msr_list *kvm_msrs(void)
{
    struct kvm_msr_list count = { }, *list;

    if (kvm_ioctl(kvm_state, KVM_GET_MSR_INDEX_LIST, &count) != -E2BIG) {
        return NULL;
    }
    list = g_malloc0(sizeof(*list) + count.nmsrs * sizeof(list->indices[0]));
    list->nmsrs = count.nmsrs;
    if (kvm_ioctl(kvm_state, KVM_GET_MSR_INDEX_LIST, list) < 0) {
        g_free(list);
        return NULL;
    }
    return list;
}

static void add_kvm_msrs(GString *text)
{
    static const struct {
        uint32_t index;
        const char *key;
    } known[] = {
        { MSR_IA32_MISC_ENABLE, "msr-misc-enable" },
        { MSR_SMI_COUNT, "msr-smi-count" },
        { MSR_K7_HWCR, "msr-hwcr" },
    };
    g_autofree struct kvm_msr_list *list = kvm_msrs();

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        for (unsigned n = 0; list && n < list->nmsrs; n++) {
            if (list->indices[n] == known[i].index) {
                g_string_append_printf(text, "kvm %s 1\n", known[i].key);
                break;
            }
        }
    }
}

static void add_kvm(GString *text, X86CPU *cpu)
{
    static const struct {
        unsigned cap;
        const char *key;
    } known[] = {
        { KVM_CAP_X86_TRIPLE_FAULT_EVENT, "triple-fault" },
        { KVM_CAP_SREGS2, "sregs2" },
        { KVM_CAP_TSC_CONTROL, "tsc-scaling" },
    };
    X86MachineState *x86ms = (X86MachineState *)
        object_dynamic_cast(OBJECT(current_machine), TYPE_X86_MACHINE);

    if (!kvm_enabled()) {
        return;
    }
    g_string_append_printf(text, "kvm irqchip %s\n",
                           !kvm_irqchip_in_kernel() ? "off" :
                           kvm_irqchip_is_split() ? "split" : "on");
    if (x86ms) {
        g_string_append_printf(text, "kvm smm %s\n",
                               x86_machine_is_smm_enabled(x86ms) ? "on" :
                               "off");
    }
    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        g_string_append_printf(text, "kvm %s %d\n", known[i].key,
                               kvm_check_extension(kvm_state,
                                                   known[i].cap) > 0);
    }
    /* Only for a guest that can have guests. */
    if (cpu_has_vmx(&cpu->env) || cpu_has_svm(&cpu->env)) {
        g_string_append_printf(text, "kvm nested-state %d\n"
                               "kvm exception-payload %d\n",
                               MAX(kvm_max_nested_state_length(), 0),
                               kvm_check_extension(
                                   kvm_state,
                                   KVM_CAP_EXCEPTION_PAYLOAD) > 0);
    }
    add_kvm_msrs(text);
}
#else
static void add_kvm(GString *text, X86CPU *cpu)
{
}
#endif

/* ------------------------------------------------------------------- all */

void ft_machine_cpus(GString *text)
{
    g_autoptr(GPtrArray) kinds = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GString) vcpus = g_string_new(NULL);
    X86CPU *first = NULL;

    for (int i = 0; i < (int)current_machine->smp.max_cpus; i++) {
        CPUState *cs = qemu_get_cpu(i);
        unsigned kind;

        if (!cs) {
            continue;
        }
        first = first ?: X86_CPU(cs);
        for (kind = 0; kind < kinds->len; kind++) {
            g_autofree char *same = describe(X86_CPU(cs), kind);

            if (g_str_equal(same, g_ptr_array_index(kinds, kind))) {
                break;
            }
        }
        if (kind == kinds->len) {
            g_ptr_array_add(kinds, describe(X86_CPU(cs), kind));
        }
        g_string_append_printf(vcpus, "vcpu %d %u\n", i, kind);
    }
    if (!first) {
        return;
    }

    g_string_append(text, vcpus->str);
    for (unsigned kind = 0; kind < kinds->len; kind++) {
        const char *s = g_ptr_array_index(kinds, kind);
        g_autofree char *sum = NULL;

        if (kind < KINDS_MAX) {
            g_string_append(text, s);
        } else {
            sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, s, -1);
            add_text(text, kind, "checksum", sum);
        }
    }
    g_string_append_printf(text, "tsc %" PRId64 " %s\n", first->env.tsc_khz,
                           first->env.user_tsc_khz ? "fixed" : "free");
    add_kvm(text, first);
}
