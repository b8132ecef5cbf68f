/*
 * The memory writer of the bare test guest: finds torn and stale memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The working set is rewritten page after page, generation after
 * generation. What a page must hold follows from its number and the
 * generation alone, so before each page is written, it is checked to hold
 * what the last generation left there. A state put together from two
 * moments fails the check, whichever page is the old or the new one.
 *
 * Where the writer stands is kept three times: twice in memory, in pages
 * far from each other, and once with the caller, in a register. All must
 * always agree.
 */

#include "ftguest.h"

#define HEAD            8u              /* 16 bytes: the first copy */
#define BODY            24u
#define TAIL            4072u           /* 16 bytes: the third copy */
#define BRIDGE          4092u           /* 8 bytes, half in the next page */
#define ERRORS_SHOWN    16

typedef struct Stamp {
    uint64_t generation;
    uint32_t page;
    uint32_t check;
} Stamp;

typedef struct Position {
    uint64_t generation;                /* the one being written */
    uint64_t page;                      /* next to write */
    uint64_t steps;                     /* pages written in all */
    uint64_t check;
} Position;

uint64_t writer_generation;
uint32_t errors;

static uint8_t *set;
static uint32_t set_pages;
static bool set_fill;
static Position near_position __attribute__((aligned(4096)));
static uint8_t apart[3 * PAGE_SIZE];
static Position far_position __attribute__((aligned(4096)));

static uint64_t seed(uint64_t generation, uint32_t page)
{
    return mix(generation << 24 ^ page ^ generation >> 40);
}

static Stamp stamp_make(uint64_t generation, uint32_t page)
{
    return (Stamp) {
        .generation = generation,
        .page = page,
        .check = seed(generation, page) >> 17,
    };
}

/* The second copy: in every page elsewhere, across a cache line's end. */
static unsigned middle(uint32_t page)
{
    return 56 + 64 * (1 + page * 7 % 61);
}

static void complain(const char *where, uint64_t page, uint64_t want,
                     uint64_t got)
{
    if (errors++ < ERRORS_SHOWN) {
        print("ftguest: ERROR page=%u where=%s want=%x got=%x gen=%u\n",
              page, where, want, got, near_position.generation);
    }
}

static void stamp_check(const uint8_t *at, const char *where, Stamp want)
{
    Stamp got;

    got = *(const volatile Stamp *)at;
    if (got.generation != want.generation) {
        complain(where, want.page, want.generation, got.generation);
    } else if (got.page != want.page || got.check != want.check) {
        complain(where, want.page, (uint64_t)want.page << 32 | want.check,
                 (uint64_t)got.page << 32 | got.check);
    }
}

static void stamp_write(uint8_t *at, Stamp stamp)
{
    *(volatile Stamp *)at = stamp;
}

static void page_check(uint64_t generation, uint32_t page)
{
    const uint8_t *p = set + (uint64_t)page * PAGE_SIZE;
    Stamp want = stamp_make(generation, page);
    unsigned mid = middle(page);
    uint64_t w = seed(generation, page);    /* then word after word */
    uint64_t got;

    stamp_check(p + HEAD, "head", want);
    stamp_check(p + mid, "middle", want);
    stamp_check(p + TAIL, "tail", want);
    got = *(const volatile uint64_t *)(p + BRIDGE);
    if (got != ~w) {
        complain("bridge", page, ~w, got);
    }
    if (set_fill) {
        for (unsigned i = BODY; i < TAIL; i += 8) {
            w = next_word(w);
            if (i - mid >= 16 && *(const volatile uint64_t *)(p + i) != w) {
                complain("body", page, w,
                         *(const volatile uint64_t *)(p + i));
                break;
            }
        }
    } else {
        /* Never written: one word, another one each time. */
        unsigned i = BODY + generation % ((TAIL - BODY) / 8) * 8;

        got = *(const volatile uint64_t *)(p + i);
        if (i - mid >= 16 && got != 0) {
            complain("body", page, 0, got);
        }
    }
}

static void page_write(uint64_t generation, uint32_t page)
{
    uint8_t *p = set + (uint64_t)page * PAGE_SIZE;
    Stamp stamp = stamp_make(generation, page);
    unsigned mid = middle(page);
    uint64_t w = seed(generation, page);

    stamp_write(p + HEAD, stamp);
    *(volatile uint64_t *)(p + BRIDGE) = ~w;
    if (set_fill) {
        for (unsigned i = BODY; i < TAIL; i += 8) {
            w = next_word(w);
            if (i - mid >= 16) {
                *(volatile uint64_t *)(p + i) = w;
            }
        }
    }
    stamp_write(p + mid, stamp);
    stamp_write(p + TAIL, stamp);
}

static uint64_t position_check(const Position *p)
{
    return mix(p->generation ^ mix(p->page ^ mix(p->steps)));
}

/* Start with a set of zeros; generation 1 finds nothing to check. */
void writer_init(uint64_t base, uint32_t pages, bool fill)
{
    set = (uint8_t *)(uintptr_t)base;
    set_pages = pages;
    set_fill = fill;
    apart[0] = 0;
    memset(set, 0, (uint64_t)(pages + 1) * PAGE_SIZE);
    near_position = (Position) { .generation = 1 };
    near_position.check = position_check(&near_position);
    far_position = near_position;
}

/*
 * Write the next pages, at most up to the end of the generation. The
 * caller keeps @steps, the number of pages written in all; returned is the
 * new one.
 */
uint64_t writer_step(uint64_t steps, unsigned pages)
{
    for (; pages; pages--) {
        Position now = near_position;

        /* The count stays in a register, out of memory's reach. */
        asm volatile("" : "+r"(steps));
        if (now.check != position_check(&now) || now.steps != steps) {
            complain("position", now.page, steps, now.steps);
        }
        if (memcmp(&now, &far_position, sizeof(now)) != 0) {
            complain("position copy", now.page, now.steps,
                     far_position.steps);
        }
        if (now.generation > 1) {
            page_check(now.generation - 1, now.page);
        }
        page_write(now.generation, now.page);
        steps++;
        now.steps = steps;
        now.page++;
        if (now.page == set_pages) {
            now.page = 0;
            now.generation++;
        }
        now.check = position_check(&now);
        near_position = now;
        far_position = now;
        if (now.page == 0) {
            writer_generation = now.generation - 1;
            break;
        }
    }
    return steps;
}
