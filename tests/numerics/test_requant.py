"""Multipliers and requantization against their definitions in Python integers and rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.errors import QCompilerError
from qcompiler.numerics.requant import (
    add_multipliers,
    average_multipliers,
    input_range_of_shift,
    multiplier_from_scale,
    multipliers_from_scales,
    requant_reference,
    saturate_round_shift,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
SHIFT = st.integers(2, 62)
SCALE = st.one_of(
    st.floats(2.0**-32, 2.0**28),
    st.fractions(Fraction(1, 2**32), 2**28),
    st.integers(-32, 28).map(lambda e: 2.0**e),
)


def definition(x: int, m: int, s: int) -> int:
    half = 1 << (s - 1)
    return (min(max(x, -half), half - 1) * m + half) >> s


@given(INT32, st.integers(0, 2**31 - 1), SHIFT, st.integers(-128, 127))
def test_requant_equals_the_definition(x: int, m: int, s: int, z: int) -> None:
    actual = requant_reference(torch.tensor([x], dtype=torch.int32), m, s, z, -128, 127)
    assert actual.tolist() == [min(max(definition(x, m, s) + z, -128), 127)]


@given(st.lists(st.tuples(INT32, st.integers(0, 2**31 - 1), SHIFT), min_size=1))
def test_channels_take_their_own_multiplier(rows: list[tuple[int, int, int]]) -> None:
    x, m, s = (torch.tensor(column).unsqueeze(1) for column in zip(*rows, strict=True))
    actual = saturate_round_shift(x.expand(-1, 3), m, s)
    assert actual.tolist() == [[definition(*row)] * 3 for row in rows]


@pytest.mark.parametrize("s", range(2, 63))
@pytest.mark.parametrize("m", [0, 2**30, 2**31 - 128, 2**31 - 1])
def test_both_ends_of_int32_do_not_overflow(s: int, m: int) -> None:
    low, high = input_range_of_shift(s)
    for x in (-(2**31), low, low + 1, -1, 0, 1, high, 2**31 - 1):
        y = int(saturate_round_shift(torch.tensor(x), m, s))
        assert y == definition(x, m, s)
        assert abs(y) <= 2**30


@pytest.mark.parametrize("s", range(2, 63))
def test_the_saturation_is_invisible_behind_an_int8_clamp(s: int) -> None:
    low, high = input_range_of_shift(s)
    for m in (2**30, 2**31 - 128):
        for x, expected in ((-(2**31), low), (2**31 - 1, high)):
            limits = (m, s, 0, -128, 127)
            wide = torch.tensor([x, expected])
            assert len(set(requant_reference(wide, *limits).tolist())) == 1


def test_golden_vector_rounds_once() -> None:
    assert int(saturate_round_shift(torch.tensor(7984), 1583594044, 40)) == 11


def test_halves_round_up() -> None:
    x = torch.tensor([-3, -1, 1, 3])
    assert saturate_round_shift(x, *multiplier_from_scale(0.5)).tolist() == [-1, 0, 1, 2]


@given(SCALE)
def test_multiplier_is_the_nearest_fp32_mantissa(scale: Fraction | float) -> None:
    m, s = multiplier_from_scale(scale)
    real, encoded = Fraction(scale), Fraction(m, 2**s)
    assert m % 128 == 0
    assert 2**30 <= m <= 2**31 - 128
    assert 2 <= s <= 62
    assert torch.tensor(float(encoded), dtype=torch.float32).item() == float(encoded)
    assert abs(encoded - real) <= real / 2**24
    if isinstance(scale, float):
        below, above = Fraction(m - 128, 2**s), Fraction(m + 128, 2**s)
        assert abs(encoded - real) <= min(abs(below - real), abs(above - real))


def test_multipliers_at_the_ends_of_the_range() -> None:
    assert multiplier_from_scale(0) == (0, 31)
    assert multiplier_from_scale(1) == (2**30, 30)
    assert multiplier_from_scale(2.0**-32) == (2**30, 62)
    assert multiplier_from_scale(2.0**29 - 32) == (2**31 - 128, 2)
    assert multiplier_from_scale(1 - Fraction(1, 2**40)) == (2**30, 30)


@pytest.mark.parametrize(
    "scale", [2.0**29, 2.0**29 - 1, math.nextafter(2.0**-32, 0), -1.0, math.inf, math.nan]
)
def test_scales_outside_the_range_are_refused(scale: float) -> None:
    with pytest.raises(QCompilerError, match="QC0303"):
        multiplier_from_scale(scale)


@given(st.integers(-10, 7), st.fractions(1, Fraction(199, 100)), st.fractions(-1, 1))
def test_sum_multipliers(exponent: int, mantissa: Fraction, ratio: Fraction) -> None:
    a = mantissa * Fraction(2) ** exponent
    b = a * ratio
    ma, mb, s = add_multipliers(a, b)
    assert s == 20 - exponent
    assert 2**20 <= ma <= 2**21
    assert abs(ma - a * 2**s) <= Fraction(1, 2)
    assert abs(mb - b * 2**s) <= Fraction(1, 2)
    assert 255 * (abs(ma) + abs(mb)) + 2 ** (s - 1) < 2**31
    assert add_multipliers(b, a) == (mb, ma, s)


def test_sum_multipliers_round_half_even() -> None:
    assert add_multipliers(1, Fraction(5, 2**21)) == (2**20, 2, 20)
    assert add_multipliers(1, Fraction(7, 2**21)) == (2**20, 4, 20)


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.0), (2.0**-11, 0.0), (256.0, 1.0), (1.0, -256.0)])
def test_sums_outside_the_range_are_refused(a: float, b: float) -> None:
    with pytest.raises(QCompilerError, match="QC0303"):
        add_multipliers(a, b)


def test_average_multipliers() -> None:
    multipliers, shifts = average_multipliers(4)
    assert shifts == [30, 31, 32, 32]
    assert multipliers == [2**30 + 1, 2**30 + 1, (2**32 + 4) // 3, 2**30 + 1]
    rescaled = average_multipliers(4, Fraction(3, 2))
    assert rescaled == multipliers_from_scales([Fraction(3, 2 * n) for n in range(1, 5)])


def test_input_range_of_a_shift() -> None:
    assert input_range_of_shift(32) == (-(2**31), 2**31 - 1)
    assert input_range_of_shift(62) == (-(2**31), 2**31 - 1)
    assert input_range_of_shift(31) == (-(2**30), 2**30 - 1)
    assert input_range_of_shift(2) == (-2, 1)
