/*
 * Fault tolerance: how much the journals of a session may hold
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Counts what the records cost, by epoch, and says when the guest has to
 * wait.  It does not know who waits and cannot wake anybody: whoever seals,
 * credits or resets lets them ask again.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "journal.h"

typedef struct Sealed {
    uint64_t epoch;
    uint64_t cost;
} Sealed;

struct FtBudget {
    int refs;
    QemuMutex lock;             /* for all below */
    uint64_t open;              /* used, in the open epoch */
    uint64_t share;             /* what it may use from half the limit on */
    GQueue sealed;              /* of Sealed, epochs ascending, none empty */
    FtBudgetStats stats;
};

/* The open epoch begins. */
static void begin_epoch(FtBudget *b)
{
    const FtBudgetStats *s = &b->stats;
    uint64_t left = s->limit > s->used ? s->limit - s->used : 0;

    b->open = 0;
    b->share = MAX(left / 4, FT_BUDGET_MIN);
}

FtBudget *ft_budget_new(uint64_t limit)
{
    FtBudget *b = g_new0(FtBudget, 1);

    b->refs = 1;
    qemu_mutex_init(&b->lock);
    g_queue_init(&b->sealed);
    b->stats.limit = limit;
    begin_epoch(b);
    return b;
}

FtBudget *ft_budget_ref(FtBudget *b)
{
    qatomic_inc(&b->refs);
    return b;
}

void ft_budget_unref(FtBudget *b)
{
    if (b && qatomic_fetch_dec(&b->refs) == 1) {
        g_queue_clear_full(&b->sealed, g_free);
        qemu_mutex_destroy(&b->lock);
        g_free(b);
    }
}

/* May it be used? If not, count why. */
static bool admit(FtBudget *b, uint64_t cost)
{
    FtBudgetStats *s = &b->stats;

    if (!s->limit || !s->used) {
        return true;
    }
    if (s->used >= s->limit || s->limit - s->used < cost) {
        s->stalled++;
        return false;
    }
    if (s->used < s->limit / 2) {
        return true;
    }
    if (b->open >= b->share || b->share - b->open < cost) {
        s->slowed++;
        return false;
    }
    return true;
}

bool ft_budget_admit(FtBudget *b, uint64_t cost, bool force)
{
    QEMU_LOCK_GUARD(&b->lock);

    if (!force && !admit(b, cost)) {
        return false;
    }
    b->open += cost;
    b->stats.used += cost;
    b->stats.peak = MAX(b->stats.peak, b->stats.used);
    return true;
}

void ft_budget_seal(FtBudget *b, uint64_t epoch)
{
    QEMU_LOCK_GUARD(&b->lock);

    if (b->open) {
        Sealed *s = g_new(Sealed, 1);

        *s = (Sealed) { .epoch = epoch, .cost = b->open };
        g_queue_push_tail(&b->sealed, s);
    }
    begin_epoch(b);
}

void ft_budget_credit(FtBudget *b, uint64_t epoch)
{
    Sealed *s;
    QEMU_LOCK_GUARD(&b->lock);

    while ((s = g_queue_peek_head(&b->sealed)) && s->epoch <= epoch) {
        g_queue_pop_head(&b->sealed);
        b->stats.used -= s->cost;
        g_free(s);
    }
}

void ft_budget_stats(FtBudget *b, FtBudgetStats *st)
{
    QEMU_LOCK_GUARD(&b->lock);

    *st = b->stats;
}
