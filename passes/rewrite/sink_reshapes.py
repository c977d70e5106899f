"""sink-reshapes: changes of shape move below elementwise operators, and meet there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, argument, is_call, operator_of
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.rewrite.conversion import NotConvertible, Site

_RESHAPE = torch.ops.qcompiler.reshape.default
_ELEMENTWISE = (torch.ops.qfloat.clamp.default, torch.ops.qfloat.unary.default)
_PER_CHANNEL = (torch.ops.qfloat.batch_norm.default,)


@dataclass(frozen=True)
class SinkReshapes(Pass):
    """Moves a reshape below the elementwise operator that reads it, and joins reshapes in a row.

    One-dimensional layers are two-dimensional ones between reshapes: after this pass their batch
    norms and activations stand right behind them, and the reshapes between them are gone. A batch
    norm is passed where the reshape keeps the batch and channel dimensions.

    Before::

        %r : f32[batch,8,9] = qcompiler.reshape(%conv, [0, 8, 9])
        %y : f32[batch,8,9] = qfloat.clamp(%r, 0.0, none)

    After::

        %y : f32[batch,8,1,9] = qfloat.clamp(%conv, 0.0, none)
        %r : f32[batch,8,9] = qcompiler.reshape(%y, [0, 8, 9])
    """

    name: ClassVar[str] = "sink-reshapes"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Moves and joins reshapes in one walk in execution order."""
        changed = False
        for node in graph.calls:
            inner = node.args[0] if node.args else None
            if not isinstance(inner, fx.Node) or not is_call(inner, _RESHAPE):
                continue
            if is_call(node, _RESHAPE):
                changed |= _join(node, inner, graph)
            elif len(inner.users) == 1 and _commutes(node, inner):
                _swap(node, inner, graph)
                changed = True
        return changed


def _commutes(node: fx.Node, reshape: fx.Node) -> bool:
    """Says whether an operator gives the same elements before a reshape as after it."""
    if is_call(node, *_ELEMENTWISE):
        return True
    before, after = type_of(argument(reshape, "x")).shape, type_of(reshape).shape
    return is_call(node, *_PER_CHANNEL) and before[:2] == after[:2]


def _swap(node: fx.Node, reshape: fx.Node, graph: QGraph) -> None:
    args = (argument(reshape, "x"), *node.args[1:])
    above = graph.call(operator_of(node), args, before=node, origin=node)
    below = graph.call(_RESHAPE, (above, argument(reshape, "shape")), before=node, origin=reshape)
    graph.replace(node, below)
    graph.erase(reshape)


def _join(node: fx.Node, inner: fx.Node, graph: QGraph) -> bool:
    """Replaces two reshapes by one, or by none when the shape is the first one again."""
    try:
        joined = Site(graph, node).reshape(argument(inner, "x"), type_of(node).shape)
    except NotConvertible:
        return False
    graph.replace(node, joined)
    if not inner.users:
        graph.erase(inner)
    return True
