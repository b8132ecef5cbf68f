/*
 * Unit tests of migration/ft/output.c: output commit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
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

static void expect_no_commit(World *w, uint64_t epoch)
{
    Error *err = NULL;

    g_assert_false(ft_output_commit(w->out, epoch, &err));
    g_assert_nonnull(err);
    error_free(err);
    expect_left(w, "");
    expect_calls(w, "");
}

static void expect_held(World *w, uint64_t items, uint64_t bytes)
{
    FtOutputStats s;

    ft_output_stats(w->out, &s);
    g_assert_cmpuint(s.held_items, ==, items);
    g_assert_cmpuint(s.held_bytes, ==, bytes);
}

static void to_mode(World *w, FtOutputMode mode)
{
    if (mode != FT_OUTPUT_PASS) {
        g_assert_true(ft_output_start(w->out, 5, &error_abort));
    }
    if (mode == FT_OUTPUT_DEAD) {
        ft_output_drop_all(w->out);
    }
    g_assert_cmpint(ft_output_mode(w->out), ==, mode);
}

typedef enum Call {
    START, HOLD, CLOSE, COMMIT, RELEASE_ALL, DROP_ALL, ADD, REMOVE, CALLS
} Call;

/* Every call in every mode: what it returns, and the mode afterwards. */
static void test_modes(void)
{
    static const struct {
        uint64_t result;
        FtOutputMode after;
    } want[3][CALLS] = {
        [FT_OUTPUT_PASS] = {
            [START] =       { 1, FT_OUTPUT_HOLD },
            [HOLD] =        { 0, FT_OUTPUT_PASS },
            [CLOSE] =       { 0, FT_OUTPUT_PASS },
            [COMMIT] =      { 0, FT_OUTPUT_PASS },
            [RELEASE_ALL] = { 0, FT_OUTPUT_PASS },
            [DROP_ALL] =    { 0, FT_OUTPUT_DEAD },
            [ADD] =         { 0, FT_OUTPUT_PASS },
            [REMOVE] =      { 0, FT_OUTPUT_PASS },
        },
        [FT_OUTPUT_HOLD] = {
            [START] =       { 0, FT_OUTPUT_HOLD },
            [HOLD] =        { 5, FT_OUTPUT_HOLD },
            [CLOSE] =       { 5, FT_OUTPUT_HOLD },
            [COMMIT] =      { 0, FT_OUTPUT_HOLD },  /* 5 is open */
            [RELEASE_ALL] = { 0, FT_OUTPUT_PASS },
            [DROP_ALL] =    { 0, FT_OUTPUT_DEAD },
            [ADD] =         { 5, FT_OUTPUT_HOLD },
            [REMOVE] =      { 0, FT_OUTPUT_HOLD },
        },
        [FT_OUTPUT_DEAD] = {
            [START] =       { 0, FT_OUTPUT_DEAD },
            [HOLD] =        { UINT64_MAX, FT_OUTPUT_DEAD },
            [CLOSE] =       { 0, FT_OUTPUT_DEAD },
            [COMMIT] =      { 0, FT_OUTPUT_DEAD },
            [RELEASE_ALL] = { 0, FT_OUTPUT_DEAD },
            [DROP_ALL] =    { 0, FT_OUTPUT_DEAD },
            [ADD] =         { UINT64_MAX, FT_OUTPUT_DEAD },
            [REMOVE] =      { 0, FT_OUTPUT_DEAD },
        },
    };

    for (int mode = 0; mode < 3; mode++) {
        for (int call = 0; call < CALLS; call++) {
            g_autoptr(World) w = world_new(2, 10, 1000);
            g_autoptr(Error) err = NULL;
            uint64_t result = 0;
            bool fails = false;

            to_mode(w, mode);
            switch (call) {
            case START:
                result = ft_output_start(w->out, 7, &err);
                fails = !result;
                break;
            case HOLD:
                result = world_hold(w, 0, 100);
                break;
            case CLOSE:
                result = ft_output_close(w->out);
                break;
            case COMMIT:
                result = ft_output_commit(w->out, 5, &err);
                fails = !result;
                break;
            case RELEASE_ALL:
                ft_output_release_all(w->out);
                break;
            case DROP_ALL:
                ft_output_drop_all(w->out);
                break;
            case ADD:
                world_add(w, 2);
                result = world_hold(w, 2, 100);
                break;
            case REMOVE:
                ft_output_remove(w->out, w->fakes[0].p);
                break;
            }
            g_test_message("mode %d call %d", mode, call);
            g_assert_cmpuint(result, ==, want[mode][call].result);
            g_assert_cmpint(ft_output_mode(w->out), ==,
                            want[mode][call].after);
            g_assert_cmpint(fails, ==, err != NULL);
        }
    }
}

