"""Data movement: strided copies, and filling."""

import triton
import triton.language as tl

from qcompiler.backends.cuda.kernels import indexing


@triton.jit
def copy_nd(
    x,
    out,
    count,
    x_offset,
    out_offset,
    INNER: tl.constexpr,
    X_STRIDES: tl.constexpr,
    OUT_STRIDES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copies elements between strided tensors; offsets are in elements."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    values = tl.load(x + x_offset + indexing.offsets(index, INNER, X_STRIDES), mask=mask, other=0)
    tl.store(out + out_offset + indexing.offsets(index, INNER, OUT_STRIDES), values, mask=mask)


@triton.jit
def fill(out, count, VALUE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Writes one value to all elements."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    tl.store(out + index, tl.full((BLOCK,), VALUE, out.dtype.element_ty), mask=mask)
