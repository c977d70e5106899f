"""Which programs let threads share the samples of a batch, and what slices compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from qcompiler.backends.native.batching import Batching, find_batching, work_of
from qcompiler.backends.native.emitter import emit, plan_sequentially
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import build
from qcompiler.ir.annotations import set_type
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import Dim, SymbolRange, TensorType, symbol
from tests.backends.helpers import LEVELS
from tests.backends.test_native_program import small_network

BATCH = symbol("batch")
TOKENS = symbol("tokens")
REQUANT = [-3, -3, -128, 127]
ADD = [0, 2**20, 0, 2**20, 20, 0, -128, 127]
MUL = [0, 0, 2**30, 38, 0, -128, 127]


def one_call(op: str, *args: Any, shapes: list[tuple[Dim, ...]]) -> QGraph:
    """Returns a graph with one call; ``int`` codes of inputs stand for "x0", "x1", ..."""
    nodes = fx.Graph()
    for i in range(len(shapes)):
        nodes.placeholder(f"x{i}")
    nodes.output(())
    symbols = {"batch": SymbolRange(1, 64), "tokens": SymbolRange(1, 64)}
    graph = QGraph(fx.GraphModule(torch.nn.Module(), nodes), Stage.TARGETED, symbols)
    inputs = dict(zip([n.name for n in graph.inputs], graph.inputs, strict=True))
    for node, shape in zip(graph.inputs, shapes, strict=True):
        set_type(node, TensorType(torch.int8, shape))

    def argument(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return graph.add_constant(value, "c", graph.output)
        if isinstance(value, list):
            return [argument(v) for v in value]
        return inputs.get(value, value) if isinstance(value, str) else value

    target = getattr(torch.ops.qcompiler, op).default
    call = graph.call(target, [argument(a) for a in args], before=graph.output)
    graph.output.args = ((call,),)
    graph.recompile()
    return graph


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


ONE = [int32(2**30), int32(38)]
FOUR = [int32(*[2**30] * 4), int32(*[38] * 4)]
WEIGHT = torch.ones(4, 4, dtype=torch.int8)
ROW = (BATCH, 4)
IMAGE = (BATCH, 4, 6, 6)


@pytest.mark.parametrize(
    ("op", "args", "shapes"),
    [
        ("clamp", ["x0", -5, 5], [ROW]),
        ("clamp", ["x0", -5, 5], [(BATCH, 4, TOKENS)]),
        ("linear", ["x0", WEIGHT, int32(0, 0, 0, 0), 3], [ROW]),
        ("add", ["x0", "x1", *ADD], [ROW, ROW]),
        ("add", ["x0", torch.ones(4, dtype=torch.int8), *ADD], [ROW]),
        ("mul", ["x0", torch.ones(1, 4, dtype=torch.int8), *MUL], [ROW]),
        ("matmul", ["x0", "x1", 0, 0], [(BATCH, 4, 6), (BATCH, 6, 5)]),
        ("matmul", ["x0", WEIGHT, 0, 0], [ROW]),
        ("mean", ["x0", *ONE, [2, 3], False, *REQUANT], [IMAGE]),
        ("mean", ["x0", *ONE, [-1], True, *REQUANT], [IMAGE]),
        ("requantize", ["x0", *FOUR, 1, *REQUANT], [IMAGE]),
        ("requantize", ["x0", *ONE, 0, *REQUANT], [IMAGE]),
        ("reshape", ["x0", [0, -1]], [IMAGE]),
        ("permute", ["x0", [0, 2, 3, 1]], [IMAGE]),
        ("concat", [["x0", "x1"], 1], [ROW, ROW]),
        ("slice", ["x0", 1, 0, 2, 1], [ROW]),
        ("pad", ["x0", [1, 1, 2, 0], 0], [IMAGE]),
        ("expand", ["x0", [-1, 4, 6, 3]], [(BATCH, 4, 6, 1)]),
    ],
)
def test_operators_that_keep_samples_apart(
    op: str, args: list[Any], shapes: list[tuple[Dim, ...]]
) -> None:
    graph = one_call(op, *args, shapes=shapes)
    found = find_batching(graph, 0)
    assert found == Batching("batch", 8)
    binary = build_sliced(graph, 3)
    inputs = [
        torch.randint(-128, 128, TensorType(torch.int8, s).bind({"batch": 11, "tokens": 5}))
        for s in shapes
    ]
    codes = [x.to(torch.int8) for x in inputs]
    for threads in (1, 2):
        for want, have in zip(graph.run(*codes), binary.run(codes, threads), strict=True):
            assert torch.equal(want, have)


@pytest.mark.parametrize(
    ("op", "args", "shapes"),
    [
        ("clamp", ["x0", -5, 5], [(4, 6)]),
        ("clamp", ["x0", -5, 5], [(4, BATCH)]),
        ("clamp", ["x0", -5, 5], [(2 * BATCH, 4)]),
        ("clamp", ["x0", -5, 5], [(BATCH, BATCH)]),
        ("add", ["x0", "x1", *ADD], [ROW, (4,)]),
        ("add", ["x0", "x1", *ADD], [(BATCH, 1, 4), (BATCH, 4)]),
        ("matmul", ["x0", "x1", 0, 0], [(BATCH, 4, 6), (6, 5)]),
        ("matmul", ["x0", "x1", 0, 0], [(BATCH, TOKENS), (TOKENS, 4)]),
        ("mean", ["x0", *ONE, [0], True, *REQUANT], [IMAGE]),
        ("mean", ["x0", *ONE, [-4], False, *REQUANT], [IMAGE]),
        ("permute", ["x0", [1, 0]], [ROW]),
        ("reshape", ["x0", [-1]], [ROW]),
        ("concat", [["x0", "x0"], 0], [ROW]),
        ("pad", ["x0", [0, 0, 1, 0], 0], [ROW]),
    ],
)
def test_operators_that_may_mix_samples(
    op: str, args: list[Any], shapes: list[tuple[Dim, ...]]
) -> None:
    assert find_batching(one_call(op, *args, shapes=shapes), 0) is None


def test_a_result_that_is_a_constant_has_no_samples() -> None:
    graph = one_call("clamp", "x0", -5, 5, shapes=[ROW])
    constant = graph.add_constant(torch.ones(4), "c", graph.output)
    graph.output.args = ((*graph.results, constant),)
    assert find_batching(graph, 0) is None


def test_other_operators_than_ours_may_mix_samples() -> None:
    assert find_batching(small_network(island=True), 0) is None


def test_a_slice_keeps_its_values_within_the_cache_and_has_at_least_one_sample() -> None:
    graph = one_call("clamp", "x0", -5, 5, shapes=[ROW])
    sizes = [64 * BATCH, (1 << 20) * BATCH, (3 << 20) * BATCH, (1 << 30) * BATCH]
    found = [find_batching(graph, size) for size in sizes]
    assert found == [Batching("batch", count) for count in (8, 4, 1, 1)]


def test_work_counts_multiply_accumulates() -> None:
    graph = one_call("linear", "x0", WEIGHT, int32(0, 0, 0, 0), 3, shapes=[ROW])
    assert work_of(graph.calls[0]) == 16 * BATCH
    graph = one_call("matmul", "x0", "x1", 0, 0, shapes=[(BATCH, 3, 6), (BATCH, 6, 5)])
    assert work_of(graph.calls[0]) == 90 * BATCH
    graph = one_call("clamp", "x0", -5, 5, shapes=[ROW])
    assert work_of(graph.calls[0]) == 32 * BATCH


def build_sliced(graph: QGraph, samples: int) -> NativeProgram:
    """Builds a graph with slices of so many samples for the fastest level."""
    name = next(iter(graph.symbols))
    plan = graph.memory_plan or plan_sequentially(graph)
    sources = emit(graph, plan, Batching(name, samples))
    binary = build(sources.files, LEVELS[-1:])
    return NativeProgram(graph, sources.ops, binary, sources.blob, level=LEVELS[-1].name)


NETWORK = small_network()
SLICED = {samples: build_sliced(NETWORK, samples) for samples in (1, 2, 3, 8)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(SLICED)), st.integers(1, 21), st.integers(1, 6))
def test_slices_equal_the_whole_batch(samples: int, batch: int, threads: int) -> None:
    image = torch.randn(batch, 3, 17, 15, generator=torch.Generator().manual_seed(batch))
    results = SLICED[samples].run([image], threads)
    for want, have in zip(NETWORK.run(image), results, strict=True):
        assert torch.equal(want, have)


def test_memory_grows_with_threads_and_slices_but_not_with_the_batch() -> None:
    def arena(samples: int, batch: int, threads: int) -> int:
        program = SLICED[samples]
        return int(program.qc_arena_size(program.symbols_array({"s0": batch}), threads))

    assert arena(1, 64, 1) == arena(1, 1, 1)
    assert arena(2, 64, 2) == arena(2, 6, 2) == 2 * arena(2, 64, 1)
    assert arena(8, 64, 1) > arena(1, 64, 1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_time_of_operators_is_measured_where_threads_take_slices(threads: int) -> None:
    times = SLICED[2].time_ops([torch.randn(7, 3, 17, 15)], threads, 2)
    assert list(times) == [node.name for node in NETWORK.calls]
    assert all(0 < t < 1e6 for t in times.values())
