/*
 * A disk that fails when it is told to: writes of a program end in an error
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Loaded into QEMU by LD_PRELOAD.  CUJU_BADIO names a file of three 32-bit
 * numbers, which the test maps as well; CUJU_BADIO_PATH begins the paths of
 * the images that it is about.
 *
 *     left    so many writes to such files fail from now on
 *     error   with this errno
 *     done    so many have
 *
 * Flushes are left alone: after one that failed QEMU rightly gives up a file
 * for good.  What a test writes into `left` holds from the next call on, in
 * whichever thread that comes.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct Control {
    _Atomic unsigned left;
    _Atomic int error;
    _Atomic unsigned done;
} Control;

static Control *control;
static const char *images;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CUJU_BADIO");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map;

    images = getenv("CUJU_BADIO_PATH");
    if (fd < 0 || !images) {
        return;
    }
    map = mmap(NULL, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
               0);
    close(fd);
    if (map != MAP_FAILED) {
        control = map;
    }
}

/* Shall this one fail?  Sets errno. */
static bool fails(int fd)
{
    char link[64], path[4096];
    unsigned left;
    ssize_t len;

    if (!control || !atomic_load(&control->left)) {
        return false;
    }
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof(path) - 1);
    if (len < 0) {
        return false;
    }
    path[len] = 0;
    if (strncmp(path, images, strlen(images))) {
        return false;
    }
    left = atomic_load(&control->left);
    do {
        if (!left) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&control->left, &left, left - 1));
    atomic_fetch_add(&control->done, 1);
    errno = atomic_load(&control->error);
    return true;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
    return fails(fd) ? -1 : NEXT(pwrite64)(fd, buf, len, at);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t at)
{
    return fails(fd) ? -1 : NEXT(pwritev64)(fd, iov, count, at);
}
