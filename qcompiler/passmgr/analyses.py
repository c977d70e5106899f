"""Analyses: facts computed from a graph on demand, cached, and dropped when a pass changes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from qcompiler.ir.graph import QGraph

Result = TypeVar("Result")


@dataclass(frozen=True)
class Analysis(ABC, Generic[Result]):
    """A pure function of a graph, as a frozen dataclass whose fields are its parameters."""

    name: ClassVar[str]

    @abstractmethod
    def compute(self, graph: QGraph) -> Result:
        """Returns the facts; the graph is not changed."""


class AnalysisCache:
    """Holds the results of analyses of the graph at hand; another graph starts anew."""

    def __init__(self) -> None:
        self._graph: QGraph | None = None
        self._results: dict[Analysis[Any], Any] = {}

    def get(self, analysis: Analysis[Result], graph: QGraph) -> Result:
        """Returns the analysis's result, computed now if it is not cached."""
        if graph is not self._graph:
            self._graph, self._results = graph, {}
        if analysis not in self._results:
            self._results[analysis] = analysis.compute(graph)
        found: Result = self._results[analysis]
        return found

    def invalidate(self, preserves: tuple[str, ...]) -> None:
        """Drops all results but those of the named analyses; ``"*"`` keeps all."""
        if "*" not in preserves:
            kept = {a: r for a, r in self._results.items() if a.name in preserves}
            self._results = kept
