"""sink-reshapes, before and after."""

from __future__ import annotations

import torch
from torch import nn

from qcompiler.testing import check_ir, run_pass, trace

_NORMALIZE = "normalize-ops,eliminate-dead-nodes"


def _chain() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.MaxPool1d(2))
    return nn.Sequential(*layers).eval()


def test_a_chain_of_one_dimensional_layers_has_two_reshapes() -> None:
    graph = trace(_chain(), torch.randn(2, 3, 20), pipeline=_NORMALIZE)
    after = run_pass("sink-reshapes,fold-batch-norm,eliminate-dead-nodes", graph)
    check_ir(
        after,
        """
        CHECK: qcompiler.reshape(
        CHECK: qfloat.conv2d(
        CHECK-NEXT: qfloat.clamp(
        CHECK: qfloat.conv2d(
        CHECK: qfloat.max_pool2d(
        CHECK: qcompiler.reshape(
        CHECK-NOT: qcompiler.reshape(
        """,
    )
    assert sum("reshape" in str(n.target) for n in after.calls) == 2


def test_results_stay_the_same() -> None:
    model, x = _chain(), torch.randn(5, 3, 20)
    graph = run_pass("sink-reshapes", trace(model, torch.randn(2, 3, 20), pipeline=_NORMALIZE))
    with torch.no_grad():
        assert torch.allclose(graph.run(x)[0], model(x), atol=1e-6)


class _Merging(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = x.flatten(1)
        return torch.relu(merged) + merged


def test_a_reshape_with_other_users_stays() -> None:
    graph = trace(_Merging(), torch.randn(2, 3, 4), pipeline=_NORMALIZE)
    after = run_pass("sink-reshapes", graph)
    check_ir(after, "CHECK: [[R:%\\w+]] : {{.*}} = qcompiler.reshape(\nCHECK: qfloat.clamp([[R]]")


class _Channels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(x.flatten(1))
        return normed


def test_a_batch_norm_over_other_channels_is_not_passed() -> None:
    graph = trace(_Channels().eval(), torch.randn(2, 3, 4), pipeline=_NORMALIZE)
    after = run_pass("sink-reshapes", graph)
    check_ir(after, "CHECK: qcompiler.reshape(\nCHECK: qfloat.batch_norm(")
