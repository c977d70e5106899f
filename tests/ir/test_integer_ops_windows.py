"""Pooling, mean and resize against their definitions and torch's float forms (5.7, 5.13)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import average_multipliers, multipliers_from_scales
from tests.ir.calls import (
    BATCHES,
    ZERO_POINTS,
    Draw,
    check,
    codes,
    limits,
    operator,
    scales,
)
from tests.ir.pooling import POOLS, Pool, positions

SIZE = st.integers(1, 5)


def image(draw: Draw, batch: int) -> torch.Tensor:
    """Draws a small image."""
    return codes(draw, (batch, draw(st.integers(1, 2)), draw(SIZE), draw(SIZE)))


def windows(draw: Draw, x: torch.Tensor) -> tuple[list[int], list[int], list[int]]:
    """Draws kernel, stride and paddings such that each axis has a window."""
    padding = [draw(st.integers(0, 2)) for _ in range(4)]
    kernel = [
        draw(st.integers(1, min(3, x.shape[2 + a] + sum(padding[2 * a : 2 * a + 2]))))
        for a in (0, 1)
    ]
    return kernel, [draw(st.integers(1, 3)) for _ in range(2)], padding


def reciprocals(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the multipliers that divide by 1, 2, ... without another scale."""
    m, s = average_multipliers(count)
    return torch.tensor(m, dtype=torch.int32), torch.tensor(s, dtype=torch.int32)


