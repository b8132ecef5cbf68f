/*
 * Fuzz target: what comes from whoever listens where etcd should be
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: which function of the backend is called, with or without a user and
 * a proof, then for each request what libcurl would come back with: how it
 * went, HTTP's status, and the body in pieces.
 *
 * A claim is won only by an answer that says so, and lost only to somebody;
 * the number of requests for one call has a bound.
 */

#include "qemu/osdep.h"

/* No network: what is asked of libcurl is answered here. */
#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#undef curl_easy_setopt
#undef curl_easy_getinfo
#define curl_global_init(flags)         0
#define curl_easy_init()                ((CURL *)&fuzz_curl)
#define curl_easy_cleanup(curl)         ((void)(curl))
#define curl_easy_setopt(curl, o, v)    (((void)(v)), CURLE_OK)
#define curl_easy_perform(curl)         fuzz_perform()
#define curl_easy_getinfo(curl, i, v)   (*(v) = fuzz_status, CURLE_OK)
#define curl_easy_strerror(rc)          "failed"
#define curl_slist_append(list, text)   (fuzz_header(text), list)
#define curl_slist_free_all(list)       ((void)(list))

static int fuzz_curl;
static long fuzz_status;
static CURLcode fuzz_perform(void);
static void fuzz_header(const char *line);

#include "migration/ft/arbiter-etcd.c"
#include "fuzz.h"

/*
 * QEMU's JSON parser forgets a value whose key comes twice, which is a leak
 * and not what is looked for here: with this it does not.
 */
static bool key_comes_again(QDict *dict, const char *key, QObject *value)
{
    bool again = qdict_haskey(dict, key);

    if (again) {
        qobject_unref(value);
    }
    return again;
}
#define qdict_haskey(dict, key) key_comes_again(dict, key, value)
#include "qobject/json-parser.c"
#undef qdict_haskey

#define URLS        2
#define MARK        "0123456789abcdef host pid 1"
#define PROOF       "fedcba9876543210"
#define PASSWORD    "secret word"

/* arbiter.c names it. */
const FtArbiterOps ft_arbiter_file_ops;

static FuzzInput *input;
static EtcdArbiter *etcd;
static unsigned requests;
static GString *last;           /* the body of the last answer */

static CURLcode fuzz_perform(void)
{
    uint8_t how = fuzz_u8(input);
    size_t left = fuzz_u16(input);

    /* a login and the request, twice, for each URL */
    g_assert_cmpuint(++requests, <=, 4 * URLS);
    g_string_truncate(last, 0);
    switch (how & 3) {
    case 0:
        fuzz_status = 200;
        break;
    case 1:
        fuzz_status = 401;
        break;
    case 2:
        fuzz_status = fuzz_u16(input);
        break;
    case 3:
        return CURLE_COULDNT_CONNECT;
    }
    while (left && input->left) {
        size_t n;
        g_autofree uint8_t *piece = fuzz_block(input,
                                               MIN(left, 1 + (how >> 2) * 64),
                                               &n);

        g_string_append_len(last, (char *)piece, n);
        if (on_answer((char *)piece, 1, n, etcd) != n) {
            return CURLE_WRITE_ERROR;
        }
        left -= n;
    }
    if (how & 0x80) {
        /* more than can be: it is not kept */
        static char much[4096];
        unsigned i;

        for (i = 0; i < 17; i++) {
            if (on_answer(much, 1, sizeof(much), etcd) != sizeof(much)) {
                return CURLE_WRITE_ERROR;
            }
        }
        g_assert_not_reached();
    }
    return CURLE_OK;
}

/* What etcd has said must not become a line of its own. */
static void fuzz_header(const char *line)
{
    for (; *line; line++) {
        g_assert_true(g_ascii_isprint(*line));
    }
}

/* As fuzz_result(), and nothing of ours is told to whoever reads it. */
static void etcd_result(bool ok, Error *err)
{
    g_assert_true(!err || !etcd->user ||
                  !strstr(error_get_pretty(err), PASSWORD));
    fuzz_result(ok, err);
}

static bool last_has(const char *text)
{
    return g_strstr_len(last->str, last->len, text);
}

static void check_claim(void)
{
    g_autofree char *mark = base64(MARK);
    g_autofree char *key = etcd_key(etcd, "claim-7");
    char *owner = NULL;
    Error *err = NULL;
    FtClaim claim = etcd_claim(etcd, 7, MARK, &owner, &err);

    g_assert_true((claim == FT_CLAIM_LOST) == !!owner);
    if (claim == FT_CLAIM_WON) {
        g_assert_true(last_has("revision"));
        g_assert_true(last_has("response_put") ? last_has("true") :
                                                 last_has(key) &&
                                                 last_has(mark));
    } else if (claim == FT_CLAIM_LOST) {
        g_assert_true(*owner && strcmp(owner, MARK));
        g_assert_true(last_has("response_range") && last_has(key));
    }
    etcd_result(claim != FT_CLAIM_UNKNOWN, err);
    g_free(owner);
}

static void check_proof(void)
{
    Error *err = NULL;
    g_autofree char *proof = etcd_proof(etcd, &err);

    etcd_result(proof, err);
    if (proof) {
        g_autofree char *text = base64(proof);

        g_assert_true(*proof && last_has(text));
        g_assert_cmpstr(etcd->proof, ==, proof);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t how = fuzz_u8(&in);
    FtArbiterParams params = {
        .kind = FT_ARBITER_ETCD,
        .where = (char *)"http://127.0.0.1:2379,http://127.0.0.1:2380",
        .user = (char *)(how & 0x40 ? "cuju" : NULL),
        .password = (char *)PASSWORD,
    };
    QemuUUID uuid = { .data = { 1, 2, 3 } };
    unsigned calls = 0;

    input = &in;
    last = g_string_new(NULL);
    etcd = etcd_open(&params, &uuid, &error_abort);
    if (how & 0x80) {
        etcd->proof = g_strdup(PROOF);
    }
    do {
        Error *err = NULL;

        requests = 0;
        switch (how % 8) {
        case 0:
            etcd_result(etcd_publish(etcd, PROOF, &err), err);
            break;
        case 1:
            check_proof();
            break;
        case 2:
            etcd_result(etcd_probe(etcd, &err), err);
            break;
        case 3:
            etcd_retire(etcd);
            break;
        default:
            check_claim();
            break;
        }
        how = fuzz_u8(&in);
    } while (in.left && ++calls < 8);
    etcd_close(etcd);
    g_string_free(last, true);
    return 0;
}
