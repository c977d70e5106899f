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

/* ADD2 of 16 codes of 32 bits. With m = high * 2^11 + low for both multipliers, and pairs (a, b) of 16 bits,
 * (a * ma + b * mb + constant) >> shift is (pair . high + ((pair . low + constant) >> 11)) >> (shift - 11). The
 * constant is both zero points, the rounding, and the zero point of the result; it has 32 bits where the shift
 * is at most QC_WIDE_SHIFT. */
#define QC_WIDE_SHIFT 21

typedef struct {
    vec low, high, constant;
    __m128i shift;
} wide_sum;

QC_INLINE wide_sum wide_sum_of(const int32_t *k)
{
    const int32_t ma = k[1], mb = k[3];
    const uint32_t zeros = (uint32_t)k[0] * (uint32_t)ma + (uint32_t)k[2] * (uint32_t)mb;
    const uint32_t rounding = ((uint32_t)1 << (k[4] - 1)) + ((uint32_t)k[5] << k[4]);
    return (wide_sum){_mm512_set1_epi32((int32_t)(((uint32_t)mb & 2047) << 16 | ((uint32_t)ma & 2047))),
                      _mm512_set1_epi32((int32_t)((uint32_t)(mb >> 11) << 16 | ((uint32_t)(ma >> 11) & 0xFFFF))),
                      _mm512_set1_epi32((int32_t)(rounding - zeros)), _mm_cvtsi32_si128(k[4] - 11)};
}

/* `codes` are clamped, the other operand is 16 bytes; the result is not clamped. */
QC_INLINE vec add_wide(const wide_sum *k, vec codes, const uint8_t *other)
{
    /* Byte 4 l + i of a vector of 16 lanes takes byte l of every 16 where i is 2. */
    const vec places = _mm512_setr_epi32(0x00000000, 0x00010000, 0x00020000, 0x00030000, 0x00040000, 0x00050000,
                                         0x00060000, 0x00070000, 0x00080000, 0x00090000, 0x000a0000, 0x000b0000,
                                         0x000c0000, 0x000d0000, 0x000e0000, 0x000f0000);
    const vec bytes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)other));
    const vec pairs = _mm512_mask_shuffle_epi8(codes, 0x4444444444444444, bytes, places);
    const vec low = _mm512_srai_epi32(_mm512_dpwssd_epi32(k->constant, pairs, k->low), 11);
    return _mm512_sra_epi32(_mm512_dpwssd_epi32(low, pairs, k->high), k->shift);
}

#endif
