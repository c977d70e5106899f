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
from typing import ClassVar, Protocol, Self

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
class ChannelMeansResult:
    """The result of `ChannelMeans`: float64 tensors of shape [C] over the finite values.

    The mean of a channel without any is 0.
    """

    count: torch.Tensor
    mean: torch.Tensor


class Observer(Protocol):
    """A state that gathers one statistic."""

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor."""

    def merge(self, other: Self) -> None:
        """Takes the data of another state of the same specification, as if they followed."""

    def result(self) -> object:
        """Returns the statistic of the data so far."""


class Statistic(Hashable, Protocol):
    """A specification of a statistic.

    ``by_update`` says whether its result depends on how the data are cut into updates.
    """

    by_update: ClassVar[bool]

    def observe(self) -> Observer:
        """Returns a state without data."""


@dataclass(frozen=True)
class MinMax:
    """Smallest and largest value."""

    by_update: ClassVar[bool] = False

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

    by_update: ClassVar[bool] = True

    momentum: float = 0.1

    def observe(self) -> MovingAverageObserver:
        """Returns a state without data."""
        return MovingAverageObserver(self.momentum)


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of a power of two, at least half of the bins of a side in use."""

    by_update: ClassVar[bool] = False

    bins: int = 2048

    def observe(self) -> HistogramObserver:
        """Returns a state without data."""
        return HistogramObserver(self.bins)


@dataclass(frozen=True)
class ChannelMeans:
    """Count and mean of each channel along an axis."""

    by_update: ClassVar[bool] = False

    axis: int = 1

    def observe(self) -> ChannelMeansObserver:
        """Returns a state without data."""
        return ChannelMeansObserver(self.axis)


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


class ChannelMeansObserver:
    """State of `ChannelMeans`: counts and sums in float64."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = self._sum = torch.zeros(0, dtype=torch.float64)

    def update(self, tensor: torch.Tensor) -> None:
        """Takes the values of a tensor.

        Raises:
            ValueError: when the number of channels differs from that of earlier data.
        """
        if tensor.numel() == 0:
            return
        total = channel_sums(tensor.detach(), self._axis)
        count = torch.full_like(total, tensor.numel() // total.numel())
        if not math.isfinite(float(total.sum())):
            usable = torch.isfinite(tensor)
            wide = torch.where(usable, tensor, 0.0).to(torch.float64)
            total = channel_sums(wide, self._axis)
            count = channel_sums(usable.to(torch.float64), self._axis)
        self._append(count, total)

    def merge(self, other: ChannelMeansObserver) -> None:
        """Takes the data of another state."""
        if other._count.numel():
            self._append(other._count, other._sum)

    def result(self) -> ChannelMeansResult:
        """Returns the means of the data so far; tensors of no channel without data."""
        return ChannelMeansResult(self._count, self._sum / self._count.clamp(min=1))

    def _append(self, count: torch.Tensor, total: torch.Tensor) -> None:
        known = self._count.numel()
        if known == 0:
            self._count, self._sum = count, total
        elif known != count.numel():
            message = f"{count.numel()} channels follow {known}"
            raise ValueError(message)
        else:
            self._count, self._sum = self._count + count, self._sum + total


def channel_sums(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Returns the float64 sums of floats over all dimensions but one.

    Runs of a channel that lie together in memory are summed in the precision of the values, such
    runs in float64.
    """
    order = sorted(range(values.ndim), key=values.stride, reverse=True)
    at = order.index(axis % values.ndim)
    ordered = values.permute(order)
    runs = ordered.reshape(-1, ordered.shape[at], math.prod(ordered.shape[at + 1 :]))
    return runs.sum(2).sum(0, dtype=torch.float64)


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
