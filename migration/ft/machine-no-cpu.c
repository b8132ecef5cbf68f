/*
 * Fault tolerance: the CPUs that the guest sees, where nobody describes them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu-facts.h"

void ft_machine_cpus(GString *text)
{
}
