"""Strided views of the same elements: their dimensions in the order of storage, merged."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]


def collapse(shape: Sequence[int], *strides: Sequence[int]) -> tuple[Shape, tuple[Shape, ...]]:
    """Returns as few dimensions as address the same elements in the same order.

    Neighbours merge where each tensor steps through both as through one. At least one dimension
    is left.
    """
    kept = [d for d, size in enumerate(shape) if size != 1] or [0] * min(1, len(shape))
    sizes: list[int] = []
    steps: list[list[int]] = []
    for d in kept:
        own = [tensor[d] for tensor in strides]
        if sizes and all(a == b * shape[d] for a, b in zip(steps[-1], own, strict=True)):
            sizes[-1] *= shape[d]
            steps[-1] = own
        else:
            sizes.append(shape[d])
            steps.append(own)
    if not sizes:
        sizes, steps = [1], [[0] * len(strides)]
    return tuple(sizes), tuple(tuple(column) for column in zip(*steps, strict=True))


def in_order(strides: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Returns the dimensions from the largest stride to the smallest: the order of storage."""
    return sorted(range(len(shape)), key=lambda d: (-strides[d], d))
