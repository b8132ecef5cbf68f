/*
 * Fault tolerance: the record of the guest's clocks, and when it was made
 * (no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * It stands before the device state of an epoch, big endian:
 *
 *      u32 length of what follows: 0, or 16 + 8 * vCPUs
 *      u64 kvmclock, u64 TSC of the first vCPU, i64 per vCPU: TSC minus that
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "clock.h"

#define CLOCK_LENGTH    4
#define CLOCK_FIXED     16
#define CLOCK_VCPUS_MAX 65536

/* So long must a time be that a rate is measured by. */
#define CLOCK_RATE_NS   10000000

static void put_be64(GByteArray *buf, uint64_t v)
{
    uint8_t bytes[8];

    stq_be_p(bytes, v);
    g_byte_array_append(buf, bytes, sizeof(bytes));
}

void ft_clock_write(const FtClock *c, GByteArray *buf)
{
    uint8_t length[CLOCK_LENGTH];
    unsigned i;

    stl_be_p(length, c->valid ? CLOCK_FIXED + 8 * c->vcpus : 0);
    g_byte_array_append(buf, length, sizeof(length));
    if (c->valid) {
        put_be64(buf, c->kvmclock);
        put_be64(buf, c->tsc);
        for (i = 0; i < c->vcpus; i++) {
            put_be64(buf, c->apart[i]);
        }
    }
}

size_t ft_clock_load(FtClock *c, const uint8_t *data, size_t len, Error **errp)
{
    uint32_t length;
    unsigned i;

    *c = (FtClock) { 0 };
    if (len < CLOCK_LENGTH) {
        error_setg(errp, "the device state of the committed epoch has %zu "
                   "bytes: it does not even begin", len);
        return 0;
    }
    length = ldl_be_p(data);
    if (length > len - CLOCK_LENGTH ||
        (length && (length < CLOCK_FIXED + 8 || length % 8 ||
                    length > CLOCK_FIXED + 8 * CLOCK_VCPUS_MAX))) {
        error_setg(errp, "the device state of the committed epoch does not "
                   "begin with its clocks: %zu bytes, of which %" PRIu32
                   " should be theirs", len, length);
        return 0;
    }
    if (length) {
        c->valid = true;
        c->kvmclock = ldq_be_p(data + CLOCK_LENGTH);
        c->tsc = ldq_be_p(data + CLOCK_LENGTH + 8);
        c->vcpus = (length - CLOCK_FIXED) / 8;
        c->apart = g_new(int64_t, c->vcpus);
        for (i = 0; i < c->vcpus; i++) {
            c->apart[i] = ldq_be_p(data + CLOCK_LENGTH + CLOCK_FIXED + 8 * i);
        }
    }
    return CLOCK_LENGTH + length;
}

void ft_clock_clear(FtClock *c)
{
    g_free(c->apart);
    *c = (FtClock) { 0 };
}

void ft_clock_back(FtMoment *m, const FtMoment *since, int64_t ns)
{
    int64_t span = m->ns - since->ns;

    if (span >= CLOCK_RATE_NS) {
        m->ticks -= (int64_t)((double)(m->ticks - since->ticks) / span * ns);
        m->ns -= ns;
    }
}