static void test_start(void)
{
    static const uint64_t bad[] = { 0, UINT64_MAX };
    static const uint64_t good[] = { 1, 2, 1000000, UINT64_MAX - 1000 };

    for (int i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(World) w = world_new(1, 10, 1000);
        Error *err = NULL;

        /* tags with a meaning of their own are no epochs */
        g_assert_false(ft_output_start(w->out, bad[i], &err));
        error_free_or_abort(&err);
        g_assert_cmpint(ft_output_mode(w->out), ==, FT_OUTPUT_PASS);
        g_assert_cmpuint(world_hold(w, 0, 1), ==, 0);
    }
    for (int i = 0; i < G_N_ELEMENTS(good); i++) {
        g_autoptr(World) w = world_new(1, 10, 1000);

        g_assert_true(ft_output_start(w->out, good[i], &error_abort));
        g_assert_cmpuint(world_hold(w, 0, 1), ==, good[i]);
        g_assert_cmpuint(ft_output_close(w->out), ==, good[i]);
        g_assert_cmpuint(world_hold(w, 0, 1), ==, good[i] + 1);
        expect_no_commit(w, good[i] - 1);
        expect_no_commit(w, good[i] + 1);
        g_assert_true(ft_output_commit(w->out, good[i], &error_abort));
        expect_left(w, "0");
    }
}

static void test_order(void)
{
    g_autoptr(World) w = world_new(2, 100, 1000000);

    g_assert_cmpuint(world_hold(w, 1, 10), ==, 0);
    expect_left(w, "0");
    g_assert_true(ft_output_start(w->out, 3, &error_abort));
    world_hold(w, 1, 10);       /* 1: epoch 3 */
    world_hold(w, 0, 20);       /* 2 */
    world_hold(w, 1, 30);       /* 3 */
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 3);
    expect_no_commit(w, 3);
    g_assert_cmpuint(ft_output_close(w->out), ==, 3);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 0);
    world_hold(w, 1, 40);       /* 4: epoch 4 */
    g_assert_cmpuint(ft_output_close(w->out), ==, 4);
    g_assert_cmpuint(ft_output_close(w->out), ==, 5);
    world_hold(w, 0, 50);       /* 5: epoch 6 */
    world_hold(w, 1, 60);       /* 6 */
    g_assert_cmpuint(ft_output_close(w->out), ==, 6);
    world_hold(w, 0, 70);       /* 7: epoch 7, open */
    expect_left(w, "");
    expect_held(w, 7, 280);

    expect_no_commit(w, 2);
    expect_no_commit(w, 7);
    expect_no_commit(w, 8);
    expect_no_commit(w, 0);
    expect_no_commit(w, UINT64_MAX);
    expect_held(w, 7, 280);

    g_assert_true(ft_output_commit(w->out, 3, &error_abort));
    expect_left(w, "2 1 3");
    expect_calls(w, "A3 B3 ");
    expect_held(w, 4, 220);
    expect_no_commit(w, 3);
    expect_no_commit(w, 2);

    /* one commit for several epochs: still epoch by epoch */
    g_assert_true(ft_output_commit(w->out, 6, &error_abort));
    expect_left(w, "4 5 6");
    expect_calls(w, "A4 B4 A5 B5 A6 B6 ");
    expect_held(w, 1, 70);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 1);
    for (uint64_t epoch = 0; epoch < 10; epoch++) {
        expect_no_commit(w, epoch);
    }
}

