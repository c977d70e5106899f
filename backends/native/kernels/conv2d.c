/* Convolution as a GEMM over row pointers (no im2col). A linear layer is 1x1 over an image of one column. */
#include "conv.h"

#include <string.h>

#define SUM_ROWS (QC_SMALL ? 1 : QC_TILE_ROWS) /* rows of a tile whose sums are kept as int32 */

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
    block->runs = 1;
    block->run[0] = (qc_row_run){0, count, 0, job->taps};
    if (job->pointwise) {
        const uint8_t *pixel = job->x + row * p->channels;
#pragma GCC unroll 4
        for (int64_t r = 0; r < count; r++, pixel += p->channels)
            block->base[r] = pixel;
        for (int64_t r = count; r < all; r++)
            block->base[r] = pixel - p->channels;
        block->all_inside = 1;
        return;
    }
    block->all_inside = 0;
    int64_t image = row / (p->out_height * p->out_width);
    int64_t oy = row / p->out_width % p->out_height, ox = row % p->out_width;
    const int64_t last_y = p->height - 1 - (p->kernel_h - 1) * p->dilation_h;
    const int64_t last_x = p->width - 1 - (p->kernel_w - 1) * p->dilation_w;
    for (int64_t r = 0; r < all; r++) {
        const int64_t y = oy * p->stride_h - p->pad_top, x = ox * p->stride_w - p->pad_left;
        block->base[r] = job->x + ((image * p->height + y) * p->width + x) * p->channels;
        block->inside[r] = y >= 0 && y <= last_y && x >= 0 && x <= last_x;
        block->y[r] = (intptr_t)y;
        block->x[r] = (intptr_t)x;
        if (r < count - 1 && ++ox == p->out_width) {
            ox = 0;
            if (++oy == p->out_height) {
                oy = 0;
                image++;
            }
        }
    }
}

/* Where the rows of a tile read for a number of taps. */
typedef struct {
    const uint8_t *const *rows;
    int64_t row_step;
    const int64_t *offsets;
    int64_t tap_offsets[QC_TILE_TAPS];
    const uint8_t *pointers[QC_TILE_TAPS * QC_TILE_ROWS];
} tile_source;

/* A pointer per tap and row for a tile that touches the border, the offsets included. */
static void point_rows(const qc_conv_job *job, const qc_row_block *block, int64_t r, int64_t first, int64_t count,
                       tile_source *source)
{
    const qc_conv2d *p = job->p;
    const uintptr_t padding = (uintptr_t)job->padding;
    uintptr_t base[QC_TILE_ROWS];
    intptr_t y[QC_TILE_ROWS], x[QC_TILE_ROWS];
    memcpy(base, block->base + r, sizeof base);
    memcpy(y, block->y + r, sizeof y);
    memcpy(x, block->x + r, sizeof x);
    for (int64_t t = 0; t < count; t++) {
        const int64_t dy = (first + t) / p->kernel_w * p->dilation_h, dx = (first + t) % p->kernel_w * p->dilation_w;
        const uintptr_t offset = (uintptr_t)source->tap_offsets[t];
        uintptr_t pointer[QC_TILE_ROWS];
        for (int i = 0; i < QC_TILE_ROWS; i++) {
            const int hit =
                ((uint64_t)(y[i] + dy) < (uint64_t)p->height) & ((uint64_t)(x[i] + dx) < (uint64_t)p->width);
            pointer[i] = hit ? base[i] + offset : padding;
        }
        memcpy(source->pointers + t * QC_TILE_ROWS, pointer, sizeof pointer);
    }
}

static void locate_tile(const qc_conv_job *job, const qc_row_block *block, int64_t r, int height, int64_t first,
                        int64_t count, tile_source *source)
{
    static const int64_t no_offsets[QC_TILE_TAPS];
    int inside = 1;
    for (int i = 0; !block->all_inside && i < height; i++)
        inside &= block->inside[r + i];
    if (inside) {
        source->rows = block->base + r;
        source->row_step = 0;
        source->offsets = job->tap_offsets ? job->tap_offsets + first : source->tap_offsets;
        return;
    }
    point_rows(job, block, r, first, count, source);
    source->rows = source->pointers;
    source->row_step = QC_TILE_ROWS;
    source->offsets = no_offsets;
}

/* Panels first .. first + count - 1 of a group. */
typedef struct {
    int64_t group, first;
    int count;
} panel_range;

static int64_t panel_bytes(const qc_conv_job *job)
{
    return job->taps * job->k4 * 4 * QC_PANEL;
}

