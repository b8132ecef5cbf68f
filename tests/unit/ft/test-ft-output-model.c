/*
 * Unit tests of migration/ft/output.c: random calls against a model of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "output-world.h"

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

    g_test_add_func("/ft/output/model", test_model);

    return g_test_run();
}
