"""Every integer operator written out on Python numbers, one element at a time.

Pooling and resize are in plain_windows.py, data movement in plain_movement.py.
These definitions follow the written semantics, not the implementation: sums are Python integers,
scaling is a floor of rationals, and the only floats are single fp32 operations at the border.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

Index = tuple[int, ...]
Limits = tuple[int, int]


@dataclass(frozen=True)
class Array:
    """A dense tensor of Python numbers, the last dimension fastest."""

    shape: tuple[int, ...]
    items: list[Any]

    def __getitem__(self, index: Sequence[int]) -> Any:
        place = 0
        for i, size in zip(index, self.shape, strict=True):
            place = place * size + i
        return self.items[place]

    def over(self, index: Sequence[int]) -> Any:
        """Returns the element at an index of a result that this array broadcasts to."""
        own = index[len(index) - len(self.shape) :]
        return self[[0 if size == 1 else i for i, size in zip(own, self.shape, strict=True)]]

    def map(self, function: Callable[[Any], Any]) -> Array:
        """Returns the function's value at each element."""
        return Array(self.shape, [function(item) for item in self.items])

    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns the same elements as a tensor."""
        return torch.tensor(self.items, dtype=dtype).reshape(self.shape)


def array(tensor: torch.Tensor) -> Array:
    """Returns the elements of a tensor."""
    return Array(tuple(tensor.shape), tensor.flatten().tolist())


def fill(shape: Sequence[int], value: Callable[[Index], Any]) -> Array:
    """Returns the array of a shape whose elements are a function of their index."""
    return Array(tuple(shape), [value(i) for i in itertools.product(*map(range, shape))])


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Returns the common shape: sizes of 1 and missing leading dimensions follow the others."""
    rank = max(map(len, shapes))
    rows = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*rows, strict=True))


# Numbers.


