/* The two halves of a GEMM block: an int32 tile of dot products, and the epilogue over that tile.
 *
 * They are separate functions on purpose: fused into one body, gcc spills the accumulators inside the
 * K loop. The file that implements them is chosen by the instruction set that the build enables. */
#ifndef QC_TILE_H
#define QC_TILE_H

#include "qc.h"

/* acc[r][16 * p + n] (+)= sum over taps t and k < 4 * k4 of row[t][r][k] * weight[p][t][k / 4][n][k % 4].
 * `rows` holds QC_TILE_ROWS pointers per tap; panels lie `panel_stride` bytes apart. */
void qc_tile_u8_s8_i32(const uint8_t *const *rows, int64_t taps, int64_t k4, const int8_t *weight,
                       int64_t panel_stride, int panels, int accumulate, int32_t *acc);

/* Rows that a tile of this many panels holds. */
int qc_tile_rows(int panels);

/* Finishes `rows` rows of `columns` accumulators; epilogue arrays start at `channel`. */
void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *acc, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride);

/* One output pixel after another along a row: taps[t] + i * step for i < count, all channels.
 * `taps` is padded to whole groups of four; weights lie as [channels/64][group][4][16][4]. */
void qc_depthwise_row(const qc_conv2d *p, const uint8_t *const *taps, int64_t count, int64_t step,
                      const uint8_t *residual, uint8_t *out);

#endif
