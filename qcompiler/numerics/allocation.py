"""Exact allocation: one choice for each group, least total error, within limits on total costs.

This is the multiple-choice knapsack problem with one or more limits, solved as an integer program
by HiGHS (Huangfu and Hall, Math. Prog. Comp. 2018; bits by integer programs: HAWQ-V3, Yao et al.,
arXiv 2011.10680).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

# Errors are measured to fewer digits than that; it is the gap at which a solution is optimal.
RELATIVE_GAP = 1e-6
# HiGHS stops at an absolute gap of 1e-6 whatever it is told; totals are scaled to this size.
_TOTAL = 1e6
# It allows rows to exceed by an absolute 1e-6, too: of limits of this size that is little, and
# rounding of the shares of options stays below it.
_LIMIT = 1e3
_SOLVED, _OUT_OF_TIME = 0, 1
# Errors beyond that many known totals count as that many: HiGHS takes large ones as infinite.
_WORST = 1e3
# The share of a limit that is given up where the solver's rounding takes more than the limit.
_TOLERANCE = 2e-9

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What one group may choose from: the error and the costs of each of its options.

    ``costs`` has one sequence for each kind of cost, as long as ``errors``.
    """

    errors: tuple[float, ...]
    costs: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Solution:
    """The options chosen, one place per group, with their total error and a proven lower bound.

    ``is_optimal`` says that the error is within one part in a million of the bound.
    """

    chosen: tuple[int, ...]
    error: float
    bound: float
    is_optimal: bool


def total(groups: Sequence[Options], chosen: Sequence[int], cost: str | None = None) -> float:
    """Returns the total error of chosen options, or the total of a cost."""
    if cost is None:
        return float(sum(g.errors[c] for g, c in zip(groups, chosen, strict=True)))
    return float(sum(g.costs[cost][c] for g, c in zip(groups, chosen, strict=True)))


def least(groups: Sequence[Options], cost: str) -> float:
    """Returns the least total of a cost that any choice has."""
    return float(sum(min(g.costs[cost]) for g in groups))


def allocate(
    groups: Sequence[Options], limits: Mapping[str, float], time_limit: float = 10.0
) -> Solution | None:
    """Chooses an option for each group with the least total error, each cost within its limit.

    Args:
        groups: each has at least one option; errors are finite and at least 0.
        limits: largest total of each kind of cost named.
        time_limit: seconds; when they are over, the best choice found is returned.

    Returns:
        The choice, or None when no choice is within all limits.
    """
    if any(least(groups, name) > limit for name, limit in limits.items()):
        return None
    if not groups:
        return Solution((), 0.0, 0.0, True)
    kept = [_undominated(g, limits) for g in groups]
    known = _cheapest(groups, kept, limits)
    start = time.monotonic()
    unit = None if known is None else known.error
    found = _better(_solve(groups, kept, limits, time_limit, unit), known)
    left = time_limit - (time.monotonic() - start)
    if found is None or found.is_optimal or left <= 0:
        return found
    # What errs more than all of a known choice is in no better one: totals become comparable.
    narrowed = [
        [c for c in places if g.errors[c] <= found.error * (1 + RELATIVE_GAP)]
        for g, places in zip(groups, kept, strict=True)
    ]
    return _better(_solve(groups, narrowed, limits, left, found.error), found)


def _better(one: Solution | None, other: Solution | None) -> Solution | None:
    """Returns the solution of less error, with the higher of the bounds."""
    if one is None or other is None:
        return one or other
    best = one if one.error <= other.error else other
    bound = min(max(one.bound, other.bound), best.error)  # proven but for rounding
    return Solution(best.chosen, best.error, bound, _is_closed(best.error, bound))


def _is_closed(error: float, bound: float) -> bool:
    return error - bound <= RELATIVE_GAP * max(error, 1e-300)


def _undominated(group: Options, limits: Mapping[str, float]) -> list[int]:
    """Returns the options that no other one beats or equals in error and in every cost."""
    rows = [(e, *(group.costs[name][c] for name in limits), c) for c, e in enumerate(group.errors)]
    kept: list[tuple[float, ...]] = []
    for row in sorted(rows):
        if not any(all(a <= b for a, b in zip(k[1:-1], row[1:-1], strict=True)) for k in kept):
            kept.append(row)
    return sorted(int(row[-1]) for row in kept)


