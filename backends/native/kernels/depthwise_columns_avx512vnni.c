/* Depthwise convolution with any kernel on AVX512-VNNI, over quads of the pixels of a column in four rows.
 *
 * The quads of a stretch of a row of results are laid out first, then they meet the columns of taps. */
#include "level.h"

#if defined(QC_AVX512)
#include "depthwise_avx512.h"

/* Columns that a stretch of results reads; they may lie outside the image. */
typedef struct {
    int64_t first, count;
    int64_t step; /* bytes from a pixel to the next */
} stretch;

/* Lays out quads of four rows, the last of which may be repeated. */
static void lay_out_columns(const qc_conv2d *p, stretch s, const uint8_t *const *rows, int64_t count, uint8_t *out)
{
    for (int64_t i = 0; i < s.count; i++) {
        __m512i v[4];
        for (int r = 0; r < 4; r++)
            v[r] = load_pixel(p, rows + qc_min(r, count - 1) * QC_MOST_SETS, s.first + i, s.step, 1);
        store_quad(out + i * QUAD, v[0], v[1], v[2], v[3]);
    }
}

/* Clamped codes of a stretch of results, QC_BLOCK bytes each, from quads of four rows. */
QC_INLINE void results(const qc_channels *c, const uint8_t *quads, uint8_t *out, int64_t count, int exact)
{
    const qc_conv2d *p = &c->d->conv;
    const qc_epilogue *e = &p->epilogue;
    const int64_t groups = (p->kernel_h + 3) / 4, columns = c->d->quad_columns;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_w;
    const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const __m512i least = _mm512_set1_epi8((char)e->qmin), most = _mm512_set1_epi8((char)e->qmax);
    vec_scaling scaling[4];
    __m512 scale[4];
    for (int part = 0; part < 4; part++)
        if (exact)
            scaling[part] = vec_scaling_of(load_lanes(e->multiplier + c->block, part),
                                           load_lanes(e->shift + c->block, part), e->zero_point);
        else
            scale[part] = _mm512_castsi512_ps(load_lanes(e->scale + c->block, part));
    for (int64_t x = 0; x < count; x += 4) {
        __m512i code[4][4];
        for (int part = 0; part < 4; part++) {
            const __m512i bias = load_lanes(e->bias + c->block, part);
            __m512i sum[4] = {bias, bias, bias, bias};
            for (int64_t group = 0; group < groups; group++)
                for (int64_t kx = 0; kx < p->kernel_w; kx++) {
                    const __m512i w = _mm512_loadu_si512(weight + (group * p->kernel_w + kx) * QUAD + part * 64);
                    const int64_t column = group * columns + x * p->stride_w + kx * p->dilation_w;
#pragma GCC unroll 4
                    for (int n = 0; n < 4; n++)
                        sum[n] = _mm512_dpbusd_epi32(
                            sum[n], _mm512_load_si512(quads + (column + n * p->stride_w) * QUAD + part * 64), w);
                }
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++)
                code[part][n] = exact ? vec_scale(&scaling[part], sum[n]) : requant_down(sum[n], scale[part], offset);
        }
        for (int n = 0; n < 4 && x + n < count; n++)
            _mm512_store_si512(out + (x + n) * QC_BLOCK,
                                vec_clamp_bytes(vec_pack(code[0][n], code[1][n], code[2][n], code[3][n]), least, most));
    }
}

__attribute__((noinline)) static void results_down(const qc_channels *c, const uint8_t *quads, uint8_t *out,
                                                   int64_t count)
{
    results(c, quads, out, count, 0);
}

__attribute__((noinline)) static void results_exact(const qc_channels *c, const uint8_t *quads, uint8_t *out,
                                                    int64_t count)
{
    results(c, quads, out, count, 1);
}

void qc_depthwise_columns_row(const qc_channels *c, const uint8_t *const *rows, int64_t step,
                              const uint8_t *const *residual, uint8_t *const *out)
{
    const qc_conv2d *p = &c->d->conv;
    const int64_t reach = (p->kernel_w - 1) * p->dilation_w + 1, columns = c->d->quad_columns;
    const int64_t most = ((columns - reach) / p->stride_w + 1) / 4 * 4;
    uint8_t *codes = c->row + (p->kernel_h + 3) / 4 * columns * QUAD;
    for (int64_t x = 0; x < p->out_width; x += most) {
        const int64_t count = qc_min(most, p->out_width - x), computed = (count + 3) / 4 * 4;
        const stretch s = {x * p->stride_w - p->pad_left, (computed - 1) * p->stride_w + reach, step};
        for (int64_t ky = 0; ky < p->kernel_h; ky += 4)
            lay_out_columns(p, s, rows + ky * QC_MOST_SETS, p->kernel_h - ky, c->row + ky / 4 * columns * QUAD);
        (p->epilogue.scale ? results_down : results_exact)(c, c->row, codes, count);
        qc_depthwise_write(c, codes, residual, out, x, count);
    }
}

#else
typedef int qc_empty_translation_unit;
#endif
