/* Convolution as a GEMM over row pointers (no im2col), and depthwise convolution row by row.
 *
 * A linear layer is a 1x1 convolution over an image of one column. */
#include "arith.h"
#include "tile.h"

#include <string.h>

#define BLOCK_ROWS 48 /* a multiple of every tile height */
#define TAP_CHUNK 32

typedef struct {
    const qc_conv2d *p;
    const uint8_t *x, *padding, *residual;
    uint8_t *out;
    int32_t *out_i32;
    int64_t rows, panels, k4;
    int by_panels, pointwise;
} conv_job;

/* Where a block of output rows reads its input. */
typedef struct {
    const uint8_t *base[BLOCK_ROWS + QC_TILE_ROWS]; /* pixel under tap (0, 0); may lie outside the image */
    int64_t y[BLOCK_ROWS + QC_TILE_ROWS], x[BLOCK_ROWS + QC_TILE_ROWS];
    uint8_t inside[BLOCK_ROWS + QC_TILE_ROWS]; /* whether all taps of this and the next rows are inside */
} row_block;

/* Locates `count` rows and QC_TILE_ROWS more, which repeat the last one. */
static void locate_rows(const conv_job *job, int64_t row, int64_t count, row_block *block)
{
    const qc_conv2d *p = job->p;
    const int64_t all = count + QC_TILE_ROWS;
    if (job->pointwise) {
        for (int64_t r = 0; r < all; r++)
            block->base[r] = job->x + (row + qc_min(r, count - 1)) * p->channels;
        memset(block->inside, 1, sizeof block->inside);
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
    int64_t run = 0;
    for (int64_t r = all - 1; r >= 0; r--) {
        run = block->inside[r] ? run + 1 : 0;
        block->inside[r] = run >= QC_TILE_ROWS;
    }
}

/* Byte offsets of taps first .. first + count - 1 from the pixel under tap (0, 0). */
static void locate_taps(const qc_conv2d *p, int64_t channel, int64_t first, int64_t count, int64_t *offsets)
{
    for (int64_t t = 0; t < count; t++) {
        const int64_t dy = (first + t) / p->kernel_w * p->dilation_h, dx = (first + t) % p->kernel_w * p->dilation_w;
        offsets[t] = (dy * p->width + dx) * p->channels + channel;
    }
}

/* A pointer per tap and row for a tile that touches the border, the offsets included. */
static void point_rows(const conv_job *job, const row_block *block, int64_t r, int64_t first, int64_t count,
                       const int64_t *offsets, const uint8_t **pointers)
{
    const qc_conv2d *p = job->p;
    for (int64_t t = 0; t < count; t++) {
        const int64_t dy = (first + t) / p->kernel_w * p->dilation_h, dx = (first + t) % p->kernel_w * p->dilation_w;
        for (int i = 0; i < QC_TILE_ROWS; i++) {
            const int hit = (uint64_t)(block->y[r + i] + dy) < (uint64_t)p->height &&
                            (uint64_t)(block->x[r + i] + dx) < (uint64_t)p->width;
            pointers[t * QC_TILE_ROWS + i] = hit ? block->base[r + i] + offsets[t] : job->padding;
        }
    }
}

static void finish_rows(const conv_job *job, const int32_t *acc, int rows, int64_t row, int64_t group,
                        int64_t panel, int64_t columns)
{
    const qc_conv2d *p = job->p;
    const int64_t per_group = p->out_channels / p->groups;
    const int64_t padded = (group * (job->panels / p->groups) + panel) * QC_PANEL;
    const int64_t at = row * p->out_channels + group * per_group + panel * QC_PANEL;
    if (job->out) {
        const uint8_t *residual = job->residual ? job->residual + at : NULL;
        qc_tile_requant_u8(&p->epilogue, acc, rows, padded, columns, residual, job->out + at, p->out_channels);
        return;
    }
    for (int r = 0; r < rows; r++)
        for (int64_t n = 0; n < columns; n++)
            job->out_i32[at + r * p->out_channels + n] = acc[r * QC_TILE_LD + n];
}

/* A block of rows times `count` (<= 4) neighbouring panels of one group. */
static void multiply_block(const conv_job *job, const row_block *block, int64_t row, int64_t rows,
                           int64_t group, int64_t panel, int count)
{
    const qc_conv2d *p = job->p;
    const int64_t taps = p->kernel_h * p->kernel_w, per_panel = taps * job->k4 * 4 * QC_PANEL;
    const int64_t columns = qc_min(count * QC_PANEL, p->out_channels / p->groups - panel * QC_PANEL);
    const int64_t packed = group * (job->panels / p->groups) + panel;
    const int8_t *weight = p->weight + packed * per_panel;
    static const int64_t no_offsets[TAP_CHUNK];
    const uint8_t *pointers[TAP_CHUNK * QC_TILE_ROWS];
    int64_t offsets[TAP_CHUNK];
    int32_t acc[QC_TILE_ROWS * QC_TILE_LD] __attribute__((aligned(64)));
    qc_tile tile = {.k4 = job->k4, .panel_stride = per_panel};
    const int64_t channel = group * (p->channels / p->groups);
    locate_taps(p, channel, 0, qc_min(TAP_CHUNK, taps), offsets);
    for (int64_t r = 0; r < rows;) {
        const int height = qc_tile_rows(rows - r, count);
        for (int64_t first = 0; first < taps; first += TAP_CHUNK) {
            tile.taps = qc_min(TAP_CHUNK, taps - first);
            tile.weight = weight + first * job->k4 * 4 * QC_PANEL;
            tile.bias = first ? NULL : p->epilogue.bias + packed * QC_PANEL;
            if (taps > TAP_CHUNK)
                locate_taps(p, channel, first, tile.taps, offsets);
            if (block->inside[r]) {
                tile.rows = block->base + r;
                tile.row_step = 0;
                tile.offsets = offsets;
            } else {
                point_rows(job, block, r, first, tile.taps, offsets, pointers);
                tile.rows = pointers;
                tile.row_step = QC_TILE_ROWS;
                tile.offsets = no_offsets;
            }
            qc_tile_u8_s8_i32(&tile, height, count, acc);
        }
        finish_rows(job, acc, (int)qc_min(height, rows - r), row + r, group, panel, columns);
        r += height;
    }
}

static void conv_task(const void *argument, int index, int count)
{
    const conv_job *job = argument;
    const int64_t per_group = job->panels / job->p->groups;
    int64_t row = 0, row_end = job->rows, first = 0, last = job->panels;
    if (job->by_panels) {
        first = job->panels * index / count;
        last = job->panels * (index + 1) / count;
    } else {
        const int64_t tiles = (job->rows + QC_TILE_ROWS - 1) / QC_TILE_ROWS;
        row = qc_min(job->rows, tiles * index / count * QC_TILE_ROWS);
        row_end = qc_min(job->rows, tiles * (index + 1) / count * QC_TILE_ROWS);
    }
    row_block block;
    for (; row < row_end; row += BLOCK_ROWS) {
        const int64_t rows = qc_min(BLOCK_ROWS, row_end - row);
        locate_rows(job, row, rows, &block);
        for (int64_t panel = first; panel < last;) {
            const int64_t group = panel / per_group;
            const int64_t left = qc_min(last, (group + 1) * per_group) - panel;
            const int64_t parts = (left + QC_TILE_PANELS - 1) / QC_TILE_PANELS;
            const int width = (int)((left + parts - 1) / parts);
            multiply_block(job, &block, row, rows, group, panel - group * per_group, width);
            panel += width;
        }
    }
}

static void run_conv(const qc_context *context, const qc_conv2d *p, const uint8_t *x, const uint8_t *residual,
                     uint8_t *out, int32_t *out_i32)
{
    const int64_t in_group = p->channels / p->groups, out_group = p->out_channels / p->groups;
    conv_job job = {.p = p, .x = x, .padding = context->scratch, .residual = residual, .out = out, .out_i32 = out_i32};
    job.rows = p->batch * p->out_height * p->out_width;
    job.panels = p->groups * ((out_group + QC_PANEL - 1) / QC_PANEL);
    job.k4 = (in_group + 3) / 4;
    const int64_t depth = p->kernel_h * p->kernel_w * in_group;
    job.pointwise = depth == in_group && p->stride_h == 1 && p->stride_w == 1 && p->pad_top == 0 && p->pad_left == 0 &&
                    p->out_height == p->height && p->out_width == p->width;
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

/* Taps of output pixel (oy, ox); a tap outside the image points into the padding row. */
static void point_taps(const conv_job *job, int64_t image, int64_t oy, int64_t ox, const uint8_t **taps)
{
    const qc_conv2d *p = job->p;
    int64_t t = 0;
    for (int64_t ky = 0; ky < p->kernel_h; ky++) {
        const int64_t y = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
        for (int64_t kx = 0; kx < p->kernel_w; kx++) {
            const int64_t x = ox * p->stride_w - p->pad_left + kx * p->dilation_w;
            const int inside = (uint64_t)y < (uint64_t)p->height && (uint64_t)x < (uint64_t)p->width;
            taps[t++] = inside ? job->x + ((image * p->height + y) * p->width + x) * p->channels : job->padding;
        }
    }
    for (; t % 4; t++)
        taps[t] = job->padding;
}

static void depthwise_task(const void *argument, int index, int count)
{
    const conv_job *job = argument;
    const qc_conv2d *p = job->p;
    const int64_t reach = (p->kernel_w - 1) * p->dilation_w;
    /* Columns whose taps all lie inside the image horizontally. */
    const int64_t left = qc_min(p->out_width, (p->pad_left + p->stride_w - 1) / p->stride_w);
    const int64_t room = p->width - 1 - reach + p->pad_left;
    const int64_t right = room < 0 ? left : qc_max(left, qc_min(p->out_width, room / p->stride_w + 1));
    const uint8_t *taps[p->kernel_h * p->kernel_w + 4];
    for (int64_t row = job->rows * index / count; row < job->rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height, oy = row % p->out_height;
        for (int64_t ox = 0; ox < p->out_width;) {
            const int64_t run = ox == left && right > left ? right - left : 1;
            const int64_t at = (row * p->out_width + ox) * p->channels;
            point_taps(job, image, oy, ox, taps);
            qc_depthwise_row(p, taps, run, p->stride_w * p->channels, job->residual ? job->residual + at : NULL,
                             job->out + at);
            ox += run;
        }
    }
}

void qc_depthwise_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const uint8_t *x, const uint8_t *residual,
                            uint8_t *out)
{
    conv_job job = {.p = p, .x = x, .padding = c->scratch, .residual = residual, .out = out};
    job.rows = p->batch * p->out_height;
    const int64_t span = (p->out_width - 1) * p->stride_w + 1;
    memset(c->scratch, p->pad_value, (size_t)(span * p->channels + QC_SLACK));
    /* A depthwise multiply-accumulate costs about four of a GEMM. */
    qc_parallel(c, depthwise_task, &job,
                job.rows * p->out_width * p->channels * p->kernel_h * p->kernel_w * 4);
}
