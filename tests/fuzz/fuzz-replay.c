/*
 * Fuzz target: the journal of a drive, from records to what is on the disk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a run of steps, as a backup takes them: add a record of the epoch
 * that is being received, commit it, apply a batch (or begin to, and fail),
 * read; and at any time be told that the rest is committed, too.
 *
 * Next to the journal stands what the disk would hold had each record been
 * done at once.  A read sees that; and when all has been applied, so does the
 * disk.  Data that was discarded is not looked at before something is written
 * over it or the disk is done.  Which epoch is settled is counted record by
 * record.
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "migration/ft/journal.h"
#include "fuzz.h"

#define DISK        8192
#define STEPS_MAX   400
#define DISCARDED   0xdd        /* what this disk has then; no record has */

typedef struct World {
    FtJournal *j;
    uint8_t disk[DISK];
    uint8_t want[DISK];
    bool loose[DISK];           /* discarded since */
    uint64_t epoch;             /* that is being received */
    uint64_t committed;
    GArray *waiting;            /* epochs of the records not applied yet */
    GArray *unflushed;          /* of those that were, but not flushed */
    uint64_t flushed;           /* how many are neither */
    bool flushing;              /* a flush is under way: */
    uint64_t mark;              /* what the journal has said, and */
    uint64_t upto;              /* how many it is for */
    uint8_t number;             /* of the last WRITE: its data begins so */
} World;

static uint64_t records(World *w)
{
    FtJournalStats st;

    ft_journal_stats(w->j, &st);
    return st.records;
}

static void step_add(World *w, FuzzInput *in)
{
    uint8_t what = fuzz_u8(in);
    uint8_t kind = FT_REC_WRITE + what % 4;
    uint64_t offset = fuzz_u16(in) % DISK;
    uint64_t bytes = 1 + fuzz_u16(in) % (DISK - offset);
    uint8_t *data = NULL;
    uint64_t before;
    FtRecord *r;

    switch (kind) {
    case FT_REC_WRITE:
        w->number += 7;
        data = g_malloc(bytes);
        for (uint64_t i = 0; i < bytes; i++) {
            data[i] = 1 + (w->number + i) % 200;
        }
        memcpy(w->want + offset, data, bytes);
        memset(w->loose + offset, false, bytes);
        break;
    case FT_REC_ZERO:
        memset(w->want + offset, 0, bytes);
        memset(w->loose + offset, false, bytes);
        break;
    case FT_REC_DISCARD:
        memset(w->want + offset, DISCARDED, bytes);
        memset(w->loose + offset, true, bytes);
        break;
    default:
        offset = bytes = 0;
        break;
    }
    r = ft_record_new(kind, kind == FT_REC_ZERO && what & 0x80 ?
                            FT_REC_UNMAP : 0, 0, offset, bytes, data);
    r->epoch = w->epoch;
    before = records(w);
    ft_journal_add(w->j, r);
    /* a FLUSH with nothing to flush is left out */
    if (records(w) != before) {
        g_array_append_val(w->waiting, w->epoch);
    }
}

static void do_op(World *w, const FtPlanOp *op)
{
    g_assert_cmpuint(op->bytes, >, 0);
    g_assert_cmpuint(op->offset, <=, DISK);
    g_assert_cmpuint(op->bytes, <=, DISK - op->offset);
    if (op->kind == FT_REC_WRITE) {
        g_assert_cmpint(op->niov, >, 0);
        g_assert_cmpint(op->niov, <=, FT_PLAN_IOV_MAX);
        g_assert_cmpuint(iov_size(op->iov, op->niov), ==, op->bytes);
        iov_to_buf(op->iov, op->niov, 0, w->disk + op->offset, op->bytes);
    } else {
        g_assert_true(op->kind == FT_REC_ZERO || op->kind == FT_REC_DISCARD);
        g_assert_cmpint(op->niov, ==, 0);
        memset(w->disk + op->offset,
               op->kind == FT_REC_ZERO ? 0 : DISCARDED, op->bytes);
    }
}

/* The first @n of what was applied are flushed. */
static void forget(World *w, uint64_t n)
{
    w->flushed += n;
    g_array_remove_range(w->unflushed, 0, n);
}

