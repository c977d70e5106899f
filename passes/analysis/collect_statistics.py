"""collect-statistics: one calibration run for every statistic that later passes ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from qcompiler.calibration import batch_size, has_batch
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest
from qcompiler.runtime.workers import ordered_map

# Samples whose values of an image network fit the caches of a core.
_CACHED = 4

_Observed = dict[StatisticRequest, Any]


@dataclass(frozen=True)
class CollectStatistics(Pass):
    """Runs the float graph once over the calibration data and gathers all requested statistics.

    Memory does not depend on the number of samples: data are streamed in slices of at most
    ``chunk`` samples, and every statistic has a constant size. A moving average of extremes makes
    one step for each slice; where no statistic depends on them, slices are shorter.
    """

    name: ClassVar[str] = "collect-statistics"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives(properties=("statistics-collected",), preserves=("*",))

    chunk: int = 8

    def __post_init__(self) -> None:
        if self.chunk < 1:
            message = f"chunk={self.chunk} is below 1"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Fills ``context.statistics``; the graph stays as it is."""
        observers = {request: request.statistic.observe() for request in context.requests}
        by_node: dict[str, list[StatisticRequest]] = {}
        for request in observers:
            by_node.setdefault(request.node, []).append(request)

        def observe(place: int, inputs: Sequence[torch.Tensor]) -> _Observed:
            found: _Observed = {}
            for node, value in graph.trace(*inputs):
                for request in by_node.get(node.name, ()):
                    if request.samples is None or place < request.samples:
                        found[request] = request.statistic.observe()
                        found[request].update(value)
            return found

        parts = self._slices(graph, context)
        for found in ordered_map(lambda part: observe(*part), parts, context.threads):
            for request, part in found.items():
                observers[request].merge(part)
        context.statistics.update(
            {request: observer.result() for request, observer in observers.items()}
        )
        return False

    def _slices(
        self, graph: QGraph, context: PassContext
    ) -> Iterator[tuple[int, Sequence[torch.Tensor]]]:
        """Yields slices of the calibration data with the number of samples before each."""
        limits = {request.samples for request in context.requests if request.samples is not None}
        by_update = any(request.statistic.by_update for request in context.requests)
        chunk = self.chunk if by_update else min(self.chunk, _CACHED)
        types = [type_of(node) for node in graph.inputs]
        seen = 0
        for batch in context.calibration().batches():
            for inputs in slices(graph, batch, chunk, [limit - seen for limit in limits]):
                yield seen, inputs
                seen += batch_size(types, inputs)
                context.progress("calibrating", seen)
            limits = {limit for limit in limits if limit > seen}


def slices(
    graph: QGraph, batch: Sequence[torch.Tensor], chunk: int, cuts: Iterable[int] = ()
) -> Iterator[Sequence[torch.Tensor]]:
    """Yields a batch in slices of at most ``chunk`` samples, whole when its size is fixed.

    Only inputs whose dimension 0 is the batch are cut. A slice also ends at each of ``cuts``.
    """
    types = [type_of(node) for node in graph.inputs]
    batched = [has_batch(kind) for kind in types]
    if not any(batched):
        yield batch
        return
    size = batch_size(types, batch)
    edges = sorted({*range(0, size, chunk), *(c for c in cuts if 0 < c < size), size})
    for start, end in pairwise(edges):
        yield [t[start:end] if b else t for t, b in zip(batch, batched, strict=True)]
