/* Pooling, mean and resize over NHWC bytes; the innermost loop runs over channels. */
#include "arith.h"

#include <string.h>

#define CHUNK 256

typedef struct {
    const qc_pool *p;
    const uint8_t *x;
    uint8_t *out;
} pool_job;

static void max_pool_task(const void *argument, int index, int count)
{
    const pool_job *job = argument;
    const qc_pool *p = job->p;
    const int64_t rows = p->batch * p->out_height;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height, top = row % p->out_height * p->stride_h - p->pad_top;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            uint8_t *out = job->out + (row * p->out_width + ox) * p->channels;
            memset(out, 0, (size_t)p->channels);
            for (int64_t ky = 0; ky < p->kernel_h; ky++)
                for (int64_t kx = 0; kx < p->kernel_w; kx++) {
                    const int64_t y = top + ky * p->dilation_h;
                    const int64_t x = ox * p->stride_w - p->pad_left + kx * p->dilation_w;
                    if ((uint64_t)y >= (uint64_t)p->height || (uint64_t)x >= (uint64_t)p->width)
                        continue;
                    const uint8_t *source = job->x + ((image * p->height + y) * p->width + x) * p->channels;
                    for (int64_t c = 0; c < p->channels; c++)
                        out[c] = out[c] > source[c] ? out[c] : source[c];
                }
        }
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

/* requant(sum - elements * z) of the window [y0, y1) x [x0, x1), which lies inside the image. */
static void average_window(const pool_job *job, int64_t image, int64_t y0, int64_t y1, int64_t x0, int64_t x1,
                           int64_t divisor, uint8_t *out)
{
    const qc_pool *p = job->p;
    const int32_t zero = (int32_t)(qc_max(0, y1 - y0) * qc_max(0, x1 - x0)) * p->x_zero_point;
    const int32_t m = p->multiplier[divisor - 1], s = p->shift[divisor - 1];
    const int32_t zero_point = p->zero_point, qmin = p->qmin, qmax = p->qmax;
    for (int64_t first = 0; first < p->channels; first += CHUNK) {
        const int64_t channels = qc_min(CHUNK, p->channels - first);
        int32_t acc[CHUNK];
        for (int64_t c = 0; c < channels; c++)
            acc[c] = -zero;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) {
                const uint8_t *source = job->x + ((image * p->height + y) * p->width + x) * p->channels + first;
                for (int64_t c = 0; c < channels; c++)
                    acc[c] += source[c];
            }
        for (int64_t c = 0; c < channels; c++)
            out[first + c] = (uint8_t)qc_clamp(qc_scale(acc[c], m, s) + zero_point, qmin, qmax);
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

static void sum_reduced(const qc_mean *p, const uint8_t *x, int axis, int64_t step, int64_t count, int32_t *acc)
{
    if (axis == p->reduced_rank) {
        for (int64_t i = 0; i < count; i++)
            acc[i] += x[i * step];
        return;
    }
    for (int64_t i = 0; i < p->reduced_shape[axis]; i++)
        sum_reduced(p, x + i * p->reduced_stride[axis], axis + 1, step, count, acc);
}

static void mean_task(const void *argument, int index, int count)
{
    const mean_job *job = argument;
    const qc_mean *p = job->p;
    const int inner = p->rank - 1;
    const int64_t length = p->shape[inner], step = p->x_stride[inner];
    int64_t rows = 1, elements = 1;
    for (int i = 0; i < inner; i++)
        rows *= p->shape[i];
    for (int i = 0; i < p->reduced_rank; i++)
        elements *= p->reduced_shape[i];
    const int64_t chunks = (length + CHUNK - 1) / CHUNK, total = rows * chunks;
    for (int64_t work = total * index / count; work < total * (index + 1) / count; work++) {
        const int64_t first = work % chunks * CHUNK, size = qc_min(CHUNK, length - first);
        int64_t rest = work / chunks, x_at = first * step, out_at = first * p->out_stride[inner];
        for (int i = inner - 1; i >= 0; i--) {
            x_at += rest % p->shape[i] * p->x_stride[i];
            out_at += rest % p->shape[i] * p->out_stride[i];
            rest /= p->shape[i];
        }
        int32_t acc[CHUNK] = {0};
        sum_reduced(p, job->x + x_at, 0, step, size, acc);
        for (int64_t i = 0; i < size; i++) {
            /* modulo 2**32: the proof bounds the centred sum, not the sum of the bytes */
            const int32_t sum = (int32_t)((uint32_t)acc[i] - (uint32_t)(elements * p->x_zero_point));
            const int32_t v = qc_scale(sum, p->multiplier, p->shift) + p->zero_point;
            job->out[out_at + i * p->out_stride[inner]] = (uint8_t)qc_clamp(v, p->qmin, p->qmax);
        }
    }
}

void qc_mean_u8(const qc_context *c, const qc_mean *p, const uint8_t *x, uint8_t *out)
{
    mean_job job = {p, x, out};
    int64_t cost = 4;
    for (int i = 0; i < p->rank; i++)
        cost *= p->shape[i];
    for (int i = 0; i < p->reduced_rank; i++)
        cost *= p->reduced_shape[i];
    qc_parallel(c, mean_task, &job, cost);
}

typedef struct {
    const qc_resize *p;
    const uint8_t *x;
    uint8_t *out;
} resize_job;

static int64_t clip(int64_t v, int64_t size) { return v < 0 ? 0 : v >= size ? size - 1 : v; }

static void nearest_task(const void *argument, int index, int count)
{
    const resize_job *job = argument;
    const qc_resize *p = job->p;
    const int64_t rows = p->batch * p->out_height;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t oy = row % p->out_height;
        const int64_t y = clip(qc_floor_div(oy * p->scale[1] + p->offset[0], p->scale[0]), p->height);
        const uint8_t *line = job->x + (row / p->out_height * p->height + y) * p->width * p->channels;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t x = clip(qc_floor_div(ox * p->scale[3] + p->offset[1], p->scale[2]), p->width);
            memcpy(job->out + (row * p->out_width + ox) * p->channels, line + x * p->channels, (size_t)p->channels);
        }
    }
}

