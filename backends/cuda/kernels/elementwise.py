"""Operators that compute each element from those at its place, and the borders of a program."""

import triton
import triton.language as tl

from qcompiler.backends.cuda.kernels import epilogue, indexing


@triton.jit
def quantize_f32_s8(
    x,
    out,
    count,
    x_strides_0,
    x_strides_1,
    x_strides_2,
    x_strides_3,
    INNER: tl.constexpr,
    INV_SCALE: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rounds x / scale half to even in float32; INNER are the three inner sizes of storage.

    Limits come first and are integers, so rounding after them gives the same codes. Adding
    1.5 * 2^23 rounds to nearest even; no product stands before it that could be fused. NaN gives
    the zero point.
    """
    index, mask = indexing.indices(count, BLOCK, WIDE)
    inner = index % INNER[2]
    rest = index // INNER[2]
    middle = rest % INNER[1]
    rest = rest // INNER[1]
    # The caller's strides may reach further than 2^31, however few elements there are.
    at = inner.to(tl.int64) * x_strides_3 + middle.to(tl.int64) * x_strides_2
    at += (rest % INNER[0]).to(tl.int64) * x_strides_1
    at += (rest // INNER[0]).to(tl.int64) * x_strides_0
    v = tl.load(x + at, mask=mask, other=0.0) * INV_SCALE
    v = tl.where(v != v, 0.0, v)
    v = tl.minimum(tl.maximum(v, QMIN - ZERO_POINT), QMAX - ZERO_POINT)
    v = (v + 12582912.0) - 12582912.0
    tl.store(out + index, (v.to(tl.int32) + ZERO_POINT).to(tl.int8), mask=mask)


@triton.jit
def dequantize_s8_f32(
    x,
    out,
    count,
    INNER: tl.constexpr,
    X_STRIDES: tl.constexpr,
    SCALE: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gives (x - zero point) * scale in float32, in logical order."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    codes = tl.load(x + indexing.offsets(index, INNER, X_STRIDES), mask=mask, other=0).to(tl.int32)
    tl.store(out + index, (codes - ZERO_POINT).to(tl.float32) * SCALE, mask=mask)


@triton.jit
def dequantize_s32_f32(
    x,
    scale,
    out,
    count,
    INNER: tl.constexpr,
    X_STRIDES: tl.constexpr,
    SCALE_STRIDES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gives float32(x) * scale of the channel, in logical order."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    sums = tl.load(x + indexing.offsets(index, INNER, X_STRIDES), mask=mask, other=0)
    factor = tl.load(scale + indexing.offsets(index, INNER, SCALE_STRIDES), mask=mask, other=0.0)
    tl.store(out + index, sums.to(tl.float32) * factor, mask=mask)


@triton.jit
def requantize_s8(
    x,
    multiplier,
    shift,
    out,
    count,
    CHANNELS: tl.constexpr,
    INNER: tl.constexpr,
    X_ZERO_POINT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scales codes or sums; in storage INNER elements share a channel."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    channel = index // INNER % CHANNELS
    values = tl.load(x + index, mask=mask, other=0).to(tl.int32) - X_ZERO_POINT
    m = tl.load(multiplier + channel)
    s = tl.load(shift + channel)
    codes = epilogue.clamp(
        epilogue.scale_sums(values, m, s, SATURATES, HIGH) + ZERO_POINT, QMIN, QMAX
    )
    tl.store(out + index, codes.to(tl.int8), mask=mask)


@triton.jit
def add_s8(
    a,
    b,
    out,
    count,
    INNER: tl.constexpr,
    A_STRIDES: tl.constexpr,
    B_STRIDES: tl.constexpr,
    OUT_STRIDES: tl.constexpr,
    ADD: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds two values of different scales; ADD is as in ``finish``."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    left = tl.load(a + indexing.offsets(index, INNER, A_STRIDES), mask=mask, other=0).to(tl.int32)
    right = tl.load(b + indexing.offsets(index, INNER, B_STRIDES), mask=mask, other=0).to(tl.int32)
    codes = epilogue.add_codes(
        left, right, ADD[0], ADD[1], ADD[2], ADD[3], ADD[4], ADD[5], ADD[6], ADD[7]
    )
    tl.store(out + indexing.offsets(index, INNER, OUT_STRIDES), codes.to(tl.int8), mask=mask)


@triton.jit
def mul_s8(
    a,
    b,
    out,
    count,
    INNER: tl.constexpr,
    A_STRIDES: tl.constexpr,
    B_STRIDES: tl.constexpr,
    OUT_STRIDES: tl.constexpr,
    A_ZERO_POINT: tl.constexpr,
    B_ZERO_POINT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SHIFT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Multiplies two values and requantizes the product."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    left = tl.load(a + indexing.offsets(index, INNER, A_STRIDES), mask=mask, other=0).to(tl.int32)
    right = tl.load(b + indexing.offsets(index, INNER, B_STRIDES), mask=mask, other=0).to(tl.int32)
    product = (left - A_ZERO_POINT) * (right - B_ZERO_POINT)
    m = tl.full((BLOCK,), MULTIPLIER, tl.int32)
    s = tl.full((BLOCK,), SHIFT, tl.int32)
    scaled = epilogue.scale_sums(product, m, s, SHIFT < 32, SHIFT >= 33)
    codes = epilogue.clamp(scaled + ZERO_POINT, QMIN, QMAX)
    tl.store(out + indexing.offsets(index, INNER, OUT_STRIDES), codes.to(tl.int8), mask=mask)


@triton.jit
def table_s8(x, table, out, count, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Looks each code up in a table of 256."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    codes = tl.load(x + index, mask=mask, other=0).to(tl.int32)
    tl.store(out + index, tl.load(table + (codes + 128)), mask=mask)


@triton.jit
def clamp_s8(
    x,
    out,
    count,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Limits codes to a range."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    codes = tl.load(x + index, mask=mask, other=0).to(tl.int32)
    tl.store(out + index, epilogue.clamp(codes, QMIN, QMAX).to(tl.int8), mask=mask)
