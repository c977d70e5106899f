"""Border, elementwise, pooling and resize kernels equal the reference."""

from __future__ import annotations

import math

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


def test_quantize_of_special_numbers() -> None:
    special = [math.nan, math.inf, -math.inf, 0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, 127.5, -0.0]
    x = torch.tensor(special)
    check([case("quantize", x, 1.0, z, -128, 127) for z in (-128, -3, 0, 127)])


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
