/* The layouts of depthwise convolution with sdot: taps with the shifts that they need, and rows of pixels. */
#include "level.h"

#if defined(QC_DOT)
#include "depthwise_dotprod.h"

/* Five taps shifted by `bytes` pixels: the first of the two vectors, and the second one behind that of two shifts. */
#define SHIFT_FIVE(out, bytes)                                                                       \
    {                                                                                                \
        const uint32x4_t over = vshlq_n_u32(high, 8 * bytes);                                        \
        store16(out, vreinterpretq_s8_u32(vshlq_n_u32(low, 8 * bytes)));                             \
        store16((out) + 32, vreinterpretq_s8_u32(vsriq_n_u32(over, low, 32 - 8 * bytes)));           \
    }

/* Taps of a kernel row with all shifts that the stride needs. */
QC_INLINE int8_t *store_fourths(uint32x4_t low, uint32x4_t high, int64_t stride, int8_t *out)
{
    store16(out, vreinterpretq_s8_u32(low));
    store16(out + 32, vreinterpretq_s8_u32(high));
    if (stride == 2) {
        SHIFT_FIVE(out + 16, 2)
        return out + 64;
    }
    SHIFT_FIVE(out + 16, 1)
    SHIFT_FIVE(out + 64, 2)
    SHIFT_FIVE(out + 80, 3)
    return out + 128;
}

/* Taps of a kernel row as they are, and shifted by one where results begin at odd pixels. */
QC_INLINE int8_t *store_seconds(uint32x4_t low, uint32x4_t high, int groups, int odd, int8_t *out)
{
    store16(out, vreinterpretq_s8_u32(low));
    if (groups > 1)
        store16(out + 16, vreinterpretq_s8_u32(high));
    out += groups * 16;
    if (odd)
        store16(out, vreinterpretq_s8_u32(vshlq_n_u32(low, 8)));
    if (odd > 1)
        store16(out + 16, vreinterpretq_s8_u32(vsriq_n_u32(vshlq_n_u32(high, 8), low, 24)));
    return out + odd * 16;
}

/* Writes the taps of each part and kernel row, with each shift that is needed. */
void qc_depthwise_begin(const qc_channels *c)
{
    const qc_conv2d *p = &c->d->conv;
    const int layout = layout_of(p), groups = vectors((int)p->kernel_w, 0);
    const int odd = p->stride_w % 2 ? vectors((int)p->kernel_w, 1) : 0;
    const int8_t *weight = p->weight + c->block * 4 * groups * p->kernel_h;
    int8_t *out = c->weight;
    for (int part = 0; layout != PIXELS && part < 16; part++) {
        const int8_t *taps = weight + part % 4 * 64 + part / 4 * 16;
        for (int64_t ky = 0; ky < p->kernel_h; ky++, taps += groups * 256) {
            const uint32x4_t low = vreinterpretq_u32_s8(load16(taps));
            const uint32x4_t high = groups > 1 ? vreinterpretq_u32_s8(load16(taps + 256)) : vdupq_n_u32(0);
            out = layout == FOURTHS ? store_fourths(low, high, p->stride_w, out)
                                    : store_seconds(low, high, groups, odd, out);
        }
    }
}

QC_INLINE void store_words(uint8_t *out, int16x8_t words)
{
    vst1q_s16((int16_t *)(void *)out, words);
}

QC_INLINE void store_quads(uint8_t *out, two_pixels a, two_pixels b)
{
    const four_pixels four = join_pairs(a, b);
#pragma GCC unroll 4
    for (int part = 0; part < 4; part++)
        store_words(out + 16 * part, four.part[part]);
}

/* A row of sixteen channels of an image; pixels outside are padding. */
typedef struct {
    const uint8_t *pixels, *padding;
    int64_t step, width;
} image_row;

QC_INLINE two_pixels load_border(const image_row *r, int64_t x)
{
    const uint8_t *a = (uint64_t)x < (uint64_t)r->width ? r->pixels + x * r->step : r->padding;
    const uint8_t *b = (uint64_t)(x + 1) < (uint64_t)r->width ? r->pixels + (x + 1) * r->step : r->padding;
    return join_pixels(load16(a), load16(b));
}

QC_INLINE two_pixels load_inside(const uint8_t *at, int64_t step)
{
    return join_pixels(load16(at), load16(at + step));
}

