/* GEMM tiles with smmla: it multiplies eight bytes of two rows with those of two columns, for four sums.
 *
 * Two rows side by side are one operand; columns are packed in pairs. Sums come in squares of two rows by two
 * columns and are put in rows when they are complete. */
#include "level.h"

#if defined(QC_I8MM)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns", "no-schedule-insns2", "no-tree-ter")
#endif
#include "tile_neon.h"

/* Pairs of rows: X(pair, first row, second row). An odd last row is paired with the one behind it. */
#define PAIRS_1(X) X(0, 0, 1)
#define PAIRS_2(X) PAIRS_1(X)
#define PAIRS_3(X) PAIRS_2(X) X(1, 2, 3)
#define PAIRS_4(X) PAIRS_3(X)

#define HALF_PANEL 64 /* bytes of eight columns in a step */
#define POINT(p, r, s) const uint8_t *row##r = at[r], *row##s = at[s];
#define JOIN(low, high, a, b) vreinterpretq_s8_s64(low##high(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)))
#define READ_16(p, r, s)                                                           \
    const int8x16_t first##p = load16(row##r + k), second##p = load16(row##s + k); \
    const int8x16_t a##p##_0 = JOIN(vzip1q, _s64, first##p, second##p);            \
    const int8x16_t a##p##_1 = JOIN(vzip2q, _s64, first##p, second##p);
#define READ_8(p, r, s) \
    const int8x16_t a##p##_0 = vcombine_s8(vld1_s8((const int8_t *)row##r + k), vld1_s8((const int8_t *)row##s + k));

#define START(p, j) int32x4_t d##p##_##j = vdupq_n_s32(0);
#define START_8(p, r, s) START(p, 0) START(p, 1) START(p, 2) START(p, 3)
#define START_16(p, r, s) START_8(p, r, s) START(p, 4) START(p, 5) START(p, 6) START(p, 7)

#if defined(__clang__)
#define MULTIPLY(p, j, step) d##p##_##j = vmmlaq_s32(d##p##_##j, a##p##_##step, w);
#else
/* The intrinsic's operand and result are two values to gcc, which moves some of them about. */
#define MULTIPLY(p, j, step) \
    __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(d##p##_##j) : "w"(a##p##_##step), "w"(w));
#endif
#define COLUMN(ROWS, j, step)                                      \
    {                                                              \
        const int8x16_t w = load16(weight + 128 * step + 16 * j);  \
        PAIRS_##ROWS(MULTIPLY_##j##_##step)                        \
    }
#define MULTIPLY_0_0(p, r, s) MULTIPLY(p, 0, 0)
#define MULTIPLY_1_0(p, r, s) MULTIPLY(p, 1, 0)
#define MULTIPLY_2_0(p, r, s) MULTIPLY(p, 2, 0)
#define MULTIPLY_3_0(p, r, s) MULTIPLY(p, 3, 0)
#define MULTIPLY_4_0(p, r, s) MULTIPLY(p, 4, 0)
#define MULTIPLY_5_0(p, r, s) MULTIPLY(p, 5, 0)
#define MULTIPLY_6_0(p, r, s) MULTIPLY(p, 6, 0)
#define MULTIPLY_7_0(p, r, s) MULTIPLY(p, 7, 0)
#define MULTIPLY_0_1(p, r, s) MULTIPLY(p, 0, 1)
#define MULTIPLY_1_1(p, r, s) MULTIPLY(p, 1, 1)
#define MULTIPLY_2_1(p, r, s) MULTIPLY(p, 2, 1)
#define MULTIPLY_3_1(p, r, s) MULTIPLY(p, 3, 1)
#define MULTIPLY_4_1(p, r, s) MULTIPLY(p, 4, 1)
#define MULTIPLY_5_1(p, r, s) MULTIPLY(p, 5, 1)
#define MULTIPLY_6_1(p, r, s) MULTIPLY(p, 6, 1)
#define MULTIPLY_7_1(p, r, s) MULTIPLY(p, 7, 1)
#define STEP_8(ROWS, step) COLUMN(ROWS, 0, step) COLUMN(ROWS, 1, step) COLUMN(ROWS, 2, step) COLUMN(ROWS, 3, step)
#define STEP_16(ROWS, step) \
    STEP_8(ROWS, step) COLUMN(ROWS, 4, step) COLUMN(ROWS, 5, step) COLUMN(ROWS, 6, step) COLUMN(ROWS, 7, step)

/* Row r is half `half` of the squares of pair p. */
#define ROW(r, p, half, i, j0, j1)                                                       \
    int32x4_t c##r##_##i = vreinterpretq_s32_s64(                                        \
        vzip##half##q_s64(vreinterpretq_s64_s32(d##p##_##j0), vreinterpretq_s64_s32(d##p##_##j1))); \
    c##r##_##i = vaddq_s32(c##r##_##i, b##i);
#define ROW_8(r, p, half) ROW(r, p, half, 0, 0, 1) ROW(r, p, half, 1, 2, 3)
#define ROW_16(r, p, half) ROW_8(r, p, half) ROW(r, p, half, 2, 4, 5) ROW(r, p, half, 3, 6, 7)
#define UNPAIR_1(ROW) ROW(0, 0, 1)
#define UNPAIR_2(ROW) UNPAIR_1(ROW) ROW(1, 0, 2)
#define UNPAIR_3(ROW) UNPAIR_2(ROW) ROW(2, 1, 1)
#define UNPAIR_4(ROW) UNPAIR_3(ROW) ROW(3, 1, 2)

#define BIAS(i) const int32x4_t b##i = vld1q_s32(start + 4 * i);
#define BIAS_8 BIAS(0) BIAS(1)
#define BIAS_16 BIAS_8 BIAS(2) BIAS(3)

#define SETUP                                                                  \
    const int64_t depth = 4 * tile->k4, sixteens = depth & ~(int64_t)15;       \
    const int has_8 = depth & 8;                                               \
    const int64_t row_step = tile->row_step;

#define SUMS(ROWS, COLUMNS)                                                                        \
    PAIRS_##ROWS(START_##COLUMNS)                                                                  \
    const uint8_t *const *at = rows;                                                               \
    for (int64_t tap = 0; tap < taps; tap++, at += row_step) {                                     \
        int64_t k = offsets[tap];                                                                  \
        PAIRS_##ROWS(POINT)                                                                        \
        for (const int64_t end = k + sixteens; k < end; k += 16, weight += 256) {                  \
            PAIRS_##ROWS(READ_16)                                                                  \
            STEP_##COLUMNS(ROWS, 0)                                                                \
            STEP_##COLUMNS(ROWS, 1)                                                                \
        }                                                                                          \
        if (has_8) {                                                                               \
            PAIRS_##ROWS(READ_8)                                                                   \
            STEP_##COLUMNS(ROWS, 0)                                                                \
            weight += 128;                                                                         \
        }                                                                                          \
    }                                                                                              \
    BIAS_##COLUMNS                                                                                 \
    UNPAIR_##ROWS(ROW_##COLUMNS)
#define SUMS_8(ROWS) SUMS(ROWS, 8)
#define SUMS_16(ROWS) SUMS(ROWS, 16)

TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 8)
TILE(1, 16)
TILE(2, 16)
TILE(3, 16)
TILE(4, 16)

static const tile_function narrow[] = {NULL, tile_1x8, tile_2x8, tile_3x8, tile_4x8};
static const tile_function wide[] = {NULL, tile_1x16, tile_2x16, tile_3x16, tile_4x16};

TILE_COLUMNS
#else
typedef int qc_empty_translation_unit;
#endif
