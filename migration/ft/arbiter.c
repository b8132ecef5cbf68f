/*
 * Fault tolerance: the arbiter's thread, and what is asked of it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The thread takes one piece of work at a time and does it in the place
 * without a lock, which may last for ever.  Everybody else only leaves work
 * behind and looks at what is known.  Work, in the order it is taken:
 *
 *   claim      while one is asked for and RETRY_MS since the last try are over
 *   jobs       publish, verify: the one who waits holds a reference, so does
 *              the thread; whoever comes last frees it
 *   retire     once; done even if the last reference is gone
 *   quit
 *   probe      each PROBE_MS, once a proof has been published or found
 *
 * Locking: "lock" for all that is not constant.  The backend's object belongs
 * to the thread.  The users' references are counted by "refs"; the last one
 * tells the thread to quit.  The memory goes with the last of the two "holds"
 * (the users' and the thread's): neither waits for the other.
 *
 * Turns: the sessions of one line have the same names at the place, and the
 * thread of one that has been given up may still be at work when the next one
 * begins.  What it writes late must not replace what the next one has written.
 * So of all the process's arbiters with the same names in the same place only
 * one at a time publishes or retires: before that its thread takes the place's
 * turn, and gives it back when the backend has returned.  A turn that another
 * one has is looked for again each TURN_MS, and until then the work stays where
 * it is: claims go on, and a publish that nobody waits for any more is not
 * done.  A call that never comes back costs those after it their publish, with
 * the usual error.  No lock is held across a turn; "turns.lock" is taken last
 * ("lock" may be held) and only to look who has one.
 */

#include "qemu/osdep.h"
#include "crypto/random.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/queue.h"
#include "arbiter.h"
#include "trace.h"

#define PROBE_MS    1000
#define RETRY_MS    200
#define TURN_MS     50
#define LATE_MS     2000
#define SPEC_MAX    2048
#define WHO_MAX     128
#define MARK_BYTES  16

typedef struct Job {
    unsigned refs;
    bool verify;
    bool queued;
    bool done;
    bool ok;
    char *proof;
    Error *err;
    QSIMPLEQ_ENTRY(Job) next;
} Job;

typedef enum Work {
    WORK_CLAIM,
    WORK_JOB,
    WORK_RETIRE,
    WORK_PROBE,
    WORK_QUIT,
} Work;

struct FtArbiter {
    unsigned refs;              /* atomic */
    unsigned holds;             /* atomic */
    const FtArbiterOps *ops;    /* NULL: everybody wins, no thread */
    FtArbiterParams params;
    QemuUUID uuid;
    char *spec;
    char *mark;
    QLIST_ENTRY(FtArbiter) turn;    /* under turns.lock */

    QemuMutex lock;
    QemuCond work;              /* for the thread */
    QemuCond done;              /* for those who wait */
    QSIMPLEQ_HEAD(, Job) jobs;
    bool quit;
    bool retire;
    bool probing;
    int64_t next_probe;

    bool claim_asked;
    bool claiming;
    bool insists;               /* the claim is not given up */
    bool telling;               /* fn is running */
    int64_t next_try;
    uint64_t generation;
    FtClaimFn *fn;
    void *opaque;

    bool tried;
    bool reachable;
    char *reason;
    int64_t seen;               /* when it was in reach, -1: never */
    int64_t busy_since;         /* -1: the thread asks nothing */
};

static struct {
    QemuMutex lock;
    QLIST_HEAD(, FtArbiter) taken;
} turns;

static void __attribute__((constructor)) turns_init(void)
{
    qemu_mutex_init(&turns.lock);
}

static int64_t now_ms(void)
{
    return g_get_monotonic_time() / 1000;
}

char *ft_arbiter_clean(const char *text)
{
    char *clean = g_strndup(text, FT_ARBITER_TEXT_MAX);

    for (char *c = clean; *c; c++) {
        if (*c < 0x20 || *c > 0x7e) {
            *c = '?';
        }
    }
    return clean;
}

