/*
 * Fault tolerance: what the other side's image of a drive may lack
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two dirty bitmaps on the drive's node, below the journal. One collects what
 * is written now; the other one has what was written until the last turn.
 * When the other side's image has caught up with the turn, the older bitmap
 * is emptied and takes over collecting:
 *
 *   epoch:   10 11 12 13 14 15 16 17 18 19
 *            |--- older ---||-- newer ------->   turn at 14
 *   the other side has written 14:  older := newer, newer := empty, turn at 19
 *
 * The caller knows at which epoch the turn was.
 *
 * They begin when the images are equal, not before. A copy of all makes that
 * out of any image, so until it has ended nothing is known. A copy of what
 * has changed only makes the difference smaller: when it breaks, the bitmaps,
 * which went on collecting, are as true as before it.
 *
 * So what is dirty in either is all that can differ, and not much more. They
 * go on collecting when the session has ended, in the life of the process.
 *
 * Locking: BQL, main loop.
 */

#ifndef MIGRATION_FT_CHANGED_H
#define MIGRATION_FT_CHANGED_H

#include "block/block.h"
#include "block/dirty-bitmap.h"

/* Both images are equal now: begin. */
void ft_changed_start(BlockDriverState *bs);

/* It is not known any more. */
void ft_changed_forget(BlockDriverState *bs);

/* The other side's image has all that was written until the last turn. */
void ft_changed_turn(BlockDriverState *bs);

/* All that may differ, or NULL: it is not known. Owned by @bs. */
BdrvDirtyBitmap *ft_changed_get(BlockDriverState *bs);

#endif
