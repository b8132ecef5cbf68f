/*
 * Fault tolerance: output commit (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The providers keep the things, this file keeps the books: for each provider
 * how much it holds in which epoch (only epochs in which it holds something,
 * so the memory is bounded by the output, not by the time without a commit).
 *
 * Decisions that the header leaves open:
 *
 * - full() is called once in an epoch, at the first hold with which all that
 *   is held, in open and closed epochs, reaches a limit.  The answer to it is
 *   to end the epoch; to hear it again before that has happened helps nobody.
 *   In the next epoch it is called again if there is still too much.
 *
 * - release() is called for every provider and every committed epoch, also
 *   when nothing is held: a provider may keep what it does not count here.
 *
 * - release() is not supposed to call back.  The one call that can sneak in is
 *   ft_output_hold(): a packet that leaves can make room in a net queue whose
 *   owner then sends its next one.  So books are written before release() is
 *   called and such an item belongs to the open epoch like any other.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/queue.h"
#include "output.h"

typedef struct FtHeld {
    uint64_t epoch;
    uint64_t items;
    uint64_t bytes;
} FtHeld;

struct FtOutputProvider {
    char *name;
    const FtOutputOps *ops;
    void *opaque;
    GQueue held;                /* of FtHeld, epochs ascending, none empty */
    QTAILQ_ENTRY(FtOutputProvider) next;
};

struct FtOutput {
    FtOutputMode mode;
    uint64_t open;              /* epoch; in mode HOLD */
    uint64_t committed;         /* the last one; in mode HOLD */
    uint64_t open_items;        /* 0 in the other modes: nothing is held */
    bool full_told;             /* in the open epoch */
    bool busy;                  /* inside release() or drop() */
    QTAILQ_HEAD(, FtOutputProvider) providers;
    FtOutputStats stats;

    uint64_t limit_items;       /* 0: none */
    uint64_t limit_bytes;
    void (*waiting)(void *opaque);
    void (*full)(void *opaque);
    void *opaque;
};

static const char *mode_name(FtOutputMode mode)
{
    switch (mode) {
    case FT_OUTPUT_PASS:
        return "pass";
    case FT_OUTPUT_HOLD:
        return "hold";
    case FT_OUTPUT_DEAD:
        return "dead";
    }
    g_assert_not_reached();
}

FtOutput *ft_output_new(uint64_t limit_items, uint64_t limit_bytes,
                        void (*waiting)(void *opaque),
                        void (*full)(void *opaque), void *opaque)
{
    FtOutput *out = g_new0(FtOutput, 1);

    out->limit_items = limit_items;
    out->limit_bytes = limit_bytes;
    out->waiting = waiting;
    out->full = full;
    out->opaque = opaque;
    QTAILQ_INIT(&out->providers);
    return out;
}

/* Take all that @p holds in epochs <= @epoch off the books of now. */
static FtHeld take_held(FtOutput *out, FtOutputProvider *p, uint64_t epoch)
{
    FtHeld sum = { 0 };
    FtHeld *h;

    while ((h = g_queue_peek_head(&p->held)) && h->epoch <= epoch) {
        g_queue_pop_head(&p->held);
        sum.items += h->items;
        sum.bytes += h->bytes;
        if (h->epoch == out->open) {
            out->open_items -= h->items;
        }
        g_free(h);
    }
    out->stats.held_items -= sum.items;
    out->stats.held_bytes -= sum.bytes;
    return sum;
}

static void forget_held(FtOutput *out, FtOutputProvider *p)
{
    FtHeld gone = take_held(out, p, UINT64_MAX);

    out->stats.dropped_items += gone.items;
}

static void release_epoch(FtOutput *out, uint64_t epoch)
{
    FtOutputProvider *p;

    out->busy = true;
    QTAILQ_FOREACH(p, &out->providers, next) {
        FtHeld gone = take_held(out, p, epoch);

        out->stats.released_items += gone.items;
        out->stats.released_bytes += gone.bytes;
        p->ops->release(p->opaque, epoch);
    }
    out->busy = false;
}

void ft_output_free(FtOutput *out)
{
    FtOutputProvider *p;

    if (!out) {
        return;
    }
    if (out->mode == FT_OUTPUT_HOLD) {
        ft_output_drop_all(out);
    }
    while ((p = QTAILQ_FIRST(&out->providers))) {
        ft_output_remove(out, p);
    }
    g_free(out);
}

FtOutputProvider *ft_output_add(FtOutput *out, const char *name,
                                const FtOutputOps *ops, void *opaque)
{
    FtOutputProvider *p = g_new0(FtOutputProvider, 1);

    p->name = g_strdup(name);
    p->ops = ops;
    p->opaque = opaque;
    g_queue_init(&p->held);
    QTAILQ_INSERT_TAIL(&out->providers, p, next);
    return p;
}

