/* Packing of columns and sums of rows for products of activations on Helium. */
#ifndef QC_MATMUL_HELIUM_H
#define QC_MATMUL_HELIUM_H

#include "helium.h"

/* Packs column `n` of a panel, whose bytes lie `step` apart, as tile_helium.c wants it; returns their sum. */
static inline int32_t pack_column(const int8_t *x, int32_t step, int32_t depth, int32_t n, int8_t *panel)
{
    const int32_t padded = (depth + 3) & ~3, whole = padded & ~15, rest = padded - whole;
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
    int8_t *out = panel + n / 2 * 2 * padded + n % 2 * 16;
    int32_t sum = 0;
    for (int32_t k = 0; k < depth; k += 4, x += 4 * step) {
        const int32x4_t v = vldrbq_gather_offset_z_s32(x, places, vctp32q((uint32_t)(depth - k)));
        if (k == whole)
            out = panel + n / 2 * 2 * padded + 2 * whole + n % 2 * rest;
        sum = vaddvaq_s32(sum, v);
        vstrbq_s32(out, v);
        out += k < whole && k % 16 == 12 ? 20 : 4;
    }
    return sum;
}

/* The sum of a row of bytes. */
static inline int32_t sum_row(const uint8_t *row, int64_t depth)
{
    int32_t sum = 0;
    for (int32_t left = (int32_t)depth; left > 0; left -= 16, row += 16)
        sum = vaddvaq_p_s8(sum, vld1q_s8((const int8_t *)row), vctp8q((uint32_t)left));
    return sum;
}

#endif
