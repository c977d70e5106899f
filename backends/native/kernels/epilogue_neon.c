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
        t->out += taken * t->stride;
        t->residual = t->residual ? t->residual + taken * t->stride : NULL;
        t->more = t->more ? t->more + taken * QC_TILE_LD : NULL;
        t->sums = t->sums ? t->sums + taken * QC_TILE_LD : NULL;
    }
}

/* With 64-bit products, where no shifts of vectors give SR. */
static void finish_exactly(tile_target *t, int rows)
{
    const qc_tile *tile = t->tile;
    int32_t sums[QC_TILE_ROWS * QC_TILE_LD];
    t->sums = sums;
    t->rare = 1;
    t->form = CLAMPED;
    compute_rows(t, rows, (tile->columns + QC_PANEL - 1) / QC_PANEL * QC_PANEL);
    qc_finish_rows(tile->epilogue, sums, rows, tile->channel, tile->columns, tile->residual, tile->out,
                   tile->out_stride);
}

/* With a table behind the requantization. */
static void finish_apart(tile_target *t, int rows)
{
    const qc_tile *tile = t->tile;
    int8_t bytes[QC_TILE_ROWS * QC_TILE_LD];
    t->out = (uint8_t *)bytes;
    t->stride = QC_TILE_LD;
    t->residual = NULL;
    compute_rows(t, rows, tile->columns);
    finish_rows(tile->epilogue, bytes, rows, tile->columns, tile->residual, tile->out, tile->out_stride);
}

static tile_target target_of(const qc_tile *tile)
{
    static const int32_t zeros[QC_TILE_LD];
    const qc_epilogue *e = tile->epilogue;
    tile_target t = {.tile = tile, .rows = tile->rows, .groups = 1, .start = tile->start_step ? zeros : tile->start,
                     .more = tile->start_step ? tile->start : NULL, .sums = tile->sums, .out = tile->out,
                     .stride = tile->out_stride};
    t.rare = t.more || t.sums || e->left;
    t.form = CLAMPED;
    if (tile->sums)
        return t;
    t.residual = tile->residual;
    t.form = form_of(e);
    if (t.form == FROM_ZERO && (t.rare || t.residual))
        t.form = SATURATED;
    t.zero_point = vdupq_n_s16((int16_t)e->zero_point);
    t.low = vdupq_n_s8((int8_t)e->qmin);
    t.high = vdupq_n_s8((int8_t)e->qmax);
    if (t.residual)
        t.sum = byte_sum_of(e->add);
    return t;
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    tile_target t = target_of(tile);
    if (tile->sums)
        compute_rows(&t, rows, panels * QC_PANEL);
    else if (!tile->epilogue->right)
        finish_exactly(&t, rows);
    else if (tile->epilogue->table)
        finish_apart(&t, rows);
    else
        compute_rows(&t, rows, tile->columns);
}

int64_t qc_tile_strip(const qc_tile *tile, int64_t rows, int panels)
{
    (void)panels;
    if (!tile->epilogue->right || tile->epilogue->table)
        return 0;
    tile_target t = target_of(tile);
    t.groups = rows / QC_NEON_ROWS;
#if QC_NEON_ROWS == 8
    if (rows % 8 && rows % 8 < 4) /* eight more are left for two tiles, as below */
        t.groups = qc_max(t.groups - 1, 0);
#endif
    if (t.groups)
        qc_tile_columns(&t, QC_NEON_ROWS, tile->columns);
    return t.groups * QC_NEON_ROWS;
}

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
#if QC_NEON_ROWS == 8
    /* Two tiles at a time; the last two share their rows, for a single row takes as many loads as five. */
    if (left <= 8)
        return (int)left;
    return left < 12 ? (int)(left + 1) / 2 : left == 16 || left > 19 ? 16 : 8;
#else
    return (int)(left >= 16 ? 16 : left >= 8 ? 8 : qc_min(left, 4));
#endif
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    if (!e->right) {
        qc_finish_rows(e, sums, rows, channel, columns, residual, out, stride);
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
