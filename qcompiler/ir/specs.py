"""The specification of each stage, as rules that the verifier runs after every pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from qcompiler.ir.annotations import has_type, quant_of, type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, arguments
from qcompiler.ir.integer_ops import integer_op_of
from qcompiler.ir.integer_rules import INTEGER_RULES
from qcompiler.ir.queries import is_island, quantized_values
from qcompiler.ir.rules import FACTS, FORM, Rule, Violation, each
from qcompiler.ir.stages import Stage
from qcompiler.numerics.unary import UNARY

__all__ = ["FORM", "STAGES"]

_WEIGHT_OP = "qfloat::dequantize_weight"
_POSITIVE = ("stride", "dilation", "kernel", "output_size", "groups", "scale", "inv_scale", "step")
_NOT_NEGATIVE = ("padding", "counted")
_OURS = ("qfloat", "qcompiler")


def _namespace(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).split("::")[0] if schema is not None else ""


def _schema_name(node: fx.Node) -> str:
    """Returns the qualified name of the operator that a node calls, empty for other nodes."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else ""


def _traced_call(node: fx.Node) -> str | None:
    if node.op == "call_function" and _namespace(node) in _OURS:
        return f"%{node.name} calls {_schema_name(node)} before normalization"
    return None


def _normalized_call(node: fx.Node) -> str | None:
    if node.op != "call_function" or float_op_of(node.target) is not None or is_island(node):
        return None
    return f"%{node.name} calls {_schema_name(node) or node.target}"


def _arguments_in_range(node: fx.Node) -> str | None:
    if node.op != "call_function" or _namespace(node) not in _OURS:
        return None
    problem = _list_problem(given := arguments(node)) or _dims_problem(node, given)
    if problem is None and "function" in given and given["function"] not in UNARY:
        problem = f"names the unknown function {given['function']!r}"
    if problem is None and "min" in given:
        low, high = given["min"], given["max"]
        if low is not None and high is not None and not low <= high:
            problem = f"clamps to [{low}, {high}]"
    return f"%{node.name} {problem}" if problem else None


def _numbers(value: Any) -> list[Any]:
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in listed if isinstance(v, (int, float))]


def _list_problem(given: Mapping[str, Any]) -> str | None:
    for name, value in given.items():
        if name in _POSITIVE and not all(v > 0 for v in _numbers(value)):
            return f"has {name} = {value}"
        if name in _NOT_NEGATIVE and not all(v >= 0 for v in _numbers(value)):
            return f"has {name} = {value}"
    return None


def _dims_problem(node: fx.Node, given: Mapping[str, Any]) -> str | None:
    first = next((n for n in node.all_input_nodes if has_type(n)), None)
    if first is None:
        return None
    rank = type_of(first).rank
    dims = given.get("dims", given.get("dim"))
    if dims is None:
        return None
    listed = _numbers(dims)
    places = {d % rank for d in listed if -rank <= d < rank}
    if len(places) < len(listed):
        return f"names the dimensions {listed} of a value of rank {rank}"
    if _schema_name(node) == "qcompiler::permute" and len(places) != rank:
        return f"permutes {listed} of {rank} dimensions"
    return None


def _ranged(graph: QGraph) -> Iterator[Violation]:
    for node in quantized_values(graph):
        if not is_island(node) and quant_of(node).range is None:
            yield Violation(node, f"%{node.name} has no range")


def _quantized(graph: QGraph) -> Iterator[Violation]:
    for node in quantized_values(graph):
        if not is_island(node) and quant_of(node).qtype is None:
            problem = f"%{node.name} has neither a QType nor a reason to stay in float"
            yield Violation(node, problem)


def _integer_weights(node: fx.Node) -> str | None:
    op = float_op_of(node.target) if node.op == "call_function" else None
    if op is None or op.weight is None or is_island(node):
        return None
    weight = argument(node, op.weight)
    if not isinstance(weight, fx.Node) or _schema_name(weight) != _WEIGHT_OP:
        return f"the weight of %{node.name} is not behind {_WEIGHT_OP}"
    held = weight.args[0]
    if not isinstance(held, fx.Node) or held.op != "get_attr" or type_of(held).is_float:
        return f"the weight of %{node.name} is no integer constant"
    return None


def _proven(node: fx.Node) -> str | None:
    op = integer_op_of(node.target) if node.op == "call_function" else None
    if op is None or op.accumulator is None:
        return None
    quant, limits = quant_of(node), torch.iinfo(torch.int32)
    proofs = [quant.proof] if op.inner_accumulator is None else [quant.proof, quant.inner_proof]
    for proof in proofs:
        if proof is None:
            return f"the accumulator of %{node.name} has no proof"
        if not limits.min <= proof[0] <= proof[1] <= limits.max:
            return f"the accumulator of %{node.name} reaches {proof}"
    return None


def _properties_hold(graph: QGraph) -> Iterator[Violation]:
    if "accumulators-proven" not in graph.properties:
        yield Violation(None, "the property 'accumulators-proven' is missing")
    if "memory-planned" in graph.properties and graph.memory_plan is None:
        yield Violation(None, "the property 'memory-planned' is set and there is no memory plan")


def _used(node: fx.Node) -> str | None:
    if node.op in ("get_attr", "call_function") and not node.users:
        return f"%{node.name} is never used"
    return None


STAGES: tuple[Rule, ...] = (
    *FACTS,
    Rule(
        "traced-operators",
        "before normalization a graph has operators of torch only",
        "let capture produce the graph",
        each(_traced_call),
        until=Stage.TRACED,
    ),
    Rule(
        "normalized-operators",
        "calls are of the closed set of normalized float operators, or float islands",
        "convert the operator in normalize-ops, or mark it KeepFloat with a reason",
        each(_normalized_call),
        since=Stage.NORMALIZED,
        until=Stage.QUANTIZED,
    ),
    Rule(
        "arguments-in-range",
        "arguments of our operators are in the range that their definition covers",
        "correct the pass that built the call",
        each(_arguments_in_range),
        since=Stage.NORMALIZED,
    ),
    Rule(
        "ranges-known",
        "every float value that will be quantized has a range",
        "run propagate-ranges behind the last pass that adds values",
        _ranged,
        since=Stage.CALIBRATED,
        until=Stage.QUANTIZED,
    ),
    Rule(
        "values-quantized",
        "every float value has a QType or the intent KeepFloat",
        "give the value a QType, or a KeepFloat with the reason",
        _quantized,
        since=Stage.QUANTIZED,
        until=Stage.QUANTIZED,
    ),
    Rule(
        "weights-integer",
        "weights are integer constants behind qfloat.dequantize_weight",
        "run quantize-weights",
        each(_integer_weights),
        since=Stage.QUANTIZED,
        until=Stage.QUANTIZED,
    ),
    *INTEGER_RULES,
    Rule(
        "accumulators-proven",
        "each accumulator has a proven bound within int32",
        "run prove-accumulators behind the last pass that changes integer operators",
        each(_proven),
        since=Stage.TARGETED,
    ),
    Rule(
        "properties-hold",
        "a target program has proven accumulators, and a memory plan where it says so",
        "run prove-accumulators and plan-memory",
        _properties_hold,
        since=Stage.TARGETED,
    ),
    Rule(
        "no-dead-nodes",
        "every constant and call of a target program is used",
        "run eliminate-dead-nodes",
        each(_used),
        since=Stage.TARGETED,
    ),
)
