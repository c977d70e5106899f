"""PassContext: what a pass may use besides the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.analyses import Analysis, AnalysisCache
from qcompiler.passmgr.statistics import StatisticRequest, Statistics

if TYPE_CHECKING:
    import torch

    from qcompiler.allocation import Allocation
    from qcompiler.calibration import CalibrationData
    from qcompiler.target.base import Target

Result = TypeVar("Result")
Progress = Callable[[str, int | None], None]


def _silent(what: str, done: int | None) -> None:
    """Shows no progress."""


@dataclass
class PassContext:
    """The target, the options of the compile, the calibration data, and cached analyses.

    ``requests`` holds what later passes of the pipeline want observed; ``statistics`` what the
    calibration run found; ``notes`` collects remarks of passes for the report. ``float_weights``
    holds what quantize-weights replaced, by the name of the node that reads the integer weight: a
    later pass that chooses the integers anew needs it, and nothing after the compile does;
    ``weight_factors`` holds the integer factor of each weight, by the same name, where groups of a
    channel have factors (numerics/groups.py).
    ``allocation`` says which bits allocate-bits chose; ``tunes`` that this machine may be measured.
    ``threads`` is how many threads may work on samples at a time; no result depends on it.
    """

    target: Target | None = None
    strict: bool = True
    data: CalibrationData | None = None
    progress: Progress = _silent
    threads: int = 1
    requests: Sequence[StatisticRequest] = ()
    statistics: Statistics = field(default_factory=dict)
    tunes: bool = False
    allocation: Allocation | None = None
    notes: list[str] = field(default_factory=list)
    float_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    weight_factors: dict[str, torch.Tensor] = field(default_factory=dict)
    analyses: AnalysisCache = field(default_factory=AnalysisCache)

    def analysis(self, analysis: Analysis[Result], graph: QGraph) -> Result:
        """Returns an analysis's result for the graph, cached until a pass changes the graph."""
        return self.analyses.get(analysis, graph)

    def statistic(self, request: StatisticRequest) -> Any:
        """Returns what the calibration run found; raises QC0503 when it was not asked for."""
        if request not in self.statistics:
            raise QCompilerError(
                "QC0503",
                f"this run has no statistics of {request.node}",
                remedy="run collect-statistics in the same pipeline, before the pass that needs it",
            )
        return self.statistics[request]

    def calibration(self) -> CalibrationData:
        """Returns the calibration data; raises QC0503 when the compile has none."""
        if self.data is None:
            raise QCompilerError(
                "QC0503",
                "a pass of the pipeline needs calibration data, and none were given",
                remedy="pass calibration data to compile(), or --data on the command line",
            )
        return self.data
