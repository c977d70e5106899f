/* Registers of NEON: loads and stores of bytes, requantization, and what follows it. */
#ifndef QC_NEON_H
#define QC_NEON_H

#include "arith.h"
#include "level.h"

#include <arm_neon.h>
#include <string.h>

QC_INLINE int8x16_t load16(const void *p) { return vld1q_s8((const int8_t *)p); }
QC_INLINE void store16(void *p, int8x16_t v) { vst1q_s8((int8_t *)p, v); }

/* Stores the first n bytes, all of them where n >= 16. */
QC_INLINE void store_part(void *p, int8x16_t v, int64_t n)
{
    int8_t bytes[16], *out = p;
    if (n >= 16) {
        vst1q_s8(out, v);
        return;
    }
    if (n >= 8) {
        vst1_s8(out, vget_low_s8(v));
        v = vextq_s8(v, v, 8);
        out += 8;
        n -= 8;
    }
    vst1_s8(bytes, vget_low_s8(v));
    for (int64_t i = 0; i < n; i++)
        out[i] = bytes[i];
}

/* Stores an element of a vector and moves on to what lies `step` bytes behind. No intrinsic does both. */
#define STORE_PART(out, v, type, i, step) \
    __asm__ volatile("st1 {%1." #type "}[" #i "], [%0], %2" : "+r"(out) : "w"(v), "r"(step) : "memory");

/* Loads a pair of vectors. What is loaded again and again stays two instructions to a compiler: it keeps the values
 * in registers and copies them one by one. */
#define LOAD_PAIR(low, high, p)                                \
    __asm__ volatile("ldp %q0, %q1, [%2]"                      \
                     : "=w"(low), "=w"(high)                   \
                     : "r"(p), "m"(*(const char(*)[32])(p)));

/* The same of what lies `at` bytes behind p and is written by other functions alone: gcc would keep the addresses of
 * memory operands in registers. It also moves other loads to where their values are due; clang places them well. */
#if defined(__clang__) || !defined(__OPTIMIZE__)
#define LOAD_PAIR_AT(low, high, p, at)                         \
    {                                                          \
        low = load16((const char *)(p) + (at));                \
        high = load16((const char *)(p) + (at) + 16);          \
    }
#else
#define LOAD_PAIR_AT(low, high, p, at)                         \
    __asm__ volatile("ldp %q0, %q1, [%2, %3]" : "=w"(low), "=w"(high) : "r"(p), "n"(at));
#endif

/* Loads a pair and moves p on by `step` bytes. */
#define LOAD_NEXT_PAIR(low, high, p, step)                   \
    __asm__ volatile("ldp %q0, %q1, [%2], %3"                  \
                     : "=w"(low), "=w"(high), "+r"(p)          \
                     : "n"(step), "m"(*(const char(*)[32])(p)));

/* SR without the saturation that a clamp to 8 bits hides (integer semantics, 4); `right` is negative. */
QC_INLINE int32x4_t requant_lanes(int32x4_t x, int32x4_t multiplier, int32x4_t right)
{
    return vrshlq_s32(vqdmulhq_s32(x, multiplier), right);
}

/* Two vectors to 16 bits with saturation, plus the zero point. */
QC_INLINE int16x8_t narrow_words(int32x4_t low, int32x4_t high, int16x8_t zero_point)
{
    return vqaddq_s16(vqmovn_high_s32(vqmovn_s32(low), high), zero_point);
}

QC_INLINE int8x16_t narrow_bytes(int16x8_t low, int16x8_t high)
{
    return vqmovn_high_s16(vqmovn_s16(low), high);
}

/* Two vectors of numbers that fit in 16 bits. */
QC_INLINE int16x8_t join_words(int32x4_t low, int32x4_t high)
{
    return vuzp1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
}

/* Words minus 128, with saturation of that. */
QC_INLINE int8x16_t narrow_from_zero(int16x8_t low, int16x8_t high)
{
    const uint8x16_t y = vqmovun_high_s16(vqmovun_s16(low), high);
    return vreinterpretq_s8_u8(veorq_u8(y, vdupq_n_u8(128)));
}

/* How scaled sums become bytes: */
enum {
    FROM_ZERO,  /* they fit in 16 bits, and a byte is what they are plus the zero point -128, saturated */
    SATURATED,  /* they fit in 16 bits, and a byte is what they are plus the zero point, saturated */
    CLAMPED,    /* anything else */
};

QC_INLINE int form_of(const qc_epilogue *e)
{
    if (!e->fits_words || e->qmin != -128 || e->qmax != 127)
        return CLAMPED;
    return e->zero_point == -128 ? FROM_ZERO : SATURATED;
}

QC_INLINE int8x16_t clamp_bytes(int8x16_t v, int8x16_t low, int8x16_t high)
{
    return vminq_s8(vmaxq_s8(v, low), high);
}

/* A table of 256 codes by the bits of the index: an index beyond 64 entries leaves tbx's first operand. */
typedef struct {
    int8x16x4_t part[4];
} byte_table;

QC_INLINE byte_table byte_table_of(const qc_code *table)
{
    return (byte_table){{vld1q_s8_x4(table), vld1q_s8_x4(table + 64), vld1q_s8_x4(table + 128),
                         vld1q_s8_x4(table + 192)}};
}

QC_INLINE int8x16_t look_up(const byte_table *t, int8x16_t x)
{
    const uint8x16_t step = vdupq_n_u8(64), at = vreinterpretq_u8_s8(x);
    const uint8x16_t at1 = vsubq_u8(at, step), at2 = vsubq_u8(at1, step), at3 = vsubq_u8(at2, step);
    int8x16_t y = vqtbl4q_s8(t->part[0], at);
    y = vqtbx4q_s8(y, t->part[1], at1);
    y = vqtbx4q_s8(y, t->part[2], at2);
    return vqtbx4q_s8(y, t->part[3], at3);
}

/* ADD2: a*ma + b*mb + rest with the zero points in `rest`; the rounding shift takes half its unit itself. */
typedef struct {
    int32x4_t ma, mb, rest, right;
    int16x8_t zero_point;
    int8x16_t low, high;
} byte_sum;

/* Takes the constants {za, ma, zb, mb, shift, zo, qmin, qmax} of qc_add2. */
QC_INLINE byte_sum byte_sum_of(const int32_t *k)
{
    const uint32_t rest = 0 - (uint32_t)k[0] * (uint32_t)k[1] - (uint32_t)k[2] * (uint32_t)k[3];
    return (byte_sum){vdupq_n_s32(k[1]), vdupq_n_s32(k[3]), vdupq_n_s32((int32_t)rest), vdupq_n_s32(-k[4]),
                      vdupq_n_s16((int16_t)k[5]), vdupq_n_s8((int8_t)k[6]), vdupq_n_s8((int8_t)k[7])};
}

QC_INLINE int32x4_t sum_lanes(const byte_sum *k, int16x4_t a, int16x4_t b)
{
    const int32x4_t first = vmlaq_s32(k->rest, vmovl_s16(a), k->ma);
    return vrshlq_s32(vmlaq_s32(first, vmovl_s16(b), k->mb), k->right);
}

QC_INLINE int16x8_t sum_words(const byte_sum *k, int16x8_t a, int16x8_t b)
{
    return narrow_words(sum_lanes(k, vget_low_s16(a), vget_low_s16(b)),
                        sum_lanes(k, vget_high_s16(a), vget_high_s16(b)), k->zero_point);
}

QC_INLINE int8x16_t sum_bytes(const byte_sum *k, int8x16_t a, int8x16_t b)
{
    const int16x8_t low = sum_words(k, vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_low_s8(b)));
    const int16x8_t high = sum_words(k, vmovl_high_s8(a), vmovl_high_s8(b));
    return clamp_bytes(narrow_bytes(low, high), k->low, k->high);
}

#endif
