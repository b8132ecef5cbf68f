/*
 * A cable between two network namespaces that can be made a bad one
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *     relay NAMESPACE-A NAMESPACE-B INTERFACE
 *
 * makes a tap INTERFACE in each namespace and carries frames between the two,
 * "ab" and "ba" being the two ways.  It ends, and the interfaces with it, when
 * its standard input does.  For where the kernel has no tc netem.  Commands
 * come on standard input, a line each; each is answered by one line, "ok ..."
 * or "error ...":
 *
 *     set ab|ba|both KEY=VALUE...    what happens on that way from now on
 *     clear                          a good cable again; what waits, goes
 *     small 0|1                      1: packets as on a wire, not of 64 KiB,
 *                                    so that one is lost and not forty
 *     seed N                         of the dice
 *     stats                          frames carried, dropped, damaged ...
 *
 *     cut=1          nothing gets through
 *     drop=PPM       so many of a million frames get lost
 *     delay=US       each frame comes later, in order
 *     jitter=US      and later still by up to this
 *     reorder=PPM    so many of a million are held back by up to `hold`
 *     hold=US        (default 3000)
 *     corrupt=PPM    one byte of TCP's payload is changed in so many, and the
 *                    checksum made right: TCP does not find out
 *     damage=N       at most so many are changed (default: no limit)
 *
 * Both taps pass checksum and segmentation offload through (vnet header), so
 * an ordinary frame's checksum has not been made when it comes by here.
 *
 * One thread, no locks.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    FRAME_MAX = 65536 + 256,
    BATCH = 64,                     /* frames of a side in one go */
    WAITING_MAX = 16384,            /* frames that are late */
    VNET = sizeof(struct virtio_net_hdr),
    ETHERNET = 14,
};

typedef struct Way {
    bool cut;
    uint32_t drop, reorder, corrupt;        /* of a million */
    uint64_t delay, jitter, hold;           /* us */
    uint64_t damage;                        /* may still be changed */
    uint64_t last_due;
    uint64_t carried, dropped, late, damaged;
} Way;

typedef struct Waiting {
    uint64_t due, number;
    int way;
    size_t len;
    uint8_t data[];
} Waiting;

static int taps[2];
static Way ways[2];                 /* [0]: from taps[0] to taps[1] */
static Waiting *heap[WAITING_MAX];  /* the next one due is heap[0] */
static size_t waiting;
static uint64_t numbers;
static uint64_t dice = 1;

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000ull + ts.tv_nsec / 1000;
}

/* xorshift64* */
static uint64_t roll(uint64_t below)
{
    dice ^= dice >> 12;
    dice ^= dice << 25;
    dice ^= dice >> 27;
    return below ? ((dice * 0x2545f4914f6cdd1dull) >> 20) % below : 0;
}

/* ------------------------------------------------------- what waits */

