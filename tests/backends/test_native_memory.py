"""Whole programs in planned memory: results equal those of the reference for every batch."""

from __future__ import annotations

import re

import torch
from hypothesis import given, settings

from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.native.emitter import kernel_sources
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.passes.lowering.plan_memory import PlanMemory
from qcompiler.passmgr.context import PassContext
from qcompiler.report.table import rows_of
from qcompiler.target.base import VIEW
from tests.backends.programs import call, conv, programs, quantized
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
