"""What the templates of a program are told: addresses of values, sizes of work and of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy
from torch import fx

from qcompiler.backends.native import emit_movement as movement
from qcompiler.backends.native.batching import Batching, work_of
from qcompiler.backends.native.codes import CodeForm
from qcompiler.backends.native.cprint import c_dim, symbols_in
from qcompiler.backends.native.layout import to_storage
from qcompiler.backends.native.op_writer import OpWriter
from qcompiler.backends.native.packing import ALIGNMENT, Blob
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import Dim, evaluate_dim, simplify_dim

if TYPE_CHECKING:
    from qcompiler.backends.native.emitter import Plan


def aligned(size: Dim) -> Dim:
    """Returns a number of bytes rounded up to whole lines."""
    if isinstance(size, int):
        return -(-size // ALIGNMENT) * ALIGNMENT
    rounded = sympy.floor((size + ALIGNMENT - 1) / ALIGNMENT)
    return simplify_dim(rounded * ALIGNMENT)


def work_sizes(graph: QGraph) -> dict[str, Dim]:
    """Returns the work of all operators together, and that of the largest one."""
    least = {name: span.low for name, span in graph.symbols.items()}
    sizes = [work_of(node) for node in graph.calls]
    largest = max(sizes, key=lambda size: evaluate_dim(size, least), default=0)
    return {"total": simplify_dim(sum(sizes, start=0)), "largest": largest}


def batch_view(graph: QGraph, batching: Batching) -> dict[str, Any]:
    inputs, outputs = (
        [batching.per_sample(type_of(node)) for node in nodes]
        for nodes in (graph.inputs, graph.results)
    )
    return {
        "position": list(graph.symbols).index(batching.symbol),
        "slice": batching.slice,
        "inputs": [c_dim(size) for size in inputs],
        "outputs": [c_dim(size) for size in outputs],
        "symbols": set[str]().union(*(symbols_in(size) for size in (*inputs, *outputs))),
    }


class Layout:
    """Gives each value of the program its address: an input, an output or a place in the arena."""

    def __init__(self, graph: QGraph, plan: Plan, blob: Blob, form: CodeForm) -> None:
        self._graph = graph
        self._form = form
        self._plan = plan
        self._blob = blob
        self._nodes = {node.name: node for node in graph.nodes}
        self._inputs = {node: i for i, node in enumerate(graph.inputs)}
        self._outputs: dict[fx.Node, int] = {}
        self.symbols: set[str] = set()
        self.copies: list[dict[str, str]] = []
        for i, node in enumerate(graph.results):
            if node.op == "call_function" and node not in self._outputs:
                self._outputs[node] = i
        for i, node in enumerate(graph.results):
            if self._outputs.get(node) != i:
                size = self.dim(type_of(node).nbytes())
                self.copies.append({"target": str(i), "source": self.address(node), "size": size})

    def dim(self, value: Dim) -> str:
        """Returns a dimension as C and remembers its symbols."""
        self.symbols |= symbols_in(value)
        return c_dim(value)

    def address(self, node: fx.Node) -> str:
        """Returns the C pointer to a value inside qc_run."""
        if node in self._inputs:
            return f"(void *)inputs[{self._inputs[node]}]"
        if node in self._outputs:
            return f"outputs[{self._outputs[node]}]"
        if node.name in self._plan.aliases:
            return self.address(self._nodes[self._plan.aliases[node.name]])
        if node.op == "get_attr":
            place = self._blob.add(to_storage(self._graph.constant(node), self._form).numpy())
            return f"(void *)(qc_blob + {place})"
        return f"memory + {self.dim(self._plan.offsets[node.name])}"

    def is_view(self, node: fx.Node) -> bool:
        """Says whether the plan has put a value where its operand is, and that is all there is."""
        return movement.is_view(node) and self.address(node) == self.address(
            node.all_input_nodes[0]
        )

    def step(self, index: int, writer: OpWriter) -> dict[str, Any]:
        """Returns the call of one operator."""
        values = [*writer.operands, writer.node]
        return {"index": index, "addresses": [self.address(node) for node in values]}
