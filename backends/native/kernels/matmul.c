/* Batched product of two activations, matrices row-major and without gaps.
 *
 * A unit of work is up to four panels of columns of one matrix: it packs them as signed bytes, which stay in the
 * first-level cache, and multiplies the rows of `a` as they lie. Packed columns end in zeros, so it does not
 * matter what a row of `a` reads behind its end. */
#include "conv.h"
#include "vector.h"
#if defined(QC_NEON)
#include "matmul_neon.h"
#elif defined(QC_HELIUM)
#include "matmul_helium.h"
#endif

#include <string.h>

#define BLOCK_ROWS (QC_SMALL ? 16 : 96) /* rows whose sums are computed at a time */

typedef struct {
    const qc_matmul *p;
    const uint8_t *a, *b;
    uint8_t *out, *scratch;
    int32_t *out_i32;
    int64_t k4, units, parts; /* units of columns of a matrix, parts of its rows */
} matmul_job;

/* Columns first .. first + columns - 1 of a matrix, packed. */
typedef struct {
    int64_t first, columns;
    int panels;
    int32_t *term;            /* per column: K * za * zb - za * sum(b) */
    uint8_t *fill;            /* what stands for rows of b behind the last one: bytes of value zero */
    int8_t *packed;
} column_unit;

#if !defined(QC_NEON) && !defined(QC_HELIUM)
/* Puts four rows of 16 bytes into groups of four, as signed bytes. */
static inline void interleave(const uint8_t *const row[4], int64_t at, int8_t *out)
{
#if defined(QC_VECTOR)
    const __m128i sign = _mm_set1_epi8((char)128);
    const __m128i a = _mm_loadu_si128((const __m128i *)(row[0] + at));
    const __m128i b = _mm_loadu_si128((const __m128i *)(row[1] + at));
    const __m128i c = _mm_loadu_si128((const __m128i *)(row[2] + at));
    const __m128i d = _mm_loadu_si128((const __m128i *)(row[3] + at));
    const __m128i ab0 = _mm_xor_si128(_mm_unpacklo_epi8(a, b), sign);
    const __m128i ab1 = _mm_xor_si128(_mm_unpackhi_epi8(a, b), sign);
    const __m128i cd0 = _mm_xor_si128(_mm_unpacklo_epi8(c, d), sign);
    const __m128i cd1 = _mm_xor_si128(_mm_unpackhi_epi8(c, d), sign);
    __m128i *to = (__m128i *)out;
    _mm_storeu_si128(to, _mm_unpacklo_epi16(ab0, cd0));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(ab0, cd0));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(ab1, cd1));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(ab1, cd1));
#else
    for (int n = 0; n < QC_PANEL; n++)
        for (int k = 0; k < 4; k++)
            out[4 * n + k] = (int8_t)((qc_code)row[k][at + n] - QC_CODE_OFFSET);
#endif
}

/* Sums of a panel's columns. */
static void sum_columns(const int8_t *panel, int64_t k4, int32_t *sums)
{
#if defined(QC_VECTOR)
    const vec ones = V(set1_epi8)(1), pairs = V(set1_epi16)(1);
    for (int part = 0; part < 4 * QC_PANEL; part += VEC) {
        vec sum = vec_zero();
        for (int64_t k = 0; k < k4; k++) {
            const vec v = vec_load(panel + k * 4 * QC_PANEL + part);
            sum = vec_add_pairs(sum, V(maddubs_epi16)(ones, v), pairs);
        }
        vec_store(sums + part / 4, sum);
    }
#else
    memset(sums, 0, QC_PANEL * sizeof *sums);
    for (int64_t k = 0; k < k4; k++, panel += 4 * QC_PANEL)
        for (int n = 0; n < QC_PANEL; n++)
            sums[n] += panel[4 * n] + panel[4 * n + 1] + panel[4 * n + 2] + panel[4 * n + 3];
#endif
}
#endif

#if defined(QC_HELIUM)
/* Packs panels and returns the sums of columns in the places of their terms. */
static void pack_panels(const matmul_job *job, const uint8_t *b, const column_unit *unit)
{
    const qc_matmul *p = job->p;
    for (int32_t n = 0; n < unit->panels * QC_PANEL; n++)
        unit->term[n] = pack_column((const int8_t *)b + unit->first + n, (int32_t)p->columns, (int32_t)p->depth,
                                    n % QC_PANEL, unit->packed + n / QC_PANEL * job->k4 * 4 * QC_PANEL);
}
#else
static void pack_panels(const matmul_job *job, const uint8_t *b, const column_unit *unit)
{
    const qc_matmul *p = job->p;
    const int64_t panel_bytes = job->k4 * 4 * QC_PANEL;
    for (int64_t k = 0; k < 4 * job->k4; k += QC_DEPTH_STEP) {
        const uint8_t *row[QC_DEPTH_STEP];
        for (int i = 0; i < QC_DEPTH_STEP; i++)
            row[i] = k + i < p->depth ? b + (k + i) * p->columns + unit->first : unit->fill;
        for (int panel = 0; panel < unit->panels; panel++)
            interleave(row, panel * QC_PANEL, unit->packed + panel * panel_bytes + k * QC_PANEL);
    }
    for (int panel = 0; panel < unit->panels; panel++)
        sum_columns(unit->packed + panel * panel_bytes, job->k4, unit->term + panel * QC_PANEL);
}
#endif

