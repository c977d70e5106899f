"""allocate-bits: the bits of each weight, by an exact integer program under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from qcompiler.allocation import AllocatedGroup, Allocation, FrontPoint
from qcompiler.budgets import AverageBits, Fixed, Latency, Size, parse_budget
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import update_quant
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import Spec
from qcompiler.ir.qtypes import Granularity
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.numerics.allocation import Options, allocate, front, least, total
from qcompiler.passes.analysis._groups import DecisionGroup
from qcompiler.passes.analysis._probe import GroupError, Probe
from qcompiler.passes.analysis._state import CACHE
from qcompiler.passes.analysis.measure_sensitivity import WIDTHS, MeasureSensitivity, check_widths
from qcompiler.passes.rewrite._latency import latency_table
from qcompiler.passes.rewrite._refine import (
    Space,
    allocate_near,
    exchange,
    joint_error,
    measured_again,
)
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

_FRONT_POINTS = 17
_KINDS: dict[type, str] = {Size: "bytes", AverageBits: "bits", Latency: "seconds"}


@dataclass(frozen=True)
class AllocateBits(Pass):
    """Gives each weight the bits at which the program errs least within a budget.

    ``budget`` is one or more of a size (``2.6MB``: packed weights, biases, multipliers and shifts),
    average bits (``4.5``) and a latency (``3ms``: by the target's cost model, for one sample on one
    thread). The errors of ``metric``, as measure-sensitivity measures them, are minimized by an
    integer program over groups of weights that are decided together; weights whose bits an override
    asked for keep them. With the metric ``output`` the choice is improved by what groups do to the
    results together, and measured again around it ``rounds`` times. Of these choices, and of the
    widest uniform one with the rest of the budget added, that with the least output noise of all
    groups together is taken.

    Raises:
        QCompilerError: QC0321 for a budget below what the narrowest widths take, QC0322 where
            weights whose bits were asked for leave too little of it, QC0323 for a budget of another
            form, QC0324 for a latency on a target without a cost model.

    Before: ``%w = const`` with no intent
    After: the same with the intent ``spec(4, symmetric=true, granularity=granularity(0))``
    """

    name: ClassVar[str] = "allocate-bits"
    needs: ClassVar[Needs] = Needs(Stage.CALIBRATED, properties=("qparams-assigned",))
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    budget: tuple[str, ...] = ("8",)
    metric: str = "output"
    widths: tuple[int, ...] = WIDTHS
    samples: int = 8
    rounds: int = 1
    time_limit: float = 10.0
    seed: int = 0
    state: str | None = CACHE

    def __post_init__(self) -> None:
        check_widths(self.widths)
        if not self.budget:
            message = "budget is empty"
            raise ValueError(message)
        if self.samples < 1 or self.rounds < 0 or not self.time_limit > 0:
            message = "samples or time_limit is not positive, or rounds is negative"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Measures, chooses, and sets the intent of each weight."""
        budgets = [parse_budget(text) for text in self.budget]
        measure = MeasureSensitivity(self.metric, self.widths, self.samples, self.seed, self.state)
        probe = measure.probe(graph, context)
        if not probe.groups:
            context.notes.append("no weights to allocate bits to")
            return False
        tables, other_seconds = None, 0.0
        if any(isinstance(b, Latency) for b in budgets):
            tables, other_seconds = latency_table(graph, context, probe.groups, self.widths)
        fixed_bytes = _fixed_bytes(graph)
        limits = _limits(budgets, probe.groups, fixed_bytes, other_seconds)
        costs = self._costs(probe.groups, tables)
        self._check(probe.groups, costs, limits, budgets, fixed_bytes, other_seconds)
        errors = measure.measure(probe)
        space = self._space(probe.groups, costs, errors, limits)
        chosen, is_optimal, how, joint = self._choose(probe, space, errors)
        self._apply(probe.groups, space, chosen)
        seconds = None
        if tables is not None:
            seconds = other_seconds + total(space.options, chosen, "seconds")
        allocation = Allocation(
            budget=" and ".join(self.budget),
            metric=self.metric,
            groups=_rows(probe.groups, space, chosen, errors, self.widths),
            front=self._front(space, probe.groups, fixed_bytes, other_seconds),
            bytes=fixed_bytes + round(total(space.options, chosen, "bytes")),
            error=total(space.options, chosen),
            joint_error=joint,
            is_optimal=is_optimal,
            chosen_by=how,
            seconds=seconds,
        )
        context.allocation = allocation
        context.notes.append(
            f"{allocation.average_bits:.3f} bits on average, {allocation.bytes} bytes; {how}"
        )
        context.notes.extend(probe.notes)
        return True

    def _costs(
        self, groups: Sequence[DecisionGroup], tables: Sequence[dict[int, float]] | None
    ) -> list[dict[str, dict[int, float]]]:
        """Returns the costs of each group by kind and bits."""
        found = []
        for i, group in enumerate(groups):
            widths = self._options(group)
            kinds: dict[str, dict[int, float]] = {
                "bytes": {b: float(group.bytes_at(b)) for b in widths},
                "bits": {b: float(b * group.elements) for b in widths},
            }
            if tables is not None:
                kinds["seconds"] = {b: tables[i].get(b, tables[i][self.widths[-1]]) for b in widths}
            found.append(kinds)
        return found

    def _options(self, group: DecisionGroup) -> tuple[int, ...]:
        return self.widths if group.pinned is None else (group.pinned,)

    def _check(
        self,
        groups: Sequence[DecisionGroup],
        costs: Sequence[dict[str, dict[int, float]]],
        limits: dict[str, float],
        budgets: Sequence[Fixed],
        fixed_bytes: int,
        other_seconds: float,
    ) -> None:
        for budget in budgets:
            kind = _KINDS[type(budget)]
            lowest = sum(min(c[kind].values()) for c in costs)
            if lowest <= limits[kind]:
                continue
            extra = {"bytes": fixed_bytes, "bits": 0.0, "seconds": other_seconds}[kind]
            shown = _amount(kind, lowest + extra, groups)
            pinned = [g for g in groups if g.pinned is not None]
            if pinned and kind == "bits":
                free = sum(self.widths[0] * g.elements for g in groups)
            elif pinned and kind == "bytes":
                free = sum(g.bytes_at(self.widths[0]) for g in groups)
            else:
                free = int(lowest)
            if pinned and free <= limits[kind]:
                names = ", ".join(f"{g.name} at {g.pinned} bits" for g in pinned[:4])
                raise QCompilerError(
                    "QC0322",
                    f"the budget {budget} contradicts the overrides {names}"
                    f"{' and others' if len(pinned) > 4 else ''}: they need {shown} at least",
                    remedy=f"raise the budget to {shown}, or take an override back",
                )
            raise QCompilerError(
                "QC0321",
                f"the budget {budget} cannot be met: {shown} is the least achievable",
                remedy=f"raise the budget to {shown}, or allow narrower widths than "
                f"{self.widths[0]} bits",
            )

    def _space(
        self,
        groups: Sequence[DecisionGroup],
        costs: Sequence[dict[str, dict[int, float]]],
        errors: Sequence[GroupError],
        limits: dict[str, float],
    ) -> Space:
        options = []
        for group, cost, found in zip(groups, costs, errors, strict=True):
            known = dict(zip(self.widths, _falling(found.errors), strict=True))
            widths = self._options(group)
            by_kind = {kind: tuple(v[b] for b in widths) for kind, v in cost.items()}
            options.append(Options(tuple(known.get(b, 0.0) for b in widths), by_kind))
        return Space(tuple(self._options(g) for g in groups), tuple(options), limits)

    def _choose(
        self, probe: Probe, space: Space, errors: Sequence[GroupError]
    ) -> tuple[tuple[int, ...], bool, str, float]:
        """Returns the choice, whether the program was solved, how it was found, its joint error."""
        probe.progress("solving the integer program", None)
        solution = allocate(space.options, space.limits, self.time_limit)
        if solution is None:
            raise QCompilerError(
                "QC0321",
                f"no choice meets the budgets {' and '.join(self.budget)} together",
                remedy="raise one of them",
            )
        candidates = {"the integer program": space.filled(solution.chosen)}
        effects = self._effects(probe, space, errors)
        if effects is not None:
            start = candidates["the integer program"]
            candidates["exchanges by joint effects"] = space.filled(exchange(space, effects, start))
        uniform = space.uniform()
        if uniform is not None:
            candidates["uniform bits, and the rest of the budget"] = space.filled(uniform)
        joint = {how: joint_error(probe, _bits(space, c)) for how, c in candidates.items()}
        best = min(joint, key=lambda how: joint[how])
        for _ in range(self.rounds if effects is not None else 0):
            again = measured_again(probe, space, candidates[best])
            near = allocate_near(space, again, self.time_limit)
            if near is None or near == candidates[best]:
                break
            moved = space.filled(near)
            error = joint_error(probe, _bits(space, moved))
            if error >= joint[best]:
                break
            best = "measuring again at the chosen bits"
            candidates[best], joint[best] = moved, error
        return candidates[best], solution.is_optimal, best, joint[best]

    def _effects(
        self, probe: Probe, space: Space, errors: Sequence[GroupError]
    ) -> list[torch.Tensor] | None:
        """Returns the effects of each group's options, None where the metric has none."""
        found = []
        for group, bits, error in zip(probe.groups, space.bits, errors, strict=True):
            if error.effects is None:
                return None
            if group.pinned is None:
                found.append(error.effects)
            elif bits[0] in self.widths:
                found.append(error.effects[[self.widths.index(bits[0])]])
            else:
                found.append(error.effects[:1] * 0)
        return found

    def _apply(self, groups: Sequence[DecisionGroup], space: Space, chosen: Sequence[int]) -> None:
        for group, bits, place in zip(groups, space.bits, chosen, strict=True):
            for layer in group.layers:
                if group.pinned is None:
                    granularity = Granularity(layer.axis, layer.group)
                    asked = Spec(bits[place], symmetric=True, granularity=granularity)
                    update_quant(layer.weight, intent=asked, why=f"allocated {bits[place]} bits")

    def _front(
        self,
        space: Space,
        groups: Sequence[DecisionGroup],
        fixed_bytes: int,
        other_seconds: float,
    ) -> tuple[FrontPoint, ...]:
        options = space.options
        low = least(options, "bytes")
        high = sum(max(o.costs["bytes"]) for o in options)
        limits = np.linspace(low, high, _FRONT_POINTS).tolist()
        points = []
        elements = sum(g.elements for g in groups)
        for size, solution in front(options, "bytes", [*limits[:-1], high], self.time_limit):
            chosen = solution.chosen
            seconds = None
            if "seconds" in options[0].costs:
                seconds = other_seconds + total(options, chosen, "seconds")
            average = total(options, chosen, "bits") / max(elements, 1)
            bits = _bits(space, chosen)
            points.append(
                FrontPoint(fixed_bytes + round(size), average, solution.error, bits, seconds)
            )
        return tuple(points)

    def at(self, budget: Fixed) -> AllocateBits:
        """Returns the pass with another budget."""
        return replace(self, budget=(str(budget),))


