/*
 * Unit tests of migration/ft/arbiter-etcd.c: claims in etcd
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Most answers are what the test has written down (etcd-world.h).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "migration/ft/arbiter.h"
#include "etcd-world.h"

#define PROOF   "00ff"
#define OURS    "here pid 1 0011"
#define THEIRS  "there pid 2 2233"

/* In base64, as etcd has it. */
#define PROOF64     "MDBmZg=="
#define OURS64      "aGVyZSBwaWQgMSAwMDEx"
#define THEIRS64    "dGhlcmUgcGlkIDIgMjIzMw=="
#define CLAIM64     \
    "L2N1anUvMDEwMjAzMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwL2NsYWltLTU="
#define SESSION64   \
    "L2N1anUvMDEwMjAzMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwL3Nlc3Npb24="
#define TRY64       \
    "L2N1anUvMDEwMjAzMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwL3RyeQ=="
#define NOTHING64   "bm90aGluZw=="

#define HEADER  "\"header\":{\"cluster_id\":\"1\",\"revision\":\"7\"}"
#define PUT     "{" HEADER ",\"succeeded\":true,\"responses\":" \
                "[{\"response_put\":{\"header\":{\"revision\":\"7\"}}}]}"
#define RANGE(kvs) "{" HEADER ",\"responses\":[{\"response_range\":" \
                "{\"header\":{\"revision\":\"7\"}" kvs "}}]}"
#define KV(k, v) RANGE(",\"kvs\":[{\"key\":\"" k "\",\"version\":\"1\"," \
                       "\"value\":\"" v "\"}],\"count\":\"1\"")
#define HAS(v)  KV(CLAIM64, v)
#define PROVES(v) KV(SESSION64, v)
#define NONE    RANGE("")
/* The session's key, with a revision. */
#define REV(r)  RANGE(",\"kvs\":[{\"key\":\"" SESSION64 "\",\"value\":\"" \
                      PROOF64 "\",\"mod_revision\":" r "}]")

static const FtArbiterOps *const ops = &ft_arbiter_etcd_ops;
static const QemuUUID uuid = { .data = { 1, 2, 3 } };

/* --------------------------------------------------------------- helpers */

static void *be_at(const char *url)
{
    FtArbiterParams p = { .kind = FT_ARBITER_ETCD, .where = (char *)url };

    return ops->open(&p, &uuid, &error_abort);
}

static void *be_as(const char *url, const char *user, const char *password)
{
    FtArbiterParams p = {
        .kind = FT_ARBITER_ETCD, .where = (char *)url, .user = (char *)user,
        .password = (char *)password,
    };

    return ops->open(&p, &uuid, &error_abort);
}

/* @says: for LOST who, for UNKNOWN a part of why. */
static void check_claim(void *be, const char *mark, FtClaim want,
                        const char *says)
{
    g_autofree char *owner = NULL;
    Error *err = NULL;
    FtClaim got = ops->claim(be, 5, mark, &owner, &err);

    if (err) {
        g_test_message("%s", error_get_pretty(err));
        g_assert_null(strstr(error_get_pretty(err), "hunter"));
    }
    g_assert_cmpint(got, ==, want);
    g_assert_true((got == FT_CLAIM_UNKNOWN) == (err != NULL));
    g_assert_true((got == FT_CLAIM_LOST) == (owner != NULL));
    if (owner) {
        g_assert_cmpstr(owner, ==, says);
    }
    if (err) {
        g_assert_nonnull(strstr(error_get_pretty(err), says));
        /* is only said of what is well understood */
        g_assert_true(!strcmp(says, "another session") ||
                      !strstr(error_get_pretty(err), "another session"));
        error_free(err);
    }
}

static void check_probe(void *be, const char *says)
{
    Error *err = NULL;
    bool ok = ops->probe(be, &err);

    g_assert_true(ok == !err);
    if (!says) {
        g_assert_true(ok);
    } else {
        g_assert_false(ok);
        g_test_message("%s", error_get_pretty(err));
        g_assert_nonnull(strstr(error_get_pretty(err), says));
    }
    error_free(err);
}

