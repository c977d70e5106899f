"""What kernels leave open for a call, and which of it the cost model would take.

==================  ============================================================================
choice              meaning
==================  ============================================================================
``widest``          most panels of 16 output channels that a tile takes: wide tiles read fewer
                    input rows, narrow ones are taller and read fewer weights
``block_rows``      output pixels of a block: it reads every weight once, and its rows once for
                    each tile across
``by_rows``         whether a convolution reads the rows of its kernel as runs of bytes
                    from a copy with the border around it (1), or tap by tap (0)
``gathers``         whether it gathers these rows first, so that a window is one run of bytes
``rows_at_once``    image rows that such a copy serves, or that a fused 1x1 convolution computes
                    for the depthwise one behind it
``fused``           whether a 1x1 convolution and the depthwise one behind it run together by
                    blocks of channels (1), or one after the other with the value between in
                    scratch memory (0)
==================  ============================================================================

Results do not depend on any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

from torch import fx

from qcompiler.backends.native.costs import (
    BLOCK_ROWS,
    CHANNEL_BLOCK,
    Product,
    block_sizes,
    chain_cycles,
    gather_cycles,
    product_cycles,
    stored_cycles,
    tile_widths,
)
from qcompiler.backends.native.packing import groups_to_merge
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.queries import product_arguments
from qcompiler.ir.types import Dim, evaluate_dim

# The value of each choice of a call.
Setting: TypeAlias = Mapping[str, int]

_WIDEST = (4, 3, 2)
_BLOCK_ROWS = (BLOCK_ROWS, 112, 56)
# Bytes of the rows that a part copies at a time.
_COPIED = (64 * 1024, 32 * 1024, 16 * 1024, 128 * 1024)
# Bytes of the windows that are worth gathering.
_GATHERED = 64
# Pixels that a fused 1x1 convolution computes at a time.
_EXPANDED = (112, 56, 28, BLOCK_ROWS, 2 * BLOCK_ROWS)


def settings_of(graph: QGraph, node: fx.Node) -> tuple[Setting, ...]:
    """Returns every setting of a call, the cheapest by the cost model first.

    A call whose kernel leaves nothing open has the empty setting alone. Sizes that a program keeps
    dynamic count with the least value that they may have.
    """
    costs = list(_Space(graph, node).costs())
    if not costs:
        return ({},)
    return tuple(setting for setting, _ in sorted(costs, key=lambda pair: pair[1]))


def cycles_of(graph: QGraph, node: fx.Node) -> float | None:
    """Returns the cycles of a call with its cheapest setting, None where the model has none."""
    return min((cost for _, cost in _Space(graph, node).costs()), default=None)


def default_setting(graph: QGraph, node: fx.Node) -> Setting:
    """Returns the setting that the cost model takes."""
    return settings_of(graph, node)[0]


def window_bytes(covered: int) -> int:
    """Returns the bytes of a gathered window that covers so many: whole dot products of four."""
    return -(-covered // 4) * 4


def is_depthwise(weight: Sequence[int], groups: int) -> bool:
    """Says whether a convolution with weights of the given shape has one filter per channel."""
    return groups > 1 and weight[1] == 1 and weight[0] == groups


class _Space:
    """The settings of one call with their costs in cycles."""

    def __init__(self, graph: QGraph, node: fx.Node) -> None:
        self._node = node
        self._least = {name: span.low for name, span in graph.symbols.items()}

    def costs(self) -> Iterator[tuple[Setting, float]]:
        """Yields each setting once."""
        args = arguments(self._node)
        match str(self._node.target).removeprefix("qcompiler.").removesuffix(".default"):
            case "conv2d" | "conv2d_requant":
                yield from self._convolution(args)
            case "linear" | "linear_requant":
                channels, depth = _shape(args["weight"])
                outer = type_of(self._node).shape[:-1]
                if any(size != 1 for size in outer):
                    yield from _blocked(Product(self._size(outer), 1, depth, channels))
            case "pointwise_depthwise_requant":
                yield from self._chain()

    def _convolution(self, args: Mapping[str, Any]) -> Iterator[tuple[Setting, float]]:
        weight, groups = _shape(args["weight"]), int(args["groups"])
        n, _, height, width = type_of(self._node).shape
        rows = self._size((n, height, width))
        channels, depth, kernel_h, kernel_w = weight
        requantizes = "multiplier" in args
        if requantizes and is_depthwise(weight, groups):
            return
        merged = groups_to_merge(weight, groups)
        groups, depth = groups // merged, merged * depth
        product = Product(rows, kernel_h * kernel_w, depth, channels // groups, groups)
        if not requantizes or groups > 1 or args["dilation"][1] > 1 or kernel_w == 1:
            yield from _blocked(product)
            return
        for setting, cost in _blocked(product):
            yield {"by_rows": 0, **setting}, cost
        yield from self._by_rows(args, Product(rows, kernel_h, kernel_w * depth, channels))

    def _by_rows(
        self, args: Mapping[str, Any], product: Product
    ) -> Iterator[tuple[Setting, float]]:
        """Yields the settings of a convolution that copies the rows that it reads."""
        n, _, height, width = type_of(self._node).shape
        stride_h, stride_w = args["stride"]
        reach = (product.taps - 1) * args["dilation"][0] + 1
        images, high, across = (self._size((size,)) for size in (n, height, width))
        windows = replace(product, taps=1, depth=window_bytes(product.taps * product.depth))
        inside = self._inside(args, product.taps, high)
        counts = [1]
        if isinstance(width, int):
            run = product.depth + (width - 1) * stride_w * int(type_of(args["x"]).shape[1])
            counts = [(size // max(run, 1) - reach) // stride_h + 1 for size in _COPIED]
        for count in _row_counts(counts, high):
            blocks = images * _strips(high, across, count)
            for widest in _widths(product):
                cost = inside * product_cycles(product, widest, blocks)
                yield {"by_rows": 1, "gathers": 0, "widest": widest, "rows_at_once": count}, cost
                if windows.depth <= _GATHERED:
                    cost = gather_cycles(product) + product_cycles(windows, widest, blocks)
                    yield (
                        {"by_rows": 1, "gathers": 1, "widest": widest, "rows_at_once": count},
                        cost,
                    )

    def _inside(self, args: Mapping[str, Any], kernel_h: int, high: int) -> float:
        """Returns the share of the kernel rows that lie inside the image, over all output rows."""
        size = self._size((type_of(args["x"]).shape[2],))
        first, step, apart = (int(args[k][0]) for k in ("padding", "stride", "dilation"))
        tops = [row * step - first for row in range(high)]
        hits = sum(0 <= top + tap * apart < size for top in tops for tap in range(kernel_h))
        return hits / max(high * kernel_h, 1)

    def _chain(self) -> Iterator[tuple[Setting, float]]:
        """Yields the settings of a 1x1 convolution with the depthwise one behind it."""
        first, second = product_arguments(self._node)
        (channels, depth, *_), (_, _, kernel_h, _) = (_shape(a["weight"]) for a in (first, second))
        n, _, height, width = type_of(first["x"]).shape
        images, high, across = (self._size((size,)) for size in (n, height, width))
        product = Product(images * high * across, 1, depth, channels)
        reach = (kernel_h - 1) * second["dilation"][0] + 1
        counts = [size // max(width, 1) for size in _EXPANDED] if isinstance(width, int) else [1]
        for count in _row_counts(counts, high):
            blocks = images * _strips(high, across, count)
            buffer = (reach + 2 * count) * across * CHANNEL_BLOCK
            for widest in _widths(replace(product, channels=min(CHANNEL_BLOCK, product.channels))):
                cost = chain_cycles(product, widest, blocks, buffer)
                yield {"fused": 1, "widest": widest, "rows_at_once": count}, cost
        for setting, cost in _blocked(product):
            yield {"fused": 0, **setting}, cost + stored_cycles(product)

    def _size(self, dims: Iterable[Dim]) -> int:
        return prod(evaluate_dim(dim, self._least) for dim in dims)


def _shape(weight: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in type_of(weight).shape)


def _row_counts(counts: Iterable[int], high: int) -> list[int]:
    """Returns the distinct numbers of image rows, none larger than the image."""
    return list(dict.fromkeys(max(1, min(count, high)) for count in counts))


def _strips(high: int, across: int, count: int) -> list[int]:
    """Returns the pixels of each block of an image that is computed some rows at a time."""
    return [size for rows in _cut(high, count) for size in _cut(rows * across, BLOCK_ROWS)]


def _cut(length: int, most: int) -> list[int]:
    """Returns the lengths of pieces, all but the last as long as they may be."""
    return [min(most, length - at) for at in range(0, length, most)]


def _widths(product: Product) -> list[int]:
    """Returns the values of ``widest`` that lead to different tiles."""
    found: dict[tuple[int, ...], int] = {}
    for widest in _WIDEST:
        found.setdefault(tile_widths(product.panels, widest), widest)
    return list(found.values())


def _blocked(product: Product) -> Iterator[tuple[Setting, float]]:
    """Yields the settings of a product that runs by blocks of rows."""
    sizes: dict[tuple[int, ...], int] = {}
    for block_rows in _BLOCK_ROWS:
        sizes.setdefault(tuple(block_sizes(product.rows, block_rows)), block_rows)
    for blocks, block_rows in sizes.items():
        for widest in _widths(product):
            cost = product_cycles(product, widest, blocks)
            yield {"widest": widest, "block_rows": block_rows}, cost
