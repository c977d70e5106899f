/* What convolution kernels share: a job, where a block of output rows reads, and the loops over tiles. */
#ifndef QC_CONV_H
#define QC_CONV_H

#include "arith.h"
#include "level.h"
#include "tile.h"

#define QC_BLOCK_ROWS (QC_SMALL ? 24 : 200) /* most output pixels of a block */
#define QC_BLOCK_RUNS (QC_SMALL ? 4 : 16)   /* and most runs of them */
#define QC_NEAR_WEIGHTS (640 << 10) /* bytes of weights that stay in the second-level cache */

/* The packed weights of the level, and how many bytes of the depth one step of a tile takes. */
#if defined(QC_I8MM)
#define QC_WEIGHTS(p) ((p)->pairs)
#define QC_DEPTH_STEP 8
#elif defined(QC_HELIUM)
#define QC_WEIGHTS(p) ((p)->columns)
#define QC_DEPTH_STEP 4
#else
#define QC_WEIGHTS(p) ((p)->weight)
#define QC_DEPTH_STEP 4
#endif

/* The first row of block i: of equal ones, or of small ones that whole tiles fill. */
static inline int64_t qc_block_start(int64_t rows, int64_t i, int64_t blocks)
{
    return QC_SMALL ? qc_min(i * QC_BLOCK_ROWS, rows) : rows * i / blocks;
}

/* Groups of four along a depth, in whole steps. */
static inline int64_t qc_depth_quads(int64_t depth)
{
    return (depth + QC_DEPTH_STEP - 1) / QC_DEPTH_STEP * (QC_DEPTH_STEP / 4);
}

typedef struct {
    const qc_conv2d *p;
    const uint8_t *x, *padding, *residual;
    uint8_t *out;
    int32_t *out_i32;
    int64_t rows, panels, taps, k4, widest;
    int64_t pitch; /* bytes from where each row starts to where the next one does, or 0 where that differs */
    int64_t out_stride, out_origin; /* row r, channel n goes to out[r * out_stride + n - out_origin] */
    const int64_t *tap_offsets; /* offsets of all taps where every row lies inside, or NULL */
    const int32_t *padded;      /* what each tap adds to the sums of a row that it misses, or NULL */
    int by_panels, pointwise;
} qc_conv_job;

/* Neighbouring rows of a block that need no other taps than `taps` from `tap` on. */
typedef struct {
    int64_t first, end, tap, taps;
} qc_row_run;

typedef struct {
    int64_t count, runs;
    qc_row_run run[QC_BLOCK_RUNS];
    int all_inside;                                    /* no row has a tap outside; y, x and inside are not set */
    const uint8_t *base[QC_BLOCK_ROWS + QC_TILE_ROWS]; /* pixel under tap (0, 0); may lie outside the image */
    intptr_t y[QC_BLOCK_ROWS + QC_TILE_ROWS], x[QC_BLOCK_ROWS + QC_TILE_ROWS];
    uint8_t inside[QC_BLOCK_ROWS + QC_TILE_ROWS]; /* whether all taps of this row are inside */
} qc_row_block;

/* A job over `rows` output pixels; pointers are the caller's to set. */
qc_conv_job qc_plan_conv(const qc_conv2d *p, int64_t rows);

/* Locates `count` rows and QC_TILE_ROWS more, which repeat the last one. */
void qc_locate_rows(const qc_conv_job *job, int64_t row, int64_t count, qc_row_block *block);

/* Multiplies a block of rows with panels first .. last - 1. */
void qc_multiply_rows(const qc_conv_job *job, const qc_row_block *block, int64_t row, int64_t first, int64_t last);

#endif
