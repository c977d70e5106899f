/* Pooling and mean over NHWC bytes; the innermost loop runs over channels. */
#include "vector.h"

#define CHUNK 256
#define BLOCK 64         /* channels of a strip of column maxima */
#define COLUMNS 128      /* columns of it */
#define MANY_TAPS 16     /* from here on a window is reduced along its columns first */
#define MAX_PENDING 257  /* bytes whose sum fits 16 bits */

typedef struct {
    const qc_pool *p;
    const uint8_t *x;
    uint8_t *out;
} pool_job;

/* The taps of a window that lie inside the image, along one axis. */
typedef struct {
    int64_t first, count;
} tap_range;

static inline tap_range taps_inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size)
{
    const int64_t low = start < 0 ? (-start + dilation - 1) / dilation : 0;
    const int64_t high = start >= size ? 0 : qc_min(kernel, (size - start + dilation - 1) / dilation);
    return (tap_range){start + low * dilation, qc_max(0, high - low)};
}

/* The largest bytes of rows x columns taps, for n channels. */
QC_INLINE void max_taps(const uint8_t *x, int64_t rows, int64_t row_step, int64_t columns, int64_t column_step,
                        int64_t n, uint8_t *out)
{
#if defined(QC_VECTOR)
    for (int64_t c = 0; c < n; c += VEC) {
        vec best = vec_zero();
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                best = V(max_epu8)(best, vec_load(x + c + i * row_step + j * column_step));
        vec_store_part(out + c, best, n - c);
    }
#else
    memset(out, 0, (size_t)n);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const uint8_t *source = x + i * row_step + j * column_step;
            for (int64_t c = 0; c < n; c++)
                out[c] = out[c] > source[c] ? out[c] : source[c];
        }
#endif
}

/* One row of windows, tap by tap; common sizes have constant loops. */
static void max_row(const qc_pool *p, const uint8_t *x, tap_range rows, uint8_t *out)
{
    const int64_t channels = p->channels, line = p->width * channels;
    const int64_t row_step = p->dilation_h * line, column_step = p->dilation_w * channels;
    x += rows.first * line;
    for (int64_t ox = 0; ox < p->out_width; ox++, out += channels) {
        const tap_range taps = taps_inside(ox * p->stride_w - p->pad_left, p->kernel_w, p->dilation_w, p->width);
        const uint8_t *source = x + taps.first * channels;
        if (rows.count == 3 && taps.count == 3)
            max_taps(source, 3, row_step, 3, column_step, channels, out);
        else if (rows.count == 2 && taps.count == 2)
            max_taps(source, 2, row_step, 2, column_step, channels, out);
        else
            max_taps(source, rows.count, row_step, taps.count, column_step, channels, out);
    }
}

/* One row of large windows: maxima of the columns of a strip, then of the windows in it. */
static void max_row_by_columns(const qc_pool *p, const uint8_t *x, tap_range rows, uint8_t *out)
{
    uint8_t strip[(COLUMNS + 1) * BLOCK];
    const int64_t channels = p->channels, line = p->width * channels;
    const int64_t reach = (p->kernel_w - 1) * p->dilation_w, windows = (COLUMNS - 1 - reach) / p->stride_w + 1;
    x += rows.first * line;
    for (int64_t c = 0; c < channels; c += BLOCK) {
        const int64_t n = qc_min(BLOCK, channels - c);
        for (int64_t ox = 0; ox < p->out_width; ox += windows) {
            const int64_t end = qc_min(ox + windows, p->out_width), left = ox * p->stride_w - p->pad_left;
            const int64_t low = qc_max(0, left);
            const int64_t high = qc_min(left + (end - ox - 1) * p->stride_w + reach + 1, p->width);
            for (int64_t column = low; column < high; column++)
                max_taps(x + column * channels + c, rows.count, p->dilation_h * line, 1, 0, n,
                         strip + (column - left) * BLOCK);
            for (int64_t i = ox; i < end; i++) {
                const tap_range taps = taps_inside(i * p->stride_w - p->pad_left, p->kernel_w, p->dilation_w, p->width);
                max_taps(strip + (taps.first - left) * BLOCK, 1, 0, taps.count, p->dilation_w * BLOCK, n,
                         out + i * channels + c);
            }
        }
    }
}

static void max_pool_task(const void *argument, int index, int count)
{
    const pool_job *job = argument;
    const qc_pool *p = job->p;
    const int64_t rows = p->batch * p->out_height;
    const int by_columns = p->kernel_h * p->kernel_w >= MANY_TAPS && (p->kernel_w - 1) * p->dilation_w < COLUMNS;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height, top = row % p->out_height * p->stride_h - p->pad_top;
        const tap_range taps = taps_inside(top, p->kernel_h, p->dilation_h, p->height);
        const uint8_t *x = job->x + image * p->height * p->width * p->channels;
        uint8_t *out = job->out + row * p->out_width * p->channels;
        if (by_columns)
            max_row_by_columns(p, x, taps, out);
        else
            max_row(p, x, taps, out);
    }
}

