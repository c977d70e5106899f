/* The dot-product tile on AVX512-VNNI: vpdpbusd wraps modulo 2^32, so every summation order is exact. */
#if defined(__AVX512VNNI__)
#include "tile.h"

#include <immintrin.h>
#include <string.h>

int qc_tile_rows(int panels)
{
    return panels == 4 ? 6 : 8;
}

static inline __m512i broadcast4(const uint8_t *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The accumulators are named scalars c<row>_<panel>: gcc does not keep arrays of vectors in registers. */
#define ROWS_6(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define ROWS_8(X) ROWS_6(X) X(6) X(7)

#define START(r, p)                                                                                   \
    __m512i c##r##_##p = accumulate ? _mm512_loadu_si512(acc + r * QC_TILE_LD + p * QC_PANEL)         \
                                    : _mm512_setzero_si512();
#define DOT(r, p) c##r##_##p = _mm512_dpbusd_epi32(c##r##_##p, a, b##p);
#define STORE(r, p) _mm512_storeu_si512(acc + r * QC_TILE_LD + p * QC_PANEL, c##r##_##p);
#define POINT(r) const uint8_t *row##r = rows[t * QC_TILE_ROWS + r];
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
    __attribute__((noinline)) static void tile_##ROWS##x##PANELS(                                     \
        const uint8_t *const *rows, int64_t taps, int64_t k4, const int8_t *weight,                   \
        int64_t panel_stride, int accumulate, int32_t *acc)                                           \
    {                                                                                                 \
        const int64_t depth = 4 * k4;                                                                 \
        ROWS_##ROWS(START_##PANELS)                                                                   \
        for (int64_t t = 0; t < taps; t++) {                                                          \
            ROWS_##ROWS(POINT)                                                                        \
            for (int64_t k = 0; k < depth; k += 4, weight += 4 * QC_PANEL) {                          \
                LOAD_##PANELS                                                                         \
                ROWS_##ROWS(STEP_##PANELS)                                                            \
            }                                                                                         \
        }                                                                                             \
        ROWS_##ROWS(STORE_##PANELS)                                                                   \
    }

TILE(8, 1)
TILE(8, 2)
TILE(8, 3)
TILE(6, 4)

void qc_tile_u8_s8_i32(const uint8_t *const *rows, int64_t taps, int64_t k4, const int8_t *weight,
                       int64_t panel_stride, int panels, int accumulate, int32_t *acc)
{
    if (panels == 4)
        tile_6x4(rows, taps, k4, weight, panel_stride, accumulate, acc);
    else if (panels == 3)
        tile_8x3(rows, taps, k4, weight, panel_stride, accumulate, acc);
    else if (panels == 2)
        tile_8x2(rows, taps, k4, weight, panel_stride, accumulate, acc);
    else
        tile_8x1(rows, taps, k4, weight, panel_stride, accumulate, acc);
}
#else
typedef int qc_empty_translation_unit;
#endif
