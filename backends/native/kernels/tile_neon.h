/* What the tiles of NEON share: which sums a function computes, and how they become bytes.
 *
 * A file defines SETUP, what all columns need, POINT(r), which takes a row's pointer, and SUMS_<columns>(rows), the
 * statements that leave the sums of a tile in vectors c<row>_<i> of four columns, and makes functions of it with TILE.
 * Sums are named because arrays of vectors end up in memory. Statements take all rows a step further before the next
 * one, as a core that issues in order wants it. */
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
    int64_t groups;           /* tiles below each other; more than one where all rows share their offsets */
    const int32_t *start;     /* a row of first values */
    int rare;                 /* whether one of the next two is not NULL, or the epilogue shifts to the left */
    const int32_t *more;      /* earlier sums, QC_TILE_LD per row */
    int32_t *sums;            /* instead of bytes */
    uint8_t *out;
    int64_t stride;
    const uint8_t *residual;  /* as far apart as `out` */
    int form;                 /* one of neon.h; FROM_ZERO only where none of the above is to be done */
    int16x8_t zero_point;
    int8x16_t low, high;
    byte_sum sum;             /* where there is a residual */
} tile_target;

#define STORE_SUMS_8(r)                                        \
    vst1q_s32(sums + r * QC_TILE_LD + n, c##r##_0);            \
    vst1q_s32(sums + r * QC_TILE_LD + n + 4, c##r##_1);
#define STORE_SUMS_16(r)                                       \
    STORE_SUMS_8(r)                                            \
    vst1q_s32(sums + r * QC_TILE_LD + n + 8, c##r##_2);        \
    vst1q_s32(sums + r * QC_TILE_LD + n + 12, c##r##_3);

#define ADD_SUMS(r, i) c##r##_##i = vaddq_s32(c##r##_##i, vld1q_s32(t->more + r * QC_TILE_LD + n + 4 * i));
#define ADD_SUMS_8(r) ADD_SUMS(r, 0) ADD_SUMS(r, 1)
#define ADD_SUMS_16(r) ADD_SUMS_8(r) ADD_SUMS(r, 2) ADD_SUMS(r, 3)

#define LOAD_LEFT(i) const int32x4_t l##i = vld1q_s32(left + 4 * i);
#define LEFT_8 LOAD_LEFT(0) LOAD_LEFT(1)
#define LEFT_16 LEFT_8 LOAD_LEFT(2) LOAD_LEFT(3)
#define SHIFT_LEFT(r, i) c##r##_##i = vqshlq_s32(c##r##_##i, l##i);
#define SHIFT_LEFT_8(r) SHIFT_LEFT(r, 0) SHIFT_LEFT(r, 1)
#define SHIFT_LEFT_16(r) SHIFT_LEFT_8(r) SHIFT_LEFT(r, 2) SHIFT_LEFT(r, 3)

/* SR, in two steps: requant_lanes in neon.h. */
#define LOAD_SCALE(i, j)                       \
    int32x4_t m##i, m##j, s##i, s##j;          \
    LOAD_PAIR(m##i, m##j, multiplier + 4 * i)  \
    LOAD_PAIR(s##i, s##j, right + 4 * i)
#define SCALE_8 LOAD_SCALE(0, 1)
#define SCALE_16 SCALE_8 LOAD_SCALE(2, 3)
#define MULTIPLY_HIGH(r, i) c##r##_##i = vqdmulhq_s32(c##r##_##i, m##i);
#define MULTIPLY_HIGH_8(r) MULTIPLY_HIGH(r, 0) MULTIPLY_HIGH(r, 1)
#define MULTIPLY_HIGH_16(r) MULTIPLY_HIGH_8(r) MULTIPLY_HIGH(r, 2) MULTIPLY_HIGH(r, 3)
#define SHIFT_RIGHT(r, i) c##r##_##i = vrshlq_s32(c##r##_##i, s##i);
#define SHIFT_RIGHT_8(r) SHIFT_RIGHT(r, 0) SHIFT_RIGHT(r, 1)
#define SHIFT_RIGHT_16(r) SHIFT_RIGHT_8(r) SHIFT_RIGHT(r, 2) SHIFT_RIGHT(r, 3)

/* Vectors of bytes of a tile: one for two rows of eight columns or for a row of sixteen. X(a, i, j, b, k, l) gets the
 * row that names it, and the words i, j of row a and k, l of row b. */
#define BYTES_1x8(X) X(0, 0, 1, 0, 0, 1)
#define BYTES_2x8(X) X(0, 0, 1, 1, 0, 1)
#define BYTES_3x8(X) BYTES_2x8(X) X(2, 0, 1, 2, 0, 1)
#define BYTES_4x8(X) BYTES_2x8(X) X(2, 0, 1, 3, 0, 1)
#define BYTES_5x8(X) BYTES_4x8(X) X(4, 0, 1, 4, 0, 1)
#define BYTES_6x8(X) BYTES_4x8(X) X(4, 0, 1, 5, 0, 1)
#define BYTES_7x8(X) BYTES_6x8(X) X(6, 0, 1, 6, 0, 1)
#define BYTES_8x8(X) BYTES_6x8(X) X(6, 0, 1, 7, 0, 1)
#define LONG_ROW(X, r) X(r, 0, 1, r, 2, 3)
#define BYTES_1x16(X) LONG_ROW(X, 0)
#define BYTES_2x16(X) BYTES_1x16(X) LONG_ROW(X, 1)
#define BYTES_3x16(X) BYTES_2x16(X) LONG_ROW(X, 2)
#define BYTES_4x16(X) BYTES_3x16(X) LONG_ROW(X, 3)
#define BYTES_5x16(X) BYTES_4x16(X) LONG_ROW(X, 4)

#define DECLARE_BYTES(a, i, j, b, k, l) int8x16_t y##a;
#define JOIN_WORDS(a, i, j, b, k, l)                         \
    int16x8_t u##a = join_words(c##a##_##i, c##a##_##j);     \
    int16x8_t v##a = join_words(c##b##_##k, c##b##_##l);
#define ADD_ZERO_POINT(a, i, j, b, k, l)     \
    u##a = vqaddq_s16(u##a, zero_point);     \
    v##a = vqaddq_s16(v##a, zero_point);
#define BYTES_FROM_ZERO(a, i, j, b, k, l) const int8x16_t y##a = narrow_from_zero(u##a, v##a);
#define SATURATED_BYTES(a, i, j, b, k, l) y##a = narrow_bytes(u##a, v##a);
#define CLAMPED_BYTES(a, i, j, b, k, l)                                                      \
    y##a = clamp_bytes(narrow_bytes(narrow_words(c##a##_##i, c##a##_##j, zero_point),        \
                                    narrow_words(c##b##_##k, c##b##_##l, zero_point)),       \
                       low, high);

/* Residuals of a vector, and where it goes. */
#define ADD_8(a, i, j, b, k, l)                                                                     \
    {                                                                                               \
        const int8x8_t top = vld1_s8((const int8_t *)residual);                                     \
        const int8x8_t below = vld1_s8((const int8_t *)residual + (a == b ? 0 : stride));           \
        y##a = sum_bytes(&t->sum, y##a, vcombine_s8(top, below));                                   \
        residual += (a == b ? 1 : 2) * stride;                                                      \
    }
#define ADD_16(a, i, j, b, k, l)                                      \
    y##a = sum_bytes(&t->sum, y##a, load16(residual));                \
    residual += stride;
#define WRITE_8(a, i, j, b, k, l)            \
    STORE_PART(out, y##a, d, 0, stride)         \
    if (a != b)                              \
        STORE_PART(out, y##a, d, 1, stride)
#define WRITE_16(a, i, j, b, k, l)           \
    store16(out, y##a);                      \
    out += stride;
#define WRITE_PART(a, i, j, b, k, l)                             \
    store_part(out, y##a, last - n);                             \
    out += stride;                                               \
    if (a != b) {                                                \
        store_part(out, vextq_s8(y##a, y##a, 8), last - n);      \
        out += stride;                                           \
    }

#define TILE(ROWS, COLUMNS)                                                                                      \
    __attribute__((noinline)) static void tile_##ROWS##x##COLUMNS(const tile_target *t, int64_t first, int64_t last) \
    {                                                                                                            \
        const qc_tile *tile = t->tile;                                                                           \
        const int64_t taps = tile->taps, stride = t->stride;                                                     \
        const int64_t *const offsets = tile->offsets;                                                            \
        SETUP                                                                                                    \
        for (int64_t n = first; n < last; n += COLUMNS) {                                                        \
            const int8_t *const panel = tile->weight + (n >> 4) * tile->panel_stride + (n & 8) * HALF_PANEL / 8; \
            const int32_t *const start = t->start + n;                                                           \
            const int whole = last - n >= COLUMNS, form = whole ? t->form : CLAMPED;                             \
            const int32_t *multiplier = NULL, *right = NULL;                                                     \
            if (!t->sums) {                                                                                      \
                multiplier = tile->epilogue->multiplier + tile->channel + n;                                     \
                right = tile->epilogue->right + tile->channel + n;                                               \
            }                                                                                                    \
            const uint8_t *const *rows = t->rows;                                                                \
            const uint8_t *residual = t->residual ? t->residual + n : NULL;                                      \
            uint8_t *out = t->out + n;                                                                           \
            for (int64_t left_groups = t->groups; left_groups; left_groups--, rows += ROWS) {                    \
                const int8_t *weight = panel;                                                                    \
                SUMS_##COLUMNS(ROWS)                                                                             \
                if (form == FROM_ZERO) {                                                                         \
                    SCALE_##COLUMNS                                                                              \
                    ROWS_##ROWS(MULTIPLY_HIGH_##COLUMNS)                                                         \
                    ROWS_##ROWS(SHIFT_RIGHT_##COLUMNS)                                                           \
                    BYTES_##ROWS##x##COLUMNS(JOIN_WORDS)                                                         \
                    BYTES_##ROWS##x##COLUMNS(BYTES_FROM_ZERO)                                                    \
                    BYTES_##ROWS##x##COLUMNS(WRITE_##COLUMNS)                                                    \
                    continue;                                                                                    \
                }                                                                                                \
                if (t->rare) {                                                                                   \
                    if (t->more) {                                                                               \
                        ROWS_##ROWS(ADD_SUMS_##COLUMNS)                                                          \
                    }                                                                                            \
                    if (t->sums) {                                                                               \
                        int32_t *const sums = t->sums;                                                           \
                        ROWS_##ROWS(STORE_SUMS_##COLUMNS)                                                        \
                        continue;                                                                                \
                    }                                                                                            \
                    if (tile->epilogue->left) {                                                                  \
                        const int32_t *left = tile->epilogue->left + tile->channel + n;                          \
                        LEFT_##COLUMNS                                                                           \
                        ROWS_##ROWS(SHIFT_LEFT_##COLUMNS)                                                        \
                    }                                                                                            \
                }                                                                                                \
                SCALE_##COLUMNS                                                                                  \
                ROWS_##ROWS(MULTIPLY_HIGH_##COLUMNS)                                                             \
                ROWS_##ROWS(SHIFT_RIGHT_##COLUMNS)                                                               \
                BYTES_##ROWS##x##COLUMNS(DECLARE_BYTES)                                                          \
                const int16x8_t zero_point = t->zero_point;                                                      \
                if (form == SATURATED) {                                                                         \
                    BYTES_##ROWS##x##COLUMNS(JOIN_WORDS)                                                         \
                    BYTES_##ROWS##x##COLUMNS(ADD_ZERO_POINT)                                                     \
                    BYTES_##ROWS##x##COLUMNS(SATURATED_BYTES)                                                    \
                } else {                                                                                         \
                    const int8x16_t low = t->low, high = t->high;                                                \
                    BYTES_##ROWS##x##COLUMNS(CLAMPED_BYTES)                                                      \
                }                                                                                                \
                if (residual) {                                                                                  \
                    BYTES_##ROWS##x##COLUMNS(ADD_##COLUMNS)                                                      \
                }                                                                                                \
                if (whole) {                                                                                     \
                    BYTES_##ROWS##x##COLUMNS(WRITE_##COLUMNS)                                                    \
                } else {                                                                                         \
                    BYTES_##ROWS##x##COLUMNS(WRITE_PART)                                                         \
                }                                                                                                \
            }                                                                                                    \
        }                                                                                                        \
    }

/* Computes columns first .. last - 1. */
typedef void (*tile_function)(const tile_target *t, int64_t first, int64_t last);

/* Computes the first `columns` columns of groups of so many rows; what a table does is left to do. */
void qc_tile_columns(const tile_target *t, int rows, int64_t columns);

/* Whole panels with `wide`, NULL where there is none for so many rows, and the rest with `narrow`. */
#define TILE_COLUMNS                                                                      \
    void qc_tile_columns(const tile_target *t, int rows, int64_t columns)                 \
    {                                                                                     \
        const int64_t whole = wide[rows] ? columns & ~(int64_t)(QC_PANEL - 1) : 0;        \
        if (whole)                                                                        \
            wide[rows](t, 0, whole);                                                      \
        if (whole < columns)                                                              \
            narrow[rows](t, whole, columns);                                              \
    }

#endif
