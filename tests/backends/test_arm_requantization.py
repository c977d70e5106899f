"""Requantization on ARM takes two instructions for four sums, in the code that compilers make."""

from __future__ import annotations

import re

import pytest

from benchmarks.arm_mca import LOOPS, compile_assembly, functions_of, loops_of
from tests.backends.helpers import HAS_ARM

TILES = {"neon": "tile_neon.c", "dotprod": "tile_dotprod.c", "i8mm": "tile_i8mm.c"}

pytestmark = pytest.mark.skipif(not HAS_ARM, reason="no compiler for ARM")


def count(run: list[str], pattern: str) -> int:
    return sum(bool(re.match(rf"\s+{pattern}\b", line)) for line in run)


@pytest.mark.parametrize("level", TILES)
def test_two_instructions_requantize_four_sums(level: str) -> None:
    found = functions_of(compile_assembly("gcc", LOOPS[level].level, TILES[level]))
    tiles = {name: lines for name, lines in found.items() if name.startswith("tile_")}
    assert tiles
    for name, lines in tiles.items():
        rows, columns = map(int, name.removeprefix("tile_").split("x"))
        runs = [run for run in loops_of(lines) if count(run, "sqdmulh")]
        assert runs
        for run in runs:
            assert count(run, "sqdmulh") == count(run, "srshl") == rows * columns / 4, name
            assert not count(run, "(sqrdmulh|sqshl)"), name
        # results that are known to fit in 16 bits join by twos, without saturation
        assert any(count(run, "uzp1") == rows * columns / 8 for run in runs), name
