/* What the tiles of NEON share: which sums a function computes, and how they become bytes.
 *
 * A file defines SETUP(rows), what all of them need, SUMS_<columns>(rows), the statements that leave the sums of a tile in vectors c<row>_<i> of
 * four columns, and makes functions of it with TILE. Sums are named because arrays of vectors end up in memory. */
#ifndef QC_TILE_NEON_H
#define QC_TILE_NEON_H

#include "neon.h"
#include "tile.h"

#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ROWS_7(X) ROWS_6(X) X(6)
#define ROWS_8(X) ROWS_7(X) X(7)

/* Where the sums of a row start: the same biases, or earlier sums, row by row. */
#define START_AT_0 const int32_t *start0 = t->start + n;
#define START_AT(r, before) const int32_t *start##r = start##before + tile->start_step;
#define STARTS_1 START_AT_0
#define STARTS_2 STARTS_1 START_AT(1, 0)
#define STARTS_3 STARTS_2 START_AT(2, 1)
#define STARTS_4 STARTS_3 START_AT(3, 2)
#define STARTS_5 STARTS_4 START_AT(4, 3)
#define STARTS_6 STARTS_5 START_AT(5, 4)
#define STARTS_7 STARTS_6 START_AT(6, 5)
#define STARTS_8 STARTS_7 START_AT(7, 6)

/* Reads each row two rows ahead of its use. */
#define HEAD_2(READ, USE) READ(0) READ(1)
#define HEAD_3(READ, USE) HEAD_2(READ, USE) USE(0) READ(2)
#define HEAD_4(READ, USE) HEAD_3(READ, USE) USE(1) READ(3)
#define HEAD_5(READ, USE) HEAD_4(READ, USE) USE(2) READ(4)
#define HEAD_6(READ, USE) HEAD_5(READ, USE) USE(3) READ(5)
#define HEAD_7(READ, USE) HEAD_6(READ, USE) USE(4) READ(6)
#define HEAD_8(READ, USE) HEAD_7(READ, USE) USE(5) READ(7)
#define LEAD_1(READ, USE) READ(0) USE(0)
#define LEAD_2(READ, USE) HEAD_2(READ, USE) USE(0) USE(1)
#define LEAD_3(READ, USE) HEAD_3(READ, USE) USE(1) USE(2)
#define LEAD_4(READ, USE) HEAD_4(READ, USE) USE(2) USE(3)
#define LEAD_5(READ, USE) HEAD_5(READ, USE) USE(3) USE(4)
#define LEAD_6(READ, USE) HEAD_6(READ, USE) USE(4) USE(5)
#define LEAD_7(READ, USE) HEAD_7(READ, USE) USE(5) USE(6)
#define LEAD_8(READ, USE) HEAD_8(READ, USE) USE(6) USE(7)

/* Most rows that registers hold the sums of. */
#if defined(QC_DOT) && !defined(QC_I8MM)
#define QC_NEON_ROWS 8
#else
#define QC_NEON_ROWS 4
#endif

/* Rows of a tile: where they read and start, and where their sums or bytes go. */
typedef struct {
    const qc_tile *tile;
    const uint8_t *const *rows;
    const int32_t *start;
    int32_t *sums;
    uint8_t *out;
    int64_t stride;
    int16x8_t zero_point;
    int8x16_t low, high;
} tile_target;

