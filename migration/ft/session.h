/*
 * Fault tolerance: what the files of the engine share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 *   commands.c --> session.c --> primary.c --> capture.c, devstate.c, pause.c
 *   hmp.c          one object,   epoch loop    the image of an epoch
 *   params.c       refuse.c      primary-fsm     |
 *                      |                       sender.c --> encode, wire
 *                      |                                       |
 *                      +-------> backup.c                      v
 *                                backup-fsm <------- link.c, handshake.c,
 *                                takeover.c          listener.c (sockets)
 *
 * There is at most one FtSession; it is made at the start of protection (or
 * when the backup begins to listen) and freed at the end.  Both sides hang
 * what is theirs below it and share nothing else.
 */

#ifndef MIGRATION_FT_SESSION_H
#define MIGRATION_FT_SESSION_H

#include "crypto/tlscreds.h"
#include "io/channel-socket.h"
#include "qapi/qapi-types-migration.h"
#include "qapi/qapi-types-ft.h"
#include "qemu/thread.h"
#include "qemu/uuid.h"
#include "arbiter.h"
#include "clock.h"
#include "disks.h"
#include "encode.h"
#include "output.h"
#include "wire.h"
#include "stats.h"
#include "uri.h"

/* ------------------------------------------------------------- machine.c */

/* One RAM block as both sides number it. */
typedef struct FtRamBlock {
    char *idstr;
    uint8_t *host;
    uint64_t length;            /* used, bytes */
    uint64_t ram_addr;          /* offset in the ram_addr_t space */
    void *rb;                   /* RAMBlock */
} FtRamBlock;

typedef struct FtMachine {
    FtRamBlock *block;          /* [count] */
    uint64_t *length;           /* [count], for FtBlockTable */
    unsigned count;
    uint64_t ram_bytes;         /* sum of the lengths */
    char *fingerprint;          /* text, a fact per line */
} FtMachine;

/*
 * ft_machine_new: list the RAM that migrates and describe the machine: QEMU
 * version, machine type, accelerator, CPU model and count, RAM blocks in
 * order ("ram 0 pc.ram 536870912"), savevm sections with instance and
 * version.  BQL held.
 */
FtMachine *ft_machine_new(void);
void ft_machine_free(FtMachine *m);

/*
 * ft_machine_adopt: the backup checks the primary's @text (untrusted, @len
 * bytes, not terminated) against its own machine @m and brings m->block into
 * the primary's order.  On a mismatch returns false with an error that names
 * each differing fact (at most 8) as the primary and the backup have it.
 */
bool ft_machine_adopt(FtMachine *m, const char *text, size_t len,
                      Error **errp);

/* Hash of all RAM, by blocks in order.  The guest must stand still. */
uint64_t ft_machine_hash(const FtMachine *m);

/* ------------------------------------------------------------- capture.c */

typedef struct FtCapture FtCapture;

/* Dirty logging on; every page counts as dirty.  BQL held. */
FtCapture *ft_capture_new(FtMachine *m, Error **errp);
void ft_capture_free(FtCapture *c);

/* How this machine's writes are found. */
FtDirtyTracking ft_capture_how(void);

/*
 * ft_capture_harvest: move the dirty bits of the machine into the engine's
 * own bitmap (clearing the machine's) and return the number of pages that
 * are now dirty in it.  BQL held, vCPUs stopped.
 */
uint64_t ft_capture_harvest(FtCapture *c);

/* Is the RAM still that of the fingerprint, and the dirty set known?  BQL
 * held. */
bool ft_capture_check(FtCapture *c, Error **errp);

typedef bool FtCapturePageFn(void *opaque, uint16_t block, uint64_t offset,
                             const uint8_t *page);

/*
 * ft_capture_drain: call @fn for each page in the engine's bitmap, with the
 * page in guest RAM, clearing its bit first.  Stops when @fn returns false
 * (that page's bit is set again).  Any thread; not at once with harvest.
 * Returns true when the bitmap is empty.
 */
