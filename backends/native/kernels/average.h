/* Sums and averages of bytes at many places, for runs of channels. */
#ifndef QC_AVERAGE_H
#define QC_AVERAGE_H

#include "vector.h"

#define CHUNK (QC_SMALL ? 64 : 256)
#if QC_SIGNED_CODES
typedef int16_t narrow_sum;
#define MAX_PENDING 256 /* codes whose sum fits 16 bits */
#else
typedef uint16_t narrow_sum;
#define MAX_PENDING 257
#endif

/* Sums of bytes over many elements, for up to CHUNK channels: 16 bits wide, then 32. */
typedef struct {
    int32_t pending;
    narrow_sum narrow[CHUNK];
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
static inline void add_elements(byte_sums *s, const qc_code *x, int64_t count, int64_t step, int64_t channels)
{
    for (int64_t i = 0; i < count; i++, x += step) {
        if (s->pending == MAX_PENDING)
            widen_sums(s, channels);
        s->pending++;
        for (int64_t c = 0; c < channels; c++)
            s->narrow[c] = (narrow_sum)(s->narrow[c] + x[c]);
    }
}

#if defined(QC_VECTOR)
typedef struct {
    vec_scaling scaling;
    vec first, low, high;
} average;

static inline average average_of(int32_t multiplier, int32_t shift, int32_t zero_point, int32_t first, int32_t qmin,
                                 int32_t qmax)
{
    return (average){vec_scaling_of(V(set1_epi32)(multiplier), V(set1_epi32)(shift), zero_point),
                     V(set1_epi32)(first), V(set1_epi8)((char)qmin), V(set1_epi8)((char)qmax)};
}

/* Averages of rows x columns <= MAX_PENDING elements, for n channels. */
static inline void average_taps(const average *k, const qc_code *x, int64_t rows, int64_t row_step, int64_t columns,
                         int64_t column_step, int64_t n, qc_code *out)
{
    for (int64_t c = 0; c < n; c += VEC) {
        vec low = vec_zero(), high = vec_zero(), v[4];
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                const vec bytes = vec_load(x + c + i * row_step + j * column_step);
                low = V(add_epi16)(low, vec_low_words(bytes));
                high = V(add_epi16)(high, vec_high_words(bytes));
            }
        v[0] = vec_low_sums(low);
        v[1] = vec_high_sums(low);
        v[2] = vec_low_sums(high);
        v[3] = vec_high_sums(high);
        for (int i = 0; i < 4; i++)
            v[i] = vec_scale(&k->scaling, V(add_epi32)(v[i], k->first));
        vec_store_part(out + c, vec_clamp_bytes(vec_pack(v[0], v[1], v[2], v[3]), k->low, k->high), n - c);
    }
}
#endif

#endif
