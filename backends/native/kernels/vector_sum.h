/* ADD2 of vectors of bytes. */
#ifndef QC_VECTOR_SUM_H
#define QC_VECTOR_SUM_H

#include "vector.h"

#if defined(QC_NEON) || defined(QC_HELIUM)
typedef byte_sum vec_sum;
QC_INLINE vec_sum vec_sum_of(const int32_t *k) { return byte_sum_of(k); }
QC_INLINE vec vec_sum_bytes(const vec_sum *k, vec a, vec b) { return sum_bytes(k, a, b); }

static inline int vec_sum_fits(const int32_t *k)
{
    (void)k;
    return 1;
}
#elif defined(QC_VECTOR)
/* ADD2 modulo 2^32: a*ma + b*mb + rest, with each multiplier split into high * 2^15 + low so that a pair
 * of 16-bit products gives each half. The zero points and the rounding are in `rest`. */
typedef struct {
    vec low, high, rest, zero_point, qmin, qmax;
    __m128i shift;
} vec_sum;

/* Takes the constants {za, ma, zb, mb, shift, zo, qmin, qmax} of qc_add2. */
QC_INLINE vec_sum vec_sum_of(const int32_t *k)
{
    const uint32_t ma = (uint32_t)k[1], mb = (uint32_t)k[3];
    const uint32_t rest = ((uint32_t)1 << (k[4] - 1)) - (uint32_t)k[0] * ma - (uint32_t)k[2] * mb;
    const uint32_t high_a = (uint32_t)(k[1] >> 15), high_b = (uint32_t)(k[3] >> 15);
    return (vec_sum){
        V(set1_epi32)((int32_t)((ma & 0x7FFF) | (mb & 0x7FFF) << 16)),
        V(set1_epi32)((int32_t)((high_a & 0xFFFF) | high_b << 16)),
        V(set1_epi32)((int32_t)rest),
        V(set1_epi16)((int16_t)k[5]),
        V(set1_epi8)((char)k[6]),
        V(set1_epi8)((char)k[7]),
        _mm_cvtsi32_si128(k[4]),
    };
}

/* Says whether the high parts of both multipliers are 16-bit numbers. */
static inline int vec_sum_fits(const int32_t *k)
{
    const int64_t bound = (int64_t)1 << 30;
    return k[1] >= -bound && k[1] < bound && k[3] >= -bound && k[3] < bound;
}

QC_INLINE vec vec_sum_lanes(const vec_sum *k, vec pairs)
{
    const vec low = vec_add_pairs(k->rest, pairs, k->low);
    return V(sra_epi32)(V(add_epi32)(low, V(slli_epi32)(V(madd_epi16)(pairs, k->high), 15)), k->shift);
}

QC_INLINE vec vec_sum_bytes(const vec_sum *k, vec a, vec b)
{
    const vec ab0 = V(unpacklo_epi8)(a, b), ab1 = V(unpackhi_epi8)(a, b), none = vec_zero();
    const vec v01 = V(packs_epi32)(vec_sum_lanes(k, V(unpacklo_epi8)(ab0, none)),
                                   vec_sum_lanes(k, V(unpackhi_epi8)(ab0, none)));
    const vec v23 = V(packs_epi32)(vec_sum_lanes(k, V(unpacklo_epi8)(ab1, none)),
                                   vec_sum_lanes(k, V(unpackhi_epi8)(ab1, none)));
    const vec y = V(packus_epi16)(V(adds_epi16)(v01, k->zero_point), V(adds_epi16)(v23, k->zero_point));
    return vec_clamp_bytes(y, k->qmin, k->qmax);
}
#endif

#endif