def _cheapest(
    groups: Sequence[Options], kept: Sequence[Sequence[int]], limits: Mapping[str, float]
) -> Solution | None:
    """Returns a choice from the cheapest options on, by gain of error per cost, if it fits."""
    chosen = [
        min(places, key=lambda c: (sum(g.costs[n][c] / max(limits[n], 1e-300) for n in limits), c))
        for g, places in zip(groups, kept, strict=True)
    ]
    spent = {n: total(groups, chosen, n) for n in limits}
    if any(spent[n] > limits[n] for n in limits):
        return None
    steps = sorted(
        (-gain, i, c)
        for i, (g, places) in enumerate(zip(groups, kept, strict=True))
        for c in places
        if (gain := _gain(g, chosen[i], c, limits)) > 0
    )
    for _, i, c in steps:
        group = groups[i]
        if group.errors[c] >= group.errors[chosen[i]]:
            continue
        after = {n: spent[n] + group.costs[n][c] - group.costs[n][chosen[i]] for n in limits}
        if all(after[n] <= limits[n] for n in limits):
            chosen[i], spent = c, after
    if any(total(groups, chosen, n) > limits[n] for n in limits):
        return None
    return Solution(tuple(chosen), total(groups, chosen), 0.0, False)


def _gain(group: Options, old: int, new: int, limits: Mapping[str, float]) -> float:
    more = sum(
        max(group.costs[n][new] - group.costs[n][old], 0.0) / max(limits[n], 1e-300) for n in limits
    )
    return (group.errors[old] - group.errors[new]) / max(more, 1e-300)


def _solve(
    groups: Sequence[Options],
    kept: Sequence[Sequence[int]],
    limits: Mapping[str, float],
    time_limit: float,
    known: float | None,
    tolerance: float = 0.0,
) -> Solution | None:
    """Solves over the kept options; totals of error are scaled by a known one.

    Where rounding lets HiGHS exceed a limit, it solves again for slightly lower ones.
    """
    pairs = [(i, c) for i, places in enumerate(kept) for c in places]
    errors = np.array([groups[i].errors[c] for i, c in pairs])
    unit = known if known is not None and known > 0 else float(errors.max(initial=0.0))
    unit = unit or 1.0
    errors = np.minimum(errors, unit * _WORST)  # more than the known total is never chosen
    count = len(pairs)
    owners = np.array([i for i, _ in pairs])
    one_each = csr_array((np.ones(count), (owners, np.arange(count))), (len(groups), count))
    constraints = [LinearConstraint(one_each, 1.0, 1.0)]
    for name, limit in limits.items():
        costs = np.array([groups[i].costs[name][c] for i, c in pairs])
        row = costs[None, :] * (_LIMIT / limit if limit > 0 else 1.0)
        most = _LIMIT * (1 - tolerance) if limit > 0 else 0.0
        constraints.append(LinearConstraint(row, -np.inf, most))
    result = milp(
        errors / unit * _TOTAL,
        integrality=np.ones(count, dtype=np.int64),
        bounds=Bounds(0.0, 1.0),
        constraints=constraints,
        options={"time_limit": time_limit, "mip_rel_gap": RELATIVE_GAP},
    )
    if result.x is None or result.status not in (_SOLVED, _OUT_OF_TIME):
        return None
    chosen = [-1] * len(groups)
    weight = [-1.0] * len(groups)
    for (i, c), share in zip(pairs, result.x, strict=True):
        if share > weight[i]:
            chosen[i], weight[i] = c, share
    if any(total(groups, chosen, n) > limit for n, limit in limits.items()):
        return None if tolerance else _solve(groups, kept, limits, time_limit, known, _TOLERANCE)
    error = total(groups, chosen)
    dual = result.get("mip_dual_bound")
    dual = -np.inf if dual is None else dual
    bound = 0.0 if not np.isfinite(dual) else float(dual) * unit / _TOTAL
    closed = result.status == _SOLVED or _is_closed(error, bound)
    return Solution(tuple(chosen), error, min(bound, error), closed)


def front(
    groups: Sequence[Options], cost: str, limits: Sequence[float], time_limit: float = 10.0
) -> Iterator[tuple[float, Solution]]:
    """Yields the Pareto front: for each limit on a cost, the least error, each choice once.

    Args:
        groups: as of ``allocate``.
        cost: the kind of cost that is limited.
        limits: from which choices are computed.
        time_limit: seconds for all of them.
    """
    seen: set[tuple[int, ...]] = set()
    end = time.monotonic() + time_limit
    for place, limit in enumerate(limits):
        left = (end - time.monotonic()) / (len(limits) - place)
        solution = allocate(groups, {cost: limit}, max(left, 0.05))
        if solution is not None and solution.chosen not in seen:
            seen.add(solution.chosen)
            yield total(groups, solution.chosen, cost), solution
