/* Depthwise convolution with sdot, over groups of four pixels: depthwise_dotprod.h. */
#include "level.h"

#if defined(QC_DOT)
/* The loops below are in the order in which they should run. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-schedule-insns", "no-schedule-insns2", "no-tree-ter")
#endif
#include "depthwise_dotprod.h"

#if defined(__clang__)
#define DOT(sum, x, taps) sum = vdotq_s32(sum, x, taps);
#else
/* The intrinsic's operand and result are two values to gcc, which moves some of them about. */
#define DOT(sum, x, taps) __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(taps));
#endif

/* Where the channels from `lane` on, a multiple of four, are in a laid-out row with parts so far from each other. */
QC_INLINE int64_t place_of(int64_t lane, int64_t step_of_lanes, int64_t part_step)
{
    return (lane >> 4) * step_of_lanes + (lane >> 2 & 3) * part_step;
}

/* 3x3: four results of eight channels at a time, with taps in registers. */
QC_INLINE void row_of_three(const block_row *r, int stride)
{
    const qc_channels *c = r->c;
    const int64_t step_of_lanes = lanes_step(c), step = r->to.stride;
    const int count = vectors_of_row(3, stride);
    const int8_t *weight = c->weight;
    channel_constants k = constants_of(&c->d->conv.epilogue, c->block);
    for (int64_t lane = 0; lane < c->lanes; lane += 8) {
        const int64_t at = place_of(lane, step_of_lanes, 16);
        const uint8_t *row[3] = {r->rows[0] + at, r->rows[1] + at, r->rows[2] + at};
        uint8_t *out = r->to.out + lane;
        int8x16_t kept[12];
#pragma GCC unroll 6
        for (int i = 0; i < 6 * count; i += 2)
            LOAD_NEXT_PAIR(kept[i], kept[i + 1], weight, 32)
        int32x4_t multiplier[2], right[2];
        LOAD_PAIR(multiplier[0], multiplier[1], k.multiplier)
        LOAD_PAIR(right[0], right[1], k.right)
        for (int64_t left = c->d->conv.out_width; left > 0; left -= 4) {
            int32x4_t sums[8];
#pragma GCC unroll 4
            for (int n = 0; n < 8; n += 2)
                LOAD_PAIR(sums[n], sums[n + 1], k.bias)
#pragma GCC unroll 3
            for (int ky = 0; ky < 3; ky++)
#pragma GCC unroll 4
                for (int n = 0; n < 4; n += stride == 1 ? 2 : 1) {
                    int8x16_t low, high;
                    LOAD_NEXT_PAIR(low, high, row[ky], 64)
                    DOT(sums[2 * n], low, kept[ky * count])
                    DOT(sums[2 * n + 1], high, kept[(3 + ky) * count])
                    if (stride == 1) {
                        DOT(sums[2 * n + 2], low, kept[ky * count + 1])
                        DOT(sums[2 * n + 3], high, kept[(3 + ky) * count + 1])
                    }
                }
            int8x16_t y[2];
            requant_sums(&k, sums, 8, multiplier, right, 2, y);
            if (left >= 4)
                store_eights(y, 4, 4, out, step);
            else
                store_eights(y, 4, left, out, step);
            out += 4 * step;
        }
        skip_channels(&k, 8);
    }
}

__attribute__((noinline)) static void row_3x3s1(const block_row *r) { row_of_three(r, 1); }
__attribute__((noinline)) static void row_3x3s2(const block_row *r) { row_of_three(r, 2); }

/* Stores `count` results of four channels and moves on. */
QC_INLINE void store_fours(const int8x16_t *y, int count, uint8_t **to, int64_t step)
{
    uint8_t *out = *to;
#pragma GCC unroll 4
    for (int n = 0; n < 16; n += 4) {
        if (n < count)
            STORE_PART(out, y[n / 4], s, 0, step)
        if (n + 1 < count)
            STORE_PART(out, y[n / 4], s, 1, step)
        if (n + 2 < count)
            STORE_PART(out, y[n / 4], s, 2, step)
        if (n + 3 < count)
            STORE_PART(out, y[n / 4], s, 3, step)
    }
    *to = out;
}

/* 5x5: `pixels` results of four channels, of which `left` are stored. Group i of four pixels meets the first taps of
 * the results that begin in it and the last ones of those before, two shifts at a time; where it has met all, that of
 * the next kernel row takes its place. Two taps are loaded ahead. */
