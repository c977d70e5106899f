"""Addition, multiplication, tables and clamps against their definitions (5.3, 5.5, 5.8)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import add_multipliers
from tests.ir.calls import (
    BATCHES,
    ZERO_POINTS,
    Draw,
    addition,
    check,
    codes,
    limits,
    operator,
    scales,
)

OPS = torch.ops.qcompiler


def operands(draw: Draw, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws two values whose shapes broadcast, either one the larger."""
    shape = (batch, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    other = [shape[0], *(1 if draw(st.booleans()) else size for size in shape[1:])]
    if draw(st.booleans()):
        other = other[draw(st.integers(1, 3)) :]
    a, b = codes(draw, shape), codes(draw, other)
    return (b, a) if draw(st.booleans()) else (a, b)


@settings(max_examples=50)
@given(st.data(), BATCHES)
def test_add(data: st.DataObject, batch: int) -> None:
    check("add", *operands(data.draw, batch), *addition(data.draw), batch=batch)


@settings(max_examples=50)
@given(st.data(), BATCHES)
def test_mul(data: st.DataObject, batch: int) -> None:
    a, b = operands(data.draw, batch)
    m, s = scales(data.draw, 1)
    zeros = [data.draw(ZERO_POINTS), data.draw(ZERO_POINTS)]
    check("mul", a, b, *zeros, m.item(), s.item(), *limits(data.draw), batch=batch)


def test_add_rounds_the_sum_once_half_up() -> None:
    # Quarters of both operands: 1/4 + 1/4 = 1/2 rounds up, -1/4 - 1/4 = -1/2 rounds up to zero.
    ma, mb, shift = add_multipliers(0.25, 0.25)
    a, b = (torch.tensor(v, dtype=torch.int8) for v in ([1, -1, 3, -3], [1, -1, 3, -3]))
    got = check("add", a, b, 0, ma, 0, mb, shift, 0, -128, 127)
    assert got.tolist() == [1, 0, 2, -1]


@pytest.mark.parametrize("ratios", [(255.9, 1.0), (255.9, -255.9), (2.0**-10, 2.0**-10)])
def test_add_at_the_ends_of_its_scales_fits_int32(ratios: tuple[float, float]) -> None:
    ma, mb, shift = add_multipliers(*ratios)
    ends = torch.tensor([-128, 127], dtype=torch.int8)
    for za in (-128, 127):
        for zb in (-128, 127):
            args = [ends[:, None], ends, za, ma, zb, mb, shift, 0, -128, 127]
            check("add", *args)
            x = {"a": Interval(-128, 127), "b": Interval(-128, 127)}
            names = ("a_zero_point", "a_multiplier", "b_zero_point", "b_multiplier", "shift")
            facts = {**x, **dict(zip(names, args[2:7], strict=True))}
            accumulator = operator("add").accumulator
            assert accumulator is not None
            found = accumulator(facts)
            assert -(2**31) <= found.lo <= found.hi < 2**31
            # Both the sum and the sum with its rounding term are held in int32.
            sums = [(a - za) * ma + (b - zb) * mb for a in (-128, 127) for b in (-128, 127)]
            assert (found.lo, found.hi) == (min(sums), max(sums) + 2 ** (shift - 1))


def test_operators_keep_rank_zero() -> None:
    x, y = torch.tensor(5, dtype=torch.int8), torch.tensor(-9, dtype=torch.int8)
    m, s = (torch.tensor([v], dtype=torch.int32) for v in (2**30, 31))
    lookup = torch.arange(127, -129, -1).to(torch.int8)
    check("add", x, y, 0, 2**20, 0, 2**20, 20, 0, -128, 127)
    check("mul", x, y, 1, 2, 2**30, 33, 0, -128, 127)
    check("table", x, lookup)
    check("clamp", x, -4, 4)
    check("requantize", x, m, s, 0, 1, 2, -128, 127)
    check("quantize", torch.tensor(2.5), 1.0, 0, -128, 127)
    check("dequantize", x, 0.5, 3)
    check("dequantize_accumulator", x.int(), torch.tensor([0.5]), 0)
    check("mean", torch.stack([x, y]), m, s, [0], False, 0, 0, -128, 127)


def test_subtraction_has_a_negative_multiplier() -> None:
    a, b = (torch.tensor(v, dtype=torch.int8) for v in ([5, -128], [7, 127]))
    got = check("add", a, b, 0, 2**20, 0, -(2**20), 20, 0, -128, 127)
    assert got.tolist() == [-2, -128]


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_table(data: st.DataObject, batch: int) -> None:
    x, lookup = codes(data.draw, (batch, 2, 3)), codes(data.draw, (256,))
    check("table", x, lookup, batch=batch)


def test_table_of_every_code() -> None:
    x = torch.arange(-128, 128).to(torch.int8)
    lookup = x.flip(0)
    assert torch.equal(check("table", x, lookup), lookup)


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_clamp(data: st.DataObject, batch: int) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.integers(-128, 127)] * 2)))
    check("clamp", codes(data.draw, (batch, 5)), low, high, batch=batch)


@settings(max_examples=25)
@given(st.data())
def test_ranges_of_tables_and_clamps_are_attained(data: st.DataObject) -> None:
    ends = st.tuples(*[st.integers(-128, 127)] * 2).map(sorted)
    (low, high), (qmin, qmax) = data.draw(ends), data.draw(ends)
    x = torch.arange(low, high + 1).to(torch.int8)
    lookup = codes(data.draw, (256,))
    facts = {"x": Interval(low, high), "table": lookup, "qmin": qmin, "qmax": qmax}
    for name, got in (("table", OPS.table(x, lookup)), ("clamp", OPS.clamp(x, qmin, qmax))):
        found = operator(name).interval(facts)
        assert (int(got.min()), int(got.max())) == (found.lo, found.hi)


@settings(max_examples=25)
@given(st.data())
def test_accumulator_of_a_product_is_attained(data: st.DataObject) -> None:
    spans = [sorted(data.draw(st.tuples(*[st.integers(-128, 127)] * 2))) for _ in range(2)]
    zeros = [data.draw(ZERO_POINTS), data.draw(ZERO_POINTS)]
    accumulator = operator("mul").accumulator
    assert accumulator is not None
    found = accumulator(
        {
            "a": Interval(*spans[0]),
            "b": Interval(*spans[1]),
            "a_zero_point": zeros[0],
            "b_zero_point": zeros[1],
        }
    )
    corners = [(a - zeros[0]) * (b - zeros[1]) for a in spans[0] for b in spans[1]]
    assert (min(corners), max(corners)) == (found.lo, found.hi)
    assert math.isfinite(found.lo)
