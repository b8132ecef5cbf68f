/*
 * Fault tolerance: the backup's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table of states and events is in the header.  What comes from the
 * peer is counted here before it is kept, so that a peer can never make
 * this side hold more than the limits in FtBakParams.
 */

#include "qemu/osdep.h"
#include "backup-fsm.h"

static const char *const bak_names[] = {
    [FT_BAK_WAITING] = "waiting",
    [FT_BAK_SYNC] = "sync",
    [FT_BAK_STANDBY] = "standby",
    [FT_BAK_TAKEOVER] = "takeover",
    [FT_BAK_UNPROTECTED] = "unprotected",
    [FT_BAK_DISCARDED] = "discarded",
};

const char *ft_bak_state_name(FtBakState state)
{
    return bak_names[state];
}

void ft_bak_init(FtBak *b, const FtBakOps *ops, void *opaque,
                 const FtBakParams *params)
{
    *b = (FtBak) { .ops = ops, .opaque = opaque, .params = *params };
}

static bool bak_live(const FtBak *b)
{
    return b->state == FT_BAK_SYNC || b->state == FT_BAK_STANDBY;
}

static void bak_set_state(FtBak *b, FtBakState state, const char *reason)
{
    b->state = state;
    b->ops->state(b->opaque, state, reason);
}

static void bak_reset_open(FtBak *b)
{
    b->open_pages = 0;
    b->open_page_bytes = 0;
    b->open_device_bytes = 0;
    b->open_journal_bytes = 0;
    b->open_records = 0;
}

static void bak_discard(FtBak *b, bool orderly, const char *reason)
{
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    bak_set_state(b, FT_BAK_DISCARDED, reason);
    b->ops->discard(b->opaque, orderly, reason);
}

static void bak_take_over(FtBak *b, const char *reason)
{
    if (!b->committed) {
        bak_discard(b, false, "the primary was lost during the first copy");
        return;
    }
    if (b->bad_image) {
        bak_discard(b, false, "there is no whole epoch to go on from");
        return;
    }
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    b->takeover_reason = reason;
    bak_set_state(b, FT_BAK_TAKEOVER, reason);
    b->ops->takeover(b->opaque, b->committed, reason);
}

/* The control connection's next word, or the deadline, decides. */
static void bak_await(FtBak *b, int64_t now, const char *reason)
{
    b->fencing = true;
    b->takeover_reason = reason;
    b->fence_deadline = now + b->params.fence_timeout_us;
    b->asked = now;
}

/* Ask the primary to stop. */
static void bak_fence(FtBak *b, int64_t now, const char *reason)
{
    if (!b->fencing) {
        bak_await(b, now, reason);
        b->ops->send_failover(b->opaque);
    }
}

void ft_bak_connected(FtBak *b)
{
    if (b->state == FT_BAK_WAITING) {
        bak_set_state(b, FT_BAK_SYNC, "first copy is under way");
    }
}

static bool bak_pages(FtBak *b, const FtFrame *f, const void *payload,
                      Error **errp)
{
    uint64_t records = 0;

    if (f->flags & FT_FLAG_SYNC) {
        if (b->state != FT_BAK_SYNC || f->epoch != 0) {
            error_setg(errp, "a page of the first copy came after it was "
                       "over (epoch %" PRIu64 ")", f->epoch);
            return false;
        }
        return b->ops->apply_now(b->opaque, payload, f->length, errp);
    }
    if (f->length > b->params.max_stage_bytes - b->open_page_bytes) {
        error_setg(errp, "epoch %" PRIu64 " has more than %" PRIu64
                   " bytes of pages, the limit for this machine", f->epoch,
                   b->params.max_stage_bytes);
        return false;
    }
    if (!b->ops->stage_pages(b->opaque, payload, f->length, &records, errp)) {
        return false;
    }
    b->open_page_bytes += f->length;
    b->open_pages += records;
    return true;
}

static bool bak_devices(FtBak *b, const FtFrame *f, const void *payload,
                        Error **errp)
{
    if (f->length > b->params.max_device_bytes - b->open_device_bytes) {
        error_setg(errp, "epoch %" PRIu64 " has more than %" PRIu64
                   " bytes of device state", f->epoch,
                   b->params.max_device_bytes);
        return false;
    }
    b->open_device_bytes += f->length;
    return b->ops->stage_devices(b->opaque, payload, f->length, errp);
}

