/* What turns sums into bytes on Helium: requantization, table and residual in 32-bit lanes. */
#include "level.h"

#if defined(QC_HELIUM)
#include "helium.h"
#include "tile.h"

/* Columns by four; `rows` is a constant where there are four, and `only_clamps` always. */
QC_INLINE void requant_rows(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                            const uint8_t *residual, uint8_t *out, int64_t stride, int only_clamps)
{
    const int32x4_t low = vdupq_n_s32(e->qmin), high = vdupq_n_s32(e->qmax);
    const int32_t *m = e->multiplier + channel, *s = e->right + channel, *l = e->left ? e->left + channel : NULL;
    const int32_t zero_point = e->zero_point;
    for (int32_t left = (int32_t)columns; left > 0; left -= 4, sums += 4, out += 4, m += 4, s += 4) {
        const int32x4_t multiplier = vld1q_s32(m), right = vld1q_s32(s);
        const mve_pred16_t there = vctp32q((uint32_t)left);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            int32x4_t v = vld1q_s32(sums + r * QC_TILE_LD);
            if (!only_clamps && l)
                v = vqshlq_s32(v, vld1q_s32(l));
            v = vaddq_n_s32(requant_lanes(v, multiplier, right), zero_point);
            v = clamp_lanes(v, low, high);
            if (!only_clamps && e->table)
                v = look_up_lanes(e->table, v);
            if (!only_clamps && residual)
                v = sum_lanes(e->add, v, vldrbq_s32((const int8_t *)residual + r * stride));
            vstrbq_p_s32((int8_t *)out + r * stride, v, there);
        }
        if (!only_clamps && l)
            l += 4;
        if (!only_clamps && residual)
            residual += 4;
    }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    if (!e->right) /* no shifts of vectors give SR */
        qc_finish_rows(e, sums, rows, channel, columns, residual, out, stride);
    else if (e->table || residual || e->left)
        requant_rows(e, sums, rows, channel, columns, residual, out, stride, 0);
    else if (rows == 4)
        requant_rows(e, sums, 4, channel, columns, NULL, out, stride, 1);
    else
        requant_rows(e, sums, rows, channel, columns, NULL, out, stride, 1);
}
#else
typedef int qc_empty_translation_unit;
#endif