/* -------------------------------------------------------- the parameters */

static char *parse_dir(const char *dir, Error **errp)
{
    size_t len = strlen(dir);

    if (dir[0] != '/') {
        error_setg(errp, "the directory of an arbiter is an absolute path: "
                   "file:/DIR");
        return NULL;
    }
    while (len > 1 && dir[len - 1] == '/') {
        len--;
    }
    return g_strndup(dir, len);
}

/* What is wrong is not quoted: there may be a password in it. */
static bool parse_url(const char *text, unsigned number, GString *where,
                      Error **errp)
{
    g_autoptr(GUri) uri = g_uri_parse(text, G_URI_FLAGS_NONE, NULL);
    const char *rest, *host;
    size_t len;

    host = uri ? g_uri_get_host(uri) : NULL;
    if (!host || !*host || (!strstart(text, "http://", &rest) &&
                            !strstart(text, "https://", &rest))) {
        error_setg(errp, "URL %u of the arbiter is not one of etcd: "
                   "http://HOST:PORT or https://HOST:PORT", number);
        return false;
    }
    if (g_uri_get_userinfo(uri)) {
        error_setg(errp, "URL %u of the arbiter has a user in it: use "
                   "ft-arbiter-user and ft-arbiter-secret", number);
        return false;
    }
    /* In the text itself: what is parsed has no "/.." any more. */
    len = strcspn(rest, "/?#");
    if (rest[len] && strcmp(rest + len, "/")) {
        error_setg(errp, "URL %u of the arbiter has more in it than a host "
                   "and a port", number);
        return false;
    }
    g_string_append_printf(where, "%s%.*s", where->len ? "," : "",
                           (int)(rest + len - text), text);
    return true;
}

static char *parse_urls(const char *urls, Error **errp)
{
    g_auto(GStrv) list = g_strsplit(urls, ",", -1);
    g_autoptr(GString) where = g_string_new(NULL);
    unsigned n = g_strv_length(list);

    if (n < 1 || n > FT_ARBITER_URLS) {
        error_setg(errp, "an arbiter in etcd has 1 to %d URLs: "
                   "etcd:URL[,URL...]", FT_ARBITER_URLS);
        return NULL;
    }
    for (unsigned i = 0; i < n; i++) {
        if (!parse_url(list[i], i + 1, where, errp)) {
            return NULL;
        }
    }
    return g_string_free(g_steal_pointer(&where), false);
}

bool ft_arbiter_parse(FtArbiterParams *p, const char *spec, Error **errp)
{
    FtArbiterKind kind = FT_ARBITER_NONE;
    const char *rest;
    char *where = NULL;

    if (strlen(spec) > SPEC_MAX || !g_utf8_validate(spec, -1, NULL)) {
        error_setg(errp, "the name of an arbiter has at most %d bytes and "
                   "is in UTF-8", SPEC_MAX);
        return false;
    }
    for (const char *c = spec; *c; c++) {
        if (g_ascii_iscntrl(*c)) {
            error_setg(errp, "the name of an arbiter has a control "
                       "character in it");
            return false;
        }
    }
    if (strstart(spec, "file:", &rest)) {
        kind = FT_ARBITER_FILE;
        where = parse_dir(rest, errp);
    } else if (strstart(spec, "etcd:", &rest)) {
        kind = FT_ARBITER_ETCD;
        where = parse_urls(rest, errp);
    } else if (strcmp(spec, "none")) {
        error_setg(errp, "an arbiter is file:DIR (an absolute path), "
                   "etcd:URL[,URL...] or none");
        return false;
    }
    if (kind != FT_ARBITER_NONE && !where) {
        return false;
    }
    p->kind = kind;
    g_free(p->where);
    p->where = where;
    return true;
}

