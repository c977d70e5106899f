"""Group-wise weights with two levels of integer scales.

A channel has one real scale s, and each run of ``group`` weights along its inputs, the last one
maybe shorter, an integer factor f: a weight is code * f * s. The integer weight code * f fits int8,
so a layer stays one int8 product with one multiplier per channel (integer semantics 6; the two
levels are those of QServe, arXiv 2405.04532, without its zero points).
"""

from __future__ import annotations

import torch

from qcompiler.numerics.rounding import MIN_CHANNEL_RATIO, WeightMethod, integer_limits

LARGEST = 127
"""Largest magnitude of an integer weight."""

# Clipping ratios of a group's largest weight among which mse chooses, at the least of which two
# bits still hold the tails of a normal distribution.
_RATIOS = tuple(1.0 - 0.05 * step for step in range(15))
# Weights whose errors are measured at a time: they stay in the cache.
_BLOCK = 1 << 16


def largest_factor(num_bits: int) -> int:
    """Returns the largest factor of a group, such that its codes times that fit int8."""
    return LARGEST // integer_limits(num_bits, narrow=True)[1]


def group_count(inputs: int, group: int) -> int:
    """Returns the number of groups of a channel; the last one may be shorter than the others."""
    return -(-inputs // group)


def spread_factors(factors: torch.Tensor, group: int, inputs: int) -> torch.Tensor:
    """Returns the factor of each weight [C, K] from those of the groups [C, ceil(K / group)]."""
    return factors.repeat_interleave(group, dim=1)[:, :inputs]


def group_scales(
    weight: torch.Tensor, group: int, num_bits: int, method: WeightMethod = "minmax"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the float64 scale of each channel [C] and the factors of its groups [C, G] as int16.

    The group with the largest scale of its channel gets the largest factor. Method minmax takes
    the least factor that covers a group's largest weight, mse the factor with the least squared
    error of the group. Channels below 2**-16 of the largest scale are raised to it, and a weight
    that is zero throughout has scales of 1, as those of ``weight_scales`` do.

    Args:
        weight: channels and their inputs, [C, K].
        group: number of neighbouring inputs that share a factor.
        num_bits: width of the codes, which are symmetric and narrow.
        method: minmax or mse.
    """
    rows = _grouped(weight.detach().to(torch.float64), group)
    limit, most = integer_limits(num_bits, narrow=True)[1], largest_factor(num_bits)
    wanted = rows.abs().amax(2) / limit
    if method == "mse":
        wanted = wanted * _best_ratios(rows, wanted, limit)
    scale = wanted.amax(1) / most
    if not bool(scale.any()):
        return torch.ones_like(scale), torch.ones_like(wanted, dtype=torch.int16)
    scale = scale.clamp(min=float(scale.max()) * MIN_CHANNEL_RATIO)
    exact = wanted / scale[:, None]
    if method == "minmax":
        # Less than a part of 2**40 over a whole number is rounding of the division.
        return scale, (exact - 2.0**-40).ceil().clamp(1, most).to(torch.int16)
    low = exact.floor().clamp(1, most)
    high = (low + 1).clamp(max=most)
    errors = [_errors(rows, f * scale[:, None], limit) for f in (low, high)]
    return scale, torch.where(errors[1] < errors[0], high, low).to(torch.int16)


def _grouped(weight: torch.Tensor, group: int) -> torch.Tensor:
    """Returns weights [C, K] as [C, G, group], with zeros behind a last group that is shorter."""
    channels, inputs = weight.shape
    missing = group_count(inputs, group) * group - inputs
    return torch.nn.functional.pad(weight, (0, missing)).view(channels, -1, group)


def _best_ratios(rows: torch.Tensor, wanted: torch.Tensor, limit: int) -> torch.Tensor:
    """Returns the ratio of each group's scale that has the least squared error."""
    least, best = torch.full_like(wanted, torch.inf), torch.ones_like(wanted)
    for ratio in _RATIOS:
        errors = _errors(rows, wanted * ratio, limit)
        better = errors < least
        least, best = torch.where(better, errors, least), torch.where(better, ratio, best)
    return best


def _errors(rows: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
    """Returns the squared error of each group at a scale of its own, [C, G]."""
    step = max(1, _BLOCK // rows[0].numel())
    usable = torch.where(scales > 0, scales, 1.0)
    parts = [
        _squared_error(*part, limit)
        for part in zip(rows.split(step), usable.split(step), strict=True)
    ]
    return torch.cat(parts)


def _squared_error(rows: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
    codes = torch.round(rows / scales[:, :, None]).clamp_(-limit, limit)
    return codes.mul_(scales[:, :, None]).sub_(rows).square_().sum(2)
