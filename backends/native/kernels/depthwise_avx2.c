/* Depthwise convolution on AVX2.
 *
 * A product of two taps wants the two pixels of a channel side by side. Rows are therefore laid out in
 * pairs: bytes [pixel / 2][channel][pixel % 2]. A result whose first tap is the second pixel of a pair
 * multiplies with taps that are shifted by one. Kernels too large or too far apart for that go over
 * four kernel rows at a time. */
#include "level.h"

#if defined(QC_AVX2)
#include "depthwise.h"
#include "epilogue_avx2.h"

#define PAIR_BYTES (2 * QC_BLOCK)

/* Sums that gcc regroups, and a pointer that it holds for each offset, need more registers than there are. */
#define KEEP_ORDER(sum) __asm__("" : "+x"(sum))
#define SAME_BASE(pointer) __asm__("" : "+r"(pointer))

/* Vectors of taps that a kernel row takes where the first tap is the first, or the second, of a pair. */
QC_INLINE int64_t vectors(int64_t kernel_w, int second)
{
    return (kernel_w + second + 1) / 2;
}

QC_INLINE int64_t vectors_of_row(int64_t kernel_w, int64_t stride)
{
    return vectors(kernel_w, 0) + (stride % 2 ? vectors(kernel_w, 1) : 0);
}

static int takes_pairs(const qc_conv2d *p)
{
    return p->dilation_w == 1 && p->kernel_h * vectors_of_row(p->kernel_w, p->stride_w) * 8 * VEC <= QC_BLOCK_WEIGHTS;
}

/* Tap kx of kernel row ky of 8 channels, in 32 bits; 0 behind the last. */
QC_INLINE vec load_tap(const qc_conv2d *p, const int8_t *weight, int64_t ky, int64_t kx)
{
    if (kx >= p->kernel_w)
        return vec_zero();
    const __m128i *at = (const __m128i *)(weight + (ky / 4 * p->kernel_w + kx) * 256);
    const vec column = _mm256_setr_m128i(_mm_loadu_si128(at), _mm_loadu_si128(at + 4));
    return V(srai_epi32)(V(sll_epi32)(column, _mm_cvtsi32_si128((int)(24 - ky % 4 * 8))), 24);
}

/* Writes the taps of each group of 8 channels and kernel row in pairs, as they are and shifted by one. */
void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_pairs(p))
        return;
    const int64_t plain = vectors(p->kernel_w, 0), shifted = p->stride_w % 2 ? vectors(p->kernel_w, 1) : 0;
    int8_t *out = c->weight;
    for (int group = 0; group < QC_BLOCK / 8; group++) {
        const int8_t *weight = p->weight + c->block * 4 * ((p->kernel_h + 3) / 4) * p->kernel_w;
        weight += group / 2 * 16 + group % 2 * 128;
        for (int64_t ky = 0; ky < p->kernel_h; ky++, out += (plain + shifted) * VEC) {
            vec before = vec_zero();
            for (int64_t i = 0; i < plain || i < shifted; i++) {
                const vec first = load_tap(p, weight, ky, 2 * i), second = load_tap(p, weight, ky, 2 * i + 1);
                if (i < plain)
                    vec_store(out + i * VEC, V(blend_epi16)(first, V(slli_epi32)(second, 16), 0xAA));
                if (i < shifted)
                    vec_store(out + (plain + i) * VEC, V(blend_epi16)(before, V(slli_epi32)(first, 16), 0xAA));
                before = second;
            }
        }
    }
}

QC_INLINE vec load_half(const uint8_t *pixels, int64_t x, int64_t step, const qc_conv2d *p, vec padding)
{
    return (uint64_t)x < (uint64_t)p->width ? vec_load(pixels + x * step) : padding;
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *row)
{
    const qc_conv2d *p = &c->d->conv;
    const uint8_t *pixels = rows[0];
    if (!takes_pairs(p)) {
        qc_depthwise_lay_out_pixels(c, pixels, step, row);
        return;
    }
    if (!pixels) {
        memset(row, p->pad_value, (size_t)c->d->row_bytes);
        return;
    }
    const vec padding = V(set1_epi8)((char)p->pad_value);
    const int64_t pairs = c->d->row_bytes / PAIR_BYTES;
    for (int64_t i = 0; i < pairs; i++, row += PAIR_BYTES) {
        const int64_t x = 2 * i - p->pad_left;
        for (int half = 0; half < QC_BLOCK; half += VEC) {
            const vec a = load_half(pixels + half, x, step, p, padding);
            const vec b = load_half(pixels + half, x + 1, step, p, padding);
            const vec low = V(unpacklo_epi8)(a, b), high = V(unpackhi_epi8)(a, b);
            vec_store(row + 2 * half, _mm256_permute2x128_si256(low, high, 0x20));
            vec_store(row + 2 * half + VEC, _mm256_permute2x128_si256(low, high, 0x31));
        }
    }
}

