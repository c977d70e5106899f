"""The pretrained models, normalized and folded, compute what torch computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcompiler.capture import capture
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.verifier import verify_graph
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline
from tests.assets import load_mnist_net, load_model

PASSES = "normalize-ops,fold-pad,fold-batch-norm,merge-common-nodes,eliminate-dead-nodes"


def _check(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    torch.manual_seed(0)
    graph = capture(model, (torch.randn(1, *shape),))
    Pipeline.parse(PASSES).run(graph, PassContext(), [Verify()])
    verify_graph(graph, infer_types=True)
    assert all(float_op_of(node.target) is not None for node in graph.calls)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected = model(x)
        (actual,) = graph.run(x)
        assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-4
    return [str(node.target).split(".")[1] for node in graph.calls]


def test_mnist_net() -> None:
    names = _check(load_mnist_net(), (1, 28, 28))
    assert names.count("conv2d") == 2
    assert names.count("linear") == 2


@pytest.mark.e2e
def test_efficientnet_lite0() -> None:
    names = _check(load_model(), (3, 224, 224))
    assert names.count("conv2d") == 49
    assert names.count("clamp") == 33
    assert names.count("add") == 9
    assert set(names) == {"conv2d", "clamp", "add", "mean", "reshape", "linear"}