#define STORE_SUMS_8(r)                                        \
    vst1q_s32(sums + r * QC_TILE_LD + n, c##r##_0);            \
    vst1q_s32(sums + r * QC_TILE_LD + n + 4, c##r##_1);
#define STORE_SUMS_16(r)                                       \
    STORE_SUMS_8(r)                                            \
    vst1q_s32(sums + r * QC_TILE_LD + n + 8, c##r##_2);        \
    vst1q_s32(sums + r * QC_TILE_LD + n + 12, c##r##_3);

#define LOAD_LEFT(i) const int32x4_t l##i = vld1q_s32(e->left + channel + 4 * i);
#define LEFT_8 LOAD_LEFT(0) LOAD_LEFT(1)
#define LEFT_16 LEFT_8 LOAD_LEFT(2) LOAD_LEFT(3)
#define SHIFT_LEFT(r, i) c##r##_##i = vqshlq_s32(c##r##_##i, l##i);
#define SHIFT_LEFT_8(r) SHIFT_LEFT(r, 0) SHIFT_LEFT(r, 1)
#define SHIFT_LEFT_16(r) SHIFT_LEFT_8(r) SHIFT_LEFT(r, 2) SHIFT_LEFT(r, 3)

#define LOAD_SCALE(i)                                                   \
    const int32x4_t m##i = vld1q_s32(e->multiplier + channel + 4 * i);  \
    const int32x4_t s##i = vld1q_s32(e->right + channel + 4 * i);
#define SCALE_8 LOAD_SCALE(0) LOAD_SCALE(1)
#define SCALE_16 SCALE_8 LOAD_SCALE(2) LOAD_SCALE(3)

#define LANES(r, i) requant_lanes(c##r##_##i, m##i, s##i)
#define WORDS(r, i, j) narrow_words(LANES(r, i), LANES(r, j), zero_point)

/* Two rows of eight columns share a vector of bytes. */
#define WRITE_TWO_8(r, s)                                                                         \
    {                                                                                             \
        const int8x16_t y = clamp_bytes(narrow_bytes(WORDS(r, 0, 1), WORDS(s, 0, 1)), low, high); \
        vst1_s8((int8_t *)out, vget_low_s8(y));                                                   \
        vst1q_lane_s64((int64_t *)(void *)(out + stride), vreinterpretq_s64_s8(y), 1);         \
        out += 2 * stride;                                                                        \
    }
#define WRITE_ONE_8(r)                                                                            \
    {                                                                                             \
        const int16x8_t words = WORDS(r, 0, 1);                                                   \
        store_part(out, clamp_bytes(narrow_bytes(words, words), low, high), left);                \
        out += stride;                                                                            \
    }
#define WRITE_ONE_16(r)                                                                           \
    {                                                                                             \
        store16(out, clamp_bytes(narrow_bytes(WORDS(r, 0, 1), WORDS(r, 2, 3)), low, high));       \
        out += stride;                                                                            \
    }
#define TWOS_1 WRITE_ONE_8(0)
#define TWOS_2 WRITE_TWO_8(0, 1)
#define TWOS_3 TWOS_2 WRITE_ONE_8(2)
#define TWOS_4 TWOS_2 WRITE_TWO_8(2, 3)
#define TWOS_5 TWOS_4 WRITE_ONE_8(4)
#define TWOS_6 TWOS_4 WRITE_TWO_8(4, 5)
#define TWOS_7 TWOS_6 WRITE_ONE_8(6)
#define TWOS_8 TWOS_6 WRITE_TWO_8(6, 7)
#define WRITE_8(ROWS)                                    \
    const int64_t left = qc_min(8, last - n);            \
    if (left == 8) {                                     \
        TWOS_##ROWS                                      \
        continue;                                        \
    }                                                    \
    ROWS_##ROWS(WRITE_ONE_8)
#define WRITE_16(ROWS) ROWS_##ROWS(WRITE_ONE_16)

#define TILE(ROWS, COLUMNS)                                                                       \
    __attribute__((noinline)) static void tile_##ROWS##x##COLUMNS(const tile_target *t, int64_t first, int64_t last) \
    {                                                                                             \
        const qc_tile *tile = t->tile;                                                            \
        SETUP(ROWS)                                                                               \
        for (int64_t n = first; n < last; n += COLUMNS) {                                         \
            SUMS_##COLUMNS(ROWS)                                                                  \
            if (t->sums) {                                                                        \
                int32_t *sums = t->sums;                                                          \
                ROWS_##ROWS(STORE_SUMS_##COLUMNS)                                                 \
                continue;                                                                         \
            }                                                                                     \
            const qc_epilogue *e = tile->epilogue;                                                \
            const int64_t channel = tile->channel + n;                                            \
            if (e->left) {                                                                        \
                LEFT_##COLUMNS                                                                    \
                ROWS_##ROWS(SHIFT_LEFT_##COLUMNS)                                                 \
            }                                                                                     \
            SCALE_##COLUMNS                                                                       \
            const int16x8_t zero_point = t->zero_point;                                           \
            const int8x16_t low = t->low, high = t->high;                                         \
            uint8_t *out = t->out + n;                                                            \
            const int64_t stride = t->stride;                                                     \
            WRITE_##COLUMNS(ROWS)                                                                 \
        }                                                                                         \
    }

/* Computes columns first .. last - 1. */
typedef void (*tile_function)(const tile_target *t, int64_t first, int64_t last);

/* Computes the first `columns` columns; what follows requantization is left to do. */
void qc_tile_columns(const tile_target *t, int rows, int64_t columns);

/* Whole panels with `wide`, NULL where there is none for so many rows, and the rest with `narrow`. */
QC_INLINE void qc_tile_halves(const tile_target *t, int64_t columns, tile_function wide, tile_function narrow)
{
    const int64_t whole = wide ? columns & ~(int64_t)(QC_PANEL - 1) : 0;
    if (whole)
        wide(t, 0, whole);
    if (whole < columns)
        narrow(t, whole, columns);
}

#endif
