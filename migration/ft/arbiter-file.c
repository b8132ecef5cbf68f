/*
 * Fault tolerance: claims in a directory that both sides have
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   cuju-UUID.claim-3      who has generation 3: one line
 *   cuju-UUID.session      the proof of the session: one line
 *   cuju-UUID.tmp-...      on its way to be one of these, or left by a crash
 *
 * A claim is written under a name of its own, made durable, and then linked to
 * its place.  link() is atomic and never replaces, over NFS as well, where it
 * is the one thing that always was so; and no one ever sees half a claim.
 * When its answer is lost, or is wrong because the client has sent it twice,
 * what is in the claim tells.
 *
 * Claims are never removed.  A side that was stopped for a week and wakes up
 * must still find that the other one has gone on.  A claim is a few bytes, and
 * there is one for each time that a side was lost.
 *
 * NFS clients answer a lot from their caches.  Creating a file goes to the
 * server and shows what others did to the directory; so does the failure to
 * link.  statfs is never answered from a cache, other than an open for reading
 * under a delegation.
 *
 * No state but what it was told, no lock: all in the arbiter's thread.
 */

#include "qemu/osdep.h"
#include <sys/statvfs.h>
#include "qapi/error.h"
#include "arbiter.h"

/* No file of ours is larger: who, 32 digits, a newline. */
#define CONTENT_MAX 512
/* A file on its way to a name that is older was left by a crash. */
#define TMP_OLD_S   60

typedef struct FileArbiter {
    char *dir;
    char *base;         /* cuju-UUID */
    char *session;      /* name of the session's file */
    char *proof;        /* NULL: not known yet */
} FileArbiter;

static void *file_open(const FtArbiterParams *p, const QemuUUID *uuid,
                       Error **errp)
{
    FileArbiter *f = g_new0(FileArbiter, 1);
    g_autofree char *name = qemu_uuid_unparse_strdup(uuid);

    f->dir = g_strdup(p->where);
    f->base = g_strconcat("cuju-", name, NULL);
    f->session = g_strconcat(f->base, ".session", NULL);
    return f;
}

static void file_close(void *be)
{
    FileArbiter *f = be;

    g_free(f->dir);
    g_free(f->base);
    g_free(f->session);
    g_free(f->proof);
    g_free(f);
}

/* Each time anew: what is mounted there may change.  All that belongs together
 * is done below one descriptor. */
static int file_dir(FileArbiter *f, Error **errp)
{
    int dfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dfd < 0) {
        error_setg_errno(errp, errno, "cannot open the directory %s", f->dir);
    }
    return dfd;
}

/* The content without its newline.  NULL with *@err, an errno; EBADMSG: that
 * is none of ours. */
static char *file_get(int dfd, const char *name, int *err)
{
    g_autofree char *content = g_malloc(CONTENT_MAX + 1);
    struct stat st;
    size_t len = 0;
    ssize_t n = 0;
    int fd;

    *err = 0;
    /* O_NONBLOCK: a FIFO has no business here, and must not hold us. */
    fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        *err = errno;
        return NULL;
    }
    if (fstat(fd, &st) < 0) {
        *err = errno;
    } else if (!S_ISREG(st.st_mode)) {
        *err = EBADMSG;
    }
    while (!*err && len <= CONTENT_MAX) {
        n = RETRY_ON_EINTR(read(fd, content + len, CONTENT_MAX + 1 - len));
        if (n < 0) {
            *err = errno;
        }
        if (n <= 0) {
            break;
        }
        len += n;
    }
    close(fd);
    if (*err) {
        return NULL;
    }
    if (len && len <= CONTENT_MAX && content[len - 1] == '\n') {
        len--;
    }
    if (!len || len > CONTENT_MAX || memchr(content, 0, len)) {
        *err = EBADMSG;
        return NULL;
    }
    content[len] = 0;
    return g_steal_pointer(&content);
}

static void file_unreadable(FileArbiter *f, const char *name, int err,
                            Error **errp)
{
    if (err == EBADMSG) {
        error_setg(errp, "%s in %s is not a file of Cuju's", name, f->dir);
    } else {
        error_setg_errno(errp, err, "cannot read %s in %s", name, f->dir);
    }
}

static bool file_write(int fd, const char *text)
{
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    size_t len = strlen(line);
    size_t done = 0;

    while (done < len) {
        ssize_t n = RETRY_ON_EINTR(write(fd, line + done, len - done));

        if (n < 0) {
            return false;
        }
        done += n;
    }
    return fsync(fd) == 0;
}

