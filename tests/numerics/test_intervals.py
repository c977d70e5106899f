"""Interval arithmetic is sound, and accumulator bounds are exact."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.numerics.intervals import Interval, accumulator_bounds

NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(-1e300, 1e300))
INTERVALS = st.tuples(NUMBERS, NUMBERS).map(lambda pair: Interval(min(pair), max(pair)))


def holds(interval: Interval, value: Fraction) -> bool:
    return interval.lo <= value <= interval.hi


@given(INTERVALS, INTERVALS, st.data())
def test_arithmetic_contains_the_exact_result(
    a: Interval, b: Interval, data: st.DataObject
) -> None:
    x = Fraction(data.draw(st.sampled_from([a.lo, a.hi])))
    y = Fraction(data.draw(st.sampled_from([b.lo, b.hi])))
    assert holds(a.add(b), x + y)
    assert holds(a.sub(b), x - y)
    assert holds(a.mul(b), x * y)
    assert holds(a.scale(b.hi), x * Fraction(b.hi))
    assert holds(a.union(b), x)
    assert holds(a.union(b), y)


def test_integers_stay_exact_and_floats_move_outward() -> None:
    big = Interval(2**60 + 1, 2**60 + 3)
    assert big.add(Interval(1, 1)) == Interval(2**60 + 2, 2**60 + 4)
    assert big.mul(Interval(-3, 2)) == Interval(-3 * (2**60 + 3), 2 * (2**60 + 3))
    tenth = Interval(0.1, 0.1).add(Interval(0.2, 0.2))
    assert tenth.lo < tenth.hi
    assert Interval(0.5, 0.5).add(Interval(0.25, 1)) == Interval(0.75, 1.5)


def test_infinite_bounds() -> None:
    ray = Interval(0.0, math.inf)
    assert ray.mul(Interval(0, 2)) == Interval(0, math.inf)
    assert ray.scale(-1) == Interval(-math.inf, 0)
    assert ray.sub(ray) == Interval.everything()
    assert not ray.is_bounded
    assert Interval(1e308, 1e308).scale(10).hi == math.inf


def test_sets() -> None:
    a, b = Interval(0, 4), Interval(3, 9)
    assert a.intersect(b) == Interval(3, 4)
    assert a.intersect(Interval(5, 6)) is None
    assert a.union(b) == Interval(0, 9)
    assert a.contains(4)
    assert not a.contains(b)
    assert a.union(b).contains(b)
    with pytest.raises(ValueError, match="no interval"):
        Interval(math.nan, 0.0)


@given(
    st.lists(st.lists(st.integers(-127, 127), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(-255, 255),
    st.integers(0, 255),
    st.integers(-(2**40), 2**40),
)
def test_accumulator_bounds_are_attained(
    rows: list[list[int]], lo: int, span: int, bias: int
) -> None:
    hi = lo + span
    weight = torch.tensor(rows, dtype=torch.int8)
    low, high = accumulator_bounds(weight, torch.full((len(rows),), bias), lo, hi)
    assert low.dtype == high.dtype == torch.int64
    assert low.tolist() == [sum(min(w * lo, w * hi) for w in row) + bias for row in rows]
    assert high.tolist() == [sum(max(w * lo, w * hi) for w in row) + bias for row in rows]


def test_accumulator_bounds_take_a_range_per_input() -> None:
    weight = torch.tensor([[2, -3]])
    low, high = accumulator_bounds(weight, None, torch.tensor([-1, 0]), torch.tensor([4, 5]))
    assert (low.tolist(), high.tolist()) == ([-17], [8])
