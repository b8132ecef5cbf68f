/*
 * The bare test guest: options, main loop, frames.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * README.md is the contract: what the options do, what the frames hold.
 */

#include "ftguest.h"
#include "blk.h"

#define MULTIBOOT_LOADED    0x2badb002
#define RESET_MAGIC         0x31545346  /* "FST1" */
#define ETHERTYPE           0x88b5
#define MAGIC_OUT           0x46544731  /* "FTG1" */
#define MAGIC_REQUEST       0x46545131  /* "FTQ1" */
#define ETH_HEADER          14
#define OUT_HEADER          64
#define REQUEST_HEADER      12
#define PAYLOAD_MAX         64
#define CPU_CHUNK           16384
#define WRITER_CHUNK        16
#define IRQ_LOST_MS         100

enum { KIND_COUNTER = 1, KIND_ECHO = 2, KIND_DISK = 3 };
enum { REQUEST_RESET = 3, REQUEST_POWER_OFF = 4, REQUEST_DISK_QUIESCE = 5,
       REQUEST_DISK_RESUME = 6, REQUEST_DISK_READ_ONLY = 7 };

typedef struct MultibootInfo {
    uint32_t flags;
    uint32_t mem_lower;
    uint32_t mem_upper;
    uint32_t boot_device;
    uint32_t cmdline;
    uint32_t mods_count;
    uint32_t mods_addr;
    uint32_t syms[4];
    uint32_t mmap_length;
    uint32_t mmap_addr;
} MultibootInfo;

typedef struct MultibootRange {
    uint32_t size;
    uint64_t base;
    uint64_t length;
    uint32_t type;
} __attribute__((packed)) MultibootRange;

typedef struct ResetBlock {
    uint32_t magic;
    uint32_t count;
    uint32_t inverse;
} ResetBlock;

static const Nic *nic;
static uint8_t mac[6];
static uint8_t frame_out[ETH_HEADER + OUT_HEADER + PAYLOAD_MAX];
static uint8_t frame_in[FRAME_MAX];
static uint8_t answer[PAYLOAD_MAX];
static uint32_t answer_length;
static bool answer_waits;
static uint64_t counter, loops;
static uint32_t resets, interrupts_seen;

uint32_t irqs_lost;

static void count_resets(void)
{
    volatile ResetBlock *r = (volatile ResetBlock *)RESET_BLOCK;

    if (r->magic == RESET_MAGIC && r->count == ~r->inverse) {
        resets = r->count + 1;
    }
    r->magic = RESET_MAGIC;
    r->count = resets;
    r->inverse = ~resets;
}

/* The end of the range of RAM that @base lies in, or 0. */
static uint64_t ram_end(const MultibootInfo *info, uint64_t base)
{
    uint64_t end = 0;

    for (uint32_t at = 0; (info->flags & 0x40) && at < info->mmap_length; ) {
        const MultibootRange *r =
            (const MultibootRange *)(uintptr_t)(info->mmap_addr + at);

        if (r->type == 1 && r->base <= base && base < r->base + r->length) {
            end = r->base + r->length;
        }
        at += r->size + 4;
    }
    return end;
}

static void nic_find(void)
{
    static const Nic *const drivers[] = {
        &nic_virtio, &nic_rtl8139, &nic_e1000
    };
    PciDevice d;

    for (bool more = pci_next(&d, true); more; more = pci_next(&d, false)) {
        for (unsigned i = 0; i < 3; i++) {
            if (drivers[i]->probe(&d, mac)) {
                nic = drivers[i];
                return;
            }
        }
    }
}

static bool frame_send(uint32_t kind, uint64_t count, const void *payload,
                       uint32_t length)
{
    uint8_t *p = frame_out + ETH_HEADER;

    memset(frame_out, 0xff, 6);
    memcpy(frame_out + 6, mac, 6);
    frame_out[12] = ETHERTYPE >> 8;
    frame_out[13] = ETHERTYPE & 0xff;
    put_be32(p, MAGIC_OUT);
    put_be32(p + 4, kind);
    put_be64(p + 8, count);
    put_be64(p + 16, writer_generation);
    put_be64(p + 24, ticks);
    put_be32(p + 32, errors);
    put_be32(p + 36, resets);
    put_be64(p + 40, loops);
    put_be64(p + 48, clock_us());
    put_be32(p + 56, irqs_lost);
    put_be32(p + 60, length);
    memcpy(p + OUT_HEADER, payload, length);
    return nic->send(frame_out, ETH_HEADER + OUT_HEADER + length);
}

/* The answer to an echo request, at once or when the ring has room. */
static void answer_send(void)
{
    if (answer_waits &&
        frame_send(KIND_ECHO, counter, answer, answer_length)) {
        answer_waits = false;
    }
}

/* What the disks have to say, one frame for each. */
static void disk_send(void)
{
    uint8_t report[BLK_REPORT];

    while (blk_report(report) &&
           frame_send(KIND_DISK, counter, report, sizeof(report))) {
        blk_reported();
    }
}

