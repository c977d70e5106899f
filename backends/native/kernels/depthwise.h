/* What an instruction set does for a depthwise convolution, on a block of at most QC_BLOCK channels.
 *
 * Some lay the rows of the input out first: a laid-out row holds the pixels -pad_left .. of one image row
 * with the padding filled in, in an order of their own. */
#ifndef QC_DEPTHWISE_H
#define QC_DEPTHWISE_H

#include "qc.h"

#define QC_BLOCK 64

/* Most sets of rows that share the lanes of a block, and most rows of the image that are laid out together. */
#if QC_SMALL
#define QC_MOST_SETS 1
#else
#define QC_MOST_SETS 4
#endif
#define QC_MOST_LAID 2

/* What does not change from row to row of a block.
 *
 * A block of few channels may work on several sets of rows at once: set s of a row takes the bytes from
 * s * QC_BLOCK / sets on. The sets are strips of one image that lie below each other. */
typedef struct {
    const qc_depthwise *d;
    int64_t block, lanes;    /* first channel and number of channels */
    int64_t sets;
    uint8_t *row;            /* d->buffer_bytes for what the instruction set needs beside its rows */
    int8_t *weight;          /* QC_BLOCK_WEIGHTS bytes for weights in another form */
} qc_channels;

#if QC_SMALL
#define QC_BLOCK_WEIGHTS 0
#else
#define QC_BLOCK_WEIGHTS (4 * 40 * 64)
#endif

/* Sets that a block of so many channels takes: 1, or more where the instruction set gains by it. */
int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes);

/* Rows of the image that a laid-out row holds; 0 where the kernel reads pixels where they stand. */
int64_t qc_depthwise_laid_rows(const qc_conv2d *p);

/* Prepares a block; called once before its rows. */
void qc_depthwise_begin(const qc_channels *c);

/* Lays out so many rows of `conv.width` pixels that lie `step` bytes apart.
 *
 * Entry r * QC_MOST_SETS + s of `rows` belongs to set s; NULL is a row of padding. */
void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *out);

/* Computes a row of results of each set.
 *
 * `rows`, as above, are the rows under the kernel, or the laid-out ones that hold them, the first of which holds
 * row `top`; pixels that are not laid out lie `step` bytes apart. A set whose entry of `outs` is NULL has no result.
 * `residuals` holds NULLs where nothing is added. */
void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs);

/* Where an instruction set has no form of its own: pixels one after another, QC_BLOCK bytes each. */
void qc_depthwise_lay_out_pixels(const qc_channels *c, const uint8_t *pixels, int64_t step, uint8_t *row);

/* A row of results from such pixels, in portable C. */
void qc_depthwise_row_any(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residuals,
                          uint8_t *const *outs);

#endif
