/*
 * Fault tolerance: the journal of a drive (no socket, no VM, no block layer)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One queue of records, oldest first. Sealing, committing and planning move
 * marks along it:
 *
 *     head                                                     tail
 *      | applying | committed, waiting | sealed | open          |
 *                 ^ busy_last                   ^ open
 *
 * and an index by offset says which record has the newest data of each byte:
 * extents that do not overlap in an interval tree, and for each record the
 * list of those it owns, so that one that has been applied takes its own away
 * without looking at those of others. A batch is merged by the same means.
 *
 * Decisions that the header leaves open:
 *
 * - What was applied is remembered by epoch until a flush covers it, each
 *   epoch with the number of the last record of it. A flush covers what had
 *   been applied when it began, not what was applied meanwhile.
 *
 * - ft_journal_seal() after ft_journal_commit_all() gives its epoch to what
 *   has been applied since, but not been flushed, as well: to settle that
 *   epoch takes a flush. What had been sealed before stays committed.
 */

#include "qemu/osdep.h"
#include "qemu/interval-tree.h"
#include "qemu/iov.h"
#include "journal.h"

/* A range of bytes of which @rec has the newest data. */
typedef struct FtExtent {
    IntervalTreeNode node;
    FtRecord *rec;
    QLIST_ENTRY(FtExtent) next;     /* in rec->extents, when in an index */
} FtExtent;

typedef struct ExtentMap {
    IntervalTreeRoot root;
    bool listed;                    /* extents are in rec->extents */
} ExtentMap;

/* Applied, but not flushed. */
typedef struct Unflushed {
    uint64_t epoch;                 /* 0: applied before it was sealed */
    uint64_t end;                   /* applied records in all, up to it */
} Unflushed;

struct FtJournal {
    uint16_t drive;
    uint64_t length;

    QTAILQ_HEAD(, FtRecord) queue;
    FtRecord *open;                 /* the first open one */
    FtRecord *busy_last;            /* the last one of the plan */
    bool busy;                      /* there is a plan */
    bool dirty;                     /* written since the last FLUSH */
    ExtentMap index;

    uint64_t epoch;                 /* highest of seal, commit, records */
    uint64_t committed;             /* as far as ft_journal_commit() said */
    bool commit_all;
    bool dropped;
    uint64_t dropped_settled;

    uint64_t applied;               /* records in all */
    GQueue unflushed;               /* of Unflushed, oldest first */

    FtJournalStats stats;
};

/* --------------------------------------------------------------- extents */

static FtExtent *to_extent(IntervalTreeNode *node)
{
    return node ? container_of(node, FtExtent, node) : NULL;
}

static FtExtent *extent_first(ExtentMap *m, uint64_t start, uint64_t last)
{
    return to_extent(interval_tree_iter_first(&m->root, start, last));
}

static FtExtent *extent_next(FtExtent *x, uint64_t start, uint64_t last)
{
    return to_extent(interval_tree_iter_next(&x->node, start, last));
}

static void extent_insert(ExtentMap *m, FtRecord *r, uint64_t start,
                          uint64_t last)
{
    FtExtent *x = g_new0(FtExtent, 1);

    x->rec = r;
    x->node.start = start;
    x->node.last = last;
    interval_tree_insert(&x->node, &m->root);
    if (m->listed) {
        QLIST_INSERT_HEAD(&r->extents, x, next);
    }
}

static void extent_remove(ExtentMap *m, FtExtent *x)
{
    interval_tree_remove(&x->node, &m->root);
    if (m->listed) {
        QLIST_REMOVE(x, next);
    }
    g_free(x);
}

static void extent_trim(ExtentMap *m, FtExtent *x, uint64_t start,
                        uint64_t last)
{
    interval_tree_remove(&x->node, &m->root);
    x->node.start = start;
    x->node.last = last;
    interval_tree_insert(&x->node, &m->root);
}

/* @r has the newest data of all of its range from now on. */
static void extent_map_add(ExtentMap *m, FtRecord *r)
{
    uint64_t start = r->offset;
    uint64_t last = r->offset + r->bytes - 1;
    FtExtent *x;

    while ((x = extent_first(m, start, last))) {
        uint64_t x_start = x->node.start;
        uint64_t x_last = x->node.last;

        if (x_start < start) {
            extent_trim(m, x, x_start, start - 1);
            if (x_last > last) {
                extent_insert(m, x->rec, last + 1, x_last);
            }
        } else if (x_last > last) {
            extent_trim(m, x, last + 1, x_last);
        } else {
            extent_remove(m, x);
        }
    }
    extent_insert(m, r, start, last);
}

