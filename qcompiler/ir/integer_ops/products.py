"""Convolution, linear and matmul: int32 accumulators, and their fused forms (5.9, 5.10, 5.14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from qcompiler.ir.integer_ops.base import (
    Operand,
    code_interval,
    integer_op,
    pad_image,
    window_count,
)
from qcompiler.ir.integer_ops.border import requantize
from qcompiler.ir.integer_ops.elementwise import add, table
from qcompiler.numerics.intervals import Interval, accumulator_bounds

_CONV = "int x_zero_point, int[2] stride, int[4] padding, int[2] dilation, int groups"
_REQUANT = "int zero_point, int qmin, int qmax"
_EPILOGUE = "Tensor? table=None, Tensor? residual=None, int[]? add=None"


def weighted_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the interval of sums of ``(x - z) * w`` plus a bias, over all channels."""
    x, z = operands["x"], operands["x_zero_point"]
    low, high = accumulator_bounds(
        operands["weight"], operands["bias"], min(x.lo - z, 0), max(x.hi - z, 0)
    )
    return Interval(int(low.min()), int(high.max()))


def conv2d_shape(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Returns an empty tensor of conv2d's result; the arguments are those of conv2d."""
    _bias, _z, stride, (top, bottom, left, right), dilation, _groups = rest
    channels, _, kh, kw = weight.shape
    rows = window_count(x.shape[2], kh, stride[0], top + bottom, dilation[0])
    columns = window_count(x.shape[3], kw, stride[1], left + right, dilation[1])
    return x.new_empty((x.shape[0], channels, rows, columns), dtype=torch.int32)


@integer_op(
    f"conv2d(Tensor x, Tensor weight, Tensor bias, {_CONV}) -> Tensor",
    fake=conv2d_shape,
    interval=weighted_interval,
    accumulator=weighted_interval,
)
def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    x_zero_point: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Sums ``(x - z) * w`` over a window plus the bias; a padded tap counts as real zero.

    Sums of products run in float64, which holds them exactly: every partial sum stays below 2**53.
    """
    centred = pad_image(x.to(torch.int32) - x_zero_point, padding, 0)
    if weight.shape[1] == 1 and groups > 1:
        acc = _depthwise(centred, weight, stride, dilation, groups)
    else:
        acc = F.conv2d(
            centred.to(torch.float64), weight.to(torch.float64), None, stride, 0, dilation, groups
        ).to(torch.int64)
    return (acc + bias.to(torch.int64).reshape(1, -1, 1, 1)).to(torch.int32)


def _depthwise(
    x: torch.Tensor, weight: torch.Tensor, stride: list[int], dilation: list[int], groups: int
) -> torch.Tensor:
    """Convolves channel by channel, one tap at a time, in int32."""
    channels, _, kh, kw = weight.shape
    x = x.repeat_interleave(channels // groups, dim=1)
    rows = window_count(x.shape[2], kh, stride[0], 0, dilation[0])
    columns = window_count(x.shape[3], kw, stride[1], 0, dilation[1])
    acc = torch.zeros(x.shape[0], channels, rows, columns, dtype=torch.int32)
    for i in range(kh):
        for j in range(kw):
            top, left = i * dilation[0], j * dilation[1]
            window = x[
                :,
                :,
                top : top + (rows - 1) * stride[0] + 1 : stride[0],
                left : left + (columns - 1) * stride[1] + 1 : stride[1],
            ]
            acc += window * weight[:, 0, i, j].to(torch.int32).reshape(1, -1, 1, 1)
    return acc.to(torch.int64)


def _linear_shape(x: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@integer_op(
    "linear(Tensor x, Tensor weight, Tensor bias, int x_zero_point) -> Tensor",
    fake=_linear_shape,
    interval=weighted_interval,
    accumulator=weighted_interval,
)
def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, x_zero_point: int
) -> torch.Tensor:
    """Sums ``(x - z) * w`` over the last dimension plus the bias."""
    centred = (x.to(torch.int32) - x_zero_point).to(torch.float64)
    acc = torch.matmul(centred, weight.to(torch.float64).t()).to(torch.int64)
    return (acc + bias.to(torch.int64)).to(torch.int32)


def _matmul_interval(operands: Mapping[str, Operand]) -> Interval:
    a, b = operands["a"], operands["b"]
    left = Interval(a.lo - operands["a_zero_point"], a.hi - operands["a_zero_point"])
    right = Interval(b.lo - operands["b_zero_point"], b.hi - operands["b_zero_point"])
    return left.mul(right).scale(operands["inner_size"])


@integer_op(
    "matmul(Tensor a, Tensor b, int a_zero_point, int b_zero_point) -> Tensor",
    fake=lambda a, b, *_: torch.matmul(a.to(torch.float32), b.to(torch.float32)).to(torch.int32),
    interval=_matmul_interval,
    accumulator=_matmul_interval,
)
def matmul(a: torch.Tensor, b: torch.Tensor, a_zero_point: int, b_zero_point: int) -> torch.Tensor:
    """Multiplies two matrices of activations, zero points subtracted, leading dims broadcast."""
    left = (a.to(torch.int32) - a_zero_point).to(torch.float64)
    right = (b.to(torch.int32) - b_zero_point).to(torch.float64)
    return torch.matmul(left, right).to(torch.int64).to(torch.int32)


def _finish(
    y: torch.Tensor,
    lookup: torch.Tensor | None,
    residual: torch.Tensor | None,
    add_params: list[int] | None,
) -> torch.Tensor:
    if lookup is not None:
        y = table(y, lookup)
    if residual is not None and add_params is not None:
        y = add(y, residual, *add_params)
    return y


def fused_interval(operands: Mapping[str, Operand]) -> Interval:
    """Returns the interval of a fused product's result: that of its last step."""
    if operands["add"] is not None:
        return Interval(operands["add"][6], operands["add"][7])
    if operands["table"] is not None:
        return Interval(int(operands["table"].min()), int(operands["table"].max()))
    return code_interval(operands)


@integer_op(
    "conv2d_requant(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, Tensor shift,"
    f" {_CONV}, {_REQUANT}, {_EPILOGUE}) -> Tensor",
    fake=lambda x, w, b, m, s, *rest: conv2d_shape(x, w, b, *rest[:5]).to(torch.int8),
    interval=fused_interval,
    accumulator=weighted_interval,
)
def conv2d_requant(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    x_zero_point: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    zero_point: int,
    qmin: int,
    qmax: int,
    table: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    add: list[int] | None = None,
) -> torch.Tensor:
    """Convolves and requantizes, then looks up a table and adds a residual where given."""
    acc = conv2d(x, weight, bias, x_zero_point, stride, padding, dilation, groups)
    y = requantize(acc, multiplier, shift, 1, 0, zero_point, qmin, qmax)
    return _finish(y, table, residual, add)


@integer_op(
    "linear_requant(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, Tensor shift,"
    f" int x_zero_point, {_REQUANT}, {_EPILOGUE}) -> Tensor",
    fake=lambda x, w, *_: _linear_shape(x, w).to(torch.int8),
    interval=fused_interval,
    accumulator=weighted_interval,
)
def linear_requant(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    x_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
    table: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    add: list[int] | None = None,
) -> torch.Tensor:
    """Applies a linear layer and requantizes, then a table and a residual where given."""
    acc = linear(x, weight, bias, x_zero_point)
    y = requantize(acc, multiplier, shift, -1, 0, zero_point, qmin, qmax)
    return _finish(y, table, residual, add)


@integer_op(
    "matmul_requant(Tensor a, Tensor b, Tensor multiplier, Tensor shift, int a_zero_point,"
    f" int b_zero_point, {_REQUANT}) -> Tensor",
    fake=lambda a, b, *_: torch.matmul(a.to(torch.float32), b.to(torch.float32)).to(torch.int8),
    interval=code_interval,
    accumulator=_matmul_interval,
)
def matmul_requant(
    a: torch.Tensor,
    b: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    a_zero_point: int,
    b_zero_point: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Multiplies two matrices of activations and requantizes."""
    acc = matmul(a, b, a_zero_point, b_zero_point)
    return requantize(acc, multiplier, shift, -1, 0, zero_point, qmin, qmax)
