"""Group-wise scales: integer weights fit int8, and their error is near that of real scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.numerics.groups import group_scales, largest_factor, spread_factors

WIDTHS = (2, 3, 4, 5, 6, 8)


def restored(weight: torch.Tensor, group: int, bits: int, method: str) -> torch.Tensor:
    """Returns weights as their codes stand for them, after checking that the codes are legal."""
    scale, factors = group_scales(weight, group, bits, method)  # type: ignore[arg-type]  # a literal
    steps = spread_factors(factors, group, weight.shape[1]) * scale[:, None]
    limit = 2 ** (bits - 1) - 1
    codes = torch.round(weight.double() / steps).clamp(-limit, limit)
    effective = codes * spread_factors(factors, group, weight.shape[1])
    assert int(effective.abs().max()) <= 127
    assert 1 <= int(factors.min()) <= int(factors.max()) <= largest_factor(bits)
    return codes * steps


@pytest.mark.parametrize("bits", WIDTHS)
@given(st.integers(1, 6), st.integers(1, 90), st.sampled_from([8, 32, 64]), st.integers(0, 50))
def test_minmax_clips_nothing(bits: int, rows: int, inputs: int, group: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=source).exp2_()
    weight *= torch.randn(rows, inputs, generator=source).sign()
    scale, factors = group_scales(weight, group, bits)
    steps = spread_factors(factors, group, inputs) * scale[:, None]
    error = (restored(weight, group, bits, "minmax") - weight).abs()
    assert bool((error <= steps * (0.5 + 1e-6)).all())


@pytest.mark.parametrize(("bits", "loss"), [(2, 0.1), (3, 0.1), (4, 0.2), (5, 0.8)])
def test_two_levels_lose_little_against_real_group_scales(bits: int, loss: float) -> None:
    weight = torch.randn(32, 640, generator=torch.Generator().manual_seed(0))
    alone = weight.reshape(-1, 64)
    noise = [
        float((restored(w, 64, bits, "mse") - w).square().sum()) for w in (weight, alone)
    ]  # with one group per channel the factor is always the largest: the scale is real
    assert noise[0] <= noise[1] * 10 ** (loss / 10)


def test_mse_is_no_worse_than_minmax() -> None:
    weight = torch.randn(16, 200, generator=torch.Generator().manual_seed(1))
    weight[:, ::50] *= 4
    for bits in WIDTHS[:5]:
        errors = [
            float((restored(weight, 32, bits, m) - weight).square().sum())
            for m in ("mse", "minmax")
        ]
        assert errors[0] < errors[1]


def test_dead_channels_and_groups() -> None:
    weight = torch.zeros(3, 70)
    assert group_scales(weight, 32, 4)[0].tolist() == [1.0] * 3
    weight[0, :32] = 1.0
    scale, factors = group_scales(weight, 32, 4, "mse")
    assert factors.tolist() == [[18, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert bool((scale > 0).all())
    assert torch.equal(restored(weight, 32, 4, "mse")[1:], torch.zeros(2, 70, dtype=torch.float64))
