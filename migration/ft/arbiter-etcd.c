/*
 * Fault tolerance: claims in etcd, by its JSON gateway
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   /cuju/UUID/claim-3     who has generation 3
 *   /cuju/UUID/session     the proof of the session
 *
 * Everything is a transaction, POST /v3/kv/txn, even what only looks: so it
 * is answered by a majority or not at all, and needs the right to write.  A
 * claim is put if there is none and the proof is this session's, in one step.
 * The transaction may be sent any number of times, to any member: after one
 * whose answer was lost the next one finds its own mark.
 *
 * A request may also come through long after we have given it up, when the
 * next session has put its proof.  So a proof is only put if what is there has
 * not changed since we have looked at it; and only removed if it is ours.
 *
 * What does not answer well is left for the next URL, and the next call begins
 * with the one that answered last.  Nothing in an answer is taken for granted;
 * "yes" from what does not look like etcd is none.
 *
 * No lock but for the process's end, see below: all in the arbiter's thread.
 */

#include "qemu/osdep.h"
#include <curl/curl.h>
#include "qapi/error.h"
#include "qemu/base64.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "qobject/qbool.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qobject/qstring.h"
#include "arbiter.h"

#define CONNECT_MS  500         /* with TLS URL_MS: its handshake is in it */
#define URL_MS      1000
#define LOGIN_MS    3000        /* takes etcd a while by design */
#define CALL_MS     5000        /* no further URL is tried after it */
#define ANSWER_MAX  (64 * KiB)
#define TOKEN_MAX   4096

typedef struct EtcdArbiter {
    char **urls;
    unsigned count;
    unsigned current;           /* the one to begin with */
    char *user;
    char *password;
    char *token;                /* NULL: to be asked for */
    char *tls[3];               /* ca-cert.pem, client-cert.pem, -key.pem */
    char *prefix;               /* /cuju/UUID/ */
    char *proof;                /* NULL: not known yet */
    CURL *curl;
    GString *answer;
    char message[CURL_ERROR_SIZE];
} EtcdArbiter;

/* ---------------------------------------------------- the process's end */

/*
 * exit() takes the TLS library apart while the arbiters' threads live: a
 * crash, now and then, in place of an exit status that says what has happened.
 * So a thread that is in libcurl is given the time to finish, and none goes in
 * any more.  Those that wait for a silent etcd do nothing meanwhile.
 */
#define EXIT_MS 1000

static struct {
    QemuMutex lock;
    QemuCond cond;
    unsigned inside;
    bool exiting;
} libcurl;

static void libcurl_enter(void)
{
    QEMU_LOCK_GUARD(&libcurl.lock);
    while (libcurl.exiting) {
        qemu_cond_wait(&libcurl.cond, &libcurl.lock);
    }
    libcurl.inside++;
}

static void libcurl_leave(void)
{
    QEMU_LOCK_GUARD(&libcurl.lock);
    libcurl.inside--;
    if (libcurl.exiting) {
        qemu_cond_broadcast(&libcurl.cond);
    }
}

static void libcurl_exit(void)
{
    int64_t end = g_get_monotonic_time() / 1000 + EXIT_MS;
    int64_t left = EXIT_MS;

    QEMU_LOCK_GUARD(&libcurl.lock);
    libcurl.exiting = true;
    while (libcurl.inside && left > 0) {
        qemu_cond_timedwait(&libcurl.cond, &libcurl.lock, left);
        left = end - g_get_monotonic_time() / 1000;
    }
}

static void libcurl_init(void)
{
    static gsize once;

    if (g_once_init_enter(&once)) {
        curl_global_init(CURL_GLOBAL_ALL);
        qemu_mutex_init(&libcurl.lock);
        qemu_cond_init(&libcurl.cond);
        atexit(libcurl_exit);
        g_once_init_leave(&once, 1);
    }
}

/* ------------------------------------------------------------------ HTTP */

static size_t on_answer(char *data, size_t size, size_t n, void *opaque)
{
    EtcdArbiter *e = opaque;

    if (n > ANSWER_MAX - e->answer->len) {
        return 0;               /* curl gives up */
    }
    g_string_append_len(e->answer, data, n);
    return n;
}

