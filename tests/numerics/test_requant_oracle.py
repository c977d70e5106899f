"""Requantization and addition equal the TOSA reference model on every value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcompiler.numerics.requant import (
    add_multipliers,
    average_multipliers,
    input_range_of_shift,
    requant_reference,
)
from tests.numerics.oracle import Array, Oracle

SHIFTS = tuple(range(2, 63))
EXTREME_MULTIPLIERS = (0, 1, 127, 2**30, 2**30 + 128, 1583594044, 2**31 - 128, 2**31 - 1)


def inputs_of(shift: int, multiplier: int, count: int, rng: np.random.Generator) -> Array:
    """Returns accumulators that the shift allows: both ends, around zero, around ties, random."""
    low, high = input_range_of_shift(shift)
    random = rng.integers(low, high + 1, count // 2)
    narrow = (rng.standard_normal(count) * 2.0 ** min(shift - 24, 30)).astype(np.int64)
    half = (
        []
        if multiplier == 0
        else [((2 * k + 1) << (shift - 1)) // multiplier for k in range(-140, 140)]
    )
    near = [min(max(value + d, low), high) for value in half for d in (-1, 0, 1)]
    ties = np.array(near, np.int64)
    ends = np.array([low, low + 1, -1, 0, 1, high - 1, high], np.int64)
    values = np.concatenate([ends, ties, random, narrow])[:count]
    clipped: Array = np.clip(values, low, high).astype(np.int32)
    return clipped


def test_equals_the_model_per_channel_for_every_shift() -> None:
    rng = np.random.default_rng(0)
    count = 9000
    channels = [(shift, m) for shift in SHIFTS for m in (*EXTREME_MULTIPLIERS[2:6:3], None)]
    shifts = [shift for shift, _ in channels]
    multipliers = [(int(rng.integers(2**23, 2**24)) << 7) if m is None else m for _, m in channels]
    x = np.stack(
        [inputs_of(s, m, count, rng) for s, m in zip(shifts, multipliers, strict=True)], axis=-1
    )
    assert x.size >= 1_000_000

    oracle = Oracle()
    oracle.rescale(
        oracle.input("x", x), x.shape, ("int32", "int8"), multipliers, shifts, (0, -5), output=True
    )
    expected = oracle.run("int8", x.shape)
    actual = requant_reference(
        torch.from_numpy(x), torch.tensor(multipliers), torch.tensor(shifts), -5, -128, 127
    )
    assert torch.equal(actual.to(torch.int8), torch.from_numpy(expected))


@pytest.mark.parametrize("multiplier", EXTREME_MULTIPLIERS)
def test_equals_the_model_per_tensor(multiplier: int) -> None:
    rng = np.random.default_rng(multiplier)
    for shift in SHIFTS[::4]:
        x = inputs_of(shift, multiplier, 4000, rng)
        oracle = Oracle()
        name = oracle.input("x", x)
        oracle.rescale(name, x.shape, ("int32", "int32"), [multiplier], [shift], output=True)
        expected = oracle.run("int32", x.shape)
        actual = requant_reference(torch.from_numpy(x), multiplier, shift, 0, -(2**31), 2**31 - 1)
        assert torch.equal(actual.to(torch.int32), torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("scale_a", "scale_b"),
    [(1.0, 1.0), (0.5, 0.25), (0.731, 1.217), (3.3e-3, 1.1e-3), (1.7, -0.9), (-2.5, 0.013)],
)
def test_the_sum_equals_the_model(scale_a: float, scale_b: float) -> None:
    rng = np.random.default_rng(1)
    shape = (64, 1024)
    za, zb, zo = -128, 17, 3
    a = rng.integers(-128, 128, shape).astype(np.int8)
    b = rng.integers(-128, 128, shape).astype(np.int8)
    ma, mb, shift = add_multipliers(scale_a, scale_b)

    oracle = Oracle()
    wide = []
    for name, value, zero_point, multiplier in (("a", a, za, ma), ("b", b, zb, mb)):
        centered = oracle.rescale(
            oracle.input(name, value), shape, ("int8", "int32"), [2**30], [30], (zero_point, 0)
        )
        factor = oracle.input(f"m{name}", np.full((1, 1), multiplier, np.int32))
        wide.append(oracle.multiply(centered, factor, shape))
    total = oracle.add(wide[0], wide[1], shape)
    grow = max(0, 33 - shift)
    oracle.rescale(
        total, shape, ("int32", "int8"), [1 << grow], [shift + grow], (0, zo), output=True
    )
    expected = oracle.run("int8", shape)

    acc = (torch.from_numpy(a).int() - za) * ma + (torch.from_numpy(b).int() - zb) * mb
    actual = (((acc + (1 << (shift - 1))) >> shift) + zo).clamp(-128, 127)
    assert torch.equal(actual.to(torch.int8), torch.from_numpy(expected))


def test_the_reciprocal_divides_with_halves_away_from_zero() -> None:
    multipliers, shifts = average_multipliers(300)
    for n, (m, s) in enumerate(zip(multipliers, shifts, strict=True), start=1):
        total = torch.arange(-255 * n, 255 * n + 1, max(1, n // 7))
        away = torch.sign(total) * ((2 * total.abs() + n) // (2 * n))
        assert torch.equal(requant_reference(total, m, s, 0, -(2**31), 2**31 - 1), away)
