/*
 * The disk checker of the bare test guest: load, model, report.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For each disk the guest keeps in its RAM what every sector of a region
 * must hold, and drives a random mix of requests, several in flight, but
 * never two that overlap unless both only read: then what the disk must
 * hold is known at every moment. RAM and disk of two different moments,
 * after a takeover that gets one of them wrong, show as mismatches.
 *
 * The model changes when a request completes. What a request that failed
 * has left behind is not known until it is written again.
 */

#include "blk.h"

#define ERRORS_SHOWN    16
#define IRQ_LOST_MS     100
#define CHUNK           8               /* requests in one step, a disk */
#define TRIES           4               /* to find an extent that is free */
#define NONE            (-1)

enum { FLAG_QUIESCED = 1, FLAG_READ_ONLY = 2, FLAG_FILLED = 4,
       FLAG_DISCARD = 8, FLAG_ZERO = 16 };

static BlkDisk disks[BLK_DISKS_MAX];
static unsigned disk_count, disk_first;
static BlkHost *hosts;
static BlkMode mode;
static uint32_t token, complaints;
static uint64_t gap_us, report_ms, late_ms, next_look;
static unsigned queue;
static bool verify, discard, zero, io_error_ok;
static BlkDisk *reporting;

static uint32_t below(BlkDisk *d, uint32_t n)
{
    d->random = next_word(d->random);
    return (d->random >> 32) * n >> 32;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Count an error, and say whether it should be shown. */
static bool complain(void)
{
    errors++;
    return complaints++ < ERRORS_SHOWN;
}

static const char *op_name(const BlkRequest *r)
{
    static const char *const names[] = {
        "read", "write", "flush", "discard", "zero"
    };

    return names[r->op];
}

bool blk_write_cache(void)
{
    return option_number("disk-wce", 1);
}

/* Wait at start, when no interrupts come yet; false: it took 5 s. */
bool blk_wait(bool (*condition)(void *), void *opaque)
{
    uint64_t end = clock_us() + 5000000;

    while (!condition(opaque)) {
        if (clock_us() > end) {
            return false;
        }
    }
    return true;
}

/* Cut a request's memory in pieces, as the request's own number says. */
unsigned blk_parts(const BlkRequest *r, BlkPart *parts)
{
    uint32_t left = r->count * BLK_SECTOR;
    unsigned pieces = 1 + (r->random >> 8) % BLK_PARTS_MAX;
    uint8_t *at = r->data;
    unsigned n = 0;

    while (n + 1 < pieces && left > BLK_SECTOR) {
        uint32_t length = left / (pieces - n) & ~(BLK_SECTOR - 1);

        if (length == 0) {
            length = BLK_SECTOR;
        }
        if (r->random >> (16 + n) & 1) {
            length -= 16;               /* not on a sector's border */
        }
        parts[n++] = (BlkPart) { at, length };
        at += length;
        left -= length;
    }
    parts[n++] = (BlkPart) { at, left };
    return n;
}

static void mismatch(BlkDisk *d, const BlkRequest *r, uint32_t sector,
                     const uint8_t *p)
{
    static const char *const states[] = {
        [SECTOR_VALID] = "valid", [SECTOR_TORN] = "torn",
        [SECTOR_BLANK] = "blank",
    };
    SectorLook look = sector_look(p);
    uint32_t want = d->model[sector];

    d->mismatches++;
    if (complain()) {
        print("ftguest: ERROR disk=%u sector=%u want=%u%s got=%s:%u "
              "of sector %u run %x, read=%u+%u t=%u\n",
              (uint64_t)d->index, (uint64_t)sector,
              (uint64_t)(want & ~MODEL_DISCARDED),
              want & MODEL_DISCARDED ? " or none" : "",
              states[look.state], look.version, look.sector,
              (uint64_t)(look.run ^ d->run), r->sector, (uint64_t)r->count,
              ticks);
    }
    d->model[sector] = MODEL_ANY;       /* once is enough */
}

static void model_set(BlkDisk *d, const BlkRequest *r, uint32_t v)
{
    for (uint32_t i = 0; i < r->count; i++) {
        d->model[r->sector + i] = v;
    }
}

static void take_look(BlkDisk *d, const BlkRequest *r, uint32_t i)
{
    SectorLook look = sector_look(r->data + i * BLK_SECTOR);

    switch (look.state) {
    case SECTOR_BLANK:
        d->blank++;
        break;
    case SECTOR_TORN:
        d->torn++;
        break;
    case SECTOR_VALID:
        if (look.sector != r->sector + i) {
            d->torn++;
            break;
        }
        d->valid++;
        if (!d->run) {
            d->run = look.run;
        }
        d->foreign += look.run != d->run;
        if (look.version > d->highest) {
            d->highest = look.version;
        }
    }
}

static void read_done(BlkDisk *d, const BlkRequest *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        const uint8_t *p = r->data + i * BLK_SECTOR;
        uint32_t sector = r->sector + i;

        if (verify) {
            take_look(d, r, i);
        } else if (!sector_check(p, d->run, sector, d->model[sector])) {
            mismatch(d, r, sector, p);
        }
    }
}

