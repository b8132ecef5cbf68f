/*
 * Unit tests of fault tolerance: an etcd, or what is in its place
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A server in a thread answers each request with what the test has written
 * down for it, or out of a store; one connection each.  It keeps the requests.
 */

#ifndef TESTS_UNIT_FT_ETCD_WORLD_H
#define TESTS_UNIT_FT_ETCD_WORLD_H

#include <poll.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/sockets.h"
#include "qemu/thread.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"

/* ----------------------------------------------------------- the answers */

typedef enum How {
    ANSWER,             /* status and body */
    RAW,                /* the body is all of it */
    NUL,                /* there is something after its NUL */
    DROP,               /* close when the request has come */
    HANG,               /* say nothing */
    DRIP,               /* a byte now and then */
    FLOOD,              /* there is no end */
} How;

typedef struct Answer {
    const char *body;
    int status;         /* 0: 200 */
    How how;
} Answer;

/* One request, head and body; NULL: the other end has gone. */
static char *read_request(int fd)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buf[4096];

    for (;;) {
        const char *body = strstr(text->str, "\r\n\r\n");
        const char *length = strcasestr(text->str, "\r\nContent-Length:");
        ssize_t n;

        if (body && length &&
            text->len >= (body + 4 - text->str) +
                         strtoul(length + 17, NULL, 10)) {
            return g_string_free(g_steal_pointer(&text), false);
        }
        n = read(fd, buf, sizeof(buf));
        if (n <= 0) {
            return NULL;
        }
        g_string_append_len(text, buf, n);
    }
}

/* Until the other end has gone; a byte each 20 ms, or as fast as it goes. */
static void go_on(int fd, How how)
{
    g_autofree char *lot = g_strnfill(65536, ' ');

    for (int i = 0; i < 1000; i++) {
        struct pollfd p = { .fd = fd, .events = POLLIN | POLLRDHUP };

        if (poll(&p, 1, how == FLOOD ? 0 : 20) != 0 ||
            (how == DRIP && send(fd, " ", 1, MSG_NOSIGNAL) < 0) ||
            (how == FLOOD && send(fd, lot, 65536, MSG_NOSIGNAL) < 0)) {
            return;
        }
    }
    g_assert_not_reached();
}

