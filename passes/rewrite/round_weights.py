"""round-weights: chooses the integer weights by the error of the layer's results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, qtype_of, type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, arguments, is_call
from qcompiler.ir.integer_ops.base import pad_image, window_count
from qcompiler.ir.stages import Stage
from qcompiler.numerics.error_feedback import round_balanced, round_with_feedback
from qcompiler.passes.analysis.collect_statistics import slices
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.runtime.simulate import Simulation
from qcompiler.runtime.workers import ordered_map

# Products of two codes are at most 2**14 and float32 holds integers up to 2**24 exactly.
_EXACT_ROWS = 1 << 10
# Codes that are multiplied at a time, unless that makes few rows: their float32 fit the caches.
_AT_ONCE, _LEAST_ROWS = 1 << 21, 64
# The moments of two inputs are those of the same two in the other order: tiles above the diagonal.
_TILE = 256
# Inputs whose errors are spread together; bounds memory and time of layers with very many inputs.
_MOST_INPUTS = 2304


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Rounds each weight up or down so that the layer's results, not its weights, err least.

    ``gptq`` needs the kept samples: one sweep in execution order, in which each layer sees the
    quantized and already rounded prefix. Its inputs' second moments are sums of integers, exact in
    any order of summation, over at most ``rows`` windows, and at most ``rows_per_input`` for each
    input of a result. ``squant`` needs no data. Scales stay as quantize-weights chose them.

    Raises:
        QCompilerError: QC0503 when quantize-weights ran in another process.

    Before: ``%w = qfloat.dequantize_weight(%codes, %scale, 0)`` with the nearest codes
    After: the same with another constant ``%codes``
    """

    name: ClassVar[str] = "round-weights"
    needs: ClassVar[Needs] = Needs(Stage.QUANTIZED)
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    method: Literal["gptq", "squant"] = "gptq"
    damping: float = 0.01
    block: int = 32
    rows: int = 20000
    rows_per_input: int = 64
    samples: int = 64
    chunk: int = 4

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Rounds the weight of every conv2d and linear."""
        if self.method == "squant":
            for node in filter(_is_layer, graph.calls):
                layer = _Layer(node, graph, context)
                steps = 1.0 if (taken := layer.factors(slice(None))) is None else taken
                codes = round_balanced(layer.weights(slice(None)) / steps, layer.taps, layer.limit)
                layer.set_codes((codes * steps).to(torch.int8))
            return True
        kept = [
            part
            for batch in context.calibration().kept_batches(self.samples)
            for part in slices(graph, batch, self.chunk)
        ]
        simulation = Simulation(graph, kept)
        with torch.no_grad():
            for done, node in enumerate(simulation.steps()):
                context.progress("rounding weights", done)
                if _is_layer(node):
                    x = simulation.codes(argument(node, "x"))
                    self._round(_Layer(node, graph, context), x, context.threads)
        return True

    def _round(self, layer: _Layer, x: Sequence[torch.Tensor], threads: int) -> None:
        windows = [_windows_of(layer, part) for part in x]
        limit = min(self.rows, self.rows_per_input * layer.inputs)
        share = min(1.0, limit / sum(w.count for w in windows))
        parts = []
        for start in range(0, layer.inputs, _MOST_INPUTS):
            inputs = slice(start, start + _MOST_INPUTS)
            moments = _moments(windows, share, layer, inputs, threads)
            real = layer.weights(inputs)
            factors = layer.factors(inputs)
            options = (layer.limit, self.damping, self.block, factors)
            parts.append(round_with_feedback(real, moments, *options))
        layer.set_codes(torch.cat(parts, 2))


def _is_layer(node: fx.Node) -> bool:
    op = float_op_of(node.target)
    if op is None or op.weight is None:
        return False
    return is_call(argument(node, op.weight), torch.ops.qfloat.dequantize_weight.default)


class _Layer:
    """A conv2d or linear whose weight has groups, outputs of a group, and inputs of an output."""

    def __init__(self, node: fx.Node, graph: QGraph, context: PassContext) -> None:
        restored = argument(node, "weight")
        self.node, self._graph, self._codes = node, graph, restored.args[0]
        weight = context.float_weights.get(self._codes.name)
        if weight is None:
            raise QCompilerError(
                "QC0503",
                f"the float weight of {node.name} is not known any more",
                node=node.name,
                source=origin_of(node).source,
                remedy="run quantize-weights and round-weights in one pipeline",
            )
        self._factors = context.weight_factors.get(self._codes.name)
        self.groups = arguments(node).get("groups", 1)
        self.inputs = weight[0].numel()
        self.taps = weight.shape[2:].numel()
        self.limit = qtype_of(self._codes).qmax
        self.zero_point = qtype_of(argument(node, "x")).tensor_zero_point
        self._shape = weight.shape
        self._weight = weight.reshape(self.groups, -1, self.inputs)
        self._scale = graph.constant(restored.args[1]).view(self.groups, -1, 1)

    def weights(self, inputs: slice) -> torch.Tensor:
        """Returns the real weights of some inputs in units of their scale, float64 [G, R, K]."""
        return self._weight[:, :, inputs].to(torch.float64) / self._scale

    def factors(self, inputs: slice) -> torch.Tensor | None:
        """Returns the integer factors of some inputs [G, R, K], None without groups of weights."""
        if self._factors is None:
            return None
        return self._factors.reshape(self.groups, -1, self.inputs)[:, :, inputs]

    def set_codes(self, codes: torch.Tensor) -> None:
        """Replaces the integer weights by others, [G, R, K]."""
        self._graph.set_constant(self._codes, codes.view(self._shape))


@dataclass(frozen=True)
class _Windows:
    """The windows of a slice of samples, as places in ``channels`` [C, P], one row a channel.

    Window i takes the places ``first[i] + taps`` of each channel. A linear has windows of one tap.
    """

    channels: torch.Tensor
    first: torch.Tensor
    taps: torch.Tensor

    @property
    def count(self) -> int:
        """The number of windows."""
        return self.first.numel()

    def take(self, share: float, groups: int, seed: int) -> torch.Tensor:
        """Returns a share of the windows, drawn by a seed, as codes [G, K, windows]."""
        count = math.ceil(share * self.count)
        drawn = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))[:count]
        places = self.taps[:, None] + self.first[drawn.sort().values]
        # gather is several times as fast as an index of the second dimension
        index = places.flatten().expand(len(self.channels), -1)
        return self.channels.gather(1, index).view(groups, -1, count)


def _windows_of(layer: _Layer, codes: torch.Tensor) -> _Windows:
    """Returns the windows of a layer's input, padded with the zero point."""
    if not is_call(layer.node, torch.ops.qfloat.conv2d.default):
        channels = codes.flatten(0, -2).t()
        return _Windows(
            channels, torch.arange(channels.shape[1]), torch.zeros(1, dtype=torch.int64)
        )
    options = arguments(layer.node)
    kernel = type_of(options["weight"]).shape[2:]
    (down, across), (dy, dx) = options["stride"], options["dilation"]
    image = pad_image(codes.transpose(0, 1), options["padding"], layer.zero_point)
    _, samples, height, width = image.shape
    rows = torch.arange(window_count(height, int(kernel[0]), down, 0, dy)) * down
    columns = torch.arange(window_count(width, int(kernel[1]), across, 0, dx)) * across
    starts = torch.arange(samples)[:, None, None] * height + rows[:, None]
    taps = torch.arange(int(kernel[0]))[:, None] * dy * width + torch.arange(int(kernel[1])) * dx
    first = (starts * width + columns).flatten()
    return _Windows(image.flatten(1), first, taps.flatten())


