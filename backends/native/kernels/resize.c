/* Resize over NHWC bytes. */
#include "vector.h"

#define CHUNK (QC_SMALL ? 64 : 1024)

typedef struct {
    const qc_resize *p;
    const qc_code *x;
    qc_code *out;
} resize_job;

static int64_t clip(int64_t v, int64_t size) { return v < 0 ? 0 : v >= size ? size - 1 : v; }

/* The rows that follow a row with the same source row are copies of it. */
static void nearest_task(const void *argument, int index, int count)
{
    const resize_job *job = argument;
    const qc_resize *p = job->p;
    const int64_t rows = p->batch * p->out_height, width = p->out_width * p->channels;
    const qc_code *last = NULL;
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t oy = row % p->out_height;
        const int64_t y = clip(qc_floor_div(oy * p->scale[1] + p->offset[0], p->scale[0]), p->height);
        const qc_code *line = job->x + (row / p->out_height * p->height + y) * p->width * p->channels;
        qc_code *out = job->out + row * width;
        if (line == last) {
            memcpy(out, out - width, (size_t)width);
            continue;
        }
        last = line;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t x = clip(qc_floor_div(ox * p->scale[3] + p->offset[1], p->scale[2]), p->width);
            memcpy(out + ox * p->channels, line + x * p->channels, (size_t)p->channels);
        }
    }
}

void qc_resize_nearest_u8(const qc_context *c, const qc_resize *p, const qc_code *x, qc_code *out)
{
    resize_job job = {p, x, out};
    qc_parallel(c, nearest_task, &job, p->batch * p->out_height * p->out_width * p->channels * 4);
}

/* The weighted sums of four neighbours in 32 bits. */
static void blend(const qc_code *const *taps, int64_t at, const int64_t *weights, int32_t first, int64_t count,
                  int32_t *restrict sums)
{
    const qc_code *a = taps[0] + at, *b = taps[1] + at, *c = taps[2] + at, *d = taps[3] + at;
    const int32_t wa = (int32_t)weights[0], wb = (int32_t)weights[1];
    const int32_t wc = (int32_t)weights[2], wd = (int32_t)weights[3];
    for (int64_t i = 0; i < count; i++)
        sums[i] = first + a[i] * wa + b[i] * wb + c[i] * wc + d[i] * wd;
}

#if defined(QC_SHUFFLES)
/* Weights of 15 bits, and sums for which vec_small_scaling is exact. */
typedef struct {
    vec_small_scaling scaling;
    vec first, zero_point, low, high;
} small_blend;

static inline int is_small_blend(const qc_resize *p)
{
    return p->scale[0] * p->scale[2] <= 1024 && vec_is_small_scaling(p->multiplier, p->shift);
}

static inline small_blend small_blend_of(const qc_resize *p)
{
    const int32_t unit = (int32_t)(p->scale[0] * p->scale[2]);
    return (small_blend){
        vec_small_scaling_of(p->multiplier, p->shift), V(set1_epi32)(-unit * p->x_zero_point),
        V(set1_epi16)((int16_t)p->zero_point), V(set1_epi8)((char)p->qmin), V(set1_epi8)((char)p->qmax),
    };
}

/* Pairs of 16-bit values of two taps each, times their weights, scaled, as 16 bits. */
QC_INLINE vec small_words(const small_blend *k, vec ab, vec cd, vec top, vec bottom)
{
    vec v0 = vec_add_pairs(k->first, vec_low_words(ab), top);
    vec v1 = vec_add_pairs(k->first, vec_high_words(ab), top);
    v0 = vec_add_pairs(v0, vec_low_words(cd), bottom);
    v1 = vec_add_pairs(v1, vec_high_words(cd), bottom);
    return V(adds_epi16)(V(packs_epi32)(vec_scale_small(&k->scaling, v0), vec_scale_small(&k->scaling, v1)),
                         k->zero_point);
}

