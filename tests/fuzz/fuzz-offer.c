/*
 * Fuzz target: the offer of a session, and the arbiter it names
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a byte (0: an offer as in the MACHINE frame, else the name of an
 * arbiter), and the text.  What is accepted is inside its limits, and what
 * this side would write in its place means the same.
 */

#include "qemu/osdep.h"
#include "migration/ft/offer.h"
#include "fuzz.h"

/* arbiter.c names them; no arbiter is made here. */
const FtArbiterOps ft_arbiter_file_ops, ft_arbiter_etcd_ops;

static void check_arbiter(const FtArbiterParams *p)
{
    FtArbiterParams again = { };
    g_autofree char *spec = ft_arbiter_spec(p);
    const char *c;

    g_assert_true(!p->user && !p->password && !p->tls_dir);
    switch (p->kind) {
    case FT_ARBITER_NONE:
        g_assert_null(p->where);
        break;
    case FT_ARBITER_FILE:
        g_assert_cmpint(*p->where, ==, '/');
        break;
    case FT_ARBITER_ETCD:
        g_assert_true(g_str_has_prefix(p->where, "http"));
        /* a user's name or a password would be told to all who ask */
        g_assert_null(strchr(p->where, '@'));
        break;
    default:
        g_assert_not_reached();
    }
    for (c = spec; *c; c++) {
        g_assert_false(g_ascii_iscntrl(*c));
    }
    g_assert_true(ft_arbiter_parse(&again, spec, &error_abort));
    g_assert_cmpint(again.kind, ==, p->kind);
    g_assert_cmpstr(again.where, ==, p->where);
    ft_arbiter_params_clear(&again);
}

static void check_offer(const FtOffer *o)
{
    g_autofree char *text = ft_offer_write(o);
    FtOffer again;

    g_assert_true(ft_offer_check_heart(o->heartbeat_ms, o->timeout_ms,
                                       &error_abort));
    g_assert_cmpint(o->image, >=, -1);
    g_assert_cmpint(o->image, <=, INT_MAX);
    g_assert_cmpuint(strspn(o->proof, "0123456789abcdef"), ==,
                     strlen(o->proof));
    check_arbiter(&o->arbiter);
    g_assert_true(o->image < 0 || o->arbiter.kind == FT_ARBITER_NONE);

    g_assert_true(ft_offer_parse(text, strlen(text), &again, &error_abort));
    g_assert_cmpuint(again.heartbeat_ms, ==, o->heartbeat_ms);
    g_assert_cmpuint(again.timeout_ms, ==, o->timeout_ms);
    g_assert_cmpint(again.image, ==, o->image);
    g_assert_cmpint(again.arbiter.kind, ==, o->arbiter.kind);
    g_assert_cmpstr(again.arbiter.where, ==, o->arbiter.where);
    g_assert_cmpstr(again.proof, ==, o->proof);
    ft_offer_clear(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    bool whole = fuzz_u8(&in) == 0;
    size_t len;
    g_autofree char *text = (char *)fuzz_block(&in, in.left, &len);
    Error *err = NULL;

    if (whole) {
        FtOffer o;

        if (fuzz_result(ft_offer_parse(text ?: "", len, &o, &err), err)) {
            g_autofree char *end = g_strdup_printf("proof %s\n", *o.proof ?
                                                   o.proof : "-");

            /* it was looked at to the end */
            g_assert_cmpuint(len, >=, strlen(end));
            g_assert_cmpmem(text + len - strlen(end), strlen(end), end,
                            strlen(end));
            check_offer(&o);
            ft_offer_clear(&o);
        }
    } else {
        g_autofree char *spec = g_strndup(text ?: "", len);
        FtArbiterParams p = { };

        if (fuzz_result(ft_arbiter_parse(&p, spec, &err), err)) {
            check_arbiter(&p);
        } else {
            g_assert_true(!p.where && p.kind == FT_ARBITER_NONE);
        }
        ft_arbiter_params_clear(&p);
    }
    return 0;
}