QC_INLINE vec widen_bytes(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)); }

/* What requantizes 8 channels. */
typedef struct {
    vecf scale, offset;
    vec_scaling scaling;
} requantizing;

QC_INLINE requantizing requantizing_of(const qc_epilogue *e, int64_t channel, int exact)
{
    requantizing k;
    k.offset = V(set1_ps)((float)e->zero_point + 0.5f);
    if (exact)
        k.scaling = load_scaling(e, channel);
    else
        k.scale = _mm256_loadu_ps(e->scale + channel);
    return k;
}

QC_INLINE vec requantize(const requantizing *k, vec sums, int exact)
{
    return exact ? vec_scale(&k->scaling, sums) : requant_down(sums, k->scale, k->offset);
}

/* One group of 8 channels of a row, four results after another. All but the first three are constants
 * where a function of its own is worth while. */
QC_INLINE void group_row(const qc_channels *c, const uint8_t *const *rows, int group, int64_t kernel_h,
                         int64_t kernel_w, int64_t stride, int exact)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t channel = c->block + 8 * group, count = vectors_of_row(kernel_w, stride);
    const requantizing k = requantizing_of(&p->epilogue, channel, exact);
    const vec bias = vec_load(p->epilogue.bias + channel);
    const int8_t *weight = c->weight + group * kernel_h * count * VEC;
    uint8_t *out = c->row + 8 * group;
    for (int64_t i = 0; i < p->out_width; i += 4, out += 4 * QC_BLOCK) {
        vec sum[4] = {bias, bias, bias, bias};
        const int64_t place = (i >> 1) * stride * PAIR_BYTES + 16 * group;
        SAME_BASE(weight);
#pragma GCC unroll 5
        for (int64_t ky = 0; ky < kernel_h; ky++) {
            const uint8_t *at = rows[ky * QC_MOST_SETS] + place;
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++) {
                const int second = (int)(n * stride % 2);
                const int8_t *taps = weight + (ky * count + (second ? vectors(kernel_w, 0) : 0)) * VEC;
#pragma GCC unroll 3
                for (int64_t v = 0; v < vectors(kernel_w, second); v++)
                    sum[n] = vec_add_pairs(sum[n], widen_bytes(at + (n * stride / 2 + v) * PAIR_BYTES),
                                           vec_load(taps + v * VEC));
                KEEP_ORDER(sum[n]);
            }
        }
        const vec y = vec_order(vec_pack(requantize(&k, sum[0], exact), requantize(&k, sum[1], exact),
                                         requantize(&k, sum[2], exact), requantize(&k, sum[3], exact)));
        const __m128i low = _mm256_castsi256_si128(y), high = _mm256_extracti128_si256(y, 1);
        _mm_storel_epi64((__m128i *)out, low);
        _mm_storel_epi64((__m128i *)(out + QC_BLOCK), _mm_unpackhi_epi64(low, low));
        _mm_storel_epi64((__m128i *)(out + 2 * QC_BLOCK), high);
        _mm_storel_epi64((__m128i *)(out + 3 * QC_BLOCK), _mm_unpackhi_epi64(high, high));
    }
}

/* Apart from their caller: see begin_round_down. */
#define ROW(NAME, KERNEL_H, KERNEL_W, STRIDE, EXACT)                                                        \
    __attribute__((noinline)) static void NAME(const qc_channels *c, const uint8_t *const *rows)             \
    {                                                                                                       \
        for (int group = 0; 8 * group < c->lanes; group++)                                                  \
            group_row(c, rows, group, KERNEL_H, KERNEL_W, STRIDE, EXACT);                                   \
    }

ROW(row_3x3s1, 3, 3, 1, 0)
ROW(row_3x3s2, 3, 3, 2, 0)
ROW(row_5x5s1, 5, 5, 1, 0)
ROW(row_5x5s2, 5, 5, 2, 0)
ROW(row_any, c->d->conv.kernel_h, c->d->conv.kernel_w, c->d->conv.stride_w, 0)
ROW(row_exact, c->d->conv.kernel_h, c->d->conv.kernel_w, c->d->conv.stride_w, 1)

