/*
 * Fuzz target: the header of a frame and the typed decoders of wire.h
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a byte of FIX_ bits, a header, a payload.  A fuzzer does not guess a
 * checksum: with the bits set it is put right (and so is the length, to what
 * there is), and the decoders behind it get to see the rest as it is.
 *
 * What is accepted has no meaning but one: encoded again it is the same bytes.
 * What is refused leaves the result alone.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "migration/ft/wire.h"
#include "fuzz.h"

#define FIX_MAGIC   1       /* and the version */
#define FIX_HEADER  2
#define FIX_PAYLOAD 4
#define FIX_LENGTH  8

static void check_crc(const uint8_t *buf, size_t len, uint8_t cut)
{
    size_t first = len ? cut % len : 0;
    uint32_t crc = ft_wire_crc32c(0, buf, first);

    g_assert_cmphex(ft_wire_crc32c(crc, buf + first, len - first), ==,
                    ft_wire_crc32c(0, buf, len));
}

static void check_hello(const uint8_t *buf, size_t len)
{
    uint8_t again[FT_HELLO_SIZE];
    FtHello h;
    Error *err = NULL;

    if (fuzz_result(ft_wire_get_hello(buf, len, &h, &err), err)) {
        g_assert_cmpuint(len, ==, FT_HELLO_SIZE);
        g_assert_cmpuint(h.channel, >=, FT_CHANNEL_DATA);
        g_assert_cmpuint(h.channel, <=, FT_CHANNEL_HEART);
        g_assert_true(h.channel == FT_CHANNEL_DISK || !h.drive);
        ft_wire_put_hello(again, &h);
        g_assert_cmpmem(again, sizeof(again), buf, len);
    }
}

static void check_heartbeat(const uint8_t *buf, size_t len)
{
    uint8_t again[FT_HEARTBEAT_SIZE];
    FtHeartbeat h;
    Error *err = NULL;

    if (fuzz_result(ft_wire_get_heartbeat(buf, len, &h, &err), err)) {
        g_assert_cmpuint(len, ==, FT_HEARTBEAT_SIZE);
        ft_wire_put_heartbeat(again, &h);
        g_assert_cmpmem(again, sizeof(again), buf, len);
    }
}

static void check_epoch_end(const uint8_t *buf, size_t len)
{
    uint8_t again[FT_EPOCH_END_SIZE];
    FtEpochEnd e;
    Error *err = NULL;

    if (fuzz_result(ft_wire_get_epoch_end(buf, len, &e, &err), err)) {
        g_assert_cmpuint(len, ==, FT_EPOCH_END_SIZE);
        ft_wire_put_epoch_end(again, &e);
        g_assert_cmpmem(again, sizeof(again), buf, len);
    }
}

/* As wire.h has it for each type. */
static void check_length(const FtFrame *f)
{
    switch (f->type) {
    case FT_FRAME_HELLO:
    case FT_FRAME_WELCOME:
        g_assert_cmpuint(f->length, ==, FT_HELLO_SIZE);
        break;
    case FT_FRAME_EPOCH_END:
        g_assert_cmpuint(f->length, ==, FT_EPOCH_END_SIZE);
        break;
    case FT_FRAME_HEARTBEAT:
        g_assert_cmpuint(f->length, ==, FT_HEARTBEAT_SIZE);
        break;
    case FT_FRAME_ACK:
        g_assert_cmpuint(f->length, <=, FT_ACK_SIZE);
        break;
    case FT_FRAME_READY:
    case FT_FRAME_DISARM:
    case FT_FRAME_FAILOVER:
    case FT_FRAME_FENCED:
        g_assert_cmpuint(f->length, <=, FT_WIRE_TEXT_MAX);
        break;
    default:
        g_assert_cmpuint(f->length, <=, FT_WIRE_PAYLOAD_MAX);
        break;
    }
}

static void check_payload(FtFrame *f, const uint8_t *buf, size_t len,
                          bool fix)
{
    Error *err = NULL;

    /* the link reads as many as the header says, or gives up */
    if (f->length > len) {
        return;
    }
    if (fix) {
        f->payload_crc = ft_wire_crc32c(0, buf, f->length);
    }
    if (!fuzz_result(ft_wire_check_payload(f, buf, &err), err)) {
        g_assert_false(fix);
        return;
    }
    switch (f->type) {
    case FT_FRAME_HELLO:
    case FT_FRAME_WELCOME:
        check_hello(buf, f->length);
        break;
    case FT_FRAME_EPOCH_END:
        check_epoch_end(buf, f->length);
        break;
    case FT_FRAME_HEARTBEAT:
        check_heartbeat(buf, f->length);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t fix = fuzz_u8(&in);
    size_t got, len;
    g_autofree uint8_t *header = fuzz_block(&in, FT_WIRE_HEADER, &got);
    g_autofree uint8_t *payload = fuzz_block(&in, in.left, &len);
    uint8_t again[FT_WIRE_HEADER];
    FtFrame f, old;
    Error *err = NULL;

    check_crc(payload, len, fix);
    /* whatever the length: it may be anything that comes in a payload */
    check_hello(payload, len);
    check_heartbeat(payload, len);
    check_epoch_end(payload, len);

    if (got < FT_WIRE_HEADER) {
        return 0;
    }
    if (fix & FIX_MAGIC) {
        stl_be_p(header, FT_WIRE_MAGIC);
        stb_p(header + 4, FT_WIRE_VERSION);
    }
    if (fix & FIX_LENGTH) {
        stl_be_p(header + 16, len);
    }
    if (fix & FIX_HEADER) {
        stl_be_p(header + 24, ft_wire_crc32c(0, header, 24));
    }
    memset(&f, 0xa5, sizeof(f));
    old = f;
    if (!fuzz_result(ft_wire_get_header(header, &f, &err), err)) {
        g_assert_cmpmem(&f, sizeof(f), &old, sizeof(old));
        return 0;
    }
    g_assert_cmpstr(ft_wire_type_name(f.type), !=, "unknown");
    check_length(&f);
    g_assert_cmphex(f.flags & ~(FT_FLAG_ALL | FT_FLAG_CLAIMED), ==, 0);
    ft_wire_put_header(again, &f);
    g_assert_cmpmem(again, sizeof(again), header, FT_WIRE_HEADER);

    check_payload(&f, payload, len, fix & FIX_PAYLOAD);
    return 0;
}
