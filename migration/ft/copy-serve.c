/*
 * Fault tolerance: copying a drive to the backup, the backup's side
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An export of QEMU's NBD server without the server: connections come from
 * the session's listener, one by one.
 *
 *   ft_copy_serve()            export, with a reference of the "user"
 *   ft_copy_accept()           a client; has a reference once it has chosen
 *   ft_copy_serve_end()        clients are closed, the user's reference goes
 *     ... requests end         clients go, with the last one the export
 *   serve_removed()            its BlockBackend lets go of the node
 *   ended()                    from the main loop, after that
 *
 * Somebody else may end the export, too ("nbd-server-stop", "block-export-
 * del", the end of QEMU), so the list has what there is, not what was asked
 * for.  A client that is in NBD's handshake has no export yet; it finds none
 * and is dropped, after NBD_HANDSHAKE_S at the latest.
 *
 * Locking: all in the main loop, BQL held.
 */

#include "qemu/osdep.h"
#include "block/export.h"
#include "block/nbd.h"
#include "qapi/error.h"
#include "qapi/qapi-types-block-export.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/queue.h"
#include "qemu/units.h"
#include "system/block-backend.h"
#include "copy.h"
#include "session.h"

#define NBD_HANDSHAKE_S 10
#define SAMPLE_SIZE     (64 * KiB)

typedef struct FtServe {
    char *name;
    BlockExport *exp;           /* NULL: gone */
    Notifier removed;
    FtCopyEndedFn *ended;
    void *opaque;
    QLIST_ENTRY(FtServe) next;
} FtServe;

/* The exports are the process's, and so is the list of those made here. */
static QLIST_HEAD(, FtServe) serves = QLIST_HEAD_INITIALIZER(serves);

static FtServe *serve_find(const char *export_name)
{
    FtServe *s;

    QLIST_FOREACH(s, &serves, next) {
        if (!strcmp(s->name, export_name)) {
            return s;
        }
    }
    return NULL;
}

static void serve_ended_bh(void *opaque)
{
    FtServe *s = opaque;

    QLIST_REMOVE(s, next);
    if (s->ended) {
        s->ended(s->opaque);
    }
    g_free(s->name);
    g_free(s);
}

/* Not a request is left, or the BlockBackend would not be freed. */
static void serve_removed(Notifier *n, void *data)
{
    FtServe *s = container_of(n, FtServe, removed);

    notifier_remove(&s->removed);
    s->exp = NULL;
    ft_main_loop(serve_ended_bh, s);
}

bool ft_copy_serve(BlockDriverState *bs, const char *export_name,
                   Error **errp)
{
    BlockExportOptions options = {
        .type = BLOCK_EXPORT_TYPE_NBD,
        .id = (char *)export_name,
        .node_name = (char *)bdrv_get_node_name(bs),
        .has_writable = true,
        .writable = true,
        .u.nbd.name = (char *)export_name,
    };
    bool pretend = !nbd_server_is_running();
    BlockExport *exp;
    FtServe *s;

    GLOBAL_STATE_CODE();
    if (serve_find(export_name)) {
        error_setg(errp, "export '%s' exists already", export_name);
        return false;
    }
    /*
     * An export wants a server.  It asks for it only now, so for this moment
     * we are like qemu-nbd, which has none of the monitor's kind either.
     */
    if (pretend) {
        nbd_server_is_qemu_nbd(1);
    }
    exp = blk_exp_add(&options, errp);
    if (pretend) {
        nbd_server_is_qemu_nbd(-1);
    }
    if (!exp) {
        return false;
    }

    s = g_new0(FtServe, 1);
    s->name = g_strdup(export_name);
    s->exp = exp;
    s->removed.notify = serve_removed;
    blk_add_remove_bs_notifier(exp->blk, &s->removed);
    QLIST_INSERT_HEAD(&serves, s, next);
    return true;
}

static void serve_client_closed(NBDClient *client, bool negotiated)
{
    nbd_client_put(client);
}

void ft_copy_accept(QIOChannelSocket *sioc)
{
    GLOBAL_STATE_CODE();
    qio_channel_set_name(QIO_CHANNEL(sioc), "ft-copy");
    nbd_client_new(sioc, NBD_HANDSHAKE_S, NULL, NULL, serve_client_closed,
                   NULL);
}

unsigned ft_copy_clients(const char *export_name)
{
    FtServe *s = serve_find(export_name);

    if (!s || !s->exp) {
        return 0;
    }
    return qatomic_read(&s->exp->refcount) - s->exp->user_owned;
}

void ft_copy_serve_end(const char *export_name, FtCopyEndedFn *ended,
                       void *opaque)
{
    FtServe *s = serve_find(export_name);

    GLOBAL_STATE_CODE();
    if (!s) {
        if (ended) {
            ft_main_loop(ended, opaque);
        }
        return;
    }
    s->ended = ended;
    s->opaque = opaque;
    if (s->exp) {
        blk_exp_request_shutdown(s->exp);
    }
}

/* ---------------------------------------------------------------- sample */

static uint64_t sample_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t sample_add(uint32_t crc, uint64_t number)
{
    uint8_t buf[8];

    stq_be_p(buf, number);
    return ft_wire_crc32c(crc, buf, sizeof(buf));
}

static bool sample_piece(BlockBackend *blk, int64_t length, uint64_t piece,
                         uint8_t *buf, uint32_t *crc, Error **errp)
{
    int64_t offset = piece * SAMPLE_SIZE;
    int64_t bytes = MIN(SAMPLE_SIZE, length - offset);
    int ret = blk_pread(blk, offset, bytes, buf, 0);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot read %" PRId64 " bytes at %"
                         PRId64, bytes, offset);
        return false;
    }
    /* With its place: the same pieces elsewhere are not the same. */
    *crc = ft_wire_crc32c(sample_add(*crc, piece), buf, bytes);
    return true;
}

bool ft_copy_sample(BlockDriverState *bs, uint64_t seed, unsigned samples,
                    uint32_t *crc, Error **errp)
{
    BlockBackend *blk;
    uint64_t pieces;
    int64_t length;
    uint8_t *buf;
    bool ok = true;

    GLOBAL_STATE_CODE();
    blk = blk_new_with_bs(bs, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, errp);
    if (!blk) {
        return false;
    }
    length = blk_getlength(blk);
    if (length < 0) {
        error_setg_errno(errp, -length, "cannot find out the length");
        blk_unref(blk);
        return false;
    }

    buf = blk_blockalign(blk, SAMPLE_SIZE);
    pieces = DIV_ROUND_UP(length, SAMPLE_SIZE);
    *crc = sample_add(0, length);
    if (samples == 0 || samples >= pieces) {
        for (uint64_t i = 0; ok && i < pieces; i++) {
            ok = sample_piece(blk, length, i, buf, crc, errp);
        }
    } else {
        ok = sample_piece(blk, length, 0, buf, crc, errp) &&
             sample_piece(blk, length, pieces - 1, buf, crc, errp);
        for (unsigned i = 2; ok && i < samples; i++) {
            ok = sample_piece(blk, length, sample_random(&seed) % pieces, buf,
                              crc, errp);
        }
    }
    qemu_vfree(buf);
    blk_unref(blk);
    return ok;
}
