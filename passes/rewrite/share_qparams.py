"""share-qparams: a type for every value, from a graph of constraints solved without an order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import networkx as nx
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, quant_of, type_of, update_quant
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, is_call
from qcompiler.ir.intent import Fixed, Intent, SharedWith, Spec
from qcompiler.ir.qtypes import QType
from qcompiler.ir.queries import (
    absorbing_clamp,
    fixed_output,
    is_island,
    quantized_values,
    value_operands,
)
from qcompiler.ir.stages import Stage
from qcompiler.numerics.ranges import Range, qparams
from qcompiler.numerics.rounding import integer_limits
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext


@dataclass(frozen=True)
class Constraint:
    """Two values that have the same parameters; a soft one may be cut by a requantization."""

    one: str
    other: str
    hard: bool


@dataclass(frozen=True)
class ShareQparams(Pass):
    """Assigns each value a scale and a zero point; values that must agree form one group.

    Data movement, max pooling and a clamp right after its producer share by necessity; the operands
    of a concat, and a clamp of a value that is used elsewhere, share where the common range is at
    most ``max_widening`` times the narrower one, and are requantized otherwise. Groups are the
    connected components of the constraint graph, so the result does not depend on node order.

    Raises:
        QCompilerError: QC0301 when one group holds two different fixed parameters.
    """

    name: ClassVar[str] = "share-qparams"
    needs: ClassVar[Needs] = Needs(Stage.CALIBRATED)
    gives: ClassVar[Gives] = Gives(properties=("qparams-assigned",), preserves=("*",))

    bits: int = 8
    symmetric: bool = False
    max_widening: float = 2.0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            message = f"bits={self.bits} is outside [2, 8]"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Sets intent and QType of every quantized value."""
        values = {node.name: node for node in quantized_values(graph)}
        constraints = list(constraints_of(values.values()))
        groups: nx.Graph[str] = nx.Graph()
        groups.add_nodes_from(sorted(values))
        groups.add_edges_from((c.one, c.other) for c in constraints if c.hard)
        self._merge_soft(groups, values, [c for c in constraints if not c.hard])
        scales = [self._group(sorted(g), values) for g in nx.connected_components(groups)]
        types = {name: qtype for group in scales for name, qtype in group.items()}
        self._widen_sums(groups, values, types)
        shared = {c.one: c.other for c in constraints}
        for name, node in values.items():
            intent = quant_of(node).intent or self._intent(node, shared.get(name), types)
            update_quant(node, qtype=types[name], intent=intent)
        return True

    def _intent(self, node: fx.Node, other: str | None, types: dict[str, QType]) -> Intent:
        if fixed_output(node) is not None:
            qtype = types[node.name]
            return Fixed(qtype.tensor_scale, qtype.tensor_zero_point, qtype.bits)
        if other is not None and types[node.name] == types[other]:
            return SharedWith(other)
        return Spec(self.bits, symmetric=self.symmetric)

    def _merge_soft(
        self, groups: nx.Graph[str], values: dict[str, fx.Node], soft: list[Constraint]
    ) -> None:
        """Joins groups over soft constraints, the cheapest first, as long as it stays cheap.

        Constraints of equal price are taken together, so that names decide nothing.
        """

        def group(name: str) -> set[str]:
            found: set[str] = nx.node_connected_component(groups, name)
            return found

        def cost(constraint: Constraint) -> float:
            one, other = (self._hull(group(n), values) for n in (constraint.one, constraint.other))
            return _widening(one, other)

        waiting = sorted(soft, key=lambda c: (c.one, c.other))
        while waiting:
            prices = [cost(constraint) for constraint in waiting]
            least = min(prices)
            if least > self.max_widening:
                return
            for constraint, price in zip(waiting, prices, strict=True):
                joined = group(constraint.one) | group(constraint.other)
                if price == least and self._fits(joined, values):
                    groups.add_edge(constraint.one, constraint.other)
            waiting = [c for c, price in zip(waiting, prices, strict=True) if price > least]

    def _fits(self, names: Iterable[str], values: dict[str, fx.Node]) -> bool:
        """Says whether values can share: the same bits, and a range that a fixed type holds."""
        asked = [self._wanted(values[name]) for name in names]
        if len(set(asked)) > 1:
            return False
        bits, _ = asked[0]
        fixed = _fixed_of(names, values, bits)
        if len(fixed) != 1:
            return not fixed
        ((scale, zero_point),) = fixed
        hull = self._hull(names, values)
        lowest, highest = integer_limits(bits)
        low, high = (lowest - zero_point - 0.5) * scale, (highest - zero_point + 1) * scale
        return low <= hull.lo and hull.hi <= high

    def _hull(self, names: Iterable[str], values: dict[str, fx.Node]) -> Range:
        hull = Range.unobserved()
        for name in sorted(names):
            if absorbing_clamp(values[name]) is None:
                hull = hull.join(quant_of(values[name]).range or Range.unobserved())
        return hull.with_zero()

    def _group(self, names: list[str], values: dict[str, fx.Node]) -> dict[str, QType]:
        bits, symmetric = self._asked(names, values)
        fixed = _fixed_of(names, values, bits)
        if len(fixed) > 1:
            (one, name_one), (two, name_two) = sorted(
                ((f, n) for f, n in fixed.items()), key=lambda item: item[1]
            )[:2]
            raise QCompilerError(
                "QC0301",
                f"{name_one} is fixed to scale {one[0]:.6g}, zero point {one[1]}, {name_two} to "
                f"scale {two[0]:.6g}, zero point {two[1]}, but data movement joins them",
                node=name_one,
                source=origin_of(values[name_one]).source,
                remedy="fix only one of them, or separate them by an operator that requantizes",
            )
        if fixed:
            ((scale, zero_point),) = fixed
        else:
            scale, zero_point = qparams(self._hull(names, values), bits, True, symmetric)
        return {n: QType(bits, (scale,), (zero_point,)) for n in names}

    def _asked(self, names: Iterable[str], values: dict[str, fx.Node]) -> tuple[int, bool]:
        """Returns the bits and the symmetry that earlier passes asked for, or the pass's own."""
        asked: dict[tuple[int, bool], str] = {}
        for name in sorted(names):
            if isinstance(quant_of(values[name]).intent, Spec):
                asked.setdefault(self._wanted(values[name]), name)
        if len(asked) > 1:
            first, second = sorted(asked.values())[:2]
            raise QCompilerError(
                "QC0301",
                f"{first} and {second} share parameters, and different ones are asked for them",
                node=first,
                source=origin_of(values[first]).source,
                remedy="ask for the same bits and symmetry, or separate the two",
            )
        return next(iter(asked), (self.bits, self.symmetric))

    def _wanted(self, node: fx.Node) -> tuple[int, bool]:
        """Returns the bits and the symmetry of one value by its intent, or the pass's own."""
        intent = quant_of(node).intent
        if isinstance(intent, Spec):
            return intent.bits, intent.symmetric or self.symmetric
        return self.bits, self.symmetric

    def _widen_sums(
        self, groups: nx.Graph[str], values: dict[str, fx.Node], types: dict[str, QType]
    ) -> None:
        """Raises the scale of a sum that is over 255 times finer than an operand's.

        The integer add encodes ratios below 2**8 (integer semantics 5.5).
        """
        sums = [v for v in values.values() if is_call(v, *_SUMS)]
        for _ in range(len(sums)):
            stable = True
            for node in sums:
                least = max(types[o.name].tensor_scale for o in value_operands(node)) / 255
                own, group = types[node.name], nx.node_connected_component(groups, node.name)
                if own.tensor_scale < least and not _fixed_of(group, values, own.bits):
                    stable = False
                    wider = QType(own.bits, (least,), own.zero_point)
                    for name in group:
                        types[name] = wider
            if stable:
                return


