"""Convolution, linear and matmul on every instruction set equal the reference."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.native.emitter import emit, plan_sequentially
from tests.backends.helpers import Case, Const, build_graph, case, check
from tests.backends.strategies import FEW, convolutions, linears, matmuls


@FEW
@given(st.lists(convolutions(), min_size=30, max_size=30))
def test_convolutions_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(convolutions(depthwise=True), min_size=25, max_size=25))
def test_depthwise_convolutions_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


def test_depthwise_rows_of_several_stretches_equal_the_reference() -> None:
    """Kernels without a function of their own, on images wider than what is laid out at a time."""
    random = torch.Generator().manual_seed(4)
    cases = []
    for kernel, stride, dilation, multiplier in [
        ((7, 7), [1, 1], [1, 1], 2**30 + 128),
        ((3, 3), [1, 1], [2, 2], 2**30 + 128),
        ((9, 2), [2, 3], [1, 1], 2**30 + 128),
        ((1, 31), [1, 1], [1, 3], 2**30 + 128),
        ((5, 5), [1, 1], [1, 1], 2**30 + 1),
        ((3, 3), [70, 70], [1, 1], 2**30 + 128),
    ]:
        x = torch.randint(-128, 128, (1, 70, 23, 150), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (70, 1, *kernel), dtype=torch.int8, generator=random)
        offsets = torch.randint(-999, 999, (70,), dtype=torch.int32, generator=random)
        requant = [Const(torch.tensor([value], dtype=torch.int32)) for value in (multiplier, 41)]
        geometry = [-9, stride, [2, 2, 3, 3], dilation, 70, 5, -128, 127]
        cases.append(case("conv2d_requant", x, Const(weight), Const(offsets), *requant, *geometry))
    check(cases)


@FEW
@given(st.lists(st.one_of(linears(), matmuls()), min_size=30, max_size=30))
def test_linear_and_matmul_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(linears(one_row=True), min_size=30, max_size=30))
def test_one_row_equals_the_reference(cases: list[Case]) -> None:
    graph, _ = build_graph(cases)
    ops = emit(graph, plan_sequentially(graph)).ops
    assert all("qc_gemv_u8_s8c_" in op.kernel for op in ops)
    check(cases)


def test_images_of_one_pixel_equal_the_reference() -> None:
    """One row that a convolution finds at run time, or one row per group."""
    random = torch.Generator().manual_seed(11)
    cases = []
    for depth, columns, groups in ((4, 6, 1), (23, 65, 1), (64, 64, 1), (515, 130, 1), (8, 6, 2)):
        x = torch.randint(-128, 128, (1, depth, 1, 1), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (columns, depth // groups, 1, 1), generator=random)
        sums = [Const(weight.to(torch.int8)), Const(torch.arange(columns, dtype=torch.int32))]
        requant = [Const(torch.tensor([v], dtype=torch.int32)) for v in (2**30 + 128, 42)]
        geometry = [7, [1, 1], [0] * 4, [1, 1], groups]
        cases.append(case("conv2d", x, *sums, *geometry))
        cases.append(case("conv2d_requant", x, *sums, *requant, *geometry, -3, -90, 100))
    check(cases)


def test_heads_of_attention_equal_the_reference() -> None:
    """Many matrices or one that is cut, stored by rows or with heads innermost."""
    random = torch.Generator().manual_seed(3)
    one = [Const(torch.tensor([value], dtype=torch.int32)) for value in (2**30 + 128, 45)]
    shapes = [
        ((12, 128, 64), (12, 64, 128)),
        ((1, 12, 128, 37), (1, 12, 37, 70)),
        ((200, 99), (99, 61)),
    ]
    shapes += [((1, 330), (330, 200)), ((2, 3, 65, 17), (17, 90)), ((3, 40, 8), (2, 3, 8, 33))]
    shapes += [((0, 5, 4), (4, 6)), ((2, 0, 4), (2, 4, 6)), ((2, 5, 0), (0, 6))]
    cases = []
    for left, right in shapes:
        a, b = (
            torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
            for shape in (left, right)
        )
        for zero_point in (0, -77):
            cases.append(case("matmul_requant", a, b, *one, 4, zero_point, -9, -128, 127))
            cases.append(case("matmul", a, b, -128, zero_point))
    check(cases)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_every_channel_count_up_to_forty(batch: int) -> None:
    random = torch.Generator().manual_seed(batch)
    cases = []
    for channels in range(1, 41):
        x = torch.randint(-128, 128, (batch, channels, 3, 2), dtype=torch.int8, generator=random)
        out = 41 - channels
        weight = torch.randint(-127, 128, (out, channels, 1, 1), generator=random)
        arguments = [
            x,
            Const(weight.to(torch.int8)),
            Const(torch.zeros(out, dtype=torch.int32)),
            Const(torch.tensor([2**30], dtype=torch.int32)),
            Const(torch.tensor([39], dtype=torch.int32)),
        ]
        geometry = [5, [1, 1], [0, 0, 0, 0], [1, 1], 1]
        cases.append(case("conv2d_requant", *arguments, *geometry, -7, -128, 127))
    check(cases)


@pytest.mark.parametrize("extra", ["none", "residual", "table", "exact", "sums"])
def test_panels_that_are_half_used(extra: str) -> None:
    """Widths around the half of a panel in tiles of every height, with few and with many taps."""
    random = torch.Generator().manual_seed(5)
    cases = []
    for columns in (7, 8, 9, 24, 25, 40, 56, 57, 72):
        for kernel, height, width in ((1, 1, 6), (1, 3, 7), (1, 5, 3), (9, 9, 11)):
            x = torch.randint(-128, 128, (1, 6, height, width), dtype=torch.int8, generator=random)
            weight = torch.randint(-127, 128, (columns, 6, kernel, kernel), generator=random)
            bias = torch.randint(-999, 999, (columns,), generator=random)
            head = [x, Const(weight.to(torch.int8)), Const(bias.to(torch.int32))]
            geometry = [-9, [1, 1], [0] * 4, [1, 1], 1]
            if extra == "sums":
                cases.append(case("conv2d", *head, *geometry))
                continue
            mantissa = 2**30 + (77 if extra == "exact" else 128)
            requant = [Const(torch.tensor([v], dtype=torch.int32)) for v in (mantissa, 41)]
            extras: dict[str, Any] = {}
            if extra == "table":
                extras["table"] = Const(torch.arange(127, -129, -1, dtype=torch.int8))
            if extra == "residual":
                shape = (1, columns, height - kernel + 1, width - kernel + 1)
                other = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
                extras = {"residual": other, "add": [3, 2**19, -5, 2**18, 20, 7, -100, 101]}
            cases.append(case("conv2d_requant", *head, *requant, *geometry, 3, -128, 127, **extras))
    check(cases)


@pytest.mark.parametrize("shift", [None, 16, 21, 22, 29])
def test_pointwise_products_of_every_height_and_width(shift: int | None) -> None:
    """Rows that fill no tile or strip, with a residual of the given shift or none."""
    random = torch.Generator().manual_seed(11)
    cases = []
    for pixels, depth, out in itertools.product(
        (1, 2, 3, 5, 11, 13, 25, 37, 61), (3, 20), (16, 20, 24, 32, 40, 48, 53, 56, 64)
    ):
        x = torch.randint(-128, 128, (1, depth, 1, pixels), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (out, depth, 1, 1), generator=random)
        constants = [
            Const(weight.to(torch.int8)),
            Const(torch.randint(-999, 999, (out,), generator=random).to(torch.int32)),
            Const(torch.full((out,), 2**30 + 128, dtype=torch.int32)),
            Const(torch.full((out,), 39, dtype=torch.int32)),
        ]
        geometry = [-9, [1, 1], [0] * 4, [1, 1], 1]
        extras: dict[str, Any] = {}
        if shift is not None:
            other = torch.randint(
                -128, 128, (1, out, 1, pixels), dtype=torch.int8, generator=random
            )
            largest = 2**21 if shift <= 21 else 2**20
            add = [3, largest - 77, -128, -largest + 1, shift, 127, -100, 101]
            extras = {"residual": other, "add": add}
        cases.append(case("conv2d_requant", x, *constants, *geometry, 3, -90, 127, **extras))
    check(cases)


@pytest.mark.parametrize("residual", [False, True])
def test_pointwise_products_of_groups(residual: bool) -> None:
    """Groups of one panel, whose rows do not follow one another, and of one or two and a half."""
    random = torch.Generator().manual_seed(13)
    cases = []
    for pixels, out in itertools.product((11, 12, 25, 37, 61), (16, 24, 40)):
        x = torch.randint(-128, 128, (1, 128, 1, pixels), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (2 * out, 64, 1, 1), generator=random)
        constants = [
            Const(weight.to(torch.int8)),
            Const(torch.randint(-999, 999, (2 * out,), generator=random).to(torch.int32)),
            Const(torch.full((2 * out,), 2**30 + 128, dtype=torch.int32)),
            Const(torch.full((2 * out,), 40, dtype=torch.int32)),
        ]
        geometry = [-9, [1, 1], [0] * 4, [1, 1], 2]
        extras: dict[str, Any] = {}
        if residual:
            shape = (1, 2 * out, 1, pixels)
            other = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
            extras = {"residual": other, "add": [3, 2**19, -5, 2**18, 20, 7, -100, 101]}
        cases.append(case("conv2d_requant", x, *constants, *geometry, 3, -90, 127, **extras))
    check(cases)


@pytest.mark.parametrize("residual", [False, True])
def test_small_products_of_several_kernel_rows(residual: bool) -> None:
    """Kernels whose weights fit a strip, over rows that fill no tile, with padding around them."""
    random = torch.Generator().manual_seed(17)
    cases = []
    kernels = ((3, 8, 1), (5, 4, 1), (7, 3, 2), (3, 3, 2))
    for (kernel, channels, stride), width, out in itertools.product(
        kernels, (5, 12), (16, 28, 32, 60, 64)
    ):
        x = torch.randint(-128, 128, (2, channels, 9, width), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (out, channels, kernel, kernel), generator=random)
        constants = [
            Const(weight.to(torch.int8)),
            Const(torch.randint(-999, 999, (out,), generator=random).to(torch.int32)),
            Const(torch.full((out,), 2**30 + 128, dtype=torch.int32)),
            Const(torch.full((out,), 41, dtype=torch.int32)),
        ]
        geometry = [77, [stride, stride], [kernel // 2] * 4, [1, 1], 1]
        extras: dict[str, Any] = {}
        if residual:
            shape = (2, out, (9 + stride - 1) // stride, (width + stride - 1) // stride)
            other = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
            extras = {"residual": other, "add": [3, 2**19, -5, 2**18, 20, 7, -100, 101]}
        cases.append(case("conv2d_requant", x, *constants, *geometry, 3, -128, 120, **extras))
    check(cases)


@pytest.mark.parametrize("padding", [[1, 1, 1, 1], [3, 3, 3, 3], [0, 2, 1, 0], [4, 5, 0, 0]])
def test_kernel_rows_that_lie_in_the_padding(padding: list[int]) -> None:
    """Images lower than the kernel, rows that touch nothing but padding, strides and dilations."""
    random = torch.Generator().manual_seed(sum(padding))
    cases = []
    kernels = ((3, 1, 1), (3, 2, 1), (5, 1, 1), (3, 1, 2), (7, 2, 1))
    for height, (kernel, stride, apart) in itertools.product((1, 2, 5, 9), kernels):
        if height + padding[0] + padding[1] <= (kernel - 1) * apart:
            continue
        x = torch.randint(-128, 128, (2, 8, height, 12), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (72, 8, kernel, kernel), generator=random)
        constants = [
            Const(weight.to(torch.int8)),
            Const(torch.randint(-999, 999, (72,), generator=random).to(torch.int32)),
            Const(torch.full((72,), 2**30 + 128, dtype=torch.int32)),
            Const(torch.full((72,), 42, dtype=torch.int32)),
        ]
        geometry = [77, [stride, 1], padding, [apart, 1], 1]
        cases.append(case("conv2d_requant", x, *constants, *geometry, 3, -128, 127))
    check(cases)


def test_parts_of_large_layers_meet_without_a_gap() -> None:
    """Layers above the parallel threshold, cut by rows and by panels."""
    random = torch.Generator().manual_seed(7)
    cases = []
    for channels, out, size in ((64, 96, 14), (96, 200, 7), (160, 33, 9)):
        x = torch.randint(-128, 128, (1, channels, size, size), dtype=torch.int8, generator=random)
        weight = torch.randint(-127, 128, (out, channels, 3, 3), generator=random)
        constants = [
            Const(weight.to(torch.int8)),
            Const(torch.randint(-999, 999, (out,), generator=random).to(torch.int32)),
            Const(torch.full((out,), 2**30 + 128, dtype=torch.int32)),
            Const(torch.full((out,), 43, dtype=torch.int32)),
        ]
        geometry = [-9, [1, 1], [1, 1, 1, 1], [1, 1], 1]
        cases.append(case("conv2d_requant", x, *constants, *geometry, 3, -128, 127))
    check(cases)


@pytest.mark.parametrize("largest", [64, 66, 80, 127])
def test_depths_of_several_parts_at_weights_that_may_saturate_pairs(largest: int) -> None:
    """Extreme bytes on weights at and around the limit of a pair, for every number of rows."""
    random = torch.Generator().manual_seed(largest)
    cases = []
    for rows, depth in ((1, 500), (2, 512), (3, 516), (5, 1030), (7, 257), (13, 1500), (25, 40)):
        extremes = torch.randint(0, 2, (rows, depth), generator=random)
        x = torch.where(extremes == 1, 127, -128).to(torch.int8)
        out = 3 * rows + 10
        signs = torch.randint(0, 2, (out, 1), generator=random) * 2 - 1
        weight = torch.randint(largest - 4, largest + 1, (out, depth), generator=random) * signs
        sums = [Const(weight.to(torch.int8)), Const(torch.arange(out, dtype=torch.int32))]
        cases.append(case("linear", x, *sums, 3))
    check(cases)


def test_accumulators_above_24_bits_and_ties_round_exactly() -> None:
    """Extreme sums and multipliers 2**-k: the precondition of the fp32 path decides."""
    depth, out = 3000, 20
    x = torch.full((4, depth), 127, dtype=torch.int8)
    x[1] = -128
    x[2, ::2] = -128
    weight = torch.full((out, depth), 127, dtype=torch.int8)
    weight[1::2] = -127
    cases = []
    for shift in (31, 32, 33, 44, 45, 46, 50, 55, 62):
        arguments = [
            Const(weight),
            Const(torch.arange(out, dtype=torch.int32)),
            Const(torch.full((out,), 2**30, dtype=torch.int32)),
            Const(torch.full((out,), shift, dtype=torch.int32)),
        ]
        cases.append(case("linear_requant", x, *arguments, -128, 0, -128, 127))
        cases.append(case("linear_requant", x, *arguments, 127, 0, -128, 127))
    check(cases)
