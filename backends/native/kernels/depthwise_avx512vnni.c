/* Depthwise convolution on AVX512-VNNI.
 *
 * A dot product of four taps wants the four pixels of a channel side by side. Rows are therefore laid out
 * in quads: bytes [pixel / 4][part][lane][channel][pixel % 4], where channel 16 * lane + 4 * part + i of
 * the block stands in part `part`, lane `lane`, which is what byte and word interleaving gives. A result
 * whose first tap is pixel o of a quad multiplies it with the taps shifted by o bytes, and the next quad
 * with the rest. Kernels too wide or too far apart for that go tap by tap. */
#include "level.h"

#if defined(QC_AVX512)
#include "arith.h"
#include "depthwise.h"
#include "epilogue_avx512.h"

#include <string.h>

/* 4 x 16 values in the order of the interleaved lanes. */
static inline __m512i load_lanes(const void *values, int part)
{
    const __m128i *p = (const __m128i *)values + part;
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 4), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 8), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128(p + 12), 3);
}

/* Repeats the lanes of the first set for the others. */
static inline __m512i repeat_lanes(__m512i v, int64_t sets)
{
    return sets == 1 ? v : sets == 2 ? _mm512_shuffle_i64x2(v, v, 0x44) : _mm512_shuffle_i64x2(v, v, 0);
}

static int takes_quads(const qc_conv2d *p)
{
    return p->kernel_w <= 5 && p->kernel_h <= 5 && p->stride_w <= 2 && p->dilation_w == 1;
}

/* Vectors of shifted taps of a kernel row: one or two quads for each position of the first tap. */
static inline __attribute__((always_inline)) int vectors(int kernel_w, int stride)
{
    int count = 0;
    for (int o = 0; o < 4; o += stride)
        count += (o + kernel_w + 3) / 4;
    return count;
}

static inline void store_quad(uint8_t *row, __m512i x0, __m512i x1, __m512i x2, __m512i x3)
{
    const __m512i low01 = _mm512_unpacklo_epi8(x0, x1), high01 = _mm512_unpackhi_epi8(x0, x1);
    const __m512i low23 = _mm512_unpacklo_epi8(x2, x3), high23 = _mm512_unpackhi_epi8(x2, x3);
    _mm512_store_si512(row, _mm512_unpacklo_epi16(low01, low23));
    _mm512_store_si512(row + 64, _mm512_unpackhi_epi16(low01, low23));
    _mm512_store_si512(row + 128, _mm512_unpacklo_epi16(high01, high23));
    _mm512_store_si512(row + 192, _mm512_unpackhi_epi16(high01, high23));
}

/* The bytes at an offset from each set's pointer, side by side. */
static inline __attribute__((always_inline)) __m512i load_sets(const uint8_t *const *at, int64_t offset, int sets,
                                                               __mmask64 mask)
{
    if (sets == 1)
        return _mm512_maskz_loadu_epi8(mask, at[0] + offset);
    if (sets == 2)
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(at[0] + offset))),
                                  _mm256_loadu_si256((const __m256i *)(at[1] + offset)), 1);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(at[0] + offset)));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(at[1] + offset)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(at[2] + offset)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(at[3] + offset)), 3);
}

/* Lays out the quads that lie inside the image horizontally; `padded` bytes are padding in every quad. */
static inline __attribute__((always_inline)) void lay_out_quads(const qc_channels *c, const uint8_t *const *at,
                                                                int64_t step, uint8_t *row, int sets,
                                                                __mmask64 padded)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t quads = c->d->row_bytes / 256;
    const __m512i padding = _mm512_set1_epi8((char)p->pad_value);
    const __mmask64 mask = ~(__mmask64)0 >> (64 - c->lanes);
    for (int64_t q = 0; q < quads; q++, row += 256) {
        const int64_t x = 4 * q - p->pad_left;
        __m512i v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int inside = (uint64_t)(x + i) < (uint64_t)p->width;
            v[i] = inside ? load_sets(at, (x + i) * step, sets, mask) : padding;
            if (sets > 1)
                v[i] = _mm512_mask_mov_epi8(v[i], padded, padding);
        }
        store_quad(row, v[0], v[1], v[2], v[3]);
    }
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *pixels, int64_t step, uint8_t *row)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_quads(p)) {
        qc_depthwise_lay_out_pixels(c, pixels[0], step, row);
        return;
    }
    const int sets = (int)c->sets, width = QC_BLOCK / sets;
    const uint8_t *at[QC_MOST_SETS], *some = NULL;
    __mmask64 padded = 0;
    for (int s = 0; s < sets && !some; s++)
        some = pixels[s];
    for (int s = 0; s < sets; s++) {
        at[s] = pixels[s] ? pixels[s] : some;
        if (!pixels[s])
            padded |= (~(__mmask64)0 >> (64 - width)) << (s * width);
    }
    if (!some) {
        const __m512i padding = _mm512_set1_epi8((char)p->pad_value);
        for (int64_t i = 0; i < c->d->row_bytes; i += 64)
            _mm512_store_si512(row + i, padding);
    } else if (sets == 1) {
        lay_out_quads(c, at, step, row, 1, 0);
    } else if (sets == 2) {
        lay_out_quads(c, at, step, row, 2, padded);
    } else {
        lay_out_quads(c, at, step, row, 4, padded);
    }
}

