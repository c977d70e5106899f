"""Tiles of products: the order of candidates, what tuning keeps, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.cuda.architectures import ARCHITECTURES, Architecture
from qcompiler.backends.cuda.choices import Product, Tile, candidates, default_tile, tile_key
from qcompiler.backends.cuda.executable import CHOICES, CudaExecutable, restored
from qcompiler.backends.cuda.lower_products import THREADS, depthwise_block
from qcompiler.backends.cuda.tuning import FAST, choose, open_products
from qcompiler.ir.graph import QGraph
from tests.backends.helpers import Const, build_graph, case

EACH = pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda arch: arch.name)


@EACH
def test_the_first_candidates_fit_and_differ_in_what_matters(arch: Architecture) -> None:
    for rows, columns, depth in ((8192, 8192, 8192), (64, 4096, 4096), (12544, 64, 64)):
        product = Product(rows, columns, depth, depth)
        found = candidates(product, arch)
        assert found[0] == default_tile(product, arch)
        sides = {(t.block_m, t.block_n, t.num_warps, t.split_k) for t in found[:FAST]}
        assert len(sides) == FAST
        for tile in found:
            stage = (tile.block_m + tile.block_n) * tile.block_k
            assert stage * tile.num_stages <= arch.shared_bytes
            assert tile.block_m * tile.block_n <= 128 * tile.num_warps * 32  # sums of a thread


def test_the_largest_product_uses_what_wgmma_reads_from_shared_memory() -> None:
    """One block of 8 warps; among the next ones is the one of which two fit."""
    first, *others = candidates(Product(8192, 8192, 8192, 8192), ARCHITECTURES["sm_90"])
    assert {first.block_m, first.block_n} == {128, 256}
    assert (first.block_k, first.num_warps) == (128, 8)
    two = Tile(128, 128, 128, num_warps=4, num_stages=3)
    assert two in others[:FAST]
    assert 2 * 2 * 128 * 128 * two.num_stages <= ARCHITECTURES["sm_90"].shared_bytes


@EACH
def test_few_pixels_of_a_deep_product_are_cut_along_the_depth(arch: Architecture) -> None:
    assert default_tile(Product(16, 512, 16384, 16384), arch).split_k > 1
    assert default_tile(Product(49, 512, 4608, 512), arch).split_k > 1
    assert default_tile(Product(8192, 8192, 8192, 8192), arch).split_k == 1


@given(st.integers(1, 3000), st.integers(1, 10**6), st.sampled_from([84, 132]))
def test_blocks_of_depthwise_convolutions(channels: int, pixels: int, processors: int) -> None:
    block_c, block_p = depthwise_block(channels, pixels, processors)
    across = -(-channels // block_c)
    assert all(across * block_c <= -(-channels // other) * other for other in (64, 32, 16))
    assert 16 <= block_p
    assert block_p * block_c <= 4 * THREADS * 16  # 16 codes of 4 pixels a thread
    assert block_p == 16 or -(-pixels // block_p) * across >= 2 * processors


def product() -> QGraph:
    """Returns a graph of one product of 64 pixels."""
    ones = [Const(torch.full((256,), v, dtype=torch.int32)) for v in (0, 2**30, 40)]
    weight = Const(torch.ones(256, 1024, dtype=torch.int8))
    x = torch.ones(64, 1024, dtype=torch.int8)
    return build_graph([case("linear_requant", x, weight, *ones, 0, 0, -128, 127)])[0]


def test_tuning_keeps_what_is_faster_than_the_model_by_a_margin() -> None:
    graph, arch = product(), ARCHITECTURES["sm_80"]
    (one,) = open_products(graph, arch, "fast")
    assert one.keys == (tile_key(graph.calls[0].name, 64),)
    assert len(one.tiles) == FAST
    assert len(open_products(graph, arch, "full")[0].tiles) > FAST

    def tuned(times: Mapping[Tile, float], seconds: float = 60.0) -> tuple[object, int]:
        def measure(node: str, sizes: Mapping[str, int], tiles: Mapping[str, Tile]) -> float:
            return times.get(tiles[one.keys[0]], 10.0)

        return choose([one], measure, monotonic() + seconds)

    assert tuned({one.tiles[2]: 9.0}) == ({one.keys[0]: one.tiles[2]}, 1)
    assert tuned({one.tiles[2]: 9.9}) == ({}, 1)
    assert tuned({one.tiles[2]: 9.0}, -1.0) == ({}, 0)


def test_tuned_tiles_are_stored_by_architecture() -> None:
    graph, tile = product(), Tile(16, 32, 64, split_k=4)
    key = tile_key(graph.calls[0].name, 64)
    sm_90 = ARCHITECTURES["sm_90"]
    made = CudaExecutable(graph, sm_90, {"sm_90": {key: tile}}, {"sm_90": "tuned on a device"})
    files = made.files()
    assert list(files) == [CHOICES]
    again = restored(graph, sm_90, files)
    assert again.files() == files
    assert "tuned on a device" in again.notes()[0]
    (launch,) = again.lowered().launches
    assert (launch.constants["BLOCK_M"], launch.grid[2]) == (16, 4)
    other = restored(graph, ARCHITECTURES["sm_80"], files)
    assert other.tiles == {}
    assert "not measured" in other.notes()[0]
    assert other.files() == files
