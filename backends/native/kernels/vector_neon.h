/* NEON under the names of vector.h, for codes that are signed bytes. */
#ifndef QC_VECTOR_NEON_H
#define QC_VECTOR_NEON_H

#include "neon.h"

#define VEC 16
#define VEC_LANES (VEC / 4)
#define V(name) neon_##name
typedef int8x16_t vec;
typedef float32x4_t vecf;
typedef int8x16_t lane;

#define AS16 vreinterpretq_s16_s8
#define AS32 vreinterpretq_s32_s8
#define AS64 vreinterpretq_s64_s8
#define OF16 vreinterpretq_s8_s16
#define OF32 vreinterpretq_s8_s32
#define OF64 vreinterpretq_s8_s64

/* What x86 calls by these names. */
QC_INLINE vec neon_set1_epi8(char v) { return vdupq_n_s8((int8_t)v); }
QC_INLINE vec neon_set1_epi16(int16_t v) { return OF16(vdupq_n_s16(v)); }
QC_INLINE vec neon_set1_epi32(int32_t v) { return OF32(vdupq_n_s32(v)); }
QC_INLINE vec neon_add_epi16(vec a, vec b) { return OF16(vaddq_s16(AS16(a), AS16(b))); }
QC_INLINE vec neon_adds_epi16(vec a, vec b) { return OF16(vqaddq_s16(AS16(a), AS16(b))); }
QC_INLINE vec neon_sub_epi16(vec a, vec b) { return OF16(vsubq_s16(AS16(a), AS16(b))); }
QC_INLINE vec neon_add_epi32(vec a, vec b) { return OF32(vaddq_s32(AS32(a), AS32(b))); }
QC_INLINE vec neon_sub_epi32(vec a, vec b) { return OF32(vsubq_s32(AS32(a), AS32(b))); }
QC_INLINE vec neon_packs_epi32(vec a, vec b) { return OF16(vqmovn_high_s32(vqmovn_s32(AS32(a)), AS32(b))); }
QC_INLINE vec neon_unpacklo_epi8(vec a, vec b) { return vzip1q_s8(a, b); }
QC_INLINE vec neon_unpackhi_epi8(vec a, vec b) { return vzip2q_s8(a, b); }
QC_INLINE vecf neon_set1_ps(float v) { return vdupq_n_f32(v); }
QC_INLINE vecf neon_loadu_ps(const float *p) { return vld1q_f32(p); }
QC_INLINE vecf neon_mul_ps(vecf a, vecf b) { return vmulq_f32(a, b); }
QC_INLINE vecf neon_min_ps(vecf a, vecf b) { return vminq_f32(a, b); }
QC_INLINE vec neon_cvtps_epi32(vecf v) { return OF32(vcvtnq_s32_f32(v)); }

QC_INLINE vec vec_load(const void *p) { return load16(p); }
QC_INLINE void vec_store(void *p, vec v) { store16(p, v); }
QC_INLINE vec vec_zero(void) { return vdupq_n_s8(0); }
QC_INLINE void vec_store_part(void *p, vec v, int64_t n) { store_part(p, v, n); }

QC_INLINE vec vec_low_words(vec v) { return OF16(vmovl_s8(vget_low_s8(v))); }
QC_INLINE vec vec_high_words(vec v) { return OF16(vmovl_high_s8(v)); }
QC_INLINE vec vec_low_sums(vec words) { return OF32(vmovl_s16(vget_low_s16(AS16(words)))); }
QC_INLINE vec vec_high_sums(vec words) { return OF32(vmovl_high_s16(AS16(words))); }
QC_INLINE vec vec_narrow(vec low, vec high) { return narrow_bytes(AS16(low), AS16(high)); }
QC_INLINE vec vec_max_codes(vec a, vec b) { return vmaxq_s8(a, b); }
QC_INLINE vec vec_clamp_bytes(vec v, vec low, vec high) { return clamp_bytes(v, low, high); }
QC_INLINE vec vec_order(vec v) { return v; }

QC_INLINE vec vec_widen(const qc_code *p)
{
    return vec_low_sums(vec_low_words(OF32(vld1q_dup_s32((const qc_int32_anywhere *)p))));
}

QC_INLINE vec vec_pack(vec v0, vec v1, vec v2, vec v3)
{
    return vec_narrow(neon_packs_epi32(v0, v1), neon_packs_epi32(v2, v3));
}

