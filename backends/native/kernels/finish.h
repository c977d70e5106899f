/* What follows requantization in vectors of bytes: clamp, table, residual. */
#ifndef QC_FINISH_H
#define QC_FINISH_H

#include "vector_sum.h"

/* The scaling of a vector of channels with 64-bit products. */
QC_INLINE vec_scaling load_scaling(const qc_epilogue *e, int64_t channel)
{
    return vec_scaling_of(vec_load(e->multiplier + channel), vec_load(e->shift + channel), e->zero_point);
}

/* The steps after the requantization. */
typedef struct {
    vec low, high;
    vec_table table;
    vec_sum sum;
    int has_table, has_residual;
} finishing;

QC_INLINE finishing finishing_of(const qc_epilogue *e, int has_residual)
{
    finishing f;
    f.low = V(set1_epi8)((char)e->qmin);
    f.high = V(set1_epi8)((char)e->qmax);
    f.has_table = e->table != NULL;
    f.has_residual = has_residual;
    if (f.has_table)
        f.table = vec_table_of(e->table);
    if (has_residual)
        f.sum = vec_sum_of(e->add);
    return f;
}

/* Finishes requantized bytes; `residual` may be read up to a whole vector. */
QC_INLINE vec finish_bytes(const finishing *f, vec y, const uint8_t *residual)
{
    y = vec_clamp_bytes(y, f->low, f->high);
    if (f->has_table)
        y = vec_look_up(&f->table, y);
    if (f->has_residual)
        y = vec_sum_bytes(&f->sum, y, vec_load(residual));
    return y;
}

#endif
