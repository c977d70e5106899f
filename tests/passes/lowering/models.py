"""Small models of many shapes, and bundles of them that are compiled as one program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE = (4, 8, 9)
ROWS = (5, 12)


class Function(nn.Module):
    """A function of the inputs and of layers that it is given."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: Tensor) -> Any:
        """Calls the function with the inputs and the layers."""
        return self.function(*inputs, *self.layers)


@dataclass(frozen=True)
class Case:
    """A model with the shapes of its inputs, without batch, and the least SQNR in dB."""

    name: str
    make: Callable[[], nn.Module]
    shapes: Sequence[tuple[int, ...]] = (IMAGE,)
    sqnr: float = 30.0
    scales: Sequence[float] = field(default=())

    def inputs(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Returns random inputs."""
        source = torch.Generator().manual_seed(seed)
        scales = self.scales or [1.0] * len(self.shapes)
        return tuple(
            torch.randn(batch, *shape, generator=source) * scale
            for shape, scale in zip(self.shapes, scales, strict=True)
        )


def case(name: str, function: Callable[..., Any], *layers: Any, **options: Any) -> Case:
    """Returns a case of a function; layers are given as (class, arguments...)."""

    def make() -> nn.Module:
        torch.manual_seed(len(name))
        built = [cls(*args) for cls, *args in layers]
        return Function(function, *built).eval()

    return Case(name, make, **options)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits the channels in two."""
    first, second = x.chunk(2, 1)
    return first, second


def attention(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    """Linear attention without a softmax."""
    weights = torch.sigmoid(q(x) @ k(x).transpose(1, 2))
    result: Tensor = weights @ v(x)
    return result


def squeeze(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    """Squeeze and excitation."""
    gate = up(F.silu(down(x.mean((2, 3), keepdim=True))))
    return x * torch.sigmoid(gate)


def residual(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    """An inverted bottleneck's sum, with a clamp between."""
    result: Tensor = x + second(F.relu6(first(x)))
    return result


LINEAR = (nn.Linear, 12, 7)
POINT = (nn.Conv2d, 4, 4, 1)

CONVOLUTIONS = (
    case(
        "conv1d-chain",
        lambda x, a, b: b(F.relu(a(x))),
        (nn.Conv1d, 5, 6, 3),
        (nn.Conv1d, 6, 4, 3, 2, 1),
        shapes=[ROWS],
    ),
    case(
        "depthwise",
        lambda x, a, b: b(F.relu6(a(x))),
        (nn.Conv2d, 4, 8, 1),
        (nn.Conv2d, 8, 8, 3, 1, 1, 1, 8),
    ),
    case("grouped", lambda x, a: a(x), (nn.Conv2d, 4, 6, 3, 1, 1, 1, 2)),
    case("dilated", lambda x, a: a(x), (nn.Conv2d, 4, 6, 3, 1, 2, 2)),
    case("same-padding", lambda x, a: a(F.pad(x, (0, 1, 1, 2))), (nn.Conv2d, 4, 6, (4, 2), 2)),
    case(
        "padding-of-ones", lambda x, a: a(F.pad(x, (1, 1, 1, 1), value=1.0)), (nn.Conv2d, 4, 6, 3)
    ),
    case("multiplied-channels", lambda x, a: a(x), (nn.Conv2d, 4, 12, 3, 2, 1, 1, 4)),
    case("residual", residual, (nn.Conv2d, 4, 8, 1), (nn.Conv2d, 8, 4, 3, 1, 1)),
    case(
        "two-on-one-input",
        lambda x, a, b: (a(x), b(x)),
        (nn.Conv2d, 4, 6, 1),
        (nn.Conv2d, 4, 3, 3, 2),
    ),
    case("tied", lambda x, a: a(F.relu(a(x))), (nn.Conv2d, 4, 4, 3, 1, 1)),
    case("tied-linear", lambda x, a: a(torch.tanh(a(x))), (nn.Linear, 12, 12), shapes=[ROWS]),
    case(
        "linear",
        lambda x, a, b: b(F.gelu(a(x.flatten(1)))),
        (nn.Linear, 60, 16),
        (nn.Linear, 16, 3),
        shapes=[ROWS],
    ),
)

ELEMENTWISE = (
    case("broadcast", lambda x, y: (x + y, x - y, x * y), shapes=[IMAGE, (4, 1, 1)]),
    case("with-constants", lambda x: (x + 1.5, 2.0 - x, x * 0.3, x / 4.0)),
    case("with-tensors", lambda x: x * torch.linspace(0.1, 2, 9) - torch.ones(8, 1)),
    case("activations", lambda x: (F.silu(x), F.hardswish(x), torch.sigmoid(x), F.gelu(x))),
    case("more-activations", lambda x: (F.leaky_relu(x, 0.1), F.elu(x), torch.tanh(x), x.abs())),
    case("clamp-of-several-users", lambda x, a: (F.relu(y := a(x)), y + 1.0, F.hardtanh(y)), POINT),
    case("clamps", lambda x: (x.clamp(-0.5, 0.7), x.clamp(min=0.2), F.relu(x) + F.relu6(x))),
    case("squeeze-excite", squeeze, (nn.Conv2d, 4, 2, 1), (nn.Conv2d, 2, 4, 1)),
    case("chain-of-unaries", lambda x: torch.sigmoid(F.relu(x * 2.0) - 1.0)),
    case("sum-of-far-scales", lambda x, y: (x + y, y - x), shapes=[IMAGE, IMAGE], scales=(1, 1e-4)),
    case("square", lambda x: (x * x, x - x)),
)

POOLING = (
    case("mean", lambda x: (x.mean((2, 3)), x.mean(1, keepdim=True), x.mean(-1))),
    case("avg", lambda x: (F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, count_include_pad=False))),
    case("avg-without-padding", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    case(
        "max", lambda x: (F.max_pool2d(x, 2), F.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 2, 1, 0, 2))
    ),
    case("adaptive", lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (3, 4)))),
    case("resize", lambda x: (F.interpolate(x, scale_factor=2), F.interpolate(x, (5, 7)))),
    case(
        "bilinear",
        lambda x: (
            F.interpolate(x, scale_factor=2.0, mode="bilinear"),
            F.interpolate(x, (5, 7), mode="bilinear", align_corners=True),
        ),
    ),
)

MOVEMENT = (
    case(
        "concat-of-far-ranges",
        lambda x, y: torch.cat([x, y], 1),
        shapes=[IMAGE, IMAGE],
        scales=(1, 60),
        sqnr=20,
    ),
    case(
        "concat-of-near-ranges",
        lambda x, y: torch.cat([x, y], 2),
        shapes=[IMAGE, IMAGE],
        scales=(1, 1.2),
    ),
    case("split", lambda x: (x.split([1, 3], 1), *halves(x))),
    case("shuffle", lambda x, a: a(x.reshape(-1, 2, 2, 8, 9).transpose(1, 2).flatten(1, 2)), POINT),
    case("permute", lambda x, a: a(x.permute(0, 2, 3, 1)), (nn.Linear, 4, 3)),
    case("expand", lambda x: x + x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 9)),
    case("slice", lambda x: (x[:, 1:3], x[:, :, ::2], x[:, -1])),
    case("matmul", lambda x, y: x @ y, shapes=[(5, 12), (12, 3)]),
    case("attention", attention, LINEAR, LINEAR, (nn.Linear, 12, 4), shapes=[ROWS], sqnr=25),
    case("input-returned", lambda x: (x, F.relu(x))),
    case("returned-twice", lambda x, a: (y := a(x), y, [y]), POINT),
    case("constant-output", lambda x: (x + 1.0, torch.arange(3.0))),
    case("unused-input", lambda x, y: F.relu(y), shapes=[IMAGE, ROWS]),
    case("nothing-to-quantize", lambda x: x.flatten(1)),
    case("stack", lambda x, y: torch.stack([x, y], 1).sum(1), shapes=[ROWS, ROWS]),
)

BUNDLES = {
    "convolutions": CONVOLUTIONS,
    "elementwise": ELEMENTWISE,
    "pooling": POOLING,
    "movement": MOVEMENT,
}


class Bundle(nn.Module):
    """Several models, each with inputs of its own; returns the list of their results."""

    def __init__(self, cases: Sequence[Case]) -> None:
        super().__init__()
        self.models = nn.ModuleList(c.make() for c in cases)
        self.counts = [len(c.shapes) for c in cases]

    def forward(self, *inputs: Tensor) -> list[Any]:
        """Runs every model on its part of the inputs."""
        results, place = [], 0
        for model, count in zip(self.models, self.counts, strict=True):
            results.append(model(*inputs[place : place + count]))
            place += count
        return results


def flat(value: Any) -> list[Tensor]:
    """Returns the tensors of nested results in order."""
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [t for v in values for t in flat(v)]


def decibels(expected: Tensor, actual: Tensor) -> float:
    """Returns the signal-to-quantization-noise ratio in dB; 200 stands for no noise."""
    noise = float((expected.double() - actual.double()).square().sum())
    signal = float(expected.double().square().sum())
    if noise == 0.0:
        return 200.0
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -200.0
