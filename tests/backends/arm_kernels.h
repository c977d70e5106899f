/* Random numbers, constants and comparisons of arm_kernels.c. */
#include "qc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int qc_select(const char *name);

#if QC_SMALL
#define ROOM (1 << 19)
#else
#define ROOM (1 << 20)
#endif
static uint8_t scratch[4 * ROOM] __attribute__((aligned(64)));
static qc_code x[ROOM], y[ROOM], residual[ROOM], first[ROOM], second[ROOM];
static int32_t sums[ROOM / 4], first_sums[ROOM / 2], second_sums[ROOM / 2];
static float numbers[ROOM / 4], first_numbers[ROOM / 2], second_numbers[ROOM / 2];
static int8_t weight[ROOM], pairs[2 * ROOM], columns[ROOM];
static int32_t bias[4096], multiplier[4096], shift[4096], left[4096], right[4096];
static qc_code table[256];
static const char *level;
static uint64_t state;
static const qc_context context = {1, scratch};

static uint32_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static int64_t between(int64_t low, int64_t high) { return low + (int64_t)(next() % (uint64_t)(high - low + 1)); }
static int maybe(int percent) { return next() % 100 < (uint32_t)percent; }

static void fill(void *out, int64_t count)
{
    uint8_t *bytes = out;
    const int extreme = maybe(20);
    for (int64_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(extreme ? (maybe(50) ? 127 : 128) : next());
}

static void fill_weights(int8_t *out, int64_t count)
{
    fill(out, count);
    for (int64_t i = 0; i < count; i++)
        out[i] = out[i] == -128 ? -127 : out[i];
}

/* Multipliers in normal form whose results are codes for sums of about `reach`; now and then shifts below 32. */
static void fill_scaling(int64_t channels, int reach_bits)
{
    const int wild = maybe(20), some_left = maybe(30);
    left[0] = 0;
    for (int64_t i = 0; i < channels; i++) {
        int s = 31 + reach_bits - 7 + (int)between(-1, 1);
        if (wild)
            s = (int)between(8, 62);
        if (!some_left)
            s = s < 32 ? 32 : s;
        multiplier[i] = (int32_t)between(1 << 23, (1 << 24) - 1) << 7;
        if (maybe(5))
            multiplier[i] = 0;
        shift[i] = s;
        left[i] = s < 32 ? 32 - s : 0;
        right[i] = s > 32 ? 31 - s : -1;
    }
}

static void bounds(int32_t *zero_point, int32_t *qmin, int32_t *qmax)
{
    *zero_point = (int32_t)between(-128, 127);
    *qmin = maybe(50) ? -128 : (int32_t)between(-128, 0);
    *qmax = maybe(50) ? 127 : (int32_t)between(*qmin, 127);
}

static int bits_of(int64_t v)
{
    int bits = 0;
    while (v) {
        bits++;
        v >>= 1;
    }
    return bits;
}

static void fill_sum(int32_t *k)
{
    k[4] = (int32_t)between(12, 30);
    k[0] = (int32_t)between(-128, 127);
    k[2] = (int32_t)between(-128, 127);
    k[1] = (int32_t)between(1 << 19, 1 << 21) >> (maybe(50) ? 0 : between(0, 18));
    k[3] = (int32_t)between(1 << 19, 1 << 21) >> (maybe(50) ? 0 : between(0, 18));
    if (maybe(20))
        k[3] = -k[3];
    bounds(&k[5], &k[6], &k[7]);
}

/* Whether all results of the scaling fit in 16 bits, as emission proves it. */
static int fits_words(int64_t channels, int64_t depth)
{
    for (int64_t i = 0; i < channels; i++) {
        const int64_t bound = depth * 128 * 127 + llabs(bias[i]);
        if ((bound * multiplier[i] >> shift[i]) + 130 >= 1 << 15)
            return 0;
    }
    return 1;
}

static qc_epilogue epilogue_of(int64_t channels, int64_t depth, int has_residual)
{
    qc_epilogue e = {.bias = bias, .multiplier = multiplier, .shift = shift, .right = right};
    fill_scaling(channels, bits_of(depth) / 2 + 12);
    for (int64_t i = 0; i < channels; i++) {
        bias[i] = (int32_t)between(-20000, 20000);
        if (left[i])
            e.left = left;
    }
    bounds(&e.zero_point, &e.qmin, &e.qmax);
    e.fits_words = fits_words(channels, depth);
    if (maybe(50)) {
        e.qmin = -128;
        e.qmax = 127;
        e.zero_point = maybe(60) ? -128 : e.zero_point;
    }
    if (maybe(10))
        e.left = e.right = NULL;
    if (maybe(20)) {
        fill(table, 256);
        e.table = table;
    }
    if (has_residual)
        fill_sum(e.add);
    return e;
}

/* Where byte k of column n stands in a tap of `depth` bytes a column that is packed for Helium. */
static int64_t place_in_columns(int64_t depth, int64_t k, int64_t n)
{
    const int64_t whole = depth / 16 * 16, pair = n / 2 * 2 * depth;
    if (k < whole)
        return pair + k / 16 * 32 + n % 2 * 16 + k % 16;
    return pair + 2 * whole + n % 2 * (depth - whole) + k - whole;
}

/* All forms of packed weights of `panels` panels with depth 4 * k4 in memory order of `weight`. */
static int64_t pack(int64_t blocks, int64_t depth)
{
    const int64_t k4 = (depth + 3) / 4, k8 = (depth + 7) / 8;
    if (blocks * k8 * 128 > (int64_t)sizeof pairs)
        abort();
    memset(pairs, 0, (size_t)(blocks * k8 * 128));
    fill_weights(weight, blocks * k4 * 64);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t k = 0; k < 4 * k4; k++)
            for (int n = 0; n < 16; n++) {
                int8_t *w = &weight[((b * k4 + k / 4) * 16 + n) * 4 + k % 4];
                if (k >= depth)
                    *w = 0;
                pairs[(b * k8 + k / 8) * 128 + n * 8 + k % 8] = *w;
                columns[b * k4 * 64 + place_in_columns(4 * k4, k, n)] = *w;
            }
    return k4;
}

static int failures;

static void compare(const char *what, const void *a, const void *b, int64_t bytes, uint64_t seed, const int64_t *shape)
{
    for (int64_t i = 0; i < bytes; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i]) {
            printf("%s differs at byte %lld of %lld, seed %llu, shape", what, (long long)i, (long long)bytes,
                   (unsigned long long)seed);
            for (int k = 0; k < 10; k++)
                printf(" %lld", (long long)shape[k]);
            printf("\n");
            failures++;
            return;
        }
}

/* Runs a statement with both: `result` is the portable one's, then the level's. */
#define BOTH(result, one, other, call) \
    {                                  \
        result = one;                  \
        qc_select("portable");         \
        call;                          \
        result = other;                \
        qc_select(level);              \
        call;                          \
    }

#define CODES(name, count, ...)                                             \
    {                                                                       \
        qc_code *codes;                                                     \
        memset(first, 99, (size_t)(count) + 64);                            \
        memset(second, 99, (size_t)(count) + 64);                           \
        BOTH(codes, first, second, name(__VA_ARGS__, codes))                \
        compare(#name, first, second, (count) + 64, seed, shape);           \
    }
