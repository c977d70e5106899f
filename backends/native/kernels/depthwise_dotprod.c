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

/* 3x3: four results of eight channels at a time, with taps in registers. */
QC_INLINE void row_of_three(const block_row *r, int stride)
{
    const qc_channels *c = r->c;
    const int64_t step_of_lanes = lanes_step(c), step = r->to.stride;
    const int count = vectors_of_row(3, stride);
    const int8_t *weight = c->weight;
    for (int64_t lane = 0; lane < c->lanes; lane += 8, weight += 6 * count * 16) {
        const channel_constants k = constants_of(&c->d->conv.epilogue, c->block + lane);
        const int64_t at = lane / 16 * step_of_lanes + lane % 16 * 4;
        const uint8_t *row[3] = {r->rows[0] + at, r->rows[1] + at, r->rows[2] + at};
        uint8_t *out = r->to.out + lane;
        int8x16_t kept[12];
#pragma GCC unroll 6
        for (int i = 0; i < 6 * count; i += 2)
            LOAD_PAIR(kept[i], kept[i + 1], weight + 16 * i)
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
                    LOAD_PAIR_BEFORE(low, high, row[ky], 64)
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
    }
}

__attribute__((noinline)) static void row_3x3s1(const block_row *r) { row_of_three(r, 1); }
__attribute__((noinline)) static void row_3x3s2(const block_row *r) { row_of_three(r, 2); }

/* Vectors i - 1 and i of what the next kernel row needs, or i alone. */
#define NEXT_PAIR(i) LOAD_PAIR(x[(i) - 1], x[i], next + 16 * ((i) - 1))
#define NEXT(i) x[i] = load16(next + 16 * (i));

/* Five taps a row: `pixels` results of four channels, of which `left` are stored. Each row begins to load what the
 * next one needs, and so does the last. */
QC_INLINE uint8_t *results_of_five(const block_row *r, const channel_constants *k, int64_t at, const int8_t *weight,
                                   int stride, int pixels, int64_t left, uint8_t *out)
{
    const int shifts = stride == 1 ? 4 : 2, groups = (pixels - 1) * stride / 4 + 2;
    const uint8_t *const *rows = r->rows;
    const uint8_t *next = *rows++ + at;
    int32x4_t sums[16];
    int8x16_t x[10], low[2], high[2];
#pragma GCC unroll 8
    for (int n = 0; n < pixels; n += 2)
        LOAD_PAIR(sums[n], sums[n + 1], k->bias)
    LOAD_PAIR_BEFORE(low[0], high[0], weight, 32)
#pragma GCC unroll 5
    for (int i = 1; i < groups; i += 2)
        NEXT_PAIR(i)
    if (groups % 2)
        NEXT(groups - 1)
    for (int64_t ky = r->c->d->conv.kernel_h; ky > 0; ky--) {
        int done = 0;
        next = *rows++ + at;
#pragma GCC unroll 4
        for (int s = 0; s < shifts; s++) {
            LOAD_PAIR_BEFORE(low[(s + 1) % 2], high[(s + 1) % 2], weight, 32)
#pragma GCC unroll 16
            for (int n = s; n < pixels; n += shifts) {
                const int i = n * stride / 4;
                DOT(sums[n], x[i], low[s % 2])
                DOT(sums[n], x[i + 1], high[s % 2])
                if (s == shifts - 1 && i % 2) {
                    NEXT_PAIR(i)
                    done = i + 1;
                }
            }
        }
#pragma GCC unroll 5
        for (int i = done + 1; i < groups; i += 2)
            NEXT_PAIR(i)
        if (groups % 2)
            NEXT(groups - 1)
    }
    int8x16_t y[4];
    const int32x4_t multiplier = vld1q_s32(k->multiplier), right = vld1q_s32(k->right);
    requant_sums(k, sums, pixels, &multiplier, &right, 1, y);
#pragma GCC unroll 4
    for (int n = 0; n < pixels; n += 4) {
        if (left > n)
            STORE_PART(out, y[n / 4], s, 0, r->to.stride)
        if (left > n + 1)
            STORE_PART(out, y[n / 4], s, 1, r->to.stride)
        if (n + 2 < pixels && left > n + 2)
            STORE_PART(out, y[n / 4], s, 2, r->to.stride)
        if (n + 2 < pixels && left > n + 3)
            STORE_PART(out, y[n / 4], s, 3, r->to.stride)
    }
    return out;
}

QC_INLINE void row_of_five(const block_row *r, int stride)
{
    const qc_channels *c = r->c;
    const int64_t step_of_lanes = lanes_step(c), width = c->d->conv.out_width;
    const int64_t taps = c->d->conv.kernel_h * (stride == 1 ? 4 : 2) * 32;
    const int8_t *weight = c->weight;
    channel_constants k = constants_of(&c->d->conv.epilogue, c->block);
    for (int64_t lane = 0; lane < c->lanes; lane += 4, weight += taps) {
        int32_t bias[8];
        const int32x4_t own = vld1q_s32(c->d->conv.epilogue.bias + c->block + lane);
        vst1q_s32(bias, own);
        vst1q_s32(bias + 4, own);
        k.bias = bias;
        int64_t at = lane / 16 * step_of_lanes + lane % 16 / 4 * (step_of_lanes / 4), left = width;
        uint8_t *out = r->to.out + lane;
        for (; left >= 16; left -= 16, at += 64 * stride)
            out = results_of_five(r, &k, at, weight, stride, 16, 16, out);
        if (left > 14)
            results_of_five(r, &k, at, weight, stride, 16, left, out);
        else if (left > 12)
            results_of_five(r, &k, at, weight, stride, 14, left, out);
        else if (left > 8)
            results_of_five(r, &k, at, weight, stride, 12, left, out);
        else if (left > 0)
            results_of_five(r, &k, at, weight, stride, 8, left, out);
        k.multiplier += 4;
        k.right += 4;
        k.left = k.left ? k.left + 4 : NULL;
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
        const int64_t at = lane / 16 * step_of_lanes + lane % 16 * 4;
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
