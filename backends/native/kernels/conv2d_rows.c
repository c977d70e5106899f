/* Convolution by kernel rows, where the taps of a row are neighbours.
 *
 * Pixels lie side by side, so the taps of a kernel row are one run of kernel_w * channels bytes: the run
 * takes the place of the channels, and the kernel's rows that of the taps. Few channels then fill whole
 * dot products, and tiles change their row pointers less often. Each part copies the image rows that it
 * reads into scratch memory with the padding around them, so that no tile meets a border. */
#include "conv.h"

#include <string.h>

typedef struct {
    const qc_context *context;
    const qc_conv2d_rows *p;
    const uint8_t *x, *residual;
    uint8_t *out;
    int by_panels;
} rows_job;

/* Copies `count` rows of an image from row `top` on, which may lie outside. */
static void copy_rows(const qc_conv2d *p, const uint8_t *image, int64_t top, int64_t count, int64_t row_bytes,
                      uint8_t *out)
{
    const int64_t pixels = row_bytes / p->channels, left = qc_min(p->pad_left, pixels);
    const int64_t width = qc_max(0, qc_min(p->width, pixels - left));
    const size_t before = (size_t)(left * p->channels), inside = (size_t)(width * p->channels);
    for (int64_t y = top; y < top + count; y++, out += row_bytes) {
        if (y < 0 || y >= p->height) {
            memset(out, p->pad_value, (size_t)row_bytes);
            continue;
        }
        memset(out, p->pad_value, before);
        memcpy(out + before, image + y * p->width * p->channels, inside);
        memset(out + before + inside, p->pad_value, (size_t)row_bytes - before - inside);
    }
}

/* Where the pixels of a block lie in the copy: `from` and those behind it, then the last one again. */
static void point_pixels(const qc_conv2d *p, const uint8_t *copy, int64_t row_bytes, int64_t from,
                         qc_row_block *block)
{
    int64_t oy = from / p->out_width, ox = from % p->out_width;
    const int64_t step = p->stride_w * p->channels;
    for (int64_t r = 0; r < block->count; oy++, ox = 0) {
        const uint8_t *row = copy + oy * p->stride_h * row_bytes + ox * step;
        const int64_t run = qc_min(p->out_width - ox, block->count - r);
        for (int64_t i = 0; i < run; i++)
            block->base[r + i] = row + i * step;
        r += run;
    }
    for (int64_t r = 0; r < QC_TILE_ROWS; r++)
        block->base[block->count + r] = block->base[block->count - 1];
}

static void rows_task(const void *argument, int index, int count)
{
    const rows_job *job = argument;
    const qc_conv2d *p = &job->p->conv;
    const int64_t rows = p->batch * p->out_height, reach = (p->kernel_h - 1) * p->dilation_h + 1;
    const int64_t row_bytes = ((p->out_width - 1) * p->stride_w + p->kernel_w) * p->channels;
    uint8_t *copy = job->context->scratch + job->p->scratch + index * job->p->scratch_step;
    int64_t offsets[p->kernel_h];
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
        offsets[ky] = ky * p->dilation_h * row_bytes;
    qc_conv_job conv = qc_plan_conv(p, rows * p->out_width);
    conv.taps = p->kernel_h;
    conv.k4 = qc_depth_quads(p->kernel_w * p->channels);
    conv.tap_offsets = offsets;
    conv.residual = job->residual;
    conv.out = job->out;
    qc_row_block block;
    block.all_inside = 1;
    int64_t row = job->by_panels ? 0 : rows * index / count;
    const int64_t last = job->by_panels ? rows : rows * (index + 1) / count;
    const int64_t first_panel = job->by_panels ? conv.panels * index / count : 0;
    const int64_t last_panel = job->by_panels ? conv.panels * (index + 1) / count : conv.panels;
    while (row < last) {
        const int64_t image = row / p->out_height, oy = row % p->out_height;
        const int64_t taken = qc_min(qc_min(job->p->rows_at_once, last - row), p->out_height - oy);
        copy_rows(p, job->x + image * p->height * p->width * p->channels, oy * p->stride_h - p->pad_top,
                  (taken - 1) * p->stride_h + reach, row_bytes, copy);
        const int64_t pixels = taken * p->out_width, blocks = (pixels + QC_BLOCK_ROWS - 1) / QC_BLOCK_ROWS;
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t from = pixels * i / blocks;
            block.count = pixels * (i + 1) / blocks - from;
            point_pixels(p, copy, row_bytes, from, &block);
            qc_multiply_rows(&conv, &block, row * p->out_width + from, first_panel, last_panel);
        }
        row += taken;
    }
}

void qc_conv2d_rows_u8_s8c_u8(const qc_context *c, const qc_conv2d_rows *p, const qc_code *x,
                               const qc_code *residual, qc_code *out)
{
    const qc_conv2d *conv = &p->conv;
    const int64_t depth = conv->kernel_h * conv->kernel_w * conv->channels;
    const int64_t weights = depth * conv->out_channels, inputs = conv->batch * conv->height * conv->width * conv->channels;
    const rows_job job = {c, p, (const uint8_t *)x, (const uint8_t *)residual, (uint8_t *)out,
                          conv->out_channels >= 2 * QC_PANEL * c->threads && weights > inputs};
    qc_parallel(c, rows_task, &job, conv->batch * conv->out_height * conv->out_width * weights);
}