static int64_t pool_cost(const qc_pool *p)
{
    return p->batch * p->out_height * p->out_width * p->channels * p->kernel_h * p->kernel_w;
}

void qc_max_pool2d_u8(const qc_context *c, const qc_pool *p, const uint8_t *x, uint8_t *out)
{
    pool_job job = {p, x, out};
    qc_parallel(c, max_pool_task, &job, pool_cost(p) * 2);
}

/* Sums of bytes over many elements, for up to CHUNK channels: 16 bits wide, then 32. */
typedef struct {
    int32_t pending;
    uint16_t narrow[CHUNK];
    int32_t wide[CHUNK];
} byte_sums;

static inline void start_sums(byte_sums *s, int64_t channels, int32_t first)
{
    s->pending = 0;
    memset(s->narrow, 0, (size_t)channels * sizeof *s->narrow);
    for (int64_t c = 0; c < channels; c++)
        s->wide[c] = first;
}

static inline void widen_sums(byte_sums *s, int64_t channels)
{
    for (int64_t c = 0; c < channels; c++)
        s->wide[c] += s->narrow[c];
    memset(s->narrow, 0, (size_t)channels * sizeof *s->narrow);
    s->pending = 0;
}

/* Adds `count` elements that are `step` bytes apart. */
static inline void add_elements(byte_sums *s, const uint8_t *x, int64_t count, int64_t step, int64_t channels)
{
    for (int64_t i = 0; i < count; i++, x += step) {
        if (s->pending == MAX_PENDING)
            widen_sums(s, channels);
        s->pending++;
        for (int64_t c = 0; c < channels; c++)
            s->narrow[c] = (uint16_t)(s->narrow[c] + x[c]);
    }
}

/* requant(sum - elements * z) of the window [y0, y1) x [x0, x1), which lies inside the image. */
static void average_window(const pool_job *job, int64_t image, int64_t y0, int64_t y1, int64_t x0, int64_t x1,
                           int64_t divisor, uint8_t *out)
{
    const qc_pool *p = job->p;
    const int32_t zero = (int32_t)(qc_max(0, y1 - y0) * qc_max(0, x1 - x0)) * p->x_zero_point;
    byte_sums sums;
    for (int64_t first = 0; first < p->channels; first += CHUNK) {
        const int64_t channels = qc_min(CHUNK, p->channels - first);
        start_sums(&sums, channels, -zero);
        for (int64_t y = y0; y < y1; y++)
            add_elements(&sums, job->x + ((image * p->height + y) * p->width + x0) * p->channels + first, x1 - x0,
                         p->channels, channels);
        widen_sums(&sums, channels);
        qc_scale_row(sums.wide, channels, p->multiplier[divisor - 1], p->shift[divisor - 1], p->zero_point, p->qmin,
                     p->qmax, out + first);
    }
}

static void avg_pool_task(const void *argument, int index, int count)
{
    const pool_job *job = argument;
    const qc_pool *p = job->p;
    const int64_t rows = p->batch * p->out_height;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t top = row % p->out_height * p->stride_h - p->pad_top, bottom = top + p->kernel_h;
        const int64_t tall = qc_min(bottom, p->height + p->counted[1]) - qc_max(top, -p->counted[0]);
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t left = ox * p->stride_w - p->pad_left, right = left + p->kernel_w;
            const int64_t wide = qc_min(right, p->width + p->counted[3]) - qc_max(left, -p->counted[2]);
            average_window(job, row / p->out_height, qc_max(0, top), qc_min(bottom, p->height), qc_max(0, left),
                           qc_min(right, p->width), qc_max(1, tall * wide),
                           job->out + (row * p->out_width + ox) * p->channels);
        }
    }
}

void qc_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const uint8_t *x, uint8_t *out)
{
    pool_job job = {p, x, out};
    qc_parallel(c, avg_pool_task, &job, pool_cost(p) * 4);
}

static void adaptive_task(const void *argument, int index, int count)
{
    const pool_job *job = argument;
    const qc_pool *p = job->p;
    const int64_t rows = p->batch * p->out_height;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t oy = row % p->out_height;
        const int64_t y0 = oy * p->height / p->out_height;
        const int64_t y1 = ((oy + 1) * p->height + p->out_height - 1) / p->out_height;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t x0 = ox * p->width / p->out_width;
            const int64_t x1 = ((ox + 1) * p->width + p->out_width - 1) / p->out_width;
            average_window(job, row / p->out_height, y0, y1, x0, x1, (y1 - y0) * (x1 - x0),
                           job->out + (row * p->out_width + ox) * p->channels);
        }
    }
}

void qc_adaptive_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const uint8_t *x, uint8_t *out)
{
    pool_job job = {p, x, out};
    qc_parallel(c, adaptive_task, &job, p->batch * p->height * p->width * p->channels * 4);
}

