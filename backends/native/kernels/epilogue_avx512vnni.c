/* Epilogue and depthwise convolution on AVX-512.
 *
 * Where `scale` is set the requantization is one FMA and one conversion, both rounding down; the emitter
 * has checked that this is exact (integer semantics, section 4). Otherwise 64-bit integers are used. */
#if defined(__AVX512VNNI__)
#include "arith.h"
#include "tile.h"

#include <immintrin.h>
#include <string.h>

#define DOWN (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)

static inline __m512i requant_down(__m512i acc, __m512 scale, __m512 offset)
{
    return _mm512_cvt_roundps_epi32(_mm512_fmadd_round_ps(_mm512_cvtepi32_ps(acc), scale, offset, DOWN), DOWN);
}

static inline __m256i scale_half(__m256i acc, __m256i multiplier, __m256i shift)
{
    const __m512i one = _mm512_set1_epi64(1), s = _mm512_cvtepi32_epi64(shift);
    const __m512i half = _mm512_sllv_epi64(one, _mm512_sub_epi64(s, one));
    __m512i x = _mm512_cvtepi32_epi64(acc);
    x = _mm512_max_epi64(x, _mm512_sub_epi64(_mm512_setzero_si512(), half));
    x = _mm512_min_epi64(x, _mm512_sub_epi64(half, one));
    x = _mm512_mul_epi32(x, _mm512_cvtepi32_epi64(multiplier));
    return _mm512_cvtepi64_epi32(_mm512_srav_epi64(_mm512_add_epi64(x, half), s));
}

static inline __m512i requant_exact(__m512i acc, __m512i multiplier, __m512i shift, __m512i zero_point)
{
    const __m256i low = scale_half(_mm512_castsi512_si256(acc), _mm512_castsi512_si256(multiplier),
                                   _mm512_castsi512_si256(shift));
    const __m256i high = scale_half(_mm512_extracti64x4_epi64(acc, 1), _mm512_extracti64x4_epi64(multiplier, 1),
                                    _mm512_extracti64x4_epi64(shift, 1));
    return _mm512_add_epi32(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1), zero_point);
}

static inline __m512i look_up(__m512i bytes, const uint8_t *table)
{
#if defined(__AVX512VBMI__)
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), bytes, _mm512_loadu_si512(table + 64));
    const __m512i high =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), bytes, _mm512_loadu_si512(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
#else
    uint8_t lanes[64];
    _mm512_storeu_si512(lanes, bytes);
    for (int i = 0; i < 64; i++)
        lanes[i] = table[lanes[i]];
    return _mm512_loadu_si512(lanes);
#endif
}

static inline __m128i add_residual(__m128i y, __m128i residual, const int32_t *k)
{
    const __m512i a = _mm512_sub_epi32(_mm512_cvtepu8_epi32(y), _mm512_set1_epi32(k[0]));
    const __m512i b = _mm512_sub_epi32(_mm512_cvtepu8_epi32(residual), _mm512_set1_epi32(k[2]));
    __m512i acc = _mm512_add_epi32(_mm512_mullo_epi32(a, _mm512_set1_epi32(k[1])),
                                   _mm512_mullo_epi32(b, _mm512_set1_epi32(k[3])));
    acc = _mm512_add_epi32(acc, _mm512_set1_epi32(1 << (k[4] - 1)));
    acc = _mm512_add_epi32(_mm512_sra_epi32(acc, _mm_cvtsi32_si128(k[4])), _mm512_set1_epi32(k[5]));
    acc = _mm512_min_epi32(_mm512_max_epi32(acc, _mm512_set1_epi32(k[6])), _mm512_set1_epi32(k[7]));
    return _mm512_cvtepi32_epi8(acc);
}

/* Packs 4 x 16 values to bytes with saturation and puts the 64 bytes in order. */
static inline __m512i pack_panels(__m512i v0, __m512i v1, __m512i v2, __m512i v3)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(_mm512_packs_epi32(v0, v1), _mm512_packs_epi32(v2, v3)));
}

static inline __m512i add_residual64(__m512i y, __m512i residual, const int32_t *k)
{
    const __m128i p0 = add_residual(_mm512_castsi512_si128(y), _mm512_castsi512_si128(residual), k);
    const __m128i p1 = add_residual(_mm512_extracti32x4_epi32(y, 1), _mm512_extracti32x4_epi32(residual, 1), k);
    const __m128i p2 = add_residual(_mm512_extracti32x4_epi32(y, 2), _mm512_extracti32x4_epi32(residual, 2), k);
    const __m128i p3 = add_residual(_mm512_extracti32x4_epi32(y, 3), _mm512_extracti32x4_epi32(residual, 3), k);
    __m512i v = _mm512_inserti32x4(_mm512_castsi128_si512(p0), p1, 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(v, p2, 2), p3, 3);
}

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
