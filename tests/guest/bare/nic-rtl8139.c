/*
 * Driver of the RTL8139 (C mode) for the bare test guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "ftguest.h"

#define TX_STATUS(n)    (0x10 + 4 * (n))
#define TX_ADDRESS(n)   (0x20 + 4 * (n))
#define RX_BUFFER       0x30
#define COMMAND         0x37
#define RX_READ         0x38
#define INT_MASK        0x3c
#define INT_STATUS      0x3e
#define RX_CONFIG       0x44
#define CONFIG1         0x52

#define COMMAND_RX_EMPTY    0x01
#define COMMAND_TX          0x04
#define COMMAND_RX          0x08
#define COMMAND_RESET       0x10
#define TX_HOST_OWNS        0x2000
#define INT_RX              0x51        /* received, overflow, FIFO */
#define RX_ACCEPT           0x0a        /* to us, and broadcast */
#define RX_WRAP             0x80        /* a frame may run past the end */
#define RX_RING             32768u
#define TX_SLOTS            4

static uint16_t port;
static uint8_t rx_ring[RX_RING + 16 + 2048] __attribute__((aligned(16)));
static uint8_t tx_frame[TX_SLOTS][2048] __attribute__((aligned(16)));
static unsigned rx_at, tx_slot;

static bool rtl8139_acknowledge(void *opaque)
{
    uint16_t status = inw(port + INT_STATUS);

    outw(port + INT_STATUS, status);
    return status & INT_RX;
}

static bool rtl8139_probe(const PciDevice *d, uint8_t mac[6])
{
    if (d->vendor_id != 0x10ec || d->device_id != 0x8139) {
        return false;
    }
    pci_enable(d);
    port = pci_bar(d, 0);
    outb(port + CONFIG1, 0);            /* awake */
    outb(port + COMMAND, COMMAND_RESET);
    for (unsigned i = 0; i < 10000; i++) {
        if (!(inb(port + COMMAND) & COMMAND_RESET)) {
            break;
        }
    }
    for (unsigned i = 0; i < 6; i++) {
        mac[i] = inb(port + i);
    }
    outl(port + RX_BUFFER, (uintptr_t)rx_ring);
    for (unsigned i = 0; i < TX_SLOTS; i++) {
        outl(port + TX_ADDRESS(i), (uintptr_t)tx_frame[i]);
    }
    outb(port + COMMAND, COMMAND_TX | COMMAND_RX);
    outl(port + RX_CONFIG, 2 << 11 | 7 << 8 | RX_WRAP | RX_ACCEPT);
    outw(port + INT_MASK, INT_RX);
    irq_route(&nic_line, pci_irq(d), rtl8139_acknowledge, NULL);
    return true;
}

static bool rtl8139_send(const void *frame, size_t length)
{
    if (!(inl(port + TX_STATUS(tx_slot)) & TX_HOST_OWNS)) {
        return false;
    }
    memcpy(tx_frame[tx_slot], frame, length);
    dma_barrier();
    outl(port + TX_STATUS(tx_slot), length);
    tx_slot = (tx_slot + 1) % TX_SLOTS;
    return true;
}

static bool rtl8139_pending(void)
{
    return !(inb(port + COMMAND) & COMMAND_RX_EMPTY);
}

static size_t rtl8139_receive(void *frame)
{
    while (rtl8139_pending()) {
        uint16_t status, length;
        size_t n = 0;

        dma_barrier();
        memcpy(&status, rx_ring + rx_at, 2);
        memcpy(&length, rx_ring + rx_at + 2, 2);
        if ((status & 1) && length >= 18 && length - 4u <= FRAME_MAX) {
            n = length - 4;             /* without the CRC */
            memcpy(frame, rx_ring + rx_at + 4, n);
        }
        rx_at = ((rx_at + length + 4 + 3) & ~3u) % RX_RING;
        outw(port + RX_READ, rx_at - 16);
        if (n) {
            return n;
        }
    }
    return 0;
}

const Nic nic_rtl8139 = {
    .name = "rtl8139",
    .probe = rtl8139_probe,
    .send = rtl8139_send,
    .receive = rtl8139_receive,
    .pending = rtl8139_pending,
};
