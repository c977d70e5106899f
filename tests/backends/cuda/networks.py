"""Whole programs for the tests of the CUDA backend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import qcompiler
from tests.assets import digits, load_mnist_net


class Inverted(nn.Module):
    """Convolution with stride, an inverted residual block, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(16, 64, 1), nn.BatchNorm2d(64), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(64, 64, 5, 1, 2, groups=64), nn.ReLU6())
        self.project = nn.Conv2d(64, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ten numbers for each image."""
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]  # nn.Module returns Any


def mnist(target: str) -> qcompiler.Program:
    """Compiles the digit network."""
    images = digits().images
    return qcompiler.compile(load_mnist_net(), [images[:16], images[4000:4016]], target=target)


def inverted(target: str, **options: object) -> qcompiler.Program:
    """Compiles the block."""
    random = torch.Generator().manual_seed(1)
    data = [torch.randn(4, 3, 16, 16, generator=random) for _ in range(2)]
    return qcompiler.compile(Inverted().eval(), data, target=target, **options)  # type: ignore[arg-type]  # options of compile
