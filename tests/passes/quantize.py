"""Brings small modules to the stages that the tests of quantizing passes begin with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.ir.graph import QGraph
from qcompiler.passes import pipelines
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline

RANGES = f"{pipelines.NORMALIZE},collect-statistics,propagate-ranges"
TYPED = f"{RANGES},share-qparams"
QUANTIZED = f"{TYPED},quantize-weights"
INTEGER = f"{QUANTIZED},lower-to-integer"


def run(model: nn.Module, inputs: Sequence[Tensor], text: str) -> tuple[QGraph, PassContext]:
    """Captures a module and runs passes on it, calibrated with one batch of inputs."""
    dims = {0: torch.export.Dim("batch")}
    exported = torch.export.export(
        model.eval(), tuple(inputs), dynamic_shapes=((*[dims] * len(inputs),),), strict=False
    )
    graph = capture(exported)
    data = CalibrationData([tuple(inputs)])
    data.bind(graph)
    context = PassContext(data=data)
    Pipeline.parse(text).run(graph, context, [Verify()])
    return graph, context


def calibrate(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[QGraph, PassContext]:
    """Returns a graph whose values have ranges, and the context of the run."""
    return run(model, inputs, RANGES)
