"""Sizes and parameters at which kernels change their way: long, tall, many, and odd multipliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.backends.cpu import CpuTarget, isa
from qcompiler.backends.native import toolchain
from qcompiler.backends.native.emitter import emit, plan_sequentially
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import update_quant
from qcompiler.ir.graph import QGraph
from qcompiler.numerics.requant import multiplier_from_scale
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


# -- sums of a resize --------------------------------------------------------------------------


def blend(unit: tuple[int, int], m: int, s: int, offset: tuple[int, int] = (1, 1)) -> Case:
    """Returns a resize of two images of 3x3 to 2x2 by weights that add up to unit squared or so."""
    x = torch.tensor([-128, 127, 90, -3] * 5, dtype=torch.int8)[:18].reshape(1, 2, 3, 3)
    parameters = [Const(torch.tensor([v], dtype=torch.int32)) for v in (m, s)]
    scale = [unit[0], unit[0] // 2 + 1, unit[1], unit[1] + 1]
    return case("resize_bilinear", x, *parameters, [2, 2], scale, list(offset), -128, *LIMITS)


def exact_blend(one: Case) -> torch.Tensor:
    """Returns the result by its definition, on integers without bounds."""
    x, m, s, size, scale, offset, x_zero, zero, low, high = one.args
    m, s = int(m.tensor), int(s.tensor)

    def taps(axis: int, o: int) -> list[tuple[int, int]]:
        n, d = scale[2 * axis : 2 * axis + 2]
        at, weight = divmod(o * d + offset[axis], n)
        last = x.shape[2 + axis] - 1
        near, far = min(max(at, 0), last), min(max(at + 1, 0), last)
        return [(near, n - weight), (far, weight)]

    def pixel(image: torch.Tensor, oy: int, ox: int) -> int:
        pairs = [(a, b) for a in taps(0, oy) for b in taps(1, ox)]
        total = sum((int(image[a, b]) - x_zero) * v * w for (a, v), (b, w) in pairs)
        total = min(max(total, -(2 ** (s - 1))), 2 ** (s - 1) - 1)
        return int(min(max(((total * m + 2 ** (s - 1)) >> s) + zero, low), high))

    values = [pixel(c, i, j) for c in x[0] for i in range(size[0]) for j in range(size[1])]
    return torch.tensor(values, dtype=torch.int8).reshape(1, 2, *size)


def is_refused(graph: QGraph) -> bool:
    """Returns whether the emitter refuses a graph for the arguments of an operator."""
    try:
        emit(graph, plan_sequentially(graph))
    except QCompilerError as error:
        return error.code == "QC0203"
    return False


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_a_resize_is_exact_or_refused(data: st.DataObject) -> None:
    """Weights up to those for which 64 bits do not do, with every shift that scales can have."""
    kept = []
    for _ in range(60):
        unit = (1 << data.draw(st.integers(0, 20)), 1 << data.draw(st.integers(0, 20)))
        product, factor = unit[0] * unit[1], data.draw(st.floats(0.1, 8))
        if factor / product < 2**-31:
            continue
        one = blend(unit, *multiplier_from_scale(factor / product))
        graph, inputs = build_graph([one])
        if is_refused(graph):
            assert 255 * product * 2**31 + 2**61 >= 2**63
        else:
            assert torch.equal(graph.run(*inputs)[0], exact_blend(one))
            kept.append(one)
    check(kept)


def test_sums_of_a_resize_that_leave_64_bits_are_refused_unless_they_are_proven() -> None:
    wide = blend((2**16, 2**15), 2**30, 61)
    for one, part in (
        (wide, "sums may reach"),
        (blend((2**40, 2**20), 2**30, 61), "weights add up to"),
        (blend((4, 4), 2**30, 34, offset=(2**63 - 5, 0)), "positions on axis 2"),
    ):
        graph, _ = build_graph([one])
        with pytest.raises(QCompilerError, match=f"QC0203.*{part}"):
            compile_graph(graph, LEVEL)
    graph, _ = build_graph([wide])
    update_quant(graph.calls[0], proof=(-(2**31), 2**31 - 1))
    compile_graph(graph, LEVEL)
