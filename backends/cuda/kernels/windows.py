"""Operators over windows of pixels: depthwise convolution, pooling, mean and resize, in NHWC."""

import triton
import triton.language as tl

from qcompiler.backends.cuda.kernels import epilogue, indexing


@triton.jit
def depthwise_s8(
    x,
    weight,
    bias,
    multiplier,
    shift,
    table,
    residual,
    out,
    pixels,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    PAD_TOP: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PAD_VALUE: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Convolves each channel with a filter of its own; grid (blocks of pixels, of channels).

    Weights are [KERNEL_H * KERNEL_W][CHANNELS], so that the channels of a tap are neighbours. No
    selection stands in the places of channels: the compiler sees 16 neighbours and loads them at
    once. Pixels behind the last one read the first one.
    """
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_pixels = p < pixels
    in_channels = c < CHANNELS
    pixel = tl.where(in_pixels, p, 0)
    image = pixel // (OUT_HEIGHT * OUT_WIDTH)
    place = pixel % (OUT_HEIGHT * OUT_WIDTH)
    top = place // OUT_WIDTH * STRIDE_H - PAD_TOP
    left = place % OUT_WIDTH * STRIDE_W - PAD_LEFT
    x_image = x + image.to(tl.int64) * (HEIGHT * WIDTH * CHANNELS)
    start = tl.load(bias + c, mask=in_channels, other=0)
    sums = tl.zeros((BLOCK_P, BLOCK_C), dtype=tl.int32) + start[None, :]
    for i in range(KERNEL_H):
        for j in tl.static_range(KERNEL_W):
            y = top + i * DILATION_H
            z = left + j * DILATION_W
            inside = (y >= 0) & (y < HEIGHT) & (z >= 0) & (z < WIDTH)
            at = x_image + (y * WIDTH + z) * CHANNELS
            codes = tl.load(
                at[:, None] + c[None, :],
                mask=inside[:, None] & in_channels[None, :],
                other=PAD_VALUE,
            )
            taps = tl.load(weight + (i * KERNEL_W + j) * CHANNELS + c, mask=in_channels, other=0)
            sums += codes.to(tl.int32) * taps.to(tl.int32)[None, :]
    first = tl.program_id(0).to(tl.int64) * BLOCK_P * CHANNELS
    places = tl.arange(0, BLOCK_P)[:, None] * CHANNELS + c[None, :]
    mask = in_pixels[:, None] & in_channels[None, :]
    codes = epilogue.finish(
        sums,
        tl.load(multiplier + c, mask=in_channels, other=0)[None, :],
        tl.load(shift + c, mask=in_channels, other=33)[None, :],
        table,
        residual + first,
        places,
        mask,
        ZERO_POINT,
        QMIN,
        QMAX,
        SATURATES,
        HIGH,
        HAS_TABLE,
        HAS_RESIDUAL,
        ADD,
    )
    tl.store(out + first + places, codes, mask=mask)


@triton.jit
def _window(index, CHANNELS: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr):
    """Returns the image, row, column and channel of elements of an NHWC result."""
    channel = index % CHANNELS
    rest = index // CHANNELS
    column = rest % OUT_WIDTH
    rest = rest // OUT_WIDTH
    return rest // OUT_HEIGHT, rest % OUT_HEIGHT, column, channel


@triton.jit
def max_pool2d_s8(
    x,
    out,
    count,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    PAD_TOP: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Takes the largest code of each window; padding is -128."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    image, row, column, channel = _window(index, CHANNELS, OUT_HEIGHT, OUT_WIDTH)
    best = tl.full((BLOCK,), -128, tl.int32)
    for i in range(KERNEL_H):
        for j in range(KERNEL_W):
            y = row * STRIDE_H - PAD_TOP + i * DILATION_H
            z = column * STRIDE_W - PAD_LEFT + j * DILATION_W
            inside = mask & (y >= 0) & (y < HEIGHT) & (z >= 0) & (z < WIDTH)
            at = ((image * HEIGHT + y) * WIDTH + z) * CHANNELS + channel
            best = tl.maximum(best, tl.load(x + at, mask=inside, other=-128).to(tl.int32))
    tl.store(out + index, best.to(tl.int8), mask=mask)


@triton.jit
def _divide(
    sums,
    counted,
    multiplier,
    shift,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    mask,
):
    """Requantizes sums with the multiplier and shift of their number of elements."""
    m = tl.load(multiplier + (counted - 1), mask=mask, other=0)
    s = tl.load(shift + (counted - 1), mask=mask, other=32)
    return epilogue.clamp(epilogue.scale_sums(sums, m, s, True, False) + ZERO_POINT, QMIN, QMAX).to(
        tl.int8
    )


@triton.jit
def avg_pool2d_s8(
    x,
    multiplier,
    shift,
    out,
    count,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_TOP: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    COUNTED: tl.constexpr,
    X_ZERO_POINT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Averages windows; COUNTED (top, bottom, left, right) is the padding that counts."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    image, row, column, channel = _window(index, CHANNELS, OUT_HEIGHT, OUT_WIDTH)
    top = row * STRIDE_H - PAD_TOP
    left = column * STRIDE_W - PAD_LEFT
    sums = tl.zeros((BLOCK,), tl.int32)
    for i in range(KERNEL_H):
        for j in range(KERNEL_W):
            y = top + i
            z = left + j
            inside = mask & (y >= 0) & (y < HEIGHT) & (z >= 0) & (z < WIDTH)
            at = ((image * HEIGHT + y) * WIDTH + z) * CHANNELS + channel
            codes = tl.load(x + at, mask=inside, other=X_ZERO_POINT).to(tl.int32)
            sums += codes - X_ZERO_POINT
    down = tl.minimum(top + KERNEL_H, HEIGHT + COUNTED[1]) - tl.maximum(top, -COUNTED[0])
    across = tl.minimum(left + KERNEL_W, WIDTH + COUNTED[3]) - tl.maximum(left, -COUNTED[2])
    counted = tl.maximum(down, 1) * tl.maximum(across, 1)
    codes = _divide(sums, counted, multiplier, shift, ZERO_POINT, QMIN, QMAX, mask)
    tl.store(out + index, codes, mask=mask)


@triton.jit
def adaptive_avg_pool2d_s8(
    x,
    multiplier,
    shift,
    out,
    count,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    X_ZERO_POINT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Averages windows from floor(i H / h) to ceil((i + 1) H / h)."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    image, row, column, channel = _window(index, CHANNELS, OUT_HEIGHT, OUT_WIDTH)
    top = row * HEIGHT // OUT_HEIGHT
    left = column * WIDTH // OUT_WIDTH
    bottom = ((row + 1) * HEIGHT + OUT_HEIGHT - 1) // OUT_HEIGHT
    right = ((column + 1) * WIDTH + OUT_WIDTH - 1) // OUT_WIDTH
    sums = tl.zeros((BLOCK,), tl.int32)
    for i in range((HEIGHT + OUT_HEIGHT - 1) // OUT_HEIGHT + 1):
        for j in range((WIDTH + OUT_WIDTH - 1) // OUT_WIDTH + 1):
            y = top + i
            z = left + j
            inside = mask & (y < bottom) & (z < right)
            at = ((image * HEIGHT + y) * WIDTH + z) * CHANNELS + channel
            codes = tl.load(x + at, mask=inside, other=X_ZERO_POINT).to(tl.int32)
            sums += codes - X_ZERO_POINT
    elements = (bottom - top) * (right - left)
    codes = _divide(sums, elements, multiplier, shift, ZERO_POINT, QMIN, QMAX, mask)
    tl.store(out + index, codes, mask=mask)


@triton.jit
def mean_s8(
    x,
    out,
    count,
    elements,
    KEPT: tl.constexpr,
    X_STRIDES: tl.constexpr,
    OUT_STRIDES: tl.constexpr,
    REDUCED: tl.constexpr,
    REDUCED_STRIDES: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SHIFT: tl.constexpr,
    X_ZERO_POINT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Sums over some dimensions and divides by the number of elements."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    x_at = indexing.offsets(index, KEPT, X_STRIDES)
    sums = tl.zeros((BLOCK, BLOCK_R), tl.int32)
    for start in range(0, elements, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        at = x_at[:, None] + indexing.offsets(r, REDUCED, REDUCED_STRIDES)[None, :]
        inside = mask[:, None] & (r < elements)[None, :]
        sums += tl.load(x + at, mask=inside, other=X_ZERO_POINT).to(tl.int32) - X_ZERO_POINT
    m = tl.full((BLOCK,), MULTIPLIER, tl.int32)
    s = tl.full((BLOCK,), SHIFT, tl.int32)
    scaled = epilogue.scale_sums(tl.sum(sums, axis=1), m, s, SHIFT < 32, SHIFT >= 33)
    codes = epilogue.clamp(scaled + ZERO_POINT, QMIN, QMAX).to(tl.int8)
    tl.store(out + indexing.offsets(index, KEPT, OUT_STRIDES), codes, mask=mask)


@triton.jit
def _floor_divide(a, b):
    """Returns floor(a / b) for b > 0."""
    quotient = a // b
    return tl.where(quotient * b > a, quotient - 1, quotient)


@triton.jit
def resize_nearest_s8(
    x,
    out,
    count,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copies element floor((o d + offset) / n) of each axis; SCALE is (ny, dy, nx, dx)."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    image, row, column, channel = _window(index, CHANNELS, OUT_HEIGHT, OUT_WIDTH)
    y = _floor_divide(row.to(tl.int64) * SCALE[1] + OFFSET[0], SCALE[0])
    z = _floor_divide(column.to(tl.int64) * SCALE[3] + OFFSET[1], SCALE[2])
    y = epilogue.clamp(y, 0, HEIGHT - 1)
    z = epilogue.clamp(z, 0, WIDTH - 1)
    at = ((image * HEIGHT + y) * WIDTH + z) * CHANNELS + channel
    tl.store(out + index, tl.load(x + at, mask=mask, other=0), mask=mask)


@triton.jit
def resize_bilinear_s8(
    x,
    out,
    count,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
    OFFSET: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    SHIFT: tl.constexpr,
    X_ZERO_POINT: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Blends four neighbours with integer weights, in 64 bits, and requantizes the sum."""
    index, mask = indexing.indices(count, BLOCK, WIDE)
    image, row, column, channel = _window(index, CHANNELS, OUT_HEIGHT, OUT_WIDTH)
    y_at = row.to(tl.int64) * SCALE[1] + OFFSET[0]
    z_at = column.to(tl.int64) * SCALE[3] + OFFSET[1]
    y = _floor_divide(y_at, SCALE[0])
    z = _floor_divide(z_at, SCALE[2])
    down = y_at - y * SCALE[0]
    right = z_at - z * SCALE[2]
    sums = tl.zeros((BLOCK,), tl.int64)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            a = epilogue.clamp(y + i, 0, HEIGHT - 1)
            b = epilogue.clamp(z + j, 0, WIDTH - 1)
            at = ((image * HEIGHT + a) * WIDTH + b) * CHANNELS + channel
            codes = tl.load(x + at, mask=mask, other=0).to(tl.int64) - X_ZERO_POINT
            weight_y = down if i else SCALE[0] - down
            weight_z = right if j else SCALE[2] - right
            sums += codes * weight_y * weight_z
    m = tl.full((BLOCK,), MULTIPLIER, tl.int64)
    s = tl.full((BLOCK,), SHIFT, tl.int64)
    scaled = epilogue.scale_sums(sums, m, s, True, False)
    tl.store(out + index, epilogue.clamp(scaled + ZERO_POINT, QMIN, QMAX).to(tl.int8), mask=mask)
