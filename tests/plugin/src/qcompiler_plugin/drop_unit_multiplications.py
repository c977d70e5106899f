"""A pass of another package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.annotations import type_of
from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.ir.graph import QGraph, argument, is_call, is_constant
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

MUL = FLOAT_OPS["qfloat::mul"].overload


@dataclass(frozen=True)
class DropUnitMultiplications(Pass):
    """Removes multiplications by a constant whose elements are all one.

    Before:
        %y = qfloat::mul(%x, %ones)
        %z = qfloat::unary(%y, "sigmoid", [])
    After:
        %z = qfloat::unary(%x, "sigmoid", [])
    """

    name: ClassVar[str] = "drop-unit-multiplications"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives()

    tolerance: float = 0.0

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        changed = False
        for node in graph.calls:
            if not is_call(node, MUL):
                continue
            x, factor = argument(node, "a"), argument(node, "b")
            if not is_constant(factor) or type_of(x).shape != type_of(node).shape:
                continue
            if float((graph.constant(factor) - 1).abs().max()) <= self.tolerance:
                graph.replace(node, x)
                changed = True
        return changed
