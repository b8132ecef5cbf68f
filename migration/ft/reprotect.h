/*
 * Fault tolerance: protecting again by itself (ft-reprotect)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * When the other side was lost, or has been taken over from, the addresses in
 * ft-reprotect are tried in turn until the guest is protected again: see
 * retry.h for the when.  Ends with that, with cuju-migrate-cancel, an empty
 * ft-reprotect, and the guest's shutdown.
 *
 * Locking: BQL, main loop.
 */

#ifndef MIGRATION_FT_REPROTECT_H
#define MIGRATION_FT_REPROTECT_H

#include "qapi/qapi-types-ft.h"

/*
 * ft_reprotect_lost: a session is over for which the other side was lost, or
 * which this side has taken over; the guest runs here, without protection.
 * Not after an orderly end.
 */
void ft_reprotect_lost(const char *reason);

/* A session has come to @state, which ft_session_last() knows already. */
void ft_reprotect_state(FtState state);

/* ft-reprotect has changed. */
void ft_reprotect_changed(void);

/* The operator, or the end of the guest.  True if it was under way. */
bool ft_reprotect_stop(void);

/* Why the guest lost its protection, which it is to get again; NULL: it is
 * not under way. */
const char *ft_reprotect_reason(void);

/* Fill in what is known of it, if it is under way. */
void ft_reprotect_query(FtStatus *st);

#endif
