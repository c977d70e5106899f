"""merge-common-nodes on small programs."""

from __future__ import annotations

import torch
from torch import Tensor

from qcompiler.ir.annotations import update_quant
from qcompiler.ir.intent import KeepFloat
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from tests.passes.rewrite.helpers import Calls, check_equal, run_passes, targets

SHAPE = (4,)
PASSES = "normalize-ops,merge-common-nodes"


def _twice(x: Tensor) -> Tensor:
    return x.relu().sigmoid() + x.relu().sigmoid()


def test_merges_equal_calls_and_what_follows_from_them() -> None:
    graph = run_passes(Calls(_twice), [SHAPE], PASSES)
    assert targets(graph) == ["qfloat.clamp", "qfloat.unary", "qfloat.add"]
    check_equal(Calls(_twice), graph, [SHAPE])


def test_merges_constants_of_equal_content() -> None:
    def add(x: Tensor) -> Tensor:
        return (x + torch.arange(4.0)) * torch.tensor([0.0, 1.0, 2.0, 3.0])

    graph = run_passes(Calls(add), [SHAPE], PASSES)
    assert sum(n.op == "get_attr" for n in graph.nodes) == 1
    check_equal(Calls(add), graph, [SHAPE])


def test_different_numbers_stay_apart() -> None:
    def clamps(x: Tensor) -> Tensor:
        return x.clamp(0, 1) + x.clamp(0, 2) + x.clamp(-0.0, 1)

    graph = run_passes(Calls(clamps), [SHAPE], PASSES)
    assert targets(graph).count("qfloat.clamp") == 3


def test_different_facts_stay_apart() -> None:
    graph = run_passes(Calls(_twice), [SHAPE], "normalize-ops")
    update_quant(graph.calls[0], intent=KeepFloat("a test"))
    Pipeline.parse("merge-common-nodes").run(graph, PassContext())
    assert targets(graph).count("qfloat.clamp") == 2