int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes)
{
    return !takes_quads(p) || lanes > 32 ? 1 : lanes > 16 ? 2 : 4;
}

/* Writes the shifted taps of every part and kernel row. */
void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_quads(p))
        return;
    const int64_t groups = (p->kernel_w + 3) / 4;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
    int8_t *out = c->weight;
    for (int part = 0; part < 4; part++)
        for (int64_t ky = 0; ky < p->kernel_h; ky++) {
            const int8_t *taps = weight + ky * groups * 256 + part * 64;
            const __m512i low = repeat_lanes(_mm512_loadu_si512(taps), c->sets);
            const __m512i high =
                groups > 1 ? repeat_lanes(_mm512_loadu_si512(taps + 256), c->sets) : _mm512_setzero_si512();
            for (int o = 0; o < 4; o += (int)p->stride_w) {
                const __m128i left = _mm_cvtsi32_si128(8 * o), right = _mm_cvtsi32_si128(32 - 8 * o);
                _mm512_storeu_si512(out, _mm512_sll_epi32(low, left));
                out += 64;
                if (o + p->kernel_w > 4) {
                    const __m512i rest = _mm512_or_si512(_mm512_srl_epi32(low, right), _mm512_sll_epi32(high, left));
                    _mm512_storeu_si512(out, rest);
                    out += 64;
                }
            }
        }
}

/* What one part of a row of results needs beside its taps. */
typedef struct {
    vec bias;
    vecf scale, offset;
    vec_scaling scaling;
    int exact;
} part_constants;

static inline part_constants load_part(const qc_channels *c, int part)
{
    const qc_epilogue *e = &c->d->conv.epilogue;
    part_constants k = {.exact = !e->scale};
    k.bias = repeat_lanes(load_lanes(e->bias + c->block, part), c->sets);
    k.offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    if (k.exact)
        k.scaling = vec_scaling_of(repeat_lanes(load_lanes(e->multiplier + c->block, part), c->sets),
                                   repeat_lanes(load_lanes(e->shift + c->block, part), c->sets), e->zero_point);
    else
        k.scale = _mm512_castsi512_ps(repeat_lanes(load_lanes(e->scale + c->block, part), c->sets));
    return k;
}

static inline __attribute__((always_inline)) __m512i requant_part(const part_constants *k, __m512i sum)
{
    return k->exact ? vec_scale(&k->scaling, sum) : requant_down(sum, k->scale, k->offset);
}

/* Requantizes four results of 16 channels; both packs saturate. */
static inline __attribute__((always_inline)) void store_results(const part_constants *k, __m512i *sum, uint8_t *out)
{
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++)
        sum[n] = requant_part(k, sum[n]);
    _mm512_store_si512(out, _mm512_packus_epi16(_mm512_packs_epi32(sum[0], sum[1]), _mm512_packs_epi32(sum[2], sum[3])));
}

/* Adds a kernel row to the sums of `quads` times four results; a vector of taps serves all of them. */
static inline __attribute__((always_inline)) void add_row(__m512i *sum, const uint8_t *at, const int8_t *weight,
                                                          const __m512i *kept, int kernel_w, int stride, int quads)
{
    __m512i x[8];
    const int last = ((4 * quads - 1) * stride + kernel_w + 3) / 4;
#pragma GCC unroll 8
    for (int i = 0; i < last; i++)
        x[i] = _mm512_load_si512(at + 256 * i);
    int v = 0;
#pragma GCC unroll 4
    for (int o = 0; o < 4; o += stride) {
        const __m512i low = kept ? kept[v] : _mm512_load_si512(weight + 64 * v);
        v++;
#pragma GCC unroll 8
        for (int n = o / stride; n < 4 * quads; n += 4 / stride)
            sum[n] = _mm512_dpbusd_epi32(sum[n], x[n * stride / 4], low);
        if (o + kernel_w > 4) {
            const __m512i high = kept ? kept[v] : _mm512_load_si512(weight + 64 * v);
            v++;
#pragma GCC unroll 8
            for (int n = o / stride; n < 4 * quads; n += 4 / stride)
                sum[n] = _mm512_dpbusd_epi32(sum[n], x[n * stride / 4 + 1], high);
        }
    }
}

