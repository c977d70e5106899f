/* Packing of columns and sums of rows for products of activations on NEON. */
#ifndef QC_MATMUL_NEON_H
#define QC_MATMUL_NEON_H

#include "neon.h"

#define HALVES(v) vreinterpretq_s16_s8(v)

/* Four rows of 16 bytes by groups of four: four columns a vector. */
QC_INLINE void group_rows(const uint8_t *const row[4], int64_t at, int32x4_t out[4])
{
    const int8x16_t a = load16(row[0] + at), b = load16(row[1] + at), c = load16(row[2] + at), d = load16(row[3] + at);
    const int16x8_t ab0 = HALVES(vzip1q_s8(a, b)), ab1 = HALVES(vzip2q_s8(a, b));
    const int16x8_t cd0 = HALVES(vzip1q_s8(c, d)), cd1 = HALVES(vzip2q_s8(c, d));
    out[0] = vreinterpretq_s32_s16(vzip1q_s16(ab0, cd0));
    out[1] = vreinterpretq_s32_s16(vzip2q_s16(ab0, cd0));
    out[2] = vreinterpretq_s32_s16(vzip1q_s16(ab1, cd1));
    out[3] = vreinterpretq_s32_s16(vzip2q_s16(ab1, cd1));
}

/* A panel's columns of as many rows as a step of the tiles takes. */
static inline void interleave(const uint8_t *const *row, int64_t at, int8_t *out)
{
    int32x4_t v[4];
    int32_t *to = (int32_t *)(void *)out;
    group_rows(row, at, v);
#if defined(QC_I8MM)
    int32x4_t w[4];
    group_rows(row + 4, at, w);
    for (int i = 0; i < 4; i++) {
        vst1q_s32(to + 8 * i, vzip1q_s32(v[i], w[i]));
        vst1q_s32(to + 8 * i + 4, vzip2q_s32(v[i], w[i]));
    }
#else
    for (int i = 0; i < 4; i++)
        vst1q_s32(to + 4 * i, v[i]);
#endif
}

/* Sums of a panel's columns. */
static inline void sum_columns(const int8_t *panel, int64_t k4, int32_t *sums)
{
#if defined(QC_I8MM)
    enum { VECTORS = 8 };
#else
    enum { VECTORS = 4 };
#endif
    int32x4_t sum[VECTORS];
    for (int i = 0; i < VECTORS; i++)
        sum[i] = vdupq_n_s32(0);
    for (int64_t k = 0; k < k4; k += VECTORS / 4, panel += 16 * VECTORS)
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS; i++)
            sum[i] = vpadalq_s16(sum[i], vpaddlq_s8(load16(panel + 16 * i)));
    for (int i = 0; i < 4; i++)
        vst1q_s32(sums + 4 * i, VECTORS == 4 ? sum[i] : vpaddq_s32(sum[2 * i % VECTORS], sum[(2 * i + 1) % VECTORS]));
}

/* The sum of a row of bytes. */
static inline int32_t sum_row(const uint8_t *row, int64_t depth)
{
    int32x4_t sum = vdupq_n_s32(0);
    int64_t k = 0;
    int8_t rest[16] = {0};
    for (; k + 16 <= depth; k += 16)
        sum = vpadalq_s16(sum, vpaddlq_s8(load16(row + k)));
    memcpy(rest, row + k, (size_t)(depth - k));
    return vaddvq_s32(vpadalq_s16(sum, vpaddlq_s8(vld1q_s8(rest))));
}

#endif