static void index_forget(FtJournal *j, FtRecord *r)
{
    FtExtent *x;

    while ((x = QLIST_FIRST(&r->extents))) {
        extent_remove(&j->index, x);
    }
}

/* ----------------------------------------------------------------- queue */

static bool has_data(const FtRecord *r)
{
    return r->kind == FT_REC_WRITE || r->kind == FT_REC_ZERO;
}

static bool is_committed(const FtJournal *j, const FtRecord *r)
{
    return j->commit_all || (r->epoch && r->epoch <= j->committed);
}

/* The first record that no plan has taken. */
static FtRecord *first_waiting(const FtJournal *j)
{
    return j->busy_last ? QTAILQ_NEXT(j->busy_last, next) :
                          QTAILQ_FIRST(&j->queue);
}

static void remove_record(FtJournal *j, FtRecord *r)
{
    if (r == j->open) {
        j->open = QTAILQ_NEXT(r, next);
    }
    QTAILQ_REMOVE(&j->queue, r, next);
    index_forget(j, r);
    j->stats.records--;
    j->stats.bytes -= ft_record_cost(r);
    ft_record_unref(r);
}

FtJournal *ft_journal_new(uint16_t drive, uint64_t length)
{
    FtJournal *j = g_new0(FtJournal, 1);

    j->drive = drive;
    j->length = length;
    j->dirty = true;
    j->index.listed = true;
    QTAILQ_INIT(&j->queue);
    g_queue_init(&j->unflushed);
    return j;
}

void ft_journal_set_drive(FtJournal *j, uint16_t drive)
{
    j->drive = drive;
}

void ft_journal_free(FtJournal *j)
{
    if (!j) {
        return;
    }
    assert(!j->busy);
    ft_journal_drop(j);
    g_queue_clear_full(&j->unflushed, g_free);
    g_free(j);
}

void ft_journal_start(FtJournal *j)
{
    assert(ft_journal_idle(j));
    j->epoch = 0;
    j->committed = 0;
    j->commit_all = false;
    j->dirty = true;
}

static void count_record(FtJournalStats *s, const FtRecord *r)
{
    s->records++;
    s->bytes += ft_record_cost(r);
    switch (r->kind) {
    case FT_REC_WRITE:
        s->writes++;
        s->written_bytes += r->bytes;
        break;
    case FT_REC_ZERO:
        s->zeroes++;
        break;
    case FT_REC_DISCARD:
        s->discards++;
        break;
    case FT_REC_FLUSH:
        s->flushes++;
        break;
    }
}

void ft_journal_add(FtJournal *j, FtRecord *r)
{
    bool flush = r->kind == FT_REC_FLUSH;

    assert(flush || (r->bytes && r->bytes <= j->length &&
                     r->offset <= j->length - r->bytes));
    if (r->epoch) {
        assert(!j->open && r->epoch >= j->epoch && r->epoch > j->committed);
        j->epoch = r->epoch;
    }
    if (j->dropped || (flush && !j->dirty)) {
        ft_record_unref(r);
        return;
    }

    r->drive = j->drive;
    QLIST_INIT(&r->extents);
    QTAILQ_INSERT_TAIL(&j->queue, r, next);
    if (!r->epoch && !j->open) {
        j->open = r;
    }
    j->dirty = !flush;
    if (has_data(r)) {
        extent_map_add(&j->index, r);
    }
    count_record(&j->stats, r);
}

void ft_journal_seal(FtJournal *j, uint64_t epoch, FtRecords *out)
{
    FtRecord *r;

    assert(epoch > j->epoch);
    if (j->commit_all) {
        j->commit_all = false;
        j->committed = j->epoch;
    }
    for (r = j->open; r; r = QTAILQ_NEXT(r, next)) {
        r->epoch = epoch;
        if (out) {
            ft_records_add(out, r);
        }
    }
    j->open = NULL;
    j->epoch = epoch;

    /* Only the last one can be without an epoch. */
    if (!g_queue_is_empty(&j->unflushed)) {
        Unflushed *u = g_queue_peek_tail(&j->unflushed);

        if (!u->epoch) {
            u->epoch = epoch;
        }
    }
}

void ft_journal_commit(FtJournal *j, uint64_t epoch)
{
    j->committed = MAX(j->committed, epoch);
    j->epoch = MAX(j->epoch, epoch);
}

void ft_journal_commit_all(FtJournal *j)
{
    j->commit_all = true;
}

/* Drop the records that no plan has. */
static void drop_waiting(FtJournal *j)
{
    FtRecord *r;

    while ((r = first_waiting(j))) {
        remove_record(j, r);
    }
}

