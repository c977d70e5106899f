"""Pooling, mean and resize written out on Python numbers (5.7, 5.13); see plain.py for the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.ir.plain import Array, Index, clamp_to, fill, requant, requant_all

# Pooling (5.7). A window is given by the indices of its real elements and by its count.


def _windows(
    size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1
) -> list[list[int]]:
    """Returns the positions of each window of an axis, those in the padding included."""
    count = (size + before + after - (dilation * (kernel - 1) + 1)) // stride + 1
    return [[o * stride - before + k * dilation for k in range(kernel)] for o in range(count)]


def max_pool2d(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Array:
    down = _windows(x.shape[2], kernel[0], stride[0], padding[0], padding[1], dilation[0])
    across = _windows(x.shape[3], kernel[1], stride[1], padding[2], padding[3], dilation[1])

    def value(index: Index) -> int:
        n, c, row, column = index
        codes = [
            x[n, c, y, z] if 0 <= y < x.shape[2] and 0 <= z < x.shape[3] else -128
            for y, z in itertools.product(down[row], across[column])
        ]
        return max(codes)

    return fill((*x.shape[:2], len(down), len(across)), value)


def _sum_windows(
    x: Array, x_zero_point: int, down: list[list[int]], across: list[list[int]]
) -> Array:
    def value(index: Index) -> int:
        n, c, row, column = index
        return sum(
            x[n, c, y, z] - x_zero_point
            for y, z in itertools.product(down[row], across[column])
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]
        )

    return fill((*x.shape[:2], len(down), len(across)), value)


def _divide(
    sums: Array, m: Array, s: Array, counts: tuple[list[int], list[int]], limits: Sequence[int]
) -> Array:
    zero_point, qmin, qmax = limits

    def value(index: Index) -> int:
        entry = counts[0][index[2]] * counts[1][index[3]] - 1
        return requant(sums[index], m.items[entry], s.items[entry], zero_point, qmin, qmax)

    return fill(sums.shape, value)


def avg_pool2d_sums(
    x: Array,
    _m: Array,
    _s: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    counted: Sequence[int],
    x_zero_point: int,
    *_: int,
) -> Array:
    down = _windows(x.shape[2], kernel[0], stride[0], *padding[:2])
    across = _windows(x.shape[3], kernel[1], stride[1], *padding[2:])
    return _sum_windows(x, x_zero_point, down, across)


def avg_pool2d(x: Array, m: Array, s: Array, *rest: Any) -> Array:
    kernel, stride, padding, counted, _zero_point, *limits = rest

    def counts(axis: int) -> list[int]:
        size = x.shape[2 + axis]
        before, after = counted[2 * axis : 2 * axis + 2]
        windows = _windows(size, kernel[axis], stride[axis], *padding[2 * axis : 2 * axis + 2])
        return [max(1, sum(-before <= i < size + after for i in window)) for window in windows]

    return _divide(avg_pool2d_sums(x, m, s, *rest), m, s, (counts(0), counts(1)), limits)


def _parts(size: int, outputs: int) -> list[list[int]]:
    return [
        list(
            range(
                math.floor(Fraction(i * size, outputs)),
                math.ceil(Fraction((i + 1) * size, outputs)),
            )
        )
        for i in range(outputs)
    ]


def adaptive_avg_pool2d_sums(
    x: Array, _m: Array, _s: Array, output_size: Sequence[int], x_zero_point: int, *_: int
) -> Array:
    down, across = _parts(x.shape[2], output_size[0]), _parts(x.shape[3], output_size[1])
    return _sum_windows(x, x_zero_point, down, across)


def adaptive_avg_pool2d(
    x: Array, m: Array, s: Array, output_size: Sequence[int], x_zero_point: int, *limits: int
) -> Array:
    sums = adaptive_avg_pool2d_sums(x, m, s, output_size, x_zero_point)
    parts = [_parts(size, n) for size, n in zip(x.shape[2:], output_size, strict=True)]
    counts = [[len(part) for part in axis] for axis in parts]
    return _divide(sums, m, s, (counts[0], counts[1]), limits)


def mean_sums(
    x: Array, _m: Array, _s: Array, dims: Sequence[int], keepdim: bool, x_zero_point: int, *_: int
) -> Array:
    gone = {dim % len(x.shape) for dim in dims}
    totals: dict[Index, int] = {}
    for index in itertools.product(*map(range, x.shape)):
        to = tuple(0 if d in gone else i for d, i in enumerate(index))
        totals[to] = totals.get(to, 0) + x[index] - x_zero_point
    kept = [1 if d in gone else size for d, size in enumerate(x.shape)]
    sums = fill(kept, lambda index: totals.get(index, 0))
    if keepdim:
        return sums
    return Array(tuple(n for d, n in enumerate(x.shape) if d not in gone), sums.items)


def mean(x: Array, m: Array, s: Array, *rest: Any) -> Array:
    return requant_all(mean_sums(x, m, s, *rest), m, s, 0, *rest[3:])


# Resize (5.13).


def resize_nearest(
    x: Array, output_size: Sequence[int], scale: Sequence[int], offset: Sequence[int]
) -> Array:
    def source(o: int, axis: int) -> int:
        n, d = scale[2 * axis], scale[2 * axis + 1]
        place = math.floor(Fraction(o * d + offset[axis], n))
        return int(clamp_to(place, 0, x.shape[2 + axis] - 1))

    return fill(
        (*x.shape[:2], *output_size), lambda i: x[i[0], i[1], source(i[2], 0), source(i[3], 1)]
    )


def resize_bilinear_sums(
    x: Array,
    _m: Array,
    _s: Array,
    output_size: Sequence[int],
    scale: Sequence[int],
    offset: Sequence[int],
    x_zero_point: int,
    *_: int,
) -> Array:
    def taps(o: int, axis: int) -> list[tuple[int, int]]:
        n, d = scale[2 * axis], scale[2 * axis + 1]
        place = o * d + offset[axis]
        i, last = math.floor(Fraction(place, n)), x.shape[2 + axis] - 1
        far = place - i * n
        return [(clamp_to(i, 0, last), n - far), (clamp_to(i + 1, 0, last), far)]

    def value(index: Index) -> int:
        n, c, row, column = index
        return sum(
            (x[n, c, y, z] - x_zero_point) * wy * wz
            for (y, wy), (z, wz) in itertools.product(taps(row, 0), taps(column, 1))
        )

    return fill((*x.shape[:2], *output_size), value)


def resize_bilinear(x: Array, m: Array, s: Array, *rest: Any) -> Array:
    return requant_all(resize_bilinear_sums(x, m, s, *rest), m, s, 0, *rest[4:])
