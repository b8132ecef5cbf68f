/*
 * Fault tolerance: the CPUs that the guest sees, and whether two are alike
 * (no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lines of the fingerprint.  CPUs that the guest cannot tell apart are of one
 * kind; KIND is its number, from 0 in the order in which they are first named.
 *
 *   vcpu INDEX KIND                  in the order of the indices, first
 *   feature KIND NAME                the guest's CPU has it
 *   value KIND NAME TEXT             what is no yes or no: family, vendor ..
 *   cpuid KIND LEAF SUBLEAF EAX EBX ECX EDX        all as 8 hex digits
 *   word KIND INDEX BITS             QEMU's feature words, 16 hex digits
 *   tsc KHZ fixed|free               0: not known; fixed by tsc-frequency=
 *   kvm KEY VALUE                    see kvm_names in cpu-facts.c
 *
 * What the host's own CPU is does not matter, only what of it the guest sees.
 * The names are for people; the cpuid and word lines, which have everything,
 * are compared where the names find nothing.
 */

#ifndef MIGRATION_FT_CPU_FACTS_H
#define MIGRATION_FT_CPU_FACTS_H

#include "differ.h"

typedef struct FtCpuFacts FtCpuFacts;

FtCpuFacts *ft_cpu_facts_new(void);
void ft_cpu_facts_free(FtCpuFacts *f);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(FtCpuFacts, ft_cpu_facts_free)

/* Is a line that begins with the word @key one of these? */
bool ft_cpu_facts_key(const char *key);

/*
 * One such line, without its first word; changes @rest.  False: not
 * understood, out of order, or there twice.
 */
bool ft_cpu_facts_line(FtCpuFacts *f, const char *key, char *rest);

void ft_cpu_facts_compare(FtDiffs *d, const FtCpuFacts *primary,
                          const FtCpuFacts *backup);

/*
 * machine-cpu.c: the lines about this machine's CPUs, appended to @text; none
 * where CPUs are not described.  BQL.
 */
void ft_machine_cpus(GString *text);

#endif
