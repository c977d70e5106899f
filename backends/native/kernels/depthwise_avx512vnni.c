/* Depthwise convolution on AVX512-VNNI.
 *
 * A dot product of four taps wants four values of a channel side by side, a quad. 3x3 and 5x5 kernels take
 * quads of two by two pixels: two rows of the input are laid out together, once for all results that read
 * them. A result whose first tap is the second pixel of a quad, or in its second row, multiplies with taps
 * that are shifted by one. Other kernels take quads of four rows (depthwise_columns_avx512vnni.c).
 *
 * A quad is stored as bytes [part][lane][channel][pixel], where channel 16 * lane + 4 * part + i of the block
 * stands in part `part`, lane `lane`: this is what interleaving bytes and words gives, and packing the sums of
 * the parts undoes it. */
#include "level.h"

#if defined(QC_AVX512)
#include "depthwise_avx512.h"

/* Repeats the lanes of the first set for the others. */
static inline __m512i repeat_lanes(__m512i v, int64_t sets)
{
    return sets == 1 ? v : sets == 2 ? _mm512_shuffle_i64x2(v, v, 0x44) : _mm512_shuffle_i64x2(v, v, 0);
}

/* The kernels that take quads of two by two pixels: 3 or 5, else 0. */
static int square(const qc_conv2d *p)
{
    const int plain = p->dilation_h == 1 && p->dilation_w == 1 && p->stride_h == p->stride_w && p->stride_w <= 2 &&
                      p->kernel_h == p->kernel_w && p->epilogue.scale;
    return plain && (p->kernel_h == 3 || p->kernel_h == 5) ? (int)p->kernel_h : 0;
}

/* Quads under a kernel in each direction, whatever pixel of the first its first tap meets. */
QC_INLINE int quads_of(int kernel)
{
    return (kernel + 1) / 2;
}

int64_t qc_depthwise_sets(const qc_conv2d *p, int64_t lanes)
{
    return !square(p) || lanes > 32 ? 1 : lanes > 16 ? 2 : 4;
}

int64_t qc_depthwise_laid_rows(const qc_conv2d *p)
{
    return square(p) ? 2 : 0;
}

/* Lays out the quads of two rows. */
QC_INLINE void lay_out_pair(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *out, int sets)
{
    const qc_conv2d *p = &c->d->conv;
    /* Results are computed in twos and fours. */
    const int64_t count = (((p->out_width + 1) / 2 * 2 - 1) * p->stride_w + p->kernel_w + 1) / 2;
    const int64_t first = qc_min((p->pad_left + 1) / 2, count);
    const int64_t end = qc_max(first, qc_min((p->pad_left + p->width) / 2, count));
    uint8_t padding[64] __attribute__((aligned(64)));
    const uint8_t *at[2][QC_MOST_SETS];
    int64_t steps[2][QC_MOST_SETS];
    _mm512_store_si512(padding, _mm512_set1_epi8((char)p->pad_value));
    for (int r = 0; r < 2; r++)
        for (int s = 0; s < sets; s++) {
            const uint8_t *row = rows[r * QC_MOST_SETS + s];
            at[r][s] = row ? row + (2 * first - p->pad_left) * step : padding;
            steps[r][s] = row ? step : 0;
        }
    for (int64_t i = 0; i < count; i++)
        if (i < first || i >= end) {
            const int64_t x = 2 * i - p->pad_left;
            store_quad(out + i * QUAD, load_pixel(p, rows, x, step, sets), load_pixel(p, rows, x + 1, step, sets),
                       load_pixel(p, rows + QC_MOST_SETS, x, step, sets),
                       load_pixel(p, rows + QC_MOST_SETS, x + 1, step, sets));
        } else {
            __m512i v[4];
#pragma GCC unroll 2
            for (int r = 0; r < 2; r++)
#pragma GCC unroll 2
                for (int n = 0; n < 2; n++) {
                    v[2 * r + n] = load_sets(at[r], sets);
#pragma GCC unroll 4
                    for (int s = 0; s < sets; s++)
                        at[r][s] += steps[r][s];
                }
            store_quad(out + i * QUAD, v[0], v[1], v[2], v[3]);
        }
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *out)
{
    if (c->sets == 1)
        lay_out_pair(c, rows, step, out, 1);
    else if (c->sets == 2)
        lay_out_pair(c, rows, step, out, 2);
    else
        lay_out_pair(c, rows, step, out, 4);
}

/* Taps ky and ky + 1 of a column of four channels each, in bytes 0 and 2 of 32 bits; 0 where there are none. */
QC_INLINE __m512i two_taps(const int8_t *weight, int kernel, int ky, int kx)
{
    const __m512i channel = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C));
    __m512i v = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int group = 0; group < (kernel + 3) / 4; group++) {
        const int first = ky - 4 * group, second = first + 1;
        const unsigned low = first >= 0 && first < 4 ? (unsigned)first : 0x80;
        const unsigned high = second >= 0 && second < 4 ? (unsigned)second : 0x80;
        if (low == 0x80 && high == 0x80)
            continue;
        const __m512i order = _mm512_or_si512(channel, _mm512_set1_epi32((int)(low | high << 16 | 0x80008000)));
        v = _mm512_or_si512(v, _mm512_shuffle_epi8(_mm512_loadu_si512(weight + (group * kernel + kx) * QUAD), order));
    }
    return v;
}

