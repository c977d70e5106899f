"""propagate-ranges: the range of every value, from calibration and from sound bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, quant_of, type_of, update_quant
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_constant, operator_of
from qcompiler.ir.intent import Spec
from qcompiler.ir.queries import (
    absorbing_clamp,
    constant_interval,
    fixed_output,
    is_island,
    operand_facts,
    quantized_values,
    value_operands,
)
from qcompiler.ir.stages import Stage
from qcompiler.numerics.calibrators import CALIBRATORS, Calibrator, calibrator_class
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.ranges import Range
from qcompiler.passmgr.analyses import Analysis
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest


@dataclass(frozen=True)
class FloatIntervals(Analysis[dict[fx.Node, Interval]]):
    """Sound intervals of all values of a float graph by interval arithmetic over its operators."""

    name: ClassVar[str] = "float-intervals"

    def compute(self, graph: QGraph) -> dict[fx.Node, Interval]:
        """Returns an interval for each node; unbounded where nothing is known."""
        found: dict[fx.Node, Interval] = {}
        for node in graph.nodes:
            op = float_op_of(node.target) if node.op == "call_function" else None
            if is_constant(node) and graph.constant(node).numel():
                found[node] = constant_interval(graph.constant(node))
            elif op is not None and not is_island(node):
                found[node] = op.interval(operand_facts(node, graph, found))
            else:
                found[node] = Interval.everything()
        return found


@dataclass(frozen=True)
class PropagateRanges(Pass):
    """Gives every value a range: what calibration saw, within what its operators can produce.

    ``method`` names the calibrator (minmax, moving-average, percentile, mse, kl, octav); ``q`` is
    the percentile, ``p`` the power of the error that mse minimizes; calibrators that clip do so for
    the bits that a value's intent asks for, else for ``bits``. Ranges of inputs, and of
    results that are stored, are observed; data movement keeps its operand's range; a result that a
    clamp narrows at once takes the clamp's.

    Raises:
        QCompilerError: QC0302 for a value that no sample reached, QC0106 for NaN or infinity.
    """

    name: ClassVar[str] = "propagate-ranges"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED, properties=("statistics-collected",))
    gives: ClassVar[Gives] = Gives(stage=Stage.CALIBRATED, preserves=("*",))

    method: str = "minmax"
    q: float = 99.99
    p: float = 2.0
    bits: int = 8

    def __post_init__(self) -> None:
        if self.method not in CALIBRATORS:
            known = ", ".join(sorted(CALIBRATORS))
            message = f"method={self.method!r} is none of {known}"
            raise ValueError(message)
        if not 2 <= self.bits <= 8:
            message = f"bits={self.bits} is outside [2, 8]"
            raise ValueError(message)
        if not (0 < self.q <= 100 and self.p >= 1):
            message = f"q={self.q} is outside (0, 100], or p={self.p} is below 1"
            raise ValueError(message)

    @property
    def calibrator(self) -> Calibrator:
        """The calibrator that the options describe."""
        cls = calibrator_class(self.method)
        options = {"percentile": {"q": self.q}, "mse": {"p": self.p}}.get(self.method, {})
        return cls(**options)

    def statistics(self, graph: QGraph) -> Sequence[StatisticRequest]:
        """Asks for the calibrator's statistic of every observed value."""
        if graph.stage != Stage.NORMALIZED:
            return ()
        statistic = self.calibrator.statistic
        return [
            StatisticRequest(n.name, statistic) for n in quantized_values(graph) if _observed(n)
        ]

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Sets the range fact of every quantized value."""
        calibrator = self.calibrator
        intervals = context.analysis(FloatIntervals(), graph)
        for node in quantized_values(graph):
            if _observed(node):
                request = StatisticRequest(node.name, calibrator.statistic)
                intent = quant_of(node).intent
                bits = intent.bits if isinstance(intent, Spec) else self.bits
                seen = calibrator.range_of(context.statistic(request), bits, False)
                found = seen.meet(intervals[node])
            elif is_constant(node):
                low_high = constant_interval(graph.constant(node))
                found = Range.of(float(low_high.lo), float(low_high.hi))
            else:
                found = _derived(node)
            _check(node, found)
            update_quant(node, range=found)
        for node in quantized_values(graph):
            clamp = absorbing_clamp(node)
            if clamp is not None:
                update_quant(node, range=quant_of(clamp).range)
        return True


def _check(node: fx.Node, found: Range) -> None:
    place = {"node": node.name, "source": origin_of(node).source}
    if not found.is_observed:
        raise QCompilerError(
            "QC0302",
            f"no calibration sample reached {node.name}",
            remedy="calibrate with data that use this branch",
            **place,
        )
    if found.has_nonfinite:
        raise QCompilerError(
            "QC0106",
            f"calibration gave {node.name} a value that is NaN or infinite",
            remedy="mend the model or the data; express a mask of -inf as a select",
            **place,
        )


def _observed(node: fx.Node) -> bool:
    """Says whether a value's range comes from calibration."""
    if node.op == "placeholder" or is_island(node):
        return True
    op = float_op_of(node.target) if node.op == "call_function" else None
    if op is None or op.sharing == "hard" or absorbing_clamp(node) is not None:
        return False
    return op.name not in ("concat", "pad") and fixed_output(node) is None


def _derived(node: fx.Node) -> Range:
    fixed = fixed_output(node)
    if fixed is not None:
        scale, zero_point = fixed
        return Range.of((-128 - zero_point) * scale, (127 - zero_point) * scale)
    if absorbing_clamp(node) is not None:
        return Range.of(0.0, 0.0)  # replaced by the clamp's range once that is known
    joined = Range.unobserved()
    for operand in value_operands(node):
        if type_of(operand).is_float:
            joined = joined.join(quant_of(operand).range or Range.unobserved())
    value = argument(node, "value") if operator_of(node)._schema.name.endswith("::pad") else None
    return joined if value is None else joined.join(Range.of(float(value), float(value)))
