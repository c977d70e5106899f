"""plan-memory: one static arena for all intermediate values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import counted
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.runtime.memory_liveness import find_liveness

# Longer formulas are left out of the report; the program's text has them.
_SHORT = 40


@dataclass(frozen=True)
class PlanMemory(Pass):
    """Gives every intermediate value an offset in one arena; values alive together never overlap.

    A call writes over an operand that nothing needs any more where the target says that its kernel
    may; a reshape that leaves the bytes as they are has the memory of its operand. Inputs,
    constants and results live outside of the arena. Offsets are exact for every size of a dynamic
    dimension; ``batch`` is the size that the placement is tuned for, ``length`` that of dynamic
    dimensions which lead no input.
    """

    name: ClassVar[str] = "plan-memory"
    needs: ClassVar[Needs] = Needs(Stage.TARGETED)
    gives: ClassVar[Gives] = Gives(properties=("memory-planned",), preserves=("*",))

    batch: int = 1
    length: int = 224

    def __post_init__(self) -> None:
        for name in ("batch", "length"):
            if getattr(self, name) < 1:
                message = f"{name}={getattr(self, name)} is below 1"
                raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Records the plan on the graph."""
        live = find_liveness(graph, context.target)
        example = self._sizes(graph, 1)
        plan = graph.memory_plan = live.plan(example, [self._sizes(graph, 4)])
        at = ", ".join(f"{name} {size}" for name, size in example.items())
        formula = f" ({plan.size})" if at and len(str(plan.size)) < _SHORT else ""
        context.notes.append(
            f"arena: {plan.example_size} bytes{f' at {at}' if at else ''}{formula};"
            f" no plan needs less than {plan.peak};"
            f" {counted(live.in_place, 'result')} in the place of an operand,"
            f" {counted(live.views, 'view')}. Threads that share the samples of a batch hold one"
            " slice of them each (ADR 0007)"
        )
        return False

    def _sizes(self, graph: QGraph, factor: int) -> dict[str, int]:
        """Returns the sizes to tune for times a factor, each within its limits."""
        leading = {str(shape[0]) for n in graph.inputs if (shape := type_of(n).shape)}
        return {
            name: min(max(factor * (self.batch if name in leading else self.length), s.low), s.high)
            for name, s in graph.symbols.items()
        }