/* One part of a row of results, to row[256 * quad + 64 * part]: taps stay in registers. */
static inline __attribute__((always_inline)) void part_row_kept(const qc_channels *c, const uint8_t *const *rows,
                                                                int part, int kernel_h, int kernel_w, int stride)
{
    const int count = vectors(kernel_w, stride);
    const int8_t *weight = c->weight + part * kernel_h * count * 64;
    const part_constants k = load_part(c, part);
    __m512i kept[18];
#pragma GCC unroll 18
    for (int i = 0; i < kernel_h * count; i++)
        kept[i] = _mm512_load_si512(weight + 64 * i);
    const int64_t quads = (c->d->conv.out_width + 3) / 4;
    for (int64_t q = 0; q < quads; q++) {
        __m512i sum[4] = {k.bias, k.bias, k.bias, k.bias};
#pragma GCC unroll 5
        for (int ky = 0; ky < kernel_h; ky++)
            add_row(sum, rows[ky] + 64 * part + q * 256 * stride, NULL, kept + ky * count, kernel_w, stride, 1);
        store_results(&k, sum, c->row + 64 * part + 256 * q);
    }
}

/* The same with taps from memory, for two quads of results at a time. */
static inline __attribute__((always_inline)) void part_row_pairs(const qc_channels *c, const uint8_t *const *rows,
                                                                 int part, int kernel_h, int kernel_w, int stride)
{
    const int count = vectors(kernel_w, stride);
    const int8_t *weight = c->weight + part * kernel_h * count * 64;
    const part_constants k = load_part(c, part);
    const int64_t quads = (c->d->conv.out_width + 3) / 4;
    int64_t q = 0;
    for (; q + 2 <= quads; q += 2) {
        __m512i sum[8] = {k.bias, k.bias, k.bias, k.bias, k.bias, k.bias, k.bias, k.bias};
#pragma GCC unroll 5
        for (int ky = 0; ky < kernel_h; ky++)
            add_row(sum, rows[ky] + 64 * part + q * 256 * stride, weight + ky * count * 64, NULL, kernel_w, stride, 2);
        store_results(&k, sum, c->row + 64 * part + 256 * q);
        store_results(&k, sum + 4, c->row + 64 * part + 256 * (q + 1));
    }
    if (q < quads) {
        __m512i sum[4] = {k.bias, k.bias, k.bias, k.bias};
#pragma GCC unroll 5
        for (int ky = 0; ky < kernel_h; ky++)
            add_row(sum, rows[ky] + 64 * part + q * 256 * stride, weight + ky * count * 64, NULL, kernel_w, stride, 1);
        store_results(&k, sum, c->row + 64 * part + 256 * q);
    }
}

#define ROW(H, W, S, FORM)                                                                      \
    __attribute__((noinline)) static void row_##H##x##W##s##S(const qc_channels *c,             \
                                                              const uint8_t *const *rows)       \
    {                                                                                           \
        for (int part = 0; part < 4; part++)                                                    \
            part_row_##FORM(c, rows, part, H, W, S);                                            \
    }

ROW(3, 3, 1, kept)
ROW(3, 3, 2, kept)
ROW(5, 5, 1, pairs)
ROW(5, 5, 2, pairs)

static void row_any(const qc_channels *c, const uint8_t *const *rows)
{
    const qc_conv2d *p = &c->d->conv;
    for (int part = 0; part < 4; part++)
        part_row_pairs(c, rows, part, (int)p->kernel_h, (int)p->kernel_w, (int)p->stride_w);
}

/* Adds the residual of a pixel of one set, whose bytes come first, and writes it. */
static inline void write_pixel(const qc_channels *c, const finishing *f, __m512i y, const uint8_t *residual,
                               uint8_t *out)
{
    if (residual)
        y = vec_sum_bytes(&f->sum, y, vec_load(residual));
    if (c->lanes == 32)
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
    else if (c->lanes == 16)
        _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(y));
    else
        vec_store_part(out, y, c->lanes);
}

static inline __m512i clamp_and_look_up(const finishing *f, __m512i y)
{
    y = vec_clamp_bytes(y, f->low, f->high);
    return f->has_table ? vec_look_up(&f->table, y) : y;
}