/* All that is the same for each request. */
static bool etcd_setup(EtcdArbiter *e)
{
    int bad = 0;

#define SET(opt, value) (bad |= curl_easy_setopt(e->curl, (opt), (value)))
    SET(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    /* A name server that is silent has a longer patience than we have. */
    SET(CURLOPT_QUICK_EXIT, 1L);
#endif
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    /* Not by way of what is in the environment. */
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    if (e->tls[0]) {
        SET(CURLOPT_CAINFO, e->tls[0]);
    }
    if (e->tls[1]) {
        SET(CURLOPT_SSLCERT, e->tls[1]);
        SET(CURLOPT_SSLKEY, e->tls[2]);
    }
    SET(CURLOPT_ERRORBUFFER, e->message);
    SET(CURLOPT_WRITEFUNCTION, on_answer);
    SET(CURLOPT_WRITEDATA, e);
#undef SET
    return !bad;
}

/*
 * POST @body.  False: no answer, with @errp.  Else *@status is what HTTP says,
 * and *@reply the object that came, or NULL if it was none.
 */
static bool etcd_post(EtcdArbiter *e, const char *base, const char *path,
                      const char *body, const char *token, long timeout_ms,
                      long *status, QDict **reply, Error **errp)
{
    g_autofree char *url = g_strconcat(base, path, NULL);
    struct curl_slist *headers = NULL;
    QObject *obj = NULL;
    CURLcode rc;

    headers = curl_slist_append(headers, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (token) {
        g_autofree char *line = g_strconcat("Authorization: ", token, NULL);

        headers = curl_slist_append(headers, line);
    }
    g_string_truncate(e->answer, 0);
    e->message[0] = 0;
    rc = curl_easy_setopt(e->curl, CURLOPT_URL, url);
    rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_CONNECTTIMEOUT_MS,
                                g_str_has_prefix(url, "https:") ?
                                (long)URL_MS : (long)CONNECT_MS);
    rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_HTTPHEADER, headers);
    rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_POSTFIELDSIZE,
                                (long)strlen(body));
    rc = rc ?: curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, body);
    libcurl_enter();
    rc = rc ?: curl_easy_perform(e->curl);
    libcurl_leave();
    rc = rc ?: curl_easy_getinfo(e->curl, CURLINFO_RESPONSE_CODE, status);
    /* Both end with this call. */
    curl_easy_setopt(e->curl, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(e->curl, CURLOPT_POSTFIELDS, NULL);
    curl_slist_free_all(headers);
    if (rc == CURLE_WRITE_ERROR) {
        error_setg(errp, "%s: the answer is too long", base);
        return false;
    }
    if (rc == CURLE_OPERATION_TIMEDOUT) {
        error_setg(errp, "%s: no answer in time", base);
        return false;
    }
    if (rc) {
        error_setg(errp, "%s: %s", base,
                   e->message[0] ? e->message : curl_easy_strerror(rc));
        return false;
    }
    if (!memchr(e->answer->str, 0, e->answer->len)) {
        obj = qobject_from_json(e->answer->str, NULL);
    }
    *reply = qobject_to(QDict, obj);
    if (!*reply) {
        qobject_unref(obj);
    }
    return true;
}

/* Why etcd refuses, or what it is that came in place of an answer. */
static void etcd_refused(EtcdArbiter *e, const char *base, long status,
                         QDict *reply, Error **errp)
{
    const char *text = NULL;
    g_autofree char *clean = NULL;

    if (reply) {
        text = qdict_get_try_str(reply, "message") ?:
               qdict_get_try_str(reply, "error");
    }
    /* etcd has some that are plain text. */
    text = text ?: e->answer->str;
    /* Nobody may have our password printed by sending it back. */
    if (e->password && strstr(text, e->password)) {
        text = "refused";
    }
    clean = ft_arbiter_clean(text);
    error_setg(errp, "%s: not what was asked for (HTTP status %ld): %.200s",
               base, status, g_strstrip(clean));
}

static char *etcd_json(QDict *dict)
{
    g_autoptr(GString) text = qobject_to_json(QOBJECT(dict));

    return g_string_free(g_steal_pointer(&text), false);
}