/* With @fail only so many operations are done. */
static bool step_apply(World *w, uint64_t max, int fail)
{
    FtPlan plan = { };
    uint64_t end = 0, before = records(w);
    bool flush;
    unsigned i;

    g_assert_true(ft_journal_pending(w->j) ==
                  ft_journal_plan(w->j, max, &plan));
    if (!plan.op) {
        return false;
    }
    for (i = 0; i < plan.op->len; i++) {
        FtPlanOp *op = &g_array_index(plan.op, FtPlanOp, i);

        /* by offset, and none over another */
        g_assert_cmpuint(op->offset, >=, end);
        /* a batch is of discards or has none */
        g_assert_true((op->kind == FT_REC_DISCARD) ==
                      (g_array_index(plan.op, FtPlanOp, 0).kind ==
                       FT_REC_DISCARD));
        end = op->offset + op->bytes;
        if (fail >= 0 && i >= fail) {
            break;
        }
        do_op(w, op);
    }
    if (fail >= 0) {
        ft_journal_abandon(w->j, &plan);
        return true;
    }
    flush = plan.flush;
    ft_journal_applied(w->j, &plan);
    before -= records(w);
    g_assert_cmpuint(before, >, 0);
    g_array_append_vals(w->unflushed, w->waiting->data, before);
    g_array_remove_range(w->waiting, 0, before);
    if (flush) {
        forget(w, w->unflushed->len);
    }
    return true;
}

static void step_read(World *w, uint64_t offset, uint64_t bytes)
{
    uint8_t buf[DISK];
    FtPieces p;
    uint64_t i;

    ft_journal_lookup(w->j, offset, bytes, &p);
    g_assert_cmpuint(p.bytes, <=, bytes);
    memcpy(buf, w->disk + offset, bytes);
    ft_pieces_copy(&p, offset, bytes, buf);
    ft_pieces_clear(&p);
    for (i = 0; i < bytes; i++) {
        if (!w->loose[offset + i]) {
            g_assert_cmpuint(buf[i], ==, w->want[offset + i]);
        }
    }
}

/* Begin one, or end it. */
static void step_flush(World *w)
{
    if (!w->flushing) {
        w->mark = ft_journal_flush_begin(w->j);
        w->upto = w->flushed + w->unflushed->len;
    } else {
        ft_journal_flush_done(w->j, w->mark);
        forget(w, MAX(w->upto, w->flushed) - w->flushed);
    }
    w->flushing = !w->flushing;
}

static void check_settled(World *w)
{
    GArray *rest = w->unflushed->len ? w->unflushed : w->waiting;
    uint64_t settled = w->committed;

    if (rest->len) {
        settled = MIN(settled, g_array_index(rest, uint64_t, 0) - 1);
    }
    g_assert_cmpuint(ft_journal_settled(w->j), ==, settled);
    g_assert_true(ft_journal_unflushed(w->j) == (w->unflushed->len > 0));
    g_assert_true(ft_journal_idle(w->j) == !rest->len);
}

static void step_commit(World *w)
{
    ft_journal_commit(w->j, w->epoch);
    w->committed = w->epoch++;
}

/* The end: all that has come is committed, applied and flushed. */
static void finish(World *w)
{
    FtJournalStats st;

    step_commit(w);
    while (step_apply(w, UINT64_MAX, -1)) {
        check_settled(w);
    }
    if (w->flushing) {
        step_flush(w);
        check_settled(w);
    }
    step_flush(w);
    step_flush(w);
    check_settled(w);
    g_assert_true(ft_journal_idle(w->j));
    ft_journal_stats(w->j, &st);
    g_assert_cmpuint(st.records, ==, 0);
    g_assert_cmpuint(st.bytes, ==, 0);
    g_assert_cmpmem(w->disk, DISK, w->want, DISK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static World w;
    FuzzInput in = { data, size };
    unsigned i;

    w = (World) {
        .j = ft_journal_new(0, DISK),
        .epoch = 1,
        .waiting = g_array_new(false, false, sizeof(uint64_t)),
        .unflushed = g_array_new(false, false, sizeof(uint64_t)),
    };
    for (i = 0; i < STEPS_MAX && in.left; i++) {
        uint8_t step = fuzz_u8(&in);
        uint64_t at;

        switch (step % 8) {
        default:
            step_add(&w, &in);
            break;
        case 3:
            w.epoch++;          /* the one before is whole, no more */
            break;
        case 4:
            step_commit(&w);
            break;
        case 5:
            step_apply(&w, fuzz_u16(&in), -1);
            break;
        case 6:
            step_apply(&w, fuzz_u16(&in), fuzz_u8(&in));
            break;
        case 7:
            if (step & 0x80) {
                step_flush(&w);
                break;
            }
            at = fuzz_u16(&in) % DISK;
            step_read(&w, at, fuzz_u16(&in) % (DISK - at));
            break;
        }
        check_settled(&w);
    }
    if (size & 1) {
        finish(&w);
    } else {
        step_read(&w, 0, DISK);
        if (size & 2) {
            uint64_t settled = ft_journal_settled(w.j);

            ft_journal_drop(w.j);
            g_assert_cmpuint(ft_journal_settled(w.j), ==, settled);
        }
    }
    ft_journal_free(w.j);
    g_array_unref(w.waiting);
    g_array_unref(w.unflushed);
    return 0;
}
