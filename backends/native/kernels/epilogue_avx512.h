/* Requantization in AVX-512 registers. */
#ifndef QC_EPILOGUE_AVX512_H
#define QC_EPILOGUE_AVX512_H

#include "finish.h"

/* One FMA and one conversion, both rounding down: the floor of sum * scale + zero_point + 1/2, which the
 * emitter has checked to be exact wherever there is a scale (integer semantics, section 4). */
QC_INLINE vec requant_down(vec sum, vecf scale, vecf offset)
{
    return _mm512_cvt_roundps_epi32(_mm512_fmadd_round_ps(_mm512_cvtepi32_ps(sum), scale, offset, QC_DOWN), QC_DOWN);
}

/* ADD2 of 16 codes of 32 bits; the zero points of both operands and the rounding are one constant. */
typedef struct {
    vec a, b, constant, zero_point;
    __m128i shift;
} wide_sum;

QC_INLINE wide_sum wide_sum_of(const int32_t *k)
{
    const uint32_t zeros = (uint32_t)k[0] * (uint32_t)k[1] + (uint32_t)k[2] * (uint32_t)k[3];
    return (wide_sum){_mm512_set1_epi32(k[1]), _mm512_set1_epi32(k[3]),
                      _mm512_set1_epi32((int32_t)(((uint32_t)1 << (k[4] - 1)) - zeros)), _mm512_set1_epi32(k[5]),
                      _mm_cvtsi32_si128(k[4])};
}

/* `codes` are clamped, the other operand is 16 bytes; the result is not clamped. */
QC_INLINE vec add_wide(const wide_sum *k, vec codes, const uint8_t *other)
{
    vec sum = _mm512_add_epi32(_mm512_mullo_epi32(codes, k->a), k->constant);
    sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(vec_widen(other), k->b));
    return _mm512_add_epi32(_mm512_sra_epi32(sum, k->shift), k->zero_point);
}

#endif
