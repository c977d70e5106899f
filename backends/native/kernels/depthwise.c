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

/* The scratch memory of one part of the job, and the strip that it is at. */
typedef struct {
    qc_channels channels;
    uint8_t *ring, *pixels;
    int64_t image, first, height; /* first row of results of set 0, rows of results of a set */
    int64_t next;                 /* first row of the strip that the ring has not yet taken */
} depthwise_part;

static depthwise_part divide_scratch(const depthwise_job *job, int index)
{
    const qc_depthwise *d = job->d;
    uint8_t *at = job->context->scratch + d->scratch + index * d->scratch_step;
    depthwise_part part = {.channels = {.d = d}};
    part.channels.weight = (int8_t *)at;
    part.channels.row = at += QC_BLOCK_WEIGHTS;
    part.ring = at += d->row_bytes;
    part.pixels = at + d->ring_rows * d->row_bytes;
    return part;
}

/* Computes the block's channels of rows y .. end - 1, QC_BLOCK / sets bytes per pixel. */
static void expand_rows(const depthwise_job *job, const depthwise_part *part, int64_t y, int64_t end, uint8_t *pixels)
{
    const qc_conv2d *p = job->pointwise;
    const int64_t first = (part->image * p->height + y) * p->width, last = (part->image * p->height + end) * p->width;
    const int64_t panel = part->channels.block / QC_PANEL;
    qc_conv_job conv = qc_plan_conv(p, p->batch * p->height * p->width);
    conv.x = job->x;
    conv.out = pixels;
    conv.out_stride = QC_BLOCK / part->channels.sets;
    conv.out_origin = first * conv.out_stride + part->channels.block;
    qc_row_block rows;
    for (int64_t row = first; row < last; row += rows.count) {
        qc_locate_rows(&conv, row, qc_min(QC_BLOCK_ROWS, last - row), &rows);
        qc_multiply_rows(&conv, &rows, row, panel, panel + (part->channels.lanes + QC_PANEL - 1) / QC_PANEL);
    }
}

/* Adds `count` rows of the strip to the ring, for every set. */
static void add_rows(const depthwise_job *job, depthwise_part *part, int64_t count)
{
    const qc_depthwise *d = job->d;
    const qc_conv2d *p = &d->conv;
    const int64_t sets = part->channels.sets, step = job->pointwise ? QC_BLOCK / sets : p->channels;
    const uint8_t *pixels[QC_MOST_SETS];
    int64_t top[QC_MOST_SETS];
    for (int64_t s = 0; s < sets; s++) {
        top[s] = (part->first + s * part->height) * p->stride_h - p->pad_top + part->next;
        const int64_t y = qc_min(qc_max(top[s], 0), p->height), end = qc_max(y, qc_min(top[s] + count, p->height));
        pixels[s] = job->x + (part->image * p->height + y) * p->width * p->channels + part->channels.block;
        if (job->pointwise) {
            uint8_t *rows = part->pixels + s * d->rows_at_once * p->width * step;
            expand_rows(job, part, y, end, rows);
            pixels[s] = rows;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *row[QC_MOST_SETS];
        for (int64_t s = 0; s < sets; s++) {
            const int inside = top[s] + i >= 0 && top[s] + i < p->height;
            row[s] = inside ? pixels[s] : NULL;
            pixels[s] += inside ? p->width * step : 0;
        }
        qc_depthwise_lay_out(&part->channels, row, step, part->ring + (part->next + i) % d->ring_rows * d->row_bytes);
    }
    part->next += count;
}

static void strip_rows(const depthwise_job *job, depthwise_part *part, int64_t last)
{
    const qc_depthwise *d = job->d;
    const qc_conv2d *p = &d->conv;
    const int64_t reach = (p->kernel_h - 1) * p->dilation_h + 1, all = (part->height - 1) * p->stride_h + reach;
    const uint8_t *rows[p->kernel_h];
    part->next = 0;
    for (int64_t i = 0; i < part->height; i++) {
        const int64_t top = i * p->stride_h;
        part->next = qc_max(part->next, top);
        while (part->next < top + reach)
            add_rows(job, part, qc_min(d->rows_at_once, all - part->next));
        for (int64_t ky = 0; ky < p->kernel_h; ky++)
            rows[ky] = part->ring + (top + ky * p->dilation_h) % d->ring_rows * d->row_bytes;
        uint8_t *out[QC_MOST_SETS];
        const uint8_t *residual[QC_MOST_SETS];
        for (int64_t s = 0; s < part->channels.sets; s++) {
            const int64_t oy = part->first + s * part->height + i;
            const int64_t at = (part->image * p->out_height + oy) * p->out_width * p->channels + part->channels.block;
            out[s] = oy < last ? job->out + at : NULL;
            residual[s] = job->residual && oy < last ? job->residual + at : NULL;
        }
        qc_depthwise_row(&part->channels, rows, residual, out);
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
        const int64_t first = p->out_height * strip / job->strips, last = p->out_height * (strip + 1) / job->strips;
        part.channels.block = block * QC_BLOCK;
        part.channels.lanes = qc_min(QC_BLOCK, p->channels - block * QC_BLOCK);
        part.channels.sets = qc_depthwise_sets(p, part.channels.lanes);
        /* Sets read the rows between them twice: strips must be tall. */
        while (part.channels.sets > 1 && last - first < part.channels.sets * 2 * p->kernel_h)
            part.channels.sets /= 2;
        part.image = image;
        part.first = first;
        part.height = (last - first + part.channels.sets - 1) / part.channels.sets;
        qc_depthwise_begin(&part.channels);
        strip_rows(job, &part, last);
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

void qc_depthwise_u8_s8c_u8(const qc_context *c, const qc_depthwise *p, const qc_code *x, const qc_code *residual,
                            qc_code *out)
{
    depthwise_job job = {.context = c, .d = p, .x = (const uint8_t *)x, .residual = (const uint8_t *)residual,
                         .out = (uint8_t *)out};
    run_depthwise(&job, depthwise_cost(&p->conv));
}

void qc_pointwise_depthwise_u8(const qc_context *c, const qc_pointwise_depthwise *p, const qc_code *x, qc_code *out)
{
    const qc_conv2d *a = &p->pointwise;
    depthwise_job job = {.context = c, .d = &p->depthwise, .pointwise = a, .x = (const uint8_t *)x, .out = (uint8_t *)out};
    run_depthwise(&job, depthwise_cost(&p->depthwise.conv) +
                            a->batch * a->height * a->width * a->channels * a->out_channels);
}
