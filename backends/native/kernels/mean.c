/* The mean over any axes. */
#include "average.h"

typedef struct {
    const qc_mean *p;
    const qc_code *x;
    qc_code *out;
} mean_job;

/* A recursive function unrolled into itself takes seconds to compile and gains nothing. */
#define RECURSIVE static __attribute__((noinline))

/* Calls add_elements for the runs along the last reduced axis. */
RECURSIVE void sum_reduced(const qc_mean *p, const qc_code *x, int axis, int64_t channels, byte_sums *sums)
{
    if (axis == p->reduced_rank - 1) {
        add_elements(sums, x, p->reduced_shape[axis], p->reduced_stride[axis], channels);
        return;
    }
    for (int64_t i = 0; i < p->reduced_shape[axis]; i++)
        sum_reduced(p, x + i * p->reduced_stride[axis], axis + 1, channels, sums);
}

static inline uint32_t widened(int32_t code)
{
    return (uint32_t)code;
}

/* The sum of one result's elements, with runs of neighbouring bytes along the last reduced axis. */
RECURSIVE uint32_t sum_runs(const qc_mean *p, const qc_code *x, int axis)
{
    uint32_t sum = 0;
    const int64_t length = p->reduced_shape[axis], step = p->reduced_stride[axis];
    if (axis < p->reduced_rank - 1)
        for (int64_t i = 0; i < length; i++)
            sum += sum_runs(p, x + i * step, axis + 1);
    else if (step == 1)
        for (int64_t i = 0; i < length; i++)
            sum += widened(x[i]);
    else
        for (int64_t i = 0; i < length; i++)
            sum += widened(x[i * step]);
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
#if defined(QC_VECTOR)
    const average k = average_of(p->multiplier, p->shift, p->zero_point, (int32_t)(0 - zero), p->qmin, p->qmax);
#endif
    const int64_t chunks = (length + CHUNK - 1) / CHUNK, total = rows * chunks;
    for (int64_t work = total * index / count; work < total * (index + 1) / count; work++) {
        const int64_t first = work % chunks * CHUNK, size = qc_min(CHUNK, length - first);
        int64_t rest = work / chunks, x_at = first * step, out_at = first * out_step;
        for (int i = inner - 1; i >= 0; i--) {
            x_at += rest % p->shape[i] * p->x_stride[i];
            out_at += rest % p->shape[i] * p->out_stride[i];
            rest /= p->shape[i];
        }
#if defined(QC_VECTOR)
        if (step == 1 && out_step == 1 && elements <= MAX_PENDING && p->reduced_rank <= 2) {
            const int last = p->reduced_rank - 1;
            average_taps(&k, job->x + x_at, last ? p->reduced_shape[0] : 1, p->reduced_stride[0],
                         p->reduced_shape[last], p->reduced_stride[last], size, job->out + out_at);
            continue;
        }
#endif
        byte_sums sums;
        qc_code bytes[CHUNK];
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

void qc_mean_u8(const qc_context *c, const qc_mean *p, const qc_code *x, qc_code *out)
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
