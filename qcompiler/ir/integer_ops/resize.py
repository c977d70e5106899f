"""Resize by exact rationals, as TOSA RESIZE (5.13)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qcompiler.ir.integer_ops.base import Operand, code_interval, integer_op, same_interval
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import requant_reference


def _resized(x: torch.Tensor, size: list[int]) -> torch.Tensor:
    return x.new_empty((*x.shape[:2], *size), dtype=torch.int8)


@integer_op(
    "resize_nearest(Tensor x, int[2] output_size, int[4] scale, int[2] offset) -> Tensor",
    fake=lambda x, size, *_: _resized(x, size),
    interval=same_interval,
)
def resize_nearest(
    x: torch.Tensor, output_size: list[int], scale: list[int], offset: list[int]
) -> torch.Tensor:
    """Copies element ``floor((o * d + offset) / n)`` of each axis; scale is (ny, dy, nx, dx)."""
    for axis in (0, 1):
        n, d = scale[2 * axis], scale[2 * axis + 1]
        index = (torch.arange(output_size[axis]) * d + offset[axis]) // n
        x = x.index_select(2 + axis, index.clamp(0, x.shape[2 + axis] - 1))
    return x


def _blend(x: torch.Tensor, axis: int, outputs: int, n: int, d: int, offset: int) -> torch.Tensor:
    """Blends neighbours along one axis with integer weights that sum to ``n``."""
    position = torch.arange(outputs) * d + offset
    index = torch.div(position, n, rounding_mode="floor")
    weight = (position - index * n).reshape([-1 if a == axis else 1 for a in range(4)])
    last = x.shape[axis] - 1
    near = x.index_select(axis, index.clamp(0, last))
    far = x.index_select(axis, (index + 1).clamp(0, last))
    return near * (n - weight) + far * weight


def _blend_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the interval of the weighted sum before its requantization."""
    x, z, scale = operands["x"], operands["x_zero_point"], operands["scale"]
    return Interval(x.lo - z, x.hi - z).scale(scale[0] * scale[2])


@integer_op(
    "resize_bilinear(Tensor x, Tensor multiplier, Tensor shift, int[2] output_size, int[4] scale,"
    " int[2] offset, int x_zero_point, int zero_point, int qmin, int qmax) -> Tensor",
    fake=lambda x, m, s, size, *_: _resized(x, size),
    interval=code_interval,
    accumulator=_blend_interval,
)
def resize_bilinear(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    output_size: list[int],
    scale: list[int],
    offset: list[int],
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Blends four neighbours with integer weights and requantizes the sum."""
    acc = x.to(torch.int64) - x_zero_point
    acc = _blend(acc, 2, output_size[0], scale[0], scale[1], offset[0])
    acc = _blend(acc, 3, output_size[1], scale[2], scale[3], offset[1])
    return requant_reference(acc, multiplier, shift, zero_point, qmin, qmax).to(torch.int8)
