/*
 * Fault tolerance: the thread that sends the first copy and the epochs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Locks: "lock" for the queues and the two flags; the rest is the thread's.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "sender.h"

struct FtSender {
    FtLink *link;
    FtCapture *capture;
    const FtSenderOps *ops;
    void *opaque;
    QemuThread thread;

    QemuMutex lock;
    QemuCond cond;
    bool quit;
    bool pass;
    bool hold;
    GByteArray *samples;        /* to be sent before the next image */
    QSIMPLEQ_HEAD(, FtImage) queue;
    QSIMPLEQ_HEAD(, FtImage) idle;

    /* the thread's; the counters are read by others */
    uint8_t *frame;
    size_t used;
    uint64_t pages;             /* of this image or pass */
    uint64_t bytes;
    uint64_t sync_pages;
    FtEncodeStats encoded;
    Error *err;
};

static bool sender_flush(FtSender *s, uint64_t epoch, uint16_t flags)
{
    if (s->used) {
        if (!ft_link_send(s->link, FT_FRAME_PAGES, flags, epoch, s->frame,
                          s->used, &s->err)) {
            return false;
        }
        s->bytes += s->used;
        s->used = 0;
    }
    return true;
}

static bool sender_page(FtSender *s, uint64_t epoch, uint16_t flags,
                        uint16_t block, uint64_t offset, const uint8_t *page)
{
    if (FT_WIRE_PAYLOAD_MAX - s->used < FT_RECORD_MAX &&
        !sender_flush(s, epoch, flags)) {
        return false;
    }
    s->used += ft_encode_page(s->frame + s->used,
                              FT_WIRE_PAYLOAD_MAX - s->used,
                              block, offset, page, &s->encoded);
    s->pages++;
    return true;
}

static bool sender_sync_page(void *opaque, uint16_t block, uint64_t offset,
                             const uint8_t *page)
{
    FtSender *s = opaque;

    if (qatomic_read(&s->quit)) {
        return false;
    }
    qatomic_set(&s->sync_pages, s->sync_pages + 1);
    ft_inject(FT_FAULT_POINT_SYNC);
    return sender_page(s, 0, FT_FLAG_SYNC, block, offset, page);
}

static bool sender_send_pass(FtSender *s)
{
    s->pages = 0;
    s->bytes = 0;
    return ft_capture_drain(s->capture, sender_sync_page, s) &&
           sender_flush(s, 0, FT_FLAG_SYNC);
}

/* All records of the image, in frames as full as they get. */
static bool sender_send_journal(FtSender *s, FtImage *img, FtEpochEnd *end)
{
    unsigned i = 0;
    uint64_t done = 0;
    bool last;

    while (i < img->journal.rec->len) {
        FtRecord *r = g_ptr_array_index(img->journal.rec, i);
        size_t n = ft_record_put(r, &done, s->frame + s->used,
                                 FT_WIRE_PAYLOAD_MAX - s->used, &last);

        if (n) {
            s->used += n;
            end->journal_records++;
            if (last) {
                done = 0;
                i++;
            }
        }
        if (!n || i == img->journal.rec->len) {
            if (!ft_link_send(s->link, FT_FRAME_JOURNAL, 0, img->epoch,
                              s->frame, s->used, &s->err)) {
                return false;
            }
            end->journal_bytes += s->used;
            s->used = 0;
        }
    }
    return true;
}

static bool sender_send_samples(FtSender *s, uint64_t epoch)
{
    GByteArray *samples;
    bool ok;

    WITH_QEMU_LOCK_GUARD(&s->lock) {
        samples = g_steal_pointer(&s->samples);
    }
    if (!samples) {
        return true;
    }
    ok = ft_link_send(s->link, FT_FRAME_SAMPLES, 0, epoch, samples->data,
                      samples->len, &s->err);
    g_byte_array_unref(samples);
    return ok;
}

static bool sender_send_image(FtSender *s, FtImage *img)
{
    FtEpochEnd end = {
        .ram_hash = img->ram_hash,
        .on_disk = img->on_disk,
    };
    uint8_t buf[FT_EPOCH_END_SIZE];
    uint32_t done = 0;
    uint64_t i;

    s->pages = 0;
    s->bytes = 0;
    ft_inject(FT_FAULT_POINT_BEFORE_SEND);
    if (!sender_send_samples(s, img->epoch)) {
        return false;
    }
    for (i = 0; i < img->stage->count; i++) {
        FtStagedPage *pg = &img->stage->page[i];

        if (!sender_page(s, img->epoch, 0, pg->block, pg->offset, pg->data)) {
            return false;
        }
    }
    if (!sender_flush(s, img->epoch, 0)) {
        return false;
    }
    while (done < img->devices->len) {
        uint32_t n = MIN(img->devices->len - done, FT_WIRE_PAYLOAD_MAX);

        if (!ft_link_send(s->link, FT_FRAME_DEVICES, 0, img->epoch,
                          img->devices->data + done, n, &s->err)) {
            return false;
        }
        done += n;
    }
    if (!sender_send_journal(s, img, &end)) {
        return false;
    }
    end.pages = s->pages;
    end.page_bytes = s->bytes;
    end.device_bytes = img->devices->len;
    if (img->flags & FT_FLAG_HASH) {
        end.dev_hash = ft_wire_crc32c(0, img->devices->data,
                                      img->devices->len);
    }
    end.age_us = ft_now_us() - img->clocks_at;
    ft_wire_put_epoch_end(buf, &end);
    if (!ft_link_send(s->link, FT_FRAME_EPOCH_END, img->flags, img->epoch,
                      buf, sizeof(buf), &s->err)) {
        return false;
    }
    ft_inject(FT_FAULT_POINT_AFTER_SEND);
    return true;
}

