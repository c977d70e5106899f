"""Small graphs for the tests of the IR."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from qcompiler.ir.annotations import set_type
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import Dim, SymbolRange, TensorType, symbol

BATCH = symbol("batch")


def build(
    body: Callable[[QGraph, fx.Node, fx.Node], fx.Node],
    shape: tuple[Dim, ...] = (BATCH, 4, 8, 8),
    dtype: torch.dtype = torch.float32,
    stage: Stage = Stage.NORMALIZED,
) -> QGraph:
    """Returns a graph of one input; ``body`` gets graph, input and output and gives the result."""
    nodes = fx.Graph()
    x = nodes.placeholder("x")
    out = nodes.output((x,))
    graph = QGraph(fx.GraphModule(torch.nn.Module(), nodes), stage, {"batch": SymbolRange(1, 64)})
    set_type(x, TensorType(dtype, shape))
    out.args = ((body(graph, x, out),),)
    graph.recompile()
    return graph
