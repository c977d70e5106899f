/* GEMM tiles on AVX2: vpmaddwd on bytes widened to int16, which is exact for any weights.
 *
 * Rows are widened once per tile and part of the depth; the tile's panels share them. A product vector
 * holds two pair sums per column, which are added when the part is done. gcc would spill the sums of a
 * tile this large: each is therefore pinned to a register of its own. */
#include "level.h"

#if defined(QC_AVX2) && !defined(QC_AVX2_VNNI)
#include "arith.h"
#include "tile.h"

#include <immintrin.h>
#include <string.h>

#define MOST_ROWS 12                  /* rows of a call: two strips of 6 rows */
#define STEPS 128                     /* groups of four along the depth that are widened at a time */
#define STRIDE (4 * STEPS + 16)       /* from row to row of the widened values; rows end in slack */

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    return left < MOST_ROWS ? (int)left : MOST_ROWS;
}

/* A place along the depth of a tile. */
typedef struct {
    int64_t tap, k;
} place;

/* Widens the values of up to STEPS groups of four from `at` on and returns the number of groups. */
static int64_t widen_rows(const qc_tile *tile, int rows, place *at, int16_t *wide)
{
    int64_t steps = 0;
    while (steps < STEPS && at->tap < tile->taps) {
        const uint8_t *const *pointers = tile->rows + at->tap * tile->row_step;
        const int64_t count = qc_min(STEPS - steps, tile->k4 - at->k), offset = tile->offsets[at->tap] + 4 * at->k;
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = pointers[r] + offset;
            int16_t *target = wide + r * STRIDE + 4 * steps;
            for (int64_t i = 0; i < 4 * count; i += 16) {
                const __m128i bytes = _mm_loadu_si128((const __m128i *)(row + i));
                _mm256_storeu_si256((__m256i *)(target + i), _mm256_cvtepu8_epi16(bytes));
            }
        }
        steps += count;
        at->k += count;
        if (at->k == tile->k4)
            *at = (place){at->tap + 1, 0};
    }
    return steps;
}

static inline __m256i broadcast_group(const int16_t *values)
{
    int64_t group;
    memcpy(&group, values, sizeof group);
    return _mm256_set1_epi64x(group);
}

static inline __m256i widen_weights(const int8_t *weight)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weight));
}

/* Rows of a strip with the numbers of the registers that hold their sums. */
#define ROWS_1(X) X(0, 0, 1)
#define ROWS_2(X) ROWS_1(X) X(1, 2, 3)
#define ROWS_3(X) ROWS_2(X) X(2, 4, 5)
#define ROWS_4(X) ROWS_3(X) X(3, 6, 7)
#define ROWS_5(X) ROWS_4(X) X(4, 8, 9)
#define ROWS_6(X) ROWS_5(X) X(5, 10, 11)

#define ZERO(r, low, high)                                                 \
    register __m256i c##r##_0 __asm__("ymm" #low) = _mm256_setzero_si256(); \
    register __m256i c##r##_1 __asm__("ymm" #high) = _mm256_setzero_si256();
#define STEP(r, low, high)                                                 \
    {                                                                      \
        const __m256i a = broadcast_group(wide + r * STRIDE);              \
        c##r##_0 = _mm256_add_epi32(c##r##_0, _mm256_madd_epi16(a, b0));   \
        c##r##_1 = _mm256_add_epi32(c##r##_1, _mm256_madd_epi16(a, b1));   \
    }
#define STORE(r, low, high)                                                                              \
    {                                                                                                    \
        const __m256i v = _mm256_permute4x64_epi64(_mm256_hadd_epi32(c##r##_0, c##r##_1), 0xD8);          \
        const __m256i first = _mm256_loadu_si256((const __m256i *)(start + r * start_step));             \
        _mm256_storeu_si256((__m256i *)(sums + r * QC_TILE_LD), _mm256_add_epi32(v, first));             \
    }

/* Adds the products of some rows with 8 columns to `start`. */
#define STRIP(ROWS)                                                                                       \
    __attribute__((noinline)) static void strip_##ROWS(const int16_t *wide, const int8_t *weight, int64_t steps,  \
                                                       const int32_t *start, int64_t start_step, int32_t *sums)   \
    {                                                                                                     \
        ROWS_##ROWS(ZERO)                                                                                 \
        for (int64_t i = 0; i < steps; i++, wide += 4, weight += 4 * QC_PANEL) {                          \
            const __m256i b0 = widen_weights(weight), b1 = widen_weights(weight + 16);                    \
            ROWS_##ROWS(STEP)                                                                             \
        }                                                                                                 \
        ROWS_##ROWS(STORE)                                                                                \
    }

STRIP(1)
STRIP(2)
STRIP(3)
STRIP(4)
STRIP(5)
STRIP(6)

typedef void (*strip_function)(const int16_t *wide, const int8_t *weight, int64_t steps, const int32_t *start,
                               int64_t start_step, int32_t *sums);
static const strip_function strips[] = {NULL, strip_1, strip_2, strip_3, strip_4, strip_5, strip_6};

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    int16_t wide[MOST_ROWS * STRIDE] __attribute__((aligned(32)));
    int32_t own[MOST_ROWS * QC_TILE_LD] __attribute__((aligned(32)));
    int32_t *sums = tile->sums ? tile->sums : own;
    const int32_t *start = tile->start;
    int64_t start_step = tile->start_step;
    const int upper = rows > 6 ? (rows + 1) / 2 : rows, lower = rows - upper;
    const int8_t *weight = tile->weight;
    for (place at = {0, 0}; at.tap < tile->taps;) {
        const int64_t steps = widen_rows(tile, rows, &at, wide);
        for (int column = 0; column < panels * QC_PANEL; column += 8) {
            const int8_t *strip = weight + column / QC_PANEL * tile->panel_stride + column % QC_PANEL * 4;
            strips[upper](wide, strip, steps, start + column, start_step, sums + column);
            if (lower)
                strips[lower](wide + upper * STRIDE, strip, steps, start + upper * start_step + column, start_step,
                              sums + upper * QC_TILE_LD + column);
        }
        weight += steps * 4 * QC_PANEL;
        start = sums;
        start_step = QC_TILE_LD;
    }
    if (!tile->sums)
        qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                           tile->out_stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
