/*
 * Fault tolerance: the guest's clocks over a takeover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The time between the last committed epoch and the takeover has passed for
 * everybody but the guest.  It gets that time at once, as after a moment in
 * which the host did not schedule it: its clocks go on with the world's, and
 * timers that should have fired do so now.
 *
 *      primary                       backup
 *      image: k, t .... its end is
 *                 sent, of age a -->  complete at r ...... s: the guest starts
 *
 *      QEMU_CLOCK_VIRTUAL, TSC under TCG      + (s - r + a)
 *      kvmclock                             k + (s - r + a)
 *      TSC under KVM                        t + (s - r + a) * frequency
 *
 * What is missing is the time that the image's end took to get here (and waited
 * for the epoch before it to be applied): the clocks are late by that, and never
 * early.  The age is that of kvmclock where there is one; QEMU's own clocks stood
 * from the pause's begin on, and timers of theirs are late by the time that it
 * took to save the devices.
 *
 * KVM: QEMU would set the TSC by its MSR.  KVM takes a value that is within a
 * second of what it expects for an attempt to synchronise vCPUs, and then
 * keeps the TSC that it has; and the vCPUs' TSCs, saved one after another,
 * would come apart.  So the image has kvmclock and one TSC as a pair, read as
 * one as far as may be, and the differences between vCPUs by their offsets
 * (KVM_VCPU_TSC_OFFSET).  From these the backup makes the new offsets; the
 * kernel's documentation of that attribute describes the like.
 *
 * Locking: BQL.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "qemu/seqlock.h"
#include "qemu/timer.h"
#include "cpu.h"
#include "system/cpus.h"
#include "system/cpu-timers.h"
#include "system/cpu-timers-internal.h"
#include "system/kvm.h"
#include "system/runstate.h"
#include "clock.h"
#include "trace.h"

/* A pair of clocks is read again if that took longer, but not too often. */
#define CLOCK_PAIR_NS   2000
#define CLOCK_PAIR_TRIES 5

FtMoment ft_clock_now(void)
{
    return (FtMoment) { get_clock(), cpu_get_host_ticks() };
}

/* -------------------------------------------------------------------- KVM */

#if defined(CONFIG_KVM) && defined(TARGET_I386)

static bool clock_get_kvmclock(uint64_t *ns)
{
    struct kvm_clock_data data = {};

    if (kvm_vm_ioctl(kvm_state, KVM_GET_CLOCK, &data) < 0) {
        return false;
    }
    *ns = data.clock;
    return true;
}

/* vCPUs stand still, so that any thread may ask for what they have. */
static bool clock_msr(CPUState *cpu, bool set, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msrs = {
        .head.nmsrs = 1,
        .entry = { .index = index, .data = *value },
    };

    if (kvm_vcpu_ioctl(cpu, set ? KVM_SET_MSRS : KVM_GET_MSRS, &msrs) != 1) {
        return false;
    }
    *value = msrs.entry.data;
    return true;
}

static bool clock_offset(CPUState *cpu, bool set, int64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };

    return kvm_vcpu_ioctl(cpu, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR,
                          &attr) == 0;
}

/* kvmclock and the first vCPU's TSC at one moment, as exactly as can be. */
static bool clock_pair(uint64_t *kvmclock, uint64_t *tsc)
{
    uint64_t best = UINT64_MAX;
    uint64_t before, after, value;

    for (int i = 0; i < CLOCK_PAIR_TRIES && best > CLOCK_PAIR_NS; i++) {
        value = 0;
        if (!clock_get_kvmclock(&before) ||
            !clock_msr(first_cpu, false, MSR_IA32_TSC, &value) ||
            !clock_get_kvmclock(&after)) {
            return false;
        }
        if (after >= before && after - before < best) {
            best = after - before;
            *kvmclock = before + best / 2;
            *tsc = value;
        }
    }
    return best != UINT64_MAX;
}

