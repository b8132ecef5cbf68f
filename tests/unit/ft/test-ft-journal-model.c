/*
 * Random test of migration/ft/journal.c against a model
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The model is a log of all records that ever were, and arrays with a byte for
 * each byte of a small drive: what the guest wrote, what the drive has, what
 * of it would be left after its power is cut ("platter"). It knows nothing of
 * trees, and computes what it can from the whole log at each step.
 *
 * Each round has a seed of its own; FT_SEED=n repeats round n as the first,
 * FT_ROUNDS=n runs so many.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/iov.h"
#include "migration/ft/journal.h"

#define SIZE    1500
#define QUEUE   50

typedef enum { QUEUED, APPLIED, FLUSHED, DROPPED } State;

typedef struct Entry {
    FtRecord *r;                    /* a reference */
    FtRecKind kind;
    uint8_t flags;
    unsigned offset, bytes;
    uint64_t epoch;
    State state;
    bool forced;                    /* planned by commit_all */
} Entry;

typedef struct World {
    FtJournal *j;
    bool backup;                    /* records come with their epochs */
    GArray *log;                    /* of Entry */
    unsigned session;               /* where this session begins in it */
    unsigned head;                  /* the first one that is QUEUED */

    uint64_t epoch, committed, settled;
    uint64_t known;                 /* the last epoch the journal heard of */
    bool commit_all, dropped, dirty;

    uint8_t view[SIZE];             /* the guest's */
    bool maybe[SIZE];               /* or zero: discarded since */
    uint8_t base[SIZE];             /* after log[0..based) */
    unsigned based;

    uint8_t disk[SIZE], plat[SIZE], snap[SIZE];
    unsigned disk_ver[SIZE], plat_ver[SIZE], snap_ver[SIZE];
    unsigned clock;
    bool flushing;                  /* the applier's own flush */
    uint64_t mark;
    unsigned snap_end;              /* log entries applied at its beginning */

    bool busy;
    FtPlan plan;
    unsigned batch;                 /* entries in it, from head on */
    int owner[SIZE];                /* entry that the batch writes, or -1 */
    GArray *todo;                   /* unsigned: operations not done yet */
    FtJournalStats stats;
} World;

static GRand *rng;
static uint32_t seed;
static unsigned seen[8];            /* how often things happened */

enum { S_CRASH, S_CRASH_ALL, S_TAKEOVER, S_TORN, S_ABANDON, S_MERGED, S_START,
       S_DROP };

static int rnd(int n)
{
    return g_rand_int_range(rng, 0, n);
}

static void say_seed(int sig)
{
    dprintf(STDERR_FILENO, "# failed: FT_SEED=%u\n", seed);
    raise(sig);             /* the handler is gone by now */
}

static Entry *entry(World *w, unsigned i)
{
    return &g_array_index(w->log, Entry, i);
}

static bool is_data(const Entry *e)
{
    return e->kind == FT_REC_WRITE || e->kind == FT_REC_ZERO;
}

static uint8_t entry_byte(const Entry *e, unsigned at)
{
    return e->kind == FT_REC_WRITE ? e->r->data[at - e->offset] : 0;
}

/* A discard is a zeroing, on this drive. */
static void entry_apply(const Entry *e, uint8_t *image)
{
    for (unsigned b = e->offset; b < e->offset + e->bytes; b++) {
        image[b] = entry_byte(e, b);
    }
}

static bool is_committed(World *w, const Entry *e)
{
    return w->commit_all || (e->epoch && e->epoch <= w->committed);
}

static void update_base(World *w)
{
    while (w->based < w->log->len && !w->commit_all &&
           is_committed(w, entry(w, w->based))) {
        entry_apply(entry(w, w->based++), w->base);
    }
}

/* ----------------------------------------------------------------- steps */

