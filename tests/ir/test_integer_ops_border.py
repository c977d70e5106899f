"""The border of the integer world and requantize against their definitions (2, 5.2)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.integer_ops import INTEGER_OPS
from tests.ir import calls
from tests.ir.calls import BATCHES, RANGES, ZERO_POINTS, check, codes, limits, scales
from tests.ir.plain import fp32

INF, NAN = math.inf, math.nan
INVERSES = st.one_of(
    st.sampled_from([0.5, 1.0, 2.0, 2.0**-149, 2.0**127]),
    st.floats(2.0**-126, 2.0**100, width=32),
    st.floats(0.125, 64.0, width=32),
)
# One of each kind that rounding and conversion can get wrong: halves, ends, huge and tiny numbers.
SPECIAL = [
    *(NAN, INF, -INF, 0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, 126.5, 127.5, -127.5, -128.5),
    *(2.0**23, 2.0**31, -(2.0**31), 2.0**63, -(2.0**64), 2.0**-149, 2.0**-126),
    *map(fp32, (3.4e38, -3.4e38, 1e30, 0.5 - 2.0**-25, 0.5 + 2.0**-24, 1.5 - 2.0**-23)),
]


def test_each_operator_has_a_plain_definition() -> None:
    ours = {name for name in INTEGER_OPS if name.startswith("qcompiler::")}
    assert ours == {f"qcompiler::{name}" for name in calls.DEFINITIONS}


def test_each_accumulator_has_a_plain_sum() -> None:
    ours = {op.name for op in INTEGER_OPS.values() if op.accumulator is not None}
    assert ours == set(calls.SUMS)


@settings(max_examples=40)
@given(st.data(), BATCHES)
def test_quantize(data: st.DataObject, batch: int) -> None:
    count = batch * 6
    numbers = st.one_of(
        st.sampled_from(SPECIAL), st.floats(width=32), st.floats(-300, 300, width=32)
    )
    values = data.draw(st.lists(numbers, min_size=count, max_size=count))
    x = torch.tensor(values).reshape(batch, 3, 2)
    check("quantize", x, data.draw(INVERSES), *limits(data.draw), batch=batch)


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 127])
@pytest.mark.parametrize("inverse", [1.0, 0.5, 2.0**-149, 2.0**127])
def test_quantize_special_numbers(zero_point: int, inverse: float) -> None:
    for span in ((-128, 127), (-5, 60)):
        got = check("quantize", torch.tensor(SPECIAL), inverse, zero_point, *span)
        assert got[:3].tolist() == [min(max(zero_point, span[0]), span[1]), span[1], span[0]]


def test_quantize_rounds_halves_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert check("quantize", x, 1.0, 1, -128, 127).tolist() == [-1, -1, 1, 1, 3, 3]


def test_quantize_multiplies_once_in_fp32() -> None:
    x = torch.tensor([fp32(0.15), fp32(0.45), fp32(0.7)])
    for inverse in (10.0, fp32(1 / 0.3), fp32(1 / 0.1)):
        check("quantize", x, inverse, 0, -128, 127)


@settings(max_examples=30)
@given(st.data(), BATCHES, st.sampled_from([torch.int8, torch.int16, torch.int32]))
def test_dequantize(data: st.DataObject, batch: int, dtype: torch.dtype) -> None:
    scale = data.draw(st.floats(2.0**-60, 2.0**60, width=32))
    info, margin = torch.iinfo(dtype), 128 if dtype is torch.int32 else 0
    low, high = info.min + margin, info.max - margin
    numbers = st.one_of(st.integers(low, high), st.sampled_from([low, high, 0]))
    values = data.draw(st.lists(numbers, min_size=batch * 4, max_size=batch * 4))
    x = torch.tensor(values, dtype=dtype).reshape(batch, 4)
    check("dequantize", x, scale, data.draw(ZERO_POINTS), batch=batch)


def test_dequantize_subtracts_without_wrapping() -> None:
    for dtype in (torch.int8, torch.int16):
        info = torch.iinfo(dtype)
        x = torch.tensor([info.min, info.max], dtype=dtype)
        check("dequantize", x, 0.25, 127)
        check("dequantize", x, 0.25, -128)


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_dequantize_accumulator(data: st.DataObject, batch: int) -> None:
    channels = data.draw(st.integers(1, 4))
    shape, axis = data.draw(
        st.sampled_from([((batch, channels, 2), 1), ((batch, 2, channels), -1)])
    )
    numbers = st.one_of(
        st.integers(-(2**31), 2**31 - 1), st.sampled_from([2**24 + 1, -(2**24) - 1])
    )
    size = math.prod(shape)
    values = data.draw(st.lists(numbers, min_size=size, max_size=size))
    x = torch.tensor(values, dtype=torch.int32).reshape(shape)
    count = data.draw(st.sampled_from([1, channels]))
    factors = st.floats(2.0**-60, 2.0**60, width=32)
    scale = torch.tensor(data.draw(st.lists(factors, min_size=count, max_size=count)))
    check("dequantize_accumulator", x, scale, axis, batch=batch)


@settings(max_examples=60)
@given(st.data(), BATCHES, st.sampled_from([torch.int8, torch.int16, torch.int32]))
def test_requantize(data: st.DataObject, batch: int, dtype: torch.dtype) -> None:
    shape = (batch, data.draw(st.integers(1, 4)), 3)
    axis = data.draw(st.integers(-3, 2))
    info = torch.iinfo(dtype)
    numbers = st.one_of(
        st.integers(info.min, info.max), st.sampled_from([info.min, info.max, 0, -1])
    )
    size = math.prod(shape)
    x = torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)), dtype=dtype)
    m, s = scales(data.draw, data.draw(st.sampled_from([1, shape[axis]])))
    zero = 0 if dtype is torch.int32 else data.draw(ZERO_POINTS)
    check("requantize", x.reshape(shape), m, s, axis, zero, *limits(data.draw), batch=batch)


def test_requantize_rounds_halves_up() -> None:
    x = torch.arange(-9, 10, dtype=torch.int32)
    half = torch.tensor([2**30]), torch.tensor([31])
    got = check("requantize", x, half[0].int(), half[1].int(), 0, 0, 0, -128, 127)
    assert got.tolist() == [math.floor(v / 2 + 0.5) for v in range(-9, 10)]


@pytest.mark.parametrize("multiplier", [0, 1, 2**30, 2**31 - 128, 2**31 - 1])
def test_requantize_at_the_ends_of_each_shift(multiplier: int) -> None:
    shifts = torch.arange(2, 63, dtype=torch.int32)
    ends = [min(2 ** (s - 1), 2**31) for s in range(2, 63)]
    rows = [[max(-e - 1, -(2**31)), -e, -1, 0, 1, e - 1, min(e, 2**31 - 1)] for e in ends]
    m = torch.full_like(shifts, multiplier)
    for span in ((0, -128, 127), (-128, -128, 127), (127, -3, 40)):
        check("requantize", torch.tensor(rows, dtype=torch.int32), m, shifts, 0, 0, *span)


def test_requantize_rounds_once() -> None:
    # Two roundings, as the default of TFLite, would give 12 for 11.499.
    x = torch.tensor([7984], dtype=torch.int32)
    m, s = (torch.tensor([v], dtype=torch.int32) for v in (1583594044, 40))
    assert check("requantize", x, m, s, 0, 0, 0, -128, 127).item() == 11


@settings(max_examples=20)
@given(st.data(), RANGES)
def test_ranges_of_clamped_codes_are_attained(data: st.DataObject, span: tuple[int, int]) -> None:
    ends = torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32)
    one = torch.tensor([2**30], dtype=torch.int32)
    shift = torch.tensor([31], dtype=torch.int32)
    got = check("requantize", ends, one, shift, 0, 0, data.draw(ZERO_POINTS), *span)
    assert tuple(got.tolist()) == span
    x = codes(data.draw, (2, 3))
    check("requantize", x, one, shift, 1, data.draw(ZERO_POINTS), 0, *span, batch=2)
