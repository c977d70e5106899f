"""Two products in one operator: a 1x1 convolution and the depthwise convolution that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from qcompiler.ir.integer_ops.base import Operand, integer_op
from qcompiler.ir.integer_ops.products import (
    conv2d_requant,
    conv2d_shape,
    fused_interval,
    weighted_interval,
)

_NO_EPILOGUE = {"residual": None, "add": None}


def pointwise_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the 1x1 convolution as those of conv2d_requant."""
    same = ("x", "weight", "bias", "multiplier", "shift", "x_zero_point")
    geometry = {"stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1], "groups": 1}
    middle = {k: given[f"mid_{k}"] for k in ("zero_point", "qmin", "qmax", "table")}
    return {**{k: given[k] for k in same}, **geometry, **middle, **_NO_EPILOGUE}


def depthwise_arguments(given: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Returns the arguments of the depthwise convolution as those of conv2d_requant; x is None."""
    own = ("weight", "bias", "multiplier", "shift", "x_zero_point")
    same = ("stride", "padding", "dilation")
    last = ("zero_point", "qmin", "qmax", "table")
    return {
        "x": None,
        **{k: given[f"dw_{k}"] for k in own},
        **{k: given[k] for k in same},
        "groups": channels,
        **{k: given[k] for k in last},
        **_NO_EPILOGUE,
    }


def _depthwise_facts(operands: Mapping[str, Operand]) -> dict[str, Operand]:
    facts = depthwise_arguments(operands, operands["dw_weight"].shape[0])
    return {**facts, "x": fused_interval(pointwise_arguments(operands))}


def _shape(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
    dw_weight, stride, padding, dilation = rest[7], *rest[12:15]
    wanted = ((weight.shape[0], x.shape[1], 1, 1), (weight.shape[0], 1, *dw_weight.shape[2:]))
    if (tuple(weight.shape), tuple(dw_weight.shape)) != wanted:
        message = f"weights of shapes {list(weight.shape)} and {list(dw_weight.shape)} do not chain"
        raise ValueError(message)
    middle = x.new_empty((x.shape[0], weight.shape[0], *x.shape[2:]))
    sums = conv2d_shape(middle, dw_weight, None, 0, stride, padding, dilation, 1)
    return sums.to(torch.int8)


@integer_op(
    "pointwise_depthwise_requant(Tensor x, Tensor weight, Tensor bias, Tensor multiplier,"
    " Tensor shift, int x_zero_point, int mid_zero_point, int mid_qmin, int mid_qmax,"
    " Tensor dw_weight, Tensor dw_bias, Tensor dw_multiplier, Tensor dw_shift,"
    " int dw_x_zero_point, int[2] stride, int[4] padding, int[2] dilation, int zero_point,"
    " int qmin, int qmax, Tensor? mid_table=None, Tensor? table=None) -> Tensor",
    fake=_shape,
    interval=lambda operands: fused_interval(_depthwise_facts(operands)),
    accumulator=lambda operands: weighted_interval(_depthwise_facts(operands)),
    inner_accumulator=lambda operands: weighted_interval(pointwise_arguments(operands)),
)
def pointwise_depthwise_requant(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    x_zero_point: int,
    mid_zero_point: int,
    mid_qmin: int,
    mid_qmax: int,
    dw_weight: torch.Tensor,
    dw_bias: torch.Tensor,
    dw_multiplier: torch.Tensor,
    dw_shift: torch.Tensor,
    dw_x_zero_point: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    zero_point: int,
    qmin: int,
    qmax: int,
    mid_table: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes conv2d_requant with 1x1 filters, then one with a filter for each channel.

    The value between the two has the codes of ``mid_zero_point``, ``mid_qmin``, ``mid_qmax`` and
    ``mid_table``; the depthwise convolution takes it with ``dw_x_zero_point``, which is also the
    code that its padding holds. Stride, padding and dilation are those of the depthwise one.
    """
    given = locals()
    first, second = pointwise_arguments(given), depthwise_arguments(given, dw_weight.shape[0])
    return conv2d_requant(**{**second, "x": conv2d_requant(**first)})
