"""Emission of depthwise convolution, alone and behind a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import sympy

from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import DEPTHWISE_BLOCK
from qcompiler.backends.native.product_fields import conv2d_fields, residual_pointer
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.queries import product_arguments
from qcompiler.ir.types import Dim, simplify_dim

# Bytes of a block's weights in the form of the kernel: QC_BLOCK_WEIGHTS.
_WEIGHTS = 4 * 40 * 64
# Columns that a kernel lays out at a time, in quads of rows: 16 KiB.
_COLUMNS = 64


def _quotient(value: Dim, divisor: int) -> Dim:
    """Returns a quotient, rounded up."""
    if isinstance(value, int):
        return -(-value // divisor)
    return simplify_dim(sympy.ceiling(value / divisor))


def _row_bytes(fields: Mapping[str, Any]) -> Dim:
    """Returns the bytes of a block's row of the image with each pixel laid out once.

    Pixels lie in groups of four, and results are computed by fours: the last ones may read more.
    """
    quads = _quotient(fields["out_width"], 4)
    stride, kernel = fields["stride_w"], fields["kernel_w"]
    last = (3 * stride + kernel + 3) // 4
    reach = (kernel - 1) * fields["dilation_w"] + 1
    pixels = _quotient((fields["out_width"] - 1) * stride + reach, 4)
    in_quads = (quads - 1) * stride + last
    if isinstance(in_quads, int) and isinstance(pixels, int):
        return 4 * DEPTHWISE_BLOCK * max(in_quads, pixels, 1)
    return simplify_dim(4 * DEPTHWISE_BLOCK * sympy.Max(in_quads, pixels, 1))


def _fields(op: OpWriter, conv: Mapping[str, Any], *, expanded: bool) -> dict[str, Any]:
    """Returns the fields of a ``qc_depthwise`` block and reserves its scratch memory.

    Kernels that lay rows out need part of it, those that lay out columns another part.
    """
    at_once = op.choices["rows_at_once"] if expanded else 1
    # dotprod may lay out four pixels from every second one on, which is each pixel twice; this is
    # the most of any level, and a program has one plan for all of them
    row_bytes = _row_bytes(conv) * (2 if op.form.is_signed else 1)
    quads = -(-conv["kernel_h"] // 4)
    # At least the columns of four results.
    reach = (conv["kernel_w"] - 1) * conv["dilation_w"] + 1
    columns = max(_COLUMNS // quads, 3 * conv["stride_w"] + reach)
    buffer = simplify_dim(sympy.Max(row_bytes, DEPTHWISE_BLOCK * (4 * quads + 1) * columns))
    live = (conv["kernel_h"] - 1) * conv["dilation_h"] + 1
    # Whole groups of rows, so that none is cut where the ring ends.
    ring = -(-(live + at_once) // at_once) * at_once
    pixels = ring * conv["width"] * DEPTHWISE_BLOCK + SLACK if expanded else 0
    weights: Dim = _WEIGHTS
    if "taps" in op.form.weights:  # such kernels read pixels where they stand
        weights = buffer = row_bytes = 0
    scratch, step = op.reserve_per_thread(
        simplify_dim(weights + buffer + ring * row_bytes + pixels)
    )
    return {
        "conv": conv,
        **{"row_bytes": row_bytes, "buffer_bytes": buffer, "quad_columns": columns},
        **{"ring_rows": ring, "rows_at_once": at_once},
        **{"scratch": scratch, "scratch_step": step},
    }


def emit_depthwise(op: OpWriter) -> None:
    """Emits conv2d_requant with one filter per channel."""
    conv = conv2d_fields(op, op.args, op.type_of("x").shape, op.type.shape, "depthwise")
    x, residual = op.tensor("x"), residual_pointer(op)
    op.block("qc_depthwise", _fields(op, conv, expanded=False))
    op.call("qc_depthwise_u8_s8c_u8", "&p", x, residual, op.out)


def emit_pointwise_depthwise(op: OpWriter) -> None:
    """Emits pointwise_depthwise_requant, as one kernel or as two."""
    first, second = product_arguments(op.node)
    n, _, h, w = x_shape = op.type_of("x").shape
    middle = (n, op.type.shape[1], h, w)
    pointwise = conv2d_fields(op, first, x_shape, middle)
    conv = conv2d_fields(op, second, middle, op.type.shape, "depthwise")
    if not op.choices["fused"]:
        op.reserve(pointwise["channels"] + 4 + SLACK)
        between = f"(c->scratch + {op.reserve(simplify_dim(prod(middle) + SLACK))})"
        op.block("qc_conv2d", pointwise, "first")
        op.block("qc_depthwise", _fields(op, conv, expanded=False))
        op.call("qc_conv2d_u8_s8c_u8", "&first", op.tensor("x"), "NULL", between)
        op.call("qc_depthwise_u8_s8c_u8", "&p", between, "NULL", op.out)
        return
    fields = {
        "pointwise": pointwise,
        "depthwise": _fields(op, conv, expanded=True),
    }
    op.block("qc_pointwise_depthwise", fields)
    op.call("qc_pointwise_depthwise_u8", "&p", op.tensor("x"), op.out)
