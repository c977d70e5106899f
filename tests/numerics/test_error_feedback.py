"""Rounding of weights that looks at many of them, against plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcompiler.numerics.error_feedback import round_balanced, round_with_feedback


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def correlated(groups: int, rows: int, inputs: int) -> Tensor:
    """Returns inputs [G, rows, K] that mostly move together."""
    mixed = random(groups, rows, 2, seed=1) @ random(groups, 2, inputs, seed=2)
    return mixed + 0.1 * random(groups, rows, inputs, seed=3)


def feedback_one_by_one(weights: Tensor, moments: Tensor, damping: float) -> Tensor:
    """Rounds a row as the paper defines it: the inverse loses a row and a column at each step."""
    count = len(weights)
    damped = moments + damping * moments.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    inverse = torch.linalg.inv(damped)
    left, codes = weights.clone(), torch.zeros(count, dtype=torch.float64)
    for k in moments.diagonal().argsort(descending=True).tolist():
        codes[k] = left[k].round()
        left -= (left[k] - codes[k]) / inverse[k, k] * inverse[k]
        inverse = inverse - torch.outer(inverse[k], inverse[k]) / inverse[k, k]
        inverse[k, k] = 1.0
    return codes.to(torch.int8)


def test_follows_the_definition() -> None:
    weights, x = 20 * random(2, 3, 12), correlated(2, 100, 12)
    moments = x.transpose(1, 2) @ x
    codes = round_with_feedback(weights, moments, 127, damping=0.02, block=5)
    for group in range(2):
        for row in range(3):
            expected = feedback_one_by_one(weights[group, row], moments[group], 0.02)
            assert torch.equal(codes[group, row], expected)


@pytest.mark.parametrize(("groups", "inputs"), [(1, 96), (5, 9), (3, 25)])
def test_results_err_less_than_with_nearest_rounding(groups: int, inputs: int) -> None:
    weights, x = 20 * random(groups, 8, inputs), correlated(groups, 500, inputs)
    codes = round_with_feedback(weights, x.transpose(1, 2) @ x, 127)

    def noise(rounded: Tensor) -> float:
        return float((x @ (rounded - weights).transpose(1, 2)).square().mean())

    assert noise(codes) < noise(weights.round()) / 3


def test_blocks_and_groups_do_not_change_the_result() -> None:
    weights, x = 20 * random(4, 3, 40), correlated(4, 200, 40)
    moments = x.transpose(1, 2) @ x
    codes = round_with_feedback(weights, moments, 127, block=64)
    for block in (1, 7):
        assert torch.equal(round_with_feedback(weights, moments, 127, block=block), codes)
    alone = [round_with_feedback(weights[g : g + 1], moments[g : g + 1], 127) for g in range(4)]
    assert torch.equal(torch.cat(alone), codes)


def test_inputs_that_are_unrelated_or_always_zero_get_the_nearest_codes() -> None:
    weights = 20 * random(1, 6, 10)
    power = torch.arange(10, dtype=torch.float64)
    for moments in (power.diag(), torch.zeros(10, 10, dtype=torch.float64)):
        codes = round_with_feedback(weights, moments[None], 127)
        assert torch.equal(codes, weights.round().to(torch.int8))
    x = correlated(1, 50, 10)
    x[:, :, [2, 7]] = 0.0
    codes = round_with_feedback(weights, x.transpose(1, 2) @ x, 127)
    assert torch.equal(codes[:, :, [2, 7]], weights[:, :, [2, 7]].round().to(torch.int8))
    assert not torch.equal(codes, weights.round().to(torch.int8))


def test_feedback_stays_in_the_narrow_range() -> None:
    weights, x = 100 * random(1, 50, 30), correlated(1, 100, 30)
    codes = round_with_feedback(weights, x.transpose(1, 2) @ x, 7)
    assert int(codes.min()) == -7
    assert int(codes.max()) == 7


@pytest.mark.parametrize("taps", [1, 9])
def test_balanced_errors_nearly_cancel(taps: int) -> None:
    weights = 30 * random(3, 16, 8 * taps)
    codes = round_balanced(weights, taps, 127)
    errors = codes - weights
    assert float(errors.abs().max()) <= 1.0
    assert float(errors.sum(2).abs().max()) <= 0.5
    kernels = errors.view(3, 16, 8, taps).sum(3)
    assert float(kernels.abs().max()) <= 1.0
    nearest = (weights.round() - weights).sum(2).abs()
    assert float(nearest.max()) > 0.5


def test_balanced_codes_stay_in_the_narrow_range() -> None:
    codes = round_balanced(10 * random(1, 20, 18), 9, 7)
    assert int(codes.min()) == -7
    assert int(codes.max()) == 7
