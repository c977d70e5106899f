"""The cost model of products: cycles of a core, from counts of dot products, loads and cache lines.

The sum of four terms, each a count times a constant below. The constants were fitted to the times
of all layers of MobileNetV2, EfficientNet-Lite0, ResNet-18 and ResNet-50 with all their settings,
on one Zen 4 core with 512-bit dot products: what the model takes is within 1 % of the best settings
for each network. It ranks the settings of a layer and is no prediction of time.

- dot products: a step of a tile of r rows and p panels issues r * p of them and r + p loads, one of
  each per cycle, and takes no less than a minimum, since the dot products of a sum form a chain; a
  last panel of which 8 columns or less are in use counts half;
- tiles: a tile has a cost of its own, each of its rows one for every tap whose address it computes,
  and each sum one for requantization;
- weights: a block of rows reads them once, the first block from the third-level cache, and every
  further tile of the block reads its own again, from as near as they fit;
- rows: each group of panels reads the block of input rows again.

A line costs nothing where processors fetch it ahead in time, which they do as long as what a loop
reads again is not too large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

PANEL = 16
# Most rows of a tile by its panels, and the heights in which the rest is taken: qc_tile_rows.
MOST_ROWS = {1: 14, 2: 14, 3: 8, 4: 6}
# Rows of a block that kernels can hold: QC_BLOCK_ROWS.
BLOCK_ROWS = 200
# Channels that a depthwise kernel takes at a time: QC_BLOCK.
CHANNEL_BLOCK = 64

_LEAST_STEP = 6.0
_TILE, _TAP_ROW, _REQUANTIZE = 30.0, 2.0, 2.4
_GATHER = 1.5
_LINE = 64
# Bytes that a loop reads again, up to which lines arrive in time, and come from the second-level
# cache; cycles to wait for a line from there, and from the third-level cache.
_NEAR, _SECOND_LEVEL = 192 * 1024, 512 * 1024
_SECOND_LEVEL_LINE, _THIRD_LEVEL_LINE = 0.5, 2.0


@dataclass(frozen=True)
class Product:
    """A product as kernels see it: output pixels, and runs of bytes that meet packed weights.

    Attributes:
        rows: pixels of the result.
        taps: runs of bytes that a result reads.
        depth: bytes of a run.
        channels: output channels of a group.
        groups: number of groups.
    """

    rows: int
    taps: int
    depth: int
    channels: int
    groups: int = 1

    @property
    def steps(self) -> int:
        """Dot products of a result: four bytes each."""
        return self.taps * -(-self.depth // 4)

    @property
    def panels(self) -> int:
        """Panels of a group."""
        return -(-self.channels // PANEL)

    @property
    def spare(self) -> float:
        """The part of a group's last panel that costs no dot products."""
        return 0.5 if 0 < self.channels % PANEL <= PANEL // 2 else 0.0


def tile_widths(panels: int, widest: int) -> tuple[int, ...]:
    """Returns the panels of each tile across a group: as many tiles as needed, equally wide."""
    widths = []
    while panels:
        tiles = -(-panels // widest)
        widths.append(-(-panels // tiles))
        panels -= widths[-1]
    return tuple(widths)


@lru_cache(maxsize=4096)
def tile_heights(rows: int, panels: int) -> tuple[int, ...]:
    """Returns the rows of each tile down a block, as qc_tile_rows takes them."""
    heights = []
    most = MOST_ROWS[panels]
    while rows:
        if rows >= most:
            height = 7 if most == 8 and rows % 8 and rows % 7 == 0 else most
        elif panels < 4 and rows >= 7:
            height = 8 if rows >= 8 and panels < 3 else 7
        else:
            height = 4 if rows >= 4 else 2 if rows >= 2 else 1
        heights.append(height)
        rows -= height
    return tuple(heights)


def block_sizes(rows: int, block_rows: int) -> Iterator[int]:
    """Yields the rows of each block: as many blocks as needed, equally high."""
    blocks = -(-rows // block_rows)
    for i in range(blocks):
        yield rows * (i + 1) // blocks - rows * i // blocks


def product_cycles(
    product: Product, widest: int, blocks: Sequence[int], source: int | None = None
) -> float:
    """Returns the cycles of a product.

    Args:
        product: its sizes.
        widest: most panels of a tile.
        blocks: rows of each block.
        source: bytes that are read between one reading of a block and the next; None where that
            is the block alone.
    """
    steps = product.steps
    weights = product.groups * product.panels * PANEL * 4 * steps
    cycles = 0.0
    for rows, times in Counter(blocks).items():
        each = weights / _LINE * line_cycles(max(weights, _NEAR + 1))
        block = rows * product.taps * product.depth
        widths = tile_widths(product.panels, widest)
        for at, width in enumerate(widths, 1):
            heights = tile_heights(rows, width)
            own = width * PANEL * 4 * steps
            each += product.groups * (
                own / _LINE * line_cycles(own) * (len(heights) - 1)
                + block / _LINE * line_cycles(block if source is None else source)
                + _tiles(product, heights, width, product.spare if at == len(widths) else 0.0)
            )
        cycles += times * each
    return cycles + weights / _LINE * (_THIRD_LEVEL_LINE - _SECOND_LEVEL_LINE)


def chain_cycles(product: Product, widest: int, blocks: Sequence[int], buffer: int) -> float:
    """Returns the cycles of a 1x1 product, a block of channels at a time, and of its buffer.

    Args:
        product: the 1x1 product.
        widest: most panels of a tile.
        blocks: rows of each block.
        buffer: bytes that results take until the next operator has read them.
    """
    rows = sum(blocks)
    cycles = 2 * rows * product.channels / _LINE * line_cycles(buffer)
    for first in range(0, product.channels, CHANNEL_BLOCK):
        part = replace(product, channels=min(CHANNEL_BLOCK, product.channels - first))
        cycles += product_cycles(part, widest, blocks, rows * product.depth)
    return cycles


def gather_cycles(product: Product) -> float:
    """Returns the cycles of gathering the windows of a product that reads them as its taps."""
    return product.rows * product.taps * -(-product.depth // 16) * _GATHER


def stored_cycles(product: Product) -> float:
    """Returns the cycles of writing the results of a product and of reading them again."""
    size = product.rows * product.channels
    return 2 * size / _LINE * line_cycles(size)


def _tiles(product: Product, heights: tuple[int, ...], width: int, spare: float) -> float:
    """Returns the cycles of tiles whose operands are all in the first-level cache."""
    cycles = 0.0
    for height in heights:
        step = max(height * (width - spare), height + width, _LEAST_STEP)
        cycles += product.steps * step + product.taps * height * _TAP_ROW
        cycles += height * width * _REQUANTIZE + _TILE
    return cycles


def line_cycles(size: int) -> float:
    """Returns the cycles to wait for a line when so many bytes are read again and again."""
    if size <= _NEAR:
        return 0.0
    return _SECOND_LEVEL_LINE if size <= _SECOND_LEVEL else _THIRD_LEVEL_LINE
