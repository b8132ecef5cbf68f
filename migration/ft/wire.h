/*
 * Fault tolerance: frames on the wire (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every frame is a header of FT_WIRE_HEADER bytes and a payload:
 *
 *   0        4    5    6      8          16       20       24       28
 *   +--------+----+----+------+----------+--------+--------+--------+
 *   | magic  |ver |type|flags |  epoch   | length | payload| header |
 *   | "CUJU" |    |    |      |          |        | crc32c | crc32c |
 *   +--------+----+----+------+----------+--------+--------+--------+
 *
 * All integers are in network byte order.  The header's CRC covers bytes
 * 0..23, so that a damaged length is never believed.  A payload is at most
 * FT_WIRE_PAYLOAD_MAX bytes; what is longer (RAM, device state) travels in
 * several frames.
 */

#ifndef MIGRATION_FT_WIRE_H
#define MIGRATION_FT_WIRE_H

#include "qapi/error.h"

#define FT_WIRE_MAGIC       0x43554a55u     /* "CUJU" */
#define FT_WIRE_VERSION     1      /* until cuju-1.0 is out */
#define FT_WIRE_HEADER      28
#define FT_WIRE_PAYLOAD_MAX (1u << 20)

typedef enum FtFrameType {
    /* handshake, both channels */
    FT_FRAME_HELLO = 1,         /* p->b: FtHello */
    FT_FRAME_WELCOME = 2,       /* b->p: FtHello with the token filled in */
    FT_FRAME_MACHINE = 3,       /* p->b: fingerprint text, data channel */
    FT_FRAME_READY = 4,         /* b->p: fingerprint accepted */
    /* data channel, primary to backup */
    FT_FRAME_PAGES = 8,         /* page records, see encode.h */
    FT_FRAME_DEVICES = 9,       /* a piece of the device state */
    FT_FRAME_EPOCH_END = 10,    /* FtEpochEnd: the epoch is complete */
    FT_FRAME_JOURNAL = 11,      /* disk records, see journal.h */
    FT_FRAME_SAMPLES = 12,      /* of images, before epoch 1; see
                                 * disks-copy.c */
    /* control channel */
    FT_FRAME_ACK = 16,          /* b->p: epoch received whole; payload:
                                 * nothing, or FT_ACK_SIZE bytes: the last
                                 * epoch that is on the backup's own images */
    FT_FRAME_DISARM = 17,       /* both: orderly end, do not take over;
                                 * the primary says it on data, too, and the
                                 * backup answers it with its own */
    FT_FRAME_FAILOVER = 18,     /* b->p: stop for good, I take over */
    FT_FRAME_FENCED = 19,       /* p->b: I have stopped for good */
    /* heartbeat channel, both ways */
    FT_FRAME_HEARTBEAT = 20,    /* FtHeartbeat */
    /* either channel */
    FT_FRAME_ERROR = 24,        /* text: why the sender ends the session */
} FtFrameType;

/* flags of PAGES, DEVICES, EPOCH_END; JOURNAL and SAMPLES have none */
#define FT_FLAG_SYNC        0x0001  /* first copy: apply at once */
/* flags of EPOCH_END */
#define FT_FLAG_RUNNING     0x0002  /* the guest was running */
#define FT_FLAG_HASH        0x0004  /* ram_hash/dev_hash are filled in */
#define FT_FLAG_ALL         0x0007
/* flag of FAILOVER */
#define FT_FLAG_CLAIMED     0x0008  /* the arbiter has given me the next
                                     * generation */

typedef struct FtFrame {
    FtFrameType type;
    uint16_t flags;
    uint64_t epoch;
    uint32_t length;        /* of the payload */
    uint32_t payload_crc;
} FtFrame;

/*
 * ft_wire_crc32c: CRC-32C (Castagnoli) of @len bytes at @data, going on from
 * @crc (0 for the first piece).  Same result as the iSCSI CRC: RFC 3720 B.4.
 * Uses the CPU's instruction where there is one.
 */
uint32_t ft_wire_crc32c(uint32_t crc, const void *data, size_t len);

/*
 * ft_wire_put_header: write the header of @f to @buf (FT_WIRE_HEADER bytes).
 * @f->payload_crc must be the CRC of the payload that follows.
 */
