"""prove-accumulators: a bound for every sum from the actual integer weights, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, type_of, update_quant
from qcompiler.ir.graph import QGraph, arguments, is_call, is_constant
from qcompiler.ir.integer_ops import integer_op_of
from qcompiler.ir.queries import constant_interval, operand_facts, product_arguments
from qcompiler.ir.stages import Stage
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.requant import input_range_of_shift
from qcompiler.passmgr.analyses import Analysis
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

INT32 = Interval(-(2**31), 2**31 - 1)
# A multiplier from this on keeps an 8-bit result unchanged where the input saturates.
_NORMALIZED = 2**30


@dataclass(frozen=True)
class IntegerIntervals(Analysis[dict[fx.Node, Interval]]):
    """Exact intervals of the codes of every value of an integer graph."""

    name: ClassVar[str] = "integer-intervals"

    def compute(self, graph: QGraph) -> dict[fx.Node, Interval]:
        """Returns an interval for each tensor node; float values are unbounded."""
        found: dict[fx.Node, Interval] = {}
        for node in graph.nodes:
            op = integer_op_of(node.target) if node.op == "call_function" else None
            if is_constant(node) and graph.constant(node).numel():
                found[node] = constant_interval(graph.constant(node))
            elif op is not None:
                found[node] = op.interval(operand_facts(node, graph, found))
            else:
                found[node] = Interval.everything()
        return found


@dataclass(frozen=True)
class ProveAccumulators(Pass):
    """Proves for each sum that it fits int32, and for each requantization that its shift is legal.

    The bound of a product takes each integer weight at the end of its input's interval that makes
    the sum largest (integer semantics 7.1); the interval of the input follows from the operators
    before it. The proven interval is recorded on the node.

    Raises:
        QCompilerError: QC0401 when a sum may leave int32, QC0402 when a requantization's input may
            leave the range that its shift allows and the result would show it.
    """

    name: ClassVar[str] = "prove-accumulators"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER, until=Stage.TARGETED)
    gives: ClassVar[Gives] = Gives(properties=("accumulators-proven",), preserves=("*",))

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Records the proof of every call that accumulates."""
        intervals = context.analysis(IntegerIntervals(), graph)
        for node in graph.calls:
            op = integer_op_of(node.target)
            if op is None:
                continue
            bounds = []
            if op.inner_accumulator is not None:
                bounds.append(op.inner_accumulator(operand_facts(node, graph, intervals)))
                update_quant(node, inner_proof=_proven(node, bounds[0]))
            if op.accumulator is not None:
                bounds.append(op.accumulator(operand_facts(node, graph, intervals)))
                update_quant(node, proof=_proven(node, bounds[-1]))
            elif is_call(node, torch.ops.qcompiler.requantize.default):
                x, z = node.args[0], arguments(node)["x_zero_point"]
                bounds.append(Interval(intervals[x].lo - z, intervals[x].hi - z))  # type: ignore[index]  # x is a node
            for options, bound in zip(product_arguments(node), bounds, strict=False):
                _check_shift(node, options, graph, bound)
        return True


def _proven(node: fx.Node, bound: Interval) -> tuple[int, int]:
    """Returns the bound of a sum where it fits int32."""
    if not INT32.contains(bound):
        raise QCompilerError(
            "QC0401",
            f"the sum of {node.name} may reach [{bound.lo:.6g}, {bound.hi:.6g}]",
            node=node.name,
            source=origin_of(node).source,
            remedy="split the layer, use fewer bits, or declare a maximum for a dynamic dimension",
        )
    return int(bound.lo), int(bound.hi)


def _check_shift(node: fx.Node, options: Mapping[str, Any], graph: QGraph, bound: Interval) -> None:
    """Checks the precondition of every shift that a call applies to one of its sums."""
    multipliers, shifts = options.get("multiplier"), options.get("shift")
    if multipliers is None or shifts is None or is_call(node, torch.ops.qcompiler.add.default):
        return
    m = _numbers(multipliers, graph)
    s = _numbers(shifts, graph)
    narrow = type_of(node).dtype == torch.int8
    for multiplier, shift in zip(m, s, strict=True):
        low, high = input_range_of_shift(shift)
        harmless = narrow and (multiplier >= _NORMALIZED or multiplier == 0)
        if not (low <= bound.lo and bound.hi <= high) and not harmless:
            raise QCompilerError(
                "QC0402",
                f"{node.name} shifts by {shift}, which takes [{low}, {high}]; its input may reach "
                f"[{bound.lo}, {bound.hi}]",
                node=node.name,
                source=origin_of(node).source,
                remedy="use a normalized multiplier (integer semantics 2.3) or clamp the input",
            )


def _numbers(value: object, graph: QGraph) -> list[int]:
    if isinstance(value, fx.Node):
        return [int(v) for v in graph.constant(value).tolist()]
    return [int(value)]  # type: ignore[call-overload]  # an int by the schema