def fp32(value: float) -> float:
    """Rounds a float64 to the nearest fp32, ties to even; too large ones become infinite."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def int32(value: int) -> int:
    """Wraps an integer modulo 2**32."""
    return (value + 2**31) % 2**32 - 2**31


def clamp_to(value: Any, low: Any, high: Any) -> Any:
    """Returns the nearest number of a range."""
    return min(max(value, low), high)


def round_shift(x: int, m: int, s: int) -> int:
    """Scales by m * 2**-s with one rounding, half up, after saturation to s bits (2.1, 2.2)."""
    x = clamp_to(x, -(2 ** (s - 1)), 2 ** (s - 1) - 1)
    return math.floor(Fraction(x * m, 2**s) + Fraction(1, 2))


def requant(x: int, m: int, s: int, zero_point: int, qmin: int, qmax: int) -> int:
    """The operation of 2.2."""
    return int(clamp_to(round_shift(x, m, s) + zero_point, qmin, qmax))


def requant_all(
    sums: Array, m: Array, s: Array, axis: int, zero_point: int, qmin: int, qmax: int
) -> Array:
    def value(index: Index) -> int:
        c = index[axis] if len(m.items) > 1 else 0
        return requant(sums[index], m.items[c], s.items[c], zero_point, qmin, qmax)

    return fill(sums.shape, value)


# Border (5.2).


def quantize(x: Array, inverse: float, zero_point: int, qmin: int, qmax: int) -> Array:
    def value(item: float) -> int:
        if math.isnan(item) or math.isnan(item * inverse):
            return int(clamp_to(zero_point, qmin, qmax))
        scaled = clamp_to(fp32(item * inverse), -1000.0, 1000.0)
        return int(clamp_to(round(Fraction(scaled)) + zero_point, qmin, qmax))

    return x.map(value)


def dequantize(x: Array, scale: float, zero_point: int) -> Array:
    return x.map(lambda code: fp32(fp32(float(code - zero_point)) * fp32(scale)))


def dequantize_accumulator(x: Array, scale: Array, axis: int) -> Array:
    def value(index: Index) -> float:
        return fp32(fp32(float(x[index])) * scale.items[index[axis] if scale.shape[0] > 1 else 0])

    return fill(x.shape, value)


def requantize(x: Array, m: Array, s: Array, axis: int, x_zero_point: int, *limits: int) -> Array:
    zero_point, qmin, qmax = limits
    return requant_all(x.map(lambda q: q - x_zero_point), m, s, axis, zero_point, qmin, qmax)


# Products (5.9, 5.10, 5.14). The sums are exact; int32 holds them modulo 2**32.


def conv2d_sums(
    x: Array,
    weight: Array,
    bias: Array,
    x_zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    batch, _, height, width = x.shape
    channels, depth, kh, kw = weight.shape
    top, bottom, left, right = padding
    rows = (height + top + bottom - (dilation[0] * (kh - 1) + 1)) // stride[0] + 1
    columns = (width + left + right - (dilation[1] * (kw - 1) + 1)) // stride[1] + 1

    def value(index: Index) -> int:
        n, channel, row, column = index
        first = channel // (channels // groups) * depth
        total: int = bias.items[channel]
        for i, j in itertools.product(range(kh), range(kw)):
            y = row * stride[0] - top + i * dilation[0]
            z = column * stride[1] - left + j * dilation[1]
            if 0 <= y < height and 0 <= z < width:
                for c in range(depth):
                    code = x[n, first + c, y, z] - x_zero_point
                    total += code * weight[channel, c, i, j]
        return total

    return fill((batch, channels, rows, columns), value)


def linear_sums(x: Array, weight: Array, bias: Array, x_zero_point: int) -> Array:
    columns, depth = weight.shape

    def value(index: Index) -> int:
        *head, n = index
        terms = ((x[(*head, k)] - x_zero_point) * weight[n, k] for k in range(depth))
        total: int = sum(terms, start=bias.items[n])
        return total

    return fill((*x.shape[:-1], columns), value)


def matmul_sums(a: Array, b: Array, a_zero_point: int, b_zero_point: int) -> Array:
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    depth = a.shape[-1]

    def value(index: Index) -> int:
        *head, row, column = index
        return sum(
            (_batched(a, head, row, k) - a_zero_point)
            * (_batched(b, head, k, column) - b_zero_point)
            for k in range(depth)
        )

    return fill((*lead, a.shape[-2], b.shape[-1]), value)


def _batched(x: Array, head: Sequence[int], row: int, column: int) -> int:
    own = head[len(head) - (len(x.shape) - 2) :]
    place = [0 if size == 1 else i for i, size in zip(own, x.shape[:-2], strict=True)]
    return int(x[(*place, row, column)])


def conv2d(*args: Any) -> Array:
    return conv2d_sums(*args).map(int32)


def linear(*args: Any) -> Array:
    return linear_sums(*args).map(int32)


def matmul(*args: Any) -> Array:
    return matmul_sums(*args).map(int32)


def _finish(
    y: Array, lookup: Array | None = None, residual: Array | None = None, sum_of: Any = None
) -> Array:
    y = y if lookup is None else table(y, lookup)
    return y if residual is None else add(y, residual, *sum_of)


def conv2d_requant(x: Array, weight: Array, bias: Array, m: Array, s: Array, *rest: Any) -> Array:
    y = requant_all(conv2d(x, weight, bias, *rest[:5]), m, s, 1, *rest[5:8])
    return _finish(y, *rest[8:])


def _middle(x: Array, weight: Array, bias: Array, m: Array, s: Array, *rest: Any) -> Array:
    point = [[1, 1], [0] * 4, [1, 1], 1]
    lookup = [rest[15]] if len(rest) > 15 else []
    return conv2d_requant(x, weight, bias, m, s, rest[0], *point, *rest[1:4], *lookup)


def pointwise_sums(
    x: Array, weight: Array, bias: Array, m: Array, s: Array, z: int, *_: Any
) -> Array:
    return conv2d_sums(x, weight, bias, z, [1, 1], [0] * 4, [1, 1], 1)


def pointwise_depthwise_sums(*args: Any) -> Array:
    weight, bias, _, _, zero_point, stride, padding, dilation = args[9:17]
    geometry = (zero_point, stride, padding, dilation, weight.shape[0])
    return conv2d_sums(_middle(*args), weight, bias, *geometry)


def pointwise_depthwise_requant(*args: Any) -> Array:
    weight, bias, m, s, zero_point, stride, padding, dilation, *limits = args[9:20]
    geometry = (zero_point, stride, padding, dilation, weight.shape[0])
    return conv2d_requant(_middle(*args), weight, bias, m, s, *geometry, *limits, *args[21:])


def linear_requant(
    x: Array, weight: Array, bias: Array, m: Array, s: Array, x_zero_point: int, *rest: Any
) -> Array:
    y = requant_all(linear(x, weight, bias, x_zero_point), m, s, -1, *rest[:3])
    return _finish(y, *rest[3:])


def matmul_requant(a: Array, b: Array, m: Array, s: Array, *rest: int) -> Array:
    return requant_all(matmul(a, b, *rest[:2]), m, s, -1, *rest[2:])


# Elementwise (5.3, 5.5, 5.8).


def add_sums(a: Array, b: Array, za: int, ma: int, zb: int, mb: int, shift: int, *_: int) -> Array:
    return fill(
        broadcast(a.shape, b.shape),
        lambda i: (a.over(i) - za) * ma + (b.over(i) - zb) * mb + 2 ** (shift - 1),
    )


def add(
    a: Array,
    b: Array,
    za: int,
    ma: int,
    zb: int,
    mb: int,
    shift: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> Array:
    sums = add_sums(a, b, za, ma, zb, mb, shift)
    return sums.map(lambda acc: clamp_to(zero_point + acc // 2**shift, qmin, qmax))


def mul_sums(a: Array, b: Array, za: int, zb: int, *_: int) -> Array:
    return fill(broadcast(a.shape, b.shape), lambda i: (a.over(i) - za) * (b.over(i) - zb))


def mul(a: Array, b: Array, za: int, zb: int, m: int, s: int, *limits: int) -> Array:
    zero_point, qmin, qmax = limits
    return mul_sums(a, b, za, zb).map(lambda p: requant(p, m, s, zero_point, qmin, qmax))


def table(x: Array, lookup: Array) -> Array:
    return x.map(lambda code: lookup.items[code + 128])


def clamp(x: Array, qmin: int, qmax: int) -> Array:
    return x.map(lambda code: clamp_to(code, qmin, qmax))
