/*
 * Fault tolerance: harvesting KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With -accel kvm,dirty-ring-size=N each vCPU has a ring of the pages that it
 * has dirtied.  QEMU's own way to them, a sync of the dirty log, makes every
 * vCPU thread run once, giving the BQL up for it, and goes through bitmaps of
 * all RAM.  In the pause of an epoch the vCPUs are in user space already, and
 * with them all that KVM has to say: the rings are simply read.
 *
 *      vCPU's ring --------- harvest -----------------> FtCapture.bmap
 *           |                                                ^
 *           |  QEMU: once a second, ring full,               | exchange
 *           v  a slot is removed                             | (capture.c)
 *      KVMSlot.dirty_bmap -- fold, if that happened --> QEMU's bitmaps
 *
 * QEMU takes from the rings, too, and leaves what it got in bitmaps of the
 * slots.  It counts in CPUState.dirty_pages, for the dirty rate; so does the
 * harvest, and when the sum is not what the harvest left, there is something
 * in those bitmaps.
 *
 * Locking: BQL.  QEMU reads the rings and changes the slots only with it
 * held, in whatever thread; its lock of the slots is there for those who
 * clear the log without it, and there are none with rings.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "exec/target_page.h"
#include "exec/ram_addr.h"
#include "hw/core/cpu.h"
#include "system/kvm.h"
#include "ring.h"
#include "trace.h"

#ifdef CONFIG_KVM
#include "system/kvm_int.h"

struct FtRing {
    uint64_t counted;           /* sum of dirty_pages at the last harvest */
    FtRingSlots slots;
};

bool ft_ring_usable(void)
{
    return kvm_enabled() && kvm_state->kvm_dirty_ring_size &&
           /* Some writes are in the kernel's bitmap then; not on x86. */
           !kvm_state->kvm_dirty_ring_with_bitmap &&
           qemu_real_host_page_size() == qemu_target_page_size();
}

FtRing *ft_ring_new(void)
{
    FtRing *r;

    if (!ft_ring_usable()) {
        return NULL;
    }
    r = g_new0(FtRing, 1);
    /* Nobody knows what the slots' bitmaps have. */
    r->counted = UINT64_MAX;
    return r;
}

void ft_ring_free(FtRing *r)
{
    if (r) {
        g_free(r->slots.slot);
        g_free(r);
    }
}

static bool ring_exists(const CPUState *cpu)
{
    /* One that is being made is in the list before it has its ring. */
    return cpu->created && cpu->kvm_dirty_gfns;
}

static uint64_t ring_counted(void)
{
    CPUState *cpu;
    uint64_t sum = 0;

    CPU_FOREACH(cpu) {
        if (ring_exists(cpu)) {
            sum += cpu->dirty_pages;
        }
    }
    return sum;
}

/* What QEMU has taken out of the rings: to its own bitmaps. */
static void ring_fold(KVMState *s)
{
    int as;

    for (as = 0; as < s->nr_as; as++) {
        KVMMemoryListener *kml = s->as[as].ml;
        unsigned i;

        for (i = 0; kml && i < kml->nr_slots_allocated; i++) {
            KVMSlot *slot = &kml->slots[i];

            if (!slot->memory_size || !slot->dirty_bmap ||
                buffer_is_zero(slot->dirty_bmap, slot->dirty_bmap_size)) {
                continue;
            }
            cpu_physical_memory_set_dirty_lebitmap(
                slot->dirty_bmap, slot->ram_start_offset,
                slot->memory_size / qemu_real_host_page_size());
            memset(slot->dirty_bmap, 0, slot->dirty_bmap_size);
        }
    }
}

/* There are few of them, and firmware moves them about. */
static void ring_slots(FtRingSlots *t, KVMState *s)
{
    unsigned spaces = s->nr_as, count = 0;
    unsigned as, i;

    for (as = 0; as < spaces; as++) {
        if (s->as[as].ml) {
            count = MAX(count, s->as[as].ml->nr_slots_allocated);
        }
    }
    if (t->spaces != spaces || t->count != count) {
        t->spaces = spaces;
        t->count = count;
        t->slot = g_renew(FtRingSlot, t->slot, (size_t)spaces * count);
    }
    memset(t->slot, 0, sizeof(*t->slot) * spaces * count);
    for (as = 0; as < spaces; as++) {
        KVMMemoryListener *kml = s->as[as].ml;

        for (i = 0; kml && i < kml->nr_slots_allocated; i++) {
            t->slot[as * count + i] = (FtRingSlot) {
                .ram_addr = kml->slots[i].ram_start_offset,
                .pages = kml->slots[i].memory_size /
                         qemu_real_host_page_size(),
            };
        }
    }
}

/*
 * Once is enough, but a kernel may stop in the middle for a signal and say
 * how far it came.  What is left would come to light as an assertion in
 * QEMU's own reading.
 */
static bool ring_reset(KVMState *s, uint64_t count, Error **errp)
{
    uint64_t done = 0;

    while (done < count) {
        int ret = kvm_vm_ioctl(s, KVM_RESET_DIRTY_RINGS);

        if (ret == -EINTR) {
            continue;
        }
        if (ret <= 0 || ret > count - done) {
            error_setg(errp, "KVM has freed %" PRIu64 " entries of its dirty "
                       "rings, then answered %d, of %" PRIu64, done, ret,
                       count);
            return false;
        }
        done += ret;
    }
    return true;
}

bool ft_ring_harvest(FtRing *r, FtRingPageFn *fn, void *opaque, Error **errp)
{
    KVMState *s = kvm_state;
    uint64_t counted = ring_counted();
    bool fold = counted != r->counted;
    uint64_t total = 0;
    CPUState *cpu;

    assert(bql_locked());
    if (fold) {
        ring_fold(s);
    }
    ring_slots(&r->slots, s);
    CPU_FOREACH(cpu) {
        if (ring_exists(cpu)) {
            uint32_t n = ft_ring_walk(cpu->kvm_dirty_gfns,
                                      s->kvm_dirty_ring_size,
                                      &cpu->kvm_fetch_index, &r->slots,
                                      qemu_target_page_bits(), fn, opaque);

            cpu->dirty_pages += n;
            total += n;
        }
    }
    r->counted = counted + total;
    trace_ft_ring_harvest(total, fold);
    return ring_reset(s, total, errp);
}

#else

bool ft_ring_usable(void)
{
    return false;
}

FtRing *ft_ring_new(void)
{
    return NULL;
}

void ft_ring_free(FtRing *r)
{
}

bool ft_ring_harvest(FtRing *r, FtRingPageFn *fn, void *opaque, Error **errp)
{
    g_assert_not_reached();
}

#endif
