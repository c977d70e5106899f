"""RAM of the digit network on a Cortex-M: the arena is the liveness bound, all of it is used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import qcompiler
from tests.assets import digits, load_mnist_net
from tests.backends.cortex_m_image import MACHINES, has_tools
from tests.backends.test_cortex_m_memory import check_memory

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not has_tools() and "CI" not in os.environ, reason="no compiler or emulator for Cortex-M"
    ),
]


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m55"])
def test_the_digit_network_touches_what_its_project_declares(core: str, tmp_path: Path) -> None:
    batches = [digits().images[:16], digits().images[4000:4016]]
    graph = qcompiler.compile(load_mnist_net(), batches, target=core).graph
    check_memory(graph, MACHINES[core], tmp_path, "-O2", rest=1)
