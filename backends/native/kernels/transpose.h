/* Transposition of matrices in blocks that stay in the first-level cache. */
#ifndef QC_TRANSPOSE_H
#define QC_TRANSPOSE_H

#include "vector.h"

#define QC_TRANSPOSE_ROWS 256

/* out[j * out_step + i] = x[i * x_step + j], element by element. */
static inline void qc_transpose_few(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step, int64_t rows,
                                    int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            out[j * out_step + i] = x[i * x_step + j];
}

#if defined(QC_SHUFFLES)
/* 16 x 16 bytes in each lane: four times, element k of the first half of the rows meets element k of the second. */
#define TRANSPOSE_LANES(name, type, low, high)  \
    static inline void name(type a[16])         \
    {                                           \
        type b[16];                             \
        for (int stage = 0; stage < 2; stage++) { \
            for (int i = 0; i < 8; i++) {       \
                b[2 * i] = low(a[i], a[i + 8]); \
                b[2 * i + 1] = high(a[i], a[i + 8]); \
            }                                   \
            for (int i = 0; i < 8; i++) {       \
                a[2 * i] = low(b[i], b[i + 8]); \
                a[2 * i + 1] = high(b[i], b[i + 8]); \
            }                                   \
        }                                       \
    }

TRANSPOSE_LANES(qc_transpose_lane, lane, lane_low8, lane_high8)
TRANSPOSE_LANES(qc_transpose_lanes, vec, V(unpacklo_epi8), V(unpackhi_epi8))

static inline void qc_transpose_block(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step)
{
    lane a[16];
    for (int i = 0; i < 16; i++)
        a[i] = lane_load(x + i * x_step);
    qc_transpose_lane(a);
    for (int i = 0; i < 16; i++)
        lane_store(out + i * out_step, a[i]);
}

/* Reads 16 bytes into each lane, `step` bytes apart. */
QC_INLINE vec qc_load_lanes(const uint8_t *x, int64_t step)
{
#if VEC == 16
    (void)step;
    return vec_load(x);
#else
    const __m128i *first = (const __m128i *)x, *second = (const __m128i *)(x + step);
    const __m256i low =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(first)), _mm_loadu_si128(second), 1);
#if VEC == 64
    const __m128i *third = (const __m128i *)(x + 2 * step), *fourth = (const __m128i *)(x + 3 * step);
    const __m256i high =
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(third)), _mm_loadu_si128(fourth), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
    return low;
#endif
#endif
}

/* At least VEC rows of fewer than 16 bytes: what is read behind the end of a row is not stored. */
static inline void qc_transpose_narrow(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step, int64_t rows,
                                       int64_t columns)
{
    for (int64_t row = 0; row < rows; row += VEC) {
        const int64_t i = qc_min(row, rows - VEC);
        vec a[16];
        for (int r = 0; r < 16; r++)
            a[r] = qc_load_lanes(x + (i + r) * x_step, 16 * x_step);
        qc_transpose_lanes(a);
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++)
            if (j < columns)
                vec_store(out + j * out_step + i, a[j]);
    }
}

#define STORE_LANES(sixteen)                         \
    for (int i = 0; i < 16; i++, to += rows)         \
        lane_store(to, sixteen);

/* Fewer than 16 rows of at least VEC bytes, to rows without a gap. Every 16 bytes that are written end in
 * bytes that the following ones replace; near the end they are written elsewhere first. Inside a caller with a
 * fixed step, gcc would warn of sizes that cannot be. */
