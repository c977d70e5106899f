"""fold-pad: padding with a constant becomes part of the windowed operator that reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments, is_call
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext


@dataclass(frozen=True)
class FoldPad(Pass):
    """Folds padding with 0 into conv2d and avg_pool2d, with -inf into max_pool2d.

    An average pool counts what a pad added as elements, as it did before. Asymmetric padding, as
    SAME padding of a strided convolution, is what the operators' four paddings are for.

    Before::

        %pad : f32[batch,3,9,9] = qcompiler.pad(%x, [0, 1, 0, 1], 0.0)
        %y : f32[batch,8,4,4] = qfloat.conv2d(%pad, %w, none, [2, 2], [0, 0, 0, 0], [1, 1], 1)

    After::

        %y : f32[batch,8,4,4] = qfloat.conv2d(%x, %w, none, [2, 2], [0, 1, 0, 1], [1, 1], 1)
    """

    name: ClassVar[str] = "fold-pad"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        changed = False
        for node in reversed(graph.calls):  # of pads in a row, the last one first
            if is_call(node, _PAD) and _borders(node) is not None:
                for user in list(node.users):
                    changed |= _fold(graph, node, user)
                if not node.users:
                    graph.erase(node)
        return changed


_PAD = torch.ops.qcompiler.pad.default
_CONV = torch.ops.qfloat.conv2d.default
_AVG = torch.ops.qfloat.avg_pool2d.default
_MAX = torch.ops.qfloat.max_pool2d.default


def _borders(pad: fx.Node) -> list[int] | None:
    """Returns what a pad adds (top, bottom, left, right), None beyond the image."""
    spec: list[int] = list(pad.args[1])  # type: ignore[arg-type]  # a list by its schema
    left, right, top, bottom, *others = [*spec, *[0] * (4 - len(spec))]
    if any(others) or type_of(pad).rank != 4:
        return None
    return [top, bottom, left, right]


def _fold(graph: QGraph, pad: fx.Node, user: fx.Node) -> bool:
    if not is_call(user, _CONV, _AVG, _MAX) or user.args[0] is not pad:
        return False
    added, value = _borders(pad), float(str(pad.args[2]))
    given = arguments(user)
    expected = -math.inf if is_call(user, _MAX) else 0.0
    if added is None or value != expected or any(n is pad for n in user.args[1:]):
        return False
    inner = list(given["padding"])
    if is_call(user, _AVG):
        given["counted"] = [c + a for c, a in zip(given["counted"], added, strict=True)]
    given["padding"] = [p + a for p, a in zip(inner, added, strict=True)]
    given["x"] = pad.args[0]
    user.args = tuple(given.values())
    return True
