"""Border, elementwise, pooling and resize kernels equal the reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.helpers import Case, Const, case, check
from tests.backends.strategies import (
    FEW,
    RANGES,
    ZERO_POINTS,
    Draw,
    add_parameters,
    codes,
    generator,
    lookup,
    multipliers,
)

SHAPES = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.lists(st.integers(1, 4), min_size=5, max_size=5).map(tuple),
)


@st.composite
def borders(draw: Draw) -> Case:
    """Draws quantize, dequantize and dequantize_accumulator."""
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["quantize", "dequantize", "dequantize_accumulator"]))
    if kind == "dequantize_accumulator":
        sums = torch.randint(-(2**31), 2**31, shape, generator=generator(draw))
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        scale = torch.rand(draw(st.sampled_from([1, shape[axis]])), generator=generator(draw))
        return case(kind, (sums >> draw(st.integers(0, 20))).to(torch.int32), Const(scale), axis)
    if kind == "dequantize":
        return case("dequantize", codes(draw, shape), draw(st.floats(1e-6, 10)), draw(ZERO_POINTS))
    x = torch.randn(shape, generator=generator(draw)) * 40
    inverse = float(torch.tensor(draw(st.sampled_from([0.5, 1.0, 3.3, 1e-9, 1e9]))))
    return case("quantize", x, inverse, draw(ZERO_POINTS), *draw(RANGES))


@st.composite
def elementwise(draw: Draw) -> Case:
    """Draws requantize, table, clamp, add and mul, the last two with broadcasting."""
    shape = draw(SHAPES)
    kind = draw(st.sampled_from(["requantize", "requantize", "table", "clamp", "add", "mul"]))
    x = codes(draw, shape)
    if kind == "table":
        return case("table", x, lookup(draw))
    if kind == "clamp":
        return case("clamp", x, *draw(RANGES))
    if kind == "requantize":
        axis = draw(st.integers(-len(shape), len(shape) - 1))
        wide = draw(st.booleans())
        if wide:
            values = torch.randint(-(2**31), 2**31, shape, generator=generator(draw))
            x = (values >> draw(st.integers(0, 20))).to(torch.int32)
        requant = multipliers(draw, draw(st.sampled_from([1, shape[axis]])), 1e-4 if wide else 0.7)
        zero_point = 0 if wide else draw(ZERO_POINTS)
        return case("requantize", x, *requant, axis, zero_point, draw(ZERO_POINTS), *draw(RANGES))
    other = tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in shape)
    other = other[draw(st.integers(0, len(other) - 1)) :]
    second = codes(draw, other)
    b = Const(second) if draw(st.booleans()) else second
    if kind == "add":
        return case("add", *((x, b) if draw(st.booleans()) else (b, x)), *add_parameters(draw))
    multiplier = 128 * draw(st.integers(0, 2**24 - 1))
    tail = (multiplier, draw(st.integers(2, 62)), draw(ZERO_POINTS), *draw(RANGES))
    return case("mul", x, b, draw(ZERO_POINTS), draw(ZERO_POINTS), *tail)


@st.composite
def windows(draw: Draw) -> Case:
    """Draws pooling, mean and resize."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 70)), *draw(st.tuples(*[SIZES] * 2)))
    x = codes(draw, shape)
    limits = (draw(ZERO_POINTS), draw(ZERO_POINTS), *draw(RANGES))
    kind = draw(st.sampled_from(["max", "avg", "adaptive", "mean", "nearest", "bilinear"]))
    if kind in ("max", "avg"):
        kernel = [draw(st.integers(1, size)) for size in shape[2:]]
        stride = [draw(st.integers(1, 3)) for _ in range(2)]
        padding = [draw(st.integers(0, k // 2)) for k in kernel for _ in range(2)]
        if kind == "max":
            return case("max_pool2d", x, kernel, stride, padding, [1, 1])
        counted = padding if draw(st.booleans()) else [0, 0, 0, 0]
        counts = multipliers(draw, math.prod(kernel), 0.2)
        if len({c.tensor.numel() for c in counts}) == 1:
            return case("avg_pool2d", x, *counts, kernel, stride, padding, counted, *limits)
    if kind == "adaptive":
        size = [draw(st.integers(1, 12)) for _ in range(2)]
        counts = multipliers(draw, math.prod(shape[2:]), 0.2)
        return case("adaptive_avg_pool2d", x, *counts, size, *limits)
    if kind == "mean":
        dims = draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))
        requant = multipliers(draw, 1, 0.05)
        return case("mean", x, *requant, sorted(dims), draw(st.booleans()), *limits)
    size = [draw(st.integers(1, 20)) for _ in range(2)]
    scale = [draw(st.integers(1, 12)) for _ in range(4)]
    offset = [draw(st.integers(-12, 12)) for _ in range(2)]
    if kind == "nearest":
        return case("resize_nearest", x, size, scale, offset)
    requant = multipliers(draw, 1, 1 / (scale[0] * scale[2] * 2))
    return case("resize_bilinear", x, *requant, size, scale, offset, *limits)


SIZES = st.integers(1, 9)


@FEW
@given(st.lists(borders(), min_size=25, max_size=25))
def test_borders_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(elementwise(), min_size=50, max_size=50))
def test_elementwise_operators_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(windows(), min_size=40, max_size=40))
def test_pooling_and_resize_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


