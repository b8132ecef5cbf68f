/*
 * For test-ft-line.c: what the two machines ask for, and what must hold
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TEST_FT_LINE_SIDES_H
#define TEST_FT_LINE_SIDES_H

#include "line-world.h"

/* Who goes on is alone in that; the whole line of sessions is looked at. */
static void goes_on(World *w, Sess *s, Side side)
{
    Proc *me = proc_of(w, s, side);

    for (int i = 0; i < PROCS; i++) {
        must(w, &w->proc[i] == me || !w->proc[i].on, "two sides go on");
    }
    must(w, s->index == w->sessions - 1, "goes on in a session of old");
    me->on = true;
}

static void proc_ends(World *w, Sess *s, Side side)
{
    Proc *p = proc_of(w, s, side);

    p->alive = false;
    p->on = false;
    claimer_quiet(s, side);
    conns_close(w, s, side);
}

/* ----------------------------------------------------- the primary's ops */

static void p_state(void *opaque, FtPriState state, const char *reason)
{
    Sess *s = opaque;
    World *w = s->w;

    say(w, "%d: P %s: %s", s->index, ft_pri_state_name(state), reason);
    if (state == FT_PRI_FENCED) {
        must(w, s->p_dropped, "fenced with output");
        must(w, w->owner[s->generation + 1] == s->proc[BAK] || s->asked,
             "fenced, and the backup has not asked for that");
        proc_of(w, s, PRI)->fenced = true;
        proc_ends(w, s, PRI);
    } else if (s->p.dead) {
        must(w, !s->p_dropped, "goes on after all was dropped");
        must(w, !s->b_took, "the primary goes on after a takeover");
        must(w, !s->p.stalled, "stands still for ever");
        s->p_alone = true;
        goes_on(w, s, PRI);
    }
}

static void send_epoch(Sess *s, uint64_t epoch)
{
    Msg *m;

    if (s->torn && epoch > 1) {
        s->torn = false;
    } else {
        m = conn_send(s->w, s, DATA, PRI, M_BEGIN);
        if (m) {
            m->value = epoch;
        }
    }
    m = conn_send(s->w, s, DATA, PRI, M_END);
    if (m) {
        m->value = epoch;
    }
}

static bool p_take(void *opaque, uint64_t epoch)
{
    Sess *s = opaque;
    World *w = s->w;

    must(w, !s->p_alone && !s->p_dropped, "an epoch after the end");
    if (w->now < s->take_fails) {
        return false;
    }
    if (epoch == 1) {
        /* From here on what it does is held. */
        proc_of(w, s, PRI)->on = false;
        if (one_in(w, 4)) {
            s->p.withheld = true;
            s->sent_at = w->now + rnd(w, 4 * EPOCH);
            return true;
        }
    }
    send_epoch(s, epoch);
    return true;
}

static void p_stall(void *opaque, bool on)
{
}

static void p_commit(void *opaque, uint64_t epoch)
{
    Sess *s = opaque;
    World *w = s->w;

    must(w, s->b.committed >= epoch, "output that the backup does not hold");
    must(w, !s->p_dropped && !s->p_alone, "a commit after the end");
    must(w, !s->b_took, "output after a takeover");
    must(w, epoch == s->p.released, "output is not in order");
    w->totals->commits++;
}

static bool p_leased(void *opaque)
{
    Sess *s = opaque;
    bool leased = !s->pulse_over[PRI] &&
                  s->w->now < ft_heart_lease(&s->heart[PRI]);

    if (!leased) {
        s->wanted = true;
        s->w->totals->no_lease++;
    }
    return leased;
}

static void p_claim(void *opaque)
{
    Sess *s = opaque;

    claimer_ask(s->w, s, PRI);
}

static void p_release(void *opaque)
{
    Sess *s = opaque;

    must(s->w, !s->p_dropped, "released after all was dropped");
    must(s->w, !s->b_took, "released after a takeover");
}

static void p_drop(void *opaque)
{
    Sess *s = opaque;

    must(s->w, !s->p_alone, "dropped, but it goes on");
    s->p_dropped = true;
}

static void p_disarm(void *opaque, const char *reason)
{
    Sess *s = opaque;

    conn_try_send(s->w, s, CONTROL, PRI, M_DISARM);
    conn_try_send(s->w, s, DATA, PRI, M_DISARM);
}

static void p_send_fenced(void *opaque)
{
    Sess *s = opaque;

    conn_try_send(s->w, s, CONTROL, PRI, M_FENCED);
}

static void p_end(void *opaque)
{
    Sess *s = opaque;

    claimer_quiet(s, PRI);
    s->pulse_over[PRI] = true;
    s->pulse_at[PRI] = s->pulse_lost_at[PRI] = NEVER;
    conns_close(s->w, s, PRI);
}

static const FtPriOps p_ops = {
    .state = p_state,
    .take_epoch = p_take,
    .stall = p_stall,
    .commit = p_commit,
    .leased = p_leased,
    .claim = p_claim,
    .release_all = p_release,
    .drop_all = p_drop,
    .send_disarm = p_disarm,
    .send_fenced = p_send_fenced,
    .end = p_end,
};