/* A claim that is answered by @a, alone. */
static void check_answer(const Answer *a, FtClaim want, const char *says)
{
    Server s;
    void *be;

    server_start(&s, a, 1);
    be = be_at(s.url);
    check_claim(be, OURS, want, says);
    ops->close(be);
    server_end(&s);
}

/* ----------------------------------------------------------- good answers */

static void test_answers(void)
{
    check_answer(&(Answer) { PUT }, FT_CLAIM_WON, NULL);
    check_answer(&(Answer) { HAS(OURS64) }, FT_CLAIM_WON, NULL);
    check_answer(&(Answer) { HAS(THEIRS64) }, FT_CLAIM_LOST, THEIRS);
    check_answer(&(Answer) { NONE }, FT_CLAIM_UNKNOWN, "another session");
    check_answer(&(Answer) {
        "{" HEADER ",\"succeeded\":false,\"responses\":[{\"response_range\":"
        "{\"kvs\":[{\"key\":\"" CLAIM64 "\",\"value\":\"" THEIRS64 "\"}]}}]}" },
        FT_CLAIM_LOST, THEIRS);
}

static void check_json(QDict *dict, const char *want)
{
    g_autoptr(GString) text = qobject_to_json(QOBJECT(dict));
    QObject *expected = qobject_from_json(want, &error_abort);

    g_test_message("%s", text->str);
    g_assert_true(qobject_is_equal(QOBJECT(dict), expected));
    qobject_unref(expected);
}

/* For what is there, with a majority and as one who may write. */
#define LOOK \
    "{'compare':[{'key':'" SESSION64 "','target':'VERSION'," \
    "'result':'LESS','version':'0'}]," \
    "'success':[{'request_put':{'key':'" TRY64 "','value':'" \
    NOTHING64 "'}}]," \
    "'failure':[{'request_range':{'key':'" SESSION64 "'}}]}"
#define PUT_IF(revision) \
    "{'compare':[{'key':'" SESSION64 "','target':'MOD'," \
    "'result':'EQUAL','mod_revision':'" revision "'}]," \
    "'success':[{'request_put':{'key':'" SESSION64 "','value':'" \
    PROOF64 "'}}]," \
    "'failure':[{'request_range':{'key':'" SESSION64 "'}}]}"

/* What is asked for. */
static void test_request(void)
{
    static const Answer answers[] = {
        { NONE }, { PUT }, { PUT }, { PROVES(PROOF64) }, { REV("\"77\"") },
        { PUT },
    };
    static const char *const wants[] = {
        LOOK,
        PUT_IF("0"),
        "{'compare':["
        "{'key':'" CLAIM64 "','target':'CREATE','result':'EQUAL',"
        "'create_revision':'0'},"
        "{'key':'" SESSION64 "','target':'VALUE','result':'EQUAL',"
        "'value':'" PROOF64 "'}],"
        "'success':[{'request_put':{'key':'" CLAIM64 "','value':'"
        OURS64 "'}}],"
        "'failure':[{'request_range':{'key':'" CLAIM64 "'}}]}",
        LOOK, LOOK,
        PUT_IF("77"),
    };
    Server s;
    void *be;

    server_start(&s, answers, ARRAY_SIZE(answers));
    be = be_at(s.url);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    check_probe(be, NULL);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    for (int i = 0; i < ARRAY_SIZE(wants); i++) {
        g_autoptr(QDict) body = NULL;

        g_assert_true(g_str_has_prefix(s.request[i],
                                       "POST /v3/kv/txn HTTP/1.1\r\n"));
        g_assert_nonnull(strstr(s.request[i],
                                "Content-Type: application/json\r\n"));
        g_assert_null(strstr(s.request[i], "Authorization"));
        body = qobject_to(QDict, qobject_from_json(
            strstr(s.request[i], "\r\n\r\n") + 4, &error_abort));
        check_json(body, wants[i]);
    }
    ops->close(be);
    server_end(&s);
}

