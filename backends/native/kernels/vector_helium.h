/* Helium under the names of vector.h, for codes that are signed bytes.
 *
 * Halves of a vector are the elements of even and of odd place: that is how Helium widens and narrows, and what is
 * widened and narrowed again is in order. Vectors that are loaded side by side and then packed are not: vec_order
 * puts them in order. */
#ifndef QC_VECTOR_HELIUM_H
#define QC_VECTOR_HELIUM_H

#include "helium.h"

#define VEC 16
#define VEC_LANES (VEC / 4)
#define V(name) helium_##name
typedef int8x16_t vec;

#define AS16 vreinterpretq_s16_s8
#define AS32 vreinterpretq_s32_s8
#define OF16 vreinterpretq_s8_s16
#define OF32 vreinterpretq_s8_s32

/* What x86 calls by these names. */
QC_INLINE vec helium_set1_epi8(char v) { return vdupq_n_s8((int8_t)v); }
QC_INLINE vec helium_set1_epi16(int16_t v) { return OF16(vdupq_n_s16(v)); }
QC_INLINE vec helium_set1_epi32(int32_t v) { return OF32(vdupq_n_s32(v)); }
QC_INLINE vec helium_add_epi16(vec a, vec b) { return OF16(vaddq_s16(AS16(a), AS16(b))); }
QC_INLINE vec helium_adds_epi16(vec a, vec b) { return OF16(vqaddq_s16(AS16(a), AS16(b))); }
QC_INLINE vec helium_sub_epi16(vec a, vec b) { return OF16(vsubq_s16(AS16(a), AS16(b))); }
QC_INLINE vec helium_add_epi32(vec a, vec b) { return OF32(vaddq_s32(AS32(a), AS32(b))); }
QC_INLINE vec helium_sub_epi32(vec a, vec b) { return OF32(vsubq_s32(AS32(a), AS32(b))); }

QC_INLINE vec helium_packs_epi32(vec a, vec b)
{
    return OF16(vqmovntq_s32(vqmovnbq_s32(vuninitializedq_s16(), AS32(a)), AS32(b)));
}

QC_INLINE vec vec_load(const void *p) { return vld1q_s8((const int8_t *)p); }
QC_INLINE void vec_store(void *p, vec v) { vst1q_s8((int8_t *)p, v); }
QC_INLINE vec vec_zero(void) { return vdupq_n_s8(0); }
QC_INLINE void vec_store_part(void *p, vec v, int64_t n) { store_part(p, v, n); }

QC_INLINE vec vec_low_words(vec v) { return OF16(vmovlbq_s8(v)); }
QC_INLINE vec vec_high_words(vec v) { return OF16(vmovltq_s8(v)); }
QC_INLINE vec vec_low_sums(vec words) { return OF32(vmovlbq_s16(AS16(words))); }
QC_INLINE vec vec_high_sums(vec words) { return OF32(vmovltq_s16(AS16(words))); }
QC_INLINE vec vec_max_codes(vec a, vec b) { return vmaxq_s8(a, b); }
QC_INLINE vec vec_clamp_bytes(vec v, vec low, vec high) { return vminq_s8(vmaxq_s8(v, low), high); }
QC_INLINE vec vec_widen(const qc_code *p) { return OF32(vldrbq_s32(p)); }

QC_INLINE vec vec_narrow(vec low, vec high)
{
    return vqmovntq_s16(vqmovnbq_s16(vuninitializedq_s8(), AS16(low)), AS16(high));
}

QC_INLINE vec vec_pack(vec v0, vec v1, vec v2, vec v3)
{
    return vec_narrow(helium_packs_epi32(v0, v1), helium_packs_epi32(v2, v3));
}

/* Byte 4 i + j of what is packed belongs to vector 0, 2, 1 or 3 by j. */
QC_INLINE vec vec_order(vec v)
{
    static const uint8_t places[VEC] = {0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15};
    int8_t bytes[VEC];
    vst1q_s8(bytes, v);
    return vldrbq_gather_offset_s8(bytes, vld1q_u8(places));
}

QC_INLINE vec vec_low_products(vec a, vec b) { return OF32(vmullbq_int_s16(AS16(a), AS16(b))); }
QC_INLINE vec vec_high_products(vec a, vec b) { return OF32(vmulltq_int_s16(AS16(a), AS16(b))); }

/* SR(saturate(x), m, s) + zero_point of 32-bit lanes, each lane with its own m and s. */
typedef struct {
    int32x4_t low, high, left, multiplier, right;
    int32_t zero_point;
} vec_scaling;

QC_INLINE vec_scaling vec_scaling_of(vec multiplier, vec shift, int32_t zero_point)
{
    const int32x4_t one = vdupq_n_s32(1), s = AS32(shift);
    const int32x4_t half = vshlq_s32(one, vsubq_s32(vminq_s32(s, vdupq_n_s32(32)), one));
    return (vec_scaling){vnegq_s32(half), vsubq_s32(half, one),
                         vmaxq_s32(vsubq_s32(vdupq_n_s32(32), s), vdupq_n_s32(0)),
                         AS32(multiplier), vnegq_s32(vmaxq_s32(vsubq_s32(s, vdupq_n_s32(31)), one)), zero_point};
}

QC_INLINE vec vec_scale(const vec_scaling *k, vec x)
{
    const int32x4_t v = vshlq_s32(clamp_lanes(AS32(x), k->low, k->high), k->left);
    return OF32(vaddq_n_s32(requant_lanes(v, k->multiplier, k->right), k->zero_point));
}

/* The same, without the zero point, with one m and s for |x| <= 2^18: nothing saturates. */
static inline int vec_is_small_scaling(int32_t multiplier, int32_t shift)
{
    (void)multiplier;
    return shift >= 20;
}

typedef struct {
    int32_t left, multiplier, right;
} vec_small_scaling;

QC_INLINE vec_small_scaling vec_small_scaling_of(int32_t multiplier, int32_t shift)
{
    return (vec_small_scaling){shift < 32 ? 32 - shift : 0, multiplier, shift > 32 ? 31 - shift : -1};
}

QC_INLINE vec vec_scale_small(const vec_small_scaling *k, vec x)
{
    return OF32(vrshlq_n_s32(vqdmulhq_n_s32(vshlq_r_s32(AS32(x), k->left), k->multiplier), k->right));
}

typedef struct {
    const qc_code *codes;
} vec_table;

QC_INLINE vec_table vec_table_of(const qc_code *table) { return (vec_table){table}; }
QC_INLINE vec vec_look_up(const vec_table *t, vec x) { return look_up(t->codes, x); }

#endif
