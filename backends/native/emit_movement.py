"""Emission of data movement: strided copies between stored forms."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from torch import fx

from qcompiler.backends.native.layout import (
    is_row_major,
    row_major_strides,
    strides_of,
)
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.ir.annotations import type_of
from qcompiler.ir.types import Dim, TensorType, simplify_dim


def copy_fields(
    shape: Sequence[Dim],
    source: Sequence[Dim],
    out: Sequence[Dim],
    item_size: int,
    *,
    source_offset: Dim = 0,
    out_offset: Dim = 0,
) -> dict[str, Any]:
    """Returns the parameter block of a copy; strides and offsets are in elements."""
    fields: dict[str, Any] = {"rank": len(shape), "item_size": item_size}
    if shape:
        fields |= {"shape": list(shape), "source_stride": list(source), "out_stride": list(out)}
    return fields | {"source_offset": source_offset, "out_offset": out_offset}


def is_view(node: fx.Node) -> bool:
    """Says whether a reshape leaves the bytes in place, so that both values may share memory."""
    if node.op != "call_function" or str(node.target) != "qcompiler.reshape.default":
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op == "get_attr":
        return False
    return is_row_major(type_of(source)) and is_row_major(type_of(node))


def emit_reshape(op: OpWriter) -> None:
    """Emits reshape: through the logical order when a side is stored as NHWC."""
    source, item = op.type_of("x"), op.type.dtype.itemsize
    x = op.tensor("x")
    if is_row_major(source) and is_row_major(op.type):
        flat = [op.type.numel()]
        op.block("qc_copy", copy_fields(flat, [1], [1], item))
        op.call("qc_copy_nd", "&p", x, op.out)
        return
    plain_in, plain_out = row_major_strides(source.shape), row_major_strides(op.type.shape)
    gather = copy_fields(source.shape, strides_of(source), plain_in, item)
    scatter = copy_fields(op.type.shape, plain_out, strides_of(op.type), item)
    if is_row_major(source):
        op.block("qc_copy", scatter)
        op.call("qc_copy_nd", "&p", x, op.out)
    elif is_row_major(op.type):
        op.block("qc_copy", gather)
        op.call("qc_copy_nd", "&p", x, op.out)
    else:
        staged = f"c->scratch + {op.reserve(simplify_dim(op.type.nbytes()))}"
        op.block("qc_copy", gather, "gather")
        op.call("qc_copy_nd", "&gather", x, staged)
        op.block("qc_copy", scatter, "scatter")
        op.call("qc_copy_nd", "&scatter", staged, op.out)


def emit_permute(op: OpWriter) -> None:
    """Emits permute."""
    source = strides_of(op.type_of("x"))
    rank = len(source)
    strides = [source[d % rank] for d in op.args["dims"]]
    item = op.type.dtype.itemsize
    op.block("qc_copy", copy_fields(op.type.shape, strides, strides_of(op.type), item))
    op.call("qc_copy_nd", "&p", op.tensor("x"), op.out)


def emit_slice(op: OpWriter) -> None:
    """Emits slice; a negative start counts from the end."""
    x = op.type_of("x")
    dim, start, step = op.args["dim"] % x.rank, op.args["start"], op.args["step"]
    size = x.shape[dim]
    if isinstance(start, int) and start < 0:
        start = max(size + start, 0) if isinstance(size, int) else size + start
    elif isinstance(start, int) and isinstance(size, int):
        start = min(start, size)
    strides = list(strides_of(x))
    offset = simplify_dim(strides[dim] * start)
    strides[dim] = simplify_dim(strides[dim] * step)
    fields = copy_fields(
        op.type.shape,
        strides,
        strides_of(op.type),
        op.type.dtype.itemsize,
        source_offset=offset,
    )
    op.block("qc_copy", fields)
    op.call("qc_copy_nd", "&p", op.tensor("x"), op.out)


def broadcast_strides(source: TensorType, shape: Sequence[Dim]) -> list[Dim]:
    """Returns the strides of a value seen with a broadcast shape, 0 where it repeats."""
    strides: list[Dim] = [0] * (len(shape) - source.rank)
    offset = len(shape) - source.rank
    for i, (size, step) in enumerate(zip(source.shape, strides_of(source), strict=True)):
        strides.append(0 if size == 1 and shape[offset + i] != 1 else step)
    return strides


def emit_expand(op: OpWriter) -> None:
    """Emits expand."""
    strides = broadcast_strides(op.type_of("x"), op.type.shape)
    item = op.type.dtype.itemsize
    op.block("qc_copy", copy_fields(op.type.shape, strides, strides_of(op.type), item))
    op.call("qc_copy_nd", "&p", op.tensor("x"), op.out)


def emit_concat(op: OpWriter) -> None:
    """Emits concat: one copy per part."""
    dim = op.args["dim"] % op.type.rank
    strides = strides_of(op.type)
    at: Dim = 0
    for i, part in enumerate(op.args["xs"]):
        part_type = type_of(part)
        offset = simplify_dim(at * strides[dim])
        fields = copy_fields(
            part_type.shape,
            strides_of(part_type),
            strides,
            op.type.dtype.itemsize,
            out_offset=offset,
        )
        op.block("qc_copy", fields, f"p{i}")
        op.call("qc_copy_nd", f"&p{i}", op.tensor(part), op.out)
        at = simplify_dim(at + part_type.shape[dim])


def emit_pad(op: OpWriter) -> None:
    """Emits pad: fill, then copy the part that remains (negative padding crops)."""
    x = op.type_of("x")
    item = op.type.dtype.itemsize
    amounts = list(op.args["padding"])
    before = [0] * x.rank
    shape = list(x.shape)
    for i in range(len(amounts) // 2):
        dim, (low, high) = x.rank - 1 - i, amounts[2 * i : 2 * i + 2]
        before[dim] = low
        shape[dim] = simplify_dim(shape[dim] + min(low, 0) + min(high, 0))
    source, out = strides_of(x), strides_of(op.type)
    source_at = sum((-min(low, 0) * s for low, s in zip(before, source, strict=True)), start=0)
    out_at = sum((max(low, 0) * s for low, s in zip(before, out, strict=True)), start=0)
    fields = copy_fields(
        shape,
        source,
        out,
        item,
        source_offset=simplify_dim(source_at),
        out_offset=simplify_dim(out_at),
    )
    bits = _fill_bits(op)
    op.call("qc_fill", op.dim(op.type.numel()), str(item), f"UINT64_C({bits})", context=op.out)
    op.block("qc_copy", fields)
    op.call("qc_copy_nd", "&p", op.tensor("x"), op.out)


def _fill_bits(op: OpWriter) -> int:
    value, dtype = op.args["value"], op.type.dtype
    if dtype.is_floating_point:
        code = {2: "<e", 4: "<f", 8: "<d"}[dtype.itemsize]
        return int.from_bytes(struct.pack(code, float(value)), "little")
    stored = int(value) + (op.form.offset if dtype.itemsize == 1 else 0)
    return stored % (1 << (8 * dtype.itemsize))
