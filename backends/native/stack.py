"""What a run takes of the stack on a microcontroller, by the level of its kernels.

The numbers are those that gcc 12 tells of its frames (-fcallgraph-info=su), and what loops in
assembly push, added up along the deepest chain of calls, over the cores of a level at -Os, -O2 and
-O3: a test computes them again. Other compilers take about as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Bytes of model_run and of the function of an operator, with its parameter block.
CALLER = 1024
# Bytes for each row of a filter: an offset, and the pointer to a row.
PER_KERNEL_ROW = 12
# Bytes of each kernel and of all that it calls.
STACK: Mapping[str, Mapping[str, int]] = {
    "dsp": {
        "qc_adaptive_avg_pool2d_s8": 832,
        "qc_add_s8": 768,
        "qc_avg_pool2d_s8": 832,
        "qc_clamp_s8": 384,
        "qc_conv2d_rows_s8_s8c_s8": 4992,
        "qc_conv2d_s8_s8c_i32": 4800,
        "qc_conv2d_s8_s8c_s8": 4800,
        "qc_copy_nd": 1792,
        "qc_depthwise_s8_s8c_s8": 5440,
        "qc_dequantize_i32_f32": 576,
        "qc_dequantize_s8_f32": 576,
        "qc_fill": 128,
        "qc_gemv_s8_s8c_i32": 3136,
        "qc_gemv_s8_s8c_s8": 3136,
        "qc_matmul_s8_s8_i32": 4160,
        "qc_matmul_s8_s8_s8": 4160,
        "qc_max_pool2d_s8": 832,
        "qc_mean_s8": 2048,
        "qc_mul_s8": 768,
        "qc_pointwise_depthwise_s8": 5440,
        "qc_quantize_f32_s8": 576,
        "qc_requantize_i32_s8": 384,
        "qc_requantize_s8_s8": 704,
        "qc_resize_bilinear_s8": 768,
        "qc_resize_nearest_s8": 768,
        "qc_table_s8": 320,
    },
    "helium": {
        "qc_adaptive_avg_pool2d_s8": 1088,
        "qc_add_s8": 1088,
        "qc_avg_pool2d_s8": 1088,
        "qc_clamp_s8": 896,
        "qc_conv2d_rows_s8_s8c_s8": 3968,
        "qc_conv2d_s8_s8c_i32": 3712,
        "qc_conv2d_s8_s8c_s8": 3776,
        "qc_copy_nd": 1792,
        "qc_depthwise_s8_s8c_s8": 4416,
        "qc_dequantize_i32_f32": 576,
        "qc_dequantize_s8_f32": 576,
        "qc_fill": 128,
        "qc_gemv_s8_s8c_i32": 2240,
        "qc_gemv_s8_s8c_s8": 2304,
        "qc_matmul_s8_s8_i32": 3456,
        "qc_matmul_s8_s8_s8": 3456,
        "qc_max_pool2d_s8": 1088,
        "qc_mean_s8": 2496,
        "qc_mul_s8": 1088,
        "qc_pointwise_depthwise_s8": 4416,
        "qc_quantize_f32_s8": 576,
        "qc_requantize_i32_s8": 896,
        "qc_requantize_s8_s8": 1216,
        "qc_resize_bilinear_s8": 1088,
        "qc_resize_nearest_s8": 1088,
        "qc_table_s8": 896,
    },
}


def stack_bytes(level: str, kernels: Iterable[str], kernel_rows: int) -> int | None:
    """Returns a bound of the stack's bytes of a run; None for a level that has no small stack.

    Args:
        level: the instruction set.
        kernels: names of the kernels that the program calls.
        kernel_rows: rows of its tallest filter.
    """
    if level not in STACK:
        return None
    deepest = max((STACK[level].get(kernel, 0) for kernel in kernels), default=0)
    return CALLER + deepest + PER_KERNEL_ROW * kernel_rows