static void do_add(World *w)
{
    Entry e = { .kind = FT_REC_FLUSH };
    uint8_t *data = NULL;
    int k = rnd(100);

    if (k < 85) {
        e.kind = k < 55 ? FT_REC_WRITE : k < 72 ? FT_REC_ZERO : FT_REC_DISCARD;
        e.bytes = rnd(3) ? 1 + rnd(120) : 1 + rnd(rnd(10) ? 600 : SIZE);
        e.offset = rnd(SIZE - e.bytes + 1);
        if (rnd(2)) {
            /* meet the ends of others */
            e.offset = e.offset / 64 * 64;
            e.bytes = MIN(SIZE - e.offset, (e.bytes + 63) / 64 * 64);
        }
        if (e.kind == FT_REC_ZERO && rnd(2)) {
            e.flags = FT_REC_UNMAP;
        }
    }
    if (e.kind == FT_REC_WRITE) {
        data = g_malloc(e.bytes);
        for (unsigned i = 0; i < e.bytes; i++) {
            data[i] = 1 + rnd(255);
        }
    }
    e.r = ft_record_new(e.kind, e.flags, 99, e.offset, e.bytes, data);
    if (w->backup && !w->commit_all) {
        if (w->epoch <= w->committed || !rnd(6)) {
            w->epoch += 1 + rnd(2);
        }
        e.epoch = e.r->epoch = w->known = w->epoch;
    }
    ft_journal_add(w->j, ft_record_ref(e.r));

    if (w->dropped || (e.kind == FT_REC_FLUSH && !w->dirty)) {
        g_assert_cmpint(e.r->refs, ==, 1);
        ft_record_unref(e.r);
        return;
    }
    g_assert_cmpint(e.r->refs, ==, 2);
    g_assert_cmpuint(e.r->drive, ==, 7);
    w->dirty = e.kind != FT_REC_FLUSH;
    for (unsigned b = e.offset; b < e.offset + e.bytes; b++) {
        if (is_data(&e)) {
            w->view[b] = entry_byte(&e, b);
        }
        w->maybe[b] = !is_data(&e);
    }
    w->stats.writes += e.kind == FT_REC_WRITE;
    w->stats.zeroes += e.kind == FT_REC_ZERO;
    w->stats.discards += e.kind == FT_REC_DISCARD;
    w->stats.flushes += e.kind == FT_REC_FLUSH;
    w->stats.written_bytes += e.kind == FT_REC_WRITE ? e.bytes : 0;
    g_array_append_val(w->log, e);
}

static void do_seal(World *w)
{
    bool want_list = rnd(10);
    FtRecords out;
    unsigned n = 0;

    if (w->backup) {
        w->epoch += !w->commit_all;     /* an epoch without records */
        return;
    }
    if (w->commit_all) {
        w->committed = w->known;
        w->commit_all = false;
        update_base(w);
    }
    w->known = w->epoch += rnd(4) ? 1 : 2;
    ft_records_init(&out);
    ft_journal_seal(w->j, w->epoch, want_list ? &out : NULL);
    for (unsigned i = w->session; i < w->log->len; i++) {
        Entry *e = entry(w, i);

        if (!e->epoch && e->state == QUEUED) {
            g_assert_cmpuint(e->r->epoch, ==, w->epoch);
            if (want_list) {
                g_assert_cmpuint(n, <, out.rec->len);
                g_assert_true(out.rec->pdata[n++] == e->r);
            }
        }
        if (!e->epoch && e->state != FLUSHED) {
            e->epoch = w->epoch;
        }
    }
    g_assert_cmpuint(out.rec->len, ==, n);
    ft_records_destroy(&out);
}

static void do_commit(World *w)
{
    uint64_t epoch = w->committed + rnd(w->epoch - w->committed + 1);

    if (w->commit_all) {
        return;
    } else if (!rnd(10)) {
        epoch -= MIN(epoch, rnd(3));        /* an old one changes nothing */
    }
    ft_journal_commit(w->j, epoch);
    w->committed = MAX(w->committed, epoch);
    w->known = MAX(w->known, epoch);
    update_base(w);
}

