/* The dot-product tile on AVX2: bytes widened to int16 for vpmaddwd, which is exact for any weights. */
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#include "tile.h"

#include <immintrin.h>
#include <string.h>

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    return left < 2 ? 1 : left < 4 ? 2 : 4;
}

static inline __m256i widen_row(const uint8_t *row)
{
    int32_t word;
    memcpy(&word, row, sizeof word);
    return _mm256_cvtepu8_epi16(_mm_set1_epi32(word));
}

static inline __m256i widen_weights(const int8_t *weight)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weight));
}

static inline void store_pairs(int32_t *target, __m256i low, __m256i high, const int32_t *start)
{
    const __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8);
    _mm256_storeu_si256((__m256i *)target, _mm256_add_epi32(sum, _mm256_loadu_si256((const __m256i *)start)));
}

/* Two rows of one panel: eight accumulators of pair sums. */
__attribute__((noinline)) static void tile_2x16(const qc_tile *tile, int row, int panel, int32_t *acc)
{
    const int8_t *weight = tile->weight + panel * tile->panel_stride;
    const int32_t *start0 = tile->start + row * tile->start_step + panel * QC_PANEL;
    const int32_t *start1 = start0 + tile->start_step;
    const int64_t k4 = tile->k4;
    __m256i c00 = _mm256_setzero_si256(), c01 = c00, c02 = c00, c03 = c00;
    __m256i c10 = c00, c11 = c00, c12 = c00, c13 = c00;
    for (int64_t t = 0; t < tile->taps; t++) {
        const uint8_t *const *rows = tile->rows + t * tile->row_step + row;
        const uint8_t *r0 = rows[0] + tile->offsets[t], *r1 = rows[1] + tile->offsets[t];
        for (int64_t k = 0; k < k4; k++, weight += 4 * QC_PANEL) {
            const __m256i a0 = widen_row(r0 + 4 * k), a1 = widen_row(r1 + 4 * k);
            __m256i b = widen_weights(weight);
            c00 = _mm256_add_epi32(c00, _mm256_madd_epi16(a0, b));
            c10 = _mm256_add_epi32(c10, _mm256_madd_epi16(a1, b));
            b = widen_weights(weight + 16);
            c01 = _mm256_add_epi32(c01, _mm256_madd_epi16(a0, b));
            c11 = _mm256_add_epi32(c11, _mm256_madd_epi16(a1, b));
            b = widen_weights(weight + 32);
            c02 = _mm256_add_epi32(c02, _mm256_madd_epi16(a0, b));
            c12 = _mm256_add_epi32(c12, _mm256_madd_epi16(a1, b));
            b = widen_weights(weight + 48);
            c03 = _mm256_add_epi32(c03, _mm256_madd_epi16(a0, b));
            c13 = _mm256_add_epi32(c13, _mm256_madd_epi16(a1, b));
        }
    }
    store_pairs(acc, c00, c01, start0);
    store_pairs(acc + 8, c02, c03, start0 + 8);
    store_pairs(acc + QC_TILE_LD, c10, c11, start1);
    store_pairs(acc + QC_TILE_LD + 8, c12, c13, start1 + 8);
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    int32_t own[QC_TILE_ROWS * QC_TILE_LD] __attribute__((aligned(64)));
    int32_t *sums = tile->sums ? tile->sums : own;
    for (int p = 0; p < panels; p++)
        for (int r = 0; r < rows; r += 2)
            tile_2x16(tile, r, p, sums + r * QC_TILE_LD + p * QC_PANEL);
    if (!tile->sums)
        qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                           tile->out_stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
