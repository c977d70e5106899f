/* The epilogue over stored sums on AVX-512. */
#include "level.h"

#if defined(QC_AVX512)
#include "arith.h"
#include "epilogue_avx512.h"
#include "tile.h"

/* Sums of one panel as codes that are not clamped yet. */
static inline vec requant_panel(const qc_epilogue *e, const int32_t *sums, int64_t channel)
{
    const vec x = vec_load(sums);
    if (e->scale)
        return requant_down(x, _mm512_loadu_ps(e->scale + channel), _mm512_set1_ps((float)e->zero_point + 0.5f));
    const vec_scaling scaling = load_scaling(e, channel);
    return vec_scale(&scaling, x);
}

/* Requantization and clamp alone, apart from the rest: gcc would set up tables and residuals first. */
__attribute__((noinline)) static void clamp_down(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel,
                                                 int64_t columns, uint8_t *out, int64_t stride)
{
    const vec low = _mm512_set1_epi8((char)e->qmin), high = _mm512_set1_epi8((char)e->qmax);
    const vecf offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const float *scale = e->scale + channel;
    for (int r = 0; r < rows; r++, sums += QC_TILE_LD, out += stride) {
        vec v[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++)
            if (p * QC_PANEL < columns)
                v[p] = requant_down(vec_load(sums + p * QC_PANEL), _mm512_loadu_ps(scale + p * QC_PANEL), offset);
        const vec y = vec_order(vec_pack(v[0], v[1], v[2], v[3]));
        vec_store_part(out, vec_clamp_bytes(y, low, high), columns);
    }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    if (e->scale && !e->table && !residual) {
        clamp_down(e, sums, rows, channel, columns, out, stride);
        return;
    }
    const int panels = (int)((columns + QC_PANEL - 1) / QC_PANEL);
    const finishing f = finishing_of(e, residual != NULL);
    for (int r = 0; r < rows; r++, sums += QC_TILE_LD, out += stride) {
        vec v[4];
        for (int p = 0; p < 4; p++)
            v[p] = p < panels ? requant_panel(e, sums + p * QC_PANEL, channel + p * QC_PANEL) : v[0];
        const vec y = vec_order(vec_pack(v[0], v[1], v[2], v[3]));
        vec_store_part(out, finish_bytes(&f, y, residual ? residual + r * stride : NULL), columns);
    }
}
#else
typedef int qc_empty_translation_unit;
#endif