/* A token for this user. */
static bool etcd_login(EtcdArbiter *e, const char *base, Error **errp)
{
    g_autoptr(QDict) ask = qdict_from_jsonf_nofail(
        "{ 'name': %s, 'password': %s }", e->user, e->password);
    g_autofree char *body = etcd_json(ask);
    g_autoptr(QDict) reply = NULL;
    const char *token;
    long status = 0;

    if (!etcd_post(e, base, "/v3/auth/authenticate", body, NULL, LOGIN_MS,
                   &status, &reply, errp)) {
        return false;
    }
    token = reply ? qdict_get_try_str(reply, "token") : NULL;
    if (status != 200 || !token) {
        etcd_refused(e, base, status, reply, errp);
        return false;
    }
    /* It becomes a line of a header. */
    if (!*token || strlen(token) > TOKEN_MAX) {
        error_setg(errp, "%s: a token of %zu bytes", base, strlen(token));
        return false;
    }
    for (const char *c = token; *c; c++) {
        if (!g_ascii_isgraph(*c)) {
            error_setg(errp, "%s: a token with odd characters", base);
            return false;
        }
    }
    g_free(e->token);
    e->token = g_strdup(token);
    return true;
}

/* One transaction, at one URL. */
static QDict *etcd_ask(EtcdArbiter *e, const char *base, const char *body,
                       Error **errp)
{
    g_autoptr(QDict) reply = NULL;
    bool fresh = false;
    long status = 0;

    for (;;) {
        if (e->user && !e->token) {
            if (!etcd_login(e, base, errp)) {
                return NULL;
            }
            fresh = true;
        }
        if (!etcd_post(e, base, "/v3/kv/txn", body, e->token, URL_MS,
                       &status, &reply, errp)) {
            return NULL;
        }
        if (status == 200 && reply) {
            return g_steal_pointer(&reply);
        }
        /*
         * Tokens end by time, or with etcd (401), or when something about the
         * users was changed (400, like much else).
         */
        if (!e->user || fresh || (status != 401 && status != 400)) {
            etcd_refused(e, base, status, reply, errp);
            return NULL;
        }
        g_clear_pointer(&e->token, g_free);
        qobject_unref(reply);
        reply = NULL;
    }
}

/* ---------------------------------------------------------- transactions */

/* What one of them came to. */
typedef struct EtcdResult {
    bool succeeded;
    QList *responses;           /* of the branch that was taken */
    QDict *reply;               /* has them */
} EtcdResult;

static bool result_of(QDict *reply, EtcdResult *r)
{
    QDict *header = qdict_get_qdict(reply, "header");
    QObject *succeeded = qdict_get(reply, "succeeded");

    /* false is left out by etcd, as all that is zero */
    if (!header || !qdict_get_try_str(header, "revision") ||
        (succeeded && qobject_type(succeeded) != QTYPE_QBOOL)) {
        return false;
    }
    r->succeeded = succeeded &&
                   qbool_get_bool(qobject_to(QBool, succeeded));
    r->responses = qdict_get_qlist(reply, "responses");
    r->reply = reply;
    return r->responses != NULL;
}

/* The first response, as one of @kind; NULL: it is none. */
static QDict *result_get(const EtcdResult *r, const char *kind)
{
    QObject *first = qlist_peek(r->responses);
    QDict *response = first ? qobject_to(QDict, first) : NULL;

    return response ? qdict_get_qdict(response, kind) : NULL;
}

/*
 * The value of @key (in base64), for which the first response is to be.
 * False: it is not.  *@value NULL: there is no such key.
 */
static bool result_value(const EtcdResult *r, const char *key, char **value)
{
    QDict *range = result_get(r, "response_range");
    g_autofree uint8_t *bytes = NULL;
    g_autofree char *again = NULL;
    const char *name, *text;
    QList *kvs;
    QDict *kv;
    size_t len;

    *value = NULL;
    if (!range) {
        return false;
    }
    if (!qdict_haskey(range, "kvs")) {
        return true;
    }
    kvs = qdict_get_qlist(range, "kvs");
    kv = kvs ? qobject_to(QDict, qlist_peek(kvs)) : NULL;
    if (!kv) {
        return false;
    }
    name = qdict_get_try_str(kv, "key");
    text = qdict_get_try_str(kv, "value");
    if (!name || strcmp(name, key) || !text) {
        return false;           /* nobody puts an empty one */
    }
    bytes = qbase64_decode(text, -1, &len, NULL);
    if (!bytes || !len || memchr(bytes, 0, len)) {
        return false;
    }
    /* The decoder takes half a text for a whole one. */
    again = g_base64_encode(bytes, len);
    if (strcmp(again, text)) {
        return false;
    }
    *value = g_strndup((char *)bytes, len);
    return true;
}

