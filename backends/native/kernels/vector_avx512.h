/* Requantization, tables and residuals of 16 or 64 values in AVX-512 registers.
 *
 * Where a scale is given the requantization is one FMA and one conversion, both rounding down; the emitter
 * has checked that this is exact (integer semantics, section 4). Otherwise 64-bit integers are used. */
#ifndef QC_VECTOR_AVX512_H
#define QC_VECTOR_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define QC_DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)

static inline __m512i requant_down(__m512i acc, __m512 scale, __m512 offset)
{
    return _mm512_cvt_roundps_epi32(_mm512_fmadd_round_ps(_mm512_cvtepi32_ps(acc), scale, offset, QC_DOWN), QC_DOWN);
}

static inline __m256i scale_half(__m256i acc, __m256i multiplier, __m256i shift)
{
    const __m512i one = _mm512_set1_epi64(1), s = _mm512_cvtepi32_epi64(shift);
    const __m512i half = _mm512_sllv_epi64(one, _mm512_sub_epi64(s, one));
    __m512i x = _mm512_cvtepi32_epi64(acc);
    x = _mm512_max_epi64(x, _mm512_sub_epi64(_mm512_setzero_si512(), half));
    x = _mm512_min_epi64(x, _mm512_sub_epi64(half, one));
    x = _mm512_mul_epi32(x, _mm512_cvtepi32_epi64(multiplier));
    return _mm512_cvtepi64_epi32(_mm512_srav_epi64(_mm512_add_epi64(x, half), s));
}

static inline __m512i requant_exact(__m512i acc, __m512i multiplier, __m512i shift, __m512i zero_point)
{
    const __m256i low = scale_half(_mm512_castsi512_si256(acc), _mm512_castsi512_si256(multiplier),
                                   _mm512_castsi512_si256(shift));
    const __m256i high = scale_half(_mm512_extracti64x4_epi64(acc, 1), _mm512_extracti64x4_epi64(multiplier, 1),
                                    _mm512_extracti64x4_epi64(shift, 1));
    return _mm512_add_epi32(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), zero_point);
}

static inline __m512i look_up(__m512i bytes, const uint8_t *table)
{
#if defined(__AVX512VBMI__)
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), bytes, _mm512_loadu_si512(table + 64));
    const __m512i high =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), bytes, _mm512_loadu_si512(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
#else
    uint8_t lanes[64];
    _mm512_storeu_si512(lanes, bytes);
    for (int i = 0; i < 64; i++)
        lanes[i] = table[lanes[i]];
    return _mm512_loadu_si512(lanes);
#endif
}

static inline __m128i add_residual(__m128i y, __m128i residual, const int32_t *k)
{
    const __m512i a = _mm512_sub_epi32(_mm512_cvtepu8_epi32(y), _mm512_set1_epi32(k[0]));
    const __m512i b = _mm512_sub_epi32(_mm512_cvtepu8_epi32(residual), _mm512_set1_epi32(k[2]));
    __m512i acc = _mm512_add_epi32(_mm512_mullo_epi32(a, _mm512_set1_epi32(k[1])),
                                   _mm512_mullo_epi32(b, _mm512_set1_epi32(k[3])));
    acc = _mm512_add_epi32(acc, _mm512_set1_epi32(1 << (k[4] - 1)));
    acc = _mm512_add_epi32(_mm512_sra_epi32(acc, _mm_cvtsi32_si128(k[4])), _mm512_set1_epi32(k[5]));
    acc = _mm512_min_epi32(_mm512_max_epi32(acc, _mm512_set1_epi32(k[6])), _mm512_set1_epi32(k[7]));
    return _mm512_cvtepi32_epi8(acc);
}

/* Packs 4 x 16 values to bytes with saturation and puts the 64 bytes in order. */
static inline __m512i pack_panels(__m512i v0, __m512i v1, __m512i v2, __m512i v3)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(_mm512_packs_epi32(v0, v1), _mm512_packs_epi32(v2, v3)));
}

static inline __m512i add_residual64(__m512i y, __m512i residual, const int32_t *k)
{
    const __m128i p0 = add_residual(_mm512_castsi512_si128(y), _mm512_castsi512_si128(residual), k);
    const __m128i p1 = add_residual(_mm512_extracti32x4_epi32(y, 1), _mm512_extracti32x4_epi32(residual, 1), k);
    const __m128i p2 = add_residual(_mm512_extracti32x4_epi32(y, 2), _mm512_extracti32x4_epi32(residual, 2), k);
    const __m128i p3 = add_residual(_mm512_extracti32x4_epi32(y, 3), _mm512_extracti32x4_epi32(residual, 3), k);
    __m512i v = _mm512_inserti32x4(_mm512_castsi128_si512(p0), p1, 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(v, p2, 2), p3, 3);
}

/* Constants of ADD2; the zero points of both operands and the rounding are one sum. */
typedef struct {
    __m512i a, b, constant, zero_point;
    __m128i shift;
} add2_constants;

static inline add2_constants load_add2(const int32_t *k)
{
    const uint32_t constant = ((uint32_t)1 << (k[4] - 1)) - (uint32_t)k[0] * (uint32_t)k[1] - (uint32_t)k[2] * (uint32_t)k[3];
    return (add2_constants){_mm512_set1_epi32(k[1]), _mm512_set1_epi32(k[3]), _mm512_set1_epi32((int32_t)constant),
                            _mm512_set1_epi32(k[5]), _mm_cvtsi32_si128(k[4])};
}

/* ADD2 of 16 codes, already clamped, with 16 bytes of the other operand; the result is not clamped. */
static inline __m512i add2_wide(__m512i codes, const uint8_t *other, const add2_constants *k)
{
    const __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)other));
    __m512i sum = _mm512_add_epi32(_mm512_mullo_epi32(codes, k->a), k->constant);
    sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(b, k->b));
    return _mm512_add_epi32(_mm512_sra_epi32(sum, k->shift), k->zero_point);
}


#endif
