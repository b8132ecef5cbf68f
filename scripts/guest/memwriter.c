/*
 * Write memory over and over, check it, and say how fast.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * memwriter SIZE_MIB touch|fill|rand [INTERVAL_MS [THREADS]]
 *
 * touch  8 bytes in every page
 * fill   every page whole, one number all over
 * rand   every page whole, numbers that do not compress
 *
 * Each page holds its number and the round it was written in, at both
 * ends; before it is written again, both must be those of the last round.
 * With INTERVAL_MS, a round begins at most that often.
 */

#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE        4096
#define WORDS       (PAGE / 8)
#define ERRORS_SHOWN 16

enum pattern { TOUCH, FILL, RAND };

static const char *const patterns[] = { "touch", "fill", "rand" };

static uint64_t *memory;
static uint64_t pages;
static unsigned threads = 1;
static enum pattern pattern;
static uint64_t interval_ms;
static atomic_uint_fast64_t written, rounds, errors;

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ull + t.tv_nsec / 1000000;
}

static void sleep_ms(uint64_t ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

    nanosleep(&t, NULL);
}

static uint64_t stamp(uint64_t round, uint64_t page)
{
    return round << 32 | page;
}

static void check(uint64_t page, unsigned word, uint64_t want)
{
    uint64_t got = ((volatile uint64_t *)memory)[page * WORDS + word];

    if (got != want && atomic_fetch_add(&errors, 1) < ERRORS_SHOWN) {
        printf("memwriter: ERROR page=%" PRIu64 " word=%u want=%" PRIx64
               " got=%" PRIx64 "\n", page, word, want, got);
    }
}

static void write_page(uint64_t round, uint64_t page)
{
    volatile uint64_t *p = memory + page * WORDS;
    uint64_t s = stamp(round, page), w = s * 0x5851f42d4c957f2dull + 1;

    p[0] = s;
    if (pattern == TOUCH) {
        return;
    }
    for (unsigned i = 1; i < WORDS - 1; i++) {
        if (pattern == RAND) {
            w ^= w << 13;
            w ^= w >> 7;
            w ^= w << 17;
        }
        p[i] = w;
    }
    p[WORDS - 1] = s;
}

static void *work(void *opaque)
{
    uint64_t n = (uintptr_t)opaque;
    uint64_t first = pages * n / threads, end = pages * (n + 1) / threads;
    uint64_t next = now_ms();

    for (uint64_t round = 1; ; round++) {
        for (uint64_t page = first; page < end; page++) {
            if (round > 1) {
                check(page, 0, stamp(round - 1, page));
                if (pattern != TOUCH) {
                    check(page, WORDS - 1, stamp(round - 1, page));
                }
            }
            write_page(round, page);
            atomic_fetch_add_explicit(&written, 1, memory_order_relaxed);
        }
        if (n == 0) {
            atomic_store(&rounds, round);
        }
        if (interval_ms) {
            uint64_t now = now_ms();

            next = next + interval_ms > now ? next + interval_ms : now;
            sleep_ms(next - now);
        }
    }
    return NULL;
}

static int usage(void)
{
    fprintf(stderr, "usage: memwriter SIZE_MIB touch|fill|rand "
                    "[INTERVAL_MS [THREADS]]\n");
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t mib, last = 0, last_ms;
    unsigned i;

    if (argc < 3 || argc > 5) {
        return usage();
    }
    mib = strtoull(argv[1], NULL, 10);
    for (i = 0; i < 3 && strcmp(argv[2], patterns[i]) != 0; i++) {
        /* look on */
    }
    pattern = i;
    if (argc > 3) {
        interval_ms = strtoull(argv[3], NULL, 10);
    }
    if (argc > 4) {
        threads = strtoul(argv[4], NULL, 10);
    }
    pages = mib << 8;
    if (i == 3 || pages == 0 || threads < 1 || threads > 256) {
        return usage();
    }
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("memwriter: mmap");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (i = 0; i < threads; i++) {
        pthread_t t;

        if (pthread_create(&t, NULL, work, (void *)(uintptr_t)i) != 0) {
            fprintf(stderr, "memwriter: no thread\n");
            return 1;
        }
    }
    last_ms = now_ms();
    for (;;) {
        uint64_t sum, now;

        sleep_ms(1000);
        sum = atomic_load(&written);
        now = now_ms();
        printf("memwriter: pages=%" PRIu64 " rate=%" PRIu64 "/s round=%"
               PRIu64 " errors=%" PRIu64 "\n", sum,
               (sum - last) * 1000 / (now - last_ms),
               (uint64_t)atomic_load(&rounds),
               (uint64_t)atomic_load(&errors));
        last = sum;
        last_ms = now;
    }
}
