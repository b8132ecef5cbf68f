/*
 * What the parts of the bare test guest know of each other.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The contract with the world outside (frames, options, fixed memory) is
 * in README.md.
 */

#ifndef FTGUEST_H
#define FTGUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE           4096u

/* Fixed memory outside the image. */
#define HIGH_TABLES_BASE    0x400000u   /* page directories above 4 GiB */
#define HIGH_TABLES_MAX     508         /* so the map ends at 512 GiB */
#define RESET_BLOCK         0x800000u   /* outlives a reset */
#define ARENA_BASE          0x900000u   /* what the disks need */
#define ARENA_END           0x1000000u
#define SET_BASE_MIB        16          /* default place of the set */

/* Ports. */
static inline void outb(uint16_t port, uint8_t v)
{
    asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
    asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
    asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;

    asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint16_t inw(uint16_t port)
{
    uint16_t v;

    asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;

    asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline void irq_off(void)
{
    asm volatile("cli" : : : "memory");
}

static inline void irq_on(void)
{
    asm volatile("sti" : : : "memory");
}

/* Orders what a device sees of memory; x86 needs only the compiler's. */
static inline void dma_barrier(void)
{
    asm volatile("mfence" : : : "memory");
}

/* A well-mixing function of 64 bits: multiply, fold, twice. */
static inline uint64_t mix(uint64_t v)
{
    v = (v + 0x8ebc6af09c88c6e3ull) * 0xd6e8feb86659fd93ull;
    v = (v ^ v >> 32) * 0xd6e8feb86659fd93ull;
    return v ^ v >> 32;
}

/* The next word of a number sequence. */
static inline uint64_t next_word(uint64_t w)
{
    w = w * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
    return w ^ w >> 29;
}

/* lib.c */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
int memcmp(const void *a, const void *b, size_t n);
void serial_init(void);
void print(const char *format, ...);    /* %s %u %x %b, numbers 64-bit */
void put_be16(uint8_t *p, uint16_t v);
void put_be32(uint8_t *p, uint32_t v);
void put_be64(uint8_t *p, uint64_t v);
uint32_t get_be32(const uint8_t *p);
void *arena_alloc(size_t size, size_t align);   /* zeros; never freed */
uint64_t option_number(const char *name, uint64_t otherwise);
bool option_given(const char *name);
bool option_word(const char *name, const char *word);
void options_init(const char *line);

/* machine.c */
extern volatile uint64_t ticks;         /* timer interrupts, 1 kHz */
extern volatile uint32_t interrupts;    /* of all devices */

/* A device on an interrupt, which it may share with others. */
typedef struct IrqLine {
    /* Called with interrupts off; false if it was not this device. */
    bool (*acknowledge)(void *opaque);
    void *opaque;
    volatile uint32_t count;            /* those that were its own */
    struct IrqLine *next;
} IrqLine;

extern IrqLine nic_line;
void machine_init(void);
void irq_route(IrqLine *line, unsigned irq, bool (*acknowledge)(void *),
               void *opaque);
uint64_t clock_us(void);                /* by the ACPI timer; call often */
bool power_button(void);
void machine_reset(void) __attribute__((noreturn));
void machine_power_off(void) __attribute__((noreturn));
void map_high(uint64_t start, uint64_t end);

/* pci.c */
typedef struct PciDevice {
    uint8_t device;
    uint8_t function;
    uint16_t vendor_id;
    uint16_t device_id;
} PciDevice;

uint32_t pci_read(const PciDevice *d, unsigned offset);
void pci_write(const PciDevice *d, unsigned offset, uint32_t v);
uint32_t pci_bar(const PciDevice *d, unsigned n);
void pci_enable(const PciDevice *d);
unsigned pci_irq(const PciDevice *d);
bool pci_next(PciDevice *d, bool first);

/* The NICs. */
#define FRAME_MAX           1514

typedef struct Nic {
    const char *name;
    /* Take the device; false if it is not one of this driver's. */
    bool (*probe)(const PciDevice *d, uint8_t mac[6]);
    /* Queue one frame; false if the ring is full. */
    bool (*send)(const void *frame, size_t length);
    /* The next frame received, or 0; copied to @frame. */
    size_t (*receive)(void *frame);
    /* Is there something to receive? Takes nothing. */
    bool (*pending)(void);
} Nic;

extern const Nic nic_rtl8139, nic_virtio, nic_e1000;

/* main.c */
extern uint32_t irqs_lost;              /* of the NIC and the disks */

/* writer.c */
extern uint64_t writer_generation;      /* last one that is complete */
extern uint32_t errors;                 /* all that the guest found wrong */
void writer_init(uint64_t base, uint32_t pages, bool fill);
uint64_t writer_step(uint64_t steps, unsigned pages);

#endif
