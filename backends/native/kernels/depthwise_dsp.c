/* Depthwise convolution on cores with DSP instructions, four channels at a time. Two taps of a channel make a pair:
 * pkhbt and pkhtb put what sxtb16 makes of both taps side by side, and smlad adds their products. */
#include "level.h"

#if defined(QC_DSP)
#include "depthwise_small.h"
#include "dsp.h"

#define BINARY(name, text)                                                    \
    QC_INLINE uint32_t name(uint32_t a, uint32_t b)                           \
    {                                                                         \
        uint32_t y;                                                           \
        __asm__(text : "=r"(y) : "r"(a), "r"(b));                             \
        return y;                                                             \
    }
BINARY(join_low, "pkhbt %0, %1, %2, lsl #16")
BINARY(join_high, "pkhtb %0, %2, %1, asr #16")

QC_INLINE uint32_t even_bytes(uint32_t v)
{
    __asm__("sxtb16 %0, %1" : "=r"(v) : "r"(v));
    return v;
}

QC_INLINE uint32_t odd_bytes(uint32_t v)
{
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(v) : "r"(v));
    return v;
}

QC_INLINE int32_t add_pair(int32_t sum, uint32_t a, uint32_t b)
{
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

QC_INLINE uint32_t word_at(const int8_t *p) { return *(const qc_uint32_anywhere *)(const void *)p; }

/* Products of two taps with four channels. */
QC_INLINE void add_two(int32_t *sums, uint32_t x0, uint32_t w0, uint32_t x1, uint32_t w1)
{
    uint32_t xa = even_bytes(x0), xb = even_bytes(x1), wa = even_bytes(w0), wb = even_bytes(w1);
    sums[0] = add_pair(sums[0], join_low(xa, xb), join_low(wa, wb));
    sums[2] = add_pair(sums[2], join_high(xa, xb), join_high(wa, wb));
    xa = odd_bytes(x0), xb = odd_bytes(x1), wa = odd_bytes(w0), wb = odd_bytes(w1);
    sums[1] = add_pair(sums[1], join_low(xa, xb), join_low(wa, wb));
    sums[3] = add_pair(sums[3], join_high(xa, xb), join_high(wa, wb));
}

static void finish_four(const pixel_job *job, const int32_t *sums, int32_t lane, int32_t count)
{
    const qc_channels *c = job->channels;
    const qc_epilogue *e = &c->d->conv.epilogue;
    const int is_whole = is_whole_range(e), more = e->table || job->residual;
    for (int32_t n = 0; n < count; n++) {
        const int64_t channel = c->block + lane + n;
        const qc_code *residual = job->residual ? (const qc_code *)job->residual + lane + n : NULL;
        if (more || e->shift[channel] == 32 || !scales_upper_half(e->shift[channel])) {
            job->out[lane + n] = (uint8_t)qc_finish(e, sums[n], channel, residual);
            continue;
        }
        const channel_scaling k = channel_scaling_of(e, channel);
        const int32_t v = scale_upper_half(&k, sums[n], 0);
        job->out[lane + n] = (uint8_t)(is_whole ? clamp_code(v, e, 1) : clamp_code(v, e, 0));
    }
}

static void add_taps(const pixel_job *job, const tap_table *table, int32_t count)
{
    const qc_channels *c = job->channels;
    const int32_t lanes = (int32_t)c->lanes, step = job->weight_step;
    for (int32_t lane = 0; lane < lanes; lane += 4) {
        const int32_t *start = job->is_first ? c->d->conv.epilogue.bias + c->block + lane : job->sums + lane;
        int32_t sums[4] = {start[0], start[1], start[2], start[3]};
        const int8_t *w = job->weight + lane, *const *tap = table->tap;
        for (int32_t pairs = count / 2; pairs > 0; pairs--, tap += 2, w += 2 * step)
            add_two(sums, word_at(tap[0] + lane), word_at(w), word_at(tap[1] + lane), word_at(w + step));
        if (count % 2)
            add_two(sums, word_at(tap[0] + lane), word_at(w), 0, 0);
        if (job->is_last)
            finish_four(job, sums, lane, (int32_t)qc_min(4, lanes - lane));
        else
            memcpy(job->sums + lane, sums, sizeof sums);
    }
}
#else
typedef int qc_empty_translation_unit;
#endif
