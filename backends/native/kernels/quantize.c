/* The borders of the integer world: float planes to interleaved bytes and back, and sums to floats. */
#include "transpose.h"

#define STRIP (QC_SMALL ? 16 : 64)

typedef struct {
    const qc_quantize *p;
    const void *x;
    void *out;
} border_job;

/* rne(clamp(fl32(x * inv_scale))) + z, and z for NaN, clamped too. Adding 1.5 * 2^23 leaves the rounded
 * integer in the low bits. */
static inline uint8_t quantize_one(const qc_quantize *p, float x)
{
    const float low = (float)(p->qmin - p->zero_point), high = (float)(p->qmax - p->zero_point);
    int32_t bits;
    float v = x * p->scale;
    v = v == v ? v : 0.0f;
    v = v < low ? low : v;
    v = (v > high ? high : v) + 12582912.0f;
    memcpy(&bits, &v, sizeof bits);
    return (uint8_t)(bits - 0x4B400000 + p->zero_point);
}

#if defined(QC_SHUFFLES)
typedef struct {
    vecf scale, low, high, nan;
} rounding;

static inline rounding rounding_of(const qc_quantize *p)
{
    const int32_t low = p->qmin - p->zero_point, high = p->qmax - p->zero_point;
    return (rounding){V(set1_ps)(p->scale), V(set1_ps)((float)low), V(set1_ps)((float)high),
                      V(set1_ps)((float)qc_clamp(0, low, high))};
}

/* The codes without the zero point, as 32-bit lanes. */
QC_INLINE vec round_lanes(const rounding *k, const float *x)
{
    const vecf v = vec_max_or(V(mul_ps)(V(loadu_ps)(x), k->scale), k->low, k->nan);
    return V(cvtps_epi32)(V(min_ps)(v, k->high));
}

#if defined(QC_NEON)
/* A vector of codes of one plane. */
QC_INLINE vec round_bytes(const rounding *k, const float *x, vec zero)
{
    const vec v01 = V(packs_epi32)(round_lanes(k, x), round_lanes(k, x + VEC_LANES));
    const vec v23 = V(packs_epi32)(round_lanes(k, x + 2 * VEC_LANES), round_lanes(k, x + 3 * VEC_LANES));
    return vec_narrow(V(add_epi16)(v01, zero), V(add_epi16)(v23, zero));
}

/* Whole vectors of three or four planes; returns the number of pixels done. `channels` is a constant. */
QC_INLINE int64_t quantize_lanes(const qc_quantize *p, const float *x, int64_t count, int channels, uint8_t *out)
{
    const rounding k = rounding_of(p);
    const vec zero = V(set1_epi16)((int16_t)p->zero_point);
    int64_t i = 0;
    for (; i + VEC <= count; i += VEC, out += VEC * channels) {
        const vec a = round_bytes(&k, x + i, zero), b = round_bytes(&k, x + p->pixels + i, zero);
        const vec c = round_bytes(&k, x + 2 * p->pixels + i, zero);
        if (channels == 3) {
            const int8x16x3_t three = {{a, b, c}};
            vst3q_s8((int8_t *)out, three);
        } else {
            const int8x16x4_t four = {{a, b, c, round_bytes(&k, x + 3 * p->pixels + i, zero)}};
            vst4q_s8((int8_t *)out, four);
        }
    }
    return i;
}
#else
/* Three bytes of each 32-bit lane, side by side. */
QC_INLINE void store_triples(uint8_t *out, vec lanes)
{
    const __m128i first3 = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const vec packed = V(shuffle_epi8)(lanes, vec_repeat(first3));
#if VEC == 64
    const vec order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 15, 15, 15);
    _mm512_mask_storeu_epi32(out, 0xFFF, _mm512_permutexvar_epi32(order, packed));
#else
    const vec joined = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7));
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(joined));
    _mm_storel_epi64((__m128i *)(out + 16), _mm256_extracti128_si256(joined, 1));
#endif
}

/* Whole vectors of three or four planes; returns the number of pixels done. `channels` is a constant. */
QC_INLINE int64_t quantize_lanes(const qc_quantize *p, const float *x, int64_t count, int channels, uint8_t *out)
{
    const rounding k = rounding_of(p);
    const vec zero = V(set1_epi32)(p->zero_point * (channels == 3 ? 0x010101 : 0x01010101));
    const float *x1 = x + p->pixels, *x2 = x1 + p->pixels, *x3 = channels == 4 ? x2 + p->pixels : x2;
    int64_t i = 0;
    for (; i + VEC_LANES <= count; i += VEC_LANES, out += VEC_LANES * channels) {
        vec v = V(add_epi32)(round_lanes(&k, x + i), V(slli_epi32)(round_lanes(&k, x1 + i), 8));
        v = V(add_epi32)(v, V(slli_epi32)(round_lanes(&k, x2 + i), 16));
        if (channels == 4)
            v = V(add_epi32)(v, V(slli_epi32)(round_lanes(&k, x3 + i), 24));
        v = V(add_epi32)(v, zero);
        if (channels == 4)
            vec_store(out, v);
        else
            store_triples(out, v);
    }
    return i;
}
#endif
#endif