/* Writes the taps of each part as [first row][first column][row of quads][quad], then its bias and scale. */
QC_INLINE void prepare(const qc_channels *c, int kernel, int stride)
{
    const qc_epilogue *e = &c->d->conv.epilogue;
    const int quads = quads_of(kernel);
    int8_t *out = c->weight;
    for (int part = 0; part < 4; part++) {
        const int8_t *weight = c->d->conv.weight + c->block * 4 * ((kernel + 3) / 4) * kernel + part * 64;
#pragma GCC unroll 2
        for (int y = 0; y < 3 - stride; y++)
#pragma GCC unroll 3
            for (int row = 0; row < quads; row++) {
                __m512i taps[7];
                taps[0] = taps[kernel + 1] = _mm512_setzero_si512();
#pragma GCC unroll 5
                for (int kx = 0; kx < kernel; kx++)
                    taps[kx + 1] = repeat_lanes(two_taps(weight, kernel, 2 * row - y, kx), c->sets);
#pragma GCC unroll 2
                for (int x = 0; x < 3 - stride; x++)
#pragma GCC unroll 3
                    for (int i = 0; i < quads; i++)
                        _mm512_store_si512(out + (((y * (3 - stride) + x) * quads + row) * quads + i) * 64,
                                           _mm512_or_si512(taps[2 * i - x + 1],
                                                           _mm512_slli_epi32(taps[2 * i - x + 2], 8)));
            }
        out += (3 - stride) * (3 - stride) * quads * quads * 64;
        _mm512_store_si512(out, repeat_lanes(load_lanes(e->bias + c->block, part), c->sets));
        _mm512_store_si512(out + 64, repeat_lanes(load_lanes(e->scale + c->block, part), c->sets));
        out += 128;
    }
}

void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    const int kernel = square(p);
    if (kernel == 3)
        p->stride_w == 1 ? prepare(c, 3, 1) : prepare(c, 3, 2);
    else if (kernel == 5)
        p->stride_w == 1 ? prepare(c, 5, 1) : prepare(c, 5, 2);
}

/* Compilers would hold a pointer for each offset, and load a vector of taps again for each product: one load
 * per cycle is all there is. */
#define SAME_BASE(pointer) __asm__("" : "+r"(pointer))
#define KEEP(vector) __asm__("" : "+v"(vector))

/* Ends a step: compilers that mix the loads of two run out of registers. */
QC_INLINE void end_step(__m512i *v, int count)
{
    if (count == 4)
        __asm__ volatile("" : "+v"(v[0]), "+v"(v[1]), "+v"(v[2]), "+v"(v[3]));
    else
        __asm__ volatile("" : "+v"(v[0]), "+v"(v[1]));
}

/* Clamped codes of `wide` neighbouring results. `rows` stand at the quad of the first, whose first tap is in
 * row y of it. */
QC_INLINE void square_results(const qc_channels *c, const uint8_t *const *rows, int64_t y, uint8_t *out, int64_t step,
                              int kernel, int stride, int wide)
{
    const qc_epilogue *e = &c->d->conv.epilogue;
    const int quads = quads_of(kernel), shifts = 3 - stride, count = quads * quads;
    const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const int8_t *weight = c->weight, *shifted = weight + y * shifts * count * 64;
    __m512i low[4], codes[4];
    SAME_BASE(weight);
    SAME_BASE(shifted);
#pragma GCC unroll 4
    for (int part = 0; part < 4; part++) {
        const int8_t *constants = weight + (part * (shifts * shifts * count + 2) + shifts * shifts * count) * 64;
        const int8_t *taps = shifted + part * (shifts * shifts * count + 2) * 64;
        const __m512i bias = _mm512_load_si512(constants);
        const __m512 scale = _mm512_load_ps((const float *)(constants + 64));
        __m512i sum[4] = {bias, bias, bias, bias};
#pragma GCC unroll 3
        for (int row = 0; row < quads; row++) {
#pragma GCC unroll 2
            for (int x = 0; x < shifts; x++)
#pragma GCC unroll 3
                for (int i = 0; i < quads; i++) {
                    __m512i w = _mm512_load_si512(taps + (x * count + row * quads + i) * 64);
                    KEEP(w);
#pragma GCC unroll 4
                    for (int n = x; n < wide; n += shifts)
                        sum[n] = _mm512_dpbusd_epi32(
                            sum[n], _mm512_load_si512(rows[row] + (n * stride / 2 + i) * QUAD + part * 64), w);
                }
            end_step(sum, wide);
        }
#pragma GCC unroll 4
        for (int n = 0; n < wide; n++) {
            const __m512i code = requant_down(sum[n], scale, offset);
            if (part % 2 == 0)
                low[n] = code;
            else if (part == 1)
                codes[n] = _mm512_packs_epi32(low[n], code);
            else
                codes[n] = _mm512_packus_epi16(codes[n], _mm512_packs_epi32(low[n], code));
        }
        end_step(part % 2 ? codes : low, wide);
    }
#pragma GCC unroll 4
    for (int n = 0; n < wide; n++)
        _mm512_storeu_si512(out + n * step, vec_clamp_bytes(codes[n], _mm512_set1_epi8((char)e->qmin),
                                                            _mm512_set1_epi8((char)e->qmax)));
}

