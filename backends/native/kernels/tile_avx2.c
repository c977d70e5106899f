/* GEMM tiles on AVX2.
 *
 * vpmaddubsw multiplies bytes and adds pairs, but saturates at 16 bits. Groups of four along the depth
 * where the weights cannot bring that about take it; the others take vpmaddwd on values of 16 bits, which
 * is exact for any weights. Rows are gathered in both forms once per tile and part of the depth; the tile's
 * panels share them. gcc would spill the sums of strips this large: each is therefore pinned to a register
 * of its own. */
#include "level.h"

#if defined(QC_AVX2) && !defined(QC_AVX2_VNNI)
#include "arith.h"
#include "tile.h"

#include <immintrin.h>
#include <string.h>

#define MOST_ROWS 12
#define STEPS 128                     /* groups of four of a part */
#define WORDS (STEPS / 64)
#define STRIDE (4 * STEPS + 32)       /* values from row to row, which end in slack */
#define COLUMNS 8                     /* of a strip */
#define STRIP_BYTES (4 * COLUMNS)     /* of a group */

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    const int64_t tiles = (left + MOST_ROWS - 1) / MOST_ROWS;
    return (int)((left + tiles - 1) / tiles);
}

/* The values of the rows in a part of the depth, as bytes and with 16 bits: of each group of four first
 * those of even index, then the others. */
typedef struct {
    uint8_t bytes[MOST_ROWS * STRIDE];
    int16_t words[MOST_ROWS * STRIDE];
} part_values;

/* A place along the depth of a tile. */
typedef struct {
    int64_t tap, k;
} place;

static inline void gather_row(const uint8_t *row, int64_t count, uint8_t *bytes, int16_t *words)
{
    for (int64_t i = 0; i < count; i += 32) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(row + i));
        const __m256i even = _mm256_and_si256(v, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(v, 8);
        const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
        _mm256_storeu_si256((__m256i *)(bytes + i), v);
        _mm256_storeu_si256((__m256i *)(words + i), _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *)(words + i + 16), _mm256_permute2x128_si256(low, high, 0x31));
    }
}

/* Gathers up to STEPS groups of four from `at` on and returns their number. */
static int64_t gather_rows(const qc_tile *tile, int rows, place *at, part_values *part)
{
    int64_t steps = 0;
    while (steps < STEPS && at->tap < tile->taps) {
        const uint8_t *const *pointers = tile->rows + at->tap * tile->row_step;
        const int64_t count = qc_min(STEPS - steps, tile->k4 - at->k), offset = tile->offsets[at->tap] + 4 * at->k;
        for (int r = 0; r < rows; r++) {
            const int64_t target = r * STRIDE + 4 * steps;
            gather_row(pointers[r] + offset, 4 * count, part->bytes + target, part->words + target);
        }
        steps += count;
        at->k += count;
        if (at->k == tile->k4)
            *at = (place){at->tap + 1, 0};
    }
    return steps;
}

/* Eight columns of a part: their weights, the groups of each kind, and where their sums are. */
typedef struct {
    const int8_t *weight;
    uint64_t unsaturated[WORDS], others[WORDS];
    const int32_t *start;
    int64_t start_step;
    int32_t *sums;
} strip;

/* Divides the groups of a strip between the two kinds of products. */
static inline void divide_groups(strip *s, int64_t steps, const uint64_t *unsaturated)
{
    for (int i = 0; i < WORDS; i++) {
        const int64_t left = steps - 64 * i;
        const uint64_t groups = left >= 64 ? ~(uint64_t)0 : left > 0 ? ((uint64_t)1 << left) - 1 : 0;
        s->unsaturated[i] = unsaturated && groups ? groups & unsaturated[i] : 0;
        s->others[i] = groups & ~s->unsaturated[i];
    }
}

QC_INLINE __m256i broadcast4(const void *values)
{
    return _mm256_set1_epi32(*(const qc_int32_anywhere *)values);
}

/* Rows with the numbers of the registers that hold their sums. */
#define ROWS_1(X) X(0, 0)
#define ROWS_2(X) ROWS_1(X) X(1, 1)
#define ROWS_3(X) ROWS_2(X) X(2, 2)
#define ROWS_4(X) ROWS_3(X) X(3, 3)
#define ROWS_5(X) ROWS_4(X) X(4, 4)
#define ROWS_6(X) ROWS_5(X) X(5, 5)
#define ROWS_7(X) ROWS_6(X) X(6, 6)
#define ROWS_8(X) ROWS_7(X) X(7, 7)
#define ROWS_9(X) ROWS_8(X) X(8, 8)
#define ROWS_10(X) ROWS_9(X) X(9, 9)
#define ROWS_11(X) ROWS_10(X) X(10, 10)
#define ROWS_12(X) ROWS_11(X) X(11, 11)

