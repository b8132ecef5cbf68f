/*
 * What the fuzz targets share: the input, and results that must fit together
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A target takes its choices from the front of the input and gives the rest
 * to the code under test.  When the input has come to its end, what is still
 * asked for is 0, so that every input means something.
 */

#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "qapi/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

typedef struct FuzzInput {
    const uint8_t *p;
    size_t left;
} FuzzInput;

static inline uint64_t fuzz_number(FuzzInput *in, unsigned bytes)
{
    uint64_t n = 0;

    while (bytes--) {
        n = n << 8 | (in->left ? *in->p : 0);
        if (in->left) {
            in->p++;
            in->left--;
        }
    }
    return n;
}

static inline uint8_t fuzz_u8(FuzzInput *in)
{
    return fuzz_number(in, 1);
}

static inline uint16_t fuzz_u16(FuzzInput *in)
{
    return fuzz_number(in, 2);
}

/*
 * The next @len bytes, or what there is, in a block of memory that ends where
 * they end: reading on is seen.  To be freed.
 */
static inline uint8_t *fuzz_block(FuzzInput *in, size_t len, size_t *got)
{
    uint8_t *block;

    *got = MIN(len, in->left);
    block = g_memdup2(in->p, *got);
    in->p += *got;
    in->left -= *got;
    return block;
}

/* How many descriptors are open, of those that come first. */
static inline unsigned fuzz_fds(void)
{
    unsigned count = 0;

    for (int fd = 0; fd < 100; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

static inline unsigned fuzz_threads(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    unsigned count = 0;

    while (dir && g_dir_read_name(dir)) {
        count++;
    }
    return count;
}

/*
 * Wait until there are no more than so many: what GLib has for a thread that
 * is about to end is nobody's for a moment, and LeakSanitizer may look just
 * then.  The fuzzer has a timer.
 */
static inline void fuzz_wait_threads(unsigned want)
{
    while (fuzz_threads() > want) {
        sched_yield();
    }
}

/* An error says what it is, and comes if and only if something failed. */
static inline bool fuzz_result(bool ok, Error *err)
{
    g_assert_true(ok == !err);
    g_assert_true(!err || *error_get_pretty(err));
    error_free(err);
    return ok;
}

#endif
