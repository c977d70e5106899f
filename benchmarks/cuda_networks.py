"""EfficientNet-Lite0 with random weights: the layers that the pretrained one has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.models import CLASSES, conv_norm

# Expansion, channels, blocks, stride and kernel of each stage (EfficientNet-Lite, 2020).
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class _Block(nn.Module):
    """Expands, filters each channel and projects; adds the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers = [*conv_norm(inputs, width, 1), nn.ReLU6()] if expansion > 1 else []
        layers += [*conv_norm(width, width, kernel, stride, width), nn.ReLU6()]
        self.body = nn.Sequential(*layers, *conv_norm(width, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's result."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def efficientnet_lite0(stages: int = len(_STAGES)) -> nn.Module:
    """Returns the network, or its first stages; its weights are the same on every call."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [*conv_norm(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    for expansion, outputs, blocks, stride, kernel in _STAGES[:stages]:
        for i in range(blocks):
            layers.append(_Block(inputs, outputs, expansion, stride if i == 0 else 1, kernel))
            inputs = outputs
    layers += [*conv_norm(inputs, 1280, 1), nn.ReLU6()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, CLASSES)]
    return nn.Sequential(*layers).eval()
