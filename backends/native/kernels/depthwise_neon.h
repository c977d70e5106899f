/* What depthwise convolution on NEON does with its sums, eight channels at a time. */
#ifndef QC_DEPTHWISE_NEON_H
#define QC_DEPTHWISE_NEON_H

#include "depthwise.h"
#include "neon.h"

/* The constants of the epilogue from a channel on. */
typedef struct {
    const int32_t *bias, *multiplier, *right, *left;
    int form;
    int16x8_t zero_point;
    int8x16_t low, high;
} channel_constants;

QC_INLINE channel_constants constants_of(const qc_epilogue *e, int64_t channel)
{
    channel_constants k = {.bias = e->bias + channel, .multiplier = e->multiplier + channel};
    k.right = e->right + channel;
    k.left = e->left ? e->left + channel : NULL;
    k.form = form_of(e);
    if (k.left && k.form == FROM_ZERO)
        k.form = SATURATED;
    k.zero_point = vdupq_n_s16((int16_t)e->zero_point);
    k.low = vdupq_n_s8((int8_t)e->qmin);
    k.high = vdupq_n_s8((int8_t)e->qmax);
    return k;
}

/* Moves on to the channels behind so many. */
QC_INLINE void skip_channels(channel_constants *k, int64_t count)
{
    k->bias += count;
    k->multiplier += count;
    k->right += count;
    k->left = k->left ? k->left + count : NULL;
}

/* SR, the same step of all sums before the next: requant_lanes in neon.h. */
QC_INLINE void scale_sums(int32x4_t *sums, int count, const int32x4_t *multiplier, const int32x4_t *right, int period)
{
#pragma GCC unroll 16
    for (int i = 0; i < count; i++)
        sums[i] = vqdmulhq_s32(sums[i], multiplier[i % period]);
#pragma GCC unroll 16
    for (int i = 0; i < count; i++)
        sums[i] = vrshlq_s32(sums[i], right[i % period]);
}

/* Requantizes an even number of sums, which have `period` vectors of channels, to bytes; where half a vector of those
 * is too much, it repeats the other half. */
QC_INLINE void requant_sums(const channel_constants *k, int32x4_t *sums, int count, const int32x4_t *multiplier,
                            const int32x4_t *right, int period, int8x16_t *y)
{
    int16x8_t words[8];
    if (k->form == FROM_ZERO) {
        scale_sums(sums, count, multiplier, right, period);
#pragma GCC unroll 8
        for (int i = 0; i < count; i += 2)
            words[i / 2] = join_words(sums[i], sums[i + 1]);
#pragma GCC unroll 4
        for (int i = 0; i < count; i += 4)
            y[i / 4] = narrow_from_zero(words[i / 2], words[i / 2 + (i + 2 < count)]);
        return;
    }
    if (k->left) {
#pragma GCC unroll 16
        for (int i = 0; i < count; i++)
            sums[i] = vqshlq_s32(sums[i], vld1q_s32(k->left + 4 * (i % period)));
    }
    scale_sums(sums, count, multiplier, right, period);
#pragma GCC unroll 8
    for (int i = 0; i < count; i += 2)
        words[i / 2] = narrow_words(sums[i], sums[i + 1], k->zero_point);
#pragma GCC unroll 4
    for (int i = 0; i < count; i += 4)
        y[i / 4] = clamp_bytes(narrow_bytes(words[i / 2], words[i / 2 + (i + 2 < count)]), k->low, k->high);
}

/* Stores `pixels` results of eight channels, of which the first `left` are wanted. */
QC_INLINE void store_eights(const int8x16_t *y, int pixels, int64_t left, uint8_t *out, int64_t stride)
{
#pragma GCC unroll 2
    for (int n = 0; n < pixels; n += 2) {
        if (left < pixels && n >= left)
            break;
        STORE_PART(out, y[n / 2], d, 0, stride)
        if (left < pixels && n + 1 >= left)
            break;
        STORE_PART(out, y[n / 2], d, 1, stride)
    }
}

/* Where a row of results goes first: to its place, or to c->row where something follows, `QC_BLOCK` bytes a pixel. */
typedef struct {
    uint8_t *out;
    int64_t stride;
    int apart;
} row_target;

QC_INLINE row_target target_of(const qc_channels *c, const uint8_t *residual, uint8_t *out)
{
    const qc_conv2d *p = &c->d->conv;
    if (p->epilogue.table || residual || c->lanes % 8)
        return (row_target){c->row, QC_BLOCK, 1};
    return (row_target){out, p->channels, 0};
}

/* A row of results of a block; `rows` has one entry more than the kernel has rows, the last one again. */
typedef struct {
    const qc_channels *c;
    const uint8_t *const *rows;
    row_target to;
} block_row;

typedef void (*row_function)(const block_row *r);

/* Table, residual and copy of a row that lies apart. */
static inline void finish_pixels(const qc_channels *c, const uint8_t *residual, uint8_t *out)
{
    const qc_conv2d *p = &c->d->conv;
    const qc_epilogue *e = &p->epilogue;
    const byte_sum sum = byte_sum_of(e->add);
    byte_table table;
    if (e->table)
        table = byte_table_of(e->table);
    for (int64_t i = 0; i < p->out_width; i++, out += p->channels) {
        for (int64_t n = 0; n < c->lanes; n += 16) {
            int8x16_t y = load16(c->row + i * QC_BLOCK + n);
            if (e->table)
                y = look_up(&table, y);
            if (residual)
                y = sum_bytes(&sum, y, load16(residual + i * p->channels + n));
            store_part(out + n, y, c->lanes - n);
        }
    }
}

/* Computes a row of results and what follows: `function` requantizes it, NULL where it takes 64-bit products. */
QC_INLINE void compute_row(const qc_channels *c, const uint8_t *const *entries, const uint8_t *const *residuals,
                           uint8_t *const *outs, row_function function)
{
    const int64_t kernel_h = c->d->conv.kernel_h;
    const uint8_t *rows[kernel_h + 1];
    if (!function) {
        qc_depthwise_row_any(c, entries, residuals, outs);
        return;
    }
    for (int64_t ky = 0; ky <= kernel_h; ky++)
        rows[ky] = entries[qc_min(ky, kernel_h - 1) * QC_MOST_SETS];
    const block_row r = {c, rows, target_of(c, residuals[0], outs[0])};
    function(&r);
    if (r.to.apart)
        finish_pixels(c, residuals[0], outs[0]);
}

#endif