/*
 * The revision in which the key was put that result_value() has found.  False:
 * there is none.
 */
static bool result_revision(const EtcdResult *r, int64_t *revision)
{
    QDict *range = result_get(r, "response_range");
    QDict *kv = qobject_to(QDict, qlist_peek(qdict_get_qlist(range, "kvs")));
    const char *text = qdict_get_try_str(kv, "mod_revision");

    return text && qemu_strtoi64(text, NULL, 10, revision) == 0 &&
           *revision > 0;
}

/*
 * Do @txn, at the first URL that has a sane answer: such that @r is filled in.
 * @r->reply is the caller's.
 */
static bool etcd_txn(EtcdArbiter *e, QDict *txn, EtcdResult *r, Error **errp)
{
    g_autofree char *body = etcd_json(txn);
    g_autoptr(GString) why = g_string_new(NULL);
    int64_t end = g_get_monotonic_time() + CALL_MS * 1000;

    for (unsigned i = 0; i < e->count; i++) {
        const char *base = e->urls[e->current];
        Error *err = NULL;
        QDict *reply;

        if (i && g_get_monotonic_time() > end) {
            break;
        }
        reply = etcd_ask(e, base, body, &err);
        if (reply) {
            if (result_of(reply, r)) {
                return true;
            }
            qobject_unref(reply);
            error_setg(&err, "%s: not an answer of etcd's", base);
        }
        g_string_append_printf(why, "%s%s", i ? "; " : "",
                               error_get_pretty(err));
        error_free(err);
        e->current = (e->current + 1) % e->count;
    }
    error_setg(errp, "%s", why->str);
    return false;
}

static void etcd_odd(Error **errp)
{
    error_setg(errp, "etcd's answer is not to the point");
}

static char *base64(const char *text)
{
    return g_base64_encode((const guchar *)text, strlen(text));
}

static char *etcd_key(EtcdArbiter *e, const char *name)
{
    g_autofree char *key = g_strconcat(e->prefix, name, NULL);

    return base64(key);
}

/* ----------------------------------------------------------- the backend */

static void etcd_close(void *be)
{
    EtcdArbiter *e = be;

    if (e->curl) {
        libcurl_enter();
        curl_easy_cleanup(e->curl);
        libcurl_leave();
    }
    g_strfreev(e->urls);
    g_free(e->user);
    g_free(e->password);
    g_free(e->token);
    for (unsigned i = 0; i < ARRAY_SIZE(e->tls); i++) {
        g_free(e->tls[i]);
    }
    g_free(e->prefix);
    g_free(e->proof);
    g_string_free(e->answer, true);
    g_free(e);
}

static bool etcd_find_tls(EtcdArbiter *e, const char *dir, Error **errp)
{
    static const char *const names[] = {
        "ca-cert.pem", "client-cert.pem", "client-key.pem"
    };

    QEMU_BUILD_BUG_ON(ARRAY_SIZE(names) != ARRAY_SIZE(e->tls));
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        e->tls[i] = g_build_filename(dir, names[i], NULL);
    }
    if (access(e->tls[1], F_OK) < 0 && access(e->tls[2], F_OK) < 0) {
        g_clear_pointer(&e->tls[1], g_free);
        g_clear_pointer(&e->tls[2], g_free);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        if (e->tls[i] && access(e->tls[i], R_OK) < 0) {
            error_setg_errno(errp, errno, "cannot read %s", e->tls[i]);
            return false;
        }
    }
    for (unsigned i = 0; i < e->count; i++) {
        if (!g_str_has_prefix(e->urls[i], "https:")) {
            error_setg(errp, "%s is without TLS, but there are TLS "
                       "credentials for it", e->urls[i]);
            return false;
        }
    }
    return true;
}

