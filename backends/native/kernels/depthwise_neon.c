/* Depthwise convolution on NEON without sdot: smull and smlal add two taps in 16 bits, which weights of
 * -127 .. 127 cannot exceed, and saddw adds those to the sums. */
#include "level.h"

#if defined(QC_NEON) && !defined(QC_DOT)
#include "depthwise_neon.h"

static int takes_taps(const qc_conv2d *p)
{
    return p->epilogue.right && p->kernel_h * p->kernel_w * QC_BLOCK <= QC_BLOCK_WEIGHTS;
}

/* Writes the taps one after another, QC_BLOCK channels each. */
void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_taps(p))
        return;
    const int64_t groups = (p->kernel_w + 3) / 4;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
        for (int64_t kx = 0; kx < p->kernel_w; kx += 4, weight += 256)
            for (int64_t lane = 0; lane < 64; lane += 16) {
                int8_t parts[64];
                for (int part = 0; part < 4; part++)
                    store16(parts + 16 * part, load16(weight + 64 * part + lane));
                const int8x16x4_t taps = vld4q_s8(parts);
                for (int64_t j = 0; j < qc_min(4, p->kernel_w - kx); j++)
                    store16(c->weight + (ky * p->kernel_w + kx + j) * QC_BLOCK + lane, taps.val[j]);
            }
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *pixels, int64_t step, uint8_t *row)
{
    qc_depthwise_lay_out_pixels(c, pixels[0], step, row);
}

QC_INLINE void add_words(int32x4_t *sums, int16x8_t words)
{
    sums[0] = vaddw_s16(sums[0], vget_low_s16(words));
    sums[1] = vaddw_high_s16(sums[1], words);
}

/* Four results of eight channels at a time; sizes are constants at each call. */
QC_INLINE void plain_row(const block_row *r, int kernel_h, int kernel_w, int stride)
{
    const qc_channels *c = r->c;
    for (int64_t lane = 0; lane < c->lanes; lane += 8) {
        const channel_constants k = constants_of(&c->d->conv.epilogue, c->block + lane);
        const int32x4_t multiplier[2] = {vld1q_s32(k.multiplier), vld1q_s32(k.multiplier + 4)};
        const int32x4_t right[2] = {vld1q_s32(k.right), vld1q_s32(k.right + 4)};
        uint8_t *out = r->to.out + lane;
        for (int64_t x = 0; x < c->d->conv.out_width; x += 4, out += 4 * r->to.stride) {
            int32x4_t sums[8];
            int16x8_t words[4];
#pragma GCC unroll 4
            for (int n = 0; n < 8; n += 2)
                LOAD_PAIR(sums[n], sums[n + 1], k.bias)
#pragma GCC unroll 25
            for (int tap = 0; tap < kernel_h * kernel_w; tap++) {
                const int8x8_t w = vld1_s8(c->weight + tap * QC_BLOCK + lane);
                const int8_t *at =
                    (const int8_t *)r->rows[tap / kernel_w] + (x * stride + tap % kernel_w) * QC_BLOCK + lane;
#pragma GCC unroll 4
                for (int n = 0; n < 4; n++) {
                    const int8x8_t v = vld1_s8(at + n * stride * QC_BLOCK);
                    words[n] = tap % 2 ? vmlal_s8(words[n], v, w) : vmull_s8(v, w);
                    if (tap % 2 || tap == kernel_h * kernel_w - 1)
                        add_words(sums + 2 * n, words[n]);
                }
            }
            int8x16_t y[2];
            requant_sums(&k, sums, 8, multiplier, right, 2, y);
            store_eights(y, 4, c->d->conv.out_width - x, out, r->to.stride);
        }
    }
}

/* The same for any size, two results at a time. */
static void any_row(const block_row *r)
{
    const qc_channels *c = r->c;
    const qc_conv2d *p = &c->d->conv;
    for (int64_t lane = 0; lane < c->lanes; lane += 8) {
        const channel_constants k = constants_of(&p->epilogue, c->block + lane);
        const int32x4_t multiplier[2] = {vld1q_s32(k.multiplier), vld1q_s32(k.multiplier + 4)};
        const int32x4_t right[2] = {vld1q_s32(k.right), vld1q_s32(k.right + 4)};
        uint8_t *out = r->to.out + lane;
        for (int64_t x = 0; x < p->out_width; x += 2, out += 2 * r->to.stride) {
            int32x4_t sums[4];
            LOAD_PAIR(sums[0], sums[1], k.bias)
            LOAD_PAIR(sums[2], sums[3], k.bias)
            const int64_t next = x + 1 < p->out_width ? p->stride_w * QC_BLOCK : 0;
            const int8_t *weight = c->weight + lane;
            for (int64_t ky = 0; ky < p->kernel_h; ky++) {
                const int8_t *at = (const int8_t *)r->rows[ky] + x * p->stride_w * QC_BLOCK + lane;
                for (int64_t kx = 0; kx < p->kernel_w; kx++, weight += QC_BLOCK, at += p->dilation_w * QC_BLOCK) {
                    const int8x8_t w = vld1_s8(weight);
                    add_words(sums, vmull_s8(vld1_s8(at), w));
                    add_words(sums + 2, vmull_s8(vld1_s8(at + next), w));
                }
            }
            int8x16_t y;
            requant_sums(&k, sums, 4, multiplier, right, 2, &y);
            store_eights(&y, 2, p->out_width - x, out, r->to.stride);
        }
    }
}

#define ROW(H, W, S) \
    __attribute__((noinline)) static void row_##H##x##W##s##S(const block_row *r) { plain_row(r, H, W, S); }

ROW(3, 3, 1)
ROW(3, 3, 2)
ROW(5, 5, 1)
ROW(5, 5, 2)

static row_function function_for(const qc_conv2d *p)
{
    const int is_plain = p->dilation_w == 1 && p->stride_w <= 2 && p->kernel_h == p->kernel_w;
    if (!takes_taps(p))
        return NULL;
    if (is_plain && p->kernel_w == 3)
        return p->stride_w == 1 ? row_3x3s1 : row_3x3s2;
    if (is_plain && p->kernel_w == 5)
        return p->stride_w == 1 ? row_5x5s1 : row_5x5s2;
    return any_row;
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
