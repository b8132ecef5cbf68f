/*
 * PCI configuration space of bus 0, by ports 0xcf8 and 0xcfc.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "ftguest.h"

static void pci_select(const PciDevice *d, unsigned offset)
{
    outl(0xcf8, 0x80000000u | d->device << 11 | d->function << 8 |
                (offset & 0xfc));
}

uint32_t pci_read(const PciDevice *d, unsigned offset)
{
    pci_select(d, offset);
    return inl(0xcfc);
}

void pci_write(const PciDevice *d, unsigned offset, uint32_t v)
{
    pci_select(d, offset);
    outl(0xcfc, v);
}

/* The address that the firmware gave to a BAR, flags cut off. */
uint32_t pci_bar(const PciDevice *d, unsigned n)
{
    uint32_t v = pci_read(d, 0x10 + 4 * n);

    return v & 1 ? v & ~3u : v & ~15u;
}

/* Ports, memory and bus mastering on; INTx not disabled. */
void pci_enable(const PciDevice *d)
{
    pci_write(d, 4, (pci_read(d, 4) & 0xfbff & ~0xffff0000u) | 7);
}

unsigned pci_irq(const PciDevice *d)
{
    return pci_read(d, 0x3c) & 0xff;
}

/* Walk over all functions that are there; start with @first. */
bool pci_next(PciDevice *d, bool first)
{
    unsigned n = first ? 0 : d->device * 8u + d->function + 1;

    for (; n < 256; n++) {
        uint32_t id;

        d->device = n / 8;
        d->function = n % 8;
        id = pci_read(d, 0);
        if ((id & 0xffff) != 0xffff) {
            d->vendor_id = id;
            d->device_id = id >> 16;
            return true;
        }
    }
    return false;
}