bool ft_capture_drain(FtCapture *c, FtCapturePageFn *fn, void *opaque);

/* Pages of an epoch, copied. */
typedef struct FtStagedPage {
    uint16_t block;
    uint64_t offset;
    const uint8_t *data;
} FtStagedPage;

typedef struct FtStage {
    FtStagedPage *page;         /* [count] */
    uint64_t count;
    /* private */
    uint64_t capacity;
    GPtrArray *slabs;
} FtStage;

/* A stage keeps its memory for the next epoch; reset drops the pages. */
FtStage *ft_stage_new(void);
void ft_stage_free(FtStage *s);
void ft_stage_reset(FtStage *s);
/* Copy all pages in the bitmap.  BQL held, vCPUs stopped. */
void ft_capture_copy(FtCapture *c, FtStage *stage);

/* ------------------------------------------------------------ devstate.c */

/*
 * ft_devstate_save: all device state, without RAM, into @buf (replaced).
 * Large virtio arrays are cut to what is in use.  Before it comes a record of
 * clocks: clock.h.  BQL held, guest paused.
 */
bool ft_devstate_save(GByteArray *buf, Error **errp);
/* Load what ft_devstate_save() made; once, at takeover.  BQL held.  @clock is
 * set in any case, and is to be cleared. */
bool ft_devstate_load(const uint8_t *data, size_t len, FtClock *clock,
                      Error **errp);

/* -------------------------------- tls.c, link.c, handshake.c, listener.c */

/*
 * How connections are secured: NULL, or QEMU's TLS credentials.  Held by
 * reference, so that an object that is deleted meanwhile does no harm.
 */
typedef struct FtTls {
    QCryptoTLSCreds *creds;
    char *hostname;             /* client: that must be in the certificate;
                                 * NULL: that of the address */
    char *authz;                /* server: id of a QAuthZ for the client */
} FtTls;

/*
 * ft_tls_new: what migration's parameters tls-creds, tls-hostname and
 * tls-authz say, for @endpoint.  *@tls is NULL without tls-creds, and when it
 * fails.  Refused: an object of the wrong kind, anonymous ones, and x509 with
 * verify-peer=off, as both sides must be authenticated; and a tls-authz that
 * would not be asked.  BQL held.
 */
bool ft_tls_new(QCryptoTLSCredsEndpoint endpoint, FtTls **tls, Error **errp);
void ft_tls_free(FtTls *tls);

typedef struct FtLink FtLink;

/*
 * One connection.  Reads and writes block in plain threads without BQL; one
 * thread may read while another one writes.  ft_link_shutdown() ends them from
 * any thread.
 */
FtLink *ft_link_new(QIOChannel *ioc);   /* a socket; takes a reference */
FtLink *ft_link_ref(FtLink *l);
void ft_link_unref(FtLink *l);
void ft_link_shutdown(FtLink *l);
/* Has this side shut it down?  Said before the peer can hear of it. */
bool ft_link_is_down(FtLink *l);
/* Has its end been read, which the peer's kernel told after all that the peer
 * had sent?  Then that was closed there.  Not if this side has shut it down.
 * On a connection that this side writes to, a reset can look the same. */
bool ft_link_closed_by_peer(FtLink *l);
/* All that there are, also those that are being opened and those that carry a
 * disk's TLS: a yank function.  Any thread, does not wait. */
void ft_link_yank_all(void *opaque);
/*
 * Unacknowledged by the peer's TCP for so long: the connection is lost
 * (TCP_USER_TIMEOUT).  With nothing to send, keepalive probes find out, whose
 * clocks have whole seconds: after 2 at the earliest.  0: never.  Not for unix
 * sockets.
 */
void ft_link_set_user_timeout(FtLink *l, int ms);
/* Bound on a single read or write, 0: none.  Milliseconds. */
void ft_link_set_timeout(FtLink *l, int ms);

/* Header and payload in one go; serialised by a lock of the link. */
bool ft_link_send(FtLink *l, FtFrameType type, uint16_t flags,
                  uint64_t epoch, const void *payload, uint32_t len,
                  Error **errp);
