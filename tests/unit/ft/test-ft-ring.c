/*
 * Unit tests of migration/ft/ring-walk.h: reading KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Kernel and guest are a model here: it fills entries, and frees those that
 * were read, as KVM_RESET_DIRTY_RINGS does.
 */

#include "qemu/osdep.h"
#include "migration/ft/ring-walk.h"

#define PAGE_BITS   12
#define SPACES      2
#define SLOTS       5
#define SLOT_PAGES  1000

typedef struct Ring {
    struct kvm_dirty_gfn *gfn;
    uint32_t size;
    uint32_t push, reset;       /* the kernel's */
    uint32_t fetch;             /* the reader's */
    FtRingSlots slots;
    GArray *expect, *got;       /* of uint64_t: RAM addresses */
    GRand *rand;
} Ring;

/* Slot 3 does not exist, in neither space. */
static bool slot_exists(uint32_t space, uint32_t index)
{
    return space < SPACES && index < SLOTS && index != 3;
}

static uint64_t slot_addr(uint32_t space, uint32_t index)
{
    return ((uint64_t)(space * SLOTS + index + 1) << 32) + 0x7000;
}

static Ring *ring_new(uint32_t size, uint32_t start)
{
    Ring *r = g_new0(Ring, 1);
    unsigned i;

    r->gfn = g_new0(struct kvm_dirty_gfn, size);
    r->size = size;
    r->push = r->reset = r->fetch = start;
    r->expect = g_array_new(false, false, sizeof(uint64_t));
    r->got = g_array_new(false, false, sizeof(uint64_t));
    r->rand = g_rand_new_with_seed(g_test_rand_int());
    r->slots.spaces = SPACES;
    r->slots.count = SLOTS;
    r->slots.slot = g_new0(FtRingSlot, SPACES * SLOTS);
    for (i = 0; i < SPACES * SLOTS; i++) {
        if (slot_exists(i / SLOTS, i % SLOTS)) {
            r->slots.slot[i].ram_addr = slot_addr(i / SLOTS, i % SLOTS);
            r->slots.slot[i].pages = SLOT_PAGES;
        }
    }
    return r;
}

static void ring_free(Ring *r)
{
    g_free(r->gfn);
    g_free(r->slots.slot);
    g_array_unref(r->expect);
    g_array_unref(r->got);
    g_rand_free(r->rand);
    g_free(r);
}

static void push(Ring *r, uint32_t space, uint32_t index, uint64_t offset)
{
    struct kvm_dirty_gfn *e = &r->gfn[r->push++ % r->size];

    g_assert_cmpuint(r->push - r->reset, <=, r->size);
    g_assert_cmpuint(e->flags, ==, 0);
    e->slot = space << 16 | index;
    e->offset = offset;
    e->flags = KVM_DIRTY_GFN_F_DIRTY;
    if (slot_exists(space, index) && offset < SLOT_PAGES) {
        uint64_t addr = slot_addr(space, index) + (offset << PAGE_BITS);

        g_array_append_val(r->expect, addr);
    }
}

/* What is not ready has something in it that must not be believed. */
static void poison(Ring *r)
{
    uint32_t i;

    for (i = 0; i < r->size; i++) {
        if (r->gfn[i].flags != KVM_DIRTY_GFN_F_DIRTY) {
            r->gfn[i].slot = 1;
            r->gfn[i].offset = 666;
        }
    }
}

static void page(void *opaque, uint64_t ram_addr)
{
    Ring *r = opaque;
    /* Read before it is given back. */
    struct kvm_dirty_gfn *e = &r->gfn[r->fetch % r->size];

    g_assert_cmpuint(e->flags, ==, KVM_DIRTY_GFN_F_DIRTY);
    g_array_append_val(r->got, ram_addr);
}

static uint32_t walk(Ring *r)
{
    return ft_ring_walk(r->gfn, r->size, &r->fetch, &r->slots, PAGE_BITS,
                        page, r);
}

/* As the kernel does it: in order, up to one that was not read. */
static uint32_t kernel_reset(Ring *r)
{
    uint32_t n = 0;

    while (r->reset != r->push &&
           r->gfn[r->reset % r->size].flags & KVM_DIRTY_GFN_F_RESET) {
        r->gfn[r->reset++ % r->size].flags = 0;
        n++;
    }
    return n;
}

static void check(Ring *r)
{
    g_assert_cmpmem(r->got->data, r->got->len * sizeof(uint64_t),
                    r->expect->data, r->expect->len * sizeof(uint64_t));
    g_array_set_size(r->got, 0);
    g_array_set_size(r->expect, 0);
}

static void test_empty(void)
{
    Ring *r = ring_new(8, 0);

    poison(r);
    g_assert_cmpuint(walk(r), ==, 0);
    g_assert_cmpuint(r->fetch, ==, 0);
    check(r);
    ring_free(r);
}

