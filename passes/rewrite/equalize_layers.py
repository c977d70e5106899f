"""equalize-layers: moves scale between layers so that the channels of a weight have like ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_call, is_constant
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import Dim, simplify_dim
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

_CONV = torch.ops.qfloat.conv2d.default
_LINEAR = torch.ops.qfloat.linear.default
# Functions with f(s * x) = s * f(x) for s > 0, beside the clamps at zero.
_HOMOGENEOUS = frozenset({"abs", "leaky_relu", "neg", "relu"})


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Divides each output channel of a layer by a factor and multiplies its readers' weights by it.

    The factor ``sqrt(r1 / r2)``, with r1 and r2 the largest weight of the channel in the layer and
    in its readers, makes both ranges equal (cross-layer equalization; Nagel et al.,
    arXiv 1906.04721, section 4.1). Only where that leaves the program's function as it is: all uses
    of the layer's result must lead, through operators that scale with their input, to the weights
    of other layers. A clamp with another limit than zero, as relu6, ends the search, and so do
    additions, results of the program, and weights that several operators share.

    ``sweeps`` bounds how often all pairs are visited, ``tolerance`` is the change at which it ends
    sooner, and ``max_factor`` bounds each factor and its inverse.

    Before: ``%y = qfloat.conv2d(%x, %w1, %b1, ...)``, ``%z = qfloat.conv2d(%y, %w2, %b2, ...)``
    After: the same with other constants ``%w1``, ``%b1`` and ``%w2``
    """

    name: ClassVar[str] = "equalize-layers"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives()

    sweeps: int = 20
    tolerance: float = 1e-3
    max_factor: float = 1e4

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Equalizes every layer whose readers allow it; all arithmetic is in float64."""
        pairs = [p for node in graph.calls if (p := _pair_of(node, graph)) is not None]
        layers = {n for pair in pairs for n in (pair.producer, *(r.node for r in pair.readers))}
        constants = {n: graph.constant(argument(n, "weight")) for n in graph.calls if n in layers}
        weights = {n: c.to(torch.float64, copy=True) for n, c in constants.items()}
        for _ in range(self.sweeps):
            changes = [self._equalize(pair, weights) for pair in pairs]
            if max(changes, default=0.0) < self.tolerance:
                break
        for node, constant in constants.items():
            graph.set_constant(argument(node, "weight"), weights[node].to(constant.dtype))
        for pair in pairs:
            bias = argument(pair.producer, "bias")
            if bias is not None:
                old = graph.constant(bias)
                graph.set_constant(bias, (old.to(torch.float64) / pair.factors).to(old.dtype))
        if pairs:
            context.notes.append(f"equalized {len(pairs)} layers with their readers")
        return bool(pairs)

    def _equalize(self, pair: _Pair, weights: dict[fx.Node, torch.Tensor]) -> float:
        """Updates the weights of a pair; returns the largest change of a logarithm of a factor."""
        rows = weights[pair.producer].flatten(1)
        columns = [reader.columns(weights[reader.node]) for reader in pair.readers]
        before = rows.abs().amax(1)
        after = torch.stack([c.abs().amax((2, 3)).flatten() for c in columns]).amax(0)
        alive = (before > 0) & (after > 0)
        wanted = pair.factors * torch.where(alive, (before / after).sqrt(), 1.0)
        wanted = wanted.clamp(1 / self.max_factor, self.max_factor)
        change, pair.factors = wanted / pair.factors, wanted
        rows /= change[:, None]
        for column in columns:
            column *= change.reshape(*column.shape[:2], 1, 1)
        return float(change.log().abs().max())


@dataclass(frozen=True)
class _Reader:
    """A layer whose inputs are channels of another one's result, ``repeat`` inputs for each."""

    node: fx.Node
    repeat: int

    def columns(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns a view [groups, channels of a group, ...] of the layer's weight, with 4 axes."""
        if is_call(self.node, _LINEAR):
            return weight.t().view(1, -1, self.repeat, weight.shape[0])
        groups = argument(self.node, "groups")
        outputs, inputs = weight.shape[:2]
        return weight.view(groups, outputs // groups, inputs, -1).transpose(1, 2)


@dataclass
class _Pair:
    """A layer, the layers that read its result, and the factor of each of its channels so far."""

    producer: fx.Node
    readers: Sequence[_Reader]
    factors: torch.Tensor


@dataclass(frozen=True)
class _Channels:
    """Where a layer's channels lie in a value: ``repeat`` neighbours each along an axis."""

    axis: int
    repeat: int = 1


def _pair_of(node: fx.Node, graph: QGraph) -> _Pair | None:
    """Returns a layer with its readers; None when it must stay as it is."""
    if not is_call(node, _CONV, _LINEAR) or is_island(node) or not _owns_parameters(node, graph):
        return None
    axis = 1 if is_call(node, _CONV) else type_of(node).rank - 1
    readers = _readers_of(node, _Channels(axis), graph)
    if not readers:
        return None
    count = graph.constant(argument(node, "weight")).shape[0]
    return _Pair(node, readers, torch.ones(count, dtype=torch.float64))


def _owns_parameters(node: fx.Node, graph: QGraph) -> bool:
    """Says whether weight and bias are constants that nothing else reads."""
    read = [n.target for n in graph.nodes if n.op == "get_attr"]
    return all(
        is_constant(parameter) and len(parameter.users) == 1 and read.count(parameter.target) == 1
        for name in ("weight", "bias")
        if (parameter := argument(node, name)) is not None
    )


def _readers_of(value: fx.Node, channels: _Channels, graph: QGraph) -> list[_Reader] | None:
    """Returns the layers that all uses of a value lead to; None when some use leads elsewhere."""
    found: list[_Reader] = []
    for user in value.users:
        if user.op != "call_function" or is_island(user):
            return None
        if is_call(user, _CONV, _LINEAR):
            axis = 1 if is_call(user, _CONV) else type_of(value).rank - 1
            fits = channels.axis == axis and (channels.repeat == 1 or is_call(user, _LINEAR))
            if not fits or not _owns_parameters(user, graph):
                return None
            found.append(_Reader(user, channels.repeat))
            continue
        after = _channels_after(user, channels)
        further = None if after is None else _readers_of(user, after, graph)
        if further is None:
            return None
        found += further
    return found


def _channels_after(node: fx.Node, channels: _Channels) -> _Channels | None:
    """Returns where the channels lie after a call that scales with its operand; None for others."""
    op = float_op_of(node.target)
    find = None if op is None else _MOVES.get(op.name)
    return None if find is None else find(node, channels)


def _clamp(node: fx.Node, channels: _Channels) -> _Channels | None:
    limits = (argument(node, "min"), argument(node, "max"))
    return channels if all(v is None or v == 0 or math.isinf(v) for v in limits) else None


def _unary(node: fx.Node, channels: _Channels) -> _Channels | None:
    return channels if argument(node, "function") in _HOMOGENEOUS else None


def _image(node: fx.Node, channels: _Channels) -> _Channels | None:
    return channels if channels.axis == 1 else None


def _mean(node: fx.Node, channels: _Channels) -> _Channels | None:
    rank = type_of(argument(node, "x")).rank
    dims = {d % rank for d in argument(node, "dims")}
    if channels.axis in dims:
        return None
    below = 0 if argument(node, "keepdim") else sum(d < channels.axis for d in dims)
    return replace(channels, axis=channels.axis - below)


def _permute(node: fx.Node, channels: _Channels) -> _Channels | None:
    dims = argument(node, "dims")
    return replace(channels, axis=[d % len(dims) for d in dims].index(channels.axis))


def _slice(node: fx.Node, channels: _Channels) -> _Channels | None:
    return None if argument(node, "dim") % type_of(node).rank == channels.axis else channels


def _pad(node: fx.Node, channels: _Channels) -> _Channels | None:
    padding, last = argument(node, "padding"), type_of(node).rank - 1
    grown = {last - i // 2 for i, width in enumerate(padding) if width != 0}
    return channels if argument(node, "value") == 0 and channels.axis not in grown else None


def _reshape(node: fx.Node, channels: _Channels) -> _Channels | None:
    """Follows channels into an axis that starts with theirs and takes in whole later axes."""
    old, new = type_of(argument(node, "x")).shape, type_of(node).shape
    size, before = old[channels.axis], _product(old[: channels.axis])
    for axis, taken in enumerate(new):
        if not isinstance(taken, int) or not isinstance(size, int) or taken % size:
            continue
        if _product(new[:axis]) == before:
            return _Channels(axis, channels.repeat * (taken // size))
    return None


def _product(dims: Sequence[Dim]) -> Dim:
    return simplify_dim(math.prod(dims))


_MOVES: dict[str, Callable[[fx.Node, _Channels], _Channels | None]] = {
    "clamp": _clamp,
    "unary": _unary,
    "max_pool2d": _image,
    "avg_pool2d": _image,
    "adaptive_avg_pool2d": _image,
    "resize_nearest": _image,
    "resize_bilinear": _image,
    "mean": _mean,
    "permute": _permute,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
}
