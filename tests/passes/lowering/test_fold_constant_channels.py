"""fold-constant-channels changes the weights of channels that cannot vary, and no result."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from qcompiler.ir.graph import QGraph, arguments, is_call
from qcompiler.ir.verifier import verify_graph
from qcompiler.passes.lowering.fold_constant_channels import FoldConstantChannels
from tests.passes.quantize import INTEGER, run

FUSED = f"{INTEGER},fold-requant,fuse-integer-ops"
CONV = torch.ops.qcompiler.conv2d_requant.default


def with_dead_channels(scale: float, bias: float) -> tuple[nn.Module, torch.Tensor]:
    """Returns two convolutions; the first one's channel 1 has weights close to nothing."""
    torch.manual_seed(3)
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        first.weight[1] *= scale
        assert first.bias is not None
        first.bias[1] = bias
    return nn.Sequential(first, nn.ReLU6(), second, nn.ReLU()), torch.randn(4, 3, 6, 6)


def weights_and_biases(graph: QGraph) -> tuple[torch.Tensor, torch.Tensor]:
    node = next(n for n in graph.calls if is_call(n, CONV))
    given = arguments(node)
    return graph.constant(given["weight"]), graph.constant(given["bias"])


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([1e-9, 1e-6, 1e-4, 1e-2]), st.sampled_from([-9.0, -0.5, 0.0, 0.7, 8.0]))
def test_results_stay_the_same(scale: float, bias: float) -> None:
    model, x = with_dead_channels(scale, bias)
    graph, context = run(model, (x,), FUSED)
    before = graph.copy()
    FoldConstantChannels().run(graph, context)
    graph.recompile()
    verify_graph(graph, infer_types=True)
    for at in (x, torch.randn(2, 3, 6, 6) * 100, torch.full((1, 3, 6, 6), -1e6)):
        assert all(map(torch.equal, before.run(at), graph.run(at)))


def test_a_channel_that_cannot_vary_loses_weights_and_bias() -> None:
    model, x = with_dead_channels(1e-6, -9.0)
    graph, context = run(model, (x,), FUSED)
    weight, bias = (t.clone() for t in weights_and_biases(graph))
    assert int(bias[1].abs()) > 2**24
    assert FoldConstantChannels().run(graph, context)
    folded_weight, folded_bias = weights_and_biases(graph)
    assert not folded_weight[1].any()
    assert int(folded_bias.abs().max()) < 2**24
    kept = [0, 2, 3, 4, 5]
    assert torch.equal(folded_weight[kept], weight[kept])
    assert torch.equal(folded_bias[kept], bias[kept])
    assert not FoldConstantChannels().run(graph, context), "the second run finds nothing"


def test_a_channel_that_varies_is_kept() -> None:
    model, x = with_dead_channels(1.0, 0.1)
    graph, context = run(model, (x,), FUSED)
    assert not FoldConstantChannels().run(graph, context)
