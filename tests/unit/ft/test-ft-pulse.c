/*
 * Unit tests of migration/ft/pulse.c: the thread that sends heartbeats
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Real threads and sockets.  A slow host must not make a test fail: what must
 * come is waited for for WAIT_US, and of times only lower bounds are checked.
 * The main loop runs only where a test says so.
 */

#include "qemu/osdep.h"
#include <sys/wait.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "pulse-world.h"
#include "tcp-pair.h"

static const char *myself;

static void test_pair(void)
{
    World a = { .fd = -1 }, b = { .fd = -1 };
    int64_t end = g_get_monotonic_time() + WAIT_US;
    int64_t took;
    FtPulseStats st;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    world_begin_on(&a, fds[0], 10, 2500, 0);
    world_begin_on(&b, fds[1], 10, 2500, 0);
    while (stats_of(&a).heard < 50 || stats_of(&b).heard < 50) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(5 * MS);
    }
    st = stats_of(&a);
    took = g_get_monotonic_time() - a.begun;
    g_assert_cmpuint(st.sent, >=, 49);
    /* So many intervals have to have gone by. */
    g_assert_cmpint(took, >=, (int64_t)(st.sent - 1) * 10 * MS - 1);
    g_assert_cmpint(st.rtt_us, >, 0);
    g_assert_cmpint(st.rtt_us, <, took);
    g_assert_cmpint(st.gap_max_us, >, 0);
    g_assert_cmpint(st.gap_max_us, <, took);
    g_assert_cmpint(st.heard_age_us, >=, 0);
    g_assert_cmpint(st.heard_age_us, <, took);
    g_assert_cmpuint(st.muted, ==, 0);
    g_assert_true(ft_pulse_leased(a.pulse));
    g_assert_true(ft_pulse_leased(b.pulse));

    /* One side goes; the other one has it from its kernel. */
    world_end(&a, 0, 0);
    watch_wait(&b.watch, &b.watch.lost, 1);
    watch_reason(&b.watch, "other side has closed");
    g_assert_false(ft_pulse_leased(b.pulse));
    world_end(&b, 0, 1);
}

/* The end of the connection counts at once, whatever was promised. */
static void test_closed(void)
{
    World w;

    for (int half = 0; half < 2; half++) {
        begin_slow(&w);
        peer_well(&w, 1);
        peer_echoed(&w);
        if (half) {
            peer_write(&w, "CUJ", 3);
        }
        close(w.fd);
        w.fd = -1;
        watch_wait(&w.watch, &w.watch.lost, 1);
        watch_reason(&w.watch, "other side has closed");
        /* It had one for a minute. */
        g_assert_false(ft_pulse_leased(w.pulse));
        world_end(&w, 0, 1);
    }
}

/* Longer than this process is kept from running. */
#define RESET_BEAT_MS   200
#define RESET_MS        4000

/*
 * The peer is killed while heartbeats lie unread in its socket, so its kernel
 * resets the connection.  With @told the end of another connection says that
 * it has died; else it may be well.
 */
static void reset(World *w, bool told, bool before)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    int fds[2];

    tcp_pair(fds);
    *w = (World) { .fd = fds[1] };
    if (told) {
        world_begin_on(w, fds[0], 300, 75000, 0);
    } else {
        world_begin_on(w, fds[0], RESET_BEAT_MS, RESET_MS, 0);
    }
    peer_well(w, 1);
    peer_echoed(w);
    if (told && before) {
        ft_pulse_peer_closed(w->pulse);
    }
    g_assert_true(peer_readable(w, WAIT_US / 1000));
    close(w->fd);
    w->fd = -1;
    if (told && !before) {
        while (ft_pulse_leased(w->pulse)) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            g_usleep(MS);
        }
        ft_pulse_peer_closed(w->pulse);
    }
    watch_wait(&w->watch, &w->watch.lost, 1);
    g_assert_false(ft_pulse_leased(w->pulse));
}