SPECIAL = [math.nan, math.inf, -math.inf, 0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 127.5, -0.0]


@pytest.mark.parametrize("channels", [1, 3, 4, 17])
def test_quantize_of_special_numbers(channels: int) -> None:
    x = torch.tensor(SPECIAL).repeat(channels * 6).reshape(1, channels, -1, 8)
    limits = [(z, *limit) for z in (-128, -3, 0, 127) for limit in [(-128, 127), (-20, 60)]]
    check([case("quantize", x, 1.0, *limit) for limit in limits])


def test_large_tensors_are_cut_between_threads() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randint(-128, 128, (2, 24, 60, 61), dtype=torch.int8, generator=random)
    y = torch.randint(-128, 128, (2, 24, 60, 61), dtype=torch.int8, generator=random)
    table = Const(torch.randint(-128, 128, (256,), dtype=torch.int8, generator=random))
    add = [3, 2**20, -4, 2**19, 20, 7, -128, 127]
    cases = [
        case("quantize", torch.randn(2, 3, 130, 131, generator=random), 30.0, 3, -128, 127),
        case("dequantize", x, 0.1, 5),
        case("table", x, table),
        case("clamp", x, -5, 99),
        case("add", x, y, *add),
        case("add", x, y[:1, :, :1], *add),
        case("mul", x, y[:, :, :, :1], 3, -5, 2**30 + 128, 40, 1, -128, 127),
        case("max_pool2d", x, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
    ]
    check(cases)


# Channels and pixels on both sides of every vector width, and of the blocks of 64 and 256.
CHANNELS = st.one_of(st.integers(1, 5), st.integers(14, 34), st.integers(60, 130))
PIXELS = st.one_of(st.integers(1, 40), st.integers(60, 70), st.integers(250, 330))


@st.composite
def wide_borders(draw: Draw) -> Case:
    """Draws borders of many channels and pixels."""
    pixels = draw(PIXELS)
    shape = (draw(st.integers(1, 2)), draw(CHANNELS), 1, pixels)
    random = generator(draw)
    kind = draw(st.sampled_from(["quantize", "dequantize", "dequantize_accumulator"]))
    if kind == "quantize":
        inverse = float(torch.tensor(draw(st.sampled_from([1.0, 3.3]))))
        x = torch.randn(shape, generator=random) * 40
        return case(kind, x, inverse, draw(ZERO_POINTS), *draw(RANGES))
    if kind == "dequantize":
        return case(kind, codes(draw, shape), draw(st.floats(1e-6, 10)), draw(ZERO_POINTS))
    shape = draw(st.sampled_from([shape, (shape[1], pixels), (1, pixels)]))
    axis = draw(st.integers(0, len(shape) - 1))
    scale = torch.rand(draw(st.sampled_from([1, shape[axis]])), generator=random)
    sums = torch.randint(-(2**31), 2**31, shape, generator=random).to(torch.int32)
    return case(kind, sums, Const(scale), axis)


@st.composite
def wide_elementwise(draw: Draw) -> Case:
    """Draws elementwise operators on vectors and their tails, also with full multipliers."""
    shape = (
        draw(st.integers(1, 2)),
        draw(CHANNELS),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 6)),
    )
    x = codes(draw, shape)
    kind = draw(st.sampled_from(["table", "clamp", "requantize", "wide", "add", "mul"]))
    if kind == "table":
        return case("table", x, lookup(draw))
    if kind == "clamp":
        return case("clamp", x, *draw(RANGES))
    if kind in ("requantize", "wide"):
        requant = multipliers(draw, draw(st.sampled_from([1, shape[1]])), 0.7)
        zero_point = draw(ZERO_POINTS)
        if kind == "wide":
            sums = torch.randint(-(2**31), 2**31, shape, generator=generator(draw))
            x, zero_point = (sums >> 20).to(torch.int32), draw(st.sampled_from([0, 0, 9]))
        return case("requantize", x, *requant, 1, zero_point, draw(ZERO_POINTS), *draw(RANGES))
    places = st.sampled_from(
        [shape, (1, shape[1], 1, 1), (*shape[:1], 1, *shape[2:]), (1, 1, 1, 1)]
    )
    other = codes(draw, draw(places))
    pair = (x, other) if draw(st.booleans()) else (other, x)
    if kind == "add":
        return case("add", *pair, *add_parameters(draw))
    m, s = multipliers(draw, 1, draw(st.sampled_from([2**-6, 2**-9, 2**-16])))
    scalars = (int(m.tensor), int(s.tensor), draw(ZERO_POINTS), *draw(RANGES))
    return case("mul", *pair, draw(ZERO_POINTS), draw(ZERO_POINTS), *scalars)


