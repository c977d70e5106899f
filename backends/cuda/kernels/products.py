"""Convolution and matrix products as implicit GEMM over NHWC codes and K-contiguous weights."""

import triton
import triton.language as tl

from qcompiler.backends.cuda.kernels import epilogue


@triton.jit
def conv2d_s8(
    x,
    weight,
    bias,
    multiplier,
    shift,
    table,
    residual,
    out,
    padding,
    partial,
    arrivals,
    rows,
    CHANNELS: tl.constexpr,
    GROUP_CHANNELS: tl.constexpr,
    GROUP_OUT: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
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
    PADDED: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ADD: tl.constexpr,
    RAW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """Multiplies ``rows`` pixels with one group's filters; grid (tiles, groups, SPLIT_K).

    Weights are [groups][GROUP_OUT][KERNEL_H * KERNEL_W * GROUP_CHANNELS]. A tap in the padding
    reads ``padding``, GROUP_CHANNELS codes whose part of the sum the bias takes back: a choice of
    addresses leaves the copies to shared memory as they are, where a mask with a value other than
    zero would send every byte through registers. PADDED is false where no tap is there. With
    SPLIT_K > 1 the parts of the depth add up in ``partial``, int32 and zero, and the last one of a
    tile to arrive finishes it and leaves zeros there again: sums of integers do not depend on the
    order.
    """
    DEPTH: tl.constexpr = KERNEL_H * KERNEL_W * GROUP_CHANNELS
    BY_TAPS: tl.constexpr = GROUP_CHANNELS % BLOCK_K == 0
    STEPS: tl.constexpr = (DEPTH + BLOCK_K - 1) // BLOCK_K
    CHUNKS: tl.constexpr = GROUP_CHANNELS // BLOCK_K if BY_TAPS else 1
    # The compiler does not always see through the choice of addresses.
    ALIGNED: tl.constexpr = 16 if CHANNELS % 16 == 0 and GROUP_CHANNELS % 16 == 0 else 1
    PIXELS: tl.constexpr = OUT_HEIGHT * OUT_WIDTH
    POINTWISE: tl.constexpr = (
        KERNEL_H * KERNEL_W == 1
        and STRIDE_H == 1
        and STRIDE_W == 1
        and PAD_TOP == 0
        and PAD_LEFT == 0
        and HEIGHT == OUT_HEIGHT
        and WIDTH == OUT_WIDTH
    )
    tile = tl.program_id(0)
    group = tl.program_id(1)
    part = tl.program_id(2)

    # Tiles go by GROUP_M rows of tiles, so that neighbours share weights and pixels in the cache.
    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(GROUP_OUT, BLOCK_N)
    band = GROUP_M * tiles_n
    first = tile // band * GROUP_M
    height = tl.minimum(tiles_m - first, GROUP_M)
    tile_m = first + tile % band % height
    tile_n = tile % band // height

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows = m < rows
    in_columns = n < GROUP_OUT
    row = tl.where(in_rows, m, 0)
    column = tl.where(in_columns, n, 0)
    k = tl.arange(0, BLOCK_K)
    w_rows = weight + (group * GROUP_OUT + column).to(tl.int64)[None, :] * DEPTH
    if POINTWISE:
        x_rows = x + row.to(tl.int64) * CHANNELS + group * GROUP_CHANNELS
        top = row
        left = row
    else:
        image = row // PIXELS
        pixel = row % PIXELS
        top = pixel // OUT_WIDTH * STRIDE_H - PAD_TOP
        left = pixel % OUT_WIDTH * STRIDE_W - PAD_LEFT
        x_rows = x + image.to(tl.int64) * (HEIGHT * WIDTH * CHANNELS) + group * GROUP_CHANNELS

    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for step in range(part, STEPS, SPLIT_K):
        if BY_TAPS:
            tap = step // CHUNKS
            channel = step % CHUNKS * BLOCK_K + k
            b = tl.load(w_rows + (step * BLOCK_K + k)[:, None])
            if POINTWISE:
                a = tl.load(x_rows[:, None] + channel[None, :])
            else:
                y = top + tap // KERNEL_W * DILATION_H
                z = left + tap % KERNEL_W * DILATION_W
                taken = x_rows + (y * WIDTH + z) * CHANNELS
                if PADDED:
                    inside = (y >= 0) & (y < HEIGHT) & (z >= 0) & (z < WIDTH)
                    taken = tl.multiple_of(tl.where(inside, taken, padding), ALIGNED)
                a = tl.load(taken[:, None] + channel[None, :])
        else:
            depth = step * BLOCK_K + k
            deep = depth < DEPTH
            b = tl.load(w_rows + depth[:, None], mask=deep[:, None], other=0)
            if POINTWISE:
                a = tl.load(x_rows[:, None] + depth[None, :], mask=deep[None, :], other=0)
            else:
                tap = depth // GROUP_CHANNELS
                channel = (depth % GROUP_CHANNELS)[None, :]
                y = top[:, None] + (tap // KERNEL_W * DILATION_H)[None, :]
                z = left[:, None] + (tap % KERNEL_W * DILATION_W)[None, :]
                taken = x_rows[:, None] + (y * WIDTH + z) * CHANNELS + channel
                if PADDED:
                    inside = (y >= 0) & (y < HEIGHT) & (z >= 0) & (z < WIDTH)
                    taken = tl.where(inside, taken, padding + channel)
                a = tl.load(taken, mask=deep[None, :], other=0)
        sums = tl.dot(a, b, sums, out_dtype=tl.int32)

    # One wide offset for the tile and narrow ones inside it take half the registers; no selection
    # stands in the offsets, so that the compiler sees which of them are neighbours.
    start = (tile_m * BLOCK_M).to(tl.int64) * OUT_CHANNELS + group * GROUP_OUT + tile_n * BLOCK_N
    local_m = tl.arange(0, BLOCK_M)
    local_n = tl.arange(0, BLOCK_N)
    places = local_m[:, None] * OUT_CHANNELS + local_n[None, :]
    mask = (local_m < rows - tile_m * BLOCK_M)[:, None]
    if GROUP_OUT % BLOCK_N != 0:
        mask = mask & in_columns[None, :]
    mask = tl.broadcast_to(mask, (BLOCK_M, BLOCK_N))
    last = True
    if SPLIT_K > 1:
        tl.atomic_add(partial + start + places, sums, mask=mask, sem="relaxed")
        tl.debug_barrier()  # all threads' parts are on their way before one of them says so
        counter = arrivals + group * tl.num_programs(0) + tile
        last = tl.atomic_add(counter, 1, sem="acq_rel") == SPLIT_K - 1
        if last:
            tl.debug_barrier()
            sums = tl.atomic_xchg(
                partial + start + places, tl.zeros_like(sums), mask=mask, sem="relaxed"
            )
            tl.store(counter, 0)
    if last:
        channels = group * GROUP_OUT + n
        sums += tl.load(bias + channels, mask=in_columns, other=0)[None, :]
        if RAW:
            tl.store(out + start + places, sums, mask=mask)
        else:
            codes = epilogue.finish(
                sums,
                tl.load(multiplier + channels, mask=in_columns, other=0)[None, :],
                tl.load(shift + channels, mask=in_columns, other=33)[None, :],
                table,
                residual + start,
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
            tl.store(out + start + places, codes, mask=mask)


@triton.jit
def gemv_s8(
    x,
    weight,
    bias,
    multiplier,
    shift,
    table,
    residual,
    out,
    DEPTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ADD: tl.constexpr,
    RAW: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiplies rows one by one with the weights; grid (tiles of channels, rows).

    Each weight is read once: the speed is that of the memory.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1).to(tl.int64)
    in_columns = n < OUT_CHANNELS
    column = tl.where(in_columns, n, 0)
    w_rows = weight + column.to(tl.int64)[:, None] * DEPTH
    sums = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.int32)
    for start in range(0, DEPTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        deep = k < DEPTH
        a = tl.load(x + row * DEPTH + k, mask=deep, other=0).to(tl.int32)
        b = tl.load(w_rows + k[None, :], mask=deep[None, :], other=0).to(tl.int32)
        sums += a[None, :] * b
    total = tl.sum(sums, axis=1) + tl.load(bias + column)
    places = row * OUT_CHANNELS + column
    if RAW:
        tl.store(out + places, total, mask=in_columns)
    else:
        codes = epilogue.finish(
            total,
            tl.load(multiplier + column),
            tl.load(shift + column),
            table,
            residual,
            places,
            in_columns,
            ZERO_POINT,
            QMIN,
            QMAX,
            SATURATES,
            HIGH,
            HAS_TABLE,
            HAS_RESIDUAL,
            ADD,
        )
        tl.store(out + places, codes, mask=in_columns)


@triton.jit
def matmul_s8(
    a,
    b,
    multiplier,
    shift,
    out,
    rows,
    columns,
    depth,
    a_row,
    a_depth,
    b_depth,
    b_column,
    out_row,
    out_column,
    BATCH: tl.constexpr,
    A_BATCH: tl.constexpr,
    B_BATCH: tl.constexpr,
    OUT_BATCH: tl.constexpr,
    A_ZERO: tl.constexpr,
    B_ZERO: tl.constexpr,
    PER_COLUMN: tl.constexpr,
    ZERO_POINT: tl.constexpr,
    QMIN: tl.constexpr,
    QMAX: tl.constexpr,
    SATURATES: tl.constexpr,
    HIGH: tl.constexpr,
    RAW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Multiplies matrices of activations at any strides; grid (tiles, matrices).

    BATCH is a tuple of batch sizes, the others of its name their strides. Zero points are taken
    out by the sums of rows and columns: sum (a - za)(b - zb) = ab - zb sum a - za sum b + K za zb.
    """
    tiles_n = tl.cdiv(columns, BLOCK_N)
    m = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows = m < rows
    in_columns = n < columns
    rest = tl.program_id(1).to(tl.int64)
    a_at = rest * 0
    b_at = rest * 0
    out_at = rest * 0
    for d in tl.static_range(len(BATCH)):
        i = rest % BATCH[len(BATCH) - 1 - d]
        rest = rest // BATCH[len(BATCH) - 1 - d]
        a_at += i * A_BATCH[len(BATCH) - 1 - d]
        b_at += i * B_BATCH[len(BATCH) - 1 - d]
        out_at += i * OUT_BATCH[len(BATCH) - 1 - d]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    a_sums = tl.zeros((BLOCK_M,), dtype=tl.int32)
    b_sums = tl.zeros((BLOCK_N,), dtype=tl.int32)
    for start in range(0, depth, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        deep = k < depth
        left = tl.load(
            a + a_at + m.to(tl.int64)[:, None] * a_row + k[None, :] * a_depth,
            mask=in_rows[:, None] & deep[None, :],
            other=0,
        )
        right = tl.load(
            b + b_at + n.to(tl.int64)[None, :] * b_column + k[:, None] * b_depth,
            mask=in_columns[None, :] & deep[:, None],
            other=0,
        )
        sums = tl.dot(left, right, sums, out_dtype=tl.int32)
        if B_ZERO != 0:
            a_sums += tl.sum(left.to(tl.int32), axis=1)
        if A_ZERO != 0:
            b_sums += tl.sum(right.to(tl.int32), axis=0)
    sums += depth * A_ZERO * B_ZERO - B_ZERO * a_sums[:, None] - A_ZERO * b_sums[None, :]
    places = out_at + m.to(tl.int64)[:, None] * out_row + n[None, :] * out_column
    mask = in_rows[:, None] & in_columns[None, :]
    if RAW:
        tl.store(out + places, sums, mask=mask)
    else:
        channel = tl.where(in_columns, n, 0) if PER_COLUMN else n * 0
        codes = epilogue.finish(
            sums,
            tl.load(multiplier + channel)[None, :],
            tl.load(shift + channel)[None, :],
            out,
            out,
            places,
            mask,
            ZERO_POINT,
            QMIN,
            QMAX,
            SATURATES,
            HIGH,
            False,
            False,
            (),
        )
        tl.store(out + places, codes, mask=mask)