static void test_killed(void)
{
    int64_t begun = g_get_monotonic_time();
    World w;

    /* The peer had a lease for a minute. */
    for (int before = 0; before < 2; before++) {
        reset(&w, true, before);
        g_assert_cmpint(w.watch.at, <, begun + WAIT_US);
        world_end(&w, 0, 1);
    }

    /* It may have heard of the last one that this side has sent. */
    begun = g_get_monotonic_time();
    reset(&w, false, false);
    g_assert_cmpint(w.watch.at, >=, begun + RESET_MS * MS);
    world_end(&w, 0, 1);

    /* Another connection was closed, but this one lives: it has not died. */
    begin_quick(&w);
    g_assert_true(peer_hear(&w));
    begun = g_get_monotonic_time();
    peer_beat(&w, 1);
    peer_echoed(&w);
    ft_pulse_peer_closed(w.pulse);
    ft_link_shutdown(w.link);
    watch_wait(&w.watch, &w.watch.lost, 1);
    g_assert_cmpint(w.watch.at, >=, begun + QUICK_US);
    world_end(&w, 0, 1);
}

/* What is not the protocol, and what must be said of it. */
static size_t bad_frame(int i, uint8_t *buf, const char **word)
{
    uint8_t zero[FT_HEARTBEAT_SIZE] = { 0 };

    switch (i) {
    case 0:
        make_frame(buf, FT_FRAME_ACK, zero, 0);
        *word = "frame of type ACK";
        return FT_WIRE_HEADER;
    case 1:
        make_frame(buf, FT_FRAME_ERROR, zero, 5);
        *word = "frame of type ERROR";
        return FT_WIRE_HEADER + 5;
    case 2:
        make_frame(buf, FT_FRAME_HEARTBEAT, zero, 15);
        *word = "claims 15 bytes";
        return FT_WIRE_HEADER + 15;
    case 3:
        make_beat(buf, 77, 0);
        *word = "heartbeat 77 came";
        return FRAME_SIZE;
    case 4:
        make_beat(buf, 2, 1000);
        *word = "echoes 1000";
        return FRAME_SIZE;
    case 5:
        make_beat(buf, 2, 1);
        buf[FRAME_SIZE - 1] ^= 1;
        *word = "damaged";
        return FRAME_SIZE;
    case 6:
        memset(buf, 'x', FRAME_SIZE);
        *word = "magic";
        return FRAME_SIZE;
    case 7:
        /* A whole one that is wrong before it is whole. */
        make_frame(buf, FT_FRAME_PAGES, zero, 16);
        *word = "frame of type PAGES";
        return FT_WIRE_HEADER;
    }
    return 0;
}

static void test_wrong(void)
{
    World w[8];
    int64_t told[8];
    uint8_t buf[FRAME_SIZE];
    const char *word;
    size_t len;
    int n;

    /* The peer is alive: not before its lease is over. */
    for (n = 0; (len = bad_frame(n, buf, &word)); n++) {
        g_assert_cmpint(n, <, G_N_ELEMENTS(w));
        begin_quick(&w[n]);
        g_assert_true(peer_hear(&w[n]));
        told[n] = g_get_monotonic_time();
        peer_beat(&w[n], 1);
        peer_echoed(&w[n]);
        peer_write(&w[n], buf, len);
        /* It is told by the connection's end. */
        while (peer_hear(&w[n])) {
            ;
        }
        g_assert_false(ft_pulse_leased(w[n].pulse));
    }
    while (n--) {
        bad_frame(n, buf, &word);
        watch_wait(&w[n].watch, &w[n].watch.lost, 1);
        watch_reason(&w[n].watch, word);
        g_assert_cmpint(w[n].watch.at, >=, told[n] + QUICK_US);
        world_end(&w[n], 0, 1);
    }

    /* One that was never given a lease is not waited for. */
    begin_slow(&w[0]);
    len = bad_frame(3, buf, &word);
    peer_write(&w[0], buf, len);
    watch_wait(&w[0].watch, &w[0].watch.lost, 1);
    watch_reason(&w[0].watch, word);
    world_end(&w[0], 0, 1);
}

