/*
 * Driver of the Intel 82540EM (e1000) and 82574L (e1000e).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Legacy descriptors and INTx, which both devices know.
 */

#include "ftguest.h"

#define CTRL            0x0000
#define ICR             0x00c0
#define IMS             0x00d0
#define IMC             0x00d8
#define RCTL            0x0100
#define TCTL            0x0400
#define TIPG            0x0410
#define RX_BASE         0x2800
#define RX_BASE_HIGH    0x2804
#define RX_LENGTH       0x2808
#define RX_HEAD         0x2810
#define RX_TAIL         0x2818
#define TX_BASE         0x3800
#define TX_BASE_HIGH    0x3804
#define TX_LENGTH       0x3808
#define TX_HEAD         0x3810
#define TX_TAIL         0x3818
#define MULTICAST       0x5200
#define ADDRESS_LOW     0x5400
#define ADDRESS_HIGH    0x5404

#define CTRL_LINK_UP    0x40
#define CTRL_RESET      0x04000000
#define INT_RX          0xd4    /* timer, overrun, minimum; link change */
#define RCTL_ON         0x04008002      /* enable, broadcast, strip CRC */
#define TCTL_ON         0x0004010a      /* enable, pad short ones */
#define DONE            1
#define TX_COMMAND      0x0b            /* end, add CRC, report status */
#define SLOTS           32u
#define FRAME_SPACE     2048u

typedef struct RxDescriptor {
    uint64_t address;
    uint16_t length;
    uint16_t checksum;
    uint8_t status;
    uint8_t errors;
    uint16_t special;
} RxDescriptor;

typedef struct TxDescriptor {
    uint64_t address;
    uint16_t length;
    uint8_t checksum_offset;
    uint8_t command;
    uint8_t status;
    uint8_t checksum_start;
    uint16_t special;
} TxDescriptor;

static uintptr_t regs;
static volatile RxDescriptor rx[SLOTS] __attribute__((aligned(128)));
static volatile TxDescriptor tx[SLOTS] __attribute__((aligned(128)));
static uint8_t rx_frame[SLOTS][FRAME_SPACE];
static uint8_t tx_frame[SLOTS][FRAME_SPACE];
static unsigned rx_at, tx_at;

static uint32_t reg_read(unsigned r)
{
    return *(volatile uint32_t *)(regs + r);
}

static void reg_write(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)(regs + r) = v;
}

static bool e1000_acknowledge(void *opaque)
{
    uint32_t cause = reg_read(ICR);

    reg_write(ICR, cause);
    return cause & INT_RX;
}

static bool e1000_probe(const PciDevice *d, uint8_t mac[6])
{
    if (d->vendor_id != 0x8086 ||
        (d->device_id != 0x100e && d->device_id != 0x10d3)) {
        return false;
    }
    pci_enable(d);
    regs = pci_bar(d, 0);
    reg_write(IMC, 0xffffffff);
    reg_write(CTRL, reg_read(CTRL) | CTRL_RESET);
    for (unsigned i = 0; i < 10000; i++) {
        if (!(reg_read(CTRL) & CTRL_RESET)) {
            break;
        }
    }
    reg_write(IMC, 0xffffffff);
    reg_write(CTRL, reg_read(CTRL) | CTRL_LINK_UP);
    for (unsigned i = 0; i < 6; i++) {
        mac[i] = reg_read(i < 4 ? ADDRESS_LOW : ADDRESS_HIGH) >> 8 * (i % 4);
    }
    for (unsigned i = 0; i < 128; i++) {
        reg_write(MULTICAST + 4 * i, 0);
    }
    for (unsigned i = 0; i < SLOTS; i++) {
        rx[i].address = (uintptr_t)rx_frame[i];
        tx[i].address = (uintptr_t)tx_frame[i];
        tx[i].status = DONE;
    }
    reg_write(RX_BASE, (uintptr_t)rx);
    reg_write(RX_BASE_HIGH, 0);
    reg_write(RX_LENGTH, sizeof(rx));
    reg_write(RX_HEAD, 0);
    reg_write(RX_TAIL, SLOTS - 1);
    reg_write(TX_BASE, (uintptr_t)tx);
    reg_write(TX_BASE_HIGH, 0);
    reg_write(TX_LENGTH, sizeof(tx));
    reg_write(TX_HEAD, 0);
    reg_write(TX_TAIL, 0);
    reg_write(TIPG, 0x0060200a);
    reg_write(TCTL, TCTL_ON);
    reg_write(RCTL, RCTL_ON);
    reg_write(IMS, INT_RX);
    irq_route(&nic_line, pci_irq(d), e1000_acknowledge, NULL);
    return true;
}

static bool e1000_send(const void *frame, size_t length)
{
    /* One slot stays empty: head == tail means nothing to do. */
    if (!(tx[tx_at].status & DONE) ||
        !(tx[(tx_at + 1) % SLOTS].status & DONE)) {
        return false;
    }
    memcpy(tx_frame[tx_at], frame, length);
    tx[tx_at].length = length;
    tx[tx_at].command = TX_COMMAND;
    tx[tx_at].status = 0;
    dma_barrier();
    tx_at = (tx_at + 1) % SLOTS;
    reg_write(TX_TAIL, tx_at);
    return true;
}

static bool e1000_pending(void)
{
    return rx[rx_at].status & DONE;
}

static size_t e1000_receive(void *frame)
{
    while (e1000_pending()) {
        size_t n;

        dma_barrier();
        n = rx[rx_at].length;
        if (!(rx[rx_at].status & 2) || rx[rx_at].errors || n > FRAME_MAX) {
            n = 0;
        }
        memcpy(frame, rx_frame[rx_at], n);
        rx[rx_at].status = 0;
        dma_barrier();
        reg_write(RX_TAIL, rx_at);
        rx_at = (rx_at + 1) % SLOTS;
        if (n) {
            return n;
        }
    }
    return 0;
}

const Nic nic_e1000 = {
    .name = "e1000",
    .probe = e1000_probe,
    .send = e1000_send,
    .receive = e1000_receive,
    .pending = e1000_pending,
};
