"""Rounding of weights that looks at more than one weight at a time.

Weights come as ``weights[g, r, k]``, real numbers in units of their scale: group g, output channel
r of the group, input k of the group. A plain layer has one group, a depthwise one a group for each
channel. Everything is computed in float64.
"""

from __future__ import annotations

import torch


def round_with_feedback(
    weights: torch.Tensor,
    moments: torch.Tensor,
    limit: int,
    damping: float = 0.01,
    block: int = 32,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rounds weight by weight and lets those still to come make up for each rounding error.

    The errors of the weights before it move each weight to where the results' squared error is
    least (GPTQ; Frantar et al., arXiv 2210.17323). Weights come in descending order of their
    inputs' power. Inputs that are always zero take no part: their weights are rounded to nearest.

    Args:
        weights: [G, R, K], in units of the scale.
        moments: [G, K, K], second moments of the K inputs of each group, not centred.
        limit: largest magnitude of a code.
        damping: what is added to the diagonal of the moments, as a part of its mean.
        block: number of weights between two updates of all later ones.
        steps: [G, R, K], what one more of a code adds to each weight; None for 1 (static groups:
            the factors of groups stay those that were chosen before).

    Returns:
        int8 [G, R, K], codes in [-limit, limit] times the steps.
    """
    power = moments.diagonal(dim1=1, dim2=2)
    order = power.argsort(dim=1, descending=True, stable=True)
    gains = _gains(moments, order, damping)
    inputs_first = weights.transpose(1, 2)
    index = order[:, :, None].expand_as(inputs_first)
    real = inputs_first.gather(1, index)
    moved, codes = real.clone(), torch.empty_like(real)
    if steps is not None:
        steps = steps.to(real.dtype).transpose(1, 2).gather(1, index)
    count = real.shape[1]
    for start in range(0, count, block):
        stop = min(start + block, count)
        errors = torch.empty_like(real[:, start:stop])
        for k in range(start, stop):
            error = errors[:, k - start]
            if steps is None:
                torch.round(moved[:, k], out=codes[:, k]).clamp_(-limit, limit)
            else:
                torch.round(moved[:, k] / steps[:, k], out=codes[:, k]).clamp_(-limit, limit)
                codes[:, k].mul_(steps[:, k])
            torch.sub(real[:, k], codes[:, k], out=error)
            moved[:, k + 1 : stop].addcmul_(gains[:, k + 1 : stop, k, None], error[:, None])
        moved[:, stop:].baddbmm_(gains[:, stop:, start:stop], errors)
    found = torch.empty_like(codes).scatter_(1, index, codes)
    return found.transpose(1, 2).to(torch.int8).contiguous()


def _gains(moments: torch.Tensor, order: torch.Tensor, damping: float) -> torch.Tensor:
    """Returns how far the error of weight j moves weight k > j, at [k, j], in an order.

    With H the damped moments in that order, P the reversal and P H P = L L^T, the squared error
    e^T H e of errors e is the sum of (L^T P e)_i^2, and the term of weight k has errors of no later
    one: it vanishes for e_k = -sum of gains[k, j] e_j. That is the same as to go along the Cholesky
    factor of the inverse of H, which is never formed.
    """
    reversed_order = order.flip(1)
    groups = torch.arange(len(order))[:, None, None]
    damped = moments[groups, reversed_order[:, :, None], reversed_order[:, None, :]]
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal += torch.where(diagonal == 0, 1.0, damping * diagonal.mean(1, keepdim=True))
    lower: torch.Tensor = torch.linalg.cholesky(damped)
    lower /= lower.diagonal(dim1=1, dim2=2)[:, None, :].clone()
    return lower.flip(1, 2).transpose(1, 2)


def round_balanced(weights: torch.Tensor, taps: int, limit: int) -> torch.Tensor:
    """Rounds up or down such that the rounding errors of each kernel and channel nearly cancel.

    From nearest rounding, the weights of a kernel with the largest errors go the other way until
    its errors sum to at most half a step; then one weight each of the kernels with the largest
    sums, until those of the output channel do (SQuant; Guo et al., arXiv 2202.07471). That is best
    for inputs that are all alike, and needs no data.

    Args:
        weights: [G, R, K], in units of the scale.
        taps: number of weights of a kernel, which are neighbours along K.
        limit: largest magnitude of a code.

    Returns:
        int8 codes [G, R, K] in [-limit, limit].
    """
    groups, rows, inputs = weights.shape
    kernels = weights.clamp(-limit, limit).view(groups, rows, inputs // taps, taps)
    codes = kernels.round()
    errors = codes - kernels
    flips = _largest(errors, errors.sum(-1))
    codes -= flips
    errors -= flips
    sums = errors.sum(-1)
    chosen = _largest(sums, sums.sum(-1))
    worst = (errors * chosen[..., None]).argmax(-1, keepdim=True)
    codes.scatter_add_(-1, worst, -chosen[..., None])
    return codes.flatten(2).to(torch.int8)


def _largest(errors: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Returns steps of ±1 at the errors to be flipped along the last axis, elsewhere 0.

    As many are flipped as ``total`` has whole steps, those with the largest error of its sign.
    """
    sign = total.sign()[..., None]
    order = (errors * sign).argsort(dim=-1, descending=True, stable=True)
    positions = torch.arange(errors.shape[-1]).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, positions)
    return torch.where(rank < total.abs().round()[..., None], sign, 0.0)
