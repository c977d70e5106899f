"""Products at the edges: sums of 31 bits, split depths, every shape of tile."""

from __future__ import annotations

import pytest
import torch

from qcompiler.backends.cuda.choices import Tile
from tests.backends.cuda.interpreter import check
from tests.backends.helpers import Case, Const, case

TILES = (
    Tile(16, 16, 32, num_stages=2),
    Tile(16, 64, 64, split_k=2),
    Tile(32, 32, 32, split_k=8),
    Tile(64, 128, 128),
    Tile(128, 32, 64, group_m=1),
    Tile(128, 256, 64, num_warps=8),
    Tile(256, 128, 128, num_warps=8),
)


def requant(channels: int, shift: int) -> list[Const]:
    """Returns a multiplier of 31 bits and a shift for each channel."""
    multiplier = torch.full((channels,), 2**31 - 128, dtype=torch.int32)
    return [Const(multiplier), Const(torch.full((channels,), shift, dtype=torch.int32))]


def linear(depth: int, rows: int, code: int, weight: int, zero_point: int, columns: int) -> Case:
    """Returns a product whose sums are all depth * (code - zero_point) * weight."""
    x = torch.full((rows, depth), code, dtype=torch.int8)
    w = Const(torch.full((columns, depth), weight, dtype=torch.int8))
    bias = Const(torch.arange(columns, dtype=torch.int32))
    limits = [zero_point, 3, -128, 127]
    return case("linear_requant", x, w, bias, *requant(columns, 55), *limits)


def raw(depth: int, rows: int, code: int, weight: int, zero_point: int) -> Case:
    """Returns a product that leaves its sums as they are."""
    x = torch.full((rows, depth), code, dtype=torch.int8)
    w = Const(torch.full((4, depth), weight, dtype=torch.int8))
    return case("linear", x, w, Const(torch.zeros(4, dtype=torch.int32)), zero_point)


# Few blocks of a depth, so that the interpreter is done soon.
DEEP = Tile(16, 16, 1024)


@pytest.mark.parametrize("rows", [1, 5])
def test_sums_above_24_bits_and_near_31_bits(rows: int) -> None:
    """66311 terms of 127 * 255 are the most that int32 holds (integer-semantics 7.1)."""
    assert 66311 * 127 * 255 < 2**31 <= 66312 * 127 * 255
    cases = []
    for depth in (1040, 66311):
        assert depth * 127 * 127 > 2**23
        for code, weight, zero_point in ((127, 127, -128), (-128, -127, 127), (127, -127, -128)):
            cases.append(linear(depth, rows, code, weight, zero_point, 4))
            cases.append(raw(depth, rows, code, weight, zero_point))
    check(cases, DEEP)


def test_sums_near_31_bits_in_parts() -> None:
    """No part of the products alone leaves int32: their instruction saturates on some GPUs."""
    check([raw(66311, 5, 127, 127, -128), raw(66311, 5, -128, -127, 127)], Tile(16, 16, 512, 8, 8))


@pytest.mark.parametrize("tile", TILES, ids=repr)
def test_every_tile_gives_the_same_integers(tile: Tile) -> None:
    random = torch.Generator().manual_seed(7)

    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)

    def parameters(channels: int, shift: int = 42) -> list[Const]:
        bias = torch.randint(-999, 999, (channels,), dtype=torch.int32, generator=random)
        return [Const(bias), *requant(channels, shift)]

    table = Const(codes(256))
    add = [3, 2**20, -4, 2**19, 21, 7, -128, 127]
    cases = [
        case(
            "conv2d_requant", codes(2, 64, 9, 7), Const(codes(40, 64, 3, 3)), *parameters(40),
            -5, [2, 1], [1, 1, 0, 2], [1, 1], 1, 3, -128, 127, table=table,
        ),
        case(
            "conv2d_requant", codes(1, 3, 13, 11), Const(codes(20, 3, 5, 3)), *parameters(20, 40),
            9, [2, 2], [2, 2, 1, 1], [1, 2], 1, 3, -100, 90,
        ),
        case(
            "conv2d_requant", codes(2, 24, 6, 6), Const(codes(36, 8, 1, 1)), *parameters(36, 40),
            0, [1, 1], [0] * 4, [1, 1], 3, 3, -128, 127, residual=codes(2, 36, 6, 6), add=add,
        ),
        case(
            "linear_requant", codes(37, 300), Const(codes(50, 300)), *parameters(50),
            3, 1, -128, 127,
        ),
        case("linear", codes(3, 256), Const(codes(70, 256)), parameters(70)[0], -128),
    ]  # fmt: skip
    check(cases, tile)
