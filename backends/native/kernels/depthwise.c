/* Depthwise convolution, row by row. */
#include "arith.h"
#include "tile.h"

#include <string.h>

typedef struct {
    const qc_conv2d *p;
    const uint8_t *x, *padding, *residual;
    uint8_t *out;
    int64_t rows;
} depthwise_job;

/* Taps of output pixel (oy, ox); a tap outside the image points into the padding row. */
static void point_taps(const depthwise_job *job, int64_t image, int64_t oy, int64_t ox, const uint8_t **taps)
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
    const depthwise_job *job = argument;
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
    depthwise_job job = {.p = p, .x = x, .padding = c->scratch, .residual = residual, .out = out};
    job.rows = p->batch * p->out_height;
    const int64_t span = (p->out_width - 1) * p->stride_w + 1;
    memset(c->scratch, p->pad_value, (size_t)(span * p->channels + QC_SLACK));
    /* A depthwise multiply-accumulate costs about four of a GEMM. */
    qc_parallel(c, depthwise_task, &job,
                job.rows * p->out_width * p->channels * p->kernel_h * p->kernel_w * 4);
}
