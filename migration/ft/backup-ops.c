/*
 * Fault tolerance: the backup: what its state machine asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Staging, acknowledging and applying epochs; asking the primary and the
 * arbiter; the ends.
 *
 * Locking: FtBackup.lock, any thread; backup-private.h has the picture.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "backup-private.h"

/* Frames' payloads (1 MiB each) that are kept between epochs. */
#define BACKUP_STAGE_KEEP       64

static void op_state(void *opaque, FtBakState state, const char *reason)
{
    FtBackup *b = opaque;
    FtPulseStats heart;

    if (state == FT_BAK_CLAIMING && !b->lost_at) {
        b->lost_at = ft_now_us();
        ft_pulse_stats(b->pulse, &heart);
        b->heard_at = b->lost_at - heart.heard_age_us;
    }
    ft_backup_post(b, (FtBackupEvent) { .kind = FT_BACKUP_STATE,
                                        .state = state,
                                        .text = (char *)reason });
}

static bool op_stage_pages(void *opaque, const void *payload, uint32_t len,
                           uint64_t *records, Error **errp)
{
    FtBackup *b = opaque;
    GByteArray *copy;

    if (!ft_decode_pages(payload, len, &b->table, NULL, NULL, records,
                         errp)) {
        return false;
    }
    if (b->staged_count == b->staged->len) {
        g_ptr_array_add(b->staged, g_byte_array_sized_new(len));
    }
    copy = g_ptr_array_index(b->staged, b->staged_count++);
    g_byte_array_set_size(copy, 0);
    g_byte_array_append(copy, payload, len);
    return true;
}

/* Forget what is staged; the memory stays for the next epoch, in bounds. */
static void stage_reset(FtBackup *b)
{
    b->staged_count = 0;
    if (b->staged->len > BACKUP_STAGE_KEEP) {
        g_ptr_array_set_size(b->staged, BACKUP_STAGE_KEEP);
    }
}

static bool write_page(void *opaque, const FtPageRecord *rec, Error **errp)
{
    FtBackup *b = opaque;
    uint8_t *to = b->machine->block[rec->block].host + rec->offset;

    if (rec->kind == FT_PAGE_RAW) {
        memcpy(to, rec->data, FT_PAGE_SIZE);
    } else if (!buffer_is_zero(to, FT_PAGE_SIZE)) {
        /* looked at first, so that untouched memory stays unallocated */
        memset(to, 0, FT_PAGE_SIZE);
    }
    if (++b->applied_pages == b->apply_half) {
        ft_inject(FT_FAULT_POINT_MID_APPLY);
    }
    return true;
}

static bool op_apply_now(void *opaque, const void *payload, uint32_t len,
                         Error **errp)
{
    FtBackup *b = opaque;

    b->apply_half = 0;
    return ft_decode_pages(payload, len, &b->table, write_page, b, NULL,
                           errp);
}

static bool op_stage_devices(void *opaque, const void *payload, uint32_t len,
                             Error **errp)
{
    FtBackup *b = opaque;

    g_byte_array_append(b->devices_open, payload, len);
    return true;
}

static bool add_record(void *opaque, FtRecord *r, Error **errp)
{
    FtBackup *b = opaque;

    ft_records_add(&b->journal, r);
    ft_record_unref(r);
    return true;
}

static bool op_stage_journal(void *opaque, const void *payload, uint32_t len,
                             uint64_t *records, Error **errp)
{
    FtBackup *b = opaque;
    const uint64_t *length;
    unsigned count;

    length = ft_disks_lengths(b->disks, &count);
    return ft_record_decode(payload, len, length, count, add_record, b,
                            records, errp) &&
           ft_disks_room(b->disks, b->journal.bytes, errp);
}

static bool op_samples(void *opaque, const void *payload, uint32_t len,
                       Error **errp)
{
    FtBackup *b = opaque;

    ft_disks_samples(b->disks, payload, len);
    return true;
}

static void op_ack(void *opaque, uint64_t epoch)
{
    FtBackup *b = opaque;
    uint8_t settled[FT_ACK_SIZE];
    uint64_t own = ft_disks_settled(b->disks);

    b->committed_at = ft_clock_now();
    ft_inject(FT_FAULT_POINT_BEFORE_ACK);
    stq_be_p(settled, own);
    ft_link_send(b->links.control, FT_FRAME_ACK, 0, epoch, settled,
                 own == UINT64_MAX ? 0 : sizeof(settled), NULL);
    ft_inject(FT_FAULT_POINT_AFTER_ACK);
}

