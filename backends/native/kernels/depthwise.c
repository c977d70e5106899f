/* Depthwise convolution by blocks of channels, alone and behind a 1x1 convolution.
 *
 * The rows that a result row reads stand in a ring; each is laid out once. Behind a 1x1 convolution the
 * rows of the block are computed when the ring needs them, so the value between the two is never stored. */
#include "conv.h"
#include "depthwise.h"

#include <string.h>

typedef struct {
    const qc_context *context;
    const qc_depthwise *d;
    const qc_conv2d *pointwise;  /* NULL where the input is at hand */
    const uint8_t *x, *residual;
    uint8_t *out;
    int64_t blocks, strips;
} depthwise_job;

/* The scratch memory of one part of the job. */
typedef struct {
    qc_channels channels;
    uint8_t *padding, *ring, *pixels, *zero;
    int64_t next;                /* first row of the image that the ring has not yet taken */
} depthwise_part;

static depthwise_part divide_scratch(const depthwise_job *job, int index)
{
    const qc_depthwise *d = job->d;
    uint8_t *at = job->context->scratch + d->scratch + index * d->scratch_step;
    depthwise_part part = {.channels = {.d = d}};
    part.channels.weight = (int8_t *)at;
    part.channels.row = at += QC_BLOCK_WEIGHTS;
    part.padding = at += d->row_bytes;
    part.ring = at += d->row_bytes;
    part.pixels = at + d->ring_rows * d->row_bytes;
    return part;
}

/* Computes the block's channels of rows y .. end - 1 of an image, QC_BLOCK bytes per pixel. */
static void expand_rows(const depthwise_job *job, const depthwise_part *part, int64_t image, int64_t y, int64_t end)
{
    const qc_conv2d *p = job->pointwise;
    const int64_t first = (image * p->height + y) * p->width, last = (image * p->height + end) * p->width;
    const int64_t panel = part->channels.block / QC_PANEL;
    qc_conv_job conv = qc_plan_conv(p, p->batch * p->height * p->width);
    conv.x = job->x;
    conv.out = part->pixels;
    conv.out_stride = QC_BLOCK;
    conv.out_origin = first * QC_BLOCK + part->channels.block;
    qc_row_block rows;
    for (int64_t row = first; row < last; row += rows.count) {
        qc_locate_rows(&conv, row, qc_min(QC_BLOCK_ROWS, last - row), &rows);
        qc_multiply_rows(&conv, &rows, row, panel, panel + (part->channels.lanes + QC_PANEL - 1) / QC_PANEL);
    }
}

/* Lays out rows until all before `end` are in the ring. */
static void fill_ring(const depthwise_job *job, depthwise_part *part, int64_t image, int64_t end)
{
    const qc_depthwise *d = job->d;
    const qc_conv2d *p = &d->conv;
    while (part->next < end) {
        const int64_t y = part->next, count = qc_min(d->rows_at_once, p->height - y);
        const uint8_t *pixels = job->x + (image * p->height + y) * p->width * p->channels + part->channels.block;
        int64_t step = p->channels;
        if (job->pointwise) {
            expand_rows(job, part, image, y, y + count);
            pixels = part->pixels;
            step = QC_BLOCK;
        }
        for (int64_t i = 0; i < count; i++)
            qc_depthwise_lay_out(&part->channels, pixels + i * p->width * step, step,
                                 part->ring + (y + i) % d->ring_rows * d->row_bytes);
        part->next += count;
    }
}

static void strip_rows(const depthwise_job *job, depthwise_part *part, int64_t image, int64_t first, int64_t last)
{
    const qc_depthwise *d = job->d;
    const qc_conv2d *p = &d->conv;
    const uint8_t *rows[p->kernel_h];
    part->next = qc_max(0, first * p->stride_h - p->pad_top);
    for (int64_t oy = first; oy < last; oy++) {
        const int64_t top = oy * p->stride_h - p->pad_top, reach = (p->kernel_h - 1) * p->dilation_h;
        fill_ring(job, part, image, qc_min(p->height, top + reach + 1));
        for (int64_t ky = 0; ky < p->kernel_h; ky++) {
            const int64_t y = top + ky * p->dilation_h;
            const int inside = y >= 0 && y < p->height;
            rows[ky] = inside ? part->ring + y % d->ring_rows * d->row_bytes : part->padding;
        }
        const int64_t at = (image * p->out_height + oy) * p->out_width * p->channels + part->channels.block;
        qc_depthwise_row(&part->channels, rows, job->residual ? job->residual + at : NULL, job->out + at);
    }
}

static void depthwise_task(const void *argument, int index, int count)
{
    const depthwise_job *job = argument;
    const qc_conv2d *p = &job->d->conv;
    depthwise_part part = divide_scratch(job, index);
    const int64_t units = p->batch * job->strips * job->blocks;
    for (int64_t unit = units * index / count; unit < units * (index + 1) / count; unit++) {
        const int64_t block = unit % job->blocks, strip = unit / job->blocks % job->strips;
        const int64_t image = unit / job->blocks / job->strips;
        part.channels.block = block * QC_BLOCK;
        part.channels.lanes = qc_min(QC_BLOCK, p->channels - block * QC_BLOCK);
        qc_depthwise_begin(&part.channels);
        qc_depthwise_lay_out(&part.channels, NULL, 0, part.padding);
        strip_rows(job, &part, image, p->out_height * strip / job->strips, p->out_height * (strip + 1) / job->strips);
    }
}

/* Input rows that the busiest part works through when every image is cut into strips. */
static int64_t busiest_rows(const qc_conv2d *p, int64_t blocks, int64_t strips, int64_t threads)
{
    const int64_t height = (p->out_height + strips - 1) / strips;
    const int64_t rows = qc_min(p->height, (height - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1);
    return (p->batch * blocks * strips + threads - 1) / threads * rows;
}

/* Blocks are shared out; strips of rows as well where that pays for the rows that two strips read. */
static void run_depthwise(depthwise_job *job, int64_t cost)
{
    const qc_conv2d *p = &job->d->conv;
    const int64_t threads = job->context->threads;
    job->blocks = (p->channels + QC_BLOCK - 1) / QC_BLOCK;
    job->strips = qc_max(1, qc_min(threads, p->out_height));
    if (busiest_rows(p, job->blocks, 1, threads) <= busiest_rows(p, job->blocks, job->strips, threads))
        job->strips = 1;
    qc_parallel(job->context, depthwise_task, job, cost);
}

/* A depthwise multiply-accumulate costs about three of a GEMM. */
static int64_t depthwise_cost(const qc_conv2d *p)
{
    return p->batch * p->out_height * p->out_width * p->channels * p->kernel_h * p->kernel_w * 3;
}

void qc_depthwise_u8_s8c_u8(const qc_context *c, const qc_depthwise *p, const uint8_t *x, const uint8_t *residual,
                            uint8_t *out)
{
    depthwise_job job = {.context = c, .d = p, .x = x, .residual = residual, .out = out};
    run_depthwise(&job, depthwise_cost(&p->conv));
}

void qc_pointwise_depthwise_u8(const qc_context *c, const qc_pointwise_depthwise *p, const uint8_t *x, uint8_t *out)
{
    const qc_conv2d *a = &p->pointwise;
    depthwise_job job = {.context = c, .d = &p->depthwise, .pointwise = a, .x = x, .out = out};
    run_depthwise(&job, depthwise_cost(&p->depthwise.conv) +
                            a->batch * a->height * a->width * a->channels * a->out_channels);
}
