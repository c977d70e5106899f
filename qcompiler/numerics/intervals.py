"""Intervals with sound arithmetic, and the bounds of integer accumulators.

Bounds that are ints stay exact. A float bound that an operation had to round is moved outward by
one unit in the last place, so that an interval always contains the true result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch

Number = int | float


@dataclass(frozen=True)
class Interval:
    """The numbers from lo to hi, both included; a bound may be infinite.

    Raises:
        ValueError: when lo exceeds hi or a bound is not a number.
    """

    lo: Number
    hi: Number

    def __post_init__(self) -> None:
        if not self.lo <= self.hi:
            message = f"[{self.lo}, {self.hi}] is no interval"
            raise ValueError(message)

    @classmethod
    def everything(cls) -> Interval:
        """Returns the interval of all real numbers."""
        return cls(-math.inf, math.inf)

    @property
    def is_bounded(self) -> bool:
        """Tells whether both bounds are finite."""
        return math.isfinite(self.lo) and math.isfinite(self.hi)

    def add(self, other: Interval) -> Interval:
        """Returns the sums of a number of each interval."""
        return Interval(_down(_sum, self.lo, other.lo), _up(_sum, self.hi, other.hi))

    def sub(self, other: Interval) -> Interval:
        """Returns the differences of a number of each interval."""
        return self.add(Interval(-other.hi, -other.lo))

    def mul(self, other: Interval) -> Interval:
        """Returns the products of a number of each interval."""
        pairs = [(a, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        return Interval(
            min(_down(_product, a, b) for a, b in pairs), max(_up(_product, a, b) for a, b in pairs)
        )

    def scale(self, factor: Number) -> Interval:
        """Returns the multiples of the interval's numbers by one factor."""
        return self.mul(Interval(factor, factor))

    def union(self, other: Interval) -> Interval:
        """Returns the smallest interval that contains both."""
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    def intersect(self, other: Interval) -> Interval | None:
        """Returns the numbers in both intervals, or None when there are none."""
        lo, hi = max(self.lo, other.lo), min(self.hi, other.hi)
        return Interval(lo, hi) if lo <= hi else None

    def contains(self, other: Interval | Number) -> bool:
        """Tells whether a number, or each number of an interval, is in this interval."""
        if isinstance(other, Interval):
            return self.lo <= other.lo and other.hi <= self.hi
        return self.lo <= other <= self.hi

    def widen(self, relative: float) -> Interval:
        """Returns the interval with each bound moved outward by a fraction of its magnitude."""
        lo = self.lo if not self.lo else self.lo - abs(self.lo) * relative
        hi = self.hi if not self.hi else self.hi + abs(self.hi) * relative
        return Interval(lo, hi)


def accumulator_bounds(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lo: torch.Tensor | int,
    hi: torch.Tensor | int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the smallest and largest accumulator of each output channel, int64 of shape [C].

    Args:
        weight: integer weight, output channel first.
        bias: integer bias of shape [C], or None.
        lo: smallest value of x minus its zero point; a number, or a tensor that broadcasts against
            the weight.
        hi: largest value of it.
    """
    wide = weight.to(torch.int64)
    at_lo, at_hi = wide * lo, wide * hi
    lower = torch.minimum(at_lo, at_hi).flatten(1).sum(1)
    upper = torch.maximum(at_lo, at_hi).flatten(1).sum(1)
    if bias is None:
        return lower, upper
    return lower + bias.to(torch.int64), upper + bias.to(torch.int64)


def _sum(a: Fraction, b: Fraction) -> Fraction:
    return a + b


def _product(a: Fraction, b: Fraction) -> Fraction:
    return a * b


Operation = Callable[[Fraction, Fraction], Fraction]


def _down(operation: Operation, a: Number, b: Number) -> Number:
    return -_up_of_negated(operation, a, b)


def _up(operation: Operation, a: Number, b: Number) -> Number:
    limit = _limit(operation, a, b)
    if limit is not None:
        return limit
    return _ceil_to_float(
        operation(Fraction(a), Fraction(b)), isinstance(a, int) and isinstance(b, int)
    )


def _up_of_negated(operation: Operation, a: Number, b: Number) -> Number:
    limit = _limit(operation, a, b)
    if limit is not None:
        return -limit
    return _ceil_to_float(
        -operation(Fraction(a), Fraction(b)), isinstance(a, int) and isinstance(b, int)
    )


def _limit(operation: Operation, a: Number, b: Number) -> Number | None:
    """Returns the result when an operand is infinite, with 0 * inf = 0, and None otherwise."""
    if math.isfinite(a) and math.isfinite(b):
        return None
    if operation is _sum:
        return a + b
    return 0 if 0 in (a, b) else a * b


def _ceil_to_float(value: Fraction, as_int: bool) -> Number:
    """Returns the smallest float not below a rational; an int where the operands were ints."""
    if as_int:
        return int(value)
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.nextafter(math.inf, 0.0)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)
