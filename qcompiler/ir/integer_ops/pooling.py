"""Pooling and mean: maxima, and averages by an integer reciprocal (5.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from qcompiler.ir.integer_ops.base import (
    Operand,
    code_interval,
    counted_elements,
    integer_op,
    pad_image,
    window_count,
)
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import requant_reference

_AVERAGE = "int x_zero_point, int zero_point, int qmin, int qmax"


def _pool_shape(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> torch.Tensor:
    top, bottom, left, right = padding
    rows = window_count(x.shape[2], kernel[0], stride[0], top + bottom, dilation[0])
    columns = window_count(x.shape[3], kernel[1], stride[1], left + right, dilation[1])
    return x.new_empty((*x.shape[:2], rows, columns), dtype=torch.int8)


def _maximum_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the operand's interval, joined by -128 where a window can lie in the padding."""
    found: Interval = operands["x"]
    for axis, (k, d) in enumerate(zip(operands["kernel"], operands["dilation"], strict=True)):
        widest = max(operands["padding"][2 * axis : 2 * axis + 2])
        if widest >= k or (widest > 0 and d > 1):
            found = found.union(Interval(-128, -128))
    return found


@integer_op(
    "max_pool2d(Tensor x, int[2] kernel, int[2] stride, int[4] padding, int[2] dilation) -> Tensor",
    fake=_pool_shape,
    interval=_maximum_interval,
)
def max_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> torch.Tensor:
    """Takes the largest code of each window; padding is the smallest code."""
    padded = pad_image(x, padding, -128)
    rows = window_count(padded.shape[2], kernel[0], stride[0], 0, dilation[0])
    columns = window_count(padded.shape[3], kernel[1], stride[1], 0, dilation[1])
    best = torch.full((*x.shape[:2], rows, columns), -128, dtype=torch.int8)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y, z = i * dilation[0], j * dilation[1]
            window = padded[
                :,
                :,
                y : y + (rows - 1) * stride[0] + 1 : stride[0],
                z : z + (columns - 1) * stride[1] + 1 : stride[1],
            ]
            best = torch.maximum(best, window)
    return best


def _window_sum(operands: Mapping[str, Operand], elements: int) -> Interval:
    x, z = operands["x"], operands["x_zero_point"]
    return Interval(min(x.lo - z, 0), max(x.hi - z, 0)).scale(elements)


def _divide(
    acc: torch.Tensor,
    counts: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    zero_point: int,
    limits: tuple[int, int],
) -> torch.Tensor:
    m, s = multiplier[counts - 1], shift[counts - 1]
    return requant_reference(acc, m, s, zero_point, *limits).to(torch.int8)


@integer_op(
    "avg_pool2d(Tensor x, Tensor multiplier, Tensor shift, int[2] kernel, int[2] stride,"
    f" int[4] padding, int[4] counted, {_AVERAGE}) -> Tensor",
    fake=lambda x, m, s, kernel, stride, padding, *_: _pool_shape(x, kernel, stride, padding),
    interval=code_interval,
    accumulator=lambda o: _window_sum(o, o["kernel"][0] * o["kernel"][1]),
)
def avg_pool2d(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    counted: list[int],
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Sums each window's real elements and divides by the number of counted ones.

    ``counted`` (top, bottom, left, right) is the part of the padding that counts as elements; the
    divisor's multiplier and shift stand at index ``count - 1``.
    """
    padded = pad_image(x.to(torch.int64) - x_zero_point, padding, 0)
    rows = window_count(padded.shape[2], kernel[0], stride[0], 0)
    columns = window_count(padded.shape[3], kernel[1], stride[1], 0)
    acc = torch.zeros((*x.shape[:2], rows, columns), dtype=torch.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            acc += padded[
                :,
                :,
                i : i + (rows - 1) * stride[0] + 1 : stride[0],
                j : j + (columns - 1) * stride[1] + 1 : stride[1],
            ]
    down = counted_elements(
        x.shape[2], rows, kernel[0], stride[0], padding[0], (counted[0], counted[1])
    )
    across = counted_elements(
        x.shape[3], columns, kernel[1], stride[1], padding[2], (counted[2], counted[3])
    )
    counts = down[:, None] * across[None, :]
    return _divide(acc, counts, multiplier, shift, zero_point, (qmin, qmax))


@integer_op(
    "adaptive_avg_pool2d(Tensor x, Tensor multiplier, Tensor shift, int[2] output_size,"
    f" {_AVERAGE}) -> Tensor",
    fake=lambda x, m, s, size, *_: x.new_empty((*x.shape[:2], *size), dtype=torch.int8),
    interval=code_interval,
    accumulator=lambda o: _window_sum(o, o["multiplier"].numel()),
)
def adaptive_avg_pool2d(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    output_size: list[int],
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Averages windows ``floor(i*H/h)`` to ``ceil((i+1)*H/h)``; multipliers by ``count - 1``."""
    centred = x.to(torch.int64) - x_zero_point
    edges = []
    for size, outputs in zip(x.shape[2:], output_size, strict=True):
        edges.append([(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)])
    acc = torch.stack(
        [
            torch.stack([centred[:, :, t:b, lo:hi].sum((2, 3)) for lo, hi in edges[1]], -1)
            for t, b in edges[0]
        ],
        -2,
    )
    counts = torch.tensor([[(b - t) * (hi - lo) for lo, hi in edges[1]] for t, b in edges[0]])
    return _divide(acc, counts, multiplier, shift, zero_point, (qmin, qmax))


@integer_op(
    f"mean(Tensor x, Tensor multiplier, Tensor shift, int[] dims, bool keepdim, {_AVERAGE})"
    " -> Tensor",
    fake=lambda x, m, s, dims, keepdim, *_: x.to(torch.float32).mean(dims, keepdim).to(torch.int8),
    interval=code_interval,
    accumulator=lambda o: _window_sum(o, o["elements"]),
)
def mean(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    dims: list[int],
    keepdim: bool,
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Sums over dimensions and divides by the number of elements."""
    acc = (x.to(torch.int64) - x_zero_point).sum(dims, keepdim=keepdim)
    m, s = multiplier.reshape(()), shift.reshape(())
    return requant_reference(acc, m, s, zero_point, qmin, qmax).to(torch.int8)
