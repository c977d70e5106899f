/* Strips of a 1x1 product on AVX512-VNNI: two small tiles take turns, and the sums of one are requantized
 * between the dot products of the other. Dot products use two of four vector pipes; requantization alone
 * would wait for the other two. Both tiles stay in registers, since stores of whole vectors are slow. */
#include "level.h"

#if defined(QC_AVX512)
#include "epilogue_avx512.h"
#include "tile.h"

#define QC_STRIP_WEIGHTS (16 << 10) /* most bytes of weights, so that they stay in the first-level cache */

/* Rows of the two tiles, with the numbers of the registers that hold their sums: 12 of each. */
#define A4(X) X(a, 0, 0, 1, 2, 3) X(a, 1, 4, 5, 6, 7) X(a, 2, 8, 9, 10, 11)
#define B4(X) X(b, 0, 12, 13, 14, 15) X(b, 1, 16, 17, 18, 19) X(b, 2, 20, 21, 22, 23)
#define A3(X) X(a, 0, 0, 1, 2, ) X(a, 1, 3, 4, 5, ) X(a, 2, 6, 7, 8, ) X(a, 3, 9, 10, 11, )
#define B3(X) X(b, 0, 12, 13, 14, ) X(b, 1, 15, 16, 17, ) X(b, 2, 18, 19, 20, ) X(b, 3, 21, 22, 23, )
#define A2(X) X(a, 0, 0, 1, , ) X(a, 1, 2, 3, , ) X(a, 2, 4, 5, , ) X(a, 3, 6, 7, , ) X(a, 4, 8, 9, , ) X(a, 5, 10, 11, , )
#define B2(X)                                                                                                     \
    X(b, 0, 12, 13, , ) X(b, 1, 14, 15, , ) X(b, 2, 16, 17, , ) X(b, 3, 18, 19, , ) X(b, 4, 20, 21, , )           \
    X(b, 5, 22, 23, , )

#define SUM(t, r, p, z) register __m512i t##r##_##p __asm__("zmm" #z) = _mm512_setzero_si512();
#define SUMS_2(t, r, z0, z1, z2, z3) SUM(t, r, 0, z0) SUM(t, r, 1, z1)
#define SUMS_3(t, r, z0, z1, z2, z3) SUMS_2(t, r, z0, z1, , ) SUM(t, r, 2, z2)
#define SUMS_4(t, r, z0, z1, z2, z3) SUMS_3(t, r, z0, z1, z2, ) SUM(t, r, 3, z3)

#define START(t, r, p) t##r##_##p = _mm512_loadu_si512(start + p * QC_PANEL);
#define START_2(t, r, ...) START(t, r, 0) START(t, r, 1)
#define START_3(t, r, ...) START_2(t, r) START(t, r, 2)
#define START_4(t, r, ...) START_3(t, r) START(t, r, 3)

#define POINT(t, r, ...) const uint8_t *const row##r = rows[r] + offset;

