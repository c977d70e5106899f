"""Data movement written out on Python numbers (5.6); see plain.py for the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.ir.plain import Array, Index, fill


def reshape(x: Array, spec: Sequence[int]) -> Array:
    """Keeps the order of the elements; 0 copies a size, -1 is what makes the counts equal."""
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(spec)]
    if -1 in shape:
        # Copied sizes cancel, so that the unknown one is also known where a copied one is zero.
        copied = [i for i, size in enumerate(spec) if size == 0]
        have = math.prod(size for i, size in enumerate(x.shape) if i not in copied)
        want = math.prod(size for size in spec if size > 0)
        shape[shape.index(-1)] = have // want
    return Array(tuple(shape), x.items)


def permute(x: Array, dims: Sequence[int]) -> Array:
    """Dimension i of the result is dimension dims[i] of the value."""
    order = [d % len(dims) for d in dims]
    shape = [x.shape[d] for d in order]
    return fill(shape, lambda index: x[[index[order.index(d)] for d in range(len(order))]])


def slice_(x: Array, dim: int, start: int, end: int, step: int) -> Array:
    """Takes what Python's slice takes of one dimension."""
    dim %= len(x.shape)
    taken = range(x.shape[dim])[start:end:step]
    shape = [*x.shape[:dim], len(taken), *x.shape[dim + 1 :]]
    return fill(shape, lambda i: x[(*i[:dim], taken[i[dim]], *i[dim + 1 :])])


def expand(x: Array, spec: Sequence[int]) -> Array:
    """Repeats sizes of 1; new dimensions come first."""
    new = len(spec) - len(x.shape)
    shape = [x.shape[i - new] if size == -1 else size for i, size in enumerate(spec)]
    return fill(shape, x.over)


def concat(xs: Sequence[Array], dim: int) -> Array:
    """Puts the values after one another along a dimension."""
    first = xs[0].shape
    dim %= len(first)

    def value(index: Index) -> Any:
        place = index[dim]
        for x in xs:
            if place < x.shape[dim]:
                return x[(*index[:dim], place, *index[dim + 1 :])]
            place -= x.shape[dim]
        raise IndexError(index)

    return fill([*first[:dim], sum(x.shape[dim] for x in xs), *first[dim + 1 :]], value)


def pad(x: Array, padding: Sequence[int], constant: float) -> Array:
    """Surrounds the value with a constant; pairs of (before, after) start at the last dimension."""
    rank = len(x.shape)
    around = [(0, 0)] * rank
    for i in range(len(padding) // 2):
        around[rank - 1 - i] = (padding[2 * i], padding[2 * i + 1])
    shape = [low + size + high for size, (low, high) in zip(x.shape, around, strict=True)]

    def value(index: Index) -> Any:
        inner = [i - low for i, (low, _) in zip(index, around, strict=True)]
        inside = all(0 <= i < size for i, size in zip(inner, x.shape, strict=True))
        return x[inner] if inside else constant

    return fill(shape, value)