/* As ft_link_send(), but gives up at once if another thread is sending or
 * the socket is full: for DISARM from a thread that must not wait.  Part of a
 * frame may be out then, and if so the link has been shut down. */
bool ft_link_try_send(FtLink *l, FtFrameType type, uint16_t flags,
                      uint64_t epoch, const char *text);

/*
 * ft_link_recv: read a frame, check header and payload.  @buf grows to the
 * payload.  Returns 1; 0 at an orderly end between frames; -1 with @errp.
 * *@bad tells whether the peer sent something wrong (true) or the link
 * failed (false).
 */
int ft_link_recv(FtLink *l, FtFrame *f, GByteArray *buf, bool *bad,
                 Error **errp);

/* As they go to the socket: with TLS, what it makes of them. */
uint64_t ft_link_bytes_sent(FtLink *l);

/* The text that a frame's payload is: never NULL, cut to FT_WIRE_TEXT_MAX
 * bytes, with nothing in it that a terminal would obey.  To be freed. */
char *ft_link_text(const GByteArray *buf);

/* The connections of a session, of either side. */
typedef struct FtLinks {
    FtLink *data, *control, *heart;
} FtLinks;

/* Shut down (any thread); shut down, drop the references, and forget them.
 * NULLs are fine. */
void ft_links_shutdown(FtLinks *ls);
void ft_links_clear(FtLinks *ls);

/*
 * ft_link_open: the primary's side of the handshake: the connections to @addr
 * (with @tls its handshake), HELLO/WELCOME on each, MACHINE/READY on data.  No
 * BQL, bounded by @timeout_ms.  The backup's refusal comes back as @errp.
 * @token is what further connections of the session have to show.
 */
bool ft_link_open(const SocketAddress *addr, const FtTls *tls,
                  const QemuUUID *session, uint64_t generation,
                  uint64_t features, const char *fingerprint, int timeout_ms,
                  FtLinks *links, uint8_t token[16], Error **errp);

/*
 * ft_link_open_disk: one more connection to the session's backup, for the
 * copy of @drive: HELLO/WELCOME, then it is NBD's (ft_copy_start()).  Returns
 * when the backup's NBD server has answered on it.  No BQL, bounded by
 * @timeout_ms.  The caller gets a reference.  With TLS it is one end of a
 * socket pair, and a thread carries what is said to the connection and back,
 * see relay.h.
 */
QIOChannelSocket *ft_link_open_disk(const SocketAddress *addr,
                                    const FtTls *tls,
                                    const QemuUUID *session,
                                    const uint8_t token[16], uint32_t drive,
                                    int timeout_ms, Error **errp);

/* The listening side. */
typedef struct FtListener FtListener;
typedef bool FtAdoptFn(void *opaque, const FtHello *hello, const char *text,
                       size_t len, FtArbiter **arbiter, char **proof,
                       Error **errp);
typedef void FtPairFn(void *opaque, FtLinks *links, const FtHello *hello);
/*
 * ft_listener_new: listen at @addr; each caller is heard in a thread of its
 * own with a deadline, at most 8 at once.  When a data connection has shown
 * a machine that @adopt accepts (called with the BQL held), when the @arbiter
 * that it has set (a reference that is the listener's then, like the @proof;
 * NULL: there is none) has been asked by ft_arbiter_verify() in the caller's
 * thread, and when the control and the heartbeat connection with its token
 * have come, @pair is called once, from the main loop, and the listener turns
 * everybody else away (but the session's disk connections, see below) until
 * ft_listener_free().  A bad caller is told why and dropped; listening goes
 * on, and @adopt is called again for the next one, also after it had accepted
 * one whose other connections did not come.  The references in @links that
 * @pair gets are its own; it may call ft_listener_free(), and nothing is
 * called after that.  With @tls (which becomes the listener's, also when this
 * fails) each caller has to do the TLS handshake first, within the same
 * deadline.
 */
