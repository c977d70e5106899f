"""The networks of the comparison: [N, 3, 224, 224] -> [N, 1000], each the same on every call.

EfficientNet-Lite0 is pretrained. The others have the standard architectures, written here from the
papers, and seeded weights: speed does not depend on what they have learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qcompiler.demo import CropBatches, load_model, sample_photos

CLASSES = 1000
IMAGE_SIZE = 224
_SEED = 2026


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Returns a convolution that keeps the size at stride 1, and its batch norm."""
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class ResidualBlock(nn.Module):
    """Adds the input, projected where the shapes differ, to a stack of layers."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(body(x) + shortcut(x))."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet(depths: Sequence[int], *, bottleneck: bool) -> nn.Module:
    """Returns a ResNet (He et al., CVPR 2016), with the stride of a bottleneck at its 3x3 layer.

    Args:
        depths: the number of blocks in each of the four stages.
        bottleneck: blocks of 1x1, 3x3 and 1x1 layers that widen four times, or of two 3x3 layers.
    """
    layers: list[nn.Module] = [*conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        outputs = 4 * width if bottleneck else width
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            if bottleneck:
                body = [
                    *(*conv_norm(inputs, width, 1), nn.ReLU(inplace=True)),
                    *(*conv_norm(width, width, 3, stride), nn.ReLU(inplace=True)),
                    *conv_norm(width, outputs, 1),
                ]
            else:
                body = [
                    *(*conv_norm(inputs, width, 3, stride), nn.ReLU(inplace=True)),
                    *conv_norm(width, outputs, 3),
                ]
            same = stride == 1 and inputs == outputs
            project = [] if same else conv_norm(inputs, outputs, 1, stride)
            layers.append(ResidualBlock(nn.Sequential(*body), nn.Sequential(*project)))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expands with 1x1, filters each channel with 3x3, and projects with 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*conv_norm(inputs, hidden, 1), nn.ReLU6(inplace=True)]
        layers += [*conv_norm(hidden, hidden, 3, stride, hidden), nn.ReLU6(inplace=True)]
        layers += conv_norm(hidden, outputs, 1)
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's result, with the input added where the shapes are equal."""
        out: Tensor = self.body(x)
        return x + out if self.has_shortcut else out


# Expansion, channels, blocks and the first block's stride of each stage.
_MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2() -> nn.Module:
    """Returns MobileNetV2 at width 1 (Sandler et al., CVPR 2018, table 2)."""
    layers: list[nn.Module] = [*conv_norm(3, 32, 3, 2), nn.ReLU6(inplace=True)]
    inputs = 32
    for expansion, outputs, depth, first_stride in _MOBILENET_V2_STAGES:
        for block in range(depth):
            stride = first_stride if block == 0 else 1
            layers.append(InvertedResidual(inputs, outputs, stride, expansion))
            inputs = outputs
    layers += [*conv_norm(inputs, 1280, 1), nn.ReLU6(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, CLASSES)]
    return nn.Sequential(*layers)


def seeded(model: nn.Module) -> nn.Module:
    """Gives a network weights of a fixed seed, and batch norms that fit its activations.

    Convolutions are drawn after He et al. (ICCV 2015), scales and shifts of batch norms around 1
    and 0; their statistics are those of random images, so that no layer's range runs away.
    """
    source = torch.Generator().manual_seed(_SEED)
    norms: list[nn.BatchNorm2d] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=source)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=source)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=source)
            nn.init.normal_(module.bias, 0.0, 0.2, generator=source)
            module.momentum = None  # the plain average of what it sees
            norms.append(module)
    with torch.no_grad():
        model.train()(random_images(8, _SEED))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def random_images(count: int, seed: int) -> Tensor:
    """Returns images of standard normal values: [count, 3, 224, 224]."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=source)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet_lite0": load_model,
    "mobilenet_v2": lambda: seeded(mobilenet_v2()),
    "resnet18": lambda: seeded(resnet((2, 2, 2, 2), bottleneck=False)),
    "resnet50": lambda: seeded(resnet((3, 4, 6, 3), bottleneck=True)),
}


def calibration_images(name: str) -> list[Tensor]:
    """Returns batches of the kind of image that a model of MODELS was made for."""
    if name == "efficientnet_lite0":
        return list(CropBatches(sample_photos()))
    return [random_images(8, seed) for seed in range(4)]


def timed_images(name: str) -> Tensor:
    """Returns the 16 images on which a model of MODELS is timed, none of them for calibration."""
    if name == "efficientnet_lite0":
        return next(iter(CropBatches(sample_photos(), count=16, seed=1)))
    return random_images(16, seed=100)
