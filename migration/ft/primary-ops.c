/*
 * Fault tolerance: the primary: what its state machine asks for
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The pause and the image of an epoch, letting output go and dropping it,
 * claims, and the ends.
 *
 * Locking: BQL, main loop.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-events-ft.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "migration/global_state.h"
#include "system/cpus.h"
#include "system/kvm.h"
#include "system/runstate.h"
#include "pause.h"
#include "primary-private.h"
#include "trace.h"

/*
 * The guest has asked for it, and it is no part of an image; the main loop
 * does it before an epoch can be taken again.
 */
static bool end_is_near(void)
{
    return qemu_shutdown_requested_get() || qemu_reset_requested_get();
}

static bool op_take_epoch(void *opaque, uint64_t epoch)
{
    FtPrimary *p = opaque;
    FtStats *st = &p->stats;
    int64_t t[7];
    uint64_t dirty;
    FtImage *img;
    FtPauseState ps;
    bool ok;

    if (!runstate_is_running() && epoch > 1 && p->stands) {
        /* The backup has it so: nothing to send. */
        return false;
    }
    t[0] = ft_now_us();
    ft_pause_begin(&ps, p->disks);
    t[1] = ft_now_us();
    if (end_is_near()) {
        ft_pause_end(&ps, p->disks);
        return false;
    }
    img = ft_sender_image(p->sender);
    img->epoch = epoch;
    ft_inject(FT_FAULT_POINT_PAUSE_BEGIN);
    if (ps.was_running) {
        global_state_store_running();
    } else {
        global_state_store();
    }
    /*
     * Devices first: saving them may write to RAM; KVM does when it is asked
     * for the registers of a vCPU (the time that was stolen from it).
     */
    ok = ft_devstate_save(img->devices, &p->broken);
    t[2] = ft_now_us();
    img->clocks_at = ps.was_running && !kvm_enabled() ? ps.stopped_at : t[2];
    dirty = ft_capture_harvest(p->capture);
    t[3] = ft_now_us();
    ft_capture_copy(p->capture, img->stage);
    t[4] = ft_now_us();
    ok = ok && ft_capture_check(p->capture, &p->broken);
    img->flags = ps.was_running ? FT_FLAG_RUNNING : 0;
    if (p->params.hash_every && epoch % p->params.hash_every == 0) {
        img->flags |= FT_FLAG_HASH;
        img->ram_hash = ft_machine_hash(p->machine);
    } else {
        img->ram_hash = 0;
    }
    if (ok) {
        if (epoch == 1) {
            ok = ft_output_start(p->output, 2, &p->broken);
            if (ok) {
                ft_disks_hold(p->disks);
            }
            img->on_disk = 0;
        } else {
            img->on_disk = ft_disks_seal(p->disks, epoch, &img->journal);
            ft_output_close(p->output);
        }
    }
    t[5] = ft_now_us();
    ft_inject(FT_FAULT_POINT_CAPTURED);
    ft_pause_end(&ps, p->disks);
    t[6] = ft_now_us();

    if (!ok) {
        ft_sender_give_back(p->sender, img);
        return false;
    }
    p->stands = !ps.was_running;
    if (epoch > 1) {
        /* the first one ends the copy of all RAM and tells nothing */
        st->epochs++;
        ft_hist_add(&st->pause, t[6] - t[0]);
        ft_hist_add(&st->pause_stop, t[1] - t[0]);
        /* with what the disks and the network have, and the hash */
        ft_hist_add(&st->pause_devices, t[2] - t[1] + t[5] - t[4]);
        ft_hist_add(&st->pause_harvest, t[3] - t[2]);
        ft_hist_add(&st->pause_copy, t[4] - t[3]);
        ft_hist_add(&st->pause_resume, t[6] - t[5]);
        ft_hist_add(&st->dirty, dirty);
    }
    st->device_bytes = img->devices->len;
    trace_ft_epoch(epoch, dirty, img->devices->len, t[6] - t[0]);
    if (epoch == 1) {
        p->fsm.withheld = ft_disks_finish_copies(p->disks);
        ft_sender_hold(p->sender, p->fsm.withheld);
    }
    ft_sender_queue(p->sender, img);
    return true;
}

static void op_stall(void *opaque, bool on)
{
    /* The runstate stays: this is no stop that anyone asked for. */
    if (on) {
        pause_all_vcpus();
    } else {
        resume_all_vcpus();
    }
}

static void op_commit(void *opaque, uint64_t epoch)
{
    FtPrimary *p = opaque;
    int64_t us = ft_now_us() - p->fsm.taken_at[epoch % FT_PRI_DEPTH_MAX];
    Error *err = NULL;

    ft_inject(FT_FAULT_POINT_ACK_RECEIVED);
    trace_ft_ack(epoch, us);
    if (epoch > 1) {
        ft_hist_add(&p->stats.commit, us);
        if (!ft_output_commit(p->output, epoch, &err)) {
            error_reportf_err(err, "ft: ");
        }
    }
    ft_inject(FT_FAULT_POINT_RELEASED);
}

