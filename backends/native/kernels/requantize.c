/* Maps of single values: requantize, table and clamp. */
#include "vector.h"

typedef struct {
    int64_t count;
    const qc_code *table, *x;
    qc_code *out;
    int32_t qmin, qmax;
} map_job;

static void table_task(const void *argument, int index, int count)
{
    const map_job *job = argument;
    const qc_code *table = job->table, *x = job->x;
    qc_code *out = job->out;
    int64_t i = job->count * index / count;
    const int64_t end = job->count * (index + 1) / count;
#if defined(QC_VECTOR)
    const vec_table t = vec_table_of(table);
    for (; i + VEC <= end; i += VEC)
        vec_store(out + i, vec_look_up(&t, vec_load(x + i)));
    if (i < end)
        vec_store_part(out + i, vec_look_up(&t, vec_load(x + i)), end - i);
#else
    for (; i < end; i++)
        out[i] = table[(uint8_t)x[i]];
#endif
}

void qc_table_u8(const qc_context *c, int64_t count, const qc_code *table, const qc_code *x, qc_code *out)
{
    map_job job = {.count = count, .table = table, .x = x, .out = out};
    qc_parallel(c, table_task, &job, count * 8);
}

static void clamp_task(const void *argument, int index, int count)
{
    const map_job *job = argument;
    const qc_code low = (qc_code)job->qmin, high = (qc_code)job->qmax, *x = job->x;
    qc_code *out = job->out;
    const int64_t end = job->count * (index + 1) / count;
    for (int64_t i = job->count * index / count; i < end; i++) {
        const qc_code v = x[i] < low ? low : x[i];
        out[i] = v > high ? high : v;
    }
}

void qc_clamp_u8(const qc_context *c, int64_t count, int32_t qmin, int32_t qmax, const qc_code *x, qc_code *out)
{
    map_job job = {.count = count, .x = x, .out = out, .qmin = qmin, .qmax = qmax};
    qc_parallel(c, clamp_task, &job, count * 4);
}

typedef struct {
    const qc_requantize *p;
    const int32_t *wide;
    const qc_code *bytes;
    qc_code *out;
} requantize_job;

static inline qc_code requantize_one(const qc_requantize *p, int64_t x, int64_t channel)
{
    const int32_t v = qc_scale(x - p->x_zero_point, p->multiplier[channel], p->shift[channel]);
    return (qc_code)qc_clamp(v + p->zero_point, p->qmin, p->qmax);
}

/* Rows of one channel: runs of p->inner values with one multiplier. */
static void requantize_runs(const void *argument, int index, int count)
{
    const requantize_job *job = argument;
    const qc_requantize copy = *job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const int64_t rows = p->outer * p->channels;
    /* A single row is cut along its length. */
    const int64_t from = rows == 1 ? p->inner * index / count : 0;
    const int64_t to = rows == 1 ? p->inner * (index + 1) / count : p->inner;
    const int64_t end = rows == 1 ? 1 : rows * (index + 1) / count;
    for (int64_t row = rows == 1 ? 0 : rows * index / count; row < end; row++) {
        const int64_t channel = row % p->channels, at = row * p->inner;
        if (job->wide && p->x_zero_point == 0) {
            qc_scale_row(job->wide + at + from, to - from, p->multiplier[channel], p->shift[channel], p->zero_point,
                         p->qmin, p->qmax, job->out + at + from);
            continue;
        }
        for (int64_t i = at + from; i < at + to; i++)
            job->out[i] = requantize_one(p, job->wide ? job->wide[i] : job->bytes[i], channel);
    }
}

/* Interleaved channels (inner = 1): rows of p->channels values, each with its own multiplier. */
static void requantize_interleaved(const void *argument, int index, int count)
{
    const requantize_job *job = argument;
    const qc_requantize copy = *job->p, *p = &copy;
    const int64_t first = p->outer * index / count, last = p->outer * (index + 1) / count, channels = p->channels;
    int64_t c = 0;
#if defined(QC_VECTOR)
    const vec low = V(set1_epi8)((char)p->qmin), high = V(set1_epi8)((char)p->qmax);
    const vec zero = V(set1_epi32)(p->x_zero_point);
    for (; c + VEC <= channels && (job->bytes || p->x_zero_point == 0); c += VEC) {
        vec_scaling k[4];
        for (int j = 0; j < 4; j++)
            k[j] = vec_scaling_of(vec_load(p->multiplier + c + j * VEC_LANES), vec_load(p->shift + c + j * VEC_LANES),
                                  p->zero_point);
        for (int64_t row = first; row < last; row++) {
            const int64_t at = row * channels + c;
            vec v[4];
            for (int j = 0; j < 4; j++) {
                v[j] = job->wide ? vec_load(job->wide + at + j * VEC_LANES)
                                 : V(sub_epi32)(vec_widen(job->bytes + at + j * VEC_LANES), zero);
                v[j] = vec_scale(&k[j], v[j]);
            }
            vec_store(job->out + at, vec_clamp_bytes(vec_order(vec_pack(v[0], v[1], v[2], v[3])), low, high));
        }
    }
#endif
    for (int64_t row = first; row < last && c < channels; row++)
        for (int64_t i = c; i < channels; i++) {
            const int64_t at = row * channels + i;
            job->out[at] = requantize_one(p, job->wide ? job->wide[at] : job->bytes[at], i);
        }
}

static void requantize(const qc_context *c, const requantize_job *job)
{
    const qc_requantize *p = job->p;
    const int interleaved = p->inner == 1 && p->channels > 1;
    qc_parallel(c, interleaved ? requantize_interleaved : requantize_runs, job,
                p->outer * p->channels * p->inner * 16);
}

void qc_requantize_i32_u8(const qc_context *c, const qc_requantize *p, const int32_t *x, qc_code *out)
{
    const requantize_job job = {p, x, NULL, out};
    requantize(c, &job);
}

/* A byte has 256 values: with one multiplier the operation is a table. */
void qc_requantize_u8_u8(const qc_context *c, const qc_requantize *p, const qc_code *x, qc_code *out)
{
    const int64_t count = p->outer * p->channels * p->inner;
    const requantize_job job = {p, NULL, x, out};
    if (p->channels == 1 && count > 256) {
        qc_code table[256];
        for (int i = 0; i < 256; i++)
            table[i] = requantize_one(p, (qc_code)i, 0);
        qc_table_u8(c, count, table, x, out);
        return;
    }
    requantize(c, &job);
}
