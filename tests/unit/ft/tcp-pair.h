/*
 * Unit tests: the two ends of a TCP connection
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_UNIT_FT_TCP_PAIR_H
#define TESTS_UNIT_FT_TCP_PAIR_H

#include "qemu/sockets.h"

static inline void tcp_pair(int *fds)
{
    struct sockaddr_in addr = { .sin_family = AF_INET };
    socklen_t len = sizeof(addr);
    int listener = qemu_socket(AF_INET, SOCK_STREAM, 0);

    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&addr, &len), ==,
                    0);
    fds[0] = qemu_socket(AF_INET, SOCK_STREAM, 0);
    g_assert_cmpint(connect(fds[0], (struct sockaddr *)&addr, len), ==, 0);
    fds[1] = qemu_accept(listener, NULL, NULL);
    g_assert_cmpint(fds[1], >=, 0);
    close(listener);
}

#endif
