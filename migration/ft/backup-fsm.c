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
#include "qemu/cutils.h"
#include "backup-fsm.h"

static const char *const bak_names[] = {
    [FT_BAK_WAITING] = "waiting",
    [FT_BAK_SYNC] = "sync",
    [FT_BAK_STANDBY] = "standby",
    [FT_BAK_CLAIMING] = "claiming",
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

static void bak_discard(FtBak *b, FtBakEnd end, const char *reason)
{
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    bak_set_state(b, FT_BAK_DISCARDED, reason);
    b->ops->discard(b->opaque, end, reason);
}

/* Is there something to go on from?  Else this is the end. */
static bool bak_has_image(FtBak *b)
{
    if (!b->committed) {
        bak_discard(b, FT_BAK_END_ERROR,
                    "the primary was lost during the first copy");
        return false;
    }
    if (b->bad_image) {
        bak_discard(b, FT_BAK_END_ERROR,
                    "there is no whole epoch to go on from");
        return false;
    }
    return true;
}

static void bak_take_over(FtBak *b)
{
    bak_set_state(b, FT_BAK_TAKEOVER, b->why);
    b->ops->takeover(b->opaque, b->committed, b->why);
}

/* The control connection's next word, or the deadline, decides. */
static void bak_await(FtBak *b, int64_t now, int64_t timeout)
{
    b->fencing = true;
    b->fence_deadline = now + timeout;
    b->asked = now;
    b->grace_given = false;
}

/* Does the primary let nothing out any more?  See (1) in the header. */
static bool bak_lease_is_over(const FtBak *b)
{
    return b->silent || (b->heart_lost && (b->control_lost || b->given_up));
}

/* The primary says nothing more: go on as soon as its lease is over. */
static void bak_give_up(FtBak *b)
{
    b->given_up = true;
    if (bak_lease_is_over(b)) {
        bak_take_over(b);
    } else {
        b->ops->end_heart(b->opaque);
    }
}

/* Won, and control is lost: if the primary has died, its heartbeats'
 * connection ends in the same moment. */
static void bak_won_alone(FtBak *b, int64_t now)
{
    if (bak_lease_is_over(b)) {
        bak_take_over(b);
    } else {
        bak_await(b, now, FT_BAK_GRACE_US);
    }
}

/*
 * The arbiter has said yes.  A primary that still hears this side may finish
 * what it is writing; it is not waited for if its lease is over.
 */
static void bak_won(FtBak *b, int64_t now)
{
    b->claim_won = true;
    if (!b->control_lost) {
        b->ops->send_failover(b->opaque, true);
    }
    if (b->control_lost || b->silent) {
        bak_won_alone(b, now);
    } else {
        bak_await(b, now, b->params.fence_timeout_us);
    }
}

/* @ask: the primary might still hear this side and agree. */
static void bak_claim(FtBak *b, const char *reason, bool ask)
{
    if (!bak_has_image(b)) {
        return;
    }
    if (reason != b->why) {
        pstrcpy(b->why, sizeof(b->why), reason);
    }
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    b->fencing = false;
    bak_set_state(b, FT_BAK_CLAIMING, b->why);
    if (ask && !b->control_lost) {
        b->ops->send_failover(b->opaque, false);
    }
    b->ops->claim(b->opaque);
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
    if (end.age_us > FT_BAK_AGE_MAX_US) {
        error_setg(errp, "epoch %" PRIu64 " says that it is %" PRIu64
                   " microseconds old, more than a month", f->epoch,
                   end.age_us);
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

    if (b->state == FT_BAK_CLAIMING) {
        /* It is too late for more epochs, and nobody is told of this one. */
        return true;
    }
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
        bak_discard(b, FT_BAK_END_ERROR, error_get_pretty(err));
        error_propagate(errp, err);
    }
    return ok;
}

void ft_bak_frame_bad(FtBak *b, const char *reason)
{
    if (bak_live(b)) {
        bak_discard(b, FT_BAK_END_ERROR, reason);
    }
}

void ft_bak_data_lost(FtBak *b, int64_t now)
{
    if (b->data_lost) {
        return;
    }
    b->data_lost = true;
    if (!bak_live(b)) {
        return;
    }
    b->ops->drop_open(b->opaque);
    bak_reset_open(b);
    if (b->control_lost) {
        bak_claim(b, "the primary was lost", false);
    } else if (b->state == FT_BAK_SYNC) {
        /* Nothing to take over; but a disarm may say that all is well. */
        bak_await(b, now, b->params.fence_timeout_us);
    } else {
        bak_claim(b, "the primary was lost: the data connection has ended",
                  true);
    }
}

void ft_bak_control_lost(FtBak *b, int64_t now)
{
    if (b->control_lost) {
        return;
    }
    b->control_lost = true;
    if (b->state == FT_BAK_CLAIMING && b->claim_won) {
        bak_won_alone(b, now);
    } else if (!bak_live(b)) {
        return;
    } else if (b->state == FT_BAK_SYNC) {
        bak_discard(b, FT_BAK_END_ERROR,
                    "the primary was lost during the first copy");
    } else {
        /*
         * Whole epochs may still be on their way in the data connection.
         * It normally ends in the same moment; poll() bounds the wait.
         */
        pstrcpy(b->why, sizeof(b->why), "the primary was lost: the control "
                "connection has ended");
        bak_await(b, now, b->params.fence_timeout_us);
    }
}

void ft_bak_heart_lost(FtBak *b, int64_t now)
{
    b->heart_lost = true;
    if (b->state == FT_BAK_CLAIMING && b->claim_won && bak_lease_is_over(b)) {
        bak_take_over(b);
    }
    if (!bak_live(b) || b->fencing) {
        return;
    }
    /* At an orderly end it may be the first of the connections to go. */
    pstrcpy(b->why, sizeof(b->why), "the primary was lost: the connection "
            "for heartbeats has ended");
    bak_await(b, now, FT_BAK_GRACE_US);
}

void ft_bak_silent(FtBak *b, const char *reason, int64_t now)
{
    if (b->silent) {
        return;
    }
    b->silent = true;
    if (b->state == FT_BAK_CLAIMING && b->claim_won) {
        bak_take_over(b);
    } else if (bak_live(b)) {
        bak_claim(b, reason, false);
    }
}

void ft_bak_peer_disarm(FtBak *b, const char *reason)
{
    if (bak_live(b)) {
        b->ops->send_disarm(b->opaque);
        bak_discard(b, FT_BAK_END_ORDERLY, reason);
    }
}

void ft_bak_peer_fenced(FtBak *b)
{
    if (b->state == FT_BAK_CLAIMING) {
        bak_take_over(b);
    }
}

void ft_bak_claimed(FtBak *b, FtClaim claim, const char *text, int64_t now)
{
    char reason[FT_BAK_WHY_MAX];

    if (b->state != FT_BAK_CLAIMING || b->claim_won) {
        return;
    }
    switch (claim) {
    case FT_CLAIM_WON:
        bak_won(b, now);
        break;
    case FT_CLAIM_LOST:
        bak_discard(b, FT_BAK_END_LOST,
                    "the primary goes on: the arbiter has let it");
        break;
    case FT_CLAIM_UNKNOWN:
        pstrcpy(reason, sizeof(reason), b->why);
        pstrcat(reason, sizeof(reason),
                "; waits, as the arbiter cannot be asked: ");
        pstrcat(reason, sizeof(reason), text);
        bak_set_state(b, FT_BAK_CLAIMING, reason);
        break;
    }
}

bool ft_bak_failover(FtBak *b, bool force, int64_t now, Error **errp)
{
    const char *reason = "the operator asked for it";

    if (force && b->state == FT_BAK_CLAIMING) {
        if (!b->claim_won) {
            bak_won(b, now);
        }
        return true;
    }
    if (b->state != FT_BAK_STANDBY) {
        error_setg(errp, "this side cannot take over in state '%s': it is "
                   "a backup only in state 'standby'%s",
                   ft_bak_state_name(b->state),
                   b->state == FT_BAK_CLAIMING ? "; with force (-f) it does "
                   "not wait for the arbiter any more" : "");
        return false;
    }
    if (!force) {
        bak_claim(b, reason, true);
        return true;
    }
    if (bak_has_image(b)) {
        pstrcpy(b->why, sizeof(b->why), reason);
        b->ops->drop_open(b->opaque);
        bak_reset_open(b);
        b->fencing = false;
        bak_set_state(b, FT_BAK_CLAIMING, b->why);
        bak_won(b, now);
    }
    return true;
}

bool ft_bak_may_disarm(const FtBak *b)
{
    return b->state == FT_BAK_WAITING || bak_live(b);
}

void ft_bak_running(FtBak *b)
{
    if (b->state == FT_BAK_TAKEOVER) {
        bak_set_state(b, FT_BAK_UNPROTECTED, b->why);
    }
}

void ft_bak_takeover_failed(FtBak *b, const char *reason)
{
    if (b->state == FT_BAK_TAKEOVER) {
        bak_discard(b, FT_BAK_END_ERROR, reason);
    }
}

int64_t ft_bak_poll(FtBak *b, int64_t now)
{
    if (!b->fencing || (!bak_live(b) && b->state != FT_BAK_CLAIMING)) {
        return INT64_MAX;
    }
    if (now - b->asked > FT_BAK_GRACE_US && !b->grace_given) {
        b->grace_given = true;
        b->fence_deadline = MAX(b->fence_deadline, now + FT_BAK_GRACE_US);
    }
    if (now >= b->fence_deadline) {
        b->fencing = false;
        if (b->state == FT_BAK_CLAIMING) {
            bak_give_up(b);
            return INT64_MAX;
        }
        bak_claim(b, b->why, true);
        /* The arbiter may have answered before that returned. */
        return ft_bak_poll(b, now);
    }
    /* Often enough to notice that this process stood still. */
    b->asked = MIN(b->fence_deadline, now + FT_BAK_GRACE_US);
    return b->asked;
}
