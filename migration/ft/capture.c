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
 *      machine's log (DIRTY_MEMORY_MIGRATION, KVM)    written by vCPUs, DMA
 *             |  harvest: exchange words, reset the TLBs, clear KVM's log
 *             v
 *      FtCapture.bmap[block]                          one reader at a time
 *             |  drain (first copy, guest runs)  or  copy (in the pause)
 *             v
 *      frames, or an FtStage
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bitmap.h"
#include "qemu/memalign.h"
#include "qemu/rcu.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "exec/memory.h"
#include "session.h"

#define STAGE_SLAB_PAGES 256

struct FtCapture {
    FtMachine *machine;
    unsigned long **bmap;       /* [machine->count] */
};

static uint64_t block_pages(const FtRamBlock *b)
{
    return DIV_ROUND_UP(b->length, FT_PAGE_SIZE);
}

FtCapture *ft_capture_new(FtMachine *m, Error **errp)
{
    FtCapture *c;
    unsigned i;

    QEMU_BUILD_BUG_ON(TARGET_PAGE_BITS != FT_PAGE_BITS);
    if (!memory_global_dirty_log_start(GLOBAL_DIRTY_MIGRATION, errp)) {
        return NULL;
    }
    c = g_new0(FtCapture, 1);
    c->machine = m;
    c->bmap = g_new0(unsigned long *, m->count);
    for (i = 0; i < m->count; i++) {
        uint64_t pages = block_pages(&m->block[i]);

        c->bmap[i] = bitmap_new(pages);
        bitmap_set(c->bmap[i], 0, pages);
    }
    return c;
}

void ft_capture_free(FtCapture *c)
{
    unsigned i;

    if (!c) {
        return;
    }
    memory_global_dirty_log_stop(GLOBAL_DIRTY_MIGRATION);
    for (i = 0; i < c->machine->count; i++) {
        g_free(c->bmap[i]);
    }
    g_free(c->bmap);
    g_free(c);
}

/* Move one block's bits; returns whether the machine had any. */
static bool harvest_block(const FtRamBlock *b, unsigned long *bmap)
{
    uint64_t pages = block_pages(b);
    uint64_t first = b->ram_addr >> TARGET_PAGE_BITS;
    unsigned long *const *src;
    bool any = false;
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
            bmap[k] |= bits;
            any = true;
        }
    }
    return any;
}

uint64_t ft_capture_harvest(FtCapture *c)
{
    FtMachine *m = c->machine;
    uint64_t dirty = 0;
    unsigned i;

    memory_global_dirty_log_sync(false);
    RCU_READ_LOCK_GUARD();
    for (i = 0; i < m->count; i++) {
        FtRamBlock *b = &m->block[i];
        RAMBlock *rb = b->rb;

        if (harvest_block(b, c->bmap[i])) {
            cpu_physical_memory_dirty_bits_cleared(b->ram_addr, b->length);
            memory_region_clear_dirty_bitmap(rb->mr, 0, b->length);
        }
        dirty += bitmap_count_one(c->bmap[i], block_pages(b));
    }
    return dirty;
}

bool ft_capture_check(FtCapture *c, Error **errp)
{
    unsigned i;

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

    for (i = 0; i < m->count; i++) {
        uint64_t pages = block_pages(&m->block[i]);
        uint64_t p = find_first_bit(c->bmap[i], pages);

        while (p < pages) {
            clear_bit(p, c->bmap[i]);
            if (!fn(opaque, i, p << FT_PAGE_BITS,
                    m->block[i].host + (p << FT_PAGE_BITS))) {
                set_bit(p, c->bmap[i]);
                return false;
            }
            p = find_next_bit(c->bmap[i], pages, p + 1);
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