static void test_proof(void)
{
    static const Answer answers[] = {
        { PROVES(PROOF64) }, { PROVES(PROOF64) }, { PROVES(OURS64) }, { NONE },
        { PUT },
        { "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_range\":"
          "{\"kvs\":[{\"key\":\"" SESSION64 "\",\"value\":\"" PROOF64
          "\"}]}}]}" },
        { NONE },
    };
    g_autofree char *proof = NULL;
    Server s;
    void *be;

    server_start(&s, answers, 7);
    be = be_at(s.url);
    ops->retire(be);            /* nothing to do yet */
    proof = ops->proof(be, &error_abort);
    g_assert_cmpstr(proof, ==, PROOF);
    check_probe(be, NULL);
    check_probe(be, "another session");
    check_probe(be, "lost its data");
    check_probe(be, "not to the point");
    check_probe(be, "not to the point");
    ops->retire(be);
    g_assert_nonnull(strstr(s.request[6], "request_delete_range"));
    g_assert_nonnull(strstr(s.request[6], PROOF64));
    ops->close(be);
    server_end(&s);
}

/* Has not been put, whatever else is said. */
static void test_publish(void)
{
    static const Answer answers[] = {
        { PUT }, { PROVES(PROOF64) }, { REV("7") }, { REV("\"0\"") },
        { REV("\"-7\"") }, { REV("\"7x\"") }, { "{}" },
        { NONE }, { NONE },
        { NONE }, { PROVES(THEIRS64) },
        { NONE }, { "{" HEADER ",\"succeeded\":true,\"responses\":[{}]}" },
        { NONE }, { "{}" },
    };
    static const Answer good[] = {
        { REV("\"7\"") }, { PUT }, { NONE }, { PROVES(PROOF64) },
    };
    Server s;
    void *be;

    server_start(&s, answers, ARRAY_SIZE(answers));
    be = be_at(s.url);
    for (int i = 0; i < 11; i++) {
        g_assert_false(ops->publish(be, PROOF, NULL));
    }
    ops->retire(be);            /* there is none that is ours */
    ops->close(be);
    server_end(&s);

    server_start(&s, good, ARRAY_SIZE(good));
    be = be_at(s.url);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    ops->close(be);
    server_end(&s);
}

/* What arrives when its session is over does nothing to the next one. */
static void test_publish_late(void)
{
    Store store = { .hold = "\"" PROOF64 "\"" };
    void *old, *next, *backup;
    g_autofree char *proof = NULL;
    g_autofree char *done = NULL;
    Server s;

    server_start_store(&s, &store, 9);
    old = be_at(s.url);
    next = be_at(s.url);
    backup = be_at(s.url);
    g_assert_false(ops->publish(old, PROOF, NULL));
    g_assert_nonnull(store.held);
    store.hold = NULL;
    g_assert_true(ops->publish(next, "beef", &error_abort));
    proof = ops->proof(backup, &error_abort);
    g_assert_cmpstr(proof, ==, "beef");

    done = store_txn(&store, store.held);
    g_assert_null(strstr(done, "succeeded"));
    check_probe(next, NULL);
    check_probe(backup, NULL);
    ops->retire(old);
    check_claim(backup, THEIRS, FT_CLAIM_WON, NULL);
    check_claim(next, OURS, FT_CLAIM_LOST, THEIRS);
    ops->close(old);
    ops->close(next);
    ops->close(backup);
    server_end(&s);
    store_clear(&store);
}

/* It came through, but its answer did not: there is our own proof. */
static void test_publish_again(void)
{
    Store store = { .lose = "\"" PROOF64 "\"" };
    g_autofree char *urls = NULL;
    Server s;
    void *be;

    server_start_store(&s, &store, 4);
    urls = g_strdup_printf("%s,%s", s.url, s.url);
    be = be_at(urls);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    check_probe(be, NULL);
    ops->close(be);
    server_end(&s);
    store_clear(&store);
}