static bool before(const Waiting *a, const Waiting *b)
{
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void swap(size_t a, size_t b)
{
    Waiting *w = heap[a];

    heap[a] = heap[b];
    heap[b] = w;
}

static bool wait_for(int way, const uint8_t *data, size_t len, uint64_t due)
{
    Waiting *w;
    size_t i;

    if (waiting == WAITING_MAX) {
        return false;
    }
    w = malloc(sizeof(*w) + len);
    if (!w) {
        return false;
    }
    w->due = due;
    w->number = numbers++;
    w->way = way;
    w->len = len;
    memcpy(w->data, data, len);
    i = waiting++;
    heap[i] = w;
    while (i && before(heap[i], heap[(i - 1) / 2])) {
        swap(i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
    return true;
}

static Waiting *take_first(void)
{
    Waiting *first = heap[0];
    size_t i = 0;

    heap[0] = heap[--waiting];
    for (;;) {
        size_t least = i;

        for (size_t child = 2 * i + 1; child <= 2 * i + 2; child++) {
            if (child < waiting && before(heap[child], heap[least])) {
                least = child;
            }
        }
        if (least == i) {
            return first;
        }
        swap(i, least);
        i = least;
    }
}

/* --------------------------------------------------------- one frame */

static void deliver(int way, const uint8_t *data, size_t len)
{
    /* An interface that is down says EIO: the frame is lost, as it would. */
    if (write(taps[!way], data, len) == (ssize_t)len) {
        ways[way].carried++;
    } else {
        ways[way].dropped++;
    }
}

static uint32_t sum16(const uint8_t *data, size_t len, uint32_t sum)
{
    for (size_t i = 0; i + 1 < len; i += 2) {
        sum += data[i] << 8 | data[i + 1];
    }
    if (len & 1) {
        sum += data[len - 1] << 8;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

/* Change one byte that TCP carries; false if the frame carries none. */
static bool corrupt(uint8_t *data, size_t len)
{
    struct virtio_net_hdr vnet;
    uint8_t *ip = data + VNET + ETHERNET, *tcp;
    size_t header, total, segment, offset;

    if (len < VNET + ETHERNET + 40 || ip[-2] != 8 || ip[-1] != 0 ||
        ip[0] >> 4 != 4 || ip[9] != IPPROTO_TCP) {
        return false;
    }
    header = (ip[0] & 15) * 4;
    total = ip[2] << 8 | ip[3];
    if (header < 20 || total < header + 20 ||
        total > len - VNET - ETHERNET) {
        return false;
    }
    tcp = ip + header;
    segment = total - header;
    offset = (tcp[12] >> 4) * 4;
    if (offset < 20 || offset >= segment) {
        return false;
    }
    tcp[offset + roll(segment - offset)] ^= 1 + roll(255);

    memcpy(&vnet, data, sizeof(vnet));
    if (!(vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
        uint32_t sum = sum16(ip + 12, 8, IPPROTO_TCP + segment);

        tcp[16] = tcp[17] = 0;
        sum = ~sum16(tcp, segment, sum);
        tcp[16] = sum >> 8;
        tcp[17] = sum;
    }
    return true;
}

static void frame(int way, uint8_t *data, size_t len)
{
    Way *w = &ways[way];
    uint64_t now, due;

    if (w->cut || (w->drop && roll(1000000) < w->drop)) {
        w->dropped++;
        return;
    }
    if (w->corrupt && w->damage && roll(1000000) < w->corrupt &&
        corrupt(data, len)) {
        w->damage--;
        w->damaged++;
    }
    if (!w->delay && !w->jitter && !w->reorder && !waiting) {
        deliver(way, data, len);
        return;
    }
    now = now_us();
    due = now + w->delay + roll(w->jitter);
    if (due < w->last_due) {
        due = w->last_due;
    }
    if (w->reorder && roll(1000000) < w->reorder) {
        due += 1 + roll(w->hold);
    } else {
        w->last_due = due;
    }
    if (due <= now && !waiting) {
        deliver(way, data, len);
    } else if (wait_for(way, data, len, due)) {
        w->late++;
    } else {
        w->dropped++;
    }
}

/* ------------------------------------------------------------- commands */

static void answer(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void good(Way *w)
{
    w->cut = false;
    w->drop = w->reorder = w->corrupt = 0;
    w->delay = w->jitter = 0;
    w->hold = 3000;
    w->damage = UINT64_MAX;
    w->last_due = 0;
}

static bool set_key(Way *w, const char *key, uint64_t value)
{
    if (!strcmp(key, "cut")) {
        w->cut = value;
    } else if (!strcmp(key, "drop")) {
        w->drop = value;
    } else if (!strcmp(key, "delay")) {
        w->delay = value;
    } else if (!strcmp(key, "jitter")) {
        w->jitter = value;
    } else if (!strcmp(key, "reorder")) {
        w->reorder = value;
    } else if (!strcmp(key, "hold")) {
        w->hold = value;
    } else if (!strcmp(key, "corrupt")) {
        w->corrupt = value;
    } else if (!strcmp(key, "damage")) {
        w->damage = value;
    } else {
        return false;
    }
    return true;
}

static const char *set(char **save)
{
    char *which = strtok_r(NULL, " ", save), *word;
    int from, to;

    if (!which) {
        return "which way?";
    } else if (!strcmp(which, "ab")) {
        from = to = 0;
    } else if (!strcmp(which, "ba")) {
        from = to = 1;
    } else if (!strcmp(which, "both")) {
        from = 0;
        to = 1;
    } else {
        return "a way is ab, ba or both";
    }
    while ((word = strtok_r(NULL, " ", save))) {
        char *equals = strchr(word, '='), *end;
        uint64_t value;

        if (!equals) {
            return "KEY=VALUE is wanted";
        }
        *equals = 0;
        value = strtoull(equals + 1, &end, 10);
        if (end == equals + 1 || *end) {
            return "a value is a number";
        }
        for (int i = from; i <= to; i++) {
            if (!set_key(&ways[i], word, value)) {
                return "no such key";
            }
        }
    }
    return NULL;
}

static const char *offload(const char *word)
{
    unsigned long features = TUN_F_CSUM;

    if (!word || (strcmp(word, "0") && strcmp(word, "1"))) {
        return "0 or 1 is wanted";
    }
    if (*word == '0') {
        features |= TUN_F_TSO4 | TUN_F_TSO6;
    }
    for (int i = 0; i < 2; i++) {
        if (ioctl(taps[i], TUNSETOFFLOAD, features)) {
            return strerror(errno);
        }
    }
    return NULL;
}

static void command(char *line)
{
    char *save = NULL, *word = strtok_r(line, " ", &save);
    const char *wrong = NULL;

    if (!word) {
        wrong = "a command is wanted";
    } else if (!strcmp(word, "set")) {
        wrong = set(&save);
    } else if (!strcmp(word, "clear")) {
        good(&ways[0]);
        good(&ways[1]);
        while (waiting) {
            Waiting *w = take_first();

            deliver(w->way, w->data, w->len);
            free(w);
        }
    } else if (!strcmp(word, "small")) {
        wrong = offload(strtok_r(NULL, " ", &save));
    } else if (!strcmp(word, "seed")) {
        word = strtok_r(NULL, " ", &save);
        dice = (word ? strtoull(word, NULL, 10) : 0) * 2 + 1;
    } else if (!strcmp(word, "stats")) {
        answer("ok ab %llu %llu %llu %llu ba %llu %llu %llu %llu",
               (unsigned long long)ways[0].carried,
               (unsigned long long)ways[0].dropped,
               (unsigned long long)ways[0].late,
               (unsigned long long)ways[0].damaged,
               (unsigned long long)ways[1].carried,
               (unsigned long long)ways[1].dropped,
               (unsigned long long)ways[1].late,
               (unsigned long long)ways[1].damaged);
        return;
    } else {
        wrong = "set, clear, small, seed or stats";
    }
    if (wrong) {
        answer("error %s", wrong);
    } else {
        answer("ok");
    }
}

/* Read what there is; false at the end. */
static bool commands(void)
{
    static char buf[1024];
    static size_t fill;
    ssize_t got = read(STDIN_FILENO, buf + fill, sizeof(buf) - 1 - fill);
    char *end;

    if (got <= 0) {
        return got < 0 && errno == EINTR;
    }
    fill += got;
    while ((end = memchr(buf, '\n', fill))) {
        size_t len = end - buf + 1;

        *end = 0;
        command(buf);
        memmove(buf, buf + len, fill - len);
        fill -= len;
    }
    if (fill == sizeof(buf) - 1) {
        fill = 0;
        answer("error a line is too long");
    }
    return true;
}

/* ---------------------------------------------------------------- the taps */

static int make_tap(const char *ns, const char *name)
{
    char path[256];
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    int fd;

    if (strlen(name) >= sizeof(ifr.ifr_name) ||
        snprintf(path, sizeof(path), "/run/netns/%s", ns) >=
        (int)sizeof(path)) {
        errno = ENAMETOOLONG;
        die(name);
    }
    strcpy(ifr.ifr_name, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET)) {
        die(path);
    }
    close(fd);
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        die("/dev/net/tun");
    }
    if (ioctl(fd, TUNSETIFF, &ifr)) {
        die(name);
    }
    return fd;
}

static void carry(int way)
{
    static uint8_t data[FRAME_MAX];

    for (int i = 0; i < BATCH; i++) {
        ssize_t len = read(taps[way], data, sizeof(data));

        if (len <= 0) {
            return;
        }
        if (len > VNET) {
            frame(way, data, len);
        }
    }
}

int main(int argc, char **argv)
{
    const char *wrong;

    if (argc != 4) {
        fprintf(stderr, "usage: relay NAMESPACE-A NAMESPACE-B INTERFACE\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        taps[i] = make_tap(argv[1 + i], argv[3]);
        good(&ways[i]);
    }
    wrong = offload("0");
    if (wrong) {
        fprintf(stderr, "relay: offload: %s\n", wrong);
        return 1;
    }
    answer("ok ready");
    for (;;) {
        struct pollfd fds[3] = {
            { .fd = taps[0], .events = POLLIN },
            { .fd = taps[1], .events = POLLIN },
            { .fd = STDIN_FILENO, .events = POLLIN },
        };
        struct timespec timeout, *bound = NULL;

        if (waiting) {
            uint64_t now = now_us(), due = heap[0]->due;
            uint64_t left = due > now ? due - now : 0;

            timeout.tv_sec = left / 1000000;
            timeout.tv_nsec = left % 1000000 * 1000;
            bound = &timeout;
        }
        if (ppoll(fds, 3, bound, NULL) < 0 && errno != EINTR) {
            die("poll");
        }
        if (fds[2].revents && !commands()) {
            return 0;
        }
        while (waiting && heap[0]->due <= now_us()) {
            Waiting *w = take_first();

            deliver(w->way, w->data, w->len);
            free(w);
        }
        carry(0);
        carry(1);
    }
}
