/* The epilogue over stored sums on AVX-512. */
#include "level.h"

#if defined(QC_AVX512)
#include "arith.h"
#include "tile.h"
#include "vector_avx512.h"

/* Finishes a tile of `panels` panels; `panels` and `extras` are constants at each call. */
static inline __attribute__((always_inline)) void finish_tile(const qc_epilogue *e, const int32_t *acc, int rows,
                                                              int64_t channel, int64_t columns,
                                                              const uint8_t *residual, uint8_t *out,
                                                              int64_t stride, int panels, int extras)
{
    const __mmask64 mask = columns >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << columns) - 1;
    const __m512i low = _mm512_set1_epi8((char)e->qmin), high = _mm512_set1_epi8((char)e->qmax);
    const __m512i zero_point = _mm512_set1_epi32(e->zero_point);
    const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const int exact = extras && !e->scale;
    __m512 scale[4];
    for (int p = 0; p < panels && !exact; p++)
        scale[p] = _mm512_loadu_ps(e->scale + channel + p * QC_PANEL);
    for (int r = 0; r < rows; r++, acc += QC_TILE_LD, out += stride) {
        __m512i v[4];
        for (int p = 0; p < panels; p++) {
            const __m512i x = _mm512_loadu_si512(acc + p * QC_PANEL);
            const int64_t at = channel + p * QC_PANEL;
            if (exact)
                v[p] = requant_exact(x, _mm512_loadu_si512(e->multiplier + at), _mm512_loadu_si512(e->shift + at),
                                     zero_point);
            else
                v[p] = requant_down(x, scale[p], offset);
        }
        for (int p = panels; p < 4; p++)
            v[p] = v[0];
        __m512i y = pack_panels(v[0], v[1], v[2], v[3]);
        y = _mm512_min_epu8(_mm512_max_epu8(y, low), high);
        if (extras) {
            if (e->table)
                y = look_up(y, e->table);
            if (residual)
                y = add_residual64(y, _mm512_maskz_loadu_epi8(mask, residual + r * stride), e->add);
        }
        if (columns == 64)
            _mm512_storeu_si512(out, y);
        else if (columns == 32)
            _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
        else if (columns == 16)
            _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(y));
        else
            _mm512_mask_storeu_epi8(out, mask, y);
    }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *acc, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    const int panels = (int)((columns + QC_PANEL - 1) / QC_PANEL);
    if (!e->scale || e->table || residual) {
        if (panels == 4)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 4, 1);
        else if (panels == 3)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 3, 1);
        else if (panels == 2)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 2, 1);
        else
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 1, 1);
    } else if (panels == 4) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 4, 0);
    } else if (panels == 3) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 3, 0);
    } else if (panels == 2) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 2, 0);
    } else {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 1, 0);
    }
}
#else
typedef int qc_empty_translation_unit;
#endif