/* ------------------------------------------------------------ bad answers */

/* Not one of them is a yes or a no. */
static void test_garbage(void)
{
    static const char *const bodies[] = {
        "", " ", "garbage", "[]", "{}", "null", "1", "\"x\"", "{", "<html>",
        "{\"succeeded\":true}",
        "{" HEADER "}",
        "{" HEADER ",\"succeeded\":true}",
        "{" HEADER ",\"succeeded\":true,\"responses\":{}}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[1]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":[{}]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":"
        "[{\"response_put\":1}]}",
        "{" HEADER ",\"succeeded\":true,\"responses\":"
        "[{\"response_range\":{}}]}",
        "{" HEADER ",\"succeeded\":\"true\",\"responses\":"
        "[{\"response_put\":{}}]}",
        "{" HEADER ",\"succeeded\":1,\"responses\":[{\"response_put\":{}}]}",
        "{\"header\":1,\"succeeded\":true,\"responses\":"
        "[{\"response_put\":{}}]}",
        "{\"header\":{\"revision\":7},\"succeeded\":true,\"responses\":"
        "[{\"response_put\":{}}]}",
        "{" HEADER ",\"responses\":[{\"response_put\":{}}]}",
        RANGE(",\"kvs\":{}"), RANGE(",\"kvs\":[]"), RANGE(",\"kvs\":[1]"),
        RANGE(",\"kvs\":[{}]"),
        RANGE(",\"kvs\":[{\"key\":\"" CLAIM64 "\",\"value\":1}]"),
        RANGE(",\"kvs\":[{\"key\":\"" CLAIM64 "\"}]"),
        RANGE(",\"kvs\":[{\"value\":\"" THEIRS64 "\"}]"),
        PROVES(THEIRS64),
        HAS(""), HAS("="), HAS("not base64"), HAS("aGVy\\u0000"), HAS("AAAA"),
        HAS("aGVyZ"), HAS("\\u00e4"),
        PUT "x", PUT PUT,
    };
    g_autofree char *deep = g_strnfill(60000, '[');
    Answer a = { };

    for (int i = 0; i < ARRAY_SIZE(bodies); i++) {
        a.body = bodies[i];
        g_test_message("%s", a.body);
        check_answer(&a, FT_CLAIM_UNKNOWN, "not ");
    }
    check_answer(&(Answer) { PUT, 0, NUL }, FT_CLAIM_UNKNOWN, "what was asked");
    a.body = deep;
    check_answer(&a, FT_CLAIM_UNKNOWN, "[[[[");
}