static void write_done(BlkDisk *d, const BlkRequest *r, bool good)
{
    model_set(d, r, good ? r->version : MODEL_ANY);
    d->recent[d->recent_count++ % BLK_RECENT] = (BlkExtent) {
        r->sector, r->count
    };
    if (r->fill) {
        d->fill_left -= r->count;
    }
}

/* A driver's word that a request is complete. */
void blk_done(BlkDisk *d, unsigned slot, bool good)
{
    BlkRequest *r = &d->requests[slot];

    if (slot >= d->depth || !r->active) {
        d->io_errors++;
        if (complain()) {
            print("ftguest: ERROR disk=%u slot=%u completed out of the "
                  "blue\n", (uint64_t)d->index, (uint64_t)slot);
        }
        return;
    }
    r->active = false;
    d->in_flight--;
    if (!good) {
        d->io_errors++;
        if (!io_error_ok && complain()) {
            print("ftguest: ERROR disk=%u %s of %u+%u failed, t=%u\n",
                  (uint64_t)d->index, op_name(r), r->sector,
                  (uint64_t)r->count, ticks);
        }
    }
    switch (r->op) {
    case BLK_READ:
        d->reads++;
        if (good) {
            read_done(d, r);
        }
        break;
    case BLK_WRITE:
        d->writes++;
        write_done(d, r, good);
        break;
    case BLK_FLUSH:
        d->flushes++;
        if (d->closing) {
            d->closing = false;
            d->quiesced = d->urgent = true;
        }
        break;
    case BLK_DISCARD:
        d->discards++;
        for (uint32_t i = 0; i < r->count; i++) {
            d->model[r->sector + i] |= MODEL_DISCARDED;
        }
        break;
    case BLK_ZERO:
        d->zeroes++;
        model_set(d, r, good ? 0 : MODEL_ANY);
        break;
    }
}

/* Would a request touch what one in flight writes, or write what it reads? */
static bool conflict(const BlkDisk *d, const BlkRequest *r)
{
    for (unsigned i = 0; i < d->depth; i++) {
        const BlkRequest *other = &d->requests[i];

        if (other->active && other != r &&
            (r->op != BLK_READ || other->op != BLK_READ) &&
            r->sector < other->sector + other->count &&
            other->sector < r->sector + r->count) {
            return true;
        }
    }
    return false;
}

static void extent_any(BlkDisk *d, BlkRequest *r)
{
    static const uint8_t sizes[] = { 1, 8, 8, 32, 32, BLK_COUNT_MAX };

    r->count = 1 + below(d, sizes[below(d, sizeof(sizes))]);
    r->count = smaller(r->count, d->sectors);
    r->sector = below(d, d->sectors - r->count + 1);
}

