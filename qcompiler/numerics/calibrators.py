"""Calibrators: ranges from streaming statistics.

Each calibrator is a frozen dataclass whose fields are its options. It names the statistic that it
needs and turns the result of that statistic into a range. Data that are constant, all zero, not
finite or absent take the degenerate states of `Range`; the methods below see only data with two
different finite values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch

from qcompiler.errors import QCompilerError, nearest
from qcompiler.numerics.histogram import BinCounts
from qcompiler.numerics.observers import (
    Extremes,
    Histogram,
    HistogramResult,
    MinMax,
    MovingAverage,
    Statistic,
)
from qcompiler.numerics.ranges import Range, RangeState
from qcompiler.numerics.rounding import integer_limits

T = TypeVar("T")


class Calibrator(Protocol):
    """Options of a method together with the method."""

    name: ClassVar[str]

    @property
    def statistic(self) -> Statistic:
        """The statistic that the method needs."""

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the range for a width, from the result of the statistic."""


@dataclass(frozen=True)
class MinMaxCalibrator:
    """Takes the smallest and the largest value."""

    name: ClassVar[str] = "minmax"

    @property
    def statistic(self) -> MinMax:
        """The extremes."""
        return MinMax()

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the range of the data."""
        return _expect(result, Extremes).range


@dataclass(frozen=True)
class MovingAverageCalibrator:
    """Takes the moving averages of the smallest and the largest value of each batch."""

    name: ClassVar[str] = "moving-average"
    momentum: float = 0.1

    @property
    def statistic(self) -> MovingAverage:
        """The averages."""
        return MovingAverage(self.momentum)

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the averages as a range."""
        return _expect(result, Extremes).range


