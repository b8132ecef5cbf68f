/*
 * Fault tolerance: who may go on: claim a generation, once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A session has the UUID of the guest's line of sessions and a generation.
 * Before a side goes on without the other it claims the next generation:
 * a test-and-set in a place that both sides reach.  The first comer wins and
 * nobody ever wins that generation again.
 *
 *   file:DIR              a directory that both hosts have (NFS); the claim of
 *                         generation 3 is the file cuju-UUID.claim-3
 *   etcd:URL[,URL...]     the key /cuju/UUID/claim-3
 *   none                  everybody wins: two live sides are possible
 *
 * What is asked of the place can hang for as long as a dead NFS server does,
 * so one thread of the arbiter's own does all of it (arbiter.c); the backends
 * (arbiter-file.c, arbiter-etcd.c) block and know no thread.
 *
 *        new            publish, verify          claim
 *   any ----> thread: [ open ] -> [ proof ] -> [ probe each second ] ...
 *                                                  | claim asked for
 *                                                  v
 *                              try -> WON | LOST: told once, the end
 *                               ^        | cannot say: told, again in 200 ms
 *                               +--------+
 *
 * Whoever cannot say whether it won (an answer was lost) tries again and finds
 * its own mark in the claim.
 *
 * A claim is only made where the session's proof is: a directory whose NFS is
 * not mounted any more, or another etcd at the same address, would let
 * everybody win.  A claim that is there already is believed in any case.
 *
 * Locking: a lock of its own; all functions but where it says otherwise may
 * be called from any thread and do not wait for the place.
 */

#ifndef MIGRATION_FT_ARBITER_H
#define MIGRATION_FT_ARBITER_H

#include "qapi/error.h"
#include "qemu/uuid.h"

typedef enum FtArbiterKind {
    FT_ARBITER_NONE,
    FT_ARBITER_FILE,
    FT_ARBITER_ETCD,
} FtArbiterKind;

typedef struct FtArbiterParams {
    FtArbiterKind kind;
    char *where;            /* the directory; the URLs with commas; NULL */
    /* etcd only, all may be NULL */
    char *user;
    char *password;
    char *tls_dir;          /* ca-cert.pem, client-cert.pem, client-key.pem */
} FtArbiterParams;

/*
 * ft_arbiter_parse: "file:DIR", "etcd:URL[,URL...]" or "none" in @p, whose
 * old content is freed (the secrets are kept).  DIR must be absolute; a URL
 * begins with http:// or https:// and has a host and a port, nothing else; at
 * most FT_ARBITER_URLS of them.  The error says what is allowed.  @spec may
 * come from a peer.  @p is left alone when it returns false.
 */
#define FT_ARBITER_URLS 8
bool ft_arbiter_parse(FtArbiterParams *p, const char *spec, Error **errp);
/* What @to held before is not freed. */
void ft_arbiter_params_copy(FtArbiterParams *to, const FtArbiterParams *from);
void ft_arbiter_params_clear(FtArbiterParams *p);
/* The other way, without secrets.  To be freed. */
char *ft_arbiter_spec(const FtArbiterParams *p);

typedef struct FtArbiter FtArbiter;

/* Starts the thread.  @who: for people who look at a claim: which host and
 * process this is ("host pid 123").  Does not touch the place. */
FtArbiter *ft_arbiter_new(const FtArbiterParams *p, const QemuUUID *uuid,
                          const char *who);
FtArbiter *ft_arbiter_ref(FtArbiter *a);
/* The last reference ends the thread, without waiting for it. */
void ft_arbiter_unref(FtArbiter *a);

/*
 * Do both sides mean the same place?  The primary publishes a @proof (hex
 * digits, drawn at random for each session), the backup looks for it.  Both
 * wait, at most @timeout_ms; not with the BQL held.  That the place can hold
 * a claim is tried as well (publish uses the same means).
 * A publish that has begun goes on when the time is over; the next arbiter of
 * the process for the same place publishes after it, never before.
 * No-ops with FT_ARBITER_NONE.
 */
bool ft_arbiter_publish(FtArbiter *a, const char *proof, int timeout_ms,
                        Error **errp);
bool ft_arbiter_verify(FtArbiter *a, const char *proof, int timeout_ms,
                       Error **errp);