static void test_release_all(void)
{
    g_autoptr(World) w = world_new(2, 100, 1000000);

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    world_hold(w, 1, 1);        /* 0: epoch 1 */
    world_hold(w, 0, 1);        /* 1 */
    ft_output_close(w->out);
    world_hold(w, 0, 1);        /* 2: epoch 2 */
    world_hold(w, 1, 1);        /* 3 */
    ft_output_close(w->out);
    world_hold(w, 1, 1);        /* 4: epoch 3, open */
    world_hold(w, 0, 1);        /* 5 */
    ft_output_release_all(w->out);
    expect_left(w, "1 0 2 3 5 4");
    expect_held(w, 0, 0);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 0);
    g_assert_cmpint(ft_output_mode(w->out), ==, FT_OUTPUT_PASS);
    expect_calls(w, "A1 B1 A2 B2 A3 B3 ");
    expect_no_commit(w, 2);
    ft_output_release_all(w->out);
    expect_calls(w, "");

    /* protected again, by a session whose epochs begin anew */
    g_assert_cmpuint(world_hold(w, 0, 1), ==, 0);
    expect_left(w, "6");
    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    g_assert_cmpuint(world_hold(w, 0, 1), ==, 1);
    expect_no_commit(w, 1);
    ft_output_close(w->out);
    g_assert_true(ft_output_commit(w->out, 1, &error_abort));
    expect_left(w, "7");
    expect_calls(w, "A1 B1 ");

    /* nothing held, but what a provider does not count may go as well */
    ft_output_release_all(w->out);
    expect_calls(w, "A2 B2 ");
}

static void test_drop_all(void)
{
    g_autoptr(World) w = world_new(2, 100, 1000000);
    FtOutputStats s;

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    world_hold(w, 0, 10);
    ft_output_close(w->out);
    world_hold(w, 1, 20);
    world_hold(w, 1, 30);
    ft_output_drop_all(w->out);
    g_assert_cmpuint(w->fakes[0].drops, ==, 1);
    g_assert_cmpuint(w->fakes[1].drops, ==, 1);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 0);
    ft_output_stats(w->out, &s);
    g_assert_cmpuint(s.held_items, ==, 0);
    g_assert_cmpuint(s.held_bytes, ==, 0);
    g_assert_cmpuint(s.held_items_peak, ==, 3);
    g_assert_cmpuint(s.held_bytes_peak, ==, 60);
    g_assert_cmpuint(s.released_items, ==, 0);
    g_assert_cmpuint(s.released_bytes, ==, 0);
    g_assert_cmpuint(s.dropped_items, ==, 3);

    g_assert_cmpuint(world_hold(w, 0, 10), ==, UINT64_MAX);
    expect_held(w, 0, 0);
    ft_output_release_all(w->out);
    expect_no_commit(w, 1);
    g_assert_cmpuint(ft_output_close(w->out), ==, 0);
    expect_left(w, "");
    expect_calls(w, "");
}

static void test_free_drops(void)
{
    World *w = world_new(2, 100, 1000000);
    unsigned drops;

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    world_hold(w, 0, 10);
    world_hold(w, 1, 10);
    ft_output_free(w->out);
    expect_left(w, "");
    drops = w->fakes[0].drops + w->fakes[1].drops;
    g_assert_cmpuint(drops, ==, 2);
    w->out = NULL;
    world_free(w);              /* ft_output_free(NULL) is fine */
}

