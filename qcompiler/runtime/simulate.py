"""Simulation of a QUANTIZED graph: values are held as the codes that their types allow.

Each operator is computed in float32 on dequantized operands and its result is quantized again, so
a value carries the error that the integer program will make, up to the rounding of single codes.
Values of many samples are held as integers, slice by slice, and freed after their last use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from qcompiler.ir.annotations import qtype_of, quant_of
from qcompiler.ir.graph import QGraph, map_nodes
from qcompiler.ir.qtypes import QType
from qcompiler.ir.queries import absorbing_clamp

# Elements that are converted at a time: they stay in the cache from one operation to the next.
_BLOCK = 1 << 16
_RESTORED = torch.ops.qfloat.dequantize_weight.default


def quantize_codes(value: torch.Tensor, qtype: QType) -> torch.Tensor:
    """Returns the codes of a float tensor under a per-tensor type."""
    codes = torch.empty(value.shape, dtype=qtype.dtype)
    blocks = value.reshape(-1).split(_BLOCK)
    for target, block in zip(codes.view(-1).split(_BLOCK), blocks, strict=True):
        rounded = (block * (1.0 / qtype.tensor_scale)).round_().add_(qtype.tensor_zero_point)
        target.copy_(rounded.clamp_(qtype.qmin, qtype.qmax))
    return codes


def dequantize_codes(codes: torch.Tensor, qtype: QType) -> torch.Tensor:
    """Returns the float32 tensor that codes of a per-tensor type stand for."""
    value = torch.empty(codes.shape, dtype=torch.float32)
    blocks = codes.reshape(-1).split(_BLOCK)
    for target, block in zip(value.view(-1).split(_BLOCK), blocks, strict=True):
        target.copy_(block).sub_(qtype.tensor_zero_point).mul_(qtype.tensor_scale)
    return value


class Simulation:
    """Runs a QUANTIZED graph node by node over slices of samples."""

    def __init__(self, graph: QGraph, slices: Sequence[Sequence[torch.Tensor]]) -> None:
        self._graph = graph
        self._slices = slices
        self._held: dict[fx.Node, list[torch.Tensor]] = {}
        self._results: dict[fx.Node, list[torch.Tensor]] = {}
        self._weights: dict[fx.Node, torch.Tensor] = {}
        self._deaths: dict[fx.Node, list[fx.Node]] = {}
        last: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            for used in self._stored_operands(node):
                last[used] = node
        for used, user in last.items():
            self._deaths.setdefault(user, []).append(used)

    def _stored_operands(self, node: fx.Node) -> Iterator[fx.Node]:
        for used in node.all_input_nodes:
            if absorbing_clamp(used) is not None:
                yield from self._stored_operands(used)
            elif _is_stored(used):
                yield used

    def steps(self) -> Iterator[fx.Node]:
        """Yields each call before it is computed; its operands can be read with ``operand``.

        Changes to constants that are made before the iterator goes on take effect.
        """
        for position, node in enumerate(self._graph.inputs):
            qtype = qtype_of(node)
            self._held[node] = [quantize_codes(s[position], qtype) for s in self._slices]
        for node in self._graph.calls:
            if not _is_stored(node):
                if absorbing_clamp(node) is not None:
                    yield node
                continue
            yield node
            self._held[node] = [self._compute(node, i) for i in range(len(self._slices))]
            self._results.clear()
            self._weights.clear()
            for used in self._deaths.get(node, ()):
                self._held.pop(used, None)

    def codes(self, node: fx.Node) -> list[torch.Tensor]:
        """Returns the codes of a stored value, one tensor per slice."""
        return self._held[node]

    def results(self, node: fx.Node) -> list[torch.Tensor]:
        """Computes a call's float32 results, one per slice, and keeps them until it is quantized.

        What is then done to them in place is what later operators see.
        """
        with torch.no_grad():
            self._results[node] = [self._evaluate(node, i) for i in range(len(self._slices))]
        return self._results[node]

    def operand(self, node: fx.Node, position: int) -> torch.Tensor:
        """Returns a value in float32 for one slice of samples."""
        if node in self._held:
            value = self._held[node][position]
            return dequantize_codes(value, qtype_of(node)) if quant_of(node).qtype else value
        if node.op == "get_attr":
            constant = self._graph.constant(node)
            if quant_of(node).qtype is None or not constant.is_floating_point():
                return constant
            return dequantize_codes(quantize_codes(constant, qtype_of(node)), qtype_of(node))
        if node.target is not _RESTORED:
            return self._evaluate(node, position)
        if node not in self._weights:
            self._weights[node] = self._evaluate(node, position)
        return self._weights[node]

    def _evaluate(self, node: fx.Node, position: int) -> torch.Tensor:
        if node in self._results:
            return self._results[node][position]

        def load(arg: object) -> Any:
            return map_nodes(arg, lambda n: self.operand(n, position))

        result: torch.Tensor = node.target(  # type: ignore[operator]  # an OpOverload
            *(load(a) for a in node.args), **{k: load(v) for k, v in node.kwargs.items()}
        )
        return result

    def _compute(self, node: fx.Node, position: int) -> torch.Tensor:
        with torch.no_grad():
            value = self._evaluate(node, position)
        return quantize_codes(value, qtype_of(node)) if quant_of(node).qtype else value


def _is_stored(node: fx.Node) -> bool:
    if node.op == "placeholder":
        return True
    if node.op != "call_function" or node.target is _RESTORED:
        return False
    return absorbing_clamp(node) is None
