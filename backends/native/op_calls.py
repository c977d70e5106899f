"""Calls of single operators of a program, and their times, wherever the program runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qcompiler.backends.native.emitter import OpDescriptor
from qcompiler.backends.native.values import solve_sizes
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType

# Status of a program that could not allocate.
_NO_MEMORY = -2


def failure(status: int) -> Exception:
    """Returns what to raise for the status of a program other than 0."""
    message = f"the program failed with status {status}"
    return MemoryError(message) if status == _NO_MEMORY else RuntimeError(message)


@dataclass(frozen=True)
class OpCall:
    """A call of an operator: its index, the sizes of dynamic dimensions, type and shape of it."""

    index: int
    sizes: Mapping[str, int]
    kind: TensorType
    shape: tuple[int, ...]


class OpCalls:
    """The operators of a program by the node that each computes."""

    def __init__(self, graph: QGraph, ops: Sequence[OpDescriptor]) -> None:
        self.nodes = {node.name: node for node in graph.nodes}
        self._ops = tuple(ops)
        self._index = {op.node: i for i, op in enumerate(self._ops)}

    def call(self, node: str, operands: Sequence[torch.Tensor]) -> OpCall:
        """Returns the call of an operator on logical values, in its descriptor's order."""
        index = self._index[node]
        types = [type_of(self.nodes[name]) for name in self._ops[index].operands]
        sizes = solve_sizes(types, operands)
        kind = type_of(self.nodes[node])
        return OpCall(index, sizes, kind, kind.bind(sizes))

    def least(self, runs: Iterable[Sequence[int]]) -> dict[str, float]:
        """Returns the least microseconds of each node from the nanoseconds of some runs."""
        times = [min(spent) / 1000 for spent in zip(*runs, strict=True)]
        return {op.node: time for op, time in zip(self._ops, times, strict=True)}
