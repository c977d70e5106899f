/* Batched product of two activations: both operands are packed, then multiplied tile by tile. */
#include "arith.h"
#include "tile.h"

#include <string.h>

typedef struct {
    const qc_matmul *p;
    const uint8_t *packed_a;
    const int8_t *packed_b;
    const int32_t *row_term, *column_term;
    uint8_t *out;
    int32_t *out_i32;
    int64_t k4;
} matmul_job;

static int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Rows of bytes, zero-padded to 4 * k4; row_term = -zb * sum(a). */
static void pack_a(const qc_matmul *p, const uint8_t *a, int64_t k4, uint8_t *packed, int32_t *row_term)
{
    for (int64_t m = 0; m < p->rows; m++) {
        uint8_t *row = packed + m * 4 * k4;
        int32_t sum = 0;
        for (int64_t k = 0; k < p->depth; k++) {
            row[k] = a[m * p->a_row + k * p->a_depth];
            sum += row[k];
        }
        memset(row + p->depth, 0, (size_t)(4 * k4 - p->depth));
        row_term[m] = -(p->b_zero_point - 128) * sum;
    }
}

/* Panels of signed bytes; column_term = K * za * zb - za * sum(b). */
static void pack_b(const qc_matmul *p, const uint8_t *b, int64_t k4, int8_t *packed, int32_t *column_term)
{
    const int64_t panels = (p->columns + QC_PANEL - 1) / QC_PANEL;
    memset(packed, 0, (size_t)(panels * k4 * 4 * QC_PANEL));
    for (int64_t n = 0; n < p->columns; n++) {
        int8_t *panel = packed + n / QC_PANEL * k4 * 4 * QC_PANEL + n % QC_PANEL * 4;
        int32_t sum = 0;
        for (int64_t k = 0; k < p->depth; k++) {
            const int32_t value = b[k * p->b_depth + n * p->b_column] - 128;
            panel[k / 4 * 4 * QC_PANEL + k % 4] = (int8_t)value;
            sum += value;
        }
        const int32_t zero_points = (int32_t)p->depth * (p->b_zero_point - 128);
        column_term[n] = p->a_zero_point * (zero_points - sum);
    }
}

static void matmul_task(const void *argument, int index, int count)
{
    const matmul_job *job = argument;
    const qc_matmul *p = job->p;
    const int64_t tiles = (p->rows + 3) / 4, per_panel = job->k4 * 4 * QC_PANEL;
    int32_t acc[QC_TILE_ROWS * QC_TILE_LD] __attribute__((aligned(64)));
    uint8_t bytes[QC_TILE_ROWS * QC_PANEL];
    const uint8_t *pointers[QC_TILE_ROWS];
    const int64_t end = qc_min(p->rows, tiles * (index + 1) / count * 4), offset = 0;
    qc_tile tile = {.rows = pointers, .offsets = &offset, .taps = 1, .k4 = job->k4, .sums = acc};
    int height;
    for (int64_t m = tiles * index / count * 4; m < end; m += height) {
        height = qc_tile_rows(end - m, 1);
        for (int r = 0; r < QC_TILE_ROWS; r++)
            pointers[r] = job->packed_a + qc_min(m + r, p->rows - 1) * 4 * job->k4;
        for (int64_t n = 0; n < p->columns; n += QC_PANEL) {
            const int rows = (int)qc_min(height, end - m);
            const int64_t columns = qc_min(QC_PANEL, p->columns - n);
            tile.weight = job->packed_b + n / QC_PANEL * per_panel;
            tile.start = job->column_term + n;
            qc_tile_u8_s8(&tile, height, 1);
            for (int r = 0; r < rows; r++)
                for (int64_t j = 0; j < columns; j++)
                    acc[r * QC_TILE_LD + j] += job->row_term[m + r];
            if (job->out)
                qc_tile_requant_u8(&p->epilogue, acc, rows, n, columns, NULL, bytes, QC_PANEL);
            for (int r = 0; r < rows; r++)
                for (int64_t j = 0; j < columns; j++) {
                    const int64_t at = (m + r) * p->out_row + (n + j) * p->out_column;
                    if (job->out)
                        job->out[at] = bytes[r * QC_PANEL + j];
                    else
                        job->out_i32[at] = acc[r * QC_TILE_LD + j];
                }
        }
    }
}

static void run_matmul(const qc_context *context, const qc_matmul *p, const uint8_t *a, const uint8_t *b,
                       uint8_t *out, int32_t *out_i32)
{
    const int64_t k4 = (p->depth + 3) / 4, panels = (p->columns + QC_PANEL - 1) / QC_PANEL;
    uint8_t *packed_a = context->scratch;
    int8_t *packed_b = (int8_t *)packed_a + align64(p->rows * k4 * 4 + QC_SLACK);
    int32_t *row_term = (int32_t *)(packed_b + panels * k4 * 4 * QC_PANEL);
    int32_t *column_term = (int32_t *)((uint8_t *)row_term + align64(p->rows * 4));
    matmul_job job = {.p = p, .packed_a = packed_a, .packed_b = packed_b, .row_term = row_term,
                      .column_term = column_term, .k4 = k4};
    memset(column_term, 0, (size_t)(panels * QC_PANEL * 4));
    int64_t count = 1;
    for (int i = 0; i < p->rank; i++)
        count *= p->shape[i];
    for (int64_t matrix = 0; matrix < count; matrix++) {
        int64_t rest = matrix, a_at = 0, b_at = 0, out_at = 0;
        for (int i = p->rank - 1; i >= 0; i--) {
            const int64_t index = rest % p->shape[i];
            rest /= p->shape[i];
            a_at += index * p->a_stride[i];
            b_at += index * p->b_stride[i];
            out_at += index * p->out_stride[i];
        }
        pack_a(p, a + a_at, k4, packed_a, row_term);
        pack_b(p, b + b_at, k4, packed_b, column_term);
        job.out = out ? out + out_at : NULL;
        job.out_i32 = out_i32 ? out_i32 + out_at : NULL;
        qc_parallel(context, matmul_task, &job, p->rows * p->columns * p->depth);
    }
}

void qc_matmul_u8_u8_u8(const qc_context *c, const qc_matmul *p, const uint8_t *a, const uint8_t *b, uint8_t *out)
{
    run_matmul(c, p, a, b, out, NULL);
}

void qc_matmul_u8_u8_i32(const qc_context *c, const qc_matmul *p, const uint8_t *a, const uint8_t *b, int32_t *out)
{
    run_matmul(c, p, a, b, NULL, out);
}
