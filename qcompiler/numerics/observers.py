"""Streaming statistics of tensors: mergeable, of constant memory and deterministic.

A specification is a frozen dataclass, usable as a key of a table of statistics that several users
share; its `observe` makes an empty state. A state takes tensors by `update`, other states of the
same specification by `merge`, and gives a frozen `result` at any time. Inf and NaN are counted and
leave the other numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch

from qcompiler.numerics.histogram import CHUNK, BinCounts
from qcompiler.numerics.ranges import Range


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest finite value of the data, and the numbers of values of each kind.

    Without a finite value low is inf and high is -inf.
    """

    low: float = math.inf
    high: float = -math.inf
    finite: int = 0
    infinite: int = 0
    nan: int = 0

    def join(self, other: Extremes) -> Extremes:
        """Returns the extremes of both data sets."""
        return Extremes(
            min(self.low, other.low),
            max(self.high, other.high),
            self.finite + other.finite,
            self.infinite + other.infinite,
            self.nan + other.nan,
        )

    @property
    def magnitude(self) -> float:
        """Largest absolute value."""
        return max(-self.low, self.high, 0.0)

    @property
    def range(self) -> Range:
        """The lattice element that stands for the data."""
        if self.finite == 0:
            has_any = self.infinite + self.nan > 0
            return Range.of(0.0, 0.0, has_nonfinite=True) if has_any else Range.unobserved()
        return Range.of(self.low, self.high, self.infinite + self.nan > 0)


@dataclass(frozen=True, eq=False)
class HistogramResult:
    """The result of `Histogram`."""

    extremes: Extremes
    bins: BinCounts


@dataclass(frozen=True, eq=False)
class ChannelMomentsResult:
    """The result of `ChannelMoments`: float64 tensors of shape [C], moments of the finite values.

    `second` is the mean of the squares, `variance` that of the squared deviations; both are 0
    without data.
    """

    count: torch.Tensor
    mean: torch.Tensor
    second: torch.Tensor
    variance: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    nonfinite: int


class Observer(Protocol):
    """A state that gathers one statistic."""

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor."""

    def merge(self, other: Self) -> None:
        """Takes the data of another state of the same specification, as if they followed."""

    def result(self) -> object:
        """Returns the statistic of the data so far."""


class Statistic(Hashable, Protocol):
    """A specification of a statistic."""

    def observe(self) -> Observer:
        """Returns a state without data."""


@dataclass(frozen=True)
class MinMax:
    """Smallest and largest value."""

    def observe(self) -> MinMaxObserver:
        """Returns a state without data."""
        return MinMaxObserver()


@dataclass(frozen=True)
class MovingAverage:
    """Exponential moving average of the smallest and largest value of each update.

    Each update after the first moves the average by momentum of the distance. The result depends on
    the order and the size of the updates by definition; splitting a sequence of updates and merging
    in order changes nothing.
    """

    momentum: float = 0.1

    def observe(self) -> MovingAverageObserver:
        """Returns a state without data."""
        return MovingAverageObserver(self.momentum)


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of a power of two, at least half of the bins of a side in use."""

    bins: int = 2048

    def observe(self) -> HistogramObserver:
        """Returns a state without data."""
        return HistogramObserver(self.bins)


@dataclass(frozen=True)
class ChannelMoments:
    """Count, mean, second moment and extremes of each channel along an axis."""

    axis: int = 1

    def observe(self) -> ChannelMomentsObserver:
        """Returns a state without data."""
        return ChannelMomentsObserver(self.axis)


class MinMaxObserver:
    """State of `MinMax`."""

    def __init__(self) -> None:
        self._extremes = Extremes()

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor."""
        self._extremes = self._extremes.join(_extremes(tensor))

    def merge(self, other: MinMaxObserver) -> None:
        """Takes the data of another state."""
        self._extremes = self._extremes.join(other._extremes)

    def result(self) -> Extremes:
        """Returns the extremes of the data so far."""
        return self._extremes


class MovingAverageObserver:
    """State of `MovingAverage`."""

    def __init__(self, momentum: float) -> None:
        self._keep = 1.0 - momentum
        self._updates = 0
        self._first = (0.0, 0.0)
        self._average = (0.0, 0.0)
        self._seen = Extremes()

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor, one step of the average."""
        seen = _extremes(tensor)
        self._seen = self._seen.join(seen)
        if seen.finite:
            ends = (seen.low, seen.high)
            self._append(1, ends, ends)

    def merge(self, other: MovingAverageObserver) -> None:
        """Takes the updates of another state as if they followed."""
        self._seen = self._seen.join(other._seen)
        if other._updates:
            self._append(other._updates, other._first, other._average)

    def _append(
        self, updates: int, first: tuple[float, float], average: tuple[float, float]
    ) -> None:
        """Appends a sequence with its average, whose start at `first` the own average replaces."""
        if self._updates == 0:
            self._first, self._average = first, average
        else:
            kept = self._keep**updates
            low, high = (
                new + kept * (old - start)
                for new, old, start in zip(average, self._average, first, strict=True)
            )
            self._average = (low, high)
        self._updates += updates

    def result(self) -> Extremes:
        """Returns the averages as the extremes, with the counts of all data."""
        seen = self._seen
        if seen.finite == 0:
            return seen
        low, high = self._average
        return Extremes(low, high, seen.finite, seen.infinite, seen.nan)


