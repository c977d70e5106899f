"""Runs of a float graph with other weights from one operator on: all before it is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from qcompiler.ir.graph import QGraph, is_call, map_nodes, operator_of
from qcompiler.ir.integer_ops import INTEGER_OPS

_CONV = torch.ops.qfloat.conv2d.default


class FloatRun:
    """One run of a float graph on given samples, from any point of which other runs branch off.

    At a point only values that are still needed are held. ``means`` has the mean of each output
    channel of the layers of interest in the unchanged run.
    """

    def __init__(self, graph: QGraph, inputs: Sequence[torch.Tensor]) -> None:
        self._graph = graph
        self._nodes = [n for n in graph.nodes if n.op not in ("get_attr", "placeholder")]
        self._deaths: dict[fx.Node, list[fx.Node]] = {}
        last: dict[fx.Node, fx.Node] = {}
        for node in self._nodes:
            for used in node.all_input_nodes:
                if used.op != "get_attr":
                    last[used] = node
        for used, user in last.items():
            self._deaths.setdefault(user, []).append(used)
        self._values: dict[fx.Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
        self.means: dict[fx.Node, torch.Tensor] = {}

    def results(
        self,
        values: dict[fx.Node, Any] | None = None,
        weights: Mapping[fx.Node, torch.Tensor] | None = None,
        start: int = 0,
        corrected: Sequence[fx.Node] = (),
    ) -> list[torch.Tensor]:
        """Returns the program's results from a point on, with other weights.

        ``corrected`` are operators whose results keep the means of the unchanged run, as bias
        correction will see to.
        """
        held = dict(self._values if values is None else values)
        for node in self._nodes[start:]:
            if node.op == "output":
                return list(self.load(node.args[0], held, weights))
            held[node] = self._corrected(node, held, weights, corrected)
            for used in self._deaths.get(node, ()):
                held.pop(used, None)
        message = "the graph has no output"
        raise ValueError(message)

    def _corrected(
        self,
        node: fx.Node,
        held: Mapping[fx.Node, Any],
        weights: Mapping[fx.Node, torch.Tensor] | None,
        corrected: Sequence[fx.Node],
    ) -> Any:
        value = self.evaluate(node, held, weights)
        if node in corrected and node in self.means:
            value = value + along(self.means[node] - channel_means(node, value), node, value)
        return value

    def keep_means(self, layers: Sequence[fx.Node]) -> list[torch.Tensor]:
        """Runs the unchanged graph; keeps the means of layers and returns the results."""
        wanted = set(layers)
        results: list[torch.Tensor] = []
        for node, held, _ in self.walk():
            if node.op == "output":
                results = list(self.load(node.args[0], held))
            elif node in wanted:
                self.means[node] = channel_means(node, self.evaluate(node, held))
        return results

    def walk(
        self,
        weights: Mapping[fx.Node, torch.Tensor] | None = None,
        corrected: Sequence[fx.Node] = (),
    ) -> Iterator[tuple[fx.Node, dict[fx.Node, Any], int]]:
        """Yields each node before it is computed, with the values held and its place.

        A value that the caller puts among those held stands in for the node's own.
        """
        held = dict(self._values)
        for place, node in enumerate(self._nodes):
            yield node, held, place
            if node.op != "output" and node not in held:
                held[node] = self._corrected(node, held, weights, corrected)
            for used in self._deaths.get(node, ()):
                held.pop(used, None)

    def evaluate(
        self,
        node: fx.Node,
        held: Mapping[fx.Node, Any],
        weights: Mapping[fx.Node, torch.Tensor] | None = None,
    ) -> Any:
        """Computes one call from the values held."""
        args = self.load(node.args, held, weights)
        kwargs = self.load(node.kwargs, held, weights)
        # The dispatcher knows no derivatives of data movement; what defines it has them.
        moved = INTEGER_OPS.get(operator_of(node)._schema.name)
        run = node.target if moved is None else moved.reference
        return run(*args, **kwargs)  # type: ignore[operator]  # an OpOverload

    def load(
        self,
        arg: Any,
        held: Mapping[fx.Node, Any],
        weights: Mapping[fx.Node, torch.Tensor] | None = None,
    ) -> Any:
        """Returns an argument with the values held, or the constants, in place of nodes."""
        own = weights or {}

        def value(node: fx.Node) -> Any:
            if node.op != "get_attr":
                return held[node]
            return own[node] if node in own else getattr(self._graph.module, str(node.target))

        return map_nodes(arg, value)


def channel_means(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """Returns the mean of each output channel of a layer's result."""
    axis = _channel_axis(node, value)
    return value.mean([d for d in range(value.ndim) if d != axis])


def along(means: torch.Tensor, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """Returns values of channels in a shape that broadcasts over a layer's result."""
    shape = [1] * value.ndim
    shape[_channel_axis(node, value)] = -1
    return means.reshape(shape)


def _channel_axis(node: fx.Node, value: torch.Tensor) -> int:
    return 1 if is_call(node, _CONV) else value.ndim - 1
