/* The epilogue over stored sums, and depthwise convolution row by row, on AVX-512. */
#if defined(__AVX512VNNI__)
#include "arith.h"
#include "tile.h"
#include "vector_avx512.h"

/* Finishes a tile of `panels` panels; `panels` and `extras` are constants at each call. */
static inline __attribute__((always_inline)) void finish_tile(const qc_epilogue *e, const int32_t *acc, int rows,
                                                              int64_t channel, int64_t columns,
                                                              const uint8_t *residual, uint8_t *out,
                                                              int64_t stride, int panels, int extras)
{
    const __mmask64 mask = columns >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << columns) - 1;
    const __m512i low = _mm512_set1_epi8((char)e->qmin), high = _mm512_set1_epi8((char)e->qmax);
    const __m512i zero_point = _mm512_set1_epi32(e->zero_point);
    const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const int exact = extras && !e->scale;
    __m512 scale[4];
    for (int p = 0; p < panels && !exact; p++)
        scale[p] = _mm512_loadu_ps(e->scale + channel + p * QC_PANEL);
    for (int r = 0; r < rows; r++, acc += QC_TILE_LD, out += stride) {
        __m512i v[4];
        for (int p = 0; p < panels; p++) {
            const __m512i x = _mm512_loadu_si512(acc + p * QC_PANEL);
            const int64_t at = channel + p * QC_PANEL;
            if (exact)
                v[p] = requant_exact(x, _mm512_loadu_si512(e->multiplier + at), _mm512_loadu_si512(e->shift + at),
                                     zero_point);
            else
                v[p] = requant_down(x, scale[p], offset);
        }
        for (int p = panels; p < 4; p++)
            v[p] = v[0];
        __m512i y = pack_panels(v[0], v[1], v[2], v[3]);
        y = _mm512_min_epu8(_mm512_max_epu8(y, low), high);
        if (extras) {
            if (e->table)
                y = look_up(y, e->table);
            if (residual)
                y = add_residual64(y, _mm512_maskz_loadu_epi8(mask, residual + r * stride), e->add);
        }
        if (columns == 64)
            _mm512_storeu_si512(out, y);
        else if (columns == 32)
            _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
        else if (columns == 16)
            _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(y));
        else
            _mm512_mask_storeu_epi8(out, mask, y);
    }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *acc, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    const int panels = (int)((columns + QC_PANEL - 1) / QC_PANEL);
    if (!e->scale || e->table || residual) {
        if (panels == 4)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 4, 1);
        else if (panels == 3)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 3, 1);
        else if (panels == 2)
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 2, 1);
        else
            finish_tile(e, acc, rows, channel, columns, residual, out, stride, 1, 1);
    } else if (panels == 4) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 4, 0);
    } else if (panels == 3) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 3, 0);
    } else if (panels == 2) {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 2, 0);
    } else {
        finish_tile(e, acc, rows, channel, columns, NULL, out, stride, 1, 0);
    }
}

/* 4 x 16 values in the order of the unpacked lanes: part j, lane l, element d is channel 16 l + 4 j + d. */
static inline __m512i load_lanes(const void *values, int j)
{
    const __m128i *p = (const __m128i *)values + j;
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128(p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 4), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128(p + 8), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128(p + 12), 3);
}

static inline __attribute__((always_inline)) __m512i requant_lanes(const qc_epilogue *e, __m512i acc,
                                                                   int64_t channel, int j, __m512 scale,
                                                                   __m512 offset)
{
    if (e->scale)
        return requant_down(acc, scale, offset);
    return requant_exact(acc, load_lanes(e->multiplier + channel, j), load_lanes(e->shift + channel, j),
                         _mm512_set1_epi32(e->zero_point));
}

