"""merge-common-nodes: equal calls on equal arguments, and equal constants, become one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import quant_of
from qcompiler.ir.graph import QGraph, is_constant
from qcompiler.ir.printer import tensor_digest
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.torch_compat import OpOverload


@dataclass(frozen=True)
class MergeCommonNodes(Pass):
    """Merges calls that compute the same value and constants of the same content.

    Nodes that differ in a quantization fact stay apart.

    Before::

        %a : f32[batch,8] = qfloat.clamp(%x, 0.0, 6.0)
        %b : f32[batch,8] = qfloat.clamp(%x, 0.0, 6.0)
        %y : f32[batch,8] = qfloat.add(%a, %b)

    After::

        %a : f32[batch,8] = qfloat.clamp(%x, 0.0, 6.0)
        %y : f32[batch,8] = qfloat.add(%a, %a)
    """

    name: ClassVar[str] = "merge-common-nodes"
    needs: ClassVar[Needs] = Needs(Stage.TRACED, until=Stage.TARGETED)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        first: dict[Hashable, fx.Node] = {}
        changed = False
        for node in graph.nodes:
            key = _key(graph, node)
            if key is None:
                continue
            kept = first.setdefault(key, node)
            if kept is not node:
                graph.replace(node, kept)
                changed = True
        return changed


def _key(graph: QGraph, node: fx.Node) -> Hashable | None:
    """Returns what determines a node's value, None for nodes that are never merged."""
    if is_constant(node):
        held = graph.constant(node)
        content = (str(held.dtype), tuple(held.shape), tensor_digest(held))
        return ("constant", content, quant_of(node))
    if node.op != "call_function" or not isinstance(node.target, OpOverload):
        return None
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    if is_random or node.target._schema.is_mutable:
        return None
    facts = (quant_of(node), _frozen(node.args), _frozen(node.kwargs))
    return (str(node.target), *facts)


def _frozen(arg: Any) -> Hashable:
    """Returns a hashable form of an argument that keeps int, float and bool apart."""
    if isinstance(arg, (list, tuple)):
        return ("list", *(_frozen(a) for a in arg))
    if isinstance(arg, dict):
        return ("dict", *((k, _frozen(v)) for k, v in sorted(arg.items())))
    if isinstance(arg, float):
        return ("float", arg.hex())
    if isinstance(arg, fx.Node):
        return arg
    return (type(arg).__name__, str(arg))
