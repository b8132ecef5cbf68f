/*
 * Fault tolerance: the guest's clocks over a takeover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef MIGRATION_FT_CLOCK_H
#define MIGRATION_FT_CLOCK_H

/* What an epoch's image tells of the clocks that KVM keeps. */
typedef struct FtClock {
    bool valid;                 /* else there are none */
    uint64_t kvmclock;          /* ns */
    uint64_t tsc;               /* of the first vCPU at that time */
    unsigned vcpus;
    int64_t *apart;             /* [vcpus] TSC minus that of the first */
} FtClock;

/* When something happened, in this host's time. */
typedef struct FtMoment {
    int64_t ns;                 /* get_clock() */
    int64_t ticks;              /* cpu_get_host_ticks() */
} FtMoment;

FtMoment ft_clock_now(void);

/*
 * ft_clock_back: @ns before @m, by the rate of the ticks since @since.  If
 * that was too short a time to say, @m stays.
 */
void ft_clock_back(FtMoment *m, const FtMoment *since, int64_t ns);

/*
 * ft_clock_save: append a record of the clocks to @buf.  BQL held, guest
 * paused.
 */
void ft_clock_save(GByteArray *buf);

/* ft_clock_write: the record of @c, appended to @buf. */
void ft_clock_write(const FtClock *c, GByteArray *buf);

/*
 * ft_clock_load: read the record at the start of @data.  Returns how many
 * bytes it has, 0 with @errp set if it is none.  @c is to be cleared.
 */
size_t ft_clock_load(FtClock *c, const uint8_t *data, size_t len,
                     Error **errp);
void ft_clock_clear(FtClock *c);

/*
 * ft_clock_start: start a guest after a takeover, with its clocks where they
 * would be if it had run on since @since, when the epoch's clocks were read.
 * Stands for vm_start().  Returns what they were put forward by, in ns.
 * BQL held, main loop.
 */
int64_t ft_clock_start(const FtClock *c, const FtMoment *since);

#endif