static void quantize_plane(const qc_quantize *p, const float *x, int64_t count, uint8_t *out)
{
    int64_t i = 0;
#if defined(QC_SHUFFLES)
    const rounding k = rounding_of(p);
    const vec zero = V(set1_epi16)((int16_t)p->zero_point);
    for (; i + VEC <= count; i += VEC) {
        const vec v01 = V(packs_epi32)(round_lanes(&k, x + i), round_lanes(&k, x + i + VEC_LANES));
        const vec v23 = V(packs_epi32)(round_lanes(&k, x + i + 2 * VEC_LANES), round_lanes(&k, x + i + 3 * VEC_LANES));
        vec_store(out + i, vec_order(vec_narrow(V(add_epi16)(v01, zero), V(add_epi16)(v23, zero))));
    }
#endif
    for (; i < count; i++)
        out[i] = quantize_one(p, x[i]);
}

/* A strip of pixels of planes that are p->pixels apart. */
static void quantize_strip(const qc_quantize *p, const float *x, int64_t count, uint8_t *out)
{
    uint8_t block[STRIP * STRIP];
    if (p->channels == 1) {
        quantize_plane(p, x, count, out);
        return;
    }
    if (p->channels == 3 || p->channels == 4) {
        int64_t i = 0;
#if defined(QC_SHUFFLES)
        i = p->channels == 3 ? quantize_lanes(p, x, count, 3, out) : quantize_lanes(p, x, count, 4, out);
#endif
        for (; i < count; i++)
            for (int64_t c = 0; c < p->channels; c++)
                out[i * p->channels + c] = quantize_one(p, x[c * p->pixels + i]);
        return;
    }
    for (int64_t first = 0; first < p->channels; first += STRIP) {
        const int64_t channels = qc_min(STRIP, p->channels - first);
        for (int64_t i = 0; i < channels; i++)
            quantize_plane(p, x + (first + i) * p->pixels, count, block + i * STRIP);
        qc_transpose_bytes(block, STRIP, out + first, p->channels, channels, count);
    }
}

/* Says whether quantize_strip takes strips of any length: the others go through a block of STRIP pixels. */
static int takes_long_strips(const qc_quantize *p)
{
    return p->channels == 1 || p->channels == 3 || p->channels == 4;
}

/* Images are cut into strips of STRIP pixels; few planes take neighbouring strips at once. */
static void quantize_task(const void *argument, int index, int count)
{
    const border_job *job = argument;
    const qc_quantize *p = job->p;
    const int64_t strips = (p->pixels + STRIP - 1) / STRIP, total = p->batch * strips;
    const int64_t end = total * (index + 1) / count, longest = takes_long_strips(p) ? strips : 1;
    for (int64_t s = total * index / count, length; s < end; s += length) {
        const int64_t image = s / strips, first = s % strips * STRIP;
        length = qc_min(qc_min(longest, strips - s % strips), end - s);
        quantize_strip(p, (const float *)job->x + image * p->channels * p->pixels + first,
                       qc_min(length * STRIP, p->pixels - first),
                       (uint8_t *)job->out + (image * p->pixels + first) * p->channels);
    }
}

void qc_quantize_f32_u8(const qc_context *c, const qc_quantize *p, const float *x, qc_code *out)
{
    border_job job = {p, x, out};
    qc_parallel(c, quantize_task, &job, p->batch * p->channels * p->pixels * 8);
}

static void dequantize_plane(const uint8_t *restrict x, int64_t count, int32_t zero_point, float scale,
                             float *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)((qc_code)x[i] - zero_point) * scale;
}