static bool bak_journal(FtBak *b, const FtFrame *f, const void *payload,
                        Error **errp)
{
    uint64_t records = 0;

    if (f->length > b->params.max_journal_bytes - b->open_journal_bytes) {
        error_setg(errp, "epoch %" PRIu64 " has more than %" PRIu64
                   " bytes of disk writes, the limit that was agreed on",
                   f->epoch, b->params.max_journal_bytes);
        return false;
    }
    if (!b->ops->stage_journal(b->opaque, payload, f->length, &records,
                               errp)) {
        return false;
    }
    b->open_journal_bytes += f->length;
    b->open_records += records;
    return true;
}

static bool bak_samples(FtBak *b, const FtFrame *f, const void *payload,
                        Error **errp)
{
    if (b->state != FT_BAK_SYNC) {
        error_setg(errp, "samples of images came after the first copy was "
                   "over");
        return false;
    }
    return b->ops->samples(b->opaque, payload, f->length, errp);
}

static bool bak_epoch_end(FtBak *b, const FtFrame *f, const void *payload,
                          Error **errp)
{
    FtEpochEnd end;

    if (!ft_wire_get_epoch_end(payload, f->length, &end, errp)) {
        return false;
    }
    if (end.pages != b->open_pages || end.page_bytes != b->open_page_bytes ||
        end.device_bytes != b->open_device_bytes) {
        error_setg(errp, "epoch %" PRIu64 " is torn: got %" PRIu64 " pages in "
                   "%" PRIu64 " bytes and %" PRIu64 " bytes of device state, "
                   "the primary sent %" PRIu64 ", %" PRIu64 " and %" PRIu64,
                   f->epoch, b->open_pages, b->open_page_bytes,
                   b->open_device_bytes, end.pages, end.page_bytes,
                   end.device_bytes);
        return false;
    }
    if (end.journal_bytes != b->open_journal_bytes ||
        end.journal_records != b->open_records) {
        error_setg(errp, "epoch %" PRIu64 " is torn: got %" PRIu64 " disk "
                   "writes in %" PRIu64 " bytes, the primary sent %" PRIu64
                   " in %" PRIu64, f->epoch, b->open_records,
                   b->open_journal_bytes, end.journal_records,
                   end.journal_bytes);
        return false;
    }
    if (end.on_disk >= f->epoch || end.on_disk < b->on_disk) {
        error_setg(errp, "epoch %" PRIu64 " says that epoch %" PRIu64 " is "
                   "on the primary's disks; before it was %" PRIu64,
                   f->epoch, end.on_disk, b->on_disk);
        return false;
    }
    if (!end.device_bytes) {
        error_setg(errp, "epoch %" PRIu64 " has no device state", f->epoch);
        return false;
    }
    /*
     * Acknowledged before it is applied: all of it is here, and nothing
     * that comes from outside can keep it from being applied.  From here
     * until apply() is done RAM holds a mixture, so a failure in between
     * must not end in a takeover.
     */
    b->committed = f->epoch;
    b->on_disk = end.on_disk;
    b->guest_running = f->flags & FT_FLAG_RUNNING;
    b->bad_image = true;
    b->ops->ack(b->opaque, f->epoch);
    if (!b->ops->apply(b->opaque, f->epoch, &end, f->flags, errp)) {
        return false;
    }
    b->bad_image = false;
    bak_reset_open(b);
    if (b->state == FT_BAK_SYNC) {
        bak_set_state(b, FT_BAK_STANDBY, "the first epoch is complete");
    }
    return true;
}