/* Around one of the last writes, but not just as it was. */
static void extent_near(BlkDisk *d, BlkRequest *r)
{
    BlkExtent e = d->recent[below(d, smaller(d->recent_count, BLK_RECENT))];
    uint32_t back = below(d, 16), start;

    start = e.sector + below(d, e.count);
    start = start > back ? start - back : 0;
    r->sector = start;
    r->count = smaller(1 + below(d, e.count + 16), d->sectors - start);
    r->count = smaller(r->count, BLK_COUNT_MAX);
}

/* The next of the region, all around. */
static void extent_next(BlkDisk *d, BlkRequest *r)
{
    r->sector = d->check_at;
    r->count = smaller(BLK_COUNT_MAX, d->sectors - d->check_at);
}

static void choose_op(BlkDisk *d, BlkRequest *r)
{
    unsigned dice = below(d, 100);

    if (mode == BLK_READ_ONLY || dice < 40) {
        r->op = BLK_READ;
    } else if (dice < 44) {
        r->op = BLK_FLUSH;
        r->sector = r->count = 0;
    } else if (dice < 49 && discard && (d->can & BLK_CAN_DISCARD)) {
        r->op = BLK_DISCARD;
    } else if (dice < 54 && zero && (d->can & BLK_CAN_ZERO)) {
        r->op = BLK_ZERO;
    } else {
        r->op = BLK_WRITE;
    }
}

static void content_make(BlkDisk *d, BlkRequest *r)
{
    if (r->op == BLK_WRITE) {
        r->version = d->version = smaller(d->version + 1, VERSION_MAX);
        r->fua = (d->can & BLK_CAN_FUA) && below(d, 16) == 0;
        for (uint32_t i = 0; i < r->count; i++) {
            sector_make(r->data + i * BLK_SECTOR, d->run, r->sector + i,
                        r->version);
        }
    } else if (r->op == BLK_READ) {
        for (uint32_t i = 0; i < r->count; i++) {
            sector_spoil(r->data + i * BLK_SECTOR);
        }
    }
}

/* What to do next; false: nothing that could be done now. */
static bool choose(BlkDisk *d, BlkRequest *r)
{
    r->fua = r->late = r->fill = false;
    r->random = below(d, 0xffffffff);
    if (d->fill_at < d->sectors && mode != BLK_READ_ONLY) {
        r->fill = true;
        r->op = BLK_WRITE;
        r->sector = d->fill_at;
        r->count = smaller(BLK_COUNT_MAX, d->sectors - d->fill_at);
        d->fill_at += r->count;
        content_make(d, r);
        return true;
    }
    choose_op(d, r);
    for (unsigned i = 0; r->op != BLK_FLUSH; i++) {
        unsigned dice = r->op == BLK_READ ? below(d, 100) : 99;
        bool round = dice < 40;

        if (round) {
            extent_next(d, r);
        } else if (dice < 75 && d->recent_count) {
            extent_near(d, r);
        } else {
            extent_any(d, r);
        }
        if (!conflict(d, r)) {
            if (round) {
                d->check_at += r->count;
                if (d->check_at == d->sectors) {
                    d->check_at = 0;
                    d->rounds++;
                }
            }
            break;
        }
        if (i == TRIES) {
            return false;
        }
    }
    content_make(d, r);
    return true;
}

/* Hand a slot's request to the driver; park it if that can't take it. */
static bool give(BlkDisk *d, unsigned slot)
{
    BlkRequest *r = &d->requests[slot];

    r->active = true;
    r->since = ticks;
    d->in_flight++;
    d->parked = NONE;
    if (!d->host->submit(d, slot)) {
        r->active = false;
        d->in_flight--;
        d->parked = slot;
        return false;
    }
    return true;
}

static int free_slot(const BlkDisk *d)
{
    for (unsigned i = 0; i < d->depth; i++) {
        if (!d->requests[i].active && (int)i != d->parked) {
            return i;
        }
    }
    return NONE;
}

