/* A product of one row with packed weights. Each weight is used once, so what counts is how fast they arrive:
 * panel after panel they are one run of addresses, which processors fetch ahead better than any prefetch
 * instruction, and better than several panels side by side. */
#include "conv.h"

#include <string.h>

#if defined(QC_AVX512)
#include <immintrin.h>
#endif

typedef struct {
    const qc_conv2d *p;
    const uint8_t *x, *residual;
    uint8_t *out;
    int32_t *out_i32;
    int64_t panels, k4;
} gemv_job;

#if defined(QC_AVX512)
QC_INLINE __m512i dot(__m512i sum, const uint8_t *x, const int8_t *weight)
{
    const __m512i a = _mm512_set1_epi32(*(const qc_int32_anywhere *)x);
    return _mm512_dpbusd_epi32(sum, a, _mm512_loadu_si512(weight));
}

/* Sums of `count` panels from `first` on. Four sums along the depth: the dot products of one form a chain. */
static void sum_panels(const gemv_job *job, int64_t first, int count, int32_t *sums)
{
    const int8_t *weight = job->p->weight + first * job->k4 * 4 * QC_PANEL;
    const int32_t *bias = job->p->epilogue.bias + first * QC_PANEL;
    for (int panel = 0; panel < count; panel++) {
        const uint8_t *x = job->x;
        __m512i s0 = _mm512_loadu_si512(bias + panel * QC_PANEL), s1 = _mm512_setzero_si512(), s2 = s1, s3 = s1;
        int64_t left = job->k4;
        for (; left >= 4; left -= 4, x += 16, weight += 16 * QC_PANEL) {
            s0 = dot(s0, x, weight);
            s1 = dot(s1, x + 4, weight + 4 * QC_PANEL);
            s2 = dot(s2, x + 8, weight + 8 * QC_PANEL);
            s3 = dot(s3, x + 12, weight + 12 * QC_PANEL);
        }
        for (; left > 0; left--, x += 4, weight += 4 * QC_PANEL)
            s0 = dot(s0, x, weight);
        s0 = _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
        _mm512_storeu_si512(sums + panel * QC_PANEL, s0);
    }
}
#else
static void sum_panels(const gemv_job *job, int64_t first, int count, int32_t *sums)
{
    const int64_t offset = 0, bytes = job->k4 * 4 * QC_PANEL, words = (job->k4 + 63) / 64;
    const uint64_t *unsaturated = job->p->unsaturated;
    const uint8_t *rows[QC_TILE_ROWS];
    for (int r = 0; r < QC_TILE_ROWS; r++)
        rows[r] = job->x;
    const qc_tile tile = {
        .rows = rows, .offsets = &offset, .taps = 1, .k4 = job->k4, .weight = QC_WEIGHTS(job->p) + first * bytes,
        .panel_stride = bytes,
        .unsaturated = unsaturated ? unsaturated + first * (QC_PANEL / 8) * words : NULL, .unsaturated_stride = words,
        .start = job->p->epilogue.bias + first * QC_PANEL, .sums = sums,
        .columns = count * QC_PANEL,
    };
    qc_tile_u8_s8(&tile, 1, count);
}
#endif

static void gemv_task(const void *argument, int index, int count)
{
    const gemv_job *job = argument;
    const qc_conv2d *p = job->p;
    const int64_t last = job->panels * (index + 1) / count;
    int32_t sums[QC_TILE_LD] QC_ALIGNED;
    for (int64_t panel = job->panels * index / count; panel < last; panel += QC_TILE_PANELS) {
        const int taken = (int)qc_min(QC_TILE_PANELS, last - panel);
        const int64_t at = panel * QC_PANEL, columns = qc_min(taken * QC_PANEL, p->out_channels - at);
        sum_panels(job, panel, taken, sums);
        if (job->out_i32)
            memcpy(job->out_i32 + at, sums, (size_t)columns * sizeof *sums);
        else
            qc_tile_requant_u8(&p->epilogue, sums, 1, at, columns, job->residual ? job->residual + at : NULL,
                               job->out + at, 0);
    }
}

static void run_gemv(const qc_context *context, gemv_job *job)
{
    job->panels = (job->p->out_channels + QC_PANEL - 1) / QC_PANEL;
    job->k4 = qc_depth_quads(job->p->channels);
    qc_parallel(context, gemv_task, job, job->p->channels * job->p->out_channels);
}

void qc_gemv_u8_s8c_u8(const qc_context *c, const qc_conv2d *p, const qc_code *x, const qc_code *residual,
                       qc_code *out)
{
    gemv_job job = {.p = p, .x = (const uint8_t *)x, .residual = (const uint8_t *)residual, .out = (uint8_t *)out};
    run_gemv(c, &job);
}

void qc_gemv_u8_s8c_i32(const qc_context *c, const qc_conv2d *p, const qc_code *x, int32_t *out)
{
    gemv_job job = {.p = p, .x = (const uint8_t *)x, .out_i32 = out};
    run_gemv(c, &job);
}