static void test_silent(void)
{
    World w;
    int64_t last;

    begin_quick(&w);
    g_assert_true(peer_hear(&w));
    watch_wait(&w.watch, &w.watch.silent, 1);
    watch_reason(&w.watch, "nothing was heard");
    g_assert_cmpint(w.watch.at, >=, w.begun + QUICK_US);
    g_assert_false(ft_pulse_leased(w.pulse));
    /* It is silent itself from then on, and not interested any more. */
    while (peer_readable(&w, 0)) {
        g_assert_true(peer_hear(&w));
    }
    peer_beat(&w, w.heard.number);
    g_assert_false(peer_readable(&w, 100));
    close(w.fd);
    w.fd = -1;
    world_end(&w, 1, 0);

    begin_quick(&w);
    peer_well(&w, 5);
    last = g_get_monotonic_time();
    peer_beat(&w, w.heard.number);
    watch_wait(&w.watch, &w.watch.silent, 1);
    watch_reason(&w.watch, "nothing was heard");
    g_assert_cmpint(w.watch.at, >=, last + QUICK_US);
    world_end(&w, 1, 0);
}

/* The peer beats, but hears nothing. */
static void test_one_way(void)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    g_autoptr(GArray) sent = g_array_new(false, true, sizeof(int64_t));
    int64_t told;
    World w;

    begin_quick(&w);
    g_array_set_size(sent, 1);
    while (!watch_get(&w.watch, &w.watch.silent)) {
        int64_t now = g_get_monotonic_time();

        g_assert_cmpint(now, <, end);
        g_array_append_val(sent, now);
        peer_beat(&w, 0);
        g_usleep(10 * MS);
    }
    watch_reason(&w.watch, "has not heard this one");
    /* What the peer could have heard after all: its lease is over. */
    while (peer_readable(&w, 0)) {
        g_assert_true(peer_hear(&w));
    }
    g_assert_cmpuint(w.heard.echo, >, 0);
    told = g_array_index(sent, int64_t, w.heard.echo);
    g_assert_cmpint(w.watch.at, >=, told + QUICK_US);
    world_end(&w, 1, 0);
}

static void test_lease(void)
{
    const int64_t lease = 1600 * MS;
    World w;
    int64_t heard;
    bool leased;

    world_begin(&w, 50, 2000, 0);
    g_assert_false(ft_pulse_leased(w.pulse));
    g_assert_true(peer_hear(&w));
    heard = g_get_monotonic_time();
    /* That it is there does not say that it hears. */
    peer_beat(&w, 0);
    peer_echoed(&w);
    g_assert_false(ft_pulse_leased(w.pulse));
    g_assert_cmpint(watch_get(&w.watch, &w.watch.renewed), ==, 0);
    peer_beat(&w, 1);
    watch_wait(&w.watch, &w.watch.renewed, 1);
    /* Number 1 was sent after w.begun and before it was heard. */
    leased = ft_pulse_leased(w.pulse);
    if (g_get_monotonic_time() < w.begun + lease) {
        g_assert_true(leased);
    }
    while (g_get_monotonic_time() < heard + lease) {
        g_assert_true(peer_hear(&w));
        peer_beat(&w, 1);
    }
    g_assert_false(ft_pulse_leased(w.pulse));
    peer_beat(&w, w.heard.number);
    watch_wait(&w.watch, &w.watch.renewed, 2);
    /* Nobody has asked since. */
    peer_well(&w, 5);
    g_assert_cmpint(watch_get(&w.watch, &w.watch.renewed), ==, 2);
    world_end(&w, 0, 0);
}