def _bits(space: Space, chosen: Sequence[int]) -> tuple[int, ...]:
    return tuple(bits[c] for bits, c in zip(space.bits, chosen, strict=True))


def _falling(errors: Sequence[float]) -> list[float]:
    """Returns errors that do not rise with the width: each is at least those of wider ones."""
    found = list(errors)
    for i in range(len(found) - 2, -1, -1):
        found[i] = max(found[i], found[i + 1])
    return found


def _limits(
    budgets: Sequence[Fixed], groups: Sequence[DecisionGroup], fixed_bytes: int, seconds: float
) -> dict[str, float]:
    elements = sum(g.elements for g in groups)
    found: dict[str, float] = {}
    for budget in budgets:
        amount = float(budget.limit)
        kind = _KINDS[type(budget)]
        limit = {
            "bytes": amount - fixed_bytes,
            "bits": amount * elements,
            "seconds": amount - seconds,
        }[kind]
        found[kind] = min(limit, found.get(kind, limit))
    return found


def _amount(kind: str, value: float, groups: Sequence[DecisionGroup]) -> str:
    """Returns a cost as a budget's text, rounded up."""
    if kind == "bytes":
        return f"{int(np.ceil(value))}B"
    if kind == "bits":
        return f"{np.ceil(value / max(sum(g.elements for g in groups), 1) * 1e4) / 1e4:g}"
    return f"{np.ceil(value * 1e7) / 1e4:g}ms"


