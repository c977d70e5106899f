/* A 1x1 convolution and the depthwise convolution that reads it, strip by strip of output rows.
 *
 * Each part of the job holds the rows of the value between the two that its strip needs; rows that the
 * next strip needs as well are moved to the front, so that no row is computed twice within a part. */
#include "arith.h"

#include <string.h>

typedef struct {
    const qc_context *context;
    const qc_pointwise_depthwise *p;
    const uint8_t *x;
    uint8_t *out;
} chain_job;

/* Rows first .. end - 1 of one image's middle value, at `rows`. */
typedef struct {
    uint8_t *rows;
    int64_t image, first, end;
} middle;

/* Computes the rows `first` .. `end` - 1 of an image's middle value unless they are held. */
static void provide_rows(const chain_job *job, const qc_context *c, middle *held, int64_t image, int64_t first,
                         int64_t end)
{
    qc_conv2d p = job->p->pointwise;
    const int64_t width = p.width * p.out_channels;
    int64_t kept = 0;
    if (held->image == image && held->first <= first && first < held->end) {
        kept = held->end - first;
        memmove(held->rows, held->rows + (first - held->first) * width, (size_t)(kept * width));
    }
    const uint8_t *x = job->x + (image * p.height + first + kept) * p.width * p.channels;
    p.batch = 1;
    p.height = p.out_height = end - first - kept;
    if (p.height > 0)
        qc_conv2d_u8_s8c_u8(c, &p, x, NULL, held->rows + kept * width);
    *held = (middle){held->rows, image, first, end};
}

static void chain_task(const void *argument, int index, int count)
{
    const chain_job *job = argument;
    const qc_pointwise_depthwise *chain = job->p;
    const qc_conv2d *whole = &chain->depthwise;
    const int64_t reach = (whole->kernel_h - 1) * whole->dilation_h + 1;
    const int64_t row_bytes = whole->width * whole->channels;
    const int64_t most = ((chain->strip - 1) * whole->stride_h + reach) * row_bytes;
    uint8_t *scratch = job->context->scratch + chain->scratch + index * chain->scratch_step;
    const qc_context c = {.threads = 1, .scratch = scratch + (most + QC_SLACK + 63) / 64 * 64};
    middle held = {scratch, -1, 0, 0};
    const int64_t rows = whole->batch * whole->out_height, last = rows * (index + 1) / count;
    for (int64_t row = rows * index / count; row < last;) {
        const int64_t image = row / whole->out_height, oy = row % whole->out_height;
        const int64_t strip = qc_min(qc_min(chain->strip, last - row), whole->out_height - oy);
        const int64_t top = oy * whole->stride_h - whole->pad_top;
        const int64_t first = qc_min(qc_max(top, 0), whole->height);
        const int64_t end = qc_max(first, qc_min(top + (strip - 1) * whole->stride_h + reach, whole->height));
        provide_rows(job, &c, &held, image, first, end);
        qc_conv2d p = *whole;
        p.batch = 1;
        p.height = end - first;
        p.pad_top = first - top;
        p.out_height = strip;
        qc_depthwise_u8_s8c_u8(&c, &p, held.rows, NULL, job->out + row * whole->out_width * whole->channels);
        row += strip;
    }
}

void qc_pointwise_depthwise_u8(const qc_context *c, const qc_pointwise_depthwise *p, const uint8_t *x, uint8_t *out)
{
    const chain_job job = {c, p, x, out};
    const qc_conv2d *a = &p->pointwise, *b = &p->depthwise;
    const int64_t pixels = a->batch * a->height * a->width, results = b->batch * b->out_height * b->out_width;
    qc_parallel(c, chain_task, &job,
                pixels * a->channels * a->out_channels + results * b->channels * b->kernel_h * b->kernel_w * 4);
}