/* Interleaved channels to planes, in blocks of STRIP channels by STRIP pixels; few channels take more pixels. */
static void dequantize_task(const void *argument, int index, int count)
{
    const border_job *job = argument;
    const qc_quantize *p = job->p;
    const int64_t strip = p->channels <= 4 ? STRIP * STRIP / 4 : STRIP;
    const int64_t strips = (p->pixels + strip - 1) / strip, total = p->batch * strips;
    uint8_t block[STRIP * STRIP];
    for (int64_t s = total * index / count; s < total * (index + 1) / count; s++) {
        const int64_t image = s / strips, first = s % strips * strip, pixels = qc_min(strip, p->pixels - first);
        const uint8_t *x = (const uint8_t *)job->x + (image * p->pixels + first) * p->channels;
        float *out = (float *)job->out + image * p->channels * p->pixels + first;
        if (p->channels == 1) {
            dequantize_plane(x, pixels, p->zero_point, p->scale, out);
            continue;
        }
        for (int64_t c = 0; c < p->channels; c += STRIP) {
            const int64_t channels = qc_min(STRIP, p->channels - c);
            qc_transpose_bytes(x + c, p->channels, block, strip, pixels, channels);
            for (int64_t i = 0; i < channels; i++)
                dequantize_plane(block + i * strip, pixels, p->zero_point, p->scale, out + (c + i) * p->pixels);
        }
    }
}

void qc_dequantize_u8_f32(const qc_context *c, const qc_quantize *p, const qc_code *x, float *out)
{
    border_job job = {p, x, out};
    qc_parallel(c, dequantize_task, &job, p->batch * p->channels * p->pixels * 8);
}

typedef struct {
    const qc_dequantize_sums *p;
    const int32_t *x;
    float *out;
} sums_job;

/* One run along the last dimension. Steps of 0 and 1 are constants at the calls below. */
QC_INLINE void scale_sums(const int32_t *restrict x, int64_t x_step, const float *restrict scale, int64_t scale_step,
                          int64_t count, float *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)x[i * x_step] * scale[i * scale_step];
}

#define SUMS_ROWS 16

/* A block of up to SUMS_ROWS rows of the result, of neighbouring k, by `size` elements of each. */
static void scale_block(const sums_job *job, int64_t row, int64_t rows, int64_t left, int64_t size)
{
    const qc_dequantize_sums *p = job->p;
    const int64_t *n = p->shape, *xs = p->stride, *ss = p->scale_stride;
    const int64_t i = row / (n[1] * n[2]), j = row / n[2] % n[1], k = row % n[2];
    const int32_t *x = job->x + i * xs[0] + j * xs[1] + k * xs[2] + left * xs[3];
    const float *scale = p->scale + i * ss[0] + j * ss[1] + k * ss[2] + left * ss[3];
    float *out = job->out + row * n[3] + left;
#if defined(QC_SHUFFLES)
    if (xs[2] == 1 && ss[3] == 0 && rows >= 4 && size >= 4 && size <= STRIP) {
        int32_t block[SUMS_ROWS * STRIP];
        qc_transpose_words(x, xs[3], block, STRIP, size, rows);
        for (int64_t r = 0; r < rows; r++)
            scale_sums(block + r * STRIP, 1, scale + r * ss[2], 0, size, out + r * n[3]);
        return;
    }
#endif
    for (int64_t r = 0; r < rows; r++, x += xs[2], scale += ss[2], out += n[3]) {
        if (xs[3] == 1 && ss[3] == 1)
            scale_sums(x, 1, scale, 1, size, out);
        else if (xs[3] == 1 && ss[3] == 0)
            scale_sums(x, 1, scale, 0, size, out);
        else
            scale_sums(x, xs[3], scale, ss[3], size, out);
    }
}

/* The rows of the result are cut between threads, a single row along its length. Where rows are strided,
 * several advance together in strips, so that their neighbours are used while they are in the cache. */
static void dequantize_sums_task(const void *argument, int index, int count)
{
    const sums_job *job = argument;
    const int64_t *n = job->p->shape, length = n[3], total = n[0] * n[1] * n[2];
    const int is_single = total == 1, is_dense = job->p->stride[3] == 1;
    const int64_t from = is_single ? length * index / count : 0, to = is_single ? length * (index + 1) / count : length;
    const int64_t end = is_single ? 1 : total * (index + 1) / count;
    for (int64_t row = is_single ? 0 : total * index / count, rows; row < end; row += rows) {
        rows = qc_min(qc_min(SUMS_ROWS, end - row), n[2] - row % n[2]);
        for (int64_t left = from, size; left < to; left += size) {
            size = is_dense ? to - left : qc_min(STRIP, to - left);
            scale_block(job, row, rows, left, size);
        }
    }
}

void qc_dequantize_i32_f32(const qc_context *c, const qc_dequantize_sums *p, const int32_t *x,
                           float *out)
{
    sums_job job = {p, x, out};
    qc_parallel(c, dequantize_sums_task, &job, p->shape[0] * p->shape[1] * p->shape[2] * p->shape[3] * 8);
}
