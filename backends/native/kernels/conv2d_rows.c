/* Convolution by kernel rows, where the taps of a row are neighbours.
 *
 * Pixels lie side by side, so the taps of a kernel row are one run of kernel_w * channels bytes: the run
 * takes the place of the channels, and the kernel's rows that of the taps. Few channels then fill whole
 * dot products, and tiles change their row pointers less often. Each part copies the image rows that it
 * reads into scratch memory with the padding around them, so that no tile meets a border. */
#include "conv.h"

#include <string.h>

#define GATHERED 16 /* bytes that gather_windows copies at a time */

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

/* The taps of an output row that lie inside the image, all of them where none may be left out. */
static qc_row_run taps_of_row(const qc_conv2d *p, const qc_conv_job *conv, int64_t oy)
{
    const int64_t top = oy * p->stride_h - p->pad_top, step = p->dilation_h;
    const int64_t tap = top < 0 ? (step - 1 - top) / step : 0;
    const int64_t end = top < p->height ? qc_min(conv->taps, (p->height - 1 - top) / step + 1) : 0;
    const int can_skip = conv->padded && tap < end && tap * conv->k4 % QC_SKIPPED_STEPS == 0;
    return can_skip ? (qc_row_run){0, 0, tap, end - tap} : (qc_row_run){0, 0, 0, conv->taps};
}

/* Divides a block of pixels from `from` on into runs of equal taps; the last run takes what is left. */
static void find_runs(const qc_conv2d *p, const qc_conv_job *conv, int64_t oy, int64_t from, qc_row_block *block)
{
    block->runs = 0;
    for (int64_t at = 0; at < block->count;) {
        const int64_t y = (from + at) / p->out_width, end = qc_min(block->count, (y + 1) * p->out_width - from);
        qc_row_run run = taps_of_row(p, conv, oy + y), *previous = &block->run[qc_max(block->runs - 1, 0)];
        run.first = at;
        run.end = end;
        if (block->runs && previous->tap == run.tap && previous->taps == run.taps) {
            previous->end = end;
        } else if (block->runs == QC_BLOCK_RUNS) {
            *previous = (qc_row_run){previous->first, block->count, 0, conv->taps};
            return;
        } else {
            block->run[block->runs++] = run;
        }
        at = end;
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

/* Where the windows of a block lie: from window `from` on, then the last one again. */
static void point_windows(const qc_conv2d_rows *p, const uint8_t *windows, int64_t from, qc_row_block *block)
{
    block->runs = 1;
    block->run[0] = (qc_row_run){0, block->count, 0, 1};
    for (int64_t r = 0; r < block->count + QC_TILE_ROWS; r++)
        block->base[r] = windows + (from + qc_min(r, block->count - 1)) * p->window;
}

/* Writes the windows of a row of results: what their kernel rows cover, one after another. Rows are copied in
 * whole blocks: what is too much is written over by the next row, or meets weights of 0. */
QC_INLINE void gather_row(const qc_conv2d_rows *p, const uint8_t *copy, int64_t row_bytes, int64_t kernel_h,
                          int64_t run, uint8_t *windows)
{
    const int64_t step = p->conv.stride_w * p->conv.channels, next = p->conv.dilation_h * row_bytes;
    for (int64_t ox = 0; ox < p->conv.out_width; ox++)
        for (int64_t ky = 0; ky < kernel_h; ky++)
            for (int64_t i = 0; i < run; i += GATHERED)
                memcpy(windows + ox * p->window + ky * run + i, copy + ox * step + ky * next + i, GATHERED);
}

static void gather_windows(const qc_conv2d_rows *p, const uint8_t *copy, int64_t row_bytes, int64_t count,
                           uint8_t *windows)
{
    const qc_conv2d *conv = &p->conv;
    const int64_t run = conv->kernel_w * conv->channels;
    for (int64_t oy = 0; oy < count; oy++, copy += conv->stride_h * row_bytes, windows += conv->out_width * p->window) {
        if (!QC_SMALL && conv->kernel_h == 3 && run == 9) /* the first layer of most networks for images */
            gather_row(p, copy, row_bytes, 3, 9, windows);
        else
            gather_row(p, copy, row_bytes, conv->kernel_h, run, windows);
    }
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
    conv.padded = conv.taps <= QC_TILE_TAPS ? job->p->padded : NULL;
    uint8_t *const windows = copy + job->p->windows;
    if (job->p->window) {
        conv.taps = 1;
        conv.pitch = job->p->window;
        conv.k4 = qc_depth_quads(job->p->window);
        conv.padded = NULL;
    }
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
        if (job->p->window)
            gather_windows(job->p, copy, row_bytes, taken, windows);
        const int64_t pixels = taken * p->out_width, blocks = (pixels + QC_BLOCK_ROWS - 1) / QC_BLOCK_ROWS;
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t from = qc_block_start(pixels, i, blocks);
            block.count = qc_block_start(pixels, i + 1, blocks) - from;
            if (job->p->window) {
                point_windows(job->p, windows, from, &block);
            } else {
                point_pixels(p, copy, row_bytes, from, &block);
                find_runs(p, &conv, oy, from, &block);
            }
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
    const int64_t weights = depth * conv->out_channels;
    const int64_t inputs = conv->batch * conv->height * conv->width * conv->channels;
    const rows_job job = {c, p, (const uint8_t *)x, (const uint8_t *)residual, (uint8_t *)out,
                          conv->out_channels >= 2 * QC_PANEL * c->threads && weights > inputs};
    qc_parallel(c, rows_task, &job, conv->batch * conv->out_height * conv->out_width * weights);
}