static void blend_small(const small_blend *k, const qc_code *const *taps, const int64_t *weights, int64_t count,
                        qc_code *out)
{
    const vec top = V(set1_epi32)((int32_t)(weights[0] | weights[1] << 16));
    const vec bottom = V(set1_epi32)((int32_t)(weights[2] | weights[3] << 16));
    for (int64_t i = 0; i < count; i += VEC) {
        const vec a = vec_load(taps[0] + i), b = vec_load(taps[1] + i);
        const vec c = vec_load(taps[2] + i), d = vec_load(taps[3] + i);
        const vec y = vec_narrow(
            small_words(k, V(unpacklo_epi8)(a, b), V(unpacklo_epi8)(c, d), top, bottom),
            small_words(k, V(unpackhi_epi8)(a, b), V(unpackhi_epi8)(c, d), top, bottom));
        vec_store_part(out + i, vec_clamp_bytes(y, k->low, k->high), count - i);
    }
}
#endif

/* One pixel whose sums may need more than 32 bits before the zero point is taken off. */
static void blend_wide(const qc_resize *p, const qc_code *const *taps, const int64_t *weights, qc_code *out)
{
    for (int64_t c = 0; c < p->channels; c++) {
        int64_t sum = 0;
        for (int i = 0; i < 4; i++)
            sum += (taps[i][c] - p->x_zero_point) * weights[i];
        const int32_t v = qc_scale(sum, p->multiplier, p->shift) + p->zero_point;
        out[c] = (qc_code)qc_clamp(v, p->qmin, p->qmax);
    }
}

static void scale_sums(const qc_resize *p, const int32_t *sums, int64_t count, qc_code *out)
{
    qc_scale_row(sums, count, p->multiplier, p->shift, p->zero_point, p->qmin, p->qmax, out);
}

static void bilinear_task(const void *argument, int index, int count)
{
    const resize_job *job = argument;
    const qc_resize copy = *job->p, *p = &copy; /* a local: bytes stored below cannot alias it */
    const int64_t rows = p->batch * p->out_height, channels = p->channels, unit = p->scale[0] * p->scale[2];
    const int is_narrow = unit * 255 <= INT32_MAX;
    const int32_t first = is_narrow ? -(int32_t)unit * p->x_zero_point : 0;
#if defined(QC_SHUFFLES)
    const int is_small = is_narrow && is_small_blend(p);
    const small_blend small = is_small ? small_blend_of(p) : (small_blend){0};
#endif
    int32_t sums[CHUNK];
    for (int64_t row = rows * index / count; row < rows * (index + 1) / count; row++) {
        const int64_t image = row / p->out_height;
        const int64_t y = row % p->out_height * p->scale[1] + p->offset[0], iy = qc_floor_div(y, p->scale[0]);
        const int64_t wy1 = y - iy * p->scale[0], wy0 = p->scale[0] - wy1;
        const qc_code *above = job->x + (image * p->height + clip(iy, p->height)) * p->width * channels;
        const qc_code *below = job->x + (image * p->height + clip(iy + 1, p->height)) * p->width * channels;
        qc_code *out = job->out + row * p->out_width * channels;
        int64_t pending = 0;
        for (int64_t ox = 0; ox < p->out_width; ox++) {
            const int64_t x = ox * p->scale[3] + p->offset[1], ix = qc_floor_div(x, p->scale[2]);
            const int64_t wx1 = x - ix * p->scale[2], wx0 = p->scale[2] - wx1;
            const int64_t left = clip(ix, p->width) * channels, right = clip(ix + 1, p->width) * channels;
            const int64_t weights[4] = {wy0 * wx0, wy0 * wx1, wy1 * wx0, wy1 * wx1};
            const qc_code *taps[4] = {above + left, above + right, below + left, below + right};
#if defined(QC_SHUFFLES)
            if (is_small) {
                blend_small(&small, taps, weights, channels, out + ox * channels);
                continue;
            }
#endif
            if (!is_narrow) {
                blend_wide(p, taps, weights, out + ox * channels);
                continue;
            }
            for (int64_t c = 0, size; c < channels; c += size) {
                size = qc_min(CHUNK - pending, channels - c);
                blend(taps, c, weights, first, size, sums + pending);
                pending += size;
                if (pending == CHUNK) {
                    scale_sums(p, sums, pending, out);
                    out += pending;
                    pending = 0;
                }
            }
        }
        scale_sums(p, sums, pending, out);
    }
}

void qc_resize_bilinear_u8(const qc_context *c, const qc_resize *p, const qc_code *x, qc_code *out)
{
    resize_job job = {p, x, out};
    qc_parallel(c, bilinear_task, &job, p->batch * p->out_height * p->out_width * p->channels * 16);
}
