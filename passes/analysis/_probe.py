"""What metrics of sensitivity look at: a float graph, samples, and weights at other widths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import fx

from qcompiler import __version__
from qcompiler.ir.graph import QGraph
from qcompiler.ir.printer import graph_constants, print_graph
from qcompiler.numerics.groups import group_scales, spread_factors
from qcompiler.numerics.rounding import WeightMethod, along_axis, quantize_tensor, weight_scales
from qcompiler.passes.analysis._groups import DecisionGroup, Layer, decision_groups
from qcompiler.passes.analysis._suffix import FloatRun

Batch = Sequence[torch.Tensor]


def restored_weight(
    weight: torch.Tensor, axis: int, bits: int, group: int | None = None
) -> torch.Tensor:
    """Returns a weight as it is after rounding to the nearest codes of a width, in float32.

    Scales are those of quantize-weights: they cover the largest weight at 8 bits and have the least
    squared error below.
    """
    method: WeightMethod = "minmax" if bits == 8 else "mse"
    limit = 2 ** (bits - 1) - 1
    rows = weight.movedim(axis, 0).flatten(1)
    if group is not None and bits < 8 and group < rows.shape[1]:
        scale, factors = group_scales(rows, group, bits, method)
        steps = scale[:, None] * spread_factors(factors, group, rows.shape[1])
        restored = quantize_tensor(rows.double() / steps, 1.0, 0, -limit, limit) * steps
        shape = weight.movedim(axis, 0).shape
        return restored.view(shape).movedim(0, axis).to(weight.dtype)
    scale = weight_scales(weight, axis, bits, True, method)
    codes = quantize_tensor(weight, scale, 0, -limit, limit, axis)
    return (codes * along_axis(scale, axis, weight.ndim)).to(weight.dtype)


@dataclass
class Probe:
    """A CALIBRATED graph with samples, and the widths that its weights may get.

    ``batches`` are samples of the inputs; ``threads`` is how many runs may go on at a time, which
    no result depends on; ``seed`` is that of every random number. Remarks for the report go to
    ``notes``.
    """

    graph: QGraph
    batches: Sequence[Batch]
    widths: tuple[int, ...]
    threads: int = 1
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    progress: Callable[[str, int | None], None] = lambda what, done: None

    @cached_property
    def groups(self) -> list[DecisionGroup]:
        """The groups of weights that are decided together, in execution order."""
        return decision_groups(self.graph)

    @cached_property
    def runs(self) -> list[FloatRun]:
        """A float run of each batch, with the means of all layers."""
        return [FloatRun(self.graph, batch) for batch in self.batches]

    @cached_property
    def reference(self) -> list[list[torch.Tensor]]:
        """The float results of each batch."""
        layers = [layer.node for group in self.groups for layer in group.layers]
        return [run.keep_means(layers) for run in self.runs]

    @property
    def samples(self) -> int:
        """The number of samples, by the first dimension of the inputs."""
        return sum(batch[0].shape[0] if batch and batch[0].ndim else 1 for batch in self.batches)

    def weights_at(self, group: DecisionGroup, bits: int) -> dict[fx.Node, torch.Tensor]:
        """Returns the group's weights rounded to a width, by the node that reads each."""
        return {layer.weight: self.weight_at(layer, bits) for layer in group.layers}

    def weight_at(self, layer: Layer, bits: int) -> torch.Tensor:
        """Returns a layer's weight rounded to a width."""
        return restored_weight(self.graph.constant(layer.weight), layer.axis, bits, layer.group)

    def effect(self, results: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        """Returns how results depart from the float ones, in units of the float ones' norm.

        One vector over all batches and results; its squared norm is noise over signal, summed over
        the program's results.
        """
        parts = []
        for place in range(len(self.reference[0]) if self.reference else 0):
            expected = [r[place].detach().to(torch.float64).flatten() for r in self.reference]
            actual = [r[place].detach().to(torch.float64).flatten() for r in results]
            norm = torch.sqrt(sum((e.square().sum() for e in expected), torch.zeros(())))
            difference = torch.cat(actual) - torch.cat(expected)
            parts.append(difference / norm.clamp(min=1e-30))
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def digest(self, metric: str) -> str:
        """Returns the sha256 of all that a metric's errors depend on."""
        found = hashlib.sha256(print_graph(self.graph).encode())
        for name, tensor in sorted(graph_constants(self.graph).items()):
            found.update(name.encode())
            found.update(tensor.contiguous().numpy().tobytes())
        for batch in self.batches:
            for value in batch:
                found.update(f"{value.dtype}{tuple(value.shape)}".encode())
                found.update(value.contiguous().numpy().tobytes())
        found.update(f"{metric}{self.widths}{self.seed}{__version__}".encode())
        return found.hexdigest()


@dataclass(frozen=True)
class GroupError:
    """The error that a group adds at each width; at 0 when the float weight is kept.

    ``effects`` has a vector for each width whose squared norm is the error, where the metric knows
    how the results move; effects of several groups then add up to that of all of them.
    """

    errors: tuple[float, ...]
    effects: torch.Tensor | None = None


Measured = Mapping[int, GroupError]
