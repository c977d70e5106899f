/* Borders (quantize, dequantize), requantize, add, mul, table and clamp. */
#include "arith.h"

#include <string.h>

#define STRIP 64

typedef struct {
    const qc_quantize *p;
    const void *x;
    void *out;
} border_job;

/* rne(clamp(fl32(x * inv_scale))) + z. Adding 1.5 * 2^23 leaves the rounded integer in the low bits. */
static void quantize_strip(const qc_quantize *p, const float *x, int64_t count, uint8_t *out)
{
    const float low = (float)(p->qmin - p->zero_point), high = (float)(p->qmax - p->zero_point);
    const float magic = 12582912.0f, scale = p->scale;
    const int32_t back = p->zero_point - 0x4B400000;
    for (int64_t i = 0; i < count; i++) {
        float v = x[i] * scale;
        v = v == v ? v : 0.0f;
        v = v < low ? low : v;
        v = v > high ? high : v;
        v += magic;
        int32_t bits;
        memcpy(&bits, &v, sizeof bits);
        out[i] = (uint8_t)(bits + back);
    }
}

static void interleave(const uint8_t *strips, int64_t channels, int64_t pixels, uint8_t *out, int64_t stride)
{
    for (int64_t i = 0; i < pixels; i++)
        for (int64_t c = 0; c < channels; c++)
            out[i * stride + c] = strips[c * STRIP + i];
}

/* Planes to interleaved channels, in blocks of 64 pixels by 64 channels. */
static void quantize_task(const void *argument, int index, int count)
{
    const border_job *job = argument;
    const qc_quantize *p = job->p;
    const int64_t strips = (p->pixels + STRIP - 1) / STRIP, total = p->batch * strips;
    uint8_t block[STRIP * STRIP];
    for (int64_t s = total * index / count; s < total * (index + 1) / count; s++) {
        const int64_t image = s / strips, first = s % strips * STRIP, pixels = qc_min(STRIP, p->pixels - first);
        const float *x = (const float *)job->x + image * p->channels * p->pixels + first;
        uint8_t *out = (uint8_t *)job->out + (image * p->pixels + first) * p->channels;
        if (p->channels == 1) {
            quantize_strip(p, x, pixels, out);
            continue;
        }
        for (int64_t c = 0; c < p->channels; c += STRIP) {
            const int64_t channels = qc_min(STRIP, p->channels - c);
            for (int64_t i = 0; i < channels; i++)
                quantize_strip(p, x + (c + i) * p->pixels, pixels, block + i * STRIP);
            if (channels == 3)
                interleave(block, 3, pixels, out + c, p->channels);
            else
                interleave(block, channels, pixels, out + c, p->channels);
        }
    }
}

void qc_quantize_f32_u8(const qc_context *c, const qc_quantize *p, const float *x, uint8_t *out)
{
    border_job job = {p, x, out};
    qc_parallel(c, quantize_task, &job, p->batch * p->channels * p->pixels * 8);
}

static void dequantize_task(const void *argument, int index, int count)
{
    const border_job *job = argument;
    const qc_quantize *p = job->p;
    const uint8_t *x = job->x;
    float *out = job->out;
    const float scale = p->scale;
    const int32_t zero_point = p->zero_point;
    const int64_t planes = p->batch * p->channels;
    for (int64_t plane = planes * index / count; plane < planes * (index + 1) / count; plane++) {
        const int64_t image = plane / p->channels, c = plane % p->channels;
        const uint8_t *source = x + image * p->pixels * p->channels + c;
        for (int64_t i = 0; i < p->pixels; i++)
            out[plane * p->pixels + i] = (float)(source[i * p->channels] - zero_point) * scale;
    }
}

void qc_dequantize_u8_f32(const qc_context *c, const qc_quantize *p, const uint8_t *x, float *out)
{
    border_job job = {p, x, out};
    qc_parallel(c, dequantize_task, &job, p->batch * p->channels * p->pixels * 8);
}

typedef struct {
    const qc_dequantize_sums *p;
    const int32_t *x;
    float *out;
} sums_job;

