"""A target of another package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.graph import QGraph
from qcompiler.ir.integer_ops import INTEGER_OPS
from qcompiler.target.base import Executable, OpSupport, Target


class Recorder(Executable):
    """Runs the graph as it is and keeps the names of the operators that ran."""

    def __init__(self, graph: QGraph, limit: int) -> None:
        self.ran: list[str] = []
        self._graph, self._limit = graph, limit

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results."""
        results: list[torch.Tensor] = []
        for node, value in self._graph.trace(*inputs):
            if node.op == "call_function" and len(self.ran) < self._limit:
                self.ran.append(str(node.target))
            if node.op == "output":
                results = list(value)
        return results

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result."""
        call, given = self._graph.node(node), iter(operands)

        def value(argument: fx.Node) -> torch.Tensor:
            return self._graph.constant(argument) if argument.op == "get_attr" else next(given)

        if not callable(call.target):
            problem = f"node {node!r} is no call"
            raise TypeError(problem)
        result: torch.Tensor = call.target(
            *fx.node.map_arg(call.args, value), **fx.node.map_arg(call.kwargs, value)
        )
        return result

    def files(self) -> dict[str, bytes]:
        """Returns nothing: there is nothing to be kept."""
        return {}


@dataclass(frozen=True)
class RecorderTarget(Target):
    """Runs programs in torch and records which operators ran."""

    name: ClassVar[str] = "recorder"
    summary: ClassVar[str] = "runs programs in torch and records which operators ran"
    ops: ClassVar[tuple[OpSupport, ...]] = tuple(OpSupport(op.name) for op in INTEGER_OPS.values())

    limit: int = 1000

    def build(self, graph: QGraph) -> Executable:
        """Builds a graph at stage TARGETED."""
        return Recorder(graph, self.limit)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> Executable:
        """Returns the executable of an artifact."""
        return Recorder(graph, self.limit)
