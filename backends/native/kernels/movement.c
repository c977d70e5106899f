/* Data movement: every reshape, permute, slice, pad, expand and concat is a strided copy. */
#include "transpose.h"

#define TILE 32
#define SWAP(v, i, j) { const int64_t t = (v)[i]; (v)[i] = (v)[j]; (v)[j] = t; }

static void sort_axes(qc_copy *p)
{
    for (int i = 1; i < p->rank; i++)
        for (int j = i; j > 0 && p->out_stride[j] > p->out_stride[j - 1]; j--) {
            SWAP(p->shape, j, j - 1)
            SWAP(p->source_stride, j, j - 1)
            SWAP(p->out_stride, j, j - 1)
        }
}

/* Drops axes of size one and joins neighbours that run on without a gap in both tensors. */
static void join_axes(qc_copy *p)
{
    int rank = 0;
    for (int i = 0; i < p->rank; i++) {
        const int64_t n = p->shape[i], source = p->source_stride[i], out = p->out_stride[i];
        if (n == 1)
            continue;
        if (rank && p->source_stride[rank - 1] == n * source && p->out_stride[rank - 1] == n * out)
            p->shape[rank - 1] *= n;
        else
            p->shape[rank++] = n;
        p->source_stride[rank - 1] = source;
        p->out_stride[rank - 1] = out;
    }
    if (rank == 0) {
        rank = 1;
        p->shape[0] = p->source_stride[0] = p->out_stride[0] = 1;
    }
    p->rank = rank;
}

/* Copies of a few bytes without a call; the ranges do not overlap. */
QC_INLINE void copy_bytes(uint8_t *out, const uint8_t *x, int64_t count)
{
    if (count > 256) {
        memcpy(out, x, (size_t)count);
    } else if (count >= 16) {
        for (int64_t i = 0; i < count - 16; i += 16)
            memcpy(out + i, x + i, 16);
        memcpy(out + count - 16, x + count - 16, 16);
    } else {
        for (int64_t i = 0; i < count; i++)
            out[i] = x[i];
    }
}

#define COPY_ROWS(TYPE)                                                                           \
    for (int64_t top = 0; top < rows; top += TILE)                                                \
        for (int64_t left = 0; left < columns; left += TILE)                                      \
            for (int64_t i = top; i < qc_min(top + TILE, rows); i++) {                            \
                const TYPE *from = (const TYPE *)x + i * x_row;                                   \
                TYPE *to = (TYPE *)out + i * out_row;                                             \
                for (int64_t j = left; j < qc_min(left + TILE, columns); j++)                     \
                    to[j * out_column] = from[j * x_column];                                      \
            }

/* A matrix of rows x columns elements, in tiles where an axis is strided. Inlined, it would take the stack of each
 * axis outside of it. */
__attribute__((noinline)) static void copy_matrix(const uint8_t *x, int64_t x_row, int64_t x_column, uint8_t *out,
                                                  int64_t out_row, int64_t out_column, int64_t rows, int64_t columns,
                                                  int size)
{
    if (x_column == 1 && out_column == 1) {
        for (int64_t i = 0; i < rows; i++)
            copy_bytes(out + i * out_row * size, x + i * x_row * size, columns * size);
    } else if (size == 1 && x_row == 1 && out_column == 1) {
        qc_transpose_bytes(x, x_column, out, out_row, columns, rows);
#if defined(QC_SHUFFLES)
    } else if (size == 4 && x_row == 1 && out_column == 1 && rows >= 4 && columns >= 4) {
        qc_transpose_words((const int32_t *)x, x_column, (int32_t *)out, out_row, columns, rows);
#endif
    } else if (size == 1) {
        COPY_ROWS(uint8_t)
#if QC_SMALL /* less code */
    } else {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++)
                memcpy(out + (i * out_row + j * out_column) * size, x + (i * x_row + j * x_column) * size,
                       (size_t)size);
    }
#else
    } else if (size == 2) {
        COPY_ROWS(uint16_t)
    } else if (size == 4) {
        COPY_ROWS(uint32_t)
    } else {
        COPY_ROWS(uint64_t)
    }
#endif
}

/* Moves the axis along which the source is dense next to the last one, and gives every copy two axes. */
static void make_matrix(qc_copy *p)
{
    if (p->rank == 1) {
        p->shape[1] = p->shape[0];
        p->source_stride[1] = p->source_stride[0];
        p->out_stride[1] = p->out_stride[0];
        p->shape[0] = 1;
        p->source_stride[0] = p->out_stride[0] = 0;
        p->rank = 2;
    }
    const int last = p->rank - 1;
    for (int i = 0; i < last - 1 && p->source_stride[last] != 1; i++)
        if (p->source_stride[i] == 1)
            for (int j = i; j < last - 1; j++) {
                SWAP(p->shape, j, j + 1)
                SWAP(p->source_stride, j, j + 1)
                SWAP(p->out_stride, j, j + 1)
            }
}

typedef struct {
    const qc_copy *p;
    const uint8_t *x;
    uint8_t *out;
    int cut;                 /* the axis that is cut between threads */
} copy_job;

/* Inlined into itself, it would take the stack of several. */
__attribute__((noinline)) static void copy_axis(const qc_copy *p, const uint8_t *x, uint8_t *out, int axis)
{
    const int64_t x_step = p->source_stride[axis], out_step = p->out_stride[axis];
    if (axis == p->rank - 2) {
        copy_matrix(x, x_step, p->source_stride[axis + 1], out, out_step, p->out_stride[axis + 1], p->shape[axis],
                    p->shape[axis + 1], p->item_size);
        return;
    }
    for (int64_t i = 0; i < p->shape[axis]; i++)
        copy_axis(p, x + i * x_step * p->item_size, out + i * out_step * p->item_size, axis + 1);
}

static void copy_task(const void *argument, int index, int count)
{
    const copy_job *job = argument;
    qc_copy part = *job->p;
    const int64_t first = part.shape[job->cut] * index / count, end = part.shape[job->cut] * (index + 1) / count;
    part.shape[job->cut] = end - first;
    if (first < end)
        copy_axis(&part, job->x + first * part.source_stride[job->cut] * part.item_size,
                  job->out + first * part.out_stride[job->cut] * part.item_size, 0);
}

void qc_copy_nd(const qc_context *c, const qc_copy *given, const void *x, void *out)
{
    qc_copy p = *given;
    int64_t count = 1;
    for (int i = 0; i < p.rank; i++)
        count *= p.shape[i];
    if (count == 0)
        return;
    copy_job job = {&p, (const uint8_t *)x + p.source_offset * p.item_size,
                    (uint8_t *)out + p.out_offset * p.item_size, 0};
    sort_axes(&p);
    join_axes(&p);
    if (p.rank == 1 && p.source_stride[0] == 1 && p.out_stride[0] == 1 && job.x == job.out)
        return;
    make_matrix(&p);
    for (int i = 1; i < p.rank; i++)
        if (p.shape[i] > p.shape[job.cut])
            job.cut = i;
    qc_parallel(c, copy_task, &job, count * p.item_size * 4);
}

/* Fills `count` items with the low bytes of `bits`; a value without items may have no address. */
void qc_fill(void *out, int64_t count, int32_t item_size, uint64_t bits)
{
    uint8_t *target = out;
    if (count == 0)
        return;
    if (item_size == 1) {
        memset(target, (int)(bits & 255), (size_t)count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        memcpy(target + i * item_size, &bits, (size_t)item_size);
}