typedef enum FtClaim {
    FT_CLAIM_WON,
    FT_CLAIM_LOST,              /* @text: who has it */
    FT_CLAIM_UNKNOWN,           /* @text: why; it is tried again */
} FtClaim;

/*
 * Called in the arbiter's thread or, with FT_ARBITER_NONE, from
 * ft_arbiter_claim() itself; must not wait nor call the arbiter.
 */
typedef void FtClaimFn(void *opaque, FtClaim claim, const char *text);

/*
 * ft_arbiter_claim: claim @generation, once in the arbiter's life.  @fn is
 * called with UNKNOWN any number of times, then with WON or LOST once, until
 * ft_arbiter_quiet(), which also ends the trying.  @text is never NULL, and is
 * printable ASCII.
 */
void ft_arbiter_claim(FtArbiter *a, uint64_t generation, FtClaimFn *fn,
                      void *opaque);
/* After this @fn is not called any more (nor running); the last
 * ft_arbiter_unref() does the same.  A claim that is under way may be won
 * nevertheless, in the name of this side. */
void ft_arbiter_quiet(FtArbiter *a);

/*
 * ft_arbiter_insist: this side goes on whatever the arbiter says, by the
 * operator's word: claim @generation for the other one to find, for as long
 * as it takes, also after quiet, retire and the last unref.
 */
void ft_arbiter_insist(FtArbiter *a, uint64_t generation);

/* The session is over: take the proof away, when the thread comes to it. The
 * claims stay: they are what keeps a side that wakes up late from going on. */
void ft_arbiter_retire(FtArbiter *a);

/* The process ends: wait until the thread is done with what was asked of it
 * so far, at most @timeout_ms. */
void ft_arbiter_finish(FtArbiter *a, int timeout_ms);

typedef struct FtArbiterState {
    bool tried;                 /* the rest is known */
    bool reachable;
    char *reason;               /* why not; to be freed */
    int64_t age_ms;             /* since it was last in reach, -1: never */
} FtArbiterState;

/* As of the last try; an answer that is more than 2 s late counts as not
 * reachable.  Tried once a second from the first successful publish or verify
 * on. */
void ft_arbiter_state(FtArbiter *a, FtArbiterState *st);

/* ------------------------------------------------------------ the backends */

/* All in the arbiter's thread; each returns within some seconds where the
 * place allows it. */
typedef struct FtArbiterOps {
    /* Never touches the place; NULL with @errp: cannot work as it is (tried
     * again with the next thing that is asked). */
    void *(*open)(const FtArbiterParams *p, const QemuUUID *uuid,
                  Error **errp);
    void (*close)(void *be);
    /* From here on claim and probe want to see this @proof.  Only one arbiter
     * of the process at a time is in publish or retire for the same place; what
     * is still on its way when it returns must not replace another proof, as
     * far as the place can tell. */
    bool (*publish)(void *be, const char *proof, Error **errp);
    /* The proof that is there, or NULL with @errp.  To be freed.  It is what
     * claim and probe want to see from here on.  Tries whether claims are
     * possible. */
    char *(*proof)(void *be, Error **errp);
    /* Is it in reach, for writing as far as one can tell without? */
    bool (*probe)(void *be, Error **errp);
    /* @mark: unique to this claimant, one line; @owner: whose mark is there
     * if it is lost, to be freed.  UNKNOWN with @errp. */
    FtClaim (*claim)(void *be, uint64_t generation, const char *mark,
                     char **owner, Error **errp);
    /* If the proof is this side's: another one stays. */
    void (*retire)(void *be);
} FtArbiterOps;

extern const FtArbiterOps ft_arbiter_file_ops;
extern const FtArbiterOps ft_arbiter_etcd_ops;

/* Of somebody else's text: printable ASCII, FT_ARBITER_TEXT_MAX bytes at most.
 * To be freed. */
#define FT_ARBITER_TEXT_MAX 1024
char *ft_arbiter_clean(const char *text);

/* With another backend, for tests. */
FtArbiter *ft_arbiter_new_ops(const FtArbiterOps *ops,
                              const FtArbiterParams *p, const QemuUUID *uuid,
                              const char *who);

#endif
