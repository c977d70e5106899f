"""fold-batch-norm on small programs, before and after."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qcompiler.ir.graph import QGraph
from tests.passes.rewrite.helpers import check_equal, run_passes, targets, trained

PASSES = "normalize-ops,fold-batch-norm"
IMAGE = (4, 6, 8)


def _folded(model: nn.Module, *shape: int) -> QGraph:
    graph = run_passes(model, [shape], PASSES)
    check_equal(model, graph, [shape])
    assert "batch-norm-folded" in graph.properties
    return graph


@pytest.mark.parametrize("bias", [False, True])
def test_folds_into_a_convolution(bias: bool) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=bias), trained(nn.BatchNorm2d(6)), nn.ReLU())
    assert targets(_folded(model, *IMAGE)) == ["qfloat.conv2d", "qfloat.clamp"]


def test_folds_into_a_grouped_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), trained(nn.BatchNorm2d(8, affine=False)))
    assert targets(_folded(model, *IMAGE)) == ["qfloat.conv2d"]


def test_folds_into_a_convolution_of_sequences() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3), trained(nn.BatchNorm1d(6)))
    names = targets(_folded(model, 4, 9))
    assert names == ["qcompiler.reshape", "qfloat.conv2d", "qcompiler.reshape"]


def test_folds_into_a_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(9, 6), trained(nn.BatchNorm1d(6)))
    assert targets(_folded(model, 9)) == ["qfloat.linear"]


def test_two_in_a_row_fold() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 1), trained(nn.BatchNorm2d(6)), trained(nn.BatchNorm2d(6))
    )
    assert targets(_folded(model, *IMAGE)) == ["qfloat.conv2d"]


class _Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(4, 4, 1), trained(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        z: Tensor = self.norm(y)
        return y + z


def test_where_it_cannot_fold_it_is_a_product_and_a_sum() -> None:
    names = targets(_folded(_Shared(), *IMAGE))
    assert names == ["qfloat.conv2d", "qfloat.mul", "qfloat.add", "qfloat.add"]


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(4, 4, 1), trained(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.norm(self.layer(x)))
        return y


def test_a_tied_weight_is_changed_for_one_layer_only() -> None:
    graph = _folded(_Tied(), *IMAGE)
    assert targets(graph) == ["qfloat.conv2d", "qfloat.conv2d"]
    first, second = graph.calls
    assert first.args[1] is not second.args[1]


def test_sequence_norm_behind_a_linear_layer_does_not_fold() -> None:
    model = nn.Sequential(nn.Linear(6, 5), trained(nn.BatchNorm1d(3)))
    assert targets(_folded(model, 3, 6)) == ["qfloat.linear", "qfloat.mul", "qfloat.add"]


def test_folding_is_rounded_once() -> None:
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)
    trained(norm)
    graph = _folded(nn.Sequential(layer, norm), 3, 6, 6)
    variance = norm.get_buffer("running_var").double() + norm.eps
    gain = norm.weight.double() / torch.sqrt(variance)
    exact = (layer.weight.double() * gain[:, None, None, None]).float()
    constants = [graph.constant(n) for n in graph.nodes if n.op == "get_attr"]
    assert any(torch.equal(c, exact) for c in constants)