def _moments(
    windows: Sequence[_Windows], share: float, layer: _Layer, inputs: slice, threads: int
) -> torch.Tensor:
    """Returns the sums of the products of ``x - z`` of each two inputs, exactly: [G, K, K]."""
    taken = (part.take(share, layer.groups, seed)[:, inputs] for seed, part in enumerate(windows))
    products, sums, count = torch.zeros(()), torch.zeros(()), 0
    for part_products, part_sums, part_count in ordered_map(_sums_of, _blocks(taken), threads):
        products = part_products.to(torch.float64).add_(products)
        sums = sums + part_sums.to(torch.float64)
        count += part_count
    z = layer.zero_point
    products -= z * sums[:, :, None]
    products -= z * sums[:, None, :]
    return products.add_(count * z * z)


def _blocks(parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yields codes [G, K, rows] again in blocks of rows that are fast to multiply, and exact."""
    waiting: list[torch.Tensor] = []
    for part in parts:
        waiting.append(part)
        at_once = _AT_ONCE // part[:, :, 0].numel()
        rows = min(max(at_once, _LEAST_ROWS), _EXACT_ROWS)
        if sum(w.shape[2] for w in waiting) >= rows:
            yield from torch.cat(waiting, 2).split(rows, 2)
            waiting.clear()
    if waiting:
        yield torch.cat(waiting, 2)


def _sums_of(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Returns the sums over rows of all products and of the codes, and the number of rows."""
    x = codes.to(torch.float32)
    return _symmetric_products(x), x.sum(2), x.shape[2]


def _symmetric_products(x: torch.Tensor) -> torch.Tensor:
    """Returns the products of x [G, K, rows] with itself, [G, K, K]."""
    count = x.shape[1]
    if count <= _TILE:
        return x @ x.transpose(1, 2)
    found = x.new_empty(len(x), count, count)
    for start in range(0, count, _TILE):
        stop = min(start + _TILE, count)
        found[:, start:stop, start:] = x[:, start:stop] @ x[:, start:].transpose(1, 2)
        found[:, stop:, start:stop] = found[:, start:stop, stop:].transpose(1, 2)
    return found
