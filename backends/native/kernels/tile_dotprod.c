/* GEMM tiles with sdot: a vector holds four columns by four of the depth, and a lane of a row multiplies it. */
#include "level.h"

#if defined(QC_DOT) && !defined(QC_I8MM)
/* The loops below are in the order in which they should run; gcc would order them for more registers than there
 * are. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns", "no-schedule-insns2", "no-tree-ter")
#endif
#include "tile_neon.h"

#define HALF_PANEL 32 /* bytes of eight columns in a step */
#define POINT(r) row##r = at[r];
#define FIRST_POINT(r) const uint8_t *row##r = rows[r];
#define READ_16(r) const int8x16_t a##r = load16(row##r + k);
#define READ_8(r) const int8x8_t a##r = vld1_s8((const int8_t *)row##r + k);
#define READ_4(r) const int8x8_t a##r = vcreate_s8(*(const qc_uint32_anywhere *)(row##r + k));

#if defined(__clang__)
#define SDOT(sum, w, a, lane) sum = vdotq_laneq_s32(sum, w, a, lane);
#define HALF_SDOT(sum, w, a, lane) sum = vdotq_lane_s32(sum, w, a, lane);
#else
/* The intrinsic's operand and result are two values to gcc, which moves some of them about. */
#define SDOT(sum, w, a, lane) __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(sum) : "w"(w), "w"(a));
#define HALF_SDOT SDOT
#endif
#define DOT(r, i, lane) SDOT(c##r##_##i, w##i##_##lane, a##r, lane)
#define HALF_DOT(r, i, lane) HALF_SDOT(c##r##_##i, w##i##_##lane, a##r, lane)
#define ONE_DOT(r, i) HALF_SDOT(c##r##_##i, w##i##_0, a##r, 0)
#define DOT_8(r, lane) DOT(r, 0, lane) DOT(r, 1, lane)
#define DOT_16(r, lane) DOT_8(r, lane) DOT(r, 2, lane) DOT(r, 3, lane)
#define HALF_DOT_8(r, lane) HALF_DOT(r, 0, lane) HALF_DOT(r, 1, lane)
#define HALF_DOT_16(r, lane) HALF_DOT_8(r, lane) HALF_DOT(r, 2, lane) HALF_DOT(r, 3, lane)
#define ONE_DOT_8(r) ONE_DOT(r, 0) ONE_DOT(r, 1)
#define ONE_DOT_16(r) ONE_DOT_8(r) ONE_DOT(r, 2) ONE_DOT(r, 3)

#define LANE0_8(r) DOT_8(r, 0)
#define LANE1_8(r) DOT_8(r, 1)
#define LANE2_8(r) DOT_8(r, 2)
#define LANE3_8(r) DOT_8(r, 3)
#define LANE0_16(r) DOT_16(r, 0)
#define LANE1_16(r) DOT_16(r, 1)
#define LANE2_16(r) DOT_16(r, 2)
#define LANE3_16(r) DOT_16(r, 3)
#define HALF0_8(r) HALF_DOT_8(r, 0)
#define HALF1_8(r) HALF_DOT_8(r, 1)
#define HALF0_16(r) HALF_DOT_16(r, 0)
#define HALF1_16(r) HALF_DOT_16(r, 1)

#define WEIGHT(i, step) const int8x16_t w##i##_##step = load16(weight + 64 * step + 16 * i);
#define WEIGHTS_8(step) WEIGHT(0, step) WEIGHT(1, step)
#define WEIGHTS_16(step) WEIGHTS_8(step) WEIGHT(2, step) WEIGHT(3, step)
/* A core that issues in order waits for what it loads: narrow tiles load the next weights before they are due,
 * wide ones have no registers left for that. */
#define EARLY_8(step) WEIGHTS_8(step)
#define LATE_8(step)
#define EARLY_16(step)
#define LATE_16(step) WEIGHTS_16(step)

#define START(r, i, j)             \
    int32x4_t c##r##_##i, c##r##_##j; \
    LOAD_PAIR(c##r##_##i, c##r##_##j, start + 4 * i)
#define START_8(r) START(r, 0, 1)
#define START_16(r) START_8(r) START(r, 2, 3)

#define SETUP                                                                  \
    const int64_t depth = 4 * tile->k4, sixteens = depth & ~(int64_t)15;       \
    const int has_8 = depth & 8, has_4 = depth & 4;                            \
    const int64_t row_step = tile->row_step;

/* Where taps share the pointers to rows, they are loaded once. */
#define SUMS(ROWS, COLUMNS)                                                                        \
    const uint8_t *const *at = rows;                                                               \
    ROWS_##ROWS(FIRST_POINT)                                                                       \
    ROWS_##ROWS(START_##COLUMNS)                                                                   \
    for (int64_t tap = 0;;) {                                                                      \
        int64_t k = offsets[tap];                                                                  \
        for (const int64_t end = k + sixteens; k < end; k += 16, weight += 256) {                  \
            WEIGHTS_##COLUMNS(0)                                                                   \
            EARLY_##COLUMNS(1)                                                                     \
            LEAD_##ROWS(READ_16, LANE0_##COLUMNS)                                                  \
            LATE_##COLUMNS(1)                                                                      \
            EARLY_##COLUMNS(2)                                                                     \
            ROWS_##ROWS(LANE1_##COLUMNS)                                                           \
            LATE_##COLUMNS(2)                                                                      \
            EARLY_##COLUMNS(3)                                                                     \
            ROWS_##ROWS(LANE2_##COLUMNS)                                                           \
            LATE_##COLUMNS(3)                                                                      \
            ROWS_##ROWS(LANE3_##COLUMNS)                                                           \
        }                                                                                          \
        if (has_8) {                                                                               \
            ROWS_##ROWS(READ_8)                                                                    \
            WEIGHTS_##COLUMNS(0)                                                                   \
            ROWS_##ROWS(HALF0_##COLUMNS)                                                           \
            WEIGHTS_##COLUMNS(1)                                                                   \
            ROWS_##ROWS(HALF1_##COLUMNS)                                                           \
            k += 8;                                                                                \
            weight += 128;                                                                         \
        }                                                                                          \
        if (has_4) {                                                                               \
            ROWS_##ROWS(READ_4)                                                                    \
            WEIGHTS_##COLUMNS(0)                                                                   \
            ROWS_##ROWS(ONE_DOT_##COLUMNS)                                                         \
            weight += 64;                                                                          \
        }                                                                                          \
        if (++tap == taps)                                                                         \
            break;                                                                                 \
        if (row_step) {                                                                            \
            at += row_step;                                                                        \
            ROWS_##ROWS(POINT)                                                                     \
        }                                                                                          \
    }
#define SUMS_8(ROWS) SUMS(ROWS, 8)
#define SUMS_16(ROWS) SUMS(ROWS, 16)

TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 8)
TILE(5, 8)
TILE(6, 8)
TILE(7, 8)
TILE(8, 8)
TILE(1, 16)
TILE(2, 16)
TILE(3, 16)
TILE(4, 16)
TILE(5, 16)

static const tile_function narrow[] = {NULL,     tile_1x8, tile_2x8, tile_3x8, tile_4x8,
                                       tile_5x8, tile_6x8, tile_7x8, tile_8x8};
static const tile_function wide[] = {NULL,       tile_1x16, tile_2x16, tile_3x16, tile_4x16,
                                     tile_5x16,  NULL,      NULL,      NULL};

TILE_COLUMNS
#else
typedef int qc_empty_translation_unit;
#endif
