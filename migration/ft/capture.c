/*
 * Fault tolerance: the dirty set, and copies of its pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The engine harvests the machine's dirty log itself and keeps a bitmap of
 * its own per RAM block.  It does not use the migration code's helper for
 * that: in QEMU 10.0 cpu_physical_memory_sync_dirty_bitmap() resets the TCG
 * TLB with an address relative to the block, so that pages of every block
 * that is not at ram_addr 0 keep their fast path, and later writes to them
 * are lost.
 *
 *      KVM's log of a slot     TCG, DMA      KVM's ring of a vCPU
 *             |  sync            |                 |
 *             v                  v                 |
 *      QEMU's bitmap (DIRTY_MEMORY_MIGRATION)      |
 *             |  exchange words, reset the         |  harvest (ring.c)
 *             v  TLBs, clear KVM's log             v
 *      FtCapture.bmap[block]                          one reader at a time
 *             |  drain (first copy, guest runs)  or  copy (in the pause)
 *             v
 *      frames, or an FtStage
 *
 * KVM keeps either logs or rings.  Logs are of whole slots, so their price
 * is in proportion to the guest's size; rings hold what was written.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/memory.h"
#include "migration/ft.h"
#include "system/kvm.h"
#include "ring.h"
#include "session.h"

#define STAGE_SLAB_PAGES 256
/*
 * Words of 64 pages: parts of a block that are so far apart are cleared in
 * KVM's log one by one.  A call costs about as much as it does to pass so
 * many words that have nothing.
 */
#define CLEAR_GAP_WORDS 1024

struct FtCapture {
    FtMachine *machine;
    unsigned long **bmap;       /* [machine->count] */
    uint64_t dirty;             /* bits in them */
    FtRing *ring;               /* NULL: all is in the machine's log */
    bool *shown;                /* [machine->count]: the display wants to know
                                 * as well */
    unsigned last;              /* block of the last page from the ring */
    Error *broken;              /* the dirty set is not known */
};

void ft_dirty_mapped(void *host, size_t len)
{
    MemoryRegion *mr;
    ram_addr_t offset;

    RCU_READ_LOCK_GUARD();
    mr = memory_region_from_host(host, &offset);
    if (mr) {
        /* Not for the others: TCG's would believe it has no code there. */
        cpu_physical_memory_set_dirty_range(
            memory_region_get_ram_addr(mr) + offset, len,
            1 << DIRTY_MEMORY_MIGRATION);
    }
}

static uint64_t block_pages(const FtRamBlock *b)
{
    return DIV_ROUND_UP(b->length, FT_PAGE_SIZE);
}

FtCapture *ft_capture_new(FtMachine *m, Error **errp)
{
    FtCapture *c;
    unsigned i;

    QEMU_BUILD_BUG_ON(TARGET_PAGE_BITS != FT_PAGE_BITS);
    /* What a balloon gives back to the host is zero then, and not dirty. */
    if (ram_block_discard_disable(true)) {
        error_setg(errp, "a device of this machine gives parts of its memory "
                   "back to the host at any time; remove it (virtio-mem)");
        return NULL;
    }
    if (!memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp)) {
        ram_block_discard_disable(false);
        return NULL;
    }
    c = g_new0(FtCapture, 1);
    c->machine = m;
    c->bmap = g_new0(unsigned long *, m->count);
    for (i = 0; i < m->count; i++) {
        uint64_t pages = block_pages(&m->block[i]);

        c->bmap[i] = bitmap_new(pages);
        bitmap_set(c->bmap[i], 0, pages);
        c->dirty += pages;
    }
    c->ring = ft_ring_new();
    c->shown = g_new0(bool, m->count);
    return c;
}

FtDirtyTracking ft_capture_how(void)
{
    return ft_ring_usable() ? FT_DIRTY_TRACKING_KVM_RING :
           kvm_enabled() ? FT_DIRTY_TRACKING_KVM_BITMAP :
           FT_DIRTY_TRACKING_TCG;
}

void ft_capture_free(FtCapture *c)
{
    unsigned i;

    if (!c) {
        return;
    }
    memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
    ram_block_discard_disable(false);
    for (i = 0; i < c->machine->count; i++) {
        g_free(c->bmap[i]);
    }
    g_free(c->bmap);
    g_free(c->shown);
    ft_ring_free(c->ring);
    error_free(c->broken);
    g_free(c);
}

/* From the vCPUs' rings. */
static void capture_page(void *opaque, uint64_t ram_addr)
{
    FtCapture *c = opaque;
    FtMachine *m = c->machine;
    unsigned i = c->last;

    if (ram_addr - m->block[i].ram_addr >= m->block[i].length) {
        for (i = 0; i < m->count; i++) {
            if (ram_addr - m->block[i].ram_addr < m->block[i].length) {
                break;
            }
        }
        if (i == m->count) {
            return;     /* does not migrate */
        }
        c->last = i;
    }
    if (!test_and_set_bit((ram_addr - m->block[i].ram_addr) >> FT_PAGE_BITS,
                          c->bmap[i])) {
        c->dirty++;
    }
    if (c->shown[i]) {
        cpu_physical_memory_set_dirty_flag(ram_addr, DIRTY_MEMORY_VGA);
    }
}

static void harvest_ring(FtCapture *c)
{
    FtMachine *m = c->machine;
    unsigned i;

    if (c->broken) {
        return;
    }
    for (i = 0; i < m->count; i++) {
        RAMBlock *rb = m->block[i].rb;

        c->shown[i] = memory_region_is_logging(rb->mr, DIRTY_MEMORY_VGA);
    }
    ft_ring_harvest(c->ring, capture_page, c, &c->broken);
}

