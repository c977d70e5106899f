/* Transposition of byte matrices in blocks that stay in the first-level cache. */
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

#if defined(QC_VECTOR)
/* 16 x 16 bytes: four times, element k of the first half of the rows meets element k of the second. */
static inline void qc_transpose_block(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step)
{
    __m128i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = _mm_loadu_si128((const __m128i *)(x + i * x_step));
    for (int stage = 0; stage < 2; stage++) {
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        for (int i = 0; i < 8; i++) {
            a[2 * i] = _mm_unpacklo_epi8(b[i], b[i + 8]);
            a[2 * i + 1] = _mm_unpackhi_epi8(b[i], b[i + 8]);
        }
    }
    for (int i = 0; i < 16; i++)
        _mm_storeu_si128((__m128i *)(out + i * out_step), a[i]);
}
#endif

/* out[j * out_step + i] = x[i * x_step + j]; the matrices do not overlap. */
static inline void qc_transpose_bytes(const uint8_t *x, int64_t x_step, uint8_t *out, int64_t out_step, int64_t rows,
                                      int64_t columns)
{
#if defined(QC_VECTOR)
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
#endif
    for (int64_t top = 0; top < rows; top += 64)
        for (int64_t left = 0; left < columns; left += 64)
            qc_transpose_few(x + top * x_step + left, x_step, out + left * out_step + top, out_step,
                             qc_min(64, rows - top), qc_min(64, columns - left));
}

#endif