/* gcc would load weights again for every row, as operands of the dot products. */
#define LOAD(p)                                                                     \
    __m512i w##p = _mm512_loadu_si512(weight + 16 * d + p * panel_stride);          \
    __asm__("" : "+v"(w##p));
#define LOAD_2 LOAD(0) LOAD(1)
#define LOAD_3 LOAD_2 LOAD(2)
#define LOAD_4 LOAD_3 LOAD(3)

#define DOT(t, r, p) t##r##_##p = _mm512_dpbusd_epi32(t##r##_##p, x, w##p);
#define SPREAD(r) const __m512i x = _mm512_set1_epi32(*(const qc_int32_anywhere *)(row##r + d));
#define STEP_2(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) }
#define STEP_3(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) DOT(t, r, 2) }
#define STEP_4(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) DOT(t, r, 2) DOT(t, r, 3) }

/* What requantization needs: vectors in memory, since dot products leave few registers. */
typedef struct {
    __m512i low, high, low32, high32;
    __m512 offset;
    wide_sum add;
    const float *scale;
    __mmask64 mask;
    int whole;
} strip_constants;

#define CODES(p) requant_down(v##p, _mm512_loadu_ps(k->scale + p * QC_PANEL), k->offset)
#define CLAMPED(p) _mm512_min_epi32(_mm512_max_epi32(CODES(p), k->low32), k->high32)
#define ADDED(p) add_wide(&k->add, CLAMPED(p), residual + p * QC_PANEL)

/* Writes a row from its sums, of which those of `panels` panels count. */
QC_INLINE void finish_row(const strip_constants *k, const uint8_t *residual, uint8_t *out, vec v0, vec v1, vec v2,
                          vec v3, int panels)
{
    const vec none = vec_zero();
    vec y;
    __asm__("" : "+r"(k) : : "memory"); /* else the compiler keeps the constants in registers, and spills */
    if (residual)
        y = vec_pack(ADDED(0), ADDED(1), panels > 2 ? ADDED(2) : none, panels > 3 ? ADDED(3) : none);
    else
        y = vec_pack(CODES(0), CODES(1), panels > 2 ? CODES(2) : none, panels > 3 ? CODES(3) : none);
    y = vec_clamp_bytes(vec_order(y), k->low, k->high);
    if (!k->whole)
        _mm512_mask_storeu_epi8(out, k->mask, y);
    else if (panels == 4)
        _mm512_storeu_si512(out, y);
    else
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
    if (k->whole && panels == 3)
        _mm_storeu_si128((__m128i *)(out + 32), _mm512_extracti32x4_epi32(y, 2));
}

#define FINISH(PANELS, ...)                                              \
    finish_row(k, adds ? residual : NULL, out, __VA_ARGS__, PANELS);     \
    out += out_stride;                                                   \
    residual = adds ? residual + out_stride : NULL;

#define FINISH_2(t, r) FINISH(2, t##r##_0, t##r##_1, vec_zero(), vec_zero())
#define FINISH_3(t, r) FINISH(3, t##r##_0, t##r##_1, t##r##_2, vec_zero())
#define FINISH_4(t, r) FINISH(4, t##r##_0, t##r##_1, t##r##_2, t##r##_3)

/* A part of the depth of one tile, then a row of the other. */
#define PART(PANELS, THIS, t, r)                                \
    for (; d < ends[r]; d += 4) {                               \
        LOAD_##PANELS                                           \
        THIS(STEP_##PANELS)                                     \
    }                                                           \
    FINISH_##PANELS(t, r)
#define PART_A2(t, r, ...) PART(2, A2, t, r)
#define PART_B2(t, r, ...) PART(2, B2, t, r)
#define PART_A3(t, r, ...) PART(3, A3, t, r)
#define PART_B3(t, r, ...) PART(3, B3, t, r)
#define PART_A4(t, r, ...) PART(4, A4, t, r)
#define PART_B4(t, r, ...) PART(4, B4, t, r)

#define LAST_2(t, r, ...) if (r < held) { FINISH_2(t, r) }
#define LAST_3(t, r, ...) if (r < held) { FINISH_3(t, r) }
#define LAST_4(t, r, ...) if (r < held) { FINISH_4(t, r) }

/* Moves on to the rows of the next tile, of which the last has fewer. */
#define TAKE(PANELS, ROWS, THIS)                                \
    THIS##PANELS(POINT)                                         \
    THIS##PANELS(START_##PANELS)                                \
    held = left < ROWS ? left : ROWS;                           \
    left -= held;                                               \
    rows += held;                                               \
    int64_t d = 0;

/* Computes one tile and writes the other one, which is full; the last is written by itself. */
#define TURN(PANELS, ROWS, THIS, OTHER)                         \
    {                                                           \
        TAKE(PANELS, ROWS, THIS)                                \
        OTHER##PANELS(PART_##THIS##PANELS)                      \
    }                                                           \
    if (left == 0) {                                            \
        THIS##PANELS(LAST_##PANELS)                             \
        return;                                                 \
    }

#define STRIP(NAME, PANELS, ROWS, ADDS)                                                                              \
    __attribute__((noinline)) static void strip_##NAME(const qc_tile *tile, int64_t left,              \
                                                                 const strip_constants *k)               \
    {                                                                                                    \
        const int adds = ADDS;                                                                           \
        const int64_t offset = tile->offsets[0], panel_stride = tile->panel_stride;                      \
        const int8_t *const weight = tile->weight;                                                       \
        const int32_t *const start = tile->start;                                                        \
        uint8_t *out = tile->out;                                                                        \
        const uint8_t *residual = tile->residual;                                                        \
        const int64_t out_stride = tile->out_stride;                                                     \
        const uint8_t *const *rows = tile->rows;                                                         \
        int64_t ends[ROWS], held;                                                                        \
        for (int r = 0; r < ROWS; r++)                                                                   \
            ends[r] = tile->k4 * (r + 1) / ROWS * 4;                                                     \
        A##PANELS(SUMS_##PANELS)                                                                         \
        B##PANELS(SUMS_##PANELS)                                                                         \
        {                                                                                                \
            TAKE(PANELS, ROWS, A)                                                                        \
            for (; d < ends[ROWS - 1]; d += 4) {                                                         \
                LOAD_##PANELS                                                                            \
                A##PANELS(STEP_##PANELS)                                                                 \
            }                                                                                            \
        }                                                                                                \
        if (left == 0) {                                                                                 \
            A##PANELS(LAST_##PANELS)                                                                     \
            return;                                                                                      \
        }                                                                                                \
        for (;;) {                                                                                       \
            TURN(PANELS, ROWS, B, A)                                                                     \
            TURN(PANELS, ROWS, A, B)                                                                     \
        }                                                                                                \
    }

STRIP(2, 2, 6, 0)
STRIP(3, 3, 4, 0)
STRIP(4, 4, 3, 0)
STRIP(2_residual, 2, 6, 1)
STRIP(3_residual, 3, 4, 1)
STRIP(4_residual, 4, 3, 1)

int qc_tile_strip(const qc_tile *tile, int64_t rows, int panels)
{
    const qc_epilogue *e = tile->epilogue;
    /* Tiles take half of the dot products for half a panel, and read large weights less often. */
    const int half = panels * QC_PANEL - tile->columns >= QC_PANEL / 2;
    const int large = panels * tile->k4 * 4 * QC_PANEL > QC_STRIP_WEIGHTS;
    if (panels < 2 || rows < 2 || half || large || !e->scale || e->table || (tile->residual && e->add[4] > QC_WIDE_SHIFT))
        return 0;
    const int32_t *bounds = tile->residual ? e->add + 6 : &e->qmin;
    const strip_constants k = {
        .low = _mm512_set1_epi8((char)bounds[0]),
        .high = _mm512_set1_epi8((char)bounds[1]),
        .low32 = _mm512_set1_epi32(e->qmin),
        .high32 = _mm512_set1_epi32(e->qmax),
        .offset = _mm512_set1_ps((float)e->zero_point + 0.5f),
        .add = tile->residual ? wide_sum_of(e->add) : (wide_sum){.low = vec_zero()},
        .scale = e->scale + tile->channel,
        .mask = ~(__mmask64)0 >> (64 - tile->columns),
        .whole = tile->columns == panels * QC_PANEL,
    };
    if (tile->residual)
        (panels == 2 ? strip_2_residual : panels == 3 ? strip_3_residual : strip_4_residual)(tile, rows, &k);
    else
        (panels == 2 ? strip_2 : panels == 3 ? strip_3 : strip_4)(tile, rows, &k);
    return 1;
}
#else
typedef int qc_empty_translation_unit;
#endif