def _fixed_bytes(graph: QGraph) -> int:
    """Returns the bytes of the constants of float islands, which keep their form."""
    names = {
        str(used.target): graph.constant(used)
        for node in graph.calls
        if is_island(node)
        for used in node.all_input_nodes
        if used.op == "get_attr"
    }
    return sum(t.numel() * t.element_size() for t in names.values())


def _rows(
    groups: Sequence[DecisionGroup],
    space: Space,
    chosen: Sequence[int],
    errors: Sequence[GroupError],
    widths: Sequence[int],
) -> tuple[AllocatedGroup, ...]:
    rows = []
    for group, bits, place, found in zip(groups, space.bits, chosen, errors, strict=True):
        by_bits = dict(zip(widths, found.errors, strict=True))
        width = bits[place]
        layers = tuple(layer.module for layer in group.layers)
        why = _why(group, width, by_bits, widths)
        rows.append(
            AllocatedGroup(
                group.name, layers, width, group.elements, group.bytes_at(width), by_bits, why
            )
        )
    return tuple(rows)


def _why(group: DecisionGroup, width: int, errors: dict[int, float], widths: Sequence[int]) -> str:
    if group.pinned is not None:
        return "asked for"
    narrower = max((b for b in widths if b < width), default=None)
    wider = min((b for b in widths if b > width), default=None)
    parts = []
    if narrower is not None:
        saved = group.bytes_at(width) - group.bytes_at(narrower)
        parts.append(
            f"{narrower} bits: error +{errors[narrower] - errors[width]:.1e} for -{saved} B"
        )
    if wider is not None:
        more = group.bytes_at(wider) - group.bytes_at(width)
        parts.append(f"{wider} bits: error {errors[wider] - errors[width]:+.1e} for +{more} B")
    tied = f"{len(group.layers)} layers share it; " if len(group.layers) > 1 else ""
    return tied + "; ".join(parts)