/* Waits for work; false when there will be none.  *@img NULL: a pass. */
static bool sender_next(FtSender *s, FtImage **img)
{
    QEMU_LOCK_GUARD(&s->lock);
    while (!s->quit && !s->pass &&
           (s->hold || QSIMPLEQ_EMPTY(&s->queue))) {
        qemu_cond_wait(&s->cond, &s->lock);
    }
    if (s->quit) {
        return false;
    }
    if (s->pass) {
        s->pass = false;
        *img = NULL;
    } else {
        *img = QSIMPLEQ_FIRST(&s->queue);
        QSIMPLEQ_REMOVE_HEAD(&s->queue, next);
    }
    return true;
}

static void *sender_thread(void *opaque)
{
    FtSender *s = opaque;
    FtImage *img;
    bool ok = true;

    rcu_register_thread();
    while (ok && sender_next(s, &img)) {
        if (img) {
            ok = sender_send_image(s, img);
            /* not when it is used again: the data may be large */
            ft_records_clear(&img->journal);
            ft_sender_give_back(s, img);
        } else {
            ok = sender_send_pass(s);
            if (ok) {
                s->ops->pass_done(s->opaque);
            }
        }
    }
    if (s->err) {
        s->ops->failed(s->opaque, error_get_pretty(s->err));
    }
    rcu_unregister_thread();
    return NULL;
}

FtSender *ft_sender_new(FtLink *link, FtCapture *capture,
                        const FtSenderOps *ops, void *opaque)
{
    FtSender *s = g_new0(FtSender, 1);

    s->link = link;
    s->capture = capture;
    s->ops = ops;
    s->opaque = opaque;
    s->frame = g_malloc(FT_WIRE_PAYLOAD_MAX);
    qemu_mutex_init(&s->lock);
    qemu_cond_init(&s->cond);
    QSIMPLEQ_INIT(&s->queue);
    QSIMPLEQ_INIT(&s->idle);
    qemu_thread_create(&s->thread, "ft-send", sender_thread, s,
                       QEMU_THREAD_JOINABLE);
    return s;
}

static void image_free(FtImage *img)
{
    ft_stage_free(img->stage);
    g_byte_array_free(img->devices, true);
    ft_records_destroy(&img->journal);
    g_free(img);
}

void ft_sender_free(FtSender *s)
{
    FtImage *img, *next;

    if (!s) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->lock) {
        qatomic_set(&s->quit, true);
        qemu_cond_broadcast(&s->cond);
    }
    qemu_thread_join(&s->thread);
    QSIMPLEQ_FOREACH_SAFE(img, &s->queue, next, next) {
        image_free(img);
    }
    QSIMPLEQ_FOREACH_SAFE(img, &s->idle, next, next) {
        image_free(img);
    }
    qemu_cond_destroy(&s->cond);
    qemu_mutex_destroy(&s->lock);
    error_free(s->err);
    if (s->samples) {
        g_byte_array_unref(s->samples);
    }
    g_free(s->frame);
    g_free(s);
}

FtImage *ft_sender_image(FtSender *s)
{
    FtImage *img;

    QEMU_LOCK_GUARD(&s->lock);
    img = QSIMPLEQ_FIRST(&s->idle);
    if (img) {
        QSIMPLEQ_REMOVE_HEAD(&s->idle, next);
        ft_stage_reset(img->stage);
    } else {
        img = g_new0(FtImage, 1);
        img->stage = ft_stage_new();
        img->devices = g_byte_array_new();
        ft_records_init(&img->journal);
    }
    return img;
}

void ft_sender_give_back(FtSender *s, FtImage *img)
{
    QEMU_LOCK_GUARD(&s->lock);
    QSIMPLEQ_INSERT_TAIL(&s->idle, img, next);
}

void ft_sender_queue(FtSender *s, FtImage *img)
{
    QEMU_LOCK_GUARD(&s->lock);
    QSIMPLEQ_INSERT_TAIL(&s->queue, img, next);
    qemu_cond_signal(&s->cond);
}

void ft_sender_hold(FtSender *s, bool on)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->hold = on;
    qemu_cond_signal(&s->cond);
}

void ft_sender_samples(FtSender *s, GByteArray *samples)
{
    QEMU_LOCK_GUARD(&s->lock);
    assert(!s->samples);
    s->samples = samples;
}

void ft_sender_pass(FtSender *s)
{
    QEMU_LOCK_GUARD(&s->lock);
    s->pass = true;
    qemu_cond_signal(&s->cond);
}

uint64_t ft_sender_sync_pages(FtSender *s)
{
    return qatomic_read(&s->sync_pages);
}

const FtEncodeStats *ft_sender_encoded(FtSender *s)
{
    return &s->encoded;
}
