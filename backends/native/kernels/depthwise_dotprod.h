/* What depthwise convolution with sdot knows of its layouts of rows. */
#ifndef QC_DEPTHWISE_DOTPROD_H
#define QC_DEPTHWISE_DOTPROD_H

#include "depthwise_neon.h"

/* Rows are laid out once for all kernel rows that read them, sixteen channels at a time. sdot adds four products per
 * 32-bit lane, so the lane of a channel wants four neighbouring pixels of it: */
enum {
    PIXELS,  /* as the portable kernel has them: kernels too large or too far apart for the others gather them anew */
    SECONDS, /* the four from every second pixel on, as [pixel / 2][4 parts][4 channels][4 pixels]: a result at an even
                pixel multiplies with the taps as they are, one at an odd pixel with the taps shifted by one */
    FOURTHS, /* the four from every fourth pixel on, as [4 parts][pixel / 4][4 channels][4 pixels], with taps shifted by
                0 to 3: five taps lie in two groups with any shift, so that this takes no more products */
};

/* Vectors of taps that a kernel row takes, starting at an even or odd pixel. */
QC_INLINE int vectors(int kernel_w, int odd)
{
    return (kernel_w + odd + 3) / 4;
}

QC_INLINE int vectors_of_row(int kernel_w, int stride)
{
    return vectors(kernel_w, 0) + (stride % 2 ? vectors(kernel_w, 1) : 0);
}

QC_INLINE int layout_of(const qc_conv2d *p)
{
    if (p->dilation_w != 1 || !p->epilogue.right || p->kernel_w > 7)
        return PIXELS;
    if (p->kernel_w == 5 && p->kernel_h == 5 && p->stride_w <= 2)
        return FOURTHS;
    const int64_t bytes = p->kernel_h * vectors_of_row((int)p->kernel_w, (int)p->stride_w) * 256;
    return bytes <= QC_BLOCK_WEIGHTS ? SECONDS : PIXELS;
}

/* Bytes of sixteen channels of a laid-out row. */
QC_INLINE int64_t lanes_step(const qc_channels *c)
{
    return c->d->row_bytes / 256 * 64;
}

/* Two pixels of 16 channels, channel by channel. */
typedef struct {
    int16x8_t low, high;
} two_pixels;

QC_INLINE two_pixels join_pixels(int8x16_t a, int8x16_t b)
{
    return (two_pixels){vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))};
}

/* Four pixels of 16 channels, part by part. */
typedef struct {
    int16x8_t part[4];
} four_pixels;

QC_INLINE four_pixels join_pairs(two_pixels a, two_pixels b)
{
    return (four_pixels){{vzip1q_s16(a.low, b.low), vzip2q_s16(a.low, b.low), vzip1q_s16(a.high, b.high),
                          vzip2q_s16(a.high, b.high)}};
}

#endif
