/*
 * Fault tolerance: harvesting KVM's dirty rings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_RING_H
#define MIGRATION_FT_RING_H

#include "ring-walk.h"

typedef struct FtRing FtRing;

/* Does the accelerator keep rings, and have they all that the guest writes? */
bool ft_ring_usable(void);

/* NULL if not.  BQL held. */
FtRing *ft_ring_new(void);
void ft_ring_free(FtRing *r);

/*
 * ft_ring_harvest: call @fn for every page in the vCPUs' rings, empty them
 * and have their pages protected anew.  What QEMU itself has taken out of them
 * since the last time is then in its dirty bitmaps (DIRTY_MEMORY_MIGRATION),
 * so these are to be read afterwards.  When it fails, the dirty set is not
 * known any more.  BQL held and not dropped, vCPUs stopped.
 */
bool ft_ring_harvest(FtRing *r, FtRingPageFn *fn, void *opaque, Error **errp);

#endif
