/* Depthwise convolution with sdot, over groups of four pixels.
 *
 * sdot adds four products per 32-bit lane, so the lane of a channel wants four neighbouring pixels of it. Rows are
 * laid out for that once for all kernel rows that read them: at every second pixel the four from there on, as
 * [16 channels][pixel / 2][4 parts][4 channels][4 pixels]. A result at an even pixel multiplies with the taps as
 * they are, one at an odd pixel with the taps shifted by one. Kernels too large or too far apart for that gather
 * their pixels anew. */
#include "level.h"

#if defined(QC_DOT)
#include "depthwise_neon.h"

/* Vectors of taps that a kernel row takes, starting at an even or odd pixel. */
QC_INLINE int vectors(int kernel_w, int odd)
{
    return (kernel_w + odd + 3) / 4;
}

QC_INLINE int vectors_of_row(int kernel_w, int stride)
{
    return vectors(kernel_w, 0) + (stride % 2 ? vectors(kernel_w, 1) : 0);
}

static int takes_quads(const qc_conv2d *p)
{
    return p->dilation_w == 1 && p->epilogue.right && p->kernel_w <= 7 &&
           p->kernel_h * vectors_of_row((int)p->kernel_w, (int)p->stride_w) * 256 <= QC_BLOCK_WEIGHTS;
}

/* Writes the taps of each part and kernel row, as they are and shifted. */
void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    if (!takes_quads(p))
        return;
    const int groups = vectors((int)p->kernel_w, 0), odd = p->stride_w % 2 ? vectors((int)p->kernel_w, 1) : 0;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
    int8_t *out = c->weight;
    for (int part = 0; part < 16; part++) {
        const int8_t *taps = weight + part % 4 * 64 + part / 4 * 16;
        for (int64_t ky = 0; ky < p->kernel_h; ky++, taps += groups * 256) {
            const int8x16_t low = load16(taps), high = groups > 1 ? load16(taps + 256) : vdupq_n_s8(0);
            store16(out, low);
            if (groups > 1)
                store16(out + 16, high);
            out += groups * 16;
            if (odd)
                store16(out, vreinterpretq_s8_u32(vshlq_n_u32(vreinterpretq_u32_s8(low), 8)));
            if (odd > 1) {
                const uint32x4_t shifted = vshlq_n_u32(vreinterpretq_u32_s8(high), 8);
                store16(out + 16, vreinterpretq_s8_u32(vsriq_n_u32(shifted, vreinterpretq_u32_s8(low), 24)));
            }
            out += odd * 16;
        }
    }
}

/* Two pixels of 16 channels, channel by channel. */
typedef struct {
    int16x8_t low, high;
} two_pixels;

QC_INLINE two_pixels join_pixels(int8x16_t a, int8x16_t b)
{
    return (two_pixels){vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))};
}

QC_INLINE void store_quads(uint8_t *row, two_pixels a, two_pixels b)
{
    vst1q_s16((int16_t *)(void *)row, vzip1q_s16(a.low, b.low));
    vst1q_s16((int16_t *)(void *)(row + 16), vzip2q_s16(a.low, b.low));
    vst1q_s16((int16_t *)(void *)(row + 32), vzip1q_s16(a.high, b.high));
    vst1q_s16((int16_t *)(void *)(row + 48), vzip2q_s16(a.high, b.high));
}

/* The pixels x and x + 1 of an image row, of which either may be padding. */
QC_INLINE two_pixels load_pixels(const qc_conv2d *p, const uint8_t *pixels, int64_t step, int64_t x, int8x16_t padding)
{
    const int8x16_t a = (uint64_t)x < (uint64_t)p->width ? load16(pixels + x * step) : padding;
    const int8x16_t b = (uint64_t)(x + 1) < (uint64_t)p->width ? load16(pixels + (x + 1) * step) : padding;
    return join_pixels(a, b);
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *row)
{
    const qc_conv2d *p = &c->d->conv;
    const uint8_t *pixels = rows[0];
    if (!takes_quads(p)) {
        qc_depthwise_lay_out_pixels(c, pixels, step, row);
        return;
    }
    const int64_t step_of_lanes = c->d->row_bytes / 256 * 64;
    /* Results come in groups; what those behind the last one read does not matter. */
    const int64_t places = (p->out_width - 1) * p->stride_w / 2 + 2 * vectors((int)p->kernel_w, 1) - 1;
    const int8x16_t padding = vdupq_n_s8((int8_t)p->pad_value);
    if (!pixels) {
        for (int64_t channel = 0; channel < c->lanes; channel += 16, row += step_of_lanes)
            memset(row, p->pad_value, (size_t)(places * 64));
        return;
    }
    for (int64_t channel = 0; channel < c->lanes; channel += 16, pixels += 16, row += step_of_lanes) {
        int64_t q = 0, x = -p->pad_left;
        uint8_t *out = row;
        two_pixels here = load_pixels(p, pixels, step, x, padding);
        for (; q < places && x + 2 < 0; q++, x += 2, out += 64) {
            const two_pixels after = load_pixels(p, pixels, step, x + 2, padding);
            store_quads(out, here, after);
            here = after;
        }
        /* where x + 2 and x + 3 lie inside, two places at a time */
        int64_t inside = qc_min(places - q, (p->width - 2 - x) / 2);
        const uint8_t *at = pixels + (x + 2) * step;
        for (; inside >= 2; inside -= 2, q += 2, x += 4, at += 4 * step, out += 128) {
            const two_pixels after = join_pixels(load16(at), load16(at + step));
            const two_pixels last = join_pixels(load16(at + 2 * step), load16(at + 3 * step));
            store_quads(out, here, after);
            store_quads(out + 64, after, last);
            here = last;
        }
        for (; q < places; q++, x += 2, out += 64) {
            const two_pixels after = load_pixels(p, pixels, step, x + 2, padding);
            store_quads(out, here, after);
            here = after;
        }
    }
}

