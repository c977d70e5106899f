"""Graphs and pass runs in one line each, with every check on."""

from __future__ import annotations

from torch import Tensor, nn

from qcompiler.capture import DynamicShapes, capture
from qcompiler.ir.graph import QGraph
from qcompiler.ir.verifier import verify_graph
from qcompiler.passmgr.base import Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline


def trace(
    model: nn.Module,
    *inputs: Tensor,
    pipeline: str = "",
    dynamic_shapes: DynamicShapes | None = None,
) -> QGraph:
    """Returns a model's graph, after a pipeline where one is given.

    Raises:
        QCompilerError: the model cannot be captured, or a pass fails.
    """
    graph = capture(model, inputs, dynamic_shapes)
    verify_graph(graph, infer_types=True)
    return run_pass(pipeline, graph) if pipeline else graph


def run_pass(
    passes: Pass | Pipeline | str, graph: QGraph, context: PassContext | None = None
) -> QGraph:
    """Runs a pass or a pipeline on a copy of a graph, verified after every pass, and returns it.

    The graph itself stays as it was, so that both can be compared.

    Raises:
        QCompilerError: a pass fails, or leaves a graph that breaks a rule or has a stale type.
    """
    if isinstance(passes, Pass):
        passes = Pipeline((passes,))
    pipeline = Pipeline.parse(passes) if isinstance(passes, str) else passes
    changed = graph.copy()
    pipeline.run(changed, PassContext() if context is None else context, [Verify()])
    verify_graph(changed, infer_types=True)
    return changed
