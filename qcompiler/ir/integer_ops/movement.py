"""Data movement: the same operators serve floats and integers (5.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch

from qcompiler.ir.integer_ops.base import Operand, integer_op, same_interval
from qcompiler.numerics.intervals import Interval


def _fake_of(move: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Makes a fake kernel of an implementation that is free of data-dependent code."""

    def fake(*args: object) -> torch.Tensor:
        return move(*args)

    return fake


def target_shape(shape: tuple[int, ...], spec: list[int]) -> list[int]:
    """Returns the result's shape: 0 copies the dimension at that index, -1 may be left to torch."""
    sizes = [shape[i] if d == 0 else d for i, d in enumerate(spec)]
    rest = [size for i, size in enumerate(shape) if i >= len(spec) or spec[i] != 0]
    if -1 in spec and 0 in spec and all(isinstance(size, int) for size in rest):
        # Copied dimensions cancel, so that an empty batch leaves no doubt about the other sizes.
        sizes[spec.index(-1)] = prod(rest) // prod(d for d in spec if d > 0)
    return sizes


def _reshape(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Gives the elements another shape; 0 copies a dimension, one -1 is inferred (ONNX Reshape)."""
    return x.reshape(target_shape(tuple(x.shape), shape)).clone(
        memory_format=torch.contiguous_format
    )


def _permute(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    """Reorders the dimensions."""
    return x.permute(dims).contiguous().clone()


def _slice(x: torch.Tensor, dim: int, start: int, end: int, step: int) -> torch.Tensor:
    """Takes elements start, start + step, ... before end of one dimension."""
    taken: torch.Tensor = torch.ops.aten.slice.Tensor(x, dim, start, end, step)
    return taken.clone(memory_format=torch.contiguous_format)


def _expand(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Repeats dimensions of size 1; -1 keeps a dimension."""
    return x.expand(shape).clone(memory_format=torch.contiguous_format)


def _concat(xs: list[torch.Tensor], dim: int) -> torch.Tensor:
    """Joins values of equal parameters along a dimension."""
    return torch.cat(xs, dim)


def _pad(x: torch.Tensor, padding: list[int], value: float) -> torch.Tensor:
    """Pads with a constant, the last dimension first (torch.nn.functional.pad)."""
    before = [0] * x.dim()
    after = [0] * x.dim()
    for i in range(len(padding) // 2):
        before[-1 - i], after[-1 - i] = padding[2 * i], padding[2 * i + 1]
    sizes = [lo + size + hi for lo, size, hi in zip(before, x.shape, after, strict=True)]
    out = x.new_full(sizes, value if x.is_floating_point() else int(value))
    inner = tuple(slice(lo, lo + size) for lo, size in zip(before, x.shape, strict=True))
    out[inner] = x
    return out


def _joined(operands: Mapping[str, Operand]) -> Interval:
    first, *rest = operands["xs"]
    joined: Interval = first
    for other in rest:
        joined = joined.union(other)
    return joined


def _padded(operands: Mapping[str, Operand]) -> Interval:
    joined: Interval = operands["x"].union(Interval(operands["value"], operands["value"]))
    return joined


for _schema, _move, _range in (
    ("reshape(Tensor x, int[] shape) -> Tensor", _reshape, same_interval),
    ("permute(Tensor x, int[] dims) -> Tensor", _permute, same_interval),
    ("slice(Tensor x, int dim, int start, int end, int step) -> Tensor", _slice, same_interval),
    ("expand(Tensor x, int[] shape) -> Tensor", _expand, same_interval),
    ("concat(Tensor[] xs, int dim) -> Tensor", _concat, _joined),
    ("pad(Tensor x, int[] padding, Scalar value) -> Tensor", _pad, _padded),
):
    integer_op(_schema, fake=_fake_of(_move), interval=_range)(_move)