/* Adds a kernel row to the sums of `pixels` results of eight channels; `kept` are its taps, part by part. */
QC_INLINE void add_row(int32x4_t *sums, const uint8_t *at, const int8x16_t *kept, int part_step, int kernel_w, int stride,
                       int pixels)
{
#pragma GCC unroll 2
    for (int part = 0; part < 2; part++)
#pragma GCC unroll 8
        for (int n = 0; n < pixels; n++) {
            const int x = n * stride, odd = x % 2, first = odd ? vectors(kernel_w, 0) : 0;
#pragma GCC unroll 2
            for (int i = 0; i < vectors(kernel_w, odd); i++)
                sums[2 * n + part] = vdotq_s32(sums[2 * n + part], load16(at + part * 16 + (x / 2 + 2 * i) * 64),
                                               kept[part * part_step + first + i]);
        }
}

/* Eight channels of a row of results. */
typedef struct {
    const qc_channels *c;
    const uint8_t *const *rows;
    int64_t lane, at;        /* the first channel in its block, and where its two parts begin in laid-out rows */
    const int8_t *weight;
    uint8_t *out;
    int64_t stride;          /* of `out`, from pixel to pixel */
} eight_of_row;

/* With taps in registers. */
QC_INLINE void eight_row(const eight_of_row *r, int kernel_h, int kernel_w, int stride, int pixels)
{
    const qc_channels *c = r->c;
    const uint8_t *const *rows = r->rows;
    const int8_t *weight = r->weight;
    const eight_channels k = load_channels(&c->d->conv.epilogue, c->block + r->lane);
    int64_t at = r->at;
    uint8_t *out = r->out;
    const int count = vectors_of_row(kernel_w, stride);
    int8x16_t kept[12];
#pragma GCC unroll 12
    for (int i = 0; i < 2 * kernel_h * count; i++)
        kept[i] = load16(weight + 16 * i);
    const int64_t width = c->d->conv.out_width, step = r->stride;
    const uint8_t *row[3];
    for (int ky = 0; ky < kernel_h; ky++)
        row[ky] = rows[ky];
    for (int64_t x = 0; x < width; x += pixels, at += pixels * stride * 32, out += pixels * step) {
        int32x4_t sums[8];
#pragma GCC unroll 8
        for (int n = 0; n < 2 * pixels; n++)
            sums[n] = k.bias[n % 2];
#pragma GCC unroll 3
        for (int ky = 0; ky < kernel_h; ky++)
            add_row(sums, row[ky] + at, kept + ky * count, kernel_h * count, kernel_w, stride, pixels);
        store_pixels(&k, sums, pixels, width - x, out, step);
    }
}

/* The same with taps from memory, for eight results at a time. */
QC_INLINE void eight_row_large(const eight_of_row *r, int kernel_h, int kernel_w, int stride, int pixels)
{
    const qc_channels *c = r->c;
    const uint8_t *const *rows = r->rows;
    const int8_t *weight = r->weight;
    const eight_channels k = load_channels(&c->d->conv.epilogue, c->block + r->lane);
    int64_t at = r->at;
    uint8_t *out = r->out;
    const int count = vectors_of_row(kernel_w, stride);
    const int64_t width = c->d->conv.out_width;
    for (int64_t x = 0; x < width; x += pixels, at += pixels * stride * 32, out += pixels * r->stride) {
        int32x4_t sums[16];
#pragma GCC unroll 16
        for (int n = 0; n < 2 * pixels; n++)
            sums[n] = k.bias[n % 2];
        for (int ky = 0; ky < kernel_h; ky++) {
            int8x16_t kept[8];
#pragma GCC unroll 4
            for (int i = 0; i < count; i++) {
                kept[i] = load16(weight + 16 * (ky * count + i));
                kept[count + i] = load16(weight + 16 * ((kernel_h + ky) * count + i));
            }
            add_row(sums, rows[ky] + at, kept, count, kernel_w, stride, pixels);
        }
        store_pixels(&k, sums, pixels, width - x, out, r->stride);
    }
}