static int64_t first_channel(const qc_conv_job *job, panel_range panels)
{
    return panels.group * (job->p->out_channels / job->p->groups) + panels.first * QC_PANEL;
}

static void copy_sums(const qc_conv_job *job, const qc_tile *tile, int64_t row, int height, panel_range panels)
{
    int32_t *out = job->out_i32 + row * job->p->out_channels + first_channel(job, panels);
    for (int i = 0; i < height; i++)
        memcpy(out + i * job->p->out_channels, tile->sums + i * QC_TILE_LD, (size_t)tile->columns * sizeof *out);
}

static qc_tile describe_tile(const qc_conv_job *job, int64_t row, panel_range panels)
{
    const qc_conv2d *p = job->p;
    const int64_t per_group = p->out_channels / p->groups;
    const int64_t packed = panels.group * (job->panels / p->groups) + panels.first;
    const int64_t at = first_channel(job, panels), words = (job->taps * job->k4 + 63) / 64;
    return (qc_tile){
        .pitch = job->pitch,
        .k4 = job->k4,
        .weight = QC_WEIGHTS(p) + packed * panel_bytes(job),
        .panel_stride = panel_bytes(job),
        .unsaturated = p->unsaturated ? p->unsaturated + packed * (QC_PANEL / 8) * words : NULL,
        .unsaturated_stride = words,
        .start = p->epilogue.bias + packed * QC_PANEL,
        .epilogue = &p->epilogue,
        .channel = packed * QC_PANEL,
        .columns = qc_min(panels.count * QC_PANEL, per_group - panels.first * QC_PANEL),
        .out = job->out + (row * job->out_stride + at - job->out_origin),
        .out_stride = job->out_stride,
        .residual = job->residual ? job->residual + row * p->out_channels + at : NULL,
    };
}

/* Leaves out the taps that a run of rows does not need: what padding adds there becomes part of `start`. */
static void skip_taps(const qc_conv_job *job, const qc_row_run *run, qc_tile *tile, int panels, int32_t *start)
{
    tile->taps = run->taps;
    if (run->taps == job->taps)
        return;
    tile->weight += run->tap * job->k4 * 4 * QC_PANEL;
    if (tile->unsaturated)
        tile->unsaturated += run->tap * job->k4 / 64;
    memcpy(start, tile->start, (size_t)panels * QC_PANEL * sizeof *start);
    for (int64_t t = 0; t < job->taps; t++) {
        const int32_t *more = job->padded + t * job->panels * QC_PANEL + tile->channel;
        const int skipped = t < run->tap || t >= run->tap + run->taps;
        for (int n = 0; skipped && n < panels * QC_PANEL; n++)
            start[n] = (int32_t)((uint32_t)start[n] + (uint32_t)more[n]);
    }
    tile->start = start;
}

/* Rows of the next tile, of `left`: as many as their sums have room on the stack. */
static int tile_height(const qc_conv_job *job, int64_t left, int panels)
{
    return qc_tile_rows(job->out_i32 || job->taps > QC_TILE_TAPS ? qc_min(left, SUM_ROWS) : left, panels);
}

/* Computes a tile from all its taps at once, which are no more than QC_TILE_TAPS. */
static void compute_tile(const qc_conv_job *job, qc_tile *tile, const tile_source *source, int64_t row, int height,
                         panel_range panels, int32_t *sums)
{
    tile->rows = source->rows;
    tile->row_step = source->row_step;
    tile->offsets = source->offsets;
    if (!job->out_i32) {
        qc_tile_u8_s8(tile, height, panels.count);
        return;
    }
    tile->sums = sums;
    qc_tile_u8_s8(tile, height, panels.count);
    copy_sums(job, tile, row, height, panels);
}

/* Computes a tile from more taps than one call takes: sums go on from chunk to chunk. */
static void compute_large_tile(const qc_conv_job *job, const qc_row_block *block, int64_t r, int64_t row, int height,
                               panel_range panels, tile_source *source, int32_t *sums)
{
    const qc_conv2d *p = job->p;
    qc_tile tile = describe_tile(job, row, panels);
    for (int64_t first = 0; first < job->taps; first += QC_TILE_TAPS) {
        tile.taps = qc_min(QC_TILE_TAPS, job->taps - first);
        if (!job->tap_offsets)
            locate_taps(p, panels.group * (p->channels / p->groups), first, tile.taps, source->tap_offsets);
        locate_tile(job, block, r, height, first, tile.taps, source);
        tile.rows = source->rows;
        tile.row_step = source->row_step;
        tile.offsets = source->offsets;
        tile.sums = job->out_i32 || first + QC_TILE_TAPS < job->taps ? sums : NULL;
        qc_tile_u8_s8(&tile, height, panels.count);
        tile.weight += QC_TILE_TAPS * job->k4 * 4 * QC_PANEL;
        if (tile.unsaturated)
            tile.unsaturated += QC_TILE_TAPS / 64 * job->k4;
        tile.start = sums;
        tile.start_step = QC_TILE_LD;
    }
    if (job->out_i32)
        copy_sums(job, &tile, row, height, panels);
}