/* Which entries will be in the batch? */
static void expect_batch(World *w, uint64_t max, bool *flush)
{
    uint64_t sum = 0;

    *flush = false;
    w->batch = 0;
    memset(w->owner, -1, sizeof(w->owner));
    for (unsigned i = w->head; i < w->log->len; i++) {
        Entry *e = entry(w, i);

        if (!is_committed(w, e)) {
            break;
        }
        if (e->kind == FT_REC_FLUSH) {
            *flush = true;
            w->batch++;
            break;
        }
        sum += FT_RECORD_COST + (e->kind == FT_REC_WRITE ? e->bytes : 0);
        if (w->batch && (is_data(e) != is_data(entry(w, w->head)) ||
                         sum > max)) {
            break;
        }
        for (unsigned b = e->offset; b < e->offset + e->bytes; b++) {
            w->owner[b] = i;
        }
        w->batch++;
    }
    for (unsigned i = w->head; i < w->head + w->batch; i++) {
        entry(w, i)->forced |= w->commit_all;
    }
}

/* Each byte that the batch owns is in just one operation, and rightly. */
static void check_ops(World *w)
{
    uint64_t end = 0;

    for (unsigned i = 0; i < w->plan.op->len; i++) {
        FtPlanOp *op = &g_array_index(w->plan.op, FtPlanOp, i);
        bool data = op->kind == FT_REC_WRITE;

        g_assert_cmpuint(op->bytes, >, 0);
        g_assert_cmpuint(op->offset, >=, end);
        for (; end < op->offset; end++) {
            g_assert_cmpint(w->owner[end], ==, -1);
        }
        g_assert_cmpuint(op->offset + op->bytes, <=, SIZE);
        g_assert_cmpint(op->niov > 0, ==, data);
        g_assert_cmpint(op->niov, <=, FT_PLAN_IOV_MAX);
        if (data) {
            g_assert_cmpuint(iov_size(op->iov, op->niov), ==, op->bytes);
        }
        for (; end < op->offset + op->bytes; end++) {
            Entry *e;

            g_assert_cmpint(w->owner[end], >=, 0);
            e = entry(w, w->owner[end]);
            g_assert_cmpint(e->kind, ==, op->kind);
            g_assert_cmpint(e->flags, ==, op->flags);
            if (e->r != entry(w, w->owner[op->offset])->r) {
                seen[S_MERGED]++;
            }
        }
        w->stats.op_bytes += data ? op->bytes : 0;
        g_array_append_val(w->todo, i);
    }
    for (; end < SIZE; end++) {
        g_assert_cmpint(w->owner[end], ==, -1);
    }
    w->stats.ops += w->plan.op->len;
}

static void do_plan(World *w)
{
    uint64_t max = rnd(3) ? UINT64_MAX : rnd(2000);
    bool flush, got;

    if (w->busy) {
        return;
    }
    got = ft_journal_plan(w->j, max, &w->plan);
    if (w->dropped) {
        g_assert_false(got);
        return;
    }
    expect_batch(w, max, &flush);
    g_assert_cmpint(got, ==, w->batch > 0);
    if (got) {
        w->busy = true;
        g_assert_cmpint(w->plan.flush, ==, flush);
        check_ops(w);
    }
}

/* Is all that is before the last FLUSH before entry @i safe? */
static void check_barrier(World *w, unsigned i)
{
    while (i > 0 && entry(w, i)->kind != FT_REC_FLUSH) {
        i--;
    }
    while (i-- > 0) {
        State s = entry(w, i)->state;

        g_assert_true(s == FLUSHED || s == DROPPED);
    }
}

