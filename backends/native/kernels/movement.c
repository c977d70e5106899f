/* Data movement: every reshape, permute, slice, pad, expand and concat is a strided copy. */
#include "arith.h"

#include <string.h>

static void sort_axes(qc_copy *p)
{
    for (int i = 1; i < p->rank; i++)
        for (int j = i; j > 0 && p->out_stride[j] > p->out_stride[j - 1]; j--) {
#define SWAP(v) { const int64_t t = v[j]; v[j] = v[j - 1]; v[j - 1] = t; }
            SWAP(p->shape) SWAP(p->source_stride) SWAP(p->out_stride)
#undef SWAP
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

#define COPY_ROW(TYPE)                                                                                \
    {                                                                                                 \
        const TYPE *from = (const TYPE *)source;                                                      \
        TYPE *to = (TYPE *)out;                                                                       \
        for (int64_t i = 0; i < count; i++)                                                           \
            to[i * out_step] = from[i * source_step];                                                 \
        return;                                                                                       \
    }

static void copy_row(const uint8_t *source, int64_t source_step, uint8_t *out, int64_t out_step, int64_t count,
                     int size)
{
    if (source_step == 1 && out_step == 1) {
        if (source != out)
            memcpy(out, source, (size_t)(count * size));
        return;
    }
    if (size == 1)
        COPY_ROW(uint8_t)
    if (size == 2)
        COPY_ROW(uint16_t)
    if (size == 4)
        COPY_ROW(uint32_t)
    COPY_ROW(uint64_t)
}

static void copy_axis(const qc_copy *p, const uint8_t *source, uint8_t *out, int axis)
{
    if (axis == p->rank - 1) {
        copy_row(source, p->source_stride[axis], out, p->out_stride[axis], p->shape[axis], p->item_size);
        return;
    }
    for (int64_t i = 0; i < p->shape[axis]; i++)
        copy_axis(p, source + i * p->source_stride[axis] * p->item_size, out + i * p->out_stride[axis] * p->item_size,
                  axis + 1);
}

void qc_copy_nd(const qc_context *c, const qc_copy *given, const void *x, void *out)
{
    qc_copy p = *given;
    (void)c;
    for (int i = 0; i < p.rank; i++)
        if (p.shape[i] == 0)
            return;
    sort_axes(&p);
    join_axes(&p);
    copy_axis(&p, (const uint8_t *)x + p.source_offset * p.item_size, (uint8_t *)out + p.out_offset * p.item_size, 0);
}

/* Fills `count` items with the low bytes of `bits`. */
void qc_fill(void *out, int64_t count, int32_t item_size, uint64_t bits)
{
    uint8_t *target = out;
    if (item_size == 1) {
        memset(target, (int)(bits & 255), (size_t)count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        memcpy(target + i * item_size, &bits, (size_t)item_size);
}
