/*
 * Fault tolerance: frames on the wire (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Puts and gets headers and the small fixed payloads.  What is got comes from
 * a peer that may send anything: each field is checked before it is used, and
 * the error has the numbers in it, for whoever reads the log.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/crc32c.h"
#include "wire.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#define FT_CRC32C_HARD
#endif

/* Where the parts of a header are. */
enum {
    HDR_MAGIC = 0,
    HDR_VERSION = 4,
    HDR_TYPE = 5,
    HDR_FLAGS = 6,
    HDR_EPOCH = 8,
    HDR_LENGTH = 16,
    HDR_PAYLOAD_CRC = 20,
    HDR_CRC = 24,
};

/* And of a hello. */
enum {
    HELLO_SESSION = 0,
    HELLO_TOKEN = 16,
    HELLO_CHANNEL = 32,
    HELLO_PAGE_SIZE = 36,
    HELLO_FEATURES = 40,
    HELLO_GENERATION = 48,
    HELLO_DRIVE = 56,
    HELLO_UNUSED = 60,
};

QEMU_BUILD_BUG_ON(HDR_CRC + 4 != FT_WIRE_HEADER);
QEMU_BUILD_BUG_ON(HELLO_UNUSED + 4 != FT_HELLO_SIZE);

/* What a frame of each type may look like; a type without a name is none. */
static const struct {
    const char *name;
    uint32_t min, max;      /* payload bytes */
    uint16_t flags;
} frame_rules[] = {
    [FT_FRAME_HELLO] = { "HELLO", FT_HELLO_SIZE, FT_HELLO_SIZE, 0 },
    [FT_FRAME_WELCOME] = { "WELCOME", FT_HELLO_SIZE, FT_HELLO_SIZE, 0 },
    [FT_FRAME_MACHINE] = { "MACHINE", 0, FT_WIRE_PAYLOAD_MAX, 0 },
    [FT_FRAME_READY] = { "READY", 0, FT_WIRE_TEXT_MAX, 0 },
    [FT_FRAME_PAGES] = { "PAGES", 0, FT_WIRE_PAYLOAD_MAX, FT_FLAG_SYNC },
    [FT_FRAME_DEVICES] = { "DEVICES", 0, FT_WIRE_PAYLOAD_MAX, FT_FLAG_SYNC },
    [FT_FRAME_EPOCH_END] = { "EPOCH_END", FT_EPOCH_END_SIZE,
                             FT_EPOCH_END_SIZE, FT_FLAG_ALL },
    [FT_FRAME_JOURNAL] = { "JOURNAL", 0, FT_WIRE_PAYLOAD_MAX, 0 },
    [FT_FRAME_SAMPLES] = { "SAMPLES", 0, FT_WIRE_PAYLOAD_MAX, 0 },
    [FT_FRAME_ACK] = { "ACK", 0, FT_ACK_SIZE, 0 },
    [FT_FRAME_DISARM] = { "DISARM", 0, FT_WIRE_TEXT_MAX, 0 },
    [FT_FRAME_FAILOVER] = { "FAILOVER", 0, FT_WIRE_TEXT_MAX,
                            FT_FLAG_CLAIMED },
    [FT_FRAME_FENCED] = { "FENCED", 0, FT_WIRE_TEXT_MAX, 0 },
    [FT_FRAME_HEARTBEAT] = { "HEARTBEAT", FT_HEARTBEAT_SIZE,
                             FT_HEARTBEAT_SIZE, 0 },
    [FT_FRAME_ERROR] = { "ERROR", 0, FT_WIRE_PAYLOAD_MAX, 0 },
};

static uint32_t crc32c_soft(uint32_t crc, const uint8_t *p, size_t len)
{
    /*
     * crc32c() inverts at its end but not at its beginning, and counts in
     * unsigned int.
     */
    while (len) {
        size_t n = MIN(len, 1u << 30);

        crc = crc32c(~crc, p, n);
        p += n;
        len -= n;
    }
    return crc;
}

#ifdef FT_CRC32C_HARD
static bool crc32c_hard_usable(void)
{
    return __builtin_cpu_supports("sse4.2");
}

static uint32_t __attribute__((target("sse4.2")))
crc32c_hard(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t acc = ~crc;

    for (; len >= 8; p += 8, len -= 8) {
        acc = _mm_crc32_u64(acc, ldq_he_p(p));
    }
    for (; len; p++, len--) {
        acc = _mm_crc32_u8(acc, *p);
    }
    return ~(uint32_t)acc;
}
#endif

