/* What the speed of the AVX512-VNNI tile is measured with: the tile on operands that stay in the first
 * level cache, and a loop of nothing but vpdpbusd, whose speed is the peak. */
#include "tile.h"

#include <immintrin.h>

#define DEPTH 512
#define EXPORT __attribute__((visibility("default")))

/* Enough independent sums to hide the latency of one or two multipliers. */
#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
/* Unknown to the compiler, which would see else that all sums are one. */
#define HIDE(x) __asm__ volatile("" : "+v"(x));
#define ZERO(i) __m512i sum##i = _mm512_setzero_si512(); HIDE(sum##i)
#define DOT(i) sum##i = _mm512_dpbusd_epi32(sum##i, a, b);
#define TOTAL(i) total = _mm512_xor_si512(total, sum##i);

EXPORT int64_t bench_depth(void)
{
    return DEPTH;
}

/* Runs 16 instructions of 64 multiplications `repeats` times. */
EXPORT int32_t bench_peak(int64_t repeats)
{
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
    HIDE(a)
    HIDE(b)
    SUMS(ZERO)
    for (int64_t i = 0; i < repeats; i++) {
        SUMS(DOT)
    }
    __m512i total = _mm512_setzero_si512();
    SUMS(TOTAL)
    return _mm512_reduce_add_epi32(total);
}

/* Returns the most rows that a tile of so many panels of 16 columns has; 0 if there are none. */
EXPORT int bench_rows(int panels)
{
    return panels > QC_TILE_PANELS ? 0 : qc_tile_rows(QC_TILE_ROWS, panels);
}

/* Computes and requantizes the largest tile of so many panels `repeats` times. */
EXPORT int32_t bench_tile(int panels, int64_t repeats)
{
    static _Alignas(64) uint8_t values[QC_TILE_ROWS][DEPTH];
    static _Alignas(64) int8_t weight[QC_TILE_PANELS * QC_PANEL * DEPTH];
    static _Alignas(64) int32_t bias[QC_TILE_LD];
    static _Alignas(64) float scale[QC_TILE_LD];
    static _Alignas(64) uint8_t out[QC_TILE_ROWS * QC_TILE_LD];
    const uint8_t *rows[QC_TILE_ROWS];
    const int64_t offset = 0;
    for (int r = 0; r < QC_TILE_ROWS; r++)
        rows[r] = values[r];
    const qc_epilogue epilogue = {.bias = bias, .scale = scale, .qmax = 255};
    const qc_tile tile = {.rows = rows, .offsets = &offset, .taps = 1, .k4 = DEPTH / 4, .weight = weight,
                          .panel_stride = QC_PANEL * DEPTH, .start = bias, .epilogue = &epilogue,
                          .columns = panels * QC_PANEL, .out = out, .out_stride = QC_TILE_LD};
    for (int64_t i = 0; i < repeats; i++)
        qc_tile_u8_s8(&tile, qc_tile_rows(QC_TILE_ROWS, panels), panels);
    return out[0];
}
