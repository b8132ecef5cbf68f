/*
 * Fault tolerance: what the primary tells the backup of the session to come
 * (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "offer.h"

#define HEARTBEAT_MIN   10
#define HEARTBEAT_MAX   10000
#define TIMEOUT_MIN     100
#define TIMEOUT_MAX     60000
/* A heartbeat may come late, and its time of sending must be remembered. */
#define BEATS_MIN       4
#define BEATS_MAX       200

bool ft_offer_check_heart(uint64_t heartbeat_ms, uint64_t timeout_ms,
                          Error **errp)
{
    if (heartbeat_ms < HEARTBEAT_MIN || heartbeat_ms > HEARTBEAT_MAX) {
        error_setg(errp, "ft-heartbeat-ms must be from %u to %u, not %" PRIu64,
                   HEARTBEAT_MIN, HEARTBEAT_MAX, heartbeat_ms);
        return false;
    }
    if (timeout_ms < TIMEOUT_MIN || timeout_ms > TIMEOUT_MAX) {
        error_setg(errp, "ft-timeout-ms must be from %u to %u, not %" PRIu64,
                   TIMEOUT_MIN, TIMEOUT_MAX, timeout_ms);
        return false;
    }
    if (timeout_ms < BEATS_MIN * heartbeat_ms ||
        timeout_ms > BEATS_MAX * heartbeat_ms) {
        error_setg(errp, "ft-timeout-ms must be %u to %u times "
                   "ft-heartbeat-ms: %" PRIu64 " is not, with %" PRIu64,
                   BEATS_MIN, BEATS_MAX, timeout_ms, heartbeat_ms);
        return false;
    }
    return true;
}

char *ft_offer_write(const FtOffer *o)
{
    g_autofree char *arbiter = o->image >= 0 ?
        g_strdup_printf("image %" PRId64, o->image) :
        ft_arbiter_spec(&o->arbiter);

    return g_strdup_printf("heart %" PRIu32 " %" PRIu32 "\n"
                           "arbiter %s\n"
                           "proof %s\n",
                           o->heartbeat_ms, o->timeout_ms, arbiter,
                           *o->proof ? o->proof : "-");
}

static bool parse_heart(FtOffer *o, const char *line, Error **errp)
{
    const char *rest, *end;
    uint64_t heartbeat, timeout;

    if (!strstart(line, "heart ", &rest) ||
        qemu_strtou64(rest, &end, 10, &heartbeat) || *end != ' ' ||
        qemu_strtou64(end + 1, NULL, 10, &timeout)) {
        error_setg(errp, "the primary does not say how often it sends "
                   "heartbeats");
        return false;
    }
    o->heartbeat_ms = heartbeat;
    o->timeout_ms = timeout;
    return ft_offer_check_heart(heartbeat, timeout, errp);
}

static bool parse_arbiter(FtOffer *o, const char *line, Error **errp)
{
    const char *rest, *index;
    uint64_t n;

    if (!strstart(line, "arbiter ", &rest)) {
        error_setg(errp, "the primary does not say which arbiter it uses");
        return false;
    }
    if (!strstart(rest, "image ", &index)) {
        return ft_arbiter_parse(&o->arbiter, rest, errp);
    }
    if (qemu_strtou64(index, NULL, 10, &n) || n > INT_MAX) {
        error_setg(errp, "the primary names no drive whose directory is the "
                   "arbiter");
        return false;
    }
    o->image = n;
    return true;
}

static bool parse_proof(FtOffer *o, const char *line, Error **errp)
{
    const char *rest;

    if (!strstart(line, "proof ", &rest) || !*rest ||
        strlen(rest) > FT_OFFER_PROOF_MAX) {
        error_setg(errp, "the primary does not say what is to be found at "
                   "the arbiter");
        return false;
    }
    if (strcmp(rest, "-")) {
        if (strspn(rest, "0123456789abcdef") != strlen(rest)) {
            error_setg(errp, "what is to be found at the arbiter is no number");
            return false;
        }
        pstrcpy(o->proof, sizeof(o->proof), rest);
    }
    return true;
}

bool ft_offer_parse(const char *text, size_t len, FtOffer *o, Error **errp)
{
    g_autofree char *copy = NULL;
    g_auto(GStrv) line = NULL;

    *o = (FtOffer) { .image = -1 };
    if (len > FT_OFFER_LINE_MAX || memchr(text, 0, len)) {
        error_setg(errp, "the primary's offer of a session makes no sense");
        return false;
    }
    copy = g_strndup(text, len);
    line = g_strsplit(copy, "\n", 5);
    /* the last line has an end, too */
    if (g_strv_length(line) != 4 || *line[3]) {
        error_setg(errp, "the primary's offer of a session makes no sense");
        return false;
    }
    if (!parse_heart(o, line[0], errp) || !parse_arbiter(o, line[1], errp) ||
        !parse_proof(o, line[2], errp)) {
        ft_offer_clear(o);
        return false;
    }
    return true;
}

void ft_offer_clear(FtOffer *o)
{
    ft_arbiter_params_clear(&o->arbiter);
}
