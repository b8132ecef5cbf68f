/*
 * Fault tolerance: what the primary tells the backup of the session to come
 * (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lines of text in the MACHINE frame, between the description of the machine
 * and that of the drives:
 *
 *   --session--
 *   heart 50 500                 heartbeat and timeout, milliseconds
 *   arbiter file:/srv/ft         which; or "image 3": the directory of the
 *                                image of drive 3, or "none"
 *   proof 0123456789abcdef...    to be found at the arbiter; "-": none
 */

#ifndef MIGRATION_FT_OFFER_H
#define MIGRATION_FT_OFFER_H

#include "arbiter.h"
#include "qapi/error.h"

#define FT_OFFER_MARK       "--session--\n"
#define FT_OFFER_PROOF_MAX  64
#define FT_OFFER_LINE_MAX   4096

typedef struct FtOffer {
    uint32_t heartbeat_ms;
    uint32_t timeout_ms;
    FtArbiterParams arbiter;    /* without secrets; not set with image */
    int64_t image;              /* drive, or -1 */
    char proof[FT_OFFER_PROOF_MAX + 1];     /* hex digits; empty: none */
} FtOffer;

/* The text, without the mark.  To be freed. */
char *ft_offer_write(const FtOffer *o);

/*
 * ft_offer_parse: the other way, from @len bytes of @text (untrusted, not
 * terminated).  On success @o is to be given to ft_offer_clear().
 */
bool ft_offer_parse(const char *text, size_t len, FtOffer *o, Error **errp);
void ft_offer_clear(FtOffer *o);

/* Are these a heartbeat and a timeout that both sides can live with? */
bool ft_offer_check_heart(uint64_t heartbeat_ms, uint64_t timeout_ms,
                          Error **errp);

#endif
