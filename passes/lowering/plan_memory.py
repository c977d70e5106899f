"""plan-memory: one static arena for all intermediate values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.runtime.memory import Lifetime, plan_memory


@dataclass(frozen=True)
class PlanMemory(Pass):
    """Gives every intermediate value an offset in one arena; values alive together never overlap.

    Inputs, constants and results live outside of the arena. Offsets are exact for every size of a
    dynamic dimension; ``batch`` is the size that the placement is tuned for.
    """

    name: ClassVar[str] = "plan-memory"
    needs: ClassVar[Needs] = Needs(Stage.TARGETED)
    gives: ClassVar[Gives] = Gives(properties=("memory-planned",), preserves=("*",))

    batch: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            message = f"batch={self.batch} is below 1"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Records the plan on the graph."""
        example = {
            name: min(max(self.batch, span.low), span.high) for name, span in graph.symbols.items()
        }
        graph.memory_plan = plan_memory(lifetimes(graph), example)
        plan = graph.memory_plan
        context.notes.append(f"arena {plan.size} bytes; no plan needs less than {plan.peak}")
        return False


def lifetimes(graph: QGraph) -> list[Lifetime]:
    """Returns the values that need room in the arena, with the steps at which they are alive."""
    step = {node: position for position, node in enumerate(graph.nodes)}
    results = set(graph.results)
    return [
        Lifetime(
            node.name,
            type_of(node).nbytes(),
            step[node],
            max((step[user] for user in node.users), default=step[node]),
        )
        for node in graph.calls
        if node not in results
    ]