/* The main loop does not come round. */
static void test_stuck(void)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    int64_t round = 0;
    uint64_t muted, goal;
    FtPulseStats st;
    World w;

    world_begin(&w, 50, 10000, 300);
    while (!stats_of(&w).muted) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (peer_readable(&w, 20)) {
            peer_well(&w, 1);
        }
    }
    g_assert_cmpint(g_get_monotonic_time(), >=, w.begun + 400 * MS);
    g_assert_cmpuint(w.heard.number, >, 0);
    /* Not a word any more, but it hears. */
    st = stats_of(&w);
    while (w.heard.number < st.sent) {
        peer_well(&w, 1);
    }
    g_assert_false(peer_readable(&w, 300));
    peer_beat(&w, w.heard.number);
    while (stats_of(&w).heard < w.number) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(MS);
    }
    g_assert_cmpuint(stats_of(&w).sent, ==, st.sent);
    g_assert_cmpuint(stats_of(&w).muted, ==, 1);

    /* It comes round again; once more if this thread was late for that. */
    do {
        muted = stats_of(&w).muted;
        goal = w.heard.number + 5;
        while (w.heard.number < goal) {
            g_assert_cmpint(g_get_monotonic_time(), <, end);
            round = g_get_monotonic_time();
            main_loop_wait(true);
            if (peer_readable(&w, 5)) {
                peer_well(&w, 1);
            }
        }
    } while (stats_of(&w).muted != muted);
    /* And stops once more.  It wrote down a time, at most an interval ago. */
    while (stats_of(&w).muted == muted) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (peer_readable(&w, 1)) {
            peer_well(&w, 1);
        }
    }
    g_assert_cmpint(g_get_monotonic_time(), >=, round + (400 - 50) * MS);
    world_end(&w, 0, 0);
    /* Its timer is gone. */
    main_loop_wait(true);
}

/* It is looked after soon also when heartbeats are seldom. */
static void test_stuck_seldom(void)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    World w;

    world_begin(&w, 100000, 1000000, 100);
    g_assert_true(peer_hear(&w));
    g_usleep(200 * MS);
    /* That wakes the thread up: the last time for long. */
    peer_beat(&w, 1);
    while (!stats_of(&w).muted) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(MS);
    }
    world_end(&w, 0, 0);
}

#define SELDOM_BEAT_MS  20
#define SELDOM_STUCK_MS 2000

/*
 * False: this thread itself was late, so that anything may be.  What the main
 * loop has written down may be older than its round, by an interval.
 */
static bool in_time(World *w, int64_t round)
{
    uint64_t muted = stats_of(w).muted;     /* before the time is taken */

    if (g_get_monotonic_time() >
        round + (SELDOM_STUCK_MS - SELDOM_BEAT_MS) * MS) {
        return false;
    }
    g_assert_cmpuint(muted, ==, 0);
    return true;
}

/*
 * The main loop comes round each 20 heartbeats, which is 0.4 s, and all in all
 * for longer than it would take to be stuck.
 */
static bool comes_round(World *w)
{
    int64_t last, round = w->begun;

    for (int i = 0; i < 7; i++) {
        for (int beats = 0; beats < 20;) {
            if (peer_readable(w, 20)) {
                peer_well(w, 1);
                beats++;
            }
            if (!in_time(w, round)) {
                return false;
            }
        }
        last = round;
        round = g_get_monotonic_time();
        main_loop_wait(true);
        if (!in_time(w, last)) {
            return false;
        }
    }
    return true;
}

/* A main loop that comes round, if not often, is not stuck. */
static void test_not_stuck(void)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    bool good;
    World w;

    do {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        world_begin(&w, SELDOM_BEAT_MS, 5000, SELDOM_STUCK_MS);
        good = comes_round(&w);
        world_end(&w, 0, 0);
    } while (!good);

    /* Never is never. */
    world_begin(&w, 10, 2500, 0);
    peer_well(&w, 100);
    g_assert_cmpuint(stats_of(&w).muted, ==, 0);
    world_end(&w, 0, 0);
}