bool ft_bak_frame(FtBak *b, const FtFrame *f, const void *payload,
                  Error **errp)
{
    Error *err = NULL;
    bool ok;

    if (!bak_live(b)) {
        error_setg(errp, "a %s frame in state %s", ft_wire_type_name(f->type),
                   ft_bak_state_name(b->state));
        return false;
    }
    if (f->epoch != b->committed + 1 &&
        !(f->type == FT_FRAME_PAGES && (f->flags & FT_FLAG_SYNC))) {
        error_setg(&err, "a %s frame of epoch %" PRIu64 " while epoch %" PRIu64
                   " is open", ft_wire_type_name(f->type), f->epoch,
                   b->committed + 1);
        ok = false;
    } else if (f->type == FT_FRAME_PAGES) {
        ok = bak_pages(b, f, payload, &err);
    } else if (f->type == FT_FRAME_DEVICES) {
        ok = bak_devices(b, f, payload, &err);
    } else if (f->type == FT_FRAME_JOURNAL) {
        ok = bak_journal(b, f, payload, &err);
    } else if (f->type == FT_FRAME_SAMPLES) {
        ok = bak_samples(b, f, payload, &err);
    } else if (f->type == FT_FRAME_EPOCH_END) {
        ok = bak_epoch_end(b, f, payload, &err);
    } else {
        error_setg(&err, "a %s frame does not belong on the data channel",
                   ft_wire_type_name(f->type));
        ok = false;
    }
    if (!ok) {
        bak_discard(b, false, error_get_pretty(err));
        error_propagate(errp, err);
    }
    return ok;
}

void ft_bak_frame_bad(FtBak *b, const char *reason)
{
    if (bak_live(b)) {
        bak_discard(b, false, reason);
    }
}

void ft_bak_data_lost(FtBak *b, int64_t now)
{
    if (!bak_live(b) || b->data_lost) {
        return;
    }
    b->data_lost = true;
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    if (b->control_lost) {
        bak_take_over(b, b->fencing ? b->takeover_reason
                                    : "the primary was lost");
    } else if (b->state == FT_BAK_SYNC) {
        /* Nothing to take over; but a disarm may say that all is well. */
        bak_await(b, now, "the primary was lost");
    } else {
        bak_fence(b, now, "the data connection was lost");
    }
}

void ft_bak_control_lost(FtBak *b, int64_t now)
{
    if (!bak_live(b) || b->control_lost) {
        return;
    }
    b->control_lost = true;
    if (b->state == FT_BAK_SYNC) {
        bak_discard(b, false, "the primary was lost during the first copy");
    } else if (b->data_lost) {
        bak_take_over(b, "the primary was lost");
    } else if (!b->fencing) {
        /*
         * Whole epochs may still be on their way in the data connection.
         * It normally ends in the same moment; poll() bounds the wait.
         */
        bak_await(b, now, "the control connection was lost");
    }
}

void ft_bak_peer_disarm(FtBak *b, const char *reason)
{
    if (bak_live(b)) {
        bak_discard(b, true, reason);
    }
}

void ft_bak_peer_fenced(FtBak *b)
{
    if (bak_live(b) && b->fencing) {
        bak_take_over(b, b->takeover_reason);
    }
}

bool ft_bak_failover(FtBak *b, int64_t now, Error **errp)
{
    if (b->state != FT_BAK_STANDBY) {
        error_setg(errp, "this side cannot take over in state '%s': it is "
                   "a backup only in state 'standby'",
                   ft_bak_state_name(b->state));
        return false;
    }
    bak_fence(b, now, "the operator asked for it");
    return true;
}

void ft_bak_running(FtBak *b)
{
    if (b->state == FT_BAK_TAKEOVER) {
        bak_set_state(b, FT_BAK_UNPROTECTED, b->takeover_reason);
    }
}

void ft_bak_takeover_failed(FtBak *b, const char *reason)
{
    if (b->state == FT_BAK_TAKEOVER) {
        bak_discard(b, false, reason);
    }
}

int64_t ft_bak_poll(FtBak *b, int64_t now)
{
    if (!bak_live(b) || !b->fencing) {
        return INT64_MAX;
    }
    if (now - b->asked > FT_BAK_GRACE_US && !b->grace_given) {
        b->grace_given = true;
        b->fence_deadline = MAX(b->fence_deadline, now + FT_BAK_GRACE_US);
    }
    if (now >= b->fence_deadline) {
        bak_take_over(b, b->takeover_reason);
        return INT64_MAX;
    }
    /* Often enough to notice that this process stood still. */
    b->asked = MIN(b->fence_deadline, now + FT_BAK_GRACE_US);
    return b->asked;
}