void ft_arbiter_params_copy(FtArbiterParams *to, const FtArbiterParams *from)
{
    *to = (FtArbiterParams) {
        .kind = from->kind,
        .where = g_strdup(from->where),
        .user = g_strdup(from->user),
        .password = g_strdup(from->password),
        .tls_dir = g_strdup(from->tls_dir),
    };
}

void ft_arbiter_params_clear(FtArbiterParams *p)
{
    g_free(p->where);
    g_free(p->user);
    g_free(p->password);
    g_free(p->tls_dir);
    *p = (FtArbiterParams) { };
}

char *ft_arbiter_spec(const FtArbiterParams *p)
{
    switch (p->kind) {
    case FT_ARBITER_FILE:
        return g_strconcat("file:", p->where, NULL);
    case FT_ARBITER_ETCD:
        return g_strconcat("etcd:", p->where, NULL);
    default:
        return g_strdup("none");
    }
}

/* ------------------------------------------------------------ the thread */

static void job_unref(Job *job)
{
    if (--job->refs == 0) {
        g_free(job->proof);
        error_free(job->err);
        g_free(job);
    }
}

static void arbiter_drop_hold(FtArbiter *a)
{
    if (qatomic_fetch_dec(&a->holds) != 1) {
        return;
    }
    /* Who waits for a job has a reference, and the thread took the others. */
    assert(QSIMPLEQ_EMPTY(&a->jobs));
    qemu_cond_destroy(&a->done);
    qemu_cond_destroy(&a->work);
    qemu_mutex_destroy(&a->lock);
    ft_arbiter_params_clear(&a->params);
    g_free(a->spec);
    g_free(a->mark);
    g_free(a->reason);
    g_free(a);
}

static bool same_place(const FtArbiter *a, const FtArbiter *b)
{
    /* There are many lists of URLs for one etcd. */
    return qemu_uuid_is_equal(&a->uuid, &b->uuid) &&
           a->params.kind == b->params.kind &&
           (a->params.kind == FT_ARBITER_ETCD ||
            !strcmp(a->params.where, b->params.where));
}

static bool turn_take(FtArbiter *a)
{
    FtArbiter *other;

    QEMU_LOCK_GUARD(&turns.lock);
    QLIST_FOREACH(other, &turns.taken, turn) {
        if (same_place(a, other)) {
            return false;
        }
    }
    QLIST_INSERT_HEAD(&turns.taken, a, turn);
    return true;
}

/* If it has one. */
static void turn_give_back(FtArbiter *a)
{
    QEMU_LOCK_GUARD(&turns.lock);
    QLIST_SAFE_REMOVE(a, turn);
}

/* Waits for work, and for its time.  Publish and retire: with the turn. */
static Work arbiter_next(FtArbiter *a, Job **job)
{
    QEMU_LOCK_GUARD(&a->lock);
    for (;;) {
        int64_t now = now_ms();
        int64_t until = INT64_MAX;

        a->busy_since = now;
        if (a->claiming && (!a->quit || a->insists)) {
            if (now >= a->next_try) {
                return WORK_CLAIM;
            }
            until = a->next_try;
        }
        *job = QSIMPLEQ_FIRST(&a->jobs);
        if (*job) {
            if ((*job)->verify || turn_take(a)) {
                QSIMPLEQ_REMOVE_HEAD(&a->jobs, next);
                (*job)->queued = false;
                return WORK_JOB;
            }
            until = MIN(until, now + TURN_MS);
        } else if (a->retire && !(a->claiming && a->insists)) {
            if (turn_take(a)) {
                a->retire = false;
                a->probing = false;
                return WORK_RETIRE;
            }
            until = MIN(until, now + TURN_MS);
        } else if (a->quit && !(a->claiming && a->insists)) {
            return WORK_QUIT;
        } else if (a->probing && !a->claiming) {
            /* A claim that is tried again and again shows as much. */
            if (now >= a->next_probe) {
                return WORK_PROBE;
            }
            until = a->next_probe;
        }
        a->busy_since = -1;
        qemu_cond_broadcast(&a->done);
        if (until == INT64_MAX) {
            qemu_cond_wait(&a->work, &a->lock);
        } else {
            qemu_cond_timedwait(&a->work, &a->lock, until - now);
        }
    }
}