static void test_remove(void)
{
    g_autoptr(World) w = world_new(3, 100, 1000000);
    FtOutputStats s;

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    world_hold(w, 0, 10);       /* 0 */
    world_hold(w, 1, 10);       /* 1 */
    world_hold(w, 2, 10);       /* 2 */
    ft_output_close(w->out);
    world_hold(w, 1, 100);      /* 3 */
    world_hold(w, 1, 100);      /* 4 */
    world_hold(w, 0, 100);      /* 5 */
    ft_output_remove(w->out, w->fakes[1].p);
    g_assert_cmpuint(w->fakes[1].drops, ==, 0);
    expect_held(w, 3, 120);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 1);
    ft_output_stats(w->out, &s);
    g_assert_cmpuint(s.dropped_items, ==, 3);
    g_assert_cmpuint(s.released_items, ==, 0);
    ft_output_close(w->out);
    g_assert_true(ft_output_commit(w->out, 2, &error_abort));
    expect_left(w, "0 2 5");
    expect_calls(w, "A1 C1 A2 C2 ");
    expect_held(w, 0, 0);
}

static void test_waiting(void)
{
    g_autoptr(World) w = world_new(2, 100, 1000000);

    world_hold(w, 0, 1);
    g_assert_cmpuint(w->waiting, ==, 0);
    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    g_assert_cmpuint(w->waiting, ==, 0);
    for (unsigned epoch = 1; epoch < 10; epoch++) {
        world_hold(w, epoch & 1, 1);
        g_assert_cmpuint(w->waiting, ==, epoch);
        world_hold(w, 0, 1);
        world_hold(w, 1, 1);
        g_assert_cmpuint(w->waiting, ==, epoch);
        ft_output_close(w->out);
        g_assert_cmpuint(w->waiting, ==, epoch);
    }
    ft_output_drop_all(w->out);
    world_hold(w, 0, 1);
    g_assert_cmpuint(w->waiting, ==, 9);
}

static void test_full(void)
{
    static const struct {
        uint64_t items, bytes;
        size_t each;
        unsigned at;            /* the hold that makes it full; 0: never */
    } cases[] = {
        { 4, 1000, 10, 4 },
        { 4, 30, 10, 3 },
        { 1, 1000, 10, 1 },
        { 1000, 1, 10, 1 },
        { 4, 1000, 0, 4 },
        { 0, 30, 10, 3 },
        { 4, 0, 1000000, 4 },
        { 0, 0, 1000000, 0 },
    };

    for (int i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(World) w = world_new(2, cases[i].items, cases[i].bytes);
        unsigned each = cases[i].at ? 1 : 0;

        g_assert_true(ft_output_start(w->out, 1, &error_abort));
        for (unsigned n = 1; n <= 20; n++) {
            g_assert_cmpuint(world_hold(w, n & 1, cases[i].each), ==, 1);
            g_assert_cmpuint(w->full, ==, n >= cases[i].at ? each : 0);
        }
        /* not committed, so the next epoch is full from its first item */
        ft_output_close(w->out);
        g_assert_cmpuint(w->full, ==, each);
        world_hold(w, 0, cases[i].each);
        world_hold(w, 0, cases[i].each);
        g_assert_cmpuint(w->full, ==, 2 * each);
        /* after the commit there is room again */
        ft_output_close(w->out);
        g_assert_true(ft_output_commit(w->out, 2, &error_abort));
        for (unsigned n = 1; n <= 20; n++) {
            g_assert_cmpuint(world_hold(w, n & 1, cases[i].each), ==, 3);
            g_assert_cmpuint(w->full, ==,
                             2 * each + (n >= cases[i].at ? each : 0));
        }
        /* nothing is refused or lost for being too much */
        g_assert_cmpuint(ft_output_open_items(w->out), ==, 20);
    }
}

static void test_close_in_full(void)
{
    g_autoptr(World) w = world_new(1, 2, 0);

    g_assert_true(ft_output_start(w->out, 8, &error_abort));
    w->close_in_full = UINT64_MAX;
    g_assert_cmpuint(world_hold(w, 0, 1), ==, 8);
    g_assert_cmpuint(w->close_in_full, ==, UINT64_MAX);
    g_assert_cmpuint(world_hold(w, 0, 1), ==, 8);
    g_assert_cmpuint(w->close_in_full, ==, 8);
    g_assert_cmpuint(world_hold(w, 0, 1), ==, 9);
    g_assert_true(ft_output_commit(w->out, 8, &error_abort));
    expect_left(w, "0 1");
    expect_held(w, 1, 1);
}