QC_INLINE uint8_t *results_of_five(const block_row *r, const channel_constants *k, int64_t at, const int8_t *weight,
                                   int stride, int pixels, int64_t left, uint8_t *out)
{
    const int shifts = 4 / stride, passes = shifts / 2, groups = (pixels - 1) / shifts + 2;
    const int64_t step = r->to.stride;
    const uint8_t *rows[5];
    int32x4_t sums[16];
    int8x16_t x[8], taps[2][4];
#pragma GCC unroll 5
    for (int ky = 0; ky < 5; ky++)
        rows[ky] = r->rows[ky] + at;
#pragma GCC unroll 8
    for (int n = 0; n < pixels; n += 2)
        LOAD_PAIR(sums[n], sums[n + 1], k->bias)
    LOAD_PAIR_AT(taps[0][0], taps[0][1], weight, 0)
    LOAD_PAIR_AT(taps[0][2], taps[0][3], weight, 32)
#pragma GCC unroll 4
    for (int i = 1; i < groups; i += 2)
        LOAD_PAIR_AT(x[i - 1], x[i], rows[0], 16 * (i - 1))
    if (groups % 2)
        x[groups - 1] = load16(rows[0] + 16 * (groups - 1));
#pragma GCC unroll 10
    for (int pass = 0; pass < 5 * passes; pass++) {
        const int s = pass % passes * 2, ky = pass / passes, is_next = pass + 1 < 5 * passes;
        const int8x16_t *const now = taps[pass % 2];
        int8x16_t *const after = taps[(pass + 1) % 2];
        const int last = ky < 4 && s + 2 == shifts;
        const uint8_t *const next = rows[ky + last];
#pragma GCC unroll 8
        for (int i = 0; i < groups; i++) {
            const int n = i * shifts + s, before = n - shifts;
            if (n < pixels)
                DOT(sums[n], x[i], now[0])
            if (n + 1 < pixels)
                DOT(sums[n + 1], x[i], now[1])
            if (i % 2 == 0 && i <= 2 && is_next)
                LOAD_PAIR_AT(after[i], after[i + 1], weight, 64 * (pass + 1) + 16 * i)
            if (i && before < pixels)
                DOT(sums[before], x[i], now[2])
            if (i && before + 1 < pixels)
                DOT(sums[before + 1], x[i], now[3])
            if (last && i % 2)
                LOAD_PAIR_AT(x[i - 1], x[i], next, 16 * (i - 1))
        }
        if (last && groups % 2)
            x[groups - 1] = load16(next + 16 * (groups - 1));
    }
    int8x16_t y[4] = {vdupq_n_s8(0)};
    const int32x4_t multiplier = vld1q_s32(k->multiplier), right = vld1q_s32(k->right);
    requant_sums(k, sums, pixels, &multiplier, &right, 1, y);
    if (left >= pixels - 1) {
        store_fours(y, pixels - 1, &out, step);
        if (left >= pixels && pixels % 4)
            STORE_PART(out, y[pixels / 4], s, 1, step)
        else if (left >= pixels)
            STORE_PART(out, y[pixels / 4 - 1], s, 3, step)
    } else {
        store_fours(y, (int)left, &out, step);
    }
    return out;
}

QC_INLINE void row_of_five(const block_row *r, int stride)
{
    const qc_channels *c = r->c;
    const int64_t step_of_lanes = lanes_step(c), width = c->d->conv.out_width;
    const int64_t taps = 5 * 32 * (4 / stride);
    const int8_t *weight = c->weight;
    channel_constants k = constants_of(&c->d->conv.epilogue, c->block);
    for (int64_t lane = 0; lane < c->lanes; lane += 4, weight += taps) {
        int32_t bias[8];
        const int32x4_t own = vld1q_s32(c->d->conv.epilogue.bias + c->block + lane);
        vst1q_s32(bias, own);
        vst1q_s32(bias + 4, own);
        k.bias = bias;
        int64_t at = place_of(lane, step_of_lanes, step_of_lanes / 4), left = width;
        uint8_t *out = r->to.out + lane;
        /* results of stride 2 need twice as many groups, which fill the registers */
        const int most = stride == 1 ? 16 : 14;
        for (; left >= most; left -= most, at += 4 * stride * most)
            out = results_of_five(r, &k, at, weight, stride, most, most, out);
        if (left > 14)
            results_of_five(r, &k, at, weight, stride, most, left, out);
        else if (left > 12)
            results_of_five(r, &k, at, weight, stride, 14, left, out);
        else if (left > 8)
            results_of_five(r, &k, at, weight, stride, 12, left, out);
        else if (left > 0)
            results_of_five(r, &k, at, weight, stride, 8, left, out);
        skip_channels(&k, 4);
    }
}

__attribute__((noinline)) static void row_5s1(const block_row *r) { row_of_five(r, 1); }
__attribute__((noinline)) static void row_5s2(const block_row *r) { row_of_five(r, 2); }

