"""Lowering of the border operators, requantize, and operators on single elements."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from qcompiler.backends.cuda.indexing import collapse, in_order
from qcompiler.backends.cuda.launch import Constant, Pointer, Stride
from qcompiler.backends.cuda.op_lowering import OpLowering
from qcompiler.backends.native.layout import is_interleaved


def limits(op: OpLowering) -> dict[str, Constant]:
    """Returns zero point and bounds of the result."""
    return {name.upper(): int(op.args[name]) for name in ("zero_point", "qmin", "qmax")}


def shift_facts(shift: torch.Tensor) -> dict[str, Constant]:
    """Returns which way of requantization the shifts allow."""
    least = int(shift.min()) if shift.numel() else 33
    return {"SATURATES": least < 32, "HIGH": least >= 33}


def broadcast(op: OpLowering, name: str) -> list[int]:
    """Returns the strides of an argument seen with the result's shape, 0 where it repeats."""
    shape, strides = op.shape_of(name), op.strides_of(name)
    missing = len(op.shape) - len(shape)
    steps = [0] * missing
    for i, (size, step) in enumerate(zip(shape, strides, strict=True)):
        steps.append(0 if size == 1 and op.shape[missing + i] != 1 else step)
    return steps


def ordered(
    shape: Sequence[int], out: Sequence[int], *others: Sequence[int]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Returns collapsed sizes and strides, the result's first, in the order of its storage."""
    order = in_order(out, shape)
    views = [[tensor[d] for d in order] for tensor in (out, *others)]
    return collapse([shape[d] for d in order], *views)


def lower_quantize(op: OpLowering) -> None:
    """Lowers quantize: reads the caller's tensor at its own strides, writes NHWC."""
    shape = op.shape
    order = (0, 2, 3, 1) if is_interleaved(op.type) else tuple(range(len(shape)))
    sizes = [shape[d] for d in order]
    steps: list[Stride | int] = [op.input_strides("x")[d] for d in order]
    while len(sizes) > 4:  # inputs of more dimensions are contiguous: the runtime sees to that
        sizes[0:2] = [sizes[0] * sizes[1]]
        steps = steps[1:]
    padding = 4 - len(sizes)
    sizes, steps = [1] * padding + sizes, [*[0] * padding, *steps]
    arguments: dict[str, Pointer | Stride | int] = {"x": op.tensor("x"), "out": op.out}
    arguments |= {f"x_strides_{i}": step for i, step in enumerate(steps)}
    constants = {"INNER": tuple(sizes[1:]), "INV_SCALE": float(op.args["inv_scale"]), **limits(op)}
    op.by_elements("quantize_f32_s8", prod(shape), arguments, constants)


def lower_dequantize(op: OpLowering) -> None:
    """Lowers dequantize of codes."""
    sizes, (steps,) = collapse(op.shape, op.strides_of("x"))
    constants: dict[str, Constant] = {
        **{"INNER": sizes[1:], "X_STRIDES": steps},
        **{"SCALE": float(op.args["scale"]), "ZERO_POINT": int(op.args["zero_point"])},
    }
    arguments = {"x": op.tensor("x"), "out": op.out}
    op.by_elements("dequantize_s8_f32", prod(op.shape), arguments, constants)


def lower_dequantize_accumulator(op: OpLowering) -> None:
    """Lowers dequantize_accumulator."""
    scale = op.constant("scale").reshape(-1).to(torch.float32)
    axis = op.args["axis"] % max(len(op.shape), 1)
    channel = [int(scale.numel() > 1 and d == axis) for d in range(len(op.shape))]
    sizes, (x_steps, steps) = collapse(op.shape, op.strides_of("x"), channel)
    constants = {"INNER": sizes[1:], "X_STRIDES": x_steps, "SCALE_STRIDES": steps}
    arguments = {"x": op.tensor("x"), "scale": op.packed(scale), "out": op.out}
    op.by_elements("dequantize_s32_f32", prod(op.shape), arguments, constants)


def lower_requantize(op: OpLowering) -> None:
    """Lowers requantize of sums or codes."""
    x = op.type_of("x")
    multiplier, shift = op.constant("multiplier").reshape(-1), op.constant("shift").reshape(-1)
    multiplier, shift = torch.broadcast_tensors(multiplier, shift)
    order = [0, 2, 3, 1] if is_interleaved(x) else list(range(x.rank))
    stored = [op.shape[d] for d in order]
    at = order.index(op.args["axis"] % x.rank) if x.rank and multiplier.numel() > 1 else -1
    inner = prod(stored[at + 1 :]) if at >= 0 else prod(stored)
    constants: dict[str, Constant] = {
        **{"CHANNELS": multiplier.numel(), "INNER": max(inner, 1) if at >= 0 else 1},
        "X_ZERO_POINT": int(op.args["x_zero_point"]),
        **limits(op),
        **shift_facts(shift),
    }
    arguments = {
        **{"x": op.tensor("x"), "out": op.out},
        **{"multiplier": op.int32(multiplier), "shift": op.int32(shift)},
    }
    op.by_elements("requantize_s8", prod(op.shape), arguments, constants)


def _binary(op: OpLowering, kernel: str, constants: dict[str, Constant]) -> None:
    sizes, (out, a, b) = ordered(op.shape, op.strides, broadcast(op, "a"), broadcast(op, "b"))
    places = {"INNER": sizes[1:], "A_STRIDES": a, "B_STRIDES": b, "OUT_STRIDES": out}
    arguments = {"a": op.tensor("a"), "b": op.tensor("b"), "out": op.out}
    op.by_elements(kernel, prod(op.shape), arguments, {**places, **constants})


def lower_add(op: OpLowering) -> None:
    """Lowers add with broadcasting."""
    names = ("a_zero_point", "a_multiplier", "b_zero_point", "b_multiplier", "shift")
    numbers = [op.args[name] for name in (*names, "zero_point", "qmin", "qmax")]
    _binary(op, "add_s8", {"ADD": tuple(int(number) for number in numbers)})


def lower_mul(op: OpLowering) -> None:
    """Lowers mul with broadcasting."""
    names = ("a_zero_point", "b_zero_point", "multiplier", "shift")
    _binary(op, "mul_s8", {n.upper(): int(op.args[n]) for n in names} | limits(op))


def lower_table(op: OpLowering) -> None:
    """Lowers table."""
    table = op.packed(op.constant("table").reshape(-1).to(torch.int8))
    arguments = {"x": op.tensor("x"), "table": table, "out": op.out}
    op.by_elements("table_s8", prod(op.shape), arguments, {})


def lower_clamp(op: OpLowering) -> None:
    """Lowers clamp."""
    bounds: dict[str, Constant] = {n.upper(): int(op.args[n]) for n in ("qmin", "qmax")}
    op.by_elements("clamp_s8", prod(op.shape), {"x": op.tensor("x"), "out": op.out}, bounds)