/* Full: once round, and no further though all are there again. */
static void test_full(void)
{
    Ring *r = ring_new(8, 5);
    unsigned i;

    for (i = 0; i < 8; i++) {
        push(r, i % 2, i % 3, i);
    }
    g_assert_cmpuint(walk(r), ==, 8);
    g_assert_cmpuint(r->fetch, ==, 13);
    check(r);
    /* Nobody has freed them: they are not read a second time. */
    g_assert_cmpuint(walk(r), ==, 0);
    g_assert_cmpuint(r->got->len, ==, 0);
    g_assert_cmpuint(kernel_reset(r), ==, 8);
    ring_free(r);
}

/* An entry that is being filled ends the walk, whatever is behind it. */
static void test_gap(void)
{
    Ring *r = ring_new(8, 0);

    push(r, 0, 0, 1);
    push(r, 0, 0, 2);
    push(r, 0, 0, 3);
    r->gfn[1].flags = 0;
    g_assert_cmpuint(walk(r), ==, 1);
    g_assert_cmpuint(r->got->len, ==, 1);
    g_assert_cmpuint(r->gfn[0].flags, ==, KVM_DIRTY_GFN_F_RESET);
    g_assert_cmpuint(r->gfn[1].flags, ==, 0);
    g_assert_cmpuint(r->gfn[2].flags, ==, KVM_DIRTY_GFN_F_DIRTY);
    r->gfn[1].flags = KVM_DIRTY_GFN_F_DIRTY;
    g_assert_cmpuint(walk(r), ==, 2);
    check(r);
    ring_free(r);
}

/* Somebody else has read it, and the kernel not seen it yet. */
static void test_read_already(void)
{
    Ring *r = ring_new(8, 0);

    push(r, 0, 0, 1);
    r->gfn[0].flags |= KVM_DIRTY_GFN_F_RESET;
    g_assert_cmpuint(walk(r), ==, 0);
    g_assert_cmpuint(r->got->len, ==, 0);
    ring_free(r);
}

/* Entries of slots that are gone are read and count, but have no page. */
static void test_unknown(void)
{
    Ring *r = ring_new(16, 0);

    push(r, 0, 3, 0);
    push(r, 0, SLOTS, 0);
    push(r, 0, 0x100, 0);
    push(r, 0, 0xffff, 0);
    push(r, SPACES, 0, 0);
    push(r, 0xffff, 0xffff, 0);
    push(r, 1, 0, SLOT_PAGES);
    push(r, 1, 0, UINT64_MAX);
    push(r, 1, 0, 1ull << 52);  /* nothing is left of it as an address */
    g_assert_cmpuint(r->expect->len, ==, 0);
    push(r, 1, 0, SLOT_PAGES - 1);
    push(r, 1, SLOTS - 1, 0);
    g_assert_cmpuint(r->expect->len, ==, 2);
    g_assert_cmpuint(walk(r), ==, 11);
    check(r);
    g_assert_cmpuint(kernel_reset(r), ==, 11);
    ring_free(r);
}

/* Indices count on beyond the ring, and beyond 32 bits. */
static void random_run(uint32_t start)
{
    Ring *r = ring_new(1u << g_test_rand_int_range(0, 11), start);
    uint64_t read = 0, freed = 0;
    unsigned i, k;

    for (i = 0; i < 2000; i++) {
        uint32_t room = r->size - (r->push - r->reset);
        uint32_t n = g_rand_int_range(r->rand, 0, room + 1);

        for (k = 0; k < n; k++) {
            push(r, g_rand_int_range(r->rand, 0, SPACES + 1),
                 g_rand_int_range(r->rand, 0, SLOTS + 1),
                 g_rand_int_range(r->rand, 0, SLOT_PAGES * 2));
        }
        poison(r);
        g_assert_cmpuint(walk(r), ==, n);
        read += n;
        g_assert_cmpuint(r->fetch, ==, r->push);
        check(r);
        if (g_rand_boolean(r->rand)) {
            freed += kernel_reset(r);
            g_assert_cmpuint(freed, ==, read);
        }
    }
    g_assert_cmpuint(read, >, 0);
    ring_free(r);
}

static void test_random(void)
{
    unsigned i;

    for (i = 0; i < 20; i++) {
        random_run(g_test_rand_int());
        random_run(UINT32_MAX - i * 7);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/ring/empty", test_empty);
    g_test_add_func("/ft/ring/full", test_full);
    g_test_add_func("/ft/ring/gap", test_gap);
    g_test_add_func("/ft/ring/read-already", test_read_already);
    g_test_add_func("/ft/ring/unknown", test_unknown);
    g_test_add_func("/ft/ring/random", test_random);
    return g_test_run();
}