/* ------------------------------------------------------ the backup's ops */

static void b_state(void *opaque, FtBakState state, const char *reason)
{
    Sess *s = opaque;

    say(s->w, "%d: B %s: %s", s->index, ft_bak_state_name(state), reason);
}

static bool b_devices(void *opaque, const void *payload, uint32_t len,
                      Error **errp)
{
    return true;
}

static void b_ack(void *opaque, uint64_t epoch)
{
    Sess *s = opaque;
    Msg *m = conn_send(s->w, s, CONTROL, BAK, M_ACK);

    if (m) {
        m->value = epoch;
    }
}

static bool b_apply(void *opaque, uint64_t epoch, const FtEpochEnd *end,
                    uint16_t flags, Error **errp)
{
    Sess *s = opaque;

    must(s->w, !s->b_took, "an epoch is applied after the takeover");
    if (s->apply_fails) {
        error_setg(errp, "RAM differs");
    }
    return !s->apply_fails;
}

static void b_drop(void *opaque)
{
}

static void b_disarm(void *opaque)
{
    Sess *s = opaque;

    s->b_bye = true;
    conn_try_send(s->w, s, CONTROL, BAK, M_DISARM);
}

static void b_failover(void *opaque, bool claimed)
{
    Sess *s = opaque;

    must(s->w, !s->b_bye, "asks for the guest after it has left");
    s->asked = true;
    conn_try_send(s->w, s, CONTROL, BAK,
                  claimed ? M_CLAIMED : M_FAILOVER);
}

static void b_claim(void *opaque)
{
    Sess *s = opaque;

    must(s->w, !s->b_bye, "claims after it has left");
    claimer_ask(s->w, s, BAK);
}

static void b_end_heart(void *opaque)
{
    Sess *s = opaque;
    World *w = s->w;

    conn_close(w, s, HEARTS, BAK, false);
    if (!s->pulse_over[BAK]) {
        s->pulse_over[BAK] = true;
        s->pulse_at[BAK] = NEVER;
        s->pulse_lost_at[BAK] = MAX(w->now,
                                    ft_heart_peer_lease(&s->heart[BAK]));
    }
}

static void b_takeover(void *opaque, uint64_t epoch, const char *reason)
{
    Sess *s = opaque;
    World *w = s->w;

    say(w, "%d: B takes over from %" PRIu64, s->index, epoch);
    must(w, epoch && epoch == s->b.committed, "a takeover from nothing");
    must(w, epoch >= s->p.released, "a takeover from before what was seen");
    must(w, !s->b.bad_image, "a takeover of half an epoch");
    must(w, !s->b_bye, "a takeover after it has left");
    must(w, !s->p_alone, "a takeover beside the primary");
    must(w, s->p_dropped || s->forced ||
         w->owner[s->generation + 1] == s->proc[BAK],
         "a takeover that nobody has allowed");
    s->b_took = true;
    s->begin_at = w->now + rnd(w, 1000);
    claimer_quiet(s, BAK);
    goes_on(w, s, BAK);
}

static void b_discard(void *opaque, FtBakEnd end, const char *reason)
{
    Sess *s = opaque;
    World *w = s->w;

    must(w, !s->b_took || s->takeover_fails, "discarded after a takeover");
    if (end == FT_BAK_END_ERROR) {
        s->b_bye = true;
        conn_try_send(w, s, CONTROL, BAK, M_ERROR);
    } else if (end == FT_BAK_END_LOST) {
        must(w, w->owner[s->generation + 1] == s->proc[PRI],
             "the claim was lost to somebody of another session");
    }
    s->exit_at[BAK] = w->now + (end == FT_BAK_END_ORDERLY ? rnd(w, 50000)
                                                          : rnd(w, 2000));
    proc_of(w, s, BAK)->on = false;
}

static const FtBakOps b_ops = {
    .state = b_state,
    .stage_devices = b_devices,
    .ack = b_ack,
    .apply = b_apply,
    .drop_open = b_drop,
    .send_disarm = b_disarm,
    .send_failover = b_failover,
    .claim = b_claim,
    .end_heart = b_end_heart,
    .takeover = b_takeover,
    .discard = b_discard,
};

/* ---------------------------------------------------------------- pulses */

static void pulse_told(World *w, Sess *s, Side side, bool silent)
{
    int64_t at = w->now + rnd(w, 300);

    if (side == PRI && silent) {
        s->silent_at = at;
    } else if (side == PRI) {
        s->lost_at = at;
    } else if (silent) {
        ft_bak_silent(&s->b, s->heart[BAK].why, w->now);
        s->poll_at[BAK] = w->now;
    } else {
        ft_bak_heart_lost(&s->b, w->now);
        s->poll_at[BAK] = w->now;
    }
}

