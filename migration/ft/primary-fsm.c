/*
 * Fault tolerance: the primary's state machine (no socket, no VM)
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table of states and events is in the header.  Nothing here waits or
 * allocates; what has to be done is asked of the ops, whose calls never
 * come back into this file.
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "primary-fsm.h"

static const char *const pri_names[] = {
    [FT_PRI_INACTIVE] = "inactive",
    [FT_PRI_SETUP] = "setup",
    [FT_PRI_SYNC] = "sync",
    [FT_PRI_PROTECTED] = "protected",
    [FT_PRI_CLAIMING] = "claiming",
    [FT_PRI_UNPROTECTED] = "unprotected",
    [FT_PRI_FENCED] = "fenced",
};

const char *ft_pri_state_name(FtPriState state)
{
    return pri_names[state];
}

void ft_pri_init(FtPri *p, const FtPriOps *ops, void *opaque,
                 const FtPriParams *params)
{
    *p = (FtPri) { .ops = ops, .opaque = opaque, .params = *params };
    p->params.depth = MIN(MAX(p->params.depth, 1), FT_PRI_DEPTH_MAX);
}

unsigned ft_pri_in_flight(const FtPri *p)
{
    return p->taken - p->acked;
}

/* CLAIMING is not among them: then only a few words still count. */
static bool pri_live(const FtPri *p)
{
    return !p->dead && (p->state == FT_PRI_SETUP || p->state == FT_PRI_SYNC ||
                        p->state == FT_PRI_PROTECTED);
}

static bool pri_claiming(const FtPri *p)
{
    return !p->dead && p->state == FT_PRI_CLAIMING;
}

static void pri_set_state(FtPri *p, FtPriState state, const char *reason)
{
    p->state = state;
    p->ops->state(p->opaque, state, reason);
}

static void pri_set_stall(FtPri *p, bool on, int64_t now)
{
    if (p->stalled == on) {
        return;
    }
    p->stalled = on;
    if (on) {
        p->stalls++;
        p->stall_began = now;
    } else if (now > p->stall_began) {
        p->stall_us += now - p->stall_began;
    }
    p->ops->stall(p->opaque, on);
}

static void pri_set_why(FtPri *p, const char *reason)
{
    /* It may point there already. */
    if (reason != p->why) {
        pstrcpy(p->why, sizeof(p->why), reason);
    }
}

/*
 * The session ends and the guest goes on here.  The order is what keeps the
 * world consistent: first the backup is told, then output goes, then the
 * guest may run again if it was stalled.
 */
static void pri_go_on_alone(FtPri *p, FtPriState state, const char *reason)
{
    pri_set_why(p, reason);
    p->dead = true;
    p->ops->send_disarm(p->opaque, p->why);
    if (p->output_held) {
        p->output_held = false;
        p->ops->release_all(p->opaque);
    }
    pri_set_stall(p, false, p->stall_began);
    p->ops->end(p->opaque);
    pri_set_state(p, state, p->why);
}

/* The guest goes on at the backup and never again here. */
static void pri_fence(FtPri *p, const char *reason)
{
    p->dead = true;
    p->output_held = false;
    p->ops->drop_all(p->opaque);
    p->ops->send_fenced(p->opaque);
    p->ops->end(p->opaque);
    pri_set_state(p, FT_PRI_FENCED, reason);
}

static void pri_ask_arbiter(FtPri *p)
{
    p->claim_asked = true;
    p->claim_at = 0;
    p->ops->claim(p->opaque);
}

bool ft_pri_sent(const FtPri *p)
{
    return p->taken && !p->withheld;
}

static void pri_lost(FtPri *p, const char *reason)
{
    if (p->state == FT_PRI_CLAIMING) {
        return;
    }
    if (!ft_pri_sent(p)) {
        pri_go_on_alone(p, FT_PRI_INACTIVE, reason);
        return;
    }
    p->after = p->state == FT_PRI_PROTECTED ? FT_PRI_UNPROTECTED
                                            : FT_PRI_INACTIVE;
    pri_set_why(p, reason);
    pri_set_state(p, FT_PRI_CLAIMING, p->why);
    pri_ask_arbiter(p);
}

/* Output of acknowledged epochs leaves, as long as there is the lease. */
static void pri_let_out(FtPri *p)
{
    while (p->released < p->acked && p->ops->leased(p->opaque)) {
        p->ops->commit(p->opaque, ++p->released);
    }
}

