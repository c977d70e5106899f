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

#if !defined(QC_AVX512) && !defined(QC_HELIUM) && !defined(QC_DSP)
int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes)
{
    (void)p;
    (void)lanes;
    return 1;
}

int64_t qc_depthwise_laid_rows(const qc_conv2d *p)
{
    (void)p;
    return 1;
}
#endif

#if !defined(QC_AVX512) && !defined(QC_AVX2) && !defined(QC_HELIUM) && !defined(QC_DSP)
/* Weights of kernel rows follow one another in quads of rows, or of taps where codes are signed. */
static const int8_t *weight_of_tap(const qc_conv2d *p, const int8_t *weight, int64_t ky, int64_t kx)
{
#if QC_SIGNED_CODES
    return weight + (ky * ((p->kernel_w + 3) / 4) + kx / 4) * 256 + kx % 4;
#else
    return weight + (ky / 4 * p->kernel_w + kx) * 256 + ky % 4;
#endif
}

void qc_depthwise_row_any(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residuals,
                          uint8_t *const *outs)
{
    const qc_conv2d *p = &c->d->conv;
    const qc_code *residual = (const qc_code *)residuals[0];
    uint8_t *out = outs[0];
    const qc_epilogue *e = &p->epilogue;
#if QC_SIGNED_CODES
    const int64_t quads = (p->kernel_w + 3) / 4 * p->kernel_h;
#else
    const int64_t quads = (p->kernel_h + 3) / 4 * p->kernel_w;
#endif
    const int8_t *weight = p->weight + c->block * 4 * quads;
    for (int64_t i = 0; i < p->out_width; i++)
        for (int64_t first = 0; first < c->lanes; first += 16) {
            int32_t acc[16];
            const int64_t lanes = qc_min(16, c->lanes - first);
            memcpy(acc, e->bias + c->block + first, sizeof acc);
            for (int64_t ky = 0; ky < p->kernel_h; ky++)
                for (int64_t kx = 0; kx < p->kernel_w; kx++) {
                    const int64_t pixel = i * p->stride_w + kx * p->dilation_w;
                    const qc_code *x = (const qc_code *)rows[ky * QC_MOST_SETS] + pixel * QC_BLOCK + first;
                    const int8_t *w = weight_of_tap(p, weight, ky, kx) + first;
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

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *out)
{
    qc_depthwise_lay_out_pixels(c, rows[0], step, out);
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    (void)top;
    (void)step;
    qc_depthwise_row_any(c, rows, residuals, outs);
}
#endif
#endif
