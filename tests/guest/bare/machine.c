/*
 * The PC around the bare test guest: interrupts, time, reset, power.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two clocks on purpose: `ticks` counts timer interrupts of the PIT, and
 * clock_us() reads the ACPI timer, so that a test can see interrupts lost
 * and time lost apart from each other.
 */

#include "ftguest.h"

#define PIC1            0x20
#define PIC2            0xa0
#define IRQ_BASE        0x20
#define PIT_HZ          1193182
#define TICK_HZ         1000

#define PM_STATUS       0x600           /* both pc and q35 with SeaBIOS */
#define PM_ENABLE       0x602
#define PM_CONTROL      0x604
#define PM_TIMER        0x608
#define PM_POWER_BUTTON 0x100
#define PM_SLEEP        0x2000

struct frame;

typedef struct IdtEntry {
    uint16_t offset_low;
    uint16_t selector;
    uint16_t flags;
    uint16_t offset_mid;
    uint32_t offset_high;
    uint32_t zero;
} IdtEntry;

extern uint64_t boot_pdpt[512];

volatile uint64_t ticks;
volatile uint32_t interrupts;
IrqLine nic_line;

static IdtEntry idt[IRQ_BASE + 16];
static IrqLine *lines[16];
static uint32_t pm_last;
static uint64_t pm_total;

static void end_of_interrupt(unsigned irq)
{
    if (irq >= 8) {
        outb(PIC2, 0x20);
    }
    outb(PIC1, 0x20);
}

__attribute__((interrupt)) static void on_timer(struct frame *f)
{
    ticks++;
    end_of_interrupt(0);
}

/* The last input of a PIC also fires when a request is withdrawn. */
static bool spurious(unsigned irq)
{
    uint16_t pic = irq < 8 ? PIC1 : PIC2;

    if (irq % 8 != 7) {
        return false;
    }
    outb(pic, 0x0b);                    /* read what is in service */
    return !(inb(pic) & 0x80);
}

static void on_irq(unsigned irq)
{
    if (spurious(irq)) {
        if (irq == 15) {
            outb(PIC1, 0x20);           /* it has seen the cascade */
        }
        return;
    }
    for (IrqLine *line = lines[irq]; line; line = line->next) {
        if (line->acknowledge(line->opaque)) {
            line->count++;
        }
    }
    interrupts++;
    end_of_interrupt(irq);
}

#define IRQ_HANDLER(n)                                                  \
    __attribute__((interrupt)) static void on_irq##n(struct frame *f)   \
    {                                                                   \
        on_irq(n);                                                      \
    }

IRQ_HANDLER(3)
IRQ_HANDLER(4)
IRQ_HANDLER(5)
IRQ_HANDLER(6)
IRQ_HANDLER(7)
IRQ_HANDLER(9)
IRQ_HANDLER(10)
IRQ_HANDLER(11)
IRQ_HANDLER(12)
IRQ_HANDLER(14)
IRQ_HANDLER(15)

static void (*const irq_handlers[16])(struct frame *) = {
    [3] = on_irq3, [4] = on_irq4, [5] = on_irq5, [6] = on_irq6,
    [7] = on_irq7, [9] = on_irq9, [10] = on_irq10, [11] = on_irq11,
    [12] = on_irq12, [14] = on_irq14, [15] = on_irq15,
};

__attribute__((interrupt)) static void on_fault(struct frame *f)
{
    print("ftguest: PANIC unexpected exception, at %x %x %x\n",
          ((uint64_t *)f)[0], ((uint64_t *)f)[1], ((uint64_t *)f)[2]);
    for (;;) {
        asm volatile("cli; hlt");
    }
}

static void idt_set(unsigned vector, void (*handler)(struct frame *))
{
    uint64_t at = (uintptr_t)handler;

    idt[vector] = (IdtEntry) {
        .offset_low = at,
        .selector = 0x08,
        .flags = 0x8e00,
        .offset_mid = at >> 16,
        .offset_high = at >> 32,
    };
}

