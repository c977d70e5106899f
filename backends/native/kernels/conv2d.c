/* Convolution as a GEMM over row pointers (no im2col). A linear layer is a 1x1 convolution over an image
 * of one column. */
#include "conv.h"

#include <string.h>

/* Byte offsets of taps first .. first + count - 1 from the pixel under tap (0, 0). */
static void locate_taps(const qc_conv2d *p, int64_t channel, int64_t first, int64_t count, int64_t *offsets)
{
    for (int64_t t = 0; t < count; t++) {
        const int64_t dy = (first + t) / p->kernel_w * p->dilation_h, dx = (first + t) % p->kernel_w * p->dilation_w;
        offsets[t] = (dy * p->width + dx) * p->channels + channel;
    }
}

void qc_locate_rows(const qc_conv_job *job, int64_t row, int64_t count, qc_row_block *block)
{
    const qc_conv2d *p = job->p;
    const int64_t all = count + QC_TILE_ROWS;
    block->count = count;
    if (job->pointwise) {
        for (int64_t r = 0; r < all; r++)
            block->base[r] = job->x + (row + qc_min(r, count - 1)) * p->channels;
        memset(block->inside, 1, (size_t)all);
        return;
    }
    int64_t image = row / (p->out_height * p->out_width);
    int64_t oy = row / p->out_width % p->out_height, ox = row % p->out_width;
    const int64_t last_y = p->height - 1 - (p->kernel_h - 1) * p->dilation_h;
    const int64_t last_x = p->width - 1 - (p->kernel_w - 1) * p->dilation_w;
    for (int64_t r = 0; r < all; r++) {
        const int64_t y = oy * p->stride_h - p->pad_top, x = ox * p->stride_w - p->pad_left;
        block->base[r] = job->x + ((image * p->height + y) * p->width + x) * p->channels;
        block->inside[r] = y >= 0 && y <= last_y && x >= 0 && x <= last_x;
        block->y[r] = y;
        block->x[r] = x;
        if (r < count - 1 && ++ox == p->out_width) {
            ox = 0;
            if (++oy == p->out_height) {
                oy = 0;
                image++;
            }
        }
    }
}

static int all_inside(const qc_row_block *block, int64_t r, int rows)
{
    int inside = 1;
    for (int i = 0; i < rows; i++)
        inside &= block->inside[r + i];
    return inside;
}

/* A pointer per tap and row for a tile that touches the border, the offsets included. */
static void point_rows(const qc_conv_job *job, const qc_row_block *block, int64_t r, int64_t first, int64_t count,
                       const int64_t *offsets, const uint8_t **pointers)
{
    const qc_conv2d *p = job->p;
    const uintptr_t padding = (uintptr_t)job->padding;
    uintptr_t base[QC_TILE_ROWS];
    int64_t y[QC_TILE_ROWS], x[QC_TILE_ROWS];
    memcpy(base, block->base + r, sizeof base);
    memcpy(y, block->y + r, sizeof y);
    memcpy(x, block->x + r, sizeof x);
    for (int64_t t = 0; t < count; t++) {
        const int64_t dy = (first + t) / p->kernel_w * p->dilation_h, dx = (first + t) % p->kernel_w * p->dilation_w;
        const uintptr_t offset = (uintptr_t)offsets[t];
        uintptr_t pointer[QC_TILE_ROWS];
        for (int i = 0; i < QC_TILE_ROWS; i++) {
            const int hit = ((uint64_t)(y[i] + dy) < (uint64_t)p->height) & ((uint64_t)(x[i] + dx) < (uint64_t)p->width);
            pointer[i] = hit ? base[i] + offset : padding;
        }
        memcpy(pointers + t * QC_TILE_ROWS, pointer, sizeof pointer);
    }
}

