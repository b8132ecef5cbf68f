/*
 * Fault tolerance: output commit (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the guest sends in epoch N leaves when the backup has acknowledged
 * epoch N, not before.  Providers (net/ft-hold.c, later block/ft-journal.c)
 * keep their own things, each tagged with the epoch that ft_output_hold()
 * returned; this file decides when which of them may go.
 *
 *            hold      close(N)       commit(N)
 *   guest --------> [ N open ] --> [ N closed ] --> released, in order
 *
 * Modes: PASS (not protected: hold() says so and the provider lets things
 * through) -> HOLD -> PASS again by release_all(), or -> DEAD by drop_all().
 * From DEAD there is no way back: a fenced side never sends again.
 *
 * Locking: one lock of the caller's (the BQL in QEMU) around every call.
 */

#ifndef MIGRATION_FT_OUTPUT_H
#define MIGRATION_FT_OUTPUT_H

#include "qapi/error.h"

typedef struct FtOutput FtOutput;
typedef struct FtOutputProvider FtOutputProvider;

typedef struct FtOutputOps {
    /*
     * Let out everything tagged with an epoch <= @epoch, in order.  Called
     * for each epoch, whether the provider holds something or not.  Must not
     * call back; only a nested ft_output_hold() is all right.
     */
    void (*release)(void *opaque, uint64_t epoch);
    /* Throw everything away; nothing may leave. */
    void (*drop)(void *opaque);
} FtOutputOps;

typedef enum FtOutputMode {
    FT_OUTPUT_PASS,
    FT_OUTPUT_HOLD,
    FT_OUTPUT_DEAD,
} FtOutputMode;

typedef struct FtOutputStats {
    uint64_t held_items;        /* now */
    uint64_t held_bytes;        /* now */
    uint64_t held_items_peak;
    uint64_t held_bytes_peak;
    uint64_t released_items;
    uint64_t released_bytes;
    uint64_t dropped_items;
} FtOutputStats;

/*
 * ft_output_new: when what is held, in all epochs, reaches @limit_items or
 * @limit_bytes (0: no limit), @full is called (the epoch should end; nothing
 * is refused or dropped), at most once in an epoch; @waiting is called when
 * the open epoch gets its first item.  Both may be NULL; they are called from
 * inside ft_output_hold().
 */
FtOutput *ft_output_new(uint64_t limit_items, uint64_t limit_bytes,
                        void (*waiting)(void *opaque),
                        void (*full)(void *opaque), void *opaque);

/*
 * Frees it (NULL is fine) and all providers; in mode HOLD this drops what is
 * held.
 */
void ft_output_free(FtOutput *out);

/* @name is copied.  Providers are served in the order they were added. */
FtOutputProvider *ft_output_add(FtOutput *out, const char *name,
                                const FtOutputOps *ops, void *opaque);

/*
 * The provider goes away by itself (netdev deleted): forget what it held, and
 * count it as dropped; its drop() is not called.
 */
void ft_output_remove(FtOutput *out, FtOutputProvider *p);

/* PASS -> HOLD with @epoch open (>= 1).  An error in any other mode. */
bool ft_output_start(FtOutput *out, uint64_t epoch, Error **errp);

FtOutputMode ft_output_mode(const FtOutput *out);

/*
 * ft_output_hold: @p keeps one item of @bytes bytes.
 * Returns the epoch to tag it with (>= 1); 0 in mode PASS: let it through
 * now; UINT64_MAX in mode DEAD: throw it away.
 */
uint64_t ft_output_hold(FtOutput *out, FtOutputProvider *p, size_t bytes);

/* Items held in the open epoch, all providers. */
uint64_t ft_output_open_items(const FtOutput *out);

/*
 * Close the open epoch and open the next.  Returns the closed one (0 if not
 * in mode HOLD).
 */
uint64_t ft_output_close(FtOutput *out);

/*
 * ft_output_commit: the backup holds @epoch whole.  Releases all providers'
 * items tagged <= @epoch, epoch by epoch, providers in order.  An error, and
 * nothing is released, when @epoch is not closed yet or is lower than one
 * committed already (the same one again is an error too), or when the mode
 * is not HOLD.
 */
bool ft_output_commit(FtOutput *out, uint64_t epoch, Error **errp);

/*
 * Protection ended and this side goes on: release all in order, PASS.
 * No effect in the other modes.
 */
void ft_output_release_all(FtOutput *out);

/* This side is fenced: drop all, DEAD.  From any mode. */
void ft_output_drop_all(FtOutput *out);

void ft_output_stats(const FtOutput *out, FtOutputStats *stats);

#endif