static void test_no_callbacks(void)
{
    FtOutput *out = ft_output_new(1, 1, NULL, NULL, NULL);
    World *w = world_new(0, 1, 1);
    FtOutputProvider *p = ft_output_add(out, "a", &fake_ops, &w->fakes[0]);

    g_assert_true(ft_output_start(out, 1, &error_abort));
    g_assert_cmpuint(ft_output_hold(out, p, 10), ==, 1);
    g_assert_cmpuint(ft_output_hold(out, p, 10), ==, 1);
    ft_output_free(out);
    world_free(w);
}

/* Room made by a release can let a NIC send its next packet at once. */
static void test_hold_in_release(void)
{
    g_autoptr(World) w = world_new(2, 100, 1000000);

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    world_hold(w, 0, 1);        /* 0: epoch 1 */
    world_hold(w, 1, 1);        /* 1 */
    ft_output_close(w->out);
    w->fakes[0].hold_in_release = 1;
    g_assert_true(ft_output_commit(w->out, 1, &error_abort));
    expect_left(w, "0 1");      /* and 2 waits for epoch 2 */
    expect_held(w, 1, 1);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, 1);
    world_hold(w, 1, 1);        /* 3: epoch 2 */

    /* none may stay behind, held for ever */
    w->fakes[1].hold_in_release = 3;
    ft_output_release_all(w->out);
    expect_left(w, "2 3 4 5 6");
    expect_held(w, 0, 0);
    g_assert_cmpint(ft_output_mode(w->out), ==, FT_OUTPUT_PASS);
    g_assert_cmpuint(w->fakes[0].queue->len, ==, 0);
    g_assert_cmpuint(w->fakes[1].queue->len, ==, 0);
}

/* A backup that is slow to acknowledge, then does so for all at once. */
static void test_many_epochs(void)
{
    g_autoptr(World) w = world_new(2, 0, 0);
    const unsigned n = 10000;

    g_assert_true(ft_output_start(w->out, 1, &error_abort));
    for (unsigned i = 0; i < n; i++) {
        if (i % 7 == 0) {
            world_hold(w, i & 1, i);
        }
        g_assert_cmpuint(ft_output_close(w->out), ==, i + 1);
    }
    g_assert_true(ft_output_commit(w->out, n, &error_abort));
    g_assert_cmpuint(w->left->len, ==, (n + 6) / 7);
    for (unsigned i = 0; i < w->left->len; i++) {
        g_assert_cmpuint(g_array_index(w->left, unsigned, i), ==, i);
    }
    expect_held(w, 0, 0);
}

/*
 * Random sequences against a model: every item that ever was, and by the
 * rules of the header where it must be now.  Nothing clever: each step looks
 * through all of them.
 */
enum { HELD, OUT, DROPPED };

typedef struct Model {
    GArray *items;              /* of Item */
    GArray *left;               /* ids, in the order they must leave */
    FtOutputMode mode;
    uint64_t open, committed;
    int order[SLOTS], n_order;  /* slots in the order they were added */
    uint64_t peak_items, peak_bytes;
    unsigned waiting, full;
    bool full_told;
    uint64_t limit_items, limit_bytes;
} Model;

static void model_count(Model *m, FtOutputStats *s, uint64_t *open_items)
{
    memset(s, 0, sizeof(*s));
    *open_items = 0;
    for (unsigned i = 0; i < m->items->len; i++) {
        Item *it = &g_array_index(m->items, Item, i);

        switch (it->state) {
        case HELD:
            s->held_items++;
            s->held_bytes += it->bytes;
            *open_items += it->epoch == m->open;
            break;
        case OUT:
            s->released_items++;
            s->released_bytes += it->bytes;
            break;
        default:
            s->dropped_items++;
            break;
        }
    }
    m->peak_items = MAX(m->peak_items, s->held_items);
    m->peak_bytes = MAX(m->peak_bytes, s->held_bytes);
    s->held_items_peak = m->peak_items;
    s->held_bytes_peak = m->peak_bytes;
}

