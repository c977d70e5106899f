"""correct-bias: removes the mean error that quantization adds to each output channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import qtype_of, type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_call
from qcompiler.ir.queries import absorbing_clamp, is_island
from qcompiler.ir.stages import Stage
from qcompiler.numerics.observers import ChannelMeans, ChannelMeansResult, channel_sums
from qcompiler.passes.analysis.collect_statistics import slices
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest
from qcompiler.runtime.simulate import Simulation
from qcompiler.runtime.workers import ordered_map

# A channel of which less than this share lies strictly inside its clamp is left alone.
_LEAST_LIVE = 1e-3
# Newton's step divides by the share inside the clamp, by no less than this.
_LEAST_SLOPE = 0.05
# Corrections are multiples of this part of the result's scale, so that they do not depend on the
# last bits of float sums.
_GRID = 2.0**-10
# Elements of results that are looked at together.
_BLOCK = 1 << 17


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Shifts each bias so that the channel's mean after its clamp is that of the float model.

    One sweep in execution order over the kept samples: each layer sees the quantized, already
    corrected prefix (empirical bias correction; Nagel et al., arXiv 1906.04721, section 4.2). Where
    a clamp follows, the mean after it is matched, by ``steps`` Newton steps. The float means come
    from the calibration run, over the same samples.

    Before: ``%y = qfloat.conv2d(%x, %w, %bias, ...)``
    After: the same with another constant ``%bias``
    """

    name: ClassVar[str] = "correct-bias"
    needs: ClassVar[Needs] = Needs(Stage.QUANTIZED, properties=("statistics-collected",))
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    samples: int = 64
    steps: int = 2
    chunk: int = 4

    def __post_init__(self) -> None:
        if self.chunk < 1:
            message = f"chunk={self.chunk} is below 1"
            raise ValueError(message)

    def statistics(self, graph: QGraph) -> Sequence[StatisticRequest]:
        """Asks for the mean of each output channel, after its clamp, over the kept samples."""
        if graph.stage > Stage.CALIBRATED:
            return ()
        return [self._request(node) for node in _layers(graph)]

    def _request(self, node: fx.Node) -> StatisticRequest:
        seen = absorbing_clamp(node) or node
        return StatisticRequest(seen.name, ChannelMeans(_channel_axis(node)), self.samples)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Corrects the bias of every conv2d and linear."""
        kept = [
            part
            for batch in context.calibration().kept_batches(self.samples)
            for part in slices(graph, batch, self.chunk)
        ]
        simulation = Simulation(graph, kept)
        layers = set(_layers(graph))
        with torch.no_grad():
            for done, node in enumerate(simulation.steps()):
                context.progress("correcting biases", done)
                if node in layers and self._request(node) in context.statistics:
                    means: ChannelMeansResult = context.statistic(self._request(node))
                    self._correct(node, graph, means.mean, simulation, context.threads)
        return True

    def _correct(
        self,
        node: fx.Node,
        graph: QGraph,
        wanted: torch.Tensor,
        simulation: Simulation,
        threads: int,
    ) -> None:
        axis, results = _channel_axis(node), simulation.results(node)
        shift = self._shift(node, wanted, results, threads)
        grid = qtype_of(node).tensor_scale * _GRID
        shift = torch.round(shift / grid) * grid
        for result in results:
            result.add_(_along(shift, axis, result.dim()))
        bias = argument(node, "bias")
        if bias is None:
            bias = graph.add_constant(shift.to(torch.float32), f"{node.name}_bias", node)
            node.update_arg(2, bias)
        else:
            moved = graph.constant(bias).to(torch.float64) + shift
            graph.set_constant(bias, moved.to(torch.float32))

    def _shift(
        self, node: fx.Node, wanted: torch.Tensor, results: list[torch.Tensor], threads: int
    ) -> torch.Tensor:
        clamp, axis = absorbing_clamp(node), _channel_axis(node)
        if clamp is None:
            return wanted - sum(channel_sums(r, axis) for r in results) / _count(results, axis)
        low, high = (argument(clamp, name) for name in ("min", "max"))
        shift = torch.zeros_like(wanted)

        def observe(result: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total, inside = torch.zeros_like(shift), torch.zeros_like(shift)
            for place, block in _blocks(result, axis):
                moved = block + shift[place, None].to(torch.float32)
                clamped = moved.clamp(low, high)
                total[place] += clamped.sum(2).sum(0, dtype=torch.float64)
                inside[place] += clamped.eq_(moved).sum(2).sum(0, dtype=torch.float64)
            return total, inside

        for _ in range(self.steps):
            total, inside = torch.zeros_like(shift), torch.zeros_like(shift)
            for part in ordered_map(observe, results, threads):
                total += part[0]
                inside += part[1]
            count = _count(results, axis)
            live = inside / count
            step = (wanted - total / count) / live.clamp(min=_LEAST_SLOPE)
            shift = shift + torch.where(live > _LEAST_LIVE, step, 0.0)
        return shift


def _layers(graph: QGraph) -> list[fx.Node]:
    return [
        n
        for n in graph.calls
        if (op := float_op_of(n.target)) is not None and op.weight and not is_island(n)
    ]


def _channel_axis(node: fx.Node) -> int:
    return 1 if is_call(node, torch.ops.qfloat.conv2d.default) else type_of(node).rank - 1


def _along(values: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    shape = [1] * rank
    shape[axis] = -1
    return values.to(torch.float32).reshape(shape)


def _blocks(result: torch.Tensor, axis: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields a result as blocks [outer, channels, inner] that fit a cache, with their channels."""
    parts = result.reshape(-1, result.shape[axis], result.shape[axis + 1 :].numel())
    width = max(1, _BLOCK // parts.shape[2])
    rows = max(1, width // parts.shape[1])
    for start in range(0, parts.shape[1], width):
        place = slice(start, start + width)
        for block in parts[:, place].split(rows):
            yield place, block


def _count(parts: Sequence[torch.Tensor], axis: int) -> int:
    return sum(p.numel() // p.shape[axis] for p in parts)
