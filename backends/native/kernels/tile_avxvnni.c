/* GEMM tiles on AVX-VNNI: the dot products of four of AVX512-VNNI on 256-bit registers.
 *
 * As on AVX512-VNNI, each sum is pinned to a register of its own, because gcc would spill them. */
#include "level.h"

#if defined(QC_AVX2_VNNI)
#include "tile.h"

#include <immintrin.h>

#define MOST_ROWS 12 /* rows of a call: two strips of 6 rows */

#if defined(__AVXVNNI__)
#define dot_groups _mm256_dpbusd_avx_epi32
#else
#define dot_groups _mm256_dpbusd_epi32
#endif

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    const int64_t tiles = (left + MOST_ROWS - 1) / MOST_ROWS;
    return (int)((left + tiles - 1) / tiles);
}

QC_INLINE __m256i broadcast4(const uint8_t *bytes)
{
    return _mm256_set1_epi32(*(const qc_int32_anywhere *)bytes);
}

/* Rows of a strip with the numbers of the registers that hold their sums. */
#define ROWS_1(X) X(0, 0, 1)
#define ROWS_2(X) ROWS_1(X) X(1, 2, 3)
#define ROWS_3(X) ROWS_2(X) X(2, 4, 5)
#define ROWS_4(X) ROWS_3(X) X(3, 6, 7)
#define ROWS_5(X) ROWS_4(X) X(4, 8, 9)
#define ROWS_6(X) ROWS_5(X) X(5, 10, 11)

#define START(r, low, high)                                                                                     \
    register __m256i c##r##_0 __asm__("ymm" #low) = _mm256_loadu_si256((const __m256i *)(start + r * start_step)); \
    register __m256i c##r##_1 __asm__("ymm" #high) =                                                            \
        _mm256_loadu_si256((const __m256i *)(start + r * start_step + 8));
#define POINT(r, ...) const uint8_t *row##r = rows[r] + offset;
#define STEP(r, ...)                                       \
    {                                                      \
        const __m256i a = broadcast4(row##r + k);          \
        c##r##_0 = dot_groups(c##r##_0, a, b0);            \
        c##r##_1 = dot_groups(c##r##_1, a, b1);            \
    }
#define STORE(r, ...)                                                       \
    _mm256_storeu_si256((__m256i *)(sums + r * QC_TILE_LD), c##r##_0);      \
    _mm256_storeu_si256((__m256i *)(sums + r * QC_TILE_LD + 8), c##r##_1);

/* The sums of some rows from `first` on with one panel. */
#define STRIP(ROWS)                                                                                          \
    __attribute__((noinline)) static void strip_##ROWS(const qc_tile *tile, int first, int panel, int32_t *sums) \
    {                                                                                                        \
        const int64_t depth = 4 * tile->k4, start_step = tile->start_step;                                   \
        const int8_t *weight = tile->weight + panel * tile->panel_stride;                                    \
        const int32_t *start = tile->start + first * start_step + panel * QC_PANEL;                          \
        ROWS_##ROWS(START)                                                                                   \
        for (int64_t t = 0; t < tile->taps; t++) {                                                           \
            const uint8_t *const *rows = tile->rows + t * tile->row_step + first;                            \
            const int64_t offset = tile->offsets[t];                                                         \
            ROWS_##ROWS(POINT)                                                                               \
            for (int64_t k = 0; k < depth; k += 4, weight += 4 * QC_PANEL) {                                 \
                const __m256i b0 = _mm256_loadu_si256((const __m256i *)weight);                              \
                const __m256i b1 = _mm256_loadu_si256((const __m256i *)(weight + 32));                       \
                ROWS_##ROWS(STEP)                                                                            \
            }                                                                                                \
        }                                                                                                    \
        sums += first * QC_TILE_LD + panel * QC_PANEL;                                                       \
        ROWS_##ROWS(STORE)                                                                                   \
    }

STRIP(1)
STRIP(2)
STRIP(3)
STRIP(4)
STRIP(5)
STRIP(6)

typedef void (*strip_function)(const qc_tile *tile, int first, int panel, int32_t *sums);
static const strip_function strips[] = {NULL, strip_1, strip_2, strip_3, strip_4, strip_5, strip_6};

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    int32_t own[MOST_ROWS * QC_TILE_LD] __attribute__((aligned(32)));
    int32_t *sums = tile->sums ? tile->sums : own;
    const int upper = rows > 6 ? (rows + 1) / 2 : rows, lower = rows - upper;
    for (int panel = 0; panel < panels; panel++) {
        strips[upper](tile, 0, panel, sums);
        if (lower)
            strips[lower](tile, upper, panel, sums);
    }
    if (!tile->sums)
        qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                           tile->out_stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
