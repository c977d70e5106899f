"""The unary functions that a table can hold: float form, exact form and sound image of an interval.

Each function has a float form for tensors of any float type, and one of two further forms on single
numbers: `rational` for functions that map rationals to rationals, and `precise` on the numbers of
an mpmath context for all others. A form takes the argument and then the function's parameters in
their declared order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from qcompiler.errors import QCompilerError, nearest
from qcompiler.numerics.intervals import Interval

Points = Iterable[tuple[float, float]]
Mp = Any
"""A number of an mpmath context, or the context itself; mpmath has no types."""

_EVERYWHERE = Interval.everything()
_OUTWARD = 1e-12
_HUGE = 1e300
"""Stands for infinity where a float form gives NaN though the function has a limit."""


@dataclass(frozen=True)
class UnaryFunction:
    """A real function of one variable with float parameters.

    Args:
        name: key in ``UNARY``.
        floating: value on a float tensor; exact to a few units in the last place in float64.
        rational: exact value on a rational, not called at a pole; None where it is not rational.
        precise: value in an mpmath context (context, x, parameters).
        defaults: names of the parameters with their default values, in order.
        turns: (x, limit) at each point of an interval [lo, hi] where the function stops being
            monotone; two at a jump.
        domain: where the function is real.
        fixed_output: scale and signed zero point of int8 results, where these never depend on data.
    """

    name: str
    floating: Callable[..., torch.Tensor]
    rational: Callable[..., Fraction | None] | None = None
    precise: Callable[..., Mp] | None = None
    defaults: tuple[tuple[str, float], ...] = ()
    turns: Callable[..., Points] | None = None
    domain: Interval = _EVERYWHERE
    fixed_output: tuple[float, int] | None = None

    def arguments(self, params: Mapping[str, float]) -> tuple[float, ...]:
        """Returns the parameters in declared order, defaults filled in.

        Raises:
            QCompilerError: QC0203 for a parameter that the function does not have.
        """
        known = dict(self.defaults)
        for name in params:
            if name not in known:
                raise _unknown(name, "parameter", known)
        return tuple(float(params.get(name, default)) for name, default in self.defaults)

    def __call__(self, x: torch.Tensor, **params: float) -> torch.Tensor:
        """Evaluates the float form in the type of x."""
        return self.floating(x, *self.arguments(params))

    def image(self, of: Interval, params: Mapping[str, float] | None = None) -> Interval:
        """Returns an interval that contains the value at each point of an interval.

        Points outside the domain contribute nothing; an interval wholly outside it has the image
        [0, 0], because a table holds the zero point there. Bounds that float64 had to round are
        widened by 1e-12 of their magnitude.
        """
        inside = of.intersect(self.domain)
        if inside is None:
            return Interval(0.0, 0.0)
        arguments = self.arguments(params or {})
        lo, hi = float(inside.lo), float(inside.hi)
        points = torch.tensor([lo, hi, max(lo, -_HUGE), min(hi, _HUGE)], dtype=torch.float64)
        ends = self.floating(points, *arguments).tolist()
        values = [b if math.isnan(a) else a for a, b in zip(ends[:2], ends[2:], strict=True)]
        exact = all(map(partial(self._is_exact, arguments), points.tolist()[2:], values))
        if self.turns is not None:
            values += [y for x, y in self.turns(lo, hi, *arguments) if lo <= x <= hi]
        reals = [value for value in values if not math.isnan(value)]
        if not reals:
            return Interval(0.0, 0.0)
        hull = Interval(min(reals), max(reals))
        return hull if exact else hull.widen(_OUTWARD)

    def _is_exact(self, arguments: tuple[float, ...], x: float, value: float) -> bool:
        """Tells whether a value of the float form was not rounded; an infinite one is not."""
        if not math.isfinite(value):
            return True
        rational = self.rational(Fraction(x), *arguments) if self.rational else None
        return rational is not None and rational == Fraction(value)


def unary_function(name: str) -> UnaryFunction:
    """Returns a function of the registry.

    Raises:
        QCompilerError: QC0203 for an unknown name.
    """
    if name not in UNARY:
        raise _unknown(name, "unary function", UNARY)
    return UNARY[name]


def _unknown(name: str, kind: str, known: Iterable[str]) -> QCompilerError:
    return QCompilerError("QC0203", f"there is no {kind} {name!r}", remedy=nearest(name, known))


def _fixed(*points: tuple[float, float]) -> Callable[..., Points]:
    return lambda lo, hi, *params: points


# Rational functions: value on a Fraction x; float parameters enter as the rationals they are.


def _leaky_relu(x: Fraction, slope: float) -> Fraction:
    return x if x >= 0 else x * Fraction(slope)


def _clamp(x: Fraction, low: float, high: float) -> Fraction:
    if x < low:
        x = Fraction(low)
    return Fraction(high) if x > high else x


def _hardsigmoid(x: Fraction) -> Fraction:
    return min(max(x + 3, Fraction(0)), Fraction(6)) / 6


def _power(x: Fraction, exponent: float) -> Fraction | None:
    return x ** int(exponent) if exponent == int(exponent) else None


def _hardshrink(x: Fraction, bound: float) -> Fraction:
    return x if abs(x) > bound else Fraction(0)


def _softshrink(x: Fraction, bound: float) -> Fraction:
    if abs(x) <= bound:
        return Fraction(0)
    return x - Fraction(bound) if x > 0 else x + Fraction(bound)


def _threshold(x: Fraction, threshold: float, value: float) -> Fraction:
    return x if x > threshold else Fraction(value)


# Turning points.


def _turn_of_pole(lo: float, hi: float) -> Points:
    return ((0.0, -math.inf), (0.0, math.inf))


def _turn_of_power(lo: float, hi: float, exponent: float) -> Points:
    if exponent >= 0:
        return ((0.0, 1.0 if exponent == 0 else 0.0),)
    return ((0.0, math.inf), (0.0, -math.inf if exponent % 2 == 1 else math.inf))


def _turn_of_softplus(lo: float, hi: float, beta: float, threshold: float) -> Points:
    """Gives both limits of the jump where softplus goes over to the identity."""
    x = threshold / beta
    return ((x, x), (x, math.log1p(math.exp(min(threshold, 700.0))) / beta))


def _turn_of_wave(phase: float) -> Callable[[float, float], Points]:
    """Gives the extremes of the sine shifted by a phase, one of each kind at most."""

    def turns(lo: float, hi: float) -> Points:
        if hi - lo >= 2 * math.pi:
            return ((lo, -1.0), (lo, 1.0))
        first = math.floor((lo + phase) / math.pi - 0.5)
        slack = _OUTWARD * max(1.0, abs(lo), abs(hi))

        return tuple(
            (min(max((k + 0.5) * math.pi - phase, lo), hi), 1.0 if k % 2 == 0 else -1.0)
            for k in range(first, first + 5)
            if lo - slack <= (k + 0.5) * math.pi - phase <= hi + slack
        )

    return turns


# Float forms that torch has no function for.


def _float_selu(x: torch.Tensor) -> torch.Tensor:
    return _SELU_SCALE * torch.where(x > 0, x, _SELU_ALPHA * torch.expm1(x.clamp(max=0)))


def _float_elu(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def _float_celu(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0) / alpha))


def _float_gelu(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x)


def _float_gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x, approximate="tanh")


# Precise forms on the numbers of an mpmath context.


def _mp_sigmoid(mp: Mp, x: Mp) -> Mp:
    return 1 / (1 + mp.exp(-x))


def _mp_elu(mp: Mp, x: Mp, alpha: float) -> Mp:
    return x if x > 0 else mp.mpf(alpha) * mp.expm1(x)


def _mp_celu(mp: Mp, x: Mp, alpha: float) -> Mp:
    return x if x > 0 else mp.mpf(alpha) * mp.expm1(x / mp.mpf(alpha))


def _mp_selu(mp: Mp, x: Mp) -> Mp:
    return mp.mpf(_SELU_SCALE) * _mp_elu(mp, x, _SELU_ALPHA)


def _mp_gelu_tanh(mp: Mp, x: Mp) -> Mp:
    cubic = x + x**3 * 44715 / 1000000
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * cubic))


def _mp_softplus(mp: Mp, x: Mp, beta: float, threshold: float) -> Mp:
    scaled = x * mp.mpf(beta)
    return x if scaled > threshold else mp.log1p(mp.exp(scaled)) / mp.mpf(beta)


def _mp_mish(mp: Mp, x: Mp) -> Mp:
    return x * mp.tanh(mp.log1p(mp.exp(x)))


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946

_POSITIVE = Interval(0.0, math.inf)
_AT_ZERO = _fixed((0.0, 0.0))
F = torch.nn.functional

_FUNCTIONS = (
    UnaryFunction("relu", torch.relu, lambda x: max(x, Fraction(0))),
    UnaryFunction("relu6", F.relu6, lambda x: _clamp(x, 0.0, 6.0)),
    UnaryFunction(
        "leaky_relu", F.leaky_relu, _leaky_relu, defaults=(("slope", 0.01),), turns=_AT_ZERO
    ),
    UnaryFunction("elu", _float_elu, precise=_mp_elu, defaults=(("alpha", 1.0),), turns=_AT_ZERO),
    UnaryFunction("selu", _float_selu, precise=_mp_selu),
    UnaryFunction(
        "celu", _float_celu, precise=_mp_celu, defaults=(("alpha", 1.0),), turns=_AT_ZERO
    ),
    UnaryFunction(
        "hardswish", F.hardswish, lambda x: x * _hardsigmoid(x), turns=_fixed((-1.5, -0.375))
    ),
    UnaryFunction("hardsigmoid", F.hardsigmoid, _hardsigmoid),
    UnaryFunction("hardtanh", F.hardtanh, lambda x: _clamp(x, -1.0, 1.0)),
    UnaryFunction("sigmoid", torch.sigmoid, precise=_mp_sigmoid, fixed_output=(2.0**-8, -128)),
    UnaryFunction("logsigmoid", F.logsigmoid, precise=lambda mp, x: -mp.log1p(mp.exp(-x))),
    UnaryFunction("tanh", torch.tanh, precise=lambda mp, x: mp.tanh(x), fixed_output=(2.0**-7, 0)),
    UnaryFunction(
        "silu",
        F.silu,
        precise=lambda mp, x: x * _mp_sigmoid(mp, x),
        turns=_fixed((-1.2784645427610738, -0.27846454276107380)),
    ),
    UnaryFunction(
        "gelu",
        _float_gelu,
        precise=lambda mp, x: x / 2 * mp.erfc(-x / mp.sqrt(2)),
        turns=_fixed((-0.7517915246935645, -0.16997120747990369)),
    ),
    UnaryFunction(
        "gelu_tanh",
        _float_gelu_tanh,
        precise=_mp_gelu_tanh,
        turns=_fixed((-0.7524614220710162, -0.17004075057125412)),
    ),
    UnaryFunction(
        "mish", F.mish, precise=_mp_mish, turns=_fixed((-1.1924312145154917, -0.30884341301725043))
    ),
    UnaryFunction(
        "softplus",
        F.softplus,
        precise=_mp_softplus,
        defaults=(("beta", 1.0), ("threshold", 20.0)),
        turns=_turn_of_softplus,
    ),
    UnaryFunction("softsign", F.softsign, lambda x: x / (1 + abs(x))),
    UnaryFunction("exp", torch.exp, precise=lambda mp, x: mp.exp(x)),
    UnaryFunction("expm1", torch.expm1, precise=lambda mp, x: mp.expm1(x)),
    UnaryFunction("log", torch.log, precise=lambda mp, x: mp.log(x), domain=_POSITIVE),
    UnaryFunction(
        "log1p", torch.log1p, precise=lambda mp, x: mp.log1p(x), domain=Interval(-1.0, math.inf)
    ),
    UnaryFunction("sqrt", torch.sqrt, precise=lambda mp, x: mp.sqrt(x), domain=_POSITIVE),
    UnaryFunction("rsqrt", torch.rsqrt, precise=lambda mp, x: 1 / mp.sqrt(x), domain=_POSITIVE),
    UnaryFunction("reciprocal", torch.reciprocal, lambda x: 1 / x, turns=_turn_of_pole),
    UnaryFunction("square", torch.square, lambda x: x * x, turns=_AT_ZERO),
    UnaryFunction("abs", torch.abs, abs, turns=_AT_ZERO),
    UnaryFunction("neg", torch.neg, lambda x: -x),
    UnaryFunction("sign", torch.sign, lambda x: Fraction((x > 0) - (x < 0))),
    UnaryFunction("sin", torch.sin, precise=lambda mp, x: mp.sin(x), turns=_turn_of_wave(0.0)),
    UnaryFunction(
        "cos", torch.cos, precise=lambda mp, x: mp.cos(x), turns=_turn_of_wave(math.pi / 2)
    ),
    UnaryFunction("erf", torch.erf, precise=lambda mp, x: mp.erf(x)),
    UnaryFunction(
        "affine",
        lambda x, a, b: x * a + b,
        lambda x, a, b: x * Fraction(a) + Fraction(b),
        defaults=(("a", 1.0), ("b", 0.0)),
    ),
    UnaryFunction(
        "pow",
        torch.pow,
        _power,
        precise=lambda mp, x, exponent: mp.power(x, mp.mpf(exponent)),
        defaults=(("exponent", 2.0),),
        turns=_turn_of_power,
    ),
    UnaryFunction("hardshrink", F.hardshrink, _hardshrink, defaults=(("bound", 0.5),)),
    UnaryFunction("softshrink", F.softshrink, _softshrink, defaults=(("bound", 0.5),)),
    UnaryFunction("tanhshrink", F.tanhshrink, precise=lambda mp, x: x - mp.tanh(x)),
    UnaryFunction(
        "threshold",
        F.threshold,
        _threshold,
        defaults=(("threshold", 0.0), ("value", 0.0)),
        turns=lambda lo, hi, threshold, value: ((threshold, threshold),) if hi > threshold else (),
    ),
    UnaryFunction("round", torch.round, lambda x: Fraction(round(x))),
    UnaryFunction("floor", torch.floor, lambda x: Fraction(math.floor(x))),
    UnaryFunction("ceil", torch.ceil, lambda x: Fraction(math.ceil(x))),
    UnaryFunction(
        "clamp",
        torch.clamp,
        _clamp,
        defaults=(("min", -math.inf), ("max", math.inf)),
    ),
)

UNARY: dict[str, UnaryFunction] = {function.name: function for function in _FUNCTIONS}
