"""What kernels leave open: every setting equals the reference, and the cost model's order."""

from __future__ import annotations

import ctypes
import subprocess
from itertools import product as pairs
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.native.choices import Setting, settings_of
from qcompiler.backends.native.costs import (
    BLOCK_ROWS,
    MOST_ROWS,
    Product,
    block_sizes,
    product_cycles,
    tile_heights,
    tile_widths,
)
from qcompiler.backends.native.emitter import emit, kernel_sources, plan_sequentially
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import COMMON_FLAGS, build, find_compiler
from qcompiler.ir.graph import QGraph
from tests.backends.helpers import LEVELS, SMALL, Case, Const, build_graph, case, describe
from tests.backends.strategies import FEW, convolutions, linears
from tests.backends.test_native_chained import chain, chains


def open_settings(graph: QGraph) -> dict[str, tuple[Setting, ...]]:
    """Returns the settings of the calls that have a choice."""
    found = {node.name: settings_of(graph, node) for node in graph.calls}
    return {name: several for name, several in found.items() if len(several) > 1}


def check_settings(cases: list[Case]) -> None:
    """Asserts that every setting gives the reference's integers on every level."""
    graph, inputs = build_graph(cases)
    expected = graph.run(*inputs)
    settings = open_settings(graph)
    sources = emit(graph, plan_sequentially(graph), None, settings)
    binary = build(sources.files, (SMALL, *LEVELS))
    for isa in (SMALL, *LEVELS):
        program = NativeProgram(graph, sources.ops, binary, sources.blob, level=isa.name)
        for turn in range(max(map(len, settings.values()), default=1)):
            for index, op in enumerate(program.ops):
                several = settings.get(op.node, ({},))
                if len(several) > 1:
                    program.library.qc_choose(index, turn % len(several))
            for threads in (1, 3):
                results = program.run(inputs, threads)
                for one, want, have in zip(cases, expected, results, strict=True):
                    assert torch.equal(want, have), f"{isa.name}: {describe(one, want, have)}"


@FEW
@given(st.lists(st.one_of(convolutions(), linears(), chains()), min_size=12, max_size=12))
def test_every_setting_equals_the_reference(cases: list[Case]) -> None:
    check_settings(cases)


def layer(
    shape: tuple[int, int, int, int], channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> Case:
    """Returns a convolution with requantization that keeps the size at stride 1."""
    random = torch.Generator().manual_seed(channels)
    size = (channels, shape[1] // groups, kernel, kernel)
    weight = torch.randint(-127, 128, size, generator=random)
    bias = torch.randint(-999, 999, (channels,), generator=random).to(torch.int32)
    scale = torch.full((channels,), 2**30 + 128, dtype=torch.int32)
    shift = torch.full((channels,), 41, dtype=torch.int32)
    x = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    constants = [Const(weight.to(torch.int8)), Const(bias), Const(scale), Const(shift)]
    geometry = [-9, [stride, stride], [kernel // 2] * 4, [1, 1], groups]
    return case("conv2d_requant", x, *constants, *geometry, 4, -128, 127)


def test_every_setting_of_layers_of_several_blocks_equals_the_reference() -> None:
    """Rows and panels that fill no block or tile, above the parallel threshold."""
    check_settings(
        [
            layer((1, 40, 21, 19), 152, 1),
            layer((2, 24, 17, 23), 88, 3),
            layer((1, 3, 45, 37), 40, 5, 2),
            layer((2, 3, 31, 37), 24, 3, 2),
            layer((1, 2, 19, 45), 36, 5),
            layer((1, 5, 13, 4), 10, 3, groups=5),
            layer((2, 6, 9, 11), 12, 3, 2, groups=3),
            layer((1, 1, 29, 40), 20, 7, 2),
            chain((1, 24, 23, 19), 150, 3, 1),
            chain((2, 16, 20, 15), 72, 5, 2),
        ]
    )


def test_each_choice_has_several_values() -> None:
    graph, _ = build_graph(
        [
            layer((1, 64, 56, 56), 256, 1),
            layer((1, 64, 28, 28), 128, 3),
            layer((1, 3, 64, 64), 32, 3, 2),
            chain((1, 24, 56, 56), 144, 3, 1),
        ]
    )
    seen: dict[str, set[int]] = {}
    for several in open_settings(graph).values():
        assert len({tuple(sorted(setting.items())) for setting in several}) == len(several)
        for name, value in (item for setting in several for item in setting.items()):
            seen.setdefault(name, set()).add(value)
    assert set(seen) == {"widest", "block_rows", "by_rows", "gathers", "rows_at_once", "fused"}
    assert seen["by_rows"] == seen["gathers"] == seen["fused"] == {0, 1}
    assert seen["widest"] == {2, 3, 4}
    assert max(seen["block_rows"]) == BLOCK_ROWS


def test_a_layer_without_choices_has_the_empty_setting() -> None:
    graph, _ = build_graph([case("clamp", torch.zeros(3, dtype=torch.int8), -1, 1)])
    assert [settings_of(graph, node) for node in graph.calls] == [({},)]


def test_the_cost_model_prefers_tiles_that_use_each_load_more_often() -> None:
    small = Product(rows=3136, taps=1, depth=64, channels=256)
    blocks = list(block_sizes(small.rows, BLOCK_ROWS))
    costs = [product_cycles(small, widest, blocks) for widest in (4, 3, 2)]
    assert costs[0] == min(costs)
    dots = small.rows * small.steps * small.panels
    assert all(dots < cost < 2 * dots for cost in costs)


def test_the_cost_model_prefers_narrow_tiles_where_their_weights_leave_the_cache() -> None:
    large = Product(rows=49, taps=9, depth=512, channels=512)
    costs = {widest: product_cycles(large, widest, [49]) for widest in (4, 2)}
    assert costs[2] < costs[4]


@given(st.integers(1, 90), st.integers(1, 4))
def test_tiles_cover_the_panels(panels: int, widest: int) -> None:
    widths = tile_widths(panels, widest)
    assert sum(widths) == panels
    assert len(widths) == -(-panels // widest)
    assert max(widths) <= widest
    assert max(widths) - min(widths) <= 1


def test_the_heights_of_tiles_are_those_of_the_kernel(tmp_path: Path) -> None:
    """The cost model's copy of qc_tile_rows, against the C function."""
    level = next((isa for isa in LEVELS if isa.name == "avx512vnni"), None)
    if level is None:
        pytest.skip("this processor has no AVX512-VNNI")
    for name, text in kernel_sources().items():
        (tmp_path / name).write_bytes(text)
    compiler = find_compiler()
    tile = ["tile_avx512vnni.c", "epilogue_avx512vnni.c"]
    flags = [*compiler.flags, *COMMON_FLAGS, *level.flags, "-O1", "-shared", "-fvisibility=default"]
    subprocess.run([*compiler.command, *flags, *tile, "-o", "t.so"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "t.so"))
    library.qc_tile_rows.argtypes = [ctypes.c_int64, ctypes.c_int]
    for rows, panels in pairs(range(1, BLOCK_ROWS + 1), MOST_ROWS):
        assert tile_heights(rows, panels)[0] == library.qc_tile_rows(rows, panels)
