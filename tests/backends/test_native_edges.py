"""Every operator on an empty batch, and on images and values of one element."""

from __future__ import annotations

import pytest
import torch

from qcompiler.backends.native.emitter import EMITTERS
from tests.backends.helpers import Case, Const, case, check

LIMITS = (3, -128, 127)
ADD = [3, 2**20, -4, 2**19, 20, 7, -128, 127]


def codes(*shape: int) -> torch.Tensor:
    """Returns random int8 values."""
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-127, 128, shape, dtype=torch.int8, generator=random)


def requant(count: int = 1, shift: int = 38) -> tuple[Const, Const]:
    """Returns equal multipliers of 2**30 and shifts."""
    return (
        Const(torch.full((count,), 2**30, dtype=torch.int32)),
        Const(torch.full((count,), shift, dtype=torch.int32)),
    )


def weights(*shape: int) -> list[Const]:
    """Returns weights and biases."""
    return [Const(codes(*shape)), Const(torch.arange(shape[0], dtype=torch.int32))]


def chain(x: torch.Tensor, channels: int) -> Case:
    """Returns a 1x1 convolution to 17 channels with a depthwise 3x3 one behind it."""
    first = [x, *weights(17, channels, 1, 1), *requant(17), 5, *LIMITS]
    second = [*weights(17, 1, 3, 3), *requant(17)]
    return case("pointwise_depthwise_requant", *first, *second, 0, [2, 2], [1] * 4, [1, 1], *LIMITS)


def calls(batch: int, channels: int, size: int) -> list[Case]:
    """Returns a call of every operator that has a kernel."""
    x = codes(batch, channels, size, size)
    rows, small = codes(batch, channels), [size, size]
    counts = requant(size * size, 33)
    sums = torch.arange(x.numel(), dtype=torch.int32).reshape(x.shape) - 5
    convolutions = []
    for groups, kernel in ((1, 1), (1, 3), (1, 5), (channels, 3), (channels, 5), (channels, 1)):
        parameters = weights(2 * channels, channels // groups, kernel, kernel)
        geometry = [5, [3, 3], [kernel // 2] * 4, [1, 1], groups]
        convolutions += [
            case("conv2d", x, *parameters, *geometry),
            case("conv2d_requant", x, *parameters, *requant(), *geometry, *LIMITS),
        ]
    matrices = [codes(batch, 3, channels), codes(batch, channels, 2), 5, -3]
    products = [
        case("linear", rows, *weights(9, channels), 5),
        case("linear_requant", rows, *weights(9, channels), *requant(), 5, *LIMITS),
        case("matmul", *matrices),
        case("matmul_requant", *matrices[:2], *requant(), *matrices[2:], *LIMITS),
        chain(x, channels),
    ]
    others = [
        case("quantize", x.float(), 0.5, *LIMITS),
        case("dequantize", x, 0.5, 3),
        case("dequantize_accumulator", sums, Const(torch.rand(channels)), 1),
        case("requantize", sums, *requant(channels, 33), 1, 0, *LIMITS),
        case("add", x, x.clone(), *ADD),
        case("mul", x, codes(channels, 1, 1), 3, -5, 2**30, 38, *LIMITS),
        case("table", x, Const(codes(256))),
        case("clamp", x, -5, 99),
        case("max_pool2d", x, small, [size + 1] * 2, [0] * 4, [1, 1]),
        case("avg_pool2d", x, *counts, small, [1, 1], [0] * 4, [0] * 4, 5, *LIMITS),
        case("adaptive_avg_pool2d", x, *counts, [1, 1], 5, *LIMITS),
        case("mean", x, *requant(1, 33), [2, 3], False, 5, *LIMITS),
        case("resize_nearest", x, [3, 2], [2, 1, 2, 1], [0, 0]),
        case("resize_bilinear", x, *requant(1, 33), [3, 2], [2, 1, 2, 1], [0, 0], 5, *LIMITS),
        case("reshape", x, [0, channels * size * size]),
        case("permute", x, [0, 2, 3, 1]),
        case("slice", x, 1, 0, 1, 1),
        case("expand", codes(batch, channels, 1, 1), [batch, channels, 3, 2]),
        case("concat", [x, x.clone()], 1),
        case("pad", x, [1, 0, 0, 2], -7),
    ]
    return [*convolutions, *products, *others]


@pytest.mark.parametrize(
    ("batch", "channels", "size"), [(0, 5, 4), (0, 64, 1), (1, 1, 1), (1, 67, 1), (3, 2, 1)]
)
def test_every_operator_equals_the_reference_at_its_smallest(
    batch: int, channels: int, size: int
) -> None:
    cases = calls(batch, channels, size)
    assert {one.op for one in cases} == set(EMITTERS)
    check(cases)
