/*
 * Unit tests of migration/ft/output.c: output commit
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "output-world.h"

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

    return g_test_run();
}