void ft_journal_drop(FtJournal *j)
{
    if (!j->dropped) {
        j->dropped_settled = ft_journal_settled(j);
        j->dropped = true;
    }
    drop_waiting(j);
}

/* --------------------------------------------------------------- reading */

void ft_journal_lookup(FtJournal *j, uint64_t offset, uint64_t bytes,
                       FtPieces *p)
{
    uint64_t last = offset + bytes - 1;
    FtExtent *x;

    p->piece = g_array_new(false, false, sizeof(FtPiece));
    p->bytes = 0;
    if (!bytes) {
        return;
    }
    for (x = extent_first(&j->index, offset, last); x;
         x = extent_next(x, offset, last)) {
        uint64_t from = MAX(x->node.start, offset);
        FtPiece piece = {
            .offset = from,
            .bytes = MIN(x->node.last, last) - from + 1,
            .rec = ft_record_ref(x->rec),
        };

        g_array_append_val(p->piece, piece);
        p->bytes += piece.bytes;
    }
}

void ft_pieces_copy(const FtPieces *p, uint64_t offset, uint64_t bytes,
                    uint8_t *buf)
{
    for (unsigned i = 0; i < p->piece->len; i++) {
        const FtPiece *piece = &g_array_index(p->piece, FtPiece, i);
        const FtRecord *r = piece->rec;
        uint64_t from = MAX(piece->offset, offset);
        uint64_t to = MIN(piece->offset + piece->bytes, offset + bytes);

        if (from >= to) {
            continue;
        }
        if (r->kind == FT_REC_WRITE) {
            memcpy(buf + (from - offset), r->data + (from - r->offset),
                   to - from);
        } else {
            memset(buf + (from - offset), 0, to - from);
        }
    }
}

void ft_pieces_clear(FtPieces *p)
{
    if (p->piece) {
        for (unsigned i = 0; i < p->piece->len; i++) {
            ft_record_unref(g_array_index(p->piece, FtPiece, i).rec);
        }
        g_array_free(p->piece, true);
    }
    p->piece = NULL;
    p->bytes = 0;
}

/* -------------------------------------------------------------- applying */

/* Can @r go into a batch that begins with @first? */
static bool same_batch(const FtRecord *first, const FtRecord *r)
{
    return has_data(r) ? has_data(first) : r->kind == first->kind;
}

/* Can bytes of @r at @offset be added to @op? */
static bool can_extend(const FtPlanOp *op, const FtRecord *r, uint64_t offset)
{
    if (r->kind != op->kind || r->flags != op->flags ||
        offset != op->offset + op->bytes) {
        return false;
    }
    if (r->kind == FT_REC_WRITE) {
        return op->bytes < FT_PLAN_OP_MAX && op->niov < FT_PLAN_IOV_MAX;
    }
    return op->bytes < FT_PLAN_SPACE_MAX;
}

/* Add the range of an extent to the operations, and to the vectors. */
static void plan_extent(FtPlan *plan, GArray *iov, const FtExtent *x)
{
    FtRecord *r = x->rec;
    bool data = r->kind == FT_REC_WRITE;
    uint64_t max = data ? FT_PLAN_OP_MAX : FT_PLAN_SPACE_MAX;
    uint64_t at = x->node.start;
    uint64_t left = x->node.last - x->node.start + 1;
    FtPlanOp *op = plan->op->len ?
        &g_array_index(plan->op, FtPlanOp, plan->op->len - 1) : NULL;

    while (left) {
        uint64_t n;

        if (!op || !can_extend(op, r, at)) {
            FtPlanOp new = { .kind = r->kind, .flags = r->flags, .offset = at };

            g_array_append_val(plan->op, new);
            op = &g_array_index(plan->op, FtPlanOp, plan->op->len - 1);
        }
        n = MIN(left, max - op->bytes);
        if (data) {
            struct iovec v = {
                .iov_base = r->data + (at - r->offset),
                .iov_len = n,
            };

            g_array_append_val(iov, v);
            op->niov++;
        }
        op->bytes += n;
        at += n;
        left -= n;
    }
}

