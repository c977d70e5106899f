/* GEMM tiles on AVX512-VNNI: vpdpbusd wraps modulo 2^32, so every summation order is exact.
 *
 * A tile requantizes its sums while they are still in registers. gcc would spill them around such a
 * body: each sum is therefore pinned to a register of its own. */
#include "level.h"

#if defined(QC_AVX512)
#include "tile.h"
#include "epilogue_avx512.h"


int qc_tile_rows(int64_t left, int panels)
{
    const int most = panels == 4 ? 6 : panels == 3 ? 8 : 14;
    if (left >= most)
        return most == 8 && left % 8 && left % 7 == 0 ? 7 : most;
    if (panels < 4 && left >= 7)
        return left >= 8 && panels < 3 ? 8 : 7;
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

QC_INLINE __m512i broadcast4(const uint8_t *bytes)
{
    return _mm512_set1_epi32(*(const qc_int32_anywhere *)bytes);
}

/* Keeps clang from a broadcast for each width, both from a general register. */
QC_INLINE __m512i same_for_both(__m512i v)
{
    __asm__("" : "+v"(v));
    return v;
}

/* Rows of a tile with the numbers of the registers that hold their sums. */
#define P4_1(X) X(0, 0, 1, 2, 3)
#define P4_2(X) P4_1(X) X(1, 4, 5, 6, 7)
#define P4_4(X) P4_2(X) X(2, 8, 9, 10, 11) X(3, 12, 13, 14, 15)
#define P4_6(X) P4_4(X) X(4, 16, 17, 18, 19) X(5, 20, 21, 22, 23)
#define P3_1(X) X(0, 0, 1, 2, )
#define P3_2(X) P3_1(X) X(1, 3, 4, 5, )
#define P3_4(X) P3_2(X) X(2, 6, 7, 8, ) X(3, 9, 10, 11, )
#define P3_6(X) P3_4(X) X(4, 12, 13, 14, ) X(5, 15, 16, 17, )
#define P3_7(X) P3_6(X) X(6, 18, 19, 20, )
#define P3_8(X) P3_7(X) X(7, 21, 22, 23, )
#define P2_1(X) X(0, 0, 1, , )
#define P2_2(X) P2_1(X) X(1, 2, 3, , )
#define P2_4(X) P2_2(X) X(2, 4, 5, , ) X(3, 6, 7, , )
#define P2_6(X) P2_4(X) X(4, 8, 9, , ) X(5, 10, 11, , )
#define P2_7(X) P2_6(X) X(6, 12, 13, , )
#define P2_8(X) P2_7(X) X(7, 14, 15, , )
#define P2_14(X)                                                                                      \
    P2_8(X) X(8, 16, 17, , ) X(9, 18, 19, , ) X(10, 20, 21, , ) X(11, 22, 23, , ) X(12, 24, 25, , )   \
    X(13, 26, 27, , )
#define P1_1(X) X(0, 0, , , )
#define P1_2(X) P1_1(X) X(1, 1, , , )
#define P1_4(X) P1_2(X) X(2, 2, , , ) X(3, 3, , , )
#define P1_6(X) P1_4(X) X(4, 4, , , ) X(5, 5, , , )
#define P1_7(X) P1_6(X) X(6, 6, , , )
#define P1_8(X) P1_7(X) X(7, 7, , , )
#define P1_14(X) \
    P1_8(X) X(8, 8, , , ) X(9, 9, , , ) X(10, 10, , , ) X(11, 11, , , ) X(12, 12, , , ) X(13, 13, , , )

/* Every row of sums starts with the biases; RELOAD goes on from earlier sums instead. */
#define START(r, p, z) register __m512i c##r##_##p __asm__("zmm" #z) = b##p;
#define START_1(r, z0, z1, z2, z3) START(r, 0, z0)
#define START_2(r, z0, z1, z2, z3) START_1(r, z0, , , ) START(r, 1, z1)
#define START_3(r, z0, z1, z2, z3) START_2(r, z0, z1, , ) START(r, 2, z2)
#define START_4(r, z0, z1, z2, z3) START_3(r, z0, z1, z2, ) START(r, 3, z3)
/* In tiles that end in half a panel, h sums its 8 columns in 256 bits: that is half the work. */
#define START_HALF(r, p, z) register __m256i h##r __asm__("ymm" #z) = _mm512_castsi512_si256(b##p);
#define START_H1(r, z0, z1, z2, z3) START_HALF(r, 0, z0)
#define START_H2(r, z0, z1, z2, z3) START_1(r, z0, , , ) START_HALF(r, 1, z1)
#define START_H3(r, z0, z1, z2, z3) START_2(r, z0, z1, , ) START_HALF(r, 2, z2)
#define START_H4(r, z0, z1, z2, z3) START_3(r, z0, z1, z2, ) START_HALF(r, 3, z3)
#define RELOAD(r, p) c##r##_##p = _mm512_loadu_si512(start + r * QC_TILE_LD + p * QC_PANEL);
#define RELOAD_1(r, ...) RELOAD(r, 0)
#define RELOAD_2(r, ...) RELOAD_1(r) RELOAD(r, 1)
#define RELOAD_3(r, ...) RELOAD_2(r) RELOAD(r, 2)
#define RELOAD_4(r, ...) RELOAD_3(r) RELOAD(r, 3)
#define RELOAD_HALF(r, p) h##r = _mm256_loadu_si256((const __m256i *)(start + r * QC_TILE_LD + p * QC_PANEL));
#define RELOAD_H1(r, ...) RELOAD_HALF(r, 0)
#define RELOAD_H2(r, ...) RELOAD_1(r) RELOAD_HALF(r, 1)
#define RELOAD_H3(r, ...) RELOAD_2(r) RELOAD_HALF(r, 2)
#define RELOAD_H4(r, ...) RELOAD_3(r) RELOAD_HALF(r, 3)

#define BIAS(p) const __m512i b##p = _mm512_loadu_si512(start + p * QC_PANEL);
#define BIAS_1 BIAS(0)
#define BIAS_2 BIAS_1 BIAS(1)
#define BIAS_3 BIAS_2 BIAS(2)
#define BIAS_4 BIAS_3 BIAS(3)

#define POINT(r, ...) const uint8_t *row##r = rows[r] + offset;

/* With 14 rows of a whole panel gcc would keep row pointers in free vector registers, and the moves from there
 * compete with the dot products. */
#define KEEP_FROM_VECTORS                                                                                     \
    __asm__("" ::: "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", \
            "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
#define LOAD(p) const __m512i b##p = _mm512_loadu_si512(weight + p * panel_stride);
#define LOAD_1 LOAD(0) KEEP_FROM_VECTORS
#define LOAD_2 LOAD(0) LOAD(1)
#define LOAD_3 LOAD_2 LOAD(2)
#define LOAD_4 LOAD_3 LOAD(3)
#define LOAD_H1 LOAD(0)
#define LOAD_H2 LOAD_2
#define LOAD_H3 LOAD_3
#define LOAD_H4 LOAD_4

#define DOT(r, p) c##r##_##p = _mm512_dpbusd_epi32(c##r##_##p, a, b##p);
#define STEP_1(r, ...) { const __m512i a = broadcast4(row##r + k); DOT(r, 0) }
#define STEP_2(r, ...) { const __m512i a = broadcast4(row##r + k); DOT(r, 0) DOT(r, 1) }
#define STEP_3(r, ...) { const __m512i a = broadcast4(row##r + k); DOT(r, 0) DOT(r, 1) DOT(r, 2) }
#define STEP_4(r, ...) { const __m512i a = broadcast4(row##r + k); DOT(r, 0) DOT(r, 1) DOT(r, 2) DOT(r, 3) }
#define DOT_HALF(r, p) h##r = _mm256_dpbusd_epi32(h##r, _mm512_castsi512_si256(a), _mm512_castsi512_si256(b##p));
#define STEP_H1(r, ...) { const __m512i a = broadcast4(row##r + k); DOT_HALF(r, 0) }
#define STEP_H2(r, ...) { const __m512i a = same_for_both(broadcast4(row##r + k)); DOT(r, 0) DOT_HALF(r, 1) }
#define STEP_H3(r, ...) { const __m512i a = same_for_both(broadcast4(row##r + k)); DOT(r, 0) DOT(r, 1) DOT_HALF(r, 2) }
#define STEP_H4(r, ...)                                                                       \
    {                                                                                         \
        const __m512i a = same_for_both(broadcast4(row##r + k));                              \
        DOT(r, 0) DOT(r, 1) DOT(r, 2) DOT_HALF(r, 3)                                          \
    }

/* From here on half a panel is a whole one of which 8 columns are not used. */
#define WIDEN(r, p, z) register __m512i c##r##_##p __asm__("zmm" #z) = _mm512_castsi256_si512(h##r);
#define WIDEN_1(r, ...)
#define WIDEN_2(r, ...)
#define WIDEN_3(r, ...)
#define WIDEN_4(r, ...)
#define WIDEN_H1(r, z0, z1, z2, z3) WIDEN(r, 0, z0)
#define WIDEN_H2(r, z0, z1, z2, z3) WIDEN(r, 1, z1)
#define WIDEN_H3(r, z0, z1, z2, z3) WIDEN(r, 2, z2)
#define WIDEN_H4(r, z0, z1, z2, z3) WIDEN(r, 3, z3)

#define STORE(r, p) _mm512_storeu_si512(sums + r * QC_TILE_LD + p * QC_PANEL, c##r##_##p);
#define STORE_1(r, ...) STORE(r, 0)
#define STORE_2(r, ...) STORE_1(r) STORE(r, 1)
#define STORE_3(r, ...) STORE_2(r) STORE(r, 2)
#define STORE_4(r, ...) STORE_3(r) STORE(r, 3)

#define SCALE(p) const __m512 s##p = _mm512_loadu_ps(scale + p * QC_PANEL);
#define SCALE_1 SCALE(0)
#define SCALE_2 SCALE_1 SCALE(1)
#define SCALE_3 SCALE_2 SCALE(2)
#define SCALE_4 SCALE_3 SCALE(3)

#define DOWN(r, p) requant_down(c##r##_##p, s##p, offset)
#define BYTES_1(r) vec_order(vec_pack(DOWN(r, 0), vec_zero(), vec_zero(), vec_zero()))
#define BYTES_2(r) vec_order(vec_pack(DOWN(r, 0), DOWN(r, 1), vec_zero(), vec_zero()))
#define BYTES_3(r) vec_order(vec_pack(DOWN(r, 0), DOWN(r, 1), DOWN(r, 2), vec_zero()))
#define BYTES_4(r) vec_order(vec_pack(DOWN(r, 0), DOWN(r, 1), DOWN(r, 2), DOWN(r, 3)))
#define WRITE(r, PANELS)                                                            \
    {                                                                               \
        __m512i y = BYTES_##PANELS(r);                                              \
        if (clamps)                                                                 \
            y = _mm512_min_epu8(_mm512_max_epu8(y, low), high);                     \
        write_row(out, y, full * PANELS, mask);                                     \
        out += out_stride;                                                          \
    }
#define WRITE_1(r, ...) WRITE(r, 1)
#define WRITE_2(r, ...) WRITE(r, 2)
#define WRITE_3(r, ...) WRITE(r, 3)
#define WRITE_4(r, ...) WRITE(r, 4)

/* ADD2 of requantized sums while they are 32 bits wide: a tile of few panels then adds no empty lanes. */
#define ADD(r, p) add_wide(&add, _mm512_min_epi32(_mm512_max_epi32(DOWN(r, p), low32), high32), residual + p * QC_PANEL)
#define SUMS_1(r) vec_order(vec_pack(ADD(r, 0), vec_zero(), vec_zero(), vec_zero()))
#define SUMS_2(r) vec_order(vec_pack(ADD(r, 0), ADD(r, 1), vec_zero(), vec_zero()))
#define SUMS_3(r) vec_order(vec_pack(ADD(r, 0), ADD(r, 1), ADD(r, 2), vec_zero()))
#define SUMS_4(r) vec_order(vec_pack(ADD(r, 0), ADD(r, 1), ADD(r, 2), ADD(r, 3)))
#define MERGE(r, PANELS)                                        \
    c##r##_0 = vec_clamp_bytes(SUMS_##PANELS(r), low, high);    \
    residual += out_stride;
/* Rows are written when all are done: the result may lie where the residual did, and a load waits for
 * an earlier masked store that it overlaps. */
#define WRITE_MERGED(r, ...)                                                        \
    write_row(out, c##r##_0, full * panels, mask);                                  \
    out += out_stride;
#define MERGE_1(r, ...) MERGE(r, 1)
#define MERGE_2(r, ...) MERGE(r, 2)
#define MERGE_3(r, ...) MERGE(r, 3)
#define MERGE_4(r, ...) MERGE(r, 4)

/* Writes whole panels, or what the mask says where `panels` is 0. */
static inline __attribute__((always_inline)) void write_row(uint8_t *out, __m512i y, int panels, __mmask64 mask)
{
    if (panels == 4)
        _mm512_storeu_si512(out, y);
    else if (panels == 0)
        _mm512_mask_storeu_epi8(out, mask, y);
    else if (panels == 1)
        _mm_storeu_si128((__m128i *)out, _mm512_castsi512_si128(y));
    else
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(y));
    if (panels == 3)
        _mm_storeu_si128((__m128i *)(out + 32), _mm512_extracti32x4_epi32(y, 2));
}

/* KIND is the number of panels, with an H before it where half of the last one is in use. */
#define TILE_OF(ROWS, PANELS, KIND)                                                                   \
    __attribute__((noinline)) static void tile_##ROWS##x##KIND(const qc_tile *tile)                   \
    {                                                                                                 \
        const int64_t depth = 4 * tile->k4, panel_stride = tile->panel_stride;                        \
        const int8_t *weight = tile->weight;                                                          \
        const int32_t *start = tile->start;                                                           \
        BIAS_##PANELS                                                                                 \
        P##PANELS##_##ROWS(START_##KIND)                                                              \
        if (tile->start_step) {                                                                       \
            P##PANELS##_##ROWS(RELOAD_##KIND)                                                         \
        }                                                                                             \
        for (int64_t t = 0; t < tile->taps; t++) {                                                    \
            const uint8_t *const *rows = tile->rows + t * tile->row_step;                             \
            const int64_t offset = tile->offsets[t];                                                  \
            P##PANELS##_##ROWS(POINT)                                                                 \
            for (int64_t k = 0; k < depth; k += 4, weight += 4 * QC_PANEL) {                          \
                LOAD_##KIND                                                                           \
                P##PANELS##_##ROWS(STEP_##KIND)                                                       \
            }                                                                                         \
        }                                                                                             \
        P##PANELS##_##ROWS(WIDEN_##KIND)                                                              \
        int32_t *sums = tile->sums;                                                                   \
        if (sums) {                                                                                   \
            P##PANELS##_##ROWS(STORE_##PANELS)                                                        \
            return;                                                                                   \
        }                                                                                             \
        const qc_epilogue *e = tile->epilogue;                                                        \
        const float *scale = e->scale + tile->channel;                                                \
        SCALE_##PANELS                                                                                \
        const __m512 offset = _mm512_set1_ps((float)e->zero_point + 0.5f);                            \
        const int full = tile->columns == PANELS * QC_PANEL;                                          \
        const __mmask64 mask = ~(__mmask64)0 >> (64 - tile->columns);                                 \
        uint8_t *out = tile->out;                                                                     \
        const int64_t out_stride = tile->out_stride;                                                  \
        const uint8_t *residual = tile->residual;                                                     \
        if (residual) {                                                                               \
            const wide_sum add = wide_sum_of(e->add);                                                 \
            const __m512i low32 = _mm512_set1_epi32(e->qmin), high32 = _mm512_set1_epi32(e->qmax);    \
            const __m512i low = _mm512_set1_epi8((char)e->add[6]);                                    \
            const __m512i high = _mm512_set1_epi8((char)e->add[7]);                                   \
            const int panels = PANELS;                                                                \
            P##PANELS##_##ROWS(MERGE_##PANELS)                                                        \
            P##PANELS##_##ROWS(WRITE_MERGED)                                                          \
            return;                                                                                   \
        }                                                                                             \
        const int clamps = e->qmin > 0 || e->qmax < 255; /* packing saturates to a byte */            \
        const __m512i low = _mm512_set1_epi8((char)e->qmin), high = _mm512_set1_epi8((char)e->qmax);  \
        P##PANELS##_##ROWS(WRITE_##PANELS)                                                            \
    }

#define TILE(ROWS, PANELS) TILE_OF(ROWS, PANELS, PANELS) TILE_OF(ROWS, PANELS, H##PANELS)

TILE(1, 1)
TILE(2, 1)
TILE(4, 1)
TILE(6, 1)
TILE(7, 1)
TILE(8, 1)
TILE(14, 1)
TILE(1, 2)
TILE(2, 2)
TILE(4, 2)
TILE(6, 2)
TILE(7, 2)
TILE(8, 2)
TILE(14, 2)
TILE(1, 3)
TILE(2, 3)
TILE(4, 3)
TILE(6, 3)
TILE(7, 3)
TILE(8, 3)
TILE(1, 4)
TILE(2, 4)
TILE(4, 4)
TILE(6, 4)

typedef void (*tile_function)(const qc_tile *tile);

/* By panels, then by the number of rows. */
#define LOW(KIND) [1] = tile_1x##KIND, [2] = tile_2x##KIND, [4] = tile_4x##KIND, [6] = tile_6x##KIND
#define MIDDLE(KIND) LOW(KIND), [7] = tile_7x##KIND, [8] = tile_8x##KIND
#define HIGH(KIND) MIDDLE(KIND), [14] = tile_14x##KIND
static const tile_function whole[4][15] = {{HIGH(1)}, {HIGH(2)}, {MIDDLE(3)}, {LOW(4)}};
static const tile_function halved[4][15] = {{HIGH(H1)}, {HIGH(H2)}, {MIDDLE(H3)}, {LOW(H4)}};

static tile_function tile_of(const qc_tile *tile, int rows, int panels)
{
    const int half = panels * QC_PANEL - tile->columns >= QC_PANEL / 2;
    return (half ? halved : whole)[panels - 1][rows];
}

/* What the tile functions do not do in registers: 64-bit requantization, tables, and sums with long shifts. */
static void finish_apart(const qc_tile *tile, int rows, int panels)
{
    int32_t sums[QC_TILE_ROWS * QC_TILE_LD] __attribute__((aligned(64)));
    qc_tile apart = *tile;
    apart.sums = sums;
    tile_of(tile, rows, panels)(&apart);
    qc_tile_requant_u8(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                       tile->out_stride);
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    const qc_epilogue *e = tile->epilogue;
    if (tile->sums || (e->scale && !e->table && !(tile->residual && e->add[4] > QC_WIDE_SHIFT)))
        tile_of(tile, rows, panels)(tile);
    else
        finish_apart(tile, rows, panels);
}
#else
typedef int qc_empty_translation_unit;
#endif
