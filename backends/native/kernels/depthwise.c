/* Depthwise convolution by blocks of channels, alone and behind a 1x1 convolution.
 *
 * Behind a 1x1 convolution the rows of a block are computed when they are needed, into a ring, so the value
 * between the two is never stored. Where the instruction set lays rows out, these stand in a ring too; each
 * is laid out once. */
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
    int64_t laid_rows;           /* rows of the image that stand together in the ring of laid-out rows */
    int64_t laid_ring, pixel_ring; /* entries of that ring, rows of that of the 1x1 convolution */
} depthwise_job;

/* The scratch memory of one part of the job, and the strip that it is at. */
typedef struct {
    qc_channels channels;
    uint8_t *ring, *pixels;       /* rows that are laid out; rows of the 1x1 convolution, by sets */
    int64_t image, first, height; /* first row of results of set 0, rows of results of a set */
    int64_t rows;                 /* of the strip of a set: those that its results read */
    int64_t next, laid;           /* rows of the strip from `next` on, entries from `laid` on are not there yet */
    int64_t slot;                 /* of entry `laid` in its ring */
    int64_t padding;              /* rows of padding above, which are not to divide the rows of the image */
} depthwise_part;

static depthwise_part divide_scratch(const depthwise_job *job, int index)
{
    const qc_depthwise *d = job->d;
    uint8_t *at = job->context->scratch + d->scratch + index * d->scratch_step;
    depthwise_part part = {.channels = {.d = d}};
    part.channels.weight = (int8_t *)at;
    part.channels.row = at += QC_BLOCK_WEIGHTS;
    part.ring = at += d->buffer_bytes;
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

/* Row of the image that is row y of the strip of a set; it may lie outside. */
static int64_t image_row(const depthwise_job *job, const depthwise_part *part, int64_t set, int64_t y)
{
    const qc_conv2d *p = &job->d->conv;
    return (part->first + set * part->height) * p->stride_h - p->pad_top + y;
}

/* Bytes from a pixel of a row to the next. */
static int64_t pixel_step(const depthwise_job *job, const depthwise_part *part)
{
    return job->pointwise ? QC_BLOCK / part->channels.sets : job->d->conv.channels;
}

/* First pixel of row y of the strip of a set; NULL for a row of padding. */
static uint8_t *row_of_pixels(const depthwise_job *job, const depthwise_part *part, int64_t set, int64_t y)
{
    const qc_conv2d *p = &job->d->conv;
    const int64_t row = image_row(job, part, set, y), ring = job->pixel_ring;
    if (row < 0 || row >= p->height)
        return NULL;
    if (job->pointwise)
        return part->pixels + (set * ring + (y - part->padding) % ring) * p->width * pixel_step(job, part);
    return (uint8_t *)job->x + (part->image * p->height + row) * p->width * p->channels + part->channels.block;
}

/* Computes rows of the 1x1 convolution up to row y of the strips; no step of it passes the ring's end. */
static void add_rows(const depthwise_job *job, depthwise_part *part, int64_t y)
{
    const qc_depthwise *d = job->d;
    while (job->pointwise && part->next <= y) {
        part->next = qc_max(part->next, part->padding);
        const int64_t at = (part->next - part->padding) % job->pixel_ring;
        const int64_t count = qc_min(qc_min(d->rows_at_once, job->pixel_ring - at), part->rows - part->next);
        for (int64_t s = 0; s < part->channels.sets; s++) {
            const int64_t top = image_row(job, part, s, part->next), end = qc_min(top + count, d->conv.height);
            const int64_t first = qc_max(top, 0);
            if (first < end)
                expand_rows(job, part, first, end, row_of_pixels(job, part, s, part->next + first - top));
        }
        part->next += count;
    }
}

/* Entry i of the ring of laid-out rows, at most as many before `laid` as it has. */
static uint8_t *laid_row(const depthwise_job *job, const depthwise_part *part, int64_t i)
{
    const int64_t slot = part->slot - (part->laid - i);
    return part->ring + (slot < 0 ? slot + job->laid_ring : slot) * job->d->row_bytes * job->laid_rows;
}

/* Lays out rows up to row y of the strips. */
static void lay_out_rows(const depthwise_job *job, depthwise_part *part, int64_t y)
{
    for (; part->laid * job->laid_rows <= y; part->laid++) {
        const int64_t first = part->laid * job->laid_rows, sets = part->channels.sets;
        const uint8_t *rows[QC_MOST_LAID * QC_MOST_SETS];
        add_rows(job, part, qc_min(first + job->laid_rows, part->rows) - 1);
        for (int64_t r = 0; r < job->laid_rows; r++)
            for (int64_t s = 0; s < sets; s++)
                rows[r * QC_MOST_SETS + s] = row_of_pixels(job, part, s, first + r);
        qc_depthwise_lay_out(&part->channels, rows, pixel_step(job, part), laid_row(job, part, part->laid));
        part->slot = part->slot + 1 < job->laid_ring ? part->slot + 1 : 0;
    }
}

static void strip_rows(const depthwise_job *job, depthwise_part *part, int64_t last)
{
    const qc_depthwise *d = job->d;
    const qc_conv2d *p = &d->conv;
    const int64_t reach = (p->kernel_h - 1) * p->dilation_h + 1, sets = part->channels.sets;
    const uint8_t *rows[p->kernel_h * QC_MOST_SETS];
    part->rows = (part->height - 1) * p->stride_h + reach;
    part->next = part->laid = part->slot = 0;
    for (int64_t i = 0; i < part->height; i++) {
        const int64_t top = i * p->stride_h, end = top + reach;
        part->next = qc_max(part->next, top);
        if (job->laid_rows) {
            part->laid = qc_max(part->laid, top / job->laid_rows);
            lay_out_rows(job, part, end - 1);
            int64_t n = 0;
            for (int64_t y = top / job->laid_rows; y * job->laid_rows < end; y += p->dilation_h, n += QC_MOST_SETS)
                rows[n] = laid_row(job, part, y);
        } else {
            add_rows(job, part, end - 1);
            for (int64_t y = top, n = 0; y < end; y += p->dilation_h, n += QC_MOST_SETS)
                for (int64_t s = 0; s < sets; s++)
                    rows[n + s] = row_of_pixels(job, part, s, y);
        }
        uint8_t *out[QC_MOST_SETS];
        const uint8_t *residual[QC_MOST_SETS];
        for (int64_t s = 0; s < sets; s++) {
            const int64_t oy = part->first + s * part->height + i;
            const int64_t at = (part->image * p->out_height + oy) * p->out_width * p->channels + part->channels.block;
            out[s] = oy < last ? job->out + at : NULL;
            residual[s] = job->residual && oy < last ? job->residual + at : NULL;
        }
        qc_depthwise_row(&part->channels, rows, top, pixel_step(job, part), residual, out);
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
        const int at_once = job->d->rows_at_once >= p->height && first == 0 && part.channels.sets == 1;
        part.padding = at_once ? p->pad_top : 0;
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
    job->laid_rows = qc_depthwise_laid_rows(p);
    /* Rows that are laid out together may come from two steps of the 1x1 convolution where these are odd. */
    job->pixel_ring = job->d->rows_at_once * (job->laid_rows == 2 && job->d->rows_at_once % 2 ? 2 : 1);
    job->laid_ring = job->laid_rows == 2 ? (p->kernel_h + 2) / 2 : job->d->ring_rows;
    if (!job->laid_rows)
        job->pixel_ring = job->d->ring_rows;
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
    depthwise_job job = {.context = c, .d = &p->depthwise, .pointwise = a, .x = (const uint8_t *)x,
                         .out = (uint8_t *)out};
    run_depthwise(&job, depthwise_cost(&p->depthwise.conv) +
                            a->batch * a->height * a->width * a->channels * a->out_channels);
}
