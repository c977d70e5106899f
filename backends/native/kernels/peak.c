/* What a level does at best, with which bench compares operators: dot products of registers, and reading. */
#include "level.h"
#include "qc.h"

#include <string.h>

#if defined(QC_AVX512) || defined(QC_AVX2)
#include <immintrin.h>

/* Enough independent sums to hide the latency of two multipliers. */
#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define SUM_COUNT 12
/* Makes a value unknown to the compiler, which would otherwise compute it once. */
#define HIDE(x) __asm__ volatile("" : "+v"(x));

#if defined(QC_AVX512)
typedef __m512i vector;
#define MACS 64
#define ZERO _mm512_setzero_si512()
#define FILL _mm512_set1_epi8
#define ADD_PRODUCTS(sum) sum = _mm512_dpbusd_epi32(sum, a, b);
#else
typedef __m256i vector;
#define ZERO _mm256_setzero_si256()
#define FILL _mm256_set1_epi8
#if defined(__AVXVNNI__)
#define MACS 32
#define ADD_PRODUCTS(sum) sum = _mm256_dpbusd_avx_epi32(sum, a, b);
#elif defined(QC_AVX2_VNNI)
#define MACS 32
#define ADD_PRODUCTS(sum) sum = _mm256_dpbusd_epi32(sum, a, b);
#else
#define MACS 16
#define ADD_PRODUCTS(sum) HIDE(a) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
#endif

#define START(i) vector sum##i = ZERO; HIDE(sum##i)
#define DOT(i) ADD_PRODUCTS(sum##i)
#define KEEP(i) HIDE(sum##i)

int64_t qc_peak_products(int64_t rounds)
{
    vector a = FILL(3), b = FILL(-5);
    HIDE(a)
    HIDE(b)
    SUMS(START)
    for (int64_t i = 0; i < rounds; i++) {
        SUMS(DOT)
    }
    SUMS(KEEP)
    return rounds * SUM_COUNT * MACS;
}
#else
#define DEPTH 512
/* A call of the portable loop takes about as long as so many rounds of vectors. */
#define ROUNDS_OF_CALL 64

/* The loop of the portable tile, over operands in the first-level cache. */
__attribute__((noinline)) static void add_products(const qc_code *row, const int8_t *weight, int32_t *sums)
{
    for (int64_t k = 0; k < DEPTH; k += 4, weight += 4 * QC_PANEL) {
        const int32_t a0 = row[k], a1 = row[k + 1], a2 = row[k + 2], a3 = row[k + 3];
        for (int n = 0; n < QC_PANEL; n++)
            sums[n] += a0 * weight[4 * n] + a1 * weight[4 * n + 1] + a2 * weight[4 * n + 2] + a3 * weight[4 * n + 3];
    }
}

int64_t qc_peak_products(int64_t rounds)
{
    static const int8_t weight[DEPTH * QC_PANEL];
    static const qc_code row[DEPTH];
    int32_t sums[QC_PANEL] = {0};
    const int64_t calls = rounds / ROUNDS_OF_CALL + 1;
    for (int64_t i = 0; i < calls; i++) {
        add_products(row, weight, sums);
        __asm__ volatile("" : : "r"(sums) : "memory");
    }
    return calls * DEPTH * QC_PANEL;
}
#endif

int64_t qc_peak_read(const uint8_t *bytes, int64_t count)
{
    uint64_t seen[8] = {0}, word[8];
    const int64_t end = count / (int64_t)sizeof word * (int64_t)sizeof word;
    for (int64_t i = 0; i < end; i += (int64_t)sizeof word) {
        memcpy(word, bytes + i, sizeof word);
        for (int n = 0; n < 8; n++)
            seen[n] |= word[n];
    }
    __asm__ volatile("" : : "r"(seen) : "memory");
    return end;
}
