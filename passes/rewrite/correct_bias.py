"""correct-bias: removes the mean error that quantization adds to each output channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import qtype_of, type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, arguments, is_call
from qcompiler.ir.integer_ops.base import pad_image, window_count
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.numerics.observers import ChannelMoments, ChannelMomentsResult
from qcompiler.passes.analysis.collect_statistics import slices
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest
from qcompiler.runtime.simulate import Simulation


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Shifts each bias by the difference of the channel's mean between float and quantized runs.

    One sweep in execution order over the kept samples: each layer sees the quantized, already
    corrected prefix (empirical bias correction; Nagel et al., arXiv 1906.04721, section 4.2). The
    quantized mean is exact: it needs only sums of the input codes under each weight tap. The float
    means come from the calibration run, over the same samples.

    Before: ``%y = qfloat.conv2d(%x, %w, %bias, ...)``
    After: the same with another constant ``%bias``
    """

    name: ClassVar[str] = "correct-bias"
    needs: ClassVar[Needs] = Needs(Stage.QUANTIZED, properties=("statistics-collected",))
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    samples: int = 64
    chunk: int = 8

    def statistics(self, graph: QGraph) -> Sequence[StatisticRequest]:
        """Asks for the mean of each output channel over the kept samples."""
        if graph.stage > Stage.CALIBRATED:
            return ()
        return [self._request(node) for node in _layers(graph)]

    def _request(self, node: fx.Node) -> StatisticRequest:
        return StatisticRequest(node.name, ChannelMoments(_channel_axis(node)), self.samples)

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
                if node in layers:
                    self._correct(node, graph, context, simulation)
        return True

    def _correct(
        self, node: fx.Node, graph: QGraph, context: PassContext, simulation: Simulation
    ) -> None:
        moments: ChannelMomentsResult = context.statistics[self._request(node)]
        restored = argument(node, "weight")
        weight = graph.constant(restored.args[0]).to(torch.float64)
        scale = graph.constant(restored.args[1]) * qtype_of(argument(node, "x")).tensor_scale
        means = _mean_products(node, weight, simulation) * scale
        bias_node = argument(node, "bias")
        corrected = moments.mean - means
        if bias_node is None:
            bias_node = graph.add_constant(corrected.to(torch.float32), f"{node.name}_bias", node)
            node.update_arg(2, bias_node)
        else:
            graph.set_constant(bias_node, corrected.to(torch.float32))


def _layers(graph: QGraph) -> list[fx.Node]:
    return [
        n
        for n in graph.calls
        if (op := float_op_of(n.target)) is not None and op.weight and not is_island(n)
    ]


def _channel_axis(node: fx.Node) -> int:
    return 1 if is_call(node, torch.ops.qfloat.conv2d.default) else type_of(node).rank - 1


def _mean_products(node: fx.Node, weight: torch.Tensor, simulation: Simulation) -> torch.Tensor:
    """Returns the mean over all results of sum((x - z) * w) of each channel, in float64."""
    x = argument(node, "x")
    z = qtype_of(x).tensor_zero_point
    if not is_call(node, torch.ops.qfloat.conv2d.default):
        rows = [c.flatten(0, -2) for c in simulation.codes(x)]
        total = sum(r.to(torch.int64).sum(0) - z * r.shape[0] for r in rows)
        return weight @ (torch.as_tensor(total).to(torch.float64) / sum(r.shape[0] for r in rows))
    slices = simulation.codes(x)
    image = torch.stack([c.sum(0, dtype=torch.int32) for c in slices]).sum(0, dtype=torch.int64)
    samples = sum(c.shape[0] for c in slices)
    options = arguments(node)
    sums, windows = _tap_sums(image - z * samples, weight.shape[2:], options)
    groups = options["groups"]
    means = (sums.to(torch.float64) / (samples * windows)).unflatten(0, (groups, -1))
    return torch.einsum("gocij,gcij->go", weight.unflatten(0, (groups, -1)), means).flatten()


def _tap_sums(
    image: torch.Tensor, kernel: Sequence[int], options: dict[str, Any]
) -> tuple[torch.Tensor, int]:
    """Returns the sum under each weight tap over all windows of an image [C, H, W].

    The result is [C, kh, kw] and the number of windows; padding adds nothing.
    """
    stride, dilation = options["stride"], options["dilation"]
    x = pad_image(image.unsqueeze(0), options["padding"], 0)[0]
    rows = window_count(x.shape[1], kernel[0], stride[0], 0, dilation[0])
    columns = window_count(x.shape[2], kernel[1], stride[1], 0, dilation[1])
    sums = torch.empty(x.shape[0], *kernel, dtype=torch.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            bottom, right = top + (rows - 1) * stride[0] + 1, left + (columns - 1) * stride[1] + 1
            sums[:, i, j] = x[:, top : bottom : stride[0], left : right : stride[1]].sum((1, 2))
    return sums, rows * columns