def half_away(value: Fraction) -> int:
    """Rounds to the nearest integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_max_pool2d(data: st.DataObject, batch: int) -> None:
    x = image(data.draw, batch)
    kernel, stride, padding = windows(data.draw, x)
    dilation = [
        data.draw(st.integers(1, 2))
        if 2 * (kernel[a] - 1) + 1 <= x.shape[2 + a] + sum(padding[2 * a : 2 * a + 2])
        else 1
        for a in (0, 1)
    ]
    check("max_pool2d", x, kernel, stride, padding, dilation, batch=batch)


def test_max_pool2d_is_that_of_torch() -> None:
    random = torch.Generator().manual_seed(4)
    x = torch.randint(-128, 128, (2, 3, 7, 6), generator=random).to(torch.int8)
    got = check("max_pool2d", x, [3, 2], [2, 1], [1, 1, 1, 1], [2, 1], batch=2)
    assert torch.equal(got.float(), F.max_pool2d(x.float(), (3, 2), (2, 1), (1, 1), (2, 1)))


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_avg_pool2d(data: st.DataObject, batch: int) -> None:
    x = image(data.draw, batch)
    kernel, stride, padding = windows(data.draw, x)
    counted = [data.draw(st.integers(0, p)) for p in padding]
    m, s = scales(data.draw, kernel[0] * kernel[1])
    args: list[Any] = [x, m, s, kernel, stride, padding, counted, data.draw(ZERO_POINTS)]
    check("avg_pool2d", *args, *limits(data.draw), batch=batch)


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_adaptive_avg_pool2d(data: st.DataObject, batch: int) -> None:
    x = image(data.draw, batch)
    m, s = scales(data.draw, x.shape[2] * x.shape[3])
    size = [data.draw(SIZE), data.draw(SIZE)]
    args: list[Any] = [x, m, s, size, data.draw(ZERO_POINTS)]
    check("adaptive_avg_pool2d", *args, *limits(data.draw), batch=batch)


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_mean(data: st.DataObject, batch: int) -> None:
    x = image(data.draw, batch)
    dims = data.draw(st.sets(st.integers(0, 3), min_size=1).map(sorted))
    dims = [d - 4 if data.draw(st.booleans()) else d for d in dims]
    m, s = scales(data.draw, 1)
    args: list[Any] = [x, m, s, dims, data.draw(st.booleans()), data.draw(ZERO_POINTS)]
    check("mean", *args, *limits(data.draw), batch=batch)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_averages_are_those_of_torch_rounded_away(pool: Pool) -> None:
    x = torch.arange(-60, 66).reshape(1, 2, 7, 9).to(torch.int8)
    m, s = reciprocals(pool.kernel[0] * pool.kernel[1])
    args = [pool.kernel, pool.stride, pool.paddings(x), pool.counted(x)]
    got = check("avg_pool2d", x, m, s, *args, 0, 0, -128, 127, batch=1)
    wanted = pool.of_torch(x.to(torch.float64))
    assert got.shape == wanted.shape
    # Quotients of integers below 2**10 are told apart and from halves by 20 bits.
    exact = [Fraction(v).limit_denominator(100) for v in wanted.flatten().tolist()]
    assert got.flatten().tolist() == [half_away(v) for v in exact]


def test_zero_point_of_an_average_is_subtracted_from_real_elements_only() -> None:
    x = torch.full((1, 1, 2, 2), 9, dtype=torch.int8)
    m, s = reciprocals(9)
    pool = [[3, 3], [1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    got = check("avg_pool2d", x, m, s, *pool, 9, -20, -128, 127, batch=1)
    assert set(got.flatten().tolist()) == {-20}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (9, 4)])
def test_adaptive_averages_are_those_of_torch_rounded_away(size: tuple[int, int]) -> None:
    x = torch.arange(-60, 66).reshape(1, 2, 7, 9).to(torch.int8)
    m, s = reciprocals(7 * 9)
    got = check("adaptive_avg_pool2d", x, m, s, list(size), 0, 0, -128, 127, batch=1)
    wanted = F.adaptive_avg_pool2d(x.to(torch.float64), size).flatten().tolist()
    exact = [Fraction(v).limit_denominator(100) for v in wanted]
    assert got.flatten().tolist() == [half_away(v) for v in exact]


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_resize_nearest(data: st.DataObject, batch: int) -> None:
    x, *place = resizing(data.draw, batch)
    check("resize_nearest", x, *place, batch=batch)


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_resize_bilinear(data: st.DataObject, batch: int) -> None:
    x, *place = resizing(data.draw, batch)
    m, s = scales(data.draw, 1)
    zero = data.draw(ZERO_POINTS)
    check("resize_bilinear", x, m, s, *place, zero, *limits(data.draw), batch=batch)


def resizing(draw: Draw, batch: int) -> list[Any]:
    """Draws an image, an output size, the scale (ny, dy, nx, dx) and an offset."""
    scale = [draw(st.integers(1, 9)) for _ in range(4)]
    offset = [draw(st.integers(-9, 9)) for _ in range(2)]
    return [image(draw, batch), [draw(SIZE), draw(SIZE)], scale, offset]


RESIZES = [((3, 4), (6, 8)), ((4, 6), (2, 3)), ((2, 5), (5, 2)), ((1, 4), (3, 1)), ((5, 5), (5, 5))]


@pytest.mark.parametrize(("size", "wanted"), RESIZES)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_is_that_of_torch(
    size: tuple[int, int], wanted: tuple[int, int], mode: str
) -> None:
    x = torch.arange(2 * size[0] * size[1]).reshape(1, 2, *size).to(torch.int8)
    scale, offset = positions(size, wanted, mode)
    got = check("resize_nearest", x, list(wanted), scale, offset, batch=1)
    assert torch.equal(got.float(), F.interpolate(x.float(), wanted, mode=mode))


@pytest.mark.parametrize(("size", "wanted"), RESIZES)
@pytest.mark.parametrize("mode", ["centered", "cornered"])
def test_bilinear_is_that_of_torch_rounded(
    size: tuple[int, int], wanted: tuple[int, int], mode: str
) -> None:
    random = torch.Generator().manual_seed(2)
    x = torch.randint(-128, 128, (2, 3, *size), generator=random).to(torch.int8)
    scale, offset = positions(size, wanted, mode)
    pair = multipliers_from_scales([Fraction(1, scale[0] * scale[2])])
    m, s = (torch.tensor(v, dtype=torch.int32) for v in pair)
    for zero in (0, -7):
        args = [list(wanted), scale, offset, zero, zero, -128, 127]
        got = check("resize_bilinear", x, m, s, *args, batch=2)
        real = F.interpolate(x.double(), wanted, mode="bilinear", align_corners=mode == "cornered")
        assert float((got - real).abs().max()) <= 0.5 + 1e-4


@settings(max_examples=25)
@given(st.data())
def test_sums_of_windows_attain_their_range(data: st.DataObject) -> None:
    zero = data.draw(st.integers(-128, 127))
    low, high = data.draw(st.integers(-128, zero)), data.draw(st.integers(zero, 127))
    ones = torch.ones(6, dtype=torch.int32)
    facts = {"x": Interval(low, high), "x_zero_point": zero}
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("avg_pool2d", {"kernel": [2, 3]}, 6),
        ("adaptive_avg_pool2d", {"multiplier": ones}, 6),
        ("mean", {"elements": 6}, 6),
        ("resize_bilinear", {"scale": [4, 3, 5, 2]}, 20),
    ]
    for name, more, weight in cases:
        accumulator = operator(name).accumulator
        assert accumulator is not None
        found = accumulator({**facts, **more})
        assert (found.lo, found.hi) == (weight * (low - zero), weight * (high - zero))


def test_ranges_of_chosen_elements_are_those_of_the_operand() -> None:
    x = Interval(-7, 3)
    assert operator("resize_nearest").interval({"x": x}) == x
    pool = {"x": x, "kernel": [3, 2], "padding": [2, 1, 0, 1], "dilation": [1, 1]}
    assert operator("max_pool2d").interval(pool) == x
    for more in ({"kernel": [2, 2]}, {"padding": [0, 0, 0, 2]}, {"dilation": [2, 1]}):
        assert operator("max_pool2d").interval({**pool, **more}) == Interval(-128, 3)
