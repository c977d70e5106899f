"""Lowering of data movement to strided copies."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from qcompiler.backends.cuda.launch import Pointer
from qcompiler.backends.cuda.lower_elementwise import broadcast, ordered
from qcompiler.backends.cuda.op_lowering import OpLowering
from qcompiler.backends.native.layout import is_row_major, row_major_strides


def copy(
    op: OpLowering,
    x: Pointer,
    out: Pointer,
    shape: Sequence[int],
    x_strides: Sequence[int],
    out_strides: Sequence[int],
    offsets: tuple[int, int] = (0, 0),
) -> None:
    """Adds a copy of ``shape`` elements between strides; offsets are those of x and of out."""
    sizes, (to, come) = ordered(shape, out_strides, x_strides)
    constants = {"INNER": sizes[1:], "X_STRIDES": come, "OUT_STRIDES": to}
    arguments = {"x": x, "out": out, "x_offset": offsets[0], "out_offset": offsets[1]}
    op.by_elements("copy_nd", prod(shape), arguments, constants)


def plain_strides(shape: Sequence[int]) -> list[int]:
    """Returns the strides of a dense tensor in logical order."""
    return [int(step) for step in row_major_strides(shape)]


def lower_reshape(op: OpLowering) -> None:
    """Lowers reshape: through the logical order where a side is stored as NHWC."""
    x_shape, out_shape = op.shape_of("x"), op.shape
    x, out = op.tensor("x"), op.out
    if is_row_major(op.type_of("x")):
        copy(op, x, out, out_shape, plain_strides(out_shape), op.strides)
    elif is_row_major(op.type):
        copy(op, x, out, x_shape, op.strides_of("x"), plain_strides(x_shape))
    else:
        staged = op.scratch(prod(x_shape), op.type.dtype)
        copy(op, x, staged, x_shape, op.strides_of("x"), plain_strides(x_shape))
        copy(op, staged, out, out_shape, plain_strides(out_shape), op.strides)


def lower_permute(op: OpLowering) -> None:
    """Lowers permute."""
    source = op.strides_of("x")
    strides = [source[d % len(source)] for d in op.args["dims"]]
    copy(op, op.tensor("x"), op.out, op.shape, strides, op.strides)


def lower_slice(op: OpLowering) -> None:
    """Lowers slice; a negative start counts from the end."""
    shape, strides = op.shape_of("x"), list(op.strides_of("x"))
    dim, start, step = op.args["dim"] % len(shape), op.args["start"], op.args["step"]
    start = max(shape[dim] + start, 0) if start < 0 else min(start, shape[dim])
    offset = strides[dim] * start
    strides[dim] *= step
    copy(op, op.tensor("x"), op.out, op.shape, strides, op.strides, (offset, 0))


def lower_expand(op: OpLowering) -> None:
    """Lowers expand."""
    copy(op, op.tensor("x"), op.out, op.shape, broadcast(op, "x"), op.strides)


def lower_concat(op: OpLowering) -> None:
    """Lowers concat: one copy for each part."""
    dim, at = op.args["dim"] % len(op.shape), 0
    for part in op.args["xs"]:
        shape = tuple(int(size) for size in op.bound(part).shape)
        strides = op.strides_of_node(part)
        copy(op, op.tensor(part), op.out, shape, strides, op.strides, (0, at * op.strides[dim]))
        at += shape[dim]


def lower_pad(op: OpLowering) -> None:
    """Lowers pad: fill, then copy what remains; negative padding crops."""
    shape, source, out = list(op.shape_of("x")), op.strides_of("x"), op.strides
    before = [0] * len(shape)
    amounts = op.args["padding"]
    for i in range(len(amounts) // 2):
        dim, (low, high) = len(shape) - 1 - i, amounts[2 * i : 2 * i + 2]
        before[dim] = low
        shape[dim] += min(low, 0) + min(high, 0)
    x_at = sum(-min(low, 0) * step for low, step in zip(before, source, strict=True))
    out_at = sum(max(low, 0) * step for low, step in zip(before, out, strict=True))
    value = op.args["value"]
    number = float(value) if op.type.dtype.is_floating_point else int(value)
    op.by_elements("fill", prod(op.shape), {"out": op.out}, {"VALUE": number})
    copy(op, op.tensor("x"), op.out, shape, source, out, (x_at, out_at))
