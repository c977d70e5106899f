"""The reference interpreter: one operator or a whole graph, by the operators' definitions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from qcompiler.ir.graph import QGraph, map_nodes


def operands_of(node: fx.Node) -> list[fx.Node]:
    """Returns the distinct inputs of a call in order, constants left out."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def evaluate(graph: QGraph, node: fx.Node, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns a call's result by definition, for the values of ``operands_of`` the node."""
    given = dict(zip(operands_of(node), operands, strict=True))

    def load(used: fx.Node) -> torch.Tensor:
        return graph.constant(used) if used.op == "get_attr" else given[used]

    args, kwargs = map_nodes((node.args, node.kwargs), load)
    with torch.no_grad():
        result: torch.Tensor = node.target(*args, **kwargs)  # type: ignore[operator]  # an OpOverload
    return result
