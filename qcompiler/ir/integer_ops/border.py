"""Operators at the border of the integer world, and requantize (integer semantics 2 and 5.2)."""

from __future__ import annotations

import torch

from qcompiler.ir.integer_ops.base import code_interval, integer_op
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import requant_reference


def per_channel(values: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """Shapes a vector of length 1 or C so that it broadcasts along an axis."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _int8_like(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@integer_op(
    "quantize(Tensor x, float inv_scale, int zero_point, int qmin, int qmax) -> Tensor",
    fake=_int8_like,
    interval=code_interval,
)
def quantize(
    x: torch.Tensor, inv_scale: float, zero_point: int, qmin: int, qmax: int
) -> torch.Tensor:
    """Rounds ``x * inv_scale`` half to even in float32, adds z and clamps; NaN gives z."""
    scaled = torch.nan_to_num(x * inv_scale, nan=0.0, posinf=float("inf"), neginf=float("-inf"))
    clamped = scaled.clamp(qmin - zero_point, qmax - zero_point)
    return (torch.round(clamped).to(torch.int32) + zero_point).to(torch.int8)


@integer_op(
    "dequantize(Tensor x, float scale, int zero_point) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x, dtype=torch.float32),
    interval=lambda _: Interval(float("-inf"), float("inf")),
)
def dequantize(x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
    """Multiplies ``x - zero_point`` by the scale in float32."""
    return (x.to(torch.int32) - zero_point).to(torch.float32) * scale


@integer_op(
    "dequantize_accumulator(Tensor x, Tensor scale, int axis) -> Tensor",
    fake=lambda x, *_: torch.empty_like(x, dtype=torch.float32),
    interval=lambda _: Interval(float("-inf"), float("inf")),
)
def dequantize_accumulator(x: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    """Converts int32 sums to float32 and multiplies by the float32 scale of each channel."""
    return x.to(torch.float32) * per_channel(scale, x.dim(), axis)


@integer_op(
    "requantize(Tensor x, Tensor multiplier, Tensor shift, int axis, int x_zero_point,"
    " int zero_point, int qmin, int qmax) -> Tensor",
    fake=_int8_like,
    interval=code_interval,
)
def requantize(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    axis: int,
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Scales integers by ``multiplier * 2**-shift`` with one rounding, half up (TOSA RESCALE)."""
    m = per_channel(multiplier, x.dim(), axis)
    s = per_channel(shift, x.dim(), axis)
    return requant_reference(x.to(torch.int64) - x_zero_point, m, s, zero_point, qmin, qmax).to(
        torch.int8
    )