/* TCP may cut anywhere.  A part of one does not keep the thread. */
static void test_pieces(void)
{
    uint8_t buf[2 * FRAME_SIZE];
    int64_t end = g_get_monotonic_time() + WAIT_US;
    World w;

    world_begin(&w, 20, 5000, 0);
    make_beat(buf, 1, 0);
    for (int i = 0; i < FRAME_SIZE; i++) {
        peer_write(&w, buf + i, 1);
        if (i == 9 || i == 28 || i == FRAME_SIZE - 2) {
            for (int n = 0; n < 5; n++) {
                g_assert_true(peer_hear(&w));
                g_assert_cmpuint(w.heard.echo, ==, 0);
            }
        }
    }
    w.number = 1;
    peer_echoed(&w);

    make_beat(buf, 2, 1);
    make_beat(buf + FRAME_SIZE, 3, 1);
    peer_write(&w, buf, FRAME_SIZE + 30);
    peer_write(&w, buf + FRAME_SIZE + 30, FRAME_SIZE - 30);
    w.number = 3;
    peer_echoed(&w);

    /* Many at once, as after a stall, and it still sends in between. */
    for (int i = 0; i < 5000; i++) {
        peer_beat(&w, 1);
        while (peer_readable(&w, 0)) {
            g_assert_true(peer_hear(&w));
        }
    }
    while (stats_of(&w).heard < 5003) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_usleep(MS);
    }
    peer_echoed(&w);
    world_end(&w, 0, 0);
}

/* This side shuts the connection down. */
static void test_shutdown(void)
{
    int64_t told, begun;
    World w;

    /* And goes: nobody is called. */
    begin_slow(&w);
    peer_well(&w, 1);
    peer_echoed(&w);
    begun = g_get_monotonic_time();
    ft_link_shutdown(w.link);
    world_end(&w, 0, 0);
    g_assert_cmpint(g_get_monotonic_time(), <, begun + WAIT_US);

    /* Also when the thread waits already for the peer's lease to end. */
    begin_slow(&w);
    peer_well(&w, 1);
    peer_echoed(&w);
    g_assert_true(ft_pulse_leased(w.pulse));
    ft_link_shutdown(w.link);
    /* The peer hears of it any moment. */
    g_assert_false(ft_pulse_leased(w.pulse));
    g_usleep(20 * MS);
    world_end(&w, 0, 0);
    g_assert_cmpint(g_get_monotonic_time(), <, begun + WAIT_US);

    /* And waits: it is told when the peer's lease is over. */
    begin_quick(&w);
    g_assert_true(peer_hear(&w));
    told = g_get_monotonic_time();
    peer_beat(&w, 1);
    peer_echoed(&w);
    ft_link_shutdown(w.link);
    watch_wait(&w.watch, &w.watch.lost, 1);
    watch_reason(&w.watch, "this side has closed");
    g_assert_cmpint(w.watch.at, >=, told + QUICK_US);
    world_end(&w, 0, 1);

    ft_pulse_free(NULL);
}

