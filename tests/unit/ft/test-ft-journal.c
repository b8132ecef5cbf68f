/*
 * Unit tests of migration/ft/journal.c: what the header says, case by case
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * test-ft-journal-model.c has what comes of it when all happens at once.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "migration/ft/journal.h"

#define LENGTH  (1ull << 42)

static FtRecord *add(FtJournal *j, FtRecKind kind, uint8_t flags,
                     uint64_t epoch, uint64_t offset, uint64_t bytes, int c)
{
    uint8_t *data = NULL;
    FtRecord *r;

    if (kind == FT_REC_WRITE) {
        data = g_malloc(bytes);
        memset(data, c, bytes);
    }
    r = ft_record_new(kind, flags, 0, offset, bytes, data);
    r->epoch = epoch;
    ft_journal_add(j, r);
    return r;
}

static FtRecord *add_write(FtJournal *j, uint64_t offset, uint64_t bytes,
                           int c)
{
    return add(j, FT_REC_WRITE, 0, 0, offset, bytes, c);
}

static void add_flush(FtJournal *j)
{
    add(j, FT_REC_FLUSH, 0, 0, 0, 0, 0);
}

/* Says what is planned: "w100+5:aab f" and so on, WRITE with its bytes. */
static void expect_plan(FtJournal *j, uint64_t max, FtPlan *plan,
                        const char *want)
{
    g_autoptr(GString) s = g_string_new(NULL);

    g_assert_true(ft_journal_plan(j, max, plan));
    for (unsigned i = 0; i < plan->op->len; i++) {
        FtPlanOp *op = &g_array_index(plan->op, FtPlanOp, i);

        g_string_append_printf(s, "%s%c%" PRIu64 "+%" PRIu64, i ? " " : "",
                               "?wzd"[op->kind], op->offset, op->bytes);
        if (op->flags) {
            g_string_append_printf(s, "/%x", op->flags);
        }
        for (int k = 0; k < op->niov; k++) {
            g_string_append_printf(s, "%s%.*s", k ? "," : ":",
                                   (int)op->iov[k].iov_len,
                                   (char *)op->iov[k].iov_base);
        }
    }
    if (plan->flush) {
        g_string_append(s, plan->op->len ? " f" : "f");
    }
    g_assert_cmpstr(s->str, ==, want);
}

static void expect_applied(FtJournal *j, const char *want)
{
    FtPlan plan;

    expect_plan(j, UINT64_MAX, &plan, want);
    ft_journal_applied(j, &plan);
}

static void expect_nothing(FtJournal *j)
{
    FtPlan plan;

    g_assert_false(ft_journal_pending(j));
    g_assert_false(ft_journal_plan(j, UINT64_MAX, &plan));
}

/* What is read: dots are the disk. */
static void expect_read(FtJournal *j, uint64_t offset, const char *want)
{
    size_t n = strlen(want);
    g_autofree char *buf = g_strnfill(n, '.');
    FtPieces p;

    ft_journal_lookup(j, offset, n, &p);
    ft_pieces_copy(&p, offset, n, (uint8_t *)buf);
    for (size_t i = 0; i < n; i++) {
        buf[i] = buf[i] ? buf[i] : '0';
    }
    g_assert_cmpstr(buf, ==, want);
    ft_pieces_clear(&p);
}