static void *etcd_open(const FtArbiterParams *p, const QemuUUID *uuid,
                       Error **errp)
{
    EtcdArbiter *e = g_new0(EtcdArbiter, 1);
    g_autofree char *name = qemu_uuid_unparse_strdup(uuid);

    libcurl_init();
    e->urls = g_strsplit(p->where, ",", -1);
    e->count = g_strv_length(e->urls);
    e->prefix = g_strdup_printf("/cuju/%s/", name);
    e->answer = g_string_new(NULL);
    if (p->user && *p->user) {
        e->user = g_strdup(p->user);
        e->password = g_strdup(p->password);
        if (!e->password || !*e->password) {
            error_setg(errp, "there is a user for etcd, but no password");
            goto fail;
        }
    }
    if (p->tls_dir && !etcd_find_tls(e, p->tls_dir, errp)) {
        goto fail;
    }
    e->curl = curl_easy_init();
    if (!e->curl || !etcd_setup(e)) {
        error_setg(errp, "this libcurl cannot do what etcd needs");
        goto fail;
    }
    return e;

fail:
    etcd_close(e);
    return NULL;
}

/*
 * The session's proof, *@proof NULL: there is none.  @revision, which may be
 * NULL: when it was put, 0 for none.  A transaction that would write if a
 * version were below zero: nothing is written, but it has to be allowed, there
 * must be room, and a majority must agree.
 */
static bool etcd_look(EtcdArbiter *e, char **proof, int64_t *revision,
                      Error **errp)
{
    g_autofree char *session = etcd_key(e, "session");
    g_autofree char *try = etcd_key(e, "try");
    g_autofree char *nothing = base64("nothing");
    g_autoptr(QDict) txn = qdict_from_jsonf_nofail(
        "{ 'compare': [ { 'key': %s, 'target': 'VERSION', 'result': 'LESS',"
        "                 'version': '0' } ],"
        "  'success': [ { 'request_put': { 'key': %s, 'value': %s } } ],"
        "  'failure': [ { 'request_range': { 'key': %s } } ] }",
        session, try, nothing, session);
    EtcdResult r;
    bool ok;

    if (!etcd_txn(e, txn, &r, errp)) {
        return false;
    }
    ok = !r.succeeded && result_value(&r, session, proof);
    if (ok && revision) {
        *revision = 0;
        if (*proof && !result_revision(&r, revision)) {
            g_clear_pointer(proof, g_free);
            ok = false;
        }
    }
    if (!ok) {
        etcd_odd(errp);
    }
    qobject_unref(r.reply);
    return ok;
}

static bool etcd_publish(void *be, const char *proof, Error **errp)
{
    EtcdArbiter *e = be;
    g_autofree char *session = etcd_key(e, "session");
    g_autofree char *value = base64(proof);
    g_autofree char *revision = NULL;
    g_autofree char *has = NULL;
    g_autofree char *now = NULL;
    g_autoptr(QDict) txn = NULL;
    int64_t seen;
    EtcdResult r;
    bool ok;

    if (!etcd_look(e, &has, &seen, errp)) {
        return false;
    }
    /* To etcd, a key that is not there was put in revision 0. */
    revision = g_strdup_printf("%" PRId64, seen);
    txn = qdict_from_jsonf_nofail(
        "{ 'compare': [ { 'key': %s, 'target': 'MOD', 'result': 'EQUAL',"
        "                 'mod_revision': %s } ],"
        "  'success': [ { 'request_put': { 'key': %s, 'value': %s } } ],"
        "  'failure': [ { 'request_range': { 'key': %s } } ] }",
        session, revision, session, value, session);
    if (!etcd_txn(e, txn, &r, errp)) {
        return false;
    }
    if (r.succeeded) {
        ok = result_get(&r, "response_put");
    } else {
        ok = result_value(&r, session, &now);
    }
    qobject_unref(r.reply);
    if (!ok) {
        etcd_odd(errp);
        return false;
    }
    /* It is ours if it was sent twice, and the first answer was lost. */
    if (!r.succeeded && g_strcmp0(now, proof)) {
        error_setg(errp, "%ssession in etcd has just been changed by another "
                   "session", e->prefix);
        return false;
    }
    g_free(e->proof);
    e->proof = g_strdup(proof);
    return true;
}

static char *etcd_session(EtcdArbiter *e, Error **errp)
{
    char *proof;

    if (!etcd_look(e, &proof, NULL, errp)) {
        return NULL;
    }
    if (!proof) {
        error_setg(errp, "etcd has no key %ssession: it is not the etcd that "
                   "the session was begun with, or has lost its data",
                   e->prefix);
    }
    return proof;
}