/* Take the next epoch if the pipeline has room; false if it was not taken. */
static bool pri_take(FtPri *p, int64_t now)
{
    uint64_t epoch = p->taken + 1;

    if (ft_pri_in_flight(p) >= p->params.depth) {
        return false;
    }
    p->full = false;
    p->early = false;
    p->epoch_began = now;
    if (!p->ops->take_epoch(p->opaque, epoch)) {
        return false;
    }
    p->taken = epoch;
    p->taken_at[epoch % FT_PRI_DEPTH_MAX] = now;
    p->output_held = true;
    return true;
}

void ft_pri_start(FtPri *p, int64_t now)
{
    if (p->state != FT_PRI_INACTIVE || p->dead) {
        return;
    }
    p->setup_began = now;
    pri_set_state(p, FT_PRI_SETUP, "connecting to the backup");
}

void ft_pri_connected(FtPri *p, int64_t now)
{
    if (p->state != FT_PRI_SETUP || p->dead) {
        return;
    }
    p->epoch_began = now;
    pri_set_state(p, FT_PRI_SYNC, "first copy is under way");
}

void ft_pri_sync_done(FtPri *p, int64_t now)
{
    if (p->state != FT_PRI_SYNC || p->dead || p->taken) {
        return;
    }
    p->asked = now;
    pri_take(p, now);
}

uint64_t ft_pri_take_now(FtPri *p, int64_t now)
{
    if (p->state != FT_PRI_PROTECTED || p->dead || p->conn_lost ||
        !pri_take(p, now)) {
        return 0;
    }
    return p->taken;
}

void ft_pri_first_sent(FtPri *p, int64_t now)
{
    if (p->withheld && p->taken == 1) {
        p->withheld = false;
        p->taken_at[1] = now;
        p->asked = now;
    }
}

void ft_pri_output_waiting(FtPri *p)
{
    p->early = true;
}

void ft_pri_output_full(FtPri *p)
{
    p->full = true;
}

void ft_pri_ack(FtPri *p, uint64_t epoch, int64_t now)
{
    if (!pri_live(p)) {
        return;
    }
    if (p->state == FT_PRI_SETUP || epoch != p->acked + 1 ||
        epoch > p->taken || p->withheld) {
        pri_lost(p, "the backup acknowledged an epoch that is not due");
        return;
    }
    p->acked = epoch;
    p->grace_given = false;
    pri_let_out(p);
    if (p->state == FT_PRI_SYNC) {
        pri_set_state(p, FT_PRI_PROTECTED, "the backup holds the first epoch");
    }
    pri_set_stall(p, false, now);
}

void ft_pri_lease_renewed(FtPri *p)
{
    if (pri_live(p)) {
        pri_let_out(p);
    }
}

void ft_pri_lost(FtPri *p, const char *reason)
{
    if (pri_live(p)) {
        pri_lost(p, reason);
    }
}

void ft_pri_conn_lost(FtPri *p, const char *reason, int64_t now)
{
    if (!pri_live(p) || p->conn_lost) {
        return;
    }
    if (!ft_pri_sent(p)) {
        /* The backup has nothing that it could have taken over. */
        pri_lost(p, reason);
        return;
    }
    pri_set_why(p, reason);
    p->asked = now;
    p->conn_lost = now + FT_PRI_GRACE_US;
}

void ft_pri_peer_gone(FtPri *p, const char *reason)
{
    if (pri_claiming(p)) {
        pri_go_on_alone(p, p->after, p->after == FT_PRI_UNPROTECTED ? reason
                                                                    : p->why);
    } else if (pri_live(p)) {
        pri_go_on_alone(p, p->state == FT_PRI_PROTECTED ? FT_PRI_UNPROTECTED
                                                        : FT_PRI_INACTIVE,
                        reason);
    }
}

void ft_pri_peer_failover(FtPri *p, bool claimed)
{
    if (pri_claiming(p)) {
        if (claimed || !p->claim_asked) {
            pri_fence(p, "the backup has taken over");
        }
        /* Else whose it is is for the arbiter to say. */
        return;
    }
    if (!pri_live(p)) {
        return;
    }
    if (!ft_pri_sent(p)) {
        /* It has no committed epoch to go on from: it cannot be serious. */
        pri_lost(p, "the backup asked to take over before it had an epoch");
        return;
    }
    pri_fence(p, "the backup has taken over");
}

void ft_pri_claimed(FtPri *p, FtClaim claim, const char *text)
{
    char reason[FT_PRI_WHY_MAX];

    if (!pri_claiming(p)) {
        return;
    }
    switch (claim) {
    case FT_CLAIM_WON:
        pri_go_on_alone(p, p->after, p->why);
        break;
    case FT_CLAIM_LOST:
        pri_fence(p, "the backup has taken over: the arbiter has let it");
        break;
    case FT_CLAIM_UNKNOWN:
        pstrcpy(reason, sizeof(reason), p->why);
        pstrcat(reason, sizeof(reason),
                "; output is held, as the arbiter cannot be asked: ");
        pstrcat(reason, sizeof(reason), text);
        pri_set_state(p, FT_PRI_CLAIMING, reason);
        break;
    }
}

