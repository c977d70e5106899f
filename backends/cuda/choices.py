"""Tile sizes of products: the candidates for a shape, ordered by a model of their time.

Results do not depend on the tile. The model is a roofline: rounds of blocks over the
multiprocessors, each as long as its products, its loads from the cache or its least latency take.
Its constants are data-sheet numbers and estimates; tuning measures what it orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import gcd, sqrt
from typing import TypeAlias

from qcompiler.backends.cuda.architectures import Architecture

# Share of the peak that large tiles reach, and the side of a square tile that reaches half of it.
_REACHED, _HALF = 0.8, 40.0
# Bandwidth of the cache of the second level over that of memory.
_CACHE = 2.0
# Seconds until a load is there; of the barriers of a step; of a launch; of a part's sums.
_LATENCY, _STEP, _START, _PART = 0.7e-6, 0.03e-6, 2.0e-6, 1.5e-6
# Seconds of a multiprocessor for a load with a place of its own: some 15 instructions.
_GATHER = 7e-11
# Registers of a multiprocessor; of a thread beside its sums.
_REGISTERS, _OTHERS = 65536, 72
_BLOCKS = (16, 32, 64, 128, 256)
# Sums of a block that has little to do per step, so that long steps keep more loads under way.
_SMALL = 32 * 64
# Sums of a block that leave registers for the rest: wgmma reads its operands from shared memory.
_LARGEST = {"IMMA": 128 * 128, "IGMMA": 128 * 256}


@dataclass(frozen=True)
class Product:
    """The shape of a product: pixels, filters of a group, depth, and channels of a group."""

    rows: int
    columns: int
    depth: int
    channels: int
    groups: int = 1

    @property
    def gathers(self) -> bool:
        """Whether steps along the depth go over several taps of a kernel."""
        return self.depth != self.channels and all(self.channels % k for k in (64, 128, 32))

    @property
    def word(self) -> int:
        """Codes of a tap that are loaded at once."""
        return gcd(self.channels, 16)


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


# Tiles by ``tile_key``.
Tiles: TypeAlias = Mapping[str, Tile]


def tile_key(node: str, rows: int) -> str:
    """Returns the name of a product at a size: a node, and its number of pixels."""
    return f"{node}@{rows}"


def power_at_least(value: int, least: int, most: int) -> int:
    """Returns the smallest power of two that is no less than a value, within limits."""
    size = least
    while size < value and size < most:
        size *= 2
    return size


def candidates(product: Product, arch: Architecture) -> list[Tile]:
    """Returns tiles for a product, the fastest by the model first.

    Those that share sides, warps and parts with a faster one come behind all that do not: the first
    few differ in what matters.
    """
    ordered = sorted(set(_tiles(product, arch)), key=lambda t: (seconds(product, t, arch), repr(t)))
    found: dict[tuple[int, ...], Tile] = {}
    for tile in ordered:
        sides = (tile.block_m, tile.block_n, tile.num_warps, tile.split_k)
        found.setdefault(sides, tile)
    first = list(found.values())
    return [*first, *(tile for tile in ordered if tile not in first)]


def default_tile(product: Product, arch: Architecture) -> Tile:
    """Returns the tile that the model takes."""
    return min(_tiles(product, arch), key=lambda t: (seconds(product, t, arch), repr(t)))


def _tiles(product: Product, arch: Architecture) -> Iterator[Tile]:
    most_m = power_at_least(product.rows, 16, 256)
    if product.gathers:
        # Each word, or byte, has a place of its own, and each place two registers.
        deep = (32, 64) if product.word > 1 and product.depth > 32 else (32,)
        for block_n in (n for n in (16, 32, 64) if n <= power_at_least(product.columns, 16, 64)):
            for block_k in deep:
                yield Tile(min(64, most_m), block_n, block_k, num_stages=2)
                yield Tile(min(128, most_m), block_n, block_k, num_warps=8, num_stages=2)
        return
    most_n = power_at_least(product.columns, 16, 256)
    for block_m in (m for m in _BLOCKS if m <= most_m):
        for block_n in (n for n in _BLOCKS if n <= most_n):
            if block_m * block_n > _LARGEST[arch.instruction]:
                continue
            warps = 8 if block_m * block_n > 128 * 64 and block_m >= 64 else 4
            if warps == 4 and block_m * block_n > 64 * 128:
                continue
            small = block_m * block_n <= _SMALL
            for block_k in _depths(product, small):
                stage = (block_m + block_n) * block_k
                most = 6 if small else 4
                stages = min(most, (arch.shared_bytes - 1024) // stage)
                if stages < 2:
                    continue
                for split in _splits(product, block_m, block_n, block_k, arch):
                    yield Tile(block_m, block_n, block_k, 8, split, warps, stages)
                    if arch.instruction == "IGMMA" and block_m == block_n == 128:
                        # Triton waits for the products of each step before the next one: with few
                        # enough threads and loads two blocks fit, and one computes meanwhile.
                        yield Tile(block_m, block_n, block_k, 8, split, 4, min(stages, 3))


def _depths(product: Product, small: bool) -> list[int]:
    """Returns steps along the depth; inside a tap where channels divide by them."""
    if product.depth != product.channels and product.channels % 64:
        return [32]
    steps = (64, 128, 256) if small else (64, 128)
    inside = [k for k in steps if product.channels % k == 0 and product.depth >= k]
    return inside or [64 if product.depth >= 48 else 32]


def _splits(
    product: Product, block_m: int, block_n: int, block_k: int, arch: Architecture
) -> Iterator[int]:
    tiles = -(-product.rows // block_m) * -(-product.columns // block_n) * product.groups
    steps = -(-product.depth // block_k)
    split = 1
    yield split
    while tiles * split < 2 * arch.multiprocessors and steps >= 4 * split:
        split *= 2
        yield split


def seconds(product: Product, tile: Tile, arch: Architecture) -> float:
    """Returns the time of a product by the model."""
    across = -(-product.columns // tile.block_n)
    blocks = -(-product.rows // tile.block_m) * across * product.groups * tile.split_k
    whole = -(-product.depth // tile.block_k)
    steps = -(-whole // tile.split_k)
    stage = (tile.block_m + tile.block_n) * tile.block_k
    threads = 32 * tile.num_warps
    held = tile.block_m * tile.block_n + threads * _OTHERS
    resident = min(arch.shared_bytes // (stage * tile.num_stages), _REGISTERS // held, 8)
    resident = max(1, min(resident, -(-blocks // arch.multiprocessors)))
    rounds = -(-blocks // (arch.multiprocessors * resident))
    side = sqrt(tile.block_m * tile.block_n)
    rate = arch.tops * 1e12 / arch.multiprocessors * _REACHED * side / (side + _HALF)
    products = 2 * tile.block_m * tile.block_n * tile.block_k * steps / rate
    if product.gathers:
        products += tile.block_m * tile.block_k / product.word * steps * _GATHER
    # What is under way bounds the rate of loads as the cache does.
    under_way = resident * stage * (tile.num_stages - 1)
    cache = _CACHE * arch.gigabytes * 1e9 / arch.multiprocessors
    loads = stage * steps / min(cache, under_way / _LATENCY)
    one = resident * max(products, loads) + steps * _STEP + _LATENCY
    memory = (product.columns * product.groups * product.depth) / (arch.gigabytes * 1e9)
    parts = 0.0
    if tile.split_k > 1:
        sums = 8 * product.rows * product.columns * product.groups * tile.split_k
        parts = _PART + sums / (arch.gigabytes * 1e9)
    return _START + max(rounds * one, memory) + parts
