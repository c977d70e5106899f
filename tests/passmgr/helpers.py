"""A small model, and passes that change nothing, for the tests of the pass manager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from qcompiler.calibration import CalibrationData
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Needs, Pass
from qcompiler.passmgr.context import PassContext

ANYWHERE = Needs(Stage.TRACED, until=Stage.TARGETED)


class Small(nn.Module):
    """A convolution, a clamp and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, 2, H, W] to [N, 4]."""
        y: Tensor = self.head(nn.functional.relu6(self.conv(x)).mean((2, 3)))
        return y


def calibrated(graph: QGraph, batches: Sequence[Tensor] | None = None) -> PassContext:
    """Returns a context with data for a graph."""
    given = [torch.randn(4, 2, 6, 6)] if batches is None else batches
    data = CalibrationData(given)
    data.bind(graph)
    return PassContext(data=data)


@dataclass(frozen=True)
class Rename(Pass):
    """Says that it changes the graph, and does so or does not."""

    name: ClassVar[str] = "rename"
    needs: ClassVar[Needs] = ANYWHERE

    changes: bool = True

    def run(self, graph: QGraph, context: PassContext) -> bool:
        context.notes.append("looked")
        return self.changes
