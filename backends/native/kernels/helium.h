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

#endif