/* The bytes of set s first. */
static inline __m512i take_set(__m512i y, int64_t s, int64_t sets)
{
    if (s == 0 || sets == 2)
        return s == 0 ? y : _mm512_shuffle_i64x2(y, y, 0xEE);
    return _mm512_permutexvar_epi64(_mm512_add_epi64(_mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1), _mm512_set1_epi64(2 * s)), y);
}

/* Puts the parts of each pixel side by side. */
static void write_row(const qc_channels *c, const uint8_t *const *residual, uint8_t *const *out)
{
    const qc_conv2d *p = &c->d->conv;
    const finishing f = finishing_of(&p->epilogue, residual[0] != NULL);
    for (int64_t x = 0; x < p->out_width; x += 4) {
        const uint8_t *quad = c->row + 64 * x;
        const __m512i y0 = _mm512_load_si512(quad), y1 = _mm512_load_si512(quad + 64);
        const __m512i y2 = _mm512_load_si512(quad + 128), y3 = _mm512_load_si512(quad + 192);
        const __m512i low01 = _mm512_unpacklo_epi32(y0, y1), high01 = _mm512_unpackhi_epi32(y0, y1);
        const __m512i low23 = _mm512_unpacklo_epi32(y2, y3), high23 = _mm512_unpackhi_epi32(y2, y3);
        const __m512i pixel[4] = {_mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
                                  _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
        const int64_t count = qc_min(4, p->out_width - x);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            if (i >= count)
                break;
            const __m512i y = clamp_and_look_up(&f, pixel[i]);
            const int64_t at = (x + i) * p->channels;
            for (int64_t s = 0; s < c->sets; s++)
                if (out[s])
                    write_pixel(c, &f, take_set(y, s, c->sets), residual[s] ? residual[s] + at : NULL, out[s] + at);
        }
    }
}

/* Tap by tap over pixels of QC_BLOCK bytes, four taps of a kernel row at a time. */
static void row_of_pixels(const qc_channels *c, const uint8_t *const *rows, const uint8_t *residual, uint8_t *out)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t groups = (p->kernel_w + 3) / 4;
    const finishing f = finishing_of(&p->epilogue, residual != NULL);
    part_constants k[4];
    for (int part = 0; part < 4; part++)
        k[part] = load_part(c, part);
    for (int64_t i = 0; i < p->out_width; i++) {
        const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
        __m512i sum[4] = {k[0].bias, k[1].bias, k[2].bias, k[3].bias};
        for (int64_t ky = 0; ky < p->kernel_h; ky++)
            for (int64_t kx = 0; kx < p->kernel_w; kx += 4, weight += 256) {
                __m512i x[4];
                for (int64_t j = 0; j < 4; j++) {
                    const int64_t tap = qc_min(kx + j, p->kernel_w - 1);
                    x[j] = _mm512_load_si512(rows[ky] + (i * p->stride_w + tap * p->dilation_w) * QC_BLOCK);
                }
                uint8_t quad[256] __attribute__((aligned(64)));
                store_quad(quad, x[0], x[1], x[2], x[3]);
                for (int part = 0; part < 4; part++)
                    sum[part] = _mm512_dpbusd_epi32(sum[part], _mm512_load_si512(quad + 64 * part),
                                                    _mm512_loadu_si512(weight + 64 * part));
            }
        for (int part = 0; part < 4; part++)
            sum[part] = requant_part(&k[part], sum[part]);
        /* Both packs saturate, and they put the lanes back in channel order. */
        const __m512i y =
            _mm512_packus_epi16(_mm512_packs_epi32(sum[0], sum[1]), _mm512_packs_epi32(sum[2], sum[3]));
        write_pixel(c, &f, clamp_and_look_up(&f, y), residual ? residual + i * p->channels : NULL,
                    out + i * p->channels);
    }
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, const uint8_t *const *residual,
                      uint8_t *const *out)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_quads(p)) {
        row_of_pixels(c, rows, residual[0], out[0]);
        return;
    }
    if (p->kernel_h == 3 && p->kernel_w == 3)
        p->stride_w == 1 ? row_3x3s1(c, rows) : row_3x3s2(c, rows);
    else if (p->kernel_h == 5 && p->kernel_w == 5)
        p->stride_w == 1 ? row_5x5s1(c, rows) : row_5x5s2(c, rows);
    else
        row_any(c, rows);
    write_row(c, residual, out);
}
#else
typedef int qc_empty_translation_unit;
#endif
