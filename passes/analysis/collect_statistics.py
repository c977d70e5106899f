"""collect-statistics: one calibration run for every statistic that later passes ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest


@dataclass(frozen=True)
class CollectStatistics(Pass):
    """Runs the float graph once over the calibration data and gathers all requested statistics.

    Memory does not depend on the number of samples: data are streamed in slices of ``chunk``
    samples, and every statistic has a constant size.
    """

    name: ClassVar[str] = "collect-statistics"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives(properties=("statistics-collected",), preserves=("*",))

    chunk: int = 8

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Fills ``context.statistics``; the graph stays as it is."""
        observers = {request: request.statistic.observe() for request in context.requests}
        by_node: dict[str, list[StatisticRequest]] = {}
        for request in observers:
            by_node.setdefault(request.node, []).append(request)
        seen = 0
        for inputs in self._slices(graph, context):
            count = inputs[0].shape[0] if inputs[0].dim() else 1
            for node, value in graph.trace(*inputs):
                for request in by_node.get(node.name, ()):
                    taken = _limited(value, request, seen)
                    if taken is not None:
                        observers[request].update(taken)
            seen += count
            context.progress("calibrating", seen)
        context.statistics.update(
            {request: observer.result() for request, observer in observers.items()}
        )
        return False

    def _slices(self, graph: QGraph, context: PassContext) -> Iterator[Sequence[torch.Tensor]]:
        for batch in context.calibration().batches():
            yield from slices(graph, batch, self.chunk)


def slices(
    graph: QGraph, batch: Sequence[torch.Tensor], chunk: int
) -> Iterator[Sequence[torch.Tensor]]:
    """Yields a batch in slices along the batch dimension, whole when that is not dynamic."""
    if "batch" not in graph.symbols:
        yield batch
        return
    for start in range(0, batch[0].shape[0], chunk):
        yield [t[start : start + chunk] for t in batch]


def _limited(value: torch.Tensor, request: StatisticRequest, seen: int) -> torch.Tensor | None:
    """Returns the samples of a slice that a request still takes."""
    if request.samples is None:
        return value
    return value[: request.samples - seen] if seen < request.samples else None
