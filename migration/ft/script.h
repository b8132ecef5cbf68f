/*
 * Fault tolerance: a program that is run before a takeover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The program gets its arguments as they are (no shell) and, beside QEMU's
 * environment, CUJU_UUID, CUJU_GENERATION and CUJU_REASON.  Its input is
 * /dev/null, its output goes to QEMU's stderr; it has no other file of QEMU's
 * open, and signals as after a login.  It leads a process group of its own,
 * which is killed when its time is over.
 *
 *   main loop                        thread
 *   ft_script_run() ---------------> start it (may hang: a dead NFS server)
 *   timer: time is over --SIGKILL--> wait for its end
 *   fn <---------------------------- ended
 *
 * At most one runs: until the last one is gone for good ft_script_run() is an
 * error, so that the one that moves an address does not meet itself.
 *
 * Locking: main loop, BQL.
 */

#ifndef MIGRATION_FT_SCRIPT_H
#define MIGRATION_FT_SCRIPT_H

#include "qapi/error.h"

#define FT_SCRIPT_TIMEOUT_MS 30000

typedef struct FtScript FtScript;

/*
 * In the main loop, never in a drain, once; the FtScript is gone then.  Not
 * @ok: @text says why: could not be started, exit status, signal, time.
 */
typedef void FtScriptFn(void *opaque, bool ok, const char *text);

/*
 * ft_script_run: run @path with @args: UUID, GENERATION, REASON, NULL.  That
 * it is there and can be run is found out later (@fn); an error here is one
 * of this process: its sandbox, or the last one is not gone.
 */
FtScript *ft_script_run(const char *path, const char *const *args,
                        int timeout_ms, FtScriptFn *fn, void *opaque,
                        Error **errp);
/* Kill it and forget it: @fn is not called. */
void ft_script_cancel(FtScript *s);

/* May this process start others at all? */
bool ft_script_allowed(Error **errp);

#endif
