/* Calls kernels under the counting plugin of qemu and prints what each call was: its name, and how many products it
 * has, or results where it has none. The argument is the level. */
#include "qc.h"

#include <stdio.h>

int qc_select(const char *name);
void runner_begin(void);
void runner_end(void);
void op_conv2d(void);
void op_rows(void);
void op_depthwise(void);
void op_matmul(void);
void op_add(void);
void op_mul(void);
void op_table(void);
void op_max_pool(void);
void op_average(void);

#define ROOM (1 << 18)
static qc_code x[ROOM], y[ROOM], out[ROOM], table[256];
static int8_t weight[ROOM];
static int32_t bias[1024], multiplier[1024], shift[1024], right[1024];
static uint8_t scratch[ROOM] __attribute__((aligned(64)));
static const qc_context context = {1, scratch};
static const qc_epilogue epilogue = {.bias = bias, .multiplier = multiplier, .shift = shift, .right = right,
                                     .zero_point = -128, .qmin = -128, .qmax = 127};
static qc_conv2d conv;
static qc_matmul product;
static qc_binary pair;
static qc_pool pool;

/* Where the plugin begins and ends to count; calls of op_ functions between are what it counts. */
__attribute__((noinline)) void runner_begin(void) { __asm__ volatile(""); }
__attribute__((noinline)) void runner_end(void) { __asm__ volatile(""); }

__attribute__((noinline)) void op_conv2d(void) { qc_conv2d_u8_s8c_u8(&context, &conv, x, NULL, out); }
__attribute__((noinline)) void op_matmul(void) { qc_matmul_u8_u8_u8(&context, &product, x, y, out); }
__attribute__((noinline)) void op_add(void) { qc_add_u8(&context, &pair, x, y, out); }
__attribute__((noinline)) void op_mul(void) { qc_mul_u8(&context, &pair, x, y, out); }
__attribute__((noinline)) void op_table(void) { qc_table_u8(&context, 4096, table, x, out); }
__attribute__((noinline)) void op_max_pool(void) { qc_max_pool2d_u8(&context, &pool, x, out); }
__attribute__((noinline)) void op_average(void) { qc_adaptive_avg_pool2d_u8(&context, &pool, x, out); }

__attribute__((noinline)) void op_rows(void)
{
    const qc_conv2d_rows rows = {.conv = conv, .rows_at_once = 4};
    qc_conv2d_rows_u8_s8c_u8(&context, &rows, x, NULL, out);
}

__attribute__((noinline)) void op_depthwise(void)
{
    const qc_depthwise depthwise = {.conv = conv, .row_bytes = 64 * 64, .buffer_bytes = 64 * 64, .quad_columns = 40,
                                    .ring_rows = 8, .rows_at_once = 1};
    qc_depthwise_u8_s8c_u8(&context, &depthwise, x, NULL, out);
}

static void measure(const char *name, int64_t count, void (*op)(void))
{
    printf("%s %ld\n", name, (long)count);
    runner_begin();
    op();
    runner_end();
}

static void set_conv(int64_t size, int64_t channels, int64_t out_channels, int64_t kernel, int depthwise)
{
    conv = (qc_conv2d){.batch = 1, .height = size, .width = size, .channels = channels, .out_height = size,
                       .out_width = size, .out_channels = out_channels, .kernel_h = kernel, .kernel_w = kernel,
                       .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .pad_top = kernel / 2,
                       .pad_left = kernel / 2, .groups = depthwise ? channels : 1, .widest = 4, .block_rows = 200,
                       .weight = weight, .columns = weight, .epilogue = epilogue};
}

static void measure_gemm(int64_t depth, int64_t columns)
{
    char name[64];
    set_conv(8, depth, columns, 1, 0);
    snprintf(name, sizeof name, "1x1,_8x8_pixels,_%d_to_%d", (int)depth, (int)columns);
    measure(name, 64 * depth * columns, op_conv2d);
}

static void measure_conv(int64_t size, int64_t channels, int64_t out_channels, int64_t kernel, void (*op)(void))
{
    char name[64];
    set_conv(size, channels, out_channels, kernel, op == op_depthwise);
    snprintf(name, sizeof name, "%s%dx%d,_%dx%d_pixels,_%d_to_%d", op == op_depthwise ? "depthwise_" : "",
             (int)kernel, (int)kernel, (int)size, (int)size, (int)channels, (int)out_channels);
    const int64_t depth = op == op_depthwise ? 1 : channels;
    measure(name, size * size * out_channels * depth * kernel * kernel, op);
}

int main(int count, char **arguments)
{
    if (count < 2 || qc_select(arguments[1]))
        return 3;
    for (int i = 0; i < 1024; i++) {
        multiplier[i] = 3 << 29;
        shift[i] = 40;
        right[i] = -9;
    }
    for (int64_t depth = 16; depth <= 1024; depth *= 2)
        measure_gemm(depth, 64);
    measure_gemm(96, 24);
    measure_conv(16, 3, 16, 3, op_rows);
    measure_conv(16, 16, 32, 3, op_rows);
    measure_conv(16, 32, 64, 3, op_rows);
    measure_conv(16, 32, 64, 3, op_conv2d);
    measure_conv(16, 64, 64, 3, op_depthwise);
    measure_conv(16, 64, 64, 5, op_depthwise);
    measure_conv(16, 16, 16, 3, op_depthwise);
    set_conv(1, 512, 128, 1, 0);
    measure("GEMV,_512_to_128", 512 * 128, op_conv2d);
    product = (qc_matmul){.rank = 1, .shape = {2}, .a_stride = {32 * 64}, .b_stride = {64 * 64}, .rows = 32,
                          .columns = 64, .depth = 64, .per_column = 1, .epilogue = epilogue};
    measure("matmul,_2_of_32x64_and_64x64", 2 * 32 * 64 * 64, op_matmul);
    pair = (qc_binary){.rank = 1, .shape = {4096}, .a_stride = {1}, .b_stride = {1}, .out_stride = {1},
                       .a_multiplier = 1 << 20, .b_multiplier = 1 << 20, .shift = 20, .qmin = -128, .qmax = 127};
    measure("add,_4096", 4096, op_add);
    pair.multiplier = 3 << 29;
    pair.shift = 36;
    measure("mul,_4096", 4096, op_mul);
    measure("table,_4096", 4096, op_table);
    pool = (qc_pool){.batch = 1, .height = 16, .width = 16, .channels = 32, .out_height = 8, .out_width = 8,
                     .kernel_h = 2, .kernel_w = 2, .stride_h = 2, .stride_w = 2, .dilation_h = 1, .dilation_w = 1,
                     .multiplier = multiplier, .shift = shift, .qmin = -128, .qmax = 127};
    measure("max_pool_2x2,_16x16x32", 8 * 8 * 32, op_max_pool);
    pool.out_height = pool.out_width = 1;
    measure("average_pool,_16x16x32", 16 * 16 * 32, op_average);
    return 0;
}