/* What a try has shown.  @text: why not; taken over.  Lock held. */
static void arbiter_saw(FtArbiter *a, bool reachable, char *text)
{
    if (!a->tried || a->reachable != reachable) {
        trace_ft_arbiter_reach(a->spec, reachable, text ?: "");
    }
    a->busy_since = -1;
    a->tried = true;
    a->reachable = reachable;
    if (reachable) {
        a->seen = now_ms();
    }
    g_free(a->reason);
    a->reason = text;
    a->next_probe = now_ms() + PROBE_MS;
}

static void arbiter_do_job(FtArbiter *a, void *be, Job *job, Error *err)
{
    bool reached = false;
    char *text;

    if (be && !job->verify) {
        reached = a->ops->publish(be, job->proof, &err);
    } else if (be) {
        g_autofree char *proof = a->ops->proof(be, &err);

        reached = proof != NULL;
        if (reached && strcmp(proof, job->proof)) {
            error_setg(&err, "%s is not the primary's: what the primary has "
                       "left there for this session is not here", a->spec);
        }
    }
    text = reached ? NULL : ft_arbiter_clean(error_get_pretty(err));

    QEMU_LOCK_GUARD(&a->lock);
    job->done = true;
    job->ok = !err;
    job->err = err;
    a->probing |= job->ok;
    arbiter_saw(a, reached, text);
    job_unref(job);
    qemu_cond_broadcast(&a->done);
}

/* For people: without the random part of the mark. */
static char *owner_text(const char *owner)
{
    char *text = ft_arbiter_clean(owner);
    size_t len = strlen(text);
    size_t tail = 2 * MARK_BYTES;

    if (len > tail + 1 && text[len - tail - 1] == ' ' &&
        strspn(text + len - tail, "0123456789abcdef") == tail) {
        text[len - tail - 1] = 0;
    }
    return text;
}

static void arbiter_do_claim(FtArbiter *a, void *be, Error *err)
{
    g_autofree char *owner = NULL;
    g_autofree char *text = NULL;
    FtClaim claim = FT_CLAIM_UNKNOWN;
    FtClaimFn *fn = NULL;
    void *opaque = NULL;

    if (be) {
        claim = a->ops->claim(be, a->generation, a->mark, &owner, &err);
    }
    switch (claim) {
    case FT_CLAIM_WON:
        text = g_strdup("");
        break;
    case FT_CLAIM_LOST:
        text = owner_text(owner ?: "?");
        break;
    case FT_CLAIM_UNKNOWN:
        text = ft_arbiter_clean(error_get_pretty(err));
        break;
    }
    error_free(err);
    trace_ft_arbiter_claim(a->spec, a->generation, claim, text);

    WITH_QEMU_LOCK_GUARD(&a->lock) {
        bool unknown = claim == FT_CLAIM_UNKNOWN;

        arbiter_saw(a, !unknown, unknown ? g_strdup(text) : NULL);
        a->next_try = now_ms() + RETRY_MS;
        if (a->claiming) {
            a->claiming = unknown;
            fn = a->fn;
            opaque = a->opaque;
            a->telling = fn != NULL;
        }
    }
    if (fn) {
        fn(opaque, claim, text);
        WITH_QEMU_LOCK_GUARD(&a->lock) {
            a->telling = false;
            qemu_cond_broadcast(&a->done);
        }
    }
}

static void arbiter_do_probe(FtArbiter *a, void *be, Error *err)
{
    bool ok = be && a->ops->probe(be, &err);
    char *text = ok ? NULL : ft_arbiter_clean(error_get_pretty(err));

    error_free(err);
    WITH_QEMU_LOCK_GUARD(&a->lock) {
        arbiter_saw(a, ok, text);
    }
}

