"""The arena of a program on one thread: values where the plan puts them, scratch memory around.

An operator needs its scratch memory at its own step only, so that lies in what the values of the
step leave free: in a gap between them, or behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from qcompiler.backends.native.emitter import Description, Plan
from qcompiler.backends.native.values import SLACK
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import Dim, evaluate_dim, simplify_dim, symbol
from qcompiler.runtime.memory import align, is_at_least, largest


@dataclass(frozen=True)
class Part:
    """Bytes of the arena at one step: a value, or an operator's scratch memory.

    ``node`` is the call that computes the value, or whose scratch memory it is.
    """

    node: str
    place: Dim
    size: Dim
    is_scratch: bool = False

    @property
    def end(self) -> Dim:
        """The first byte behind it."""
        return simplify_dim(self.place + self.size)


@dataclass(frozen=True)
class Step:
    """What the arena holds while one operator runs; its scratch memory is last, if it has any."""

    node: str
    parts: tuple[Part, ...]

    @property
    def scratch(self) -> Dim:
        """Where its scratch memory is; 0 without any."""
        return next((part.place for part in self.parts if part.is_scratch), 0)


@dataclass(frozen=True)
class Arena:
    """The arena's bytes, and what is where at each step; ``symbols`` are those of its sizes."""

    steps: tuple[Step, ...]
    size: Dim

    def bytes(self, sizes: Mapping[str, int]) -> int:
        """Returns the bytes of the arena for values of the symbols, as model_arena_bytes does."""
        return evaluate_dim(self.size, sizes)

    def peak(self, sizes: Mapping[str, int]) -> Step | None:
        """Returns the step that reaches highest, of several the fullest; None without any value."""

        def reach(step: Step) -> tuple[int, int]:
            ends = [evaluate_dim(part.end, sizes) for part in step.parts]
            return max(ends, default=0), sum(evaluate_dim(p.size, sizes) for p in step.parts)

        return max(self.steps, key=reach, default=None)


def find_arena(graph: QGraph, plan: Plan, described: Description) -> Arena:
    """Returns where operators have their scratch memory, and the bytes of all.

    Samples of a batch that no operator mixes run one by one: for those, sizes are of one sample.

    Args:
        graph: the program.
        plan: places of its values.
        described: the program as it is emitted with that plan.
    """
    batch = described.values["batch"]
    one = {} if batch is None else {list(graph.symbols)[batch["position"]]: 1}
    values = _Values(graph, plan, one)
    lows = {name: span.low for name, span in graph.symbols.items()}
    steps = []
    for node, scratch in zip(graph.calls, described.scratch, strict=True):
        alive = values.at(node)
        size = _with_sizes(scratch, one)
        if size != 0:
            alive.append(Part(node.name, _free_place(size, alive, lows), size, is_scratch=True))
        steps.append(Step(node.name, tuple(alive)))
    ends = [part.end for step in steps for part in step.parts]
    return Arena(tuple(steps), simplify_dim(largest(ends) + SLACK))


def _free_place(size: Dim, taken: Sequence[Part], lows: Mapping[str, int]) -> Dim:
    """Returns the lowest place that is free for every value of the symbols, as far as is proven."""
    for place in sorted({0, *(part.end for part in taken)}, key=lambda p: evaluate_dim(p, lows)):
        if all(
            is_at_least(place, part.end) or is_at_least(part.place, simplify_dim(place + size))
            for part in taken
        ):
            return place
    return largest([part.end for part in taken])


class _Values:
    """The values in the arena; of those in the same memory the last one stands for all."""

    def __init__(self, graph: QGraph, plan: Plan, sizes: Mapping[str, int]) -> None:
        self._step = {node: position for position, node in enumerate(graph.nodes)}
        outside = {*graph.results, *graph.inputs}
        self._parts: dict[fx.Node, Part] = {}
        for node in graph.calls:
            if node not in outside and node.name in plan.offsets:
                place = _with_sizes(plan.offsets[node.name], sizes)
                size = _with_sizes(align(type_of(node).nbytes()), sizes)
                self._parts[node] = Part(node.name, place, size)

    def at(self, node: fx.Node) -> list[Part]:
        """Returns the values alive while a call runs: its own, and those that it or others read."""
        step = self._step[node]
        alive = {
            part.place: part
            for value, part in self._parts.items()
            if self._step[value] <= step <= self._last_use(value) and part.size != 0
        }
        return list(alive.values())

    def _last_use(self, node: fx.Node) -> int:
        return max(map(self._step.__getitem__, node.users), default=self._step[node])


def _with_sizes(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    """Returns a dimension with numbers in the place of some symbols."""
    if isinstance(dim, int) or not sizes:
        return dim
    return simplify_dim(dim.subs({symbol(name): size for name, size in sizes.items()}))
