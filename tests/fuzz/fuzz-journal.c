/*
 * Fuzz target: disk records, ft_record_decode() and ft_record_put()
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: how many drives, their lengths, when the callback fails, how much
 * room there is to encode again, then the records as they are.
 *
 * A record that is handed on is inside its drive and is the callee's, also
 * when it fails.  Encoded again, cut into as many as the room asks for, the
 * records decode to the same ranges with the same data.
 */

#include "qemu/osdep.h"
#include "migration/ft/journal.h"
#include "fuzz.h"

#define DRIVES_MAX  4
#define ROOM_MIN    (FT_REC_HEADER + 512)

typedef struct Seen {
    const uint64_t *length;
    unsigned drives;
    unsigned fail_at;           /* 0: never */
    uint64_t taken;
    GByteArray *same;           /* what came, encoded by us */
    FtRecords *keep;
} Seen;

/* There is only one way to say it. */
static void put_whole(const FtRecord *r, GByteArray *out)
{
    size_t room = FT_REC_HEADER + MAX(512, r->data ? r->bytes : 0);
    g_autofree uint8_t *buf = g_malloc(room);
    uint64_t done = 0;
    bool last;
    size_t n = ft_record_put(r, &done, buf, room, &last);

    g_assert_true(last);
    g_assert_cmpuint(n, ==, FT_REC_HEADER + (r->data ? r->bytes : 0));
    g_byte_array_append(out, buf, n);
}

static bool on_record(void *opaque, FtRecord *r, Error **errp)
{
    Seen *s = opaque;

    g_assert_cmpuint(r->epoch, ==, 0);
    g_assert_cmpuint(r->drive, <, s->drives);
    if (r->kind == FT_REC_FLUSH) {
        g_assert_cmpuint(r->offset, ==, 0);
        g_assert_cmpuint(r->bytes, ==, 0);
    } else {
        g_assert_cmpuint(r->bytes, >, 0);
        g_assert_cmpuint(r->offset, <=, s->length[r->drive]);
        g_assert_cmpuint(r->bytes, <=, s->length[r->drive] - r->offset);
    }
    g_assert_true(!r->data == (r->kind != FT_REC_WRITE));
    g_assert_true(r->kind == FT_REC_ZERO || !r->flags);
    g_assert_cmphex(r->flags & ~FT_REC_UNMAP, ==, 0);
    if (s->taken + 1 == s->fail_at) {
        error_setg(errp, "enough");
        ft_record_unref(r);
        return false;
    }
    put_whole(r, s->same);
    ft_records_add(s->keep, r);
    ft_record_unref(r);
    s->taken++;
    return true;
}

/* All of @l, in buffers of @room bytes, which @out gets one after another. */
static void encode(const FtRecords *l, size_t room, GByteArray *out)
{
    size_t at = 0;
    g_autofree uint8_t *buf = g_malloc(room);
    unsigned i;

    for (i = 0; i < l->rec->len; i++) {
        FtRecord *r = g_ptr_array_index(l->rec, i);
        uint64_t done = 0;
        bool last;

        do {
            uint64_t before = done;
            size_t n = ft_record_put(r, &done, buf + at, room - at, &last);

            if (!n) {
                /* full; an empty one has room for something */
                g_assert_cmpuint(at, >, 0);
                g_assert_cmpuint(done, ==, before);
                g_assert_cmpuint(room - at, <, ROOM_MIN);
                g_byte_array_append(out, buf, at);
                at = 0;
                last = false;
                continue;
            }
            g_assert_true(done > before || r->kind == FT_REC_FLUSH);
            g_assert_true(last == (done == r->bytes));
            g_assert_cmpuint(n, <=, room - at);
            at += n;
        } while (!last);
    }
    g_byte_array_append(out, buf, at);
}

static bool decode(Seen *s, const uint8_t *buf, size_t len)
{
    uint64_t records = 7;
    Error *err = NULL;
    bool ok = fuzz_result(ft_record_decode(buf, len, s->length, s->drives,
                                           on_record, s, &records, &err),
                          err);

    g_assert_cmpuint(records, ==, 7 + s->taken);
    g_assert_cmpuint(s->same->len, <=, len);
    g_assert_cmpmem(s->same->data, s->same->len, buf, s->same->len);
    g_assert_true(!ok || s->same->len == len);
    return ok;
}

/* The records of @b are those of @a, perhaps in several pieces. */
static void compare(const FtRecords *a, const FtRecords *b)
{
    unsigned i, k = 0;

    for (i = 0; i < a->rec->len; i++) {
        FtRecord *r = g_ptr_array_index(a->rec, i);
        uint64_t done = 0;

        do {
            FtRecord *p;

            g_assert_cmpuint(k, <, b->rec->len);
            p = g_ptr_array_index(b->rec, k++);
            g_assert_cmpuint(p->kind, ==, r->kind);
            g_assert_cmpuint(p->flags, ==, r->flags);
            g_assert_cmpuint(p->drive, ==, r->drive);
            g_assert_cmpuint(p->offset, ==, r->offset + done);
            g_assert_cmpuint(p->bytes, <=, r->bytes - done);
            if (r->data) {
                g_assert_cmpmem(p->data, p->bytes, r->data + done, p->bytes);
            }
            done += p->bytes;
        } while (done < r->bytes);
    }
    g_assert_cmpuint(k, ==, b->rec->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint64_t length[DRIVES_MAX];
    FtRecords keep, again;
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GByteArray) same = g_byte_array_new();
    g_autofree uint8_t *buf = NULL;
    Seen s = { .length = length, .keep = &keep, .same = same };
    size_t room, len;
    unsigned i;

    s.drives = fuzz_u8(&in) % (DRIVES_MAX + 1);
    for (i = 0; i < s.drives; i++) {
        /* from a few sectors to the largest that the block layer has */
        length[i] = fuzz_u16(&in) * 512ull << fuzz_u8(&in) % 39;
    }
    s.fail_at = fuzz_u8(&in);
    room = ROOM_MIN + fuzz_u16(&in);
    buf = fuzz_block(&in, in.left, &len);

    ft_records_init(&keep);
    ft_records_init(&again);
    if (!decode(&s, buf, len) && s.fail_at) {
        g_assert_cmpuint(keep.rec->len, <, s.fail_at);
    }
    encode(&keep, room, out);
    g_byte_array_set_size(same, 0);
    s = (Seen) { .length = length, .drives = s.drives, .keep = &again,
                 .same = same };
    g_assert_true(decode(&s, out->data, out->len));
    compare(&keep, &again);
    g_assert_cmpuint(again.bytes - again.rec->len * FT_RECORD_COST, ==,
                     keep.bytes - keep.rec->len * FT_RECORD_COST);
    ft_records_destroy(&keep);
    ft_records_destroy(&again);
    return 0;
}