/* Good words with a status that is not, and what is not HTTP. */
static void test_status(void)
{
    static const int status[] = { 201, 204, 301, 302, 307, 400, 401, 403, 404,
                                  500, 503 };
    static const struct {
        const char *raw, *says;
    } raw[] = {
        { "", "http://127" },
        { "x", "http://127" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" PUT, "http://127" },
        { "HTTP/1.1 200 OK\r\n\r\n", "200" },
        { "HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\n"
          "Content-Length: 0\r\nConnection: close\r\n\r\n", "302" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" PUT,
          "http://127" },
    };

    for (int i = 0; i < ARRAY_SIZE(status); i++) {
        g_autofree char *says = g_strdup_printf("%d", status[i]);

        check_answer(&(Answer) { PUT, status[i] }, FT_CLAIM_UNKNOWN,
                     /* one that has no body */
                     status[i] == 204 ? "http" : says);
    }
    for (int i = 0; i < ARRAY_SIZE(raw); i++) {
        check_answer(&(Answer) { raw[i].raw, 0, RAW }, FT_CLAIM_UNKNOWN,
                     raw[i].says);
    }
    check_answer(&(Answer) {
        "{\"error\":\"etcdserver: no\\u001b[2J leader\",\"code\":14}", 503 },
        FT_CLAIM_UNKNOWN, "(HTTP status 503): etcdserver: no?[2J leader");
    check_answer(&(Answer) { "CommonName\n", 400 }, FT_CLAIM_UNKNOWN,
                 "(HTTP status 400): CommonName");
}

/* An answer has its limits, of size and of time. */
static void test_limits(void)
{
    g_autofree char *fits = g_strnfill(64 * 1024 - strlen(PUT), ' ');
    g_autofree char *just = g_strconcat(PUT, fits, NULL);
    g_autofree char *over = g_strconcat(just, " ", NULL);
    static const How hows[] = { HANG, DRIP };

    check_answer(&(Answer) { just }, FT_CLAIM_WON, NULL);
    check_answer(&(Answer) { over }, FT_CLAIM_UNKNOWN, "too long");
    check_answer(&(Answer) { "", 0, FLOOD }, FT_CLAIM_UNKNOWN, "too long");
    for (int i = 0; i < ARRAY_SIZE(hows); i++) {
        int64_t began = g_get_monotonic_time();
        int64_t took;

        check_answer(&(Answer) { "", 0, hows[i] }, FT_CLAIM_UNKNOWN,
                     "no answer in time");
        took = g_get_monotonic_time() - began;
        g_assert_cmpint(took, >=, 900000);
        g_assert_cmpint(took, <, 3000000);
    }
}

/* ---------------------------------------------------------- several URLs */

static void test_urls(void)
{
    static const Answer good[] = { { NONE }, { PUT }, { PROVES(PROOF64) },
                                   { "", 0, DROP }, { PROVES(PROOF64) } };
    static const Answer bad[] = { { "{}" }, { "{}", 503 } };
    g_autofree char *dead = dead_url();
    g_autofree char *urls = NULL;
    Server g, b;
    void *be;

    server_start(&g, good, 5);
    server_start(&b, bad, 2);
    urls = g_strdup_printf("%s,%s,%s", b.url, dead, g.url);
    be = be_at(urls);
    g_assert_true(ops->publish(be, PROOF, &error_abort));
    g_assert_cmpint(qatomic_read(&b.served), ==, 1);
    /* That one is asked first from now on. */
    check_probe(be, NULL);
    g_assert_cmpint(qatomic_read(&b.served), ==, 1);
    check_probe(be, b.url);
    g_assert_cmpint(qatomic_read(&b.served), ==, 2);
    g_assert_cmpint(qatomic_read(&g.served), ==, 4);
    check_probe(be, NULL);
    ops->close(be);
    server_end(&g);
    server_end(&b);

    be = be_at(dead);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, dead);
    ops->close(be);
}

/* Members that are silent do not hold us one after the other. */
static void test_urls_hang(void)
{
    static const Answer hang[] = { { "", 0, HANG } };
    g_autoptr(GString) urls = g_string_new(NULL);
    Server s[8];
    int64_t took = -g_get_monotonic_time();
    int asked = 0;
    void *be;

    for (int i = 0; i < 8; i++) {
        server_start(&s[i], hang, 1);
        g_string_append_printf(urls, "%s%s", i ? "," : "", s[i].url);
    }
    be = be_at(urls->str);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "no answer in time");
    took += g_get_monotonic_time();
    g_assert_cmpint(took, <, 8000000);
    for (int i = 0; i < 8; i++) {
        asked += qatomic_read(&s[i].served);
    }
    g_assert_cmpint(asked, >=, 5);
    g_assert_cmpint(asked, <, 8);
    /* And those that were left out come first the next time. */
    g_assert_cmpint(s[7].served, ==, 0);
    s[7].answers = &(Answer) { PUT };
    s[6].answers = &(Answer) { "{}" };
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    ops->close(be);
    for (int i = 0; i < 8; i++) {
        s[i].count = s[i].served;
        server_end(&s[i]);
    }
}

/* Won, but the answer was lost: there is our own mark. */
static void test_lost_answer(void)
{
    static const Answer answers[] = { { "", 0, DROP }, { HAS(OURS64) } };
    Server s;
    void *be;

    server_start(&s, answers, 2);
    be = be_at(s.url);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, s.url);
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    ops->close(be);
    server_end(&s);
}