static void model_release(Model *m, uint64_t upto)
{
    for (uint64_t epoch = m->committed + 1; epoch <= upto; epoch++) {
        for (int o = 0; o < m->n_order; o++) {
            for (unsigned i = 0; i < m->items->len; i++) {
                Item *it = &g_array_index(m->items, Item, i);

                if (it->state == HELD && it->epoch == epoch &&
                    it->slot == m->order[o]) {
                    it->state = OUT;
                    g_array_append_val(m->left, it->id);
                }
            }
        }
    }
    m->committed = upto;
}

static void model_drop(Model *m, int slot)
{
    for (unsigned i = 0; i < m->items->len; i++) {
        Item *it = &g_array_index(m->items, Item, i);

        if (it->state == HELD && (slot < 0 || it->slot == slot)) {
            it->state = DROPPED;
        }
    }
}

static void model_hold(Model *m, World *w, int slot)
{
    Item it = {
        .id = w->next_id, .slot = slot, .epoch = m->open, .state = HELD,
        .bytes = g_test_rand_int_range(0, 2000),
    };
    FtOutputStats s;
    uint64_t open_items, got = world_hold(w, slot, it.bytes);

    switch (m->mode) {
    case FT_OUTPUT_PASS:
        g_assert_cmpuint(got, ==, 0);
        g_array_append_val(m->left, it.id);
        return;
    case FT_OUTPUT_DEAD:
        g_assert_cmpuint(got, ==, UINT64_MAX);
        return;
    case FT_OUTPUT_HOLD:
        break;
    }
    g_assert_cmpuint(got, ==, m->open);
    g_array_append_val(m->items, it);
    model_count(m, &s, &open_items);
    m->waiting += open_items == 1;
    if (!m->full_told && (s.held_items >= m->limit_items ||
                          s.held_bytes >= m->limit_bytes)) {
        m->full_told = true;
        m->full++;
    }
}

static void model_check(Model *m, World *w)
{
    FtOutputStats want, got;
    uint64_t open_items;

    model_count(m, &want, &open_items);
    ft_output_stats(w->out, &got);
    g_assert_cmpuint(got.held_items, ==, want.held_items);
    g_assert_cmpuint(got.held_bytes, ==, want.held_bytes);
    g_assert_cmpuint(got.held_items_peak, ==, want.held_items_peak);
    g_assert_cmpuint(got.held_bytes_peak, ==, want.held_bytes_peak);
    g_assert_cmpuint(got.released_items, ==, want.released_items);
    g_assert_cmpuint(got.released_bytes, ==, want.released_bytes);
    g_assert_cmpuint(got.dropped_items, ==, want.dropped_items);
    g_assert_cmpuint(ft_output_open_items(w->out), ==, open_items);
    g_assert_cmpint(ft_output_mode(w->out), ==, m->mode);
    g_assert_cmpuint(w->waiting, ==, m->waiting);
    g_assert_cmpuint(w->full, ==, m->full);
    g_assert_cmpuint(w->left->len, ==, m->left->len);
    g_assert(!m->left->len ||
             !memcmp(w->left->data, m->left->data,
                     m->left->len * sizeof(unsigned)));
}