static void pack_columns(const matmul_job *job, const uint8_t *b, const column_unit *unit)
{
    const qc_matmul *p = job->p;
    const int32_t zero_points = (int32_t)p->depth * (p->b_zero_point - QC_CODE_OFFSET);
    pack_panels(job, b, unit);
    for (int n = 0; n < unit->panels * QC_PANEL; n++)
        unit->term[n] = p->a_zero_point * (zero_points - unit->term[n]);
}

#if defined(QC_VECTOR) && !QC_SIGNED_CODES
/* Sums of four rows of bytes. */
static inline __m128i sum_four_rows(const uint8_t *const row[4], int64_t depth)
{
    vec sum[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    const int64_t whole = depth / VEC * VEC;
    for (int64_t k = 0; k < whole; k += VEC)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            sum[i] = V(add_epi64)(sum[i], V(sad_epu8)(vec_load(row[i] + k), vec_zero()));
    if (whole < depth)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            uint8_t rest[2 * VEC];
            vec_store(rest, vec_load(row[i] + whole));
            vec_store(rest + depth - whole, vec_zero());
            sum[i] = V(add_epi64)(sum[i], V(sad_epu8)(vec_load(rest), vec_zero()));
        }
    /* Each 64-bit lane is less than 2^32: two rows share a vector, then four. */
    const vec even = V(add_epi64)(sum[0], V(slli_epi64)(sum[1], 32));
    const vec odd = V(add_epi64)(sum[2], V(slli_epi64)(sum[3], 32));
    const vec all = V(add_epi32)(V(unpacklo_epi64)(even, odd), V(unpackhi_epi64)(even, odd));
#if VEC == 64
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
#else
    const __m256i half = all;
#endif
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
#endif

/* term[r] = -zb * sum of row r, for `rows` rows; writes whole groups of four. */
static void sum_rows(const qc_matmul *p, const uint8_t *a, int64_t rows, int32_t *term)
{
    const int32_t factor = QC_CODE_OFFSET - p->b_zero_point;
    for (int64_t r = 0; r < rows; r += 4) {
        const uint8_t *row[4];
        for (int i = 0; i < 4; i++)
            row[i] = a + qc_min(r + i, rows - 1) * p->depth;
#if defined(QC_VECTOR) && !QC_SIGNED_CODES
        const __m128i sums = _mm_mullo_epi32(sum_four_rows(row, p->depth), _mm_set1_epi32(factor));
        _mm_storeu_si128((__m128i *)(term + r), sums);
#else
        for (int i = 0; i < 4; i++) {
            int32_t sum = 0;
#if defined(QC_NEON) || defined(QC_HELIUM)
            sum = sum_row(row[i], p->depth);
#else
            for (int64_t k = 0; k < p->depth; k++)
                sum += (qc_code)row[i][k];
#endif
            term[r + i] = factor * sum;
        }
#endif
    }
}

/* The values that sums start with where each row has a term of its own. */
static inline void add_terms(const int32_t *column_term, int columns, const int32_t *row_term, int rows,
                             int32_t *start)
{
    for (int r = 0; r < rows; r++)
#if defined(QC_VECTOR)
        for (int n = 0; n < columns; n += VEC_LANES)
            vec_store(start + r * QC_TILE_LD + n,
                      V(add_epi32)(vec_load(column_term + n), V(set1_epi32)(row_term[r])));
#else
        for (int n = 0; n < columns; n++)
            start[r * QC_TILE_LD + n] = column_term[n] + row_term[r];
#endif
}

/* Multiplies rows of a matrix with packed columns; `out` counts elements of the result from its first row. */
static void multiply_rows(const matmul_job *job, const uint8_t *a, const column_unit *unit, int64_t rows, int64_t out)
{
    const qc_matmul *p = job->p;
    int32_t sums[QC_TILE_ROWS * QC_TILE_LD] QC_ALIGNED; /* what they start with, too */
    int32_t row_term[BLOCK_ROWS];
    const uint8_t *pointers[QC_TILE_ROWS];
    const int64_t offset = 0;
    qc_tile tile = {
        .rows = pointers, .offsets = &offset, .taps = 1, .k4 = job->k4, .weight = unit->packed, .any_weight = 1,
        .panel_stride = job->k4 * 4 * QC_PANEL, .start = unit->term, .epilogue = &p->epilogue,
        .channel = p->per_column ? unit->first : 0, .columns = unit->columns, .out_stride = p->columns,
        .sums = job->out ? NULL : sums,
    };
    const int by_row = p->b_zero_point != QC_CODE_OFFSET;
    if (by_row) {
        tile.start = sums;
        tile.start_step = QC_TILE_LD;
    }
    int height;
    for (int64_t m = 0; m < rows; m += height) {
        const int64_t in_block = m % BLOCK_ROWS, left = by_row ? qc_min(BLOCK_ROWS - in_block, rows - m) : rows - m;
        if (by_row && in_block == 0)
            sum_rows(p, a + m * p->depth, left, row_term);
        height = qc_tile_rows(left, unit->panels);
        for (int r = 0; r < QC_TILE_ROWS; r++)
            pointers[r] = a + qc_min(m + r, rows - 1) * p->depth;
        if (by_row)
            add_terms(unit->term, unit->panels * QC_PANEL, row_term + in_block, height, sums);
        if (job->out)
            tile.out = job->out + out + m * p->columns;
        qc_tile_u8_s8(&tile, height, unit->panels);
        for (int r = 0; job->out_i32 && r < height; r++)
            memcpy(job->out_i32 + out + (m + r) * p->columns, sums + r * QC_TILE_LD,
                   (size_t)unit->columns * sizeof *sums);
    }
}

static void matmul_task(const void *argument, int index, int count)
{
    const matmul_job *job = argument;
    const qc_matmul *p = job->p;
    const int64_t panels = (p->columns + QC_PANEL - 1) / QC_PANEL;
    uint8_t *scratch = job->scratch + index * p->scratch_step;
    column_unit unit = {.term = (int32_t *)scratch, .fill = scratch + QC_TILE_LD * sizeof(int32_t),
                        .packed = (int8_t *)scratch + QC_TILE_LD * (sizeof(int32_t) + 1)};
    memset(unit.fill, QC_CODE_OFFSET, QC_TILE_LD);
    int64_t all = job->units * job->parts;
    for (int i = 0; i < p->rank; i++)
        all *= p->shape[i];
    for (int64_t i = all * index / count; i < all * (index + 1) / count; i++) {
        const int64_t part = i % job->parts, at = i / job->parts % job->units, matrix = i / job->parts / job->units;
        int64_t rest = matrix, a_at = 0, b_at = 0;
        for (int d = p->rank - 1; d >= 0; d--) {
            a_at += rest % p->shape[d] * p->a_stride[d];
            b_at += rest % p->shape[d] * p->b_stride[d];
            rest /= p->shape[d];
        }
        const int64_t first = panels * at / job->units, last = panels * (at + 1) / job->units;
        unit.first = first * QC_PANEL;
        unit.panels = (int)(last - first);
        unit.columns = qc_min(unit.panels * QC_PANEL, p->columns - unit.first);
        const int64_t row = p->rows * part / job->parts, end = p->rows * (part + 1) / job->parts;
        pack_columns(job, job->b + b_at, &unit);
        multiply_rows(job, job->a + a_at + row * p->depth, &unit, end - row,
                      (matrix * p->rows + row) * p->columns + unit.first);
    }
}

/* Rows are cut only where there are too few matrices and columns: each part packs the columns again. */
static void run_matmul(const qc_context *context, const qc_matmul *p, const uint8_t *a, const uint8_t *b,
                       uint8_t *out, int32_t *out_i32)
{
    int64_t count = 1;
    for (int i = 0; i < p->rank; i++)
        count *= p->shape[i];
    if (count == 0 || p->rows == 0 || p->columns == 0)
        return;
    matmul_job job = {.p = p, .a = a, .b = b, .out = out, .out_i32 = out_i32, .parts = 1};
    job.scratch = context->scratch + p->scratch;
    job.k4 = qc_depth_quads(p->depth);
    job.units = (p->columns + QC_TILE_LD - 1) / QC_TILE_LD;
    const int64_t units = count * job.units;
    if (units % context->threads && units < 8 * context->threads)
        job.parts = qc_max(1, qc_min(context->threads, p->rows / QC_TILE_ROWS));
    qc_parallel(context, matmul_task, &job, count * p->rows * p->columns * p->depth);
}

void qc_matmul_u8_u8_u8(const qc_context *c, const qc_matmul *p, const qc_code *a, const qc_code *b, qc_code *out)
{
    run_matmul(c, p, (const uint8_t *)a, (const uint8_t *)b, (uint8_t *)out, NULL);
}

void qc_matmul_u8_u8_i32(const qc_context *c, const qc_matmul *p, const qc_code *a, const qc_code *b, int32_t *out)
{
    run_matmul(c, p, (const uint8_t *)a, (const uint8_t *)b, NULL, out);
}