/* A file with @text in it, on disk, under a name of its own (to be freed). */
static char *file_put(FileArbiter *f, int dfd, const char *text, Error **errp)
{
    g_autofree char *name = NULL;
    int fd = -1;
    bool ok;
    int err;

    for (int i = 0; fd < 0 && i < 100; i++) {
        g_free(name);
        name = g_strdup_printf("%s.tmp-%08x%08x", f->base, g_random_int(),
                               g_random_int());
        fd = openat(dfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW |
                    O_CLOEXEC, 0600);
        if (fd < 0 && errno != EEXIST) {
            break;
        }
    }
    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot create a file in %s", f->dir);
        return NULL;
    }
    ok = file_write(fd, text);
    err = errno;
    /* NFS may tell only now that nothing was written. */
    if (close(fd) < 0 && ok) {
        ok = false;
        err = errno;
    }
    if (!ok) {
        unlinkat(dfd, name, 0);
        error_setg_errno(errp, err, "cannot write a file in %s", f->dir);
        return NULL;
    }
    return g_steal_pointer(&name);
}

/* Make names durable.  Some file systems have nothing to do for that, and say
 * EINVAL. */
static bool file_sync_dir(FileArbiter *f, int dfd, Error **errp)
{
    if (fsync(dfd) < 0 && errno != EINVAL) {
        error_setg_errno(errp, errno, "cannot sync the directory %s", f->dir);
        return false;
    }
    return true;
}

/*
 * All that a claim needs, without claiming: @text in a file that has come to
 * its name by link().  The name is to be freed.
 */
static char *file_put_linked(FileArbiter *f, int dfd, const char *text,
                             Error **errp)
{
    g_autofree char *tmp = file_put(f, dfd, text, errp);
    g_autofree char *name = NULL;
    int err = 0;

    if (!tmp) {
        return NULL;
    }
    name = g_strconcat(tmp, "-link", NULL);
    if (linkat(dfd, tmp, dfd, name, 0) < 0) {
        err = errno;
    }
    unlinkat(dfd, tmp, 0);
    if (err) {
        error_setg_errno(errp, err, "no claims are possible in %s, as hard "
                         "links do not work there (use a directory on a file "
                         "system that has them, such as NFS, or etcd)",
                         f->dir);
        /* it may be there for all that */
        unlinkat(dfd, name, 0);
        return NULL;
    }
    if (!file_sync_dir(f, dfd, errp)) {
        unlinkat(dfd, name, 0);
        return NULL;
    }
    return g_steal_pointer(&name);
}

/* What processes of this guest that were killed had under way. */
static void file_tidy(FileArbiter *f)
{
    g_autofree char *prefix = g_strconcat(f->base, ".tmp-", NULL);
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = NULL;
        struct stat st;

        if (!g_str_has_prefix(name, prefix)) {
            continue;
        }
        path = g_build_filename(f->dir, name, NULL);
        /* Nothing of a living one is so old, by the place's own clock or
         * ours. */
        if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
            time(NULL) - st.st_mtime > TMP_OLD_S) {
            unlink(path);
        }
    }
}

static bool file_publish(void *be, const char *proof, Error **errp)
{
    FileArbiter *f = be;
    g_autofree char *name = NULL;
    int dfd = file_dir(f, errp);
    bool ok = false;

    if (dfd < 0) {
        return false;
    }
    name = file_put_linked(f, dfd, proof, errp);
    if (name && renameat(dfd, name, dfd, f->session) < 0) {
        error_setg_errno(errp, errno, "cannot make %s in %s", f->session,
                         f->dir);
        unlinkat(dfd, name, 0);
    } else if (name) {
        ok = file_sync_dir(f, dfd, errp);
    }
    if (ok) {
        g_free(f->proof);
        f->proof = g_strdup(proof);
        file_tidy(f);
    }
    close(dfd);
    return ok;
}

static char *file_session(FileArbiter *f, int dfd, Error **errp)
{
    int err;
    char *proof = file_get(dfd, f->session, &err);

    if (!proof && err == ENOENT) {
        error_setg(errp, "%s has no %s: it is not the directory that the "
                   "session was begun with, or is not mounted", f->dir,
                   f->session);
    } else if (!proof) {
        file_unreadable(f, f->session, err, errp);
    }
    return proof;
}

/* Is this the place, and still this session's? */
static bool file_check_proof(FileArbiter *f, int dfd, Error **errp)
{
    g_autofree char *proof = NULL;

    if (!f->proof) {
        return true;
    }
    proof = file_session(f, dfd, errp);
    if (proof && strcmp(proof, f->proof)) {
        error_setg(errp, "%s in %s is of another session", f->session,
                   f->dir);
        return false;
    }
    return proof != NULL;
}

static char *file_proof(void *be, Error **errp)
{
    FileArbiter *f = be;
    g_autofree char *name = NULL;
    char *proof = NULL;
    int dfd = file_dir(f, errp);

    if (dfd < 0) {
        return NULL;
    }
    /* First: it makes an NFS client look at the directory anew. */
    name = file_put_linked(f, dfd, "try", errp);
    if (name) {
        unlinkat(dfd, name, 0);
        proof = file_session(f, dfd, errp);
    }
    if (proof) {
        g_free(f->proof);
        f->proof = g_strdup(proof);
    }
    close(dfd);
    return proof;
}