_SUMS = (torch.ops.qfloat.add.default, torch.ops.qfloat.sub.default)


def constraints_of(values: Iterable[fx.Node]) -> Iterator[Constraint]:
    """Yields the sharing constraints between quantized values."""
    for node in values:
        intent = quant_of(node).intent
        if isinstance(intent, SharedWith):
            yield Constraint(node.name, intent.other, hard=intent.hard)
        clamp = absorbing_clamp(node)
        if clamp is not None:
            yield Constraint(node.name, clamp.name, hard=True)
        op = float_op_of(node.target) if node.op == "call_function" else None
        if op is None or is_island(node) or op.sharing == "own":
            continue
        for operand in value_operands(node):
            if not type_of(operand).is_float or absorbing_clamp(operand) is node:
                continue
            yield Constraint(node.name, operand.name, hard=op.sharing == "hard")


def _fixed_of(
    names: Iterable[str], values: dict[str, fx.Node], bits: int
) -> dict[tuple[float, int], str]:
    """Returns the distinct fixed parameters among values, each with the first value's name.

    Those that a function's meaning fixes are for 8 bits; fewer bits have larger steps.
    """
    found: dict[tuple[float, int], str] = {}
    for name in sorted(names):
        intent = quant_of(values[name]).intent
        absorbed = absorbing_clamp(values[name]) is not None
        fixed = None if absorbed else fixed_output(values[name])
        if fixed is not None:
            step = 2.0 ** (8 - bits)
            fixed = (fixed[0] * step, round(fixed[1] / step))
        if isinstance(intent, Fixed):
            fixed = (intent.scale, intent.zero_point)
        if fixed is not None:
            found.setdefault(fixed, name)
    return found


def _widening(one: Range, other: Range) -> float:
    """Returns how much wider the common range is than the narrower of two."""
    joined = one.join(other)
    narrow = min(one.hi - one.lo, other.hi - other.lo)
    return (joined.hi - joined.lo) / narrow if narrow > 0 else 1.0
