/* The two halves of a depthwise convolution: rows of the input laid out for it, and rows of the result.
 *
 * Both work on a block of at most QC_BLOCK channels. A laid-out row holds the pixels -pad_left ..
 * of one image row with the padding filled in; how, is the business of the instruction set. */
#ifndef QC_DEPTHWISE_H
#define QC_DEPTHWISE_H

#include "qc.h"

#define QC_BLOCK 64

/* Most sets of rows that share the lanes of a block. */
#define QC_MOST_SETS 4

/* What does not change from row to row of a block.
 *
 * A block of few channels may work on several sets of rows at once: set s of a row takes the bytes from
 * s * QC_BLOCK / sets on. The sets are strips of one image that lie below each other. */
typedef struct {
    const qc_depthwise *d;
    int64_t block, lanes;    /* first channel and number of channels */
    int64_t sets;
    uint8_t *row;            /* d->row_bytes to lay out a row of results in */
    int8_t *weight;          /* QC_BLOCK_WEIGHTS bytes for weights in another form */
} qc_channels;

#define QC_BLOCK_WEIGHTS (4 * 40 * 64)

/* Sets that a block of so many channels takes: 1, or more where the instruction set gains by it. */
int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes);

/* Prepares a block; called once before its rows. */
void qc_depthwise_begin(const qc_channels *c);

/* Lays out a row of each set, `conv.width` pixels that lie `step` bytes apart; NULL is a row of padding. */
void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *pixels, int64_t step, uint8_t *row);

/* Computes a row of results of each set from the laid-out rows of each kernel row; a set whose `out` is NULL
 * has none. `residual` holds NULLs where nothing is added. */
void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residual,
                      uint8_t *const *out);

/* Where an instruction set has no form of its own: pixels one after another, QC_BLOCK bytes each. */
void qc_depthwise_lay_out_pixels(const qc_channels *c, const uint8_t *pixels, int64_t step, uint8_t *row);

/* A row of results from such pixels, in portable C. */
void qc_depthwise_row_any(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residual,
                          uint8_t *const *out);

#endif