static void op_release_all(void *opaque)
{
    FtPrimary *p = opaque;
    FtPauseState ps;

    /*
     * A pause, as requests that were parked are submitted again at its end;
     * there will be no other.
     */
    ft_pause_begin(&ps, p->disks);
    ft_output_release_all(p->output);
    ft_disks_drain(p->disks);
    ft_pause_end(&ps, p->disks);
}

static void op_drop_all(void *opaque)
{
    FtPrimary *p = opaque;

    pause_all_vcpus();
    ft_output_drop_all(p->output);
}

bool ft_primary_leased(FtPrimary *p)
{
    /*
     * A backup that finds one of these closed takes this side for dead as
     * soon as the heartbeats' connection is lost, too (pulse.h).
     */
    return !ft_link_is_down(p->links.data) &&
           !ft_link_is_down(p->links.control) && ft_pulse_leased(p->pulse);
}

bool ft_primary_may_send(FtPrimary *p)
{
    return p->fsm.dead || ft_primary_leased(p);
}

static bool op_leased(void *opaque)
{
    return ft_primary_leased(opaque);
}

/* The arbiter's thread, or (arbiter none) from op_claim(). */
static void claim_answer(void *opaque, FtClaim claim, const char *text)
{
    ft_primary_post(opaque, FT_PRIMARY_CLAIM, claim, text);
}

static void op_claim(void *opaque)
{
    FtPrimary *p = opaque;

    ft_inject(FT_FAULT_POINT_CLAIM);
    ft_arbiter_claim(p->session->arbiter, p->session->generation + 1,
                     claim_answer, p);
}

static void op_send_disarm(void *opaque, const char *reason)
{
    FtPrimary *p = opaque;

    if (p->links.control) {
        ft_link_try_send(p->links.control, FT_FRAME_DISARM, 0, 0, reason);
        /* On both: one of them may be what was lost. */
        ft_link_try_send(p->links.data, FT_FRAME_DISARM, 0, 0, reason);
    }
}

static void op_send_fenced(void *opaque)
{
    FtPrimary *p = opaque;

    ft_link_try_send(p->links.control, FT_FRAME_FENCED, 0, 0, "");
}

static void op_end(void *opaque)
{
    FtPrimary *p = opaque;

    p->ended = true;
    timer_del(p->timer);
    ft_links_shutdown(&p->links);
}

/* The guest goes on here, alone. */
static void tell_lost(FtPrimary *p, const char *reason)
{
    if (p->fsm.claim_asked) {
        ft_inject(FT_FAULT_POINT_CLAIMED);
        p->session->generation++;
    }
    if (p->fsm.state == FT_PRI_UNPROTECTED) {
        qapi_event_send_ft_backup_lost(reason, p->session->generation);
    }
}

static void op_state(void *opaque, FtPriState state, const char *reason)
{
    static const FtState map[] = {
        [FT_PRI_INACTIVE] = FT_STATE_INACTIVE,
        [FT_PRI_SETUP] = FT_STATE_SETUP,
        [FT_PRI_SYNC] = FT_STATE_SYNC,
        [FT_PRI_PROTECTED] = FT_STATE_PROTECTED,
        [FT_PRI_CLAIMING] = FT_STATE_CLAIMING,
        [FT_PRI_UNPROTECTED] = FT_STATE_UNPROTECTED,
        [FT_PRI_FENCED] = FT_STATE_FENCED,
    };
    FtPrimary *p = opaque;

    if (state == FT_PRI_PROTECTED) {
        p->protected_at = ft_now_us();
    } else if (state == FT_PRI_CLAIMING && p->links.data) {
        /* Nothing may wait for the backup any more; control may still hear. */
        ft_disks_break(p->disks);
    }
    if (p->ended && state != FT_PRI_FENCED) {
        tell_lost(p, reason);
    }
    ft_session_state(FT_ROLE_PRIMARY, map[state], reason);
    if (state == FT_PRI_FENCED) {
        /*
         * For good: no monitor command may bring this guest back to life
         * beside the one on the backup.
         */
        error_report("ft: %s; this side has stopped its guest, has let "
                     "nothing out, and exits", reason);
        exit(FT_EXIT_FENCED);
    }
    if (p->ended) {
        ft_session_end();
    }
}

const FtPriOps ft_primary_ops = {
    .state = op_state,
    .take_epoch = op_take_epoch,
    .stall = op_stall,
    .commit = op_commit,
    .leased = op_leased,
    .claim = op_claim,
    .release_all = op_release_all,
    .drop_all = op_drop_all,
    .send_disarm = op_send_disarm,
    .send_fenced = op_send_fenced,
    .end = op_end,
};
