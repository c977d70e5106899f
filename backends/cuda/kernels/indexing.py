"""Places of elements in strided tensors, from their number in the order that a kernel goes by."""

import triton
import triton.language as tl


@triton.jit
def offsets(index, INNER: tl.constexpr, STRIDES: tl.constexpr):
    """Returns the offset of each index: the mixed-radix digits of it times the strides.

    INNER has the sizes of all dimensions but the first, whose digit is what is left: a kernel
    does not depend on the size of a batch.
    """
    at = index * 0
    rest = index
    for d in tl.static_range(len(INNER)):
        at += rest % INNER[len(INNER) - 1 - d] * STRIDES[len(INNER) - d]
        rest = rest // INNER[len(INNER) - 1 - d]
    return at + rest * STRIDES[0]


@triton.jit
def indices(count, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Returns the indices of a program's elements and whether each is one; WIDE: beyond 2^31."""
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    return index, index < count