typedef struct {
    const qc_mean *p;
    const uint8_t *x;
    uint8_t *out;
} mean_job;

/* Calls add_elements for the runs along the last reduced axis. */
static void sum_reduced(const qc_mean *p, const uint8_t *x, int axis, int64_t channels, byte_sums *sums)
{
    if (axis == p->reduced_rank - 1) {
        add_elements(sums, x, p->reduced_shape[axis], p->reduced_stride[axis], channels);
        return;
    }
    for (int64_t i = 0; i < p->reduced_shape[axis]; i++)
        sum_reduced(p, x + i * p->reduced_stride[axis], axis + 1, channels, sums);
}

/* The sum of one result's elements, with runs of neighbouring bytes along the last reduced axis. */
static uint32_t sum_runs(const qc_mean *p, const uint8_t *x, int axis)
{
    uint32_t sum = 0;
    const int64_t length = p->reduced_shape[axis], step = p->reduced_stride[axis];
    if (axis < p->reduced_rank - 1)
        for (int64_t i = 0; i < length; i++)
            sum += sum_runs(p, x + i * step, axis + 1);
    else if (step == 1)
        for (int64_t i = 0; i < length; i++)
            sum += x[i];
    else
        for (int64_t i = 0; i < length; i++)
            sum += x[i * step];
    return sum;
}

/* Orders the reduced axes by stride, drops those of size one and joins neighbours without a gap. */
static void join_reduced(qc_mean *p)
{
    int64_t *shape = p->reduced_shape, *stride = p->reduced_stride;
    int rank = 0;
    for (int i = 1; i < p->reduced_rank; i++)
        for (int j = i; j > 0 && stride[j] > stride[j - 1]; j--) {
            const int64_t n = shape[j], step = stride[j];
            shape[j] = shape[j - 1];
            stride[j] = stride[j - 1];
            shape[j - 1] = n;
            stride[j - 1] = step;
        }
    for (int i = 0; i < p->reduced_rank; i++) {
        if (shape[i] == 1)
            continue;
        if (rank && stride[rank - 1] == shape[i] * stride[i])
            shape[rank - 1] *= shape[i];
        else
            shape[rank++] = shape[i];
        stride[rank - 1] = stride[i];
    }
    if (rank == 0) {
        shape[0] = stride[0] = 1;
        rank = 1;
    }
    p->reduced_rank = rank;
}

static void mean_task(const void *argument, int index, int count)
{
    const mean_job *job = argument;
    const qc_mean *p = job->p;
    const int inner = p->rank - 1;
    const int64_t length = p->shape[inner], step = p->x_stride[inner], out_step = p->out_stride[inner];
    int64_t rows = 1, elements = 1;
    for (int i = 0; i < inner; i++)
        rows *= p->shape[i];
    for (int i = 0; i < p->reduced_rank; i++)
        elements *= p->reduced_shape[i];
    /* modulo 2**32: the proof bounds the centred sum, not the sum of the bytes */
    const uint32_t zero = (uint32_t)elements * (uint32_t)p->x_zero_point;
    const int64_t chunks = (length + CHUNK - 1) / CHUNK, total = rows * chunks;
    for (int64_t work = total * index / count; work < total * (index + 1) / count; work++) {
        const int64_t first = work % chunks * CHUNK, size = qc_min(CHUNK, length - first);
        int64_t rest = work / chunks, x_at = first * step, out_at = first * out_step;
        for (int i = inner - 1; i >= 0; i--) {
            x_at += rest % p->shape[i] * p->x_stride[i];
            out_at += rest % p->shape[i] * p->out_stride[i];
            rest /= p->shape[i];
        }
        byte_sums sums;
        uint8_t bytes[CHUNK];
        if (step == 1) {
            start_sums(&sums, size, (int32_t)(0 - zero));
            sum_reduced(p, job->x + x_at, 0, size, &sums);
            widen_sums(&sums, size);
        } else {
            for (int64_t i = 0; i < size; i++)
                sums.wide[i] = (int32_t)(sum_runs(p, job->x + x_at + i * step, 0) - zero);
        }
        qc_scale_row(sums.wide, size, p->multiplier, p->shift, p->zero_point, p->qmin, p->qmax, bytes);
        for (int64_t i = 0; i < size; i++)
            job->out[out_at + i * out_step] = bytes[i];
    }
}

void qc_mean_u8(const qc_context *c, const qc_mean *p, const uint8_t *x, uint8_t *out)
{
    qc_mean joined = *p;
    const mean_job job = {&joined, x, out};
    int64_t cost = 4;
    for (int i = 0; i < p->rank; i++)
        cost *= p->shape[i];
    for (int i = 0; i < p->reduced_rank; i++)
        cost *= p->reduced_shape[i];
    join_reduced(&joined);
    qc_parallel(c, mean_task, &job, cost);
}