/* In KVM's log, words @from to @to - 1 of the block. */
static void clear_log(const FtRamBlock *b, uint64_t from, uint64_t to)
{
    uint64_t word = BITS_PER_LONG * FT_PAGE_SIZE;
    RAMBlock *rb = b->rb;

    memory_region_clear_dirty_bitmap(rb->mr, from * word,
                                     MIN(to * word, b->length) - from * word);
}

/* Move one block's bits, those of the machine's log. */
static void harvest_block(FtCapture *c, unsigned block)
{
    const FtRamBlock *b = &c->machine->block[block];
    unsigned long *bmap = c->bmap[block];
    uint64_t pages = block_pages(b);
    uint64_t first = b->ram_addr >> TARGET_PAGE_BITS;
    unsigned long *const *src;
    uint64_t from = 0, to = 0;  /* where there were any */
    uint64_t k;

    /* qemu_ram_alloc() places blocks at multiples of a word of pages */
    assert(first % BITS_PER_LONG == 0);
    src = qatomic_rcu_read(
        &ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION])->blocks;
    for (k = 0; k < BITS_TO_LONGS(pages); k++) {
        uint64_t page = first + k * BITS_PER_LONG;
        unsigned long *word = src[page / DIRTY_MEMORY_BLOCK_SIZE] +
                              BIT_WORD(page % DIRTY_MEMORY_BLOCK_SIZE);

        if (qatomic_read(word)) {
            unsigned long bits = qatomic_xchg(word, 0);

            if (pages - k * BITS_PER_LONG < BITS_PER_LONG) {
                bits &= BITMAP_LAST_WORD_MASK(pages);
            }
            c->dirty += ctpopl(bits & ~bmap[k]);
            bmap[k] |= bits;
            if (to && k - to >= CLEAR_GAP_WORDS) {
                clear_log(b, from, to);
                to = 0;
            }
            if (!to) {
                from = k;
            }
            to = k + 1;
        }
    }
    if (to) {
        clear_log(b, from, to);
        cpu_physical_memory_dirty_bits_cleared(b->ram_addr, b->length);
    }
}

uint64_t ft_capture_harvest(FtCapture *c)
{
    unsigned i;

    if (c->ring) {
        harvest_ring(c);
    } else {
        memory_global_dirty_log_sync(true);
    }
    RCU_READ_LOCK_GUARD();
    for (i = 0; i < c->machine->count; i++) {
        harvest_block(c, i);
    }
    return c->dirty;
}

bool ft_capture_check(FtCapture *c, Error **errp)
{
    unsigned i;

    if (c->broken) {
        error_propagate(errp, error_copy(c->broken));
        return false;
    }
    for (i = 0; i < c->machine->count; i++) {
        FtRamBlock *b = &c->machine->block[i];
        RAMBlock *rb = b->rb;

        if (rb->used_length != b->length) {
            error_setg(errp, "RAM block '%s' has been resized from %" PRIu64
                       " to %" PRIu64 " bytes by the guest's firmware: "
                       "protect it again", b->idstr, b->length,
                       (uint64_t)rb->used_length);
            return false;
        }
    }
    return true;
}

bool ft_capture_drain(FtCapture *c, FtCapturePageFn *fn, void *opaque)
{
    FtMachine *m = c->machine;
    unsigned i;

    for (i = 0; i < m->count && c->dirty; i++) {
        uint64_t pages = block_pages(&m->block[i]);
        uint64_t p = find_first_bit(c->bmap[i], pages);

        while (p < pages) {
            clear_bit(p, c->bmap[i]);
            c->dirty--;
            if (!fn(opaque, i, p << FT_PAGE_BITS,
                    m->block[i].host + (p << FT_PAGE_BITS))) {
                set_bit(p, c->bmap[i]);
                c->dirty++;
                return false;
            }
            p = c->dirty ? find_next_bit(c->bmap[i], pages, p + 1) : pages;
        }
    }
    return true;
}

FtStage *ft_stage_new(void)
{
    FtStage *s = g_new0(FtStage, 1);

    s->slabs = g_ptr_array_new_with_free_func(qemu_vfree);
    return s;
}

void ft_stage_free(FtStage *s)
{
    if (s) {
        g_ptr_array_free(s->slabs, true);
        g_free(s->page);
        g_free(s);
    }
}

void ft_stage_reset(FtStage *s)
{
    s->count = 0;
}

static bool stage_page(void *opaque, uint16_t block, uint64_t offset,
                       const uint8_t *page)
{
    FtStage *s = opaque;
    uint64_t slab = s->count / STAGE_SLAB_PAGES;
    uint8_t *to;

    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 1024;
        s->page = g_renew(FtStagedPage, s->page, s->capacity);
    }
    if (slab == s->slabs->len) {
        g_ptr_array_add(s->slabs, qemu_memalign(FT_PAGE_SIZE, FT_PAGE_SIZE *
                                                STAGE_SLAB_PAGES));
    }
    to = (uint8_t *)g_ptr_array_index(s->slabs, slab) +
         s->count % STAGE_SLAB_PAGES * FT_PAGE_SIZE;
    memcpy(to, page, FT_PAGE_SIZE);
    s->page[s->count++] = (FtStagedPage) { block, offset, to };
    return true;
}

void ft_capture_copy(FtCapture *c, FtStage *stage)
{
    ft_capture_drain(c, stage_page, stage);
}
