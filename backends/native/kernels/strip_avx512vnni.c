/* Strips of a product with few weights on AVX512-VNNI: two small tiles take turns, and the sums of one are requantized
 * between the dot products of the other. Dot products use two of four vector pipes; requantization alone
 * would wait for the other two. Both tiles stay in registers, since stores of whole vectors are slow. */
#include "level.h"

#if defined(QC_AVX512)
#include "epilogue_avx512.h"
#include "tile.h"

/* Rows of the two tiles, with the numbers of the registers that hold their sums: 12 of each. */
#define A4(X) X(a, 0, 0, 1, 2, 3) X(a, 1, 4, 5, 6, 7) X(a, 2, 8, 9, 10, 11)
#define B4(X) X(b, 0, 12, 13, 14, 15) X(b, 1, 16, 17, 18, 19) X(b, 2, 20, 21, 22, 23)
#define A3(X) X(a, 0, 0, 1, 2, ) X(a, 1, 3, 4, 5, ) X(a, 2, 6, 7, 8, ) X(a, 3, 9, 10, 11, )
#define B3(X) X(b, 0, 12, 13, 14, ) X(b, 1, 15, 16, 17, ) X(b, 2, 18, 19, 20, ) X(b, 3, 21, 22, 23, )
#define A2(X)                                                                                                     \
    X(a, 0, 0, 1, , ) X(a, 1, 2, 3, , ) X(a, 2, 4, 5, , ) X(a, 3, 6, 7, , ) X(a, 4, 8, 9, , ) X(a, 5, 10, 11, , )
#define B2(X)                                                                                                     \
    X(b, 0, 12, 13, , ) X(b, 1, 14, 15, , ) X(b, 2, 16, 17, , ) X(b, 3, 18, 19, , ) X(b, 4, 20, 21, , )           \
    X(b, 5, 22, 23, , )

/* Rows of one panel: they are addressed from every third one, as there are more than address registers. */
#define A1(X)                                                                                                     \
    X(a, 0, 0, 0, 0, ) X(a, 1, 1, 0, 1, ) X(a, 2, 2, 0, 2, ) X(a, 3, 3, 3, 0, ) X(a, 4, 4, 3, 1, )                \
    X(a, 5, 5, 3, 2, ) X(a, 6, 6, 6, 0, ) X(a, 7, 7, 6, 1, ) X(a, 8, 8, 6, 2, ) X(a, 9, 9, 9, 0, )                \
    X(a, 10, 10, 9, 1, ) X(a, 11, 11, 9, 2, )
#define B1(X)                                                                                                     \
    X(b, 0, 12, 0, 0, ) X(b, 1, 13, 0, 1, ) X(b, 2, 14, 0, 2, ) X(b, 3, 15, 3, 0, ) X(b, 4, 16, 3, 1, )           \
    X(b, 5, 17, 3, 2, ) X(b, 6, 18, 6, 0, ) X(b, 7, 19, 6, 1, ) X(b, 8, 20, 6, 2, ) X(b, 9, 21, 9, 0, )           \
    X(b, 10, 22, 9, 1, ) X(b, 11, 23, 9, 2, )

#define SUM(t, r, p, z) register __m512i t##r##_##p __asm__("zmm" #z) = _mm512_setzero_si512();
#define SUMS_1(t, r, z0, z1, z2, z3) SUM(t, r, 0, z0)
#define SUMS_2(t, r, z0, z1, z2, z3) SUMS_1(t, r, z0, , , ) SUM(t, r, 1, z1)
#define SUMS_3(t, r, z0, z1, z2, z3) SUMS_2(t, r, z0, z1, , ) SUM(t, r, 2, z2)
#define SUMS_4(t, r, z0, z1, z2, z3) SUMS_3(t, r, z0, z1, z2, ) SUM(t, r, 3, z3)

/* In tiles that end in half a panel, h sums its 8 columns in 256 bits: that is half the work. */
#define SUM_HALF(t, r, z) register __m256i t##h##r __asm__("ymm" #z) = _mm256_setzero_si256();
#define SUMS_H3(t, r, z0, z1, z2, z3) SUMS_2(t, r, z0, z1, , ) SUM_HALF(t, r, z2)
#define SUMS_H4(t, r, z0, z1, z2, z3) SUMS_3(t, r, z0, z1, z2, ) SUM_HALF(t, r, z3)

