/*
 * Fault tolerance: the journal of a drive (no socket, no VM, no block layer)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the guest writes is a record in its drive's journal before it is
 * anything else:
 *
 *           add      seal(N)     commit(N)       plan    applied   flushed
 *   guest -----> open -----> sealed -----> committed -> busy --> done --> gone
 *                    \           \_ also sent to the backup
 *                     \____ reads see all of it until "applied"
 *
 *  - Records are applied in the order they were made, batch by batch. A batch
 *    is as many committed records as there are up to the next barrier:
 *       WRITE and ZERO records, merged so that each byte is written once;
 *       or DISCARD records alone (merging one with a write before it would
 *       let the result depend on where batches are cut);
 *    and ends with a flush of the drive if a FLUSH record comes next.
 *  - A byte that was overwritten by a record that is not committed yet is
 *    written all the same: the disk only ever moves from one committed state
 *    to the next, as far as barriers tell states apart.
 *  - "Settled" is the last epoch all of whose records have been applied and
 *    flushed; nothing before it needs to be replayed.
 *
 * The same journal is used by the primary, by a backup that applies epochs to
 * an image of its own, and by the side that has taken over and works off what
 * the other one left.
 *
 * Memory: the budget bounds the bytes of all records of all drives that the
 * *backup* might still have to keep, that is, of epochs later than the last
 * one that ft_budget_credit() was told of. What a record costs:
 * FT_RECORD_COST + the bytes of data in it.
 *
 * Locking: one lock of the caller's per journal around every call; the budget
 * has a lock of its own. Records have atomic reference counts and do not
 * change once they are sealed, so that other threads may read their content.
 */

#ifndef MIGRATION_FT_JOURNAL_H
#define MIGRATION_FT_JOURNAL_H

#include "qapi/error.h"
#include "qemu/queue.h"

/* ---------------------------------------------------------------- budget */

typedef struct FtBudget FtBudget;

typedef struct FtBudgetStats {
    uint64_t limit;             /* bytes */
    uint64_t used;              /* bytes, now */
    uint64_t peak;
    uint64_t slowed;            /* requests put off since it is half full */
    uint64_t stalled;           /* requests put off since it is full */
} FtBudgetStats;

/* @limit in bytes, 0: no limit. The reference count starts at 1. */
FtBudget *ft_budget_new(uint64_t limit);
FtBudget *ft_budget_ref(FtBudget *b);
void ft_budget_unref(FtBudget *b);

/*
 * ft_budget_admit: may a record of @cost bytes be made now?
 *
 * Below half the limit: yes. From there on each epoch is given a quarter of
 * what is left at its beginning (at least FT_BUDGET_MIN): the guest is
 * slowed. At the limit: no. A record that is larger than that is let in
 * when nothing else is there, so that it cannot wait for ever. When it says
 * yes, @cost is counted as used; in the open epoch.
 * With @force it always says yes (for those who cannot wait).
 */
bool ft_budget_admit(FtBudget *b, uint64_t cost, bool force);
#define FT_BUDGET_MIN 65536

/* The open epoch has been sealed as @epoch; a new one begins. */
void ft_budget_seal(FtBudget *b, uint64_t epoch);
/* Nobody has to keep the records of epochs up to @epoch any more. */
void ft_budget_credit(FtBudget *b, uint64_t epoch);
void ft_budget_stats(FtBudget *b, FtBudgetStats *st);

/* --------------------------------------------------------------- records */

typedef enum FtRecKind {
    FT_REC_WRITE = 1,
    FT_REC_ZERO = 2,
    FT_REC_DISCARD = 3,
    FT_REC_FLUSH = 4,
} FtRecKind;

/* flags */
#define FT_REC_UNMAP 0x01       /* of ZERO: the space may be given back */

#define FT_RECORD_COST 128

typedef struct FtRecord {
    uint64_t epoch;             /* 0 until sealed */
    uint16_t drive;             /* index in the session */
    uint8_t kind;               /* FtRecKind */
    uint8_t flags;
    uint64_t offset;            /* bytes; 0 for FLUSH */
    uint64_t bytes;             /* 0 for FLUSH, > 0 for the others */
    uint8_t *data;              /* WRITE */
    /* private */
    int refs;
    QTAILQ_ENTRY(FtRecord) next;
    QLIST_HEAD(, FtExtent) extents;     /* what reads see of it */
} FtRecord;