void qc_resize_nearest_u8(const qc_context *c, const qc_resize *p, const uint8_t *x, uint8_t *out)
{
    resize_job job = {p, x, out};
    qc_parallel(c, nearest_task, &job, p->batch * p->out_height * p->out_width * p->channels * 2);
}

static void bilinear_task(const void *argument, int index, int count)
{
    const resize_job *job = argument;
    const qc_resize copy = *job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const int64_t rows = p->batch * p->out_height, channels = p->channels;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height;
        const int64_t y = row % p->out_height * p->scale[1] + p->offset[0], iy = qc_floor_div(y, p->scale[0]);
        const int32_t wy1 = (int32_t)(y - iy * p->scale[0]), wy0 = (int32_t)p->scale[0] - wy1;
        const uint8_t *above = job->x + (image * p->height + clip(iy, p->height)) * p->width * channels;
        const uint8_t *below = job->x + (image * p->height + clip(iy + 1, p->height)) * p->width * channels;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t x = ox * p->scale[3] + p->offset[1], ix = qc_floor_div(x, p->scale[2]);
            const int32_t wx1 = (int32_t)(x - ix * p->scale[2]), wx0 = (int32_t)p->scale[2] - wx1;
            const int64_t left = clip(ix, p->width) * channels, right = clip(ix + 1, p->width) * channels;
            uint8_t *out = job->out + (row * p->out_width + ox) * channels;
            for (int64_t c = 0; c < channels; c++) {
                const int32_t z = p->x_zero_point;
                const int32_t top = (above[left + c] - z) * wx0 + (above[right + c] - z) * wx1;
                const int32_t low = (below[left + c] - z) * wx0 + (below[right + c] - z) * wx1;
                const int64_t acc = (int64_t)top * wy0 + (int64_t)low * wy1;
                out[c] = (uint8_t)qc_clamp(qc_scale(acc, p->multiplier, p->shift) + p->zero_point, p->qmin, p->qmax);
            }
        }
    }
}

void qc_resize_bilinear_u8(const qc_context *c, const qc_resize *p, const uint8_t *x, uint8_t *out)
{
    resize_job job = {p, x, out};
    qc_parallel(c, bilinear_task, &job, p->batch * p->out_height * p->out_width * p->channels * 16);
}
