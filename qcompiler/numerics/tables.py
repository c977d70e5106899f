"""Tables of 256 int8 entries: any unary function between two quantized values, rounded exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any

import torch

from qcompiler.numerics.rounding import round_half_up_exact
from qcompiler.numerics.unary import UnaryFunction, unary_function

ENTRIES = 256
_OFFSET = 128

_GUARD = 1e-9
_RELATIVE_GUARD = 2.0**-40
"""Far above the error of a float64 evaluation, relative to max(1, abs(x), abs(f(x)))."""

_PRECISION = 400
"""Bits of the evaluation next to a tie. A function value there that is rational is one by identity,
such as f(0).
"""


def build_table(
    function: str | UnaryFunction,
    params: Mapping[str, float] | None,
    input_scale: float,
    input_zero_point: int,
    output_scale: float,
    output_zero_point: int,
    qmin: int = -128,
    qmax: int = 127,
) -> torch.Tensor:
    """Returns the int8 table of clamp(half_up(f(s_in * (q - z_in)) / s_out) + z_out) at q + 128.

    The value is exact, by rational arithmetic where the function allows it; for others float64
    decides unless it is near a tie, where 400 bits decide. So a table does not depend on the math
    library of a machine. (A function of a caller that has only a float form is rounded as float64
    gives it.) An infinite value gives the bound of its sign, a value that is not a number the zero
    point.

    Raises:
        QCompilerError: QC0203 for an unknown function or parameter.
    """
    chosen = unary_function(function) if isinstance(function, str) else function
    arguments = chosen.arguments(params or {})
    steps = torch.arange(-_OFFSET, ENTRIES - _OFFSET, dtype=torch.float64) - input_zero_point
    x = steps * input_scale
    values = chosen.floating(x, *arguments)
    entries = [
        _entry(chosen, arguments, Fraction(input_scale) * int(step), at, value, output_scale)
        for step, at, value in zip(steps.tolist(), x.tolist(), values.tolist(), strict=True)
    ]
    bounded = [_clamp(entry, output_zero_point, qmin, qmax) for entry in entries]
    return torch.tensor(bounded, dtype=torch.int8)


def compose_tables(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Returns the table of second after first."""
    return second[first.to(torch.int64) + _OFFSET]


def apply_table(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Returns T[x + 128] for an int8 tensor of any shape."""
    return table[x.to(torch.int64) + _OFFSET]


def _clamp(entry: float | int, zero_point: int, qmin: int, qmax: int) -> int:
    if math.isnan(entry):
        entry = 0
    return int(min(max(entry + zero_point, qmin), qmax))


def _entry(
    function: UnaryFunction,
    arguments: tuple[float, ...],
    exact_x: Fraction,
    x: float,
    value: float,
    output_scale: float,
) -> float | int:
    """Returns the rounded quotient, an int unless it is infinite or not a number."""
    quotient = value / output_scale
    if not math.isfinite(quotient):
        return quotient
    if function.rational is not None:
        exact_value = function.rational(exact_x, *arguments)
        if exact_value is not None:
            return round_half_up_exact(exact_value / Fraction(output_scale))
    is_clear = abs(quotient - math.floor(quotient) - 0.5) > _guard(x, value, output_scale)
    if is_clear or function.precise is None:
        return math.floor(quotient + 0.5)
    context = _context()
    precise_x = context.mpf(exact_x.numerator) / exact_x.denominator
    precise_value = function.precise(context, precise_x, *arguments)
    return int(context.floor(precise_value / context.mpf(output_scale) + context.mpf(0.5)))


def _guard(x: float, value: float, output_scale: float) -> float:
    return _GUARD + _RELATIVE_GUARD * max(1.0, abs(x), abs(value)) / output_scale


@cache
def _context() -> Any:
    """Returns a context of mpmath of our own; loaded here because few tables come near a tie."""
    context = import_module("mpmath").MPContext()
    context.prec = _PRECISION
    return context