/* --------------------------------------------------------- users and TLS */

#define DENIED(text) "{\"error\":\"" text "\",\"code\":16}"

static void test_user(void)
{
    static const Answer answers[] = {
        { "{" HEADER ",\"token\":\"tok.1\"}" }, { PUT },
        { HAS(OURS64) },
        { DENIED("etcdserver: invalid auth token"), 401 },
        { "{" HEADER ",\"token\":\"tok.2\"}" }, { HAS(THEIRS64) },
        { DENIED("auth: revision in header is old"), 400 },
        { "{" HEADER ",\"token\":\"tok.3\"}" },
        { DENIED("etcdserver: invalid auth token"), 401 },
        { DENIED("etcdserver: permission denied"), 403 },
    };
    g_autoptr(QDict) body = NULL;
    Server s;
    void *be;

    server_start(&s, answers, 10);
    be = be_as(s.url, "me\"", "hunter\\2\"\xc3\xa4");
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    check_claim(be, OURS, FT_CLAIM_WON, NULL);
    check_claim(be, OURS, FT_CLAIM_LOST, THEIRS);
    /* A new one, and only one. */
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "invalid auth token");
    /* That is not about the token. */
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, "permission denied");

    g_assert_true(g_str_has_prefix(s.request[0],
                                   "POST /v3/auth/authenticate "));
    g_assert_null(strstr(s.request[0], "Authorization"));
    body = qobject_to(QDict, qobject_from_json(
        strstr(s.request[0], "\r\n\r\n") + 4, &error_abort));
    g_assert_cmpstr(qdict_get_str(body, "name"), ==, "me\"");
    g_assert_cmpstr(qdict_get_str(body, "password"), ==,
                    "hunter\\2\"\xc3\xa4");
    g_assert_nonnull(strstr(s.request[1], "\r\nAuthorization: tok.1\r\n"));
    g_assert_nonnull(strstr(s.request[2], "\r\nAuthorization: tok.1\r\n"));
    g_assert_nonnull(strstr(s.request[3], "\r\nAuthorization: tok.1\r\n"));
    g_assert_null(strstr(s.request[4], "Authorization"));
    g_assert_nonnull(strstr(s.request[5], "\r\nAuthorization: tok.2\r\n"));
    g_assert_nonnull(strstr(s.request[8], "\r\nAuthorization: tok.3\r\n"));
    for (int i = 0; i < 10; i++) {
        bool login = i == 0 || i == 4 || i == 7;

        g_assert_true(login == !!strstr(s.request[i], "hunter"));
    }
    ops->close(be);
    server_end(&s);
}

static void test_user_refused(void)
{
    static char huge[5200];
    static const Answer answers[] = {
        { DENIED("etcdserver: authentication failed"), 400 },
        { DENIED("your password hunter2 is wrong"), 400 },
        { "your password hunter2 is wrong", 400 },
        { "{" HEADER "}" },
        { "{" HEADER ",\"token\":1}" },
        { "{" HEADER ",\"token\":\"\"}" },
        { "{" HEADER ",\"token\":\"a\\r\\nX-Evil: b\"}" },
        { "{" HEADER ",\"token\":\"a b\"}" },
        { huge },
        { "", 0, DROP },
        { "[]" },
        { "{" HEADER ",\"token\":\"tok\"}", 500 },
    };
    static const char *const says[] = {
        "400): etcdserver: authentication failed", "400): refused",
        "400): refused", "200)", "200)", "0 bytes", "odd", "odd",
        "5000 bytes", "http://127", "200): []", "500)",
    };
    g_autofree char *token = g_strnfill(5000, 't');
    Server s;
    void *be;

    snprintf(huge, sizeof(huge), "{" HEADER ",\"token\":\"%s\"}", token);
    server_start(&s, answers, ARRAY_SIZE(answers));
    be = be_as(s.url, "me", "hunter2");
    for (int i = 0; i < ARRAY_SIZE(answers); i++) {
        check_claim(be, OURS, FT_CLAIM_UNKNOWN, says[i]);
        g_assert_cmpint(qatomic_read(&s.served), ==, i + 1);
    }
    ops->close(be);
    server_end(&s);
}

