/* GEMM tiles with smlad on cores with DSP instructions: six rows by one column, or one row by four columns.
 *
 * smlad adds two products of 16 bits. What sxtb16 makes of four bytes are two such pairs, the bytes of even and of
 * odd place. Rows are taken apart like that once for all columns of a tile, a chunk of the depth at a time, and
 * stand so that one load brings the pairs of two rows; each word of weights is taken apart when it is used. Sums,
 * pairs and pointers of six rows take all registers that there are, which is why the loops are assembly. */
#include "level.h"

#if defined(QC_DSP)
#include "arith.h"
#include "tile.h"

#define ROWS 6
#define CHUNK 32  /* groups of four bytes of the depth */
#define UNROLLED 4

/* What the loops take, in the order in which they load it. `left_out` is the code of the unrolled loop that the
 * first pass leaves out: its instructions have 4 bytes each. */
typedef struct {
    const uint32_t *pairs;     /* [groups][rows][2] */
    const uint32_t *pairs_end;
    const int8_t *weight;
    int32_t passes, left_out;
    int32_t *sums_end;
    int32_t *sums;             /* sums to add to: of six rows QC_TILE_LD apart, or of one */
} dot_block;

#define SPLIT(even, odd) "sxtb16 " even ", " odd "\nsxtb16 " odd ", " odd ", ror #8\n"
#define ADD(sum, a, b) "smlad " sum ", " a ", " b ", " sum "\n"
#define TWO_ROWS(a, b)                                                                                    \
    "ldm r0!, {r8-r11}\n" ADD(a, "r8", "r3") ADD(b, "r10", "r3") ADD(a, "r9", "r12") ADD(b, "r11", "r12")
#define STEP_6X1                                                                                          \
    "ldr r12, [r1], #64\n" SPLIT("r3", "r12")                                                             \
    TWO_ROWS("r2", "r4") TWO_ROWS("r5", "r6") TWO_ROWS("r7", "lr")
#define STEP_6X1_BYTES (4 * 18)

/* Sums of six rows with columns from `sums` to `sums_end`, all of one panel. */
__attribute__((noinline)) static void dot_6x1(const dot_block *given)
{
    register const dot_block *block __asm__("r0") = given;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "ldm r0, {r1-r7}\n"
        "push {r1-r7}\n" /* 0 pairs, 4 end, 8 weight, 12 passes, 16 entry, 20 end of sums, 24 sums */
        "adr r1, 2f\n"
        "add r1, r1, r5\n"
        "orr r1, r1, #1\n"
        "str r1, [sp, #16]\n"
        "1:\n" /* a column */
        "ldr r3, [sp, #24]\n"
        "ldr r2, [r3]\n"
        "ldr r4, [r3, #128]\n"
        "ldr r5, [r3, #256]\n"
        "ldr r6, [r3, #384]\n"
        "ldr r7, [r3, #512]\n"
        "ldr lr, [r3, #640]\n"
        "ldr r0, [sp]\n"
        "ldr r1, [sp, #8]\n"
        "ldr pc, [sp, #16]\n"
        ".p2align 2\n"
        "2:\n"
        STEP_6X1 STEP_6X1 STEP_6X1 STEP_6X1
        "ldr r3, [sp, #4]\n"
        "cmp r0, r3\n"
        "bne 2b\n"
        "ldr r1, [sp, #8]\n"
        "ldr r3, [sp, #24]\n"
        "ldr r8, [sp, #20]\n"
        "add r1, r1, #4\n"
        "str r4, [r3, #128]\n"
        "str r5, [r3, #256]\n"
        "str r6, [r3, #384]\n"
        "str r7, [r3, #512]\n"
        "str lr, [r3, #640]\n"
        "str r2, [r3], #4\n"
        "str r1, [sp, #8]\n"
        "str r3, [sp, #24]\n"
        "cmp r3, r8\n"
        "bne 1b\n"
        "add sp, sp, #28\n"
        "pop {r4-r11, lr}\n"
        : "+r"(block)
        :
        : "r1", "r2", "r3", "r12", "cc", "memory");
}

#define COLUMN(sum, w) SPLIT("lr", w) ADD(sum, "lr", "r3") ADD(sum, w, "r12")
#define STEP_1X4                                                                                       \
    "ldm r1, {r8-r11}\nadd.w r1, r1, #64\nldrd r3, r12, [r0], #8\n"                                    \
    COLUMN("r4", "r8") COLUMN("r5", "r9") COLUMN("r6", "r10") COLUMN("r7", "r11")
#define STEP_1X4_BYTES (4 * 19)