/* The panels from `panel` on that one tile of at most `widest` takes. */
static panel_range next_panels(const qc_conv_job *job, int64_t panel, int64_t last, int64_t widest)
{
    const int64_t per_group = job->panels / job->p->groups, group = panel / per_group;
    const int64_t left = qc_min(last, (group + 1) * per_group) - panel;
    const int64_t parts = (left + widest - 1) / widest;
    return (panel_range){group, panel - group * per_group, (int)((left + parts - 1) / parts)};
}

/* Most panels of a tile of a run: those of the border have few rows, which the lowest tiles do not divide. */
static int64_t widest_tile(const qc_conv_job *job, const qc_row_run *run)
{
    const int narrow = run->taps < job->taps && (job->widest > 3 || run->end - run->first >= QC_TILE_ROWS);
    return narrow ? qc_min(job->widest, 2) : job->widest;
}

/* Multiplies the rows of a run with the panels of one tile. `sums` has room for SUM_ROWS rows: of sums that are kept,
 * or of what sums start with where taps are left out. A job has either. */
static void multiply_run(const qc_conv_job *job, const qc_row_block *block, const qc_row_run *run, int64_t row,
                         panel_range panels, tile_source *source, int32_t *sums)
{
    qc_tile tile = describe_tile(job, row + run->first, panels);
    skip_taps(job, run, &tile, panels.count, sums);
    int64_t done = 0;
    if (job->taps <= QC_TILE_TAPS && block->all_inside && !job->out_i32) {
        locate_tile(job, block, run->first, 1, run->tap, run->taps, source);
        tile.rows = source->rows;
        tile.offsets = source->offsets;
        done = qc_tile_strip(&tile, run->end - run->first, panels.count);
        tile.out += done * tile.out_stride;
        if (tile.residual)
            tile.residual += done * tile.out_stride;
    }
    int height;
    for (int64_t r = run->first + done; r < run->end; r += height) {
        height = tile_height(job, run->end - r, panels.count);
        if (job->taps > QC_TILE_TAPS) {
            compute_large_tile(job, block, r, row + r, height, panels, source, sums);
            continue;
        }
        locate_tile(job, block, r, height, run->tap, run->taps, source);
        compute_tile(job, &tile, source, row + r, height, panels, sums);
        tile.out += height * tile.out_stride;
        if (tile.residual)
            tile.residual += height * tile.out_stride;
    }
}

/* Panels in the outer loop: their weights are read from afar once and stay near for all rows. */
static void multiply_by_panels(const qc_conv_job *job, const qc_row_block *block, int64_t row, int64_t first,
                               int64_t last)
{
    int32_t sums[SUM_ROWS * QC_TILE_LD] QC_ALIGNED;
    tile_source source;
    panel_range panels, part;
    for (int64_t panel = first; panel < last; panel += panels.count) {
        panels = next_panels(job, panel, last, job->widest);
        if (job->taps <= QC_TILE_TAPS && !job->tap_offsets)
            locate_taps(job->p, panels.group * (job->p->channels / job->p->groups), 0, job->taps, source.tap_offsets);
        for (int64_t i = 0; i < block->runs; i++)
            for (int64_t at = panel; at < panel + panels.count; at += part.count) {
                part = next_panels(job, at, panel + panels.count, widest_tile(job, &block->run[i]));
                multiply_run(job, block, &block->run[i], row, part, &source, sums);
            }
    }
}

/* Rows in the outer loop: where each of them reads is found out once for all panels. The channels of a
 * group are as far from those of the first one in the padding as in the image. */