/* Clamped codes of a row of results, `step` bytes from one to the next. */
QC_INLINE void square_row(const qc_channels *c, const uint8_t *const *rows, int64_t y, uint8_t *out, int64_t step,
                          int kernel, int stride)
{
    const int64_t width = c->d->conv.out_width;
    const uint8_t *at[3];
#pragma GCC unroll 3
    for (int row = 0; row < quads_of(kernel); row++)
        at[row] = rows[row * QC_MOST_SETS];
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
        square_results(c, at, y, out + x * step, step, kernel, stride, 4);
#pragma GCC unroll 3
        for (int row = 0; row < quads_of(kernel); row++)
            at[row] += 2 * stride * QUAD;
    }
    if (x == width)
        return;
    uint8_t last[4 * QC_BLOCK] __attribute__((aligned(64)));
    if (width - x <= 2)
        square_results(c, at, y, last, QC_BLOCK, kernel, stride, 2);
    else
        square_results(c, at, y, last, QC_BLOCK, kernel, stride, 4);
    for (int n = 0; x < width; x++, n++)
        _mm512_storeu_si512(out + x * step, _mm512_load_si512(last + n * QC_BLOCK));
}

#define SQUARE_ROW(KERNEL, STRIDE)                                                                     \
    __attribute__((noinline)) static void row_##KERNEL##s##STRIDE(                                     \
        const qc_channels *c, const uint8_t *const *rows, int64_t y, uint8_t *out, int64_t step)       \
    {                                                                                                  \
        square_row(c, rows, y, out, step, KERNEL, STRIDE);                                             \
    }

SQUARE_ROW(3, 1)
SQUARE_ROW(3, 2)
SQUARE_ROW(5, 1)
SQUARE_ROW(5, 2)

QC_INLINE void store_lanes(uint8_t *out, __m512i y, int64_t lanes)
{
    if (lanes == 32)
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
    else if (lanes == 16)
        _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(y));
    else
        vec_store_part(out, y, lanes);
}

void qc_depthwise_write(const qc_channels *c, const uint8_t *codes, const uint8_t *const *residual,
                        uint8_t *const *out, int64_t first, int64_t count)
{
    const qc_conv2d *p = &c->d->conv;
    const finishing f = finishing_of(&p->epilogue, residual[0] != NULL);
    const int64_t step = p->channels, lanes = c->lanes;
    for (int64_t s = 0; s < c->sets; s++) {
        const uint8_t *at = codes + s * (QC_BLOCK / c->sets), *added = residual[s];
        if (!out[s])
            continue;
        uint8_t *to = out[s] + first * step;
        if (!f.has_table && !added) {
            for (int64_t x = 0; x < count; x++)
                store_lanes(to + x * step, _mm512_loadu_si512(at + x * QC_BLOCK), lanes);
            continue;
        }
        for (int64_t x = 0; x < count; x++) {
            __m512i y = _mm512_loadu_si512(at + x * QC_BLOCK);
            y = f.has_table ? vec_look_up(&f.table, y) : y;
            y = added ? vec_sum_bytes(&f.sum, y, vec_load(added + (first + x) * step)) : y;
            store_lanes(to + x * step, y, lanes);
        }
    }
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *rows, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    const qc_conv2d *p = &c->d->conv;
    const int kernel = square(p);
    if (!kernel) {
        qc_depthwise_columns_row(c, rows, step, residuals, outs);
        return;
    }
    const int whole = c->lanes == QC_BLOCK && !p->epilogue.table && !residuals[0];
    uint8_t *codes = whole ? outs[0] : c->row;
    const int64_t distance = whole ? p->channels : QC_BLOCK;
    if (kernel == 3)
        (p->stride_w == 1 ? row_3s1 : row_3s2)(c, rows, top % 2, codes, distance);
    else
        (p->stride_w == 1 ? row_5s1 : row_5s2)(c, rows, top % 2, codes, distance);
    if (!whole)
        qc_depthwise_write(c, codes, residuals, outs, 0, p->out_width);
}
#else
typedef int qc_empty_translation_unit;
#endif
