"""Tables against arbitrary precision, and the images of intervals against samples."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import QCompilerError
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.tables import apply_table, build_table, compose_tables
from qcompiler.numerics.unary import UNARY, unary_function

mp: Any = import_module("mpmath").MPContext()
mp.prec = 500

PARAMS: dict[str, dict[str, float]] = {
    "leaky_relu": {"slope": 0.1},
    "elu": {"alpha": 1.5},
    "celu": {"alpha": 0.7},
    "softplus": {"beta": 2.0, "threshold": 1.0},
    "affine": {"a": -0.7, "b": 0.3},
    "pow": {"exponent": 3.0},
    "threshold": {"threshold": 0.4, "value": -2.0},
    "clamp": {"min": -0.5, "max": 1.25},
}

# Definitions written a second time, from the textbook form of each function.
REFERENCE: dict[str, Any] = {
    "relu": lambda x: max(x, mp.mpf(0)),
    "relu6": lambda x: min(max(x, mp.mpf(0)), mp.mpf(6)),
    "leaky_relu": lambda x: x if x > 0 else x * mp.mpf(0.1),
    "elu": lambda x: x if x > 0 else 1.5 * (mp.exp(x) - 1),
    "selu": lambda x: (
        mp.mpf(1.0507009873554805) * (x if x > 0 else mp.mpf(1.6732632423543772) * mp.expm1(x))
    ),
    "celu": lambda x: x if x > 0 else mp.mpf(0.7) * (mp.exp(x / mp.mpf(0.7)) - 1),
    "hardswish": lambda x: x * min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
    "hardsigmoid": lambda x: min(max(x + 3, mp.mpf(0)), mp.mpf(6)) / 6,
    "hardtanh": lambda x: min(max(x, mp.mpf(-1)), mp.mpf(1)),
    "sigmoid": lambda x: mp.exp(x) / (1 + mp.exp(x)),
    "logsigmoid": lambda x: mp.log(mp.exp(x) / (1 + mp.exp(x))),
    "tanh": lambda x: (mp.exp(2 * x) - 1) / (mp.exp(2 * x) + 1),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "gelu": lambda x: x * mp.ncdf(x),
    "gelu_tanh": lambda x: (
        x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))) / 2
    ),
    "mish": lambda x: x * mp.tanh(mp.log(1 + mp.exp(x))),
    "softplus": lambda x: x if 2 * x > 1 else mp.log(1 + mp.exp(2 * x)) / 2,
    "softsign": lambda x: x / (1 + abs(x)),
    "exp": mp.exp,
    "expm1": lambda x: mp.exp(x) - 1,
    "log": mp.log,
    "log1p": lambda x: mp.log(1 + x),
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "square": lambda x: x**2,
    "abs": abs,
    "neg": lambda x: -x,
    "sign": mp.sign,
    "sin": mp.sin,
    "cos": mp.cos,
    "erf": mp.erf,
    "affine": lambda x: x * mp.mpf(-0.7) + mp.mpf(0.3),
    "pow": lambda x: x**3,
    "hardshrink": lambda x: x if abs(x) > 0.5 else mp.mpf(0),
    "softshrink": lambda x: mp.sign(x) * max(abs(x) - 0.5, mp.mpf(0)),
    "tanhshrink": lambda x: x - mp.tanh(x),
    "threshold": lambda x: x if x > mp.mpf(0.4) else mp.mpf(-2),
    "round": lambda x: mp.nint(x),
    "floor": mp.floor,
    "ceil": mp.ceil,
    "clamp": lambda x: min(max(x, mp.mpf(-0.5)), mp.mpf(1.25)),
}


def expected_entry(name: str, q: int, s_in: float, z_in: int, s_out: float, z_out: int) -> int:
    x = mp.mpf(s_in) * (q - z_in)
    try:
        y = REFERENCE[name](x)
    except (ZeroDivisionError, ValueError):
        return 127 if name != "log" and name != "log1p" else -128
    if isinstance(y, mp.mpc) or mp.isnan(y):
        return z_out
    if mp.isinf(y):
        return 127 if y > 0 else -128
    return min(max(int(mp.floor(y / mp.mpf(s_out) + 0.5)) + z_out, -128), 127)


def test_each_function_has_a_reference() -> None:
    assert set(REFERENCE) == set(UNARY)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize(
    ("s_in", "z_in", "s_out", "z_out"),
    [(0.0371, -11, 0.0213, 5), (0.0625, 0, 0.03125, -128), (0.3, -128, 1 / 256, -128)],
)
def test_table_equals_arbitrary_precision(
    name: str, s_in: float, z_in: int, s_out: float, z_out: int
) -> None:
    table = build_table(name, PARAMS.get(name), s_in, z_in, s_out, z_out)
    assert table.dtype == torch.int8
    expected = [expected_entry(name, q, s_in, z_in, s_out, z_out) for q in range(-128, 128)]
    assert table.tolist() == expected


def test_exact_ties_round_half_up() -> None:
    halving = build_table("affine", {"a": 0.5}, 1.0, 0, 1.0, 0)
    assert halving[128 - 3 : 128 + 4].tolist() == [-1, -1, 0, 0, 1, 1, 2]
    # sigmoid(0) = 1/2 is a tie at the output scale 1 / 3.
    assert build_table("sigmoid", None, 0.1, 0, 1.0, 0)[128].item() == 1


def test_a_value_next_to_a_tie_needs_more_than_float64() -> None:
    # exp(x) * 2 = 2k + 1 +- 1e-20 at the output scale chosen from the precise value.
    x = 0.40625
    scale = float(mp.exp(x) / mp.mpf(2.5))
    quotient = mp.exp(x) / mp.mpf(scale)
    assert abs(quotient - 2.5) < 1e-15
    assert build_table("exp", None, x, 0, scale, 0)[129].item() == (3 if quotient >= 2.5 else 2)


def test_steps_take_the_exact_input() -> None:
    # 0.1 * 3 rounds to a float64 above 0.3; the exact product decides on which side floor falls.
    scale = 1 / 3
    table = build_table("floor", None, scale, 0, 1.0, 0)
    assert table[128 + 3].item() == math.floor(Fraction(scale) * 3) == 0
    assert math.floor(scale * 3) == 1


def test_values_that_are_not_finite() -> None:
    log = build_table("log", None, 1.0, 0, 0.1, 7)
    assert log[0].item() == 7
    assert log[128].item() == -128
    assert build_table("reciprocal", None, 1.0, 0, 0.1, 7)[128].item() == 127
    assert build_table("exp", None, 100.0, 0, 0.1, 7, qmax=100)[255].item() == 100


@given(st.integers(-128, 127), st.integers(-128, 127))
@settings(max_examples=20)
def test_composition_is_one_lookup_after_the_other(z1: int, z2: int) -> None:
    first = build_table("hardswish", None, 0.05, z1, 0.04, z2)
    second = build_table("neg", None, 0.04, z2, 0.06, z1)
    x = torch.arange(-128, 128, dtype=torch.int8).reshape(2, 128)
    composed = apply_table(x, compose_tables(first, second))
    assert torch.equal(composed, apply_table(apply_table(x, first), second))
    assert composed.dtype == torch.int8


def test_unknown_names_are_refused() -> None:
    with pytest.raises(QCompilerError, match="did you mean sigmoid"):
        unary_function("sigmiod")
    with pytest.raises(QCompilerError, match="QC0203"):
        build_table("elu", {"slope": 1.0}, 1.0, 0, 1.0, 0)


def test_fixed_outputs() -> None:
    assert UNARY["sigmoid"].fixed_output == (1 / 256, -128)
    assert UNARY["tanh"].fixed_output == (1 / 128, 0)


@pytest.mark.parametrize("name", UNARY)
def test_images_are_sound(name: str) -> None:
    function = UNARY[name]
    params = PARAMS.get(name, {})
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ends = torch.randn(2, generator=generator).double() * 4
        low, high = float(ends.min()), float(ends.max())
        x = torch.linspace(low, high, 501, dtype=torch.float64)
        y = function(x, **params)
        y = y[~y.isnan()]
        image = function.image(Interval(low, high), params)
        if y.numel():
            assert image.lo <= float(y.min())
            assert image.hi >= float(y.max())
            if math.isfinite(image.lo) and math.isfinite(image.hi):
                assert image.hi - image.lo <= 1.05 * float(y.max() - y.min()) + 0.15


@pytest.mark.parametrize("name", UNARY)
def test_images_of_rays_are_sound(name: str) -> None:
    function = UNARY[name]
    params = PARAMS.get(name, {})
    for end in (-3.0, -1.0, 0.0, 0.3, 2.0):
        for interval, sign in ((Interval(end, math.inf), 1), (Interval(-math.inf, end), -1)):
            x = end + sign * torch.logspace(-6, 6, 801, dtype=torch.float64)
            y = function(x, **params)
            y = y[~y.isnan()]
            image = function.image(interval, params)
            if y.numel():
                assert image.lo <= float(y.min())
                assert image.hi >= float(y.max())


def test_turning_points_are_minima() -> None:
    for name in ("silu", "gelu", "gelu_tanh", "mish"):
        turns = UNARY[name].turns
        assert turns is not None
        ((x, y),) = turns(-9.0, 9.0)
        slope = mp.diff(REFERENCE[name], mp.mpf(x))
        assert abs(slope) < 1e-15
        assert abs(REFERENCE[name](mp.mpf(x)) - y) < 1e-16


def test_exact_images_are_not_widened() -> None:
    assert UNARY["relu6"].image(Interval(-1.0, math.inf)) == Interval(0.0, 6.0)
    assert UNARY["hardswish"].image(Interval(-math.inf, 0.0)) == Interval(-0.375, 0.0)
    assert UNARY["log"].image(Interval(-3.0, -1.0)) == Interval(0.0, 0.0)