static void check_open_fails(const FtArbiterParams *p, const char *says)
{
    Error *err = NULL;

    g_assert_null(ops->open(p, &uuid, &err));
    g_test_message("%s", error_get_pretty(err));
    g_assert_nonnull(strstr(error_get_pretty(err), says));
    error_free(err);
}

static void test_open(void)
{
    g_autofree char *dir = g_dir_make_tmp("ft-arbiter-XXXXXX", NULL);
    g_autofree char *ca = g_build_filename(dir, "ca-cert.pem", NULL);
    g_autofree char *cert = g_build_filename(dir, "client-cert.pem", NULL);
    FtArbiterParams p = {
        .kind = FT_ARBITER_ETCD, .where = (char *)"https://127.0.0.1:1",
        .user = (char *)"me",
    };
    Answer plain = { "x", 0, RAW };
    g_autofree char *url = NULL;
    Server s;
    void *be;

    check_open_fails(&p, "no password");
    p.password = (char *)"";
    check_open_fails(&p, "no password");
    p.user = (char *)"";                /* as if there were none */
    p.tls_dir = dir;
    check_open_fails(&p, ca);
    g_assert_true(g_file_set_contents(ca, "x", 1, NULL));
    g_assert_true(g_file_set_contents(cert, "x", 1, NULL));
    check_open_fails(&p, "client-key.pem");
    g_assert_cmpint(remove(cert), ==, 0);
    p.where = (char *)"https://127.0.0.1:1,http://127.0.0.1:2";
    check_open_fails(&p, "http://127.0.0.1:2 is without TLS");

    /* What is no certificate is found out when it is needed. */
    server_start(&s, &plain, 0);
    url = g_strdup_printf("https://%s", s.url + strlen("http://"));
    p.where = url;
    be = ops->open(&p, &uuid, &error_abort);
    check_claim(be, OURS, FT_CLAIM_UNKNOWN, url);
    ops->close(be);
    server_end(&s);
    g_assert_cmpint(remove(ca), ==, 0);
    g_assert_cmpint(remove(dir), ==, 0);
}

int main(int argc, char **argv)
{
    Error *err = NULL;
    void *be;

    g_test_init(&argc, &argv, NULL);
    be = ops->open(&(FtArbiterParams) { .where = (char *)"http://127.0.0.1:1" },
                   &uuid, &err);
    if (!be) {
        /* Built without libcurl: says so, and that is all that is left. */
        g_assert_nonnull(strstr(error_get_pretty(err), "libcurl"));
        error_free(err);
        return g_test_run();
    }
    ops->close(be);
    g_test_add_func("/ft/arbiter/etcd/answers", test_answers);
    g_test_add_func("/ft/arbiter/etcd/request", test_request);
    g_test_add_func("/ft/arbiter/etcd/proof", test_proof);
    g_test_add_func("/ft/arbiter/etcd/publish", test_publish);
    g_test_add_func("/ft/arbiter/etcd/publish-late", test_publish_late);
    g_test_add_func("/ft/arbiter/etcd/publish-again", test_publish_again);
    g_test_add_func("/ft/arbiter/etcd/garbage", test_garbage);
    g_test_add_func("/ft/arbiter/etcd/status", test_status);
    g_test_add_func("/ft/arbiter/etcd/limits", test_limits);
    g_test_add_func("/ft/arbiter/etcd/urls", test_urls);
    g_test_add_func("/ft/arbiter/etcd/urls-hang", test_urls_hang);
    g_test_add_func("/ft/arbiter/etcd/lost-answer", test_lost_answer);
    g_test_add_func("/ft/arbiter/etcd/user", test_user);
    g_test_add_func("/ft/arbiter/etcd/user-refused", test_user_refused);
    g_test_add_func("/ft/arbiter/etcd/open", test_open);
    return g_test_run();
}