static bool clock_get(FtClock *c)
{
    int64_t first, own;
    CPUState *cpu;
    unsigned i = 0;

    if (!kvm_enabled() || !clock_offset(first_cpu, false, &first) ||
        !clock_pair(&c->kvmclock, &c->tsc)) {
        return false;
    }
    CPU_FOREACH(cpu) {
        c->vcpus++;
    }
    c->apart = g_new0(int64_t, c->vcpus);
    CPU_FOREACH(cpu) {
        if (cpu != first_cpu && clock_offset(cpu, false, &own)) {
            c->apart[i] = own - first;
        }
        i++;
    }
    return true;
}

/* The TSCs, with kvmclock right already. */
static bool clock_set_tsc(const FtClock *c, int64_t *shift)
{
    uint32_t khz = cpu_env(first_cpu)->tsc_khz;
    uint64_t kvmclock, tsc, deadline;
    int64_t first, offset;
    CPUState *cpu;
    unsigned i = 0;

    if (!khz || !clock_offset(first_cpu, false, &first) ||
        !clock_pair(&kvmclock, &tsc)) {
        return false;
    }
    *shift = c->tsc + muldiv64(kvmclock - c->kvmclock, khz, 1000000) - tsc;
    CPU_FOREACH(cpu) {
        offset = first + *shift + (i < c->vcpus ? c->apart[i] : 0);
        i++;
        if (!clock_offset(cpu, true, &offset)) {
            return false;
        }
        /* The timer of a deadline was set by the TSC of before. */
        deadline = cpu_env(cpu)->tsc_deadline;
        if (deadline) {
            clock_msr(cpu, true, MSR_IA32_TSCDEADLINE, &deadline);
        }
    }
    return true;
}

/*
 * kvmclock's own handler has run: it stands where it was in the image.
 * Returns what it is put forward by, 0 if there is none.
 */
static int64_t clock_set(const FtClock *c, const FtMoment *since)
{
    struct kvm_clock_data data = {};
    int64_t late = get_clock() - since->ns;
    int64_t shift = 0;

    if (!c->valid || !kvm_enabled()) {
        return 0;
    }
    data.clock = c->kvmclock + late;
    if (kvm_vm_ioctl(kvm_state, KVM_SET_CLOCK, &data) < 0 ||
        !clock_set_tsc(c, &shift)) {
        warn_report("ft: the guest's clocks could not be set: they may be "
                    "late by %" PRId64 " ms, and the TSC may have jumped",
                    late / SCALE_MS);
    }
    trace_ft_clock_kvm(late / 1000, shift);
    return late;
}

#else

static bool clock_get(FtClock *c)
{
    return false;
}

static int64_t clock_set(const FtClock *c, const FtMoment *since)
{
    return 0;
}

#endif

void ft_clock_save(GByteArray *buf)
{
    FtClock c = { 0 };

    c.valid = clock_get(&c);
    ft_clock_write(&c, buf);
    ft_clock_clear(&c);
}

/* ------------------------------------------------------------------ start */

/* The clocks of QEMU's own, which stand.  Returns what they are forward by. */
static int64_t clock_catch_up(const FtMoment *since)
{
    FtMoment now = ft_clock_now();

    seqlock_write_lock(&timers_state.vm_clock_seqlock,
                       &timers_state.vm_clock_lock);
    timers_state.cpu_clock_offset += now.ns - since->ns;
    timers_state.cpu_ticks_offset += now.ticks - since->ticks;
    seqlock_write_unlock(&timers_state.vm_clock_seqlock,
                         &timers_state.vm_clock_lock);
    trace_ft_clock((now.ns - since->ns) / 1000);
    return now.ns - since->ns;
}

int64_t ft_clock_start(const FtClock *c, const FtMoment *since)
{
    /* First these: the timers in KVM are set by them when the guest starts. */
    int64_t advance = clock_catch_up(since);

    if (!vm_prepare_start(false)) {
        advance = MAX(advance, clock_set(c, since));
        resume_all_vcpus();
    }
    return advance;
}
