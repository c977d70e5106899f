"""Choices of bits from measured errors: exact, then by joint effects, then measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from qcompiler.numerics.allocation import Options, allocate, total
from qcompiler.passes.analysis._probe import GroupError, Probe
from qcompiler.runtime.workers import ordered_map

# Exchanges of the local search at most, for each group.
_EXCHANGES = 20


@dataclass(frozen=True)
class Space:
    """The options of all groups: their bits, by group, with errors and costs, and the limits."""

    bits: tuple[tuple[int, ...], ...]
    options: tuple[Options, ...]
    limits: Mapping[str, float]

    def fits(self, chosen: Sequence[int]) -> bool:
        """Says whether all costs of a choice are within their limits."""
        return all(total(self.options, chosen, n) <= limit for n, limit in self.limits.items())

    def filled(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """Returns a choice with bits added wherever the limits leave room, best gain first."""
        current = list(chosen)
        steps = [(i, c) for i, o in enumerate(self.options) for c in range(len(o.errors))]
        steps.sort(key=lambda s: (self._price(current, *s), s))
        for i, place in steps:
            if place > current[i]:
                candidate = [*current[:i], place, *current[i + 1 :]]
                if self.fits(candidate):
                    current = candidate
        return tuple(current)

    def _price(self, chosen: Sequence[int], i: int, place: int) -> float:
        option = self.options[i]
        gain = option.errors[chosen[i]] - option.errors[place]
        more = sum(
            max(option.costs[n][place] - option.costs[n][chosen[i]], 0.0) / limit
            for n, limit in self.limits.items()
        )
        return -gain / max(more, 1e-12)

    def uniform(self) -> tuple[int, ...] | None:
        """Returns the widest choice of equal bits that fits; pinned groups keep theirs."""
        for width in sorted({b for bits in self.bits for b in bits}, reverse=True):
            chosen = [
                bits.index(width) if width in bits else 0 if len(bits) == 1 else -1
                for bits in self.bits
            ]
            if -1 not in chosen and self.fits(chosen):
                return tuple(chosen)
        return None


def exchange(
    space: Space, effects: Sequence[torch.Tensor], chosen: Sequence[int]
) -> tuple[int, ...]:
    """Improves a choice by changing one or two groups at a time, as long as results err less.

    Effects of groups on the results are vectors that add up, so what two groups do in the same
    direction counts, which a sum of errors leaves out.

    Args:
        space: the options.
        effects: of each group, a vector for each option: [options, elements].
        chosen: where to begin.
    """
    sizes = [len(e) for e in effects]
    rows = torch.cat([e.to(torch.float64) for e in effects])
    gram = (rows @ rows.t()).numpy()
    first = np.cumsum([0, *sizes[:-1]])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(owner)) - first[owner]
    names = list(space.limits)
    costs = np.array(
        [[space.options[i].costs[n][c] for i, c in zip(owner, place, strict=True)] for n in names]
    )
    limits = np.array([space.limits[n] for n in names])
    current = np.array([first[i] + c for i, c in enumerate(chosen)])
    for _ in range(_EXCHANGES * len(sizes)):
        ones = current[owner]
        pull = gram[:, current].sum(1)
        # A change of group i from a to b moves the sum by d = e_b - e_a: 2 <sum, d> + <d, d>.
        alone = 2 * (pull - pull[ones]) + gram.diagonal() - 2 * gram[np.arange(len(owner)), ones]
        alone = alone + gram[ones, ones]
        cross = gram - gram[ones] - gram[:, ones] + gram[np.ix_(ones, ones)]
        gain = alone[:, None] + alone[None, :] + 2 * cross
        np.fill_diagonal(gain, alone)
        same = owner[:, None] == owner[None, :]
        gain[same & ~np.eye(len(owner), dtype=bool)] = np.inf
        change = costs - costs[:, ones]
        spent = costs[:, current].sum(1)
        for n in range(len(names)):
            both = change[n][:, None] + change[n][None, :]
            np.fill_diagonal(both, change[n])
            gain[spent[n] + both > limits[n]] = np.inf
        best = int(gain.argmin())
        one, other = divmod(best, len(owner))
        before = gram[np.ix_(current, current)].sum()
        if gain[one, other] >= -1e-6 * before:
            break
        current[owner[one]], current[owner[other]] = one, other
    return tuple(int(place[c]) for c in current)


def joint_error(probe: Probe, bits: Sequence[int]) -> float:
    """Returns the output noise of all groups at their bits, from runs of the whole graph."""
    weights = weights_at(probe, bits)
    nodes = [layer.node for group in probe.groups for layer in group.layers]
    with torch.no_grad():
        _ = probe.reference
        found = list(
            ordered_map(lambda run: run.results(None, weights, 0, nodes), probe.runs, probe.threads)
        )
        return float(probe.effect(found).square().sum())


def weights_at(probe: Probe, bits: Sequence[int]) -> dict[fx.Node, torch.Tensor]:
    """Returns the rounded weights of all groups, by the node that reads each."""
    return {
        node: weight
        for group, width in zip(probe.groups, bits, strict=True)
        for node, weight in probe.weights_at(group, width).items()
    }


def measured_again(probe: Probe, space: Space, chosen: Sequence[int]) -> list[GroupError]:
    """Returns the errors of each group one width up and down, with all others as chosen.

    Options that were not measured have an infinite error.
    """
    bits = [space.bits[i][c] for i, c in enumerate(chosen)]
    weights = weights_at(probe, bits)
    nodes = [layer.node for group in probe.groups for layer in group.layers]
    first = {group.layers[0].node: i for i, group in enumerate(probe.groups)}
    base = joint_error(probe, bits)
    found: dict[int, GroupError] = {}
    with torch.no_grad():
        for points in zip(*(run.walk(weights, nodes) for run in probe.runs), strict=True):
            i = first.get(points[0][0])
            if i is None:
                continue

            def error(place: int, i: int = i, points: Sequence[tuple] = points) -> float:  # type: ignore[type-arg]
                if place == chosen[i]:
                    return base
                if abs(place - chosen[i]) > 1:
                    return float("inf")
                own = {**weights, **probe.weights_at(probe.groups[i], space.bits[i][place])}
                results = [
                    run.results(held, own, start, nodes)
                    for run, (_, held, start) in zip(probe.runs, points, strict=True)
                ]
                return float(probe.effect(results).square().sum())

            places = range(len(space.bits[i]))
            errors = tuple(ordered_map(error, places, probe.threads))
            found[i] = GroupError(errors)
            probe.progress("measuring again at the chosen bits", len(found))
    return [found[i] for i in range(len(probe.groups))]


def allocate_near(
    space: Space, errors: Sequence[GroupError], time_limit: float
) -> tuple[int, ...] | None:
    """Allocates anew from errors around a choice, moving each group by one width at most."""
    kept, near = [], []
    for option, found in zip(space.options, errors, strict=True):
        places = [c for c, e in enumerate(found.errors) if np.isfinite(e)]
        least = min(found.errors[c] for c in places)
        kept.append(places)
        near.append(
            Options(
                tuple(found.errors[c] - least for c in places),
                {n: tuple(v[c] for c in places) for n, v in option.costs.items()},
            )
        )
    solution = allocate(near, space.limits, time_limit)
    if solution is None:
        return None
    return tuple(kept[i][c] for i, c in enumerate(solution.chosen))