void qc_multiply_block(const qc_conv_job *job, const qc_row_block *block, int64_t row, int64_t group, int64_t panel,
                       int count)
{
    const qc_conv2d *p = job->p;
    const int64_t taps = job->taps, per_panel = taps * job->k4 * 4 * QC_PANEL;
    const int64_t per_group = p->out_channels / p->groups, packed = group * (job->panels / p->groups) + panel;
    const int8_t *weight = p->weight + packed * per_panel;
    static const int64_t no_offsets[QC_TAP_CHUNK];
    const uint8_t *pointers[QC_TAP_CHUNK * QC_TILE_ROWS];
    int64_t offsets[QC_TAP_CHUNK];
    int32_t sums[QC_TILE_ROWS * QC_TILE_LD] __attribute__((aligned(64)));
    const int64_t channel = group * (p->channels / p->groups);
    const int64_t at = group * per_group + panel * QC_PANEL;
    const int64_t columns = qc_min(count * QC_PANEL, per_group - panel * QC_PANEL);
    qc_tile tile = {.k4 = job->k4, .panel_stride = per_panel, .epilogue = &p->epilogue, .channel = packed * QC_PANEL,
                    .columns = columns, .out_stride = job->out_stride};
    if (!job->tap_offsets)
        locate_taps(p, channel, 0, qc_min(QC_TAP_CHUNK, taps), offsets);
    for (int64_t r = 0; r < block->count;) {
        const int height = qc_tile_rows(block->count - r, count);
        const int inside = all_inside(block, r, height);
        tile.out = job->out + ((row + r) * job->out_stride + at - job->out_origin);
        tile.residual = job->residual ? job->residual + (row + r) * p->out_channels + at : NULL;
        for (int64_t first = 0; first < taps; first += QC_TAP_CHUNK) {
            tile.taps = qc_min(QC_TAP_CHUNK, taps - first);
            tile.weight = weight + first * job->k4 * 4 * QC_PANEL;
            tile.start = first ? sums : p->epilogue.bias + packed * QC_PANEL;
            tile.start_step = first ? QC_TILE_LD : 0;
            tile.sums = job->out_i32 || first + QC_TAP_CHUNK < taps ? sums : NULL;
            if (taps > QC_TAP_CHUNK)
                locate_taps(p, channel, first, tile.taps, offsets);
            tile.rows = inside ? block->base + r : pointers;
            tile.row_step = inside ? 0 : QC_TILE_ROWS;
            tile.offsets = !inside ? no_offsets : job->tap_offsets ? job->tap_offsets : offsets;
            if (!inside)
                point_rows(job, block, r, first, tile.taps, offsets, pointers);
            qc_tile_u8_s8(&tile, height, count);
        }
        for (int i = 0; job->out_i32 && i < height; i++)
            memcpy(job->out_i32 + (row + r + i) * p->out_channels + at, sums + i * QC_TILE_LD,
                   (size_t)columns * sizeof *sums);
        r += height;
    }
}

void qc_multiply_rows(const qc_conv_job *job, const qc_row_block *block, int64_t row, int64_t first, int64_t last)
{
    const int64_t per_group = job->panels / job->p->groups;
    for (int64_t panel = first; panel < last;) {
        const int64_t group = panel / per_group;
        const int64_t left = qc_min(last, (group + 1) * per_group) - panel;
        const int64_t parts = (left + job->widest - 1) / job->widest;
        const int width = (int)((left + parts - 1) / parts);
        qc_multiply_block(job, block, row, group, panel - group * per_group, width);
        panel += width;
    }
}

/* Shares the panels out where the weights are the larger part of the work's memory, else the rows. */
static void conv_task(const void *argument, int index, int count)
{
    const qc_conv_job *job = argument;
    int64_t row = 0, row_end = job->rows, first = 0, last = job->panels;
    if (job->by_panels) {
        first = job->panels * index / count;
        last = job->panels * (index + 1) / count;
    } else {
        row = job->rows * index / count;
        row_end = job->rows * (index + 1) / count;
    }
    qc_row_block block;
    const int64_t blocks = (row_end - row + QC_BLOCK_ROWS - 1) / QC_BLOCK_ROWS;
    for (int64_t i = 0, rows = row_end - row; i < blocks; i++) {
        const int64_t from = row + rows * i / blocks, to = row + rows * (i + 1) / blocks;
        qc_locate_rows(job, from, to - from, &block);
        qc_multiply_rows(job, &block, from, first, last);
    }
}

qc_conv_job qc_plan_conv(const qc_conv2d *p, int64_t rows)
{
    const int64_t in_group = p->channels / p->groups, out_group = p->out_channels / p->groups;
    qc_conv_job job = {.p = p, .rows = rows, .taps = p->kernel_h * p->kernel_w, .k4 = (in_group + 3) / 4};
    job.panels = p->groups * ((out_group + QC_PANEL - 1) / QC_PANEL);
    job.pointwise = job.taps == 1 && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 && p->pad_left == 0 &&
                    p->out_height == p->height && p->out_width == p->width;
    job.widest = p->widest;
    job.out_stride = p->out_channels;
    return job;
}

static void run_conv(const qc_context *context, const qc_conv2d *p, const uint8_t *x, const uint8_t *residual,
                     uint8_t *out, int32_t *out_i32)
{
    qc_conv_job job = qc_plan_conv(p, p->batch * p->out_height * p->out_width);
    job.x = x;
    job.padding = context->scratch;
    job.residual = residual;
    job.out = out;
    job.out_i32 = out_i32;
    const int64_t depth = job.taps * p->channels / p->groups;
    const int64_t weight_bytes = depth * p->out_channels, input_bytes = p->batch * p->height * p->width * p->channels;
    job.by_panels = job.panels >= 2 * context->threads &&
                    (weight_bytes > input_bytes || job.rows < 4 * QC_TILE_ROWS * context->threads);
    memset(context->scratch, p->pad_value, (size_t)(job.k4 * 4 + QC_SLACK));
    qc_parallel(context, conv_task, &job, job.rows * depth * p->out_channels);
}

void qc_conv2d_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const uint8_t *x, const uint8_t *residual,
                         uint8_t *out)
{
    run_conv(c, p, x, residual, out, NULL);
}

void qc_conv2d_u8_s8c_i32(const qc_context *c, const qc_conv2d *p, const uint8_t *x, int32_t *out)
{
    run_conv(c, p, x, NULL, NULL, out);
}
