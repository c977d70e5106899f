"""Brings small modules to the stages that the tests of quantizing passes begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.ir.graph import QGraph
from qcompiler.passes import pipelines
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline
from tests.passes.lowering.models import Function

RANGES = f"{pipelines.NORMALIZE},collect-statistics,propagate-ranges"
TYPED = f"{RANGES},share-qparams"
QUANTIZED = f"{TYPED},quantize-weights"
INTEGER = f"{QUANTIZED},lower-to-integer"


def run(
    model: nn.Module, inputs: Sequence[Tensor], text: str, threads: int = 1
) -> tuple[QGraph, PassContext]:
    """Captures a module and runs passes on it, calibrated with one batch of inputs."""
    dims = {0: torch.export.Dim("batch")}
    # Inputs are variadic, so that dynamic shapes are given alike for every module.
    variadic = model if isinstance(model, Function) else Function(_last_called, model)
    exported = torch.export.export(
        variadic.eval(), tuple(inputs), dynamic_shapes=((*[dims] * len(inputs),),), strict=False
    )
    graph = capture(exported)
    data = CalibrationData([tuple(inputs)])
    data.bind(graph)
    context = PassContext(data=data, threads=threads)
    Pipeline.parse(text).run(graph, context, [Verify()])
    return graph, context


def _last_called(*given: Any) -> Any:
    return given[-1](*given[:-1])


def calibrate(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[QGraph, PassContext]:
    """Returns a graph whose values have ranges, and the context of the run."""
    return run(model, inputs, RANGES)
