"""Statistics do not depend on how their data are cut, ordered or merged, and keep their size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.histogram import MIN_EXPONENT, BinCounts, exponent_of
from qcompiler.numerics.observers import (
    ChannelMeans,
    Extremes,
    Histogram,
    HistogramResult,
    MinMax,
    MovingAverage,
)
from qcompiler.numerics.ranges import RangeState

FLOATS = st.floats(width=32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def histogram(parts: Sequence[torch.Tensor], bins: int = 16) -> HistogramResult:
    observer = Histogram(bins).observe()
    for part in parts:
        observer.update(part)
    return observer.result()


def same(a: HistogramResult, b: HistogramResult) -> bool:
    return (
        a.extremes == b.extremes
        and a.bins.exponent == b.bins.exponent
        and torch.equal(a.bins.counts, b.bins.counts)
    )


def plain_counts(values: Sequence[float], bins: int, width: float) -> list[int]:
    counts = [0] * (2 * bins - 1)
    for value in values:
        counts[math.trunc(value / width) + bins - 1] += 1
    return counts


@given(st.lists(FINITE, min_size=1))
def test_histogram_equals_its_definition(values: list[float]) -> None:
    result = histogram([torch.tensor([value]) for value in values])
    largest = max(abs(value) for value in values)
    width = result.bins.width
    assert largest < 16 * width
    assert result.bins.exponent == MIN_EXPONENT or largest >= 8 * width
    assert result.bins.counts.tolist() == plain_counts(values, 16, width)


@given(st.lists(st.lists(FLOATS), max_size=6), st.randoms())
def test_histogram_ignores_cuts_and_order(parts: list[list[float]], random: object) -> None:
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts]
    whole = torch.cat(tensors) if tensors else torch.zeros(0)
    shuffled = whole[torch.randperm(whole.numel())]
    assert same(histogram(tensors), histogram([whole]))
    assert same(histogram(tensors[::-1]), histogram([shuffled]))


@given(st.lists(st.lists(FLOATS), min_size=3, max_size=3))
def test_histogram_merge_is_associative_and_commutative(parts: list[list[float]]) -> None:
    def state(*indices: int) -> HistogramResult:
        """Merges the parts from left to right; a pair in the middle is merged first."""
        total = Histogram(16).observe()
        for index in indices:
            other = Histogram(16).observe()
            other.update(torch.tensor(parts[index], dtype=torch.float32))
            total.merge(other)
        return total.result()

    right = Histogram(16).observe()
    for index in (1, 2):
        right.update(torch.tensor(parts[index], dtype=torch.float32))
    left = Histogram(16).observe()
    left.update(torch.tensor(parts[0], dtype=torch.float32))
    left.merge(right)
    assert same(left.result(), state(0, 1, 2))
    assert same(left.result(), state(2, 0, 1))


def test_large_tensors_cross_chunks_and_layouts() -> None:
    x = torch.randn(2, 24, 60, 60, generator=torch.Generator().manual_seed(0))
    layouts = [x, x.to(memory_format=torch.channels_last), x.transpose(1, 3), x.double()]
    results = [histogram([layout], 2048) for layout in layouts]
    assert all(same(result, results[0]) for result in results)
    bins = results[0].bins
    assert bins.counts.tolist() == plain_counts(x.flatten().tolist(), 2048, bins.width)


@given(st.floats(2.0**-110, 2.0**127), st.sampled_from([3, 16, 2048]))
def test_exponent_is_the_smallest(magnitude: float, bins: int) -> None:
    exponent = exponent_of(magnitude, bins)
    assert magnitude < math.ldexp(bins, exponent)
    assert magnitude >= math.ldexp(bins, exponent - 1)


def test_extreme_magnitudes() -> None:
    largest = torch.finfo(torch.float32).max
    result = histogram([torch.tensor([1e-45, -1e-45, largest, -largest, 0.0])], 2048)
    assert int(result.bins.counts.sum()) == 5
    assert result.extremes == Extremes(-largest, largest, 5)
    assert BinCounts.empty(4).grown(100).counts.tolist() == [0] * 7


def test_inf_and_nan_are_counted() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0, -2.0, math.inf])
    for spec in (MinMax(), MovingAverage()):
        observer = spec.observe()
        observer.update(x)
        assert observer.result() == Extremes(-2.0, 1.0, 2, 3, 1)
    result = histogram([x])
    assert result.extremes == Extremes(-2.0, 1.0, 2, 3, 1)
    assert int(result.bins.counts.sum()) == 2
    assert result.extremes.range.state is RangeState.NONFINITE


def test_states_of_degenerate_data() -> None:
    def state(*values: float) -> RangeState:
        observer = MinMax().observe()
        observer.update(torch.tensor(values))
        return observer.result().range.state

    assert state() is RangeState.UNOBSERVED
    assert state(0.0, -0.0) is RangeState.ZERO
    assert state(3.0, 3.0) is RangeState.CONSTANT
    assert state(1.0, 3.0) is RangeState.FINITE
    assert state(math.nan) is RangeState.NONFINITE


def test_moving_average_follows_its_recurrence() -> None:
    observer = MovingAverage(0.25).observe()
    for low, high in ((0.0, 8.0), (-4.0, 16.0), (0.0, 8.0)):
        observer.update(torch.tensor([low, high]))
    assert observer.result() == Extremes(-0.75, 9.5, 6)


@given(st.lists(st.tuples(st.floats(-99, 99), st.floats(-99, 99)), max_size=9), st.data())
def test_moving_average_may_be_cut(ends: list[tuple[float, float]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ends)))
    whole, first, second = (MovingAverage(0.3).observe() for _ in range(3))
    for index, pair in enumerate(ends):
        whole.update(torch.tensor(pair))
        (first if index < cut else second).update(torch.tensor(pair))
    first.merge(second)
    a, b = whole.result(), first.result()
    assert a.finite == b.finite
    assert a.low == pytest.approx(b.low, abs=1e-9)
    assert a.high == pytest.approx(b.high, abs=1e-9)


@pytest.mark.parametrize("axis", [1, -1, 0])
def test_channel_means(axis: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, 9, 5, generator=generator) * 0.01 + 100.0
    rows = x.movedim(axis, 0).flatten(1).double()
    for layout in (x, x.to(memory_format=torch.channels_last), x.double()):
        observer = ChannelMeans(axis).observe()
        observer.update(layout)
        result = observer.result()
        assert result.mean.dtype == torch.float64
        assert torch.allclose(result.mean, rows.mean(1), rtol=1e-7)
        assert result.count.tolist() == [rows.shape[1]] * rows.shape[0]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 5))
def test_channel_means_merge(sizes: list[int], cut: int) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, 3, generator=generator) for size in [*sizes, 1]]
    first, second = ChannelMeans().observe(), ChannelMeans().observe()
    for index, part in enumerate(parts):
        (first if index < cut else second).update(part)
    first.merge(second)
    result, whole = first.result(), torch.cat(parts).double()
    assert torch.allclose(result.mean, whole.mean(0), atol=1e-7)
    assert result.count.tolist() == [whole.shape[0]] * 3


def test_channel_means_leave_out_inf_and_nan() -> None:
    observer = ChannelMeans().observe()
    assert observer.result().count.numel() == 0
    observer.update(torch.tensor([[1.0, math.nan, 3e38], [3.0, math.inf, 3e38]]))
    result = observer.result()
    assert result.count.tolist() == [2.0, 0.0, 2.0]
    assert result.mean.tolist() == [2.0, 0.0, float(torch.tensor(3e38))]
    with pytest.raises(ValueError, match="2 channels follow 3"):
        observer.update(torch.zeros(1, 2))


def test_memory_does_not_grow() -> None:
    observer = Histogram(64).observe()
    for scale in (1.0, 1e3, 1e9):
        observer.update(torch.randn(5000) * scale)
        assert observer.result().bins.counts.numel() == 127


def test_specifications_are_shared_keys() -> None:
    keys = {MinMax(), MinMax(), Histogram(), Histogram(2048), MovingAverage(0.1), MovingAverage()}
    assert len(keys) == 3