__attribute__((noinline)) static void qc_transpose_flat(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t rows,
                                                        int64_t columns)
{
    for (int64_t column = 0; column < columns; column += VEC) {
        const int64_t j = qc_min(column, columns - VEC);
        const int apart = (columns - j - VEC) * rows < 16;
        uint8_t last[VEC * 16];
        uint8_t *to = apart ? last : out + j * rows;
        vec a[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            a[i] = i < rows ? vec_load(x + i * x_step + j) : vec_zero();
        qc_transpose_lanes(a);
#if VEC == 64
        STORE_LANES(_mm512_castsi512_si128(a[i]))
        STORE_LANES(_mm512_extracti32x4_epi32(a[i], 1))
        STORE_LANES(_mm512_extracti32x4_epi32(a[i], 2))
        STORE_LANES(_mm512_extracti32x4_epi32(a[i], 3))
#elif VEC == 32
        STORE_LANES(_mm256_castsi256_si128(a[i]))
        STORE_LANES(_mm256_extracti128_si256(a[i], 1))
#else
        STORE_LANES(a[i])
#endif
        if (apart)
            memcpy(out + j * rows, last, (size_t)(VEC * rows));
    }
}

/* Rows of 2 to 4 bytes without a gap: byte j of 16 rows is gathered from the `columns` vectors that hold
 * them. Returns the number of rows done. */
static inline int64_t qc_split_columns(const uint8_t *x, uint8_t *out, int64_t out_step, int64_t rows,
                                       int64_t columns)
{
    lane pick[4][4];
    for (int64_t j = 0; j < columns; j++)
        for (int64_t part = 0; part < columns; part++) {
            int8_t places[16];
            for (int64_t i = 0; i < 16; i++) {
                const int64_t at = i * columns + j;
                places[i] = (int8_t)(at / 16 == part ? at % 16 : -1);
            }
            pick[j][part] = lane_load(places);
        }
    int64_t i = 0;
    for (; i + 16 <= rows; i += 16) {
        lane v[4];
        for (int64_t part = 0; part < columns; part++)
            v[part] = lane_load(x + i * columns + part * 16);
        for (int64_t j = 0; j < columns; j++) {
            lane y = lane_pick(v[0], pick[j][0]);
            for (int64_t part = 1; part < columns; part++)
                y = lane_or(y, lane_pick(v[part], pick[j][part]));
            lane_store(out + j * out_step + i, y);
        }
    }
    return i;
}
#endif

/* out[j * out_step + i] = x[i * x_step + j]; the matrices do not overlap. */
static inline void qc_transpose_bytes(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step, int64_t rows,
                                      int64_t columns)
{
#if defined(QC_SHUFFLES)
    if (rows >= 16 && columns >= 16) {
        /* The last blocks move back so that they are whole. */
        for (int64_t top = 0; top < rows; top += QC_TRANSPOSE_ROWS) {
            const int64_t bottom = qc_min(top + QC_TRANSPOSE_ROWS, rows);
            for (int64_t column = 0; column < columns; column += 16) {
                const int64_t j = qc_min(column, columns - 16);
                for (int64_t row = top; row < bottom; row += 16) {
                    const int64_t i = qc_min(row, rows - 16);
                    qc_transpose_block(x + i * x_step + j, x_step, out + j * out_step + i, out_step);
                }
            }
        }
        return;
    }
    if (rows >= 256 && x_step == columns && columns >= 2 && columns <= 4) {
        const int64_t done = columns == 3 ? qc_split_columns(x, out, out_step, rows, 3)
                                          : qc_split_columns(x, out, out_step, rows, columns);
        x += done * x_step;
        out += done;
        rows -= done;
    }
    if (rows >= VEC && columns >= 2 && columns < 16) {
        qc_transpose_narrow(x, x_step, out, out_step, rows, columns);
        return;
    }
    if (columns >= VEC && rows >= 2 && rows < 16 && out_step == rows) {
        qc_transpose_flat(x, x_step, out, rows, columns);
        return;
    }
#endif
    for (int64_t top = 0; top < rows; top += 64)
        for (int64_t left = 0; left < columns; left += 64)
            qc_transpose_few(x + top * x_step + left, x_step, out + left * out_step + top, out_step,
                             qc_min(64, rows - top), qc_min(64, columns - left));
}

#if defined(QC_SHUFFLES)
/* The same for 32-bit elements, at least 4 x 4 of them. */
static inline void qc_transpose_words(const int32_t *x, int64_t x_step, int32_t *out, int64_t out_step, int64_t rows,
                                      int64_t columns)
{
    for (int64_t left = 0; left < columns; left += 32)
        for (int64_t row = 0; row < rows; row += 4)
            for (int64_t column = left; column < qc_min(left + 32, columns); column += 4) {
                const int64_t i = qc_min(row, rows - 4), j = qc_min(column, columns - 4);
                const int32_t *from = x + i * x_step + j;
                int32_t *to = out + j * out_step + i;
                const lane a = lane_load(from), b = lane_load(from + x_step);
                const lane c = lane_load(from + 2 * x_step), d = lane_load(from + 3 * x_step);
                const lane ab0 = lane_low32(a, b), ab1 = lane_high32(a, b);
                const lane cd0 = lane_low32(c, d), cd1 = lane_high32(c, d);
                lane_store(to, lane_low64(ab0, cd0));
                lane_store(to + out_step, lane_high64(ab0, cd0));
                lane_store(to + 2 * out_step, lane_low64(ab1, cd1));
                lane_store(to + 3 * out_step, lane_high64(ab1, cd1));
            }
}
#endif

#endif
