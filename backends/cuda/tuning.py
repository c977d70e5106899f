"""Measures the candidates of each product on the current device, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Product, Tile, candidates, tile_key
from qcompiler.backends.cuda.devices import capability_of, current_device, require_triton
from qcompiler.backends.cuda.executable import CudaExecutable
from qcompiler.backends.cuda.launch import Launch
from qcompiler.backends.cuda.lowering import lower_node
from qcompiler.backends.cuda.runtime import DeviceProgram
from qcompiler.backends.native.packing import Blob
from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.queries import is_island
from qcompiler.runtime.interpreter import operands_of
from qcompiler.target.tuning import TuningBudget

# Candidates of a product that fast tuning measures.
FAST = 4
# Sizes of dynamic dimensions that products are measured at, where the program takes them.
SIZES = (1, 256)
# How much less time another tile must take than that of the model.
MARGIN = 0.02

Measure = Callable[[str, Mapping[str, int], Mapping[str, Tile]], float]


@dataclass(frozen=True)
class _Open:
    """A product at given sizes whose tile is to be found; several nodes may have the same one."""

    node: str
    sizes: Mapping[str, int]
    keys: tuple[str, ...]
    tiles: tuple[Tile, ...]


def tune(graph: QGraph, architecture: Architecture, budget: TuningBudget) -> CudaExecutable:
    """Returns a program with the tiles that are fastest on the current device.

    Raises:
        QCompilerError: QC0802 without Triton, QC0840 without a device, QC0841 for a device of
            another architecture: choices are kept by architecture.
    """
    require_triton()
    device = current_device()
    if capability_of(device) != architecture.capability:
        raise QCompilerError(
            "QC0841",
            f"tuning for {architecture.name} needs such a device, and"
            f" {torch.cuda.get_device_name(device)} is sm_{capability_of(device)}",
            remedy="tune with target='cuda', or leave tune out",
        )
    plain = CudaExecutable(graph, architecture)
    tiles, measured = choose(
        open_products(graph, architecture, budget.effort),
        _on(DeviceProgram(graph, plain.plan, architecture, device)),
        time.monotonic() + budget.seconds,
    )
    note = (
        f"tuned ({budget.effort}) on {torch.cuda.get_device_name(device)}:"
        f" {counted(measured, 'product')} measured, {len(tiles)} depart from the model"
    )
    return CudaExecutable(
        graph, architecture, {architecture.name: tiles}, {architecture.name: note}
    )


def open_products(graph: QGraph, architecture: Architecture, effort: str) -> list[_Open]:
    """Returns the products of a graph that have several candidates, those of most work first."""
    found: dict[object, tuple[float, _Open]] = {}
    for sizes in _all_sizes(graph):
        for node in graph.calls:
            if is_island(node):
                continue
            for launch in lower_node(graph, node, sizes, Blob(), architecture).launches:
                if launch.kernel != "conv2d_s8":
                    continue
                product = product_of(launch)
                key = (product, *(launch.constants[name] for name in _SHAPE))
                one = tile_key(node.name, product.rows)
                if key in found:
                    work, known = found[key]
                    keys = (*known.keys, one)
                    found[key] = work, _Open(known.node, known.sizes, keys, known.tiles)
                    continue
                tiles = candidates(product, architecture)[: FAST if effort == "fast" else None]
                work = float(product.rows * product.columns * product.groups * product.depth)
                if len(tiles) > 1:
                    found[key] = work, _Open(node.name, dict(sizes), (one,), tuple(tiles))
    ordered = sorted(found.values(), key=lambda pair: -pair[0])
    return [product for _, product in ordered]


_SHAPE = ("HEIGHT", "WIDTH", "STRIDE_H", "STRIDE_W", "KERNEL_H", "KERNEL_W", "RAW", "HAS_RESIDUAL")


def product_of(launch: Launch) -> Product:
    """Returns the shape of a product from its launch."""
    names = ("GROUP_OUT", "GROUP_CHANNELS", "KERNEL_H", "KERNEL_W")
    columns, channels, high, wide = (_int(launch.constants[name]) for name in names)
    depth = channels * high * wide
    return Product(_int(launch.arguments["rows"]), columns, depth, channels, launch.grid[1])


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def choose(products: list[_Open], measure: Measure, until: float) -> tuple[dict[str, Tile], int]:
    """Returns the tiles that beat those of the model, and how many products were measured.

    Every product gets its second candidate before one gets its third: what time there is goes to
    all of them.
    """
    least: dict[int, list[float]] = {}
    for rank in range(max((len(p.tiles) for p in products), default=0)):
        for i, product in enumerate(products):
            if rank >= len(product.tiles):
                continue
            if time.monotonic() >= until:
                break
            if rank == 1:
                least[i] = [_time(product, 0, measure)]
            if rank >= 1:
                least[i].append(_time(product, rank, measure))
    found: dict[str, Tile] = {}
    for i, times in least.items():
        best = min(range(len(times)), key=times.__getitem__)
        if times[best] < (1 - MARGIN) * times[0]:
            found |= dict.fromkeys(products[i].keys, products[i].tiles[best])
    return dict(sorted(found.items())), len(least)


def _time(product: _Open, rank: int, measure: Measure) -> float:
    tiles = {product.keys[0]: product.tiles[rank]}
    return measure(product.node, product.sizes, tiles)


def _on(program: DeviceProgram) -> Measure:
    """Returns what measures a product on random operands."""
    from qcompiler.backends.cuda.measure import microseconds

    def measure(node: str, sizes: Mapping[str, int], tiles: Mapping[str, Tile]) -> float:
        operands = [_random(n, sizes) for n in operands_of(program.graph.node(node))]
        try:
            start, _ = program.bind_op(node, operands, tiles)
            with program.guard():
                return microseconds(start, 3)
        except (QCompilerError, torch.OutOfMemoryError):
            return float("inf")  # a candidate too large for the device is none

    return measure


def _random(node: fx.Node, sizes: Mapping[str, int]) -> torch.Tensor:
    kind = type_of(node)
    return torch.randint(-128, 128, kind.bind(sizes), generator=torch.Generator()).to(kind.dtype)


def _all_sizes(graph: QGraph) -> Iterator[dict[str, int]]:
    kept = []
    for size in SIZES:
        sizes = {n: min(max(size, s.low), s.high) for n, s in graph.symbols.items()}
        if sizes not in kept:
            kept.append(sizes)
            yield sizes
