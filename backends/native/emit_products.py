"""Emission of convolution, linear and matmul."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.backends.native.choices import is_depthwise, window_bytes
from qcompiler.backends.native.emit_depthwise import emit_depthwise
from qcompiler.backends.native.emit_movement import copy_fields
from qcompiler.backends.native.layout import (
    is_interleaved,
    is_row_major,
    row_major_strides,
    strides_of,
)
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import Form, padded_sums, round_down_scale
from qcompiler.backends.native.product_fields import (
    bytes_clamp,
    conv2d_fields,
    epilogue_fields,
    pack,
    residual_pointer,
    shift_fields,
    tile_fields,
    weight_fields,
)
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.types import Dim, TensorType, simplify_dim

# Columns that a matmul packs at a time: QC_TILE_LD.
MATMUL_COLUMNS = 64


def emit_conv2d(op: OpWriter) -> None:
    """Emits conv2d and conv2d_requant."""
    weight, groups = op.constant("weight"), op.args["groups"]
    fused = "multiplier" in op.args
    if fused and is_depthwise(weight.shape, groups):
        emit_depthwise(op)
        return
    shapes = op.type_of("x").shape, op.type.shape
    if op.choices.get("by_rows"):
        form: Form = "windows" if op.choices["gathers"] else "rows"
        _emit_rows(op, conv2d_fields(op, op.args, *shapes, form))
        return
    fields = conv2d_fields(op, op.args, *shapes)
    op.reserve(weight.shape[1] * groups + 4 + SLACK)
    x, residual = op.tensor("x"), residual_pointer(op)
    op.block("qc_conv2d", fields)
    if fused:
        op.call("qc_conv2d_u8_s8c_u8", "&p", x, residual, op.out)
    else:
        op.call("qc_conv2d_u8_s8c_i32", "&p", x, op.out)


def _emit_rows(op: OpWriter, conv: Mapping[str, Any]) -> None:
    """Emits a convolution by kernel rows from its ``qc_conv2d`` fields."""
    row_bytes = ((conv["out_width"] - 1) * conv["stride_w"] + conv["kernel_w"]) * conv["channels"]
    reach = (conv["kernel_h"] - 1) * conv["dilation_h"] + 1
    rows = op.choices["rows_at_once"]
    size = simplify_dim(((rows - 1) * conv["stride_h"] + reach) * row_bytes + SLACK)
    covered = conv["kernel_h"] * conv["kernel_w"] * conv["channels"]
    window = op.choices["gathers"] and window_bytes(covered)
    whole = simplify_dim(size + rows * conv["out_width"] * window + SLACK)
    scratch, step = op.reserve_per_thread(whole if window else size)
    x, residual = op.tensor("x"), residual_pointer(op)
    fields = {"conv": conv, "rows_at_once": rows, "scratch": scratch, "scratch_step": step}
    fields |= {"window": window, "windows": size}
    padding = op.args["padding"]
    if not window and (padding[0] or padding[1]):  # windows have no taps to leave out
        sums = padded_sums(op.constant("weight").numpy(), conv["pad_value"])
        fields["padded"] = op.array(sums, "int32_t")
    op.block("qc_conv2d_rows", fields)
    op.call("qc_conv2d_rows_u8_s8c_u8", "&p", x, residual, op.out)


def _stage(op: OpWriter, tensor_type: TensorType, pointer: str, name: str, *, back: bool) -> str:
    """Copies a tensor to (or from) row-major scratch memory when it is stored as NHWC."""
    shape, stored = tensor_type.shape, strides_of(tensor_type)
    plain = row_major_strides(shape)
    item = tensor_type.dtype.itemsize
    if back:
        op.block("qc_copy", copy_fields(shape, plain, stored, item), name)
        op.call("qc_copy_nd", f"&{name}", pointer, op.out)
        return op.out
    place = f"(c->scratch + {op.reserve(simplify_dim(tensor_type.nbytes() + SLACK))})"
    op.block("qc_copy", copy_fields(shape, stored, plain, item), name)
    op.call("qc_copy_nd", f"&{name}", pointer, place)
    return place


def emit_linear(op: OpWriter) -> None:
    """Emits linear and linear_requant as a 1x1 convolution over one column, or over one pixel."""
    x_type, weight = op.type_of("x"), op.constant("weight")
    packed = pack(op, op.args, weight, 1)
    rows: Dim = 1
    for size in x_type.shape[:-1]:
        rows = simplify_dim(rows * size)
    fields: dict[str, Any] = {
        **{"batch": 1, "height": rows, "width": 1, "channels": weight.shape[1]},
        **{"out_height": rows, "out_width": 1, "out_channels": weight.shape[0]},
        **dict.fromkeys(("kernel_h", "kernel_w", "stride_h", "stride_w"), 1),
        **dict.fromkeys(("dilation_h", "dilation_w", "groups"), 1),
        "pad_value": op.args["x_zero_point"] + op.form.offset,
        **tile_fields(op.choices),
        **weight_fields(op, packed, "panels"),
        "epilogue": epilogue_fields(op, op.args, packed),
    }
    kernel = "gemv" if rows == 1 else "conv2d"
    if kernel == "conv2d":
        op.reserve(weight.shape[1] + 4 + SLACK)
    x, residual, out = op.tensor("x"), residual_pointer(op), op.out
    if is_interleaved(x_type):
        x = _stage(op, x_type, x, "stage_x", back=False)
        if residual != "NULL":
            residual = _stage(op, op.type, residual, "stage_residual", back=False)
        out = f"(c->scratch + {op.reserve(simplify_dim(op.type.nbytes() + SLACK))})"
    op.block("qc_conv2d", fields)
    if "multiplier" in op.args:
        op.call(f"qc_{kernel}_u8_s8c_u8", "&p", op.codes(x), residual, out)
    else:
        op.call(f"qc_{kernel}_u8_s8c_i32", "&p", op.codes(x), f"(int32_t *){out}")
    if is_interleaved(x_type):
        _stage(op, op.type, out, "stage_out", back=True)


def _batch_strides(tensor_type: TensorType, batch: tuple[Dim, ...]) -> list[Dim]:
    """Returns the strides of row-major matrices, 0 where they are broadcast."""
    own = tensor_type.shape[:-2]
    strides = row_major_strides(tensor_type.shape)[:-2]
    padded: list[Dim] = [0] * (len(batch) - len(own))
    return padded + [0 if size == 1 else step for size, step in zip(own, strides, strict=True)]


def emit_matmul(op: OpWriter) -> None:
    """Emits matmul and matmul_requant on row-major copies of what is stored in another order."""
    a, b = op.type_of("a"), op.type_of("b")
    rows, depth = a.shape[-2:]
    columns = b.shape[-1]
    batch = op.type.shape[:-2]
    left, right, out = op.tensor("a"), op.tensor("b"), op.out
    if not is_row_major(a):
        left = _stage(op, a, left, "stage_a", back=False)
    if not is_row_major(b):
        right = _stage(op, b, right, "stage_b", back=False)
    if not is_row_major(op.type):
        out = f"(c->scratch + {op.reserve(simplify_dim(op.type.nbytes() + SLACK))})"
    padding = 7 if op.form.is_signed else 3  # smmla takes steps of eight
    scratch, step = op.reserve_per_thread((depth + padding + 5) * MATMUL_COLUMNS)
    fields: dict[str, Any] = {
        "rank": len(batch),
        **{"rows": rows, "columns": columns, "depth": depth},
        "a_zero_point": op.args["a_zero_point"] + op.form.offset,
        "b_zero_point": op.args["b_zero_point"] + op.form.offset,
        **{"scratch": scratch, "scratch_step": step},
    }
    if batch:
        fields |= {"shape": list(batch)}
        fields |= {"a_stride": _batch_strides(a, batch), "b_stride": _batch_strides(b, batch)}
    fused = "multiplier" in op.args
    if fused:
        fields["per_column"] = int(op.constant("multiplier").numel() > 1)
        fields["epilogue"] = _matmul_epilogue(op, depth)
    op.block("qc_matmul", fields)
    operands = op.codes(left), op.codes(right)
    if fused:
        op.call("qc_matmul_u8_u8_u8", "&p", *operands, op.codes(out, constant=False))
    else:
        op.call("qc_matmul_u8_u8_i32", "&p", *operands, f"(int32_t *){out}")
    if not is_row_major(op.type):
        _stage(op, op.type, out, "stage_out", back=True)


def _matmul_epilogue(op: OpWriter, depth: Dim) -> dict[str, Any]:
    parameters = (op.constant(name).numpy().reshape(-1) for name in ("multiplier", "shift"))
    multiplier, shift = np.broadcast_arrays(*parameters)
    size = -(-len(multiplier) // MATMUL_COLUMNS) * MATMUL_COLUMNS
    multiplier, shift = np.resize(multiplier, size), np.resize(shift, size)
    bound = np.full(size, int(depth) * 255 * 255 if isinstance(depth, int) else 2**31)
    scale = None if op.form.is_signed else round_down_scale(multiplier, shift, bound)
    fields: dict[str, Any] = {
        "multiplier": op.array(multiplier.astype(np.int32), "int32_t"),
        "shift": op.array(shift.astype(np.int32), "int32_t"),
        **bytes_clamp(op),
    }
    if scale is not None:
        fields["scale"] = op.array(scale, "float")
    return fields | shift_fields(op, multiplier.astype(np.int32), shift.astype(np.int32))