FtListener *ft_listener_new(const SocketAddress *addr, FtTls *tls,
                            FtAdoptFn *adopt, FtPairFn *pair, void *opaque,
                            Error **errp);
void ft_listener_free(FtListener *ls);

/*
 * ft_listener_expect_disks: the session of the pair may now open a disk
 * connection for each of the drives 0 .. @drives - 1, once: @fn is called for
 * it, from the main loop, and keeps @sioc by a reference of its own.  Nothing
 * behind the handshake has been read from it.  0: no more; also what was
 * accepted but not handed over yet is closed.  A second call begins anew.
 * Callers of the session that come before the first call wait for it.  Main
 * loop, BQL held.
 */
typedef void FtDiskFn(void *opaque, uint32_t drive, QIOChannelSocket *sioc);
void ft_listener_expect_disks(FtListener *ls, unsigned drives, FtDiskFn *fn,
                              void *opaque);

/* --------------------------------------------------------------- inject.c */

/* Moments at which a fault can be injected; see qapi/ft.json FtFaultPoint. */
/* Kills this process (SIGKILL) when @point has been armed and is reached
 * for the armed time.  Any thread. */
void ft_inject(FtFaultPoint point);
void ft_inject_arm(FtFaultPoint point, uint64_t after);
/* Cheap; for those who do something extra to get to @point. */
bool ft_inject_is_armed(FtFaultPoint point);

/* --------------------------------------------------------------- refuse.c */

/*
 * ft_refuse_check: is there anything in this machine that cannot be
 * protected?  Vhost, multi-queue, non-migratable devices, a running
 * migration ...  The error names the device and the remedy; drives are
 * ft_disks_new()'s business.  BQL held.
 */
bool ft_refuse_check(Error **errp);

/* ------------------------------------------------------------- net/ft-deaf.c */

/*
 * ft_deaf_attach: from now on drop what comes in over the network, and what
 * waits for the guest already.  ft_deaf_detach: what comes from now on is for
 * the guest; nothing happens if none was attached.  BQL held.
 */
void ft_deaf_attach(void);
void ft_deaf_detach(void);

/* ------------------------------------------------------------- net/ft-hold.c */

/* Put a holding filter on every NIC's peer.  BQL held.  All or none. */
bool ft_hold_attach(FtOutput *out, Error **errp);
/* Take them away again; what is held then is released by output mode. */
void ft_hold_detach(void);

/* --------------------------------------------------------------- params.c */

typedef struct FtParams {
    uint64_t epoch_us;
    uint32_t depth;
    uint32_t ack_timeout_ms;
    uint32_t heartbeat_ms;
    uint32_t timeout_ms;        /* silence of the other side */
    uint32_t stuck_ms;          /* of one's own main loop, 0: never */
    FtArbiterParams arbiter;    /* but password and certificates */
    bool arbiter_set;           /* else: by the shared images */
    char *arbiter_secret;       /* id of an object; NULL: none */
    char *arbiter_tls_creds;    /* the same */
    char *takeover_script;      /* NULL: none */
    strList *reprotect;         /* as for "migrate -c", tried in turn */
    uint32_t hash_every;        /* epochs between RAM hashes, 0: off */
    uint64_t hold_packets;
    uint64_t hold_bytes;
    FtDisksParams disks;
} FtParams;

/*
 * The parameters that the next session starts with (and the epoch length of
 * the running one).  Strings and lists live until they are changed: copy what
 * is kept.  BQL held.
 */
FtParams *ft_params(void);

/*
 * ft_params_arbiter: the arbiter as the parameters have it, complete with
 * password and certificates, for a new session.  @out belongs to the caller
 * (ft_arbiter_params_clear()); what it had is not looked at.  Not *@set: it
 * is for the shared images, or the primary, to say, and @out has the secrets
 * alone.  BQL held.
 */
bool ft_params_arbiter(FtArbiterParams *out, bool *set, Error **errp);

/* For a session, as the parameters have it; ft_options_clear().  Without the
 * secrets, as an option of the URI may name another arbiter. */