static bool check_hash(FtBackup *b, uint64_t epoch, const FtEpochEnd *end,
                       Error **errp)
{
    uint64_t ram = ft_machine_hash(b->machine);
    uint64_t dev = ft_wire_crc32c(0, b->devices->data, b->devices->len);

    if (ram != end->ram_hash || dev != end->dev_hash) {
        error_setg(errp, "after epoch %" PRIu64 " this side's %s differs from "
                   "the primary's: this is a bug in the engine, please report"
                   " it", epoch, ram != end->ram_hash ? "RAM" :
                   "device state");
        return false;
    }
    b->hashes++;
    return true;
}

static bool op_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                     uint16_t flags, Error **errp)
{
    FtBackup *b = opaque;
    GByteArray *was = b->devices;
    unsigned i;

    b->applied_pages = 0;
    b->apply_half = end->pages / 2;
    for (i = 0; i < b->staged_count; i++) {
        GByteArray *part = g_ptr_array_index(b->staged, i);

        if (!ft_decode_pages(part->data, part->len, &b->table, write_page, b,
                             NULL, errp)) {
            return false;
        }
    }
    stage_reset(b);
    ft_clock_back(&b->committed_at, &b->began_at, end->age_us * SCALE_US);
    ft_disks_commit(b->disks, epoch, &b->journal, end->on_disk);
    b->devices = b->devices_open;
    b->devices_open = was;
    g_byte_array_set_size(b->devices_open, 0);
    return !(flags & FT_FLAG_HASH) || check_hash(b, epoch, end, errp);
}

static void op_drop_open(void *opaque)
{
    FtBackup *b = opaque;

    stage_reset(b);
    g_byte_array_set_size(b->devices_open, 0);
    ft_records_clear(&b->journal);
}

static void op_send_disarm(void *opaque)
{
    FtBackup *b = opaque;

    ft_link_try_send(b->links.control, FT_FRAME_DISARM, 0, 0,
                     "it never takes over now");
}

static void op_send_failover(void *opaque, bool claimed)
{
    FtBackup *b = opaque;

    ft_link_try_send(b->links.control, FT_FRAME_FAILOVER,
                     claimed ? FT_FLAG_CLAIMED : 0, 0, "");
}

/* The arbiter's thread, or (arbiter none) from op_claim(), with the lock. */
static void claim_answer(void *opaque, FtClaim claim, const char *text)
{
    ft_backup_post(opaque, (FtBackupEvent) { .kind = FT_BACKUP_CLAIM,
                                             .claim = claim,
                                             .text = (char *)text });
}

static void op_claim(void *opaque)
{
    FtBackup *b = opaque;

    ft_inject(FT_FAULT_POINT_CLAIM);
    ft_arbiter_claim(b->session->arbiter, b->session->generation + 1,
                     claim_answer, b);
}

static void op_end_heart(void *opaque)
{
    FtBackup *b = opaque;

    ft_link_shutdown(b->links.heart);
}

static void op_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    ft_inject(FT_FAULT_POINT_CLAIMED);
    ft_backup_post(opaque, (FtBackupEvent) { .kind = FT_BACKUP_TAKEOVER,
                                             .text = (char *)reason });
}

static void op_discard(void *opaque, FtBakEnd end, const char *reason)
{
    FtBackup *b = opaque;

    if (end == FT_BAK_END_ERROR && b->links.control) {
        ft_link_try_send(b->links.control, FT_FRAME_ERROR, 0, 0, reason);
    }
    ft_backup_post(b, (FtBackupEvent) { .kind = FT_BACKUP_DISCARD,
                                        .end = end, .text = (char *)reason });
}

const FtBakOps ft_backup_ops = {
    .state = op_state,
    .stage_pages = op_stage_pages,
    .apply_now = op_apply_now,
    .stage_devices = op_stage_devices,
    .stage_journal = op_stage_journal,
    .samples = op_samples,
    .ack = op_ack,
    .apply = op_apply,
    .drop_open = op_drop_open,
    .send_disarm = op_send_disarm,
    .send_failover = op_send_failover,
    .claim = op_claim,
    .end_heart = op_end_heart,
    .takeover = op_takeover,
    .discard = op_discard,
};