/* Completes a row before the next one is loaded: clang would load all rows and spill them. */
#define COMPLETE(sum) __asm__ volatile("" : "+x"(sum) : : "memory")

#define START(r, y)                        \
    register __m256i c##r __asm__("ymm" #y) = \
        _mm256_loadu_si256((const __m256i *)(s->start + r * s->start_step));
#define ADD_BYTES(r, y)                                                                    \
    {                                                                                      \
        const __m256i pairs = _mm256_maddubs_epi16(broadcast4(bytes + r * STRIDE), weights); \
        c##r = _mm256_add_epi32(c##r, _mm256_madd_epi16(pairs, ones));                     \
        COMPLETE(c##r);                                                                    \
    }
#define ADD_WORDS(r, y)                                                                            \
    c##r = _mm256_add_epi32(c##r, _mm256_madd_epi16(broadcast4(words + r * STRIDE), even));        \
    c##r = _mm256_add_epi32(c##r, _mm256_madd_epi16(broadcast4(words + r * STRIDE + 2), odd));     \
    COMPLETE(c##r);
#define STORE(r, y) _mm256_storeu_si256((__m256i *)(s->sums + r * QC_TILE_LD), c##r);

/* Adds the products of some rows with a strip to `start`. */
#define ADD_STRIP(ROWS)                                                                                    \
    __attribute__((noinline)) static void add_strip_##ROWS(const part_values *part, const strip *s)        \
    {                                                                                                      \
        const int8_t *strip_weights = s->weight;                                                           \
        __m256i ones = _mm256_set1_epi16(1);                                                               \
        __asm__("" : "+x"(ones)); /* gcc would load a constant again and again */                         \
        ROWS_##ROWS(START)                                                                                 \
        for (int64_t i = 0; i < WORDS; i++) {                                                              \
            for (uint64_t left = s->unsaturated[i]; left; left &= left - 1) {                              \
                const int64_t group = 64 * i + __builtin_ctzll(left);                                      \
                const uint8_t *bytes = part->bytes + 4 * group;                                            \
                const int8_t *at = strip_weights + 2 * STRIP_BYTES * group;                                \
                const __m256i weights = _mm256_loadu_si256((const __m256i *)at);                           \
                ROWS_##ROWS(ADD_BYTES)                                                                     \
            }                                                                                              \
            for (uint64_t left = s->others[i]; left; left &= left - 1) {                                   \
                const int64_t group = 64 * i + __builtin_ctzll(left);                                      \
                const int16_t *words = part->words + 4 * group;                                            \
                const int8_t *at = strip_weights + 2 * STRIP_BYTES * group;                                \
                const __m256i weights = _mm256_loadu_si256((const __m256i *)at);                           \
                const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);                  \
                const __m256i odd = _mm256_srai_epi16(weights, 8);                                         \
                ROWS_##ROWS(ADD_WORDS)                                                                     \
            }                                                                                              \
        }                                                                                                  \
        ROWS_##ROWS(STORE)                                                                                 \
    }

ADD_STRIP(1)
ADD_STRIP(2)
ADD_STRIP(3)
ADD_STRIP(4)
ADD_STRIP(5)
ADD_STRIP(6)
ADD_STRIP(7)
ADD_STRIP(8)
ADD_STRIP(9)
ADD_STRIP(10)
ADD_STRIP(11)
ADD_STRIP(12)

static void (*const add_strip[])(const part_values *part, const strip *s) = {
    NULL,        add_strip_1, add_strip_2, add_strip_3,  add_strip_4,  add_strip_5,  add_strip_6,
    add_strip_7, add_strip_8, add_strip_9, add_strip_10, add_strip_11, add_strip_12,
};

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    (void)panels;
    part_values part __attribute__((aligned(32)));
    int32_t own[MOST_ROWS * QC_TILE_LD] __attribute__((aligned(32)));
    int32_t *sums = tile->sums ? tile->sums : own;
    const int32_t *start = tile->start;
    int64_t start_step = tile->start_step;
    const int8_t *weight = tile->weight;
    const uint64_t *unsaturated = tile->unsaturated;
    const int64_t used = (tile->columns + COLUMNS - 1) / COLUMNS;
    for (place at = {0, 0}; at.tap < tile->taps;) {
        const int64_t steps = gather_rows(tile, rows, &at, &part);
        for (int i = 0; i < used; i++) {
            strip s = {.weight = weight + i / 2 * tile->panel_stride + i % 2 * STRIP_BYTES,
                       .start = start + i * COLUMNS, .start_step = start_step, .sums = sums + i * COLUMNS};
            divide_groups(&s, steps, unsaturated ? unsaturated + i * tile->unsaturated_stride : NULL);
            add_strip[rows](&part, &s);
        }
        if (unsaturated)
            unsaturated += WORDS;
        weight += steps * 2 * STRIP_BYTES;
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
