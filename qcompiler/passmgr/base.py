"""Pass: a frozen dataclass with a name, typed options, what it needs and gives, and one method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage

if TYPE_CHECKING:
    from qcompiler.passmgr.context import PassContext
    from qcompiler.passmgr.statistics import StatisticRequest
    from qcompiler.target.base import Target


@dataclass(frozen=True)
class Needs:
    """What must hold before a pass runs: the stage that the graph is at, and properties.

    ``stage`` is the earliest stage, ``until`` the latest one (the same when None).
    """

    stage: Stage
    until: Stage | None = None
    properties: tuple[str, ...] = ()

    @property
    def last(self) -> Stage:
        """The latest stage at which the pass may run."""
        return self.stage if self.until is None else self.until


@dataclass(frozen=True)
class Gives:
    """What holds after a pass: a new stage, new properties, and what it preserves.

    ``drops`` names properties that the pass destroys; ``preserves`` names analyses that stay valid
    (``("*",)`` for all of them).
    """

    stage: Stage | None = None
    properties: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    preserves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes; the fields of a subclass are its options and round-trip as text.

    A subclass sets ``name`` (verb first, with dashes), ``needs`` and ``gives``, and implements
    ``run``. Its docstring's first sentence is its entry in the catalogue.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    gives: ClassVar[Gives] = Gives()

    @abstractmethod
    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""

    def check(self, target: Target) -> None:  # noqa: B027  # most passes suit every target
        """Refuses options that a target cannot run; compile() asks before any other work.

        Raises:
            QCompilerError: with what the target runs.
        """

    def statistics(self, graph: QGraph) -> Sequence[StatisticRequest]:
        """Returns what the pass wants observed in the one calibration run that precedes it."""
        return ()

    def __str__(self) -> str:
        from qcompiler.passmgr.options import format_pass

        return format_pass(self)


@dataclass(frozen=True)
class PassRecord:
    """What a pass did in a run: seconds taken, whether it changed the graph, the node counts."""

    text: str
    seconds: float
    changed: bool
    nodes: int
    notes: tuple[str, ...] = field(default=())