#define START(t, r, p) t##r##_##p = _mm512_loadu_si512(start + p * QC_PANEL);
#define START_1(t, r, ...) START(t, r, 0)
#define START_2(t, r, ...) START_1(t, r) START(t, r, 1)
#define START_3(t, r, ...) START_2(t, r) START(t, r, 2)
#define START_4(t, r, ...) START_3(t, r) START(t, r, 3)
#define START_HALF(t, r, p) t##h##r = _mm256_loadu_si256((const __m256i *)(start + p * QC_PANEL));
#define START_H3(t, r, ...) START_2(t, r) START_HALF(t, r, 2)
#define START_H4(t, r, ...) START_3(t, r) START_HALF(t, r, 3)

#define POINT(t, r, ...) const uint8_t *const row##r = these[r] + offset;

/* gcc would load weights again for every row, as operands of the dot products. */
#define LOAD(p)                                                                     \
    __m512i w##p = _mm512_loadu_si512(weight + 16 * d + p * panel_stride);          \
    __asm__("" : "+v"(w##p));
#define LOAD_1 LOAD(0)
#define LOAD_2 LOAD(0) LOAD(1)
#define LOAD_3 LOAD_2 LOAD(2)
#define LOAD_4 LOAD_3 LOAD(3)
#define LOAD_H3 LOAD_3
#define LOAD_H4 LOAD_4

#define DOT(t, r, p) t##r##_##p = _mm512_dpbusd_epi32(t##r##_##p, x, w##p);
#define SPREAD(r) const __m512i x = _mm512_set1_epi32(*(const qc_int32_anywhere *)(row##r + d));
#define STEP_1(t, r, z, from, far, ...)                                             \
    {                                                                               \
        const __m512i x = _mm512_set1_epi32(*(const qc_int32_anywhere *)(row##from + far * pitch)); \
        DOT(t, r, 0)                                                                \
    }
#define STEP_2(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) }
#define STEP_3(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) DOT(t, r, 2) }
#define STEP_4(t, r, ...) { SPREAD(r) DOT(t, r, 0) DOT(t, r, 1) DOT(t, r, 2) DOT(t, r, 3) }
/* Keeps clang from a broadcast for each width. */
#define SPREAD_BOTH(r)                                                              \
    __m512i x = _mm512_set1_epi32(*(const qc_int32_anywhere *)(row##r + d));        \
    __asm__("" : "+v"(x));
#define NARROW _mm512_castsi512_si256
#define DOT_HALF(t, r, p) t##h##r = _mm256_dpbusd_epi32(t##h##r, NARROW(x), NARROW(w##p));
#define STEP_H3(t, r, ...) { SPREAD_BOTH(r) DOT(t, r, 0) DOT(t, r, 1) DOT_HALF(t, r, 2) }
#define STEP_H4(t, r, ...) { SPREAD_BOTH(r) DOT(t, r, 0) DOT(t, r, 1) DOT(t, r, 2) DOT_HALF(t, r, 3) }

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

/* 16 bytes of a row. */
QC_INLINE __m128i quarter(vec y, int i)
{
    return i == 1   ? _mm512_extracti32x4_epi32(y, 1)
           : i == 2 ? _mm512_extracti32x4_epi32(y, 2)
           : i == 3 ? _mm512_extracti32x4_epi32(y, 3)
                    : _mm512_castsi512_si128(y);
}

/* Writes a row from its sums, of which those of `panels` whole panels and maybe half another one count. A masked
 * store would hold up loads from bytes that it does not write, where the residual of the next row may lie. */
QC_INLINE void finish_row(const strip_constants *k, const uint8_t *residual, uint8_t *out, vec v0, vec v1, vec v2,
                          vec v3, int panels, int half)
{
    const vec none = vec_zero();
    vec y;
    __asm__("" : "+r"(k) : : "memory"); /* else the compiler keeps the constants in registers, and spills */
    if (residual)
        y = vec_pack(ADDED(0), ADDED(1), panels + half > 2 ? ADDED(2) : none, panels + half > 3 ? ADDED(3) : none);
    else
        y = vec_pack(CODES(0), CODES(1), panels + half > 2 ? CODES(2) : none, panels + half > 3 ? CODES(3) : none);
    y = vec_clamp_bytes(vec_order(y), k->low, k->high);
    if (!k->whole) {
        _mm512_mask_storeu_epi8(out, k->mask, y);
        return;
    }
    if (panels == 4)
        _mm512_storeu_si512(out, y);
    else
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
    if (panels == 3)
        _mm_storeu_si128((__m128i *)(out + 2 * QC_PANEL), quarter(y, 2));
    if (half)
        _mm_storel_epi64((__m128i *)(out + panels * QC_PANEL), quarter(y, panels));
}

#define FINISH(...)                                                      \
    finish_row(k, adds ? residual : NULL, out, __VA_ARGS__);             \
    out += out_stride;                                                   \
    residual = adds ? residual + out_stride : NULL;

/* Writes four rows of one panel. */
QC_INLINE void finish_four(const strip_constants *k, const uint8_t *residual, uint8_t *out, int64_t stride, vec v0,
                           vec v1, vec v2, vec v3)
{
    __asm__("" : "+r"(k) : : "memory"); /* else the compiler keeps the constants in registers, and spills */
    const vecf scale = _mm512_loadu_ps(k->scale), offset = k->offset;
    v0 = requant_down(v0, scale, offset);
    v1 = requant_down(v1, scale, offset);
    v2 = requant_down(v2, scale, offset);
    v3 = requant_down(v3, scale, offset);
    if (residual) {
        const vec low = k->low32, high = k->high32;
        v0 = add_wide(&k->add, _mm512_min_epi32(_mm512_max_epi32(v0, low), high), residual);
        v1 = add_wide(&k->add, _mm512_min_epi32(_mm512_max_epi32(v1, low), high), residual + stride);
        v2 = add_wide(&k->add, _mm512_min_epi32(_mm512_max_epi32(v2, low), high), residual + 2 * stride);
        v3 = add_wide(&k->add, _mm512_min_epi32(_mm512_max_epi32(v3, low), high), residual + 3 * stride);
    }
    const vec y = vec_clamp_bytes(vec_order(vec_pack(v0, v1, v2, v3)), k->low, k->high);
    if (stride == QC_PANEL) {
        _mm512_storeu_si512(out, y);
        return;
    }
    _mm_storeu_si128((__m128i *)out, quarter(y, 0));
    _mm_storeu_si128((__m128i *)(out + stride), quarter(y, 1));
    _mm_storeu_si128((__m128i *)(out + 2 * stride), quarter(y, 2));
    _mm_storeu_si128((__m128i *)(out + 3 * stride), quarter(y, 3));
}

#define FOUR(t, r0, r1, r2, r3)                                                                          \
    finish_four(k, adds ? residual : NULL, out, out_stride, t##r0##_0, t##r1##_0, t##r2##_0, t##r3##_0); \
    out += 4 * out_stride;                                                                               \
    residual = adds ? residual + 4 * out_stride : NULL;

/* Strips of one panel take whole tiles only. */
#define POINT_1(r) row##r = next + r * pitch;
#define MOVE_1(r)                                               \
    row##r += 4;                                                \
    __asm__("" : "+r"(row##r)); /* else each row gets a pointer of its own */
#define FOUR_ROWS(X) X(0) X(3) X(6) X(9)
#define TAKE_1(TILE)                                            \
    TILE(START_1)                                               \
    FOUR_ROWS(POINT_1)                                          \
    next += 12 * pitch;                                         \
    d = 0;
#define PART_1(TILE, END)                                       \
    for (; d < END; d += 4) {                                   \
        LOAD_1                                                  \
        TILE(STEP_1)                                            \
        FOUR_ROWS(MOVE_1)                                       \
    }

#define TURN_1(THIS, OTHER, t)                                  \
    TAKE_1(THIS)                                                \
    PART_1(THIS, third)                                         \
    FOUR(t, 0, 1, 2, 3)                                         \
    PART_1(THIS, thirds)                                        \
    FOUR(t, 4, 5, 6, 7)                                         \
    PART_1(THIS, depth)                                         \
    FOUR(t, 8, 9, 10, 11)

#define LAST_1(t) FOUR(t, 0, 1, 2, 3) FOUR(t, 4, 5, 6, 7) FOUR(t, 8, 9, 10, 11)

#define STRIP_1(NAME, ADDS)                                                                              \
    __attribute__((noinline)) static void strip_##NAME(const qc_tile *tile, int64_t tiles,               \
                                                       const strip_constants *k)                         \
    {                                                                                                    \
        const int adds = ADDS;                                                                           \
        const int64_t pitch = tile->pitch, panel_stride = 0, out_stride = tile->out_stride;              \
        const int64_t depth = tile->k4 * 4, third = tile->k4 / 3 * 4, thirds = tile->k4 * 2 / 3 * 4;     \
        const int8_t *const weight = tile->weight;                                                       \
        const int32_t *const start = tile->start;                                                        \
        uint8_t *out = tile->out;                                                                        \
        const uint8_t *residual = tile->residual, *next = tile->rows[0] + tile->offsets[0];              \
        const uint8_t *row0, *row3, *row6, *row9;                                                        \
        int64_t d;                                                                                       \
        A1(SUMS_1)                                                                                       \
        B1(SUMS_1)                                                                                       \
        TAKE_1(A1)                                                                                       \
        PART_1(A1, depth)                                                                                \
        for (; tiles > 2; tiles -= 2) {                                                                  \
            TURN_1(B1, A1, a)                                                                            \
            TURN_1(A1, B1, b)                                                                            \
        }                                                                                                \
        if (tiles == 2) {                                                                                \
            TURN_1(B1, A1, a)                                                                            \
            LAST_1(b)                                                                                    \
        } else {                                                                                         \
            LAST_1(a)                                                                                    \
        }                                                                                                \
    }

/* From here on half a panel is a whole one of which 8 columns are not used. */
#define WIDE(t, r) _mm512_castsi256_si512(t##h##r)
#define FINISH_2(t, r) FINISH(t##r##_0, t##r##_1, vec_zero(), vec_zero(), 2, 0)
#define FINISH_3(t, r) FINISH(t##r##_0, t##r##_1, t##r##_2, vec_zero(), 3, 0)
#define FINISH_4(t, r) FINISH(t##r##_0, t##r##_1, t##r##_2, t##r##_3, 4, 0)
#define FINISH_H3(t, r) FINISH(t##r##_0, t##r##_1, WIDE(t, r), vec_zero(), 2, 1)
#define FINISH_H4(t, r) FINISH(t##r##_0, t##r##_1, t##r##_2, WIDE(t, r), 3, 1)

/* The dot products of a tile up to a point of the depth, or of the taps where there are several. */
#define STEPS(KIND, TILE, END)                                  \
    for (; d < END; d += 4) {                                   \
        LOAD_##KIND                                             \
        TILE(STEP_##KIND)                                       \
    }
#define DOTS(KIND, TILE, END)                                   \
    if (several) {                                              \
        for (; tap < END; tap++, weight += 16 * depth) {        \
            const int64_t offset = offsets[tap];                \
            int64_t d = 0;                                      \
            TILE(POINT)                                         \
            STEPS(KIND, TILE, depth)                            \
        }                                                       \
    } else {                                                    \
        STEPS(KIND, TILE, END)                                  \
    }

/* A part of one tile, then a row of the other. */
#define PART(KIND, THIS, t, r)                                  \
    DOTS(KIND, THIS, ends[r])                                   \
    FINISH_##KIND(t, r)
#define PART_A2(t, r, ...) PART(2, A2, t, r)
#define PART_B2(t, r, ...) PART(2, B2, t, r)
#define PART_A3(t, r, ...) PART(3, A3, t, r)
#define PART_B3(t, r, ...) PART(3, B3, t, r)
#define PART_A4(t, r, ...) PART(4, A4, t, r)
#define PART_B4(t, r, ...) PART(4, B4, t, r)
#define PART_AH3(t, r, ...) PART(H3, A3, t, r)
#define PART_BH3(t, r, ...) PART(H3, B3, t, r)
#define PART_AH4(t, r, ...) PART(H4, A4, t, r)
#define PART_BH4(t, r, ...) PART(H4, B4, t, r)

#define LAST_2(t, r, ...) if (r < held) { FINISH_2(t, r) }
#define LAST_3(t, r, ...) if (r < held) { FINISH_3(t, r) }
#define LAST_4(t, r, ...) if (r < held) { FINISH_4(t, r) }
#define LAST_H3(t, r, ...) if (r < held) { FINISH_H3(t, r) }
#define LAST_H4(t, r, ...) if (r < held) { FINISH_H4(t, r) }

/* Moves on to the rows of the next tile, of which the last has fewer. */
#define TAKE(KIND, ROWS, TILE)                                  \
    const uint8_t *const *const these = rows;                   \
    const int8_t *weight = tile->weight;                        \
    TILE(POINT)                                                 \
    TILE(START_##KIND)                                          \
    held = left < ROWS ? left : ROWS;                           \
    left -= held;                                               \
    rows += held;                                               \
    int64_t d = 0, tap = 0;

/* Computes one tile and writes the other one, which is full; the last is written by itself. */
#define TURN(KIND, PANELS, ROWS, THIS, OTHER)                   \
    {                                                           \
        TAKE(KIND, ROWS, THIS##PANELS)                          \
        OTHER##PANELS(PART_##THIS##KIND)                        \
    }                                                           \
    if (left == 0) {                                            \
        THIS##PANELS(LAST_##KIND)                               \
        return;                                                 \
    }

/* KIND is the number of panels, with an H before it where half of the last one is in use. */
#define STRIP(NAME, KIND, PANELS, ROWS, ADDS, TAPS)                                                            \
    __attribute__((noinline)) static void strip_##NAME(const qc_tile *tile, int64_t left,                \
                                                       const strip_constants *k)                         \
    {                                                                                                    \
        const int adds = ADDS, several = TAPS;                                                                \
        const int64_t *const offsets = tile->offsets;                                                    \
        const int64_t offset = offsets[0], panel_stride = tile->panel_stride, depth = tile->k4 * 4;      \
        const int32_t *const start = tile->start;                                                        \
        uint8_t *out = tile->out;                                                                        \
        const uint8_t *residual = tile->residual;                                                        \
        const int64_t out_stride = tile->out_stride;                                                     \
        const uint8_t *const *rows = tile->rows;                                                         \
        int64_t ends[ROWS], held;                                                                        \
        for (int r = 0; r < ROWS; r++)                                                                   \
            ends[r] = several ? tile->taps * (r + 1) / ROWS : tile->k4 * (r + 1) / ROWS * 4;             \
        A##PANELS(SUMS_##KIND)                                                                           \
        B##PANELS(SUMS_##KIND)                                                                           \
        {                                                                                                \
            TAKE(KIND, ROWS, A##PANELS)                                                                  \
            DOTS(KIND, A##PANELS, ends[ROWS - 1])                                                        \
        }                                                                                                \
        if (left == 0) {                                                                                 \
            A##PANELS(LAST_##KIND)                                                                       \
            return;                                                                                      \
        }                                                                                                \
        for (;;) {                                                                                       \
            TURN(KIND, PANELS, ROWS, B, A)                                                               \
            TURN(KIND, PANELS, ROWS, A, B)                                                               \
        }                                                                                                \
    }
#define STRIPS(KIND, PANELS, ROWS)              \
    STRIP(KIND, KIND, PANELS, ROWS, 0, 0)       \
    STRIP(KIND##_residual, KIND, PANELS, ROWS, 1, 0)

STRIP_1(1, 0)
STRIP_1(1_residual, 1)
STRIPS(2, 2, 6)
STRIPS(3, 3, 4)
STRIPS(4, 4, 3)
STRIPS(H3, 3, 4)
STRIPS(H4, 4, 3)
STRIP(2_taps, 2, 2, 6, 0, 1)
STRIP(4_taps, 4, 4, 3, 0, 1)

typedef void (*strip_function)(const qc_tile *tile, int64_t rows, const strip_constants *k);

/* By whether there is a residual, whether half of the last panel is in use, and panels. */
static const strip_function strips[2][2][3] = {
    {{strip_2, strip_3, strip_4}, {NULL, strip_H3, strip_H4}},
    {{strip_2_residual, strip_3_residual, strip_4_residual}, {NULL, strip_H3_residual, strip_H4_residual}},
};

int64_t qc_tile_strip(const qc_tile *tile, int64_t rows, int panels)
{
    const qc_epilogue *e = tile->epilogue;
    const int half = panels * QC_PANEL - tile->columns >= QC_PANEL / 2;
    /* Tiles read large weights less often, and have more rows of one panel and a half. */
    const int large = panels * tile->taps * tile->k4 * 4 * QC_PANEL > QC_STRIP_WEIGHTS;
    const int narrow = panels == 1 && (rows < 12 || tile->columns < QC_PANEL || !tile->pitch);
    const int taken = tile->taps == 1 || ((panels == 2 || panels == 4) && !tile->residual && !half);
    if (rows < 2 || large || narrow || (panels == 2 && half) || !taken)
        return 0;
    if (!e->scale || e->table || (tile->residual && e->add[4] > QC_WIDE_SHIFT))
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
        .whole = tile->columns == panels * QC_PANEL - QC_PANEL / 2 * half,
    };
    if (panels == 1) {
        (tile->residual ? strip_1_residual : strip_1)(tile, rows / 12, &k);
        return rows / 12 * 12;
    }
    if (tile->taps > 1) {
        (panels == 2 ? strip_2_taps : strip_4_taps)(tile, rows, &k);
        return rows;
    }
    strips[tile->residual != NULL][half][panels - 2](tile, rows, &k);
    return rows;
}
#else
typedef int qc_empty_translation_unit;
#endif