/* One operation reaches the disk, or some bytes of it do. */
static void do_op(World *w, bool torn)
{
    unsigned k = rnd(w->todo->len);
    FtPlanOp *op = &g_array_index(w->plan.op, FtPlanOp,
                                  g_array_index(w->todo, unsigned, k));
    unsigned from = 0, to = op->bytes;

    if (torn) {
        from = rnd(op->bytes);
        to = from + rnd(op->bytes - from + 1);
        seen[S_TORN]++;
    } else {
        g_array_remove_index_fast(w->todo, k);
    }
    check_barrier(w, w->owner[op->offset]);
    w->clock++;
    for (unsigned i = from; i < to; i++) {
        unsigned b = op->offset + i;
        uint8_t value = 0;

        if (op->kind == FT_REC_WRITE) {
            iov_to_buf(op->iov, op->niov, i, &value, 1);
        }
        g_assert_cmpuint(value, ==, entry_byte(entry(w, w->owner[b]), b));
        w->disk[b] = value;
        w->disk_ver[b] = w->clock;
    }
}

/* What is newer in @from goes to the platter. */
static void write_back(World *w, unsigned b, unsigned end,
                       const uint8_t *from, const unsigned *ver)
{
    for (; b < end; b++) {
        if (ver[b] > w->plat_ver[b]) {
            w->plat[b] = from[b];
            w->plat_ver[b] = ver[b];
        }
    }
}

static void do_writeback(World *w)
{
    unsigned from = rnd(4) ? rnd(SIZE) : 0;
    unsigned to = from + (rnd(4) ? rnd(SIZE - from) : SIZE - from);

    write_back(w, from, to, w->disk, w->disk_ver);
}

/* The first @n entries are on the platter. */
static void set_flushed(World *w, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (entry(w, i)->state == APPLIED) {
            entry(w, i)->state = FLUSHED;
        }
    }
}

static void do_finish(World *w, bool abandon)
{
    bool flush = w->plan.flush;
    unsigned i;

    if (abandon) {
        seen[S_ABANDON]++;
        ft_journal_abandon(w->j, &w->plan);
        for (i = w->batch; w->dropped && i; i--) {
            entry(w, w->head++)->state = DROPPED;
        }
    } else {
        while (w->todo->len) {
            do_op(w, false);
        }
        ft_journal_applied(w->j, &w->plan);
        for (i = w->head; i < w->head + w->batch; i++) {
            entry(w, i)->state = APPLIED;
            g_assert_cmpint(entry(w, i)->r->refs, ==, 1);
        }
        w->head += w->batch;
        if (flush) {
            write_back(w, 0, SIZE, w->disk, w->disk_ver);
            set_flushed(w, w->head);
        }
    }
    g_array_set_size(w->todo, 0);
    w->busy = false;
}

/* The applier's own flush: what comes while it runs, it need not cover. */
static void do_flush(World *w)
{
    if (!w->flushing) {
        w->mark = ft_journal_flush_begin(w->j);
        memcpy(w->snap, w->disk, SIZE);
        memcpy(w->snap_ver, w->disk_ver, sizeof(w->snap_ver));
        w->snap_end = w->head;
    } else {
        write_back(w, 0, SIZE, w->snap, w->snap_ver);
        ft_journal_flush_done(w->j, w->mark);
        set_flushed(w, w->snap_end);
    }
    w->flushing = !w->flushing;
}

/* ---------------------------------------------------------------- checks */

static void check_status(World *w)
{
    uint64_t settled = w->commit_all ? w->known : w->committed;
    bool unflushed = false;
    uint64_t records = 0, bytes = 0;
    unsigned waiting = w->head + (w->busy ? w->batch : 0);
    FtJournalStats st;

    for (unsigned i = 0; i < w->log->len; i++) {
        Entry *e = entry(w, i);

        if (e->epoch && (e->state == QUEUED || e->state == APPLIED)) {
            settled = MIN(settled, e->epoch - 1);
        }
        unflushed |= e->state == APPLIED;
        if (e->state == QUEUED) {
            records++;
            bytes += ft_record_cost(e->r);
        }
    }
    if (w->dropped) {
        settled = w->settled;
    }
    g_assert_cmpuint(ft_journal_settled(w->j), ==, settled);
    g_assert_cmpuint(settled, >=, w->settled);
    w->settled = settled;
    g_assert_cmpint(ft_journal_unflushed(w->j), ==, unflushed);
    g_assert_cmpint(ft_journal_idle(w->j), ==, !unflushed && !records);
    g_assert_cmpint(ft_journal_pending(w->j), ==, !w->dropped &&
                    waiting < w->log->len &&
                    is_committed(w, entry(w, waiting)));

    w->stats.records = records;
    w->stats.bytes = bytes;
    ft_journal_stats(w->j, &st);
    g_assert_cmpmem(&st, sizeof(st), &w->stats, sizeof(st));
}