/* The peer's socket is full. */
static void test_full(void)
{
    int64_t end = g_get_monotonic_time() + WAIT_US;
    int size = 1;
    World w;

    begin_quick(&w);
    g_assert_cmpint(setsockopt(w.link->sioc->fd, SOL_SOCKET, SO_SNDBUF, &size,
                               sizeof(size)), ==, 0);
    while (!watch_get(&w.watch, &w.watch.lost)) {
        FtPulseStats st = stats_of(&w);
        uint8_t buf[FRAME_SIZE];

        g_assert_cmpint(g_get_monotonic_time(), <, end);
        /* It beats, and says that it hears, but takes nothing. */
        make_beat(buf, ++w.number, st.sent ? st.sent - 1 : 0);
        if (send(w.fd, buf, sizeof(buf), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            w.number--;
        }
        g_usleep(10 * MS);
    }
    watch_reason(&w.watch, "does not take what is sent");
    g_assert_cmpint(w.watch.at, >=, w.begun + QUICK_US);
    world_end(&w, 0, 1);
}

/* ---------------------------------------------- a process that is stopped */

static int conts;       /* signals that came */

static void on_cont(int sig)
{
    qatomic_inc(&conts);
}

static void say(char c)
{
    g_assert_cmpint(write(STDOUT_FILENO, &c, 1), ==, 1);
}

/*
 * Says 'L' when it has a lease; after a SIGCONT whether it has one then, and
 * how it has ended.
 */
static int child(int fd)
{
    int64_t end = g_get_monotonic_time() + 2 * WAIT_US;
    bool leased = false;
    World w = { .fd = -1 };

    sigaction(SIGCONT, &(struct sigaction) { .sa_handler = on_cont }, NULL);
    world_begin_on(&w, fd, QUICK_BEAT_MS, QUICK_MS, 0);
    while (!qatomic_read(&conts)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        if (!leased && ft_pulse_leased(w.pulse)) {
            leased = true;
            say('L');
        }
        g_usleep(MS);
    }
    say(ft_pulse_leased(w.pulse) ? '1' : '0');
    watch_wait(&w.watch, &w.watch.silent, 1);
    say(strstr(w.watch.reason, "nothing was heard") ? 'S' : '?');
    world_end(&w, 1, 0);
    return 0;
}

static char child_says(int fd)
{
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    char c = 0;

    g_assert_cmpint(poll(&pfd, 1, WAIT_US / 1000), ==, 1);
    g_assert_cmpint(read(fd, &c, 1), ==, 1);
    return c;
}

static void test_stopped(void)
{
    g_autofree char *arg = NULL;
    char *args[3] = { NULL };
    int fds[2], status = 0;
    World w = { .fd = -1 };
    int out;
    GPid pid;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    arg = g_strdup_printf("--child=%d", fds[1]);
    args[0] = (char *)myself;
    args[1] = arg;
    g_assert_true(g_spawn_async_with_pipes(
        NULL, args, NULL,
        G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_LEAVE_DESCRIPTORS_OPEN, NULL,
        NULL, &pid, NULL, &out, NULL, NULL));
    close(fds[1]);
    world_begin_on(&w, fds[0], QUICK_BEAT_MS, QUICK_MS, 0);
    g_assert_cmpint(child_says(out), ==, 'L');

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    g_assert_cmpint(waitpid(pid, &status, WUNTRACED), ==, pid);
    g_assert_true(WIFSTOPPED(status));
    watch_wait(&w.watch, &w.watch.silent, 1);
    watch_reason(&w.watch, "nothing was heard");
    g_assert_cmpint(kill(pid, SIGCONT), ==, 0);

    /* It must not think that it may still go on. */
    g_assert_cmpint(child_says(out), ==, '0');
    g_assert_cmpint(child_says(out), ==, 'S');
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(out);
    world_end(&w, 1, 0);
}

int main(int argc, char **argv)
{
    const char *fd;

    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    if (argc == 2 && g_str_has_prefix(argv[1], "--child=")) {
        fd = argv[1] + strlen("--child=");
        return child(atoi(fd));
    }
    myself = argv[0];
    g_test_init(&argc, &argv, NULL);

    g_test_add_func("/ft/pulse/pair", test_pair);
    g_test_add_func("/ft/pulse/closed", test_closed);
    g_test_add_func("/ft/pulse/killed", test_killed);
    g_test_add_func("/ft/pulse/wrong", test_wrong);
    g_test_add_func("/ft/pulse/silent", test_silent);
    g_test_add_func("/ft/pulse/one-way", test_one_way);
    g_test_add_func("/ft/pulse/lease", test_lease);
    g_test_add_func("/ft/pulse/stuck", test_stuck);
    g_test_add_func("/ft/pulse/stuck/seldom", test_stuck_seldom);
    g_test_add_func("/ft/pulse/not-stuck", test_not_stuck);
    g_test_add_func("/ft/pulse/pieces", test_pieces);
    g_test_add_func("/ft/pulse/shutdown", test_shutdown);
    g_test_add_func("/ft/pulse/full", test_full);
    g_test_add_func("/ft/pulse/stopped", test_stopped);

    return g_test_run();
}
