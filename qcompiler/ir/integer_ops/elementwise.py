"""Elementwise operators: add, mul, table lookup, clamp (5.3, 5.5, 5.8)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qcompiler.ir.integer_ops.base import Operand, code_interval, integer_op
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import requant_reference


def _broadcast(a: torch.Tensor, b: torch.Tensor, *_: object) -> torch.Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return a.new_empty(shape, dtype=torch.int8)


def _sum_interval(operands: Mapping[str, Operand]) -> Interval:
    total = Interval(0, 1 << (operands["shift"] - 1))
    for name in ("a", "b"):
        x, z = operands[name], operands[f"{name}_zero_point"]
        total = total.add(Interval(x.lo - z, x.hi - z).scale(operands[f"{name}_multiplier"]))
    return total


def _product_interval(operands: Mapping[str, Operand]) -> Interval:
    a, b = operands["a"], operands["b"]
    za, zb = operands["a_zero_point"], operands["b_zero_point"]
    return Interval(a.lo - za, a.hi - za).mul(Interval(b.lo - zb, b.hi - zb))


@integer_op(
    "add(Tensor a, Tensor b, int a_zero_point, int a_multiplier, int b_zero_point,"
    " int b_multiplier, int shift, int zero_point, int qmin, int qmax) -> Tensor",
    fake=_broadcast,
    interval=code_interval,
    accumulator=_sum_interval,
)
def add(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: int,
    a_multiplier: int,
    b_zero_point: int,
    b_multiplier: int,
    shift: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Adds two values of different scales in int32 with one rounding.

    Subtraction has a negative ``b_multiplier``.
    """
    acc = (a.to(torch.int32) - a_zero_point) * a_multiplier
    acc = acc + (b.to(torch.int32) - b_zero_point) * b_multiplier
    y = ((acc + (1 << (shift - 1))) >> shift) + zero_point
    return y.clamp(qmin, qmax).to(torch.int8)


@integer_op(
    "mul(Tensor a, Tensor b, int a_zero_point, int b_zero_point, int multiplier, int shift,"
    " int zero_point, int qmin, int qmax) -> Tensor",
    fake=_broadcast,
    interval=code_interval,
    accumulator=_product_interval,
)
def mul(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: int,
    shift: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Multiplies two values and requantizes the product."""
    product = (a.to(torch.int64) - a_zero_point) * (b.to(torch.int64) - b_zero_point)
    return requant_reference(product, multiplier, shift, zero_point, qmin, qmax).to(torch.int8)


def _table_interval(operands: Mapping[str, Operand]) -> Interval:
    x, lookup = operands["x"], operands["table"]
    seen = lookup[int(x.lo) + 128 : int(x.hi) + 129]
    return Interval(int(seen.min()), int(seen.max()))


@integer_op(
    "table(Tensor x, Tensor table) -> Tensor",
    fake=lambda x, _: torch.empty_like(x),
    interval=_table_interval,
)
def table(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Looks each 8-bit code up in a table of 256 codes (TOSA TABLE)."""
    return table[x.to(torch.int64) + 128]


def _clamp_interval(operands: Mapping[str, Operand]) -> Interval:
    x, low, high = operands["x"], operands["qmin"], operands["qmax"]
    return Interval(min(max(x.lo, low), high), min(max(x.hi, low), high))


@integer_op(
    "clamp(Tensor x, int qmin, int qmax) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x),
    interval=_clamp_interval,
)
def clamp(x: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    """Limits codes to a range."""
    return x.clamp(qmin, qmax)
