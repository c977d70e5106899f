"""Values share memory only where no step can tell: checked by running plans on tagged memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import fx

from qcompiler.backends.cpu import CpuTarget
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.types import evaluate_dim
from qcompiler.runtime.memory import ALIGNMENT, MemoryPlan
from qcompiler.runtime.memory_liveness import Liveness, find_liveness
from tests.backends.programs import ADD, call, conv, programs, quantized
from tests.backends.strategies import FEW

TARGET = CpuTarget()


class TaggedMemory:
    """Runs a plan on memory whose cells hold, in place of a value, the value's number."""

    def __init__(self, graph: QGraph, plan: MemoryPlan, batch: int) -> None:
        self.graph, self.plan, self.sizes = graph, plan, {"batch": batch}
        self.nodes = {node.name: node for node in graph.nodes}
        self.own = {*graph.inputs, *graph.results}
        self.tags: dict[fx.Node, int] = {}
        arena = np.zeros(evaluate_dim(plan.size, self.sizes) // ALIGNMENT, dtype=np.int64)
        self.regions = {"": arena}
        for node in self.own:
            self.regions[node.name] = np.zeros(self.cells(node), dtype=np.int64)

    def cells(self, node: fx.Node) -> int:
        """Returns the number of aligned cells that a value takes."""
        return -(-evaluate_dim(type_of(node).nbytes(), self.sizes) // ALIGNMENT)

    def place(self, node: fx.Node) -> tuple[str, int]:
        """Returns region and first cell of a value."""
        if node in self.own:
            return node.name, 0
        if node.name in self.plan.aliases:
            return self.place(self.nodes[self.plan.aliases[node.name]])
        return "", evaluate_dim(self.plan.offsets[node.name], self.sizes) // ALIGNMENT

    def memory(self, node: fx.Node) -> NDArray[np.int64]:
        """Returns the cells of a value."""
        region, first = self.place(node)
        found = self.regions[region][first : first + self.cells(node)]
        assert len(found) == self.cells(node), f"{node} leaves its memory"
        return found

    def check_intact(self, node: fx.Node) -> None:
        """Asserts that the cells of a value hold it."""
        assert (self.memory(node) == self.tags[node]).all(), f"{node} is overwritten"

    def run(self) -> None:
        """Runs the program and asserts that each operand is whole where it is read."""
        for tag, node in enumerate(self.graph.nodes, start=1):
            if node.op == "placeholder":
                self.tags[node] = tag
                self.memory(node)[:] = tag
            if node.op == "call_function":
                self.tags[node] = tag
                self.call(node)
        for node in self.own:
            self.check_intact(node)

    def call(self, node: fx.Node) -> None:
        """Runs one call, which views share and others may not while they read."""
        operands = [n for n in node.all_input_nodes if n.op != "get_attr"]
        for operand in operands:
            self.check_intact(operand)
        if TARGET.is_view(node) and self.place(node) == self.place(operands[0]):
            self.tags[node] = self.tags[operands[0]]
            return
        for operand in operands:
            if np.shares_memory(self.memory(node), self.memory(operand)):
                readers = {name for name, value in arguments(node).items() if value is operand}
                assert readers <= set(TARGET.in_place(node)), f"{node} may not overwrite {operand}"
                assert self.place(node) == self.place(operand)
        self.memory(node)[:] = self.tags[node]


@settings(FEW, max_examples=80)
@given(programs())
def test_no_value_is_overwritten_before_its_last_use(graph: QGraph) -> None:
    plan = find_liveness(graph, TARGET).plan({"batch": 1}, [{"batch": 4}])
    for batch in (1, 3, 16):
        TaggedMemory(graph, plan, batch).run()


@settings(FEW, max_examples=20)
@given(programs())
def test_sharing_never_needs_more_room(graph: QGraph) -> None:
    shared, apart = find_liveness(graph, TARGET), find_liveness(graph, None)
    assert apart.views == apart.in_place == 0
    assert not apart.aliases
    assert shared.plan({"batch": 3}).peak <= apart.plan({"batch": 3}).peak


def returning(graph: QGraph, *results: fx.Node) -> Liveness:
    """Makes values the results and returns the liveness for the cpu target."""
    graph.output.args = (results,)
    return find_liveness(graph, TARGET)


def test_a_chain_of_maps_stays_in_one_place() -> None:
    graph, x = quantized()
    y = call(graph, "clamp", call(graph, "clamp", x, -9, 9), -8, 8)
    live = returning(graph, call(graph, "dequantize", y, 0.1, 0))
    assert [buffer.values for buffer in live.buffers] == [("quantize", "clamp", "clamp_1")]
    assert (live.in_place, live.views) == (2, 0)


def test_an_operand_that_is_read_later_is_kept() -> None:
    graph, x = quantized()
    y = call(graph, "clamp", x, -9, 9)
    live = returning(graph, call(graph, "dequantize", call(graph, "add", x, y, *ADD), 0.1, 0))
    assert [buffer.values for buffer in live.buffers] == [("quantize", "add"), ("clamp",)]


@pytest.mark.parametrize("own", [False, True])
def test_a_product_writes_over_its_residual_unless_it_multiplies_it(own: bool) -> None:
    graph, x = quantized()
    residual = x if own else call(graph, "clamp", x, -9, 9)
    out = conv(graph, x, residual)
    live = returning(graph, call(graph, "dequantize", out, 0.1, 0))
    wanted = ("conv2d_requant",) if own else ("clamp", "conv2d_requant")
    assert wanted in [buffer.values for buffer in live.buffers]


def test_a_product_does_not_write_over_a_view_of_what_it_multiplies() -> None:
    graph, x = quantized()
    view = call(graph, "reshape", call(graph, "reshape", x, [0, 4]), [0, 4, 1, 1])
    live = returning(graph, call(graph, "dequantize", conv(graph, x, view), 0.1, 0))
    assert ("conv2d_requant",) in [buffer.values for buffer in live.buffers]
    assert (live.in_place, live.views) == (0, 2)


def test_a_view_keeps_its_operand_alive() -> None:
    graph, x = quantized()
    view = call(graph, "reshape", x, [0, 4])
    other = call(graph, "clamp", x, -9, 9)
    flat = call(graph, "reshape", other, [0, 4])
    live = returning(graph, call(graph, "dequantize", call(graph, "add", view, flat, *ADD), 0.1, 0))
    shared = {buffer.values for buffer in live.buffers}
    assert shared == {("quantize", "reshape", "add"), ("clamp", "reshape_1")}


def test_views_of_inputs_and_results_lie_there() -> None:
    graph, x = quantized()
    floats = call(graph, "reshape", graph.inputs[0], [0, 4])
    again = call(graph, "quantize", floats, 40.0, 0, -128, 127)
    first, second = (call(graph, "reshape", x, [0, 4]) for _ in range(2))
    live = returning(graph, again, first, second)
    assert live.aliases == {"quantize": "reshape_1", "reshape": "image"}
    assert not live.buffers
    assert live.views == 2


def test_nothing_writes_over_inputs_and_results() -> None:
    graph, x = quantized()
    y = call(graph, "clamp", x, -9, 9)
    z = call(graph, "clamp", y, -8, 8)
    live = returning(graph, x, z)
    assert [buffer.values for buffer in live.buffers] == [("clamp",)]
    assert live.in_place == 0


def test_only_operands_of_the_result_s_type_are_overwritten() -> None:
    graph, x = quantized()
    tensors = (
        torch.ones(1, dtype=torch.int32),
        torch.ones(1, 4, 1, 1, dtype=torch.int8),
        torch.ones(4, 4, 1, 1, dtype=torch.int8),
        torch.zeros(4, dtype=torch.int32),
    )
    one, row, weight, bias = (graph.add_constant(t, "c", graph.output) for t in tensors)
    geometry = (0, [1, 1], [0, 0, 0, 0], [1, 1], 1)
    sums = call(graph, "conv2d", x, weight, bias, *geometry)
    limits = (0, 0, -128, 127)
    assert TARGET.in_place(sums) == ()
    assert TARGET.in_place(call(graph, "requantize", sums, one, one, 1, *limits)) == ()
    assert TARGET.in_place(call(graph, "requantize", x, one, one, 1, *limits)) == ("x",)
    assert TARGET.in_place(call(graph, "add", row, x, *ADD)) == ("b",)
    assert TARGET.in_place(call(graph, "add", x, x, *ADD)) == ("a", "b")
    assert TARGET.in_place(conv(graph, x, x)) == ("residual",)