void ft_params_options(FtProtectOptions *out);
/* Look them up, if @a needs any. */
bool ft_params_secrets(FtArbiterParams *a, Error **errp);

/* ------------------------------------------------------------- commands.c */

/* Is the capability cuju-ft on? */
bool ft_capability(void);

/* "migrate -c URI" without a monitor: returns when the session has begun, and
 * its state tells the rest.  BQL held. */
bool ft_protect_uri(const char *uri, Error **errp);

/* -------------------------------------------------------------- session.c */

typedef struct FtPrimary FtPrimary;
typedef struct FtBackup FtBackup;

/*
 * The one session, or NULL.  BQL held.
 */
typedef struct FtSession {
    QemuUUID uuid;              /* of the guest's line of sessions */
    uint64_t generation;        /* that it has now */
    FtArbiter *arbiter;         /* NULL: not known yet */
    char *arbiter_spec;         /* which it is, without secrets */
    FtPrimary *primary;         /* one of the two is set */
    FtBackup *backup;
} FtSession;

FtSession *ft_session(void);

/* Where a state change is told: event, trace, query-ft.  BQL held. */
void ft_session_state(FtRole role, FtState state, const char *reason);
/* The last state that was told, and its reason (not to be freed). */
FtState ft_session_last(const char **reason);
/* The session's arbiter from now on; replaces one.  BQL held. */
void ft_session_set_arbiter(FtSession *s, const FtArbiterParams *params);
/* A takeover has been finished: keep it for query-ft, tell it by an event.
 * Takes @t over.  BQL held. */
void ft_session_took_over(FtTakeover *t);
/* Which side this is, or was last. */
FtRole ft_session_role(void);
/* Fill in what outlives the session. */
void ft_session_query_last(FtStatus *st);
/* The session is over and may be freed, from a bottom half.  BQL held. */
void ft_session_end(void);

/* Monotonic microseconds. */
int64_t ft_now_us(void);
/* Run @fn with the BQL in the main loop, never inside a drain.  Any thread */
void ft_main_loop(QEMUBHFunc *fn, void *opaque);

/* With @opt instead of what ft_params() has; it is not kept. */
bool ft_session_protect(const SocketAddress *addr, const FtProtectOptions *opt,
                        Error **errp);
/* @force: do not wait for the other side nor for the arbiter. */
bool ft_session_cancel(bool force, Error **errp);
bool ft_session_failover(bool force, Error **errp);
bool ft_session_listen(const SocketAddress *addr, Error **errp);

/* ------------------------------------------------- primary.c and backup.c */

FtPrimary *ft_primary_new(FtSession *s, const SocketAddress *addr,
                          const FtProtectOptions *opt, Error **errp);
void ft_primary_free(FtPrimary *p);
/* False: it is ending already, and waits for the arbiter (see @force). */
bool ft_primary_cancel(FtPrimary *p, const char *reason, bool force);
/*
 * The guest has stopped for good, the process ends: let the backup have its
 * last epoch, and end the session in order.  Waits for that, at most as long
 * as for an acknowledgement, for the backup's answer, and some seconds for
 * the arbiter.
 */
void ft_primary_leave(FtPrimary *p, const char *reason);
void ft_primary_params_changed(FtPrimary *p);
bool ft_primary_blocks(FtPrimary *p);   /* holds the machine as it is */

/*
 * ft_primary_may_send: may what is committed leave?  With the lease of the
 * heartbeats; or when this side goes on alone.  BQL.
 */
bool ft_primary_may_send(FtPrimary *p);

/* Fill in what only it knows. */
void ft_primary_query(FtPrimary *p, FtStatus *st);

FtBackup *ft_backup_new(FtSession *s, const SocketAddress *addr,
                        Error **errp);
void ft_backup_free(FtBackup *b);
bool ft_backup_failover(FtBackup *b, bool force, Error **errp);
void ft_backup_disarm(FtBackup *b, const char *reason);
void ft_backup_query(FtBackup *b, FtStatus *st);

#endif
