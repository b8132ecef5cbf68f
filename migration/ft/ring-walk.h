/*
 * Fault tolerance: reading one of KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Of no VM, so that it can be tested without one.  The ring is shared with
 * the kernel, which fills an entry and then sets its flag to DIRTY.  Whoever
 * has read it sets RESET, and KVM_RESET_DIRTY_RINGS protects the pages of all
 * such entries anew and makes them free.  See KVM's api.rst, 8.29.
 */

#ifndef MIGRATION_FT_RING_WALK_H
#define MIGRATION_FT_RING_WALK_H

#include <linux/kvm.h>
#include "qemu/atomic.h"

/* What a memory slot of KVM shows; no pages: there is no such slot. */
typedef struct FtRingSlot {
    uint64_t ram_addr;
    uint64_t pages;
} FtRingSlot;

typedef struct FtRingSlots {
    FtRingSlot *slot;           /* [spaces][count] */
    unsigned spaces;            /* address spaces */
    unsigned count;             /* of each */
} FtRingSlots;

typedef void FtRingPageFn(void *opaque, uint64_t ram_addr);

/* Where in RAM an entry's page is.  False: it is of a slot that is gone. */
static inline bool ft_ring_locate(const FtRingSlots *s, uint32_t id,
                                  uint64_t offset, unsigned page_bits,
                                  uint64_t *ram_addr)
{
    uint32_t space = id >> 16;
    uint32_t index = id & 0xffff;
    const FtRingSlot *slot;

    if (space >= s->spaces || index >= s->count) {
        return false;
    }
    slot = &s->slot[space * s->count + index];
    if (offset >= slot->pages) {
        return false;
    }
    *ram_addr = slot->ram_addr + (offset << page_bits);
    return true;
}

/*
 * ft_ring_walk: call @fn for the pages of the entries that are ready in
 * @ring, which has @size of them (a power of two), in order from *@fetch, and
 * mark these as read.  Returns how many there were, with pages or without:
 * so many KVM_RESET_DIRTY_RINGS must find.  At most one round.
 */
static inline uint32_t ft_ring_walk(struct kvm_dirty_gfn *ring, uint32_t size,
                                    uint32_t *fetch, const FtRingSlots *s,
                                    unsigned page_bits, FtRingPageFn *fn,
                                    void *opaque)
{
    uint32_t n;

    for (n = 0; n < size; n++) {
        struct kvm_dirty_gfn *e = &ring[*fetch & (size - 1)];
        uint64_t ram_addr;

        /* slot and offset are valid once the flag is seen */
        if (qatomic_load_acquire(&e->flags) != KVM_DIRTY_GFN_F_DIRTY) {
            break;
        }
        if (ft_ring_locate(s, e->slot, e->offset, page_bits, &ram_addr)) {
            fn(opaque, ram_addr);
        }
        /* ... and the kernel's again once this one is */
        qatomic_store_release(&e->flags, KVM_DIRTY_GFN_F_RESET);
        ++*fetch;
    }
    return n;
}

#endif
