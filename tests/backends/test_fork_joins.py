"""How often a program forks and joins: once per kernel, and never where parts would be small."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch

from qcompiler.backends.cpu import isa
from qcompiler.backends.native.choices import settings_of
from qcompiler.backends.native.emitter import EMITTERS, NativeSources, emit, plan_sequentially
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import build
from qcompiler.ir.graph import QGraph
from tests.backends.helpers import Case, build_graph
from tests.backends.test_native_edges import calls, chain, codes
from tests.backends.test_native_limits import convolution

LEVEL = isa.best_level()
_JOB, _COUNTED = b"    last_job++;\n", b"    last_job++;\n    forks++;\n"
_COUNTER = b"""
static int64_t forks;

__attribute__((visibility("default"))) int64_t take_forks(void)
{
    const int64_t count = forks;
    forks = 0;
    return count;
}
"""


def counted(graph: QGraph, sources: NativeSources) -> tuple[NativeProgram, Callable[[], int]]:
    """Builds a program and returns it with what says how many jobs threads have shared since."""
    files = dict(sources.files)
    head, found, tail = files["threads.c"].partition(_JOB)
    assert found
    start = head.index(b"static int64_t nanoseconds")
    files["threads.c"] = head[:start] + _COUNTER + head[start:] + _COUNTED + tail
    binary = build(files, [LEVEL])
    program = NativeProgram(graph, sources.ops, binary, sources.blob, level=LEVEL.name)
    program.library.take_forks.restype = ctypes.c_int64
    return program, program.library.take_forks


def kernel_calls(sources: NativeSources) -> list[int]:
    """Returns how many kernels each operator calls, as its C function says."""
    text = sources.files["program.c"].decode()
    bodies = text.split("static int op_")[1:]
    return [body[: body.index("return 0;")].count("(c, ") for body in bodies]


@pytest.mark.parametrize(("size", "shared"), [(24, True), (1, False)])
def test_operators_fork_at_most_once_per_kernel(size: int, shared: bool) -> None:
    """Large ones once for each kernel that they call, those of a few pixels never."""
    cases = calls(2, 64, size) if shared else calls(1, 2, size)
    assert {one.op for one in cases} == set(EMITTERS)
    graph, inputs = build_graph(cases)
    sources = emit(graph, plan_sequentially(graph))
    program, take_forks = counted(graph, sources)
    values = {node.name: x for node, x in zip(graph.inputs, inputs, strict=True)}
    found = {}
    for op, kernels in zip(program.ops, kernel_calls(sources), strict=True):
        operands = [values[name] for name in op.operands]
        program.run_op(op.node, operands, 1)
        assert take_forks() == 0, op.node
        program.run_op(op.node, operands, 2)
        found[op.node] = (take_forks(), kernels)
    assert all(forks <= kernels for forks, kernels in found.values()), found
    if not shared:
        assert {forks for forks, _ in found.values()} == {0}, found
    products = [n for n in found if n.startswith(("conv2d", "pointwise", "add", "avg_pool"))]
    assert {found[node] for node in products} == ({(1, 1)} if shared else {(0, 1)}), found


def layers(size: int) -> list[Case]:
    """Returns a convolution with a residual and two chained ones."""
    return [convolution(1, 32, (size, size), (64, 32, 3, 3)), chain(codes(1, 32, size, size), 32)]


def test_a_call_forks_once_for_each_layer_that_is_worth_it() -> None:
    for sizes, forks in (((40, 40), 4), ((40, 4), 3), ((2, 2), 0)):
        graph, inputs = build_graph([one for size in sizes for one in layers(size)])
        fused = {
            node.name: [next(s for s in settings_of(graph, node) if s.get("fused", 1))]
            for node in graph.calls
        }
        program, take_forks = counted(graph, emit(graph, plan_sequentially(graph), None, fused))
        expected = graph.run(*inputs)
        for threads in (1, 2, 3):
            for want, have in zip(expected, program.run(inputs, threads), strict=True):
                assert torch.equal(want, have)
            assert take_forks() == (forks if threads > 1 else 0)
