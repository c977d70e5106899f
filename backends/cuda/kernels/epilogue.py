"""What turns sums into codes inside of kernels: requantization, clamp, table, residual."""

import triton
import triton.language as tl


@triton.jit
def scale_sums(sums, multiplier, shift, SATURATES: tl.constexpr, HIGH: tl.constexpr):
    """Returns SR(sums, m, s) as int32: floor((x m + 2^(s-1)) / 2^s), with x saturated to s bits.

    HIGH says that all shifts are at least 33: the upper half of the product is enough then, because
    floor((floor(p / 2^32) + 2^(s-33)) / 2^(s-32)) is the same number.
    """
    product = sums.to(tl.int64) * multiplier.to(tl.int64)
    if HIGH:
        high = (product >> 32).to(tl.int32)
        rest = (shift - 32).to(tl.int32)
        one = tl.full(rest.shape, 1, tl.int32)
        return (high + (one << (rest - 1))) >> rest
    wide = shift.to(tl.int64)
    half = tl.full(wide.shape, 1, tl.int64) << (wide - 1)
    if SATURATES:
        limited = tl.minimum(tl.maximum(sums.to(tl.int64), -half), half - 1)
        product = limited * multiplier.to(tl.int64)
    return ((product + half) >> wide).to(tl.int32)


@triton.jit
def clamp(values, qmin, qmax):
    """Returns values limited to a range."""
    return tl.minimum(tl.maximum(values, qmin), qmax)


@triton.jit
def add_codes(a, b, A_ZERO, A_MULTIPLIER, B_ZERO, B_MULTIPLIER, SHIFT, ZERO, QMIN, QMAX):
    """Returns ADD2 of two int32 vectors of codes."""
    total = (a - A_ZERO) * A_MULTIPLIER + (b - B_ZERO) * B_MULTIPLIER
    scaled = (total + (1 << (SHIFT - 1))) >> SHIFT
    return clamp(scaled + ZERO, QMIN, QMAX)


@triton.jit
def finish(
    sums,
    multiplier,
    shift,
    table,
    residual,
    places,
    mask,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ADD: tl.constexpr,
):
    """Returns the codes of sums; ``places`` are where the result and the residual lie."""
    codes = clamp(scale_sums(sums, multiplier, shift, SATURATES, HIGH) + ZERO_POINT, QMIN, QMAX)
    if HAS_TABLE:
        codes = tl.load(table + (codes + 128), mask=mask, other=0).to(tl.int32)
    if HAS_RESIDUAL:
        other = tl.load(residual + places, mask=mask, other=0).to(tl.int32)
        codes = add_codes(
            codes, other, ADD[0], ADD[1], ADD[2], ADD[3], ADD[4], ADD[5], ADD[6], ADD[7]
        )
    return codes.to(tl.int8)