static char *etcd_proof(void *be, Error **errp)
{
    EtcdArbiter *e = be;
    char *proof = etcd_session(e, errp);

    if (proof) {
        g_free(e->proof);
        e->proof = g_strdup(proof);
    }
    return proof;
}

static bool etcd_probe(void *be, Error **errp)
{
    EtcdArbiter *e = be;
    g_autofree char *proof = etcd_session(e, errp);

    if (proof && e->proof && strcmp(proof, e->proof)) {
        error_setg(errp, "%ssession in etcd is of another session",
                   e->prefix);
        return false;
    }
    return proof != NULL;
}

static FtClaim etcd_judge(EtcdArbiter *e, EtcdResult *r, const char *claim,
                          const char *mark, char **owner, Error **errp)
{
    g_autofree char *has = NULL;

    if (r->succeeded) {
        if (!result_get(r, "response_put")) {
            etcd_odd(errp);
            return FT_CLAIM_UNKNOWN;
        }
        return FT_CLAIM_WON;
    }
    if (!result_value(r, claim, &has)) {
        etcd_odd(errp);
        return FT_CLAIM_UNKNOWN;
    }
    if (!has) {
        error_setg(errp, "%ssession in etcd is not there or of another "
                   "session: another etcd, or it has lost its data",
                   e->prefix);
        return FT_CLAIM_UNKNOWN;
    }
    if (!strcmp(has, mark)) {
        return FT_CLAIM_WON;
    }
    *owner = g_steal_pointer(&has);
    return FT_CLAIM_LOST;
}

static FtClaim etcd_claim(void *be, uint64_t generation, const char *mark,
                          char **owner, Error **errp)
{
    EtcdArbiter *e = be;
    g_autofree char *name = g_strdup_printf("claim-%" PRIu64, generation);
    g_autofree char *claim = etcd_key(e, name);
    g_autofree char *value = base64(mark);
    g_autoptr(QDict) txn = qdict_from_jsonf_nofail(
        "{ 'compare': [ { 'key': %s, 'target': 'CREATE', 'result': 'EQUAL',"
        "                 'create_revision': '0' } ],"
        "  'success': [ { 'request_put': { 'key': %s, 'value': %s } } ],"
        "  'failure': [ { 'request_range': { 'key': %s } } ] }",
        claim, claim, value, claim);
    EtcdResult r;
    FtClaim result;

    if (e->proof) {
        g_autofree char *session = etcd_key(e, "session");
        g_autofree char *proof = base64(e->proof);

        qlist_append(qdict_get_qlist(txn, "compare"),
                     qdict_from_jsonf_nofail(
            "{ 'key': %s, 'target': 'VALUE', 'result': 'EQUAL', 'value': %s }",
            session, proof));
    }
    if (!etcd_txn(e, txn, &r, errp)) {
        return FT_CLAIM_UNKNOWN;
    }
    result = etcd_judge(e, &r, claim, mark, owner, errp);
    qobject_unref(r.reply);
    return result;
}

static void etcd_retire(void *be)
{
    EtcdArbiter *e = be;
    g_autofree char *session = etcd_key(e, "session");
    g_autofree char *proof = NULL;
    g_autoptr(QDict) txn = NULL;
    EtcdResult r;

    if (!e->proof) {
        return;
    }
    proof = base64(e->proof);
    txn = qdict_from_jsonf_nofail(
        "{ 'compare': [ { 'key': %s, 'target': 'VALUE', 'result': 'EQUAL',"
        "                 'value': %s } ],"
        "  'success': [ { 'request_delete_range': { 'key': %s } } ],"
        "  'failure': [ { 'request_range': { 'key': %s } } ] }",
        session, proof, session, session);
    if (etcd_txn(e, txn, &r, NULL)) {
        qobject_unref(r.reply);
    }
}

const FtArbiterOps ft_arbiter_etcd_ops = {
    .open = etcd_open,
    .close = etcd_close,
    .publish = etcd_publish,
    .proof = etcd_proof,
    .probe = etcd_probe,
    .claim = etcd_claim,
    .retire = etcd_retire,
};