/* Any size that is laid out at every second pixel, two results of eight channels at a time. */
static void row_of_seconds(const block_row *r)
{
    const qc_channels *c = r->c;
    const qc_conv2d *p = &c->d->conv;
    const int64_t step_of_lanes = lanes_step(c);
    const int kernel_w = (int)p->kernel_w, count = vectors_of_row(kernel_w, (int)p->stride_w);
    for (int64_t lane = 0; lane < c->lanes; lane += 8) {
        const channel_constants k = constants_of(&p->epilogue, c->block + lane);
        const int8_t *weight = c->weight + lane / 4 * p->kernel_h * count * 16;
        const int64_t at = place_of(lane, step_of_lanes, 16);
        const int32x4_t multiplier[2] = {vld1q_s32(k.multiplier), vld1q_s32(k.multiplier + 4)};
        const int32x4_t right[2] = {vld1q_s32(k.right), vld1q_s32(k.right + 4)};
        for (int64_t i = 0; i < p->out_width; i += 2) {
            int32x4_t sums[4];
            LOAD_PAIR(sums[0], sums[1], k.bias)
            LOAD_PAIR(sums[2], sums[3], k.bias)
#pragma GCC unroll 2
            for (int n = 0; n < 2; n++) {
                const int64_t x = (i + n) * p->stride_w;
                const int odd = (int)(x % 2), first = odd ? vectors(kernel_w, 0) : 0;
                for (int64_t ky = 0; ky < p->kernel_h; ky++)
                    for (int v = 0; v < vectors(kernel_w, odd); v++) {
                        const uint8_t *pixels = r->rows[ky] + at + (x / 2 + 2 * v) * 64;
                        const int8_t *taps = weight + 16 * (ky * count + first + v);
                        DOT(sums[2 * n], load16(pixels), load16(taps))
                        DOT(sums[2 * n + 1], load16(pixels + 16), load16(taps + 16 * p->kernel_h * count))
                    }
            }
            int8x16_t y;
            requant_sums(&k, sums, 4, multiplier, right, 2, &y);
            store_eights(&y, 2, p->out_width - i, r->to.out + lane + i * r->to.stride, r->to.stride);
        }
    }
}

/* Four taps of a kernel row at a time over pixels of QC_BLOCK bytes. */
static void row_of_pixels(const block_row *r)
{
    const qc_channels *c = r->c;
    const qc_conv2d *p = &c->d->conv;
    const qc_epilogue *e = &p->epilogue;
    const int64_t groups = (p->kernel_w + 3) / 4;
    for (int64_t lane = 0; lane < c->lanes; lane += 16)
        for (int64_t i = 0; i < p->out_width; i++) {
            const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h + lane;
            int32x4_t sums[4];
            for (int part = 0; part < 4; part++)
                sums[part] = vld1q_s32(e->bias + c->block + lane + 4 * part);
            for (int64_t ky = 0; ky < p->kernel_h; ky++)
                for (int64_t kx = 0; kx < p->kernel_w; kx += 4, weight += 256) {
                    int8x16_t x[4];
                    for (int64_t j = 0; j < 4; j++) {
                        const int64_t tap = qc_min(kx + j, p->kernel_w - 1);
                        x[j] = load16(r->rows[ky] + (i * p->stride_w + tap * p->dilation_w) * QC_BLOCK + lane);
                    }
                    const four_pixels four = join_pairs(join_pixels(x[0], x[1]), join_pixels(x[2], x[3]));
                    for (int part = 0; part < 4; part++)
                        DOT(sums[part], vreinterpretq_s8_s16(four.part[part]), load16(weight + 64 * part))
                }
            const int64_t lanes = qc_min(16, c->lanes - lane);
            for (int64_t half = 0; half < lanes; half += 8) {
                const channel_constants k = constants_of(e, c->block + lane + half);
                const int32x4_t multiplier[2] = {vld1q_s32(k.multiplier), vld1q_s32(k.multiplier + 4)};
                const int32x4_t right[2] = {vld1q_s32(k.right), vld1q_s32(k.right + 4)};
                int32x4_t pair[2] = {sums[half / 4], sums[half / 4 + 1]};
                int8x16_t y;
                requant_sums(&k, pair, 2, multiplier, right, 2, &y);
                store_eights(&y, 2, 1, r->to.out + i * r->to.stride + lane + half, r->to.stride);
            }
        }
}

static row_function function_for(const qc_conv2d *p)
{
    if (!p->epilogue.right)
        return NULL;
    switch (layout_of(p)) {
    case PIXELS:
        return row_of_pixels;
    case FOURTHS:
        return p->stride_w == 1 ? row_5s1 : row_5s2;
    default:
        if (p->kernel_h == 3 && p->kernel_w == 3 && p->stride_w <= 2)
            return p->stride_w == 1 ? row_3x3s1 : row_3x3s2;
        return row_of_seconds;
    }
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *entries, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    (void)top;
    (void)step;
    compute_row(c, entries, residuals, outs, function_for(&c->d->conv));
}
#else
typedef int qc_empty_translation_unit;
#endif
