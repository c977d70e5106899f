/* What turns sums into bytes on AVX2, for tiles and for depthwise convolution. */
#ifndef QC_EPILOGUE_AVX2_H
#define QC_EPILOGUE_AVX2_H

#include "finish.h"

/* AVX2 instructions round as MXCSR says. What needs rounding down is a function of its own that is called
 * between these two, so that no compiler moves its arithmetic out or other arithmetic in. */
#define QC_MXCSR_DOWN 0x3F80u /* round down, all exceptions masked */

static inline uint32_t begin_round_down(void)
{
    const uint32_t saved = _mm_getcsr();
    _mm_setcsr(QC_MXCSR_DOWN);
    __asm__ volatile("" ::: "memory");
    return saved;
}

static inline void end_round_down(uint32_t saved)
{
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(saved);
}

/* Rounds down where MXCSR says so: the floor of sum * scale + zero_point + 1/2. */
QC_INLINE vec requant_down(vec sum, vecf scale, vecf offset)
{
    return _mm256_cvtps_epi32(_mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, offset));
}

/* Says whether clamping is all that is left to do after the requantization. */
static inline int only_clamps(const qc_epilogue *e, const uint8_t *residual)
{
    return !e->table && !residual;
}

/* Stores the first `count` bytes; most tails are multiples of 8. */
QC_INLINE void store_columns(uint8_t *out, vec y, int64_t count)
{
    __m128i half = _mm256_castsi256_si128(y);
    if (count >= 32) {
        vec_store(out, y);
        return;
    }
    if (count >= 16) {
        _mm_storeu_si128((__m128i *)out, half);
        half = _mm256_extracti128_si256(y, 1);
        out += 16;
        count -= 16;
    }
    if (count >= 8) {
        _mm_storel_epi64((__m128i *)out, half);
        half = _mm_unpackhi_epi64(half, half);
        out += 8;
        count -= 8;
    }
    if (count > 0) {
        uint8_t rest[8];
        _mm_storel_epi64((__m128i *)rest, half);
        for (int64_t i = 0; i < count; i++)
            out[i] = rest[i];
    }
}

#endif
