"""legalize-for-target: every operator has a kernel on the target, or the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.annotations import origin_of, quant_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import KeepFloat
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext


@dataclass(frozen=True)
class LegalizeForTarget(Pass):
    """Checks each operator against the target's datasheet and hands the graph to the target.

    Raises:
        QCompilerError: QC0201 listing every operator that the target refuses, with its reasons.
    """

    name: ClassVar[str] = "legalize-for-target"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER, properties=("accumulators-proven",))
    gives: ClassVar[Gives] = Gives(stage=Stage.TARGETED, preserves=("*",))

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Asks the target about each call; a graph without a target passes."""
        if context.strict:
            _refuse_islands([node for node in graph.calls if is_island(node) and not _asked(node)])
        if context.target is None:
            return False
        refused = [
            (node, reason)
            for node in graph.calls
            if not is_island(node) and (reason := context.target.why_not(node))
        ]
        if refused:
            lines = [
                f"{node.name}: {reason} ({origin_of(node).source or 'no source line'})"
                for node, reason in refused
            ]
            without = f"{counted(len(refused), 'operator')} without a form"
            raise QCompilerError(
                "QC0201",
                "\n    ".join([f"{without} on {context.target.name}:", *lines]),
                node=refused[0][0].name,
                source=origin_of(refused[0][0]).source,
                remedy="choose another target, or replace these operators in the model",
            )
        return False


def _asked(node: fx.Node) -> bool:
    """Says whether the user asked for a float operator."""
    intent = quant_of(node).intent
    return isinstance(intent, KeepFloat) and intent.pinned


def _refuse_islands(islands: list[fx.Node]) -> None:
    """Raises QC0201 when a pass kept operators in floating point under strict=True."""
    if not islands:
        return
    lines = [
        f"{node.name}: {quant_of(node).why} ({origin_of(node).source or 'no source line'})"
        for node in islands
    ]
    raise QCompilerError(
        "QC0201",
        f"{len(islands)} operators stay in floating point:\n    " + "\n    ".join(lines),
        node=islands[0].name,
        source=origin_of(islands[0]).source,
        remedy="compile with strict=False to allow float islands",
    )
