/* What turns sums into bytes on cores with DSP instructions, column by column. */
#include "level.h"

#if defined(QC_DSP)
#include "dsp.h"
#include "tile.h"

/* The rows of a column; `only_clamps`, `rounds` and `is_whole` are constants. */
QC_INLINE void requant_column(const qc_epilogue *e, const channel_scaling *k, const int32_t *sums, int rows,
                              const qc_code *residual, uint8_t *out, int32_t stride, int only_clamps, int rounds,
                              int is_whole)
{
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++, out += stride) {
        int32_t y = clamp_code(scale_upper_half(k, sums[r * QC_TILE_LD], rounds), e, is_whole);
        if (!only_clamps && e->table)
            y = e->table[(uint8_t)y];
        if (!only_clamps && residual)
            y = qc_add2(y, residual[r * stride], e->add);
        *out = (uint8_t)y;
    }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    const int only_clamps = !e->table && !residual, is_whole = is_whole_range(e);
    const int32_t step = (int32_t)stride;
    for (int32_t n = 0; n < (int32_t)columns; n++) {
        const qc_code *more = residual ? (const qc_code *)residual + n : NULL;
        if (!scales_upper_half(e->shift[channel + n])) {
            for (int r = 0; r < rows; r++)
                out[n + r * step] = (uint8_t)qc_finish(e, sums[r * QC_TILE_LD + n], channel + n,
                                                       more ? more + r * step : NULL);
            continue;
        }
        const channel_scaling k = channel_scaling_of(e, channel + n);
        if (rows == QC_TILE_ROWS && k.right && only_clamps && is_whole)
            requant_column(e, &k, sums + n, QC_TILE_ROWS, NULL, out + n, step, 1, 0, 1);
        else if (k.right == 0)
            requant_column(e, &k, sums + n, rows, more, out + n, step, 0, 1, 0);
        else if (only_clamps && is_whole)
            requant_column(e, &k, sums + n, rows, NULL, out + n, step, 1, 0, 1);
        else if (only_clamps)
            requant_column(e, &k, sums + n, rows, NULL, out + n, step, 1, 0, 0);
        else
            requant_column(e, &k, sums + n, rows, more, out + n, step, 0, 0, 0);
    }
}
#else
typedef int qc_empty_translation_unit;
#endif
