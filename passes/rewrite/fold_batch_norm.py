"""fold-batch-norm: batch normalization becomes part of the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments, is_call, is_constant
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Folds batch normalization into the weight and bias of the conv2d or linear before it.

    The arithmetic is float64, rounded once to float32. Where there is no such layer, or another
    node reads it too, the normalization becomes a product and a sum with a constant per channel.

    Before::

        %c : f32[batch,8,4,4] = qfloat.conv2d(%x, %w, none, [1, 1], [0, 0, 0, 0], [1, 1], 1)
        %y : f32[batch,8,4,4] = qfloat.batch_norm(%c, %gain, %offset, %mean, %var, 1e-05)

    After::

        %y : f32[batch,8,4,4] = qfloat.conv2d(%x, %w_folded, %bias, [1, 1], [0, 0, 0, 0], [1, 1], 1)
    """

    name: ClassVar[str] = "fold-batch-norm"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives(properties=("batch-norm-folded",))

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        changed = False
        for node in graph.calls:
            if is_call(node, _NORM) and _has_constants(node):
                layer = _layer(node)
                if layer is None:
                    _lower(graph, node)
                else:
                    _fold(graph, layer, node)
                changed = True
        graph.erase_dead()
        return changed


_NORM = torch.ops.qfloat.batch_norm.default
_CONV = torch.ops.qfloat.conv2d.default
_LINEAR = torch.ops.qfloat.linear.default
_RESHAPE = torch.ops.qcompiler.reshape.default


def _has_constants(norm: fx.Node) -> bool:
    return all(n is None or is_constant(n) for n in norm.args[1:5])


def _layer(norm: fx.Node) -> fx.Node | None:
    """Returns the layer whose channels are normalized and that nothing else reads."""
    found = norm.all_input_nodes[0]
    while is_call(found, _RESHAPE) and len(found.users) == 1:
        inner = found.all_input_nodes[0]
        if type_of(inner).shape[:2] != type_of(found).shape[:2]:
            return None
        found = inner
    is_layer = is_call(found, _CONV) or (is_call(found, _LINEAR) and type_of(found).rank == 2)
    if not is_layer or len(found.users) != 1:
        return None
    given = arguments(found)
    bias = given["bias"]
    fits = is_constant(given["weight"]) and (bias is None or is_constant(bias))
    return found if fits else None


def _gain_and_offset(graph: QGraph, norm: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns g and o of y = x * g + o per channel, in float64."""
    given = arguments(norm)

    def held(name: str) -> torch.Tensor | None:
        return graph.constant(given[name]).to(torch.float64) if given[name] is not None else None

    mean, var, weight, bias = (held(name) for name in ("mean", "var", "weight", "bias"))
    if mean is None or var is None:
        raise TypeError(norm.name)
    gain = 1.0 / torch.sqrt(var + float(given["eps"]))
    gain = gain if weight is None else gain * weight
    offset = -mean * gain
    return gain, offset if bias is None else offset + bias


def _fold(graph: QGraph, layer: fx.Node, norm: fx.Node) -> None:
    given = arguments(layer)
    gain, offset = _gain_and_offset(graph, norm)
    weight = graph.constant(given["weight"]).to(torch.float64)
    if given["bias"] is not None:
        offset = offset + graph.constant(given["bias"]).to(torch.float64) * gain
    weight = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    stem = str(given["weight"].target).removesuffix("_weight")
    for name, value in (("weight", weight), ("bias", offset)):
        held = value.to(torch.float32)
        given[name] = graph.add_constant(held, f"{stem}_{name}_folded", layer)
    layer.args = tuple(given.values())
    graph.replace(norm, norm.all_input_nodes[0])


def _lower(graph: QGraph, norm: fx.Node) -> None:
    gain, offset = _gain_and_offset(graph, norm)
    x = norm.all_input_nodes[0]
    shape = (-1, *[1] * (type_of(norm).rank - 2))
    for target, values, suffix in (
        (torch.ops.qfloat.mul.default, gain, "gain"),
        (torch.ops.qfloat.add.default, offset, "offset"),
    ):
        held = values.to(torch.float32).reshape(shape)
        constant = graph.add_constant(held, f"{norm.name}_{suffix}", norm)
        x = graph.call(target, (x, constant), before=norm, origin=norm)
    graph.replace(norm, x)