void ft_wire_put_header(uint8_t *buf, const FtFrame *f);

/*
 * ft_wire_get_header: check the FT_WIRE_HEADER bytes at @buf and fill @f in.
 * Refuses, with an error that says which: wrong magic, wrong version, bad
 * header CRC, unknown type, flags that are unknown or not for the type (they
 * are listed above by type; the other types have none), a length over the
 * limit of the type (DISARM, FAILOVER, FENCED, READY carry at most
 * FT_WIRE_TEXT_MAX bytes; ACK at most FT_ACK_SIZE; HEARTBEAT exactly
 * FT_HEARTBEAT_SIZE; EPOCH_END exactly FT_EPOCH_END_SIZE; HELLO and WELCOME
 * exactly FT_HELLO_SIZE; the others FT_WIRE_PAYLOAD_MAX).
 * @f is left alone when it returns false.
 */
bool ft_wire_get_header(const uint8_t *buf, FtFrame *f, Error **errp);

/* ft_wire_check_payload: the CRC of the payload is as @f says. */
bool ft_wire_check_payload(const FtFrame *f, const void *payload,
                           Error **errp);

#define FT_WIRE_TEXT_MAX 1024

/*
 * ft_wire_type_name: for messages; "type 77" style names are never needed
 * as unknown types do not decode, returns "unknown" for them.
 */
const char *ft_wire_type_name(FtFrameType type);

typedef enum FtChannelKind {
    FT_CHANNEL_DATA = 1,
    FT_CHANNEL_CONTROL = 2,
    FT_CHANNEL_DISK = 3,        /* after WELCOME it is NBD's, see copy.h */
    FT_CHANNEL_HEART = 4,       /* heartbeats */
} FtChannelKind;

#define FT_HELLO_SIZE 64
#define FT_FEATURE_HASH 0x1ull      /* epoch hashes are wanted */
#define FT_FEATURES     0x1ull      /* all that this version knows */

typedef struct FtHello {
    uint8_t session[16];    /* UUID of the protection session */
    uint8_t token[16];      /* WELCOME: drawn by the backup; the HELLO of
                             * the other channels shows it back */
    FtChannelKind channel;
    uint64_t features;
    uint32_t page_size;     /* bytes */
    uint64_t generation;
    uint32_t drive;         /* FT_CHANNEL_DISK: its number; else 0 */
} FtHello;

/*
 * Exactly FT_HELLO_SIZE bytes; unused ones are zero and checked, and so is
 * the channel.  Features, page size and generation are passed on as they are:
 * to agree on them is the handshake's business.
 */
void ft_wire_put_hello(uint8_t *buf, const FtHello *h);
bool ft_wire_get_hello(const uint8_t *buf, size_t len, FtHello *h,
                       Error **errp);

#define FT_ACK_SIZE 8

#define FT_HEARTBEAT_SIZE 16

typedef struct FtHeartbeat {
    uint64_t number;        /* from 1, one more each time */
    uint64_t echo;          /* the highest that came from the peer, 0: none */
} FtHeartbeat;

void ft_wire_put_heartbeat(uint8_t *buf, const FtHeartbeat *h);
bool ft_wire_get_heartbeat(const uint8_t *buf, size_t len, FtHeartbeat *h,
                           Error **errp);

#define FT_EPOCH_END_SIZE 72

typedef struct FtEpochEnd {
    uint64_t pages;         /* records in this epoch's PAGES frames */
    uint64_t page_bytes;    /* payload bytes of this epoch's PAGES frames */
    uint64_t device_bytes;  /* payload bytes of its DEVICES frames */
    uint64_t ram_hash;      /* of all guest RAM, with FT_FLAG_HASH */
    uint64_t dev_hash;      /* of the device state, with FT_FLAG_HASH */
    uint64_t journal_bytes; /* payload bytes of its JOURNAL frames */
    uint64_t journal_records;   /* records in them */
    uint64_t on_disk;       /* the last epoch that is on the primary's disks,
                             * lower than this one */
    uint64_t age_us;        /* since its clocks were read, when this is sent */
} FtEpochEnd;

void ft_wire_put_epoch_end(uint8_t *buf, const FtEpochEnd *e);
bool ft_wire_get_epoch_end(const uint8_t *buf, size_t len, FtEpochEnd *e,
                           Error **errp);

#endif