static bool file_probe(void *be, Error **errp)
{
    FileArbiter *f = be;
    struct statvfs st;
    int dfd = file_dir(f, errp);
    bool ok = false;

    if (dfd < 0) {
        return false;
    }
    if (fstatvfs(dfd, &st) < 0) {
        error_setg_errno(errp, errno, "cannot look at %s", f->dir);
    } else if (st.f_flag & ST_RDONLY) {
        error_setg(errp, "%s is mounted read-only", f->dir);
    } else if (faccessat(dfd, ".", W_OK | X_OK, AT_EACCESS) < 0) {
        error_setg_errno(errp, errno, "cannot write in %s", f->dir);
    } else {
        ok = file_check_proof(f, dfd, errp);
    }
    close(dfd);
    return ok;
}

/*
 * Whose is the claim?  UNKNOWN with *@err, ENOENT for nobody's.  Won only when
 * it is there to stay: the other side may look after a crash of the server.
 */
static FtClaim file_judge(FileArbiter *f, int dfd, const char *claim,
                          const char *mark, char **owner, int *err)
{
    g_autofree char *content = file_get(dfd, claim, err);

    if (!content) {
        return FT_CLAIM_UNKNOWN;
    }
    if (strcmp(content, mark)) {
        *owner = g_steal_pointer(&content);
        return FT_CLAIM_LOST;
    }
    if (fsync(dfd) < 0 && errno != EINVAL) {
        *err = errno;
        return FT_CLAIM_UNKNOWN;
    }
    return FT_CLAIM_WON;
}

static FtClaim file_try(FileArbiter *f, int dfd, const char *claim,
                        const char *mark, char **owner, Error **errp)
{
    g_autofree char *tmp = NULL;
    FtClaim result;
    int err, link_err = 0;

    /* Is there for good, and may be all that can be done on a full disk. */
    result = file_judge(f, dfd, claim, mark, owner, &err);
    if (result == FT_CLAIM_UNKNOWN && err != ENOENT) {
        file_unreadable(f, claim, err, errp);
    }
    if (result != FT_CLAIM_UNKNOWN || err != ENOENT) {
        return result;
    }
    if (!file_check_proof(f, dfd, errp)) {
        return FT_CLAIM_UNKNOWN;
    }
    tmp = file_put(f, dfd, mark, errp);
    if (!tmp) {
        return FT_CLAIM_UNKNOWN;
    }
    if (linkat(dfd, tmp, dfd, claim, 0) < 0) {
        link_err = errno;
    }
    unlinkat(dfd, tmp, 0);
    /* Whatever link() said: what is there now counts. */
    result = file_judge(f, dfd, claim, mark, owner, &err);
    if (result == FT_CLAIM_UNKNOWN) {
        error_setg_errno(errp, link_err ?: err, "cannot make %s in %s", claim,
                         f->dir);
    }
    return result;
}

static FtClaim file_claim(void *be, uint64_t generation, const char *mark,
                          char **owner, Error **errp)
{
    FileArbiter *f = be;
    g_autofree char *claim = g_strdup_printf("%s.claim-%" PRIu64, f->base,
                                             generation);
    int dfd = file_dir(f, errp);
    FtClaim result;

    if (dfd < 0) {
        return FT_CLAIM_UNKNOWN;
    }
    result = file_try(f, dfd, claim, mark, owner, errp);
    close(dfd);
    return result;
}

/*
 * The next session may put its own in the same place at this moment: look at
 * it once nobody can, and give back what is not ours.
 */
static void file_remove_proof(FileArbiter *f, int dfd)
{
    g_autofree char *name = g_strdup_printf("%s.tmp-%08x%08x", f->base,
                                            g_random_int(), g_random_int());
    g_autofree char *proof = NULL;
    int err;

    if (renameat(dfd, f->session, dfd, name) < 0) {
        return;
    }
    proof = file_get(dfd, name, &err);
    if (!proof || strcmp(proof, f->proof)) {
        /* It fails if there is another one by now, which is as well. */
        (void)!linkat(dfd, name, dfd, f->session, 0);
    }
    unlinkat(dfd, name, 0);
}

static void file_retire(void *be)
{
    FileArbiter *f = be;
    int dfd = file_dir(f, NULL);

    if (dfd < 0) {
        return;
    }
    if (f->proof && file_check_proof(f, dfd, NULL)) {
        file_remove_proof(f, dfd);
    }
    close(dfd);
}

const FtArbiterOps ft_arbiter_file_ops = {
    .open = file_open,
    .close = file_close,
    .publish = file_publish,
    .proof = file_proof,
    .probe = file_probe,
    .claim = file_claim,
    .retire = file_retire,
};
