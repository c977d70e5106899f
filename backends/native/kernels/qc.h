/* Types, parameter blocks and prototypes shared by the kernels and by the emitted program.
 *
 * Storage: an int8 value q is kept as a byte of type qc_code: q + 128, or q itself where codes are signed.
 * A rank-4 integer tensor is kept as NHWC; every other tensor is row-major. All zero points and clamp
 * bounds below are in the domain of that byte; a table is indexed by the byte's bits. Names say u8 for
 * either. A kernel may read up to 64 bytes past the end of a byte tensor; it never writes there.
 *
 * `out` may be the residual of a product, or an operand of requantize, add, mul, table and clamp that has
 * the type of the result: every element is read before the one in its place is written, by the same
 * thread, and no element is computed twice. */
#ifndef QC_H
#define QC_H

#include <stdint.h>
#include <stddef.h>

/* Codes are unsigned where products want an unsigned operand (x86), else signed. */
#if !defined(QC_SIGNED_CODES)
#if defined(__aarch64__) || defined(__arm__)
#define QC_SIGNED_CODES 1
#else
#define QC_SIGNED_CODES 0
#endif
#endif

#if QC_SIGNED_CODES
typedef int8_t qc_code;
#define QC_CODE_OFFSET 0
#define QC_LEAST_CODE (-128)
#else
typedef uint8_t qc_code;
#define QC_CODE_OFFSET 128  /* what a byte exceeds its code by */
#define QC_LEAST_CODE 0
#endif

/* Microcontrollers have small stacks: what stands there is sized by this. */
#if !defined(QC_SMALL)
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define QC_SMALL 1
#else
#define QC_SMALL 0
#endif
#endif

#define QC_MAX_RANK 8
#define QC_PANEL 16         /* output channels in a packed weight panel */
#if QC_SMALL && defined(__ARM_FEATURE_MVE)
#define QC_TILE_ROWS 4
#define QC_TILE_PANELS 4
#elif QC_SMALL
#define QC_TILE_ROWS 6
#define QC_TILE_PANELS 2
#else
#define QC_TILE_ROWS 16     /* rows of an accumulator tile */
#define QC_TILE_PANELS 4    /* panels of an accumulator tile */
#endif
#define QC_TILE_LD (QC_PANEL * QC_TILE_PANELS)
#define QC_SLACK 64

typedef struct {
    int threads;            /* threads this call may use */
    uint8_t *scratch;       /* this call's scratch memory, 64-byte aligned */
} qc_context;

typedef void (*qc_task)(const void *job, int index, int count);

int qc_pool_acquire(int threads, int64_t work);
void qc_pool_release(void);
void qc_parallel(const qc_context *context, qc_task task, const void *job, int64_t cost);

/* requant, then an optional table, then an optional residual ADD2. */
typedef struct {
    const int32_t *bias;         /* with the zero points folded in; padded to whole panels */
    const int32_t *multiplier;
    const int32_t *shift;
    const float *scale;          /* multiplier * 2^-shift where the fp32 round-down path is exact, else NULL */
    const int32_t *left, *right; /* with signed codes: max(0, 32 - shift), NULL where all are 0, and the negative of
                                    max(1, shift - 31), NULL where these would not give SR */
    int32_t fits_words;          /* with signed codes: whether all results fit in 16 bits, zero point added or not */
    int32_t zero_point, qmin, qmax;
    const qc_code *table;        /* 256 codes or NULL */
    int32_t has_residual;
    int32_t add[8];              /* za, ma, zb, mb, shift, zo, qmin, qmax */
} qc_epilogue;

typedef struct {
    int64_t batch, height, width, channels;
    int64_t out_height, out_width, out_channels;
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t groups;
    int64_t widest;              /* most panels of a tile */
    int64_t block_rows;          /* output pixels of a block where it runs by blocks, at most QC_BLOCK_ROWS */
    int32_t pad_value;
    const int8_t *weight;
    const int8_t *pairs;         /* the same weights for the level i8mm: [Cout/16][taps][Cin/8][8][2][8] */
    const int8_t *columns;       /* the same weights for helium: see tile_helium.c; depthwise ones for helium and
                                    dsp, [taps][channels in whole panels] */
    const uint64_t *unsaturated; /* of the weight panels: see qc_tile */
    qc_epilogue epilogue;
} qc_conv2d;

