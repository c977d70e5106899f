/* The inner block of a GEMM: dot products of a few rows with a few panels, requantized in registers.
 *
 * The file that implements it is chosen by the instruction set that the build enables. */
#ifndef QC_TILE_H
#define QC_TILE_H

#include "level.h"
#include "qc.h"

#include <string.h>

/* Taps can be left out before a multiple of so many steps of the depth: marks are read by words. */
#if defined(QC_AVX2) && !defined(QC_AVX2_VNNI)
#define QC_SKIPPED_STEPS 64
#else
#define QC_SKIPPED_STEPS 1
#endif

/* Most taps of one tile. */
#define QC_TILE_TAPS (QC_SMALL ? 16 : 64)

/* One tile. Row r of tap t starts at rows[t * row_step + r] + offsets[t]; row_step is 0 where all taps
 * share their row pointers, else QC_TILE_ROWS. Panels lie `panel_stride` bytes apart. */
typedef struct {
    const uint8_t *const *rows;
    int64_t pitch; /* bytes from each row to the next one, or 0 where they differ */
    int64_t row_step;
    const int64_t *offsets;
    int64_t taps, k4;
    const int8_t *weight;
    int64_t panel_stride;
    const uint64_t *unsaturated; /* per strip of 8 columns a bit for each group of four along the depth: whether
                                    no pair of its products adds up beyond 16 bits; NULL where that is unknown */
    int64_t unsaturated_stride;  /* words from strip to strip */
    int any_weight;              /* whether a weight may be -128; those of layers are not */
    const int32_t *start;        /* first values of the sums: a row of biases, or earlier sums */
    int64_t start_step;          /* elements from row to row of `start`: 0 or QC_TILE_LD */
    int32_t *sums;               /* where sums go as int32 with QC_TILE_LD per row and room for the rows of the tile
                                    alone, or NULL for bytes */
    const qc_epilogue *epilogue; /* what turns sums into bytes; its arrays count from `channel` */
    int64_t channel, columns;    /* columns: bytes to write per row, at most QC_PANEL * panels */
    uint8_t *out;
    int64_t out_stride;
    const uint8_t *residual;     /* laid out as `out`, or NULL */
} qc_tile;

/* Computes sum(r, 16 p + n) = start + sum over taps t and k < 4 * k4 of
 * row(t, r)[k] * weight[p][t][k / 4][n][k % 4], for `rows` rows as qc_tile_rows gives them. */
void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels);

/* Most bytes of weights of a strip; 0 where there are no strips. On x86 they are to stay in the first-level cache;
 * on ARM half a panel at a time goes down all rows. */
#if defined(QC_AVX512)
#define QC_STRIP_WEIGHTS (16 << 10)
#elif defined(QC_NEON)
#define QC_STRIP_WEIGHTS (1 << 30)
#else
#define QC_STRIP_WEIGHTS 0
#endif

/* Computes the first of `rows` rows that share their offsets, as tiles would do one after another, where that is
 * faster: bytes whose requantization is exact in registers. Pointers count as with tiles. Returns how many it
 * computed. */
#if QC_STRIP_WEIGHTS
int64_t qc_tile_strip(const qc_tile *tile, int64_t rows, int panels);
#else
static inline int64_t qc_tile_strip(const qc_tile *tile, int64_t rows, int panels)
{
    (void)tile, (void)rows, (void)panels;
    return 0;
}
#endif

/* Rows to compute next when `left` are to be done; the pointers of a tile always count QC_TILE_ROWS. */
int qc_tile_rows(int64_t left, int panels);

/* Finishes `rows` rows of `columns` sums; epilogue arrays start at `channel`. */
void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride);

/* Puts the sums of a tile's rows, which lie QC_TILE_LD apart, where the tile wants sums or bytes. */
static inline void qc_tile_deliver(const qc_tile *tile, const int32_t *sums, int rows, int64_t columns)
{
    if (!tile->sums)
        qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, columns, tile->residual, tile->out,
                           tile->out_stride);
    else if (sums != tile->sums)
        memcpy(tile->sums, sums, (size_t)rows * QC_TILE_LD * sizeof *sums);
}

#endif