/* The same for any size. */
static void eight_row_any(const eight_of_row *r)
{
    const qc_conv2d *p = &r->c->d->conv;
    const uint8_t *const *rows = r->rows;
    const int8_t *weight = r->weight;
    const eight_channels k = load_channels(&p->epilogue, r->c->block + r->lane);
    const int64_t at = r->at;
    uint8_t *out = r->out;
    const int kernel_w = (int)p->kernel_w, count = vectors_of_row(kernel_w, (int)p->stride_w);
    for (int64_t i = 0; i < p->out_width; i += 2, out += 2 * r->stride) {
        int32x4_t sums[4] = {k.bias[0], k.bias[1], k.bias[0], k.bias[1]};
        for (int n = 0; n < 2; n++) {
            const int64_t x = (i + n) * p->stride_w;
            const int odd = (int)(x % 2), first = odd ? vectors(kernel_w, 0) : 0;
            for (int64_t ky = 0; ky < p->kernel_h; ky++)
                for (int v = 0; v < vectors(kernel_w, odd); v++)
                    for (int part = 0; part < 2; part++)
                        sums[2 * n + part] =
                            vdotq_s32(sums[2 * n + part], load16(rows[ky] + at + part * 16 + (x / 2 + 2 * v) * 64),
                                      load16(weight + 16 * ((part * p->kernel_h + ky) * count + first + v)));
        }
        store_pixels(&k, sums, 2, p->out_width - i, out, r->stride);
    }
}

typedef void (*eight_function)(const eight_of_row *r);

#define ROW(FORM, H, W, S, PIXELS)                                                             \
    __attribute__((noinline)) static void row_##H##x##W##s##S(const eight_of_row *r)           \
    {                                                                                          \
        FORM(r, H, W, S, PIXELS);                                                              \
    }

ROW(eight_row, 3, 3, 1, 4)
ROW(eight_row, 3, 3, 2, 4)
ROW(eight_row_large, 5, 5, 1, 8)
ROW(eight_row_large, 5, 5, 2, 4)

static eight_function function_for(const qc_conv2d *p)
{
    if (p->kernel_h == 3 && p->kernel_w == 3 && p->stride_w <= 2)
        return p->stride_w == 1 ? row_3x3s1 : row_3x3s2;
    if (p->kernel_h == 5 && p->kernel_w == 5 && p->stride_w <= 2)
        return p->stride_w == 1 ? row_5x5s1 : row_5x5s2;
    return eight_row_any;
}

/* Four taps of a kernel row at a time over pixels of QC_BLOCK bytes. */
static void row_of_pixels(const qc_channels *c, const uint8_t *const *rows, row_target to)
{
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
                    uint8_t quads[64];
                    for (int64_t j = 0; j < 4; j++) {
                        const int64_t tap = qc_min(kx + j, p->kernel_w - 1);
                        x[j] = load16(rows[ky] + (i * p->stride_w + tap * p->dilation_w) * QC_BLOCK + lane);
                    }
                    store_quads(quads, join_pixels(x[0], x[1]), join_pixels(x[2], x[3]));
                    for (int part = 0; part < 4; part++)
                        sums[part] = vdotq_s32(sums[part], load16(quads + 16 * part), load16(weight + 64 * part));
                }
            const int64_t lanes = qc_min(16, c->lanes - lane);
            for (int64_t half = 0; half < lanes; half += 8) {
                const eight_channels k = load_channels(e, c->block + lane + half);
                const int32x4_t pair[4] = {sums[half / 4], sums[half / 4 + 1], sums[0], sums[1]};
                store_pixels(&k, pair, 2, 1, to.out + i * to.stride + lane + half, to.stride);
            }
        }
}

void qc_depthwise_row(const qc_channels *c, const uint8_t *const *entries, int64_t top, int64_t step,
                      const uint8_t *const *residuals, uint8_t *const *outs)
{
    const qc_conv2d *p = &c->d->conv;
    const uint8_t *rows[p->kernel_h];
    (void)top;
    (void)step;
    for (int64_t ky = 0; ky < p->kernel_h; ky++)
        rows[ky] = entries[ky * QC_MOST_SETS];
    const row_target to = target_of(c, residuals[0], outs[0]);
    if (!p->epilogue.right) {
        qc_depthwise_row_any(c, entries, residuals, outs);
        return;
    }
    if (takes_quads(p)) {
        const eight_function function = function_for(p);
        const int64_t places = c->d->row_bytes / 256;
        const int64_t taps = 16 * p->kernel_h * vectors_of_row((int)p->kernel_w, (int)p->stride_w);
        for (int64_t lane = 0; lane < c->lanes; lane += 8) {
            const eight_of_row r = {c, rows, lane, lane / 16 * places * 64 + lane % 16 * 4, c->weight + lane / 4 * taps,
                                    to.out + lane, to.stride};
            function(&r);
        }
    } else {
        row_of_pixels(c, rows, to);
    }
    if (to.apart)
        finish_pixels(c, residuals[0], outs[0]);
}
#else
typedef int qc_empty_translation_unit;
#endif
