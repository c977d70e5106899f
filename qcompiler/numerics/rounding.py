"""Rounding modes and the quantization of float tensors, weights above all.

Half even is the mode wherever a float tensor becomes integers (graph inputs, weights, biases, zero
points); half up is the mode of requantization and of tables. Both are exact on float64.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch

WeightMethod = Literal["minmax", "mse"]

MIN_CHANNEL_RATIO = 2.0**-16
"""Smallest scale of a channel relative to the largest: a nearly dead channel would otherwise need a
bias beyond int32.
"""

_SHRINK_STEPS = 80
_SHRINK_LEAST = 0.2
_BLOCK = (1 << 15) - 64
"""Elements per step, few enough that torch works in the cache and in one thread."""


def round_half_up(x: torch.Tensor) -> torch.Tensor:
    """Rounds to nearest, ties toward plus infinity; unlike floor(x + 0.5) it rounds once."""
    floor = torch.floor(x)
    return floor + (x - floor >= 0.5).to(x.dtype)


def round_half_even(x: torch.Tensor) -> torch.Tensor:
    """Rounds to nearest, ties to even."""
    return torch.round(x)


def round_half_up_exact(value: Fraction) -> int:
    """Rounds a rational to nearest, ties toward plus infinity."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def round_half_even_exact(value: Fraction) -> int:
    """Rounds a rational to nearest, ties to even."""
    return round(value)


def integer_limits(num_bits: int, signed: bool = True, narrow: bool = False) -> tuple[int, int]:
    """Returns (qmin, qmax) of a width; narrow drops the most negative value of a signed range."""
    if not signed:
        return 0, 2**num_bits - 1
    qmax = 2 ** (num_bits - 1) - 1
    return -qmax - (0 if narrow else 1), qmax


def along_axis(values: torch.Tensor, axis: int, ndim: int) -> torch.Tensor:
    """Reshapes a vector so that it broadcasts along one axis of a tensor with ndim axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def quantize_tensor(
    x: torch.Tensor,
    scale: torch.Tensor | float,
    zero_point: int,
    qmin: int,
    qmax: int,
    axis: int | None = None,
) -> torch.Tensor:
    """Quantizes to clamp(half_even(x / scale) + zero_point), computed in float64, as int32.

    Args:
        x: float tensor of any shape; NaN gives the zero point, an infinity the nearest bound.
        scale: one positive scale, or a vector of them along axis.
        zero_point: integer that stands for 0.0.
        qmin: smallest integer.
        qmax: largest integer.
        axis: axis that a vector of scales runs along.
    """
    wide = x.to(torch.float64)
    divisor = torch.as_tensor(scale, dtype=torch.float64)
    if axis is not None:
        divisor = along_axis(divisor, axis, x.ndim)
    rounded = torch.round(wide / divisor) + zero_point
    rounded = torch.nan_to_num(rounded, nan=zero_point, posinf=qmax, neginf=qmin)
    return rounded.clamp(qmin, qmax).to(torch.int32)


def weight_scales(
    weight: torch.Tensor,
    axis: int,
    num_bits: int = 8,
    narrow: bool = True,
    method: WeightMethod = "minmax",
) -> torch.Tensor:
    """Returns the symmetric float64 scale of each channel of a weight, shape [C].

    Method minmax covers the largest magnitude; mse shrinks it by the one of 80 ratios in [0.2, 1]
    with the least squared error of the channel. A channel below 2**-16 of the largest scale is
    raised to it, which gives an all-zero channel a scale that fits its bias; a weight that is zero
    throughout has scales of 1.
    """
    channels = weight.detach().movedim(axis, 0).flatten(1).to(torch.float64)
    qmin, qmax = integer_limits(num_bits, narrow=narrow)
    low, high = torch.aminmax(channels, dim=1)
    largest = torch.maximum(high / qmax, low / qmin)
    if not bool(largest.any()):
        return torch.ones_like(largest)
    scales = largest if method == "minmax" else _least_squares(channels, largest, qmin, qmax)
    return scales.clamp(min=float(scales.max()) * MIN_CHANNEL_RATIO)


def _least_squares(
    channels: torch.Tensor, largest: torch.Tensor, qmin: int, qmax: int
) -> torch.Tensor:
    """Returns the best of the shrunk scales, by blocks of channels that stay in the cache."""
    usable = torch.where(largest > 0, largest, 1.0)
    ratios = torch.linspace(1.0, _SHRINK_LEAST, _SHRINK_STEPS, dtype=torch.float64)
    rows = max(1, _BLOCK // channels.shape[1])
    blocks = []
    for start in range(0, channels.shape[0], rows):
        block = channels[start : start + rows].to(torch.float32)
        scale = usable[start : start + rows].to(torch.float32).unsqueeze(1)
        errors = [_squared_error(block, scale * ratio, qmin, qmax) for ratio in ratios.tolist()]
        blocks.append(ratios[torch.stack(errors).argmin(0)])
    return torch.cat(blocks) * largest


def _squared_error(x: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int) -> torch.Tensor:
    restored = torch.round(x / scale).clamp_(qmin, qmax).mul_(scale)
    return restored.sub_(x).square_().sum(1)
