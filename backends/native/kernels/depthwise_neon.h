/* What depthwise convolution on NEON does with its sums, eight channels at a time. */
#ifndef QC_DEPTHWISE_NEON_H
#define QC_DEPTHWISE_NEON_H

#include "depthwise.h"
#include "neon.h"

/* The constants of eight channels. */
typedef struct {
    int32x4_t bias[2], multiplier[2], right[2], left[2];
    int16x8_t zero_point;
    int8x16_t low, high;
    int has_left;
} eight_channels;

QC_INLINE eight_channels load_channels(const qc_epilogue *e, int64_t channel)
{
    eight_channels k = {.has_left = e->left != NULL};
    for (int i = 0; i < 2; i++) {
        k.bias[i] = vld1q_s32(e->bias + channel + 4 * i);
        k.multiplier[i] = vld1q_s32(e->multiplier + channel + 4 * i);
        k.right[i] = vld1q_s32(e->right + channel + 4 * i);
        k.left[i] = e->left ? vld1q_s32(e->left + channel + 4 * i) : vdupq_n_s32(0);
    }
    k.zero_point = vdupq_n_s16((int16_t)e->zero_point);
    k.low = vdupq_n_s8((int8_t)e->qmin);
    k.high = vdupq_n_s8((int8_t)e->qmax);
    return k;
}

QC_INLINE int16x8_t requant_channels(const eight_channels *k, int32x4_t a, int32x4_t b)
{
    if (k->has_left) {
        a = vqshlq_s32(a, k->left[0]);
        b = vqshlq_s32(b, k->left[1]);
    }
    return narrow_words(requant_lanes(a, k->multiplier[0], k->right[0]), requant_lanes(b, k->multiplier[1], k->right[1]),
                        k->zero_point);
}

/* Two results of eight channels. */
QC_INLINE int8x16_t requant_pixels(const eight_channels *k, const int32x4_t *sums)
{
    return clamp_bytes(narrow_bytes(requant_channels(k, sums[0], sums[1]), requant_channels(k, sums[2], sums[3])), k->low,
                       k->high);
}

/* Requantizes `pixels` results of eight channels, sums[2 * n] and sums[2 * n + 1], and stores the first `count`. */
QC_INLINE void store_pixels(const eight_channels *k, const int32x4_t *sums, int pixels, int64_t count, uint8_t *out,
                            int64_t stride)
{
    int8x16_t y[4];
#pragma GCC unroll 4
    for (int n = 0; n < pixels; n += 2)
        y[n / 2] = requant_pixels(k, sums + 2 * n);
#pragma GCC unroll 4
    for (int n = 0; n < pixels; n += 2) {
        if (count < pixels && n >= count)
            break;
        vst1_s8((int8_t *)out, vget_low_s8(y[n / 2]));
        if (count < pixels && n + 1 >= count)
            break;
        vst1q_lane_s64((int64_t *)(void *)(out + stride), vreinterpretq_s64_s8(y[n / 2]), 1);
        out += 2 * stride;
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

#endif
