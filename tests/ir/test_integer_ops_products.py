"""Convolution, linear and matmul against their definitions (5.9, 5.10, 5.14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.intervals import Interval
from tests.ir.calls import (
    BATCHES,
    ZERO_POINTS,
    Draw,
    addition,
    biases,
    check,
    codes,
    limits,
    operator,
    scales,
    weights,
)

OPS = torch.ops.qcompiler
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


def convolution(draw: Draw, batch: int, *, depthwise: bool = False) -> list[Any]:
    """Draws the arguments of conv2d: groups, strides, dilation and four paddings."""
    groups = draw(st.integers(2, 4)) if depthwise else draw(st.sampled_from([1, 1, 2, 3]))
    depth = 1 if depthwise else draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 2))
    kernel, stride, dilation = draw(PAIR), draw(PAIR), draw(PAIR)
    padding = [draw(st.integers(0, 2)) for _ in range(4)]
    sizes = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        least = max(1, reach - padding[2 * axis] - padding[2 * axis + 1])
        sizes.append(draw(st.integers(least, max(least, 6))))
    x = codes(draw, (batch, groups * depth, *sizes))
    weight = weights(draw, (channels, depth, *kernel))
    geometry = [list(stride), padding, list(dilation), groups]
    return [x, weight, biases(draw, channels), draw(ZERO_POINTS), *geometry]


def epilogue(draw: Draw, shape: Sequence[int]) -> list[Any]:
    """Draws a table and a residual addition, or either, or none of them."""
    lookup = codes(draw, (256,)) if draw(st.booleans()) else None
    if not draw(st.booleans()):
        return [lookup] if lookup is not None else []
    return [lookup, codes(draw, shape), addition(draw)]


def finish(y: torch.Tensor, extras: Sequence[Any]) -> torch.Tensor:
    """Applies the operators that an epilogue stands for."""
    lookup, residual, sums = [*extras, None, None, None][:3]
    y = y if lookup is None else OPS.table(y, lookup)
    return y if residual is None else OPS.add(y, residual, *sums)


@settings(max_examples=30)
@given(st.data(), BATCHES, st.booleans())
def test_conv2d(data: st.DataObject, batch: int, depthwise: bool) -> None:
    check("conv2d", *convolution(data.draw, batch, depthwise=depthwise), batch=batch)


@settings(max_examples=30)
@given(st.data(), BATCHES, st.booleans())
def test_conv2d_requant_is_the_sequence(data: st.DataObject, batch: int, depthwise: bool) -> None:
    x, weight, bias, zero, *geometry = convolution(data.draw, batch, depthwise=depthwise)
    sums = OPS.conv2d(x, weight, bias, zero, *geometry)
    m, s = scales(data.draw, data.draw(st.sampled_from([1, weight.shape[0]])))
    span = limits(data.draw)
    extras = epilogue(data.draw, sums.shape)
    args = [x, weight, bias, m, s, zero, *geometry, *span, *extras]
    fused = check("conv2d_requant", *args, batch=batch)
    apart = OPS.requantize(sums, m, s, 1, 0, *span)
    assert torch.equal(fused, finish(apart, extras))


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv2d_of_each_batch_and_grouping(batch: int, groups: int) -> None:
    x = torch.full((batch, 4, 5, 4), -128, dtype=torch.int8)
    weight = torch.full((4, 4 // groups, 3, 3), -127, dtype=torch.int8)
    bias = torch.tensor([0, 2**31 - 1, -(2**31), 5], dtype=torch.int32)
    args = [127, [2, 1], [1, 0, 2, 1], [1, 1], groups]
    check("conv2d", x, weight, bias, *args, batch=batch)


def test_conv2d_padding_is_real_zero() -> None:
    x = torch.full((1, 1, 1, 1), 7, dtype=torch.int8)
    weight = torch.full((1, 1, 3, 3), 100, dtype=torch.int8)
    bias = torch.tensor([4], dtype=torch.int32)
    args = [7, [1, 1], [1, 1, 1, 1], [1, 1], 1]
    assert check("conv2d", x, weight, bias, *args, batch=1).item() == 4


def test_conv2d_sums_beyond_24_bits_are_exact() -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randint(120, 128, (1, 300, 3, 3), generator=random).to(torch.int8)
    weight = torch.randint(100, 128, (2, 300, 3, 3), generator=random).to(torch.int8)
    bias = torch.tensor([1, -1], dtype=torch.int32)
    got = check("conv2d", x, weight, bias, -128, [1, 1], [0, 0, 0, 0], [1, 1], 1, batch=1)
    assert int(got.min()) > 2**24


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_linear(data: st.DataObject, batch: int) -> None:
    lead = data.draw(st.sampled_from([(batch,), (batch, 2), (batch, 1, 2)]))
    depth, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    x, weight = codes(data.draw, (*lead, depth)), weights(data.draw, (columns, depth))
    bias, zero = biases(data.draw, columns), data.draw(ZERO_POINTS)
    sums = check("linear", x, weight, bias, zero, batch=batch)
    m, s = scales(data.draw, data.draw(st.sampled_from([1, columns])))
    span = limits(data.draw)
    extras = epilogue(data.draw, sums.shape)
    fused = check("linear_requant", x, weight, bias, m, s, zero, *span, *extras, batch=batch)
    apart = OPS.requantize(sums, m, s, -1, 0, *span)
    assert torch.equal(fused, finish(apart, extras))


def test_linear_of_a_vector() -> None:
    x = torch.tensor([1, -2, 3], dtype=torch.int8)
    weight = torch.tensor([[4, 5, 6], [-1, 0, 1]], dtype=torch.int8)
    bias = torch.tensor([10, 20], dtype=torch.int32)
    assert check("linear", x, weight, bias, 1).tolist() == [10 - 15 + 12, 20 + 2]


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_matmul(data: st.DataObject, batch: int) -> None:
    lead, other = data.draw(
        st.sampled_from(
            [
                ((batch,), (batch,)),
                ((batch, 2), (batch, 2)),
                ((batch, 2), (batch, 1)),
                ((batch, 1), (3,)),
                ((batch,), (1,)),
                ((batch,), ()),
            ]
        )
    )
    rows, depth, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    a, b = codes(data.draw, (*lead, rows, depth)), codes(data.draw, (*other, depth, columns))
    zeros = [data.draw(ZERO_POINTS), data.draw(ZERO_POINTS)]
    sums = check("matmul", a, b, *zeros, batch=batch)
    m, s = scales(data.draw, 1)
    span = limits(data.draw)
    fused = check("matmul_requant", a, b, m, s, *zeros, *span, batch=batch)
    assert torch.equal(fused, OPS.requantize(sums, m, s, -1, 0, *span))


@settings(max_examples=25)
@given(st.data())
def test_range_of_a_weighted_sum_is_attained(data: st.DataObject) -> None:
    zero = data.draw(st.integers(-128, 127))
    low, high = data.draw(st.integers(-128, zero)), data.draw(st.integers(zero, 127))
    weight = weights(data.draw, (3, 4))
    bias = torch.tensor(data.draw(st.lists(st.integers(-999, 999), min_size=3, max_size=3)))
    bias = bias.to(torch.int32)
    facts = {"x": Interval(low, high), "weight": weight, "bias": bias, "x_zero_point": zero}
    found = operator("linear").interval(facts)
    extremes = torch.cat([torch.where(weight > 0, high, low), torch.where(weight > 0, low, high)])
    sums = OPS.linear(extremes.to(torch.int8), weight, bias, zero)
    assert (int(sums.min()), int(sums.max())) == (found.lo, found.hi)


@settings(max_examples=25)
@given(st.data())
def test_range_of_a_matmul_is_attained(data: st.DataObject) -> None:
    spans = [sorted(data.draw(st.tuples(*[st.integers(-128, 127)] * 2))) for _ in range(2)]
    zeros = [data.draw(ZERO_POINTS), data.draw(ZERO_POINTS)]
    facts = {
        "a": Interval(*spans[0]),
        "b": Interval(*spans[1]),
        "a_zero_point": zeros[0],
        "b_zero_point": zeros[1],
        "inner_size": 3,
    }
    found = operator("matmul").interval(facts)
    a, b = (torch.tensor(span, dtype=torch.int8) for span in spans)
    sums = OPS.matmul(a[:, None].expand(2, 3), b.expand(3, 2), *zeros)
    assert (int(sums.min()), int(sums.max())) == (found.lo, found.hi)


def test_range_of_a_fused_operator_is_that_of_its_last_step() -> None:
    found = operator("linear_requant").interval
    lookup = torch.tensor([-3, 9], dtype=torch.int8)
    facts = {"qmin": -7, "qmax": 8, "table": None, "add": None}
    assert found(facts) == Interval(-7, 8)
    assert found({**facts, "table": lookup}) == Interval(-3, 9)
    sums = [0, 1, 0, 1, 20, 0, -50, 60]
    assert found({**facts, "table": lookup, "add": sums}) == Interval(-50, 60)
