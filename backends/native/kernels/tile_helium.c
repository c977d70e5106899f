/* GEMM tiles with vmladava on Helium: four rows by two columns, or one row by eight.
 *
 * A vmladava adds 16 products of bytes to a general register of even number: eight sums take all of those, so
 * that six registers are left for pointers and a counter. No compiler allots them like that: the loops are
 * assembly. Weights are packed for it: a tap of a panel is [8 pairs of columns] of whole steps of 16 bytes of the
 * depth, [steps][2][16], and then the rest of the depth of either column, [2][rest]. */
#include "level.h"

#if defined(QC_HELIUM)
#include "arith.h"
#include "tile.h"

#include <arm_mve.h>

#define ROWS 4

/* What the loops take, in the order in which they load it. Bytes of the unrolled loop to leave out at first,
 * instructions of 4 bytes each, say where it is entered. */
typedef struct {
    const uint8_t *const *pointers; /* of the rows by taps, and a NULL behind the last tap */
    const int8_t *weight;
    int32_t *sums, *sums_end;       /* sums to add to: of four rows QC_TILE_LD apart, or of one */
    int32_t passes, left_out;       /* through the loop over steps, and what the first one leaves out */
    int32_t next_tap, next_pair;    /* bytes from the weights behind one to those of the next */
    int32_t rest;                   /* bytes of the depth behind whole steps */
    int32_t is_plain;               /* whether there is one tap and no rest of it */
} dot_block;

#define LOAD(q, pointer) "vldrb.u8 " q ", [" pointer "], #16\n"
#define ADD(sum, a, b) "vmladava.s8 " sum ", " a ", " b "\n"
/* Products of q0 and q1 with what follows in each row. */
#define TIMES_ROWS(MORE)                                                                             \
    ADD("r8", "q2", "q1") ADD("r2", "q3", "q0") MORE("q2", "r5") ADD("r10", "q3", "q1")              \
    ADD("r4", "q2", "q0") MORE("q3", "r7") ADD("r12", "q2", "q1") ADD("r6", "q3", "q0")              \
    ADD("lr", "q3", "q1")
#define STEP_4X2                                                                                     \
    LOAD("q0", "r9") LOAD("q2", "r1") LOAD("q1", "r9") ADD("r0", "q2", "q0") LOAD("q3", "r3")        \
    TIMES_ROWS(LOAD)
#define LAST(q, pointer) "vldrb.u8 " q ", [" pointer "]\n"

/* Sums of four rows with the pairs of columns from `sums` to `sums_end`. */
__attribute__((noinline)) static void dot_4x2(const dot_block *given)
{
    register const dot_block *block __asm__("r0") = given;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "ldm r0, {r1-r10}\n"
        /* 0 pointers, 4 weight, 8 sums, 12 end, 16 passes, 20 entry, 24 tap, 28 pair, 32 rest, 36 exit */
        "push {r1-r10}\n"
        "adr r1, 3f\n"
        "add r1, r1, r6\n"
        "orr r1, r1, #1\n"
        "str r1, [sp, #20]\n"
        "adr.w r1, 4f\n"
        "adr.w r3, 6f\n"
        "cmp r10, #0\n"
        "it ne\n"
        "movne r1, r3\n"
        "orr r1, r1, #1\n"
        "str r1, [sp, #36]\n"
        "mov r9, r2\n"
        "1:\n" /* a pair of columns */
        "ldr r1, [sp, #8]\n"
        "ldrd r0, r8, [r1]\n"
        "ldrd r2, r10, [r1, #256]\n"
        "ldrd r4, r12, [r1, #512]\n"
        "ldrd r6, lr, [r1, #768]\n"
        "ldr r11, [sp]\n"
        "ldm r11!, {r1, r3, r5, r7}\n"
        "str r11, [sp, #4]\n"
        "ldr r11, [sp, #16]\n"
        "ldr pc, [sp, #20]\n"
        ".p2align 2\n"
        "3:\n"
        ".rept 8\n" STEP_4X2 ".endr\n"
        "subs r11, r11, #1\n"
        "bne 3b\n"
        "ldr pc, [sp, #36]\n"
        ".p2align 2\n"
        "4:\n"
        "ldr r11, [sp, #32]\n"
        "cmp r11, #0\n"
        "beq 5f\n"
        "vctp.8 r11\n"
        "vpst\n"
        "vldrbt.u8 q0, [r9]\n"
        LAST("q2", "r1")
        "add r9, r9, r11\n"
        ADD("r0", "q2", "q0")
        "vpst\n"
        "vldrbt.u8 q1, [r9]\n"
        "add r9, r9, r11\n"
        LAST("q3", "r3")
        TIMES_ROWS(LAST)
        "5:\n"
        "ldr r11, [sp, #4]\n"
        "ldm r11!, {r1, r3, r5, r7}\n"
        "cmp r1, #0\n"
        "beq 6f\n"
        "str r11, [sp, #4]\n"
        "ldr r11, [sp, #24]\n"
        "add r9, r9, r11\n"
        "ldr r11, [sp, #16]\n"
        "ldr pc, [sp, #20]\n"
        ".p2align 2\n"
        "6:\n"
        "ldr r1, [sp, #8]\n"
        "ldr r3, [sp, #12]\n"
        "ldr r5, [sp, #28]\n"
        "strd r2, r10, [r1, #256]\n"
        "strd r4, r12, [r1, #512]\n"
        "strd r6, lr, [r1, #768]\n"
        "strd r0, r8, [r1], #8\n"
        "str r1, [sp, #8]\n"
        "add r9, r9, r5\n"
        "cmp r1, r3\n"
        "bne 1b\n"
        "add sp, sp, #40\n"
        "pop {r4-r11, lr}\n"
        : "+r"(block)
        :
        : "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "cc", "memory");
}

