"""A 1x1 convolution chained with a depthwise one, against its definition and against the pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.types import TensorType
from qcompiler.numerics.intervals import Interval
from qcompiler.torch_compat import ShapeInference
from tests.ir.calls import (
    BATCHES,
    ZERO_POINTS,
    Draw,
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


def halves(draw: Draw, batch: int) -> tuple[list[Any], list[Any]]:
    """Draws the arguments of conv2d_requant of a 1x1 convolution and of the depthwise one."""
    depth, channels = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kernel, stride, dilation = draw(PAIR), draw(PAIR), draw(PAIR)
    padding = [draw(st.integers(0, 2)) for _ in range(4)]
    sizes = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] + 1
        least = max(1, reach - padding[2 * axis] - padding[2 * axis + 1])
        sizes.append(draw(st.integers(least, max(least, 5))))
    x = codes(draw, (batch, depth, *sizes))
    tables = [codes(draw, (256,)) if draw(st.booleans()) else None for _ in range(2)]

    def constants(shape: tuple[int, ...]) -> list[Any]:
        requant = scales(draw, draw(st.sampled_from([1, channels])))
        return [weights(draw, shape), biases(draw, channels), *requant, draw(ZERO_POINTS)]

    point = [[1, 1], [0] * 4, [1, 1], 1]
    first = [x, *constants((channels, depth, 1, 1)), *point, *limits(draw), tables[0]]
    geometry = [list(stride), padding, list(dilation), channels]
    second = [*constants((channels, 1, *kernel)), *geometry, *limits(draw), tables[1]]
    return first, second


def chain(first: list[Any], second: list[Any]) -> list[Any]:
    """Returns the arguments of the chain of two conv2d_requant."""
    return [*first[:6], *first[10:13], *second[:8], *second[9:12], first[13], second[12]]


@settings(max_examples=40)
@given(st.data(), BATCHES)
def test_the_chain_is_the_pair(data: st.DataObject, batch: int) -> None:
    first, second = halves(data.draw, batch)
    fused = check("pointwise_depthwise_requant", *chain(first, second), batch=batch)
    assert torch.equal(fused, OPS.conv2d_requant(OPS.conv2d_requant(*first), *second))


def test_padding_holds_the_code_that_the_depthwise_convolution_takes_as_zero() -> None:
    ones = torch.ones(1, dtype=torch.int32)
    m, s = torch.tensor([2**30], dtype=torch.int32), torch.tensor([30], dtype=torch.int32)
    x = torch.full((1, 1, 1, 1), 7, dtype=torch.int8)
    point, window = torch.ones(1, 1, 1, 1).char(), torch.ones(1, 1, 3, 3).char()
    first = (x, point, 0 * ones, m, s, 0, 0, -128, 127)
    second = (window, 0 * ones, m, s, 3, [1, 1], [1, 1, 1, 1], [1, 1], 0, -128, 127)
    assert OPS.pointwise_depthwise_requant(*first, *second).item() == 7 - 3


def test_both_sums_have_bounds_that_are_attained() -> None:
    weight = torch.tensor([[2, -3], [1, 1]], dtype=torch.int8).reshape(2, 2, 1, 1)
    dw_weight = torch.tensor([[4, -1], [0, 5]], dtype=torch.int8).reshape(2, 1, 1, 2)
    facts = {
        **{"x": Interval(-10, 20), "weight": weight, "x_zero_point": 0, "mid_table": None},
        **{"bias": torch.tensor([5, 0]), "dw_bias": torch.tensor([0, -1]), "table": None},
        **{"multiplier": None, "shift": None, "dw_multiplier": None, "dw_shift": None},
        **{"mid_zero_point": 0, "mid_qmin": -6, "mid_qmax": 30, "dw_x_zero_point": -6},
        **{"dw_weight": dw_weight, "stride": [1, 1], "padding": [0] * 4, "dilation": [1, 1]},
        **{"zero_point": 0, "qmin": -7, "qmax": 8},
    }
    op = operator("pointwise_depthwise_requant")
    assert op.accumulator is not None
    assert op.inner_accumulator is not None
    assert op.inner_accumulator(facts) == Interval(-20 - 60 + 5, 40 + 30 + 5)
    assert op.accumulator(facts) == Interval(-36, 36 * 5 - 1)
    assert op.interval(facts) == Interval(-7, 8)
    lookup = torch.tensor([-3, 9], dtype=torch.int8)
    assert op.accumulator({**facts, "mid_table": lookup}) == Interval(-15, 15 * 5 - 1)
    assert op.interval({**facts, "table": lookup}) == Interval(-3, 9)


@pytest.mark.parametrize(
    ("weight", "dw_weight"),
    [
        ((4, 3, 3, 3), (4, 1, 3, 3)),
        ((4, 2, 1, 1), (4, 1, 3, 3)),
        ((4, 3, 1, 1), (4, 2, 3, 3)),
        ((4, 3, 1, 1), (8, 1, 3, 3)),
    ],
)
def test_weights_that_do_not_chain_have_no_type(
    weight: tuple[int, ...], dw_weight: tuple[int, ...]
) -> None:
    constant = TensorType(torch.int32, (4,))
    first = [TensorType(torch.int8, shape) for shape in ((1, 3, 8, 8), weight)]
    args = [*first, *[constant] * 3, 0, 0, -128, 127, TensorType(torch.int8, dw_weight)]
    rest = [*[constant] * 3, 0, [1, 1], [0] * 4, [1, 1], 0, -128, 127]
    target = OPS.pointwise_depthwise_requant.default
    with pytest.raises(ValueError, match="do not chain"):
        ShapeInference({}).infer(target, [*args, *rest], {})