static BlkRequest *plain_request(BlkDisk *d, int slot, BlkOp op)
{
    BlkRequest *r = &d->requests[slot];

    r->op = op;
    r->fua = r->late = r->fill = false;
    r->random = 0;
    r->sector = r->count = 0;
    return r;
}

/* Forget the last one chosen, which the device has not been given. */
static void unpark(BlkDisk *d)
{
    if (d->parked != NONE && d->requests[d->parked].fill) {
        d->fill_at = d->requests[d->parked].sector;
    }
    d->parked = NONE;
}

/* The end of all requests, and a flush behind them. */
static void quiesce(BlkDisk *d)
{
    if (d->closing && d->parked != NONE) {
        give(d, d->parked);
    } else if (!d->quiesced && !d->closing && !d->in_flight) {
        plain_request(d, 0, BLK_FLUSH);
        d->closing = true;
        give(d, 0);
    }
}

/* The cold check: read the region once. */
static bool verify_step(BlkDisk *d)
{
    int slot;

    if (d->parked != NONE) {
        return give(d, d->parked);
    }
    slot = free_slot(d);
    if (slot != NONE && d->check_at < d->sectors) {
        extent_next(d, plain_request(d, slot, BLK_READ));
        content_make(d, &d->requests[slot]);
        d->check_at += d->requests[slot].count;
        return give(d, slot);
    }
    if (d->check_at == d->sectors && !d->in_flight) {
        d->quiesced = true;
    }
    return false;
}

/* Requests that are due; true: there are more. */
static bool load_step(BlkDisk *d)
{
    uint64_t now = ticks * 1000;

    for (unsigned i = 0; i < CHUNK; i++) {
        bool filling = d->fill_at < d->sectors && mode == BLK_RUN;
        int slot;

        if (d->parked != NONE) {
            if (!give(d, d->parked)) {
                return false;
            }
            continue;
        }
        /* A few at a time, so that several are in flight together. */
        if (!d->burst) {
            d->burst = 1 + below(d, d->depth);
            d->due_us += d->burst * gap_us;
            if (d->due_us + 100000 < now) {
                d->due_us = now;        /* do not catch up */
            }
        }
        slot = free_slot(d);
        if ((now < d->due_us && !filling) || slot == NONE ||
            !choose(d, &d->requests[slot])) {
            return false;
        }
        d->burst--;
        if (!give(d, slot)) {
            return false;
        }
    }
    return true;
}

/* Requests that take too long are counted, and waited for all the same. */
static void look_for_late(BlkDisk *d)
{
    for (unsigned i = 0; i < d->depth; i++) {
        BlkRequest *r = &d->requests[i];

        if (r->active && !r->late && ticks - r->since >= late_ms) {
            r->late = true;
            d->late++;
            if (complain()) {
                print("ftguest: LOST request disk=%u slot=%u %s of %u+%u, "
                      "given at t=%u, now %u\n", (uint64_t)d->index,
                      (uint64_t)i, op_name(r), r->sector,
                      (uint64_t)r->count, r->since, ticks);
            }
        }
    }
}

/* As with the NIC: an interrupt that is owed is noticed after a while. */
static void host_poll(BlkHost *h)
{
    uint32_t count = h->line.count;

    if (count == h->seen) {
        if (ticks - h->watch_last < 20) {
            return;
        }
        h->watch_last = ticks;
        if (!h->pending(h)) {
            h->watching = false;
            return;
        }
        if (!h->watching) {
            h->watching = true;
            h->watch_since = ticks;
            return;
        }
        if (ticks - h->watch_since < IRQ_LOST_MS) {
            return;
        }
        irqs_lost++;
        h->lost++;
        print("ftguest: LOST interrupt of %s, t=%u\n", h->name, ticks);
    }
    h->seen = count;
    h->watching = false;
    h->poll(h);
}