#define TIMES_COLUMNS(pointer, a, b)                                                                  \
    LOAD("q1", pointer) ADD(a, "q0", "q1") LOAD("q2", pointer) ADD(b, "q0", "q2")
#define STEP_1X8                                                                                      \
    LOAD("q0", "r1") TIMES_COLUMNS("r3", "r0", "r2") TIMES_COLUMNS("r5", "r4", "r6")                  \
    TIMES_COLUMNS("r7", "r8", "r10") TIMES_COLUMNS("r9", "r12", "lr")
#define LAST_COLUMNS(pointer, a, b)                                                                   \
    LAST("q1", pointer) "add " pointer ", " pointer ", r11\n" ADD(a, "q0", "q1")                      \
    LAST("q2", pointer) "add " pointer ", " pointer ", r11\n" ADD(b, "q0", "q2")

/* Sums of one row of one tap with columns by eight from `sums` to `sums_end`; `next_pair` is what a pair takes. */
__attribute__((noinline)) static void dot_1x8(const dot_block *given)
{
    register const dot_block *block __asm__("r0") = given;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "ldm r0, {r1-r8, r12}\n"
        "push {r1-r8, r12}\n"
        "adr r1, 3f\n"
        "add r1, r1, r6\n"
        "orr r1, r1, #1\n"
        "str r1, [sp, #20]\n"
        "mov r9, r2\n"
        "1:\n" /* eight columns */
        "ldr r1, [sp, #8]\n"
        "ldr r11, [sp, #28]\n"
        "ldm r1, {r0, r2, r4, r6, r8, r10, r12, lr}\n"
        "mov r3, r9\n"
        "add r5, r3, r11\n"
        "add r7, r5, r11\n"
        "add r9, r7, r11\n"
        "ldr r1, [sp]\n"
        "ldr r1, [r1]\n"
        "ldr r11, [sp, #16]\n"
        "ldr pc, [sp, #20]\n"
        ".p2align 2\n"
        "3:\n"
        ".rept 8\n" STEP_1X8 ".endr\n"
        "subs r11, r11, #1\n"
        "bne 3b\n"
        "ldr r11, [sp, #32]\n"
        "cmp r11, #0\n"
        "beq 4f\n"
        "vctp.8 r11\n"
        "vpst\n"
        "vldrbt.u8 q0, [r1]\n"
        LAST_COLUMNS("r3", "r0", "r2")
        LAST_COLUMNS("r5", "r4", "r6")
        LAST_COLUMNS("r7", "r8", "r10")
        LAST_COLUMNS("r9", "r12", "lr")
        "4:\n"
        "ldr r1, [sp, #8]\n"
        "ldr r3, [sp, #12]\n"
        "stm r1!, {r0, r2, r4, r6, r8, r10, r12, lr}\n"
        "str r1, [sp, #8]\n"
        "cmp r1, r3\n"
        "bne 1b\n"
        "add sp, sp, #36\n"
        "pop {r4-r11, lr}\n"
        : "+r"(block)
        :
        : "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "cc", "memory");
}