static void *arbiter_thread(void *opaque)
{
    FtArbiter *a = opaque;
    void *be = NULL;
    Job *job = NULL;
    Work work;

    while ((work = arbiter_next(a, &job)) != WORK_QUIT) {
        Error *err = NULL;

        if (!be) {
            be = a->ops->open(&a->params, &a->uuid, &err);
        }
        switch (work) {
        case WORK_CLAIM:
            arbiter_do_claim(a, be, err);
            break;
        case WORK_JOB:
            arbiter_do_job(a, be, job, err);
            break;
        case WORK_PROBE:
            arbiter_do_probe(a, be, err);
            break;
        case WORK_RETIRE:
            if (be) {
                a->ops->retire(be);
            }
            error_free(err);
            break;
        default:
            g_assert_not_reached();
        }
        turn_give_back(a);
    }
    if (be) {
        a->ops->close(be);
    }
    arbiter_drop_hold(a);
    return NULL;
}

/* --------------------------------------------------- what others call */

FtArbiter *ft_arbiter_new_ops(const FtArbiterOps *ops,
                              const FtArbiterParams *p, const QemuUUID *uuid,
                              const char *who)
{
    FtArbiter *a = g_new0(FtArbiter, 1);
    g_autofree char *name = ft_arbiter_clean(who);
    uint8_t random[MARK_BYTES];
    GString *mark = g_string_new(NULL);
    QemuThread thread;

    /* Not of the generator that -seed makes the same on both sides. */
    qcrypto_random_bytes(random, sizeof(random), &error_abort);
    g_string_printf(mark, "%.*s ", WHO_MAX, name);
    for (unsigned i = 0; i < sizeof(random); i++) {
        g_string_append_printf(mark, "%02x", random[i]);
    }
    a->mark = g_string_free(mark, false);

    a->refs = 1;
    a->holds = ops ? 2 : 1;
    a->ops = ops;
    a->uuid = *uuid;
    ft_arbiter_params_copy(&a->params, p);
    a->spec = ft_arbiter_spec(p);
    a->seen = -1;
    a->busy_since = -1;
    qemu_mutex_init(&a->lock);
    qemu_cond_init(&a->work);
    qemu_cond_init(&a->done);
    QSIMPLEQ_INIT(&a->jobs);
    if (ops) {
        qemu_thread_create(&thread, "ft-arbiter", arbiter_thread, a,
                           QEMU_THREAD_DETACHED);
    }
    return a;
}

FtArbiter *ft_arbiter_new(const FtArbiterParams *p, const QemuUUID *uuid,
                          const char *who)
{
    const FtArbiterOps *ops = NULL;

    switch (p->kind) {
    case FT_ARBITER_NONE:
        break;
    case FT_ARBITER_FILE:
        ops = &ft_arbiter_file_ops;
        break;
    case FT_ARBITER_ETCD:
        ops = &ft_arbiter_etcd_ops;
        break;
    }
    return ft_arbiter_new_ops(ops, p, uuid, who);
}

FtArbiter *ft_arbiter_ref(FtArbiter *a)
{
    qatomic_inc(&a->refs);
    return a;
}

void ft_arbiter_unref(FtArbiter *a)
{
    if (!a || qatomic_fetch_dec(&a->refs) != 1) {
        return;
    }
    ft_arbiter_quiet(a);
    WITH_QEMU_LOCK_GUARD(&a->lock) {
        a->quit = true;
        qemu_cond_signal(&a->work);
    }
    arbiter_drop_hold(a);
}

