"""Rounding modes, quantization of tensors and scales of weights."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.numerics.rounding import (
    WeightMethod,
    integer_limits,
    quantize_tensor,
    round_half_even,
    round_half_even_exact,
    round_half_up,
    round_half_up_exact,
    weight_scales,
)

FINITE = st.floats(-(2.0**60), 2.0**60)


@given(st.one_of(FINITE, st.integers(-9, 9).map(lambda k: k + 0.5)))
def test_tensor_rounding_equals_exact_rounding(x: float) -> None:
    tensor = torch.tensor(x, dtype=torch.float64)
    assert round_half_up(tensor).item() == round_half_up_exact(Fraction(x))
    assert round_half_even(tensor).item() == round_half_even_exact(Fraction(x))


def test_ties_and_their_neighbours() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, math.nextafter(0.5, 0)], dtype=torch.float64)
    assert round_half_up(x).tolist() == [-1, 0, 1, 2, 0]
    assert round_half_even(x).tolist() == [-2, 0, 0, 2, 0]
    assert [round_half_up_exact(Fraction(k, 2)) for k in (-3, -1, 1, 3)] == [-1, 0, 1, 2]


def test_integer_limits() -> None:
    assert integer_limits(8) == (-128, 127)
    assert integer_limits(8, narrow=True) == (-127, 127)
    assert integer_limits(4, signed=False) == (0, 15)


def test_quantize_saturates_and_maps_nan_to_the_zero_point() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e30, 0.25, 0.75])
    assert quantize_tensor(x, 0.5, 3, -128, 127).tolist() == [3, 127, -128, 127, 3, 5]


def test_quantize_per_channel() -> None:
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    scale = torch.tensor([1.0, 0.5])
    assert quantize_tensor(x, scale, 0, -8, 7, axis=0).tolist() == [[1, 2], [2, 4]]
    assert quantize_tensor(x, scale, 0, -8, 7, axis=-1).tolist() == [[1, 4], [1, 4]]


@pytest.mark.parametrize("axis", [0, 1])
def test_weight_scales_cover_the_largest_magnitude(axis: int) -> None:
    w = torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    scales = weight_scales(w, axis)
    largest = w.movedim(axis, 0).flatten(1).abs().amax(1).double()
    assert scales.dtype == torch.float64
    assert torch.equal(scales, largest / 127)
    q = quantize_tensor(w, scales, 0, -127, 127, axis=axis)
    assert bool((q.movedim(axis, 0).flatten(1).abs().amax(1) == 127).all())


def test_a_wide_range_uses_the_most_negative_integer() -> None:
    w = torch.tensor([[-8.0, 3.5]])
    assert weight_scales(w, 0, num_bits=4, narrow=False).tolist() == [1.0]
    assert weight_scales(w, 0, num_bits=4).tolist() == [8.0 / 7]


def test_dead_channels_take_a_share_of_the_largest_scale() -> None:
    w = torch.tensor([[127.0, 1.0], [0.0, 0.0], [1e-30, 0.0]])
    methods: tuple[WeightMethod, ...] = ("minmax", "mse")
    for method in methods:
        scales = weight_scales(w, 0, method=method)
        assert scales[1] == scales[2] == scales[0] * 2.0**-16
    assert weight_scales(torch.zeros(2, 3), 0).tolist() == [1.0, 1.0]


def test_mse_scales_beat_minmax_on_outliers() -> None:
    w = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)).double()
    w[:, 0] = 8.0

    def error(scales: torch.Tensor) -> torch.Tensor:
        restored = quantize_tensor(w, scales, 0, -7, 7, axis=0) * scales.unsqueeze(1)
        return (restored - w).square().sum(1)

    best = error(weight_scales(w, 0, num_bits=4, method="mse"))
    plain = weight_scales(w, 0, num_bits=4)
    assert bool((best < 0.7 * error(plain)).all())
    grid = torch.stack([error(plain * float(r)) for r in torch.linspace(0.2, 1.0, 80)])
    assert torch.allclose(best, grid.amin(0), rtol=1e-5)