/* Does the journal find the newest record of each byte of the range? */
static void check_lookup(World *w, unsigned offset, unsigned bytes)
{
    int owner[SIZE];
    g_autofree uint8_t *buf = g_memdup2(w->disk + offset, bytes);
    FtPieces p;
    unsigned at = offset;
    uint64_t sum = 0;

    memset(owner, -1, sizeof(owner));
    for (unsigned i = w->head; i < w->log->len; i++) {
        Entry *e = entry(w, i);

        /* What was dropped does not uncover what was below it. */
        for (unsigned b = e->offset; is_data(e) && b < e->offset + e->bytes;
             b++) {
            owner[b] = e->state == QUEUED ? i : -1;
        }
    }

    ft_journal_lookup(w->j, offset, bytes, &p);
    for (unsigned i = 0; i < p.piece->len; i++) {
        FtPiece *piece = &g_array_index(p.piece, FtPiece, i);

        g_assert_cmpuint(piece->bytes, >, 0);
        g_assert_cmpuint(piece->offset, >=, at);
        g_assert_cmpuint(piece->offset + piece->bytes, <=, offset + bytes);
        for (; at < piece->offset; at++) {
            g_assert_cmpint(owner[at], ==, -1);
        }
        for (; at < piece->offset + piece->bytes; at++) {
            g_assert_cmpint(owner[at], >=, 0);
            g_assert_true(entry(w, owner[at])->r == piece->rec);
        }
        g_assert_cmpint(piece->rec->refs, >=, 3);
        sum += piece->bytes;
    }
    for (; at < offset + bytes; at++) {
        g_assert_cmpint(owner[at], ==, -1);
    }
    g_assert_cmpuint(p.bytes, ==, sum);

    ft_pieces_copy(&p, offset, bytes, buf);
    ft_pieces_clear(&p);
    for (unsigned b = offset; !w->dropped && b < offset + bytes; b++) {
        if (!w->maybe[b] || buf[b - offset]) {
            g_assert_cmpuint(buf[b - offset], ==, w->view[b]);
        }
    }
}

/* The records go to a journal of their own, which is worked off. */
static void replay_by_journal(World *w, GArray *replay, uint8_t *image)
{
    FtJournal *j = ft_journal_new(7, SIZE);
    FtPlan plan;
    unsigned i;

    for (i = 0; i < replay->len; i++) {
        Entry *e = entry(w, g_array_index(replay, unsigned, i));
        FtRecord *r = ft_record_new(e->kind, e->flags, 0, e->offset, e->bytes,
                                    g_memdup2(e->r->data, e->r->data ?
                                              e->bytes : 0));

        r->epoch = w->commit_all ? 0 : e->epoch;
        ft_journal_add(j, r);
    }
    ft_journal_commit_all(j);
    while (ft_journal_plan(j, rnd(3000), &plan)) {
        for (i = 0; i < plan.op->len; i++) {
            FtPlanOp *op = &g_array_index(plan.op, FtPlanOp, i);

            memset(image + op->offset, 0, op->bytes);
            iov_to_buf(op->iov, op->niov, 0, image + op->offset, op->bytes);
        }
        ft_journal_applied(j, &plan);
    }
    ft_journal_flush_done(j, ft_journal_flush_begin(j));
    g_assert_true(ft_journal_idle(j));
    ft_journal_free(j);
    seen[S_TAKEOVER]++;
}

