/* add and mul of two byte tensors with broadcasting. */
#include "vector_sum.h"

typedef struct {
    qc_binary p;
    const qc_code *a, *b;
    qc_code *out;
    int is_mul;
} binary_job;

/* The constants of qc_add2. */
typedef struct {
    int32_t k[8];
} sum_terms;

static inline sum_terms sum_terms_of(const qc_binary *p)
{
    return (sum_terms){{p->a_zero_point, p->a_multiplier, p->b_zero_point, p->b_multiplier, p->shift, p->zero_point,
                        p->qmin, p->qmax}};
}

static inline qc_code mul_one(const qc_binary *p, int32_t a, int32_t b)
{
    const int64_t product = (int64_t)(a - p->a_zero_point) * (b - p->b_zero_point);
    return (qc_code)qc_clamp(qc_scale(product, p->multiplier, p->shift) + p->zero_point, p->qmin, p->qmax);
}

static void strided_row(const binary_job *job, const qc_code *a, int64_t a_step, const qc_code *b, int64_t b_step,
                        qc_code *out, int64_t out_step, int64_t count)
{
    const qc_binary copy = job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const sum_terms terms = sum_terms_of(p);
    if (job->is_mul)
        for (int64_t i = 0; i < count; i++)
            out[i * out_step] = mul_one(p, a[i * a_step], b[i * b_step]);
    else
        for (int64_t i = 0; i < count; i++)
            out[i * out_step] = qc_add2(a[i * a_step], b[i * b_step], terms.k);
}

#if defined(QC_VECTOR)
/* A product of codes has 17 bits. */
typedef struct {
    vec a_zero_point, b_zero_point, zero_point, qmin, qmax;
    vec_small_scaling small;
    vec_scaling any;
    int is_small;
} product_constants;

static inline product_constants product_constants_of(const qc_binary *p)
{
    product_constants k;
    k.a_zero_point = V(set1_epi16)((int16_t)p->a_zero_point);
    k.b_zero_point = V(set1_epi16)((int16_t)p->b_zero_point);
    k.zero_point = V(set1_epi16)((int16_t)p->zero_point);
    k.qmin = V(set1_epi8)((char)p->qmin);
    k.qmax = V(set1_epi8)((char)p->qmax);
    k.is_small = vec_is_small_scaling(p->multiplier, p->shift);
    k.small = vec_small_scaling_of(p->multiplier, p->shift);
    k.any = vec_scaling_of(V(set1_epi32)(p->multiplier), V(set1_epi32)(p->shift), 0);
    return k;
}

/* 2 * VEC_LANES products of 16-bit differences, scaled, as 16 bits; `is_small` is a constant. */
QC_INLINE vec product_words(const product_constants *k, int is_small, vec a, vec b)
{
    const vec x0 = vec_low_products(a, b), x1 = vec_high_products(a, b);
    const vec y = is_small ? V(packs_epi32)(vec_scale_small(&k->small, x0), vec_scale_small(&k->small, x1))
                           : V(packs_epi32)(vec_scale(&k->any, x0), vec_scale(&k->any, x1));
    return V(adds_epi16)(y, k->zero_point);
}

QC_INLINE vec product_bytes(const product_constants *k, int is_small, vec a, vec b)
{
    const vec za = k->a_zero_point, zb = k->b_zero_point;
    const vec y0 = product_words(k, is_small, V(sub_epi16)(vec_low_words(a), za), V(sub_epi16)(vec_low_words(b), zb));
    const vec y1 = product_words(k, is_small, V(sub_epi16)(vec_high_words(a), za), V(sub_epi16)(vec_high_words(b), zb));
    return vec_clamp_bytes(vec_narrow(y0, y1), k->qmin, k->qmax);
}

/* One row of bytes; a step is 1, or 0 for a single repeated value. */
#define DENSE_ROW(COMBINE, ...)                                                      \
    for (int64_t i = 0; i < count; i += VEC) {                                       \
        const vec va = a_step ? vec_load(a + i) : V(set1_epi8)((char)*a);            \
        const vec vb = b_step ? vec_load(b + i) : V(set1_epi8)((char)*b);            \
        vec_store_part(out + i, COMBINE(__VA_ARGS__, va, vb), count - i);            \
    }

static void sum_row(const vec_sum *k, const qc_code *a, int64_t a_step, const qc_code *b, int64_t b_step,
                    qc_code *out, int64_t count)
{
    DENSE_ROW(vec_sum_bytes, k)
}

static void product_row(const product_constants *k, const qc_code *a, int64_t a_step, const qc_code *b,
                        int64_t b_step, qc_code *out, int64_t count)
{
    if (k->is_small)
        DENSE_ROW(product_bytes, k, 1)
    else
        DENSE_ROW(product_bytes, k, 0)
}
#endif

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
    const int64_t begin = total * index / count, end = total * (index + 1) / count;
    const int64_t from = rows == 1 ? begin : 0, size = rows == 1 ? end - begin : length;
    if (begin == end)
        return;
    int64_t at = from * sa, bt = from * sb, ot = from * so, position[QC_MAX_RANK];
#if defined(QC_VECTOR)
    const sum_terms terms = sum_terms_of(p);
    const int is_dense = so == 1 && sa >= 0 && sa <= 1 && sb >= 0 && sb <= 1;
    const int use_sum = is_dense && !job->is_mul && vec_sum_fits(terms.k), use_product = is_dense && job->is_mul;
    const vec_sum sums = use_sum ? vec_sum_of(terms.k) : (vec_sum){0};
    const product_constants products = use_product ? product_constants_of(p) : (product_constants){0};
#endif
    int64_t rest = rows == 1 ? 0 : begin;
    for (int i = inner - 1; i >= 0; i--) {
        position[i] = rest % p->shape[i];
        rest /= p->shape[i];
        at += position[i] * p->a_stride[i];
        bt += position[i] * p->b_stride[i];
        ot += position[i] * p->out_stride[i];
    }
    for (int64_t row = rows == 1 ? 0 : begin; row < (rows == 1 ? 1 : end); row++) {
#if defined(QC_VECTOR)
        if (use_sum)
            sum_row(&sums, job->a + at, sa, job->b + bt, sb, job->out + ot, size);
        else if (use_product)
            product_row(&products, job->a + at, sa, job->b + bt, sb, job->out + ot, size);
        else
#endif
            strided_row(job, job->a + at, sa, job->b + bt, sb, job->out + ot, so, size);
        for (int i = inner - 1; i >= 0; i--) {
            at += p->a_stride[i];
            bt += p->b_stride[i];
            ot += p->out_stride[i];
            if (++position[i] < p->shape[i])
                break;
            at -= position[i] * p->a_stride[i];
            bt -= position[i] * p->b_stride[i];
            ot -= position[i] * p->out_stride[i];
            position[i] = 0;
        }
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

static void run_binary(const qc_context *c, const qc_binary *p, const qc_code *a, const qc_code *b, qc_code *out,
                       int is_mul)
{
    binary_job job = {*p, a, b, out, is_mul};
    int64_t count = 1;
    for (int i = 0; i < p->rank; i++)
        count *= p->shape[i];
    collapse(&job.p);
    qc_parallel(c, binary_task, &job, count * 8);
}

void qc_add_u8(const qc_context *c, const qc_binary *p, const qc_code *a, const qc_code *b, qc_code *out)
{
    run_binary(c, p, a, b, out, 0);
}

void qc_mul_u8(const qc_context *c, const qc_binary *p, const qc_code *a, const qc_code *b, qc_code *out)
{
    run_binary(c, p, a, b, out, 1);
}
