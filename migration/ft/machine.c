/*
 * Fault tolerance: what machine this is, and whether two are alike
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The fingerprint is text, a fact per line:
 *
 *   cuju 1
 *   qemu 10.0.13
 *   machine pc-i440fx-10.0
 *   accel tcg
 *   cpu qemu64-x86_64-cpu
 *   smp 1
 *   page 4096
 *   ram INDEX IDSTR LENGTH              in the order of the indices
 *   section IDSTR INSTANCE VERSION      in any order
 *
 * and the lines in cpu-facts.h, of the CPUs that the guest sees.
 *
 * IDSTR may have blanks in it.  The backup reads its own text by the same
 * code as the primary's, which may be anything, and compares.  No state, no
 * locks of its own: BQL, except for the hash.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "exec/cpu-common.h"
#include "exec/ram_addr.h"
#include "exec/ramblock.h"
#include "exec/target_page.h"
#include "hw/boards.h"
#include "migration/savevm.h"
#include "qemu/accel.h"
#include "qemu/cutils.h"
#include "qemu/rcu.h"
#include "cpu-facts.h"
#include "session.h"

#define TEXT_MAX    (1u << 20)
#define LINE_BYTES   300
#define BLOCKS_MAX  65535

/* ------------------------------------------------- this side's description */

static int add_block(RAMBlock *rb, void *opaque)
{
    GArray *blocks = opaque;
    FtRamBlock b;

    if (!qemu_ram_is_migratable(rb)) {
        return 0;
    }
    b = (FtRamBlock) {
        .idstr = g_strdup(qemu_ram_get_idstr(rb)),
        .host = qemu_ram_get_host_addr(rb),
        .length = qemu_ram_get_used_length(rb),
        .ram_addr = rb->offset,
        .rb = rb,
    };
    g_array_append_val(blocks, b);
    return 0;
}

static void add_section(void *opaque, const char *idstr, uint32_t instance_id,
                        int version_id)
{
    g_string_append_printf(opaque, "section %s %" PRIu32 " %d\n", idstr,
                           instance_id, version_id);
}

FtMachine *ft_machine_new(void)
{
    FtMachine *m = g_new0(FtMachine, 1);
    GArray *blocks = g_array_new(false, false, sizeof(FtRamBlock));
    GString *text = g_string_new(NULL);

    WITH_RCU_READ_LOCK_GUARD() {
        qemu_ram_foreach_block(add_block, blocks);
    }
    m->count = blocks->len;
    m->block = (FtRamBlock *)g_array_free(blocks, false);
    m->length = g_new0(uint64_t, m->count);

    g_string_append_printf(text, "cuju 1\n"
                           "qemu %s\nmachine %s\naccel %s\ncpu %s\nsmp %u\n"
                           "page %zu\n",
                           QEMU_VERSION,
                           MACHINE_GET_CLASS(current_machine)->name,
                           current_accel_name(),
                           current_machine->cpu_type ?: "none",
                           current_machine->smp.cpus,
                           qemu_target_page_size());
    for (unsigned i = 0; i < m->count; i++) {
        FtRamBlock *b = &m->block[i];

        m->length[i] = b->length;
        m->ram_bytes += b->length;
        g_string_append_printf(text, "ram %u %s %" PRIu64 "\n", i, b->idstr,
                               b->length);
    }
    qemu_savevm_foreach(add_section, text);
    ft_machine_cpus(text);
    m->fingerprint = g_string_free(text, false);
    return m;
}

void ft_machine_free(FtMachine *m)
{
    if (!m) {
        return;
    }
    for (unsigned i = 0; i < m->count; i++) {
        g_free(m->block[i].idstr);
    }
    g_free(m->block);
    g_free(m->length);
    g_free(m->fingerprint);
    g_free(m);
}

/* ---------------------------------------------------------------- reading */

/* Facts that there is one of, with what a person calls them. */
static const struct {
    const char *key, *what;
    bool cpu;                   /* which CPUs the guest can have at all */
} fact_names[] = {
    { "cuju", "protocol" },
    { "qemu", "QEMU version" },
    { "machine", "machine type" },
    { "accel", "accelerator", true },
    { "cpu", "CPU model", true },
    { "smp", "number of CPUs", true },
    { "page", "page size" },
};

#define FACTS ARRAY_SIZE(fact_names)

typedef struct RamFact {
    char *idstr;
    uint64_t length;
} RamFact;

typedef struct SectionFact {
    char *idstr;
    uint32_t instance;
    uint64_t version;
} SectionFact;

