"""eliminate-dead-nodes on small programs."""

from __future__ import annotations

import torch

from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from tests.passes.rewrite.helpers import Calls, run_passes, targets

SHAPE = (4,)


def test_removes_chains_that_no_result_reads() -> None:
    graph = run_passes(Calls(lambda x: x.relu()), [SHAPE], "normalize-ops")
    clamp = graph.calls[0]
    constant = graph.add_constant(torch.ones(4), "unused", clamp)
    add = graph.call(FLOAT_OPS["qfloat::add"].overload, (clamp, constant), after=clamp)
    graph.call(FLOAT_OPS["qfloat::clamp"].overload, (add, 0.0, 1.0), after=add)
    (record,) = Pipeline.parse("eliminate-dead-nodes").run(graph, PassContext())
    assert record.changed
    assert targets(graph) == ["qfloat.clamp"]
    assert not hasattr(graph.module, "unused")


def test_leaves_inputs_and_says_when_nothing_was_dead() -> None:
    graph = run_passes(Calls(lambda x: x.relu()), [SHAPE], "normalize-ops")
    (record,) = Pipeline.parse("eliminate-dead-nodes").run(graph, PassContext())
    assert not record.changed
    assert len(graph.inputs) == 1