/* Make the operations from what the records of the batch come to. */
static void plan_ops(FtJournal *j, FtPlan *plan, ExtentMap *batch)
{
    GArray *iov = g_array_new(false, false, sizeof(struct iovec));
    struct iovec *v;
    FtExtent *x;

    while ((x = extent_first(batch, 0, UINT64_MAX))) {
        plan_extent(plan, iov, x);
        extent_remove(batch, x);
    }

    /* They do not move any more. */
    plan->iov = v = (struct iovec *)g_array_free(iov, false);
    for (unsigned i = 0; i < plan->op->len; i++) {
        FtPlanOp *op = &g_array_index(plan->op, FtPlanOp, i);

        if (op->kind == FT_REC_WRITE) {
            op->iov = v;
            v += op->niov;
            j->stats.op_bytes += op->bytes;
        }
    }
    j->stats.ops += plan->op->len;
}

bool ft_journal_plan(FtJournal *j, uint64_t max_bytes, FtPlan *plan)
{
    FtRecord *first, *r;
    ExtentMap batch = { };
    uint64_t sum = 0;
    unsigned n = 0;

    assert(!j->busy);
    if (!ft_journal_pending(j)) {
        return false;
    }

    *plan = (FtPlan) { .op = g_array_new(false, false, sizeof(FtPlanOp)) };
    first = QTAILQ_FIRST(&j->queue);
    for (r = first; r && is_committed(j, r); r = QTAILQ_NEXT(r, next)) {
        uint64_t cost = ft_record_cost(r);

        if (r->kind == FT_REC_FLUSH) {
            plan->flush = true;
            j->busy_last = r;
            break;
        }
        if (!same_batch(first, r) || n == FT_PLAN_RECORD_MAX ||
            (n && (sum >= max_bytes || max_bytes - sum < cost))) {
            break;
        }
        extent_map_add(&batch, r);
        j->busy_last = r;
        sum += cost;
        n++;
    }
    j->busy = true;
    plan_ops(j, plan, &batch);
    return true;
}

static void plan_free(FtJournal *j, FtPlan *plan)
{
    assert(j->busy);
    g_array_free(plan->op, true);
    g_free(plan->iov);
    *plan = (FtPlan) { };
    j->busy = false;
    j->busy_last = NULL;
}

/* All records up to the @mark'th that was applied are flushed. */
static void note_flushed(FtJournal *j, uint64_t mark)
{
    Unflushed *u;

    while ((u = g_queue_peek_head(&j->unflushed)) && u->end <= mark) {
        g_free(g_queue_pop_head(&j->unflushed));
    }
}

static void note_applied(FtJournal *j, const FtRecord *r)
{
    Unflushed *u = g_queue_peek_tail(&j->unflushed);

    j->applied++;
    if (!u || u->epoch != r->epoch) {
        u = g_new0(Unflushed, 1);
        u->epoch = r->epoch;
        g_queue_push_tail(&j->unflushed, u);
    }
    u->end = j->applied;
}

void ft_journal_applied(FtJournal *j, FtPlan *plan)
{
    FtRecord *last = j->busy_last;
    bool flush = plan->flush;
    FtRecord *r;
    bool done;

    plan_free(j, plan);
    do {
        r = QTAILQ_FIRST(&j->queue);
        done = r == last;
        note_applied(j, r);
        remove_record(j, r);
    } while (!done);
    if (flush) {
        note_flushed(j, j->applied);
    }
}

void ft_journal_abandon(FtJournal *j, FtPlan *plan)
{
    plan_free(j, plan);
    if (j->dropped) {
        drop_waiting(j);
    }
}

uint64_t ft_journal_flush_begin(FtJournal *j)
{
    return j->applied;
}

void ft_journal_flush_done(FtJournal *j, uint64_t mark)
{
    note_flushed(j, mark);
}

/* ---------------------------------------------------------------- status */

uint64_t ft_journal_settled(const FtJournal *j)
{
    uint64_t settled = j->commit_all ? j->epoch : j->committed;
    const Unflushed *u = g_queue_peek_head((GQueue *)&j->unflushed);
    const FtRecord *r = QTAILQ_FIRST(&j->queue);
    uint64_t oldest = 0;

    if (j->dropped) {
        return j->dropped_settled;
    }
    if (u) {
        oldest = u->epoch;
    } else if (r) {
        oldest = r->epoch;
    }
    return oldest ? MIN(settled, oldest - 1) : settled;
}

bool ft_journal_unflushed(const FtJournal *j)
{
    return !g_queue_is_empty((GQueue *)&j->unflushed);
}

bool ft_journal_idle(const FtJournal *j)
{
    return QTAILQ_EMPTY(&j->queue) && !ft_journal_unflushed(j);
}

bool ft_journal_pending(const FtJournal *j)
{
    const FtRecord *r = first_waiting(j);

    return r && is_committed(j, r);
}

void ft_journal_stats(const FtJournal *j, FtJournalStats *st)
{
    *st = j->stats;
}