class HistogramObserver:
    """State of `Histogram`."""

    def __init__(self, bins: int) -> None:
        self._extremes = Extremes()
        self._bins = BinCounts.empty(bins)

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor."""
        for chunk in _chunks(tensor):
            extremes, finite = _scan(chunk)
            self._extremes = self._extremes.join(extremes)
            if extremes.finite:
                self._bins = self._bins.counting(finite, extremes.magnitude)

    def merge(self, other: HistogramObserver) -> None:
        """Takes the data of another state."""
        self._extremes = self._extremes.join(other._extremes)
        self._bins = self._bins.merged(other._bins)

    def result(self) -> HistogramResult:
        """Returns the counts and extremes of the data so far."""
        return HistogramResult(self._extremes, self._bins)


class ChannelMomentsObserver:
    """State of `ChannelMoments`; merges in float64 by the pairwise formulas of Chan et al."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._result: ChannelMomentsResult | None = None

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor.

        Raises:
            ValueError: when the number of channels differs from that of earlier data.
        """
        if tensor.numel():
            blocks = _channel_blocks(tensor.detach(), self._axis)
            self._append([_channel_moments(block) for block in blocks])

    def merge(self, other: ChannelMomentsObserver) -> None:
        """Takes the data of another state."""
        if other._result is not None:
            self._append([other._result])

    def result(self) -> ChannelMomentsResult:
        """Returns the moments of the data so far; tensors of no channel without data."""
        if self._result is not None:
            return self._result
        none = torch.zeros(0, dtype=torch.float64)
        return ChannelMomentsResult(none, none, none, none, none, none, 0)

    def _append(self, parts: list[ChannelMomentsResult]) -> None:
        if self._result is not None:
            known, new = self._result.count.numel(), parts[0].count.numel()
            if new != known:
                message = f"{new} channels follow {known}"
                raise ValueError(message)
            parts = [self._result, *parts]
        self._result = _pooled(parts)


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields the values as float32 vectors in the order of memory, views where possible."""
    values = tensor.detach()
    order = sorted(range(values.ndim), key=values.stride, reverse=True)
    flat = values.permute(order).reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        yield flat[start : start + CHUNK].to(torch.float32)


def _extremes(tensor: torch.Tensor) -> Extremes:
    extremes = Extremes()
    for chunk in _chunks(tensor):
        extremes = extremes.join(_scan(chunk)[0])
    return extremes


def _scan(flat: torch.Tensor) -> tuple[Extremes, torch.Tensor]:
    """Returns the extremes of a vector and its finite values."""
    if flat.numel() == 0:
        return Extremes(), flat
    low, high = (float(end) for end in torch.aminmax(flat))
    if math.isfinite(low) and math.isfinite(high):
        return Extremes(low, high, flat.numel()), flat
    nan = int(torch.isnan(flat).sum())
    finite = flat[torch.isfinite(flat)]
    rest = _scan(finite)[0]
    infinite = flat.numel() - finite.numel() - nan
    return Extremes(rest.low, rest.high, rest.finite, infinite, nan), finite


def _channel_blocks(tensor: torch.Tensor, axis: int) -> Iterator[torch.Tensor]:
    """Yields a tensor as float32 blocks [outer, C, inner] that follow its order in memory."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    at = order.index(axis % tensor.ndim)
    ordered = tensor.permute(order)
    channels = ordered.shape[at]
    inner = math.prod(ordered.shape[at + 1 :])
    blocks = ordered.reshape(-1, channels, inner)
    rows = max(1, CHUNK // (channels * inner))
    columns = max(1, CHUNK // channels)
    for start in range(0, blocks.shape[0], rows):
        for left in range(0, inner, columns):
            block = blocks[start : start + rows, :, left : left + columns]
            yield block.to(torch.float32)


def _channel_moments(block: torch.Tensor) -> ChannelMomentsResult:
    """Returns the moments of a block; the mean deviation corrects the mean that float32 gives."""
    over = (0, 2)
    low, high = block.amin(over), block.amax(over)
    if math.isfinite(float((low + high).sum())):
        count = torch.full_like(low, block.numel() // low.numel())
        center = block.mean(over)
        deviation = block - center[:, None]
        offset = deviation.mean(over).to(torch.float64)
        mean = center + offset
        variance = (deviation.square_().mean(over) - offset.square()).clamp_(min=0)
        return ChannelMomentsResult(count, mean, mean, variance, low, high, 0)
    usable = torch.isfinite(block)
    count = usable.sum(over)
    wide = torch.where(usable, block, 0.0).to(torch.float64)
    mean = wide.sum(over) / count.clamp(min=1)
    deviation = torch.where(usable, wide - mean[:, None], 0.0)
    variance = deviation.square().sum(over) / count.clamp(min=1)
    low = torch.where(usable, block, torch.inf).amin(over)
    high = torch.where(usable, block, -torch.inf).amax(over)
    nonfinite = block.numel() - int(usable.sum())
    return ChannelMomentsResult(count, mean, mean, variance, low, high, nonfinite)


def _pooled(parts: list[ChannelMomentsResult]) -> ChannelMomentsResult:
    """Pools moments in float64; deviations are added, not squares, so that nothing cancels."""
    counts = _stacked([part.count for part in parts])
    means = _stacked([part.mean for part in parts])
    count = counts.sum(0)
    share = counts / count.clamp(min=1)
    mean = (share * means).sum(0)
    variances = _stacked([part.variance for part in parts])
    variance = (share * (variances + (means - mean).square())).sum(0)
    low = _stacked([part.low for part in parts]).amin(0)
    high = _stacked([part.high for part in parts]).amax(0)
    nonfinite = sum(part.nonfinite for part in parts)
    second = variance + mean.square()
    return ChannelMomentsResult(count, mean, second, variance, low, high, nonfinite)


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.to(torch.float64) for tensor in tensors])
