/* The scalar arithmetic of the integer IR: the definition that every vector path must equal. */
#ifndef QC_ARITH_H
#define QC_ARITH_H

#include "qc.h"

static inline int64_t qc_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t qc_max(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int32_t qc_clamp(int32_t v, int32_t low, int32_t high)
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* Floor division by a positive number. */
static inline int64_t qc_floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q * b > a ? q - 1 : q;
}

/* SR(saturate(x), m, s): one rounding, half towards +infinity (2 <= s <= 62, m >= 0). */
static inline int32_t qc_scale(int64_t x, int64_t multiplier, int32_t shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    x = x < -half ? -half : x;
    x = x > half - 1 ? half - 1 : x;
    return (int32_t)((x * multiplier + half) >> shift);
}

/* ADD2 of two stored values; k = {za, ma, zb, mb, shift, zo, qmin, qmax}. */
static inline qc_code qc_add2(int32_t a, int32_t b, const int32_t *k)
{
    const int32_t acc = (a - k[0]) * k[1] + (b - k[2]) * k[3] + (1 << (k[4] - 1));
    return (qc_code)qc_clamp(k[5] + (acc >> k[4]), k[6], k[7]);
}

static inline qc_code qc_finish(const qc_epilogue *e, int32_t acc, int64_t channel, const qc_code *residual)
{
    int32_t v = qc_scale(acc, e->multiplier[channel], e->shift[channel]) + e->zero_point;
    qc_code y = (qc_code)qc_clamp(v, e->qmin, e->qmax);
    if (e->table)
        y = e->table[(uint8_t)y];
    return residual ? qc_add2(y, *residual, e->add) : y;
}

/* Finishes rows of sums that lie QC_TILE_LD apart, one by one; arrays of the epilogue count from `channel`. */
static inline void qc_finish_rows(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel,
                                  int64_t columns, const uint8_t *residual, uint8_t *out, int64_t stride)
{
    for (int r = 0; r < rows; r++)
        for (int64_t n = 0; n < columns; n++) {
            const int64_t at = r * stride + n;
            const qc_code *more = residual ? (const qc_code *)residual + at : NULL;
            out[at] = (uint8_t)qc_finish(e, sums[r * QC_TILE_LD + n], channel + n, more);
        }
}

#endif