typedef struct Facts {
    char *fact[FACTS];
    GPtrArray *rams;            /* RamFact, by index */
    GHashTable *ram_names;      /* idstr -> RamFact */
    GPtrArray *sections;        /* SectionFact, as they came */
    GHashTable *section_names;  /* "idstr instance" -> SectionFact */
    FtCpuFacts *cpus;
} Facts;

static void ram_fact_free(void *opaque)
{
    RamFact *r = opaque;

    g_free(r->idstr);
    g_free(r);
}

static void section_fact_free(void *opaque)
{
    SectionFact *s = opaque;

    g_free(s->idstr);
    g_free(s);
}

static void facts_free(Facts *f)
{
    for (size_t i = 0; i < FACTS; i++) {
        g_free(f->fact[i]);
    }
    g_hash_table_unref(f->ram_names);
    g_ptr_array_unref(f->rams);
    g_hash_table_unref(f->section_names);
    g_ptr_array_unref(f->sections);
    ft_cpu_facts_free(f->cpus);
    g_free(f);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Facts, facts_free)

/* Cut the last word off @s; NULL if there is no other before it. */
static char *cut_last_word(char *s)
{
    char *blank = strrchr(s, ' ');

    if (!blank || blank == s) {
        return NULL;
    }
    *blank = 0;
    return blank + 1;
}

/* Digits only: no sign, no blanks. */
static bool get_number(const char *s, uint64_t max, uint64_t *v)
{
    return s && g_ascii_isdigit(*s) && !qemu_strtou64(s, NULL, 10, v) &&
           *v <= max;
}

static bool read_ram(Facts *f, char *s)
{
    char *length_text = cut_last_word(s);
    char *idstr = strchr(s, ' ');
    uint64_t index, length;
    RamFact *r;

    if (!length_text || !idstr) {
        return false;
    }
    *idstr++ = 0;
    if (!*idstr || strlen(idstr) > 255 ||
        !get_number(s, BLOCKS_MAX - 1, &index) || index != f->rams->len ||
        !get_number(length_text, INT64_MAX, &length) ||
        g_hash_table_contains(f->ram_names, idstr)) {
        return false;
    }
    r = g_new0(RamFact, 1);
    r->idstr = g_strdup(idstr);
    r->length = length;
    g_ptr_array_add(f->rams, r);
    g_hash_table_insert(f->ram_names, r->idstr, r);
    return true;
}

static bool read_section(Facts *f, char *s)
{
    char *version_text = cut_last_word(s);
    g_autofree char *name = g_strdup(s);    /* "idstr instance" */
    char *instance_text = cut_last_word(s);
    uint64_t instance, version;
    SectionFact *sec;

    if (!version_text || !instance_text ||
        !get_number(version_text, INT_MAX, &version) ||
        !get_number(instance_text, UINT32_MAX, &instance) ||
        g_hash_table_contains(f->section_names, name)) {
        return false;
    }
    sec = g_new0(SectionFact, 1);
    sec->idstr = g_strdup(s);
    sec->instance = instance;
    sec->version = version;
    g_ptr_array_add(f->sections, sec);
    g_hash_table_insert(f->section_names, g_steal_pointer(&name), sec);
    return true;
}

static bool read_line(Facts *f, char *line)
{
    char *rest = strchr(line, ' ');

    if (!rest || !rest[1]) {
        return false;
    }
    *rest++ = 0;
    if (g_str_equal(line, "ram")) {
        return read_ram(f, rest);
    }
    if (g_str_equal(line, "section")) {
        return read_section(f, rest);
    }
    if (ft_cpu_facts_key(line)) {
        return ft_cpu_facts_line(f->cpus, line, rest);
    }
    for (size_t i = 0; i < FACTS; i++) {
        if (g_str_equal(line, fact_names[i].key)) {
            if (f->fact[i]) {
                return false;
            }
            f->fact[i] = g_strdup(rest);
            return true;
        }
    }
    return false;
}