static void test_life(void)
{
    FtJournal *j = ft_journal_new(5, 100);
    FtRecord *r;
    FtRecords out;
    FtJournalStats st;

    ft_journal_free(NULL);
    g_assert_true(ft_journal_idle(j));
    expect_nothing(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 0);

    r = add_write(j, 95, 5, 'a');
    g_assert_cmpuint(r->drive, ==, 5);
    g_assert_false(ft_journal_idle(j));
    expect_nothing(j);
    ft_journal_commit(j, 6);
    expect_nothing(j);              /* open */
    ft_records_init(&out);
    ft_journal_seal(j, 7, &out);
    g_assert_cmpuint(out.rec->len, ==, 1);
    g_assert_true(out.rec->pdata[0] == r);
    g_assert_cmpuint(out.bytes, ==, FT_RECORD_COST + 5);
    g_assert_cmpuint(r->epoch, ==, 7);
    expect_nothing(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    add(j, FT_REC_ZERO, 0, 0, 0, 97, 0);
    ft_journal_seal(j, 8, &out);
    g_assert_cmpuint(out.rec->len, ==, 2);
    ft_journal_seal(j, 9, NULL);

    ft_journal_commit(j, 7);
    g_assert_true(ft_journal_pending(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    expect_read(j, 94, "000aaa");
    expect_applied(j, "w95+5:aaaaa");
    expect_nothing(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    g_assert_true(ft_journal_unflushed(j));
    expect_read(j, 94, "000...");
    ft_journal_commit(j, 9);
    expect_applied(j, "z0+97");
    expect_read(j, 94, "......");
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    g_assert_false(ft_journal_idle(j));
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_true(ft_journal_idle(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 9);

    /* the references of the list are its own */
    g_assert_cmpmem(r->data, r->bytes, "aaaaa", 5);
    ft_records_destroy(&out);

    ft_journal_stats(j, &st);
    g_assert_cmpuint(st.records, ==, 0);
    g_assert_cmpuint(st.bytes, ==, 0);
    g_assert_cmpuint(st.writes, ==, 1);
    g_assert_cmpuint(st.zeroes, ==, 1);
    g_assert_cmpuint(st.written_bytes, ==, 5);
    g_assert_cmpuint(st.ops, ==, 2);
    g_assert_cmpuint(st.op_bytes, ==, 5);
    ft_journal_free(j);
}

static void test_barriers(void)
{
    FtJournal *j = ft_journal_new(0, LENGTH);

    add_flush(j);                   /* the first is not dropped */
    add_flush(j);                   /* this one is */
    add_write(j, 0, 2, 'a');
    add_write(j, 4, 2, 'b');
    add_flush(j);
    add_flush(j);
    add_write(j, 0, 1, 'c');
    add(j, FT_REC_DISCARD, 0, 0, 0, 4, 0);
    add(j, FT_REC_DISCARD, 0, 0, 3, 4, 0);
    add(j, FT_REC_DISCARD, 0, 0, 9, 1, 0);
    add(j, FT_REC_ZERO, 0, 0, 5, 1, 0);
    add(j, FT_REC_DISCARD, 0, 0, 0, 1, 0);
    add_flush(j);
    add_write(j, 1, 1, 'd');
    ft_journal_seal(j, 1, NULL);
    add_flush(j);
    ft_journal_seal(j, 2, NULL);
    ft_journal_commit(j, 1);

    expect_read(j, 0, "cd..b0.");   /* no discard yet */
    expect_applied(j, "f");
    expect_applied(j, "w0+2:aa w4+2:bb f");
    g_assert_false(ft_journal_unflushed(j));
    expect_applied(j, "w0+1:c");
    g_assert_true(ft_journal_unflushed(j));
    expect_applied(j, "d0+7 d9+1");
    expect_applied(j, "z5+1");
    expect_applied(j, "d0+1 f");
    expect_applied(j, "w1+1:d");    /* the flush is not committed yet */
    expect_nothing(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 0);
    ft_journal_commit(j, 2);
    expect_applied(j, "f");
    g_assert_cmpuint(ft_journal_settled(j), ==, 2);
    ft_journal_free(j);
}

static void test_merge(void)
{
    FtJournal *j = ft_journal_new(0, LENGTH);
    FtPlan plan;

    ft_journal_commit_all(j);
    add_write(j, 10, 10, 'a');
    add_write(j, 12, 2, 'b');
    add(j, FT_REC_ZERO, 0, 0, 16, 2, 0);
    add_write(j, 20, 2, 'c');
    add(j, FT_REC_ZERO, FT_REC_UNMAP, 0, 22, 3, 0);
    add(j, FT_REC_ZERO, 0, 0, 25, 3, 0);
    add(j, FT_REC_ZERO, 0, 0, 28, 3, 0);
    add_write(j, 0, 1, 'd');
    expect_read(j, 8, "..aabbaa00aacc000000000.");
    expect_applied(j, "w0+1:d w10+6:aa,bb,aa z16+2 w18+4:aa,cc z22+3/1 z25+6");
    expect_nothing(j);

    /* cut by what it may cost: at least one, and no more than that */
    for (int i = 0; i < 5; i++) {
        add_write(j, i, 2, 'a' + i);
    }
    expect_plan(j, 0, &plan, "w0+2:aa");
    ft_journal_abandon(j, &plan);
    expect_plan(j, 2 * FT_RECORD_COST + 4, &plan, "w0+3:a,bb");
    ft_journal_applied(j, &plan);
    expect_plan(j, 2 * FT_RECORD_COST + 3, &plan, "w2+2:cc");
    ft_journal_applied(j, &plan);
    expect_applied(j, "w3+3:d,ee");
    ft_journal_free(j);
}

/* No operation is larger than it may be. */
static void test_limits(void)
{
    FtJournal *j = ft_journal_new(0, LENGTH);
    FtPlan plan;
    FtPlanOp *op;
    uint64_t at = 0;
    unsigned i;

    ft_journal_commit_all(j);
    add_write(j, 0, 1000, 'a');
    add_write(j, 1000, 3 * FT_PLAN_OP_MAX, 'b');
    g_assert_true(ft_journal_plan(j, UINT64_MAX, &plan));
    g_assert_cmpuint(plan.op->len, ==, 4);
    for (i = 0; i < 4; i++) {
        op = &g_array_index(plan.op, FtPlanOp, i);
        g_assert_cmpuint(op->offset, ==, at);
        g_assert_cmpuint(op->bytes, ==, i < 3 ? FT_PLAN_OP_MAX : 1000);
        g_assert_cmpint(op->niov, ==, i ? 1 : 2);
        g_assert_cmpuint(iov_size(op->iov, op->niov), ==, op->bytes);
        at += op->bytes;
    }
    ft_journal_applied(j, &plan);

    add(j, FT_REC_ZERO, 0, 0, 7, 2 * (uint64_t)FT_PLAN_SPACE_MAX + 5, 0);
    g_assert_true(ft_journal_plan(j, UINT64_MAX, &plan));
    g_assert_cmpuint(plan.op->len, ==, 3);
    for (i = 0, at = 7; i < 3; i++) {
        op = &g_array_index(plan.op, FtPlanOp, i);
        g_assert_cmpuint(op->offset, ==, at);
        g_assert_cmpuint(op->bytes, ==, i < 2 ? FT_PLAN_SPACE_MAX : 5);
        g_assert_null(op->iov);
        at += op->bytes;
    }
    ft_journal_applied(j, &plan);

    for (i = 0; i < 2 * FT_PLAN_IOV_MAX + 3; i++) {
        add_write(j, 3 * i, 3, i);
    }
    g_assert_true(ft_journal_plan(j, UINT64_MAX, &plan));
    g_assert_cmpuint(plan.op->len, ==, 3);
    for (i = 0, at = 0; i < 3; i++) {
        op = &g_array_index(plan.op, FtPlanOp, i);
        g_assert_cmpuint(op->offset, ==, at);
        g_assert_cmpint(op->niov, ==, i < 2 ? FT_PLAN_IOV_MAX : 3);
        g_assert_cmpuint(iov_size(op->iov, op->niov), ==, op->bytes);
        for (int k = 0; k < op->niov; k++) {
            g_assert_cmpuint(*(uint8_t *)op->iov[k].iov_base, ==,
                             (at / 3 + k) % 256);
        }
        at += op->bytes;
    }
    ft_journal_applied(j, &plan);

    for (i = 0; i <= FT_PLAN_RECORD_MAX; i++) {
        add_write(j, 8 * i, 3, 'a');
    }
    g_assert_true(ft_journal_plan(j, UINT64_MAX, &plan));
    g_assert_cmpuint(plan.op->len, ==, FT_PLAN_RECORD_MAX);
    g_assert_false(plan.flush);
    ft_journal_applied(j, &plan);
    expect_applied(j, "w16384+3:aaa");

    /* right up to the end of the drive */
    add(j, FT_REC_ZERO, 0, 0, LENGTH - 1, 1, 0);
    expect_read(j, LENGTH - 3, "..0");
    ft_journal_free(j);
}

/* What a plan points at does not go away before it ends. */
static void test_plan_holds(void)
{
    FtJournal *j = ft_journal_new(0, 100);
    FtPlan plan;
    FtPlanOp *op;

    add_write(j, 0, 10, 'a');
    add_write(j, 20, 10, 'b');
    ft_journal_seal(j, 1, NULL);
    ft_journal_commit(j, 1);
    expect_plan(j, UINT64_MAX, &plan, "w0+10:aaaaaaaaaa w20+10:bbbbbbbbbb");
    g_assert_false(ft_journal_pending(j));

    add_write(j, 0, 25, 'c');
    ft_journal_seal(j, 2, NULL);
    ft_journal_commit(j, 2);
    g_assert_true(ft_journal_pending(j));
    expect_read(j, 19, "ccccccbbbbb.");
    op = &g_array_index(plan.op, FtPlanOp, 0);
    g_assert_cmpmem(op->iov[0].iov_base, 10, "aaaaaaaaaa", 10);

    ft_journal_abandon(j, &plan);
    g_assert_null(plan.op);
    expect_read(j, 19, "ccccccbbbbb.");
    expect_plan(j, 2 * FT_RECORD_COST + 20, &plan,
                "w0+10:aaaaaaaaaa w20+10:bbbbbbbbbb");
    ft_journal_applied(j, &plan);
    expect_read(j, 19, "cccccc......");
    expect_applied(j, "w0+25:ccccccccccccccccccccccccc");
    ft_journal_free(j);
}

/* Neither do pieces. */
static void test_pieces_hold(void)
{
    FtJournal *j = ft_journal_new(0, 100);
    uint8_t buf[8];
    FtPieces p, none;

    add_write(j, 10, 4, 'a');
    add(j, FT_REC_ZERO, 0, 0, 14, 2, 0);
    ft_journal_lookup(j, 8, 8, &p);
    g_assert_cmpuint(p.bytes, ==, 6);
    g_assert_cmpuint(p.piece->len, ==, 2);
    ft_journal_lookup(j, 0, 10, &none);
    g_assert_cmpuint(none.bytes, ==, 0);
    g_assert_cmpuint(none.piece->len, ==, 0);
    ft_pieces_clear(&none);
    ft_journal_lookup(j, 10, 0, &none);
    g_assert_cmpuint(none.piece->len, ==, 0);
    ft_pieces_clear(&none);
    ft_pieces_clear(&none);
    ft_journal_lookup(j, 10, 6, &none);
    g_assert_cmpuint(none.bytes, ==, 6);
    ft_pieces_clear(&none);
    ft_journal_free(j);

    memset(buf, '.', 8);
    ft_pieces_copy(&p, 8, 8, buf);
    g_assert_cmpmem(buf, 8, "..aaaa\0\0", 8);
    /* a window that is smaller than what was looked up */
    memset(buf, '.', 8);
    ft_pieces_copy(&p, 12, 3, buf);
    g_assert_cmpmem(buf, 8, "aa\0.....", 8);
    memset(buf, '.', 8);
    ft_pieces_copy(&p, 0, 8, buf);
    g_assert_cmpmem(buf, 8, "........", 8);
    ft_pieces_clear(&p);
}

/* A flush covers what was applied when it began. */
static void test_flush_mark(void)
{
    FtJournal *j = ft_journal_new(0, 100);
    uint64_t mark;
    FtPlan plan;

    for (int e = 1; e <= 3; e++) {
        add_write(j, e, 1, '0' + e);
        add_write(j, 10 * e, 1, '0' + e);
        ft_journal_seal(j, e, NULL);
    }
    ft_journal_commit(j, 1);
    expect_applied(j, "w1+1:1 w10+1:1");
    mark = ft_journal_flush_begin(j);
    ft_journal_commit(j, 2);
    expect_applied(j, "w2+1:2 w20+1:2");
    g_assert_cmpuint(ft_journal_settled(j), ==, 0);
    ft_journal_flush_done(j, mark);
    g_assert_cmpuint(ft_journal_settled(j), ==, 1);
    g_assert_true(ft_journal_unflushed(j));
    ft_journal_commit(j, 3);

    expect_plan(j, 1, &plan, "w3+1:3");
    ft_journal_applied(j, &plan);
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    /* half an epoch does not count */
    g_assert_cmpuint(ft_journal_settled(j), ==, 2);
    g_assert_false(ft_journal_unflushed(j));
    g_assert_false(ft_journal_idle(j));
    expect_applied(j, "w30+1:3");
    g_assert_cmpuint(ft_journal_settled(j), ==, 2);
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 3);

    /* epochs without anything in them */
    ft_journal_seal(j, 10, NULL);
    g_assert_cmpuint(ft_journal_settled(j), ==, 3);
    ft_journal_commit(j, 9);
    g_assert_cmpuint(ft_journal_settled(j), ==, 9);
    ft_journal_commit(j, 10);
    ft_journal_commit(j, 5);
    g_assert_cmpuint(ft_journal_settled(j), ==, 10);
    ft_journal_free(j);
}

/* On a backup, and when it takes over. */
static void test_backup(void)
{
    FtJournal *j = ft_journal_new(0, 100);

    add(j, FT_REC_WRITE, 0, 4, 0, 2, 'a');
    add(j, FT_REC_WRITE, 0, 4, 2, 2, 'b');
    add(j, FT_REC_WRITE, 0, 6, 1, 2, 'c');
    expect_nothing(j);
    ft_journal_commit(j, 5);
    g_assert_cmpuint(ft_journal_settled(j), ==, 3);
    expect_applied(j, "w0+4:aa,bb");
    expect_read(j, 0, ".cc.");
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 5);
    expect_nothing(j);

    ft_journal_commit_all(j);
    g_assert_true(ft_journal_pending(j));
    add_write(j, 2, 2, 'd');        /* by the guest that runs here now */
    expect_applied(j, "w1+3:c,dd");
    g_assert_cmpuint(ft_journal_settled(j), ==, 5);
    add_write(j, 8, 1, 'e');
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    expect_applied(j, "w8+1:e");
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    add_write(j, 9, 1, 'f');

    /* protected again: what is not flushed yet is the new epoch's */
    ft_journal_seal(j, 7, NULL);
    expect_nothing(j);
    ft_journal_commit(j, 7);
    expect_applied(j, "w9+1:f");
    g_assert_cmpuint(ft_journal_settled(j), ==, 6);
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_cmpuint(ft_journal_settled(j), ==, 7);

    /* or from the beginning; a flush counts again though nothing came here */
    add_flush(j);
    add_flush(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 7);
    ft_journal_commit_all(j);
    expect_applied(j, "f");
    ft_journal_set_drive(j, 9);
    ft_journal_start(j);
    g_assert_cmpuint(ft_journal_settled(j), ==, 0);
    add_flush(j);
    g_assert_cmpuint(add_write(j, 0, 1, 'g')->drive, ==, 9);
    expect_nothing(j);
    ft_journal_seal(j, 1, NULL);
    expect_nothing(j);
    ft_journal_commit(j, 1);
    expect_applied(j, "f");
    expect_applied(j, "w0+1:g");
    ft_journal_free(j);
}

static void test_drop(void)
{
    for (int applied = 0; applied < 2; applied++) {
        FtJournal *j = ft_journal_new(0, 100);
        FtJournalStats st;
        FtPlan plan;

        add_write(j, 0, 4, 'a');
        add_flush(j);
        ft_journal_seal(j, 3, NULL);
        add_write(j, 2, 4, 'b');
        ft_journal_seal(j, 4, NULL);
        add_write(j, 7, 1, 'c');
        ft_journal_commit(j, 4);
        expect_plan(j, UINT64_MAX, &plan, "w0+4:aaaa f");
        ft_journal_drop(j);
        expect_read(j, 0, "aa......");
        g_assert_false(ft_journal_pending(j));
        g_assert_false(ft_journal_idle(j));
        g_assert_cmpmem(g_array_index(plan.op, FtPlanOp, 0).iov->iov_base, 4,
                        "aaaa", 4);
        if (applied) {
            ft_journal_applied(j, &plan);
        } else {
            ft_journal_abandon(j, &plan);
        }
        /* what has been thrown away is not settled */
        g_assert_cmpuint(ft_journal_settled(j), ==, 2);
        g_assert_true(ft_journal_idle(j));
        add_write(j, 0, 4, 'd');
        expect_read(j, 0, "........");
        ft_journal_seal(j, 5, NULL);
        ft_journal_commit_all(j);
        expect_nothing(j);
        ft_journal_drop(j);
        g_assert_cmpuint(ft_journal_settled(j), ==, 2);
        ft_journal_stats(j, &st);
        g_assert_cmpuint(st.records, ==, 0);
        g_assert_cmpuint(st.bytes, ==, 0);
        g_assert_cmpuint(st.writes, ==, 3);
        ft_journal_free(j);
    }
}

static void drain(FtJournal *j)
{
    FtPlan plan;

    while (ft_journal_plan(j, 4 * MiB, &plan)) {
        ft_journal_applied(j, &plan);
    }
}

/*
 * Many records, laid out as badly as can be: what is not about n log n takes
 * minutes.
 */
static void test_many(void)
{
    const unsigned n = 100000;
    FtJournal *j = ft_journal_new(0, LENGTH);
    GTimer *timer = g_timer_new();
    FtPieces p;
    FtRecords out;
    unsigned i;

    ft_records_init(&out);
    /* one over the other */
    for (i = 0; i < n; i++) {
        add(j, FT_REC_ZERO, 0, 0, 0, 16 * (uint64_t)n, 0);
    }
    /* and small ones in the last, which all those below must not look at */
    for (i = 0; i < n; i++) {
        add_write(j, 16 * (uint64_t)((i * 7919ull) % n), 8, i);
        if (i % 100 == 0) {
            ft_journal_seal(j, i + 1, &out);
        }
    }
    ft_journal_lookup(j, 0, 16 * n, &p);
    g_assert_cmpuint(p.piece->len, ==, 2 * n);
    g_assert_cmpuint(p.bytes, ==, 16 * n);
    ft_pieces_clear(&p);
    for (i = 0; i < n; i++) {
        ft_journal_lookup(j, 16 * i + 4, 8, &p);
        g_assert_cmpuint(p.piece->len, ==, 2);
        ft_pieces_clear(&p);
    }
    ft_journal_seal(j, n + 1, &out);
    g_assert_cmpuint(out.rec->len, ==, 2 * n);
    ft_journal_commit(j, n + 1);
    drain(j);
    ft_records_destroy(&out);

    /* each epoch has its own, and no flush comes for a long time */
    for (i = 0; i < n; i++) {
        add_write(j, 8 * i, 8, i);
        ft_journal_seal(j, n + 2 + i, NULL);
        ft_journal_commit(j, n + 2 + i);
        if (i % 64 == 0) {
            drain(j);
        }
        g_assert_cmpuint(ft_journal_settled(j), ==, 0);
    }
    drain(j);
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_true(ft_journal_idle(j));

    /* each between two that are there, and all dropped at once */
    for (i = 0; i < n; i++) {
        add_write(j, 1000 - i % 1000, 1 + i % 50, i);
        add(j, FT_REC_ZERO, 0, 0, 500, LENGTH - 1000 - i, 0);
    }
    ft_journal_drop(j);
    ft_journal_free(j);
    g_test_message("%.2f s", g_timer_elapsed(timer, NULL));
    g_assert_cmpfloat(g_timer_elapsed(timer, NULL), <, 20);
    g_timer_destroy(timer);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/journal/life", test_life);
    g_test_add_func("/ft/journal/barriers", test_barriers);
    g_test_add_func("/ft/journal/merge", test_merge);
    g_test_add_func("/ft/journal/limits", test_limits);
    g_test_add_func("/ft/journal/plan-holds", test_plan_holds);
    g_test_add_func("/ft/journal/pieces-hold", test_pieces_hold);
    g_test_add_func("/ft/journal/flush-mark", test_flush_mark);
    g_test_add_func("/ft/journal/backup", test_backup);
    g_test_add_func("/ft/journal/drop", test_drop);
    g_test_add_func("/ft/journal/many", test_many);

    return g_test_run();
}
