"""Whole programs: symbolic batch, memory reuse, threads, concurrent callers, islands, bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import fx

from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.native.emitter import emit, plan_sequentially
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import set_type, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import SymbolRange, TensorType, symbol
from qcompiler.runtime.memory import Lifetime, plan_memory
from tests.backends.helpers import LEVELS, Const, build_graph, case

OPS = torch.ops.qcompiler


def small_network(*, island: bool = False) -> QGraph:
    """Returns a network of every layer kind with a symbolic batch and a plan that reuses memory."""
    random = torch.Generator().manual_seed(5)
    empty = fx.Graph()
    empty.placeholder("image")
    empty.output(())
    module = fx.GraphModule(torch.nn.Module(), empty)
    graph = QGraph(module, Stage.TARGETED, {"s0": SymbolRange(1, 64)})
    set_type(graph.inputs[0], TensorType(torch.float32, (symbol("s0"), 3, 17, 15)))
    out = graph.output

    def constant(*values: int) -> fx.Node:
        return graph.add_constant(torch.tensor(values, dtype=torch.int32), "c", out)

    def conv(x: fx.Node, channels: int, kernel: int, stride: int, groups: int = 1) -> fx.Node:
        depth = type_of(x).shape[1]
        assert isinstance(depth, int)
        shape = (channels, depth // groups, kernel, kernel)
        weight = torch.randint(-127, 128, shape, dtype=torch.int8, generator=random)
        bias = torch.randint(-999, 999, (channels,), generator=random)
        arguments = [
            graph.add_constant(weight, "w", out),
            graph.add_constant(bias.to(torch.int32), "b", out),
            constant(2**30 + 128 * 5),
            constant(38 + kernel // 2),
        ]
        padding = [kernel // 2] * 4
        geometry = [-3, [stride, stride], padding, [1, 1], groups, -3, -128, 127]
        return graph.call(OPS.conv2d_requant.default, [x, *arguments, *geometry], before=out)

    add = [-3, 2**20, -3, 2**20, 20, -3, -128, 127]
    x = graph.call(OPS.quantize.default, [graph.inputs[0], 40.0, -3, -128, 127], before=out)
    x = conv(x, 24, 3, 2)
    y = conv(x, 24, 3, 1, groups=24)
    y = conv(y, 24, 1, 1)
    x = graph.call(OPS.add.default, [x, y, *add], before=out)
    x = graph.call(OPS.max_pool2d.default, [x, [2, 2], [2, 2], [0] * 4, [1, 1]], before=out)
    mean = [constant(2**30), constant(34), [2, 3], False, -3, -3, -128, 127]
    pooled = graph.call(OPS.mean.default, [x, *mean], before=out)
    logits = graph.call(OPS.dequantize.default, [pooled, 0.05, -3], before=out)
    if island:
        logits = graph.call(torch.ops.aten.softmax.int, [logits, -1], before=out)
    flat = graph.call(OPS.reshape.default, [x, [0, -1]], before=out)
    out.args = ((logits, flat, flat),)
    graph.recompile()
    order = {node: i for i, node in enumerate(graph.nodes)}
    lifetimes = [
        Lifetime(n.name, type_of(n).nbytes(), order[n], max(order[u] for u in n.users))
        for n in graph.calls
    ]
    graph.memory_plan = plan_memory(lifetimes, {"s0": 1})
    return graph


@pytest.fixture(scope="module")
def network() -> QGraph:
    """The network without islands."""
    return small_network()


@pytest.mark.parametrize("isa", [isa.name for isa in LEVELS])
def test_every_batch_and_thread_count_equals_the_reference(network: QGraph, isa: str) -> None:
    program = CpuTarget(isa=isa).build(network)
    for batch in (1, 3, 16):
        image = torch.randn(batch, 3, 17, 15)
        expected = network.run(image)
        for threads in (1, 2, 4):
            results = program.run([image], threads)
            assert all(torch.equal(a, b) for a, b in zip(expected, results, strict=True))


def test_each_operator_alone_equals_the_reference(network: QGraph) -> None:
    program = CpuTarget().build(network)
    values: dict[str, torch.Tensor] = {}
    for node, value in network.trace(torch.randn(3, 3, 17, 15)):
        if node.op == "call_function":
            used = [values[n.name] for n in node.all_input_nodes if n.op != "get_attr"]
            assert torch.equal(program.run_op(node.name, used, 2), value), node.name
        values[node.name] = value


def test_callers_of_several_threads_do_not_disturb_each_other(network: QGraph) -> None:
    program = CpuTarget().build(network)
    images = [torch.randn(1 + i % 3, 3, 17, 15) for i in range(24)]
    expected = [network.run(image) for image in images]
    with ThreadPoolExecutor(max_workers=6) as pool:
        for _ in range(5):
            found = list(pool.map(lambda image: program.run([image], 2), images))
            for wanted, got in zip(expected, found, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_a_forked_process_can_run_a_program_that_has_workers(network: QGraph) -> None:
    program = CpuTarget().build(network)
    image = torch.randn(16, 3, 17, 15)
    expected = program.run([image], 2)
    child = os.fork()
    if child == 0:
        same = all(
            torch.equal(a, b) for a, b in zip(program.run([image], 2), expected, strict=True)
        )
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_float_island_runs_in_torch_between_kernels() -> None:
    graph = small_network(island=True)
    program = CpuTarget().build(graph)
    assert "island" in "".join(program.kernels().values())
    for batch in (1, 4):
        image = torch.randn(batch, 3, 17, 15)
        for want, have in zip(graph.run(image), program.run([image], 2), strict=True):
            assert torch.equal(want, have)


def test_the_time_of_every_operator_is_measured(network: QGraph) -> None:
    times = CpuTarget().build(network).time_ops([torch.randn(2, 3, 17, 15)], 1, 3)
    assert list(times) == [node.name for node in network.calls]
    assert all(0 < t < 1e6 for t in times.values())


def test_an_artifact_restores_or_rebuilds(network: QGraph) -> None:
    image = torch.randn(2, 3, 17, 15)
    expected = network.run(image)
    files = CpuTarget().build(network).files()
    broken = files | {"program.so": b"not a library"}
    foreign = files | {"native.json": files["native.json"].replace(b"x86_64", b"riscv64")}
    for kept in (files, broken, foreign):
        results = CpuTarget().restore(network, kept).run([image], 2)
        assert all(torch.equal(a, b) for a, b in zip(expected, results, strict=True))


def test_sources_and_binary_are_the_same_bytes_in_another_process(network: QGraph) -> None:
    script = (
        "import hashlib; from tests.backends.test_native_program import *\n"
        "files = CpuTarget().build(small_network()).files()\n"
        "print(hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_offsets_of_the_plan_and_sources_do_not_depend_on_the_level(network: QGraph) -> None:
    one = emit(network, plan_sequentially(network))
    assert one == emit(network, plan_sequentially(network))
    assert not any(b"/" + b"tmp" in text for text in one.files.values())


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [torch.randn(1, 3, 17)],
        [torch.randn(1, 3, 17, 16)],
        [torch.zeros(1, 3, 17, 15, dtype=torch.float64)],
        [torch.zeros(1, 3, 17, 15, device="meta")],
    ],
)
def test_other_inputs_are_refused(network: QGraph, inputs: list[torch.Tensor]) -> None:
    program = CpuTarget().build(network)
    with pytest.raises(QCompilerError, match="QC0701"):
        program.run(inputs, 1)


def test_an_operator_outside_of_what_its_kernel_covers_is_refused_with_a_reason() -> None:
    weight = torch.zeros(4, 5, dtype=torch.int8)
    x = torch.zeros(2, 5, dtype=torch.int8)
    zeros = Const(torch.zeros(4, dtype=torch.int32))
    graph, _ = build_graph([case("linear", x, weight, zeros, 0)])
    reason = CpuTarget().why_not(graph.calls[0])
    assert reason == "linear takes its weight as a constant only"
    with pytest.raises(QCompilerError, match=reason) as caught:
        CpuTarget().build(graph)
    assert caught.value.code == "QC0203"


def test_inputs_may_have_any_memory_layout(network: QGraph) -> None:
    program = CpuTarget().build(network)
    image = torch.randn(2, 17, 15, 3).permute(0, 3, 1, 2)
    for want, have in zip(network.run(image), program.run([image], 1), strict=True):
        assert torch.equal(want, have)
