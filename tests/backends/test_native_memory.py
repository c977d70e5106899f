"""Whole programs in planned memory: results equal those of the reference for every batch."""

from __future__ import annotations

import re

import torch
from hypothesis import given, settings

from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import SymbolRange, symbol
from qcompiler.passes.lowering.plan_memory import PlanMemory
from qcompiler.passmgr.context import PassContext
from qcompiler.report.table import rows_of
from qcompiler.target.base import VIEW
from tests.backends.programs import ADD, call, conv, programs, quantized
from tests.backends.strategies import FEW

ALLOCATION = re.compile(rb"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\s*\(")


@settings(FEW, max_examples=12)
@given(programs())
def test_programs_in_planned_memory_equal_the_reference(graph: QGraph) -> None:
    target = CpuTarget()
    PlanMemory().run(graph, PassContext(target=target))
    program = target.build(graph)
    for batch in (1, 3, 16):
        image, codes = (type_of(node).bind({"batch": batch}) for node in graph.inputs)
        inputs = [torch.randn(image), torch.randint(-128, 128, codes, dtype=torch.int8)]
        expected = graph.run(*inputs)
        for threads in (1, 2):
            for want, have in zip(expected, program.run(inputs, threads), strict=True):
                assert torch.equal(want, have), f"{batch} samples, {threads} threads"


def test_views_are_neither_run_nor_counted() -> None:
    graph, x = quantized()
    view = call(graph, "reshape", call(graph, "clamp", x, -9, 9), [0, 4])
    graph.output.args = ((call(graph, "dequantize", view, 0.1, 0),),)
    target = CpuTarget()
    PlanMemory().run(graph, PassContext(target=target))
    program = target.build(graph)
    assert program.kernels()["reshape"] == VIEW
    source = program.files()["src/program.c"].decode()
    assert ["STEP(2," in source, "STEP(1," in source] == [False, True]
    moved = {row.node: row.bytes for row in rows_of(graph, program.kernels(), {})}
    assert moved == {"quantize": 16 + 4, "clamp": 4 + 4, "reshape": 0, "dequantize": 4 + 16}
    image = torch.randn(3, 4, 1, 1)
    assert torch.equal(program.run([image], 1)[0], graph.run(image)[0])


def test_the_bytes_of_a_product_count_its_constants_and_its_residual() -> None:
    graph, x = quantized()
    out = conv(graph, x, call(graph, "clamp", x, -9, 9))
    graph.output.args = ((out,),)
    moved = {row.node: row.bytes for row in rows_of(graph, {}, {})}
    weight, bias, requant = 4 * 4, 4 * 4, 4 + 4
    assert moved["conv2d_requant"] == 4 + 4 + weight + bias + requant + 4


def test_a_running_program_allocates_nothing() -> None:
    assert not any(ALLOCATION.search(text) for text in kernel_sources().values())
    graph, x = quantized()
    graph.output.args = ((x,),)
    text = CpuTarget().build(graph).files()["src/program.c"]
    run, alone = text.split(b"EXPORT int qc_op(")
    assert not ALLOCATION.search(run)
    assert ALLOCATION.search(alone)


def test_sizes_of_all_dimensions_may_vary() -> None:
    symbols = {name: SymbolRange(1, 99) for name in ("batch", "height", "width")}
    graph, x = quantized(8, symbol("height"), symbol("width"), symbols)
    halved = call(graph, "max_pool2d", x, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1])
    again = call(graph, "max_pool2d", halved, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1])
    low = call(graph, "clamp", halved, -9, 9)
    out = call(graph, "add", call(graph, "clamp", low, -8, 8), halved, *ADD)
    results = [call(graph, "dequantize", node, 0.1, 0) for node in (out, again)]
    graph.output.args = (tuple(results),)
    context = PassContext(target=CpuTarget())
    PlanMemory(length=40).run(graph, context)
    plan = graph.memory_plan
    assert plan is not None
    assert plan.example_size == plan.peak == 8 * 40 * 40 + 8 * 20 * 20
    (note,) = context.notes
    assert note == (
        "arena: 16000 bytes at batch 1, height 40, width 40; no plan needs less than 16000;"
        " 2 results in the place of an operand, 0 views. Threads that share the samples of a batch"
        " hold one slice of them each (ADR 0007)"
    )
    program = CpuTarget().build(graph)
    for shape in ((1, 8, 40, 40), (3, 8, 1, 7), (2, 8, 33, 6)):
        image = torch.randn(shape)
        for want, have in zip(graph.run(image), program.run([image], 2), strict=True):
            assert torch.equal(want, have)
        codes = torch.randint(-128, 128, graph.run(image)[0].shape, dtype=torch.int8)
        assert torch.equal(program.run_op("clamp", [codes], 1), codes.clamp(-9, 9))