bool ft_pri_cancel(FtPri *p, const char *reason, bool force, int64_t now)
{
    if (pri_claiming(p)) {
        if (force) {
            p->claim_asked = true;
            pri_go_on_alone(p, p->after, p->why);
        }
        return force;
    }
    if (!pri_live(p)) {
        return true;
    }
    if (!ft_pri_sent(p) || force) {
        p->claim_asked = ft_pri_sent(p);
        pri_go_on_alone(p, FT_PRI_INACTIVE, reason);
        return true;
    }
    p->after = FT_PRI_INACTIVE;
    p->claim_at = now + p->params.disarm_wait_us;
    p->asked = now;
    pri_set_why(p, reason);
    p->ops->send_disarm(p->opaque, p->why);
    pri_set_state(p, FT_PRI_CLAIMING, p->why);
    return true;
}

/* When the open epoch should end, if the pipeline has room then. */
static int64_t pri_epoch_due(const FtPri *p)
{
    if (p->full || (p->early && !ft_pri_in_flight(p))) {
        return p->epoch_began + MIN(p->params.min_run_us, p->params.epoch_us);
    }
    return p->epoch_began + p->params.epoch_us;
}

/* When the oldest epoch in flight is overdue. */
static int64_t pri_ack_due(const FtPri *p)
{
    return MAX(p->taken_at[(p->acked + 1) % FT_PRI_DEPTH_MAX] +
               p->params.ack_timeout_us, p->grace);
}

static int64_t pri_poll(FtPri *p, int64_t now)
{
    int64_t next = INT64_MAX;
    int64_t due;

    if (p->state == FT_PRI_SETUP) {
        due = p->setup_began + p->params.setup_timeout_us;
        if (now >= due) {
            pri_lost(p, "no answer from the backup while connecting");
            return INT64_MAX;
        }
        return due;
    }
    if (p->conn_lost) {
        /* No epoch would arrive: only the verdict is waited for. */
        if (now >= p->conn_lost) {
            pri_lost(p, p->why);
            return INT64_MAX;
        }
        return p->conn_lost;
    }
    if (ft_pri_in_flight(p) && !p->withheld) {
        due = pri_ack_due(p);
        if (now >= due) {
            pri_lost(p, "the backup did not acknowledge an epoch in time");
            return INT64_MAX;
        }
        next = due;
    }
    if (p->state == FT_PRI_SYNC && p->taken && p->full) {
        /* What is held has a bound from the first epoch on; as below. */
        pri_set_stall(p, true, now);
    }
    if (p->state != FT_PRI_PROTECTED) {
        return next;
    }

    due = pri_epoch_due(p);
    if (now >= due) {
        bool was_early = p->early && now < p->epoch_began + p->params.epoch_us;

        if (ft_pri_in_flight(p) < p->params.depth) {
            if (pri_take(p, now)) {
                p->early_epochs += was_early;
                next = MIN(next, pri_ack_due(p));
            }
            return MIN(next, pri_epoch_due(p));
        }
        /* The acknowledgement that is due will call again. */
        pri_set_stall(p, true, now);
        return next;
    }
    return MIN(next, due);
}

static int64_t pri_poll_claiming(FtPri *p, int64_t now)
{
    if (p->full) {
        /* No room for more output, and none may leave. */
        pri_set_stall(p, true, now);
    }
    if (p->claim_at && now >= p->claim_at) {
        pri_ask_arbiter(p);
    }
    return p->claim_at ? p->claim_at : INT64_MAX;
}

int64_t ft_pri_poll(FtPri *p, int64_t now)
{
    int64_t next;

    if (pri_claiming(p)) {
        return pri_poll_claiming(p, now);
    }
    if (!pri_live(p)) {
        return INT64_MAX;
    }
    if (p->asked && now - p->asked > FT_PRI_GRACE_US && !p->grace_given) {
        /* This process stood still: it cannot say who was silent. */
        p->grace_given = true;
        p->grace = now + FT_PRI_GRACE_US;
    }
    next = pri_poll(p, now);
    if (next != INT64_MAX && ft_pri_in_flight(p)) {
        /* Often enough to notice that this process stood still. */
        next = MIN(next, now + FT_PRI_GRACE_US);
    }
    p->asked = next == INT64_MAX ? 0 : next;
    return next;
}