void ft_output_remove(FtOutput *out, FtOutputProvider *p)
{
    assert(!out->busy);
    forget_held(out, p);
    QTAILQ_REMOVE(&out->providers, p, next);
    g_free(p->name);
    g_free(p);
}

bool ft_output_start(FtOutput *out, uint64_t epoch, Error **errp)
{
    if (out->mode != FT_OUTPUT_PASS) {
        error_setg(errp, "cannot start to hold output at epoch %" PRIu64
                   ": mode is %s, it must be pass", epoch,
                   mode_name(out->mode));
        return false;
    }
    /* What ft_output_hold() returns would mean something else. */
    if (epoch == 0 || epoch == UINT64_MAX) {
        error_setg(errp, "cannot start to hold output at epoch %" PRIu64
                   ": that is not the number of an epoch", epoch);
        return false;
    }

    out->mode = FT_OUTPUT_HOLD;
    out->open = epoch;
    out->committed = epoch - 1;
    out->full_told = false;
    return true;
}

FtOutputMode ft_output_mode(const FtOutput *out)
{
    return out->mode;
}

static bool limit_reached(const FtOutput *out)
{
    const FtOutputStats *s = &out->stats;

    return (out->limit_items && s->held_items >= out->limit_items) ||
           (out->limit_bytes && s->held_bytes >= out->limit_bytes);
}

uint64_t ft_output_hold(FtOutput *out, FtOutputProvider *p, size_t bytes)
{
    FtOutputStats *s = &out->stats;
    uint64_t epoch = out->open;
    FtHeld *h;
    bool first, full;

    switch (out->mode) {
    case FT_OUTPUT_PASS:
        return 0;
    case FT_OUTPUT_DEAD:
        return UINT64_MAX;
    case FT_OUTPUT_HOLD:
        break;
    }

    h = g_queue_peek_tail(&p->held);
    if (!h || h->epoch != epoch) {
        h = g_new0(FtHeld, 1);
        h->epoch = epoch;
        g_queue_push_tail(&p->held, h);
    }
    h->items++;
    h->bytes += bytes;
    s->held_items++;
    s->held_bytes += bytes;
    s->held_items_peak = MAX(s->held_items_peak, s->held_items);
    s->held_bytes_peak = MAX(s->held_bytes_peak, s->held_bytes);

    first = ++out->open_items == 1;
    full = !out->full_told && limit_reached(out);
    out->full_told |= full;

    /* Last, with the books in order: they may close the epoch. */
    if (first && out->waiting) {
        out->waiting(out->opaque);
    }
    if (full && out->full) {
        out->full(out->opaque);
    }
    return epoch;
}

uint64_t ft_output_open_items(const FtOutput *out)
{
    return out->open_items;
}

uint64_t ft_output_close(FtOutput *out)
{
    if (out->mode != FT_OUTPUT_HOLD) {
        return 0;
    }
    out->open_items = 0;
    out->full_told = false;
    return out->open++;
}

bool ft_output_commit(FtOutput *out, uint64_t epoch, Error **errp)
{
    assert(!out->busy);
    if (out->mode != FT_OUTPUT_HOLD) {
        error_setg(errp, "cannot commit epoch %" PRIu64 ": mode is %s, it "
                   "must be hold", epoch, mode_name(out->mode));
        return false;
    }
    if (epoch >= out->open) {
        error_setg(errp, "cannot commit epoch %" PRIu64 ": it is not closed "
                   "yet, %" PRIu64 " is open", epoch, out->open);
        return false;
    }
    if (epoch <= out->committed) {
        error_setg(errp, "cannot commit epoch %" PRIu64 ": all up to %" PRIu64
                   " are committed", epoch, out->committed);
        return false;
    }

    while (out->committed < epoch) {
        release_epoch(out, ++out->committed);
    }
    return true;
}

void ft_output_release_all(FtOutput *out)
{
    assert(!out->busy);
    if (out->mode != FT_OUTPUT_HOLD) {
        return;
    }

    /*
     * Still in mode HOLD: what is sent from inside a release() may not
     * overtake what has not been released yet.  But it may come too late for
     * its provider's turn, so go round until nothing is left.
     */
    while (out->committed < out->open) {
        release_epoch(out, ++out->committed);
    }
    while (out->stats.held_items) {
        release_epoch(out, out->open);
    }
    out->mode = FT_OUTPUT_PASS;
}

void ft_output_drop_all(FtOutput *out)
{
    FtOutputProvider *p;

    assert(!out->busy);
    if (out->mode == FT_OUTPUT_DEAD) {
        return;
    }

    /* First: not even from inside drop() does anything leave any more. */
    out->mode = FT_OUTPUT_DEAD;
    out->busy = true;
    QTAILQ_FOREACH(p, &out->providers, next) {
        forget_held(out, p);
        p->ops->drop(p->opaque);
    }
    out->busy = false;
}

void ft_output_stats(const FtOutput *out, FtOutputStats *stats)
{
    *stats = out->stats;
}