#define UNROLLED 8 /* steps of either loop */

/* What does not depend on the panel; `step_bytes` is the code of a step. */
static dot_block block_of(const qc_tile *tile, const uint8_t *const *pointers, int step_bytes)
{
    const int32_t depth = (int32_t)(4 * tile->k4), taps = (int32_t)tile->taps;
    const int32_t steps = depth / 16, first = steps ? (steps - 1) % UNROLLED + 1 : 0;
    return (dot_block){
        .pointers = pointers,
        .passes = steps ? (steps + UNROLLED - 1) / UNROLLED : 1,
        .left_out = (UNROLLED - first) * step_bytes,
        .next_tap = (QC_PANEL - 2) * depth,
        .next_pair = -(taps - 1) * QC_PANEL * depth,
        .rest = depth % 16,
        .is_plain = taps == 1 && depth % 16 == 0,
    };
}

/* Copies the values that sums start with, whole panels of them. */
static void start_sums(const qc_tile *tile, int rows, int64_t columns, int32_t *sums)
{
    const int32_t step = (int32_t)tile->start_step;
    const int32_t *start = tile->start;
    if (rows == ROWS && step == 0) {
        for (int32_t left = (int32_t)columns; left > 0; left -= 4, start += 4, sums += 4) {
            const int32x4_t v = vld1q_s32(start);
            vst1q_s32(sums, v);
            vst1q_s32(sums + QC_TILE_LD, v);
            vst1q_s32(sums + 2 * QC_TILE_LD, v);
            vst1q_s32(sums + 3 * QC_TILE_LD, v);
        }
        return;
    }
    for (int r = 0; r < rows; r++, start += step, sums += QC_TILE_LD)
        for (int32_t n = 0; n < (int32_t)columns; n += 4)
            vst1q_s32(sums + n, vld1q_s32(start + n));
}

static void sum_row(const qc_tile *tile, int64_t columns, int32_t *sums)
{
    const uint8_t *row = tile->rows[0] + tile->offsets[0];
    dot_block block = block_of(tile, &row, 4 * 17);
    block.weight = tile->weight;
    block.sums = sums;
    block.sums_end = sums + (columns + 7) / 8 * 8;
    block.next_pair = 2 * 4 * (int32_t)tile->k4;
    dot_1x8(&block);
}

static void sum_rows(const qc_tile *tile, int64_t columns, int32_t *sums)
{
    const uint8_t *pointers[(QC_TILE_TAPS + 1) * ROWS];
    for (int64_t t = 0; t < tile->taps; t++)
        for (int r = 0; r < ROWS; r++)
            pointers[t * ROWS + r] = tile->rows[t * tile->row_step + r] + tile->offsets[t];
    for (int r = 0; r < ROWS; r++)
        pointers[tile->taps * ROWS + r] = NULL;
    dot_block block = block_of(tile, pointers, 4 * 14);
    for (int64_t n = 0; n < columns; n += QC_PANEL) {
        block.weight = tile->weight + n / QC_PANEL * tile->panel_stride;
        block.sums = sums + n;
        block.sums_end = sums + n + (qc_min(columns - n, QC_PANEL) + 1) / 2 * 2;
        dot_4x2(&block);
    }
}

int qc_tile_rows(int64_t left, int panels)
{
    (void)panels;
    return left < ROWS ? (int)left : ROWS;
}

void qc_tile_u8_s8(const qc_tile *tile, int rows, int panels)
{
    const int64_t columns = qc_min(tile->columns, panels * QC_PANEL);
    const int is_row = tile->taps == 1 && rows == 1;
    /* Four rows are written whatever the tile has. */
    int32_t own[ROWS * QC_TILE_LD], *sums = tile->sums && (is_row || rows == ROWS) ? tile->sums : own;
    start_sums(tile, rows, columns, sums);
    if (is_row)
        sum_row(tile, columns, sums);
    else
        sum_rows(tile, columns, sums);
    qc_tile_deliver(tile, sums, rows, columns);
}
#else
typedef int qc_empty_translation_unit;
#endif
