/*
 * For test-ft-output*.c: providers that are a list, and what left them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_OUTPUT_WORLD_H
#define TEST_FT_OUTPUT_WORLD_H

#include "qapi/error.h"
#include "migration/ft/output.h"

#define SLOTS 3

typedef struct Item {
    unsigned id;
    uint64_t epoch;
    size_t bytes;
    int slot;
    int state;      /* of the model: see below */
} Item;

typedef struct World World;

/* A provider as simple as can be: a list, and what leaves goes to the log. */
typedef struct Fake {
    World *world;
    int slot;
    FtOutputProvider *p;
    GArray *queue;              /* of Item */
    unsigned drops;
    unsigned hold_in_release;   /* hold so many more from inside release() */
} Fake;

struct World {
    FtOutput *out;
    Fake fakes[SLOTS];
    GArray *left;               /* ids, as they left */
    GString *calls;             /* release calls as text */
    unsigned next_id;
    unsigned waiting, full;
    uint64_t close_in_full;     /* close() from inside full(), and result */
};

static uint64_t world_hold(World *w, int slot, size_t bytes)
{
    Fake *f = &w->fakes[slot];
    Item item = { .id = w->next_id++, .bytes = bytes, .slot = slot };

    item.epoch = ft_output_hold(w->out, f->p, bytes);
    if (item.epoch == 0) {
        g_array_append_val(w->left, item.id);
    } else if (item.epoch != UINT64_MAX) {
        g_array_append_val(f->queue, item);
    }
    return item.epoch;
}

static void fake_release(void *opaque, uint64_t epoch)
{
    Fake *f = opaque;

    g_string_append_printf(f->world->calls, "%c%" PRIu64 " ", 'A' + f->slot,
                           epoch);
    while (f->queue->len) {
        Item *head = &g_array_index(f->queue, Item, 0);

        if (head->epoch > epoch) {
            break;
        }
        g_array_append_val(f->world->left, head->id);
        g_array_remove_index(f->queue, 0);
        if (f->hold_in_release) {
            f->hold_in_release--;
            world_hold(f->world, f->slot, 1);
        }
    }
}

static void fake_drop(void *opaque)
{
    Fake *f = opaque;

    f->drops++;
    g_array_set_size(f->queue, 0);
}

static const FtOutputOps fake_ops = {
    .release = fake_release,
    .drop = fake_drop,
};

static void world_waiting(void *opaque)
{
    World *w = opaque;

    w->waiting++;
}

static void world_full(void *opaque)
{
    World *w = opaque;

    w->full++;
    if (w->close_in_full == UINT64_MAX) {
        w->close_in_full = ft_output_close(w->out);
    }
}

static void world_add(World *w, int slot)
{
    char name[] = { 'A' + slot, 0 };

    w->fakes[slot].p = ft_output_add(w->out, name, &fake_ops,
                                     &w->fakes[slot]);
    g_assert_nonnull(w->fakes[slot].p);
    name[0] = '?';
}

static World *world_new(int slots, uint64_t limit_items, uint64_t limit_bytes)
{
    World *w = g_new0(World, 1);

    w->left = g_array_new(false, false, sizeof(unsigned));
    w->calls = g_string_new(NULL);
    w->out = ft_output_new(limit_items, limit_bytes, world_waiting,
                           world_full, w);
    for (int i = 0; i < SLOTS; i++) {
        w->fakes[i].world = w;
        w->fakes[i].slot = i;
        w->fakes[i].queue = g_array_new(false, false, sizeof(Item));
        if (i < slots) {
            world_add(w, i);
        }
    }
    return w;
}

static void world_free(World *w)
{
    ft_output_free(w->out);
    for (int i = 0; i < SLOTS; i++) {
        g_array_free(w->fakes[i].queue, true);
    }
    g_array_free(w->left, true);
    g_string_free(w->calls, true);
    g_free(w);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

/* What has left since the last look, as "0 1 2". */
static void expect_left(World *w, const char *want)
{
    g_autoptr(GString) got = g_string_new(NULL);

    for (unsigned i = 0; i < w->left->len; i++) {
        g_string_append_printf(got, "%s%u", i ? " " : "",
                               g_array_index(w->left, unsigned, i));
    }
    g_assert_cmpstr(got->str, ==, want);
    g_array_set_size(w->left, 0);
}

static void expect_calls(World *w, const char *want)
{
    g_assert_cmpstr(w->calls->str, ==, want);
    g_string_truncate(w->calls, 0);
}

static inline void expect_no_commit(World *w, uint64_t epoch)
{
    Error *err = NULL;

    g_assert_false(ft_output_commit(w->out, epoch, &err));
    g_assert_nonnull(err);
    error_free(err);
    expect_left(w, "");
    expect_calls(w, "");
}

static inline void expect_held(World *w, uint64_t items, uint64_t bytes)
{
    FtOutputStats s;

    ft_output_stats(w->out, &s);
    g_assert_cmpuint(s.held_items, ==, items);
    g_assert_cmpuint(s.held_bytes, ==, bytes);
}

static inline void to_mode(World *w, FtOutputMode mode)
{
    if (mode != FT_OUTPUT_PASS) {
        g_assert_true(ft_output_start(w->out, 5, &error_abort));
    }
    if (mode == FT_OUTPUT_DEAD) {
        ft_output_drop_all(w->out);
    }
    g_assert_cmpint(ft_output_mode(w->out), ==, mode);
}

#endif
