"""The memory of a program on a device: arena, constants, and what launches point to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import torch
from torch import fx

from qcompiler.backends.cuda.launch import Launch, Packed, Pointer, Scratch, Value, Workspace
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import Plan
from qcompiler.backends.native.layout import to_storage
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import evaluate_dim


class Memory:
    """Where the values of a program at given sizes lie on a device.

    Inputs and results belong to a call; everything else is here, and its addresses never change.
    """

    def __init__(
        self,
        graph: QGraph,
        plan: Plan,
        sizes: Mapping[str, int],
        constants: torch.Tensor,
        scratch: int,
        zeroed: int,
    ) -> None:
        self._plan = plan
        self._sizes = dict(sizes)
        self._constants = constants
        self.device = device = constants.device
        self.arena_bytes = int(evaluate_dim(plan.size, sizes))
        self._arena = torch.empty(self.arena_bytes + 64, dtype=torch.uint8, device=device)
        self._scratch = torch.empty(scratch, dtype=torch.uint8, device=device)
        self._zeroed = torch.zeros(zeroed, dtype=torch.uint8, device=device)
        self._nodes = {node.name: node for node in graph.nodes}
        self._inputs = {node.name: i for i, node in enumerate(graph.inputs)}
        self._outputs: dict[str, int] = {}
        for i, node in enumerate(graph.results):
            if node.op == "call_function":
                self._outputs.setdefault(node.name, i)
        self._parameters = {
            node.name: stored(graph.constant(node)).to(device)
            for node in graph.results
            if node.op == "get_attr"
        }

    def place(self, node: str) -> tuple[str, int]:
        """Returns ``("input", i)``, ``("output", i)`` or ``("arena", offset)`` of a value."""
        if node in self._inputs:
            return "input", self._inputs[node]
        if node in self._outputs:
            return "output", self._outputs[node]
        if node in self._plan.aliases:
            return self.place(self._plan.aliases[node])
        return "arena", int(evaluate_dim(self._plan.offsets[node], self._sizes))

    def input_index(self, node: str) -> int:
        """Returns the position of an input."""
        return self._inputs[node]

    def is_outside(self, launch: Launch) -> bool:
        """Says whether a launch touches an input or a result."""
        values = [p for p in launch.pointers() if isinstance(p, Value)]
        return any(self.place(value.node)[0] != "arena" for value in values)

    def tensor(
        self, item: Pointer, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Returns a tensor that begins where a pointer points."""
        if isinstance(item, Packed):
            return view(self._constants, item.offset, item.dtype)
        if isinstance(item, Scratch):
            return view(self._scratch, item.offset, item.dtype)
        if isinstance(item, Workspace):
            return view(self._zeroed, item.offset, item.dtype)
        kind, at = self.place(item.node)
        if kind == "input":
            return inputs[at]
        if kind == "output":
            return outputs[at]
        return view(self._arena, at, item.dtype)

    def copies(self, graph: QGraph) -> list[tuple[int, fx.Node]]:
        """Returns the results that no launch writes: those that are values of others."""
        results = enumerate(graph.results)
        return [(i, node) for i, node in results if self._outputs.get(node.name) != i]

    def value(
        self, node: fx.Node, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Returns a value's memory, also of a constant."""
        if node.name in self._parameters:
            return self._parameters[node.name]
        return self.tensor(Value(node.name, type_of(node).dtype), inputs, outputs)


def stored(value: torch.Tensor) -> torch.Tensor:
    """Returns a logical value as it lies in memory, its elements in a row."""
    return to_storage(value, SIGNED).reshape(-1).view(value.dtype)


def view(memory: torch.Tensor, offset: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns the memory from an offset on as elements of a type."""
    size = (memory.numel() - offset) // dtype.itemsize * dtype.itemsize
    return memory[offset : offset + size].view(dtype)