/* A convolution by kernel rows: weights are packed with kernel_w * channels in the place of the channels, or as one
 * tap of kernel_h * kernel_w * channels where windows are gathered.
 * Part i of a job copies the image rows that it reads to scratch + i * scratch_step. */
typedef struct {
    qc_conv2d conv;
    int64_t rows_at_once;        /* output rows that a part computes from one copy */
    int64_t window;              /* bytes of a pixel's window where windows are gathered first, else 0 */
    int64_t windows;             /* where a part gathers them, after scratch + i * scratch_step */
    const int32_t *padded;       /* per kernel row what padding adds to the sums of each channel; NULL without any */
    int64_t scratch, scratch_step;
} qc_conv2d_rows;

/* A depthwise convolution by blocks of channels. Part i of a job keeps the rows that it needs at
 * scratch + i * scratch_step. */
typedef struct {
    qc_conv2d conv;
    int64_t row_bytes;           /* of a row of a block, laid out for the kernel */
    int64_t buffer_bytes;        /* of a part, for what the kernel lays out or computes between */
    int64_t quad_columns;        /* columns that it lays out at a time for each four kernel rows */
    int64_t ring_rows;           /* rows that a part holds */
    int64_t rows_at_once;        /* rows that it adds at a time */
    int64_t scratch, scratch_step;
} qc_depthwise;

/* A 1x1 convolution whose result only the depthwise convolution behind it reads: it is never stored whole. */
typedef struct {
    qc_conv2d pointwise;
    qc_depthwise depthwise;
} qc_pointwise_depthwise;

/* Products of matrices without gaps; the result's follow one another. Part i of a job keeps the columns that
 * it packs at scratch + i * scratch_step. */
typedef struct {
    int32_t rank;                /* batch dimensions */
    int64_t shape[QC_MAX_RANK], a_stride[QC_MAX_RANK], b_stride[QC_MAX_RANK];
    int64_t rows, columns, depth;
    int32_t a_zero_point, b_zero_point;
    int32_t per_column;          /* the epilogue's arrays: one entry per column, or QC_TILE_LD equal ones */
    int64_t scratch, scratch_step;
    qc_epilogue epilogue;        /* bias unused */
} qc_matmul;

typedef struct {
    int64_t batch, channels, pixels;     /* a flat tensor has channels = 1 */
    float scale;
    int32_t zero_point, qmin, qmax;
} qc_quantize;

typedef struct {
    int64_t outer, channels, inner;
    const int32_t *multiplier;
    const int32_t *shift;
    int32_t x_zero_point, zero_point, qmin, qmax;
} qc_requantize;

typedef struct {
    int32_t rank;
    int64_t shape[QC_MAX_RANK], a_stride[QC_MAX_RANK], b_stride[QC_MAX_RANK], out_stride[QC_MAX_RANK];
    int32_t a_zero_point, a_multiplier, b_zero_point, b_multiplier, multiplier, shift;
    int32_t zero_point, qmin, qmax;
} qc_binary;

typedef struct {
    int32_t rank, item_size;
    int64_t shape[QC_MAX_RANK], source_stride[QC_MAX_RANK], out_stride[QC_MAX_RANK];
    int64_t source_offset, out_offset;
} qc_copy;

typedef struct {
    int64_t batch, height, width, channels, out_height, out_width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int64_t counted[4];
    const int32_t *multiplier;
    const int32_t *shift;
    int32_t x_zero_point, zero_point, qmin, qmax;
} qc_pool;

