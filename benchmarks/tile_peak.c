/* What the speed of the AVX512-VNNI tile is measured with: the tile on operands that stay in the first
 * level cache, and the loop of nothing but vpdpbusd of the kernel library, whose speed is the peak. */
#include "tile.h"

#define DEPTH 512
#define EXPORT __attribute__((visibility("default")))

EXPORT int64_t bench_depth(void)
{
    return DEPTH;
}

/* Runs the loop that bench() of a program calls the peak, and returns its multiplications. */
EXPORT int64_t bench_peak(int64_t rounds)
{
    return qc_peak_products(rounds);
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
