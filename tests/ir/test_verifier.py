"""Each rule of each stage refuses a graph that breaks it and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import (
    Origin,
    Quant,
    set_origin,
    set_quant,
    set_type,
    update_quant,
)
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import DerivedFrom, KeepFloat, SharedWith
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.ir.rules import FACTS, FORM
from qcompiler.ir.specs import STAGES
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import TensorType, symbol
from qcompiler.ir.verifier import verify_graph, violations
from qcompiler.numerics.ranges import Range, RangeState
from tests.ir.build import build

ATEN, QFLOAT, QC = torch.ops.aten, torch.ops.qfloat, torch.ops.qcompiler
QTYPE = QType(8, (0.5,), (0,))

Spoil = Callable[[QGraph], Any]


def float_graph(stage: Stage = Stage.NORMALIZED) -> QGraph:
    """Returns a conv and a clamp with all facts of the given stage."""

    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        quantized = stage >= Stage.QUANTIZED
        value = torch.ones(8, 4, 1, 1)
        weight = graph.add_constant(value.to(torch.int8) if quantized else value, "w", out)
        if quantized:
            scale = graph.add_constant(torch.ones(8), "scale", out)
            weight = graph.call(
                QFLOAT.dequantize_weight.default, (weight, scale, 0), before=out, name="weight"
            )
        args = (x, weight, None, [1, 1], [0] * 4, [1, 1], 1)
        conv = graph.call(QFLOAT.conv2d.default, args, before=out, name="conv")
        set_origin(conv, Origin("net.py:7"))
        clamp = graph.call(QFLOAT.clamp.default, (conv, 0.0, 6.0), before=out, name="clamp")
        for node in (x, conv, clamp):
            if stage >= Stage.CALIBRATED:
                update_quant(node, range=Range.of(-1, 2))
            if quantized:
                update_quant(node, qtype=QTYPE)
        return clamp

    return build(body, stage=stage)


def integer_graph(stage: Stage = Stage.INTEGER, layers: int = 1) -> QGraph:
    """Returns quantize, fused convolutions, an add, and dequantize."""

    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        y = graph.call(QC.quantize.default, (x, 2.0, 0, -128, 127), before=out, name="quantize")
        for _ in range(layers):
            weight = graph.add_constant(torch.ones(4, 4, 1, 1, dtype=torch.int8), "weight", out)
            rest = [
                graph.add_constant(torch.full((4,), v, dtype=torch.int32), n, out)
                for n, v in (("bias", 1), ("multiplier", 2**30), ("shift", 33))
            ]
            numbers = (0, [1, 1], [0] * 4, [1, 1], 1, 0, -128, 127)
            y = graph.call(
                QC.conv2d_requant.default, (y, weight, *rest, *numbers), before=out, name="conv"
            )
            update_quant(y, proof=(-600, 600))
        y = graph.call(
            QC.add.default, (y, y, 0, 1000, 0, -900, 12, 0, -128, 127), before=out, name="add"
        )
        update_quant(y, proof=(-255, 255))
        return graph.call(QC.dequantize.default, (y, 0.5, 0), before=out)

    graph = build(body, stage=stage)
    graph.properties.add("accumulators-proven")
    return graph


def int32(value: int, count: int) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.int32)


def set_argument(node: str, place: int, value: Any) -> Spoil:
    def spoil(graph: QGraph) -> None:
        graph.node(node).update_arg(place, value)

    return spoil


def set_tensor(name: str, value: torch.Tensor) -> Spoil:
    def spoil(graph: QGraph) -> None:
        graph.set_constant(graph.node(name), value)

    return spoil


def fact(node: str, **facts: Any) -> Spoil:
    return lambda graph: update_quant(graph.node(node), **facts)


def _swap_order(graph: QGraph) -> None:
    graph.node("conv").append(graph.inputs[0])


def _unfinished_output(graph: QGraph) -> None:
    graph.output.args = (graph.node("clamp"),)


def _call(target: Any, *args: Any) -> Spoil:
    def spoil(graph: QGraph) -> None:
        graph.call(target, (graph.results[0], *args), before=graph.output, name="extra")

    return spoil


def _requantize_again(graph: QGraph) -> None:
    update_quant(graph.results[0], intent=None)
    _call(QC.quantize.default, 2.0, 0, -128, 127)(graph)


def _float_weight(graph: QGraph) -> None:
    new = graph.add_constant(torch.ones(8, 4, 1, 1), "v", graph.node("conv"))
    graph.replace(graph.node("weight"), new)


FLOAT_CASES: list[tuple[Stage, str, Spoil, str]] = [
    (
        Stage.NORMALIZED,
        "known-node-kinds",
        lambda g: setattr(g.node("conv"), "op", "call_method"),
        "kind call_method",
    ),
    (Stage.NORMALIZED, "one-output", _unfinished_output, "no tuple"),
    (Stage.NORMALIZED, "topological-order", _swap_order, "uses %x before"),
    (
        Stage.NORMALIZED,
        "unique-names",
        lambda g: setattr(g.node("conv"), "name", "x"),
        "two nodes have the name %x",
    ),
    (Stage.NORMALIZED, "typed", lambda g: g.node("conv").meta.clear(), "%conv has no type"),
    (
        Stage.NORMALIZED,
        "constants-exist",
        lambda g: g.module.register_buffer("v", torch.ones(1)),
        "no node reads the constant @v",
    ),
    (Stage.NORMALIZED, "constants-exist", lambda g: delattr(g.module, "w"), "no tensor"),
    (
        Stage.NORMALIZED,
        "constants-exist",
        lambda g: setattr(g.module, "w", torch.ones(3)),
        "@w is f32[3]",
    ),
    (Stage.NORMALIZED, "known-symbols", lambda g: g.symbols.clear(), "unknown symbol batch"),
    (
        Stage.NORMALIZED,
        "known-symbols",
        lambda g: set_type(g.node("conv"), TensorType(torch.float32, (symbol("n"), -1))),
        "unknown symbol n",
    ),
    (
        Stage.NORMALIZED,
        "related-values-exist",
        fact("conv", intent=SharedWith("gone")),
        "follows %gone",
    ),
    (
        Stage.NORMALIZED,
        "related-values-exist",
        fact("conv", intent=DerivedFrom(("x", "conv"))),
        "follows itself",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", qtype=QType(8, (0.5,), (200,))),
        "zero point outside",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", qtype=QType(8, (0.0,), (0,))),
        "not positive and finite",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", qtype=QType(8, (0.5,) * 3, (0,) * 3, granularity=Granularity(1))),
        "3 scales and 3 zero points where 8 belong",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", qtype=QType(8, (0.5,), (0,), granularity=Granularity(4))),
        "axis 4",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", qtype=QType(8, (0.5,), (0,), granularity=Granularity(0))),
        "whose size varies",
    ),
    (
        Stage.NORMALIZED,
        "facts-agree",
        fact("conv", range=Range(2.0, 1.0, RangeState.FINITE)),
        "has the range",
    ),
    (Stage.NORMALIZED, "facts-agree", fact("conv", proof=(2, 1)), "which is empty"),
    (Stage.TRACED, "traced-operators", lambda g: None, "before normalization"),
    (Stage.NORMALIZED, "normalized-operators", _call(ATEN.relu.default), "%extra calls aten::relu"),
    (Stage.NORMALIZED, "arguments-in-range", set_argument("conv", 3, [0, 1]), "stride = [0, 1]"),
    (Stage.NORMALIZED, "arguments-in-range", set_argument("conv", 4, [0, -1, 0, 0]), "padding"),
    (Stage.NORMALIZED, "arguments-in-range", set_argument("clamp", 1, 7.0), "clamps to [7.0, 6.0]"),
    (Stage.NORMALIZED, "arguments-in-range", _call(QC.permute.default, [0, 1, 2, -1]), ""),
    (Stage.CALIBRATED, "ranges-known", fact("x", range=None), "%x has no range"),
    (Stage.QUANTIZED, "values-quantized", fact("conv", qtype=None), "%conv has neither a QType"),
    (
        Stage.QUANTIZED,
        "weights-integer",
        set_tensor("w", torch.ones(8, 4, 1, 1)),
        "no integer constant",
    ),
    (Stage.QUANTIZED, "weights-integer", _float_weight, "not behind"),
]


INTEGER_CASES: list[tuple[Stage, str, Spoil, str]] = [
    (Stage.INTEGER, "integer-only", _call(QFLOAT.clamp.default, 0.0, 1.0), "%extra calls qfloat"),
    (Stage.INTEGER, "integer-only", _call(QC.reshape.default, [-1]), "%extra computes f32"),
    (Stage.INTEGER, "no-float-detour", _requantize_again, "quantizes the dequantized"),
    (
        Stage.INTEGER,
        "operand-dtypes",
        set_tensor("bias", torch.ones(4, dtype=torch.int64)),
        "takes i64[4] as its bias",
    ),
    (Stage.INTEGER, "multipliers", set_tensor("multiplier", int32(-1, 4)), "the multiplier -1"),
    (Stage.INTEGER, "multipliers", set_tensor("shift", int32(63, 4)), "a shift of 63"),
    (Stage.INTEGER, "multipliers", set_tensor("shift", int32(1, 4)), "a shift of 1"),
    (Stage.INTEGER, "multipliers", set_tensor("shift", int32(33, 1)), "4 multipliers and 1 shifts"),
    (Stage.INTEGER, "codes", set_argument("conv", 12, 128), "qmax = 128"),
    (Stage.INTEGER, "codes", set_argument("conv", 11, 127), ""),
    (Stage.INTEGER, "codes", set_argument("quantize", 2, -129), "zero_point = -129"),
    (Stage.INTEGER, "additions-fit", set_argument("add", 3, 2**24), "can leave int32"),
    (Stage.INTEGER, "additions-fit", set_argument("add", 6, 32), "can leave int32"),
    (
        Stage.INTEGER,
        "constant-operands",
        set_tensor("weight", torch.full((4, 4, 1, 1), -128, dtype=torch.int8)),
        "a weight of -128",
    ),
    (Stage.TARGETED, "accumulators-proven", fact("conv", proof=None), "has no proof"),
    (
        Stage.TARGETED,
        "accumulators-proven",
        fact("conv", proof=(0, 2**31)),
        "reaches (0, 2147483648)",
    ),
    (
        Stage.TARGETED,
        "properties-hold",
        lambda g: g.properties.clear(),
        "'accumulators-proven' is missing",
    ),
    (
        Stage.TARGETED,
        "properties-hold",
        lambda g: g.properties.add("memory-planned"),
        "no memory plan",
    ),
    (Stage.TARGETED, "no-dead-nodes", _call(QC.dequantize.default, 1.0, 0), ""),
]


@pytest.mark.parametrize("stage", [Stage.NORMALIZED, Stage.CALIBRATED, Stage.QUANTIZED])
def test_float_stages_are_accepted(stage: Stage) -> None:
    verify_graph(float_graph(stage), infer_types=True)


@pytest.mark.parametrize("stage", [Stage.INTEGER, Stage.TARGETED])
def test_integer_stages_are_accepted(stage: Stage) -> None:
    verify_graph(integer_graph(stage), infer_types=True)


def _refused(graph: QGraph, rule: str, problem: str) -> None:
    found = violations(graph)
    assert rule in {r.name for r, _ in found}
    if problem:
        assert problem in " ".join(v.problem for r, v in found if r.name == rule)
        with pytest.raises(QCompilerError, match="QC0504"):
            verify_graph(graph)


@pytest.mark.parametrize(("stage", "rule", "spoil", "problem"), FLOAT_CASES)
def test_float_rules(stage: Stage, rule: str, spoil: Spoil, problem: str) -> None:
    graph = float_graph(stage)
    spoil(graph)
    if rule == "arguments-in-range" and not problem:
        graph.node("extra").args = (graph.node("clamp"), [0, 1, 2, 2])
        problem = "names the dimensions"
    _refused(graph, rule, problem)


@pytest.mark.parametrize(("stage", "rule", "spoil", "problem"), INTEGER_CASES)
def test_integer_rules(stage: Stage, rule: str, spoil: Spoil, problem: str) -> None:
    graph = integer_graph(stage)
    spoil(graph)
    if rule == "codes" and not problem:
        graph.node("conv").update_arg(12, 100)
        problem = "the empty range [127, 100]"
    _refused(graph, rule, problem)


def test_every_rule_has_a_case() -> None:
    tried = {rule for _stage, rule, *_ in (*FLOAT_CASES, *INTEGER_CASES)}
    assert {r.name for r in (*FORM, *FACTS, *STAGES)} - tried == {"multiplier-count"}


def test_the_number_of_multipliers() -> None:
    graph = integer_graph()
    for name in ("multiplier", "shift"):
        graph.set_constant(graph.node(name), int32(40, 3))
    _refused(graph, "multiplier-count", "3 multipliers for 4 channels")


def test_a_wrong_type_is_found_on_request() -> None:
    graph = float_graph()
    set_type(graph.node("clamp"), TensorType(torch.float32, (symbol("batch"), 8, 8, 9)))
    verify_graph(graph)
    with pytest.raises(QCompilerError, match="types-as-inferred"):
        verify_graph(graph, infer_types=True)


def test_the_error_names_node_source_rule_and_remedy() -> None:
    graph = float_graph(Stage.QUANTIZED)
    for name in ("conv", "clamp"):
        set_quant(graph.node(name), Quant(Range.of(0, 1)))
    with pytest.raises(QCompilerError) as caught:
        verify_graph(graph)
    error = caught.value
    assert (error.code, error.node, error.source) == ("QC0504", "conv", "net.py:7")
    assert "rule 'values-quantized' of stage quantized: every float value" in error.problem
    assert "(and 1 more violation)" in error.problem
    assert "KeepFloat" in error.remedy


def test_islands_are_exempt() -> None:
    graph = float_graph(Stage.QUANTIZED)
    extra = graph.call(ATEN.relu.default, (graph.results[0],), before=graph.output)
    set_quant(extra, Quant(intent=KeepFloat("no integer form")))
    graph.output.args = ((extra,),)
    verify_graph(graph)


def test_is_fast() -> None:
    graph = integer_graph(Stage.TARGETED, layers=60)
    assert len(graph.nodes) >= 300
    best = min(_timed(graph) for _ in range(5))
    assert best < 0.5  # a bound for loaded machines; an idle one takes a tenth


def _timed(graph: QGraph) -> float:
    start = perf_counter()
    verify_graph(graph)
    return perf_counter() - start
