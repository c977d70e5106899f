/* GEMM tiles on AVX-VNNI: the dot products of four of AVX512-VNNI on 256-bit registers.
 *
 * As on AVX512-VNNI, each sum is pinned to a register of its own, because gcc would spill them. */
#include "level.h"

#if defined(QC_AVX2_VNNI)
#include "tile.h"

#include <immintrin.h>

#define MOST_ROWS 12 /* rows of a call: two strips of 6 rows, or one where a panel is half used */

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
#define ROWS_7(X) ROWS_6(X) X(6, 1, )
#define ROWS_8(X) ROWS_7(X) X(7, 3, )
#define ROWS_9(X) ROWS_8(X) X(8, 5, )
#define ROWS_10(X) ROWS_9(X) X(9, 7, )
#define ROWS_11(X) ROWS_10(X) X(10, 9, )
#define ROWS_12(X) ROWS_11(X) X(11, 11, )

/* Strips of a WHOLE panel of 16 columns, and of the HALF of one of which the other 8 columns are not in use. */
#define SUM(r, half, y)                     \
    register __m256i c##r##_##half __asm__("ymm" #y) = \
        _mm256_loadu_si256((const __m256i *)(start + r * start_step + 8 * half));
#define START_WHOLE(r, low, high) SUM(r, 0, low) SUM(r, 1, high)
#define START_HALF(r, low, high) SUM(r, 0, low)
#define POINT(r, ...) const uint8_t *row##r = rows[r] + offset;
#define LOAD(half) const __m256i b##half = _mm256_loadu_si256((const __m256i *)(weight + 32 * half));
#define LOAD_WHOLE LOAD(0) LOAD(1)
#define LOAD_HALF LOAD(0)
#define DOT(r, half) c##r##_##half = dot_groups(c##r##_##half, a, b##half);
#define STEP_WHOLE(r, ...) { const __m256i a = broadcast4(row##r + k); DOT(r, 0) DOT(r, 1) }
#define STEP_HALF(r, ...) { const __m256i a = broadcast4(row##r + k); DOT(r, 0) }
#define STORE(r, half) _mm256_storeu_si256((__m256i *)(sums + r * QC_TILE_LD + 8 * half), c##r##_##half);
#define STORE_WHOLE(r, ...) STORE(r, 0) STORE(r, 1)
#define STORE_HALF(r, ...) STORE(r, 0)

/* The sums of some rows from `first` on with one panel. */
#define STRIP(ROWS, KIND, NAME)                                                                              \
    __attribute__((noinline)) static void NAME##_##ROWS(const qc_tile *tile, int first, int panel, int32_t *sums) \
    {                                                                                                        \
        const int64_t depth = 4 * tile->k4, start_step = tile->start_step;                                   \
        const int8_t *weight = tile->weight + panel * tile->panel_stride;                                    \
        const int32_t *start = tile->start + first * start_step + panel * QC_PANEL;                          \
        ROWS_##ROWS(START_##KIND)                                                                            \
        for (int64_t t = 0; t < tile->taps; t++) {                                                           \
            const uint8_t *const *rows = tile->rows + t * tile->row_step + first;                            \
            const int64_t offset = tile->offsets[t];                                                         \
            ROWS_##ROWS(POINT)                                                                               \
            for (int64_t k = 0; k < depth; k += 4, weight += 4 * QC_PANEL) {                                 \
                LOAD_##KIND                                                                                  \
                ROWS_##ROWS(STEP_##KIND)                                                                     \
            }                                                                                                \
        }                                                                                                    \
        sums += first * QC_TILE_LD + panel * QC_PANEL;                                                       \
        ROWS_##ROWS(STORE_##KIND)                                                                            \
    }

#define STRIPS(ROWS) STRIP(ROWS, WHOLE, whole) STRIP(ROWS, HALF, half)
STRIPS(1)
STRIPS(2)
STRIPS(3)
STRIPS(4)
STRIPS(5)
STRIPS(6)
STRIP(7, HALF, half)
STRIP(8, HALF, half)
STRIP(9, HALF, half)
STRIP(10, HALF, half)
STRIP(11, HALF, half)
STRIP(12, HALF, half)

typedef void (*strip_function)(const qc_tile *tile, int first, int panel, int32_t *sums);
static const strip_function wholes[] = {NULL, whole_1, whole_2, whole_3, whole_4, whole_5, whole_6};
static const strip_function halves[] = {NULL,   half_1, half_2, half_3,  half_4,  half_5, half_6,
                                        half_7, half_8, half_9, half_10, half_11, half_12};

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    int32_t own[MOST_ROWS * QC_TILE_LD] __attribute__((aligned(32)));
    int32_t *sums = tile->sums ? tile->sums : own;
    const int upper = rows > 6 ? (rows + 1) / 2 : rows, lower = rows - upper;
    for (int panel = 0; panel < panels; panel++) {
        if (tile->columns - panel * QC_PANEL <= QC_PANEL / 2) {
            halves[rows](tile, 0, panel, sums);
            continue;
        }
        wholes[upper](tile, 0, panel, sums);
        if (lower)
            wholes[lower](tile, upper, panel, sums);
    }
    if (!tile->sums)
        qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                           tile->out_stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
