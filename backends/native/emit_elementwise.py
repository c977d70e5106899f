"""Emission of the border operators, requantize, elementwise operators, pooling and resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qcompiler.backends.native.emit_movement import broadcast_strides
from qcompiler.backends.native.layout import is_interleaved, row_major_strides, strides_of
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.product_fields import bytes_clamp, store_table
from qcompiler.ir.annotations import quant_of
from qcompiler.ir.types import Dim, TensorType, simplify_dim

_INT64 = 2**63
# The largest difference of two codes.
_CODES = 255


def _product(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = simplify_dim(total * size)
    return total


def _planes(tensor_type: TensorType) -> dict[str, Any]:
    """Returns batch, channels and pixels; a value that is not interleaved is one flat plane."""
    if tensor_type.rank != 4:
        return {"batch": 1, "channels": 1, "pixels": tensor_type.numel()}
    n, c, h, w = tensor_type.shape
    return {"batch": n, "channels": c, "pixels": simplify_dim(h * w)}


def emit_quantize(op: OpWriter) -> None:
    """Emits quantize."""
    fields = {**_planes(op.type), "scale": float(op.args["inv_scale"]), **bytes_clamp(op)}
    op.block("qc_quantize", fields)
    op.call("qc_quantize_f32_u8", "&p", op.tensor("x"), op.out)


def emit_dequantize(op: OpWriter) -> None:
    """Emits dequantize of int8 codes."""
    zero_point = int(op.args["zero_point"]) + op.form.offset
    fields = {**_planes(op.type), "scale": float(op.args["scale"]), "zero_point": zero_point}
    op.block("qc_quantize", fields)
    op.call("qc_dequantize_u8_f32", "&p", op.tensor("x"), op.out)


def emit_dequantize_accumulator(op: OpWriter) -> None:
    """Emits dequantize_accumulator: channels along any axis, to logical order."""
    x, scale = op.type_of("x"), op.constant("scale").reshape(-1)
    axis = op.args["axis"] % x.rank
    step = 1 if scale.numel() > 1 else 0
    if is_interleaved(x) and axis < 2:
        n, c, h, w = x.shape
        pixels = simplify_dim(h * w)
        shape = [1, n, c, pixels]
        strides = [0, simplify_dim(pixels * c), 1, c]
        scale_strides = [0, *(step if d == axis else 0 for d in range(2)), 0]
    elif is_interleaved(x):
        shape, strides = list(x.shape), list(strides_of(x))
        scale_strides = [step if d == axis else 0 for d in range(4)]
    else:
        outer, inner = _product(x.shape[:axis]), _product(x.shape[axis + 1 :])
        channels_last = inner == 1
        shape = [1, 1, outer, x.shape[axis]] if channels_last else [1, outer, x.shape[axis], inner]
        strides = list(row_major_strides(shape))
        scale_strides = [0, 0, 0, step] if channels_last else [0, 0, step, 0]
    fields = {
        **{"shape": shape, "stride": strides, "scale_stride": scale_strides},
        "scale": op.array(scale.numpy().astype(np.float32), "float"),
    }
    op.block("qc_dequantize_sums", fields)
    op.call("qc_dequantize_i32_f32", "&p", op.tensor("x"), op.out)


def emit_requantize(op: OpWriter) -> None:
    """Emits requantize of accumulators or codes, per tensor or per channel."""
    x = op.type_of("x")
    multiplier, shift = op.constant("multiplier"), op.constant("shift")
    channels = multiplier.numel()
    outer: Dim = 1
    inner: Dim = op.type.numel()
    if channels > 1:
        order = (0, 2, 3, 1) if is_interleaved(x) else range(x.rank)
        at = list(order).index(op.args["axis"] % x.rank)
        stored = [x.shape[d] for d in order]
        outer, inner = _product(stored[:at]), _product(stored[at + 1 :])
    wide = x.dtype == torch.int32
    fields = {
        **{"outer": outer, "channels": channels, "inner": inner},
        **{"multiplier": op.int32(multiplier), "shift": op.int32(shift)},
        "x_zero_point": op.args["x_zero_point"] + (0 if wide else op.form.offset),
        **bytes_clamp(op),
    }
    op.block("qc_requantize", fields)
    kernel = "qc_requantize_i32_u8" if wide else "qc_requantize_u8_u8"
    op.call(kernel, "&p", op.tensor("x"), op.out)


def _binary(op: OpWriter) -> dict[str, Any]:
    shape = op.type.shape or (1,)
    out = strides_of(op.type) or (1,)
    return {
        "rank": len(shape),
        "shape": list(shape),
        "a_stride": broadcast_strides(op.type_of("a"), shape),
        "b_stride": broadcast_strides(op.type_of("b"), shape),
        "out_stride": list(out),
        "a_zero_point": op.args["a_zero_point"] + op.form.offset,
        "b_zero_point": op.args["b_zero_point"] + op.form.offset,
        "shift": op.args["shift"],
        **bytes_clamp(op),
    }


def emit_add(op: OpWriter) -> None:
    """Emits add with broadcasting."""
    names = ("a_multiplier", "b_multiplier")
    op.block("qc_binary", _binary(op) | {name: op.args[name] for name in names})
    op.call("qc_add_u8", "&p", op.tensor("a"), op.tensor("b"), op.out)


def emit_mul(op: OpWriter) -> None:
    """Emits mul with broadcasting."""
    op.block("qc_binary", _binary(op) | {"multiplier": op.args["multiplier"]})
    op.call("qc_mul_u8", "&p", op.tensor("a"), op.tensor("b"), op.out)


def emit_table(op: OpWriter) -> None:
    """Emits table."""
    table = store_table(op, op.constant("table"))
    op.call("qc_table_u8", op.dim(op.type.numel()), table, op.tensor("x"), op.out)


def emit_clamp(op: OpWriter) -> None:
    """Emits clamp."""
    low, high = (str(int(op.args[name]) + op.form.offset) for name in ("qmin", "qmax"))
    op.call("qc_clamp_u8", op.dim(op.type.numel()), low, high, op.tensor("x"), op.out)


def _images(op: OpWriter) -> dict[str, Any]:
    n, c, h, w = op.type_of("x").shape
    _, _, oh, ow = op.type.shape
    sizes = {"batch": n, "height": h, "width": w, "channels": c}
    return {**sizes, "out_height": oh, "out_width": ow}


def _window(op: OpWriter) -> dict[str, Any]:
    kernel, stride, padding = op.args["kernel"], op.args["stride"], op.args["padding"]
    dilation = op.args.get("dilation", (1, 1))
    return {
        **_images(op),
        **{"kernel_h": kernel[0], "kernel_w": kernel[1]},
        **{"stride_h": stride[0], "stride_w": stride[1]},
        **{"dilation_h": dilation[0], "dilation_w": dilation[1]},
        **{"pad_top": padding[0], "pad_left": padding[2]},
    }


def _average(op: OpWriter) -> dict[str, Any]:
    return {
        "multiplier": op.int32(op.constant("multiplier")),
        "shift": op.int32(op.constant("shift")),
        "x_zero_point": op.args["x_zero_point"] + op.form.offset,
        **bytes_clamp(op),
    }


def emit_max_pool2d(op: OpWriter) -> None:
    """Emits max_pool2d."""
    op.block("qc_pool", _window(op))
    op.call("qc_max_pool2d_u8", "&p", op.tensor("x"), op.out)


def emit_avg_pool2d(op: OpWriter) -> None:
    """Emits avg_pool2d."""
    op.block("qc_pool", {**_window(op), "counted": list(op.args["counted"]), **_average(op)})
    op.call("qc_avg_pool2d_u8", "&p", op.tensor("x"), op.out)


def emit_adaptive_avg_pool2d(op: OpWriter) -> None:
    """Emits adaptive_avg_pool2d."""
    op.block("qc_pool", {**_images(op), **_average(op)})
    op.call("qc_adaptive_avg_pool2d_u8", "&p", op.tensor("x"), op.out)


def _scalars(op: OpWriter) -> dict[str, Any]:
    """Returns the parameters of a requantization with one multiplier."""
    return {
        "multiplier": int(op.constant("multiplier").reshape(-1)[0]),
        "shift": int(op.constant("shift").reshape(-1)[0]),
        "x_zero_point": op.args["x_zero_point"] + op.form.offset,
        **bytes_clamp(op),
    }


def emit_mean(op: OpWriter) -> None:
    """Emits mean: kept axes in the order of the result's storage, then the reduced ones."""
    x = op.type_of("x")
    reduced = {d % x.rank for d in op.args["dims"]} or set(range(x.rank))
    strides = strides_of(x)
    kept = [d for d in range(x.rank) if d not in reduced]
    out = strides_of(op.type)
    place = dict(zip(kept, [out[d] for d in kept] if op.args["keepdim"] else out, strict=True))
    if is_interleaved(x):
        kept.sort(key=(0, 2, 3, 1).index)
    gone = sorted(reduced)
    fields: dict[str, Any] = {
        "rank": len(kept) or 1,
        "shape": [x.shape[d] for d in kept] or [1],
        "x_stride": [strides[d] for d in kept] or [1],
        "out_stride": [place[d] for d in kept] or [1],
        "reduced_rank": len(gone),
        "reduced_shape": [x.shape[d] for d in gone],
        "reduced_stride": [strides[d] for d in gone],
        **_scalars(op),
    }
    op.block("qc_mean", fields)
    op.call("qc_mean_u8", "&p", op.tensor("x"), op.out)


