/* What both kinds of depthwise kernels on AVX512-VNNI share. */
#ifndef QC_DEPTHWISE_AVX512_H
#define QC_DEPTHWISE_AVX512_H

#include "arith.h"
#include "depthwise.h"
#include "epilogue_avx512.h"

#define QUAD 256 /* bytes of a quad of all parts */

/* 4 x 16 values in the order of the interleaved lanes. */
QC_INLINE __m512i load_lanes(const void *values, int part)
{
    const __m128i *p = (const __m128i *)values + part;
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 4), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 8), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128(p + 12), 3);
}

/* Four pixels of each channel side by side: how depthwise_avx512vnni.c says. */
QC_INLINE void store_quad(uint8_t *at, __m512i x0, __m512i x1, __m512i x2, __m512i x3)
{
    const __m512i low01 = _mm512_unpacklo_epi8(x0, x1), high01 = _mm512_unpackhi_epi8(x0, x1);
    const __m512i low23 = _mm512_unpacklo_epi8(x2, x3), high23 = _mm512_unpackhi_epi8(x2, x3);
    _mm512_store_si512(at, _mm512_unpacklo_epi16(low01, low23));
    _mm512_store_si512(at + 64, _mm512_unpackhi_epi16(low01, low23));
    _mm512_store_si512(at + 128, _mm512_unpacklo_epi16(high01, high23));
    _mm512_store_si512(at + 192, _mm512_unpackhi_epi16(high01, high23));
}

/* Bytes of each set, side by side. */
QC_INLINE __m512i load_sets(const uint8_t *const *at, int sets)
{
    if (sets == 1)
        return _mm512_loadu_si512(at[0]);
    if (sets == 2)
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)at[0])),
                                  _mm256_loadu_si256((const __m256i *)at[1]), 1);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)at[0]));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)at[1]), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)at[2]), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)at[3]), 3);
}

/* The pixel of every set in a column of a row; the padding where the column is outside or the row is NULL. */
QC_INLINE __m512i load_pixel(const qc_conv2d *p, const uint8_t *const *row, int64_t x, int64_t step, int sets)
{
    uint8_t padding[64] __attribute__((aligned(64)));
    const uint8_t *at[QC_MOST_SETS];
    _mm512_store_si512(padding, _mm512_set1_epi8((char)p->pad_value));
    for (int s = 0; s < sets; s++)
        at[s] = row[s] && (uint64_t)x < (uint64_t)p->width ? row[s] + x * step : padding;
    return load_sets(at, sets);
}

/* Finishes clamped codes, QC_BLOCK bytes each, from pixel `first` of a row on, and writes those of each set. */
void qc_depthwise_write(const qc_channels *c, const uint8_t *codes, const uint8_t *const *residual,
                        uint8_t *const *out, int64_t first, int64_t count);

/* A row of results of any kernel, one set, from pixels that lie `step` bytes apart. */
void qc_depthwise_columns_row(const qc_channels *c, const uint8_t *const *rows, int64_t step,
                              const uint8_t *const *residual, uint8_t *const *out);

#endif
