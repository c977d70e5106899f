"""measure-sensitivity: the error that each group of weights adds at each width."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler import registry
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passes.analysis._metrics import SensitivityMetric, has_batches
from qcompiler.passes.analysis._probe import GroupError, Probe
from qcompiler.passes.analysis._state import CACHE, State
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

WIDTHS = (2, 3, 4, 5, 6, 8)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raises ValueError unless widths are distinct numbers from 2 to 8 in ascending order."""
    if not widths or list(widths) != sorted(set(widths)) or not 2 <= widths[0] <= widths[-1] <= 8:
        message = f"widths={','.join(map(str, widths))} are not ascending numbers from 2 to 8"
        raise ValueError(message)


@dataclass(frozen=True)
class MeasureSensitivity(Pass):
    """Measures how much the program errs when one group of weights alone gets fewer bits.

    ``metric`` is a name of the group ``qcompiler.sensitivities``: ``output`` the noise over signal
    of the results, ``fisher`` and ``hessian`` squared errors of weights by their curvature,
    ``label-free`` squared errors of layers' results by squared gradients of random projections.
    ``samples`` kept samples are used. Each group's errors are kept in ``state`` as soon as they are
    known: a folder, ``cache`` for the user's cache folder, or none.

    Raises:
        QCompilerError: QC0501 for an unknown metric, QC0604 when the folder cannot be written.
    """

    name: ClassVar[str] = "measure-sensitivity"
    needs: ClassVar[Needs] = Needs(Stage.CALIBRATED)
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    metric: str = "output"
    widths: tuple[int, ...] = WIDTHS
    samples: int = 8
    seed: int = 0
    state: str | None = CACHE

    def __post_init__(self) -> None:
        check_widths(self.widths)
        if self.samples < 1:
            message = f"samples={self.samples} is below 1"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Measures all groups and notes the most sensitive ones for the report."""
        probe = self.probe(graph, context)
        errors = self.measure(probe)
        ranked = sorted(zip(probe.groups, errors, strict=True), key=lambda p: -p[1].errors[0])
        for group, found in ranked[:3]:
            worst = f"{found.errors[0]:.3g} at {self.widths[0]} bits"
            context.notes.append(f"{group.name} adds {self.metric} error {worst}")
        context.notes.extend(probe.notes)
        return False

    def probe(self, graph: QGraph, context: PassContext) -> Probe:
        """Returns the samples and groups that metrics look at."""
        batches = [list(b) for b in context.calibration().kept_batches(self.samples)]
        if has_batches(graph) and len(batches) > 1:
            batches = [[torch.cat(parts) for parts in zip(*batches, strict=True)]]
        return Probe(
            graph, batches, self.widths, context.threads, self.seed, progress=context.progress
        )

    def measure(self, probe: Probe) -> Sequence[GroupError]:
        """Returns the errors of each group; those kept from an earlier run are not measured."""
        chosen = registry.load(registry.SENSITIVITIES, self.metric)
        metric: SensitivityMetric = chosen()  # type: ignore[operator]  # a metric's class
        state = State(self.state, probe.digest(str(metric)))
        found = {i: kept for i in range(len(probe.groups)) if (kept := state.read(i)) is not None}
        wanted = [i for i in range(len(probe.groups)) if i not in found]
        start = time.monotonic()
        if wanted:
            for done, (place, errors) in enumerate(metric.measure(probe, wanted), 1):
                found[place] = errors
                state.write(place, errors)
                left = (time.monotonic() - start) / done * (len(wanted) - done)
                what = f"measuring sensitivity of {len(probe.groups)} groups, {left:.0f} s left"
                probe.progress(what, len(found))
        return [found[i] for i in range(len(probe.groups))]
