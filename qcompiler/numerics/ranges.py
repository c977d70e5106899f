"""Ranges of observed values, a lattice with explicit degenerate states, and their parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from qcompiler.errors import QCompilerError
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.rounding import integer_limits

MIN_SCALE = 2.0**-60
MAX_SCALE = 2.0**60
"""Bounds of a scale: 1 / scale is a normal fp32 number, and a product of two scales stays far from
under- and overflow.
"""


class RangeState(Enum):
    """What is known of a value's range."""

    UNOBSERVED = "unobserved"
    ZERO = "zero"
    CONSTANT = "constant"
    FINITE = "finite"
    NONFINITE = "has-inf-or-nan"


@dataclass(frozen=True)
class Range:
    """The hull of the finite values that were seen, and the state that says what else was.

    An unobserved range has the bounds 0. A range whose values include inf or NaN holds the hull of
    the finite ones.
    """

    lo: float
    hi: float
    state: RangeState

    @classmethod
    def unobserved(cls) -> Range:
        """Returns the range of a value that was never seen, the least element of the lattice."""
        return cls(0.0, 0.0, RangeState.UNOBSERVED)

    @classmethod
    def of(cls, lo: float, hi: float, has_nonfinite: bool = False) -> Range:
        """Returns the range from lo to hi in the state that the numbers imply.

        Raises:
            ValueError: when lo exceeds hi, or a bound is infinite or not a number.
        """
        if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
            message = f"[{lo}, {hi}] is no finite range"
            raise ValueError(message)
        if has_nonfinite:
            state = RangeState.NONFINITE
        elif lo != hi:
            state = RangeState.FINITE
        else:
            state = RangeState.CONSTANT if lo else RangeState.ZERO
        return cls(lo + 0.0, hi + 0.0, state)

    @property
    def is_observed(self) -> bool:
        """Tells whether anything is known."""
        return self.state is not RangeState.UNOBSERVED

    @property
    def has_nonfinite(self) -> bool:
        """Tells whether inf or NaN was among the values."""
        return self.state is RangeState.NONFINITE

    def join(self, other: Range) -> Range:
        """Returns the least range that covers both; inf and NaN are never forgotten."""
        if not self.is_observed:
            return other
        if not other.is_observed:
            return self
        nonfinite = self.has_nonfinite or other.has_nonfinite
        return Range.of(min(self.lo, other.lo), max(self.hi, other.hi), nonfinite)

    def meet(self, bound: Interval) -> Range:
        """Returns the range clipped to an interval that is known to contain the value.

        An unobserved value takes the whole interval when that is bounded. Where the two do not
        overlap the proven interval wins: both ends move to its nearest bound.
        """
        if not self.is_observed:
            return Range.of(float(bound.lo), float(bound.hi)) if bound.is_bounded else self
        lo = float(min(max(self.lo, bound.lo), bound.hi))
        hi = float(min(max(self.hi, bound.lo), bound.hi))
        return Range.of(lo, hi, self.has_nonfinite)

    def with_zero(self) -> Range:
        """Returns the range grown to contain zero."""
        return Range(min(self.lo, 0.0), max(self.hi, 0.0), self.state)


def qparams(
    range_: Range, num_bits: int = 8, signed: bool = True, symmetric: bool = False
) -> tuple[float, int]:
    """Returns the float64 scale and the zero point that represent a range; zero is always exact.

    States are lowered so: ZERO to scale 1 and the zero point of a symmetric range (0, or 0 too when
    unsigned and asymmetric); CONSTANT c to the range between 0 and c, which represents c exactly;
    NONFINITE to the hull of its finite values, beyond which quantization saturates. Scales are kept
    within [2**-60, 2**60]. The zero point is rounded half even. A symmetric signed range leaves the
    most negative integer unused.

    Raises:
        QCompilerError: QC0302 when the range is unobserved.
    """
    if not range_.is_observed:
        raise _unobserved()
    qmin, qmax = integer_limits(num_bits, signed)
    middle = 0 if signed else 2 ** (num_bits - 1)
    lo, hi = min(range_.lo, 0.0), max(range_.hi, 0.0)
    if lo == hi:
        return 1.0, middle if symmetric else 0
    if symmetric:
        return _bounded(max(-lo, hi) / (qmax - middle)), middle
    steps = qmax - qmin
    scale = _bounded(hi / steps - lo / steps)
    return scale, min(max(round(qmin - lo / scale), qmin), qmax)


def representable(
    scale: float, zero_point: int, num_bits: int = 8, signed: bool = True
) -> Interval:
    """Returns the interval of the real values that the parameters represent."""
    qmin, qmax = integer_limits(num_bits, signed)
    return Interval((qmin - zero_point) * scale, (qmax - zero_point) * scale)


def _unobserved() -> QCompilerError:
    problem = "the range of a value is unknown"
    remedy = "Calibrate with data that reach this value, or give it a bound."
    return QCompilerError("QC0302", problem, remedy=remedy)


def _bounded(scale: float) -> float:
    return min(max(scale, MIN_SCALE), MAX_SCALE)