def _resize(op: OpWriter) -> dict[str, Any]:
    """Returns the geometry of a resize; positions are computed in 64 bits."""
    scale, offset = op.args["scale"], op.args["offset"]
    for axis, size in enumerate(op.args["output_size"]):
        n, d = scale[2 * axis : 2 * axis + 2]
        if abs(offset[axis]) + size * abs(d) + 2 * n >= _INT64:
            op.refuse(f"its positions on axis {axis + 2} leave 64 bits")
    return {**_images(op), "scale": list(scale), "offset": list(offset)}


def _prove_blend(op: OpWriter) -> None:
    """Proves that no sum of four weighted neighbours, scaled, leaves 64 bits."""
    unit = int(op.args["scale"][0]) * int(op.args["scale"][2])
    proof = quant_of(op.node).proof
    reach = _CODES * unit if proof is None else max(abs(end) for end in proof)
    if _CODES * unit >= _INT64:
        op.refuse(f"its weights add up to {unit}")
    for m, s in zip(*(op.constant(n).tolist() for n in ("multiplier", "shift")), strict=True):
        if min(reach, 2 ** (s - 1)) * m + 2 ** (s - 1) >= _INT64:
            op.refuse(f"its sums may reach {reach}, too many for the multiplier {m} and shift {s}")


def emit_resize_nearest(op: OpWriter) -> None:
    """Emits resize_nearest."""
    op.block("qc_resize", _resize(op))
    op.call("qc_resize_nearest_u8", "&p", op.tensor("x"), op.out)


def emit_resize_bilinear(op: OpWriter) -> None:
    """Emits resize_bilinear."""
    _prove_blend(op)
    op.block("qc_resize", {**_resize(op), **_scalars(op)})
    op.call("qc_resize_bilinear_u8", "&p", op.tensor("x"), op.out)