/* Sums of one row with columns by four from `sums` to `sums_end`, all of one panel. */
__attribute__((noinline)) static void dot_1x4(const dot_block *given)
{
    register const dot_block *block __asm__("r0") = given;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "ldm r0, {r1-r7}\n"
        "push {r1-r7}\n"
        "adr r1, 2f\n"
        "add r1, r1, r5\n"
        "orr r1, r1, #1\n"
        "str r1, [sp, #16]\n"
        "1:\n" /* four columns */
        "ldr r3, [sp, #24]\n"
        "ldr r0, [sp]\n"
        "ldr r1, [sp, #8]\n"
        "ldr r2, [sp, #12]\n"
        "ldm r3, {r4-r7}\n"
        "ldr pc, [sp, #16]\n"
        ".p2align 2\n"
        "2:\n"
        STEP_1X4 STEP_1X4 STEP_1X4 STEP_1X4
        "subs r2, r2, #1\n"
        "bne 2b\n"
        "ldr r3, [sp, #24]\n"
        "ldr r1, [sp, #8]\n"
        "ldr r2, [sp, #20]\n"
        "stm r3!, {r4-r7}\n"
        "add r1, r1, #16\n"
        "str r1, [sp, #8]\n"
        "str r3, [sp, #24]\n"
        "cmp r3, r2\n"
        "bne 1b\n"
        "add sp, sp, #28\n"
        "pop {r4-r11, lr}\n"
        : "+r"(block)
        :
        : "r1", "r2", "r3", "r12", "cc", "memory");
}

QC_INLINE void split_word(uint32_t word, uint32_t *out)
{
    __asm__("sxtb16 %0, %1" : "=r"(out[0]) : "r"(word));
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(out[1]) : "r"(word));
}

/* Takes `groups` groups of four bytes apart into pairs that lie `step` words from each other, a constant. */
QC_INLINE uint32_t *take_apart(const uint8_t *bytes, int32_t groups, int step, uint32_t *out)
{
    const qc_uint32_anywhere *x = (const qc_uint32_anywhere *)(const void *)bytes;
    for (; groups >= 4; groups -= 4, x += 4, out += 4 * step) {
        split_word(x[0], out);
        split_word(x[1], out + step);
        split_word(x[2], out + 2 * step);
        split_word(x[3], out + 3 * step);
    }
    for (; groups > 0; groups--, out += step)
        split_word(*x++, out);
    return out;
}

/* Where a chunk begins: a tap, and groups of it that are done. */
typedef struct {
    int64_t tap, done;
} depth_place;

/* Pairs of row r from a place on, at most a chunk of them; the place moves behind them. Returns their number. */
static int64_t fill_row(const qc_tile *tile, int r, depth_place *at, int step, uint32_t *out)
{
    int64_t groups = 0;
    while (at->tap < tile->taps && groups < CHUNK) {
        const uint8_t *row = tile->rows[at->tap * tile->row_step + r] + tile->offsets[at->tap];
        const int64_t taken = qc_min(tile->k4 - at->done, CHUNK - groups);
        if (step == 2 * ROWS)
            out = take_apart(row + 4 * at->done, (int32_t)taken, 2 * ROWS, out);
        else
            out = take_apart(row + 4 * at->done, (int32_t)taken, 2, out);
        groups += taken;
        at->done += taken;
        if (at->done == tile->k4)
            *at = (depth_place){at->tap + 1, 0};
    }
    return groups;
}

/* Sums of `rows` rows from r on, six or one, with all columns. */
static void sum_rows(const qc_tile *tile, int r, int rows, int64_t columns, int32_t *sums)
{
    uint32_t pairs[CHUNK * 2 * ROWS];
    depth_place at = {0, 0};
    for (int64_t before = 0; at.tap < tile->taps;) {
        depth_place end = at;
        int64_t groups = 0;
        for (int i = 0; i < rows; i++) {
            end = at;
            groups = fill_row(tile, r + i, &end, 2 * rows, pairs + 2 * i);
        }
        at = end;
        const int32_t first = (int32_t)((groups - 1) % UNROLLED + 1);
        dot_block block = {.pairs = pairs, .pairs_end = pairs + groups * 2 * rows};
        for (int64_t n = 0; n < columns; n += QC_PANEL) {
            const int64_t taken = qc_min(columns - n, QC_PANEL);
            block.weight = tile->weight + n / QC_PANEL * tile->panel_stride + before * 4 * QC_PANEL;
            block.sums = sums + n;
            block.passes = (int32_t)(groups + UNROLLED - 1) / UNROLLED;
            if (rows == 1) {
                block.left_out = (UNROLLED - first) * STEP_1X4_BYTES;
                block.sums_end = block.sums + (taken + 3) / 4 * 4;
                dot_1x4(&block);
            } else {
                block.left_out = (UNROLLED - first) * STEP_6X1_BYTES;
                block.sums_end = block.sums + taken;
                dot_6x1(&block);
            }
        }
        before += groups;
    }
}

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    return left < ROWS ? (int)left : ROWS;
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    /* Six rows are written where a tile has five. */
    int32_t own[ROWS * QC_TILE_LD], *sums = tile->sums && rows != ROWS - 1 ? tile->sums : own;
    const int64_t columns = qc_min(tile->columns, panels * QC_PANEL);
    for (int r = 0; r < rows; r++) {
        const int32_t *start = tile->start + r * tile->start_step;
        for (int32_t n = 0; n < (int32_t)columns; n++)
            sums[r * QC_TILE_LD + n] = start[n];
    }
    /* Four single rows take as many instructions as six together. */
    if (rows > 4)
        sum_rows(tile, 0, ROWS, columns, sums);
    for (int r = 0; rows <= 4 && r < rows; r++)
        sum_rows(tile, r, 1, columns, sums + r * QC_TILE_LD);
    qc_tile_deliver(tile, sums, rows, columns);
}
#else
typedef int qc_empty_translation_unit;
#endif