static void dequantize_sums_task(const void *argument, int index, int count)
{
    const sums_job *job = argument;
    const qc_dequantize_sums *p = job->p;
    const int64_t *n = p->shape, *xs = p->stride, *ss = p->scale_stride;
    const int64_t total = n[0] * n[1] * n[2];
    for (int64_t row = total * index / count; row < total * (index + 1) / count; row++) {
        const int64_t i = row / (n[1] * n[2]), j = row / n[2] % n[1], k = row % n[2];
        const int32_t *x = job->x + i * xs[0] + j * xs[1] + k * xs[2];
        const float *scale = p->scale + i * ss[0] + j * ss[1] + k * ss[2];
        for (int64_t l = 0; l < n[3]; l++)
            job->out[row * n[3] + l] = (float)x[l * xs[3]] * scale[l * ss[3]];
    }
}

void qc_dequantize_i32_f32(const qc_context *c, const qc_dequantize_sums *p, const int32_t *x,
                           float *out)
{
    sums_job job = {p, x, out};
    qc_parallel(c, dequantize_sums_task, &job, p->shape[0] * p->shape[1] * p->shape[2] * p->shape[3] * 8);
}

typedef struct {
    const qc_requantize *p;
    const int32_t *wide;
    const uint8_t *bytes;
    uint8_t *out;
} requantize_job;

static void requantize_task(const void *argument, int index, int count)
{
    const requantize_job *job = argument;
    const qc_requantize copy = *job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const int64_t total = p->outer * p->channels;
    for (int64_t row = total * index / count; row < total * (index + 1) / count; row++) {
        const int64_t m = p->multiplier[row % p->channels], s = p->shift[row % p->channels];
        for (int64_t i = row * p->inner; i < (row + 1) * p->inner; i++) {
            const int64_t x = (job->wide ? job->wide[i] : job->bytes[i]) - (int64_t)p->x_zero_point;
            job->out[i] = (uint8_t)qc_clamp(qc_scale(x, m, (int32_t)s) + p->zero_point, p->qmin, p->qmax);
        }
    }
}

void qc_requantize_i32_u8(const qc_context *c, const qc_requantize *p, const int32_t *x, uint8_t *out)
{
    requantize_job job = {p, x, NULL, out};
    qc_parallel(c, requantize_task, &job, p->outer * p->channels * p->inner * 16);
}

void qc_requantize_u8_u8(const qc_context *c, const qc_requantize *p, const uint8_t *x, uint8_t *out)
{
    requantize_job job = {p, NULL, x, out};
    qc_parallel(c, requantize_task, &job, p->outer * p->channels * p->inner * 16);
}

typedef struct {
    qc_binary p;
    const uint8_t *a, *b;
    uint8_t *out;
    int is_mul;
} binary_job;

static inline uint8_t mul_one(const qc_binary *p, int32_t a, int32_t b)
{
    const int64_t product = (int64_t)(a - p->a_zero_point) * (b - p->b_zero_point);
    return (uint8_t)qc_clamp(qc_scale(product, p->multiplier, p->shift) + p->zero_point, p->qmin, p->qmax);
}

/* Strides are template arguments: the calls below give the common pairs as constants. */
static inline __attribute__((always_inline)) void binary_row(const binary_job *job, const uint8_t *a, const uint8_t *b,
                                                             uint8_t *out, int64_t count, int64_t a_step,
                                                             int64_t b_step, int64_t out_step)
{
    const qc_binary copy = job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const int32_t add[8] = {p->a_zero_point, p->a_multiplier, p->b_zero_point, p->b_multiplier,
                            p->shift,        p->zero_point,   p->qmin,         p->qmax};
    if (job->is_mul)
        for (int64_t i = 0; i < count; i++)
            out[i * out_step] = mul_one(p, a[i * a_step], b[i * b_step]);
    else
        for (int64_t i = 0; i < count; i++)
            out[i * out_step] = qc_add2(a[i * a_step], b[i * b_step], add);
}

static void binary_task(const void *argument, int index, int count)
{
    const binary_job *job = argument;
    const qc_binary *p = &job->p;
    const int inner = p->rank - 1;
    const int64_t length = p->shape[inner], sa = p->a_stride[inner], sb = p->b_stride[inner], so = p->out_stride[inner];
    int64_t rows = 1;
    for (int i = 0; i < inner; i++)
        rows *= p->shape[i];
    /* A flat operation is cut along its only axis, anything else along its rows. */
    const int64_t total = rows == 1 ? length : rows;
    int64_t begin = total * index / count, end = total * (index + 1) / count;
    const int64_t from = rows == 1 ? begin : 0, size = rows == 1 ? end - begin : length;
    if (rows == 1) {
        begin = 0;
        end = 1;
    }
    for (int64_t row = begin; row < end; row++) {
        int64_t rest = row, at = from * sa, bt = from * sb, ot = from * so;
        for (int i = inner - 1; i >= 0; i--) {
            const int64_t k = rest % p->shape[i];
            rest /= p->shape[i];
            at += k * p->a_stride[i];
            bt += k * p->b_stride[i];
            ot += k * p->out_stride[i];
        }
        const uint8_t *a = job->a + at, *b = job->b + bt;
        if (so == 1 && sa == 1 && sb == 1)
            binary_row(job, a, b, job->out + ot, size, 1, 1, 1);
        else if (so == 1 && sa == 1 && sb == 0)
            binary_row(job, a, b, job->out + ot, size, 1, 0, 1);
        else
            binary_row(job, a, b, job->out + ot, size, sa, sb, so);
    }
}