QC_INLINE vec vec_low_products(vec a, vec b) { return OF32(vmull_s16(vget_low_s16(AS16(a)), vget_low_s16(AS16(b)))); }
QC_INLINE vec vec_high_products(vec a, vec b) { return OF32(vmull_high_s16(AS16(a), AS16(b))); }

QC_INLINE vec vec_add_pairs(vec sums, vec a, vec b)
{
    return neon_add_epi32(sums, OF32(vpaddq_s32(AS32(vec_low_products(a, b)), AS32(vec_high_products(a, b)))));
}

QC_INLINE vecf vec_max_or(vecf v, vecf low, vecf other) { return vbslq_f32(vceqq_f32(v, v), vmaxq_f32(v, low), other); }

/* SR(saturate(x), m, s) + zero_point of 32-bit lanes, each lane with its own m and s. */
typedef struct {
    int32x4_t low, high, left, multiplier, right, zero_point;
} vec_scaling;

QC_INLINE vec_scaling vec_scaling_of(vec multiplier, vec shift, int32_t zero_point)
{
    const int32x4_t one = vdupq_n_s32(1), s = AS32(shift);
    const int32x4_t half = vshlq_s32(one, vsubq_s32(vminq_s32(s, vdupq_n_s32(32)), one));
    return (vec_scaling){vnegq_s32(half), vsubq_s32(half, one),
                         vmaxq_s32(vsubq_s32(vdupq_n_s32(32), s), vdupq_n_s32(0)),
                         AS32(multiplier), vnegq_s32(vmaxq_s32(vsubq_s32(s, vdupq_n_s32(31)), one)),
                         vdupq_n_s32(zero_point)};
}

QC_INLINE vec vec_scale(const vec_scaling *k, vec x)
{
    const int32x4_t v = vshlq_s32(vminq_s32(vmaxq_s32(AS32(x), k->low), k->high), k->left);
    return OF32(vaddq_s32(requant_lanes(v, k->multiplier, k->right), k->zero_point));
}

/* The same, without the zero point, with one m and s for |x| <= 2^18: nothing saturates. */
static inline int vec_is_small_scaling(int32_t multiplier, int32_t shift)
{
    (void)multiplier;
    return shift >= 20;
}

typedef struct {
    int32x4_t left, multiplier, right;
} vec_small_scaling;

QC_INLINE vec_small_scaling vec_small_scaling_of(int32_t multiplier, int32_t shift)
{
    return (vec_small_scaling){vdupq_n_s32(shift < 32 ? 32 - shift : 0), vdupq_n_s32(multiplier),
                               vdupq_n_s32(shift > 32 ? 31 - shift : -1)};
}

QC_INLINE vec vec_scale_small(const vec_small_scaling *k, vec x)
{
    return OF32(requant_lanes(vshlq_s32(AS32(x), k->left), k->multiplier, k->right));
}

typedef byte_table vec_table;
QC_INLINE vec_table vec_table_of(const qc_code *table) { return byte_table_of(table); }
QC_INLINE vec vec_look_up(const vec_table *t, vec x) { return look_up(t, x); }

/* 16 bytes, for transpositions. */
QC_INLINE lane lane_load(const void *p) { return load16(p); }
QC_INLINE void lane_store(void *p, lane v) { store16(p, v); }
QC_INLINE lane lane_low8(lane a, lane b) { return vzip1q_s8(a, b); }
QC_INLINE lane lane_high8(lane a, lane b) { return vzip2q_s8(a, b); }
QC_INLINE lane lane_low32(lane a, lane b) { return OF32(vzip1q_s32(AS32(a), AS32(b))); }
QC_INLINE lane lane_high32(lane a, lane b) { return OF32(vzip2q_s32(AS32(a), AS32(b))); }
QC_INLINE lane lane_low64(lane a, lane b) { return OF64(vzip1q_s64(AS64(a), AS64(b))); }
QC_INLINE lane lane_high64(lane a, lane b) { return OF64(vzip2q_s64(AS64(a), AS64(b))); }
QC_INLINE lane lane_or(lane a, lane b) { return vorrq_s8(a, b); }
/* The bytes of v at the places, 0 where a place is negative. */
QC_INLINE lane lane_pick(lane v, lane places) { return vqtbl1q_s8(v, vreinterpretq_u8_s8(places)); }

#endif
