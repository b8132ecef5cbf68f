/*
 * Fault tolerance: what the other side's image of a drive may lack
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "changed.h"

#define GRANULARITY     (64 * KiB)

static const char *const names[] = { "ft-changed-a", "ft-changed-b" };

/* The one that collects is enabled; the turn is in the other one's place. */
typedef struct Pair {
    BdrvDirtyBitmap *newer, *older;
} Pair;

static bool find_pair(BlockDriverState *bs, Pair *p)
{
    BdrvDirtyBitmap *a = bdrv_find_dirty_bitmap(bs, names[0]);
    BdrvDirtyBitmap *b = bdrv_find_dirty_bitmap(bs, names[1]);

    if (!a || !b) {
        return false;
    }
    p->newer = bdrv_dirty_bitmap_enabled(a) ? a : b;
    p->older = p->newer == a ? b : a;
    return true;
}

void ft_changed_start(BlockDriverState *bs)
{
    Pair p;
    int i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (!bdrv_find_dirty_bitmap(bs, names[i])) {
            bdrv_create_dirty_bitmap(bs, GRANULARITY, names[i], NULL);
        }
    }
    if (!find_pair(bs, &p)) {
        return;
    }
    bdrv_clear_dirty_bitmap(p.newer, NULL);
    bdrv_clear_dirty_bitmap(p.older, NULL);
    bdrv_enable_dirty_bitmap(p.newer);
    bdrv_disable_dirty_bitmap(p.older);
}

void ft_changed_forget(BlockDriverState *bs)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        BdrvDirtyBitmap *bitmap = bdrv_find_dirty_bitmap(bs, names[i]);

        if (bitmap) {
            bdrv_release_dirty_bitmap(bitmap);
        }
    }
}

void ft_changed_turn(BlockDriverState *bs)
{
    Pair p;

    if (find_pair(bs, &p)) {
        bdrv_clear_dirty_bitmap(p.older, NULL);
        bdrv_enable_dirty_bitmap(p.older);
        bdrv_disable_dirty_bitmap(p.newer);
    }
}

BdrvDirtyBitmap *ft_changed_get(BlockDriverState *bs)
{
    Pair p;

    if (!find_pair(bs, &p)) {
        return NULL;
    }
    /* newer |= older; it stays complete if this is asked for again */
    bdrv_dirty_bitmap_merge_internal(p.newer, p.older, NULL, true);
    return p.newer;
}
