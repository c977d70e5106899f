/* Depthwise convolution on microcontrollers: pixels are read where they stand, by a table of what the taps of a
 * pixel cover, in which padding is a pixel of its own. Nothing is laid out, so no scratch memory is needed. */
#ifndef QC_DEPTHWISE_SMALL_H
#define QC_DEPTHWISE_SMALL_H

#include "arith.h"
#include "depthwise.h"
#include "level.h"

#include <string.h>

#define MOST_TAPS 32 /* of a table; larger kernels take several one after another */

typedef struct {
    const int8_t *tap[MOST_TAPS];
    int8_t padding[QC_BLOCK];
} tap_table;

/* Weights of the block's channels, and bytes from those of a tap to those of the next. */
static inline const int8_t *weights_of(const qc_channels *c, int32_t *step)
{
    const qc_conv2d *p = &c->d->conv;
    *step = (int32_t)((p->channels + QC_PANEL - 1) / QC_PANEL * QC_PANEL);
    return p->columns + c->block;
}

/* What taps first .. first + count - 1 cover at pixel `ox`; returns whether no tap lies beside the image. */
static inline int point_taps(const qc_conv2d *p, const uint8_t *const *rows, int32_t step, int32_t ox, int32_t first,
                             int32_t count, tap_table *table)
{
    const int32_t width = (int32_t)p->width, kernel_w = (int32_t)p->kernel_w, apart = (int32_t)p->dilation_w;
    const int32_t left = ox * (int32_t)p->stride_w - (int32_t)p->pad_left;
    int32_t ky = first / kernel_w, kx = first % kernel_w;
    for (int32_t t = 0; t < count; t++) {
        const int8_t *row = (const int8_t *)rows[ky * QC_MOST_SETS];
        const int32_t x = left + kx * apart;
        table->tap[t] = row && x >= 0 && x < width ? row + x * step : table->padding;
        if (++kx == kernel_w) {
            kx = 0;
            ky++;
        }
    }
    return left >= 0 && left + (kernel_w - 1) * apart < width;
}

/* Moves every tap that is no padding, which are whole rows of it, to the next pixel. */
static inline void move_taps(tap_table *table, int32_t count, int32_t bytes)
{
    for (int32_t t = 0; t < count; t++)
        if (table->tap[t] != table->padding)
            table->tap[t] += bytes;
}

/* Computes the block's channels of a pixel from its first `count` taps, and more of them that start at `first`;
 * `sums` holds those of earlier tables. */
typedef struct {
    const qc_channels *channels;
    const int8_t *weight;
    int32_t weight_step;
    const uint8_t *residual;
    uint8_t *out;
    int32_t *sums;     /* of the block, where a table has not all taps; else NULL */
    int is_first, is_last;
} pixel_job;

static void add_taps(const pixel_job *job, const tap_table *table, int32_t count);

int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes)
{
    (void)p;
    (void)lanes;
    return 1;
}

int64_t qc_depthwise_laid_rows(const qc_conv2d *p)
{
    (void)p;
    return 0;
}

void qc_depthwise_begin(const qc_channels *c)
{
    (void)c;
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *out)
{
    qc_depthwise_lay_out_pixels(c, rows[0], step, out);
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    const qc_conv2d *p = &c->d->conv;
    const int32_t taps = (int32_t)(p->kernel_h * p->kernel_w), channels = (int32_t)p->channels;
    const int32_t move = (int32_t)(p->stride_w * step);
    int32_t sums[QC_BLOCK];
    tap_table table;
    pixel_job job = {.channels = c, .residual = residuals[0], .out = outs[0], .is_first = 1, .is_last = 1};
    (void)top;
    job.weight = weights_of(c, &job.weight_step);
    memset(table.padding, p->pad_value, sizeof table.padding);
    int inside = 0; /* whether the table is that of the pixel before, with no tap beside the image */
    for (int32_t ox = 0; ox < (int32_t)p->out_width; ox++, job.out += channels) {
        if (taps <= MOST_TAPS) {
            const int32_t right = ox * (int32_t)p->stride_w - (int32_t)p->pad_left +
                                  (int32_t)((p->kernel_w - 1) * p->dilation_w);
            if (inside && right < (int32_t)p->width)
                move_taps(&table, taps, move);
            else
                inside = point_taps(p, rows, (int32_t)step, ox, 0, taps, &table);
            add_taps(&job, &table, taps);
        } else {
            pixel_job part = job;
            part.sums = sums;
            for (int32_t first = 0; first < taps; first += MOST_TAPS) {
                const int32_t count = (int32_t)qc_min(MOST_TAPS, taps - first);
                point_taps(p, rows, (int32_t)step, ox, first, count, &table);
                part.is_first = first == 0;
                part.is_last = first + count == taps;
                add_taps(&part, &table, count);
                part.weight += count * part.weight_step;
            }
        }
        if (job.residual)
            job.residual += channels;
    }
}

#endif
