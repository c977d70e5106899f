"""lower-to-integer: float operators with types become integer operators with multipliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler import registry
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import (
    inherit_quant,
    origin_of,
    qtype_of,
    quant_of,
    type_of,
    update_quant,
)
from qcompiler.ir.graph import QGraph, is_constant, operator_of
from qcompiler.ir.queries import absorbing_clamp, is_island, quantized_values, value_operands
from qcompiler.ir.stages import Stage
from qcompiler.numerics.rounding import quantize_tensor
from qcompiler.passes.lowering._rules import INTEGER, RULES
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.rewrite.lowering import Lowering, Rule


@dataclass(frozen=True)
class LowerToInteger(Pass):
    """Replaces every float operator by its integer form; only the border stays in float.

    Inputs are quantized once, outputs dequantized once; a float island gets its operands
    dequantized and its result quantized. Multipliers are exact rationals until they are encoded.

    Raises:
        QCompilerError: QC0203 when an operator's arguments have no integer form, QC0303 when a
            multiplier cannot be encoded, QC0403 when a bias does not fit.

    Before: ``%y = qfloat.add(%a, %b)``
    After: ``%y = qcompiler.add(%a, %b, za, ma, zb, mb, shift, zo, -128, 127)``
    """

    name: ClassVar[str] = "lower-to-integer"
    needs: ClassVar[Needs] = Needs(Stage.QUANTIZED)
    gives: ClassVar[Gives] = Gives(stage=Stage.INTEGER)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Lowers the whole graph."""
        integers: dict[fx.Node, fx.Node] = {}
        floats = [n for n in graph.nodes if n.op in ("placeholder", "call_function")]
        for node in [n for n in quantized_values(graph) if is_constant(n)]:
            integers[node] = _quantize_constant(node, graph)
        for node in floats:
            if node.op == "placeholder":
                if type_of(node).is_float:
                    integers[node] = _quantize(node, graph)
            elif is_island(node):
                integers[node] = _keep_island(node, graph, integers)
            elif node.target is not torch.ops.qfloat.dequantize_weight.default:
                integers[node] = _lower(node, graph, integers)
        _dequantize_results(graph, integers)
        for node in reversed(graph.nodes):
            if node.op not in ("placeholder", "output") and not node.users:
                graph.erase(node)
        return True


def _rule(name: str) -> Rule | None:
    """Returns the built-in or registered lowering of an operator."""
    if name in RULES:
        return RULES[name]
    if name not in registry.names(registry.LOWERINGS):
        return None
    return registry.load(registry.LOWERINGS, name)  # type: ignore[return-value]  # a Rule


def _lower(node: fx.Node, graph: QGraph, integers: dict[fx.Node, fx.Node]) -> fx.Node:
    name = operator_of(node)._schema.name
    rule = _rule(name)
    if rule is None:
        raise QCompilerError(
            "QC0201",
            f"{name} has no lowering to integer operators",
            node=node.name,
            source=origin_of(node).source,
            remedy="register a lowering in the group qcompiler.lowerings, or use strict=False",
        )
    try:
        result = rule(Lowering(node, graph, integers))
    except QCompilerError as error:
        if error.node is not None:
            raise
        raise QCompilerError(
            error.code,
            error.problem,
            node=node.name,
            source=origin_of(node).source,
            remedy=error.remedy,
        ) from error
    if quant_of(result).stands_for is None:
        why = quant_of(result).why or quant_of(node).why
        inherit_quant(result, node)
        clamp = absorbing_clamp(node)
        update_quant(result, stands_for=None if clamp else node.name, intent=None, why=why)
    return result


def _quantize(node: fx.Node, graph: QGraph) -> fx.Node:
    """Inserts the quantization of a float value right after it."""
    qtype = qtype_of(node)
    inverse = torch.tensor(1.0 / qtype.tensor_scale, dtype=torch.float32).item()
    args = (node, inverse, qtype.tensor_zero_point, qtype.qmin, qtype.qmax)
    last = next(n for n in reversed(graph.inputs)) if node.op == "placeholder" else node
    quantized = graph.call(INTEGER.quantize.default, args, after=last, origin=node)
    inherit_quant(quantized, node)
    update_quant(quantized, stands_for=node.name, intent=None)
    return quantized


def _quantize_constant(node: fx.Node, graph: QGraph) -> fx.Node:
    qtype = qtype_of(node)
    codes = quantize_tensor(
        graph.constant(node), qtype.tensor_scale, qtype.tensor_zero_point, qtype.qmin, qtype.qmax
    )
    quantized = graph.add_constant(codes.to(qtype.dtype), f"{node.target}_codes", node)
    inherit_quant(quantized, node)
    return quantized


def _keep_island(node: fx.Node, graph: QGraph, integers: dict[fx.Node, fx.Node]) -> fx.Node:
    """Feeds an island with dequantized operands; returns its quantized result."""
    for operand in value_operands(node):
        if operand in integers and not is_island(operand):
            node.replace_input_with(operand, _dequantize(operand, graph, integers, node))
    update_quant(node, why=str(getattr(quant_of(node).intent, "reason", "")))
    return _quantize(node, graph) if quant_of(node).qtype is not None else node


def _dequantize(
    node: fx.Node, graph: QGraph, integers: dict[fx.Node, fx.Node], before: fx.Node
) -> fx.Node:
    qtype = qtype_of(node)
    args = (integers[node], qtype.tensor_scale, qtype.tensor_zero_point)
    return graph.call(INTEGER.dequantize.default, args, before=before, origin=node)


def _dequantize_results(graph: QGraph, integers: dict[fx.Node, fx.Node]) -> None:
    output = graph.output
    results = []
    for node in graph.results:
        if node in integers and not is_island(node):
            results.append(_dequantize(node, graph, integers, output))
        else:
            results.append(node)
    output.args = (tuple(results),)