static void verify_end(void)
{
    for (unsigned i = 0; i < disk_count; i++) {
        BlkDisk *d = &disks[i];

        print("ftguest: verify disk=%u kind=%s sectors=%u valid=%u torn=%u "
              "blank=%u foreign=%u highest=%u errors=%u\n",
              (uint64_t)i, d->host->name, (uint64_t)d->sectors,
              (uint64_t)d->valid, (uint64_t)d->torn, (uint64_t)d->blank,
              (uint64_t)d->foreign, (uint64_t)d->highest,
              (uint64_t)d->io_errors);
    }
    machine_power_off();
}

bool blk_step(void)
{
    unsigned finished = 0;
    bool busy = false;

    for (BlkHost *h = hosts; h; h = h->next) {
        host_poll(h);
    }
    for (unsigned i = 0; i < disk_count; i++) {
        /* Not always the same one first: they may share a host. */
        BlkDisk *d = &disks[(disk_first + i) % disk_count];

        if (verify) {
            busy |= verify_step(d);
            finished += d->quiesced;
        } else if (mode == BLK_QUIET) {
            quiesce(d);
        } else {
            busy |= load_step(d);
        }
    }
    disk_first++;
    if (verify && finished == disk_count) {
        verify_end();
    }
    if (ticks >= next_look) {
        next_look = ticks + 100;
        for (unsigned i = 0; i < disk_count; i++) {
            look_for_late(&disks[i]);
        }
    }
    return busy;
}

/* A request from the host: start, stop, or read only. */
void blk_set_mode(BlkMode new_mode, uint32_t new_token)
{
    token = new_token;
    for (unsigned i = 0; i < disk_count; i++) {
        BlkDisk *d = &disks[i];

        if (new_mode != BLK_QUIET) {
            d->quiesced = d->closing = false;
            unpark(d);
        } else if (!d->closing) {
            unpark(d);
        }
        d->urgent = new_mode != BLK_QUIET || d->quiesced;
    }
    mode = new_mode;
}

/* The next report that is due, if there is one. */
bool blk_report(uint8_t *p)
{
    BlkDisk *d = NULL;

    for (unsigned i = 0; i < disk_count && !d; i++) {
        if (disks[i].urgent || ticks >= disks[i].report_at) {
            d = &disks[i];
        }
    }
    if (!d || verify) {
        return false;
    }
    reporting = d;
    p[0] = d->index;
    p[1] = disk_count;
    p[2] = d->host->kind;
    p[3] = (d->quiesced ? FLAG_QUIESCED : 0) |
           (mode == BLK_READ_ONLY ? FLAG_READ_ONLY : 0) |
           (d->fill_left ? 0 : FLAG_FILLED) |
           (d->can & BLK_CAN_DISCARD && discard ? FLAG_DISCARD : 0) |
           (d->can & BLK_CAN_ZERO && zero ? FLAG_ZERO : 0);
    put_be32(p + 4, d->mismatches);
    put_be32(p + 8, d->io_errors);
    put_be32(p + 12, d->late);
    put_be64(p + 16, d->writes);
    put_be64(p + 24, d->reads);
    put_be32(p + 32, d->flushes);
    put_be32(p + 36, d->discards);
    put_be32(p + 40, d->zeroes);
    put_be32(p + 44, d->version);
    put_be32(p + 48, d->rounds);
    put_be32(p + 52, d->sectors);
    put_be16(p + 56, d->in_flight);
    put_be16(p + 58, d->host->lost);
    put_be32(p + 60, token);
    return true;
}

/* The last report has been sent. */
void blk_reported(void)
{
    reporting->urgent = false;
    reporting->report_at = ticks + report_ms;
}

void blk_print(void)
{
    for (unsigned i = 0; i < disk_count; i++) {
        BlkDisk *d = &disks[i];

        print("ftguest: disk=%u writes=%u reads=%u flushes=%u discards=%u "
              "zeroes=%u rounds=%u version=%u in flight=%u bad=%u failed=%u "
              "late=%u\n",
              (uint64_t)i, d->writes, d->reads, (uint64_t)d->flushes,
              (uint64_t)d->discards, (uint64_t)d->zeroes,
              (uint64_t)d->rounds, (uint64_t)d->version,
              (uint64_t)d->in_flight, (uint64_t)d->mismatches,
              (uint64_t)d->io_errors, (uint64_t)d->late);
    }
}

