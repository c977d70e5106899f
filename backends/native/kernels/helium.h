/* Registers of Helium: requantization and what follows it, in four lanes of 32 bits. */
#ifndef QC_HELIUM_H
#define QC_HELIUM_H

#include "arith.h"
#include "level.h"

#include <arm_mve.h>
#include <string.h>

/* SR without the saturation that a clamp to 8 bits hides (integer semantics, 4); `right` is negative. */
QC_INLINE int32x4_t requant_lanes(int32x4_t x, int32x4_t multiplier, int32x4_t right)
{
    return vrshlq_s32(vqdmulhq_s32(x, multiplier), right);
}

QC_INLINE int32x4_t clamp_lanes(int32x4_t v, int32x4_t low, int32x4_t high)
{
    return vminq_s32(vmaxq_s32(v, low), high);
}

/* Codes from a table that is indexed by their bytes read as unsigned. */
QC_INLINE int32x4_t look_up_lanes(const qc_code *table, int32x4_t x)
{
    const uint32x4_t at = vandq_u32(vreinterpretq_u32_s32(x), vdupq_n_u32(255));
    return vldrbq_gather_offset_s32(table, at);
}

/* ADD2 with the constants of qc_add2: the rounding shift takes half its unit itself. */
QC_INLINE int32x4_t sum_lanes(const int32_t *k, int32x4_t a, int32x4_t b)
{
    const uint32_t rest = 0 - (uint32_t)k[0] * (uint32_t)k[1] - (uint32_t)k[2] * (uint32_t)k[3];
    int32x4_t sum = vmlaq_n_s32(vdupq_n_s32((int32_t)rest), a, k[1]);
    sum = vrshlq_n_s32(vmlaq_n_s32(sum, b, k[3]), -k[4]);
    return clamp_lanes(vaddq_n_s32(sum, k[5]), vdupq_n_s32(k[6]), vdupq_n_s32(k[7]));
}

/* Sixteen sums in the order of vld4: channel 4 j + i in lane j of part i. */
QC_INLINE int8x16_t requant_bytes(int32x4x4_t v, int32x4x4_t multiplier, int32x4x4_t right, const qc_epilogue *e)
{
    const int16_t zero_point = (int16_t)e->zero_point;
    int16x8_t even = vqmovnbq_s32(vuninitializedq_s16(), requant_lanes(v.val[0], multiplier.val[0], right.val[0]));
    int16x8_t odd = vqmovnbq_s32(vuninitializedq_s16(), requant_lanes(v.val[1], multiplier.val[1], right.val[1]));
    even = vqaddq_n_s16(vqmovntq_s32(even, requant_lanes(v.val[2], multiplier.val[2], right.val[2])), zero_point);
    odd = vqaddq_n_s16(vqmovntq_s32(odd, requant_lanes(v.val[3], multiplier.val[3], right.val[3])), zero_point);
    const int8x16_t y = vqmovntq_s16(vqmovnbq_s16(vuninitializedq_s8(), even), odd);
    return vminq_s8(vmaxq_s8(y, vdupq_n_s8((int8_t)e->qmin)), vdupq_n_s8((int8_t)e->qmax));
}

/* ADD2 of bytes: the halves are those of even and of odd place. */
typedef struct {
    int32_t ma, mb, rest, right;
    int16_t zero_point;
    int8_t low, high;
} byte_sum;

/* Takes the constants {za, ma, zb, mb, shift, zo, qmin, qmax} of qc_add2. */
QC_INLINE byte_sum byte_sum_of(const int32_t *k)
{
    const uint32_t rest = 0 - (uint32_t)k[0] * (uint32_t)k[1] - (uint32_t)k[2] * (uint32_t)k[3];
    return (byte_sum){k[1], k[3], (int32_t)rest, -k[4], (int16_t)k[5], (int8_t)k[6], (int8_t)k[7]};
}

QC_INLINE int32x4_t sum_quarter(const byte_sum *k, int32x4_t a, int32x4_t b)
{
    const int32x4_t first = vmlaq_n_s32(vdupq_n_s32(k->rest), a, k->ma);
    return vrshlq_n_s32(vmlaq_n_s32(first, b, k->mb), k->right);
}

QC_INLINE int16x8_t sum_half(const byte_sum *k, int16x8_t a, int16x8_t b)
{
    int16x8_t y = vqmovnbq_s32(vuninitializedq_s16(), sum_quarter(k, vmovlbq_s16(a), vmovlbq_s16(b)));
    y = vqmovntq_s32(y, sum_quarter(k, vmovltq_s16(a), vmovltq_s16(b)));
    return vqaddq_n_s16(y, k->zero_point);
}

QC_INLINE int8x16_t sum_bytes(const byte_sum *k, int8x16_t a, int8x16_t b)
{
    const int16x8_t even = sum_half(k, vmovlbq_s8(a), vmovlbq_s8(b)), odd = sum_half(k, vmovltq_s8(a), vmovltq_s8(b));
    const int8x16_t y = vqmovntq_s16(vqmovnbq_s16(vuninitializedq_s8(), even), odd);
    return vminq_s8(vmaxq_s8(y, vdupq_n_s8(k->low)), vdupq_n_s8(k->high));
}

QC_INLINE int8x16_t look_up(const qc_code *table, int8x16_t x)
{
    return vldrbq_gather_offset_s8(table, vreinterpretq_u8_s8(x));
}

/* Stores the first n bytes, all of them where n >= 16. */
QC_INLINE void store_part(void *p, int8x16_t v, int64_t n)
{
    if (n >= 16)
        vst1q_s8((int8_t *)p, v);
    else
        vstrbq_p_s8((int8_t *)p, v, vctp8q((uint32_t)n));
}

#endif
