/* GEMM tiles on NEON without sdot.
 *
 * smull and smlal add two products of bytes in 16 bits, which weights of -127 .. 127 cannot exceed, and sadalp
 * adds pairs of those to 32 bits: each column has two sums until the end. Where a weight may be -128, as in products
 * of activations, every product is added by itself. */
#include "level.h"

#if defined(QC_NEON) && !defined(QC_DOT)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns", "no-tree-ter")
#endif
#include "tile_neon.h"

#define HALF_PANEL 32 /* bytes of eight columns in a step */
#define POINT(r) const uint8_t *row##r = at[r];
#define REPEAT(bytes) vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)(bytes)))
#define READ(r)                                                                  \
    const int32x2_t both##r = vreinterpret_s32_s8(vld1_s8((const int8_t *)row##r + k)); \
    const int8x16_t a##r = vreinterpretq_s8_s32(vdupq_lane_s32(both##r, 0));     \
    const int8x16_t b##r = vreinterpretq_s8_s32(vdupq_lane_s32(both##r, 1));
#define READ_4(r) const int8x16_t a##r = REPEAT(row##r + k);

#define START(r, i) int32x4_t p##r##_##i = vdupq_n_s32(0), q##r##_##i = vdupq_n_s32(0);
#define START_8(r) START(r, 0) START(r, 1)
#define START_16(r) START_8(r) START(r, 2) START(r, 3)

/* Four columns of eight bytes of the depth: v of the first four, w of the others. All rows take a step before one
 * takes the next: a core that issues in order would wait for each result. */
#define FIRST_LOW(r) int16x8_t s##r = vmull_s8(vget_low_s8(v), vget_low_s8(a##r));
#define FIRST_HIGH(r) int16x8_t s##r = vmull_high_s8(v, a##r);
#define SECOND_LOW(r) s##r = vmlal_s8(s##r, vget_low_s8(w), vget_low_s8(b##r));
#define SECOND_HIGH(r) s##r = vmlal_high_s8(s##r, w, b##r);
#define ADD(r, i) p##r##_##i = vpadalq_s16(p##r##_##i, s##r);
#define ADD_HIGH(r, i) q##r##_##i = vpadalq_s16(q##r##_##i, s##r);
#define ADD_0(r) ADD(r, 0)
#define ADD_1(r) ADD(r, 1)
#define ADD_2(r) ADD(r, 2)
#define ADD_3(r) ADD(r, 3)
#define ADD_HIGH_0(r) ADD_HIGH(r, 0)
#define ADD_HIGH_1(r) ADD_HIGH(r, 1)
#define ADD_HIGH_2(r) ADD_HIGH(r, 2)
#define ADD_HIGH_3(r) ADD_HIGH(r, 3)

#define COLUMN(ROWS, i)                                                                                     \
    {                                                                                                       \
        const int8x16_t v = load16(weight + 16 * i), w = load16(weight + 64 + 16 * i);                      \
        { ROWS_##ROWS(FIRST_LOW) ROWS_##ROWS(SECOND_LOW) ROWS_##ROWS(ADD_##i) }                             \
        { ROWS_##ROWS(FIRST_HIGH) ROWS_##ROWS(SECOND_HIGH) ROWS_##ROWS(ADD_HIGH_##i) }                      \
    }
#define COLUMN_4(ROWS, i)                                                                                   \
    {                                                                                                       \
        const int8x16_t v = load16(weight + 16 * i);                                                        \
        { ROWS_##ROWS(FIRST_LOW) ROWS_##ROWS(ADD_##i) }                                                     \
        { ROWS_##ROWS(FIRST_HIGH) ROWS_##ROWS(ADD_HIGH_##i) }                                               \
    }
#define STEP_8(COLUMN, ROWS) COLUMN(ROWS, 0) COLUMN(ROWS, 1)
#define STEP_16(COLUMN, ROWS) STEP_8(COLUMN, ROWS) COLUMN(ROWS, 2) COLUMN(ROWS, 3)

#define SUM(r, i)                                                                    \
    int32x4_t c##r##_##i = vaddq_s32(vld1q_s32(start + 4 * i),                       \
                                     vpaddq_s32(p##r##_##i, q##r##_##i));
#define SUM_8(r) SUM(r, 0) SUM(r, 1)
#define SUM_16(r) SUM_8(r) SUM(r, 2) SUM(r, 3)

#define SETUP                                                                \
    const int64_t row_step = tile->row_step;                                 \
    const int64_t depth = 4 * tile->k4;                                      \
    const int64_t paired = tile->any_weight ? 0 : depth & ~(int64_t)7;

#define SUMS(ROWS, COLUMNS)                                                                        \
    ROWS_##ROWS(START_##COLUMNS)                                                                   \
    const uint8_t *const *at = rows;                                                               \
    for (int64_t tap = 0; tap < taps; tap++, at += row_step) {                                     \
        int64_t k = offsets[tap];                                                                  \
        const int64_t end = k + depth;                                                             \
        ROWS_##ROWS(POINT)                                                                         \
        for (const int64_t even = k + paired; k < even; k += 8, weight += 128) {                   \
            ROWS_##ROWS(READ)                                                                      \
            STEP_##COLUMNS(COLUMN, ROWS)                                                           \
        }                                                                                          \
        for (; k < end; k += 4, weight += 64) {                                                    \
            ROWS_##ROWS(READ_4)                                                                    \
            STEP_##COLUMNS(COLUMN_4, ROWS)                                                         \
        }                                                                                          \
    }                                                                                              \
    ROWS_##ROWS(SUM_##COLUMNS)
#define SUMS_8(ROWS) SUMS(ROWS, 8)
#define SUMS_16(ROWS) SUMS(ROWS, 16)

TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 8)
TILE(1, 16)
TILE(2, 16)

static const tile_function narrow[] = {NULL, tile_1x8, tile_2x8, tile_3x8, tile_4x8};
static const tile_function wide[] = {NULL, tile_1x16, tile_2x16, NULL, NULL};

TILE_COLUMNS
#else
typedef int qc_empty_translation_unit;
#endif
