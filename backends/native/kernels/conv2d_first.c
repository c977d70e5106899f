/* Convolution of few channels, such as a network's first layer.
 *
 * Pixels lie side by side, so the taps of a kernel row are one run of kernel_w * channels bytes: the run
 * takes the place of the channels, and the kernel's rows that of the taps. Each part copies the image
 * rows that it reads into scratch memory with the padding around them. */
#include "conv.h"

#include <string.h>

typedef struct {
    const qc_context *context;
    const qc_conv2d_first *p;
    const uint8_t *x, *residual;
    uint8_t *out;
} first_job;

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

static void first_task(const void *argument, int index, int count)
{
    const first_job *job = argument;
    const qc_conv2d *p = &job->p->conv;
    const int64_t rows = p->batch * p->out_height, reach = (p->kernel_h - 1) * p->dilation_h + 1;
    const int64_t row_bytes = ((p->out_width - 1) * p->stride_w + p->kernel_w) * p->channels;
    uint8_t *copy = job->context->scratch + job->p->scratch + index * job->p->scratch_step;
    int64_t offsets[p->kernel_h];
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
        offsets[ky] = ky * p->dilation_h * row_bytes;
    qc_conv_job conv = qc_plan_conv(p, rows * p->out_width);
    conv.taps = p->kernel_h;
    conv.k4 = (p->kernel_w * p->channels + 3) / 4;
    conv.tap_offsets = offsets;
    conv.residual = job->residual;
    conv.out = job->out;
    qc_row_block block;
    memset(block.inside, 1, sizeof block.inside);
    const int64_t last = rows * (index + 1) / count;
    for (int64_t row = rows * index / count; row < last;) {
        const int64_t image = row / p->out_height, oy = row % p->out_height;
        const int64_t taken = qc_min(qc_min(job->p->rows_at_once, last - row), p->out_height - oy);
        copy_rows(p, job->x + image * p->height * p->width * p->channels, oy * p->stride_h - p->pad_top,
                  (taken - 1) * p->stride_h + reach, row_bytes, copy);
        for (int64_t at = 0, end = taken * p->out_width; at < end; at += block.count) {
            block.count = qc_min(QC_BLOCK_ROWS, end - at);
            for (int64_t r = 0; r < block.count + QC_TILE_ROWS; r++) {
                const int64_t pixel = at + qc_min(r, block.count - 1);
                block.base[r] = copy + pixel / p->out_width * p->stride_h * row_bytes +
                                pixel % p->out_width * p->stride_w * p->channels;
            }
            qc_multiply_rows(&conv, &block, row * p->out_width + at, 0, conv.panels);
        }
        row += taken;
    }
}

void qc_conv2d_first_u8_s8c_u8(const qc_context *c, const qc_conv2d_first *p, const uint8_t *x,
                               const uint8_t *residual, uint8_t *out)
{
    const qc_conv2d *conv = &p->conv;
    const first_job job = {c, p, x, residual, out};
    qc_parallel(c, first_task, &job,
                conv->batch * conv->out_height * conv->out_width * conv->kernel_h * conv->kernel_w * conv->channels *
                    conv->out_channels);
}
