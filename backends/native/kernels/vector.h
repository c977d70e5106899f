/* Vectors of bytes and of 32-bit lanes under one name for AVX-512, AVX2, NEON and Helium, so that a kernel is written
 * once.
 *
 * Unpacking and packing stay inside 128-bit lanes on both, hence pack(unpack(x)) is in order. Where
 * QC_VECTOR is not defined the kernels run their scalar loops. */
#ifndef QC_VECTOR_H
#define QC_VECTOR_H

#include "arith.h"
#include "level.h"

#include <string.h>

#if defined(QC_NEON)
#define QC_VECTOR 1
#include "vector_neon.h"
#elif defined(QC_HELIUM)
#define QC_VECTOR 1
#include "vector_helium.h"
#elif !QC_SIGNED_CODES && (defined(__AVX512BW__) || defined(__AVX2__))
#define QC_VECTOR 1
#include <immintrin.h>

#if defined(__AVX512BW__)
#define VEC 64
#define V(name) _mm512_##name
typedef __m512i vec;
typedef __m512 vecf;

QC_INLINE vec vec_load(const void *p) { return _mm512_loadu_si512(p); }
QC_INLINE void vec_store(void *p, vec v) { _mm512_storeu_si512(p, v); }
QC_INLINE vec vec_zero(void) { return _mm512_setzero_si512(); }
QC_INLINE vec vec_set64(int64_t v) { return _mm512_set1_epi64(v); }
QC_INLINE vec vec_and(vec a, vec b) { return _mm512_and_si512(a, b); }
QC_INLINE vec vec_or(vec a, vec b) { return _mm512_or_si512(a, b); }
QC_INLINE vec vec_xor(vec a, vec b) { return _mm512_xor_si512(a, b); }

/* Stores the first n bytes, all of them where n >= VEC. */
QC_INLINE void vec_store_part(uint8_t *p, vec v, int64_t n)
{
    if (n >= VEC)
        vec_store(p, v);
    else
        _mm512_mask_storeu_epi8(p, ((__mmask64)1 << n) - 1, v);
}

/* Repeats 16 bytes in every lane. */
QC_INLINE vec vec_repeat(__m128i v) { return _mm512_broadcast_i32x4(v); }

/* Takes the 32-bit lanes of odd index from `odd`, the others from `even`. */
QC_INLINE vec vec_merge_odd(vec even, vec odd) { return _mm512_mask_blend_epi32(0xAAAA, even, odd); }

/* Takes the bytes of `high` where `selector` has its top bit set, else those of `low`. */
QC_INLINE vec vec_select(vec selector, vec low, vec high)
{
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(selector), low, high);
}

/* max(v, low), and `other` where v is NaN. */
QC_INLINE vecf vec_max_or(vecf v, vecf low, vecf other)
{
    return _mm512_mask_max_ps(other, _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v, low);
}

/* VEC / 4 bytes as 32-bit lanes. */
QC_INLINE vec vec_widen(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }

/* Puts the 32-bit groups of four packed vectors in order. */
QC_INLINE vec vec_order(vec v)
{
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}

#else /* AVX2 */
#define VEC 32
#define V(name) _mm256_##name
typedef __m256i vec;
typedef __m256 vecf;

QC_INLINE vec vec_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
QC_INLINE void vec_store(void *p, vec v) { _mm256_storeu_si256((__m256i *)p, v); }
QC_INLINE vec vec_zero(void) { return _mm256_setzero_si256(); }
QC_INLINE vec vec_set64(int64_t v) { return _mm256_set1_epi64x(v); }
QC_INLINE vec vec_and(vec a, vec b) { return _mm256_and_si256(a, b); }
QC_INLINE vec vec_or(vec a, vec b) { return _mm256_or_si256(a, b); }
QC_INLINE vec vec_xor(vec a, vec b) { return _mm256_xor_si256(a, b); }

QC_INLINE void vec_store_part(uint8_t *p, vec v, int64_t n)
{
    uint8_t bytes[VEC];
    if (n >= VEC) {
        vec_store(p, v);
        return;
    }
    vec_store(bytes, v);
    memcpy(p, bytes, (size_t)n);
}