/* Lays out `places` groups of four from pixel x on, one at every second pixel. */
static void lay_out_seconds(const image_row *r, int64_t x, int64_t places, uint8_t *out)
{
    const int64_t step = r->step;
    two_pixels here = load_border(r, x);
    for (; places && x + 2 < 0; places--, x += 2, out += 64) {
        const two_pixels after = load_border(r, x + 2);
        store_quads(out, here, after);
        here = after;
    }
    const uint8_t *at = r->pixels + (x + 2) * step;
    for (int64_t fours = qc_min(places, (r->width - 2 - x) / 2) / 4; fours > 0; fours--) {
        const two_pixels a = load_inside(at, step), b = load_inside(at + 2 * step, step);
        const two_pixels c = load_inside(at + 4 * step, step), d = load_inside(at + 6 * step, step);
        store_quads(out, here, a);
        store_quads(out + 64, a, b);
        store_quads(out + 128, b, c);
        store_quads(out + 192, c, d);
        here = d;
        places -= 4;
        x += 8;
        at += 8 * step;
        out += 256;
    }
    for (; places > 0; places--, x += 2, out += 64) {
        const two_pixels after = load_border(r, x + 2);
        store_quads(out, here, after);
        here = after;
    }
}

QC_INLINE void store_fourth(uint8_t *out, int64_t part_step, two_pixels a, two_pixels b)
{
    const four_pixels four = join_pairs(a, b);
#pragma GCC unroll 4
    for (int part = 0; part < 4; part++)
        store_words(out + part * part_step, four.part[part]);
}

/* Lays out `places` groups of four from pixel x on, one behind the other. */
static void lay_out_fourths(const image_row *r, int64_t x, int64_t places, int64_t part_step, uint8_t *out)
{
    const int64_t step = r->step;
    for (; places && x < 0; places--, x += 4, out += 16)
        store_fourth(out, part_step, load_border(r, x), load_border(r, x + 2));
    const uint8_t *at = r->pixels + x * step;
    for (int64_t pairs = qc_min(places, (r->width - x) / 4) / 2; pairs > 0; pairs--) {
        const four_pixels first = join_pairs(load_inside(at, step), load_inside(at + 2 * step, step));
        at += 4 * step;
        const four_pixels second = join_pairs(load_inside(at, step), load_inside(at + 2 * step, step));
        at += 4 * step;
#pragma GCC unroll 4
        for (int part = 0; part < 4; part++) {
            store_words(out + part * part_step, first.part[part]);
            store_words(out + part * part_step + 16, second.part[part]);
        }
        places -= 2;
        x += 8;
        out += 32;
    }
    for (; places > 0; places--, x += 4, out += 16)
        store_fourth(out, part_step, load_border(r, x), load_border(r, x + 2));
}

void qc_depthwise_lay_out(const qc_channels *c, const uint8_t *const *rows, int64_t step, uint8_t *row)
{
    const qc_conv2d *p = &c->d->conv;
    const int layout = layout_of(p);
    const int64_t step_of_lanes = lanes_step(c), last = (p->out_width - 1) * p->stride_w;
    if (layout == PIXELS) {
        qc_depthwise_lay_out_pixels(c, rows[0], step, row);
        return;
    }
    /* Results come in groups; what those behind the last one read does not matter. */
    const int64_t places = layout == FOURTHS ? last / 4 + 2 : last / 2 + 2 * vectors((int)p->kernel_w, 1) - 1;
    if (!rows[0]) {
        const int64_t bytes = layout == FOURTHS ? step_of_lanes : places * 64;
        for (int64_t channel = 0; channel < c->lanes; channel += 16, row += step_of_lanes)
            memset(row, p->pad_value, (size_t)bytes);
        return;
    }
    uint8_t padding[16];
    store16(padding, vdupq_n_s8((int8_t)p->pad_value));
    image_row r = {rows[0], padding, step, p->width};
    for (int64_t channel = 0; channel < c->lanes; channel += 16, r.pixels += 16, row += step_of_lanes) {
        if (layout == FOURTHS)
            lay_out_fourths(&r, -p->pad_left, places, step_of_lanes / 4, row);
        else
            lay_out_seconds(&r, -p->pad_left, places, row);
    }
}

#else
typedef int qc_empty_translation_unit;
#endif
