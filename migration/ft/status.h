/*
 * Fault tolerance: parts of query-ft that both sides have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_STATUS_H
#define MIGRATION_FT_STATUS_H

#include "pulse.h"
#include "session.h"

/* Both to be freed; NULL if there is none.  BQL held. */
FtArbiterStatus *ft_status_arbiter(const FtSession *s);
FtHeartStatus *ft_status_heart(FtPulse *p);

/* From a moment to a later one, both in microseconds, in milliseconds. */
double ft_status_ms(int64_t from, int64_t to);

#endif