void blk_host_add(BlkHost *h, unsigned irq, bool (*acknowledge)(void *))
{
    irq_route(&h->line, irq, acknowledge, h);
    h->next = hosts;
    hosts = h;
}

/* Take a disk in; NULL if there are enough of them. */
BlkDisk *blk_add(BlkHost *h, unsigned unit, uint64_t capacity,
                 unsigned depth, unsigned can)
{
    BlkDisk *d = &disks[disk_count];

    if (disk_count == BLK_DISKS_MAX || capacity == 0) {
        return NULL;
    }
    d->host = h;
    d->index = disk_count++;
    d->unit = unit;
    d->can = can;
    d->capacity = capacity;
    d->depth = smaller(smaller(depth, queue), BLK_DEPTH_MAX);
    d->sectors = smaller(option_number("disk-sectors", 16384),
                         capacity < 1u << 30 ? capacity : 1u << 30);
    for (unsigned i = 0; i < d->depth; i++) {
        /* No piece of memory may cross a border of 64 KiB (IDE). */
        d->requests[i].data = arena_alloc(BLK_COUNT_MAX * BLK_SECTOR,
                                          BLK_COUNT_MAX * BLK_SECTOR);
    }
    return d;
}

/* The date, whatever it looks like: no two boots should be the same. */
static uint64_t boot_time(void)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < 10; i++) {
        outb(0x70, i);
        v = mix(v + inb(0x71));
    }
    return v;
}

/* Find the disks that are wanted. @boot: how often it was reset. */
void blk_init(uint32_t boot)
{
    static const struct {
        const char *word;
        void (*probe)(const PciDevice *d);
    } drivers[] = {
        { "virtio", blk_virtio_probe },
        { "scsi", blk_scsi_probe },
        { "ide", blk_ide_probe },
        { "ahci", blk_ahci_probe },
    };
    uint64_t seed = option_number("disk-seed", 1);
    PciDevice p;

    gap_us = option_number("disk-gap", 5000);
    report_ms = option_number("disk-rate", 200);
    late_ms = option_number("disk-timeout", 30) * 1000;
    queue = option_number("disk-queue", 8);
    queue = queue ? queue : 1;
    discard = option_number("disk-discard", 0);
    zero = option_number("disk-zero", 1);
    verify = option_number("disk-verify", 0);
    io_error_ok = option_word("disk-ioerr", "ok");
    sector_init();

    for (bool more = pci_next(&p, true); more; more = pci_next(&p, false)) {
        for (unsigned i = 0; i < sizeof(drivers) / sizeof(*drivers); i++) {
            if (!option_given("disk") || option_word("disk",
                                                     drivers[i].word)) {
                drivers[i].probe(&p);
            }
        }
    }
    for (unsigned i = 0; i < disk_count; i++) {
        BlkDisk *d = &disks[i];

        d->model = arena_alloc(d->sectors * sizeof(*d->model), 64);
        memset(d->model, 0xff, d->sectors * sizeof(*d->model));
        d->random = mix(seed << 8 ^ i);
        d->run = verify ? 0 : mix(boot_time() ^ mix(boot << 8 ^ i));
        d->parked = NONE;
        d->fill_left = d->sectors;
        print("ftguest: disk=%u kind=%s unit=%u sectors=%u of %u queue=%u "
              "can=%x\n", (uint64_t)i, d->host->name, (uint64_t)d->unit,
              (uint64_t)d->sectors, d->capacity, (uint64_t)d->depth,
              (uint64_t)d->can);
    }
    if (!disk_count) {
        print("ftguest: no disk\n");
        if (verify) {
            machine_power_off();
        }
    }
}