static void pic_unmask(unsigned irq)
{
    if (irq < 8) {
        outb(PIC1 + 1, inb(PIC1 + 1) & ~(1u << irq));
    } else {
        outb(PIC2 + 1, inb(PIC2 + 1) & ~(1u << (irq - 8)));
    }
}

void machine_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = { sizeof(idt) - 1, (uintptr_t)idt };

    for (unsigned i = 0; i < IRQ_BASE + 16; i++) {
        idt_set(i, on_fault);
    }
    idt_set(IRQ_BASE, on_timer);
    for (unsigned i = 0; i < 16; i++) {
        if (irq_handlers[i]) {
            idt_set(IRQ_BASE + i, irq_handlers[i]);
        }
    }
    asm volatile("lidt %0" : : "m"(idtr));

    outb(PIC1, 0x11);
    outb(PIC2, 0x11);
    outb(PIC1 + 1, IRQ_BASE);
    outb(PIC2 + 1, IRQ_BASE + 8);
    outb(PIC1 + 1, 4);
    outb(PIC2 + 1, 2);
    outb(PIC1 + 1, 1);
    outb(PIC2 + 1, 1);
    outb(PIC1 + 1, 0xfb);               /* all masked but the cascade */
    outb(PIC2 + 1, 0xff);

    outb(0x43, 0x34);                   /* counter 0, rate generator */
    outb(0x40, (PIT_HZ / TICK_HZ) & 0xff);
    outb(0x40, (PIT_HZ / TICK_HZ) >> 8);
    pic_unmask(0);

    /* The button shows in the status; its interrupt stays masked. */
    outw(PM_STATUS, 0xffff);
    outw(PM_ENABLE, PM_POWER_BUTTON);
    pm_last = inl(PM_TIMER);
}

void irq_route(IrqLine *line, unsigned irq, bool (*acknowledge)(void *),
               void *opaque)
{
    if (irq > 15 || !irq_handlers[irq]) {
        print("ftguest: ERROR no usable interrupt for a device: %u\n",
              (uint64_t)irq);
        errors++;
        return;
    }
    line->acknowledge = acknowledge;
    line->opaque = opaque;
    line->next = lines[irq];
    lines[irq] = line;
    pic_unmask(irq);
}

/* Microseconds since start. The timer has 24 bits: call within 4 s. */
uint64_t clock_us(void)
{
    uint32_t now = inl(PM_TIMER);

    pm_total += (now - pm_last) & 0xffffff;
    pm_last = now;
    /* 3.579545 MHz; the quotient first, against overflow */
    return pm_total / 3579545 * 1000000 +
           pm_total % 3579545 * 1000000 / 3579545;
}

bool power_button(void)
{
    return inw(PM_STATUS) & PM_POWER_BUTTON;
}

void machine_reset(void)
{
    irq_off();
    outb(0xcf9, 2);
    outb(0xcf9, 6);
    outb(0x64, 0xfe);
    for (;;) {
        asm volatile("hlt");
    }
}

void machine_power_off(void)
{
    irq_off();
    outw(PM_CONTROL, PM_SLEEP);         /* type 0 is S5 on both machines */
    outb(0x501, 0);                     /* isa-debug-exit, if there is */
    outb(0xf4, 0);
    for (;;) {
        asm volatile("hlt");
    }
}

/* Map memory above 4 GiB one to one, in pieces of 1 GiB. */
void map_high(uint64_t start, uint64_t end)
{
    static unsigned used;

    for (uint64_t g = start >> 30; g << 30 < end; g++) {
        uint64_t *pd;

        if (g < 4 || g >= 512 || boot_pdpt[g] || used == HIGH_TABLES_MAX) {
            continue;
        }
        pd = (uint64_t *)(uintptr_t)(HIGH_TABLES_BASE + used++ * PAGE_SIZE);
        for (unsigned i = 0; i < 512; i++) {
            pd[i] = (g << 30 | (uint64_t)i << 21) | 0x83;
        }
        boot_pdpt[g] = (uintptr_t)pd | 3;
    }
    asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
}
