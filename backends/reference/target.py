"""The reference interpreter as a target: every operator by its definition, in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.graph import QGraph
from qcompiler.ir.integer_ops import INTEGER_OPS, integer_op_of
from qcompiler.runtime.interpreter import evaluate
from qcompiler.target.base import Executable, OpSupport, Target


class ReferenceExecutable(Executable):
    """Runs a graph operator by operator with the definitions; the oracle of every other backend."""

    def __init__(self, graph: QGraph) -> None:
        self._graph = graph

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results; the number of threads changes nothing."""
        return list(self._graph.run(*inputs))

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result by its definition."""
        return evaluate(self._graph, self._graph.node(node), operands)

    def files(self) -> dict[str, bytes]:
        """Returns nothing: the graph is the program."""
        return {}

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats."""
        least: dict[str, float] = {}
        for _ in range(repeats):
            before = perf_counter()
            for node, _ in self._graph.trace(*inputs):
                now = perf_counter()
                spent = (now - before) * 1e6
                least[node.name] = min(spent, least.get(node.name, spent))
                before = now
        return least


@dataclass(frozen=True)
class ReferenceTarget(Target):
    """The interpreter that defines the arithmetic; slow, exact, and without a compiler."""

    name: ClassVar[str] = "reference"
    summary: ClassVar[str] = "the interpreter that defines the arithmetic, in torch"
    ops: ClassVar[tuple[OpSupport, ...]] = tuple(OpSupport(o.name) for o in INTEGER_OPS.values())

    def why_not(self, node: fx.Node) -> str | None:
        """Returns None for every operator with an integer definition, also of other packages."""
        return None if integer_op_of(node.target) else f"{node.target} has no integer definition"

    def build(self, graph: QGraph) -> ReferenceExecutable:
        """Wraps the graph; nothing is compiled."""
        return ReferenceExecutable(graph)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> ReferenceExecutable:
        """Wraps the graph of an artifact."""
        return ReferenceExecutable(graph)
