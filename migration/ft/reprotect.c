/*
 * Fault tolerance: protecting again by itself (ft-reprotect)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A timer of the main loop around retry.c, which decides.  A try is a
 * "migrate -c" like any other; what comes of it is known by the states that
 * its session goes through.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-ft.h"
#include "qemu/error-report.h"
#include "qemu/notify.h"
#include "qemu/timer.h"
#include "system/runstate-action.h"
#include "system/runstate.h"
#include "reprotect.h"
#include "retry.h"
#include "session.h"
#include "trace.h"

static struct {
    FtRetry retry;
    QEMUTimer *timer;
    char *uri;                  /* of the try that is under way, or the last */
    char *error;                /* why the last one was in vain */
    GHashTable *told;           /* URI -> the same, as people were told */
    char *reason;               /* of the loss */
} re;

static int64_t now_ms(void)
{
    return ft_now_us() / 1000;
}

static const char *place(unsigned i)
{
    strList *l = ft_params()->reprotect;

    while (l && i--) {
        l = l->next;
    }
    return l ? l->value : "";
}

static void set_timer(void)
{
    int64_t due = ft_retry_due(&re.retry);

    if (!re.timer) {
        return;
    }
    if (due == INT64_MAX) {
        timer_del(re.timer);
    } else {
        timer_mod(re.timer, due);
    }
}

/* People hear of each reason once, not with every try. */
static void in_vain(const char *why)
{
    g_free(re.error);
    re.error = g_strdup(why);
    if (g_strcmp0(why, g_hash_table_lookup(re.told, re.uri))) {
        warn_report("ft: not protected again by %s: %s; it is tried on",
                    re.uri, why);
        g_hash_table_replace(re.told, g_strdup(re.uri), g_strdup(why));
    }
}

static void begin(const char *reason)
{
    g_clear_pointer(&re.error, g_free);
    g_free(re.reason);
    re.reason = g_strdup(reason);
    g_hash_table_remove_all(re.told);
}

static void try_one(void *opaque)
{
    Error *err = NULL;
    int n;

    if (runstate_check(RUN_STATE_SHUTDOWN)) {
        ft_reprotect_stop();
        return;
    }
    n = ft_retry_poll(&re.retry, ft_session(), now_ms());
    if (n >= 0) {
        g_free(re.uri);
        re.uri = g_strdup(place(n));
        trace_ft_reprotect(re.uri, re.retry.tries);
        if (!ft_protect_uri(re.uri, &err)) {
            in_vain(error_get_pretty(err));
            error_free(err);
            ft_retry_failed(&re.retry, now_ms());
        }
    }
    set_timer();
}

static void guest_shutdown(Notifier *n, void *data)
{
    if (shutdown_action != SHUTDOWN_ACTION_PAUSE) {
        ft_reprotect_stop();
    }
}

static Notifier shutdown_notifier = { .notify = guest_shutdown };

void ft_reprotect_lost(const char *reason)
{
    if (runstate_check(RUN_STATE_SHUTDOWN)) {
        return;
    }
    if (!re.timer) {
        re.timer = timer_new_ms(QEMU_CLOCK_REALTIME, try_one, NULL);
        re.told = g_hash_table_new_full(g_str_hash, g_str_equal, g_free,
                                        g_free);
        qemu_register_shutdown_notifier(&shutdown_notifier);
    }
    if (re.retry.trying) {
        in_vain(reason);
    } else if (!re.retry.wanted) {
        begin(reason);
    }
    ft_retry_lost(&re.retry, now_ms());
    set_timer();
}

void ft_reprotect_state(FtState state)
{
    bool trying = re.retry.trying;
    const char *reason;

    ft_retry_state(&re.retry, state, now_ms());
    if (trying && state == FT_STATE_PROTECTED) {
        info_report("ft: protected again by %s", re.uri);
    } else if (trying && !re.retry.trying && ft_retry_active(&re.retry)) {
        ft_session_last(&reason);
        in_vain(reason);
    }
    set_timer();
}

void ft_reprotect_changed(void)
{
    unsigned count = 0;
    strList *l;

    for (l = ft_params()->reprotect; l; l = l->next) {
        count++;
    }
    ft_retry_places(&re.retry, count, now_ms());
    set_timer();
}

bool ft_reprotect_stop(void)
{
    bool was = ft_retry_stop(&re.retry);

    set_timer();
    return was;
}

const char *ft_reprotect_reason(void)
{
    return ft_retry_active(&re.retry) ? re.reason : NULL;
}

void ft_reprotect_query(FtStatus *st)
{
    FtReprotectStatus *r;

    if (!ft_retry_active(&re.retry)) {
        return;
    }
    r = g_new0(FtReprotectStatus, 1);
    r->uri = g_strdup(re.retry.trying ? re.uri : place(re.retry.next));
    r->tries = re.retry.tries;
    if (!re.retry.trying) {
        r->next_ms = MAX(ft_retry_due(&re.retry) - now_ms(), 0);
    }
    r->error = g_strdup(re.error);
    st->reprotect = r;
}
