"""Where the values of a program lie: in inputs, in results, or at an offset of the arena."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import fx

from qcompiler.backends.native.emit_movement import is_view
from qcompiler.backends.native.emitter import Plan
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import evaluate_dim

Kind = Literal["input", "output", "constant", "arena"]


class Places:
    """The places of a graph's values for given sizes, as its memory plan has them."""

    def __init__(self, graph: QGraph, plan: Plan, sizes: Mapping[str, int]) -> None:
        self._plan = plan
        self._sizes = dict(sizes)
        self._inputs = {node.name: i for i, node in enumerate(graph.inputs)}
        self._constants = {node.name for node in graph.nodes if node.op == "get_attr"}
        self._outputs: dict[str, int] = {}
        for i, node in enumerate(graph.results):
            if node.op == "call_function":
                self._outputs.setdefault(node.name, i)
        self.arena_bytes = int(evaluate_dim(plan.size, sizes))
        results = enumerate(graph.results)
        self.copies = [(i, node) for i, node in results if self._outputs.get(node.name) != i]
        """Results that no launch writes: those that are values of others."""

    def of(self, node: str) -> tuple[Kind, int]:
        """Returns ``("input", i)``, ``("output", i)`` or ``("arena", offset)`` of a value."""
        if node in self._inputs:
            return "input", self._inputs[node]
        if node in self._outputs:
            return "output", self._outputs[node]
        if node in self._constants:
            return "constant", 0
        if node in self._plan.aliases:
            return self.of(self._plan.aliases[node])
        return "arena", int(evaluate_dim(self._plan.offsets[node], self._sizes))

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call's result is where its operand is, so that nothing is to be done."""
        return is_view(node) and self.of(node.name) == self.of(node.all_input_nodes[0].name)