static void row_of_pairs(const qc_channels *c, const uint8_t *const *rows)
{
    const qc_conv2d *p = &c->d->conv;
    const int three = p->kernel_h == 3 && p->kernel_w == 3, five = p->kernel_h == 5 && p->kernel_w == 5;
    if (!p->epilogue.scale)
        row_exact(c, rows);
    else if (three && p->stride_w <= 2)
        p->stride_w == 1 ? row_3x3s1(c, rows) : row_3x3s2(c, rows);
    else if (five && p->stride_w <= 2)
        p->stride_w == 1 ? row_5x5s1(c, rows) : row_5x5s2(c, rows);
    else
        row_any(c, rows);
}

/* The sums of 8 channels from pair sums of 4 and 4. */
QC_INLINE vec join_pairs(vec low, vec high)
{
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(low, high), 0xD8);
}

/* 16 channels of a row over pixels of QC_BLOCK bytes, four kernel rows at a time. */
QC_INLINE void lane_row(const qc_channels *c, const uint8_t *const *rows, int lane, int exact)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t channel = c->block + 16 * lane;
    const requantizing k0 = requantizing_of(&p->epilogue, channel, exact);
    const requantizing k1 = requantizing_of(&p->epilogue, channel + 8, exact);
    const vec bias0 = vec_load(p->epilogue.bias + channel), bias1 = vec_load(p->epilogue.bias + channel + 8);
    for (int64_t i = 0; i < p->out_width; i++) {
        const int8_t *weight = p->weight + c->block * 4 * ((p->kernel_h + 3) / 4) * p->kernel_w + 16 * lane;
        vec sum0 = vec_zero(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for (int64_t ky = 0; ky < p->kernel_h; ky += 4)
            for (int64_t kx = 0; kx < p->kernel_w; kx++, weight += 256) {
                const int64_t at = (i * p->stride_w + kx * p->dilation_w) * QC_BLOCK + 16 * lane;
                __m128i x[4];
                for (int64_t j = 0; j < 4; j++) {
                    const int64_t row = qc_min(ky + j, p->kernel_h - 1);
                    x[j] = _mm_loadu_si128((const __m128i *)(rows[row * QC_MOST_SETS] + at));
                }
                const __m128i low01 = _mm_unpacklo_epi8(x[0], x[1]), high01 = _mm_unpackhi_epi8(x[0], x[1]);
                const __m128i low23 = _mm_unpacklo_epi8(x[2], x[3]), high23 = _mm_unpackhi_epi8(x[2], x[3]);
#define PART(i, QUADS)                                                                                   \
    sum##i = vec_add_pairs(sum##i, _mm256_cvtepu8_epi16(QUADS),                                          \
                           _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weight + 64 * i))));
                PART(0, _mm_unpacklo_epi16(low01, low23))
                PART(1, _mm_unpackhi_epi16(low01, low23))
                PART(2, _mm_unpacklo_epi16(high01, high23))
                PART(3, _mm_unpackhi_epi16(high01, high23))
#undef PART
            }
        const vec v0 = requantize(&k0, V(add_epi32)(join_pairs(sum0, sum1), bias0), exact);
        const vec v1 = requantize(&k1, V(add_epi32)(join_pairs(sum2, sum3), bias1), exact);
        const vec y = vec_order(vec_pack(v0, v1, v0, v1));
        _mm_storeu_si128((__m128i *)(c->row + i * QC_BLOCK + 16 * lane), _mm256_castsi256_si128(y));
    }
}

/* Apart from its caller: see begin_round_down. */
__attribute__((noinline)) static void row_of_pixels(const qc_channels *c, const uint8_t *const *rows)
{
    for (int lane = 0; 16 * lane < c->lanes; lane++)
        if (c->d->conv.epilogue.scale)
            lane_row(c, rows, lane, 0);
        else
            lane_row(c, rows, lane, 1);
}

/* Clamps and finishes the bytes of c->row and writes those of the block's channels. */
static void write_row(const qc_channels *c, const uint8_t *residual, uint8_t *out)
{
    const qc_conv2d *p = &c->d->conv;
    const finishing f = finishing_of(&p->epilogue, residual != NULL);
    for (int64_t i = 0; i < p->out_width; i++)
        for (int64_t n = 0; n < c->lanes; n += VEC) {
            const int64_t at = i * p->channels + n;
            const vec y = finish_bytes(&f, vec_load(c->row + i * QC_BLOCK + n), residual ? residual + at : NULL);
            store_columns(out + at, y, c->lanes - n);
        }
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    (void)step;
    (void)top;
    const uint32_t saved = begin_round_down();
    if (takes_pairs(&c->d->conv))
        row_of_pairs(c, rows);
    else
        row_of_pixels(c, rows);
    end_round_down(saved);
    write_row(c, residuals[0], outs[0]);
}
#else
typedef int qc_empty_translation_unit;
#endif
