"""Metrics of sensitivity: how much a program errs when one group of weights gets fewer bits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx
from torch.nn import functional as F

from qcompiler.calibration import has_batch
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.passes.analysis._groups import DecisionGroup, Layer
from qcompiler.passes.analysis._probe import GroupError, Probe
from qcompiler.passes.analysis._suffix import FloatRun, along, channel_means
from qcompiler.runtime.workers import ordered_map

# Results of more elements than that are thinned out before their effects are kept.
_MOST_EFFECTS = 1 << 16
# A trace of fewer samples, or of a standard error above its value, says nothing.
_LEAST_SAMPLES = 2


@dataclass(frozen=True)
class SensitivityMetric(ABC):
    """Base of all metrics; the fields of a subclass are its options.

    A metric is registered under its name in the group ``qcompiler.sensitivities``.
    """

    name: ClassVar[str]

    @abstractmethod
    def measure(self, probe: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, GroupError]]:
        """Yields the errors of the wanted groups, by their place, each as soon as it is known.

        Errors are at least 0 and add up over groups: the allocation minimizes their sum.
        """


@dataclass(frozen=True)
class OutputNoise(SensitivityMetric):
    """Noise over signal of the program's results with only this group quantized.

    The unchanged part before the group is computed once for all widths. Of the layers concerned the
    channels keep their means, as correct-bias will see to.
    """

    name: ClassVar[str] = "output"

    def measure(self, probe: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, GroupError]]:
        """Walks through the float runs and branches off at each group's first layer."""
        first = {probe.groups[place].layers[0].node: place for place in wanted}
        with torch.no_grad():
            _ = probe.reference
            for points in zip(*(run.walk() for run in probe.runs), strict=True):
                place = first.get(points[0][0])
                if place is not None:
                    yield place, self._measure(probe, probe.groups[place], points)

    def _measure(
        self,
        probe: Probe,
        group: DecisionGroup,
        points: Sequence[tuple[fx.Node, dict[fx.Node, Any], int]],
    ) -> GroupError:
        nodes = [layer.node for layer in group.layers]

        def effect(bits: int) -> torch.Tensor:
            weights = probe.weights_at(group, bits)
            found = [
                run.results(held, weights, start, nodes)
                for run, (_, held, start) in zip(probe.runs, points, strict=True)
            ]
            return probe.effect(found)

        effects = list(ordered_map(effect, probe.widths, probe.threads))
        errors = tuple(float(e.square().sum()) for e in effects)
        return GroupError(errors, thinned(torch.stack(effects)))