/* @text may be anything: only bytes that print go into the error. */
static Facts *facts_read(const char *text, size_t len, Error **errp)
{
    g_autoptr(Facts) f = g_new0(Facts, 1);
    unsigned number = 0;

    f->rams = g_ptr_array_new_with_free_func(ram_fact_free);
    f->ram_names = g_hash_table_new(g_str_hash, g_str_equal);
    f->sections = g_ptr_array_new_with_free_func(section_fact_free);
    f->section_names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                             NULL);
    f->cpus = ft_cpu_facts_new();
    if (len > TEXT_MAX) {
        error_setg(errp, "description of the machine has %zu bytes, limit is "
                   "%u", len, TEXT_MAX);
        return NULL;
    }

    while (len) {
        char line[LINE_BYTES + 1];
        const char *end = memchr(text, '\n', len);
        size_t n = end ? end - text : len;
        size_t step = end ? n + 1 : n;

        number++;
        if (n > LINE_BYTES) {
            error_setg(errp, "description of the machine: line %u has %zu "
                       "bytes, limit is %u", number, n, LINE_BYTES);
            return NULL;
        }
        for (size_t i = 0; i < n; i++) {
            if (text[i] < 0x20 || text[i] > 0x7e) {
                error_setg(errp, "description of the machine: line %u has "
                           "byte 0x%02x in it", number, (uint8_t)text[i]);
                return NULL;
            }
        }
        memcpy(line, text, n);
        line[n] = 0;
        if (!read_line(f, line)) {
            error_setg(errp, "description of the machine: line %u is not "
                       "understood, out of order or there twice: '%.*s'",
                       number, (int)n, text);
            return NULL;
        }
        text += step;
        len -= step;
    }

    for (size_t i = 0; i < FACTS; i++) {
        if (!f->fact[i]) {
            error_setg(errp, "description of the machine does not tell the "
                       "%s", fact_names[i].what);
            return NULL;
        }
    }
    return g_steal_pointer(&f);
}

/* -------------------------------------------------------------- comparing */

static void differ_length(FtDiffs *d, const char *idstr, uint64_t primary,
                          uint64_t backup)
{
    g_autofree char *p = size_to_str(primary);
    g_autofree char *b = size_to_str(backup);

    if (g_str_equal(p, b)) {
        ft_differ(d, FT_REMEDY_SAME, "ram %s: primary %" PRIu64 " bytes, "
                  "backup %" PRIu64, idstr, primary, backup);
    } else {
        ft_differ(d, FT_REMEDY_SAME, "ram %s: primary %s, backup %s", idstr,
                  p, b);
    }
}

/* How a section is called: the instance only where it tells something. */
static char *section_name(const SectionFact *s)
{
    if (s->instance == 0) {
        return g_strdup_printf("'%s'", s->idstr);
    }
    return g_strdup_printf("'%s' (instance %" PRIu32 ")", s->idstr,
                           s->instance);
}

static void compare_facts(FtDiffs *d, const Facts *primary,
                          const Facts *backup)
{
    bool same_cpu = true;

    for (size_t i = 0; i < FACTS; i++) {
        if (!g_str_equal(primary->fact[i], backup->fact[i])) {
            ft_differ(d, FT_REMEDY_SAME, "%s: primary %s, backup %s",
                      fact_names[i].what, primary->fact[i], backup->fact[i]);
            if (fact_names[i].cpu) {
                same_cpu = false;
            }
        }
    }
    /* Another model differs in many things, and by its name already. */
    if (same_cpu) {
        ft_cpu_facts_compare(d, primary->cpus, backup->cpus);
    }
}

static void compare_sections(FtDiffs *d, const Facts *primary,
                             const Facts *backup)
{
    for (int side = 0; side < 2; side++) {
        const Facts *a = side ? backup : primary;
        const Facts *b = side ? primary : backup;

        for (unsigned i = 0; i < a->sections->len; i++) {
            const SectionFact *s = g_ptr_array_index(a->sections, i);
            g_autofree char *key = g_strdup_printf("%s %" PRIu32, s->idstr,
                                                   s->instance);
            g_autofree char *name = section_name(s);
            const SectionFact *other = g_hash_table_lookup(b->section_names,
                                                           key);

            if (!other) {
                ft_differ(d, FT_REMEDY_SAME, "device section %s is on the %s "
                          "only", name, side ? "backup" : "primary");
            } else if (side == 0 && other->version != s->version) {
                ft_differ(d, FT_REMEDY_SAME, "device section %s: version %"
                          PRIu64 " on the primary, %" PRIu64 " on the backup",
                          name, s->version, other->version);
            }
        }
    }
}

/* Can @b be brought to @length, as an incoming migration would do it? */
static bool can_resize(const FtRamBlock *b, uint64_t length)
{
    RAMBlock *rb = b->rb;

    return (rb->flags & RAM_RESIZEABLE) && length <= rb->max_length &&
           !(length & (FT_PAGE_SIZE - 1));
}

/*
 * @order[i]: which of m->block is the primary's block i.  Complete if there
 * are no differences.
 */