/* Takes @data (g_malloc, may be NULL) over. */
FtRecord *ft_record_new(FtRecKind kind, uint8_t flags, uint16_t drive,
                        uint64_t offset, uint64_t bytes, uint8_t *data);
FtRecord *ft_record_ref(FtRecord *r);
void ft_record_unref(FtRecord *r);
uint64_t ft_record_cost(const FtRecord *r);

/*
 * On the wire: what a record is, then its data.
 *
 *   0        2     3      4         8          16         24
 *   +--------+-----+------+---------+----------+----------+------ - -
 *   | drive  |kind |flags | zero    | offset   | bytes    | data
 *   +--------+-----+------+---------+----------+----------+------ - -
 *
 * Network byte order. A WRITE has bytes of data, the others have none. A
 * record never spans two frames: ft_record_put() splits a long WRITE.
 */
#define FT_REC_HEADER       24

/*
 * ft_record_put: encode @r from byte *@done of it on into @buf, as much as
 * fits into @size bytes (at least FT_REC_HEADER + 512 of them, or nothing
 * is done). *@done must be 0 at first; it is advanced by the bytes of @r that
 * were put (for records without data: to r->bytes at once, and *@last is
 * set). Returns the bytes written to @buf, 0: no room. *@last tells whether
 * the record is now complete.
 */
size_t ft_record_put(const FtRecord *r, uint64_t *done, uint8_t *buf,
                     size_t size, bool *last);

typedef bool FtRecordFn(void *opaque, FtRecord *r, Error **errp);

/*
 * ft_record_decode: check the records in the @len untrusted bytes at @buf and
 * hand each to @fn (which takes over the reference). @drives lengths of
 * drives, in bytes, are at @length; a record beyond them, an unknown kind,
 * flags that are not of its kind, bytes that are not 0 in a FLUSH or 0 in
 * another, a header or data that @buf ends in the middle of: an error that
 * says which, and at which byte. *@records is increased by one for each that
 * @fn took. A WRITE has a copy of its data; r->epoch is 0.
 */
bool ft_record_decode(const uint8_t *buf, size_t len,
                      const uint64_t *length, unsigned drives,
                      FtRecordFn *fn, void *opaque, uint64_t *records,
                      Error **errp);

/* A list of references to records; make it with ft_records_init(). */
typedef struct FtRecords {
    GPtrArray *rec;             /* of FtRecord */
    uint64_t bytes;             /* sum of the costs */
} FtRecords;

void ft_records_init(FtRecords *l);
void ft_records_add(FtRecords *l, FtRecord *r);     /* takes a new reference */
void ft_records_clear(FtRecords *l);    /* drops the references, keeps memory */
void ft_records_destroy(FtRecords *l);

/* --------------------------------------------------------------- journal */

typedef struct FtJournal FtJournal;

/* Empty, @length bytes long. @drive is written to its records. */
FtJournal *ft_journal_new(uint16_t drive, uint64_t length);
/* Not while there is a plan. */
void ft_journal_free(FtJournal *j);
/* Another session numbers it differently: for records still to come. */
void ft_journal_set_drive(FtJournal *j, uint16_t drive);

/*
 * ft_journal_start: a new session begins with the journal, which must be idle:
 * its epochs may have any numbers, nothing is committed. (What
 * ft_journal_drop() has done stays.)
 */
void ft_journal_start(FtJournal *j);

/*
 * ft_journal_add: a record at the end of the open epoch (@r->epoch 0) or, on
 * a backup, of epoch @r->epoch (not less than that of the one before; it
 * counts as sealed). Takes the reference over. The caller has asked the
 * budget. A FLUSH that nothing precedes since the last FLUSH is dropped (but
 * not the first of all: the drive may have been written before there was a
 * journal). A record may not be of an epoch that has been committed, and not
 * reach beyond the drive's end.
 */
void ft_journal_add(FtJournal *j, FtRecord *r);

/*
 * ft_journal_seal: the open records belong to @epoch now; appends references
 * to them to @out (may be NULL). @epoch is higher than any before.
 */
void ft_journal_seal(FtJournal *j, uint64_t epoch, FtRecords *out);

/* Epochs up to @epoch are committed: their records may be applied. */
void ft_journal_commit(FtJournal *j, uint64_t epoch);

/*
 * All records count as committed, also those still to come: the other side
 * is gone. ft_journal_seal() and ft_journal_start() end this.
 */
void ft_journal_commit_all(FtJournal *j);

