/* Depthwise convolution over pixels of QC_BLOCK bytes, in portable C. */
#include "arith.h"
#include "depthwise.h"
#include "level.h"

#include <string.h>

void qc_depthwise_lay_out_pixels(const qc_channels *c, const uint8_t *pixels, int64_t step, uint8_t *row)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t count = c->d->row_bytes / QC_BLOCK, left = qc_min(p->pad_left, count);
    const int64_t width = pixels ? qc_max(0, qc_min(p->width, count - left)) : 0;
    memset(row, p->pad_value, (size_t)(left * QC_BLOCK));
    for (int64_t i = 0; i < width; i++)
        memcpy(row + (left + i) * QC_BLOCK, pixels + i * step, (size_t)c->lanes);
    memset(row + (left + width) * QC_BLOCK, p->pad_value, (size_t)((count - left - width) * QC_BLOCK));
}

#if !defined(QC_AVX512)
int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes)
{
    (void)p;
    (void)lanes;
    return 1;
}
#endif

#if !defined(QC_AVX512) && !defined(QC_AVX2)
void qc_depthwise_row_any(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residuals,
                          uint8_t *const *outs)
{
    const qc_conv2d *p = &c->d->conv;
    const qc_code *residual = (const qc_code *)residuals[0];
    uint8_t *out = outs[0];
    const qc_epilogue *e = &p->epilogue;
    const int64_t groups = (p->kernel_w + 3) / 4;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
    for (int64_t i = 0; i < p->out_width; i++)
        for (int64_t first = 0; first < c->lanes; first += 16) {
            int32_t acc[16];
            const int64_t lanes = qc_min(16, c->lanes - first);
            memcpy(acc, e->bias + c->block + first, sizeof acc);
            for (int64_t ky = 0; ky < p->kernel_h; ky++)
                for (int64_t kx = 0; kx < p->kernel_w; kx++) {
                    const qc_code *x =
                        (const qc_code *)rows[ky] + (i * p->stride_w + kx * p->dilation_w) * QC_BLOCK + first;
                    const int8_t *w = weight + (ky * groups + kx / 4) * 256 + first + kx % 4;
                    for (int64_t n = 0; n < lanes; n++)
                        acc[n] += x[n] * w[(n / 4) * 64 + (n % 4) * 4];
                }
            for (int64_t n = 0; n < lanes; n++) {
                const int64_t at = i * p->channels + first + n;
                out[at] = (uint8_t)qc_finish(e, acc[n], c->block + first + n, residual ? residual + at : NULL);
            }
        }
}

#if !defined(QC_NEON)
void qc_depthwise_begin(const qc_channels *c)
{
    (void)c;
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *pixels, int64_t step, uint8_t *row)
{
    qc_depthwise_lay_out_pixels(c, pixels[0], step, row);
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residuals,
                      uint8_t *const *outs)
{
    qc_depthwise_row_any(c, rows, residuals, outs);
}
#endif
#endif