/* Orders the axes by output stride and joins those that run on without a gap. */
static void collapse(qc_binary *p)
{
    for (int i = 1; i < p->rank; i++)
        for (int j = i; j > 0 && p->out_stride[j] > p->out_stride[j - 1]; j--) {
#define SWAP(v) { const int64_t t = v[j]; v[j] = v[j - 1]; v[j - 1] = t; }
            SWAP(p->shape) SWAP(p->a_stride) SWAP(p->b_stride) SWAP(p->out_stride)
#undef SWAP
        }
    int rank = 0;
    for (int i = 0; i < p->rank; i++) {
        const int64_t n = p->shape[i];
        if (n == 1)
            continue;
        const int j = rank - 1;
        if (rank && p->a_stride[j] == n * p->a_stride[i] && p->b_stride[j] == n * p->b_stride[i] &&
            p->out_stride[j] == n * p->out_stride[i]) {
            p->shape[j] *= n;
        } else {
            rank++;
            p->shape[j + 1] = n;
        }
        p->a_stride[rank - 1] = p->a_stride[i];
        p->b_stride[rank - 1] = p->b_stride[i];
        p->out_stride[rank - 1] = p->out_stride[i];
    }
    if (rank == 0) {
        rank = 1;
        p->shape[0] = p->rank && p->shape[0] == 0 ? 0 : 1;
        p->a_stride[0] = p->b_stride[0] = p->out_stride[0] = 1;
    }
    p->rank = rank;
}

static void run_binary(const qc_context *c, const qc_binary *p, const uint8_t *a, const uint8_t *b, uint8_t *out,
                       int is_mul)
{
    binary_job job = {*p, a, b, out, is_mul};
    int64_t count = 1;
    for (int i = 0; i < p->rank; i++)
        count *= p->shape[i];
    collapse(&job.p);
    qc_parallel(c, binary_task, &job, count * 8);
}

void qc_add_u8(const qc_context *c, const qc_binary *p, const uint8_t *a, const uint8_t *b, uint8_t *out)
{
    run_binary(c, p, a, b, out, 0);
}

void qc_mul_u8(const qc_context *c, const qc_binary *p, const uint8_t *a, const uint8_t *b, uint8_t *out)
{
    run_binary(c, p, a, b, out, 1);
}

typedef struct {
    int64_t count;
    const uint8_t *table, *x;
    uint8_t *out;
    int32_t qmin, qmax;
} map_job;

static void table_task(const void *argument, int index, int count)
{
    const map_job *job = argument;
    for (int64_t i = job->count * index / count; i < job->count * (index + 1) / count; i++)
        job->out[i] = job->table[job->x[i]];
}

void qc_table_u8(const qc_context *c, int64_t count, const uint8_t *table, const uint8_t *x, uint8_t *out)
{
    map_job job = {.count = count, .table = table, .x = x, .out = out};
    qc_parallel(c, table_task, &job, count * 16);
}

static void clamp_task(const void *argument, int index, int count)
{
    const map_job *job = argument;
    const uint8_t low = (uint8_t)job->qmin, high = (uint8_t)job->qmax;
    for (int64_t i = job->count * index / count; i < job->count * (index + 1) / count; i++) {
        const uint8_t v = job->x[i] < low ? low : job->x[i];
        job->out[i] = v > high ? high : v;
    }
}

void qc_clamp_u8(const qc_context *c, int64_t count, int32_t qmin, int32_t qmax, const uint8_t *x, uint8_t *out)
{
    map_job job = {.count = count, .x = x, .out = out, .qmin = qmin, .qmax = qmax};
    qc_parallel(c, clamp_task, &job, count * 2);
}