QC_INLINE vec vec_repeat(__m128i v) { return _mm256_broadcastsi128_si256(v); }
QC_INLINE vec vec_merge_odd(vec even, vec odd) { return _mm256_blend_epi32(even, odd, 0xAA); }
QC_INLINE vec vec_select(vec selector, vec low, vec high) { return _mm256_blendv_epi8(low, high, selector); }

QC_INLINE vecf vec_max_or(vecf v, vecf low, vecf other)
{
    return _mm256_blendv_ps(other, _mm256_max_ps(v, low), _mm256_cmp_ps(v, v, _CMP_ORD_Q));
}

QC_INLINE vec vec_widen(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)); }

QC_INLINE vec vec_order(vec v)
{
    return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#endif

#define VEC_LANES (VEC / 4)

/* sums + the products of neighbouring 16-bit values, added in pairs. */
QC_INLINE vec vec_add_pairs(vec sums, vec a, vec b)
{
#if VEC == 64 && defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sums, a, b);
#else
    return V(add_epi32)(sums, V(madd_epi16)(a, b));
#endif
}

/* Codes as 16-bit values, 16-bit sums of codes as 32-bit ones, and back with saturation, each half in lanes. */
QC_INLINE vec vec_low_words(vec v) { return V(unpacklo_epi8)(v, vec_zero()); }
QC_INLINE vec vec_high_words(vec v) { return V(unpackhi_epi8)(v, vec_zero()); }
QC_INLINE vec vec_low_sums(vec words) { return V(unpacklo_epi16)(words, vec_zero()); }
QC_INLINE vec vec_high_sums(vec words) { return V(unpackhi_epi16)(words, vec_zero()); }
QC_INLINE vec vec_narrow(vec low, vec high) { return V(packus_epi16)(low, high); }
QC_INLINE vec vec_max_codes(vec a, vec b) { return V(max_epu8)(a, b); }

/* Products of 16-bit values. */
QC_INLINE vec vec_low_products(vec a, vec b)
{
    return V(unpacklo_epi16)(V(mullo_epi16)(a, b), V(mulhi_epi16)(a, b));
}

QC_INLINE vec vec_high_products(vec a, vec b)
{
    return V(unpackhi_epi16)(V(mullo_epi16)(a, b), V(mulhi_epi16)(a, b));
}

QC_INLINE vec vec_clamp_bytes(vec v, vec low, vec high) { return V(min_epu8)(V(max_epu8)(v, low), high); }

/* Four vectors of 32-bit lanes to bytes with saturation, in the order of unpacked lanes. */
QC_INLINE vec vec_pack(vec v0, vec v1, vec v2, vec v3)
{
    return V(packus_epi16)(V(packs_epi32)(v0, v1), V(packs_epi32)(v2, v3));
}

/* SR(saturate(x), m, s) + zero_point of 32-bit lanes, each lane with its own m and s.
 *
 * Products of even and odd lanes are 64 bits wide. 2^63 is added to them so that a logical shift
 * floors them; the 2^(63-s) that this leaves is part of `offset`. */
typedef struct {
    vec low, high, offset;
    vec even_multiplier, odd_multiplier, even_half, odd_half, even_shift, odd_shift;
} vec_scaling;

QC_INLINE vec_scaling vec_scaling_of(vec multiplier, vec shift, int32_t zero_point)
{
    const vec one = V(set1_epi32)(1), one64 = vec_set64(1), top = vec_set64(INT64_MIN);
    const vec bits = V(sub_epi32)(V(min_epi32)(shift, V(set1_epi32)(32)), one);
    const vec half = V(sllv_epi32)(one, bits);
    vec_scaling k;
    k.low = V(sub_epi32)(vec_zero(), half);
    k.high = V(sub_epi32)(half, one);
    k.offset = V(sub_epi32)(V(set1_epi32)(zero_point), V(sllv_epi32)(one, V(sub_epi32)(V(set1_epi32)(63), shift)));
    k.even_multiplier = multiplier;
    k.odd_multiplier = V(srli_epi64)(multiplier, 32);
    k.even_shift = vec_and(shift, vec_set64(0xFFFFFFFF));
    k.odd_shift = V(srli_epi64)(shift, 32);
    k.even_half = V(add_epi64)(V(sllv_epi64)(one64, V(sub_epi64)(k.even_shift, one64)), top);
    k.odd_half = V(add_epi64)(V(sllv_epi64)(one64, V(sub_epi64)(k.odd_shift, one64)), top);
    return k;
}

QC_INLINE vec vec_scale(const vec_scaling *k, vec x)
{
    x = V(min_epi32)(V(max_epi32)(x, k->low), k->high);
    vec even = V(mul_epi32)(x, k->even_multiplier);
    vec odd = V(mul_epi32)(V(srli_epi64)(x, 32), k->odd_multiplier);
    even = V(srlv_epi64)(V(add_epi64)(even, k->even_half), k->even_shift);
    odd = V(srlv_epi64)(V(add_epi64)(odd, k->odd_half), k->odd_shift);
    return V(add_epi32)(vec_merge_odd(even, V(slli_epi64)(odd, 32)), k->offset);
}

/* The same, without the zero point, with one m and s for |x| <= 2^18; m has 24 bits and 20 <= s <= 49. */
static inline int vec_is_small_scaling(int32_t multiplier, int32_t shift)
{
    return multiplier % 128 == 0 && shift >= 20 && shift <= 49;
}

#if VEC == 64
/* fp32 rounded down: x * m * 2^-s + 1/2 has its exact floor, or is beyond 16 bits (integer semantics, 4). */
typedef struct {
    vecf scale, half;
} vec_small_scaling;

#define QC_DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)

QC_INLINE vec_small_scaling vec_small_scaling_of(int32_t multiplier, int32_t shift)
{
    const int32_t bits = (127 - shift) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return (vec_small_scaling){_mm512_set1_ps((float)multiplier * power), _mm512_set1_ps(0.5f)};
}

QC_INLINE vec vec_scale_small(const vec_small_scaling *k, vec x)
{
    const vecf v = _mm512_fmadd_round_ps(_mm512_cvtepi32_ps(x), k->scale, k->half, QC_DOWN);
    return _mm512_cvt_roundps_epi32(v, QC_DOWN);
}
#else
/* With m / 128 = high * 2^12 + low: (x * high + (x * low >> 12) + 2^(s-20)) >> (s-19), all in 32 bits. */
typedef struct {
    vec low, high, half;
    __m128i shift;
} vec_small_scaling;

QC_INLINE vec_small_scaling vec_small_scaling_of(int32_t multiplier, int32_t shift)
{
    return (vec_small_scaling){V(set1_epi32)(multiplier >> 7 & 0xFFF), V(set1_epi32)(multiplier >> 19),
                               V(set1_epi32)((int32_t)((int64_t)1 << shift >> 20)), _mm_cvtsi32_si128(shift - 19)};
}

QC_INLINE vec vec_scale_small(const vec_small_scaling *k, vec x)
{
    const vec low = V(srai_epi32)(V(mullo_epi32)(x, k->low), 12);
    return V(sra_epi32)(V(add_epi32)(V(add_epi32)(V(mullo_epi32)(x, k->high), low), k->half), k->shift);
}
#endif

/* A table of 256 bytes, looked up VEC bytes at a time. */
#if defined(__AVX512VBMI__)
typedef struct {
    vec part[4];
} vec_table;

QC_INLINE vec_table vec_table_of(const uint8_t *table)
{
    return (vec_table){{vec_load(table), vec_load(table + 64), vec_load(table + 128), vec_load(table + 192)}};
}

QC_INLINE vec vec_look_up(const vec_table *t, vec x)
{
    return vec_select(x, _mm512_permutex2var_epi8(t->part[0], x, t->part[1]),
                      _mm512_permutex2var_epi8(t->part[2], x, t->part[3]));
}
#else
/* 16 parts of 16 bytes. Part i of each half holds the difference (xor) to the part before: a byte shuffle
 * gives 0 where the index has its top bit set, so that the parts up to the index add up to its value. */
typedef struct {
    __m128i part[16];
} vec_table;

QC_INLINE vec_table vec_table_of(const uint8_t *table)
{
    vec_table t;
    for (int i = 0; i < 16; i++) {
        t.part[i] = _mm_loadu_si128((const __m128i *)table + i);
        if (i % 8)
            t.part[i] = _mm_xor_si128(t.part[i], _mm_loadu_si128((const __m128i *)table + i - 1));
    }
    return t;
}

QC_INLINE vec vec_look_up(const vec_table *t, vec x)
{
    const vec step = V(set1_epi8)(16);
    vec index = x, flipped = vec_xor(x, V(set1_epi8)((char)128));
    vec low = V(shuffle_epi8)(vec_repeat(t->part[0]), index), high = V(shuffle_epi8)(vec_repeat(t->part[8]), flipped);
    for (int i = 1; i < 8; i++) {
        index = V(sub_epi8)(index, step);
        flipped = V(sub_epi8)(flipped, step);
        low = vec_xor(low, V(shuffle_epi8)(vec_repeat(t->part[i]), index));
        high = vec_xor(high, V(shuffle_epi8)(vec_repeat(t->part[i + 8]), flipped));
    }
    return vec_select(x, low, high);
}
#endif

/* 16 bytes, for transpositions. */
typedef __m128i lane;
QC_INLINE lane lane_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
QC_INLINE void lane_store(void *p, lane v) { _mm_storeu_si128((__m128i *)p, v); }
QC_INLINE lane lane_low8(lane a, lane b) { return _mm_unpacklo_epi8(a, b); }
QC_INLINE lane lane_high8(lane a, lane b) { return _mm_unpackhi_epi8(a, b); }
QC_INLINE lane lane_low32(lane a, lane b) { return _mm_unpacklo_epi32(a, b); }
QC_INLINE lane lane_high32(lane a, lane b) { return _mm_unpackhi_epi32(a, b); }
QC_INLINE lane lane_low64(lane a, lane b) { return _mm_unpacklo_epi64(a, b); }
QC_INLINE lane lane_high64(lane a, lane b) { return _mm_unpackhi_epi64(a, b); }
QC_INLINE lane lane_or(lane a, lane b) { return _mm_or_si128(a, b); }
/* The bytes of v at the places, 0 where a place is negative. */
QC_INLINE lane lane_pick(lane v, lane places) { return _mm_shuffle_epi8(v, places); }
#endif /* NEON, Helium, AVX-512 or AVX2 */

/* Elements of two vectors side by side, and vectors of floats: not on Helium. */
#if defined(QC_VECTOR) && !defined(QC_HELIUM)
#define QC_SHUFFLES 1
#endif

/* out[i] = clamp(SR(sums[i], m, s) + z) with one m and s. */
static inline void qc_scale_row(const int32_t *sums, int64_t count, int32_t multiplier, int32_t shift,
                                int32_t zero_point, int32_t qmin, int32_t qmax, qc_code *out)
{
#if defined(QC_VECTOR)
    const vec_scaling k = vec_scaling_of(V(set1_epi32)(multiplier), V(set1_epi32)(shift), zero_point);
    const vec low = V(set1_epi8)((char)qmin), high = V(set1_epi8)((char)qmax);
    for (int64_t i = 0; i < count; i += VEC) {
        int32_t rest[VEC];
        const int32_t *x = sums + i;
        if (count - i < VEC)
            x = memcpy(rest, x, (size_t)(count - i) * sizeof *x);
        const vec y = vec_pack(vec_scale(&k, vec_load(x)), vec_scale(&k, vec_load(x + VEC_LANES)),
                               vec_scale(&k, vec_load(x + 2 * VEC_LANES)), vec_scale(&k, vec_load(x + 3 * VEC_LANES)));
        vec_store_part(out + i, vec_clamp_bytes(vec_order(y), low, high), count - i);
    }
#else
    for (int64_t i = 0; i < count; i++)
        out[i] = (qc_code)qc_clamp(qc_scale(sums[i], multiplier, shift) + zero_point, qmin, qmax);
#endif
}

#endif