@dataclass(frozen=True)
class PercentileCalibrator:
    """Leaves out a part of the data at each end.

    At most 100 - q percent of the values lie above the range and as many below it; a symmetric
    range takes the q-th percentile of the magnitudes. The ends are edges of histogram bins, outside
    the exact percentile by less than a bin.
    """

    name: ClassVar[str] = "percentile"
    q: float = 99.99
    bins: int = 2048

    @property
    def statistic(self) -> Histogram:
        """The histogram."""
        return Histogram(self.bins)

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the range between the percentiles."""
        data = _expect(result, HistogramResult)
        plain = data.extremes.range
        if not _has_spread(plain):
            return plain
        if symmetric:
            bound = _edge(_magnitudes(data.bins), self.q) * data.bins.width
            return _cut(plain, -bound, bound)
        counts, first = data.bins.counts, data.bins.bins - 1
        high = (_edge(counts, self.q) - first) * data.bins.width
        low = (_edge(counts.flip(0), self.q) - first) * data.bins.width
        return _cut(plain, -low, high)


@dataclass(frozen=True)
class MseCalibrator:
    """Searches the range with the least mean error of quantization, to the power p.

    Both ends of an asymmetric range shrink independently: a coarse grid of ratios, then twice a
    finer grid around the best pair. A symmetric range has one ratio for both. p = 2 is the mean
    squared error; 2.4 weighs large errors more, as in BRECQ and QDrop.
    """

    name: ClassVar[str] = "mse"
    p: float = 2.0
    steps: int = 100
    bins: int = 2048

    @property
    def statistic(self) -> Histogram:
        """The histogram."""
        return Histogram(self.bins)

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the best range on the grid."""
        data = _expect(result, HistogramResult)
        plain = data.extremes.range
        if not _has_spread(plain):
            return plain
        values, weights = representatives(data)
        lo, hi = min(plain.lo, 0.0), max(plain.hi, 0.0)
        if symmetric:
            lo, hi = -max(-lo, hi), max(-lo, hi)
        if not symmetric and lo < 0.0 < hi:
            return _cut(plain, *self._search(values, weights, lo, hi, num_bits))
        ratios = torch.arange(self.steps, 0, -1, dtype=torch.float64) / self.steps
        low, high = lo * ratios, hi * ratios
        errors = quantization_errors(values, weights, low, high, num_bits, symmetric, self.p)
        best = int(errors.argmin())
        return _cut(plain, float(low[best]), float(high[best]))

    def _search(
        self, values: torch.Tensor, weights: torch.Tensor, lo: float, hi: float, num_bits: int
    ) -> tuple[float, float]:
        """Returns the best ends: a grid of tenths, then of its neighbourhood until single steps."""
        spacing = max(self.steps // 10, 1)
        lows = highs = torch.arange(self.steps, 0, -spacing)
        while True:
            pairs = torch.cartesian_prod(lows, highs)
            low, high = (pairs.to(torch.float64) / self.steps).unbind(1)
            low, high = low * lo, high * hi
            errors = quantization_errors(values, weights, low, high, num_bits, False, self.p)
            best = int(errors.argmin())
            if spacing == 1:
                return float(low[best]), float(high[best])
            reach, spacing = spacing, max(spacing // 4, 1)
            around = torch.arange(reach, -reach - 1, -spacing)
            lows, highs = ((center + around).clamp(1, self.steps) for center in pairs[best])


@dataclass(frozen=True)
class KlCalibrator:
    """Chooses the threshold whose quantized distribution diverges least from the clipped one.

    The entropy method of TensorRT on the histogram of magnitudes: for each i the reference is the
    first i bins with the mass beyond them added to the last, the candidate the same bins merged to
    as many levels as the integers have and spread over the bins in use again. The threshold is (i +
    1/2) bin widths. Bin 0 is left out of the mass, because a spike at zero is represented exactly.
    Meant for one-peaked data.
    """

    name: ClassVar[str] = "kl"
    bins: int = 2048

    @property
    def statistic(self) -> Histogram:
        """The histogram."""
        return Histogram(self.bins)

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the range of the threshold on both sides, as far as there are data."""
        data = _expect(result, HistogramResult)
        plain = data.extremes.range
        if not _has_spread(plain):
            return plain
        counts = _magnitudes(data.bins)
        counts = counts[: int(counts.nonzero().max()) + 1].to(torch.float64)
        counts[0] = 0.0
        levels = 2 ** (num_bits - _sign_bits(plain, symmetric))
        if counts.numel() <= levels or not bool(counts.any()):
            return plain
        lengths = torch.arange(levels, counts.numel() + 1)
        best = int(lengths[int(_divergences(counts, lengths, levels).argmin())])
        bound = (best + 0.5) * data.bins.width
        return _cut(plain, -bound, bound)


@dataclass(frozen=True)
class OctavCalibrator:
    """Solves for the threshold of magnitudes that balances clipping against rounding noise.

    OCTAV (Sakr et al., ICML 2022): the Newton iteration s = sum of abs(x) above s over (4**-B / 3
    times the number of values up to s, plus the number above), from the mean magnitude. Zeros make
    no noise and are not counted. One-sided data in an asymmetric range use one more bit, since no
    code is spent on the sign.
    """

    name: ClassVar[str] = "octav"
    iterations: int = 20
    bins: int = 2048

    @property
    def statistic(self) -> Histogram:
        """The histogram."""
        return Histogram(self.bins)

    def range_of(self, result: object, num_bits: int, symmetric: bool) -> Range:
        """Returns the range of the threshold on both sides, as far as there are data."""
        data = _expect(result, HistogramResult)
        plain = data.extremes.range
        if not _has_spread(plain):
            return plain
        values, weights = representatives(data)
        magnitudes = values.abs()
        bits = num_bits + 1 - _sign_bits(plain, symmetric)
        noise = 4.0**-bits / 3.0
        inside = torch.where(magnitudes > 0, weights, 0.0)
        threshold = float((magnitudes * weights).sum() / inside.sum().clamp(min=1.0))
        for _ in range(self.iterations):
            clipped = magnitudes > threshold
            above = float(weights[clipped].sum())
            total = float((magnitudes * weights)[clipped].sum())
            if above == 0.0:
                break
            threshold = total / (noise * float(inside[~clipped].sum()) + above)
        return _cut(plain, -threshold, threshold)


CALIBRATORS: dict[str, type[Calibrator]] = {
    calibrator.name: calibrator
    for calibrator in (
        MinMaxCalibrator,
        MovingAverageCalibrator,
        PercentileCalibrator,
        MseCalibrator,
        KlCalibrator,
        OctavCalibrator,
    )
}


def calibrator_class(name: str) -> type[Calibrator]:
    """Returns the class of a calibration method.

    Raises:
        QCompilerError: QC0502 for an unknown name.
    """
    if name not in CALIBRATORS:
        problem = f"there is no calibration method {name!r}"
        raise _unknown(problem, name)
    return CALIBRATORS[name]


def representatives(data: HistogramResult) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a value and the count of each bin in use, float64 vectors.

    The value is the middle of the part of the bin that the data can reach, and 0 for bin 0 where
    zero is in the range.
    """
    bins = data.bins
    used = bins.counts.nonzero().squeeze(1)
    index = (used - (bins.bins - 1)).to(torch.float64)
    low = (index - (index <= 0).to(torch.float64)) * bins.width
    high = (index + (index >= 0).to(torch.float64)) * bins.width
    extremes = data.extremes
    middle = (low.clamp(min=extremes.low) + high.clamp(max=extremes.high)) / 2
    if extremes.low <= 0.0 <= extremes.high:
        middle = torch.where(index == 0, 0.0, middle)
    return middle, bins.counts[used].to(torch.float64)


def quantization_errors(
    values: torch.Tensor,
    weights: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    num_bits: int,
    symmetric: bool,
    p: float = 2.0,
) -> torch.Tensor:
    """Returns the mean p-th power of the error of weighted values quantized to each of k ranges.

    Args:
        values: vector of n values.
        weights: how often each of them occurs.
        low: lower ends of k ranges, not positive.
        high: upper ends, not negative.
        num_bits: width of the integers.
        symmetric: whether the zero point is 0 and low equals -high.
        p: exponent of the error.
    """
    qmin, qmax = integer_limits(num_bits)
    steps = qmax - qmin - (1 if symmetric else 0)
    scale = ((high - low) / steps).unsqueeze(1)
    zero = torch.round(qmin - low.unsqueeze(1) / scale).clamp_(qmin, qmax)
    if symmetric:
        zero, qmin = torch.zeros_like(zero), -qmax
    restored = torch.round(values / scale).add_(zero).clamp_(qmin, qmax).sub_(zero).mul_(scale)
    error = restored.sub_(values).abs_().pow_(p)
    return error @ weights / weights.sum()


def _divergences(counts: torch.Tensor, lengths: torch.Tensor, levels: int) -> torch.Tensor:
    """Returns the divergence of P from Q for the first i bins, for each i of lengths.

    Q is constant over the used bins of a level, so KL = sum P log P - sum over levels of (mass of
    P) (log of Q there); prefix sums give each level's mass and number of used bins.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    mass = torch.cat([zero, counts.cumsum(0)])
    used = torch.cat([zero, (counts > 0).to(torch.float64).cumsum(0)])
    terms = torch.where(counts > 0, counts * counts.clamp(min=1).log(), 0.0)
    entropy = torch.cat([zero, terms.cumsum(0)])
    total = mass[-1]
    edges = torch.arange(levels + 1) * lengths.unsqueeze(1) // levels
    level_mass = mass[edges].diff(dim=1)
    level_used = used[edges].diff(dim=1)
    density = torch.where(level_mass > 0, level_mass / level_used.clamp(min=1), 1.0)
    kept = mass[lengths]
    tail = total - kept
    last = counts[lengths - 1]
    folded = torch.where(last + tail > 0, (last + tail) * (last + tail).clamp(min=1).log(), 0.0)
    self_term = entropy[lengths - 1] + folded
    level_mass[:, -1] += tail
    cross = (level_mass * density.log()).sum(1)
    divergence = (self_term - cross) / total - total.log() + kept.clamp(min=1).log()
    return torch.where((tail > 0) & (last == 0), torch.inf, divergence)


def _magnitudes(bins: BinCounts) -> torch.Tensor:
    """Returns the counts of the magnitudes: bins of opposite sign added."""
    middle = bins.bins - 1
    folded = bins.counts[middle:].clone()
    folded[1:] += bins.counts[:middle].flip(0)
    return folded


def _edge(counts: torch.Tensor, q: float) -> int:
    """Returns the index past the first bin up to which q percent of the counts lie."""
    cumulative = counts.cumsum(0)
    wanted = float(cumulative[-1]) * q / 100.0
    return int((cumulative.to(torch.float64) < wanted).sum()) + 1


def _cut(plain: Range, low: float, high: float) -> Range:
    """Returns the range of the data cut to [low, high]."""
    lo, hi = min(max(plain.lo, low), high), max(min(plain.hi, high), low)
    return Range.of(lo, hi, plain.has_nonfinite)


def _has_spread(plain: Range) -> bool:
    return plain.state in (RangeState.FINITE, RangeState.NONFINITE) and plain.lo != plain.hi


def _sign_bits(plain: Range, symmetric: bool) -> int:
    """Returns the number of bits that the sign of the data takes."""
    return 1 if symmetric or plain.lo < 0.0 < plain.hi else 0


def _expect(result: object, kind: type[T]) -> T:
    if not isinstance(result, kind):
        message = f"the calibrator needs a {kind.__name__}, not a {type(result).__name__}"
        raise TypeError(message)
    return result


def _unknown(problem: str, name: str) -> QCompilerError:
    return QCompilerError("QC0502", problem, remedy=nearest(name, CALIBRATORS))
