/* The tile functions in portable C. */
#include "level.h"

#if !defined(QC_AVX512) && !defined(QC_AVX2) && !defined(QC_NEON) && !defined(QC_HELIUM) && !defined(QC_DSP)
#include "arith.h"
#include "tile.h"

#include <string.h>

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    return left < 4 ? (int)left : 4;
}

static void dot_panel(const qc_tile *tile, int r, const int8_t *weight, int32_t acc[QC_PANEL])
{
    for (int64_t t = 0; t < tile->taps; t++) {
        const qc_code *row = (const qc_code *)(tile->rows[t * tile->row_step + r] + tile->offsets[t]);
        for (int64_t k = 0; k < tile->k4; k++, weight += 4 * QC_PANEL) {
            const int32_t a0 = row[4 * k], a1 = row[4 * k + 1], a2 = row[4 * k + 2], a3 = row[4 * k + 3];
            for (int n = 0; n < QC_PANEL; n++)
                acc[n] += a0 * weight[4 * n] + a1 * weight[4 * n + 1] + a2 * weight[4 * n + 2] +
                          a3 * weight[4 * n + 3];
        }
    }
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) {
            int32_t sums[QC_PANEL];
            const int64_t n = p * QC_PANEL, at = r * tile->out_stride + n;
            memcpy(sums, tile->start + r * tile->start_step + n, sizeof sums);
            dot_panel(tile, r, tile->weight + p * tile->panel_stride, sums);
            if (tile->sums)
                memcpy(tile->sums + r * QC_TILE_LD + n, sums, sizeof sums);
            else
                qc_tile_requant_u8(tile->epilogue, sums, 1, tile->channel + n, qc_min(QC_PANEL, tile->columns - n),
                                   tile->residual ? tile->residual + at : NULL, tile->out + at, 0);
        }
}

void qc_tile_requant_u8(const qc_epilogue *e, const int32_t *sums, int rows, int64_t channel, int64_t columns,
                        const uint8_t *residual, uint8_t *out, int64_t stride)
{
    qc_finish_rows(e, sums, rows, channel, columns, residual, out, stride);
}
#else
typedef int qc_empty_translation_unit;
#endif