static bool arbiter_wait(FtArbiter *a, bool verify, const char *proof,
                         int timeout_ms, Error **errp)
{
    int64_t end = now_ms() + timeout_ms;
    Job *job;
    bool ok = false;

    if (!a->ops) {
        return true;
    }
    job = g_new0(Job, 1);
    job->refs = 2;
    job->verify = verify;
    job->proof = g_strdup(proof);

    QEMU_LOCK_GUARD(&a->lock);
    job->queued = true;
    QSIMPLEQ_INSERT_TAIL(&a->jobs, job, next);
    qemu_cond_signal(&a->work);
    while (!job->done && now_ms() < end) {
        qemu_cond_timedwait(&a->done, &a->lock, MAX(end - now_ms(), 1));
    }
    if (job->done) {
        ok = job->ok;
        error_propagate(errp, g_steal_pointer(&job->err));
    } else {
        error_setg(errp, "no answer from %s within %g s", a->spec,
                   timeout_ms / 1000.0);
    }
    if (job->queued) {
        /* Must not be done when nobody reckons with it any more. */
        QSIMPLEQ_REMOVE(&a->jobs, job, Job, next);
        job_unref(job);
    }
    job_unref(job);
    return ok;
}

bool ft_arbiter_publish(FtArbiter *a, const char *proof, int timeout_ms,
                        Error **errp)
{
    return arbiter_wait(a, false, proof, timeout_ms, errp);
}

bool ft_arbiter_verify(FtArbiter *a, const char *proof, int timeout_ms,
                       Error **errp)
{
    return arbiter_wait(a, true, proof, timeout_ms, errp);
}

void ft_arbiter_claim(FtArbiter *a, uint64_t generation, FtClaimFn *fn,
                      void *opaque)
{
    WITH_QEMU_LOCK_GUARD(&a->lock) {
        assert(!a->claim_asked);
        a->claim_asked = true;
        if (a->ops) {
            a->claiming = true;
            a->generation = generation;
            a->fn = fn;
            a->opaque = opaque;
            qemu_cond_signal(&a->work);
            return;
        }
    }
    fn(opaque, FT_CLAIM_WON, "");
}

void ft_arbiter_insist(FtArbiter *a, uint64_t generation)
{
    QEMU_LOCK_GUARD(&a->lock);
    if (a->ops && (a->claiming || !a->claim_asked)) {
        a->claim_asked = true;
        a->claiming = true;
        a->insists = true;
        a->generation = generation;
        qemu_cond_signal(&a->work);
    }
}

void ft_arbiter_quiet(FtArbiter *a)
{
    QEMU_LOCK_GUARD(&a->lock);
    if (!a->insists) {
        a->claiming = false;
    }
    a->fn = NULL;
    while (a->telling) {
        qemu_cond_wait(&a->done, &a->lock);
    }
}

void ft_arbiter_retire(FtArbiter *a)
{
    QEMU_LOCK_GUARD(&a->lock);
    a->retire = true;
    qemu_cond_signal(&a->work);
}

void ft_arbiter_finish(FtArbiter *a, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;

    if (!a->ops) {
        return;
    }
    QEMU_LOCK_GUARD(&a->lock);
    while ((a->retire || a->busy_since >= 0) && now_ms() < end) {
        qemu_cond_timedwait(&a->done, &a->lock, MAX(end - now_ms(), 1));
    }
}

void ft_arbiter_state(FtArbiter *a, FtArbiterState *st)
{
    int64_t now;

    *st = (FtArbiterState) { .tried = true, .reachable = true };
    if (!a->ops) {
        return;
    }
    QEMU_LOCK_GUARD(&a->lock);
    now = now_ms();
    st->tried = a->tried;
    st->reachable = a->reachable;
    st->age_ms = a->seen < 0 ? -1 : now - a->seen;
    if (a->busy_since >= 0 && now - a->busy_since > LATE_MS) {
        st->tried = true;
        st->reachable = false;
        st->reason = g_strdup_printf("no answer for %" PRId64 " s",
                                     (now - a->busy_since) / 1000);
    } else {
        st->reason = g_strdup(a->reason);
    }
}
