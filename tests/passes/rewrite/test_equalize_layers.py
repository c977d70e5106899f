"""equalize-layers on small programs: equal ranges, the same function, and where it keeps away."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.verifier import verify_graph
from qcompiler.passes.rewrite.equalize_layers import EqualizeLayers
from qcompiler.passmgr.context import PassContext
from tests.assets import load_model
from tests.passes.rewrite.helpers import inputs_of, run_passes, targets

IMAGE = (4, 9, 10)


def uneven(model: nn.Module) -> nn.Module:
    """Gives the outputs of each layer ranges that lie up to four decades apart."""
    generator = torch.Generator().manual_seed(3)
    for held in model.modules():
        if isinstance(held, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            for parameter in held.parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
            spread = 10.0 ** (4 * torch.rand(held.weight.shape[0], generator=generator) - 2)
            held.weight.data.mul_(spread.view(-1, *[1] * (held.weight.dim() - 1)))
    return model


def check(model: nn.Module, shape: tuple[int, ...], layers: int) -> QGraph:
    """Checks how many layers are equalized, and that the function stays, in float64."""
    graph = run_passes(uneven(model), [shape], "normalize-ops,fold-pad")
    before = targets(graph)
    graph.module.double()
    (x,) = (t.double() for t in inputs_of([shape], 3))
    expected = graph.run(x)
    context = PassContext()
    assert EqualizeLayers().run(graph, context) == (layers > 0)
    assert context.notes == ([f"equalized {layers} layers with their readers"] if layers else [])
    assert targets(graph) == before
    for a, b in zip(graph.run(x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()))
    return graph


def weights_of(graph: QGraph) -> list[Tensor]:
    layers = [
        n for n in graph.calls if str(n.target).endswith(("conv2d.default", "linear.default"))
    ]
    return [graph.constant(argument(n, "weight")) for n in layers]


def test_makes_the_ranges_of_a_channel_equal() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3))
    first, second = weights_of(check(model, IMAGE, 1))
    torch.testing.assert_close(first.abs().amax((1, 2, 3)), second.abs().amax((0, 2, 3)))


def test_makes_the_ranges_of_a_chain_equal() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)
    )
    first, depthwise, last = weights_of(check(model, IMAGE, 2))
    for rows, columns in ((first, depthwise), (depthwise, last.transpose(0, 1))):
        ratio = rows.flatten(1).abs().amax(1) / columns.flatten(1).abs().amax(1)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=2e-3, atol=0)


class Branches(nn.Module):
    """Two layers that read the same result."""

    def __init__(self, join: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.join = nn.Conv2d(4, 6, 1), join
        self.left, self.right = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.join(self.left(y), self.right(y), y)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.relu(self.layer(x)))
        return y


class Between(nn.Module):
    """A function between two convolutions, or a convolution and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], last: nn.Module) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(4, 6, 3), function, last

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.function(self.first(x)))
        return y


def test_covers_all_readers() -> None:
    graph = check(Branches(lambda left, right, y: left + right), IMAGE, 1)
    first, left, right = weights_of(graph)
    by_channel = right.view(3, 2, 2, 9).transpose(1, 2).reshape(6, -1).abs().amax(1)
    read = torch.maximum(left.abs().amax((0, 2, 3)), by_channel)
    torch.testing.assert_close(first.abs().amax((1, 2, 3)), read)


CONV = nn.Conv2d(6, 5, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: torch.clamp(x, max=0.0),
        lambda x: F.max_pool2d(F.relu(x), 3, 2, 1),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: x[:, :, 1:, ::2],
        lambda x: x.permute(0, 2, 3, 1).neg().permute(0, 3, 1, 2),
        lambda x: x.flatten(2).relu().reshape(-1, 6, 7, 8),
    ],
)
def test_reaches_through_what_scales_with_its_input(function: Callable[[Tensor], Tensor]) -> None:
    check(Between(function, CONV), IMAGE, 1)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x: F.relu(x).mean((2, 3)), 6),
        (lambda x: x.mean((-1, -2), keepdim=True).flatten(1), 6),
        (lambda x: F.max_pool2d(x, 2).flatten(1), 72),
        (lambda x: x.permute(0, 2, 3, 1), 6),
    ],
)
def test_reaches_linear_layers(function: Callable[[Tensor], Tensor], inputs: int) -> None:
    check(Between(function, nn.Linear(inputs, 5)), IMAGE, 1)


def test_equalizes_linear_layers_and_sequences() -> None:
    check(nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)), (5, 9), 1)
    check(nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 3)), (4, 9), 1)


@pytest.mark.parametrize(
    "function",
    [
        F.relu6,
        torch.sigmoid,
        lambda x: x + 1.0,
        lambda x: x * x,
        lambda x: F.pad(x, (1, 1), value=2.0),
        lambda x: torch.cat([x[:, :3], x[:, 3:]], 1),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, 1:],
        lambda x: x.reshape(-1, 2, 3, 7, 8).transpose(1, 2).reshape(-1, 6, 7, 8),
        lambda x: x.transpose(1, 2).reshape(-1, 6, 7, 8),
    ],
)
def test_keeps_away_from_what_does_not(function: Callable[[Tensor], Tensor]) -> None:
    check(Between(function, CONV), IMAGE, 0)


def test_keeps_away_from_residuals_results_and_shared_weights() -> None:
    check(Branches(lambda left, right, y: left + right + y), IMAGE, 0)
    check(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()), IMAGE, 0)
    check(Tied(), (9,), 0)


def test_leaves_dead_channels_alone() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)))
    graph = run_passes(model, [IMAGE], "normalize-ops")
    first, second = (argument(n, "weight") for n in graph.calls if "conv2d" in str(n.target))
    for node, axis, channel in ((first, 0, 1), (second, 1, 2)):
        weight = graph.constant(node).clone()
        weight.select(axis, channel).zero_()
        graph.set_constant(node, weight)
    before = [graph.constant(n) for n in (first, second)]
    EqualizeLayers().run(graph, PassContext())
    after = [graph.constant(n) for n in (first, second)]
    for channel in (1, 2):
        assert torch.equal(after[0][channel], before[0][channel])
        assert torch.equal(after[1][:, channel], before[1][:, channel])
    assert all(t.isfinite().all() for t in after)
    assert not torch.equal(after[0], before[0])
    verify_graph(graph, infer_types=True)


def test_bounds_factors_and_repeats_itself() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 5, 3)))
    found = []
    for _ in range(2):
        graph = run_passes(model, [IMAGE], "normalize-ops,equalize-layers{max_factor=1.5}")
        found.append(weights_of(graph))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    factors = weights_of(run_passes(model, [IMAGE], "normalize-ops"))[0] / found[0][0]
    assert float(factors.min()) == pytest.approx(1 / 1.5)
    assert float(factors.max()) <= 1.5 * (1 + 1e-6)


@pytest.mark.e2e
def test_keeps_the_function_of_a_pretrained_network() -> None:
    model = load_model()
    inputs = [(3, 224, 224)]
    passes = "normalize-ops,fold-pad,fold-batch-norm"
    plain = run_passes(model, inputs, passes)
    equalized = run_passes(model, inputs, f"{passes},equalize-layers")
    (x,) = inputs_of(inputs, 2)
    (expected,), (actual,) = plain.run(x), equalized.run(x)
    assert float((actual - expected).norm() / expected.norm()) < 1e-4
    changed = [
        not torch.equal(a, b) for a, b in zip(weights_of(plain), weights_of(equalized), strict=True)
    ]
    assert any(changed)