@st.composite
def wide_windows(draw: Draw) -> Case:
    """Draws pooling, mean and resize of many channels, large windows and wide images."""
    channels, limits = draw(CHANNELS), (draw(ZERO_POINTS), draw(ZERO_POINTS), *draw(RANGES))
    kind = draw(st.sampled_from(["max", "max", "avg", "adaptive", "mean", "last", "bilinear"]))
    if kind == "max":
        kernel = draw(st.sampled_from([[2, 2], [3, 3], [3, 2], [5, 5], [1, 17], [6, 3]]))
        dilation = [draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 9]))]
        padding = [draw(st.integers(0, 3)) for _ in range(4)]
        stride = [draw(st.integers(1, 3)), draw(st.integers(1, 7))]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        width = draw(st.sampled_from([reach[1], reach[1] + 5, 150]))
        x = codes(draw, (1, channels, max(1, reach[0] - padding[0]), width))
        return case("max_pool2d", x, kernel, stride, padding, dilation)
    if kind in ("avg", "adaptive"):
        kernel = draw(st.sampled_from([[2, 2], [7, 7], [17, 16]]))
        x = codes(draw, (1, channels, kernel[0] + 1, kernel[1]))
        counts = multipliers(draw, math.prod(x.shape[2:]), 1 / math.prod(kernel))
        if kind == "adaptive":
            return case("adaptive_avg_pool2d", x, *counts, [draw(st.integers(1, 2)), 1], *limits)
        padding = [0, 0, 1, 1]
        return case("avg_pool2d", x, *counts, kernel, [1, 1], padding, padding, *limits)
    if kind in ("mean", "last"):
        shape = (2, channels, *draw(st.sampled_from([(7, 7), (20, 15), (1, 3)])))
        requant = multipliers(draw, 1, 1 / math.prod(shape[2:]))
        keep = draw(st.booleans())
        if kind == "last":
            return case(
                "mean", codes(draw, (3, *shape[2:], channels)), *requant, [3], keep, *limits
            )
        return case("mean", codes(draw, shape), *requant, [2, 3], keep, *limits)
    units = [[4, 2, 4, 2], [6, 2, 6, 4], [64, 9, 32, 7], [512, 99, 512, 7], [4096, 99, 4096, 7]]
    scale = draw(st.sampled_from(units))
    requant = multipliers(draw, 1, 1 / (scale[0] * scale[2]))
    offset = [draw(st.integers(-9, 9)) for _ in range(2)]
    return case(
        "resize_bilinear",
        codes(draw, (1, channels, 3, 4)),
        *requant,
        [4, 9],
        scale,
        offset,
        *limits,
    )


@FEW
@given(st.lists(wide_borders(), min_size=30, max_size=30))
def test_wide_borders_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(wide_elementwise(), min_size=50, max_size=50))
def test_wide_elementwise_operators_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(wide_windows(), min_size=40, max_size=40))
def test_wide_pooling_and_resize_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


def test_all_pairs_of_codes_are_added_and_multiplied() -> None:
    every = torch.arange(-128, 128).to(torch.int8)
    a, b = every.repeat(256), every.repeat_interleave(256)
    sums = [[-128, 2**20 + 77, 127, -(2**20) - 5, 21, 3], [5, 12345, 0, 2**21 - 1, 20, -128]]
    scalings = [
        (2**30 + 128, 40),
        (2**31 - 128, 45),
        (2**30 + 1, 41),
        (2**30, 20),
        (2**30, 19),
        (2**30, 50),
    ]
    check(
        [
            *(case("add", a, b, *parameters, -128, 127) for parameters in sums),
            *(case("mul", a, b, -128, 127, *scaling, 9, -128, 127) for scaling in scalings),
        ]
    )


@pytest.mark.parametrize("elements", [256, 257, 258, 259, 600])
def test_sums_of_the_largest_codes(elements: int) -> None:
    x = torch.full((1, 70, 1, elements), 127, dtype=torch.int8)
    m, s = (Const(torch.tensor([v], dtype=torch.int32)) for v in (2**30, 40))
    counts = [Const(c.tensor.repeat(elements)) for c in (m, s)]
    check(
        [
            case("mean", x, m, s, [2, 3], False, -128, -100, -128, 127),
            case("mean", x.reshape(1, 1, elements, 70), m, s, [1, 3], False, -128, -100, -128, 127),
            case("adaptive_avg_pool2d", x, *counts, [1, 1], -128, -100, -128, 127),
        ]
    )


def test_add_with_multipliers_of_31_bits() -> None:
    a = torch.tensor([2, 3, 4, 3] * 20, dtype=torch.int8)
    check([case("add", a, a, 3, 2**30 - 1, 3, -(2**30), 2, 3, -128, 127)])
    check([case("add", a, a, 3, 2**30, 2, 2**10, 28, 3, -128, 127)])


def test_table_of_every_code() -> None:
    x = torch.arange(-128, 128).to(torch.int8).repeat(3)
    table = Const(torch.randint(-128, 128, (256,), dtype=torch.int8))
    check([case("table", x[:n], table) for n in (1, 31, 33, 63, 65, 256, 700)])
