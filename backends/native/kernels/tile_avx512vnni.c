/* The dot-product tile on AVX512-VNNI: vpdpbusd wraps modulo 2^32, so every summation order is exact. */
#if defined(__AVX512VNNI__)
#include "tile.h"

#include <immintrin.h>
#include <string.h>

int qc_tile_rows(int64_t left, int panels)
{
    const int most = panels == 4 ? 6 : 8;
    return left >= most ? most : left > 4 ? (int)left : left > 1 ? 4 : 1;
}

static inline __m512i broadcast4(const uint8_t *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The accumulators are named scalars c<row>_<panel>: gcc does not keep arrays of vectors in registers. */
#define ROWS_1(X) X(0)
#define ROWS_4(X) X(0) X(1) X(2) X(3)
#define ROWS_6(X) ROWS_4(X) X(4) X(5)
#define ROWS_8(X) ROWS_6(X) X(6) X(7)

#define START(r, p) __m512i c##r##_##p = _mm512_loadu_si512(start + r * start_step + p * QC_PANEL);
#define DOT(r, p) c##r##_##p = _mm512_dpbusd_epi32(c##r##_##p, a, b##p);
#define STORE(r, p) _mm512_storeu_si512(acc + r * QC_TILE_LD + p * QC_PANEL, c##r##_##p);
#define POINT(r) const uint8_t *row##r = rows[r] + offset;
#define LOAD(p) const __m512i b##p = _mm512_loadu_si512(weight + p * panel_stride);

#define EACH_1(M, r) M(r, 0)
#define EACH_2(M, r) EACH_1(M, r) M(r, 1)
#define EACH_3(M, r) EACH_2(M, r) M(r, 2)
#define EACH_4(M, r) EACH_3(M, r) M(r, 3)
#define LOAD_1 LOAD(0)
#define LOAD_2 LOAD_1 LOAD(1)
#define LOAD_3 LOAD_2 LOAD(2)
#define LOAD_4 LOAD_3 LOAD(3)

#define START_1(r) EACH_1(START, r)
#define START_2(r) EACH_2(START, r)
#define START_3(r) EACH_3(START, r)
#define START_4(r) EACH_4(START, r)
#define STORE_1(r) EACH_1(STORE, r)
#define STORE_2(r) EACH_2(STORE, r)
#define STORE_3(r) EACH_3(STORE, r)
#define STORE_4(r) EACH_4(STORE, r)
#define STEP_1(r) { const __m512i a = broadcast4(row##r + k); EACH_1(DOT, r) }
#define STEP_2(r) { const __m512i a = broadcast4(row##r + k); EACH_2(DOT, r) }
#define STEP_3(r) { const __m512i a = broadcast4(row##r + k); EACH_3(DOT, r) }
#define STEP_4(r) { const __m512i a = broadcast4(row##r + k); EACH_4(DOT, r) }

#define TILE(ROWS, PANELS)                                                                            \
    __attribute__((noinline)) static void tile_##ROWS##x##PANELS(const qc_tile *tile, int32_t *acc)   \
    {                                                                                                 \
        const int64_t depth = 4 * tile->k4, panel_stride = tile->panel_stride;                        \
        const int8_t *weight = tile->weight;                                                          \
        const int32_t *start = tile->bias ? tile->bias : acc;                                         \
        const int64_t start_step = tile->bias ? 0 : QC_TILE_LD;                                       \
        ROWS_##ROWS(START_##PANELS)                                                                   \
        for (int64_t t = 0; t < tile->taps; t++) {                                                    \
            const uint8_t *const *rows = tile->rows + t * tile->row_step;                             \
            const int64_t offset = tile->offsets[t];                                                  \
            ROWS_##ROWS(POINT)                                                                        \
            for (int64_t k = 0; k < depth; k += 4, weight += 4 * QC_PANEL) {                          \
                LOAD_##PANELS                                                                         \
                ROWS_##ROWS(STEP_##PANELS)                                                            \
            }                                                                                         \
        }                                                                                             \
        ROWS_##ROWS(STORE_##PANELS)                                                                   \
    }

TILE(1, 1)
TILE(1, 2)
TILE(1, 3)
TILE(1, 4)
TILE(4, 1)
TILE(4, 2)
TILE(4, 3)
TILE(4, 4)
TILE(8, 1)
TILE(8, 2)
TILE(8, 3)
TILE(6, 4)

typedef void (*tile_function)(const qc_tile *tile, int32_t *acc);

static const tile_function one_row[] = {tile_1x1, tile_1x2, tile_1x3, tile_1x4};
static const tile_function four_rows[] = {tile_4x1, tile_4x2, tile_4x3, tile_4x4};
static const tile_function most_rows[] = {tile_8x1, tile_8x2, tile_8x3, tile_6x4};

void qc_tile_u8_s8_i32(const qc_tile *tile, int rows, int panels, int32_t *acc)
{
    const tile_function *family = rows == 1 ? one_row : rows == 4 ? four_rows : most_rows;
    family[panels - 1](tile, acc);
}
#else
typedef int qc_empty_translation_unit;
#endif