static void server_answer(int fd, const Answer *a)
{
    g_autofree char *text = NULL;

    switch (a->how) {
    case DROP:
        return;
    case HANG:
        go_on(fd, HANG);
        return;
    case RAW:
        text = g_strdup(a->body);
        break;
    case NUL:
        text = g_strdup_printf("HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n"
                               "Connection: close\r\n\r\n%s",
                               strlen(a->body) + 1, a->body);
        /* the NUL itself */
        g_assert_cmpint(send(fd, text, strlen(text) + 1, MSG_NOSIGNAL), >, 0);
        return;
    case ANSWER:
        text = g_strdup_printf("HTTP/1.1 %d Whatever\r\n"
                               "Content-Type: application/json\r\n"
                               "Content-Length: %zu\r\n"
                               "Connection: close\r\n\r\n%s",
                               a->status ?: 200, strlen(a->body), a->body);
        break;
    default:
        text = g_strdup("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        break;
    }
    g_assert_cmpint(send(fd, text, strlen(text), MSG_NOSIGNAL), ==,
                    strlen(text));
    if (a->how == DRIP || a->how == FLOOD) {
        go_on(fd, a->how);
    }
}

/* ------------------------------------------------------------- the store */

typedef struct Entry {
    char *key, *value;          /* in base64 */
    int64_t created, changed, version;
} Entry;

/* As much of an etcd as transactions on single keys need. */
typedef struct Store {
    Entry entry[8];             /* without a version: a free one, or no key */
    int64_t revision;
    const char *hold;           /* a request that has this is put by, */
    const char *lose;           /* the answer to one that has this is lost */
    char *held;
} Store;

static Entry *store_find(Store *s, const char *key)
{
    static Entry none;
    Entry *free_one = &none;

    for (int i = 0; i < ARRAY_SIZE(s->entry); i++) {
        if (!g_strcmp0(s->entry[i].key, key)) {
            return &s->entry[i];
        } else if (!s->entry[i].key) {
            free_one = &s->entry[i];
        }
    }
    g_assert_true(free_one != &none);
    free_one->key = g_strdup(key);
    return free_one;
}

static bool store_holds(Store *s, QDict *c)
{
    static const char *const names[] = { "create_revision", "mod_revision",
                                         "version" };
    const char *target = qdict_get_str(c, "target");
    Entry *e = store_find(s, qdict_get_str(c, "key"));
    int64_t is[] = { e->created, e->changed, e->version };
    int i = !strcmp(target, "CREATE") ? 0 : !strcmp(target, "MOD") ? 1 : 2;
    int64_t want;

    if (!strcmp(target, "VALUE")) {
        return e->version && !strcmp(e->value, qdict_get_str(c, "value"));
    }
    want = g_ascii_strtoll(qdict_get_str(c, names[i]), NULL, 10);
    return !strcmp(qdict_get_str(c, "result"), "LESS") ? is[i] < want
                                                       : is[i] == want;
}

/* One operation; what there is to answer. */
static char *store_do(Store *s, QDict *op)
{
    QDict *put = qdict_get_qdict(op, "request_put");
    QDict *range = qdict_get_qdict(op, "request_range");
    QDict *one = put ?: range ?: qdict_get_qdict(op, "request_delete_range");
    Entry *e = store_find(s, qdict_get_str(one, "key"));

    if (!range) {
        s->revision++;
        g_free(e->value);
        e->value = put ? g_strdup(qdict_get_str(put, "value")) : NULL;
        e->version = put ? e->version + 1 : 0;
        e->changed = put ? s->revision : 0;
        e->created = !put ? 0 : e->version == 1 ? s->revision : e->created;
        return g_strdup_printf("{\"response_%s\":{}}",
                               put ? "put" : "delete_range");
    }
    if (!e->version) {
        return g_strdup("{\"response_range\":{}}");
    }
    return g_strdup_printf("{\"response_range\":{\"kvs\":[{\"key\":\"%s\","
                           "\"create_revision\":\"%" PRId64 "\","
                           "\"mod_revision\":\"%" PRId64 "\","
                           "\"version\":\"%" PRId64 "\",\"value\":\"%s\"}]}}",
                           e->key, e->created, e->changed, e->version,
                           e->value);
}

/* Do the transaction of @request.  The answer is to be freed. */
static char *store_txn(Store *s, const char *request)
{
    g_autoptr(QDict) txn = qobject_to(QDict, qobject_from_json(
        strstr(request, "\r\n\r\n") + 4, &error_abort));
    g_autoptr(GString) responses = g_string_new(NULL);
    QList *list = qdict_get_qlist(txn, "compare");
    const QListEntry *i;
    bool yes = true;

    for (i = list ? qlist_first(list) : NULL; i; i = qlist_next(i)) {
        yes &= store_holds(s, qobject_to(QDict, qlist_entry_obj(i)));
    }
    list = qdict_get_qlist(txn, yes ? "success" : "failure");
    for (i = list ? qlist_first(list) : NULL; i; i = qlist_next(i)) {
        g_autofree char *done = store_do(s, qobject_to(QDict,
                                                       qlist_entry_obj(i)));

        g_string_append_printf(responses, "%s%s", responses->len ? "," : "",
                               done);
    }
    return g_strdup_printf("{\"header\":{\"revision\":\"%" PRId64 "\"},"
                           "%s\"responses\":[%s]}", s->revision,
                           yes ? "\"succeeded\":true," : "",
                           responses->str);
}

static void store_answer(Store *s, int fd, const char *request)
{
    g_autofree char *text = NULL;

    if (s->hold && strstr(request, s->hold)) {
        g_free(s->held);
        s->held = g_strdup(request);
        return;
    }
    text = store_txn(s, request);
    if (s->lose && strstr(request, s->lose)) {
        s->lose = NULL;
        return;
    }
    server_answer(fd, &(Answer) { text });
}

static void store_clear(Store *s)
{
    for (int i = 0; i < ARRAY_SIZE(s->entry); i++) {
        g_free(s->entry[i].key);
        g_free(s->entry[i].value);
    }
    g_free(s->held);
}

/* ------------------------------------------------------------ the server */

typedef struct Server {
    int fd;
    char *url;
    const Answer *answers;
    int count;
    Store *store;               /* answers, in place of them */
    int served;                 /* atomic */
    char *request[16];
    QemuThread thread;
} Server;

static void *server_thread(void *opaque)
{
    Server *s = opaque;

    for (;;) {
        int fd = accept(s->fd, NULL, NULL);
        char *request;

        if (fd < 0) {
            return NULL;
        }
        request = read_request(fd);
        if (request) {
            int n = s->served;

            g_assert_cmpint(n, <, s->count);
            s->request[n] = request;
            qatomic_set(&s->served, n + 1);
            if (s->store) {
                store_answer(s->store, fd, request);
            } else {
                server_answer(fd, &s->answers[n]);
            }
        }
        close(fd);
    }
}

static void server_listen(Server *s, const Answer *answers, int count)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(addr);

    *s = (Server) { .answers = answers, .count = count };
    g_assert_cmpint(count, <=, ARRAY_SIZE(s->request));
    s->fd = qemu_socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(bind(s->fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(s->fd, 8), ==, 0);
    g_assert_cmpint(getsockname(s->fd, (struct sockaddr *)&addr, &len), ==, 0);
    s->url = g_strdup_printf("http://127.0.0.1:%d", ntohs(addr.sin_port));
}

static void server_go(Server *s)
{
    qemu_thread_create(&s->thread, "server", server_thread, s,
                       QEMU_THREAD_JOINABLE);
}

static void server_start(Server *s, const Answer *answers, int count)
{
    server_listen(s, answers, count);
    server_go(s);
}

/* For @count requests. */
static void server_start_store(Server *s, Store *store, int count)
{
    server_listen(s, NULL, count);
    s->store = store;
    server_go(s);
}

/* All that was to be asked has been. */
static void server_end(Server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    qemu_thread_join(&s->thread);
    close(s->fd);
    g_assert_cmpint(s->served, ==, s->count);
    for (int i = 0; i < s->served; i++) {
        g_free(s->request[i]);
    }
    g_free(s->url);
}

/* An address where nobody listens. */
static char *dead_url(void)
{
    Server s;
    char *url;

    server_start(&s, NULL, 0);
    url = g_strdup(s.url);
    server_end(&s);
    return url;
}

#endif
