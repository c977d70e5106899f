"""Requantization: exact multipliers from real scales, and the integer op that they drive.

All of it is 64-bit integer arithmetic with one rounding, half toward plus infinity, which is the
single rounding mode of the RESCALE operator of TOSA.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from qcompiler.errors import QCompilerError

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1
MIN_SHIFT = 2
MAX_SHIFT = 62
ZERO_MULTIPLIER = (0, 31)

_AVERAGE_ONE = 2**30 + 1
_ADD_BITS = 20

_RESCALE_REMEDY = (
    "Calibrate with data that reach this value, or keep the operator in float: the scales around "
    "it differ by a factor that 32-bit arithmetic cannot bridge."
)


def exact(value: Fraction | float) -> Fraction:
    """Returns the rational number that a float64 stands for.

    Raises:
        QCompilerError: QC0303 when the value is infinite or not a number.
    """
    try:
        return Fraction(value)
    except (OverflowError, ValueError) as error:
        problem = f"the real multiplier is {value}"
        raise _not_encodable(problem) from error


def floor_log2(value: Fraction) -> int:
    """Returns the largest e with 2**e <= value, for a positive value."""
    numerator, denominator = value.numerator, value.denominator
    e = numerator.bit_length() - denominator.bit_length()
    return e if denominator << max(e, 0) <= numerator << max(-e, 0) else e - 1


def _round_half_up(value: Fraction, bits: int) -> int:
    """Returns value * 2**bits rounded half up, on plain integers: many times faster."""
    numerator, denominator = value.numerator << max(bits, 0), value.denominator << max(-bits, 0)
    return (2 * numerator + denominator) // (2 * denominator)


def multiplier_from_scale(scale: Fraction | float) -> tuple[int, int]:
    """Returns (m, s), the 24-bit normal form with m * 2**-s nearest to a real scale.

    A nonzero result has m % 128 == 0 and 2**30 <= m <= 2**31 - 128, so that m * 2**-s is an fp32
    number. The scale 0 gives m = 0.

    Raises:
        QCompilerError: QC0303 when the scale is negative or outside [2**-32, 2**29).
    """
    real = exact(scale)
    if real == 0:
        return ZERO_MULTIPLIER
    if real < 0:
        problem = f"the real multiplier {float(real)} is negative"
        raise _not_encodable(problem, "Fold the sign into the weights.")
    e = floor_log2(real) + 1
    mantissa = _round_half_up(real, 24 - e)
    if mantissa == 2**24:
        mantissa, e = 2**23, e + 1
    shift = 31 - e
    if real < Fraction(1, 2**32) or not MIN_SHIFT <= shift <= MAX_SHIFT:
        problem = f"the real multiplier {float(real):.6g} is outside [2**-32, 2**29)"
        raise _not_encodable(problem)
    return mantissa << 7, shift


def multipliers_from_scales(scales: list[Fraction] | list[float]) -> tuple[list[int], list[int]]:
    """Returns the multipliers and shifts of one real scale per channel.

    Raises:
        QCompilerError: QC0303 when a scale is outside the encodable range.
    """
    pairs = [multiplier_from_scale(scale) for scale in scales]
    return [m for m, _ in pairs], [s for _, s in pairs]


def input_range_of_shift(shift: int) -> tuple[int, int]:
    """Returns the smallest and largest int32 that a shift takes without saturation."""
    bound = 1 << (shift - 1)
    return max(-bound, INT32_MIN), min(bound - 1, INT32_MAX)


def saturate_round_shift(
    x: torch.Tensor, multiplier: torch.Tensor | int, shift: torch.Tensor | int
) -> torch.Tensor:
    """Computes floor((x' * m + 2**(s-1)) / 2**s) with x' = x saturated to s bits.

    The multiplier and the shift are numbers or integer tensors that broadcast against x; x' is in
    [-2**(s-1), 2**(s-1) - 1]. The result is int64.
    """
    m = torch.as_tensor(multiplier, dtype=torch.int64)
    s = torch.as_tensor(shift, dtype=torch.int64)
    half = torch.ones((), dtype=torch.int64) << (s - 1)
    saturated = torch.minimum(torch.maximum(x.to(torch.int64), -half), half - 1)
    return (saturated * m + half) >> s


def requant_reference(
    x: torch.Tensor,
    multiplier: torch.Tensor | int,
    shift: torch.Tensor | int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Computes clamp(SR(x, m, s) + zero_point, qmin, qmax) in int64: the definition.

    The multiplier and the shift are numbers or integer tensors that broadcast against x.
    """
    return (saturate_round_shift(x, multiplier, shift) + zero_point).clamp(qmin, qmax)


def add_multipliers(a: Fraction | float, b: Fraction | float) -> tuple[int, int, int]:
    """Returns (ma, mb, s) of a sum whose terms have the real scales a and b, relative to its own.

    The larger multiplier has 21 bits, so that the sum of both products fits int32 for int8 values.
    A negative scale subtracts.

    Raises:
        QCompilerError: QC0303 when max(abs(a), abs(b)) is outside [2**-10, 2**8).
    """
    real_a, real_b = exact(a), exact(b)
    largest = max(abs(real_a), abs(real_b))
    if not Fraction(1, 2**10) <= largest < 2**8:
        problem = f"the larger scale of the sum, {float(largest):.6g}, is outside [2**-10, 2**8)"
        raise _not_encodable(problem)
    shift = _ADD_BITS - floor_log2(largest)
    return round(real_a * 2**shift), round(real_b * 2**shift), shift


def average_multipliers(
    max_count: int, scale: Fraction | float | None = None
) -> tuple[list[int], list[int]]:
    """Returns multipliers and shifts that divide a sum by 1, 2, ..., max_count and rescale it.

    Args:
        max_count: largest number of elements of a window.
        scale: input scale over output scale; None when they are equal, which gives the reciprocal
            of TOSA's AVG_POOL2D and with it exact division, halves away from zero.

    Raises:
        QCompilerError: QC0303 when scale / count is outside the encodable range.
    """
    if scale is not None:
        real = exact(scale)
        return multipliers_from_scales([real / n for n in range(1, max_count + 1)])
    exponents = [(n - 1).bit_length() for n in range(1, max_count + 1)]
    multipliers = [(_AVERAGE_ONE << k) // n for n, k in enumerate(exponents, start=1)]
    return multipliers, [30 + k for k in exponents]


def _not_encodable(problem: str, remedy: str = _RESCALE_REMEDY) -> QCompilerError:
    return QCompilerError("QC0303", problem, remedy=remedy)