static void model_step(Model *m, World *w)
{
    bool hold = m->mode == FT_OUTPUT_HOLD;
    int slot = m->n_order ?
        m->order[g_test_rand_int_range(0, m->n_order)] : -1;
    int r = g_test_rand_int_range(0, 1000);
    Error *err = NULL;
    uint64_t epoch;
    bool ok;

    if (r < 600) {
        if (slot >= 0) {
            model_hold(m, w, slot);
        }
    } else if (r < 750) {
        g_assert_cmpuint(ft_output_close(w->out), ==, hold ? m->open : 0);
        if (hold) {
            m->open++;
            m->full_told = false;
        }
    } else if (r < 920) {
        /* from one that was committed already to one that is not yet begun */
        epoch = m->committed + g_test_rand_int_range(0, 5) - 1;
        ok = hold && epoch > m->committed && epoch < m->open &&
             epoch != UINT64_MAX;
        g_assert_cmpint(ft_output_commit(w->out, epoch, &err), ==, ok);
        g_assert_cmpint(!err, ==, ok);
        error_free(err);
        if (ok) {
            model_release(m, epoch);
        }
    } else if (r < 950) {
        epoch = g_test_rand_int_range(0, 4);
        ok = m->mode == FT_OUTPUT_PASS && epoch;
        g_assert_cmpint(ft_output_start(w->out, epoch, &err), ==, ok);
        g_assert_cmpint(!err, ==, ok);
        error_free(err);
        if (ok) {
            m->mode = FT_OUTPUT_HOLD;
            m->open = epoch;
            m->committed = epoch - 1;
            m->full_told = false;
        }
    } else if (r < 970) {
        ft_output_release_all(w->out);
        if (hold) {
            model_release(m, m->open);
            m->mode = FT_OUTPUT_PASS;
        }
    } else if (r < 972) {
        ft_output_drop_all(w->out);
        model_drop(m, -1);
        m->mode = FT_OUTPUT_DEAD;
    } else if (r < 985) {
        if (slot >= 0) {
            int o = 0;

            ft_output_remove(w->out, w->fakes[slot].p);
            g_array_set_size(w->fakes[slot].queue, 0);
            w->fakes[slot].p = NULL;
            model_drop(m, slot);
            while (m->order[o] != slot) {
                o++;
            }
            m->n_order--;
            memmove(&m->order[o], &m->order[o + 1],
                    (m->n_order - o) * sizeof(int));
        }
    } else {
        for (int s = 0; s < SLOTS; s++) {
            if (!w->fakes[s].p) {
                world_add(w, s);
                m->order[m->n_order++] = s;
                break;
            }
        }
    }
    model_check(m, w);
}

static void test_model(void)
{
    uint64_t out = 0, dropped = 0, passed = 0, dead = 0;

    for (int round = 0; round < 300; round++) {
        g_autoptr(World) w = world_new(2, 10, 10000);
        Model m = {
            .items = g_array_new(false, false, sizeof(Item)),
            .left = g_array_new(false, false, sizeof(unsigned)),
            .order = { 0, 1 }, .n_order = 2,
            .limit_items = 10, .limit_bytes = 10000,
        };
        FtOutputStats s;

        for (int step = 0; step < 400; step++) {
            model_step(&m, w);
        }
        ft_output_stats(w->out, &s);
        out += s.released_items;
        dropped += s.dropped_items;
        passed += m.left->len - s.released_items;
        dead += m.mode == FT_OUTPUT_DEAD;
        g_array_free(m.items, true);
        g_array_free(m.left, true);
    }
    g_test_message("%" PRIu64 " items released, %" PRIu64 " dropped, %" PRIu64
                   " passed, %" PRIu64 " of 300 rounds ended dead",
                   out, dropped, passed, dead);
    g_assert_cmpuint(out, >, 5000);
    g_assert_cmpuint(dropped, >, 100);
    g_assert_cmpuint(passed, >, 1000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/output/modes", test_modes);
    g_test_add_func("/ft/output/start", test_start);
    g_test_add_func("/ft/output/order", test_order);
    g_test_add_func("/ft/output/release-all", test_release_all);
    g_test_add_func("/ft/output/drop-all", test_drop_all);
    g_test_add_func("/ft/output/free-drops", test_free_drops);
    g_test_add_func("/ft/output/remove", test_remove);
    g_test_add_func("/ft/output/waiting", test_waiting);
    g_test_add_func("/ft/output/full", test_full);
    g_test_add_func("/ft/output/close-in-full", test_close_in_full);
    g_test_add_func("/ft/output/no-callbacks", test_no_callbacks);
    g_test_add_func("/ft/output/hold-in-release", test_hold_in_release);
    g_test_add_func("/ft/output/many-epochs", test_many_epochs);
    g_test_add_func("/ft/output/model", test_model);

    return g_test_run();
}
