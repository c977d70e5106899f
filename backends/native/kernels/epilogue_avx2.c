/* The epilogue over stored sums on AVX2. */
#include "level.h"

#if defined(QC_AVX2)
#include "epilogue_avx2.h"
#include "tile.h"

/* Some columns of a tile, at most 32. */
typedef struct {
    const qc_epilogue *e;
    const int32_t *sums;
    int rows;
    int64_t channel, columns;
    const uint8_t *residual;
    uint8_t *out;
    int64_t stride;
} columns_of_tile;

/* `exact` and `only_clamp` are constants at each call. */
QC_INLINE void finish_columns(const columns_of_tile *c, int exact, int only_clamp)
{
    const qc_epilogue *e = c->e;
    const vecf offset = V(set1_ps)((float)e->zero_point + 0.5f);
    finishing f = {.low = V(set1_epi8)((char)e->qmin), .high = V(set1_epi8)((char)e->qmax)};
    vecf scale[4];
    vec_scaling scaling[4];
    if (!only_clamp)
        f = finishing_of(e, c->residual != NULL);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        if (exact)
            scaling[i] = load_scaling(e, c->channel + 8 * i);
        else
            scale[i] = _mm256_loadu_ps(e->scale + c->channel + 8 * i);
    const int32_t *sums = c->sums;
    const uint8_t *residual = c->residual;
    uint8_t *out = c->out;
    for (int r = 0; r < c->rows; r++, sums += QC_TILE_LD, out += c->stride) {
        vec v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const vec x = vec_load(sums + 8 * i);
            v[i] = exact ? vec_scale(&scaling[i], x) : requant_down(x, scale[i], offset);
        }
        vec y = vec_order(vec_pack(v[0], v[1], v[2], v[3]));
        y = only_clamp ? vec_clamp_bytes(y, f.low, f.high) : finish_bytes(&f, y, residual);
        store_columns(out, y, c->columns);
        if (residual)
            residual += c->stride;
    }
}

/* Apart from their callers: see begin_round_down. */
__attribute__((noinline)) static void clamp_down(const columns_of_tile *c)
{
    finish_columns(c, 0, 1);
}

__attribute__((noinline)) static void finish_down(const columns_of_tile *c)
{
    finish_columns(c, 0, 0);
}

__attribute__((noinline)) static void finish_exact(const columns_of_tile *c)
{
    finish_columns(c, 1, 0);
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    const uint32_t saved = e->scale ? begin_round_down() : 0;
    for (int64_t n = 0; n < columns; n += 32) {
        const columns_of_tile c = {e, sums + n, rows, channel + n, qc_min(32, columns - n),
                                   residual ? residual + n : NULL, out + n, stride};
        if (!e->scale)
            finish_exact(&c);
        else if (only_clamps(e, residual))
            clamp_down(&c);
        else
            finish_down(&c);
    }
    if (e->scale)
        end_round_down(saved);
}
#else
typedef int qc_empty_translation_unit;
#endif
