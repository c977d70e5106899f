"""IntegerOp: one operator of the integer IR, and the decorator that defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qcompiler.numerics.intervals import Interval
from qcompiler.torch_compat import OpOverload

NAMESPACE = "qcompiler"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# What a range function sees of an argument: the interval of an activation, or the value itself of
# a constant tensor, number or list.
Operand = Any
RangeFunction = Callable[[Mapping[str, Operand]], Interval]


@dataclass(frozen=True)
class IntegerOp:
    """An operator on integers with an exact definition.

    ``reference`` is the exact CPU implementation, ``interval`` maps operand intervals to the
    result's. ``accumulator`` maps them to the interval of the int32 sum inside, for operators that
    have one: it is what has to be proven free of overflow. ``inner_accumulator`` does so for the
    first sum of an operator that chains two products.
    """

    name: str
    schema: str
    summary: str
    overload: OpOverload
    reference: Callable[..., torch.Tensor]
    interval: RangeFunction
    accumulator: RangeFunction | None = None
    inner_accumulator: RangeFunction | None = None


INTEGER_OPS: dict[str, IntegerOp] = {}


def integer_op(
    schema: str,
    *,
    fake: Callable[..., torch.Tensor],
    interval: RangeFunction,
    accumulator: RangeFunction | None = None,
    inner_accumulator: RangeFunction | None = None,
    library: torch.library.Library = LIBRARY,
    namespace: str = NAMESPACE,
) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Defines an integer operator: the decorated function is its exact implementation."""

    def define(reference: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        name = schema.split("(", 1)[0]
        library.define(schema)
        library.impl(name, reference, "CPU")
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
        overload = getattr(getattr(torch.ops, namespace), name).default
        summary = (reference.__doc__ or "").strip().splitlines()[0]
        ranges = (interval, accumulator, inner_accumulator)
        INTEGER_OPS[f"{namespace}::{name}"] = IntegerOp(
            name, schema, summary, overload, reference, *ranges
        )
        return reference

    return define


def integer_op_of(target: object) -> IntegerOp | None:
    """Returns the definition behind a call's target, None for other operators."""
    if not isinstance(target, OpOverload):
        return None
    return INTEGER_OPS.get(target._schema.name)


def code_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the interval of a result that is clamped to ``qmin`` and ``qmax``."""
    return Interval(operands["qmin"], operands["qmax"])


def same_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the interval of the operand ``x``."""
    found: Interval = operands["x"]
    return found


def pad_image(x: torch.Tensor, padding: Sequence[int], value: float) -> torch.Tensor:
    """Returns a rank-4 tensor padded by (top, bottom, left, right); symbolic sizes stay so."""
    top, bottom, left, right = padding
    if top == bottom == left == right == 0:
        return x
    n, c, h, w = x.shape
    out = x.new_full((n, c, h + top + bottom, w + left + right), value)
    out[:, :, top : top + h, left : left + w] = x
    return out


def counted_elements(
    size: int, outputs: int, kernel: int, stride: int, before: int, grown: tuple[int, int]
) -> torch.Tensor:
    """Returns how many elements of the grown axis each window covers."""
    start = torch.arange(outputs) * stride - before
    low = start.clamp(min=-grown[0])
    high = (start + kernel).clamp(max=size + grown[1])
    return (high - low).clamp(min=1)


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Returns how many windows of one axis lie inside its padded size."""
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1
