/* The two halves of a GEMM block: an int32 tile of dot products, and the epilogue over that tile.
 *
 * They are separate functions on purpose: fused into one body, gcc spills the accumulators inside the
 * K loop. The file that implements them is chosen by the instruction set that the build enables. */
#ifndef QC_TILE_H
#define QC_TILE_H

#include "qc.h"

/* The operands of a tile. Row r of tap t starts at rows[t * row_step + r] + offsets[t]; row_step is 0
 * where all taps share their row pointers, else QC_TILE_ROWS. Panels lie `panel_stride` bytes apart. */
typedef struct {
    const uint8_t *const *rows;
    int64_t row_step;
    const int64_t *offsets;
    int64_t taps, k4;
    const int8_t *weight;
    int64_t panel_stride;
    const int32_t *bias; /* the start of each row of accumulators, or NULL to go on from `acc` */
} qc_tile;

/* acc[r][16 * p + n] = bias[16 * p + n] + sum over taps t and k < 4 * k4 of
 * row(t, r)[k] * weight[p][t][k / 4][n][k % 4], for as many rows as qc_tile_rows gives. */
void qc_tile_u8_s8_i32(const qc_tile *tile, int rows, int panels, int32_t *acc);

/* Rows to compute next when `left` are to be done; the pointers of a tile always count QC_TILE_ROWS. */
int qc_tile_rows(int64_t left, int panels);

/* Finishes `rows` rows of `columns` accumulators; epilogue arrays start at `channel`. */
void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *acc, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride);

/* One output pixel after another along a row: taps[t] + i * step for i < count, all channels.
 * `taps` is padded to whole groups of four; weights lie as [channels/64][group][4][16][4]. */
void qc_depthwise_row(const qc_conv2d *p, const uint8_t *const *taps, int64_t count, int64_t step,
                      const uint8_t *residual, uint8_t *out);

#endif