static void depthwise_block(const qc_conv2d *p, const uint8_t *const *taps, int64_t count, int64_t step,
                            int64_t block, const uint8_t *residual, uint8_t *out)
{
    const qc_epilogue *e = &p->epilogue;
    const int64_t channels = p->channels, groups = (p->kernel_h * p->kernel_w + 3) / 4;
    const int64_t lanes = qc_min(64, channels - block);
    const __mmask64 mask = lanes == 64 ? ~(__mmask64)0 : ((__mmask64)1 << lanes) - 1;
    const int8_t *weight = p->weight + (block / 64) * groups * 256;
    const __m512i bias0 = load_lanes(e->bias + block, 0), bias1 = load_lanes(e->bias + block, 1);
    const __m512i bias2 = load_lanes(e->bias + block, 2), bias3 = load_lanes(e->bias + block, 3);
    const float *scale = e->scale ? e->scale + block : (const float *)(e->bias + block);
    const __m512 scale0 = _mm512_castsi512_ps(load_lanes(scale, 0)), scale1 = _mm512_castsi512_ps(load_lanes(scale, 1));
    const __m512 scale2 = _mm512_castsi512_ps(load_lanes(scale, 2)), scale3 = _mm512_castsi512_ps(load_lanes(scale, 3));
    const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);
    const __m512i low = _mm512_set1_epi8((char)e->qmin), high = _mm512_set1_epi8((char)e->qmax);
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = i * step + block;
        __m512i c0 = bias0, c1 = bias1, c2 = bias2, c3 = bias3;
        for (int64_t g = 0; g < groups; g++) {
            const __m512i x0 = _mm512_maskz_loadu_epi8(mask, taps[4 * g] + at);
            const __m512i x1 = _mm512_maskz_loadu_epi8(mask, taps[4 * g + 1] + at);
            const __m512i x2 = _mm512_maskz_loadu_epi8(mask, taps[4 * g + 2] + at);
            const __m512i x3 = _mm512_maskz_loadu_epi8(mask, taps[4 * g + 3] + at);
            const __m512i low01 = _mm512_unpacklo_epi8(x0, x1), high01 = _mm512_unpackhi_epi8(x0, x1);
            const __m512i low23 = _mm512_unpacklo_epi8(x2, x3), high23 = _mm512_unpackhi_epi8(x2, x3);
            const int8_t *w = weight + g * 256;
            c0 = _mm512_dpbusd_epi32(c0, _mm512_unpacklo_epi16(low01, low23), _mm512_loadu_si512(w));
            c1 = _mm512_dpbusd_epi32(c1, _mm512_unpackhi_epi16(low01, low23), _mm512_loadu_si512(w + 64));
            c2 = _mm512_dpbusd_epi32(c2, _mm512_unpacklo_epi16(high01, high23), _mm512_loadu_si512(w + 128));
            c3 = _mm512_dpbusd_epi32(c3, _mm512_unpackhi_epi16(high01, high23), _mm512_loadu_si512(w + 192));
        }
        c0 = requant_lanes(e, c0, block, 0, scale0, offset);
        c1 = requant_lanes(e, c1, block, 1, scale1, offset);
        c2 = requant_lanes(e, c2, block, 2, scale2, offset);
        c3 = requant_lanes(e, c3, block, 3, scale3, offset);
        /* Both packs saturate, and they put the lanes back in channel order. */
        __m512i y = _mm512_packus_epi16(_mm512_packs_epi32(c0, c1), _mm512_packs_epi32(c2, c3));
        y = _mm512_min_epu8(_mm512_max_epu8(y, low), high);
        uint8_t *target = out + i * channels + block;
        if (e->table)
            y = look_up(y, e->table);
        if (residual)
            y = add_residual64(y, _mm512_maskz_loadu_epi8(mask, residual + i * channels + block), e->add);
        if (lanes == 64)
            _mm512_storeu_si512(target, y);
        else
            _mm512_mask_storeu_epi8(target, mask, y);
    }
}

void qc_depthwise_row(const qc_conv2d *p, const uint8_t *const *taps, int64_t count, int64_t step,
                      const uint8_t *residual, uint8_t *out)
{
    for (int64_t block = 0; block < p->channels; block += 64)
        depthwise_block(p, taps, count, step, block, residual, out);
}
#else
typedef int qc_empty_translation_unit;
#endif
