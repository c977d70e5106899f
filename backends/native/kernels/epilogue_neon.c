/* Tiles of NEON as the callers see them: sums alone, bytes, or bytes with what follows requantization. */
#include "level.h"

#if defined(QC_NEON)
#include "tile_neon.h"

/* Table and residual of requantized bytes; `bytes` has QC_TILE_LD per row. */
static void finish_rows(const qc_epilogue *e, const int8_t *bytes, int rows, int64_t columns, const uint8_t *residual,
                        uint8_t *out, int64_t stride)
{
    const byte_sum sum = byte_sum_of(e->add);
    byte_table table;
    if (e->table)
        table = byte_table_of(e->table);
    for (int r = 0; r < rows; r++, bytes += QC_TILE_LD, out += stride) {
        for (int64_t n = 0; n < columns; n += 16) {
            int8x16_t y = load16(bytes + n);
            if (e->table)
                y = look_up(&table, y);
            if (residual)
                y = sum_bytes(&sum, y, load16(residual + n));
            store_part(out + n, y, columns - n);
        }
        if (residual)
            residual += stride;
    }
}

/* Rows of a tile, as many at a time as registers hold. */
static void compute_rows(tile_target *t, int rows, int64_t columns)
{
    for (int done = 0, taken; done < rows; done += taken) {
        taken = (int)qc_min(rows - done, QC_NEON_ROWS);
        qc_tile_columns(t, taken, columns);
        t->rows += taken;
        t->start += taken * t->tile->start_step;
        t->out += taken * t->stride;
        t->sums = t->sums ? t->sums + taken * QC_TILE_LD : NULL;
    }
}

/* Requantizes sums with 64-bit products, where no shifts are given. */
static void finish_sums(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    for (int r = 0; r < rows; r++)
        for (int64_t n = 0; n < columns; n++) {
            const int64_t at = r * stride + n;
            const qc_code *more = residual ? (const qc_code *)residual + at : NULL;
            out[at] = (uint8_t)qc_finish(e, sums[r * QC_TILE_LD + n], channel + n, more);
        }
}

static void finish_exactly(tile_target *t, int rows)
{
    const qc_tile *tile = t->tile;
    int32_t sums[QC_TILE_ROWS * QC_TILE_LD];
    t->sums = sums;
    compute_rows(t, rows, (tile->columns + QC_PANEL - 1) / QC_PANEL * QC_PANEL);
    finish_sums(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out, tile->out_stride);
}

/* With a table or a residual behind the requantization. */
static void finish_apart(tile_target *t, int rows)
{
    const qc_tile *tile = t->tile;
    int8_t bytes[QC_TILE_ROWS * QC_TILE_LD];
    t->out = (uint8_t *)bytes;
    t->stride = QC_TILE_LD;
    compute_rows(t, rows, tile->columns);
    finish_rows(tile->epilogue, bytes, rows, tile->columns, tile->residual, tile->out, tile->out_stride);
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    tile_target t;
    t.tile = tile;
    t.rows = tile->rows;
    t.start = tile->start;
    t.sums = tile->sums;
    t.out = tile->out;
    t.stride = tile->out_stride;
    if (tile->sums) {
        compute_rows(&t, rows, panels * QC_PANEL);
        return;
    }
    if (!tile->epilogue->right) {
        finish_exactly(&t, rows);
        return;
    }
    t.zero_point = vdupq_n_s16((int16_t)tile->epilogue->zero_point);
    t.low = vdupq_n_s8((int8_t)tile->epilogue->qmin);
    t.high = vdupq_n_s8((int8_t)tile->epilogue->qmax);
    if (tile->epilogue->table || tile->residual)
        finish_apart(&t, rows);
    else
        compute_rows(&t, rows, tile->columns);
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    if (!e->right) {
        finish_sums(e, sums, rows, channel, columns, residual, out, stride);
        return;
    }
    const int16x8_t zero_point = vdupq_n_s16((int16_t)e->zero_point);
    const int8x16_t low = vdupq_n_s8((int8_t)e->qmin), high = vdupq_n_s8((int8_t)e->qmax);
    int8_t bytes[QC_TILE_ROWS * QC_TILE_LD];
    for (int64_t n = 0; n < columns; n += 8) {
        const int32x4_t m0 = vld1q_s32(e->multiplier + channel + n), m1 = vld1q_s32(e->multiplier + channel + n + 4);
        const int32x4_t s0 = vld1q_s32(e->right + channel + n), s1 = vld1q_s32(e->right + channel + n + 4);
        for (int r = 0; r < rows; r++) {
            int32x4_t v0 = vld1q_s32(sums + r * QC_TILE_LD + n), v1 = vld1q_s32(sums + r * QC_TILE_LD + n + 4);
            if (e->left) {
                v0 = vqshlq_s32(v0, vld1q_s32(e->left + channel + n));
                v1 = vqshlq_s32(v1, vld1q_s32(e->left + channel + n + 4));
            }
            const int16x8_t words = narrow_words(requant_lanes(v0, m0, s0), requant_lanes(v1, m1, s1), zero_point);
            vst1_s8(bytes + r * QC_TILE_LD + n, vget_low_s8(clamp_bytes(narrow_bytes(words, words), low, high)));
        }
    }
    finish_rows(e, bytes, rows, columns, residual, out, stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
