"""Sizes of dynamic dimensions, and the bytes that a program may read past the end of a value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import sympy
import torch

from qcompiler.ir.types import TensorType, evaluate_dim

# Kernels may read so many bytes past the end: QC_SLACK.
SLACK = 64


def solve_sizes(types: Sequence[TensorType], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Returns the least values of the symbols for which the types have the tensors' shapes."""
    values: dict[str, int] = {}
    for tensor_type, tensor in zip(types, tensors, strict=True):
        for dim, size in zip(tensor_type.shape, tensor.shape, strict=True):
            if isinstance(dim, int) or len(dim.free_symbols) != 1:
                continue
            (unknown,) = map(str, dim.free_symbols)
            values[unknown] = max(_least_value(dim, unknown, size), values.get(unknown, 0))
    return values


def _least_value(dim: sympy.Expr, unknown: str, size: int) -> int:
    """Returns the least value of a symbol that makes a dimension, which grows with it, so large."""
    if dim.is_Symbol:
        return size
    return 1 + bisect_left(range(1, 2**31), size, key=lambda v: evaluate_dim(dim, {unknown: v}))


def with_slack(stored: torch.Tensor) -> torch.Tensor:
    """Returns the bytes with the slack after them that kernels may read."""
    flat = stored.reshape(-1).view(torch.uint8)
    return torch.cat([flat, torch.zeros(SLACK, dtype=torch.uint8)])
