"""Liveness: when each value of a program is needed, and which values may lie in the same memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments, map_nodes
from qcompiler.runtime.memory import Lifetime, MemoryPlan, plan_memory

if TYPE_CHECKING:
    from qcompiler.target.base import Target


@dataclass(frozen=True)
class Buffer:
    """Values in the same memory of the arena, from the first one's step to the last use."""

    values: tuple[str, ...]
    lifetime: Lifetime


@dataclass(frozen=True)
class Liveness:
    """The buffers of a program; ``aliases`` as in a memory plan, for the values outside of them.

    ``views`` counts the values that are their operand's bytes, ``in_place`` those that overwrite
    an operand.
    """

    buffers: tuple[Buffer, ...]
    aliases: Mapping[str, str]
    views: int
    in_place: int

    def plan(
        self, example: Mapping[str, int], others: Sequence[Mapping[str, int]] = ()
    ) -> MemoryPlan:
        """Places the buffers; the arguments are those of ``plan_memory``."""
        plan = plan_memory([b.lifetime for b in self.buffers], example, others)
        offsets = {
            value: plan.offsets[buffer.lifetime.name]
            for buffer in self.buffers
            for value in buffer.values
        }
        return replace(plan, offsets=offsets, aliases=self.aliases)


def find_liveness(graph: QGraph, target: Target | None) -> Liveness:
    """Returns which values of a program share memory, and for how long.

    A view has the memory of its operand, for the time of both. A call writes over an operand where
    the target can do so and nothing reads the operand, or what shares its memory, at a later step
    or as another argument. Inputs, constants and results have memory of their own: a value that a
    result is a view of is computed there, and no call writes over any of them.
    """
    sharing = _Sharing(graph)
    views = in_place = 0
    if target is not None:
        views = sum(sharing.add_view(node) for node in graph.calls if target.is_view(node))
        for node in graph.calls:
            in_place += any(sharing.add_in_place(node, name) for name in target.in_place(node))
    return Liveness(sharing.buffers(), sharing.aliases(), views, in_place)


class _Sharing:
    """Values as a graph whose edges join those in the same memory."""

    def __init__(self, graph: QGraph) -> None:
        self._step = {node: position for position, node in enumerate(graph.nodes)}
        self._fixed = {*graph.inputs, *graph.results}
        self._values: nx.Graph[fx.Node] = nx.Graph()
        self._values.add_nodes_from((*graph.inputs, *graph.calls))

    def add_view(self, node: fx.Node) -> bool:
        """Joins a call with its first operand, unless each has a place outside of the arena."""
        operand = node.args[0]
        if not isinstance(operand, fx.Node) or operand not in self._values:
            return False
        if self._is_fixed(self._group(operand)) and self._is_fixed(self._group(node)):
            return False
        self._values.add_edge(operand, node)
        return True

    def add_in_place(self, node: fx.Node, name: str) -> bool:
        """Joins a call with the operand of an argument, where it may write over that."""
        operand = arguments(node)[name]
        if operand not in self._values:
            return False
        group = self._group(operand)
        if self._is_fixed(group) or self._is_fixed(self._group(node)):
            return False
        if max(map(self._last_use, group)) > self._step[node]:
            return False
        others = (value for other, value in arguments(node).items() if other != name)
        read: list[fx.Node] = []
        for value in others:
            map_nodes(value, read.append)
        if not group.isdisjoint(read):
            return False
        self._values.add_edge(operand, node)
        return True

    def buffers(self) -> tuple[Buffer, ...]:
        """Returns the values in the arena by the memory that they share, in order of time."""
        found = []
        for group in map(self._in_order, nx.connected_components(self._values)):
            if not self._is_fixed(group):
                names = tuple(node.name for node in group)
                size, start = type_of(group[0]).nbytes(), self._step[group[0]]
                end = max(map(self._last_use, group))
                found.append(Buffer(names, Lifetime(names[0], size, start, end)))
        return tuple(sorted(found, key=lambda buffer: buffer.lifetime.start))

    def aliases(self) -> dict[str, str]:
        """Returns the values in memory of an input or result, with the name of that one."""
        found: dict[str, str] = {}
        for group in map(self._in_order, nx.connected_components(self._values)):
            for owner in self._fixed.intersection(group):
                found |= {node.name: owner.name for node in group if node is not owner}
        return dict(sorted(found.items()))

    def _group(self, node: fx.Node) -> set[fx.Node]:
        return nx.node_connected_component(self._values, node)

    def _in_order(self, group: Iterable[fx.Node]) -> list[fx.Node]:
        return sorted(group, key=self._step.__getitem__)

    def _is_fixed(self, group: Iterable[fx.Node]) -> bool:
        """Says whether values have a place outside of the arena."""
        return not self._fixed.isdisjoint(group)

    def _last_use(self, node: fx.Node) -> int:
        return max(map(self._step.__getitem__, node.users), default=self._step[node])