/*
 * Drop all records that are not being applied, and for ever: nothing more is
 * planned, what is added is thrown away, and what is settled stays as it is.
 * For the guest, which must not run any more, there is nothing to read.
 */
void ft_journal_drop(FtJournal *j);

/* --------------------------------------------------------------- reading */

/* A piece of what the journal knows of a range. */
typedef struct FtPiece {
    uint64_t offset;            /* of the drive */
    uint64_t bytes;
    FtRecord *rec;              /* a reference */
} FtPiece;

typedef struct FtPieces {
    GArray *piece;              /* of FtPiece, ascending, not overlapping */
    uint64_t bytes;             /* sum */
} FtPieces;

/*
 * ft_journal_lookup: what the journal holds of the range, newest data first.
 * @p is initialised here; ft_pieces_clear() frees it. p->bytes == @bytes: the
 * disk need not be asked. DISCARD records do not count: what was discarded
 * reads as what was there before, until it is applied.
 */
void ft_journal_lookup(FtJournal *j, uint64_t offset, uint64_t bytes,
                       FtPieces *p);
/*
 * Copy the pieces over @buf, which begins at @offset of the drive and has
 * @bytes bytes. No lock is needed.
 */
void ft_pieces_copy(const FtPieces *p, uint64_t offset, uint64_t bytes,
                    uint8_t *buf);
void ft_pieces_clear(FtPieces *p);

/* -------------------------------------------------------------- applying */

/* Merged operations are at most so long: WRITE, and those without data. */
#define FT_PLAN_OP_MAX      (1u << 20)
#define FT_PLAN_SPACE_MAX   (1u << 30)
#define FT_PLAN_IOV_MAX     256
/* Records in a batch: the lock is held while they are merged. */
#define FT_PLAN_RECORD_MAX  2048

/* One operation of a batch: no two of a batch overlap. */
typedef struct FtPlanOp {
    FtRecKind kind;             /* WRITE, ZERO or DISCARD */
    uint8_t flags;
    uint64_t offset;
    uint64_t bytes;
    struct iovec *iov;          /* WRITE; points into the records */
    int niov;
} FtPlanOp;

typedef struct FtPlan {
    GArray *op;                 /* of FtPlanOp, by offset */
    bool flush;                 /* flush the drive after the operations */
    /* private */
    struct iovec *iov;          /* of all operations */
} FtPlan;

/*
 * ft_journal_plan: the next batch of committed records, or false when there
 * is none. At most @max_bytes, counted as ft_record_cost() does (but at least
 * one record), and at most FT_PLAN_RECORD_MAX records. Only one plan at a
 * time; it ends with ft_journal_applied() or ft_journal_abandon(). The
 * operations stay valid until then, whatever is added meanwhile.
 */
bool ft_journal_plan(FtJournal *j, uint64_t max_bytes, FtPlan *plan);
/* All of it is on the drive (plan->flush: and flushed). Frees the plan. */
void ft_journal_applied(FtJournal *j, FtPlan *plan);
/* It failed: the records will be in the next plan again. Frees the plan. */
void ft_journal_abandon(FtJournal *j, FtPlan *plan);

/*
 * A flush that the applier makes without being asked by a record: note
 * before it is begun, and say when it is done.
 */
uint64_t ft_journal_flush_begin(FtJournal *j);
void ft_journal_flush_done(FtJournal *j, uint64_t mark);

/* ---------------------------------------------------------------- status */

/*
 * The last epoch that need not be replayed: all records up to it are applied
 * and flushed. With nothing left it is the last committed one (of seal,
 * commit or a record of that epoch).
 */
uint64_t ft_journal_settled(const FtJournal *j);
/* Has something been applied that has not been flushed? */
bool ft_journal_unflushed(const FtJournal *j);
/* Is there nothing to apply and nothing to flush (open epoch included)? */
bool ft_journal_idle(const FtJournal *j);
/* Are there committed records that no plan has taken? */
bool ft_journal_pending(const FtJournal *j);

typedef struct FtJournalStats {
    uint64_t records;           /* now, not applied yet */
    uint64_t bytes;             /* their cost */
    uint64_t writes, zeroes, discards, flushes;     /* added in all */
    uint64_t written_bytes;     /* data in WRITE records, in all */
    uint64_t ops;               /* operations planned in all */
    uint64_t op_bytes;          /* bytes of the WRITE ones */
} FtJournalStats;

void ft_journal_stats(const FtJournal *j, FtJournalStats *st);

#endif
