"""Emission of a 1x1 convolution fused with the depthwise convolution behind it."""

from __future__ import annotations

from typing import Any

import sympy

from qcompiler.backends.native.emit_products import SLACK, conv2d_fields, padding_bytes
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import ALIGNMENT
from qcompiler.ir.queries import product_arguments
from qcompiler.ir.types import Dim, simplify_dim

# Bytes of the value between the two convolutions that a thread should hold: they stay in its cache.
_HELD = 256 * 1024


def _strip(options: dict[str, Any], row_bytes: Dim, reach: int) -> int:
    """Returns how many output rows a thread computes at a time."""
    if not isinstance(row_bytes, int):
        return 1
    rows = (_HELD // max(row_bytes, 1) - reach) // int(options["stride"][0]) + 1
    return min(max(rows, 1), 16)


def emit_pointwise_depthwise(op: OpWriter) -> None:
    """Emits pointwise_depthwise_requant.

    Each thread holds the rows of the value between the two that a strip of output rows needs, and
    behind them the row of padding of the convolution that is at work.
    """
    first, second = product_arguments(op.node)
    n, c, h, w = op.type_of("x").shape
    channels = op.type.shape[1]
    middle = (n, channels, h, w)
    row_bytes = simplify_dim(w * channels)
    reach = (op.constant("dw_weight").shape[2] - 1) * second["dilation"][0] + 1
    strip = _strip(second, row_bytes, reach)
    held = ((strip - 1) * second["stride"][0] + reach) * row_bytes + SLACK
    padding = sympy.Max(c + 4 + SLACK, padding_bytes(second, channels, op.type.shape[3]))
    scratch, step = op.reserve_per_thread(simplify_dim(held + ALIGNMENT + padding))
    fields = {
        "pointwise": conv2d_fields(op, first, op.type_of("x").shape, middle, depthwise=False),
        "depthwise": conv2d_fields(op, second, middle, op.type.shape, depthwise=True),
        "strip": strip,
        "scratch": scratch,
        "scratch_step": step,
    }
    op.block("qc_pointwise_depthwise", fields)
    op.call("qc_pointwise_depthwise_u8", "&p", op.tensor("x"), op.out)
