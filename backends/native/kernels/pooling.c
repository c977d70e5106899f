/* Pooling over NHWC bytes; the innermost loop runs over channels. */
#include "average.h"

#define BLOCK 64         /* channels of a strip of column maxima */
#define COLUMNS 128      /* columns of it */
#define MANY_TAPS 16     /* from here on a window is reduced along its columns first */

typedef struct {
    const qc_pool *p;
    const qc_code *x;
    qc_code *out;
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
QC_INLINE void max_taps(const qc_code *x, int64_t rows, int64_t row_step, int64_t columns, int64_t column_step,
                        int64_t n, qc_code *out)
{
#if defined(QC_VECTOR)
    for (int64_t c = 0; c < n; c += VEC) {
        vec best = V(set1_epi8)((char)QC_LEAST_CODE);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                best = vec_max_codes(best, vec_load(x + c + i * row_step + j * column_step));
        vec_store_part(out + c, best, n - c);
    }
#else
    memset(out, QC_LEAST_CODE, (size_t)n);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            const qc_code *source = x + i * row_step + j * column_step;
            for (int64_t c = 0; c < n; c++)
                out[c] = out[c] > source[c] ? out[c] : source[c];
        }
#endif
}

/* One row of windows, tap by tap; common sizes have constant loops. */
static void max_row(const qc_pool *p, const qc_code *x, tap_range rows, qc_code *out)
{
    const int64_t channels = p->channels, line = p->width * channels;
    const int64_t row_step = p->dilation_h * line, column_step = p->dilation_w * channels;
    x += rows.first * line;
    for (int64_t ox = 0; ox < p->out_width; ox++, out += channels) {
        const tap_range taps = taps_inside(ox * p->stride_w - p->pad_left, p->kernel_w, p->dilation_w, p->width);
        const qc_code *source = x + taps.first * channels;
        if (rows.count == 3 && taps.count == 3)
            max_taps(source, 3, row_step, 3, column_step, channels, out);
        else if (rows.count == 2 && taps.count == 2)
            max_taps(source, 2, row_step, 2, column_step, channels, out);
        else
            max_taps(source, rows.count, row_step, taps.count, column_step, channels, out);
    }
}

/* One row of large windows: maxima of the columns of a strip, then of the windows in it. */
static void max_row_by_columns(const qc_pool *p, const qc_code *x, tap_range rows, qc_code *out)
{
    qc_code strip[(COLUMNS + 1) * BLOCK];
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
    const int by_columns = !QC_SMALL && p->kernel_h * p->kernel_w >= MANY_TAPS &&
                           (p->kernel_w - 1) * p->dilation_w < COLUMNS; /* its strip is 8 KiB */
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height, top = row % p->out_height * p->stride_h - p->pad_top;
        const tap_range taps = taps_inside(top, p->kernel_h, p->dilation_h, p->height);
        const qc_code *x = job->x + image * p->height * p->width * p->channels;
        qc_code *out = job->out + row * p->out_width * p->channels;
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

void qc_max_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out)
{
    pool_job job = {p, x, out};
    qc_parallel(c, max_pool_task, &job, pool_cost(p) * 2);
}

/* requant(sum - elements * z) of the window [y0, y1) x [x0, x1), which lies inside the image. */
static void average_window(const pool_job *job, int64_t image, int64_t y0, int64_t y1, int64_t x0, int64_t x1,
                           int64_t divisor, qc_code *out)
{
    const qc_pool *p = job->p;
    const int64_t tall = qc_max(0, y1 - y0), wide = qc_max(0, x1 - x0);
    const int32_t first = -(int32_t)(tall * wide) * p->x_zero_point;
    const int32_t multiplier = p->multiplier[divisor - 1], shift = p->shift[divisor - 1];
    const qc_code *x = job->x + ((image * p->height + y0) * p->width + x0) * p->channels;
#if defined(QC_VECTOR)
    if (tall * wide <= MAX_PENDING) {
        const average k = average_of(multiplier, shift, p->zero_point, first, p->qmin, p->qmax);
        average_taps(&k, x, tall, p->width * p->channels, wide, p->channels, p->channels, out);
        return;
    }
#endif
    byte_sums sums;
    for (int64_t c = 0; c < p->channels; c += CHUNK) {
        const int64_t channels = qc_min(CHUNK, p->channels - c);
        start_sums(&sums, channels, first);
        for (int64_t i = 0; i < tall; i++)
            add_elements(&sums, x + i * p->width * p->channels + c, wide, p->channels, channels);
        widen_sums(&sums, channels);
        qc_scale_row(sums.wide, channels, multiplier, shift, p->zero_point, p->qmin, p->qmax, out + c);
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

void qc_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out)
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

void qc_adaptive_avg_pool2d_u8(const qc_context *c, const qc_pool *p, const qc_code *x, qc_code *out)
{
    pool_job job = {p, x, out};
    qc_parallel(c, adaptive_task, &job, p->batch * p->height * p->width * p->channels * 4);
}