static void compare_rams(FtDiffs *d, const Facts *primary, const FtMachine *m,
                         unsigned *order)
{
    g_autoptr(GHashTable) own = g_hash_table_new(g_str_hash, g_str_equal);

    for (unsigned i = 0; i < m->count; i++) {
        g_hash_table_insert(own, m->block[i].idstr, GUINT_TO_POINTER(i + 1));
    }
    for (unsigned i = 0; i < primary->rams->len; i++) {
        const RamFact *r = g_ptr_array_index(primary->rams, i);
        unsigned n = GPOINTER_TO_UINT(g_hash_table_lookup(own, r->idstr));

        if (!n) {
            ft_differ(d, FT_REMEDY_SAME, "ram %s is on the primary only",
                      r->idstr);
            continue;
        }
        if (m->block[n - 1].length != r->length &&
            !can_resize(&m->block[n - 1], r->length)) {
            differ_length(d, r->idstr, r->length, m->block[n - 1].length);
        }
        order[i] = n - 1;
    }
    for (unsigned i = 0; i < m->count; i++) {
        if (!g_hash_table_contains(primary->ram_names, m->block[i].idstr)) {
            ft_differ(d, FT_REMEDY_SAME, "ram %s is on the backup only",
                      m->block[i].idstr);
        }
    }
}

bool ft_machine_adopt(FtMachine *m, const char *text, size_t len,
                      Error **errp)
{
    ERRP_GUARD();
    g_autoptr(Facts) primary = NULL;
    g_autoptr(Facts) backup = NULL;
    g_autoptr(GString) diffs = g_string_new(NULL);
    FtDiffs d = { .text = diffs };
    g_autofree unsigned *order = NULL;
    FtRamBlock *block;

    primary = facts_read(text, len, errp);
    if (!primary) {
        error_prepend(errp, "the primary's ");
        return false;
    }
    backup = facts_read(m->fingerprint, strlen(m->fingerprint), errp);
    if (!backup) {
        error_prepend(errp, "the backup's own ");
        return false;
    }

    order = g_new0(unsigned, primary->rams->len);
    compare_facts(&d, primary, backup);
    compare_rams(&d, primary, m, order);
    compare_sections(&d, primary, backup);
    if (d.shown) {
        ft_differ_close(&d);
        error_setg(errp, "the machines differ: %s", diffs->str);
        return false;
    }

    /*
     * The same names on both sides, each once: order is a permutation.
     * Resizing first, as it may fail; a block that was resized then stays
     * so, which m has to know.
     */
    for (unsigned i = 0; i < m->count; i++) {
        const RamFact *r = g_ptr_array_index(primary->rams, i);
        FtRamBlock *b = &m->block[order[i]];

        if (b->length == r->length) {
            continue;
        }
        if (qemu_ram_resize(b->rb, r->length, errp) < 0) {
            error_prepend(errp, "ram %s cannot be resized: ", b->idstr);
            return false;
        }
        m->ram_bytes += r->length - b->length;
        m->length[order[i]] = r->length;
        b->length = r->length;
    }
    block = g_new(FtRamBlock, m->count);
    for (unsigned i = 0; i < m->count; i++) {
        block[i] = m->block[order[i]];
        m->length[i] = block[i].length;
    }
    g_free(m->block);
    m->block = block;
    return true;
}

/* ------------------------------------------------------------------- hash */

/* The finalizer of MurmurHash3: every bit of @x reaches every bit. */
static uint64_t mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

/*
 * Two CRCs of the same bytes with different seeds would say no more than one
 * (they differ by a constant), so each page gives 64 bits by the CRCs of its
 * two halves.  These are chained with a mixing step, from a start that has
 * index and length of the block in it: pages or blocks that change places
 * are seen.  Against accidents, not against an adversary.
 */
uint64_t ft_machine_hash(const FtMachine *m)
{
    uint64_t h = m->count;

    for (unsigned i = 0; i < m->count; i++) {
        const FtRamBlock *b = &m->block[i];
        uint64_t pos, n;

        h = mix64(h + i) ^ b->length;
        for (pos = 0; pos < b->length; pos += n) {
            uint32_t hi, lo;
            uint64_t half;

            n = MIN(b->length - pos, FT_PAGE_SIZE);
            half = n / 2;
            hi = ft_wire_crc32c(0, b->host + pos, half);
            lo = ft_wire_crc32c(0, b->host + pos + half, n - half);
            h = mix64(h ^ ((uint64_t)hi << 32 | lo)) + 1;
        }
    }
    return h;
}