def thinned(effects: torch.Tensor) -> torch.Tensor:
    """Returns effects [widths, elements] in float32 with some elements, scaled to the same norm."""
    step = -(-effects.shape[1] // _MOST_EFFECTS)
    if step <= 1:
        return effects.to(torch.float32)
    part = effects[:, ::step]
    ratio = effects.square().sum(1) / part.square().sum(1).clamp(min=1e-300)
    return (part * ratio.sqrt()[:, None]).to(torch.float32)


class _Gradients(SensitivityMetric):
    """Base of metrics that take derivatives of a run with respect to weights or layers' results."""

    def _weights(self, probe: Probe) -> dict[fx.Node, torch.Tensor]:
        return {
            layer.weight: probe.graph.constant(layer.weight).clone().requires_grad_()
            for group in probe.groups
            for layer in group.layers
        }

    def _parts(self, probe: Probe) -> Iterator[list[torch.Tensor]]:
        """Yields each sample alone where all inputs have the batch as their first dimension."""
        for batch in probe.batches:
            sizes = {value.shape[0] if value.ndim else 0 for value in batch}
            if len(sizes) == 1 and has_batches(probe.graph):
                yield from ([v[i : i + 1] for v in batch] for i in range(sizes.pop()))
            else:
                yield list(batch)

    def _squares(self, probe: Probe, group: DecisionGroup, bits: int) -> list[torch.Tensor]:
        """Returns the squared rounding errors of each layer's weights."""
        return [
            (probe.weight_at(layer, bits) - probe.graph.constant(layer.weight)).square()
            for layer in group.layers
        ]


@dataclass(frozen=True)
class FisherNoise(_Gradients):
    """Squared errors of weights, weighted by the diagonal of the Fisher information.

    That is the mean of squared gradients of the log-likelihood of a class drawn from the model's
    own prediction (results of rank 2), else of a Gaussian around its results; no labels are needed.
    ``draws`` classes are drawn for each sample.
    """

    name: ClassVar[str] = "fisher"

    draws: int = 4

    def measure(self, probe: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, GroupError]]:
        """Takes the gradients once, then weighs the errors of each group."""
        source = torch.Generator().manual_seed(probe.seed)
        weights = self._weights(probe)
        leaves = list(weights.values())
        fisher = [torch.zeros_like(leaf) for leaf in leaves]
        count = 0
        for done, part in enumerate(self._parts(probe)):
            probe.progress("taking gradients", done)
            results = run_with(probe.graph, part, weights)
            for draw in range(self.draws):
                target = log_likelihood(results, source)
                found = torch.autograd.grad(
                    target,
                    leaves,
                    retain_graph=draw + 1 < self.draws,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for total, gradient in zip(fisher, found, strict=True):
                    total += gradient.square()
                count += 1
        table = dict(zip(weights, fisher, strict=True))
        for place in wanted:
            group = probe.groups[place]
            errors = []
            for bits in probe.widths:
                squares = self._squares(probe, group, bits)
                pairs = zip(group.layers, squares, strict=True)
                errors.append(sum(float((table[la.weight] * sq).sum()) for la, sq in pairs) / count)
            yield place, GroupError(tuple(errors))


@dataclass(frozen=True)
class HessianTrace(_Gradients):
    """Squared errors of weights times the mean eigenvalue of the loss's Hessian (HAWQ-V2).

    The trace is Hutchinson's estimate with ``draws`` random signs for each sample (Dong et al.,
    arXiv 1911.03852); the loss is the cross entropy to the model's own prediction, so no labels are
    needed. With fewer than two samples, or where no estimate is positive, output noise is measured
    instead, and the report says so.
    """

    name: ClassVar[str] = "hessian"

    draws: int = 8

    def measure(self, probe: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, GroupError]]:
        """Estimates the traces once, then weighs the errors of each group."""
        traces = self._traces(probe) if probe.samples >= _LEAST_SAMPLES else {}
        if not any(trace > 0 for trace in traces.values()):
            reason = (
                f"{probe.samples} of {_LEAST_SAMPLES} samples"
                if probe.samples < _LEAST_SAMPLES
                else "no positive trace"
            )
            probe.notes.append(f"no Hessian ({reason}): output noise was measured instead")
            yield from OutputNoise().measure(probe, wanted)
            return
        for place in wanted:
            group = probe.groups[place]
            errors = []
            for bits in probe.widths:
                squares = self._squares(probe, group, bits)
                pairs = zip(group.layers, squares, strict=True)
                means = ((traces[la.weight] / la.elements, s) for la, s in pairs)
                errors.append(sum(mean * float(s.sum()) for mean, s in means))
            yield place, GroupError(tuple(errors))

    def _traces(self, probe: Probe) -> dict[fx.Node, float]:
        source = torch.Generator().manual_seed(probe.seed)
        weights = self._weights(probe)
        leaves = list(weights.values())
        estimates: list[list[float]] = [[] for _ in leaves]
        for done, part in enumerate(self._parts(probe)):
            probe.progress("estimating Hessians", done)
            loss = own_loss(run_with(probe.graph, part, weights))
            first = torch.autograd.grad(
                loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True
            )
            for _ in range(self.draws):
                signs = [
                    torch.randint(0, 2, leaf.shape, generator=source).to(leaf.dtype) * 2 - 1
                    for leaf in leaves
                ]
                products = [
                    (g * s).sum() for g, s in zip(first, signs, strict=True) if g.requires_grad
                ]
                target = sum(products, torch.zeros(()))
                if not target.requires_grad:
                    break
                second = torch.autograd.grad(
                    target,
                    leaves,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for i, product in enumerate(second):
                    estimates[i].append(float((product * signs[i]).sum()))
        return {w: _upper(e) for w, e in zip(weights, estimates, strict=True)}


@dataclass(frozen=True)
class LabelFree(_Gradients):
    """Squared errors of layers' results, weighted by squared gradients of random projections.

    With f the results and v Gaussian, ``E_v (d v'f / d a)^2`` bounds the Hessian of any loss with
    respect to a layer's result a (EPTQ; Gordon et al., arXiv 2309.11531): no labels. ``draws``
    projections are taken of each sample.
    """

    name: ClassVar[str] = "label-free"

    draws: int = 4

    def measure(self, probe: Probe, wanted: Sequence[int]) -> Iterator[tuple[int, GroupError]]:
        """Takes the gradients of each batch, and the error of each layer at each width."""
        source = torch.Generator().manual_seed(probe.seed)
        totals = {place: [0.0] * len(probe.widths) for place in wanted}
        owners = {la.node: (place, la) for place in wanted for la in probe.groups[place].layers}
        signal = 0.0
        for done, part in enumerate(probe.batches):
            probe.progress("taking gradients", done)
            kept: dict[fx.Node, torch.Tensor] = {}
            moved: dict[fx.Node, list[torch.Tensor]] = {}
            run, results = FloatRun(probe.graph, part), []
            for node, held, _ in run.walk():
                if node.op == "output":
                    results = [r for r in run.load(node.args[0], held) if r.is_floating_point()]
                elif node in owners:
                    value = run.evaluate(node, held)
                    moved[node] = self._moves(probe, owners[node][1], run, held, value)
                    kept[node] = value if value.requires_grad else value.requires_grad_()
                    held[node] = kept[node]
            signal += float(sum(r.detach().square().sum() for r in results))
            for draw in range(self.draws):
                projections = ((torch.randn(r.shape, generator=source) * r).sum() for r in results)
                found = torch.autograd.grad(
                    sum(projections, torch.zeros(())),
                    list(kept.values()),
                    retain_graph=draw + 1 < self.draws,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for node, gradient in zip(kept, found, strict=True):
                    for i, move in enumerate(moved[node]):
                        totals[owners[node][0]][i] += float((gradient * move).square().sum())
        for place, errors in totals.items():
            scale = self.draws * max(signal, 1e-300)
            yield place, GroupError(tuple(e / scale for e in errors))

    def _moves(
        self,
        probe: Probe,
        layer: Layer,
        run: FloatRun,
        held: dict[fx.Node, Any],
        value: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Returns how a layer's result moves at each width, without the shift of its means."""
        found = []
        with torch.no_grad():
            for bits in probe.widths:
                other = run.evaluate(layer.node, held, {layer.weight: probe.weight_at(layer, bits)})
                move = other - value
                found.append(move - along(channel_means(layer.node, move), layer.node, move))
        return found


def _upper(estimates: Sequence[float]) -> float:
    """Returns the mean of estimates, or its standard error where that is larger.

    What cannot be told from zero then does not count as zero.
    """
    if len(estimates) < 2:
        return 0.0
    values = torch.tensor(estimates, dtype=torch.float64)
    return max(float(values.mean()), float(values.std()) / math.sqrt(len(estimates)))


def has_batches(graph: QGraph) -> bool:
    """Says whether every input has a dynamic first dimension."""
    return all(has_batch(type_of(node)) for node in graph.inputs)


def run_with(
    graph: QGraph, inputs: Sequence[torch.Tensor], weights: dict[fx.Node, torch.Tensor]
) -> list[torch.Tensor]:
    """Runs a float graph with weights that derivatives are taken of; returns float results."""
    return [r for r in FloatRun(graph, inputs).results(weights=weights) if r.is_floating_point()]


def own_loss(results: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the cross entropy to the model's own prediction; of other results half the squares.

    The prediction is a constant of the derivative.
    """
    loss = torch.zeros(())
    for result in results:
        if result.ndim == 2:
            own = F.softmax(result.detach(), 1)
            loss = loss - (own * F.log_softmax(result, 1)).sum()
        else:
            loss = loss + 0.5 * (result - result.detach()).square().sum()
    return loss


def log_likelihood(results: Sequence[torch.Tensor], source: torch.Generator) -> torch.Tensor:
    """Returns the log-likelihood of something drawn from the model's own prediction."""
    found = torch.zeros(())
    for result in results:
        if result.ndim == 2:
            drawn = torch.multinomial(F.softmax(result.detach(), 1), 1, generator=source)
            found = found + F.log_softmax(result, 1).gather(1, drawn).sum()
        else:
            noise = torch.randn(result.shape, generator=source)
            found = found + (result * noise).sum()
    return found
