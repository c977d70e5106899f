"""fold-requant and fuse-integer-ops keep what clamps, shared values and fixed ranges mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qcompiler

Forward = Callable[[nn.ModuleList, torch.Tensor], torch.Tensor]


class _Model(nn.Module):
    """A model whose forward method is a function of its layers and the input."""

    def __init__(self, forward: Forward, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = forward, nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layers, x)


def _conv(groups: int = 1) -> nn.Module:
    return nn.Conv2d(3, 6, 3, padding=1, groups=groups)


_CASES: dict[str, tuple[Forward, tuple[nn.Module, ...]]] = {
    "relu of a convolution is the result": (lambda m, x: torch.relu(m[0](x)), (_conv(),)),
    "relu6 of a depthwise convolution": (lambda m, x: F.relu6(m[0](x)), (_conv(3),)),
    "clamp of a linear layer": (lambda m, x: m[0](x).clamp(-0.1, 0.2), (nn.Linear(8, 5),)),
    "relu of a matmul": (lambda m, x: torch.relu(x @ x.transpose(-1, -2)), ()),
    "relu into a concat of another scale": (
        lambda m, x: torch.cat([torch.relu(m[0](x)), x * 10], 1),
        (_conv(),),
    ),
    "sigmoid beside negative values": (
        lambda m, x: torch.cat([torch.sigmoid(x), x.clamp(-0.9, 0.9)], 1),
        (),
    ),
    "padding outside a sigmoid's range": (
        lambda m, x: F.pad(torch.sigmoid(x), (1, 1, 1, 1), value=5.0),
        (),
    ),
    "a value added to itself": (lambda m, x: (lambda y: y + y)(m[0](x)), (_conv(),)),
    "relu of the input": (lambda m, x: m[0](torch.relu(x)), (_conv(),)),
}


@pytest.mark.parametrize("name", _CASES)
def test_the_program_computes_the_model(name: str) -> None:
    torch.manual_seed(0)
    forward, layers = _CASES[name]
    model = _Model(forward, *layers).eval()
    x = torch.randn(16, 3, 8, 8)
    program = qcompiler.compile(model, [x], target="reference")
    with torch.no_grad():
        wanted = model(x)
    noise = (wanted - program(x)).square().sum()
    assert 10 * torch.log10(wanted.square().sum() / noise) > 33