uint32_t ft_wire_crc32c(uint32_t crc, const void *data, size_t len)
{
#ifdef FT_CRC32C_HARD
    if (crc32c_hard_usable()) {
        return crc32c_hard(crc, data, len);
    }
#endif
    return crc32c_soft(crc, data, len);
}

const char *ft_wire_type_name(FtFrameType type)
{
    unsigned i = type;

    if (i < ARRAY_SIZE(frame_rules) && frame_rules[i].name) {
        return frame_rules[i].name;
    }
    return "unknown";
}

/*
 * No checks here: a wrong frame of our own is the peer's to refuse, which
 * ends the session; an assertion would end the guest.
 */
void ft_wire_put_header(uint8_t *buf, const FtFrame *f)
{
    stl_be_p(buf + HDR_MAGIC, FT_WIRE_MAGIC);
    stb_p(buf + HDR_VERSION, FT_WIRE_VERSION);
    stb_p(buf + HDR_TYPE, f->type);
    stw_be_p(buf + HDR_FLAGS, f->flags);
    stq_be_p(buf + HDR_EPOCH, f->epoch);
    stl_be_p(buf + HDR_LENGTH, f->length);
    stl_be_p(buf + HDR_PAYLOAD_CRC, f->payload_crc);
    stl_be_p(buf + HDR_CRC, ft_wire_crc32c(0, buf, HDR_CRC));
}

bool ft_wire_get_header(const uint8_t *buf, FtFrame *f, Error **errp)
{
    uint32_t magic = ldl_be_p(buf + HDR_MAGIC);
    uint8_t version = buf[HDR_VERSION];
    uint8_t type = buf[HDR_TYPE];
    uint16_t flags = lduw_be_p(buf + HDR_FLAGS);
    uint32_t length = ldl_be_p(buf + HDR_LENGTH);
    uint32_t crc;

    if (magic != FT_WIRE_MAGIC) {
        error_setg(errp, "frame begins with magic 0x%08x instead of 0x%08x: "
                   "the peer does not speak this protocol", magic,
                   FT_WIRE_MAGIC);
        return false;
    }
    /* Before the checksum: another version may have it somewhere else. */
    if (version != FT_WIRE_VERSION) {
        error_setg(errp, "frame has protocol version %u, this side speaks %u",
                   version, FT_WIRE_VERSION);
        return false;
    }
    crc = ft_wire_crc32c(0, buf, HDR_CRC);
    if (crc != ldl_be_p(buf + HDR_CRC)) {
        error_setg(errp, "frame header is damaged: it says checksum 0x%08x, "
                   "but has 0x%08x", ldl_be_p(buf + HDR_CRC), crc);
        return false;
    }
    if (type >= ARRAY_SIZE(frame_rules) || !frame_rules[type].name) {
        error_setg(errp, "frame of unknown type %u", type);
        return false;
    }
    if (flags & ~frame_rules[type].flags) {
        error_setg(errp, "frame of type %s has flags 0x%04x, of which 0x%04x "
                   "are unknown or not for this type",
                   frame_rules[type].name, flags,
                   flags & ~frame_rules[type].flags);
        return false;
    }
    if (length < frame_rules[type].min || length > frame_rules[type].max) {
        bool exact = frame_rules[type].min == frame_rules[type].max;

        error_setg(errp, "frame of type %s claims %" PRIu32 " bytes, %s "
                   "%" PRIu32, frame_rules[type].name, length,
                   exact ? "it must have" : "limit is",
                   frame_rules[type].max);
        return false;
    }

    *f = (FtFrame) {
        .type = type,
        .flags = flags,
        .epoch = ldq_be_p(buf + HDR_EPOCH),
        .length = length,
        .payload_crc = ldl_be_p(buf + HDR_PAYLOAD_CRC),
    };
    return true;
}

bool ft_wire_check_payload(const FtFrame *f, const void *payload,
                           Error **errp)
{
    uint32_t crc = ft_wire_crc32c(0, payload, f->length);

    if (crc != f->payload_crc) {
        error_setg(errp, "payload of %" PRIu32 " bytes of a frame of type %s "
                   "of epoch %" PRIu64 " is damaged: its checksum is 0x%08x, "
                   "the header says 0x%08x", f->length,
                   ft_wire_type_name(f->type), f->epoch, crc, f->payload_crc);
        return false;
    }
    return true;
}

