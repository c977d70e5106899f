"""Tile sizes of products: the default for a shape, and the candidates that tuning measures."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.backends.cuda.architectures import Architecture


@dataclass(frozen=True)
class Tile:
    """How a product is cut into blocks; results do not depend on it.

    Attributes:
        block_m: pixels of a block.
        block_n: output channels of a block.
        block_k: steps along the depth.
        group_m: tiles of pixels that go one after the other over all channels.
        split_k: parts of the depth.
        num_warps: of a block.
        num_stages: loads under way.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int = 8
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 3


def power_at_least(value: int, least: int, most: int) -> int:
    """Returns the smallest power of two that is no less than a value, within limits."""
    size = least
    while size < value and size < most:
        size *= 2
    return size


def default_tile(rows: int, columns: int, depth: int, channels: int, arch: Architecture) -> Tile:
    """Returns the tile for a product of ``rows`` x ``depth`` with ``columns`` filters.

    Blocks are as large as leaves one for each multiprocessor; where even the smallest leave many
    idle, the depth is split.

    Args:
        rows: pixels.
        columns: output channels of a group.
        depth: kernel taps times channels of a group.
        channels: of a group; steps along the depth stay inside one tap where they divide it.
        arch: whose multiprocessors are to be busy.
    """
    block_k = 128 if channels % 128 == 0 else 64 if channels % 64 == 0 else 32
    for block_m, block_n, warps in (
        *((128, 256, 8), (128, 128, 8), (128, 64, 4)),
        *((64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4)),
    ):
        if block_m > max(16, 2 * rows) or block_n > max(32, 2 * columns):
            continue
        tiles = -(-rows // block_m) * -(-columns // block_n)
        if tiles >= arch.multiprocessors:
            return _fitting(Tile(block_m, block_n, block_k, num_warps=warps), arch)
    block_m = power_at_least(rows, 16, 32)
    block_n = power_at_least(columns, 16, 64)
    tiles = -(-rows // block_m) * -(-columns // block_n)
    steps = -(-depth // block_k)
    split = 1
    while tiles * split * 2 <= arch.multiprocessors and split * 4 <= steps:
        split *= 2
    return _fitting(Tile(block_m, block_n, block_k, split_k=split), arch)


def _fitting(tile: Tile, arch: Architecture) -> Tile:
    """Returns the tile with as many stages as fit the shared memory, at most four."""
    stage = (tile.block_m + tile.block_n) * tile.block_k
    stages = max(2, min(4, arch.shared_bytes // stage))
    return Tile(
        tile.block_m,
        tile.block_n,
        tile.block_k,
        tile.group_m,
        tile.split_k,
        tile.num_warps,
        stages,
    )