typedef struct {
    int32_t rank, reduced_rank;
    int64_t shape[QC_MAX_RANK], x_stride[QC_MAX_RANK], out_stride[QC_MAX_RANK];
    int64_t reduced_shape[QC_MAX_RANK], reduced_stride[QC_MAX_RANK];
    int32_t multiplier, shift, x_zero_point, zero_point, qmin, qmax;
} qc_mean;

typedef struct {
    int64_t batch, height, width, channels, out_height, out_width;
    int64_t scale[4], offset[2];
    int32_t multiplier, shift, x_zero_point, zero_point, qmin, qmax;
} qc_resize;

typedef struct {
    int64_t shape[4], stride[4], scale_stride[4]; /* of the result's dimensions, in logical order */
    const float *scale;
} qc_dequantize_sums;

void qc_conv2d_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const qc_code *x,
                         const qc_code *residual, qc_code *out);
void qc_conv2d_u8_s8c_i32(const qc_context *c, const qc_conv2d *p, const qc_code *x, int32_t *out);
void qc_conv2d_rows_u8_s8c_u8(const qc_context *c, const qc_conv2d_rows *p, const qc_code *x,
                              const qc_code *residual, qc_code *out);
/* A 1x1 convolution of a single pixel without groups; `p` need not say how it is cut into tiles. */
void qc_gemv_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const qc_code *x,
                       const qc_code *residual, qc_code *out);
void qc_gemv_u8_s8c_i32(const qc_context *c, const qc_conv2d *p, const qc_code *x, int32_t *out);
void qc_depthwise_u8_s8c_u8(const qc_context *c, const qc_depthwise *p, const qc_code *x,
                            const qc_code *residual, qc_code *out);
void qc_pointwise_depthwise_u8(const qc_context *c, const qc_pointwise_depthwise *p, const qc_code *x,
                               qc_code *out);
void qc_matmul_u8_u8_u8(const qc_context *c, const qc_matmul *p, const qc_code *a, const qc_code *b,
                        qc_code *out);
void qc_matmul_u8_u8_i32(const qc_context *c, const qc_matmul *p, const qc_code *a, const qc_code *b,
                         int32_t *out);
void qc_quantize_f32_u8(const qc_context *c, const qc_quantize *p, const float *x, qc_code *out);
void qc_dequantize_i32_f32(const qc_context *c, const qc_dequantize_sums *p, const int32_t *x,
                           float *out);
void qc_dequantize_u8_f32(const qc_context *c, const qc_quantize *p, const qc_code *x, float *out);
void qc_requantize_i32_u8(const qc_context *c, const qc_requantize *p, const int32_t *x, qc_code *out);
void qc_requantize_u8_u8(const qc_context *c, const qc_requantize *p, const qc_code *x, qc_code *out);
void qc_add_u8(const qc_context *c, const qc_binary *p, const qc_code *a, const qc_code *b, qc_code *out);
void qc_mul_u8(const qc_context *c, const qc_binary *p, const qc_code *a, const qc_code *b, qc_code *out);
void qc_table_u8(const qc_context *c, int64_t count, const qc_code *table, const qc_code *x, qc_code *out);
void qc_clamp_u8(const qc_context *c, int64_t count, int32_t qmin, int32_t qmax, const qc_code *x,
                 qc_code *out);
void qc_max_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out);
void qc_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out);
void qc_adaptive_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out);
void qc_mean_u8(const qc_context *c, const qc_mean *p, const qc_code *x, qc_code *out);
void qc_resize_nearest_u8(const qc_context *c, const qc_resize *p, const qc_code *x, qc_code *out);
void qc_resize_bilinear_u8(const qc_context *c, const qc_resize *p, const qc_code *x, qc_code *out);
void qc_copy_nd(const qc_context *c, const qc_copy *p, const void *x, void *out);
/* Dot products of registers, so many rounds; returns the multiply-accumulates. */
int64_t qc_peak_products(int64_t rounds);
/* Reads memory in order; returns the bytes that it has read, a multiple of 64. */
int64_t qc_peak_read(const uint8_t *bytes, int64_t count);
void qc_fill(void *out, int64_t count, int32_t item_size, uint64_t bits);

#endif
