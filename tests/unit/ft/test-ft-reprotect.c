/*
 * Unit tests of migration/ft/reprotect.c: what is done when retry.c says so
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * In QEMU's main loop, in real time; sessions are what the tests say.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-ft.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "system/runstate-action.h"
#include "system/runstate.h"
#include "migration/ft/reprotect.h"
#include "migration/ft/retry.h"
#include "migration/ft/session.h"

#define WAIT_MS 30000

static strList second = { .value = (char *)"tcp:b:2" };
static strList both = { .next = &second, .value = (char *)"tcp:a:1" };

static FtParams params;
static FtSession a_session;
static FtSession *session;
static const char *reason;
static Notifier *shutdown_notifier;
static bool ended;              /* the guest is */

static GString *tried;          /* the first letter of each */
static int64_t tried_at;
static bool refuse;

/* What the tests have instead of the rest of the engine. */
FtParams *ft_params(void)
{
    return &params;
}

FtSession *ft_session(void)
{
    return session;
}

FtState ft_session_last(const char **why)
{
    *why = reason;
    return FT_STATE_INACTIVE;
}

int64_t ft_now_us(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_REALTIME) / SCALE_US;
}

ShutdownAction shutdown_action = SHUTDOWN_ACTION_POWEROFF;

bool runstate_check(RunState state)
{
    return ended && state == RUN_STATE_SHUTDOWN;
}

void qemu_register_shutdown_notifier(Notifier *notifier)
{
    g_assert_null(shutdown_notifier);
    shutdown_notifier = notifier;
}

static void state(FtState st, const char *why)
{
    reason = why;
    if (st == FT_STATE_INACTIVE || st == FT_STATE_UNPROTECTED) {
        session = NULL;
    }
    ft_reprotect_state(st);
}

bool ft_protect_uri(const char *uri, Error **errp)
{
    g_assert_null(session);
    g_string_append_c(tried, uri[4]);
    tried_at = ft_now_us();
    if (refuse) {
        error_setg(errp, "refused");
        return false;
    }
    session = &a_session;
    state(FT_STATE_SETUP, "connecting");
    return true;
}

static void loop_until_tried(const char *want)
{
    int64_t until = ft_now_us() + WAIT_MS * 1000;

    while (strcmp(tried->str, want)) {
        g_assert_cmpint(ft_now_us(), <, until);
        g_assert_true(g_str_has_prefix(want, tried->str));
        main_loop_wait(true);
        g_usleep(500);
    }
}

static void loop_for(int ms)
{
    int64_t until = ft_now_us() + ms * 1000;

    while (ft_now_us() < until) {
        main_loop_wait(true);
        g_usleep(500);
    }
}

static FtReprotectStatus *query(void)
{
    FtStatus st = { };

    ft_reprotect_query(&st);
    return st.reprotect;
}

static void begin(strList *places)
{
    ft_reprotect_stop();
    state(FT_STATE_SETUP, "");  /* of a session that is lost later */
    state(FT_STATE_PROTECTED, "");
    params.reprotect = places;
    ft_reprotect_changed();
    refuse = false;
    session = NULL;
    g_string_truncate(tried, 0);
}

static void test_in_turn(void)
{
    FtReprotectStatus *r;
    int64_t first;

    begin(&both);
    g_assert_null(query());
    refuse = true;
    ft_reprotect_lost("the backup is gone");
    g_assert_cmpstr(ft_reprotect_reason(), ==, "the backup is gone");
    r = query();
    g_assert_cmpstr(r->uri, ==, "tcp:a:1");
    g_assert_cmpuint(r->tries, ==, 0);
    g_assert_null(r->error);
    qapi_free_FtReprotectStatus(r);

    loop_until_tried("ab");
    first = tried_at;
    r = query();
    g_assert_cmpstr(r->uri, ==, "tcp:a:1");
    g_assert_cmpuint(r->tries, ==, 2);
    g_assert_cmpstr(r->error, ==, "refused");
    g_assert_cmpint(r->next_ms, >, 0);
    g_assert_cmpint(r->next_ms, <=, FT_RETRY_REST_MS);
    qapi_free_FtReprotectStatus(r);

    refuse = false;
    loop_until_tried("aba");
    g_assert_cmpint(tried_at - first, >=, (FT_RETRY_REST_MS - 1) * 1000);
    r = query();
    g_assert_cmpstr(r->uri, ==, "tcp:a:1");
    g_assert_cmpint(r->next_ms, ==, 0);
    qapi_free_FtReprotectStatus(r);

    state(FT_STATE_SYNC, "first copy");
    loop_for(20);
    state(FT_STATE_INACTIVE, "lost in the first copy");
    r = query();
    g_assert_cmpstr(r->error, ==, "lost in the first copy");
    qapi_free_FtReprotectStatus(r);
    loop_until_tried("abab");
    r = query();
    g_assert_cmpstr(r->uri, ==, "tcp:b:2");
    qapi_free_FtReprotectStatus(r);
    g_assert_cmpstr(ft_reprotect_reason(), ==, "the backup is gone");
    state(FT_STATE_PROTECTED, "protected");
    g_assert_null(query());
    g_assert_null(ft_reprotect_reason());
    loop_for(20);
    g_assert_cmpstr(tried->str, ==, "abab");
}

/* The old session is still being freed. */
static void test_busy(void)
{
    FtReprotectStatus *r;

    begin(&second);
    session = &a_session;
    ft_reprotect_lost("gone");
    r = query();
    g_assert_null(r->error);    /* that was another time */
    qapi_free_FtReprotectStatus(r);
    loop_for(50);
    g_assert_cmpstr(tried->str, ==, "");
    session = NULL;
    loop_until_tried("b");
    state(FT_STATE_PROTECTED, "protected");
}

static void test_stop(void)
{
    begin(&second);
    ft_reprotect_lost("gone");
    g_assert_true(ft_reprotect_stop());
    loop_for(30);
    g_assert_cmpstr(tried->str, ==, "");

    /* the parameter */
    begin(&second);
    ft_reprotect_lost("gone");
    params.reprotect = NULL;
    ft_reprotect_changed();
    loop_for(30);
    g_assert_cmpstr(tried->str, ==, "");
    params.reprotect = &second;
    ft_reprotect_changed();
    loop_until_tried("b");
    state(FT_STATE_PROTECTED, "protected");

    /* the guest's end */
    begin(&second);
    ft_reprotect_lost("gone");
    shutdown_notifier->notify(shutdown_notifier, NULL);
    loop_for(30);
    g_assert_null(query());

    /* and before */
    begin(&second);
    ended = true;
    ft_reprotect_lost("gone");
    ended = false;
    g_assert_null(query());
    begin(&second);
    ft_reprotect_lost("gone");
    ended = true;
    loop_for(30);
    ended = false;
    g_assert_null(query());
    g_assert_cmpstr(tried->str, ==, "");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    qemu_init_main_loop(&error_abort);
    tried = g_string_new("");
    alarm(100);
    g_test_add_func("/ft/reprotect/in-turn", test_in_turn);
    g_test_add_func("/ft/reprotect/busy", test_busy);
    g_test_add_func("/ft/reprotect/stop", test_stop);
    return g_test_run();
}
