/* Depthwise convolution on Helium, sixteen channels at a time: the products of two taps are added in 16 bits, which
 * weights of -127 .. 127 cannot exceed. */
#include "level.h"

#if defined(QC_HELIUM)
#include "depthwise_small.h"
#include "helium.h"

/* Adds 16-bit sums of the channels of even and of odd place; sums stand in the order of vld4. */
#define ADD_WORDS(even, odd)                    \
    s0 = vaddq_s32(s0, vmovlbq_s16(even));      \
    s1 = vaddq_s32(s1, vmovlbq_s16(odd));       \
    s2 = vaddq_s32(s2, vmovltq_s16(even));      \
    s3 = vaddq_s32(s3, vmovltq_s16(odd));

/* Sixteen channels from `lane` on. */
QC_INLINE int32x4x4_t add_products(int32x4x4_t sums, const int8_t *const *tap, int32_t count, int32_t lane,
                                   const int8_t *w, int32_t step)
{
    int32x4_t s0 = sums.val[0], s1 = sums.val[1], s2 = sums.val[2], s3 = sums.val[3];
    for (int32_t pairs = count / 2; pairs > 0; pairs--, tap += 2, w += 2 * step) {
        const int8x16_t x0 = vld1q_s8(tap[0] + lane), w0 = vld1q_s8(w);
        int16x8_t even = vmullbq_int_s8(x0, w0), odd = vmulltq_int_s8(x0, w0);
        const int8x16_t x1 = vld1q_s8(tap[1] + lane), w1 = vld1q_s8(w + step);
        even = vaddq_s16(even, vmullbq_int_s8(x1, w1));
        odd = vaddq_s16(odd, vmulltq_int_s8(x1, w1));
        ADD_WORDS(even, odd)
    }
    if (count % 2) {
        const int8x16_t x0 = vld1q_s8(tap[0] + lane), w0 = vld1q_s8(w);
        const int16x8_t even = vmullbq_int_s8(x0, w0), odd = vmulltq_int_s8(x0, w0);
        ADD_WORDS(even, odd)
    }
    return (int32x4x4_t){{s0, s1, s2, s3}};
}

static void add_taps(const pixel_job *job, const tap_table *table, int32_t count)
{
    const qc_channels *c = job->channels;
    const qc_epilogue *e = &c->d->conv.epilogue;
    const int32_t lanes = (int32_t)c->lanes;
    for (int32_t lane = 0; lane < lanes; lane += 16) {
        const int64_t at = c->block + lane;
        int32x4x4_t v = vld4q_s32(job->is_first ? e->bias + at : job->sums + lane);
        v = add_products(v, table->tap, count, lane, job->weight + lane, job->weight_step);
        if (!job->is_last) {
            vst4q_s32(job->sums + lane, v);
            continue;
        }
        if (!e->right) {
            int32_t sums[16];
            vst4q_s32(sums, v);
            for (int32_t n = 0; n < qc_min(16, lanes - lane); n++)
                job->out[lane + n] = (uint8_t)qc_finish(
                    e, sums[n], at + n, job->residual ? (const qc_code *)job->residual + lane + n : NULL);
            continue;
        }
        if (e->left) {
            const int32x4x4_t left = vld4q_s32(e->left + at);
            for (int i = 0; i < 4; i++)
                v.val[i] = vqshlq_s32(v.val[i], left.val[i]);
        }
        int8x16_t y = requant_bytes(v, vld4q_s32(e->multiplier + at), vld4q_s32(e->right + at), e);
        if (e->table)
            y = look_up(e->table, y);
        if (job->residual) {
            const byte_sum sum = byte_sum_of(e->add);
            y = sum_bytes(&sum, y, vld1q_s8((const int8_t *)job->residual + lane));
        }
        store_part(job->out + lane, y, lanes - lane);
    }
}
#else
typedef int qc_empty_translation_unit;
#endif