void ft_wire_put_hello(uint8_t *buf, const FtHello *h)
{
    memcpy(buf + HELLO_SESSION, h->session, sizeof(h->session));
    memcpy(buf + HELLO_TOKEN, h->token, sizeof(h->token));
    stl_be_p(buf + HELLO_CHANNEL, h->channel);
    stl_be_p(buf + HELLO_PAGE_SIZE, h->page_size);
    stq_be_p(buf + HELLO_FEATURES, h->features);
    stq_be_p(buf + HELLO_GENERATION, h->generation);
    stl_be_p(buf + HELLO_DRIVE, h->drive);
    stl_be_p(buf + HELLO_UNUSED, 0);
}

bool ft_wire_get_hello(const uint8_t *buf, size_t len, FtHello *h,
                       Error **errp)
{
    uint32_t channel, drive;

    if (len != FT_HELLO_SIZE) {
        error_setg(errp, "hello has %zu bytes, it must have %u", len,
                   FT_HELLO_SIZE);
        return false;
    }
    channel = ldl_be_p(buf + HELLO_CHANNEL);
    if (channel < FT_CHANNEL_DATA || channel > FT_CHANNEL_HEART) {
        error_setg(errp, "hello is for channel %" PRIu32 ", known are %u "
                   "(data), %u (control), %u (disk) and %u (heartbeats)",
                   channel, FT_CHANNEL_DATA, FT_CHANNEL_CONTROL,
                   FT_CHANNEL_DISK, FT_CHANNEL_HEART);
        return false;
    }
    drive = ldl_be_p(buf + HELLO_DRIVE);
    if ((drive && channel != FT_CHANNEL_DISK) ||
        ldl_be_p(buf + HELLO_UNUSED)) {
        error_setg(errp, "unused bytes of the hello are not zero but 0x%016"
                   PRIx64, ldq_be_p(buf + HELLO_DRIVE));
        return false;
    }

    memcpy(h->session, buf + HELLO_SESSION, sizeof(h->session));
    memcpy(h->token, buf + HELLO_TOKEN, sizeof(h->token));
    h->channel = channel;
    h->page_size = ldl_be_p(buf + HELLO_PAGE_SIZE);
    h->features = ldq_be_p(buf + HELLO_FEATURES);
    h->generation = ldq_be_p(buf + HELLO_GENERATION);
    h->drive = drive;
    return true;
}

void ft_wire_put_heartbeat(uint8_t *buf, const FtHeartbeat *h)
{
    stq_be_p(buf, h->number);
    stq_be_p(buf + 8, h->echo);
}

bool ft_wire_get_heartbeat(const uint8_t *buf, size_t len, FtHeartbeat *h,
                           Error **errp)
{
    if (len != FT_HEARTBEAT_SIZE) {
        error_setg(errp, "heartbeat has %zu bytes, it must have %u", len,
                   FT_HEARTBEAT_SIZE);
        return false;
    }
    *h = (FtHeartbeat) {
        .number = ldq_be_p(buf),
        .echo = ldq_be_p(buf + 8),
    };
    return true;
}

void ft_wire_put_epoch_end(uint8_t *buf, const FtEpochEnd *e)
{
    stq_be_p(buf, e->pages);
    stq_be_p(buf + 8, e->page_bytes);
    stq_be_p(buf + 16, e->device_bytes);
    stq_be_p(buf + 24, e->ram_hash);
    stq_be_p(buf + 32, e->dev_hash);
    stq_be_p(buf + 40, e->journal_bytes);
    stq_be_p(buf + 48, e->journal_records);
    stq_be_p(buf + 56, e->on_disk);
    stq_be_p(buf + 64, e->age_us);
}

bool ft_wire_get_epoch_end(const uint8_t *buf, size_t len, FtEpochEnd *e,
                           Error **errp)
{
    if (len != FT_EPOCH_END_SIZE) {
        error_setg(errp, "end of epoch has %zu bytes, it must have %u", len,
                   FT_EPOCH_END_SIZE);
        return false;
    }

    *e = (FtEpochEnd) {
        .pages = ldq_be_p(buf),
        .page_bytes = ldq_be_p(buf + 8),
        .device_bytes = ldq_be_p(buf + 16),
        .ram_hash = ldq_be_p(buf + 24),
        .dev_hash = ldq_be_p(buf + 32),
        .journal_bytes = ldq_be_p(buf + 40),
        .journal_records = ldq_be_p(buf + 48),
        .on_disk = ldq_be_p(buf + 56),
        .age_us = ldq_be_p(buf + 64),
    };
    return true;
}
