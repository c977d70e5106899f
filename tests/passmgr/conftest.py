"""The graph on which the tests of the pass manager run passes."""

from __future__ import annotations

import pytest
import torch

from qcompiler.capture import capture
from qcompiler.ir.graph import QGraph
from tests.passmgr.helpers import Small


@pytest.fixture(scope="module")
def traced() -> QGraph:
    return capture(Small().eval(), (torch.randn(2, 2, 6, 6),))


@pytest.fixture
def graph(traced: QGraph) -> QGraph:
    return traced.copy()
