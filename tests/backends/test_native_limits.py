"""Sizes and parameters at which kernels change their way: long, tall, many, and odd multipliers."""

from __future__ import annotations

import pytest
import torch

from qcompiler.backends.cpu import CpuTarget, isa
from qcompiler.backends.native import toolchain
from tests.backends.helpers import Case, Const, build_graph, case, check, compile_graph
from tests.backends.test_native_edges import ADD, LIMITS, codes, requant, weights

LEVEL = [isa.best_level()]


def convolution(batch: int, channels: int, size: tuple[int, int], weight: tuple[int, ...]) -> Case:
    """Returns a convolution with padding and a residual."""
    x = codes(batch, channels, *size)
    rows, columns = size[0] + 2 - weight[2] + 1, size[1] + 2 - weight[3] + 1
    geometry = [5, [1, 1], [1] * 4, [1, 1], 1]
    extras = {"residual": codes(batch, weight[0], rows, columns), "add": ADD}
    parts = [*weights(*weight), *requant(), *geometry, *LIMITS]
    return case("conv2d_requant", x, *parts, **extras)


def test_planes_of_any_number_and_length() -> None:
    random = torch.Generator().manual_seed(3)
    shapes = [(2, c, *size) for c in range(1, 7) for size in ((5, 13), (8, 9), (70, 61))]
    images = [torch.randn(shape, generator=random) for shape in shapes]
    check([case("quantize", x, 20.0, -3, -128, 127) for x in images], LEVEL)


@pytest.mark.parametrize("kernel", [(65, 2), (130, 3), (66, 1), (9, 9), (1, 70)])
def test_filters_of_more_taps_than_a_tile_takes(kernel: tuple[int, int]) -> None:
    size = (kernel[0] + 2, kernel[1] + 3)
    check([convolution(1, 3, size, (5, 3, *kernel))])
    check([convolution(1, 20, size, (17, 20, *kernel))], LEVEL)


@pytest.mark.parametrize(("multiplier", "shift"), [(128, 8), (2**20, 21), (2**29, 31), (0, 40)])
def test_multipliers_below_the_normal_form(multiplier: int, shift: int) -> None:
    parameters = [Const(torch.full((9,), v, dtype=torch.int32)) for v in (multiplier, shift)]
    x, geometry = codes(2, 9, 6, 6), [5, [1, 1], [1] * 4, [1, 1]]
    check(
        [
            case("conv2d_requant", x, *weights(9, 9, 3, 3), *parameters, *geometry, 1, *LIMITS),
            case("conv2d_requant", x, *weights(9, 1, 3, 3), *parameters, *geometry, 9, *LIMITS),
            case("linear_requant", codes(3, 40), *weights(9, 40), *parameters, 5, *LIMITS),
        ]
    )


@pytest.mark.parametrize("flag", ["-Os", "-O1", "-O0"])
def test_tiles_do_not_depend_on_the_optimization(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setenv("QCOMPILER_CFLAGS", flag)
    toolchain._kept_object.cache_clear()
    check([convolution(1, 20, (7, 9), (50, 20, 3, 3)), convolution(1, 8, (5, 5), (70, 8, 1, 1))])


def test_more_dimensions_than_kernels_take_are_refused() -> None:
    x = codes(*[2] * 9)
    graph, _ = build_graph([case("permute", x, [8, *range(8)])])
    reasons = [CpuTarget().why_not(node) for node in graph.calls]
    assert reasons == ["x has 9 dimensions, kernels take 8"] or "9 dimensions" in str(reasons)
    with pytest.raises(Exception, match="QC0203"):
        compile_graph(graph, LEVEL)