static void multiply_by_rows(const qc_conv_job *job, const qc_row_block *block, const qc_row_run *run, int64_t row,
                             int64_t first, int64_t last)
{
    const int64_t in_group = job->p->channels / job->p->groups, most = widest_tile(job, run);
    int32_t sums[SUM_ROWS * QC_TILE_LD] QC_ALIGNED;
    tile_source source;
    panel_range panels;
    int height;
    if (!job->tap_offsets)
        locate_taps(job->p, 0, 0, job->taps, source.tap_offsets);
    const int widest = (int)qc_min(qc_min(most, last - first), job->panels / job->p->groups);
    for (int64_t r = run->first; r < run->end; r += height) {
        height = tile_height(job, run->end - r, widest);
        locate_tile(job, block, r, height, run->tap, run->taps, &source);
        const int64_t *offsets = source.offsets;
        int64_t shifted[QC_TILE_TAPS];
        for (int64_t panel = first; panel < last; panel += panels.count) {
            panels = next_panels(job, panel, last, most);
            if (panels.group) {
                for (int64_t t = 0; t < run->taps; t++)
                    shifted[t] = offsets[t] + panels.group * in_group;
                source.offsets = shifted;
            }
            qc_tile tile = describe_tile(job, row + r, panels);
            skip_taps(job, run, &tile, panels.count, sums);
            compute_tile(job, &tile, &source, row + r, height, panels, sums);
        }
    }
}

void qc_multiply_rows(const qc_conv_job *job, const qc_row_block *block, int64_t row, int64_t first, int64_t last)
{
    const int near = (last - first) * panel_bytes(job) <= QC_NEAR_WEIGHTS;
    /* Strips take one range of panels after another. */
    const int64_t panels = qc_min(job->widest, last - first);
    const int strips = block->all_inside && panels * panel_bytes(job) <= QC_STRIP_WEIGHTS;
    if (job->taps == 1 || job->taps > QC_TILE_TAPS || !near || strips) {
        multiply_by_panels(job, block, row, first, last);
        return;
    }
    for (int64_t i = 0; i < block->runs; i++)
        multiply_by_rows(job, block, &block->run[i], row, first, last);
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
    const int64_t rows = row_end - row, most = QC_SMALL ? QC_BLOCK_ROWS : job->p->block_rows;
    for (int64_t i = 0, blocks = (rows + most - 1) / most; i < blocks; i++) {
        const int64_t from = row + qc_block_start(rows, i, blocks), to = row + qc_block_start(rows, i + 1, blocks);
        qc_locate_rows(job, from, to - from, &block);
        qc_multiply_rows(job, &block, from, first, last);
    }
}

qc_conv_job qc_plan_conv(const qc_conv2d *p, int64_t rows)
{
    const int64_t in_group = p->channels / p->groups, out_group = p->out_channels / p->groups;
    qc_conv_job job = {.p = p, .rows = rows, .taps = p->kernel_h * p->kernel_w, .k4 = qc_depth_quads(in_group)};
    job.panels = p->groups * ((out_group + QC_PANEL - 1) / QC_PANEL);
    job.pointwise = job.taps == 1 && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 && p->pad_left == 0 &&
                    p->out_height == p->height && p->out_width == p->width;
    job.pitch = job.pointwise ? p->channels : 0;
    job.widest = QC_SMALL ? qc_min(p->widest, QC_TILE_PANELS) : p->widest;
    job.out_stride = p->out_channels;
    return job;
}

static void run_conv(const qc_context *context, const qc_conv2d *p, const uint8_t *x, const uint8_t *residual,
                     uint8_t *out, int32_t *out_i32)
{
    qc_conv_job job = qc_plan_conv(p, p->batch * p->out_height * p->out_width);
    if (job.rows == 1 && job.pointwise && p->groups == 1) {
        if (out_i32)
            qc_gemv_u8_s8c_i32(context, p, (const qc_code *)x, out_i32);
        else
            qc_gemv_u8_s8c_u8(context, p, (const qc_code *)x, (const qc_code *)residual, (qc_code *)out);
        return;
    }
    job.x = x;
    job.padding = context->scratch;
    job.residual = residual;
    job.out = out;
    job.out_i32 = out_i32;
    const int64_t depth = job.taps * p->channels / p->groups;
    const int64_t weight_bytes = depth * p->out_channels, input_bytes = p->batch * p->height * p->width * p->channels;
    job.by_panels = job.panels >= 2 * context->threads &&
                    (weight_bytes > input_bytes || job.rows < 4 * QC_TILE_ROWS * context->threads);
    memset(context->scratch, p->pad_value, (size_t)(p->channels + QC_SLACK));
    qc_parallel(context, conv_task, &job, job.rows * depth * p->out_channels);
}

void qc_conv2d_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const qc_code *x, const qc_code *residual,
                         qc_code *out)
{
    run_conv(c, p, (const uint8_t *)x, (const uint8_t *)residual, (uint8_t *)out, NULL);
}

void qc_conv2d_u8_s8c_i32(const qc_context *c, const qc_conv2d *p, const qc_code *x, int32_t *out)
{
    run_conv(c, p, (const uint8_t *)x, NULL, NULL, out);
}
