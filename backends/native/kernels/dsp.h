/* Requantization on cores with DSP instructions. */
#ifndef QC_DSP_H
#define QC_DSP_H

#include "arith.h"
#include "level.h"

/* SR for shifts of 32 and more needs the upper half of a product alone: floor((upper + offset) / 2^right), where
 * the offset is what rounds and the zero point. For 32 the rounding is in the lower half. */
typedef struct {
    int32_t multiplier, offset, right, zero_point;
} channel_scaling;

#define QC_MOST_RIGHT 22 /* up to here the upper half, of 31 bits, and the offset add up to no more than 32 bits */

static inline int scales_upper_half(int32_t shift)
{
    return shift >= 32 && shift <= 32 + QC_MOST_RIGHT;
}

QC_INLINE channel_scaling channel_scaling_of(const qc_epilogue *e, int64_t channel)
{
    const int32_t right = e->shift[channel] - 32, zero_point = e->zero_point;
    const int32_t half = right ? (int32_t)((uint32_t)1 << (right - 1)) : 0;
    return (channel_scaling){e->multiplier[channel], half + zero_point * (int32_t)((uint32_t)1 << right), right,
                             zero_point};
}

/* SR(x) + zero point; `rounds` says that the shift is 32. */
QC_INLINE int32_t scale_upper_half(const channel_scaling *k, int32_t x, int rounds)
{
    const int64_t product = (int64_t)x * k->multiplier;
    if (rounds)
        return (int32_t)((product + ((int64_t)1 << 31)) >> 32) + k->zero_point;
    return ((int32_t)(product >> 32) + k->offset) >> k->right;
}

/* Clamps to qmin .. qmax; `is_whole` says that these are all codes. */
QC_INLINE int32_t clamp_code(int32_t v, const qc_epilogue *e, int is_whole)
{
    if (!is_whole)
        return qc_clamp(v, e->qmin, e->qmax);
    __asm__("ssat %0, #8, %1" : "=r"(v) : "r"(v));
    return v;
}

static inline int is_whole_range(const qc_epilogue *e)
{
    return e->qmin == -128 && e->qmax == 127;
}

#endif