static void request(size_t size)
{
    const uint8_t *p = frame_in + ETH_HEADER;
    uint32_t length, token;

    if (size < ETH_HEADER + REQUEST_HEADER ||
        frame_in[12] != ETHERTYPE >> 8 ||
        frame_in[13] != (ETHERTYPE & 0xff) ||
        get_be32(p) != MAGIC_REQUEST) {
        return;
    }
    length = get_be32(p + 8);
    if (length > PAYLOAD_MAX || ETH_HEADER + REQUEST_HEADER + length > size) {
        return;
    }
    token = length >= 4 ? get_be32(p + REQUEST_HEADER) : 0;
    switch (get_be32(p + 4)) {
    case KIND_ECHO:
        /* With the ring full and an answer waiting, that one is lost. */
        memcpy(answer, p + REQUEST_HEADER, length);
        answer_length = length;
        answer_waits = true;
        answer_send();
        break;
    case REQUEST_RESET:
        print("ftguest: reset by request\n");
        machine_reset();
    case REQUEST_POWER_OFF:
        print("ftguest: power off by request\n");
        machine_power_off();
    case REQUEST_DISK_QUIESCE:
        blk_set_mode(BLK_QUIET, token);
        break;
    case REQUEST_DISK_RESUME:
        blk_set_mode(BLK_RUN, token);
        break;
    case REQUEST_DISK_READ_ONLY:
        blk_set_mode(BLK_READ_ONLY, token);
        break;
    }
}

/*
 * Take in what has come if an interrupt said so; and notice a frame that
 * lies there with no interrupt for it.
 */
static void nic_poll(void)
{
    static uint64_t watch_since, watch_last;
    static bool watching;
    uint32_t seen = nic_line.count;
    size_t n;

    if (seen == interrupts_seen) {
        if (ticks - watch_last < 20) {
            return;
        }
        watch_last = ticks;
        if (!nic->pending()) {
            watching = false;
            return;
        }
        if (!watching) {
            watching = true;
            watch_since = ticks;
            return;
        }
        if (ticks - watch_since < IRQ_LOST_MS) {
            return;
        }
        irqs_lost++;
        print("ftguest: LOST interrupt of the NIC, t=%u\n", ticks);
    }
    interrupts_seen = seen;
    watching = false;
    while ((n = nic->receive(frame_in)) != 0) {
        request(n);
    }
}

/* Count on a value that the compiler cannot foresee. */
static void cpu_loop(void)
{
    uint64_t v = loops;

    for (unsigned i = 0; i < CPU_CHUNK; i++) {
        v++;
        asm volatile("" : "+r"(v));
    }
    loops = v;
}

static void each_second(void)
{
    print("ftguest: t=%u count=%u gen=%u loops=%u errors=%u\n",
          ticks, counter, writer_generation, loops, (uint64_t)errors);
    blk_print();
}

void guest_main(uint32_t magic, const MultibootInfo *info);

void guest_main(uint32_t magic, const MultibootInfo *info)
{
    bool counting, writing, cpu;
    uint64_t base, end, pages, rate, gap;
    uint64_t next_frame = 0, next_second = 1000, next_slow = 0;
    uint64_t next_generation = 0, steps = 0;

    serial_init();
    if (magic != MULTIBOOT_LOADED) {
        print("ftguest: PANIC not loaded by multiboot\n");
        return;
    }
    options_init(info->flags & 4 ? (const char *)(uintptr_t)info->cmdline
                                 : "");
    count_resets();
    machine_init();

    counting = option_word("mode", "count") || !option_given("mode");
    cpu = option_word("mode", "cpu");
    writing = option_word("mode", "touch") || option_word("mode", "fill");
    rate = option_number("rate", 5);
    gap = option_number("gap", 0);
    pages = option_number("pages", 1024);
    base = option_number("base", SET_BASE_MIB) << 20;
    if (writing) {
        end = ram_end(info, base);
        if (base < (uint64_t)SET_BASE_MIB << 20 || pages == 0 ||
            pages > 1u << 28 || base + (pages + 1) * PAGE_SIZE > end) {
            print("ftguest: PANIC no room for %u pages at %x, RAM ends %x\n",
                  pages, base, end);
            return;
        }
        map_high(base, base + (pages + 1) * PAGE_SIZE);
        writer_init(base, pages, option_word("mode", "fill"));
    }
    if (option_number("net", 1)) {
        nic_find();
    }
    print("ftguest: ready net=%s mac=%b:%b:%b:%b:%b:%b boot=%u pages=%u "
          "base=%x\n", nic ? nic->name : "none",
          (uint64_t)mac[0], (uint64_t)mac[1], (uint64_t)mac[2],
          (uint64_t)mac[3], (uint64_t)mac[4], (uint64_t)mac[5],
          (uint64_t)resets, writing ? pages : 0, writing ? base : 0);
    if (option_word("mode", "disk") || option_number("disk-verify", 0)) {
        blk_init(resets);
    }

    for (;;) {
        bool busy = cpu;
        uint32_t before = interrupts;

        irq_on();
        if (cpu) {
            cpu_loop();
        }
        if (writing && ticks >= next_generation) {
            uint64_t last = writer_generation;

            steps = writer_step(steps, WRITER_CHUNK);
            if (writer_generation != last) {
                next_generation = ticks + gap;
            }
            busy |= ticks >= next_generation;
        }
        busy |= blk_step();
        if (nic) {
            nic_poll();
            answer_send();
            disk_send();
            if (counting && !answer_waits && ticks >= next_frame) {
                if (frame_send(KIND_COUNTER, counter + 1, NULL, 0)) {
                    counter++;
                    next_frame += rate;
                    if (next_frame + 100 < ticks) {
                        next_frame = ticks;     /* do not catch up */
                    }
                    busy |= rate == 0;
                }
            }
        }
        if (ticks >= next_slow) {
            next_slow = ticks + 100;
            clock_us();
            if (power_button()) {
                print("ftguest: power off by the button\n");
                machine_power_off();
            }
        }
        if (ticks >= next_second) {
            next_second += 1000;
            each_second();
        }
        if (!busy) {
            /* With sti before hlt, no interrupt comes between the two. */
            irq_off();
            if (interrupts == before) {
                asm volatile("sti; hlt" : : : "memory");
            }
        }
    }
}
