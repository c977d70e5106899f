"""Parameter blocks of convolution, linear and depthwise kernels, and their packed constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from qcompiler.backends.native.choices import Setting
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import (
    Form,
    Int32Array,
    Products,
    merge_groups,
    pack_products,
    vector_shifts,
)
from qcompiler.ir.types import Dim


def store_table(op: OpWriter, table: torch.Tensor) -> str:
    """Stores a table of 256 codes, in the order of stored bytes read as unsigned."""
    stored = op.form.stored(table.reshape(-1))
    return op.array(stored.roll(op.form.offset - 128).numpy(), op.form.c_type)


def bytes_clamp(op: OpWriter) -> dict[str, Any]:
    """Returns zero point and bounds of the result in the domain of storage."""
    names = ("zero_point", "qmin", "qmax")
    return {name: int(op.args[name]) + op.form.offset for name in names}


def shift_fields(op: OpWriter, multiplier: Int32Array, shift: Int32Array) -> dict[str, Any]:
    """Stores the shifts of vectors and returns their fields of a ``qc_epilogue`` block."""
    if not op.form.is_signed:
        return {}
    left, right = vector_shifts(multiplier, shift)
    if right is None:
        return {}
    fields = {"right": op.array(right, "int32_t")}
    if left is not None:
        fields["left"] = op.array(left, "int32_t")
    return fields


def epilogue_fields(op: OpWriter, options: Mapping[str, Any], packed: Products) -> dict[str, Any]:
    """Stores what turns sums into bytes and returns the fields of its ``qc_epilogue`` block."""
    fields: dict[str, Any] = {"bias": op.array(packed.bias, "int32_t")}
    if packed.multiplier is None or packed.shift is None:
        return fields
    fields["multiplier"] = op.array(packed.multiplier, "int32_t")
    fields["shift"] = op.array(packed.shift, "int32_t")
    if packed.scale is not None:
        fields["scale"] = op.array(packed.scale, "float")
    fields |= shift_fields(op, packed.multiplier, packed.shift)
    if op.form.is_signed and packed.fits_words:
        fields["fits_words"] = 1
    at = op.form.offset
    fields |= {name: options[name] + at for name in ("zero_point", "qmin", "qmax")}
    if options["table"] is not None:
        fields["table"] = store_table(op, op.graph.constant(options["table"]))
    if options["residual"] is not None:
        za, ma, zb, mb, shift, zo, qmin, qmax = options["add"]
        fields["add"] = [za + at, ma, zb + at, mb, shift, zo + at, qmin + at, qmax + at]
    return fields


def pack(
    op: OpWriter,
    options: Mapping[str, Any],
    weight: torch.Tensor,
    groups: int,
    form: Form = "panels",
) -> Products:
    """Returns the packed constants of a product; ``options`` are its operator's arguments."""
    constant = op.graph.constant
    requant = None
    if "multiplier" in options:
        requant = (constant(options["multiplier"]), constant(options["shift"]))
    bias, zero_point = constant(options["bias"]), options["x_zero_point"]
    return pack_products(weight, bias, requant, zero_point, groups, form, op.form)


def weight_fields(op: OpWriter, packed: Products, form: Form) -> dict[str, Any]:
    """Stores packed weights and returns their fields of a ``qc_conv2d`` block."""
    fields = {}
    is_alone = packed.pairs is None and packed.columns is None
    if is_alone or (form != "depthwise" and "panels" in op.form.weights):
        fields["weight"] = op.array(packed.weight, "int8_t")
    if packed.pairs is not None:
        fields["pairs"] = op.array(packed.pairs, "int8_t")
    if packed.columns is not None:
        fields["columns"] = op.array(packed.columns, "int8_t")
    if packed.unsaturated is not None:
        fields["unsaturated"] = op.array(packed.unsaturated, "uint64_t")
    return fields


def residual_pointer(op: OpWriter) -> str:
    """Returns the C pointer to the operand that is added to the result, or NULL."""
    residual: fx.Node | None = op.args.get("residual")
    return "NULL" if residual is None else op.tensor(residual)


def tile_fields(choices: Setting) -> dict[str, int]:
    """Returns the fields of a ``qc_conv2d`` block that say how it is cut into tiles."""
    return {"widest": choices.get("widest", 0), "block_rows": choices.get("block_rows", 0)}


def conv2d_fields(
    op: OpWriter,
    options: Mapping[str, Any],
    x_shape: Sequence[Dim],
    out_shape: Sequence[Dim],
    form: Form = "panels",
) -> dict[str, Any]:
    """Stores the constants of a convolution and returns the fields of its ``qc_conv2d`` block.

    ``options`` are the arguments of conv2d or conv2d_requant.
    """
    weight, groups = op.graph.constant(options["weight"]), options["groups"]
    if form != "depthwise":
        weight, groups = merge_groups(weight, groups)
    packed = pack(op, options, weight, groups, form)
    n, c, h, w = x_shape
    _, oc, oh, ow = out_shape
    stride, dilation, padding = (options[k] for k in ("stride", "dilation", "padding"))
    return {
        **{"batch": n, "height": h, "width": w, "channels": c},
        **{"out_height": oh, "out_width": ow, "out_channels": oc},
        **{"kernel_h": weight.shape[2], "kernel_w": weight.shape[3]},
        **{"stride_h": stride[0], "stride_w": stride[1]},
        **{"dilation_h": dilation[0], "dilation_w": dilation[1]},
        **{"pad_top": padding[0], "pad_left": padding[2]},
        **{"groups": groups, "pad_value": options["x_zero_point"] + op.form.offset},
        **tile_fields(op.choices),
        **weight_fields(op, packed, form),
        "epilogue": epilogue_fields(op, options, packed),
    }
