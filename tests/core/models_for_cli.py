"""What the tests of the command line name as MODEL and DATA."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

NOT_CALLABLE = 3


def batches() -> list[Tensor]:
    """Returns calibration batches."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2)]


def small() -> tuple[nn.Module, tuple[Tensor], list[Tensor]]:
    """Returns a model [N, 3, 8, 8] -> [N, 5], example inputs and calibration batches."""
    torch.manual_seed(0)
    data = batches()
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 5)).eval(), (data[0],), data


def pair() -> tuple[nn.Module, int]:
    """Returns too little."""
    return nn.ReLU(), 3


def failing() -> None:
    """Raises."""
    message = "no weights here"
    raise RuntimeError(message)


def number() -> int:
    """Returns no batches."""
    return 3


def spoiled() -> list[Tensor]:
    """Returns batches of which the last holds infinite values."""
    return [*batches(), torch.full((4, 3, 8, 8), torch.inf)]


def demanding(path: str) -> str:
    """Takes an argument, which the command line has none for."""
    return path


def bad_value() -> int:
    """Raises inside the standard library."""
    return len(json.loads("no json"))


class Nested(nn.Module):
    """Takes two inputs [N, 3] and returns a dict with a sequence in it."""

    def forward(self, left: Tensor, right: Tensor) -> dict[str, object]:
        """Returns the sum, and both with negative values cut off."""
        return {"sum": left + right, "parts": (left.relu(), right.relu())}
