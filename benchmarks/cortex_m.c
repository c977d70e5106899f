/* Calls kernels under the counting plugin of qemu: one line of shape per kernel; the argument is the level. */
#include "qc.h"

#include <stdio.h>
#include <string.h>

int qc_select(const char *name);

#define ROOM (1 << 18)
static qc_code x[ROOM], y[ROOM], out[ROOM], table[256];
static int8_t weight[ROOM];
static int32_t bias[1024], multiplier[1024], shift[1024], right[1024];
static uint8_t scratch[ROOM] __attribute__((aligned(64)));
static const qc_context context = {1, scratch};
static const qc_epilogue epilogue = {.bias = bias, .multiplier = multiplier, .shift = shift, .right = right,
                                     .zero_point = -128, .qmin = -128, .qmax = 127};

__attribute__((noinline)) void runner_begin(void) { __asm__ volatile(""); }
__attribute__((noinline)) void runner_end(void) { __asm__ volatile(""); }

/* Names a kernel and its multiply-accumulates, or results where it has none, and counts a call of it. */
#define MEASURE(name, count, ...)                                      \
    {                                                                  \
        printf("%s %ld\n", name, (long)(count));                       \
        runner_begin();                                                \
        call_##__LINE__:                                               \
        __VA_ARGS__;                                                   \
        runner_end();                                                  \
    }

static qc_conv2d conv_of(int64_t size, int64_t channels, int64_t out_channels, int64_t kernel, int64_t stride)
{
    return (qc_conv2d){.batch = 1, .height = size, .width = size, .channels = channels, .out_height = size / stride,
                       .out_width = size / stride, .out_channels = out_channels, .kernel_h = kernel,
                       .kernel_w = kernel, .stride_h = stride, .stride_w = stride, .dilation_h = 1, .dilation_w = 1,
                       .pad_top = kernel / 2, .pad_left = kernel / 2, .groups = 1, .widest = 4, .block_rows = 200,
                       .weight = weight, .columns = weight, .epilogue = epilogue};
}
