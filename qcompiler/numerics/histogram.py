"""A streaming histogram with power-of-two bins that does not depend on the order of its data.

Bin i > 0 counts the values in [i w, (i + 1) w), bin -i those in (-(i + 1) w, -i w], and bin 0 those
in (-w, w), where w is the smallest power of two that lets ``bins`` bins reach the largest
magnitude. Two bins of width w are one of width 2w exactly, so growing by doubling and merging give
the counts that one pass over all data at the final width gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

CHUNK = (1 << 15) - 64
"""Elements per step: scratch tensors stay in the cache, and below 2**15 elements torch starts no
second thread, whose barriers cost far more than it gives when other processes use the cores.
"""

MIN_EXPONENT = -120
"""Smallest bin width, as a power of two; its reciprocal is finite in float32."""


@dataclass(frozen=True, eq=False)
class BinCounts:
    """Counts of a histogram: counts[bins - 1 + i] belongs to bin i, int64 of shape [2 bins - 1]."""

    counts: torch.Tensor
    exponent: int

    @classmethod
    def empty(cls, bins: int) -> BinCounts:
        """Returns a histogram of nothing, with the narrowest bins."""
        return cls(torch.zeros(2 * bins - 1, dtype=torch.int64), MIN_EXPONENT)

    @property
    def bins(self) -> int:
        """Number of bins on each side, bin 0 included."""
        return (self.counts.numel() + 1) // 2

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def grown(self, exponent: int) -> BinCounts:
        """Returns the same data in bins of width 2**exponent, which must not be narrower."""
        doublings = exponent - self.exponent
        if doublings == 0:
            return self
        index = torch.arange(1 - self.bins, self.bins)
        factor = 1 << min(doublings, self.bins.bit_length() + 1)
        target = torch.div(index, factor, rounding_mode="trunc") + self.bins - 1
        counts = torch.zeros_like(self.counts).index_add_(0, target, self.counts)
        return BinCounts(counts, exponent)

    def merged(self, other: BinCounts) -> BinCounts:
        """Returns the histogram of both data sets."""
        exponent = max(self.exponent, other.exponent)
        return BinCounts(self.grown(exponent).counts + other.grown(exponent).counts, exponent)

    def counting(self, flat: torch.Tensor, magnitude: float) -> BinCounts:
        """Returns the histogram with the values of a tensor added.

        Args:
            flat: finite float32 values, one axis, at best `CHUNK` of them.
            magnitude: their largest absolute value.
        """
        exponent = max(self.exponent, exponent_of(magnitude, self.bins))
        grown = self.grown(exponent)
        return BinCounts(grown.counts + _count(flat, exponent, self.bins), exponent)


def exponent_of(magnitude: float, bins: int) -> int:
    """Returns the smallest exponent e >= MIN_EXPONENT with magnitude < bins * 2**e."""
    if magnitude == 0.0:
        return MIN_EXPONENT
    exponent = max(math.frexp(magnitude / bins)[1] - 1, MIN_EXPONENT)
    return exponent if magnitude < math.ldexp(bins, exponent) else exponent + 1


def _count(flat: torch.Tensor, exponent: int, bins: int) -> torch.Tensor:
    """Counts after an exact division by a power of two; the conversion to int32 truncates."""
    scaled = flat * math.ldexp(1.0, -exponent)
    return torch.bincount(scaled.to(torch.int32).add_(bins - 1), minlength=2 * bins - 1)
