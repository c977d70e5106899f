"""Where elements lie in memory: rank-4 integers as NHWC, all else row-major."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qcompiler.backends.native.codes import UNSIGNED, CodeForm
from qcompiler.ir.types import Dim, TensorType, simplify_dim


def is_interleaved(tensor_type: TensorType) -> bool:
    """Says whether a value is stored with its channels innermost (NHWC)."""
    return tensor_type.rank == 4 and not tensor_type.is_float


def is_row_major(tensor_type: TensorType) -> bool:
    """Says whether the stored order is the logical one."""
    if not is_interleaved(tensor_type):
        return True
    _, c, h, w = tensor_type.shape
    return c == 1 or (h == 1 and w == 1)


def row_major_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Returns the strides, in elements, of a dense tensor in logical order."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = simplify_dim(step * size)
    return tuple(reversed(strides))


def strides_of(tensor_type: TensorType) -> tuple[Dim, ...]:
    """Returns the stride, in elements, of each logical dimension in storage."""
    if not is_interleaved(tensor_type):
        return row_major_strides(tensor_type.shape)
    n, c, h, w = tensor_type.shape
    image, row, pixel, channel = row_major_strides((n, h, w, c))
    return image, channel, row, pixel


def to_storage(tensor: torch.Tensor, form: CodeForm = UNSIGNED) -> torch.Tensor:
    """Returns a contiguous tensor whose memory is the stored form of a logical value."""
    if tensor.dtype == torch.int8:
        tensor = form.stored(tensor)
    if tensor.dim() == 4 and not tensor.is_floating_point():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.contiguous()


def empty_storage(tensor_type: TensorType, shape: Sequence[int], slack: int = 0) -> torch.Tensor:
    """Returns uninitialized storage of a value, flat, with ``slack`` readable bytes after it."""
    items = 1
    for size in shape:
        items *= size
    item_size = tensor_type.dtype.itemsize
    return torch.empty(items * item_size + slack, dtype=torch.uint8)


def from_storage(
    storage: torch.Tensor,
    tensor_type: TensorType,
    shape: Sequence[int],
    form: CodeForm = UNSIGNED,
) -> torch.Tensor:
    """Returns the logical value whose stored form is given, sharing memory where it can."""
    items = 1
    for size in shape:
        items *= size
    flat = storage[: items * tensor_type.dtype.itemsize]
    value = form.codes(flat) if tensor_type.dtype == torch.int8 else flat.view(tensor_type.dtype)
    if is_interleaved(tensor_type):
        n, c, h, w = shape
        return value.reshape(n, h, w, c).permute(0, 3, 1, 2).contiguous()
    return value.reshape(tuple(shape))
