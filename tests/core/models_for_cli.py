"""What the tests of the command line name as MODEL and DATA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NOT_CALLABLE = 3


class SmallNet(nn.Module):
    """[N, 3, 8, 8] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits."""
        return self.head(self.conv(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def batches() -> list[Tensor]:
    """Returns calibration batches."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2)]


def small() -> tuple[nn.Module, tuple[Tensor], list[Tensor]]:
    """Returns model, example inputs and calibration batches."""
    torch.manual_seed(0)
    data = batches()
    return SmallNet().eval(), (data[0],), data


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