/* All that is there. */
static void pulse_read(World *w, Sess *s, Side side)
{
    Ring *r = &s->conn[HEARTS].to[side];
    FtHeart *h = &s->heart[side];

    while (!s->pulse_over[side] && head_at(s, r, side) <= w->now) {
        Msg m = *ring_head(r);
        FtHeartbeat hb = { .number = m.value, .echo = m.echo };

        ring_pop(r);
        if (m.kind == M_BEAT) {
            must(w, ft_heart_received(h, &hb, w->now, NULL),
                 "a heartbeat that cannot be");
            continue;
        }
        s->pulse_over[side] = true;
        s->pulse_at[side] = NEVER;
        s->pulse_lost_at[side] = m.kind == M_FIN ? w->now :
                                 MAX(w->now, ft_heart_peer_lease(h));
        conn_close(w, s, HEARTS, side, false);
    }
    if (side == PRI && s->wanted && !s->pulse_over[PRI] &&
        w->now < ft_heart_lease(h)) {
        s->wanted = false;
        s->renewed_at = w->now + rnd(w, 300);
    }
}

static void pulse_run(World *w, Sess *s, Side side)
{
    FtHeart *h = &s->heart[side];
    const Proc *p = proc_of(w, s, side);
    FtHeartbeat hb;
    bool send;

    pulse_read(w, s, side);
    if (s->pulse_over[side]) {
        return;
    }
    s->pulse_at[side] = ft_heart_poll(h, w->now,
                                      w->now < p->stuck &&
                                      w->now - p->stuck_since > STUCK,
                                      &send, &hb);
    if (h->verdict == FT_HEART_SILENT) {
        say(w, "%d: %s: silent: %s", s->index, side_name[side], h->why);
        s->pulse_over[side] = true;
        s->pulse_at[side] = NEVER;
        pulse_told(w, s, side, true);
    } else if (send) {
        Msg *m = conn_send(w, s, HEARTS, side, M_BEAT);

        if (m) {
            m->value = hb.number;
            m->echo = hb.echo;
        }
    }
}

/* -------------------------------------------------------------- messages */

static void to_primary(World *w, Sess *s, ConnKind k)
{
    Ring *r = &s->conn[k].to[PRI];
    Msg m = *ring_head(r);

    ring_pop(r);
    s->poll_at[PRI] = w->now;
    if (m.kind >= M_FIN) {
        r->over = true;
        if (k == DATA) {
            ft_pri_conn_lost(&s->p, "the data connection was lost", w->now);
        } else {
            ft_pri_lost(&s->p, "the control connection was lost");
        }
    } else if (m.kind == M_ACK) {
        ft_pri_ack(&s->p, m.value, w->now);
    } else if (m.kind == M_FAILOVER || m.kind == M_CLAIMED) {
        ft_pri_peer_failover(&s->p, m.kind == M_CLAIMED);
    } else if (m.kind == M_DISARM) {
        ft_pri_peer_gone(&s->p, "the backup has left in order");
    } else if (m.kind == M_ERROR) {
        ft_pri_peer_gone(&s->p, "the backup reports an error");
    } else {
        g_assert_not_reached();
    }
}

/* What threads have told its main loop lies in one queue, and of that a wish
 * to stop goes first. */
static void hurry_failover(World *w, Sess *s)
{
    Ring *r = &s->conn[CONTROL].to[PRI];

    for (unsigned i = 0; i < r->len && !r->over && !s->p.dead; i++) {
        Msg m = r->msg[(r->head + i) % RING];

        if (m.at > w->now || (s->cut[PRI] && m.at > s->cut_at[PRI])) {
            break;
        }
        if (m.kind == M_FAILOVER || m.kind == M_CLAIMED) {
            ft_pri_peer_failover(&s->p, m.kind == M_CLAIMED);
            s->poll_at[PRI] = w->now;
        }
    }
}

static void to_backup(World *w, Sess *s, ConnKind k)
{
    Ring *r = &s->conn[k].to[BAK];
    Msg m = *ring_head(r);
    FtFrame f = { .epoch = m.value, .flags = FT_FLAG_RUNNING };
    FtEpochEnd end = { .device_bytes = 8 };
    uint8_t buf[FT_EPOCH_END_SIZE] = { 0 };
    bool ok = true;

    ring_pop(r);
    s->poll_at[BAK] = w->now;
    if (m.kind >= M_FIN) {
        r->over = true;
        if (k == DATA) {
            ft_bak_data_lost(&s->b, w->now);
        } else {
            ft_bak_control_lost(&s->b, w->now);
        }
    } else if (m.kind == M_DISARM) {
        ft_bak_peer_disarm(&s->b, "the primary ends it");
        r->over |= k == DATA;
    } else if (m.kind == M_FENCED) {
        ft_bak_peer_fenced(&s->b);
    } else if (m.kind == M_BEGIN) {
        f.type = FT_FRAME_DEVICES;
        f.length = 8;
        ok = ft_bak_frame(&s->b, &f, buf, NULL);
    } else if (m.kind == M_END) {
        f.type = FT_FRAME_EPOCH_END;
        f.length = sizeof(buf);
        ft_wire_put_epoch_end(buf, &end);
        ok = ft_bak_frame(&s->b, &f, buf, NULL);
    } else {
        g_assert_not_reached();
    }
    /* Its thread ends with the first frame that is wrong. */
    r->over |= !ok;
}

#endif
