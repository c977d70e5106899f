"""How torch's pooling and interpolation are expressed by paddings, counts and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Pool:
    """An average pooling of torch."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    count_include_pad: bool

    def __str__(self) -> str:
        flags = (
            f"{'ceil' if self.ceil_mode else 'floor'}-{'all' if self.count_include_pad else 'real'}"
        )
        return f"k{self.kernel}-s{self.stride}-p{self.padding}-{flags}".replace(" ", "")

    def of_torch(self, x: torch.Tensor) -> torch.Tensor:
        """Returns torch's result."""
        return F.avg_pool2d(
            x, self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def paddings(self, x: torch.Tensor) -> list[int]:
        """Returns (top, bottom, left, right) with which windows that fit are torch's windows."""
        sizes = self.of_torch(x.float()).shape[2:]
        found = []
        for axis in (0, 1):
            k, s, p = self.kernel[axis], self.stride[axis], self.padding[axis]
            last = (sizes[axis] - 1) * s + k
            found += [p, max(p, last - p - x.shape[2 + axis])]
        return found

    def counted(self, x: torch.Tensor) -> list[int]:
        """Returns the part of those paddings that torch counts; ceil_mode's own part never is."""
        top, left = self.padding if self.count_include_pad else (0, 0)
        return [top, top, left, left]


POOLS = [
    Pool(kernel, stride, padding, ceil_mode, count_include_pad)
    for kernel, stride, padding in (
        ((2, 2), (2, 2), (0, 0)),
        ((3, 2), (2, 3), (1, 1)),
        ((3, 4), (3, 2), (1, 2)),
        ((3, 3), (1, 1), (1, 1)),
        ((4, 4), (4, 4), (2, 2)),
        ((2, 3), (3, 4), (1, 0)),
    )
    for ceil_mode in (False, True)
    for count_include_pad in (False, True)
]


def positions(
    size: tuple[int, int], wanted: tuple[int, int], mode: str
) -> tuple[list[int], list[int]]:
    """Returns scale (ny, dy, nx, dx) and offset of the position (o * d + offset) / n."""
    scale: list[int] = []
    offset = []
    for have, want in zip(size, wanted, strict=True):
        n, d, start = {
            "nearest": (want, have, 0),
            "nearest-exact": (2 * want, 2 * have, have),
            "centered": (2 * want, 2 * have, have - want),
            "cornered": (want - 1, have - 1, 0) if want > 1 else (1, 1, 0),
        }[mode]
        scale += [n, d]
        offset.append(start)
    return scale, offset