/*
 * The host is lost now, with what its disk had not written back. The other
 * side has the records of the epochs that are committed and not settled.
 */
static void check_crash(World *w)
{
    uint64_t settled = ft_journal_settled(w->j);
    g_autoptr(GArray) replay = g_array_new(false, false, sizeof(unsigned));
    uint8_t want[SIZE], image[SIZE];
    unsigned i;

    /* What was forced out is not, or was not, of an epoch to be replayed. */
    for (i = MIN(w->session, w->based); !w->commit_all && i < w->log->len;
         i++) {
        if (entry(w, i)->forced &&
            (i >= w->based || entry(w, i)->state != FLUSHED)) {
            return;
        }
    }
    memcpy(want, w->base, SIZE);
    for (i = w->based; w->commit_all && i < w->log->len; i++) {
        entry_apply(entry(w, i), want);
    }
    for (i = w->log->len; i > w->session && !entry(w, i - 1)->epoch; i--) {
        /* only these are open: others went to the disk before a seal */
    }
    for (unsigned open = i, k = w->session; k < w->log->len; k++) {
        Entry *e = entry(w, k);

        if (w->commit_all ? k >= open || e->epoch > settled :
            e->epoch > settled && e->epoch <= w->committed) {
            g_array_append_val(replay, k);
        }
    }
    memcpy(image, rnd(2) ? w->plat : w->disk, SIZE);
    if (rnd(4)) {
        for (i = 0; i < replay->len; i++) {
            entry_apply(entry(w, g_array_index(replay, unsigned, i)), image);
        }
    } else {
        replay_by_journal(w, replay, image);
    }
    g_assert_cmpmem(image, SIZE, want, SIZE);
    seen[w->commit_all ? S_CRASH_ALL : S_CRASH]++;
}

/* ---------------------------------------------------------------- rounds */

static void do_drop(World *w)
{
    ft_journal_drop(w->j);
    w->dropped = true;
    for (unsigned i = w->head + (w->busy ? w->batch : 0); i < w->log->len;
         i++) {
        entry(w, i)->state = DROPPED;
        g_assert_cmpint(entry(w, i)->r->refs, ==, 1);
    }
    seen[S_DROP]++;
}

/* A new session, with numbers of its own. */
static void do_start(World *w)
{
    w->known = rnd(2) ? 0 : w->epoch;
    w->epoch = w->committed = w->settled = w->known;
    ft_journal_start(w->j);
    ft_journal_commit(w->j, w->committed);
    for (; w->based < w->log->len; w->based++) {
        entry_apply(entry(w, w->based), w->base);
    }
    w->session = w->log->len;
    w->commit_all = false;
    w->backup = rnd(2);
    w->dirty = true;
    seen[S_START]++;
}

static void do_step(World *w)
{
    int r = rnd(1000);

    if (r < 430) {
        if (w->log->len - w->head < QUEUE) {
            do_add(w);
        }
    } else if (r < 500) {
        do_seal(w);
    } else if (r < 570) {
        do_commit(w);
    } else if (r < 650) {
        do_plan(w);
    } else if (r < 800) {
        if (w->busy && w->todo->len) {
            do_op(w, !rnd(4));
        }
    } else if (r < 850) {
        if (w->busy && (!w->todo->len || rnd(2))) {
            do_finish(w, false);
        }
    } else if (r < 860) {
        if (w->busy) {
            do_finish(w, true);
        }
    } else if (r < 900) {
        do_flush(w);
    } else if (r < 920) {
        do_writeback(w);
    } else if (r < 990) {
        if (!w->dropped) {
            check_crash(w);
        }
    } else if (r < 994) {
        ft_journal_commit_all(w->j);
        w->commit_all = true;
    } else if (ft_journal_idle(w->j) && !w->flushing && !w->dropped) {
        do_start(w);
    }
    check_status(w);
    check_lookup(w, 0, SIZE);
    r = rnd(SIZE);
    check_lookup(w, r, rnd(SIZE - r + 1));
}

