"""eliminate-dead-nodes: what nothing reads is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext


@dataclass(frozen=True)
class EliminateDeadNodes(Pass):
    """Removes calls and constants that no result depends on.

    Before::

        %a : f32[batch,8] = qfloat.clamp(%x, 0.0, none)
        %b : f32[batch,8] = qfloat.unary(%x, "tanh", [])
        return (%a)

    After::

        %a : f32[batch,8] = qfloat.clamp(%x, 0.0, none)
        return (%a)
    """

    name: ClassVar[str] = "eliminate-dead-nodes"
    needs: ClassVar[Needs] = Needs(Stage.TRACED, until=Stage.TARGETED)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        return graph.erase_dead() > 0