/* To the end: the drive has what the guest wrote. */
static void do_drain(World *w)
{
    ft_journal_commit_all(w->j);
    w->commit_all = true;
    for (;;) {
        if (w->busy) {
            do_finish(w, false);
        }
        do_plan(w);
        if (!w->busy) {
            break;
        }
    }
    for (int i = w->flushing ? 3 : 2; i; i--) {
        do_flush(w);
    }
    check_status(w);
    check_lookup(w, 0, SIZE);
    g_assert_true(ft_journal_idle(w->j));
    for (unsigned i = 0; i < SIZE && !w->dropped; i++) {
        g_assert_cmpuint(w->plat[i], ==, w->maybe[i] ? 0 : w->view[i]);
        w->view[i] = w->plat[i];
        w->maybe[i] = false;
    }
}

static void run_round(void)
{
    g_autofree World *w = g_new0(World, 1);
    unsigned i;

    w->j = ft_journal_new(7, SIZE);
    w->log = g_array_new(false, false, sizeof(Entry));
    w->todo = g_array_new(false, false, sizeof(unsigned));
    w->backup = rnd(2);
    w->dirty = true;
    for (i = 0; i < SIZE; i++) {
        w->disk[i] = w->plat[i] = w->view[i] = w->base[i] = 1 + rnd(255);
    }

    for (int sessions = rnd(3); sessions; sessions--) {
        for (i = rnd(300); i; i--) {
            do_step(w);
        }
        do_drain(w);
        do_start(w);
    }
    for (i = rnd(600); i; i--) {
        do_step(w);
    }
    if (rnd(2)) {
        do_drop(w);
        for (i = rnd(40); i; i--) {
            do_step(w);
        }
    }
    do_drain(w);

    /* Half of the rounds leave something in it. */
    for (i = rnd(2) ? rnd(20) : 0; i; i--) {
        w->commit_all = true;
        do_add(w);
    }
    ft_journal_free(w->j);
    for (i = 0; i < w->log->len; i++) {
        g_assert_cmpint(entry(w, i)->r->refs, ==, 1);
        ft_record_unref(entry(w, i)->r);
    }
    g_array_free(w->log, true);
    g_array_free(w->todo, true);
}

static void test_model(void)
{
    const char *env_seed = getenv("FT_SEED");
    const char *env_rounds = getenv("FT_ROUNDS");
    unsigned rounds = env_rounds ? g_ascii_strtoull(env_rounds, NULL, 0) :
                      300;
    uint32_t first = env_seed ? g_ascii_strtoull(env_seed, NULL, 0) :
                     g_test_rand_int();

    struct sigaction on_failure = {
        .sa_handler = say_seed, .sa_flags = SA_RESETHAND,
    };

    g_test_message("FT_SEED=%u", first);
    sigaction(SIGABRT, &on_failure, NULL);
    sigaction(SIGSEGV, &on_failure, NULL);
    for (unsigned i = 0; i < rounds; i++) {
        seed = first + i;
        rng = g_rand_new_with_seed(seed);
        run_round();
        g_rand_free(rng);
    }
    g_test_message("%u crashes, %u with all committed, %u replays by journal, "
                   "%u torn writes, %u abandoned, %u bytes merged, %u starts, "
                   "%u drops", seen[S_CRASH], seen[S_CRASH_ALL],
                   seen[S_TAKEOVER], seen[S_TORN], seen[S_ABANDON],
                   seen[S_MERGED], seen[S_START], seen[S_DROP]);
    for (unsigned i = 0; i < G_N_ELEMENTS(seen) && rounds >= 300; i++) {
        g_assert_cmpuint(seen[i], >, 20);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ft/journal/model", test_model);
    return g_test_run();
}
